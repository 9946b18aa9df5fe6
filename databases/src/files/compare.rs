//! Compares a restored tree with the archive that it came from, entry by entry.
//!
//! Both have the same order, so neither is held: memory does not grow with the tree. The restored
//! side is what a new walk finds, and a new reading of each file.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use lifeboat_base::{Class, Context, Result};

use super::decode::{ArchiveReader, MAX_CONTENT_PIECE_BYTES};
use super::entry::{Entry, EntryKind, FileOwner, order, shown};
use super::owners::OwnerNames;
use super::reduced::{Reduced, reduced};
use super::sparse::DataMap;
use super::walk::{Found, Walk, WalkRules, WalkStep};
use crate::wanted::TreeWanted;

/// So many differences are told one by one.
const MAX_TOLD_DIFFERENCES: usize = 50;
/// Content is hashed in blocks of this length.
const HASHED_BLOCK_BYTES: usize = 64 << 10;

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct ComparedTrees {
    /// How many entries the archive has.
    pub(super) entries: u64,
    /// In plain words: the first ones, and how many more there are.
    pub(super) differences: Vec<String>,
    /// Entries that were compared without what a restore leaves out.
    pub(super) special: u64,
    pub(super) lists: u64,
    pub(super) devices: u64,
}

/// A walk through a restored tree sees all of it.
pub(super) struct OwnTree;

impl WalkRules for OwnTree {
    fn leaves_out(&self, _: &[u8], _: bool) -> bool {
        false
    }

    fn one_file_system(&self) -> bool {
        false
    }

    fn opens_by_force(&self) -> bool {
        true
    }
}

/// An entry, and what its file holds.
struct Image {
    entry: Entry,
    content: Option<blake3::Hash>,
}

/// Compares the tree below `root`, as a restore of `wanted` made it, with the archive.
pub(super) fn compare(from: impl Read, root: OwnedFd, wanted: &TreeWanted) -> Result<ComparedTrees> {
    let failed = || "cannot read the restored tree";
    let owners = OwnerNames::here();
    let mut stored = StoredEntries { archive: ArchiveReader::new(from), ahead: None };
    let mut walk = Walk::new(root, &OwnTree, OwnerNames::default()).context(Class::Source, failed)?;
    let mut told = ToldDifferences { compared: ComparedTrees::default(), more: 0 };
    let mut restored = found(&mut walk, &mut told).context(Class::Source, failed)?;
    while let Some(mut image) = stored.next()? {
        told.compared.entries += 1;
        if is_device(&image.entry) && !wanted.special {
            told.compared.devices += 1;
            continue;
        }
        let Reduced { mut entry, lost_special, lost_list } = reduced(&image.entry, wanted);
        told.compared.special += u64::from(lost_special);
        told.compared.lists += u64::from(lost_list);
        let (uid, gid) = owners.numbers(&entry.ownership);
        entry.ownership = FileOwner { uid, gid, ..FileOwner::default() };
        image.entry = entry;
        while let Some(extra) = restored.take_if(|it| order(&it.entry.path, &image.entry.path) == Ordering::Less) {
            told.add(format!("{}: only in the restored tree", shown(&extra.entry.path)));
            restored = found(&mut walk, &mut told).context(Class::Source, failed)?;
        }
        match restored.take_if(|it| it.entry.path == image.entry.path) {
            Some(same) => {
                for what in differences(&image, &same, wanted) {
                    told.add(format!("{}: {what}", shown(&image.entry.path)));
                }
                restored = found(&mut walk, &mut told).context(Class::Source, failed)?;
            }
            None => told.add(format!("{}: missing in the restored tree", shown(&image.entry.path))),
        }
    }
    while let Some(extra) = restored {
        told.add(format!("{}: only in the restored tree", shown(&extra.entry.path)));
        restored = found(&mut walk, &mut told).context(Class::Source, failed)?;
    }
    if told.more > 0 {
        told.compared.differences.push(format!("… and {} more", told.more));
    }
    Ok(told.compared)
}

