//! Reads the archive that a capture wrote, and believes nothing of it.
//!
//! A snapshot's writer may be hostile. So a member counts only if it is byte for byte what
//! [`encode`](super::encode) makes of its entry; if its path lies in the tree, after the path
//! before it; and if the folder that holds it came before, as a folder. So no member is written
//! through a link, none appears twice, and nothing depends on how a reader takes odd archives. A
//! file alone may come again right after itself: then it changed while it was read, and the last
//! one counts.
//!
//! Of a part of an archive, as it is read for some paths, members may lack the folder that holds
//! them. A restore makes nothing of these, as it makes nothing outside of folders that it made.
//!
//! Memory is bounded whatever the archive says: by [`MAX_RECORDS_BYTES`], [`MAX_MAP_BYTES`], the
//! depth of paths, and the bytes of attributes of the folders that a member lies in.

use std::cmp::Ordering;
use std::io::{ErrorKind, Read};

use lifeboat_base::{Class, Error, Result};
use tar::{EntryType, Header};

use super::encode::{
    ACCESS_ACL_RECORD, ARCHIVE_END_BYTES, ATTRIBUTE_RECORD, DEFAULT_ACL_RECORD, MAX_RECORDS_BYTES, member, padding,
    unescaped,
};
use super::entry::{
    ACCESS_ACL, DEFAULT_ACL, Entry, EntryKind, FileOwner, MODE_BITS, Modified, held_attributes, is_kept, is_within,
    order, parent, problem_of_path, problem_of_target, shown,
};
use super::sparse::{DataMap, MAX_MAP_BYTES, MapReader};
use super::{BLOCK_BYTES, acl};

const TREE_HINT: &str = "restore another snapshot, or this one with --stdout tree, and see what tar makes of it";

/// Content is given out in pieces of at most this length.
pub(super) const MAX_CONTENT_PIECE_BYTES: usize = 256 << 10;

/// Something that is no archive of ours.
fn damaged(what: impl AsRef<str>) -> Error {
    Error::integrity(format!("the archive of the tree is not as a capture writes it: {}", what.as_ref()))
        .hint(TREE_HINT)
}

/// A folder that the next member may be in.
struct PossibleFolder {
    path: Vec<u8>,
    /// Bytes of attributes of it and of all that it lies in.
    held_bytes: usize,
}

/// An archive that is being read.
pub(super) struct ArchiveReader<R> {
    from: R,
    /// The path of the member before.
    path: Vec<u8>,
    /// Whether the member before is a file, so that it may come again.
    repeats: bool,
    /// The folders that the next member may be in, from the root on; none before the root came.
    folders: Vec<PossibleFolder>,
    /// Data of this member that was not given out yet, the last piece first.
    left: Vec<(u64, u64)>,
    /// What follows this data.
    padding: usize,
    /// Whether the end was read.
    has_ended: bool,
    /// Whether members between those that are there may be missing, and the end, too.
    is_part: bool,
    buffer: Vec<u8>,
}

