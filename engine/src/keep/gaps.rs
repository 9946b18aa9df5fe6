//! Finds what is missing from a dataset and in no record. Such a gap stops every deletion: what is
//! not seen is not garbage.
//!
//! Witnesses are the numbers of acts, the predecessors that manifests name, objects from before the
//! first snapshot (`beginning.rs`), and what this host remembers of earlier looks. So a gap is
//! noticed even where one witness is gone with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lifeboat_base::Error;
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::ManifestHead;
use lifeboat_format::record::PruneRecord;

use crate::catalog::documents::Documents;
use crate::catalog::first_sights::FirstSights;
use crate::catalog::inventory::{Inventory, all_snapshots};
use crate::catalog::order::Acts;
use crate::catalog::outlines::{Outline, OutlineMap};
use crate::catalog::removals::PrunedSnapshots;
use crate::catalog::unbelieved::MAX_UNBELIEVED;
use crate::catalog::verdict::is_verdict;

/// So many gaps are named in an error. `lifeboat repair` names all.
const MAX_NAMED: usize = 5;

/// Which snapshots each replica has shown, each with the number of the act that committed it, if it
/// had one then.
pub(crate) type ShownSnapshots = BTreeMap<Name, BTreeMap<SnapshotId, Option<u64>>>;

/// Snapshots with the numbers of their acts.
pub(crate) fn with_numbers<'s>(
    snapshots: impl IntoIterator<Item = &'s SnapshotId>,
    acts: &Acts,
) -> BTreeMap<SnapshotId, Option<u64>> {
    let commits = acts.found.iter().filter(|(_, found)| found.act.act == ActKind::Commit);
    let numbers: BTreeMap<&SnapshotId, u64> = commits.map(|(number, found)| (&found.act.id, *number)).collect();
    snapshots.into_iter().map(|snapshot| (snapshot.clone(), numbers.get(snapshot).copied())).collect()
}

/// Something that is missing, or contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Acts that are neither there nor gone on purpose: the first and the last of their numbers.
    Numbers(u64, u64),
    /// Replicas show acts of these numbers, and nobody can tell what they are.
    Unread(u64, u64),
    /// Replicas show acts up to the first number, and this host has seen the second.
    OldOrder(u64, u64),
    /// A snapshot that no replica shows, and who knows of it.
    Snapshot(SnapshotId, String),
    /// A replica has shown a snapshot, and does not any more.
    LostBy(Name, SnapshotId),
    /// All that tells of an object is gone: that of this key.
    Beginning(String),
    /// Snapshots with the same place in the chain.
    Branches(Vec<SnapshotId>),
}

impl Gap {
    /// The key of an object that is missing or contradicts others.
    pub(crate) fn object(&self, dataset: &Name) -> String {
        match self {
            Self::Numbers(first, _) | Self::Unread(first, _) => layout::act(dataset, *first),
            Self::OldOrder(_, seen) => layout::act(dataset, *seen),
            Self::Snapshot(snapshot, _) | Self::LostBy(_, snapshot) => layout::manifest(dataset, snapshot),
            Self::Beginning(object) => object.clone(),
            Self::Branches(snapshots) => {
                snapshots.first().map_or(layout::dataset(dataset), |snapshot| layout::manifest(dataset, snapshot))
            }
        }
    }

    /// Whether it may well be there, and cannot be looked at.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(self, Self::Unread(..))
    }

    /// Whether nothing is missing, and only two branches are to be settled.
    pub(crate) fn is_branch(&self) -> bool {
        matches!(self, Self::Branches(_))
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(first, last) if first == last => {
                write!(f, "act {first} is missing or damaged, and in no prune record")
            }
            Self::Numbers(first, last) => {
                write!(f, "acts {first} to {last} are missing or damaged, and in no prune record")
            }
            Self::Unread(first, last) if first == last => write!(f, "act {first} is there and cannot be read"),
            Self::Unread(first, last) => write!(f, "acts {first} to {last} are there and cannot be read"),
            Self::OldOrder(newest, seen) => {
                write!(f, "replicas show acts up to number {newest}, and this host has seen number {seen}")
            }
            Self::Snapshot(snapshot, why) => {
                write!(f, "snapshot {snapshot} is missing: no replica that answers has it, and {why}")
            }
            Self::LostBy(replica, snapshot) => {
                write!(f, "replica {replica} has lost snapshot {snapshot}, which it has shown")
            }
            Self::Beginning(object) => {
                write!(f, "{object} is there, and no manifest, act or prune record from its time is")
            }
            Self::Branches(snapshots) => {
                let names: Vec<&str> = snapshots.iter().map(SnapshotId::as_str).collect();
                write!(f, "snapshots {} are two branches", names.join(" and "))
            }
        }
    }
}

