//! An archive of our own making: the definitions and rows of chosen tables, in the order in which
//! `pg_restore` is to run them in one transaction.
//!
//! Nothing of the snapshot's archive passes but what was looked at: names, definitions that are
//! [plain](super::plain), and rows. The heading and the statements that load rows are written anew.
//!
//! The format: PostgreSQL's `pg_backup_archiver.c`, of version 1.12, which all tools from 10 to 18
//! read.

use lifeboat_base::{Error, Result};

use super::contents::NO_SECTION;
use super::sql::quoted_name;
use super::tokens::{Reading, Statements};

/// The beginning: magic, version 1.12.0, sizes of integers and offsets, the custom format.
const OWN_HEAD: &[u8] = b"PGDMP\x01\x0c\x00\x04\x08\x01";
/// Whether an entry has an item behind the list: it is not known where; it has none.
const ITEM_SOMEWHERE: u8 = 1;
const NO_ITEM: u8 = 3;
/// Sections, as `pg_restore` numbers them.
const PRE_DATA: i64 = 2;
const DATA: i64 = 3;

/// One entry.
pub(super) struct OwnEntry<'a> {
    pub(super) kind: &'a [u8],
    pub(super) schema: &'a [u8],
    pub(super) tag: &'a [u8],
    pub(super) section: i64,
    /// The statements that make it, or for rows the one that loads them.
    pub(super) statement: Vec<u8>,
    pub(super) has_rows: bool,
}

/// A list of entries that grows.
#[derive(Default)]
pub(super) struct OwnArchive {
    list: Vec<u8>,
    number: u32,
}

impl OwnArchive {
    /// With the heading of an archive in `encoding`, a name that the server knows.
    pub(super) fn in_encoding(encoding: &str) -> Self {
        let mut archive = Self::default();
        for (kind, statement) in [
            ("ENCODING", format!("SET client_encoding = '{encoding}';\n")),
            ("STDSTRINGS", "SET standard_conforming_strings = 'on';\n".to_owned()),
            ("SEARCHPATH", "SELECT pg_catalog.set_config('search_path', '', false);\n".to_owned()),
        ] {
            let (kind, statement) = (kind.as_bytes(), statement.into_bytes());
            archive.add(&OwnEntry { kind, schema: b"", tag: kind, section: PRE_DATA, statement, has_rows: false });
        }
        archive
    }

    /// Adds statements of ours.
    pub(super) fn add_own(&mut self, kind: &str, tag: &str, statement: String) {
        let statement = statement.into_bytes();
        let (kind, tag) = (kind.as_bytes(), tag.as_bytes());
        self.add(&OwnEntry { kind, schema: b"", tag, section: NO_SECTION, statement, has_rows: false });
    }

    /// Adds rows, which `statement` loads. Returns their number.
    pub(super) fn add_rows(&mut self, schema: &[u8], tag: &[u8], statement: Vec<u8>) -> u32 {
        self.add(&OwnEntry { kind: b"TABLE DATA", schema, tag, section: DATA, statement, has_rows: true })
    }

    /// Adds an entry, and returns its number.
    pub(super) fn add(&mut self, entry: &OwnEntry<'_>) -> u32 {
        self.number += 1;
        let (definition, copy): (&[u8], &[u8]) =
            if entry.has_rows { (b"", &entry.statement) } else { (&entry.statement, b"") };
        self.int(self.number);
        self.int(u32::from(entry.has_rows));
        for text in [b"0", b"0", entry.tag, entry.kind] {
            self.text(text);
        }
        self.int(entry.section as u32);
        // How it is dropped; tablespace; owner; whether it has OIDs.
        for text in [definition, b"", copy, entry.schema, b"", b"", b"false"] {
            self.text(text);
        }
        // It needs nothing.
        self.list.extend([1, 1, 0, 0, 0]);
        self.list.push(if entry.has_rows { ITEM_SOMEWHERE } else { NO_ITEM });
        self.list.extend([0; 8]);
        self.number
    }

    /// The archive up to the end of its list.
    pub(super) fn begin(self) -> Vec<u8> {
        let mut whole = Self { list: OWN_HEAD.to_vec(), number: self.number };
        // Compression; seconds to the year (126: 2026) and whether it is summer; the count.
        for number in [0, 0, 0, 0, 1, 0, 126, 0] {
            whole.int(number);
        }
        for text in [&b"lifeboat"[..], b"10", b"10"] {
            whole.text(text);
        }
        whole.int(self.number);
        whole.list.extend(self.list);
        whole.list
    }

