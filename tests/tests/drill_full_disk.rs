//! A disk that becomes full under a drill or a restore: a clear error that names it, the exit code
//! of a disk, and nothing left behind. The built programs and real servers, on a small tmpfs.
//!
//! Each source takes more room in a drill than is forecast, so the disk fills by itself, while the
//! drill works. Only that of SQLite is filled by somebody else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::redis::Redis;
use lifeboat_tests::small_disk::SmallDisk;
use lifeboat_tests::vault::{name, noise};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;

/// A directory that a worker of another user can reach.
fn open_place() -> TempDir {
    let place = tempfile::Builder::new().prefix("lifeboat-fd-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

/// A host with one snapshot of `source`, and a small disk.
struct SmallHost {
    host: BackupHost,
    disk: SmallDisk,
    _place: TempDir,
}

impl SmallHost {
    async fn back_up(source: &str, disk_bytes: u64) -> Self {
        let place = open_place();
        let replica = ReplicaConfig {
            name: name("r1"),
            region: "away".to_owned(),
            kind: ReplicaKind::Directory { path: place.path().join("vault") },
            timeout: Duration::from_secs(20),
            bandwidth: Bandwidth::default(),
        };
        std::fs::create_dir(place.path().join("vault")).unwrap();
        let host = BackupHost::set_up(&[section(&replica)], source).await;
        let (output, report) = host.once().await;
        assert!(output.status.success() && report["snapshot"].is_string(), "{output}");
        let disk = SmallDisk::mount(&place.path().join("disk"), disk_bytes);
        Self { host, disk, _place: place }
    }

    fn lifeboat(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs::lifeboat());
        command.arg("--config").arg(self.host.config()).arg("-i").arg(self.host.master()).arg("--json").args(words);
        command.env("TMPDIR", self.disk.path());
        command
    }

    /// Drills, and expects that the disk becomes full.
    async fn drill(&self) -> Value {
        let output = run(&mut self.lifeboat(&["drill", "data"]), DEADLINE).await.unwrap();
        self.assert_told(&output, "set TMPDIR to a directory on a larger disk");
        self.assert_nothing_is_left();
        let report = output.json().unwrap();
        assert_eq!((&report["passed"], report["error"].is_string()), (&Value::Bool(false), true), "{report}");
        report
    }

    fn assert_told(&self, output: &Output, remedy: &str) {
        assert_eq!(output.code(), Some(5), "{output}");
        let told = format!("the disk at {} is full", self.disk.path().display());
        assert!(output.stderr.contains(&told) && output.stderr.contains(remedy), "{output}");
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.disk.entries(), Vec::<std::path::PathBuf>::new());
        let disk = self.disk.path().to_str().unwrap();
        let servers: Vec<String> = command_lines().filter(|line| line.contains(disk)).collect();
        assert_eq!(servers, Vec::<String>::new());
    }
}

fn command_lines() -> impl Iterator<Item = String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).into_owned())
    })
}

