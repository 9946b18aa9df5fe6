//! A block of extents as bytes: a skippable frame, which says how long the extents are, then zstd
//! frames with the extents themselves. See "Extents" in `FORMAT.md`.

use std::ops::Range;

use lifeboat_base::Result;

use super::{Bounds, Extent, MAX_BLOCK_EXTENTS, pack_number};
use crate::Format;
use crate::frames::{self, SKIPPABLE_MAGIC};
use crate::planes;

/// No block holds more, decompressed.
const MAX_PLAIN_BYTES: u64 = 1 << 20;
/// The payload of the frame that begins a block: the length of its extents.
const LENGTH_BYTES: u32 = 8;
/// A higher level would save one per cent.
const EXTENTS_ZSTD_LEVEL: i32 = 1;
/// No part that is compressed by itself is shorter, but the last: a shorter one is joined with the
/// next.
const MIN_PART_BYTES: usize = 1 << 10;

/// A block among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtentBlock {
    frames: Range<usize>,
    /// How many bytes they hold, decompressed.
    plain: u64,
    /// Where it begins and ends in the stream.
    pub(crate) places: Range<u64>,
}

impl ExtentBlock {
    /// Appends a block with these extents to `out`; in the stream it starts at `begin`.
    pub(crate) fn write(extents: &[Extent], begin: u64, out: &mut Vec<u8>) -> Result<Self> {
        let length: u64 = extents.iter().map(|extent| extent.length).sum();
        out.extend(SKIPPABLE_MAGIC);
        out.extend(LENGTH_BYTES.to_le_bytes());
        out.extend(length.to_le_bytes());
        let (at, mut plain) = (out.len(), 0);
        for part in parts(extents) {
            plain += part.len() as u64;
            out.extend(frames::compress(EXTENTS_ZSTD_LEVEL, &part)?);
        }
        let places = begin..begin + length;
        Ok(Self { frames: at..out.len(), plain, places })
    }

    /// The block at `at` of `bytes`, which starts at `begin` in the stream, and where the next
    /// block lies in `bytes`.
    pub(crate) fn find(bytes: &[u8], at: usize, begin: u64, format: Format) -> Option<(Self, usize)> {
        let (magic, rest) = bytes.get(at..)?.split_first_chunk()?;
        let (told, rest) = rest.split_first_chunk()?;
        let told = u32::from_le_bytes(*told);
        let (length, rest) = rest.split_first_chunk()?;
        let length = u64::from_le_bytes(*length);
        // In format 1, more follows the length, which no reader needs, and a block may be empty.
        let more = match format {
            Format::One => told.checked_sub(LENGTH_BYTES)?,
            Format::Two => (told == LENGTH_BYTES && length > 0).then_some(0)?,
        };
        let (mut rest, mut plain) = (rest.get(more as usize..)?, 0_u64);
        let frames = bytes.len() - rest.len();
        while !rest.is_empty() && !rest.starts_with(&SKIPPABLE_MAGIC) {
            let (content, length) = frames::measure(rest)?;
            plain = plain.checked_add(content).filter(|plain| *plain <= MAX_PLAIN_BYTES)?;
            rest = &rest[length..];
        }
        let (end, places) = (bytes.len() - rest.len(), begin..begin.checked_add(length)?);
        (*magic == SKIPPABLE_MAGIC).then_some((Self { frames: frames..end, plain, places }, end))
    }

    /// Where its frames begin, right after its length.
    #[cfg(test)]
    pub(crate) fn begins(&self) -> usize {
        self.frames.start
    }

    /// Reads its extents into `extents`; `None` if it is damaged, or an extent is outside `bounds`.
    pub(crate) fn open(&self, bytes: &[u8], bounds: Option<&Bounds>, extents: &mut Vec<Extent>) -> Option<()> {
        extents.clear();
        let mut plain = vec![0; self.plain as usize];
        frames::decompress(&bytes[self.frames.clone()], &mut plain).ok()?;
        let length = read(&plain, bounds, extents)?;
        (self.places.start.checked_add(length) == Some(self.places.end)).then_some(())
    }
}

