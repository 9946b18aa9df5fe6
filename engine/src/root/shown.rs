//! What one replica shows below `root/`. It may be hostile, and it may be slow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_format::root::{MAX_ROOT_BYTES, Root};
use lifeboat_store::{ReplicaError, SharedReplica};
use tokio::time::{Instant, timeout};

use super::signed::SignedRoot;
use crate::keys::sign::MAX_SIGNATURE_BYTES;

/// A replica whose own requests take longer together is left aside, however much it shows. The time
/// that others take does not count: else one slow replica would silence those that answer.
const LONGEST_LOOK: Duration = Duration::from_secs(180);

/// A replica with what it lists below `root/`.
pub(super) struct ShownRoots<'a> {
    pub(super) replica: &'a SharedReplica,
    /// The keys, each with the length of its object in bytes.
    keys: BTreeMap<String, u64>,
    left: TimeLeft,
}

/// What a replica may still take for its requests.
struct TimeLeft(Mutex<Duration>);

impl TimeLeft {
    /// Waits for one request, and counts what it takes.
    async fn spend<T>(&self, replica: &Name, request: impl Future<Output = T>) -> Result<T> {
        let (left, began) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let answer = if left.is_zero() { None } else { timeout(left, request).await.ok() };
        let left = answer.as_ref().map_or(Duration::ZERO, |_| left.saturating_sub(began.elapsed()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = left;
        answer.ok_or_else(|| too_slow(replica))
    }
}

impl<'a> ShownRoots<'a> {
    /// Lists what a replica has below `root/`.
    ///
    /// # Errors
    /// It fails, or does not answer in time.
    pub(super) async fn list(replica: &'a SharedReplica) -> Result<Self> {
        let left = TimeLeft(Mutex::new(LONGEST_LOOK));
        let listed = left.spend(replica.name(), replica.list(layout::ROOTS)).await??;
        let keys = listed.into_iter().map(|object| (object.key, object.size)).collect();
        Ok(Self { replica, keys, left })
    }

    /// The name of the replica.
    pub(super) fn name(&self) -> &'a Name {
        self.replica.name()
    }

    /// The versions of which it lists a root.
    pub(super) fn versions(&self) -> impl Iterator<Item = u64> {
        self.keys.keys().filter_map(|key| layout::parse_root(key))
    }

    /// Whether it lists this root and all its signatures.
    pub(super) fn lists(&self, root: &SignedRoot) -> bool {
        let version = root.root.version;
        self.keys.get(&layout::root(version)) == Some(&(root.text.len() as u64))
            && root.signatures().keys().all(|owner| self.keys.contains_key(&layout::root_signature(version, owner)))
    }

    /// The root of this version as it has it; `None` if it lists none.
    ///
    /// # Errors
    /// It is damaged or missing, which is a verdict; or the replica fails, or is too slow.
    pub(super) async fn read(&self, version: u64, before: Option<&Root>) -> Result<Option<SignedRoot>> {
        let key = layout::root(version);
        if !self.keys.contains_key(&key) {
            return Ok(None);
        }
        self.left.spend(self.name(), self.read_listed(&key, version, before)).await?.map(Some)
    }

    async fn read_listed(&self, key: &str, version: u64, before: Option<&Root>) -> Result<SignedRoot> {
        let what = format!("replica {}: {key}", self.name());
        let text = self.replica.get(key, MAX_ROOT_BYTES as u64).await.map_err(gone)?;
        let text = String::from_utf8(text.to_vec())
            .map_err(|_| Error::integrity(format!("{what} is damaged")).because("it is not text"))?;
        let root = Root::parse(text.as_bytes(), &what)?;
        let owners = root.owners.iter().chain(before.into_iter().flat_map(|before| &before.owners));
        let owners: BTreeSet<&Name> = owners.map(|owner| &owner.name).collect();
        let signed = owners.into_iter().map(|owner| (owner, layout::root_signature(version, owner)));
        let signed = signed.filter(|(_, key)| self.keys.contains_key(key));
        let read = signed.map(|(owner, key)| async move {
            (owner, self.replica.get(&key, MAX_SIGNATURE_BYTES as u64).await.map_err(gone))
        });
        let mut signatures = BTreeMap::new();
        for (owner, signature) in join_all(read).await {
            if let Ok(signature) = String::from_utf8(signature?.to_vec()) {
                signatures.insert(owner.to_string(), signature);
            }
        }
        let read = SignedRoot::read(text, &signatures, before, &what)?;
        if read.root.version == version { Ok(read) } else { Err(Error::integrity(format!("{what} is another root"))) }
    }
}

/// What is listed and not there says that it is not there.
fn gone(error: ReplicaError) -> Error {
    if error.is_not_found() { Error::integrity(error.to_string()) } else { error.into() }
}

fn too_slow(replica: &Name) -> Error {
    let seconds = LONGEST_LOOK.as_secs();
    Error::storage(format!("replica {replica} has not shown its roots within {seconds} s"))
        .hint("check that the replica is reachable")
}