/// Which phases of a drill succeeded.
fn phases(report: &Value) -> Vec<&str> {
    report["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_on_a_disk_that_becomes_full_is_told_and_removed() {
    let server = Postgres::start().await;
    // Four indexes, and rows that are short in a dump.
    let sql = "CREATE TABLE t AS SELECT n AS a, n AS b, n AS c, n AS d FROM generate_series(1, 400000) AS n;
               CREATE INDEX ON t (a); CREATE INDEX ON t (b); CREATE INDEX ON t (c); CREATE INDEX ON t (d);
               CREATE INDEX ON t (a, b, c, d); CREATE INDEX ON t (d, c, b, a)";
    server.run_sql("postgres", sql).await;
    let programs = server.programs().display();
    let source = format!(
        "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{programs}\"]\n\
         [dataset.drill]\nserver_directories = [\"{programs}\"]",
        server.url("postgres")
    );
    let host = SmallHost::back_up(&source, 96 * MIB).await;
    let report = host.drill().await;
    assert!(phases(&report).contains(&"start"), "it was not a forecast: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_on_a_disk_that_becomes_full_is_told_and_removed() {
    // InnoDB fails, and MyISAM waits for room that nobody makes.
    for engine in ["InnoDB", "MyISAM"] {
        let server = MariaDb::start().await;
        // Short in a dump, and a whole column in a table.
        let sql = format!(
            "CREATE DATABASE shop; CREATE TABLE shop.t (a CHAR(200) CHARACTER SET latin1) ENGINE={engine};
             INSERT INTO shop.t SELECT seq % 10 FROM seq_1_to_500000"
        );
        server.run_sql("mysql", &sql).await;
        let source = format!("kind = \"mariadb\"\nsocket = \"{}\"\nuser = \"root\"", server.socket().display());
        let host = SmallHost::back_up(&source, 370 * MIB).await;
        let report = host.drill().await;
        assert!(phases(&report).contains(&"start"), "it was not a forecast: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_on_a_disk_that_becomes_full_is_told_and_removed() {
    let server = Redis::start().await;
    // What compresses well in a dump of the source is not compressed in that of a drill.
    let value = "a".repeat(1 << 20);
    let mut client = server.client().await;
    for key in 0..48 {
        client.command(&[b"SET", format!("key:{key}").as_bytes(), value.as_bytes()]).await.unwrap();
    }
    let source = format!("kind = \"redis\"\nsocket = \"{}\"", server.socket().display());
    let host = SmallHost::back_up(&source, 32 * MIB).await;
    let report = host.drill().await;
    assert!(phases(&report).contains(&"load"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_on_a_disk_that_becomes_full_are_told_and_removed() {
    let tree = open_place();
    // An archive has two blocks of 512 bytes for each, and the disk a page.
    for folder in 0..20 {
        let folder = tree.path().join(folder.to_string());
        std::fs::create_dir(&folder).unwrap();
        (0..1000).for_each(|file| std::fs::write(folder.join(file.to_string()), "x").unwrap());
    }
    let host = SmallHost::back_up(&format!("kind = \"files\"\npath = \"{}\"", tree.path().display()), 48 * MIB).await;
    let report = host.drill().await;
    assert!(phases(&report).contains(&"start"), "{report}");

    // A restore leaves what it made, and says that this is not all.
    let target = host.disk.path().join("target");
    let words = ["restore", "data", "--to-directory", target.to_str().unwrap()];
    let output = run(&mut host.lifeboat(&words), DEADLINE).await.unwrap();
    host.assert_told(&output, "restore into a directory on a larger disk");
    assert!(output.stderr.contains("holds a part of the snapshot"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_on_a_disk_that_others_fill_is_told_and_removed() {
    let place = open_place();
    let database = place.path().join("app.db");
    let data = rusqlite::Connection::open(&database).unwrap();
    data.execute_batch("CREATE TABLE t AS SELECT randomblob(60000000) AS b").unwrap();
    drop(data);
    let source = format!("kind = \"sqlite\"\npath = \"{}\"", database.display());
    let host = SmallHost::back_up(&source, 256 * MIB).await;
    let (report, ()) = tokio::join!(host.drill(), async {
        wait_for_restored_file(&host.disk).await;
        host.disk.fill_but(0);
    });
    assert!(!phases(&report).contains(&"prove"), "{report}");
}

async fn wait_for_restored_file(disk: &SmallDisk) {
    let began = Instant::now();
    let is_there = |path: &Path| path.join("w/sqlite/restored.sqlite").exists();
    while !disk.entries().iter().any(|path| is_there(path)) {
        assert!(began.elapsed() < DEADLINE, "no drill restored a file");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_a_directory_that_becomes_full_leaves_no_file_that_looks_whole() {
    let place = open_place();
    let data = place.path().join("data");
    std::fs::write(&data, noise(24 << 20, 1)).unwrap();
    let source = format!("kind = \"command\"\nargv = [\"cat\", \"{}\"]", data.display());
    let host = SmallHost::back_up(&source, 16 * MIB).await;
    let target = host.disk.path().join("target");
    let words = ["restore", "data", "--to-directory", target.to_str().unwrap()];
    let output = run(&mut host.lifeboat(&words), DEADLINE).await.unwrap();
    host.assert_told(&output, "restore into a directory on a larger disk");
    assert_eq!(std::fs::read_dir(&target).map_or(0, Iterator::count), 0, "{output}");
}
