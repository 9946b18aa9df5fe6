//! The streams that a database is captured in, and their names.
//!
//! A database is one archive (`database/<name>`), unless it has large tables and may be read over
//! several connections. Then it is captured in parts, all under one exported snapshot: its
//! definitions (`schema/<name>`), the rows of each large table (`table/<name>/<schema>/<table>`),
//! and all other rows with the large objects (`data/<name>`).
//!
//! Each part is a custom-format archive that stock `pg_restore` loads. To load all of them, load
//! the section `pre-data` of the definitions, then all rows in any order, then the section
//! `post-data` of the definitions (indexes, constraints, triggers).

use lifeboat_base::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::globals::GLOBALS;
use super::sql::quoted;
use crate::streams::MAX_STREAM_NAME_BYTES;

/// What is percent-encoded in the names of databases, schemas and tables.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// A part of a database. Sorted, the part that creates the database comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DumpPart {
    /// The whole database.
    Whole,
    /// The definitions.
    Schema,
    /// The rows of all tables that have no part of their own, and the large objects.
    Data,
    /// The rows of one table.
    Table(TableName),
}

/// The name of a table or sequence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableName {
    pub(crate) schema: String,
    pub(crate) name: String,
}

/// A table that is captured in a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: TableName,
    /// Sequences that belong to its columns. Their values are in [`DumpPart::Data`], as those of
    /// all sequences: a sequence does not heed snapshots, so two dumps may find two values.
    pub(crate) sequences: Vec<TableName>,
}

impl TableName {
    /// The name as SQL. It is also a pattern of `pg_dump`, which takes quoted text literally.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

impl Table {
    /// Whether its names are the same in every encoding.
    pub(crate) fn is_ascii(&self) -> bool {
        std::iter::once(&self.name).chain(&self.sequences).all(|name| name.schema.is_ascii() && name.name.is_ascii())
    }
}

impl DumpPart {
    /// The name of its stream; `None` for a table whose name is too long for a stream.
    pub(crate) fn stream(&self, database: &str) -> Option<String> {
        let database = utf8_percent_encode(database, ENCODED);
        let name = match self {
            Self::Whole => format!("database/{database}"),
            Self::Schema => format!("schema/{database}"),
            Self::Data => format!("data/{database}"),
            Self::Table(TableName { schema, name }) => {
                let [schema, name] = [schema, name].map(|text| utf8_percent_encode(text, ENCODED));
                format!("table/{database}/{schema}/{name}")
            }
        };
        (name.len() <= MAX_STREAM_NAME_BYTES).then_some(name)
    }

    /// Part and database of a stream; `None` for a stream of another kind.
    pub(crate) fn of_stream(stream: &str) -> Option<(Self, String)> {
        let decoded = |word: &str| Some(percent_decode_str(word).decode_utf8().ok()?.into_owned());
        let words: Vec<&str> = stream.split('/').collect();
        let (part, database) = match words[..] {
            ["database", database] => (Self::Whole, database),
            ["schema", database] => (Self::Schema, database),
            ["data", database] => (Self::Data, database),
            ["table", database, schema, name] => {
                (Self::Table(TableName { schema: decoded(schema)?, name: decoded(name)? }), database)
            }
            _ => return None,
        };
        Some((part, decoded(database)?))
    }

    /// The arguments of `pg_dump` for this part of a database in which `tables` have parts of their
    /// own.
    pub(crate) fn dump_arguments(&self, tables: &[Table]) -> Vec<String> {
        let section = |name: &str| vec![format!("--section={name}")];
        let without = |name: &TableName| format!("--exclude-table-data={}", name.quoted());
        match self {
            Self::Whole => Vec::new(),
            Self::Schema => [section("pre-data"), section("post-data")].concat(),
            Self::Data => {
                let mut arguments = section("data");
                arguments.extend(tables.iter().map(|table| without(&table.name)));
                arguments
            }
            Self::Table(name) => {
                let mut arguments = section("data");
                arguments.push(format!("--table={}", name.quoted()));
                let table = tables.iter().find(|table| table.name == *name);
                arguments.extend(table.iter().flat_map(|table| &table.sequences).map(without));
                arguments
            }
        }
    }

    /// Whether loading this part may create the database.
    pub(crate) fn creates(&self) -> bool {
        matches!(self, Self::Whole | Self::Schema)
    }
}

/// A database of a snapshot: its name, its parts in order, and their streams.
pub(crate) type Stored<'a> = (String, Vec<(DumpPart, &'a str)>);

