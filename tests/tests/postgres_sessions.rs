//! What a database, a role or a server has set decides nothing: neither what our statements mean,
//! nor whether a dump of the restored server is the same text.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::Class;
use lifeboat_engine::databases::postgres::{PostgresConfig, PostgresConnection, PostgresSource, PostgresTarget};
use lifeboat_engine::databases::proof::DrillQuery;
use lifeboat_engine::databases::{Source, Target, Wanted, WorkContext, load, registry};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::tools;
use lifeboat_tests::work::{captured, context, throw_away};
use tempfile::TempDir;

/// Captures `server`, loads it elsewhere, checks and proves it.
async fn assert_proved(server: &Postgres, queries: &[DrillQuery]) {
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(server, 0, &cx).await;
    let mut restored = throw_away(&streams.facts, &[server.programs().to_owned()], &cx).await;
    restored.load(&streams).await.unwrap();
    for check in restored.check(queries).await.unwrap() {
        assert!(check.passed, "{}: {}", check.check, check.detail);
    }
    let proof = restored.prove(&streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    restored.stop().await.unwrap();
}

/// The owner of a database puts views and functions in front of the catalogue's. Whoever asks them
/// as a superuser makes him one.
const HIJACK: &str = "
CREATE ROLE mallory LOGIN;
ALTER DATABASE shop OWNER TO mallory;
SET SESSION AUTHORIZATION mallory;
CREATE SCHEMA evil;
CREATE FUNCTION evil.take() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'ALTER ROLE mallory SUPERUSER';
    RETURN 0;
EXCEPTION WHEN OTHERS THEN RETURN 0;
END $$;
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['pg_class', 'pg_namespace', 'pg_settings', 'pg_database', 'pg_extension', 'pg_depend',
                                'pg_inherits', 'pg_roles', 'pg_sequence', 'pg_partitioned_table'] LOOP
        EXECUTE format('CREATE VIEW evil.%I AS SELECT c.*, evil.take() AS taken FROM pg_catalog.%I c', name, name);
    END LOOP;
END $$;
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT evil.take()::text';
CREATE FUNCTION evil.pg_export_snapshot() RETURNS text LANGUAGE sql AS 'SELECT evil.take()::text';
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT evil.take()::text';
CREATE FUNCTION evil.pg_relation_size(oid) RETURNS bigint LANGUAGE sql AS 'SELECT evil.take()::bigint';
CREATE FUNCTION evil.pg_table_size(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT evil.take()::bigint';
CREATE FUNCTION evil.pg_total_relation_size(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT evil.take()::bigint';
CREATE TABLE orders AS SELECT n FROM generate_series(1, 1000) n;
ALTER DATABASE shop SET search_path = evil, pg_catalog, public;
RESET SESSION AUTHORIZATION;
ALTER ROLE postgres IN DATABASE shop SET search_path = evil, pg_catalog, public;
";

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_database_cannot_make_our_statements_his() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", HIJACK).await;
    let place = TempDir::new().unwrap();
    let streams = captured(&server, 0, &context(&place)).await;
    assert!(streams.facts.warnings.is_empty(), "{:?}", streams.facts.warnings);
    let taken = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = 'mallory'";
    assert_eq!(server.query("postgres", taken).await.trim(), "f", "a backup made mallory a superuser");
    // The trap works: whoever asks without care falls into it.
    server.query("shop", "SELECT count(*) FROM pg_class").await;
    assert_eq!(server.query("postgres", taken).await.trim(), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_settings_of_its_own_is_proved_on_another() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    for setting in ["timezone = 'Europe/Berlin'", "bytea_output = 'escape'", "standard_conforming_strings = off"] {
        server.run_sql("postgres", &format!("ALTER SYSTEM SET {setting}")).await;
    }
    server.run_sql("postgres", "SELECT pg_reload_conf()").await;
    server
        .run_sql(
            "shop",
            r"CREATE TABLE ev (at timestamptz, day timestamp, b bytea, t text DEFAULT E'back\\slash');
              INSERT INTO ev VALUES ('2026-01-15 12:00+00', '2026-07-01 10:00', decode('00ff41', 'hex'), E'a\\b');
              CREATE ROLE guest VALID UNTIL '2030-06-01 00:00+00';
              ALTER DATABASE shop SET TimeZone = 'Asia/Tokyo';
              ALTER DATABASE shop SET bytea_output = 'escape';
              ALTER DATABASE shop SET statement_timeout = '1ms';",
        )
        .await;
    assert_proved(&server, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_frozen_is_restored_and_proved() {
    let server = Postgres::start().await;
    server.create_database("ro").await;
    server
        .run_sql("ro", "CREATE TABLE t AS SELECT 1 AS a; ALTER DATABASE ro SET default_transaction_read_only = on")
        .await;
    let query = DrillQuery {
        database: Some("ro".to_owned()),
        sql: "SELECT count(*) FROM t".to_owned(),
        expect: Some("1".to_owned()),
        ..DrillQuery::default()
    };
    assert_proved(&server, &[query]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_triggers_do_not_see_what_a_drill_installs() {
    for newest in [false, true] {
        let server = if newest {
            Postgres::start_with(&tools::workspace().join(".tools/pg18/bin")).await
        } else {
            Postgres::start().await
        };
        no_event_trigger_sees_a_drill(&server).await;
    }
}

async fn no_event_trigger_sees_a_drill(server: &Postgres) {
    let record = "BEGIN INSERT INTO ddl_history SELECT command_tag FROM pg_event_trigger_ddl_commands(); END";
    let refuse = "BEGIN RAISE EXCEPTION 'schema is frozen: %', tg_tag; END";
    for (database, event, body, how) in [
        ("history", "ddl_command_end", record, ""),
        ("frozen", "ddl_command_start", refuse, ""),
        ("always history", "ddl_command_end", record, "ALWAYS"),
        ("always frozen", "ddl_command_start", refuse, "ALWAYS"),
        ("replica", "ddl_command_end", record, "REPLICA"),
    ] {
        server.create_database(database).await;
        server
            .run_sql(
                database,
                &format!(
                    "CREATE TABLE ddl_history (tag text);
                     CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql SET search_path = public AS $$ {body} $$;
                     CREATE EVENT TRIGGER \"t See\" ON {event} EXECUTE FUNCTION see();
                     ALTER EVENT TRIGGER \"t See\" ENABLE {how};"
                ),
            )
            .await;
    }
    assert_proved(server, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_from_before_are_proved_with_the_text_that_they_have() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", r"CREATE TABLE f (b bytea); INSERT INTO f VALUES ('\x00ff')").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let mut streams = captured(&server, 0, &cx).await;
    assert!(streams.facts.details.remove("settled_text").is_some());
    let mut restored = throw_away(&streams.facts, &[], &cx).await;
    restored.load(&streams).await.unwrap();
    let proof = restored.prove(&streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    restored.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pg_dump_leaves_out_is_a_warning_of_the_snapshot() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server
        .run_sql(
            "shop",
            "CREATE TABLE a (id int PRIMARY KEY, b int);
             CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
             ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;
             CREATE SUBSCRIPTION news CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false);
             CREATE ROLE backup LOGIN;
             GRANT pg_read_all_data TO backup;",
        )
        .await;
    let place = TempDir::new().unwrap();
    let connection = match server.connection() {
        PostgresConnection::Socket { directory, port, .. } => {
            PostgresConnection::Socket { directory, port, user: Some("backup".to_owned()) }
        }
        other => other,
    };
    let config = PostgresConfig {
        connection,
        password: None,
        databases: vec!["shop".to_owned()],
        client_directories: vec![server.programs().to_owned()],
        jobs: None,
        large_table: u64::MAX,
    };
    let streams = MemoryStreams::default();
    let facts = PostgresSource(config).capture(&streams, &context(&place)).await.unwrap();
    let told = facts.warnings.iter().find(|warning| warning.contains("subscriptions not dumped"));
    assert!(told.is_some_and(|told| told.contains("database shop: pg_dump")), "{:?}", facts.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_many_tables_is_proved() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let many = "DO $$ BEGIN FOR n IN 1..9000 LOOP EXECUTE format('CREATE TABLE t%s (id int)', n); END LOOP; END $$";
    server.run_sql("shop", many).await;
    assert_proved(&server, &[]).await;
}

/// Whether the database, or a role that loads it, is there.
const DATABASE: &str = "SELECT count(*) FROM pg_database WHERE datname = 'shop'";
const ROLES: &str = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'lifeboat-%'";

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cancelled_leaves_no_database_and_no_role() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("shop").await;
    from.run_sql("shop", "CREATE TABLE t AS SELECT n, repeat('x', 200) AS x FROM generate_series(1, 300000) n").await;
    let place = TempDir::new().unwrap();
    let streams = captured(&from, 0, &context(&place)).await;
    let target = Target::Server {
        server: Box::new(PostgresTarget {
            connection: to.connection(),
            password: None,
            client_directories: vec![to.programs().to_owned()],
        }),
        wanted: Wanted { databases: vec!["shop".to_owned()], rename: None, overwrite: false, ..Wanted::default() },
    };
    // A server may have made a database or a role, and we do not know it yet.
    for there in [ROLES, ROLES, DATABASE, DATABASE, DATABASE, DATABASE] {
        let cx = context(&place);
        let (restored, ()) = tokio::join!(load(&streams, &target, &cx), async {
            while to.query("postgres", there).await.trim() == "0" {}
            cx.cancel.cancel();
        });
        assert!(restored.is_err(), "the restore was over before it could be cancelled");
        assert_eq!(to.query("postgres", DATABASE).await.trim(), "0", "the half-loaded database is still there");
        assert_eq!(to.query("postgres", ROLES).await.trim(), "0", "a role that loads is still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_encoding_that_somebody_set_is_not_that_of_a_dump() {
    let server = Postgres::start().await;
    for (database, encoding) in [("shop", "SJIS"), ("latin", "LATIN1"), ("usual", "UTF8")] {
        server.create_database(database).await;
        let sql = format!(
            "SET client_encoding = 'UTF8'; CREATE TABLE \"gr\u{fc}n\" AS SELECT '\u{8868}\\' AS a;
             ALTER DATABASE {database} SET client_encoding = '{encoding}'"
        );
        server.run_sql(database, &sql).await;
    }
    assert_proved(&server, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_snapshots_are_compared_in_their_own_encoding() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let sql = "SET client_encoding = 'UTF8'; CREATE TABLE \"gr\u{fc}n\" AS SELECT 'r\u{f6}t' AS a; ALTER DATABASE shop SET client_encoding = 'LATIN1'";
    server.run_sql("shop", sql).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&server, u64::MAX, &cx).await;
    let stream = streams.order.lock().unwrap().iter().find(|name| name.contains("shop")).unwrap().clone();
    for (encoding, proved) in [("LATIN1", true), ("SJIS", false)] {
        // As it was before.
        let mut tool = tokio::process::Command::new(server.programs().join("pg_dump"));
        tool.args(["-Fc", "-Z0", "-E", encoding, "-d", &server.url("shop")]);
        tool.env("PGOPTIONS", "-c TimeZone=UTC -c bytea_output=hex -c xmlbinary=base64 -c search_path=pg_catalog");
        if !proved {
            server.run_sql("shop", "SET client_encoding = 'UTF8'; DROP TABLE \"gr\u{fc}n\"").await;
        }
        let dumped = tool.output().await.unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        streams.streams.lock().unwrap().get_mut(&stream).unwrap().0 = dumped.stdout;
        let mut restored = throw_away(&streams.facts, &[server.programs().to_owned()], &cx).await;
        let loaded = restored.load(&streams).await;
        if proved {
            loaded.unwrap();
            let proof = restored.prove(&streams).await.unwrap();
            assert!(proof.is_equal(), "{:?}", proof.differences);
        } else {
            // It is no damage.
            assert_eq!(loaded.unwrap_err().class(), Class::Usage);
        }
        restored.stop().await.unwrap();
    }
}

/// Work whose tools find this file of services.
fn with_services(place: &TempDir, text: &str) -> WorkContext {
    let file = place.path().join("services");
    std::fs::write(&file, text).unwrap();
    let variable =
        |name: &str| if name == "PGSERVICEFILE" { Some(file.clone().into()) } else { std::env::var_os(name) };
    WorkContext { environment: registry::tool_environment(variable), ..context(place) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_sets_options_is_refused() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", HIJACK).await;
    let PostgresConnection::Socket { directory, .. } = server.connection() else { panic!("a socket") };
    let place = TempDir::new().unwrap();
    let service = format!("[s]\nhost={}\nuser=postgres\n", directory.display());
    let config = PostgresConfig {
        connection: PostgresConnection::Service("s".to_owned()),
        ..lifeboat_tests::work::source(&server, 0)
    };
    let streams = MemoryStreams::default();
    let cx = with_services(&place, &format!("{service}options=-c statement_timeout=5min\n"));
    let error = PostgresSource(config.clone()).capture(&streams, &cx).await.unwrap_err();
    let taken = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = 'mallory'";
    assert_eq!(server.query("postgres", taken).await.trim(), "f", "a backup made mallory a superuser");
    assert_eq!(error.class(), Class::Configuration);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("pg_service.conf")), "{error:?}");
    let cx = with_services(&place, &service);
    PostgresSource(config).capture(&streams, &cx).await.unwrap();
    assert_eq!(server.query("postgres", taken).await.trim(), "f", "a backup made mallory a superuser");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_a_service_is_not_that_of_the_role_that_loads() {
    let from = Postgres::start().await;
    let to = Postgres::start_with_password("hush-4711").await;
    from.create_database("shop").await;
    from.run_sql("shop", "CREATE TABLE t AS SELECT 1 AS a").await;
    let place = TempDir::new().unwrap();
    let streams = captured(&from, u64::MAX, &context(&place)).await;
    let url: url::Url = to.url("postgres").parse().unwrap();
    let service = format!("[s]\nhost=127.0.0.1\nport={}\nuser=postgres\npassword=hush-4711\n", url.port().unwrap());
    let server = PostgresTarget {
        connection: PostgresConnection::Service("s".to_owned()),
        password: None,
        client_directories: vec![to.programs().to_owned()],
    };
    let wanted = Wanted { databases: vec!["shop".to_owned()], ..Wanted::default() };
    load(&streams, &Target::Server { server: Box::new(server), wanted }, &with_services(&place, &service))
        .await
        .unwrap();
    assert_eq!(to.query("shop", "SELECT a FROM t").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_time_end_no_restore() {
    let newer = tools::workspace().join(".tools/pg18/bin");
    let (from, to) = (Postgres::start_with(&newer).await, Postgres::start_with(&newer).await);
    from.create_database("shop").await;
    from.run_sql(
        "shop",
        "CREATE TABLE t AS SELECT 1 AS a; CREATE MATERIALIZED VIEW slow AS SELECT 1 AS a, pg_sleep(2)::text;
         ALTER DATABASE shop SET transaction_timeout = '1s'; ALTER DATABASE shop SET idle_session_timeout = '1s'",
    )
    .await;
    to.run_sql("postgres", "ALTER ROLE postgres SET transaction_timeout = '1s'").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    lifeboat_tests::work::restored(&streams, &to, lifeboat_tests::work::only("shop"), &cx).await.unwrap();
    let count = "SELECT count(*) FROM slow";
    assert_eq!(to.query("shop", count).await.trim(), "1");
    let set = "SELECT string_agg(s, ' ' ORDER BY s) FROM pg_db_role_setting, unnest(setconfig) s WHERE setrole = 0";
    assert_eq!(to.query("shop", set).await.trim(), "idle_session_timeout=1s transaction_timeout=1s");
    assert_proved(&from, &[]).await;
}
