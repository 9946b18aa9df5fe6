//! The rows of a dump of MariaDB, table by table. Its definitions are rows of a table that is
//! called so, a line each.
//!
//! A statement begins with a line `INSERT INTO … VALUES`. Each line after it is a row, and ends in
//! a comma, or in a semicolon if it is the last of the statement. Where a statement ends depends on
//! the length of the rows before, so that last mark is no part of a row. Comments are no rows: they
//! tell the position in the binary log.

use lifeboat_base::Result;

use super::dump;
use crate::rows::{RowSink, lines};
use crate::streams::StreamReader;

const INSERT_BEGIN: &[u8] = b"INSERT INTO `";
const INSERT_END: &[u8] = b" VALUES";
const COMMENT_BEGIN: &[u8] = b"--";
/// A longer line begins no statement of rows.
const MAX_INSERT_BYTES: usize = 1 << 20;

/// Gives the rows of a stream, and reads it to its checked end.
///
/// # Errors
/// Those of the stream, or of `sink`.
pub(super) async fn read(stream: &str, reader: &mut dyn StreamReader, sink: &mut dyn RowSink) -> Result<()> {
    let Some(database) = dump::database_of(stream) else {
        sink.table(stream)?;
        return lines(reader, sink).await;
    };
    let mut rows = DumpLines::of(&database, sink)?;
    lines(reader, &mut rows).await
}

/// Sorts the lines of a dump.
struct DumpLines<'a> {
    sink: &'a mut dyn RowSink,
    database: &'a str,
    /// Whether the line is a row of a statement.
    is_row: bool,
    /// Of a row, its last byte so far.
    last: Option<u8>,
    /// Of another line, its beginning.
    begin: Vec<u8>,
    /// Whether `begin` was given already, as the line is long.
    is_long: bool,
}

impl<'a> DumpLines<'a> {
    fn of(database: &'a str, sink: &'a mut dyn RowSink) -> Result<Self> {
        let mut lines = Self { sink, database, is_row: false, last: None, begin: Vec::new(), is_long: false };
        lines.definitions()?;
        Ok(lines)
    }

    fn definitions(&mut self) -> Result<()> {
        self.sink.table(&format!("{}: definitions", self.database))
    }
}

impl RowSink for DumpLines<'_> {
    fn table(&mut self, name: &str) -> Result<()> {
        self.sink.table(name)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if self.is_row {
            let Some((last, before)) = bytes.split_last() else { return };
            if let Some(held) = self.last.replace(*last) {
                self.sink.bytes(&[held]);
            }
            self.sink.bytes(before);
        } else if self.is_long {
            self.sink.bytes(bytes);
        } else {
            self.begin.extend_from_slice(bytes);
            if self.begin.len() > MAX_INSERT_BYTES {
                self.sink.bytes(&std::mem::take(&mut self.begin));
                self.is_long = true;
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        if self.is_row {
            let last = self.last.take();
            if let Some(other) = last.filter(|last| !matches!(last, b',' | b';')) {
                self.sink.bytes(&[other]);
            }
            self.sink.end()?;
            if last == Some(b';') {
                self.is_row = false;
                self.definitions()?;
            }
            return Ok(());
        }
        let (line, is_long) = (std::mem::take(&mut self.begin), std::mem::take(&mut self.is_long));
        if is_long {
            return self.sink.end();
        }
        if let Some(table) = inserted_into(&line) {
            self.sink.table(&format!("{}: {table}", self.database))?;
            self.is_row = true;
        } else if !line.is_empty() && !line.starts_with(COMMENT_BEGIN) {
            self.sink.bytes(&line);
            self.sink.end()?;
        }
        Ok(())
    }
}

/// The table of a line that begins a statement of rows.
fn inserted_into(line: &[u8]) -> Option<String> {
    let quoted = line.strip_prefix(INSERT_BEGIN)?.strip_suffix(INSERT_END)?;
    let (mut name, mut bytes) = (Vec::new(), quoted.iter().peekable());
    while let Some(byte) = bytes.next() {
        if *byte == b'`' && bytes.next_if_eq(&&b'`').is_none() {
            return Some(String::from_utf8_lossy(&name).into_owned());
        }
        name.push(*byte);
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::rows::split;

    #[derive(Default)]
    struct Heard {
        rows: Vec<(String, String)>,
        table: String,
        row: Vec<u8>,
    }

    impl RowSink for Heard {
        fn table(&mut self, name: &str) -> Result<()> {
            self.table = name.to_owned();
            Ok(())
        }

        fn bytes(&mut self, bytes: &[u8]) {
            self.row.extend_from_slice(bytes);
        }

        fn end(&mut self) -> Result<()> {
            let row = String::from_utf8(std::mem::take(&mut self.row)).unwrap();
            self.rows.push((self.table.clone(), row));
            Ok(())
        }
    }

    #[test]
    fn rows_are_the_same_wherever_statements_end() {
        let dump = |between: &str| {
            format!(
                "-- CHANGE MASTER TO MASTER_LOG_POS=7;\nCREATE TABLE `a``b` (\n  `n` int\n);\nINSERT INTO `a``b` VALUES\n\
                 (1,'x;'),\n(2,'(y,'){between}(3,NULL);\n\nINSERT INTO `c` (`n`, `m`) VALUES\n(4);\n(no row)\n"
            )
        };
        let definition = |text: &str| ("d: definitions".to_owned(), text.to_owned());
        let row = |table: &str, text: &str| (format!("d: {table}"), text.to_owned());
        for between in [",\n", ";\nINSERT INTO `a``b` VALUES\n"] {
            for piece in [1, 3, 1000] {
                let mut heard = Heard::default();
                let mut lines = DumpLines::of("d", &mut heard).unwrap();
                let mut is_within = false;
                for piece in dump(between).as_bytes().chunks(piece) {
                    is_within = split(piece, is_within, &mut lines).unwrap();
                }
                let expected = [
                    definition("CREATE TABLE `a``b` ("),
                    definition("  `n` int"),
                    definition(");"),
                    row("a`b", "(1,'x;')"),
                    row("a`b", "(2,'(y,')"),
                    row("a`b", "(3,NULL)"),
                    row("c", "(4)"),
                    definition("(no row)"),
                ];
                assert_eq!(heard.rows, expected, "{between:?}, in pieces of {piece}");
            }
        }
    }
}
