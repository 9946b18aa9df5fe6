//! Decides what becomes of each chunk of one stream. A chunk is referred to, put together from
//! stored fragments and new ones, or stored whole.
//!
//! The new fragments are collected until they are worth a chunk of their own.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_base::Result;
use lifeboat_format::id::ChunkId;
use tokio::sync::oneshot;

use super::compress::Effort;
use super::fragments::Fragment;
use super::messages::{End, Item, Job, MAP_OF, NewChunk};
use super::outbox::Outbox;
use super::row_search::StreamRows;
use super::sequence::Identified;

/// New fragments are stored as one chunk once they have this many bytes, enough to compress well.
const MIN_NEW_CHUNK_BYTES: usize = 256 << 10;
/// Fragments are passed on once this many wait, however few new bytes there are.
const MAX_WAITING_FRAGMENTS: usize = 1 << 14;
/// New fragments are compressed harder while they are at most a 32nd of the stream so far.
const MIN_STREAM_PER_HARDENED: u64 = 32;

/// Deduplicates one stream.
pub(crate) struct Deduplicator<'a> {
    outbox: &'a Outbox,
    stream: usize,
    /// How hard whole chunks are compressed.
    effort: Arc<Effort>,
    /// How hard new fragments are compressed while they are few.
    effort_of_little: Arc<Effort>,
    /// Bytes of the stream so far.
    length: u64,
    /// The part of these bytes that was compressed harder.
    little: u64,
    rows: Option<StreamRows>,
    /// Whether the stream is a map, which lies in packs of its own.
    is_map: bool,
    /// Fragments of which the packer does not know yet.
    parts: Vec<Fragment>,
    /// The bytes of the new ones among these fragments.
    new: Vec<u8>,
}

impl<'a> Deduplicator<'a> {
    /// Begins a stream.
    pub(crate) fn new(outbox: &'a Outbox, stream: usize, name: String) -> Result<Self> {
        let shared = &outbox.shared;
        let is_map = name.starts_with(MAP_OF);
        let rows = shared.rows.as_ref().filter(|_| !is_map).map(|rows| rows.stream(&name));
        outbox.send(|| Item::Begin { stream, name })?;
        let effort = |compression| Arc::new(Effort::new(compression));
        let (effort, effort_of_little) = (effort(shared.compression), effort(shared.compression.of_little()));
        let (parts, new) = (Vec::new(), Vec::new());
        Ok(Self { outbox, stream, effort, effort_of_little, length: 0, little: 0, rows, is_map, parts, new })
    }

    /// Decides about the next chunk.
    pub(crate) fn chunk(&mut self, Identified { chunk, id, older }: Identified) -> Result<()> {
        self.length += chunk.len() as u64;
        if self.is_map {
            let stream = self.stream;
            let (chunk, job) = self.prepare(id, chunk, &self.effort)?;
            self.outbox.send(|| Item::Map { stream, chunk })?;
            return self.outbox.compress(job);
        }
        if let Some(number) = older {
            if let Some(rows) = &mut self.rows {
                rows.known(&id, &chunk);
            }
            self.parts.push(Fragment::Known { place: self.outbox.shared.index.place(number), length: chunk.len() });
            return self.pass_on_if_enough();
        }
        match self.rows.as_mut().and_then(|rows| rows.look(&id, &chunk)) {
            Some(parts) => self.put_together(parts, &chunk),
            None => self.store(id, chunk),
        }
    }

    /// Ends the stream after its last chunk.
    pub(crate) fn end(mut self, end: End) -> Result<()> {
        self.pass_on()?;
        if let Some(rows) = self.rows {
            rows.end();
        }
        let stream = self.stream;
        self.outbox.send(|| Item::End { stream, end })
    }

    /// Passes on known fragments, because the next chunk may take a while to come.
    pub(crate) fn pause(&mut self) -> Result<()> {
        if self.new.is_empty() { self.pass_on() } else { Ok(()) }
    }

    fn put_together(&mut self, parts: Vec<Fragment>, chunk: &[u8]) -> Result<()> {
        let mut at = 0;
        for part in &parts {
            let length = part.length();
            if matches!(part, Fragment::New { .. }) {
                self.new.extend_from_slice(&chunk[at..at + length]);
            }
            at += length;
        }
        self.parts.extend(parts);
        self.pass_on_if_enough()
    }

    fn pass_on_if_enough(&mut self) -> Result<()> {
        if self.new.len() >= MIN_NEW_CHUNK_BYTES || self.parts.len() >= MAX_WAITING_FRAGMENTS {
            self.pass_on()
        } else {
            Ok(())
        }
    }

    /// Sends the collected fragments to the packer.
    fn pass_on(&mut self) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let (stream, parts, new) = (self.stream, std::mem::take(&mut self.parts), std::mem::take(&mut self.new));
        if new.is_empty() {
            return self.outbox.send(|| Item::Mixed { stream, parts, new: None });
        }
        let id = self.outbox.shared.keys.chunk_id_key.id_of(&new);
        let little = self.little + new.len() as u64 <= self.length / MIN_STREAM_PER_HARDENED;
        self.little += if little { new.len() as u64 } else { 0 };
        let effort = if little { &self.effort_of_little } else { &self.effort };
        let (chunk, job) = self.prepare(id, Bytes::from(new), effort)?;
        self.outbox.send(|| Item::Mixed { stream, parts, new: Some(chunk) })?;
        self.outbox.compress(job)
    }

    fn store(&mut self, id: ChunkId, chunk: Bytes) -> Result<()> {
        self.pass_on()?;
        let (stream, length) = (self.stream, chunk.len());
        let (chunk, job) = self.prepare(id, chunk, &self.effort)?;
        let mut job = Some(job);
        self.outbox.send(|| {
            // The claim is made while sending. So the packer never gets a repeated chunk before the
            // first one, whichever stream that is in.
            if self.outbox.shared.index.claim(&id) {
                Item::New { stream, chunk }
            } else {
                job = None;
                Item::Repeated { stream, id, length }
            }
        })?;
        job.map_or(Ok(()), |job| self.outbox.compress(job))
    }

    /// Takes a buffer. It must be called before a place in the packer's queue is taken: a message
    /// with a place must not wait for buffers that messages behind it hold.
    fn prepare(&self, id: ChunkId, chunk: Bytes, effort: &Arc<Effort>) -> Result<(NewChunk, Job)> {
        let buffer = self.outbox.shared.share.buffers().frames.take_blocking()?;
        let (result, frame) = oneshot::channel();
        let new = NewChunk { id, length: chunk.len(), frame };
        Ok((new, Job { chunk, effort: effort.clone(), frame: buffer, result }))
    }
}
