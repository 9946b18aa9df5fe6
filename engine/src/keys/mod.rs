//! Keys, and who holds them. `SECURITY.md` says who can do what with them.
//!
//! A backup host holds [`HostKeys`], and a reader holds [`ReaderKeys`]. No type here prints a
//! secret.

mod bundle;
pub(crate) mod crypt;
mod enrol;
mod identities;
mod init;
pub(crate) mod local;
pub mod owners;
mod recipients;
pub mod seal;
pub mod sign;
pub(crate) mod ssh;
pub mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::{Error, Result};
use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::id::Name;
use lifeboat_format::keyring::DatasetSecrets;

use self::owners::Owners;
use self::seal::HostKey;
use self::sign::{Signer, SignerKey};
use self::trust::Trust;
use crate::config::KeysConfig;

pub use enrol::{enrol_drill_host, enrol_host};
pub use identities::parse_identities;
pub use init::{DRILL_HOST_FOLDER, InitItem, InitOptions, InitReport, init, outdated_keyrings};
pub use recipients::parse_recipients;

/// An age identity of any kind that this program can use.
pub type SharedIdentity = Arc<dyn age::Identity + Send + Sync>;

/// The keys of a backup host. None of them decrypts a pack.
pub struct HostKeys {
    /// The id of the vault that they belong to.
    pub vault: String,
    /// Seals local secrets.
    pub host_key: HostKey,
    /// Opens this host's manifests and index segments.
    pub operations: age::x25519::Identity,
    /// The keyring object of this host, as `init` made it; empty before.
    pub wrapped_operations: Bytes,
    /// The operations identities of other hosts that back up the same datasets: they open what
    /// these hosts wrote.
    pub others: BTreeMap<Name, age::x25519::Identity>,
    /// Signs snapshots and prune records.
    pub signer: Signer,
    /// The keys of each dataset that this host backs up.
    pub datasets: BTreeMap<Name, DatasetKeys>,
    /// Whom this host believes. If there are owners, it believes nobody until a root was found
    /// ([`crate::root::renew`]).
    pub trust: Arc<Trust>,
    /// The signer of the drill host whose keys `init` made here.
    pub own_drill_signer: Option<SignerKey>,
    /// That drill host's recipient.
    pub own_drill_recipient: Option<String>,
    /// Whose root tells that. `None`: the configuration lists signers.
    pub owners: Option<Owners>,
    /// Whether these are the keys of a warden, which open nothing at all.
    pub is_warden: bool,
}

/// The keys of one dataset on a backup host.
#[derive(Clone)]
pub struct DatasetKeys {
    /// The key generation, from 1.
    pub generation: u32,
    /// The recipient that packs are encrypted to.
    pub recipient: age::x25519::Recipient,
    /// The key that names chunks and derives the gear table.
    pub chunk_id_key: ChunkIdKey,
    /// The keyring object of this generation, as `init` made it.
    pub wrapped: Bytes,
}

impl HostKeys {
    /// Opens the sealed bundle with the host key.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys) if the bundle or the host key is missing or
    /// cannot be read, or if the bundle was sealed under another host key.
    pub fn load(config: &KeysConfig) -> Result<Self> {
        if !config.host_bundle.path().exists() || !config.host_key.path().exists() {
            let missing = if config.host_key.path().exists() { &config.host_bundle } else { &config.host_key };
            return Err(Error::keys(format!("this host has no keys: {} is missing", missing.path().display())).hint(
                "run `lifeboat init` on this host; if its keys are lost, run `lifeboat init --identity MASTER`",
            ));
        }
        let host_key = HostKey::parse(&config.host_key.read()?)?;
        let bundle = bundle::Bundle::read(&config.host_bundle, &host_key)?;
        let signer = bundle.signer()?;
        let owners = Owners::parse(&config.owners, config.owner_threshold)?;
        let trust = if owners.is_some() {
            Trust::listed(Vec::new(), Vec::new())
        } else {
            let mut signers = vec![signer.public()];
            signers.extend(parse_signers(&config.trusted_signers)?);
            let drill_signers = config.trusted_drill_signers.iter().chain(&bundle.drill_signer);
            Trust::listed(signers, parse_signers(drill_signers)?)
        };
        Ok(Self {
            operations: bundle.operations()?,
            wrapped_operations: bundle.wrapped_operations()?,
            others: bundle.others()?,
            datasets: bundle.dataset_keys()?,
            trust,
            owners,
            own_drill_recipient: bundle.drill_recipient.clone(),
            own_drill_signer: bundle.drill_signer.as_deref().map(SignerKey::parse).transpose()?,
            vault: bundle.vault.clone(),
            host_key,
            signer,
            is_warden: false,
        })
    }

