//! A file of records that continue each other, sealed under the host key: what this host has
//! checked and need not check again.
//!
//! Each record is prefixed with its length, and sealed for its place after the records before it.
//! So it shows if a disk lost some, or if two programs appended at the same time. The first record
//! tells whom the others were believed by: the mark of the cache that the file lies in. Where
//! nothing can be kept, nothing is.
//!
//! Records are short ([`RECORD_BYTES`]), and one at a time is held.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::PathBuf;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::Digest;

use super::cache::ObjectCache;
use super::replace_cheaply;
use crate::keys::seal::HostKey;

/// Whoever makes a record closes it once it is so long.
pub(crate) const RECORD_BYTES: usize = 1 << 20;
/// No record is longer as it is sealed. One that is longer is not written, nor what comes after it.
const MAX_LOG_RECORD_BYTES: usize = 2 << 20;
/// A file is worn with so many records, …
const MANY_RECORDS: usize = 4096;
/// … or once so many of the things that it tells of are gone, …
const MIN_GONE: usize = 64;
/// … if they are this part of all: a fifth.
const GONE_PART: usize = 5;

/// A file of sealed records, in the cache of a dataset.
pub(crate) struct SealedLog<'a> {
    cache: &'a ObjectCache,
    path: PathBuf,
    purpose: String,
    key: &'a HostKey,
}

/// The end of such a file, after which a record can be appended.
#[derive(Clone)]
pub(crate) struct LogEnd {
    bytes: u64,
    records: usize,
    last: Digest,
}

/// The end of an empty file.
impl Default for LogEnd {
    fn default() -> Self {
        Self { bytes: 0, records: 0, last: Digest::of(b"") }
    }
}

impl LogEnd {
    /// The end after one more record.
    fn after(&self, sealed: &[u8]) -> Self {
        let bytes = self.bytes + 8 + sealed.len() as u64;
        Self { bytes, records: self.records + 1, last: Digest::of(sealed) }
    }

    /// This end, unless the file is worn, and is better written anew: of `all` things that it tells
    /// of, so many are `gone`.
    pub(crate) fn unless_worn(self, gone: usize, all: usize) -> Option<Self> {
        let many_gone = gone >= MIN_GONE && gone.saturating_mul(GONE_PART) >= all;
        (!many_gone && self.records < MANY_RECORDS).then_some(self)
    }
}

impl<'a> SealedLog<'a> {
    /// The file of this name. `purpose` says what its records are, and of what.
    pub(crate) fn new(cache: &'a ObjectCache, name: &str, purpose: String, key: &'a HostKey) -> Self {
        Self { cache, path: cache.beside(name), purpose, key }
    }

    /// Gives every record to `each`. `None`: there is no such file, it does not count any more, or
    /// is damaged somewhere, or `each` refused a record.
    pub(crate) fn read(&self, mut each: impl FnMut(Vec<u8>) -> Option<()>) -> Option<LogEnd> {
        let mut file = BufReader::new(File::open(&self.path).ok()?);
        let mut end = LogEnd::default();
        loop {
            let mut length = [0; 8];
            match file.read(&mut length).ok()? {
                0 => break,
                some => file.read_exact(&mut length[some..]).ok()?,
            }
            let length = Some(u64::from_le_bytes(length)).filter(|length| *length <= MAX_LOG_RECORD_BYTES as u64)?;
            let mut sealed = Vec::new();
            file.by_ref().take(length).read_to_end(&mut sealed).ok()?;
            let record = self.key.open_plain(&self.purpose(&end), &sealed).ok()?;
            end = end.after(&sealed);
            drop(sealed);
            if end.records == 1 {
                (record == self.cache.trust().as_bytes()).then_some(())?;
            } else {
                each(record)?;
            }
        }
        Some(end).filter(|end| end.records > 0)
    }

    /// Appends records after `end`, if it still is the end. Without an end, writes the file anew,
    /// with these records.
    pub(crate) fn write(&self, end: Option<&LogEnd>, records: impl IntoIterator<Item = Vec<u8>>) {
        self.cache.note(&match end {
            Some(end) => self.try_append(end, records),
            None => self.try_replace(records),
        });
    }

