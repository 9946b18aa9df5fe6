//! The list of contents at the beginning of an archive: what is in it, whose it is, and by which
//! statement it is made.
//!
//! The list is read before the first byte goes to `pg_restore`, and can be changed on the way: the
//! owner of an entry, and its statement. Everything else passes as it is.
//!
//! The format: PostgreSQL's `pg_backup_archiver.c` (`ReadHead`, `ReadToc`).

use std::ops::{Range, RangeInclusive};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_base::{Error, Result};

use super::builds::EntryId;
use super::encodings::is_of_servers;
use crate::streams::StreamReader;

/// The minor archive versions of PostgreSQL 10 to 18.
pub(super) const MINOR_VERSIONS: RangeInclusive<u8> = 12..=16;
/// The head: magic, version, sizes of integers and offsets, format.
pub(super) const HEAD_BYTES: usize = 11;
const CUSTOM_FORMAT: u8 = 1;
/// An integer: a sign and four bytes.
pub(super) const INT_BYTES: usize = 5;
/// No list is longer: definitions of a hundred thousand tables are shorter.
const MAX_CONTENTS_BYTES: usize = 128 << 20;
/// Encodings in which names are the same bytes as in our queries.
const OUR_ENCODINGS: [&str; 2] = ["UTF8", "SQL_ASCII"];
/// Why an archive is refused.
const NOT_UNDERSTOOD: &str = "the list of contents of the archive is not understood";

/// One entry, as places in the list.
#[derive(Debug, Clone)]
pub(crate) struct ContentsEntry {
    /// Its number.
    pub(crate) id: i64,
    /// Pre-data, data or post-data; or [`NO_SECTION`].
    pub(crate) section: i64,
    /// All of it.
    whole: Range<usize>,
    /// What it is, such as `TABLE`.
    pub(crate) kind: Range<usize>,
    /// Its name.
    pub(crate) tag: Range<usize>,
    /// The schema that it is in; empty if it is in none.
    pub(crate) schema: Range<usize>,
    /// The statements that make it.
    pub(crate) definition: Range<usize>,
    /// The statement that drops it.
    pub(crate) drop: Range<usize>,
    /// The statement by which its rows are loaded.
    pub(crate) copy: Range<usize>,
    pub(crate) owner: Range<usize>,
    /// The numbers of what it needs, each as a string.
    needs: Range<usize>,
}

/// When an entry is loaded. Others are loaded with the entry before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Data = 3,
    PostData = 4,
}

/// The section of what belongs to the entry before it, such as a comment.
pub(crate) const NO_SECTION: i64 = 1;

impl ContentsEntry {
    /// The same entry where it begins at `start`. A field that is absent stays so.
    fn moved(&self, start: usize) -> Self {
        let from = self.whole.start;
        let moved = |field: &Range<usize>| match field.start {
            0 => 0..0,
            _ => field.start - from + start..field.end - from + start,
        };
        Self {
            id: self.id,
            section: self.section,
            whole: moved(&self.whole),
            kind: moved(&self.kind),
            tag: moved(&self.tag),
            schema: moved(&self.schema),
            definition: moved(&self.definition),
            drop: moved(&self.drop),
            copy: moved(&self.copy),
            owner: moved(&self.owner),
            needs: moved(&self.needs),
        }
    }

    /// Its number, as `pg_restore` takes it.
    pub(crate) fn number(&self) -> Option<EntryId> {
        EntryId::try_from(self.id).ok()
    }
}

/// What an entry is changed to.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) owner: Option<Vec<u8>>,
    pub(crate) definition: Option<Vec<u8>>,
}

/// The list of an archive.
pub(crate) struct Contents {
    bytes: Vec<u8>,
    pub(crate) entries: Vec<ContentsEntry>,
    /// The numbers of the entries, sorted, and where each stands in `entries`.
    numbers: Vec<(i64, usize)>,
    /// Where the number of entries stands.
    count: usize,
    /// Whether rows are compressed by the tool that wrote them.
    pub(crate) is_compressed: bool,
    /// What was read of the archive after the list.
    rest: Vec<u8>,
}

