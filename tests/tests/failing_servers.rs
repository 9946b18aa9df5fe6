//! Servers that are killed in the middle of a drill or of a capture, whose programs are not
//! installed, or that let nobody in: each has its error, its exit code and its hint, and nothing is
//! left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::databases::mariadb::MariaSource;
use lifeboat_engine::databases::postgres::PostgresSource;
use lifeboat_engine::databases::streams::{StoredStreams, StreamReader, StreamSink, StreamWriter};
use lifeboat_engine::databases::{Database, SharedMoment, Source, WorkContext};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::throw_away;
use lifeboat_engine::{Class, Result};
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::postgres::{Postgres, kill_all_of};
use lifeboat_tests::programs::{self, run};
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, TestVault, name};
use lifeboat_tests::work::{assert_nothing_is_left, captured, context, source};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

/// About 10 MB of a dump: more than all pipes and buffers hold.
const MARIA_ROWS: &str = "CREATE DATABASE shop; CREATE TABLE shop.large (id INT PRIMARY KEY, t VARCHAR(1000));
    USE shop; INSERT INTO shop.large SELECT seq, REPEAT(MD5(seq), 30) FROM seq_1_to_10000;";
const POSTGRES_ROWS: &str =
    "CREATE TABLE large AS SELECT n AS id, repeat(md5(n::text), 30) AS t FROM generate_series(1, 10000) n";
/// The piece of a stream, of about a hundred, before which a server is killed in a load.
const DEADLY_PIECE: usize = 30;

/// A directory that a worker of another user can use.
fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-f-").tempdir_in("/tmp").unwrap()
}

/// Streams at whose reading a server dies.
struct DeadlyStreams<'s> {
    streams: &'s MemoryStreams,
    server: Pid,
}

struct DeadlyReader {
    inner: Box<dyn StreamReader>,
    server: Pid,
    pieces: usize,
}

#[async_trait]
impl StoredStreams for DeadlyStreams<'_> {
    fn names(&self) -> Vec<String> {
        self.streams.names()
    }

    fn facts(&self) -> &SourceFacts {
        self.streams.facts()
    }

    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>> {
        let inner = StoredStreams::open(self.streams, name).await?;
        Ok(Box::new(DeadlyReader { inner, server: self.server, pieces: 0 }))
    }
}

#[async_trait]
impl StreamReader for DeadlyReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        self.pieces += 1;
        if self.pieces == DEADLY_PIECE {
            // Another client may read the same stream, and have come here before.
            let _ = kill_process(self.server, Signal::KILL);
        }
        self.inner.next().await
    }
}

/// When the server of a drill is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KilledIn {
    Load,
    Check,
    Proof,
}

/// Kills the throw-away server of a drill, whose process id is in this file beside its socket.
async fn assert_a_killed_drill_is_told(streams: &MemoryStreams, product: &str, pid_file: &str) {
    for phase in [KilledIn::Load, KilledIn::Check, KilledIn::Proof] {
        let place = scratch();
        let cx = context(&place);
        let mut drill = throw_away(&programs::worker(), streams, DrillTools::default(), &cx).await.unwrap().unwrap();
        let pid = fs::read_to_string(drill.address().unwrap().socket_directory.join(pid_file)).unwrap();
        let server = Pid::from_raw(pid.lines().next().unwrap().trim().parse().unwrap()).unwrap();
        if phase != KilledIn::Load {
            drill.load(streams).await.unwrap();
            kill_process(server, Signal::KILL).unwrap();
        }
        let failed = match phase {
            KilledIn::Load => drill.load(&DeadlyStreams { streams, server }).await,
            KilledIn::Check => drill.check(&[]).await.map(drop),
            KilledIn::Proof => drill.prove(streams).await.map(drop),
        };
        let error = failed.unwrap_err();
        let told = format!("the throw-away {product} server ended with signal: 9 (SIGKILL) during the drill");
        assert!(error.class() == Class::Source && error.chain().contains(&told), "{phase:?}: {error:?}");
        assert!(error.hint_text().unwrap().contains("want of memory"), "{phase:?}: {error:?}");
        // With its first error, a worker ends.
        let _ = drill.stop().await;
        assert_nothing_is_left(place.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_that_is_killed_in_a_drill_is_told_and_nothing_is_left() {
    let server = MariaDb::start().await;
    server.run_sql("", MARIA_ROWS).await;
    let (place, mut streams) = (scratch(), MemoryStreams::default());
    streams.facts = MariaSource(server.source("root")).capture(&streams, &context(&place)).await.unwrap();
    drop(server);
    assert_a_killed_drill_is_told(&streams, "MariaDB", "pid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_killed_in_a_drill_is_told_and_nothing_is_left() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", POSTGRES_ROWS).await;
    let streams = captured(&server, u64::MAX, &context(&scratch())).await;
    drop(server);
    assert_a_killed_drill_is_told(&streams, "PostgreSQL", "data/postmaster.pid").await;
}

/// A source whose server dies, with all of its processes, when the first rows come.
#[derive(Debug)]
struct DyingSource {
    source: PostgresSource,
    server: u32,
}

struct DyingSink<'s> {
    inner: &'s dyn StreamSink,
    server: u32,
}

struct DyingWriter {
    inner: Box<dyn StreamWriter>,
    server: Option<u32>,
}

#[async_trait]
impl Source for DyingSource {
    fn database(&self) -> &'static dyn Database {
        self.source.database()
    }

    async fn capture(&self, sink: &dyn StreamSink, cx: &WorkContext) -> Result<SourceFacts> {
        self.source.capture(&DyingSink { inner: sink, server: self.server }, cx).await
    }
}

impl StreamSink for DyingSink<'_> {
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>> {
        let has_rows = name == "database/shop" || name.starts_with("table/shop/");
        Ok(Box::new(DyingWriter { inner: self.inner.open(name)?, server: has_rows.then_some(self.server) }))
    }

    fn moment(&self) -> &SharedMoment {
        self.inner.moment()
    }
}

