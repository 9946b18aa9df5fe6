//! Whether the time by which prune decides can be believed. Ages and grace periods rest on it.
//!
//! If replicas tell the time, one that agrees with this host is enough, and nothing is deleted if
//! all of them contradict it. If none does, the newest snapshots decide: the time is believed while
//! it goes on as it did. After a long pause, that takes two backups: the first one shows the new
//! time, and the next one confirms it. A clock that is wrong for longer than that is believed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::SnapshotId;
use lifeboat_format::manifest::Manifest;

use super::Prune;
use crate::catalog::clocks::{self, ClockWitnesses, longest_pause};
use crate::catalog::future::is_future;

impl Prune<'_> {
    /// # Errors
    /// The time cannot be believed. The replicas were just asked something.
    pub(super) fn check_time(&self, manifests: &BTreeMap<SnapshotId, Manifest>) -> Result<()> {
        let witnesses = ClockWitnesses::of(self.replicas, self.config.limits.clock_skew);
        for warning in witnesses.check()? {
            tracing::warn!("{warning}");
        }
        let now = self.clock.now();
        // What lies in the future counts for nothing. A clock that is behind lets nothing go early.
        let past = manifests.values().filter(|manifest| !is_future(manifest.started, now, &self.config.limits));
        let newest = past.max_by_key(|manifest| (manifest.sequence, &manifest.snapshot));
        let Some(newest) = newest.filter(|_| witnesses.are_silent()) else { return Ok(()) };
        let pause = |after: &SnapshotId, from: DateTime<Utc>, to: DateTime<Utc>| {
            let longest = longest_pause(self.dataset.schedule.as_ref(), manifests.range(..=after).map(|(id, _)| id));
            Some(to.signed_duration_since(from)).filter(|pause| *pause > longest).map(clocks::words)
        };
        let doubt = |what: String| {
            Error::configuration(format!(
                "it is doubtful whether this host's clock is right: {what}, and no replica tells the time"
            ))
        };
        if let Some(pause) = pause(&newest.snapshot, newest.started, now) {
            return Err(doubt(format!("the newest snapshot, {}, is {pause} old", newest.snapshot)).hint(
                "if the clock is right (see `timedatectl`), back up twice: the second backup confirms the time; then prune",
            ));
        }
        let Some(before) = newest.predecessor() else { return Ok(()) };
        let time = manifests.get(before).map_or_else(|| before.time(), |manifest| manifest.started);
        match pause(before, time, newest.started) {
            None => Ok(()),
            Some(pause) => {
                let what = format!("snapshot {} is {pause} later than the one before it", newest.snapshot);
                Err(doubt(what).hint(
                    "if the clock is right (see `timedatectl`), back up once more: that confirms the time; then prune",
                ))
            }
        }
    }
}
