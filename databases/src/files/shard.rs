//! Where a tree is cut into streams, what they are called, and what tells that one need not be
//! read.
//!
//! A tree is cut where the hash of a path says so, so an entry that comes or goes moves no other
//! cut than its own. Large entries make a cut more likely, and a huge file stands alone. The pieces
//! are bounded, but for the one file.
//!
//! A stream is as it was if every entry of it is, by its path, number, size, times, mode, owner and
//! other names. That is what the kernel tells of an entry without opening it. The time of change
//! (ctime) tells of all else: content, attributes, lists, and what a link leads to.

use std::cmp::Ordering;

use rustix::fs::Stat;

use super::entry::EntryKind;
use super::walk::Found;
use super::{PIECES_FOLDER, TREE_STREAM};
use crate::streams::StreamFingerprint;

/// No cut comes before a piece has so many entries, or so many bytes.
const MIN_SHARD_ENTRIES: u64 = 256;
const MIN_SHARD_BYTES: u64 = 8 << 20;
/// Beyond that, there is a cut after so many entries, or so many bytes, on average.
const SHARD_ENTRIES: u64 = 1024;
const SHARD_BYTES: u64 = 32 << 20;
/// A cut comes at last before a piece has more.
const MAX_SHARD_ENTRIES: u64 = 4096;
const MAX_SHARD_BYTES: u64 = 128 << 20;
/// After so many pieces, all of these bounds double, so that a manifest can hold all streams.
const SHARDS_PER_DOUBLING: usize = 1 << 14;
const MAX_DOUBLINGS: usize = 7;

/// What the names of pieces have before the path: a file of such a name is in every listing.
const PIECE_PREFIX: char = '+';
/// A name of more characters is cut to so many, and a hash follows.
const MAX_NAME_CHARACTERS: usize = 180;
/// So many digits that nobody finds two paths of one name.
const CUT_HASH_DIGITS: usize = 32;
/// Stands before that hash. In a name that is not cut, hexadecimal digits follow a `~`.
const CUT_SIGN: &str = "~~";

/// A call that writes may take so many bytes, …
const MAX_WRITE_BYTES: u64 = 2 << 30;
/// … at least so fast, and changes the times when it begins.
const SLOWEST_WRITE_PER_SECOND: u64 = 8 << 20;

/// Entries that follow each other, of which one stream is made.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) entries: Vec<Found>,
    bytes: u64,
    has_huge: bool,
}

impl Shard {
    /// Whether this entry is the first of another piece. So many are complete.
    pub(super) fn ends_before(&self, next: &Found, complete: usize) -> bool {
        let doubled = (complete / SHARDS_PER_DOUBLING).min(MAX_DOUBLINGS);
        let scaled = |bound: u64| bound << doubled;
        let (entries, size) = (self.entries.len() as u64, weight(next));
        if entries == 0 {
            return false;
        }
        let is_huge = size >= scaled(SHARD_BYTES);
        let is_full = entries >= scaled(MAX_SHARD_ENTRIES) || self.bytes + size > scaled(MAX_SHARD_BYTES);
        if is_huge || self.has_huge || is_full {
            return true;
        }
        if entries < scaled(MIN_SHARD_ENTRIES) && self.bytes < scaled(MIN_SHARD_BYTES) {
            return false;
        }
        // The chance of a cut, in parts of 2³².
        let chance = (1 << 32) / scaled(SHARD_ENTRIES) + (size << 32) / scaled(SHARD_BYTES);
        let hash = blake3::hash(&next.entry.path);
        let drawn = hash.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        u64::from(drawn) < chance
    }

    pub(super) fn push(&mut self, found: Found, complete: usize) {
        let doubled = (complete / SHARDS_PER_DOUBLING).min(MAX_DOUBLINGS);
        let size = weight(&found);
        self.bytes += size;
        self.has_huge |= size >= SHARD_BYTES << doubled;
        self.entries.push(found);
    }

