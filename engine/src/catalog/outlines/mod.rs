//! Outlines: what upkeep needs to know of manifests, of many snapshots at once.
//!
//! A manifest names every pack of its snapshot, and the next one names nearly the same packs. So
//! packs have numbers here ([`PackTable`]), and of each snapshot only that is held in which it
//! differs from the one before it, in the order in which they were read: the packs that are new,
//! gone, or of which it needs more or less. Such a difference takes a few bytes. So what a
//! hundred snapshots take is little more than what one takes, where most packs are used as before;
//! if each snapshot needs something else of every pack, it is about ten times as much. Bytes are
//! not rounded for that: operators see their sums, and they decide which packs are sparse.
//! Whoever needs the packs themselves walks over all snapshots ([`OutlineWalk`]).

mod kept;
mod pack_table;
mod reading;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_base::Result;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::manifest::{Manifest, PackRef, Previous};
use lifeboat_format::needs::SnapshotNeeds;
use lifeboat_format::varint;
use serde::{Deserialize, Serialize};

pub(crate) use self::kept::KeptOutlines;
pub(crate) use self::pack_table::PackTable;
pub(crate) use self::reading::ReadOutlines;
use super::documents::StoredAs;
use super::inventory::Inventory;

/// What stands in a [`OutlineWalk`] for a pack that the snapshot does not name.
pub(crate) const ABSENT: u32 = u32::MAX;

/// What upkeep needs to know of one manifest, beside its packs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outline {
    pub(crate) snapshot: SnapshotId,
    /// 0 in format 1.
    pub(crate) sequence: u64,
    pub(crate) previous: Option<NamedBefore>,
    pub(crate) started: DateTime<Utc>,
    pub(crate) finished: DateTime<Utc>,
    /// Whether it lacks a database of its source.
    pub(crate) is_partial: bool,
    /// The key generations of its packs.
    pub(crate) generations: Vec<u32>,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    /// The hash of the manifest as it is stored.
    pub(crate) hash: Digest,
    /// The length of this object.
    pub(crate) object_bytes: u64,
    /// How many packs the table has with this snapshot.
    packs_until: u32,
    /// Where its changes end.
    changes_until: u64,
    /// Its place among those that were read.
    #[serde(skip)]
    place: u32,
}

/// The snapshot before, as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamedBefore {
    pub(crate) snapshot: SnapshotId,
    pub(crate) blake3: Option<Digest>,
}

impl From<Previous> for NamedBefore {
    fn from(Previous { snapshot, blake3 }: Previous) -> Self {
        Self { snapshot, blake3 }
    }
}

impl Outline {
    /// The id of the snapshot before it.
    pub(crate) fn predecessor(&self) -> Option<&SnapshotId> {
        self.previous.as_ref().map(|previous| &previous.snapshot)
    }

    /// Its place in the vectors that are made for all outlines.
    pub(crate) fn place(&self) -> usize {
        self.place as usize
    }
}

/// Outlines by snapshot.
pub(crate) type OutlineMap = BTreeMap<SnapshotId, Arc<Outline>>;

/// The outlines of snapshots of one dataset.
#[derive(Default)]
pub(crate) struct Outlines {
    packs: PackTable,
    /// In the order in which they were read.
    all: Vec<Arc<Outline>>,
    /// For each of them, what changes of the packs: how far the number of the next one is from the
    /// one before it, and how many bytes of its content are not needed, plus one; 0 if it is not
    /// named any more.
    changes: Vec<u8>,
    /// What the last of them says of each pack, or [`ABSENT`].
    last: Vec<u32>,
    /// The packs that the last of them names, in the order of their numbers.
    named: Vec<u32>,
}

impl Outlines {
    /// The packs that these snapshots name.
    pub(crate) fn packs(&self) -> &PackTable {
        &self.packs
    }

    /// By snapshot. Of one that was read twice, the last.
    pub(crate) fn by_snapshot(&self) -> OutlineMap {
        self.all.iter().map(|outline| (outline.snapshot.clone(), outline.clone())).collect()
    }

    /// As [`Self::by_snapshot`], to find a few among many.
    fn find_all(&self) -> HashMap<&SnapshotId, &Arc<Outline>> {
        self.all.iter().map(|outline| (&outline.snapshot, outline)).collect()
    }

