//! Decides what becomes of one key.
//!
//! What was written after the moment is valid if it shows so by itself: a pack by its name, what is
//! signed by a trusted signature beside it, an act by its own. A host and `vault.json`, and without
//! a root a keyring object, show nothing but their form: so they are told, and a person decides.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::info::{HostInfo, VaultInfo};
use lifeboat_format::layout;
use lifeboat_store::{KeptVersion, ReplicaErrorKind, SharedReplica, ThenAndNow};

use super::fate::Fate;
use super::pruned::Pruned;
use super::roots::{RightRoots, RootKey};
use crate::catalog::documents::held_of;
use crate::catalog::order::OrderReader;
use crate::keep::scrub::folders::{Proof, proof};
use crate::keys::crypt;
use crate::keys::sign::MAX_SIGNATURE_BYTES;
use crate::restore::VaultReader;

pub(super) struct FateJudge<'a> {
    pub(super) past: &'a VaultReader,
    pub(super) now: &'a SharedReplica,
    pub(super) pruned: &'a BTreeMap<Name, Pruned>,
    pub(super) roots: &'a RightRoots,
}

/// An object without its signature, and how it shows that it is whole.
struct KnownKey<'k> {
    object: &'k str,
    dataset: Option<Name>,
    proof: Proof,
    longest: u64,
}

/// `None`: it is of no kind that belongs to a vault.
fn known(key: &str) -> Option<KnownKey<'_>> {
    // What belongs to no dataset is the same with any.
    let (dataset, any) = (dataset_of(key), "any".parse().ok()?);
    let name = dataset.as_ref().unwrap_or(&any);
    let object = key.strip_suffix(&layout::signature("")).unwrap_or(key);
    let (proof, longest) = proof(name, object)?;
    // Those of the keyring have signatures in vaults with a root.
    let is_signed = proof == Proof::Signature || object.starts_with(layout::KEYRING);
    (object == key || is_signed).then_some(KnownKey { object, dataset, proof, longest })
}

