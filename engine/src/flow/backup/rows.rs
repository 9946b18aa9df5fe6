//! Row deduplication of one run: what of a new chunk lies in the stream as it was in the snapshot before.
//!
//! The row index (`state/rows.rs`) tells which bytes of the older stream a new chunk repeats, the older manifest's extents where those
//! lie. Chunks are looked up first, as a whole: among all that packs hold, then among those of the older stream that no pack
//! holds as a whole, because they were put together from rows.
//!
//! **A chunk is stored whole instead** where it should not be put together: less than half of it is found, so that little is saved; it would
//! have more than [`PARTS_PER_MIB`] parts, which a restore must gather (rows that were changed at different times add up to that, and
//! begin anew from there); or the run has so many parts already that what is known of them would exceed its share of `limits.memory`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::chunk_index::Place;
use crate::error::Result;
use crate::flow::inventory::Inventory;
use crate::id::{ChunkId, SnapshotId};
use crate::rows::matcher::{Matcher, smallest};
use crate::rows::sketch::Sketch;
use crate::rows::units::{Unit, UnitCutter};
use crate::state::rows::{NewStream, OlderStream, RowIndex, StreamWriter};
use crate::vault::extents::{Extents, Finder};
use crate::vault::manifest::{Manifest, PackRef};

/// The most parts of a chunk, …
const PARTS_PER_MIB: usize = 8192;
/// … and the most packs that these lie in.
const PACKS: usize = 40;
/// Bytes of `limits.memory` for each part of a run: some five are needed.
const MEMORY_FOR_A_PART: u64 = 32;

/// What a run knows of rows.
pub(super) struct Rows {
    index: RowIndex,
    cutter: UnitCutter,
    base: Option<Base>,
    /// How many parts there may be still.
    room: AtomicUsize,
    finished: Mutex<Finished>,
}

#[derive(Default)]
struct Finished {
    streams: Vec<NewStream>,
    warnings: Vec<String>,
}

/// The snapshot before.
struct Base {
    snapshot: SnapshotId,
    generation: u32,
    /// Each, if some replica holds it.
    packs: Vec<Option<PackRef>>,
    /// By stream.
    streams: HashMap<String, Extents>,
}

/// Some bytes of a stream, in order.
pub(super) enum Part {
    /// In a pack that the chunk index knows.
    Known { place: Place, length: usize },
    /// In a pack of the snapshot before.
    Older { pack: PackRef, offset: u64, length: usize },
    /// Nowhere yet.
    New { length: usize },
}

impl Part {
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Known { length, .. } | Self::Older { length, .. } | Self::New { length } => *length,
        }
    }
}

impl Base {
    fn new(manifest: &Manifest, inventories: &[Inventory]) -> Result<Self> {
        let present = |pack: &PackRef| inventories.iter().any(|inventory| inventory.has(pack));
        let mut streams = HashMap::new();
        for stream in &manifest.streams {
            streams.insert(stream.name.clone(), manifest.extents(stream)?);
        }
        Ok(Self {
            snapshot: manifest.snapshot.clone(),
            generation: manifest.generation,
            packs: manifest.packs.iter().map(|pack| present(pack).then_some(*pack)).collect(),
            streams,
        })
    }
}

impl Rows {
    /// For a run that comes after `predecessor`.
    pub(super) fn new(
        index: RowIndex,
        cutter: UnitCutter,
        predecessor: Option<&Manifest>,
        generation: u32,
        inventories: &[Inventory],
        memory: u64,
    ) -> Result<Self> {
        let room = AtomicUsize::new(usize::try_from(memory / MEMORY_FOR_A_PART).unwrap_or(usize::MAX));
        let base = predecessor.filter(|manifest| manifest.generation == generation);
        let base = base.map(|manifest| Base::new(manifest, inventories)).transpose()?;
        Ok(Self { index, cutter, base, room, finished: Mutex::default() })
    }

    /// Begins a stream.
    pub(super) fn stream(self: &Arc<Self>, name: &str) -> StreamRows {
        let older = self.base.as_ref().and_then(|base| {
            let extents = base.streams.get(name)?.clone();
            let stream = self.index.stream(&base.snapshot, base.generation, name);
            if stream.is_none() {
                self.finished().warnings.push(format!(
                    "the row index of stream `{name}` is missing or stale: only whole chunks are deduplicated this time"
                ));
            }
            Some((Arc::new(stream?), Finder::new(extents)))
        });
        let writer = self.index.write(name, older.as_ref().map(|(older, _)| older.clone()));
        StreamRows { rows: self.clone(), older, writer: Some(writer), matcher: Matcher::default(), units: Vec::new() }
    }

    fn finished(&self) -> std::sync::MutexGuard<'_, Finished> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the run is to be remembered by, and what an operator should know.
    pub(super) fn finish(&self) -> (Vec<NewStream>, Vec<String>) {
        let finished = std::mem::take(&mut *self.finished());
        (finished.streams, finished.warnings)
    }

    /// After the commit: `snapshot` is what the next run compares with.
    pub(super) fn remember(&self, snapshot: &SnapshotId, generation: u32, streams: &[NewStream]) -> Result<()> {
        self.index.replace(snapshot, generation, streams)
    }
}

