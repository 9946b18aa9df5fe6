//! Every pack that some manifest names, each once, with a number. Manifests of one dataset name
//! mostly the same packs, so whoever looks at many of them holds numbers and not names.
//!
//! A pack takes 44 bytes, and four to eight more for finding it.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Digest, PackId};
use lifeboat_format::manifest::PackRef;

/// A slot that holds no number.
const FREE: u32 = u32::MAX;
/// Bytes of a row as it is kept on disk: id, size, content, generation.
pub(super) const ROW_BYTES: usize = 44;

/// A [`PackRef`], shorter.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PackRow {
    id: PackId,
    size: u32,
    content: u32,
    generation: u32,
}

impl PackRow {
    fn of(pack: &PackRef) -> Result<Self> {
        let short = |bytes: u64| {
            u32::try_from(bytes).map_err(|_| Error::integrity(format!("pack {} is longer than any can be", pack.id)))
        };
        Ok(Self { id: pack.id, size: short(pack.size)?, content: short(pack.content)?, generation: pack.generation })
    }

    fn pack(&self) -> PackRef {
        let Self { id, size, content, generation } = *self;
        PackRef { id, size: size.into(), content: content.into(), generation }
    }
}

/// Packs by number, from 0. Two manifests that say different things of one pack make two numbers.
#[derive(Default)]
pub(crate) struct PackTable {
    rows: Vec<PackRow>,
    /// Numbers, each in the first free slot from the hash of its pack's id on. Their count is a
    /// power of two, and a quarter of them at least is free.
    slots: Vec<u32>,
    hasher: RandomState,
}

impl PackTable {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The pack of a number.
    pub(crate) fn get(&self, number: u32) -> PackRef {
        self.rows[number as usize].pack()
    }

    /// All packs, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PackRef> {
        self.rows.iter().map(PackRow::pack)
    }

    /// The number of a pack, which it gets if it has none.
    ///
    /// # Errors
    /// No pack is so long.
    pub(super) fn number(&mut self, pack: &PackRef) -> Result<u32> {
        let row = PackRow::of(pack)?;
        if let Some(number) = self.numbers(&row.id).find(|number| self.rows[*number as usize] == row) {
            return Ok(number);
        }
        Ok(self.push(row))
    }

    /// Adds a pack of another table. Its number here.
    pub(super) fn adopt(&mut self, other: &Self, number: u32) -> u32 {
        self.push(other.rows[number as usize])
    }

    /// The numbers of this pack: none, or one, or several if manifests contradict each other.
    pub(crate) fn numbers(&self, id: &PackId) -> impl Iterator<Item = u32> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut slot = self.hasher.hash_one(id) as usize;
        std::iter::from_fn(move || {
            loop {
                let number = *self.slots.get(slot & mask).filter(|number| **number != FREE)?;
                slot = slot.wrapping_add(1);
                if self.rows[number as usize].id == *id {
                    return Some(number);
                }
            }
        })
    }

    fn push(&mut self, row: PackRow) -> u32 {
        let number = self.rows.len() as u32;
        self.rows.push(row);
        if self.rows.len() * 4 > self.slots.len() * 3 {
            self.slots = vec![FREE; (self.slots.len() * 2).max(16)];
            (0..self.rows.len() as u32).for_each(|number| self.place(number));
        } else {
            self.place(number);
        }
        number
    }

    fn place(&mut self, number: u32) {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(self.rows[number as usize].id) as usize & mask;
        while self.slots[slot] != FREE {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = number;
    }

    /// Appends the packs of these numbers, for [`Self::read`].
    pub(super) fn write(&self, numbers: Range<usize>, out: &mut Vec<u8>) {
        for PackRow { id, size, content, generation } in &self.rows[numbers] {
            out.extend(id.0);
            [size, content, generation].iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
    }

    /// Takes the next `count` packs off `input`; `None` if it has fewer.
    pub(super) fn read(&mut self, count: usize, input: &mut &[u8]) -> Option<()> {
        let (rows, rest) = input.split_at_checked(count.checked_mul(ROW_BYTES)?)?;
        for row in rows.chunks_exact(ROW_BYTES) {
            let (id, rest) = row.split_first_chunk::<32>()?;
            let number = |at: usize| rest[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            self.push(PackRow { id: Digest(*id), size: number(0)?, content: number(4)?, generation: number(8)? });
        }
        *input = rest;
        Some(())
    }
}
