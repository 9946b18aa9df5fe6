//! What a backup tells when it has committed a snapshot.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error};
use lifeboat_format::id::{Name, SnapshotId};
use serde::Serialize;

use crate::anomaly::RunFigures;

/// The result of a backup in one replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaOutcome {
    /// The name of the replica.
    pub replica: Name,
    /// Whether it holds the whole snapshot.
    pub complete: bool,
    /// Why it does not hold the whole snapshot.
    pub error: Option<String>,
}

/// The report of a backup that committed a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupReport {
    /// The dataset that was backed up.
    pub dataset: Name,
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// When the backup began.
    pub started: DateTime<Utc>,
    /// When the backup ended, after the commit.
    pub finished: DateTime<Utc>,
    /// How many seconds the backup took.
    pub duration_seconds: f64,
    /// How many bytes were captured.
    pub raw_bytes: u64,
    /// How many of these bytes were stored already.
    pub deduplicated_bytes: u64,
    /// How many of the deduplicated bytes were not read, because their source told that they are as
    /// they were.
    pub unread_bytes: u64,
    /// How many of the deduplicated bytes were found row by row, in chunks that no pack holds as a
    /// whole.
    pub row_bytes: u64,
    /// How many bytes were added to each complete replica.
    pub stored_bytes: u64,
    /// How many packs were added to each complete replica.
    pub new_packs: u64,
    /// The result in each replica.
    pub replicas: Vec<ReplicaOutcome>,
    /// Whether no replica held anything of the dataset but its keys when the run began.
    #[serde(skip)]
    pub is_first: bool,
    /// Whether all replicas listed the same when the run began, the whole root among it, and hold
    /// the new snapshot: as far as that tells, none lacks what another has.
    #[serde(skip)]
    pub are_level: bool,
    /// Why this host's log does not tell of the commit, if it does not.
    #[serde(skip)]
    pub unlogged: Option<String>,
    /// What an operator should know, although the backup succeeded.
    pub warnings: Vec<String>,
    /// Of this snapshot and the one before it, those whose times are probably false, and these
    /// times: they lie in the future, or much later than the snapshot before, and no replica tells
    /// the time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub doubtful_times: BTreeMap<SnapshotId, DateTime<Utc>>,
    /// Databases that could not be captured, so that the snapshot is partial.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// What its history is judged by.
    #[serde(skip)]
    pub figures: RunFigures,
    /// The same of snapshots before it that may not have been judged: those of which this host's
    /// runs died before that, and the one before it, as far as its manifest tells.
    #[serde(skip)]
    pub figures_before: Vec<(SnapshotId, RunFigures)>,
}

impl BackupReport {
    /// The error of a run that committed a partial snapshot.
    #[must_use]
    pub fn partial(&self) -> Option<Error> {
        let names: Vec<String> = self.skipped.iter().map(|name| name.escape_debug().to_string()).collect();
        (!names.is_empty()).then(|| {
            Error::new(
                Class::Partial,
                format!("snapshot {} of {} is partial: it lacks {}", self.snapshot, self.dataset, names.join(", ")),
            )
            .hint("read the warnings of the run to see why, and run it again once that is mended")
        })
    }
}
