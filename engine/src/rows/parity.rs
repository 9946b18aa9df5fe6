//! Tells whether units that look alike are equal, although only a few bits of each are kept.
//!
//! For each unit, 12 bits of its hash are kept: its **mark**. For each group of units with the
//! hashes F₀ … Fₙ₋₁, eight **sums** are kept: Sⱼ = Σ (i+1)ʲ·Fᵢ modulo p = 2⁶¹ − 1, j = 0 … 7. They
//! are the check symbols of a Reed-Solomon code.
//!
//! [`Sums::agree`] is given the hashes of the units that were found again by mark and length. Let u
//! units be missing, at most eight. The first u sums give their hashes (a Vandermonde system). The
//! other 8 − u sums and the u marks must agree with these hashes. Suppose that e ≥ 1 of the units
//! that were found are wrong:
//!
//! - Each of them has the mark of another unit by chance, with probability 2⁻¹², because hashes are
//!   pseudo-random and the key is secret.
//! - If e ≤ 8 − u, the other sums certainly disagree, because any 8 columns of the code are
//!   independent.
//! - If e > 8 − u, the other sums agree with probability p^-(8−u), and the u marks with 2^-12u.
//!
//! So a wrong group is believed with a probability of at most 2^-(12e + 61(8−u) + 12u), where e >
//! 8 − u. It is largest for u = 8 and e = 1, namely 2⁻¹⁰⁸. This holds for each group in which a
//! changed unit was taken for an unchanged one. For 10¹² (2⁴⁰) such groups it is 2⁻⁶⁸.
//!
//! One case remains: a unit was changed into one that has the same 61-bit hash and lies in the same
//! place. The probability is 2⁻⁶⁰ for each changed unit (`hash.rs`), and 2⁻²⁰ for 10¹² of them.

use wide::u64x2;

/// How many units a group has. The last group of a chunk may have fewer.
pub(crate) const GROUP_UNITS: usize = 64;
/// How many sums a group has. As many of its units may be missing.
pub(crate) const GROUP_SUMS: usize = 8;

const PRIME: u64 = (1 << 61) - 1;
/// How many bits the lower half of a hash has.
const LOWER_HALF_BITS: u32 = 31;

/// A hash: an integer modulo 2⁶¹ − 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(u64);

impl From<u64> for Element {
    fn from(value: u64) -> Self {
        let folded = (value & PRIME) + (value >> 61);
        Self(if folded >= PRIME { folded - PRIME } else { folded })
    }
}

impl Element {
    /// The mark: the 12 bits that are kept of each hash.
    #[must_use]
    pub fn mark(self) -> u16 {
        self.0 as u16 & 0xFFF
    }

    /// As a number below 2⁶¹ − 1.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    fn minus(self, other: Self) -> Self {
        Self::from(self.0 + PRIME - other.0)
    }

    fn times(self, other: Self) -> Self {
        Self(product(self.0, other.0))
    }
}

const fn product(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    let folded = (product as u64 & PRIME) + (product >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

/// Expresses powers by binomials: (i+1)ʲ = Σₖ `POWERS[j][k]`·C(i, k). The factors are the k-th
/// differences of 1ʲ, 2ʲ, 3ʲ, … (Newton's series).
const POWERS: [[u64; GROUP_SUMS]; GROUP_SUMS] = {
    let mut powers = [[1; GROUP_SUMS]; GROUP_SUMS];
    let mut j = 0;
    while j < GROUP_SUMS {
        let mut at = 0;
        while at < GROUP_SUMS {
            powers[j][at] = (at as u64 + 1).pow(j as u32);
            at += 1;
        }
        let mut k = 1;
        while k < GROUP_SUMS {
            let mut at = GROUP_SUMS - 1;
            while at >= k {
                powers[j][at] -= powers[j][at - 1];
                at -= 1;
            }
            k += 1;
        }
        j += 1;
    }
    powers
};

/// The inverses modulo p of the numbers below [`GROUP_UNITS`]: n to the power p − 2 (Fermat).
const INVERSES: [Element; GROUP_UNITS] = {
    let mut inverses = [Element(0); GROUP_UNITS];
    let mut n = 1;
    while n < GROUP_UNITS {
        let (mut power, mut result, mut exponent) = (n as u64, 1, PRIME - 2);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = product(result, power);
            }
            power = product(power, power);
            exponent >>= 1;
        }
        inverses[n] = Element(result);
        n += 1;
    }
    inverses
};

