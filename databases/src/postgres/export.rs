//! An exported snapshot lets several connections see one state of a database (PostgreSQL manual,
//! "Snapshot Synchronization Functions").
//!
//! As `pg_dump --jobs` does, the session that exports it first locks the tables whose dumps will
//! begin later, so that nobody drops, empties or alters them meanwhile. Locks and snapshot last
//! until [`ExportedSnapshot::end`], or until the [`ExportedSnapshot`] is dropped.

use std::ffi::OsStr;
use std::time::Duration;

use lifeboat_base::{Class, Context, Error, Result};

use super::parts::Table;
use super::server::Server;
use super::sql::conninfo;
use crate::tool::pipes::Filler;
use crate::tool::process::Tool;

/// A transaction that holds an exported snapshot and the locks.
pub(crate) struct ExportedSnapshot {
    id: String,
    session: Tool,
    input: Filler,
}

impl ExportedSnapshot {
    /// Exports a snapshot, after waiting for each lock for at most half of `cx.stall`.
    ///
    /// # Errors
    /// A table is gone, may not be read, or stays locked.
    pub(crate) async fn take(server: &Server<'_>, database: &str, tables: &[Table]) -> Result<Self> {
        let exported = async { LockedTables::lock(server, database, tables).await?.export().await };
        exported.await.map_err(|error| match error.hint_text() {
            Some(_) => error,
            None => error.hint("set jobs = 1 to dump the database over one connection"),
        })
    }

    /// The argument of `pg_dump --snapshot`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Releases the snapshot and the locks.
    ///
    /// # Errors
    /// The session was gone already, so tables may not have been locked to the end.
    pub(crate) async fn end(mut self) -> Result<()> {
        let committed = self.input.write_all(b"COMMIT;\n").await;
        drop(self.input);
        let ended = self
            .session
            .finish(0)
            .await
            .map(drop)
            .and_then(|()| committed.context(Class::Source, || "psql takes no input"));
        ended.map_err(|error| error.within("the session that held the exported snapshot was lost"))
    }
}

/// A transaction that has its locks, and no snapshot yet.
pub(crate) struct LockedTables {
    database: String,
    session: Tool,
    input: Filler,
}

impl LockedTables {
    /// Locks the tables, waiting for each for at most half of `cx.stall`, and not much longer for
    /// all.
    ///
    /// # Errors
    /// A table is gone, may not be read, or stays locked.
    pub(crate) async fn lock(server: &Server<'_>, database: &str, tables: &[Table]) -> Result<Self> {
        let name = conninfo(database);
        let arguments = ["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-d", &name];
        let encoding = [("PGCLIENTENCODING", OsStr::new("UTF8"))];
        let mut session = server.tool("psql", arguments).envs(encoding).start(true)?;
        let input = session.take_stdin().ok_or_else(|| Error::failed("psql takes no input"))?;
        let mut locked = Self { database: database.to_owned(), session, input };
        locked.ask(&script(tables, server.cx.stall / 2)).await?;
        Ok(locked)
    }

    /// Exports a snapshot: what the transaction sees, from now on.
    ///
    /// # Errors
    /// The server refuses, or the session is lost.
    pub(crate) async fn export(mut self) -> Result<ExportedSnapshot> {
        let id = self.ask("SELECT pg_export_snapshot();\n").await?;
        Ok(ExportedSnapshot { id, session: self.session, input: self.input })
    }

    /// Sends statements, and waits for the one line that they answer.
    async fn ask(&mut self, statements: &str) -> Result<String> {
        let failed = format!("cannot export a snapshot of database {}", self.database);
        self.input.write_all(statements.as_bytes()).await.context(Class::Source, || failed.clone())?;
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') {
            match self.session.read().await.map_err(|error| error.within(failed.clone()))? {
                Some(piece) => answer.extend_from_slice(&piece),
                None => {
                    let error = self.session.finish(0).await.err();
                    let error = error.unwrap_or_else(|| Error::source_failed("psql ended without an answer"));
                    return Err(error.within(failed));
                }
            }
        }
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    }
}

/// Locks come first, since the snapshot must not be older than they are. The server stops waiting
/// for them before we do, for one and for all of them: a session whose client is gone would go on
/// waiting, and keep its locks.
fn script(tables: &[Table], patience: Duration) -> String {
    // A server that does not know a limit has none.
    let mut script = format!(
        "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', \
         'idle_in_transaction_session_timeout', 'transaction_timeout') \\g /dev/null\n\
         SET lock_timeout = {};\n\
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n",
        patience.as_millis()
    );
    if !tables.is_empty() {
        let names: Vec<String> = tables.iter().map(|table| format!("ONLY {}", table.name.quoted())).collect();
        script.push_str(&format!(
            "SET statement_timeout = {};\nLOCK TABLE {} IN ACCESS SHARE MODE;\nSET statement_timeout = 0;\n",
            (patience + patience / 2).as_millis(),
            names.join(", ")
        ));
    }
    script.push_str("\\echo locked\n");
    script
}
