//! Looks at one object in one replica: whether it is what its key, its signature or its other
//! copies say. No key that opens a pack is needed, and no more than one object is held.

use std::time::Duration;

use bytes::Bytes;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::info::{HostInfo, MAX_VAULT_INFO_BYTES, VaultInfo};
use lifeboat_format::layout;
use lifeboat_store::{Replica, ReplicaError, ReplicaErrorKind, SharedReplica};
use serde::de::IgnoredAny;

use super::folders::{Proof, proof};
use crate::catalog::documents::{SMALL_DOCUMENT_BYTES, held_of, take_turn};
use crate::catalog::order::OrderReader;
use crate::config::Dataset;
use crate::keys::sign::MAX_SIGNATURE_BYTES;
use crate::keys::{HostKeys, crypt};

/// Objects that belong together, as they are written: key and content.
pub(super) type Copy = Vec<(String, Bytes)>;

/// What was found under a key.
pub(super) enum Looked {
    /// What belongs there.
    Whole(Copy),
    /// Nothing, or not all of it: it was removed or is not finished, or is lost. A catch-up puts
    /// back what is lost.
    Gone,
    /// It was signed by somebody who is not trusted here, or is damaged so that it seems so.
    Strange(Error, Copy),
    /// Nothing that anybody wrote who is trusted.
    Damaged(Error),
    /// It cannot be read, though the replica answers: nobody knows what it was.
    Unreadable(Error),
}

/// Who looks.
#[derive(Clone, Copy)]
pub(super) struct Looker<'a> {
    pub(super) dataset: &'a Dataset,
    /// The name of this host.
    pub(super) host: &'a Name,
    pub(super) keys: &'a HostKeys,
    /// Every replica.
    pub(super) replicas: &'a [SharedReplica],
    /// `limits.memory`, in bytes.
    pub(super) memory: u64,
    /// `limits.clock_skew`.
    pub(super) skew: Duration,
}

