//! Partitions of one table: what of them has no rows in a snapshot, and in which order columns
//! come.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::databases::{Portion, PortionOutcome, RowFormat, Wanted, registry};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{captured, context, only, restored};
use tempfile::TempDir;

/// The first partition has its columns in another order.
const PARTED: &str = "CREATE TABLE p (a text NOT NULL, b text, c int) PARTITION BY LIST (c);
    CREATE TABLE p_1 (c int, b text, a text NOT NULL); ALTER TABLE p ATTACH PARTITION p_1 FOR VALUES IN (1);
    CREATE TABLE p_2 PARTITION OF p FOR VALUES IN (2); CREATE UNLOGGED TABLE p_3 PARTITION OF p FOR VALUES IN (3);
    INSERT INTO p VALUES ('a', 'b', 1), (E'a\ta', NULL, 2), ('', 'b', 3);
    CREATE FOREIGN DATA WRAPPER none; CREATE SERVER nowhere FOREIGN DATA WRAPPER none;
    CREATE FOREIGN TABLE p_4 PARTITION OF p FOR VALUES IN (4) SERVER nowhere";

async fn given(streams: &MemoryStreams, format: RowFormat) -> Result<(String, PortionOutcome)> {
    let mut out = Vec::new();
    let portion = Portion::Rows { table: "public.p".to_owned(), format };
    let outcome = registry::find("postgres").unwrap().give(streams, Some("shop"), &portion, &mut out).await?;
    Ok((String::from_utf8(out).unwrap(), outcome))
}

fn wanted(rename: Option<&str>) -> Wanted {
    Wanted { tables: vec!["public.p".to_owned()], rename: rename.map(str::to_owned), ..only("shop") }
}

fn told(warnings: &[String], what: &str) -> bool {
    warnings.iter().any(|warning| warning.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_elsewhere_are_told_and_rows_that_are_gone_are_refused() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("shop").await;
    from.run_sql("shop", PARTED).await;
    to.create_database("shop").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    for large_table in [u64::MAX, 0] {
        let streams = captured(&from, large_table, &cx).await;
        let (copy, outcome) = given(&streams, RowFormat::Copy).await.unwrap();
        assert_eq!((copy.as_str(), outcome.rows), ("a\tb\t1\na\\ta\t\\N\t2\n\tb\t3\n", Some(3)), "{large_table}");
        assert!(told(&outcome.warnings, "public.p_4 lie on another server"), "{:?}", outcome.warnings);
        let (csv, _) = given(&streams, RowFormat::Csv).await.unwrap();
        assert_eq!(csv, "a,b,c\na,b,1\na\ta,,2\n\"\",b,3\n", "{large_table}");

        let part = format!("part_{}", large_table.min(1));
        for (rename, database) in [(None, "shop"), (Some(part.as_str()), part.as_str())] {
            let outcome = restored(&streams, &to, wanted(rename), &cx).await.unwrap();
            assert!(told(&outcome.warnings, "FOREIGN TABLE public.p_4"), "{:?}", outcome.warnings);
            let rows = "SELECT string_agg(p::text, ' ' ORDER BY c) FROM p";
            assert_eq!(to.query(database, rows).await.trim(), "(a,b,1) (\"a\ta\",,2) (\"\",b,3)", "{database}");
        }
        to.run_sql("shop", "DROP TABLE p").await;
    }

    // As a snapshot of a standby has it.
    let streams = captured(&from, 0, &cx).await;
    assert!(streams.streams.lock().unwrap().remove("table/shop/public/p_3").is_some());
    streams.order.lock().unwrap().retain(|name| name != "table/shop/public/p_3");
    let (_, outcome) = given(&streams, RowFormat::Csv).await.unwrap();
    assert_eq!(outcome.rows, Some(2));
    assert!(told(&outcome.warnings, "public.p_3 is unlogged"), "{:?}", outcome.warnings);
    let outcome = restored(&streams, &to, wanted(Some("standby")), &cx).await.unwrap();
    assert!(told(&outcome.warnings, "public.p_3 is unlogged"), "{:?}", outcome.warnings);

    // A snapshot whose rows were lost.
    assert!(streams.streams.lock().unwrap().remove("table/shop/public/p_2").is_some());
    streams.order.lock().unwrap().retain(|name| name != "table/shop/public/p_2");
    let lost = given(&streams, RowFormat::Csv).await.unwrap_err();
    assert_eq!(
        (lost.class(), lost.chain().contains("no rows of table public.p_2")),
        (Class::Integrity, true),
        "{lost:?}"
    );
    let lost = restored(&streams, &to, wanted(Some("lost")), &cx).await.unwrap_err();
    assert_eq!(
        (lost.class(), lost.chain().contains("no rows of table public.p_2")),
        (Class::Integrity, true),
        "{lost:?}"
    );
    let left = to.query("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ 'lost|loading'").await;
    assert_eq!(left.trim(), "0", "a database without rows is left");
}
