//! Secrets by reference: a systemd credential or a 0600 file, read when needed, wiped after use.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::Result;

/// Where a secret is. `credential:NAME` is resolved when the configuration is read: NAME in
/// `$CREDENTIALS_DIRECTORY` under systemd, else in `keys.directory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    path: PathBuf,
}

impl SecretRef {
    /// The secret in this file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Class::Keys`](crate::Class::Keys) if it is missing, unreadable, not a regular file, or
    /// readable by group or others.
    pub fn read(&self) -> Result<Secret> {
        todo!("{:?}", self.path)
    }
}

/// The bytes of a secret. Wiped on drop; prints as `…`.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
