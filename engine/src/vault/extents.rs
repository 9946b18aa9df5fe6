//! Where the bytes of a stream lie: extents, byte ranges of packs' contents, in the order of the stream. See "Extents" in `FORMAT.md`.
//!
//! Where rows were changed all over, there are millions. They are kept as they are stored, in compressed blocks of some two bytes
//! an extent, and only a block at a time is opened, and then checked: whoever reads extents comes to an early end at a block that is damaged.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use data_encoding::BASE64;
use zstd::zstd_safe;

use crate::bytes::compress;
use crate::bytes::varint;
use crate::error::Result;

/// Extents of a block.
pub(super) const BLOCK: usize = 16 << 10;
/// What a block may take as plain bytes.
const MAX_PLAIN: u64 = 1 << 20;
/// A higher level would save three per cent.
const LEVEL: i32 = 3;
/// Blocks that a [`Finder`] has open.
const OPEN: usize = 4;
/// Before each block, a skippable frame of eight bytes: how long its extents are together.
const HEADER: [u8; 8] = [0x50, 0x2A, 0x4D, 0x18, 8, 0, 0, 0];

/// What an extent names instead of a pack if it lies in the older stream that a map tells of (`map.rs`).
pub const OLDER: u32 = u32::MAX;

/// A byte range of one pack's content, or of an older stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index into a table of packs, or [`OLDER`].
    pub pack: u32,
    /// Where it begins in the pack's content.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// How far extents may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The lengths of the packs' contents, by number.
    pub packs: Arc<[u64]>,
    /// The length of the older stream; 0 if there is none.
    pub older: u64,
}

impl Bounds {
    /// Whether there are these bytes.
    fn hold(&self, extent: &Extent) -> bool {
        let content = if extent.pack == OLDER { Some(&self.older) } else { self.packs.get(extent.pack as usize) };
        let end = extent.offset.checked_add(extent.length);
        extent.length > 0 && content.zip(end).is_some_and(|(content, end)| end <= *content)
    }
}

/// Some extents, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    frame: Range<usize>,
    /// Where it begins and ends in the stream.
    places: Range<u64>,
}

/// The extents of a stream.
#[derive(Debug, Clone, Default)]
pub struct Extents {
    frames: Arc<[u8]>,
    blocks: Arc<[Block]>,
    /// `None`: made here.
    bounds: Option<Bounds>,
}

impl Extents {
    /// Reads them as a manifest holds them: [`Self::read`] of base64.
    pub fn parse(text: &str, length: u64, bounds: Bounds) -> Option<Self> {
        Self::read(BASE64.decode(text.as_bytes()).ok()?, length, bounds)
    }

    /// Blocks whose extents are `length` bytes long together, by what stands before the blocks; `None` if not.
    pub fn read(frames: impl Into<Arc<[u8]>>, length: u64, bounds: Bounds) -> Option<Self> {
        let frames = frames.into();
        let (mut blocks, mut at, mut begin) = (Vec::new(), 0, 0_u64);
        while at < frames.len() {
            let (header, rest) = frames[at..].split_first_chunk::<8>().filter(|(header, _)| **header == HEADER)?;
            let (length, rest) = rest.split_first_chunk::<8>()?;
            let frame = at + header.len() + length.len();
            let end = begin.checked_add(u64::from_le_bytes(*length))?;
            at = frame + zstd_safe::find_frame_compressed_size(rest).ok()?;
            blocks.push(Block { frame: frame..at, places: begin..end });
            begin = end;
        }
        (begin == length).then(|| Self { frames, blocks: blocks.into(), bounds: Some(bounds) })
    }

    /// As a manifest holds them.
    #[must_use]
    pub fn to_text(&self) -> String {
        BASE64.encode(&self.frames)
    }

    /// As blocks.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.frames
    }

    /// Of these.
    ///
    /// # Errors
    /// No memory.
    pub fn of(extents: impl IntoIterator<Item = Extent>) -> Result<Self> {
        let mut writer = ExtentsWriter::default();
        extents.into_iter().try_for_each(|extent| writer.push(extent))?;
        writer.finish()
    }

    /// How many blocks there are.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// How long the stream is.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.places.end)
    }

    /// Whether all blocks are as they should be.
    #[must_use]
    pub fn are_whole(&self) -> bool {
        self.iter().map(|extent| extent.length).sum::<u64>() == self.length()
    }

    /// Reads a block into `extents`; nothing of one that is damaged.
    fn open(&self, block: usize, extents: &mut Vec<Extent>) {
        let Block { frame, places } = &self.blocks[block];
        let good = open(&self.frames[frame.clone()], extents).is_some()
            && extents.iter().try_fold(places.start, |at, extent| at.checked_add(extent.length)) == Some(places.end)
            && self.bounds.as_ref().is_none_or(|bounds| extents.iter().all(|extent| bounds.hold(extent)));
        if !good {
            extents.clear();
        }
    }

    /// All of them, in the stream's order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + Send + use<> {
        let extents = self.clone();
        let blocks = (0..self.blocks.len()).map(move |block| {
            let mut opened = Vec::new();
            extents.open(block, &mut opened);
            (!opened.is_empty()).then_some(opened)
        });
        blocks.map_while(|opened| opened).flatten()
    }
}

