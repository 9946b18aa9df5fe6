//! Decides when each dataset runs: a state machine over the time it is told. It reads no clock,
//! starts nothing and writes nothing.
//!
//! - **Jitter**: each dataset starts later than its schedule by a fixed part of its jitter, decided
//!   by host and dataset.
//! - **Downtime**: starts that passed while the daemon was down, or while another run took its
//!   time, are made up for by one run, however many they were.
//! - **Side by side**: as many datasets at once as there are places (`limits.runs`), none of them
//!   twice. One that only prunes takes no place. Requests of operators go first, in their order.
//! - **Short before long**: of those that are due, the one goes first whose end would come first
//!   had each started when it was due. So a long one does not wait for ever either. Runs that last
//!   take all places but one, if there are others: a short one always finds a place soon.
//! - **Retries**: a failed run is started again, unless the schedule starts it before.
//! - **Windows**: outside those of a dataset nothing of it starts unless an operator asks.
//! - **Pauses**: nor does anything while it is paused. What was due meanwhile starts once, then.
//! - **Groups**: the members of a group start together, when there are places for all of them. If a
//!   group is the first that would end, nothing else takes the places that it waits for.
//! - **Clock**: a clock that was set back does not silence a dataset ([`Scheduler::set_back`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::config::Config;
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
/// A run that took longer the last time is a long one.
const LONGEST_SHORT_RUN: TimeDelta = TimeDelta::minutes(10);

/// Decides which dataset runs next.
#[derive(Debug)]
pub(crate) struct Scheduler {
    /// By the name of the dataset, or of the group that several are members of.
    entries: BTreeMap<Name, DatasetStarts>,
    /// Asked for by operators and not yet started.
    requested: VecDeque<Name>,
    /// What runs, and whether that was due by schedule, whoever asked for it.
    running: BTreeMap<Name, bool>,
    /// Of these, what takes no place any more.
    released: BTreeSet<Name>,
    /// Of these, nothing starts unless an operator asks.
    paused: BTreeSet<Name>,
    /// How many may run at once.
    places: usize,
}

/// When one dataset starts, or all members of a group.
#[derive(Debug)]
struct DatasetStarts {
    /// What starts: the dataset alone, or the members.
    members: Vec<Name>,
    schedule: Option<Schedule>,
    jitter: TimeDelta,
    /// Starts up to this time are done with.
    considered: DateTime<Utc>,
    /// The first start after `considered`.
    due: Option<DateTime<Utc>>,
    /// When a run that failed is tried again. It lies before `due`.
    retry: Option<DateTime<Utc>>,
    /// How long it probably takes; zero if nobody knows.
    lasts: TimeDelta,
    /// Whether `due` is another look at a start that has begun, at a lock or at the leader.
    looks: bool,
}

/// A start that waits for a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Queued {
    pub dataset: Name,
    /// When it was due; `None` if an operator asked for it.
    pub due: Option<DateTime<Utc>>,
}

impl Scheduler {
    /// For every dataset of `config`. `considered` tells up to which time its starts are done with:
    /// the start of the last attempt, or when the dataset was first seen.
    pub(crate) fn new(config: &Config, considered: impl Fn(&Name) -> DateTime<Utc>) -> Self {
        let mut scheduler = Self {
            entries: BTreeMap::new(),
            requested: VecDeque::new(),
            running: BTreeMap::new(),
            released: BTreeSet::new(),
            paused: BTreeSet::new(),
            places: 1,
        };
        scheduler.reload(config, considered);
        scheduler
    }

    /// Takes the datasets of a new configuration. What runs, runs on; requests for datasets that
    /// are gone are dropped.
    pub(crate) fn reload(&mut self, config: &Config, considered: impl Fn(&Name) -> DateTime<Utc>) {
        let alone = config.datasets.iter().filter(|dataset| config.group_of(&dataset.name).is_none());
        let alone = alone.map(|of| (of.name.clone(), of.schedule.clone(), vec![of.name.clone()]));
        let groups = config.groups.iter().map(|of| (of.name.clone(), of.schedule.clone(), of.members.clone()));
        let entry = |(name, schedule, members): (Name, Option<Schedule>, Vec<Name>)| {
            // If one of them did not start, the group has to.
            let done = members.iter().map(&considered).min().unwrap_or(DateTime::UNIX_EPOCH);
            let entry = DatasetStarts::new(&format!("{}/{name}", config.host), schedule, members, done);
            (name, entry)
        };
        self.entries = alone.chain(groups).map(entry).collect();
        self.requested.retain(|dataset| self.entries.contains_key(dataset));
        self.places = config.limits.runs;
    }

