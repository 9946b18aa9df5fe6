//! Loads a snapshot into an existing server: roles, then each database.
//!
//! Nothing that exists is changed unless the caller asks to overwrite. A database that was created
//! here and could not be loaded completely is dropped again. One that is to be replaced stays until
//! the new one is complete, which is loaded beside it and then takes its name.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use lifeboat_base::{Class, Error, Result};

use super::Postgres;
use super::extract::{Chosen, Request};
use super::failures::{Failures, incomplete};
use super::fill::Filling;
use super::globals::{GLOBALS, Globals, read_globals};
use super::graft::Graft;
use super::loader::{Loader, LoadsAs};
use super::loading::{Loaded, Loading};
use super::orphans::{ORPHANS, drop_orphans, make_orphans};
use super::owners::KnownRoles;
use super::parts::{DumpPart, Stored, TableName, by_database, meant};
use super::places::Place;
use super::roles::several;
use super::server::Server;
use super::settings::{PostgresConnection, unverified_host};
use super::sql::rows;
use super::target::{self, PostgresTarget};
use crate::database::{Database, ServerTarget, WorkContext};
use crate::streams::StoredStreams;
use crate::wanted::{LoadFailure, RestoreOutcome, Wanted};

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
    let (server, facts) = Server::reach(connection, password.as_ref(), client_directories, cx).await?;
    let names = streams.names();
    let databases = by_database(&names)?;
    let chosen = choose(&databases, wanted)?;
    let tables: Vec<TableName> =
        wanted.tables.iter().map(|text| TableName::typed_or_refused(text)).collect::<Result<_>>()?;
    // Tables are put beside what is there.
    for (_, target) in chosen.iter().filter(|_| tables.is_empty()) {
        server.refuse_occupied(target, wanted.overwrite).await?;
    }
    let mut outcome = RestoreOutcome::default();
    outcome.warnings.extend(server.leftovers().await?);
    let takes_roles = wanted.globals || !server.is_alive().await?;
    if names.iter().any(|name| name == GLOBALS) {
        let globals = Globals::parse(&read_globals(streams).await?)?;
        if takes_roles {
            outcome.warnings.extend(server.restore_globals(&globals, false).await?);
        }
    }
    let roles = Mutex::new(server.known_roles(server.connection.maintenance_database()).await?);
    let superuser = server.query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").await?;
    let superuser = superuser.trim() == "t";
    let by_loader = superuser && !wanted.as_superuser;
    if by_loader {
        // It is needed in the end, and better refused now.
        make_orphans(&server).await?;
    }
    let loads = Loads { wanted, tables: &tables, major: facts.major, superuser, by_loader };
    let loaded = load_databases(&server, streams, chosen, loads, &roles, &mut outcome).await;
    if by_loader {
        drop_orphans(&server).await;
    }
    loaded.map_err(|error| told_before(error, &outcome))?;
    let roles = roles.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !roles.lacking().is_empty() {
        let hint = if takes_roles { "" } else { "; --globals takes the snapshot's roles along" };
        let owner = if by_loader {
            format!("the role {ORPHANS}, which has no rights")
        } else {
            "the role that restored".to_owned()
        };
        outcome.warnings.push(format!(
            "these roles do not exist here, so their objects belong to {owner}, and grants to them were left out{hint}: {}",
            several(roles.lacking().iter().map(String::as_str))
        ));
    }
    Ok(outcome)
}

/// How databases are loaded.
#[derive(Clone, Copy)]
struct Loads<'a> {
    wanted: &'a Wanted,
    /// The only tables that are wanted, if not all are.
    tables: &'a [TableName],
    major: u32,
    /// Whether the role that connects is a superuser.
    superuser: bool,
    /// Whether another role loads in its place.
    by_loader: bool,
}

