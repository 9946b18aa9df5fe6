//! Where the bytes of a stream lie: extents, which are byte ranges of packs' contents, in the order
//! of the stream. See "Extents" in `FORMAT.md`.
//!
//! A table whose rows were changed all over has millions of them. So extents stay in memory as they
//! are stored: in compressed blocks, at about two bytes an extent. A block is opened and checked
//! only when it is needed. At a damaged block, reading extents ends early.

mod block;
mod finder;
mod pack_number;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use self::block::ExtentBlock;
use crate::Format;
pub use crate::extents::finder::Finder;
pub(crate) use crate::extents::pack_number::max_packs;
use lifeboat_base::Result;

/// No block has more extents.
pub const MAX_BLOCK_EXTENTS: usize = 16 << 10;

/// The number that an extent has instead of a pack's if it lies in the older stream of a
/// [map](crate::map).
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
    /// Whether these bytes exist.
    fn hold(&self, pack: u32, places: Range<u64>) -> bool {
        let content = if pack == OLDER { Some(&self.older) } else { self.packs.get(pack as usize) };
        content.is_some_and(|content| !places.is_empty() && places.end <= *content)
    }
}

/// The extents of a stream.
#[derive(Debug, Clone, Default)]
pub struct Extents {
    frames: Bytes,
    blocks: Arc<[ExtentBlock]>,
    /// `None` for extents that were made here and not read.
    bounds: Option<Bounds>,
}

impl Extents {
    /// Reads blocks of extents, without opening them. `None` if the blocks do not say that their
    /// extents are `length` bytes long together.
    pub fn read(frames: impl Into<Bytes>, length: u64, bounds: Bounds) -> Option<Self> {
        Self::read_as(Format::Two, frames.into(), length, bounds)
    }

    /// As [`Self::read`], of either format.
    pub(crate) fn read_as(format: Format, frames: Bytes, length: u64, bounds: Bounds) -> Option<Self> {
        let (mut blocks, mut at, mut begin) = (Vec::new(), 0, 0);
        while at < frames.len() {
            let (block, next) = ExtentBlock::find(&frames, at, begin, format)?;
            (at, begin) = (next, block.places.end);
            blocks.push(block);
        }
        (begin == length).then(|| Self { frames, blocks: blocks.into(), bounds: Some(bounds) })
    }

    /// The extents as blocks, one after the other.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.frames
    }

    /// Collects `extents`, which are in the stream's order.
    ///
    /// # Errors
    /// No memory.
    pub fn of(extents: impl IntoIterator<Item = Extent>) -> Result<Self> {
        let mut writer = ExtentsWriter::default();
        extents.into_iter().try_for_each(|extent| writer.push(extent))?;
        writer.finish()
    }

    /// How long the stream is.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.places.end)
    }

    /// Opens and checks every block. Whether all of them are undamaged.
    #[must_use]
    pub fn are_whole(&self) -> bool {
        let mut opened = Vec::new();
        (0..self.blocks.len()).all(|block| {
            self.open(block, &mut opened);
            opened.is_empty() == self.blocks[block].places.is_empty()
        })
    }

    /// How many blocks there are.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Reads the extents of a block into `extents`; none if the block is damaged.
    pub(crate) fn open(&self, block: usize, extents: &mut Vec<Extent>) {
        if self.blocks[block].open(&self.frames, self.bounds.as_ref(), extents).is_none() {
            extents.clear();
        }
    }

    /// The block whose extents hold this byte of the stream.
    #[must_use]
    pub(crate) fn block_at(&self, position: u64) -> Option<usize> {
        let block = self.blocks.partition_point(|block| block.places.end <= position);
        (block < self.blocks.len()).then_some(block)
    }

    /// All extents, in the stream's order; only those before the first damaged block, if there is
    /// one.
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

