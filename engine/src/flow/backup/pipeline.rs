//! The pipeline of one run: stream writers → chunk and identify → compress → pack → encrypt → upload.
//!
//! Order: a stream's chunks reach the packer in the stream's order, so its extents are in order, and the packs of a
//! first snapshot concatenate to its streams. Bounds: each queue below; packs in flight by the memory limit.
//! Failure: the first error cancels the run's token; everybody else stops at the next step.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Progress;
use super::chunk_index::ChunkIndex;
use super::fleet::{Fleet, Receipt};
use crate::bytes::chunk::Chunker;
use crate::bytes::compress::compress;
use crate::bytes::crypt;
use crate::error::{Class, Context, Error, Result};
use crate::id::{ChunkId, Digest};
use crate::keys::DatasetKeys;
use crate::source::{StreamSink, StreamWriter};
use crate::state::journal::Journal;
use crate::vault::index::IndexedPack;
use crate::vault::manifest::{Extent, PackRef, push_extent};
use crate::vault::pack::{PackBuilder, PlainPack, TARGET_SIZE};

/// Pieces of a stream that wait to be chunked.
const FED_AHEAD: usize = 8;
/// Chunks of all streams that wait to be packed.
const CHUNKS_AHEAD: usize = 16;
/// How long a failed run waits for packs in flight.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);
/// Memory of a pack in flight: its plaintext and its ciphertext.
const PACK_MEMORY: u64 = 2 * (TARGET_SIZE as u64 + (4 << 20));

/// What all stages of a run share.
pub(super) struct Shared {
    pub index: ChunkIndex,
    pub keys: DatasetKeys,
    pub fleet: Fleet,
    pub journal: Journal,
    pub progress: Arc<Progress>,
    pub cancel: CancellationToken,
    pub chunk_size: u32,
    pub compression: i32,
    pub threads: usize,
    pub memory: u64,
}

/// One stream, captured.
pub(super) struct CapturedStream {
    pub name: String,
    pub length: u64,
    pub blake3: Digest,
    pub exit: i32,
    /// Packs by their place in [`Captured::packs`].
    pub extents: Vec<Extent>,
}

/// Everything that one run captured.
pub(super) struct Captured {
    pub streams: Vec<CapturedStream>,
    /// The packs that extents name by number.
    pub packs: Vec<PackRef>,
    /// Packs that no index segment holds yet: uploaded now, or by a run that crashed.
    pub unindexed: Vec<IndexedPack>,
    pub receipts: Vec<Receipt>,
    pub deduplicated: u64,
    pub stored: u64,
}

enum Item {
    Begin {
        stream: usize,
        name: String,
    },
    /// A chunk that an earlier snapshot stored.
    Known {
        stream: usize,
        id: ChunkId,
    },
    /// A chunk that this run met before.
    Repeated {
        stream: usize,
        id: ChunkId,
    },
    New {
        stream: usize,
        id: ChunkId,
        length: usize,
        frame: oneshot::Receiver<Result<Vec<u8>>>,
    },
    End {
        stream: usize,
        length: u64,
        blake3: Digest,
        exit: i32,
    },
}

/// Takes the streams of a run. [`Pipeline::finish`] gives what came of them.
pub(super) struct Pipeline {
    intake: Arc<Intake>,
    packer: AbortOnDropHandle<Result<Captured>>,
}

struct Intake {
    shared: Arc<Shared>,
    items: mpsc::Sender<Item>,
    names: Mutex<Vec<String>>,
    seen: Mutex<HashSet<ChunkId>>,
    compressors: Arc<Semaphore>,
}

impl Pipeline {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (items, received) = mpsc::channel(CHUNKS_AHEAD);
        let packer = AbortOnDropHandle::new(tokio::spawn(Packer::new(shared.clone()).run(received)));
        let compressors = Arc::new(Semaphore::new(shared.threads));
        let intake = Intake { shared, items, names: Mutex::default(), seen: Mutex::default(), compressors };
        Self { intake: Arc::new(intake), packer }
    }

    pub(super) fn sink(&self) -> Sink {
        Sink(self.intake.clone())
    }

    /// Waits until everything is packed and durable.
    ///
    /// # Errors
    /// The first failure of any stage; or a stream that was opened and not finished.
    pub(super) async fn finish(self) -> Result<Captured> {
        drop(self.intake);
        self.packer.await.context(Class::Failed, || "the packer stopped")?
    }
}

