//! Gives replicas the lists of what snapshots need that they lack, or that nobody can believe. A
//! commit under a warden writes its own; these are of snapshots from before there was one, that
//! were copied, whose signer was revoked, or that somebody overwrote.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use super::Prune;
use super::view::View;
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::needs::{of_outline, sign_needs};

/// So many lists are read at once.
const LISTS_READ_AT_ONCE: usize = 4;

impl Prune<'_> {
    /// Writes the lists that are lacking, where there is a warden and this is none; and those that
    /// nobody can believe, if all are to be `read`.
    ///
    /// # Errors
    /// No list can be signed. What a replica does not take is only warned of: the warden names it.
    pub(super) async fn give_needs(&self, view: &View, read: bool) -> Result<()> {
        if !self.keys.only_marks() {
            return Ok(());
        }
        let dataset = &self.dataset.name;
        let unbelieved = if read { self.unbelieved_lists(view).await } else { BTreeMap::new() };
        let is_unbelieved = |inventory: &Inventory, snapshot: &SnapshotId| {
            unbelieved.get(inventory.replica.name()).is_some_and(|lists| lists.contains(snapshot))
        };
        let lacks = |inventory: &Inventory, snapshot: &SnapshotId| {
            inventory.snapshots.contains(snapshot)
                && (!inventory.needs.contains(snapshot) || is_unbelieved(inventory, snapshot))
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
                let given = if is_unbelieved(inventory, &outline.snapshot) {
                    tracing::warn!(replica = %replica.name(), %key, "A list of what a snapshot needs cannot be believed, and is written anew");
                    replica.put_replace(&key, list.clone()).await
                } else {
                    replica.put_new(&key, list.clone()).await
                };
                match given {
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

    /// The snapshots whose lists nobody can believe, by replica.
    async fn unbelieved_lists(&self, view: &View) -> BTreeMap<Name, BTreeSet<SnapshotId>> {
        let reader = self.keys.reader();
        let documents = Documents {
            vault: &self.keys.vault,
            dataset: &self.dataset.name,
            keys: &reader,
            cache: Some(&view.cache),
            memory: self.config.limits.memory,
        };
        let mut unbelieved: BTreeMap<Name, BTreeSet<SnapshotId>> = BTreeMap::new();
        for inventory in &view.inventories {
            let replica = &inventory.replica;
            let is_unbelieved = |snapshot: SnapshotId| {
                let documents = &documents;
                async move { documents.is_unbelieved_list(replica, &snapshot).await.then_some(snapshot) }
            };
            let listed: Vec<SnapshotId> = inventory.needs.intersection(&inventory.snapshots).cloned().collect();
            let found = futures::stream::iter(listed).map(is_unbelieved).buffered(LISTS_READ_AT_ONCE);
            let found: Vec<Option<SnapshotId>> = found.collect().await;
            unbelieved.insert(replica.name().clone(), found.into_iter().flatten().collect());
        }
        unbelieved
    }
}
