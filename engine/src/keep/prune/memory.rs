//! What a warden remembers of a dataset, and the vetoes that hold what marks name.
//!
//! Whoever sees something for the first time believes it. So where the memory of a dataset is lost
//! or damaged ([`FirstSights`]), the warden's own log tells whether it has looked before. If so, or
//! if nobody can tell, nothing is deleted and nothing remembered, until it is told to begin anew.
//!
//! Other machines remember nothing here: they go by the vetoes that they see.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::SnapshotId;
use lifeboat_format::log::LogKind;
use lifeboat_format::record::MarkRecord;

use super::Prune;
use super::doubts::Doubts;
use crate::catalog::first_sights::{FirstSights, There, changed_marks, how_to_begin_anew};
use crate::catalog::inventory::Inventory;
use crate::catalog::outlines::OutlineMap;
use crate::catalog::records::FoundRecord;
use crate::catalog::removals::PrunedSnapshots;
use crate::catalog::verdict::{Signed, is_verdict};
use crate::catalog::vetoes::{HeldMarks, NoVeto, Vetoes, held, unseen, vetoes};
use crate::log::LogReader;
use crate::witness::has_warden_looked;

/// What to do about what stands in the place of a veto, and is none.
const NO_VETO: &str = "ask whoever it names: a veto that is signed again and installed takes its place; else remove it as the owner of the bucket";

/// Whether a look writes down what a warden sees first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keep) enum Memory {
    /// It decides what is deleted, and tells what it doubts.
    Written,
    /// It only finds out what is needed.
    Left,
}

/// The marks that a look found, and what is there.
pub(super) struct SeenMarks<'a> {
    pub(super) inventories: &'a [Inventory],
    pub(super) marks: &'a [FoundRecord<MarkRecord>],
    pub(super) by_snapshot: &'a OutlineMap,
    pub(super) pruned: &'a PrunedSnapshots,
}

impl Prune<'_> {
    /// Who vetoes which mark, and what is held by that. A warden remembers both, and doubts marks
    /// that are not what they were, and what may have taken the place of a veto.
    pub(super) async fn vetoes(
        &self,
        seen: &SeenMarks<'_>,
        (first, memory): (Option<&mut FirstSights>, Memory),
        doubts: &mut Doubts,
    ) -> (Vetoes, HeldMarks) {
        let SeenMarks { inventories, marks, by_snapshot, pruned } = *seen;
        let (dataset, trust) = (&self.dataset.name, &self.keys.trust);
        // One that was hidden since may be vetoed, too.
        let before = first.iter().flat_map(|first| first.marks());
        let asked: BTreeSet<SnapshotId> = marks.iter().map(|mark| &mark.id).chain(before).cloned().collect();
        let (mut vetoed, no_vetoes) = vetoes((&self.keys.vault, dataset, trust), inventories, &asked).await;
        let Some(first) = first else {
            let held = held(marks, &vetoed);
            return (vetoed, held);
        };
        // Before all answer, nobody knows what is not there.
        let all_answer = inventories.len() == self.replicas.len();
        let there = There {
            is_snapshot: &|snapshot| !all_answer || by_snapshot.contains_key(snapshot),
            is_pack: &|pack| !all_answer || inventories.iter().any(|other| other.packs.contains_key(pack)),
            is_gone: &|snapshot| pruned.contains_key(snapshot),
        };
        let changed = first.see(marks, &vetoed, &there, self.clock.now());
        let unlisted = self.replicas.iter().map(|replica| replica.name());
        let unlisted = unlisted.filter(|name| !inventories.iter().any(|inventory| inventory.replica.name() == *name));
        let found = [changed_marks(dataset, &changed), unseen(marks, unlisted), first.names_too_much()];
        for doubt in found.into_iter().flatten() {
            doubts.everywhere.get_or_insert(doubt);
        }
        let held = first.recall((marks, &mut vetoed), &trust.who_may_veto());
        for NoVeto { mark, name, replica, error } in no_vetoes {
            if !held.get(&mark).is_some_and(|held| held.names.contains(&name)) {
                let holders: Vec<&Inventory> =
                    inventories.iter().filter(|inventory| *inventory.replica.name() == replica).collect();
                let signed = if is_verdict(&error) { Signed::ByNobody } else { Signed::Unknown };
                doubts.add(&holders, signed, &error, NO_VETO);
            }
        }
        if memory == Memory::Written {
            doubts.unless_read(first.write(self.state, dataset));
        }
        (vetoed, held)
    }

    /// What this warden saw first of the dataset. With an error, it stands in for what is lost.
    pub(super) async fn first_sights(&self) -> (FirstSights, Option<Error>) {
        let permitted = match FirstSights::read(self.state, &self.dataset.name) {
            Ok(Some(first)) => return (first, None),
            Ok(None) => self.permit_first_look().await,
            Err(error) => Err(error),
        };
        match permitted {
            Ok(()) => (FirstSights::default(), None),
            Err(error) => (FirstSights::lost(), Some(error)),
        }
    }

    /// # Errors
    /// This is not the first look of this warden at the dataset, or nobody can tell.
    async fn permit_first_look(&self) -> Result<()> {
        let dataset = &self.dataset.name;
        let log = self.keys.trust.log_of(LogKind::Wardens, &self.keys.signer.public());
        let log = log.ok_or_else(|| Error::keys("the root does not name this machine as its warden"))?;
        let reader = LogReader { vault: &self.keys.vault, trust: &self.keys.trust };
        let looked = has_warden_looked(&reader, &log, self.replicas, dataset).await;
        let lost = match looked {
            Ok(false) => return Ok(()),
            Ok(true) => Error::integrity(format!("log {log} tells of earlier looks at {dataset}")),
            Err(error) => error.within(format!("nobody can tell whether this warden has looked at {dataset} before")),
        };
        let lost = lost.within(format!("what this warden saw first of {dataset} is not in its state directory"));
        Err(lost.hint(how_to_begin_anew(dataset)))
    }
}
