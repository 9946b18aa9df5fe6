//! Copies a database file that nobody has open, where SQLite could read it only by writing beside
//! it.
//!
//! - After a crash in the middle of a change, a journal is left that must be rolled back first. The
//!   file and its journal are copied, and SQLite rolls back the copy. The original stays as it is.
//! - A database in WAL mode needs files for locks beside it. In a directory that we may not write
//!   to, it is copied if there are no such files: then nobody has it open.
//!
//! Without locks, only the file system tells whether somebody wrote meanwhile: every file must be
//! the same before and after, with the same size and times.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lifeboat_base::{Class, Context, Error, Result};
use rusqlite::{Connection, ErrorCode, ffi};
use tokio_util::sync::CancellationToken;

/// What is read before the next look at whether to stop.
const PIECE_BYTES: usize = 1 << 20;

/// Why SQLite would have to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A journal must be rolled back.
    HotJournal,
    /// A WAL database needs files for locks.
    Wal,
}

impl Obstacle {
    /// `None` if a copy would not help.
    pub(super) fn of(error: &rusqlite::Error) -> Option<Self> {
        match (error.sqlite_error_code()?, error.sqlite_error()?.extended_code) {
            (_, ffi::SQLITE_READONLY_ROLLBACK) => Some(Self::HotJournal),
            (ErrorCode::ReadOnly | ErrorCode::CannotOpen, _) => Some(Self::Wal),
            _ => None,
        }
    }

    /// What the operator should know.
    pub(super) fn warning(self) -> Option<&'static str> {
        (self == Self::HotJournal).then_some(
            "a crash left a change half done, and nobody has opened the database since: it is backed up without this change, as SQLite would recover it",
        )
    }
}

/// The database itself, its journal, its WAL, and the locks of the WAL.
const FILES: [&str; 4] = ["", JOURNAL, "-wal", "-shm"];
const JOURNAL: &str = "-journal";

/// Copies `source` to `target`. `false` if somebody may have it open, or writes to it.
///
/// # Errors
/// A file cannot be read or written; or the copy cannot be recovered.
pub(super) fn copy(source: &Path, target: &Path, kind: Obstacle, stop: &CancellationToken) -> Result<bool> {
    // Where the path is a link, SQLite writes beside the file that the link names.
    let source =
        &std::fs::canonicalize(source).context(Class::Source, || format!("cannot resolve {}", source.display()))?;
    let companion = Companion(beside(target, JOURNAL));
    let before = stamps(source)?;
    let [database, journal, wal, locks] = &before;
    let at_rest = wal.is_none() && locks.is_none() && journal.is_some() == (kind == Obstacle::HotJournal);
    if database.is_none() || !at_rest {
        return Ok(false);
    }
    copy_file(source, target, stop)?;
    if kind == Obstacle::HotJournal {
        copy_file(&beside(source, JOURNAL), &companion.0, stop)?;
    }
    let quiet = stamps(source)? == before;
    if quiet {
        recover(target).context(Class::Source, || format!("cannot recover a copy of {}", source.display()))?;
    }
    Ok(quiet)
}

/// The journal of the copy. It is removed on drop.
struct Companion(PathBuf);

impl Drop for Companion {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Opens the copy for writing, which rolls its journal back.
fn recover(copy: &Path) -> rusqlite::Result<()> {
    let database = Connection::open(copy)?;
    database.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Identity, size and times of a file.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// Of the database and what lies beside it. `None` if there is no such file.
fn stamps(source: &Path) -> Result<[Option<Stamp>; 4]> {
    let mut stamps = [None; 4];
    for (stamp, suffix) in stamps.iter_mut().zip(FILES) {
        let path = beside(source, suffix);
        *stamp = match std::fs::metadata(&path) {
            Ok(meta) => {
                Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).context(Class::Source, || format!("cannot look at {}", path.display())),
        };
    }
    Ok(stamps)
}

fn copy_file(from: &Path, to: &Path, stop: &CancellationToken) -> Result<()> {
    let mut input = File::open(from).context(Class::Source, || format!("cannot read {}", from.display()))?;
    let failed = || format!("cannot write {}", to.display());
    let _ = std::fs::remove_file(to);
    let mut output =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).context(Class::Storage, failed)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = input.read(&mut piece).context(Class::Source, || format!("cannot read {}", from.display()))?;
        if read == 0 {
            return Ok(());
        }
        output.write_all(&piece[..read]).context(Class::Storage, failed)?;
        if stop.is_cancelled() {
            return Err(Error::cancelled("the capture"));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_ends_early_leaves_no_journal_behind() {
        let place = tempfile::tempdir().unwrap();
        let (source, target) = (place.path().join("a.db"), place.path().join("copy"));
        std::fs::write(&source, "").unwrap();
        std::fs::write(beside(&source, JOURNAL), "half a change").unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(copy(&source, &target, Obstacle::HotJournal, &stop).is_err());
        assert!(target.exists() && !beside(&target, JOURNAL).exists());
    }

    #[test]
    fn only_a_file_that_does_not_exist_is_absent() {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("a.db");
        std::fs::write(&source, "").unwrap();
        assert_eq!(stamps(&source).unwrap().map(|stamp| stamp.is_some()), [true, false, false, false]);
        // It cannot be looked at, whoever asks.
        std::os::unix::fs::symlink("a.db-wal", beside(&source, "-wal")).unwrap();
        assert!(stamps(&source).is_err());
    }
}