/// Takes extents as they come.
#[derive(Debug, Default)]
pub struct ExtentsWriter {
    pending: Vec<Extent>,
    /// How long those are.
    length: u64,
    frames: Vec<u8>,
    blocks: Vec<Block>,
    /// How long all in blocks are.
    begin: u64,
}

impl ExtentsWriter {
    /// Appends `extent`, merged with the last one where it continues it.
    ///
    /// # Errors
    /// No memory.
    pub fn push(&mut self, extent: Extent) -> Result<()> {
        match self.pending.last_mut() {
            Some(last) if last.pack == extent.pack && last.offset + last.length == extent.offset => {
                last.length += extent.length;
            }
            _ => {
                if self.pending.len() == BLOCK {
                    self.close()?;
                }
                self.pending.push(extent);
            }
        }
        self.length += extent.length;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let places = self.begin..self.begin + std::mem::take(&mut self.length);
        self.frames.extend(HEADER);
        self.frames.extend((places.end - places.start).to_le_bytes());
        let at = self.frames.len();
        self.frames.extend(compress::compress(LEVEL, &columns(&self.pending))?);
        self.begin = places.end;
        self.blocks.push(Block { frame: at..self.frames.len(), places });
        self.pending.clear();
        Ok(())
    }

    /// All that were appended.
    ///
    /// # Errors
    /// No memory.
    pub fn finish(mut self) -> Result<Extents> {
        // One block at least, so that `zstd` has something to read.
        if !self.pending.is_empty() || self.blocks.is_empty() {
            self.close()?;
        }
        Ok(Extents { frames: self.frames.into(), blocks: self.blocks.into(), bounds: None })
    }
}

/// Packs that a manifest's table may have: a few for each GiB.
const MOST_PACKS: u64 = 1 << 24;

/// [`OLDER`] as 0, packs from 1 on.
fn written(pack: u32) -> u64 {
    pack.wrapping_add(1).into()
}

/// The ends of the last extents, by what is [`written`] of their pack, the largest of which is `last`.
fn ends(last: u64) -> Vec<u64> {
    vec![0; last as usize + 1]
}

/// The plain bytes of a block.
fn columns(extents: &[Extent]) -> Vec<u8> {
    let mut ends = ends(extents.iter().map(|extent| written(extent.pack)).max().unwrap_or_default());
    let mut out = Vec::with_capacity(5 * extents.len());
    varint::put(&mut out, extents.len() as u64);
    extents.iter().for_each(|extent| varint::put(&mut out, written(extent.pack)));
    for extent in extents {
        let end = &mut ends[written(extent.pack) as usize];
        varint::put_signed(&mut out, extent.offset.wrapping_sub(*end) as i64);
        *end = extent.offset + extent.length;
    }
    extents.iter().for_each(|extent| varint::put(&mut out, extent.length));
    out
}

/// Reads a block into `extents`.
fn open(frame: &[u8], extents: &mut Vec<Extent>) -> Option<()> {
    extents.clear();
    let plain = zstd_safe::get_frame_content_size(frame).ok()?.filter(|plain| *plain <= MAX_PLAIN)?;
    let mut bytes = vec![0; plain as usize];
    compress::decompress(frame, &mut bytes).ok()?;
    let mut input = bytes.as_slice();
    let count = varint::take(&mut input).filter(|count| *count <= plain)?;
    extents.reserve(count as usize);
    let mut last = 0;
    for _ in 0..count {
        let pack = varint::take(&mut input)?;
        last = last.max(pack);
        extents.push(Extent { pack: (pack as u32).wrapping_sub(1), offset: 0, length: 0 });
    }
    let mut ends = if last < MOST_PACKS { ends(last) } else { return None };
    // The gap, until the length is known.
    for extent in &mut *extents {
        extent.offset = varint::take_signed(&mut input)? as u64;
    }
    for extent in &mut *extents {
        let end = &mut ends[written(extent.pack) as usize];
        extent.length = varint::take(&mut input)?;
        extent.offset = end.checked_add_signed(extent.offset as i64)?;
        *end = extent.offset.checked_add(extent.length)?;
    }
    input.is_empty().then_some(())
}

