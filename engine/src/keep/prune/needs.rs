//! Gives replicas the lists of what snapshots need that they lack, and those that do not tell what
//! the manifest does. A commit under a warden writes its own; these are of snapshots from before
//! there was one, that were copied, whose signer was revoked, or that somebody overwrote.
//!
//! A list is read once, and again when its size or its time changes.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::needs::SnapshotNeeds;
use lifeboat_store::ReplicaErrorKind;

use super::Prune;
use super::view::View;
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::needs::{Differs, of_outline, sign_needs};
use crate::state::{StateDirectory, replace_or_forget};

const READ_FILE: &str = "read-needs";

/// The size and time of each list that was good when it was read, by replica.
type ReadLists = BTreeMap<Name, BTreeMap<SnapshotId, (u64, DateTime<Utc>)>>;

/// If it is lost, all are read again.
fn read_before(state: &StateDirectory, dataset: &Name) -> Result<ReadLists> {
    let path = state.dataset(dataset)?.join(READ_FILE);
    Ok(std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
}

fn remember_read(state: &StateDirectory, dataset: &Name, read: &ReadLists) -> Result<()> {
    let text = serde_json::to_vec(read).context(Class::Failed, || "cannot write which lists were read as JSON")?;
    replace_or_forget(&state.dataset(dataset)?.join(READ_FILE), &text)
}

impl Prune<'_> {
    /// Writes the lists that are lacking, where there is a warden and this is none; and if they are
    /// to be `read`, those that do not tell what the manifest does. Returns which of these somebody
    /// had signed.
    ///
    /// # Errors
    /// No list can be signed, or the state directory fails. What a replica does not take is only
    /// warned of: the warden names it.
    pub(super) async fn give_needs(&self, view: &View, read: bool) -> Result<Vec<String>> {
        let (dataset, mut forged) = (&self.dataset.name, Vec::new());
        if !self.keys.only_marks() {
            return Ok(forged);
        }
        let keys = self.keys.reader();
        let documents = Documents {
            vault: &self.keys.vault,
            dataset,
            keys: &keys,
            cache: Some(&view.cache),
            memory: self.config.limits.memory,
        };
        let (before, mut now) = (read_before(self.state, dataset)?, ReadLists::new());
        let was_read = |inventory: &Inventory, snapshot: &SnapshotId| {
            let known = before.get(inventory.replica.name()).and_then(|lists| lists.get(snapshot));
            known.is_some() && known == inventory.needs.get(snapshot)
        };
        let mut walk = view.outlines.walk();
        while let Some(outline) = walk.step() {
            let snapshot = &outline.snapshot;
            if view.by_snapshot.get(snapshot).is_none_or(|known| known.hash != outline.hash) {
                continue;
            }
            let (mut asked, mut good) = (Vec::new(), Vec::new());
            for inventory in view.inventories.iter().filter(|inventory| inventory.snapshots.contains(snapshot)) {
                match inventory.needs.get(snapshot) {
                    Some(_) if was_read(inventory, snapshot) => good.push(inventory),
                    Some(_) if !read => {}
                    _ => asked.push(inventory),
                }
            }
            if !asked.is_empty() {
                let packs = walk.packs().map(|(number, _)| view.outlines.packs().get(number));
                let needs = of_outline(&self.keys.vault, dataset, outline, packs);
                let (key, list) = sign_needs(&needs, &self.keys.signer)?;
                for inventory in asked {
                    let replica = inventory.replica.name();
                    match give(&documents, inventory, &needs, (&key, &list)).await {
                        Ok(None) => good.push(inventory),
                        Ok(Some(Differs::Unbelieved)) => {}
                        Ok(Some(Differs::Signed)) => forged.push(format!(
                            "replica {replica}: {key} told something else than the manifest, and was signed; it is written anew: find out who has the keys of a host of {dataset}"
                        )),
                        Err(error) => {
                            tracing::warn!(%replica, %key, error = %error.chain(), "The warden is not told what a snapshot needs");
                        }
                    }
                }
            }
            for inventory in good {
                if let Some(listed) = inventory.needs.get(snapshot) {
                    now.entry(inventory.replica.name().clone()).or_default().insert(snapshot.clone(), *listed);
                }
            }
        }
        if now != before {
            remember_read(self.state, dataset, &now)?;
        }
        Ok(forged)
    }
}

/// Writes a list where it lacks, or tells something else. Returns how the old one differed.
async fn give(
    documents: &Documents<'_>,
    inventory: &Inventory,
    needs: &SnapshotNeeds,
    (key, list): (&str, &Bytes),
) -> Result<Option<Differs>> {
    let replica = &inventory.replica;
    if !inventory.needs.contains_key(&needs.snapshot) {
        return match replica.put_new(key, list.clone()).await {
            Err(error) if !matches!(error.kind, ReplicaErrorKind::AlreadyExists) => Err(Error::from(error)),
            _ => Ok(None),
        };
    }
    let differs = documents.differs(replica, needs).await?;
    if differs.is_some() {
        tracing::warn!(replica = %replica.name(), %key, "A list does not tell what a snapshot needs, and is written anew");
        replica.put_replace(key, list.clone()).await?;
    }
    Ok(differs)
}
