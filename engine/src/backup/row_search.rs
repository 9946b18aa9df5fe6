//! Row deduplication in one run: finds the parts of a new chunk that the predecessor's stream has.
//!
//! The row index (`state/row_index/`) tells which bytes of the older stream a new chunk repeats.
//! The predecessor's extents and maps (`predecessor.rs`) tell where those bytes lie. Before that, a
//! chunk is looked up as a whole: first among the chunks in packs, then among those chunks of the
//! older stream that no pack holds as a whole, because they were put together from fragments.
//!
//! **A chunk is stored whole** in these cases:
//!
//! - Less than half of it is found, so that little would be saved.
//! - It would have more than [`MAX_FRAGMENTS_PER_MIB`] fragments per MiB, or lie in more than
//!   [`MAX_PACKS_PER_CHUNK`] packs. A restore must gather all of them, and every change adds
//!   some.
//! - It lies in the stretch of the stream that is renewed (`renewal/`).
//! - The run has so many fragments already that they would exceed their share of `limits.memory`.

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

/// A chunk may be put together from at most this many fragments per MiB.
const MAX_FRAGMENTS_PER_MIB: usize = 8192;
/// The fragments of a chunk may lie in at most this many packs.
const MAX_PACKS_PER_CHUNK: usize = 64;
/// A run may have one fragment for every 16 bytes of its part of `limits.memory`. A fragment takes
/// about seven bytes, and about two more if there is a map.
const BYTES_PER_FRAGMENT: u64 = 16;

/// What a run knows about rows.
pub(crate) struct Rows {
    index: RowIndex,
    cutter: UnitCutter,
    base: Option<Predecessor>,
    /// How many more fragments the run may have.
    room: AtomicUsize,
    finished: Mutex<Finished>,
}

#[derive(Default)]
struct Finished {
    streams: Vec<NewStream>,
    /// The maps of streams that refer to their older stream, by stream.
    mapped: BTreeMap<String, Arc<UsedMap>>,
    troubles: BTreeMap<RowTrouble, Troubled>,
}

/// What is wrong with rows of some streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RowTrouble {
    Missing,
    Damaged,
    Unwritten,
}

/// The streams that have a trouble. There may be thousands, and there is one warning.
struct Troubled {
    first: String,
    others: usize,
    /// What is known of the first.
    why: String,
}

impl Finished {
    fn add(&mut self, trouble: RowTrouble, stream: &str, why: impl FnOnce() -> String) {
        let more = self.troubles.get_mut(&trouble).map(|troubled| troubled.others += 1);
        if more.is_none() {
            self.troubles.insert(trouble, Troubled { first: stream.to_owned(), others: 0, why: why() });
        }
    }

    fn warnings(&mut self) -> Vec<String> {
        let tell = |(trouble, Troubled { first, others, why })| {
            let streams = match others {
                0 => format!("stream `{first}`"),
                others => format!("stream `{first}` and of {others} more"),
            };
            match trouble {
                RowTrouble::Missing => format!(
                    "the row index of {streams} is missing or stale, so only whole chunks are deduplicated this time"
                ),
                RowTrouble::Damaged => format!(
                    "the row index is damaged: reads of {streams} failed, so unchanged rows may be stored again"
                ),
                RowTrouble::Unwritten => {
                    format!("the next backup can deduplicate only whole chunks of {streams}: {why}")
                }
            }
        };
        std::mem::take(&mut self.troubles).into_iter().map(tell).collect()
    }
}

impl Rows {
    /// For a run that compares with the predecessor `base`, and may use `memory` bytes in all.
    pub(crate) fn new(index: RowIndex, cutter: UnitCutter, base: Option<Predecessor>, memory: u64) -> Self {
        let room = AtomicUsize::new(usize::try_from(memory / BYTES_PER_FRAGMENT).unwrap_or(usize::MAX));
        Self { index, cutter, base, room, finished: Mutex::default() }
    }

    /// Begins a stream.
    pub(crate) fn stream(self: &Arc<Self>, name: &str) -> StreamRows {
        let older = self.older(name);
        if older.is_none() && self.base.as_ref().is_some_and(|base| base.had(name)) {
            self.finished().add(RowTrouble::Missing, name, String::new);
        }
        self.stream_after(name, older)
    }

