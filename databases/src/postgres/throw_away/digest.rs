//! Reads the SQL text that `pg_restore -f -` makes of an archive, and keeps what must be equal.
//!
//! Definitions are kept as hashes of their text, by title; the rows of each table as a
//! [`Multiset`], because their order on disk means nothing; large objects by number. Only the two
//! `-- Dumped` comments of the preamble are left out, and the lines `\restrict TOKEN` and
//! `\unrestrict TOKEN` with the preamble's own random token. Every other byte reaches some hash,
//! but for what follows.
//!
//! The headers of rights name an owner whom no statement there sets. He is kept apart from the
//! hash: of objects that come with the server or with an extension, no dump holds the owner. Of all
//! others he is in a statement, too.
//!
//! A restore can change the order of a table's columns. So the rows of tables that are told to
//! [`Reader::by_name`] are compared field by field, under the names of the columns. The tablespace
//! of a database is left out, as a restore puts everything into the default one.
//!
//! Text inside a function body may look like a header or like data; a [`Lexer`] knows that it is
//! quoted. If the lexer were wrong, titles would be odd, or order would count where it need not,
//! but still every byte would be compared. Memory holds one hash for each definition, and never a
//! row.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::Lexer;
use super::normal::normal_form;
use super::row_hash::{RowHash, columns};
use crate::proof::multiset::{Multiset, ProofKey, Titled};

/// A longer line is neither a header nor a `COPY` statement, which fits even with 1600 columns.
const MAX_LINE_BYTES: usize = 256 << 10;
/// A longer definition has no normal form: it is compared as text.
const MAX_NORMAL_BYTES: usize = 1 << 20;

/// What is kept of one database.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DatabaseDigest {
    /// Definitions by type and name.
    pub(crate) definitions: Titled,
    /// The rows of tables, by schema and name.
    pub(crate) tables: Titled,
    /// The names of the columns of these tables, without their order.
    pub(crate) columns: Titled,
    /// Large objects by number.
    pub(crate) large_objects: Titled,
    /// The owners of objects with rights, by the titles of these rights.
    pub(crate) owners: BTreeMap<String, String>,
}

/// Reads the text in pieces.
pub(crate) struct Reader {
    key: ProofKey,
    digest: DatabaseDigest,
    place: TextPosition,
    section: DumpSection,
    /// The random token of `\restrict`.
    token: Option<Vec<u8>>,
    line: Vec<u8>,
    /// Whether the line is longer than the buffer, so that its beginning is hashed already.
    overlong: bool,
    /// The state at the beginning of the line.
    lexer: Lexer,
    row: RowHash,
    /// The beginning of a `COPY` statement.
    statement: Option<Vec<u8>>,
    /// Tables whose columns may be in any order.
    by_name: BTreeSet<String>,
    /// Whether definitions are hashed in their normal form.
    in_normal_form: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TextPosition {
    Preamble,
    Text,
    Rows,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Definition,
    TableData,
    LargeObjects,
}

struct DumpSection {
    kind: Kind,
    title: String,
    hasher: blake3::Hasher,
    /// The whole text, if its normal form is wanted and it is not too long.
    text: Option<Vec<u8>>,
}

impl DumpSection {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some(text) = &mut self.text {
            text.extend_from_slice(bytes);
        }
        self.text.take_if(|text| text.len() > MAX_NORMAL_BYTES);
    }
}

impl Reader {
    pub(crate) fn new(key: ProofKey) -> Self {
        Self {
            key,
            digest: DatabaseDigest::default(),
            place: TextPosition::Preamble,
            section: DumpSection {
                kind: Kind::Definition,
                title: "settings".to_owned(),
                hasher: blake3::Hasher::new_keyed(&key),
                text: None,
            },
            token: None,
            line: Vec::new(),
            overlong: false,
            lexer: Lexer::default(),
            row: RowHash::new(key),
            statement: None,
            by_name: BTreeSet::new(),
            in_normal_form: false,
        }
    }

    /// Hashes definitions in their [normal form](normal_form), if they have one.
    pub(crate) fn in_normal_form(mut self) -> Self {
        self.in_normal_form = true;
        self
    }

