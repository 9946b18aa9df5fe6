//! Drills of PostgreSQL snapshots: a throw-away server loads, checks and proves them.

mod column_names;
mod digest;
mod lexer;
mod listing;
mod nested;
mod normal;
mod prove;
mod render;
mod row_hash;
mod server;
mod settle;

use std::path::PathBuf;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Error, Result};
use tokio::sync::mpsc;

use self::server::ThrowAwayServer;
use super::clients::major_of;
use super::connect::Connection;
use super::globals::{GLOBALS, Globals, read_globals};
use super::parts::by_database;
use super::query::query_with_nulls;
use super::sql::{conninfo, rows};
use crate::database::{ServerAddress, ThrowAway, WorkContext};
use crate::listing::{ListedItem, Listing};
use crate::proof::{
    CheckResult, DrillQuery, FirstValue, ProofResult, QueryAnswer, Unanswered, answered, checked, no_sql,
};
use crate::streams::StoredStreams;
use crate::tool::process::output;

/// Event triggers that fire in a session of a replica: how they are enabled, and their names.
const STUBBORN: &str =
    "SELECT evtenabled::text || format('%I', evtname) FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')";

/// Stands for NULL in what a query of the operator gives. No application writes it.
const NO_VALUE: &str = "\u{1}NULL\u{1}";

/// A throw-away server with a snapshot in it.
pub(crate) struct PostgresThrowAway {
    server: ThrowAwayServer,
    databases: Vec<String>,
    cx: WorkContext,
}