    /// The name of its stream. If it is the `only` one, that is the name of the tree.
    pub(super) fn name(&self, only: bool) -> String {
        match self.entries.first() {
            Some(first) if !only => name_of(&first.entry.path),
            _ => TREE_STREAM.to_owned(),
        }
    }

    /// What tells whether the stream is as it was; `None` if nothing does. All of it must lie in
    /// the file system of `device`. `context` is what else it depends on.
    pub(super) fn fingerprint(
        &self,
        (context, read_every): (&[u8], u64),
        device: u64,
        is_last: bool,
    ) -> Option<StreamFingerprint> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(context).update(&[u8::from(is_last)]);
        let (mut settled, mut told) = (i64::MIN, Vec::new());
        for Found { entry, stat, .. } in &self.entries {
            if stat.st_dev != device {
                return None;
            }
            told.clear();
            put_bytes(&mut told, &entry.path);
            put_stat(&mut told, stat);
            put_bytes(&mut told, entry.ownership.user.as_bytes());
            put_bytes(&mut told, entry.ownership.group.as_bytes());
            match &entry.kind {
                EntryKind::SameAs { path } => put_bytes(&mut told, path),
                _ => told.push(0),
            }
            hasher.update(&told);
            settled = settled.max(settles(stat));
        }
        Some(StreamFingerprint { digest: *hasher.finalize().as_bytes(), settled, read_every })
    }
}

/// How many bytes an entry adds to a piece.
fn weight(found: &Found) -> u64 {
    let attributes = found.entry.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() as u64;
    match found.entry.kind {
        // What is a hole takes no room.
        EntryKind::File { length } => {
            length.min(found.stat.st_blocks.cast_unsigned().saturating_mul(512)).saturating_add(attributes)
        }
        _ => attributes,
    }
}

fn put_bytes(told: &mut Vec<u8>, bytes: &[u8]) {
    told.extend((bytes.len() as u64 + 1).to_le_bytes());
    told.extend_from_slice(bytes);
}

fn put_stat(told: &mut Vec<u8>, stat: &Stat) {
    let numbers = [
        stat.st_dev,
        stat.st_ino,
        u64::from(stat.st_mode),
        u64::from(stat.st_uid),
        u64::from(stat.st_gid),
        stat.st_rdev,
        stat.st_size.cast_unsigned(),
        stat.st_mtime.cast_unsigned(),
        stat.st_mtime_nsec,
        stat.st_ctime.cast_unsigned(),
        stat.st_ctime_nsec,
    ];
    numbers.into_iter().for_each(|number| told.extend(number.to_le_bytes()));
    // It is shorter on some machines.
    told.extend(stat.st_nlink.to_le_bytes());
}

/// When whatever changed this entry last was surely complete.
fn settles(stat: &Stat) -> i64 {
    let written = stat.st_size.cast_unsigned().min(MAX_WRITE_BYTES) / SLOWEST_WRITE_PER_SECOND;
    stat.st_mtime.max(stat.st_ctime).saturating_add(written.cast_signed() + 1)
}

/// The name of the stream that begins with this path. Names are in the order of paths, but for
/// those that were cut.
pub(super) fn name_of(path: &[u8]) -> String {
    let written = in_order(path);
    let name = match written.len() <= MAX_NAME_CHARACTERS {
        true => written,
        false => {
            let hash = blake3::hash(path).to_hex();
            format!("{}{CUT_SIGN}{}", &written[..MAX_NAME_CHARACTERS], &hash[..CUT_HASH_DIGITS])
        }
    };
    format!("{PIECES_FOLDER}{PIECE_PREFIX}{name}")
}

/// A path in letters that sort as paths do: each `/` as `!`, and what is no letter, or sorts before
/// `%` or after `}`, as `%` or `~` and two hexadecimal digits.
fn in_order(path: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut written = String::with_capacity(path.len());
    for byte in path {
        // Writing into a string cannot fail.
        let _ = match byte {
            b'/' => write!(written, "!"),
            0..=b'%' => write!(written, "%{byte:02X}"),
            b'~'.. => write!(written, "~{byte:02X}"),
            byte => write!(written, "{}", char::from(*byte)),
        };
    }
    written
}

