//! The text of `COPY`, as an archive holds it, made into what somebody wants to read.
//!
//! A row is a line; tabs stand between its values; `\N` is NULL; a backslash escapes what would
//! mean something else. A line `\.` ends the rows. CSV is written exactly as PostgreSQL's own `COPY
//! … TO STDOUT (FORMAT csv, HEADER)` does: only what needs quotes has them, NULL is nothing, and an
//! empty text is `""`.

use lifeboat_base::{Error, Result};

/// What `pg_dump` writes after the last row.
const END_OF_ROWS: &[u8] = b"\\.\n\n\n";
/// No longer row is taken apart.
const MAX_ROW_BYTES: usize = 64 << 20;

/// What becomes of rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RowShape {
    /// They stay as they are.
    AsIs,
    /// Their values come in this order.
    Reordered(Vec<usize>),
    /// They become CSV, with their values in this order.
    Csv(Vec<usize>),
}

impl RowShape {
    /// For rows of `columns`, which are wanted in the order `wanted`.
    ///
    /// # Errors
    /// These are not the same columns.
    pub(super) fn of(columns: &[Vec<u8>], wanted: &[Vec<u8>], is_csv: bool) -> Result<Self> {
        let place = |column| columns.iter().position(|other| other == column);
        let order: Option<Vec<usize>> = wanted.iter().map(place).collect();
        let order = order.filter(|order| order.len() == columns.len());
        let order = order.ok_or_else(|| {
            Error::source_failed("partitions of this table have different columns")
                .hint("take the partitions one by one: name each with --table")
        })?;
        Ok(match (is_csv, columns == wanted) {
            (true, _) => Self::Csv(order),
            (false, true) => Self::AsIs,
            (false, false) => Self::Reordered(order),
        })
    }
}

/// The rows of one table on their way.
pub(super) struct CopyText {
    shape: RowShape,
    /// The end of what was taken, which is no whole row or may be the end of all rows.
    kept: Vec<u8>,
    rows: u64,
    ended: bool,
}

impl CopyText {
    pub(super) fn new(shape: RowShape) -> Self {
        Self { shape, kept: Vec::new(), rows: 0, ended: false }
    }

