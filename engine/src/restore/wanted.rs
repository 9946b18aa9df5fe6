//! Collects what the streams of a snapshot need of its packs: which ranges, and how often.

use std::ops::Range;

use lifeboat_format::manifest::PackRef;

use super::reach::Reach;

/// What all streams of a snapshot need of each of its packs.
pub(crate) struct Wanted(pub(super) Vec<WantedPack>);

impl Wanted {
    /// Begins with nothing.
    pub(crate) fn new(packs: &[PackRef]) -> Self {
        let nothing =
            |reference: &PackRef| WantedPack { reference: *reference, grains: Grains::default(), named: 0, visits: 0 };
        Self(packs.iter().map(nothing).collect())
    }

    /// Adds a range of a pack.
    pub(crate) fn add(&mut self, reach: &Reach) {
        let pack = &mut self.0[reach.pack as usize];
        pack.grains.insert(reach.range.clone());
        pack.named = pack.named.saturating_add(reach.named);
    }

    /// The wanted ranges of a pack, and how many bytes extents name in it.
    #[cfg(test)]
    pub(crate) fn of(&self, pack: usize) -> (Vec<(u64, u64)>, u64) {
        (self.0[pack].grains.ranges(), self.0[pack].named)
    }

    /// Adds a span that needs these packs.
    pub(crate) fn visit(&mut self, packs: impl IntoIterator<Item = u32>) {
        for pack in packs {
            self.0[pack as usize].visits += 1;
        }
    }
}

/// What is wanted of one pack.
pub(super) struct WantedPack {
    pub(super) reference: PackRef,
    pub(super) grains: Grains,
    /// The sum of the lengths of all extents in it, in bytes.
    pub(super) named: u64,
    /// How many spans, of all streams, still need it.
    pub(super) visits: usize,
}

/// A set of ranges of a pack's content, to 16 KiB. It stays small even for millions of extents.
#[derive(Default)]
pub(super) struct Grains(Vec<u64>);

impl Grains {
    const BYTES: u64 = 16 << 10;

    fn insert(&mut self, range: Range<u64>) {
        for grain in range.start / Self::BYTES..range.end.div_ceil(Self::BYTES) {
            let word = (grain / 64) as usize;
            if self.0.len() <= word {
                self.0.resize(word + 1, 0);
            }
            self.0[word] |= 1 << (grain % 64);
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum::<u64>() * Self::BYTES
    }

    /// The ranges in order, as offset and length. None touches another.
    pub(super) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let set = (0..self.0.len() as u64 * 64).filter(|grain| self.0[(grain / 64) as usize] >> (grain % 64) & 1 == 1);
        for offset in set.map(|grain| grain * Self::BYTES) {
            match ranges.last_mut() {
                Some((begin, length)) if *begin + *length == offset => *length += Self::BYTES,
                _ => ranges.push((offset, Self::BYTES)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grains_cover_what_was_inserted() {
        const GRAIN: u64 = Grains::BYTES;
        let mut grains = Grains::default();
        for (offset, length) in [(0, 1), (GRAIN - 1, 2), (5 * GRAIN, GRAIN), (100 * GRAIN + 7, 3 * GRAIN), (5, 5)] {
            grains.insert(offset..offset + length);
        }
        assert_eq!(grains.ranges(), [(0, 2 * GRAIN), (5 * GRAIN, GRAIN), (100 * GRAIN, 4 * GRAIN)]);
        assert_eq!(grains.length(), 7 * GRAIN);
    }
}
