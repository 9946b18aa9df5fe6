//! Decides which part of a stream is stored again although it has hardly changed. Rows change in
//! scattered places, so with every snapshot a stream has more extents, in more packs, and a restore
//! must gather all of them.
//!
//! Each backup stores at most **one stretch** of a stream as a whole again, if it is too scattered.
//! It is only a part of the stream, so that no night stores everything at once. It is the whole of
//! that part, so that the part no longer needs its older packs. If several stretches are about
//! equally scattered, the first one is taken: adjacent stretches free more of the older frames.

use std::ops::Range;

use lifeboat_format::extents::Extent;

/// A stretch is too scattered if it has more extents per MiB than this, on average. It is less than
/// half of what a chunk may have.
const MAX_EXTENTS_PER_MIB: f64 = 3200.0;
/// A stretch is too scattered if each of its MiB lies in more packs than this, on average.
const MAX_PACKS_PER_MIB: f64 = 32.0;
/// A stretch is one 32nd of its stream, or more if the stream is short.
const STRETCHES_PER_STREAM: u64 = 32;
/// A stretch has at least this many MiB.
const MIN_STRETCH_MIB: u64 = 16;
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
        let size = ((length >> 20) / STRETCHES_PER_STREAM).max(MIN_STRETCH_MIB);
        Self { size, stretches: Vec::new(), length: 0, last: Vec::new() }
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

    /// The bytes of the stretch that should be stored again; empty if there is none.
    pub(crate) fn stretch(&self) -> Range<u64> {
        let most = self.stretches.iter().map(Stretch::scattered).fold(0.0, f64::max);
        let much = |stretch: &Stretch| most > 1.0 && stretch.scattered() >= (NEARLY_MOST * most).max(1.0);
        self.stretches.iter().position(much).map_or(0..0, |first| {
            let begin = (first as u64 * self.size) << 20;
            begin..begin + (self.size << 20)
        })
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
        scatter.stretch()
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
        assert_eq!(stretch(&stream(&[(3, 8192)], 2)), 0..16 * MIB, "a short stream");
    }

    #[test]
    fn of_long_streams_a_small_share_at_a_time_the_most_scattered_first() {
        assert_eq!(stretch(&stream(&[(2048, 8192)], 3)), 0..64 * MIB);
        assert_eq!(stretch(&stream(&[(64, 1), (1984, 8192)], 3)), 64 * MIB..128 * MIB, "one after the other");
        assert_eq!(stretch(&stream(&[(1024, 8192), (64, 16384), (960, 1)], 3)), 1024 * MIB..1088 * MIB);
    }
}
