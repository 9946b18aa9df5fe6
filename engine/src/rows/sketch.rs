//! What is remembered of a chunk, to know its units again: 12 bits and the length of each, eight sums of each group.
//!
//! As bytes: varint number of units; three bytes for every two marks; 64 for each group's sums; then the lengths, a varint each, compressed. Some
//! three bytes a unit.

use super::parity::{Element, GROUP, Sums};
use super::units::Unit;
use crate::bytes::compress::{compress, decompress_document};
use crate::bytes::varint;

/// No chunk is longer.
const LONGEST: u64 = 16 << 20;

/// The units of one chunk, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sketch {
    marks: Vec<u16>,
    /// Where each ends in the chunk.
    ends: Vec<u32>,
    sums: Vec<Sums>,
}

impl Sketch {
    /// Of these units.
    #[must_use]
    pub fn of(units: &[Unit]) -> Self {
        let mut end = 0;
        let ends = units.iter().map(|unit| {
            end += u32::from(unit.length);
            end
        });
        Self {
            marks: units.iter().map(|unit| unit.hash.mark()).collect(),
            ends: ends.collect(),
            sums: units.chunks(GROUP).map(|group| Sums::of(group.iter().map(|unit| unit.hash))).collect(),
        }
    }

    /// The number of units.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Where a unit begins and ends.
    #[must_use]
    pub fn range(&self, unit: usize) -> (u32, u32) {
        (if unit == 0 { 0 } else { self.ends[unit - 1] }, self.ends[unit])
    }

    /// What can be told apart at a glance: mark and length.
    #[must_use]
    pub fn look(&self, unit: usize) -> Look {
        let (begin, end) = self.range(unit);
        Look { mark: self.marks[unit], length: (end - begin) as u16 }
    }

    /// Whether the units of one group are what they were found to be: the hash of each that was found.
    #[must_use]
    pub fn agrees(&self, group: usize, found: &[Option<Element>; GROUP]) -> bool {
        let marks = &self.marks[group * GROUP..self.marks.len().min((group + 1) * GROUP)];
        self.sums[group].agree(marks, &found[..marks.len()])
    }

    /// As bytes.
    ///
    /// # Errors
    /// No memory.
    pub fn to_bytes(&self) -> crate::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(self.len() * 5);
        varint::put(&mut out, self.len() as u64);
        for pair in self.marks.chunks(2) {
            let pair = u32::from(pair[0]) | u32::from(*pair.get(1).unwrap_or(&0)) << 12;
            out.extend_from_slice(&pair.to_le_bytes()[..3]);
        }
        for sum in self.sums.iter().flat_map(|sums| sums.0) {
            out.extend_from_slice(&sum.get().to_le_bytes());
        }
        let mut lengths = Vec::with_capacity(self.len() * 2);
        let mut begin = 0;
        for end in &self.ends {
            varint::put(&mut lengths, u64::from(end - begin));
            begin = *end;
        }
        out.extend_from_slice(&compress(1, &lengths)?);
        Ok(out)
    }

    /// What [`Self::to_bytes`] wrote; `None` if it is damaged.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let count = varint::take(&mut bytes).filter(|count| *count <= LONGEST)? as usize;
        let (pairs, mut bytes) = bytes.split_at_checked(3 * count.div_ceil(2))?;
        let pairs = pairs.as_chunks().0.iter().map(|[a, b, c]| u32::from_le_bytes([*a, *b, *c, 0]));
        let mut marks: Vec<_> = pairs.flat_map(|pair| [pair as u16 & 0xFFF, (pair >> 12) as u16]).collect();
        marks.truncate(count);
        let mut sums = Vec::with_capacity(count.div_ceil(GROUP));
        for _ in 0..count.div_ceil(GROUP) {
            let mut group = Sums::default();
            for sum in &mut group.0 {
                *sum = Element::from(u64::from_le_bytes(varint::take_bytes(&mut bytes)?));
            }
            sums.push(group);
        }
        let lengths = decompress_document(bytes, 2 * count, 3 * LONGEST).ok()?;
        let (mut lengths, mut end, mut ends) = (lengths.as_slice(), 0_u32, Vec::with_capacity(count));
        for _ in 0..count {
            end = end.checked_add(u32::from(u16::try_from(varint::take(&mut lengths)?).ok()?))?;
            ends.push(end);
        }
        lengths.is_empty().then_some(Self { marks, ends, sums })
    }
}

/// What two units have in common that seem to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Look {
    /// Some bits of its hash.
    pub mark: u16,
    /// In bytes.
    pub length: u16,
}

impl From<&Unit> for Look {
    fn from(unit: &Unit) -> Self {
        Self { mark: unit.hash.mark(), length: unit.length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_back_and_is_refused_when_cut_anywhere() -> crate::Result<()> {
        let unit =
            |n: u64| Unit { hash: Element::from(n.wrapping_mul(0x1234_5678_9ABC_DEF1)), length: 1 + (n % 300) as u16 };
        for count in [0, 1, 63, 64, 65, 200] {
            let units: Vec<Unit> = (0..count).map(unit).collect();
            let sketch = Sketch::of(&units);
            let bytes = sketch.to_bytes()?;
            assert_eq!(Sketch::parse(&bytes).as_ref(), Some(&sketch));
            assert!((0..bytes.len()).all(|length| Sketch::parse(&bytes[..length]).is_none()), "{count}");
            assert!(units.iter().enumerate().all(|(at, unit)| sketch.look(at) == Look::from(unit)));
        }
        Ok(())
    }
}
