//! What `check` asks of sources: real servers and files, as a capture would meet them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use lifeboat_engine::databases::command::{CommandConfig, CommandSource};
use lifeboat_engine::databases::file::FileSource;
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresConnection, PostgresSource};
use lifeboat_engine::databases::sqlite::SqliteSource;
use lifeboat_engine::databases::{Source, SourceCheck, registry};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::work::{context, source};
use tempfile::TempDir;

/// What is broken, each with its hint.
async fn broken(source: &dyn Source) -> Vec<String> {
    found(source).await.broken.iter().map(lifeboat_engine::Error::chain_and_hint).collect()
}

async fn found(source: &dyn Source) -> SourceCheck {
    let place = TempDir::new().unwrap();
    let found = source.check(&context(&place)).await;
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "files are left behind");
    found
}

/// As `role` over the server's socket.
fn as_role(server: &Postgres, role: &str) -> PostgresConfig {
    let mut config = source(server, u64::MAX);
    let PostgresConnection::Socket { user, .. } = &mut config.connection else { panic!("not a socket") };
    *user = Some(role.to_owned());
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_read_a_table_is_told_with_the_grant_that_helps() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let sql =
        "CREATE ROLE reader LOGIN; CREATE TABLE orders (id serial); CREATE SCHEMA own; CREATE TABLE own.kept (a int);";
    server.run_sql("shop", sql).await;
    assert!(broken(&PostgresSource(source(&server, u64::MAX))).await.is_empty(), "a superuser reads all");
    let reader = PostgresSource(as_role(&server, "reader"));
    let told = broken(&reader).await;
    assert_eq!(told.len(), 1, "only in shop: {told:?}");
    for words in ["database shop", "role reader may not read 3", "such as own.kept", "GRANT pg_read_all_data TO reader"]
    {
        assert!(told[0].contains(words), "{words}: {told:?}");
    }
    let weak = found(&reader).await.weak;
    assert!(weak.iter().any(|weak| weak.contains("passwords of roles")), "{weak:?}");
    server.run_sql("shop", "GRANT pg_read_all_data TO reader").await;
    let granted = found(&reader).await;
    assert!(granted.broken.is_empty() && granted.weak.is_empty(), "{granted:?}");
    server.run_sql("shop", "ALTER TABLE orders ENABLE ROW LEVEL SECURITY").await;
    let told = broken(&reader).await;
    assert!(told.len() == 1 && told[0].contains("ALTER ROLE reader BYPASSRLS"), "{told:?}");
    server.run_sql("shop", "ALTER ROLE reader BYPASSRLS").await;
    assert!(broken(&reader).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_let_us_in_is_told() {
    let server = Postgres::start().await;
    let told = broken(&PostgresSource(as_role(&server, "nobody-of-this-name"))).await;
    assert!(told.len() == 1 && told[0].contains("does not exist"), "{told:?}");
    let mut elsewhere = source(&server, u64::MAX);
    let PostgresConnection::Socket { directory, .. } = &mut elsewhere.connection else { panic!("not a socket") };
    *directory = "/nonexistent".into();
    let told = broken(&PostgresSource(elsewhere)).await;
    assert!(told.len() == 1 && told[0].contains("check host and port"), "{told:?}");
    let missing = PostgresConfig { databases: vec!["shop".to_owned()], ..source(&server, u64::MAX) };
    let told = broken(&PostgresSource(missing)).await;
    assert!(told.len() == 1 && told[0].contains("has no database `shop`"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_of_a_drill_are_looked_for_and_not_started() {
    let place = TempDir::new().unwrap();
    let server = Postgres::start().await;
    let engine = registry::find("postgres").unwrap();
    let streams = lifeboat_tests::work::captured(&server, u64::MAX, &context(&place)).await;
    let directories = [server.programs().to_owned()];
    engine.has_server_programs(&streams.facts, &directories, &context(&place)).await.unwrap();
    let mut future = streams.facts.clone();
    future.server_version = Some("99.1".to_owned());
    let error = engine.has_server_programs(&future, &directories, &context(&place)).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("install postgresql-99"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_databases_and_programs_that_are_not_there_are_told() {
    let place = TempDir::new().unwrap();
    let at = |name: &str| place.path().join(name);
    let file = |name: &str| FileSource { path: at(name), allow_empty: false };
    assert!(broken(&file("none")).await[0].contains("check the path"));
    std::fs::write(at("empty"), "").unwrap();
    assert!(found(&file("empty")).await.weak[0].contains("is empty now"));
    std::fs::write(at("full"), "x").unwrap();
    let full = found(&file("full")).await;
    assert!(full.broken.is_empty() && full.weak.is_empty());

    let sqlite = |name: &str| SqliteSource { path: at(name) };
    assert!(broken(&sqlite("none")).await[0].contains("there is no SQLite database"));
    assert!(broken(&sqlite("full")).await[0].contains("use kind = \"file\""));
    let database = rusqlite::Connection::open(at("db")).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    let there = found(&sqlite("db")).await;
    assert!(there.broken.is_empty(), "{:?}", there.broken);
    assert_eq!(there.scratch_bytes, at("db").metadata().unwrap().len(), "a capture is a copy");
    // A writer that holds it for a moment does not break a backup.
    database.execute_batch("BEGIN EXCLUSIVE").unwrap();
    assert!(broken(&sqlite("db")).await.is_empty());

    let program = |name: &str| {
        CommandSource(CommandConfig {
            argv: vec![name.to_owned()],
            environment: Default::default(),
            expected_status: vec![0],
            allow_empty: false,
            stream: "x".to_owned(),
        })
    };
    let marker = at("was-run");
    let script = at("script");
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
    assert!(broken(&program(&shown(&script))).await[0].contains("cannot be run here"), "it is not executable");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(broken(&program(&shown(&script))).await.is_empty());
    assert!(!marker.exists(), "it was run");
    assert!(broken(&program("true")).await.is_empty());
    assert!(broken(&program("no-such-program-as-this")).await[0].contains("install no-such-program-as-this"));
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
