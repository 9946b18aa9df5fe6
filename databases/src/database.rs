//! The contract of an engine: what Lifeboat asks of each kind of database.
//!
//! A capture may later also *follow* its source: keep running, and commit parts of a log as it
//! goes, such as a server's WAL. That will be a second method of [`Source`]. It will take a sink of
//! parts instead of a [`StreamSink`]: the engine says when a part is complete, and at which
//! position of the log it ends. Engines that cannot follow will not implement it.

mod found;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::secret::Secret;
use lifeboat_base::settings::{Section, SettingsReader};
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::found::{FoundHere, FoundSource, Look, NewAccount};
use crate::listing::{ListedItem, Listing};
use crate::passing::PassingMarks;
use crate::proof::{CheckResult, DrillQuery, PartsToProve, ProofLevel, ProofResult, VERIFY_CHECK};
use crate::rows::{self, RowSink};
use crate::streams::{StoredStreams, StreamReader, StreamSink};
use crate::tool::environment::ToolEnvironment;
use crate::wanted::{Portion, PortionOutcome, RestoreOutcome, TreeWanted, Wanted};

/// What work with a database may use and must obey.
#[derive(Debug, Clone)]
pub struct WorkContext {
    /// A private directory for temporary files. The caller empties it.
    pub scratch: PathBuf,
    /// If a tool gives no byte for this long, it is stopped and the work fails.
    pub stall: Duration,
    /// The number of connections or tools at once, where an engine can use several.
    pub jobs: usize,
    /// What client tools inherit from the program's environment.
    pub environment: ToolEnvironment,
    /// When it fires, children are stopped and an error is returned soon.
    pub cancel: CancellationToken,
}

impl WorkContext {
    /// The same for what runs to its end although the work is cancelled, or because it is: a tool
    /// that is killed while a server makes or drops something leaves unknown whether it is there.
    #[must_use]
    pub fn to_the_end(&self) -> Self {
        Self { cancel: CancellationToken::new(), ..self.clone() }
    }
}

/// One kind of database. [`crate::registry`] lists them all.
#[async_trait]
pub trait Database: fmt::Debug + Send + Sync {
    /// Its name: `kind = "…"` in the configuration, `engine` in manifests and reports.
    fn kind(&self) -> &'static str;

