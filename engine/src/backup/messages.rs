//! The messages that the stages of a run send each other.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::buffers::Buffer;
use lifeboat_base::{Error, Result};
use lifeboat_format::extents::Extents;
use lifeboat_format::id::{ChunkId, Digest};
use lifeboat_format::index::IndexedPack;
use lifeboat_format::manifest::PackRef;
use tokio::sync::oneshot;

use super::compress::Effort;
use super::fleet::Receipt;
use super::fragments::Fragment;
use crate::anomaly::StreamFigures;

/// The name of the stream that holds a map begins with this. No source can use it in a name.
pub(crate) const MAP_OF: char = '\u{1}';

/// What is known of a stream after its last byte.
pub(crate) struct End {
    pub length: u64,
    pub blake3: Digest,
    pub exit: i32,
}

/// A chunk to be compressed. Each job has a buffer of a bounded pool, so jobs are bounded, too.
pub(crate) struct Job {
    pub chunk: Bytes,
    pub effort: Arc<Effort>,
    pub frame: Buffer,
    pub result: oneshot::Sender<Result<Buffer>>,
}

/// A chunk to be stored.
pub(crate) struct NewChunk {
    pub id: ChunkId,
    pub length: usize,
    pub frame: oneshot::Receiver<Result<Buffer>>,
}

/// A message to the packer. Each stream's messages are in the order of the stream.
pub(crate) enum Item {
    Begin {
        stream: usize,
        name: String,
    },
    /// A chunk that this run has met before.
    Repeated {
        stream: usize,
        id: ChunkId,
        length: usize,
    },
    New {
        stream: usize,
        chunk: NewChunk,
    },
    /// A part of a map, which is stored whether or not it is known.
    Map {
        stream: usize,
        chunk: NewChunk,
    },
    /// Fragments from several places. The new ones, in order, are the chunk `new`.
    Mixed {
        stream: usize,
        parts: Vec<Fragment>,
        new: Option<NewChunk>,
    },
    /// All of a stream that the predecessor has, too.
    TakenOver {
        stream: usize,
        parts: Vec<Fragment>,
    },
    End {
        stream: usize,
        end: End,
    },
}

/// The error of a stage that stops because another one failed. The other one reports the cause.
pub(crate) fn stopped() -> Error {
    Error::failed("the pipeline has stopped")
}

/// A stream that was captured.
pub(crate) struct CapturedStream {
    pub name: String,
    pub length: u64,
    pub blake3: Digest,
    pub exit: i32,
    /// Their pack numbers are positions in [`Captured::packs`].
    pub extents: Extents,
    pub figures: StreamFigures,
}

/// Everything that one run captured.
pub(crate) struct Captured {
    pub streams: Vec<CapturedStream>,
    /// The packs that extents name by number.
    pub packs: Vec<PackRef>,
    /// Packs that no index segment lists yet. This run uploaded them, or one that crashed.
    pub unindexed: Vec<IndexedPack>,
    pub receipts: Vec<Receipt>,
    pub deduplicated: u64,
    /// The part of `deduplicated` that was found row by row, in chunks that no pack holds as a
    /// whole.
    pub rows: u64,
    pub stored: u64,
}
