//! The front door for readers: it lists a vault and restores from it.

use std::path::Path;

use lifeboat_base::Result;
use lifeboat_base::clock::SystemClock;
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use lifeboat_databases::{RestoreOutcome, Target, WorkContext, load};
use lifeboat_format::id::Name;
use lifeboat_store::SharedReplica;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::keys::ReaderKeys;
use crate::restore::{Listed, Selector, SnapshotStreams, VaultReader};

/// A vault opened for reading, with [`Limits::default`].
///
/// It needs at least one replica, an identity, and the signers to trust. To set limits, to cancel,
/// or to look at manifests, use a [`VaultReader`].
pub struct Vault {
    reader: VaultReader,
    limits: Limits,
    cancel: CancellationToken,
}

impl Vault {
    /// Opens the vault that `replicas` hold. Replicas that do not answer are skipped.
    ///
    /// # Errors
    /// The errors of [`VaultReader::open`].
    pub async fn open(replicas: &[SharedReplica], keys: ReaderKeys) -> Result<Self> {
        let (limits, cancel) = (Limits::default(), CancellationToken::new());
        let reader = VaultReader::open(replicas, keys, limits.clone(), cancel.clone()).await?;
        Ok(Self { reader, limits, cancel })
    }

    /// The datasets that the vault holds.
    ///
    /// # Errors
    /// No replica can be listed.
    pub async fn datasets(&self) -> Result<Vec<Name>> {
        self.reader.datasets().await
    }

    /// The snapshots of a dataset, oldest first.
    ///
    /// # Errors
    /// No replica can be listed.
    pub async fn snapshots(&self, dataset: &Name) -> Result<Vec<Listed>> {
        self.reader.snapshots(dataset).await
    }

    /// The streams of one snapshot. Each can be opened by its name.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage) if the replicas list no such snapshot. Other
    /// classes if its manifest is missing, damaged or forged, or if no identity opens it.
    pub async fn streams(&self, dataset: &Name, selector: &Selector) -> Result<SnapshotStreams> {
        let snapshot = self.reader.select(dataset, selector, SystemClock::shared().now()).await?;
        self.reader.streams(dataset, &snapshot).await
    }

    /// One stream of a snapshot. Its length and BLAKE3 are checked at its end, so trust its bytes
    /// only after it has returned `None`.
    ///
    /// # Errors
    /// The errors of [`Self::streams`], or the snapshot has no such stream.
    pub async fn stream(&self, dataset: &Name, selector: &Selector, name: &str) -> Result<Box<dyn StreamReader>> {
        self.streams(dataset, selector).await?.open(name).await
    }

    /// Restores a snapshot into `target`. `scratch` is a private directory for temporary files.
    /// Client tools get the usual `PATH` and inherit nothing else of the environment.
    ///
    /// # Errors
    /// The errors of [`Self::streams`] and of [`load`].
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

    /// The reader that this vault uses.
    #[must_use]
    pub fn reader(&self) -> &VaultReader {
        &self.reader
    }
}