    /// The keys of its `[dataset.source]` table, beside `kind`.
    fn keys(&self) -> &'static [&'static str];

    /// Validates its `[dataset.source]` table. `None` if the table cannot be used; the reader's
    /// findings say why.
    fn source(&self, section: Section<'_>, reader: &mut SettingsReader<'_>) -> Option<Box<dyn Source>>;

    /// The highest level that a drill of it can reach, without commands of the operator.
    fn highest_level(&self) -> ProofLevel;

    /// How many bytes of disk a drill to `level` is forecast to take, of a snapshot whose streams
    /// have so many `bytes`. It refuses drills, so it is nearer to the least than to the most: a
    /// disk that becomes full all the same is told.
    fn drill_disk(&self, bytes: u64, level: ProofLevel) -> u64 {
        let _ = level;
        bytes
    }

    /// Whether only the operator understands its snapshots, so that a drill restores and judges
    /// them by commands: see [`DrillCommands`](crate::DrillCommands).
    fn takes_commands(&self) -> bool {
        false
    }

    /// The names of the engine's own checks. A check of one database has a name and, after a blank,
    /// the database's.
    fn checks(&self) -> &'static [&'static str] {
        if self.takes_commands() { &[VERIFY_CHECK] } else { &[] }
    }

    /// The file that a stream becomes when a snapshot is restored into a directory: a relative
    /// path, named as the tools of this engine expect.
    fn file_of(&self, stream: &str) -> String {
        stream.to_owned()
    }

    /// What an operator calls a stream together with others that go on with it, in the order of
    /// capture; the stream's own name if it stands alone.
    fn whole_of<'a>(&self, stream: &'a str) -> &'a str {
        stream
    }

    /// Whether its snapshots are trees of files, which [`Self::load_tree`] restores.
    fn is_tree(&self) -> bool {
        false
    }

    /// Whether its throw-away databases list the values of a query ([`Listing::Values`]).
    fn lists_values(&self) -> bool {
        false
    }

    /// Restores a snapshot that is a tree below `path`, which is made if it is missing, and must be
    /// empty. It succeeds only if the stream was read to its checked end, and then all is on stable
    /// storage.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage): `path` is not empty, the snapshot lacks a
    /// wanted path, or is no tree. [`Class::Source`](lifeboat_base::Class::Source): it cannot be
    /// written.
    async fn load_tree(
        &self,
        streams: &dyn StoredStreams,
        path: &Path,
        wanted: &TreeWanted,
        cx: &WorkContext,
    ) -> Result<RestoreOutcome> {
        let _ = (streams, path, wanted, cx);
        Err(Error::usage(format!("a snapshot of kind {} is no tree of files", self.kind()))
            .hint("leave out --path, --with-owners and --with-special"))
    }

    /// The database of the server whose content, or part of it, a stream holds. `None` if a stream
    /// does not belong to one database.
    fn database_of(&self, stream: &str) -> Option<String> {
        let _ = stream;
        None
    }

    /// Which of the databases of a snapshot is meant where nobody names one; `None`: several could
    /// be.
    fn database_meant<'a>(&self, databases: &'a BTreeSet<String>) -> Option<&'a str> {
        let mut databases = databases.iter();
        databases.next().filter(|_| databases.next().is_none()).map(String::as_str)
    }

    /// What of a snapshot with these streams can be proved without the rest. `None`: it is one
    /// part.
    fn parts_to_prove(&self, streams: &[String]) -> Option<PartsToProve> {
        let _ = streams;
        None
    }

    /// Whether a detail of a source only tells of the moment of its capture, such as a position in
    /// a log, so that two snapshots with the same streams may differ in it.
    fn is_of_the_moment(&self, detail: &str) -> bool {
        let _ = detail;
        false
    }

    /// Which of the `unchanged` streams of a database need not be restored with its others, as what
    /// they hold can be proved without them. `of_one` are all its streams.
    ///
    /// # Errors
    /// Those of the streams.
    async fn proved_apart(
        &self,
        streams: &dyn StoredStreams,
        of_one: &[String],
        unchanged: &BTreeSet<&str>,
    ) -> Result<Vec<String>> {
        let _ = (streams, of_one, unchanged);
        Ok(Vec::new())
    }

    /// What at the edges of a stream only tells of the moment of its capture. `None`: nothing does.
    fn passing_marks(&self, stream: &str, facts: &SourceFacts) -> Option<PassingMarks> {
        let _ = (stream, facts);
        None
    }

    /// Whether a load of `wanted` reads a stream to its end.
    fn reads(&self, stream: &str, wanted: &Wanted) -> bool {
        let among = |name: &String| wanted.databases.is_empty() || wanted.databases.contains(name);
        !wanted.is_part() && self.database_of(stream).as_ref().is_some_and(among)
    }

    /// Whether [`Wanted::tables`] and [`Wanted::schema_only`] can be asked for.
    fn has_tables(&self) -> bool {
        false
    }

    /// Writes a portion of one database to `out`, and flushes it. `database` names the database if
    /// the snapshot has several. It succeeds only if all of it was there and checked: what was
    /// written before an error must not be used.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage): the snapshot has no such table or database,
    /// or the engine gives no portions. [`Class::Storage`](lifeboat_base::Class::Storage): `out`
    /// cannot be written to.
    async fn give(
        &self,
        streams: &dyn StoredStreams,
        database: Option<&str>,
        portion: &Portion,
        out: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<PortionOutcome> {
        let _ = (streams, database, portion, out);
        Err(Error::usage(format!("a snapshot of kind {} is given as a whole", self.kind()))
            .hint("leave out --table and --schema-only"))
    }

    /// Whether a stream is made of rows, which [`Self::rows`] gives.
    fn has_rows(&self, stream: &str) -> bool {
        let _ = stream;
        false
    }

    /// Gives the rows of a stream that has some to `sink`, and reads it to its checked end. A row
    /// is a line of the stream, unless the engine says otherwise.
    ///
    /// # Errors
    /// Those of the stream, or of `sink`.
    async fn rows(&self, stream: &str, mut reader: Box<dyn StreamReader>, sink: &mut dyn RowSink) -> Result<()> {
        sink.table(stream)?;
        rows::lines(reader.as_mut(), sink).await
    }

    /// How an operator writes the address of a server to restore into; `None` if there are no such
    /// servers.
    fn address_form(&self) -> Option<&'static str> {
        None
    }

    /// The server at `address`. Client tools are looked for in `client_directories` first.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage): `address` is not an address, or holds a
    /// password.
    fn server(
        &self,
        address: &str,
        password: Option<Secret>,
        client_directories: &[PathBuf],
    ) -> Result<Box<dyn ServerTarget>> {
        let _ = (address, password, client_directories);
        Err(Error::usage(format!("a snapshot of kind {} cannot be restored into a server", self.kind()))
            .hint("restore it with --to-directory"))
    }

    /// Starts a throw-away database of the version in `facts`, below `cx.scratch`. Server programs
    /// are looked for in `directories` first. `Ok(None)` if the engine has no throw-away databases:
    /// its snapshots can be drilled to `fetched` only.
    ///
    /// # Errors
    /// [`Class::Source`](lifeboat_base::Class::Source) if no server programs of the right version
    /// are installed. The hint names the package to install.
    async fn throw_away(
        &self,
        facts: &SourceFacts,
        directories: &[PathBuf],
        cx: &WorkContext,
    ) -> Result<Option<Box<dyn ThrowAway>>> {
        let _ = (facts, directories, cx);
        Ok(None)
    }

    /// The client tool that a capture needs; `None` if it needs none.
    fn client_tool(&self) -> Option<ClientTool> {
        None
    }

    /// Whether a throw-away database of the version in `facts` could start here. Nothing is
    /// started.
    ///
    /// # Errors
    /// As [`Self::throw_away`].
    async fn has_server_programs(&self, facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Result<()> {
        let _ = (facts, directories, cx);
        Ok(())
    }

    /// The client tools on this machine. Those in `directories` come first.
    async fn client_tools(&self, directories: &[PathBuf], cx: &WorkContext) -> Vec<ToolFound> {
        let _ = (directories, cx);
        Vec::new()
    }

    /// Databases of this engine on this machine, where they usually are and in `look.places`, and
    /// what may be one and does not answer. It changes nothing, and reads no data.
    async fn find_here(&self, look: &Look, cx: &WorkContext) -> FoundHere {
        let _ = (look, cx);
        FoundHere::default()
    }

    /// The database at an address that an operator wrote. It need not be there.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage): it is no address of this engine.
    fn source_at(&self, address: &str, look: &Look) -> Result<FoundSource> {
        let _ = (address, look);
        Err(Error::usage(format!("a source of kind {} has no address that a flag could name", self.kind()))
            .hint("write its [[dataset]] into the configuration, as lifeboat.toml.example shows"))
    }

    /// Runs the statements of [`FoundSource::account`] as whoever administers the server. They may
    /// be run again.
    ///
    /// # Errors
    /// [`Class::Source`](lifeboat_base::Class::Source): the server refuses.
    async fn make_account(&self, found: &FoundSource, cx: &WorkContext) -> Result<()> {
        let _ = (found, cx);
        Ok(())
    }

    /// The variables that its client tools inherit from the program's environment, beside `PATH`
    /// and `HOME`.
    fn inherited_variables(&self) -> &'static [&'static str] {
        &[]
    }
}