    /// The keys of a warden: its signer, and nothing that opens anything of the vault. Its caches
    /// are sealed with a key that ends with the process.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys): there is no signer, or it cannot be used.
    pub fn of_warden(config: &KeysConfig, owners: Owners, trust: Arc<Trust>) -> Result<Self> {
        let place = &config.warden_signer;
        let named =
            |error: Error| error.within(format!("the warden's signer {} cannot be used", place.path().display()));
        let signer = Signer::parse(&place.read()?).map_err(named)?;
        let vault = trust.root().map(|root| root.vault.clone()).unwrap_or_default();
        Ok(Self {
            vault,
            host_key: HostKey::generate(),
            operations: age::x25519::Identity::generate(),
            wrapped_operations: Bytes::new(),
            others: BTreeMap::new(),
            signer,
            datasets: BTreeMap::new(),
            trust,
            own_drill_signer: None,
            own_drill_recipient: None,
            owners: Some(owners),
            is_warden: true,
        })
    }

    /// Whether a warden alone deletes, and these are the keys of another machine.
    #[must_use]
    pub fn only_marks(&self) -> bool {
        !self.is_warden && self.trust.warden().is_some()
    }

    /// The keys of one dataset.
    ///
    /// # Errors
    /// [`Class::Keys`](lifeboat_base::Class::Keys) if the dataset was added to the configuration
    /// after the last `init`.
    pub fn dataset(&self, dataset: &Name) -> Result<&DatasetKeys> {
        self.datasets.get(dataset).ok_or_else(|| {
            Error::keys(format!("this host has no keys for dataset {dataset}")).hint("run `lifeboat init` again")
        })
    }

    /// The keys with which this host reads manifests and index segments. They open no pack.
    #[must_use]
    pub fn reader(&self) -> ReaderKeys {
        let own = (!self.is_warden).then_some(&self.operations);
        ReaderKeys {
            identities: own
                .into_iter()
                .chain(self.others.values())
                .map(|identity| Arc::new(identity.clone()) as SharedIdentity)
                .collect(),
            trust: self.trust.clone(),
        }
    }
}

/// The keys that open and check the packs of one key generation of a dataset.
#[derive(Clone)]
pub(crate) struct PackKeys {
    pub(crate) identity: age::x25519::Identity,
    pub(crate) chunk_id_key: ChunkIdKey,
}

impl PackKeys {
    /// Takes the keys from the content of a keyring object.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity) if the identity is damaged.
    pub(crate) fn of(secrets: DatasetSecrets) -> Result<Self> {
        let DatasetSecrets { dataset, generation, identity, chunk_id_key, .. } = secrets;
        let identity = identity.parse().map_err(|_| {
            Error::integrity(format!("the keyring object of {dataset}/{generation} has a damaged identity"))
        })?;
        Ok(Self { identity, chunk_id_key })
    }
}

/// The keys of a reader.
#[derive(Clone)]
pub struct ReaderKeys {
    /// The identities, which are tried in order.
    pub identities: Vec<SharedIdentity>,
    /// Whom it believes. A reader must believe somebody.
    pub trust: Arc<Trust>,
}

/// Parses minisign public keys.
///
/// # Errors
/// The errors of [`SignerKey::parse`].
pub fn parse_signers<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<Vec<SignerKey>> {
    keys.into_iter().map(|key| SignerKey::parse(key)).collect()
}
