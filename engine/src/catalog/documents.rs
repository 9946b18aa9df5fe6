//! Reads the signed, encrypted documents of a dataset: manifests and index segments.
//!
//! A trusted signer has signed each document that this module returns, for exactly this vault and
//! object key.
//!
//! Many small documents are read at once, but large ones one at a time in the whole process: what a
//! replica sends in their place must not add up. A document that takes more than half of
//! `limits.memory` is refused.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use age::Identity;
use bytes::Bytes;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::act::{Act, ActKind};
use lifeboat_format::id::{Digest, Name, PackId, SnapshotId};
use lifeboat_format::index::{IndexSegment, MAX_INDEX_OBJECT_BYTES};
use lifeboat_format::layout;
use lifeboat_format::manifest::{self, MAX_MANIFEST_BYTES, MAX_MANIFEST_OBJECT_BYTES, Manifest, ManifestHead};
use lifeboat_format::record::MAX_RECORD_BYTES;
use lifeboat_store::{Replica, ReplicaError, ReplicaErrorKind, SharedReplica};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::signed::{check_pair, fetch_pair};
use super::verdict::{Signed, combine};
use crate::keys::ReaderKeys;
use crate::keys::crypt;
use crate::state::cache::ObjectCache;

/// A longer object is large, and so is a document with more JSON.
pub(crate) const SMALL_DOCUMENT_BYTES: u64 = 2 << 20;
/// This much may be held of a document whatever `limits.memory` says.
const MIN_HELD_BYTES: u64 = 32 << 20;
/// Taken by whoever fetches or opens a large document. One that waits for it must not keep the one
/// that has it from going on, so nobody reads documents while others are being read and wait to be
/// looked at.
static LARGE_DOCUMENT: Semaphore = Semaphore::const_new(1);

/// Reads documents of one dataset.
pub(crate) struct Documents<'a> {
    pub vault: &'a str,
    pub dataset: &'a Name,
    pub keys: &'a ReaderKeys,
    /// Holds only documents whose signature was checked.
    pub cache: Option<&'a ObjectCache>,
    /// `limits.memory`, in bytes.
    pub memory: u64,
}

/// A kind of document.
#[derive(Clone, Copy)]
struct DocumentKind {
    name: &'static str,
    /// No object of this kind is longer.
    max_bytes: u64,
    /// How much a plaintext decompresses to, as it says itself, where its parser allows more than
    /// may be held.
    unpacked: fn(&[u8]) -> u64,
}

const MANIFEST: DocumentKind =
    DocumentKind { name: "manifest", max_bytes: MAX_MANIFEST_OBJECT_BYTES, unpacked: manifest::json_bytes };
const INDEX_SEGMENT: DocumentKind =
    DocumentKind { name: "index segment", max_bytes: MAX_INDEX_OBJECT_BYTES, unpacked: |_| 0 };

/// A document's object as it is stored.
#[derive(Clone, Copy)]
pub(crate) struct StoredAs {
    pub(crate) hash: Digest,
    /// Its length.
    pub(crate) bytes: u64,
}

/// Why an object was not fetched.
struct Unfetched {
    error: Error,
    /// It is longer than may be held here, but not than its kind can be.
    is_long: bool,
}

impl From<Error> for Unfetched {
    fn from(error: Error) -> Self {
        Self { error, is_long: false }
    }
}

impl From<Unfetched> for Error {
    fn from(unfetched: Unfetched) -> Self {
        unfetched.error
    }
}

