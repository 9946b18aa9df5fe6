//! Deletes in one replica what a sweep has named, and a second look has confirmed.
//!
//! - **Order**: a reader never sees a snapshot whose packs are gone. Signatures go before what they
//!   sign, manifests before packs, packs before the segments that index them. Marks, older records
//!   and acts go last.
//! - **An object that cannot be deleted** ends nothing else. What depends on it stays, too, and so
//!   do the marks, records and acts that name it: packs of a snapshot that is still shown, and
//!   index segments of packs that stay. The next sweep tries it all again.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{MarkRecord, PruneRecord};
use lifeboat_store::{ReplicaError, SharedReplica};

use super::execute::Sweep;
use super::view::View;
use super::{DeadPack, Prune, PruneOutcome};
use crate::catalog::inventory::Inventory;
use crate::catalog::numbers::numbers;
use crate::catalog::outlines::OutlineMap;
use crate::renewal::sparse::Packs;

/// A sweep can be interrupted after so many objects.
const MAX_AT_ONCE: usize = 1000;
/// So many objects that cannot be deleted are told one by one.
const MAX_TOLD_STUCK: usize = 3;

/// What became of objects of one replica that were to go: which of them stay.
#[derive(Default)]
struct Stuck {
    /// Their keys. That of a signature stands for the object that it signs.
    keys: BTreeSet<String>,
    /// Why some of them could not be deleted.
    errors: Vec<ReplicaError>,
    /// How many others are only hidden.
    hidden: u64,
}

impl Stuck {
    fn add(&mut self, failed: Vec<ReplicaError>) {
        self.keys.extend(failed.iter().map(|error| layout::signed_object(&error.key).unwrap_or(&error.key).to_owned()));
        self.errors.extend(failed);
    }

    fn has(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Of these, what may go. The others stay.
    fn hold<T>(&mut self, all: Vec<T>, key: impl Fn(&T) -> String, goes: impl Fn(&Self, &T) -> bool) -> Vec<T> {
        let (going, held): (Vec<T>, Vec<T>) = all.into_iter().partition(|one| goes(self, one));
        self.keys.extend(held.iter().map(key));
        going
    }

    /// What could not be deleted, in one text.
    fn told(&self) -> Option<String> {
        let named: Vec<String> = self.errors.iter().take(MAX_TOLD_STUCK).map(ToString::to_string).collect();
        let more = match self.errors.len().saturating_sub(MAX_TOLD_STUCK) {
            0 => String::new(),
            more => format!("; and {more} more objects"),
        };
        (!named.is_empty()).then(|| format!("{}{more}", named.join("; ")))
    }

    async fn delete(&mut self, replica: &SharedReplica, keys: &[String]) -> Result<()> {
        let removal = replica.delete_all(keys).await?;
        self.hidden += removal.hidden;
        self.add(removal.failed);
        Ok(())
    }

    /// Deletes the signatures first: from then on, no reader accepts the objects. Returns the keys
    /// of those that are still signed. They stay.
    async fn delete_signed(
        &mut self,
        replica: &SharedReplica,
        keys: impl Iterator<Item = String>,
    ) -> Result<BTreeSet<String>> {
        let keys: Vec<String> = keys.collect();
        let signatures: Vec<String> = keys.iter().map(|key| layout::signature(key)).collect();
        self.delete(replica, &signatures).await?;
        let (signed, unsigned): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| self.has(key));
        self.delete(replica, &unsigned).await?;
        Ok(signed.into_iter().collect())
    }
}

