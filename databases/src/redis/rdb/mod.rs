//! Reads RDB files, the dumps of Redis and Valkey: of versions 5 to 12 (Redis 2.6 to 8.0, Valkey
//! before 9), and of version 80 (Valkey 9.0 and 9.1).
//!
//! The reader is strict: what it does not know it refuses, and a file counts only after its
//! checksum and its end. Each length comes from whoever wrote the file. So memory is bounded by one
//! key and one packed value, of at most about 1 GiB each, and usually a few kilobytes. Other
//! strings are read in chunks. The form follows `rdb.c` of Redis, and of Valkey.

mod digest;
mod entries;
mod input;
mod lzf;
mod packed;
mod passing;
mod stream_value;
mod strings;
#[cfg(test)]
mod tests;
mod values;
mod version;

use std::io::Read;

use lifeboat_base::{Error, Result};

pub(super) use self::digest::{RdbDigest, digest};
pub(super) use self::entries::{RdbEntry, RdbPayload, entries};
use self::input::{RdbInput, damaged, unsupported};
pub(super) use self::passing::without_passing_fields;
use self::stream_value::StreamDetail;
use self::values::{RedisType, ValueForm, hash_value};
pub(super) use self::version::{FIRST_VALKEY_RDB_VERSION, RDB_HEAD_BYTES, begins_as_dump, version_in};
use crate::proof::multiset::ProofKey;

/// A server with more databases would need much memory for them alone.
pub(super) const MAX_REDIS_DATABASES: u64 = 16_384;

/// What stands between keys.
mod opcode {
    /// Of Valkey alone.
    pub(super) const SLOT_IMPORT: u8 = 243;
    pub(super) const SLOT_INFO: u8 = 244;
    pub(super) const FUNCTION: u8 = 245;
    pub(super) const FUNCTION_PRE_RELEASE: u8 = 246;
    pub(super) const MODULE_AUX: u8 = 247;
    pub(super) const IDLE: u8 = 248;
    pub(super) const FREQUENCY: u8 = 249;
    pub(super) const AUX: u8 = 250;
    pub(super) const RESIZE: u8 = 251;
    pub(super) const EXPIRES_MILLISECONDS: u8 = 252;
    pub(super) const EXPIRES_SECONDS: u8 = 253;
    pub(super) const DATABASE: u8 = 254;
    pub(super) const END: u8 = 255;
    /// Values of modules, before and since version 8.
    pub(super) const MODULE_VALUES: [u8; 2] = [6, 7];
}

/// A key and the hash of its value.
#[derive(Debug)]
pub(super) struct RdbKey<'a> {
    database: u64,
    name: &'a [u8],
    redis_type: RedisType,
    value: blake3::Hash,
    /// When it expires, in milliseconds since 1970.
    expires: Option<i64>,
    /// The form of its value and the value, as they stand in the file, if they are kept.
    raw: &'a [u8],
}

/// What a file holds beside its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RdbEnd {
    /// Whether it has a checksum: a server can leave it out.
    is_checked: bool,
}

/// Takes what a file holds, in its order.
trait RdbContent {
    fn key(&mut self, key: &RdbKey<'_>) -> Result<()>;

    /// A key whose list, set or hash has no element. Some old servers wrote such; none loads it.
    fn empty_key(&mut self);

    /// The code of a library of functions; and what stands in the file of it, if that is kept.
    fn function(&mut self, code: &blake3::Hasher, raw: &[u8]) -> Result<()>;

    /// Whether what stands in the file of the keys of this database (`None`: of functions) is kept.
    fn keeps(&self, database: Option<u64>) -> bool {
        let _ = database;
        false
    }

    /// A database begins, which may be empty.
    fn database(&mut self, number: u64) {
        let _ = number;
    }
}

/// Reads all that follows the version, to the checked end. Of streams, `detail` is hashed.
fn read<R: Read>(
    input: &mut RdbInput<R>,
    version: u32,
    detail: StreamDetail,
    key: &ProofKey,
    content: &mut dyn RdbContent,
) -> Result<RdbEnd> {
    let (mut database, mut expires) = (0, None);
    loop {
        let code = input.byte()?;
        let is_for_key = expires.is_some();
        match code {
            opcode::IDLE => drop(input.length()?),
            opcode::FREQUENCY => drop(input.byte()?),
            opcode::EXPIRES_MILLISECONDS => expires = Some(i64::from_le_bytes(input.exact()?)),
            opcode::EXPIRES_SECONDS => {
                expires = Some(i64::from(i32::from_le_bytes(input.exact()?)).saturating_mul(1000));
            }
            // What follows is not about the key that expires.
            244..=251 | 254..=255 if is_for_key => return Err(damaged("an expiry has no key")),
            opcode::AUX => {
                input.string()?;
                input.string()?;
            }
            opcode::DATABASE => {
                database = input.length()?;
                if database >= MAX_REDIS_DATABASES {
                    return Err(unsupported(&format!("it has a database {database}")));
                }
                content.database(database);
            }
            opcode::RESIZE => {
                input.length()?;
                input.length()?;
            }
            opcode::SLOT_INFO => {
                for _ in 0..3 {
                    input.length()?;
                }
            }
            opcode::SLOT_IMPORT if version >= FIRST_VALKEY_RDB_VERSION => {
                return Err(unsupported("it was made while slots of the cluster were moved to this node"));
            }
            opcode::FUNCTION => {
                let mut hasher = blake3::Hasher::new_keyed(key);
                if content.keeps(None) {
                    input.mark(code);
                }
                input.hash_string(&mut hasher)?;
                content.function(&hasher, input.marked())?;
                input.release();
            }
            opcode::FUNCTION_PRE_RELEASE => {
                return Err(unsupported("it holds functions of a release candidate of Redis 7.0"));
            }
            opcode::MODULE_AUX => {
                let module = module_name(input.length()?);
                return Err(of_module(&format!("it holds data of the module type `{module}`")));
            }
            opcode::END => return end(input),
            form => {
                let name = input.string()?;
                if opcode::MODULE_VALUES.contains(&form) {
                    let module = module_name(input.length()?);
                    return Err(of_module(&format!("a key has a value of the module type `{module}`")));
                }
                if content.keeps(Some(database)) {
                    input.mark(form);
                }
                let form = ValueForm::of(form, version)?;
                let mut hasher = blake3::Hasher::new_keyed(key);
                let elements = hash_value(input, form, detail, key, &mut hasher)?;
                let (value, redis_type) = (hasher.finalize(), form.redis_type());
                match elements {
                    0 => content.empty_key(),
                    _ => {
                        let raw = input.marked();
                        content.key(&RdbKey { database, name: &name, redis_type, value, expires, raw })?;
                    }
                }
                input.release();
                expires = None;
            }
        }
    }
}

fn end<R: Read>(input: &mut RdbInput<R>) -> Result<RdbEnd> {
    let found = input.checksum();
    let told = u64::from_le_bytes(input.exact()?);
    if told != 0 && told != found {
        return Err(damaged("its checksum is wrong"));
    }
    match input.is_at_end()? {
        true => Ok(RdbEnd { is_checked: told != 0 }),
        false => Err(damaged("it goes on behind its end")),
    }
}

fn of_module(what: &str) -> Error {
    unsupported(&format!("{what}, and no drill loads modules"))
}

/// The name of a module's type: nine letters of six bits, and ten bits for its version.
fn module_name(id: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |at: u32| char::from(LETTERS[usize::try_from(id >> (10 + 6 * at) & 63).unwrap_or_default()]);
    (0..9).rev().map(letter).collect()
}