    /// The parts of a stream that is taken over from the predecessor, of this length; `None` if
    /// some of it should be stored again, or the row index does not know it.
    pub(crate) fn take_over(self: &Arc<Self>, name: &str, length: u64) -> Option<Vec<Fragment>> {
        let (older, mut walk) = self.older(name)?;
        if walk.renews() || older.length() != length {
            return None;
        }
        let (mut parts, mut weight) = (Vec::new(), Weight::default());
        walk.place(0, usize::try_from(length).ok()?, &mut parts, &mut weight);
        if weight.found as u64 != length || parts.iter().any(|part| matches!(part, Fragment::New { .. })) {
            return None;
        }
        self.take_room(parts.len()).then_some(())?;
        let chunks = older.chunks.len() as u32;
        let mut stream = self.stream_after(name, Some((older, walk)));
        (0..chunks).for_each(|number| stream.keep(number));
        stream.mapped = parts.iter().any(|part| matches!(part, Fragment::Mapped { .. }));
        stream.end();
        Some(parts)
    }

    fn older(&self, name: &str) -> Option<(Arc<OlderStream>, PredecessorWalk)> {
        let base = self.base.as_ref().filter(|base| base.had(name))?;
        let stream = self.index.stream(&base.snapshot, base.generation, name);
        stream.map(Arc::new).zip(base.walk(name))
    }

    /// Takes room for so many fragments, if there is some.
    fn take_room(&self, fragments: usize) -> bool {
        self.room.try_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(fragments)).is_ok()
    }

    fn stream_after(self: &Arc<Self>, name: &str, older: Option<(Arc<OlderStream>, PredecessorWalk)>) -> StreamRows {
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

    /// Takes the streams for the row index, and the warnings.
    pub(crate) fn finish(&self) -> (Vec<NewStream>, Vec<String>) {
        let mut finished = self.finished();
        (std::mem::take(&mut finished.streams), finished.warnings())
    }

    /// The maps that streams of this run need, by stream. They are complete once all streams have
    /// ended.
    pub(crate) fn maps(&self) -> BTreeMap<String, Arc<UsedMap>> {
        self.finished().mapped.clone()
    }

    /// Writes the row index of `snapshot` for the next run. To be called after the commit.
    pub(crate) fn remember(&self, snapshot: &SnapshotId, generation: u32, streams: &[NewStream]) -> Result<()> {
        let maps = self.maps();
        let maps = maps.iter().map(|(name, map)| (name.as_str(), map.made().map(|bytes| &bytes[..]))).collect();
        self.index.replace(snapshot, generation, streams, &maps)
    }
}

/// The rows of one stream while it is captured.
pub(crate) struct StreamRows {
    rows: Arc<Rows>,
    name: String,
    older: Option<(Arc<OlderStream>, PredecessorWalk)>,
    /// `None` once it has failed. The next run then deduplicates whole chunks of this stream only.
    writer: Option<StreamWriter>,
    matcher: Matcher,
    units: Vec<Unit>,
    /// Whether some of it refers to the older stream.
    mapped: bool,
}

impl StreamRows {
    /// Notes the next chunk, which some pack holds as a whole.
    pub(crate) fn known(&mut self, id: &ChunkId, chunk: &[u8]) {
        match self.find(id) {
            Some(number) => self.keep(number),
            None => self.learn(id, chunk),
        }
    }

    /// The fragments of the next chunk, which no pack holds as a whole; `None` if it should be
    /// stored whole.
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

    /// Whether a chunk should be put together from these fragments. If so, they are counted.
    fn worth(&mut self, weight: &Weight, chunk: &[u8], parts: &[Fragment]) -> bool {
        let count = weight.extents + parts.iter().filter(|part| matches!(part, Fragment::New { .. })).count();
        let worth = weight.found >= chunk.len() / 2
            && (count << 20) <= MAX_FRAGMENTS_PER_MIB * chunk.len()
            && weight.packs.len() <= MAX_PACKS_PER_CHUNK
            && self.rows.take_room(count);
        self.mapped |= worth && parts.iter().any(|part| matches!(part, Fragment::Mapped { .. }));
        worth
    }

    /// Ends the stream after its last chunk.
    pub(crate) fn end(mut self) {
        if self.older.as_ref().is_some_and(|(older, _)| older.unreadable() > 0) {
            self.rows.finished().add(RowTrouble::Damaged, &self.name, String::new);
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
        // Units can be compared only if the older chunk in this place was cut in the same way.
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

    /// Gives up the row index of this stream. The next backup can then find no rows in it.
    fn failed(&mut self, error: &lifeboat_base::Error) {
        self.writer = None;
        self.rows.finished().add(RowTrouble::Unwritten, &self.name, || error.chain_and_hint());
    }
}
