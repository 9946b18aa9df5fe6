//! Captures a database file: SQLite's Online Backup API makes a consistent copy of it, also while
//! writers are active, and the copy is streamed.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{DATABASE_STREAM, SQLITE_KIND, Sqlite, at_rest};
use crate::database::{Database, Source, SourceCheck, WorkContext};
use crate::file::stream_file;
use crate::streams::StreamSink;

/// How many pages are copied before the next look at whether to stop.
const PAGES_A_STEP: i32 = 2000;
/// How long one attempt waits for a lock.
const STEP_PAUSE: Duration = Duration::from_millis(50);
const LOCKED_HINT: &str = "end the exclusive transaction of the writer, or raise stall in [limits]";
const NO_DATABASE_HINT: &str = "it is another kind of file, or encrypted: use kind = \"file\"";
pub(super) const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Captures one database file.
#[derive(Debug, Clone)]
pub struct SqliteSource {
    /// The database file.
    pub path: PathBuf,
}

#[async_trait]
impl Source for SqliteSource {
    fn database(&self) -> &'static dyn Database {
        &Sqlite
    }

    async fn check(&self, _: &WorkContext) -> SourceCheck {
        let source = self.path.clone();
        let looked = tokio::task::spawn_blocking(move || look(&source)).await;
        let looked = looked.context(Class::Failed, || "a worker thread failed");
        match looked.and_then(|looked| looked) {
            // The capture is a copy.
            Ok(size) => SourceCheck { scratch_bytes: size, ..SourceCheck::default() },
            Err(error) => SourceCheck::of(error),
        }
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let (source, copy, stall) = (self.path.clone(), cx.scratch.join("sqlite-copy"), cx.stall);
        // It also fires when this future is dropped, so that no thread goes on writing.
        let stop = cx.cancel.child_token();
        let _stops_when_dropped = stop.clone().drop_guard();
        let target = copy.clone();
        let warning = tokio::task::spawn_blocking(move || copy_database(&source, &target, stall, &stop))
            .await
            .context(Class::Failed, || "a worker thread failed")??;

        let (stream, _) = stream_file(&copy, sink.open(DATABASE_STREAM)?, SQLITE_MAGIC, cx)
            .await
            .map_err(|error| error.within(format!("cannot read the copy of {}", self.path.display())))?;
        stream.finish(0).await?;
        let _ = tokio::fs::remove_file(&copy).await;
        Ok(SourceFacts {
            engine: SQLITE_KIND.to_owned(),
            server_version: Some(rusqlite::version().to_owned()),
            warnings: warning.into_iter().map(str::to_owned).collect(),
            ..SourceFacts::default()
        })
    }
}

/// Whether it can be read; its size. One that is locked is read by a capture later.
fn look(source: &Path) -> Result<u64> {
    if !source.is_file() {
        return Err(no_database(source));
    }
    let asked = || {
        let from = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        from.busy_timeout(STEP_PAUSE)?;
        from.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
    };
    match asked() {
        Err(error) if !is_locked(&error) && at_rest::Obstacle::of(&error).is_none() => Err(explained(source, error)),
        _ => {
            let begin = || {
                let (mut file, mut begin) = (std::fs::File::open(source)?, Vec::new());
                (&mut file).take(SQLITE_MAGIC.len() as u64).read_to_end(&mut begin)?;
                Ok::<_, std::io::Error>((file.metadata()?.len(), begin))
            };
            let read = begin().context(Class::Source, || format!("cannot read {}", source.display()));
            match read.map_err(|error| error.hint("let Lifeboat's user read the database"))? {
                // SQLite takes a file that is too short for a database for an empty one.
                (1.., begin) if begin != SQLITE_MAGIC => {
                    Err(Error::source_failed(format!("{} is no SQLite database", source.display()))
                        .hint(NO_DATABASE_HINT))
                }
                (size, _) => Ok(size),
            }
        }
    }
}

fn no_database(source: &Path) -> Error {
    Error::source_failed(format!("there is no SQLite database at {}", source.display()))
        .hint("check the path, and that Lifeboat's user may read it and its directory")
}

/// Copies page by page within one read transaction, so a writer can delay the copy, but the copy
/// never holds half of a change. Returns a warning.
fn copy_database(
    source: &Path,
    target: &Path,
    stall: Duration,
    stop: &CancellationToken,
) -> Result<Option<&'static str>> {
    if !source.is_file() {
        return Err(no_database(source));
    }
    let _ = std::fs::remove_file(target);
    let copied = backup(source, target, stall, stop);
    let error = match copied {
        Ok(()) => return Ok(None),
        Err(Refusal::Other(error)) => return Err(error),
        Err(Refusal::Sqlite(error)) => error,
    };
    // What needs writing beside the database is done in a copy of ours.
    match at_rest::Obstacle::of(&error) {
        Some(kind) if at_rest::copy(source, target, kind, stop)? => Ok(kind.warning()),
        _ => Err(explained(source, error)),
    }
}

/// Why the backup API could not copy.
enum Refusal {
    Sqlite(rusqlite::Error),
    Other(Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn backup(source: &Path, target: &Path, stall: Duration, stop: &CancellationToken) -> Result<(), Refusal> {
    let from = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // Short, so that a run that is cancelled does not wait for a lock.
    from.busy_timeout(STEP_PAUSE)?;
    let mut progressed = Instant::now();
    loop {
        match from.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema") {
            Err(error) if is_locked(&error) && progressed.elapsed() <= stall => {
                if !from.is_autocommit() {
                    from.execute_batch("ROLLBACK")?;
                }
            }
            begun => break begun?,
        }
        if stop.is_cancelled() {
            return Err(Refusal::Other(Error::cancelled("the capture")));
        }
    }
    let mut to = Connection::open(target)?;
    let backup = Backup::new(&from, &mut to)?;
    progressed = Instant::now();
    loop {
        match backup.step(PAGES_A_STEP)? {
            StepResult::Done => return Ok(()),
            StepResult::More => progressed = Instant::now(),
            _ if progressed.elapsed() > stall => {
                let locked = Error::source_failed(format!("{} has been locked for {stall:?}", source.display()));
                return Err(Refusal::Other(locked.hint(LOCKED_HINT)));
            }
            _ => std::thread::sleep(STEP_PAUSE),
        }
        if stop.is_cancelled() {
            return Err(Refusal::Other(Error::cancelled("the capture")));
        }
    }
}

fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The error of a copy, with what to do about it.
fn explained(source: &Path, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
    let class = if code == Some(ErrorCode::DiskFull) { Class::Storage } else { Class::Source };
    // Where the path is a link, SQLite keeps its files beside the file that the link names.
    let real = std::fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    let folder = real.parent().unwrap_or(&real).display();
    let hint = match code {
        Some(ErrorCode::DiskFull) => "make room in the state directory: a whole copy of the database must fit".to_owned(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => LOCKED_HINT.to_owned(),
        Some(ErrorCode::NotADatabase) => NO_DATABASE_HINT.to_owned(),
        Some(ErrorCode::DatabaseCorrupt) => "run PRAGMA integrity_check, and restore it from a snapshot".to_owned(),
        _ if extended == ffi::SQLITE_READONLY_ROLLBACK => {
            "a crash left a journal that is still in use: open the database once with its own program, and run the backup again"
                .to_owned()
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => format!(
            "Lifeboat's user must be able to read the database, and in WAL mode also to write to {folder}: SQLite keeps files for locks there"
        ),
        _ => "see what SQLite says; check the database with PRAGMA integrity_check".to_owned(),
    };
    Error::new(class, format!("cannot copy the SQLite database {}", source.display())).because(error).hint(hint)
}
