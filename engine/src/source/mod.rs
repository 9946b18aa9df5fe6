//! Sources: how a dataset is captured and loaded again. They know nothing of the vault.
//!
//! Contract of a capture: it opens each stream once, writes it in order and finishes it only after
//! the producing tool has ended with success and its end marker (where the format has one) was seen.
//! A stream that is dropped unfinished makes the commit refuse. Whatever fails, the error holds the
//! tail of the tool's stderr and never a secret; no child process survives the call, also when its future is
//! dropped.

mod command;
mod directory;
mod file;
pub(crate) mod pipes;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod sqlite;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::{PostgresConnection, SourceConfig};
use crate::error::{Error, Result};

/// What the source tells of a capture; goes into the manifest, so never a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// `postgres`, `sqlite`, `file`, `command`.
    pub engine: String,
    /// As the server tells it, such as `15.14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Tool name to version, such as `pg_dump` to `15.14`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, String>,
    /// What a restore needs to know: for `postgres` the bootstrap superuser, encoding and locale.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// What an operator should know of this capture, in plain words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a capture may use and must obey.
#[derive(Debug, Clone)]
pub struct CaptureContext {
    /// Private directory for temporary files; emptied by the caller.
    pub scratch: PathBuf,
    /// No byte for this long: the source is stopped and fails.
    pub stall: Duration,
    /// At most so many connections or tools at once, where a source can use several.
    pub jobs: usize,
    /// Fired: stop children and return an error soon.
    pub cancel: CancellationToken,
}

/// Takes the streams of one snapshot.
pub trait StreamSink: Send + Sync {
    /// Begins a stream. Names are unique in a snapshot, 1–200 bytes of UTF-8 without control characters, `/` allowed,
    /// such as `globals` or `database/shop`.
    ///
    /// # Errors
    /// A name that is taken or not allowed.
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>>;
}

/// Takes the bytes of one stream.
#[async_trait]
pub trait StreamWriter: Send {
    /// Room for the next bytes of the stream, at least for one; waits while the pipeline is full.
    async fn space(&mut self) -> Result<&mut [u8]>;

    /// So many bytes were put at the beginning of [`space`](Self::space): the stream is that much longer.
    async fn filled(&mut self, length: usize) -> Result<()>;

    /// Appends bytes that lie elsewhere.
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let space = self.space().await?;
            let part = data.split_to(data.len().min(space.len()));
            space[..part.len()].copy_from_slice(&part);
            self.filled(part.len()).await?;
        }
        Ok(())
    }

    /// The stream is complete. `exit` is the tool's exit status, 0 where no tool ran.
    async fn finish(self: Box<Self>, exit: i32) -> Result<()>;
}

/// Captures a dataset.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// Writes every stream of a consistent capture to `sink`. See the [module](self) for the contract.
    async fn capture(&self, sink: &dyn StreamSink, cx: &CaptureContext) -> Result<SourceFacts>;
}

/// Gives the streams of one stored snapshot.
#[async_trait]
pub trait StoredStreams: Send + Sync {
    /// In the order of capture.
    fn names(&self) -> Vec<String>;

    /// How long a stream is, in bytes, where that is known.
    fn length(&self, name: &str) -> Option<u64> {
        let _ = name;
        None
    }

    /// What the source told when it was captured.
    fn facts(&self) -> &SourceFacts;

    /// Begins to read a stream. May be called again.
    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>>;
}

/// Gives the bytes of one stream, in order.
#[async_trait]
pub trait StreamReader: Send {
    /// The next piece, `None` after the last. An error at the end where the whole stream's length or hash is wrong: a
    /// loader must not report success before it has seen `None`.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// The source that `config` describes.
#[must_use]
pub fn from_config(config: &SourceConfig) -> Box<dyn Source> {
    match config {
        SourceConfig::Postgres(config) => Box::new(postgres::capture::PostgresSource(config.clone())),
        SourceConfig::Sqlite { path } => Box::new(sqlite::SqliteSource { path: path.clone() }),
        SourceConfig::File { path } => Box::new(file::FileSource { path: path.clone() }),
        SourceConfig::Command(config) => Box::new(command::CommandSource(config.clone())),
    }
}

/// Where a snapshot is restored to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A PostgreSQL server. Each database of the snapshot is created there; roles that exist are kept.
    Postgres {
        /// How to connect, to a maintenance database where one is named.
        connection: PostgresConnection,
        /// Password, read by the caller.
        password: Option<crate::config::Secret>,
        /// Client directories to consider before the system's.
        client_directories: Vec<PathBuf>,
        /// Only these databases of the snapshot; empty: all.
        databases: Vec<String>,
        /// Restore one database under another name.
        rename: Option<String>,
        /// Also where a database of that name exists and is not empty: it is dropped first.
        overwrite: bool,
    },
    /// A directory: each stream becomes a file (`database/shop` becomes `database/shop`), written under a
    /// temporary name, checked, renamed.
    Directory {
        /// Created if missing; must be empty unless `overwrite`.
        path: PathBuf,
        /// Write into a directory that is not empty; existing files of the same names are replaced.
        overwrite: bool,
        /// Return only when the files are on stable storage. A file that replaces another always is.
        sync: bool,
    },
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreOutcome {
    /// Names of the databases or files that were written.
    pub written: Vec<String>,
    /// What an operator should know, in plain words.
    pub warnings: Vec<String>,
}

/// Loads `streams` into `target`; success only when every stream was read to its checked end and every tool ended with success.
///
/// # Errors
/// [`Class::Usage`](crate::Class::Usage) for a target that is not empty, [`Class::Source`](crate::Class::Source) for a failing tool.
pub async fn load(streams: &dyn StoredStreams, target: &Target, cx: &CaptureContext) -> Result<RestoreOutcome> {
    match target {
        Target::Directory { path, overwrite, sync } => directory::load(streams, path, *overwrite, *sync, cx).await,
        Target::Postgres { connection, password, client_directories, databases, rename, overwrite } => {
            if streams.facts().engine != "postgres" {
                return Err(Error::usage(format!(
                    "a snapshot of `{}` cannot be restored into PostgreSQL",
                    streams.facts().engine
                ))
                .hint("restore it into a directory"));
            }
            let wanted = postgres::load::Wanted { databases, rename: rename.as_deref(), overwrite: *overwrite };
            postgres::load::load(streams, connection, password.as_ref(), client_directories, &wanted, cx).await
        }
    }
}

/// The database of a PostgreSQL server that a stream is all or part of; `None` for streams of other kinds.
#[must_use]
pub fn database_of(stream: &str) -> Option<&str> {
    postgres::parts::Part::of_stream(stream).map(|(_, database)| database)
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

/// The database client tools on this machine, for `lifeboat check`.
pub async fn installed_tools(extra: &[&Path]) -> Vec<ToolFound> {
    let cx = CaptureContext {
        scratch: PathBuf::from("/nonexistent"),
        stall: Duration::from_secs(10),
        jobs: 1,
        cancel: CancellationToken::new(),
    };
    postgres::clients::tools(extra, &cx).await
}