/// Differences, of which only the first are held.
struct ToldDifferences {
    compared: ComparedTrees,
    more: u64,
}

impl ToldDifferences {
    fn add(&mut self, difference: String) {
        match self.compared.differences.len() < MAX_TOLD_DIFFERENCES {
            true => self.compared.differences.push(difference),
            false => self.more += 1,
        }
    }
}

fn is_device(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::CharacterDevice { .. } | EntryKind::BlockDevice { .. })
}

/// In which ways two entries of one path differ.
fn differences(stored: &Image, restored: &Image, wanted: &TreeWanted) -> Vec<String> {
    let (a, b) = (&stored.entry, &restored.entry);
    if std::mem::discriminant(&a.kind) != std::mem::discriminant(&b.kind) {
        return vec![format!("{} stored, {} restored", word(&a.kind), word(&b.kind))];
    }
    let mut found = Vec::new();
    let is_link = matches!(a.kind, EntryKind::Link { .. });
    if a.kind != b.kind {
        found.push(match (&a.kind, &b.kind) {
            (EntryKind::Link { target: a }, EntryKind::Link { target: b })
            | (EntryKind::SameAs { path: a }, EntryKind::SameAs { path: b }) => {
                format!("leads to {} stored, to {} restored", shown(a), shown(b))
            }
            (EntryKind::File { length: a }, EntryKind::File { length: b }) => {
                format!("{a} bytes stored, {b} restored")
            }
            _ => "another device is restored".to_owned(),
        });
    } else if stored.content != restored.content {
        found.push("content differs".to_owned());
    }
    // All else belongs to the file, and was compared under its first name.
    if matches!(a.kind, EntryKind::SameAs { .. }) {
        return found;
    }
    if a.mode != b.mode && !is_link {
        found.push(format!("mode {:o} stored, {:o} restored", a.mode, b.mode));
    }
    if wanted.owners && a.ownership != b.ownership {
        let ids = |of: &FileOwner| format!("{}:{}", of.uid, of.gid);
        found.push(format!("owner {} stored, {} restored", ids(&a.ownership), ids(&b.ownership)));
    }
    if a.modified != b.modified {
        found.push("time of modification differs".to_owned());
    }
    let names = a.attributes.keys().chain(b.attributes.keys().filter(|name| !a.attributes.contains_key(*name)));
    for name in names.filter(|name| a.attributes.get(*name) != b.attributes.get(*name)) {
        found.push(format!("attribute {} differs", shown(name)));
    }
    found
}

fn word(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Folder => "a folder",
        EntryKind::File { .. } => "a file",
        EntryKind::SameAs { .. } => "another name of a file",
        EntryKind::Link { .. } => "a symbolic link",
        EntryKind::Pipe => "a pipe",
        EntryKind::CharacterDevice { .. } => "a character device",
        EntryKind::BlockDevice { .. } => "a block device",
    }
}

/// The entries of an archive. Of a file that comes again, the last one.
struct StoredEntries<R> {
    archive: ArchiveReader<R>,
    ahead: Option<Image>,
}

impl<R: Read> StoredEntries<R> {
    fn next(&mut self) -> Result<Option<Image>> {
        let Some(mut image) = self.ahead.take().map_or_else(|| self.read(), |image| Ok(Some(image)))? else {
            return Ok(None);
        };
        while let Some(next) = self.read()? {
            if next.entry.path != image.entry.path {
                self.ahead = Some(next);
                break;
            }
            image = next;
        }
        Ok(Some(image))
    }

    fn read(&mut self) -> Result<Option<Image>> {
        let Some(entry) = self.archive.next()? else { return Ok(None) };
        let mut digest = ContentDigest::default();
        while let Some((offset, piece)) = self.archive.piece()? {
            digest.add(offset, piece);
        }
        let content = matches!(entry.kind, EntryKind::File { .. }).then(|| digest.finish());
        Ok(Some(Image { entry, content }))
    }
}

