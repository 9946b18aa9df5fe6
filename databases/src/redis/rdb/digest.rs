//! What a file holds, as multisets of keys by database and type, which are compared without keeping
//! the keys.

use std::collections::BTreeMap;
use std::io::Read;

use lifeboat_base::Result;

use super::input::RdbInput;
use super::stream_value::StreamDetail;
use super::values::RedisType;
use super::version::read_version;
use super::{RdbContent, RdbKey, read};
use crate::proof::multiset::{Multiset, ProofKey, Titled};

/// What a file holds.
#[derive(Debug, Default)]
pub(in crate::redis) struct RdbDigest {
    /// The version of the file.
    pub(in crate::redis) version: u32,
    /// Whether it has a checksum.
    pub(in crate::redis) is_checked: bool,
    /// Keys with their values, by type and database.
    groups: BTreeMap<(u64, RedisType), Multiset>,
    /// Keys with the times at which they expire, by database.
    expiries: BTreeMap<u64, Multiset>,
    /// The code of functions.
    functions: Multiset,
    /// How many keys expire no later than the time asked for.
    pub(in crate::redis) expired: u64,
    /// How many keys are without any element, which no server loads.
    pub(in crate::redis) empty: u64,
    /// The highest number of a database.
    pub(in crate::redis) highest_database: u64,
}

impl RdbDigest {
    /// Keys by what they are, for people.
    pub(in crate::redis) fn keys(&self) -> Titled {
        let titled = |((database, redis_type), keys): (&(u64, RedisType), &Multiset)| {
            (format!("{} in database {database}", redis_type.plural()), *keys)
        };
        self.groups.iter().map(titled).collect()
    }

    /// Times of expiry by database, for people.
    pub(in crate::redis) fn expiries(&self) -> Titled {
        self.expiries.iter().map(|(database, times)| (format!("keys in database {database}"), *times)).collect()
    }

    /// The functions, as one definition.
    pub(in crate::redis) fn functions(&self) -> Multiset {
        self.functions
    }

    /// How many keys it has in each database that has any.
    pub(in crate::redis) fn key_counts(&self) -> BTreeMap<u64, u64> {
        let mut counts = BTreeMap::new();
        for ((database, _), keys) in &self.groups {
            *counts.entry(*database).or_default() += keys.count;
        }
        counts
    }

    /// How many keys it has.
    pub(in crate::redis) fn key_count(&self) -> u64 {
        self.groups.values().map(|keys| keys.count).sum()
    }
}

/// Collects a digest.
struct Digesting<'k> {
    key: &'k ProofKey,
    now: i64,
    digest: RdbDigest,
}

impl RdbContent for Digesting<'_> {
    fn key(&mut self, key: &RdbKey<'_>) -> Result<()> {
        let named = || {
            let mut hasher = blake3::Hasher::new_keyed(self.key);
            hasher.update(&(key.name.len() as u64).to_le_bytes()).update(key.name);
            hasher
        };
        let mut hasher = named();
        hasher.update(key.value.as_bytes());
        self.digest.groups.entry((key.database, key.redis_type)).or_default().add(&hasher);
        if let Some(expires) = key.expires {
            let mut hasher = named();
            hasher.update(&expires.to_le_bytes());
            self.digest.expiries.entry(key.database).or_default().add(&hasher);
            self.digest.expired += u64::from(expires <= self.now);
        }
        Ok(())
    }

    fn empty_key(&mut self) {
        self.digest.empty += 1;
    }

    fn function(&mut self, code: &blake3::Hasher, _: &[u8]) -> Result<()> {
        self.digest.functions.add(code);
        Ok(())
    }

    fn database(&mut self, number: u64) {
        self.digest.highest_database = self.digest.highest_database.max(number);
    }
}

/// Reads a file to its checked end. Keys that expire until `now`, in milliseconds since 1970, are
/// counted. Of streams, what files of version `like` hold is compared; `None`: of the file's own.
///
/// # Errors
/// The file is not as a server writes it, or holds what is not known.
pub(in crate::redis) fn digest(from: impl Read, key: &ProofKey, now: i64, like: Option<u32>) -> Result<RdbDigest> {
    let mut input = RdbInput::new(from);
    let version = read_version(&mut input)?;
    let detail = StreamDetail::of_version(like.unwrap_or(version).min(version));
    let mut digesting = Digesting { key, now, digest: RdbDigest { version, ..RdbDigest::default() } };
    let end = read(&mut input, version, detail, key, &mut digesting)
        .map_err(|error| error.within(format!("cannot read the dump, near byte {}", input.position())))?;
    digesting.digest.is_checked = end.is_checked;
    Ok(digesting.digest)
}