impl Prune<'_> {
    /// Deletes in one replica. It has the record of this sweep, and its act.
    pub(super) async fn sweep(
        &self,
        inventory: &Inventory,
        view: &View,
        sweep: &Sweep<'_>,
        gone: &mut BTreeSet<SnapshotId>,
        outcome: &mut PruneOutcome,
    ) {
        let mut stuck = Stuck::default();
        let done = self.sweep_but(inventory, view, sweep, gone, outcome, &mut stuck).await;
        outcome.hidden += stuck.hidden;
        let failed = stuck.told().into_iter().chain(done.err().map(|error| error.chain()));
        let failed: Vec<String> = failed.collect();
        if !failed.is_empty() {
            outcome.failures.push(failed.join("; "));
        }
    }

    /// Deletes acts that have passed, as one of these records says, from the places that hold
    /// records alone.
    pub(super) async fn sweep_records(&self, says: &[&PruneRecord], view: &View, outcome: &mut PruneOutcome) {
        let dataset = &self.dataset.name;
        for place in self.records {
            if let Some(refused) = view.refused_records.get(place.name()) {
                outcome.failures.push(refused.chain());
                continue;
            }
            let deleted = async {
                let shown = numbers(place, dataset, 1).await?;
                let passed = shown.into_iter().filter(|number| says.iter().any(|record| record.has_passed(*number)));
                let mut stuck = Stuck::default();
                stuck.delete(place, &passed.map(|number| layout::act(dataset, number)).collect::<Vec<_>>()).await?;
                Ok::<_, Error>(stuck)
            };
            match deleted.await {
                Ok(stuck) => {
                    outcome.hidden += stuck.hidden;
                    outcome.failures.extend(stuck.told());
                }
                Err(error) => outcome.failures.push(error.chain()),
            }
        }
    }

    async fn sweep_but(
        &self,
        inventory: &Inventory,
        view: &View,
        sweep: &Sweep<'_>,
        gone: &mut BTreeSet<SnapshotId>,
        outcome: &mut PruneOutcome,
        stuck: &mut Stuck,
    ) -> Result<()> {
        let (replica, dataset) = (&inventory.replica, &self.dataset.name);
        let removed: Vec<&SnapshotId> =
            sweep.removed.iter().filter(|snapshot| inventory.snapshots.contains(snapshot)).collect();
        let mut shown = BTreeSet::new();
        for snapshots in removed.chunks(MAX_AT_ONCE) {
            self.go_on()?;
            let manifests = snapshots.iter().map(|snapshot| layout::manifest(dataset, snapshot));
            let signed = stuck.delete_signed(replica, manifests).await?;
            let (stay, went): (Vec<&SnapshotId>, Vec<&SnapshotId>) =
                snapshots.iter().partition(|snapshot| signed.contains(&layout::manifest(dataset, snapshot)));
            gone.extend(went.into_iter().cloned());
            shown.extend(stay);
        }
        let packs: Vec<&DeadPack> =
            sweep.packs.iter().copied().filter(|pack| pack.replica == *replica.name()).collect();
        let needed = StillNeeded::by(view, &shown);
        let needs = |pack: &DeadPack| layout::parse_pack(dataset, &pack.key).is_none_or(|id| needed.has(&id));
        let packs = stuck.hold(packs, |pack| pack.key.clone(), |_, pack| !needs(pack));
        for packs in packs.chunks(MAX_AT_ONCE) {
            self.go_on()?;
            let keys: Vec<String> = packs.iter().map(|pack| pack.key.clone()).collect();
            stuck.delete(replica, &keys).await?;
            let went = || packs.iter().filter(|pack| !stuck.has(&pack.key));
            outcome.packs += went().count() as u64;
            outcome.bytes += went().map(|pack| pack.size).sum::<u64>();
        }
        self.delete_needs(inventory, view, sweep, &shown, stuck).await?;
        self.go_on()?;
        let segments = sweep.segments.iter().filter(|(name, _)| name == replica.name()).map(|(_, key)| key.clone());
        let mut segments: Vec<String> = segments.collect();
        if !stuck.keys.is_empty() {
            let went: BTreeSet<&str> =
                packs.iter().map(|pack| pack.key.as_str()).filter(|key| !stuck.has(key)).collect();
            let is_removed = |snapshot: &SnapshotId| sweep.removed.contains(snapshot) && !shown.contains(snapshot);
            let useless = self.useless_segments(view, inventory, is_removed, |key| went.contains(key)).await;
            segments = stuck.hold(segments, String::clone, |_, key| useless.contains(key));
        }
        stuck.delete_signed(replica, segments.into_iter()).await?;
        self.go_on()?;
        let objects = sweep.objects.iter().filter(|key| inventory.unfinished.contains(**key));
        stuck.delete(replica, &objects.map(|key| (*key).clone()).collect::<Vec<_>>()).await?;
        let lone = sweep.objects.iter().filter(|key| inventory.lone_signatures.contains(**key));
        stuck.delete(replica, &lone.map(|key| layout::signature(key)).collect::<Vec<_>>()).await?;
        self.sweep_acts(inventory, view, sweep, stuck).await
    }

    /// Deletes the lists of what snapshots need that are gone, and those that killed runs have
    /// left.
    async fn delete_needs(
        &self,
        inventory: &Inventory,
        view: &View,
        sweep: &Sweep<'_>,
        shown: &BTreeSet<&SnapshotId>,
        stuck: &mut Stuck,
    ) -> Result<()> {
        let dataset = &self.dataset.name;
        let longest = chrono::TimeDelta::from_std(self.config.limits.longest_run()).unwrap_or(chrono::TimeDelta::MAX);
        let is_left = |snapshot: &SnapshotId| {
            let has = |other: &Inventory| other.snapshots.contains(snapshot) || other.unsigned.contains(snapshot);
            view.skipped.is_empty()
                && !view.inventories.iter().any(has)
                && !view.by_snapshot.contains_key(snapshot)
                && self.clock.now() - snapshot.time() >= longest
        };
        let is_gone = |snapshot: &SnapshotId| sweep.removed.contains(snapshot) && !shown.contains(snapshot);
        let going = inventory.needs.keys().filter(|snapshot| is_gone(snapshot) || is_left(snapshot));
        stuck
            .delete(&inventory.replica, &going.map(|snapshot| layout::needs(dataset, snapshot)).collect::<Vec<_>>())
            .await
    }

    /// Deletes what said that all this should go: marks, older records, and acts. What names
    /// something that stays, stays.
    async fn sweep_acts(&self, inventory: &Inventory, view: &View, sweep: &Sweep<'_>, stuck: &mut Stuck) -> Result<()> {
        let (replica, dataset) = (&inventory.replica, &self.dataset.name);
        let due = view.marks.iter().filter(|mark| sweep.due.contains(&mark.id) && inventory.marks.contains(&mark.id));
        let key = |id| layout::mark(dataset, id);
        let marks =
            stuck.hold(due.collect(), |mark| key(&mark.id), |stuck, mark| !stuck.is_marked(dataset, &mark.body));
        stuck.delete_signed(replica, marks.into_iter().map(|mark| key(&mark.id))).await?;
        // The new record repeats what still matters of them.
        let old = view.records.iter().filter(|old| inventory.prunes.contains(&old.id));
        let key = |id| layout::prune(dataset, id);
        let old = stuck.hold(old.collect(), |old| key(&old.id), |stuck, old| !stuck.is_removed(dataset, &old.body));
        stuck.delete_signed(replica, old.into_iter().map(|old| key(&old.id))).await?;
        self.go_on()?;
        let names_stuck = |stuck: &Stuck, number: &u64| {
            view.acts.found.get(number).is_some_and(|found| stuck.has(&found.act.object()))
        };
        let acts = inventory.acts.iter().copied().filter(|number| sweep.passed.has_passed(*number));
        let key = |number: &u64| layout::act(dataset, *number);
        let acts = stuck.hold(acts.collect(), key, |stuck, number| !names_stuck(stuck, number));
        stuck.delete(replica, &acts.iter().map(key).collect::<Vec<_>>()).await
    }

    fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }
}

