//! Records of logs: what each principal did with what it holds. See "Log" in `FORMAT.md`.
//!
//! A log is a chain: each record has the hash of the one before, and names the newest records of
//! other logs that its writer has seen. So nobody can take one out, change one or cut a log short
//! where somebody remembers more. This module reads and writes the bytes; whoever has the
//! signatures and the hashes checks them.

mod warden;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

pub use self::warden::{
    FailedLook, LookedLock, MAX_FAILED_LOOKS, MAX_LOOKED_LOCKS, MAX_REFUSED_MARKS, MAX_VETOED_MARKS,
    MAX_VETOING_PEOPLE, RefusedMark, VetoedMark, WaitingMarks, WardenLook,
};
use crate::id::{Digest, Name, SEQUENCE_END, SnapshotId};
use crate::requirements::Requirements;
use crate::signed_line;
use crate::strict::{self, Object};
use crate::utc;

/// No record is longer.
pub const MAX_LOG_RECORD_BYTES: usize = 512 << 10;
/// Of which the line may take so much.
const MAX_LOG_LINE_BYTES: usize = MAX_LOG_RECORD_BYTES - (8 << 10);
/// No record has a higher number.
pub const MAX_LOG_NUMBER: u64 = SEQUENCE_END - 1;
/// No record names more heads of other logs.
pub const MAX_LOG_HEADS: usize = 1024;
/// No record names acts of more datasets.
pub const MAX_LOG_ACTS: usize = 1024;
/// No look of a witness names more snapshots.
pub const MAX_SEEN_SNAPSHOTS: usize = 1024;
/// No look of a witness or of a warden is at more datasets.
pub const MAX_LOOKED_DATASETS: usize = 1024;
/// No text in a record is longer, in bytes.
pub const MAX_LOG_TEXT_BYTES: usize = 1024;

/// Whose log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogKind {
    /// A backup host's.
    Hosts,
    /// A drill host's.
    DrillHosts,
    /// An owner's.
    Owners,
    /// A warden's.
    Wardens,
}

impl LogKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Hosts, Self::DrillHosts, Self::Owners, Self::Wardens];

    /// As objects and people write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::DrillHosts => "drill-hosts",
            Self::Owners => "owners",
            Self::Wardens => "wardens",
        }
    }
}

/// A log: whose it is, by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName {
    /// The kind of the principal.
    pub kind: LogKind,
    /// The name of the principal.
    pub name: Name,
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

impl FromStr for LogName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let split = text.split_once('/');
        let parsed = split.and_then(|(kind, name)| {
            let kind = LogKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
            Some(Self { kind, name: name.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            Error::usage(format!("`{text}` names no log"))
                .hint("write it as hosts/NAME, drill-hosts/NAME, owners/NAME or wardens/NAME; `lifeboat audit show` names them")
        })
    }
}

/// The newest record of a log that somebody has seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogHead {
    /// The kind of its principal.
    pub kind: LogKind,
    /// The name of its principal.
    pub name: Name,
    /// The number of the record.
    #[serde(deserialize_with = "record_number")]
    pub number: u64,
    /// The hash of the record as it is stored.
    pub blake3: Digest,
}

impl LogHead {
    /// Whose it is.
    #[must_use]
    pub fn log(&self) -> LogName {
        LogName { kind: self.kind, name: self.name.clone() }
    }
}

/// `KIND/NAME=NUMBER:HASH`, as a paper note has it.
impl fmt::Display for LogHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}:{}", self.kind.as_str(), self.name, self.number, self.blake3)
    }
}

impl FromStr for LogHead {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (log, rest) = text.split_once('=')?;
            let (number, hash) = rest.split_once(':')?;
            let (LogName { kind, name }, number) = (log.parse().ok()?, number.parse().ok()?);
            let is_number = (1..=MAX_LOG_NUMBER).contains(&number);
            is_number.then_some(Self { kind, name, number, blake3: hash.parse().ok()? })
        };
        parse().ok_or_else(|| {
            Error::usage(format!("`{text}` is no head of a log"))
                .hint("write it as KIND/NAME=NUMBER:HASH, as `lifeboat audit verify` prints it")
        })
    }
}

