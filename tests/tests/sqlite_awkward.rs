//! Awkward SQLite databases: a drill proves that they come back equal, and its proof finds every
//! difference that is planted in the restored file, names it, and tells of nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::databases::proof::{DrillQuery, ProofResult};
use lifeboat_engine::databases::sqlite::SqliteSource;
use lifeboat_engine::databases::{Source, ThrowAway, registry};
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::vault::noise;
use lifeboat_tests::work::context;
use rusqlite::Connection;
use tempfile::TempDir;

/// A snapshot of the database that `make` leaves, taken while its writer has it open.
async fn captured(make: impl FnOnce(&Connection)) -> MemoryStreams {
    let (place, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let path = place.path().join("awkward.db");
    let writer = Connection::open(&path).unwrap();
    make(&writer);
    let mut streams = MemoryStreams::default();
    streams.facts = SqliteSource { path }.capture(&streams, &context(&scratch)).await.unwrap();
    drop(writer);
    streams
}

/// A snapshot of what this SQL makes.
async fn captured_sql(sql: &str) -> MemoryStreams {
    captured(|writer| run(writer, sql)).await
}

fn run(database: &Connection, sql: &str) {
    database.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A drill that has loaded a snapshot.
struct Drill {
    file: Box<dyn ThrowAway>,
    scratch: TempDir,
}

impl Drill {
    async fn of(streams: &MemoryStreams) -> Self {
        let scratch = TempDir::new().unwrap();
        let engine = registry::find("sqlite").unwrap();
        let mut file = engine.throw_away(&streams.facts, &[], &context(&scratch)).await.unwrap().unwrap();
        file.load(streams).await.unwrap();
        Self { file, scratch }
    }

    /// Does this to the restored file.
    fn sabotage(&self, sql: &str) {
        run(&Connection::open(self.restored()).unwrap(), sql);
    }

    fn restored(&self) -> std::path::PathBuf {
        self.scratch.path().join("sqlite/restored.sqlite")
    }

    /// The names of the checks that fail. Queries are given with the result that they must have.
    async fn failing(&mut self, queries: &[(&str, &str)]) -> Vec<String> {
        let wanted = |(sql, expect): &(&str, &str)| DrillQuery {
            sql: (*sql).to_owned(),
            expect: Some((*expect).to_owned()),
            ..DrillQuery::default()
        };
        let queries: Vec<DrillQuery> = queries.iter().map(wanted).collect();
        let checks = self.file.check(&queries).await.unwrap();
        assert_eq!(checks.len(), queries.len() + 2);
        checks.into_iter().filter(|check| !check.passed).map(|check| check.check).collect()
    }
}

/// A drill to the end: every check passes, these queries too, and all is equal.
async fn proved(streams: &MemoryStreams, queries: &[(&str, &str)]) -> ProofResult {
    let mut drill = Drill::of(streams).await;
    assert_eq!(drill.failing(queries).await, [""; 0]);
    let proof = drill.file.prove(streams).await.unwrap();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    drill.file.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(drill.scratch.path()).unwrap().count(), 0, "files are left behind");
    proof
}

/// What the proof tells after this sabotage.
async fn differences(streams: &MemoryStreams, sabotage: &str) -> Vec<String> {
    let mut drill = Drill::of(streams).await;
    drill.sabotage(sabotage);
    drill.file.prove(streams).await.unwrap().differences
}

/// Rewrites a definition as text, and nothing else.
fn redefined(name: &str, from: &str, to: &str) -> String {
    format!(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, '{from}', '{to}') WHERE name = '{name}';
         PRAGMA writable_schema = RESET;"
    )
}

