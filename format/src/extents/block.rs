//! A block of extents as bytes: a skippable frame, which says how long the extents are and what
//! they reach, then zstd frames with the extents themselves. See "Extents" in `FORMAT.md`.

use std::ops::Range;

use lifeboat_base::Result;
use zstd::zstd_safe;

use super::reach::{self, Reach};
use super::{Bounds, Extent, pack_number};
use crate::frames::{self, SKIPPABLE_MAGIC};
use crate::planes;

/// No block holds more, decompressed.
const MAX_PLAIN_BYTES: u64 = 1 << 20;
/// A higher level would save one per cent.
const EXTENTS_ZSTD_LEVEL: i32 = 1;
/// No part that is compressed by itself is shorter, but the last: a shorter one is joined with the
/// next.
const MIN_PART_BYTES: usize = 1 << 10;

/// A block among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtentBlock {
    pub(crate) reaches: Range<usize>,
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
        let reaches = reach::encode(extents);
        out.extend(SKIPPABLE_MAGIC);
        out.extend((8 + reaches.len() as u32).to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(&reaches);
        let (at, mut plain) = (out.len(), 0);
        for part in parts(extents) {
            plain += part.len() as u64;
            out.extend(frames::compress(EXTENTS_ZSTD_LEVEL, &part)?);
        }
        let places = begin..begin + length;
        Ok(Self { reaches: at - reaches.len()..at, frames: at..out.len(), plain, places })
    }

    /// The block at `at` of `bytes`, which starts at `begin` in the stream, and where the next
    /// block lies in `bytes`.
    pub(crate) fn find(bytes: &[u8], at: usize, begin: u64) -> Option<(Self, usize)> {
        let (magic, rest) = bytes.get(at..)?.split_first_chunk()?;
        let (told, rest) = rest.split_first_chunk()?;
        let told = (u32::from_le_bytes(*told) as usize).checked_sub(8).filter(|_| *magic == SKIPPABLE_MAGIC)?;
        let (length, rest) = rest.split_first_chunk()?;
        let (frames, mut rest, mut plain) = (at + 16 + told, rest.get(told..)?, 0);
        while !rest.is_empty() && !rest.starts_with(&SKIPPABLE_MAGIC) {
            plain += zstd_safe::get_frame_content_size(rest).ok()?.filter(|plain| *plain <= MAX_PLAIN_BYTES)?;
            rest = rest.get(zstd_safe::find_frame_compressed_size(rest).ok()?..)?;
        }
        let (end, places) = (bytes.len() - rest.len(), begin..begin.checked_add(u64::from_le_bytes(*length))?);
        Some((Self { reaches: at + 16..frames, frames: frames..end, plain, places }, end))
    }

    /// What its extents reach, as it says before them; empty if it does not say, or is damaged.
    pub(crate) fn reaches(&self, bytes: &[u8]) -> Vec<Reach> {
        reach::decode(&bytes[self.reaches.clone()]).unwrap_or_default()
    }

    /// Reads its extents into `extents`; `None` if it is damaged, or an extent is outside `bounds`.
    pub(crate) fn open(&self, bytes: &[u8], bounds: Option<&Bounds>, extents: &mut Vec<Extent>) -> Option<()> {
        extents.clear();
        let mut plain = vec![0; usize::try_from(self.plain).ok().filter(|_| self.plain <= MAX_PLAIN_BYTES)?];
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
    let count = u32::from_le_bytes(*count) as usize;
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
