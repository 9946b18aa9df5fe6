//! Finds where a chunk ends. The boundaries are those of FastCDC in [`fastcdc::v2020`], but four
//! lanes are scanned at once.
//!
//! The gear hash at a position depends only on the last 64 bytes, so places far apart can be
//! scanned side by side. A single scan would mostly wait for its own additions. A chunk may end
//! where `hash & mask` is zero. The mask is stricter below the average size than above it
//! (normalized chunking, Xia et al., 2016, section 4.4).

use fastcdc::v2020::{Normalization, select_masks};
use zeroize::Zeroizing;

/// How many of the last bytes the hash depends on.
const WINDOW_BYTES: usize = 64;
/// How many bytes each lane scans before the next four lanes begin.
const LANE_BYTES: usize = 4096;

/// Cuts with one gear table and one average size.
pub(crate) struct Cutter {
    gear: Box<Zeroizing<[u64; 256]>>,
    average: usize,
    strict: u64,
    lax: u64,
}

impl Cutter {
    pub(crate) fn new(gear: Box<Zeroizing<[u64; 256]>>, average: usize) -> Self {
        let (strict, lax) = select_masks(average, Normalization::Level1);
        Self { gear, average, strict, lax }
    }

    pub(crate) fn longest(&self) -> usize {
        self.average * 4
    }

    /// The length of the chunk that begins where `window` begins. It is the whole window, up to the
    /// longest chunk, if there is no boundary. The first `scanned` bytes are known to have none.
    pub(crate) fn cut(&self, window: &[u8], scanned: usize) -> usize {
        let shortest = self.average / 2;
        let window = &window[..window.len().min(self.longest())];
        // The crate looks at two bytes at a time, so for it an odd last byte is no boundary.
        let end = window.len() & !1;
        let middle = self.average.min(end);
        self.boundary(window, shortest, shortest.max(scanned), middle, self.strict)
            .or_else(|| self.boundary(window, shortest, middle.max(scanned), end, self.lax))
            .unwrap_or(window.len())
    }

    /// Whether the chunk that begins where `window` begins may end after `length` bytes. Boundaries
    /// before that are not looked for. `None` if `window` is too short to tell.
    pub(crate) fn ends(&self, window: &[u8], length: usize) -> Option<bool> {
        let shortest = self.average / 2;
        if length == self.longest() {
            return (window.len() >= length).then_some(true);
        }
        if !(shortest..self.longest()).contains(&length) {
            return Some(false);
        }
        let mask = if length < self.average { self.strict } else { self.lax };
        let seen = window[..window.len() & !1].get(..=length)?;
        let hash =
            seen[shortest.max(seen.len().saturating_sub(WINDOW_BYTES))..].iter().fold(0, |hash, b| self.step(hash, *b));
        Some(hash & mask == 0)
    }

    /// The first boundary in `from..to`, if the hash begins at `begin`.
    fn boundary(&self, window: &[u8], begin: usize, mut from: usize, to: usize, mask: u64) -> Option<usize> {
        let hash_before = |at: usize| {
            let seen = &window[begin.max(at.saturating_sub(WINDOW_BYTES))..at];
            seen.iter().fold(0, |hash, byte| self.step(hash, *byte))
        };
        while from + 4 * LANE_BYTES <= to {
            let lanes: [&[u8]; 4] =
                std::array::from_fn(|lane| &window[from + lane * LANE_BYTES..from + (lane + 1) * LANE_BYTES]);
            let hashes = std::array::from_fn(|lane| hash_before(from + lane * LANE_BYTES));
            if self.any_boundary(lanes, hashes, mask) {
                break;
            }
            from += 4 * LANE_BYTES;
        }
        let mut hash = if from < to { hash_before(from) } else { 0 };
        (from..to).find(|at| {
            hash = self.step(hash, window[*at]);
            hash & mask == 0
        })
    }

    fn step(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[usize::from(byte)])
    }

    /// Whether there is a boundary in any lane.
    fn any_boundary(&self, [a, b, c, d]: [&[u8]; 4], mut hash: [u64; 4], mask: u64) -> bool {
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            hash = [self.step(hash[0], *a), self.step(hash[1], *b), self.step(hash[2], *c), self.step(hash[3], *d)];
            if hash[0] & mask == 0 || hash[1] & mask == 0 || hash[2] & mask == 0 || hash[3] & mask == 0 {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fastcdc::v2020::cut_gear;
    use proptest::prelude::*;

    use super::*;

    fn bytes<const N: usize>(seed: u64, what: &str) -> Box<[u8; N]> {
        let mut out = Box::new([0; N]);
        blake3::Hasher::new().update(&seed.to_le_bytes()).update(what.as_bytes()).finalize_xof().fill(&mut out[..]);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn boundaries_are_those_of_the_fastcdc_crate(seed: u64, length in 0usize..300_000, letters in 1u8..=255) {
            let words = bytes::<2048>(seed, "gear");
            let gear: Vec<u64> = words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
            let cutter = Cutter::new(Box::new(Zeroizing::new(gear.clone().try_into().unwrap())), 64 << 10);
            let data: Vec<u8> = bytes::<300_000>(seed, "data")[..length].iter().map(|byte| byte % letters).collect();
            let shifted: Vec<u64> = gear.iter().map(|word| word << 1).collect();
            let (s, l) = (cutter.strict, cutter.lax);
            let (_, theirs) = cut_gear(&data, 32 << 10, 64 << 10, 256 << 10, s, l, s << 1, l << 1, &gear, &shifted);
            prop_assert_eq!(cutter.cut(&data, 0), theirs);
            if theirs < data.len() {
                prop_assert_eq!(cutter.ends(&data, theirs), Some(true));
            }
            let first = (0..theirs).find(|length| cutter.ends(&data, *length) == Some(true));
            prop_assert_eq!(first, None);
        }
    }
}
