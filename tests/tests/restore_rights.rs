//! Restores into PostgreSQL servers run a dump's code without rights, and still give every object
//! its owner and every role its rights.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use lifeboat_engine::Class;
use lifeboat_engine::databases::Wanted;
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::tools;
use lifeboat_tests::work::{CapturedShop, captured, context, only, restored};
use tempfile::TempDir;

/// A user who may create in one schema, and nothing else, waits for the restore.
fn trap(canary: &str) -> String {
    format!(
        "CREATE ROLE mallory LOGIN;
         CREATE SCHEMA hers AUTHORIZATION mallory;
         SET SESSION AUTHORIZATION mallory;
         CREATE FUNCTION hers.act(x int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
         CREATE FUNCTION hers.take(x int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN hers.act(x); END';
         CREATE TABLE hers.checked (a int CHECK (hers.take(a)));
         CREATE TABLE hers.indexed (a int);
         INSERT INTO hers.checked VALUES (1);
         INSERT INTO hers.indexed VALUES (1);
         CREATE INDEX i ON hers.indexed (hers.take(a));
         CREATE TABLE hers.generated (a int, b boolean GENERATED ALWAYS AS (hers.take(a)) STORED);
         INSERT INTO hers.generated VALUES (1);
         CREATE DOMAIN hers.d AS int CHECK (hers.take(VALUE));
         CREATE TABLE hers.typed (a hers.d);
         INSERT INTO hers.typed VALUES (1);
         CREATE MATERIALIZED VIEW hers.seen AS SELECT hers.take(1) AS x;
         CREATE OR REPLACE FUNCTION hers.act(x int) RETURNS boolean LANGUAGE plpgsql AS $f$
         BEGIN
             FOR i IN 1..3 LOOP
                 BEGIN
                     IF i = 2 THEN EXECUTE 'RESET SESSION AUTHORIZATION'; END IF;
                     IF i = 3 THEN EXECUTE 'RESET ROLE'; END IF;
                     EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch {canary}''';
                     EXECUTE 'ALTER ROLE mallory SUPERUSER';
                 EXCEPTION WHEN OTHERS THEN NULL;
                 END;
             END LOOP;
             RETURN true;
         END $f$;"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn code_of_a_dump_runs_without_rights() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    // Writable for the servers too, which run as another user.
    let place = TempDir::new().unwrap();
    let canary = TempDir::new_in("/tmp").unwrap();
    std::fs::set_permissions(canary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let ran = canary.path().join("ran");
    from.create_database("shop").await;
    from.run_sql("shop", &trap(&ran.display().to_string())).await;
    assert!(!ran.exists());
    let cx = context(&place);
    let super_mallory = "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'";
    for large_table in [u64::MAX, 0] {
        let streams = captured(&from, large_table, &cx).await;
        let wanted = Wanted { overwrite: true, globals: true, ..only("shop") };
        let outcome = restored(&streams, &to, wanted, &cx).await.unwrap();
        assert!(!ran.exists(), "code of the dump ran a program");
        assert_eq!(to.query("postgres", super_mallory).await.trim(), "f");
        assert!(outcome.warnings.iter().all(|warning| !warning.contains("superuser:")), "{:?}", outcome.warnings);
        let owners = "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'hers'::regnamespace";
        assert_eq!(to.query("shop", owners).await.trim(), "mallory");
        to.assert_nothing_is_left().await;
    }
    // The trap works: it is the role without rights that closes it.
    let streams = captured(&from, u64::MAX, &cx).await;
    let wanted = Wanted { overwrite: true, as_superuser: true, ..only("shop") };
    let outcome = restored(&streams, &to, wanted, &cx).await.unwrap();
    assert!(ran.exists());
    let told = |warning: &String| warning.contains("could run as the superuser") && warning.contains("hers.take");
    assert!(outcome.warnings.iter().any(told), "{:?}", outcome.warnings);
}

/// Code of a user that tries, whenever it runs, to change and to read what belongs to others.
const INTRUDER: &str = r"
CREATE ROLE mallory LOGIN; CREATE ROLE app LOGIN; CREATE ROLE boss SUPERUSER;
CREATE SCHEMA s AUTHORIZATION app; CREATE SCHEMA hers AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA s TO PUBLIC;
CREATE FUNCTION s.of_boss() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; ALTER FUNCTION s.of_boss OWNER TO boss;
SET SESSION AUTHORIZATION app;
CREATE TABLE s.aa (a int PRIMARY KEY, secret text); INSERT INTO s.aa VALUES (1, 'hush');
CREATE TABLE s.zz (a int REFERENCES s.aa, b int CHECK (b > 0)); INSERT INTO s.zz VALUES (1, 1);
CREATE INDEX ON s.aa (secret); CREATE MATERIALIZED VIEW s.kept AS SELECT secret FROM s.aa;
CREATE SEQUENCE s.seq; SELECT setval('s.seq', 5);
SELECT lo_from_bytea(4711, 'one');
RESET SESSION AUTHORIZATION;
CREATE MATERIALIZED VIEW s.seen_by_boss AS SELECT count(*) FROM s.aa; ALTER MATERIALIZED VIEW s.seen_by_boss OWNER TO boss;
SET SESSION AUTHORIZATION mallory;
CREATE FUNCTION hers.act() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'nothing'; END $$;
CREATE FUNCTION hers.take(x int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN hers.act(); END';
CREATE DOMAIN hers.d AS int CHECK (hers.take(VALUE) = 'nothing');
CREATE FUNCTION hers.step(hers.d, int) RETURNS hers.d LANGUAGE sql AS 'SELECT $1';
CREATE AGGREGATE hers.early(int) (SFUNC = hers.step, STYPE = hers.d, INITCOND = '1');
CREATE TABLE hers.bb (a int CHECK (hers.take(a) IS NOT NULL), b text GENERATED ALWAYS AS (hers.take(a)) STORED);
INSERT INTO hers.bb VALUES (1);
CREATE INDEX i ON hers.bb (hers.take(a)) INCLUDE (a);
CREATE TABLE hers.typed (a hers.d); INSERT INTO hers.typed VALUES (1);
CREATE MATERIALIZED VIEW hers.seen AS SELECT hers.take(1) AS x;
CREATE OR REPLACE FUNCTION hers.act() RETURNS text LANGUAGE plpgsql AS $$
DECLARE sql text; found text; BEGIN
    IF session_user = 'mallory' OR current_setting('hers.busy', true) = 'yes' THEN RETURN 'nothing'; END IF;
    PERFORM set_config('hers.busy', 'yes', false);
    FOREACH sql IN ARRAY ARRAY[
        'CREATE FUNCTION hers.root() RETURNS void LANGUAGE sql SECURITY DEFINER AS ''ALTER ROLE mallory SUPERUSER''',
        'CREATE OR REPLACE FUNCTION s.of_boss() RETURNS int LANGUAGE sql SECURITY DEFINER AS ''SELECT 2''',
        'GRANT SELECT ON ALL TABLES IN SCHEMA s TO mallory', 'GRANT SELECT ON s.aa TO mallory',
        'ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO mallory',
        'CREATE TRIGGER t BEFORE INSERT ON s.zz FOR EACH ROW EXECUTE PROCEDURE hers.fire()',
        'CREATE RULE r AS ON INSERT TO s.zz DO INSTEAD NOTHING', 'CREATE POLICY p ON s.zz TO mallory',
        'ALTER TABLE s.zz DROP CONSTRAINT zz_b_check', 'ALTER TABLE s.aa OWNER TO mallory', 'DROP TABLE s.zz CASCADE',
        'REASSIGN OWNED BY CURRENT_USER TO mallory', 'CREATE SCHEMA more', 'CREATE TEMPORARY TABLE more (a int)',
        'INSERT INTO s.aa VALUES (2, ''more'')', 'UPDATE s.aa SET secret = ''other''', 'DELETE FROM s.aa', 'TRUNCATE s.aa CASCADE',
        'INSERT INTO hers.typed SELECT 7', 'INSERT INTO hers.bb SELECT 7',
        'ALTER DATABASE shop SET search_path = hers', 'COMMENT ON TABLE s.aa IS ''hers''',
        'SELECT setval(''s.seq'', 99)'
    ] LOOP
        EXIT WHEN current_user = 'mallory';
        BEGIN EXECUTE sql; RAISE LOG 'mallory did %', sql; EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    BEGIN EXECUTE 'SELECT secret FROM s.aa' INTO found; EXCEPTION WHEN OTHERS THEN found := NULL; END;
    PERFORM set_config('hers.busy', 'no', false);
    RETURN coalesce(found, 'nothing');
END $$;
CREATE FUNCTION hers.fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
";

#[tokio::test(flavor = "multi_thread")]
async fn code_of_a_dump_changes_and_reads_nothing_of_others() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("shop").await;
    from.run_sql("shop", INTRUDER).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let there = dump(&from, "shop").await;
    for large_table in [u64::MAX, 0] {
        let streams = captured(&from, large_table, &cx).await;
        let wanted = Wanted { overwrite: true, globals: true, ..only("shop") };
        restored(&streams, &to, wanted, &cx).await.unwrap();
        let here = dump(&to, "shop").await;
        let only_there: Vec<&String> = there.iter().filter(|line| !here.contains(line)).collect();
        let only_here: Vec<&String> = here.iter().filter(|line| !there.contains(line)).collect();
        assert!(only_there.is_empty() && only_here.is_empty(), "lost: {only_there:#?}\nnew: {only_here:#?}");
        let hers =
            "SELECT string_agg(x, ' ') FROM (SELECT b AS x FROM hers.bb UNION ALL SELECT x FROM hers.seen) AS hers";
        assert_eq!(to.query("shop", hers).await.trim(), "nothing nothing");
        let kept = "SELECT secret, (SELECT count FROM s.seen_by_boss) FROM s.kept";
        assert_eq!(to.query("shop", kept).await.trim(), from.query("shop", kept).await.trim());
        let settings = "SELECT count(*) FROM pg_db_role_setting";
        assert_eq!(to.query("postgres", settings).await.trim(), "0");
        to.assert_nothing_is_left().await;
    }
    assert!(!to.log().contains("mallory did"));
    // All of it works for a superuser, but for what nobody may do.
    let streams = captured(&from, u64::MAX, &cx).await;
    let wanted = Wanted { overwrite: true, keep_going: true, as_superuser: true, ..only("shop") };
    restored(&streams, &to, wanted, &cx).await.unwrap();
    let log = to.log();
    let attacks: Vec<&str> = INTRUDER
        .lines()
        .skip_while(|line| !line.contains("IN ARRAY"))
        .skip(1)
        .take_while(|line| !line.contains("LOOP"))
        .collect();
    let attacks = attacks.join("\n").replace("''", "\u{1}");
    let tried: Vec<String> = attacks.split('\'').skip(1).step_by(2).map(|sql| sql.replace('\u{1}', "'")).collect();
    assert_eq!(tried.len(), 23, "{tried:#?}");
    for sql in tried {
        assert!(sql.starts_with("REASSIGN") || log.contains(&format!("mallory did {sql}")), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_lets_others_in_as_the_role_that_loads_ends_the_restore() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    to.run_sql("postgres", "CREATE ROLE mallory").await;
    for (attack, told) in [
        ("ALTER ROLE CURRENT_USER PASSWORD ''known''", "the password of the role"),
        ("ALTER ROLE CURRENT_USER SET search_path = hers", "settings of the role"),
        ("DO $x$ BEGIN EXECUTE format(''GRANT %I TO mallory'', session_user); END $x$", "admin option"),
        ("SELECT lo_from_bytea(4712, ''new'')", "large objects"),
        ("SELECT set_config(''search_path'', ''hers'', false)", "has changed search_path"),
        ("SET transform_null_equals = on", "has changed settings"),
    ] {
        from.run_sql("postgres", "DROP DATABASE IF EXISTS shop").await;
        from.create_database("shop").await;
        from.run_sql(
            "shop",
            &format!(
                "CREATE FUNCTION act(x int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
                 CREATE TABLE t (a int CHECK (act(a))); INSERT INTO t VALUES (1); CREATE TABLE u AS SELECT 1 AS a;
                 CREATE OR REPLACE FUNCTION act(x int) RETURNS boolean LANGUAGE plpgsql AS
                    'BEGIN EXECUTE ''{}''; RETURN true; END'",
                attack.replace('\'', "''")
            ),
        )
        .await;
        let place = TempDir::new().unwrap();
        let cx = context(&place);
        let streams = captured(&from, u64::MAX, &cx).await;
        let error = restored(&streams, &to, only("shop"), &cx).await.unwrap_err();
        assert!(error.chain().contains(told), "{attack}: {}", error.chain());
        to.assert_nothing_is_left().await;
        assert!(to.try_query("shop", "SELECT 1").await.is_err());
    }
}

/// What has no owner on the target goes to a role without rights, never to the superuser.
#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_role_that_is_lacking_gets_no_rights() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("shop").await;
    from.run_sql(
        "shop",
        "CREATE ROLE mallory; CREATE SCHEMA hers AUTHORIZATION mallory; SET SESSION AUTHORIZATION mallory;
         CREATE FUNCTION hers.root() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'CREATE ROLE rooted';
         CREATE VIEW hers.hashes AS SELECT * FROM pg_authid; GRANT ALL ON hers.hashes TO PUBLIC; GRANT USAGE ON SCHEMA hers TO PUBLIC",
    )
    .await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    to.run_sql("postgres", "CREATE ROLE joe LOGIN").await;
    let outcome = restored(&streams, &to, only("shop"), &cx).await.unwrap();
    assert!(outcome.warnings.iter().any(|warning| warning.contains("lifeboat-orphans")), "{:?}", outcome.warnings);
    let owners = "SELECT string_agg(DISTINCT owner::regrole::text, ' ') FROM (SELECT proowner AS owner FROM pg_proc WHERE proname = 'root'
        UNION ALL SELECT relowner FROM pg_class WHERE relname = 'hashes' UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = 'hers') AS o";
    assert_eq!(to.query("shop", owners).await.trim(), "\"lifeboat-orphans\"");
    for use_of_it in ["SELECT hers.root()", "SELECT count(*) FROM hers.hashes"] {
        let refused = to.try_query("shop", &format!("SET SESSION AUTHORIZATION joe; {use_of_it}")).await.unwrap_err();
        assert!(refused.contains("permission denied"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_another_has_just_made_stays() {
    let shop = CapturedShop::with("CREATE TABLE t AS SELECT 1 AS a").await;
    let to = &shop.to;
    to.create_database("other").await;
    // The restore does not see it yet, and waits with its own.
    let other = to.run_sql("postgres", "BEGIN; ALTER DATABASE other RENAME TO shop; SELECT pg_sleep(6); COMMIT");
    let restoring = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        shop.restored(only("shop")).await
    };
    let ((), restored) = tokio::join!(other, restoring);
    assert_eq!(restored.unwrap_err().class(), Class::Source);
    assert_eq!(to.query("shop", "SELECT 1").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_replaced_only_if_nothing_at_all_was_made_in_it() {
    let shop = CapturedShop::with("CREATE TABLE t AS SELECT 1 AS a").await;
    let to = &shop.to;
    for made in [
        "CREATE PUBLICATION p",
        "CREATE CAST (text AS int) WITH INOUT",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "CREATE TEXT SEARCH CONFIGURATION public.c (COPY = pg_catalog.simple)",
    ] {
        to.run_sql("postgres", "DROP DATABASE IF EXISTS shop").await;
        to.create_database("shop").await;
        to.run_sql("shop", made).await;
        let error = shop.restored(only("shop")).await.unwrap_err();
        assert!(error.message().contains("not empty"), "{made}: {error:?}");
    }
    to.run_sql("postgres", "DROP DATABASE shop").await;
    to.create_database("shop").await;
    shop.restored(only("shop")).await.unwrap();
    assert_eq!(to.query("shop", "SELECT a FROM t").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_sets_another_role_is_restored() {
    let shop =
        CapturedShop::with("CREATE ROLE app; CREATE TABLE t AS SELECT 1 AS a; ALTER DATABASE shop SET role = app")
            .await;
    let to = &shop.to;
    for as_superuser in [false, true] {
        let wanted = Wanted { overwrite: true, globals: true, as_superuser, ..only("shop") };
        shop.restored(wanted).await.unwrap();
        assert_eq!(
            to.query("shop", "SELECT current_user, count(*) FROM pg_tables WHERE tablename = 't'").await.trim(),
            "app|1"
        );
    }
}

/// A schema with owners and rights of all kinds.
const SCHEMA: &str = r#"
CREATE ROLE "Büch er""s'" LOGIN; CREATE ROLE app LOGIN; CREATE ROLE reader; CREATE ROLE "select"; CREATE ROLE boss SUPERUSER;
GRANT CREATE ON DATABASE shop TO app, "Büch er""s'" WITH GRANT OPTION;
ALTER DATABASE shop OWNER TO app;
CREATE SCHEMA s AUTHORIZATION app; CREATE SCHEMA "S 2" AUTHORIZATION "Büch er""s'";
GRANT USAGE, CREATE ON SCHEMA s TO reader; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO reader;
GRANT CREATE ON SCHEMA public TO app;
SET SESSION AUTHORIZATION app;
CREATE DOMAIN s.positive AS int CHECK (VALUE > 0);
CREATE TYPE s.mood AS ENUM ('a', 'b'); CREATE TYPE s.pair AS (a int, b text);
CREATE FUNCTION s.twice(x integer, OUT y integer, VARIADIC z text[] DEFAULT '{}') LANGUAGE sql IMMUTABLE AS 'SELECT x * 2';
CREATE FUNCTION public.plain(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x';
CREATE PROCEDURE s.nothing(a numeric(10,2), b timestamp with time zone) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE s.total(int) (SFUNC = int4pl, STYPE = int);
CREATE FUNCTION s.same(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
CREATE OPERATOR s.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = s.same);
CREATE OPERATOR s.`~ (LEFTARG = int, RIGHTARG = int, FUNCTION = s.same);
CREATE COLLATION s.c FROM "C";
CREATE TEXT SEARCH CONFIGURATION s.ts (COPY = pg_catalog.simple);
CREATE TABLE s.parent (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n s.positive, m s.mood, b int GENERATED ALWAYS AS (1) STORED);
CREATE TABLE s.parted (id int, k int REFERENCES s.parent, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE s.parted_1 PARTITION OF s.parted FOR VALUES FROM (0) TO (10);
CREATE TABLE s.parted_2 PARTITION OF s.parted DEFAULT;
CREATE TABLE s.serial (id serial PRIMARY KEY, p int REFERENCES s.parent);
ALTER TABLE s.parent ADD q int REFERENCES s.serial;
CREATE SEQUENCE s.free; CREATE SEQUENCE s.aaa; ALTER SEQUENCE s.aaa OWNED BY s.serial.p;
CREATE STATISTICS s.st (dependencies) ON id, n FROM s.parent;
CREATE VIEW s.v AS SELECT id FROM s.parent; CREATE VIEW s.vv AS SELECT id FROM s.v;
CREATE RULE r AS ON INSERT TO s.vv DO INSTEAD NOTHING;
CREATE MATERIALIZED VIEW s.mv AS SELECT count(*) FROM s.serial; CREATE UNIQUE INDEX ON s.mv (count);
ALTER TABLE s.parent ENABLE ROW LEVEL SECURITY; ALTER TABLE s.parent FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON s.parent TO reader USING (id > 0);
CREATE FUNCTION s.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t BEFORE UPDATE ON s.serial FOR EACH ROW EXECUTE FUNCTION s.touch();
ALTER TABLE s.serial ENABLE ALWAYS TRIGGER t;
GRANT SELECT (id), UPDATE (n) ON s.parent TO reader; GRANT SELECT ON s.serial TO reader WITH GRANT OPTION;
REVOKE ALL ON s.mv FROM app; GRANT SELECT ON s.mv TO app, PUBLIC; GRANT USAGE ON SEQUENCE s.free TO reader;
GRANT EXECUTE ON FUNCTION s.twice TO "select"; REVOKE EXECUTE ON FUNCTION s.same FROM PUBLIC; GRANT USAGE ON TYPE s.mood TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES TO reader;
ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE TABLE public.plain (a text);
SELECT lo_from_bytea(4711, 'one'); SELECT lo_from_bytea(4712, 'two'); SELECT lo_from_bytea(4713, 'three');
GRANT SELECT ON LARGE OBJECT 4711, 4712 TO reader;
COMMENT ON LARGE OBJECT 4713 IS 'it''s'; COMMENT ON TABLE s.parent IS 'p'; COMMENT ON COLUMN s.parent.id IS 'i';
SET SESSION AUTHORIZATION reader; GRANT SELECT ON s.serial TO "select";
SET SESSION AUTHORIZATION "Büch er""s'";
CREATE TABLE "S 2"."T ""x" ("a b" int PRIMARY KEY, "größe" text COLLATE "C" DEFAULT E'a\\b');
GRANT ALL ON "S 2"."T ""x" TO app;
"#;

const MORE: &str = r#"
CREATE FUNCTION s.none(s.mood) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
ALTER FUNCTION s.none OWNER TO app;
CREATE CAST (s.mood AS int) WITH FUNCTION s.none(s.mood);
CREATE PUBLICATION pub FOR TABLE s.serial; ALTER PUBLICATION pub OWNER TO app;
CREATE TABLE s.of_boss AS SELECT 1 AS a; ALTER TABLE s.of_boss OWNER TO boss;
INSERT INTO s.parent (n, m) SELECT n, 'a' FROM generate_series(1, 100) n;
INSERT INTO s.serial (p) SELECT 1 FROM generate_series(1, 100);
INSERT INTO s.parted SELECT n, n % 20 + 1 FROM generate_series(1, 100) n;
INSERT INTO "S 2"."T ""x" VALUES (1, 'x'); INSERT INTO public.plain VALUES ('y');
REFRESH MATERIALIZED VIEW s.mv;
"#;

/// What `pg_dump` says of a database, without what differs from run to run.
async fn dump(server: &Postgres, database: &str) -> Vec<String> {
    let mut tool = tokio::process::Command::new(server.programs().join("pg_dump"));
    let dumped = tool.args(["--create", "-d", &server.url(database)]).output().await.unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let text = String::from_utf8(dumped.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with('\\')).map(str::to_owned).collect()
}

async fn every_owner_and_right_comes_back(programs: &Path) {
    let (from, to) = (Postgres::start_with(programs).await, Postgres::start_with(programs).await);
    from.create_database("shop").await;
    from.run_sql("shop", SCHEMA).await;
    from.run_sql("shop", MORE).await;
    // Those that a user may install who owns the database.
    for extension in ["citext", "pgcrypto"] {
        let sql = format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{extension}'");
        if from.query("shop", &sql).await.trim() == "1" {
            from.run_sql("shop", &format!("CREATE EXTENSION {extension} WITH SCHEMA public")).await;
        }
    }
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let there = dump(&from, "shop").await;
    for large_table in [u64::MAX, 0] {
        let streams = captured(&from, large_table, &cx).await;
        let wanted = Wanted { overwrite: true, globals: true, ..only("shop") };
        let outcome = restored(&streams, &to, wanted, &cx).await.unwrap();
        assert!(
            outcome.warnings.iter().all(|warning| !warning.contains("refused") && !warning.contains("not executed")),
            "{:?}",
            outcome.warnings
        );
        let here = dump(&to, "shop").await;
        let only_there: Vec<&String> = there.iter().filter(|line| !here.contains(line)).collect();
        let only_here: Vec<&String> = here.iter().filter(|line| !there.contains(line)).collect();
        assert!(only_there.is_empty() && only_here.is_empty(), "lost: {only_there:#?}\nnew: {only_here:#?}");
        assert_eq!(there.len(), here.len());
        to.assert_nothing_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_owner_and_right_comes_back_in_the_postgresql_of_the_system() {
    every_owner_and_right_comes_back(&tools::postgresql()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_owner_and_right_comes_back_in_postgresql_18() {
    let newer = tools::workspace().join(".tools/pg18/bin");
    assert!(newer.join("postgres").is_file(), "PostgreSQL 18 is not installed: run `make setup`");
    every_owner_and_right_comes_back(&newer).await;
}