impl FateJudge<'_> {
    /// What becomes of this key.
    ///
    /// # Errors
    /// The replica fails.
    pub(super) async fn fate(&self, key: &ThenAndNow) -> Result<Fate> {
        if let Some(root) = RootKey::parse(&key.key) {
            return self.roots.fate(&root, key, self.now).await;
        }
        let Some(known) = known(&key.key) else { return Ok(Fate::Strange) };
        let Some(then) = &key.then else { return Ok(Fate::Newer) };
        let Some(now) = &key.now else {
            let of = known.dataset.as_ref().and_then(|dataset| self.pruned.get(dataset));
            let is_pruned = of.is_some_and(|pruned| pruned.explains(&key.key));
            return Ok(if is_pruned { Fate::Pruned } else { Fate::Hidden });
        };
        if now.id == then.id || now.is_same_content(then) {
            return if then.is_in_parts() { self.backdated(key, &known).await } else { Ok(Fate::Same) };
        }
        match self.is_valid(&known).await {
            Err(error) if error.class() == Class::Integrity => Ok(Fate::Overwritten),
            Err(error) if error.class() == Class::Keys => Ok(Fate::Overwritten),
            Err(error) if error.class() == Class::Failed => Ok(Fate::Unknown(error.chain_and_hint())),
            Err(error) => Err(error),
            Ok(()) if matches!(known.proof, Proof::Name(_)) => Ok(Fate::Same),
            Ok(()) => self.compare(&key.key, then, known.longest).await,
        }
    }

    /// What becomes of a version that was uploaded in parts: it may have come later than its date.
    async fn backdated(&self, key: &ThenAndNow, known: &KnownKey<'_>) -> Result<Fate> {
        match self.is_valid(known).await {
            Ok(()) => Ok(Fate::Same),
            Err(error) if matches!(error.class(), Class::Integrity | Class::Keys) => Ok(match key.whole {
                Some(_) => Fate::Backdated,
                None => Fate::Unknown(error.chain_and_hint()),
            }),
            Err(error) if error.class() == Class::Failed => Ok(Fate::Unknown(error.chain_and_hint())),
            Err(error) => Err(error),
        }
    }

    /// Whether what is there now is valid.
    ///
    /// # Errors
    /// [`Class::Integrity`] or [`Class::Keys`]: it is not. [`Class::Failed`]: it cannot be told.
    /// Others: the replica fails.
    async fn is_valid(&self, known: &KnownKey<'_>) -> Result<()> {
        let (vault, keys) = (self.past.vault_id(), self.past.keys());
        let (object, what) = (known.object, format!("replica {}: {}", self.now.name(), known.object));
        let body = self.read(object, known.longest).await?;
        match known.proof {
            Proof::Name(id) => {
                let hashed = tokio::task::spawn_blocking(move || Digest::of(&body)).await;
                let hashed = hashed.map_err(|error| Error::failed("cannot hash a pack").because(error))?;
                return if hashed == id { Ok(()) } else { Err(Error::integrity(format!("{what} is damaged"))) };
            }
            Proof::Act(number) => {
                let Some(dataset) = &known.dataset else { return Ok(()) };
                let reader = OrderReader { vault, dataset, trust: &keys.trust, cache: None, host_key: None };
                return match reader.believe(body, number, &what) {
                    // A trusted signer signed what a newer version understands.
                    Err(error) if error.class() == Class::Failed => Ok(()),
                    believed => believed.map(drop),
                };
            }
            Proof::Keyring(_) | Proof::Copies => {
                self.check_form(object, &body)?;
                if keys.trust.root().is_none() || !object.starts_with(layout::KEYRING) {
                    return Ok(());
                }
            }
            Proof::Signature => {}
        }
        let signature = self.read(&layout::signature(object), MAX_SIGNATURE_BYTES as u64).await?;
        keys.trust.verify(vault, object, &body, &signature).map(drop)
    }

    fn check_form(&self, key: &str, body: &[u8]) -> Result<()> {
        if key == layout::VAULT {
            let info = VaultInfo::parse(body, self.now.name())?;
            let is_ours = info.vault == self.past.vault_id();
            return if is_ours { Ok(()) } else { Err(Error::integrity("it is of another vault")) };
        }
        let Some(host) = layout::parse_host(key) else { return crypt::check_is_age_file(body) };
        match serde_json::from_slice::<HostInfo>(body) {
            Ok(info) if info.host == host => Ok(()),
            _ => Err(Error::integrity("it describes no host, or another one")),
        }
    }

    /// Reads what is there now. What is too long for its kind, or gone, is not valid.
    async fn read(&self, key: &str, longest: u64) -> Result<Bytes> {
        let limit = self.limit(longest);
        self.now.get(key, limit).await.map_err(|error| match error.kind {
            ReplicaErrorKind::TooLong { size, .. } if size <= longest => too_long_here(&error),
            ReplicaErrorKind::Frozen(_) => frozen(&error),
            ReplicaErrorKind::NotFound | ReplicaErrorKind::TooLong { .. } => Error::integrity(error.to_string()),
            _ => error.into(),
        })
    }

    fn limit(&self, longest: u64) -> u64 {
        longest.min(held_of(self.past.limits().memory))
    }

    /// Whether what was there then has the same bytes as what is there now.
    async fn compare(&self, key: &str, then: &KeptVersion, longest: u64) -> Result<Fate> {
        let now = match self.read(key, longest).await {
            Err(error) if error.class() == Class::Failed => return Ok(Fate::Unknown(error.chain_and_hint())),
            now => now?,
        };
        if now.len() as u64 != then.size() {
            return Ok(Fate::Rewritten);
        }
        let then = self.now.get_version(key, &then.id, now.len() as u64).await?;
        Ok(if then == now { Fate::Same } else { Fate::Rewritten })
    }
}

fn frozen(error: &lifeboat_store::ReplicaError) -> Error {
    Error::failed(error.to_string()).hint("thaw it first, and run undelete again")
}

fn too_long_here(error: &lifeboat_store::ReplicaError) -> Error {
    Error::failed(error.to_string()).hint("if it is really so long, raise `limits.memory`")
}

/// The dataset of a key, if it has one.
fn dataset_of(key: &str) -> Option<Name> {
    let keyring = key.strip_prefix(layout::KEYRING).and_then(|rest| rest.strip_prefix("datasets/"));
    keyring.or_else(|| key.strip_prefix(layout::DATASETS))?.split('/').next()?.parse().ok()
}
