//! The front door for readers: list a vault, restore from it.

use std::path::Path;

use lifeboat_base::Result;
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use lifeboat_databases::{RestoreOutcome, Target, WorkContext, load};
use lifeboat_format::id::Name;
use lifeboat_store::SharedReplica;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::keys::ReaderKeys;
use crate::restore::{Listed, Selector, SnapshotStreams, VaultReader};

/// A vault opened for reading, with the usual limits.
///
/// It needs one replica, an identity and the signers to trust. Whoever must set limits, cancel, or
/// look at manifests uses a [`VaultReader`].
pub struct Vault {
    reader: VaultReader,
    limits: Limits,
    cancel: CancellationToken,
}

impl Vault {
    /// Opens the vault that `replicas` hold. Replicas that do not answer are left aside.
    ///
    /// # Errors
    /// As [`VaultReader::open`].
    pub async fn open(replicas: &[SharedReplica], keys: ReaderKeys) -> Result<Self> {
        let (limits, cancel) = (Limits::default(), CancellationToken::new());
        let reader = VaultReader::open(replicas, keys, limits.clone(), cancel.clone()).await?;
        Ok(Self { reader, limits, cancel })
    }

    /// The datasets that it holds.
    ///
    /// # Errors
    /// No replica could be listed.
    pub async fn datasets(&self) -> Result<Vec<Name>> {
        self.reader.datasets().await
    }

    /// The snapshots of a dataset, oldest first.
    ///
    /// # Errors
    /// No replica could be listed.
    pub async fn snapshots(&self, dataset: &Name) -> Result<Vec<Listed>> {
        self.reader.snapshots(dataset).await
    }

    /// The streams of one snapshot, to be read one by one.
    ///
    /// # Errors
    /// There is no such snapshot; it is missing, damaged or forged; or no identity opens it.
    pub async fn streams(&self, dataset: &Name, selector: &Selector) -> Result<SnapshotStreams> {
        let snapshot = self.reader.select(dataset, selector).await?;
        self.reader.streams(dataset, &snapshot).await
    }

    /// One stream of a snapshot. Its length and hash are checked at its end: before `None`, nothing
    /// of it is proved.
    ///
    /// # Errors
    /// As [`Self::streams`]; or the snapshot has no such stream.
    pub async fn stream(&self, dataset: &Name, selector: &Selector, name: &str) -> Result<Box<dyn StreamReader>> {
        self.streams(dataset, selector).await?.open(name).await
    }

    /// Restores a snapshot into `target`. Temporary files lie in `scratch`, a private directory.
    ///
    /// # Errors
    /// As [`Self::streams`] and [`load`].
    pub async fn restore(
        &self,
        dataset: &Name,
        selector: &Selector,
        target: &Target,
        scratch: &Path,
    ) -> Result<RestoreOutcome> {
        let streams = self.streams(dataset, selector).await?;
        let cx = WorkContext {
            scratch: scratch.to_owned(),
            stall: self.limits.stall,
            jobs: self.limits.cpu,
            environment: Default::default(),
            cancel: self.cancel.clone(),
        };
        load(&streams, target, &cx).await
    }

    /// The reader behind it.
    #[must_use]
    pub fn reader(&self) -> &VaultReader {
        &self.reader
    }
}