/// One stream that is captured.
pub(super) struct StreamRows {
    rows: Arc<Rows>,
    older: Option<(Arc<OlderStream>, Finder)>,
    /// `None` once it has failed: the next run compares this stream by chunks.
    writer: Option<StreamWriter>,
    matcher: Matcher,
    units: Vec<Unit>,
}

impl StreamRows {
    /// The next chunk, which some pack holds as a whole.
    pub(super) fn known(&mut self, id: &ChunkId, chunk: &[u8]) {
        match self.find(id) {
            Some(number) => self.keep(number),
            None => self.learn(id, chunk),
        }
    }

    /// The next chunk, which no pack holds as a whole: where its bytes are; `None` if it should be stored as a whole.
    pub(super) fn look(&mut self, id: &ChunkId, chunk: &[u8]) -> Option<Vec<Part>> {
        if let Some(number) = self.find(id) {
            let mut parts = Vec::new();
            let (begin, _) = self.older.as_ref()?.0.range(number);
            let found = self.place(begin, chunk.len(), &mut parts);
            self.keep(number);
            return self.worth(found, chunk, &parts).then_some(parts);
        }
        self.learn(id, chunk);
        let (older, _) = self.older.as_mut()?;
        let runs = self.matcher.find(&self.units, older);
        let (mut parts, mut at, mut found) = (Vec::new(), 0, 0);
        for run in runs {
            push_new(&mut parts, run.at as usize - at);
            let (begin, _) = self.older.as_ref()?.0.range(run.chunk);
            found += self.place(begin + u64::from(run.offset), run.length as usize, &mut parts);
            at = (run.at + run.length) as usize;
        }
        push_new(&mut parts, chunk.len() - at);
        self.worth(found, chunk, &parts).then_some(parts)
    }

    /// Whether to put a chunk together.
    fn worth(&self, found: usize, chunk: &[u8], parts: &[Part]) -> bool {
        let count = parts.len();
        found >= chunk.len() / 2
            && (count << 20) <= PARTS_PER_MIB * chunk.len()
            && packs(parts) <= PACKS
            && self.rows.room.try_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(count)).is_ok()
    }

    /// After the last chunk.
    pub(super) fn end(mut self) {
        let unreadable = self.older.as_ref().map_or(0, |(older, _)| older.unreadable());
        if unreadable > 0 {
            self.rows.finished().warnings.push(format!(
                "the row index is damaged: {unreadable} times a chunk's rows could not be compared; where they changed they are stored again"
            ));
        }
        if let Some(finished) = self.write(StreamWriter::finish) {
            self.rows.finished().streams.push(finished);
        }
    }

    fn find(&self, id: &ChunkId) -> Option<u32> {
        self.older.as_ref().and_then(|(older, _)| older.find(id))
    }

    fn keep(&mut self, number: u32) {
        self.matcher.follow(number);
        self.remember(|writer| writer.keep(number));
    }

    /// Cuts the chunk into units and remembers them.
    fn learn(&mut self, id: &ChunkId, chunk: &[u8]) {
        self.rows.cutter.cut(chunk, &mut self.units);
        let (sketch, smallest) = (Sketch::of(&self.units), smallest(&self.units).unwrap_or_default());
        self.remember(|writer| writer.add(id, chunk.len() as u32, smallest, &sketch));
    }

    fn remember(&mut self, write: impl FnOnce(&mut StreamWriter) -> Result<()>) {
        if let Some(Err(error)) = self.writer.as_mut().map(write) {
            self.failed(&error);
        }
    }

    fn write<T>(&mut self, write: impl FnOnce(StreamWriter) -> Result<T>) -> Option<T> {
        match write(self.writer.take()?) {
            Ok(done) => Some(done),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Costs deduplication next time, not the backup.
    fn failed(&mut self, error: &crate::Error) {
        self.writer = None;
        self.rows.finished().warnings.push(format!("the next run deduplicates whole chunks alone: {}", error.chain()));
    }

    /// Appends where these bytes of the older stream lie; says how many of them are there.
    fn place(&mut self, mut begin: u64, mut length: usize, parts: &mut Vec<Part>) -> usize {
        let (Some((_, extents)), Some(base)) = (&mut self.older, &self.rows.base) else { return 0 };
        let mut found = 0;
        while length > 0 {
            let Some((start, extent)) = extents.find(begin) else {
                push_new(parts, length);
                break;
            };
            let skipped = begin - start;
            let some = (extent.length - skipped).min(length as u64);
            match base.packs[extent.pack as usize] {
                Some(pack) => {
                    parts.push(Part::Older { pack, offset: extent.offset + skipped, length: some as usize });
                    found += some as usize;
                }
                None => push_new(parts, some as usize),
            }
            (begin, length) = (begin + some, length - some as usize);
        }
        found
    }
}

/// How many older packs these parts lie in, at least.
fn packs(parts: &[Part]) -> usize {
    let pack = |part: &Part| match part {
        Part::Older { pack, .. } => Some(pack.0),
        Part::Known { .. } | Part::New { .. } => None,
    };
    parts.iter().filter_map(pack).collect::<HashSet<_>>().len()
}

fn push_new(parts: &mut Vec<Part>, more: usize) {
    match parts.last_mut() {
        Some(Part::New { length }) => *length += more,
        _ if more > 0 => parts.push(Part::New { length: more }),
        _ => {}
    }
}
