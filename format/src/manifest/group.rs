//! The moment that a snapshot shares with snapshots of other datasets: those of its group.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{Name, SnapshotId};
use crate::{strict, utc};

/// No group has more members.
pub const MAX_GROUP_MEMBERS: usize = 64;

/// The part of one snapshot in a moment of its group. There is a common moment if every member has
/// a snapshot that tells of it: one member alone proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMoment {
    /// The group.
    pub name: Name,
    /// Its members, in the order in which they fixed their views.
    #[serde(deserialize_with = "strict::list::<MAX_GROUP_MEMBERS, _, _>")]
    pub members: Vec<Name>,
    /// The same in all snapshots of the moment. It has the shape of a snapshot id.
    pub moment: SnapshotId,
    /// When this member's view of its source begins.
    #[serde(with = "utc")]
    pub at: DateTime<Utc>,
}

impl GroupMoment {
    /// Whether the snapshot of `dataset` can tell this.
    pub(super) fn is_right(&self, dataset: &Name) -> bool {
        let unique: HashSet<&Name> = self.members.iter().collect();
        self.members.len() >= 2 && unique.len() == self.members.len() && unique.contains(dataset)
    }
}
