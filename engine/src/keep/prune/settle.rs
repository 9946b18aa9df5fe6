//! Settles when snapshots were taken whose manifests tell false times. A settled time is written
//! down as what an operator accepts of gaps is: in a sweep that deletes nothing.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::record::SettledTime;
use lifeboat_store::without_name;
use serde::Serialize;

use super::accept::accepted;
use super::memory::Memory;
use super::view::{Survey, View};
use super::{Accept, Prune};
use crate::catalog::future::is_future;
use crate::catalog::outlines::Outline;
use crate::catalog::taken::TimeClaim;
use crate::keep::false_times::{FalseTime, StoredTimes, false_times};

/// The times of a dataset that are settled, and those that should be.
#[derive(Debug, Serialize)]
pub struct ClockReport {
    /// The dataset.
    pub dataset: Name,
    /// This host's time.
    pub now: DateTime<Utc>,
    /// Snapshots with false or doubtful times, in their order.
    pub doubtful: Vec<FalseTime>,
    /// Snapshots whose settled times count.
    pub settled: Vec<Settled>,
    /// What could not be looked at, and why.
    pub doubts: Vec<String>,
}

/// A settled time that counts.
#[derive(Debug, Serialize)]
pub struct Settled {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What its manifest says.
    pub claimed: DateTime<Utc>,
    /// The time that counts.
    pub time: DateTime<Utc>,
}

impl Prune<'_> {
    /// Looks for false times. Changes nothing, but puts lost signatures and acts back. The caller
    /// holds the dataset's lock.
    ///
    /// # Errors
    /// No replica can be used, or all that tell the time contradict this host's clock.
    pub async fn false_times(&self) -> Result<ClockReport> {
        let survey = self.survey(Memory::Written).await?;
        let is_silent = self.check_clock()?.are_silent();
        let now = self.clock.now();
        let doubts = survey.doubt.iter().map(Error::chain_and_hint);
        let view = &survey.view;
        let skipped =
            view.skipped.iter().map(|(replica, why)| format!("replica {replica}: {}", without_name(replica, why)));
        Ok(ClockReport {
            dataset: self.dataset.name.clone(),
            now,
            doubtful: self.doubtful(view, now, is_silent),
            settled: settled(view),
            doubts: doubts.chain(skipped).collect(),
        })
    }

    /// Settles what `report` proposes, and looks again. Deletes nothing.
    ///
    /// # Errors
    /// A replica does not answer, something is doubted, or other times are false by now.
    pub async fn settle_times(&self, report: &ClockReport) -> Result<ClockReport> {
        let dataset = &self.dataset.name;
        let Survey { view, doubt, .. } = self.survey(Memory::Written).await?;
        let nothing = |error: Error| {
            let hint = error.hint_text().unwrap_or("run `lifeboat check`").to_owned();
            error.within(format!("no time of dataset {dataset} is settled")).hint(hint)
        };
        if let Some(doubt) = doubt {
            return Err(nothing(doubt));
        }
        let is_silent = self.check_clock().map_err(nothing)?.are_silent();
        if let Some((replica, why)) = view.skipped.first() {
            return Err(nothing(
                Error::storage(format!("replica {replica} may hold other snapshots, and cannot be used: {why}")).hint(
                    "repair again when every replica can be used; take one that is gone for ever out of the configuration",
                ),
            ));
        }
        let now = self.clock.now();
        let again = |what: String| nothing(Error::failed(what).hint("repair again"));
        let still = self.doubtful(&view, now, is_silent);
        let named = |wrong: &[FalseTime]| wrong.iter().map(|wrong| wrong.snapshot.clone()).collect::<Vec<_>>();
        if named(&still) != named(&report.doubtful) {
            return Err(again("the snapshots with false times have changed meanwhile".to_owned()));
        }
        let entry = |wrong: &FalseTime| SettledTime {
            snapshot: wrong.snapshot.clone(),
            time: wrong.time,
            settled: now.max(wrong.time),
        };
        let all = view.settled.with(report.doubtful.iter().map(entry));
        let times = all.among(view.by_snapshot.values().map(|outline| TimeClaim::from(outline.as_ref())));
        if let Some(wrong) = report.doubtful.iter().find(|wrong| !times.is_vouched_for(&wrong.snapshot)) {
            return Err(again(format!(
                "{} is no time that snapshot {} can have been taken",
                wrong.time.to_rfc3339(),
                wrong.snapshot
            )));
        }
        let mut body = accepted(Accept::default(), &[], &view);
        let is_there = |settled: &&SettledTime| !view.pruned.contains_key(&settled.snapshot);
        body.times = all.iter().filter(is_there).cloned().collect();
        self.take_down(&view, &body).await?;
        self.false_times().await
    }

    /// `is_silent`: no replica tells the time.
    fn doubtful(&self, view: &View, now: DateTime<Utc>, is_silent: bool) -> Vec<FalseTime> {
        let limits = &self.config.limits;
        let claims: Vec<TimeClaim> =
            view.by_snapshot.values().map(|outline| TimeClaim::from(outline.as_ref())).collect();
        let tolerance = TimeDelta::from_std(limits.clock_skew.saturating_mul(2)).unwrap_or(TimeDelta::MAX);
        let mut found = false_times(&claims, &view.times, &self.stored(view), now, tolerance);
        let past = view.by_snapshot.values().filter(|outline| !is_future(view.times.time(outline), now, limits));
        let newest = past.max_by_key(|outline| (outline.sequence, &outline.snapshot));
        let newest = newest.filter(|newest| !found.iter().any(|wrong| wrong.snapshot == newest.snapshot));
        if let Some(newest) = newest.filter(|newest| is_silent && newest.started <= now)
            && let Some(pause) = self.jump(&view.by_snapshot, &view.times, newest)
        {
            found.push(FalseTime {
                snapshot: newest.snapshot.clone(),
                claimed: newest.started,
                doubt: format!("it is {pause} later than the one before it, and no replica tells the time"),
                time: newest.started,
                because: "nothing contradicts it: this confirms it".to_owned(),
            });
        }
        found
    }

    /// When replicas stored the snapshots, as far as they tell: a host cannot set these times. Of
    /// several, the first counts, because catch-up copies.
    fn stored(&self, view: &View) -> StoredTimes {
        let skew = TimeDelta::from_std(self.config.limits.clock_skew).unwrap_or(TimeDelta::MAX);
        let mut stored = StoredTimes::new();
        for inventory in &view.inventories {
            if inventory.replica.clock_offset(skew).is_none_or(|offset| offset.abs() > skew) {
                continue;
            }
            for (snapshot, outline) in &view.by_snapshot {
                let Some(written) = inventory.written.get(snapshot) else { continue };
                let took = outline.finished.signed_duration_since(outline.started);
                let could = took >= TimeDelta::zero() && took.to_std().is_ok_and(|took| took <= self.config.limits.run);
                let began = if could { *written - took } else { *written };
                let first = stored.get(snapshot).is_none_or(|(_, known)| began < *known);
                if first {
                    stored.insert(snapshot.clone(), (inventory.replica.name().clone(), began));
                }
            }
        }
        stored
    }
}

fn settled(view: &View) -> Vec<Settled> {
    let told = |(snapshot, outline): (&SnapshotId, &Arc<Outline>)| {
        let taken = view.times.of(snapshot, outline.started);
        Some(Settled { snapshot: snapshot.clone(), claimed: taken.claimed?, time: taken.time })
    };
    view.by_snapshot.iter().filter_map(told).collect()
}
