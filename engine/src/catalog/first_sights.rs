//! What a warden saw first of a dataset, and when by its own clock. It is kept in its state
//! directory.
//!
//! - **Lists of needs**: the first one of a snapshot counts (`needs.rs`).
//! - **Marks**: a warden waits since it first saw this content of a mark. Other content under the
//!   same id is another mark.
//! - **What the rules let go**: a warden waits since its own rules of retention let a snapshot go,
//!   too. One that is kept again begins anew.
//! - **Prune records** of others count if they were there at the first look: whoever has stolen a
//!   backup host since then calls nothing removed.
//! - **Vetoes** that were valid when they were seen: all that the mark has named at any look is
//!   held, even if somebody overwrites or hides the mark, before the veto or after it, or the veto
//!   later.
//!
//! If it is lost or damaged, what stands in for it is never written: `prune/memory.rs` decides
//! whether a look is the first one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Digest, Name, PackId, SnapshotId};
use lifeboat_format::needs::SnapshotNeeds;
use lifeboat_format::record::{MarkRecord, PruneRecord};
use serde::{Deserialize, Serialize};

use super::records::FoundRecord;
use super::vetoes::{HeldMark, HeldMarks, Vetoes};
use crate::state::{StateDirectory, replace_file};

const FIRST_SIGHTS_FILE: &str = "first-sights";
/// Of no more packs is it remembered which marks name them.
const MAX_REMEMBERED_NAMES: usize = 1 << 20;

/// Since when the rules of a warden let snapshots go.
pub(crate) type LetGo = BTreeMap<SnapshotId, DateTime<Utc>>;

/// What a warden saw first, and when by its own clock.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct FirstSights {
    snapshots: BTreeMap<SnapshotId, SeenNeeds>,
    marks: BTreeMap<SnapshotId, SeenMark>,
    /// Since when the rules of this warden let these snapshots go.
    let_go: LetGo,
    /// The prune records that count, with the hashes of their objects; `None` before the first look
    /// at every replica.
    records: Option<BTreeMap<SnapshotId, Digest>>,
    /// Whether it stands in for what is lost or damaged.
    #[serde(skip)]
    is_lost: bool,
}

/// What a warden saw first of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SeenNeeds {
    /// The hash of its manifest.
    pub(super) manifest: Digest,
    /// The hash of the line of its list.
    pub(super) list: Digest,
    /// When that was.
    pub(super) seen: DateTime<Utc>,
}

/// What a warden saw of a mark.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SeenMark {
    /// The hash of its object.
    blake3: Digest,
    /// When it first saw this content of it.
    seen: DateTime<Utc>,
    /// When it first saw a mark of this id.
    named: DateTime<Utc>,
    /// Who vetoed it.
    vetoed: BTreeSet<Name>,
    /// Whatever it has named, as far as that is there.
    snapshots: BTreeSet<SnapshotId>,
    packs: BTreeSet<PackId>,
}

/// What is there, as a look shows it.
pub(crate) struct There<'a> {
    pub is_snapshot: &'a dyn Fn(&SnapshotId) -> bool,
    pub is_pack: &'a dyn Fn(&PackId) -> bool,
    /// Whether a prune record removes it.
    pub is_gone: &'a dyn Fn(&SnapshotId) -> bool,
}

impl FirstSights {
    /// What was seen; `None` if there is no file of it.
    ///
    /// # Errors
    /// [`Class::Storage`]: it cannot be read. [`Class::Integrity`]: it is damaged.
    pub(crate) fn read(state: &StateDirectory, dataset: &Name) -> Result<Option<Self>> {
        state.witness(dataset, FIRST_SIGHTS_FILE, |text| serde_json::from_slice(text).ok()).map_err(|error| {
            let hint = match error.class() {
                Class::Storage => "mend the disk or the rights of the file".to_owned(),
                _ => how_to_begin_anew(dataset),
            };
            error.hint(hint)
        })
    }

    /// What stands in for what is lost or damaged.
    pub(crate) fn lost() -> Self {
        Self { is_lost: true, ..Self::default() }
    }

