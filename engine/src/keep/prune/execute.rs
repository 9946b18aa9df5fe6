//! Executes a plan: marks, then sweeps.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{PruneRecord, RemovedSnapshot};

use super::mark::Acting;
use super::memory::Memory;
use super::unreferenced;
use super::unreferenced::Unreferenced;
use super::view::View;
use super::{DeadPack, Prune, PruneOutcome, PrunePlan, shown};
use crate::catalog::inventory::Inventory;
use crate::catalog::outlines::Outline;
use crate::catalog::records::RecordWriter;
use crate::catalog::signed::SignedObject;
use crate::keep::gaps::{ShownSnapshots, with_numbers};
use crate::keys::HostKeys;
use crate::renewal::sparse;
use crate::state::{seen, watch};

/// What a sweep deletes: what the plan says, and a second look confirms.
pub(super) struct Sweep<'a> {
    pub(super) removed: BTreeSet<SnapshotId>,
    pub(super) packs: Vec<&'a DeadPack>,
    pub(super) segments: Vec<&'a (Name, String)>,
    pub(super) objects: Vec<&'a String>,
    /// The marks that it carries out.
    pub(super) due: BTreeSet<SnapshotId>,
    /// Acts that do not matter any more.
    pub(super) passed: PruneRecord,
}

/// What sweeps before could not delete in the places that hold records alone, and perhaps more.
fn passed(view: &View) -> Vec<&PruneRecord> {
    view.records.iter().map(|record| &record.body).collect()
}

