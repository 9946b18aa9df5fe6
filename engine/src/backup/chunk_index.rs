//! The index of known chunks: where the chunk with an id lies. Each run builds it anew from index
//! segments and the journal.
//!
//! A pack counts only if it has the current key generation, and if at least one replica lists it
//! with the right size. A chunk whose pack is gone is unknown, and is uploaded again. The run adds
//! its own chunks as it meets them.
//!
//! Older chunks are numbered in the order in which they were stored, one pack after the other. So a
//! number tells a chunk's place, its length, and which chunk came next.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lifeboat_format::id::{ChunkId, PackId, SnapshotId};
use lifeboat_format::index::{IndexSegment, IndexedPack};
use lifeboat_format::manifest::PackRef;
use lifeboat_store::SharedReplica;

use super::kept_segments::KeptSegments;
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::unbelieved::Unbelieved;
use crate::state::chunk_table;
use crate::state::chunk_table::ChunkTable;

/// Chunks of this run are numbered from here on, and older ones from 0. So there may be 2³¹ older
/// chunks, about a thousand terabytes in chunks of 512 KiB.
const FIRST_OWN_NUMBER: u32 = 1 << 31;
/// The number of a chunk of this run that is in no pack yet.
const UNPLACED: u32 = u32::MAX;

/// How many bytes a chunk takes in an index segment: its id, its length, and a share of its pack's
/// record.
const BYTES_PER_CHUNK: u64 = 35;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredAt {
    /// The number of its pack, among older packs or among those of this run.
    pub pack: u32,
    /// The offset in the pack's content, in bytes.
    pub offset: u32,
}

/// Every chunk that need not be stored again.
pub(crate) struct ChunkIndex {
    older: StoredChunks,
    /// The key generation of all older packs.
    generation: u32,
    /// Older packs that no index segment lists yet. A run that refers to one must list it.
    uncommitted: HashMap<u32, IndexedPack>,
    known: Mutex<Known>,
}

/// Chunks of older packs, by number.
#[derive(Default)]
struct StoredChunks {
    lengths: Vec<Length>,
    packs: Vec<StoredPack>,
}

/// The length of a chunk, less one: the largest chunk has 16 MiB, and so fits three bytes.
struct Length([u8; 3]);

impl Length {
    fn new(length: u32) -> Option<Self> {
        let [0, bytes @ ..] = length.checked_sub(1)?.to_be_bytes() else { return None };
        Some(Self(bytes))
    }

    fn get(&self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_be_bytes([0, a, b, c]) + 1
    }
}

struct StoredPack {
    id: PackId,
    /// The length of its ciphertext, in bytes.
    size: u64,
    /// The number of its first chunk.
    first: u32,
}

struct Known {
    table: ChunkTable,
    /// Where this run's own chunks lie. The first one has the number [`FIRST_OWN_NUMBER`].
    own: Vec<StoredAt>,
}

impl ChunkIndex {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a chunk that an earlier run stored.
    pub(crate) fn find_older(&self, id: &ChunkId) -> Option<u32> {
        self.known().table.find(id).filter(|number| *number < FIRST_OWN_NUMBER)
    }

    /// The length of an older chunk in bytes; `None` if no chunk has this number.
    pub(crate) fn length(&self, number: u32) -> Option<u32> {
        self.older.lengths.get(number as usize).map(Length::get)
    }

    /// Where an older chunk lies. [`Self::pack`] tells the pack.
    pub(crate) fn place(&self, number: u32) -> StoredAt {
        let StoredChunks { lengths, packs } = &self.older;
        let pack = packs.partition_point(|pack| pack.first <= number).saturating_sub(1);
        StoredAt {
            pack: pack as u32,
            offset: lengths[packs[pack].first as usize..number as usize].iter().map(Length::get).sum(),
        }
    }

    /// Whether the caller is the first in this run to meet this chunk, and no older pack has it.
    /// Then the caller must store it, because nobody else will.
    pub(crate) fn claim(&self, id: &ChunkId) -> bool {
        let table = &mut self.known().table;
        let first = table.find(id).is_none();
        if first {
            table.put(id, UNPLACED);
        }
        first
    }

