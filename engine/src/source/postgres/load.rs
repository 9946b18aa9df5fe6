//! Loads a snapshot into a server that is there: roles, then each database.
//!
//! Nothing that exists is changed unless the caller said `overwrite`; a database that was created here and could not be loaded whole
//! is dropped again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::capture::{ServerFacts, conninfo, query, rows};
use super::clients::{self, Clients};
use super::connect::Connection;
use super::{DATABASE, GLOBALS, globals};
use crate::config::{PostgresConnection, Secret};
use crate::error::{Class, Context, Error, Result};
use crate::source::process::{Invocation, feed};
use crate::source::{CaptureContext, RestoreOutcome, StoredStreams, StreamReader};

/// Globals are small: roles, memberships, settings.
const LARGEST_GLOBALS: usize = 256 << 20;

/// A server to load into.
pub(crate) struct Server<'a> {
    pub(crate) clients: Clients,
    pub(crate) connection: Connection,
    pub(crate) cx: &'a CaptureContext,
}

/// What to load.
pub(crate) struct Wanted<'a> {
    pub(crate) databases: &'a [String],
    pub(crate) rename: Option<&'a str>,
    pub(crate) overwrite: bool,
}

/// Loads into the server at `to`.
pub(crate) async fn load(
    streams: &dyn StoredStreams,
    to: &PostgresConnection,
    password: Option<&Secret>,
    client_directories: &[PathBuf],
    wanted: &Wanted<'_>,
    cx: &CaptureContext,
) -> Result<RestoreOutcome> {
    let connection = Connection::new(to, password, cx)?;
    let first = clients::newest(client_directories, cx).await?;
    let facts = ServerFacts::ask(&first, &connection, cx).await?;
    let clients = clients::choose(facts.major, client_directories, cx).await?;
    let server = Server { clients, connection, cx };

    let chosen = choose(&streams.names(), wanted)?;
    for (_, target) in &chosen {
        server.refuse_occupied(target, wanted.overwrite).await?;
    }
    let mut outcome = RestoreOutcome::default();
    if streams.names().iter().any(|name| name == GLOBALS) {
        let text = read_globals(streams).await?;
        if server.restore_globals(&text).await? {
            outcome.warnings.push("tablespaces were left out: everything is in the default one".to_owned());
        }
    }
    for (database, target) in chosen {
        let mut stream = streams.open(&format!("{DATABASE}{database}")).await?;
        server.make_room(&target, wanted.overwrite).await?;
        if database != target {
            outcome.warnings.push(format!(
                "{target}: under another name a database keeps neither owner, grants and settings of its own nor its encoding and locale"
            ));
        }
        server.restore_database(&database, &target, stream.as_mut()).await?;
        outcome.written.push(target);
    }
    Ok(outcome)
}

/// Each database of the snapshot that is wanted, and the name it gets.
fn choose(names: &[String], wanted: &Wanted<'_>) -> Result<Vec<(String, String)>> {
    let there: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(DATABASE)).collect();
    if let Some(missing) = wanted.databases.iter().find(|name| !there.contains(&name.as_str())) {
        return Err(Error::usage(format!("the snapshot has no database `{missing}`"))
            .hint(format!("it has: {}", there.join(", "))));
    }
    let chosen: Vec<&str> = there
        .into_iter()
        .filter(|name| wanted.databases.is_empty() || wanted.databases.iter().any(|w| w == name))
        .collect();
    match wanted.rename {
        Some(_) if chosen.len() != 1 => {
            Err(Error::usage(format!("{} databases cannot get one name", chosen.len()))
                .hint("choose one with --database"))
        }
        Some(name) => Ok(vec![(chosen[0].to_owned(), name.to_owned())]),
        None => Ok(chosen.into_iter().map(|name| (name.to_owned(), name.to_owned())).collect()),
    }
}

/// The whole `globals` stream.
pub(crate) async fn read_globals(streams: &dyn StoredStreams) -> Result<String> {
    let mut stream = streams.open(GLOBALS).await?;
    let mut text = Vec::new();
    while let Some(piece) = stream.next().await? {
        text.extend_from_slice(&piece);
        if text.len() > LARGEST_GLOBALS {
            return Err(Error::integrity("the globals are larger than they can be"));
        }
    }
    String::from_utf8(text).context(Class::Integrity, || "the globals are not UTF-8")
}

