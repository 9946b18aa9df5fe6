//! Which packs are sparse, and the list of them.
//!
//! Each manifest says how much of each pack its snapshot does not need, in bytes of the pack's
//! content. If several snapshots stay, the one that needs most of a pack counts. What the others
//! need is mostly a part of that, because rows that were replaced do not come back.
//!
//! **A pack is sparse** if no snapshot that stays needs more than a quarter of it, and if the
//! unused parts of all such packs are more than a 16th of what is stored. Those of which least is
//! needed are listed first, as far as the budget has room. A listed pack goes with the last older
//! snapshot that needs it. If that one stays for years, so does the pack. What was stored again of
//! each is at most a quarter, and only once.
//!
//! **The list** is in the state directory. Prune writes it, and the next backup obeys it. If it is
//! lost, backups may refer to these packs again until the next prune. That costs storage and
//! nothing else.

use std::collections::BTreeSet;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::manifest::{Manifest, PackRef};
use serde::{Deserialize, Serialize};

use super::Budget;
use crate::catalog::outlines::{ABSENT, Outline, Outlines, PackTable};
use crate::state::{StateDirectory, replace_file};

/// A pack is sparse if at most this part of its content is needed: a quarter.
const SPARSE_PART: u64 = 4;
/// Packs become sparse only if they waste more than this part of what is stored: a 16th. Each time,
/// the next backup also has to write its maps again.
const MIN_PART_WORTH_REWRITING: u64 = 16;

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
    table: &'a PackTable,
    /// How many bytes of each pack's content are needed, by number; [`NOT_NEEDED`] if no snapshot
    /// names it.
    needed: Vec<u32>,
    /// Its length, and how much of it the newest snapshot needs of each of its packs.
    newest: Option<(u64, Vec<(u32, u32)>)>,
}

const NOT_NEEDED: u32 = u32::MAX;

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

    fn is_sparse(&self) -> bool {
        self.needed.saturating_mul(SPARSE_PART) <= self.content
    }

    /// The part of it that is needed, times 2⁶⁴.
    fn share(&self) -> u128 {
        (u128::from(self.needed) << 64) / u128::from(self.content.max(1))
    }
}

impl<'a> Packs<'a> {
    /// The packs of those snapshots that `count`.
    pub(crate) fn of(outlines: &'a Outlines, count: impl Fn(&Outline) -> bool) -> Self {
        let table = outlines.packs();
        let mut packs = Self { table, needed: vec![NOT_NEEDED; table.len()], newest: None };
        let mut newest: Option<&SnapshotId> = None;
        // What has changed since the last one that counts. The rest is needed as it was.
        let (mut walk, mut changed) = (outlines.walk(), Vec::new());
        while let Some(outline) = walk.step() {
            changed.extend(walk.changes().iter().map(|(number, _)| *number));
            if !count(outline) {
                continue;
            }
            for number in changed.drain(..) {
                packs.need(number, walk.unused(number));
            }
            if newest.is_none_or(|newest| *newest < outline.snapshot) {
                newest = Some(&outline.snapshot);
                packs.newest = Some((outline.raw_bytes, Vec::new()));
            }
        }
        let mut walk = outlines.walk();
        while let (Some(newest), Some(outline)) = (newest, walk.step()) {
            if outline.snapshot == *newest
                && let Some((_, needs)) = &mut packs.newest
            {
                *needs = walk.packs().map(|(number, unused)| (number, content_needed(table, number, unused))).collect();
                break;
            }
        }
        packs
    }

    /// A snapshot needs all of this pack but so many bytes; [`ABSENT`]: it does not need it.
    fn need(&mut self, number: u32, unused: u32) {
        if unused == ABSENT {
            return;
        }
        let (pack, more) = (self.table.get(number), content_needed(self.table, number, unused));
        // If manifests contradict each other, what is needed of it by any counts for all.
        for number in self.table.numbers(&pack.id) {
            let needed = &mut self.needed[number as usize];
            *needed = if *needed == NOT_NEEDED { more } else { more.max(*needed) };
        }
    }

    /// The packs, each once.
    fn packs(&self) -> impl Iterator<Item = PackUse> {
        let needed = (0..).zip(&self.needed).filter(|(_, needed)| **needed != NOT_NEEDED);
        needed.filter_map(|(number, _)| self.pack(number).filter(|_| self.is_first(number)))
    }

