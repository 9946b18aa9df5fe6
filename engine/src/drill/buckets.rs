//! Hashes of what is compared, in files: however many there are, memory is bounded.
//!
//! The hashes are divided into [`BUCKETS`] files by their first byte. One bucket of each list is
//! compared at a time, so memory grows by a hundredth of what is compared.
//!
//! **Disk**: whoever owns the database decides how much there is to compare, and other drills use
//! the same disk. So of a value only as much is kept as is ever shown, and each list takes at most
//! half of what is free when it begins.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use lifeboat_base::{Class, Context, Error, Result, disk};

/// Files that hashes are divided into, each of which is open while they are written.
const BUCKETS: usize = 128;
pub(super) const HASH_BYTES: usize = 16;
/// Of what dangles, so many are named.
const MAX_NAMED_DANGLING: usize = 10;
/// More are not compared, rows without a value included: a bucket of their hashes takes 256 MiB.
const MAX_COMPARED: u64 = 1 << 30;
/// No more letters of a value are shown.
const MAX_SHOWN: usize = 200;
/// No more bytes of a value are kept: one more than can be shown tells that there are more.
const MAX_KEPT_VALUE_BYTES: usize = MAX_SHOWN + 1;
/// A list takes this part of what is free on its disk: a half.
const SHARE_OF_DISK: u64 = 2;

/// What cannot be removed goes with the directory of the drill.
pub(super) fn remove(folder: &Path) {
    let _ = std::fs::remove_dir_all(folder);
}

/// Entries in files, by the first bits of their hashes.
pub(super) struct Buckets {
    files: Vec<BufWriter<File>>,
    folder: PathBuf,
    pub(super) count: u64,
    /// So many more bytes may be written.
    room: u64,
}

impl Buckets {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let failed = || format!("cannot make {}", folder.display());
        // A part that failed may be left.
        remove(folder);
        std::fs::create_dir_all(folder).context(Class::Storage, failed)?;
        let file = |at: usize| File::create(folder.join(at.to_string())).map(BufWriter::new);
        let files = (0..BUCKETS).map(file).collect::<std::io::Result<_>>().context(Class::Storage, failed)?;
        let room = disk::free(folder).context(Class::Storage, failed)? / SHARE_OF_DISK;
        Ok(Self { files, folder: folder.to_owned(), count: 0, room })
    }

    /// Adds an entry: its hash, its number, and its text.
    pub(super) fn add(&mut self, hash: &[u8; HASH_BYTES], text: &[u8]) -> Result<()> {
        let Some(file) = self.files.get_mut(usize::from(hash[0]) % BUCKETS) else { return Ok(()) };
        let text = &text[..text.len().min(MAX_KEPT_VALUE_BYTES)];
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        let entry = [&hash[..], &self.count.to_le_bytes(), &length.to_le_bytes(), text];
        self.count += 1;
        few_enough(self.count)?;
        let bytes = entry.iter().map(|part| part.len() as u64).sum();
        self.room = self.room.checked_sub(bytes).ok_or_else(|| {
            Error::storage(format!(
                "the {} to compare take more than half of what is free in {}",
                self.count,
                self.folder.display()
            ))
            .hint("let `sql` of the [[group.reference]] ask for fewer, or set TMPDIR to a larger disk")
        })?;
        let written = entry.into_iter().try_for_each(|part| file.write_all(part));
        written.context(Class::Storage, || format!("cannot write below {}", self.folder.display()))
    }

    pub(super) fn finish(self) -> Result<()> {
        let flushed = self.files.into_iter().try_for_each(|mut file| file.flush());
        flushed.context(Class::Storage, || format!("cannot write below {}", self.folder.display()))
    }
}

pub(super) fn few_enough(count: u64) -> Result<()> {
    if count > MAX_COMPARED {
        return Err(Error::failed(format!("there are more than {MAX_COMPARED} to compare"))
            .hint("let `sql` of the [[group.reference]] ask for fewer"));
    }
    Ok(())
}

/// One entry of a bucket.
struct BucketEntry {
    hash: [u8; HASH_BYTES],
    number: u64,
    text: Vec<u8>,
}

fn entries(folder: &Path, bucket: usize) -> std::io::Result<impl Iterator<Item = std::io::Result<BucketEntry>>> {
    let mut file = BufReader::new(File::open(folder.join(bucket.to_string()))?);
    Ok(std::iter::from_fn(move || {
        let (mut hash, mut number, mut length) = ([0; HASH_BYTES], [0; 8], [0; 2]);
        match file.read_exact(&mut hash) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Err(error) => return Some(Err(error)),
            Ok(()) => {}
        }
        let mut rest = || {
            file.read_exact(&mut number)?;
            file.read_exact(&mut length)?;
            let mut text = vec![0; usize::from(u16::from_le_bytes(length))];
            file.read_exact(&mut text)?;
            Ok(BucketEntry { hash, number: u64::from_le_bytes(number), text })
        };
        Some(rest())
    }))
}

/// How many values are no paths, and the first of them.
pub(super) fn compare(paths: &Path, values: &Path) -> Result<(u64, Vec<String>)> {
    let (mut dangling, mut first) = (0, BTreeMap::new());
    let mut compare = |bucket: usize| -> std::io::Result<()> {
        let mut known = HashSet::new();
        for path in entries(paths, bucket)? {
            known.insert(path?.hash);
        }
        for value in entries(values, bucket)? {
            let BucketEntry { hash, number, text } = value?;
            if known.contains(&hash) {
                continue;
            }
            dangling += 1;
            if first.len() < MAX_NAMED_DANGLING || first.last_key_value().is_some_and(|(last, _)| number < *last) {
                first.insert(number, shown(&text));
                if first.len() > MAX_NAMED_DANGLING {
                    first.pop_last();
                }
            }
        }
        Ok(())
    };
    (0..BUCKETS)
        .try_for_each(&mut compare)
        .context(Class::Storage, || format!("cannot read below {}", values.display()))?;
    Ok((dangling, first.into_values().collect()))
}

/// A value for people: at most [`MAX_SHOWN`] letters of it, and nothing that a terminal would obey.
fn shown(value: &[u8]) -> String {
    if value.is_empty() {
        return "(empty)".to_owned();
    }
    let text: String = value.escape_ascii().map(char::from).take(MAX_SHOWN + 1).collect();
    match text.len() > MAX_SHOWN {
        true => format!("{}…", &text[..MAX_SHOWN]),
        false => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn long_values_and_full_disks_are_bounded() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("values");
        let mut buckets = Buckets::create(&folder).unwrap();
        let (hash, long) = ([0; HASH_BYTES], vec![b'x'; 4096]);
        buckets.room = 2 * (HASH_BYTES + 8 + 2 + MAX_KEPT_VALUE_BYTES) as u64;
        buckets.add(&hash, &long).unwrap();
        buckets.add(&hash, &long[..MAX_KEPT_VALUE_BYTES]).unwrap();
        let full = buckets.add(&hash, b"x").unwrap_err();
        assert_eq!(full.class(), Class::Storage);
        assert!(full.message().contains("the 3 to compare take more than half"), "{full:?}");
        buckets.finish().unwrap();
        let kept: Vec<BucketEntry> = entries(&folder, 0).unwrap().collect::<std::io::Result<_>>().unwrap();
        assert!(kept.len() == 2 && kept.iter().all(|entry| entry.text.len() == MAX_KEPT_VALUE_BYTES));
        assert_eq!(shown(&kept[0].text).chars().count(), MAX_SHOWN + 1);
        assert!(few_enough(MAX_COMPARED).is_ok() && few_enough(MAX_COMPARED + 1).is_err());
    }
}
