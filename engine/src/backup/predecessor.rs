//! The predecessor, which is the snapshot before: where the bytes of its streams lie, and how a new
//! snapshot refers to them.
//!
//! The predecessor's extents name packs. If a stream has a map, they may also name the older stream
//! that the map describes. With every snapshot there are more extents, so now and then a new map of
//! all of them is made. The new snapshot then refers to the whole older stream by that map, and
//! begins with few extents again. The map leaves out packs that no replica holds, and packs that
//! prune marked as sparse.
//!
//! With maps, thirty snapshots of scattered changes write less than half of what full lists of
//! extents would take.
//!
//! Reading the extents also shows which stretches of the streams are scattered. The run stores some
//! of them again, as far as its budget allows (`renewal/`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::Result;
use lifeboat_format::extents::{Extent, Extents, ExtentsWriter, Finder, OLDER};
use lifeboat_format::id::{Digest, PackId, SnapshotId};
use lifeboat_format::manifest::{Manifest, PackRef, StreamEntry};
use lifeboat_format::map::{MAX_MAP_BYTES, StreamMap};

use super::fragments::{Fragment, Weight, push_new};
use crate::catalog::inventory::Inventory;
use crate::renewal::scatter::{Scatter, ScatteredStretch, keep_within};
use crate::renewal::sparse::budget_beside;
use crate::state::row_index::RowIndex;

/// Extents of at most this many bytes are not worth a map, because a map takes a pack of its own.
const MIN_EXTENT_BYTES_FOR_MAP: usize = 32 << 10;
/// A map is replaced once the extents beside it take more than a third of its size. Then snapshots
/// write about as much for extents as for maps.
const MAX_MAP_PER_EXTENTS: usize = 3;

/// The snapshot before, with which a run compares rows.
pub(crate) struct Predecessor {
    pub(crate) snapshot: SnapshotId,
    /// The key generation of all its packs.
    pub(crate) generation: u32,
    /// Its packs in the order of the manifest; `None` if no replica holds a pack.
    packs: Arc<[Option<PackRef>]>,
    /// Its streams by name; `None` if the extents are damaged or the map is not at hand.
    streams: BTreeMap<String, Option<PredecessorStream>>,
}

/// A stream of the predecessor.
struct PredecessorStream {
    /// The extents by which a new snapshot refers to it.
    written: Extents,
    /// The same bytes as extents that name packs alone.
    resolved: Extents,
    map: Option<Arc<UsedMap>>,
    /// The stretch that this run stores again.
    renewed: Option<ScatteredStretch>,
}

/// A map that a stream of the new snapshot needs.
pub(crate) struct UsedMap {
    /// The content of the map.
    pub(crate) older: StreamMap,
    /// The packs that the map names, and the packs that hold the map itself.
    pub(crate) packs: Vec<PackRef>,
    pub(crate) origin: Origin,
}

/// Where a map comes from.
pub(crate) enum Origin {
    /// The predecessor has it, in these packs. This is its hash.
    Kept { blake3: Digest, packs: Vec<PackRef> },
    /// This run makes it. These are its bytes.
    Made(Bytes),
}

impl UsedMap {
    /// The bytes of the map, if this run makes it.
    pub(crate) fn made(&self) -> Option<&Bytes> {
        match &self.origin {
            Origin::Kept { .. } => None,
            Origin::Made(bytes) => Some(bytes),
        }
    }
}

impl Predecessor {
    /// Reads the predecessor from its manifest, and its maps from this host's row index. All its
    /// packs are of the key generation `generation`. The inventories are without the `sparse`
    /// packs.
    pub(crate) fn new(
        manifest: &Manifest,
        generation: u32,
        index: &RowIndex,
        inventories: &[Inventory],
        sparse: &BTreeSet<PackId>,
    ) -> Result<Self> {
        let present = |pack: &PackRef| inventories.iter().any(|inventory| inventory.has(pack));
        let packs: Arc<[Option<PackRef>]> = manifest.packs.iter().map(|pack| present(pack).then_some(*pack)).collect();
        let mut streams = BTreeMap::new();
        let contents = manifest.contents();
        for stream in &manifest.streams {
            streams.insert(stream.name.clone(), PredecessorStream::new(manifest, &contents, stream, index, &packs)?);
        }
        keep_within(budget_beside(sparse, manifest), streams.values_mut().flatten().map(|stream| &mut stream.renewed));
        Ok(Self { snapshot: manifest.snapshot.clone(), generation, packs, streams })
    }

    /// Whether the predecessor has this stream.
    pub(crate) fn had(&self, stream: &str) -> bool {
        self.streams.contains_key(stream)
    }

    /// A walk through a stream, to find bytes of it.
    pub(crate) fn walk(&self, stream: &str) -> Option<PredecessorWalk> {
        let PredecessorStream { written, resolved, map, renewed } = self.streams.get(stream)?.as_ref()?;
        Some(PredecessorWalk {
            packs: self.packs.clone(),
            written: Finder::new(written.clone()),
            resolved: Finder::new(resolved.clone()),
            map: map.clone(),
            renewed: renewed.as_ref().map_or(0..0, |stretch| stretch.bytes.clone()),
        })
    }
}

