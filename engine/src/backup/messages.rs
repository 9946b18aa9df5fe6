//! What the stages of a run tell each other.

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

/// Begins the name of what holds the map of a stream; no source's stream is called so.
pub(crate) const MAP_OF: char = '\u{1}';

/// What is known of a stream after its last byte.
pub(crate) struct End {
    pub length: u64,
    pub blake3: Digest,
    pub exit: i32,
}

/// A chunk to be compressed. The number of frames bounds the number of jobs.
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
        parts: Vec<Fragment>,
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
