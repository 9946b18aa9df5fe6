//! Gathers short extents from chunks, and keeps the decompressed chunks for the next extents. So a
//! chunk with many scattered rows is decompressed only once, if memory allows. If it does not, the
//! least recently used chunks are dropped.
//!
//! Mostly, a stream uses the chunks of a pack in order. So when it goes on to the next chunk, the
//! previous one is dropped at once. The next chunk then gets its buffer, which is still in the
//! processor's cache. A chunk that is needed again after that is kept like any other.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_base::buffers::{Buffer, spare};
use lifeboat_base::{Error, Result};
use lifeboat_format::extents::Extent;
use lifeboat_format::pack::Excerpt;

/// Short extents are copied in blocks of so many bytes.
const COPY_BYTES: usize = 64;
/// How many dropped chunks are remembered.
const REMEMBERED_CHUNKS: usize = 64;

/// The chunk's pack, and where the chunk begins in the pack's content.
type Key = (u32, u64);

/// A decompressed chunk. The first thread that needs it fills the cell.
type Cell = Arc<Mutex<Option<Arc<Buffer>>>>;

struct Kept {
    cell: Cell,
    length: usize,
    used: u64,
    /// It was dropped too early, so it is not dropped early again.
    back: bool,
}

#[derive(Default)]
struct State {
    kept: HashMap<Key, Kept>,
    bytes: usize,
    uses: u64,
    /// Chunks that were dropped early, the last one at the back.
    left: VecDeque<Key>,
}

/// The decompressed chunks of one snapshot, shared by all its streams.
pub(crate) struct ChunkCache {
    most: usize,
    state: Mutex<State>,
}

impl ChunkCache {
    /// Keeps at most `most` bytes, besides the chunks that are in use.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the bytes of these extents to the front of `out`, and returns how many they are.
    /// `packs` gives the pack of a number. Must run on a worker, because it takes CPU time.
    pub(crate) fn gather<'a>(
        &self,
        extents: &[Extent],
        packs: impl Fn(u32) -> Option<&'a Excerpt>,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let length = extents.iter().map(|extent| extent.length as usize).sum();
        // A used buffer is written over, so only its missing part must be zeroed.
        if out.len() < length {
            out.resize(length, 0);
        }
        let Located { chunks, parts, over } = self.locate(extents, packs)?;
        let plain = decompress(&chunks)?;
        let (mut rest, from): (_, Vec<&[u8]>) = (&mut out[..length], plain.iter().map(|chunk| &chunk[..]).collect());
        for (chunk, range) in parts {
            rest = put(&from[chunk as usize][range.start as usize..], (range.end - range.start) as usize, rest);
        }
        drop((chunks, plain));
        self.leave(&over);
        Ok(length)
    }

    fn locate<'a>(&self, extents: &[Extent], packs: impl Fn(u32) -> Option<&'a Excerpt>) -> Result<Located<'a>> {
        let (mut chunks, mut parts, mut over) = (Vec::<Needed>::new(), Vec::with_capacity(extents.len()), Vec::new());
        // Extents take turns between packs. This is the last chunk of each pack, by its number.
        let mut last: Vec<u32> = Vec::new();
        for extent in extents {
            let pack = extent.pack as usize;
            if last.len() <= pack {
                last.resize(pack + 1, u32::MAX);
            }
            let (mut offset, end) = (extent.offset, extent.offset + extent.length);
            while offset < end {
                let before = chunks.get(last[pack] as usize);
                if !before.is_some_and(|chunk| chunk.range.contains(&offset)) {
                    let before = before.filter(|before| before.range.end <= offset);
                    over.extend(before.map(|before| (extent.pack, before.range.start)));
                    let excerpt = packs(extent.pack).ok_or_else(unknown)?;
                    let range = excerpt.chunk_at(offset).ok_or_else(unknown)?;
                    last[pack] = chunks.len() as u32;
                    chunks.push(self.needed(extent.pack, excerpt, range));
                }
                let range = &chunks[last[pack] as usize].range;
                let to = end.min(range.end);
                parts.push((last[pack], (offset - range.start) as u32..(to - range.start) as u32));
                offset = to;
            }
        }
        Ok(Located { chunks, parts, over })
    }

    fn needed<'a>(&self, pack: u32, excerpt: &'a Excerpt, range: Range<u64>) -> Needed<'a> {
        let cell = self.cell((pack, range.start), (range.end - range.start) as usize);
        Needed { excerpt, range, cell }
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
        let back = state.left.contains(&key);
        state.kept.insert(key, Kept { cell: cell.clone(), length, used: state.uses, back });
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

    /// Drops chunks that the stream has passed, unless that was too early before.
    fn leave(&self, over: &[Key]) {
        let mut state = self.state();
        for key in over {
            if state.kept.get(key).is_some_and(|kept| !kept.back)
                && let Some(kept) = state.kept.remove(key)
            {
                state.bytes -= kept.length;
                state.left.push_back(*key);
            }
        }
        let many = state.left.len().saturating_sub(REMEMBERED_CHUNKS);
        state.left.drain(..many);
    }
}

