//! What a successful run did.

use lifeboat_engine::backup::BackupReport;
use lifeboat_engine::keep::prune::PruneOutcome;
use serde::Serialize;

use crate::words;

/// A successful run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunReport {
    #[serde(flatten)]
    pub backup: BackupReport,
    /// What prune removed. `None`: retention keeps everything, or prune failed.
    pub pruned: Option<PruneOutcome>,
}

impl RunReport {
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
        if let Some(pruned) = self.pruned.as_ref().filter(|pruned| pruned.snapshots > 0) {
            line.push_str(&format!(", {} removed", words::count(pruned.snapshots, "old snapshot")));
        }
        line
    }
}
