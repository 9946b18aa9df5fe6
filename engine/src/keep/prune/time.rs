//! Whether the time by which prune decides can be believed. Ages and grace periods rest on it.
//!
//! If replicas tell the time, one that agrees with this host is enough, and nothing is deleted if
//! all of them contradict it. If none does, the newest snapshots decide: the time is believed while
//! it goes on as it did. After a long pause, that takes two backups: the first one shows the new
//! time, and the next one confirms it. A clock that is wrong for longer than that is believed.
//!
//! A dataset that is removed gets no more backups, so its age says nothing: there, whoever consents
//! to each step has seen this host's time.

use std::ops::Range;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::SnapshotId;

use super::Prune;
use crate::catalog::clocks::{self, ClockWitnesses, longest_pause};
use crate::catalog::future::is_future;
use crate::catalog::outlines::{Outline, OutlineMap};
use crate::catalog::taken::TakenTimes;

impl Prune<'_> {
    /// # Errors
    /// The time cannot be believed. The replicas were just asked something.
    pub(super) fn check_time(&self, outlines: &OutlineMap, times: &TakenTimes) -> Result<()> {
        let witnesses = self.check_clock()?;
        let now = self.clock.now();
        // What lies in the future counts for nothing. A clock that is behind lets nothing go early.
        let past = outlines.values().filter(|outline| !is_future(times.time(outline), now, &self.config.limits));
        let newest = past.max_by_key(|outline| (outline.sequence, &outline.snapshot));
        let Some(newest) = newest.filter(|_| witnesses.are_silent()) else { return Ok(()) };
        let doubt = |what: String| {
            Error::configuration(format!(
                "it is doubtful whether this host's clock is right: {what}, and no replica tells the time"
            ))
        };
        let pause = self.long_pause(outlines, times, &newest.snapshot, times.time(newest)..now);
        if let Some(pause) = pause.filter(|_| !self.dataset.retention.removes_dataset) {
            return Err(doubt(format!("the newest snapshot, {}, is {pause} old", newest.snapshot)).hint(
                "if the clock is right (see `timedatectl`), back up twice: the second backup confirms the time; then prune",
            ));
        }
        match self.jump(outlines, times, newest) {
            None => Ok(()),
            Some(pause) => {
                let what = format!("snapshot {} is {pause} later than the one before it", newest.snapshot);
                Err(doubt(what).hint(format!(
                    "if the clock is right (see `timedatectl`), back up once more or run `lifeboat repair clock {}`: that confirms the time; then prune",
                    self.dataset.name
                )))
            }
        }
    }

    /// What the replicas, which were just asked something, told about the time.
    ///
    /// # Errors
    /// They all contradict this host's clock.
    pub(super) fn check_clock(&self) -> Result<ClockWitnesses> {
        let witnesses = ClockWitnesses::of(self.replicas, self.config.limits.clock_skew);
        for warning in witnesses.check()? {
            tracing::warn!("{warning}");
        }
        Ok(witnesses)
    }

    /// How much later than the one before it this snapshot was taken, if that is doubtful and
    /// nobody vouches for it.
    pub(super) fn jump(&self, outlines: &OutlineMap, times: &TakenTimes, newest: &Outline) -> Option<String> {
        let before = newest.predecessor().filter(|_| !times.is_vouched_for(&newest.snapshot))?;
        let time = outlines.get(before).map_or_else(|| before.time(), |outline| times.time(outline));
        self.long_pause(outlines, times, before, time..times.time(newest))
    }

    /// The pause between these times, if it is so long after this snapshot that it is doubtful.
    fn long_pause(
        &self,
        outlines: &OutlineMap,
        times: &TakenTimes,
        after: &SnapshotId,
        between: Range<DateTime<Utc>>,
    ) -> Option<String> {
        let before = outlines.range(..=after).map(|(_, outline)| times.time(outline));
        let longest = longest_pause(self.dataset.schedule.as_ref(), before);
        Some(between.end.signed_duration_since(between.start)).filter(|pause| *pause > longest).map(clocks::words)
    }
}
