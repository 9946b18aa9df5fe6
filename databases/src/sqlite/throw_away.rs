//! Drills of SQLite snapshots: they need a file and no server.
//!
//! The proof is logical. The restored file is copied once more by the backup API, as a capture
//! would do. The copy must hold the same schema text, settings and rows as the stored stream. Bytes
//! may differ, since a copy changes counters in the header.
//!
//! What is computed from the rest is not compared: the rows of virtual tables and views, virtual
//! columns, the entries of indexes. The check before the proof looks at the indexes.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use lifeboat_base::{Class, Context, Error, Result};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Statement};
use tokio::io::AsyncWriteExt;

use super::DATABASE_STREAM;
use crate::database::{ThrowAway, WorkContext};
use crate::proof::multiset::{Multiset, ProofKey, Titled, shorten, tell};
use crate::proof::{
    CheckResult, DrillQuery, FirstValue, ProofResult, QueryAnswer, Unanswered, answered, checked, no_sql,
};
use crate::streams::StoredStreams;

/// What a database keeps for itself beside definitions and rows, as pragmas.
const COMPARED_SETTINGS: [&str; 6] =
    ["user_version", "application_id", "encoding", "auto_vacuum", "page_size", "journal_mode"];
/// How SQL calls the rowid, unless a column has the name.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A restored file in the scratch directory.
pub(crate) struct SqliteThrowAway {
    directory: PathBuf,
    cx: WorkContext,
}

impl SqliteThrowAway {
    pub(crate) fn new(cx: &WorkContext) -> Result<Self> {
        let directory = cx.scratch.join("sqlite");
        std::fs::create_dir(&directory).context(Class::Source, || format!("cannot create {}", directory.display()))?;
        Ok(Self { directory, cx: cx.clone() })
    }

    fn restored(&self) -> PathBuf {
        self.directory.join("restored.sqlite")
    }
}

impl Drop for SqliteThrowAway {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[async_trait]
impl ThrowAway for SqliteThrowAway {
    fn server_version(&self) -> &str {
        rusqlite::version()
    }

    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        write(streams, &self.restored()).await?;
        let path = self.restored();
        blocking(move || open(&path).map(drop)).await
    }

    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let (path, queries) = (self.restored(), queries.to_vec());
        blocking(move || {
            let connection = open(&path)?;
            checked(own_checks(&connection)?, answers(&connection, &queries))
        })
        .await
    }

    async fn ask(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        let (path, queries) = (self.restored(), queries.to_vec());
        blocking(move || answered(answers(&open(&path)?, &queries))).await
    }

    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult> {
        let (stored, again) = (self.directory.join("stored.sqlite"), self.directory.join("again.sqlite"));
        write(streams, &stored).await?;
        let (restored, cancel) = (self.restored(), self.cx.cancel.clone());
        blocking(move || {
            let from = open(&restored)?;
            let mut to = Connection::open(&again).context(Class::Source, || "cannot copy the restored database")?;
            let copy = rusqlite::backup::Backup::new(&from, &mut to).and_then(|backup| backup.step(-1));
            copy.context(Class::Source, || "cannot copy the restored database")?;
            drop(to);
            if cancel.is_cancelled() {
                return Err(Error::failed("the drill was cancelled").hint("run it again"));
            }
            compare(&stored, &again)
        })
        .await
    }

    async fn stop(self: Box<Self>) -> Result<()> {
        std::fs::remove_dir_all(&self.directory)
            .context(Class::Source, || format!("cannot remove {}", self.directory.display()))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context(Class::Failed, || "a worker thread failed")?
}

async fn write(streams: &dyn StoredStreams, path: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = tokio::fs::File::create(path).await.context(Class::Source, failed)?;
    let mut stream = streams.open(DATABASE_STREAM).await?;
    while let Some(piece) = stream.next().await? {
        file.write_all(&piece).await.context(Class::Source, failed)?;
    }
    file.flush().await.context(Class::Source, failed)
}

/// Opens a file read-only, and makes sure that it is a database.
fn open(path: &Path) -> Result<Connection> {
    let damaged = || format!("{} is not a whole SQLite database", path.display());
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).context(Class::Integrity, damaged)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).context(Class::Integrity, damaged)?;
    Ok(connection)
}

