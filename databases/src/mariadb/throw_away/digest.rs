//! What a dump says, as multisets of definitions and of rows.
//!
//! A dump is read line by line. **Every line counts**: as a row of a table, or in the text of a
//! definition, with the exceptions in [`is_of_the_dump`]. So a line that is understood wrongly
//! makes two equal databases look different, but no two different ones equal. Rows are one line
//! each, and may come in another order. The text of a definition is compared in its order.

use lifeboat_base::{Error, Result};

use super::marks::{DROPS, HeaderLine, INSERT, ROWS_OF, TITLES, header_line, is_of_the_dump};
use crate::mariadb::lines::{LinePart, Lines};
use crate::mariadb::statements::DumpStatements;
use crate::proof::multiset::{ProofKey, Titled};
use crate::streams::StreamReader;

/// The names of all columns that a table can have are not longer.
const MAX_HEADER_BYTES: usize = 1 << 20;
/// A title in words has no more.
const MAX_TITLE_LETTERS: usize = 200;

/// What a dump says.
#[derive(Debug, Default)]
pub(super) struct DumpDigest {
    /// Texts by title.
    pub(super) definitions: Titled,
    /// Rows by table.
    pub(super) tables: Titled,
}

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the text of a definition.
    Definition,
    /// In an `INSERT` whose columns have not ended: their names can hold line breaks.
    Header,
    /// Between the rows of an `INSERT`.
    Rows,
}

pub(super) struct DumpReader<'k> {
    key: &'k ProofKey,
    database: String,
    digest: DumpDigest,
    title: String,
    /// The text at work, if it has any.
    text: blake3::Hasher,
    has_text: bool,
    /// The table whose rows come.
    table: Option<String>,
    at: At,
    header: Vec<u8>,
    /// The columns of the last `INSERT` of this table: all have the same.
    last_header: Vec<u8>,
    /// Its hash, which each row begins with.
    header_hash: blake3::Hash,
    row: blake3::Hasher,
    /// The last byte of what is known of a row, which separates or ends rows.
    held: Option<u8>,
    /// Whether a row that comes in parts is at work.
    in_row: bool,
    /// Where no rows come.
    statements: DumpStatements,
    after_dashes: bool,
    /// Whether anything but the beginning was read.
    begun: bool,
}

/// Reads a dump of `database`.
///
/// # Errors
/// It cannot be read to its checked end, or its rows are not understood.
pub(super) async fn read(stream: &mut dyn StreamReader, database: &str, key: &ProofKey) -> Result<DumpDigest> {
    let (mut reader, mut lines) = (DumpReader::new(database, key), Lines::default());
    while let Some(piece) = stream.next().await? {
        lines.cut(&piece, &mut |part| reader.take(part))?;
    }
    match lines.is_at_end() {
        true => reader.end(),
        false => Err(not_understood("its last line has no end")),
    }
}

impl<'k> DumpReader<'k> {
    pub(super) fn new(database: &str, key: &'k ProofKey) -> Self {
        Self {
            key,
            database: database.escape_debug().to_string(),
            digest: DumpDigest::default(),
            title: "settings".to_owned(),
            text: blake3::Hasher::new_keyed(key),
            has_text: false,
            table: None,
            at: At::Definition,
            header: Vec::new(),
            last_header: Vec::new(),
            header_hash: blake3::hash(b""),
            row: blake3::Hasher::new_keyed(key),
            held: None,
            in_row: false,
            statements: DumpStatements::default(),
            after_dashes: false,
            begun: false,
        }
    }

    pub(super) fn take(&mut self, part: LinePart<'_>) -> Result<()> {
        match (self.at, part) {
            (At::Rows, LinePart::Whole(line)) => self.row_line(line),
            (At::Rows, LinePart::Begin(line)) => self.row_begins(line),
            (At::Rows, LinePart::More(more)) => {
                self.row_goes_on(more);
                Ok(())
            }
            (At::Rows, LinePart::End) => self.row_ends(),
            (At::Header, LinePart::Whole(line) | LinePart::Begin(line)) => {
                self.header.push(b'\n');
                self.insert_line(line, matches!(part, LinePart::Whole(_)))
            }
            (At::Definition, LinePart::Whole(line)) => self.line(line, true),
            (At::Definition, LinePart::Begin(line)) => self.line(line, false),
            (At::Definition, LinePart::More(more)) => {
                self.definition(more);
                Ok(())
            }
            (At::Definition, LinePart::End) => {
                self.text.update(b"\n");
                self.statements.end_line();
                Ok(())
            }
            (At::Header, _) => Err(not_understood("the columns of an INSERT are too long")),
        }
    }

