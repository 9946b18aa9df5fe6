//! Decides when each dataset runs: a state machine over the time it is told. It reads no clock,
//! starts nothing and writes nothing.
//!
//! - **Jitter**: each dataset starts later than its schedule by a fixed part of its jitter, decided
//!   by host and dataset.
//! - **Downtime**: starts that passed while the daemon was down, or while another run took its
//!   time, are made up for by one run, however many they were.
//! - **Overlap**: one run at a time, over all datasets. Requests of operators go first, in their
//!   order.
//! - **Retries**: a failed run is started again, unless the schedule starts it before.
//! - **Clock**: a clock that was set back does not silence a dataset.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::config::{Config, Dataset};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::schedule::Schedule;
use serde::Serialize;

/// Why a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// Its time has come.
    Schedule,
    /// Its time came while it could not run.
    CatchUp,
    /// The run before it has failed.
    Retry,
    /// An operator asked.
    Trigger,
}

/// A start that is later than this is a catch-up.
const PUNCTUAL: TimeDelta = TimeDelta::minutes(1);

/// Decides which dataset runs next.
#[derive(Debug)]
pub(crate) struct Scheduler {
    entries: BTreeMap<Name, DatasetStarts>,
    /// Asked for by operators and not yet started.
    requested: VecDeque<Name>,
    running: Option<Name>,
    /// Whether what runs was due by schedule, whoever asked for it.
    was_due: bool,
}

/// When one dataset starts.
#[derive(Debug)]
struct DatasetStarts {
    schedule: Option<Schedule>,
    jitter: TimeDelta,
    /// Starts up to this time are done with.
    considered: DateTime<Utc>,
    /// The first start after `considered`.
    due: Option<DateTime<Utc>>,
    /// When a run that failed is tried again. It lies before `due`.
    retry: Option<DateTime<Utc>>,
}

impl Scheduler {
    /// For every dataset of `config`. `considered` tells up to which time its starts are done with:
    /// the start of the last attempt, or when the dataset was first seen.
    pub(crate) fn new(config: &Config, considered: impl Fn(&Name) -> DateTime<Utc>) -> Self {
        let mut scheduler =
            Self { entries: BTreeMap::new(), requested: VecDeque::new(), running: None, was_due: false };
        scheduler.reload(config, considered);
        scheduler
    }

    /// Takes the datasets of a new configuration. What runs, runs on; requests for datasets that
    /// are gone are dropped.
    pub(crate) fn reload(&mut self, config: &Config, considered: impl Fn(&Name) -> DateTime<Utc>) {
        let entry = |dataset: &Dataset| DatasetStarts::new(&config.host, dataset, considered(&dataset.name));
        self.entries = config.datasets.iter().map(|dataset| (dataset.name.clone(), entry(dataset))).collect();
        self.requested.retain(|dataset| self.entries.contains_key(dataset));
    }

    /// Queues a run of `dataset`; one that is queued already serves both.
    pub(crate) fn request(&mut self, dataset: &Name) {
        if self.entries.contains_key(dataset) && !self.requested.contains(dataset) {
            self.requested.push_back(dataset.clone());
        }
    }

    /// The run that is to start now, if any. It counts as running until [`Self::finished`].
    pub(crate) fn start(&mut self, now: DateTime<Utc>) -> Option<(Name, Cause)> {
        for entry in self.entries.values_mut().filter(|entry| entry.considered > now) {
            entry.consider(now);
        }
        if self.running.is_some() {
            return None;
        }
        let (dataset, asked) = match self.requested.pop_front() {
            Some(dataset) => (dataset, true),
            None => (self.earliest().filter(|(due, _)| *due <= now)?.1.clone(), false),
        };
        let mut due = None;
        if let Some(entry) = self.entries.get_mut(&dataset) {
            due = entry.due.filter(|due| *due <= now);
            self.was_due = entry.next().is_some_and(|next| next <= now);
            // A request takes the place of what is due, and of nothing else.
            if self.was_due {
                entry.consider(now);
            }
        }
        let cause = match due {
            _ if asked => Cause::Trigger,
            Some(due) if now - due > PUNCTUAL => Cause::CatchUp,
            Some(_) => Cause::Schedule,
            None => Cause::Retry,
        };
        self.running = Some(dataset.clone());
        Some((dataset, cause))
    }

    /// Starts `dataset` at `time`, if nothing else starts it before.
    pub(crate) fn again(&mut self, dataset: &Name, time: DateTime<Utc>) {
        if let Some(entry) = self.entries.get_mut(dataset) {
            entry.due = Some(entry.due.map_or(time, |due| due.min(time)));
        }
    }

    /// Starts `dataset` again at `time`, if its schedule does not start it before, and no start has
    /// come after that time already.
    pub(crate) fn retry(&mut self, dataset: &Name, time: Option<DateTime<Utc>>) {
        if let Some(entry) = self.entries.get_mut(dataset) {
            entry.retry = time.filter(|time| *time > entry.considered && entry.due.is_some_and(|due| *time < due));
        }
    }

    /// Whether what runs was due by schedule, whoever asked for it.
    pub(crate) fn was_due(&self) -> bool {
        self.was_due
    }

    /// The run has ended.
    pub(crate) fn finished(&mut self) {
        self.running = None;
    }

    /// What runs.
    pub(crate) fn running(&self) -> Option<&Name> {
        self.running.as_ref()
    }

    /// When [`Self::start`] may have something next. None: not before a request or the end of the
    /// run.
    pub(crate) fn wake_at(&self) -> Option<DateTime<Utc>> {
        match (&self.running, self.requested.is_empty()) {
            (Some(_), _) => None,
            (None, false) => Some(DateTime::UNIX_EPOCH),
            (None, true) => self.earliest().map(|(due, _)| due),
        }
    }

    /// When a dataset starts next by schedule.
    pub(crate) fn next_start(&self, dataset: &Name) -> Option<DateTime<Utc>> {
        self.entries.get(dataset)?.due
    }

    fn earliest(&self) -> Option<(DateTime<Utc>, &Name)> {
        self.entries.iter().filter_map(|(name, entry)| Some((entry.next()?, name))).min()
    }
}

impl DatasetStarts {
    fn new(host: &Name, dataset: &Dataset, considered: DateTime<Utc>) -> Self {
        let seed = format!("{host}/{}", dataset.name);
        let epoch = DateTime::UNIX_EPOCH;
        let jitter = dataset.schedule.as_ref().map_or(TimeDelta::zero(), |s| s.jittered(epoch, &seed) - epoch);
        let mut entry = Self { schedule: dataset.schedule.clone(), jitter, considered, due: None, retry: None };
        entry.consider(considered);
        entry
    }

    /// The next start, by schedule or because the last run failed.
    fn next(&self) -> Option<DateTime<Utc>> {
        self.retry.into_iter().chain(self.due).min()
    }

    fn consider(&mut self, time: DateTime<Utc>) {
        (self.considered, self.retry) = (time, None);
        let fire = self.schedule.as_ref().and_then(|schedule| schedule.next_after(time - self.jitter));
        self.due = fire.map(|fire| fire + self.jitter);
    }
}

#[cfg(test)]
mod tests;