fn own_checks(connection: &Connection) -> Result<Vec<CheckResult>> {
    let mut results = Vec::new();
    for (check, sound) in [("integrity_check", Some("ok")), ("foreign_key_check", None)] {
        let first: Option<String> = connection
            .prepare(&format!("PRAGMA {check}"))
            .and_then(|mut statement| {
                let mut rows = statement.query([])?;
                let row = rows.next()?;
                row.map(|row| text_of(row.get_ref(0)?)).transpose()
            })
            .context(Class::Integrity, || format!("PRAGMA {check} fails"))?;
        let passed = first.as_deref() == sound;
        results.push(CheckResult {
            check: check.to_owned(),
            passed,
            detail: first.unwrap_or_else(|| "nothing found".to_owned()),
        });
    }
    Ok(results)
}

fn answers(connection: &Connection, queries: &[DrillQuery]) -> Vec<QueryAnswer> {
    let each = queries.iter().map(|wanted| {
        let check = wanted.sql.clone();
        let mut typing_error = None;
        if let Err(error) = connection.prepare(&wanted.sql) {
            let said = error.to_string();
            if ["syntax error", "incomplete input", "unrecognized token"].iter().any(|word| said.contains(word)) {
                typing_error = Some(no_sql(&wanted.sql, &said));
            }
        }
        let answer = connection.prepare(&wanted.sql).and_then(|mut statement| {
            let mut rows = statement.query([])?;
            let Some(row) = rows.next()? else { return Ok(wanted.judge_value(FirstValue::NoRow)) };
            let judged = match row.get_ref(0)? {
                ValueRef::Null => wanted.judge_value(FirstValue::Null),
                value => wanted.judge_value(FirstValue::Text(&text_of(value)?)),
            };
            Ok(judged)
        });
        let (passed, detail) = match answer {
            Err(error) => return Err(Unanswered { check, detail: error.to_string(), typing_error }),
            Ok(_) if !wanted.wants_result() => (true, "ran".to_owned()),
            Ok(judged) => judged,
        };
        Ok(CheckResult { check, passed, detail })
    });
    each.collect()
}

fn text_of(value: ValueRef<'_>) -> rusqlite::Result<String> {
    Ok(match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
    })
}

fn compare(stored: &Path, restored: &Path) -> Result<ProofResult> {
    let key: ProofKey = rand::random();
    let read = |path: &Path| {
        let connection = open(path)?;
        content(&connection, &key).context(Class::Integrity, || format!("cannot read {}", path.display()))
    };
    let (stored, restored) = (read(stored)?, read(restored)?);
    let mut proof = ProofResult {
        definitions: stored.0.values().map(|definitions| definitions.count).sum(),
        tables: stored.1.len() as u64,
        rows: stored.1.values().map(|rows| rows.count).sum(),
        ..ProofResult::default()
    };
    tell("definition of", "texts", &stored.0, &restored.0, &mut proof.differences);
    tell("table", "rows", &stored.1, &restored.1, &mut proof.differences);
    shorten(&mut proof);
    Ok(proof)
}

/// The definitions and settings of a database, and the rows of every table, including the shadow
/// tables of virtual tables.
fn content(connection: &Connection, key: &ProofKey) -> rusqlite::Result<(Titled, Titled)> {
    let (mut definitions, mut tables) = (Titled::new(), Titled::new());
    let mut add = |title: String, text: &[u8]| {
        let multiset: &mut Multiset = definitions.entry(title).or_default();
        multiset.add(blake3::Hasher::new_keyed(key).update(text));
    };
    for setting in COMPARED_SETTINGS {
        let value = connection.query_row(&format!("PRAGMA {setting}"), [], |row| text_of(row.get_ref(0)?))?;
        add(format!("setting {setting}"), value.as_bytes());
    }
    let mut names = Vec::new();
    let mut schema = connection.prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")?;
    let mut rows = schema.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name) = (text_of(row.get_ref(0)?)?, text_of(row.get_ref(1)?)?);
        // Nobody makes sure that these are UTF-8.
        let (table, sql) = (row.get_ref(2)?.as_bytes()?, row.get_ref(3)?.as_bytes()?);
        add(format!("{kind} {name}"), &[table, b"\0", sql].concat());
        // A virtual table computes its rows from its shadow tables, which are compared.
        if kind == "table" && !sql.to_ascii_uppercase().starts_with(b"CREATE VIRTUAL") {
            names.push(name);
        }
    }
    for name in names {
        let rows = table_rows(connection, &name, key)?;
        tables.insert(name, rows);
    }
    Ok((definitions, tables))
}