impl Documents<'_> {
    /// The manifest from the cache, or else from the first of `replicas` that returns a valid one.
    /// Also the hash of its object as it is stored.
    pub(crate) async fn manifest(
        &self,
        replicas: &[SharedReplica],
        snapshot: &SnapshotId,
    ) -> Result<(Manifest, Digest)> {
        self.look(replicas, snapshot, |manifest, stored| Ok((manifest, stored.hash))).await
    }

    /// What `look` finds in this manifest. A large one is gone before the next one is read.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        replicas: &[SharedReplica],
        snapshot: &SnapshotId,
        look: impl Fn(Manifest, StoredAs) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let (vault, dataset, id) = (self.vault.to_owned(), self.dataset.clone(), snapshot.clone());
        let parse = move |plaintext: Vec<u8>, stored: StoredAs| {
            look(Manifest::parse(plaintext, &vault, &dataset, &id)?, stored)
        };
        let key = layout::manifest(self.dataset, snapshot);
        self.read(MANIFEST, snapshot, key, replicas, parse).await
    }

    /// As [`Self::manifest`], of a manifest that requires what this program does not know.
    pub(crate) async fn manifest_head(
        &self,
        replicas: &[SharedReplica],
        snapshot: &SnapshotId,
    ) -> Result<(ManifestHead, Digest)> {
        let (vault, dataset, id) = (self.vault.to_owned(), self.dataset.clone(), snapshot.clone());
        let parse = move |plaintext: Vec<u8>, stored: StoredAs| {
            Ok((Manifest::parse_head(plaintext, &vault, &dataset, &id)?, stored.hash))
        };
        let key = layout::manifest(self.dataset, snapshot);
        self.read(MANIFEST, snapshot, key, replicas, parse).await
    }

    /// The index segment from the cache, or else from the first of `replicas` that returns a valid
    /// one.
    pub(crate) async fn index(&self, replicas: &[SharedReplica], snapshot: &SnapshotId) -> Result<IndexSegment> {
        let key = layout::index(self.dataset, snapshot);
        let parse = |plaintext: Vec<u8>, _| IndexSegment::open(&plaintext);
        self.read(INDEX_SEGMENT, snapshot, key, replicas, parse).await
    }

    /// Whether one of `replicas` returns the manifest as a trusted signer signed it. It is not
    /// opened.
    ///
    /// # Errors
    /// Why none does.
    pub(crate) async fn check_signed<'b>(
        &self,
        replicas: impl Iterator<Item = &'b SharedReplica>,
        snapshot: &SnapshotId,
    ) -> Result<()> {
        let what = || format!("no replica returns {} signed", layout::manifest(self.dataset, snapshot));
        let found = self.find_signed(replicas, snapshot).await;
        found.map_err(|refused| combine(what(), &refused.into_iter().map(|(_, error)| error).collect::<Vec<_>>()))
    }

    /// Who signed the manifest, as far as `replicas` tell.
    pub(crate) async fn signed<'b>(
        &self,
        replicas: impl Iterator<Item = &'b SharedReplica>,
        snapshot: &SnapshotId,
    ) -> Signed {
        match self.find_signed(replicas, snapshot).await {
            Ok(()) => Signed::Trusted,
            Err(refused) => refused.iter().map(|(signed, _)| *signed).max().unwrap_or(Signed::ByNobody),
        }
    }

    /// As [`Self::check_signed`], with what each replica tells of the signer, and its error.
    pub(crate) async fn find_signed<'b>(
        &self,
        replicas: impl Iterator<Item = &'b SharedReplica>,
        snapshot: &SnapshotId,
    ) -> Result<(), Vec<(Signed, Error)>> {
        let (key, mut refused) = (layout::manifest(self.dataset, snapshot), Vec::new());
        for replica in replicas {
            match self.fetch(replica.as_ref(), MANIFEST, &key).await {
                Ok(_) => return Ok(()),
                Err(Unfetched { error, is_long }) => {
                    refused.push((if is_long { Signed::Unknown } else { Signed::of(&error) }, error));
                }
            }
        }
        Err(refused)
    }

    /// The manifest as it is stored, from the cache, or else from the first of `replicas` that
    /// returns it as a trusted signer signed it. It is not opened.
    ///
    /// # Errors
    /// None does.
    pub(super) async fn signed_manifest(&self, replicas: &[SharedReplica], snapshot: &SnapshotId) -> Result<StoredAs> {
        let key = layout::manifest(self.dataset, snapshot);
        let stored = |object: &Bytes| StoredAs { hash: Digest::of(object), bytes: object.len() as u64 };
        if let Some((object, _turn)) = self.cached(&key).await? {
            return Ok(stored(&object));
        }
        let mut errors = Vec::new();
        for replica in replicas {
            match self.fetch(replica.as_ref(), MANIFEST, &key).await {
                Ok((object, _turn)) => return Ok(stored(&object)),
                Err(unfetched) => errors.push(unfetched.error),
            }
        }
        Err(combine(format!("no replica returns {key} signed"), &errors))
    }

    /// The object of an act, as a replica holds it beside no signature. It may be large, so it
    /// comes with the turn. `None`: it is longer than such an object can be, so nobody ordered it.
    ///
    /// # Errors
    /// The replica fails, or the object is longer than may be held here.
    pub(crate) async fn ordered(
        &self,
        replica: &SharedReplica,
        act: &Act,
    ) -> Result<Option<(Bytes, Option<LargeTurn>)>> {
        let (longest, turn) = match act.act {
            ActKind::Commit => (MANIFEST.max_bytes, Some(take_turn().await?)),
            ActKind::Mark | ActKind::Sweep => (MAX_RECORD_BYTES as u64, None),
        };
        match replica.get(&act.object(), longest.min(self.held())).await {
            Err(ReplicaError { kind: ReplicaErrorKind::TooLong { size, .. }, .. }) if size > longest => Ok(None),
            Err(error @ ReplicaError { kind: ReplicaErrorKind::TooLong { size, .. }, .. }) => {
                Err(Error::integrity(error.to_string()).hint(raise_memory(size)))
            }
            fetched => Ok(Some((fetched?, turn))),
        }
    }

    /// The head of a manifest that has no signature. Anybody may have written it, so it proves
    /// nothing: it can only be a reason to delete nothing.
    pub(super) async fn unsigned_head(&self, replica: &SharedReplica, snapshot: &SnapshotId) -> Result<ManifestHead> {
        let (vault, dataset, id) = (self.vault.to_owned(), self.dataset.clone(), snapshot.clone());
        let parse = move |plaintext: Vec<u8>, _| Manifest::parse_head(plaintext, &vault, &dataset, &id);
        self.unsigned(replica, snapshot, parse).await
    }

    /// The packs that such a manifest names.
    pub(super) async fn unsigned_packs(&self, replica: &SharedReplica, snapshot: &SnapshotId) -> Result<Vec<PackId>> {
        let (vault, dataset, id) = (self.vault.to_owned(), self.dataset.clone(), snapshot.clone());
        let parse = move |plaintext: Vec<u8>, _| {
            let manifest = Manifest::parse(plaintext, &vault, &dataset, &id)?;
            Ok(manifest.packs.iter().map(|pack| pack.id).collect())
        };
        self.unsigned(replica, snapshot, parse).await
    }

    async fn unsigned<T: Send + 'static>(
        &self,
        replica: &SharedReplica,
        snapshot: &SnapshotId,
        parse: impl FnOnce(Vec<u8>, StoredAs) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let key = layout::manifest(self.dataset, snapshot);
        let turn = take_turn().await?;
        let object = replica.get(&key, MANIFEST.max_bytes.min(self.held())).await?;
        self.open(MANIFEST, &key, object, Some(turn), parse).await
    }

    async fn read<T: Send + 'static>(
        &self,
        kind: DocumentKind,
        snapshot: &SnapshotId,
        key: String,
        replicas: &[SharedReplica],
        parse: impl Fn(Vec<u8>, StoredAs) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        if let Some((object, turn)) = self.cached(&key).await?
            && let Ok(document) = self.open(kind, &key, object, turn, parse.clone()).await
        {
            return Ok(document);
        }
        let mut errors = Vec::new();
        for replica in replicas {
            let read = async {
                let (object, turn) = self.fetch(replica.as_ref(), kind, &key).await?;
                let document = self.open(kind, &key, object, turn, parse.clone()).await;
                document.map_err(|error| error.within(format!("replica {}", replica.name())))
            };
            match read.await {
                Ok(found) => return Ok(found),
                // Of the only replica, its own words say it all.
                Err(error) if replicas.len() == 1 => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        Err(combine(format!("no replica returns a valid {} of {}/{snapshot}", kind.name, self.dataset), &errors))
    }

    /// The copy in the cache. If it is large, the turn comes with it.
    async fn cached(&self, key: &str) -> Result<Option<(Bytes, Option<LargeTurn>)>> {
        let Some(cache) = self.cache else { return Ok(None) };
        let turn = match cache.length(key) {
            None => return Ok(None),
            Some(length) if length > SMALL_DOCUMENT_BYTES => Some(take_turn().await?),
            Some(_) => None,
        };
        Ok(cache.get(key).map(|object| (Bytes::from(object), turn)))
    }

    /// Fetches an object, checks its signature, and adds it to the cache. If it is large, the turn
    /// comes with it.
    async fn fetch(
        &self,
        replica: &dyn Replica,
        kind: DocumentKind,
        key: &str,
    ) -> Result<(Bytes, Option<LargeTurn>), Unfetched> {
        let held = kind.max_bytes.min(self.held());
        let (vault, trust) = (self.vault, &self.keys.trust);
        let mut turn = None;
        let (object, _) = match fetch_pair(replica, key, held.min(SMALL_DOCUMENT_BYTES)).await {
            Err(ReplicaError { kind: ReplicaErrorKind::TooLong { size, .. }, .. }) if size <= held => {
                turn = Some(take_turn().await?);
                check_pair(fetch_pair(replica, key, held).await, replica, key, vault, trust).await
            }
            Err(error @ ReplicaError { kind: ReplicaErrorKind::TooLong { size, .. }, .. })
                if size <= kind.max_bytes && error.key == key =>
            {
                let error = Error::integrity(error.to_string()).hint(raise_memory(size));
                return Err(Unfetched { error, is_long: true });
            }
            fetched => check_pair(fetched, replica, key, vault, trust).await,
        }?;
        if let Some(cache) = self.cache {
            cache.put(key, &object);
        }
        Ok((object, turn))
    }

    /// How much may be held of one document.
    pub(super) fn held(&self) -> u64 {
        held_of(self.memory)
    }

    /// Decrypts and parses an object on a thread for blocking work.
    async fn open<T: Send + 'static>(
        &self,
        kind: DocumentKind,
        key: &str,
        object: Bytes,
        turn: Option<LargeTurn>,
        parse: impl FnOnce(Vec<u8>, StoredAs) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let identities = self.keys.identities.clone();
        let (decrypted, stored) = on_a_thread(turn.is_some(), move || {
            let identities = identities.iter().map(|identity| identity.as_ref() as &dyn Identity);
            let stored = StoredAs { hash: Digest::of(&object), bytes: object.len() as u64 };
            (crypt::decrypt(identities, &object, MAX_MANIFEST_BYTES), stored)
        })
        .await?;
        let opened = async {
            let plaintext = decrypted?;
            // A few bytes may decompress to many.
            let (unpacked, held) = ((kind.unpacked)(&plaintext), self.held());
            if unpacked > held {
                return Err(Error::integrity(format!(
                    "it decompresses to {unpacked} bytes, and {held} may be held here"
                ))
                .hint(raise_memory(unpacked)));
            }
            let turn = match turn {
                None if unpacked > SMALL_DOCUMENT_BYTES => Some(take_turn().await?),
                turn => turn,
            };
            on_a_thread(turn.is_some(), move || {
                let parsed = parse(plaintext, stored);
                drop(turn);
                parsed
            })
            .await?
        };
        opened.await.map_err(|error: Error| error.within(format!("cannot open {key}")))
    }
}

