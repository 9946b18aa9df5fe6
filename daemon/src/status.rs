//! What metrics need to know, kept through restarts in `status.json`.
//!
//! The file is written whole, durably, and renamed into place. Lost or damaged, it begins anew; a disk that is full costs the
//! memory, never a run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use lifeboat_engine::flow::backup::BackupReport;
use lifeboat_engine::flow::catch_up::ReplicaState;
use lifeboat_engine::id::Name;
use lifeboat_engine::state::{StateDirectory, replace_file};
use serde::{Deserialize, Serialize};

/// Of one dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DatasetStatus {
    pub(crate) last_attempt: Option<DateTime<Utc>>,
    /// When the last committed snapshot was begun: the age of the data counts from here.
    pub(crate) last_success: Option<DateTime<Utc>>,
    pub(crate) last_succeeded: bool,
    pub(crate) last_error: Option<String>,
    pub(crate) duration_seconds: f64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    pub(crate) pruned_snapshots: u64,
    pub(crate) replicas: BTreeMap<Name, ReplicaStatus>,
}

/// Of one dataset in one replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ReplicaStatus {
    /// Time of the newest snapshot that it holds whole.
    pub(crate) last_complete: Option<DateTime<Utc>>,
    pub(crate) behind: u64,
}

/// By dataset.
pub(crate) type Status = BTreeMap<Name, DatasetStatus>;

/// The status, in memory and on disk.
pub(crate) struct StatusBook {
    path: PathBuf,
    status: Mutex<Status>,
}

impl StatusBook {
    /// Reads what is remembered.
    pub(crate) fn open(state: &StateDirectory) -> Self {
        let path = state.path().join("status.json");
        let status = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "the status cannot be read; metrics begin at zero");
                Status::new()
            }),
            Err(_) => Status::new(),
        };
        Self { path, status: Mutex::new(status) }
    }

    /// As it is now.
    pub(crate) fn snapshot(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When each dataset was last tried.
    pub(crate) fn last_attempts(&self) -> BTreeMap<Name, DateTime<Utc>> {
        let status = self.snapshot();
        status.into_iter().filter_map(|(name, status)| Some((name, status.last_attempt?))).collect()
    }

    /// A run begins.
    pub(crate) fn attempted(&self, dataset: &Name, now: DateTime<Utc>) {
        self.change(dataset, |status| status.last_attempt = Some(now));
    }

    /// A run has committed a snapshot.
    pub(crate) fn succeeded(&self, report: &BackupReport) {
        self.change(&report.dataset, |status| {
            status.last_success = Some(report.started);
            status.last_succeeded = true;
            status.last_error = None;
            status.duration_seconds = report.duration_seconds;
            status.raw_bytes = report.raw_bytes;
            status.stored_bytes = report.stored_bytes;
            status.successes += 1;
            for outcome in &report.replicas {
                let replica = status.replicas.entry(outcome.replica.clone()).or_default();
                if outcome.complete {
                    replica.last_complete = Some(report.started);
                } else {
                    replica.behind += 1;
                }
            }
        });
    }

    /// A run has failed.
    pub(crate) fn failed(&self, dataset: &Name, error: &lifeboat_engine::Error, duration_seconds: f64) {
        self.change(dataset, |status| {
            status.last_succeeded = false;
            status.last_error = Some(error.chain());
            status.duration_seconds = duration_seconds;
            status.failures += 1;
        });
    }

    /// Snapshots were pruned.
    pub(crate) fn pruned(&self, dataset: &Name, snapshots: u64) {
        self.change(dataset, |status| status.pruned_snapshots += snapshots);
    }

    /// What a catch-up found.
    pub(crate) fn caught_up(&self, dataset: &Name, states: &[ReplicaState]) {
        self.change(dataset, |status| {
            for state in states {
                let replica = status.replicas.entry(state.replica.clone()).or_default();
                replica.behind = state.behind;
                if let Some(snapshot) = &state.last_complete {
                    replica.last_complete = Some(snapshot.time());
                }
            }
        });
    }

    fn change(&self, dataset: &Name, change: impl FnOnce(&mut DatasetStatus)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(status.entry(dataset.clone()).or_default());
        let text = serde_json::to_vec_pretty(&*status).unwrap_or_default();
        if let Err(error) = replace_file(&self.path, &text) {
            tracing::error!(error = %error.chain(), "the status cannot be kept; after a restart metrics would be older");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart_and_begins_anew_when_damaged() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(place.path()).unwrap();
        let shop: Name = "shop".parse().unwrap();
        let book = StatusBook::open(&state);
        book.attempted(&shop, DateTime::UNIX_EPOCH);
        book.failed(&shop, &lifeboat_engine::Error::storage("full"), 1.5);
        book.pruned(&shop, 3);
        let again = StatusBook::open(&state).snapshot();
        assert_eq!(again, book.snapshot());
        assert_eq!((again[&shop].failures, again[&shop].pruned_snapshots), (1, 3));
        std::fs::write(place.path().join("status.json"), "{").unwrap();
        assert!(StatusBook::open(&state).snapshot().is_empty());
    }

    #[test]
    fn a_disk_that_cannot_be_written_does_not_stop_anything() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&place.path().join("state")).unwrap();
        let book = StatusBook::open(&state);
        std::fs::remove_dir_all(state.path()).unwrap();
        let shop: Name = "shop".parse().unwrap();
        book.attempted(&shop, DateTime::UNIX_EPOCH);
        assert_eq!(book.snapshot()[&shop].last_attempt, Some(DateTime::UNIX_EPOCH));
    }
}