/// What [`Source::check`] found.
#[derive(Debug, Default)]
pub struct SourceCheck {
    /// What makes a capture fail, or leaves out what it should hold. Each error has its hint.
    pub broken: Vec<Error>,
    /// What a capture lives with, in plain words, with the one thing to do.
    pub weak: Vec<String>,
    /// How many bytes a capture needs in the state directory for a while.
    pub scratch_bytes: u64,
}

impl SourceCheck {
    /// One thing that is broken.
    #[must_use]
    pub fn of(error: Error) -> Self {
        Self { broken: vec![error], ..Self::default() }
    }
}

/// What a dataset captures: the validated `[dataset.source]` table of an engine.
///
/// A capture opens each stream once, and writes it in order. It finishes a stream only after the
/// tool that produced it has ended with success, and after the end marker if the format has one. A
/// stream that is dropped unfinished makes the commit refuse the snapshot. An error holds the tail
/// of the tool's stderr and never a secret. No child process survives the call, even if its future
/// is dropped.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Its engine.
    fn database(&self) -> &'static dyn Database;

    /// Writes every stream of a consistent capture to `sink`. See [above](Self) for the contract.
    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts>;

    /// Looks whether a capture would find what it needs. It changes nothing, and reads of the
    /// source only what names it and grants rights to it.
    async fn check(&self, cx: &WorkContext) -> SourceCheck {
        let _ = cx;
        SourceCheck::default()
    }

    /// Whether a capture itself takes its turn in the moment of a group, by `sink.moment()`. If
    /// not, its turn comes before it begins, and its view is fixed when it ends.
    fn knows_moments(&self) -> bool {
        false
    }

    /// Whether a stream without a byte is a snapshot. It hardly ever is: a dump has a header.
    fn may_be_empty(&self) -> bool {
        false
    }

    /// Directories where client tools are looked for first, before the system's.
    fn client_directories(&self) -> &[PathBuf] {
        &[]
    }
}

