//! The plan of a stream: spans, parts of the stream one after the other, each of which a few packs hold.
//!
//! The stream of a fresh snapshot has one span a pack. Where rows lie here and there, a span has its extents in several packs in
//! turn, and all of these are needed at hand.

use std::collections::{BTreeMap, HashMap};

use crate::vault::extents::Extent;

/// A span that is shorter than this goes on in the next pack.
const ENOUGH: u64 = 8 << 20;
/// The packs of one span.
const MOST_PACKS: usize = 24;

/// A part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// How many extents.
    pub extents: usize,
    /// The packs that hold it, each with the number of the next span of the stream that needs it.
    pub packs: BTreeMap<u32, Option<usize>>,
}

/// The spans of a stream with these extents.
pub(super) fn plan(extents: impl Iterator<Item = Extent>) -> Vec<Span> {
    let (mut spans, mut length): (Vec<Span>, u64) = (Vec::new(), 0);
    for extent in extents {
        let goes_on = |span: &&mut Span| {
            span.packs.contains_key(&extent.pack) || (length < ENOUGH && span.packs.len() < MOST_PACKS)
        };
        match spans.last_mut().filter(goes_on) {
            Some(span) => {
                span.extents += 1;
                span.packs.insert(extent.pack, None);
            }
            None => {
                spans.push(Span { extents: 1, packs: BTreeMap::from([(extent.pack, None)]) });
                length = 0;
            }
        }
        length += extent.length;
    }
    let mut later = HashMap::new();
    for (number, span) in spans.iter_mut().enumerate().rev() {
        for (pack, next) in &mut span.packs {
            *next = later.insert(*pack, number);
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(of: &[(u32, u64)]) -> impl Iterator<Item = Extent> {
        of.iter().map(|(pack, length)| Extent { pack: *pack, offset: 0, length: *length })
    }

    fn packs(spans: &[Span]) -> Vec<Vec<u32>> {
        spans.iter().map(|span| span.packs.keys().copied().collect()).collect()
    }

    #[test]
    fn a_fresh_stream_has_one_span_a_pack() {
        let spans = plan(extents(&[(0, 32 << 20), (1, 32 << 20), (2, 5)]));
        assert_eq!(packs(&spans), [[0], [1], [2]]);
        assert!(plan(extents(&[])).is_empty());
    }

    #[test]
    fn packs_in_turn_are_one_span_and_know_when_they_are_needed_again() {
        let mut of: Vec<(u32, u64)> = (0..2000).map(|n| (if n % 2 == 0 { 0 } else { 7 }, 5000)).collect();
        of.extend((0..2000).map(|n| (if n % 2 == 0 { 1 } else { 7 }, 5000)));
        let spans = plan(extents(&of));
        assert_eq!(packs(&spans), [[0, 7], [1, 7]]);
        assert_eq!(spans.iter().map(|span| span.extents).sum::<usize>(), 4000);
        assert_eq!((spans[0].packs[&7], spans[0].packs[&0], spans[1].packs[&7]), (Some(1), None, None));
    }
}
