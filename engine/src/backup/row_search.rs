//! Row deduplication of one run: what of a new chunk lies in the stream as it was in the snapshot
//! before.
//!
//! The row index (`state/row_index/`) tells which bytes of the older stream a new chunk repeats.
//! The older manifest's extents and their map (`predecessor.rs`) tell where those lie. Chunks are
//! looked up first, as a whole: among all that packs hold, then among those of the older stream
//! that no pack holds as a whole, because they were put together from rows.
//!
//! **A chunk is stored whole instead** where it should not be put together: less than half of it is
//! found, so that little is saved; it would have more than [`MAX_FRAGMENTS_PER_MIB`] parts or lie
//! in more than [`MAX_PACKS_PER_CHUNK`] packs, which a restore must gather (rows that were changed
//! at different times add up to that); it lies in the stretch of the stream that is renewed
//! (`renewal.rs`); or the run has so many parts already that what is known of them would exceed its
//! share of `limits.memory`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_base::Result;
use lifeboat_format::id::{ChunkId, SnapshotId};

use super::fragments::{Fragment, Weight, push_new};
use super::predecessor::{Predecessor, PredecessorWalk, UsedMap};
use crate::rows::matcher::{Matcher, smallest};
use crate::rows::sketch::sketch;
use crate::rows::units::{Fineness, Unit, UnitCutter};
use crate::state::row_index::{NewStream, OlderStream, RowIndex, StreamWriter};

/// The most parts of a chunk, …
const MAX_FRAGMENTS_PER_MIB: usize = 8192;
/// … and the most packs that these lie in.
const MAX_PACKS_PER_CHUNK: usize = 64;
/// Bytes of `limits.memory` for each part of a run: some seven are needed, and about two more where
/// there is a map.
const BYTES_PER_FRAGMENT: u64 = 16;

/// What a run knows of rows.
pub(crate) struct Rows {
    index: RowIndex,
    cutter: UnitCutter,
    base: Option<Predecessor>,
    /// How many parts there may be still.
    room: AtomicUsize,
    finished: Mutex<Finished>,
}

#[derive(Default)]
struct Finished {
    streams: Vec<NewStream>,
    /// Streams that lie in their older selves.
    mapped: BTreeMap<String, Arc<UsedMap>>,
    warnings: Vec<String>,
}

impl Rows {
    /// For a run that comes after `base`.
    pub(crate) fn new(index: RowIndex, cutter: UnitCutter, base: Option<Predecessor>, memory: u64) -> Self {
        let room = AtomicUsize::new(usize::try_from(memory / BYTES_PER_FRAGMENT).unwrap_or(usize::MAX));
        Self { index, cutter, base, room, finished: Mutex::default() }
    }

    /// Begins a stream.
    pub(crate) fn stream(self: &Arc<Self>, name: &str) -> StreamRows {
        let older = self.base.as_ref().filter(|base| base.had(name)).and_then(|base| {
            let stream = self.index.stream(&base.snapshot, base.generation, name);
            let found = stream.map(Arc::new).zip(base.walk(name));
            if found.is_none() {
                self.finished().warnings.push(format!(
                    "the row index of stream `{name}` is missing or stale: only whole chunks are deduplicated this time"
                ));
            }
            found
        });
        let writer = self.index.write(name, older.as_ref().map(|(older, _)| older.clone()));
        StreamRows {
            rows: self.clone(),
            name: name.to_owned(),
            older,
            writer: Some(writer),
            matcher: Matcher::default(),
            units: Vec::new(),
            mapped: false,
        }
    }

    fn finished(&self) -> std::sync::MutexGuard<'_, Finished> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the run is to be remembered by, and what an operator should know.
    pub(crate) fn finish(&self) -> (Vec<NewStream>, Vec<String>) {
        let mut finished = self.finished();
        (std::mem::take(&mut finished.streams), std::mem::take(&mut finished.warnings))
    }

    /// The maps that streams of this run need, by stream; complete once all have ended.
    pub(crate) fn maps(&self) -> BTreeMap<String, Arc<UsedMap>> {
        self.finished().mapped.clone()
    }

    /// After the commit: `snapshot` is what the next run compares with.
    pub(crate) fn remember(&self, snapshot: &SnapshotId, generation: u32, streams: &[NewStream]) -> Result<()> {
        let maps = self.maps();
        let maps = maps.iter().map(|(name, map)| (name.as_str(), map.made().map(|bytes| &bytes[..]))).collect();
        self.index.replace(snapshot, generation, streams, &maps)
    }
}

