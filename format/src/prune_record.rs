//! Prune records: which snapshots were deleted on purpose. See "Prune records" in `FORMAT.md`.
//!
//! A record is written before the first deletion. So a missing snapshot is either in a record, or
//! lost; and a replica that was unreachable meanwhile does not bring a pruned snapshot back.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{Name, SnapshotId};

/// One prune; authenticated by its minisign signature. The newest record of a dataset repeats what
/// older records said, as long as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneRecord {
    /// 1.
    pub version: u32,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// The host that pruned.
    pub host: Name,
    /// When it pruned.
    pub time: DateTime<Utc>,
    /// Snapshots that are gone, or are about to be.
    pub removed: BTreeSet<SnapshotId>,
}
