//! The proof of equality, attacked: every difference between what was stored and what was restored
//! must be found and named, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::Class;
use lifeboat_engine::Result;
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::databases::proof::DrillQuery;
use lifeboat_engine::databases::sqlite::SqliteSource;
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::databases::{Source, ThrowAway, WorkContext, registry};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::sample;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::tools;
use lifeboat_tests::work::{captured as captured_of, context};
use tempfile::TempDir;
use tokio::process::Command;

const SCHEMA: &str = r#"
CREATE ROLE app LOGIN PASSWORD 'x';
CREATE ROLE "Leser ü";
GRANT app TO "Leser ü";
CREATE TYPE mood AS ENUM ('gut', 'schlecht');
CREATE TABLE plain (id int PRIMARY KEY, text text DEFAULT 'd', mood mood);
INSERT INTO plain SELECT n, CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '\N' WHEN 2 THEN E'tab\tnew\nline\\back' ELSE 'ünï 日本' END, 'gut' FROM generate_series(1, 3000) n;
CREATE TABLE parts (day date, amount numeric, twice numeric GENERATED ALWAYS AS (amount * 2) STORED) PARTITION BY RANGE (day);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
INSERT INTO parts SELECT date '2026-01-01' + n % 360, n FROM generate_series(1, 1000) n;
CREATE TABLE twins (n int);
INSERT INTO twins VALUES (1), (1), (2);
CREATE INDEX parts_amount ON parts (amount);
CREATE SEQUENCE counter;
SELECT setval('counter', 41);
CREATE MATERIALIZED VIEW sums AS SELECT mood, count(*) FROM plain GROUP BY mood;
CREATE FUNCTION sly() RETURNS text LANGUAGE sql AS $$ SELECT '
--
-- Name: plain; Type: TABLE; Schema: public; Owner: postgres
--
-- Data for Name: twins; Type: TABLE DATA; Schema: public; Owner: postgres
--
COPY public.twins (n) FROM stdin;
1
\.
\restrict me
-- Dumped from database version 1
' $$;
COMMENT ON FUNCTION sly() IS 'looks like a dump';
SELECT lo_from_bytea(4711, 'large one');
SELECT lo_from_bytea(4712, decode(repeat('00ff', 30000), 'hex'));
GRANT SELECT ON plain TO app;
"#;

/// Starts a throw-away database of the engine that `facts` name.
async fn start(facts: &SourceFacts, cx: &WorkContext) -> Result<Option<Box<dyn ThrowAway>>> {
    registry::find(&facts.engine).expect("a known engine").throw_away(facts, &[], cx).await
}

/// Tables of at least `large_table` bytes are in streams of their own.
async fn captured(large_table: u64) -> MemoryStreams {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.create_database("other").await;
    server.run_sql("shop", SCHEMA).await;
    server.run_sql("other", "CREATE TABLE t AS SELECT 1 AS n").await;
    captured_of(&server, large_table, &context(&TempDir::new().unwrap())).await
}

