//! Finds the units of a new chunk among those of the older stream.
//!
//! A **pointer** walks through the older stream while the new one comes. Usually the next new unit
//! is at the pointer, or is one of the few units after it. If not, it is looked up among all units
//! of the chunks **at hand**. These are the chunks that the pointer visited last, and a chunk that
//! resembles the new one, wherever it lies: both have the same smallest hash. A unit that is found
//! nowhere is new.
//!
//! What was found is believed only if the sums of its group agree (`parity.rs`).
//!
//! **Work** is bounded. Each unit takes a limited number of comparisons and one look-up. Each new
//! chunk opens one or two older chunks, plus one each time the pointer leaves a chunk.

use std::collections::{HashMap, VecDeque};

use super::parity::{Element, GROUP_UNITS};
use super::sketch::{Look, Sketch};
use super::units::Unit;

/// A unit is first compared with the one at the pointer and this many units after it.
const NEAR_UNITS: usize = 8;
/// Fewer than this many units in a row may be changed in place. More are looked up elsewhere.
const MAX_CHANGED_UNITS: usize = 16;
/// How many older chunks stay at hand from one new chunk to the next.
const CHUNKS_AT_HAND: usize = 4;

/// The older stream.
pub(crate) trait OlderUnits {
    /// The sketch of a chunk; `None` if there is no such chunk, or if it cannot be read.
    fn sketch(&mut self, chunk: u32) -> Option<Sketch>;
    /// The number of a chunk that has this smallest hash.
    fn resembling(&mut self, smallest: Element) -> Option<u32>;
}

/// Bytes of the new chunk that lie in the older stream. All figures are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where they begin in the new chunk.
    pub at: u32,
    /// The number of the older chunk that has them.
    pub chunk: u32,
    /// Where they begin in the older chunk.
    pub offset: u32,
    /// How many there are.
    pub length: u32,
}

/// A unit of the older stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    chunk: u32,
    unit: u32,
}

struct Held {
    chunk: u32,
    sketch: Sketch,
    /// Whether its units are in [`Matcher::looks`].
    indexed: bool,
}

/// Follows one stream, chunk by chunk.
#[derive(Default)]
pub(crate) struct Matcher {
    /// The older chunks at hand, the latest last.
    held: VecDeque<Held>,
    /// Where a unit that looks like this lies, among the chunks at hand.
    looks: HashMap<Look, Position>,
    /// The older unit that should come next.
    pointer: Option<Position>,
    /// The unit before was not found.
    missed: bool,
    /// The unit before was looked up and not found.
    lost: bool,
    /// Comparisons, look-ups and units opened so far.
    work: u64,
}

impl Matcher {
    /// The new stream repeats a whole older chunk, so the pointer moves to the chunk after it.
    pub(crate) fn follow(&mut self, chunk: u32) {
        self.pointer = chunk.checked_add(1).map(|chunk| Position { chunk, unit: 0 });
    }

    /// The older chunk in which the next new one should begin. At the start this is the first one.
    #[must_use]
    pub(crate) fn expected(&self) -> u32 {
        let Some(Position { chunk, unit }) = self.pointer else { return 0 };
        // If the pointer is this near the end, the last units have probably changed.
        let is_over = self.get(chunk).is_some_and(|sketch| unit as usize + MAX_CHANGED_UNITS > sketch.len());
        chunk.saturating_add(u32::from(is_over))
    }

    /// The steps taken so far: comparisons, look-ups, and units opened.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// The parts of a new chunk with these `units` that the older stream has, in order.
    pub(crate) fn find(&mut self, units: &[Unit], older: &mut impl OlderUnits) -> Vec<Run> {
        self.forget();
        if let Some(Position { chunk, .. }) = self.pointer {
            self.hold(chunk, older);
        }
        if let Some(smallest) = smallest(units)
            && let Some(chunk) = older.resembling(smallest)
        {
            self.hold(chunk, older);
        }
        let mut found = Vec::with_capacity(units.len());
        for at in 0..units.len() {
            let place = self.next(&units[at..], older);
            self.missed = place.is_none();
            if let Some(place) = place {
                self.pointer = Some(Position { unit: place.unit + 1, ..place });
            }
            found.push(place);
        }
        self.believe(units, &mut found);
        self.runs(units, &found)
    }

    /// Where the first of `units` lies in the older stream.
    fn next(&mut self, units: &[Unit], older: &mut impl OlderUnits) -> Option<Position> {
        if let Some(place) = self.near(units, older) {
            self.lost = false;
            return Some(place);
        }
        // Some rows were changed in place: the pointer waits for the unit after them.
        if !self.lost && (1..units.len().min(MAX_CHANGED_UNITS)).any(|next| self.near(&units[next..], older).is_some())
        {
            return None;
        }
        self.index();
        self.work += 1;
        let place = self.looks.get(&Look::from(&units[0])).copied();
        let place = place.filter(|place| self.is_here(&units[..1], *place) && self.goes_on(units, *place));
        self.lost = place.is_none();
        place
    }

