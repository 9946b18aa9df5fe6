//! The old versions that a bucket keeps of its objects.

use chrono::{DateTime, Utc};

/// One version of an object, or a delete marker, which hides the versions below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptVersion {
    /// The object's key, relative to the vault's prefix.
    pub key: String,
    /// As the store names it.
    pub id: String,
    /// What it is.
    pub kind: VersionKind,
    /// When it was written, by the replica's own clock.
    pub modified: DateTime<Utc>,
    /// Whether it is what a reader finds under the key.
    pub is_latest: bool,
}

/// What a version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionKind {
    /// An object.
    Content {
        /// Its size in bytes.
        size: u64,
        /// The store's tag for its content. Equal tags mean equal content.
        tag: String,
    },
    /// Nothing: from here on the key was deleted.
    DeleteMarker,
}

impl KeptVersion {
    /// Whether it is a delete marker.
    #[must_use]
    pub fn is_marker(&self) -> bool {
        self.kind == VersionKind::DeleteMarker
    }

    /// Whether it was uploaded in parts. Stores date such a version by the beginning of its upload,
    /// as AWS does, or by its end.
    #[must_use]
    pub fn is_in_parts(&self) -> bool {
        let VersionKind::Content { tag, .. } = &self.kind else { return false };
        let parts = tag.trim_matches('"').rsplit_once('-').map(|(_, parts)| parts);
        parts.is_some_and(|parts| !parts.is_empty() && parts.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Its size in bytes; 0 for a delete marker.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            VersionKind::Content { size, .. } => *size,
            VersionKind::DeleteMarker => 0,
        }
    }

    /// Whether the store says that both hold the same bytes.
    #[must_use]
    pub fn is_same_content(&self, other: &Self) -> bool {
        match &self.kind {
            VersionKind::Content { tag, .. } => !tag.is_empty() && self.kind == other.kind,
            VersionKind::DeleteMarker => false,
        }
    }
}

/// A part of a listing of versions. Those of one key are together, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionsPage {
    /// The versions; usually a thousand at most.
    pub versions: Vec<KeptVersion>,
    /// The token for the next page; `None` after the last one.
    pub next: Option<String>,
}
