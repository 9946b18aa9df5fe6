//! What a file holds, as a server takes it by commands: each key with its value as it stands in
//! the file, wrapped as `DUMP` wraps it for `RESTORE`.

use std::io::Read;

use crc_fast::{CrcAlgorithm, Digest};
use lifeboat_base::Result;

use super::input::{MAX_KEPT_BYTES, RdbInput, damaged};
use super::stream_value::StreamDetail;
use super::version::read_version;
use super::{RdbContent, RdbKey, read};

/// Behind the bytes: the version of the file, and a checksum over all before it.
const WRAP_BYTES: usize = 10;

/// What `RESTORE` and `FUNCTION RESTORE` take, in two parts.
#[derive(Debug, Clone, Copy)]
pub(in crate::redis) struct RdbPayload<'a> {
    pub(in crate::redis) raw: &'a [u8],
    pub(in crate::redis) wrap: [u8; WRAP_BYTES],
}

impl<'a> RdbPayload<'a> {
    fn of(raw: &'a [u8], version: u16) -> Self {
        let (mut wrap, mut digest) = ([0; WRAP_BYTES], Digest::new(CrcAlgorithm::Crc64Redis));
        wrap[..2].copy_from_slice(&version.to_le_bytes());
        digest.update(raw);
        digest.update(&wrap[..2]);
        wrap[2..].copy_from_slice(&digest.finalize().to_le_bytes());
        Self { raw, wrap }
    }
}

/// A part of a file, in its order.
#[derive(Debug)]
pub(in crate::redis) enum RdbEntry<'a> {
    /// A key. The payload is of those databases that are wanted.
    Key {
        database: u64,
        name: &'a [u8],
        payload: RdbPayload<'a>,
        /// When it expires, in milliseconds since 1970.
        expires: Option<i64>,
    },
    /// A library.
    Function { payload: RdbPayload<'a> },
}

/// Wraps what it is shown.
struct Wrapping<'e> {
    version: u16,
    wants: &'e dyn Fn(Option<u64>) -> bool,
    each: &'e mut dyn FnMut(RdbEntry<'_>) -> Result<()>,
    empty: u64,
}

impl RdbContent for Wrapping<'_> {
    fn keeps(&self, database: Option<u64>) -> bool {
        (self.wants)(database)
    }

    fn key(&mut self, key: &RdbKey<'_>) -> Result<()> {
        let RdbKey { database, name, expires, raw, .. } = *key;
        if name.len() > MAX_KEPT_BYTES {
            return Err(damaged("a key has a name of more than 512 MiB"));
        }
        (self.each)(RdbEntry::Key { database, name, payload: RdbPayload::of(raw, self.version), expires })
    }

    fn empty_key(&mut self) {
        self.empty += 1;
    }

    fn function(&mut self, _: &blake3::Hasher, raw: &[u8]) -> Result<()> {
        (self.each)(RdbEntry::Function { payload: RdbPayload::of(raw, self.version) })
    }
}

/// Reads a file to its checked end, and gives each part to `each`; but first its version to
/// `takes`. Only of the databases that are wanted (`None`: the functions) are there payloads.
/// Returns how many keys have no element, which no server takes.
///
/// # Errors
/// The file is not as a server writes it, or holds what is not known; or the error of `takes` or
/// of `each`.
pub(in crate::redis) fn entries(
    from: impl Read,
    takes: &dyn Fn(u32) -> Result<()>,
    wants: &dyn Fn(Option<u64>) -> bool,
    each: &mut dyn FnMut(RdbEntry<'_>) -> Result<()>,
) -> Result<u64> {
    let mut input = RdbInput::new(from);
    let version = read_version(&mut input)?;
    takes(version)?;
    let mut wrapping = Wrapping { version: u16::try_from(version).unwrap_or(u16::MAX), wants, each, empty: 0 };
    // The hashes of values are not looked at, but are what checks them.
    read(&mut input, version, StreamDetail::of_version(version), &[0; 32], &mut wrapping)
        .map_err(|error| error.within(format!("cannot read the dump, near byte {}", input.position())))?;
    Ok(wrapping.empty)
}
