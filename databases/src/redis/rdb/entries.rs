//! What a file holds, as a server takes it by commands: each key with its value as it stands in
//! the file, wrapped as `DUMP` wraps it for `RESTORE`.

use std::io::Read;

use crc_fast::{CrcAlgorithm, Digest};
use lifeboat_base::Result;

use super::input::RdbInput;
use super::stream_value::StreamDetail;
use super::{RdbContent, RdbKey, read, version};

/// A part of a file, in its order.
#[derive(Debug)]
pub(in crate::redis) enum RdbEntry<'a> {
    /// A key, with what `RESTORE` takes.
    Key {
        database: u64,
        name: &'a [u8],
        payload: &'a [u8],
        /// When it expires, in milliseconds since 1970.
        expires: Option<i64>,
    },
    /// A library, with what `FUNCTION RESTORE` takes.
    Function { payload: &'a [u8] },
}

/// Wraps what it is shown.
struct Wrapping<'e> {
    version: u16,
    each: &'e mut dyn FnMut(RdbEntry<'_>) -> Result<()>,
    payload: Vec<u8>,
    empty: u64,
}

impl Wrapping<'_> {
    /// The bytes, the version of the file, and a checksum over both.
    fn wrap(&mut self, raw: &[u8]) {
        self.payload.clear();
        self.payload.extend_from_slice(raw);
        self.payload.extend_from_slice(&self.version.to_le_bytes());
        let mut digest = Digest::new(CrcAlgorithm::Crc64Redis);
        digest.update(&self.payload);
        self.payload.extend_from_slice(&digest.finalize().to_le_bytes());
    }
}

impl RdbContent for Wrapping<'_> {
    fn key(&mut self, key: &RdbKey<'_>) -> Result<()> {
        self.wrap(key.raw);
        let RdbKey { database, name, expires, .. } = *key;
        (self.each)(RdbEntry::Key { database, name, payload: &self.payload, expires })
    }

    fn empty_key(&mut self) {
        self.empty += 1;
    }

    fn function(&mut self, _: &blake3::Hasher, raw: &[u8]) -> Result<()> {
        self.wrap(raw);
        (self.each)(RdbEntry::Function { payload: &self.payload })
    }
}

/// Reads a file to its checked end, and gives each part to `each`. Returns how many keys it has
/// without any element, which no server takes.
///
/// # Errors
/// The file is not as a server writes it, or holds what is not known; or the error of `each`.
pub(in crate::redis) fn entries(from: impl Read, each: &mut dyn FnMut(RdbEntry<'_>) -> Result<()>) -> Result<u64> {
    let mut input = RdbInput::new(from).keeping();
    let version = version(&mut input)?;
    let mut wrapping =
        Wrapping { version: u16::try_from(version).unwrap_or(u16::MAX), each, payload: Vec::new(), empty: 0 };
    // The hashes of values are not looked at, but are what checks them.
    read(&mut input, StreamDetail::of_version(version), &[0; 32], &mut wrapping)
        .map_err(|error| error.within(format!("cannot read the dump, near byte {}", input.position())))?;
    Ok(wrapping.empty)
}
