//! The second half of the pipeline. Chunks become extents. New chunks are packed, encrypted while
//! their pack fills, and uploaded.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use age::stream::StreamWriter as AgeWriter;
use lifeboat_base::buffers::Buffer;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::extents::{Extent, ExtentsWriter, OLDER};
use lifeboat_format::id::{Digest, PackId};
use lifeboat_format::index::IndexedPack;
use lifeboat_format::manifest::PackRef;
use lifeboat_format::pack::{ChunkEntry, PackWriter};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::chunk_index::StoredAt;
use super::fleet::Receipt;
use super::fragments::Fragment;
use super::messages::{Captured, CapturedStream, End, Item, MAP_OF, NewChunk, stopped};
use super::shared::Shared;
use crate::anomaly::StreamFigures;
use crate::keys::crypt;

/// A failed run waits at most this long for packs that are being uploaded.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// A pack with new fragments closes at this size, and a larger pack takes no new fragments. A
/// restore of a chunk needs a pack from each snapshot that changed some of its rows, all at the
/// same time.
const SMALL_PACK_BYTES: usize = 512 << 10;

/// The number of a pack, by which extents refer to it during the run.
type PackNumber = u32;

struct Open {
    name: String,
    slot: usize,
    extents: ExtentsWriter,
    /// What is fresh of the stream so far, for its history.
    figures: StreamFigures,
    end: Option<End>,
}

/// What a new chunk is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packed {
    /// A chunk of a stream.
    Chunk,
    /// New fragments of one or more chunks.
    Rows,
    /// A part of a map. This run does not refer to it as a chunk.
    Map,
}

/// A place where the chunks of one or more streams are packed.
#[derive(Default)]
struct Slot {
    streams: usize,
    filling: Option<Filling>,
}

/// A pack that is not full.
struct Filling {
    number: PackNumber,
    pack: PackWriter<AgeWriter<Ciphertext>>,
    /// Whether it holds new fragments.
    rows: bool,
}

/// Ciphertext, which is hashed with BLAKE3 as it comes.
struct Ciphertext {
    bytes: Buffer,
    hasher: blake3::Hasher,
}

impl Write for Ciphertext {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.hasher.update(data);
        self.bytes.write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An encrypted pack that is being uploaded.
struct SealedPack {
    number: PackNumber,
    ciphertext: Ciphertext,
    entries: Vec<ChunkEntry>,
    content: u64,
}

/// A pack that was uploaded.
struct Landed {
    number: PackNumber,
    indexed: IndexedPack,
    receipt: Receipt,
}

pub(crate) struct Packer {
    shared: Arc<Shared>,
    runtime: Handle,
    streams: BTreeMap<usize, Open>,
    slots: Vec<Slot>,
    /// The number of each older pack that is referred to, by its number in the chunk index.
    older: HashMap<u32, PackNumber>,
    /// The number of each older pack that is referred to, by its id.
    numbers: HashMap<PackId, PackNumber>,
    /// All packs by number; `None` while a pack fills or is being uploaded.
    packs: Vec<Option<PackRef>>,
    flights: JoinSet<Result<Landed>>,
    /// Packs that no index segment lists yet. They are in the order of their numbers, so that a
    /// later run finds their chunks in the order of the stream.
    unindexed: BTreeMap<PackNumber, IndexedPack>,
    receipts: Vec<Receipt>,
    deduplicated: u64,
    /// The part of `deduplicated` that was found row by row, in chunks that are new.
    rows: u64,
}

impl Packer {
    /// Must be called within the runtime that uploads.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let slots = shared.share.buffers().filling;
        Self {
            shared,
            runtime: Handle::current(),
            streams: BTreeMap::new(),
            slots: std::iter::repeat_with(Slot::default).take(slots).collect(),
            older: HashMap::new(),
            numbers: HashMap::new(),
            packs: Vec::new(),
            flights: JoinSet::new(),
            unindexed: BTreeMap::new(),
            receipts: Vec::new(),
            deduplicated: 0,
            rows: 0,
        }
    }

