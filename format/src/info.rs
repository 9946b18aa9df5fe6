//! `vault.json` and `hosts/<host>.json`: with signatures, prune records and drill reports the only
//! objects that are not encrypted. They hold no secret. Nobody relies on what they say: manifests
//! carry the vault id under a signature, and readers pin signers.

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::id::Name;

/// The one format version that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// `vault.json`, written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultInfo {
    /// [`FORMAT_VERSION`].
    pub format: u32,
    /// 32 hexadecimal digits.
    pub vault: String,
    /// When it was made.
    pub created: DateTime<Utc>,
}

impl VaultInfo {
    /// Parses the object; `place` names the replica in errors.
    ///
    /// # Errors
    /// [`Class::Integrity`]: the object is damaged, or of another format.
    pub fn parse(data: &[u8], place: &Name) -> Result<Self> {
        let info: Self = serde_json::from_slice(data)
            .context(Class::Integrity, || format!("replica {place}: vault.json is damaged"))?;
        if info.format != FORMAT_VERSION {
            return Err(Error::integrity(format!(
                "replica {place}: the vault has format {}, this program knows format {FORMAT_VERSION}",
                info.format
            ))
            .hint("use the version of Lifeboat that wrote it, or a newer one"));
        }
        Ok(info)
    }
}

/// `hosts/<host>.json`: tells operators a host's public keys, to be compared out of band.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// Its name.
    pub host: Name,
    /// Age recipient of its operations identity.
    pub operations_recipient: String,
    /// Minisign public key of its signer.
    pub signer: String,
}