/// A server to restore into.
#[async_trait]
pub trait ServerTarget: fmt::Debug + Send + Sync {
    /// Its engine.
    fn database(&self) -> &'static dyn Database;

    /// Where it is, for people. It holds no secret.
    fn describe(&self) -> String;

    /// Files and folders that its address names for client tools to read, such as certificates.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The host on another machine to which a connection would go without a check that it is the
    /// right one; `None` if there is no such host.
    fn unverified_host(&self) -> Option<String> {
        None
    }

    /// Whether `wanted.overwrite` drops what exists first, so that a load that fails loses it.
    fn drops_first(&self) -> bool {
        false
    }

    /// Loads a snapshot of its engine. It succeeds only if every stream was read to its checked end
    /// and every tool ended with success. What exists is kept, unless `wanted.overwrite` is set.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage) for a target that is not empty,
    /// [`Class::Source`](lifeboat_base::Class::Source) for a failing tool.
    async fn load(&self, streams: &dyn StoredStreams, wanted: &Wanted, cx: &WorkContext) -> Result<RestoreOutcome>;
}

/// A throw-away database: it loads a snapshot, checks it, proves it equal, and leaves nothing
/// behind.
///
/// A throw-away server runs in a private directory below the scratch directory, and as an
/// unprivileged user even if it is started as root. It listens on a unix socket only. It is stopped
/// and removed by [`stop`](Self::stop), on drop, on cancellation and on SIGINT.
#[async_trait]
pub trait ThrowAway: Send {
    /// Its version, in its own words.
    fn server_version(&self) -> &str;

    /// How to reach it by hand, if it is a server.
    fn address(&self) -> Option<ServerAddress> {
        None
    }

    /// Loads the snapshot. Any error makes it fail.
    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()>;

    /// Runs the engine's own checks and `queries`.
    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>>;

    /// Runs `queries` alone.
    ///
    /// # Errors
    /// Among others, one of them ends in an error: that is no answer.
    async fn ask(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>>;

    /// Dumps the restored database again and compares it with the snapshot.
    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult>;

    /// Passes on what is in the restored database, in batches of less than half a MiB and in no
    /// order that counts.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage): its engine does not list this.
    async fn list(&mut self, listing: &Listing, to: mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
        let _ = (listing, to);
        Err(Error::usage("a database of this kind lists nothing"))
    }

    /// Stops the server and removes its files.
    async fn stop(self: Box<Self>) -> Result<()>;
}

/// Where a throw-away server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// The directory of its unix socket.
    pub socket_directory: PathBuf,
    /// Its superuser.
    pub user: String,
}

/// A client tool that an engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTool {
    /// Its name, such as `pg_dump`.
    pub tool: &'static str,
    /// What to do if it is missing.
    pub remedy: &'static str,
}

/// A client tool found on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolFound {
    /// Its name, such as `pg_dump`.
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