const TABLES: &str = "
    CREATE TABLE pairs (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
    INSERT INTO pairs VALUES ('a', 1), ('b', NULL);
    CREATE TABLE typed (id INTEGER PRIMARY KEY, n INT, r REAL, t TEXT, b BLOB, a ANY) STRICT;
    INSERT INTO typed VALUES (1, 7, 7, '7', x'07', '007');
    CREATE TABLE priced (net INTEGER, tax INTEGER AS (net / 5) VIRTUAL, gross INTEGER AS (net * 6 / 5) STORED);
    INSERT INTO priced (net) VALUES (100), (250);
    CREATE TABLE nobody (a, b);
    CREATE TABLE twins (a, b);
    INSERT INTO twins VALUES (1, 'x'), (1, 'x'), (1, 'x'), (NULL, NULL);
    CREATE TABLE ticket (id INTEGER PRIMARY KEY AUTOINCREMENT, t);
    INSERT INTO ticket (t) VALUES ('a'), ('b'), ('c');
    DELETE FROM ticket WHERE id = 3;
    CREATE TABLE gaps (v);
    INSERT INTO gaps (rowid, v) VALUES (5, 'x'), (-9, 'y'), (9223372036854775807, 'z');
    CREATE TABLE shy (rowid TEXT, oid TEXT);
    INSERT INTO shy VALUES ('a', 'b');
    CREATE TABLE hidden (rowid, oid, _rowid_);
    INSERT INTO hidden VALUES (1, 2, 3);";

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_every_kind_of_table_is_compared() {
    let streams = captured_sql(TABLES).await;
    let last_ticket = ("SELECT seq FROM sqlite_sequence WHERE name = 'ticket'", "3");
    let proof = proved(&streams, &[last_ticket, ("SELECT sum(tax + gross) FROM priced", "490")]).await;
    assert_eq!((proof.tables, proof.rows), (10, 17), "{proof:?}");

    for (sabotage, told) in [
        ("UPDATE pairs SET v = '1' WHERE k = 'a'", "table pairs: rows differ"),
        ("DELETE FROM pairs WHERE k = 'b'", "table pairs: 2 rows stored, 1 restored"),
        ("UPDATE typed SET a = 7", "table typed: rows differ"),
        ("UPDATE typed SET b = x'0700'", "table typed: rows differ"),
        ("UPDATE priced SET net = 101 WHERE net = 100", "table priced: rows differ"),
        ("INSERT INTO nobody VALUES (NULL, NULL)", "table nobody: 0 rows stored, 1 restored"),
        ("DELETE FROM twins WHERE rowid = 2", "table twins: 4 rows stored, 3 restored"),
        ("INSERT INTO twins VALUES (1, 'x')", "table twins: 4 rows stored, 5 restored"),
        ("UPDATE twins SET a = NULL, b = NULL WHERE rowid = 1", "table twins: rows differ"),
        ("UPDATE sqlite_sequence SET seq = 2", "table sqlite_sequence: rows differ"),
        ("DELETE FROM sqlite_sequence", "table sqlite_sequence: 1 rows stored, 0 restored"),
        ("UPDATE gaps SET rowid = 6 WHERE rowid = 5", "table gaps: rows differ"),
        // A column has the rowid's name, and the rowid another one, or none.
        ("UPDATE shy SET _rowid_ = 9", "table shy: rows differ"),
        ("UPDATE shy SET oid = 9", "table shy: rows differ"),
        ("UPDATE hidden SET oid = 9", "table hidden: rows differ"),
    ] {
        assert_eq!(differences(&streams, sabotage).await, [told], "{sabotage}");
    }
    let gone = [
        "definition of table nobody is missing in the restored database",
        "table nobody is missing in the restored database",
    ];
    assert_eq!(differences(&streams, "DROP TABLE nobody").await, gone);
    let more =
        ["definition of table extra is only in the restored database", "table extra is only in the restored database"];
    assert_eq!(differences(&streams, "CREATE TABLE extra (a)").await, more);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_column_is_compared_though_it_could_be_computed_again() {
    let streams = captured_sql(TABLES).await;
    let rule = " AS (net * 6 / 5) STORED";
    let sabotage = redefined("priced", rule, "")
        + "UPDATE priced SET gross = 1 WHERE net = 100;"
        + &redefined("priced", "gross INTEGER", &format!("gross INTEGER{rule}"));
    assert_eq!(differences(&streams, &sabotage).await, ["table priced: rows differ"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_column_that_cannot_be_computed_does_not_stop_the_proof() {
    let sql = r#"CREATE TABLE doc (body);
        INSERT INTO doc VALUES ('{no json'), ('{"id":7}');
        ALTER TABLE doc ADD COLUMN id AS (json_extract(body, '$.id'));"#;
    let streams = captured_sql(sql).await;
    let proof = proved(&streams, &[("SELECT id FROM doc WHERE rowid = 2", "7")]).await;
    assert_eq!((proof.tables, proof.rows), (1, 2));
    let told = differences(&streams, "UPDATE doc SET body = '{}' WHERE rowid = 1").await;
    assert_eq!(told, ["table doc: rows differ"]);
}

/// What it is, how SQL says it, and what must not pass for it.
const VALUES: [(&str, &str, &str); 23] = [
    ("null", "NULL", "''"),
    ("empty text", "''", "x''"),
    ("empty blob", "x''", "NULL"),
    ("highest integer", "9223372036854775807", "9223372036854775806"),
    ("highest integer as such", "9223372036854775807", "9223372036854775807.0"),
    ("lowest integer", "-9223372036854775808", "-9223372036854775807"),
    ("integer", "1", "1.0"),
    ("digit", "'1'", "1"),
    ("fraction", "0.1", "0.1000000000000001"),
    ("tiny", "1e-300", "0.0"),
    ("infinite", "9e999", "-9e999"),
    ("minus infinite", "-9e999", "-1e308"),
    ("minus zero", "-0.0", "0.0"),
    ("NUL inside", "'a' || char(0) || 'b'", "'a' || char(0) || 'c'"),
    ("NUL at the end", "'a' || char(0)", "'a'"),
    ("no UTF-8", "CAST(x'c328' AS TEXT)", "CAST(x'c329' AS TEXT)"),
    ("no UTF-8 either", "CAST(x'80ff' AS TEXT)", "CAST(x'80fe' AS TEXT)"),
    // In a database of this encoding, SQLite gives both as the same UTF-8.
    ("no UTF-16le", "CAST(x'00d84100' AS TEXT)", "CAST(x'00d841dc' AS TEXT)"),
    ("no UTF-16be", "CAST(x'd8000041' AS TEXT)", "CAST(x'd800dc41' AS TEXT)"),
    ("right to left", "'שלום ' || char(8238) || 'مرحبا'", "'שלום مرحبا'"),
    ("one letter", "char(233)", "'e' || char(769)"),
    ("emoji", "'🛟'", "'🛟' || char(65039)"),
    ("text", "'abc'", "CAST('abc' AS BLOB)"),
];

fn of_values(encoding: &str) -> String {
    let rows: Vec<String> = VALUES.iter().map(|(what, value, _)| format!("('{what}', {value})")).collect();
    let rows = rows.join(", ");
    format!(
        "PRAGMA encoding = '{encoding}'; CREATE TABLE odd (what TEXT PRIMARY KEY, v);
         CREATE INDEX odd_v ON odd (v); INSERT INTO odd VALUES {rows};"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_passes_for_another_one_in_any_encoding() {
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let streams = captured_sql(&of_values(encoding)).await;
        let proof = proved(&streams, &[("PRAGMA encoding", encoding)]).await;
        assert_eq!(proof.rows, VALUES.len() as u64);
        for (what, _, other) in VALUES {
            let told = differences(&streams, &format!("UPDATE odd SET v = {other} WHERE what = '{what}'")).await;
            assert_eq!(told, ["table odd: rows differ"], "{what}, {encoding}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_encoding_is_a_difference() {
    let of = async |encoding: &str| {
        let sql = format!("PRAGMA encoding = '{encoding}'; CREATE TABLE t (a); INSERT INTO t VALUES (1), ('ü')");
        captured_sql(&sql).await
    };
    let (streams, other) = (of("UTF-8").await, of("UTF-16le").await);
    let mut drill = Drill::of(&streams).await;
    std::fs::copy(Drill::of(&other).await.restored(), drill.restored()).unwrap();
    let told = drill.file.prove(&streams).await.unwrap().differences;
    assert!(told.contains(&"definition of setting encoding: texts differ".to_owned()), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_in_a_blob_of_20_mib_is_a_difference() {
    let blob = noise(20 << 20, 7);
    let streams = captured(|writer| {
        run(writer, "CREATE TABLE big (b)");
        writer.execute("INSERT INTO big VALUES (?1)", [&blob]).unwrap();
    })
    .await;
    proved(&streams, &[("SELECT length(b) FROM big", "20971520")]).await;
    let mut changed = blob;
    changed[10 << 20] ^= 1;
    let mut drill = Drill::of(&streams).await;
    Connection::open(drill.restored()).unwrap().execute("UPDATE big SET b = ?1", [&changed]).unwrap();
    assert_eq!(drill.file.prove(&streams).await.unwrap().differences, ["table big: rows differ"]);
    for other in ["substr(b, 1, 20971519)", "CAST(b AS TEXT)"] {
        let told = differences(&streams, &format!("UPDATE big SET b = {other}")).await;
        assert_eq!(told, ["table big: rows differ"], "{other}");
    }
}

const NAMES: [&str; 18] = [
    "two words",
    "double\"quote",
    "it's",
    "[brackets]",
    "a]b[c",
    "back`tick",
    "select",
    "rowid",
    "שם",
    "جدول",
    "🛟 boat",
    "line\nbreak",
    "a; DROP TABLE odd--",
    "100%_",
    "t.a",
    "1",
    " ",
    "",
];

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_read_and_told_as_they_are() {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let make = NAMES.map(|name| {
        let (table, index, twice) = (quoted(name), quoted(&format!("{name} index")), quoted(&format!("{name} twice")));
        format!(
            "CREATE TABLE {table} ({table} TEXT, {twice} AS ({table} || {table}));
             CREATE INDEX {index} ON {table} ({table}); INSERT INTO {table} ({table}) VALUES ('a'), ('b');"
        )
    });
    let streams = captured_sql(&make.join("\n")).await;
    let proof = proved(&streams, &[("SELECT group_concat(\"it's twice\") FROM \"it's\"", "aa,bb")]).await;
    assert_eq!((proof.tables, proof.rows), (NAMES.len() as u64, 2 * NAMES.len() as u64));
    for name in NAMES {
        let table = quoted(name);
        let told = differences(&streams, &format!("UPDATE {table} SET {table} = 'c' WHERE {table} = 'a'")).await;
        assert_eq!(told, [format!("table {name}: rows differ")]);
        let told = differences(&streams, &format!("DROP INDEX {}", quoted(&format!("{name} index")))).await;
        assert_eq!(told, [format!("definition of index {name} index is missing in the restored database")]);
    }
}

const DEFINITIONS: &str = "
    PRAGMA page_size = 8192;
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA user_version = -7;
    PRAGMA application_id = 1818585445;
    CREATE TABLE hen (id INTEGER PRIMARY KEY, egg REFERENCES egg DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE egg (id INTEGER PRIMARY KEY, hen NOT NULL REFERENCES hen ON DELETE CASCADE);
    CREATE TABLE self (id INTEGER PRIMARY KEY, parent REFERENCES self);
    BEGIN;
    INSERT INTO hen VALUES (1, 1);
    INSERT INTO egg VALUES (1, 1);
    INSERT INTO self VALUES (1, 1), (2, 1);
    COMMIT;
    CREATE TABLE log (what TEXT);
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, price REAL DEFAULT 5, CHECK (price > 0));
    INSERT INTO item VALUES (1, 'Lamp', 9.5), (2, 'boat', NULL);
    CREATE INDEX costly ON item (price) WHERE price > 1;
    CREATE UNIQUE INDEX lower ON item (lower(name));
    CREATE VIEW cheap AS SELECT name FROM item WHERE price < 10;
    CREATE VIEW stale AS SELECT gone FROM nowhere;
    CREATE TRIGGER again AFTER INSERT ON item BEGIN
        INSERT INTO log VALUES ('again ' || NEW.id);
        UPDATE item SET price = 2 * price;
    END;
    CREATE TRIGGER kept INSTEAD OF DELETE ON cheap BEGIN SELECT raise(ABORT, 'kept'); END;";

#[tokio::test(flavor = "multi_thread")]
async fn every_definition_and_setting_is_compared() {
    let streams = captured_sql(DEFINITIONS).await;
    // Nothing fired while it was restored.
    let untouched = [("SELECT count(*) FROM log", "0"), ("SELECT price FROM item WHERE id = 1", "9.5")];
    let proof = proved(&streams, &untouched).await;
    assert_eq!((proof.tables, proof.rows), (5, 6), "{proof:?}");

    let renamed = |name: &str, from: &str, to: &str, kind: &str| {
        (redefined(name, from, to), format!("definition of {kind} {name}: texts differ"))
    };
    let missing = |kind: &str, name: &str| {
        (format!("DROP {kind} {name}"), format!("definition of {kind} {name} is missing in the restored database"))
    };
    let setting = |sql: &str, name: &str| (sql.to_owned(), format!("definition of setting {name}: texts differ"));
    for (sabotage, told) in [
        setting("PRAGMA user_version = 7", "user_version"),
        setting("PRAGMA application_id = 0", "application_id"),
        setting("PRAGMA auto_vacuum = FULL", "auto_vacuum"),
        setting("PRAGMA page_size = 4096; VACUUM", "page_size"),
        setting("PRAGMA journal_mode = WAL", "journal_mode"),
        missing("index", "costly"),
        missing("index", "lower"),
        missing("trigger", "again"),
        missing("trigger", "kept"),
        missing("view", "stale"),
        renamed("costly", "price > 1", "price > 2", "index"),
        renamed("lower", "UNIQUE ", "", "index"),
        renamed("again", "2 * price", "3 * price", "trigger"),
        renamed("stale", "nowhere", "elsewhere", "view"),
        renamed("item", "NOCASE", "RTRIM", "table"),
        renamed("item", "DEFAULT 5", "DEFAULT 6", "table"),
        renamed("item", "price > 0", "price > 1", "table"),
        renamed("egg", "ON DELETE CASCADE", "", "table"),
        ("UPDATE hen SET egg = NULL".to_owned(), "table hen: rows differ".to_owned()),
        ("UPDATE self SET parent = 2 WHERE id = 1".to_owned(), "table self: rows differ".to_owned()),
    ] {
        assert_eq!(differences(&streams, &sabotage).await, [told], "{sabotage}");
    }
    // What a trigger does when a row is loaded once more.
    let told = differences(&streams, "INSERT INTO item VALUES (3, 'oar', 1)").await;
    assert_eq!(told, ["table item: 2 rows stored, 3 restored", "table log: 0 rows stored, 1 restored"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_no_utf_8_is_compared_byte_by_byte() {
    // As programs wrote it that passed Latin-1 to SQLite.
    let written = |byte: &str| {
        format!(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE TABLE old (a DEFAULT ''caf' || CAST(x'{byte}' AS TEXT) || ''')';
             PRAGMA writable_schema = RESET;"
        )
    };
    let make = format!("CREATE TABLE old (a); INSERT INTO old VALUES (1); {}", written("e9"));
    let streams = captured_sql(&make).await;
    proved(&streams, &[("SELECT hex(sql) LIKE '%E9%' FROM sqlite_schema", "1")]).await;
    assert_eq!(differences(&streams, &written("e8")).await, ["definition of table old: texts differ"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_find_what_is_computed_and_wrong() {
    let streams = captured_sql(DEFINITIONS).await;
    let mixed_up = "PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET rootpage = (SELECT sum(rootpage) FROM sqlite_schema WHERE name IN ('costly', 'lower'))
            - rootpage WHERE name IN ('costly', 'lower');
        PRAGMA writable_schema = RESET;";
    let dangling = "PRAGMA foreign_keys = OFF; DELETE FROM hen";
    for (sabotage, found) in [(mixed_up, "integrity_check"), (dangling, "foreign_key_check")] {
        let mut drill = Drill::of(&streams).await;
        drill.sabotage(sabotage);
        assert_eq!(drill.failing(&[]).await, [found]);
    }
}

const VIRTUAL: &str = "
    CREATE VIRTUAL TABLE notes USING fts5(title, body, tokenize = 'porter unicode61');
    INSERT INTO notes VALUES ('one', 'a boat'), ('two', 'שלום עולם');
    CREATE TABLE page (id INTEGER PRIMARY KEY, body TEXT);
    INSERT INTO page VALUES (1, 'first page'), (2, 'second');
    CREATE VIRTUAL TABLE found USING fts5(body, content = 'page', content_rowid = 'id');
    INSERT INTO found (found) VALUES ('rebuild');
    CREATE VIRTUAL TABLE bare USING fts5(body, content = '');
    INSERT INTO bare (rowid, body) VALUES (7, 'nothing but an index');
    CREATE VIRTUAL TABLE older USING fts4(body);
    INSERT INTO older VALUES ('an older one');
    CREATE VIRTUAL TABLE area USING rtree(id, x0, x1, y0, y1);
    INSERT INTO area VALUES (1, 0, 1, 0, 1), (2, -5, 5, -5, 5);";

#[tokio::test(flavor = "multi_thread")]
async fn virtual_tables_are_compared_by_what_they_store() {
    let streams = captured(|writer| {
        let compiled = "SELECT count(*) FROM pragma_compile_options
            WHERE compile_options IN ('ENABLE_FTS3', 'ENABLE_FTS5', 'ENABLE_RTREE')";
        let count: i64 = writer.query_row(compiled, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 3, "SQLite was built without FTS or R-Tree");
        run(writer, VIRTUAL);
    })
    .await;
    let answers = [
        ("SELECT rowid FROM notes WHERE notes MATCH 'boats'", "1"),
        ("SELECT rowid FROM notes WHERE notes MATCH 'עולם'", "2"),
        ("SELECT body FROM found WHERE found MATCH 'second'", "second"),
        ("SELECT rowid FROM bare WHERE bare MATCH 'index'", "7"),
        ("SELECT count(*) FROM older WHERE older MATCH 'older'", "1"),
        ("SELECT id FROM area WHERE x0 < -1", "2"),
    ];
    let proof = proved(&streams, &answers).await;
    // Five of `notes`, four of `found`, four of `bare`, five of `older`, three of `area`, `page`.
    assert_eq!(proof.tables, 22, "{proof:?}");

    for (sabotage, told) in [
        ("UPDATE notes_content SET c1 = 'a ship' WHERE id = 1", "table notes_content: rows differ"),
        ("UPDATE notes_docsize SET sz = x'0101' WHERE id = 1", "table notes_docsize: rows differ"),
        ("UPDATE notes_data SET block = zeroblob(length(block)) WHERE id > 10", "table notes_data: rows differ"),
        ("UPDATE page SET body = 'other' WHERE id = 1", "table page: rows differ"),
        ("UPDATE area_node SET data = zeroblob(length(data))", "table area_node: rows differ"),
        ("UPDATE area SET x1 = 2 WHERE id = 1", "table area_node: rows differ"),
        (redefined("notes", "porter ", "").as_str(), "definition of table notes: texts differ"),
        (redefined("found", "page", "pages").as_str(), "definition of table found: texts differ"),
    ] {
        assert_eq!(differences(&streams, sabotage).await, [told], "{sabotage}");
    }
    // Changes in the way that programs make them touch several shadow tables.
    for (sabotage, touched) in [
        ("UPDATE notes SET body = 'a ship' WHERE rowid = 1", "table notes_"),
        ("DELETE FROM notes WHERE rowid = 2", "table notes_"),
        ("INSERT INTO notes (notes, rank) VALUES ('pgsz', 64)", "table notes_"),
        ("INSERT INTO found (found) VALUES ('delete-all')", "table found_"),
        ("INSERT INTO bare (rowid, body) VALUES (8, 'more')", "table bare_"),
        ("DELETE FROM older", "table older_"),
        ("DELETE FROM area WHERE id = 2", "table area_"),
    ] {
        let told = differences(&streams, sabotage).await;
        assert!(!told.is_empty() && told.iter().all(|one| one.starts_with(touched)), "{sabotage}: {told:?}");
    }
    let told = differences(&streams, "DROP TABLE bare").await;
    assert!(told.contains(&"definition of table bare is missing in the restored database".to_owned()), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_only_the_wal_holds_are_proved_and_so_is_its_mode() {
    let streams = captured(|writer| {
        run(writer, "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0");
        run(writer, "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)");
        assert!(std::fs::metadata(writer.path().unwrap()).unwrap().len() <= 4096, "it is in the file already");
        // What is not committed is no part of a snapshot.
        run(writer, "BEGIN; INSERT INTO t VALUES (3)");
    })
    .await;
    let proof = proved(&streams, &[("PRAGMA journal_mode", "wal"), ("SELECT count(*) FROM t", "2")]).await;
    assert_eq!((proof.tables, proof.rows), (1, 2));
    for (sabotage, told) in [
        ("PRAGMA journal_mode = DELETE", "definition of setting journal_mode: texts differ"),
        ("DELETE FROM t WHERE a = 2", "table t: 2 rows stored, 1 restored"),
        ("UPDATE t SET a = 3 WHERE a = 2", "table t: rows differ"),
    ] {
        assert_eq!(differences(&streams, sabotage).await, [told], "{sabotage}");
    }
}