/// Opens streams into the pipeline.
pub(super) struct Sink(Arc<Intake>);

impl StreamSink for Sink {
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>> {
        let legal = !name.is_empty() && name.len() <= 200 && !name.chars().any(char::is_control);
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !legal || names.iter().any(|taken| taken == name) {
            return Err(Error::source_failed(format!("a stream cannot be named `{}`", name.escape_debug())));
        }
        let stream = names.len();
        names.push(name.to_owned());
        drop(names);
        let (pieces, fed) = mpsc::channel(FED_AHEAD);
        let (intake, name) = (self.0.clone(), name.to_owned());
        let worker = tokio::task::spawn_blocking(move || intake.chunk_stream(stream, name, fed));
        Ok(Box::new(Writer { pieces, worker, cancel: self.0.shared.cancel.clone() }))
    }
}

enum Piece {
    Data(Bytes),
    End { exit: i32 },
}

struct Writer {
    pieces: mpsc::Sender<Piece>,
    worker: tokio::task::JoinHandle<Result<()>>,
    cancel: CancellationToken,
}

/// What a source sees when a later stage failed; the cause is reported by that stage.
fn stopped() -> Error {
    Error::failed("the pipeline has stopped")
}

#[async_trait]
impl StreamWriter for Writer {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        tokio::select! {
            sent = self.pieces.send(Piece::Data(data)) => sent.map_err(|_| stopped()),
            () = self.cancel.cancelled() => Err(stopped()),
        }
    }

    async fn finish(self: Box<Self>, exit: i32) -> Result<()> {
        self.pieces.send(Piece::End { exit }).await.map_err(|_| stopped())?;
        self.worker.await.context(Class::Failed, || "a worker thread failed")?
    }
}

impl Intake {
    /// Chunks and identifies one stream, on a thread of its own.
    fn chunk_stream(&self, stream: usize, name: String, mut fed: mpsc::Receiver<Piece>) -> Result<()> {
        let shared = &self.shared;
        self.send(|| Item::Begin { stream, name })?;
        let mut chunker = Chunker::new(&shared.keys.chunk_id_key, shared.chunk_size);
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = fed.blocking_recv() {
            match piece {
                Piece::Data(data) => {
                    hasher.update(&data);
                    shared.progress.read.fetch_add(data.len() as u64, Ordering::Relaxed);
                    chunker.feed(&data);
                    while let Some(chunk) = chunker.next_chunk() {
                        self.identify(stream, chunk)?;
                    }
                }
                Piece::End { exit } => {
                    while let Some(chunk) = chunker.rest() {
                        self.identify(stream, chunk)?;
                    }
                    let (length, blake3) = (hasher.count(), Digest(*hasher.finalize().as_bytes()));
                    return self.send(|| Item::End { stream, length, blake3, exit });
                }
            }
        }
        // Dropped without its end: the packer has no `End` for it, and refuses.
        Ok(())
    }

    fn identify(&self, stream: usize, chunk: Bytes) -> Result<()> {
        let id = self.shared.keys.chunk_id_key.id_of(&chunk);
        if self.shared.index.find(&id).is_some() {
            return self.send(|| Item::Known { stream, id });
        }
        let (result, frame) = oneshot::channel();
        let mut frame = Some(frame);
        self.send(|| {
            // Decided while the place in the queue is ours: a repeat never overtakes its first.
            if self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
                let frame = frame.take().unwrap_or_else(|| oneshot::channel().1);
                Item::New { stream, id, length: chunk.len(), frame }
            } else {
                Item::Repeated { stream, id }
            }
        })?;
        if frame.is_none() {
            self.compress(chunk, result)?;
        }
        Ok(())
    }

    /// Compresses on one of the run's threads; waits while all are busy.
    fn compress(&self, chunk: Bytes, result: oneshot::Sender<Result<Vec<u8>>>) -> Result<()> {
        let runtime = tokio::runtime::Handle::current();
        let permit = runtime.block_on(self.compressors.clone().acquire_owned()).map_err(|_| stopped())?;
        let level = self.shared.compression;
        runtime.spawn_blocking(move || {
            let frame = compress(level, &chunk);
            drop(permit);
            // The packer is gone only when the run has failed.
            let _ = result.send(frame);
        });
        Ok(())
    }

    fn send(&self, item: impl FnOnce() -> Item) -> Result<()> {
        let place = tokio::runtime::Handle::current().block_on(self.items.reserve()).map_err(|_| stopped())?;
        place.send(item());
        Ok(())
    }
}

