//! Captures, restores and throw-away databases in this process: what tests of engines begin with.
#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_engine::Result;
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresSource, PostgresTarget};
use lifeboat_engine::databases::{RestoreOutcome, Source, Target, ThrowAway, Wanted, WorkContext, load, registry};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::postgres::Postgres;
use crate::programs::processes_in;
use crate::streams::MemoryStreams;
use crate::tools;

/// Work with three connections below `scratch`.
#[must_use]
pub fn context(scratch: &TempDir) -> WorkContext {
    WorkContext {
        scratch: scratch.path().to_owned(),
        stall: Duration::from_secs(60),
        jobs: 3,
        environment: tools::environment(),
        cancel: CancellationToken::new(),
    }
}

/// All databases of `server`. Tables of at least `large_table` bytes are in streams of their own.
#[must_use]
pub fn source(server: &Postgres, large_table: u64) -> PostgresConfig {
    PostgresConfig {
        connection: server.connection(),
        password: None,
        databases: Vec::new(),
        client_directories: vec![server.programs().to_owned()],
        jobs: None,
        large_table,
    }
}

/// What a capture gives.
///
/// # Errors
/// Those of the capture.
pub async fn try_captured(config: PostgresConfig, cx: &WorkContext) -> Result<MemoryStreams> {
    let mut streams = MemoryStreams::default();
    streams.facts = PostgresSource(config).capture(&streams, cx).await?;
    Ok(streams)
}

/// A capture of [`source`].
///
/// # Panics
/// It fails.
pub async fn captured(server: &Postgres, large_table: u64, cx: &WorkContext) -> MemoryStreams {
    try_captured(source(server, large_table), cx).await.expect("a capture")
}

/// A server whose database `shop` was captured, and an empty one to restore it into.
pub struct CapturedShop {
    /// Where it was captured.
    pub from: Postgres,
    /// Where it can be restored.
    pub to: Postgres,
    /// The capture.
    pub streams: MemoryStreams,
    /// How it works, below `place`.
    pub cx: WorkContext,
    /// A private directory.
    pub place: TempDir,
}

impl CapturedShop {
    /// Makes `shop` with this SQL, and captures all of its server.
    ///
    /// # Panics
    /// Something of it fails.
    pub async fn with(sql: &str) -> Self {
        let (from, to) = (Postgres::start().await, Postgres::start().await);
        from.create_database("shop").await;
        from.run_sql("shop", sql).await;
        let place = TempDir::new().expect("a temporary directory");
        let cx = context(&place);
        let streams = captured(&from, u64::MAX, &cx).await;
        Self { from, to, streams, cx, place }
    }

    /// Restores it.
    ///
    /// # Errors
    /// Those of the restore.
    pub async fn restored(&self, wanted: Wanted) -> Result<RestoreOutcome> {
        restored(&self.streams, &self.to, wanted, &self.cx).await
    }
}

/// A throw-away server of the engine that `facts` name. Its programs are looked for in
/// `directories` first.
///
/// # Panics
/// It does not start.
pub async fn throw_away(facts: &SourceFacts, directories: &[PathBuf], cx: &WorkContext) -> Box<dyn ThrowAway> {
    let engine = registry::find(&facts.engine).expect("a known engine");
    engine.throw_away(facts, directories, cx).await.expect("it starts").expect("a server")
}

/// Restores a capture into a server.
///
/// # Errors
/// Those of the restore.
pub async fn restored(
    streams: &MemoryStreams,
    to: &Postgres,
    wanted: Wanted,
    cx: &WorkContext,
) -> Result<RestoreOutcome> {
    let server = PostgresTarget {
        connection: to.connection(),
        password: None,
        client_directories: vec![to.programs().to_owned()],
    };
    load(streams, &Target::Server { server: Box::new(server), wanted }, cx).await
}

/// Waits for `work`, so that a test whose parts wait for each other fails and does not hang.
///
/// # Panics
/// It takes longer than two minutes.
pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work).await.expect("the work ends in time")
}

/// Waits until no process works in `place`, and nothing is in it.
///
/// # Panics
/// Something is left after half a minute.
pub async fn assert_nothing_is_left(place: &Path) {
    let began = Instant::now();
    loop {
        let files: Vec<PathBuf> =
            std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let processes = processes_in(place);
        if files.is_empty() && processes.is_empty() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "left: {files:?} {processes:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One database of a snapshot.
#[must_use]
pub fn only(database: &str) -> Wanted {
    Wanted { databases: vec![database.to_owned()], ..Wanted::default() }
}
