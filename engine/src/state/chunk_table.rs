//! Chunk id → number, small: 14 bytes a chunk, whatever the map's size.
//!
//! An id is a keyed hash, so its bits are as good as random: the first 12 choose one of 4096
//! shards, 80 more tell chunks apart in it. Two different chunks agree in these 92 bits with a
//! probability of 2⁻⁹²; a run that looks up n chunks among m known ones errs with n·m·2⁻⁹²: 2·10⁻¹⁴
//! for ten million (10 TB) each, 2·10⁻⁸ for ten thousand million. Whoever does not know the
//! dataset's key cannot search for such a pair.
//!
//! A shard is a sorted array: nothing is spent on pointers or empty slots, and an insertion moves
//! some 20 KiB at most in a table of ten million.
//!
//! Why this is not an embedded store: ids are random, so each look-up in a store that does not fit
//! its cache reads the disk, and its files would have to be sealed, locked and repaired.

use lifeboat_format::id::ChunkId;

const SHARDS: usize = 4096;
const FINGERPRINT_BYTES: usize = 10;
const ENTRY_BYTES: usize = FINGERPRINT_BYTES + 4;

/// Fingerprint, number; both big-endian, so that they sort as one number.
#[derive(Clone, Copy)]
struct Entry([u8; ENTRY_BYTES]);

impl Entry {
    fn new(id: &ChunkId, number: u32) -> Self {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..FINGERPRINT_BYTES].copy_from_slice(&id.0[2..2 + FINGERPRINT_BYTES]);
        bytes[FINGERPRINT_BYTES..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    #[inline]
    fn of(key: u128) -> Self {
        let [_, _, bytes @ ..] = key.to_be_bytes();
        Self(bytes)
    }

    /// The fingerprint above, the number in the lowest 32 bits.
    #[inline]
    fn key(&self) -> u128 {
        let mut bytes = [0; 16];
        bytes[2..].copy_from_slice(&self.0);
        u128::from_be_bytes(bytes)
    }

    #[inline]
    fn fingerprint(&self) -> u128 {
        self.key() >> 32
    }

    fn number(&self) -> u32 {
        self.key() as u32
    }
}

fn shard(id: &ChunkId) -> usize {
    usize::from(id.0[0]) << 4 | usize::from(id.0[1] >> 4)
}

/// A map that is being made.
pub struct TableBuilder(Vec<Vec<Entry>>);

impl TableBuilder {
    /// `expected` entries fit without growth.
    #[must_use]
    pub fn new(expected: usize) -> Self {
        let each = expected / SHARDS;
        // Shards are filled at random: two standard deviations more than the mean is enough for
        // nearly all.
        let most = each + 2 * each.isqrt();
        Self((0..SHARDS).map(|_| Vec::with_capacity(most)).collect())
    }

    /// Of several numbers for one chunk the lowest counts.
    pub fn add(&mut self, id: &ChunkId, number: u32) {
        push(&mut self.0[shard(id)], Entry::new(id, number));
    }

    /// The map of all that was added.
    #[must_use]
    pub fn finish(mut self) -> ChunkTable {
        let mut keys = Vec::new();
        for shard in &mut self.0 {
            keys.clear();
            keys.extend(shard.iter().map(Entry::key));
            keys.sort_unstable();
            keys.dedup_by_key(|key| *key >> 32);
            shard.clear();
            shard.extend(keys.iter().map(|key| Entry::of(*key)));
        }
        ChunkTable(self.0)
    }
}

/// The map.
pub struct ChunkTable(Vec<Vec<Entry>>);

impl ChunkTable {
    /// The chunk's number.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<u32> {
        let shard = &self.0[shard(id)];
        search(shard, id).ok().map(|at| shard[at].number())
    }

    /// Gives a chunk a number, anew or for the first time.
    pub fn put(&mut self, id: &ChunkId, number: u32) {
        let shard = &mut self.0[shard(id)];
        match search(shard, id) {
            Ok(at) => shard[at] = Entry::new(id, number),
            Err(at) => {
                push(shard, Entry::new(id, number));
                shard[at..].rotate_right(1);
            }
        }
    }
}

fn search(shard: &[Entry], id: &ChunkId) -> Result<usize, usize> {
    shard.binary_search_by_key(&Entry::new(id, 0).fingerprint(), Entry::fingerprint)
}

/// Grows by an eighth: doubling would waste more than it saves.
pub(crate) fn push<T>(many: &mut Vec<T>, one: T) {
    if many.len() == many.capacity() {
        many.reserve_exact(many.len() / 8 + 4);
    }
    many.push(one);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use lifeboat_format::id::Digest;

    fn id(seed: u16) -> ChunkId {
        Digest(*blake3::hash(&seed.to_le_bytes()).as_bytes())
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(built: Vec<(u16, u32)>, put: Vec<(u16, u32)>, expected in 0usize..5000) {
            let mut model = HashMap::new();
            let mut builder = TableBuilder::new(expected);
            for (seed, number) in &built {
                builder.add(&id(*seed), *number);
                let lowest: &mut u32 = model.entry(*seed).or_insert(*number);
                *lowest = (*lowest).min(*number);
            }
            let mut table = builder.finish();
            for (seed, number) in put {
                table.put(&id(seed), number);
                model.insert(seed, number);
            }
            for seed in 0..=u16::MAX {
                prop_assert_eq!(table.find(&id(seed)), model.get(&seed).copied());
            }
        }
    }
}
