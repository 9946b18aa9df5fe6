//! One run: lock → backup → prune, and what is remembered of it.
//!
//! - **Success** is the committed snapshot. What fails after it (prune, the status file) is a
//!   warning of the report. A prune that does not delete what is due, in all replicas or in some,
//!   is remembered, too.
//! - **Prune** (`pruning.rs`) follows when the backup has its report, and takes nobody's place.
//! - **Deadline**: a run that takes longer than `limits.run` is cancelled, and aborted if it does
//!   not obey. A commit that has begun is never aborted.
//! - **Retry**: a scheduled run that failed is tried again (`retry` of the dataset), unless nothing
//!   but an operator can mend the cause. So is one that never ended, as what ran it was killed.
//! - **Cancellation**: nothing is committed, unless the commit had begun. The run counts as missed,
//!   and starts again after the next start of the daemon. One that an operator cancelled counts as
//!   failed, and waits for its next time.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use lifeboat_engine::backup::{Backup, BackupReport, Progress, RunBudget};
use lifeboat_engine::base::{Class, Error, Result};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::Dataset;
use lifeboat_engine::databases::ToolEnvironment;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::is_future;
use lifeboat_engine::lead::lease;
use lifeboat_engine::state::past_runs::{self, PastRun};
use lifeboat_engine::state::watch::FlaggedSnapshot;
use lifeboat_engine::state::{Lock, StateDirectory, watch};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::groups::MemberRun;
use crate::installation::Installation;
use crate::run_report::RunReport;
use crate::start::{Start, Stop};
use crate::status::{KILLED, Ledger};
use crate::words;

/// How often a run logs its progress, for debugging: `lifeboatd status` tells it, too.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long cancelled work may take to clean up before it is dropped.
pub(crate) const OBEY: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });

/// What runs need beyond the installation.
#[derive(Clone)]
pub(crate) struct Runner {
    pub state: StateDirectory,
    pub ledger: Arc<Ledger>,
    pub clock: SharedClock,
    /// What client tools inherit of the environment.
    pub tools: ToolEnvironment,
    /// What all runs share.
    pub budget: Arc<RunBudget>,
    /// Who has it prunes.
    pub prunes: Arc<Semaphore>,
}

impl Runner {
    /// Backs `dataset` up and prunes it. `start` tells why, and has the dataset's lock.
    ///
    /// # Errors
    /// No snapshot was committed. The error is logged and remembered already.
    pub(crate) async fn run(
        &self,
        installation: &Installation,
        dataset: &Name,
        (start, lock): (Start, Lock),
        member: Option<&MemberRun>,
        progress: &Arc<Progress>,
        stop: &Stop,
    ) -> Result<RunReport> {
        let run = format!("{:016x}", rand::random::<u64>());
        let span = tracing::info_span!("run", %dataset, %run);
        let work = async {
            let began = self.clock.now();
            let result = self.locked(installation, dataset, (start, member), progress, stop).await;
            self.ended(dataset, &past_run(start, began, Some(self.clock.now()), &result));
            drop(lock);
            match &result {
                Ok(report) => tracing::info!("{}", report.line()),
                Err(error) => tracing::error!(
                    class = error.class().as_str(),
                    hint = error.hint_text().unwrap_or_default(),
                    "backup failed: {}",
                    error.chain_and_hint()
                ),
            }
            result
        };
        work.instrument(span).await
    }

