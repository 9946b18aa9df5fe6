//! How much of what packs hold is needed: in bytes of their content, as a pack stays as long as a
//! single row of it is needed.
//!
//! Each manifest says what its snapshot does not need of each pack. Of several that stay, the one
//! that needs most of a pack counts: what others need is mostly part of that, as rows that are
//! replaced do not come back.
//!
//! **Sparse packs** are those that would be worth writing anew. Whoever prunes cannot read them,
//! but the next backup has the same rows at hand again, from their source: it does not refer to
//! these packs any more, and stores what it needs of them. They go once older snapshots have.
//!
//! A pack is sparse if no snapshot that stays needs more than a quarter of it, and if the sparse
//! packs together waste more than a 16th of what is stored. At most a 32nd of the newest snapshot
//! (at least 16 MiB) is stored again in one night. If an older snapshot stays for years, each of
//! its packs has cost a quarter more, once.

use std::collections::{BTreeSet, HashMap};

use lifeboat_format::id::PackId;
use lifeboat_format::manifest::{Manifest, PackRef};
use serde::{Deserialize, Serialize};

/// A pack is sparse if at most one of so many bytes is needed …
const SPARSE_PART: u64 = 4;
/// … and all that are together make up one of so many that are stored: each time, maps are written
/// anew.
const MIN_PART_WORTH_REWRITING: u64 = 16;
/// What is needed of them is at most such a part of the newest snapshot, so that no night stores
/// all at once, …
const MAX_PART_PER_NIGHT: u64 = 32;
/// … or this much.
const MIN_BYTES_PER_NIGHT: u64 = 16 << 20;

/// What one complete replica stores in packs that snapshots need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Ciphertext of these packs.
    pub stored_bytes: u64,
    /// Of these, what no snapshot needs: by the share of their content.
    pub unused_bytes: u64,
}

/// The packs that some snapshots need.
pub(crate) struct Packs<'a> {
    packs: HashMap<PackId, PackUse>,
    newest: Option<&'a Manifest>,
}

#[derive(Clone, Copy)]
struct PackUse {
    /// Of its ciphertext.
    size: u64,
    content: u64,
    /// Of its content.
    needed: u64,
}

impl PackUse {
    /// Of the ciphertext.
    fn unused_bytes(&self) -> u64 {
        (u128::from(self.size) * u128::from(self.content - self.needed) / u128::from(self.content.max(1))) as u64
    }

    /// How much of it is needed, as a number to compare.
    fn share(&self) -> u128 {
        (u128::from(self.needed) << 64) / u128::from(self.content.max(1))
    }
}

impl<'a> Packs<'a> {
    /// Of these snapshots, oldest first.
    pub(crate) fn of(snapshots: impl IntoIterator<Item = &'a Manifest>) -> Self {
        let (mut packs, mut newest) = (HashMap::<PackId, PackUse>::new(), None);
        for manifest in snapshots {
            for (PackRef(id, size, content), unused) in manifest.packs_and_unused() {
                let pack = packs.entry(*id).or_insert(PackUse { size: *size, content: *content, needed: 0 });
                pack.needed = pack.needed.max(pack.content.saturating_sub(unused));
            }
            newest = Some(manifest);
        }
        Self { packs, newest }
    }

    pub(crate) fn contains(&self, pack: &PackId) -> bool {
        self.packs.contains_key(pack)
    }

    pub(crate) fn space(&self) -> Space {
        Space {
            stored_bytes: self.packs.values().map(|pack| pack.size).sum(),
            unused_bytes: self.packs.values().map(PackUse::unused_bytes).sum(),
        }
    }

    /// Those that are sparse, if that is worth it, besides these that are already.
    pub(crate) fn sparse(&self, known: &BTreeSet<PackId>) -> Vec<PackId> {
        let Some(newest) = self.newest else { return Vec::new() };
        let of_newest = newest.packs.iter().filter_map(|pack| Some((pack.0, *self.packs.get(&pack.0)?)));
        let (due, others): (Vec<_>, Vec<_>) = of_newest.partition(|(id, _)| known.contains(id));
        let is_sparse = |pack: &PackUse| pack.needed.saturating_mul(SPARSE_PART) <= pack.content;
        let mut sparse: Vec<_> = others.into_iter().filter(|(_, pack)| is_sparse(pack)).collect();
        if sparse.iter().map(|(_, pack)| pack.unused_bytes()).sum::<u64>()
            <= self.space().stored_bytes / MIN_PART_WORTH_REWRITING
        {
            return Vec::new();
        }
        // The emptiest first.
        sparse.sort_by_key(|(id, pack)| (pack.share(), *id));
        let most = (newest.totals.raw_bytes / MAX_PART_PER_NIGHT).max(MIN_BYTES_PER_NIGHT);
        let mut needed: u64 = due.iter().map(|(_, pack)| pack.needed).sum();
        let fits = sparse.into_iter().map_while(|(id, pack)| {
            needed += pack.needed;
            (needed <= most).then_some(id)
        });
        fits.collect()
    }