impl Stuck {
    /// Whether a mark names something that stays.
    fn is_marked(&self, dataset: &Name, mark: &MarkRecord) -> bool {
        !self.keys.is_empty()
            && (mark.snapshots.iter().any(|marked| self.has(&layout::manifest(dataset, &marked.snapshot)))
                || mark.packs.iter().any(|pack| self.has(&layout::pack(dataset, pack)))
                || mark.objects.iter().any(|key| self.has(key)))
    }

    /// Whether a record names something that stays.
    fn is_removed(&self, dataset: &Name, record: &PruneRecord) -> bool {
        !self.keys.is_empty()
            && record.removed.iter().any(|removed| self.has(&layout::manifest(dataset, &removed.snapshot)))
    }
}

/// The packs that snapshots need which could not be taken away.
enum StillNeeded<'v> {
    These(Packs<'v>),
    /// It is not known which: no manifest of one of them was read.
    All,
}

impl<'v> StillNeeded<'v> {
    fn by(view: &'v View, shown: &BTreeSet<&SnapshotId>) -> Self {
        let known = if shown.is_empty() { OutlineMap::new() } else { view.outlines.by_snapshot() };
        match shown.iter().all(|snapshot| known.contains_key(*snapshot)) {
            true => Self::These(Packs::of(&view.outlines, |outline| shown.contains(&outline.snapshot))),
            false => Self::All,
        }
    }

    fn has(&self, pack: &PackId) -> bool {
        match self {
            Self::These(packs) => packs.contains(pack),
            Self::All => true,
        }
    }
}

fn cancelled() -> Error {
    // `PruneOutcome` shows the chain of causes, not the hint.
    Error::cancelled("the prune")
        .because("completed deletions are not undone")
        .hint("Completed deletions are not undone. Run `lifeboat prune` again.")
}
