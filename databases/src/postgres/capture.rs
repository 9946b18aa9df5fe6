//! Captures a server: first the globals, then each database.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::{Secret, SecretRef};
use lifeboat_base::{Error, Result};

use super::connect::SETTLED_TEXT;
use super::export::{ExportedSnapshot, LockedTables};
use super::globals::{END_MARKER, GLOBALS};
use super::parts::{DumpPart, Table};
use super::server::{Server, ServerFacts};
use super::settings::PostgresConfig;
use super::sql::{DATABASES, FIELD_SEPARATOR, conninfo, rows};
use super::{POSTGRES_KIND, Postgres, check, losses, tables};
use crate::database::{Database, Source, SourceCheck, WorkContext};
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
/// The detail of a snapshot that was captured from a server in recovery.
pub(super) const OF_STANDBY: &str = "standby";
/// A server may say it in its own language.
const CANCELLED_BY_RECOVERY: [Cause; 1] = [(
    &["conflict with recovery"],
    "the standby cancelled the dump, to replay what its primary did meanwhile: set hot_standby_feedback = on there, or max_standby_streaming_delay above the time of a dump; the daemon tries again after `retry`",
)];
const CLOSED_DATABASES: &str = "SELECT datname FROM pg_database WHERE NOT datistemplate AND (NOT datallowconn OR datconnlimit = -2) ORDER BY datname";
/// Every database: whether it is a template, accepts connections, and is whole.
const ALL_DATABASES: &str =
    "SELECT datname, datistemplate, datallowconn, datconnlimit <> -2 FROM pg_database ORDER BY datname";

/// Captures the configured server.
#[derive(Debug, Clone)]
pub struct PostgresSource(pub PostgresConfig);

#[async_trait]
impl Source for PostgresSource {
    fn database(&self) -> &'static dyn Database {
        &Postgres
    }

    fn client_directories(&self) -> &[PathBuf] {
        &self.0.client_directories
    }

    fn knows_moments(&self) -> bool {
        true
    }

    async fn check(&self, cx: &WorkContext) -> SourceCheck {
        let mut found = SourceCheck::default();
        if let Err(error) = self.look(cx, &mut found).await {
            found.broken.push(error);
        }
        found
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        let password: Option<Secret> = self.0.password.as_ref().map(SecretRef::read).transpose()?;
        let (server, facts) =
            Server::reach(&self.0.connection, password.as_ref(), &self.0.client_directories, cx).await?;
        let mut warnings = Vec::new();
        if facts.tablespaces {
            warnings.push("the server has tablespaces; a restore puts everything into the default one".to_owned());
        }
        if server.clients.major > facts.major {
            warnings.push(format!(
                "dumped by client tools of version {}: only PostgreSQL {} or newer can load them; install postgresql-client-{}",
                server.clients.version, server.clients.major, facts.major
            ));
        }
        warnings.extend(losses::of_server(&facts));
        let databases = self.databases(&server).await?;

        let closed = server.query(CLOSED_DATABASES).await?;
        for database in rows(&closed).iter().filter(|database| !databases.contains(database)) {
            warnings.push(format!("database {database} accepts no connections and is not backed up"));
        }
        capture_globals(&server, &facts, sink, &mut warnings).await?;
        let mut skipped = Vec::new();
        let mut locked = Vec::new();
        for database in &databases {
            let name = database.escape_debug();
            match server.query_in(database, "SELECT 1").await {
                Ok(_) => {}
                Err(error) if databases.len() > skipped.len() + 1 && answers(&server).await => {
                    warnings.push(format!("database {name} is NOT backed up: {}", error.chain()));
                    skipped.push(database.clone());
                    continue;
                }
                Err(error) => return Err(error.within(format!("cannot back up database {name}"))),
            }
            match losses::of_database(&server, &facts, database).await {
                Ok(found) => warnings.extend(found),
                // The dump itself is the judge of whether the database can be read.
                Err(error) => warnings
                    .push(format!("database {name}: what a dump leaves out of it cannot be told: {}", error.chain())),
            }
            if sink.moment().is_shared() {
                locked.push(LockedDatabase::lock(&server, database, &self.0).await?);
            } else {
                warnings.extend(capture_database(&server, database, &self.0, sink).await?);
            }
        }
        warnings.extend(capture_at_one_moment(&server, locked, &self.0, sink).await?);
        let standby = facts.in_recovery.then(|| (OF_STANDBY, "yes".to_owned()));
        let details = [
            ("superuser", facts.superuser),
            ("encoding", facts.encoding),
            ("collate", facts.collate),
            ("ctype", facts.ctype),
            (SETTLED_TEXT, "yes".to_owned()),
        ];
        Ok(SourceFacts {
            engine: POSTGRES_KIND.to_owned(),
            server_version: Some(facts.version),
            tools: BTreeMap::from([("pg_dump".to_owned(), server.clients.version)]),
            details: details.into_iter().chain(standby).map(|(name, value)| (name.to_owned(), value)).collect(),
            warnings,
            skipped,
        })
    }
}

