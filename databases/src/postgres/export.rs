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

/// A transaction that holds an exported snapshot.
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
        let name = conninfo(database);
        let arguments = ["-X", "-A", "-t", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-d", &name];
        let encoding = [("PGCLIENTENCODING", OsStr::new("UTF8"))];
        let mut session = server.tool("psql", arguments).envs(encoding).start(true)?;
        let failed = || format!("cannot export a snapshot of database {database}");
        let mut input = session.take_stdin().ok_or_else(|| Error::failed("psql takes no input"))?;
        input.write_all(script(tables, server.cx.stall / 2).as_bytes()).await.context(Class::Source, failed)?;
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') {
            match session.read().await.map_err(|error| error.within(failed()))? {
                Some(piece) => answer.extend_from_slice(&piece),
                None => {
                    let error = session.finish(0).await.err();
                    let error = error.unwrap_or_else(|| Error::source_failed("psql ended without an answer"));
                    return Err(error.within(failed()).hint("set jobs = 1 to dump the database over one connection"));
                }
            }
        }
        let id = String::from_utf8_lossy(&answer).trim().to_owned();
        Ok(Self { id, session, input })
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

/// Locks come first, since the snapshot must not be older than they are. The server stops waiting
/// for them before we do: a session whose client is gone would go on waiting, and keep its locks.
fn script(tables: &[Table], patience: Duration) -> String {
    // A server that does not know a limit has none.
    let mut script = format!(
        "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', \
         'idle_in_transaction_session_timeout', 'transaction_timeout') \\g /dev/null\n\
         SET lock_timeout = {};\n\
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n",
        patience.as_millis()
    );
    for table in tables {
        script.push_str(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE;\n", table.name.quoted()));
    }
    script.push_str("SELECT pg_export_snapshot();\n");
    script
}
