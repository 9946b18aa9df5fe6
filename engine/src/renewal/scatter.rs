//! Which stretches of a stream are too scattered: they have too many extents, or lie in too many
//! packs.
//!
//! A stretch is as long as the budget of a snapshot that has no other stream. It is stored again as
//! a whole, so that it no longer needs its older packs. In one run, at most one stretch of each
//! stream is taken. If several are about equally scattered, it is the first one: adjacent stretches
//! free more of the older frames.

use std::ops::Range;

use lifeboat_format::extents::Extent;

use super::{Budget, share};

/// A stretch is too scattered if it has more extents per MiB than this, on average. It is less than
/// half of what a chunk may have.
const MAX_EXTENTS_PER_MIB: f64 = 3200.0;
/// A stretch is too scattered if each of its MiB lies in more packs than this, on average.
const MAX_PACKS_PER_MIB: f64 = 32.0;
/// Stretches count as equally scattered from this part of the most scattered one on.
const NEARLY_MOST: f64 = 0.875;

/// How scattered a stretch is. The figures are sums over its MiB.
#[derive(Debug, Default, Clone, Copy)]
struct Stretch {
    parts: u64,
    packs: u64,
    mebibytes: u64,
}

impl Stretch {
    /// How scattered it is. More than 1 is too much.
    fn scattered(&self) -> f64 {
        f64::max(self.parts as f64 / MAX_EXTENTS_PER_MIB, self.packs as f64 / MAX_PACKS_PER_MIB) / self.mebibytes as f64
    }
}

/// The stretch of a stream that should be stored again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScatteredStretch {
    /// Its place in the stream.
    pub(crate) bytes: Range<u64>,
    /// How scattered it is.
    scattered: f64,
}

/// Leaves as many of these stretches as the budget has room for, the most scattered first.
pub(crate) fn keep_within<'a>(
    mut budget: Budget,
    stretches: impl IntoIterator<Item = &'a mut Option<ScatteredStretch>>,
) {
    let mut all: Vec<_> = stretches.into_iter().collect();
    let scattered = |stretch: &Option<ScatteredStretch>| stretch.as_ref().map_or(0.0, |stretch| stretch.scattered);
    all.sort_by(|a, b| scattered(b).total_cmp(&scattered(a)));
    for stretch in all {
        stretch.take_if(|stretch| !budget.take(stretch.bytes.end - stretch.bytes.start));
    }
}

/// How scattered a stream is.
#[derive(Debug)]
pub(crate) struct Scatter {
    /// The size of each stretch, in MiB.
    size: u64,
    stretches: Vec<Stretch>,
    length: u64,
    /// For each pack, by number, the last MiB that lies in it. MiB count from 1.
    last: Vec<u64>,
}

impl Scatter {
    /// For a stream of this length in bytes.
    pub(crate) fn new(length: u64) -> Self {
        Self { size: share(length) >> 20, stretches: Vec::new(), length: 0, last: Vec::new() }
    }

    /// Adds the next extent of the stream.
    pub(crate) fn add(&mut self, extent: &Extent) {
        let (begin, pack) = (self.length, extent.pack as usize);
        self.length += extent.length;
        if pack >= self.last.len() {
            self.last.resize(pack + 1, 0);
        }
        for number in (begin >> 20) + 1..=self.length.div_ceil(1 << 20) {
            let at = ((number - 1) / self.size) as usize;
            if at == self.stretches.len() {
                self.stretches.push(Stretch::default());
            }
            let stretch = &mut self.stretches[at];
            stretch.mebibytes = number - at as u64 * self.size;
            stretch.parts += 1;
            stretch.packs += u64::from(self.last[pack] != number);
            self.last[pack] = number;
        }
    }

    /// The stretch that should be stored again, if there is one.
    pub(crate) fn stretch(&self) -> Option<ScatteredStretch> {
        let most = self.stretches.iter().map(Stretch::scattered).fold(0.0, f64::max);
        let much = |stretch: &Stretch| most > 1.0 && stretch.scattered() >= (NEARLY_MOST * most).max(1.0);
        let first = self.stretches.iter().position(much)?;
        let begin = (first as u64 * self.size) << 20;
        let bytes = begin..(begin + (self.size << 20)).min(self.length);
        Some(ScatteredStretch { bytes, scattered: self.stretches[first].scattered() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// So many MiB, each in as many parts as are told, which lie in packs in turn.
    fn stream(of: &[(u64, u64)], packs: u32) -> Vec<Extent> {
        let parts = of.iter().flat_map(|(mib, parts)| std::iter::repeat_n(MIB / parts, (mib * parts) as usize));
        parts.enumerate().map(|(n, length)| Extent { pack: n as u32 % packs, offset: 0, length }).collect()
    }

    fn stretch(of: &[Extent]) -> Range<u64> {
        let mut scatter = Scatter::new(of.iter().map(|extent| extent.length).sum());
        of.iter().for_each(|extent| scatter.add(extent));
        scatter.stretch().map_or(0..0, |stretch| stretch.bytes)
    }

    #[test]
    fn what_is_scattered_little_stays() {
        for of in [&[(64, 1)][..], &[(64, 2048)], &[(8, 4096), (56, 1)], &[]] {
            assert_eq!(stretch(&stream(of, 30)), 0..0, "{of:?}");
        }
    }

    #[test]
    fn a_stretch_with_too_many_parts_or_packs_is_renewed() {
        assert_eq!(stretch(&stream(&[(32, 1), (16, 8192), (16, 1)], 30)), 32 * MIB..48 * MIB);
        assert_eq!(stretch(&stream(&[(32, 1), (16, 64), (16, 1)], 50)), 32 * MIB..48 * MIB);
        assert_eq!(stretch(&stream(&[(3, 8192)], 2)), 0..3 * MIB, "a short stream");
    }

    #[test]
    fn of_long_streams_a_small_share_at_a_time_the_most_scattered_first() {
        assert_eq!(stretch(&stream(&[(2048, 8192)], 3)), 0..64 * MIB);
        assert_eq!(stretch(&stream(&[(64, 1), (1984, 8192)], 3)), 64 * MIB..128 * MIB, "one after the other");
        assert_eq!(stretch(&stream(&[(1024, 8192), (64, 16384), (960, 1)], 3)), 1024 * MIB..1088 * MIB);
    }
}
