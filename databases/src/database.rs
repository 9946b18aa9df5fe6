//! The contract of an engine: what Lifeboat asks of each kind of database.
//!
//! A capture may later also *follow* its source: run on, and commit parts as it goes (the WAL of a
//! server, a binary log). That will be a second method of [`Source`], which takes a sink of parts
//! instead of a [`StreamSink`]: a part is complete when the method says so, and carries the
//! position in the source's log at which it ends. Engines that cannot follow do not implement it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::Secret;
use lifeboat_base::settings::{Section, SettingsReader};
use lifeboat_base::{Error, Result};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::proof::{CheckResult, DrillQuery, ProofLevel, ProofResult};
use crate::streams::{StoredStreams, StreamSink};
use crate::tool::environment::ToolEnvironment;

/// What work with a database may use and must obey.
#[derive(Debug, Clone)]
pub struct WorkContext {
    /// Private directory for temporary files; emptied by the caller.
    pub scratch: PathBuf,
    /// No byte for this long: the tool is stopped and the work fails.
    pub stall: Duration,
    /// At most so many connections or tools at once, where an engine can use several.
    pub jobs: usize,
    /// What client tools inherit of the program's environment.
    pub environment: ToolEnvironment,
    /// Fired: stop children and return an error soon.
    pub cancel: CancellationToken,
}

/// One kind of database. Registered once, in [`crate::registry`].
#[async_trait]
pub trait Database: fmt::Debug + Send + Sync {
    /// Its word: `kind = "…"` in the configuration, `engine` in manifests and reports.
    fn kind(&self) -> &'static str;

    /// The keys of its `[dataset.source]` table, beside `kind`.
    fn keys(&self) -> &'static [&'static str];

    /// Validates its `[dataset.source]` table. `None` where something of it cannot be used: what,
    /// is in the reader's findings.
    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>>;

    /// The highest level that a drill of it can reach.
    fn highest_level(&self) -> ProofLevel;

    /// The file that a stream becomes where a snapshot is restored into a directory: what the tools
    /// of this engine expect. A relative path.
    fn file_of(&self, stream: &str) -> String {
        stream.to_owned()
    }

    /// Which database of the server a stream is all or part of; `None` where that is not the
    /// question.
    fn database_of<'s>(&self, stream: &'s str) -> Option<&'s str> {
        let _ = stream;
        None
    }

    /// How an operator writes the address of a server to restore into; `None`: there are no such
    /// servers.
    fn address_form(&self) -> Option<&'static str> {
        None
    }

    /// The server at `address`. What of `source` also holds for a restore, such as where its client
    /// tools are, is taken from there.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage): not an address, or one that holds a password.
    fn server(
        &self,
        address: &str,
        password: Option<Secret>,
        source: Option<&dyn Source>,
    ) -> Result<Box<dyn ServerTarget>> {
        let _ = (address, password, source);
        Err(Error::usage(format!("a snapshot of kind {} cannot be restored into a server", self.kind()))
            .hint("restore it with --to-directory"))
    }

    /// Starts a throw-away database of the version in `facts`, below `cx.scratch`. Programs of
    /// servers are looked for in `directories` first. `Ok(None)` where the engine has none: such a
    /// snapshot can be drilled to `fetched` only.
    ///
    /// # Errors
    /// [`Class::Source`](lifeboat_base::Class::Source) where no server programs of the right
    /// version are installed, with the package to install.
    async fn throw_away(
        &self,
        facts: &SourceFacts,
        directories: &[PathBuf],
        cx: &WorkContext,
    ) -> Result<Option<Box<dyn ThrowAway>>> {
        let _ = (facts, directories, cx);
        Ok(None)
    }

    /// The client tool that a capture cannot do without; `None` where none is needed.
    fn client_tool(&self) -> Option<ClientTool> {
        None
    }

    /// The client tools on this machine, those in `directories` first.
    async fn client_tools(&self, directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
        let _ = (directories, cx);
        Vec::new()
    }

    /// Variables that its client tools inherit from the program's environment, beside `PATH` and
    /// `HOME`.
    fn inherited_variables(&self) -> &'static [&'static str] {
        &[]
    }
}

/// What a dataset captures: the validated `[dataset.source]` table of an engine.
///
/// Contract of a capture: it opens each stream once, writes it in order and finishes it only after
/// the producing tool has ended with success and its end marker (where the format has one) was
/// seen. A stream that is dropped unfinished makes the commit refuse. Whatever fails, the error
/// holds the tail of the tool's stderr and never a secret. No child process survives the call, also
/// when its future is dropped.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Its engine.
    fn database(&self) -> &'static dyn Database;

    /// Writes every stream of a consistent capture to `sink`. See [above](Self) for the contract.
    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts>;

    /// Where client tools are looked for before the system's.
    fn client_directories(&self) -> &[PathBuf] {
        &[]
    }
}

/// Which databases of a snapshot are restored into a server, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only these databases of the snapshot; empty: all.
    pub databases: Vec<String>,
    /// Restore one database under another name.
    pub rename: Option<String>,
    /// Also where a database of that name exists and is not empty: it is dropped first.
    pub overwrite: bool,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreOutcome {
    /// Names of the databases or files that were written.
    pub written: Vec<String>,
    /// What an operator should know, in plain words.
    pub warnings: Vec<String>,
}

/// A server to restore into.
#[async_trait]
pub trait ServerTarget: fmt::Debug + Send + Sync {
    /// Its engine.
    fn database(&self) -> &'static dyn Database;

    /// Where it is, for people; no secret.
    fn describe(&self) -> String;

    /// Loads a snapshot of its engine. Success only when every stream was read to its checked end
    /// and every tool ended with success. What exists is kept unless `wanted.overwrite`.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage) for a target that is not empty,
    /// [`Class::Source`](lifeboat_base::Class::Source) for a failing tool.
    async fn load(&self, streams: &dyn StoredStreams, wanted: &Wanted, cx: &WorkContext) -> Result<RestoreOutcome>;
}

/// A throw-away database: load a snapshot, check it, prove it equal, leave nothing behind.
///
/// A throw-away server runs in a private directory below the given scratch, listens on a unix
/// socket only, runs as an unprivileged user even when started as root, and is stopped and removed
/// by [`stop`](Self::stop), on drop, on cancellation and on SIGINT alike.
#[async_trait]
pub trait ThrowAway: Send {
    /// Its version, as it tells it.
    fn server_version(&self) -> &str;

    /// How to reach it by hand, where it is a server.
    fn address(&self) -> Option<ServerAddress> {
        None
    }

    /// Loads the snapshot with no error tolerated.
    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()>;

    /// Engine checks and `queries`.
    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>>;

    /// Dumps the restored database again and compares it with the snapshot.
    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult>;

    /// Stops the server and removes its files.
    async fn stop(self: Box<Self>) -> Result<()>;
}

/// Where a throw-away server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Directory of its unix socket.
    pub socket_directory: PathBuf,
    /// Its superuser.
    pub user: String,
}

/// A client tool that an engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTool {
    /// Such as `pg_dump`.
    pub tool: &'static str,
    /// How to get it.
    pub remedy: &'static str,
}

/// A client tool found on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolFound {
    /// Such as `pg_dump`.
    pub tool: String,
    /// Its version.
    pub version: String,
    /// Its path.
    pub path: PathBuf,
}

impl ToolFound {
    /// The tool `name` of `version` in `directory`.
    #[must_use]
    pub fn new(name: &str, version: impl Into<String>, directory: &Path) -> Self {
        Self { tool: name.to_owned(), version: version.into(), path: directory.join(name) }
    }
}