/// Loads each database that was chosen.
async fn load_databases(
    server: &Server<'_>,
    streams: &dyn StoredStreams,
    chosen: Vec<(&Stored<'_>, String)>,
    loads: Loads<'_>,
    roles: &Mutex<KnownRoles>,
    outcome: &mut RestoreOutcome,
) -> Result<()> {
    let Loads { wanted, .. } = loads;
    for (stored, target) in chosen {
        let database = &stored.0;
        let is_graft = !loads.tables.is_empty() && server.exists(&target).await?;
        let place = if is_graft { Place::itself(&target) } else { server.place(&target).await? };
        let loaded = match load_database(server, streams, stored, loads, roles, (place.name(), is_graft)).await {
            Err(error) if wanted.keep_going && error.class() == Class::Source && !server.cx.cancel.is_cancelled() => {
                let object = format!("DATABASE {database}");
                let reason = error.chain();
                outcome.failures.push(LoadFailure {
                    database: database.clone(),
                    object,
                    class: "other".to_owned(),
                    reason,
                });
                continue;
            }
            loaded => loaded?,
        };
        outcome.warnings.extend(loaded.warnings);
        let whole = loaded.failures.is_empty();
        outcome.failures.extend(loaded.failures);
        outcome.warnings.extend(server.settle(&place, whole, wanted.overwrite).await?);
        match loads.tables {
            [] => outcome.written.push(target),
            tables => outcome.written.extend(tables.iter().map(|table| format!("{target}: {table}"))),
        }
    }
    Ok(())
}

/// Loads a database into `place`. If a role does so in place of a superuser, it is made for this
/// database alone: what code of one does to it is nothing to the next.
async fn load_database(
    server: &Server<'_>,
    streams: &dyn StoredStreams,
    (database, parts): &Stored<'_>,
    loads: Loads<'_>,
    roles: &Mutex<KnownRoles>,
    (place, is_graft): (&str, bool),
) -> Result<Loaded> {
    // A table may need none of them: what it lacks is named with what else it lacks.
    if !loads.wanted.keep_going && loads.tables.is_empty() {
        server.has_extensions_of(streams, database, parts, loads.major).await?;
    }
    let loader = if loads.by_loader { Some(Loader::make(server, loads.major).await?) } else { None };
    let loads_as = match &loader {
        Some(loader) => LoadsAs::Loader(loader),
        None if loads.superuser => LoadsAs::Superuser,
        None => LoadsAs::Connected,
    };
    let chosen = Chosen::new(match loads.tables {
        [] if loads.wanted.schema_only => Request::Definitions,
        [] => Request::Whole,
        tables => Request::Tables(tables),
    });
    let loading = Loading { streams, database, roles, keep_going: loads.wanted.keep_going, loads_as, chosen: &chosen };
    let loaded = if is_graft {
        let (tables, overwrite) = (loads.tables, loads.wanted.overwrite);
        Graft { server, loading: &loading, tables, place, overwrite }.run(parts).await
    } else {
        server.restore_database(&loading, parts, place).await
    };
    if let Some(loader) = &loader {
        loader.drop(server).await;
    }
    loaded
}

/// The error of one database, with what came of those before it.
fn told_before(error: Error, outcome: &RestoreOutcome) -> Error {
    for warning in &outcome.warnings {
        tracing::warn!(warning, "the restore ended early");
    }
    for LoadFailure { database, object, reason, .. } in &outcome.failures {
        tracing::warn!(database, object, reason, "this could not be loaded");
    }
    if outcome.written.is_empty() {
        return error;
    }
    error.within(format!("restored before that: {}", several(outcome.written.iter().map(String::as_str))))
}

/// Each database that is wanted, and the name that it gets.
fn choose<'a, 'b>(there: &'b [Stored<'a>], wanted: &Wanted) -> Result<Vec<(&'b Stored<'a>, String)>> {
    let names: Vec<&str> = there.iter().map(|stored| stored.0.as_str()).collect();
    if let Some(missing) = wanted.databases.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Error::usage(format!("the snapshot has no database `{missing}`"))
            .hint(format!("it has: {}", names.join(", "))));
    }
    // A table is of one database.
    let meant = meant(&names).filter(|_| !wanted.tables.is_empty());
    let is_chosen = |name: &String| match wanted.databases.is_empty() {
        true => meant.is_none_or(|meant| meant == name),
        false => wanted.databases.contains(name),
    };
    let chosen: Vec<&Stored<'_>> = there.iter().filter(|stored| is_chosen(&stored.0)).collect();
    match (wanted.rename.as_deref(), chosen.as_slice()) {
        (Some(name), [only]) => Ok(vec![(*only, name.to_owned())]),
        (None, several) if !wanted.tables.is_empty() && several.len() > 1 => {
            let names: Vec<&str> = several.iter().map(|stored| stored.0.as_str()).collect();
            Err(Error::usage("the snapshot has several databases, and a table is of one of them")
                .hint(format!("name it with --database: {}", names.join(", "))))
        }
        (Some(_), several) => {
            Err(Error::usage(format!("{} databases cannot all be restored under one name", several.len()))
                .hint("choose one with --database"))
        }
        (None, all) => Ok(all.iter().map(|stored| (*stored, stored.0.clone())).collect()),
    }
}

