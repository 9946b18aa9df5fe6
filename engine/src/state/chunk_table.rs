//! A map from chunk ids to numbers. It takes 14 bytes a chunk, however large it is.
//!
//! An id is a keyed hash, so its bits are as good as random. The first 12 bits choose one of 4096
//! shards, and 80 more bits tell chunks apart within a shard. Two different chunks agree in these
//! 92 bits with a probability of 2⁻⁹². A run that looks up n chunks among m known ones therefore
//! errs with a probability of n·m·2⁻⁹²: 2·10⁻¹⁴ if both are ten million (5 TB in chunks of
//! 512 KiB), and 2·10⁻⁸ if both are ten thousand million. Nobody can search for such a pair
//! without the dataset's key.
//!
//! A shard is a sorted array, so no memory is spent on pointers or empty slots. In a table of ten
//! million chunks a shard has about 34 KB, and an insertion moves half of that on average.
//!
//! This is not an embedded store because ids are random: each look-up in a store that does not fit
//! its cache would read the disk. The store's files would also have to be sealed, locked and
//! repaired.

use lifeboat_format::id::ChunkId;

const SHARDS: usize = 4096;
const FINGERPRINT_BYTES: usize = 10;
const ENTRY_BYTES: usize = FINGERPRINT_BYTES + 4;

/// A fingerprint, then a number. Both are big-endian, so that an entry sorts as one number.
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

    /// The number is in the lowest 32 bits, and the fingerprint above it.
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

/// Builds a [`ChunkTable`].
pub struct TableBuilder(Vec<Vec<Entry>>);

impl TableBuilder {
    /// An empty builder. About `expected` entries fit before it has to grow.
    #[must_use]
    pub fn new(expected: usize) -> Self {
        let each = expected / SHARDS;
        // Shards fill at random. The mean plus two standard deviations is enough for nearly all.
        let most = each + 2 * each.isqrt();
        Self((0..SHARDS).map(|_| Vec::with_capacity(most)).collect())
    }

    /// Adds a chunk. If a chunk is added several times, its lowest number counts.
    pub fn add(&mut self, id: &ChunkId, number: u32) {
        push(&mut self.0[shard(id)], Entry::new(id, number));
    }

    /// The finished map.
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

/// A map from chunk ids to numbers. The header of this module says how.
pub struct ChunkTable(Vec<Vec<Entry>>);

impl ChunkTable {
    /// The chunk's number; `None` if the map does not have the chunk.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<u32> {
        let shard = &self.0[shard(id)];
        search(shard, id).ok().map(|at| shard[at].number())
    }

    /// Sets a chunk's number and replaces an earlier one.
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

/// Appends, and grows a full vector by an eighth: doubling would waste too much memory.
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
