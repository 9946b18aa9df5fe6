//! Ranges of packs' contents, in bounded memory.

use std::collections::HashMap;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::PackId;

/// A range of a pack, in memory.
const RANGE_BYTES: u64 = 16;

/// Ranges of packs' contents.
pub(crate) struct PackRanges {
    packs: HashMap<PackId, Vec<(u64, u64)>>,
    /// How many more ranges may be held.
    left: u64,
}

impl PackRanges {
    /// Which take at most half of `memory`, in bytes.
    pub(crate) fn within_memory(memory: u64) -> Self {
        Self { packs: HashMap::new(), left: memory / 2 / RANGE_BYTES }
    }

    /// # Errors
    /// There are too many.
    pub(crate) fn add(&mut self, pack: PackId, offset: u64, length: u64) -> Result<()> {
        let ranges = self.packs.entry(pack).or_default();
        match ranges.last_mut() {
            Some((_, end)) if *end == offset => {
                *end += length;
                return Ok(());
            }
            _ => ranges.push((offset, offset + length)),
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Error::failed("the older snapshot lies in too many places to be compared in `limits.memory`")
                .hint("set `limits.memory` to twice as much")
        })?;
        // So that what is used over and over is held once.
        if ranges.len() == ranges.capacity() {
            self.left += settle(ranges);
        }
        Ok(())
    }

    /// Puts the ranges in order, and joins those that touch. Call it before [`Self::within`].
    pub(crate) fn settle(&mut self) {
        for ranges in self.packs.values_mut() {
            self.left += settle(ranges);
        }
    }

    /// How many bytes of a range are in these.
    pub(crate) fn within(&self, pack: &PackId, offset: u64, length: u64) -> u64 {
        let Some(ranges) = self.packs.get(pack) else { return 0 };
        let end = offset + length;
        let first = ranges.partition_point(|(_, range_end)| *range_end <= offset);
        let some = ranges[first..].iter().take_while(|(begin, _)| *begin < end);
        some.map(|(begin, range_end)| end.min(*range_end) - offset.max(*begin)).sum()
    }
}

/// Joins ranges. Returns how many fewer there are.
fn settle(ranges: &mut Vec<(u64, u64)>) -> u64 {
    let before = ranges.len();
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (begin, end) in ranges.drain(..) {
        match joined.last_mut() {
            Some((_, last)) if begin <= *last => *last = end.max(*last),
            _ => joined.push((begin, end)),
        }
    }
    *ranges = joined;
    (before - ranges.len()) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use lifeboat_format::id::Digest;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_more_ranges_are_held_than_memory_allows() {
        let mut ranges = PackRanges::within_memory(2 * RANGE_BYTES * 100);
        // What touches, or is used over and over, is one range.
        for n in 0..10_000 {
            ranges.add(Digest([7; 32]), n, 1).unwrap();
            ranges.add(Digest([8; 32]), (n % 7) * 2, 1).unwrap();
        }
        let refused = (0..200).find_map(|n| ranges.add(Digest([9; 32]), n * 2, 1).err().map(|error| (n, error)));
        let (at, error) = refused.unwrap();
        assert!((80..100).contains(&at) && error.hint_text().unwrap().contains("limits.memory"), "{at}: {error:?}");
    }

    proptest! {
        #[test]
        fn bytes_within_ranges_are_counted_once(
            given in prop::collection::vec((0_u64..300, 1_u64..40), 0..60),
            asked in (0_u64..300, 1_u64..80),
        ) {
            let (pack, mut ranges, mut model) = (Digest([7; 32]), PackRanges::within_memory(1 << 20), BTreeSet::new());
            for (offset, length) in given {
                ranges.add(pack, offset, length).unwrap();
                model.extend(offset..offset + length);
            }
            ranges.settle();
            let (offset, length) = asked;
            let expected = (offset..offset + length).filter(|byte| model.contains(byte)).count() as u64;
            prop_assert_eq!(ranges.within(&pack, offset, length), expected);
            prop_assert_eq!(ranges.within(&Digest([8; 32]), offset, length), 0);
        }
    }
}
