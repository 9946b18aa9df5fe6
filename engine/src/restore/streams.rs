//! Delivers the streams of one snapshot. The packs of a span are fetched ahead of use. The span's
//! batches of extents become pieces, which are decompressed side by side and delivered in order.
//!
//! A long extent is decompressed straight into its piece. Short ones are gathered from chunks
//! (`decode.rs`).
//!
//! A stream ends with a verdict: if its length or BLAKE3 is not that of the manifest, it ends with
//! an error.
//!
//! **Memory**: a twelfth of `limits.memory` is for pieces, but there are never more pieces than
//! keep the threads busy. A twelfth is for the chunks of short extents, and 96 MiB are for the
//! program. The rest is for packs, but these get at least 48 MiB.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lifeboat_base::buffers::BufferPool;
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_databases::registry;
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use lifeboat_format::extents::Extent;
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::manifest::Manifest;
use lifeboat_format::map::{Resolved, StreamMap};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::batches::{Batch, MIN_LONE_EXTENT_BYTES, What, batches};
use super::beside::{ReaderBeside, ReadersBeside};
use super::decode::ChunkCache;
use super::fetch::PackFetcher;
use super::pack_cache::{Content, PackCache, Pin};
use super::plan::{Span, plan};
use super::wanted::Wanted;
use super::workers::Work;
use crate::config::Limits;

/// The length of a piece, unless a single chunk is longer. A piece is small enough to be hashed and
/// written while it is in the processor's cache.
const PIECE_BYTES: usize = 1 << 20;
/// The length of a buffer for a piece. The longest chunk of the default `chunk_size` fits.
const PIECE_BUFFER_BYTES: u64 = 2 << 20;
/// The memory of the program besides packs, pieces and chunks.
const PROGRAM_BYTES: u64 = 96 << 20;
/// The least memory for packs. Two packs of usual size fit.
const MIN_PACK_MEMORY_BYTES: u64 = 48 << 20;
/// How many packs of one span are fetched at once.
const PACKS_FETCHED_AT_ONCE: usize = 8;
/// How many spans a stream asks for ahead, if there is room: at first, and at most.
const SPANS_AHEAD: (usize, usize) = (2, 16);

/// The streams of one snapshot, fetched from all replicas.
pub struct SnapshotStreams {
    manifest: Arc<Manifest>,
    /// The hash of its object as it is stored.
    hash: Digest,
    /// What was read to open the maps.
    before: Reading,
    /// The extents and spans of each stream.
    plans: Vec<(Resolved, Arc<[Span]>)>,
    packs: Arc<PackCache>,
    buffers: BufferPool,
    /// The chunks that short extents are gathered from.
    chunks: Arc<ChunkCache>,
    delivered: Arc<AtomicU64>,
    /// The readers of each stream.
    readers: Vec<Arc<ReadersBeside>>,
    cancel: CancellationToken,
}

/// How much was read from the replicas so far, and how much all streams need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Bytes of ciphertext of the packs that were fetched.
    pub fetched: u64,
    /// Bytes of ciphertext that hold the content of all streams, if each part is counted once. This
    /// is an estimate, because it comes from reaches and not from single extents.
    pub needed: u64,
}

impl Reading {
    /// `fetched` divided by `needed`. It is 1 if exactly the needed bytes were fetched, each once.
    #[must_use]
    pub fn amplification(&self) -> f64 {
        self.fetched as f64 / self.needed.max(1) as f64
    }
}

impl SnapshotStreams {
    /// Reads the maps of the streams that have one, and makes the plans.
    pub(crate) async fn open(
        (manifest, hash): (Manifest, Digest),
        fetcher: PackFetcher,
        limits: &Limits,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let (fetcher, nothing) = (Arc::new(fetcher), Reading { fetched: 0, needed: 0 });
        let stored =
            Self::plan((manifest.maps()?, hash), &HashMap::new(), nothing, fetcher.clone(), limits, cancel.clone())?;
        let mut maps = HashMap::new();
        for stream in &manifest.streams {
            let Some(entry) = &stream.map else { continue };
            let read = async {
                let length = stored.length(&stream.name).unwrap_or_default();
                let (mut reader, mut bytes) = (stored.open(&stream.name).await?, Vec::with_capacity(length as usize));
                while let Some(piece) = reader.next().await? {
                    bytes.extend_from_slice(&piece);
                }
                Ok::<_, Error>(Bytes::from(bytes))
            };
            let read = read.await.map_err(|error| error.within(format!("the map of stream `{}`", stream.name)));
            maps.insert(stream.name.clone(), manifest.map(stream, entry, &read?)?);
        }
        Self::plan((manifest, hash), &maps, stored.reading(), fetcher, limits, cancel)
    }

