//! When what is marked may go, and what a floor of the root keeps.
//!
//! - **The grace period** of the configuration counts from when a mark was written, as it says
//!   itself. But if its host's clock was behind, an act before it tells a later time.
//! - **The least delay** of the root counts from then, too, and besides from when the first store
//!   took the mark, by the store's clock: whoever writes marks cannot set that. Where no store
//!   tells the time, as directories do not, what the mark says must do.
//! - **A warden** counts both from when it saw the mark itself, if that is later; and from when its
//!   own rules let the last of the snapshots go that it names and they do not keep: whoever commits
//!   snapshots chooses what they displace.
//! - **The least retention** of the root keeps every snapshot that is younger, whatever the rules
//!   of the configuration say.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::Result;
use lifeboat_format::act::ActKind;
use lifeboat_format::id::SnapshotId;
use lifeboat_format::record::MarkRecord;

use super::memory::Memory;
use super::view::View;
use super::{Prune, PrunePlan, Verdict};
use crate::catalog::first_sights::{FirstSights, LetGo};
use crate::catalog::records::FoundRecord;
use crate::keep::retention::Told;

/// When marks were written, and when they are due.
pub(super) struct MarkTimes<'v> {
    /// The earliest times at which they can have been written, as the order of acts shows.
    ordered: HashMap<&'v SnapshotId, DateTime<Utc>>,
    /// When the last store took them: another mark may have stood under the same name before.
    stored: HashMap<&'v SnapshotId, DateTime<Utc>>,
    /// What this warden saw first.
    first: Option<&'v FirstSights>,
    /// Since when its rules let snapshots go.
    let_go: LetGo,
    wait: TimeDelta,
    delay: TimeDelta,
    now: DateTime<Utc>,
}

impl Prune<'_> {
    pub(super) fn mark_times<'v>(&self, view: &'v View, let_go: LetGo, now: DateTime<Utc>) -> MarkTimes<'v> {
        let (mut ordered, mut newest) = (HashMap::new(), DateTime::<Utc>::MIN_UTC);
        for act in view.acts.found.values().map(|found| &found.act) {
            // One of the future tells nothing.
            if act.time <= now {
                newest = newest.max(act.time);
            }
            if act.act == ActKind::Mark {
                ordered.insert(&act.id, newest);
            }
        }
        let skew = length(self.config.limits.clock_skew);
        let mut stored = HashMap::new();
        for inventory in &view.inventories {
            if inventory.replica.clock_offset(skew).is_none_or(|offset| offset.abs() > skew) {
                continue;
            }
            for mark in &inventory.marks {
                // One that was listed without its signature has it since this look.
                let time = inventory.marked.get(mark).copied().unwrap_or(now);
                stored.entry(mark).and_modify(|last: &mut DateTime<Utc>| *last = time.max(*last)).or_insert(time);
            }
        }
        let marks = view.marks.iter().map(|mark| &mark.id);
        let stored = marks.filter_map(|mark| Some((mark, *stored.get(mark)?))).collect();
        let (wait, delay) = (self.least_wait(), self.keys.trust.least_delay());
        MarkTimes { ordered, stored, first: view.first.as_ref(), let_go, wait, delay, now }
    }

    /// Remembers since when the rules of this warden let those of `verdicts` go that nothing keeps.
    /// On other machines, nothing.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn let_go(&self, view: &View, verdicts: &[Verdict], now: DateTime<Utc>) -> Result<LetGo> {
        let Some(mut first) = view.first.clone() else { return Ok(LetGo::new()) };
        let goes = verdicts.iter().filter(|verdict| verdict.keep_because.is_empty());
        let let_go = first.let_go(goes.map(|verdict| &verdict.snapshot), now).clone();
        if view.memory == Memory::Written {
            first.write(self.state, &self.dataset.name)?;
        }
        Ok(let_go)
    }

    /// How long a mark waits at least.
    pub(in crate::keep) fn least_wait(&self) -> TimeDelta {
        length(self.dataset.retention.grace).max(self.keys.trust.least_delay())
    }

    /// Since when this warden sees the oldest of the marks that wait, whatever it contained.
    pub(in crate::keep) fn waiting_since(&self, view: &View, plan: &PrunePlan) -> Option<DateTime<Utc>> {
        let first = view.first.as_ref()?;
        plan.waits.keys().filter_map(|mark| first.mark_named(mark)).min()
    }

    /// Until when the floor keeps a snapshot. Of two times of it, the later one counts.
    pub(super) fn floor(&self, told: &Told) -> Option<DateTime<Utc>> {
        self.keys.trust.keeps_until(told.claimed.map_or(told.counts, |claimed| claimed.max(told.counts)))
    }

    /// Adds the floor to the reasons why snapshots stay.
    pub(super) fn keep_above_floor(&self, told: &[Told], reasons: &mut [Vec<String>]) {
        for (told, reasons) in told.iter().zip(reasons) {
            if let Some(until) = self.floor(told) {
                reasons.push(format!("the root keeps it until {}", until.format("%Y-%m-%d %H:%M UTC")));
            }
        }
    }
}

impl MarkTimes<'_> {
    /// When a mark was written.
    pub(super) fn marked_at(&self, mark: &FoundRecord<MarkRecord>) -> DateTime<Utc> {
        let told = mark.envelope.as_ref().map_or(mark.id.time(), |envelope| envelope.time);
        self.ordered.get(&mark.id).map_or(told, |ordered| told.max(*ordered))
    }

    /// When a mark may be carried out.
    pub(super) fn due(&self, mark: &FoundRecord<MarkRecord>) -> DateTime<Utc> {
        let sighted = self.first.map(|first| first.mark_seen(&mark.id).unwrap_or(self.now));
        let marked = sighted.map_or(self.marked_at(mark), |sighted| sighted.max(self.marked_at(mark)));
        let let_go = mark.body.snapshots.iter().filter_map(|marked| self.let_go.get(&marked.snapshot).copied());
        let due = after(let_go.fold(marked, DateTime::max), self.wait);
        match self.stored.get(&mark.id).filter(|_| self.delay > TimeDelta::zero()) {
            Some(stored) => due.max(after(*stored, self.delay)),
            None => due,
        }
    }

    /// As [`Self::due`], of a mark that would be written now.
    pub(super) fn due_if_marked_now(&self) -> DateTime<Utc> {
        after(self.now, self.wait)
    }
}

fn length(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn after(time: DateTime<Utc>, length: TimeDelta) -> DateTime<Utc> {
    time.checked_add_signed(length).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
