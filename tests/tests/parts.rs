//! PostgreSQL databases that are captured and loaded over several connections at once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresConnection, PostgresTarget};
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::databases::{Target, Wanted, WorkContext, load};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::tools;
use lifeboat_tests::work::{context, source, try_captured};
use tempfile::TempDir;

/// Two tables whose sums are equal in every state that anybody may see.
const SCHEMA: &str = r#"
CREATE SCHEMA "we.ird/ näme";
CREATE TABLE debit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount int NOT NULL);
CREATE TABLE credit (id serial PRIMARY KEY, debit int REFERENCES debit, amount int NOT NULL, note text);
CREATE TABLE "we.ird/ näme"."quote "" d" (n int PRIMARY KEY, half numeric GENERATED ALWAYS AS (1) STORED);
CREATE TABLE days (day date, n int) PARTITION BY RANGE (day);
CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE empty (n int);
INSERT INTO debit (amount) SELECT n % 100 FROM generate_series(1, 20000) n;
INSERT INTO credit (debit, amount, note) SELECT id, amount, md5(id::text) FROM debit;
INSERT INTO "we.ird/ näme"."quote "" d" SELECT n FROM generate_series(1, 3000) n;
INSERT INTO days SELECT date '2026-01-01' + n % 31, n FROM generate_series(1, 1000) n;
CREATE MATERIALIZED VIEW total AS SELECT sum(amount) AS amount FROM credit;
CREATE INDEX credit_note ON credit (note);
ALTER TABLE debit ADD credit int REFERENCES credit;
COMMENT ON CONSTRAINT credit_pkey ON credit IS 'kept';
COMMENT ON INDEX credit_note IS 'kept';
COMMENT ON CONSTRAINT debit_credit_fkey ON debit IS 'kept';
COMMENT ON TABLE debit IS 'kept';
SELECT lo_from_bytea(4711, 'large object content');
"#;
const SUMS: &str = r#"SELECT (SELECT sum(amount) FROM debit), (SELECT sum(amount) FROM credit), (SELECT count(*) FROM "we.ird/ näme"."quote "" d"),
    (SELECT count(*) FROM days), (SELECT amount FROM total), convert_from(lo_get(4711), 'UTF8'),
    (SELECT count(*) FROM pg_description WHERE description = 'kept')"#;

async fn capture(server: &Postgres, clients: &std::path::Path, cx: &WorkContext) -> Result<MemoryStreams> {
    let (databases, client_directories) = (vec!["bank".to_owned()], vec![clients.to_owned()]);
    try_captured(PostgresConfig { databases, client_directories, ..source(server, 0) }, cx).await
}

fn target(to: &Postgres, rename: Option<&str>) -> Target {
    Target::Server {
        server: Box::new(PostgresTarget {
            connection: to.connection(),
            password: None,
            client_directories: vec![to.programs().to_owned()],
        }),
        wanted: Wanted {
            databases: vec!["bank".to_owned()],
            rename: rename.map(str::to_owned),
            overwrite: false,
            ..Wanted::default()
        },
    }
}