    /// Writes it, unless it stands in for what is lost.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn write(&self, state: &StateDirectory, dataset: &Name) -> Result<()> {
        if self.is_lost {
            return Ok(());
        }
        let text = serde_json::to_vec(self).context(Class::Failed, || "cannot write what snapshots need as JSON")?;
        replace_file(&state.dataset(dataset)?.join(FIRST_SIGHTS_FILE), &text)
    }

    /// When a snapshot was first seen.
    pub(crate) fn seen(&self, snapshot: &SnapshotId) -> Option<DateTime<Utc>> {
        self.snapshots.get(snapshot).map(|known| known.seen)
    }

    /// Remembers what was seen of a snapshot, unless it was seen before.
    pub(super) fn pin(&mut self, snapshot: SnapshotId, seen: SeenNeeds) {
        self.snapshots.entry(snapshot).or_insert(seen);
    }

    /// The snapshots that were seen, and that no record has removed since.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = &SnapshotId> {
        self.snapshots.keys()
    }

    /// Leaves out the prune records that count for nothing here: others than this warden signed
    /// them after its first look.
    pub(super) fn leave_out(&mut self, found: &mut Vec<FoundRecord<PruneRecord>>, all_answer: bool) {
        let Some(known) = &mut self.records else {
            let all = || found.iter().map(|record| (record.id.clone(), record.hash)).collect();
            self.records = all_answer.then(all);
            return;
        };
        if all_answer {
            let shown: BTreeSet<&SnapshotId> = found.iter().map(|record| &record.id).collect();
            known.retain(|record, _| shown.contains(record));
        }
        let own = found.iter().filter(|record| record.by_warden);
        known.extend(own.map(|record| (record.id.clone(), record.hash)));
        found.retain(|record| {
            let counts = known.get(&record.id) == Some(&record.hash);
            if !counts {
                tracing::warn!(record = %record.id, "A prune record that others wrote since this warden looked first counts for nothing");
            }
            counts
        });
    }

    /// The marks that were seen at the look before.
    pub(crate) fn marks(&self) -> impl Iterator<Item = &SnapshotId> {
        self.marks.keys()
    }

    /// Remembers when each of these marks was first seen, what it names, and who vetoes it. Others
    /// are forgotten unless somebody vetoed them, and so are snapshots that are gone. Returns the
    /// marks that have other content than before.
    pub(crate) fn see(
        &mut self,
        marks: &[FoundRecord<MarkRecord>],
        vetoed: &Vetoes,
        there: &There<'_>,
        now: DateTime<Utc>,
    ) -> Vec<SnapshotId> {
        let mut changed = Vec::new();
        for mark in marks {
            let new = || SeenMark {
                blake3: mark.hash,
                seen: now,
                named: now,
                vetoed: BTreeSet::new(),
                snapshots: BTreeSet::new(),
                packs: BTreeSet::new(),
            };
            let known = self.marks.entry(mark.id.clone()).or_insert_with(new);
            if known.blake3 != mark.hash {
                changed.push(mark.id.clone());
                (known.blake3, known.seen) = (mark.hash, now);
            }
            // What it named before stays remembered: whoever vetoes it may have read that.
            let snapshots = mark.body.snapshots.iter().map(|marked| &marked.snapshot);
            known.snapshots.extend(snapshots.filter(|snapshot| (there.is_snapshot)(snapshot)).cloned());
            known.packs.extend(mark.body.packs.iter().filter(|pack| (there.is_pack)(pack)));
        }
        for (mark, names) in vetoed {
            if let Some(known) = self.marks.get_mut(mark) {
                known.vetoed.extend(names.iter().cloned());
            }
        }
        self.snapshots.retain(|snapshot, _| !(there.is_gone)(snapshot));
        let shown: BTreeSet<&SnapshotId> = marks.iter().map(|mark| &mark.id).collect();
        self.marks.retain(|mark, seen| {
            seen.snapshots.retain(|snapshot| !(there.is_gone)(snapshot));
            seen.packs.retain(|pack| (there.is_pack)(pack));
            let names = !seen.snapshots.is_empty() || !seen.packs.is_empty();
            (names && !seen.vetoed.is_empty()) || shown.contains(mark)
        });
        changed
    }

    /// Whether marks name more packs than can be remembered: then nobody could hold them later.
    pub(crate) fn names_too_much(&self) -> Option<Error> {
        let names: usize = self.marks.values().map(|mark| mark.packs.len()).sum();
        (names > MAX_REMEMBERED_NAMES).then(|| {
            Error::integrity(format!("marks name {names} packs in all, and a warden remembers {MAX_REMEMBERED_NAMES}"))
                .hint("`lifeboat veto show` tells which hosts wrote them; remove those that are too many by hand, as the owner of the buckets")
        })
    }

    /// All that is held by vetoes that were seen, of people who still may veto. Adds those of marks
    /// that are shown to `vetoed`.
    pub(crate) fn recall(
        &self,
        (marks, vetoed): (&[FoundRecord<MarkRecord>], &mut Vetoes),
        may_veto: &BTreeSet<Name>,
    ) -> HeldMarks {
        let still = |(mark, seen): (&SnapshotId, &SeenMark)| {
            let names: BTreeSet<Name> = seen.vetoed.intersection(may_veto).cloned().collect();
            let (snapshots, packs) = (seen.snapshots.clone(), seen.packs.clone());
            (!names.is_empty()).then(|| (mark.clone(), HeldMark { names, snapshots, packs }))
        };
        let held: HeldMarks = self.marks.iter().filter_map(still).collect();
        for mark in marks {
            if let Some(held) = held.get(&mark.id) {
                vetoed.entry(mark.id.clone()).or_default().extend(held.names.iter().cloned());
            }
        }
        held
    }

    /// Remembers which snapshots the rules let go, and since when. Those that they keep are
    /// forgotten.
    pub(crate) fn let_go<'s>(&mut self, goes: impl Iterator<Item = &'s SnapshotId>, now: DateTime<Utc>) -> &LetGo {
        let since = |snapshot: &SnapshotId| self.let_go.get(snapshot).copied().unwrap_or(now);
        let goes: LetGo = goes.map(|snapshot| (snapshot.clone(), since(snapshot))).collect();
        self.let_go = goes;
        &self.let_go
    }

    /// When this content of a mark was first seen.
    pub(crate) fn mark_seen(&self, mark: &SnapshotId) -> Option<DateTime<Utc>> {
        self.marks.get(mark).map(|known| known.seen)
    }

    /// When a mark of this id was first seen, whatever it contained.
    pub(crate) fn mark_named(&self, mark: &SnapshotId) -> Option<DateTime<Utc>> {
        self.marks.get(mark).map(|known| known.named)
    }

    /// Whether this list of a snapshot was seen first.
    pub(super) fn knows(&self, snapshot: &SnapshotId, list: Digest) -> bool {
        self.snapshots.get(snapshot).is_some_and(|known| known.list == list)
    }

    /// Checks that what a snapshot needs is what it was.
    pub(super) fn check(&self, needs: &SnapshotNeeds, list: Digest) -> Result<()> {
        match self.snapshots.get(&needs.snapshot) {
            Some(known) if (known.manifest, known.list) != (needs.manifest, list) => Err(Error::integrity(format!(
                "what snapshot {} needs is not what it was when this warden first saw it",
                needs.snapshot
            ))
            .hint("somebody overwrote it: bring the old version back with `lifeboat undelete`, and find out who has the keys of its host")),
            _ => Ok(()),
        }
    }
}

