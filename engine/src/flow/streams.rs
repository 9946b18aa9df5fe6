//! The streams of one snapshot: extents → packs, fetched ahead of use → pieces, decompressed side by side → bytes, in order.
//!
//! The last thing a stream gives is its verdict: an error instead of the end if its length or BLAKE3 is not
//! the manifest's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::pack_cache::{Content, PackCache, Pin};
use super::pack_fetch::PackFetcher;
use crate::bytes::buffers::BufferPool;
use crate::error::{Class, Context, Error, Result};
use crate::id::{Digest, Name};
use crate::source::{SourceFacts, StoredStreams, StreamReader};
use crate::vault::manifest::{Extent, Manifest};

/// What is decompressed at once, unless a single chunk is longer: little enough to be hashed and written while it is in the
/// processor's cache.
const PIECE: usize = 1 << 20;
/// A buffer for a piece: an ordinary chunk fits, however long.
const SPACE: u64 = 2 << 20;
/// What the program needs beside packs and pieces.
const PROGRAM: u64 = 48 << 20;
/// Packs that a stream asks for ahead, if there is room: at first, and at most.
const AHEAD: (usize, usize) = (2, 16);

/// The streams of one snapshot, fetched from whichever replica gives them.
pub struct SnapshotStreams {
    manifest: Arc<Manifest>,
    packs: Arc<PackCache>,
    buffers: BufferPool,
    delivered: Arc<AtomicU64>,
    cancel: CancellationToken,
}

/// What was read from replicas so far, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Bytes of packs that were fetched.
    pub fetched: u64,
    /// What the content of all streams amounts to in packs, had each part been fetched once and nothing else.
    pub needed: u64,
}

impl Reading {
    /// Fetched by needed: 1 where every byte that was read was wanted, and wanted once.
    #[must_use]
    pub fn amplification(&self) -> f64 {
        self.fetched as f64 / self.needed.max(1) as f64
    }
}

impl SnapshotStreams {
    pub(super) fn new(
        manifest: Manifest,
        fetcher: PackFetcher,
        memory: u64,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let extents = manifest.streams.iter().map(|stream| manifest.extents(stream)).collect::<Result<Vec<_>>>()?;
        let pieces = memory / 8;
        let packs = memory.saturating_sub(PROGRAM + pieces);
        let packs = PackCache::new(fetcher, &manifest.packs, extents.iter().map(Vec::as_slice), packs);
        let buffers = BufferPool::new((pieces / SPACE).clamp(4, 1 << 10) as usize, SPACE as usize);
        Ok(Self { manifest: Arc::new(manifest), packs: Arc::new(packs), buffers, delivered: Arc::default(), cancel })
    }

    /// What they belong to.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Replicas that packs were read from so far.
    #[must_use]
    pub fn read_from(&self) -> Vec<Name> {
        self.packs.fetcher().used()
    }

    /// What was read from them so far.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let (fetched, needed) = self.packs.fetched_and_needed();
        Reading { fetched, needed }
    }

    /// Plaintext bytes delivered so far.
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
        let stream = self.manifest.streams.iter().find(|stream| stream.name == name).ok_or_else(|| {
            Error::usage(format!("snapshot {} has no stream `{name}`", self.manifest.snapshot))
                .hint(format!("it has: {}", self.names().join(", ")))
        })?;
        Ok(Box::new(ExtentReader {
            name: name.to_owned(),
            visits: visits(self.manifest.extents(stream)?),
            begun: 0,
            manifest: self.manifest.clone(),
            packs: self.packs.clone(),
            buffers: self.buffers.clone(),
            ahead: VecDeque::new(),
            at_once: AHEAD.0,
            current: None,
            pieces: VecDeque::new(),
            hasher: blake3::Hasher::new(),
            expected: (stream.length, stream.blake3),
            delivered: self.delivered.clone(),
            cancel: self.cancel.clone(),
        }))
    }
}

/// One stay in one pack.
struct Visit {
    pack: u32,
    extents: VecDeque<Extent>,
    /// The number of the next stay in the same pack.
    next: Option<usize>,
}

fn visits(extents: Vec<Extent>) -> VecDeque<Visit> {
    let mut visits: VecDeque<Visit> = VecDeque::new();
    for extent in extents {
        match visits.back_mut() {
            Some(visit) if visit.pack == extent.pack => visit.extents.push_back(extent),
            _ => visits.push_back(Visit { pack: extent.pack, extents: VecDeque::from([extent]), next: None }),
        }
    }
    let mut later = HashMap::new();
    for (number, visit) in visits.iter_mut().enumerate().rev() {
        visit.next = later.insert(visit.pack, number);
    }
    visits
}

/// A pack that was asked for.
type Asked = AbortOnDropHandle<(Pin, Result<Content>)>;

