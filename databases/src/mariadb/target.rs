//! A MariaDB server to restore into.
//!
//! The client runs the dump's statements as the account that connects, with all that this account
//! may do in the server. It obeys no command of its own in a dump (see `load/`), and reads no
//! file for one.

use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::secret::Secret;
use lifeboat_base::{Error, Result};

use super::address::MariaAddress;
use super::dump::database_of;
use super::fit::{keeps_names, missing_engine};
use super::globals::{MariaDatabase, MariaGlobals, read_globals};
use super::load::{DumpedViews, load_database};
use super::server::{MariaServer, SYSTEM_DATABASES};
use super::tokens::{name, text};
use super::users::{GrantDatabases, account_of, existing, make_accounts, make_grants};
use super::{MariaDb, version_of};
use crate::database::{Database, ServerTarget, WorkContext};
use crate::streams::StoredStreams;
use crate::wanted::{RestoreOutcome, Wanted};

/// A server to restore into.
#[derive(Debug)]
pub struct MariaTarget {
    /// How to connect.
    pub address: MariaAddress,
    /// The password, which the caller has read.
    pub password: Option<Secret>,
    /// Directories where client tools are looked for first, before the system's.
    pub client_directories: Vec<PathBuf>,
}

/// A database of the snapshot, and what becomes of it.
struct RestoredPart {
    stream: String,
    described: MariaDatabase,
    /// Its name in the server.
    into: String,
}

#[async_trait]
impl ServerTarget for MariaTarget {
    fn database(&self) -> &'static dyn Database {
        &MariaDb
    }

    fn describe(&self) -> String {
        self.address.describe()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.address.files()
    }

    fn unverified_host(&self) -> Option<String> {
        self.address.unverified_host()
    }

    fn drops_first(&self) -> bool {
        true
    }

    async fn load(&self, streams: &dyn StoredStreams, wanted: &Wanted, cx: &WorkContext) -> Result<RestoreOutcome> {
        if wanted.keep_going || wanted.as_superuser {
            return Err(Error::usage("a restore into a MariaDB server takes neither --keep-going nor --as-superuser")
                .hint("leave them out: it loads all or fails, as the account that connects"));
        }
        let (server, facts) =
            MariaServer::reach(&self.address, self.password.as_ref(), &self.client_directories, cx).await?;
        let captured = version_of(streams.facts())?;
        if facts.version.series < captured.series {
            return Err(Error::usage(format!(
                "the snapshot is of MariaDB {}, and the server is MariaDB {}: an older one may not take it",
                captured.whole, facts.version.whole
            ))
            .hint("restore it into a server of the same version or a newer one"));
        }
        keeps_names(streams.facts(), &facts)?;
        let globals = read_globals(streams).await?;
        let parts = parts(streams, &globals, wanted)?;
        let account = account_of(&facts.account);
        let empty = databases(&server).await?.is_empty();
        let mut outcome = RestoreOutcome::default();
        let named: Vec<String> = parts.iter().map(|part| part.stream.clone()).collect();
        if let Some(missing) = missing_engine(&server, streams.facts(), &named).await? {
            return Err(Error::usage(format!("the server lacks {missing}: it would make them in another engine"))
                .hint("install the engine there (INSTALL SONAME), or restore into a server that has it"));
        }
        // All are looked at before the first is touched.
        for part in &parts {
            if !wanted.overwrite {
                refuse_filled(&server, &part.into).await?;
            }
        }
        let with_users = wanted.globals || (empty && wanted.databases.is_empty());
        // Who restores no users need not be able to read them.
        let there = if with_users { existing(&server).await? } else { Vec::new() };
        let makes = |of: &super::globals::Account| with_users && *of != account && !there.contains(of);
        make_accounts(&server, &globals, makes).await?;
        let mut views = Vec::new();
        for part in &parts {
            let loaded = part.load(&server, streams, wanted.overwrite).await;
            views.push((loaded.map_err(|error| told_before(error, &outcome.written))?, &part.into));
            outcome.written.push(part.into.clone());
        }
        // Who defines a view must already have the rights on what it uses. A grant means the
        // database that it names, and not another one that has its name now.
        let (own, renamed): (Vec<_>, Vec<_>) = parts.iter().partition(|part| part.into == part.described.name);
        let databases = GrantDatabases {
            loaded: own.into_iter().map(|part| part.into.clone()).collect(),
            replaced: renamed.into_iter().map(|part| part.into.clone()).collect(),
        };
        let rest = async {
            let passed_over = if with_users { make_grants(&server, &globals, &databases, makes).await? } else { 0 };
            for (views, into) in views {
                views.load(&server, into).await?;
            }
            Ok(passed_over)
        };
        let passed_over = rest.await.map_err(|error: Error| {
            let loaded = outcome.written.join(", ");
            error.within(format!("these databases are loaded but for grants and views: {}", loaded.escape_debug()))
        })?;
        outcome.warnings = told(&globals, with_users, &there, wanted);
        if passed_over > 0 {
            outcome.warnings.push(format!(
                "grants on objects that the server does not have were not made, {passed_over} in all: restore their \
                databases, and make the grants that are in `globals` of --to-directory"
            ));
        }
        Ok(outcome)
    }
}

