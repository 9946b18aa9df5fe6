//! Which entries of an archive make a part of its database: all definitions, or some tables with
//! what belongs to them.
//!
//! To a table belong its defaults, the sequences that it owns, keys, checks, indexes, statistics,
//! policies, comments and grants, and its partitions with theirs. Triggers, rules and publications
//! are left out, and told: they act on other tables. So are foreign keys to tables that were not
//! asked for, unless whoever loads finds those in place. What a table needs besides, such as a
//! type or a function, is known by number: a new database gets it too.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use lifeboat_base::{Error, Result};

use super::contents::{Contents, ContentsEntry};
use super::late::FOREIGN_KEY;
use super::names::{TypedName, near, referred_table, table_of};
pub(crate) use super::partitions::PickedRelation;
use super::partitions::{LackingRows, with_partitions};
use super::parts::{DumpPart, TableName};
use super::values::is_of_large_object;

const TABLE_KIND: &[u8] = b"TABLE";
const FOREIGN_TABLE_KIND: &[u8] = b"FOREIGN TABLE";
/// Entries that belong to the table that their statement names.
const OF_TABLE_BY_NAME: [&[u8]; 4] = [b"DEFAULT", b"CONSTRAINT", b"CHECK CONSTRAINT", b"POLICY"];
/// Entries that belong to the table, index or constraint that they need.
const OF_WHAT_THEY_NEED: [&[u8]; 7] =
    [b"SEQUENCE", b"SEQUENCE OWNED BY", b"INDEX", b"STATISTICS", b"ROW SECURITY", b"COMMENT", b"ACL"];
/// Entries that join two tables or two indexes: both must be there.
const JOINING: [&[u8]; 2] = [b"TABLE ATTACH", b"INDEX ATTACH"];
/// Entries that are left out, if their statement names a table, …
const LEFT_OUT_BY_NAME: [&[u8]; 2] = [b"TRIGGER", b"RULE"];
/// … or by what they need.
const LEFT_OUT_BY_NEED: [&[u8]; 2] = [b"PUBLICATION TABLE", b"SECURITY LABEL"];
/// Entries that hold rows, or stand for them.
const ROW_KINDS: [&[u8]; 8] = [
    b"TABLE DATA",
    b"SEQUENCE SET",
    b"MATERIALIZED VIEW DATA",
    b"BLOB",
    b"BLOBS",
    b"BLOB METADATA",
    b"STATISTICS DATA",
    b"LARGE OBJECT",
];
/// Why something is left out.
pub(super) const LEFT_OUT_REASON: &str = "left out, as it acts on other tables or needs them";
/// Every archive begins with these.
const HEADING: [&[u8]; 3] = [b"ENCODING", b"STDSTRINGS", b"SEARCHPATH"];
/// What has rows of its own in no archive, and what to do instead.
const OTHER_KINDS: [(&[u8], &str); 4] = [
    (b"VIEW", "a view has no rows of its own: restore the tables that it reads"),
    (b"MATERIALIZED VIEW", "its rows come from other tables: restore those, then REFRESH MATERIALIZED VIEW"),
    (FOREIGN_TABLE_KIND, "the rows of a foreign table lie on another server, and are in no snapshot of this one"),
    (b"SEQUENCE", "a sequence comes with the table that owns it"),
];

/// What of a database somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    Whole,
    Definitions,
    Tables(&'a [TableName]),
}

/// What somebody asked for, and what that is in the archive at work.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    pub(crate) request: Request<'a>,
    /// Known once the definitions were read.
    extract: OnceLock<Extract>,
    lacking: Mutex<LackingRows>,
}

impl<'a> Chosen<'a> {
    pub(crate) fn new(request: Request<'a>) -> Self {
        Self { request, extract: OnceLock::new(), lacking: Mutex::default() }
    }

    /// Whether that is less than the whole database.
    pub(crate) fn is_part(&self) -> bool {
        self.request != Request::Whole
    }

    /// What is wanted of the archive of the definitions, which is read before the others.
    ///
    /// # Errors
    /// There is no such table.
    pub(crate) fn of_definitions(&self, contents: Contents, database: &str) -> Result<Contents> {
        let extract = match self.request {
            Request::Whole => return Ok(contents),
            Request::Definitions => Extract::Definitions,
            Request::Tables(names) => {
                let mut picked = Picked::of(&contents, database, names)?;
                picked.without_foreign_keys(&contents, |_| false);
                let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
                *lacking = LackingRows::of(&contents, &picked.tables);
                Extract::Tables(picked)
            }
        };
        let extract = self.extract.get_or_init(|| extract);
        let contents = extract.of(contents, true);
        self.note_rows(&contents);
        Ok(contents)
    }