/// Starts a throw-away server of the version that the snapshot was taken from.
pub(super) async fn start(facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<PostgresThrowAway> {
    let major = major_in(facts)?;
    let server = ThrowAwayServer::start(major, &facts.details, directories, cx).await?;
    Ok(PostgresThrowAway { server, databases: Vec::new(), cx: cx.clone() })
}

/// Whether the programs for [`start`] are installed.
pub(super) async fn has_programs(facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<()> {
    server::programs(major_in(facts)?, directories, cx).await.map(drop)
}

fn major_in(facts: &SourceFacts) -> Result<u32> {
    let major = facts.server_version.as_deref().and_then(major_of);
    major.ok_or_else(|| Error::integrity("the snapshot does not name its PostgreSQL version"))
}

#[async_trait]
impl ThrowAway for PostgresThrowAway {
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
        let proof = prove::prove(&self.server, &self.databases, streams, &self.cx).await;
        self.server.unless_ended(proof).await
    }

    async fn list(&mut self, listing: &Listing, to: mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
        let Listing::Values { database, sql } = listing else {
            return Err(Error::usage("a PostgreSQL server holds no tree of files"));
        };
        let query = DrillQuery { database: database.clone(), sql: sql.clone(), ..DrillQuery::default() };
        self.list_values(&query, to).await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        self.server.stop().await
    }
}

impl PostgresThrowAway {
    async fn load_all(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        let server = self.server.server(&self.cx)?;
        let names = streams.names();
        let databases = by_database(&names)?;
        if names.iter().any(|name| name == GLOBALS) {
            let globals = Globals::parse(&read_globals(streams).await?)?;
            // What is missing is found by the proof.
            for warning in server.restore_globals(&globals, true).await? {
                tracing::warn!(warning, "roles and other globals");
            }
        }
        for (database, parts) in databases {
            if database == "postgres" {
                // Every new cluster has one already.
                server.query_in("template1", "DROP DATABASE postgres").await?;
            }
            server.restore_whole_database(streams, &database, &parts).await?;
            self.databases.push(database);
        }
        if self.databases.is_empty() {
            return Err(Error::integrity("the snapshot holds no database"));
        }
        Ok(())
    }

    async fn check_all(&self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let mut results = Vec::new();
        for database in &self.databases {
            results.push(self.amcheck(database).await?);
        }
        checked(results, self.answers(queries).await?)
    }

    /// Runs `pg_amcheck` on one database. Its extension is removed again, as the proof would find a
    /// difference.
    async fn amcheck(&self, database: &str) -> Result<CheckResult> {
        let mut server = self.server.server(&self.cx)?;
        // The extension is ours: event triggers of the database must not see it come and go.
        let quiet = if server.clients.major >= 17 { "event_triggers=off" } else { "session_replication_role=replica" };
        server.connection = server.connection.and_setting(&format!("-c {quiet}"));
        // Before 17, some fire all the same.
        let fires =
            if server.clients.major >= 17 { String::new() } else { server.query_in(database, STUBBORN).await? };
        let fires = rows(&fires);
        for trigger in fires.iter().filter_map(|row| row.strip_prefix(['A', 'R'])) {
            server.query_in(database, &format!("ALTER EVENT TRIGGER {trigger} DISABLE")).await?;
        }
        let there = "SELECT 1 FROM pg_extension WHERE extname = 'amcheck'";
        let had_it = !rows(&server.query_in(database, there).await?).is_empty();
        let jobs = format!("--jobs={}", self.cx.jobs);
        let tool = server.tool("pg_amcheck", ["--no-password", "--install-missing", &jobs, &conninfo(database)]);
        let tool = tool.envs([("PGCLIENTENCODING", std::ffi::OsStr::new("UTF8"))]);
        let checked = output(tool).await;
        if !had_it {
            server.query_in(database, "DROP EXTENSION IF EXISTS amcheck").await?;
        }
        for trigger in &fires {
            let (how, trigger) = trigger.split_at(1);
            let how = if how == "A" { "ALWAYS" } else { "REPLICA" };
            server.query_in(database, &format!("ALTER EVENT TRIGGER {trigger} ENABLE {how}")).await?;
        }
        let check = format!("pg_amcheck {database}");
        Ok(match checked {
            Ok(_) => CheckResult { check, passed: true, detail: "heap and indexes are sound".to_owned() },
            Err(error) => CheckResult { check, passed: false, detail: error.chain() },
        })
    }

    fn database_of(&self, wanted: &DrillQuery) -> String {
        match (&wanted.database, self.databases.as_slice()) {
            (Some(database), _) => database.clone(),
            (None, [only]) => only.clone(),
            (None, several) => several.iter().find(|name| *name != "postgres").cloned().unwrap_or_default(),
        }
    }

    /// The answer to one statement, which may only read.
    async fn read_only(&self, database: &str, sql: &str) -> Result<Result<String>> {
        let connection = Connection::new(&self.server.connection(), None, &self.cx)?
            .with_settings("-c default_transaction_read_only=on");
        Ok(query_with_nulls(&self.server.clients, &connection, database, sql, NO_VALUE, &self.cx).await)
    }

    /// Whether a query that failed with `detail` is a typing error of the operator. A function that
    /// it calls may fail in the same way, and then data is lost; to prepare a query calls none.
    async fn is_no_sql(&self, wanted: &DrillQuery, detail: &str) -> Result<bool> {
        const SYNTAX: &str = "syntax error";
        if !detail.contains(SYNTAX) {
            return Ok(false);
        }
        let prepare = format!("PREPARE lifeboat AS {}", wanted.sql);
        let prepared = self.read_only(&self.database_of(wanted), &prepare).await?;
        Ok(prepared.is_err_and(|error| error.chain().contains(SYNTAX)))
    }

    /// Runs queries of the operator, read-only.
    async fn answers(&self, queries: &[DrillQuery]) -> Result<Vec<QueryAnswer>> {
        let mut answers = Vec::new();
        for wanted in queries {
            let database = self.database_of(wanted);
            let check = format!("{database}: {}", wanted.sql);
            answers.push(match self.read_only(&database, &wanted.sql).await? {
                Err(error) => {
                    let detail = error.chain();
                    let typing_error = self.is_no_sql(wanted, &detail).await?.then(|| no_sql(&wanted.sql, &detail));
                    Err(Unanswered { check, detail, typing_error })
                }
                Ok(_) if !wanted.wants_result() => Ok(CheckResult { check, passed: true, detail: "ran".to_owned() }),
                Ok(answer) => {
                    let (passed, detail) = wanted.judge_value(first_value(&answer));
                    Ok(CheckResult { check, passed, detail })
                }
            });
        }
        Ok(answers)
    }
}

/// The first column of the first row of an answer. Each row ends with NUL.
fn first_value(answer: &str) -> FirstValue<'_> {
    match answer.split(['\0', '\u{1f}']).next().unwrap_or_default() {
        _ if answer.is_empty() => FirstValue::NoRow,
        NO_VALUE => FirstValue::Null,
        text => FirstValue::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_no_value_and_no_text_are_not_the_same() {
        assert_eq!(first_value(""), FirstValue::NoRow);
        assert_eq!(first_value("\u{1}NULL\u{1}\0"), FirstValue::Null);
        assert_eq!(first_value("\0"), FirstValue::Text(""));
        assert_eq!(first_value("NULL\0"), FirstValue::Text("NULL"));
        assert_eq!(first_value("a\u{1f}b\0c\u{1f}d\0"), FirstValue::Text("a"));
    }
}
