//! Loads a snapshot into an existing server: roles, then each database.
//!
//! Nothing that exists is changed unless the caller asks to overwrite. A database that was created
//! here and could not be loaded completely is dropped again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;

use async_trait::async_trait;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, TryFutureExt};
use lifeboat_base::{Class, Context, Error, Result};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use super::Postgres;
use super::archive::LongBlocks;
use super::builds::{Builds, EntryId};
use super::globals::{self, GLOBALS, read_globals};
use super::parts::{DumpPart, Stored, TableName, by_database};
use super::server::Server;
use super::settings::{PostgresConnection, unverified_host};
use super::sql::{conninfo, literal, query, quoted, rows};
use super::target::{self, PostgresTarget};
use crate::database::{Database, RestoreOutcome, ServerTarget, Wanted, WorkContext};
use crate::streams::{StoredStreams, StreamReader};
use crate::tool::process::{feed, output_bytes};

/// Makes `pg_restore` stop at the first error, and never ask for a password.
const STRICT: [&str; 2] = ["--exit-on-error", "-w"];

/// A step of loading that is done.
enum Done<'a> {
    Rows(&'a DumpPart),
    Built(EntryId),
}

#[async_trait]
impl ServerTarget for PostgresTarget {
    fn database(&self) -> &'static dyn Database {
        &Postgres
    }

    fn describe(&self) -> String {
        target::describe(&self.connection)
    }

    fn files(&self) -> Vec<PathBuf> {
        target::files(&self.connection)
    }

    fn unverified_host(&self) -> Option<String> {
        let PostgresConnection::Url(url) = &self.connection else { return None };
        unverified_host(url)
    }

    async fn load(&self, streams: &dyn StoredStreams, wanted: &Wanted, cx: &WorkContext) -> Result<RestoreOutcome> {
        load(streams, self, wanted, cx).await
    }
}

/// Loads into the server `to`.
async fn load(
    streams: &dyn StoredStreams,
    to: &PostgresTarget,
    wanted: &Wanted,
    cx: &WorkContext,
) -> Result<RestoreOutcome> {
    let PostgresTarget { connection, password, client_directories } = to;
    let (server, _) = Server::reach(connection, password.as_ref(), client_directories, cx).await?;
    let names = streams.names();
    let databases = by_database(&names);
    let chosen = choose(&databases, wanted)?;
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
    for ((database, parts), target) in chosen {
        server.make_room(&target, wanted.overwrite).await?;
        if *database != target {
            outcome.warnings.push(format!(
                "{target}: under another name a database keeps neither its owner, grants and settings nor its encoding and locale"
            ));
        }
        server.restore_database(streams, database, parts, &target).await?;
        outcome.written.push(target);
    }
    Ok(outcome)
}

/// Each database that is wanted, and the name that it gets.
fn choose<'a, 'b>(there: &'b [Stored<'a>], wanted: &Wanted) -> Result<Vec<(&'b Stored<'a>, String)>> {
    if let Some(missing) = wanted.databases.iter().find(|name| !there.iter().any(|stored| stored.0 == **name)) {
        let names: Vec<&str> = there.iter().map(|stored| stored.0.as_str()).collect();
        return Err(Error::usage(format!("the snapshot has no database `{missing}`"))
            .hint(format!("it has: {}", names.join(", "))));
    }
    let chosen = there.iter().filter(|stored| wanted.databases.is_empty() || wanted.databases.contains(&stored.0));
    let chosen: Vec<&Stored<'_>> = chosen.collect();
    match (wanted.rename.as_deref(), chosen.as_slice()) {
        (Some(name), [only]) => Ok(vec![(*only, name.to_owned())]),
        (Some(_), several) => {
            Err(Error::usage(format!("{} databases cannot all be restored under one name", several.len()))
                .hint("choose one with --database"))
        }
        (None, all) => Ok(all.iter().map(|stored| (*stored, stored.0.clone())).collect()),
    }
}

