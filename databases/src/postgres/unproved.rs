//! Which tables of a database can be left out of a proof of the rest.
//!
//! A foreign key is made after the rows, and fails where rows refer to others that are not there.
//! So a table that a key refers to is left out only together with all tables that the key is of.
//! What else code of the database looks for in a table cannot be told from its definitions; then
//! the load fails, and the whole snapshot is drilled.

use std::collections::BTreeSet;

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
    let Some(schema) = all.iter().find(|stream| part(stream) == Some(DumpPart::Schema)) else { return Ok(Vec::new()) };
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
    let apart = without_referred(&contents, names);
    Ok(tables.into_iter().filter(|(_, name)| apart.contains(name)).map(|(stream, _)| stream.clone()).collect())
}

/// Takes out what keys of other tables refer to, until nothing more is.
fn without_referred(contents: &Contents, mut tables: BTreeSet<TableName>) -> BTreeSet<TableName> {
    let keys: Vec<KeyTables> = contents.of_kind(FOREIGN_KEY).map(|key| KeyTables::of(contents, key)).collect();
    loop {
        let stays = |key: &&KeyTables| key.of.as_ref().is_none_or(|of| !of.is_subset(&tables));
        let referred: BTreeSet<TableName> = match keys.iter().filter(stays).map(|key| key.to.clone()).collect() {
            Some(referred) => Vec::<BTreeSet<TableName>>::into_iter(referred).flatten().collect(),
            // One refers to what nobody knows.
            None => return BTreeSet::new(),
        };
        let before = tables.len();
        tables.retain(|table| !referred.contains(table));
        if tables.len() == before {
            return tables;
        }
    }
}

/// The tables with rows that a key is of, and those that it refers to. `None`: that is not clear.
struct KeyTables {
    of: Option<BTreeSet<TableName>>,
    to: Option<BTreeSet<TableName>>,
}

impl KeyTables {
    fn of(contents: &Contents, key: &super::contents::ContentsEntry) -> Self {
        let definition = contents.get(&key.definition);
        let with_rows = |names: [Vec<u8>; 2]| {
            let entry = contents.of_kind("TABLE").find(|entry| {
                [contents.get(&entry.schema), contents.get(&entry.tag)] == [names[0].as_slice(), names[1].as_slice()]
            })?;
            let mut ids = BTreeSet::from([entry.id]);
            with_partitions(contents, &mut ids);
            let entries = ids.into_iter().map(|id| contents.by_number(id));
            let entries: Option<Vec<_>> = entries.collect();
            let with_rows = entries?.into_iter().filter(|entry| !is_partitioned(contents.get(&entry.definition)));
            let text = |field| String::from_utf8(contents.get(field).to_vec()).ok();
            with_rows.map(|entry| Some(TableName { schema: text(&entry.schema)?, name: text(&entry.tag)? })).collect()
        };
        Self { of: table_of(definition).and_then(with_rows), to: referred_table(definition).and_then(with_rows) }
    }
}
