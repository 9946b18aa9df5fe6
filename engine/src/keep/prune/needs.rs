//! Gives replicas the lists of what snapshots need that they lack. A commit under a warden writes
//! its own; these are of snapshots from before there was one, or that were copied.

use std::collections::BTreeSet;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::SnapshotId;
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use super::Prune;
use super::view::View;
use crate::catalog::inventory::Inventory;
use crate::catalog::needs::{of_outline, sign_needs};

impl Prune<'_> {
    /// Writes the lists that are lacking, where there is a warden and this is none.
    ///
    /// # Errors
    /// No list can be signed. What a replica does not take is only warned of: the warden names it.
    pub(super) async fn give_needs(&self, view: &View) -> Result<()> {
        if !self.keys.only_marks() {
            return Ok(());
        }
        let dataset = &self.dataset.name;
        let lacks = |inventory: &Inventory, snapshot: &SnapshotId| {
            inventory.snapshots.contains(snapshot) && !inventory.needs.contains(snapshot)
        };
        let lacking: BTreeSet<&SnapshotId> = view
            .by_snapshot
            .keys()
            .filter(|snapshot| view.inventories.iter().any(|inventory| lacks(inventory, snapshot)))
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let mut walk = view.outlines.walk();
        while let Some(outline) = walk.step() {
            let is_current = view.by_snapshot.get(&outline.snapshot).is_some_and(|known| known.hash == outline.hash);
            if !is_current || !lacking.contains(&outline.snapshot) {
                continue;
            }
            let packs = walk.packs().map(|(number, _)| view.outlines.packs().get(number));
            let needs = of_outline(&self.keys.vault, dataset, outline, packs);
            let (key, list) = sign_needs(&needs, &self.keys.signer)?;
            for inventory in view.inventories.iter().filter(|inventory| lacks(inventory, &outline.snapshot)) {
                let replica: &SharedReplica = &inventory.replica;
                match replica.put_new(&key, list.clone()).await {
                    Ok(()) => {}
                    Err(error) if matches!(error.kind, ReplicaErrorKind::AlreadyExists) => {}
                    Err(error) => {
                        let error = Error::from(error);
                        tracing::warn!(replica = %replica.name(), %key, error = %error.chain(), "The warden is not told what a snapshot needs");
                    }
                }
            }
        }
        Ok(())
    }
}
