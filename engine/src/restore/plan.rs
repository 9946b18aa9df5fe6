//! Plans how a stream is read. It is divided into spans: consecutive parts that a few packs hold.
//!
//! The stream of a first snapshot has one span for each pack. Where rows are scattered, the extents
//! of a span take turns between several packs, and all of these must be in memory at once.

use std::collections::HashMap;
use std::ops::Range;

use lifeboat_base::{Error, Result};
use lifeboat_format::extents::Extent;
use lifeboat_format::manifest::PackRef;
use lifeboat_format::map::Resolved;

use super::reach::Reach;
use super::wanted::Wanted;

/// A span that is shorter than this may take in one more pack.
const MIN_SPAN_BYTES: u64 = 8 << 20;
/// At most so many packs hold one span.
const MAX_PACKS_PER_SPAN: usize = 80;
/// A part of a stream that a few packs hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Which bytes of the stream it is.
    pub places: Range<u64>,
    /// The packs that hold it, each with the number of the next span of the stream that needs it.
    pub packs: Vec<(u32, Option<usize>)>,
}

/// Plans one stream, and adds to `wanted` what it needs of the packs. The packs of a span have at
/// most `most` bytes of ciphertext together, unless a single pack has more.
///
/// # Errors
/// [`Class::Integrity`](lifeboat_base::Class::Integrity) if the extents are damaged.
pub(crate) fn plan(extents: &Resolved, packs: &[PackRef], most: u64, wanted: &mut Wanted) -> Result<Vec<Span>> {
    let sizes: Vec<u64> = packs.iter().map(|pack| pack.size).collect();
    let mut planner = Planner::new(&sizes, most);
    let (mut walk, mut some, mut left) = (extents.walk(), Vec::new(), extents.length());
    walk.turn_to(0..left);
    while walk.next(&mut some) {
        left -= some.iter().map(|extent| extent.length).sum::<u64>();
        planner.push_all(&some, wanted);
    }
    if left > 0 {
        return Err(Error::integrity("the extents are damaged"));
    }
    let mut spans = planner.spans;
    link(&mut spans);
    spans.iter().for_each(|span| wanted.visit(span.packs.iter().map(|(pack, _)| *pack)));
    Ok(spans)
}

/// Plans the spans of one stream. It is given the stream in stretches.
struct Planner<'a> {
    sizes: &'a [u64],
    most: u64,
    /// The number of the last span that needs a pack, from 1.
    last: Vec<usize>,
    spans: Vec<Span>,
    /// Where the next stretch begins.
    at: u64,
    /// The size of all packs of the last span, in bytes of ciphertext.
    held: u64,
    /// Packs that a stretch needs and its span did not need before.
    more: Vec<u32>,
}

impl<'a> Planner<'a> {
    /// `sizes` are the bytes of ciphertext of each pack, by its number. `most` bounds their sum in
    /// one span.
    fn new(sizes: &'a [u64], most: u64) -> Self {
        Self { sizes, most, last: vec![0; sizes.len()], spans: Vec::new(), at: 0, held: 0, more: Vec::new() }
    }

    /// Adds the next extents of the stream, at once, or else in halves.
    fn push_all(&mut self, extents: &[Extent], wanted: &mut Wanted) {
        let length = extents.iter().map(|extent| extent.length).sum();
        let reaches = if extents.len() == 1 || length <= MIN_SPAN_BYTES { Reach::of(extents) } else { None };
        match reaches {
            Some(reaches) if self.push(length, &reaches) => reaches.iter().for_each(|reach| wanted.add(reach)),
            _ => {
                let (first, second) = extents.split_at(extents.len() / 2);
                self.push_all(first, wanted);
                self.push_all(second, wanted);
            }
        }
    }

    /// Adds the next stretch. If it needs too many packs at once, returns `false` and adds nothing.
    fn push(&mut self, length: u64, reaches: &[Reach]) -> bool {
        let size = self.more_than(self.spans.len(), reaches);
        let fits = self.spans.last().is_some_and(|span| {
            self.more.is_empty()
                || self.at - span.places.start < MIN_SPAN_BYTES
                    && span.packs.len() + self.more.len() <= MAX_PACKS_PER_SPAN
                    && self.held + size <= self.most
        });
        if fits {
            self.held += size;
        } else {
            let size = self.more_than(self.spans.len() + 1, reaches);
            if self.more.len() > 1 && (self.more.len() > MAX_PACKS_PER_SPAN || size > self.most) {
                return false;
            }
            self.spans.push(Span { places: self.at..self.at, packs: Vec::new() });
            self.held = size;
        }
        self.at += length;
        let number = self.spans.len();
        if let Some(span) = self.spans.last_mut() {
            span.places.end = self.at;
            for pack in &self.more {
                span.packs.push((*pack, None));
                self.last[*pack as usize] = number;
            }
        }
        true
    }

