//! What the endpoints show of the daemon: the loop writes it, `http` and `control` read it. Nothing
//! here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::backup::Progress;
use lifeboat_engine::base::Result;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::is_future;
use lifeboat_engine::keep::locks::LockStandings;
use lifeboat_engine::keep::warden_log::{WardenTells, WardenWord};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::state::pause::Pause;
use lifeboat_engine::store::{DeletionLevel, Down, SharedReplica};
use serde::Serialize;

use crate::drills::ToldDrills;
use crate::group_status::{self, GroupStatus};
use crate::installation::Installation;
use crate::metrics::{self, LastLooks};
use crate::scheduler::Queued;
use crate::status::{DatasetStatus, Ledger};

/// A loop that has not turned for this long hangs.
const HUNG: Duration = Duration::from_secs(60);

pub(crate) struct Live {
    state_directory: StateDirectory,
    ledger: Arc<Ledger>,
    clock: SharedClock,
    state: Mutex<State>,
}

struct State {
    installation: Arc<Installation>,
    turn: Turn,
    /// Replicas that answered when they were last asked. Empty before they were.
    up: BTreeMap<Name, bool>,
    /// How far deletion was apart from this host when that was last tried.
    guards: BTreeMap<Name, DeletionLevel>,
    /// How the locks of each dataset stand.
    locks: BTreeMap<Name, LockStandings>,
    /// When the witnesses of the root looked last.
    witnesses: LastLooks,
    /// What the warden of the root tells, if it has one.
    warden: Option<WardenTells>,
    /// What drills tell of the datasets that this host leads.
    drills: BTreeMap<Name, ToldDrills>,
    /// When the loop last turned.
    turned: Duration,
    stopping: bool,
}

/// A run, as the endpoints show it.
#[derive(Debug, Clone)]
pub(crate) struct RunningBackup {
    pub dataset: Name,
    pub since: DateTime<Utc>,
    pub progress: Arc<Progress>,
    /// Since when it prunes. `None`: it backs up.
    pub prunes_since: Option<DateTime<Utc>>,
}

/// What the loop knew at its last turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub running: Vec<RunningBackup>,
    /// Starts that wait for a place.
    pub queue: Vec<Queued>,
    /// When each dataset starts next.
    pub next: BTreeMap<Name, DateTime<Utc>>,
    /// Starts that wait because another program works on their dataset, and since when.
    pub held: BTreeMap<Name, DateTime<Utc>>,
    /// What the schedule does not start for a while.
    pub paused: BTreeMap<Name, Pause>,
}

/// The answer to `status`.
#[derive(Debug, Serialize)]
pub(crate) struct StatusReport {
    #[serde(skip)]
    pub now: DateTime<Utc>,
    pub version: &'static str,
    pub running: Vec<RunReported>,
    /// Starts that wait for a place, the first to start first.
    pub queue: Vec<Queued>,
    pub stopping: bool,
    /// Whether each replica answered when it was last asked, be it by a run.
    pub replicas: BTreeMap<Name, bool>,
    /// Replicas that runs leave alone until they answer a probe.
    pub left_alone: BTreeMap<Name, LeftAlone>,
    pub datasets: BTreeMap<Name, DatasetReport>,
    /// What is remembered of each group.
    pub groups: BTreeMap<Name, GroupStatus>,
}

/// A run under way, in [`StatusReport`].
#[derive(Debug, Serialize)]
pub(crate) struct RunReported {
    pub dataset: Name,
    pub since: DateTime<Utc>,
    pub elapsed_seconds: f64,
    pub read_bytes: u64,
    /// The part of them that was stored already.
    pub deduplicated_bytes: u64,
    /// Stored in as many replicas as the snapshot needs.
    pub stored_bytes: u64,
    /// Whether its commit has begun, which is finished.
    pub committing: bool,
    /// Since when it prunes: its snapshot is committed, and it takes no place of `limits.runs`.
    pub prunes_since: Option<DateTime<Utc>>,
}

impl RunReported {
    fn of(run: &RunningBackup, now: DateTime<Utc>) -> Self {
        let Progress { read, deduplicated, stored, committing } = &*run.progress;
        Self {
            dataset: run.dataset.clone(),
            since: run.since,
            elapsed_seconds: (now - run.since).as_seconds_f64().max(0.0),
            read_bytes: read.load(Ordering::Relaxed),
            deduplicated_bytes: deduplicated.load(Ordering::Relaxed),
            stored_bytes: stored.load(Ordering::Relaxed),
            committing: committing.load(Ordering::SeqCst),
            prunes_since: run.prunes_since,
        }
    }
}