/// The chunks and ranges that a piece consists of.
struct Located<'a> {
    chunks: Vec<Needed<'a>>,
    /// The ranges in order, each with the index of its chunk.
    parts: Vec<(u32, Range<u32>)>,
    /// Chunks that the stream has passed.
    over: Vec<Key>,
}

/// A chunk that a piece needs.
struct Needed<'a> {
    excerpt: &'a Excerpt,
    range: Range<u64>,
    cell: Cell,
}

/// Copies the first `length` bytes of `from` to the front of `out`. Returns the rest of `out`.
fn put<'a>(from: &[u8], length: usize, out: &'a mut [u8]) -> &'a mut [u8] {
    // Whole blocks are copied where there is room. The next part writes over what is too much.
    // Parts are short and differ in length. If exactly their bytes were copied, the processor would
    // mispredict the length of most copies.
    let blocks = length.div_ceil(COPY_BYTES);
    let (from_blocks, to_blocks) = (from.as_chunks::<COPY_BYTES>().0, out.as_chunks_mut::<COPY_BYTES>().0);
    match (from_blocks.get(..blocks), to_blocks.get_mut(..blocks)) {
        (Some(from), Some(to)) => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
        _ => out[..length].copy_from_slice(&from[..length]),
    }
    &mut out[length..]
}

/// Decompresses all of these chunks. It waits for chunks of other threads only at the end, because
/// neighbouring pieces need the same chunks, and their threads should share the work.
fn decompress(chunks: &[Needed]) -> Result<Vec<Arc<Buffer>>> {
    for chunk in chunks {
        if let Ok(mut cell) = chunk.cell.try_lock() {
            chunk.fill(&mut cell)?;
        }
    }
    chunks.iter().map(|chunk| chunk.fill(&mut chunk.cell.lock().unwrap_or_else(PoisonError::into_inner))).collect()
}

impl Needed<'_> {
    fn fill(&self, cell: &mut Option<Arc<Buffer>>) -> Result<Arc<Buffer>> {
        if let Some(chunk) = cell {
            return Ok(chunk.clone());
        }
        let length = (self.range.end - self.range.start) as usize;
        let mut bytes = spare(length);
        let unit = self.excerpt.chunk_run(self.range.start, length as u64, length);
        let unit = unit.ok_or_else(|| Error::integrity("a pack does not have a chunk where it was found before"))?;
        self.excerpt.decompress(self.range.start, unit, &mut bytes)?;
        Ok(cell.insert(Arc::new(bytes)).clone())
    }
}

