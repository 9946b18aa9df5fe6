//! What a restore of one table reads of a vault: the packs of its own streams, each once, and not
//! those of the rest.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresSource, PostgresTarget};
use lifeboat_engine::databases::{Portion, RowFormat, Target, Wanted, load, registry};
use lifeboat_engine::restore::SnapshotStreams;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::vault::{DATASET, TestVault, name};
use lifeboat_tests::work::{context, only, source};
use tempfile::TempDir;

/// A row of 4 KiB that does not compress.
const ROWS: &str = "SELECT n, (SELECT string_agg(sha512(convert_to(n || ' ' || i, 'UTF8')), '') FROM generate_series(1, 64) i) AS noise
    FROM generate_series({}) n";

/// What restores read, in bytes of packs.
struct Measured {
    whole: u64,
    /// What a part read, and how long the packs are in which its streams lie, and how many.
    parts: [(&'static str, u64, (u64, usize)); 3],
}

/// The packs in which streams lie: their length, and how many they are.
fn packs_of(streams: &SnapshotStreams, names: &[&str]) -> (u64, usize) {
    let manifest = streams.manifest();
    let contents = manifest.contents();
    let mut packs = BTreeSet::new();
    for stream in manifest.streams.iter().filter(|stream| names.contains(&stream.name.as_str())) {
        packs.extend(manifest.extents(stream, &contents).unwrap().iter().map(|extent| extent.pack));
    }
    (packs.iter().map(|pack| manifest.packs[*pack as usize].size).sum(), packs.len())
}

async fn measured(mebibytes: u64) -> Measured {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("shop").await;
    // A hundredth of all is in `one`; a few small tables share the stream of the rest.
    let rows = mebibytes * 256;
    for (table, numbers) in [("big", format!("1, {}", rows / 100 * 99)), ("one", format!("-{}, -1", rows / 100))] {
        let sql = format!(
            "CREATE TABLE {table} (n int, noise bytea); ALTER TABLE {table} ALTER noise SET STORAGE EXTERNAL;
             INSERT INTO {table} {}; ALTER TABLE {table} ADD PRIMARY KEY (n)",
            ROWS.replace("{}", &numbers)
        );
        from.run_sql("shop", &sql).await;
    }
    from.run_sql("shop", "CREATE TABLE small AS SELECT n, md5(n::text) FROM generate_series(1, 2000) n").await;
    let mut vault = TestVault::new(1, 1).await;
    vault.config.limits.stall = std::time::Duration::from_secs(300);
    let config = PostgresConfig { databases: vec!["shop".to_owned()], jobs: Some(2), ..source(&from, 1 << 20) };
    let snapshot = vault.backup(&PostgresSource(config)).await.unwrap().snapshot;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let reader = vault.open(vault.owner()).await.unwrap();
    let opened = async || -> SnapshotStreams { reader.streams(&name(DATASET), &snapshot).await.unwrap() };
    let target = |wanted: Wanted| Target::Server {
        server: Box::new(PostgresTarget {
            connection: to.connection(),
            password: None,
            client_directories: vec![to.programs().to_owned()],
        }),
        wanted,
    };

    let whole = opened().await;
    load(&whole, &target(only("shop")), &cx).await.unwrap();
    let of_table = packs_of(&whole, &["schema/shop", "table/shop/public/one"]);
    let of_schema = packs_of(&whole, &["schema/shop"]);
    let whole = whole.reading().fetched;

    to.run_sql("shop", "DROP TABLE one").await;
    let table = opened().await;
    load(&table, &target(Wanted { tables: vec!["public.one".to_owned()], ..only("shop") }), &cx).await.unwrap();
    let sum = "SELECT count(*), sum(hashtext(noise::text)) FROM one";
    assert_eq!(to.query("shop", sum).await, from.query("shop", sum).await);

    let engine = registry::find("postgres").unwrap();
    let rows_alone = opened().await;
    let portion = Portion::Rows { table: "public.one".to_owned(), format: RowFormat::Copy };
    let given = engine.give(&rows_alone, None, &portion, &mut tokio::io::sink()).await.unwrap();
    assert_eq!(given.rows, Some(rows / 100));
    let schema_alone = opened().await;
    engine.give(&schema_alone, None, &Portion::Definitions, &mut tokio::io::sink()).await.unwrap();
    let fetched = |streams: &SnapshotStreams| streams.reading().fetched;
    let parts = [
        ("one table", fetched(&table), of_table),
        ("its rows, into a file,", fetched(&rows_alone), of_table),
        ("the definitions", fetched(&schema_alone), of_schema),
    ];
    Measured { whole, parts }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_hundredth_reads_its_own_packs_once() {
    let Measured { whole, parts } = measured(320).await;
    for (what, fetched, (needed, packs)) in parts {
        // What is captured at the same time shares packs, which are fetched whole.
        assert_eq!(fetched, needed, "{what} read other packs than its own, or one twice");
        assert!(packs <= 3, "{what} lies in {packs} packs");
        assert!(fetched <= whole / 20 * packs as u64, "{what} read {fetched} of {whole} bytes, in {packs} packs");
    }
}
