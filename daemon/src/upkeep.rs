//! The work beside runs: replicas that are behind are caught up, and every replica is asked whether
//! it answers.
//!
//! A catch-up may take days (a new replica), so a run of its dataset interrupts it; what was copied
//! stays. So does a [`SLICE`] that is over, if others wait: it goes on behind them. While there is
//! nothing else, and after each such slice, the replicas are scrubbed (`scrubber.rs`). Beside all
//! of it, deletion is kept apart from this host (`guardian.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lifeboat_engine::base::Result;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::ReplicaState;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::drills;
use crate::guardian::Guardian;
use crate::live::Live;
use crate::runner::Runner;
use crate::scrubber::Scrubber;

/// How often replicas that are behind are looked at.
const CATCH_UP: Duration = Duration::from_secs(5 * 60);
/// A catch-up that others wait for goes on for so long.
const SLICE: Duration = Duration::from_secs(10 * 60);
/// How often a host looks who leads its datasets without a schedule.
const LOOK_WHO_LEADS: Duration = Duration::from_secs(5 * 60);
/// A look that could not be noted is made again so often, …
const LOOKS: u32 = 10;
/// … after this pause.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How often it is read what drill hosts have published.
const LOOK_AT_DRILLS: Duration = Duration::from_secs(3600);
/// What is known of drills stays known until the next look if one takes longer.
const LONGEST_READING: Duration = Duration::from_secs(600);
/// How often replicas are asked whether they answer.
const ASK: Duration = Duration::from_secs(60);

/// Work beside the runs. [`Self::turn`] never waits.
pub(crate) struct Upkeep {
    runner: Runner,
    live: Arc<Live>,
    /// Datasets to catch up, one after the other, each of them once.
    wanted: VecDeque<Name>,
    /// Datasets whose last catch-up failed.
    failed: BTreeSet<Name>,
    job: Option<Job>,
    scrubber: Scrubber,
    /// A slice of catch-up is over, so a slice of scrub comes before the next one.
    scrub_first: bool,
    guardian: Guardian,
    asking: Option<JoinHandle<()>>,
    /// The look at who leads.
    looking: Option<JoinHandle<()>>,
    /// The look at what drills proved.
    reading: Option<JoinHandle<()>>,
    next_pass: Duration,
    next_ask: Duration,
    next_look: Duration,
    next_drills: Duration,
}

struct Job {
    dataset: Name,
    began: Duration,
    cancel: CancellationToken,
    /// Fires when it has ended, however.
    ended: CancellationToken,
    task: JoinHandle<Result<Vec<ReplicaState>>>,
}

impl Upkeep {
    /// Looks at every dataset soon.
    pub(crate) fn new(runner: Runner, live: Arc<Live>) -> Self {
        let wanted = live.installation().config.datasets.iter().map(|dataset| dataset.name.clone()).collect();
        let now = runner.clock.elapsed();
        Self {
            scrubber: Scrubber::new(runner.clone(), live.clone()),
            guardian: Guardian::new(runner.clone(), live.clone()),
            runner,
            live,
            wanted,
            failed: BTreeSet::new(),
            job: None,
            scrub_first: false,
            asking: None,
            looking: None,
            next_pass: now + CATCH_UP,
            next_ask: now,
            next_look: now,
            reading: None,
            next_drills: now,
        }
    }

    /// Catches `dataset` up soon.
    pub(crate) fn want(&mut self, dataset: &Name) {
        if !self.wanted.contains(dataset) {
            self.wanted.push_back(dataset.clone());
        }
    }

    /// Starts what is due and takes in what has ended.
    pub(crate) async fn turn(&mut self, runs: impl Fn(&Name) -> bool) {
        let now = self.runner.clock.elapsed();
        self.guardian.turn();
        if now >= self.next_ask && self.asking.as_ref().is_none_or(JoinHandle::is_finished) {
            self.next_ask = now + ASK;
            self.asking = Some(tokio::spawn(ask(self.live.clone())));
        }
        if now >= self.next_look && self.looking.as_ref().is_none_or(JoinHandle::is_finished) {
            self.next_look = now + LOOK_WHO_LEADS;
            self.looking = Some(tokio::spawn(look_who_leads(self.runner.clone(), self.live.clone())));
        }
        if now >= self.next_drills && self.reading.as_ref().is_none_or(JoinHandle::is_finished) {
            self.next_drills = now + LOOK_AT_DRILLS;
            self.reading = Some(tokio::spawn(look_at_drills(self.runner.clone(), self.live.clone())));
        }
        if now >= self.next_pass {
            self.next_pass = now + CATCH_UP;
            self.want_those_behind();
        }
        if self.job.as_ref().is_some_and(|job| job.ended.is_cancelled()) {
            self.settle().await;
        }
        let is_idle = self.live.installation().config.datasets.iter().all(|dataset| !runs(&dataset.name));
        let is_over = self.job.as_ref().is_some_and(|job| now.saturating_sub(job.began) >= SLICE);
        if is_over && (self.wanted.iter().any(|dataset| !runs(dataset)) || is_idle && self.scrubber.is_due()) {
            self.end_slice().await;
            self.scrubber.turn(is_idle).await;
        }
        if self.job.is_none()
            && !(self.scrub_first && self.scrubber.is_busy())
            && let Some(at) = self.wanted.iter().position(|dataset| !runs(dataset))
            && let Some(dataset) = self.wanted.remove(at)
        {
            self.scrub_first = false;
            self.scrubber.make_way().await;
            self.start(dataset);
        }
        self.scrubber.turn(is_idle && self.job.is_none()).await;
    }