/// What is known of a dataset.
pub(crate) struct Witnesses<'a> {
    /// Every replica that could be listed.
    pub(crate) inventories: &'a [Inventory],
    pub(crate) acts: &'a Acts,
    pub(crate) outlines: &'a OutlineMap,
    /// Manifests that have no signature, and that no act names.
    pub(crate) unfinished: &'a BTreeMap<SnapshotId, ManifestHead>,
    pub(crate) pruned: &'a PrunedSnapshots,
    pub(crate) records: Vec<&'a PruneRecord>,
    /// The newest number that this host has seen.
    pub(crate) seen: u64,
    /// What this host has seen in each replica.
    pub(crate) shown: &'a ShownSnapshots,
    /// Replicas that hold no vault at all.
    pub(crate) emptied: &'a [Name],
    /// An object from before the beginning of all that is known.
    pub(crate) before: Option<String>,
    /// What this warden saw first; `None` on other machines.
    pub(crate) first: Option<&'a FirstSights>,
}

impl Witnesses<'_> {
    /// What is missing, or contradicts itself. Each snapshot is told once.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        let everywhere = all_snapshots(self.inventories);
        let unread = self.unread_numbers();
        let mut gaps = self.lost_numbers(&unread);
        let newest = unread.last().copied().unwrap_or_default().max(self.acts.newest());
        if newest < self.seen {
            gaps.push(Gap::OldOrder(newest, self.seen));
        }
        let is_known = |snapshot: &SnapshotId| everywhere.contains(snapshot) || self.pruned.contains_key(snapshot);
        let mut lost: BTreeMap<&SnapshotId, String> = BTreeMap::new();
        for outline in self.outlines.values() {
            if let Some(before) = outline.predecessor().filter(|before| !is_known(before)) {
                lost.entry(before).or_insert_with(|| format!("{} follows it", outline.snapshot));
            }
        }
        for (snapshot, head) in self.unfinished.iter().filter(|(snapshot, head)| !self.is_passed_by(snapshot, head)) {
            let before = head.previous.as_ref().map(|previous| &previous.snapshot);
            if let Some(before) = before.filter(|before| !is_known(before)) {
                lost.entry(before).or_insert_with(|| format!("{snapshot}, which has no signature, follows it"));
            }
        }
        for (number, found) in &self.acts.found {
            let snapshot = &found.act.id;
            if found.act.act == ActKind::Commit && !self.has_passed(*number) && !is_known(snapshot) {
                lost.entry(snapshot).or_insert_with(|| format!("act {number} committed it"));
            }
        }
        for snapshot in self.first.iter().flat_map(|first| first.snapshots()).filter(|snapshot| !is_known(snapshot)) {
            lost.entry(snapshot).or_insert_with(|| "this warden has seen it, and removed it in no record".to_owned());
        }
        gaps.extend(lost.into_iter().map(|(snapshot, why)| Gap::Snapshot(snapshot.clone(), why)));
        let listed = self.inventories.iter().map(|inventory| (inventory.replica.name(), Some(&inventory.snapshots)));
        for (replica, shows) in listed.chain(self.emptied.iter().map(|name| (name, None))) {
            let before = self.shown.get(replica).into_iter().flatten();
            // Later records do not repeat every snapshot that went, but all numbers.
            let was_swept = |snapshot: &SnapshotId, number: &Option<u64>| {
                let has_passed = number.is_some_and(|number| self.has_passed(number));
                self.pruned.contains_key(snapshot) || (has_passed && !everywhere.contains(snapshot))
            };
            let is_lost = |(snapshot, number): &(&SnapshotId, &Option<u64>)| {
                !shows.is_some_and(|shows| shows.contains(*snapshot)) && !was_swept(snapshot, number)
            };
            gaps.extend(before.filter(is_lost).map(|(snapshot, _)| Gap::LostBy(replica.clone(), snapshot.clone())));
        }
        gaps.extend(self.before.clone().map(Gap::Beginning));
        gaps.extend(self.branches());
        gaps
    }

    /// Whether a run that was killed has left this manifest: the chain has gone on past it, and it
    /// was written when there were acts, as the one before it has one. What is older than all acts
    /// may have been committed without one, and have lost its signature.
    pub(crate) fn is_leftover(&self, snapshot: &SnapshotId, head: &ManifestHead) -> bool {
        let before = head.previous.as_ref().map(|previous| &previous.snapshot);
        let mut commits = self.acts.found.values().filter(|found| found.act.act == ActKind::Commit);
        self.is_passed_by(snapshot, head) && before.is_some_and(|before| commits.any(|found| found.act.id == *before))
    }

    /// Whether the chain has gone on past this manifest, which has no signature. Until then, nobody
    /// can tell it from a snapshot whose signature was lost.
    fn is_passed_by(&self, snapshot: &SnapshotId, head: &ManifestHead) -> bool {
        let named = |before: Option<&SnapshotId>| before == Some(snapshot);
        let heads = self.unfinished.values().map(|head| head.previous.as_ref().map(|previous| &previous.snapshot));
        let outlines = || self.outlines.values().map(AsRef::as_ref);
        !outlines().map(Outline::predecessor).chain(heads).any(named)
            && outlines().any(|outline| outline.sequence >= head.sequence)
    }

    /// Whether the act of this number is gone on purpose.
    fn has_passed(&self, number: u64) -> bool {
        self.records.iter().any(|record| record.has_passed(number))
    }

    /// Numbers of acts that replicas show, and of which nobody can tell what they are: a replica
    /// fails, or shows so many false ones that it is left aside. Above all that is known, anybody
    /// can name such a number, so there only failures count.
    fn unread_numbers(&self) -> BTreeSet<u64> {
        let failed = self.acts.unreadable.iter().filter(|(_, error)| !is_verdict(error)).map(|(number, _)| number);
        let known = self.newest_known();
        let hidden = self.acts.not_looked_at.iter().filter(|number| **number <= known);
        failed.chain(hidden).copied().filter(|number| !self.has_passed(*number)).collect()
    }

    /// The newest number that is known from acts, from records, or from earlier.
    fn newest_known(&self) -> u64 {
        let passed = self.records.iter().flat_map(|record| &record.passed).map(|[_, last]| *last);
        passed.chain([self.acts.newest(), self.seen]).max().unwrap_or_default()
    }

    /// Numbers of acts that are neither there nor gone on purpose, and those of `unread`.
    fn lost_numbers(&self, unread: &BTreeSet<u64>) -> Vec<Gap> {
        let newest = self.newest_known();
        let unread_below = unread.iter().filter(|number| **number <= newest);
        let there = self.acts.found.keys().chain(unread_below).map(|number| [*number, *number]);
        let mut known: Vec<[u64; 2]> =
            there.chain(self.records.iter().flat_map(|record| record.passed.iter().copied())).collect();
        known.sort_unstable();
        let (mut next, mut lost) = (1, Vec::new());
        for [first, last] in known {
            if first > next {
                lost.push(Gap::Numbers(next, first - 1));
            }
            next = next.max(last.saturating_add(1));
        }
        for number in unread {
            match lost.last_mut() {
                Some(Gap::Unread(_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
                _ => lost.push(Gap::Unread(*number, *number)),
            }
        }
        lost
    }

    /// Snapshots with the same number in the chain: two hosts did not see each other.
    fn branches(&self) -> Vec<Gap> {
        let settled = settled(self.records.iter().copied());
        let mut places: BTreeMap<u64, Vec<&SnapshotId>> = BTreeMap::new();
        for outline in self.outlines.values().filter(|outline| outline.sequence > 0) {
            places.entry(outline.sequence).or_default().push(&outline.snapshot);
        }
        let unsettled = |snapshots: &Vec<&SnapshotId>| {
            snapshots.iter().filter(|snapshot| !settled.contains(**snapshot)).count() > 1
        };
        let forked = places.into_values().filter(unsettled);
        forked.map(|snapshots| Gap::Branches(snapshots.into_iter().cloned().collect())).collect()
    }
}

/// The snapshots of which the operator knows that they stand beside others.
pub(crate) fn settled<'r>(records: impl Iterator<Item = &'r PruneRecord>) -> BTreeSet<&'r SnapshotId> {
    records.flat_map(|record| &record.branches).collect()
}

