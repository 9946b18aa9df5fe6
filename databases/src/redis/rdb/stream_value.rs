//! Values of type stream: entries in listpacks, consumer groups, and what is pending in them.

use std::io::Read;

use lifeboat_base::Result;

use super::input::{RdbInput, damaged};
use super::packed::{Listpack, PackedEntries, PackedEntry};

/// The entry was deleted.
const DELETED: i64 = 1;
/// The entry has the fields of the first one.
const SAME_FIELDS: i64 = 2;

/// What of a stream is compared. Servers from before 7.0 and 7.2 did not keep all of it, and newer
/// ones make something up for what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamDetail {
    /// Counters of what was ever added, deleted and read: since 7.0.
    counters: bool,
    /// When a consumer was last active: since 7.2.
    active: bool,
}

impl StreamDetail {
    /// What a file of this version holds.
    pub(super) fn of_version(version: u32) -> Self {
        Self { counters: version >= 10, active: version >= 11 }
    }
}

/// The generations of a stream's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StreamForm {
    First,
    WithCounters,
    WithActiveTimes,
}

/// Puts a stream into a hash, in its order.
pub(super) fn hash_stream<R: Read>(
    input: &mut RdbInput<R>,
    form: StreamForm,
    detail: StreamDetail,
    hasher: &mut blake3::Hasher,
) -> Result<()> {
    let nodes = input.length()?;
    // Apart, so that no entry looks like what follows the entries.
    let (mut entries, mut hash_of_entries) = (0_u64, blake3::Hasher::new());
    for _ in 0..nodes {
        let node = input.string()?;
        let first: [u8; 16] = node.try_into().map_err(|_| damaged("a part of a stream has no id"))?;
        let pack = input.string()?;
        entries += hash_entries(first, &pack, &mut hash_of_entries)?;
    }
    let length = input.length()?;
    if length != entries {
        return Err(damaged("a stream has not as many entries as it says"));
    }
    hasher.update(hash_of_entries.finalize().as_bytes());
    hash_numbers(&[length, input.length()?, input.length()?], hasher);
    if form >= StreamForm::WithCounters {
        let told = [input.length()?, input.length()?, input.length()?, input.length()?, input.length()?];
        if detail.counters {
            hash_numbers(&told, hasher);
        }
    }
    let groups = input.length()?;
    hash_numbers(&[groups], hasher);
    for _ in 0..groups {
        hash_group(input, form, detail, hasher)?;
    }
    Ok(())
}

fn hash_numbers(numbers: &[u64], hasher: &mut blake3::Hasher) {
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
}

fn hash_group<R: Read>(
    input: &mut RdbInput<R>,
    form: StreamForm,
    detail: StreamDetail,
    hasher: &mut blake3::Hasher,
) -> Result<()> {
    input.hash_string(hasher)?;
    hash_numbers(&[input.length()?, input.length()?], hasher);
    if form >= StreamForm::WithCounters {
        let read = input.length()?;
        if detail.counters {
            hash_numbers(&[read], hasher);
        }
    }
    let pending = input.length()?;
    hash_numbers(&[pending], hasher);
    for _ in 0..pending {
        let (id, delivered): ([u8; 16], [u8; 8]) = (input.exact()?, input.exact()?);
        hasher.update(&id).update(&delivered);
        hash_numbers(&[input.length()?], hasher);
    }
    let consumers = input.length()?;
    hash_numbers(&[consumers], hasher);
    for _ in 0..consumers {
        input.hash_string(hasher)?;
        hasher.update(&input.exact::<8>()?);
        if form >= StreamForm::WithActiveTimes {
            let active = input.exact::<8>()?;
            if detail.active {
                hasher.update(&active);
            }
        }
        let pending = input.length()?;
        hash_numbers(&[pending], hasher);
        for _ in 0..pending {
            hasher.update(&input.exact::<16>()?);
        }
    }
    Ok(())
}

/// Entries of one part of a stream. Those that were deleted do not count. Returns how many do.
fn hash_entries(first: [u8; 16], pack: &[u8], hasher: &mut blake3::Hasher) -> Result<u64> {
    let half = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| first[at + byte]));
    let (milliseconds, sequence) = (half(0), half(8));
    let mut pack = Listpack::new(pack)?;
    let told = (count(pack.expect()?)?, count(pack.expect()?)?);
    // Hashed once, and not for each entry that has them: long names and many entries would take
    // days.
    let field_count = count(pack.expect()?)?;
    let mut names = blake3::Hasher::new();
    for _ in 0..field_count {
        pack.expect()?.hash(&mut names);
    }
    let names = names.finalize();
    if number(pack.expect()?)? != 0 {
        return Err(damaged("the first entry of a part of a stream has no end"));
    }
    let (mut alive, mut dead) = (0, 0);
    while let Some(flags) = pack.next()? {
        let flags = number(flags)?;
        let added = |to: u64, difference: PackedEntry<'_>| {
            number(difference).map(|difference| to.wrapping_add_signed(difference))
        };
        let id = [added(milliseconds, pack.expect()?)?, added(sequence, pack.expect()?)?];
        let mut entry = blake3::Hasher::new();
        let into = if flags & DELETED == 0 { &mut *hasher } else { &mut entry };
        hash_numbers(&id, into);
        let (fields, values) = if flags & SAME_FIELDS == 0 {
            let own = count(pack.expect()?)?;
            let (mut names, mut values) = (blake3::Hasher::new(), blake3::Hasher::new());
            for _ in 0..own {
                pack.expect()?.hash(&mut names);
                pack.expect()?.hash(&mut values);
            }
            hash_numbers(&[own], into);
            (names.finalize(), values)
        } else {
            let mut values = blake3::Hasher::new();
            for _ in 0..field_count {
                pack.expect()?.hash(&mut values);
            }
            hash_numbers(&[field_count], into);
            (names, values)
        };
        into.update(fields.as_bytes()).update(values.finalize().as_bytes());
        // How many entries of the listpack that was.
        number(pack.expect()?)?;
        *(if flags & DELETED == 0 { &mut alive } else { &mut dead }) += 1;
    }
    match (alive, dead) == told {
        true => Ok(alive),
        false => Err(damaged("a part of a stream has not as many entries as it says")),
    }
}

fn number(entry: PackedEntry<'_>) -> Result<i64> {
    entry.number().ok_or_else(|| damaged("a part of a stream has a text in place of a number"))
}

fn count(entry: PackedEntry<'_>) -> Result<u64> {
    u64::try_from(number(entry)?).map_err(|_| damaged("a part of a stream counts below zero"))
}