    /// Waits until a job has ended, so that the next one begins at once.
    pub(crate) async fn job_ended(&self) {
        match &self.job {
            Some(job) => job.ended.cancelled().await,
            None => self.scrubber.ended().await,
        }
    }

    /// Leaves `dataset` to a run: interrupts its catch-up and every scrub, and waits until its lock
    /// is free.
    pub(crate) async fn make_way(&mut self, dataset: &Name) {
        self.scrubber.make_way().await;
        if let Some(job) = self.job.as_ref().filter(|job| job.dataset == *dataset) {
            job.cancel.cancel();
            self.settle().await;
        }
    }

    /// Ends everything.
    pub(crate) async fn stop(&mut self) {
        for task in [self.asking.take(), self.looking.take(), self.reading.take()].into_iter().flatten() {
            task.abort();
        }
        self.guardian.stop();
        self.scrubber.make_way().await;
        if let Some(job) = &self.job {
            job.cancel.cancel();
            self.settle().await;
        }
    }

    /// Interrupts the job, which goes on when all others have had their turn.
    async fn end_slice(&mut self) {
        let Some(job) = &self.job else { return };
        let dataset = job.dataset.clone();
        job.cancel.cancel();
        self.settle().await;
        self.want(&dataset);
        self.scrub_first = true;
    }

    fn want_those_behind(&mut self) {
        let installation = self.live.installation();
        for dataset in &installation.config.datasets {
            let status = self.runner.ledger.get(&dataset.name);
            let behind = status.replicas.values().any(|replica| replica.behind > 0);
            if behind || self.failed.contains(&dataset.name) {
                self.want(&dataset.name);
            }
        }
    }

    fn start(&mut self, dataset: Name) {
        let (runner, installation, cancel) = (self.runner.clone(), self.live.installation(), CancellationToken::new());
        let (name, stop) = (dataset.clone(), cancel.clone());
        let ended = CancellationToken::new();
        let ending = ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _ending = ending;
            runner.catch_up(&installation, &name, &stop).await
        });
        self.job = Some(Job { dataset, began: self.runner.clock.elapsed(), cancel, ended, task });
    }

    /// Waits for the end of the job, which is near.
    async fn settle(&mut self) {
        let Some(job) = self.job.take() else { return };
        let dataset = &job.dataset;
        self.failed.remove(dataset);
        match job.task.await {
            Ok(Ok(states)) => {
                for state in states {
                    if let Some(error) = state.error {
                        tracing::warn!(%dataset, replica = %state.replica, "replica is still behind: {error}");
                        self.failed.insert(dataset.clone());
                    }
                }
            }
            // A run interrupted it, and wants it again when it has ended.
            Ok(Err(_)) if job.cancel.is_cancelled() => {}
            Ok(Err(error)) => {
                tracing::warn!(%dataset, hint = error.hint_text().unwrap_or_default(), "the catch-up failed: {}", error.chain_and_hint());
                self.failed.insert(dataset.clone());
            }
            Err(error) => {
                tracing::error!(%dataset, %error, "the catch-up crashed");
                self.failed.insert(dataset.clone());
            }
        }
    }
}

/// Reads what drill hosts have published, and notes it.
async fn look_at_drills(runner: Runner, live: Arc<Live>) {
    let (installation, before) = (live.installation(), live.drills());
    match tokio::time::timeout(LONGEST_READING, drills::told(&runner, &installation, &before)).await {
        Ok(told) => live.drilled(told),
        Err(_) => tracing::warn!("it takes long to find out what drills proved; it is asked again in an hour"),
    }
}

/// Looks who leads the datasets of which no start asks that, as they have no schedule.
async fn look_who_leads(runner: Runner, live: Arc<Live>) {
    let installation = live.installation();
    for dataset in &installation.config.datasets {
        if dataset.hosts.len() < 2 || dataset.schedule.is_some() {
            continue;
        }
        let mut tries = 0..LOOKS;
        while tries.next().is_some() && !runner.look_who_leads(&installation, dataset).await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Asks every replica for its vault.
async fn ask(live: Arc<Live>) {
    let installation = live.installation();
    join_all(installation.replicas.iter().map(async |replica| {
        let name = replica.name();
        let found = replica.head(layout::VAULT).await;
        let up = matches!(found, Ok(Some(_)));
        if live.heard(name, up) {
            match found {
                Ok(Some(_)) => tracing::info!(replica = %name, "replica is up"),
                Ok(None) => {
                    tracing::warn!(replica = %name, "replica is down: it holds no vault (next: run `lifeboat init`)");
                }
                Err(error) => tracing::warn!(replica = %name, "replica is down: {}", error.kind),
            }
        }
    }))
    .await;
}

#[cfg(test)]
mod tests;
