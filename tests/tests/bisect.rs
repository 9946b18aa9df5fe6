//! What a search among snapshots takes for an answer, and among which snapshots it searches.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use lifeboat_engine::clock::Clock;
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresSource};
use lifeboat_engine::databases::proof::{CheckResult, DrillQuery, Number};
use lifeboat_engine::drill::Asking;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::{Class, Error, Result};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name};
use lifeboat_tests::work::source;
use lifeboat_tests::{programs, tools};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn an_error_and_a_guess_are_no_answers() {
    let from = Postgres::start().await;
    for database in ["shop", "other"] {
        from.create_database(database).await;
    }
    from.run_sql("shop", "CREATE TABLE orders AS SELECT n FROM generate_series(1, 7) n").await;
    let vault = TestVault::new(1, 1).await;
    let databases = ["other", "shop"].map(str::to_owned).to_vec();
    let config = PostgresConfig { databases, ..source(&from, u64::MAX) };
    let snapshot = vault.backup(&PostgresSource(config)).await.unwrap().snapshot;
    let (reader, dataset) = (vault.open(vault.owner()).await.unwrap(), name(DATASET));
    let asked = async |database: Option<&str>, sql: &str| -> Result<CheckResult> {
        let query = DrillQuery {
            database: database.map(str::to_owned),
            sql: sql.to_owned(),
            at_least: Some(Number::Whole(7)),
            ..DrillQuery::default()
        };
        let asking = Asking {
            reader: &reader,
            dataset: &dataset,
            query: &query,
            directories: &[from.programs().to_owned()],
            jobs: 1,
            environment: &tools::environment(),
            worker: &programs::worker(),
            cancel: CancellationToken::new(),
        };
        let scratch = TempDir::new().unwrap();
        let streams = asking.open(&snapshot).await?;
        asking.ask(&streams, snapshot.time(), scratch.path().to_owned()).await
    };
    assert!(asked(Some("shop"), "SELECT count(*) FROM orders").await.unwrap().passed);
    assert!(!asked(Some("shop"), "SELECT count(*) - 1 FROM orders").await.unwrap().passed);
    let refused = |answer: Result<CheckResult>, class: Class, what: &str, hint: &str| {
        let error: Error = answer.unwrap_err();
        assert_eq!(error.class(), class, "{error:?}");
        assert!(error.chain().contains(what) && error.hint_text().unwrap().contains(hint), "{error:?}");
    };
    let misspelt = asked(Some("shop"), "SELECT count(*) FROM ordres").await;
    refused(misspelt, Class::Source, "is no answer: ", "correct the query");
    let text = asked(Some("shop"), "SELECT 'bob'").await;
    refused(text, Class::Usage, "found bob", "--expect");
    refused(asked(Some("shop"), "SELECT 1 / 0").await, Class::Source, "division by zero", "correct the query");
    refused(asked(Some("shop"), "SELEC 1").await, Class::Usage, "syntax error", "correct the query");
    refused(asked(None, "SELECT 7").await, Class::Usage, "several databases", "--database: other, shop");
    refused(asked(Some("nosuch"), "SELECT 7").await, Class::Usage, "no database `nosuch`", "it has: other, shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_believed_is_left_aside_with_a_warning() {
    let vault = TestVault::new(2, 2).await;
    let mut snapshots = Vec::new();
    for content in ["one", "two", "three"] {
        snapshots.push(vault.backup(&MemorySource::of(content)).await.unwrap().snapshot);
        vault.clock.advance(Duration::from_secs(60));
    }
    let (dataset, now) = (name(DATASET), vault.clock.now());
    let (forged, copied) = (SnapshotId::new(now, 7), SnapshotId::new(now, 8));
    let file =
        |replica: usize, snapshot: &SnapshotId| vault.replica_path(replica).join(layout::manifest(&dataset, snapshot));
    let signature = |replica, snapshot: &SnapshotId| {
        vault.replica_path(replica).join(layout::signature(&layout::manifest(&dataset, snapshot)))
    };
    // In every replica, so that nothing tells them from others but the signature.
    for replica in [1, 2] {
        std::fs::write(file(replica, &forged), b"garbage").unwrap();
        std::fs::write(signature(replica, &forged), b"x").unwrap();
        std::fs::copy(file(replica, &snapshots[0]), file(replica, &copied)).unwrap();
        std::fs::copy(signature(replica, &snapshots[0]), signature(replica, &copied)).unwrap();
    }
    let reader = vault.open(vault.owner()).await.unwrap();
    assert_eq!(reader.snapshots(&dataset).await.unwrap().len(), 5);
    let believed = reader.believed(&dataset, vault.clock.now()).await.unwrap();
    let ids: Vec<&SnapshotId> = believed.snapshots.iter().map(|(snapshot, _)| snapshot).collect();
    assert_eq!(ids, snapshots.iter().collect::<Vec<_>>());
    assert_eq!(believed.warnings.len(), 2, "one for each replica: {:?}", believed.warnings);
    assert!(believed.warnings.iter().all(|told| told.contains("left aside")), "{:?}", believed.warnings);
    // What lies behind now does not count.
    let early = reader.believed(&dataset, now - chrono::TimeDelta::days(2)).await.unwrap_err();
    assert!(early.class() != Class::Failed, "{early:?}");
}
