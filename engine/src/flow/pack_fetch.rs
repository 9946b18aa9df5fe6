//! Fetches packs: any replica, checked, decrypted, decompressed, and kept while memory allows.
//!
//! A replica that fails is asked last from then on. Two readers that want the same pack at once share one fetch.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::documents::combine;
use crate::bytes::crypt;
use crate::config::Limits;
use crate::error::{Class, Context, Error, Result};
use crate::id::{Digest, Name};
use crate::replica::{Replica, SharedReplica};
use crate::vault::keyring::DatasetSecrets;
use crate::vault::layout;
use crate::vault::manifest::PackRef;
use crate::vault::pack;

/// Memory of one pack on its way: content, ciphertext and plaintext.
const PACK_MEMORY: u64 = (pack::MAX_CONTENT + 2 * pack::TARGET_SIZE) as u64;

/// Frames that do not compress, the table and the padding stay below this.
const LARGEST_PLAINTEXT: usize = pack::MAX_CONTENT + (16 << 20);

/// Fetches the packs of one dataset.
pub(super) struct PackFetcher {
    dataset: Name,
    replicas: Vec<SharedReplica>,
    secrets: Arc<DatasetSecrets>,
    slots: usize,
    recent: Mutex<VecDeque<(Digest, Arc<OnceCell<Bytes>>)>>,
    failing: Mutex<BTreeSet<Name>>,
    used: Mutex<BTreeSet<Name>>,
}

impl PackFetcher {
    pub(super) fn new(dataset: Name, replicas: Vec<SharedReplica>, secrets: DatasetSecrets, limits: &Limits) -> Self {
        Self {
            dataset,
            replicas,
            secrets: Arc::new(secrets),
            slots: usize::try_from(limits.memory / PACK_MEMORY).unwrap_or(usize::MAX).clamp(2, 16),
            recent: Mutex::default(),
            failing: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// How many packs may be fetched ahead of the one in use.
    pub(super) fn ahead(&self) -> usize {
        (self.slots - 1).clamp(1, 8)
    }

    /// Replicas that packs came from.
    pub(super) fn used(&self) -> Vec<Name> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The content of a pack.
    pub(super) async fn content(&self, pack: &PackRef) -> Result<Bytes> {
        let cell = self.slot(pack.0);
        cell.get_or_try_init(|| self.fetch(pack)).await.cloned()
    }

    fn slot(&self, id: Digest) -> Arc<OnceCell<Bytes>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = match recent.iter().position(|(known, _)| *known == id).and_then(|at| recent.remove(at)) {
            Some((_, cell)) => cell,
            None => Arc::default(),
        };
        recent.push_back((id, cell.clone()));
        if recent.len() > self.slots {
            recent.pop_front();
        }
        cell
    }

    async fn fetch(&self, pack: &PackRef) -> Result<Bytes> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (last, first): (Vec<_>, Vec<_>) =
            self.replicas.iter().partition(|replica| failing.contains(replica.name()));
        let mut errors = Vec::new();
        for replica in first.into_iter().chain(last) {
            match self.fetch_from(replica.as_ref(), pack).await {
                Ok(content) => {
                    self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(replica.name().clone());
                    return Ok(content);
                }
                Err(error) => {
                    tracing::warn!(replica = %replica.name(), error = %error.chain(), "a pack cannot be had here");
                    self.failing.lock().unwrap_or_else(PoisonError::into_inner).insert(replica.name().clone());
                    errors.push(error);
                }
            }
        }
        Err(combine(format!("no replica gives pack {} of dataset {}", pack.0, self.dataset), &errors))
    }

    async fn fetch_from(&self, replica: &dyn Replica, pack: &PackRef) -> Result<Bytes> {
        let ciphertext = fetch_ciphertext(replica, &self.dataset, pack).await?;
        let (secrets, content) = (self.secrets.clone(), pack.2);
        tokio::task::spawn_blocking(move || open(&ciphertext, content, &secrets))
            .await
            .context(Class::Failed, || "a worker thread failed")?
            .map_err(|error| error.within(format!("replica {}: pack {} is damaged", replica.name(), pack.0)))
    }
}

/// The ciphertext of a pack from one replica, checked against its id. Needs no key.
pub(super) async fn fetch_ciphertext(replica: &dyn Replica, dataset: &Name, pack: &PackRef) -> Result<Bytes> {
    let PackRef(id, size, _) = *pack;
    let ciphertext = replica.get(&layout::pack(dataset, &id)).await.map_err(|error| {
        if error.is_not_found() {
            Error::integrity(format!("replica {}: pack {id} is missing", replica.name()))
        } else {
            error.into()
        }
    })?;
    let ciphertext = tokio::task::spawn_blocking(move || (Digest::of(&ciphertext) == id).then_some(ciphertext))
        .await
        .context(Class::Failed, || "a worker thread failed")?;
    ciphertext.filter(|ciphertext| ciphertext.len() as u64 == size).ok_or_else(|| {
        Error::integrity(format!("replica {}: pack {id} does not have the content it is named for", replica.name()))
            .hint("another replica may hold it whole; remove the damaged object from this one, and the daemon copies it anew")
    })
}

/// Decrypts, decompresses and checks a pack. CPU work.
pub(super) fn open(ciphertext: &[u8], content: u64, secrets: &DatasetSecrets) -> Result<Bytes> {
    let identity = std::iter::once(&secrets.identity as &dyn age::Identity);
    let plaintext = crypt::decrypt(identity, ciphertext, LARGEST_PLAINTEXT)?;
    pack::read_content(&plaintext, content, &secrets.chunk_id_key)
}