/// A replica that does not answer, in [`StatusReport`].
#[derive(Debug, Serialize)]
pub(crate) struct LeftAlone {
    pub since: DateTime<Utc>,
    pub why: String,
}

/// One dataset in [`StatusReport`].
#[derive(Debug, Serialize)]
pub(crate) struct DatasetReport {
    /// When it starts next by schedule. `None` if that start is due, too.
    pub next: Option<DateTime<Utc>>,
    /// Since when a start by schedule is due.
    pub due_since: Option<DateTime<Utc>>,
    /// Since when a start waits because another program works on the dataset, …
    pub waits_since: Option<DateTime<Utc>>,
    /// … and which one.
    pub waits_for: Option<String>,
    /// Until when the schedule starts no backup of it, and why.
    pub paused: Option<Pause>,
    /// Whether `last_success` lies in the future, so that it tells no age.
    pub newest_in_future: bool,
    /// What the warden of the root tells of it, if there is one.
    pub warden: Option<WardenWord>,
    #[serde(flatten)]
    pub status: DatasetStatus,
}

impl Live {
    pub(crate) fn new(
        installation: Arc<Installation>,
        state_directory: StateDirectory,
        ledger: Arc<Ledger>,
        clock: SharedClock,
    ) -> Self {
        let state = State {
            installation,
            turn: Turn::default(),
            up: BTreeMap::new(),
            guards: BTreeMap::new(),
            witnesses: LastLooks::new(),
            warden: None,
            drills: BTreeMap::new(),
            locks: BTreeMap::new(),
            turned: clock.elapsed(),
            stopping: false,
        };
        Self { state_directory, ledger, clock, state: Mutex::new(state) }
    }

    /// What new runs work with.
    pub(crate) fn installation(&self) -> Arc<Installation> {
        self.lock().installation.clone()
    }

    /// After a reload.
    pub(crate) fn install(&self, installation: Arc<Installation>) {
        let mut state = self.lock();
        let replicas = &installation.config.replicas;
        state.guards.retain(|name, _| replicas.iter().any(|replica| replica.name == *name));
        state.installation = installation;
    }

    /// The loop turned.
    pub(crate) fn turned(&self, turn: Turn) {
        let mut state = self.lock();
        state.turned = self.clock.elapsed();
        state.turn = turn;
    }

    /// A run has ended.
    pub(crate) fn ended(&self, dataset: &Name) {
        self.lock().turn.running.retain(|run| run.dataset != *dataset);
    }

    /// A replica was asked. Tells whether that is news.
    pub(crate) fn heard(&self, replica: &Name, up: bool) -> bool {
        self.lock().up.insert(replica.clone(), up) != Some(up)
    }

    /// It was tried how far deletion is apart from this host. Returns what was found before.
    pub(crate) fn guarded(&self, replica: &Name, level: DeletionLevel) -> Option<DeletionLevel> {
        self.lock().guards.insert(replica.clone(), level)
    }

    /// It is no longer known how far deletion is apart from this host.
    pub(crate) fn unguarded(&self, replica: &Name) {
        self.lock().guards.remove(replica);
    }

    /// This host extends the locks of these datasets, and of no others any more.
    pub(crate) fn locks_only(&self, datasets: &BTreeSet<&Name>) {
        self.lock().locks.retain(|dataset, _| datasets.contains(dataset));
    }

    /// Locks were extended, or not.
    pub(crate) fn locked(&self, dataset: &Name, standings: LockStandings) {
        self.lock().locks.insert(dataset.clone(), standings);
    }

    /// When the witnesses of the root looked last, and what its warden tells.
    pub(crate) fn looked(&self, witnesses: LastLooks, warden: Option<WardenTells>) {
        let mut state = self.lock();
        (state.witnesses, state.warden) = (witnesses, warden);
    }

    /// What drills were last known to tell.
    pub(crate) fn drills(&self) -> BTreeMap<Name, ToldDrills> {
        self.lock().drills.clone()
    }

    /// What drills tell.
    pub(crate) fn drilled(&self, drills: BTreeMap<Name, ToldDrills>) {
        self.lock().drills = drills;
    }

