//! One table out of a snapshot into a database that lives: what could go wrong for what is there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::databases::{RestoreOutcome, Wanted};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::work::{CapturedShop, only, restored};

fn tables(names: &[&str]) -> Wanted {
    Wanted { tables: names.iter().map(|name| (*name).to_owned()).collect(), ..only("shop") }
}

async fn put(shop: &CapturedShop, to: &Postgres, wanted: Wanted) -> Result<RestoreOutcome, String> {
    restored(&shop.streams, to, wanted, &shop.cx).await.map_err(|error| error.chain_and_hint())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_encoding_come_back_as_they_were() {
    let shop = CapturedShop::with("SELECT 1").await;
    // In LATIN1, the first are bytes that UTF-8 would take for one letter.
    let texts = "SELECT n, chr(195) || chr(169) AS double, chr(233) || 'tat' AS single FROM generate_series(1, 3) n";
    let latin = "CREATE DATABASE shop TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'";
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    for server in [&from, &to] {
        server.run_sql("postgres", latin).await;
    }
    from.run_sql("shop", &format!("CREATE TABLE texts AS {texts}")).await;
    let streams = lifeboat_tests::work::captured(&from, u64::MAX, &shop.cx).await;
    restored(&streams, &to, tables(&["public.texts"]), &shop.cx).await.unwrap();
    let bytes = "SELECT string_agg(encode(convert_to(double || single, 'LATIN1'), 'hex'), ' ' ORDER BY n) FROM texts";
    let (there, here) = (from.query("shop", bytes).await, to.query("shop", bytes).await);
    assert!(there.contains("c3a9e9746174") && there == here, "{there}\n{here}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_table_is_torn_out_or_lost() {
    let parts = "CREATE TABLE orders (n int, note text) PARTITION BY RANGE (n);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);
        CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20);
        INSERT INTO orders SELECT n, 'old' FROM generate_series(0, 19) n";
    let shop = CapturedShop::with(parts).await;
    let live = async |more: &str| {
        let to = Postgres::start().await;
        to.create_database("shop").await;
        to.run_sql("shop", &format!("{parts}; UPDATE orders SET note = 'new'; {more}")).await;
        to
    };
    let overwrite = |name: &str| Wanted { overwrite: true, ..tables(&[name]) };
    let rows = "SELECT count(*) || ' ' || min(note) || ' ' || max(note) FROM orders";

    let to = live("").await;
    let refused = put(&shop, &to, overwrite("public.orders_1")).await.unwrap_err();
    assert!(
        refused.contains("orders_1 as a part of public.orders") && refused.contains("name public.orders with --table"),
        "{refused}"
    );
    assert_eq!(to.query("shop", rows).await.trim(), "20 new new");
    put(&shop, &to, overwrite("public.orders")).await.unwrap();
    assert_eq!(to.query("shop", rows).await.trim(), "20 old old");

    let newer =
        "CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM (20) TO (30); INSERT INTO orders VALUES (25, 'new')";
    let to = live(newer).await;
    let refused = put(&shop, &to, overwrite("public.orders")).await.unwrap_err();
    assert!(refused.contains("not asked for: public.orders_3"), "{refused}");
    assert_eq!(to.query("shop", rows).await.trim(), "21 new new");

    let to = live("ALTER TABLE orders DETACH PARTITION orders_1").await;
    let refused = put(&shop, &to, overwrite("public.orders")).await.unwrap_err();
    assert!(
        refused.contains("tables of their own in database shop, and would be replaced: public.orders_1"),
        "{refused}"
    );
    assert_eq!(to.query("shop", "SELECT count(*) FROM orders_1 WHERE note = 'new'").await.trim(), "10");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_of_the_target_leaves_no_right_and_no_policy_behind() {
    let sql = "CREATE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
        CREATE TABLE checked (a int CHECK (fine(a)), b int); INSERT INTO checked VALUES (1), (2);
        ALTER TABLE checked ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON checked USING (a > 0);
        COMMENT ON POLICY seen ON checked IS 'which rows'";
    let shop = CapturedShop::with(sql).await;
    for (attack, body) in [
        ("gives a column", "EXECUTE ''GRANT SELECT (a), UPDATE (b) ON public.checked TO PUBLIC'';"),
        ("makes a policy", "IF a = 1 THEN EXECUTE ''CREATE POLICY mine ON public.checked USING (true)''; END IF;"),
        (
            "makes the policy first",
            "IF a = 1 THEN EXECUTE ''CREATE POLICY seen ON public.checked USING (true)''; END IF;",
        ),
        ("", ""),
    ] {
        let to = Postgres::start().await;
        to.create_database("shop").await;
        let fine =
            format!("CREATE FUNCTION fine(a int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN {body} RETURN true; END'");
        to.run_sql("shop", &fine).await;
        let done = put(&shop, &to, tables(&["public.checked"])).await;
        let there = to.query("shop", "SELECT count(*) FROM pg_class WHERE relname = 'checked'").await;
        if attack.is_empty() {
            done.unwrap();
            let policies = "SELECT string_agg(polname || pg_get_expr(polqual, polrelid), ' ') FROM pg_policy";
            assert_eq!(to.query("shop", policies).await.trim(), "seen(a > 0)");
            let comment = "SELECT description FROM pg_description d JOIN pg_policy p ON p.oid = d.objoid";
            assert_eq!(to.query("shop", comment).await.trim(), "which rows");
        } else {
            let refused = done.unwrap_err();
            assert!(refused.contains("made more than the tables"), "{attack}: {refused}");
            assert_eq!(there.trim(), "0", "{attack}");
        }
    }
}