impl Server<'_> {
    /// One statement's answer, from the maintenance database.
    pub(crate) async fn query(&self, sql: &str) -> Result<String> {
        self.query_in(self.connection.maintenance_database(), sql).await
    }

    /// One statement's answer.
    pub(crate) async fn query_in(&self, database: &str, sql: &str) -> Result<String> {
        query(&self.clients, &self.connection, database, sql, self.cx).await
    }

    /// Creates the roles that are not there. Returns whether tablespaces were left out.
    ///
    /// # Errors
    /// Any statement that fails.
    pub(crate) async fn restore_globals(&self, text: &str) -> Result<bool> {
        let existing: BTreeSet<String> = rows(&self.query("SELECT rolname FROM pg_roles").await?).into_iter().collect();
        let script = globals::script(text, &existing);
        let database = conninfo(self.connection.maintenance_database());
        let arguments =
            ["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-1", "-f", "-", "-d", &database];
        let psql = Invocation::new(&self.clients.tool("psql"), arguments, self.cx).envs(self.connection.variables());
        feed(psql, &mut Once(Some(script.sql.into())), |_| Ok(()))
            .await
            .map_err(|error| error.within("cannot restore roles and other globals"))?;
        Ok(script.tablespaces)
    }

    /// Creates the database `target`, which must not exist, and loads the archive into it; drops it again on failure.
    ///
    /// # Errors
    /// The stream's, or `pg_restore`'s.
    pub(crate) async fn restore_database(
        &self,
        database: &str,
        target: &str,
        archive: &mut dyn StreamReader,
    ) -> Result<()> {
        if self.exists(target).await? {
            return Err(Error::source_failed(format!("somebody has just created a database {target}")));
        }
        // A database cannot be created or dropped from within itself.
        let elsewhere = conninfo(self.outside(target));
        let within = conninfo(target);
        let mut arguments = vec!["--exit-on-error", "-w"];
        if database == target {
            arguments.extend(["--create", "-d", &elsewhere]);
        } else {
            let create = format!("CREATE DATABASE {} TEMPLATE template0", quoted(target));
            self.query_in(self.outside(target), &create).await?;
            arguments.extend(["-d", &within]);
        }
        let restore =
            Invocation::new(&self.clients.tool("pg_restore"), arguments, self.cx).envs(self.connection.variables());
        let loaded = feed(restore, archive, |_| Ok(())).await;
        if loaded.is_err() {
            let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(target));
            if let Err(error) = self.query_in(self.outside(target), &drop).await {
                tracing::warn!(database = target, error = %error.chain(), "the half-loaded database could not be dropped");
            }
        }
        loaded.map_err(|error| error.within(format!("cannot restore database {database}")))
    }

    async fn exists(&self, database: &str) -> Result<bool> {
        let sql = format!("SELECT 1 FROM pg_database WHERE datname = {}", literal(database));
        Ok(!rows(&self.query_in(self.outside(database), &sql).await?).is_empty())
    }

    /// A database to stand in while `target` is created or dropped.
    fn outside(&self, target: &str) -> &str {
        let usual = self.connection.maintenance_database();
        if usual == target { "template1" } else { usual }
    }

    /// Refuses a target that holds something that somebody made.
    async fn refuse_occupied(&self, target: &str, overwrite: bool) -> Result<()> {
        if overwrite || !self.exists(target).await? {
            return Ok(());
        }
        // What is there from the start has a number below 16384.
        let catalogs = ["pg_class", "pg_proc", "pg_type", "pg_namespace", "pg_extension", "pg_largeobject_metadata"];
        let counts = catalogs.map(|catalog| format!("(SELECT count(*) FROM {catalog} WHERE oid >= 16384)"));
        let made = self.query_in(target, &format!("SELECT {}", counts.join(" + "))).await?;
        if made.trim() == "0" {
            return Ok(());
        }
        Err(Error::usage(format!("database {target} exists and is not empty"))
            .hint("restore under another name with --rename, or pass --overwrite to drop it first"))
    }

    /// Drops a target that is there.
    async fn make_room(&self, target: &str, overwrite: bool) -> Result<()> {
        if !self.exists(target).await? {
            return Ok(());
        }
        self.refuse_occupied(target, overwrite).await?;
        let force = if overwrite { " WITH (FORCE)" } else { "" };
        let drop = format!("DROP DATABASE {}{force}", quoted(target));
        let dropped = self.query_in(self.outside(target), &drop).await;
        dropped.map(|_| ()).map_err(|error| {
            error
                .within(format!("cannot make room for database {target}"))
                .hint("somebody is connected to it, or it is not ours to drop")
        })
    }
}

/// An SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL string.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A text that is read as a stream.
struct Once(Option<bytes::Bytes>);

#[async_trait::async_trait]
impl StreamReader for Once {
    async fn next(&mut self) -> Result<Option<bytes::Bytes>> {
        Ok(self.0.take())
    }
}
