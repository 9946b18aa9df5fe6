//! Which ranges of packs a block of extents touches. A few numbers before the block say so, so that
//! whoever plans a restore of millions of extents need open only a few blocks.

use std::ops::Range;

use super::{Extent, pack_number};
use crate::varint;

/// Extents of a pack that lie no further apart than this share a reach.
const MAX_GAP_BYTES: u64 = 16 << 10;
/// A block that would have more reaches lists none.
const MAX_REACHES: usize = 256;

/// A range of a pack's content, or of an older stream, in which extents lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// As [`Extent::pack`].
    pub pack: u32,
    /// No extent of the pack lies outside all of its reaches.
    pub range: Range<u64>,
    /// The sum of the lengths of the extents in it.
    pub named: u64,
}

impl From<&Extent> for Reach {
    fn from(extent: &Extent) -> Self {
        Self { pack: extent.pack, range: extent.offset..extent.offset + extent.length, named: extent.length }
    }
}

impl Reach {
    /// The reaches of `extents`; empty if there would be too many.
    pub fn of<'a>(extents: impl IntoIterator<Item = &'a Extent>) -> Vec<Self> {
        // By the number of a pack, one past its newest reach: the extents of a pack are mostly in
        // order, so they mostly continue that one.
        let (mut reaches, mut last): (Vec<Reach>, Vec<usize>) = (Vec::new(), Vec::new());
        for extent in extents {
            let number = pack_number::encode(extent.pack) as usize;
            if last.len() <= number {
                last.resize(number + 1, 0);
            }
            let (begin, end, count) = (extent.offset, extent.offset + extent.length, reaches.len());
            match last[number].checked_sub(1).and_then(|at| reaches.get_mut(at)) {
                Some(reach) if begin <= reach.range.end + MAX_GAP_BYTES && reach.range.start <= end + MAX_GAP_BYTES => {
                    reach.range = reach.range.start.min(begin)..reach.range.end.max(end);
                    reach.named += extent.length;
                }
                _ if count == MAX_REACHES => return Vec::new(),
                _ => {
                    reaches.push(extent.into());
                    last[number] = count + 1;
                }
            }
        }
        reaches
    }

    /// Whether the extent lies in it.
    #[must_use]
    pub fn holds(&self, extent: &Extent) -> bool {
        self.pack == extent.pack && self.range.start <= extent.offset && extent.offset + extent.length <= self.range.end
    }
}

/// The reaches of a block as varints: how many there are, then for each the number of its pack (as
/// in the block itself), where it begins, how long it is, and how long its extents are.
pub(super) fn encode(extents: &[Extent]) -> Vec<u8> {
    let reaches = Reach::of(extents);
    let mut out = Vec::with_capacity(12 * reaches.len() + 2);
    varint::put(&mut out, reaches.len() as u64);
    for Reach { pack, range, named } in reaches {
        for value in [pack_number::encode(pack), range.start, range.end - range.start, named] {
            varint::put(&mut out, value);
        }
    }
    out
}

/// Reads what [`encode`] wrote; `None` for anything else.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<Reach>> {
    let count = varint::take(&mut bytes).filter(|count| *count <= MAX_REACHES as u64)?;
    let mut reaches = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut next = || varint::take(&mut bytes);
        let (pack, begin, length, named) = (next()?, next()?, next()?, next()?);
        if !pack_number::is_legal(pack) {
            return None;
        }
        let pack = pack_number::decode(pack);
        reaches.push(Reach { pack, range: begin..begin.checked_add(length)?, named });
    }
    bytes.is_empty().then_some(reaches)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::extents::OLDER;

    proptest! {
        #[test]
        fn hold_all_extents_and_come_back_as_they_were(
            of in prop::collection::vec((prop_oneof![0_u32..9, Just(OLDER)], 0_u64..1 << 20, 1_u64..5000), 0..300)
        ) {
            let extents: Vec<Extent> = of.into_iter().map(|(pack, offset, length)| Extent { pack, offset, length }).collect();
            let reaches = Reach::of(&extents);
            let back = decode(&encode(&extents));
            prop_assert_eq!(back.as_ref(), Some(&reaches));
            if !reaches.is_empty() {
                prop_assert!(extents.iter().all(|extent| reaches.iter().any(|reach| reach.holds(extent))));
                let named: u64 = reaches.iter().map(|reach| reach.named).sum();
                prop_assert_eq!(named, extents.iter().map(|extent| extent.length).sum::<u64>());
            }
        }

        #[test]
        fn whatever_else_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(decode(&bytes).is_none_or(|reaches| reaches.len() <= MAX_REACHES));
        }
    }

    #[test]
    fn are_few_or_none() {
        let rows = |apart: u64| (0..1000).map(move |n| Extent { pack: (n % 3) as u32, offset: n * apart, length: 100 });
        assert_eq!(Reach::of(&rows(150).collect::<Vec<_>>()).len(), 3);
        assert_eq!(Reach::of(&rows(20_000).collect::<Vec<_>>()), []);
    }
}
