//! Which times of a run and of the snapshot before it are probably false.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_format::id::SnapshotId;
use lifeboat_store::SharedReplica;

use super::place::Place;
use crate::catalog::clocks::{self, ClockWitnesses, longest_pause};
use crate::catalog::documents::Documents;
use crate::catalog::future::is_future;
use crate::catalog::inventory::{Inventory, all_snapshots};
use crate::catalog::removals::prune_records;
use crate::config::{Dataset, Limits};

/// A new snapshot, and what it is compared with.
pub(super) struct NewTime<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) limits: &'a Limits,
    pub(super) snapshot: &'a SnapshotId,
    pub(super) now: DateTime<Utc>,
    pub(super) witnesses: &'a ClockWitnesses,
    pub(super) members: &'a [Inventory],
    pub(super) documents: &'a Documents<'a>,
}

impl NewTime<'_> {
    /// Of the snapshot and the one before it, those whose times are doubtful, and these times. A
    /// warning says why. None of them stops the backup.
    pub(super) async fn doubts(
        &self,
        place: &Place,
        warnings: &mut Vec<String>,
    ) -> BTreeMap<SnapshotId, DateTime<Utc>> {
        let Some(before) = place.previous.as_ref().map(|before| &before.snapshot) else { return BTreeMap::new() };
        // Its id follows the one before it, so it may be later than its time.
        let claimed = place.manifest.as_ref().map_or_else(|| before.time(), |manifest| manifest.started);
        let time = self.taken(before, claimed).await;
        if is_future(time, self.now, self.limits) {
            warnings.push(format!(
                "the time of snapshot {before} lies in the future ({}): this host's clock was wrong then, or is wrong now",
                time.to_rfc3339()
            ));
            return BTreeMap::from([(before.clone(), time)]);
        }
        let pause = self.now.signed_duration_since(time);
        let known = all_snapshots(self.members);
        let longest =
            longest_pause(self.dataset.schedule.as_ref(), known.range(..=before.clone()).map(SnapshotId::time));
        if !self.witnesses.are_silent() || pause <= longest {
            return BTreeMap::new();
        }
        warnings.push(format!(
            "this snapshot is {} later than the one before, and no replica tells the time: is this host's clock right? Nothing of {} is deleted until another backup confirms it",
            clocks::words(pause),
            self.dataset.name
        ));
        BTreeMap::from([(self.snapshot.clone(), self.now)])
    }

    /// When this snapshot was taken. Only a time from the future is worth a look at what was
    /// settled.
    async fn taken(&self, before: &SnapshotId, claimed: DateTime<Utc>) -> DateTime<Utc> {
        if !is_future(claimed, self.now, self.limits) {
            return claimed;
        }
        let settled = prune_records(self.documents, self.members).await.settled_times();
        let shown: Vec<SnapshotId> = all_snapshots(self.members).into_iter().collect();
        let replicas: Vec<SharedReplica> = self.members.iter().map(|member| member.replica.clone()).collect();
        self.documents.taken_times(&replicas, &shown, &settled).await.of(before, claimed).time
    }
}