    /// The name under which `dataset` starts: that of its group, if it is a member of one.
    fn unit(&self, dataset: &Name) -> Name {
        let is_member = |(_, entry): &(&Name, &DatasetStarts)| entry.members.contains(dataset);
        match self.entries.contains_key(dataset) {
            true => dataset.clone(),
            false => self.entries.iter().find(is_member).map_or(dataset, |(group, _)| group).clone(),
        }
    }

    fn entry(&self, dataset: &Name) -> Option<&DatasetStarts> {
        self.entries.get(&self.unit(dataset))
    }

    fn entry_mut(&mut self, dataset: &Name) -> Option<&mut DatasetStarts> {
        self.entries.get_mut(&self.unit(dataset))
    }

    /// What starts together under this name, in order: a dataset, or the members of a group.
    pub(crate) fn members(&self, name: &Name) -> Vec<Name> {
        self.entry(name).map(|entry| entry.members.clone()).unwrap_or_default()
    }

    /// Queues a run of `dataset`, or of its group; one that is queued already serves both.
    pub(crate) fn request(&mut self, dataset: &Name) {
        let unit = self.unit(dataset);
        if self.entries.contains_key(&unit) && !self.requested.contains(&unit) {
            self.requested.push_back(unit);
        }
    }

    /// Tells which datasets are paused from now on, and that no others are. With a member, its
    /// group is. A start that looks for a lock, or at the leader, is due like any other when the
    /// pause has ended.
    pub(crate) fn pause(&mut self, datasets: &BTreeSet<Name>) {
        self.paused = datasets.iter().map(|dataset| self.unit(dataset)).collect();
        let paused = self.entries.iter_mut().filter(|(name, _)| self.paused.contains(*name));
        paused.for_each(|(_, entry)| entry.looks = false);
    }

    /// Tells the time before [`Self::start`] is asked. Where the clock was set back, starts are
    /// still to come that were done with, and others have passed under the true time that never
    /// took place. `considered` tells up to which time they are done with, as in [`Self::new`].
    pub(crate) fn set_back(&mut self, now: DateTime<Utc>, considered: impl Fn(&Name) -> DateTime<Utc>) {
        let ahead = self.entries.iter_mut().filter(|(_, entry)| entry.considered > now);
        // Of one that runs, its end tells.
        for (_, entry) in ahead.filter(|(_, entry)| !is_running(entry, &self.running)) {
            let done = entry.members.iter().map(&considered).min().unwrap_or(now);
            entry.consider(done.min(now));
        }
    }

    /// A run that is to start now, if any, of a dataset or of all [`Self::members`] of a group. It
    /// counts as running until [`Self::finished`].
    pub(crate) fn start(&mut self, now: DateTime<Utc>) -> Option<(Name, Cause)> {
        let asked = self.requested.iter().position(|unit| !self.is_unit_running(unit));
        let dataset = match asked {
            Some(at) => self.requested.get(at)?.clone(),
            None => self.first_to_end(now)?.clone(),
        };
        if !self.has_room(self.entries.get(&dataset)) {
            return None;
        }
        if let Some(at) = asked {
            self.requested.remove(at);
        }
        let asked = asked.is_some();
        let (mut due, mut was_due) = (None, false);
        if let Some(entry) = self.entries.get_mut(&dataset) {
            due = entry.due.filter(|due| *due <= now);
            was_due = entry.next().is_some_and(|next| next <= now);
            // A request takes the place of what is due, and of nothing else.
            if was_due {
                entry.consider(now);
            }
        }
        let cause = match due {
            _ if asked => Cause::Trigger,
            Some(due) if now - due > PUNCTUAL => Cause::CatchUp,
            Some(_) => Cause::Schedule,
            None => Cause::Retry,
        };
        for member in self.members(&dataset) {
            self.running.insert(member, was_due);
        }
        Some((dataset, cause))
    }

    /// Starts `dataset` at `time`, if nothing else starts it before.
    pub(crate) fn again(&mut self, dataset: &Name, time: DateTime<Utc>) {
        if let Some(entry) = self.entry_mut(dataset) {
            entry.looks = entry.due.is_none_or(|due| time <= due);
            entry.due = Some(entry.due.map_or(time, |due| due.min(time)));
        }
    }

