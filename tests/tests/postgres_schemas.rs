//! Schemas as real applications have them: each is captured, loaded, checked and proved. A healthy
//! one that a drill calls damaged would teach people to ignore drills.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::databases::ThrowAway;
use lifeboat_engine::databases::proof::ProofResult;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::tools;
use lifeboat_tests::vault::name;
use lifeboat_tests::work::{captured, context, throw_away};
use tempfile::TempDir;
use tokio::process::Command;

/// Each alone is printed in other words after one restore.
const PRINTED_DIFFERENTLY: &str = "
CREATE TABLE t1 (s varchar(20) CONSTRAINT t1_s CHECK (s IN ('new', 'paid')));
CREATE TABLE t2 (x int, y int, CHECK (x BETWEEN 1 AND 5 AND y > 0));
CREATE DOMAIN d3 AS varchar(5) CHECK (VALUE IN ('a', 'b'));
CREATE VIEW v4 AS SELECT * FROM t1 WHERE s IN ('new', 'paid');
CREATE INDEX i5 ON t1 (s) WHERE s NOT IN ('new', 'paid');
ALTER TABLE t1 ENABLE ROW LEVEL SECURITY;
CREATE POLICY p6 ON t1 USING (s IN ('new', 'paid'));
CREATE TABLE t7 (s varchar(9), g boolean GENERATED ALWAYS AS (s IN ('a', 'b')) STORED);
CREATE DOMAIN dm AS text;
CREATE TABLE p8 (a int, m dm DEFAULT 'x') PARTITION BY LIST (a);
CREATE TABLE c8 (a int, m dm);
ALTER TABLE p8 ATTACH PARTITION c8 FOR VALUES IN (1);
CREATE TABLE t9 (s varchar(9) DEFAULT 'a', n int NOT NULL DEFAULT 3, CHECK (s <> ALL (ARRAY['x', 'y']::varchar[])));
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER g10 BEFORE UPDATE ON t1 FOR EACH ROW WHEN (NEW.s IN ('new', 'paid')) EXECUTE FUNCTION f();
CREATE RULE r11 AS ON DELETE TO t1 WHERE OLD.s IN ('new', 'paid') DO INSTEAD NOTHING;
CREATE MATERIALIZED VIEW m12 AS SELECT s, CASE WHEN s IN ('new', 'paid') THEN 1 ELSE 2 END AS n FROM t1;
CREATE STATISTICS s13 ON (s IN ('new', 'paid')), n FROM t9;
CREATE FUNCTION b14(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT $1; END;
CREATE VIEW v15 AS SELECT extract('YEAR' FROM now()) AS y;
CREATE ROLE reader; CREATE ROLE writer; GRANT SELECT ON t9 TO writer;
INSERT INTO t1 VALUES ('new');
INSERT INTO t7 VALUES ('a');
";

/// With `parts`, each table is a stream of its own.
fn large_table(parts: bool) -> u64 {
    if parts { 0 } else { u64::MAX }
}

/// Captures all databases of `server`, loads them elsewhere, checks and proves them.
async fn proof_of(server: &Postgres, parts: bool) -> ProofResult {
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(server, large_table(parts), &cx).await;
    let mut restored = throw_away(&streams.facts, &[server.programs().to_owned()], &cx).await;
    restored.load(&streams).await.unwrap();
    for check in restored.check(&[]).await.unwrap() {
        assert!(check.passed, "{}: {}", check.check, check.detail);
    }
    let proof = restored.prove(&streams).await.unwrap();
    restored.stop().await.unwrap();
    proof
}

fn assert_equal(proof: &ProofResult) {
    assert!(proof.is_equal(), "{:#?}", proof.differences);
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

/// PostgreSQL 18, beside Debian's.
fn newest() -> std::path::PathBuf {
    tools::workspace().join(".tools/pg18/bin")
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_that_are_printed_in_other_words_are_equal_and_noted() {
    for parts in [false, true] {
        let server = Postgres::start().await;
        server.create_database("shop").await;
        server.run_sql("shop", PRINTED_DIFFERENTLY).await;
        let proof = proof_of(&server, parts).await;
        assert_equal(&proof);
        for title in
            ["TABLE public.t1:", "DOMAIN public.d3:", "VIEW public.v4:", "INDEX public.i5:", "POLICY public.t1 p6:"]
        {
            assert!(proof.notes.iter().any(|note| note.contains(title)), "{title} {:#?}", proof.notes);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_means_something_else_is_still_a_difference() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", PRINTED_DIFFERENTLY).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&server, large_table(false), &cx).await;
    let mut restored = throw_away(&streams.facts, &[server.programs().to_owned()], &cx).await;
    restored.load(&streams).await.unwrap();
    let check = "ALTER TABLE t1 DROP CONSTRAINT t1_s; ALTER TABLE t1 ADD CONSTRAINT t1_s CHECK (s IN";
    for (sql, undo, named) in [
        (
            format!("{check} ('new', 'lost'))"),
            format!("{check} ('new', 'paid'))"),
            &["TABLE public.t1: texts differ"][..],
        ),
        (
            "ALTER TABLE t9 ALTER n DROP DEFAULT".to_owned(),
            "ALTER TABLE t9 ALTER n SET DEFAULT 3".to_owned(),
            &["TABLE public.t9: texts differ"],
        ),
        (
            "CREATE OR REPLACE VIEW v4 AS SELECT * FROM t1 WHERE s IN ('new')".to_owned(),
            "CREATE OR REPLACE VIEW v4 AS SELECT * FROM t1 WHERE s IN ('new', 'paid')".to_owned(),
            &["VIEW public.v4: texts differ"],
        ),
        (
            "ALTER POLICY p6 ON t1 USING (s IN ('new'))".to_owned(),
            "ALTER POLICY p6 ON t1 USING (s IN ('new', 'paid'))".to_owned(),
            &["POLICY public.t1 p6: texts differ"],
        ),
        // Another field of a time, another value, and a right of another role are not the same.
        (
            "CREATE OR REPLACE VIEW v15 AS SELECT extract('MONTH' FROM now()) AS y;
             CREATE OR REPLACE FUNCTION b14(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END;
             GRANT SELECT ON t9 TO reader; REVOKE SELECT ON t9 FROM writer"
                .to_owned(),
            "CREATE OR REPLACE VIEW v15 AS SELECT extract('YEAR' FROM now()) AS y;
             CREATE OR REPLACE FUNCTION b14(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT $1; END;
             REVOKE SELECT ON t9 FROM reader; GRANT SELECT ON t9 TO writer"
                .to_owned(),
            &[
                "ACL public.TABLE t9: texts differ",
                "FUNCTION public.b14(integer): texts differ",
                "VIEW public.v15: texts differ",
            ],
        ),
        (
            "DROP INDEX i5".to_owned(),
            "CREATE INDEX i5 ON t1 (s) WHERE s NOT IN ('new', 'paid')".to_owned(),
            &["INDEX public.i5 is missing"],
        ),
    ] {
        sabotage(restored.as_ref(), "shop", &sql).await;
        let proof = restored.prove(&streams).await.unwrap();
        assert_eq!(proof.differences.len(), named.len(), "{sql}: {:#?}", proof.differences);
        for (difference, named) in proof.differences.iter().zip(named) {
            assert!(difference.contains(named), "{sql}: {:#?}", proof.differences);
        }
        sabotage(restored.as_ref(), "shop", &undo).await;
        assert_equal(&restored.prove(&streams).await.unwrap());
    }
    restored.stop().await.unwrap();
}

/// In these, a dump cannot say that the operator is one of `citext`. Loaded, they compare as
/// `text`.
const LOSES_AN_OPERATOR: &str = "
CREATE EXTENSION citext;
CREATE TABLE c1 (a citext, CHECK (a IS DISTINCT FROM 'x'::citext));
CREATE TABLE c2 (a citext, b citext, CHECK (NULLIF(a, b) IS NULL));
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER g3 BEFORE UPDATE ON c1 FOR EACH ROW WHEN (OLD.a IS DISTINCT FROM NEW.a) EXECUTE FUNCTION f();
CREATE INDEX i4 ON c1 (a) WHERE a IS DISTINCT FROM 'y'::citext;
CREATE VIEW v5 AS SELECT NULLIF(a, 'q'::citext) AS q FROM c1;
CREATE TABLE good (a citext, s varchar(9), CHECK (a IN ('x', 'y')), CHECK (s IN ('x', 'y')));
";

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_gets_another_operator_in_a_load_is_a_difference() {
    for parts in [false, true] {
        let server = Postgres::start().await;
        server.create_database("shop").await;
        server.run_sql("shop", LOSES_AN_OPERATOR).await;
        let proof = proof_of(&server, parts).await;
        let named = ["INDEX public.i4", "TABLE public.c1", "TABLE public.c2", "TRIGGER public.c1 g3", "VIEW public.v5"];
        let expected = named.map(|title| format!("\"shop\": definition of {title}: texts differ"));
        assert_eq!(proof.differences, expected);
        let noted = [format!(
            "\"shop\": definition of TABLE public.good: {}",
            "PostgreSQL prints it in other words after a restore"
        )];
        assert_eq!(proof.notes, noted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_passes_and_tells_its_notes() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", PRINTED_DIFFERENTLY).await;
    // More than the pipes hold, behind the definitions.
    let rows = "CREATE TABLE z AS SELECT n, repeat(md5(n::text), 9) AS x FROM generate_series(1, 50000) n";
    server.run_sql("shop", rows).await;
    let place = TempDir::new().unwrap();
    let replica = ReplicaConfig {
        name: name("near"),
        region: "away".to_owned(),
        kind: ReplicaKind::Directory { path: place.path().to_owned() },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    };
    let source = format!(
        "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{}\"]\njobs = 1\n[dataset.drill]\nlevel = \"proved\"",
        server.url("postgres"),
        server.programs().display()
    );
    let host = BackupHost::set_up(&[section(&replica)], &source).await;
    let (run, _) = host.once().await;
    assert!(run.status.success(), "{}", run.stderr);
    let master = host.master().display().to_string();
    let drill = host.lifeboat(&["-i", &master, "--json", "drill", "data", "--no-publish"]).await;
    let report = drill.json().unwrap();
    assert_eq!((&report["passed"], &report["reached"]), (&true.into(), &"proved".into()), "{report}");
    let proof = &report["proof"];
    assert!(proof["notes"].to_string().contains("definition of TABLE public.t1:"), "{proof}");
    assert!(proof["source_version"].is_string() && proof["source_version"] == proof["server_version"], "{proof}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_database_with_a_line_break_in_its_name_is_compared() {
    let server = Postgres::start().await;
    server.create_database("two\nlines").await;
    server
        .run_sql(
            "two\nlines",
            "CREATE TABLE t AS SELECT 1 AS n; CREATE ROLE joe; ALTER DATABASE \"two\nlines\" OWNER TO joe;
             GRANT CREATE ON DATABASE \"two\nlines\" TO PUBLIC; ALTER DATABASE \"two\nlines\" SET work_mem = '7MB';",
        )
        .await;
    for parts in [false, true] {
        let place = TempDir::new().unwrap();
        let cx = context(&place);
        let streams = captured(&server, large_table(parts), &cx).await;
        let mut restored = throw_away(&streams.facts, &[server.programs().to_owned()], &cx).await;
        restored.load(&streams).await.unwrap();
        let proof = restored.prove(&streams).await.unwrap();
        assert_equal(&proof);
        assert_eq!(proof.notes, [""; 0]);
        for (sql, title) in [
            ("ALTER DATABASE \"two\nlines\" SET work_mem = '8MB'", "DATABASE PROPERTIES"),
            ("REVOKE CONNECT ON DATABASE \"two\nlines\" FROM PUBLIC", "ACL"),
            ("ALTER DATABASE \"two\nlines\" OWNER TO postgres", "DATABASE"),
        ] {
            sabotage(restored.as_ref(), "template1", sql).await;
            let proof = restored.prove(&streams).await.unwrap();
            let said = format!(": definition of {title} of the database: texts differ");
            assert!(proof.differences.iter().any(|difference| difference.ends_with(&said)), "{sql}: {proof:?}");
        }
        restored.stop().await.unwrap();
    }
}

/// A column that a parent got after its child was made comes before the child's own ones after a
/// restore. `tricky` has values that look like two fields, and names that need quotes.
const INHERITED_LATER: &str = "
CREATE TABLE parent (a int);
CREATE TABLE child (own text) INHERITS (parent);
INSERT INTO child VALUES (1, 'x'), (2, 'y');
ALTER TABLE parent ADD COLUMN later int DEFAULT 7;
CREATE TABLE tricky (\"b, (c)\" text, \"d\"\"e\" text) INHERITS (parent);
INSERT INTO tricky VALUES (1, 7, E'tab\\tand\\nline', '\\N'), (2, 8, NULL, '');
ALTER TABLE parent ADD COLUMN \"even\nlater\" text DEFAULT 'z';
";

#[tokio::test(flavor = "multi_thread")]
async fn columns_inherited_later_are_compared_by_name() {
    for parts in [false, true] {
        let server = Postgres::start().await;
        server.create_database("shop").await;
        server.run_sql("shop", INHERITED_LATER).await;
        let place = TempDir::new().unwrap();
        let cx = context(&place);
        let streams = captured(&server, large_table(parts), &cx).await;
        let mut restored = throw_away(&streams.facts, &[server.programs().to_owned()], &cx).await;
        restored.load(&streams).await.unwrap();
        let proof = restored.prove(&streams).await.unwrap();
        assert_equal(&proof);
        assert!(proof.notes.iter().any(|note| note.contains("table public.child: the columns")), "{:?}", proof.notes);
        assert_eq!(proof.rows, 4);
        // Values under the wrong names are still found.
        for (sql, undo) in [
            (
                "UPDATE child SET later = a, a = later WHERE own = 'x'",
                "UPDATE child SET later = a, a = later WHERE own = 'x'",
            ),
            ("UPDATE child SET own = 'z' WHERE own = 'x'", "UPDATE child SET own = 'x' WHERE own = 'z'"),
        ] {
            sabotage(restored.as_ref(), "shop", sql).await;
            let proof = restored.prove(&streams).await.unwrap();
            assert!(proof.differences.iter().any(|found| found.contains("public.child: rows differ")), "{proof:?}");
            sabotage(restored.as_ref(), "shop", undo).await;
            assert_equal(&restored.prove(&streams).await.unwrap());
        }
        restored.stop().await.unwrap();
    }
}

/// Loads every schema of `tests/schemas/` that fits into a database of its own.
async fn all_schemas(programs: &Path, fits: impl Fn(&str) -> bool) -> Postgres {
    let server = Postgres::start_with(programs).await;
    let folder = tools::workspace().join("tests/schemas");
    let mut loaded = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if fits(&name) {
            server.create_database(&name).await;
            let sql = std::fs::read_to_string(&path).unwrap();
            server.try_query(&name, &sql).await.unwrap_or_else(|error| panic!("{name}: {error}"));
            loaded += 1;
        }
    }
    assert!(loaded > 9, "only {loaded} schemas");
    server
}

/// What `printed.sql` brings about, on a server `before_16` or on a newer one.
fn assert_noted(proof: &ProofResult, before_16: bool) {
    let functions = ["of_literals", "of_parameter", "of_scalar", "of_union", "of_all"];
    let functions = functions.map(|name| format!("FUNCTION public.{name}(integer): PostgreSQL prints it"));
    let others = ["PROCEDURE public.of_insert(integer)", "RULE public.pr of_rule", "VIEW public.of_joins"];
    let others = others.map(|title| format!("{title}: PostgreSQL prints it"));
    let owner = "pg_catalog.FUNCTION lo_export(oid, text): the owner was printed_owner and is postgres after a restore";
    let grantor = "ACL public.TABLE granted: a right is granted by another role after a restore";
    let fields = ["VIEW public.of_fields: PostgreSQL prints it", "INDEX public.of_index: PostgreSQL prints it"];
    let memberships = "and postgres is it after a restore: pg_monitor to Printed \"member\", printed_group to Printed";
    let only_before = fields.into_iter().chain([memberships]).filter(|_| before_16);
    for said in functions.iter().chain(&others).map(String::as_str).chain([owner, grantor]).chain(only_before) {
        assert!(proof.notes.iter().any(|note| note.contains(said)), "{said}: {:#?}", proof.notes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_as_applications_have_them_are_proved() {
    let server = all_schemas(&tools::postgresql(), |name| name != "only_18").await;
    for parts in [false, true] {
        let proof = proof_of(&server, parts).await;
        assert_equal(&proof);
        assert_noted(&proof, true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_they_on_the_newest_postgresql() {
    // This build has neither ICU nor XML.
    let server = all_schemas(&newest(), |name| name != "icu_and_xml").await;
    for parts in [false, true] {
        let proof = proof_of(&server, parts).await;
        assert_equal(&proof);
        assert_noted(&proof, false);
    }
}
