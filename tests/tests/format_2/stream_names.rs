//! Names of streams: every name of a database becomes a path below a folder, and comes back from
//! there; sources that name streams otherwise are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use lifeboat_engine::Class;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{DrillConfig, DrillQuery, Objectives, ProofLevel};
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresConnection, PostgresSource};
use lifeboat_engine::drill::Drill;
use lifeboat_engine::restore::Selector;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use lifeboat_tests::{recovery, tools};
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::DEADLINE;

/// Databases, each with the part of a stream's name that it becomes.
const DATABASES: [(&str, &str); 5] =
    [("a", "a"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("50%", "50%25"), ("é", "%C3%A9")];

/// A server with these databases, and a vault that holds them.
async fn captured(large_table: u64) -> (Postgres, TestVault) {
    let server = Postgres::start().await;
    for (database, _) in DATABASES {
        server.create_database(database).await;
        let table =
            format!("CREATE TABLE \"its/own.name\" AS SELECT n, '{database}' AS of FROM generate_series(1, 300) n");
        server.run_sql(database, &table).await;
    }
    let source = PostgresSource(PostgresConfig {
        connection: server.connection(),
        password: None,
        databases: Vec::new(),
        client_directories: vec![server.programs().to_owned()],
        jobs: Some(2),
        large_table,
    });
    let mut vault = TestVault::new(1, 1).await;
    vault.config.datasets[0].source = Arc::new(source.clone());
    vault.backup(&source).await.unwrap();
    (server, vault)
}

async fn lifeboat(vault: &TestVault, words: &[&str]) -> Output {
    let mut command = Command::new(programs::lifeboat());
    command.arg("--directory").arg(vault.place.path().join("r1")).args(["--vault-prefix", "vault", "--identity"]);
    command.arg(&vault.master).args(["--trusted-signer", &vault.init.signer]).args(words);
    run(&mut command, DEADLINE).await.unwrap()
}

/// The files below a folder, as paths from there.
fn files(folder: &Path) -> BTreeSet<String> {
    let paths = files_below(folder).into_iter();
    paths.map(|file| file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()).collect()
}

/// The files of a restored server: `globals`, and one for each database with this ending.
fn expected(globals: &str, ending: &str) -> BTreeSet<String> {
    let databases = DATABASES.map(|(_, part)| part).into_iter().chain(["postgres"]);
    databases.map(|part| format!("database/{part}{ending}")).chain([globals.to_owned()]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_any_name_become_a_file_each() {
    let (_server, vault) = captured(u64::MAX).await;
    let out = vault.place.path().join("out").join("files");
    let restored = lifeboat(&vault, &["restore", DATASET, "--to-directory", out.to_str().unwrap()]).await;
    assert_eq!(restored.code(), Some(0), "{restored}");
    assert_eq!(files(&out), expected("globals.sql", ".dump"));
    // Nothing lies beside it.
    assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);

    // The script gives each stream its name.
    let reader = vault.open(vault.owner()).await.unwrap();
    let snapshot = reader.select(&name(DATASET), &Selector::Latest, SystemClock::shared().now()).await.unwrap();
    let all = vault.restore(&snapshot).await.unwrap();
    let out = vault.place.path().join("by-script").join("files");
    std::fs::create_dir(out.parent().unwrap()).unwrap();
    let signer = &vault.init.signer;
    let done = recovery::recover(&vault.replica_path(1), &vault.master, signer, DATASET, "latest", &out);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(files(&out), expected("globals", ""));
    assert_eq!(std::fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);
    for (stream, content) in &all {
        assert!(std::fs::read(out.join(stream)).unwrap() == *content, "{stream} differs");
    }
}

/// The argument that names a server by its socket.
fn socket(server: &Postgres) -> String {
    let PostgresConnection::Socket { directory, port, user } = server.connection() else {
        panic!("the harness gives a socket")
    };
    format!("socket:{}?port={port}&user={}", directory.display(), user.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_them_is_restored_by_its_own_name() {
    // As one archive, and in parts.
    for large_table in [u64::MAX, 0] {
        let (from, vault) = captured(large_table).await;
        let to = Postgres::start().await;
        for (at, (database, _)) in DATABASES.iter().enumerate() {
            let words = ["restore", DATASET, "--to-postgres", &socket(&to), "--database", database];
            let restored = lifeboat(&vault, &words).await;
            assert_eq!(restored.code(), Some(0), "{database}: {restored}");
            let rows = "SELECT count(*), min(of), max(of) FROM \"its/own.name\"";
            assert_eq!(to.query(database, rows).await.trim(), format!("300|{database}|{database}"));
            let others = "SELECT count(*) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'";
            assert_eq!(to.query("postgres", others).await.trim(), (at + 1).to_string(), "{database} brought others");
        }
        drop(from);
        // What it is called in the vault is no database.
        let words = ["restore", DATASET, "--to-postgres", &socket(&to), "--database", "a%2Fb"];
        let refused = lifeboat(&vault, &words).await;
        assert_eq!(refused.code(), Some(2), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_proves_them_equal() {
    let (server, vault) = captured(0).await;
    let query = |(database, _): (&str, &str)| DrillQuery {
        database: Some(database.to_owned()),
        sql: "SELECT max(of) FROM \"its/own.name\"".to_owned(),
        expect: Some(database.to_owned()),
        ..DrillQuery::default()
    };
    let settings = DrillConfig {
        level: Some(ProofLevel::Proved),
        queries: DATABASES.map(query).into(),
        server_directories: vec![server.programs().to_owned()],
        ..DrillConfig::default()
    };
    let reader = vault.open(vault.owner()).await.unwrap();
    let scratch = TempDir::new().unwrap();
    let drill = Drill {
        reader: &reader,
        dataset: &name(DATASET),
        selector: Selector::Latest,
        settings: &settings,
        past: &[],
        base: None,
        objectives: Objectives::default(),
        rehearses_loss: false,
        across: None,
        jobs: 2,
        environment: &tools::environment(),
        worker: &programs::worker(),
        scratch: scratch.path().to_owned(),
        clock: vault.clock.clone(),
        cancel: CancellationToken::new(),
    };
    let (report, error) = drill.run().await;
    assert!(error.is_none(), "{error:?}");
    assert!(report.passed && report.reached == Some(ProofLevel::Proved), "{report:?}");
    assert!(report.proof.as_ref().is_some_and(|proof| proof.rows >= 1500), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_names_are_no_paths_of_their_own_fails_and_commits_nothing() {
    let long = "x".repeat(1025);
    let cases: [(&[&str], &str); 12] = [
        (&["a", "a"], "a"),
        (&["a", "a/b"], "a"),
        (&["a/b", "a"], "a"),
        (&["a/b/c", "x", "a/b"], "a/b"),
        (&[".."], ".."),
        (&["a/../b"], "a/../b"),
        (&["."], "."),
        (&["/a"], "/a"),
        (&["a/"], "a/"),
        (&["a//b"], "a//b"),
        (&[""], "name"),
        (&[&long], "xxx"),
    ];
    let vault = TestVault::new(1, 1).await;
    let good = MemorySource {
        streams: ["a", "b/c", "b/d", "bc", "...", "x y", "é"].map(|name| (name.to_owned(), noise(1000, 1))).into(),
        ..MemorySource::default()
    };
    let first = vault.backup(&good).await.unwrap().snapshot;
    let before = files(&vault.replica_path(1).join("datasets/shop/snapshots"));
    for (streams, named) in cases {
        let streams = streams.iter().zip(0..).map(|(name, seed)| ((*name).to_owned(), noise(100_000, seed))).collect();
        let error = vault.backup(&MemorySource { streams, ..MemorySource::default() }).await.expect_err(named);
        assert_eq!(error.class(), Class::Source, "{error:?}");
        assert!(error.chain().contains(named), "{named}: {error:?}");
        assert_eq!(files(&vault.replica_path(1).join("datasets/shop/snapshots")), before, "{named} was committed");
    }
    // Nothing of it stays: the next run goes on from the good one.
    let next = vault.backup(&good).await.unwrap().snapshot;
    let expected: BTreeMap<String, Vec<u8>> = good.streams.into_iter().collect();
    assert!(vault.restore(&next).await.unwrap() == expected);
    let reader = vault.open(vault.owner()).await.unwrap();
    let manifest = reader.manifest(&name(DATASET), &next).await.unwrap();
    assert_eq!((manifest.sequence, manifest.predecessor()), (2, Some(&first)));
}
