//! Large tables of a PostgreSQL database, which are left out one by one, and a Redis, whose dumps
//! always differ.

use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::redis::Redis;
use serde_json::Value;

use crate::{Hosts, MONTHLY, names};

/// The tables that a report left out, without their database and schema.
fn tables_left_out(report: &Value) -> Vec<String> {
    assert_eq!(names(&report["in_part"]["restored"]), ["shop"], "{report:#}");
    let left_out = names(&report["in_part"]["left_out"]);
    let tables = left_out.iter().filter_map(|name| name.strip_prefix("table/shop/public/"));
    tables.map(str::to_owned).collect()
}

/// A source that captures tables of more than 100 KiB in streams of their own.
fn large_tables_of(server: &Postgres) -> String {
    format!(
        "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{}\"]\njobs = 2\nlarge_table = \"100KiB\"\n\
         databases = [\"shop\"]",
        server.url("postgres"),
        server.programs().display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn large_tables_that_did_not_change_are_left_out_unless_a_key_refers_to_them() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let rows = |from: u32, to: u32| format!("SELECT i, md5(i::text) FROM generate_series({from}, {to}) i");
    let fill = format!(
        "CREATE TABLE orders (id int PRIMARY KEY, name text); INSERT INTO orders {};
         CREATE TABLE lines (id int PRIMARY KEY, name text, of int REFERENCES orders);
         INSERT INTO lines SELECT i, md5(i::text), i FROM generate_series(1, 5000) i;
         CREATE TABLE logs (id int, name text) PARTITION BY RANGE (id);
         CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (1) TO (20000);
         CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM (20000) TO (40000);
         INSERT INTO logs {};
         CREATE TABLE notes (id serial PRIMARY KEY, name text); INSERT INTO notes (name) VALUES ('first');
         CREATE FUNCTION good(name text) RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM logs",
        rows(1, 5000),
        rows(1, 39_999)
    );
    server.run_sql("shop", &fill).await;
    let source = large_tables_of(&server);
    let hosts = Hosts::of(|_| source).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    assert_eq!(base["proof"]["rows"], 50_000, "{base:#}");

    server.run_sql("shop", "INSERT INTO notes (name) VALUES ('second')").await;
    hosts.backup().await;
    let notes = hosts.in_part(&base, &[]).await;
    assert_eq!(tables_left_out(&notes), ["lines", "logs_1", "logs_2", "orders"]);
    assert_eq!(notes["proof"]["rows"], 2, "{notes:#}");

    // A row may refer to any of the orders.
    server.run_sql("shop", "UPDATE lines SET name = 'other' WHERE id = 7").await;
    hosts.backup().await;
    let lines = hosts.in_part(&base, &[]).await;
    assert_eq!(tables_left_out(&lines), ["logs_1", "logs_2"]);
    assert_eq!(lines["proof"]["rows"], 10_002, "{lines:#}");

    hosts.plan(MONTHLY, "queries = [{ database = \"shop\", sql = \"SELECT 1 FROM logs LIMIT 1\" }]");
    let asked = hosts.whole("a query may ask any table", &[]).await;
    hosts.plan(MONTHLY, "");
    server.run_sql("shop", "UPDATE orders SET name = 'other' WHERE id = 7").await;
    hosts.backup().await;
    let orders = hosts.in_part(&asked, &[]).await;
    assert_eq!(tables_left_out(&orders), ["logs_1", "logs_2"], "a line may refer to an order that is gone");
    assert_eq!(orders["proof"]["rows"], 10_002, "{orders:#}");

    // Rows are proved under the definitions that they were proved with.
    let other = "CREATE OR REPLACE FUNCTION good(name text) RETURNS bool LANGUAGE sql AS 'SELECT false'";
    server.run_sql("shop", other).await;
    hosts.backup().await;
    hosts.whole("a function changed", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_code_looks_at_rows_no_table_is_left_out() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    // Both are large, so both have a stream; so that one finds the other, its name comes later.
    let fill = "CREATE TABLE a_rates (id int PRIMARY KEY, name text);
        INSERT INTO a_rates SELECT i, md5(i::text) FROM generate_series(1, 200) i;
        CREATE FUNCTION known(i int) RETURNS bool LANGUAGE sql STABLE AS
            'SELECT EXISTS (SELECT FROM public.a_rates AS rates WHERE rates.id = $1)';
        CREATE TABLE notes (id int, name text);
        INSERT INTO notes SELECT 1 + i % 200, md5(i::text) FROM generate_series(1, 20000) i;
        CREATE INDEX ON notes (known(id));
        CREATE TABLE logs (id int, name text);
        INSERT INTO logs SELECT i, md5(i::text) FROM generate_series(1, 60000) i";
    server.run_sql("shop", &fill.replace("STABLE", "IMMUTABLE")).await;
    let source = large_tables_of(&server);
    let hosts = Hosts::of(|_| source).await;
    hosts.backup().await;
    hosts.whole("the first", &[]).await;
    server.run_sql("shop", "UPDATE a_rates SET name = '' WHERE id = 7").await;
    hosts.backup().await;
    hosts.whole("an index of notes is made of what rates says", &[]).await;
    server.run_sql("shop", "DROP INDEX notes_known_idx").await;
    hosts.backup().await;
    let base = hosts.whole("a definition changed", &[]).await;
    server.run_sql("shop", "UPDATE a_rates SET name = '' WHERE id = 8").await;
    hosts.backup().await;
    assert_eq!(tables_left_out(&hosts.in_part(&base, &[]).await), ["logs", "notes"]);
    // A materialized view is filled again, from both or from none.
    let view = "CREATE MATERIALIZED VIEW shares AS SELECT 1 / length(r.name) FROM a_rates r JOIN notes n ON n.id = r.id
        WHERE r.name <> ''";
    server.run_sql("shop", view).await;
    hosts.backup().await;
    let base = hosts.whole("a definition changed", &[]).await;
    server.run_sql("shop", "UPDATE a_rates SET name = '' WHERE id = 9").await;
    hosts.backup().await;
    assert_eq!(tables_left_out(&hosts.in_part(&base, &[]).await), ["logs"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_is_restored_again_only_if_a_key_changed() {
    let server = Redis::start().await;
    server.run("SET a 1\nRPUSH list x y z\nHSET hash f v\n").await;
    let source = format!("kind = \"redis\"\nsocket = \"{}\"", server.socket().display());
    let hosts = Hosts::of(|_| source).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    hosts.backup().await;
    hosts.untouched(&base, &[]).await;
    server.run("SET a 2\n").await;
    hosts.backup().await;
    hosts.whole("a value changed", &[]).await;
}