/// The next entry of the restored tree. What cannot be one is a difference.
fn found(walk: &mut Walk<'_, OwnTree>, told: &mut ToldDifferences) -> io::Result<Option<Image>> {
    loop {
        match walk.next()? {
            None => return Ok(None),
            Some(WalkStep::Entry(found)) => {
                let Found { mut entry, file, .. } = *found;
                if matches!(entry.kind, EntryKind::Link { .. }) {
                    entry.mode = 0;
                }
                let content = match (&file, &entry.kind) {
                    (Some(file), EntryKind::File { length }) => Some(digest_of(file, *length)?),
                    _ => None,
                };
                return Ok(Some(Image { entry, content }));
            }
            Some(WalkStep::Unreadable { path, why }) => told.add(format!("{}: cannot be read ({why})", shown(&path))),
            Some(WalkStep::Socket { path }) => told.add(format!("{}: only in the restored tree", shown(&path))),
            Some(WalkStep::OtherFileSystem { .. }) => {}
        }
    }
}

fn digest_of(file: &File, length: u64) -> io::Result<blake3::Hash> {
    let (mut digest, mut piece) = (ContentDigest::default(), vec![0; MAX_CONTENT_PIECE_BYTES.min(length as usize)]);
    for (mut at, data) in DataMap::of(file, length)?.pieces() {
        let end = at + data;
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
            file.read_exact_at(&mut piece[..part], at)?;
            digest.add(at, &piece[..part]);
            at += part as u64;
        }
    }
    Ok(digest.finish())
}

/// A hash of content that does not depend on where its holes are: blocks of nothing but zeros, and
/// zeros at the end of a block, do not count. The length is compared beside it.
struct ContentDigest {
    hasher: blake3::Hasher,
    block: Vec<u8>,
    index: u64,
}

impl Default for ContentDigest {
    fn default() -> Self {
        Self { hasher: blake3::Hasher::new(), block: Vec::new(), index: 0 }
    }
}

impl ContentDigest {
    /// Adds the bytes at `offset`, which is not before those that were added.
    fn add(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (index, within) = (offset / HASHED_BLOCK_BYTES as u64, (offset % HASHED_BLOCK_BYTES as u64) as usize);
            if index != self.index {
                self.close();
                self.index = index;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(HASHED_BLOCK_BYTES - within));
            self.block.resize(within, 0);
            self.block.extend_from_slice(part);
            offset += part.len() as u64;
            bytes = rest;
        }
    }

    fn close(&mut self) {
        let length = self.block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if length > 0 {
            self.hasher.update(&self.index.to_le_bytes()).update(&(length as u64).to_le_bytes());
            self.hasher.update(&self.block[..length]);
        }
        self.block.clear();
    }

    fn finish(mut self) -> blake3::Hash {
        self.close();
        self.hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(pieces: &[(u64, &[u8])]) -> blake3::Hash {
        let mut digest = ContentDigest::default();
        pieces.iter().for_each(|(offset, bytes)| digest.add(*offset, bytes));
        digest.finish()
    }

    #[test]
    fn holes_do_not_matter_and_places_do() {
        let zeros = vec![0; 3 * HASHED_BLOCK_BYTES];
        let far = 2 * HASHED_BLOCK_BYTES as u64 + 7;
        assert_eq!(digest(&[]), digest(&[(0, &zeros)]));
        assert_eq!(digest(&[(far, b"x")]), digest(&[(0, &zeros[..far as usize]), (far, b"x\0\0")]));
        assert_eq!(digest(&[(5, b"ab")]), digest(&[(5, b"a"), (6, b"b")]));
        assert_ne!(digest(&[(5, b"ab")]), digest(&[(6, b"ab")]));
        assert_ne!(digest(&[(far, b"x")]), digest(&[(far + HASHED_BLOCK_BYTES as u64, b"x")]));
    }
}