/// The newest act of a dataset that somebody has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenAct {
    /// The dataset.
    pub dataset: Name,
    /// The number of the act.
    #[serde(deserialize_with = "record_number")]
    pub number: u64,
    /// The hash of the act as it is stored.
    pub blake3: Digest,
}

/// A snapshot that a witness has seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeenSnapshot {
    /// The dataset.
    pub dataset: Name,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The hash of its manifest as it is stored.
    pub blake3: Digest,
}

/// What is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum LogEvent {
    /// Data is about to be decrypted and put somewhere.
    Restore {
        /// The dataset.
        dataset: Name,
        /// Which snapshot was asked for: `latest`, an id or its beginning, or `at` and a time.
        #[serde(deserialize_with = "bounded_text")]
        snapshot: String,
        /// Where it goes.
        #[serde(deserialize_with = "bounded_text")]
        target: String,
        /// The user of the operating system.
        #[serde(deserialize_with = "bounded_text")]
        user: String,
        /// Whether it may have gone on although no replica took this record.
        unrecorded: bool,
    },
    /// Data is about to be decrypted and compared.
    Drill {
        /// The dataset.
        dataset: Name,
        /// As in a restore.
        #[serde(deserialize_with = "bounded_text")]
        snapshot: String,
        /// The user of the operating system.
        #[serde(deserialize_with = "bounded_text")]
        user: String,
        /// Whether it may have gone on although no replica took this record.
        unrecorded: bool,
    },
    /// A snapshot was committed.
    Commit {
        /// The dataset.
        dataset: Name,
        /// The number of the act.
        #[serde(deserialize_with = "record_number")]
        number: u64,
        /// The hash of the act as it is stored.
        blake3: Digest,
    },
    /// A mark is about to be written.
    Mark {
        /// The dataset.
        dataset: Name,
        /// The id of the mark.
        id: SnapshotId,
        /// The hash of its object.
        blake3: Digest,
    },
    /// What marks name is about to be deleted.
    Sweep {
        /// The dataset.
        dataset: Name,
        /// The id of the prune record that says what.
        id: SnapshotId,
        /// The hash of its object.
        blake3: Digest,
    },
    /// Keys are about to be made or written into the keyring.
    Keyring {
        /// The user of the operating system.
        #[serde(deserialize_with = "bounded_text")]
        user: String,
    },
    /// A root is about to be put into the replicas.
    Root {
        /// Its version.
        #[serde(deserialize_with = "record_number")]
        version: u64,
        /// The hash of its text.
        blake3: Digest,
    },
    /// The daemon began to go by a configuration.
    Configuration {
        /// The hash of the file.
        blake3: Digest,
    },
    /// The schedule starts no backup for a while, for an operator paused it.
    Pause {
        /// The dataset.
        dataset: Name,
        /// When the pause ends.
        #[serde(with = "utc")]
        until: DateTime<Utc>,
    },
    /// A witness has looked at what is there.
    Witness {
        /// The datasets in which it has seen all: what neither this record nor an earlier one names
        /// was not there.
        #[serde(deserialize_with = "strict::list::<MAX_LOOKED_DATASETS, _, _>")]
        looked: Vec<Name>,
        /// The snapshots that it has not recorded before.
        #[serde(deserialize_with = "bounded_objects::<MAX_SEEN_SNAPSHOTS, _, _>")]
        snapshots: Vec<SeenSnapshot>,
    },
    /// A warden has looked at what is marked.
    Warden(WardenLook),
    /// What a newer program writes.
    #[serde(other)]
    Unknown,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// What a reader must know to understand it.
    pub requires: Requirements,
    /// The vault.
    pub vault: String,
    /// The kind of the principal.
    pub kind: LogKind,
    /// The name of the principal.
    pub principal: Name,
    /// Its number: 1 for the first record of a log.
    #[serde(deserialize_with = "record_number")]
    pub number: u64,
    /// The hash of the record before it, as it is stored; `None` for the first alone.
    #[serde(deserialize_with = "strict::value_or_null")]
    pub previous: Option<Digest>,
    /// When it was written.
    #[serde(with = "utc")]
    pub time: DateTime<Utc>,
    /// What it records.
    #[serde(deserialize_with = "strict::object")]
    pub event: LogEvent,
    /// Why, as somebody said.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_text")]
    pub why: Option<String>,
    /// The newest records of other logs that the writer has seen.
    #[serde(deserialize_with = "bounded_objects::<MAX_LOG_HEADS, _, _>")]
    pub heads: Vec<LogHead>,
    /// The newest acts that the writer has seen.
    #[serde(deserialize_with = "bounded_objects::<MAX_LOG_ACTS, _, _>")]
    pub acts: Vec<SeenAct>,
}

