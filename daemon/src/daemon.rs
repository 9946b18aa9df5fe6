//! The daemon's loop: one place decides what runs next; everything else answers to it.
//!
//! - **One thing at a time**: runs of all datasets queue up, so that a host is never busier than one run makes it. A catch-up
//!   gives way to a run.
//! - **Shutdown**, in this order: no new work; what runs may finish until `limits.shutdown`, then it is aborted, which commits
//!   nothing; the control socket; the endpoint last.
//! - **Reload**: a configuration that cannot be used changes nothing; a run keeps the one it began with.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::Surroundings;
use lifeboat_engine::error::{Class, Context};
use lifeboat_engine::flow::backup::BackupReport;
use lifeboat_engine::id::Name;
use lifeboat_engine::vault::layout;
use lifeboat_engine::{Error, Result};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control::{self, Call, Request};
use crate::http::{self, Health};
use crate::installation::Installation;
use crate::metrics::{self, Live};
use crate::scheduler::Scheduler;
use crate::status::StatusBook;
use crate::{notify, runner};

const TICK: Duration = Duration::from_secs(1);
/// A loop that has not turned for this long is stuck.
const STUCK_SECONDS: i64 = 60;
const ASK_REPLICAS: Duration = Duration::from_secs(60);
const CATCH_UP: Duration = Duration::from_secs(300);
const ABORT: Duration = Duration::from_secs(30);

type Answer = oneshot::Sender<Result<Value>>;

/// What the endpoint sees.
struct Shared {
    installation: Mutex<Arc<Installation>>,
    book: StatusBook,
    live: Mutex<Live>,
    ticked: AtomicI64,
    clock: SharedClock,
}

