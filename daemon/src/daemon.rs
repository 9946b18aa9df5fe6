//! The daemon: one loop that starts runs, handles their results, and obeys signals.
//!
//! - **Start**: lock, keys, endpoints bound, then systemd hears READY.
//! - **Reload** (SIGHUP): an invalid configuration changes nothing. A run that has started
//!   finishes with the old one. Addresses and the state directory stay until a restart.
//! - **End** (SIGTERM, SIGINT): no new run starts. Those under way may finish within
//!   `limits.shutdown`, then they are cancelled. Whoever waits gets an answer. The metrics
//!   endpoint is last. A second signal cancels at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::backup::{Progress, RunBudget};
use lifeboat_engine::base::{Class, Error, Result};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::databases::ToolEnvironment;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::pause::Pause;
use lifeboat_engine::state::{Lock, StateDirectory};
use tokio::sync::{mpsc, oneshot};

use crate::control::protocol::{Answer, Cancelled, Paused};
use crate::control::{What, Wish};
use crate::endpoints::Endpoints;
use crate::groups::{GroupRun, MemberRun};
use crate::held::{HeldStarts, Verdict};
use crate::installation::Installation;
use crate::live::{Live, Turn};
use crate::notify;
use crate::pauses::Pauses;
use crate::pruning::SHORTEST_PRUNE;
use crate::recorded;
use crate::run_report::RunReport;
use crate::runner::{Runner, one_prune};
use crate::runs::{Run, RunEvent, Runs};
use crate::scheduler::{Cause, Scheduler};
use crate::signals::{Signals, Told};
use crate::start::{Start, Stop};
use crate::status::Ledger;
use crate::turn::Ended;
use crate::upkeep::Upkeep;
use crate::words;

/// The loop turns at least this often, so that it sees a clock that was set.
const TURN: Duration = Duration::from_secs(5);
/// How many requests may wait for the loop.
const WISHES: usize = 32;

/// Where the configuration came from.
pub(crate) struct Origin {
    pub path: PathBuf,
    pub surroundings: Surroundings,
    /// What client tools inherit of the environment.
    pub tools: ToolEnvironment,
}

/// A daemon whose endpoints are bound.
pub(crate) struct Daemon {
    origin: Origin,
    live: Arc<Live>,
    runner: Runner,
    scheduler: Scheduler,
    upkeep: Upkeep,
    runs: Runs,
    held: HeldStarts,
    pauses: Pauses,
    /// Groups of which a member runs.
    groups: BTreeMap<Name, GroupRun>,
    /// Who waits for the end of a run of a group.
    waiting_for_groups: BTreeMap<Name, Vec<oneshot::Sender<Answer>>>,
    /// Who waits for the next run of a dataset, or of a group.
    waiting: BTreeMap<Name, Vec<oneshot::Sender<Answer>>>,
    /// Datasets that an operator wants this host to lead.
    takeovers: BTreeSet<Name>,
    wishes: mpsc::Receiver<Wish>,
    signals: Signals,
    endpoints: Endpoints,
    _lock: Lock,
}

enum Event {
    Turn,
    Wish(Wish),
    Run(RunEvent),
    Reload,
    Stop,
}

