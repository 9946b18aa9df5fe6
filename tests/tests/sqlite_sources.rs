//! SQLite databases that are not simply open for reading: left by a crash, at rest in a directory
//! of another account, locked, or no database at all.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lifeboat_engine::Result;
use lifeboat_engine::databases::sqlite::SqliteSource;
use lifeboat_engine::databases::{Source, WorkContext, registry};
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::tools;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Where the unprivileged half of a test finds its database.
const PLACE: &str = "LIFEBOAT_TEST_PLACE";
const NOBODY: u32 = 65_534;

fn context(place: &Path, stall: Duration) -> WorkContext {
    let (environment, cancel) = (tools::environment(), CancellationToken::new());
    WorkContext { scratch: place.to_owned(), stall, jobs: 2, environment, cancel }
}

async fn captured(path: &Path, stall: Duration) -> Result<MemoryStreams> {
    let scratch = TempDir::new().unwrap();
    let mut streams = MemoryStreams::default();
    streams.facts = SqliteSource { path: path.to_owned() }.capture(&streams, &context(scratch.path(), stall)).await?;
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "files are left behind");
    Ok(streams)
}

/// Proves what was captured, and gives the answer to a query.
async fn proved(streams: &MemoryStreams, sql: &str) -> String {
    let scratch = TempDir::new().unwrap();
    let cx = context(scratch.path(), Duration::from_secs(20));
    let engine = registry::find("sqlite").unwrap();
    let mut restored = engine.throw_away(&streams.facts, &[], &cx).await.unwrap().unwrap();
    restored.load(streams).await.unwrap();
    assert!(restored.check(&[]).await.unwrap().iter().all(|check| check.passed));
    let proof = restored.prove(streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    let file = rusqlite::Connection::open(scratch.path().join("sqlite/restored.sqlite")).unwrap();
    file.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// `hot.db` and its journal, as a crash in the middle of a change leaves them.
fn crash(place: &Path) -> std::path::PathBuf {
    let database = rusqlite::Connection::open(place.join("a.db")).unwrap();
    database
        .execute_batch(
            "CREATE TABLE t (a);
             WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9000)
             INSERT INTO t SELECT x || 'yyyyyyyyyyyyyyyyyyyy' FROM c;
             PRAGMA cache_size = 5; BEGIN IMMEDIATE; UPDATE t SET a = a || 'zzzzzzzz';",
        )
        .unwrap();
    let hot = place.join("hot.db");
    std::fs::copy(place.join("a.db"), &hot).unwrap();
    std::fs::copy(place.join("a.db-journal"), place.join("hot.db-journal")).unwrap();
    hot
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_crash_cut_short_is_rolled_back_in_a_copy() {
    let place = TempDir::new().unwrap();
    let hot = crash(place.path());
    let journal = place.path().join("hot.db-journal");
    let before = (std::fs::read(&hot).unwrap(), std::fs::read(&journal).unwrap());
    let streams = captured(&hot, Duration::from_secs(20)).await.unwrap();
    assert!(streams.facts.warnings.iter().any(|warning| warning.contains("crash")), "{:?}", streams.facts.warnings);
    assert!(before == (std::fs::read(&hot).unwrap(), std::fs::read(&journal).unwrap()), "the original was changed");
    let torn = "SELECT count(*) || ' ' || coalesce(sum(a LIKE '%z%'), 0) FROM t";
    assert_eq!(proved(&streams, torn).await, "9000 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stays_locked_says_how_to_go_on() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a.db");
    let writer = rusqlite::Connection::open(&path).unwrap();
    writer.execute_batch("CREATE TABLE t (a); BEGIN EXCLUSIVE; INSERT INTO t VALUES (1)").unwrap();
    let error = captured(&path, Duration::from_secs(1)).await.err().unwrap();
    assert!(error.hint_text().unwrap().contains("exclusive transaction"), "{error:?}");
    // A run that is cancelled does not wait for the lock.
    let scratch = TempDir::new().unwrap();
    let cx = context(scratch.path(), Duration::from_secs(600));
    let streams = MemoryStreams::default();
    let source = SqliteSource { path: path.clone() };
    let capture = source.capture(&streams, &cx);
    let (error, ()) = tokio::join!(capture, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cx.cancel.cancel();
    });
    assert!(error.err().unwrap().message().contains("cancelled"));
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(
        proved(&captured(&path, Duration::from_secs(20)).await.unwrap(), "SELECT count(*) || '' FROM t").await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kind_of_file_is_named_as_such() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a.db");
    std::fs::write(&path, vec![7; 10_000]).unwrap();
    let error = captured(&path, Duration::from_secs(1)).await.err().unwrap();
    assert!(error.hint_text().unwrap().contains("kind = \"file\""), "{error:?}");
}

/// Runs `test` of this program as nobody, who may read `place` and not write to it.
fn as_nobody(test: &str, place: &Path) {
    for entry in std::fs::read_dir(place).unwrap().flatten() {
        std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o555)).unwrap();
    let program = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let copy = program.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut again = Command::new(copy);
    again.args(["--exact", test, "--ignored", "--nocapture"]).env(PLACE, place).current_dir("/");
    if rustix::process::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut again, NOBODY);
        std::os::unix::process::CommandExt::gid(&mut again, NOBODY);
    }
    let done = again.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_wal_database_in_a_directory_of_another_account() {
    let place = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let make = |name: &str| {
        let database = rusqlite::Connection::open(place.path().join(name)).unwrap();
        database.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (7)").unwrap();
        database
    };
    drop(make("rest.db"));
    let open = make("open.db");
    // A program that crashed leaves the WAL, and takes its locks along.
    std::fs::copy(place.path().join("open.db"), place.path().join("crashed.db")).unwrap();
    std::fs::copy(place.path().join("open.db-wal"), place.path().join("crashed.db-wal")).unwrap();
    std::os::unix::fs::symlink("crashed.db", place.path().join("link.db")).unwrap();
    as_nobody("the_unprivileged_half_of_wal", place.path());
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs as another user, started by the test above"]
async fn the_unprivileged_half_of_wal() {
    let place = std::path::PathBuf::from(std::env::var_os(PLACE).expect("started by another test"));
    // At rest it is copied, though SQLite could not open it there.
    let streams = captured(&place.join("rest.db"), Duration::from_secs(20)).await.unwrap();
    assert_eq!(proved(&streams, "SELECT a || '' FROM t").await, "7");
    // What may be in use, or needs recovery, is not.
    for name in ["crashed.db", "link.db"] {
        let error = captured(&place.join(name), Duration::from_secs(1)).await.err().unwrap();
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("WAL mode") && hint.contains(&place.display().to_string()), "{name}: {error:?}");
    }
    // With the locks of a program that has it open, SQLite reads it without writing.
    let streams = captured(&place.join("open.db"), Duration::from_secs(20)).await.unwrap();
    assert_eq!(proved(&streams, "SELECT a || '' FROM t").await, "7");
}
