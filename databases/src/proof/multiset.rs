//! Multisets of items that are compared without keeping the items: as a count and the sum of keyed
//! 128-bit hashes.
//!
//! Order does not matter, but repetition does. Each proof draws a key of its own, so nobody can
//! prepare two different multisets that look alike (incremental hashing over addition: Bellare and
//! Micciancio, 1997).

use std::collections::{BTreeMap, BTreeSet};

use super::ProofResult;

/// No more differences are listed one by one.
const MAX_DIFFERENCES: usize = 50;

/// The hash key of one proof.
pub(crate) type ProofKey = [u8; 32];

/// What is kept of a multiset: enough to tell whether two are equal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Multiset {
    pub(crate) count: u64,
    sum: u128,
}

impl Multiset {
    /// Adds the item that `hasher` has read.
    pub(crate) fn add(&mut self, hasher: &blake3::Hasher) {
        let hash = hasher.finalize();
        let half = hash.as_bytes().first_chunk::<16>().copied().unwrap_or_default();
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
        self.count += 1;
    }

    /// Puts all of it into a hash, as a part of a greater item.
    pub(crate) fn put_into(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&self.count.to_le_bytes()).update(&self.sum.to_le_bytes());
    }
}

/// Multisets by title.
pub(crate) type Titled = BTreeMap<String, Multiset>;

/// Lists in words how `restored` differs from `stored`.
pub(crate) fn tell(kind: &str, item: &str, stored: &Titled, restored: &Titled, differences: &mut Vec<String>) {
    let titles: BTreeSet<&String> = stored.keys().chain(restored.keys()).collect();
    for title in titles {
        match (stored.get(title), restored.get(title)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) if a.count != b.count => {
                differences.push(format!("{kind} {title}: {} {item} stored, {} restored", a.count, b.count));
            }
            (Some(_), Some(_)) => differences.push(format!("{kind} {title}: {item} differ")),
            (Some(_), None) => differences.push(format!("{kind} {title} is missing in the restored database")),
            (None, _) => differences.push(format!("{kind} {title} is only in the restored database")),
        }
    }
}

/// Shortens long lists of differences and notes to the first ones and how many more there are.
pub(crate) fn shorten(proof: &mut ProofResult) {
    for list in [&mut proof.differences, &mut proof.notes] {
        let all = list.len();
        if all > MAX_DIFFERENCES {
            list.truncate(MAX_DIFFERENCES);
            list.push(format!("… and {} more", all - MAX_DIFFERENCES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multiset(items: &[&str]) -> Multiset {
        let mut multiset = Multiset::default();
        for item in items {
            multiset.add(blake3::Hasher::new_keyed(&[7; 32]).update(item.as_bytes()));
        }
        multiset
    }

    #[test]
    fn order_does_not_matter_and_repetition_does() {
        assert_eq!(multiset(&["a", "b", "b"]), multiset(&["b", "a", "b"]));
        assert_ne!(multiset(&["a", "b", "b"]), multiset(&["a", "a", "b"]));
        assert_ne!(multiset(&["a", "b"]), multiset(&["a", "b", "b"]));
        assert_ne!(multiset(&["ab"]), multiset(&["ba"]));
    }
}