/// A manifest without a signature that cannot be read, or is not looked at.
pub(crate) struct UnreadableHead<'i> {
    pub(crate) inventory: &'i Inventory,
    pub(crate) snapshot: &'i SnapshotId,
    pub(crate) error: Error,
}

/// The heads of manifests that have no signature and that no act names, of which the newest are
/// looked at; and those that cannot be read, each where it lies.
pub(crate) async fn unfinished<'i>(
    documents: &Documents<'_>,
    inventories: &'i [Inventory],
    acts: &Acts,
    (pruned, first): (&PrunedSnapshots, Option<&FirstSights>),
) -> (BTreeMap<SnapshotId, ManifestHead>, Vec<UnreadableHead<'i>>) {
    let (mut heads, mut unreadable, everywhere) = (BTreeMap::new(), Vec::new(), all_snapshots(inventories));
    for inventory in inventories {
        let unsigned = inventory.unsigned.iter().filter(|snapshot| {
            !acts.names(&layout::manifest(documents.dataset, snapshot))
                && !pruned.contains_key(*snapshot)
                && !everywhere.contains(*snapshot)
        });
        for (looked_at, snapshot) in unsigned.rev().enumerate() {
            if looked_at == MAX_UNBELIEVED {
                let more = format!("more than {MAX_UNBELIEVED} manifests without a signature hide the others");
                unreadable.push(UnreadableHead { inventory, snapshot, error: Error::integrity(more) });
                break;
            }
            match documents.uncommitted_head(&inventory.replica, snapshot, first).await {
                Ok(head) => drop(heads.insert(snapshot.clone(), head)),
                Err(error) => unreadable.push(UnreadableHead { inventory, snapshot, error }),
            }
        }
    }
    (heads, unreadable)
}

