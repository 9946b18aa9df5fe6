//! The pipeline of one run: stream writers, which hash → chunk and identify → look for rows →
//! compress → pack and encrypt → upload.
//!
//! - **Threads**: two for each stream that is open (chunk and identify:
//!   [`sequence`](crate::backup::sequence); look for rows: [`dedup`](crate::backup::dedup)),
//!   `limits.cpu` that compress, one that packs and encrypts ([`packer`](crate::backup::packer));
//!   the source's pipe and the uploads are tokio's.
//! - **Order**: a stream's chunks reach the packer in the stream's order, so its extents are in
//!   order. Streams that are open one after the other fill packs one after the other; those open at
//!   once have a pack each, while there are enough.
//! - **Bounds**: blocks of streams, frames and packs lie in buffers of three pools, whose shares of
//!   `limits.memory` are fixed here; whoever is faster waits for a buffer. New rows among old ones
//!   are collected beside them, up to a chunk and half a MiB a stream.
//! - **Failure**: the first error cancels the run's token; everybody else stops at the next step.

use std::sync::Arc;

use lifeboat_base::buffers::{Buffer, BufferPool};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::extents::Extents;
use lifeboat_format::id::{ChunkId, Digest};
use lifeboat_format::index::IndexedPack;
use lifeboat_format::manifest::PackRef;
use lifeboat_format::pack::TARGET_FRAMES_BYTES;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Progress;
use super::chunk::Chunker;
use super::chunk_index::ChunkIndex;
use super::compress::Compression;
use super::fleet::{Fleet, Receipt};
use super::intake::{End, Intake, Sink};
use super::packer::Packer;
use super::row_search::{Part, Rows};
use crate::keys::DatasetKeys;
use crate::state::journal::Journal;

/// Chunks of all streams that wait to be packed.
const CHUNKS_AHEAD: usize = 32;
/// A block holds at least this much of a stream: small enough to be cut and identified while the
/// processor's caches hold it.
const BLOCK: usize = 2 << 20;
/// A pack's ciphertext: frames may exceed the target by one.
const PACK: usize = TARGET_FRAMES_BYTES + (2 << 20);

/// What all stages of a run share.
pub(crate) struct Shared {
    pub index: ChunkIndex,
    /// Where rows are deduplicated, too.
    pub rows: Option<Arc<Rows>>,
    pub keys: DatasetKeys,
    pub fleet: Fleet,
    pub journal: Journal,
    pub progress: Arc<Progress>,
    pub cancel: CancellationToken,
    pub chunk_size: u32,
    pub compression: Compression,
    pub threads: usize,
    pub buffers: Buffers,
}

/// Where everything lies that is under way.
pub(crate) struct Buffers {
    /// Bytes of streams.
    pub blocks: BufferPool,
    /// What a block holds beside the headroom of the chunker.
    pub block: usize,
    /// Compressed chunks.
    pub frames: BufferPool,
    /// Ciphertext, filling or under way.
    pub packs: BufferPool,
}

impl Buffers {
    /// A quarter of `memory` for blocks, half for packs; the rest is for frames, compressors, the
    /// index and the program itself.
    pub(crate) fn new(memory: u64, chunk_size: u32, threads: usize) -> Self {
        let longest = Chunker::longest(chunk_size);
        let block = BLOCK.max(longest);
        let share = |part: u64, each: usize| usize::try_from(part / each as u64).unwrap_or(usize::MAX);
        Self {
            blocks: BufferPool::new(share(memory / 4, block).clamp(3, 16), longest + block),
            block,
            frames: BufferPool::new(2 * threads + 2, chunk_size as usize),
            packs: BufferPool::new(share(memory / 2, PACK).clamp(2, 32), PACK),
        }
    }
}

/// Begins the name of what holds the map of a stream; no source's stream is called so.
pub(crate) const MAP_OF: char = '\u{1}';

/// One stream, captured.
pub(crate) struct CapturedStream {
    pub name: String,
    pub length: u64,
    pub blake3: Digest,
    pub exit: i32,
    /// Packs by their place in [`Captured::packs`].
    pub extents: Extents,
}

/// Everything that one run captured.
pub(crate) struct Captured {
    pub streams: Vec<CapturedStream>,
    /// The packs that extents name by number.
    pub packs: Vec<PackRef>,
    /// Packs that no index segment holds yet: uploaded now, or by a run that crashed.
    pub unindexed: Vec<IndexedPack>,
    pub receipts: Vec<Receipt>,
    pub deduplicated: u64,
    /// Of these, in chunks that no pack holds as a whole: rows were found.
    pub rows: u64,
    pub stored: u64,
}

/// A chunk to be stored.
pub(crate) struct NewChunk {
    pub id: ChunkId,
    pub length: usize,
    pub frame: oneshot::Receiver<Result<Buffer>>,
}

/// What the packer is told, in the order of each stream.
pub(crate) enum Item {
    Begin {
        stream: usize,
        name: String,
    },
    /// A chunk that this run met before.
    Repeated {
        stream: usize,
        id: ChunkId,
        length: usize,
    },
    New {
        stream: usize,
        chunk: NewChunk,
    },
    /// From here and there; what is new of it, in order, is one chunk.
    Mixed {
        stream: usize,
        parts: Vec<Part>,
        new: Option<NewChunk>,
    },
    End {
        stream: usize,
        end: End,
    },
}

/// What a stage sees when another one has failed; the cause is reported by that one.
pub(crate) fn stopped() -> Error {
    Error::failed("the pipeline has stopped")
}

/// Takes the streams of a run. [`Pipeline::finish`] gives what came of them.
pub(crate) struct Pipeline {
    intake: Arc<Intake>,
    packer: tokio::task::JoinHandle<Result<Captured>>,
    /// Stops the threads, also when the run's future is dropped.
    stop: DropGuard,
}

impl Pipeline {
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let (items, received) = mpsc::channel(CHUNKS_AHEAD);
        let stop = shared.cancel.clone().drop_guard();
        let packer = Packer::new(shared.clone());
        let packer = tokio::task::spawn_blocking(move || packer.run(received));
        Self { intake: Arc::new(Intake::start(shared, items)), packer, stop }
    }

    pub(crate) fn sink(&self) -> Sink {
        Sink(self.intake.clone())
    }

    /// Waits until everything is packed and durable.
    ///
    /// # Errors
    /// The first failure of any stage; or a stream that was opened and not finished.
    pub(crate) async fn finish(self) -> Result<Captured> {
        drop(self.intake);
        let captured = self.packer.await.context(Class::Failed, || "the packer stopped")?;
        self.stop.disarm();
        captured
    }
}