    /// Starts `dataset` again at `time`, if its schedule does not start it before, and no start has
    /// come after that time already.
    pub(crate) fn retry(&mut self, dataset: &Name, time: Option<DateTime<Utc>>) {
        if let Some(entry) = self.entry_mut(dataset) {
            entry.retry = time.filter(|time| *time > entry.considered && entry.due.is_some_and(|due| *time < due));
        }
    }

    /// Tells how long `dataset` probably takes.
    pub(crate) fn lasts(&mut self, dataset: &Name, time: TimeDelta) {
        if let Some(entry) = self.entry_mut(dataset) {
            entry.lasts = time;
        }
    }

    /// Drops the start of `dataset`, and of its group, that waits for a place or is due, or, if it
    /// `waits` for another program, the next look at its lock. Tells whether there was one.
    pub(crate) fn withdraw(&mut self, dataset: &Name, now: DateTime<Utc>, waits: bool) -> bool {
        let (asked, unit) = (self.requested.len(), self.unit(dataset));
        self.requested.retain(|requested| *requested != unit);
        let was_asked = self.requested.len() < asked;
        let Some(entry) = self.entries.get_mut(&unit) else { return was_asked };
        let was_due = waits || entry.next().is_some_and(|next| next <= now);
        if was_due {
            entry.consider(now);
        }
        was_asked || was_due
    }

    /// Whether the run of `dataset` was due by schedule, whoever asked for it.
    pub(crate) fn was_due(&self, dataset: &Name) -> bool {
        self.running.get(dataset).copied().unwrap_or_default()
    }

    /// The run has a place no more, for it has backed up. Until it has ended, no other of the same
    /// dataset starts.
    pub(crate) fn released(&mut self, dataset: &Name) {
        if self.running.contains_key(dataset) {
            self.released.insert(dataset.clone());
        }
    }

    /// The run has ended.
    pub(crate) fn finished(&mut self, dataset: &Name) {
        self.running.remove(dataset);
        self.released.remove(dataset);
    }

    /// Whether an operator asked for a run of `dataset` that has not started.
    pub(crate) fn is_asked(&self, dataset: &Name) -> bool {
        self.requested.contains(&self.unit(dataset))
    }

    /// Whether `dataset` is due, whether or not it runs.
    pub(crate) fn is_due(&self, dataset: &Name, now: DateTime<Utc>) -> bool {
        let is_due = |entry: &DatasetStarts| entry.next().is_some_and(|next| next <= now) && entry.is_open(now);
        !self.paused.contains(&self.unit(dataset)) && self.entry(dataset).is_some_and(is_due)
    }

    /// Whether `dataset` runs.
    pub(crate) fn runs(&self, dataset: &Name) -> bool {
        self.running.contains_key(dataset)
    }

    /// What waits for a place at `now`, the first to start first.
    pub(crate) fn queue(&self, now: DateTime<Utc>) -> Vec<Queued> {
        let asked = self.requested.iter().flat_map(|unit| self.members(unit));
        let asked = asked.map(|dataset| Queued { dataset, due: None });
        let mut due: Vec<_> = self.waiting().filter(|(_, entry, next)| *next <= now && entry.is_open(now)).collect();
        due.retain(|(name, _, _)| !self.requested.contains(name));
        due.sort_by_key(|(name, entry, next)| (end(entry, *next), (*name).clone()));
        let queued = |member: &Name, due| Queued { dataset: member.clone(), due: Some(due) };
        let due = due.into_iter().flat_map(|(_, entry, next)| entry.members.iter().map(move |of| queued(of, next)));
        asked.chain(due).collect()
    }