    async fn locked(
        &self,
        installation: &Installation,
        dataset: &Name,
        (start, member): (Start, Option<&MemberRun>),
        progress: &Arc<Progress>,
        stop: &Stop,
    ) -> Result<RunReport> {
        let (dataset, cancel) = (installation.dataset(dataset)?, &stop.token);
        let before = self.ledger.get(&dataset.name).considered;
        let began = self.clock.now();
        // Remembered before it starts, so that a run that takes the daemon down with it is not
        // started at once again.
        let mut killed = None;
        self.ledger.update(&dataset.name, |status| {
            killed = status.count_killed();
            status.under_way = Some(began);
            status.last_attempt = Some(began);
            status.considered = Some(began);
            status.retry_at = None;
            status.retries += u64::from(start == Start::Retry);
        });
        if let Some(killed) = killed {
            self.was_killed(&dataset.name, killed);
        }
        // A bug must neither end the daemon nor go unnoticed.
        let result = AssertUnwindSafe(self.within_deadline(installation, (dataset, member), progress, cancel))
            .catch_unwind()
            .await;
        if let (Err(_), Some(member)) = (&result, member) {
            member.moment.moment.leave();
        }
        let result = result.unwrap_or_else(|_| Err(crashed(&dataset.name, progress.committing.load(Ordering::SeqCst))));
        let result = result.map_err(|error| match error.class() {
            Class::Failed if stop.is_by_operator() => {
                Error::failed(format!("the backup of {} was cancelled by an operator", dataset.name))
                    .hint("nothing was committed; it runs at its next start, or by `lifeboat trigger`")
            }
            _ => error,
        });
        self.ledger.update(&dataset.name, |status| match &result {
            Ok(report) => {
                status.under_way = None;
                status.succeeded = true;
                status.error = None;
                status.successes += 1;
                // Its id may tell a later time: it follows the one before.
                status.last_success = Some(report.started);
                status.doubtful_times.retain(|_, time| is_future(*time, began, &installation.config.limits));
                status.doubtful_times.extend(report.doubtful_times.clone());
                status.duration_seconds = report.duration_seconds;
                status.raw_bytes = report.raw_bytes;
                status.deduplicated_bytes = report.deduplicated_bytes;
                status.row_bytes = report.row_bytes;
                status.stored_bytes = report.stored_bytes;
                status.skipped = report.skipped.len() as u64;
                status.unlogged = report.unlogged.clone();
                if report.is_first && report.are_level {
                    // It has seen all that there is.
                    status.level_at = Some(self.clock.now());
                }
                for outcome in report.replicas.iter() {
                    let replica = status.replicas.entry(outcome.replica.clone()).or_default();
                    if outcome.complete {
                        replica.last_complete = Some(report.started);
                    } else {
                        replica.behind += 1;
                    }
                }
            }
            Err(error) => {
                status.under_way = None;
                status.succeeded = false;
                status.error = Some(error.chain());
                match error.class() {
                    Class::Unknown => status.unknown += 1,
                    _ => status.failures += 1,
                }
                if stop.is_by_operator() {
                    // Its next start is soon enough.
                } else if cancel.is_cancelled() {
                    status.considered = before;
                } else if matches!(start, Start::Scheduled | Start::Retry) {
                    status.retry_at = retry_at(dataset, error, self.clock.now());
                }
            }
        });
        let mut backup = result?;
        progress.committing.store(false, Ordering::SeqCst);
        stop.backed_up.cancel();
        // The snapshot is committed, whatever a bug in what follows does.
        let BackupReport { snapshot, figures, figures_before, .. } = &backup;
        let compare = || watch::compare(&self.state, &dataset.name, snapshot, figures, figures_before);
        let compared = std::panic::catch_unwind(AssertUnwindSafe(compare));
        let compared = compared.unwrap_or_else(|_| Err(bug(&format!("the look at the history of {}", dataset.name))));
        let anomalies = compared.as_ref().ok().and_then(Option::as_ref).map(FlaggedSnapshot::told).unwrap_or_default();
        if !anomalies.is_empty() {
            let (snapshot, how) = (&backup.snapshot, anomalies.join("; "));
            backup.warnings.push(format!("snapshot {snapshot} departs from its history: {how}"));
        }
        let (pruned, deletion_stopped) = match compared {
            Ok(_) => self.prune_after(installation, dataset, &mut backup, start, &stop.prune).await,
            Err(error) => self.not_pruned(dataset, &mut backup, &stop.prune, &error),
        };
        for warning in &backup.warnings {
            tracing::warn!("{warning}");
        }
        Ok(RunReport { backup, anomalies, pruned, deletion_stopped })
    }

    /// The backup, stopped after `limits.run`.
    async fn within_deadline(
        &self,
        installation: &Installation,
        (dataset, member): (&Dataset, Option<&MemberRun>),
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<BackupReport> {
        let limit = installation.config.limits.run;
        let stop = cancel.child_token();
        let backup = self.backup(installation, (dataset, member), progress, &stop);
        tokio::pin!(backup);
        let late = tokio::select! {
            result = &mut backup => return result,
            () = tokio::time::sleep(limit) => true,
            () = cancel.cancelled() => false,
        };
        stop.cancel();
        // A commit that has begun is finished, and then the run has succeeded after all. Each of
        // its calls has a deadline, so it ends.
        let mut obeyed = tokio::time::timeout(OBEY, &mut backup).await;
        while obeyed.is_err() && progress.committing.load(Ordering::SeqCst) {
            tracing::info!("waiting for the commit to end");
            obeyed = tokio::time::timeout(OBEY, &mut backup).await;
        }
        match obeyed {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(error)) if error.class() == Class::Unknown => Err(error),
            _ if late => Err(Error::failed(format!(
                "the backup of {} took longer than limits.run ({}) and was stopped",
                dataset.name,
                words::duration(limit.as_secs_f64())
            ))
            .hint("read the log to see what is slow, or raise limits.run; the next run uses what is stored already")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::cancelled(&format!("the backup of {}", dataset.name))
                .hint("nothing was committed; run it again")),
        }
    }

