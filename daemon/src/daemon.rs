//! The daemon: one loop that starts runs, handles their results, and obeys signals.
//!
//! - **Start**: lock, keys, endpoints bound, then systemd hears READY.
//! - **Reload** (SIGHUP): an invalid configuration changes nothing. A run that has started
//!   finishes with the old one. Addresses and the state directory stay until a restart.
//! - **End** (SIGTERM, SIGINT): no new run starts. The current one may finish within
//!   `limits.shutdown`, then it is cancelled. Whoever waits gets an answer. The metrics endpoint is
//!   last. A second signal cancels at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::backup::Progress;
use lifeboat_engine::base::{Class, Context, Error, Result};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::databases::ToolEnvironment;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::{Lock, StateDirectory};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::control::protocol::Answer;
use crate::control::{self, Trigger};
use crate::held::{HeldStarts, Verdict};
use crate::http;
use crate::installation::Installation;
use crate::live::Live;
use crate::notify;
use crate::runner::{OBEY, Runner};
use crate::scheduler::{Cause, Scheduler};
use crate::start::Start;
use crate::status::Ledger;
use crate::turn::Ended;
use crate::upkeep::Upkeep;
use crate::words;

/// The loop turns at least this often, so that it sees a clock that was set.
const TURN: Duration = Duration::from_secs(5);
/// How many requested runs may wait to be queued.
const TRIGGERS: usize = 32;
/// How long the endpoints may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

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
    run: Option<Run>,
    held: HeldStarts,
    /// Who waits for the next run of a dataset.
    waiting: BTreeMap<Name, Vec<oneshot::Sender<Answer>>>,
    /// Datasets that an operator wants this host to lead.
    takeovers: BTreeSet<Name>,
    triggers: mpsc::Receiver<Trigger>,
    signals: Signals,
    endpoints: Endpoints,
    _lock: Lock,
}

