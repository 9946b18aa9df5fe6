//! What signed prune records say: which snapshots were removed on purpose, and what was settled.
//!
//! No record removes what a floor of the root still keeps, whoever signed it: a snapshot that a
//! replica shows and that is younger stays, and comes back where it is missing. Where the root
//! names a warden, nor does a record of anybody else remove what a replica shows. Where it once
//! named one, nor does a record that is older than the root: somebody may have left it behind while
//! nobody believed it. For the warden itself, it counts for nothing at all if it was written after
//! the first look (`first_sights.rs`).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use lifeboat_base::Error;
use lifeboat_format::id::{Digest, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::PruneRecord;

use super::documents::Documents;
use super::first_sights::FirstSights;
use super::inventory::Inventory;
use super::records::{FoundRecord, RecordReader};
use super::taken::SettledTimes;

/// Snapshots that were removed on purpose, each with the hash of its manifest, if it is known.
pub(crate) type PrunedSnapshots = BTreeMap<SnapshotId, Option<Digest>>;

/// What signed prune records say.
pub(crate) struct PruneRecords {
    /// Every snapshot that one of them names, but those that stay.
    pub(crate) snapshots: PrunedSnapshots,
    /// The records that could be read and believed, oldest first.
    pub(crate) found: Vec<FoundRecord<PruneRecord>>,
    /// Why others could not.
    pub(crate) unreadable: BTreeMap<SnapshotId, Error>,
}

impl PruneRecords {
    /// When snapshots were taken whose times were settled.
    pub(crate) fn settled_times(&self) -> SettledTimes {
        SettledTimes::of(self.found.iter().map(|record| &record.body))
    }
}

/// Reads every prune record that some replica shows.
pub(crate) async fn prune_records(documents: &Documents<'_>, inventories: &[Inventory]) -> PruneRecords {
    prune_records_since(documents, inventories, None).await
}

/// As [`prune_records`], by a warden with these first sights; and whether every replica answers.
pub(crate) async fn prune_records_since(
    documents: &Documents<'_>,
    inventories: &[Inventory],
    first: Option<(&mut FirstSights, bool)>,
) -> PruneRecords {
    let Documents { vault, dataset, keys, .. } = documents;
    let reader = RecordReader { vault, dataset, trust: &keys.trust };
    let (mut found, unreadable) = reader.read_all::<PruneRecord>(inventories).await;
    if let Some((first, all_answer)) = first {
        first.leave_out(&mut found, all_answer);
    }
    let mut snapshots = PrunedSnapshots::new();
    for removed in found.iter().flat_map(|record| &record.body.removed) {
        let hash = snapshots.entry(removed.snapshot.clone()).or_default();
        *hash = hash.or(removed.blake3);
    }
    let since = keys.trust.hosts_remove_since();
    let counts =
        |record: &&FoundRecord<PruneRecord>| record.by_warden || since.is_some_and(|since| record.id.time() >= since);
    let counting = found.iter().filter(counts).flat_map(|record| &record.body.removed);
    let counting: BTreeSet<&SnapshotId> = counting.map(|removed| &removed.snapshot).collect();
    let kept = kept(documents, inventories, &snapshots, |snapshot| counting.contains(snapshot));
    snapshots.retain(|snapshot, _| !kept.contains(snapshot));
    PruneRecords { snapshots, found, unreadable }
}

/// Those of `named` that some replica shows, and that the root keeps, or that somebody removes
/// whose word does not count.
fn kept(
    Documents { dataset, keys, .. }: &Documents<'_>,
    inventories: &[Inventory],
    named: &PrunedSnapshots,
    counts: impl Fn(&SnapshotId) -> bool,
) -> BTreeSet<SnapshotId> {
    let keeps_until = |snapshot: &SnapshotId| keys.trust.keeps_until(taken(snapshot, keys.trust.as_of(), inventories)?);
    let mut shown: BTreeSet<SnapshotId> =
        inventories.iter().flat_map(|inventory| &inventory.snapshots).cloned().collect();
    // Whoever removes the signature alone does not make it one that may go.
    let unfinished = inventories.iter().flat_map(|inventory| &inventory.unfinished);
    shown.extend(unfinished.filter_map(|key| layout::parse_manifest(dataset, key)));
    let mut kept = BTreeSet::new();
    for snapshot in named.keys().filter(|snapshot| shown.contains(*snapshot)) {
        if let Some(until) = keeps_until(snapshot) {
            tracing::warn!(%dataset, %snapshot, %until, "A prune record removes a snapshot that the root still keeps, so it stays");
            kept.insert(snapshot.clone());
        } else if !counts(snapshot) {
            tracing::warn!(%dataset, %snapshot, "A prune record of a time with a warden, which it did not sign, removes a snapshot, so it stays");
            kept.insert(snapshot.clone());
        }
    }
    kept
}

/// When a snapshot was taken, as far as a listing tells: as its id says or, if that lies in the
/// future, when the first replica stored it.
fn taken(snapshot: &SnapshotId, now: DateTime<Utc>, inventories: &[Inventory]) -> Option<DateTime<Utc>> {
    let stored = || inventories.iter().filter_map(|inventory| inventory.written.get(snapshot).copied()).min();
    Some(snapshot.time()).filter(|told| *told <= now).or_else(stored)
}
