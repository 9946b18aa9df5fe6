//! Keys: who holds what. `SECURITY.md` says what trust they carry.
//!
//! A backup host holds [`HostKeys`]; whoever reads holds [`ReaderKeys`]. No type here prints a
//! secret.

mod bundle;
pub(crate) mod crypt;
mod identities;
mod init;
mod recipients;
pub mod seal;
pub mod sign;

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_base::{Error, Result};
use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::id::Name;
use lifeboat_format::keyring::DatasetSecrets;

use self::seal::HostKey;
use self::sign::{Signer, SignerKey};
use crate::config::KeysConfig;

pub use identities::parse_identities;
pub use init::{DRILL_HOST_FOLDER, InitItem, InitOptions, InitReport, init};
pub use recipients::parse_recipients;

/// An age identity of any kind that this program can use.
pub type SharedIdentity = Arc<dyn age::Identity + Send + Sync>;

/// What a backup host holds: nothing in it decrypts a pack.
pub struct HostKeys {
    /// The vault they belong to.
    pub vault: String,
    /// Seals local secrets.
    pub host_key: HostKey,
    /// Opens this host's manifests and index segments.
    pub operations: age::x25519::Identity,
    /// Signs snapshots and prune records.
    pub signer: Signer,
    /// Public half and chunk-id key of each dataset.
    pub datasets: BTreeMap<Name, DatasetKeys>,
    /// Whose snapshots this host builds on: its own signer and the configured ones.
    pub trusted_signers: Vec<SignerKey>,
    /// Whose drill reports protect a snapshot from prune.
    pub trusted_drill_signers: Vec<SignerKey>,
}

/// What a backup host holds of one dataset.
#[derive(Clone)]
pub struct DatasetKeys {
    /// Which key generation.
    pub generation: u32,
    /// Packs are encrypted to it.
    pub recipient: age::x25519::Recipient,
    /// Names chunks and derives the gear table.
    pub chunk_id_key: ChunkIdKey,
}

impl HostKeys {
    /// Opens the sealed bundle with the host key.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys): missing (run `lifeboat init`), unreadable, or
    /// sealed under another host key.
    pub fn load(config: &KeysConfig) -> Result<Self> {
        if !config.host_bundle.path().exists() || !config.host_key.path().exists() {
            let missing = if config.host_key.path().exists() { &config.host_bundle } else { &config.host_key };
            return Err(Error::keys(format!("this host has no keys: {} is missing", missing.path().display()))
                .hint("run `lifeboat init` on this host; if its keys were lost, `lifeboat init --identity MASTER`"));
        }
        let host_key = HostKey::parse(&config.host_key.read()?)?;
        let bundle = bundle::Bundle::read(&config.host_bundle, &host_key)?;
        let signer = bundle.signer()?;
        let mut trusted_signers = vec![signer.public()];
        trusted_signers.extend(parse_signers(&config.trusted_signers)?);
        let drill_signers = config.trusted_drill_signers.iter().chain(&bundle.drill_signer);
        Ok(Self {
            operations: bundle.operations()?,
            datasets: bundle.dataset_keys()?,
            trusted_drill_signers: parse_signers(drill_signers)?,
            vault: bundle.vault.clone(),
            host_key,
            signer,
            trusted_signers,
        })
    }

    /// The keys of one dataset.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys): the dataset was added to the configuration
    /// after the last `init`.
    pub fn dataset(&self, dataset: &Name) -> Result<&DatasetKeys> {
        self.datasets.get(dataset).ok_or_else(|| {
            Error::keys(format!("this host has no keys for dataset {dataset}")).hint("run `lifeboat init` again")
        })
    }

    /// What this host can read with: manifests and index segments, no pack.
    #[must_use]
    pub fn reader(&self) -> ReaderKeys {
        ReaderKeys {
            identities: vec![Arc::new(self.operations.clone())],
            trusted_signers: self.trusted_signers.clone(),
            trusted_drill_signers: self.trusted_drill_signers.clone(),
        }
    }
}

/// What opens and checks the packs of one key generation of a dataset.
pub(crate) struct PackKeys {
    pub(crate) identity: age::x25519::Identity,
    pub(crate) chunk_id_key: ChunkIdKey,
}

impl PackKeys {
    /// Those of a keyring object.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): its identity is damaged.
    pub(crate) fn of(secrets: DatasetSecrets) -> Result<Self> {
        let DatasetSecrets { dataset, generation, identity, chunk_id_key, .. } = secrets;
        let identity = identity.parse().map_err(|_| {
            Error::integrity(format!("the keyring object of {dataset}/{generation} has a damaged identity"))
        })?;
        Ok(Self { identity, chunk_id_key })
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

/// Parses minisign public keys.
///
/// # Errors
/// As [`SignerKey::parse`].
pub fn parse_signers<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<Vec<SignerKey>> {
    keys.into_iter().map(|key| SignerKey::parse(key)).collect()
}
