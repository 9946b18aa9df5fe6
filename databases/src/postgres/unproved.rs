//! Which tables of a database can be left out of a proof of the rest.
//!
//! Rows are proved under the definitions that they were proved with. So none are left out once any
//! definition of the database has changed. A foreign key ties the rows of one table to those of
//! another, and so does a materialized view, which is filled again: tables that are tied are left
//! out together, or not at all. Code may read any table. So where a check, an index, a domain or a
//! materialized view calls a function of the database or of an extension, no table is left out.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::Result;

use super::contents::{Contents, ContentsEntry};
use super::late::FOREIGN_KEY;
use super::names::{referred_table, table_of};
use super::partitions::{is_partitioned, with_partitions};
use super::parts::{DumpPart, TableName};
use crate::streams::StoredStreams;

/// What looks at the rows of the table or domain that it needs when it is made.
const CHECKED_KINDS: [&[u8]; 4] = [b"INDEX", b"CONSTRAINT", b"CHECK CONSTRAINT", b"TABLE ATTACH"];
/// What may read any table, or be made of what does.
const CODE_KINDS: [&[u8]; 5] = [b"FUNCTION", b"PROCEDURE", b"AGGREGATE", b"OPERATOR", b"EXTENSION"];
const MATERIALIZED_VIEW: &str = "MATERIALIZED VIEW";

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
    let apart = match Tied::of(&contents) {
        Some(Tied(tied)) => without_tied(&tied, names),
        None => BTreeSet::new(),
    };
    Ok(tables.into_iter().filter(|(_, name)| apart.contains(name)).map(|(stream, _)| stream.clone()).collect())
}

/// Sets of tables with rows, each tied by a foreign key or a materialized view.
struct Tied(Vec<BTreeSet<TableName>>);

impl Tied {
    /// `None`: code looks at rows, or it is not clear what is tied.
    fn of(contents: &Contents) -> Option<Self> {
        let needs = Needs::of(contents);
        let tables = contents.of_kind("TABLE").map(|table| needs.reach(table.id));
        if tables.into_iter().any(|reached| reached.is_none()) {
            return None;
        }
        let known: BTreeMap<[&[u8]; 2], i64> = contents
            .of_kind("TABLE")
            .map(|entry| ([contents.get(&entry.schema), contents.get(&entry.tag)], entry.id))
            .collect();
        let of_key = |definition: &[u8]| {
            let mut ids = BTreeSet::new();
            for [schema, name] in [table_of(definition)?, referred_table(definition)?] {
                ids.insert(*known.get(&[schema.as_slice(), name.as_slice()])?);
            }
            Some(ids)
        };
        let keys = contents.of_kind(FOREIGN_KEY).map(|key| of_key(contents.get(&key.definition)));
        let views = contents.of_kind(MATERIALIZED_VIEW).map(|view| needs.reach(view.id));
        keys.chain(views).map(|ids| with_rows(contents, ids?)).collect::<Option<_>>().map(Self)
    }
}

/// What entries need, and what looks at the rows of a table.
struct Needs<'a> {
    contents: &'a Contents,
    checked_by: BTreeMap<i64, Vec<i64>>,
    has_functions: bool,
}

impl<'a> Needs<'a> {
    fn of(contents: &'a Contents) -> Self {
        let mut checked_by = BTreeMap::<i64, Vec<i64>>::new();
        for entry in contents.entries.iter().filter(|entry| CHECKED_KINDS.contains(&contents.get(&entry.kind))) {
            for id in contents.needs(entry) {
                checked_by.entry(id).or_default().push(entry.id);
            }
        }
        let has_functions = contents.of_kind("FUNCTION").next().is_some();
        Self { contents, checked_by, has_functions }
    }

    /// All that this entry needs, directly or not, and what looks at its rows. `None`: there is
    /// code among it.
    fn reach(&self, id: i64) -> Option<BTreeSet<i64>> {
        let (mut seen, mut ahead) = (BTreeSet::from([id]), vec![id]);
        ahead.extend(self.checked_by.get(&id).into_iter().flatten());
        while let Some(id) = ahead.pop() {
            let Some(one) = self.contents.by_number(id) else { continue };
            let kind = self.contents.get(&one.kind);
            if CODE_KINDS.contains(&kind) || (self.has_functions && self.excludes(one)) {
                return None;
            }
            if kind == b"DOMAIN" {
                ahead.extend(self.checked_by.get(&id).into_iter().flatten().filter(|id| seen.insert(**id)));
            }
            ahead.extend(self.contents.needs(one).filter(|id| seen.insert(*id)));
        }
        Some(seen)
    }

    /// Whether it is a constraint by an index of which no entry tells what that calls.
    fn excludes(&self, entry: &ContentsEntry) -> bool {
        const EXCLUDE: &[u8] = b" EXCLUDE ";
        let is_constraint = self.contents.get(&entry.kind) == b"CONSTRAINT";
        is_constraint && self.contents.get(&entry.definition).windows(EXCLUDE.len()).any(|text| text == EXCLUDE)
    }
}

/// The tables among these, with their partitions, that have rows of their own.
fn with_rows(contents: &Contents, ids: BTreeSet<i64>) -> Option<BTreeSet<TableName>> {
    let is_table = |id: &i64| contents.by_number(*id).is_some_and(|entry| contents.get(&entry.kind) == b"TABLE");
    let mut ids: BTreeSet<i64> = ids.into_iter().filter(is_table).collect();
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

/// Takes out what is tied to other tables, until nothing more is.
fn without_tied(tied: &[BTreeSet<TableName>], mut tables: BTreeSet<TableName>) -> BTreeSet<TableName> {
    loop {
        let before = tables.len();
        for together in tied {
            if !together.is_subset(&tables) {
                tables.retain(|table| !together.contains(table));
            }
        }
        if tables.len() == before {
            return tables;
        }
    }
}
