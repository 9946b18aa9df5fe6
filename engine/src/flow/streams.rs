//! The streams of one snapshot: extents → packs, fetched ahead of use → bytes, in order.
//!
//! The last thing a stream gives is its verdict: an error instead of the end if its length or BLAKE3 is not
//! the manifest's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::pack_fetch::PackFetcher;
use crate::error::{Class, Context, Error, Result};
use crate::id::{Digest, Name};
use crate::source::{SourceFacts, StoredStreams, StreamReader};
use crate::vault::manifest::{Extent, Manifest};

const PIECE: usize = 1 << 20;

/// The streams of one snapshot, fetched from whichever replica gives them.
pub struct SnapshotStreams {
    manifest: Arc<Manifest>,
    fetcher: Arc<PackFetcher>,
    delivered: Arc<AtomicU64>,
    cancel: CancellationToken,
}

impl SnapshotStreams {
    pub(super) fn new(manifest: Manifest, fetcher: PackFetcher, cancel: CancellationToken) -> Self {
        Self { manifest: Arc::new(manifest), fetcher: Arc::new(fetcher), delivered: Arc::default(), cancel }
    }

    /// What they belong to.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Replicas that packs were read from so far.
    #[must_use]
    pub fn read_from(&self) -> Vec<Name> {
        self.fetcher.used()
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
            manifest: self.manifest.clone(),
            fetcher: self.fetcher.clone(),
            ahead: VecDeque::new(),
            current: VecDeque::new(),
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
    extents: Vec<Extent>,
}

fn visits(extents: Vec<Extent>) -> VecDeque<Visit> {
    let mut visits: VecDeque<Visit> = VecDeque::new();
    for extent in extents {
        match visits.back_mut() {
            Some(visit) if visit.pack == extent.pack => visit.extents.push(extent),
            _ => visits.push_back(Visit { pack: extent.pack, extents: vec![extent] }),
        }
    }
    visits
}

struct ExtentReader {
    name: String,
    visits: VecDeque<Visit>,
    manifest: Arc<Manifest>,
    fetcher: Arc<PackFetcher>,
    ahead: VecDeque<(Visit, AbortOnDropHandle<Result<Bytes>>)>,
    current: VecDeque<Bytes>,
    hasher: blake3::Hasher,
    expected: (u64, Digest),
    delivered: Arc<AtomicU64>,
    cancel: CancellationToken,
}

impl ExtentReader {
    fn fetch_ahead(&mut self) {
        while self.ahead.len() < self.fetcher.ahead() {
            let Some(visit) = self.visits.pop_front() else { return };
            let (fetcher, pack) = (self.fetcher.clone(), self.manifest.packs[visit.pack as usize]);
            let fetch = tokio::spawn(async move { fetcher.content(&pack).await });
            self.ahead.push_back((visit, AbortOnDropHandle::new(fetch)));
        }
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
            if let Some(piece) = self.current.pop_front() {
                self.hasher.update(&piece);
                self.delivered.fetch_add(piece.len() as u64, Ordering::Relaxed);
                return Ok(Some(piece));
            }
            self.fetch_ahead();
            let Some((visit, fetch)) = self.ahead.pop_front() else {
                return self.verdict().map(|()| None);
            };
            self.fetch_ahead();
            let content = tokio::select! {
                content = fetch => content.context(Class::Failed, || "a fetch was aborted")??,
                () = self.cancel.cancelled() => return Err(Error::failed("the restore was cancelled")),
            };
            for extent in visit.extents {
                let (mut from, end) = (extent.offset as usize, (extent.offset + extent.length) as usize);
                while from < end {
                    let to = end.min(from + PIECE);
                    self.current.push_back(content.slice(from..to));
                    from = to;
                }
            }
        }
    }
}
