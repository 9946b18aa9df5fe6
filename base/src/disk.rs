//! How much room a disk has, and whether that is why something failed.
//!
//! A full disk is told in many words: by the system, by a tool, or by a server that has ended.
//! Whoever fills a directory that an operator chose asks here, so that all of them are told in the
//! same way: as [`Class::Storage`], with the place and one thing to do.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Class, Error};

/// What the system says of a full disk, and of a quota that is used up, which tools and servers
/// repeat; and what SQLite and InnoDB say instead.
const FULL_DISK_WORDS: [&str; 5] = [
    "No space left on device",
    "Disk quota exceeded",
    "database or disk is full",
    "failed with error 28",
    "system error number 28",
];

/// What is free on the disk of `path`, for whoever asks, in bytes.
///
/// # Errors
/// `path` cannot be reached.
pub fn free(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Where the disk of `path` is mounted, so that an operator can look at it; `path` itself where
/// that cannot be told.
#[must_use]
pub fn mounted_at(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let device = |path: &Path| path.metadata().ok().map(|found| found.dev());
    let own = device(&path);
    let within = path.ancestors().take_while(|folder| own.is_some() && device(folder) == own);
    within.last().unwrap_or(&path).to_owned()
}

/// Whether an error, or what a tool said, tells of a full disk.
#[must_use]
pub fn tells_of_full_disk(said: &str) -> bool {
    FULL_DISK_WORDS.iter().any(|words| said.contains(words))
}

/// Whether an error is of a kind that a full disk can cause. What proves a snapshot wrong is not.
#[must_use]
pub fn can_cause(error: &Error) -> bool {
    matches!(error.class(), Class::Failed | Class::Source | Class::Storage)
}

/// The error of work that failed with `cause` because the disk of `path` is full. `remedy` says
/// what to do.
#[must_use]
pub fn full(path: &Path, cause: Error, remedy: &str) -> Error {
    Error::storage(format!("the disk at {} is full", mounted_at(path).display())).because(cause).hint(remedy)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_what_the_system_says() {
        for error in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let error = Error::source_failed("cannot write x").because(io::Error::from(error));
            assert!(tells_of_full_disk(&error.chain()), "{}", error.chain());
        }
        assert!(!tells_of_full_disk(&io::Error::from(rustix::io::Errno::IO).to_string()));
    }

    #[test]
    fn the_error_names_the_place_and_keeps_its_cause() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a");
        std::fs::create_dir(&folder).unwrap();
        let mounted = mounted_at(&folder);
        assert!(folder.canonicalize().unwrap().starts_with(&mounted) && mounted != folder, "{mounted:?}");
        assert!(free(&folder).is_ok() && free(&folder.join("nothing")).is_err());
        let error = full(&folder, Error::source_failed("the server ended"), "make room");
        assert_eq!((error.class(), error.hint_text()), (Class::Storage, Some("make room")));
        assert!(error.chain().ends_with("is full: the server ended"), "{}", error.chain());
        assert_eq!(mounted_at(Path::new("/nowhere/at/all")), Path::new("/nowhere/at/all"));
    }
}
