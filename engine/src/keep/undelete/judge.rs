//! Decides what becomes of one key.
//!
//! What was written after the moment is valid if it shows so by itself: a pack by its name, what is
//! signed by a trusted signature beside it, an act and a log's record by its own. A host and
//! `vault.json`, and without a root a keyring object, show nothing but their form: so they are
//! told, and a person decides. A version of before that was uploaded in parts must show it, too: a
//! thief can give it an earlier date. One that shows only its form gives way to a whole one below.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::info::{HostInfo, VaultInfo};
use lifeboat_format::layout;
use lifeboat_format::log::{LogName, MAX_LOG_RECORD_BYTES};
use lifeboat_store::{KeptVersion, ReplicaErrorKind, SharedReplica, ThenAndNow};

use super::fate::Fate;
use super::pruned::Pruned;
use super::roots::{RightRoots, RootKey};
use crate::catalog::documents::held_of;
use crate::catalog::order::OrderReader;
use crate::keep::scrub::folders::{Proof, proof};
use crate::keys::crypt;
use crate::keys::sign::MAX_SIGNATURE_BYTES;
use crate::keys::trust::revoked;
use crate::log::LogReader;
use crate::restore::VaultReader;

pub(super) struct FateJudge<'a> {
    pub(super) past: &'a VaultReader,
    /// The replica as it was.
    pub(super) then: &'a SharedReplica,
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
    /// Whether a signature lies beside it.
    is_signed: bool,
    /// Which record of which log it is, if it is one.
    record: Option<(LogName, u64)>,
}

/// Which version of an object is read.
#[derive(Clone, Copy)]
enum VersionAt<'v> {
    Now,
    Then,
    /// The one of this id.
    Old(&'v str),
}

enum Validity {
    Valid,
    Not,
    Unknown(String),
}

/// # Errors
/// The replica fails.
fn validity(checked: Result<()>) -> Result<Validity> {
    match checked {
        Ok(()) => Ok(Validity::Valid),
        Err(error) if matches!(error.class(), Class::Integrity | Class::Keys) => Ok(Validity::Not),
        Err(error) if error.class() == Class::Failed => Ok(Validity::Unknown(error.chain_and_hint())),
        Err(error) => Err(error),
    }
}

/// `None`: it is of no kind that belongs to a vault.
fn known(key: &str) -> Option<KnownKey<'_>> {
    if let Some(record) = layout::parse_log_record(key) {
        let (proof, longest) = (Proof::Copies, MAX_LOG_RECORD_BYTES as u64);
        return Some(KnownKey { object: key, dataset: None, proof, longest, is_signed: false, record: Some(record) });
    }
    // What belongs to no dataset is the same with any.
    let (dataset, any) = (dataset_of(key), "any".parse().ok()?);
    let name = dataset.as_ref().unwrap_or(&any);
    let object = key.strip_suffix(&layout::signature("")).unwrap_or(key);
    let (proof, longest) = proof(name, object)?;
    // Those of the keyring have signatures in vaults with a root.
    let is_signed = proof == Proof::Signature || object.starts_with(layout::KEYRING);
    (object == key || is_signed).then_some(KnownKey { object, dataset, proof, longest, is_signed, record: None })
}

