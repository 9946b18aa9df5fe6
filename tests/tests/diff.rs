//! What changed between two snapshots, by manifests alone and by rows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use lifeboat_engine::databases::mariadb::{MariaConfig, MariaSource};
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresSource};
use lifeboat_engine::diff::{RowChange, SnapshotDiff, StreamState, count_rows};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::keys::HostKeys;
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};
use lifeboat_tests::work::source as source_of;
use tempfile::TempDir;

fn lines(numbers: impl Iterator<Item = usize>) -> Vec<u8> {
    numbers.flat_map(|n| format!("{n}\t{}\n", blake3::hash(&n.to_le_bytes())).into_bytes()).collect()
}

fn source(streams: &[(&str, Vec<u8>)]) -> MemorySource {
    let streams = streams.iter().map(|(name, content)| ((*name).to_owned(), content.clone())).collect();
    MemorySource { streams, ..MemorySource::default() }
}

fn state(diff: &SnapshotDiff, stream: &str) -> (StreamState, u64) {
    let stream = diff.streams.iter().find(|one| one.stream == stream).unwrap();
    (stream.state, stream.fresh_bytes)
}

/// Of a real database, in layouts that differ.
#[tokio::test(flavor = "multi_thread")]
async fn large_objects_and_sequences_are_told_apart_from_definitions_and_rows() {
    let from = Postgres::start().await;
    from.create_database("shop").await;
    let sql = "CREATE TABLE orders (id serial PRIMARY KEY, item text); CREATE TABLE same AS SELECT n FROM generate_series(1, 50) n;
        INSERT INTO orders (item) SELECT md5(n::text) FROM generate_series(1, 500) n;
        SELECT lo_from_bytea(40001, 'first'), lo_from_bytea(40002, 'second'), lo_from_bytea(40003, 'third')";
    from.run_sql("shop", sql).await;
    let vault = TestVault::new(1, 1).await;
    let backup = async |jobs: usize, large_table: u64| {
        let config =
            PostgresConfig { databases: vec!["shop".to_owned()], jobs: Some(jobs), ..source_of(&from, large_table) };
        vault.clock.advance(Duration::from_secs(60));
        vault.backup(&PostgresSource(config)).await.unwrap().snapshot
    };
    let old = backup(1, u64::MAX).await;
    let other_layout = backup(2, 0).await;
    let change = "INSERT INTO orders (item) VALUES ('new'); SELECT lo_put(40002, 0, 'x'), lo_unlink(40003), lo_from_bytea(40004, 'y')";
    from.run_sql("shop", change).await;
    let new = backup(2, 0).await;
    let reader = vault.open(vault.owner()).await.unwrap();
    let scratch = TempDir::new().unwrap();
    let counted = async |old: &SnapshotId, new: &SnapshotId| {
        let mut diff = reader.diff(&name(DATASET), old, new).await.unwrap();
        count_rows(&reader, &mut diff, scratch.path()).await.unwrap();
        assert!(diff.streams.iter().all(|one| one.rows_counted || one.state == StreamState::Unchanged), "{diff:?}");
        diff.tables.unwrap()
    };
    assert_eq!(counted(&old, &other_layout).await, []);
    let change = |table: &str, added, removed| RowChange { table: format!("shop: {table}"), added, removed };
    let expected = [change("large objects", 2, 2), change("public.orders", 1, 0), change("sequence values", 1, 1)];
    assert_eq!(counted(&old, &new).await, expected);
    assert_eq!(counted(&other_layout, &new).await, expected);
}

