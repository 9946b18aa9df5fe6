//! Secrets by reference: a systemd credential or a 0600 file, which is read when it is needed. What
//! was read is wiped after use.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Class, Context, Error, Result};

/// Where a secret is. `credential:NAME` is resolved when the configuration is read: it is the file
/// NAME in `$CREDENTIALS_DIRECTORY` under systemd, else in `keys.directory`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    path: PathBuf,
    by_systemd: bool,
}

impl SecretRef {
    /// The secret in this file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), by_systemd: false }
    }

    /// A credential that systemd handed over. An access list protects it, so its mode says nothing.
    #[must_use]
    pub(crate) fn handed_over(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), by_systemd: true }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Class::Keys`] if it is missing, unreadable, not a regular file, or accessible to group or
    /// others.
    pub fn read(&self) -> Result<Secret> {
        let shown = self.path.display();
        self.check_mode()?;
        let bytes = std::fs::read(&self.path).context(Class::Keys, || format!("cannot read the secret {shown}"))?;
        Ok(Secret::new(bytes))
    }

    /// Checks that it is a regular file that nobody else can open. A missing file passes.
    ///
    /// # Errors
    /// [`Class::Keys`] if it is not.
    pub(crate) fn check_mode(&self) -> Result<()> {
        let Ok(metadata) = std::fs::metadata(&self.path) else { return Ok(()) };
        let shown = self.path.display();
        if !metadata.is_file() {
            return Err(Error::keys(format!("the secret {shown} is not a regular file"))
                .hint("name the file that holds the secret"));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 && !self.by_systemd {
            return Err(Error::keys(format!("the secret {shown} is accessible to others (mode {mode:04o})"))
                .hint(format!("run chmod 0600 {shown}; if others may have read the secret, replace it")));
        }
        Ok(())
    }
}

/// The bytes of a secret. They are wiped on drop, and print as `…`.
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
