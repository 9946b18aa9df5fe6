//! Keys: who holds what. See `SECURITY.md` for the trust they carry.
//!
//! A backup host holds a [`HostKeys`]; whoever reads holds a [`ReaderKeys`]. No type here prints a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::bytes::sign::{Signer, SignerKey};
use crate::clock::SharedClock;
use crate::config::{Config, KeysConfig, Secret};
use crate::error::Result;
use crate::id::Name;
use crate::replica::SharedReplica;

/// An age identity of any kind that this program can use.
pub type SharedIdentity = Arc<dyn age::Identity + Send + Sync>;

/// What a backup host holds: nothing in it decrypts a pack.
pub struct HostKeys {
    /// Opens this host's manifests and index segments.
    pub operations: age::x25519::Identity,
    /// Signs snapshots and prune records.
    pub signer: Signer,
    /// Public half and chunk-id key of each dataset.
    pub datasets: BTreeMap<Name, DatasetKeys>,
}

/// What a backup host holds of one dataset.
#[derive(Clone)]
pub struct DatasetKeys {
    /// Which key generation.
    pub generation: u32,
    /// Packs are encrypted to it.
    pub recipient: age::x25519::Recipient,
    /// Names chunks and derives the gear table.
    pub chunk_id_key: Secret,
}

impl HostKeys {
    /// Opens the sealed bundle with the host key.
    ///
    /// # Errors
    /// [`Class::Keys`](crate::Class::Keys): missing (run `lifeboat init`), unreadable, or sealed under another host key.
    pub fn load(keys: &KeysConfig) -> Result<Self> {
        todo!("{keys:?}")
    }
}

/// What a reader holds.
#[derive(Clone)]
pub struct ReaderKeys {
    /// Tried in order.
    pub identities: Vec<SharedIdentity>,
    /// Whose snapshots are accepted. Never empty.
    pub trusted_signers: Vec<SignerKey>,
    /// Whose drill reports are accepted.
    pub trusted_drill_signers: Vec<SignerKey>,
}

/// Parses an age identity file: X25519, ssh private key without passphrase, or plugin.
///
/// # Errors
/// [`Class::Keys`](crate::Class::Keys) if there is none in it. `shown` names the file in errors.
pub fn parse_identities(text: &Secret, shown: &str) -> Result<Vec<SharedIdentity>> {
    todo!("{text:?} {shown}")
}

/// What `init` is to do beyond the configuration.
#[derive(Default)]
pub struct InitOptions {
    /// On a new host taking over, or to grant drill recipients again: opens the keyring.
    pub identities: Vec<SharedIdentity>,
}

/// A file that `init` made or found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitItem {
    /// Local path or vault key.
    pub what: String,
    /// Made now, or there before.
    pub created: bool,
    /// Which machine it belongs on, or what to do with it, in plain words.
    pub advice: String,
}

/// What `init` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The vault.
    pub vault: String,
    /// Minisign public key of this host, for `trusted_signers` of readers.
    pub signer: String,
    /// Minisign public key of the drill host, for `trusted_drill_signers`.
    pub drill_signer: Option<String>,
    /// The drill host's recipient.
    pub drill_recipient: Option<String>,
    /// Local files.
    pub files: Vec<InitItem>,
    /// Objects, with the replicas that hold them.
    pub objects: Vec<InitItem>,
    /// Replicas that were not reached; run it again.
    pub unreached: Vec<String>,
}

/// Makes the vault, or what is missing of it. Never overwrites a key, may be run again.
///
/// # Errors
/// No master recipient, no replica reachable, a vault of another id in a replica, or a key file that cannot be written.
pub async fn init(
    config: &Config,
    replicas: &[SharedReplica],
    options: &InitOptions,
    clock: &SharedClock,
) -> Result<InitReport> {
    let _ = (replicas.len(), options.identities.len(), clock.now(), None::<PathBuf>);
    todo!("{config:?}")
}