impl Daemon {
    /// Takes the lock, opens keys and replicas, binds the endpoints.
    ///
    /// # Errors
    /// Another daemon runs, the keys are missing, or an address is in use.
    pub(crate) async fn start(config: Config, origin: Origin, clock: SharedClock) -> Result<Self> {
        let signals = Signals::listen()?;
        let state = StateDirectory::open_for_writing(&config.state_directory)?;
        let lock = state.lock_daemon()?;
        let installation = Arc::new(Installation::open(config, &clock).await?);
        let config = &installation.config;
        let ledger = Arc::new(Ledger::open(&state, config.datasets.iter().map(|dataset| &dataset.name)));
        let live = Arc::new(Live::new(installation.clone(), state.clone(), ledger.clone(), clock.clone()));

        // Before anybody can ask what came of them.
        let budget = RunBudget::new(&config.limits);
        let runner = Runner { state, ledger, clock, tools: origin.tools.clone(), budget, prunes: one_prune() };
        config.datasets.iter().for_each(|dataset| runner.take_in_killed(dataset));
        Self::take_in_groups(&runner, config, true);
        let (sender, wishes) = mpsc::channel(WISHES);
        let (endpoints, address) = Endpoints::open(config, &live, sender).await?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %address,
            datasets = config.datasets.len(),
            replicas = config.replicas.len(),
            "lifeboatd started"
        );
        let scheduler = Scheduler::new(config, |dataset| runner.considered(dataset));
        let names = config.datasets.iter().map(|dataset| &dataset.name);
        let pauses = Pauses::open(&runner.state, &runner.clock, names);
        let upkeep = Upkeep::new(runner.clone(), live.clone());
        let mut daemon = Self {
            origin,
            live,
            runner,
            scheduler,
            upkeep,
            runs: Runs::default(),
            held: HeldStarts::default(),
            pauses,
            groups: BTreeMap::new(),
            waiting_for_groups: BTreeMap::new(),
            waiting: BTreeMap::new(),
            takeovers: BTreeSet::new(),
            wishes,
            signals,
            endpoints,
            _lock: lock,
        };
        daemon.remember_runs();
        daemon.record_configuration();
        Ok(daemon)
    }

    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// An endpoint crashed.
    pub(crate) async fn run(mut self) -> Result<()> {
        notify::ready();
        loop {
            self.turn().await;
            match self.event().await {
                Event::Turn => {}
                Event::Wish(wish) => self.obey(wish),
                Event::Run(event) => self.take_in(event),
                Event::Reload => self.reload().await,
                Event::Stop => break,
            }
            if self.endpoints.have_crashed() {
                self.stop().await;
                return Err(
                    Error::failed("the metrics endpoint crashed").hint("start lifeboatd again, if systemd does not")
                );
            }
        }
        self.stop().await;
        Ok(())
    }

    fn obey(&mut self, Wish { dataset, what, answer }: Wish) {
        let answered: Answer = match what {
            What::Start(start) => {
                self.scheduler.request(&dataset);
                if start == Start::Takeover {
                    self.takeovers.insert(dataset.clone());
                }
                return self.waiting.entry(dataset).or_default().push(answer);
            }
            What::Cancel => return self.cancel(&dataset, answer),
            What::Pause(lasts, why) => {
                let begun = self.pauses.begin(&dataset, lasts, why);
                let begun =
                    begun.inspect(|pause| recorded::pause(&self.runner, self.live.installation(), &dataset, pause));
                begun.map(|Pause { until, .. }| Paused { dataset, until }).into()
            }
            What::Resume => self.pauses.end(&dataset).into(),
        };
        let _ = answer.send(answered);
    }

    /// Starts what is due.
    async fn turn(&mut self) {
        let paused = self.pauses.now();
        self.scheduler.pause(&paused.keys().cloned().collect());
        paused.keys().for_each(|dataset| self.held.done(dataset));
        let runner = &self.runner;
        self.scheduler.set_back(runner.clock.now(), |dataset| runner.considered(dataset));
        while let Some((dataset, cause)) = self.scheduler.start(self.runner.clock.now()) {
            tracing::debug!(%dataset, ?cause, "due");
            for member in self.scheduler.members(&dataset) {
                self.upkeep.make_way(&member).await;
            }
            let start = match cause {
                _ if self.takeovers.remove(&dataset) => Start::Takeover,
                Cause::Trigger => Start::Asked,
                Cause::Schedule | Cause::CatchUp => Start::Scheduled,
                Cause::Retry => Start::Retry,
            };
            match self.live.installation().config.group(&dataset) {
                Some(group) => self.start_group(group, start),
                None => self.start_run(dataset, start, None),
            }
        }
        let (scheduler, now) = (&self.scheduler, self.runner.clock.now());
        self.runs.make_way(|dataset, since| {
            let had_its_time = (now - since).to_std().is_ok_and(|time| time >= SHORTEST_PRUNE);
            scheduler.is_asked(dataset) || had_its_time && scheduler.is_due(dataset, now)
        });
        self.upkeep.turn(|dataset| scheduler.runs(dataset)).await;
        let installation = self.live.installation();
        let names = installation.config.datasets.iter().map(|dataset| &dataset.name);
        let next = |name: &Name| Some((name.clone(), self.next_start(name, paused.get(name))?));
        let next: BTreeMap<Name, DateTime<Utc>> = names.filter_map(next).collect();
        notify::status(&if self.runs.is_empty() { idle(&next) } else { self.runs.line() });
        self.live.turned(Turn {
            running: self.runs.shown(),
            queue: self.scheduler.queue(self.runner.clock.now()),
            next,
            // What has got the lock waits no more.
            held: self.held.since().into_iter().filter(|(name, _)| !self.scheduler.runs(name)).collect(),
            paused,
        });
        notify::alive();
    }

    fn start_run(&mut self, dataset: Name, start: Start, member: Option<MemberRun>) {
        let (runner, installation) = (self.runner.clone(), self.live.installation());
        let (progress, stop) = (Arc::<Progress>::default(), Stop::default());
        let (name, told, stopped) = (dataset.clone(), progress.clone(), stop.clone());
        let work = async move { runner.start(&installation, &name, start, member.as_ref(), &told, &stopped).await };
        let task = tokio::spawn(work);
        let (since, waiting) = (self.runner.clock.now(), self.waiting.remove(&dataset).unwrap_or_default());
        let run = Run { since, progress, stop, prunes_since: None, task, waiting, cancelling: Vec::new() };
        self.runs.add(dataset, run);
    }

    /// An operator wants that no backup of `dataset` runs, or waits to run.
    fn cancel(&mut self, dataset: &Name, answer: oneshot::Sender<Answer>) {
        let Some(answer) = self.runs.cancel(dataset, answer) else { return };
        let told = if self.withdraw(dataset) {
            tracing::info!(%dataset, "a backup that waited was cancelled by an operator");
            Answer::from(Cancelled { dataset: dataset.clone(), ran: false, pruned_after: None })
        } else {
            let error = Error::usage(format!("no backup of {dataset} runs or waits"));
            error.hint("run `lifeboatd status` to see what does").into()
        };
        let _ = answer.send(told);
    }

    /// Drops every start of `dataset` that waits or is due. Tells whether there was one.
    fn withdraw(&mut self, dataset: &Name) -> bool {
        let (now, waited) = (self.runner.clock.now(), self.held.waits(dataset));
        let withdrawn = self.scheduler.withdraw(dataset, now, waited);
        self.held.done(dataset);
        self.takeovers.remove(dataset);
        if withdrawn {
            // So that no restart makes up for it, unless another program holds the lock.
            self.runner.remember(dataset, |status| status.considered = Some(now));
        }
        let cancelled = Error::cancelled(&format!("the backup of {dataset}")).hint("an operator cancelled it");
        answer_all(self.waiting.remove(dataset).unwrap_or_default(), &cancelled.into());
        withdrawn
    }

    /// Waits until something happens, but not for long.
    async fn event(&mut self) -> Event {
        let pause = notify::watchdog().map_or(TURN, |watchdog| TURN.min(watchdog));
        let now = self.runner.clock.now();
        let due = self.scheduler.wake_at(now).map(|due| (due - now).to_std().unwrap_or_default());
        tokio::select! {
            event = self.runs.event() => Event::Run(event),
            Some(wish) = self.wishes.recv() => Event::Wish(wish),
            signal = self.signals.next() => match signal {
                Told::Stop => Event::Stop,
                Told::Reload => Event::Reload,
            },
            () = self.upkeep.job_ended() => Event::Turn,
            () = tokio::time::sleep(due.unwrap_or(pause).min(pause)) => Event::Turn,
        }
    }

    fn take_in(&mut self, event: RunEvent) {
        match event {
            RunEvent::BackedUp(dataset) => {
                self.scheduler.released(&dataset);
                self.runs.prunes(&dataset, self.runner.clock.now());
            }
            RunEvent::Ended(dataset, result) => self.ended(&dataset, *result),
        }
    }

    fn ended(&mut self, dataset: &Name, result: Result<Ended>) {
        let was_due = self.scheduler.was_due(dataset);
        self.scheduler.finished(dataset);
        let Some(run) = self.runs.remove(dataset) else { return };
        // Whoever gets the answer and asks for the status sees that it has ended.
        self.live.ended(dataset);
        self.member_ended(dataset, &result);
        let report = match result {
            Ok(Ended::BackedUp(report)) => Ok(*report),
            Ok(Ended::Locked(error)) => {
                if run.cancelling.is_empty() {
                    self.wait_for_lock(dataset, &error, was_due);
                } else {
                    self.withdraw(dataset);
                }
                answer_all(run.waiting, &error.into());
                let cancelled = Cancelled { dataset: dataset.clone(), ran: false, pruned_after: None };
                answer_all(run.cancelling, &cancelled.into());
                return;
            }
            Ok(Ended::Left(again)) => {
                if let Some(time) = again {
                    self.scheduler.again(dataset, time);
                }
                Err(Error::cancelled("the run").hint("ask again"))
            }
            Err(error) => Err(error),
        };
        self.held.done(dataset);
        self.remember_run(dataset);
        if report.as_ref().map_or(true, |report| self.runner.needs_catch_up(&report.backup)) {
            self.upkeep.want(dataset);
        }
        let cancelled = match &report {
            Ok(RunReport { backup, .. }) if run.prunes_since.is_some() => {
                let pruned_after = Some(backup.snapshot.clone());
                Cancelled { dataset: dataset.clone(), ran: true, pruned_after }.into()
            }
            Ok(report) => {
                let error =
                    Error::failed(format!("the backup of {dataset} was committed before it could be cancelled"));
                error.hint(format!("its snapshot is {}", report.backup.snapshot)).into()
            }
            // It may be committed.
            Err(error) if error.class() == Class::Unknown => {
                Error::new(Class::Unknown, error.chain()).hint(error.hint_text().unwrap_or_default()).into()
            }
            Err(_) => Cancelled { dataset: dataset.clone(), ran: true, pruned_after: None }.into(),
        };
        if !run.cancelling.is_empty() {
            // A start that came while it ran would begin it anew at once.
            self.withdraw(dataset);
        }
        answer_all(run.cancelling, &cancelled);
        answer_all(run.waiting, &Answer::from(report));
    }

    /// Another program works on `dataset`. A start that was due waits for it.
    fn wait_for_lock(&mut self, dataset: &Name, error: &Error, was_due: bool) {
        if !was_due && !self.held.waits(dataset) {
            return;
        }
        let (now, longest) = (self.runner.clock.now(), self.live.installation().config.limits.run);
        let longest = TimeDelta::from_std(longest).unwrap_or(TimeDelta::MAX);
        let begins = !self.held.waits(dataset);
        match self.held.found_taken(dataset, now, self.scheduler.next_start(dataset), longest) {
            Verdict::Waits(look) => {
                if begins {
                    tracing::warn!(%dataset, "the backup waits: {}", error.chain());
                }
                self.scheduler.again(dataset, look);
            }
            Verdict::Missed(since, look) => {
                let why = format!("it could not start, and had waited since {}: {}", words::time(since), error.chain());
                tracing::error!(%dataset, class = error.class().as_str(), "backup failed: {why}");
                self.runner.ledger.missed(dataset, why, None);
                if let Some(look) = look {
                    self.scheduler.again(dataset, look);
                }
            }
        }
    }

    /// So after a restart or a reload, too.
    fn remember_runs(&mut self) {
        for dataset in &self.live.installation().config.datasets {
            self.remember_run(&dataset.name);
        }
    }

    fn record_configuration(&self) {
        let Runner { state, clock, .. } = &self.runner;
        recorded::configuration(self.live.installation(), &self.origin.path, state, clock);
    }

    async fn reload(&mut self) {
        notify::reloading();
        match self.installation().await {
            Ok(installation) => {
                let old = self.live.installation();
                let (before, after) = (&old.config, &installation.config);
                if (before.listen, before.listen_tls.is_some(), &before.control_socket, &before.state_directory)
                    != (after.listen, after.listen_tls.is_some(), &after.control_socket, &after.state_directory)
                {
                    tracing::warn!(
                        "listen, listen_tls, control_socket and state_directory change only with a restart: run `systemctl restart lifeboatd`"
                    );
                }
                let runner = &self.runner;
                runner.budget.set(&after.limits);
                self.scheduler.reload(after, |dataset| runner.considered(dataset));
                self.takeovers.retain(|dataset| after.dataset(dataset).is_some());
                let gone: Vec<Name> = self.waiting.keys().filter(|name| !after.has(name)).cloned().collect();
                for dataset in gone {
                    for waiting in self.waiting.remove(&dataset).unwrap_or_default() {
                        let error = Error::usage(format!("the configuration no longer has {dataset}"));
                        let _ = waiting.send(error.into());
                    }
                }
                Self::take_in_groups(runner, after, false);
                for dataset in &after.datasets {
                    self.pauses.read(&dataset.name);
                    self.upkeep.want(&dataset.name);
                }
                tracing::info!(
                    datasets = after.datasets.len(),
                    replicas = after.replicas.len(),
                    "configuration reloaded"
                );
                self.held.retain(|dataset| installation.config.dataset(dataset).is_some());
                self.endpoints.renew(&installation.config);
                self.live.install(Arc::new(installation));
                self.record_configuration();
                self.remember_runs();
            }
            Err(error) => tracing::error!(
                hint = error.hint_text().unwrap_or_default(),
                "the configuration was not reloaded, the old one stays in use: {}",
                error.chain_and_hint()
            ),
        }
        notify::ready();
    }

    async fn installation(&self) -> Result<Installation> {
        let config = Config::load(&self.origin.path, &self.origin.surroundings)?;
        Installation::open(config, &self.runner.clock).await
    }

    /// When `dataset` starts next by schedule. A pause puts it off.
    fn next_start(&self, dataset: &Name, pause: Option<&Pause>) -> Option<DateTime<Utc>> {
        let due = self.scheduler.next_start(dataset)?;
        Some(pause.map_or(due, |pause| due.max(pause.until)))
    }
}

fn idle(next: &BTreeMap<Name, DateTime<Utc>>) -> String {
    match next.iter().min_by_key(|(_, at)| **at) {
        Some((dataset, at)) => format!("Idle; next is {dataset} at {}", words::time(*at)),
        None => "Idle; nothing is scheduled".to_owned(),
    }
}

fn answer_all(waiting: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for waiting in waiting {
        // Whoever hung up does not want it any more.
        let _ = waiting.send(answer.clone());
    }
}

mod ending;
mod grouped;
#[cfg(test)]
mod tests;