/// A block that a [`Finder`] has open.
#[derive(Debug, Default)]
struct OpenBlock {
    number: usize,
    extents: Vec<Extent>,
    /// Where each begins in the stream.
    begins: Vec<u64>,
}

/// Finds extents by where they lie in the stream, mostly one after the other.
#[derive(Debug)]
pub struct Finder {
    extents: Extents,
    /// The newest last.
    open: VecDeque<OpenBlock>,
    /// What was found last: in which of these blocks, and where in it.
    last: (usize, usize),
}

impl Finder {
    /// Of these.
    #[must_use]
    pub fn new(extents: Extents) -> Self {
        Self { extents, open: VecDeque::new(), last: (0, 0) }
    }

    /// The extent that holds the byte at `position` of the stream, and where it begins there.
    pub fn find(&mut self, position: u64) -> Option<(u64, Extent)> {
        let (open, at) = self.locate(position)?;
        let block = &self.open[open];
        Some((block.begins[at], block.extents[at]))
    }

    /// Shows `each` the extents, or parts of them, that hold these bytes of the stream, at most `most`; says how many bytes they
    /// hold.
    pub fn show(&mut self, places: Range<u64>, most: usize, mut each: impl FnMut(Extent)) -> u64 {
        let (mut position, mut shown) = (places.start, 0);
        while position < places.end
            && shown < most
            && let Some((open, at)) = self.locate(position)
        {
            let block = &self.open[open];
            let (mut next, mut skipped) = (at, position - block.begins[at]);
            for extent in block.extents[at..].iter().take(most - shown) {
                let length = (extent.length - skipped).min(places.end - position);
                each(Extent { offset: extent.offset + skipped, length, ..*extent });
                (next, shown, skipped) = (next + 1, shown + 1, 0);
                position += length;
                if position == places.end {
                    break;
                }
            }
            self.last = (open, next - 1);
        }
        position - places.start
    }

    /// Which block that is open, and which extent in it, holds the byte at `position`.
    fn locate(&mut self, position: u64) -> Option<(usize, usize)> {
        let (open, at) = self.last;
        if let Some(block) = self.open.get(open)
            && let Some(at) = [at, at + 1].into_iter().find(|at| block.holds(*at, position))
        {
            self.last = (open, at);
            return Some(self.last);
        }
        let number = self.extents.blocks.partition_point(|block| block.places.end <= position);
        let open = match self.open.iter().position(|open| open.number == number) {
            Some(open) => open,
            None if number == self.extents.blocks.len() => return None,
            None => {
                let oldest = if self.open.len() == OPEN { self.open.pop_front() } else { None };
                let mut block = oldest.unwrap_or_default();
                block.open(&self.extents, number);
                self.open.push_back(block);
                self.open.len() - 1
            }
        };
        let block = &self.open[open];
        let at = block.begins.partition_point(|begin| *begin <= position).checked_sub(1)?;
        self.last = (open, at);
        block.holds(at, position).then_some(self.last)
    }
}

impl OpenBlock {
    fn open(&mut self, extents: &Extents, number: usize) {
        self.number = number;
        extents.open(number, &mut self.extents);
        let mut begin = extents.blocks[number].places.start;
        self.begins.clear();
        self.begins.extend(self.extents.iter().map(|extent| {
            begin += extent.length;
            begin - extent.length
        }));
    }

