//! A sketch is what the host keeps of a chunk to find its units again: 12 bits and the length of
//! each unit, and eight sums of each group.
//!
//! As bytes, a sketch is the varint number of units; three bytes for every two marks; 64 bytes for
//! the sums of each group; then the lengths in planes (`planes.rs` of the crate `format`),
//! compressed. That is about three bytes a unit.

use lifeboat_format::frames::{compress_by_frequency, decompress_document};
use lifeboat_format::{planes, varint};

use super::parity::{Element, GROUP_UNITS, Sums};
use super::units::Unit;

/// No chunk is longer than this: four times the largest `chunk_size`.
const MAX_CHUNK_BYTES: u64 = 16 << 20;

/// The units of one chunk, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sketch {
    marks: Vec<u16>,
    /// Where each unit ends in the chunk.
    ends: Vec<u32>,
    sums: Vec<Sums>,
}

/// The sketch of these units, as bytes.
///
/// # Errors
/// [`Class::Failed`](lifeboat_base::Class::Failed) if zstd runs out of memory.
pub fn sketch(units: &[Unit]) -> lifeboat_base::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(units.len() * 4 + 100);
    varint::put(&mut out, units.len() as u64);
    let (pairs, last) = units.as_chunks();
    let nothing = Unit { hash: Element::default(), length: 0 };
    for [first, second] in pairs.iter().copied().chain(last.iter().map(|last| [*last, nothing])) {
        let [a, b, c, _] = (u32::from(first.hash.mark()) | u32::from(second.hash.mark()) << 12).to_le_bytes();
        out.extend_from_slice(&[a, b, c]);
    }
    for group in units.chunks(GROUP_UNITS) {
        for sum in Sums::of(group.iter().map(|unit| unit.hash)).0 {
            out.extend_from_slice(&sum.get().to_le_bytes());
        }
    }
    let lengths: Vec<u64> = units.iter().map(|unit| u64::from(unit.length)).collect();
    out.extend_from_slice(&compress_by_frequency(&planes::planes(&lengths).concat())?);
    Ok(out)
}

impl Sketch {
    /// The number of units.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Where a unit begins and ends in the chunk, in bytes.
    #[must_use]
    pub(crate) fn range(&self, unit: usize) -> (u32, u32) {
        (if unit == 0 { 0 } else { self.ends[unit - 1] }, self.ends[unit])
    }

    /// The mark and the length of a unit.
    #[must_use]
    pub(crate) fn look(&self, unit: usize) -> Look {
        let (begin, end) = self.range(unit);
        Look { mark: self.marks[unit], length: (end - begin) as u16 }
    }

    /// Whether the sums of a group agree with the hashes of its units that were found. `None`
    /// stands for a unit that was not found.
    #[must_use]
    pub(crate) fn agrees(&self, group: usize, found: &[Option<Element>; GROUP_UNITS]) -> bool {
        let marks = &self.marks[group * GROUP_UNITS..self.marks.len().min((group + 1) * GROUP_UNITS)];
        self.sums[group].agree(marks, &found[..marks.len()])
    }

    /// Reads what [`sketch`] wrote; `None` if it is damaged.
    #[must_use]
    pub(crate) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let count = varint::take(&mut bytes).filter(|count| *count <= MAX_CHUNK_BYTES)? as usize;
        let (pairs, mut bytes) = bytes.split_at_checked(3 * count.div_ceil(2))?;
        let pairs = pairs.as_chunks().0.iter().map(|[a, b, c]| u32::from_le_bytes([*a, *b, *c, 0]));
        let mut marks: Vec<_> = pairs.flat_map(|pair| [pair as u16 & 0xFFF, (pair >> 12) as u16]).collect();
        marks.truncate(count);
        let mut sums = Vec::with_capacity(count.div_ceil(GROUP_UNITS));
        for _ in 0..count.div_ceil(GROUP_UNITS) {
            let mut group = Sums::default();
            for sum in &mut group.0 {
                *sum = Element::from(u64::from_le_bytes(varint::take_bytes(&mut bytes)?));
            }
            sums.push(group);
        }
        let lengths = decompress_document(bytes, 2 * count, 3 * MAX_CHUNK_BYTES).ok()?;
        let (mut lengths, mut end, mut ends) = (lengths.as_slice(), 0_u32, Vec::with_capacity(count));
        for length in planes::take(&mut lengths, count)? {
            end = end.checked_add(u32::from(u16::try_from(length).ok()?))?;
            ends.push(end);
        }
        lengths.is_empty().then_some(Self { marks, ends, sums })
    }
}

