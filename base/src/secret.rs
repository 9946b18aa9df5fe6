//! Secrets by reference: a systemd credential or a 0600 file, which is read when it is needed. What
//! was read is wiped after use.
//!
//! A file is opened once, and what was opened is checked: it is a regular file of bounded length,
//! belongs to this user or to root, and is closed to everybody else. A symbolic link on the way is
//! followed only if it belongs to this user or to root, so nobody else can choose which of our
//! secrets is read. What a configuration names never makes its reader wait, as a pipe would.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Class, Context, Error, Result};
use crate::opened;

/// Identities and passwords are lines, not files of any size.
const MAX_SECRET_BYTES: u64 = 1 << 20;

/// Where a secret is. `credential:NAME` is resolved when the configuration is read: it is the file
/// NAME in `$CREDENTIALS_DIRECTORY` under systemd, else in `keys.directory` or `credentials` in it.
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

    /// A credential that systemd handed over. It may protect the file with an access list, whose
    /// mask stands where the group's mode does.
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
    /// [`Class::Keys`] if it is missing or unreadable, is not a regular file, belongs to another
    /// user, is accessible to group or others, or is longer than 1 MiB.
    pub fn read(&self) -> Result<Secret> {
        self.read_up_to(MAX_SECRET_BYTES)
    }

    /// Reads it, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_up_to(&self, limit: u64) -> Result<Secret> {
        self.open().and_then(|file| self.read_open(file, limit)).map_err(|problem| self.refuse(problem))
    }

    /// Reads it; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`Self::read`], except that it may be missing.
    pub fn read_if_any(&self) -> Result<Option<Secret>> {
        match self.open() {
            Err(Problem::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => {
                let read = opened.and_then(|file| self.read_open(file, MAX_SECRET_BYTES));
                read.map(Some).map_err(|problem| self.refuse(problem))
            }
        }
    }

    /// Checks that it is a regular file that nobody else can open, as far as this user can see.
    ///
    /// # Errors
    /// [`Class::Keys`] if it is not.
    pub(crate) fn check_mode(&self) -> Result<()> {
        let Ok(metadata) = opened::to_look_at(&self.path).and_then(|found| found.file.metadata()) else {
            return Ok(());
        };
        self.check(&metadata).map_err(|problem| self.refuse(problem))
    }

    fn open(&self) -> Result<File, Problem> {
        opened::to_read(&self.path).map(|found| found.file).map_err(Problem::Unreadable)
    }

    fn read_open(&self, file: File, limit: u64) -> Result<Secret, Problem> {
        let metadata = file.metadata().map_err(Problem::Unreadable)?;
        self.check(&metadata)?;
        check_owner(&metadata)?;
        read_all(file, metadata.len(), limit)
    }

    fn check(&self, metadata: &Metadata) -> Result<(), Problem> {
        let mode = metadata.mode() & 0o777;
        let closed = if self.by_systemd { 0o037 } else { 0o077 };
        if !metadata.is_file() {
            Err(Problem::NotAFile)
        } else if mode & closed != 0 {
            Err(Problem::Open(mode))
        } else {
            Ok(())
        }
    }

    fn refuse(&self, problem: Problem) -> Error {
        let shown = self.path.display();
        match problem {
            Problem::Unreadable(error) => {
                let is_missing = error.kind() == io::ErrorKind::NotFound;
                let unreadable = Error::keys(format!("cannot read the secret {shown}")).because(error);
                let put = "put it there, mode 0600; a unit is handed a new secret when it is restarted";
                if is_missing { unreadable.hint(put) } else { unreadable }
            }
            Problem::NotAFile => Error::keys(format!("the secret {shown} is not a regular file"))
                .hint("name the file that holds the secret"),
            Problem::Foreign(owner) => Error::keys(format!("the secret {shown} belongs to another user (uid {owner})"))
                .hint(format!("make sure that the file is yours, and run chown on {shown}; or run this as its owner")),
            Problem::Open(mode) => Error::keys(format!("the secret {shown} is accessible to others (mode {mode:04o})"))
                .hint(format!("run chmod 0600 {shown}; if others may have read the secret, replace it")),
            Problem::TooLong => Error::keys(format!("{shown} is too long to be a key or a password"))
                .hint("name the file that holds the secret"),
        }
    }
}

/// Reads a secret that the command line names: a file that [`SecretRef::read`] accepts, a pipe of
/// the shell, such as `<(age -d master.age)`, or a named pipe of this user or root. A pipe may make
/// the caller wait.
///
/// # Errors
/// As [`SecretRef::read`].
pub fn read_given(path: &Path) -> Result<Secret> {
    let place = SecretRef::file(path);
    let read = || {
        let found = opened::to_read_or_wait(path).map_err(Problem::Unreadable)?;
        let metadata = found.file.metadata().map_err(Problem::Unreadable)?;
        let kind = metadata.file_type();
        if found.inherited && (kind.is_fifo() || kind.is_char_device()) {
            return read_all(found.file, 0, MAX_SECRET_BYTES);
        }
        if kind.is_fifo() {
            check_owner(&metadata)?;
            return read_all(found.file, 0, MAX_SECRET_BYTES);
        }
        place.read_open(found.file, MAX_SECRET_BYTES)
    };
    read().map_err(|problem| place.refuse(problem))
}

/// Reads a secret to its end, from wherever it comes. `shown` names its place.
///
/// # Errors
/// [`Class::Keys`] if it cannot be read or is longer than 1 MiB.
pub fn read_from(source: impl Read, shown: &str) -> Result<Secret> {
    match read_all(source, 0, MAX_SECRET_BYTES) {
        Ok(secret) => Ok(secret),
        Err(Problem::Unreadable(error)) => Err(error).context(Class::Keys, || format!("cannot read {shown}")),
        Err(_) => Err(Error::keys(format!("{shown} is too long to be a key or a password"))),
    }
}

/// Why a secret is not read.
enum Problem {
    Unreadable(io::Error),
    NotAFile,
    Foreign(u32),
    Open(u32),
    TooLong,
}

fn check_owner(metadata: &Metadata) -> Result<(), Problem> {
    let owner = metadata.uid();
    if owner == opened::user() || owner == 0 { Ok(()) } else { Err(Problem::Foreign(owner)) }
}

fn read_all(source: impl Read, announced: u64, limit: u64) -> Result<Secret, Problem> {
    if announced > limit {
        return Err(Problem::TooLong);
    }
    // Reserved at once, so that no half-read copy is left behind by growing.
    let room = if announced == 0 { limit } else { announced };
    let mut bytes = Zeroizing::new(Vec::with_capacity(room as usize + 1));
    source.take(room + 1).read_to_end(&mut bytes).map_err(Problem::Unreadable)?;
    if bytes.len() as u64 > room { Err(Problem::TooLong) } else { Ok(Secret(bytes)) }
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

#[cfg(test)]
mod tests;