    /// The daemon begins to stop.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
    }

    /// Whether the loop turns.
    pub(crate) fn is_healthy(&self) -> bool {
        self.clock.elapsed().saturating_sub(self.lock().turned) < HUNG
    }

    /// Why a backup could not succeed now, if so.
    pub(crate) fn unready(&self) -> Option<String> {
        let state = self.lock();
        let config = &state.installation.config;
        let up = state.up().into_values().filter(|up| *up).count();
        if state.stopping {
            Some("stopping".to_owned())
        } else if up < config.min_replicas {
            Some(format!(
                "{up} of {} replicas are up, but min_replicas is {}",
                config.replicas.len(),
                config.min_replicas
            ))
        } else {
            None
        }
    }

    /// The page of `/metrics`.
    ///
    /// # Errors
    /// As [`metrics::render`].
    pub(crate) fn metrics(&self) -> Result<String> {
        let now = self.clock.now();
        let (installation, running, waiting, paused, up, guards, locks, (witnesses, warden, drills)) = {
            let state = self.lock();
            let backing_up = state.turn.running.iter().filter(|run| run.prunes_since.is_none());
            let running = backing_up.map(|run| run.dataset.clone()).collect();
            let (guards, locks) = (state.guards.clone(), state.locks.clone());
            let looks = (state.witnesses.clone(), state.warden.clone(), state.drills.clone());
            let (waiting, paused) = (state.turn.waiting(), state.turn.paused.clone());
            (state.installation.clone(), running, waiting, paused, state.up(), guards, locks, looks)
        };
        metrics::render(&metrics::Snapshot {
            config: &installation.config,
            intervals: &installation.intervals,
            statuses: &self.statuses(&installation),
            groups: &self.groups(&installation),
            running: &running,
            waiting: &waiting,
            paused: &paused,
            up: &up,
            guards: &guards,
            locks: &locks,
            witnesses: &witnesses,
            warden: warden.as_ref(),
            drills: &drills,
            now,
        })
    }

    /// The answer to `status`.
    pub(crate) fn report(&self) -> StatusReport {
        let (installation, now) = (self.installation(), self.clock.now());
        let (statuses, limits) = (self.statuses(&installation), &installation.config.limits);
        let groups = self.groups(&installation);
        let state = self.lock();
        let datasets = statuses.into_iter().map(|(name, mut status)| {
            if let Some(group) = installation.config.group_of(&name).and_then(|group| groups.get(&group.name)) {
                // Its members are tried again together.
                status.retry_at = group.retry_at;
            }
            let next = state.turn.next.get(&name).copied();
            let (due_since, next) = (next.filter(|time| *time <= now), next.filter(|time| *time > now));
            let in_future = |time: &DateTime<Utc>| is_future(*time, now, limits);
            let newest_in_future = status.last_success.as_ref().is_some_and(in_future);
            let waits_since = state.turn.held.get(&name).copied();
            let waits_for = waits_since.map(|_| self.state_directory.holder(&name));
            let paused = state.turn.paused.get(&name).cloned();
            let warden = state.warden.as_ref().and_then(|warden| warden.datasets.get(&name)).cloned();
            (name, DatasetReport { next, due_since, waits_since, waits_for, paused, newest_in_future, warden, status })
        });
        StatusReport {
            now,
            version: env!("CARGO_PKG_VERSION"),
            running: state.turn.running.iter().map(|run| RunReported::of(run, now)).collect(),
            queue: state.turn.queue.clone(),
            stopping: state.stopping,
            replicas: state.up(),
            left_alone: left_alone(&state.installation),
            datasets: datasets.collect(),
            groups,
        }
    }

    fn groups(&self, installation: &Installation) -> BTreeMap<Name, GroupStatus> {
        let names = installation.config.groups.iter().map(|group| &group.name);
        names.map(|name| (name.clone(), group_status::read(&self.state_directory, name))).collect()
    }

    fn statuses(&self, installation: &Installation) -> BTreeMap<Name, DatasetStatus> {
        let names = installation.config.datasets.iter().map(|dataset| &dataset.name);
        let status = |name: &Name| {
            self.ledger.refresh(name);
            (name.clone(), self.ledger.get(name))
        };
        names.map(status).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Since when each start waits that was due, for a place or for another program.
    fn waiting(&self) -> BTreeMap<Name, DateTime<Utc>> {
        let queued = self.queue.iter().filter_map(|queued| Some((queued.dataset.clone(), queued.due?)));
        queued.chain(self.held.iter().map(|(dataset, since)| (dataset.clone(), *since))).collect()
    }
}

impl State {
    /// Which replicas have answered the last check, and were not found silent by a run since.
    fn up(&self) -> BTreeMap<Name, bool> {
        let down = left_alone(&self.installation);
        self.up.iter().map(|(name, up)| (name.clone(), *up && !down.contains_key(name))).collect()
    }
}

fn left_alone(installation: &Installation) -> BTreeMap<Name, LeftAlone> {
    let down = |replica: &SharedReplica| {
        let Down { since, why } = replica.down()?;
        Some((replica.name().clone(), LeftAlone { since, why }))
    };
    installation.replicas.iter().filter_map(down).collect()
}
