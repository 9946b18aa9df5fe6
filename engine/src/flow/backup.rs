//! Backup: source → chunk → identify → compress → pack → encrypt → every replica → commit.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::config::{Config, Dataset};
use crate::error::Result;
use crate::id::{Name, SnapshotId};
use crate::keys::HostKeys;
use crate::replica::SharedReplica;
use crate::source::Source;
use crate::state::StateDirectory;

/// Figures of a run while it runs, in bytes.
#[derive(Debug, Default)]
pub struct Progress {
    /// Read from the source.
    pub read: AtomicU64,
    /// Of these, already stored.
    pub deduplicated: AtomicU64,
    /// Ciphertext that reached enough replicas or is on its way.
    pub stored: AtomicU64,
}

/// Everything a backup needs.
pub struct Backup<'a> {
    /// The installation.
    pub config: &'a Config,
    /// What to back up.
    pub dataset: &'a Dataset,
    /// How to read it.
    pub source: &'a dyn Source,
    /// This host's keys.
    pub keys: &'a HostKeys,
    /// Where it goes.
    pub replicas: &'a [SharedReplica],
    /// Caches and journal. The caller holds the dataset's lock.
    pub state: &'a StateDirectory,
    /// The time.
    pub clock: SharedClock,
    /// Updated while it runs.
    pub progress: Arc<Progress>,
    /// Fired: abort, commit nothing.
    pub cancel: CancellationToken,
}

/// How a replica fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaOutcome {
    /// Its name.
    pub replica: Name,
    /// Whether it holds the snapshot whole.
    pub complete: bool,
    /// Why not.
    pub error: Option<String>,
}

/// A committed snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupReport {
    /// What was backed up.
    pub dataset: Name,
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// When it began and ended.
    pub started: DateTime<Utc>,
    /// When it was committed.
    pub finished: DateTime<Utc>,
    /// How long it took.
    pub duration_seconds: f64,
    /// Bytes captured.
    pub raw_bytes: u64,
    /// Of these, already stored.
    pub deduplicated_bytes: u64,
    /// Bytes added to each complete replica.
    pub stored_bytes: u64,
    /// Packs added.
    pub new_packs: u64,
    /// How each replica fared.
    pub replicas: Vec<ReplicaOutcome>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

impl Backup<'_> {
    /// Runs it. `Ok` only when the snapshot is committed in at least `min_replicas` replicas.
    ///
    /// # Errors
    /// By class: source, storage, keys, integrity; nothing is committed then.
    pub async fn run(&self) -> Result<BackupReport> {
        todo!()
    }
}
