//! How much of what packs hold is needed: in bytes of their content, as a pack stays as long as a single row of it is needed.
//!
//! Each manifest says what its snapshot does not need of each pack. Of several that stay, the one that needs most of a pack counts: what
//! others need is mostly part of that, as rows that are replaced do not come back.
//!
//! **Sparse packs** are those that would be worth writing anew. Whoever prunes cannot read them, but the next backup has the same rows at
//! hand again, from their source: it does not refer to these packs any more, and stores what it needs of them. They go once older snapshots have.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::id::PackId;
use crate::vault::manifest::{Manifest, PackRef};

/// A pack is sparse if at most one of so many bytes is needed …
const ONE_OF: u64 = 4;
/// … and all that are together make up one of so many that are stored: each time, maps are written anew.
const WORTH: u64 = 16;
/// What is needed of them is at most such a part of the newest snapshot, so that no night stores all at once, …
const SHARE: u64 = 32;
/// … or this much.
const LEAST: u64 = 16 << 20;

/// What one complete replica stores in packs that snapshots need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Ciphertext of these packs.
    pub stored_bytes: u64,
    /// Of these, what no snapshot needs: by the share of their content.
    pub unused_bytes: u64,
}

/// A pack that some snapshot needs.
#[derive(Clone, Copy)]
struct Use {
    size: u64,
    content: u64,
    unused: u64,
}

impl Use {
    fn needed(&self) -> u64 {
        self.content - self.unused
    }

    /// Of the ciphertext.
    fn unused_bytes(&self) -> u64 {
        (u128::from(self.size) * u128::from(self.unused) / u128::from(self.content.max(1))) as u64
    }

    fn is_sparse(&self) -> bool {
        self.content > 0 && self.needed().saturating_mul(ONE_OF) <= self.content
    }
}

/// What these snapshots, oldest first, leave unused, and the packs that are sparse, with those that were before.
pub(super) fn measure<'a>(
    snapshots: impl IntoIterator<Item = &'a Manifest>,
    mut sparse: BTreeSet<PackId>,
) -> (Space, BTreeSet<PackId>) {
    let mut packs: HashMap<PackId, Use> = HashMap::new();
    let mut newest = None;
    for manifest in snapshots {
        for (PackRef(id, size, content), unused) in manifest.packs_and_unused() {
            let unused = unused.min(*content);
            let pack = packs.entry(*id).or_insert(Use { size: *size, content: *content, unused });
            pack.unused = pack.unused.min(unused);
        }
        newest = Some(manifest);
    }
    let space = Space {
        stored_bytes: packs.values().map(|pack| pack.size).sum(),
        unused_bytes: packs.values().map(Use::unused_bytes).sum(),
    };
    let Some(newest) = newest else { return (space, sparse) };
    let of_newest = newest.packs.iter().filter_map(|pack| Some((pack.0, *packs.get(&pack.0)?)));
    let (due, others): (Vec<_>, Vec<_>) = of_newest.partition(|(id, _)| sparse.contains(id));
    let mut more: Vec<_> = others.into_iter().filter(|(_, pack)| pack.is_sparse()).collect();
    if more.iter().map(|(_, pack)| pack.unused_bytes()).sum::<u64>() <= space.stored_bytes / WORTH {
        return (space, sparse);
    }
    // The emptiest first.
    more.sort_by_key(|(id, pack)| (u128::from(pack.needed()) * u128::from(u32::MAX) / u128::from(pack.content), *id));
    let most = (newest.totals.raw_bytes / SHARE).max(LEAST);
    let mut needed: u64 = due.iter().map(|(_, pack)| pack.needed()).sum();
    sparse.extend(more.into_iter().map_while(|(id, pack)| {
        needed += pack.needed();
        (needed <= most).then_some(id)
    }));
    (space, sparse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::id::Digest;
    use crate::source::SourceFacts;
    use crate::vault::manifest::{MANIFEST_VERSION, Totals};

    const MIB: u64 = 1 << 20;

    fn id(pack: u8) -> PackId {
        Digest::of(&[pack])
    }

    /// Needs these MiB of the content of packs, each of 40 MiB, stored in 10.
    fn snapshot(raw: u64, needs: &[(u8, u64)]) -> Result<Manifest> {
        Ok(Manifest {
            version: MANIFEST_VERSION,
            vault: "v".to_owned(),
            dataset: "shop".parse()?,
            snapshot: "20261123T183244123Z-9f2c81aa".parse()?,
            predecessor: None,
            generation: 1,
            host: "db1".parse()?,
            started: chrono::DateTime::UNIX_EPOCH,
            finished: chrono::DateTime::UNIX_EPOCH,
            source: SourceFacts::default(),
            packs: needs.iter().map(|(pack, _)| PackRef(id(*pack), 10 * MIB, 40 * MIB)).collect(),
            unused: needs.iter().map(|(_, needed)| (40 - needed) * MIB).collect(),
            streams: Vec::new(),
            totals: Totals { raw_bytes: raw * MIB, ..Totals::default() },
        })
    }

    fn sparse(snapshots: &[Manifest], known: &[u8]) -> BTreeSet<PackId> {
        measure(snapshots, ids(known)).1
    }

    fn ids(packs: &[u8]) -> BTreeSet<PackId> {
        packs.iter().map(|pack| id(*pack)).collect()
    }

    #[test]
    fn what_the_neediest_snapshot_leaves_is_unused() -> Result<()> {
        let space = |snapshots: &[Manifest]| measure(snapshots, BTreeSet::new()).0;
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
        assert_eq!(sparse(&[snapshot(100, &needs)?], &[5]), ids(&[2, 4, 5]), "what is still due counts");
        Ok(())
    }
}