    /// How many snapshots were read.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds the snapshot of a manifest, which is stored like that.
    ///
    /// # Errors
    /// It names a pack that cannot be.
    pub(crate) fn insert(&mut self, manifest: &Manifest, stored: StoredAs) -> Result<Arc<Outline>> {
        let outline = Outline {
            snapshot: manifest.snapshot.clone(),
            sequence: manifest.sequence,
            previous: manifest.previous.clone().map(NamedBefore::from),
            started: manifest.started,
            finished: manifest.finished,
            is_partial: !manifest.source.skipped.is_empty(),
            generations: manifest.generations().into_iter().collect(),
            raw_bytes: manifest.accounting.raw_bytes,
            stored_bytes: manifest.accounting.stored_bytes,
            hash: stored.hash,
            object_bytes: stored.bytes,
            packs_until: 0,
            changes_until: 0,
            place: 0,
        };
        let mut numbers = Vec::with_capacity(manifest.packs.len());
        for (pack, unused) in manifest.packs_and_unused() {
            // What does not fit into the pack's content cannot be in it.
            numbers.push((self.packs.number(pack)?, unused.min(pack.content) as u32));
        }
        Ok(self.insert_numbers(outline, numbers))
    }

    /// As [`Self::insert`], of a snapshot whose manifest cannot be opened here. Nothing is known of
    /// what its packs contain.
    ///
    /// # Errors
    /// It names a pack that cannot be.
    pub(crate) fn insert_needs(&mut self, needs: &SnapshotNeeds, stored: StoredAs) -> Result<Arc<Outline>> {
        let before = needs.previous.as_ref();
        let outline = Outline {
            snapshot: needs.snapshot.clone(),
            sequence: needs.sequence,
            previous: before.map(|named| NamedBefore { snapshot: named.snapshot.clone(), blake3: named.blake3 }),
            started: needs.started,
            finished: needs.finished,
            is_partial: needs.partial,
            generations: needs.generations.clone(),
            raw_bytes: 0,
            stored_bytes: 0,
            hash: stored.hash,
            object_bytes: stored.bytes,
            packs_until: 0,
            changes_until: 0,
            place: 0,
        };
        let packs = needs.packs.iter().zip(&needs.sizes);
        let packs = packs.map(|(id, size)| PackRef { id: *id, size: *size, content: *size, generation: 0 });
        let numbers = packs.map(|pack| Ok((self.packs.number(&pack)?, 0))).collect::<Result<Vec<_>>>()?;
        Ok(self.insert_numbers(outline, numbers))
    }

    /// Adds an outline, and the packs that it names, each with its unused bytes.
    fn insert_numbers(&mut self, outline: Outline, mut numbers: Vec<(u32, u32)>) -> Arc<Outline> {
        numbers.sort_unstable();
        self.last.resize(self.packs.len(), ABSENT);
        let before: Vec<(u32, u32)> =
            std::mem::take(&mut self.named).into_iter().map(|number| (number, self.last[number as usize])).collect();
        let changes = differences(&before, &numbers);
        for (number, unused) in &changes {
            self.last[*number as usize] = *unused;
        }
        self.named = numbers.into_iter().map(|(number, _)| number).collect();
        self.push(outline, &changes)
    }

    /// Adds an outline, and the changes of its packs in the order of their numbers.
    fn push(&mut self, mut outline: Outline, changes: &[(u32, u32)]) -> Arc<Outline> {
        let mut next = 0;
        for (number, unused) in changes {
            varint::put(&mut self.changes, u64::from(number - next));
            varint::put(&mut self.changes, u64::from(unused.wrapping_add(1)));
            next = number + 1;
        }
        outline.packs_until = self.packs.len() as u32;
        outline.changes_until = self.changes.len() as u64;
        outline.place = self.all.len() as u32;
        let outline = Arc::new(outline);
        self.all.push(outline.clone());
        outline
    }