impl Shared {
    fn installation(&self) -> Arc<Installation> {
        self.installation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn live(&self) -> Live {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Health for Shared {
    fn metrics(&self) -> Result<String> {
        metrics::render(&self.installation().config, &self.book.snapshot(), &self.live(), self.clock.now())
    }

    fn unhealthy(&self) -> Option<String> {
        let still = self.clock.now().timestamp() - self.ticked.load(Ordering::Relaxed);
        (still > STUCK_SECONDS).then(|| format!("the scheduler has stood still for {still} s"))
    }

    fn unready(&self) -> Option<String> {
        let required = self.installation().config.min_replicas;
        let up = self.live().up.values().filter(|up| **up).count();
        (up < required).then(|| format!("{up} replicas answer, a backup needs {required}"))
    }
}

/// What is under way.
struct Running {
    /// `None`: a catch-up.
    dataset: Option<Name>,
    task: JoinHandle<Option<Result<BackupReport>>>,
    cancel: CancellationToken,
}

struct Daemon {
    path: PathBuf,
    surroundings: Surroundings,
    shared: Arc<Shared>,
    scheduler: Scheduler,
    queue: VecDeque<Name>,
    waiting: BTreeMap<Name, Vec<Answer>>,
    running: Option<Running>,
    catch_up_due: bool,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start.
pub(crate) async fn run(path: PathBuf, surroundings: Surroundings, clock: SharedClock) -> Result<()> {
    let installation = Arc::new(Installation::open(&path, &surroundings, clock.clone()).await?);
    let _lock = installation.state.lock_daemon()?;
    let book = StatusBook::open(&installation.state);
    let scheduler = Scheduler::new(&installation.config, &book.last_attempts(), clock.now());
    let endpoint = http::bind(installation.config.listen).await?;
    let socket_path = installation.config.control_socket.clone();
    let socket = control::bind(&socket_path)?;
    let shared = Arc::new(Shared {
        installation: Mutex::new(installation),
        book,
        live: Mutex::default(),
        ticked: AtomicI64::new(clock.now().timestamp()),
        clock,
    });
    let (calls, received) = mpsc::channel(16);
    let serving = tokio::spawn(control::serve(socket, calls));
    let stop_endpoint = CancellationToken::new();
    let endpoint = tokio::spawn(http::serve(endpoint, shared.clone(), stop_endpoint.clone()));
    let asking = tokio::spawn(ask_replicas(shared.clone()));
    let mut daemon = Daemon {
        path,
        surroundings,
        shared,
        scheduler,
        queue: VecDeque::new(),
        waiting: BTreeMap::new(),
        running: None,
        catch_up_due: false,
    };
    daemon.serve(received).await?;

    notify::stopping();
    tracing::info!("stopping");
    daemon.drain().await;
    serving.abort();
    asking.abort();
    let _ = std::fs::remove_file(socket_path);
    stop_endpoint.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(5), endpoint).await;
    Ok(())
}

impl Daemon {
    async fn serve(&mut self, mut calls: mpsc::Receiver<Call>) -> Result<()> {
        let listen = |kind| signal(kind).context(Class::Failed, || "cannot listen for signals");
        let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut hangup = listen(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(TICK);
        let mut catch_up = tokio::time::interval(CATCH_UP);
        let watchdog = notify::watchdog_interval();
        let mut barked = self.shared.clock.elapsed();
        notify::ready();
        notify::status("waiting for the next backup");
        tracing::info!(datasets = self.shared.installation().config.datasets.len(), "ready");
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let now = self.shared.clock.now();
                    self.shared.ticked.store(now.timestamp(), Ordering::Relaxed);
                    for dataset in self.scheduler.due(now) {
                        self.enqueue(dataset);
                    }
                    let elapsed = self.shared.clock.elapsed();
                    if watchdog.is_some_and(|interval| elapsed.saturating_sub(barked) >= interval) {
                        notify::alive();
                        barked = elapsed;
                    }
                }
                _ = catch_up.tick() => self.catch_up_due = true,
                Some(call) = calls.recv() => self.answer(call),
                finished = ended(&mut self.running) => self.finished(finished),
                _ = hangup.recv() => self.reload().await,
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
            self.start_next();
        }
    }

    fn enqueue(&mut self, dataset: Name) {
        let running = self.running.as_ref().and_then(|running| running.dataset.as_ref());
        if running == Some(&dataset) {
            tracing::warn!(%dataset, "is due while its last backup still runs; this start is left out");
        } else if !self.queue.contains(&dataset) {
            self.queue.push_back(dataset);
        }
        // A catch-up gives way; it goes on later where it stopped.
        if let Some(running) = self.running.as_ref().filter(|running| running.dataset.is_none()) {
            running.cancel.cancel();
        }
    }

    fn answer(&mut self, call: Call) {
        match call.request {
            Request::Status => drop(call.answer.send(Ok(self.describe()))),
            Request::Trigger { dataset } => {
                if self.shared.installation().config.dataset(&dataset).is_none() {
                    let error = Error::usage(format!("lifeboatd has no dataset {dataset}"));
                    drop(
                        call.answer
                            .send(Err(error.hint("after a change of the configuration: systemctl reload lifeboatd"))),
                    );
                    return;
                }
                self.waiting.entry(dataset.clone()).or_default().push(call.answer);
                self.enqueue(dataset);
            }
        }
    }

    fn describe(&self) -> Value {
        let installation = self.shared.installation();
        let running = self.running.as_ref().and_then(|running| running.dataset.as_ref());
        let next: BTreeMap<&str, _> = installation
            .config
            .datasets
            .iter()
            .map(|dataset| (dataset.name.as_str(), self.scheduler.next(&dataset.name)))
            .collect();
        json!({
            "running": running,
            "queued": self.queue,
            "next": next,
            "replicas_up": self.shared.live().up,
            "datasets": self.shared.book.snapshot(),
        })
    }

    fn start_next(&mut self) {
        if self.running.is_some() {
            return;
        }
        let (shared, cancel) = (self.shared.clone(), CancellationToken::new());
        let (installation, token) = (shared.installation(), cancel.clone());
        let (dataset, task) = if let Some(dataset) = self.queue.pop_front() {
            self.shared.live.lock().unwrap_or_else(PoisonError::into_inner).running = BTreeSet::from([dataset.clone()]);
            notify::status(&format!("backing up {dataset}"));
            let name = dataset.clone();
            let run = async move { Some(runner::run(&installation, &name, &shared.book, &token).await) };
            (Some(dataset), tokio::spawn(run))
        } else if std::mem::take(&mut self.catch_up_due) {
            let run = async move {
                runner::replicate_all(&installation, &shared.book, &token).await;
                None
            };
            (None, tokio::spawn(run))
        } else {
            return;
        };
        self.running = Some(Running { dataset, task, cancel });
    }

    fn finished(&mut self, (dataset, result): (Option<Name>, Option<Result<BackupReport>>)) {
        self.shared.live.lock().unwrap_or_else(PoisonError::into_inner).running.clear();
        notify::status("waiting for the next backup");
        let Some(dataset) = dataset else { return };
        for answer in self.waiting.remove(&dataset).unwrap_or_default() {
            let reply = match &result {
                Some(Ok(report)) => Ok(json!(report)),
                Some(Err(error)) => Err(copy_of(error)),
                None => Err(Error::failed(format!("the run of {dataset} broke off")).hint("see the daemon's log")),
            };
            drop(answer.send(reply));
        }
    }

    async fn reload(&mut self) {
        notify::reloading();
        let before = self.shared.installation();
        match Installation::open(&self.path, &self.surroundings, self.shared.clock.clone()).await {
            Ok(after) => {
                let fixed = |installation: &Installation| {
                    let config = &installation.config;
                    (config.state_directory.clone(), config.listen, config.control_socket.clone())
                };
                if fixed(&before) == fixed(&after) {
                    self.scheduler =
                        Scheduler::new(&after.config, &self.shared.book.last_attempts(), self.shared.clock.now());
                    self.queue.retain(|dataset| after.config.dataset(dataset).is_some());
                    *self.shared.installation.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
                    tracing::info!("configuration reloaded");
                } else {
                    tracing::error!(
                        "state_directory, listen and control_socket change only by a restart; nothing was reloaded"
                    );
                }
            }
            Err(error) => {
                tracing::error!(error = %error.chain(), "the new configuration is refused; the old one stays")
            }
        }
        notify::ready();
    }

    /// Lets what runs finish, or aborts it when its time is over.
    async fn drain(&mut self) {
        let patience = self.shared.installation().config.limits.shutdown;
        let Some(Running { dataset, mut task, cancel }) = self.running.take() else { return };
        if dataset.is_none() {
            cancel.cancel();
        }
        if let Ok(ended) = tokio::time::timeout(patience, &mut task).await {
            self.finished((dataset, ended.ok().flatten()));
            return;
        }
        tracing::warn!("a backup did not end in time and is aborted; nothing of it is committed");
        cancel.cancel();
        if tokio::time::timeout(ABORT, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Waits for what runs; for ever where nothing does.
async fn ended(running: &mut Option<Running>) -> (Option<Name>, Option<Result<BackupReport>>) {
    let Some(current) = running else { return std::future::pending().await };
    let result = (&mut current.task).await;
    let dataset = running.take().and_then(|running| running.dataset);
    match result {
        Ok(result) => (dataset, result),
        Err(error) => {
            tracing::error!(%error, "a run broke off");
            (dataset, None)
        }
    }
}

fn copy_of(error: &Error) -> Error {
    let copy = Error::new(error.class(), error.chain());
    match error.hint_text() {
        Some(hint) => copy.hint(hint),
        None => copy,
    }
}

/// Asks each replica once a minute whether it is there.
async fn ask_replicas(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(ASK_REPLICAS);
    loop {
        interval.tick().await;
        let installation = shared.installation();
        let asked = installation.replicas.iter().map(|replica| async move {
            let there = replica.head(layout::VAULT).await;
            if let Err(error) = &there {
                tracing::warn!(%error, "a replica does not answer");
            }
            (replica.name().clone(), matches!(there, Ok(Some(_))))
        });
        let up = futures::future::join_all(asked).await.into_iter().collect();
        shared.live.lock().unwrap_or_else(PoisonError::into_inner).up = up;
    }
}
