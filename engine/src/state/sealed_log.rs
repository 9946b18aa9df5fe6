//! A file of records that continue each other, sealed under the host key: what this host has
//! checked and need not check again.
//!
//! Each record is prefixed with its length, and sealed for its place after the records before it.
//! So it shows if a disk lost some, or if two programs appended at the same time. The first record
//! tells whom the others were believed by ([`Trust::mark`](crate::keys::trust::Trust)). If that has
//! changed, they are made anew. Where nothing can be kept, nothing is.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::PathBuf;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::Digest;

use super::cache::ObjectCache;
use super::replace_cheaply;
use crate::keys::seal::HostKey;

/// No record is longer. What is longer is not kept.
const MAX_LOG_RECORD_BYTES: usize = 1 << 30;
/// With so many records, the file is better written anew.
const MANY_RECORDS: usize = 4096;

/// A file of sealed records, in the cache of a dataset.
pub(crate) struct SealedLog<'a> {
    cache: &'a ObjectCache,
    path: PathBuf,
    purpose: String,
    key: &'a HostKey,
    trust: String,
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

    /// Whether the file has so many records that it is better written anew.
    pub(crate) fn is_far(&self) -> bool {
        self.records >= MANY_RECORDS
    }
}

impl<'a> SealedLog<'a> {
    /// The file of this name. `purpose` says what its records are, and of what; `trust` is the mark
    /// of whom they are believed by.
    pub(crate) fn new(cache: &'a ObjectCache, name: &str, purpose: String, key: &'a HostKey, trust: String) -> Self {
        Self { cache, path: cache.beside(name), purpose, key, trust }
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
            let length =
                usize::try_from(u64::from_le_bytes(length)).ok().filter(|length| *length <= MAX_LOG_RECORD_BYTES);
            let mut sealed = Vec::new();
            let length = length?;
            file.by_ref().take(length as u64).read_to_end(&mut sealed).ok()?;
            let record = self.key.open_plain(&self.purpose(&end), &sealed).ok()?;
            end = end.after(&sealed);
            drop(sealed);
            if end.records == 1 {
                (record == self.trust.as_bytes()).then_some(())?;
            } else {
                each(record)?;
            }
        }
        Some(end).filter(|end| end.records > 0)
    }

    /// Appends records after `end`, if it still is the end.
    pub(crate) fn append(&self, end: &LogEnd, records: impl IntoIterator<Item = Vec<u8>>) {
        self.cache.note(&self.try_append(end, records));
    }

    fn try_append(&self, end: &LogEnd, records: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().append(true).open(&self.path)?;
            // Another program has appended meanwhile: what it wrote counts.
            if file.metadata()?.len() != end.bytes {
                return Ok(());
            }
            let mut sealed = Vec::new();
            self.seal_all(end.clone(), records, &mut sealed)?;
            // What was written of it, if it cannot all be.
            file.write_all(&sealed).inspect_err(|_| drop(file.set_len(end.bytes)))
        };
        write().context(Class::Storage, || format!("cannot write {}", self.path.display()))
    }

    /// Removes the file.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }

    /// Writes the file anew, with these records.
    pub(crate) fn replace(&self, records: impl IntoIterator<Item = Vec<u8>>) {
        self.cache.note(&self.try_replace(records));
    }

    fn try_replace(&self, records: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
        let first = self.trust.clone().into_bytes();
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
            file.write_all(&(sealed.len() as u64).to_le_bytes())?;
            file.write_all(&sealed)?;
            end = end.after(&sealed);
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
        let log = |key, trust: &str| SealedLog::new(&cache, ".log", "a log".to_owned(), key, trust.to_owned());
        let own = log(&key, "us");
        assert!(records(&own).is_none(), "there is none");
        own.replace([b"one".to_vec(), b"two".to_vec()]);
        let (found, end) = records(&own).unwrap();
        assert_eq!(found, [&b"one"[..], b"two"]);
        own.append(&end, [b"three".to_vec()]);
        own.append(&end, [b"four".to_vec()]);
        assert_eq!(records(&own).unwrap().0, [&b"one"[..], b"two", b"three"], "one that came too late is dropped");
        assert!(cache.failure().is_none() && cache.keys().is_empty());

        assert!(records(&log(&key, "others")).is_none(), "others are trusted");
        assert!(records(&log(&other, "us")).is_none(), "another host key");
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
}