    /// When [`Self::start`] may have something next. None: not before a request or the end of a
    /// run.
    pub(crate) fn wake_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !self.has_room(None) {
            return None;
        }
        if let Some(unit) = self.requested.iter().find(|unit| !self.is_unit_running(unit)) {
            return self.has_room(self.entries.get(unit)).then_some(DateTime::UNIX_EPOCH);
        }
        // What waits for room waits for the end of a run.
        if self.first_to_end(now).is_some_and(|unit| !self.has_room(self.entries.get(unit))) {
            return None;
        }
        let may_start = |entry: &DatasetStarts, next| self.has_place(entry) && entry.is_open(now.max(next));
        self.waiting().filter(|(_, entry, next)| may_start(entry, *next)).map(|(_, _, next)| next).min()
    }

    /// When a dataset starts next by schedule.
    pub(crate) fn next_start(&self, dataset: &Name) -> Option<DateTime<Utc>> {
        self.entry(dataset)?.due
    }

    /// Of those that are due and have a place, the one that would end first.
    fn first_to_end(&self, now: DateTime<Utc>) -> Option<&Name> {
        let may_start = |entry: &DatasetStarts| self.has_place(entry) && entry.is_open(now);
        let due = self.waiting().filter(|(_, entry, next)| *next <= now && may_start(entry));
        due.min_by_key(|(name, entry, next)| (end(entry, *next), *name)).map(|(name, _, _)| name)
    }

    /// Datasets and groups that neither run nor are paused, and their next starts.
    fn waiting(&self) -> impl Iterator<Item = (&Name, &DatasetStarts, DateTime<Utc>)> {
        let is_waiting =
            |entry: &DatasetStarts, name: &Name| !is_running(entry, &self.running) && !self.paused.contains(name);
        let waiting = self.entries.iter().filter(move |(name, entry)| is_waiting(entry, name));
        waiting.filter_map(|(name, entry)| Some((name, entry, entry.next()?)))
    }

    fn is_unit_running(&self, unit: &Name) -> bool {
        self.entries.get(unit).is_some_and(|entry| is_running(entry, &self.running))
    }

    /// Whether there are places for all that start together, or for any at all.
    fn has_room(&self, entry: Option<&DatasetStarts>) -> bool {
        self.running.len() - self.released.len() + entry.map_or(1, |entry| entry.members.len()) <= self.places
    }

    /// Whether a start of `entry` leaves a place for short ones, where there are such.
    fn has_place(&self, entry: &DatasetStarts) -> bool {
        let is_long = |entry: &&DatasetStarts| entry.lasts > LONGEST_SHORT_RUN;
        let placed = self.running.keys().filter(|name| !self.released.contains(*name));
        let long = placed.filter_map(|name| self.entry(name)).filter(is_long).count();
        let short = || self.entries.values().any(|entry| entry.schedule.is_some() && !is_long(&entry));
        let members = entry.members.len();
        // A group that needs every place has them while no other long one runs.
        let is_alone = self.places == 1 || members > 1 && long == 0;
        is_alone || !is_long(&entry) || long + members < self.places || !short()
    }
}

/// Whether any member runs.
fn is_running(entry: &DatasetStarts, running: &BTreeMap<Name, bool>) -> bool {
    entry.members.iter().any(|member| running.contains_key(member))
}

/// When a run would end that had started when it was due.
fn end(entry: &DatasetStarts, due: DateTime<Utc>) -> DateTime<Utc> {
    due.checked_add_signed(entry.lasts).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

impl DatasetStarts {
    fn new(seed: &str, schedule: Option<Schedule>, members: Vec<Name>, considered: DateTime<Utc>) -> Self {
        let epoch = DateTime::UNIX_EPOCH;
        let jitter = schedule.as_ref().map_or(TimeDelta::zero(), |s| s.jittered(epoch, seed) - epoch);
        let lasts = TimeDelta::zero();
        let mut entry = Self { members, schedule, jitter, considered, due: None, retry: None, lasts, looks: false };
        entry.consider(considered);
        entry
    }

    /// Whether it may start. Its jitter may take a start beyond the end of a window.
    fn is_open(&self, now: DateTime<Utc>) -> bool {
        let is_open = |schedule: &Schedule| schedule.is_open(now) || schedule.is_open(now - self.jitter);
        self.looks || self.schedule.as_ref().is_none_or(is_open)
    }

    /// The next start, by schedule or because the last run failed.
    fn next(&self) -> Option<DateTime<Utc>> {
        self.retry.into_iter().chain(self.due).min()
    }

    fn consider(&mut self, time: DateTime<Utc>) {
        (self.considered, self.retry, self.looks) = (time, None, false);
        let fire = self.schedule.as_ref().and_then(|schedule| schedule.next_after(time - self.jitter));
        self.due = fire.map(|fire| fire + self.jitter);
    }
}

#[cfg(test)]
mod tests;