fn unknown() -> Error {
    Error::integrity("an extent of the snapshot is in no pack")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;
    use lifeboat_format::frames::compress;
    use lifeboat_format::id::Digest;
    use lifeboat_format::pack::{PackWriter, read};

    const CHUNK: usize = 1000;

    /// Packs with chunks of a thousand bytes, each with its content.
    fn packs(count: u8, chunks: usize) -> Vec<(Vec<u8>, Excerpt)> {
        let pack = |number: u8| {
            let mut content = vec![0; chunks * CHUNK];
            blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut content);
            let mut writer = PackWriter::new(Vec::new());
            for chunk in content.chunks(CHUNK) {
                writer.push(Digest::of(chunk), chunk.len(), &compress(1, chunk).unwrap()).unwrap();
            }
            let (pack, length) = (writer.finish().unwrap().out, content.len() as u64);
            let excerpt = read(&mut Cursor::new(pack), length, &[(0, length)]).unwrap();
            (content, excerpt)
        };
        (0..count).map(pack).collect()
    }

    fn extent(pack: u32, offset: usize, length: usize) -> Extent {
        Extent { pack, offset: offset as u64, length: length as u64 }
    }

    fn kept(cache: &ChunkCache) -> Vec<Key> {
        let mut kept: Vec<Key> = cache.state().kept.keys().copied().collect();
        kept.sort_unstable();
        kept
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn gives_what_the_extents_hold(
            of in prop::collection::vec((0_u32..3, 0..4 * CHUNK, 1..700_usize), 1..60),
            most in 0..6 * CHUNK,
            used in 0..9000_usize,
        ) {
            let packs = packs(3, 5);
            let extents: Vec<Extent> = of.into_iter().map(|(pack, offset, length)| extent(pack, offset, length)).collect();
            let cache = ChunkCache::new(most);
            // A used buffer, with something else in it.
            let mut out = vec![b'x'; used];
            for some in extents.chunks(7) {
                let due: Vec<u8> = some
                    .iter()
                    .flat_map(|Extent { pack, offset, length }| {
                        &packs[*pack as usize].0[*offset as usize..(*offset + *length) as usize]
                    })
                    .copied()
                    .collect();
                let length = cache.gather(some, |pack| packs.get(pack as usize).map(|(_, pack)| pack), &mut out).unwrap();
                prop_assert_eq!(&out[..length], due);
                let state = cache.state();
                prop_assert_eq!(state.bytes, state.kept.values().map(|kept| kept.length).sum::<usize>());
            }
        }
    }

    #[test]
    fn what_is_left_behind_is_let_go_unless_it_comes_back() -> Result<()> {
        let packs = packs(1, 5);
        let cache = ChunkCache::new(5 * CHUNK);
        let gather = |of: &[(usize, usize)]| {
            let extents: Vec<Extent> = of.iter().map(|(offset, length)| extent(0, *offset, *length)).collect();
            cache.gather(&extents, |_| Some(&packs[0].1), &mut Vec::new()).map(drop)
        };
        gather(&[(10, 50), (100, 20), (1500, 100)])?;
        assert_eq!(kept(&cache), [(0, 1000)]);
        gather(&[(900, 50), (1900, 200)])?;
        // The first was dropped too early, so it is kept now. The second is passed for the first
        // time.
        assert_eq!(kept(&cache), [(0, 0), (0, 2000)]);
        gather(&[(2100, 10), (3000, 10), (20, 10)])?;
        assert_eq!(kept(&cache), [(0, 0), (0, 3000)]);
        Ok(())
    }

    #[test]
    fn what_no_pack_holds_is_told() {
        let (packs, cache) = (packs(1, 2), ChunkCache::new(CHUNK));
        let gather =
            |extent| cache.gather(&[extent], |pack| packs.get(pack as usize).map(|(_, pack)| pack), &mut Vec::new());
        assert!(gather(extent(0, 1990, 20)).is_err());
        assert!(gather(extent(1, 0, 1)).is_err());
    }
}
