//! Drills of MariaDB, Redis, SQLite and trees of files that are killed in the middle, alone and
//! with their workers: the next drill sweeps what is left, and passes. `drill_plans` has that of
//! PostgreSQL.
//!
//! The replica has a cap on its bandwidth, so that the middle of a drill takes a second without
//! much data.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lifeboat_tests::host::BackupHost;
use lifeboat_tests::killed_drill::{DrillPlace, in_session};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::operator::directory_replica;
use lifeboat_tests::programs::run;
use lifeboat_tests::redis::Redis;
use lifeboat_tests::vault::noise;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(90);
const DRILL: [&str; 2] = ["data", "--no-publish"];
/// Of what does not compress there are some 5 MiB in each source.
const CAP: &str = "bandwidth = \"4MiB/s\"\n";
const MIB: usize = 1 << 20;

/// A directory that a worker of another user can reach.
fn open_place() -> TempDir {
    let place = tempfile::Builder::new().prefix("lifeboat-kd-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

/// Whether a process works below `TMPDIR` whose command line has this.
fn runs(place: &DrillPlace, server: &str) -> bool {
    place.running().iter().any(|(_, command)| command.contains(server))
}

/// Whether a drill has made this, of what its worker makes.
fn has_made(place: &DrillPlace, file: &str) -> bool {
    place.left().iter().any(|drill| drill.join("w").join(file).exists())
}

/// Kills drills of `source` where `is_in_the_middle`, the drill alone and then both, and drills
/// again after each. A `server` lives on when both are killed.
async fn assert_the_next_drill_sweeps(
    source: &str,
    server: Option<&str>,
    is_in_the_middle: impl Fn(&DrillPlace) -> bool,
) {
    let vault = open_place();
    let replica = directory_replica(vault.path(), "r1") + CAP;
    let host = BackupHost::set_up(&[replica], source).await;
    let (backup, report) = host.once().await;
    assert!(backup.code() == Some(0) && report["snapshot"].is_string(), "{backup}");

    let place = DrillPlace::make();
    for with_worker in [false, true] {
        let killed = place.loading(&host, &DRILL, &is_in_the_middle).await;
        let worker = killed.worker;
        match with_worker {
            true => killed.kill_both().await,
            false => killed.kill_drill().await,
        }
        assert_eq!(place.left().len(), 1, "{:?}", place.left());
        if let Some(server) = server.filter(|_| with_worker) {
            let orphans = in_session(worker);
            assert!(orphans.iter().any(|(_, command)| command.contains(server)), "{orphans:?}");
        }
        let again = run(&mut place.drill(&host, &DRILL), DEADLINE).await.unwrap();
        assert_eq!(again.code(), Some(0), "{again}");
        assert_eq!(again.json().unwrap()["reached"], "proved", "{again}");
        assert_eq!(in_session(worker), Vec::new());
        place.assert_nothing_is_left();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_mariadb_that_is_killed_leaves_nothing_that_the_next_does_not_sweep() {
    let server = MariaDb::start().await;
    let rows = "CREATE DATABASE shop; CREATE TABLE shop.items (id INT PRIMARY KEY, a CHAR(128), b CHAR(128));
        INSERT INTO shop.items SELECT seq, SHA2(seq, 512), SHA2(-seq, 512) FROM seq_1_to_30000";
    server.run_sql("mysql", rows).await;
    let source = format!("kind = \"mariadb\"\nsocket = \"{}\"\nuser = \"root\"", server.socket().display());
    assert_the_next_drill_sweeps(&source, Some("mariadbd"), |place| runs(place, "mariadbd")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_redis_that_is_killed_leaves_nothing_that_the_next_does_not_sweep() {
    let server = Redis::start().await;
    let mut client = server.client().await;
    for key in 0..10_u64 {
        let (name, value) = (format!("key:{key}"), noise(MIB / 2, key));
        client.command(&[b"SET".as_slice(), name.as_bytes(), value.as_slice()]).await.unwrap();
    }
    let source = format!("kind = \"redis\"\nsocket = \"{}\"", server.socket().display());
    // It starts when the dump is there, in the middle of the load.
    assert_the_next_drill_sweeps(&source, Some("redis-server"), |place| runs(place, "redis-server")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_sqlite_that_is_killed_leaves_nothing_that_the_next_does_not_sweep() {
    let place = open_place();
    let database = place.path().join("app.db");
    let data = rusqlite::Connection::open(&database).unwrap();
    data.execute_batch("CREATE TABLE t AS SELECT randomblob(5000000) AS b").unwrap();
    drop(data);
    let source = format!("kind = \"sqlite\"\npath = \"{}\"", database.display());
    assert_the_next_drill_sweeps(&source, None, |place| has_made(place, "sqlite/restored.sqlite")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_files_that_is_killed_leaves_nothing_that_the_next_does_not_sweep() {
    let tree = open_place();
    for folder in 0..5_u64 {
        let path = tree.path().join(folder.to_string());
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("large"), noise(MIB, folder)).unwrap();
        (0..20).for_each(|file| std::fs::write(path.join(file.to_string()), "x").unwrap());
    }
    let source = format!("kind = \"files\"\npath = \"{}\"", tree.path().display());
    assert_the_next_drill_sweeps(&source, None, |place| has_made(place, "tree")).await;
}
