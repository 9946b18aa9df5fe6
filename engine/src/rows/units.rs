//! Cuts bytes into units, rows as far as they have rows, and names each by a keyed hash.
//!
//! - A **line** ends with its newline. A line of [`ORDINARY`] bytes or more ends a **unit**; of shorter ones so many in proportion, which
//!   their own bytes decide, but none before [`LEAST`] bytes. So units have some hundred bytes, however short the rows, and an edit leaves
//!   those before and after it.
//! - Where no newline comes for [`LONG`] bytes, four bytes next to each other decide, once in 256 places; at [`LONGEST`] it ends anyway.
//! - The **hash** is SipHash-1-3 (Aumasson and Bernstein, 2012), a keyed pseudo-random function, modulo 2⁶¹ − 1.

use siphasher::sip::SipHasher13;
use zeroize::Zeroizing;

use super::parity::Element;
use crate::bytes::chunk::ChunkIdKey;

const CONTEXT: &str = "lifeboat v1 row hashes";
/// Every line this long ends a unit.
const ORDINARY: usize = 100;
/// No unit but a chunk's last has fewer bytes, though all lines be the same and say that they end one.
const LEAST: usize = 32;
/// A unit of lines that has so many bytes ends with the next one.
const ENOUGH: usize = 1024;
/// A line longer than this may end elsewhere.
const LONG: usize = 192;
/// No line is longer.
const LONGEST: usize = 4096;
/// Fractional part of the golden ratio: its multiples are spread evenly.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Some bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Of its bytes.
    pub hash: Element,
    /// In bytes.
    pub length: u16,
}

/// Cuts and hashes with the key of one dataset.
pub struct UnitCutter(SipHasher13);

impl UnitCutter {
    /// Of the dataset with this chunk-id key.
    #[must_use]
    pub fn new(key: &ChunkIdKey) -> Self {
        let mut bytes = Zeroizing::new([0; 16]);
        blake3::Hasher::new_derive_key(CONTEXT).update(key.expose()).finalize_xof().fill(&mut *bytes);
        Self(SipHasher13::new_with_key(&bytes))
    }

    /// The units of `chunk`, in order: their lengths sum to its length.
    pub fn cut(&self, chunk: &[u8], units: &mut Vec<Unit>) {
        units.clear();
        let (mut begin, mut line) = (0, 0);
        let mut newlines = memchr::memchr_iter(b'\n', chunk).peekable();
        while line < chunk.len() {
            while newlines.next_if(|newline| *newline < line).is_some() {}
            let end = match newlines.peek() {
                Some(newline) if newline - line < LONG => newline + 1,
                _ => line + long_line(&chunk[line..]),
            };
            let length = end - begin;
            if length >= ENOUGH || end == chunk.len() || length >= LEAST && ends_a_unit(&chunk[line..end]) {
                let hash = Element::from(self.0.hash(&chunk[begin..end]));
                units.push(Unit { hash, length: length as u16 });
                begin = end;
            }
            line = end;
        }
    }
}

/// The length of a line that has no newline near.
fn long_line(bytes: &[u8]) -> usize {
    let most = bytes.len().min(LONGEST);
    let end = bytes[..most].windows(4).skip(LONG).position(|four| {
        let word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        four[3] == b'\n' || word.wrapping_mul(SPREAD as u32) >> 24 == 0
    });
    end.map_or(most, |at| LONG + at + 4)
}

/// By its first and last bytes and those in its middle.
fn ends_a_unit(line: &[u8]) -> bool {
    if line.len() >= ORDINARY {
        return true;
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        let some = &line[at..line.len().min(at + 8)];
        bytes[..some.len()].copy_from_slice(some);
        u64::from_le_bytes(bytes)
    };
    let mixed = [0, line.len().saturating_sub(8), line.len() / 2]
        .into_iter()
        .fold(0_u64, |mixed, at| (mixed ^ word(at)).wrapping_mul(SPREAD).rotate_left(29));
    (mixed >> 48) as usize * ORDINARY < line.len() << 16
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(data: &[u8]) -> Vec<Unit> {
        let mut units = Vec::new();
        UnitCutter::new(&ChunkIdKey::new(&[1; 32]).unwrap()).cut(data, &mut units);
        units
    }

    fn rows(count: usize) -> Vec<u8> {
        (0..count).flat_map(|n| format!("{n}\tcustomer {}\t{}\n", n * 7919 % 1000, n % 7).into_bytes()).collect()
    }

    proptest! {
        #[test]
        fn units_cover_the_chunk_and_are_bounded(data in prop::collection::vec(any::<u8>(), 0..9000), letters in 1_u8..) {
            let data: Vec<u8> = data.iter().map(|byte| byte % letters).collect();
            let units = cut(&data);
            prop_assert_eq!(units.iter().map(|unit| usize::from(unit.length)).sum::<usize>(), data.len());
            prop_assert!(units.iter().all(|unit| (1..=ENOUGH + LONGEST).contains(&usize::from(unit.length))));
        }
    }

    #[test]
    fn whatever_line_is_repeated_units_are_not_many() {
        for line in (0_u16..2000).map(|n| format!("{n:x}\n")).chain(["\n".to_owned()]) {
            let data = line.repeat(2000 / line.len());
            let units = cut(data.as_bytes());
            assert!((units.len() - 1) * LEAST <= data.len(), "{line:?}: {} units of {} bytes", units.len(), data.len());
        }
    }

    #[test]
    fn an_edit_leaves_the_units_around_it() {
        for data in [rows(20_000), rows(20_000).into_iter().map(|byte| byte.wrapping_mul(3) | 1).collect()] {
            let before = cut(&data);
            let mut edited = data.clone();
            edited.splice(100_000..100_000, *b"x");
            let after = cut(&edited);
            let new = after.iter().filter(|unit| !before.contains(unit)).count();
            assert!((1..=8).contains(&new), "{new} of {} units are new", after.len());
        }
    }

    #[test]
    fn another_key_hashes_differently() {
        let data = rows(100);
        let mut theirs = Vec::new();
        UnitCutter::new(&ChunkIdKey::new(&[2; 32]).unwrap()).cut(&data, &mut theirs);
        assert!(
            cut(&data)
                .iter()
                .zip(&theirs)
                .all(|(mine, theirs)| mine.hash != theirs.hash && mine.length == theirs.length)
        );
    }
}
