//! Where the bytes of a stream lie: extents, byte ranges of packs' contents, in the order of the stream. See "Extents" in `FORMAT.md`.
//!
//! Where rows were changed all over, there are millions. They are kept as they are stored, in compressed blocks of some two bytes
//! an extent, and only a block at a time is opened.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use data_encoding::BASE64;
use zstd::zstd_safe;

use crate::bytes::compress;
use crate::bytes::varint;
use crate::error::Result;

/// Extents of a block.
const BLOCK: usize = 16 << 10;
/// What a block may take as plain bytes.
const MAX_PLAIN: u64 = 1 << 20;
/// A higher level would save three per cent.
const LEVEL: i32 = 3;
/// Blocks that a [`Finder`] has open.
const OPEN: usize = 4;

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

/// Some extents, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    frame: Range<usize>,
    /// Where it begins in the stream.
    begin: u64,
}

/// The extents of a stream, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extents {
    frames: Arc<[u8]>,
    blocks: Arc<[Block]>,
}

impl Extents {
    /// Reads them as a manifest holds them: [`Self::read`] of base64.
    pub fn parse(text: &str, length: u64, content: impl Fn(u32) -> Option<u64>) -> Option<Self> {
        Self::read(BASE64.decode(text.as_bytes()).ok()?, length, content)
    }

    /// Reads blocks. Each extent is inside its pack, whose length `content` tells, and together they are `length` bytes long;
    /// `None` if not.
    pub fn read(frames: impl Into<Arc<[u8]>>, length: u64, content: impl Fn(u32) -> Option<u64>) -> Option<Self> {
        let frames = frames.into();
        let (mut blocks, mut at, mut begin) = (Vec::new(), 0, 0_u64);
        while at < frames.len() {
            let end = at + zstd_safe::find_frame_compressed_size(&frames[at..]).ok()?;
            blocks.push(Block { frame: at..end, begin });
            for extent in open(&frames[at..end])? {
                let inside = extent.offset.checked_add(extent.length)? <= content(extent.pack)?;
                begin = begin.checked_add(extent.length).filter(|_| inside && extent.length > 0)?;
            }
            at = end;
        }
        (begin == length).then(|| Self { frames, blocks: blocks.into() })
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

    fn open(&self, block: usize) -> Option<Vec<Extent>> {
        open(&self.frames[self.blocks.get(block)?.frame.clone()])
    }

    /// All of them, in the stream's order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + Send + use<> {
        let extents = self.clone();
        (0..self.blocks.len()).filter_map(move |block| extents.open(block)).flatten()
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
        let at = self.frames.len();
        self.frames.extend(compress::compress(LEVEL, &columns(&self.pending))?);
        self.blocks.push(Block { frame: at..self.frames.len(), begin: self.begin });
        self.begin += std::mem::take(&mut self.length);
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
        Ok(Extents { frames: self.frames.into(), blocks: self.blocks.into() })
    }
}

/// The ends of the last extents, by pack.
#[derive(Default)]
struct Ends(Vec<u64>);

impl Ends {
    fn of(&mut self, pack: u32) -> Option<&mut u64> {
        // Indexes into the table of a manifest: a few for each GiB.
        let at = usize::try_from(written(pack)).ok().filter(|at| *at < 1 << 24)?;
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0.get_mut(at)
    }
}

/// [`OLDER`] as 0, packs from 1 on.
fn written(pack: u32) -> u64 {
    pack.wrapping_add(1).into()
}

/// The plain bytes of a block.
fn columns(extents: &[Extent]) -> Vec<u8> {
    let (mut out, mut ends) = (Vec::with_capacity(5 * extents.len()), Ends::default());
    varint::put(&mut out, extents.len() as u64);
    extents.iter().for_each(|extent| varint::put(&mut out, written(extent.pack)));
    for extent in extents {
        let Some(end) = ends.of(extent.pack) else { continue };
        varint::put_signed(&mut out, extent.offset.wrapping_sub(*end) as i64);
        *end = extent.offset + extent.length;
    }
    extents.iter().for_each(|extent| varint::put(&mut out, extent.length));
    out
}

