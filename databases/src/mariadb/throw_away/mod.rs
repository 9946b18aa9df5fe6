//! Drills of MariaDB snapshots: a throw-away server loads, checks and proves them.

mod digest;
mod marks;
mod prove;
mod server;

use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Error, Result};

use self::server::MariaThrowAwayServer;
use super::capture::TAKEN;
use super::dump::database_of;
use super::fit::missing_engine;
use super::globals::{MariaGlobals, read_globals};
use super::load::load_database;
use super::server::MariaServer;
use super::tokens::{name, text};
use super::users::{GrantDatabases, make_accounts, make_grants};
use crate::database::{ServerAddress, ThrowAway, WorkContext};
use crate::proof::{
    CheckResult, DrillQuery, FirstValue, ProofResult, QueryAnswer, Unanswered, answered, checked, no_sql,
};
use crate::streams::StoredStreams;

/// The check of each database: `CHECK TABLE` of its tables.
pub(super) const TABLE_CHECK: &str = "check_table";
/// Ways to sign in that a server has to load, each from a library `auth_…` of this name.
const AUTH_PLUGINS: [&str; 4] = ["ed25519", "gssapi", "pam", "parsec"];
/// So many tables are checked by one statement.
const TABLES_A_CHECK: usize = 100;
/// What a table says that can be checked and is sound, or that cannot be checked.
const SOUND: [&str; 2] = ["OK", "The storage engine for the table doesn't support check"];
/// The server's number for what is no SQL.
const NO_SQL: &str = "ERROR 1064";
/// Comes before each query of the operator.
const QUERY_SESSION: &str = "SET SESSION time_zone = '+00:00'; SET SESSION TRANSACTION READ ONLY; ";

/// A throw-away server with a snapshot in it.
pub(super) struct MariaThrowAway {
    server: MariaThrowAwayServer,
    /// Databases and their streams.
    databases: Vec<(String, String)>,
    cx: WorkContext,
}

/// Starts a throw-away server of the series that the snapshot was taken from.
pub(super) async fn start(facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<MariaThrowAway> {
    let server = MariaThrowAwayServer::start(facts, directories, cx).await?;
    Ok(MariaThrowAway { server, databases: Vec::new(), cx: cx.clone() })
}

#[async_trait]
impl ThrowAway for MariaThrowAway {
    fn server_version(&self) -> &str {
        &self.server.version
    }

    fn address(&self) -> Option<ServerAddress> {
        Some(self.server.address())
    }

    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        let loaded = self.load_all(streams).await;
        self.server.unless_ended(loaded).await
    }

    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let checked = self.check_all(queries).await;
        self.server.unless_ended(checked).await
    }

    async fn ask(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let answers = self.answers(queries).await.and_then(answered);
        self.server.unless_ended(answers).await
    }

    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult> {
        let proof = prove::prove(self, streams).await;
        self.server.unless_ended(proof).await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        self.server.stop().await
    }
}

/// Loads the plugins that accounts need. Where a library is not installed, the account cannot be
/// made, and the server says why.
async fn load_auth_plugins(server: &MariaServer<'_>, globals: &MariaGlobals) -> Result<()> {
    let loaded = server.column("SELECT LOWER(PLUGIN_NAME) FROM information_schema.PLUGINS").await?;
    let named = |word: &str| globals.accounts.iter().any(|(_, clause)| clause.iter().any(|token| token.is(word)));
    for word in AUTH_PLUGINS.into_iter().filter(|word| named(word) && !loaded.iter().any(|it| it == word)) {
        if let Err(error) = server.run(&format!("INSTALL SONAME 'auth_{word}'")).await {
            tracing::debug!(plugin = word, "cannot load: {}", error.chain());
        }
    }
    Ok(())
}

/// SQL that sets a session's clock to when the snapshot was taken: an event whose time has passed
/// since could not be made otherwise.
fn at_the_time_of(facts: &SourceFacts) -> Result<String> {
    let Some(taken) = facts.details.get(TAKEN) else { return Ok(String::new()) };
    match taken.parse::<u64>() {
        Ok(seconds) => Ok(format!("SET SESSION timestamp = {seconds};\n")),
        Err(_) => Err(Error::integrity("the snapshot does not tell when it was taken")),
    }
}