    /// Lets the columns of `tables` be in any order.
    pub(crate) fn by_name(mut self, tables: BTreeSet<String>) -> Self {
        self.by_name = tables;
        self
    }

    /// Reads the next piece.
    pub(crate) fn update(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let end = piece.iter().position(|byte| *byte == b'\n');
            let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
            if self.place == TextPosition::Rows {
                self.row.update(part);
            } else {
                self.line_part(part);
            }
            if end.is_some() {
                if self.place == TextPosition::Rows { self.row_end() } else { self.line_end() }
            }
            piece = rest.get(1..).unwrap_or_default();
        }
    }

    /// The digest, after the last piece.
    pub(crate) fn finish(mut self) -> DatabaseDigest {
        if !self.line.is_empty() {
            self.line_end();
        }
        self.end_section();
        self.digest
    }

    fn row_end(&mut self) {
        match self.row.end() {
            Some(row) => self.digest.tables.entry(self.section.title.clone()).or_default().add(&row),
            None => self.place = TextPosition::Text,
        }
    }

    fn line_part(&mut self, part: &[u8]) {
        if self.overlong {
            self.section.update(part);
            self.lexer.update(part);
            return;
        }
        self.line.extend_from_slice(part);
        if self.line.len() > MAX_LINE_BYTES {
            self.overlong = true;
            self.abandon_statement();
            self.section.update(&self.line);
            self.lexer.update(&self.line);
            self.line.clear();
        }
    }

    fn line_end(&mut self) {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.overlong) {
            self.section.update(b"\n");
            self.lexer.update(b"\n");
            return;
        }
        if self.is_volatile(&line) {
            return;
        }
        let plain = self.lexer.is_plain();
        if plain {
            self.structure(&line);
        }
        let place = self.section.title.strip_prefix("DATABASE ").filter(|_| plain);
        let mut line = if place.is_some() { self.without_tablespace(line) } else { line };
        if plain && let Some((begin, owner)) = owner_of_rights(&line) {
            self.digest.owners.insert(self.section.title.clone(), owner);
            line.truncate(begin);
        }
        self.lexer.update(&line);
        self.lexer.update(b"\n");
        if plain && self.section.kind == Kind::TableData && line.starts_with(b"COPY ") {
            self.statement = Some(Vec::new());
        }
        let Some(statement) = &mut self.statement else {
            self.section.update(&line);
            self.section.update(b"\n");
            return;
        };
        statement.extend_from_slice(&line);
        statement.push(b'\n');
        let ended = self.lexer.is_plain();
        if ended && line.ends_with(b" FROM stdin;") {
            self.begin_rows();
        } else if ended || self.statement.as_ref().is_some_and(|statement| statement.len() > MAX_LINE_BYTES) {
            self.abandon_statement();
        }
    }

    /// The `COPY` statement is complete, and rows follow.
    fn begin_rows(&mut self) {
        let statement = self.statement.take().unwrap_or_default();
        let title = self.section.title.clone();
        let columns = columns(&statement);
        let names = self.digest.columns.entry(title.clone()).or_default();
        columns.iter().for_each(|name| names.add(blake3::Hasher::new_keyed(&self.key).update(name)));
        if self.by_name.contains(&title) {
            // The names are compared without their order, in `columns`.
            self.row.read_by_name(&columns);
        } else {
            self.section.update(&statement);
            self.row.read_in_order();
        }
        self.digest.tables.entry(title).or_default();
        self.place = TextPosition::Rows;
    }

    /// It is a text as any other.
    fn abandon_statement(&mut self) {
        if let Some(statement) = self.statement.take() {
            self.section.update(&statement);
        }
    }

    /// `CREATE DATABASE …` without the tablespace, which is its last option.
    fn without_tablespace(&self, line: Vec<u8>) -> Vec<u8> {
        let clause = b" TABLESPACE = ";
        let at = line.windows(clause.len()).rposition(|part| part == clause);
        let Some(at) = at.filter(|_| line.starts_with(b"CREATE DATABASE ") && line.ends_with(b";")) else {
            return line;
        };
        let (before, _) = line.split_at(at);
        let mut lexer = self.lexer.clone();
        lexer.update(before);
        if lexer.is_plain() { [before, b";"].concat() } else { line }
    }

    /// A line outside quotes may begin a section.
    fn structure(&mut self, line: &[u8]) {
        if let Some((kind, title)) = header(line) {
            self.end_section();
            self.place = TextPosition::Text;
            self.section = self.new_section(kind, title);
        }
        if self.section.kind == Kind::LargeObjects
            && let Some(number) = large_object(line)
        {
            self.end_section();
            self.section = self.new_section(Kind::LargeObjects, number);
        }
    }

    fn new_section(&self, kind: Kind, title: String) -> DumpSection {
        let text = (self.in_normal_form && kind == Kind::Definition).then(Vec::new);
        DumpSection { kind, title, hasher: blake3::Hasher::new_keyed(&self.key), text }
    }

    fn is_volatile(&mut self, line: &[u8]) -> bool {
        if self.place == TextPosition::Preamble {
            if line.starts_with(b"-- Dumped ") {
                return true;
            }
            if let Some(token) = line.strip_prefix(b"\\restrict ") {
                self.token = Some(token.to_vec());
                return true;
            }
        }
        let ours = |word: &[u8]| line.strip_prefix(word).is_some_and(|token| self.token.as_deref() == Some(token));
        ours(b"\\restrict ") || ours(b"\\unrestrict ")
    }

    fn end_section(&mut self) {
        self.abandon_statement();
        let titled = match self.section.kind {
            Kind::Definition | Kind::TableData => &mut self.digest.definitions,
            Kind::LargeObjects => &mut self.digest.large_objects,
        };
        let title = match self.section.kind {
            Kind::TableData => format!("TABLE DATA {}", self.section.title),
            Kind::Definition | Kind::LargeObjects => self.section.title.clone(),
        };
        let multiset: &mut Multiset = titled.entry(title).or_default();
        match self.section.text.take().and_then(|text| normal_form(&text)) {
            Some(form) => multiset.add(blake3::Hasher::new_keyed(&self.key).update(&form)),
            None => multiset.add(&self.section.hasher),
        }
    }
}