    fn try_append(&self, end: &LogEnd, records: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().append(true).open(&self.path)?;
            // Another program has appended meanwhile: what it wrote counts.
            if file.metadata()?.len() != end.bytes {
                return Ok(());
            }
            // What was written of them, if they cannot all be.
            self.seal_all(end.clone(), records, &mut file).inspect_err(|_| drop(file.set_len(end.bytes)))
        };
        write().context(Class::Storage, || format!("cannot write {}", self.path.display()))
    }

    /// Removes the file.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    fn try_replace(&self, records: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let first = self.cache.trust().as_bytes().to_vec();
        replace_cheaply(&self.path, |file| {
            self.seal_all(LogEnd::default(), std::iter::once(first).chain(records), file)
        })
    }

    /// Writes records as they stand in the file after `end`.
    fn seal_all(
        &self,
        mut end: LogEnd,
        records: impl IntoIterator<Item = Vec<u8>>,
        file: &mut impl Write,
    ) -> std::io::Result<()> {
        for record in records {
            let sealed =
                self.key.seal(&self.purpose(&end), &record).map_err(|error| std::io::Error::other(error.chain()))?;
            drop(record);
            if sealed.len() > MAX_LOG_RECORD_BYTES {
                return Err(std::io::Error::other(format!("a record takes {} bytes", sealed.len())));
            }
            end = end.after(&sealed);
            // At once: another program may append, too.
            file.write_all(&[&(sealed.len() as u64).to_le_bytes()[..], &sealed].concat())?;
        }
        Ok(())
    }

    fn purpose(&self, end: &LogEnd) -> String {
        format!("{}, after {} bytes and {}", self.purpose, end.bytes, end.last)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::state::StateDirectory;

    fn records(log: &SealedLog<'_>) -> Option<(Vec<Vec<u8>>, LogEnd)> {
        let mut found = Vec::new();
        let end = log.read(|record| {
            found.push(record);
            Some(())
        });
        end.map(|end| (found, end))
    }

    #[test]
    fn records_count_in_their_order_and_while_trust_is_the_same() {
        let place = tempfile::tempdir().unwrap();
        let cache = ObjectCache::open(&StateDirectory::open(place.path()).unwrap(), &"shop".parse().unwrap(), "us");
        let (key, other) = (HostKey::generate(), HostKey::generate());
        let log = |key| SealedLog::new(&cache, ".log", "a log".to_owned(), key);
        let own = log(&key);
        assert!(records(&own).is_none(), "there is none");
        own.write(None, [b"one".to_vec(), b"two".to_vec()]);
        let (found, end) = records(&own).unwrap();
        assert_eq!(found, [&b"one"[..], b"two"]);
        own.write(Some(&end), [b"three".to_vec()]);
        own.write(Some(&end), [b"four".to_vec()]);
        assert_eq!(records(&own).unwrap().0, [&b"one"[..], b"two", b"three"], "one that came too late is dropped");
        assert!(cache.failure().is_none() && cache.keys().is_empty());

        let others = ObjectCache::at(place.path(), &"shop".parse().unwrap(), "others");
        std::fs::create_dir(others.beside("")).unwrap();
        std::fs::copy(cache.beside(".log"), others.beside(".log")).unwrap();
        let of_others = SealedLog::new(&others, ".log", "a log".to_owned(), &key);
        assert!(records(&of_others).is_none(), "others are trusted");
        assert!(records(&log(&other)).is_none(), "another host key");
        assert!(own.read(|record| (record != b"two").then_some(())).is_none());

        let file = std::fs::read(cache.beside(".log")).unwrap();
        for at in [0, 9, 30, file.len() / 2, file.len() - 1] {
            let mut changed = file.clone();
            changed[at] ^= 1;
            std::fs::write(cache.beside(".log"), &changed).unwrap();
            assert!(records(&own).is_none(), "a flipped bit in byte {at} passed");
        }
        let (first, rest) = file.split_at(file.len() - 1);
        std::fs::write(cache.beside(".log"), first).unwrap();
        assert!(records(&own).is_none(), "{} bytes are missing", rest.len());
    }

    #[test]
    fn what_is_longer_than_a_record_is_refused_and_leaves_the_others() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(place.path()).unwrap();
        let cache = || ObjectCache::open(&state, &"shop".parse().unwrap(), "us");
        let key = HostKey::generate();
        let long = || std::iter::once(vec![0; MAX_LOG_RECORD_BYTES]);
        let (first, second) = (cache(), cache());
        let log = SealedLog::new(&first, ".log", "a log".to_owned(), &key);
        log.write(None, [b"one".to_vec(), vec![1; RECORD_BYTES]]);
        let (kept, end) = records(&log).unwrap();
        assert!(kept.len() == 2 && first.failure().is_none());
        log.write(Some(&end), [b"two".to_vec()].into_iter().chain(long()));
        assert!(first.failure().unwrap().contains("a record takes"), "{:?}", first.failure());
        assert_eq!(records(&log).unwrap().0, kept, "nothing is left of what was not all written");
        SealedLog::new(&second, ".log", "a log".to_owned(), &key).write(None, long());
        assert!(second.failure().is_some());
        assert_eq!(records(&log).unwrap().0, kept);
    }

    #[test]
    fn a_file_is_worn_once_a_fifth_is_gone_or_it_has_many_records() {
        let end = || LogEnd { records: 10, ..LogEnd::default() };
        assert!(end().unless_worn(63, 64).is_some() && end().unless_worn(64, 321).is_some());
        assert!(end().unless_worn(64, 320).is_none());
        assert!(LogEnd { records: MANY_RECORDS, ..LogEnd::default() }.unless_worn(0, 0).is_none());
    }
}