impl Server<'_> {
    /// Creates the database `place`, which must not exist, and loads all `parts` into it. On
    /// failure the database is dropped again.
    ///
    /// # Errors
    /// Those of a stream, or of `pg_restore`.
    pub(crate) async fn restore_database(
        &self,
        loading: &Loading<'_>,
        parts: &[(DumpPart, &str)],
        place: &str,
    ) -> Result<Loaded> {
        if self.exists(place).await? {
            return Err(Error::source_failed(format!("somebody has just created a database {place}"))
                .hint("run the restore again"));
        }
        let Loading { streams, database, roles, keep_going, loads_as, chosen } = *loading;
        let failures = Failures::default();
        let as_loader = if let LoadsAs::Loader(loader) = loads_as { Some(loader.server(self)?) } else { None };
        let filling = Filling {
            server: self,
            streams,
            database,
            place,
            keep_going,
            roles,
            failures: failures.clone(),
            made: AtomicBool::new(false),
            loads_as,
            as_loader,
            ownership: Mutex::default(),
            chosen,
        };
        match filling.fill(parts).await {
            Ok(warnings) => Ok(Loaded { warnings, failures: failures.take() }),
            Err(error) => {
                if filling.made.load(Ordering::Relaxed) {
                    self.drop_half_loaded(place).await;
                }
                Err(error.within(format!("cannot restore database {database}")))
            }
        }
    }

    /// As [`Self::restore_database`], for a server that is ours alone: it goes on after errors, but
    /// then fails and tells them all.
    ///
    /// # Errors
    /// Also if an object cannot be loaded.
    pub(crate) async fn restore_whole_database(
        &self,
        streams: &dyn StoredStreams,
        database: &str,
        parts: &[(DumpPart, &str)],
    ) -> Result<()> {
        self.has_extensions_of(streams, database, parts, self.clients.major).await?;
        let roles = Mutex::new(self.known_roles(self.outside(database)).await?);
        let (loads_as, chosen) = (LoadsAs::Connected, &Chosen::new(Request::Whole));
        let loading = Loading { streams, database, roles: &roles, keep_going: true, loads_as, chosen };
        let loaded = self.restore_database(&loading, parts, database).await?;
        for warning in loaded.warnings {
            tracing::warn!(database, warning, "the database is not as it was");
        }
        incomplete(&loaded.failures).map_or(Ok(()), Err)
    }

    async fn known_roles(&self, within: &str) -> Result<KnownRoles> {
        let roles = rows(&self.query_in(within, "SELECT rolname FROM pg_roles").await?);
        Ok(KnownRoles::new(roles.into_iter().collect()))
    }

    /// Whether the server has roles or databases besides those that it has from the start.
    async fn is_alive(&self) -> Result<bool> {
        // What a new server has from the start has a number below 16384.
        let sql = "SELECT (SELECT count(*) FROM pg_roles WHERE oid >= 16384 AND rolname <> current_user) \
            + (SELECT count(*) FROM pg_database WHERE oid >= 16384 AND datname NOT IN ('postgres', current_database()))";
        Ok(self.query(sql).await?.trim() != "0")
    }

    async fn place(&self, target: &str) -> Result<Place> {
        Ok(if self.exists(target).await? { Place::beside(target) } else { Place::itself(target) })
    }
}
