//! What a block of extents takes of packs, in a few numbers that stand before it: a plan of
//! millions of extents opens few blocks.

use std::ops::Range;

use super::Extent;
use super::block;
use crate::varint;

/// What lies nearer to each other in a pack is one reach.
const NEAR: u64 = 16 << 10;
/// A block with more reaches tells none of them.
const MOST: usize = 256;

/// A range of a pack's content, or of an older stream, in which extents lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// As [`Extent::pack`].
    pub pack: u32,
    /// No extent of the pack lies outside all of its reaches.
    pub range: Range<u64>,
    /// How long the extents in it are, together.
    pub named: u64,
}

impl From<&Extent> for Reach {
    fn from(extent: &Extent) -> Self {
        Self { pack: extent.pack, range: extent.offset..extent.offset + extent.length, named: extent.length }
    }
}

impl Reach {
    /// What these reach; nothing if that is too much to tell.
    pub fn of<'a>(extents: impl IntoIterator<Item = &'a Extent>) -> Vec<Self> {
        // One past the last reach of each pack, by its number: what extents take of one is in
        // order, mostly.
        let (mut reaches, mut last): (Vec<Reach>, Vec<usize>) = (Vec::new(), Vec::new());
        for extent in extents {
            let number = block::written(extent.pack) as usize;
            if last.len() <= number {
                last.resize(number + 1, 0);
            }
            let (begin, end, count) = (extent.offset, extent.offset + extent.length, reaches.len());
            match last[number].checked_sub(1).and_then(|at| reaches.get_mut(at)) {
                Some(reach) if begin <= reach.range.end + NEAR && reach.range.start <= end + NEAR => {
                    reach.range = reach.range.start.min(begin)..reach.range.end.max(end);
                    reach.named += extent.length;
                }
                _ if count == MOST => return Vec::new(),
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

/// The reaches of a block, as bytes: their number, and of each the number of its pack (as in the
/// block itself), where it begins, how long it is, and how long its extents are; varints.
pub(crate) fn written(extents: &[Extent]) -> Vec<u8> {
    let reaches = Reach::of(extents);
    let mut out = Vec::with_capacity(12 * reaches.len() + 2);
    varint::put(&mut out, reaches.len() as u64);
    for Reach { pack, range, named } in reaches {
        for value in [block::written(pack), range.start, range.end - range.start, named] {
            varint::put(&mut out, value);
        }
    }
    out
}

/// What [`written`] wrote, and nothing else.
pub(crate) fn read(mut bytes: &[u8]) -> Option<Vec<Reach>> {
    let count = varint::take(&mut bytes).filter(|count| *count <= MOST as u64)?;
    let mut reaches = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut next = || varint::take(&mut bytes);
        let (pack, begin, length, named) = (block::pack(next()?)?, next()?, next()?, next()?);
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
            let back = read(&written(&extents));
            prop_assert_eq!(back.as_ref(), Some(&reaches));
            if !reaches.is_empty() {
                prop_assert!(extents.iter().all(|extent| reaches.iter().any(|reach| reach.holds(extent))));
                let named: u64 = reaches.iter().map(|reach| reach.named).sum();
                prop_assert_eq!(named, extents.iter().map(|extent| extent.length).sum::<u64>());
            }
        }

        #[test]
        fn whatever_else_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(read(&bytes).is_none_or(|reaches| reaches.len() <= MOST));
        }
    }

    #[test]
    fn are_few_or_none() {
        let rows = |apart: u64| (0..1000).map(move |n| Extent { pack: (n % 3) as u32, offset: n * apart, length: 100 });
        assert_eq!(Reach::of(&rows(150).collect::<Vec<_>>()).len(), 3);
        assert_eq!(Reach::of(&rows(20_000).collect::<Vec<_>>()), []);
    }
}