    /// Where the first of `units` lies, if it is at the pointer or a little after it. If units were
    /// skipped, or the unit before was not found, the second of `units` must agree, too.
    fn near(&mut self, units: &[Unit], older: &mut impl OlderUnits) -> Option<Position> {
        let mut place = self.pointer?;
        for skipped in 0..=NEAR_UNITS {
            place = self.normal(place, older);
            if self.is_here(&units[..1], place) && (skipped == 0 && !self.missed || self.goes_on(units, place)) {
                return Some(place);
            }
            place.unit += 1;
        }
        None
    }

    /// Turns the place after a chunk's last unit into that of the next chunk's first unit.
    fn normal(&mut self, mut place: Position, older: &mut impl OlderUnits) -> Position {
        while self.get(place.chunk).is_some_and(|sketch| place.unit as usize >= sketch.len()) {
            place = Position { chunk: place.chunk + 1, unit: 0 };
            self.hold(place.chunk, older);
        }
        place
    }

    /// Whether the second of `units` follows the first one at `place`, as far as that is known.
    fn goes_on(&mut self, units: &[Unit], place: Position) -> bool {
        let next = Position { unit: place.unit + 1, ..place };
        let known = self.get(place.chunk).is_some_and(|sketch| (next.unit as usize) < sketch.len());
        units.len() < 2 || !known || self.is_here(&units[1..2], next)
    }

    fn is_here(&mut self, units: &[Unit], place: Position) -> bool {
        self.work += 1;
        let there = self.get(place.chunk).filter(|sketch| (place.unit as usize) < sketch.len());
        there.is_some_and(|sketch| sketch.look(place.unit as usize) == Look::from(&units[0]))
    }

    fn get(&self, chunk: u32) -> Option<&Sketch> {
        self.held.iter().rev().find(|held| held.chunk == chunk).map(|held| &held.sketch)
    }

    /// Brings an older chunk to hand, if it can be read.
    fn hold(&mut self, chunk: u32, older: &mut impl OlderUnits) {
        if self.get(chunk).is_some() {
            return;
        }
        let Some(sketch) = older.sketch(chunk) else { return };
        self.work += sketch.len() as u64;
        self.held.push_back(Held { chunk, sketch, indexed: false });
    }

    /// Drops all chunks at hand but the latest. To be called between two new chunks.
    fn forget(&mut self) {
        while self.held.len() > CHUNKS_AT_HAND
            && let Some(Held { chunk, sketch, indexed }) = self.held.pop_front()
        {
            for unit in (0..sketch.len()).filter(|_| indexed) {
                let look = sketch.look(unit);
                if self.looks.get(&look).is_some_and(|place| place.chunk == chunk) {
                    self.looks.remove(&look);
                }
            }
        }
    }

    /// Adds all units at hand to the look-up table. Of several that look alike, the first counts.
    fn index(&mut self) {
        for held in self.held.iter_mut().filter(|held| !held.indexed) {
            held.indexed = true;
            self.work += held.sketch.len() as u64;
            for unit in 0..held.sketch.len() {
                let place = Position { chunk: held.chunk, unit: unit as u32 };
                self.looks.entry(held.sketch.look(unit)).or_insert(place);
            }
        }
    }

    /// Drops the units of each group whose sums do not agree.
    fn believe(&self, units: &[Unit], found: &mut [Option<Position>]) {
        let group = |place: &Position| (place.chunk, place.unit as usize / GROUP_UNITS);
        let mut at = 0;
        while at < found.len() {
            let Some(first) = found[at] else {
                at += 1;
                continue;
            };
            // The units of one group, found in ascending order, with or without new ones between.
            let (mut hashes, mut last, mut end) = ([None; GROUP_UNITS], None, at);
            for (number, place) in found.iter().enumerate().skip(at) {
                let Some(place) = place else { continue };
                if group(place) != group(&first) || last.is_some_and(|last| place.unit <= last) {
                    break;
                }
                hashes[place.unit as usize % GROUP_UNITS] = Some(units[number].hash);
                (last, end) = (Some(place.unit), number + 1);
            }
            let agrees = self.get(first.chunk).is_some_and(|sketch| sketch.agrees(group(&first).1, &hashes));
            if !agrees {
                found[at..end].fill(None);
            }
            at = end;
        }
    }

    fn runs(&self, units: &[Unit], found: &[Option<Position>]) -> Vec<Run> {
        let (mut runs, mut at): (Vec<Run>, u32) = (Vec::new(), 0);
        for (unit, place) in units.iter().zip(found) {
            let length = u32::from(unit.length);
            if let Some((place, sketch)) = place.and_then(|place| Some((place, self.get(place.chunk)?))) {
                let (offset, _) = sketch.range(place.unit as usize);
                match runs.last_mut() {
                    Some(run)
                        if (run.at + run.length, run.chunk, run.offset + run.length) == (at, place.chunk, offset) =>
                    {
                        run.length += length;
                    }
                    _ => runs.push(Run { at, chunk: place.chunk, offset, length }),
                }
            }
            at += length;
        }
        runs
    }
}

/// The smallest hash of a chunk's units. Chunks that have much in common usually share it.
#[must_use]
pub(crate) fn smallest(units: &[Unit]) -> Option<Element> {
    units.iter().map(|unit| unit.hash).min()
}

#[cfg(test)]
mod tests;