impl<R: Read> ArchiveReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            path: Vec::new(),
            repeats: false,
            folders: Vec::new(),
            left: Vec::new(),
            padding: 0,
            has_ended: false,
            is_part: false,
            buffer: vec![0; MAX_CONTENT_PIECE_BYTES],
        }
    }

    /// Reads parts of an archive, each of whole members, in order. Members are given whose folder
    /// is in none of them, too: it is for the caller to make nothing of these.
    pub(super) fn of_part(from: R) -> Self {
        Self { is_part: true, ..Self::new(from) }
    }

    /// The next entry; `None` after the last, once the stream was read to its checked end. What is
    /// left of the content before is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        if self.has_ended {
            return Ok(None);
        }
        while self.piece()?.is_some() {}
        let Some(first) = self.first_block()? else {
            self.has_ended = true;
            return Ok(None);
        };
        let mut raw = first.to_vec();
        if raw.iter().all(|byte| *byte == 0) {
            return self.end().map(|()| None);
        }
        let mut records = Vec::new();
        if Header::from_byte_slice(&raw).entry_type() == EntryType::XHeader {
            let length = number_of(Header::from_byte_slice(&raw).entry_size())?;
            let length = usize::try_from(length).ok().filter(|length| (1..=MAX_RECORDS_BYTES).contains(length));
            let length = length.ok_or_else(|| damaged("the records of a member are too long"))?;
            for _ in 0..length.div_ceil(BLOCK_BYTES) {
                raw.extend_from_slice(self.block()?);
            }
            records = raw[BLOCK_BYTES..BLOCK_BYTES + length].to_vec();
            raw.extend_from_slice(self.block()?);
        }
        let header = Header::from_byte_slice(&raw[raw.len() - BLOCK_BYTES..]).clone();
        let told = MemberRecords::of(&header, &records)?;
        let mut entry = told.entry(&header)?;
        let data = match (&mut entry.kind, told.real_length) {
            (EntryKind::File { length }, Some(real)) => {
                *length = real;
                self.map(&mut raw, real, &entry.path)?
            }
            (EntryKind::File { length }, None) => DataMap::whole(*length),
            _ => DataMap::default(),
        };
        if member(&entry, &data).ok().as_deref() != Some(&raw) {
            return Err(damaged(format!("the member {} is written otherwise", shown(&entry.path))));
        }
        self.place(&entry)?;
        self.padding = padding(data.bytes());
        self.left = data.pieces().collect();
        self.left.reverse();
        Ok(Some(entry))
    }

    /// The next piece of the content, and where in the file it is; `None` at its end. What no piece
    /// holds is zeros.
    pub(super) fn piece(&mut self) -> Result<Option<(u64, &[u8])>> {
        let Some((offset, length)) = self.left.pop() else {
            let rest = std::mem::take(&mut self.padding);
            read_exact(&mut self.from, &mut self.buffer[..rest])?;
            if self.buffer[..rest].iter().any(|byte| *byte != 0) {
                return Err(damaged("what stands between two members is not empty"));
            }
            return Ok(None);
        };
        let part = length.min(MAX_CONTENT_PIECE_BYTES as u64);
        if part < length {
            self.left.push((offset + part, length - part));
        }
        let into = &mut self.buffer[..part as usize];
        read_exact(&mut self.from, into)?;
        Ok(Some((offset, into)))
    }

    /// The first block of a member; `None` if a part ends before it.
    fn first_block(&mut self) -> Result<Option<&[u8; BLOCK_BYTES]>> {
        if self.is_part {
            let (first, rest) = self.buffer[..BLOCK_BYTES].split_at_mut(1);
            if self.from.read(first).map_err(unreadable)? == 0 {
                return Ok(None);
            }
            read_exact(&mut self.from, rest)?;
            return Ok(self.buffer.first_chunk());
        }
        self.block().map(Some)
    }

    fn block(&mut self) -> Result<&[u8; BLOCK_BYTES]> {
        read_exact(&mut self.from, &mut self.buffer[..BLOCK_BYTES])?;
        self.buffer.first_chunk().ok_or_else(|| damaged("a block is missing"))
    }

    /// The map of holes before the content.
    fn map(&mut self, raw: &mut Vec<u8>, length: u64, path: &[u8]) -> Result<DataMap> {
        let refused = |why: &str| damaged(format!("{}: {why}", shown(path)));
        let mut reader = MapReader::default();
        for _ in 0..MAX_MAP_BYTES / BLOCK_BYTES {
            let block = self.block()?;
            raw.extend_from_slice(block);
            if reader.take(block).map_err(refused)? {
                return reader.finish(length).map_err(refused);
            }
        }
        Err(refused("its map of holes is too long"))
    }

    /// Makes sure that the member may come here.
    fn place(&mut self, entry: &Entry) -> Result<()> {
        let refused = |why: &str| Err(damaged(format!("the member {}: {why}", shown(&entry.path))));
        let is_file = matches!(entry.kind, EntryKind::File { .. });
        let Some(holder) = parent(&entry.path) else {
            let is_first = self.folders.is_empty() && entry.kind == EntryKind::Folder;
            self.enter(entry)?;
            return if is_first { Ok(()) } else { refused("the root comes once, first, and is a folder") };
        };
        match order(&self.path, &entry.path) {
            Ordering::Less => {}
            Ordering::Equal if self.repeats && is_file => {}
            _ => return refused("it comes after one that it should come before"),
        }
        while self.folders.last().is_some_and(|folder| !is_within(holder, &folder.path)) {
            self.folders.pop();
        }
        let has_holder = self.folders.last().is_some_and(|folder| folder.path == holder);
        if !has_holder && !self.is_part {
            return refused("no folder came before that it could be in");
        }
        if let EntryKind::SameAs { path } = &entry.kind
            && (path.is_empty() || problem_of_path(path).is_some() || order(path, &entry.path) != Ordering::Less)
        {
            return refused("it is another name of what did not come before");
        }
        if entry.kind == EntryKind::Folder && has_holder {
            self.enter(entry)?;
        }
        self.path.clone_from(&entry.path);
        self.repeats = is_file;
        Ok(())
    }

    /// Lets members be in this folder.
    fn enter(&mut self, folder: &Entry) -> Result<()> {
        let before = self.folders.last().map_or(0, |folder| folder.held_bytes);
        let held = held_attributes(before, &folder.attributes);
        let held_bytes = held.map_err(|why| damaged(format!("the member {}: {why}", shown(&folder.path))))?;
        self.folders.push(PossibleFolder { path: folder.path.clone(), held_bytes });
        Ok(())
    }

    /// The second block of the end, and then nothing.
    fn end(&mut self) -> Result<()> {
        let rest = ARCHIVE_END_BYTES - BLOCK_BYTES;
        read_exact(&mut self.from, &mut self.buffer[..rest])?;
        if self.folders.is_empty() || self.buffer[..rest].iter().any(|byte| *byte != 0) {
            return Err(damaged("it does not end as an archive does"));
        }
        match self.from.read(&mut self.buffer[..1]).map_err(unreadable)? {
            0 => {
                self.has_ended = true;
                Ok(())
            }
            _ => Err(damaged("there is something after its end")),
        }
    }
}

