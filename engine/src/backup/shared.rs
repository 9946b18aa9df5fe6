//! What all stages of a run share.

use std::sync::{Arc, OnceLock};

use lifeboat_base::Error;
use lifeboat_base::buffers::BufferPool;
use lifeboat_format::pack::TARGET_PLAINTEXT_BYTES;
use tokio_util::sync::CancellationToken;

use super::Progress;
use super::chunk::Chunker;
use super::chunk_index::ChunkIndex;
use super::compress::Compression;
use super::fleet::Fleet;
use super::row_search::Rows;
use crate::keys::DatasetKeys;
use crate::state::journal::Journal;

/// A block holds at least this many bytes of a stream. It is small enough to be cut and identified
/// while the processor's caches hold it.
const MIN_BLOCK_BYTES: usize = 2 << 20;
/// The room for a pack's ciphertext, a little more than its plaintext.
const PACK_BUFFER_BYTES: usize = TARGET_PLAINTEXT_BYTES + (1 << 20);

/// What all stages of a run share.
pub(crate) struct Shared {
    pub index: ChunkIndex,
    /// `None` if whole chunks alone are deduplicated.
    pub rows: Option<Arc<Rows>>,
    pub keys: DatasetKeys,
    pub fleet: Fleet,
    pub journal: Journal,
    /// Why the journal cannot be written, if so. The run goes on without it.
    pub journal_failure: OnceLock<Error>,
    pub progress: Arc<Progress>,
    pub cancel: CancellationToken,
    pub chunk_size: u32,
    pub compression: Compression,
    pub threads: usize,
    pub buffers: Buffers,
}

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
}

impl Buffers {
    /// Divides `memory` bytes: a quarter is for blocks and half for packs. The rest is for frames,
    /// compressors, the index and the program itself.
    pub(crate) fn new(memory: u64, chunk_size: u32, threads: usize) -> Self {
        let longest = Chunker::longest(chunk_size);
        let block = MIN_BLOCK_BYTES.max(longest);
        let share = |part: u64, each: usize| usize::try_from(part / each as u64).unwrap_or(usize::MAX);
        Self {
            blocks: BufferPool::new(share(memory / 4, block).clamp(3, 16), longest + block),
            block,
            frames: BufferPool::new(2 * threads + 2, chunk_size as usize),
            packs: BufferPool::new(share(memory / 2, PACK_BUFFER_BYTES).clamp(2, 32), PACK_BUFFER_BYTES),
        }
    }
}