/// The thread that opened the last large document.
static LARGE_DOCUMENT_THREAD: Mutex<Option<JoinHandle<()>>> = Mutex::new(None);

/// Does this work on a thread for blocking work. For large documents it is a new one each time, and
/// begins when the one before it has ended: the allocator keeps what a thread has freed for the
/// next one that begins, but for all at once if they go on.
async fn on_a_thread<T: Send + 'static>(is_large: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let failed = || "the thread that opens documents failed";
    if !is_large {
        return tokio::task::spawn_blocking(work).await.context(Class::Failed, failed);
    }
    let thread = || LARGE_DOCUMENT_THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    let before = thread().take();
    if let Some(before) = before {
        // If it failed, whoever began it was told.
        let _ = tokio::task::spawn_blocking(|| before.join()).await;
    }
    let (done, result) = oneshot::channel();
    let begun = std::thread::Builder::new().name("large-document".to_owned()).spawn(move || drop(done.send(work())));
    *thread() = Some(begun.context(Class::Failed, failed)?);
    result.await.context(Class::Failed, failed)
}

/// How much may be held of one document under this `limits.memory`, in bytes.
pub(crate) fn held_of(memory: u64) -> u64 {
    MIN_HELD_BYTES.max(memory / 2)
}

pub(super) fn raise_memory(bytes: u64) -> String {
    format!("if it is really so long, set `limits.memory` to more than {} MiB", 2 * (bytes >> 20) + 2)
}

/// The right to hold a large document.
pub(crate) type LargeTurn = SemaphorePermit<'static>;

/// Waits for the turn of a large document.
pub(crate) async fn take_turn() -> Result<LargeTurn> {
    LARGE_DOCUMENT.acquire().await.context(Class::Failed, || "cannot wait for a large document")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// Dies slowly with its thread, and then tells that.
    struct EndOfThread(Arc<AtomicBool>);

    impl Drop for EndOfThread {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(50));
            self.0.store(true, Ordering::SeqCst);
        }
    }

    thread_local! {
        static END: RefCell<Option<EndOfThread>> = const { RefCell::new(None) };
    }

    #[tokio::test]
    async fn a_thread_for_a_large_document_begins_when_the_one_before_has_ended() -> Result<()> {
        for _ in 0..3 {
            let ended = Arc::new(AtomicBool::new(false));
            let of_thread = ended.clone();
            on_a_thread(true, || END.set(Some(EndOfThread(of_thread)))).await?;
            assert!(on_a_thread(true, move || ended.load(Ordering::SeqCst)).await?, "two threads at once");
        }
        Ok(())
    }
}
