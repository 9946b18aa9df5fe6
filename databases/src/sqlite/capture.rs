//! Captures a database file: SQLite's Online Backup API makes a consistent copy of it, also while
//! writers are active, and the copy is streamed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{DATABASE_STREAM, SQLITE_KIND, Sqlite};
use crate::database::{Database, Source, WorkContext};
use crate::file::stream_file;
use crate::streams::StreamSink;

/// How many pages are copied before the next look at whether to stop.
const PAGES_A_STEP: i32 = 2000;
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

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

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let (source, copy, stall) = (self.path.clone(), cx.scratch.join("sqlite-copy"), cx.stall);
        // It also fires when this future is dropped, so that no thread goes on writing.
        let stop = cx.cancel.child_token();
        let _stops_when_dropped = stop.clone().drop_guard();
        let target = copy.clone();
        tokio::task::spawn_blocking(move || copy_database(&source, &target, stall, &stop))
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
            ..SourceFacts::default()
        })
    }
}

/// Copies page by page within one read transaction, so a writer can delay the copy, but the copy
/// never holds half of a change.
fn copy_database(source: &Path, target: &Path, stall: Duration, stop: &CancellationToken) -> Result<()> {
    let shown = source.display();
    if !source.is_file() {
        return Err(Error::source_failed(format!("there is no SQLite database at {shown}"))
            .hint("check the path, and that Lifeboat's user may read it and its directory"));
    }
    let failed = |error: rusqlite::Error| {
        let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let class = if full { Class::Storage } else { Class::Source };
        Error::new(class, format!("cannot copy the SQLite database {shown}")).because(error)
    };
    let from = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    from.busy_timeout(stall).map_err(failed)?;
    from.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").map_err(failed)?;
    let _ = std::fs::remove_file(target);
    let mut to = Connection::open(target).map_err(failed)?;
    let backup = Backup::new(&from, &mut to).map_err(failed)?;
    let mut progressed = Instant::now();
    loop {
        match backup.step(PAGES_A_STEP).map_err(failed)? {
            StepResult::Done => return Ok(()),
            StepResult::More => progressed = Instant::now(),
            _ if progressed.elapsed() > stall => {
                return Err(Error::source_failed(format!("{shown} has been locked for {stall:?}"))
                    .hint("end the exclusive transaction of the writer, or raise stall in [limits]"));
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
        if stop.is_cancelled() {
            return Err(Error::cancelled("the capture"));
        }
    }
}
