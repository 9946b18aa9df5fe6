//! Captures a server: first the globals, then each database.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::{Secret, SecretRef};
use lifeboat_base::{Error, Result};

use super::connect::SETTLED_TEXT;
use super::dump::{dump, dump_under, large_tables};
use super::export::ExportedSnapshot;
use super::frame::with_settled_token;
use super::globals::{END_MARKER, GLOBALS, MAX_GLOBALS_BYTES};
use super::moment::{self, LockedDatabase, MomentRoom, capture_at_one_moment};
use super::parts::DumpPart;
use super::server::{Server, ServerFacts};
use super::settings::PostgresConfig;
use super::sql::{DATABASES, FIELD_SEPARATOR, conninfo, rows};
use super::{POSTGRES_KIND, Postgres, check, losses};
use crate::database::{Database, Source, SourceCheck, WorkContext};
use crate::streams::StreamSink;

/// The detail of a snapshot that was captured from a server in recovery.
pub(super) const OF_STANDBY: &str = "standby";
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
        let mut room = match sink.moment().is_shared() {
            true => Some(MomentRoom::of(&server, databases.len()).await?),
            false => None,
        };
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
            if let Some(room) = &mut room {
                locked.push(LockedDatabase::lock(&server, database, &self.0, room).await?);
            } else {
                warnings.extend(capture_database(&server, database, &self.0, sink).await?);
            }
        }
        warnings.extend(room.filter(MomentRoom::is_full).map(|_| moment::UNLOCKED.to_owned()));
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
    let mut text = Vec::new();
    while let Some(piece) = tool.read().await? {
        text.extend_from_slice(&piece);
        if text.len() > MAX_GLOBALS_BYTES {
            let most = MAX_GLOBALS_BYTES >> 20;
            return Err(Error::source_failed(format!("pg_dumpall wrote more than {most} MiB of globals"))
                .hint("see what pg_dumpall --globals-only writes, and drop the roles or settings that nobody needs"));
        }
    }
    let exit = tool.finish(0).await?;
    let tail = &text[text.len().saturating_sub(512)..];
    if !String::from_utf8_lossy(tail).contains(END_MARKER) {
        return Err(Error::source_failed("pg_dumpall ended without its end marker, so the globals are incomplete")
            .hint("run the backup again; if it fails again, run pg_dumpall --globals-only by hand"));
    }
    stream.write(Bytes::from(with_settled_token(text))).await?;
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
