//! What signed prune records say: which snapshots were removed on purpose, and what was settled.

use std::collections::BTreeMap;

use lifeboat_base::Error;
use lifeboat_format::id::{Digest, SnapshotId};
use lifeboat_format::record::PruneRecord;

use super::documents::Documents;
use super::inventory::Inventory;
use super::records::{FoundRecord, RecordReader};
use super::taken::SettledTimes;

/// Snapshots that were removed on purpose, each with the hash of its manifest, if it is known.
pub(crate) type PrunedSnapshots = BTreeMap<SnapshotId, Option<Digest>>;

/// What signed prune records say.
pub(crate) struct PruneRecords {
    /// Every snapshot that one of them names.
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
    let Documents { vault, dataset, keys, .. } = documents;
    let reader = RecordReader { vault, dataset, trust: &keys.trust };
    let (found, unreadable) = reader.read_all::<PruneRecord>(inventories).await;
    let mut snapshots = PrunedSnapshots::new();
    for removed in found.iter().flat_map(|record| &record.body.removed) {
        let hash = snapshots.entry(removed.snapshot.clone()).or_default();
        *hash = hash.or(removed.blake3);
    }
    PruneRecords { snapshots, found, unreadable }
}
