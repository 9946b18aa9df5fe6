//! How much of the packs a verification reads.

use std::collections::BTreeSet;

use lifeboat_format::id::PackId;
use lifeboat_format::manifest::PackRef;
use serde::Serialize;

/// What is done with packs.
#[derive(Debug, Clone, Default)]
pub struct PackReading {
    /// Also decrypt and decompress what is read, and check each chunk.
    pub decrypt: bool,
    /// Which packs are read. Of the others, only the size that a listing tells is checked.
    pub packs: PacksRead,
}

/// Which packs are read.
#[derive(Debug, Clone, Default)]
pub enum PacksRead {
    /// All.
    #[default]
    All,
    /// A random share of their bytes.
    Share(PackShare),
    /// These.
    Only(BTreeSet<PackId>),
}

impl From<bool> for PackReading {
    /// All packs are read; `decrypt` says whether they are decrypted, too.
    fn from(decrypt: bool) -> Self {
        Self { decrypt, packs: PacksRead::All }
    }
}

/// A random share of packs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PackShare {
    /// Of their bytes, more than 0 and up to 100.
    pub percent: f64,
    /// The same seed chooses the same packs.
    pub seed: u64,
}

impl PackShare {
    /// A share of these packs or those.
    #[must_use]
    pub fn random(percent: f64) -> Self {
        // So short that it can be typed again.
        Self { percent, seed: u64::from(rand::random::<u32>()) }
    }
}

/// How much of the packs a share covered, summed over all replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Packs that were read.
    pub packs: u64,
    /// Packs that snapshots need.
    pub of_packs: u64,
    /// The bytes of both.
    pub bytes: u64,
    /// See `of_packs`.
    pub of_bytes: u64,
}

impl PacksRead {
    /// The packs to read, of all `packs` that snapshots need in a replica.
    pub(crate) fn choose<P: Iterator<Item = PackRef>>(&self, packs: impl Fn() -> P) -> Chosen<'_> {
        match self {
            Self::All => Chosen::All,
            Self::Only(these) => Chosen::Only(these),
            Self::Share(PackShare { percent, seed }) => {
                let key = blake3::derive_key("lifeboat verify --read-data-subset", &seed.to_le_bytes());
                let mut ranked: Vec<(u64, u32)> =
                    packs().map(|pack| (rank(&key, &pack.id), pack.size.min(u32::MAX.into()) as u32)).collect();
                ranked.sort_unstable();
                let total: u64 = ranked.iter().map(|(_, size)| u64::from(*size)).sum();
                let (wanted, mut bytes, mut last) = (total as f64 * percent / 100.0, 0_u64, None);
                for (rank, size) in ranked {
                    if bytes as f64 >= wanted {
                        break;
                    }
                    bytes += u64::from(size);
                    last = Some(rank);
                }
                Chosen::UpTo(key, last)
            }
        }
    }
}

/// The packs that were chosen.
pub(crate) enum Chosen<'a> {
    All,
    Only(&'a BTreeSet<PackId>),
    /// Those whose rank under this key is no higher.
    UpTo([u8; 32], Option<u64>),
}

impl Chosen<'_> {
    pub(crate) fn contain(&self, pack: &PackId) -> bool {
        match self {
            Self::All => true,
            Self::Only(these) => these.contains(pack),
            Self::UpTo(key, last) => last.is_some_and(|last| rank(key, pack) <= last),
        }
    }
}

/// The place of a pack in the order of this key. It is as good as random.
fn rank(key: &[u8; 32], pack: &PackId) -> u64 {
    let hash = blake3::keyed_hash(key, pack.to_string().as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_bytes_and_another_seed_chooses_others() {
        let pack =
            |n: u64| PackRef { id: PackId::of(&n.to_le_bytes()), size: 1000 + 10 * n, content: 1, generation: 1 };
        let packs: Vec<PackRef> = (0..200).map(pack).collect();
        let total: u64 = packs.iter().map(|pack| pack.size).sum();
        let chosen = |percent: f64, seed: u64| -> BTreeSet<PackId> {
            let reading = PacksRead::Share(PackShare { percent, seed });
            let chosen = reading.choose(|| packs.iter().copied());
            packs.iter().map(|pack| pack.id).filter(|pack| chosen.contain(pack)).collect()
        };
        for (percent, seed) in [(5.0, 1), (5.0, 2), (33.3, 1), (100.0, 1)] {
            let found = chosen(percent, seed);
            let bytes: u64 = packs.iter().filter(|pack| found.contains(&pack.id)).map(|pack| pack.size).sum();
            let share = 100.0 * bytes as f64 / total as f64;
            assert!((percent..percent + 1.5).contains(&share), "{percent} % of seed {seed} is {share} %");
        }
        assert!(chosen(5.0, 1) == chosen(5.0, 1) && chosen(5.0, 1) != chosen(5.0, 2));
        // Whoever verifies each week reads all in the end.
        let seen: BTreeSet<PackId> = (0..200).flat_map(|seed| chosen(5.0, seed)).collect();
        assert_eq!(seen.len(), packs.len());
        assert_eq!(chosen(0.001, 1).len(), 1, "a little is not nothing");
    }
}
