//! What a replica has against a thief of the credentials: old versions and locks.

use std::time::Duration;

/// What a probe found of versions and locks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// Whether these credentials can remove versions; `None` if that was not tried.
    pub removes_versions: Option<bool>,
    /// Whether these credentials can change whether versions are kept; `None` if that was not
    /// tried.
    pub changes_versioning: Option<bool>,
    /// The lifecycle rules; `None` if the replica does not say.
    pub lifecycle: Option<Lifecycle>,
    /// Whether these credentials can lock an object for longer, and the store tells so afterwards;
    /// `None` if that was not tried.
    pub sets_locks: Option<bool>,
    /// Whether the store removed a version that was locked.
    pub removes_locked: bool,
    /// Whether the store does not offer a request that would tell more of this.
    pub cannot_say: bool,
    /// For how many days the bucket locks new objects by itself.
    pub default_lock_days: Option<u32>,
}

/// What lifecycle rules do below the vault's prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// After how many days old versions end; `None`: never.
    pub old_versions_days: Option<u32>,
    /// Whether one deletes objects that are no old versions.
    pub ends_objects: bool,
}

/// The objects of a replica are locked when they are uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// How the store understands a lock.
    pub mode: LockMode,
    /// For how long at their upload, and at least from then on.
    pub period: Duration,
    /// What is kept for longer than `period` is locked for no longer than this at a time. Not less
    /// than `period`.
    pub at_most: Duration,
}

/// Who can end a lock early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has the permission to bypass it.
    Governance,
    /// Nobody.
    Compliance,
}