/// Collects extents as they come, and compresses them block by block.
#[derive(Debug, Default)]
pub struct ExtentsWriter {
    pending: Vec<Extent>,
    frames: Vec<u8>,
    blocks: Vec<ExtentBlock>,
    /// The length of all extents that are in blocks.
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
                if self.pending.len() == MAX_BLOCK_EXTENTS {
                    self.close()?;
                }
                self.pending.push(extent);
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let block = ExtentBlock::write(&self.pending, self.begin, &mut self.frames)?;
        self.begin = block.places.end;
        self.blocks.push(block);
        self.pending.clear();
        Ok(())
    }

    /// All extents that were appended.
    ///
    /// # Errors
    /// No memory.
    pub fn finish(mut self) -> Result<Extents> {
        if !self.pending.is_empty() {
            self.close()?;
        }
        Ok(Extents { frames: self.frames.into(), blocks: self.blocks.into(), bounds: None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frames;

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
        (0..3 * MAX_BLOCK_EXTENTS as u64 - 5).map(extent).collect()
    }

    proptest! {
        #[test]
        fn come_back_as_they_were(extents in some()) {
            let bytes = Extents::of(extents.iter().copied())?.bytes().clone();
            let parsed = Extents::read(bytes, length(&extents), far());
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
            let framed = frames::compress(1, &bytes)?;
            for bytes in [bytes, framed] {
                let block = [&frames::SKIPPABLE_MAGIC[..], &8_u32.to_le_bytes(), &5_u64.to_le_bytes(), &bytes].concat();
                for bytes in [bytes, block] {
                    let parsed = Extents::read(bytes, 5, far());
                    prop_assert!(parsed.is_none_or(|extents| extents.iter().map(|extent| extent.length).sum::<u64>() <= 5));
                }
            }
        }
    }

    #[test]
    fn millions_take_little_and_are_found_by_their_place() -> Result<()> {
        let all = many();
        let extents = Extents::of(all.iter().copied())?;
        let parsed = Extents::read(extents.bytes().clone(), length(&all), far());
        assert!(parsed.is_some_and(|parsed| parsed.iter().eq(all.iter().copied())));
        assert!(extents.iter().eq(all.iter().copied()));
        assert!(extents.bytes().len() < 9 * all.len() / 4, "{} bytes for {}", extents.bytes().len(), all.len());
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
            let parsed = Extents::read(Extents::of([extent])?.bytes().clone(), length, bounds.clone());
            Ok::<_, lifeboat_base::Error>(
                !parsed.is_some_and(|extents| extents.are_whole() && extents.iter().eq([extent])),
            )
        };
        assert!(!refused(inside, 45)?);
        for (extent, length) in [
            (Extent { length: 46, ..inside }, 46),
            (Extent { pack: 2, ..inside }, 45),
            (Extent { pack: (1 << 24) - 2, ..inside }, 45),
            (Extent { offset: u64::MAX - 45, ..inside }, 45),
            (Extent { length: 0, ..inside }, 0),
            (inside, 44),
        ] {
            assert!(refused(extent, length)?, "{extent:?} of {length} passed");
        }
        assert!(Extents::read(&b"?"[..], 0, bounds.clone()).is_none());
        assert!(Extents::read(&b""[..], 0, bounds).is_some());
        Ok(())
    }

    #[test]
    fn in_format_1_blocks_say_more_and_may_be_empty() -> Result<()> {
        let extents = Extents::of([Extent { pack: 1, offset: 5, length: 45 }])?;
        let block = |more: &[u8], length: u64, frames: &[u8]| {
            let told = (8 + more.len() as u32).to_le_bytes();
            Bytes::from([&frames::SKIPPABLE_MAGIC[..], &told, &length.to_le_bytes(), more, frames].concat())
        };
        let none = frames::compress(1, &0_u32.to_le_bytes())?;
        for (bytes, length) in [(block(&[1, 2, 5, 45, 45], 45, &extents.bytes()[16..]), 45), (block(&[0], 0, &none), 0)]
        {
            let read = |format| Extents::read_as(format, bytes.clone(), length, far());
            assert!(read(Format::One).is_some_and(|read| read.are_whole() && read.length() == length));
            assert!(read(Format::Two).is_none());
        }
        Ok(())
    }

    #[test]
    fn a_block_that_is_not_as_long_as_it_says_ends_what_is_read() -> Result<()> {
        let all = many();
        let extents = Extents::of(all.iter().copied())?;
        let (mut bytes, second) = (extents.bytes().to_vec(), extents.blocks[1].clone());
        // The first block takes a byte of the second: the sum is as before.
        for (at, change) in [(16, 1), (second.begins(), u64::MAX)] {
            let length = u64::from_le_bytes(bytes[at - 8..at].try_into().unwrap_or_default()).wrapping_add(change);
            bytes[at - 8..at].copy_from_slice(&length.to_le_bytes());
        }
        let parsed = Extents::read(bytes, length(&all), far()).unwrap_or_default();
        assert_eq!((parsed.blocks.len(), parsed.iter().count(), parsed.are_whole()), (3, 0, false));
        assert_eq!(Finder::new(parsed).find(second.places.start + 5), None);
        Ok(())
    }
}
