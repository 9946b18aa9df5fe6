//! The prune that follows a backup.
//!
//! - **It holds up no backup.** It takes no place of `limits.runs`, and ends when its dataset is to
//!   be backed up again: what is left is deleted later.
//! - **One at a time**, so that its memory comes once beside that of the runs. One whose turn does
//!   not come in time is left to the next run. Whoever waits longest is next. An operator who asked
//!   for the backup waits for no prune of another dataset.
//! - **Its failure** is a warning of the run's report, and remembered.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use lifeboat_engine::backup::BackupReport;
use lifeboat_engine::base::{Class, Error, Result};
use lifeboat_engine::config::Dataset;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::prune::{Prune, PruneOutcome};
use lifeboat_engine::state::watch;
use tokio_util::sync::CancellationToken;

use crate::installation::Installation;
use crate::run_report::Stopped;
use crate::runner::{OBEY, Runner, bug};
use crate::start::Start;
use crate::words;

/// A prune may take this long although the next backup of its dataset is due.
pub(crate) const SHORTEST_PRUNE: Duration = Duration::from_secs(60);

/// How a prune ended.
enum Pruned {
    Done(PruneOutcome),
    /// Retention keeps everything.
    Needless,
    /// Another prune goes on.
    Left,
}

impl Runner {
    /// What prunes, and what asks a prune what is needed.
    pub(crate) fn prune_of<'a>(
        &'a self,
        installation: &'a Installation,
        dataset: &'a Dataset,
        cancel: CancellationToken,
    ) -> Prune<'a> {
        Prune {
            config: &installation.config,
            dataset,
            keys: &installation.keys,
            replicas: &installation.replicas,
            records: &installation.records,
            state: &self.state,
            clock: self.clock.clone(),
            cancel,
        }
    }

    /// Prunes after `backup`, whose warnings tell what failed. Returns what was done, and why not
    /// all could be deleted.
    pub(crate) async fn prune_after(
        &self,
        installation: &Installation,
        dataset: &Dataset,
        backup: &mut BackupReport,
        start: Start,
        cancel: &CancellationToken,
    ) -> (Option<PruneOutcome>, Option<Stopped>) {
        let patience = prune_time(dataset, installation.config.limits.run, self.clock.now());
        let pruned = self.prune(installation, dataset, (start, patience), cancel);
        let pruned = AssertUnwindSafe(pruned).catch_unwind().await;
        let pruned = match pruned.unwrap_or_else(|_| Err(bug(&format!("the prune of {}", dataset.name)))) {
            Ok(Pruned::Left) => {
                let why = "old snapshots were not pruned this time, because another dataset is being pruned";
                backup.warnings.push(why.to_owned());
                return (None, None);
            }
            Ok(Pruned::Needless) => None,
            Ok(Pruned::Done(outcome)) => Some(outcome),
            Err(error) => return self.not_pruned(dataset, backup, cancel, &error),
        };
        // What was cancelled is done by the next run.
        let failed = pruned.as_ref().filter(|pruned| !pruned.failures.is_empty() && !cancel.is_cancelled());
        let stopped = failed.map(in_some);
        backup.warnings.extend(stopped.iter().map(Error::chain_and_hint));
        let stopped = stopped.as_ref().map(Stopped::from);
        self.note_stopped(&dataset.name, stopped.as_ref(), cancel);
        (pruned, stopped)
    }

    /// Takes in that nothing was pruned after `backup`.
    pub(crate) fn not_pruned(
        &self,
        dataset: &Dataset,
        backup: &mut BackupReport,
        cancel: &CancellationToken,
        error: &Error,
    ) -> (Option<PruneOutcome>, Option<Stopped>) {
        backup.warnings.push(format!("old snapshots were not pruned: {}", error.chain_and_hint()));
        let stopped = (!cancel.is_cancelled()).then(|| Stopped::from(error));
        self.note_stopped(&dataset.name, stopped.as_ref(), cancel);
        (None, stopped)
    }

    fn note_stopped(&self, dataset: &Name, stopped: Option<&Stopped>, cancel: &CancellationToken) {
        if !cancel.is_cancelled() {
            let why = stopped.map(|stopped| stopped.why.clone());
            self.ledger.update(dataset, |status| status.deletion_stopped = why);
        }
    }

    /// Prunes for no longer than `patience`. `start` began the run.
    async fn prune(
        &self,
        installation: &Installation,
        dataset: &Dataset,
        (start, patience): (Start, Duration),
        cancel: &CancellationToken,
    ) -> Result<Pruned> {
        if dataset.retention.keeps_everything() || cancel.is_cancelled() {
            return Ok(Pruned::Needless);
        }
        watch::permit(&self.state, &dataset.name)?;
        let late = tokio::time::sleep(patience);
        tokio::pin!(late);
        let turn = tokio::select! {
            biased;
            turn = self.prunes.acquire() => Some(turn),
            () = std::future::ready(()), if matches!(start, Start::Asked | Start::Takeover) => None,
            () = cancel.cancelled() => return Err(cancelled()),
            () = &mut late => None,
        };
        let Some(_turn) = turn else { return Ok(Pruned::Left) };
        let prune = self.prune_of(installation, dataset, cancel.child_token());
        let work = prune.run();
        tokio::pin!(work);
        let outcome = tokio::select! {
            result = &mut work => result,
            () = cancel.cancelled() => obeyed(work).await.unwrap_or_else(|| Err(cancelled())),
            () = &mut late => {
                prune.cancel.cancel();
                let why = format!("it would have held up the next backup ({})", words::duration(patience.as_secs_f64()));
                // The next start may cancel this prune before it obeys.
                self.ledger.update(&dataset.name, |status| status.deletion_stopped = Some(why.clone()));
                match obeyed(work).await {
                    // What it did counts, and why it did no more is told first.
                    Some(Ok(mut outcome)) if !outcome.failures.is_empty() => {
                        outcome.failures.insert(0, why);
                        Ok(outcome)
                    }
                    Some(Err(error)) if error.class() != Class::Failed => Err(error),
                    Some(Ok(outcome)) => Ok(outcome),
                    Some(Err(_)) | None => Err(Error::failed(why)),
                }
            }
        };
        let outcome = outcome.map_err(|error| {
            if prune.cancel.is_cancelled() {
                error.hint("Completed deletions are not undone. The next run prunes again.")
            } else {
                error
            }
        })?;
        for failure in &outcome.failures {
            tracing::warn!("prune: {failure}");
        }
        for forgotten in &outcome.forgotten {
            tracing::warn!("prune: this host cannot remember it: {forgotten}");
        }
        if outcome.snapshots + outcome.packs > 0 {
            tracing::info!(snapshots = outcome.snapshots, packs = outcome.packs, bytes = outcome.bytes, "pruned");
        }
        self.ledger.update(&dataset.name, |status| {
            status.pruned_snapshots += outcome.snapshots;
            status.vetoed = outcome.vetoed.clone();
            status.space = outcome.space;
        });
        Ok(Pruned::Done(outcome))
    }
}

fn cancelled() -> Error {
    Error::cancelled("prune")
}

/// What cancelled work ends with, if it obeys in time.
async fn obeyed<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(OBEY, work).await.ok()
}

/// How long a prune may take: until the next backup of its dataset is due, but a minute at least.
fn prune_time(dataset: &Dataset, longest: Duration, now: DateTime<Utc>) -> Duration {
    let next = dataset.schedule.as_ref().and_then(|schedule| schedule.next_after(now));
    let until = next.and_then(|next| (next - now).to_std().ok()).unwrap_or(longest);
    until.min(longest).max(SHORTEST_PRUNE)
}

/// Why nothing, or not everything, is deleted in some replicas.
fn in_some(pruned: &PruneOutcome) -> Error {
    let names: Vec<&str> = pruned.stopped.iter().map(Name::as_str).collect();
    let what = match names.as_slice() {
        [] => "some deletions failed".to_owned(),
        names => format!("nothing is deleted in {}", names.join(", ")),
    };
    Error::storage(what)
        .because(pruned.failures.join("; "))
        .hint("run `lifeboat check` and `lifeboat verify` to see why")
}

#[cfg(test)]
mod tests;