    /// Packs all that comes. Must be called on a thread that may block.
    pub(crate) fn run(mut self, mut items: mpsc::Receiver<Item>) -> Result<Captured> {
        if let Err(error) = self.pack(&mut items) {
            self.shared.cancel.cancel();
            // Packs that are being uploaded may still reach the journal. The next run then need not
            // upload them again.
            let mut cause = None;
            let drain = async {
                while let Some(landed) = self.flights.join_next().await {
                    cause = cause.take().or(landed.ok().and_then(Result::err));
                }
            };
            let _ = self.runtime.block_on(async { tokio::time::timeout(DRAIN_LIMIT, drain).await });
            return Err(cause.unwrap_or(error));
        }
        self.captured()
    }

    /// Waits for `future`, unless the run is cancelled.
    fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        let cancel = self.shared.cancel.clone();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                value = future => Ok(value),
                () = cancel.cancelled() => Err(Error::cancelled("the run").hint("nothing was committed; run it again")),
            }
        })
    }

    fn pack(&mut self, items: &mut mpsc::Receiver<Item>) -> Result<()> {
        while let Some(item) = self.wait(items.recv())? {
            match item {
                Item::Begin { stream, name } => self.begin(stream, name)?,
                Item::Repeated { stream, id, length } => {
                    let place = self.shared.index.placed(&id).ok_or_else(stopped)?;
                    self.count_deduplicated(length);
                    self.count_fresh(stream, length as u64, 0)?;
                    self.refer(stream, place.pack, place.offset.into(), length)?;
                }
                Item::New { stream, chunk } => {
                    let length = chunk.length;
                    let place = self.store(stream, chunk, Packed::Chunk)?;
                    self.refer(stream, place.pack, place.offset.into(), length)?;
                }
                Item::Map { stream, chunk } => {
                    let length = chunk.length;
                    let place = self.store(stream, chunk, Packed::Map)?;
                    self.refer(stream, place.pack, place.offset.into(), length)?;
                }
                Item::Mixed { stream, parts, new } => self.mix(stream, parts, new)?,
                Item::TakenOver { stream, parts } => {
                    let rows = self.rows;
                    self.mix(stream, parts, None)?;
                    // Nothing was looked for row by row.
                    self.rows = rows;
                }
                Item::End { stream, end } => {
                    let open = self.streams.get_mut(&stream).ok_or_else(stopped)?;
                    open.end = Some(end);
                    let (slot, map) = (open.slot, open.name.starts_with(MAP_OF));
                    self.slots[slot].streams -= 1;
                    // The packs of a map hold nothing else.
                    if map {
                        self.close(slot)?;
                    }
                }
            }
        }
        for slot in 0..self.slots.len() {
            self.close(slot)?;
        }
        while !self.flights.is_empty() {
            let mut flights = std::mem::take(&mut self.flights);
            let landed = self.wait(flights.join_next());
            self.flights = flights;
            self.land(landed?)?;
        }
        Ok(())
    }

    fn begin(&mut self, stream: usize, name: String) -> Result<()> {
        let slot = (0..self.slots.len()).min_by_key(|slot| self.slots[*slot].streams).unwrap_or_default();
        if name.starts_with(MAP_OF) {
            self.close(slot)?;
        }
        self.slots[slot].streams += 1;
        self.streams.insert(
            stream,
            Open { name, slot, extents: ExtentsWriter::default(), figures: StreamFigures::default(), end: None },
        );
        Ok(())
    }

    fn refer(&mut self, stream: usize, pack: PackNumber, offset: u64, length: usize) -> Result<()> {
        let open = self.streams.get_mut(&stream).ok_or_else(stopped)?;
        open.extents.push(Extent { pack, offset, length: length as u64 })
    }

    fn count_fresh(&mut self, stream: usize, fresh: u64, stored: u64) -> Result<()> {
        let figures = &mut self.streams.get_mut(&stream).ok_or_else(stopped)?.figures;
        figures.fresh += fresh;
        figures.stored += stored;
        Ok(())
    }

    fn count_deduplicated(&mut self, length: usize) {
        self.deduplicated += length as u64;
        self.shared.progress.deduplicated.fetch_add(length as u64, Ordering::Relaxed);
    }

    fn refer_to_older(&mut self, stream: usize, place: StoredAt, length: usize) -> Result<()> {
        let number = match self.older.get(&place.pack) {
            Some(number) => *number,
            None => {
                let (pack, uncommitted) = self.shared.index.pack(place);
                let uncommitted = uncommitted.cloned();
                let number = self.number(pack);
                self.unindexed.extend(uncommitted.map(|pack| (number, pack)));
                self.older.insert(place.pack, number);
                number
            }
        };
        self.count_deduplicated(length);
        // What a run left that ended before its commit is fresh to the snapshot.
        if let Some(pack) = self.packs[number as usize].filter(|_| self.unindexed.contains_key(&number)) {
            let length = length as u64;
            let stored = u128::from(length) * u128::from(pack.size) / u128::from(pack.content.max(1));
            self.count_fresh(stream, length, (stored as u64).min(length))?;
        }
        self.refer(stream, number, place.offset.into(), length)
    }

    /// The number of a pack that is stored already. It gets one if it has none.
    fn number(&mut self, pack: PackRef) -> PackNumber {
        let next = self.packs.len() as PackNumber;
        let number = *self.numbers.entry(pack.id).or_insert(next);
        if number == next {
            self.packs.push(Some(pack));
        }
        number
    }

    fn mix(&mut self, stream: usize, parts: Vec<Fragment>, new: Option<NewChunk>) -> Result<()> {
        let mut place = new.map(|chunk| self.store(stream, chunk, Packed::Rows)).transpose()?;
        for part in parts {
            match part {
                Fragment::Known { place, length } => self.refer_to_older(stream, place, length)?,
                Fragment::Older { pack, offset, length } => {
                    let number = self.number(pack);
                    self.count_deduplicated(length);
                    self.rows += length as u64;
                    self.refer(stream, number, offset, length)?;
                }
                Fragment::Mapped { offset, length } => {
                    self.count_deduplicated(length);
                    self.rows += length as u64;
                    self.refer(stream, OLDER, offset, length)?;
                }
                Fragment::New { length } => {
                    let place = place.as_mut().ok_or_else(stopped)?;
                    self.refer(stream, place.pack, place.offset.into(), length)?;
                    place.offset += length as u32;
                }
            }
        }
        Ok(())
    }

    /// Puts a chunk into the stream's pack.
    fn store(&mut self, stream: usize, chunk: NewChunk, content: Packed) -> Result<StoredAt> {
        let NewChunk { id, length, frame } = chunk;
        let frame = self.wait(frame)?.map_err(|_| stopped())??;
        let slot = self.streams.get(&stream).ok_or_else(stopped)?.slot;
        let rows = content == Packed::Rows;
        let is_full = |filling: &Filling| {
            !filling.pack.has_room(length, frame.len()) || rows && filling.pack.size() >= SMALL_PACK_BYTES
        };
        if self.slots[slot].filling.as_ref().is_some_and(is_full) {
            self.close(slot)?;
        }
        let mut filling = match self.slots[slot].filling.take() {
            Some(filling) => filling,
            None => self.new_pack()?,
        };
        let place = StoredAt { pack: filling.number, offset: filling.pack.push(id, length, &frame)? as u32 };
        filling.rows |= rows;
        let full = filling.rows && filling.pack.size() >= SMALL_PACK_BYTES;
        self.slots[slot].filling = Some(filling);
        if content != Packed::Map {
            self.count_fresh(stream, length as u64, frame.len() as u64)?;
            self.shared.index.stored(&id, place);
        }
        if full {
            self.close(slot)?;
        }
        Ok(place)
    }

    /// Begins a pack. Waits while too many packs fill or are being uploaded.
    fn new_pack(&mut self) -> Result<Filling> {
        while let Some(landed) = self.flights.try_join_next() {
            self.land(Some(landed))?;
        }
        let mut bytes = self.wait(self.shared.share.buffers().packs.take())??;
        bytes.clear();
        let recipient = std::iter::once(&self.shared.keys.recipient as &dyn age::Recipient);
        let ciphertext = Ciphertext { bytes, hasher: blake3::Hasher::new() };
        let pack = PackWriter::new(crypt::encrypting(recipient, ciphertext)?);
        self.packs.push(None);
        Ok(Filling { number: self.packs.len() as PackNumber - 1, pack, rows: false })
    }

    /// Closes the slot's pack, and begins to upload it.
    fn close(&mut self, slot: usize) -> Result<()> {
        let Some(Filling { number, pack, .. }) = self.slots[slot].filling.take() else { return Ok(()) };
        let filled = pack.finish()?;
        let ciphertext = filled.out.finish().context(Class::Failed, || "cannot encrypt a pack with age")?;
        let pack = SealedPack { number, ciphertext, entries: filled.entries, content: filled.content };
        let shared = self.shared.clone();
        let flight = async move {
            let flown = fly(&shared, pack).await;
            if flown.is_err() {
                // This stops stages that wait for a buffer or for the source. `land` returns the
                // error itself.
                shared.cancel.cancel();
            }
            flown
        };
        self.flights.spawn_on(flight, &self.runtime);
        Ok(())
    }

    fn land(&mut self, landed: Option<Result<Result<Landed>, tokio::task::JoinError>>) -> Result<()> {
        let Some(landed) = landed else { return Ok(()) };
        let Landed { number, indexed, receipt } = landed.context(Class::Failed, || "an upload task failed")??;
        self.packs[number as usize] = Some(receipt.pack);
        self.unindexed.insert(number, indexed);
        self.receipts.push(receipt);
        Ok(())
    }

    fn captured(self) -> Result<Captured> {
        let mut streams = Vec::with_capacity(self.streams.len());
        for open in self.streams.into_values() {
            let Some(End { length, blake3, exit }) = open.end else {
                return Err(Error::source_failed(format!("stream `{}` ended before it was complete", open.name))
                    .hint("find the source's own error in the log, then back up again; nothing was committed"));
            };
            let figures = StreamFigures { bytes: length, ..open.figures };
            let extents = open.extents.finish()?;
            streams.push(CapturedStream { name: open.name, length, blake3, exit, extents, figures });
        }
        let packs: Option<Vec<PackRef>> = self.packs.into_iter().collect();
        Ok(Captured {
            streams,
            packs: packs.ok_or_else(|| Error::failed("a pack was not uploaded"))?,
            unindexed: self.unindexed.into_values().collect(),
            stored: self.receipts.iter().map(|receipt| receipt.pack.size).sum(),
            receipts: self.receipts,
            deduplicated: self.deduplicated,
            rows: self.rows,
        })
    }
}

/// Uploads a pack to all replicas and adds it to the journal, if that can be written.
async fn fly(shared: &Arc<Shared>, pack: SealedPack) -> Result<Landed> {
    let SealedPack { number, ciphertext: Ciphertext { bytes, hasher }, entries, content } = pack;
    let (id, size) = (Digest(*hasher.finalize().as_bytes()), bytes.len() as u64);
    let receipt =
        shared.fleet.upload(PackRef { id, size, content, generation: shared.keys.generation }, &bytes.freeze()).await?;
    shared.progress.stored.fetch_add(size, Ordering::Relaxed);
    let indexed = IndexedPack { id, size, chunks: entries.iter().map(|entry| (entry.id, entry.length)).collect() };
    let (noted, noting) = (indexed.clone(), shared.clone());
    let note = tokio::task::spawn_blocking(move || {
        // After a record that was cut short, no other would be found.
        if noting.journal_failure.get().is_none()
            && let Err(error) = noting.journal.append(&noted)
        {
            tracing::warn!(error = %error.chain(), "cannot write the journal; the run goes on");
            let _ = noting.journal_failure.set(error);
        }
    });
    note.await.context(Class::Failed, || "a worker thread failed")?;
    Ok(Landed { number, indexed, receipt })
}