impl MariaThrowAway {
    async fn load_all(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        let server = self.server.server(&self.cx)?;
        let globals = read_globals(streams).await?;
        if let Some(missing) = missing_engine(&server, streams.facts(), &streams.names()).await? {
            return Err(Error::source_failed(format!("the throw-away server lacks {missing}, and loads no engines")).hint(
                "set level = \"fetched\" for drills of this dataset, and restore it into a server that has the engine",
            ));
        }
        load_auth_plugins(&server, &globals).await?;
        make_accounts(&server, &globals, |_| true).await?;
        let before = at_the_time_of(streams.facts())?;
        let mut views = Vec::new();
        for stream in streams.names() {
            let Some(database) = database_of(&stream) else { continue };
            let described = globals.databases.iter().find(|described| described.name == database).ok_or_else(|| {
                Error::integrity(format!("the snapshot does not describe its database {}", database.escape_debug()))
            })?;
            server.run(&described.create(&database)).await?;
            views.push((load_database(&server, streams, &stream, &database, &before).await?, database.clone()));
            self.databases.push((database, stream));
        }
        if self.databases.is_empty() {
            return Err(Error::integrity("the snapshot holds no database"));
        }
        // Who defines a view must already have the rights on what it uses.
        let loaded = self.databases.iter().map(|(database, _)| database.clone()).collect();
        let databases = GrantDatabases::under_own_names(loaded);
        make_grants(&server, &globals, &databases, |_| true).await?;
        for (views, database) in views {
            views.load(&server, &database).await?;
        }
        Ok(())
    }

    async fn check_all(&self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let mut results = Vec::new();
        for (database, _) in &self.databases {
            results.push(self.check_tables(database).await?);
        }
        checked(results, self.answers(queries).await?)
    }

    async fn check_tables(&self, database: &str) -> Result<CheckResult> {
        let server = self.server.server(&self.cx)?;
        let of_database = format!(
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE <> 'VIEW' AND TABLE_SCHEMA = {}",
            text(database)
        );
        let tables = server.column(&of_database).await?;
        let mut broken = Vec::new();
        for tables in tables.chunks(TABLES_A_CHECK) {
            let named: Vec<String> = tables.iter().map(|table| name(table)).collect();
            for row in server.rows_in(Some(database), &format!("CHECK TABLE {}", named.join(", "))).await? {
                let said = row.last().map(String::as_str).unwrap_or_default();
                if !SOUND.contains(&said) {
                    broken.push(row.join(" "));
                }
            }
        }
        let detail = match broken.is_empty() {
            true => format!("{} tables are sound", tables.len()),
            false => broken.join("; "),
        };
        Ok(CheckResult { check: format!("{TABLE_CHECK} {database}"), passed: broken.is_empty(), detail })
    }

    fn database_for(&self, wanted: &DrillQuery) -> String {
        let first = || self.databases.first().map(|(database, _)| database.clone()).unwrap_or_default();
        wanted.database.clone().unwrap_or_else(first)
    }

    /// The answer to one statement, which may only read. A TIMESTAMP is told in UTC, as it is
    /// judged: the zone of this host has no part in it.
    async fn read_only(&self, database: &str, sql: &str) -> Result<Result<Vec<Vec<String>>>> {
        let server = self.server.server(&self.cx)?;
        Ok(server.rows_in(Some(database), &format!("{QUERY_SESSION}{sql}")).await)
    }

    /// Whether a query that failed with `detail` is a typing error of the operator. A routine that
    /// it calls may fail in the same way; to prepare a query calls none.
    async fn is_typing_error(&self, wanted: &DrillQuery, detail: &str) -> Result<bool> {
        if !detail.contains(NO_SQL) {
            return Ok(false);
        }
        let prepare = format!("PREPARE lifeboat FROM {}", text(&wanted.sql));
        let prepared = self.read_only(&self.database_for(wanted), &prepare).await?;
        Ok(prepared.is_err_and(|error| error.chain().contains(NO_SQL)))
    }

    /// Runs queries of the operator.
    async fn answers(&self, queries: &[DrillQuery]) -> Result<Vec<QueryAnswer>> {
        let mut answers = Vec::new();
        for wanted in queries {
            let database = self.database_for(wanted);
            let check = format!("{database}: {}", wanted.sql);
            answers.push(match self.read_only(&database, &wanted.sql).await? {
                Err(error) => {
                    let detail = error.chain();
                    let is_typing_error = self.is_typing_error(wanted, &detail).await?;
                    Err(Unanswered {
                        check,
                        typing_error: is_typing_error.then(|| no_sql(&wanted.sql, &detail)),
                        detail,
                    })
                }
                Ok(_) if !wanted.wants_result() => Ok(CheckResult { check, passed: true, detail: "ran".to_owned() }),
                Ok(answer) => {
                    let first = answer.first().and_then(|row| row.first());
                    // Its client writes `NULL` itself.
                    let first = first.map_or(FirstValue::NoRow, |text| FirstValue::Text(text));
                    let (passed, detail) = wanted.judge_value(first);
                    Ok(CheckResult { check, passed, detail })
                }
            });
        }
        Ok(answers)
    }
}
