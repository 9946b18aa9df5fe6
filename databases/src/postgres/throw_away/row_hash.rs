//! Hashes the rows of `COPY … FROM stdin`: as they stand, or field by field under the names of
//! their columns.
//!
//! Fields are told apart by tabs, as the text format of `COPY` writes a tab in a value as `\t`. A
//! field is hashed as it comes, so no row is kept.

use crate::proof::multiset::ProofKey;

/// The hash of one row after the other.
pub(super) struct RowHash {
    key: ProofKey,
    hasher: blake3::Hasher,
    length: u64,
    begins: [u8; 2],
    /// Where the columns stand, sorted by name; `None` if the row counts as it stands.
    order: Option<Vec<usize>>,
    /// The hashes of the fields that are complete.
    fields: Vec<[u8; 32]>,
}

impl RowHash {
    pub(super) fn new(key: ProofKey) -> Self {
        let hasher = blake3::Hasher::new_keyed(&key);
        Self { key, hasher, length: 0, begins: [0; 2], order: None, fields: Vec::new() }
    }

    /// From here, rows count as they stand.
    pub(super) fn read_in_order(&mut self) {
        self.order = None;
    }

    /// From here, rows have these columns, whose order does not count.
    pub(super) fn read_by_name(&mut self, columns: &[Vec<u8>]) {
        let mut order: Vec<usize> = (0..columns.len()).collect();
        order.sort_by_key(|at| columns.get(*at));
        self.order = Some(order);
    }

    /// Reads the next piece of a row.
    pub(super) fn update(&mut self, part: &[u8]) {
        for (at, byte) in part.iter().take(2).enumerate() {
            if let Some(place) = self.begins.get_mut(self.length as usize + at) {
                *place = *byte;
            }
        }
        self.length += part.len() as u64;
        if self.order.is_none() {
            self.hasher.update(part);
            return;
        }
        for (at, field) in part.split(|byte| *byte == b'\t').enumerate() {
            if at > 0 {
                self.end_field();
            }
            self.hasher.update(field);
        }
    }

    /// The row that ends here; `None` if it is the end of the data.
    pub(super) fn end(&mut self) -> Option<blake3::Hasher> {
        let is_end = self.length == 2 && self.begins == *b"\\.";
        if self.order.is_some() {
            self.end_field();
        }
        (self.length, self.begins) = (0, [0; 2]);
        let mut row = std::mem::replace(&mut self.hasher, blake3::Hasher::new_keyed(&self.key));
        if let Some(order) = &self.order {
            row.update(&(self.fields.len() as u64).to_le_bytes());
            // A row with another number of fields counts as it stands.
            let sorted = order.len() == self.fields.len();
            for at in 0..self.fields.len() {
                let at = if sorted { order.get(at).copied().unwrap_or(at) } else { at };
                row.update(self.fields.get(at).unwrap_or(&[0; 32]));
            }
            self.fields.clear();
        }
        (!is_end).then_some(row)
    }

    fn end_field(&mut self) {
        let field = std::mem::replace(&mut self.hasher, blake3::Hasher::new_keyed(&self.key));
        self.fields.push(*field.finalize().as_bytes());
    }
}

/// The columns in `COPY schema.table (a, "b") FROM stdin;`, as they are written.
pub(super) fn columns(statement: &[u8]) -> Vec<Vec<u8>> {
    let (mut columns, mut name) = (Vec::new(), Vec::new());
    let (mut quoted, mut inside) = (false, false);
    for byte in statement {
        match byte {
            b'"' => quoted = !quoted,
            b'(' if !quoted && !inside => {
                inside = true;
                continue;
            }
            b')' if !quoted && inside => break,
            b',' if !quoted && inside => {
                columns.push(std::mem::take(&mut name));
                continue;
            }
            b' ' if !quoted => continue,
            _ => {}
        }
        if inside {
            name.push(*byte);
        }
    }
    if inside {
        columns.push(name);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(columns: &[&str], row: &str, piece: usize) -> Option<blake3::Hash> {
        let mut rows = RowHash::new([1; 32]);
        rows.read_by_name(&columns.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>());
        row.as_bytes().chunks(piece).for_each(|piece| rows.update(piece));
        rows.end().map(|row| row.finalize())
    }

    #[test]
    fn fields_count_under_the_names_of_their_columns() {
        let one = hash(&["a", "own", "later"], "1\tx\t7", 100);
        for piece in [1, 2, 3] {
            assert_eq!(one, hash(&["a", "later", "own"], "1\t7\tx", piece));
        }
        for (columns, row) in [
            (["a", "later", "own"], "1\tx\t7"),
            (["a", "own", "later"], "1\tx\t8"),
            (["a", "own", "later"], "1\tx7\t"),
            (["a", "own", "later"], "1\tx\t7\t"),
            (["a", "own", "later"], "1\tx"),
        ] {
            assert_ne!(one, hash(&columns, row, 100), "{columns:?} {row}");
        }
        assert_eq!(hash(&["a"], "\\.", 1), None);
        assert_ne!(hash(&["a"], "", 1), None);
    }

    #[test]
    fn names_of_columns_may_be_quoted() {
        let names = |statement: &str| {
            let names = columns(statement.as_bytes()).into_iter();
            names.map(|name| String::from_utf8_lossy(&name).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            names("COPY public.t (a, \"b, c\", \"d\"\"(\", \"e)\nf\") FROM stdin;\n"),
            ["a", "\"b, c\"", "\"d\"\"(\"", "\"e)\nf\""]
        );
        assert_eq!(names("COPY public.\"t (x, y)\" (a) FROM stdin;\n"), ["a"]);
        assert!(names("COPY public.t  FROM stdin;\n").is_empty());
    }
}
