//! The buffers of one run, and how a run divides its memory among them.

use std::ops::RangeInclusive;

use lifeboat_base::buffers::BufferPool;
use lifeboat_format::pack::TARGET_PLAINTEXT_BYTES;

use super::chunk::Chunker;

/// A block holds at least this many bytes of a stream. It is small enough to be cut and identified
/// while the processor's caches hold it.
const MIN_BLOCK_BYTES: usize = 2 << 20;
/// The room for a pack's ciphertext, a little more than its plaintext.
const PACK_BUFFER_BYTES: usize = TARGET_PLAINTEXT_BYTES + (1 << 20);
/// How many packs fill at once at most, for streams that are open at once.
const MAX_FILLING_PACKS: usize = 4;
const BLOCK_COUNTS: RangeInclusive<usize> = 3..=16;
const MAX_PACKS: usize = 32;

/// The buffers of all data that is in the pipeline.
pub(crate) struct Buffers {
    /// For bytes of streams.
    pub blocks: BufferPool,
    /// How many bytes a block holds, besides the headroom of the chunker.
    pub block: usize,
    /// For compressed chunks.
    pub frames: BufferPool,
    /// For the ciphertext of packs that fill or are being uploaded.
    pub packs: BufferPool,
    /// How many packs fill at once: at most half of those that the run has alone, so that the
    /// others can be uploaded meanwhile.
    pub filling: usize,
}

impl Buffers {
    /// Divides `memory` bytes: a quarter is for blocks and half for packs. The rest is for frames,
    /// compressors, the index and the program itself.
    pub(crate) fn new(memory: u64, chunk_size: u32, threads: usize) -> Self {
        let longest = Chunker::longest(chunk_size);
        let block = MIN_BLOCK_BYTES.max(longest);
        let packs = packs_of(memory).max(2);
        Self {
            blocks: BufferPool::new(blocks_of(memory, block), longest + block),
            block,
            frames: BufferPool::new(2 * threads + 2, chunk_size as usize),
            packs: BufferPool::new(packs, PACK_BUFFER_BYTES),
            filling: (packs / 2).clamp(1, MAX_FILLING_PACKS),
        }
    }

    /// Divides another amount of memory, for as long as it is what the run has. Packs that fill
    /// keep their buffers, so there is always a buffer for each of them, and two at least.
    pub(crate) fn resize(&self, memory: u64) {
        self.blocks.resize(blocks_of(memory, self.block));
        self.packs.resize(packs_of(memory).max(self.filling).max(2));
    }
}

fn blocks_of(memory: u64, block: usize) -> usize {
    share(memory / 4, block).clamp(*BLOCK_COUNTS.start(), *BLOCK_COUNTS.end())
}

fn packs_of(memory: u64) -> usize {
    share(memory / 2, PACK_BUFFER_BYTES).min(MAX_PACKS)
}

fn share(part: u64, each: usize) -> usize {
    usize::try_from(part / each as u64).unwrap_or(usize::MAX)
}