    fn holds(&self, at: usize, position: u64) -> bool {
        let end = |begin: &u64| begin + self.extents[at].length;
        self.begins.get(at).is_some_and(|begin| *begin <= position && position < end(begin))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn length(extents: &[Extent]) -> u64 {
        extents.iter().map(|extent| extent.length).sum()
    }

    fn some() -> impl Strategy<Value = Vec<Extent>> {
        let extent = (prop_oneof![0_u32..200, Just(OLDER)], 0_u64..1 << 40, 1_u64..1 << 30);
        let extent = extent.prop_map(|(pack, offset, length)| Extent { pack, offset, length });
        prop::collection::vec(extent, 0..100)
    }

    fn far() -> Bounds {
        Bounds { packs: [u64::MAX; 200].into(), older: u64::MAX }
    }

    /// Pieces of two packs in turn, enough for several blocks.
    fn many() -> Vec<Extent> {
        let extent = |n: u64| match n % 2 {
            0 => Extent { pack: 3, offset: n * 500, length: 900 + n % 7 },
            _ => Extent { pack: 1, offset: n * 40, length: 60 },
        };
        (0..3 * BLOCK as u64 - 5).map(extent).collect()
    }

    proptest! {
        #[test]
        fn come_back_as_they_were(extents in some()) {
            let text = Extents::of(extents.iter().copied())?.to_text();
            let parsed = Extents::parse(&text, length(&extents), far());
            let mut merged: Vec<Extent> = Vec::new();
            for extent in extents {
                match merged.last_mut() {
                    Some(last) if last.pack == extent.pack && last.offset + last.length == extent.offset => last.length += extent.length,
                    _ => merged.push(extent),
                }
            }
            prop_assert_eq!(parsed.map(|parsed| parsed.iter().collect::<Vec<_>>()), Some(merged));
        }

        #[test]
        fn whatever_else_is_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let framed = compress::compress(1, &bytes)?;
            for bytes in [bytes, framed] {
                let block = [&HEADER[..], &5_u64.to_le_bytes(), &bytes].concat();
                for bytes in [bytes, block] {
                    let parsed = Extents::parse(&BASE64.encode(&bytes), 5, far());
                    prop_assert!(parsed.is_none_or(|extents| extents.iter().map(|extent| extent.length).sum::<u64>() <= 5));
                }
            }
        }
    }

    #[test]
    fn millions_take_little_and_are_found_by_their_place() -> Result<()> {
        let all = many();
        let extents = Extents::of(all.iter().copied())?;
        let parsed = Extents::parse(&extents.to_text(), length(&all), far());
        assert!(parsed.is_some_and(|parsed| parsed.iter().eq(all.iter().copied())));
        assert!(extents.iter().eq(all.iter().copied()));
        assert!(extents.to_text().len() < 3 * all.len(), "{} bytes for {}", extents.to_text().len(), all.len());
        let (mut finder, mut begin) = (Finder::new(extents), 0);
        for extent in all {
            assert_eq!(finder.find(begin), Some((begin, extent)));
            begin += extent.length;
            assert_eq!(finder.find(begin - 1).map(|(_, found)| found), Some(extent));
        }
        assert_eq!(finder.find(begin), None);
        assert_eq!(finder.find(0).map(|(begin, _)| begin), Some(0));
        assert_eq!(Finder::new(Extents::default()).find(0), None);
        Ok(())
    }

    #[test]
    fn refuses_extents_outside_their_pack_or_of_another_sum() -> Result<()> {
        let bounds = Bounds { packs: [1000, 50].into(), older: 0 };
        let inside = Extent { pack: 1, offset: 5, length: 45 };
        let refused = |extent, length| {
            let parsed = Extents::parse(&Extents::of([extent])?.to_text(), length, bounds.clone());
            Ok::<_, crate::Error>(!parsed.is_some_and(|extents| extents.are_whole() && extents.iter().eq([extent])))
        };
        assert!(!refused(inside, 45)?);
        for (extent, length) in [
            (Extent { length: 46, ..inside }, 46),
            (Extent { pack: 2, ..inside }, 45),
            (Extent { offset: u64::MAX - 45, ..inside }, 45),
            (Extent { length: 0, ..inside }, 0),
            (inside, 44),
        ] {
            assert!(refused(extent, length)?, "{extent:?} of {length} passed");
        }
        assert!(Extents::parse("?", 0, bounds.clone()).is_none());
        assert!(Extents::parse("", 0, bounds).is_some());
        Ok(())
    }

    #[test]
    fn a_block_that_is_not_as_long_as_it_says_ends_what_is_read() -> Result<()> {
        let all = many();
        let extents = Extents::of(all.iter().copied())?;
        let (mut bytes, second) = (extents.bytes().to_vec(), extents.blocks[1].clone());
        // The first block takes a byte of the second: the sum is as before.
        for (frame, change) in [(extents.blocks[0].frame.start, 1), (second.frame.start, u64::MAX)] {
            let length =
                u64::from_le_bytes(bytes[frame - 8..frame].try_into().unwrap_or_default()).wrapping_add(change);
            bytes[frame - 8..frame].copy_from_slice(&length.to_le_bytes());
        }
        let parsed = Extents::read(bytes, length(&all), far()).unwrap_or_default();
        assert_eq!((parsed.blocks(), parsed.iter().count(), parsed.are_whole()), (3, 0, false));
        assert_eq!(Finder::new(parsed).find(second.places.start + 5), None);
        Ok(())
    }
}