async fn bank() -> Postgres {
    let server = Postgres::start().await;
    server.create_database("bank").await;
    server.run_sql("bank", SCHEMA).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parts_are_of_one_state_while_others_write_and_give_the_whole_database_back() {
    let (from, to) = (bank().await, Postgres::start().await);
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let stop = Arc::new(AtomicBool::new(false));
    // Never a state in which the sums differ, but one after another in which both are others.
    let writing = async {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            let both = "BEGIN; UPDATE debit SET amount = amount + 1 WHERE id <= 100; UPDATE credit SET amount = amount + 1 WHERE id <= 100; COMMIT;";
            from.run_sql("bank", both).await;
            rounds += 1;
        }
        rounds
    };
    let capturing = async {
        let streams = capture(&from, from.programs(), &cx).await.unwrap();
        stop.store(true, Ordering::Relaxed);
        streams
    };
    let (rounds, streams) = tokio::join!(writing, capturing);
    assert!(rounds > 2, "nobody wrote meanwhile");
    let mut names = streams.names();
    names.sort();
    assert_eq!(
        names,
        [
            "data/bank",
            "globals",
            "schema/bank",
            "table/bank/public/credit",
            "table/bank/public/days_1",
            "table/bank/public/debit",
            "table/bank/public/empty",
            "table/bank/we%2Eird%2F%20n%C3%A4me/quote%20%22%20d",
        ]
    );
    assert_eq!(streams.finished().len(), names.len());
    assert_eq!(
        from.query(
            "bank",
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessShareLock' AND relation = 'debit'::regclass"
        )
        .await
        .trim(),
        "0"
    );

    for name in ["bank", "copy"] {
        load(&streams, &target(&to, (name != "bank").then_some(name)), &cx).await.unwrap();
        let sums = to.query(name, SUMS).await;
        let sums: Vec<&str> = sums.trim().split('|').collect();
        assert_eq!(sums[0], sums[1], "debit and credit are of two states");
        assert_eq!(sums[2..4], ["3000", "1000"]);
        assert_eq!((sums[4], sums[5]), (sums[1], "large object content"), "the view was filled before its table was");
        assert_eq!(sums[6], "4", "comments were lost");
        to.run_sql(name, "INSERT INTO credit (debit, amount) VALUES (1, 1); INSERT INTO debit (amount) VALUES (1)")
            .await;
        let refused = to.try_query(name, "INSERT INTO credit (debit, amount) VALUES (-1, 1)").await.unwrap_err();
        assert!(refused.contains("foreign key"), "{refused}");
    }
    assert!(std::fs::read_dir(place.path()).unwrap().next().is_none(), "files are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_another_encoding_with_names_of_its_own_comes_back() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    let create = "CREATE DATABASE bank ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    from.run_sql("postgres", create).await;
    let schema = r#"SET client_encoding = 'UTF8'; CREATE TABLE "grün" (id serial PRIMARY KEY, t text); CREATE TABLE plain (id serial PRIMARY KEY, t text);
        INSERT INTO "grün" (t) SELECT 'Größe' FROM generate_series(1, 100); INSERT INTO plain (t) SELECT 'Größe' FROM generate_series(1, 200);
        CREATE INDEX "schön" ON plain (t); CREATE VIEW "übersicht" AS SELECT * FROM plain;"#;
    from.run_sql("bank", schema).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = capture(&from, from.programs(), &cx).await.unwrap();
    let tables: Vec<String> = streams.names().into_iter().filter(|name| name.starts_with("table/")).collect();
    assert_eq!(tables, ["table/bank/public/plain"]);
    load(&streams, &target(&to, None), &cx).await.unwrap();
    let sums = "SET client_encoding = 'UTF8'; SELECT count(*), (SELECT count(*) FROM \"grün\"), min(t), pg_encoding_to_char(encoding), nextval('plain_id_seq') FROM \"übersicht\", pg_database WHERE datname = current_database() GROUP BY encoding";
    assert_eq!(to.query("bank", sums).await, from.query("bank", sums).await);
    assert_eq!(to.query("bank", "SELECT count(*) FROM pg_class WHERE relname LIKE 'sch_n'").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_tools_load_the_parts_from_a_directory() {
    let (from, to) = (bank().await, Postgres::start().await);
    let place = TempDir::new().unwrap();
    let out = place.path().join("out");
    let cx = context(&place);
    let streams = capture(&from, from.programs(), &cx).await.unwrap();
    load(&streams, &Target::Directory { path: out.clone(), overwrite: false, sync: false }, &cx).await.unwrap();
    let operations = std::fs::read_to_string(tools::workspace().join("OPERATIONS.md")).unwrap();
    let (_, runbook) = operations.split_once("PostgreSQL's own tools load").unwrap();
    let script = runbook.split("```").nth(1).unwrap().replace("shop", "bank");
    let path = format!("{}:/usr/bin:/bin", to.programs().display());
    let PostgresConnection::Socket { directory, .. } = to.connection() else { panic!("no socket") };
    let done = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(&out)
        .env("PATH", path)
        .env("PGHOST", directory)
        .env("PGUSER", "postgres")
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(to.query("bank", SUMS).await, from.query("bank", SUMS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_one_table_that_is_cut_short_fails_the_capture() {
    let from = bank().await;
    let place = TempDir::new().unwrap();
    // Client tools among which pg_dump breaks off in one table.
    let clients = place.path().join("clients");
    std::fs::create_dir(&clients).unwrap();
    for tool in ["pg_dumpall", "pg_restore", "psql"] {
        std::os::unix::fs::symlink(from.programs().join(tool), clients.join(tool)).unwrap();
    }
    let wrapper = format!(
        "#!/bin/bash\ncase \"$*\" in *--table=*credit*) {0}/pg_dump \"$@\" | head -c 100000; exit 1 ;; *) exec {0}/pg_dump \"$@\" ;; esac\n",
        from.programs().display()
    );
    std::fs::write(clients.join("pg_dump"), wrapper).unwrap();
    std::fs::set_permissions(clients.join("pg_dump"), PermissionsExt::from_mode(0o755)).unwrap();
    let error = capture(&from, &clients, &context(&place)).await.unwrap_err();
    assert_eq!(error.class(), Class::Source);
    assert!(error.chain().contains("cannot dump table/bank/public/credit"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_turns_out_damaged_leaves_no_database_behind() {
    let (from, to) = (bank().await, Postgres::start().await);
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let mut damaged = capture(&from, from.programs(), &cx).await.unwrap();
    damaged.facts.details.insert("damaged".to_owned(), "table/bank/public/credit".to_owned());
    damaged.order.lock().unwrap().retain(|name| name != "globals");
    let refused = load(&damaged, &target(&to, None), &cx).await.unwrap_err();
    assert_eq!(refused.class(), Class::Integrity, "{refused:?}");
    assert_eq!(to.query("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'bank'").await.trim(), "0");

    // One without the rows of all other tables, or without its definitions, is no database.
    let whole = damaged.order.lock().unwrap().clone();
    damaged.facts.details.clear();
    damaged.order.lock().unwrap().retain(|name| name != "data/bank");
    let refused = load(&damaged, &target(&to, None), &cx).await.unwrap_err();
    assert!(refused.chain().contains("lacks rows"), "{refused:?}");
    *damaged.order.lock().unwrap() = whole;
    damaged.order.lock().unwrap().retain(|name| name != "schema/bank");
    let refused = load(&damaged, &target(&to, None), &cx).await.unwrap_err();
    assert!(refused.chain().contains("no definitions"), "{refused:?}");
}
