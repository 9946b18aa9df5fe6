//! Prune records: which snapshots were let go on purpose. See "Prune records" in `FORMAT.md`.
//!
//! A record is written before the first deletion, so that a missing snapshot is either in a record
//! or a loss; and so that a replica that was away does not bring a pruned snapshot back.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{Name, SnapshotId};

/// One prune; authenticated by its minisign signature. The newest record of a dataset carries what
/// older ones said as long as it matters.
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
    /// When.
    pub time: DateTime<Utc>,
    /// Snapshots that are gone, or are about to be.
    pub removed: BTreeSet<SnapshotId>,
}
