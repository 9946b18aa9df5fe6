//! Values of every type and encoding, each as one hash that does not depend on the encoding.
//!
//! Lists and streams keep their order. Sets, sorted sets and hashes are multisets: a server writes
//! them in any order. (The order of a sorted set is that of its scores and members.)

use std::io::Read;

use lifeboat_base::Result;

use super::input::{RdbInput, damaged, unsupported};
use super::packed::{Intset, Listpack, PackedEntries, Ziplist, Zipmap};
use super::stream_value::{StreamDetail, StreamForm, hash_stream};
use super::version::FIRST_VALKEY_RDB_VERSION;
use crate::proof::multiset::{Multiset, ProofKey};

/// What Valkey writes for a field that does not expire.
const NEVER_EXPIRES: i64 = -1;

/// The types of values, as people name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::redis) enum RedisType {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
}

impl RedisType {
    /// Several of them.
    pub(in crate::redis) fn plural(self) -> &'static str {
        match self {
            Self::String => "strings",
            Self::List => "lists",
            Self::Set => "sets",
            Self::SortedSet => "sorted sets",
            Self::Hash => "hashes",
            Self::Stream => "streams",
        }
    }
}

/// The forms of values in a file: the type, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueForm {
    String,
    List,
    Set,
    /// Scores as text.
    SortedSetOfTexts,
    SortedSet,
    Hash,
    HashZipmap,
    ListZiplist,
    Intset,
    SortedSetZiplist,
    HashZiplist,
    ListOfZiplists,
    HashListpack,
    SortedSetListpack,
    /// Nodes that are one element or a listpack.
    ListOfListpacks,
    SetListpack,
    /// Fields that expire, as Redis writes them.
    HashOfExpiring,
    HashListpackOfExpiring,
    /// Fields that expire, as Valkey writes them.
    ValkeyHashOfExpiring,
    Stream(StreamForm),
}

impl ValueForm {
    /// The form with this number, in a file of this version. From 22 on, Redis and Valkey mean
    /// other forms by the same numbers.
    ///
    /// # Errors
    /// It is of a module, or unknown.
    pub(super) fn of(number: u8, version: u32) -> Result<Self> {
        let is_of_valkey = version >= FIRST_VALKEY_RDB_VERSION;
        Ok(match number {
            0 => Self::String,
            1 => Self::List,
            2 => Self::Set,
            3 => Self::SortedSetOfTexts,
            4 => Self::Hash,
            5 => Self::SortedSet,
            9 => Self::HashZipmap,
            10 => Self::ListZiplist,
            11 => Self::Intset,
            12 => Self::SortedSetZiplist,
            13 => Self::HashZiplist,
            14 => Self::ListOfZiplists,
            15 => Self::Stream(StreamForm::First),
            16 => Self::HashListpack,
            17 => Self::SortedSetListpack,
            18 => Self::ListOfListpacks,
            19 => Self::Stream(StreamForm::WithCounters),
            20 => Self::SetListpack,
            21 => Self::Stream(StreamForm::WithActiveTimes),
            22 if is_of_valkey => Self::ValkeyHashOfExpiring,
            24 if !is_of_valkey => Self::HashOfExpiring,
            25 if !is_of_valkey => Self::HashListpackOfExpiring,
            22 | 23 if !is_of_valkey => return Err(unsupported("it holds hashes of a release candidate of Redis 7.4")),
            _ => return Err(damaged(&format!("there is a value of the unknown type {number}"))),
        })
    }

    pub(super) fn redis_type(self) -> RedisType {
        match self {
            Self::String => RedisType::String,
            Self::List | Self::ListZiplist | Self::ListOfZiplists | Self::ListOfListpacks => RedisType::List,
            Self::Set | Self::Intset | Self::SetListpack => RedisType::Set,
            Self::SortedSet | Self::SortedSetOfTexts | Self::SortedSetZiplist | Self::SortedSetListpack => {
                RedisType::SortedSet
            }
            Self::Hash
            | Self::HashZipmap
            | Self::HashZiplist
            | Self::HashListpack
            | Self::HashOfExpiring
            | Self::HashListpackOfExpiring
            | Self::ValkeyHashOfExpiring => RedisType::Hash,
            Self::Stream(_) => RedisType::Stream,
        }
    }
}

