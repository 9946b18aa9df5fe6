//! One table out of a snapshot: into a database that lives, into a new one, into a file; and the
//! definitions alone. Nothing that was not asked for is touched.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::Class;
use lifeboat_engine::databases::postgres::{PostgresConnection, PostgresTarget};
use lifeboat_engine::databases::{Portion, RestoreOutcome, RowFormat, Target, Wanted, WorkContext, load, registry};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::sample;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{CapturedShop, captured, context, only, restored};
use tempfile::TempDir;

const ODD: &str = "\"Sondertabelle № 1 – ταμπλό\"";
/// What tables look like to whoever uses them, but for numbers that the server gives.
const DEFINITIONS: &str = "SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = '{}'::regclass
    UNION ALL SELECT 'constraint', conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{}'::regclass
    UNION ALL SELECT 'column', format('%s %s %s %s %s', attnum, attname, format_type(atttypid, atttypmod), attidentity,
        pg_get_expr(adbin, adrelid)) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = '{}'::regclass AND attnum > 0
    UNION ALL SELECT 'owner', relowner::regrole || ' ' || relpersistence::text || relrowsecurity::text FROM pg_class WHERE oid = '{}'::regclass
    UNION ALL SELECT 'policy', polname || pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = '{}'::regclass
    UNION ALL SELECT 'comment', objsubid || description FROM pg_description WHERE objoid = '{}'::regclass
    UNION ALL SELECT 'comment', description FROM pg_description d JOIN pg_constraint c ON c.oid = d.objoid WHERE conrelid = '{}'::regclass
    UNION ALL SELECT 'rights', a.grantee::regrole || a.privilege_type FROM pg_class, aclexplode(relacl) a WHERE oid = '{}'::regclass
        AND grantee <> 0
    UNION ALL SELECT 'statistics', stxname FROM pg_statistic_ext WHERE stxrelid = '{}'::regclass
    UNION ALL SELECT 'partition', inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{}'::regclass
    ORDER BY 1, 2";

async fn shop(large_table: u64) -> (Postgres, MemoryStreams, WorkContext, TempDir) {
    let from = Postgres::start().await;
    from.create_database("shop").await;
    from.run_sql("shop", sample::schema_sql()).await;
    from.run_sql("shop", &sample::fill_sql(0.003)).await;
    let place = TempDir::new().unwrap();
    let cx = context(&place);
    let streams = captured(&from, large_table, &cx).await;
    (from, streams, cx, place)
}

fn tables(names: &[&str]) -> Wanted {
    Wanted { tables: names.iter().map(|name| (*name).to_owned()).collect(), ..only("shop") }
}

fn told(outcome: &RestoreOutcome, what: &str) -> bool {
    outcome.warnings.iter().any(|warning| warning.contains(what))
}

async fn rows(server: &Postgres, table: &str) -> String {
    server.query("shop", &format!("COPY (SELECT t::text FROM {table} t ORDER BY 1) TO STDOUT")).await
}

async fn definitions(server: &Postgres, table: &str) -> String {
    server.query("shop", &DEFINITIONS.replace("{}", table)).await
}

