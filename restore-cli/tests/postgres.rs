//! `restore --to-postgres` into real servers: every way to name one, and what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresConnection, PostgresSource};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs;
use lifeboat_tests::vault::{DATASET, TestVault};

const PASSWORD: &str = "correct horse battery staple";

/// A vault that holds a server's databases `shop` and `blog`.
async fn captured() -> TestVault {
    let server = Postgres::start().await;
    for database in ["shop", "blog"] {
        server.create_database(database).await;
        server
            .run_sql(
                database,
                &format!("CREATE TABLE kept AS SELECT n, '{database}' AS of FROM generate_series(1, 500) n"),
            )
            .await;
    }
    captured_from(&server, &["shop", "blog"]).await
}

async fn captured_from(server: &Postgres, databases: &[&str]) -> TestVault {
    let mut vault = TestVault::new(1, 1).await;
    let config = PostgresSource(PostgresConfig {
        connection: server.connection(),
        password: None,
        databases: databases.iter().map(ToString::to_string).collect(),
        client_directories: vec![server.programs().to_owned()],
        jobs: None,
        large_table: 64 << 20,
    });
    vault.config.datasets[0].source = std::sync::Arc::new(config.clone());
    vault.backup(&config).await.expect("the backup succeeds");
    vault
}

fn restore(vault: &TestVault, arguments: &[&str]) -> Output {
    let master = vault.master.to_str().unwrap();
    // The worker is looked for beside it.
    Command::new(programs::lifeboat())
        .args(["--directory", "r1", "--vault-prefix", "vault", "-i", master, "--trusted-signer", &vault.init.signer])
        .args(["restore", DATASET])
        .args(arguments)
        .current_dir(vault.place.path())
        .env_remove("PGPASSWORD")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn explained(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The argument that names a server by its socket.
fn socket(server: &Postgres) -> String {
    let PostgresConnection::Socket { directory, port, user } = server.connection() else {
        panic!("the harness gives a socket")
    };
    format!("socket:{}?port={port}&user={}", directory.display(), user.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_go_into_a_server_by_socket_and_never_over_what_is_there() {
    let vault = captured().await;
    let server = Postgres::start().await;
    let to = socket(&server);

    let all = restore(&vault, &["--to-postgres", &to, "--json"]);
    assert_eq!(all.status.code(), Some(0), "{}", explained(&all));
    let said: serde_json::Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!(said["written"], serde_json::json!(["shop", "blog"]));
    assert_eq!(server.query("shop", "SELECT count(*), min(of) FROM kept").await.trim(), "500|shop");

    server.run_sql("shop", "UPDATE kept SET of = 'precious'").await;
    for flags in [&[][..], &["--overwrite"]] {
        let refused = restore(&vault, &[&["--to-postgres", &to][..], flags].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", explained(&refused));
        assert_eq!(server.query("shop", "SELECT min(of) FROM kept").await.trim(), "precious");
    }
    let beside = restore(&vault, &["--to-postgres", &to, "--database", "shop", "--rename", "shop_yesterday"]);
    assert_eq!(beside.status.code(), Some(0), "{}", explained(&beside));
    assert_eq!(server.query("shop_yesterday", "SELECT min(of) FROM kept").await.trim(), "shop");
    assert_eq!(server.query("shop", "SELECT min(of) FROM kept").await.trim(), "precious");
    let meant = restore(&vault, &["--to-postgres", &to, "--database", "shop", "--overwrite", "--yes"]);
    assert_eq!(meant.status.code(), Some(0), "{}", explained(&meant));
    assert_eq!(server.query("shop", "SELECT min(of) FROM kept").await.trim(), "shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_comes_from_a_private_file() {
    let vault = captured().await;
    let server = Postgres::start_with_password(PASSWORD).await;
    let url = server.url("postgres").replace(&format!(":{PASSWORD}@"), "@");
    let file = vault.place.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let arguments = ["--to-postgres", &url, "--database", "blog", "--password-file", "password"];

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let readable = restore(&vault, &arguments);
    assert_eq!(readable.status.code(), Some(7), "{}", explained(&readable));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let restored = restore(&vault, &arguments);
    assert_eq!(restored.status.code(), Some(0), "{}", explained(&restored));
    assert_eq!(server.query("blog", "SELECT count(*) FROM kept").await.trim(), "500");

    fs::write(&file, "wrong").unwrap();
    let wrong = restore(&vault, &["--to-postgres", &url, "--database", "shop", "--password-file", "password"]);
    assert_eq!(wrong.status.code(), Some(4), "{}", explained(&wrong));
    assert!(!explained(&wrong).contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_restored_is_and_the_rest_is_listed_with_an_exit_code() {
    let source = Postgres::start().await;
    source.create_database("shop").await;
    let broken = "CREATE TABLE kept AS SELECT 1 AS a; CREATE VIEW broken AS SELECT 1 AS a; \
        CREATE OR REPLACE VIEW broken AS SELECT a FROM broken;";
    source.run_sql("shop", broken).await;
    let vault = captured_from(&source, &["shop"]).await;
    let server = Postgres::start().await;
    let to = socket(&server);
    let strict = restore(&vault, &["--to-postgres", &to]);
    assert_eq!(strict.status.code(), Some(4), "{}", explained(&strict));
    assert!(explained(&strict).contains("--keep-going"), "{}", explained(&strict));
    let lenient = restore(&vault, &["--to-postgres", &to, "--keep-going"]);
    assert_eq!(lenient.status.code(), Some(4), "{}", explained(&lenient));
    assert!(explained(&lenient).contains("VIEW public.broken"), "{}", explained(&lenient));
    assert_eq!(server.query("shop", "SELECT a FROM kept").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_rows_nobody_came_to_read_is_listed_too() {
    let source = Postgres::start().await;
    source.create_database("shop").await;
    // More than a pipe holds.
    source.run_sql("shop", "CREATE TABLE big AS SELECT repeat(md5(i::text), 8) FROM generate_series(1, 16384) i").await;
    let vault = captured_from(&source, &["shop"]).await;
    let server = Postgres::start().await;
    // So no database can be created there.
    server.run_sql("postgres", "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'template0'").await;
    let lenient = restore(&vault, &["--to-postgres", &socket(&server), "--keep-going"]);
    assert_eq!(lenient.status.code(), Some(4), "{}", explained(&lenient));
    assert!(explained(&lenient).contains("template0"), "{}", explained(&lenient));
}
