//! A stream of the newest snapshot: its list of chunks in memory, and their sketches on disk.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lifeboat_format::id::{ChunkId, Digest};

use super::{Chunk, KEPT_ID_BYTES, Sketches, purpose, short};
use crate::rows::matcher::OlderUnits;
use crate::rows::parity::Element;
use crate::rows::sketch::Sketch;
use crate::rows::units::Fineness;
use crate::state::chunk_table;
use crate::state::chunk_table::ChunkTable;

/// A stream as the newest snapshot has it.
pub struct OlderStream {
    pub(crate) chunks: Vec<Chunk>,
    /// Where each chunk begins in the stream.
    begins: Vec<u64>,
    pub(crate) files: Vec<Sketches>,
    ids: ChunkTable,
    resembling: ChunkTable,
    /// Its files hold over a tenth more than is needed, so its sketches are to be written anew.
    pub(crate) wasteful: bool,
    unreadable: AtomicUsize,
}

impl OlderStream {
    pub(crate) fn new(chunks: Vec<Chunk>, files: Vec<Sketches>) -> Self {
        let (mut ids, mut resembling) =
            (chunk_table::TableBuilder::new(chunks.len()), chunk_table::TableBuilder::new(chunks.len()));
        let (mut begins, mut begin, mut needed) = (Vec::with_capacity(chunks.len()), 0, 0);
        for (chunk, number) in chunks.iter().zip(0..) {
            ids.add(&padded(&chunk.id), number);
            resembling.add(&spread(chunk.smallest), number);
            begins.push(begin);
            begin += u64::from(chunk.length);
            needed += u64::from(chunk.sketch.length);
        }
        let held: u64 = files.iter().filter_map(|file| file.file.metadata().ok()).map(|metadata| metadata.len()).sum();
        let wasteful = held > needed + needed / 10 + (64 << 10);
        Self {
            chunks,
            begins,
            files,
            ids: ids.finish(),
            resembling: resembling.finish(),
            wasteful,
            unreadable: AtomicUsize::new(0),
        }
    }

    /// The number of the chunk with this id.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<u32> {
        let short = short(id);
        self.ids.find(&padded(&short)).filter(|number| self.chunks[*number as usize].id == short)
    }

    /// Where a chunk begins in the stream, and its length, in bytes.
    #[must_use]
    pub fn range(&self, chunk: u32) -> (u64, u32) {
        (self.begins[chunk as usize], self.chunks[chunk as usize].length)
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        let last = self.begins.last().zip(self.chunks.last());
        last.map_or(0, |(begin, chunk)| begin + u64::from(chunk.length))
    }

    /// How finely a chunk was cut into units; `None` if there is no such chunk.
    #[must_use]
    pub fn fineness(&self, chunk: u32) -> Option<Fineness> {
        self.chunks.get(chunk as usize).map(|chunk| chunk.fineness)
    }

    fn sealed(&self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        let mut sealed = vec![0; chunk.sketch.length as usize];
        self.files[chunk.sketch.file as usize].file.read_exact_at(&mut sealed, chunk.sketch.offset)?;
        Ok(sealed)
    }

    /// A chunk's sketch as it was written; `None`, and counted, if it cannot be read.
    pub(crate) fn bytes(&self, chunk: &Chunk) -> Option<Vec<u8>> {
        let key = &self.files[chunk.sketch.file as usize].key;
        let bytes = self.sealed(chunk).ok().and_then(|sealed| key.open(&purpose(&chunk.id), &sealed).ok());
        if bytes.is_none() {
            self.unreadable.fetch_add(1, Ordering::Relaxed);
        }
        Some(bytes?.to_vec())
    }

    /// How many reads of sketches have failed so far.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.unreadable.load(Ordering::Relaxed)
    }
}

impl OlderUnits for Arc<OlderStream> {
    fn sketch(&mut self, chunk: u32) -> Option<Sketch> {
        Sketch::parse(&self.bytes(self.chunks.get(chunk as usize)?)?)
    }

    fn resembling(&mut self, smallest: Element) -> Option<u32> {
        let number = self.resembling.find(&spread(smallest))?;
        (self.chunks[number as usize].smallest == smallest).then_some(number)
    }
}

/// A key for [`ChunkTable`], which needs random bits. The bits of an id are as good as random.
fn padded(id: &[u8; KEPT_ID_BYTES]) -> ChunkId {
    let mut bytes = [0; 32];
    bytes[..KEPT_ID_BYTES].copy_from_slice(id);
    Digest(bytes)
}

/// A key for [`ChunkTable`]. A smallest hash is not random, so it is hashed again.
fn spread(smallest: Element) -> ChunkId {
    Digest::of(&smallest.get().to_le_bytes())
}