struct ExtentReader {
    name: String,
    /// The first `begun` of them are in `ahead`.
    visits: VecDeque<Visit>,
    begun: usize,
    manifest: Arc<Manifest>,
    packs: Arc<PackCache>,
    buffers: BufferPool,
    ahead: VecDeque<Asked>,
    /// Packs to ask for ahead: one more each time that one had to be waited for.
    at_once: usize,
    current: Option<(Visit, Pin, Content)>,
    /// Being decompressed, in order.
    pieces: VecDeque<AbortOnDropHandle<Result<Bytes>>>,
    hasher: blake3::Hasher,
    expected: (u64, Digest),
    delivered: Arc<AtomicU64>,
    cancel: CancellationToken,
}

impl ExtentReader {
    /// Asks for packs in the order of their use, as far as there is room.
    fn fetch_ahead(&mut self) {
        while self.begun < self.visits.len().min(self.at_once) {
            let Some(pin) = self.packs.try_pin(self.visits[self.begun].pack) else { return };
            self.ask(pin);
        }
    }

    fn ask(&mut self, pin: Pin) {
        let fetch = tokio::spawn(async move {
            let content = pin.content().await;
            (pin, content)
        });
        self.ahead.push_back(AbortOnDropHandle::new(fetch));
        self.begun += 1;
    }

    /// Goes on to the next pack; `false` after the last, or if it is not there yet and the caller would not wait.
    async fn turn(&mut self, wait: bool) -> Result<bool> {
        if let Some((visit, pin, _)) = self.current.take() {
            pin.visited(visit.next);
        }
        self.fetch_ahead();
        let Some(first) = self.visits.front() else { return Ok(false) };
        if !self.ahead.front().is_some_and(AbortOnDropHandle::is_finished) {
            if !wait {
                return Ok(false);
            }
            self.at_once = (self.at_once + 1).min(AHEAD.1);
        }
        if self.ahead.is_empty() {
            let pin = self.packs.pin(first.pack).await?;
            self.ask(pin);
        }
        let (Some(asked), Some(visit)) = (self.ahead.pop_front(), self.visits.pop_front()) else { return Ok(false) };
        self.begun -= 1;
        let (pin, content) = asked.await.context(Class::Failed, || "a fetch was aborted")?;
        self.current = Some((visit, pin, content?));
        self.fetch_ahead();
        Ok(true)
    }

    /// Begins to decompress the next piece; `false` after the last, or if that took waiting and the caller would not.
    async fn begin_piece(&mut self, wait: bool) -> Result<bool> {
        while self.current.as_ref().is_none_or(|(visit, ..)| visit.extents.is_empty()) {
            if !self.turn(wait).await? {
                return Ok(false);
            }
        }
        let Some((visit, _, content)) = &mut self.current else { return Ok(false) };
        let Some(front) = visit.extents.front_mut() else { return Ok(false) };
        let unknown = || Error::integrity(format!("snapshot {} names what no pack holds", self.manifest.snapshot));
        let unit = content.0.unit(front.offset, front.length, PIECE).ok_or_else(unknown)?;
        let mut buffer = match self.buffers.try_take_for(unit.space) {
            Some(buffer) => buffer,
            None if wait => self.buffers.take_for(unit.space).await?,
            None => return Ok(false),
        };
        let offset = front.offset;
        (front.offset, front.length) = (offset + unit.length, front.length - unit.length);
        if front.length == 0 {
            visit.extents.pop_front();
        }
        let (packs, content) = (self.packs.clone(), content.clone());
        let decompress = move || {
            let place = content.0.decompress(offset, unit, &mut buffer)?;
            Ok(buffer.freeze().slice(place))
        };
        let piece = tokio::spawn(async move { packs.fetcher().on_cpu(decompress).await });
        self.pieces.push_back(AbortOnDropHandle::new(piece));
        Ok(true)
    }

    /// The next piece.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        if self.pieces.is_empty() && !self.begin_piece(true).await? {
            return Ok(None);
        }
        while self.begin_piece(false).await? {}
        let Some(piece) = self.pieces.pop_front() else { return Ok(None) };
        piece.await.context(Class::Failed, || "a worker was aborted")?.map(Some)
    }

    fn verdict(&self) -> Result<()> {
        let found = (self.hasher.count(), Digest(*self.hasher.finalize().as_bytes()));
        if found == self.expected {
            return Ok(());
        }
        Err(Error::integrity(format!(
            "stream `{}` of snapshot {} is not what was captured: {} bytes with BLAKE3 {}, expected {} bytes with {}",
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
                self.delivered.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok(Some(piece))
            }
            None => self.verdict().map(|()| None),
        }
    }
}
