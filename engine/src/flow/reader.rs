//! Reading a vault: list, select, open. Needs replicas, an identity and trusted signers, and no local state.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::error::Result;
use crate::id::{Name, SnapshotId};
use crate::keys::ReaderKeys;
use crate::replica::SharedReplica;
use crate::source::{SourceFacts, StoredStreams, StreamReader};
use crate::vault::manifest::Manifest;

/// Which snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest.
    Latest,
    /// This one.
    Id(SnapshotId),
    /// The newest whose capture began at or before this time.
    At(DateTime<Utc>),
}

/// A snapshot as the replicas list it; nothing of it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The replicas that hold its manifest and signature.
    pub replicas: Vec<Name>,
}

/// A vault opened for reading.
pub struct VaultReader {
    replicas: Vec<SharedReplica>,
    unreachable: BTreeMap<Name, String>,
}

impl VaultReader {
    /// Reads `vault.json` of each replica. Replicas that fail are noted and left aside.
    ///
    /// # Errors
    /// No replica answers, or two hold different vaults, or a newer format.
    pub async fn open(
        replicas: &[SharedReplica],
        keys: ReaderKeys,
        limits: Limits,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let _ = (replicas.len(), keys.identities.len(), cancel.is_cancelled());
        todo!("{limits:?}")
    }

    /// The vault's id.
    #[must_use]
    pub fn vault_id(&self) -> &str {
        todo!()
    }

    /// Replicas that answer.
    #[must_use]
    pub fn replicas(&self) -> &[SharedReplica] {
        &self.replicas
    }

    /// Replicas that do not, and why.
    #[must_use]
    pub fn unreachable(&self) -> &BTreeMap<Name, String> {
        &self.unreachable
    }

    /// Datasets that have snapshots.
    ///
    /// # Errors
    /// No replica could be listed.
    pub async fn datasets(&self) -> Result<Vec<Name>> {
        todo!()
    }

    /// Snapshots, oldest first.
    ///
    /// # Errors
    /// No replica could be listed.
    pub async fn snapshots(&self, dataset: &Name) -> Result<Vec<Listed>> {
        todo!("{dataset}")
    }

    /// The one that `selector` means.
    ///
    /// # Errors
    /// [`Class::Usage`](crate::Class::Usage) when there is none.
    pub async fn select(&self, dataset: &Name, selector: &Selector) -> Result<SnapshotId> {
        todo!("{dataset} {selector:?}")
    }

    /// Its manifest, signature checked, from any replica that holds it.
    ///
    /// # Errors
    /// Missing, damaged, forged, or no identity opens it.
    pub async fn manifest(&self, dataset: &Name, snapshot: &SnapshotId) -> Result<Manifest> {
        todo!("{dataset} {snapshot}")
    }

    /// Its streams.
    ///
    /// # Errors
    /// As [`Self::manifest`]; and where no identity opens the dataset's packs.
    pub async fn streams(&self, dataset: &Name, snapshot: &SnapshotId) -> Result<SnapshotStreams> {
        todo!("{dataset} {snapshot}")
    }
}

/// The streams of one snapshot, fetched from whichever replica gives them.
pub struct SnapshotStreams {
    manifest: Manifest,
}

impl SnapshotStreams {
    /// What they belong to.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Replicas that packs were read from so far.
    #[must_use]
    pub fn read_from(&self) -> Vec<Name> {
        todo!()
    }

    /// Plaintext bytes delivered so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        todo!()
    }
}

#[async_trait]
impl StoredStreams for SnapshotStreams {
    fn names(&self) -> Vec<String> {
        self.manifest.streams.iter().map(|stream| stream.name.clone()).collect()
    }

    fn facts(&self) -> &SourceFacts {
        &self.manifest.source
    }

    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>> {
        todo!("{name}")
    }
}