/// Whether the stream `name`, before the stream `next`, may hold this path, or what is `below` it.
pub(super) fn may_hold(name: &str, next: Option<&str>, path: &[u8], below: bool) -> bool {
    let sought = in_order(path);
    let begin = |name: &str| name.strip_prefix(PIECES_FOLDER)?.strip_prefix(PIECE_PREFIX).map(str::to_owned);
    // What has another name may hold anything.
    let Some(first) = begin(name) else { return true };
    let is_below = |rest: &str| sought.is_empty() || rest.starts_with('!');
    let may_begin = below && first.strip_prefix(&sought).is_some_and(is_below)
        || compare(&first, &sought).is_none_or(Ordering::is_le);
    let ends_before = next.and_then(begin).and_then(|next| compare(&next, &sought)).is_some_and(Ordering::is_le);
    may_begin && !ends_before
}

/// The order of a name and a path that is written in order; `None` if the name was cut before they
/// differ.
fn compare(name: &str, sought: &str) -> Option<Ordering> {
    match name.split_once(CUT_SIGN) {
        Some((begin, _)) if sought.starts_with(begin) => None,
        Some((begin, _)) => Some(begin.cmp(sought)),
        None => Some(name.cmp(sought)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::entry::order;
    use super::*;

    /// Paths that differ late, so that names are cut, and in bytes of all kinds.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            prop::collection::vec(prop::sample::select(&b"a%~!.\x01\xff\xfeZ"[..]), 1..4),
            Just(vec![b'n'; 100]),
        ];
        prop::collection::vec(part, 1..5).prop_map(|parts| parts.join(&b'/'))
    }

    proptest! {
        #[test]
        fn names_are_in_the_order_of_paths_and_tell_where_a_path_may_be(
            paths in prop::collection::btree_set(path(), 1..40),
            cuts in prop::collection::vec(any::<bool>(), 40),
        ) {
            let mut paths: Vec<Vec<u8>> = paths.into_iter().collect();
            paths.push(Vec::new());
            paths.sort_by(|a, b| order(a, b));
            for pair in paths.windows(2) {
                prop_assert!(in_order(&pair[0]) < in_order(&pair[1]));
                prop_assert!(name_of(&pair[0]) != name_of(&pair[1]));
            }
            let begins: Vec<usize> = (0..paths.len()).filter(|at| *at == 0 || cuts[*at % cuts.len()]).collect();
            let names: Vec<String> = begins.iter().map(|at| name_of(&paths[*at])).collect();
            for (at, path) in paths.iter().enumerate() {
                let shard = begins.partition_point(|begin| *begin <= at) - 1;
                let next = names.get(shard + 1).map(String::as_str);
                prop_assert!(may_hold(&names[shard], next, path, false));
                // And so for all folders that it is below.
                for end in (0..path.len()).filter(|end| *end == 0 || path[*end] == b'/') {
                    prop_assert!(may_hold(&names[shard], next, &path[..end], true));
                }
            }
        }
    }

    #[test]
    fn a_path_is_sought_where_it_is_and_nowhere_else() {
        let names = [b"".as_slice(), b"b/c", b"b/x", b"d"].map(name_of);
        let held = |path: &[u8], below| -> Vec<bool> {
            let next = |at: usize| names.get(at + 1).map(String::as_str);
            (0..names.len()).map(|at| may_hold(&names[at], next(at), path, below)).collect()
        };
        assert_eq!(held(b"b/cc", true), [false, true, false, false]);
        assert_eq!(held(b"b", false), [true, false, false, false]);
        assert_eq!(held(b"b", true), [true, true, true, false]);
        assert_eq!(held(b"b/x", true), [false, false, true, false]);
        assert_eq!(held(b"zz", true), [false, false, false, true]);
        assert_eq!(held(b"", true), [true; 4]);
    }
}
