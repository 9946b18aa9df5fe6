//! Which snapshot a new one follows, as acts tell, so that what is lost or damaged is no branch.
//!
//! A run may find the act of a commit whose snapshot no replica that answers returns whole: the
//! region that holds it is lost, or its manifest is; it is damaged; or all replicas were rolled
//! back. The new snapshot follows it all the same: what it says of the one before it stands in the
//! act. If that snapshot comes back, or is repaired, there is no branch. An act is believed no
//! farther than its snapshot, where that can be read. Where there are branches, the new snapshot
//! follows the longer one of those to which the newest snapshot and the one listed before it
//! belong.
//!
//! An act of an older program does not tell the snapshot's place in the chain. Then it is at most
//! as far from a known one as their acts are.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::Result;
use lifeboat_format::act::{Act, ActKind};
use lifeboat_format::id::SnapshotId;
use lifeboat_format::manifest::Previous;
use lifeboat_store::SharedReplica;

use super::place::{Holders, Place};
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::order::OrderReader;
use crate::catalog::verdict::is_verdict;

/// So many of the newest acts are read to find commits, and as many that nobody lists. Marks and
/// sweeps stand between.
const MAX_UNSEEN_ACTS: usize = 256;

/// What a run sees of its dataset.
pub(super) struct InView<'a> {
    pub(super) order: &'a OrderReader<'a>,
    pub(super) documents: &'a Documents<'a>,
    pub(super) members: &'a [Inventory],
    /// Places that hold records alone.
    pub(super) records: &'a [Inventory],
    /// The newest number that this host has seen. Of those above all that is listed, it may have
    /// copies.
    pub(super) newest: u64,
}

impl InView<'_> {
    /// Makes the new snapshot follow the commit that is farthest in the chain, if that is not the
    /// one before `place`.
    ///
    /// # Errors
    /// What the places hold cannot be read.
    pub(super) async fn follow(&self, place: &mut Place, warnings: &mut Vec<String>) -> Result<()> {
        let (acts, mut looked_at) = (self.acts_beyond(place).await?, BTreeSet::new());
        while let Some((act, sequence)) =
            farthest(&acts, &looked_at, place).filter(|(_, sequence)| *sequence >= place.sequence)
        {
            let (snapshot, host, dataset) = (act.id.clone(), &act.principal, self.order.dataset);
            let holders: Vec<&Inventory> =
                self.members.iter().filter(|member| member.snapshots.contains(&snapshot)).collect();
            let told = match Place::ask(self.documents, &holders, &snapshot, warnings).await? {
                // It may not be as far as its act tells, and another one farther.
                Holders::Signed(found) => {
                    if found.sequence > place.sequence {
                        *place = *found;
                    }
                    looked_at.insert(snapshot);
                    continue;
                }
                _ if holders.is_empty() => "is in no replica that answers; this one follows it".to_owned(),
                Holders::Failed(error) => format!("cannot be fetched now; this one follows it: {}", error.chain()),
                Holders::Unreadable(_) => format!(
                    "is damaged in every replica that answers; this one follows it: run `lifeboat verify {dataset} --repair` when every replica answers"
                ),
            };
            warnings.push(format!("snapshot {snapshot}, which host {host} committed, {told}"));
            let previous = Previous { snapshot, blake3: Some(act.blake3) };
            *place = Place { previous: Some(previous), sequence: sequence.saturating_add(1), manifest: None };
            return Ok(());
        }
        Ok(())
    }

    /// The newest acts; none if the newest commit is the one before `place`.
    async fn acts_beyond(&self, place: &Place) -> Result<BTreeMap<u64, Act>> {
        let shown = || self.members.iter().chain(self.records);
        let numbers: BTreeSet<u64> = shown().flat_map(|shown| shown.acts.iter().copied()).collect();
        let lost = numbers.last().map_or(1, |last| last.saturating_add(1))..=self.newest;
        let (mut acts, mut has_commit) = (BTreeMap::new(), false);
        let lost = lost.rev().take(MAX_UNSEEN_ACTS);
        for number in lost.chain(numbers.into_iter().rev().take(MAX_UNSEEN_ACTS)) {
            let holders: Vec<&SharedReplica> =
                shown().filter(|shown| shown.acts.contains(&number)).map(|shown| &shown.replica).collect();
            let act = match self.order.act(&holders, number).await {
                Ok(found) => found.act,
                Err(error) if is_verdict(&error) => continue,
                // Older ones only tell more of branches.
                Err(_) if has_commit => break,
                Err(error) => return Err(error),
            };
            if act.act == ActKind::Commit && !has_commit {
                if before(place) == Some(&act.id) {
                    return Ok(BTreeMap::new());
                }
                has_commit = true;
            }
            acts.insert(number, act);
        }
        Ok(acts)
    }
}

fn before(place: &Place) -> Option<&SnapshotId> {
    place.previous.as_ref().map(|previous| &previous.snapshot)
}

/// The commit that is farthest in the chain, but for those that were looked at, and its place
/// there. Where the act does not tell it, that is the last place that it can have if it came after
/// the one before `place`.
fn farthest<'a>(
    acts: &'a BTreeMap<u64, Act>,
    looked_at: &BTreeSet<SnapshotId>,
    place: &Place,
) -> Option<(&'a Act, u64)> {
    let is_before = |act: &Act| before(place) == Some(&act.id);
    let base = acts.iter().find(|(_, act)| is_before(act)).map(|(number, _)| *number);
    let place_of = |number: u64, act: &Act| {
        if act.sequence.is_some() {
            return act.sequence;
        }
        let came_before = match base {
            Some(base) => number <= base,
            None => before(place).is_some_and(|before| *before >= act.id),
        };
        if came_before {
            return None;
        }
        let first = base.unwrap_or_default().saturating_add(1);
        let others = acts.range(first..=number).filter(|(_, act)| act.act != ActKind::Commit).count() as u64;
        Some((place.sequence - 1).saturating_add(number - first + 1 - others))
    };
    let commits = acts.iter().filter(|(_, act)| act.act == ActKind::Commit && !looked_at.contains(&act.id));
    let placed = commits.filter_map(|(number, act)| Some((act, place_of(*number, act)?)));
    placed.max_by_key(|(_, sequence)| *sequence)
}
