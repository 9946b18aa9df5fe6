//! Cuts bytes into units, which are rows if the data has rows, and hashes each with a key.
//!
//! - **Lines** end with a newline. The first line of a unit has at least [`MIN_UNIT_BYTES`] bytes.
//! - **Units** end with every line of [`ORDINARY_LINE_BYTES`] bytes or more. [`Fineness`] says
//!   whether each shorter line ends a unit, too, or only some do. If only some do, the bytes of a
//!   line decide, and a shorter line ends a unit more rarely. So units have about a hundred bytes,
//!   and an edit changes only the units around it.
//! - **Long lines**: if no newline comes for [`LONG_LINE_BYTES`] bytes, four adjacent bytes decide
//!   where the line ends, on average at one place in 256. At [`MAX_LINE_BYTES`] it always ends.

use lifeboat_format::chunk_id::ChunkIdKey;
use wide::u8x16;

use super::hash::{Block, UnitHasher};
use super::parity::Element;

/// Every line of at least this length ends a unit.
const ORDINARY_LINE_BYTES: usize = 88;
/// No unit is shorter than this, except a chunk's last one. This bounds the number of units even
/// if all lines are the same and each ends a unit.
const MIN_UNIT_BYTES: usize = 32;
/// A unit of several lines ends with the line that brings it to this length.
const FULL_UNIT_BYTES: usize = 1024;
/// A line longer than this may end without a newline.
const LONG_LINE_BYTES: usize = 192;
/// A line ends at this length, even without a newline.
const MAX_LINE_BYTES: usize = 4096;
/// How many bytes are searched for a newline at once. The search begins where the unit may end, so
/// rows of equal length take the same number of steps, which a processor can predict.
const SEARCHED_BYTES: usize = 32;
/// The hashes of this many units are finished together.
const UNITS_AT_ONCE: usize = 32;
/// The fractional part of the golden ratio, whose multiples are spread evenly.
const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// Some bytes of a chunk, such as a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// The keyed hash of its bytes.
    pub hash: Element,
    /// Its length, in bytes.
    pub length: u16,
}

/// Which lines end a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fineness {
    /// Each line, so that a changed row costs no more than itself.
    EachLine,
    /// Only some of the short lines, so that there are fewer units to remember.
    SomeLines,
}

/// Cuts and hashes with the key of one dataset.
pub struct UnitCutter(UnitHasher);

impl UnitCutter {
    /// For the dataset with this chunk-id key.
    #[must_use]
    pub fn new(key: &ChunkIdKey) -> Self {
        Self(UnitHasher::new(key, FULL_UNIT_BYTES + MAX_LINE_BYTES))
    }

    /// Replaces `units` with those of `chunk`, in order. Their lengths sum to that of `chunk`.
    pub fn cut(&self, chunk: &[u8], fineness: Fineness, units: &mut Vec<Unit>) {
        units.clear();
        let (mut begun, mut count) = ([Block::default(); UNITS_AT_ONCE], 0);
        for unit in (Walk { rest: chunk, each_line: fineness == Fineness::EachLine }) {
            units.push(Unit { hash: Element::default(), length: unit.len() as u16 });
            begun[count] = self.0.begin(unit);
            count += 1;
            if count == UNITS_AT_ONCE {
                self.finish(&mut begun, units);
                count = 0;
            }
        }
        self.finish(&mut begun[..count], units);
    }

    /// Sets the hashes of the last units, as many as were begun.
    fn finish(&self, begun: &mut [Block], units: &mut [Unit]) {
        let first = units.len() - begun.len();
        units[first..].iter_mut().zip(self.0.finish(begun)).for_each(|(unit, hash)| unit.hash = hash);
    }
}

/// Walks through a chunk, unit by unit.
struct Walk<'a> {
    rest: &'a [u8],
    each_line: bool,
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (mut line, mut end) = (0, line_end(self.rest, 0, MIN_UNIT_BYTES - 1));
        while end < self.rest.len() && end < FULL_UNIT_BYTES && !self.each_line && !ends_a_unit(&self.rest[line..end]) {
            line = end;
            end = line_end(self.rest, line, line);
        }
        self.rest.split_off(..end).filter(|unit| !unit.is_empty())
    }
}

/// Where the line that begins at `line` ends. Its newline is searched from `from` on.
#[inline]
fn line_end(bytes: &[u8], line: usize, from: usize) -> usize {
    let mut at = from;
    while at + SEARCHED_BYTES <= line + LONG_LINE_BYTES {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(block) = rest.first_chunk() else {
            return rest.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |found| at + found + 1);
        };
        match newlines(block) {
            0 => at += SEARCHED_BYTES,
            found => return at + found.trailing_zeros() as usize + 1,
        }
    }
    long_line_end(bytes, line, at)
}

/// Where a line ends that has no newline between `line` and `from`.
fn long_line_end(bytes: &[u8], line: usize, from: usize) -> usize {
    let most = bytes.len().min(line + MAX_LINE_BYTES);
    let end = bytes.get(from..most).unwrap_or_default().windows(4).position(|four| {
        let word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        four[3] == b'\n' || word.wrapping_mul(GOLDEN_RATIO as u32) >> 24 == 0
    });
    end.map_or(most, |at| from + at + 4)
}