impl Contents {
    /// Reads `archive` up to the end of its list.
    ///
    /// # Errors
    /// Those of the stream; or it is no archive of a known version, or its list is too long.
    pub(crate) async fn read(archive: &mut dyn StreamReader) -> Result<Self> {
        let (mut bytes, mut list) = (Vec::new(), ContentsList::default());
        loop {
            let piece = archive.next().await?;
            bytes.extend_from_slice(piece.as_deref().unwrap_or_default());
            match list.go_on(&bytes) {
                Progress::End => break,
                Progress::More if piece.is_some() && bytes.len() < MAX_CONTENTS_BYTES => {}
                Progress::More if piece.is_some() => {
                    return Err(Error::integrity("the list of contents of the archive is too long")
                        .hint("restore it with --to-directory, and load it with pg_restore by hand"));
                }
                Progress::More => return Err(Error::integrity("the archive ends within its list of contents")),
                Progress::Unknown => {
                    return Err(Error::integrity(NOT_UNDERSTOOD)
                        .hint("a newer Lifeboat may read it; or restore it with --to-directory, and load it with pg_restore by hand"));
                }
            }
        }
        let rest = bytes.split_off(list.at);
        let (count, is_compressed) = list.head;
        let numbers = numbers(&list.entries);
        let contents = Self { bytes, entries: list.entries, numbers, count, is_compressed, rest };
        contents.check()?;
        Ok(contents)
    }

    /// The same archive with these entries alone. What lies behind the list stays as it is: the
    /// tool passes over rows that no entry names.
    pub(crate) fn with_only(self, kept: impl Fn(&Self, &ContentsEntry) -> bool) -> Self {
        let chosen: Vec<bool> = self.entries.iter().map(|entry| kept(&self, entry)).collect();
        let number = chosen.iter().filter(|chosen| **chosen).count();
        let first = self.entries.first().map_or(self.bytes.len(), |entry| entry.whole.start);
        let mut bytes = self.bytes[..first].to_vec();
        bytes[self.count + 1..self.count + INT_BYTES].copy_from_slice(&(number as u32).to_le_bytes());
        let mut entries = Vec::with_capacity(number);
        for (entry, _) in self.entries.iter().zip(chosen).filter(|(_, chosen)| *chosen) {
            entries.push(entry.moved(bytes.len()));
            bytes.extend_from_slice(&self.bytes[entry.whole.clone()]);
        }
        Self { bytes, numbers: numbers(&entries), entries, ..self }
    }

