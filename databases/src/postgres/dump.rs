//! Dumps one database: as one archive, or in [parts](crate::postgres::parts) side by side under an
//! exported snapshot.

use std::collections::BTreeSet;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lifeboat_base::{Error, Result};

use super::export::ExportedSnapshot;
use super::parts::{DumpPart, Table};
use super::server::Server;
use super::settings::PostgresConfig;
use super::tables;
use super::timeless::forget_time;
use crate::streams::StreamSink;
use crate::tool::causes::{self, Cause};

const ARCHIVE_MAGIC: &[u8] = b"PGDMP";
/// How long a dump under an exported snapshot waits for a lock on a large table. The session that
/// exported the snapshot already holds one, so whoever is before us in the queue waits for that
/// session, and so for us.
const LOCK_WAIT_MILLIS: u32 = 10_000;
/// The same for tables that the exporting session has not locked.
const OTHER_LOCK_WAIT_MILLIS: u32 = 60_000;
/// A capture uses no more connections unless it is told to, as the server has other work.
const MAX_DEFAULT_JOBS: usize = 4;
/// What a server says, it may say in its own language. What its client says comes in English.
const DUMP_CAUSES: [Cause; 2] = [
    (
        &["conflict with recovery"],
        "the standby cancelled the dump, to replay what its primary did meanwhile: set hot_standby_feedback = on there, or max_standby_streaming_delay above the time of a dump; the daemon tries again after `retry`",
    ),
    (
        &["server closed the connection unexpectedly"],
        "the server went away in the middle: see its log, and run the backup again once it runs",
    ),
];

/// The tables that have streams of their own.
pub(super) async fn large_tables(server: &Server<'_>, database: &str, config: &PostgresConfig) -> Result<Vec<Table>> {
    match jobs(server, config) > 1 {
        true => tables::large(server, database, config.large_table).await,
        false => Ok(Vec::new()),
    }
}

fn jobs(server: &Server<'_>, config: &PostgresConfig) -> usize {
    config.jobs.unwrap_or(server.cx.jobs.min(MAX_DEFAULT_JOBS))
}

/// Dumps a database as an exported snapshot shows it.
pub(super) async fn dump_under(
    server: &Server<'_>,
    of: (&str, &str),
    tables: &[Table],
    snapshot: ExportedSnapshot,
    config: &PostgresConfig,
    sink: &dyn StreamSink,
) -> Result<Vec<String>> {
    // The first two parts lock the tables that have no part of their own, so they begin first.
    let mut parts = match tables.is_empty() {
        true => vec![DumpPart::Whole],
        false => vec![DumpPart::Data, DumpPart::Schema],
    };
    parts.extend(tables.iter().map(|table| DumpPart::Table(table.name.clone())));
    let dumps: Vec<_> =
        parts.iter().map(|part| dump(server, of, part, tables, Some(&snapshot), sink).boxed()).collect();
    let warned: Vec<Vec<String>> =
        stream::iter(dumps).buffer_unordered(jobs(server, config).max(1)).try_collect().await?;
    snapshot.end().await?;
    // Each part warns of the whole database.
    let unique: BTreeSet<String> = warned.into_iter().flatten().collect();
    Ok(unique.into_iter().collect())
}

pub(super) async fn dump(
    server: &Server<'_>,
    (database, encoding): (&str, &str),
    part: &DumpPart,
    tables: &[Table],
    snapshot: Option<&ExportedSnapshot>,
    sink: &dyn StreamSink,
) -> Result<Vec<String>> {
    let stream =
        part.stream(database).ok_or_else(|| Error::failed("a large table has a name too long for a stream"))?;
    let mut arguments = part.dump_arguments(tables);
    let mut hint = "see what pg_dump said, then run it by hand as the same user";
    if let Some(snapshot) = snapshot {
        let wait = if matches!(part, DumpPart::Table(_)) { LOCK_WAIT_MILLIS } else { OTHER_LOCK_WAIT_MILLIS };
        arguments.extend([format!("--snapshot={}", snapshot.id()), format!("--lock-wait-timeout={wait}")]);
        hint = match sink.moment().is_shared() {
            true => {
                "see what pg_dump said; if it waited for a lock, somebody is altering, truncating or dropping a table: run the backup again after that"
            }
            false => {
                "see what pg_dump said; if it waited for a lock, somebody is altering, truncating or dropping a table: run the backup again after that, or set jobs = 1"
            }
        };
    }
    let mut tool = server.dump_tool(database, encoding, arguments).start(false)?;
    let mut writer = sink.open(&stream)?;
    let mut begun = false;
    tool.pump(writer.as_mut(), |piece| {
        if !begun && !piece.starts_with(ARCHIVE_MAGIC) {
            return Err(Error::source_failed(format!("pg_dump of {stream} did not write an archive")));
        }
        if !begun {
            forget_time(piece);
        }
        begun = true;
        Ok(())
    })
    .await?;
    let exit = tool.finish(0).await.map_err(|error| {
        let hint = causes::what_to_do(&error.chain(), &DUMP_CAUSES).unwrap_or(hint);
        error.within(format!("cannot dump {stream}")).hint(hint)
    })?;
    if !begun {
        return Err(Error::source_failed(format!("pg_dump of {stream} wrote nothing")));
    }
    writer.finish(exit).await?;
    Ok(tool.warnings().into_iter().map(|warning| format!("database {database}: {warning}")).collect())
}