    /// More of a line in the text of a definition.
    fn definition(&mut self, more: &[u8]) {
        self.text.update(more);
        self.statements.see(more);
    }

    /// A line that is no row.
    fn line(&mut self, line: &[u8], whole: bool) -> Result<()> {
        let (is_outside, is_between) = (self.statements.is_outside(), self.statements.is_between());
        match whole {
            true => self.statements.see_line(line),
            false => self.statements.see(line),
        }
        // A name, a text or a comment can look like anything.
        if !is_outside {
            self.after_dashes = false;
            self.add_line(line, whole);
            return Ok(());
        }
        let after_dashes = std::mem::replace(&mut self.after_dashes, is_between && line == b"--");
        let title = TITLES.iter().find(|(mark, _)| is_between && after_dashes && line.starts_with(mark));
        if let Some((mark, what)) = title {
            self.begin(what, &line[mark.len()..]);
            return Ok(());
        }
        // A routine is dropped before its delimiter is set, but an event after that of the first.
        if let Some((mark, what)) = DROPS.iter().find(|(mark, _)| line.starts_with(mark)) {
            let name = &line[mark.len()..];
            let name = name.strip_suffix(b" */;;").or_else(|| name.strip_suffix(b" */;")).unwrap_or(name);
            self.begin(what, name);
            return Ok(());
        }
        // A trigger of the table may hold such a line, too.
        if is_between && self.table.is_some() && line.starts_with(INSERT) {
            self.header.clear();
            self.statements.end_statement();
            return self.insert_line(line, whole);
        }
        if self.statements.is_plain() && whole && is_of_the_dump(line, self.begun) {
            return Ok(());
        }
        self.add_line(line, whole);
        Ok(())
    }

    fn add_line(&mut self, line: &[u8], whole: bool) {
        self.has_text = true;
        self.text.update(line);
        if whole {
            self.text.update(b"\n");
        }
    }

    /// Begins a definition.
    fn begin(&mut self, what: &str, name: &[u8]) {
        self.end_text();
        self.begun = true;
        let name = String::from_utf8_lossy(name);
        let shown: String = name.chars().take(MAX_TITLE_LETTERS).collect();
        let title = format!("{what} {} in {}", shown.escape_debug(), self.database);
        self.last_header.clear();
        self.table = None;
        if what == ROWS_OF {
            let table = format!("{} in {}", shown.escape_debug(), self.database);
            self.digest.tables.entry(table.clone()).or_default();
            self.table = Some(table);
        }
        // What was cut from the title, and where the definition stands, count as text.
        self.text.update(what.as_bytes()).update(name.as_bytes());
        self.has_text = true;
        self.title = title;
    }

    fn end_text(&mut self) {
        if std::mem::take(&mut self.has_text) {
            self.digest.definitions.entry(self.title.clone()).or_default().add(&self.text);
        }
        self.text = blake3::Hasher::new_keyed(self.key);
    }

    /// A line of what stands between `INSERT INTO` and the first row.
    fn insert_line(&mut self, line: &[u8], whole: bool) -> Result<()> {
        let end = match header_line(line, self.at == At::Header) {
            HeaderLine::EndsAt(end) => end,
            HeaderLine::InName if whole && self.header.len() + line.len() < MAX_HEADER_BYTES => {
                self.header.extend_from_slice(line);
                self.at = At::Header;
                return Ok(());
            }
            HeaderLine::InName => return Err(not_understood("the columns of an INSERT are too long")),
            HeaderLine::Odd => return Err(not_understood("an INSERT has no VALUES")),
        };
        let (columns, rest) = line.split_at(end);
        self.header.extend_from_slice(columns);
        if self.header != self.last_header {
            self.text.update(&self.header).update(b"\n");
            self.last_header.clone_from(&self.header);
            self.header_hash = blake3::hash(&self.header);
        }
        self.at = At::Rows;
        match (rest.strip_prefix(b" "), whole) {
            (Some(first), true) => self.row_line(first),
            (Some(first), false) => self.row_begins(first),
            (None, _) => Ok(()),
        }
    }

    fn row_line(&mut self, line: &[u8]) -> Result<()> {
        self.row_begins(line)?;
        self.row_ends()
    }

    fn row_begins(&mut self, line: &[u8]) -> Result<()> {
        if !line.starts_with(b"(") || self.in_row {
            return Err(not_understood("a row does not begin as one"));
        }
        self.row = blake3::Hasher::new_keyed(self.key);
        // A title can stand for several tables, of whose names it shows only the beginning.
        self.row.update(self.header_hash.as_bytes());
        self.in_row = true;
        self.row_goes_on(line);
        Ok(())
    }