    fn plan(
        (manifest, hash): (Manifest, Digest),
        maps: &HashMap<String, StreamMap>,
        before: Reading,
        fetcher: Arc<PackFetcher>,
        limits: &Limits,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let (pieces, chunks) = (limits.memory / 12, limits.memory / 12);
        let packs = limits.memory.saturating_sub(PROGRAM_BYTES + pieces + chunks).max(MIN_PACK_MEMORY_BYTES);
        let (mut wanted, mut plans) = (Wanted::new(&manifest.packs), Vec::new());
        let contents = manifest.contents();
        for stream in &manifest.streams {
            let extents = manifest.extents(stream, &contents)?;
            let extents = match maps.get(&stream.name) {
                None => extents.into(),
                Some(map) => manifest.resolve(extents, map)?,
            };
            let spans = plan(&extents, &manifest.packs, packs / 2, &mut wanted);
            let spans = spans.map_err(|error| error.within(format!("stream `{}`", stream.name)))?;
            plans.push((extents, spans.into()));
        }
        let packs = PackCache::new(fetcher, wanted, packs);
        // There are as many pieces as keep the workers busy, and no more: else a piece would leave
        // the processor's cache before it is hashed and written.
        let ahead = (pieces / PIECE_BUFFER_BYTES).min(2 * limits.cpu as u64 + 2).max(4);
        let buffers = BufferPool::new(ahead as usize, PIECE_BUFFER_BYTES as usize);
        let chunks = Arc::new(ChunkCache::new(chunks as usize));
        let readers = plans.iter().map(|_| Arc::default()).collect();
        let (manifest, packs, delivered) = (Arc::new(manifest), Arc::new(packs), Arc::default());
        Ok(Self { manifest, hash, before, plans, packs, buffers, chunks, delivered, readers, cancel })
    }

    /// The streams that an operator calls by this name, in order; none if there are none.
    #[must_use]
    pub fn streams_of(&self, name: &str) -> Vec<String> {
        let engine = registry::find(&self.manifest.source.engine);
        let whole_of = |stream: &'_ str| engine.is_some_and(|engine| engine.whole_of(stream) == name);
        let streams = self.manifest.streams.iter().map(|stream| &stream.name);
        streams.filter(|stream| *stream == name || whole_of(stream)).cloned().collect()
    }

    /// The manifest of the snapshot.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The hash of its manifest's object, as it is stored.
    pub(crate) fn manifest_hash(&self) -> Digest {
        self.hash
    }

    /// What an operator calls its streams.
    fn wholes(&self) -> Vec<&str> {
        let engine = registry::find(&self.manifest.source.engine);
        let streams = self.manifest.streams.iter().map(|stream| stream.name.as_str());
        let mut wholes: Vec<&str> =
            streams.map(|stream| engine.map_or(stream, |engine| engine.whole_of(stream))).collect();
        wholes.dedup();
        wholes
    }

    /// Where each stream of the manifest lies.
    pub(crate) fn extents(&self) -> Vec<Resolved> {
        self.plans.iter().map(|(extents, _)| extents.clone()).collect()
    }

    /// The replicas that packs were read from so far.
    #[must_use]
    pub fn read_from(&self) -> Vec<Name> {
        self.packs.fetcher().used()
    }

    /// How much was read from the replicas so far.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let (fetched, needed) = self.packs.fetched_and_needed();
        Reading { fetched: self.before.fetched + fetched, needed: self.before.needed + needed }
    }

    /// Bytes of streams that were delivered so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// The counter behind [`Self::delivered`], for a progress display that outlives a borrow.
    #[must_use]
    pub fn delivered_counter(&self) -> Arc<AtomicU64> {
        self.delivered.clone()
    }
}

#[async_trait]
impl StoredStreams for SnapshotStreams {
    fn names(&self) -> Vec<String> {
        self.manifest.streams.iter().map(|stream| stream.name.clone()).collect()
    }

    fn length(&self, name: &str) -> Option<u64> {
        self.manifest.streams.iter().find(|stream| stream.name == name).map(|stream| stream.length)
    }