/// Whether the server still lets us in, so that the fault is that of one database.
async fn answers(server: &Server<'_>) -> bool {
    !server.cx.cancel.is_cancelled() && server.query("SELECT 1").await.is_ok()
}

impl PostgresSource {
    async fn look(&self, cx: &WorkContext, found: &mut SourceCheck) -> Result<()> {
        let password: Option<Secret> = self.0.password.as_ref().map(SecretRef::read).transpose()?;
        let (server, facts) =
            Server::reach(&self.0.connection, password.as_ref(), &self.0.client_directories, cx).await?;
        found.weak = check::weak(&server, &facts);
        found.weak.extend(check::cancels_dumps(&server, &facts).await?);
        for database in self.databases(&server).await? {
            if let Err(error) = check::rights(&server, &facts, &database).await {
                found.broken.push(error.within(format!("database {} cannot be dumped", database.escape_debug())));
            }
        }
        Ok(())
    }

    /// The databases to capture.
    async fn databases(&self, server: &Server<'_>) -> Result<Vec<String>> {
        let there = rows(&server.query(DATABASES).await?);
        if self.0.databases.is_empty() {
            return Ok(there);
        }
        let Some(missing) = self.0.databases.iter().find(|wanted| !there.contains(wanted)) else {
            return Ok(self.0.databases.clone());
        };
        let all = server.query(ALL_DATABASES).await?;
        let found = all.split('\0').find_map(|row| {
            let fields: Vec<&str> = row.split(FIELD_SEPARATOR).collect();
            let [name @ .., template, open, whole] = fields.as_slice() else { return None };
            (name.join(FIELD_SEPARATOR) == **missing).then_some((*template == "t", *open == "t", *whole == "t"))
        });
        let missing = missing.escape_debug();
        Err(match found {
            Some((_, _, false)) => {
                Error::source_failed(format!("database `{missing}` was left half-dropped and cannot be dumped"))
                    .hint("finish it with DROP DATABASE, and take it out of databases")
            }
            Some((_, false, _)) => {
                Error::source_failed(format!("database `{missing}` accepts no connections, so it cannot be dumped"))
                    .hint("ALTER DATABASE … ALLOW_CONNECTIONS true, or take it out of databases")
            }
            Some((true, ..)) => {
                Error::source_failed(format!("database `{missing}` is a template, and templates are not backed up"))
                    .hint("ALTER DATABASE … IS_TEMPLATE false, or take it out of databases")
            }
            _ => Error::source_failed(format!("the server has no database `{missing}`"))
                .hint(format!("it has: {}", there.join(", ").escape_debug())),
        })
    }
}

async fn capture_globals(
    server: &Server<'_>,
    facts: &ServerFacts,
    sink: &dyn StreamSink,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let database = conninfo(server.connection.maintenance_database());
    let mut arguments = vec!["--globals-only", "--encoding=UTF8", "-w", "-d", &database];
    if !facts.reads_passwords {
        warnings.push("the role may not read password hashes: roles are captured without passwords".to_owned());
        arguments.push("--no-role-passwords");
    }
    let mut tool = server.tool("pg_dumpall", arguments).start(false)?;
    let mut stream = sink.open(GLOBALS)?;
    let mut tail = Vec::new();
    while let Some(piece) = tool.read().await? {
        tail.extend_from_slice(&piece);
        let excess = tail.len().saturating_sub(512);
        tail.drain(..excess);
        stream.write(piece).await?;
    }
    let exit = tool.finish(0).await?;
    if !String::from_utf8_lossy(&tail).contains(END_MARKER) {
        return Err(Error::source_failed("pg_dumpall ended without its end marker, so the globals are incomplete")
            .hint("run the backup again; if it fails again, run pg_dumpall --globals-only by hand"));
    }
    warnings.extend(tool.warnings());
    stream.finish(exit).await
}

