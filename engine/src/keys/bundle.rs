//! The host bundle holds this host's secrets in one file, sealed with AES-256-GCM under the host
//! key.
//!
//! It also keeps the wrapped keyring objects that `init` made, because this host cannot make them
//! again. A later `init` uploads them if the first was cut short, or to a new replica.

use std::collections::{BTreeMap, BTreeSet};

use age::secrecy::ExposeSecret;
use bytes::Bytes;
use lifeboat_base::secret::{Secret, SecretRef};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::chunk_id::ChunkIdKey;
use lifeboat_format::id::Name;
use lifeboat_format::keyring::DatasetSecrets;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::DatasetKeys;
use super::seal::HostKey;
use super::sign::Signer;
use crate::state::replace_file;

const BUNDLE_PURPOSE: &str = "lifeboat host keys";
/// It grows with the number of datasets, by a few kibibytes each.
const MAX_BUNDLE_BYTES: u64 = 64 << 20;

/// The content of the file, before it is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bundle {
    pub vault: String,
    operations: String,
    /// The operations identity, wrapped to the masters, in base64.
    wrapped_operations: String,
    /// The masters that it is wrapped to, sorted.
    pub masters: Vec<String>,
    signer: String,
    pub drill_recipient: Option<String>,
    pub drill_signer: Option<String>,
    pub datasets: BTreeMap<Name, BundledDataset>,
    /// The operations identities of other hosts that back up the same datasets.
    #[serde(default)]
    others: BTreeMap<Name, String>,
    /// Keys of keyring objects that were wrapped anew, and that some replica may still hold as they
    /// were before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unreplaced: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BundledDataset {
    pub generation: u32,
    pub recipient: String,
    chunk_id_key: String,
    /// The keyring object, in base64.
    wrapped: String,
    /// The recipients that it is wrapped to, sorted.
    pub granted: Vec<String>,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.operations.zeroize();
        self.signer.zeroize();
        self.others.values_mut().for_each(Zeroize::zeroize);
    }
}

impl Drop for BundledDataset {
    fn drop(&mut self) {
        self.chunk_id_key.zeroize();
    }
}

impl BundledDataset {
    pub(crate) fn new(
        generation: u32,
        recipient: &age::x25519::Recipient,
        key: &ChunkIdKey,
        wrapped: &[u8],
        granted: Vec<String>,
    ) -> Self {
        Self {
            generation,
            recipient: recipient.to_string(),
            chunk_id_key: data_encoding::HEXLOWER.encode(key.expose()),
            wrapped: data_encoding::BASE64.encode(wrapped),
            granted,
        }
    }

    /// The keyring object of `dataset`, as `init` made it.
    pub(crate) fn wrapped(&self, dataset: &Name) -> Result<Bytes> {
        unpack(&self.wrapped, || format!("dataset {dataset}"))
    }

    /// Whether these are the keys of which this is the host's part.
    pub(crate) fn are(&self, secrets: &DatasetSecrets) -> bool {
        let identity = secrets.identity.parse::<age::x25519::Identity>();
        let key = Zeroizing::new(data_encoding::HEXLOWER.encode(secrets.chunk_id_key.expose()));
        identity.is_ok_and(|identity| identity.to_public().to_string() == self.recipient) && *key == self.chunk_id_key
    }
}

fn unpack(text: &str, of: impl Fn() -> String) -> Result<Bytes> {
    let unpacked = data_encoding::BASE64.decode(text.as_bytes()).map(Bytes::from);
    unpacked.map_err(|_| Error::keys(format!("the wrapped keys of {} in the host keys are damaged", of())))
}

impl Bundle {
    /// A bundle without datasets, whose operations identity is not wrapped yet.
    pub(crate) fn new(vault: String, operations: &age::x25519::Identity, signer: &Signer) -> Result<Self> {
        Ok(Self {
            vault,
            operations: operations.to_string().expose_secret().to_owned(),
            wrapped_operations: String::new(),
            masters: Vec::new(),
            signer: signer.to_text()?.to_string(),
            drill_recipient: None,
            drill_signer: None,
            datasets: BTreeMap::new(),
            others: BTreeMap::new(),
            unreplaced: BTreeSet::new(),
        })
    }

    pub(crate) fn set_wrapped_operations(&mut self, wrapped: &[u8], masters: Vec<String>) {
        self.wrapped_operations = data_encoding::BASE64.encode(wrapped);
        self.masters = masters;
    }

    /// The keyring object of this host, as `init` made it.
    pub(crate) fn wrapped_operations(&self) -> Result<Bytes> {
        unpack(&self.wrapped_operations, || "this host".to_owned())
    }

    pub(crate) fn read(place: &SecretRef, key: &HostKey) -> Result<Self> {
        let sealed = place.read_up_to(MAX_BUNDLE_BYTES)?;
        let shown = place.path().display();
        let plain = key.open(BUNDLE_PURPOSE, sealed.expose()).map_err(|error| {
            error.within(format!("cannot open the host keys {shown}")).hint(
                "restore host.key and host-keys together; if they are lost, move host-keys away and run `lifeboat init --identity MASTER`",
            )
        })?;
        serde_json::from_slice(&plain).map_err(|_| {
            Error::keys(format!("the host keys {shown} are of another version"))
                .hint("use the version of Lifeboat that wrote this file")
        })
    }

    pub(crate) fn write(&self, place: &SecretRef, key: &HostKey) -> Result<()> {
        let plain = Zeroizing::new(serde_json::to_vec(self).context(Class::Keys, || "cannot serialise the host keys")?);
        replace_file(place.path(), &key.seal(BUNDLE_PURPOSE, &plain)?)
    }

    pub(crate) fn operations(&self) -> Result<age::x25519::Identity> {
        self.operations.parse().map_err(|_| Error::keys("the operations identity in the host keys is damaged"))
    }

    /// Whether the operations identity of another host is there.
    pub(crate) fn knows(&self, host: &Name) -> bool {
        self.others.contains_key(host)
    }

    /// Takes in the operations identity of another host.
    pub(crate) fn know(&mut self, host: &Name, identity: &age::x25519::Identity) {
        self.others.insert(host.clone(), identity.to_string().expose_secret().to_owned());
    }

    /// The operations identities of other hosts.
    pub(crate) fn others(&self) -> Result<BTreeMap<Name, age::x25519::Identity>> {
        let parse = |(host, text): (&Name, &String)| match text.parse() {
            Ok(identity) => Ok((host.clone(), identity)),
            Err(_) => Err(Error::keys(format!("the operations identity of host {host} in the host keys is damaged"))),
        };
        self.others.iter().map(parse).collect()
    }

    pub(crate) fn signer(&self) -> Result<Signer> {
        Signer::parse(&Secret::new(self.signer.as_bytes().to_vec()))
    }

    pub(crate) fn dataset_keys(&self) -> Result<BTreeMap<Name, DatasetKeys>> {
        let mut keys = BTreeMap::new();
        for (name, bundled) in &self.datasets {
            let damaged = || Error::keys(format!("the keys of dataset {name} in the host keys are damaged"));
            let hex = data_encoding::HEXLOWER.decode(bundled.chunk_id_key.as_bytes());
            let chunk_id_key = ChunkIdKey::new(&Zeroizing::new(hex.map_err(|_| damaged())?))?;
            let recipient = bundled.recipient.parse().map_err(|_| damaged())?;
            let (generation, wrapped) = (bundled.generation, bundled.wrapped(name)?);
            keys.insert(name.clone(), DatasetKeys { generation, recipient, chunk_id_key, wrapped });
        }
        Ok(keys)
    }
}