/// What to do about what is lost or damaged.
pub(crate) fn how_to_begin_anew(dataset: &Name) -> String {
    format!(
        "find out who could write into the replicas since; then `lifeboatd warden --begin-anew {dataset}` believes what it sees now, and waits anew"
    )
}

/// Marks have other content than before, under the ids that they had.
pub(crate) fn changed_marks(dataset: &Name, changed: &[SnapshotId]) -> Option<Error> {
    let first = changed.first()?;
    let more = if changed.len() > 1 { format!(", and {} more", changed.len() - 1) } else { String::new() };
    Some(
        Error::integrity(format!("mark {first} of {dataset} is not what it was when this warden first saw it{more}"))
            .hint("find out who has the keys of the host that wrote it: this warden waits anew, since now, before it carries the mark out"),
    )
}

#[cfg(test)]
mod tests {
    use lifeboat_format::record::RemovedSnapshot;

    use super::*;

    fn id(number: u32) -> SnapshotId {
        SnapshotId::new(DateTime::UNIX_EPOCH, number)
    }

    fn mark(content: &str, snapshots: &[u32]) -> FoundRecord<MarkRecord> {
        let snapshots = snapshots.iter().map(|number| RemovedSnapshot { snapshot: id(*number), blake3: None });
        FoundRecord {
            id: id(9),
            envelope: None,
            body: MarkRecord { snapshots: snapshots.collect(), ..MarkRecord::default() },
            hash: Digest::of(content.as_bytes()),
            by_warden: false,
        }
    }

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minute)
    }

    /// A look at marks, and at vetoes of these names.
    fn see(
        first: &mut FirstSights,
        marks: &[FoundRecord<MarkRecord>],
        vetoed: &Vetoes,
        now: DateTime<Utc>,
    ) -> Vec<SnapshotId> {
        let there = There { is_snapshot: &|_| true, is_pack: &|_| true, is_gone: &|_| false };
        first.see(marks, vetoed, &there, now)
    }

    #[test]
    fn a_mark_with_other_content_is_another_mark() {
        let (mut first, none) = (FirstSights::default(), Vetoes::new());
        assert!(see(&mut first, &[mark("empty", &[])], &none, at(0)).is_empty());
        assert!(see(&mut first, &[mark("empty", &[])], &none, at(5)).is_empty());
        assert_eq!(first.mark_seen(&id(9)), Some(at(0)));
        assert_eq!(see(&mut first, &[mark("full", &[1])], &none, at(6)), [id(9)]);
        assert_eq!((first.mark_seen(&id(9)), first.mark_named(&id(9))), (Some(at(6)), Some(at(0))));
    }

    #[test]
    fn all_that_a_vetoed_mark_has_named_is_held_whatever_becomes_of_mark_and_veto() -> Result<()> {
        let may_veto = BTreeSet::from(["bob".parse()?]);
        let mut first = FirstSights::default();
        let mut look = |marks: &[FoundRecord<MarkRecord>], vetoed: &[SnapshotId], may_veto: &BTreeSet<Name>| {
            let mut vetoed: Vetoes = vetoed.iter().map(|mark| (mark.clone(), may_veto.clone())).collect();
            see(&mut first, marks, &vetoed, at(0));
            let held = first.recall((marks, &mut vetoed), may_veto);
            let held: Vec<SnapshotId> = held.into_values().flat_map(|held| held.snapshots).collect();
            (held, vetoed.contains_key(&id(9)))
        };
        assert_eq!(look(&[mark("one", &[1])], &[], &may_veto), (vec![], false));
        // Somebody has exchanged what he read who vetoes it.
        assert_eq!(look(&[mark("two", &[2])], &[id(9)], &may_veto), (vec![id(1), id(2)], true));
        assert_eq!(look(&[mark("empty", &[])], &[], &may_veto), (vec![id(1), id(2)], true));
        assert_eq!(look(&[], &[], &may_veto).0, [id(1), id(2)]);
        assert_eq!(look(&[mark("three", &[3])], &[], &may_veto), (vec![id(1), id(2), id(3)], true));
        assert_eq!(look(&[mark("three", &[3])], &[], &BTreeSet::new()), (vec![], false));
        Ok(())
    }

    #[test]
    fn a_veto_counts_though_its_mark_is_hidden_since_the_look_before() -> Result<()> {
        let may_veto = BTreeSet::from(["bob".parse()?]);
        let (mut first, none) = (FirstSights::default(), Vetoes::new());
        see(&mut first, &[mark("one", &[1])], &none, at(0));
        assert_eq!(first.marks().collect::<Vec<_>>(), [&id(9)]);
        let mut vetoed = Vetoes::from([(id(9), may_veto.clone())]);
        see(&mut first, &[], &vetoed, at(1));
        assert!(first.recall((&[], &mut vetoed), &may_veto)[&id(9)].snapshots.contains(&id(1)));
        // One that nobody vetoed is forgotten.
        see(&mut first, &[mark("one", &[1])], &none, at(0));
        let mut other = FirstSights::default();
        see(&mut other, &[mark("one", &[1])], &none, at(0));
        see(&mut other, &[], &none, at(1));
        assert_eq!(other.marks().count(), 0);
        Ok(())
    }
}