    /// The numbers of the entries that an entry needs.
    pub(crate) fn needs<'a>(&'a self, entry: &ContentsEntry) -> impl Iterator<Item = i64> + use<'a> {
        let mut fields = Fields { archive: &self.bytes, at: entry.needs.start, broken: false };
        std::iter::from_fn(move || {
            let number = fields.string().filter(|number| number.start > 0)?;
            Some(std::str::from_utf8(self.get(&number)).ok().and_then(|text| text.parse().ok()).unwrap_or_default())
        })
    }

    /// Refuses text that could mean something else to the server than to us.
    fn check(&self) -> Result<()> {
        for entry in &self.entries {
            let fields = [&entry.kind, &entry.tag, &entry.schema, &entry.owner];
            if fields.iter().any(|field| self.get(field).contains(&0)) {
                return Err(Error::integrity("a name in the archive holds a NUL"));
            }
        }
        let encodings: Vec<Option<&str>> = self.of_kind("ENCODING").map(|entry| self.encoding_of(entry)).collect();
        match encodings[..] {
            [] => Ok(()),
            [Some(name)] if is_of_servers(name) => Ok(()),
            _ => Err(Error::usage("the archive is in an encoding that no database has, or in several").hint(
                "restore it with --to-directory, and load it with pg_restore by hand; newer backups are in the encoding of their database",
            )),
        }
    }

    /// `UTF8` of `SET client_encoding = 'UTF8';`
    fn encoding_of(&self, entry: &ContentsEntry) -> Option<&str> {
        let set = std::str::from_utf8(self.get(&entry.definition)).ok()?;
        set.trim_end().strip_prefix("SET client_encoding = '")?.strip_suffix("';")
    }

    /// The bytes of a field.
    pub(crate) fn get(&self, field: &Range<usize>) -> &[u8] {
        self.bytes.get(field.clone()).unwrap_or_default()
    }

    /// The entry with this number.
    pub(crate) fn by_number(&self, id: i64) -> Option<&ContentsEntry> {
        let at = self.numbers.binary_search_by_key(&id, |(number, _)| *number).ok()?;
        self.entries.get(self.numbers[at].1)
    }

    /// The entries of a kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a ContentsEntry> {
        self.entries.iter().filter(move |entry| self.get(&entry.kind) == kind.as_bytes())
    }

    /// The entries about the database as a whole: how it is made, its owner, grants and settings.
    pub(crate) fn of_database(&self) -> impl Iterator<Item = &ContentsEntry> {
        self.entries.iter().filter(|entry| match self.get(&entry.kind) {
            b"DATABASE" | b"DATABASE PROPERTIES" => true,
            b"ACL" | b"COMMENT" | b"SECURITY LABEL" => self.get(&entry.tag).starts_with(b"DATABASE "),
            _ => false,
        })
    }

    /// The entries of a section.
    pub(crate) fn of_section(&self, section: Section) -> impl Iterator<Item = &ContentsEntry> {
        let mut current = NO_SECTION;
        self.entries.iter().filter(move |entry| {
            if entry.section != NO_SECTION {
                current = entry.section;
            }
            current == section as i64
        })
    }

    /// Kind, schema and name of the entry with this number.
    pub(crate) fn name_of(&self, id: i64) -> Option<String> {
        self.by_number(id).map(|entry| self.name(entry))
    }

    /// Kind, schema and name of an entry.
    pub(crate) fn name(&self, entry: &ContentsEntry) -> String {
        let text = |field| String::from_utf8_lossy(self.get(field)).into_owned();
        let (kind, schema, tag) = (text(&entry.kind), text(&entry.schema), text(&entry.tag));
        if ["CAST", "USER MAPPING"].contains(&kind.as_str()) {
            // Their tags say the kind themselves.
            return tag;
        }
        if schema.is_empty() { format!("{kind} {tag}") } else { format!("{kind} {schema}.{tag}") }
    }

    /// The encoding of all text in the archive, as PostgreSQL names it.
    pub(crate) fn encoding(&self) -> String {
        self.of_kind("ENCODING").next().and_then(|entry| self.encoding_of(entry)).unwrap_or("UTF8").to_owned()
    }

    /// Whether its names are the same bytes as in our queries.
    pub(crate) fn is_comparable(&self) -> bool {
        OUR_ENCODINGS.contains(&self.encoding().as_str())
    }

    /// The beginning of the archive, with each entry changed as `change` says.
    pub(crate) fn changed(&self, mut change: impl FnMut(&ContentsEntry) -> Change) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len());
        let mut from = 0;
        for entry in &self.entries {
            let Change { owner, definition } = change(entry);
            for (field, new) in [(&entry.definition, definition), (&entry.owner, owner)] {
                // A field that is absent is not changed.
                let Some(new) = new.filter(|_| field.start > 0) else { continue };
                out.extend_from_slice(&self.bytes[from..field.start - INT_BYTES]);
                out.push(0);
                out.extend((new.len() as u32).to_le_bytes());
                out.extend(new);
                from = field.end;
            }
        }
        out.extend_from_slice(&self.bytes[from..]);
        out
    }

    /// Takes what of the archive was read after the list.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }
}

