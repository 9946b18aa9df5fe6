//! Which ranges of packs a number of extents touch. The plan of a restore needs no more of them,
//! and there may be millions.

use std::ops::Range;

use lifeboat_format::extents::Extent;

/// Extents of a pack that lie no further apart than this share a reach.
const MAX_GAP_BYTES: u64 = 16 << 10;
/// More reaches at once are too many to plan with.
const MAX_REACHES: usize = 256;

/// A range of a pack's content in which extents lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The number of the pack.
    pub(crate) pack: u32,
    /// No extent of the pack lies outside all of its reaches.
    pub(crate) range: Range<u64>,
    /// The sum of the lengths of the extents in it.
    pub(crate) named: u64,
}

impl From<&Extent> for Reach {
    fn from(extent: &Extent) -> Self {
        Self { pack: extent.pack, range: extent.offset..extent.offset + extent.length, named: extent.length }
    }
}

impl Reach {
    /// The reaches of `extents`, all of them in packs; `None` if there would be too many.
    pub(crate) fn of(extents: &[Extent]) -> Option<Vec<Self>> {
        if let [extent] = extents {
            return Some(vec![extent.into()]);
        }
        // By the number of a pack, one past its newest reach: the extents of a pack are mostly in
        // order, so they mostly continue that one.
        let (mut reaches, mut last): (Vec<Reach>, Vec<u16>) = (Vec::new(), Vec::new());
        for extent in extents {
            let number = extent.pack as usize;
            if last.len() <= number {
                last.resize(number + 1, 0);
            }
            let (begin, end, count) = (extent.offset, extent.offset + extent.length, reaches.len());
            match usize::from(last[number]).checked_sub(1).and_then(|at| reaches.get_mut(at)) {
                Some(reach) if begin <= reach.range.end + MAX_GAP_BYTES && reach.range.start <= end + MAX_GAP_BYTES => {
                    reach.range = reach.range.start.min(begin)..reach.range.end.max(end);
                    reach.named += extent.length;
                }
                _ if count == MAX_REACHES => return None,
                _ => {
                    reaches.push(extent.into());
                    last[number] = count as u16 + 1;
                }
            }
        }
        Some(reaches)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hold_all_extents(of in prop::collection::vec((0_u32..9, 0_u64..1 << 20, 1_u64..5000), 0..300)) {
            let extents: Vec<Extent> = of.into_iter().map(|(pack, offset, length)| Extent { pack, offset, length }).collect();
            if let Some(reaches) = Reach::of(&extents) {
                let holds = |reach: &Reach, extent: &Extent| {
                    reach.pack == extent.pack && reach.range.start <= extent.offset && extent.offset + extent.length <= reach.range.end
                };
                prop_assert!(extents.iter().all(|extent| reaches.iter().any(|reach| holds(reach, extent))));
                let named: u64 = reaches.iter().map(|reach| reach.named).sum();
                prop_assert_eq!(named, extents.iter().map(|extent| extent.length).sum::<u64>());
            }
        }
    }

    #[test]
    fn are_few_or_none() {
        let rows = |apart: u64| -> Vec<Extent> {
            (0..1000).map(move |n| Extent { pack: (n % 3) as u32, offset: n * apart, length: 100 }).collect()
        };
        assert_eq!(Reach::of(&rows(150)).map(|reaches| reaches.len()), Some(3));
        assert_eq!(Reach::of(&rows(20_000)), None);
    }
}
