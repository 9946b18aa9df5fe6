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
//! - **Vetoes**: what a vetoed mark names is held, even if somebody overwrites the mark or the veto
//!   later, or hides them.
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

/// Since when the rules of a warden let snapshots go.
pub(crate) type LetGo = BTreeMap<SnapshotId, DateTime<Utc>>;

/// What a warden saw first, and when by its own clock.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct FirstSights {
    snapshots: BTreeMap<SnapshotId, SeenNeeds>,
    marks: BTreeMap<SnapshotId, SeenMark>,
    /// What vetoed marks name, and who vetoed them.
    held: HeldMarks,
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

/// When a warden first saw this content of a mark.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SeenMark {
    /// The hash of its object.
    blake3: Digest,
    seen: DateTime<Utc>,
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

    /// When each of these marks was first seen. Others are forgotten, and so are snapshots that are
    /// `gone`. Returns the marks that have other content than before.
    pub(crate) fn see(
        &mut self,
        marks: &[FoundRecord<MarkRecord>],
        is_gone: impl Fn(&SnapshotId) -> bool,
        now: DateTime<Utc>,
    ) -> Vec<SnapshotId> {
        let old = std::mem::take(&mut self.marks);
        let mut changed = Vec::new();
        for mark in marks {
            let known = old.get(&mark.id).copied();
            let same = known.filter(|known| known.blake3 == mark.hash);
            if known.is_some() && same.is_none() {
                changed.push(mark.id.clone());
            }
            let seen = same.unwrap_or(SeenMark { blake3: mark.hash, seen: now });
            self.marks.insert(mark.id.clone(), seen);
        }
        self.snapshots.retain(|snapshot, _| !is_gone(snapshot));
        for held in self.held.values_mut() {
            held.snapshots.retain(|snapshot| !is_gone(snapshot));
        }
        changed
    }

    /// Remembers what these vetoes hold, of what is there. Adds the vetoes that it saw before, of
    /// people who still may veto, and returns all that is held by them.
    pub(crate) fn recall(
        &mut self,
        (marks, vetoed): (&[FoundRecord<MarkRecord>], &mut Vetoes),
        is_snapshot: impl Fn(&SnapshotId) -> bool,
        is_pack: impl Fn(&PackId) -> bool,
        may_veto: &BTreeSet<Name>,
    ) -> HeldMarks {
        for mark in marks {
            // Whatever a vetoed mark has ever named is held: it may have been overwritten before.
            let is_held = vetoed.contains_key(&mark.id) || self.held.contains_key(&mark.id);
            if is_held {
                let held = self.held.entry(mark.id.clone()).or_default();
                held.names.extend(vetoed.get(&mark.id).into_iter().flatten().cloned());
                let marked = mark.body.snapshots.iter().map(|marked| &marked.snapshot);
                held.snapshots.extend(marked.filter(|snapshot| is_snapshot(snapshot)).cloned());
                held.packs.extend(mark.body.packs.iter().filter(|pack| is_pack(pack)));
            }
        }
        let is_shown = |mark: &SnapshotId| self.marks.contains_key(mark);
        self.held.retain(|mark, held| is_shown(mark) || !held.snapshots.is_empty() || held.packs.iter().any(&is_pack));
        let still = |(mark, held): (&SnapshotId, &HeldMark)| {
            let names: BTreeSet<Name> = held.names.intersection(may_veto).cloned().collect();
            (!names.is_empty()).then(|| (mark.clone(), HeldMark { names, ..held.clone() }))
        };
        let held: HeldMarks = self.held.iter().filter_map(still).collect();
        for (mark, held) in held.iter().filter(|(mark, _)| is_shown(mark)) {
            vetoed.entry(mark.clone()).or_default().extend(held.names.iter().cloned());
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

    /// When a mark was first seen.
    pub(crate) fn mark_seen(&self, mark: &SnapshotId) -> Option<DateTime<Utc>> {
        self.marks.get(mark).map(|known| known.seen)
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

    #[test]
    fn a_mark_with_other_content_is_another_mark() {
        let mut first = FirstSights::default();
        assert!(first.see(&[mark("empty", &[])], |_| false, at(0)).is_empty());
        assert!(first.see(&[mark("empty", &[])], |_| false, at(5)).is_empty());
        assert_eq!(first.mark_seen(&id(9)), Some(at(0)));
        assert_eq!(first.see(&[mark("full", &[1])], |_| false, at(6)), [id(9)]);
        assert_eq!(first.mark_seen(&id(9)), Some(at(6)));
    }

    #[test]
    fn what_a_vetoed_mark_has_named_is_held_though_mark_and_veto_are_gone() -> Result<()> {
        let bob: Name = "bob".parse()?;
        let may_veto = BTreeSet::from([bob.clone()]);
        let mut first = FirstSights::default();
        let mut look = |marks: &[FoundRecord<MarkRecord>], vetoed: &[SnapshotId], may_veto: &BTreeSet<Name>| {
            let mut vetoed: Vetoes = vetoed.iter().map(|mark| (mark.clone(), may_veto.clone())).collect();
            first.see(marks, |_| false, at(0));
            let held = first.recall((marks, &mut vetoed), |_| true, |_| true, may_veto);
            let held: BTreeSet<SnapshotId> = held.into_values().flat_map(|held| held.snapshots).collect();
            (held, vetoed.contains_key(&id(9)))
        };
        let (one, both) = (BTreeSet::from([id(1)]), BTreeSet::from([id(1), id(2)]));
        assert_eq!(look(&[mark("one", &[1])], &[], &may_veto), (BTreeSet::new(), false));
        assert_eq!(look(&[mark("one", &[1])], &[id(9)], &may_veto), (one.clone(), true));
        assert_eq!(look(&[mark("empty", &[])], &[], &may_veto), (one.clone(), true));
        assert_eq!(look(&[], &[], &may_veto), (one, false));
        assert_eq!(look(&[mark("two", &[2])], &[], &may_veto), (both, true));
        assert_eq!(look(&[mark("two", &[2])], &[], &BTreeSet::new()), (BTreeSet::new(), false));
        Ok(())
    }
}
