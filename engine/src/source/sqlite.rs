//! `sqlite`: a consistent copy by the Online Backup API, also while writers are active, then streamed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use tokio::io::AsyncReadExt;

use super::{CaptureContext, Source, SourceFacts, StreamSink};
use crate::error::{Class, Context, Error, Result};

/// Name of the one stream.
pub(crate) const STREAM: &str = "database";
const PIECE: usize = 256 << 10;
const HEADER: &[u8; 16] = b"SQLite format 3\0";

/// Captures one database file.
#[derive(Debug, Clone)]
pub(super) struct SqliteSource {
    pub(super) path: PathBuf,
}

#[async_trait]
impl Source for SqliteSource {
    async fn capture(&self, sink: &dyn StreamSink, cx: &CaptureContext) -> Result<SourceFacts> {
        let (source, copy, for_thread) = (self.path.clone(), cx.scratch.join("sqlite-copy"), cx.clone());
        let target = copy.clone();
        tokio::task::spawn_blocking(move || copy_database(&source, &target, &for_thread))
            .await
            .context(Class::Failed, || "a worker thread failed")??;

        let mut file = tokio::fs::File::open(&copy).await.context(Class::Storage, || "cannot read the copy")?;
        let mut stream = sink.open(STREAM)?;
        let mut buffer = BytesMut::new();
        let mut first = true;
        loop {
            buffer.reserve(PIECE);
            let read = file.read_buf(&mut buffer).await.context(Class::Storage, || "cannot read the copy")?;
            if read == 0 {
                break;
            }
            if std::mem::take(&mut first) && !buffer.starts_with(HEADER) {
                return Err(Error::source_failed(format!("{} is not an SQLite database", self.path.display())));
            }
            stream.write(buffer.split().freeze()).await?;
        }
        stream.finish(0).await?;
        let _ = tokio::fs::remove_file(&copy).await;
        Ok(SourceFacts {
            engine: "sqlite".to_owned(),
            server_version: Some(rusqlite::version().to_owned()),
            ..SourceFacts::default()
        })
    }
}

/// One step copies everything under one read transaction, so a writer can delay it but never be mixed in.
fn copy_database(source: &Path, target: &Path, cx: &CaptureContext) -> Result<()> {
    let shown = source.display();
    if !source.is_file() {
        return Err(Error::source_failed(format!("there is no SQLite database at {shown}"))
            .hint("check the path, and that the user Lifeboat runs as may read it and its directory"));
    }
    let failed = || format!("cannot copy the SQLite database {shown}");
    let from = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY).context(Class::Source, failed)?;
    let _ = std::fs::remove_file(target);
    let mut to = Connection::open(target).context(Class::Storage, failed)?;
    let backup = Backup::new(&from, &mut to).context(Class::Source, failed)?;
    let began = Instant::now();
    loop {
        match backup.step(-1).context(Class::Source, failed)? {
            StepResult::Done => return Ok(()),
            _ if cx.cancel.is_cancelled() => return Err(Error::cancelled("the capture")),
            _ if began.elapsed() > cx.stall => {
                return Err(Error::source_failed(format!("{shown} has been locked for {:?}", cx.stall))
                    .hint("a writer holds an exclusive transaction; end it, or allow a longer [limits] stall"));
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