    fn facts(&self) -> &SourceFacts {
        &self.manifest.source
    }

    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>> {
        let number = self.manifest.streams.iter().position(|stream| stream.name == name).ok_or_else(|| {
            Error::usage(format!("snapshot {} has no stream `{name}`", self.manifest.snapshot))
                .hint(format!("use one of its streams: {}", self.wholes().join(", ")))
        })?;
        let (stream, (extents, spans)) = (&self.manifest.streams[number], &self.plans[number]);
        let (reader, are_others_at_work) = self.readers[number].join(&self.delivered);
        if are_others_at_work {
            self.packs.expect(spans);
        }
        Ok(Box::new(ExtentReader {
            name: name.to_owned(),
            spans: spans.clone(),
            turned: 0,
            batches: batches(extents, spans.clone()),
            batch: None,
            begun: 0,
            manifest: self.manifest.clone(),
            packs: self.packs.clone(),
            buffers: self.buffers.clone(),
            chunks: self.chunks.clone(),
            ahead: VecDeque::new(),
            at_once: SPANS_AHEAD.0,
            current: None,
            pieces: VecDeque::new(),
            hasher: blake3::Hasher::new(),
            expected: (stream.length, stream.blake3),
            reader,
            cancel: self.cancel.clone(),
        }))
    }
}

/// The pinned packs of a span, each with the number of the next span that needs it.
type Pins = Vec<(Pin, Option<usize>)>;
/// The content of these packs, by pack number.
type Contents = Arc<HashMap<u32, Content>>;
/// A span whose packs are being fetched.
type PieceAsked = AbortOnDropHandle<(Pins, Result<Contents>)>;

/// The span that is being read.
struct Current {
    pins: Pins,
    contents: Contents,
}

struct ExtentReader {
    name: String,
    spans: Arc<[Span]>,
    /// How many spans were turned to so far.
    turned: usize,
    /// How many spans were asked for so far.
    begun: usize,
    batches: Receiver<Batch>,
    /// What is left of the last batch.
    batch: Option<Batch>,
    manifest: Arc<Manifest>,
    packs: Arc<PackCache>,
    buffers: BufferPool,
    chunks: Arc<ChunkCache>,
    ahead: VecDeque<PieceAsked>,
    /// How many spans to ask for ahead: one more each time that the reader had to wait for one.
    at_once: usize,
    current: Option<Current>,
    /// The pieces that are being decompressed, in the order of the stream.
    pieces: VecDeque<Work<Bytes>>,
    hasher: blake3::Hasher,
    expected: (u64, Digest),
    reader: ReaderBeside,
    cancel: CancellationToken,
}

impl ExtentReader {
    /// Asks for the next spans, as long as there is room for their packs.
    fn fetch_ahead(&mut self) {
        while self.begun < self.spans.len().min(self.turned + self.at_once) {
            let wanted = &self.spans[self.begun].packs;
            let pins: Option<Pins> =
                wanted.iter().map(|(pack, next)| Some((self.packs.try_pin(*pack)?, *next))).collect();
            let Some(pins) = pins else { return };
            self.ask(pins);
        }
    }

    /// Waits until there is room for the next span, and asks for it.
    async fn wait_for_room(&mut self) -> Result<()> {
        let Some(span) = self.spans.get(self.turned) else { return Ok(()) };
        let mut pins = Pins::new();
        for (pack, next) in &span.packs {
            let pin = if pins.is_empty() { self.packs.pin(*pack).await? } else { self.packs.pin_beyond(*pack)? };
            pins.push((pin, *next));
        }
        self.ask(pins);
        Ok(())
    }

    fn ask(&mut self, pins: Pins) {
        let fetch = tokio::spawn(async move {
            let fetches: Vec<_> =
                pins.iter().map(|(pin, _)| async { Ok::<_, Error>((pin.pack(), pin.content().await?)) }).collect();
            let fetches = futures::stream::iter(fetches).buffer_unordered(PACKS_FETCHED_AT_ONCE);
            let contents: Result<HashMap<u32, Content>> = fetches.try_collect().await;
            (pins, contents.map(Arc::new))
        });
        self.ahead.push_back(AbortOnDropHandle::new(fetch));
        self.begun += 1;
    }

    /// Ends the visit to the packs of the current span.
    fn leave(&mut self) {
        if let Some(current) = self.current.take() {
            current.pins.into_iter().for_each(|(pin, next)| pin.visited(next));
        }
    }