fn numbers(entries: &[ContentsEntry]) -> Vec<(i64, usize)> {
    let mut numbers: Vec<(i64, usize)> = entries.iter().enumerate().map(|(at, entry)| (entry.id, at)).collect();
    numbers.sort_unstable();
    numbers
}

/// An archive whose beginning was read: `pieces`, then the rest of `archive`.
pub(crate) struct Resumed<'a> {
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) archive: &'a mut dyn StreamReader,
}

#[async_trait]
impl StreamReader for Resumed<'_> {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.pieces.is_empty() {
            let piece = self.pieces.remove(0);
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
        }
        self.archive.next().await
    }
}

/// How far a list was read.
pub(super) enum Progress {
    End,
    More,
    Unknown,
}

/// A list of which more may come.
#[derive(Default)]
pub(super) struct ContentsList {
    entries: Vec<ContentsEntry>,
    /// How many entries there are; `None` before the head was read.
    count: Option<i64>,
    /// Where the count stands, and whether rows are compressed.
    head: (usize, bool),
    /// Where the next entry begins.
    pub(super) at: usize,
}

impl ContentsList {
    /// Reads on in an archive that begins with `archive`.
    pub(super) fn go_on(&mut self, archive: &[u8]) -> Progress {
        let Some(head) = archive.get(..HEAD_BYTES) else { return Progress::More };
        let known = head.starts_with(b"PGDMP\x01") && MINOR_VERSIONS.contains(&head[6]);
        if !known || head[8..] != [INT_BYTES as u8 - 1, 8, CUSTOM_FORMAT] {
            return Progress::Unknown;
        }
        let minor = head[6];
        if self.count.is_none() {
            let mut fields = Fields { archive, at: HEAD_BYTES, broken: false };
            let Some((count, compressed)) = fields.head(minor) else { return fields.progress() };
            (self.count, self.at) = (Some(count), fields.at);
            self.head = (fields.at - INT_BYTES, compressed);
        }
        while (self.entries.len() as i64) < self.count.unwrap_or_default() {
            let mut fields = Fields { archive, at: self.at, broken: false };
            let Some(entry) = fields.entry(minor) else { return fields.progress() };
            self.entries.push(entry);
            self.at = fields.at;
        }
        Progress::End
    }
}

struct Fields<'a> {
    archive: &'a [u8],
    at: usize,
    /// Whether a number was found that `pg_restore` would take for another.
    broken: bool,
}

