//! The plan of a stream: spans, parts of the stream one after the other, each of which a few packs hold.
//!
//! The stream of a fresh snapshot has one span a pack. Where rows lie here and there, a span has its extents in several packs in
//! turn, and all of these are needed at hand.

use std::collections::HashMap;
use std::ops::Range;
use std::thread;

use super::pack_cache::Wanted;
use crate::error::{Error, Result};
use crate::vault::extents::Extent;
use crate::vault::manifest::PackRef;
use crate::vault::map::Resolved;

/// A span that is shorter than this goes on in the next pack.
const ENOUGH: u64 = 8 << 20;
/// The packs of one span.
const MOST_PACKS: usize = 64;
/// Blocks of extents that are worth a thread, and threads at most: each has its own notes of all packs.
const WORTH: usize = 16;
const MOST_THREADS: usize = 4;

/// A part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Which bytes of the stream.
    pub places: Range<u64>,
    /// The packs that hold it, each with the number of the next span of the stream that needs it.
    pub packs: Vec<(u32, Option<usize>)>,
}

/// Plans one stream, on so many threads at most, and adds what it wants of the packs. Packs of `most` bytes of ciphertext together may
/// be needed by one span.
///
/// # Errors
/// [`Class::Integrity`](crate::Class::Integrity): the extents are damaged. Where there is a plan they are not.
pub(super) fn plan(
    extents: &Resolved,
    packs: &[PackRef],
    most: u64,
    threads: usize,
    wanted: &mut Wanted,
) -> Result<Vec<Span>> {
    let sizes: Vec<u64> = packs.iter().map(|PackRef(_, size, _)| *size).collect();
    let part = |places: Range<u64>, wanted: &mut Wanted| {
        let (mut planner, mut walk, mut some) = (Planner::new(&sizes, most, places.start), extents.walk(), Vec::new());
        walk.turn_to(places.clone());
        while walk.next(&mut some) {
            for extent in &some {
                planner.push(extent);
                wanted.add(extent);
            }
        }
        if planner.at == places.end { Ok(planner.spans) } else { Err(Error::integrity("its extents are damaged")) }
    };
    let (length, parts) = (extents.length(), (extents.blocks() / WORTH).min(threads).clamp(1, MOST_THREADS) as u64);
    let border = |part: u64| (u128::from(length) * u128::from(part) / u128::from(parts)) as u64;
    let spans = thread::scope(|scope| {
        let part = &part;
        let others: Vec<_> = (1..parts)
            .map(|number| {
                scope.spawn(move || {
                    let mut wanted = Wanted::new(packs);
                    (part(border(number)..border(number + 1), &mut wanted), wanted)
                })
            })
            .collect();
        let mut spans = part(0..border(1), wanted)?;
        for other in others {
            let (more, others) = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            spans.extend(more?);
            wanted.join(others);
        }
        Ok::<_, Error>(spans)
    });
    let mut spans = spans?;
    link(&mut spans);
    spans.iter().for_each(|span| wanted.visit(span));
    Ok(spans)
}

/// Plans the spans of one stream or a part of it, extent by extent.
struct Planner<'a> {
    sizes: &'a [u64],
    most: u64,
    /// The number of the last span that needs a pack, from 1.
    last: Vec<usize>,
    spans: Vec<Span>,
    /// Where the next extent begins in the stream.
    at: u64,
    /// The sum of the last span's packs.
    held: u64,
}

impl<'a> Planner<'a> {
    /// From the byte `at` of the stream on. Packs of `most` bytes of ciphertext together may be needed by one span; `sizes` by
    /// number.
    fn new(sizes: &'a [u64], most: u64, at: u64) -> Self {
        Self { sizes, most, last: vec![0; sizes.len()], spans: Vec::new(), at, held: 0 }
    }

    /// The next extent.
    fn push(&mut self, extent: &Extent) {
        let number = extent.pack as usize;
        let (size, count, end) = (self.sizes[number], self.spans.len(), self.at + extent.length);
        match self.spans.last_mut() {
            Some(span) if self.last[number] == count => span.places.end = end,
            Some(span)
                if self.at - span.places.start < ENOUGH
                    && span.packs.len() < MOST_PACKS
                    && self.held + size <= self.most =>
            {
                span.places.end = end;
                span.packs.push((extent.pack, None));
                self.held += size;
                self.last[number] = count;
            }
            _ => {
                self.spans.push(Span { places: self.at..end, packs: vec![(extent.pack, None)] });
                self.held = size;
                self.last[number] = count + 1;
            }
        }
        self.at = end;
    }
}

/// Tells the packs of all spans of a stream which span needs them next.
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
    use crate::id::Digest;
    use crate::vault::extents::Extents;

    fn extents(of: &[(u32, u64)]) -> impl Iterator<Item = Extent> {
        of.iter().map(|(pack, length)| Extent { pack: *pack, offset: 0, length: *length })
    }

    fn plan(extents: impl Iterator<Item = Extent>, sizes: &[u64], most: u64) -> Vec<Span> {
        let mut planner = Planner::new(sizes, most, 0);
        extents.for_each(|extent| planner.push(&extent));
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
    fn threads_plan_the_same_stream_side_by_side() -> Result<()> {
        let of = |n: u64| Extent { pack: (n % 9) as u32, offset: n * 1000, length: 500 + n % 100 };
        let extents: Vec<Extent> = (0..600_000).map(of).collect();
        let resolved = Resolved::from(Extents::of(extents.iter().copied())?);
        assert!(resolved.blocks() >= 2 * WORTH, "{} blocks", resolved.blocks());
        let packs: Vec<PackRef> = (0..9).map(|n: u8| PackRef(Digest::of(&[n]), 1 << 20, 1 << 40)).collect();
        let planned = |threads| {
            let mut wanted = Wanted::new(&packs);
            let spans = super::plan(&resolved, &packs, MOST, threads, &mut wanted)?;
            assert!(spans.windows(2).all(|two| two[0].places.end == two[1].places.start));
            assert_eq!((spans[0].places.start, spans[spans.len() - 1].places.end), (0, resolved.length()));
            let last: Vec<_> = spans[spans.len() - 1].packs.iter().map(|(_, next)| *next).collect();
            assert_eq!(last, [None; 9]);
            assert!(
                spans[..spans.len() - 1]
                    .iter()
                    .enumerate()
                    .all(|(n, span)| span.packs.iter().all(|pack| pack.1 == Some(n + 1)))
            );
            Ok::<_, Error>((0..9).map(|pack| wanted.of(pack)).collect::<Vec<_>>())
        };
        assert_eq!(planned(2)?, planned(1)?);
        Ok(())
    }

    #[test]
    fn the_packs_of_a_span_are_few_and_not_large() {
        let of: Vec<(u32, u64)> = (0..1000).map(|n| (n % 100, 1000)).collect();
        for (most, due) in [(MOST, 64), (MOST / 2, 32), (0, 1)] {
            let spans = plan(extents(&of), SIZES, most);
            assert_eq!(spans.iter().map(|span| span.packs.len()).max(), Some(due));
            assert_eq!(spans.iter().map(|span| span.places.end - span.places.start).sum::<u64>(), 1_000_000);
        }
    }
}
