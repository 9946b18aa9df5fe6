//! What is already stored: chunk id → where it lies. Built anew for each run from index segments and the journal.
//!
//! Only packs of the current key generation count that at least one replica lists with the right size: a chunk
//! whose pack is gone is unknown, and so is uploaded again.

use std::collections::{BTreeSet, HashMap};

use crate::flow::documents::Documents;
use crate::flow::inventory::Inventory;
use crate::id::{ChunkId, SnapshotId};
use crate::replica::SharedReplica;
use crate::vault::index::IndexedPack;
use crate::vault::manifest::PackRef;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// Index into [`ChunkIndex::packs`].
    pub pack: u32,
    pub offset: u32,
    pub length: u32,
}

/// Every chunk that need not be stored again.
#[derive(Default)]
pub(super) struct ChunkIndex {
    packs: Vec<KnownPack>,
    chunks: HashMap<ChunkId, Location>,
}

/// A stored pack.
pub(super) struct KnownPack {
    pub reference: PackRef,
    /// It is in no index segment yet: whoever refers to it must add it to its own.
    pub uncommitted: Option<IndexedPack>,
}

impl ChunkIndex {
    pub(super) fn add(&mut self, pack: IndexedPack, uncommitted: bool) {
        let number = self.packs.len() as u32;
        let mut offset = 0;
        for (id, length) in &pack.chunks {
            self.chunks.entry(*id).or_insert(Location { pack: number, offset, length: *length });
            offset += length;
        }
        let reference = PackRef(pack.id, pack.size, pack.content());
        self.packs.push(KnownPack { reference, uncommitted: uncommitted.then_some(pack) });
    }

    pub(super) fn find(&self, id: &ChunkId) -> Option<Location> {
        self.chunks.get(id).copied()
    }

    pub(super) fn pack(&self, location: Location) -> &KnownPack {
        &self.packs[location.pack as usize]
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
        let mut index = Self::default();
        let segments: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.indexes).collect();
        for snapshot in segments {
            let holders: Vec<SharedReplica> = inventories
                .iter()
                .filter(|inventory| inventory.indexes.contains(snapshot))
                .map(|inventory| inventory.replica.clone())
                .collect();
            match documents.index_from_any(&holders, snapshot).await {
                Ok(segment) if segment.generation == generation => {
                    segment.packs.into_iter().filter(present).for_each(|pack| index.add(pack, false));
                }
                Ok(_) => {}
                Err(error) => warnings.push(format!("less is deduplicated: {}", error.chain())),
            }
        }
        let committed: BTreeSet<_> = index.packs.iter().map(|pack| pack.reference.0).collect();
        let crashed = journalled.into_iter().filter(|pack| present(pack) && !committed.contains(&pack.id));
        crashed.for_each(|pack| index.add(pack, true));
        index
    }
}