/// The sums of one group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums(pub [Element; GROUP_SUMS]);

impl Sums {
    /// The sums of these hashes, of which there are at most [`GROUP_UNITS`].
    ///
    /// No hash is multiplied, since a stream has as many hashes as rows. For each hash, from the
    /// last to the first, each of eight numbers adds the one before it, and the first number adds
    /// the hash. The result is Σ C(i, k)·Fᵢ, k = 0 … 7, from which [`POWERS`] makes the sums. The
    /// halves of the hashes are summed side by side. 64 bits are enough, as C(64, 8) < 2³³.
    #[must_use]
    pub(crate) fn of(hashes: impl DoubleEndedIterator<Item = Element>) -> Self {
        let mut halves = [u64x2::ZERO; GROUP_SUMS];
        for hash in hashes.rev() {
            for k in (1..GROUP_SUMS).rev() {
                halves[k] += halves[k - 1];
            }
            halves[0] += u64x2::new([hash.0 & ((1 << LOWER_HALF_BITS) - 1), hash.0 >> LOWER_HALF_BITS]);
        }
        let binomial = halves.map(|half| {
            let [low, high] = half.to_array().map(u128::from);
            low + (high << LOWER_HALF_BITS)
        });
        Self(POWERS.map(|powers| {
            let sum: u128 = powers.iter().zip(binomial).map(|(power, sum)| u128::from(*power) * sum).sum();
            let folded = (sum & u128::from(PRIME)) + (sum >> 61);
            Element::from((folded as u64 & PRIME) + (folded >> 61) as u64)
        }))
    }

    fn minus(self, other: &Self) -> Self {
        let mut sums = self.0;
        sums.iter_mut().zip(other.0).for_each(|(sum, other)| *sum = sum.minus(other));
        Self(sums)
    }

    /// Whether these can be the sums of a group with these `marks` and `known` hashes. `None`
    /// stands for a missing hash. If more than [`GROUP_SUMS`] are missing, the answer is no.
    #[must_use]
    pub(crate) fn agree(&self, marks: &[u16], known: &[Option<Element>]) -> bool {
        let mut missing = [0; GROUP_SUMS];
        let mut count = 0;
        for (place, _) in known.iter().enumerate().filter(|(_, hash)| hash.is_none()) {
            if count == GROUP_SUMS {
                return false;
            }
            missing[count] = place;
            count += 1;
        }
        let missing = &missing[..count];
        let mut hashes = [Element::default(); GROUP_UNITS];
        hashes.iter_mut().zip(known).for_each(|(hash, known)| *hash = known.unwrap_or_default());
        let mut found = self.minus(&Self::of(hashes.into_iter())).0;
        solve(missing, &mut found[..count]);
        missing.iter().zip(found).for_each(|(place, hash)| hashes[*place] = hash);
        missing.iter().all(|place| hashes[*place].mark() == marks[*place]) && *self == Self::of(hashes.into_iter())
    }
}