    /// Goes on to the next span. Returns `false` after the last one. Without `wait`, also if the
    /// next one is not fetched yet.
    async fn turn(&mut self, wait: bool) -> Result<bool> {
        self.leave();
        self.fetch_ahead();
        if self.turned == self.spans.len() {
            return Ok(false);
        }
        if !self.ahead.front().is_some_and(AbortOnDropHandle::is_finished) {
            if !wait {
                return Ok(false);
            }
            // Every reader waits for the first span, so that does not count.
            let one_more = usize::from(self.turned > 0);
            self.at_once = (self.at_once + one_more).min(SPANS_AHEAD.1);
        }
        if self.ahead.is_empty() {
            self.wait_for_room().await?;
        }
        let Some(asked) = self.ahead.pop_front() else { return Ok(false) };
        self.turned += 1;
        let (pins, contents) = asked.await.context(Class::Failed, || "the task that fetches packs failed")?;
        self.current = Some(Current { pins, contents: contents? });
        self.fetch_ahead();
        Ok(true)
    }

    /// Begins to decompress the next piece. Returns `false` after the last one. Without `wait`,
    /// also if that would mean to wait.
    async fn begin_piece(&mut self, wait: bool) -> Result<bool> {
        if self.batch.is_none() {
            self.batch = if wait { self.batches.recv().await } else { self.batches.try_recv().ok() };
        }
        if self.batch.as_ref().is_some_and(|batch| self.turned <= batch.span) && !self.turn(wait).await? {
            return Ok(false);
        }
        let (Some(batch), Some(Current { contents, .. })) = (&self.batch, &self.current) else {
            if wait {
                self.leave();
            }
            return Ok(false);
        };
        let unit = match &batch.what {
            What::Some(_) => None,
            What::One(extent) => {
                let unknown =
                    || Error::integrity(format!("an extent of snapshot {} is in no pack", self.manifest.snapshot));
                let content = contents.get(&extent.pack).ok_or_else(unknown)?.clone();
                let unit = content.0.chunk_run(extent.offset, extent.length, PIECE_BYTES).ok_or_else(unknown)?;
                Some((content, unit))
            }
        };
        let space = unit.as_ref().map_or(PIECE_BYTES + MIN_LONE_EXTENT_BYTES as usize, |(_, unit)| unit.space);
        let mut buffer = match self.buffers.try_take_for(space) {
            Some(buffer) => buffer,
            None if wait => self.buffers.take_for(space).await?,
            None => return Ok(false),
        };
        let piece: Box<dyn FnOnce() -> Result<Bytes> + Send> = match (self.batch.take(), unit) {
            (Some(Batch { span, what: What::One(extent) }), Some((content, unit))) => {
                let Extent { pack, offset, length } = extent;
                if unit.length < length {
                    let rest = Extent { pack, offset: offset + unit.length, length: length - unit.length };
                    self.batch = Some(Batch { span, what: What::One(rest) });
                }
                Box::new(move || {
                    let place = content.0.decompress(offset, unit, &mut buffer)?;
                    Ok(buffer.freeze().slice(place))
                })
            }
            (Some(Batch { what: What::Some(parts), .. }), _) => {
                let (chunks, contents) = (self.chunks.clone(), contents.clone());
                Box::new(move || {
                    let packs = |pack| contents.get(&pack).map(|content| &content.0);
                    let length = chunks.gather(&parts, packs, &mut buffer)?;
                    Ok(buffer.freeze().slice(..length))
                })
            }
            _ => return Ok(false),
        };
        self.pieces.push_back(self.packs.fetcher().workers().begin(piece));
        Ok(true)
    }

    /// The next piece. Begins as many more as is possible without waiting.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        if self.pieces.is_empty() && !self.begin_piece(true).await? {
            return Ok(None);
        }
        while self.pieces.len() < self.reader.share(self.buffers.count()) && self.begin_piece(false).await? {}
        let Some(piece) = self.pieces.pop_front() else { return Ok(None) };
        piece.await.context(Class::Failed, || "the thread that decompresses a piece failed")?.map(Some)
    }

    fn verdict(&self) -> Result<()> {
        let found = (self.hasher.count(), Digest(*self.hasher.finalize().as_bytes()));
        if found == self.expected {
            return Ok(());
        }
        Err(Error::integrity(format!(
            "stream `{}` of snapshot {} differs from what was captured: {} bytes with BLAKE3 {}, expected {} bytes with {}",
            self.name, self.manifest.snapshot, found.0, found.1, self.expected.0, self.expected.1
        )))
    }
}

#[async_trait]
impl StreamReader for ExtentReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let cancel = self.cancel.clone();
        let piece = tokio::select! {
            piece = self.piece() => piece?,
            () = cancel.cancelled() => return Err(Error::failed("the restore was cancelled")),
        };
        match piece {
            Some(piece) => {
                self.hasher.update(&piece);
                self.reader.reached(self.hasher.count());
                Ok(Some(piece))
            }
            None => self.verdict().map(|()| None),
        }
    }
}