    /// Says where in the packs of this run a claimed chunk was stored.
    pub(crate) fn stored(&self, id: &ChunkId, place: StoredAt) {
        let mut known = self.known();
        let number = FIRST_OWN_NUMBER | known.own.len() as u32;
        known.own.push(place);
        known.table.put(id, number);
    }

    /// Where this run stored a chunk; `None` if it has not stored it yet.
    pub(crate) fn placed(&self, id: &ChunkId) -> Option<StoredAt> {
        let known = self.known();
        let number = known.table.find(id).filter(|number| *number >= FIRST_OWN_NUMBER)?;
        known.own.get((number & !FIRST_OWN_NUMBER) as usize).copied()
    }

    /// An older pack, and its record if no index segment lists it yet.
    pub(crate) fn pack(&self, place: StoredAt) -> (PackRef, Option<&IndexedPack>) {
        let (StoredChunks { lengths, packs }, at) = (&self.older, place.pack as usize);
        let end = packs.get(at + 1).map_or(lengths.len(), |next| next.first as usize);
        let content = lengths[packs[at].first as usize..end].iter().map(|length| u64::from(length.get())).sum();
        let StoredPack { id, size, .. } = packs[at];
        let pack = PackRef { id, size, content, generation: self.generation };
        (pack, self.uncommitted.get(&place.pack))
    }

    /// Reads every index segment that any replica holds, and the journal.
    ///
    /// A segment that cannot be read is left out with a warning. Its chunks are uploaded again.
    pub(crate) async fn build(
        documents: &Documents<'_>,
        inventories: &[Inventory],
        generation: u32,
        journalled: Vec<IndexedPack>,
        mut kept: KeptSegments<'_>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let present =
            |pack: &IndexedPack| inventories.iter().any(|inventory| inventory.packs.get(&pack.id) == Some(&pack.size));
        let most = |count: fn(&Inventory) -> u64| inventories.iter().map(count).max().unwrap_or_default();
        // A listing may say anything about sizes, so no more is reserved at once than a run may
        // hold.
        let segment_bytes = most(|inventory| inventory.index_bytes).min(documents.memory / 2);
        let empty = || IndexBuilder::new(segment_bytes, most(|inventory| inventory.packs.len() as u64));
        let mut index = empty();
        let segments: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.indexes).collect();
        let add = |index: &mut IndexBuilder, segment: &IndexSegment| {
            let packs = segment.packs().filter(|_| segment.generation == generation);
            packs
                .filter(|pack| pack.as_ref().map_or(true, present))
                .try_for_each(|pack| pack.map(|pack| _ = index.add(&pack)))
        };
        if kept.read(&segments, |segment| add(&mut index, &segment).ok()).is_none() {
            index = empty();
        }
        let mut unreadable = Unbelieved::new("an index segment that cannot be read");
        for snapshot in segments.into_iter().filter(|segment| !kept.knows(segment)).collect::<Vec<_>>() {
            let holders: Vec<SharedReplica> = inventories
                .iter()
                .filter(|inventory| inventory.indexes.contains(snapshot))
                .map(|inventory| inventory.replica.clone())
                .collect();
            let names = || holders.iter().map(|holder| holder.name());
            if unreadable.leaves_aside(names()) {
                continue;
            }
            let added = match documents.index(&holders, snapshot).await {
                Ok(segment) => add(&mut index, &segment).map(|()| kept.add(snapshot, &segment)),
                Err(unread) => Err(unread),
            };
            if let Err(error) = added {
                unreadable.add(names(), snapshot, &error);
            }
        }
        kept.keep();
        warnings.extend(unreadable.warnings("less data is deduplicated"));
        index.finish(generation, journalled.into_iter().filter(present).collect())
    }
}

/// Builds a [`ChunkIndex`].
struct IndexBuilder {
    older: StoredChunks,
    table: chunk_table::TableBuilder,
}