    /// Goes from snapshot to snapshot.
    pub(crate) fn walk(&self) -> OutlineWalk<'_> {
        OutlineWalk { of: self, next: 0, unused: vec![ABSENT; self.packs.len()], changes: Vec::new() }
    }

    /// Which snapshots this replica alone can restore, as far as a listing tells, by their places.
    pub(crate) fn complete(&self, dataset: &Name, inventory: &Inventory) -> Vec<bool> {
        let lacking = self.lacking(|pack| inventory.has(pack));
        let is_complete = |(outline, lacking): (&Arc<Outline>, u32)| {
            lacking == 0
                && inventory.snapshots.contains(&outline.snapshot)
                && outline.generations.iter().all(|generation| inventory.has_keys(dataset, *generation))
        };
        self.all.iter().zip(lacking).map(is_complete).collect()
    }

    /// How many packs each snapshot names that are not `there`, by place.
    pub(crate) fn lacking(&self, there: impl Fn(&PackRef) -> bool) -> Vec<u32> {
        let lacks: Vec<bool> = self.packs.iter().map(|pack| !there(&pack)).collect();
        let (mut walk, mut lacking, mut found) = (self.walk(), 0_u32, Vec::with_capacity(self.all.len()));
        while walk.step().is_some() {
            for (number, before) in walk.changes() {
                let is_named = walk.unused(*number) != ABSENT;
                if lacks[*number as usize] && is_named != (*before != ABSENT) {
                    lacking = if is_named { lacking + 1 } else { lacking - 1 };
                }
            }
            found.push(lacking);
        }
        found
    }

    /// The oldest snapshot that names each of these packs.
    pub(crate) fn oldest_with(&self, packs: &BTreeSet<u32>) -> HashMap<u32, &SnapshotId> {
        let mut oldest: HashMap<u32, &SnapshotId> = HashMap::new();
        let (mut walk, mut named) = (self.walk(), BTreeSet::new());
        while let Some(outline) = walk.step() {
            for (number, _) in walk.changes().iter().filter(|(number, _)| packs.contains(number)) {
                if walk.unused(*number) == ABSENT {
                    named.remove(number);
                } else {
                    named.insert(*number);
                }
            }
            for number in &named {
                let known = oldest.entry(*number).or_insert(&outline.snapshot);
                *known = (*known).min(&outline.snapshot);
            }
        }
        oldest
    }

    /// Only those for which `keep` is true.
    pub(super) fn only(&self, keep: impl Fn(&Outline) -> bool) -> Self {
        let mut kept = Self::default();
        // The numbers of packs there, and what changed since the last one that stayed.
        let (mut walk, mut numbers, mut changed) = (self.walk(), HashMap::new(), BTreeSet::new());
        while let Some(outline) = walk.step() {
            changed.extend(walk.changes().iter().map(|(number, _)| *number));
            if !keep(outline) {
                continue;
            }
            let mut changes = Vec::new();
            for old in std::mem::take(&mut changed) {
                let unused = walk.unused(old);
                if unused == ABSENT && !numbers.contains_key(&old) {
                    continue;
                }
                let number = *numbers.entry(old).or_insert_with(|| kept.packs.adopt(&self.packs, old));
                kept.last.resize(kept.packs.len(), ABSENT);
                if std::mem::replace(&mut kept.last[number as usize], unused) != unused {
                    changes.push((number, unused));
                }
            }
            changes.sort_unstable();
            kept.push(Outline::clone(outline), &changes);
        }
        kept.named = kept.named_last();
        kept
    }

    fn named_last(&self) -> Vec<u32> {
        (0..).zip(&self.last).filter(|(_, unused)| **unused != ABSENT).map(|(number, _)| number).collect()
    }
}

/// What differs in the second of two sorted lists.
fn differences(before: &[(u32, u32)], now: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let (mut before, mut changes) = (before.iter().peekable(), Vec::new());
    for (number, unused) in now {
        while let Some((gone, _)) = before.next_if(|(old, _)| old < number) {
            changes.push((*gone, ABSENT));
        }
        let was = before.next_if(|(old, _)| old == number);
        if was.is_none_or(|(_, was)| was != unused) {
            changes.push((*number, *unused));
        }
    }
    changes.extend(before.map(|(gone, _)| (*gone, ABSENT)));
    changes
}

/// Goes over snapshots in the order in which they were read.
pub(crate) struct OutlineWalk<'a> {
    of: &'a Outlines,
    /// The place of the next one.
    next: usize,
    unused: Vec<u32>,
    changes: Vec<(u32, u32)>,
}

impl<'a> OutlineWalk<'a> {
    /// Goes on to the next snapshot.
    pub(crate) fn step(&mut self) -> Option<&'a Arc<Outline>> {
        let outline = self.of.all.get(self.next)?;
        let begin = self.next.checked_sub(1).map_or(0, |before| self.of.all[before].changes_until);
        self.next += 1;
        self.changes.clear();
        let mut rest = &self.of.changes[begin as usize..outline.changes_until as usize];
        let mut number = 0;
        while let (Some(skipped), Some(unused)) = (varint::take(&mut rest), varint::take(&mut rest)) {
            number += skipped as usize;
            let unused = (unused as u32).wrapping_sub(1);
            let before = std::mem::replace(&mut self.unused[number], unused);
            self.changes.push((number as u32, before));
            number += 1;
        }
        Some(outline)
    }

    /// The packs of which this snapshot says something else than the one before it, each with what
    /// that one said.
    pub(crate) fn changes(&self) -> &[(u32, u32)] {
        &self.changes
    }

    /// How many bytes of this pack's content the snapshot does not need, or [`ABSENT`].
    pub(crate) fn unused(&self, number: u32) -> u32 {
        self.unused[number as usize]
    }

    /// The packs that the snapshot names, each with its unused bytes.
    pub(crate) fn packs(&self) -> impl Iterator<Item = (u32, u32)> {
        (0..).zip(&self.unused).filter(|(_, unused)| **unused != ABSENT).map(|(number, unused)| (number, *unused))
    }
}