/// Statements of a dump end after 1 MiB, so an early row moves the end of each.
#[tokio::test(flavor = "multi_thread")]
async fn one_row_of_mariadb_is_one_row_wherever_statements_end() {
    let from = MariaDb::start().await;
    let fill = "CREATE DATABASE shop; CREATE TABLE shop.orders (n INT PRIMARY KEY, item TEXT);
        CREATE TABLE shop.small (n INT PRIMARY KEY); INSERT INTO shop.small VALUES (1), (2);
        INSERT INTO shop.orders SELECT seq, REPEAT(MD5(seq), 20) FROM shop.seq_1_to_5000";
    from.run_sql("", fill).await;
    let vault = TestVault::new(1, 1).await;
    let backup = async || {
        let config = MariaConfig { databases: vec!["shop".to_owned()], ..from.source("root") };
        vault.clock.advance(Duration::from_secs(60));
        vault.backup(&MariaSource(config)).await.unwrap().snapshot
    };
    let old = backup().await;
    from.run_sql("shop", "INSERT INTO orders VALUES (0, REPEAT('x', 3000)); INSERT INTO small VALUES (3)").await;
    let new = backup().await;
    let (reader, scratch) = (vault.open(vault.owner()).await.unwrap(), TempDir::new().unwrap());
    let mut diff = reader.diff(&name(DATASET), &old, &new).await.unwrap();
    count_rows(&reader, &mut diff, scratch.path()).await.unwrap();
    let change = |table: &str, added, removed| RowChange { table: format!("shop: {table}"), added, removed };
    assert_eq!(diff.tables.unwrap(), [change("orders", 1, 0), change("small", 1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_removed_and_stored_anew_is_told() {
    let vault = TestVault::new(2, 2).await;
    let still = noise(3 << 20, 1);
    let before = [("gone", lines(0..50)), ("orders", lines(0..20_000)), ("still", still.clone())];
    let old = vault.backup(&source(&before)).await.unwrap().snapshot;
    vault.clock.advance(Duration::from_secs(60));
    // 40 rows are gone, 30 are new; of two that are equal, one more.
    let changed = lines((0..9_000).chain(9_040..20_000).chain(30_000..30_030).chain(std::iter::once(5)));
    let more = lines(50_000..50_010);
    let after = [("more", more.clone()), ("orders", changed), ("still", [&still[..], b"end\n"].concat())];
    let new = vault.backup(&source(&after)).await.unwrap().snapshot;

    // What a backup host can open is enough for bytes.
    let host = HostKeys::load(&vault.config.keys).unwrap().reader();
    let reader = vault.open(host).await.unwrap();
    let diff = reader.diff(&name(DATASET), &old, &new).await.unwrap();
    assert_eq!((&diff.old, &diff.new), (&old, &new));
    assert_eq!(state(&diff, "gone"), (StreamState::Removed, 0));
    assert_eq!(state(&diff, "more"), (StreamState::Added, more.len() as u64));
    let (orders, fresh) = state(&diff, "orders");
    assert_eq!(orders, StreamState::Changed);
    assert!((30 * 60..400_000).contains(&fresh), "{fresh} bytes of orders are new");
    let (_, fresh) = state(&diff, "still");
    assert!((4..1 << 20).contains(&fresh), "{fresh} bytes of what only grew by 4 are new");
    assert!(diff.tables.is_none() && diff.new_packs > 0 && diff.new_pack_bytes > 0);
    let scratch = TempDir::new().unwrap();
    let refused = count_rows(&reader, &mut diff.clone(), scratch.path()).await.unwrap_err();
    assert_eq!(refused.class(), lifeboat_engine::Class::Keys, "{refused:?}");

    let reader = vault.open(vault.owner()).await.unwrap();
    let mut counted = reader.diff(&name(DATASET), &old, &new).await.unwrap();
    assert_eq!(counted, diff);
    count_rows(&reader, &mut counted, scratch.path()).await.unwrap();
    let change = |table: &str, added, removed| RowChange { table: table.to_owned(), added, removed };
    let expected = [change("gone", 0, 50), change("more", 10, 0), change("orders", 31, 40), change("still", 1, 1)];
    let tables = counted.tables.unwrap();
    assert_eq!(tables, expected);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "hashes of rows are left on the disk");

    let mut back = reader.diff(&name(DATASET), &new, &old).await.unwrap();
    count_rows(&reader, &mut back, scratch.path()).await.unwrap();
    assert_eq!(back.tables.unwrap()[2], change("orders", 40, 31));
    let same = reader.diff(&name(DATASET), &new, &new).await.unwrap();
    assert!(same.streams.iter().all(|one| (one.state, one.fresh_bytes) == (StreamState::Unchanged, 0)));
}
