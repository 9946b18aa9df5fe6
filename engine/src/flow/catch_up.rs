//! Catch-up: a replica that fell behind gets what it lacks, as ciphertext, from a healthy one. No keys needed to copy.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::config::Dataset;
use crate::error::Result;
use crate::id::{Name, SnapshotId};
use crate::keys::HostKeys;
use crate::replica::SharedReplica;

/// How one replica stands after a catch-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaState {
    /// Which.
    pub replica: Name,
    /// Objects copied to it.
    pub copied_objects: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// The newest snapshot that it holds whole.
    pub last_complete: Option<SnapshotId>,
    /// Snapshots that it still lacks.
    pub behind: u64,
    /// Why it could not be brought up to date.
    pub error: Option<String>,
}

/// Brings every replica up to date for one dataset. The caller holds the dataset's lock.
///
/// # Errors
/// No replica could be listed.
pub async fn catch_up(
    dataset: &Dataset,
    keys: &HostKeys,
    replicas: &[SharedReplica],
    cancel: &CancellationToken,
) -> Result<Vec<ReplicaState>> {
    let _ = (keys.datasets.len(), replicas.len(), cancel.is_cancelled());
    todo!("{dataset:?}")
}