    /// Takes a piece, and adds to `out` what became of it.
    ///
    /// # Errors
    /// A row is too long, or is not as it should be.
    pub(super) fn take(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if self.shape == RowShape::AsIs {
            self.kept.extend_from_slice(piece);
            let passed = self.kept.len().saturating_sub(END_OF_ROWS.len());
            self.rows += self.kept[..passed].iter().filter(|byte| **byte == b'\n').count() as u64;
            out.extend(self.kept.drain(..passed));
            return Ok(());
        }
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            let line = [&std::mem::take(&mut self.kept)[..], &rest[..at]].concat();
            rest = &rest[at + 1..];
            self.line(&line, out)?;
        }
        self.kept.extend_from_slice(rest);
        if self.kept.len() > MAX_ROW_BYTES {
            return Err(Error::source_failed(format!("a row is longer than {} MiB", MAX_ROW_BYTES >> 20))
                .hint("take the rows as they are, with --format copy"));
        }
        Ok(())
    }

    /// The number of rows.
    ///
    /// # Errors
    /// The rows do not end as they should.
    pub(super) fn end(self) -> Result<u64> {
        let ended = match self.shape {
            RowShape::AsIs => self.kept == END_OF_ROWS,
            _ => self.ended && self.kept.is_empty(),
        };
        if ended { Ok(self.rows) } else { Err(Error::integrity("the rows have no end mark, so some may be missing")) }
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if self.ended || line == b"\\." {
            self.ended = true;
            return if line.is_empty() || line == b"\\." { Ok(()) } else { Err(wrong_row()) };
        }
        self.rows += 1;
        let (order, is_csv) = match &self.shape {
            RowShape::AsIs => return Ok(()),
            RowShape::Reordered(order) => (order, false),
            RowShape::Csv(order) => (order, true),
        };
        let fields: Vec<&[u8]> =
            if order.is_empty() { Vec::new() } else { line.split(|byte| *byte == b'\t').collect() };
        if fields.len() != order.len() {
            return Err(wrong_row());
        }
        for (number, at) in order.iter().enumerate() {
            if number > 0 {
                out.push(if is_csv { b',' } else { b'\t' });
            }
            match fields[*at] {
                field if !is_csv => out.extend_from_slice(field),
                b"\\N" => {}
                field => csv_value(&unescaped(field), order.len() == 1, out),
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

/// The line of column names.
pub(super) fn csv_header(columns: &[Vec<u8>]) -> Vec<u8> {
    let mut line = Vec::new();
    for (number, column) in columns.iter().enumerate() {
        if number > 0 {
            line.push(b',');
        }
        csv_value(column, columns.len() == 1, &mut line);
    }
    line.push(b'\n');
    line
}

/// As PostgreSQL writes a value. One that is alone on its line must not look like the end.
fn csv_value(value: &[u8], is_alone: bool, out: &mut Vec<u8>) {
    let needs_quotes = value.is_empty()
        || is_alone && value == b"\\."
        || value.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r'));
    if !needs_quotes {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for byte in value {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        let escaped = if *byte == b'\\' { bytes.next() } else { None };
        value.push(match escaped {
            None => *byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'v') => 11,
            Some(other) => *other,
        });
    }
    value
}

fn wrong_row() -> Error {
    Error::integrity("a row has another number of values than its table has columns")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    fn through(text: &[u8], from: &[&str], to: &[&str], is_csv: bool, piece: usize) -> Result<(String, u64)> {
        let mut copy = CopyText::new(RowShape::of(&columns(from), &columns(to), is_csv)?);
        let mut out = Vec::new();
        for piece in text.chunks(piece) {
            copy.take(piece, &mut out)?;
        }
        Ok((String::from_utf8(out).unwrap(), copy.end()?))
    }

    #[test]
    fn rows_become_what_postgresql_would_write() {
        let text = b"1\ta,b\t\\N\n2\t\tx\"y\n3\t\\\\.\tl\\ni\\tn\\\\\n\\.\n\n\n";
        let names = ["id", "a", "b"];
        for piece in [1, 3, 7, 100] {
            let csv = through(text, &names, &names, true, piece).unwrap();
            assert_eq!(csv, ("1,\"a,b\",\n2,\"\",\"x\"\"y\"\n3,\\.,\"l\ni\tn\\\"\n".to_owned(), 3), "{piece}");
            let as_is = through(text, &names, &names, false, piece).unwrap();
            assert_eq!(as_is.0.as_bytes(), &text[..text.len() - END_OF_ROWS.len()], "{piece}");
            assert_eq!(as_is.1, 3);
            let other = through(text, &names, &["b", "id", "a"], false, piece).unwrap();
            assert_eq!(other.0, "\\N\t1\ta,b\nx\"y\t2\t\nl\\ni\\tn\\\\\t3\t\\\\.\n", "{piece}");
        }
        assert_eq!(csv_header(&columns(&["id", "naïve \"key\""])), "id,\"naïve \"\"key\"\"\"\n".as_bytes());
        assert_eq!(through(b"\\\\.\n\n\\.\n\n\n", &["a"], &["a"], true, 9).unwrap(), ("\"\\.\"\n\"\"\n".to_owned(), 2));
        assert_eq!(through(b"\n\n\\.\n\n\n", &[], &[], true, 9).unwrap(), ("\n\n".to_owned(), 2));
        assert_eq!(through(b"\\.\n\n\n", &["a"], &["a"], false, 2).unwrap(), (String::new(), 0));
    }

    #[test]
    fn rows_that_are_cut_are_never_taken_for_all() {
        let text = b"1\ta\n2\tb\n\\.\n\n\n";
        for is_csv in [true, false] {
            for length in 0..text.len() - 3 {
                let cut = through(&text[..length], &["a", "b"], &["a", "b"], is_csv, 4);
                assert!(cut.is_err(), "{length} bytes of rows pass");
            }
        }
        assert!(through(b"1\n\\.\n\n\n", &["a", "b"], &["a", "b"], true, 4).is_err());
        assert!(RowShape::of(&columns(&["a"]), &columns(&["a", "b"]), true).is_err());
        assert!(RowShape::of(&columns(&["a", "b"]), &columns(&["a"]), true).is_err());
    }
}