/// The kind and title in `-- Name: …; Type: …; Schema: …; Owner: …`.
fn header(line: &[u8]) -> Option<(Kind, String)> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix("-- ")?;
    let text = text.strip_prefix("Data for ").unwrap_or(text).strip_prefix("Name: ")?;
    let (name, rest) = text.rsplit_once("; Type: ")?;
    let (kind, rest) = rest.split_once("; Schema: ")?;
    let schema = rest.split_once("; Owner: ").map_or(rest, |(schema, _)| schema);
    let full = if schema == "-" { name.to_owned() } else { format!("{schema}.{name}") };
    Some(match kind {
        "TABLE DATA" => (Kind::TableData, full),
        "BLOBS" => (Kind::LargeObjects, "(frame)".to_owned()),
        _ => (Kind::Definition, format!("{kind} {full}")),
    })
}

/// The owner in the header of rights, and where it begins.
fn owner_of_rights(line: &[u8]) -> Option<(usize, String)> {
    let (_, title) = header(line)?;
    let (before, owner) = std::str::from_utf8(line).ok()?.rsplit_once("; Owner: ")?;
    title.starts_with("ACL ").then(|| (before.len(), owner.to_owned()))
}

/// The number in `SELECT pg_catalog.lo_open('4711', 131072);`.
fn large_object(line: &[u8]) -> Option<String> {
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("SELECT pg_catalog.lo_open('")?;
    rest.split_once('\'').map(|(number, _)| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str, piece: usize) -> DatabaseDigest {
        let mut reader = Reader::new([3; 32]);
        text.as_bytes().chunks(piece).for_each(|piece| reader.update(piece));
        reader.finish()
    }

    fn dump(token: &str, body: &str, rows: &str) -> String {
        format!(
            "--\n-- PostgreSQL database dump\n--\n\n\\restrict {token}\n\n-- Dumped from database version 15.{}\nSET x = 0;\n\
             --\n-- Name: f(); Type: FUNCTION; Schema: public; Owner: o\n--\n\n{body}\n\n\
             --\n-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: o\n--\n\n\
             COPY public.t (a, b) FROM stdin;\n{rows}\\.\n\n\n\\unrestrict {token}\n\n",
            token.len()
        )
    }

    #[test]
    fn row_order_tokens_versions_and_pieces_do_not_matter() {
        let a = dump("abc", "CREATE FUNCTION f()", "1\tx\n2\ty\n");
        let b = dump("defgh", "CREATE FUNCTION f()", "2\ty\n1\tx\n");
        for piece in [1, 2, 7, 64, 10_000] {
            assert_eq!(digest(&a, piece), digest(&b, 10_000), "in pieces of {piece}");
        }
        assert_eq!(digest(&a, 5).tables["public.t"].count, 2);
    }

    #[test]
    fn anything_else_does() {
        let good = dump("abc", "CREATE FUNCTION f()", "1\tx\n2\ty\n");
        for (body, rows) in [
            ("CREATE FUNCTION f() ", "1\tx\n2\ty\n"),
            ("CREATE FUNCTION f()", "1\tx\n2\tz\n"),
            ("CREATE FUNCTION f()", "1\tx\n"),
            ("CREATE FUNCTION f()", "1\tx\n2\ty\n2\ty\n"),
            ("CREATE FUNCTION f()", "1\tx\n2\ty\n\\\\.\n"),
            ("CREATE FUNCTION f()\n\\restrict other", "1\tx\n2\ty\n"),
            ("CREATE FUNCTION f()\n-- Dumped by me", "1\tx\n2\ty\n"),
        ] {
            assert_ne!(digest(&good, 10_000), digest(&dump("abc", body, rows), 10_000), "{body} {rows}");
        }
    }

    #[test]
    fn text_that_looks_like_headers_or_data_hides_nothing() {
        let sly = "CREATE FUNCTION f() AS $$\n-- Data for Name: x; Type: TABLE DATA; Schema: s; Owner: o\nCOPY x FROM stdin;\n\
                   hidden?\n\\.\n$$";
        let good = digest(&dump("abc", sly, "1\n"), 10_000);
        assert_eq!(good, digest(&dump("xyz", sly, "1\n"), 3));
        assert_ne!(good, digest(&dump("abc", &sly.replace("hidden", "changed"), "1\n"), 10_000));
        assert_ne!(good, digest(&dump("abc", &sly.replace("$$\n--", "$$ \n--"), "1\n"), 10_000));
    }

    #[test]
    fn long_lines_are_hashed_and_not_kept() {
        let long = "x".repeat(3 * MAX_LINE_BYTES);
        let a = digest(&dump("abc", &long, &format!("{long}\n")), 9_999);
        assert_eq!(a, digest(&dump("abc", &long, &format!("{long}\n")), 100_000));
        assert_ne!(a, digest(&dump("abc", &format!("{long}y"), &format!("{long}\n")), 100_000));
        assert_ne!(a, digest(&dump("abc", &long, &format!("{long}y\n")), 100_000));
    }

    #[test]
    fn the_owner_in_the_header_of_rights_is_kept_apart() {
        let rights = |kind: &str, owner: &str, whom: &str| {
            let text =
                format!("-- Name: TABLE t; Type: {kind}; Schema: pg_catalog; Owner: {owner}\n--\n\nGRANT {whom};\n");
            digest(&text, 9)
        };
        let (one, other) = (rights("ACL", "a; b", "x"), rights("ACL", "c", "x"));
        assert_eq!(one.definitions, other.definitions);
        assert_eq!(one.owners["ACL pg_catalog.TABLE t"], "a; b");
        assert_ne!(one.definitions, rights("ACL", "a; b", "y").definitions);
        for kind in ["TABLE", "DEFAULT ACL", "COMMENT"] {
            assert_ne!(rights(kind, "a", "x").definitions, rights(kind, "c", "x").definitions, "{kind}");
        }
    }

    #[test]
    fn large_objects_are_told_apart() {
        let text = "-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -\n--\n\nBEGIN;\n\
                    SELECT pg_catalog.lo_open('4711', 131072);\nSELECT pg_catalog.lowrite(0, '\\x00');\n\
                    SELECT pg_catalog.lo_open('4712', 131072);\nSELECT pg_catalog.lowrite(0, '\\x01');\n";
        let numbers: Vec<String> = digest(text, 10).large_objects.into_keys().collect();
        assert_eq!(numbers, ["(frame)", "4711", "4712"]);
    }
}