impl RestoredPart {
    /// Loads the tables of the database in place of what is there. Returns its views. If that
    /// fails, no part of a database is left that an application could take for the whole.
    async fn load(
        &self,
        server: &MariaServer<'_>,
        streams: &dyn StoredStreams,
        overwrite: bool,
    ) -> Result<DumpedViews> {
        // Somebody may have filled it while those before it were loaded.
        if !overwrite {
            refuse_filled(server, &self.into).await?;
        }
        let drop = format!("DROP DATABASE IF EXISTS {}", name(&self.into));
        server.run(&drop).await?;
        let cx = server.cx.to_the_end();
        let failed = || format!("cannot restore database {}", self.into.escape_debug());
        // What somebody else made meanwhile is not ours to drop.
        server.under(&cx).run(&self.described.create(&self.into)).await.map_err(|error| error.within(failed()))?;
        let loaded = load_database(server, streams, &self.stream, &self.into, "").await;
        let Err(error) = loaded else { return loaded };
        Err(match server.under(&cx).run(&drop).await {
            Ok(()) => error.within(failed()),
            Err(left) => error.within(format!(
                "{}, and what was loaded of it is still there: drop it by hand: {}",
                failed(),
                left.chain()
            )),
        })
    }
}

/// The error of one database, with those that were restored before it.
fn told_before(error: Error, written: &[String]) -> Error {
    match written {
        [] => error,
        names => error.within(format!("restored before that, but for views: {}", names.join(", ").escape_debug())),
    }
}

/// What an operator should know.
fn told(globals: &MariaGlobals, with_users: bool, there: &[super::globals::Account], wanted: &Wanted) -> Vec<String> {
    let mut warnings = Vec::new();
    let kept = globals.accounts.iter().filter(|(account, _)| there.contains(account)).count();
    if !with_users && !globals.accounts.is_empty() {
        let all = globals.accounts.len();
        warnings.push(format!(
            "the snapshot's {all} users and roles were not restored: pass --globals to make those that are missing"
        ));
    } else if kept > 0 {
        warnings.push(format!("{kept} users and roles were there, and keep their passwords and grants"));
    }
    if wanted.rename.is_some() {
        warnings
            .push("what names the database by its old name, such as defaults from sequences, still does".to_owned());
    }
    warnings
}

/// The databases to load, in the order of the snapshot.
fn parts(streams: &dyn StoredStreams, globals: &MariaGlobals, wanted: &Wanted) -> Result<Vec<RestoredPart>> {
    let all: Vec<(String, String)> =
        streams.names().into_iter().filter_map(|stream| Some((database_of(&stream)?, stream))).collect();
    if let Some(missing) = wanted.databases.iter().find(|name| !all.iter().any(|(database, _)| database == *name)) {
        let names: Vec<&str> = all.iter().map(|(database, _)| database.as_str()).collect();
        return Err(Error::usage(format!("the snapshot has no database `{}`", missing.escape_debug()))
            .hint(format!("it has: {}", names.join(", ").escape_debug())));
    }
    let chosen =
        all.into_iter().filter(|(database, _)| wanted.databases.is_empty() || wanted.databases.contains(database));
    let mut parts = Vec::new();
    for (database, stream) in chosen {
        let described = globals.databases.iter().find(|described| described.name == database).cloned();
        let described = described.ok_or_else(|| {
            Error::integrity(format!("the snapshot does not describe its database {}", database.escape_debug()))
        })?;
        let into = wanted.rename.clone().unwrap_or(database);
        if SYSTEM_DATABASES.contains(&into.to_ascii_lowercase().as_str()) {
            return Err(Error::usage(format!("`{into}` is the server's own database")).hint("choose another name"));
        }
        parts.push(RestoredPart { stream, described, into });
    }
    match parts.len() {
        0 => Err(Error::integrity("the snapshot holds no database")),
        several if several > 1 && wanted.rename.is_some() => {
            Err(Error::usage("only one database can be restored under another name").hint("name it with --database"))
        }
        _ => Ok(parts),
    }
}

async fn databases(server: &MariaServer<'_>) -> Result<Vec<String>> {
    let mut there = server.column("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA").await?;
    there.retain(|name| !SYSTEM_DATABASES.contains(&name.to_ascii_lowercase().as_str()));
    Ok(there)
}

/// Refuses a database that is not empty.
async fn refuse_filled(server: &MariaServer<'_>, database: &str) -> Result<()> {
    match holds_something(server, database).await? {
        true => Err(Error::usage(format!("the server has a database {} that is not empty", database.escape_debug()))
            .hint("restore one database under another name with --rename, or replace it with --overwrite")),
        false => Ok(()),
    }
}

/// Whether a database has a table, routine or event.
async fn holds_something(server: &MariaServer<'_>, database: &str) -> Result<bool> {
    let of = text(database);
    let count = format!(
        "SELECT (SELECT count(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {of}) + \
        (SELECT count(*) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = {of}) + \
        (SELECT count(*) FROM information_schema.EVENTS WHERE EVENT_SCHEMA = {of})"
    );
    Ok(server.value(&count).await? != "0")
}
