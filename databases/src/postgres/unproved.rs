//! Which tables of a database can be left out of a proof of the rest.
//!
//! Rows are proved under the definitions that they were proved with. So none are left out once any
//! definition of the database has changed. A foreign key ties the rows of one table to those of
//! another: the tables of a key are left out together, or not at all. What else code of the
//! database looks for in a table cannot be told from its definitions; then the load fails, and the
//! whole snapshot is drilled.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::Result;

use super::contents::Contents;
use super::late::FOREIGN_KEY;
use super::names::{referred_table, table_of};
use super::partitions::{is_partitioned, with_partitions};
use super::parts::{DumpPart, TableName};
use crate::streams::StoredStreams;

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
    let apart = without_tied(&contents, names);
    Ok(tables.into_iter().filter(|(_, name)| apart.contains(name)).map(|(stream, _)| stream.clone()).collect())
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