    /// Of the content of these packs, what the newest snapshot needs.
    pub(crate) fn needed_of(&self, sparse: &BTreeSet<PackId>) -> u64 {
        let packs = self.newest.iter().flat_map(|newest| newest.packs_and_unused());
        packs.filter(|(pack, _)| sparse.contains(&pack.0)).map(|(pack, unused)| pack.2.saturating_sub(unused)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use lifeboat_base::Result;
    use lifeboat_base::facts::SourceFacts;
    use lifeboat_format::id::Digest;
    use lifeboat_format::manifest::{MANIFEST_VERSION, Totals};

    const MIB: u64 = 1 << 20;

    fn id(pack: u8) -> PackId {
        Digest::of(&[pack])
    }

    /// Needs these MiB of the content of packs, each of 40 MiB, stored in 10.
    fn snapshot(raw: u64, needs: &[(u8, u64)]) -> Result<Manifest> {
        let packs = needs.iter().map(|(pack, _)| PackRef(id(*pack), 10 * MIB, 40 * MIB)).collect();
        Ok(Manifest {
            version: MANIFEST_VERSION,
            vault: "v".to_owned(),
            dataset: "shop".parse()?,
            snapshot: "20261123T183244123Z-9f2c81aa".parse()?,
            predecessor: None,
            generation: 1,
            host: "db1".parse()?,
            started: DateTime::UNIX_EPOCH,
            finished: DateTime::UNIX_EPOCH,
            source: SourceFacts::default(),
            packs,
            unused: needs.iter().map(|(_, needed)| (40 - needed) * MIB).collect(),
            streams: Vec::new(),
            totals: Totals { raw_bytes: raw * MIB, ..Totals::default() },
        })
    }

    fn sparse(snapshots: &[Manifest], known: &[u8]) -> BTreeSet<PackId> {
        Packs::of(snapshots).sparse(&ids(known)).into_iter().collect()
    }

    fn ids(packs: &[u8]) -> BTreeSet<PackId> {
        packs.iter().map(|pack| id(*pack)).collect()
    }

    #[test]
    fn what_the_neediest_snapshot_leaves_is_unused() -> Result<()> {
        let space = |snapshots: &[Manifest]| Packs::of(snapshots).space();
        let snapshots = [snapshot(100, &[(1, 40), (2, 30)])?, snapshot(100, &[(2, 20), (3, 10)])?];
        assert_eq!(space(&snapshots), Space { stored_bytes: 30 * MIB, unused_bytes: 10 * MIB });
        assert_eq!(space(&snapshots[1..]), Space { stored_bytes: 20 * MIB, unused_bytes: (5 + 7) * MIB + MIB / 2 });
        let told_nothing = Manifest { unused: Vec::new(), ..snapshots[1].clone() };
        assert_eq!(space(&[told_nothing]), Space { stored_bytes: 20 * MIB, unused_bytes: 0 });
        let nonsense = Manifest { unused: vec![u64::MAX; 9], ..snapshots[1].clone() };
        assert_eq!(space(&[nonsense]), Space { stored_bytes: 20 * MIB, unused_bytes: 20 * MIB });
        assert_eq!(space(&[]), Space::default());
        Ok(())
    }

    #[test]
    fn packs_are_sparse_if_no_snapshot_needs_more_than_a_quarter_and_that_is_worth_it() -> Result<()> {
        let newest = snapshot(300, &[(1, 10), (2, 11), (3, 40)])?;
        assert_eq!(sparse(std::slice::from_ref(&newest), &[]), ids(&[1]));
        assert_eq!(sparse(&[snapshot(300, &[(1, 40)])?, newest.clone()], &[]), ids(&[]), "an older one needs it");
        assert_eq!(
            sparse(&[snapshot(9, &[(4, 1)])?, newest.clone()], &[]),
            ids(&[1]),
            "the newest does not refer to 4"
        );
        let full = (10..22).map(|pack| (pack, 40));
        let large: Vec<_> = [(1, 10)].into_iter().chain(full).collect();
        assert_eq!(sparse(&[snapshot(400, &large)?], &[]), ids(&[]), "7.5 MiB of 130");
        Ok(())
    }

    #[test]
    fn the_emptiest_go_first_and_not_all_at_once() -> Result<()> {
        let needs = [(1, 9), (2, 1), (3, 10), (4, 2), (5, 8)];
        assert_eq!(sparse(&[snapshot(100, &needs)?], &[]), ids(&[2, 4, 5]), "16 MiB");
        assert_eq!(sparse(&[snapshot(30 * 32, &needs)?], &[]), ids(&[1, 2, 3, 4, 5]), "a 32nd");
        assert_eq!(sparse(&[snapshot(100, &needs)?], &[5]), ids(&[2, 4]), "what is still due counts");
        assert_eq!(Packs::of(&[snapshot(9, &needs)?]).needed_of(&ids(&[2, 5, 7])), 9 * MIB);
        Ok(())
    }
}