impl LogRecord {
    /// The line that its signature covers.
    ///
    /// # Errors
    /// [`Class::Failed`](lifeboat_base::Class::Failed): it is longer than a record can be.
    pub fn to_line(&self) -> Result<Vec<u8>> {
        signed_line::write(self, MAX_LOG_LINE_BYTES, &format!("record {} of log {}", self.number, self.log()))
    }

    /// Whose it is.
    #[must_use]
    pub fn log(&self) -> LogName {
        LogName { kind: self.kind, name: self.principal.clone() }
    }

    /// Reads the line of record `number` of a log, whose signature was checked. `what` names it in
    /// errors.
    ///
    /// # Errors
    /// [`Class::Integrity`](lifeboat_base::Class::Integrity): it is damaged, requires what this
    /// program does not know, or belongs to another place.
    pub fn of_line(line: &[u8], vault: &str, log: &LogName, number: u64, what: &str) -> Result<Self> {
        let record: Self = signed_line::read(line, what)?;
        let damaged = |why: &str| Error::integrity(format!("{what} is damaged")).because(why.to_owned());
        if record.vault != vault || record.log() != *log || record.number != number {
            let (vault, log, number) = (&record.vault, record.log(), record.number);
            return Err(Error::integrity(format!("{what} belongs to number {number} of log {log} of vault {vault}")));
        }
        if (number == 1) != record.previous.is_none() {
            return Err(damaged("only the first record follows no other"));
        }
        let is_sorted = record.heads.is_sorted_by(|one, next| one.log() < next.log());
        if !is_sorted || record.heads.iter().any(|head| head.log() == *log) {
            return Err(damaged("`heads` are not of other logs, sorted, each once"));
        }
        if !record.acts.is_sorted_by(|one, next| one.dataset < next.dataset) {
            return Err(damaged("`acts` are not sorted by dataset, each once"));
        }
        if let LogEvent::Witness { looked, snapshots } = &record.event {
            let places = |seen: &SeenSnapshot, next: &SeenSnapshot| {
                (&seen.dataset, &seen.snapshot) < (&next.dataset, &next.snapshot)
            };
            if !looked.is_sorted_by(|one, next| one < next) || !snapshots.is_sorted_by(places) {
                return Err(damaged("`looked` or `snapshots` are not sorted, each once"));
            }
        }
        Ok(record)
    }
}

/// Splits a record as it is stored into its line and the signature of this line; `None` if it is
/// none or too long.
#[must_use]
pub fn split_record(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    signed_line::split(stored, MAX_LOG_RECORD_BYTES)
}

/// `text`, or so much of it as a record can hold.
#[must_use]
pub fn cut_to_fit(text: &str) -> String {
    let mut end = text.len().min(MAX_LOG_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn bounded_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fits = text.len() <= MAX_LOG_TEXT_BYTES;
    if fits { Ok(text) } else { Err(D::Error::custom(format!("a text is longer than {MAX_LOG_TEXT_BYTES} bytes"))) }
}

fn some_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    bounded_text(deserializer).map(Some)
}

/// A number from 1 on.
fn record_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match strict::number(deserializer)? {
        0 => Err(D::Error::custom("a number is 0, and they count from 1")),
        number => Ok(number),
    }
}

fn bounded_objects<'de, const MAX: usize, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects = strict::list::<MAX, Object<T>, D>(deserializer)?;
    Ok(objects.into_iter().map(|Object(item)| item).collect())
}

#[cfg(test)]
mod tests;
