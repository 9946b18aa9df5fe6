//! Minisign signatures (Ed25519, prehashed): what the stock `minisign -V` accepts.

use crate::error::Result;

/// A minisign public key, written as its base64 line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerKey(String);

impl SignerKey {
    /// Parses the base64 line (not the comment line).
    ///
    /// # Errors
    /// Not a minisign public key.
    pub fn parse(text: &str) -> Result<Self> {
        todo!("{text}")
    }

    /// The base64 line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A signing key. Wiped on drop.
pub struct Signer {}

impl Signer {
    /// Its public half.
    #[must_use]
    pub fn public(&self) -> SignerKey {
        todo!()
    }
}
