//! The first half of the pipeline. Streams are written into blocks, cut into chunks and identified.
//! New chunks are compressed.
//!
//! A capture reads its pipe straight into the block that is cut later, and each piece is hashed
//! there. Chunks are passed on block by block, so that unchanged data wakes threads rarely.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as jobs};

use async_trait::async_trait;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_databases::SharedMoment;
use lifeboat_databases::streams::{StreamFingerprint, StreamSink, StreamWriter};
use lifeboat_format::id::Digest;
use lifeboat_format::stream_name::StreamNames;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::chunk::{Block, Chunker};
use super::compress::Compressor;
use super::dedup::Deduplicator;
use super::messages::{End, Item, Job, MAP_OF, stopped};
use super::outbox::Outbox;
use super::sequence::{Identified, Sequence};
use super::shared::Shared;

/// How many blocks of a stream may wait to be cut.
const BLOCKS_AHEAD: usize = 2;
/// How many blocks of a stream may wait, cut into chunks, to be deduplicated.
const BLOCKS_CUT: usize = 2;

pub(crate) struct Intake {
    outbox: Outbox,
    names: Mutex<StreamNames>,
    streams: AtomicUsize,
}

impl Intake {
    /// Starts the threads that compress. They end when the last user of the intake is dropped.
    pub(crate) fn start(shared: Arc<Shared>, items: mpsc::Sender<Item>) -> Self {
        let (sender, queue) = jobs::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..shared.threads {
            let (queue, shared) = (queue.clone(), shared.clone());
            tokio::task::spawn_blocking(move || compress_all(&queue, &shared));
        }
        Self { outbox: Outbox::new(shared, items, sender), names: Mutex::default(), streams: AtomicUsize::new(0) }
    }

    /// Takes a name, once.
    fn name(&self, name: &str) -> Result<()> {
        if self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
            return Ok(());
        }
        Err(Error::source_failed(format!(
            "a stream cannot be named `{}`: a name must be unique, 1 to 1024 bytes, and a path below a folder",
            name.escape_debug()
        ))
        .hint("set another `stream`, or rename the file; nothing was committed"))
    }

    /// Takes a stream over from the predecessor, if nothing of it is to be stored again.
    fn take_over(&self, name: String, fingerprint: &StreamFingerprint, end: End) -> Result<Option<u64>> {
        let (shared, length) = (&self.outbox.shared, end.length);
        let parts = shared.rows.as_ref().and_then(|rows| rows.take_over(&name, length));
        let Some(parts) = parts else { return Ok(None) };
        self.name(&name)?;
        shared.unread.taken_over(&name, fingerprint, length);
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        self.outbox.send(|| Item::Begin { stream, name })?;
        self.outbox.send(|| Item::TakenOver { stream, parts })?;
        self.outbox.send(|| Item::End { stream, end })?;
        Ok(Some(length))
    }

    /// Cuts one stream and identifies its chunks, on a thread of its own.
    fn cut_stream(&self, mut fed: mpsc::Receiver<Piece>, cut: &mpsc::Sender<Cut>) -> Result<()> {
        let Shared { index, keys, chunk_size, .. } = &*self.outbox.shared;
        let mut sequence = Sequence::new(index, &keys.chunk_id_key, *chunk_size);
        // The chunks of a block are sent together: a thread that is woken for each chunk would
        // spend its time on waking up.
        let pass_on = |part: Cut| cut.blocking_send(part).map_err(|_| stopped());
        while let Some(piece) = fed.blocking_recv() {
            match piece {
                Piece::Block(block) => {
                    sequence.feed(block);
                    pass_on(Cut::Chunks(std::iter::from_fn(|| sequence.next_chunk()).collect()))?;
                }
                Piece::End(end) => {
                    pass_on(Cut::Chunks(std::iter::from_fn(|| sequence.rest()).collect()))?;
                    return pass_on(Cut::End(end));
                }
            }
        }
        // The writer was dropped before its end. The packer gets no `End` and refuses the stream.
        Ok(())
    }

    /// Deduplicates the chunks of one stream, on another thread of its own.
    fn dedup_stream(&self, stream: usize, name: String, mut cut: mpsc::Receiver<Cut>) -> Result<()> {
        let mut deduplicator = Deduplicator::new(&self.outbox, stream, name)?;
        while let Some(part) = cut.blocking_recv() {
            match part {
                Cut::Chunks(chunks) => {
                    chunks.into_iter().try_for_each(|chunk| deduplicator.chunk(chunk))?;
                    deduplicator.pause()?;
                }
                Cut::End(end) => return deduplicator.end(end),
            }
        }
        Ok(())
    }
}

fn compress_all(queue: &Mutex<jobs::Receiver<Job>>, shared: &Shared) {
    let mut compressor = Compressor::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { chunk, effort, mut frame, result }) = next else { return };
        let processor = shared.share.processor();
        let compressed = compressor.compress(&effort, &chunk, &mut frame).map(|()| frame);
        drop(processor);
        // The receiver is gone only if the run has failed.
        let _ = result.send(compressed);
    }
}

