//! Decides what becomes of a root and of an owner's signature of one.
//!
//! - **The right root of a version** is the one that is trusted, and of those before it the one
//!   that the next names by its hash. What is there now and right is never overwritten.
//! - **A signature** is right if an owner made it of the root that is there now.
//! - **In doubt**, where no hash tells which one is right, a person decides.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::root::{MAX_ROOT_BYTES, Root};
use lifeboat_store::{KeptVersion, ReplicaErrorKind, SharedReplica, ThenAndNow};

use super::fate::Fate;
use crate::keys::sign::MAX_SIGNATURE_BYTES;
use crate::restore::VaultReader;
use crate::root::SignedRoot;

/// A key below `root/`.
pub(super) enum RootKey {
    Root(u64),
    Signature(u64, Name),
}

/// The hashes of the right roots, by version, as far back as they can be read.
#[derive(Default)]
pub(super) struct RightRoots(BTreeMap<u64, Digest>);

impl RootKey {
    pub(super) fn parse(key: &str) -> Option<Self> {
        let signature = || layout::parse_root_signature(key).map(|(version, owner)| Self::Signature(version, owner));
        layout::parse_root(key).map(Self::Root).or_else(signature)
    }
}

impl RightRoots {
    /// Goes back from the root that is trusted. Where there is none, nothing is known.
    pub(super) async fn look(reader: &VaultReader, past: &SharedReplica, now: &SharedReplica) -> Self {
        let mut right = BTreeMap::new();
        let Some(trusted) = reader.keys().trust.root() else { return Self(right) };
        let Ok(text) = trusted.to_json() else { return Self(right) };
        let (mut version, mut hash) = (trusted.version, Digest::of(&text));
        let mut previous = trusted.previous;
        loop {
            right.insert(version, hash);
            let Some(before) = previous else { return Self(right) };
            (version, hash, previous) = (version - 1, before, None);
            let key = layout::root(version);
            for replica in reader.replicas().iter().chain([past, now]) {
                let Ok(text) = replica.get(&key, MAX_ROOT_BYTES as u64).await else { continue };
                if Digest::of(&text) == hash {
                    previous = Root::parse(&text, &key).ok().and_then(|root| root.previous);
                    break;
                }
            }
        }
    }

    /// What becomes of this key.
    ///
    /// # Errors
    /// The replica fails.
    pub(super) async fn fate(&self, root: &RootKey, key: &ThenAndNow, replica: &SharedReplica) -> Result<Fate> {
        let Some(then) = &key.then else { return Ok(Fate::Newer) };
        let place = RootPlace { replica, key: &key.key };
        match (root, &key.now) {
            (_, Some(now)) if now.id == then.id || now.is_same_content(then) => Ok(Fate::Same),
            (RootKey::Root(version), now) => {
                let right = self.0.get(version);
                let was_right = match right {
                    Some(right) => place.hash(then).await?.as_ref() == Some(right),
                    None => now.is_none(),
                };
                let is_right = match (right, now) {
                    (Some(right), Some(now)) => place.hash(now).await?.as_ref() == Some(right),
                    _ => false,
                };
                Ok(match now {
                    Some(_) if is_right => Fate::Same,
                    Some(_) if was_right => Fate::Overwritten,
                    None if was_right => Fate::Hidden,
                    None => Fate::Strange,
                    Some(_) => Fate::Unknown(format!(
                        "replica {}: {} was overwritten, and nothing shows which one is right; compare it with `lifeboat root show`",
                        replica.name(),
                        key.key
                    )),
                })
            }
            (RootKey::Signature(..), None) => Ok(Fate::Hidden),
            (RootKey::Signature(version, owner), Some(_)) => {
                let is_right = place.is_signed(*version, owner).await?;
                Ok(if is_right { Fate::Same } else { Fate::Overwritten })
            }
        }
    }
}

/// Where a root or a signature of one lies.
struct RootPlace<'a> {
    replica: &'a SharedReplica,
    key: &'a str,
}

impl RootPlace<'_> {
    /// The hash of a version; `None` if it is gone, or longer than a root can be.
    async fn hash(&self, version: &KeptVersion) -> Result<Option<Digest>> {
        let read = self.replica.get_version(self.key, &version.id, MAX_ROOT_BYTES as u64).await;
        Ok(found(read)?.map(|text| Digest::of(&text)))
    }

    /// Whether the signature that is there now is one of this owner, of the root that is there now.
    async fn is_signed(&self, version: u64, owner: &Name) -> Result<bool> {
        let root = found(self.replica.get(&layout::root(version), MAX_ROOT_BYTES as u64).await)?;
        let signature = found(self.replica.get(self.key, MAX_SIGNATURE_BYTES as u64).await)?;
        let text = |bytes: Option<Bytes>| bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let (Some(root), Some(signature)) = (text(root), text(signature)) else { return Ok(false) };
        // An owner who left signed the next root, too: the owners of before count.
        let before = match version.checked_sub(1).filter(|before| *before > 0) {
            Some(before) => found(self.replica.get(&layout::root(before), MAX_ROOT_BYTES as u64).await)?,
            None => None,
        };
        let before = before.and_then(|text| Root::parse(&text, self.key).ok());
        let signatures = BTreeMap::from([(owner.to_string(), signature)]);
        match SignedRoot::read(root, &signatures, before.as_ref(), self.key) {
            Ok(read) => Ok(!read.signers().is_empty()),
            Err(error) if error.class() == Class::Integrity => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn found(read: Result<Bytes, lifeboat_store::ReplicaError>) -> Result<Option<Bytes>> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind, ReplicaErrorKind::NotFound | ReplicaErrorKind::TooLong { .. }) => Ok(None),
        Err(error) => Err(Error::from(error)),
    }
}
