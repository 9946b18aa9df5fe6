//! Captures a server: facts, globals, databases.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use async_trait::async_trait;

use super::clients::{self, Clients, major_of};
use super::connect::Connection;
use super::globals::END_MARKER;
use super::{DATABASE, GLOBALS};
use crate::config::{PostgresConfig, Secret};
use crate::error::{Error, Result};
use crate::source::process::{Invocation, output};
use crate::source::{CaptureContext, Source, SourceFacts, StreamSink};

const ARCHIVE_MAGIC: &[u8] = b"PGDMP";
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
        let password: Option<Secret> = self.0.password.as_ref().map(crate::config::SecretRef::read).transpose()?;
        let connection = Connection::new(&self.0.connection, password.as_ref(), cx)?;
        let first = clients::newest(&self.0.client_directories, cx).await?;
        let server = ServerFacts::ask(&first, &connection, cx).await?;
        let clients = clients::choose(server.major, &self.0.client_directories, cx).await?;
        let mut warnings = Vec::new();
        if server.tablespaces {
            warnings.push("the server has tablespaces; a restore puts everything into the default one".to_owned());
        }
        if clients.major > server.major {
            warnings.push(format!(
                "dumped by client tools of version {}: only PostgreSQL {} or newer can load that; install postgresql-client-{}",
                clients.version, clients.major, server.major
            ));
        }
        let databases = self.databases(&clients, &connection, cx).await?;

        let closed = query(&clients, &connection, connection.maintenance_database(), CLOSED, cx).await?;
        for database in rows(&closed).iter().filter(|database| !databases.contains(database)) {
            warnings.push(format!("database {database} accepts no connections and is not backed up"));
        }
        capture_globals(&clients, &connection, &server, sink, cx, &mut warnings).await?;
        for database in &databases {
            capture_database(&clients, &connection, database, sink, cx).await?;
        }
        let details = [
            ("superuser", server.superuser),
            ("encoding", server.encoding),
            ("collate", server.collate),
            ("ctype", server.ctype),
        ];
        Ok(SourceFacts {
            engine: "postgres".to_owned(),
            server_version: Some(server.version),
            tools: BTreeMap::from([("pg_dump".to_owned(), clients.version)]),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            warnings,
        })
    }
}

impl PostgresSource {
    async fn databases(&self, clients: &Clients, connection: &Connection, cx: &CaptureContext) -> Result<Vec<String>> {
        let there = rows(&query(clients, connection, connection.maintenance_database(), DATABASES, cx).await?);
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
    clients: &Clients,
    connection: &Connection,
    server: &ServerFacts,
    sink: &dyn StreamSink,
    cx: &CaptureContext,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let database = conninfo(connection.maintenance_database());
    let mut arguments = vec!["--globals-only", "--encoding=UTF8", "-w", "-d", &database];
    if !server.reads_passwords {
        warnings.push("the role may not read password hashes: roles are captured without passwords".to_owned());
        arguments.push("--no-role-passwords");
    }
    let mut tool =
        Invocation::new(&clients.tool("pg_dumpall"), arguments, cx).envs(connection.variables()).start(false)?;
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

async fn capture_database(
    clients: &Clients,
    connection: &Connection,
    database: &str,
    sink: &dyn StreamSink,
    cx: &CaptureContext,
) -> Result<()> {
    let name = conninfo(database);
    let arguments = ["--format=custom", "--compress=0", "-w", "-d", &name];
    let mut tool =
        Invocation::new(&clients.tool("pg_dump"), arguments, cx).envs(connection.variables()).start(false)?;
    let mut stream = sink.open(&format!("{DATABASE}{database}"))?;
    let mut begun = false;
    while let Some(piece) = tool.read().await? {
        if !begun && !piece.starts_with(ARCHIVE_MAGIC) {
            return Err(Error::source_failed(format!(
                "pg_dump of {database} does not begin as an archive does{}",
                tool.said()
            )));
        }
        begun = true;
        stream.write(piece).await?;
    }
    let exit = tool.finish(0).await.map_err(|error| {
        error
            .within(format!("cannot dump database {database}"))
            .hint("see what pg_dump said; run it by hand as the same user")
    })?;
    if !begun {
        return Err(Error::source_failed(format!("pg_dump of {database} wrote nothing")));
    }
    stream.finish(exit).await
}