/// Runs SQL in the throw-away server.
async fn sabotage(server: &dyn ThrowAway, database: &str, sql: &str) {
    let address = server.address().expect("a server");
    let psql = Command::new(tools::postgresql().join("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", &address.user, "-d", database, "-c", sql, "-h"])
        .arg(address.socket_directory)
        .output()
        .await
        .unwrap();
    assert!(psql.status.success(), "{sql}: {}", String::from_utf8_lossy(&psql.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_servers_are_proved_and_each_sabotage_is_found_and_named() {
    let streams = captured(u64::MAX).await;
    assert!(streams.names().iter().any(|name| name == "database/shop"));
    prove_and_sabotage(&streams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_servers_whose_tables_were_captured_side_by_side() {
    let streams = captured(0).await;
    assert!(streams.names().iter().any(|name| name == "table/shop/public/plain"));
    prove_and_sabotage(&streams).await;
}

async fn prove_and_sabotage(streams: &MemoryStreams) {
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let mut server = start(&streams.facts, &cx).await.unwrap().unwrap();
    server.load(streams).await.unwrap();
    let queries = [
        DrillQuery {
            database: Some("shop".to_owned()),
            sql: "SELECT count(*) FROM plain".to_owned(),
            expect: Some("3000".to_owned()),
            ..DrillQuery::default()
        },
        DrillQuery {
            database: Some("shop".to_owned()),
            sql: "SELECT count(*) FROM plain".to_owned(),
            expect: Some("3001".to_owned()),
            ..DrillQuery::default()
        },
        DrillQuery {
            database: Some("shop".to_owned()),
            sql: "DELETE FROM plain".to_owned(),
            expect: None,
            ..DrillQuery::default()
        },
    ];
    let checks = server.check(&queries).await.unwrap();
    let passed: Vec<bool> = checks.iter().map(|check| check.passed).collect();
    assert_eq!(passed, [true, true, true, true, false, false], "{checks:?}");

    let typed = DrillQuery { sql: "SELEC count(*) FROM plain".to_owned(), ..queries[0].clone() };
    let error = server.check(&[queries[0].clone(), typed]).await.unwrap_err();
    assert!(error.class() == Class::Configuration && error.message().contains("SELEC"), "{error:?}");
    let function = "CREATE FUNCTION damaged() RETURNS int LANGUAGE plpgsql AS 'BEGIN EXECUTE ''SELEC''; RETURN 1; END'";
    sabotage(server.as_ref(), "shop", function).await;
    let calls = DrillQuery { sql: "SELECT damaged()".to_owned(), ..queries[2].clone() };
    assert!(!server.check(&[calls]).await.unwrap().last().unwrap().passed, "a damaged function is no typing error");
    sabotage(server.as_ref(), "shop", "DROP FUNCTION damaged()").await;

    let proof = server.prove(streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    assert_eq!((proof.rows, proof.large_objects), (3000 + 1000 + 3 + 1, 2));
    assert!(proof.tables >= 5 && proof.definitions > 20, "{proof:?}");

    // Rewritten in another order: the same data.
    sabotage(server.as_ref(), "shop", "UPDATE plain SET text = text WHERE id % 7 = 0; UPDATE twins SET n = n").await;
    let proof = server.prove(streams).await.unwrap();
    assert!(proof.is_equal(), "heap order counts: {:?}", proof.differences);

    for (sql, undo, named) in [
        (
            "UPDATE plain SET text = 'y' WHERE id = 17",
            "UPDATE plain SET text = '\\N' WHERE id = 17",
            "public.plain: rows differ",
        ),
        (
            "UPDATE plain SET text = NULL WHERE id = 17",
            "UPDATE plain SET text = '\\N' WHERE id = 17",
            "public.plain: rows differ",
        ),
        ("DELETE FROM twins WHERE n = 2", "INSERT INTO twins VALUES (2)", "public.twins: 3 rows stored, 2 restored"),
        (
            "INSERT INTO twins VALUES (2)",
            "DELETE FROM twins WHERE ctid = (SELECT max(ctid) FROM twins WHERE n = 2)",
            "public.twins: 3 rows stored, 4 restored",
        ),
        (
            "UPDATE twins SET n = 2 WHERE ctid = (SELECT min(ctid) FROM twins WHERE n = 1)",
            "UPDATE twins SET n = 1 WHERE ctid = (SELECT min(ctid) FROM twins WHERE n = 2)",
            "public.twins: rows differ",
        ),
        (
            "DROP INDEX parts_amount",
            "CREATE INDEX parts_amount ON parts (amount)",
            "INDEX public.parts_amount is missing",
        ),
        ("SELECT setval('counter', 42)", "SELECT setval('counter', 41)", "SEQUENCE SET public.counter"),
        (
            "ALTER TABLE plain ALTER text SET DEFAULT 'e'",
            "ALTER TABLE plain ALTER text SET DEFAULT 'd'",
            "TABLE public.plain",
        ),
        ("REVOKE SELECT ON plain FROM app", "GRANT SELECT ON plain TO app", "public.TABLE plain"),
        (
            "ALTER TABLE plain OWNER TO app",
            "ALTER TABLE plain OWNER TO postgres; GRANT SELECT ON plain TO app",
            "TABLE public.plain",
        ),
        ("SELECT lo_put(4711, 0, 'L')", "SELECT lo_put(4711, 0, 'l')", "large object 4711"),
        ("CREATE ROLE intruder", "DROP ROLE intruder", "CREATE ROLE intruder is only in the restored"),
        ("ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN", "ALTER ROLE app"),
        ("CREATE DATABASE more", "DROP DATABASE more", "\"more\" is only in the restored"),
        ("ALTER DATABASE other SET work_mem = '8MB'", "ALTER DATABASE other RESET work_mem", "\"other\""),
    ] {
        sabotage(server.as_ref(), "shop", sql).await;
        let proof = server.prove(streams).await.unwrap();
        assert!(
            proof.differences.iter().any(|difference| difference.contains(named)),
            "{sql}: {:?}",
            proof.differences
        );
        sabotage(server.as_ref(), "shop", undo).await;
    }
    let proof = server.prove(streams).await.unwrap();
    assert!(proof.is_equal(), "undone, yet: {:?}", proof.differences);

    let body = "CREATE OR REPLACE FUNCTION sly() RETURNS text LANGUAGE sql AS $$ SELECT '' $$";
    sabotage(server.as_ref(), "shop", body).await;
    sabotage(server.as_ref(), "postgres", "DROP DATABASE other").await;
    let proof = server.prove(streams).await.unwrap();
    for named in ["FUNCTION public.sly()", "\"other\" is missing"] {
        assert!(proof.differences.iter().any(|difference| difference.contains(named)), "{:?}", proof.differences);
    }
    assert!(!proof.differences.iter().any(|difference| difference.contains("SCRAM")), "a password hash is shown");
    server.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "files are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_a_little_of_everything_is_proved() {
    let source = Postgres::start().await;
    source.create_database("shop").await;
    source.run_sql("shop", sample::schema_sql()).await;
    source.run_sql("shop", &sample::fill_sql(0.02)).await;
    source.run_sql("shop", sample::change_sql()).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured_of(&source, 0, &cx).await;
    assert!(streams.names().iter().filter(|name| name.starts_with("table/shop/")).count() > 10);
    drop(source);
    let mut server = start(&streams.facts, &cx).await.unwrap().unwrap();
    server.load(&streams).await.unwrap();
    assert!(server.check(&[]).await.unwrap().iter().all(|check| check.passed));
    let proof = server.prove(&streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    assert!(proof.rows > 10_000 && proof.tables > 10 && proof.large_objects > 1, "{proof:?}");
    server.stop().await.unwrap();
}

fn alive(mark: &std::path::Path) -> bool {
    let mark = mark.to_string_lossy().into_owned();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mark)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throw_away_server_that_is_dropped_leaves_nothing() {
    let streams = captured(u64::MAX).await;
    let place = TempDir::new().unwrap();
    let server = start(&streams.facts, &context(&place)).await.unwrap().unwrap();
    assert!(alive(place.path()));
    drop(server);
    assert!(!alive(place.path()), "the server is alive");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "files are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_server_version_is_a_clear_error() {
    let place = TempDir::new().unwrap();
    let mut facts = MemoryStreams::default().facts;
    facts.engine = "postgres".to_owned();
    facts.server_version = Some("9.6.24".to_owned());
    let error = start(&facts, &context(&place)).await.err().unwrap();
    assert!(error.hint_text().unwrap().contains("postgresql-9"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_proved_by_content_and_each_sabotage_is_found() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("app.db");
    let sql = "PRAGMA user_version = 7; CREATE TABLE a(n INTEGER PRIMARY KEY, t, b BLOB); CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID;
        CREATE INDEX i ON a(t); CREATE VIEW v AS SELECT * FROM a; CREATE TRIGGER g AFTER INSERT ON a BEGIN SELECT 1; END;
        INSERT INTO a VALUES (1, 'x', x'00ff'), (2, NULL, 1.5), (3, '1', 1); INSERT INTO w VALUES ('ü', 1);";
    rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let mut streams = MemoryStreams::default();
    let source = SqliteSource { path: path.clone() };
    streams.facts = source.capture(&streams, &context(&place)).await.unwrap();
    let scratch = TempDir::new().unwrap();
    let mut file = start(&streams.facts, &context(&scratch)).await.unwrap().unwrap();
    file.load(&streams).await.unwrap();
    let query = DrillQuery {
        database: None,
        sql: "SELECT count(*) FROM a".to_owned(),
        expect: Some("3".to_owned()),
        ..DrillQuery::default()
    };
    assert!(file.check(&[query]).await.unwrap().iter().all(|check| check.passed));
    let proof = file.prove(&streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    assert_eq!((proof.rows, proof.tables), (4, 2));

    let restored = scratch.path().join("sqlite/restored.sqlite");
    let whole = std::fs::read(&restored).unwrap();
    for (sql, named) in [
        ("UPDATE a SET t = 'y' WHERE n = 1", "table a: rows differ"),
        ("UPDATE a SET t = 1 WHERE n = 3", "table a: rows differ"),
        ("DELETE FROM w", "table w: 1 rows stored, 0 restored"),
        ("DROP INDEX i", "index i is missing"),
        ("DROP TRIGGER g", "trigger g is missing"),
        ("PRAGMA user_version = 8", "user_version"),
    ] {
        rusqlite::Connection::open(&restored).unwrap().execute_batch(sql).unwrap();
        let proof = file.prove(&streams).await.unwrap();
        assert!(
            proof.differences.iter().any(|difference| difference.contains(named)),
            "{sql}: {:?}",
            proof.differences
        );
        std::fs::write(&restored, &whole).unwrap();
        let _ = std::fs::remove_file(scratch.path().join("sqlite/again.sqlite"));
    }
    file.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_a_drill_cannot_use_is_named_with_the_reason() {
    let place = TempDir::new().unwrap();
    let [empty, broken] = ["empty", "broken"].map(|name| place.path().join(name));
    for directory in [&empty, &broken] {
        std::fs::create_dir(directory).unwrap();
    }
    for tool in ["pg_dump", "pg_dumpall", "pg_restore", "psql"] {
        std::fs::copy("/bin/false", broken.join(tool)).unwrap();
    }
    let facts = SourceFacts {
        engine: "postgres".to_owned(),
        server_version: Some("99.1".to_owned()),
        ..SourceFacts::default()
    };
    let directories = [empty.clone(), broken.clone(), tools::postgresql()];
    let engine = registry::find("postgres").unwrap();
    let error = engine.throw_away(&facts, &directories, &context(&place)).await.err().unwrap();
    for (directory, why) in
        [(&empty, "it has no pg_dump"), (&broken, "pg_dump"), (&tools::postgresql(), "its version is 1")]
    {
        let said = format!("{} is passed over: {why}", directory.display());
        assert!(error.chain().contains(&said), "{said}: {error:?}");
    }
}