    async fn backup(
        &self,
        installation: &Installation,
        (dataset, member): (&Dataset, Option<&MemberRun>),
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<BackupReport> {
        let backup = Backup {
            config: &installation.config,
            dataset,
            source: dataset.source.as_ref(),
            environment: &self.tools,
            keys: &installation.keys,
            replicas: &installation.replicas,
            records: &installation.records,
            state: &self.state,
            clock: self.clock.clone(),
            group: member.map(|member| &member.moment),
            budget: self.budget.clone(),
            progress: progress.clone(),
            cancel: cancel.clone(),
        };
        tracing::info!("backup of {} started", dataset.name);
        let lead = self.lead(installation, dataset);
        let lease = async {
            match dataset.hosts.len() {
                0 | 1 => std::future::pending().await,
                _ => lease::keep(&lead).await,
            }
        };
        tokio::select! {
            result = backup.run() => result,
            never = tell(progress) => match never {},
            never = lease => match never {},
        }
    }

    /// Adds a run to the history. The caller holds the dataset's lock.
    fn ended(&self, dataset: &Name, run: &PastRun) {
        if let Err(error) = past_runs::append(&self.state, dataset, run) {
            tracing::warn!(%dataset, "`lifeboat runs` will not tell of this run: {}", error.chain());
        }
    }

    /// Adds a run to the history that began then and never ended.
    fn was_killed(&self, dataset: &Name, began: DateTime<Utc>) {
        // Whoever started it took that along.
        self.ended(dataset, &PastRun::new("unknown", began, None).with_error(&Error::failed(KILLED)));
    }

    /// Counts a run of `dataset` that never ended, if there is one, and has it tried again.
    pub(crate) fn take_in_killed(&self, dataset: &Dataset) {
        let now = self.clock.now();
        self.remember(&dataset.name, |status| {
            if let Some(began) = status.count_killed() {
                self.was_killed(&dataset.name, began);
                let error = Error::failed(status.error.clone().unwrap_or_default())
                    .hint("read the system's log from that time on: `journalctl -u lifeboatd`, `journalctl -k`");
                status.retry_at = retry_at(dataset, &error, now);
                tracing::error!(
                    dataset = %dataset.name,
                    class = error.class().as_str(),
                    hint = error.hint_text().unwrap_or_default(),
                    "the backup that began at {} failed: {}",
                    words::time(began),
                    error.chain_and_hint()
                );
            }
        });
    }
}

/// How a run ended, for the history.
fn past_run(start: Start, began: DateTime<Utc>, ended: Option<DateTime<Utc>>, result: &Result<RunReport>) -> PastRun {
    let run = PastRun::new(start.as_str(), began, ended);
    match result {
        Err(error) => run.with_error(error),
        Ok(RunReport { backup, deletion_stopped, .. }) => {
            let behind = backup.replicas.iter().filter(|replica| !replica.complete);
            let stopped = deletion_stopped.iter().map(|stopped| format!("old snapshots stay: {}", stopped.why));
            PastRun {
                snapshot: Some(backup.snapshot.clone()),
                raw_bytes: backup.raw_bytes,
                stored_bytes: backup.stored_bytes,
                behind: behind.map(|replica| replica.replica.clone()).collect(),
                warnings: backup.warnings.iter().cloned().chain(stopped).collect(),
                ..run
            }
        }
    }
}

/// The turn to prune, for [`Runner::prunes`].
pub(crate) fn one_prune() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

/// The error of a backup that a bug has ended.
fn crashed(dataset: &Name, is_committing: bool) -> Error {
    let what = format!("the backup of {dataset} crashed");
    let report = "this is a bug in Lifeboat: report it with the log lines around this one";
    if is_committing {
        Error::new(
            Class::Unknown,
            format!("{what} while it committed, so it is not known whether its snapshot is there"),
        )
        .hint(format!("run `lifeboat list {dataset}`: the next run finishes the commit where it was decided; {report}"))
    } else {
        Error::failed(what).hint(report)
    }
}

/// When a run that failed is tried again.
pub(crate) fn retry_at(dataset: &Dataset, error: &Error, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let only_people_mend = matches!(error.class(), Class::Configuration | Class::Keys | Class::Usage);
    if only_people_mend || dataset.retry.is_zero() || dataset.schedule.is_none() {
        return None;
    }
    TimeDelta::from_std(dataset.retry).ok().and_then(|pause| now.checked_add_signed(pause))
}

/// The error of what a bug has ended.
pub(crate) fn bug(what: &str) -> Error {
    Error::failed(format!("{what} crashed"))
        .hint("this is a bug in Lifeboat: report it with the log lines around this one")
}

/// Reports the progress of a run, for as long as it is polled.
async fn tell(progress: &Progress) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(PROGRESS);
    ticks.tick().await;
    let mut before = 0;
    loop {
        ticks.tick().await;
        let read = progress.read.load(Ordering::Relaxed);
        let deduplicated = progress.deduplicated.load(Ordering::Relaxed);
        let stored = progress.stored.load(Ordering::Relaxed);
        let rate = (read - before) / PROGRESS.as_secs();
        before = read;
        tracing::debug!(read, deduplicated, stored, rate, "backing up");
    }
}

#[cfg(test)]
mod tests;
