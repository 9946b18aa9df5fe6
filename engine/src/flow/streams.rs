//! The streams of one snapshot: extents → packs, fetched ahead of use → bytes, in order.
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

use super::pack_cache::{PackCache, Pin};
use super::pack_fetch::PackFetcher;
use crate::error::{Class, Context, Error, Result};
use crate::id::{Digest, Name};
use crate::source::{SourceFacts, StoredStreams, StreamReader};
use crate::vault::manifest::{Extent, Manifest};
use crate::vault::pack::Content;

/// A stream is given in pieces of at most this many bytes.
const PIECE: u64 = 1 << 20;
/// Packs that a stream may ask for ahead, if there is room.
const AHEAD: usize = 16;

/// The streams of one snapshot, fetched from whichever replica gives them.
pub struct SnapshotStreams {
    manifest: Arc<Manifest>,
    packs: Arc<PackCache>,
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
        let packs = PackCache::new(fetcher, &manifest.packs, extents.iter().map(Vec::as_slice), memory);
        Ok(Self { manifest: Arc::new(manifest), packs: Arc::new(packs), delivered: Arc::default(), cancel })
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
            ahead: VecDeque::new(),
            current: None,
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
    ahead: VecDeque<Asked>,
    current: Option<(Visit, Pin, Content)>,
    hasher: blake3::Hasher,
    expected: (u64, Digest),
    delivered: Arc<AtomicU64>,
    cancel: CancellationToken,
}

impl ExtentReader {
    /// Asks for packs in the order of their use, as far as there is room.
    fn fetch_ahead(&mut self) {
        while self.begun < self.visits.len().min(AHEAD) {
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

    /// Goes on to the next pack; `false` after the last.
    async fn turn(&mut self) -> Result<bool> {
        if let Some((visit, pin, content)) = self.current.take() {
            drop(content);
            pin.visited(visit.next);
        }
        self.fetch_ahead();
        let Some(first) = self.visits.front() else { return Ok(false) };
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

    /// The next piece of the current pack.
    fn piece(&mut self) -> Result<Option<Bytes>> {
        let Some((visit, _, content)) = &mut self.current else { return Ok(None) };
        let Some(extent) = visit.extents.front_mut() else { return Ok(None) };
        let length = extent.length.min(PIECE);
        let piece = content
            .slice(extent.offset, length)
            .ok_or_else(|| Error::integrity(format!("snapshot {} names what no pack holds", self.manifest.snapshot)))?;
        (extent.offset, extent.length) = (extent.offset + length, extent.length - length);
        if extent.length == 0 {
            visit.extents.pop_front();
        }
        Ok(Some(piece))
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
        loop {
            if let Some(piece) = self.piece()? {
                self.hasher.update(&piece);
                self.delivered.fetch_add(piece.len() as u64, Ordering::Relaxed);
                return Ok(Some(piece));
            }
            let cancel = self.cancel.clone();
            let turned = tokio::select! {
                turned = self.turn() => turned?,
                () = cancel.cancelled() => return Err(Error::failed("the restore was cancelled")),
            };
            if !turned {
                return self.verdict().map(|()| None);
            }
        }
    }
}