struct Run {
    dataset: Name,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    task: JoinHandle<Result<Ended>>,
    waiting: Vec<oneshot::Sender<Answer>>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

struct Endpoints {
    http: JoinHandle<Result<()>>,
    stop_http: CancellationToken,
    control: JoinHandle<()>,
    stop_control: CancellationToken,
    socket: PathBuf,
}

enum Event {
    Turn,
    Trigger(Trigger),
    Ended(Box<Result<Ended>>),
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
        let state = StateDirectory::open(&config.state_directory)?;
        let lock = state.lock_daemon()?;
        let installation = Arc::new(Installation::open(config, &clock).await?);
        let config = &installation.config;
        let ledger = Arc::new(Ledger::open(&state, config.datasets.iter().map(|dataset| &dataset.name)));
        let live = Arc::new(Live::new(installation.clone(), state.clone(), ledger.clone(), clock.clone()));

        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            Error::failed(format!("cannot listen on {}", config.listen))
                .because(error)
                .hint("stop the program that listens there, or set `listen` to a free address of this host")
        })?;
        let address = listener.local_addr().context(Class::Failed, || "cannot tell the address of the endpoint")?;
        let (stop_http, stop_control) = (CancellationToken::new(), CancellationToken::new());
        let (sender, triggers) = mpsc::channel(TRIGGERS);
        let socket = config.control_socket.clone();
        let control = control::serve(control::bind(&socket)?, live.clone(), sender, stop_control.clone());
        let endpoints = Endpoints {
            http: tokio::spawn(http::serve(listener, live.clone(), stop_http.clone())),
            control: tokio::spawn(control),
            stop_http,
            stop_control,
            socket,
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %address,
            datasets = config.datasets.len(),
            replicas = config.replicas.len(),
            "lifeboatd started"
        );
        let runner = Runner { state, ledger, clock, tools: origin.tools.clone() };
        let scheduler = Scheduler::new(config, |dataset| considered(&runner, dataset));
        let upkeep = Upkeep::new(runner.clone(), live.clone());
        let mut daemon = Self {
            origin,
            live,
            runner,
            scheduler,
            upkeep,
            run: None,
            held: HeldStarts::default(),
            waiting: BTreeMap::new(),
            takeovers: BTreeSet::new(),
            triggers,
            signals,
            endpoints,
            _lock: lock,
        };
        daemon.remember_retries();
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
                Event::Trigger(trigger) => {
                    self.scheduler.request(&trigger.dataset);
                    if trigger.start == Start::Takeover {
                        self.takeovers.insert(trigger.dataset.clone());
                    }
                    self.waiting.entry(trigger.dataset).or_default().push(trigger.answer);
                }
                Event::Ended(result) => self.ended(*result),
                Event::Reload => self.reload().await,
                Event::Stop => break,
            }
            if self.endpoints.http.is_finished() {
                self.stop().await;
                return Err(
                    Error::failed("the metrics endpoint crashed").hint("start lifeboatd again, if systemd does not")
                );
            }
        }
        self.stop().await;
        Ok(())
    }

    /// Starts what is due.
    async fn turn(&mut self) {
        if let Some((dataset, cause)) = self.scheduler.start(self.runner.clock.now()) {
            tracing::debug!(%dataset, ?cause, "due");
            self.upkeep.make_way(&dataset).await;
            let (runner, installation, cancel) =
                (self.runner.clone(), self.live.installation(), CancellationToken::new());
            let (name, stop, progress) = (dataset.clone(), cancel.clone(), Arc::<Progress>::default());
            let told = progress.clone();
            let waiting = self.waiting.remove(&dataset).unwrap_or_default();
            let start = match cause {
                _ if self.takeovers.remove(&dataset) => Start::Takeover,
                Cause::Trigger => Start::Asked,
                Cause::Schedule | Cause::CatchUp => Start::Scheduled,
                Cause::Retry => Start::Retry,
            };
            let task = tokio::spawn(async move { runner.start(&installation, &name, start, &told, &stop).await });
            notify::status(&format!("Backing up {dataset}"));
            self.run = Some(Run { dataset, progress, cancel, task, waiting });
        }
        self.upkeep.turn(self.scheduler.running()).await;
        let installation = self.live.installation();
        let names = installation.config.datasets.iter().map(|dataset| &dataset.name);
        let next = names.filter_map(|name| Some((name.clone(), self.scheduler.next_start(name)?))).collect();
        self.live.turned(self.scheduler.running(), next, self.held.since());
        if self.run.is_none() {
            notify::status(&self.idle());
        }
        notify::alive();
    }

    /// Waits until something happens, but not for long.
    async fn event(&mut self) -> Event {
        let pause = notify::watchdog().map_or(TURN, |watchdog| TURN.min(watchdog));
        let due = self.scheduler.wake_at().map(|due| (due - self.runner.clock.now()).to_std().unwrap_or_default());
        tokio::select! {
            result = end_of(&mut self.run) => Event::Ended(Box::new(result)),
            Some(trigger) = self.triggers.recv() => Event::Trigger(trigger),
            event = self.signals.next() => event,
            () = self.upkeep.job_ended() => Event::Turn,
            () = tokio::time::sleep(due.unwrap_or(pause).min(pause)) => Event::Turn,
        }
    }

    fn ended(&mut self, result: Result<Ended>) {
        self.scheduler.finished();
        let Some(run) = self.run.take() else { return };
        let report = match result {
            Ok(Ended::BackedUp(report)) => Ok(*report),
            Ok(Ended::Locked(error)) => {
                self.wait_for_lock(&run.dataset, &error);
                answer_all(run.waiting, &Answer::from(error));
                return;
            }
            Ok(Ended::Left(again)) => {
                if let Some(time) = again {
                    self.scheduler.again(&run.dataset, time);
                }
                Err(Error::cancelled("the run").hint("ask again"))
            }
            Err(error) => Err(error),
        };
        self.held.done(&run.dataset);
        self.remember_retry(&run.dataset);
        self.upkeep.want(&run.dataset);
        answer_all(run.waiting, &Answer::from(report));
    }

    /// Another program works on `dataset`. A start that was due waits for it.
    fn wait_for_lock(&mut self, dataset: &Name, error: &Error) {
        if !self.scheduler.was_due() && !self.held.waits(dataset) {
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
                self.runner.ledger.missed(dataset, why);
                if let Some(look) = look {
                    self.scheduler.again(dataset, look);
                }
            }
        }
    }

    fn remember_retry(&mut self, dataset: &Name) {
        self.scheduler.retry(dataset, self.runner.ledger.get(dataset).retry_at);
    }

    /// Runs that failed before a restart or a reload are tried again, too.
    fn remember_retries(&mut self) {
        for dataset in &self.live.installation().config.datasets {
            self.remember_retry(&dataset.name);
        }
    }

    async fn reload(&mut self) {
        notify::reloading();
        match self.installation().await {
            Ok(installation) => {
                let old = self.live.installation();
                let (before, after) = (&old.config, &installation.config);
                if (before.listen, &before.control_socket, &before.state_directory)
                    != (after.listen, &after.control_socket, &after.state_directory)
                {
                    tracing::warn!(
                        "listen, control_socket and state_directory change only with a restart: run `systemctl restart lifeboatd`"
                    );
                }
                let runner = &self.runner;
                self.scheduler.reload(after, |dataset| considered(runner, dataset));
                self.takeovers.retain(|dataset| after.dataset(dataset).is_some());
                let gone: Vec<Name> =
                    self.waiting.keys().filter(|name| after.dataset(name).is_none()).cloned().collect();
                for dataset in gone {
                    for waiting in self.waiting.remove(&dataset).unwrap_or_default() {
                        let error = Error::usage(format!("the configuration no longer has dataset {dataset}"));
                        let _ = waiting.send(error.into());
                    }
                }
                for dataset in &after.datasets {
                    self.upkeep.want(&dataset.name);
                }
                tracing::info!(
                    datasets = after.datasets.len(),
                    replicas = after.replicas.len(),
                    "configuration reloaded"
                );
                self.held.retain(|dataset| installation.config.dataset(dataset).is_some());
                self.live.install(Arc::new(installation));
                self.remember_retries();
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

    async fn stop(mut self) {
        tracing::info!("stopping");
        notify::stopping();
        self.live.stop();
        self.triggers.close();
        self.waiting.clear();
        self.endpoints.stop_control.cancel();
        self.upkeep.stop().await;
        if self.run.is_some() {
            let result = self.drain().await;
            self.ended(result);
        }
        while let Ok(trigger) = self.triggers.try_recv() {
            drop(trigger);
        }
        if timeout(FAREWELL, &mut self.endpoints.control).await.is_err() {
            self.endpoints.control.abort();
        }
        if let Err(error) = std::fs::remove_file(&self.endpoints.socket) {
            tracing::debug!(%error, "the control socket cannot be removed");
        }
        self.endpoints.stop_http.cancel();
        if timeout(FAREWELL, &mut self.endpoints.http).await.is_err() {
            self.endpoints.http.abort();
        }
        tracing::info!("stopped");
    }

    /// Lets the run finish, then cancels it, then drops it.
    async fn drain(&mut self) -> Result<Ended> {
        let limit = self.live.installation().config.limits.shutdown;
        if let Some(run) = &self.run {
            tracing::info!(dataset = %run.dataset, seconds = limit.as_secs(), "waiting for the run to finish");
        }
        let patience = tokio::time::sleep(limit);
        tokio::pin!(patience);
        let mut alive = tokio::time::interval(notify::watchdog().map_or(TURN, |watchdog| TURN.min(watchdog)));
        loop {
            tokio::select! {
                result = end_of(&mut self.run) => return result,
                () = &mut patience => break,
                () = self.signals.stop() => break,
                _ = alive.tick() => {
                    self.live.turned(self.scheduler.running(), BTreeMap::new(), BTreeMap::new());
                    notify::alive();
                }
            }
        }
        if let Some(run) = &self.run {
            tracing::warn!(dataset = %run.dataset, "Run cancelled. Unless its commit has begun, it starts again after the next start.");
            run.cancel.cancel();
        }
        // The run itself gives the flow `OBEY` to obey, and a commit all the time that it takes.
        let patience = tokio::time::sleep(OBEY + FAREWELL);
        tokio::pin!(patience);
        loop {
            let commits = self.run.as_ref().is_some_and(|run| run.progress.committing.load(Ordering::SeqCst));
            tokio::select! {
                result = end_of(&mut self.run) => return result,
                () = &mut patience, if !commits => break,
                _ = alive.tick() => notify::alive(),
            }
        }
        if let Some(run) = &self.run {
            run.task.abort();
        }
        end_of(&mut self.run).await
    }

    fn idle(&self) -> String {
        let installation = self.live.installation();
        let names = installation.config.datasets.iter().map(|dataset| &dataset.name);
        let next = names.filter_map(|name| Some((self.scheduler.next_start(name)?, name))).min();
        match next {
            Some((at, dataset)) => format!("Idle; next is {dataset} at {}", words::time(at)),
            None => "Idle; nothing is scheduled".to_owned(),
        }
    }
}

fn answer_all(waiting: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for waiting in waiting {
        // Whoever hung up does not want it any more.
        let _ = waiting.send(answer.clone());
    }
}

/// The end of the run. Never, if there is none.
async fn end_of(run: &mut Option<Run>) -> Result<Ended> {
    match run {
        Some(run) => (&mut run.task).await.unwrap_or_else(|error| {
            Err(Error::failed(format!("the backup of {} was aborted", run.dataset))
                .because(error)
                .hint("read the log of lifeboatd, then run it again"))
        }),
        None => std::future::pending().await,
    }
}

/// Up to when the starts of `dataset` are done with. One that was never seen begins now, and that
/// is remembered, so that a start which passes while the daemon is down is made up for.
fn considered(runner: &Runner, dataset: &Name) -> DateTime<Utc> {
    runner.ledger.refresh(dataset);
    let now = runner.clock.now();
    let known = runner.ledger.get(dataset).considered;
    if known.is_none()
        && let Ok(_lock) = runner.state.lock_dataset(dataset)
    {
        runner.ledger.update(dataset, |status| status.considered = Some(now));
    }
    known.unwrap_or(now)
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context(Class::Failed, || "cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop,
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.hangup.recv() => Event::Reload,
        }
    }

    async fn stop(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}