    fn row_goes_on(&mut self, more: &[u8]) {
        let Some((last, first)) = more.split_last() else { return };
        if let Some(held) = self.held.replace(*last) {
            self.row.update(&[held]);
        }
        self.row.update(first);
    }

    fn row_ends(&mut self) -> Result<()> {
        let last = self.held.take();
        self.in_row = false;
        match last {
            Some(b',') => {}
            Some(b';') => self.at = At::Definition,
            _ => return Err(not_understood("a row does not end as one")),
        }
        let table = self.table.clone().unwrap_or_default();
        self.digest.tables.entry(table).or_default().add(&self.row);
        Ok(())
    }

    pub(super) fn end(mut self) -> Result<DumpDigest> {
        if self.at != At::Definition {
            return Err(not_understood("it ends between rows"));
        }
        self.end_text();
        Ok(self.digest)
    }
}

fn not_understood(why: &str) -> Error {
    Error::integrity(format!("the dump is not understood: {why}"))
        .hint("use the version of Lifeboat that wrote the snapshot, or a newer one")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::proof::multiset::tell;

    const DUMP: &str = "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\n--\n-- Host: a    Database: s\n\n\
        /*!40101 SET NAMES utf8mb4 */;\n\n--\n-- Table structure for table `t`\n--\n\nDROP TABLE IF EXISTS `t`;\n\
        CREATE TABLE `t` (\n  `a` int\n);\n\n--\n-- Dumping data for table `t`\n--\n\nINSERT INTO `t` VALUES\n(1,'a;'),\n\
        (2,'b');\nINSERT INTO `t` VALUES\n(2,'b');\nDELIMITER ;;\n/*!50003 CREATE*/ TRIGGER x\n\n--\nINSERT INTO t\nSELECT 1;\nINSERT INTO `t` VALUES (1);\nEND ;;\nDELIMITER ;\n\n--\n\
        -- Dumping data for table `w\n-- VALUES`\n--\n\nINSERT INTO `w\n VALUES` (`a`, ` VALUES (`) VALUES (1,2),\n(3,4);\n\n\
        --\n-- Dumping events for database 's'\n--\n/*!50106 DROP EVENT IF EXISTS `e` */;\nDELIMITER ;;\nCREATE EVENT e\n;;\n\
        /*!50106 DROP EVENT IF EXISTS `f` */;;\nCREATE EVENT f\n;;\nDELIMITER ;\n-- Dump completed\n";

    fn digest(dump: &str) -> Result<DumpDigest> {
        let key = [7; 32];
        let (mut reader, mut lines) = (DumpReader::new("s", &key), Lines::default());
        lines.cut(dump.as_bytes(), &mut |part| reader.take(part))?;
        reader.end()
    }

    fn differences(a: &str, b: &str) -> Vec<String> {
        let (a, b) = (digest(a).unwrap(), digest(b).unwrap());
        let mut differences = Vec::new();
        tell("definition of", "texts", &a.definitions, &b.definitions, &mut differences);
        tell("table", "rows", &a.tables, &b.tables, &mut differences);
        differences
    }

    #[test]
    fn rows_of_two_tables_with_one_title_are_not_exchanged() {
        let dump = |x: u8, y: u8| {
            let table = |name: &str, row: u8| {
                format!(
                    "\n--\n-- Dumping data for table `w\n-- {name}`\n--\n\nINSERT INTO `w\n {name}` VALUES\n({row}),\n(7);\n"
                )
            };
            format!("-- MariaDB dump 10.19\n{}{}-- Dump completed\n", table("x", x), table("y", y))
        };
        assert!(differences(&dump(1, 2), &dump(1, 2)).is_empty());
        assert!(!differences(&dump(1, 2), &dump(2, 1)).is_empty());
    }

    #[test]
    fn rows_and_definitions_are_found() {
        let found = digest(DUMP).unwrap();
        let tables: Vec<_> = found.tables.iter().map(|(title, rows)| (title.as_str(), rows.count)).collect();
        assert_eq!(tables, [("`t` in s", 3), ("`w in s", 2)]);
        let titles: Vec<_> = found.definitions.keys().map(String::as_str).collect();
        let expected = [
            "event `e` in s",
            "event `f` in s",
            "events of \\'s\\' in s",
            "settings",
            "table `t` in s",
            "triggers of table `t` in s",
            "triggers of table `w in s",
        ];
        assert_eq!(titles, expected);
    }

    #[test]
    fn order_of_rows_and_their_statements_do_not_matter() {
        let other = DUMP.replace(
            "INSERT INTO `t` VALUES\n(1,'a;'),\n(2,'b');\nINSERT INTO `t` VALUES\n(2,'b');",
            "INSERT INTO `t` VALUES\n(2,'b');\nINSERT INTO `t` VALUES\n(2,'b'),\n(1,'a;');",
        );
        assert_ne!(other, DUMP);
        assert_eq!(differences(DUMP, &other), Vec::<String>::new());
        let elsewhere = DUMP.replace("Host: a", "Host: b").replace(
            "-- Dump completed",
            "\n-- Preferably use GTID to start replication from GTID position:\n\n-- SET GLOBAL gtid_slave_pos='0-1-2';\n-- Dump completed",
        );
        assert_eq!(differences(DUMP, &elsewhere), Vec::<String>::new());
    }

    #[test]
    fn releases_of_the_tool_do_not_matter() {
        let wrapped =
            |before: &str, after: &str| {
                DUMP.replace("\nINSERT INTO `t` VALUES\n(1", &format!("\n{before}\nINSERT INTO `t` VALUES\n(1"))
                    .replacen("(2,'b');\nDELIMITER", &format!("(2,'b');\n{after}\nDELIMITER"), 1)
            };
        let older = wrapped("set autocommit=0;", "commit;");
        let newer =
            wrapped("SET @OLD_AUTOCOMMIT=@@AUTOCOMMIT, @@AUTOCOMMIT=0;", "COMMIT;\nSET AUTOCOMMIT=@OLD_AUTOCOMMIT;");
        assert!(older.contains("=0;\nINSERT") && newer.contains("AUTOCOMMIT;\nDELIMITER"));
        assert_eq!(differences(&older, &newer), Vec::<String>::new());
        let before_sandboxes = DUMP.split_once('\n').unwrap().1;
        assert_eq!(differences(DUMP, before_sandboxes), Vec::<String>::new());
        let in_a_trigger = DUMP.replace("TRIGGER x\n", "TRIGGER x\nCOMMIT;\n");
        assert!(!differences(DUMP, &in_a_trigger).is_empty());
    }

    #[test]
    fn any_other_change_is_found() {
        for (from, to) in [
            ("(1,'a;')", "(1,'a')"),
            ("(1,'a;'),\n", ""),
            ("`a` int\n", "`a` int \n"),
            ("TRIGGER x\n\n", "TRIGGER x\n"),
            ("CREATE EVENT f", "CREATE EVENT f DISABLE"),
            ("SET NAMES utf8mb4", "SET NAMES latin1"),
            ("(`a`, ` VALUES (`)", "(`b`, ` VALUES (`)"),
            ("(3,4)", "(4,3)"),
            ("-- Dump completed\n", ""),
            ("for table `t`", "for table `T`"),
        ] {
            let changed = DUMP.replacen(from, to, 1);
            assert_ne!(changed, DUMP, "{from}");
            assert!(!differences(DUMP, &changed).is_empty(), "{from}");
        }
    }

    #[test]
    fn lines_in_a_name_are_of_the_name() {
        let named = |name: &str| DUMP.replacen("`a` int\n", &format!("`{name}` int\n"), 1);
        for name in ["a\n\nb", "a\n--\nb", "a\n--\n-- Table structure for table x\nb", "a\nDELIMITER ;;\nb"] {
            assert!(!differences(&named(name), &named("a\nb")).is_empty(), "{name}");
            let tables = digest(&named(name)).unwrap().tables;
            assert_eq!(tables, digest(DUMP).unwrap().tables, "{name}");
        }
    }

    #[test]
    fn columns_without_an_end_are_an_error_before_they_take_all_memory() {
        let endless = format!("{}INSERT INTO `t{}", DUMP.split("INSERT").next().unwrap(), "\n".repeat(1 << 21));
        assert!(digest(&endless).unwrap_err().message().contains("too long"));
    }

    #[test]
    fn long_rows_are_hashed_in_parts() {
        let long = DUMP.replace("'a;'", &format!("'{}'", "x".repeat(3 << 20)));
        let whole = digest(&long).unwrap();
        let key = [7; 32];
        let (mut reader, mut lines) = (DumpReader::new("s", &key), Lines::default());
        long.as_bytes().chunks(4096).for_each(|piece| lines.cut(piece, &mut |part| reader.take(part)).unwrap());
        assert_eq!(reader.end().unwrap().tables, whole.tables);
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        for (from, to) in
            [("(2,'b');\nINSERT", "(2,'b')\nINSERT"), ("(2,'b');\nINSERT", "x\nINSERT"), ("(3,4);", "(3,4),")]
        {
            assert!(digest(&DUMP.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
