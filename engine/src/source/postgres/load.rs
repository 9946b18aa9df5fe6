//! Loads a snapshot into a server that is there: roles, then each database.
//!
//! Nothing that exists is changed unless the caller said `overwrite`; a database that was created here and could not be loaded whole
//! is dropped again.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use super::capture::{conninfo, rows};
use super::parts::{Part, by_database};
use super::{GLOBALS, Server, globals};
use crate::config::{PostgresConnection, Secret};
use crate::error::{Class, Context, Error, Result};
use crate::source::process::feed;
use crate::source::{CaptureContext, RestoreOutcome, StoredStreams, StreamReader};

/// Globals are small: roles, memberships, settings.
const LARGEST_GLOBALS: usize = 256 << 20;

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
    let (server, _) = Server::reach(to, password, client_directories, cx).await?;
    let names = streams.names();
    let databases = by_database(&names);
    let chosen = choose(&databases.keys().copied().collect::<Vec<_>>(), wanted)?;
    for (_, target) in &chosen {
        server.refuse_occupied(target, wanted.overwrite).await?;
    }
    let mut outcome = RestoreOutcome::default();
    if names.iter().any(|name| name == GLOBALS) {
        let text = read_globals(streams).await?;
        if server.restore_globals(&text).await? {
            outcome.warnings.push("tablespaces were left out: everything is in the default one".to_owned());
        }
    }
    for (database, target) in chosen {
        server.make_room(&target, wanted.overwrite).await?;
        if database != target {
            outcome.warnings.push(format!(
                "{target}: under another name a database keeps neither owner, grants and settings of its own nor its encoding and locale"
            ));
        }
        server.restore_database(streams, &database, &databases[database.as_str()], &target).await?;
        outcome.written.push(target);
    }
    Ok(outcome)
}

/// Each database of the snapshot that is wanted, and the name it gets.
fn choose(there: &[&str], wanted: &Wanted<'_>) -> Result<Vec<(String, String)>> {
    if let Some(missing) = wanted.databases.iter().find(|name| !there.contains(&name.as_str())) {
        return Err(Error::usage(format!("the snapshot has no database `{missing}`"))
            .hint(format!("it has: {}", there.join(", "))));
    }
    let chosen: Vec<&str> = there
        .iter()
        .copied()
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
        feed(self.tool("psql", arguments), &mut Once(Some(script.sql.into())), |_| Ok(()))
            .await
            .map_err(|error| error.within("cannot restore roles and other globals"))?;
        Ok(script.tablespaces)
    }

    /// Creates the database `target`, which must not exist, and loads all `parts` into it; drops it again on failure.
    ///
    /// # Errors
    /// A stream's, or `pg_restore`'s.
    pub(crate) async fn restore_database(
        &self,
        streams: &dyn StoredStreams,
        database: &str,
        parts: &[(Part, &str)],
        target: &str,
    ) -> Result<()> {
        if self.exists(target).await? {
            return Err(Error::source_failed(format!("somebody has just created a database {target}")));
        }
        let loaded = self.load_parts(streams, database, parts, target).await;
        if loaded.is_err() {
            let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(target));
            if let Err(error) = self.query_in(self.outside(target), &drop).await {
                tracing::warn!(database = target, error = %error.chain(), "the half-loaded database could not be dropped");
            }
        }
        loaded.map_err(|error| error.within(format!("cannot restore database {database}")))
    }

    /// Definitions first, then rows over several connections, then what is built upon them.
    async fn load_parts(
        &self,
        streams: &dyn StoredStreams,
        database: &str,
        parts: &[(Part, &str)],
        target: &str,
    ) -> Result<()> {
        let Some(((_, first), rest)) = parts.split_first().filter(|((part, _), _)| part.creates()) else {
            return Err(Error::integrity(format!("the snapshot has no definitions of database {database}")));
        };
        // A database cannot be created from within itself.
        let (within, elsewhere) = (conninfo(target), conninfo(self.outside(target)));
        if database == target {
            self.load_stream(streams, first, &["--create", "-d", &elsewhere]).await?;
        } else {
            let create = format!("CREATE DATABASE {} TEMPLATE template0", quoted(target));
            self.query_in(self.outside(target), &create).await?;
            self.load_stream(streams, first, &["-d", &within]).await?;
        }
        let (last, mut rows): (Vec<_>, Vec<_>) = rest.iter().partition(|(part, _)| *part == Part::PostData);
        // The longest first: the others find a place beside it.
        rows.sort_by_key(|(_, stream)| std::cmp::Reverse(streams.length(stream)));
        let arguments = ["-d", &within];
        let loads: Vec<_> = rows.iter().map(|(_, name)| self.load_stream(streams, name, &arguments).boxed()).collect();
        stream::iter(loads).buffer_unordered(self.cx.jobs).try_collect::<()>().await?;
        for (_, name) in last {
            self.load_from_file(streams, name, target).await?;
        }
        Ok(())
    }

    async fn load_stream(&self, streams: &dyn StoredStreams, name: &str, arguments: &[&str]) -> Result<()> {
        let mut archive = streams.open(name).await?;
        let restore = self.tool("pg_restore", ["--exit-on-error", "-w"].iter().chain(arguments));
        feed(restore, archive.as_mut(), |_| Ok(())).await.map_err(|error| error.within(format!("cannot load {name}")))
    }

    /// `pg_restore` works over several connections only if it can seek in the archive. One without rows is small.
    async fn load_from_file(&self, streams: &dyn StoredStreams, name: &str, target: &str) -> Result<()> {
        let failed = || format!("cannot write {name} to {}", self.cx.scratch.display());
        let mut file = tempfile::NamedTempFile::new_in(&self.cx.scratch).context(Class::Storage, failed)?;
        let mut archive = streams.open(name).await?;
        while let Some(piece) = archive.next().await? {
            file.write_all(&piece).context(Class::Storage, failed)?;
        }
        let (jobs, within) = (format!("--jobs={}", self.cx.jobs), conninfo(target));
        let arguments = ["--exit-on-error", "-w", &jobs, "-d", &within].map(OsStr::new);
        let restore = self.tool("pg_restore", arguments.into_iter().chain([file.path().as_os_str()]));
        feed(restore, &mut Once(None), |_| Ok(())).await.map_err(|error| error.within(format!("cannot load {name}")))
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