/// What is compared first: two units that look alike are probably equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Look {
    /// 12 bits of the unit's hash.
    pub mark: u16,
    /// The length of the unit, in bytes.
    pub length: u16,
}

impl From<&Unit> for Look {
    fn from(unit: &Unit) -> Self {
        Self { mark: unit.hash.mark(), length: unit.length }
    }
}

#[cfg(test)]
impl Sketch {
    pub(crate) fn of(units: &[Unit]) -> Self {
        sketch(units).ok().and_then(|bytes| Self::parse(&bytes)).unwrap_or_else(|| unreachable!("it parses"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::units::{Fineness, UnitCutter};
    use lifeboat_format::chunk_id::ChunkIdKey;

    #[test]
    fn parses_back_and_is_refused_when_cut_anywhere() -> lifeboat_base::Result<()> {
        let unit =
            |n: u64| Unit { hash: Element::from(n.wrapping_mul(0x1234_5678_9ABC_DEF1)), length: 1 + (n % 300) as u16 };
        for count in [0, 1, 63, 64, 65, 200] {
            let units: Vec<Unit> = (0..count).map(unit).collect();
            let bytes = sketch(&units)?;
            let parsed = Sketch::parse(&bytes).ok_or_else(|| lifeboat_base::Error::failed("not parsed"))?;
            assert_eq!(parsed.len(), units.len());
            assert!(units.iter().enumerate().all(|(at, unit)| parsed.look(at) == Look::from(unit)));
            for (group, units) in units.chunks(GROUP_UNITS).enumerate() {
                let mut found = [None; GROUP_UNITS];
                found.iter_mut().zip(units).for_each(|(found, unit)| *found = Some(unit.hash));
                assert!(parsed.agrees(group, &found));
            }
            assert!((0..bytes.len()).all(|length| Sketch::parse(&bytes[..length]).is_none()), "{count}");
        }
        Ok(())
    }

    #[test]
    fn however_long_rows_are_a_sketch_takes_at_most_a_25th_of_them() -> lifeboat_base::Result<()> {
        let cutter = UnitCutter::new(&ChunkIdKey::new(&[1; 32])?);
        let mut noise = blake3::Hasher::new().finalize_xof();
        let mut next = || {
            let mut bytes = [0; 8];
            noise.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        for (shortest, more) in
            [(20_usize, 1_u64), (40, 1), (84, 1), (85, 1), (20, 20), (30, 60), (50, 40), (60, 80), (84, 30), (20, 200)]
        {
            let mut chunk = Vec::new();
            while chunk.len() < 1 << 20 {
                let mut row = String::new();
                let length = shortest + (next() % more) as usize;
                while row.len() < length {
                    row += &format!("{:x}", next());
                }
                chunk.extend_from_slice(&row.as_bytes()[..length - 1]);
                chunk.push(b'\n');
            }
            let mut units = Vec::new();
            cutter.cut(&chunk, Fineness::SomeLines, &mut units);
            let taken = sketch(&units)?.len() as f64 / chunk.len() as f64;
            assert!(taken < 0.039, "{taken:.4} for rows of {shortest} to {} bytes", shortest as u64 + more - 1);
        }
        Ok(())
    }
}
