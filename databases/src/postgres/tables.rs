//! Which tables are captured in streams of their own.

/// At most so many of one database: the largest.
use lifeboat_base::{Class, Context, Error, Result};

use super::parts::{Part, Table, TableName};
use super::server::Server;
use super::sql::literal;

const MOST: usize = 64;

/// Ordinary tables of users. What belongs to an extension is dumped as the extension wants it, with
/// all else.
const TABLES: &str = "SELECT n.nspname, c.relname, \
    (SELECT coalesce(json_agg(json_build_array(m.nspname, s.relname)), '[]') \
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid JOIN pg_namespace m ON m.oid = s.relnamespace \
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid \
    AND s.relkind = 'S' AND d.deptype IN ('a', 'i')), getdatabaseencoding() \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')";

/// The tables of at least `size` bytes on disk, out-of-line values included and indexes not, the
/// largest first.
pub(crate) async fn large(server: &Server<'_>, database: &str, size: u64) -> Result<Vec<Table>> {
    let sql = format!(
        "{TABLES} AND pg_table_size(c.oid) >= {size} ORDER BY pg_table_size(c.oid) DESC, n.nspname, c.relname LIMIT {MOST}"
    );
    let found = parse(&server.query_in(database, &sql).await?)?;
    // `pg_dump` reads names in the encoding of the database. A table that cannot be named so, or
    // whose stream cannot be named, stays with the others.
    let tables = found.into_iter().filter(|(table, encoding)| {
        let named = Part::Table(table.name.clone()).stream(database).is_some();
        named && (encoding == "UTF8" || table.is_ascii())
    });
    Ok(tables.map(|(table, _)| table).collect())
}

/// Those of `names` that are there.
pub(crate) async fn named(server: &Server<'_>, database: &str, names: &[&TableName]) -> Result<Vec<Table>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> =
        names.iter().map(|table| format!("({}, {})", literal(&table.schema), literal(&table.name))).collect();
    let sql = format!("{TABLES} AND (n.nspname, c.relname) IN ({})", names.join(", "));
    let found = parse(&server.query_in(database, &sql).await?)?;
    Ok(found.into_iter().map(|(table, _)| table).collect())
}

/// Tables, and the encoding of their database.
fn parse(answer: &str) -> Result<Vec<(Table, String)>> {
    answer.split('\0').filter(|row| !row.is_empty()).map(table).collect()
}

fn table(row: &str) -> Result<(Table, String)> {
    let fields: Vec<&str> = row.split('\u{1f}').collect();
    let [schema, name, sequences, encoding] = fields[..] else {
        return Err(Error::source_failed("the PostgreSQL server's list of tables is not understood"));
    };
    let sequences: Vec<(String, String)> = serde_json::from_str(sequences)
        .context(Class::Source, || "the list of a table's sequences is not understood")?;
    let name = TableName { schema: schema.to_owned(), name: name.to_owned() };
    let sequences = sequences.into_iter().map(|(schema, name)| TableName { schema, name }).collect();
    Ok((Table { name, sequences }, encoding.to_owned()))
}