/// Solves Σ xₘ·(placeₘ+1)ʲ = bⱼ, j = 0 … u−1, for x, in place. `places` must ascend. This is
/// algorithm 4.6.2 of Golub and Van Loan, Matrix Computations (Björck and Pereyra, 1970).
fn solve(places: &[usize], b: &mut [Element]) {
    let size = places.len();
    for (k, place) in places.iter().enumerate() {
        let node = Element::from(*place as u64 + 1);
        for i in (k + 1..size).rev() {
            b[i] = b[i].minus(node.times(b[i - 1]));
        }
    }
    for k in (0..size.saturating_sub(1)).rev() {
        for i in k + 1..size {
            b[i] = b[i].times(INVERSES[places[i] - places[i - k - 1]]);
        }
        for i in k..size - 1 {
            b[i] = b[i].minus(b[i + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group() -> impl Strategy<Value = Vec<Element>> {
        prop::collection::vec(any::<u64>().prop_map(Element::from), 1..=GROUP_UNITS)
    }

    proptest! {
        #[test]
        fn arithmetic_is_that_of_the_field(a: u64, b: u64, c in 1_u64..GROUP_UNITS as u64) {
            let (x, y) = (Element::from(a), Element::from(b));
            let (a, b, p) = (u128::from(a), u128::from(b), u128::from(PRIME));
            prop_assert_eq!(u128::from(x.0), a % p);
            prop_assert_eq!(u128::from(x.minus(y).0), (a % p + p - b % p) % p);
            prop_assert_eq!(u128::from(x.times(y).0), (a % p) * (b % p) % p);
            prop_assert_eq!(x.times(INVERSES[c as usize]).times(Element::from(c)), x);
        }

        #[test]
        fn sums_are_those_of_powers(hashes in group()) {
            let sum = |j: u32| {
                let products = hashes.iter().zip(1_u64..).map(|(hash, node)| hash.times(Element::from(node.pow(j))));
                products.fold(0, |sum, product| (sum + u128::from(product.0)) % u128::from(PRIME))
            };
            let sums = Sums::of(hashes.iter().copied()).0.map(|sum| u128::from(sum.0));
            prop_assert_eq!(sums, std::array::from_fn(|j| sum(j as u32)));
        }

        #[test]
        fn a_group_agrees_with_itself_though_some_are_missing(hashes in group(), missing in prop::collection::vec(0_usize..GROUP_UNITS, 0..=GROUP_SUMS)) {
            let sums = Sums::of(hashes.iter().copied());
            let marks: Vec<u16> = hashes.iter().map(|hash| hash.mark()).collect();
            let mut known: Vec<Option<Element>> = hashes.into_iter().map(Some).collect();
            missing.iter().filter(|place| **place < marks.len()).for_each(|place| known[*place] = None);
            prop_assert!(sums.agree(&marks, &known));
        }

        #[test]
        fn a_group_does_not_agree_with_another_one(
            hashes in group(),
            wrong in prop::collection::vec((0_usize..GROUP_UNITS, 1_u64..1 << 45), 1..4),
            missing in prop::collection::vec(0_usize..GROUP_UNITS, 0..=GROUP_SUMS),
        ) {
            let sums = Sums::of(hashes.iter().copied());
            let marks: Vec<u16> = hashes.iter().map(|hash| hash.mark()).collect();
            let mut known: Vec<Option<Element>> = hashes.iter().copied().map(Some).collect();
            missing.iter().filter(|place| **place < marks.len()).for_each(|place| known[*place] = None);
            for (place, by) in wrong {
                // The same mark, another hash.
                if let Some(Some(hash)) = known.get_mut(place) {
                    *hash = Element::from(hash.0 ^ by << 16);
                }
            }
            let changed = known.iter().zip(&hashes).any(|(known, hash)| known.is_some_and(|known| known != *hash));
            prop_assert_eq!(sums.agree(&marks, &known), !changed);
        }
    }

    #[test]
    fn the_largest_hashes_fit() {
        let largest = Element(PRIME - 1);
        let sums = Sums::of([largest; GROUP_UNITS].into_iter());
        let powers =
            |j: u32| (1..=GROUP_UNITS as u64).map(|node| u128::from(node.pow(j))).sum::<u128>() % u128::from(PRIME);
        let expected = std::array::from_fn(|j| Element::from((u128::from(PRIME) - powers(j as u32)) as u64));
        assert_eq!(sums.0, expected);
    }

    #[test]
    fn more_missing_than_sums_are_too_many() {
        let hashes: Vec<Element> = (0..GROUP_UNITS as u64).map(|n| Element::from(n * 12_345_678_901)).collect();
        let marks: Vec<u16> = hashes.iter().map(|hash| hash.mark()).collect();
        let known: Vec<Option<Element>> =
            hashes.iter().enumerate().map(|(place, hash)| (place > GROUP_SUMS).then_some(*hash)).collect();
        assert!(!Sums::of(hashes.iter().copied()).agree(&marks, &known));
    }
}
