//! Verify: every object of a dataset in every replica: presence, hashes, signatures, the chain of predecessors.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::flow::reader::VaultReader;
use crate::id::{Name, SnapshotId};

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where.
    pub replica: Name,
    /// The object's key.
    pub object: String,
    /// What is wrong, in plain words.
    pub problem: String,
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs looked at, over all replicas.
    pub packs: u64,
    /// Bytes read, over all replicas.
    pub bytes: u64,
    /// Bytes decrypted, with `read_data`.
    pub decrypted_bytes: u64,
    /// Empty: all is well.
    pub findings: Vec<Finding>,
    /// What is not wrong but worth knowing: a replica behind, packs no snapshot refers to.
    pub notes: Vec<String>,
}

/// Verifies one or all snapshots of a dataset in every replica of `reader`.
///
/// # Errors
/// Only when it could not look; what is wrong with the data is a finding.
pub async fn verify(
    reader: &VaultReader,
    dataset: &Name,
    only: Option<&SnapshotId>,
    read_data: bool,
    cancel: &CancellationToken,
) -> Result<VerifyReport> {
    let _ = (reader.replicas().len(), cancel.is_cancelled());
    todo!("{dataset} {only:?} {read_data}")
}
