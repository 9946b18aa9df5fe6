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
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Write};
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
    let before = stamps(source);
    let [database, journal, wal, locks] = &before;
    let at_rest = wal.is_none() && locks.is_none() && journal.is_some() == (kind == Obstacle::HotJournal);
    if database.is_none() || !at_rest {
        return Ok(false);
    }
    copy_file(source, target, stop)?;
    let companion = beside(target, JOURNAL);
    if kind == Obstacle::HotJournal {
        copy_file(&beside(source, JOURNAL), &companion, stop)?;
    }
    let quiet = stamps(source) == before;
    if quiet {
        recover(target).context(Class::Source, || format!("cannot recover a copy of {}", source.display()))?;
    }
    let _ = std::fs::remove_file(companion);
    Ok(quiet)
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

/// Of the database and what lies beside it.
fn stamps(source: &Path) -> [Option<Stamp>; 4] {
    let stamp =
        |meta: Metadata| (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    FILES.map(|suffix| std::fs::metadata(beside(source, suffix)).ok().map(stamp))
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