/// Every row of a table with its types, and with its rowid if it has one.
fn table_rows(connection: &Connection, name: &str, key: &ProofKey) -> rusqlite::Result<Multiset> {
    let mut statement = all_stored(connection, name)?;
    let columns = statement.column_count();
    let mut multiset = Multiset::default();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut hasher = blake3::Hasher::new_keyed(key);
        for column in 0..columns {
            let value = row.get_ref(column)?;
            let (kind, bytes): (u8, &[u8]) = match &value {
                ValueRef::Null => (0, &[]),
                ValueRef::Integer(number) => (1, &number.to_le_bytes()),
                ValueRef::Real(number) => (2, &number.to_bits().to_le_bytes()),
                ValueRef::Text(text) => (3, text),
                ValueRef::Blob(blob) => (4, blob),
            };
            hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
        multiset.add(&hasher);
    }
    Ok(multiset)
}

/// Selects all that a table stores, and its rowid if it has one.
///
/// Virtual columns are left out: they are computed from the others, and that may end in an error.
/// Of text in UTF-16 the bytes are read too: SQLite gives UTF-8, in which some malformed texts look
/// alike.
fn all_stored<'a>(connection: &'a Connection, name: &str) -> rusqlite::Result<Statement<'a>> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let is_utf_16 = connection.query_row("PRAGMA encoding", [], |row| text_of(row.get_ref(0)?))? != "UTF-8";
    let mut asked = connection.prepare("SELECT name, hidden = 2 FROM pragma_table_xinfo(?1)")?;
    let columns = asked.query_map([name], |row| Ok((text_of(row.get_ref(0)?)?, row.get::<_, bool>(1)?)))?;
    let columns: Vec<(String, bool)> = columns.collect::<rusqlite::Result<_>>()?;
    let listed = match is_utf_16 || columns.iter().any(|(_, is_virtual)| *is_virtual) {
        false => "*".to_owned(),
        true => {
            let stored = columns.iter().filter(|(_, is_virtual)| !is_virtual).map(|(column, _)| {
                // Without the table, SQLite takes a name that it does not know for a text.
                let column = format!("t.{}", quoted(column));
                if is_utf_16 { format!("{column}, CAST({column} AS BLOB)") } else { column }
            });
            stored.collect::<Vec<_>>().join(", ")
        }
    };
    let from = format!("{listed} FROM {} AS t", quoted(name));
    let taken = |rowid: &str| columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(rowid));
    let rowid = ROWID_NAMES.into_iter().find(|rowid| !taken(rowid));
    let with_rowid = rowid.map(|rowid| connection.prepare(&format!("SELECT t.{rowid}, {from}")));
    with_rowid.and_then(rusqlite::Result::ok).map_or_else(|| connection.prepare(&format!("SELECT {from}")), Ok)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_in_a_query_is_no_damage() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("shop.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE orders (id INTEGER)").unwrap();
        let query = |sql: &str| DrillQuery { sql: sql.to_owned(), ..DrillQuery::default() };
        let (good, typed) = (query("SELECT count(*) FROM orders"), query("SELEC count(*) FROM orders"));
        let connection = open(&path).unwrap();
        let check = |queries: &[DrillQuery]| checked(own_checks(&connection)?, answers(&connection, queries));
        let error = check(&[good.clone(), typed.clone()]).unwrap_err();
        assert!(error.class() == Class::Configuration && error.message().contains("SELEC"), "{error}");
        for (sql, told) in [
            ("SELECT max(id) FROM orders", "NULL"),
            ("SELECT id FROM orders", "no row"),
            ("SELECT ''", "an empty text"),
            ("SELECT 7", "7"),
        ] {
            let asked = DrillQuery { expect: Some("8".to_owned()), ..query(sql) };
            let found = answered(answers(&connection, &[asked])).unwrap();
            assert_eq!((found[0].passed, found[0].detail.as_str()), (false, &*format!("expected 8, found {told}")));
        }
        // A table that is missing may be lost, and counts for more.
        for queries in [vec![query("SELECT 1 FROM items")], vec![typed, query("SELECT 1 FROM items"), good]] {
            assert!(answered(answers(&connection, &queries)).is_err(), "an error is taken for an answer");
            let checks = check(&queries).unwrap();
            assert!(checks.len() == 2 + queries.len() && checks.iter().any(|check| !check.passed), "{checks:?}");
        }
    }
}
