//! The scrub, while nothing else is to be done.
//!
//! It gives way to every run and every catch-up at once: what it was reading is read again later.
//! A dataset that another host backs up is scrubbed there. A replica that fails is left alone for a
//! while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::base::{Error, Result};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::scrub::{self, Scrub};
use lifeboat_engine::root;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::installation::Installation;
use crate::live::Live;
use crate::runner::Runner;

/// How long a replica is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// Which replica of which dataset.
type Place = (Name, Name);

pub(crate) struct Scrubber {
    runner: Runner,
    live: Arc<Live>,
    job: Option<Slice>,
    /// Until when these are left alone.
    paused: BTreeMap<Place, Duration>,
}

struct Slice {
    place: Place,
    cancel: CancellationToken,
    /// Fires when it has ended, however.
    ended: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Scrubber {
    pub(crate) fn new(runner: Runner, live: Arc<Live>) -> Self {
        Self { runner, live, job: None, paused: BTreeMap::new() }
    }

    /// Takes in what has ended. If the daemon is idle, it starts what is due. Never waits.
    pub(crate) async fn turn(&mut self, is_idle: bool) {
        if self.job.as_ref().is_some_and(|job| job.ended.is_cancelled()) {
            self.settle().await;
        }
        if is_idle && self.job.is_none() {
            let installation = self.live.installation();
            if let Some(place) = self.next(&installation) {
                self.start(installation, place);
            }
        }
    }

    /// Whether a slice goes on.
    pub(crate) fn is_busy(&self) -> bool {
        self.job.as_ref().is_some_and(|job| !job.ended.is_cancelled())
    }

    /// Whether a slice would begin if the daemon were idle.
    pub(crate) fn is_due(&self) -> bool {
        self.next(&self.live.installation()).is_some()
    }

    /// Waits until a slice has ended, so that the next one begins at once.
    pub(crate) async fn ended(&self) {
        match &self.job {
            Some(job) => job.ended.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Stops at once.
    pub(crate) async fn make_way(&mut self) {
        if let Some(job) = &self.job {
            job.cancel.cancel();
            self.settle().await;
        }
    }

    /// What is overdue most.
    fn next(&self, installation: &Installation) -> Option<Place> {
        let (period, now) = (installation.config.scrub_period, self.runner.clock.now());
        if period.is_zero() {
            return None;
        }
        let elapsed = self.runner.clock.elapsed();
        let due = installation.config.datasets.iter().filter_map(|dataset| {
            let name = &dataset.name;
            if self.runner.ledger.is_led_elsewhere(name) {
                return None;
            }
            let is_paused = |replica: &Name| {
                self.paused.get(&(name.clone(), replica.clone())).is_some_and(|until| elapsed < *until)
            };
            let replicas = installation.replicas.iter().map(|replica| replica.name());
            let (due, replica) = self.runner.ledger.with_scrub(name, |progress| {
                scrub::next_due(progress, replicas.filter(|replica| !is_paused(replica)), period, now)
                    .map(|(due, replica)| (due, replica.clone()))
            })?;
            Some((due, (name.clone(), replica)))
        });
        due.min().map(|(_, place)| place)
    }

    fn start(&mut self, installation: Arc<Installation>, place: Place) {
        let (runner, cancel, ended) = (self.runner.clone(), CancellationToken::new(), CancellationToken::new());
        let (of, stop, ending) = (place.clone(), cancel.clone(), ended.clone().drop_guard());
        let task = tokio::spawn(async move {
            let _ending = ending;
            runner.scrub(&installation, &of.0, &of.1, &stop).await
        });
        self.job = Some(Slice { place, cancel, ended, task });
    }

    /// Waits for the end of the job, which is near.
    async fn settle(&mut self) {
        let Some(Slice { place, cancel, task, .. }) = self.job.take() else { return };
        let (dataset, replica) = &place;
        let is_news = self.paused.remove(&place).is_none();
        let failed = match task.await {
            Ok(Ok(())) => return,
            Ok(Err(_)) if cancel.is_cancelled() => return,
            Ok(Err(error)) => error,
            Err(error) => Error::failed("the scrub crashed").because(error),
        };
        if is_news {
            tracing::warn!(%dataset, %replica, hint = failed.hint_text().unwrap_or_default(), "the scrub cannot go on: {}", failed.chain_and_hint());
        }
        self.paused.insert(place, self.runner.clock.elapsed() + PAUSE);
    }
}

impl Runner {
    /// Goes on with the scrub of one replica. Returns early when `cancel` fires; what was checked
    /// counts.
    ///
    /// # Errors
    /// The replica fails, or the work was cancelled.
    async fn scrub(
        &self,
        installation: &Installation,
        dataset: &Name,
        replica: &Name,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let Some(found) = installation.replicas.iter().find(|other| other.name() == replica) else { return Ok(()) };
        root::renew(&installation.keys, &installation.replicas, &self.state, self.clock.now()).await?;
        let scrub = Scrub {
            config: &installation.config,
            dataset: installation.dataset(dataset)?,
            keys: &installation.keys,
            replicas: &installation.replicas,
            state: &self.state,
            clock: self.clock.clone(),
        };
        let mut progress = self.ledger.with_scrub(dataset, Clone::clone);
        progress.retain(|name| installation.replicas.iter().any(|replica| replica.name() == name));
        let done = tokio::select! {
            done = scrub.slice(found, progress.entry(replica)) => done,
            () = cancel.cancelled() => Err(Error::cancelled("the scrub")),
        };
        self.ledger.scrubbed(dataset, progress);
        done
    }
}

#[cfg(test)]
mod tests;