/// The databases among `streams`, in the order of capture.
///
/// # Errors
/// A stream is of no known kind, so what it holds would be missing without a word.
pub(crate) fn by_database(streams: &[String]) -> Result<Vec<Stored<'_>>> {
    let mut databases: Vec<Stored<'_>> = Vec::new();
    for stream in streams {
        if stream == GLOBALS {
            continue;
        }
        let (part, database) = DumpPart::of_stream(stream).ok_or_else(|| {
            Error::integrity(format!("the snapshot has a stream of an unknown kind: {}", stream.escape_debug()))
                .hint("a newer Lifeboat may know it; or restore the snapshot with --to-directory")
        })?;
        // The parts of a database were captured together.
        match databases.iter_mut().rev().find(|(name, _)| *name == database) {
            Some((_, parts)) => parts.push((part, stream)),
            None => databases.push((database, vec![(part, stream)])),
        }
    }
    databases.iter_mut().for_each(|(_, parts)| parts.sort());
    Ok(databases)
}

/// The database that every server has, whether or not anybody uses it.
const SERVERS_OWN: &str = "postgres";

/// Which of these databases of a snapshot is meant where nobody names one: the only one, or the
/// only one beside that which every server has. `None`: several could be.
pub(super) fn meant<'a>(databases: &[&'a str]) -> Option<&'a str> {
    let others: Vec<&str> = databases.iter().copied().filter(|name| *name != SERVERS_OWN).collect();
    match (databases, others.as_slice()) {
        ([only], _) | (_, [only]) => Some(*only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_server_has_is_not_meant_where_another_database_is_there() {
        assert_eq!(meant(&["postgres"]), Some("postgres"));
        assert_eq!(meant(&["shop"]), Some("shop"));
        assert_eq!(meant(&["postgres", "shop"]), Some("shop"));
        assert_eq!(meant(&["crm", "postgres", "shop"]), None);
        assert_eq!(meant(&["crm", "shop"]), None);
        assert_eq!(meant(&[]), None);
    }

    fn table(schema: &str, name: &str) -> TableName {
        TableName { schema: schema.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn streams_are_named_so_that_part_and_database_can_be_read_again() {
        for database in ["shop", "a/b", "table/x", "ü \" %2F"] {
            let tables = [("public", "orders"), ("a/b", "c.d"), ("..", "."), ("%2F", "grün\n")];
            let tables = tables.map(|(schema, name)| DumpPart::Table(table(schema, name)));
            for part in [DumpPart::Whole, DumpPart::Schema, DumpPart::Data].into_iter().chain(tables) {
                let stream = part.stream(database).unwrap_or_default();
                assert_eq!(DumpPart::of_stream(&stream), Some((part, database.to_owned())), "{stream}");
            }
        }
        assert_eq!(
            DumpPart::Table(table("public", "order_items")).stream("shop").as_deref(),
            Some("table/shop/public/order_items")
        );
        assert_eq!(DumpPart::Whole.stream("a/b").as_deref(), Some("database/a%2Fb"));
        assert_eq!(DumpPart::Whole.stream("..").as_deref(), Some("database/%2E%2E"));
        assert_eq!(DumpPart::Table(table(&"ü".repeat(90), &"ü".repeat(90))).stream("shop"), None);
        for other in ["globals", "stdout", "table/shop", "table/shop/public", "files/x"] {
            assert_eq!(DumpPart::of_stream(other), None, "{other}");
        }
    }

    #[test]
    fn definitions_come_first() -> Result<()> {
        let streams = ["globals", "table/a/s/t", "database/b", "data/a", "schema/a"].map(str::to_owned);
        let databases = by_database(&streams)?;
        let order: Vec<&str> = databases[0].1.iter().map(|(_, stream)| *stream).collect();
        assert_eq!(order, ["schema/a", "data/a", "table/a/s/t"]);
        assert_eq!(databases[1], ("b".to_owned(), vec![(DumpPart::Whole, "database/b")]));
        assert_eq!(databases.len(), 2);
        Ok(())
    }

    #[test]
    fn each_row_and_each_sequence_is_in_exactly_one_part() {
        let orders = Table { name: table("public", "orders"), sequences: vec![table("public", "orders_id_seq")] };
        let tables = [orders.clone(), Table { name: table("public", "a\"b"), sequences: Vec::new() }];
        assert_eq!(
            DumpPart::Data.dump_arguments(&tables),
            [
                "--section=data",
                "--exclude-table-data=\"public\".\"orders\"",
                "--exclude-table-data=\"public\".\"a\"\"b\""
            ]
        );
        assert_eq!(
            DumpPart::Table(orders.name).dump_arguments(&tables),
            ["--section=data", "--table=\"public\".\"orders\"", "--exclude-table-data=\"public\".\"orders_id_seq\""]
        );
    }
}