    /// What is wanted of the archive of this part.
    pub(crate) fn of_part(&self, contents: Contents, part: Option<&DumpPart>) -> Contents {
        match self.extract.get() {
            Some(extract) => {
                let contents = extract.of(contents, part.is_some_and(DumpPart::creates));
                self.note_rows(&contents);
                contents
            }
            None => contents,
        }
    }

    fn note_rows(&self, contents: &Contents) {
        let Some(Extract::Tables(picked)) = self.extract.get() else { return };
        let mut lacking = self.lacking.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in contents.of_kind("TABLE DATA") {
            lacking.found(&picked.tables, contents.get(&entry.schema), contents.get(&entry.tag));
        }
    }

    /// What is told of chosen tables without rows, once all parts were read.
    ///
    /// # Errors
    /// The snapshot lacks rows of one.
    pub(crate) fn without_rows(&self) -> Result<Vec<String>> {
        let Some(Extract::Tables(picked)) = self.extract.get() else { return Ok(Vec::new()) };
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner).told(&picked.tables)
    }

    /// The parts that are wanted.
    pub(crate) fn parts<'p>(&self, parts: &[(DumpPart, &'p str)]) -> Vec<(DumpPart, &'p str)> {
        let picked = match self.extract.get() {
            None => return parts.to_vec(),
            Some(Extract::Definitions) => return parts.iter().filter(|(part, _)| part.creates()).cloned().collect(),
            Some(Extract::Tables(picked)) => picked,
        };
        picked.parts(parts)
    }

    /// What is left out, for people.
    pub(crate) fn left_out(&self) -> &[String] {
        match self.extract.get() {
            Some(Extract::Tables(picked)) => &picked.left_out,
            _ => &[],
        }
    }
}

/// What of a database is wanted.
#[derive(Debug)]
pub(crate) enum Extract {
    /// All definitions, and no rows.
    Definitions,
    /// Some tables.
    Tables(Picked),
}

/// Some tables of an archive, and what belongs to them.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    /// The tables, partitions included, in the order of the archive.
    pub(crate) tables: Vec<PickedRelation>,
    /// The sequences that they own.
    pub(crate) sequences: Vec<PickedRelation>,
    /// The entries that make them, by number.
    pub(crate) entries: BTreeSet<i64>,
    /// The entries that these need besides, directly or not.
    pub(crate) needed: BTreeSet<i64>,
    /// The schemas that these are in.
    pub(crate) schemas_needed: BTreeSet<Vec<u8>>,
    /// Their foreign keys to other tables.
    pub(crate) foreign_keys: Vec<ForeignKey>,
    /// Partitions whose rows lie on other servers; they are left out.
    pub(crate) foreign: Vec<PickedRelation>,
    /// What is left out, for people.
    pub(crate) left_out: Vec<String>,
}

/// A foreign key to a table that was not asked for.
#[derive(Debug)]
pub(crate) struct ForeignKey {
    pub(crate) id: i64,
    /// Schema and name of the other table.
    pub(crate) to: (Vec<u8>, Vec<u8>),
}

impl Extract {
    /// The archive without what is not wanted. `contents` is of the definitions, of rows, or of
    /// both.
    pub(crate) fn of(&self, contents: Contents, has_definitions: bool) -> Contents {
        match self {
            Self::Definitions => contents.with_only(|contents, entry| {
                let is_grant = contents.get(&entry.kind) == b"ACL" && contents.get(&entry.schema).is_empty();
                let is_of_large = is_of_large_object(contents, entry)
                    || is_grant && contents.get(&entry.tag).starts_with(b"LARGE OBJECT");
                !ROW_KINDS.contains(&contents.get(&entry.kind)) && !is_of_large
            }),
            Self::Tables(picked) => {
                let of_database: BTreeSet<i64> = contents.of_database().map(|entry| entry.id).collect();
                contents.with_only(|contents, entry| {
                    HEADING.contains(&contents.get(&entry.kind))
                        || picked.is_row_entry(contents, entry)
                        || has_definitions
                            && (of_database.contains(&entry.id)
                                || picked.entries.contains(&entry.id)
                                || picked.needed.contains(&entry.id))
                })
            }
        }
    }
}

