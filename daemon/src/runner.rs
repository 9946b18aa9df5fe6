//! One run: lock → backup → prune → catch-up. Whatever happens after the commit does not undo the success.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lifeboat_engine::config::Dataset;
use lifeboat_engine::flow::backup::{Backup, BackupReport, Progress};
use lifeboat_engine::flow::catch_up::catch_up;
use lifeboat_engine::flow::prune::Prune;
use lifeboat_engine::id::Name;
use lifeboat_engine::source;
use lifeboat_engine::{Error, Result};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::installation::Installation;
use crate::notify;
use crate::status::StatusBook;

const PROGRESS: Duration = Duration::from_secs(10);
/// How long a run that was told to stop may take to do so.
const ABORT: Duration = Duration::from_secs(60);

/// Backs a dataset up, and keeps its replicas in order. Every log line carries the dataset and a run id.
///
/// # Errors
/// The backup's. What fails after the commit is logged, and tried again later.
pub(crate) async fn run(
    installation: &Installation,
    dataset: &Name,
    book: &StatusBook,
    cancel: &CancellationToken,
) -> Result<BackupReport> {
    let run = format!("{:08x}", rand::random::<u32>());
    let span = tracing::info_span!("run", %dataset, run);
    run_in_span(installation, dataset, book, cancel).instrument(span).await
}

async fn run_in_span(
    installation: &Installation,
    dataset: &Name,
    book: &StatusBook,
    cancel: &CancellationToken,
) -> Result<BackupReport> {
    let Installation { config, state, clock, .. } = installation;
    let dataset = config.dataset(dataset).ok_or_else(|| {
        let names: Vec<&str> = config.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
        Error::usage(format!("the configuration has no dataset {dataset}"))
            .hint(format!("it has: {}", names.join(", ")))
    })?;
    let _lock = state.lock_dataset(&dataset.name)?;
    book.attempted(&dataset.name, clock.now());
    let began = clock.elapsed();
    tracing::info!("backup begins");
    let result = backup(installation, dataset, cancel).await;
    match &result {
        Ok(report) => {
            book.succeeded(report);
            log_success(report);
            tidy_up(installation, dataset, book, cancel).await;
        }
        Err(error) => {
            book.failed(&dataset.name, error, clock.elapsed().saturating_sub(began).as_secs_f64());
            tracing::error!(
                class = error.class().as_str(),
                error = %error.chain(),
                next = error.hint_text().unwrap_or_default(),
                "backup failed"
            );
        }
    }
    result
}

/// The backup, within the time that a run may take.
async fn backup(installation: &Installation, dataset: &Dataset, cancel: &CancellationToken) -> Result<BackupReport> {
    let Installation { config, keys, replicas, state, clock } = installation;
    let (progress, stop) = (Arc::new(Progress::default()), cancel.child_token());
    let source = source::from_config(&dataset.source);
    let backup = Backup {
        config,
        dataset,
        source: source.as_ref(),
        keys,
        replicas,
        state,
        clock: clock.clone(),
        progress: progress.clone(),
        cancel: stop.clone(),
    };
    let running = backup.run();
    tokio::pin!(running);
    tokio::select! {
        result = &mut running => return result,
        () = tell_progress(&dataset.name, &progress) => {}
        () = tokio::time::sleep(config.limits.run) => {}
    }
    stop.cancel();
    let _ = tokio::time::timeout(ABORT, &mut running).await;
    Err(Error::failed(format!(
        "the backup of {} took longer than {:?} and was stopped",
        dataset.name, config.limits.run
    ))
    .hint("find out what is slow; a longer limit is [limits] run"))
}

/// Says every few seconds how far the run is; never ends.
async fn tell_progress(dataset: &Name, progress: &Progress) {
    const MIB: f64 = (1 << 20) as f64;
    let mut before = 0;
    loop {
        tokio::time::sleep(PROGRESS).await;
        let read = progress.read.load(Ordering::Relaxed);
        let deduplicated = progress.deduplicated.load(Ordering::Relaxed);
        let stored = progress.stored.load(Ordering::Relaxed);
        let rate = (read - before) as f64 / MIB / PROGRESS.as_secs_f64();
        before = read;
        tracing::info!(read, deduplicated, stored, rate_mib_per_second = format!("{rate:.1}"), "progress");
        let (read, stored) = (read as f64 / MIB, stored as f64 / MIB);
        notify::status(&format!("{dataset}: {read:.0} MiB read, {stored:.0} MiB stored, {rate:.1} MiB/s"));
    }
}

fn log_success(report: &BackupReport) {
    tracing::info!(
        snapshot = %report.snapshot,
        seconds = report.duration_seconds,
        raw_bytes = report.raw_bytes,
        deduplicated_bytes = report.deduplicated_bytes,
        stored_bytes = report.stored_bytes,
        "backup committed"
    );
    for replica in report.replicas.iter().filter(|replica| !replica.complete) {
        tracing::warn!(replica = %replica.replica, why = replica.error.as_deref().unwrap_or_default(), "replica is behind");
    }
    for warning in &report.warnings {
        tracing::warn!(warning, "worth knowing");
    }
}

/// Prune and catch-up, after a commit. The caller holds the dataset's lock.
async fn tidy_up(installation: &Installation, dataset: &Dataset, book: &StatusBook, cancel: &CancellationToken) {
    let Installation { config, keys, replicas, state, clock } = installation;
    if !dataset.retention.keeps_everything() {
        let prune = Prune { config, dataset, keys, replicas, state, clock: clock.clone(), cancel: cancel.clone() };
        let pruned = async { prune.execute(&prune.plan().await?).await };
        match pruned.await {
            Ok(outcome) => {
                book.pruned(&dataset.name, outcome.snapshots);
                tracing::info!(snapshots = outcome.snapshots, packs = outcome.packs, bytes = outcome.bytes, "pruned");
                outcome.failures.iter().for_each(|failure| tracing::warn!(failure, "prune will try this again"));
            }
            Err(error) => tracing::error!(error = %error.chain(), "prune failed"),
        }
    }
    replicate(installation, dataset, book, cancel).await;
}

/// Brings the replicas of one dataset up to date. The caller holds its lock.
async fn replicate(installation: &Installation, dataset: &Dataset, book: &StatusBook, cancel: &CancellationToken) {
    let Installation { keys, replicas, state, .. } = installation;
    match catch_up(dataset, keys, replicas, state, cancel).await {
        Ok(states) => {
            book.caught_up(&dataset.name, &states);
            for state in states {
                if state.copied_objects > 0 {
                    let (objects, bytes) = (state.copied_objects, state.copied_bytes);
                    tracing::info!(replica = %state.replica, objects, bytes, behind = state.behind, "replica caught up");
                }
                if let Some(why) = state.error {
                    tracing::warn!(replica = %state.replica, behind = state.behind, why, "replica stays behind");
                }
            }
        }
        Err(error) => tracing::warn!(error = %error.chain(), "replicas could not be compared"),
    }
}

/// Brings the replicas of every dataset up to date; a dataset that somebody else works on is left out.
pub(crate) async fn replicate_all(installation: &Installation, book: &StatusBook, cancel: &CancellationToken) {
    for dataset in &installation.config.datasets {
        if cancel.is_cancelled() {
            return;
        }
        let Ok(_lock) = installation.state.lock_dataset(&dataset.name) else { continue };
        let span = tracing::info_span!("catch_up", dataset = %dataset.name);
        replicate(installation, dataset, book, cancel).instrument(span).await;
    }
}
