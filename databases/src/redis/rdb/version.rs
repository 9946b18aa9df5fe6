//! The beginning of a file: who defined its form, and its version.
//!
//! Valkey wrote the form of Redis until its version 9, which has a form of its own. The versions of
//! both never overlap: Valkey begins at 80.

use std::io::Read;
use std::ops::RangeInclusive;

use lifeboat_base::{Error, Result};

use super::input::{RdbInput, damaged};

/// What files of Redis begin with, and what Valkey's own begin with. Digits of the version fill the
/// rest of the beginning.
const RDB_MAGICS: [&[u8]; 2] = [b"REDIS", b"VALKEY"];
/// The beginning of a file has so many bytes.
pub(in crate::redis) const RDB_HEAD_BYTES: usize = 9;
/// What is read of Redis's form. Older files have no checksum; newer ones are not known.
const REDIS_RDB_VERSIONS: RangeInclusive<u32> = 5..=12;
/// What is read of Valkey's own form.
const VALKEY_RDB_VERSIONS: RangeInclusive<u32> = 80..=80;
/// Redis has no version from here on.
pub(in crate::redis) const FIRST_VALKEY_RDB_VERSION: u32 = 80;

/// Whether these bytes, which may be too few, begin as a dump does.
pub(in crate::redis) fn begins_as_dump(bytes: &[u8]) -> bool {
    RDB_MAGICS.iter().any(|magic| magic.iter().zip(bytes).all(|(expected, byte)| expected == byte))
}

/// Reads the beginning of a file, and returns its version.
pub(super) fn read_version<R: Read>(input: &mut RdbInput<R>) -> Result<u32> {
    version_in(&input.exact::<RDB_HEAD_BYTES>()?)
}

/// The version that the beginning of a file tells.
///
/// # Errors
/// It is none of a dump, or the version is not read.
pub(in crate::redis) fn version_in(begin: &[u8]) -> Result<u32> {
    let digits = RDB_MAGICS.iter().find_map(|magic| begin.strip_prefix(*magic));
    let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    let version = digits.and_then(|digits| digits.parse::<u32>().ok());
    let version = version.ok_or_else(|| damaged("it does not begin as a dump of Redis or Valkey does"))?;
    let (product, read) = match begin.starts_with(RDB_MAGICS[1]) {
        true => ("Valkey", VALKEY_RDB_VERSIONS),
        false => ("Redis", REDIS_RDB_VERSIONS),
    };
    match read.contains(&version) {
        true => Ok(version),
        false => Err(Error::integrity(format!(
            "the {product} dump has version {version}, and this version of Lifeboat reads {} to {} of Redis and {} of \
            Valkey",
            REDIS_RDB_VERSIONS.start(),
            REDIS_RDB_VERSIONS.end(),
            VALKEY_RDB_VERSIONS.end()
        ))
        .hint("use a newer version of Lifeboat")),
    }
}