/// Reads a block.
fn open(frame: &[u8]) -> Option<Vec<Extent>> {
    let plain = zstd_safe::get_frame_content_size(frame).ok()?.filter(|plain| *plain <= MAX_PLAIN)?;
    let mut bytes = vec![0; plain as usize];
    compress::decompress(frame, &mut bytes).ok()?;
    let (mut input, mut ends) = (bytes.as_slice(), Ends::default());
    let count = varint::take(&mut input).filter(|count| *count <= plain)?;
    let mut extents = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let pack = u32::try_from(varint::take(&mut input)?).ok()?.wrapping_sub(1);
        extents.push(Extent { pack, offset: 0, length: 0 });
    }
    let mut gaps = Vec::with_capacity(count as usize);
    for _ in 0..count {
        gaps.push(varint::take_signed(&mut input)?);
    }
    for (extent, gap) in extents.iter_mut().zip(gaps) {
        extent.length = varint::take(&mut input)?;
        let end = ends.of(extent.pack)?;
        extent.offset = end.checked_add_signed(gap)?;
        *end = extent.offset.checked_add(extent.length)?;
    }
    input.is_empty().then_some(extents)
}

/// Finds extents by where they lie in the stream, mostly one after the other.
#[derive(Debug)]
pub struct Finder {
    extents: Extents,
    /// Blocks by number, each extent with its place in the stream; the newest last.
    open: VecDeque<(usize, Vec<(u64, Extent)>)>,
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
        let holds = |(begin, extent): &&(u64, Extent)| *begin <= position && position < begin + extent.length;
        let (open, at) = self.last;
        if let Some((_, extents)) = self.open.get(open) {
            for at in [at, at + 1] {
                if let Some(found) = extents.get(at).filter(holds) {
                    self.last = (open, at);
                    return Some(*found);
                }
            }
        }
        let block = self.extents.blocks.partition_point(|block| block.begin <= position).checked_sub(1)?;
        let open = match self.open.iter().position(|(number, _)| *number == block) {
            Some(open) => open,
            None => {
                let mut begin = self.extents.blocks[block].begin;
                let placed = self.extents.open(block)?.into_iter().map(|extent| {
                    begin += extent.length;
                    (begin - extent.length, extent)
                });
                if self.open.len() == OPEN {
                    self.open.pop_front();
                }
                self.open.push_back((block, placed.collect()));
                self.open.len() - 1
            }
        };
        let extents = &self.open[open].1;
        let at = extents.partition_point(|(begin, extent)| begin + extent.length <= position);
        self.last = (open, at);
        extents.get(at).copied()
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
            let parsed = Extents::parse(&text, length(&extents), |_| Some(u64::MAX));
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
                let _ = Extents::parse(&BASE64.encode(&bytes), 5, |_| Some(u64::MAX));
            }
        }
    }

    #[test]
    fn millions_take_little_and_are_found_by_their_place() -> Result<()> {
        let all = many();
        let extents = Extents::of(all.iter().copied())?;
        assert_eq!(Extents::parse(&extents.to_text(), length(&all), |_| Some(u64::MAX)), Some(extents.clone()));
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
        let contents = |pack: u32| [1000, 50].get(pack as usize).copied();
        let inside = Extent { pack: 1, offset: 5, length: 45 };
        let parse =
            |extent, length| Ok::<_, crate::Error>(Extents::parse(&Extents::of([extent])?.to_text(), length, contents));
        assert!(parse(inside, 45)?.is_some());
        for (extent, length) in [
            (Extent { length: 46, ..inside }, 46),
            (Extent { pack: 2, ..inside }, 45),
            (Extent { offset: u64::MAX - 45, ..inside }, 45),
            (Extent { length: 0, ..inside }, 0),
            (inside, 44),
        ] {
            assert_eq!(parse(extent, length)?, None, "{extent:?} of {length} passed");
        }
        assert_eq!(Extents::parse("?", 0, contents), None);
        assert!(Extents::parse("", 0, contents).is_some());
        Ok(())
    }
}
