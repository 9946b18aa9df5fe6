//! What is already stored: chunk id → where it lies. Built anew for each run from index segments and the journal.
//!
//! Only packs of the current key generation count that at least one replica lists with the right size: a chunk
//! whose pack is gone is unknown, and so is uploaded again. Chunks of the run itself are added as it meets them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::flow::documents::Documents;
use crate::flow::inventory::Inventory;
use crate::id::{ChunkId, SnapshotId};
use crate::replica::SharedReplica;
use crate::vault::chunk_table::{self, ChunkTable, Place};
use crate::vault::index::IndexedPack;
use crate::vault::manifest::PackRef;

/// Packs of this run are numbered from here, older ones from 0.
const OWN: u32 = 1 << 31;
/// A chunk of this run that no pack holds yet.
const UNPLACED: Place = Place { pack: u32::MAX, offset: 0 };

/// What a chunk takes in an index segment: its id, its length, a share of its pack's record.
const BYTES_PER_CHUNK: u64 = 35;

/// Every chunk that need not be stored again.
pub(super) struct ChunkIndex {
    packs: Vec<PackRef>,
    /// Packs in no index segment yet: whoever refers to one must add it to its own.
    uncommitted: HashMap<u32, IndexedPack>,
    table: Mutex<ChunkTable>,
}

impl ChunkIndex {
    fn table(&self) -> MutexGuard<'_, ChunkTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an earlier run stored a chunk; [`Self::pack`] knows the pack.
    pub(super) fn find_older(&self, id: &ChunkId) -> Option<Place> {
        self.table().find(id).filter(|place| place.pack < OWN)
    }

    /// Whether the caller is the first of this run with a chunk that is in no older pack: he must store it, nobody else will.
    pub(super) fn claim(&self, id: &ChunkId) -> bool {
        let mut table = self.table();
        let first = table.find(id).is_none();
        if first {
            table.put(id, UNPLACED);
        }
        first
    }

    /// Says where a claimed chunk was stored: in which pack of this run.
    pub(super) fn place(&self, id: &ChunkId, place: Place) {
        self.table().put(id, Place { pack: OWN | place.pack, ..place });
    }

    /// Where this run stored a chunk.
    pub(super) fn placed(&self, id: &ChunkId) -> Option<Place> {
        let place = self.table().find(id).filter(|place| place.pack >= OWN && *place != UNPLACED)?;
        Some(Place { pack: place.pack & !OWN, ..place })
    }

    /// An older pack; and its record if it is in no index segment yet.
    pub(super) fn pack(&self, place: Place) -> (PackRef, Option<&IndexedPack>) {
        (self.packs[place.pack as usize], self.uncommitted.get(&place.pack))
    }

    /// Reads every index segment that any replica holds, and the journal.
    ///
    /// A segment that cannot be read costs deduplication, not the backup: it is said and left out.
    pub(super) async fn build(
        documents: &Documents<'_>,
        inventories: &[Inventory],
        generation: u32,
        journalled: Vec<IndexedPack>,
        warnings: &mut Vec<String>,
    ) -> Self {
        let present =
            |pack: &IndexedPack| inventories.iter().any(|inventory| inventory.packs.get(&pack.id) == Some(&pack.size));
        let mut index =
            Builder::new(inventories.iter().map(|inventory| inventory.index_bytes).max().unwrap_or_default());
        let segments: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.indexes).collect();
        for snapshot in segments {
            let holders: Vec<SharedReplica> = inventories
                .iter()
                .filter(|inventory| inventory.indexes.contains(snapshot))
                .map(|inventory| inventory.replica.clone())
                .collect();
            match documents.index_from_any(&holders, snapshot).await {
                Ok(segment) if segment.generation == generation => {
                    for pack in segment.packs.iter().filter(|pack| present(pack)) {
                        index.add(pack);
                    }
                }
                Ok(_) => {}
                Err(error) => warnings.push(format!("less is deduplicated: {}", error.chain())),
            }
        }
        index.finish(journalled.into_iter().filter(present).collect())
    }
}

/// An index that is being made.
struct Builder {
    packs: Vec<PackRef>,
    table: chunk_table::Builder,
}

impl Builder {
    /// `segments`: the length of all index segments, encrypted; what they hold does not compress.
    fn new(segments: u64) -> Self {
        let expected = usize::try_from(segments / BYTES_PER_CHUNK).unwrap_or(usize::MAX);
        Self { packs: Vec::new(), table: chunk_table::Builder::new(expected) }
    }

    /// Adds a pack; returns its number.
    fn add(&mut self, pack: &IndexedPack) -> u32 {
        let (number, mut offset) = (self.packs.len() as u32, 0);
        for (id, length) in &pack.chunks {
            self.table.add(id, Place { pack: number, offset });
            offset += length;
        }
        self.packs.push(PackRef(pack.id, pack.size, u64::from(offset)));
        number
    }

    fn finish(mut self, crashed: Vec<IndexedPack>) -> ChunkIndex {
        let mut crashed: HashMap<_, _> = crashed.into_iter().map(|pack| (pack.id, pack)).collect();
        self.packs.iter().for_each(|pack| drop(crashed.remove(&pack.0)));
        let uncommitted = crashed.into_values().map(|pack| (self.add(&pack), pack)).collect();
        ChunkIndex { packs: self.packs, uncommitted, table: Mutex::new(self.table.finish()) }
    }
}