/// Where the extents of each pack begin in a list that is sorted by pack and, within a pack, keeps
/// the order of the stream.
fn places(packs: &[u64]) -> Vec<u32> {
    let mut places = vec![0; packs.iter().max().map_or(0, |last| *last as usize + 1)];
    packs.iter().for_each(|pack| places[*pack as usize] += 1);
    let mut sum = 0;
    for place in &mut places {
        (*place, sum) = (sum, sum + *place);
    }
    places
}

/// Takes the next place of a pack.
fn next(places: &mut [u32], pack: u64) -> usize {
    let place = &mut places[pack as usize];
    *place += 1;
    *place as usize - 1
}

/// The plain bytes of a block, in parts that compress well by themselves.
fn parts(extents: &[Extent]) -> Vec<Vec<u8>> {
    let packs: Vec<u64> = extents.iter().map(|extent| pack_number::encode(extent.pack)).collect();
    let mut places = places(&packs);
    let mut ends = vec![0; places.len()];
    let (mut gaps, mut lengths) = (vec![0; packs.len()], vec![0; packs.len()]);
    for (extent, pack) in extents.iter().zip(&packs) {
        let (at, end) = (next(&mut places, *pack), &mut ends[*pack as usize]);
        gaps[at] = unsigned(extent.offset.wrapping_sub(*end) as i64);
        lengths[at] = extent.length;
        *end = extent.offset + extent.length;
    }
    let mut parts = vec![(extents.len() as u32).to_le_bytes().to_vec()];
    for part in [packs, gaps, lengths].iter().flat_map(|numbers| planes::planes(numbers)) {
        match parts.last_mut() {
            Some(last) if last.len() < MIN_PART_BYTES => last.extend(part),
            _ => parts.push(part),
        }
    }
    parts
}

/// Reads the extents of a block from its plain bytes. Returns the sum of their lengths.
fn read(mut plain: &[u8], bounds: Option<&Bounds>, extents: &mut Vec<Extent>) -> Option<u64> {
    let (count, rest) = plain.split_first_chunk()?;
    let count = Some(u32::from_le_bytes(*count) as usize).filter(|count| *count <= MAX_BLOCK_EXTENTS)?;
    plain = rest;
    let packs = planes::take(&mut plain, count)?;
    let (mut offsets, lengths) = (planes::take(&mut plain, count)?, planes::take(&mut plain, count)?);
    // Room is made for as many packs as the largest number says, so for none that there is not.
    let known = bounds.map_or(u64::MAX, |bounds| bounds.packs.len() as u64 + 1);
    if !plain.is_empty() || !packs.iter().all(|pack| pack_number::is_legal(*pack) && *pack < known) {
        return None;
    }
    let mut places = places(&packs);
    let (mut begin, mut sum) = (0, 0_u64);
    let ends = places.iter().skip(1).map(|end| *end as usize).chain([count]);
    for (pack, end) in (0..).zip(ends) {
        let (mut at, mut furthest, mut shortest) = (0_u64, 0, u64::MAX);
        for (offset, length) in offsets[begin..end].iter_mut().zip(&lengths[begin..end]) {
            *offset = at.checked_add_signed(signed(*offset))?;
            at = offset.checked_add(*length)?;
            sum = sum.checked_add(*length)?;
            (furthest, shortest) = (furthest.max(at), shortest.min(*length));
        }
        let within = |bounds: &Bounds| shortest > 0 && bounds.hold(pack_number::decode(pack), 0..furthest);
        if end > begin && !bounds.is_none_or(within) {
            return None;
        }
        begin = end;
    }
    extents.extend(packs.iter().map(|pack| {
        let at = next(&mut places, *pack);
        Extent { pack: pack_number::decode(*pack), offset: offsets[at], length: lengths[at] }
    }));
    Some(sum)
}

/// 2n or, if it is negative, −2n − 1.
fn unsigned(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// The reverse.
fn signed(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