/// Dumps a database, and returns what `pg_dump` warned of. If it has large tables and may be read
/// over several connections, it is dumped in [parts](crate::postgres::parts) side by side, else as
/// one archive.
async fn capture_database(
    server: &Server<'_>,
    database: &str,
    config: &PostgresConfig,
    sink: &dyn StreamSink,
) -> Result<Vec<String>> {
    // Whatever `client_encoding` somebody has set.
    let encoding = &server.encoding_of(database).await?;
    let tables = large_tables(server, database, config).await?;
    if tables.is_empty() {
        return dump(server, (database, encoding), &DumpPart::Whole, &tables, None, sink).await;
    }
    let snapshot = ExportedSnapshot::take(server, database, &tables).await?;
    dump_under(server, (database, encoding), &tables, snapshot, config, sink).await
}

/// The tables that have streams of their own.
async fn large_tables(server: &Server<'_>, database: &str, config: &PostgresConfig) -> Result<Vec<Table>> {
    match jobs(server, config) > 1 {
        true => tables::large(server, database, config.large_table).await,
        false => Ok(Vec::new()),
    }
}

fn jobs(server: &Server<'_>, config: &PostgresConfig) -> usize {
    config.jobs.unwrap_or(server.cx.jobs.min(MAX_DEFAULT_JOBS))
}

/// Dumps a database as an exported snapshot shows it.
async fn dump_under(
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

/// A database of a group, ready for the moment.
struct LockedDatabase {
    name: String,
    encoding: String,
    tables: Vec<Table>,
    session: LockedTables,
}

impl LockedDatabase {
    async fn lock(server: &Server<'_>, database: &str, config: &PostgresConfig) -> Result<Self> {
        let (encoding, tables) = (server.encoding_of(database).await?, large_tables(server, database, config).await?);
        // The dumps of other databases may come first, and nobody may alter tables meanwhile.
        let locked = tables::to_lock(server, database).await?;
        let session = LockedTables::lock(server, database, &locked).await?;
        Ok(Self { name: database.to_owned(), encoding, tables, session })
    }
}

/// Takes a snapshot of each database at the moment of the group, then dumps them.
async fn capture_at_one_moment(
    server: &Server<'_>,
    databases: Vec<LockedDatabase>,
    config: &PostgresConfig,
    sink: &dyn StreamSink,
) -> Result<Vec<String>> {
    if databases.is_empty() {
        return Ok(Vec::new());
    }
    sink.moment().turn_with_locks(&server.cx.cancel).await?;
    let exports = databases.into_iter().map(async |LockedDatabase { name, encoding, tables, session }| {
        Ok::<_, Error>((name, encoding, tables, session.export().await?))
    });
    let exported = futures::future::try_join_all(exports).await?;
    sink.moment().fixed();
    let mut warnings = Vec::new();
    for (name, encoding, tables, snapshot) in exported {
        warnings.extend(dump_under(server, (&name, &encoding), &tables, snapshot, config, sink).await?);
    }
    Ok(warnings)
}

async fn dump(
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
        hint = "see what pg_dump said; if it waited for a lock, somebody is altering, truncating or dropping a table: run the backup again after that, or set jobs = 1";
    }
    let mut tool = server.dump_tool(database, encoding, arguments).start(false)?;
    let mut writer = sink.open(&stream)?;
    let mut begun = false;
    tool.pump(writer.as_mut(), |piece| {
        if !begun && !piece.starts_with(ARCHIVE_MAGIC) {
            return Err(Error::source_failed(format!("pg_dump of {stream} did not write an archive")));
        }
        begun = true;
        Ok(())
    })
    .await?;
    let exit = tool.finish(0).await.map_err(|error| {
        let hint = causes::what_to_do(&error.chain(), &CANCELLED_BY_RECOVERY).unwrap_or(hint);
        error.within(format!("cannot dump {stream}")).hint(hint)
    })?;
    if !begun {
        return Err(Error::source_failed(format!("pg_dump of {stream} wrote nothing")));
    }
    writer.finish(exit).await?;
    Ok(tool.warnings().into_iter().map(|warning| format!("database {database}: {warning}")).collect())
}