/// One stream that is captured.
pub(crate) struct StreamRows {
    rows: Arc<Rows>,
    name: String,
    older: Option<(Arc<OlderStream>, PredecessorWalk)>,
    /// `None` once it has failed: the next run compares this stream by chunks.
    writer: Option<StreamWriter>,
    matcher: Matcher,
    units: Vec<Unit>,
    /// Some of it lies in its older self.
    mapped: bool,
}

impl StreamRows {
    /// The next chunk, which some pack holds as a whole.
    pub(crate) fn known(&mut self, id: &ChunkId, chunk: &[u8]) {
        match self.find(id) {
            Some(number) => self.keep(number),
            None => self.learn(id, chunk),
        }
    }

    /// The next chunk, which no pack holds as a whole: where its bytes are; `None` if it should be
    /// stored as a whole.
    pub(crate) fn look(&mut self, id: &ChunkId, chunk: &[u8]) -> Option<Vec<Fragment>> {
        let (mut parts, mut weight) = (Vec::new(), Weight::default());
        if let Some(number) = self.find(id) {
            let (older, walk) = self.older.as_mut()?;
            let (begin, _) = older.range(number);
            let renewed = walk.renewed(begin);
            if !renewed {
                walk.place(begin, chunk.len(), &mut parts, &mut weight);
            }
            self.keep(number);
            return self.worth(&weight, chunk, &parts).then_some(parts);
        }
        self.learn(id, chunk);
        let (older, walk) = self.older.as_mut()?;
        let (mut at, mut renewed) = (0, 0);
        for run in self.matcher.find(&self.units, older) {
            push_new(&mut parts, run.at as usize - at);
            let (begin, _) = older.range(run.chunk);
            let begin = begin + u64::from(run.offset);
            renewed += if walk.renewed(begin) { run.length as usize } else { 0 };
            walk.place(begin, run.length as usize, &mut parts, &mut weight);
            at = (run.at + run.length) as usize;
        }
        push_new(&mut parts, chunk.len() - at);
        (2 * renewed < chunk.len() && self.worth(&weight, chunk, &parts)).then_some(parts)
    }

    /// Whether to put a chunk together.
    fn worth(&mut self, weight: &Weight, chunk: &[u8], parts: &[Fragment]) -> bool {
        let count = weight.extents + parts.iter().filter(|part| matches!(part, Fragment::New { .. })).count();
        let worth = weight.found >= chunk.len() / 2
            && (count << 20) <= MAX_FRAGMENTS_PER_MIB * chunk.len()
            && weight.packs.len() <= MAX_PACKS_PER_CHUNK
            && self.rows.room.try_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(count)).is_ok();
        self.mapped |= worth && parts.iter().any(|part| matches!(part, Fragment::Mapped { .. }));
        worth
    }

    /// After the last chunk.
    pub(crate) fn end(mut self) {
        let unreadable = self.older.as_ref().map_or(0, |(older, _)| older.unreadable());
        if unreadable > 0 {
            self.rows.finished().warnings.push(format!(
                "the row index is damaged: {unreadable} times a chunk's rows could not be compared; where they changed they are stored again"
            ));
        }
        if let Some(map) = self.older.as_ref().filter(|_| self.mapped).and_then(|(_, walk)| walk.map()) {
            self.rows.finished().mapped.insert(self.name.clone(), map);
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
        // As the older chunk was cut that should come here, or else they could not be compared.
        let older = self.older.as_ref().and_then(|(older, _)| older.fineness(self.matcher.expected()));
        let has_room =
            |rows: &Self, sketch| rows.writer.as_ref().is_some_and(|writer| writer.has_room(chunk.len(), sketch));
        let own = || if has_room(self, 0) { Fineness::EachLine } else { Fineness::SomeLines };
        let mut fineness = older.unwrap_or_else(own);
        let mut sketch = self.cut(chunk, fineness);
        let length = sketch.as_ref().map_or(0, Vec::len);
        if older.is_none() && fineness == Fineness::EachLine && !has_room(self, length) {
            fineness = Fineness::SomeLines;
            sketch = self.cut(chunk, fineness);
        }
        let smallest = smallest(&self.units).unwrap_or_default();
        self.remember(|writer| writer.add(id, chunk.len() as u32, fineness, smallest, &sketch?));
    }

    fn cut(&mut self, chunk: &[u8], fineness: Fineness) -> Result<Vec<u8>> {
        self.rows.cutter.cut(chunk, fineness, &mut self.units);
        sketch(&self.units)
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
    fn failed(&mut self, error: &lifeboat_base::Error) {
        self.writer = None;
        self.rows.finished().warnings.push(format!("the next run deduplicates whole chunks alone: {}", error.chain()));
    }
}
