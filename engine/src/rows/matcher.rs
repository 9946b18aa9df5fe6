//! Finds the units of a new chunk among those of the dataset's older stream.
//!
//! A **pointer** walks through the older stream as the new one comes: most often the next unit is
//! the next one there, or one of the few after it. Where it is not, it is looked up among all units
//! of the chunks **at hand**: those that the pointer came through last, and the one that resembles
//! the new chunk most, wherever it lies (both hold the same smallest hash). Whatever is found
//! nowhere is new.
//!
//! What was found is believed only where the sums of its group agree (`parity.rs`).
//!
//! **Work** for each unit is bounded: some comparisons and one look-up; for each chunk, one older
//! chunk or two are opened, plus one each time the pointer leaves a chunk.

use std::collections::{HashMap, VecDeque};

use super::parity::{Element, GROUP_UNITS};
use super::sketch::{Look, Sketch};
use super::units::Unit;

/// How many units ahead are tried before all others.
const NEAR_UNITS: usize = 8;
/// How many units in a row may be changed before the others are looked for elsewhere.
const MAX_CHANGED_UNITS: usize = 16;
/// OlderUnits chunks that stay at hand from one new chunk to the next.
const CHUNKS_AT_HAND: usize = 4;

/// The older stream.
pub(crate) trait OlderUnits {
    /// Its chunk of this number; `None` if there is none or it cannot be read.
    fn sketch(&mut self, chunk: u32) -> Option<Sketch>;
    /// The chunk whose smallest hash this is.
    fn resembling(&mut self, smallest: Element) -> Option<u32>;
}

/// Bytes of the new chunk that lie in the older stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Where in the new chunk.
    pub at: u32,
    /// In which older chunk.
    pub chunk: u32,
    /// Where in it.
    pub offset: u32,
    /// How many.
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
    /// Its units are in [`Matcher::looks`].
    indexed: bool,
}

/// Follows one stream.
#[derive(Default)]
pub(crate) struct Matcher {
    /// The latest last.
    held: VecDeque<Held>,
    looks: HashMap<Look, Position>,
    /// What should come next.
    pointer: Option<Position>,
    /// The unit before was not found, …
    missed: bool,
    /// … and looked for everywhere.
    lost: bool,
    /// Comparisons, look-ups and units opened so far.
    work: u64,
}

impl Matcher {
    /// The new stream holds an older chunk as a whole: the one after it should come next.
    pub(crate) fn follow(&mut self, chunk: u32) {
        self.pointer = chunk.checked_add(1).map(|chunk| Position { chunk, unit: 0 });
    }

    /// The older chunk that the next new one should begin in; the first one to begin with.
    #[must_use]
    pub(crate) fn expected(&self) -> u32 {
        let Some(Position { chunk, unit }) = self.pointer else { return 0 };
        // Its last units may have been changed.
        let is_over = self.get(chunk).is_some_and(|sketch| unit as usize + MAX_CHANGED_UNITS > sketch.len());
        chunk.saturating_add(u32::from(is_over))
    }

    /// Steps taken so far.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// What of a new chunk with these units is in the older stream; in order. The rest is new.
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

    /// Where the first of `units` is.
    fn next(&mut self, units: &[Unit], older: &mut impl OlderUnits) -> Option<Position> {
        if let Some(place) = self.near(units, older) {
            self.lost = false;
            return Some(place);
        }
        // Rows that were changed where they are: the walk goes on behind them.
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

    /// Where the first of `units` is, if that is at the pointer or a little ahead. Behind a unit
    /// that was not found, the one after it must agree, too.
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

    /// The first of the next chunk instead of the one after the last of a chunk.
    fn normal(&mut self, mut place: Position, older: &mut impl OlderUnits) -> Position {
        while self.get(place.chunk).is_some_and(|sketch| place.unit as usize >= sketch.len()) {
            place = Position { chunk: place.chunk + 1, unit: 0 };
            self.hold(place.chunk, older);
        }
        place
    }

    /// Whether the unit after the first one is where it should be, too, as far as that can be seen.
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

    /// Has a chunk at hand, if it can be read.
    fn hold(&mut self, chunk: u32, older: &mut impl OlderUnits) {
        if self.get(chunk).is_some() {
            return;
        }
        let Some(sketch) = older.sketch(chunk) else { return };
        self.work += sketch.len() as u64;
        self.held.push_back(Held { chunk, sketch, indexed: false });
    }

    /// Between two chunks: only the latest stay at hand.
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

    /// Makes every unit at hand known by its look; of several that look alike, the first.
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

    /// Drops what its group does not agree with.
    fn believe(&self, units: &[Unit], found: &mut [Option<Position>]) {
        let group = |place: &Position| (place.chunk, place.unit as usize / GROUP_UNITS);
        let mut at = 0;
        while at < found.len() {
            let Some(first) = found[at] else {
                at += 1;
                continue;
            };
            // All that were found one after the other in this group, with new units in between.
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

/// Of all hashes of a chunk: chunks that have much in common most often have this in common.
#[must_use]
pub(crate) fn smallest(units: &[Unit]) -> Option<Element> {
    units.iter().map(|unit| unit.hash).min()
}

#[cfg(test)]
mod tests;
