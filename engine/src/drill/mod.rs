//! Throw-away databases: load a snapshot, check it, prove it equal, leave nothing behind.
//!
//! A throw-away server runs in a private directory below the given scratch, listens on a unix socket only, runs as
//! an unprivileged user even when started as root, and is stopped and removed by `stop`, on drop, on
//! cancellation and on SIGINT alike.

mod multiset;
mod postgres;
mod sqlite;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::config::{DrillConfig, DrillQuery, PostgresConnection};
use crate::error::{Error, Result};
use crate::source::{CaptureContext, SourceFacts, StoredStreams};

/// One check and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Such as `pg_amcheck` or the operator's SQL.
    pub check: String,
    /// Whether it passed.
    pub passed: bool,
    /// What it said, one line.
    pub detail: String,
}

/// What was compared to call a restored database equal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofResult {
    /// Schema definitions compared as text.
    pub definitions: u64,
    /// Tables compared as multisets of rows.
    pub tables: u64,
    /// Rows in them.
    pub rows: u64,
    /// Large objects compared.
    pub large_objects: u64,
    /// What differs, in plain words; empty: equal. At most 50, then a count.
    pub differences: Vec<String>,
}

impl ProofResult {
    /// Whether something was compared and nothing differs.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.definitions + self.tables > 0
    }
}

/// A throw-away database of one engine.
#[async_trait]
pub trait ThrowAway: Send {
    /// Its version, as it tells it.
    fn server_version(&self) -> &str;

    /// How to reach it, where it is a server.
    fn connection(&self) -> Option<PostgresConnection>;

    /// Loads the snapshot with no error tolerated.
    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()>;

    /// Engine checks and `queries`.
    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>>;

    /// Dumps the restored database again and compares it with the snapshot.
    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult>;

    /// Stops the server and removes its files.
    async fn stop(self: Box<Self>) -> Result<()>;
}

/// Starts a throw-away database of the engine and version in `facts`, below `cx.scratch`.
///
/// `Ok(None)` where the engine has none (`command`): such a snapshot can be drilled to `fetched` only.
///
/// # Errors
/// [`Class::Source`](crate::Class::Source) where no server binaries of the right version are installed, with the package to install.
pub async fn start(
    facts: &SourceFacts,
    drill: &DrillConfig,
    cx: &CaptureContext,
) -> Result<Option<Box<dyn ThrowAway>>> {
    match facts.engine.as_str() {
        "postgres" => Ok(Some(Box::new(postgres::start(facts, drill, cx).await?))),
        "sqlite" => Ok(Some(Box::new(sqlite::SqliteThrowAway::new(cx)?))),
        "file" | "command" => Ok(None),
        other => Err(Error::integrity(format!("the snapshot is of an unknown engine `{other}`"))
            .hint("use the version of Lifeboat that wrote it, or a newer one")),
    }
}