impl Fields<'_> {
    /// Why a field could not be read.
    fn progress(&self) -> Progress {
        if self.broken { Progress::Unknown } else { Progress::More }
    }

    /// Compression; seconds to the year and whether it is summer; database and versions. Returns
    /// the number of entries, and whether rows are compressed.
    fn head(&mut self, minor: u8) -> Option<(i64, bool)> {
        let compressed = if minor >= 15 {
            self.skip(1)?;
            self.archive.get(self.at - 1) != Some(&0)
        } else {
            self.int()? != 0
        };
        (0..7).try_for_each(|_| self.int().map(drop))?;
        (0..3).try_for_each(|_| self.string().map(drop))?;
        let count = self.int()?;
        self.broken = count < 0;
        (!self.broken).then_some((count, compressed))
    }

    fn entry(&mut self, minor: u8) -> Option<ContentsEntry> {
        let begin = self.at;
        // Whether it has data; catalogue and object.
        let id = self.int()?;
        self.int()?;
        (0..2).try_for_each(|_| self.string().map(drop))?;
        let (tag, kind) = (self.string()?, self.string()?);
        let section = self.int()?;
        let (definition, dropped_by, copy) = (self.string()?, self.string()?, self.string()?);
        let schema = self.string()?;
        // Tablespace; access method; kind of relation.
        (0..1 + usize::from(minor >= 14)).try_for_each(|_| self.string().map(drop))?;
        if minor >= 16 {
            self.int()?;
        }
        let owner = self.string()?;
        // Whether it had OIDs; dependencies; where its data is.
        self.string()?;
        let first_needed = self.at;
        while self.string()?.start > 0 {}
        let needs = first_needed..self.at;
        self.skip(1 + 8)?;
        let whole = begin..self.at;
        Some(ContentsEntry { id, section, whole, kind, tag, schema, definition, drop: dropped_by, copy, owner, needs })
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.at = self.at.checked_add(length).filter(|at| *at <= self.archive.len())?;
        Some(())
    }

    fn int(&mut self) -> Option<i64> {
        let [sign, value @ ..] = *self.archive.get(self.at..)?.first_chunk::<INT_BYTES>()?;
        self.at += INT_BYTES;
        let Ok(value) = i32::try_from(u32::from_le_bytes(value)) else {
            self.broken = true;
            return None;
        };
        Some(i64::from(if sign == 0 { value } else { -value }))
    }

    /// Where a string is. One that is absent begins and ends at 0.
    fn string(&mut self) -> Option<Range<usize>> {
        let length = self.int()?;
        let begin = self.at;
        let Ok(length) = usize::try_from(length) else { return Some(0..0) };
        self.skip(length)?;
        Some(begin..self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(texts: &[(&str, &str)]) -> Contents {
        let (mut bytes, mut entries) = (vec![0], Vec::new());
        for (kind, text) in texts {
            let mut field = |text: &str| {
                let begin = bytes.len();
                bytes.extend(text.bytes());
                begin..bytes.len()
            };
            let (kind, text) = (field(kind), field(text));
            let (tag, definition) = (text.clone(), text);
            entries.push(ContentsEntry {
                id: 1,
                section: NO_SECTION,
                whole: 0..0,
                kind,
                tag,
                schema: 0..0,
                definition,
                drop: 0..0,
                copy: 0..0,
                owner: 0..0,
                needs: 0..0,
            });
        }
        Contents { bytes, numbers: Vec::new(), entries, count: 0, is_compressed: false, rest: Vec::new() }
    }

    #[test]
    fn a_count_that_pg_restore_would_read_as_another_is_not_understood() {
        let progress = |count: [u8; INT_BYTES]| {
            let (zero, absent) = ([0, 0, 0, 0, 0], [1, 1, 0, 0, 0]);
            let fields = [zero; 7].into_iter().chain([absent; 3]).chain([count]).flatten();
            let archive: Vec<u8> = b"PGDMP\x01\x10\x00\x04\x08\x01\x00".iter().copied().chain(fields).collect();
            ContentsList::default().go_on(&archive)
        };
        assert!(matches!(progress([0, 0, 0, 0, 0]), Progress::End));
        assert!(matches!(progress([0, 1, 0, 0, 0]), Progress::More));
        assert!(matches!(progress([1, 1, 0, 0, 0]), Progress::Unknown));
        assert!(matches!(progress([0, 0, 0, 0, 0x80]), Progress::Unknown));
    }

    #[test]
    fn an_archive_whose_bytes_could_end_a_quoted_text_is_refused() {
        let set = |name: &str| format!("SET client_encoding = '{name}';\n");
        for good in ["UTF8", "LATIN1", "EUC_JP", "SQL_ASCII"] {
            let archive = archive(&[("ENCODING", &set(good))]);
            assert!(archive.check().is_ok() && archive.encoding() == good, "{good}");
        }
        assert_eq!(archive(&[]).encoding(), "UTF8");
        for bad in ["SJIS", "BIG5", "GBK", "UHC", "JOHAB", "GB18030", "SHIFT_JIS_2004", "utf8", "", "UTF8'; x '"] {
            assert!(archive(&[("ENCODING", &set(bad))]).check().is_err(), "{bad}");
        }
        let (one, other) = (set("UTF8"), set("LATIN1"));
        assert!(archive(&[("ENCODING", &one), ("ENCODING", &other)]).check().is_err());
        assert!(archive(&[("TABLE", "a\0b")]).check().is_err());
    }
}