impl Looker<'_> {
    /// Looks at the object of this key.
    ///
    /// # Errors
    /// The replica fails, or the object is longer than may be held here: nothing is known of it.
    pub(super) async fn look(&self, replica: &SharedReplica, key: &str) -> Result<Looked> {
        let Some((proof, longest)) = proof(&self.dataset.name, key) else { return Ok(Looked::Gone) };
        let limit = match proof {
            Proof::Signature => longest.min(held_of(self.memory)),
            _ => longest,
        };
        // Others may be looking, too: what a replica sends in their place must not add up.
        let small = if matches!(proof, Proof::Name(_)) { limit } else { limit.min(SMALL_DOCUMENT_BYTES) };
        let (mut got, mut turn) = (replica.get(key, small).await, None);
        if matches!(&got, Err(ReplicaError { kind: ReplicaErrorKind::TooLong { size, .. }, .. }) if *size <= limit) {
            turn = Some(take_turn().await?);
            got = replica.get(key, limit).await;
        }
        let _turn = turn;
        let body = match got {
            Ok(body) => body,
            Err(ReplicaError { kind: ReplicaErrorKind::TooLong { size, .. }, .. }) if size <= longest => {
                return Err(Error::integrity(format!(
                    "replica {}: {key} has {size} bytes, and {limit} may be held here",
                    replica.name()
                ))
                .hint("if it is really so long, raise `limits.memory`"));
            }
            Err(error) => return self.unread(replica.as_ref(), error).await,
        };
        let name = replica.name();
        match proof {
            Proof::Name(id) => {
                let (found, body) = tokio::task::spawn_blocking(move || (Digest::of(&body), body))
                    .await
                    .context(Class::Failed, || "the thread that hashes a pack failed")?;
                Ok(if found == id {
                    Looked::Whole(vec![(key.to_owned(), body)])
                } else {
                    Looked::Damaged(Error::integrity(format!("replica {name}: {key} does not match its name")))
                })
            }
            Proof::Signature => self.signed(replica, key, body).await,
            Proof::Act(number) => {
                let vault = &self.keys.vault;
                let order = OrderReader {
                    vault,
                    dataset: &self.dataset.name,
                    trust: &self.keys.trust,
                    cache: None,
                    host_key: None,
                };
                let believed = order.believe(body.clone(), number, &format!("replica {name}: {key}"));
                Ok(judged(believed.map(drop), || vec![(key.to_owned(), body)]))
            }
            Proof::Line => {
                let believed = self.keys.trust.verify_line(&self.keys.vault, key, &body);
                Ok(judged(believed.map(drop), || vec![(key.to_owned(), body)]))
            }
            Proof::Keyring(_) | Proof::Copies => match self.check_form(replica.name(), key, &body) {
                Ok(()) => Ok(Looked::Whole(vec![(key.to_owned(), body)])),
                // A newer program may have written it, or it is of another vault.
                Err(error) if key == layout::VAULT && serde_json::from_slice::<IgnoredAny>(&body).is_ok() => Err(error),
                Err(error) => Ok(Looked::Damaged(error.within(format!("replica {name}: {key} is damaged")))),
            },
        }
    }

    /// Checks that the replica holds the vault of this host's keys.
    ///
    /// # Errors
    /// It does not, or fails.
    pub(super) async fn check_vault_of(&self, replica: &SharedReplica) -> Result<VaultInfo> {
        let body = replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await?;
        let info = VaultInfo::parse(&body, replica.name())?;
        self.check_vault(replica.name(), &info).map(|()| info)
    }

    /// Whether something has the form of a keyring object, of `vault.json` or of a host.
    fn check_form(&self, replica: &Name, key: &str, body: &[u8]) -> Result<()> {
        if key == layout::VAULT {
            return VaultInfo::parse(body, replica).and_then(|info| self.check_vault(replica, &info));
        }
        let Some(host) = layout::parse_host(key) else { return crypt::check_is_age_file(body) };
        let info: HostInfo = serde_json::from_slice(body).context(Class::Integrity, || "it describes no host")?;
        if info.host == host { Ok(()) } else { Err(Error::integrity("it describes another host")) }
    }

    fn check_vault(&self, replica: &Name, info: &VaultInfo) -> Result<()> {
        if info.vault == self.keys.vault {
            return Ok(());
        }
        Err(Error::configuration(format!("replica {replica} holds vault {}, not {}", info.vault, self.keys.vault))
            .hint("correct vault_prefix, or the bucket or path of this replica"))
    }

    /// Checks the signature beside an object.
    async fn signed(&self, replica: &SharedReplica, key: &str, body: Bytes) -> Result<Looked> {
        let signature_key = layout::signature(key);
        let signature = match replica.get(&signature_key, MAX_SIGNATURE_BYTES as u64).await {
            Ok(signature) => signature,
            Err(error) => return self.unread(replica.as_ref(), error).await,
        };
        let checked = self.keys.trust.verify(&self.keys.vault, key, &body, &signature);
        let checked = checked.map(drop).map_err(|error| error.within(format!("replica {}: {key}", replica.name())));
        Ok(judged(checked, || vec![(key.to_owned(), body), (signature_key, signature)]))
    }

    /// What it means that an object cannot be read.
    pub(super) async fn unread(&self, replica: &dyn Replica, error: ReplicaError) -> Result<Looked> {
        match error.kind {
            ReplicaErrorKind::NotFound => Ok(Looked::Gone),
            ReplicaErrorKind::TooLong { .. } => Ok(Looked::Damaged(error.into())),
            // A disk that cannot read a sector, a store that finds its own checksum wrong. Whoever
            // returns nothing else either says nothing about this object.
            ReplicaErrorKind::Other(_) | ReplicaErrorKind::Corrupt(_) => {
                replica.get(layout::VAULT, MAX_VAULT_INFO_BYTES as u64).await?;
                Ok(Looked::Unreadable(error.into()))
            }
            _ => Err(error.into()),
        }
    }
}

/// What a check of a signature means.
fn judged(checked: Result<()>, copy: impl FnOnce() -> Copy) -> Looked {
    match checked {
        Ok(()) => Looked::Whole(copy()),
        Err(error) => match error.class() {
            Class::Integrity => Looked::Damaged(error),
            Class::Keys => Looked::Strange(error, copy()),
            // A trusted signer signed what a newer version understands.
            _ => Looked::Whole(copy()),
        },
    }
}