/// Opens streams into the pipeline.
pub(crate) struct Sink {
    pub(crate) intake: Arc<Intake>,
    pub(crate) moment: SharedMoment,
}

#[async_trait]
impl StreamSink for Sink {
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>> {
        self.intake.name(name)?;
        Ok(self.begin(name.to_owned()))
    }

    fn keeps_fingerprints(&self) -> bool {
        // Without a row index, nothing tells where a stream lies.
        self.intake.outbox.shared.rows.is_some()
    }

    async fn take_over(&self, name: &str, fingerprint: &StreamFingerprint) -> Result<Option<u64>> {
        let Some(end) = self.intake.outbox.shared.unread.find(name, fingerprint) else { return Ok(None) };
        let (intake, name, fingerprint) = (self.intake.clone(), name.to_owned(), *fingerprint);
        let taking = tokio::task::spawn_blocking(move || intake.take_over(name, &fingerprint, end));
        taking.await.context(Class::Failed, || "a worker thread failed")?
    }

    fn fingerprint(&self, name: &str, fingerprint: StreamFingerprint) {
        self.intake.outbox.shared.unread.keep(name, &fingerprint);
    }

    fn moment(&self) -> &SharedMoment {
        &self.moment
    }
}

impl Sink {
    /// Opens the stream that holds the map of `stream`.
    fn open_map(&self, stream: &str) -> Box<dyn StreamWriter> {
        self.begin(format!("{MAP_OF}{stream}"))
    }

    /// Stores the maps that this run has made.
    pub(crate) async fn store_maps(&self, shared: &Shared) -> Result<()> {
        for (name, map) in shared.rows.as_ref().map(|rows| rows.maps()).unwrap_or_default() {
            if let Some(bytes) = map.made() {
                let mut writer = self.open_map(&name);
                writer.write(bytes.clone()).await?;
                writer.finish(0).await?;
            }
        }
        Ok(())
    }

    fn begin(&self, name: String) -> Box<dyn StreamWriter> {
        let stream = self.intake.streams.fetch_add(1, Ordering::Relaxed);
        let (pieces, fed) = mpsc::channel(BLOCKS_AHEAD);
        let (chunks, cut) = mpsc::channel(BLOCKS_CUT);
        let (cutting, looking) = (self.intake.clone(), self.intake.clone());
        tokio::task::spawn_blocking(move || cutting.cut_stream(fed, &chunks));
        // The cutting thread fails only if this one has ended, so only this one is awaited.
        let worker = tokio::task::spawn_blocking(move || looking.dedup_stream(stream, name, cut));
        let (shared, cancel) = (self.intake.outbox.shared.clone(), self.intake.outbox.shared.cancel.clone());
        Box::new(Writer { shared, cancel, block: None, hasher: blake3::Hasher::new(), pieces, worker })
    }
}

enum Cut {
    Chunks(Vec<Identified>),
    End(End),
}

enum Piece {
    Block(Block),
    End(End),
}

struct Writer {
    shared: Arc<Shared>,
    cancel: CancellationToken,
    /// The block that is being filled.
    block: Option<Block>,
    /// Hashes the whole stream, while the processor's caches still hold its bytes.
    hasher: blake3::Hasher,
    pieces: mpsc::Sender<Piece>,
    worker: tokio::task::JoinHandle<Result<()>>,
}

impl Writer {
    async fn pass_on(&self, piece: Piece) -> Result<()> {
        tokio::select! {
            sent = self.pieces.send(piece) => sent.map_err(|_| stopped()),
            () = self.cancel.cancelled() => Err(stopped()),
        }
    }
}

#[async_trait]
impl StreamWriter for Writer {
    async fn space(&mut self) -> Result<&mut [u8]> {
        let block = match self.block.take() {
            Some(block) => block,
            None => {
                let buffers = self.shared.share.buffers();
                let buffer = tokio::select! {
                    buffer = buffers.blocks.take() => buffer?,
                    () = self.cancel.cancelled() => return Err(stopped()),
                };
                Block::new(buffer, Chunker::longest(self.shared.chunk_size), buffers.block)
            }
        };
        Ok(self.block.insert(block).space())
    }

    async fn filled(&mut self, length: usize) -> Result<()> {
        let Some(mut block) = self.block.take() else { return Ok(()) };
        self.shared.progress.read.fetch_add(length as u64, Ordering::Relaxed);
        self.hasher.update(&block.space()[..length]);
        block.filled(length);
        if block.space().is_empty() {
            return self.pass_on(Piece::Block(block)).await;
        }
        self.block = Some(block);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, exit: i32) -> Result<()> {
        if let Some(block) = self.block.take() {
            self.pass_on(Piece::Block(block)).await?;
        }
        let (length, blake3) = (self.hasher.count(), Digest(*self.hasher.finalize().as_bytes()));
        self.pass_on(Piece::End(End { length, blake3, exit })).await?;
        self.worker.await.context(Class::Failed, || "a worker thread failed")?
    }
}
