//! Chunks that were decompressed and are needed again soon: rows lie here and there in them, and each is decompressed once where
//! memory allows. The least recently used go first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bytes::buffers::{Buffer, spare};
use crate::error::{Error, Result};
use crate::vault::extents::Extent;
use crate::vault::pack::Excerpt;

/// By pack, and where it begins in its content.
type Key = (u32, u64);

/// Filled by whoever needs it first.
type Cell = Arc<Mutex<Option<Arc<Buffer>>>>;

struct Kept {
    cell: Cell,
    length: usize,
    used: u64,
}

#[derive(Default)]
struct State {
    kept: HashMap<Key, Kept>,
    bytes: usize,
    uses: u64,
}

/// Of one snapshot, for all its streams.
pub(super) struct ChunkCache {
    most: usize,
    state: Mutex<State>,
}

impl ChunkCache {
    /// Keeps at most so many bytes, and what is in use.
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends what these extents hold, the pack of each given by `packs`. CPU work.
    pub(super) fn gather<'a>(
        &self,
        extents: &[Extent],
        packs: impl Fn(u32) -> Option<&'a Excerpt>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let unknown = || Error::integrity("the snapshot names what no pack holds");
        // Extents take turns between a few chunks.
        let mut open: Vec<(u32, std::ops::Range<u64>, Arc<Buffer>)> = Vec::new();
        for extent in extents {
            let (mut offset, end) = (extent.offset, extent.offset + extent.length);
            while offset < end {
                let here = open.iter().position(|(pack, range, _)| *pack == extent.pack && range.contains(&offset));
                let at = match here {
                    Some(at) => at,
                    None => {
                        let excerpt = packs(extent.pack).ok_or_else(unknown)?;
                        let range = excerpt.chunk_at(offset).ok_or_else(unknown)?;
                        let chunk = self.chunk(extent.pack, excerpt, &range)?;
                        // A pack's chunks are read in order, mostly: the one before is not needed any more.
                        open.retain(|(pack, ..)| *pack != extent.pack);
                        open.push((extent.pack, range, chunk));
                        open.len() - 1
                    }
                };
                let (_, range, chunk) = &open[at];
                let to = end.min(range.end);
                let bytes = chunk.get((offset - range.start) as usize..(to - range.start) as usize);
                out.extend_from_slice(bytes.ok_or_else(unknown)?);
                offset = to;
            }
        }
        Ok(())
    }

    fn chunk(&self, pack: u32, excerpt: &Excerpt, range: &std::ops::Range<u64>) -> Result<Arc<Buffer>> {
        let length = (range.end - range.start) as usize;
        let cell = self.cell((pack, range.start), length);
        let mut chunk = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunk) = &*chunk {
            return Ok(chunk.clone());
        }
        let mut bytes = spare(length);
        let unit = excerpt.unit(range.start, length as u64, length);
        let unit = unit.ok_or_else(|| Error::integrity("a chunk is not where it was"))?;
        excerpt.decompress(range.start, unit, &mut bytes)?;
        Ok(chunk.insert(Arc::new(bytes)).clone())
    }

    fn cell(&self, key: Key, length: usize) -> Cell {
        let mut state = self.state();
        let state = &mut *state;
        state.uses += 1;
        if let Some(kept) = state.kept.get_mut(&key) {
            kept.used = state.uses;
            return kept.cell.clone();
        }
        let cell = Cell::default();
        state.bytes += length;
        state.kept.insert(key, Kept { cell: cell.clone(), length, used: state.uses });
        while state.bytes > self.most
            && let Some((oldest, _)) = state.kept.iter().min_by_key(|(_, kept)| kept.used)
            && *oldest != key
        {
            let oldest = *oldest;
            let Some(kept) = state.kept.remove(&oldest) else { break };
            state.bytes -= kept.length;
        }
        cell
    }
}
