//! The plan of a stream: spans, parts of the stream one after the other, each of which a few packs hold.
//!
//! The stream of a fresh snapshot has one span a pack. Where rows lie here and there, a span has its extents in several packs in
//! turn, and all of these are needed at hand.

use crate::vault::extents::Extent;

/// A span that is shorter than this goes on in the next pack.
const ENOUGH: u64 = 8 << 20;
/// The packs of one span.
const MOST_PACKS: usize = 64;

/// A part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// How many extents.
    pub extents: usize,
    /// The packs that hold it, each with the number of the next span of the stream that needs it.
    pub packs: Vec<(u32, Option<usize>)>,
}

/// What is known of one pack while spans are planned.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The number of the last span that needs it, from 1.
    last: usize,
    /// Where it is in that span.
    at: usize,
}

/// Plans the spans of one stream, extent by extent.
pub(super) struct Planner<'a> {
    sizes: &'a [u64],
    most: u64,
    seen: Vec<Seen>,
    spans: Vec<Span>,
    /// Of the last span: its length, and the sum of its packs.
    length: u64,
    held: u64,
}

impl<'a> Planner<'a> {
    /// Packs of `most` bytes of ciphertext together may be needed by one span; `sizes` by number.
    pub(super) fn new(sizes: &'a [u64], most: u64) -> Self {
        Self { sizes, most, seen: vec![Seen::default(); sizes.len()], spans: Vec::new(), length: 0, held: 0 }
    }

    /// The next extent.
    pub(super) fn push(&mut self, extent: &Extent) {
        let number = extent.pack as usize;
        let (size, before) = (self.sizes[number], self.seen[number]);
        let count = self.spans.len();
        match self.spans.last_mut() {
            Some(span) if before.last == count => span.extents += 1,
            Some(span) if self.length < ENOUGH && span.packs.len() < MOST_PACKS && self.held + size <= self.most => {
                span.extents += 1;
                self.held += size;
                self.needs(extent.pack);
            }
            _ => {
                self.spans.push(Span { extents: 1, packs: Vec::new() });
                (self.length, self.held) = (0, size);
                self.needs(extent.pack);
            }
        }
        self.length += extent.length;
    }

    /// The last span needs this pack, too.
    fn needs(&mut self, pack: u32) {
        let (last, seen) = (self.spans.len(), &mut self.seen[pack as usize]);
        if let Some(before) = seen.last.checked_sub(1) {
            self.spans[before].packs[seen.at].1 = Some(last - 1);
        }
        let packs = &mut self.spans[last - 1].packs;
        *seen = Seen { last, at: packs.len() };
        packs.push((pack, None));
    }

    /// All of them.
    pub(super) fn finish(self) -> Vec<Span> {
        self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(of: &[(u32, u64)]) -> impl Iterator<Item = Extent> {
        of.iter().map(|(pack, length)| Extent { pack: *pack, offset: 0, length: *length })
    }

    fn plan(extents: impl Iterator<Item = Extent>, sizes: &[u64], most: u64) -> Vec<Span> {
        let mut planner = Planner::new(sizes, most);
        extents.for_each(|extent| planner.push(&extent));
        planner.finish()
    }

    const SIZES: &[u64] = &[1 << 20; 100];
    const MOST: u64 = 64 << 20;

    fn packs(spans: &[Span]) -> Vec<Vec<u32>> {
        spans.iter().map(|span| span.packs.iter().map(|(pack, _)| *pack).collect()).collect()
    }

    #[test]
    fn a_fresh_stream_has_one_span_a_pack() {
        let spans = plan(extents(&[(0, 32 << 20), (1, 32 << 20), (2, 5)]), SIZES, MOST);
        assert_eq!(packs(&spans), [[0], [1], [2]]);
        assert!(plan(extents(&[]), SIZES, MOST).is_empty());
    }

    #[test]
    fn packs_in_turn_are_one_span_and_know_when_they_are_needed_again() {
        let mut of: Vec<(u32, u64)> = (0..2000).map(|n| (if n % 2 == 0 { 0 } else { 7 }, 20_000)).collect();
        of.extend((0..2000).map(|n| (if n % 2 == 0 { 1 } else { 7 }, 20_000)));
        let spans = plan(extents(&of), SIZES, MOST);
        assert_eq!(spans.iter().map(|span| span.extents).sum::<usize>(), 4000);
        assert_eq!(
            spans.iter().map(|span| &span.packs[..]).collect::<Vec<_>>(),
            [[(0, None), (7, Some(1))], [(1, None), (7, None)]]
        );
    }

    #[test]
    fn the_packs_of_a_span_are_few_and_not_large() {
        let of: Vec<(u32, u64)> = (0..1000).map(|n| (n % 100, 1000)).collect();
        for (most, due) in [(MOST, 64), (MOST / 2, 32), (0, 1)] {
            let spans = plan(extents(&of), SIZES, most);
            assert_eq!(spans.iter().map(|span| span.packs.len()).max(), Some(due));
            assert_eq!(spans.iter().map(|span| span.extents).sum::<usize>(), 1000);
        }
    }
}
