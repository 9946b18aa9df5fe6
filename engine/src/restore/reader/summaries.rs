//! What a list shows of many snapshots.

use std::path::Path;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use lifeboat_base::Result;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::manifest::Manifest;

use super::{Listed, VaultReader};
use crate::catalog::documents::{Documents, StoredAs};
use crate::catalog::outlines::{KeptOutlines, OutlineMap};
use crate::catalog::taken::TimeClaim;
use crate::keys::seal::HostKey;
use crate::state::cache::ObjectCache;

/// Manifests that are fetched at once.
const SUMMARIES_AT_ONCE: usize = 16;

/// What a list shows of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// When it was taken, as it says.
    pub claim: TimeClaim,
    /// The length of its streams.
    pub raw_bytes: u64,
    /// What it added to each replica.
    pub stored_bytes: u64,
    /// When its capture ended, as it says.
    pub finished: DateTime<Utc>,
    /// The hash of its manifest as it is stored.
    pub hash: Digest,
}

/// What a backup host knows of manifests that it has checked before.
pub struct HostMemory<'a> {
    /// Its state directory. It need not exist, and nothing is written there.
    pub state: &'a Path,
    /// Opens what lies there, if it is of this vault. Whom that host believes does not matter.
    pub host_key: &'a HostKey,
}

impl VaultReader {
    /// Summaries of these snapshots, in their order. What `memory` knows and was believed by the
    /// same signers is not read again, if each replica shows the manifest with the same length.
    /// Whether its bytes are still the same, verify and scrub tell.
    pub async fn summaries(
        &self,
        dataset: &Name,
        listed: Vec<Listed>,
        memory: Option<HostMemory<'_>>,
    ) -> Vec<(Listed, Result<Summary>)> {
        let known = memory.map_or_else(OutlineMap::new, |HostMemory { state, host_key }| {
            let cache = ObjectCache::at(state, dataset, &self.keys.trust.mark());
            KeptOutlines::open(&cache, host_key, &self.vault, dataset).known()
        });
        let keys = self.document_keys(dataset).await;
        let documents = &self.documents(dataset, &keys);
        let summaries = futures::stream::iter(listed).map(|listed| {
            let outline = known.get(&listed.snapshot);
            let known = outline.filter(|outline| listed.bytes == Some(outline.object_bytes)).map(|outline| Summary {
                claim: TimeClaim::from(outline.as_ref()),
                raw_bytes: outline.raw_bytes,
                stored_bytes: outline.stored_bytes,
                finished: outline.finished,
                hash: outline.hash,
            });
            async move {
                let summary = match known {
                    Some(known) => Ok(known),
                    None => self.summary(documents, &listed.snapshot).await,
                };
                (listed, summary)
            }
        });
        summaries.buffered(SUMMARIES_AT_ONCE).collect().await
    }

    async fn summary(&self, documents: &Documents<'_>, snapshot: &SnapshotId) -> Result<Summary> {
        // Nothing of a manifest is kept but what is shown.
        let look = |manifest: Manifest, stored: StoredAs| {
            Ok(Summary {
                claim: TimeClaim::from(&manifest),
                raw_bytes: manifest.accounting.raw_bytes,
                stored_bytes: manifest.accounting.stored_bytes,
                finished: manifest.finished,
                hash: stored.hash,
            })
        };
        documents.look(&self.replicas, snapshot, look).await
    }
}
