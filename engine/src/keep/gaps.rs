//! Finds what is missing from a dataset and in no record. Such a gap stops every deletion: what is
//! not seen is not garbage.
//!
//! Witnesses are the numbers of acts, the predecessors that manifests name, and what this host
//! remembers of earlier looks. So a gap is noticed even where one witness is gone with the rest.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::Error;
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::manifest::{Manifest, ManifestHead};
use lifeboat_format::record::PruneRecord;

use crate::catalog::inventory::{Inventory, all_snapshots};
use crate::catalog::order::Acts;
use crate::catalog::removals::PrunedSnapshots;

/// So many gaps are named in an error. `lifeboat verify` names all.
const MAX_NAMED: usize = 5;

/// Which snapshots each replica has shown.
pub(crate) type Shown = BTreeMap<Name, BTreeSet<SnapshotId>>;

/// What is known of a dataset.
pub(crate) struct Known<'a> {
    /// Every replica that could be listed.
    pub(crate) inventories: &'a [Inventory],
    pub(crate) acts: &'a Acts,
    pub(crate) manifests: &'a BTreeMap<SnapshotId, Manifest>,
    /// Manifests that have no signature, and that no act names.
    pub(crate) unfinished: &'a BTreeMap<SnapshotId, ManifestHead>,
    pub(crate) pruned: &'a PrunedSnapshots,
    pub(crate) records: Vec<&'a PruneRecord>,
    /// The newest number that this host has seen.
    pub(crate) seen: u64,
    /// What this host has seen in each replica.
    pub(crate) shown: &'a Shown,
}

impl Known<'_> {
    /// What is missing, or contradicts itself.
    pub(crate) fn gaps(&self) -> Vec<String> {
        let everywhere = all_snapshots(self.inventories);
        let mut gaps = self.lost_numbers();
        let newest = self.acts.newest();
        if newest < self.seen {
            let seen = self.seen;
            gaps.push(format!("replicas show acts up to number {newest}, and this host has seen number {seen}"));
        }
        let is_known = |snapshot: &SnapshotId| everywhere.contains(snapshot) || self.pruned.contains_key(snapshot);
        for (number, found) in &self.acts.found {
            let snapshot = &found.act.id;
            if found.act.act == ActKind::Commit && !self.has_passed(*number) && !is_known(snapshot) {
                gaps.push(format!("snapshot {snapshot} is in no replica, and act {number} committed it"));
            }
        }
        for manifest in self.manifests.values() {
            if let Some(before) = manifest.predecessor().filter(|before| !is_known(before)) {
                gaps.push(format!("snapshot {before} is in no replica, and {} follows it", manifest.snapshot));
            }
        }
        for (snapshot, head) in self.unfinished {
            let before = head.previous.as_ref().map(|previous| &previous.snapshot);
            if let Some(before) = before.filter(|before| !is_known(before)) {
                gaps.push(format!("snapshot {before} is in no replica with its signature, and {snapshot} follows it"));
            }
        }
        for inventory in self.inventories {
            let replica = inventory.replica.name();
            let before = self.shown.get(replica).into_iter().flatten();
            for snapshot in before
                .filter(|snapshot| !inventory.snapshots.contains(*snapshot) && !self.pruned.contains_key(*snapshot))
            {
                gaps.push(format!("replica {replica} has lost snapshot {snapshot}, which it has shown"));
            }
        }
        gaps.extend(self.branches());
        gaps
    }

    /// Whether a run that was killed has left this manifest: the chain has gone on past it. Until
    /// then, nobody can tell it from a snapshot whose signature was lost.
    pub(crate) fn is_leftover(&self, snapshot: &SnapshotId, head: &ManifestHead) -> bool {
        let named = |before: Option<&SnapshotId>| before == Some(snapshot);
        let heads = self.unfinished.values().map(|head| head.previous.as_ref().map(|previous| &previous.snapshot));
        !self.manifests.values().map(Manifest::predecessor).chain(heads).any(named)
            && self.manifests.values().any(|manifest| manifest.sequence >= head.sequence)
    }

    /// Whether the act of this number is gone on purpose.
    fn has_passed(&self, number: u64) -> bool {
        self.records.iter().any(|record| record.has_passed(number))
    }

    /// Numbers of acts that are neither there nor gone on purpose.
    fn lost_numbers(&self) -> Vec<String> {
        let there = self.acts.found.keys().map(|number| [*number, *number]);
        let mut known: Vec<[u64; 2]> =
            there.chain(self.records.iter().flat_map(|record| record.passed.iter().copied())).collect();
        known.sort_unstable();
        let (mut next, mut lost) = (1, Vec::new());
        for [first, last] in known {
            if first > next {
                let numbers = if first - next == 1 { format!("{next}") } else { format!("{next} to {}", first - 1) };
                lost.push(format!("act {numbers} is missing, and in no prune record"));
            }
            next = next.max(last.saturating_add(1));
        }
        lost
    }

    /// Snapshots with the same number in the chain: two hosts did not see each other.
    fn branches(&self) -> Vec<String> {
        let settled: BTreeSet<&SnapshotId> = self.records.iter().flat_map(|record| &record.branches).collect();
        let mut places: BTreeMap<u64, Vec<&SnapshotId>> = BTreeMap::new();
        for manifest in self.manifests.values().filter(|manifest| manifest.sequence > 0) {
            places.entry(manifest.sequence).or_default().push(&manifest.snapshot);
        }
        let unsettled = |snapshots: &&Vec<&SnapshotId>| {
            snapshots.iter().filter(|snapshot| !settled.contains(**snapshot)).count() > 1
        };
        let forked = places.values().filter(unsettled);
        forked
            .map(|snapshots| {
                let names: Vec<String> = snapshots.iter().map(ToString::to_string).collect();
                format!("snapshots {} are two branches", names.join(" and "))
            })
            .collect()
    }
}

/// The error of a dataset with gaps.
pub(crate) fn refusal(dataset: &Name, gaps: &[String]) -> Error {
    let more = gaps.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let named = gaps.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join("; ");
    Error::integrity(format!("something of dataset {dataset} is missing: {named}{more}"))
        .hint(format!("run `lifeboat repair {dataset}`: it puts back what is known, and names what is lost"))
}
