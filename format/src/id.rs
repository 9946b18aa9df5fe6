//! Names and identifiers: parsed once, valid ever after.
//!
//! A [`Name`] is safe inside object keys, file names, metric labels and age comments. A
//! [`SnapshotId`] sorts by time as text and never repeats.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use data_encoding::HEXLOWER;
use lifeboat_base::{Error, Result};
use serde::{Deserialize, Serialize};

/// The name of a dataset, host or replica: 1–64 of `a-z 0-9 - _ .`, starting with a letter or
/// digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if starts_well && text.len() <= 64 && text.chars().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::configuration(format!("`{text}` is not a valid name"))
                .hint("use 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit"))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const TIME_FORMAT: &str = "%Y%m%dT%H%M%S%3fZ";

/// `20261123T183244123Z-9f2c81aa`: UTC time to the millisecond, then 32 random bits.
///
/// Ids sort by time as text. The writer makes sure that an id is later than its predecessor's.
///
/// It is held in place: who looks at hundreds of thousands of ids would else ask the allocator for
/// each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId([u8; ID_BYTES]);

/// The length of a snapshot id as text, which is ASCII.
const ID_BYTES: usize = 28;
/// The ids of times that are too early and too late for any.
const FIRST_ID: &[u8; ID_BYTES] = b"00000101T000000000Z-00000000";
const LAST_ID: &[u8; ID_BYTES] = b"99991231T235959999Z-ffffffff";

impl SnapshotId {
    /// An id for a snapshot taken at `time`; `entropy` keeps it unique. A time before the year 0 or
    /// after 9999 becomes the nearest one that an id can tell.
    #[must_use]
    pub fn new(time: DateTime<Utc>, entropy: u32) -> Self {
        let text = format!("{}-{entropy:08x}", time.format(TIME_FORMAT));
        Self::of(&text).unwrap_or_else(|| {
            let nearest = if time.year() < 0 { FIRST_ID } else { LAST_ID };
            Self(*nearest)
        })
    }

    fn of(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Self)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It is ASCII, whoever made it.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The time it was made for, to the millisecond.
    #[must_use]
    pub fn time(&self) -> DateTime<Utc> {
        Self::parse_time(self.as_str()).unwrap_or_default()
    }

    /// Whether a text is the beginning of an id, from its day on, and not a whole one.
    #[must_use]
    pub fn is_beginning(text: &str) -> bool {
        const SAMPLE: &str = "00000000T000000000Z-00000000";
        let fits = |(byte, sample): (u8, u8)| match sample {
            b'0' => byte.is_ascii_digit(),
            other => byte == other,
        };
        let (stamp, entropy) = text.as_bytes().split_at(text.len().min(20));
        (8..SAMPLE.len()).contains(&text.len())
            && stamp.iter().copied().zip(SAMPLE.bytes()).all(fits)
            && entropy.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    }

    /// As [`TIME_FORMAT`] writes it. Listings have hundreds of thousands of ids, so this is no
    /// matter for a general parser.
    fn parse_time(text: &str) -> Option<DateTime<Utc>> {
        let stamp = text.as_bytes().get(..19).filter(|stamp| (stamp[8], stamp[18]) == (b'T', b'Z'))?;
        let number = |digits: std::ops::Range<usize>| {
            stamp[digits]
                .iter()
                .try_fold(0, |sum: u32, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
        };
        let date = NaiveDate::from_ymd_opt(number(0..4)? as i32, number(4..6)?, number(6..8)?)?;
        // A leap second is told as more than a second after the one before it.
        let (second, millis) = match (number(13..15)?, number(15..18)?) {
            (60, millis) => (59, 1000 + millis),
            other => other,
        };
        Some(date.and_hms_milli_opt(number(9..11)?, number(11..13)?, second, millis)?.and_utc())
    }
}

impl FromStr for SnapshotId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let tail = text.get(19..).unwrap_or_default();
        let tail_is_hex = tail.len() == 9
            && tail.starts_with('-')
            && tail[1..].chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        // A time may also be told with blanks and a sign; such ids would not sort by it.
        let is_digits = |(at, byte): (usize, u8)| matches!(at, 8 | 18) || byte.is_ascii_digit();
        let stamp_is_digits = text.bytes().take(19).enumerate().all(is_digits);
        let is_right = text.is_ascii() && tail_is_hex && stamp_is_digits && Self::parse_time(text).is_some();
        Self::of(text).filter(|_| is_right).ok_or_else(|| {
            Error::usage(format!("`{text}` is not a snapshot id"))
                .hint("an id looks like 20261123T183244123Z-9f2c81aa; `lifeboat list` shows them")
        })
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SnapshotId").field(&self.as_str()).finish()
    }
}

/// A 256-bit digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// BLAKE3 of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self(*blake3::hash(data).as_bytes())
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| Error::integrity(format!("`{text}` is not a 256-bit digest in hexadecimal")))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// No snapshot and no record has this sequence number, or a higher one.
pub(crate) const SEQUENCE_END: u64 = 1 << 63;

/// Names a pack: BLAKE3 of its ciphertext, so that a replica can be scrubbed without a key.
pub type PackId = Digest;

/// Names a chunk: BLAKE3 of its plaintext, keyed with the dataset's chunk-id key.
pub type ChunkId = Digest;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_ids_sort_by_time_and_give_it_back() -> Result<()> {
        let early = SnapshotId::new(DateTime::from_timestamp_millis(1_795_459_999_999).unwrap_or_default(), u32::MAX);
        let late = SnapshotId::new(DateTime::from_timestamp_millis(1_795_460_000_000).unwrap_or_default(), 0);
        assert!(early < late);
        assert_eq!(early.time().timestamp_millis(), 1_795_459_999_999);
        assert_eq!(early.as_str().parse::<SnapshotId>()?, early);
        for (time, id) in [(DateTime::<Utc>::MIN_UTC, FIRST_ID), (DateTime::<Utc>::MAX_UTC, LAST_ID)] {
            let nearest = SnapshotId::new(time, 7);
            assert_eq!(nearest.as_str().as_bytes(), id);
            assert_eq!(nearest.as_str().parse::<SnapshotId>()?, nearest);
        }
        Ok(())
    }

    #[test]
    fn times_are_those_that_a_general_parser_finds() {
        let stamps = ["20261123T183244123Z", "20240229T000000000Z", "20230229T000000000Z", "20261301T000000000Z"];
        let more = ["20261123T240000000Z", "20261123T235960999Z", "20261123T235961000Z", "00000101T000000000Z"];
        for stamp in stamps.into_iter().chain(more) {
            let found = chrono::NaiveDateTime::parse_from_str(stamp, TIME_FORMAT).ok().map(|naive| naive.and_utc());
            assert_eq!(SnapshotId::parse_time(stamp), found, "{stamp}");
        }
    }

    #[test]
    fn refuses_names_and_ids_that_could_escape_their_folder() {
        for bad in ["", ".", "..", "../x", "a/b", "A", "é", "-a", &"x".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad} passed");
        }
        for bad in [
            "",
            "latest",
            "20261123T183244123Z-",
            "20261123T183244123Z-9F2C81AA",
            "20261323T183244123Z-9f2c81aa",
            "20261123T183244123Z-9f2c81aa/",
            "2026 024T094823697Z-9f2c81aa",
            "+2026024T094823697Z-9f2c81aa",
        ] {
            assert!(bad.parse::<SnapshotId>().is_err(), "{bad} passed");
        }
        assert!("x".repeat(64).parse::<Name>().is_ok());
    }
}
