//! Prune: what retention lets go, planned as a value, then carried out.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::config::{Config, Dataset};
use crate::error::Result;
use crate::id::{Name, SnapshotId};
use crate::keys::HostKeys;
use crate::replica::SharedReplica;
use crate::state::StateDirectory;

/// Everything prune needs.
pub struct Prune<'a> {
    /// The installation.
    pub config: &'a Config,
    /// Which dataset.
    pub dataset: &'a Dataset,
    /// This host's keys.
    pub keys: &'a HostKeys,
    /// Every configured replica; one that cannot be listed is left alone.
    pub replicas: &'a [SharedReplica],
    /// Remembers since when packs are unreferenced. The caller holds the dataset's lock.
    pub state: &'a StateDirectory,
    /// The time.
    pub clock: SharedClock,
    /// Fired: stop between two deletions.
    pub cancel: CancellationToken,
}

/// One snapshot and its fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which.
    pub snapshot: SnapshotId,
    /// Why it stays; empty: it goes.
    pub keep_because: Vec<String>,
}

/// A pack and where it goes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadPack {
    /// The replica.
    pub replica: Name,
    /// The object's key.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// No snapshot refers to it since then.
    pub unreferenced_since: DateTime<Utc>,
}

/// What would be done. A plan changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    /// Which dataset.
    pub dataset: Name,
    /// Every snapshot, oldest first.
    pub verdicts: Vec<Verdict>,
    /// Packs whose grace period is over: they go.
    pub packs: Vec<DeadPack>,
    /// Packs that only wait for their grace period.
    pub waiting: Vec<DeadPack>,
    /// Replicas that are left alone this time, and why.
    pub skipped: Vec<(Name, String)>,
}

impl PrunePlan {
    /// Snapshots that go.
    pub fn removed(&self) -> impl Iterator<Item = &SnapshotId> {
        self.verdicts.iter().filter(|verdict| verdict.keep_because.is_empty()).map(|verdict| &verdict.snapshot)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.removed().next().is_none()
    }
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneOutcome {
    /// Snapshots removed.
    pub snapshots: u64,
    /// Packs removed, over all replicas.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What failed; it stays and is planned again next time.
    pub failures: Vec<String>,
}

impl Prune<'_> {
    /// Looks and decides.
    ///
    /// # Errors
    /// No replica could be listed, or a manifest is damaged: then nothing may be deleted.
    pub async fn plan(&self) -> Result<PrunePlan> {
        todo!()
    }

    /// Carries `plan` out.
    ///
    /// # Errors
    /// The prune record could not be written.
    pub async fn execute(&self, plan: &PrunePlan) -> Result<PruneOutcome> {
        todo!("{plan:?}")
    }
}
