//! Partitions of tables, as an archive shows them, and which of them must have rows in it.
//!
//! A partitioned table has no rows of its own. Those of a foreign partition lie on another server.
//! An unlogged table is empty on a standby, so a snapshot from there has no rows of it. Of every
//! other table that was asked for, the snapshot must have rows, if none: else it is damaged.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};

use super::contents::{Contents, ContentsEntry};
use super::names::{TypedName, one_name};

/// How `pg_dump` begins the line of a column, and of a constraint.
const ITEM_INDENT: &[u8] = b"    ";
const CONSTRAINT_ITEM: &[u8] = b"CONSTRAINT ";
/// What ends the columns.
const ITEMS_END: &[u8] = b")";

/// A table or sequence of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PickedRelation {
    pub(crate) id: i64,
    pub(crate) schema: Vec<u8>,
    pub(crate) name: Vec<u8>,
}

impl PickedRelation {
    pub(super) fn of(contents: &Contents, entry: &ContentsEntry) -> Self {
        Self { id: entry.id, schema: contents.get(&entry.schema).to_vec(), name: contents.get(&entry.tag).to_vec() }
    }

    /// Whether an entry bears its name.
    pub(super) fn names(&self, contents: &Contents, entry: &ContentsEntry) -> bool {
        contents.get(&entry.schema) == self.schema && contents.get(&entry.tag) == self.name
    }
}

/// Tables that were asked for, until their rows are found.
#[derive(Debug, Default)]
pub(super) struct LackingRows {
    lacking: BTreeSet<i64>,
    /// Those of which a standby has no rows.
    unlogged: BTreeSet<i64>,
}

impl LackingRows {
    /// Of these tables. `contents` is of the definitions.
    pub(super) fn of(contents: &Contents, tables: &[PickedRelation]) -> Self {
        let mut all = Self::default();
        for table in tables {
            let definition = contents.by_number(table.id).map_or(&b""[..], |entry| contents.get(&entry.definition));
            if definition.starts_with(b"CREATE UNLOGGED ") {
                all.unlogged.insert(table.id);
            }
            if !is_partitioned(definition) {
                all.lacking.insert(table.id);
            }
        }
        all
    }

    /// Takes out a table whose rows were found.
    pub(super) fn found(&mut self, tables: &[PickedRelation], schema: &[u8], name: &[u8]) {
        let is_found = |table: &&PickedRelation| table.schema == schema && table.name == name;
        for table in tables.iter().filter(is_found) {
            self.lacking.remove(&table.id);
        }
    }

    /// What is told of tables without rows.
    ///
    /// # Errors
    /// Rows are missing that must be there.
    pub(super) fn told(&self, tables: &[PickedRelation]) -> Result<Vec<String>> {
        let mut told = Vec::new();
        for table in tables.iter().filter(|table| self.lacking.contains(&table.id)) {
            let name = TypedName(&table.schema, &table.name);
            if !self.unlogged.contains(&table.id) {
                return Err(Error::integrity(format!("the snapshot has no rows of table {name}"))
                    .hint("restore an older snapshot; `lifeboat verify` tells what is damaged"));
            }
            told.push(format!("{name} is unlogged, and the snapshot has no rows of it, as from a standby"));
        }
        Ok(told)
    }
}

/// Whether the rows of a table that is made so are those of its partitions.
pub(super) fn is_partitioned(definition: &[u8]) -> bool {
    const BY: &[u8] = b"\nPARTITION BY ";
    definition.windows(BY.len()).any(|text| text == BY)
}

/// Those of `columns` in the order in which `pg_dump` made the table; `None` if that is not clear.
pub(super) fn in_order_of_table(definition: &[u8], columns: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let mut ordered: Vec<Vec<u8>> = Vec::new();
    let items = definition.split(|byte| *byte == b'\n').skip(1).take_while(|line| !line.starts_with(ITEMS_END));
    for item in items.filter_map(|line| line.strip_prefix(ITEM_INDENT)) {
        if item.starts_with(CONSTRAINT_ITEM) {
            break;
        }
        // A default may go on in the next line, which is no column then.
        let Some((name, _)) = one_name(item).filter(|(name, _)| columns.contains(name)) else { continue };
        if ordered.contains(&name) {
            return None;
        }
        ordered.push(name);
    }
    (ordered.len() == columns.len()).then_some(ordered)
}

/// Adds the partitions of tables, and theirs, foreign ones included.
pub(super) fn with_partitions(contents: &Contents, ids: &mut BTreeSet<i64>) {
    // Tools before version 14 attach a partition in the definition of the partition itself.
    let attached = |entry: &&ContentsEntry| {
        let definition = contents.get(&entry.definition);
        contents.get(&entry.kind) == b"TABLE" && definition.windows(18).any(|text| text == b" ATTACH PARTITION ")
    };
    let attach: Vec<(i64, Vec<i64>)> = contents
        .of_kind("TABLE ATTACH")
        .filter_map(|entry| {
            let needs: Vec<i64> = contents.needs(entry).collect();
            let partition = needs.iter().copied().find(|id| {
                contents.by_number(*id).is_some_and(|one| {
                    contents.get(&one.schema) == contents.get(&entry.schema)
                        && contents.get(&one.tag) == contents.get(&entry.tag)
                })
            })?;
            Some((partition, needs))
        })
        .chain(contents.entries.iter().filter(attached).map(|entry| (entry.id, contents.needs(entry).collect())))
        .collect();
    let mut before = 0;
    while ids.len() > before {
        before = ids.len();
        for (partition, needs) in &attach {
            if needs.iter().any(|id| id != partition && ids.contains(id)) {
                ids.insert(*partition);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn columns_come_in_the_order_of_the_table() {
        let definition = b"CREATE TABLE public.p (\n    a integer NOT NULL,\n    \"x \"\"y\" text DEFAULT 'q'::text,\n    \
            g integer GENERATED ALWAYS AS ((a + 1)) STORED,\n    b integer,\n    CONSTRAINT c CHECK ((b > 0))\n)\nPARTITION BY LIST (a);\n";
        assert!(is_partitioned(definition));
        let ordered = in_order_of_table(definition, &names(&["b", "a", "x \"y"]));
        assert_eq!(ordered, Some(names(&["a", "x \"y", "b"])));
        assert_eq!(in_order_of_table(definition, &names(&["b", "a", "c"])), None);
        assert_eq!(
            in_order_of_table(b"CREATE TABLE public.p OF public.t\nPARTITION BY LIST (a);\n", &names(&["a"])),
            None
        );
        // The text of a default looks like a column.
        let odd = b"CREATE TABLE public.p (\n    a text DEFAULT 'x\n    b y',\n    b text\n)\nPARTITION BY LIST (a);\n";
        assert_eq!(in_order_of_table(odd, &names(&["a", "b"])), None);
    }
}