/// The error of a dataset with gaps, while these replicas are `away`.
pub(crate) fn refusal(dataset: &Name, gaps: &[Gap], away: &[&Name]) -> Error {
    let more = gaps.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let named = gaps.iter().take(MAX_NAMED).map(Gap::to_string).collect::<Vec<_>>().join("; ");
    if gaps.iter().all(Gap::is_branch) {
        return Error::integrity(format!(
            "dataset {dataset} has branches, because two hosts did not see each other: {named}{more}"
        ))
        .hint(format!("both can be restored: run `lifeboat repair {dataset} --accept-branches` to keep both"));
    }
    if gaps.iter().all(Gap::is_unread) {
        let folder = layout::order(dataset);
        return Error::integrity(format!("something of dataset {dataset} cannot be read: {named}{more}"))
            .hint(format!("remove what is below {folder} and is not yours, then prune again"));
    }
    if !away.is_empty() {
        // They may well have it, and catch-up will copy it.
        let names = away.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        return Error::storage(format!(
            "something of dataset {dataset} is missing while {names} cannot be used: {named}{more}"
        ))
        .hint("prune again when every replica answers; take one that is gone for ever out of the configuration");
    }
    let error = Error::integrity(format!("something of dataset {dataset} is missing: {named}{more}"));
    if gaps.iter().all(|gap| matches!(gap, Gap::Beginning(_))) {
        return error.hint(format!(
            "bring back what was deleted, such as by `lifeboat undelete` where a bucket keeps versions; if nothing was, and only first backups were killed, run `lifeboat repair {dataset} --accept-loss`"
        ));
    }
    error.hint(format!("run `lifeboat repair {dataset}`: it puts back what is known, and names what is lost"))
}
