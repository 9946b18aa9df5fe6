//! Captures a server: facts, globals, databases.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::clients::{Clients, major_of};
use super::connect::Connection;
use super::export::ExportedSnapshot;
use super::globals::END_MARKER;
use super::parts::{Part, Table};
use super::{GLOBALS, Server, tables};
use crate::config::{PostgresConfig, Secret, SecretRef};
use crate::error::{Error, Result};
use crate::source::process::{Invocation, output};
use crate::source::{CaptureContext, Source, SourceFacts, StreamSink};

const ARCHIVE_MAGIC: &[u8] = b"PGDMP";
/// Milliseconds that a dump under an exported snapshot waits for a lock on a table. The exporting session has those of large
/// tables already: whoever is before us in their queues waits for that session, and so for us.
const LOCK_WAIT: u32 = 10_000;
/// The same where tables are locked that the exporting session has not locked.
const LOCK_WAIT_OTHERS: u32 = 60_000;
/// Connections that a capture uses at most unless it is told otherwise: the server has other work.
const JOBS: usize = 4;
/// Facts that every capture asks for: one row, values separated by a unit separator.
const FACTS: &str = "SELECT current_setting('server_version'), (SELECT rolname FROM pg_roles WHERE oid = 10), \
    pg_encoding_to_char(encoding), datcollate, datctype, (SELECT count(*) FROM pg_tablespace WHERE oid > 16383), \
    has_table_privilege('pg_authid', 'SELECT') FROM pg_database WHERE datname = 'template0'";

/// Databases that can be dumped; one that was left half-dropped (limit -2) cannot.
pub(crate) const DATABASES: &str =
    "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname";
const CLOSED: &str = "SELECT datname FROM pg_database WHERE NOT datistemplate AND (NOT datallowconn OR datconnlimit = -2) ORDER BY datname";

/// Captures the configured server.
#[derive(Debug, Clone)]
pub(crate) struct PostgresSource(pub(crate) PostgresConfig);

/// What a server says of itself.
#[derive(Debug, Clone)]
pub(crate) struct ServerFacts {
    pub(crate) version: String,
    pub(crate) major: u32,
    superuser: String,
    encoding: String,
    collate: String,
    ctype: String,
    tablespaces: bool,
    reads_passwords: bool,
}

#[async_trait]
impl Source for PostgresSource {
    async fn capture(&self, sink: &dyn StreamSink, cx: &CaptureContext) -> Result<SourceFacts> {
        let password: Option<Secret> = self.0.password.as_ref().map(SecretRef::read).transpose()?;
        let (server, facts) =
            Server::reach(&self.0.connection, password.as_ref(), &self.0.client_directories, cx).await?;
        let mut warnings = Vec::new();
        if facts.tablespaces {
            warnings.push("the server has tablespaces; a restore puts everything into the default one".to_owned());
        }
        if server.clients.major > facts.major {
            warnings.push(format!(
                "dumped by client tools of version {}: only PostgreSQL {} or newer can load that; install postgresql-client-{}",
                server.clients.version, server.clients.major, facts.major
            ));
        }
        let databases = self.databases(&server).await?;

        let closed = server.query(CLOSED).await?;
        for database in rows(&closed).iter().filter(|database| !databases.contains(database)) {
            warnings.push(format!("database {database} accepts no connections and is not backed up"));
        }
        capture_globals(&server, &facts, sink, &mut warnings).await?;
        for database in &databases {
            capture_database(&server, database, &self.0, sink).await?;
        }
        let details = [
            ("superuser", facts.superuser),
            ("encoding", facts.encoding),
            ("collate", facts.collate),
            ("ctype", facts.ctype),
        ];
        Ok(SourceFacts {
            engine: "postgres".to_owned(),
            server_version: Some(facts.version),
            tools: BTreeMap::from([("pg_dump".to_owned(), server.clients.version)]),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            warnings,
        })
    }
}

impl PostgresSource {
    async fn databases(&self, server: &Server<'_>) -> Result<Vec<String>> {
        let there = rows(&server.query(DATABASES).await?);
        if self.0.databases.is_empty() {
            return Ok(there);
        }
        match self.0.databases.iter().find(|wanted| !there.contains(wanted)) {
            None => Ok(self.0.databases.clone()),
            Some(missing) => Err(Error::source_failed(format!("the server has no database `{missing}`"))
                .hint(format!("it has: {}", there.join(", ")))),
        }
    }
}

