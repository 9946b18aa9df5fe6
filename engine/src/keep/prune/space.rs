//! Counts how much of each pack is needed, in bytes of its content. A pack stays as long as a
//! single row of it is needed.
//!
//! Each manifest says how much of each pack its snapshot does not need. If several snapshots stay,
//! the one that needs most of a pack counts. What the others need is mostly a part of that, because
//! rows that were replaced do not come back.
//!
//! **Sparse packs** are mostly unused. The host that prunes cannot read a pack, so it cannot
//! rewrite one. But the next backup reads the same rows from their source. It does not refer to
//! sparse packs, and stores again what it needs of them. They go with the last older snapshot that
//! needs them.
//!
//! A pack is sparse if no snapshot that stays needs more than a quarter of it, and if the unused
//! parts of all such packs are more than a 16th of what is stored. One night stores again at most a
//! 32nd of the newest snapshot, or 16 MiB if that is more. If an older snapshot stays for years, so
//! do its packs. What was stored again of each is at most a quarter, and only once.

use std::collections::{BTreeSet, HashMap};

use lifeboat_format::id::PackId;
use lifeboat_format::manifest::{Manifest, PackRef};
use serde::{Deserialize, Serialize};

/// A pack is sparse if at most this part of its content is needed: a quarter.
const SPARSE_PART: u64 = 4;
/// Packs become sparse only if they waste more than this part of what is stored: a 16th. Each time,
/// the next backup also has to write its maps again.
const MIN_PART_WORTH_REWRITING: u64 = 16;
/// At most this part of the newest snapshot is stored again at once: a 32nd. So no single backup
/// stores everything again.
const MAX_PART_PER_NIGHT: u64 = 32;
/// If that is less than this, so much may be stored again.
const MIN_BYTES_PER_NIGHT: u64 = 16 << 20;

/// How much one complete replica stores in packs that snapshots need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// The size of these packs, in bytes of ciphertext.
    pub stored_bytes: u64,
    /// The part of `stored_bytes` that no snapshot needs, estimated by the share of the content.
    pub unused_bytes: u64,
}

/// The packs that a number of snapshots need.
pub(crate) struct Packs<'a> {
    packs: HashMap<PackId, PackUse>,
    newest: Option<&'a Manifest>,
}

#[derive(Clone, Copy)]
struct PackUse {
    /// The length of its ciphertext, in bytes.
    size: u64,
    /// The length of its content, in bytes.
    content: u64,
    /// How many bytes of its content are needed.
    needed: u64,
}

impl PackUse {
    /// The unused part of the ciphertext, in bytes.
    fn unused_bytes(&self) -> u64 {
        (u128::from(self.size) * u128::from(self.content - self.needed) / u128::from(self.content.max(1))) as u64
    }

    /// The part of it that is needed, times 2⁶⁴.
    fn share(&self) -> u128 {
        (u128::from(self.needed) << 64) / u128::from(self.content.max(1))
    }
}

impl<'a> Packs<'a> {
    /// The packs of these snapshots, which come oldest first.
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

    /// The packs that become sparse, besides those that are `known` to be. None if they waste too
    /// little.
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
        // Those of which least is needed come first.
        sparse.sort_by_key(|(id, pack)| (pack.share(), *id));
        let most = (newest.totals.raw_bytes / MAX_PART_PER_NIGHT).max(MIN_BYTES_PER_NIGHT);
        let mut needed: u64 = due.iter().map(|(_, pack)| pack.needed).sum();
        let fits = sparse.into_iter().map_while(|(id, pack)| {
            needed += pack.needed;
            (needed <= most).then_some(id)
        });
        fits.collect()
    }

    /// How many bytes of the content of these packs the newest snapshot needs.
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

    /// A snapshot that needs so many MiB of each of these packs. Each pack has 40 MiB of content in
    /// 10 MiB of ciphertext.
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
