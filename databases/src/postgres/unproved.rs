//! Which tables of a database can be left out of a proof of the rest.
//!
//! Rows are proved under the definitions that they were proved with. So none are left out once any
//! definition of the database has changed. A foreign key ties the rows of one table to those of
//! another: the tables of a key are left out together, or not at all. A function may read any
//! table: one that a check, an index or a domain calls may refuse rows that it took before, so a
//! table that needs one is not left out. If a function misses the rows of a table that was left
//! out, the load fails, and the whole snapshot is drilled.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::Result;

use super::contents::Contents;
use super::late::FOREIGN_KEY;
use super::names::{referred_table, table_of};
use super::partitions::{is_partitioned, with_partitions};
use super::parts::{DumpPart, TableName};
use crate::streams::StoredStreams;

/// What looks at the rows of the table that it needs when it is made.
const CHECKED_KINDS: [&[u8]; 4] = [b"INDEX", b"CONSTRAINT", b"CHECK CONSTRAINT", b"TABLE ATTACH"];
/// What may read any table.
const CODE_KINDS: [&[u8]; 4] = [b"FUNCTION", b"PROCEDURE", b"AGGREGATE", b"OPERATOR"];

/// Those of `unchanged`, streams of one database, that need not be loaded with the others.
///
/// # Errors
/// The definitions cannot be read.
pub(super) async fn tables_apart(
    streams: &dyn StoredStreams,
    all: &[String],
    unchanged: &BTreeSet<&str>,
) -> Result<Vec<String>> {
    let part = |stream: &str| DumpPart::of_stream(stream).map(|(part, _)| part);
    let schema = all.iter().find(|stream| part(stream) == Some(DumpPart::Schema));
    let Some(schema) = schema.filter(|schema| unchanged.contains(schema.as_str())) else { return Ok(Vec::new()) };
    let tables: Vec<(&String, TableName)> = all
        .iter()
        .filter(|stream| unchanged.contains(stream.as_str()))
        .filter_map(|stream| match part(stream)? {
            DumpPart::Table(name) => Some((stream, name)),
            _ => None,
        })
        .collect();
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let contents = Contents::read(streams.open(schema).await?.as_mut()).await?;
    let names = tables.iter().map(|(_, name)| name.clone()).collect();
    let apart = without_tied(&contents, without_code(&contents, names));
    Ok(tables.into_iter().filter(|(_, name)| apart.contains(name)).map(|(stream, _)| stream.clone()).collect())
}

/// Takes out the tables whose rows code of the database looks at when they are loaded.
fn without_code(contents: &Contents, mut tables: BTreeSet<TableName>) -> BTreeSet<TableName> {
    let text = |field| String::from_utf8_lossy(contents.get(field)).into_owned();
    let mut needed_by = BTreeMap::<i64, Vec<i64>>::new();
    // An index or a constraint looks at the rows of the table that it needs, as do those above it.
    for entry in contents.entries.iter().filter(|entry| CHECKED_KINDS.contains(&contents.get(&entry.kind))) {
        for id in contents.needs(entry) {
            needed_by.entry(id).or_default().push(entry.id);
        }
    }
    for entry in contents.of_kind("TABLE") {
        let (mut seen, mut ahead) = (BTreeSet::from([entry.id]), vec![entry.id]);
        ahead.extend(needed_by.get(&entry.id).into_iter().flatten());
        let mut finds_code = false;
        while let Some(id) = ahead.pop() {
            let Some(one) = contents.by_number(id) else { continue };
            finds_code |= CODE_KINDS.contains(&contents.get(&one.kind));
            ahead.extend(contents.needs(one).filter(|id| seen.insert(*id)));
        }
        if finds_code {
            tables.remove(&TableName { schema: text(&entry.schema), name: text(&entry.tag) });
        }
    }
    tables
}

/// Takes out what keys tie to other tables, until nothing more is.
fn without_tied(contents: &Contents, mut tables: BTreeSet<TableName>) -> BTreeSet<TableName> {
    let known: BTreeMap<[&[u8]; 2], i64> = contents
        .of_kind("TABLE")
        .map(|entry| ([contents.get(&entry.schema), contents.get(&entry.tag)], entry.id))
        .collect();
    let keys: Option<Vec<_>> =
        contents.of_kind(FOREIGN_KEY).map(|key| tied_by(contents, &known, contents.get(&key.definition))).collect();
    // Of one it is not clear what it ties.
    let Some(keys) = keys else { return BTreeSet::new() };
    loop {
        let before = tables.len();
        for tied in &keys {
            if !tied.is_subset(&tables) {
                tables.retain(|table| !tied.contains(table));
            }
        }
        if tables.len() == before {
            return tables;
        }
    }
}

/// The tables with rows that a key is of, and those that it refers to.
fn tied_by(contents: &Contents, known: &BTreeMap<[&[u8]; 2], i64>, definition: &[u8]) -> Option<BTreeSet<TableName>> {
    let mut ids = BTreeSet::new();
    for [schema, name] in [table_of(definition)?, referred_table(definition)?] {
        ids.insert(*known.get(&[schema.as_slice(), name.as_slice()])?);
    }
    with_partitions(contents, &mut ids);
    let text = |field| String::from_utf8(contents.get(field).to_vec()).ok();
    let mut tied = BTreeSet::new();
    for id in ids {
        let entry = contents.by_number(id)?;
        if !is_partitioned(contents.get(&entry.definition)) {
            tied.insert(TableName { schema: text(&entry.schema)?, name: text(&entry.tag)? });
        }
    }
    Some(tied)
}