impl ServerFacts {
    /// Asks the server.
    ///
    /// # Errors
    /// It cannot be reached or does not let us in.
    pub(crate) async fn ask(clients: &Clients, connection: &Connection, cx: &CaptureContext) -> Result<Self> {
        let database = connection.maintenance_database();
        let answer = query(clients, connection, database, FACTS, cx).await.map_err(|error| {
            error.within("cannot ask the PostgreSQL server").hint(
                "check address, role and password; the role needs to read all data: a superuser, or a member of pg_read_all_data",
            )
        })?;
        let fields: Vec<&str> = answer.split('\u{1f}').collect();
        let [version, superuser, encoding, collate, ctype, tablespaces, reads_passwords] = fields[..] else {
            return Err(Error::source_failed("the PostgreSQL server gave an answer that is not understood"));
        };
        let version = version.split_whitespace().next().unwrap_or_default().to_owned();
        Ok(Self {
            major: major_of(&version)
                .ok_or_else(|| Error::source_failed(format!("unknown server version `{version}`")))?,
            version,
            superuser: superuser.to_owned(),
            encoding: encoding.to_owned(),
            collate: collate.to_owned(),
            ctype: ctype.to_owned(),
            tablespaces: tablespaces != "0",
            reads_passwords: reads_passwords == "t",
        })
    }
}

/// Runs one statement; fields are separated by U+001F, rows by NUL.
///
/// # Errors
/// As `psql`'s.
pub(crate) async fn query(
    clients: &Clients,
    connection: &Connection,
    database: &str,
    sql: &str,
    cx: &CaptureContext,
) -> Result<String> {
    let arguments = [
        "-X",
        "-A",
        "-t",
        "-q",
        "-w",
        "-0",
        "-F",
        "\u{1f}",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=terse",
        "-d",
        &conninfo(database),
        "-c",
        sql,
    ];
    let encoding = [("PGCLIENTENCODING", OsStr::new("UTF8"))];
    let psql = Invocation::new(&clients.tool("psql"), arguments, cx).envs(connection.variables()).envs(encoding);
    output(psql).await.map(|answer| answer.trim_end_matches(['\0', '\n']).to_owned())
}

/// The rows of an answer of one column.
pub(crate) fn rows(answer: &str) -> Vec<String> {
    answer.split('\0').filter(|row| !row.is_empty()).map(str::to_owned).collect()
}

/// A database's name as a connection string: tools would take a bare name with `=` in it for one.
pub(crate) fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
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
        return Err(Error::source_failed("pg_dumpall ended without its end marker: the globals are cut short"));
    }
    stream.finish(exit).await
}

/// Dumps a database: as one archive, or, where it has large tables and may be read over several connections, in
/// [parts](super::parts) side by side.
async fn capture_database(
    server: &Server<'_>,
    database: &str,
    config: &PostgresConfig,
    sink: &dyn StreamSink,
) -> Result<()> {
    let jobs = config.jobs.unwrap_or(server.cx.jobs.min(JOBS));
    let tables = if jobs > 1 { tables::large(server, database, config.large_table).await? } else { Vec::new() };
    if tables.is_empty() {
        return dump(server, database, &Part::Whole, &tables, None, sink).await;
    }
    let snapshot = ExportedSnapshot::take(server, database, &tables).await?;
    // The first two lock the tables that have no part of their own, as they begin: the sooner the better.
    let mut parts = vec![Part::Data, Part::Schema];
    parts.extend(tables.iter().map(|table| Part::Table(table.name.clone())));
    let dumps: Vec<_> =
        parts.iter().map(|part| dump(server, database, part, &tables, Some(&snapshot), sink).boxed()).collect();
    stream::iter(dumps).buffer_unordered(jobs).try_collect::<()>().await?;
    snapshot.end().await
}

async fn dump(
    server: &Server<'_>,
    database: &str,
    part: &Part,
    tables: &[Table],
    snapshot: Option<&ExportedSnapshot>,
    sink: &dyn StreamSink,
) -> Result<()> {
    let stream = part.stream(database).ok_or_else(|| Error::failed("a table was chosen whose stream has no name"))?;
    let mut arguments = part.dump_arguments(tables);
    let mut hint = "see what pg_dump said; run it by hand as the same user";
    if let Some(snapshot) = snapshot {
        let wait = if matches!(part, Part::Table(_)) { LOCK_WAIT } else { LOCK_WAIT_OTHERS };
        arguments.extend([format!("--snapshot={}", snapshot.id()), format!("--lock-wait-timeout={wait}")]);
        hint = "see what pg_dump said; if it waited for a lock, somebody wants to alter, truncate or drop a table that is being dumped: run it again after that, or set jobs = 1";
    }
    let mut tool = server.dump_tool(database, arguments).start(false)?;
    let mut writer = sink.open(&stream)?;
    let mut begun = false;
    tool.pump(writer.as_mut(), |piece| {
        if !begun && !piece.starts_with(ARCHIVE_MAGIC) {
            return Err(Error::source_failed(format!("pg_dump of {stream} does not begin as an archive does")));
        }
        begun = true;
        Ok(())
    })
    .await?;
    let exit = tool.finish(0).await.map_err(|error| error.within(format!("cannot dump {stream}")).hint(hint))?;
    if !begun {
        return Err(Error::source_failed(format!("pg_dump of {stream} wrote nothing")));
    }
    writer.finish(exit).await
}