    fn int(&mut self, value: u32) {
        self.list.extend(own_int(value));
    }

    fn text(&mut self, text: &[u8]) {
        self.int(text.len() as u32);
        self.list.extend_from_slice(text);
    }
}

/// The beginning of an item of rows.
pub(super) fn item(number: u32) -> Vec<u8> {
    [&[1][..], &own_int(number)].concat()
}

/// A block of rows; an empty one ends an item.
pub(super) fn block(content: &[u8]) -> Vec<u8> {
    [&own_int(content.len() as u32)[..], content].concat()
}

fn own_int(value: u32) -> [u8; 5] {
    let [a, b, c, d] = value.to_le_bytes();
    [0, a, b, c, d]
}

/// The columns that an archive's `COPY` statement names, in the order of its rows.
///
/// # Errors
/// It is no such statement.
pub(super) fn copied_columns(copy: &[u8]) -> Result<Vec<Vec<u8>>> {
    columns(copy).ok_or_else(|| {
        Error::integrity("the statement by which the archive loads a table is not understood")
            .hint("restore the snapshot with --to-directory, and take the table out of the archive with pg_restore")
    })
}

fn columns(copy: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut statements = Statements::new(copy);
    let (Some(statement), None) = (statements.next(), statements.next()) else { return None };
    let tokens = statement.tokens?;
    let mut reading = Reading(&tokens);
    reading.must(&["COPY"])?;
    reading.name()?;
    reading.mark(b'.').then_some(())?;
    reading.name()?;
    let mut columns = Vec::new();
    if reading.mark(b'(') {
        while !reading.mark(b')') {
            columns.push(reading.name()?.to_vec());
            reading.mark(b',');
        }
    }
    reading.must(&["FROM", "stdin"])?;
    reading.end()?;
    Some(columns)
}

/// The statement that loads rows of these columns.
pub(super) fn copy_into(schema: &[u8], table: &[u8], columns: &[Vec<u8>]) -> Vec<u8> {
    let mut sql = [b"COPY ", &quoted_name(schema)[..], b".", &quoted_name(table)].concat();
    if !columns.is_empty() {
        let names: Vec<Vec<u8>> = columns.iter().map(|column| quoted_name(column)).collect();
        sql.extend([b" (", &names.join(&b", "[..])[..], b")"].concat());
    }
    sql.extend_from_slice(b" FROM stdin;\n");
    sql
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::contents::Contents;
    use super::*;
    use crate::streams::Once;

    #[tokio::test]
    async fn an_archive_of_ours_is_read_as_any() {
        let mut archive = OwnArchive::in_encoding("UTF8");
        archive.add_own("CHECK", "of it", "SELECT 1;".to_owned());
        let number = archive.add_rows(b"s", b"t", copy_into(b"s", b"t", &[b"a".to_vec()]));
        let bytes = archive.begin();
        let contents = Contents::read(&mut Once(Some(bytes.into()))).await.unwrap();
        assert_eq!((contents.entries.len(), contents.is_compressed, contents.encoding().as_str()), (5, false, "UTF8"));
        let rows = contents.by_number(i64::from(number)).unwrap();
        assert_eq!(contents.get(&rows.copy), b"COPY \"s\".\"t\" (\"a\") FROM stdin;\n");
        assert_eq!(contents.needs(rows).count(), 0);
    }

    #[test]
    fn columns_are_read_from_a_copy_and_from_nothing_else() {
        let of = |text: &str| columns(text.as_bytes());
        let names = ["id", "naïve \"key\"", "x"].map(|name| name.as_bytes().to_vec()).to_vec();
        assert_eq!(of("COPY s.\"T\" (id, \"naïve \"\"key\"\"\", x) FROM stdin;\n"), Some(names.clone()));
        assert_eq!(of("COPY s.t  FROM stdin;\n"), Some(Vec::new()));
        assert_eq!(columns(&copy_into(b"s", b"T", &names)), Some(names));
        for bad in [
            "COPY s.t (a) FROM PROGRAM 'x';",
            "COPY s.t (a) FROM stdin; COMMIT;",
            "COPY (SELECT 1) TO stdout;",
            "COPY s.t (f(a)) FROM stdin;",
            "COPY s.t (a) FROM stdin WITH CSV;",
            "",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