/// Reads the value of a key, and puts it into `hasher`. Returns how many elements it has; a string
/// and a stream count as one.
pub(super) fn hash_value<R: Read>(
    input: &mut RdbInput<R>,
    form: ValueForm,
    detail: StreamDetail,
    key: &ProofKey,
    hasher: &mut blake3::Hasher,
) -> Result<u64> {
    let new = || blake3::Hasher::new_keyed(key);
    let mut members = Multiset::default();
    match form {
        ValueForm::String => return input.hash_string(hasher).map(|()| 1),
        ValueForm::Stream(form) => return hash_stream(input, form, detail, hasher).map(|()| 1),
        ValueForm::List => {
            let elements = input.length()?;
            for _ in 0..elements {
                input.hash_string(hasher)?;
            }
            return Ok(elements);
        }
        ValueForm::ListZiplist => {
            let pack = input.string()?;
            return hash_all(Ziplist::new(&pack)?, hasher);
        }
        ValueForm::ListOfZiplists => {
            let mut elements = 0;
            for _ in 0..input.length()? {
                let pack = input.string()?;
                elements += hash_all(Ziplist::new(&pack)?, hasher)?;
            }
            return Ok(elements);
        }
        ValueForm::ListOfListpacks => {
            let mut elements = 0;
            for _ in 0..input.length()? {
                elements += match input.length()? {
                    1 => input.hash_string(hasher).map(|()| 1)?,
                    2 => {
                        let pack = input.string()?;
                        hash_all(Listpack::new(&pack)?, hasher)?
                    }
                    _ => return Err(damaged("a part of a list has an unknown form")),
                };
            }
            return Ok(elements);
        }
        ValueForm::Set => {
            for _ in 0..input.length()? {
                let mut member = new();
                input.hash_string(&mut member)?;
                members.add(&member);
            }
        }
        ValueForm::Intset => add_members(Intset::new(&input.string()?)?, key, &mut members)?,
        ValueForm::SetListpack => add_members(Listpack::new(&input.string()?)?, key, &mut members)?,
        ValueForm::SortedSet | ValueForm::SortedSetOfTexts => {
            for _ in 0..input.length()? {
                let mut member = new();
                input.hash_string(&mut member)?;
                let score = match form {
                    ValueForm::SortedSet => f64::from_le_bytes(input.exact()?),
                    _ => score_of_text(input)?,
                };
                hash_score(score, &mut member);
                members.add(&member);
            }
        }
        ValueForm::SortedSetZiplist => add_scored(Ziplist::new(&input.string()?)?, key, &mut members)?,
        ValueForm::SortedSetListpack => add_scored(Listpack::new(&input.string()?)?, key, &mut members)?,
        ValueForm::Hash => {
            for _ in 0..input.length()? {
                let mut pair = new();
                input.hash_string(&mut pair)?;
                input.hash_string(&mut pair)?;
                add_pair(&mut pair, None, &mut members);
            }
        }
        ValueForm::ValkeyHashOfExpiring => {
            for _ in 0..input.length()? {
                let mut pair = new();
                input.hash_string(&mut pair)?;
                input.hash_string(&mut pair)?;
                let expires = match i64::from_le_bytes(input.exact()?) {
                    NEVER_EXPIRES => None,
                    told => Some(u64::try_from(told).map_err(|_| expires_at_no_time())?),
                };
                add_pair(&mut pair, expires, &mut members);
            }
        }
        ValueForm::HashOfExpiring => {
            let earliest = u64::from_le_bytes(input.exact()?);
            for _ in 0..input.length()? {
                let mut pair = new();
                // Counted from the earliest, and one more, as 0 is for a field that stays.
                let expires = match input.length()? {
                    0 => None,
                    later => Some(earliest.checked_add(later - 1).ok_or_else(expires_at_no_time)?),
                };
                input.hash_string(&mut pair)?;
                input.hash_string(&mut pair)?;
                add_pair(&mut pair, expires, &mut members);
            }
        }
        ValueForm::HashZipmap => add_pairs(Zipmap::new(&input.string()?)?, false, key, &mut members)?,
        ValueForm::HashZiplist => add_pairs(Ziplist::new(&input.string()?)?, false, key, &mut members)?,
        ValueForm::HashListpack => add_pairs(Listpack::new(&input.string()?)?, false, key, &mut members)?,
        ValueForm::HashListpackOfExpiring => {
            // The earliest, which is among those of the fields.
            input.exact::<8>()?;
            add_pairs(Listpack::new(&input.string()?)?, true, key, &mut members)?;
        }
    }
    members.put_into(hasher);
    Ok(members.count)
}