impl Picked {
    /// The tables of these names, and what belongs to them. `contents` is of the definitions.
    ///
    /// # Errors
    /// There is no such table; the error tells names that are near.
    pub(crate) fn of(contents: &Contents, database: &str, wanted: &[TableName]) -> Result<Self> {
        let mut ids = BTreeSet::new();
        for name in wanted {
            ids.insert(find(contents, database, name)?);
        }
        with_partitions(contents, &mut ids);
        let is_foreign = |entry: &&ContentsEntry| contents.get(&entry.kind) == FOREIGN_TABLE_KIND;
        let foreign: Vec<&ContentsEntry> =
            contents.entries.iter().filter(|entry| ids.contains(&entry.id)).filter(is_foreign).collect();
        ids.retain(|id| foreign.iter().all(|entry| entry.id != *id));
        let mut picked = Self { entries: ids.clone(), ..Self::default() };
        picked.foreign = foreign.iter().map(|entry| PickedRelation::of(contents, entry)).collect();
        let told = foreign.iter().map(|entry| format!("{}: its rows lie on another server", contents.name(entry)));
        picked.left_out.extend(told);
        for entry in contents.entries.iter().filter(|entry| ids.contains(&entry.id)) {
            picked.tables.push(PickedRelation::of(contents, entry));
        }
        for entry in &contents.entries {
            picked.take(contents, entry, &ids);
        }
        picked.find_needed(contents);
        Ok(picked)
    }

    /// The parts that hold what is wanted: definitions, the tables' own parts, and the part of all
    /// other rows, if a table has none of its own or owns a sequence: their values are there.
    pub(crate) fn parts<'p>(&self, parts: &[(DumpPart, &'p str)]) -> Vec<(DumpPart, &'p str)> {
        let is_own = |part: &DumpPart| matches!(part, DumpPart::Table(name) if self.has_table(name));
        let own = parts.iter().filter(|(part, _)| is_own(part)).count();
        let others = !self.sequences.is_empty() || own < self.tables.len();
        let wanted = |part: &DumpPart| part.creates() || is_own(part) || others && *part == DumpPart::Data;
        parts.iter().filter(|(part, _)| wanted(part)).cloned().collect()
    }

    fn has_table(&self, name: &TableName) -> bool {
        self.has(name.schema.as_bytes(), name.name.as_bytes())
    }

    /// Takes an entry along if it belongs to what was taken before it.
    fn take(&mut self, contents: &Contents, entry: &ContentsEntry, tables: &BTreeSet<i64>) {
        let kind = contents.get(&entry.kind);
        let mut needs = contents.needs(entry);
        let is_of_table = || self.is_of_table(contents, entry, tables);
        if OF_WHAT_THEY_NEED.contains(&kind) {
            if needs.any(|id| self.entries.contains(&id)) {
                self.entries.insert(entry.id);
                if kind == b"SEQUENCE" {
                    self.sequences.push(PickedRelation::of(contents, entry));
                }
            }
        } else if JOINING.contains(&kind) {
            let joined = [TABLE_KIND, FOREIGN_TABLE_KIND, b"INDEX", b"CONSTRAINT"];
            let of_kind = |id: i64| contents.by_number(id).is_some_and(|one| joined.contains(&contents.get(&one.kind)));
            let (here, others): (Vec<i64>, Vec<i64>) =
                needs.filter(|id| of_kind(*id)).partition(|id| self.entries.contains(id));
            if !here.is_empty() && others.is_empty() {
                self.entries.insert(entry.id);
            } else if kind == b"TABLE ATTACH" && here.len() == 1 && self.is_named(contents, entry) {
                self.left_out.push(format!("{}: its parent was not asked for", contents.name(entry)));
            }
        } else if OF_TABLE_BY_NAME.contains(&kind) && is_of_table() {
            self.entries.insert(entry.id);
        } else if LEFT_OUT_BY_NAME.contains(&kind) && is_of_table()
            || LEFT_OUT_BY_NEED.contains(&kind) && needs.any(|id| self.entries.contains(&id))
        {
            self.left_out.push(contents.name(entry));
        } else if kind == FOREIGN_KEY.as_bytes() && is_of_table() {
            match referred_table(contents.get(&entry.definition)) {
                Some([schema, name]) if self.has(&schema, &name) => drop(self.entries.insert(entry.id)),
                Some([schema, name]) => self.foreign_keys.push(ForeignKey { id: entry.id, to: (schema, name) }),
                None => self.left_out.push(contents.name(entry)),
            }
        } else if (OF_TABLE_BY_NAME.contains(&kind) || LEFT_OUT_BY_NAME.contains(&kind))
            && table_of(contents.get(&entry.definition)).is_none()
            && needs.any(|id| tables.contains(&id))
        {
            // Whose it is is not clear, so it is not left out in silence.
            self.left_out.push(contents.name(entry));
        }
    }

    fn has(&self, schema: &[u8], name: &[u8]) -> bool {
        self.tables.iter().any(|table| table.schema == schema && table.name == name)
    }

    fn is_named(&self, contents: &Contents, entry: &ContentsEntry) -> bool {
        self.tables.iter().any(|table| table.names(contents, entry))
    }

    /// Whether an entry, such as a default, is of a table that was taken: it needs that, and its
    /// statement names it as the one that it changes.
    fn is_of_table(&self, contents: &Contents, entry: &ContentsEntry, tables: &BTreeSet<i64>) -> bool {
        let needs: BTreeSet<i64> = contents.needs(entry).filter(|id| tables.contains(id)).collect();
        let named = table_of(contents.get(&entry.definition));
        self.tables
            .iter()
            .filter(|table| needs.contains(&table.id))
            .any(|table| named.as_ref().is_some_and(|[schema, name]| table.schema == *schema && table.name == *name))
    }

    /// Whether an entry holds rows of a table, or the value of a sequence, that was taken.
    pub(crate) fn is_row_entry(&self, contents: &Contents, entry: &ContentsEntry) -> bool {
        match contents.get(&entry.kind) {
            b"TABLE DATA" => self.is_named(contents, entry),
            b"SEQUENCE SET" => self.sequences.iter().any(|sequence| sequence.names(contents, entry)),
            _ => false,
        }
    }

    /// Finds what the entries need besides each other: types, functions, schemas and so on, with
    /// what those need, and with their grants and comments.
    fn find_needed(&mut self, contents: &Contents) {
        let mut left: Vec<i64> = self.entries.iter().copied().collect();
        while let Some(id) = left.pop() {
            let Some(entry) = contents.by_number(id) else { continue };
            let schema = contents.get(&entry.schema);
            let its_schema = contents.of_kind("SCHEMA").find(|one| contents.get(&one.tag) == schema);
            for needed in contents.needs(entry).chain(its_schema.map(|one| one.id)) {
                if contents.by_number(needed).is_some() && !self.entries.contains(&needed) && self.needed.insert(needed)
                {
                    left.push(needed);
                    let one = contents.by_number(needed).map(|one| contents.get(&one.schema).to_vec());
                    self.schemas_needed.extend(one.filter(|schema| !schema.is_empty()));
                }
            }
        }
        // An archive does not tell of which extension an operator class is.
        if self.entries.iter().filter_map(|id| contents.by_number(*id)).any(|entry| uses_other_methods(contents, entry))
        {
            self.needed.extend(contents.of_kind("EXTENSION").map(|entry| entry.id));
        }
        for kind in ["ACL", "COMMENT"] {
            for entry in contents.of_kind(kind).filter(|entry| !self.entries.contains(&entry.id)) {
                let mut needs = contents.needs(entry).peekable();
                if needs.peek().is_some() && needs.all(|id| self.needed.contains(&id)) {
                    self.needed.insert(entry.id);
                }
            }
        }
    }

    /// Tells the foreign keys that are left out.
    pub(crate) fn without_foreign_keys(&mut self, contents: &Contents, is_there: impl Fn(&ForeignKey) -> bool) {
        for key in &self.foreign_keys {
            let Some(entry) = contents.by_number(key.id) else { continue };
            if is_there(key) {
                let comments = contents.of_kind("COMMENT").filter(|one| contents.needs(one).any(|id| id == key.id));
                self.entries.extend(comments.map(|comment| comment.id).chain([key.id]));
                continue;
            }
            let (schema, name) = &key.to;
            let to = TypedName(schema, name);
            self.left_out.push(format!("{}: the table {to} is not there", contents.name(entry)));
        }
    }
}

