//! Finds the extents that hold a given part of the stream, without opening a block twice in a row.

use std::collections::VecDeque;
use std::ops::Range;

use super::{Extent, Extents};

/// How many blocks a [`Finder`] keeps open.
const MAX_OPEN_BLOCKS: usize = 4;

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
    /// The block that was opened last is the last.
    open: VecDeque<OpenBlock>,
    /// What was found last: the index of its block in `open`, and of the extent in that block.
    last: (usize, usize),
}

impl Finder {
    /// A finder in `extents`.
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

    /// Calls `each` with the extents, or parts of them, that hold these bytes of the stream, but
    /// with at most `most`. Returns how many bytes they hold together.
    #[inline]
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

    /// The extent that holds the byte at `position`: the index of its block in `open`, and of the
    /// extent in that block.
    #[inline]
    fn locate(&mut self, position: u64) -> Option<(usize, usize)> {
        let (open, at) = self.last;
        if let Some(block) = self.open.get(open)
            && let Some(at) = [at, at + 1].into_iter().find(|at| block.holds(*at, position))
        {
            self.last = (open, at);
            return Some(self.last);
        }
        let number = self.extents.block_at(position)?;
        let open = match self.open.iter().position(|open| open.number == number) {
            Some(open) => open,
            None => {
                let oldest = if self.open.len() == MAX_OPEN_BLOCKS { self.open.pop_front() } else { None };
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