fn hash_all<'a>(mut entries: impl PackedEntries<'a>, hasher: &mut blake3::Hasher) -> Result<u64> {
    let mut elements = 0;
    while let Some(entry) = entries.next()? {
        entry.hash(hasher);
        elements += 1;
    }
    Ok(elements)
}

fn add_members<'a>(mut entries: impl PackedEntries<'a>, key: &ProofKey, members: &mut Multiset) -> Result<()> {
    while let Some(entry) = entries.next()? {
        let mut member = blake3::Hasher::new_keyed(key);
        entry.hash(&mut member);
        members.add(&member);
    }
    Ok(())
}

fn add_scored<'a>(mut entries: impl PackedEntries<'a>, key: &ProofKey, members: &mut Multiset) -> Result<()> {
    while let Some(entry) = entries.next()? {
        let mut member = blake3::Hasher::new_keyed(key);
        entry.hash(&mut member);
        hash_score(entries.expect()?.score().ok_or_else(no_score)?, &mut member);
        members.add(&member);
    }
    Ok(())
}

fn add_pairs<'a>(
    mut entries: impl PackedEntries<'a>,
    expiring: bool,
    key: &ProofKey,
    members: &mut Multiset,
) -> Result<()> {
    while let Some(field) = entries.next()? {
        let mut pair = blake3::Hasher::new_keyed(key);
        field.hash(&mut pair);
        entries.expect()?.hash(&mut pair);
        let expires = match expiring {
            false => None,
            true => {
                let told = entries.expect()?.number().and_then(|told| u64::try_from(told).ok());
                Some(told.ok_or_else(expires_at_no_time)?).filter(|told| *told != 0)
            }
        };
        add_pair(&mut pair, expires, members);
    }
    Ok(())
}

/// Adds a field with its value, and when it expires, in milliseconds since 1970.
fn add_pair(pair: &mut blake3::Hasher, expires: Option<u64>, members: &mut Multiset) {
    match expires {
        None => pair.update(&[0]),
        Some(expires) => pair.update(&[1]).update(&expires.to_le_bytes()),
    };
    members.add(pair);
}

fn expires_at_no_time() -> lifeboat_base::Error {
    damaged("a field of a hash expires at no time")
}

fn hash_score(score: f64, member: &mut blake3::Hasher) {
    // To a server both zeros are one score, and it writes now this and now that.
    member.update(&(score + 0.0).to_bits().to_le_bytes());
}

fn no_score() -> lifeboat_base::Error {
    damaged("a member of a sorted set has no score")
}

/// A score as text, after its length. Three lengths stand for what is no number.
fn score_of_text<R: Read>(input: &mut RdbInput<R>) -> Result<f64> {
    let length = match input.byte()? {
        0xff => return Ok(f64::NEG_INFINITY),
        0xfe => return Ok(f64::INFINITY),
        0xfd => return Err(no_score()),
        length => u64::from(length),
    };
    let mut text = Vec::new();
    input.raw(length, &mut |chunk| {
        text.extend_from_slice(chunk);
        Ok(())
    })?;
    std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).ok_or_else(no_score)
}