impl FateJudge<'_> {
    /// What becomes of this key.
    ///
    /// What was uploaded in parts may have come later than its date, so it counts only if it is
    /// valid. Else `key.then` becomes the newest version below it that was not.
    ///
    /// # Errors
    /// The replica fails.
    pub(super) async fn fate(&self, key: &mut ThenAndNow) -> Result<Fate> {
        if let Some(root) = RootKey::parse(&key.key) {
            return self.roots.fate(&root, key, self.then, self.now).await;
        }
        let name = key.key.clone();
        let Some(known) = known(&name) else { return Ok(Fate::Strange) };
        let Some(then) = key.then.clone() else { return Ok(Fate::Newer) };
        if key.now.is_none() {
            let of = known.dataset.as_ref().and_then(|dataset| self.pruned.get(dataset));
            let is_pruned = of.is_some_and(|pruned| pruned.explains(&name));
            let gone = || if is_pruned { Fate::Pruned } else { Fate::Hidden };
            return self.settle(key, &known, gone(), gone()).await;
        }
        if key.is_as_then() {
            return self.settle(key, &known, Fate::Same, Fate::Overwritten).await;
        }
        match validity(self.is_valid(&known).await)? {
            Validity::Not => self.settle(key, &known, Fate::Overwritten, Fate::Overwritten).await,
            Validity::Unknown(why) => Ok(Fate::Unknown(why)),
            Validity::Valid if matches!(known.proof, Proof::Name(_)) => Ok(Fate::Same),
            Validity::Valid => match self.compare(&name, &then, known.longest).await? {
                Fate::Rewritten => self.settle(key, &known, Fate::Rewritten, Fate::Rewritten).await,
                other => Ok(other),
            },
        }
    }

    /// Looks at a version that was uploaded in parts. If it is not valid, the one below it counts,
    /// so that the key may have another fate.
    async fn settle(&self, key: &mut ThenAndNow, known: &KnownKey<'_>, fate: Fate, other: Fate) -> Result<Fate> {
        let Some(then) = key.then.as_ref().filter(|then| then.is_in_parts()) else { return Ok(fate) };
        // What shows nothing but its form gives way to a whole one below it.
        let is_form_only = known.record.is_none()
            && matches!(known.proof, Proof::Keyring(_) | Proof::Copies)
            && !(known.is_signed && self.past.keys().trust.root().is_some());
        match validity(self.was_valid(&key.key, known, &then.id).await)? {
            Validity::Valid if !(is_form_only && key.whole.is_some()) => Ok(fate),
            Validity::Unknown(why) => Ok(Fate::Unknown(why)),
            Validity::Valid | Validity::Not => {
                key.take_whole();
                Ok(match &key.then {
                    None => Fate::NotValid,
                    Some(_) if key.is_as_then() => Fate::Same,
                    Some(_) => other,
                })
            }
        }
    }

    /// Whether what is there now is valid.
    ///
    /// # Errors
    /// [`Class::Integrity`] or [`Class::Keys`]: it is not. [`Class::Failed`]: it cannot be told.
    /// Others: the replica fails.
    async fn is_valid(&self, known: &KnownKey<'_>) -> Result<()> {
        self.check(known, VersionAt::Now, VersionAt::Now).await
    }

    /// As [`Self::is_valid`], of an old version of an object or a signature. The other one of the
    /// two may be what is there now, or was then.
    async fn was_valid(&self, key: &str, known: &KnownKey<'_>, id: &str) -> Result<()> {
        let of = |other| match key == known.object {
            true => self.check(known, VersionAt::Old(id), other),
            false => self.check(known, other, VersionAt::Old(id)),
        };
        match of(VersionAt::Now).await {
            Err(error) if known.is_signed && matches!(error.class(), Class::Integrity | Class::Keys) => {
                of(VersionAt::Then).await
            }
            checked => checked,
        }
    }

    async fn check(&self, known: &KnownKey<'_>, of: VersionAt<'_>, signed: VersionAt<'_>) -> Result<()> {
        let (vault, keys) = (self.past.vault_id(), self.past.keys());
        let (object, what) = (known.object, format!("replica {}: {}", self.now.name(), known.object));
        let body = self.read(object, known.longest, of).await?;
        if let Some((log, number)) = &known.record {
            let reader = LogReader { vault, trust: &keys.trust };
            return match reader.judge(body, log, *number, &what) {
                // A trusted signer signed what a newer version understands.
                Err(error) if error.class() == Class::Failed => Ok(()),
                judged => judged.and_then(|(_, before)| match before {
                    None => Ok(()),
                    Some(until) => Err(revoked(until, "nothing tells when it was stored")),
                }),
            };
        }
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
            Proof::Line => return keys.trust.verify_line(vault, object, &body).map(drop),
            Proof::Keyring(_) | Proof::Copies => {
                self.check_form(object, &body)?;
                if keys.trust.root().is_none() || !object.starts_with(layout::KEYRING) {
                    return Ok(());
                }
            }
            Proof::Signature => {}
        }
        let signature = self.read(&layout::signature(object), MAX_SIGNATURE_BYTES as u64, signed).await?;
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

    /// Reads a version. What is too long for its kind, or gone, is not valid.
    async fn read(&self, key: &str, longest: u64, at: VersionAt<'_>) -> Result<Bytes> {
        let limit = self.limit(longest);
        let read = match at {
            VersionAt::Now => self.now.get(key, limit).await,
            VersionAt::Then => self.then.get(key, limit).await,
            VersionAt::Old(id) => self.now.get_version(key, id, limit).await,
        };
        read.map_err(|error| match error.kind {
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
        let now = match self.read(key, longest, VersionAt::Now).await {
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
pub(super) fn dataset_of(key: &str) -> Option<Name> {
    let keyring = key.strip_prefix(layout::KEYRING).and_then(|rest| rest.strip_prefix("datasets/"));
    keyring.or_else(|| key.strip_prefix(layout::DATASETS))?.split('/').next()?.parse().ok()
}