/// The number of a table.
fn find(contents: &Contents, database: &str, wanted: &TableName) -> Result<i64> {
    let is_named = |entry: &&ContentsEntry| {
        contents.get(&entry.schema) == wanted.schema.as_bytes() && contents.get(&entry.tag) == wanted.name.as_bytes()
    };
    if let Some(found) = contents.of_kind("TABLE").find(is_named) {
        return Ok(found.id);
    }
    let database = database.escape_debug();
    for (kind, hint) in OTHER_KINDS {
        let kind = String::from_utf8_lossy(kind);
        if contents.of_kind(&kind).any(|entry| is_named(&entry)) {
            return Err(Error::usage(format!(
                "{wanted} of database {database} is no table, but a {}",
                kind.to_lowercase()
            ))
            .hint(hint));
        }
    }
    let names: Vec<TableName> = contents.of_kind("TABLE").map(|entry| TableName::of(contents, entry)).collect();
    let error = Error::usage(format!("the snapshot has no table {wanted} in database {database}"));
    Err(error.hint(near(wanted, &names)))
}

/// Whether an entry makes an index that is no B-tree.
fn uses_other_methods(contents: &Contents, entry: &ContentsEntry) -> bool {
    const USING: &[u8] = b" USING ";
    let definition = contents.get(&entry.definition);
    let is_index = [&b"INDEX"[..], b"CONSTRAINT"].contains(&contents.get(&entry.kind));
    let at = definition.windows(USING.len()).position(|text| text == USING);
    is_index && at.is_some_and(|at| !definition[at + USING.len()..].starts_with(b"btree "))
}
