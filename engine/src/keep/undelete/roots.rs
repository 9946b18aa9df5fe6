//! Decides what becomes of a root and of an owner's signature of one.
//!
//! - **The right root of a version** is the one that is trusted, and of those before it the one
//!   that the next names by its hash. What is there now and right is never overwritten.
//! - **A signature** is right if an owner made it of the right root. Where nothing shows which one
//!   that is, of the one that is there now, or was then.
//! - **In doubt**, where no hash tells which one is right, a person decides.
//! - **What was uploaded in parts** may have come later than its date, so it counts only if it is
//!   right. Else the newest version below it that was not counts in its place.

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
    pub(super) async fn fate(
        &self,
        root: &RootKey,
        key: &mut ThenAndNow,
        past: &SharedReplica,
        now: &SharedReplica,
    ) -> Result<Fate> {
        let Some(then) = key.then.clone() else { return Ok(Fate::Newer) };
        if key.is_as_then() && !then.is_in_parts() {
            return Ok(Fate::Same);
        }
        let name = key.key.clone();
        let place = RootPlace { right: self, root, past, now, key: &name };
        if let Some(now) = &key.now
            && place.is_right(now).await? == Some(true)
        {
            return Ok(Fate::Same);
        }
        let mut was_right = place.is_right(&then).await?;
        if then.is_in_parts() && was_right != Some(true) {
            key.take_whole();
            match &key.then {
                None => return Ok(Fate::NotValid),
                Some(_) if key.is_as_then() => return Ok(Fate::Same),
                Some(whole) => was_right = place.is_right(whole).await?,
            }
        }
        Ok(match (root, &key.now, was_right) {
            (RootKey::Signature(..), Some(_), _) | (RootKey::Root(_), Some(_), Some(true)) => Fate::Overwritten,
            (RootKey::Signature(..), None, _) | (RootKey::Root(_), None, None | Some(true)) => Fate::Hidden,
            (RootKey::Root(_), None, Some(false)) => Fate::Strange,
            (RootKey::Root(_), Some(_), _) => Fate::Unknown(format!(
                "replica {}: {name} was overwritten, and nothing shows which one is right; compare it with `lifeboat root show`",
                now.name()
            )),
        })
    }
}

/// Where a root or a signature of one lies.
struct RootPlace<'a> {
    right: &'a RightRoots,
    root: &'a RootKey,
    /// The replica as it was.
    past: &'a SharedReplica,
    now: &'a SharedReplica,
    key: &'a str,
}

impl RootPlace<'_> {
    /// Whether a version is right; `None` if nothing shows which one is.
    async fn is_right(&self, version: &KeptVersion) -> Result<Option<bool>> {
        match self.root {
            RootKey::Root(number) => {
                let Some(right) = self.right.0.get(number) else { return Ok(None) };
                let read = self.now.get_version(self.key, &version.id, MAX_ROOT_BYTES as u64).await;
                Ok(Some(found(read)?.is_some_and(|text| Digest::of(&text) == *right)))
            }
            RootKey::Signature(number, owner) => {
                let read = self.now.get_version(self.key, &version.id, MAX_SIGNATURE_BYTES as u64).await;
                let Some(signature) = text(found(read)?) else { return Ok(Some(false)) };
                for replica in [self.now, self.past] {
                    if self.is_signed(replica, *number, owner, &signature).await? {
                        return Ok(Some(true));
                    }
                }
                Ok(Some(false))
            }
        }
    }

    /// Whether this owner made this signature of the root that a replica shows.
    async fn is_signed(&self, replica: &SharedReplica, number: u64, owner: &Name, signature: &str) -> Result<bool> {
        let Some(root) = self.root(replica, number).await? else { return Ok(false) };
        // An owner who left signed the next root, too: the owners of before count.
        let before = match number.checked_sub(1).filter(|before| *before > 0) {
            Some(before) => self.root(replica, before).await?,
            None => None,
        };
        let before = before.and_then(|text| Root::parse(text.as_bytes(), self.key).ok());
        let signatures = BTreeMap::from([(owner.to_string(), signature.to_owned())]);
        match SignedRoot::read(root, &signatures, before.as_ref(), self.key) {
            Ok(read) => Ok(!read.signers().is_empty()),
            Err(error) if error.class() == Class::Integrity => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The root that a replica shows, unless it is known to be wrong.
    async fn root(&self, replica: &SharedReplica, number: u64) -> Result<Option<String>> {
        let root = found(replica.get(&layout::root(number), MAX_ROOT_BYTES as u64).await)?;
        let right = self.right.0.get(&number);
        Ok(text(root.filter(|root| right.is_none_or(|right| Digest::of(root) == *right))))
    }
}

fn text(bytes: Option<Bytes>) -> Option<String> {
    String::from_utf8(bytes?.to_vec()).ok()
}

fn found(read: Result<Bytes, lifeboat_store::ReplicaError>) -> Result<Option<Bytes>> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind, ReplicaErrorKind::NotFound | ReplicaErrorKind::TooLong { .. }) => Ok(None),
        Err(error) => Err(Error::from(error)),
    }
}
