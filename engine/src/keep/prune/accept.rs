//! Writes down that the operator gives up what is missing, or knows of branches: a sweep that
//! deletes nothing. What it names is in no gap any more, so prune goes on.
//!
//! Every replica must answer, and nothing may be doubted: what is missing may be where nobody can
//! look.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Digest, SnapshotId};
use lifeboat_format::record::{PruneRecord, RemovedSnapshot};

use super::mark::Acting;
use super::memory::Memory;
use super::view::{Survey, View};
use super::{Prune, shown};
use crate::catalog::inventory::all_snapshots;
use crate::keep::gaps::{Gap, ShownSnapshots, settled, with_numbers};
use crate::state::seen;

/// What the operator accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accept {
    /// What is missing is given up.
    pub loss: bool,
    /// Snapshots that stand in one place of the chain all stay.
    pub branches: bool,
}

impl Prune<'_> {
    /// Accepts gaps, which the operator has seen.
    ///
    /// # Errors
    /// A replica does not answer, something is doubted, or there are other gaps by now.
    pub(in crate::keep) async fn accept(&self, accept: Accept, known: &[Gap]) -> Result<()> {
        let dataset = &self.dataset.name;
        let Survey { view, gaps, doubt, .. } = self.survey(Memory::Written).await?;
        let nothing = |error: Error| {
            let hint = error.hint_text().unwrap_or("run `lifeboat check`").to_owned();
            error.within(format!("nothing of dataset {dataset} is given up")).hint(hint)
        };
        if let Some(doubt) = doubt {
            return Err(nothing(doubt));
        }
        self.check_time(&view.by_snapshot, &view.times).map_err(nothing)?;
        if let Some((replica, why)) = view.skipped.first() {
            return Err(nothing(
                Error::storage(format!("replica {replica} may hold what is missing, and cannot be used: {why}"))
                    .hint("repair again when every replica can be used; take one that is gone for ever out of the configuration"),
            ));
        }
        if gaps != known {
            return Err(nothing(Error::failed("what is missing has changed meanwhile").hint("repair again")));
        }
        let body = accepted(accept, &gaps, &view);
        self.take_down(&view, &body).await?;
        if accept.loss {
            let there = |inventory: &crate::catalog::inventory::Inventory| {
                (inventory.replica.name().clone(), with_numbers(&inventory.snapshots, &view.acts))
            };
            let there: ShownSnapshots = view.inventories.iter().map(there).collect();
            warn_if_forgotten(shown::write(self.state, dataset, &there));
        }
        Ok(())
    }

    /// Writes a record into every replica of `view`, as an act in the order.
    ///
    /// # Errors
    /// A replica did not take it.
    pub(super) async fn take_down(&self, view: &View, body: &PruneRecord) -> Result<()> {
        let dataset = &self.dataset.name;
        let (id, record) = self.sign_record(view, body)?;
        let mut acting = Acting::new(self, view);
        acting.act(ActKind::Sweep, &id, &record, &view.inventories).await?;
        if let Some(last) = &acting.last {
            warn_if_forgotten(seen::remember(self.state, dataset, last.act.number));
        }
        match acting.failed.into_values().next() {
            None => Ok(()),
            Some(error) => {
                Err(error.within(format!("not every replica of dataset {dataset} took it down")).hint("repair again"))
            }
        }
    }
}

/// The record counts whatever this host can note down beside it.
fn warn_if_forgotten(done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(error = %error.chain(), "This host cannot remember what it wrote down");
    }
}

/// The record: all that older ones say, and what is accepted now.
pub(super) fn accepted(accept: Accept, gaps: &[Gap], view: &View) -> PruneRecord {
    let everywhere = all_snapshots(&view.inventories);
    let bodies = || view.records.iter().map(|record| &record.body);
    let mut removed: BTreeMap<SnapshotId, Option<Digest>> = view.pruned.clone();
    let mut passed: Vec<[u64; 2]> = bodies().flat_map(|body| body.passed.iter().copied()).collect();
    let mut branches: BTreeSet<SnapshotId> = settled(bodies()).into_iter().cloned().collect();
    for gap in gaps {
        match gap {
            Gap::Numbers(first, last) if accept.loss => passed.push([*first, *last]),
            Gap::OldOrder(newest, seen) if accept.loss => passed.push([newest + 1, *seen]),
            Gap::Snapshot(snapshot, _) | Gap::LostBy(_, snapshot) if accept.loss && !everywhere.contains(snapshot) => {
                let act = view.acts.found.values().map(|found| &found.act);
                let act = act.filter(|act| act.act == ActKind::Commit).find(|act| act.id == *snapshot);
                passed.extend(act.map(|act| [act.number, act.number]));
                removed.insert(snapshot.clone(), act.map(|act| act.blake3));
            }
            Gap::Branches(snapshots) if accept.branches => branches.extend(snapshots.iter().cloned()),
            _ => {}
        }
    }
    let times = view.settled.iter().filter(|settled| !removed.contains_key(&settled.snapshot)).cloned().collect();
    let removed = removed.into_iter().map(|(snapshot, blake3)| RemovedSnapshot { snapshot, blake3 }).collect();
    PruneRecord { removed, passed: united(passed), branches: branches.into_iter().collect(), times }
}

/// These ranges, ascending and apart.
fn united(mut ranges: Vec<[u64; 2]>) -> Vec<[u64; 2]> {
    ranges.sort_unstable();
    let mut united: Vec<[u64; 2]> = Vec::new();
    for [first, last] in ranges {
        match united.last_mut() {
            Some([_, end]) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => united.push([first, last]),
        }
    }
    united
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        assert_eq!(united(vec![]), Vec::<[u64; 2]>::new());
        assert_eq!(united(vec![[5, 6], [1, 2], [3, 3], [6, 9], [7, 8], [11, 11]]), [[1, 3], [5, 9], [11, 11]]);
    }
}