impl Server<'_> {
    /// Creates the roles that do not exist yet. Returns whether tablespaces were left out.
    ///
    /// # Errors
    /// A statement fails.
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

    /// Creates the database `target`, which must not exist, and loads all `parts` into it. On
    /// failure the database is dropped again.
    ///
    /// # Errors
    /// Those of a stream, or of `pg_restore`.
    pub(crate) async fn restore_database(
        &self,
        streams: &dyn StoredStreams,
        database: &str,
        parts: &[(DumpPart, &str)],
        target: &str,
    ) -> Result<()> {
        if self.exists(target).await? {
            return Err(Error::source_failed(format!("somebody has just created a database {target}"))
                .hint("run the restore again"));
        }
        let loaded = self.load_parts(streams, database, parts, target).await;
        if loaded.is_err() {
            let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(target));
            // It is dropped although the restore was cancelled, or because it was.
            let cx = WorkContext { cancel: CancellationToken::new(), ..self.cx.clone() };
            if let Err(error) = query(&self.clients, &self.connection, self.outside(target), &drop, &cx).await {
                tracing::warn!(database = target, error = %error.chain(), "the half-loaded database could not be dropped");
            }
        }
        loaded.map_err(|error| error.within(format!("cannot restore database {database}")))
    }

    /// Loads one archive as it is; or first the definitions, then the rows and what is built on
    /// them.
    async fn load_parts(
        &self,
        streams: &dyn StoredStreams,
        database: &str,
        parts: &[(DumpPart, &str)],
        target: &str,
    ) -> Result<()> {
        let Some(((first, name), rows)) = parts.split_first().filter(|((part, _), _)| part.creates()) else {
            return Err(Error::integrity(format!("the snapshot has no definitions of database {database}")));
        };
        // A database cannot be created from within itself.
        let into = if database == target {
            vec!["--create".to_owned(), "-d".to_owned(), conninfo(self.outside(target))]
        } else {
            let create = format!("CREATE DATABASE {} TEMPLATE template0", quoted(target));
            self.query_in(self.outside(target), &create).await?;
            vec!["-d".to_owned(), conninfo(target)]
        };
        if *first == DumpPart::Whole {
            return self.load_stream(streams, name, &into).await;
        }
        if !rows.iter().any(|(part, _)| *part == DumpPart::Data) {
            return Err(Error::integrity(format!("the snapshot lacks rows of database {database}")));
        }
        let definitions = self.definitions(streams, name).await?;
        let section = [into, vec!["--section=pre-data".to_owned()]].concat();
        self.load_file(&definitions, &section).await?;
        self.load_rows(streams, rows, &definitions, target).await
    }

    /// Writes the definitions to a file: `pg_restore` reads them more than once, and works over
    /// several connections only if it can seek. They are small, as they hold no rows.
    async fn definitions(&self, streams: &dyn StoredStreams, name: &str) -> Result<NamedTempFile> {
        let failed = || format!("cannot write {name} to {}", self.cx.scratch.display());
        let mut file = NamedTempFile::new_in(&self.cx.scratch).context(Class::Storage, failed)?;
        let mut archive = streams.open(name).await?;
        while let Some(piece) = archive.next().await? {
            file.write_all(&piece).context(Class::Storage, failed)?;
        }
        Ok(file)
    }

    /// Loads rows over several connections, and builds indexes and constraints as soon as their
    /// rows are there. What the longest chain waits for comes first.
    async fn load_rows(
        &self,
        streams: &dyn StoredStreams,
        rows: &[(DumpPart, &str)],
        definitions: &NamedTempFile,
        target: &str,
    ) -> Result<()> {
        let into = ["-d".to_owned(), conninfo(target)];
        let length = |stream: &str| streams.length(stream).unwrap_or_default();
        let table = |(part, stream): &(DumpPart, &str)| match part {
            DumpPart::Table(name) => Some((name.clone(), length(stream))),
            _ => None,
        };
        let lengths: BTreeMap<TableName, u64> = rows.iter().filter_map(table).collect();
        // Without the lists everything is built at the end.
        let (list, upon_rows) = self.lists(definitions).await.unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "indexes are built only after all rows");
            Default::default()
        });
        let mut builds = Builds::new(&list, &upon_rows, &lengths);
        let urgency = |(part, stream): &(DumpPart, &str)| {
            let upon = if let DumpPart::Table(name) = part { builds.upon(name) } else { 0 };
            length(stream) + upon
        };
        let mut rows: Vec<(u64, &(DumpPart, &str))> = rows.iter().map(|rows| (urgency(rows), rows)).collect();
        rows.sort_by_key(|(urgency, _)| *urgency);
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.cx.jobs.max(1) {
                let others = rows.last().map_or(0, |(urgency, _)| *urgency);
                if let Some(entry) = builds.next(others) {
                    let build = self.build(definitions, Some(vec![entry]), &into);
                    running.push(build.map_ok(move |()| Done::Built(entry)).boxed());
                } else if let Some((_, (part, name))) = rows.pop() {
                    let load = self.load_stream(streams, name, &into);
                    running.push(load.map_ok(move |()| Done::Rows(part)).boxed());
                } else {
                    break;
                }
            }
            match running.next().await.transpose()? {
                Some(Done::Rows(DumpPart::Table(name))) => builds.loaded(name),
                Some(Done::Rows(_)) => {}
                Some(Done::Built(entry)) => builds.built(entry),
                None => break,
            }
        }
        drop(running);
        let jobs = [&[format!("--jobs={}", self.cx.jobs)], &into[..]].concat();
        match builds.rest() {
            Some(rest) => {
                self.build(definitions, Some(rest.side_by_side), &jobs).await?;
                self.build(definitions, Some(rest.in_order), &into).await
            }
            None => self.build(definitions, None, &jobs).await,
        }
    }

    async fn load_stream(&self, streams: &dyn StoredStreams, name: &str, arguments: &[String]) -> Result<()> {
        let mut archive = streams.open(name).await?;
        let restore = self.tool("pg_restore", STRICT.into_iter().chain(arguments.iter().map(String::as_str)));
        let loaded = match DumpPart::of_stream(name) {
            Some((DumpPart::Table(_), _)) => feed(restore, &mut LongBlocks::new(archive.as_mut()), |_| Ok(())).await,
            _ => feed(restore, archive.as_mut(), |_| Ok(())).await,
        };
        loaded.map_err(|error| error.within(format!("cannot load {name}")))
    }

    async fn load_file(&self, file: &NamedTempFile, arguments: &[String]) -> Result<()> {
        let arguments = STRICT.into_iter().chain(arguments.iter().map(String::as_str)).map(OsStr::new);
        let restore = self.tool("pg_restore", arguments.chain([file.path().as_os_str()]));
        feed(restore, &mut Once(None), |_| Ok(())).await
    }

    /// Two lists: of everything in the definitions, with what each entry needs, and of what comes
    /// after the rows. Names are in the encoding of the database. Names that are not UTF-8 are not
    /// understood, which does no harm.
    async fn lists(&self, file: &NamedTempFile) -> Result<(String, String)> {
        let list = async |how: &str| {
            let arguments = [OsStr::new("--list"), OsStr::new(how), file.path().as_os_str()];
            let list = output_bytes(self.tool("pg_restore", arguments)).await?;
            Ok::<_, Error>(String::from_utf8_lossy(&list).into_owned())
        };
        Ok((list("--verbose").await?, list("--section=post-data").await?))
    }

    /// Builds indexes, constraints and whatever else comes after the rows. `entries` are their
    /// numbers in the archive; `None` for all of it.
    async fn build(&self, definitions: &NamedTempFile, entries: Option<Vec<EntryId>>, into: &[String]) -> Result<()> {
        let failed = || format!("cannot write to {}", self.cx.scratch.display());
        let mut list = NamedTempFile::new_in(&self.cx.scratch).context(Class::Storage, failed)?;
        // A list or a section, but not both: with a list, `pg_restore` would take a comment for
        // that of the entry before it.
        let chosen = match entries {
            Some(entries) if entries.is_empty() => return Ok(()),
            Some(entries) => {
                let lines: String = entries.iter().map(|entry| format!("{entry};\n")).collect();
                list.write_all(lines.as_bytes()).context(Class::Storage, failed)?;
                format!("--use-list={}", list.path().display())
            }
            None => "--section=post-data".to_owned(),
        };
        let built = self.load_file(definitions, &[into, &[chosen]].concat()).await;
        built.map_err(|error| error.within("cannot build indexes and constraints"))
    }

    async fn exists(&self, database: &str) -> Result<bool> {
        let sql = format!("SELECT 1 FROM pg_database WHERE datname = {}", literal(database));
        Ok(!rows(&self.query_in(self.outside(database), &sql).await?).is_empty())
    }

    /// A database to be connected to while `target` is created or dropped.
    fn outside(&self, target: &str) -> &str {
        let usual = self.connection.maintenance_database();
        if usual == target { "template1" } else { usual }
    }

    /// Refuses a database that is not empty, unless it is to be overwritten.
    async fn refuse_occupied(&self, target: &str, overwrite: bool) -> Result<()> {
        if overwrite || !self.exists(target).await? {
            return Ok(());
        }
        // What a new database has from the start has a number below 16384.
        let catalogs = ["pg_class", "pg_proc", "pg_type", "pg_namespace", "pg_extension", "pg_largeobject_metadata"];
        let counts = catalogs.map(|catalog| format!("(SELECT count(*) FROM {catalog} WHERE oid >= 16384)"));
        let made = self.query_in(target, &format!("SELECT {}", counts.join(" + "))).await?;
        if made.trim() == "0" {
            return Ok(());
        }
        Err(Error::usage(format!("database {target} exists and is not empty"))
            .hint("restore under another name with --rename, or pass --overwrite to drop it first"))
    }

    /// Drops the database `target` if it exists.
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
                .hint("close the connections to it, and connect as a role that may drop it")
        })
    }
}

/// A text that is read as a stream of one piece.
struct Once(Option<bytes::Bytes>);

#[async_trait]
impl StreamReader for Once {
    async fn next(&mut self) -> Result<Option<bytes::Bytes>> {
        Ok(self.0.take())
    }
}