impl IndexBuilder {
    /// `segments` is the length of all index segments in bytes. They are compressed and encrypted,
    /// but ids do not compress. `packs` is the number of packs.
    fn new(segments: u64, packs: u64) -> Self {
        let expected = usize::try_from(segments / BYTES_PER_CHUNK).unwrap_or(usize::MAX);
        let older = StoredChunks { lengths: Vec::with_capacity(expected), packs: Vec::with_capacity(packs as usize) };
        Self { older, table: chunk_table::TableBuilder::new(expected) }
    }

    /// Adds a pack, and returns its number.
    fn add(&mut self, pack: &IndexedPack) -> u32 {
        let StoredChunks { lengths, packs } = &mut self.older;
        packs.push(StoredPack { id: pack.id, size: pack.size, first: lengths.len() as u32 });
        // If there are too many chunks to number, or one has a length that this program does not
        // make, the pack's chunks count as unknown.
        let known: Option<Vec<Length>> = pack.chunks.iter().map(|(_, length)| Length::new(*length)).collect();
        let known = known.filter(|known| lengths.len() + known.len() <= FIRST_OWN_NUMBER as usize).unwrap_or_default();
        for ((id, _), length) in pack.chunks.iter().zip(known) {
            self.table.add(id, lengths.len() as u32);
            chunk_table::push(lengths, length);
        }
        packs.len() as u32 - 1
    }

    fn finish(mut self, generation: u32, crashed: Vec<IndexedPack>) -> ChunkIndex {
        let mut crashed: HashMap<_, _> = crashed.into_iter().map(|pack| (pack.id, pack)).collect();
        self.older.packs.iter().for_each(|pack| drop(crashed.remove(&pack.id)));
        let uncommitted = crashed.into_values().map(|pack| (self.add(&pack), pack)).collect();
        let known = Mutex::new(Known { table: self.table.finish(), own: Vec::new() });
        ChunkIndex { older: self.older, generation, uncommitted, known }
    }
}

#[cfg(test)]
impl ChunkIndex {
    /// An index of these packs alone.
    pub(crate) fn of(packs: impl Iterator<Item = IndexedPack>) -> Self {
        let mut builder = IndexBuilder::new(0, 0);
        for pack in packs {
            builder.add(&pack);
        }
        builder.finish(1, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_format::id::Digest;

    #[test]
    fn a_number_tells_pack_offset_and_length() {
        let pack = |id: u8, chunks: &[(u8, u32)]| IndexedPack {
            id: Digest([id; 32]),
            size: 1,
            chunks: chunks.iter().map(|(id, length)| (Digest([*id; 32]), *length)).collect(),
        };
        let packs = [pack(100, &[(1, 10), (2, 20)]), pack(101, &[]), pack(102, &[(3, 30), (1, 10), (4, 40)])];
        let index = ChunkIndex::of(packs.into_iter());
        for (id, pack, offset, length) in [(1, 100, 0, 10), (2, 100, 10, 20), (3, 102, 0, 30), (4, 102, 40, 40)] {
            let number = index.find_older(&Digest([id; 32]));
            let place = number.map(|number| index.place(number));
            let found = place.map(|place| (index.pack(place).0.id, place.offset));
            assert_eq!(found, Some((Digest([pack; 32]), offset)), "chunk {id}");
            assert_eq!(number.and_then(|number| index.length(number)), Some(length));
        }
        assert_eq!((index.length(5), index.find_older(&Digest([9; 32]))), (None, None));
    }

    #[test]
    fn a_chunk_of_this_run_is_claimed_once_and_found_once_it_is_placed() {
        let (index, id) = (ChunkIndex::of(std::iter::empty()), Digest([1; 32]));
        assert!(index.claim(&id) && !index.claim(&id));
        assert_eq!((index.placed(&id), index.find_older(&id)), (None, None));
        let place = StoredAt { pack: 3, offset: 7 };
        index.stored(&id, place);
        assert_eq!((index.placed(&id), index.find_older(&id)), (Some(place), None));
        assert!(!index.claim(&id));
    }
}