fn read_exact(from: &mut impl Read, into: &mut [u8]) -> Result<()> {
    from.read_exact(into).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => unreadable(error),
    })
}

/// The stream cannot be read. That says nothing about what is in it, unless the error does.
fn unreadable(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::new(Class::Source, "cannot read the archive of the tree").because(error),
    }
}

fn number_of(read: std::io::Result<u64>) -> Result<u64> {
    read.map_err(|_| damaged("the header of a member holds no number where one should be"))
}

/// What the records of a member say. What they must not say shows when the member is written again.
#[derive(Default)]
struct MemberRecords<'a> {
    path: Option<&'a [u8]>,
    target: Option<&'a [u8]>,
    real_length: Option<u64>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    user: Option<&'a [u8]>,
    group: Option<&'a [u8]>,
    modified: Option<Modified>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> MemberRecords<'a> {
    fn of(header: &Header, mut records: &'a [u8]) -> Result<Self> {
        let mut told = Self::default();
        let refused = |key: &[u8]| damaged(format!("the record `{}` is not usable", shown(key)));
        while !records.is_empty() {
            let blank = records.iter().take(8).position(|byte| *byte == b' ');
            let length = blank.and_then(|at| number(&records[..at]).map(|length| (at + 1, length as usize)));
            let Some((begin, length)) = length.filter(|(begin, length)| (begin + 1..=records.len()).contains(length))
            else {
                return Err(damaged("the records of a member have no length"));
            };
            let (record, rest) = (&records[begin..length - 1], &records[length..]);
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(|| refused(record))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let small = || number(value).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| refused(key));
            let list = || {
                let text = std::str::from_utf8(value).ok();
                text.and_then(acl::of_text).ok_or_else(|| refused(key))
            };
            match key {
                b"path" | b"GNU.sparse.name" => told.path = Some(value),
                b"linkpath" => told.target = Some(value),
                b"size" => told.size = Some(number(value).ok_or_else(|| refused(key))?),
                b"GNU.sparse.realsize" => told.real_length = Some(number(value).ok_or_else(|| refused(key))?),
                b"GNU.sparse.major" | b"GNU.sparse.minor" => {}
                b"uid" => told.uid = Some(small()?),
                b"gid" => told.gid = Some(small()?),
                b"uname" => told.user = Some(value),
                b"gname" => told.group = Some(value),
                b"mtime" => told.modified = Some(time_of(value).ok_or_else(|| refused(key))?),
                ACCESS_ACL_RECORD => told.attributes.push((ACCESS_ACL.to_vec(), list()?)),
                DEFAULT_ACL_RECORD => told.attributes.push((DEFAULT_ACL.to_vec(), list()?)),
                key => {
                    let name = key.strip_prefix(ATTRIBUTE_RECORD).map(unescaped).filter(|name| is_kept(name));
                    let name = name.filter(|name| !name.contains(&0)).ok_or_else(|| refused(key))?;
                    told.attributes.push((name, value.to_vec()));
                }
            }
            records = rest;
        }
        if told.real_length.is_some() && header.entry_type() != EntryType::Regular {
            return Err(damaged("what is no file has holes"));
        }
        Ok(told)
    }

    fn entry(&self, header: &Header) -> Result<Entry> {
        let fields = header.as_ustar().ok_or_else(|| damaged("the header of a member is none"))?;
        let mut path = self.path.unwrap_or_else(|| field(&fields.name)).to_vec();
        let target = self.target.unwrap_or_else(|| field(&fields.linkname)).to_vec();
        let device = || Ok::<_, Error>((device_number(fields.device_major())?, device_number(fields.device_minor())?));
        let kind = match header.entry_type() {
            EntryType::Directory => {
                if path.pop() != Some(b'/') {
                    return Err(damaged("the name of a folder does not end with a /"));
                }
                if path == b"." {
                    path.clear();
                }
                EntryKind::Folder
            }
            EntryType::Regular => {
                let length = self.size.map_or_else(|| number_of(header.size()), Ok)?;
                if length.max(self.real_length.unwrap_or_default()) > i64::MAX as u64 {
                    return Err(damaged("a file is longer than any file can be"));
                }
                EntryKind::File { length }
            }
            EntryType::Link => EntryKind::SameAs { path: target },
            EntryType::Symlink => EntryKind::Link { target },
            EntryType::Fifo => EntryKind::Pipe,
            EntryType::Char => device().map(|(major, minor)| EntryKind::CharacterDevice { major, minor })?,
            EntryType::Block => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            _ => return Err(damaged("a member is of a kind that this version does not know")),
        };
        let problem = match &kind {
            EntryKind::Link { target } => problem_of_target(target),
            EntryKind::Folder => None,
            _ if path.is_empty() => Some("it has no name"),
            _ => None,
        };
        if let Some(problem) = problem_of_path(&path).or(problem) {
            return Err(damaged(format!("the member {}: {problem}", shown(&path))));
        }
        let id = |told: Option<u32>, read: std::io::Result<u64>| match told {
            Some(id) => Ok(id),
            None => u32::try_from(number_of(read)?).map_err(|_| damaged("an owner's number is too large")),
        };
        let name = |told: Option<&[u8]>, field: &[u8]| {
            let name = String::from_utf8(told.unwrap_or(field).to_vec()).ok().filter(|name| !name.contains('\0'));
            name.ok_or_else(|| damaged("an owner's name is no text"))
        };
        let modified = match self.modified {
            Some(modified) => modified,
            // At most eleven octal digits, or the member is written otherwise.
            None => Modified { seconds: number_of(header.mtime())?.cast_signed(), nanoseconds: 0 },
        };
        Ok(Entry {
            kind,
            path,
            mode: header.mode().map_err(|_| damaged("a mode is no number"))? & MODE_BITS,
            ownership: FileOwner {
                uid: id(self.uid, header.uid())?,
                gid: id(self.gid, header.gid())?,
                user: name(self.user, field(&fields.uname))?,
                group: name(self.group, field(&fields.gname))?,
            },
            modified,
            attributes: self.attributes.iter().cloned().collect(),
        })
    }
}

/// What stands in a field before its first NUL.
fn field(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn device_number(read: std::io::Result<u32>) -> Result<u32> {
    read.map_err(|_| damaged("the number of a device is none"))
}

/// Digits, and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What `time_text` writes. Another form of the same time shows when the member is written again.
fn time_of(text: &[u8]) -> Option<Modified> {
    let (is_negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next()?)?).ok()?;
    let nanoseconds = match parts.next() {
        None => 0,
        Some(part) if part.len() == 9 => u32::try_from(number(part)?).ok()?,
        Some(_) => return None,
    };
    Some(match (is_negative, nanoseconds) {
        (false, _) => Modified { seconds, nanoseconds },
        (true, 0) => Modified { seconds: -seconds, nanoseconds },
        (true, _) => Modified { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}
