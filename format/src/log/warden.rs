//! What a warden records of a look.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{MAX_LOOKED_DATASETS, bounded_objects, bounded_text};
use crate::id::{Name, SnapshotId};
use crate::strict;
use crate::utc;

/// No look of a warden names more marks that it refuses.
pub const MAX_REFUSED_MARKS: usize = 256;
/// No look of a warden names more marks that somebody vetoed.
pub const MAX_VETOED_MARKS: usize = 256;
/// No look of a warden names more people for one mark.
pub const MAX_VETOING_PEOPLE: usize = 64;
/// No look of a warden tells of more datasets why not all could be done.
pub const MAX_FAILED_LOOKS: usize = 64;
/// No look of a warden tells of more replicas how the locks of a dataset stand there.
pub const MAX_LOOKED_LOCKS: usize = 512;

/// What a warden found, and what it did not do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WardenLook {
    /// The datasets at which it looked to the end.
    #[serde(deserialize_with = "strict::list::<MAX_LOOKED_DATASETS, _, _>")]
    pub looked: Vec<Name>,
    /// The marks that wait.
    #[serde(deserialize_with = "bounded_objects::<MAX_LOOKED_DATASETS, _, _>")]
    pub waiting: Vec<WaitingMarks>,
    /// The marks that it does not carry out, or not all of them; and those that wait and name what
    /// it keeps now.
    #[serde(deserialize_with = "bounded_objects::<MAX_REFUSED_MARKS, _, _>")]
    pub refused: Vec<RefusedMark>,
    /// The marks that somebody vetoed.
    #[serde(deserialize_with = "bounded_objects::<MAX_VETOED_MARKS, _, _>")]
    pub vetoed: Vec<VetoedMark>,
    /// The datasets in which something failed. One that is not in `looked`, too, was not looked at
    /// to the end.
    #[serde(deserialize_with = "bounded_objects::<MAX_FAILED_LOOKS, _, _>")]
    pub failed: Vec<FailedLook>,
    /// How locks stand, where the warden extends them.
    #[serde(deserialize_with = "bounded_objects::<MAX_LOOKED_LOCKS, _, _>")]
    pub locks: Vec<LookedLock>,
}

/// The marks of a dataset that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingMarks {
    /// The dataset.
    pub dataset: Name,
    /// How many there are.
    #[serde(deserialize_with = "strict::number")]
    pub marks: u64,
    /// When the first of them is due.
    #[serde(with = "utc")]
    pub until: DateTime<Utc>,
    /// Since when the warden sees the oldest of them, though its content may have changed.
    #[serde(with = "utc")]
    pub since: DateTime<Utc>,
    /// How long it lets each wait at least, in seconds.
    #[serde(deserialize_with = "strict::number")]
    pub delay: u64,
}

/// A mark that a warden does not carry out as it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RefusedMark {
    /// The dataset.
    pub dataset: Name,
    /// The mark.
    pub mark: SnapshotId,
    /// Why.
    #[serde(deserialize_with = "bounded_text")]
    pub because: String,
}

/// A mark that somebody vetoed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VetoedMark {
    /// The dataset.
    pub dataset: Name,
    /// The mark.
    pub mark: SnapshotId,
    /// Who did.
    #[serde(deserialize_with = "strict::list::<MAX_VETOING_PEOPLE, _, _>")]
    pub by: Vec<Name>,
}

/// A dataset in which not all could be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLook {
    /// The dataset.
    pub dataset: Name,
    /// Why.
    #[serde(deserialize_with = "bounded_text")]
    pub because: String,
}

/// How the locks of a dataset stand in a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookedLock {
    /// The dataset.
    pub dataset: Name,
    /// The replica.
    pub replica: Name,
    /// For how long what is needed is locked, in seconds.
    #[serde(deserialize_with = "strict::number")]
    pub period: u64,
    /// For how long at most what is kept for longer is locked, in seconds; `None`: for the period.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::some_number")]
    pub at_most: Option<u64>,
    /// Since when all of it is locked for that long; `None` if not all was locked yet.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "utc::optional")]
    pub since: Option<DateTime<Utc>>,
}