#[async_trait]
impl StreamWriter for DyingWriter {
    async fn space(&mut self) -> Result<&mut [u8]> {
        self.inner.space().await
    }

    async fn filled(&mut self, length: usize) -> Result<()> {
        if let Some(server) = self.server.take() {
            kill_all_of(server);
        }
        self.inner.filled(length).await
    }

    async fn finish(self: Box<Self>, exit: i32) -> Result<()> {
        self.inner.finish(exit).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_killed_in_a_capture_commits_nothing_and_the_next_run_works() {
    let mut server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", POSTGRES_ROWS).await;
    let vault = TestVault::new(2, 2).await;
    let committed = async || vault.open(vault.owner()).await.unwrap().snapshots(&name(DATASET)).await.unwrap().len();
    // As one archive, and in parts under an exported snapshot.
    for (runs, large_table) in [u64::MAX, 0].into_iter().enumerate() {
        let whole = PostgresSource(source(&server, large_table));
        let dying = DyingSource { source: whole.clone(), server: server.pid().unwrap() };
        let error = vault.backup(&dying).await.unwrap_err();
        assert_eq!(error.class(), Class::Source, "{error:?}");
        let said = error.chain();
        assert!(said.contains("cannot dump ") && said.contains("closed the connection unexpectedly"), "{error:?}");
        assert!(error.hint_text().unwrap().contains("the server went away in the middle"), "{error:?}");
        assert_eq!(committed().await, runs, "a cut capture was committed");

        server.start_again().await;
        let report = vault.backup(&whole).await.unwrap();
        assert_eq!(committed().await, runs + 1);
        let streams = vault.restore(&report.snapshot).await.unwrap();
        assert!(streams.values().map(Vec::len).sum::<usize>() > 9_000_000, "{:?}", streams.keys());
    }
}

/// A host that backs a PostgreSQL server up to a directory in `place`.
async fn host(place: &Path, lines: &str) -> BackupHost {
    let path = place.join("replica");
    fs::create_dir(&path).unwrap();
    let replica = ReplicaConfig {
        name: name("r1"),
        region: "away".to_owned(),
        kind: ReplicaKind::Directory { path },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    };
    BackupHost::set_up(&[section(&replica)], &format!("kind = \"postgres\"\n{lines}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_a_wrong_password_has_its_exit_code_and_its_hint() {
    let server = Postgres::start_with_password("right-horse").await;
    let place = TempDir::new().unwrap();
    let secret = place.path().join("password");
    fs::write(&secret, "wrong-horse").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let lines = format!("url = \"{}\"\npassword = \"{}\"", server.url("postgres"), secret.display());
    let host = host(place.path(), &lines).await;

    let (failed, report) = host.once().await;
    assert!(failed.code() == Some(4) && report.is_null(), "{failed}");
    let checked = host.lifeboat(&["check"]).await;
    assert_eq!(checked.code(), Some(4), "{checked}");
    for output in [&failed, &checked] {
        let said = output.to_string();
        assert!(said.contains("password authentication failed for user \"postgres\""), "{said}");
        assert!(said.contains("check role and password"), "{said}");
        assert!(!said.contains("horse"), "a password is told: {said}");
    }
    fs::write(&secret, "right-horse").unwrap();
    let (backup, report) = host.once().await;
    assert!(backup.code() == Some(0) && report["snapshot"].is_string(), "{backup}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_without_the_programs_of_its_server_has_its_exit_code_and_leaves_nothing() {
    let newer = tools::workspace().join(".tools/pg18/bin");
    assert!(newer.join("postgres").is_file(), "PostgreSQL 18 is not installed: run `make setup`");
    let server = Postgres::start_with(&newer).await;
    let (place, tmp) = (TempDir::new().unwrap(), scratch());
    fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let lines = format!("url = \"{}\"\nclient_directories = [\"{}\"]", server.url("postgres"), newer.display());
    let host = host(place.path(), &lines).await;
    let (backup, _) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");

    let mut drill = Command::new(programs::lifeboat());
    drill.arg("--config").arg(host.config()).arg("-i").arg(host.master());
    drill.args(["--json", "drill", "data", "--no-publish"]).env("TMPDIR", tmp.path());
    let failed = run(&mut drill, Duration::from_secs(120)).await.unwrap();
    assert_eq!(failed.code(), Some(4), "{failed}");
    let told = "the programs of a PostgreSQL 18 server for the drill are not installed";
    assert!(failed.stderr.contains(told), "{failed}");
    assert!(failed.stderr.contains("install postgresql-18 (no cluster is needed)"), "{failed}");
    let report = failed.json().unwrap();
    assert!(report["passed"] == false && report["reached"].is_null(), "{report:#}");
    assert!(report["restored_bytes"] == 0 && report["error"].as_str().unwrap().contains(told), "{report:#}");
    assert_nothing_is_left(tmp.path()).await;
}
