//! Chooses the tables that are captured in streams of their own.

use lifeboat_base::{Class, Context, Result};

use super::parts::{DumpPart, Table, TableName};
use super::server::Server;
use super::sql::literal;

/// No more tables of one database have streams of their own: the largest are chosen.
const MAX_TABLES: usize = 64;
/// No more tables of one database are locked before the moment of a group: the largest are chosen.
const MAX_LOCKED_TABLES: usize = 1000;

/// Lists the ordinary tables of users. Tables that belong to an extension are not listed, but
/// dumped with everything else, as the extension wants.
const TABLES: &str = "SELECT json_build_array(n.nspname, c.relname, \
    (SELECT coalesce(json_agg(json_build_array(m.nspname, s.relname)), '[]') \
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid JOIN pg_namespace m ON m.oid = s.relnamespace \
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid \
    AND s.relkind = 'S' AND d.deptype IN ('a', 'i')), getdatabaseencoding()) \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
    AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')";

/// The tables of at least `size` bytes on disk, the largest first. The size includes out-of-line
/// values, but not indexes.
pub(crate) async fn large(server: &Server<'_>, database: &str, size: u64) -> Result<Vec<Table>> {
    largest(server, database, size, MAX_TABLES).await
}

/// The tables that a group's capture locks before its moment, so that none changes its shape before
/// its dump begins: at most `most`.
pub(crate) async fn to_lock(server: &Server<'_>, database: &str, most: usize) -> Result<Vec<Table>> {
    largest(server, database, 0, most.min(MAX_LOCKED_TABLES)).await
}

async fn largest(server: &Server<'_>, database: &str, size: u64, most: usize) -> Result<Vec<Table>> {
    let sql = format!(
        "{TABLES} AND pg_table_size(c.oid) >= {size} ORDER BY pg_table_size(c.oid) DESC, n.nspname, c.relname LIMIT {most}"
    );
    let found = parse(&server.query_in(database, &sql).await?)?;
    // `pg_dump` reads names in the encoding of the database. A table that cannot be named this way,
    // or whose stream cannot be named, stays with the others.
    let tables = found.into_iter().filter(|(table, encoding)| {
        let named = DumpPart::Table(table.name.clone()).stream(database).is_some();
        named && (encoding == "UTF8" || table.is_ascii())
    });
    Ok(tables.map(|(table, _)| table).collect())
}

/// The tables of `names` that exist.
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

/// Parses the answer: tables, each with the encoding of its database.
fn parse(answer: &str) -> Result<Vec<(Table, String)>> {
    answer.split('\0').filter(|row| !row.is_empty()).map(table).collect()
}

fn table(row: &str) -> Result<(Table, String)> {
    type Row = (String, String, Vec<(String, String)>, String);
    let (schema, name, sequences, encoding): Row = serde_json::from_str(row)
        .context(Class::Source, || "the PostgreSQL server gave an unexpected answer to the query for tables")?;
    let name = TableName { schema, name };
    let sequences = sequences.into_iter().map(|(schema, name)| TableName { schema, name }).collect();
    Ok((Table { name, sequences }, encoding))
}
