//! A restored database that is sound and yet not as the snapshot says: the exit code, the report
//! and the error of the drill tell what differs, and what to do. Somebody changes a row when all is
//! loaded and checked, before it is proved.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_tests::host::BackupHost;
use lifeboat_tests::killed_drill::DrillPlace;
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::operator::directory_replica;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::run;
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(90);

/// A directory that a worker of another user can reach.
fn open_place() -> TempDir {
    let place = tempfile::Builder::new().prefix("lifeboat-un-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

/// Backs `source` up, drills it, and expects that the proof finds this difference alone.
async fn assert_told(source: &str, difference: &str) {
    let vault = open_place();
    let host = BackupHost::set_up(&[directory_replica(vault.path(), "r1")], source).await;
    let (backup, report) = host.once().await;
    assert!(backup.code() == Some(0) && report["snapshot"].is_string(), "{backup}");
    let place = DrillPlace::make();
    let failed = run(&mut place.drill(&host, &["data", "--no-publish"]), DEADLINE).await.unwrap();
    assert_eq!(failed.code(), Some(6), "{failed}");
    place.assert_nothing_is_left();

    let report = failed.json().unwrap();
    let told = format!("the restored database differs from the snapshot: {difference}");
    assert_eq!((&report["passed"], &report["reached"]), (&json!(false), &json!("checked")), "{report:#}");
    assert_eq!((&report["error"], &report["proof"]["differences"]), (&json!(told), &json!([difference])));
    // No check tells of it: all of them passed.
    let checks = report["checks"].as_array().unwrap();
    assert!(!checks.is_empty() && checks.iter().all(|check| check["passed"] == true), "{report:#}");
    let last: Value = serde_json::from_str(failed.stderr.lines().last().unwrap()).unwrap();
    let error = &last["error"];
    assert_eq!((&error["message"], &error["class"]), (&json!(told), &json!("integrity")), "{failed}");
    // As the runbook of LifeboatDrillFailed says for this exit code.
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("lifeboat verify data")), "{failed}");
}

/// Real programs of PostgreSQL. That of the checks changes a row of `shop` when it found no fault.
fn meddling(place: &Path, real: &Path) -> PathBuf {
    let tools = place.join("tools");
    std::fs::create_dir(&tools).unwrap();
    for program in ["initdb", "postgres", "pg_dump", "pg_dumpall", "pg_restore", "psql"] {
        symlink(real.join(program), tools.join(program)).unwrap();
    }
    let real = real.display();
    let script = format!(
        "#!/bin/sh\n{real}/pg_amcheck \"$@\" || exit\ncase \"$*\" in *shop*)\n\
         exec {real}/psql -X -q -w -d shop -c \"UPDATE public.items SET name = 'another' WHERE id = 7\" ;;\nesac\n"
    );
    let checks = tools.join("pg_amcheck");
    std::fs::write(&checks, script).unwrap();
    std::fs::set_permissions(&checks, std::fs::Permissions::from_mode(0o755)).unwrap();
    tools
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_postgresql_that_differs_fails_the_drill_and_names_the_table() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let rows = "CREATE TABLE items AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, 100) i;
                CREATE TABLE other AS SELECT 1 AS id";
    server.run_sql("shop", rows).await;
    // Its directory may hold links, such as /usr/local/bin.
    let postgres = server.programs().join("postgres").canonicalize().unwrap();
    let (place, real) = (open_place(), postgres.parent().unwrap());
    let source = format!(
        "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{real}\"]\n\
         [dataset.drill]\nserver_directories = [\"{}\", \"{real}\"]",
        server.url("postgres"),
        meddling(place.path(), real).display(),
        real = real.display()
    );
    assert_told(&source, "\"shop\": table public.items: rows differ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_mariadb_that_differs_fails_the_drill_and_names_the_table() {
    let server = MariaDb::start().await;
    let rows = "CREATE DATABASE shop; CREATE TABLE shop.items (id INT PRIMARY KEY, name VARCHAR(40));
        INSERT INTO shop.items SELECT seq, MD5(seq) FROM seq_1_to_100; CREATE TABLE shop.other AS SELECT 1 AS id";
    server.run_sql("mysql", rows).await;
    // Queries may only read, to guard against a slip. Whoever insists can write: the proof tells.
    let query = "SET SESSION TRANSACTION READ WRITE; UPDATE items SET name = 'another' WHERE id = 7";
    let source = format!(
        "kind = \"mariadb\"\nsocket = \"{}\"\nuser = \"root\"\n\
         [dataset.drill]\nqueries = [{{ database = \"shop\", sql = \"{query}\" }}]",
        server.socket().display()
    );
    assert_told(&source, "table `items` in shop: rows differ").await;
}
