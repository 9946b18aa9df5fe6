//! Tables without borders: aligned columns under a header, nothing more. A value stays in its cell.

use comfy_table::{CellAlignment, Table, presets};
use lifeboat_engine::base::escape;

/// A table that is built row by row and shown by its [`std::fmt::Display`].
pub(crate) struct Plain(Table);

impl Plain {
    /// Columns whose header begins with `>` are aligned to the right.
    pub(crate) fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header.iter().map(|title| title.trim_start_matches('>')));
        for (at, _) in header.iter().enumerate().filter(|(_, title)| title.starts_with('>')) {
            if let Some(column) = table.column_mut(at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    /// Without a header: names on the left, values on the right.
    pub(crate) fn facts<V: Into<String>>(facts: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (name, value) in facts {
            table.add_row([name.to_owned(), escape::line(&value.into()).into_owned()]);
        }
        Self(table)
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells.map(|cell| escape::line(&cell).into_owned()));
    }
}

impl std::fmt::Display for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_carry_no_trailing_space() {
        let mut table = Plain::new(&["NAME", ">SIZE", "WHERE"]);
        table.row(["a".to_owned(), "9 B".to_owned(), "here".to_owned()]);
        table.row(["longer".to_owned(), "201.3 MiB".to_owned(), String::new()]);
        assert_eq!(table.to_string(), " NAME         SIZE  WHERE\n a             9 B  here\n longer  201.3 MiB");
    }

    #[test]
    fn a_value_stays_in_its_cell() {
        let mut table = Plain::new(&["NAME", "SIZE"]);
        table.row(["a\nfake 1 B\u{1b}[2J".to_owned(), "9 B".to_owned()]);
        let cell = r"a\nfake 1 B\u{1b}[2J";
        assert_eq!(table.to_string(), format!(" {:20}  SIZE\n {cell}  9 B", "NAME"));
        assert_eq!(Plain::facts([("to", "x\r\ny")]).to_string(), " to  x\\r\\ny");
    }
}
