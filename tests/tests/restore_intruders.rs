//! Code of a dump that waits for its moment: for other rights, another session, another setting.
//! It runs, and gains nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use lifeboat_engine::databases::Wanted;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::tools;
use lifeboat_tests::work::{CapturedShop, captured, context, in_time, only, restored};
use tempfile::TempDir;

/// The PostgreSQL of the system, and version 18.
fn versions() -> [std::path::PathBuf; 2] {
    [tools::postgresql(), tools::workspace().join(".tools/pg18/bin")]
}

/// Two users. One has a secret; the other has code, which does nothing yet.
const USERS: &str = "
CREATE ROLE mallory LOGIN; CREATE ROLE app LOGIN;
CREATE SCHEMA s AUTHORIZATION app; CREATE SCHEMA hers AUTHORIZATION mallory; GRANT USAGE ON SCHEMA s TO PUBLIC;
SET SESSION AUTHORIZATION app;
CREATE TABLE s.aa (a int PRIMARY KEY, secret text); INSERT INTO s.aa VALUES (1, 'hush');
CREATE SEQUENCE s.seq; SELECT setval('s.seq', 5);
SET SESSION AUTHORIZATION mallory;
SELECT lo_from_bytea(4712, 'hers');
CREATE FUNCTION hers.act(x text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN ''nothing''; END';
CREATE FUNCTION hers.take(x int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN hers.act(''rows''); END';
";

/// Reads what it can, and keeps it wherever it may. If `ANALYZE` comes too early, it fails, so that
/// it comes again.
const READER: &str = r"
CREATE FUNCTION hers.wait(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN IF hers.act(''plan'') <> ''nothing'' THEN PERFORM pg_sleep(4); END IF; RETURN x; END';
CREATE FUNCTION hers.diff(x int, y int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN RETURN CASE WHEN hers.act(''diff'') = ''nothing'' THEN 1 ELSE 4711 END; END';
CREATE TYPE hers.span AS RANGE (subtype = int, subtype_diff = hers.diff);
CREATE TABLE hers.seen (a int, b hers.span); INSERT INTO hers.seen SELECT n, hers.span(1, n) FROM generate_series(2, 40) n;
CREATE INDEX i ON hers.seen (hers.take(a));
CREATE STATISTICS hers.st ON hers.take(a), (a + 1) FROM hers.seen;
CREATE TABLE hers.bb (a int PRIMARY KEY); INSERT INTO hers.bb VALUES (2);
CREATE TABLE hers.child (a int REFERENCES hers.bb); INSERT INTO hers.child VALUES (2);
CREATE INDEX j ON hers.child ((a + hers.wait(1)));
CREATE OR REPLACE FUNCTION hers.act(x text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text; BEGIN
    IF current_user NOT LIKE 'lifeboat-%' THEN RETURN 'nothing'; END IF;
    BEGIN
        SELECT secret INTO found FROM s.aa;
    EXCEPTION WHEN OTHERS THEN
        IF session_user = 'postgres' THEN RAISE 'later'; END IF;
        RETURN 'nothing';
    END;
    RAISE LOG 'mallory as % read % for %', session_user, found, x;
    BEGIN PERFORM lo_put(4712, 0, found::bytea); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN PERFORM setval('s.seq', 99); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN INSERT INTO s.aa VALUES (2, 'hers'); EXCEPTION WHEN OTHERS THEN NULL; END;
    RETURN found;
END $$;
";

async fn code_that_reads_keeps_nothing(programs: &Path) {
    let (from, to) = (Postgres::start_with(programs).await, Postgres::start_with(programs).await);
    from.create_database("shop").await;
    from.run_sql("shop", &format!("{USERS}{READER}")).await;
    let always =
        ["autovacuum_naptime = '1s'", "autovacuum_analyze_threshold = 0", "autovacuum_analyze_scale_factor = 0"];
    for setting in always {
        to.run_sql("postgres", &format!("ALTER SYSTEM SET {setting}")).await;
    }
    to.run_sql("postgres", "SELECT pg_reload_conf()").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    for large_table in [u64::MAX, 0] {
        let streams = captured(&from, large_table, &cx).await;
        let wanted = Wanted { overwrite: true, globals: true, ..only("shop") };
        restored(&streams, &to, wanted, &cx).await.unwrap();
        let kept = "SELECT lo_get(4712) = 'hers', (SELECT last_value FROM s.seq), (SELECT count(*) FROM s.aa),
            (SELECT count(*) FROM pg_statistic p JOIN pg_class c ON c.oid = starelid
                WHERE relnamespace = 'hers'::regnamespace AND (p::text LIKE '%hush%' OR p::text LIKE '%4711%')),
            (SELECT count(*) FROM pg_statistic_ext_data p WHERE p::text LIKE '%hush%' OR p.stxdmcv::bytea LIKE '%hush%')";
        assert_eq!(to.query("shop", kept).await.trim(), "t|5|1|0|0");
    }
    // It did read: both as what plans the check of a foreign key, and as what autovacuum calls.
    let log = to.log();
    for read in ["mallory as lifeboat-loader-", "mallory as postgres read hush for rows", "read hush for diff"] {
        assert!(log.contains(read), "{read}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_runs_while_all_can_be_read_keeps_nothing_in_the_postgresql_of_the_system() {
    code_that_reads_keeps_nothing(&versions()[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_runs_while_all_can_be_read_keeps_nothing_in_postgresql_18() {
    code_that_reads_keeps_nothing(&versions()[1]).await;
}

/// Changes what the next sessions of the role mean by a row, and hides that in the end.
const SETTER: &str = r"
CREATE TABLE s.lists (a text[]); INSERT INTO s.lists VALUES ('{NULL}'); ALTER TABLE s.lists OWNER TO app;
CREATE DOMAIN hers.d AS int CHECK (hers.act('early') = 'nothing');
CREATE FUNCTION hers.step(hers.d, int) RETURNS hers.d LANGUAGE sql AS 'SELECT $1';
CREATE AGGREGATE hers.early(int) (SFUNC = hers.step, STYPE = hers.d, INITCOND = '1');
CREATE TABLE hers.zz (a text CHECK (hers.act(a) IS NOT NULL)); INSERT INTO hers.zz VALUES ('late');
CREATE OR REPLACE FUNCTION hers.act(x text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    IF x = 'early' THEN ALTER ROLE CURRENT_USER SET array_nulls = off; END IF;
    IF x = 'late' THEN ALTER ROLE CURRENT_USER RESET ALL; END IF;
    RAISE LOG 'mallory comes %', x;
    RETURN 'nothing';
END $$;
";

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_code_gives_the_role_for_a_while_end_the_restore() {
    let shop = CapturedShop::with(&format!("{USERS}RESET SESSION AUTHORIZATION;{SETTER}")).await;
    let to = &shop.to;
    let error = shop.restored(Wanted { globals: true, ..only("shop") }).await.unwrap_err();
    assert!(error.chain().contains("code that was restored has changed settings of the role"), "{}", error.chain());
    assert!(to.log().contains("mallory comes early") && !to.log().contains("mallory comes late"));
}

/// Waits in a row for somebody who comes in from outside, and where all can be read.
const WAITER: &str = r"
CREATE FUNCTION hers.wait(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN IF has_table_privilege(''s.aa'', ''SELECT'') THEN PERFORM pg_sleep(2); END IF; RETURN x; END';
CREATE TABLE hers.bb (a int PRIMARY KEY CHECK (hers.act('row') = 'nothing')); INSERT INTO hers.bb VALUES (1);
CREATE TABLE hers.child (a int REFERENCES hers.bb); INSERT INTO hers.child VALUES (1);
CREATE INDEX ON hers.child ((a + hers.wait(1)));
CREATE OR REPLACE FUNCTION hers.act(x text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    WHILE current_user LIKE 'lifeboat-%' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'go') LOOP
        PERFORM pg_sleep(0.05);
    END LOOP;
    RETURN 'nothing';
END $$;
";

/// A member's session reads as soon as it can.
const MEMBER: &str = "DO $$ BEGIN LOOP
    BEGIN PERFORM secret FROM s.aa; EXIT; EXCEPTION WHEN insufficient_privilege THEN PERFORM pg_sleep(0.02); END;
END LOOP; END $$; SELECT secret FROM s.aa";

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_came_in_as_the_role_is_ended_before_all_can_be_read() {
    let shop = CapturedShop::with(&format!("{USERS}{WAITER}")).await;
    let to = &shop.to;
    let sees = async |sql: &str| {
        loop {
            let seen = to.query("postgres", sql).await.trim().to_owned();
            if !seen.is_empty() {
                return seen;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let loader = async || {
        sees("SELECT usename FROM pg_stat_activity WHERE usename LIKE 'lifeboat-loader-%' AND query LIKE 'COPY hers.bb%'").await
    };
    // Up to version 14, code of the role itself could do what a superuser does here.
    let member = async {
        let role = loader().await;
        to.run_sql("postgres", &format!("GRANT \"{role}\" TO mallory")).await;
        let script = format!("SET SESSION AUTHORIZATION mallory; SET ROLE \"{role}\"; {MEMBER}");
        Ok(to.try_query("shop", &script).await)
    };
    let granting = async {
        let role = loader().await;
        sees("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO %PERFORM secret%' AND pid <> pg_backend_pid()").await;
        to.run_sql("postgres", &format!("REVOKE \"{role}\" FROM mallory; CREATE ROLE go")).await;
        Ok(())
    };
    let wanted = Wanted { globals: true, ..only("shop") };
    // A restore that fails ends the waiting of the others.
    let all = async { tokio::try_join!(shop.restored(wanted), member, granting) };
    let (_, read, ()) = in_time(all).await.unwrap();
    let error = read.unwrap_err();
    assert!(error.contains("terminating connection"), "{error}");
}

/// Changes what it can of others.
const CHANGER: &str = r"
CREATE TABLE hers.bb (a int CHECK (hers.act('row') = 'nothing')); INSERT INTO hers.bb VALUES (1);
CREATE OR REPLACE FUNCTION hers.act(x text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    RAISE LOG 'mallory comes';
    BEGIN INSERT INTO s.aa VALUES (2, 'hers'); EXCEPTION WHEN OTHERS THEN NULL; END;
    BEGIN GRANT ALL ON s.aa TO mallory; EXCEPTION WHEN OTHERS THEN NULL; END;
    RETURN 'nothing';
END $$;
";

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_database_do_not_take_the_guard_away() {
    let newer = &versions()[1];
    let (from, to) = (Postgres::start_with(newer).await, Postgres::start_with(newer).await);
    for setting in ["session_replication_role = replica", "event_triggers = off"] {
        from.run_sql("postgres", "DROP DATABASE IF EXISTS shop; DROP ROLE IF EXISTS mallory, app").await;
        from.create_database("shop").await;
        from.run_sql(
            "shop",
            &format!(
                "{USERS}{CHANGER} RESET SESSION AUTHORIZATION; ALTER DATABASE shop SET {setting};
                ALTER DATABASE shop SET work_mem = '5MB'"
            ),
        )
        .await;
        let place = TempDir::new().unwrap();
        let cx = context(&place);
        let streams = captured(&from, u64::MAX, &cx).await;
        let before = to.log().matches("mallory comes").count();
        let wanted = Wanted { overwrite: true, globals: true, ..only("shop") };
        restored(&streams, &to, wanted, &cx).await.unwrap();
        let kept = "SELECT count(*), has_table_privilege('mallory', 's.aa', 'SELECT') FROM s.aa";
        assert_eq!(to.query("shop", kept).await.trim(), "1|f", "{setting}");
        assert!(to.log().matches("mallory comes").count() > before);
        let set = to.query("shop", "SELECT unnest(setconfig) FROM pg_db_role_setting").await;
        assert_eq!(set.trim().replace('=', " = "), format!("{setting}\nwork_mem = 5MB"));
        // As it is for all of the server.
        to.run_sql("postgres", &format!("ALTER SYSTEM SET {setting}")).await;
        to.run_sql("postgres", "SELECT pg_reload_conf()").await;
        let wanted = Wanted { overwrite: true, globals: true, ..only("shop") };
        match restored(&streams, &to, wanted, &cx).await {
            Ok(_) => assert_eq!(to.query("shop", kept).await.trim(), "1|f", "{setting}"),
            Err(error) => assert!(error.chain().contains("event_triggers = off"), "{}", error.chain()),
        }
        to.run_sql("postgres", "ALTER SYSTEM RESET ALL").await;
        to.run_sql("postgres", "SELECT pg_reload_conf()").await;
    }
}

/// Databases of one server: the first has code that gives the role that loads a setting.
#[tokio::test(flavor = "multi_thread")]
async fn code_of_one_database_is_nothing_to_the_next() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    for database in ["one", "three", "two"] {
        from.create_database(database).await;
    }
    from.run_sql("two", "CREATE TABLE t AS SELECT 2 AS a").await;
    from.run_sql("one", "CREATE TABLE t AS SELECT 1 AS a").await;
    from.run_sql(
        "three",
        "CREATE FUNCTION act(x int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
         CREATE TABLE t (a int CHECK (act(a))); INSERT INTO t VALUES (1);
         CREATE OR REPLACE FUNCTION act(x int) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN ALTER ROLE CURRENT_USER SET search_path = hers; RETURN true; END'",
    )
    .await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    let wanted = Wanted { databases: ["one", "three", "two"].map(str::to_owned).to_vec(), ..Wanted::default() };
    let error = restored(&streams, &to, wanted.clone(), &cx).await.unwrap_err();
    assert!(error.chain().contains("restored before that: one"), "{}", error.chain());
    assert!(error.chain().contains("settings of the role"), "{}", error.chain());

    let wanted = Wanted { overwrite: true, keep_going: true, ..wanted };
    let outcome = restored(&streams, &to, wanted, &cx).await.unwrap();
    assert_eq!(outcome.written, ["one", "two"], "{:?}", outcome.failures);
    assert_eq!(to.query("two", "SELECT a FROM t").await.trim(), "2");
    let lost: Vec<&str> = outcome.failures.iter().map(|failure| failure.object.as_str()).collect();
    assert_eq!(lost, ["DATABASE three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_beside_a_cast_that_is_code_is_left_out_if_to_go_on_is_wanted() {
    let shop = CapturedShop::with(
        "CREATE TYPE mood AS ENUM ('a'); CREATE FUNCTION number(mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
         CREATE CAST (mood AS int) WITH FUNCTION number(mood) AS IMPLICIT;
         CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE u (a int REFERENCES t)",
    )
    .await;
    let to = &shop.to;
    let error = shop.restored(only("shop")).await.unwrap_err();
    assert!(error.chain().contains("implicit cast public.mood AS integer"), "{}", error.chain());
    let outcome = shop.restored(Wanted { keep_going: true, ..only("shop") }).await.unwrap();
    let lost: Vec<&str> = outcome.failures.iter().map(|failure| failure.object.as_str()).collect();
    assert_eq!(lost, ["FK CONSTRAINT public.u u_a_fkey"]);
    assert_eq!(to.query("shop", "SELECT a FROM t").await.trim(), "1");
}