    /// Puts into `more` the packs that these reaches need and the span of this number does not need
    /// yet. Returns their size in bytes of ciphertext.
    fn more_than(&mut self, span: usize, reaches: &[Reach]) -> u64 {
        self.more.clear();
        for Reach { pack, .. } in reaches {
            if self.last[*pack as usize] != span && !self.more.contains(pack) {
                self.more.push(*pack);
            }
        }
        self.more.iter().map(|pack| self.sizes[*pack as usize]).sum()
    }
}

/// Notes for each pack of each span which later span of the stream needs it next.
fn link(spans: &mut [Span]) {
    let mut next = HashMap::new();
    for (number, span) in spans.iter_mut().enumerate().rev() {
        for (pack, needed) in &mut span.packs {
            *needed = next.insert(*pack, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_format::extents::{Bounds, Extent, Extents};
    use lifeboat_format::id::Digest;

    fn extents(of: &[(u32, u64)]) -> impl Iterator<Item = Extent> {
        of.iter().map(|(pack, length)| Extent { pack: *pack, offset: 0, length: *length })
    }

    fn plan(extents: impl Iterator<Item = Extent>, sizes: &[u64], most: u64) -> Vec<Span> {
        let mut planner = Planner::new(sizes, most);
        extents.for_each(|extent| assert!(planner.push(extent.length, &[(&extent).into()])));
        let mut spans = planner.spans;
        link(&mut spans);
        spans
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
        assert_eq!(
            spans.iter().map(|span| span.places.clone()).collect::<Vec<_>>(),
            [0..40_000_000, 40_000_000..80_000_000]
        );
        assert_eq!(
            spans.iter().map(|span| &span.packs[..]).collect::<Vec<_>>(),
            [[(0, None), (7, Some(1))], [(1, None), (7, None)]]
        );
    }

    #[test]
    fn what_takes_several_packs_at_once_begins_a_span_only_if_these_are_not_too_many() {
        let reach = |pack| Reach { pack, range: 0..10, named: 10 };
        let mut planner = Planner::new(SIZES, 3 << 20);
        assert!(planner.push(MIN_SPAN_BYTES, &[reach(0), reach(1), reach(0)]));
        assert!(planner.push(5, &[reach(1)]), "goes on");
        assert!(!planner.push(5, &[reach(2), reach(1), reach(3), reach(4)]));
        assert!(planner.push(5, &[reach(2), reach(1), reach(2), reach(3)]));
        assert_eq!(packs(&planner.spans), [vec![0, 1], vec![2, 1, 3]]);
        assert_eq!(planner.spans[1].places, MIN_SPAN_BYTES + 5..MIN_SPAN_BYTES + 10);
    }

    #[test]
    fn what_is_planned_is_wanted_and_damage_is_told() -> Result<()> {
        let some = [(0, 32 << 20), (1, 700), (0, 900)];
        let resolved = |of| Extents::of(extents(of)).map(Resolved::from);
        let pack: Vec<PackRef> = (0..2)
            .map(|n: u8| PackRef { id: Digest::of(&[n]), size: 1 << 20, content: 40 << 20, generation: 1 })
            .collect();
        let mut wanted = Wanted::new(&pack);
        let spans = super::plan(&resolved(&some)?, &pack, MOST, &mut wanted)?;
        assert_eq!(packs(&spans), [vec![0], vec![1, 0]]);
        assert_eq!([wanted.of(0), wanted.of(1)], [(vec![(0, 32 << 20)], (32 << 20) + 900), (vec![(0, 16 << 10)], 700)]);
        let mut bytes = Extents::of(extents(&some))?.bytes().to_vec();
        *bytes.last_mut().unwrap_or(&mut 0) ^= 0x40;
        let read = Extents::read(bytes, (32 << 20) + 1600, Bounds { packs: [40 << 20; 2].into(), older: 0 });
        let damaged = read.ok_or_else(|| Error::failed("what stands before the block is good"))?;
        assert!(super::plan(&damaged.into(), &pack, MOST, &mut wanted).is_err());
        Ok(())
    }

    #[test]
    fn the_packs_of_a_span_are_few_and_not_large() {
        let of: Vec<(u32, u64)> = (0..1000).map(|n| (n % 100, 1000)).collect();
        for (most, due) in [(2 * MOST, MAX_PACKS_PER_SPAN), (MOST, 64), (MOST / 2, 32), (0, 1)] {
            let spans = plan(extents(&of), SIZES, most);
            assert_eq!(spans.iter().map(|span| span.packs.len()).max(), Some(due));
            assert_eq!(spans.iter().map(|span| span.places.end - span.places.start).sum::<u64>(), 1_000_000);
        }
    }
}
