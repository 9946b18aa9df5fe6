//! What a successful run did.

use lifeboat_engine::backup::BackupReport;
use lifeboat_engine::base::{Class, Error};
use lifeboat_engine::keep::prune::PruneOutcome;
use serde::Serialize;

use crate::words;

/// A successful run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunReport {
    #[serde(flatten)]
    pub backup: BackupReport,
    /// How the snapshot departs from its history.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<String>,
    /// What prune removed. `None`: retention keeps everything, or prune failed.
    pub pruned: Option<PruneOutcome>,
    /// Why old snapshots are not deleted, in all replicas or in some, if so.
    pub deletion_stopped: Option<Stopped>,
}

/// Why old snapshots are not deleted.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stopped {
    /// The word of a [`Class`].
    class: &'static str,
    pub why: String,
    hint: Option<String>,
}

impl From<&Error> for Stopped {
    fn from(error: &Error) -> Self {
        Self { class: error.class().as_str(), why: error.chain(), hint: error.hint_text().map(str::to_owned) }
    }
}

impl RunReport {
    /// The error of a run that was committed, and after which not all could be deleted.
    pub(crate) fn stopped(&self) -> Option<Error> {
        let Stopped { class, why, hint } = self.deletion_stopped.as_ref()?;
        let class = Class::of_word(class).unwrap_or(Class::Failed);
        let (dataset, snapshot) = (&self.backup.dataset, &self.backup.snapshot);
        let error = Error::new(class, format!("snapshot {snapshot} was committed, but old ones of {dataset} stay"))
            .because(why.clone());
        Some(hint.iter().fold(error, |error, hint| error.hint(hint.as_str())))
    }

    /// What it did, in one line.
    pub(crate) fn line(&self) -> String {
        let backup = &self.backup;
        let mut line = format!(
            "{}: snapshot {}, {} in {}, {} known before, {} stored",
            backup.dataset,
            backup.snapshot,
            words::bytes(backup.raw_bytes),
            words::duration(backup.duration_seconds),
            words::bytes(backup.deduplicated_bytes),
            words::bytes(backup.stored_bytes),
        );
        let behind = backup.replicas.iter().filter(|replica| !replica.complete);
        let behind: Vec<&str> = behind.map(|replica| replica.replica.as_str()).collect();
        match behind.as_slice() {
            [] => line.push_str(&format!(", complete in {}", words::count(backup.replicas.len() as u64, "replica"))),
            behind => line.push_str(&format!(", BEHIND: {}", behind.join(", "))),
        }
        if !backup.skipped.is_empty() {
            line.push_str(&format!(", PARTIAL: lacks {}", words::count(backup.skipped.len() as u64, "database")));
        }
        if !self.anomalies.is_empty() {
            line.push_str(&format!(", DEPARTS from its history: {}", self.anomalies.join("; ")));
        }
        if let Some(pruned) = self.pruned.as_ref().filter(|pruned| pruned.snapshots > 0) {
            line.push_str(&format!(", {} removed", words::count(pruned.snapshots, "old snapshot")));
        }
        if let Some(stopped) = &self.deletion_stopped {
            line.push_str(&format!(", deletion STOPPED, at least in part: {}", stopped.why));
        }
        line
    }
}
