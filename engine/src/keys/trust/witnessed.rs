//! What witnesses have seen, where somebody was revoked: what they saw before that still counts,
//! wherever it is stored now.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;

use super::Trust;

/// When the first witness saw each manifest, by dataset, snapshot and hash.
pub(crate) type SeenManifests = HashMap<(Name, SnapshotId, Digest), DateTime<Utc>>;

impl Trust {
    /// Whether the root has revoked a backup host.
    pub(crate) fn has_revoked_hosts(&self) -> bool {
        let rules = self.rules();
        rules.root.is_some() && rules.grants.iter().any(|grant| grant.until.is_some())
    }

    /// From now on goes by what witnesses have seen, too.
    pub(crate) fn believe_witnesses(&self, seen: SeenManifests) {
        *self.witnessed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }

    /// Whether a witness saw this object before a time. It must be a manifest.
    pub(crate) fn was_seen_before(&self, key: &str, object: &[u8], time: DateTime<Utc>) -> bool {
        let witnessed = self.witnessed.read().unwrap_or_else(PoisonError::into_inner).clone();
        if witnessed.is_empty() {
            return false;
        }
        let dataset = key.strip_prefix(layout::DATASETS).and_then(|rest| rest.split('/').next()?.parse().ok());
        let manifest = dataset.and_then(|dataset: Name| Some((layout::parse_manifest(&dataset, key)?, dataset)));
        manifest.is_some_and(|(snapshot, dataset)| {
            witnessed.get(&(dataset, snapshot, Digest::of(object))).is_some_and(|seen| *seen < time)
        })
    }
}
