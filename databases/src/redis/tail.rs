//! Looks at a dump that comes from a server: does it begin as one, is its checksum right, and where
//! does it end?
//!
//! A server that writes no file of its own sends forty letters behind a dump, and `redis-cli`
//! passes them on. They are cut off.

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use lifeboat_base::{Error, Result};

use super::rdb::{RDB_HEAD_BYTES, begins_as_dump, version_in};

/// What ends a dump that has no length.
const MARK_BYTES: usize = 40;
/// The last byte of content, and the checksum.
const END_BYTES: usize = 9;
pub(super) const CHECKSUM_BYTES: usize = 8;
const END_OPCODE: u8 = 0xff;

/// A dump that passes by.
pub(super) struct DumpTail {
    digest: Digest,
    /// The last bytes that came, which may be the end.
    held: BytesMut,
    /// The first bytes that came.
    begin: Vec<u8>,
}

/// The end of a dump.
pub(super) struct DumpEnd {
    /// The rest of it.
    pub(super) rest: Bytes,
    /// Whether it has a checksum.
    pub(super) is_checked: bool,
    /// Why no drill and no restore of this version of Lifeboat reads it.
    pub(super) unread: Option<Error>,
}

impl Default for DumpTail {
    fn default() -> Self {
        Self { digest: Digest::new(CrcAlgorithm::Crc64Redis), held: BytesMut::new(), begin: Vec::new() }
    }
}

impl DumpTail {
    /// Takes the next piece, and gives what can be no part of the end.
    ///
    /// # Errors
    /// It is no dump.
    pub(super) fn see(&mut self, piece: &[u8]) -> Result<Bytes> {
        self.held.extend_from_slice(piece);
        let known = self.held.len().saturating_sub(MARK_BYTES + END_BYTES);
        let passed = self.held.split_to(known).freeze();
        check_begin(&mut self.begin, &passed)?;
        self.digest.update(&passed);
        Ok(passed)
    }

    /// # Errors
    /// The dump is not whole.
    pub(super) fn end(mut self) -> Result<DumpEnd> {
        check_begin(&mut self.begin, &self.held)?;
        let ends = [MARK_BYTES, 0].into_iter().filter_map(|mark| self.held.len().checked_sub(mark));
        let mut unchecked = None;
        for end in ends.filter(|end| *end >= END_BYTES) {
            let (dump, mark) = self.held.split_at(end);
            let (content, checksum) = dump.split_at(end - CHECKSUM_BYTES);
            if content.last() != Some(&END_OPCODE) || !mark.iter().all(u8::is_ascii_hexdigit) {
                continue;
            }
            let mut digest = self.digest;
            digest.update(content);
            if digest.finalize().to_le_bytes() == checksum {
                return Ok(self.until(end, true));
            }
            // A server can leave it out.
            if checksum == [0; CHECKSUM_BYTES] {
                unchecked = unchecked.or(Some(end));
            }
        }
        let end = unchecked.ok_or_else(|| {
            Error::source_failed("the dump that the server sent is not whole: its end or its checksum is wrong")
                .hint("run the backup again; if it happens again, see the server's log")
        })?;
        Ok(self.until(end, false))
    }

    fn until(mut self, end: usize, is_checked: bool) -> DumpEnd {
        self.held.truncate(end);
        DumpEnd { rest: self.held.freeze(), is_checked, unread: version_in(&self.begin).err() }
    }
}

/// Looks at the first bytes, of which `begin` holds those that came before.
fn check_begin(begin: &mut Vec<u8>, passed: &[u8]) -> Result<()> {
    let missing = RDB_HEAD_BYTES - begin.len();
    begin.extend_from_slice(&passed[..passed.len().min(missing)]);
    match begins_as_dump(begin) {
        true => Ok(()),
        false => Err(Error::source_failed("what the server sends does not begin as a dump of Redis or Valkey does")
            .hint("a server that writes another format can be backed up by a source of kind = \"command\"")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DUMP: &[u8] = include_bytes!("rdb/given/v10-functions.rdb");
    const OF_VALKEY: &[u8] = include_bytes!("rdb/given/v80-fields.rdb");
    const UNCHECKED: &[u8] = include_bytes!("rdb/given/v10-unchecked.rdb");
    const MARK: &[u8] = b"93f27954bd9fb602c1df20246042e5319c1e29c8";

    /// What comes out if it comes in in pieces of this size.
    fn passed(sent: &[u8], size: usize) -> Result<(Vec<u8>, bool)> {
        let (mut tail, mut all) = (DumpTail::default(), Vec::new());
        for piece in sent.chunks(size) {
            all.extend_from_slice(&tail.see(piece)?);
        }
        let end = tail.end()?;
        assert!(end.unread.is_none());
        all.extend_from_slice(&end.rest);
        Ok((all, end.is_checked))
    }

    #[test]
    fn a_dump_comes_out_as_it_is_without_the_mark() {
        for size in [1, 7, 48, 49, 50, 1000] {
            for (dump, is_checked) in [(DUMP, true), (OF_VALKEY, true), (UNCHECKED, false)] {
                assert_eq!(passed(dump, size).unwrap(), (dump.to_vec(), is_checked));
                assert_eq!(passed(&[dump, MARK].concat(), size).unwrap(), (dump.to_vec(), is_checked));
            }
        }
    }

    #[test]
    fn a_dump_of_an_unknown_version_passes_and_is_told() {
        for (begin, told) in [(&b"VALKEY081"[..], "Valkey dump has version 81"), (b"REDIS0013", "version 13")] {
            let content = [begin, &DUMP[9..DUMP.len() - CHECKSUM_BYTES]].concat();
            let checksum = crc_fast::checksum(CrcAlgorithm::Crc64Redis, &content).to_le_bytes();
            for size in [1, 7, 1000] {
                let mut tail = DumpTail::default();
                for piece in [&content[..], &checksum].concat().chunks(size) {
                    tail.see(piece).unwrap();
                }
                let end = tail.end().unwrap();
                assert!(end.is_checked && end.unread.unwrap().message().contains(told), "{told}");
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let marked = [DUMP, MARK].concat();
        for cut in 0..marked.len() {
            let is_whole = cut == DUMP.len();
            assert_eq!(passed(&marked[..cut], 64).is_ok(), is_whole, "{cut}");
        }
        for at in 0..DUMP.len() {
            let mut changed = marked.clone();
            changed[at] ^= 4;
            assert!(passed(&changed, 64).is_err(), "{at}");
        }
        let begins = [&b"VALKEX080"[..], b"REDIX0010", b"RALKEY080", b"VEDIS0010"];
        for (begin, size) in begins.into_iter().flat_map(|begin| [(begin, 1), (begin, 64)]) {
            let error = passed(&[begin, &DUMP[9..]].concat(), size).unwrap_err();
            assert!(error.message().contains("does not begin"), "{error}");
        }
    }
}