impl Prune<'_> {
    /// Makes a plan and executes it. Where there is nothing to do, one look is enough.
    ///
    /// # Errors
    /// As [`Self::plan`] and [`Self::execute`].
    pub async fn run(&self) -> Result<PruneOutcome> {
        let view = self.look(Memory::Written).await?;
        let plan = self.plan_of(&view).await?;
        // Whoever executes a plan reads them.
        let forged = self.give_needs(&view, plan.is_empty()).await?;
        if !plan.is_empty() {
            drop(view);
            return self.execute(&plan).await;
        }
        watch::permit(self.state, &self.dataset.name)?;
        self.log().permit_deletion().await?;
        let mut outcome = Self::begun(&plan, &plan, &view);
        outcome.failures.extend(forged);
        if !self.keys.only_marks() {
            self.sweep_records(&passed(&view), &view, &mut outcome).await;
        }
        self.remember(&plan, &view, &BTreeSet::new(), &mut outcome);
        Ok(outcome)
    }

    /// The outcome before anything was done: which replicas are left alone. Whoever has seen `plan`
    /// knows which could not be listed.
    fn begun(plan: &PrunePlan, fresh: &PrunePlan, view: &View) -> PruneOutcome {
        let vetoed = view.vetoed().clone();
        let mut outcome = PruneOutcome { space: plan.space, vetoed, ..PruneOutcome::default() };
        let is_known = |name: &Name| plan.leaves_alone(name) || view.doubted.iter().any(|(known, _)| known == name);
        let is_listed = |name: &Name| view.inventories.iter().any(|inventory| inventory.replica.name() == name);
        let left_out = fresh.skipped.iter().filter(|(name, _)| is_listed(name) || !is_known(name));
        outcome.failures.extend(left_out.map(|(name, why)| format!("replica {name} was left out: {why}")));
        let doubted = view.doubted.iter().map(|(name, why)| format!("replica {name}: {why}"));
        outcome.failures.extend(doubted);
        outcome.stopped = view.doubted.iter().map(|(name, _)| name.clone()).collect();
        outcome
    }

    /// Executes `plan`, as far as a second look confirms it. The caller holds the dataset's lock.
    ///
    /// # Errors
    /// As [`Self::plan`]; [`Class::Failed`](lifeboat_base::Class::Failed) if a snapshot is flagged.
    /// If a replica fails, or `cancel` fires, the rest of its deletions is not done. If an object
    /// cannot be deleted, what depends on it stays, too. Both are in [`PruneOutcome::failures`],
    /// and the next prune tries again.
    pub async fn execute(&self, plan: &PrunePlan) -> Result<PruneOutcome> {
        watch::permit(self.state, &self.dataset.name)?;
        self.log().permit_deletion().await?;
        let view = self.look(Memory::Written).await?;
        let fresh = self.plan_of(&view).await?;
        let mut outcome = Self::begun(plan, &fresh, &view);
        outcome.failures.extend(self.give_needs(&view, true).await?);
        let mut acting = Acting::new(self, &view);
        if !self.keys.is_warden {
            self.mark(&mut acting, plan, &fresh, &view, &mut outcome).await?;
        }
        let mut gone = BTreeSet::new();
        if self.keys.only_marks() {
            // Whether it goes, and when, is the warden's decision.
        } else if let Some(sweep) = self.sweep_of(plan, &fresh, &view) {
            // The plan did not look at what must stay in the others.
            let is_swept = |name: &Name| !plan.leaves_alone(name) && !fresh.leaves_alone(name);
            let swept: Vec<Inventory> =
                view.inventories.iter().filter(|inventory| is_swept(inventory.replica.name())).cloned().collect();
            let is_everywhere = swept.len() == view.inventories.len() && view.skipped.is_empty();
            let (id, record) = self.record(is_everywhere, &view, &sweep)?;
            let names = view.inventories.iter().map(|inventory| inventory.replica.name());
            let names = names.filter(|name| plan.leaves_alone(name) && !fresh.leaves_alone(name));
            outcome.failures.extend(names.map(|name| format!("replica {name} is left alone until the next prune")));
            acting.act(ActKind::Sweep, &id, &record, &swept).await?;
            for inventory in swept.iter().filter(|inventory| acting.writes_to(inventory)) {
                self.sweep(inventory, &view, &sweep, &mut gone, &mut outcome).await;
            }
            // What no replica has written down yet is passed by nothing.
            let is_written = swept.iter().any(|inventory| acting.writes_to(inventory));
            let says = if is_written { vec![&sweep.passed] } else { passed(&view) };
            self.sweep_records(&says, &view, &mut outcome).await;
        } else {
            self.sweep_records(&passed(&view), &view, &mut outcome).await;
        }
        outcome.failures.extend(acting.failed.values().map(Error::chain));
        outcome.snapshots = gone.len() as u64;
        if let Some(last) = &acting.last {
            outcome.remembered(seen::remember(self.state, &self.dataset.name, last.act.number));
        }
        self.remember(&fresh, &view, &gone, &mut outcome);
        Ok(outcome)
    }

    /// `None` if nothing is due.
    fn sweep_of<'p>(&self, plan: &'p PrunePlan, fresh: &PrunePlan, view: &View) -> Option<Sweep<'p>> {
        let still: BTreeSet<&SnapshotId> = fresh.removed().collect();
        let removed: BTreeSet<SnapshotId> =
            plan.removed().filter(|snapshot| still.contains(snapshot)).cloned().collect();
        let confirmed: BTreeSet<(&Name, &str)> =
            fresh.packs.iter().map(|pack| (&pack.replica, pack.key.as_str())).collect();
        let packs: Vec<&DeadPack> =
            plan.packs.iter().filter(|pack| confirmed.contains(&(&pack.replica, pack.key.as_str()))).collect();
        let segments: Vec<&(Name, String)> =
            plan.segments.iter().filter(|segment| fresh.segments.contains(segment)).collect();
        let objects: Vec<&String> = plan.objects.iter().filter(|key| fresh.objects.contains(*key)).collect();
        let due: BTreeSet<SnapshotId> = plan.due.iter().filter(|mark| fresh.due.contains(mark)).cloned().collect();
        let nothing = removed.is_empty() && packs.is_empty() && objects.is_empty();
        if nothing && segments.is_empty() && due.is_empty() {
            return None;
        }
        let keeps = |number: u64| match view.acts.found.get(&number).map(|found| (&found.act.act, &found.act.id)) {
            Some((ActKind::Commit, snapshot)) => !removed.contains(snapshot) && !view.pruned.contains_key(snapshot),
            Some((ActKind::Mark, mark)) => !due.contains(mark) && view.current_marks.contains(mark),
            Some((ActKind::Sweep, _)) | None => false,
        };
        let kept: Vec<u64> = view.acts.found.keys().copied().filter(|number| keeps(*number)).collect();
        let passed = PruneRecord { passed: without(&kept, view.acts.newest()), ..PruneRecord::default() };
        Some(Sweep { removed, packs, segments, objects, due, passed })
    }

    /// The record of this sweep. It repeats a snapshot from an older record while one that stays
    /// names it as predecessor, or while a replica may still show it: unless the sweep is
    /// everywhere.
    fn record(&self, is_everywhere: bool, view: &View, sweep: &Sweep<'_>) -> Result<(SnapshotId, SignedObject)> {
        let removed = &sweep.removed;
        let all = || view.by_snapshot.values().map(AsRef::as_ref);
        let stays = || all().filter(|outline: &&Outline| !removed.contains(&outline.snapshot));
        let predecessors: BTreeSet<&SnapshotId> = stays().filter_map(Outline::predecessor).collect();
        let matters = |snapshot: &&SnapshotId| {
            !is_everywhere || predecessors.contains(snapshot) || view.leftovers.contains(snapshot)
        };
        let hash = |snapshot: &SnapshotId| view.hash(snapshot).or(view.pruned.get(snapshot).copied().flatten());
        let all: BTreeSet<&SnapshotId> = removed.iter().chain(view.pruned.keys().filter(matters)).collect();
        let stays: BTreeSet<&SnapshotId> = stays().map(|outline| &outline.snapshot).collect();
        let settled = view.records.iter().flat_map(|record| &record.body.branches);
        let branches: BTreeSet<&SnapshotId> = settled.filter(|snapshot| stays.contains(snapshot)).collect();
        // What only a replica shows that is away stays as well.
        let may_stay = |snapshot: &SnapshotId| {
            stays.contains(snapshot)
                || (!is_everywhere && !removed.contains(snapshot) && !view.pruned.contains_key(snapshot))
        };
        let body = PruneRecord {
            removed: all
                .into_iter()
                .map(|snapshot| RemovedSnapshot { snapshot: snapshot.clone(), blake3: hash(snapshot) })
                .collect(),
            passed: sweep.passed.passed.clone(),
            branches: branches.into_iter().cloned().collect(),
            times: view.settled.iter().filter(|settled| may_stay(&settled.snapshot)).cloned().collect(),
        };
        self.sign_record(view, &body)
    }

    /// Signs a record that comes after all others.
    pub(super) fn sign_record(&self, view: &View, body: &PruneRecord) -> Result<(SnapshotId, SignedObject)> {
        let (time, dataset) = (self.clock.now(), &self.dataset.name);
        // Only of those that were believed: anybody can name an object from the future.
        let newest = view.records.iter().map(|record| &record.id).max();
        let after = newest.map(|id| id.time() + chrono::TimeDelta::milliseconds(1));
        let id = SnapshotId::new(after.map_or(time, |after| after.max(time)), rand::random());
        let HostKeys { vault, signer, .. } = self.keys;
        let writer = RecordWriter { vault, dataset, principal: &self.config.host, signer };
        let record = writer.sign(&id, time, view.records.iter().rev().find(|record| writer.wrote(record)), body)?;
        Ok((id, record))
    }

    /// Remembers what the next prune and the next backup want to know. None of it is needed: grace
    /// periods begin again, and a witness of losses is gone.
    fn remember(&self, fresh: &PrunePlan, view: &View, gone: &BTreeSet<SnapshotId>, outcome: &mut PruneOutcome) {
        let dataset = &self.dataset.name;
        let mut memory = Unreferenced::new();
        // Packs that were to go are remembered, too: a deletion may have failed.
        for DeadPack { replica, key, unreferenced_since, .. } in fresh.packs.iter().chain(&fresh.waiting) {
            if let Some(pack) = layout::parse_pack(dataset, key) {
                let replica: &Name = replica;
                memory.entry(replica.clone()).or_default().insert(pack, *unreferenced_since);
            }
        }
        outcome.remembered(unreferenced::write(self.state, dataset, &memory));
        outcome.remembered(sparse::write(self.state, dataset, &fresh.sparse));
        self.remember_shown(view, gone, outcome);
        let keep: BTreeSet<String> = view
            .inventories
            .iter()
            .flat_map(|inventory| inventory.snapshots.iter().chain(&inventory.indexes))
            .filter(|snapshot| !gone.contains(*snapshot))
            .map(|snapshot| layout::manifest(dataset, snapshot))
            .collect();
        let segments: BTreeSet<&str> = fresh.segments.iter().map(|(_, key)| key.as_str()).collect();
        let acts: BTreeSet<String> = view.acts.found.keys().map(|number| layout::act(dataset, *number)).collect();
        // What a replica that is left alone shows may be lost there, too.
        let may_be_shown = |key: &str| match (layout::parse_manifest(dataset, key), layout::parse_act(dataset, key)) {
            _ if view.skipped.is_empty() => false,
            (Some(snapshot), _) => !gone.contains(&snapshot) && !view.pruned.contains_key(&snapshot),
            (_, Some(number)) => !view.records.iter().any(|record| record.body.has_passed(number)),
            _ => false,
        };
        view.cache.retain(|key| {
            keep.contains(key)
                || acts.contains(key)
                || may_be_shown(key)
                || (key.contains("/index/") && !segments.contains(key))
        });
    }

    /// Remembers what the replicas show that were looked at.
    fn remember_shown(&self, view: &View, gone: &BTreeSet<SnapshotId>, outcome: &mut PruneOutcome) {
        let dataset = &self.dataset.name;
        let mut remembered: ShownSnapshots = match shown::read(self.state, dataset) {
            Ok(remembered) => remembered,
            Err(error) => return outcome.remembered(Err(error)),
        };
        for inventory in &view.inventories {
            let shown = inventory.snapshots.iter().filter(|snapshot| !gone.contains(*snapshot));
            remembered.insert(inventory.replica.name().clone(), with_numbers(shown, &view.acts));
        }
        remembered.retain(|name, _| self.replicas.iter().any(|replica| replica.name() == name));
        outcome.remembered(shown::write(self.state, dataset, &remembered));
    }
}

/// The numbers from 1 to `newest` that are not in `kept`, as ranges.
fn without(kept: &[u64], newest: u64) -> Vec<[u64; 2]> {
    let (mut ranges, mut next) = (Vec::new(), 1);
    for number in kept {
        if *number > next {
            ranges.push([next, number - 1]);
        }
        next = number + 1;
    }
    if newest >= next {
        ranges.push([next, newest]);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_has_passed() {
        assert_eq!(without(&[], 0), Vec::<[u64; 2]>::new());
        assert_eq!(without(&[], 3), [[1, 3]]);
        assert_eq!(without(&[1, 2, 5, 9], 9), [[3, 4], [6, 8]]);
        assert_eq!(without(&[2], 4), [[1, 1], [3, 4]]);
    }
}