    fn is_first(&self, number: u32) -> bool {
        self.table.numbers(&self.table.get(number).id).min() == Some(number)
    }

    fn pack(&self, number: u32) -> Option<PackUse> {
        let needed = u64::from(self.needed[number as usize]);
        let PackRef { size, content, .. } = self.table.get(number);
        (needed != u64::from(NOT_NEEDED)).then_some(PackUse { size, content, needed: needed.min(content) })
    }

    pub(crate) fn contains(&self, pack: &PackId) -> bool {
        self.table.numbers(pack).any(|number| self.needed[number as usize] != NOT_NEEDED)
    }

    pub(crate) fn space(&self) -> Space {
        let (mut stored_bytes, mut unused_bytes) = (0, 0);
        for pack in self.packs() {
            stored_bytes += pack.size;
            unused_bytes += pack.unused_bytes();
        }
        Space { stored_bytes, unused_bytes }
    }

    /// The packs that become sparse, besides those that are `known` to be. None if they waste too
    /// little.
    pub(crate) fn sparse(&self, known: &BTreeSet<PackId>) -> Vec<PackId> {
        let Some((raw_bytes, needs)) = &self.newest else { return Vec::new() };
        let others = needs.iter().map(|(number, needed)| (self.table.get(*number).id, *number, *needed));
        let others = others.filter(|(id, ..)| !known.contains(id));
        let others = others.filter_map(|(id, number, needed)| Some((id, needed, self.pack(number)?)));
        let mut sparse: Vec<_> = others.filter(|(.., pack)| pack.is_sparse()).collect();
        if sparse.iter().map(|(.., pack)| pack.unused_bytes()).sum::<u64>()
            <= self.space().stored_bytes / MIN_PART_WORTH_REWRITING
        {
            return Vec::new();
        }
        sparse.sort_by_key(|(id, _, pack)| (pack.share(), *id));
        let mut budget = Budget::after(*raw_bytes).without(self.due(known));
        sparse.into_iter().map_while(|(id, needed, _)| budget.take(needed.into()).then_some(id)).collect()
    }

    /// How many bytes of these packs the next backup stores again.
    pub(crate) fn due(&self, sparse: &BTreeSet<PackId>) -> u64 {
        let needs = self.newest.iter().flat_map(|(_, needs)| needs);
        let due = needs.filter(|(number, _)| sparse.contains(&self.table.get(*number).id));
        due.map(|(_, needed)| u64::from(*needed)).sum()
    }
}

/// How many bytes of its content are needed of a pack.
fn content_needed(table: &PackTable, number: u32, unused: u32) -> u32 {
    (table.get(number).content as u32).saturating_sub(unused)
}

/// How many bytes of the content of each of its packs a snapshot needs.
fn needs(snapshot: &Manifest) -> impl Iterator<Item = (PackId, u64)> {
    let packs = snapshot.packs_and_unused();
    packs.map(|(pack, unused)| (pack.id, pack.content.saturating_sub(unused)))
}

/// How many bytes of these packs the newest snapshot needs: the run that follows it stores them
/// again.
fn due(sparse: &BTreeSet<PackId>, newest: &Manifest) -> u64 {
    needs(newest).filter(|(id, _)| sparse.contains(id)).map(|(_, needed)| needed).sum()
}

/// The budget of the run that follows the newest snapshot, without what is due of these packs.
pub(crate) fn budget_beside(sparse: &BTreeSet<PackId>, newest: &Manifest) -> Budget {
    Budget::after(newest.accounting.raw_bytes).without(due(sparse, newest))
}

