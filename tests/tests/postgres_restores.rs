//! Restores into PostgreSQL servers: roles are data, nothing that exists is lost, and whatever
//! cannot be loaded is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use lifeboat_engine::Class;
use lifeboat_engine::databases::{RestoreOutcome, Wanted, WorkContext};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::tools;
use lifeboat_tests::work::{CapturedShop, captured, context, only, restored, throw_away};
use tempfile::TempDir;

async fn assert_proved(streams: &MemoryStreams, cx: &WorkContext) {
    let mut drilled = throw_away(&streams.facts, &[], cx).await;
    drilled.load(streams).await.unwrap();
    let proof = drilled.prove(streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    drilled.stop().await.unwrap();
}

fn newer() -> PathBuf {
    let newer = tools::workspace().join(".tools/pg18/bin");
    assert!(newer.join("postgres").is_file(), "PostgreSQL 18 is not installed: run `make setup`");
    newer
}

/// Puts `text` before the end of the stream `globals`.
fn forge(streams: &MemoryStreams, text: &str) {
    let mut all = streams.streams.lock().unwrap();
    let globals = &mut all.get_mut("globals").unwrap().0;
    let whole = String::from_utf8(globals.clone()).unwrap();
    *globals = whole.replace("-- Roles\n", &format!("-- Roles\n{text}\n")).into_bytes();
    assert!(String::from_utf8_lossy(globals).contains(text));
}

fn told(outcome: &RestoreOutcome, what: &str) -> bool {
    outcome.warnings.iter().any(|warning| warning.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_forged_globals_is_executed() {
    let from = Postgres::start().await;
    from.run_sql("postgres", "CREATE ROLE joe LOGIN; CREATE DATABASE shop OWNER joe").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    // Writable for the server too, which runs as another user.
    let canary = TempDir::new_in("/tmp").unwrap();
    std::fs::set_permissions(canary.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let touch = format!("touch {}/ran", canary.path().display());
    let (to, mut all) = (Postgres::start().await, String::new());
    for (attack, text) in [
        ("behind a statement", format!("SET client_encoding = 'UTF8'; \\! {touch}\n")),
        ("on a line", format!("\\! {touch}\n")),
        ("after restrict", format!("\\unrestrict x\n\\! {touch}\n")),
        ("program", format!("COPY (SELECT 1) TO PROGRAM '{touch}';\n")),
        ("program after a comment", format!("/* x */ COPY (SELECT 1) TO PROGRAM '{touch}';\n")),
        ("block", format!("DO $$ BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''{touch}'''; END $$;\n")),
        ("in a name", format!("CREATE ROLE \"x\n\\! {touch}\n\";\n")),
        ("in a text", format!("CREATE ROLE t; COMMENT ON ROLE t IS 'a\n\\! {touch}\n';\n")),
        ("behind a backslash", format!("CREATE ROLE u; COMMENT ON ROLE u IS 'a\\'; \\! {touch}\n--';\n")),
        ("escaped", format!("CREATE ROLE v; COMMENT ON ROLE v IS E'a\\'; \\! {touch}\n--';\n")),
        ("in COPY data", format!("CREATE ROLE \"\\.\n\\! {touch}\n\";\n")),
        ("variable", format!("CREATE ROLE :`{touch}`;\n")),
        ("control", format!("CREATE ROLE w\u{1}\u{b};\n\\! {touch}\n")),
    ] {
        let streams = captured(&from, u64::MAX, &cx).await;
        forge(&streams, &text);
        let wanted = Wanted { overwrite: true, globals: true, ..only("shop") };
        let outcome = restored(&streams, &to, wanted, &cx).await.unwrap();
        assert!(!canary.path().join("ran").exists(), "{attack}: a restore ran the text");
        let owner = "SELECT rolname FROM pg_roles r JOIN pg_database d ON d.datdba = r.oid WHERE datname = 'shop'";
        assert_eq!(to.query("postgres", owner).await.trim(), "joe", "{attack}");
        let hidden = attack.starts_with("in ");
        assert_eq!(told(&outcome, "does not write"), !hidden, "{attack}: {:?}", outcome.warnings);
        assert!(!outcome.warnings.iter().any(|warning| warning.contains("touch")), "{:?}", outcome.warnings);
        all.push_str(&text);
    }
    let streams = captured(&from, u64::MAX, &cx).await;
    forge(&streams, &all);
    let mut drilled = throw_away(&streams.facts, &[], &cx).await;
    drilled.load(&streams).await.unwrap();
    let proof = drilled.prove(&streams).await.unwrap();
    drilled.stop().await.unwrap();
    assert!(!canary.path().join("ran").exists(), "a drill ran the text");
    assert!(!proof.is_equal(), "globals that no pg_dumpall writes are proved");
}

const ROLES: &str = "
CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'hush';
CREATE ROLE team;
CREATE ROLE \"Jö e\" LOGIN CONNECTION LIMIT 3 VALID UNTIL '2031-01-01' PASSWORD E'a''\\\\b';
ALTER ROLE \"Jö e\" SET search_path = 'a', \"b'c\";
COMMENT ON ROLE team IS E'it''s\\n\\\\two lines';
GRANT pg_read_all_data TO team;
SET SESSION AUTHORIZATION boss;
GRANT team TO \"Jö e\" WITH ADMIN OPTION;
";

#[tokio::test(flavor = "multi_thread")]
async fn roles_come_along_into_an_empty_server() {
    let from = Postgres::start().await;
    from.run_sql("postgres", ROLES).await;
    from.run_sql(
        "postgres",
        "GRANT SET ON PARAMETER log_statement TO team; GRANT SET ON PARAMETER log_duration TO PUBLIC",
    )
    .await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    assert_proved(&streams, &cx).await;
    let to = Postgres::start().await;
    let outcome = restored(&streams, &to, Wanted::default(), &cx).await.unwrap();
    assert_eq!(
        outcome.warnings,
        [
            "new roles with SUPERUSER, REPLICATION or BYPASSRLS: boss",
            "new roles that may act as a powerful role: Jö e (as pg_read_all_data), team (as pg_read_all_data)"
        ]
    );
    let all = "SELECT rolname, rolsuper, rolcanlogin, rolconnlimit, rolvaliduntil, rolpassword, shobj_description(oid, 'pg_authid'),
            (SELECT setconfig FROM pg_db_role_setting WHERE setrole = a.oid), (SELECT count(*) FROM pg_parameter_acl)
        FROM pg_authid a ORDER BY 1";
    assert_eq!(to.query("postgres", all).await, from.query("postgres", all).await);
    let members = "SELECT roleid::regrole, member::regrole, admin_option FROM pg_auth_members ORDER BY 1, 2";
    assert_eq!(to.query("postgres", members).await, from.query("postgres", members).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grantor_who_may_not_grant_there_is_left_out() {
    let newer = newer();
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let members = "SELECT roleid::regrole, member::regrole, admin_option FROM pg_auth_members WHERE roleid >= 16384";
    // A second superuser granted, and the newer server wants to know by which right.
    let old = Postgres::start().await;
    old.run_sql("postgres", ROLES).await;
    let streams = captured(&old, u64::MAX, &cx).await;
    let to = Postgres::start_with(&newer).await;
    let outcome = restored(&streams, &to, Wanted::default(), &cx).await.unwrap();
    assert!(told(&outcome, "whose grantor may not grant here: role team to Jö e"), "{:?}", outcome.warnings);
    assert_eq!(to.query("postgres", members).await, old.query("postgres", members).await);
    // The bootstrap superuser has another name.
    let from = Postgres::start_as(&newer, "app").await;
    from.run_sql("postgres", "CREATE ROLE r1; CREATE ROLE r2; GRANT r1 TO r2").await;
    let streams = captured(&from, u64::MAX, &cx).await;
    let to = Postgres::start_with(&newer).await;
    let outcome = restored(&streams, &to, Wanted::default(), &cx).await.unwrap();
    assert!(told(&outcome, "role r1 to r2"), "{:?}", outcome.warnings);
    assert_eq!(to.query("postgres", members).await, from.query("postgres", members).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lives_gets_no_roles_unless_it_is_told_so() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.run_sql("postgres", "CREATE ROLE gone SUPERUSER LOGIN PASSWORD 'old'; CREATE ROLE reader CREATEDB; CREATE ROLE keeper; GRANT keeper TO reader; CREATE DATABASE shop OWNER gone").await;
    from.run_sql(
        "shop",
        "CREATE SCHEMA s AUTHORIZATION gone; CREATE TABLE s.t AS SELECT 1 AS a; ALTER TABLE s.t OWNER TO gone;
         CREATE TABLE kept AS SELECT 1 AS a; ALTER TABLE kept OWNER TO keeper;
         GRANT SELECT ON kept TO reader; GRANT SELECT ON kept TO gone; GRANT USAGE ON SCHEMA s TO gone, reader;
         ALTER DEFAULT PRIVILEGES FOR ROLE gone GRANT SELECT ON TABLES TO reader;",
    )
    .await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    to.run_sql("postgres", "CREATE ROLE reader; CREATE ROLE keeper").await;
    let outcome = restored(&streams, &to, only("shop"), &cx).await.unwrap();
    assert!(told(&outcome, "--globals") && told(&outcome, ": gone"), "{:?}", outcome.warnings);
    assert_eq!(to.query("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'gone'").await.trim(), "0");
    let owners = "SELECT relowner::regrole FROM pg_class WHERE relname IN ('t', 'kept') ORDER BY relname";
    assert_eq!(
        to.query("shop", owners).await.split_whitespace().collect::<Vec<_>>(),
        ["keeper", "\"lifeboat-orphans\""]
    );
    let right = "SELECT has_table_privilege('reader', 'kept', 'SELECT'), has_schema_privilege('reader', 's', 'USAGE')";
    assert_eq!(to.query("shop", right).await.trim(), "t|t");

    let wanted = Wanted { globals: true, overwrite: true, ..only("shop") };
    let outcome = restored(&streams, &to, wanted, &cx).await.unwrap();
    assert!(
        told(&outcome, "new roles with SUPERUSER") && told(&outcome, "reader (in the snapshot: CREATEDB"),
        "{:?}",
        outcome.warnings
    );
    assert!(
        told(&outcome, "not granted, as the member exists and keeps the rights that it has: keeper to reader"),
        "{:?}",
        outcome.warnings
    );
    let roles = "SELECT rolname, rolsuper, rolcreatedb FROM pg_roles WHERE oid >= 16384 ORDER BY 1";
    assert_eq!(
        to.query("postgres", roles).await.split_whitespace().collect::<Vec<_>>(),
        ["gone|t|f", "keeper|f|f", "reader|f|f"]
    );
    assert_eq!(to.query("shop", owners).await.split_whitespace().collect::<Vec<_>>(), ["keeper", "gone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_exists_gains_nothing_and_new_power_is_told() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.run_sql(
        "postgres",
        "CREATE ROLE joe; CREATE ROLE boss; CREATE ROLE middle; CREATE ROLE root SUPERUSER; CREATE ROLE guest LOGIN; CREATE ROLE far LOGIN;
         CREATE ROLE plain LOGIN; CREATE ROLE harmless; GRANT harmless TO plain;
         GRANT root TO joe; GRANT boss TO middle; GRANT middle TO far; GRANT pg_read_server_files TO guest;
         GRANT SET ON PARAMETER log_statement TO joe, guest; GRANT SET ON PARAMETER log_duration TO PUBLIC",
    )
    .await;
    // What belongs to a role: of `same` it is equal on both servers.
    let belongings = "CREATE ROLE same; ALTER ROLE same SET search_path = \"$user\", public, 'a, \"b'; ALTER ROLE same SET work_mem = '9MB';
        ALTER ROLE same SET datestyle = 'SQL, DMY'; ALTER ROLE same SET temp_tablespaces = ''; ALTER ROLE same VALID UNTIL '2031-01-01 10:00:00.25+02';
        COMMENT ON ROLE same IS E'two\nlines'; CREATE ROLE other;";
    let other = "ALTER ROLE other SET app.key = 'hush'; ALTER ROLE other SET work_mem = '9MB'; ALTER ROLE other VALID UNTIL 'infinity';
        COMMENT ON ROLE other IS 'one'; ALTER ROLE postgres SET search_path = 'a', public";
    from.run_sql("postgres", &format!("{belongings} {other}")).await;
    from.create_database("shop").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    to.run_sql("postgres", "CREATE ROLE joe LOGIN; CREATE ROLE boss SUPERUSER").await;
    to.run_sql(
        "postgres",
        &format!(
            "{belongings} ALTER ROLE other SET work_mem = '8MB'; ALTER DATABASE postgres SET DateStyle = 'SQL, DMY'"
        ),
    )
    .await;
    let outcome = restored(&streams, &to, Wanted { globals: true, ..only("shop") }, &cx).await.unwrap();
    assert!(
        told(
            &outcome,
            "otherwise: other (settings app.key, work_mem; VALID UNTIL; comment), postgres (settings search_path)"
        ),
        "{:?}",
        outcome.warnings
    );
    assert!(!told(&outcome, "same") && !told(&outcome, "hush"), "{:?}", outcome.warnings);
    assert!(told(&outcome, "keeps the rights that it has: root to joe"), "{:?}", outcome.warnings);
    assert_eq!(to.query("postgres", "SELECT pg_has_role('joe', 'root', 'MEMBER')").await.trim(), "f");
    assert!(
        told(&outcome, "powerful role: far (as boss), guest (as pg_read_server_files), middle (as boss)"),
        "{:?}",
        outcome.warnings
    );
    assert!(!told(&outcome, "plain (as"), "{:?}", outcome.warnings);
    assert!(told(&outcome, "were left out: log_duration to PUBLIC, log_statement to joe"), "{:?}", outcome.warnings);
    let rights = "SELECT has_parameter_privilege('joe', 'log_statement', 'SET'), has_parameter_privilege('guest', 'log_statement', 'SET'),
        has_parameter_privilege('joe', 'log_duration', 'SET')";
    assert_eq!(to.query("postgres", rights).await.trim(), "f|t|f");
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_are_left_out() {
    let from = Postgres::start().await;
    let space = from.make_directory("space");
    from.run_sql("postgres", &format!("CREATE TABLESPACE ts1 LOCATION '{}'", space.display())).await;
    from.run_sql("postgres", "CREATE DATABASE a TABLESPACE ts1").await;
    from.run_sql("postgres", "CREATE DATABASE b").await;
    from.run_sql("a", "CREATE TABLE t AS SELECT 1 AS i").await;
    from.run_sql("b", "CREATE TABLE t (i int PRIMARY KEY) TABLESPACE ts1; INSERT INTO t VALUES (1); CREATE INDEX x ON t (i) TABLESPACE ts1").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    for large_table in [u64::MAX, 0] {
        let streams = captured(&from, large_table, &cx).await;
        assert_proved(&streams, &context(&TempDir::new_in(place.path()).unwrap())).await;
        for there in [false, true] {
            let to = Postgres::start().await;
            if there {
                let space = to.make_directory("space");
                to.run_sql("postgres", &format!("CREATE TABLESPACE ts1 LOCATION '{}'", space.display())).await;
            }
            let outcome = restored(&streams, &to, Wanted::default(), &cx).await.unwrap();
            assert!(told(&outcome, "tablespaces were left out"), "{:?}", outcome.warnings);
            let spaces = "SELECT (SELECT count(*) FROM pg_class WHERE reltablespace >= 16384) + (SELECT count(*) FROM pg_database WHERE dattablespace >= 16384)";
            assert_eq!(to.query("b", spaces).await.trim(), "0");
            assert_eq!(to.query("a", "SELECT i FROM t").await.trim(), "1");
        }
    }
}

const SEARCH_PATH: &str = "
CREATE TABLE dict(v text); INSERT INTO dict VALUES ('a');
CREATE FUNCTION known(x text) RETURNS boolean LANGUAGE sql STABLE AS 'select exists (select 1 from dict where v = x)';
CREATE TABLE fact(v text CHECK (known(v))); INSERT INTO fact VALUES ('a');
";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_replaced_only_by_one_that_is_complete() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("sp").await;
    from.run_sql("sp", SEARCH_PATH).await;
    from.run_sql("postgres", "CREATE ROLE joe; CREATE DATABASE good OWNER joe CONNECTION LIMIT 7").await;
    from.run_sql("good", "CREATE TABLE t AS SELECT 2 AS a; ALTER DATABASE good SET work_mem = '5MB'; ALTER ROLE joe IN DATABASE good SET work_mem = '6MB'; COMMENT ON DATABASE good IS 'it''s'; GRANT CONNECT ON DATABASE good TO joe; REVOKE ALL ON DATABASE good FROM PUBLIC").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    for database in ["sp", "good"] {
        to.create_database(database).await;
        to.run_sql(database, "CREATE TABLE precious AS SELECT 1 AS a").await;
    }
    let wanted = |database| Wanted { overwrite: true, globals: true, ..only(database) };
    for large_table in [u64::MAX, 0] {
        let streams = captured(&from, large_table, &cx).await;
        let error = restored(&streams, &to, wanted("sp"), &cx).await.unwrap_err();
        assert_eq!(error.class(), Class::Source);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("search_path")), "{error:?}");
        assert_eq!(to.query("sp", "SELECT a FROM precious").await.trim(), "1");
        assert_eq!(
            to.query("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'lifeboat%'").await.trim(),
            "0"
        );
    }

    // Whoever is connected is sent away, and comes back to the new one.
    let streams = captured(&from, u64::MAX, &cx).await;
    let asking = async {
        loop {
            let _ = to.try_query("good", "SELECT pg_sleep(60)").await;
        }
    };
    let outcome = tokio::select! {
        outcome = restored(&streams, &to, wanted("good"), &cx) => outcome.unwrap(),
        () = asking => unreachable!(),
    };
    assert_eq!(
        (outcome.written.as_slice(), outcome.warnings.len()),
        (&["good".to_owned()][..], 0),
        "{:?}",
        outcome.warnings
    );
    assert_eq!(to.query("good", "SELECT a FROM t").await.trim(), "2");
    let settings = "SELECT datname, datdba::regrole, datconnlimit, datacl, shobj_description(d.oid, 'pg_database'),
            (SELECT array_agg(setconfig ORDER BY setconfig) FROM pg_db_role_setting WHERE setdatabase = d.oid), pg_encoding_to_char(encoding), datcollate
        FROM pg_database d WHERE datname IN ('good', 'better', 'sp')  ORDER BY 1";
    let same = async |name: &str| {
        let there = to.query("postgres", &settings.replace("'better'", "NULL")).await;
        let line = |all: &str, name: &str| all.lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned()));
        let here = from.query("postgres", settings).await;
        let there = if name == "good" { there } else { to.query("postgres", settings).await };
        assert_eq!(line(&there, name), line(&here, "good"), "{name}");
    };
    same("good").await;

    // Another name changes nothing else.
    let renamed = Wanted { rename: Some("better".to_owned()), ..only("good") };
    restored(&streams, &to, renamed, &cx).await.unwrap();
    same("better").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_restore_left_is_told() {
    let shop = CapturedShop::with("CREATE TABLE t AS SELECT 1 AS a").await;
    let to = &shop.to;
    to.run_sql("postgres", "CREATE DATABASE \"lifeboat-loading-01234567\"").await;
    to.run_sql("postgres", "CREATE DATABASE shop; COMMENT ON DATABASE shop IS 'Lifeboat is loading this database'")
        .await;
    to.run_sql("shop", "CREATE TABLE half AS SELECT 1 AS a").await;
    let error = shop.restored(only("shop")).await.unwrap_err();
    assert!(error.message().contains("half loaded") && error.class() == Class::Usage, "{error:?}");
    let outcome = shop.restored(Wanted { overwrite: true, ..only("shop") }).await.unwrap();
    assert!(told(&outcome, "database lifeboat-loading-01234567, database shop"), "{:?}", outcome.warnings);
    assert_eq!(
        to.query("postgres", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'shop'")
            .await
            .trim(),
        ""
    );
}

const SELF_VIEWS: &str = "
CREATE VIEW one AS SELECT 1 AS n; CREATE OR REPLACE VIEW one AS SELECT n FROM one;
CREATE VIEW two AS SELECT 1 AS n; CREATE OR REPLACE VIEW two AS SELECT n FROM two;
CREATE TABLE precious(a int PRIMARY KEY); INSERT INTO precious VALUES (1);
CREATE ROLE viewer;
CREATE VIEW last AS SELECT a FROM precious;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_tells_every_object_that_fails_and_a_restore_can_go_on() {
    let (from, to) = (Postgres::start().await, Postgres::start().await);
    from.create_database("shop").await;
    from.run_sql("shop", SELF_VIEWS).await;
    from.run_sql("shop", SEARCH_PATH).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    for (round, large_table) in [u64::MAX, 0].into_iter().enumerate() {
        let streams = captured(&from, large_table, &cx).await;
        let scratch = TempDir::new().unwrap();
        let mut drilled = throw_away(&streams.facts, &[], &context(&scratch)).await;
        let error = drilled.load(&streams).await.unwrap_err();
        drilled.stop().await.unwrap();
        for named in ["VIEW public.one", "VIEW public.two", "TABLE DATA public.fact"] {
            assert!(error.chain().contains(named), "{named}: {error:?}");
        }
        let hint = error.hint_text().unwrap();
        assert!(hint.contains("selects from itself") && hint.contains("search_path"), "{hint}");

        let name = format!("shop{round}");
        let strict = Wanted { rename: Some(name.clone()), ..only("shop") };
        let error = restored(&streams, &to, strict.clone(), &cx).await.unwrap_err();
        assert!(error.hint_text().unwrap().contains("--keep-going"), "{error:?}");
        assert!(to.try_query(&name, "SELECT 1").await.is_err(), "a half-loaded database is left");
        let outcome = restored(&streams, &to, Wanted { keep_going: true, ..strict }, &cx).await.unwrap();
        let lost: Vec<(&str, &str)> =
            outcome.failures.iter().map(|failure| (failure.object.as_str(), failure.class.as_str())).collect();
        assert!(
            lost.contains(&("VIEW public.one", "self_reference"))
                && lost.contains(&("VIEW public.two", "self_reference")),
            "{lost:?}"
        );
        assert!(lost.contains(&("TABLE DATA public.fact", "missing_object")), "{lost:?}");
        assert!(outcome.failures.iter().all(|failure| failure.database == "shop"));
        assert_eq!(to.query(&name, "SELECT a FROM last").await.trim(), "1");
        assert_eq!(
            to.query(&name, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'precious'::regclass").await.trim(),
            "1"
        );
    }
    // What it replaces stays.
    let streams = captured(&from, u64::MAX, &cx).await;
    to.create_database("shop").await;
    to.run_sql("shop", "CREATE TABLE old AS SELECT 1 AS a").await;
    let outcome =
        restored(&streams, &to, Wanted { keep_going: true, overwrite: true, ..only("shop") }, &cx).await.unwrap();
    let kept =
        outcome.warnings.iter().find_map(|warning| Some(warning.split_once("is kept as ")?.1.to_owned())).unwrap();
    assert_eq!(to.query(&kept, "SELECT a FROM old").await.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_unknown_kind_is_never_passed_over() {
    let from = Postgres::start().await;
    from.create_database("shop").await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, u64::MAX, &cx).await;
    streams.streams.lock().unwrap().insert("vectors/shop".to_owned(), (b"new".to_vec(), Some(0)));
    streams.order.lock().unwrap().push("vectors/shop".to_owned());
    let mut drilled = throw_away(&streams.facts, &[], &cx).await;
    let error = drilled.load(&streams).await.err().unwrap();
    drilled.stop().await.unwrap();
    assert!(error.class() == Class::Integrity && error.message().contains("vectors/shop"), "{error:?}");
    let to = Postgres::start().await;
    let error = restored(&streams, &to, Wanted::default(), &cx).await.err().unwrap();
    assert!(error.class() == Class::Integrity && error.message().contains("vectors/shop"), "{error:?}");
    assert_eq!(to.query("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'shop'").await.trim(), "0");
}