/// One bit for each byte, the lowest for the first: whether the byte is a newline.
#[inline]
fn newlines(block: &[u8; SEARCHED_BYTES]) -> u32 {
    let parts = block.as_chunks().0.iter().rev();
    parts.fold(0, |bits, part| bits << 16 | u8x16::new(*part).simd_eq(u8x16::splat(b'\n')).to_bitmask())
}

/// Whether a line ends a unit. Its first, middle and last bytes decide if it is short.
#[inline]
fn ends_a_unit(line: &[u8]) -> bool {
    if line.len() >= ORDINARY_LINE_BYTES {
        return true;
    }
    let last = line.len().saturating_sub(8);
    let word = |at: usize| match line[at..].first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => line.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    let mixed = (word(0) ^ word(last).rotate_left(32)).wrapping_mul(GOLDEN_RATIO);
    let mixed = (mixed ^ mixed >> 32 ^ word(last / 2)).wrapping_mul(GOLDEN_RATIO);
    (mixed >> 48) as usize * ORDINARY_LINE_BYTES < line.len() << 16
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(data: &[u8], fineness: Fineness) -> Vec<Unit> {
        let mut units = Vec::new();
        UnitCutter::new(&ChunkIdKey::new(&[1; 32]).unwrap()).cut(data, fineness, &mut units);
        units
    }

    fn rows(count: usize) -> Vec<u8> {
        (0..count).flat_map(|n| format!("{n}\tcustomer {}\t{}\n", n * 7919 % 1000, n % 7).into_bytes()).collect()
    }

    proptest! {
        #[test]
        fn units_cover_the_chunk_and_are_bounded(data in prop::collection::vec(any::<u8>(), 0..9000), letters in 1_u8..) {
            let data: Vec<u8> = data.iter().map(|byte| byte % letters).collect();
            for fineness in [Fineness::SomeLines, Fineness::EachLine] {
                let units = cut(&data, fineness);
                prop_assert_eq!(units.iter().map(|unit| usize::from(unit.length)).sum::<usize>(), data.len());
                prop_assert!(units.iter().all(|unit| (1..=FULL_UNIT_BYTES + MAX_LINE_BYTES).contains(&usize::from(unit.length))));
            }
        }
    }

    #[test]
    fn each_line_ends_a_unit_or_some_do() {
        let line = |n: usize| format!("{n:>40}\n");
        let data: String = (0..5000).map(line).collect();
        let lengths = |fineness| cut(data.as_bytes(), fineness).iter().map(|unit| unit.length).collect::<Vec<_>>();
        assert_eq!(lengths(Fineness::EachLine), [41; 5000]);
        let some = lengths(Fineness::SomeLines);
        assert!((1500..3500).contains(&some.len()), "{} units", some.len());
    }

    #[test]
    fn whatever_line_is_repeated_units_are_not_many() {
        for line in (0_u16..2000).map(|n| format!("{n:x}\n")).chain(["\n".to_owned()]) {
            let data = line.repeat(2000 / line.len());
            let units = cut(data.as_bytes(), Fineness::EachLine);
            assert!(
                (units.len() - 1) * MIN_UNIT_BYTES <= data.len(),
                "{line:?}: {} units of {} bytes",
                units.len(),
                data.len()
            );
        }
    }

    #[test]
    fn without_newlines_a_unit_may_end_once_long_bytes_are_over() {
        let data: Vec<u8> = rows(20_000).into_iter().map(|byte| byte.wrapping_mul(3) | 1).collect();
        let lengths: Vec<_> = cut(&data, Fineness::EachLine).iter().map(|unit| usize::from(unit.length)).collect();
        let (_, whole) = lengths.split_last().unwrap();
        assert!(whole.iter().all(|length| *length >= LONG_LINE_BYTES), "{:?}", whole.iter().min());
        assert!(whole.iter().any(|length| *length < LONG_LINE_BYTES + SEARCHED_BYTES / 2), "{:?}", whole.iter().min());
    }

    #[test]
    fn an_edit_leaves_the_units_around_it() {
        for data in [rows(20_000), rows(20_000).into_iter().map(|byte| byte.wrapping_mul(3) | 1).collect()] {
            let mut edited = data.clone();
            edited.splice(100_000..100_000, *b"x");
            for fineness in [Fineness::SomeLines, Fineness::EachLine] {
                let (before, after) = (cut(&data, fineness), cut(&edited, fineness));
                let new = after.iter().filter(|unit| !before.contains(unit)).count();
                assert!((1..=8).contains(&new), "{new} of {} units are new", after.len());
            }
        }
    }

    #[test]
    fn another_key_hashes_differently() {
        let data = rows(100);
        let mut theirs = Vec::new();
        UnitCutter::new(&ChunkIdKey::new(&[2; 32]).unwrap()).cut(&data, Fineness::SomeLines, &mut theirs);
        assert!(
            cut(&data, Fineness::SomeLines)
                .iter()
                .zip(&theirs)
                .all(|(mine, theirs)| mine.hash != theirs.hash && mine.length == theirs.length)
        );
    }
}