/// Reads the list. It is empty if the file is missing or damaged.
pub(crate) fn read(state: &StateDirectory, dataset: &Name) -> BTreeSet<PackId> {
    let text = state.dataset(dataset).ok().and_then(|folder| std::fs::read(folder.join("sparse")).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Replaces the list.
pub(crate) fn write(state: &StateDirectory, dataset: &Name, packs: &BTreeSet<PackId>) -> Result<()> {
    let text = serde_json::to_vec(packs).context(Class::Failed, || "cannot write the list of sparse packs as JSON")?;
    replace_file(&state.dataset(dataset)?.join("sparse"), &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::documents::StoredAs;
    use crate::renewal::tests::{MIB, ids, snapshot};
    use lifeboat_base::Error;
    use lifeboat_format::id::Digest;
    use lifeboat_format::manifest::Accounting;

    /// The outlines of these, each an hour later than the one before it.
    fn outlines(snapshots: &[Manifest]) -> Result<Outlines> {
        let mut outlines = Outlines::default();
        for (hour, manifest) in (0..).zip(snapshots) {
            let time = manifest.snapshot.time() + chrono::TimeDelta::hours(hour);
            let manifest = Manifest { snapshot: SnapshotId::new(time, 0), ..manifest.clone() };
            outlines.insert(&manifest, StoredAs { hash: Digest([7; 32]), bytes: 1000 })?;
        }
        Ok(outlines)
    }

    fn sparse(snapshots: &[Manifest], known: &[u8]) -> Result<BTreeSet<PackId>> {
        Ok(Packs::of(&outlines(snapshots)?, |_| true).sparse(&ids(known)).into_iter().collect())
    }

    #[test]
    fn what_the_neediest_snapshot_leaves_is_unused() -> Result<()> {
        let space = |snapshots: &[Manifest]| Ok::<_, Error>(Packs::of(&outlines(snapshots)?, |_| true).space());
        let snapshots = [snapshot(100, &[(1, 40), (2, 30)])?, snapshot(100, &[(2, 20), (3, 10)])?];
        assert_eq!(space(&snapshots)?, Space { stored_bytes: 30 * MIB, unused_bytes: 10 * MIB });
        assert_eq!(space(&snapshots[1..])?, Space { stored_bytes: 20 * MIB, unused_bytes: (5 + 7) * MIB + MIB / 2 });
        let with =
            |unused| Manifest { accounting: Accounting { unused, ..Accounting::default() }, ..snapshots[1].clone() };
        let told_nothing = with(Vec::new());
        assert_eq!(space(&[told_nothing])?, Space { stored_bytes: 20 * MIB, unused_bytes: 0 });
        let nonsense = with(vec![u64::MAX; 9]);
        assert_eq!(space(&[nonsense])?, Space { stored_bytes: 20 * MIB, unused_bytes: 20 * MIB });
        assert_eq!(space(&[])?, Space::default());
        Ok(())
    }

    #[test]
    fn packs_are_sparse_if_no_snapshot_needs_more_than_a_quarter_and_that_is_worth_it() -> Result<()> {
        let newest = snapshot(300, &[(1, 10), (2, 11), (3, 40)])?;
        assert_eq!(sparse(std::slice::from_ref(&newest), &[])?, ids(&[1]));
        assert_eq!(sparse(&[snapshot(300, &[(1, 40)])?, newest.clone()], &[])?, ids(&[]), "an older one needs it");
        assert_eq!(
            sparse(&[snapshot(9, &[(4, 1)])?, newest.clone()], &[])?,
            ids(&[1]),
            "the newest does not refer to 4"
        );
        let full = (10..22).map(|pack| (pack, 40));
        let large: Vec<_> = [(1, 10)].into_iter().chain(full).collect();
        assert_eq!(sparse(&[snapshot(400, &large)?], &[])?, ids(&[]), "7.5 MiB of 130");
        Ok(())
    }

    #[test]
    fn the_emptiest_go_first_and_not_all_at_once() -> Result<()> {
        let needs = [(1, 9), (2, 1), (3, 10), (4, 2), (5, 8)];
        assert_eq!(sparse(&[snapshot(100, &needs)?], &[])?, ids(&[2, 4, 5]), "16 MiB");
        assert_eq!(sparse(&[snapshot(30 * 32, &needs)?], &[])?, ids(&[1, 2, 3, 4, 5]), "a 32nd");
        assert_eq!(sparse(&[snapshot(100, &needs)?], &[5])?, ids(&[2, 4]), "what is still due counts");
        let older = snapshot(100, &[(1, 10), (2, 10)])?;
        let newest = snapshot(100, &[(1, 8), (2, 8)])?;
        assert_eq!(sparse(&[older, newest], &[])?, ids(&[1, 2]), "what older ones need is not stored again");
        assert_eq!(Packs::of(&outlines(&[snapshot(9, &needs)?])?, |_| true).due(&ids(&[2, 5, 7])), 9 * MIB);
        Ok(())
    }
}
