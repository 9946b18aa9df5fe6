//! After a restore into PostgreSQL, every object has its owner and every role its rights, or the
//! restore has failed and says what is lacking, and as whom it must load.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::Class;
use lifeboat_engine::databases::postgres::{PostgresConnection, PostgresTarget};
use lifeboat_engine::databases::{RestoreOutcome, Target, Wanted, load};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::tools;
use lifeboat_tests::work::{CapturedShop, captured, context, in_time, only, restored};
use tempfile::TempDir;

fn lost(outcome: &RestoreOutcome) -> Vec<(&str, &str)> {
    outcome.failures.iter().map(|failure| (failure.object.as_str(), failure.class.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_or_right_that_is_refused_is_a_failure() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    // In this encoding Lifeboat cannot compare the names of roles, so the server decides.
    from.run_sql("postgres", "CREATE DATABASE shop TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        .await;
    from.run_sql(
        "shop",
        "CREATE ROLE \"J\u{f6}\"; CREATE ROLE app; CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO \"J\u{f6}\";
         CREATE TABLE u AS SELECT 2 AS a; ALTER TABLE u OWNER TO app; GRANT SELECT ON u TO \"J\u{f6}\"; GRANT CONNECT ON DATABASE shop TO \"J\u{f6}\";
         CREATE TABLE v (a int, b int); CREATE STATISTICS st ON a, b FROM v; ALTER STATISTICS st OWNER TO \"J\u{f6}\"",
    )
    .await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    to.run_sql("postgres", "CREATE ROLE app; CREATE DATABASE shop").await;
    to.run_sql("shop", "CREATE TABLE precious AS SELECT 7 AS a").await;

    let strict = Wanted { overwrite: true, ..only("shop") };
    let error = restored(&streams, &to, strict.clone(), &cx).await.unwrap_err();
    assert_eq!(error.class(), Class::Source);
    for named in ["owner of TABLE public.t (role", "rights on ACL public.TABLE u", "rights on the database for J"] {
        assert!(error.chain().contains(named), "{named}: {}", error.chain());
    }
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--keep-going")), "{error:?}");
    assert_eq!(to.query("shop", "SELECT a FROM precious").await.trim(), "7");
    to.assert_nothing_is_left().await;

    let outcome = restored(&streams, &to, Wanted { keep_going: true, ..strict }, &cx).await.unwrap();
    assert!(lost(&outcome).contains(&("owner of TABLE public.t", "rights")), "{:?}", outcome.failures);
    assert!(outcome.failures.iter().all(|failure| failure.class == "rights"), "{:?}", outcome.failures);
    let kept =
        outcome.warnings.iter().find_map(|warning| Some(warning.split_once("is kept as ")?.1.to_owned())).unwrap();
    assert_eq!(to.query(&kept, "SELECT a FROM precious").await.trim(), "7");
    let owners = "SELECT relowner::regrole FROM pg_class WHERE relname IN ('t', 'u') ORDER BY relname";
    assert_eq!(to.query("shop", owners).await.split_whitespace().collect::<Vec<_>>(), ["\"lifeboat-orphans\"", "app"]);
}

/// As soon as a restore looks whether a database is empty, nobody can rename one for a while.
const HOLDS_NAMES: &str = "DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT (SELECT -count(*)%') LOOP
        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.001);
    END LOOP;
    LOCK TABLE pg_database IN SHARE MODE; PERFORM pg_sleep(5);
END $$";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_filled_at_the_last_moment_stays() {
    let shop = CapturedShop::with("CREATE TABLE t AS SELECT 1 AS a").await;
    let to = &shop.to;
    to.create_database("shop").await;
    let loading = "SELECT count(*) FROM pg_database WHERE datname LIKE 'lifeboat-loading-%'";
    let held =
        "SELECT count(*) FROM pg_locks WHERE relation = 'pg_database'::regclass AND mode = 'ShareLock' AND granted";
    let holding = async {
        while to.query("postgres", loading).await.trim() == "0" {}
        to.run_sql("postgres", HOLDS_NAMES).await;
    };
    let filling = async {
        while to.query("postgres", held).await.trim() == "0" {}
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        // The restore sends everybody away who is in it.
        while to.try_query("shop", "CREATE TABLE precious AS SELECT 7 AS a").await.is_err() {}
    };
    let all = async { tokio::join!(shop.restored(only("shop")), holding, filling) };
    let (error, (), ()) = in_time(all).await;
    let error = error.unwrap_err();
    assert!(error.class() == Class::Usage && error.chain().contains("database shop was filled"), "{error:?}");
    assert_eq!(to.query("shop", "SELECT a FROM precious").await.trim(), "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_the_server_does_not_give_is_told() {
    // Its grantor may not grant any more, of which the server only warns.
    let shop = CapturedShop::with(
        "CREATE ROLE app; CREATE ROLE reader; CREATE ROLE guest; CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO app;
         GRANT SELECT ON t TO reader WITH GRANT OPTION; SET SESSION AUTHORIZATION reader; GRANT SELECT ON t TO guest; RESET SESSION AUTHORIZATION;
         UPDATE pg_class SET relacl = replace(relacl::text, 'reader=r*/app', 'reader=r/app')::aclitem[] WHERE relname = 't'",
    )
    .await;
    let to = &shop.to;
    to.run_sql("postgres", "CREATE ROLE app; CREATE ROLE reader; CREATE ROLE guest").await;
    let error = shop.restored(only("shop")).await.unwrap_err();
    assert!(error.chain().contains("no privileges were granted for \"t\""), "{}", error.chain());
    assert!(to.try_query("shop", "SELECT 1").await.is_err());
    let outcome = shop.restored(Wanted { keep_going: true, ..only("shop") }).await.unwrap();
    assert_eq!(lost(&outcome), [("rights", "rights")]);
    // Also where warnings are not wanted.
    to.run_sql("postgres", "DROP DATABASE shop; ALTER ROLE postgres SET client_min_messages = error").await;
    let outcome = shop.restored(Wanted { keep_going: true, ..only("shop") }).await.unwrap();
    assert_eq!(lost(&outcome), [("rights", "rights")]);

    // A grantor who is not there is replaced by the owner.
    to.run_sql("postgres", "DROP DATABASE shop; DROP ROLE reader").await;
    let outcome = shop.restored(only("shop")).await.unwrap();
    let told = |warning: &String| warning.contains("granted by another role") && warning.contains("TABLE t");
    assert!(outcome.warnings.iter().any(told), "{:?}", outcome.warnings);
    assert_eq!(to.query("shop", "SELECT has_table_privilege('guest', 't', 'SELECT')").await.trim(), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_superuser_is_refused_and_named() {
    let shop = CapturedShop::with(
        "CREATE TABLE t AS SELECT 1 AS a; CREATE EXTENSION file_fdw; CREATE EXTENSION pgcrypto;
         CREATE PUBLICATION everything FOR ALL TABLES; CREATE CAST (text AS int) WITH INOUT; CREATE TYPE base;
         CREATE FUNCTION base_in(cstring) RETURNS base LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
         CREATE FUNCTION base_out(base) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
         CREATE TYPE base (INPUT = base_in, OUTPUT = base_out, LIKE = int4);
         CREATE FUNCTION tight(int) RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT $1';
         CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER sees ON ddl_command_end EXECUTE FUNCTION see();",
    )
    .await;
    let to = &shop.to;
    let error = shop.restored(only("shop")).await.unwrap_err();
    assert_eq!(error.class(), Class::Usage);
    let told = error.chain();
    assert!(
        told.contains("EXTENSION file_fdw") && !told.contains("pgcrypto") && told.contains("EVENT TRIGGER sees"),
        "{told}"
    );
    let by_definition =
        ["PUBLICATION everything", "CAST", "FUNCTION public.base_in", "TYPE public.base", "FUNCTION public.tight"];
    for named in by_definition {
        assert!(told.contains(named), "{named}: {told}");
    }
    assert!(!told.contains("FUNCTION public.see"), "{told}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--as-superuser")), "{error:?}");
    to.assert_nothing_is_left().await;
    assert!(to.try_query("shop", "SELECT 1").await.is_err());
    let outcome = shop.restored(Wanted { as_superuser: true, ..only("shop") }).await.unwrap();
    assert!(outcome.warnings.iter().any(|warning| warning.contains("EVENT TRIGGER sees")), "{:?}", outcome.warnings);
    assert_eq!(to.query("shop", "SELECT count(*) FROM pg_event_trigger").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_no_other_role_in_is_told_and_left_as_it_was() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("shop").await;
    from.run_sql("shop", "CREATE TABLE t AS SELECT 1 AS a").await;
    // It has read them when the capture has ended.
    let rules = to.query("postgres", "SHOW hba_file").await;
    std::fs::write(rules.trim(), "local all postgres trust\n").unwrap();
    to.run_sql("postgres", "SELECT pg_reload_conf()").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    let error = restored(&streams, &to, only("shop"), &cx).await.unwrap_err();
    let hint = error.hint_text().unwrap();
    assert!(hint.contains("--as-superuser") && hint.contains("pg_hba.conf"), "{error:?}");
    to.assert_nothing_is_left().await;
    assert!(to.try_query("shop", "SELECT 1").await.is_err());
    restored(&streams, &to, Wanted { as_superuser: true, ..only("shop") }, &cx).await.unwrap();
    assert_eq!(to.query("shop", "SELECT a FROM t").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_passwords_is_loaded_by_a_role_without_rights() {
    let from = Postgres::start().await;
    let to = Postgres::start_with_password("hush-4711").await;
    from.run_sql("postgres", "CREATE ROLE joe; CREATE DATABASE shop OWNER joe").await;
    from.run_sql("shop", "CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO joe").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    let server = PostgresTarget {
        connection: to.connection(),
        password: Some(lifeboat_engine::config::Secret::new(b"hush-4711".to_vec())),
        client_directories: vec![to.programs().to_owned()],
    };
    load(&streams, &Target::Server { server: Box::new(server), wanted: only("shop") }, &cx).await.unwrap();
    let owners = "SELECT relowner::regrole FROM pg_class WHERE relname = 't'";
    assert_eq!(to.query("shop", owners).await.trim(), "joe");
    to.assert_nothing_is_left().await;
    let left: Vec<_> = std::fs::read_dir(place.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A database that lets not everybody in, and one that does. A view takes its time to fill.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_before_the_snapshot_lets_him() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.run_sql("postgres", "CREATE ROLE app; CREATE DATABASE shut; CREATE DATABASE open").await;
    for database in ["shut", "open"] {
        from.run_sql(
            database,
            "CREATE MATERIALIZED VIEW slow AS SELECT 1 AS a, pg_sleep(2)::text; ALTER MATERIALIZED VIEW slow OWNER TO app",
        )
        .await;
    }
    from.run_sql("postgres", "REVOKE CONNECT ON DATABASE shut FROM PUBLIC").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    to.run_sql("postgres", "CREATE ROLE app; CREATE ROLE joe LOGIN").await;
    for (database, lets_in) in [("shut", "f"), ("open", "t")] {
        let may = format!("SELECT has_database_privilege('joe', '{database}', 'CONNECT')");
        let filling = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let looking = async {
            while to.query("postgres", filling).await.trim() == "0" {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Ok(to.query("postgres", &may).await)
        };
        let both = async { tokio::try_join!(restored(&streams, &to, only(database), &cx), looking) };
        let (_, meanwhile) = in_time(both).await.unwrap();
        assert_eq!(meanwhile.trim(), "f", "{database}");
        assert_eq!(to.query("postgres", &may).await.trim(), lets_in, "{database}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_orphans_that_cannot_be_used_is_refused_before_anything_is_loaded() {
    let shop = CapturedShop::with("CREATE TABLE t AS SELECT 1 AS a").await;
    let to = &shop.to;
    to.run_sql("postgres", "CREATE ROLE \"lifeboat-orphans\"; CREATE ROLE me; GRANT \"lifeboat-orphans\" TO me").await;
    let error = shop.restored(only("shop")).await.unwrap_err();
    assert_eq!(error.class(), Class::Usage);
    // It would say so if it had begun to restore the database.
    assert!(error.chain().starts_with("the role lifeboat-orphans has rights or members"), "{}", error.chain());
    to.run_sql("postgres", "REVOKE \"lifeboat-orphans\" FROM me").await;
    shop.restored(only("shop")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_a_superuser_is_filled_whatever_his_name_is_written_in() {
    let role = "SET client_encoding = 'UTF8'; CREATE ROLE \"J\u{f6}\" SUPERUSER";
    let view = "CREATE MATERIALIZED VIEW v AS SELECT 1 AS a; ALTER MATERIALIZED VIEW v OWNER TO \"J\u{f6}\"";
    let shop = CapturedShop::with(&format!("{role}; {view}")).await;
    let to = &shop.to;
    to.run_sql("postgres", role).await;
    // As an archive was while the database had this `client_encoding`.
    let mut tool = tokio::process::Command::new(shop.from.programs().join("pg_dump"));
    let dumped = tool.args(["-Fc", "-Z0", "-E", "LATIN1", "-d", &shop.from.url("shop")]).output().await.unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    for (name, (content, _)) in shop.streams.streams.lock().unwrap().iter_mut() {
        if name.contains("shop") {
            content.clone_from(&dumped.stdout);
        }
    }
    shop.restored(only("shop")).await.unwrap();
    assert_eq!(to.query("shop", "SELECT a FROM v").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_a_restore_left_is_told() {
    let shop = CapturedShop::with("").await;
    let to = &shop.to;
    to.run_sql("postgres", "CREATE ROLE \"lifeboat-loader-0123456789abcdef\"").await;
    let outcome = shop.restored(only("shop")).await.unwrap();
    let told = |warning: &String| warning.contains("role lifeboat-loader-0123456789abcdef");
    assert!(outcome.warnings.iter().any(told), "{:?}", outcome.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_a_role_may_not_become_asks_for_no_trust_in_the_snapshot() {
    for programs in [tools::postgresql(), tools::workspace().join(".tools/pg18/bin")] {
        let (from, to) = (Postgres::start_with(&programs).await, Postgres::start_with(&programs).await);
        from.create_database("shop").await;
        from.run_sql("shop", "CREATE ROLE app; ALTER DATABASE shop OWNER TO app; CREATE TABLE a (x int)").await;
        to.run_sql("postgres", "CREATE ROLE app LOGIN CREATEDB").await;
        let place = TempDir::new().unwrap();
        let cx = context(&place);
        let streams = captured(&from, u64::MAX, &cx).await;
        let PostgresConnection::Socket { directory, port, .. } = to.connection() else { panic!("a socket") };
        let server = PostgresTarget {
            connection: PostgresConnection::Socket { directory, port, user: Some("app".to_owned()) },
            password: None,
            client_directories: vec![programs],
        };
        let target = Target::Server { server: Box::new(server), wanted: only("shop") };
        let error = load(&streams, &target, &cx).await.unwrap_err();
        let hint = error.hint_text().unwrap_or_default();
        assert!(error.chain().contains("TABLE public.a"), "{error:?}");
        assert!(hint.contains("--as-superuser is not needed") && !hint.contains("trust"), "{error:?}");
        // As the hint says.
        restored(&streams, &to, only("shop"), &cx).await.unwrap();
    }
}