/// Nobody who loaded is left, nor anything of theirs.
async fn assert_clean(server: &Postgres) {
    let roles = "SELECT rolname FROM pg_roles WHERE rolname ~ '^lifeboat-(loader|keeper)'";
    assert_eq!(server.query("postgres", roles).await.trim(), "");
    let schemas = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'lifeboat%'";
    assert_eq!(server.query("shop", schemas).await.trim(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_comes_back_into_a_database_that_lives() {
    for large_table in [u64::MAX, 0] {
        let (from, streams, cx, _place) = shop(large_table).await;
        let to = Postgres::start().await;
        restored(&streams, &to, only("shop"), &cx).await.unwrap();
        for (typed, table) in [
            ("shop.customers", "shop.customers"),
            ("shop.products", "shop.products"),
            ("shop.orders", "shop.orders"),
            ("shop.order_lines", "shop.order_lines"),
            ("shop.price_history", "shop.price_history"),
            ("shop.invoices", "shop.invoices"),
            ("shop.documents", "shop.documents"),
            ("shop.events", "shop.events"),
            ("shop.carts", "shop.carts"),
            ("shop.Sondertabelle № 1 – ταμπλό", &format!("shop.{ODD}")),
        ] {
            // What the rest holds is not touched.
            let others = "SELECT count(*), max(oid) FROM pg_class WHERE relkind IN ('r', 'p')";
            let what = format!("{typed}, large_table {large_table}");
            let error = restored(&streams, &to, tables(&[typed]), &cx).await.unwrap_err();
            assert_eq!((error.class(), error.chain().contains("already")), (Class::Usage, true), "{what}: {error:?}");
            let (before, was) = (to.query("shop", others).await, rows(&to, table).await);
            assert_eq!(was, rows(&from, table).await, "{what}");
            to.run_sql("shop", &format!("DROP TABLE {table} CASCADE")).await;
            let outcome = restored(&streams, &to, tables(&[typed]), &cx).await.unwrap();
            assert_eq!(outcome.written, [format!("shop: {typed}")], "{what}");
            assert_eq!(outcome.failures, [], "{what}");
            assert_eq!(rows(&to, table).await, was, "{what}");
            assert_eq!(definitions(&to, table).await, definitions(&from, table).await, "{what}");
            let count = |told: &str| told.split('|').next().unwrap().to_owned();
            assert_eq!(count(&to.query("shop", others).await), count(&before), "{what}");
            if typed == "shop.products" {
                assert!(told(&outcome, "TRIGGER shop.products price_changes"), "{:?}", outcome.warnings);
            }
            assert_clean(&to).await;
        }
        for sequence in ["customers_id_seq", "products_id_seq", "order_ids", "events_id_seq", "documents_id_seq"] {
            let value = format!("SELECT last_value, is_called FROM shop.{sequence}");
            assert_eq!(to.query("shop", &value).await, from.query("shop", &value).await, "{sequence}");
        }
        to.run_sql("shop", "SET search_path = shop; INSERT INTO events (at, payload) VALUES (now(), '{}')").await;
        from.assert_nothing_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_there_is_replaced_only_if_that_is_asked_for_and_succeeds() {
    let (from, streams, cx, _place) = shop(0).await;
    let to = Postgres::start().await;
    restored(&streams, &to, only("shop"), &cx).await.unwrap();
    to.run_sql("shop", "UPDATE shop.events SET payload = '[]'; CREATE VIEW shop.seen AS SELECT id FROM shop.events")
        .await;
    let changed = rows(&to, "shop.events").await;
    let overwriting = || Wanted { overwrite: true, ..tables(&["shop.events"]) };
    // A view of somebody's needs the old one.
    let error = restored(&streams, &to, overwriting(), &cx).await.unwrap_err();
    assert!(error.chain().contains("depend"), "{error:?}");
    assert_eq!(rows(&to, "shop.events").await, changed);
    assert_clean(&to).await;
    to.run_sql("shop", "DROP VIEW shop.seen").await;

    // The stream ends in an error after the last row.
    let mut damaged = streams.clone();
    damaged.facts.details.insert("damaged".to_owned(), "table/shop/shop/events".to_owned());
    let error = restored(&damaged, &to, overwriting(), &cx).await.unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error:?}");
    assert_eq!(rows(&to, "shop.events").await, changed, "a restore that failed has replaced the table");
    assert_clean(&to).await;

    restored(&streams, &to, overwriting(), &cx).await.unwrap();
    assert_eq!(rows(&to, "shop.events").await, rows(&from, "shop.events").await);
    assert_eq!(definitions(&to, "shop.events").await, definitions(&from, "shop.events").await);
    assert_clean(&to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_gets_what_a_table_needs_and_no_more() {
    for large_table in [u64::MAX, 0] {
        let (from, streams, cx, _place) = shop(large_table).await;
        let to = Postgres::start().await;
        let wanted = Wanted { rename: Some("part".to_owned()), ..tables(&["shop.orders", "shop.price_history"]) };
        let outcome = restored(&streams, &to, wanted, &cx).await.unwrap();
        assert_eq!(outcome.written, ["part: shop.orders", "part: shop.price_history"]);
        assert!(told(&outcome, "FK CONSTRAINT shop.orders orders_customer_fkey"), "{:?}", outcome.warnings);
        let there = "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = 'shop' AND relkind IN ('r', 'p', 'v', 'm', 'S') AND relname !~ '^orders_' ORDER BY 1";
        let found = to.query("part", there).await;
        assert_eq!(found.split_whitespace().collect::<Vec<_>>(), ["order_ids", "orders", "price_history"]);
        let all = "COPY (SELECT t::text FROM shop.orders t ORDER BY 1) TO STDOUT";
        assert_eq!(to.query("part", all).await, from.query("shop", all).await);
        let types = "SELECT typname FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE nspname = 'shop'
            AND typtype IN ('e', 'd') ORDER BY 1";
        let types = to.query("part", types).await;
        assert_eq!(types.split_whitespace().collect::<Vec<_>>(), ["money_amount", "order_status"]);
        let value = "SELECT last_value FROM shop.order_ids";
        assert_eq!(to.query("part", value).await, from.query("shop", value).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_table_or_lacks_what_it_needs_is_refused_by_name() {
    let (_from, streams, cx, _place) = shop(u64::MAX).await;
    let to = Postgres::start().await;
    to.create_database("shop").await;
    for (typed, what, hint) in [
        ("shop.custmers", "no table shop.custmers", "near names: shop.customers"),
        ("public.orders", "no table public.orders", "shop.orders"),
        ("shop.open_orders", "is no table, but a view", "restore the tables"),
        ("shop.revenue_by_month", "is no table, but a materialized view", "REFRESH"),
        ("orders", "names no table", "SCHEMA.NAME"),
        ("shop.orders", "lacks what the table needs: SCHEMA shop", "make it there first"),
    ] {
        let error = restored(&streams, &to, tables(&[typed]), &cx).await.unwrap_err();
        assert_eq!(error.class(), Class::Usage, "{typed}: {error:?}");
        assert!(error.chain().contains(what), "{typed}: {error:?}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{typed}: {error:?}");
    }
    to.run_sql("shop", "CREATE SCHEMA shop; CREATE TABLE shop.kept AS SELECT 1 AS a").await;
    let error = restored(&streams, &to, tables(&["shop.orders"]), &cx).await.unwrap_err();
    assert!(error.chain().contains("TYPE shop.order_status"), "{error:?}");
    assert_eq!(
        to.query("shop", "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384").await.trim(),
        "1"
    );
    assert_clean(&to).await;
}

/// The snapshot's table calls a function in a check. Where it is restored, a function of that name
/// does what it is not to do.
#[tokio::test(flavor = "multi_thread")]
async fn code_of_the_target_can_do_nothing_with_a_restore() {
    let sql = "CREATE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
        CREATE TABLE checked (a int CHECK (fine(a))); INSERT INTO checked VALUES (1), (2)";
    let shop = CapturedShop::with(sql).await;
    for (attack, body, refused) in [
        ("makes a table", "EXECUTE ''CREATE TABLE IF NOT EXISTS public.planted ()'';", "made more than"),
        (
            "makes a function",
            "EXECUTE ''CREATE OR REPLACE FUNCTION public.now() RETURNS int LANGUAGE sql AS ''''SELECT 1'''''';",
            "made more than",
        ),
        ("gives rights", "EXECUTE ''GRANT ALL ON public.checked TO PUBLIC'';", "made more than"),
        ("reads", "PERFORM count(*) FROM public.secret;", "permission denied"),
        ("changes", "DELETE FROM public.secret;", "permission denied"),
        ("becomes another", "EXECUTE ''SET SESSION AUTHORIZATION postgres''; DELETE FROM public.secret;", ""),
    ] {
        let to = Postgres::start().await;
        to.create_database("shop").await;
        let function =
            format!("CREATE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN {body} RETURN true; END'");
        to.run_sql("shop", &format!("{function}; CREATE TABLE secret AS SELECT 1 AS a")).await;
        let error = shop_restored(&shop, &to).await.unwrap_err();
        assert!(error.contains(refused), "{attack}: {error}");
        let left = "SELECT relname FROM pg_class WHERE relkind = 'r' AND oid >= 16384 UNION SELECT proname FROM pg_proc WHERE oid >= 16384 ORDER BY 1";
        let left = to.query("shop", left).await;
        assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["fine", "secret"], "{attack}");
        assert_eq!(to.query("shop", "SELECT count(*) FROM secret").await.trim(), "1", "{attack}");
        assert_clean(&to).await;
    }
}

async fn shop_restored(shop: &CapturedShop, to: &Postgres) -> Result<RestoreOutcome, String> {
    restored(&shop.streams, to, tables(&["public.checked"]), &shop.cx).await.map_err(|error| error.chain())
}

async fn given(streams: &MemoryStreams, portion: Portion) -> (Vec<u8>, Option<u64>) {
    let mut out = Vec::new();
    let engine = registry::find("postgres").unwrap();
    let outcome = engine.give(streams, Some("shop"), &portion, &mut out).await.unwrap();
    assert_eq!(outcome.bytes, out.len() as u64);
    (out, outcome.rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_a_file_are_those_that_the_server_would_write() {
    for large_table in [u64::MAX, 0] {
        let (from, streams, _cx, _place) = shop(large_table).await;
        for (typed, table) in [
            ("shop.customers", "shop.customers"),
            ("shop.products", "shop.products"),
            ("shop.orders_2026_03", "shop.orders_2026_03"),
            ("shop.Sondertabelle № 1 – ταμπλό", &format!("shop.{ODD}")),
            ("shop.\"Sondertabelle № 1 – ταμπλό\"", &format!("shop.{ODD}")),
            ("shop.orders", "shop.orders"),
        ] {
            for (format, options) in [(RowFormat::Copy, ""), (RowFormat::Csv, "(FORMAT csv, HEADER)")] {
                // A partitioned table is none for `COPY`, and a generated column is not dumped.
                let columns = format!(
                    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                     WHERE attrelid = '{table}'::regclass AND attnum > 0 AND attgenerated = ''"
                );
                let columns = from.query("shop", &columns).await;
                let copy = format!("COPY (SELECT {} FROM {table}) TO STDOUT {options}", columns.trim());
                let expected = from.query("shop", &copy).await;
                let (found, rows) = given(&streams, Portion::Rows { table: typed.to_owned(), format }).await;
                let found = String::from_utf8(found).unwrap();
                let what = format!("{typed} {format:?}, large_table {large_table}");
                let is_parted = typed == "shop.orders";
                assert!(is_parted || found.trim_end() == expected.trim_end(), "{what}");
                // Partitions come in another order, below the same names.
                let sorted = |text: &str| {
                    let mut lines: Vec<String> = text.trim_end().lines().map(str::to_owned).collect();
                    lines[usize::from(format == RowFormat::Csv)..].sort();
                    lines
                };
                assert!(sorted(&found) == sorted(&expected), "{what}");
                let count = from.query("shop", &format!("SELECT count(*) FROM {table}")).await;
                assert_eq!(rows, count.trim().parse().ok(), "{typed}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_come_without_a_row() {
    for large_table in [u64::MAX, 0] {
        let (from, streams, cx, place) = shop(large_table).await;
        let to = Postgres::start().await;
        restored(&streams, &to, Wanted { schema_only: true, ..only("shop") }, &cx).await.unwrap();
        let kinds = "SELECT relkind, count(*) FROM pg_class WHERE oid >= 16384 AND relkind <> 't' AND relname !~ '^pg_' GROUP BY 1 ORDER BY 1";
        assert_eq!(to.query("shop", kinds).await, from.query("shop", kinds).await);
        for table in ["shop.customers", "shop.orders", "shop.documents"] {
            assert_eq!(to.query("shop", &format!("SELECT count(*) FROM {table}")).await.trim(), "0");
            assert_eq!(definitions(&to, table).await, definitions(&from, table).await);
        }
        assert_eq!(to.query("shop", "SELECT count(*) FROM pg_largeobject_metadata").await.trim(), "0");

        // The same as a file, for stock tools.
        let (archive, _) = given(&streams, Portion::Definitions).await;
        let file = place.path().join("shop.dump");
        std::fs::write(&file, archive).unwrap();
        let output = std::process::Command::new(from.programs().join("pg_restore"))
            .arg("-f")
            .arg("-")
            .arg(&file)
            .output()
            .unwrap();
        let sql = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && sql.contains("CREATE TABLE shop.customers") && !sql.contains("COPY "),
            "{sql}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_found_as_they_are_written() {
    let sql = r#"CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."c""d;e" (n int PRIMARY KEY, "x y" text DEFAULT 'a;b');
        INSERT INTO "a.b"."c""d;e" VALUES (1, E'a\tb\\.\nc'), (2, ''), (3, NULL);
        CREATE TABLE "Bad.name" (id serial, "select" text, CHECK ("select" <> '; COMMIT')); INSERT INTO "Bad.name" ("select") VALUES ('x');
        CREATE TABLE nothing (); CREATE PUBLICATION told FOR TABLE "Bad.name"; CREATE TABLE other (n int PRIMARY KEY);
        ALTER TABLE "a.b"."c""d;e" ADD CONSTRAINT to_other FOREIGN KEY (n) REFERENCES other NOT VALID;
        COMMENT ON CONSTRAINT to_other ON "a.b"."c""d;e" IS 'kept'"#;
    let shop = CapturedShop::with(sql).await;
    restored(&shop.streams, &shop.to, only("shop"), &shop.cx).await.unwrap();
    for (typed, table) in [
        (r#""a.b"."c""d;e""#, r#""a.b"."c""d;e""#),
        (r#""a.b".c"d;e"#, r#""a.b"."c""d;e""#),
        ("public.Bad.name", r#"public."Bad.name""#),
        (r#"public."Bad.name""#, r#"public."Bad.name""#),
        ("public.nothing", "public.nothing"),
    ] {
        shop.to.run_sql("shop", &format!("DROP TABLE {table}")).await;
        let outcome = restored(&shop.streams, &shop.to, tables(&[typed]), &shop.cx).await.unwrap();
        assert_eq!(told(&outcome, "PUBLICATION TABLE"), typed.contains("Bad"), "{:?}", outcome.warnings);
        assert_eq!(rows(&shop.to, table).await, rows(&shop.from, table).await, "{typed}");
        assert_eq!(definitions(&shop.to, table).await, definitions(&shop.from, table).await, "{typed}");
        let portion = Portion::Rows { table: typed.to_owned(), format: RowFormat::Csv };
        let csv = String::from_utf8(given(&shop.streams, portion).await.0).unwrap();
        let copy = format!("COPY {table} TO STDOUT (FORMAT csv, HEADER)");
        assert_eq!(csv.trim_end(), shop.from.query("shop", &copy).await.trim_end(), "{typed}");
    }
    let near = restored(&shop.streams, &shop.to, tables(&["public.bad.name"]), &shop.cx).await.unwrap_err();
    assert_eq!(near.hint_text(), Some("near names: public.Bad.name"));
}

/// Names that look like what they are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_begins_like_another_is_not_taken_for_it() {
    let sql = r#"CREATE TABLE orders (id int PRIMARY KEY, v text); ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON orders USING (id > 0); INSERT INTO orders VALUES (1, 'a');
        CREATE TABLE "orders x" (id int, CONSTRAINT fk FOREIGN KEY (id) REFERENCES orders);
        CREATE POLICY reads ON "orders x" USING (EXISTS (SELECT FROM orders));
        CREATE TABLE "LARGE OBJECT y" (n int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE decoy (id int);
        CREATE TABLE refers (id int, CONSTRAINT "a REFERENCES public.decoy" FOREIGN KEY (id) REFERENCES other)"#;
    let shop = CapturedShop::with(sql).await;
    restored(&shop.streams, &shop.to, only("shop"), &shop.cx).await.unwrap();
    let others = definitions(&shop.to, "\"orders x\"").await;
    shop.to.run_sql("shop", "ALTER TABLE \"orders x\" DROP CONSTRAINT fk; DROP POLICY reads ON \"orders x\"").await;
    for table in ["orders", "refers"] {
        shop.to.run_sql("shop", &format!("DROP TABLE {table}")).await;
        let outcome = restored(&shop.streams, &shop.to, tables(&[&format!("public.{table}")]), &shop.cx).await.unwrap();
        assert!(!told(&outcome, "orders x"), "{:?}", outcome.warnings);
        assert_eq!(definitions(&shop.to, table).await, definitions(&shop.from, table).await);
    }
    assert_ne!(definitions(&shop.to, "\"orders x\"").await, others, "a table that was not asked for was changed");
    let wanted = Wanted { schema_only: true, rename: Some("empty".to_owned()), ..only("shop") };
    restored(&shop.streams, &shop.to, wanted, &shop.cx).await.unwrap();
    let indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'LARGE OBJECT y'";
    assert_eq!(shop.to.query("empty", indexes).await.trim(), "LARGE OBJECT y_pkey");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_a_superuser_and_a_superuser_who_trusts_the_snapshot_load_a_table_too() {
    let sql = "CREATE ROLE joe LOGIN; CREATE ROLE gone; CREATE TABLE owned (id serial PRIMARY KEY, a text);
        INSERT INTO owned (a) SELECT md5(n::text) FROM generate_series(1, 50) n; ALTER TABLE owned OWNER TO gone;
        CREATE TABLE base (a int); CREATE TABLE heir (b int) INHERITS (base)";
    let shop = CapturedShop::with(sql).await;
    let to = Postgres::start().await;
    to.run_sql("postgres", "CREATE ROLE joe LOGIN").await;
    to.run_sql("postgres", "CREATE DATABASE shop OWNER joe").await;
    to.run_sql("shop", "GRANT CREATE ON SCHEMA public TO joe; CREATE TABLE base (a int)").await;
    let PostgresConnection::Socket { directory, port, .. } = to.connection() else { panic!("no socket") };
    let as_joe = async |wanted: Wanted| {
        let user = Some("joe".to_owned());
        let connection = PostgresConnection::Socket { directory: directory.clone(), port, user };
        let client_directories = vec![to.programs().to_owned()];
        let server = Box::new(PostgresTarget { connection, password: None, client_directories });
        load(&shop.streams, &Target::Server { server, wanted }, &shop.cx).await
    };
    let owner = "SELECT relowner::regrole FROM pg_class WHERE relname = 'owned'";
    for overwrite in [false, true] {
        let outcome = as_joe(Wanted { overwrite, ..tables(&["public.owned"]) }).await.unwrap();
        assert_eq!(outcome.failures, []);
        assert_eq!(rows(&to, "owned").await, rows(&shop.from, "owned").await);
        assert_eq!(to.query("shop", owner).await.trim(), "joe");
    }
    let error = as_joe(tables(&["public.owned"])).await.unwrap_err();
    assert_eq!(error.class(), Class::Usage, "{error:?}");

    let wanted = Wanted { overwrite: true, as_superuser: true, ..tables(&["public.owned"]) };
    restored(&shop.streams, &to, wanted, &shop.cx).await.unwrap();
    assert_eq!(to.query("shop", "SELECT last_value FROM owned_id_seq").await.trim(), "50");
    assert_eq!(to.query("shop", owner).await.trim(), "postgres");
    let wanted = Wanted { overwrite: true, ..tables(&["public.owned"]) };
    let outcome = restored(&shop.streams, &to, wanted, &shop.cx).await.unwrap();
    assert_eq!(to.query("shop", owner).await.trim(), "\"lifeboat-orphans\"");
    assert!(told(&outcome, ": gone"), "{:?}", outcome.warnings);
    let heir = restored(&shop.streams, &to, tables(&["public.heir"]), &shop.cx).await.unwrap_err();
    assert!(heir.chain().contains("inherits from public.base"), "{heir:?}");
    assert_clean(&to).await;
}