impl PredecessorStream {
    /// `None` if its extents are damaged or its map is not at hand.
    fn new(
        manifest: &Manifest,
        contents: &Arc<[u64]>,
        stream: &StreamEntry,
        index: &RowIndex,
        packs: &[Option<PackRef>],
    ) -> Result<Option<Self>> {
        let Ok(written) = manifest.extents(stream, contents) else { return Ok(None) };
        let Some(entry) = &stream.map else {
            let mut scatter = Scatter::new(stream.length);
            written.iter().for_each(|extent| scatter.add(&extent));
            let renewed = scatter.stretch();
            return Self::in_packs(written, renewed).mapped(manifest, stream, packs).map(Some);
        };
        let Some(bytes) = index.map(&stream.name, &entry.blake3).map(Bytes::from) else { return Ok(None) };
        let Ok(map) = manifest.map(stream, entry, &bytes) else { return Ok(None) };
        let Ok(resolved) = manifest.resolve(written.clone(), &map) else { return Ok(None) };
        let mut scatter = Scatter::new(stream.length);
        let resolved = Extents::of(resolved.iter().inspect(|extent| scatter.add(extent)))?;
        if resolved.length() != stream.length {
            return Ok(None);
        }
        let renewed = scatter.stretch();
        let much = written.bytes().len() > MIN_EXTENT_BYTES_FOR_MAP
            && written.bytes().len() * MAX_MAP_PER_EXTENTS > bytes.len();
        let Ok(own) = manifest.map_extents(entry) else { return Ok(None) };
        let all = own.iter().map(|(pack, _)| pack.id).chain(map.packs.iter().copied()).collect();
        match used(packs, all).filter(|_| !much) {
            Some(packs) => {
                let origin =
                    Origin::Kept { blake3: entry.blake3, packs: own.into_iter().map(|(pack, _)| pack).collect() };
                let map = Some(Arc::new(UsedMap { older: map, packs, origin }));
                Ok(Some(Self { written, resolved, map, renewed }))
            }
            None => Self::in_packs(resolved, renewed).mapped(manifest, stream, packs).map(Some),
        }
    }

    fn in_packs(resolved: Extents, renewed: Option<ScatteredStretch>) -> Self {
        Self { written: resolved.clone(), resolved, map: None, renewed }
    }

    /// Adds a new map of all that lies in available packs, if a map is worth it.
    fn mapped(self, manifest: &Manifest, stream: &StreamEntry, packs: &[Option<PackRef>]) -> Result<Self> {
        if self.resolved.bytes().len() <= MIN_EXTENT_BYTES_FOR_MAP {
            return Ok(self);
        }
        let is_there = |extent: &Extent| packs[extent.pack as usize].is_some();
        let (mut written, mut covers, mut length) = (ExtentsWriter::default(), 0, 0);
        for extent in self.resolved.iter() {
            length += extent.length;
            let there = is_there(&extent);
            written.push(if there { Extent { pack: OLDER, offset: covers, ..extent } } else { extent })?;
            covers += if there { extent.length } else { 0 };
        }
        if covers == 0 || length != stream.length {
            return Ok(self);
        }
        let ids: Vec<PackId> = manifest.packs.iter().map(|pack| pack.id).collect();
        let contents: HashMap<PackId, u64> = packs.iter().flatten().map(|pack| (pack.id, pack.content)).collect();
        let bytes = StreamMap::of(self.resolved.iter().filter(is_there), &ids)?.to_bytes();
        if bytes.len() as u64 > MAX_MAP_BYTES {
            return Ok(self);
        }
        // The map is parsed from its bytes, so that its extents take no memory of their own.
        let older = StreamMap::parse(&bytes, covers, |pack| contents.get(pack).copied());
        let Some(older) = older else { return Ok(self) };
        let Some(packs) = used(packs, older.packs.iter().copied().collect()) else { return Ok(self) };
        let map = Some(Arc::new(UsedMap { older, packs, origin: Origin::Made(bytes) }));
        Ok(Self { written: written.finish()?, map, ..self })
    }
}

/// The packs with these ids; `None` if no replica holds one of them.
fn used(packs: &[Option<PackRef>], mut ids: HashSet<PackId>) -> Option<Vec<PackRef>> {
    let found: Vec<PackRef> = packs.iter().flatten().filter(|pack| ids.remove(&pack.id)).copied().collect();
    ids.is_empty().then_some(found)
}

/// Finds bytes of one stream of the predecessor. Positions should ascend.
pub(crate) struct PredecessorWalk {
    packs: Arc<[Option<PackRef>]>,
    written: Finder,
    resolved: Finder,
    map: Option<Arc<UsedMap>>,
    renewed: Range<u64>,
}

impl PredecessorWalk {
    /// Appends the fragments that hold these bytes, and adds their weight.
    pub(crate) fn place(&mut self, begin: u64, length: usize, parts: &mut Vec<Fragment>, weight: &mut Weight) {
        let (mut at, end) = (begin, begin + length as u64);
        while let Some((start, extent)) = self.written.find(at).filter(|_| at < end) {
            let skipped = at - start;
            let some = (extent.length - skipped).min(end - at);
            let (offset, length) = (extent.offset + skipped, some as usize);
            let pack = self.packs.get(extent.pack as usize).copied().flatten();
            match pack {
                _ if extent.pack == OLDER => parts.push(Fragment::Mapped { offset, length }),
                Some(pack) => parts.push(Fragment::Older { pack, offset, length }),
                None => push_new(parts, length),
            }
            if extent.pack == OLDER || pack.is_some() {
                weight.found += length;
            }
            at += some;
        }
        push_new(parts, (end - at) as usize);
        let mut at = begin;
        while let Some((start, extent)) = self.resolved.find(at).filter(|_| at < end) {
            weight.extents += 1;
            weight.packs.insert(extent.pack);
            at = start + extent.length;
        }
    }

    /// Whether the byte at this position is stored again in this run.
    pub(crate) fn renewed(&self, position: u64) -> bool {
        self.renewed.contains(&position)
    }

    /// Whether any of it is stored again in this run.
    pub(crate) fn renews(&self) -> bool {
        !self.renewed.is_empty()
    }

    /// The map to which [`Fragment::Mapped`] refers.
    pub(crate) fn map(&self) -> Option<Arc<UsedMap>> {
        self.map.clone()
    }
}