/// Which pack an extent means while the run lasts.
type PackNumber = u32;

struct Open {
    name: String,
    extents: Vec<Extent>,
    end: Option<(u64, Digest, i32)>,
}

struct Packer {
    shared: Arc<Shared>,
    streams: BTreeMap<usize, Open>,
    /// Where chunks of this run lie.
    located: HashMap<ChunkId, (PackNumber, u64, u64)>,
    /// The number of each older pack that is referred to.
    older: HashMap<u32, PackNumber>,
    /// By number; `None` while it is filled or in flight.
    packs: Vec<Option<PackRef>>,
    filling: PackBuilder,
    filling_number: Option<PackNumber>,
    flights: JoinSet<Result<(PackNumber, IndexedPack, Receipt)>>,
    unindexed: Vec<IndexedPack>,
    receipts: Vec<Receipt>,
    deduplicated: u64,
}

impl Packer {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            streams: BTreeMap::new(),
            located: HashMap::new(),
            older: HashMap::new(),
            packs: Vec::new(),
            filling: PackBuilder::default(),
            filling_number: None,
            flights: JoinSet::new(),
            unindexed: Vec::new(),
            receipts: Vec::new(),
            deduplicated: 0,
        }
    }

    async fn run(mut self, items: mpsc::Receiver<Item>) -> Result<Captured> {
        let cancel = self.shared.cancel.clone();
        let packed = tokio::select! {
            packed = self.pack(items) => packed,
            () = cancel.cancelled() => Err(Error::cancelled("the run")),
        };
        if let Err(error) = packed {
            cancel.cancel();
            // What is on its way may still become durable and reach the journal: the next run need not send it again.
            let drain = async { while self.flights.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(DRAIN, drain).await;
            return Err(error);
        }
        self.captured()
    }

    async fn pack(&mut self, mut items: mpsc::Receiver<Item>) -> Result<()> {
        while let Some(item) = items.recv().await {
            match item {
                Item::Begin { stream, name } => {
                    self.streams.insert(stream, Open { name, extents: Vec::new(), end: None });
                }
                Item::Known { stream, id } => self.refer_to_older(stream, &id)?,
                Item::Repeated { stream, id } => {
                    let location = self.located.get(&id).copied().ok_or_else(stopped)?;
                    self.count_deduplicated(location.2);
                    self.refer(stream, location);
                }
                Item::New { stream, id, length, frame } => {
                    let frame = frame.await.map_err(|_| stopped())??;
                    self.store(stream, id, length, &frame).await?;
                }
                Item::End { stream, length, blake3, exit } => {
                    if let Some(open) = self.streams.get_mut(&stream) {
                        open.end = Some((length, blake3, exit));
                    }
                }
            }
        }
        self.close().await?;
        while let Some(landed) = self.flights.join_next().await {
            self.land(landed)?;
        }
        Ok(())
    }

    fn refer(&mut self, stream: usize, (pack, offset, length): (PackNumber, u64, u64)) {
        if let Some(open) = self.streams.get_mut(&stream) {
            push_extent(&mut open.extents, Extent { pack, offset, length });
        }
    }

    fn count_deduplicated(&mut self, length: u64) {
        self.deduplicated += length;
        self.shared.progress.deduplicated.fetch_add(length, Ordering::Relaxed);
    }

    fn refer_to_older(&mut self, stream: usize, id: &ChunkId) -> Result<()> {
        let location = self.shared.index.find(id).ok_or_else(stopped)?;
        let number = match self.older.get(&location.pack) {
            Some(number) => *number,
            None => {
                let known = self.shared.index.pack(location);
                let number = self.packs.len() as PackNumber;
                self.packs.push(Some(known.reference));
                self.unindexed.extend(known.uncommitted.clone());
                self.older.insert(location.pack, number);
                number
            }
        };
        self.count_deduplicated(u64::from(location.length));
        self.refer(stream, (number, u64::from(location.offset), u64::from(location.length)));
        Ok(())
    }

    async fn store(&mut self, stream: usize, id: ChunkId, length: usize, frame: &[u8]) -> Result<()> {
        let number = match self.filling_number {
            Some(number) => number,
            None => {
                let number = self.packs.len() as PackNumber;
                self.packs.push(None);
                self.filling_number = Some(number);
                number
            }
        };
        let offset = self.filling.push(id, length, frame);
        let location = (number, offset, length as u64);
        self.located.insert(id, location);
        self.refer(stream, location);
        if self.filling.is_full() { self.close().await } else { Ok(()) }
    }

    /// Sends the filled pack on its way; waits while too many are.
    async fn close(&mut self) -> Result<()> {
        let Some(number) = self.filling_number.take() else { return Ok(()) };
        let most = usize::try_from(self.shared.memory / PACK_MEMORY).unwrap_or(usize::MAX).clamp(1, 32);
        while self.flights.len() >= most {
            if let Some(landed) = self.flights.join_next().await {
                self.land(landed)?;
            }
        }
        let (pack, shared) = (std::mem::take(&mut self.filling).finish(), self.shared.clone());
        self.flights.spawn(async move { fly(&shared, number, pack).await });
        Ok(())
    }

    fn land(
        &mut self,
        landed: Result<Result<(PackNumber, IndexedPack, Receipt)>, tokio::task::JoinError>,
    ) -> Result<()> {
        let (number, indexed, receipt) = landed.context(Class::Failed, || "an upload task failed")??;
        self.packs[number as usize] = Some(receipt.pack);
        self.unindexed.push(indexed);
        self.receipts.push(receipt);
        Ok(())
    }

    fn captured(self) -> Result<Captured> {
        let mut streams = Vec::with_capacity(self.streams.len());
        for open in self.streams.into_values() {
            let Some((length, blake3, exit)) = open.end else {
                return Err(Error::source_failed(format!("stream `{}` ended before it was complete", open.name))
                    .hint("nothing was committed; see the source's own error above"));
            };
            streams.push(CapturedStream { name: open.name, length, blake3, exit, extents: open.extents });
        }
        let packs: Option<Vec<PackRef>> = self.packs.into_iter().collect();
        Ok(Captured {
            streams,
            packs: packs.ok_or_else(|| Error::failed("a pack was not uploaded"))?,
            unindexed: self.unindexed,
            stored: self.receipts.iter().map(|receipt| receipt.pack.1).sum(),
            receipts: self.receipts,
            deduplicated: self.deduplicated,
        })
    }
}

/// Encrypts a pack, uploads it everywhere, and notes it in the journal.
async fn fly(shared: &Shared, number: PackNumber, pack: PlainPack) -> Result<(PackNumber, IndexedPack, Receipt)> {
    let recipient = shared.keys.recipient.clone();
    let PlainPack { bytes, entries, content } = pack;
    let encrypt = move || -> Result<(Digest, Bytes)> {
        let ciphertext = crypt::encrypt(std::iter::once(&recipient as &dyn age::Recipient), &bytes)?;
        Ok((Digest::of(&ciphertext), ciphertext.into()))
    };
    let encrypted = tokio::task::spawn_blocking(encrypt).await.context(Class::Failed, || "a worker thread failed")?;
    let (id, ciphertext) = encrypted?;
    let size = ciphertext.len() as u64;
    let receipt = shared.fleet.upload(PackRef(id, size, content), &ciphertext).await?;
    shared.progress.stored.fetch_add(size, Ordering::Relaxed);
    let indexed = IndexedPack { id, size, chunks: entries.iter().map(|entry| (entry.id, entry.length)).collect() };
    shared.journal.append(&indexed)?;
    Ok((number, indexed, receipt))
}
