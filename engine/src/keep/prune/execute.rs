//! Executes a plan.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::Manifest;
use lifeboat_format::record::{PruneRecord, RemovedSnapshot};
use lifeboat_store::SharedReplica;

use super::unreferenced;
use super::unreferenced::Unreferenced;
use super::{DeadPack, Prune, PruneOutcome, PrunePlan, View};
use crate::catalog::ciphertext::put_once;
use crate::catalog::documents::SignedObject;
use crate::catalog::inventory::Inventory;
use crate::catalog::records::RecordWriter;
use crate::keys::HostKeys;
use crate::renewal::sparse;

impl Prune<'_> {
    /// Executes `plan`. The caller has held the dataset's lock since the plan was made.
    ///
    /// # Errors
    /// No replica can be listed any more, every one has something that cannot be read, or the state
    /// directory fails.
    /// If a replica fails, or `cancel` fires, the rest of its deletions is not done. That is in
    /// [`PruneOutcome::failures`], and the next prune tries again.
    pub async fn execute(&self, plan: &PrunePlan) -> Result<PruneOutcome> {
        let mut outcome = PruneOutcome { space: plan.space, ..PruneOutcome::default() };
        let removed: BTreeSet<SnapshotId> = plan.removed().cloned().collect();
        let view = self.look().await?;
        let record = if removed.is_empty() { None } else { Some(self.record(plan, &view, &removed)?) };
        let mut gone = BTreeSet::new();
        let known = |name: &Name| plan.skipped.iter().chain(&view.doubted).any(|(known, _)| known == name);
        let unlisted = view.skipped.iter().filter(|(name, _)| !known(name));
        outcome.failures.extend(unlisted.map(|(name, why)| format!("replica {name} was left out: {why}")));
        let doubted = view.doubted.iter().map(|(name, why)| format!("replica {name}: {why}"));
        outcome.failures.extend(doubted);
        for inventory in &view.inventories {
            let name = inventory.replica.name();
            if plan.skipped.iter().any(|(skipped, _)| skipped == name) {
                // The plan did not look at what must stay there.
                outcome.failures.push(format!("replica {name} is left alone until the next prune"));
                continue;
            }
            match self.prune_replica(inventory, &view, plan, &removed, record.as_ref(), &mut outcome).await {
                Ok(snapshots) => gone.extend(snapshots),
                Err(error) => outcome.failures.push(error.chain()),
            }
        }
        outcome.snapshots = gone.len() as u64;
        unreferenced::write(self.state, &self.dataset.name, &remember(plan))?;
        sparse::write(self.state, &self.dataset.name, &plan.sparse)?;
        let keep: BTreeSet<String> = view
            .inventories
            .iter()
            .flat_map(|inventory| inventory.snapshots.iter().chain(&inventory.indexes))
            .chain(view.manifests.keys())
            .filter(|snapshot| !removed.contains(snapshot))
            .map(|snapshot| layout::manifest(&self.dataset.name, snapshot))
            .collect();
        let segments: BTreeSet<&str> = plan.segments.iter().map(|(_, key)| key.as_str()).collect();
        view.cache.retain(|key| keep.contains(key) || (key.contains("/index/") && !segments.contains(key)));
        Ok(outcome)
    }

    /// The record of this prune. It repeats a snapshot from an older record while one that stays
    /// names it as predecessor, or while a replica may still show it.
    fn record(&self, plan: &PrunePlan, view: &View, removed: &BTreeSet<SnapshotId>) -> Result<SignedObject> {
        let dataset = &self.dataset.name;
        let predecessors: BTreeSet<&SnapshotId> = view
            .manifests
            .values()
            .filter(|manifest| !removed.contains(&manifest.snapshot))
            .filter_map(Manifest::predecessor)
            .collect();
        let everywhere_gone = view.skipped.is_empty() && plan.skipped.is_empty();
        let matters = |snapshot: &&SnapshotId| {
            !everywhere_gone || predecessors.contains(snapshot) || view.leftovers.contains(snapshot)
        };
        let hash =
            |snapshot: &SnapshotId| view.hashes.get(snapshot).copied().or(view.pruned.get(snapshot).copied().flatten());
        let all: BTreeSet<&SnapshotId> = removed.iter().chain(view.pruned.keys().filter(matters)).collect();
        let removed =
            all.into_iter().map(|snapshot| RemovedSnapshot { snapshot: snapshot.clone(), blake3: hash(snapshot) });
        let body = PruneRecord { removed: removed.collect() };
        let time = self.clock.now();
        // Only of those that were believed: anybody can name an object from the future.
        let newest = view.records.iter().map(|record| &record.id).max();
        let after = newest.map(|id| id.time() + chrono::TimeDelta::milliseconds(1));
        let id = SnapshotId::new(after.map_or(time, |after| after.max(time)), rand::random());
        let HostKeys { vault, signer, .. } = self.keys;
        let writer = RecordWriter { vault, dataset, principal: &self.config.host, signer };
        writer.sign(&id, time, view.records.iter().rev().find(|record| writer.wrote(record)), &body)
    }

    async fn prune_replica(
        &self,
        inventory: &Inventory,
        view: &View,
        plan: &PrunePlan,
        removed: &BTreeSet<SnapshotId>,
        record: Option<&SignedObject>,
        outcome: &mut PruneOutcome,
    ) -> Result<Vec<SnapshotId>> {
        let (replica, dataset) = (&inventory.replica, &self.dataset.name);
        if let Some(record) = record {
            put_once(replica.as_ref(), &record.key, record.object.clone()).await?;
            put_once(replica.as_ref(), &layout::signature(&record.key), record.signature.clone()).await?;
        }
        let mut gone = Vec::new();
        for snapshot in removed.iter().filter(|snapshot| inventory.snapshots.contains(snapshot)) {
            self.go_on()?;
            let key = layout::manifest(dataset, snapshot);
            delete_signed(replica, &key).await?;
            gone.push(snapshot.clone());
        }
        if record.is_some() {
            // The new one repeats what still matters of them.
            for old in view.records.iter().filter(|old| inventory.prunes.contains(&old.id)) {
                delete_signed(replica, &layout::prune(dataset, &old.id)).await?;
            }
        }
        for pack in plan.packs.iter().filter(|pack| pack.replica == *replica.name()) {
            self.go_on()?;
            replica.delete(&pack.key).await?;
            outcome.packs += 1;
            outcome.bytes += pack.size;
        }
        for (_, key) in plan.segments.iter().filter(|(name, _)| name == replica.name()) {
            delete_signed(replica, key).await?;
        }
        Ok(gone)
    }

    fn go_on(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }
}

fn cancelled() -> Error {
    // `PruneOutcome` shows the chain of causes, not the hint.
    Error::cancelled("the prune")
        .because("completed deletions are not undone")
        .hint("Completed deletions are not undone. Run `lifeboat prune` again.")
}

/// Deletes the signature first: from then on, no reader accepts the object.
async fn delete_signed(replica: &SharedReplica, key: &str) -> Result<()> {
    replica.delete(&layout::signature(key)).await?;
    replica.delete(key).await?;
    Ok(())
}

fn remember(plan: &PrunePlan) -> Unreferenced {
    let mut memory = Unreferenced::new();
    // Packs that were to go are remembered, too. If a deletion failed, the grace period does not
    // begin again.
    for DeadPack { replica, key, unreferenced_since, .. } in plan.packs.iter().chain(&plan.waiting) {
        if let Some(pack) = layout::parse_pack(&plan.dataset, key) {
            let replica: &Name = replica;
            memory.entry(replica.clone()).or_default().insert(pack, *unreferenced_since);
        }
    }
    memory
}
