//! The replicas of one run. All of them get each object at once. A replica that fails is behind,
//! and gets nothing more in this run. The run fails if fewer than `min_replicas` replicas are left.
//!
//! All transfers to a replica, queued or running, are given up when it falls behind. So a replica
//! that hangs delays a run only by its first failure.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Name, PackId};
use lifeboat_format::layout;
use lifeboat_format::manifest::PackRef;
use lifeboat_store::SharedReplica;
use tokio_util::sync::CancellationToken;

use crate::catalog::ciphertext::put_once;
use crate::catalog::inventory::Inventory;
use crate::catalog::verdict::combine;

/// Proof that a pack is durable in some replicas. Only [`Fleet::upload`] makes receipts.
pub(crate) struct Receipt {
    pub pack: PackRef,
    replicas: HashSet<Name>,
}

pub(crate) struct Fleet {
    dataset: Name,
    members: Vec<Inventory>,
    behind: Mutex<BTreeMap<Name, String>>,
    /// For each member, a token that is cancelled when the member falls behind.
    left: BTreeMap<Name, CancellationToken>,
    required: usize,
}

impl Fleet {
    /// Makes a fleet of the usable `members`. The replicas in `failed` are behind from the start.
    ///
    /// # Errors
    /// Fewer than `required` replicas can be used. The class is the gravest one of `failed`.
    pub(crate) fn new(
        dataset: &Name,
        members: Vec<Inventory>,
        failed: BTreeMap<Name, Error>,
        required: usize,
    ) -> Result<Self> {
        let behind = failed.iter().map(|(name, error)| (name.clone(), error.chain())).collect();
        if members.len() < required {
            let what = format!("min_replicas requires {required} replicas, but only {} can be used", members.len());
            return Err(combine(what, &failed.into_values().collect::<Vec<_>>()));
        }
        let left = members.iter().map(|member| (member.replica.name().clone(), CancellationToken::new())).collect();
        Ok(Self { dataset: dataset.clone(), members, behind: Mutex::new(behind), left, required })
    }

    pub(crate) fn members(&self) -> &[Inventory] {
        &self.members
    }

    /// The replicas that are behind, and why.
    pub(crate) fn behind(&self) -> BTreeMap<Name, String> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a replica, or a place that holds records alone, has failed in this run.
    pub(crate) fn is_behind(&self, replica: &Name) -> bool {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).contains_key(replica)
    }

    /// The members that have not failed so far.
    pub(crate) fn healthy(&self) -> Vec<&Inventory> {
        self.members.iter().filter(|member| !self.is_behind(member.replica.name())).collect()
    }

    /// Marks a replica as behind, and gives up all transfers to it.
    pub(crate) fn fell_behind(&self, replica: &Name, error: &Error) {
        tracing::warn!(%replica, error = %error.chain(), "this replica is now behind; the run continues without it");
        self.behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(replica.clone())
            .or_insert_with(|| error.chain());
        if let Some(left) = self.left.get(replica) {
            left.cancel();
        }
    }

    /// Waits until a replica falls behind.
    async fn left_behind(&self, replica: &Name) {
        match self.left.get(replica) {
            Some(left) => left.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The error of a run of which `what` reached too few replicas.
    pub(crate) fn too_few(&self, what: &str, reached: usize) -> Error {
        self.failed(format!("min_replicas requires {} replicas, but {what} reached {reached}", self.required))
    }

    /// The error of a run of which `what` reached enough replicas, and too few places.
    pub(crate) fn too_few_places(&self, what: &str, required: usize, reached: usize) -> Error {
        self.failed(format!("{what} must be known in {required} places, replicas or records, and reached {reached}"))
    }

    fn failed(&self, what: String) -> Error {
        let reasons: Vec<String> = self.behind().into_iter().map(|(name, why)| format!("{name}: {why}")).collect();
        Error::new(Class::Storage, what)
            .because(reasons.join("; "))
            .hint("run `lifeboat check` to find the cause, then back up again; uploaded packs are reused")
    }

    /// Puts one object into all of `replicas` at once. Replicas that fail fall behind, and replicas
    /// that are behind are left out. Returns the replicas that hold the object.
    async fn put_all(&self, replicas: &[SharedReplica], key: &str, body: &Bytes) -> HashSet<Name> {
        let puts = replicas.iter().map(|replica| async {
            let put = tokio::select! {
                biased;
                () = self.left_behind(replica.name()) => return None,
                put = put_once(replica.as_ref(), key, body.clone()) => put,
            };
            match put {
                Ok(()) => Some(replica.name().clone()),
                Err(error) => {
                    self.fell_behind(replica.name(), &error);
                    None
                }
            }
        });
        futures::future::join_all(puts).await.into_iter().flatten().collect()
    }

    /// Uploads a pack to every healthy replica.
    ///
    /// # Errors
    /// [`Class::Storage`] if fewer than the required replicas took it.
    pub(crate) async fn upload(&self, pack: PackRef, ciphertext: &Bytes) -> Result<Receipt> {
        let replicas: Vec<SharedReplica> = self.healthy().into_iter().map(|member| member.replica.clone()).collect();
        let key = layout::pack(&self.dataset, &pack.id);
        let replicas = self.put_all(&replicas, &key, ciphertext).await;
        if replicas.len() < self.required {
            return Err(self.too_few("a pack", replicas.len()));
        }
        Ok(Receipt { pack, replicas })
    }

    /// Puts an object into each of `replicas`. Returns the replicas that took it.
    ///
    /// # Errors
    /// [`Class::Storage`] if fewer than the required replicas took it.
    pub(crate) async fn put_to(
        &self,
        replicas: &[SharedReplica],
        key: &str,
        body: &Bytes,
        what: &str,
    ) -> Result<Vec<SharedReplica>> {
        let took = self.put_all(replicas, key, body).await;
        if took.len() < self.required {
            return Err(self.too_few(what, took.len()));
        }
        Ok(replicas.iter().filter(|replica| took.contains(replica.name())).cloned().collect())
    }

    /// The healthy members that hold all of `packs`, by their listing or by receipts of this run.
    pub(crate) fn complete(&self, packs: &[PackRef], receipts: &[Receipt]) -> Vec<&Inventory> {
        self.healthy().into_iter().filter(|member| self.missing(member, packs, receipts).is_empty()).collect()
    }

    /// Those of `packs` that a member lacks.
    pub(crate) fn missing(&self, member: &Inventory, packs: &[PackRef], receipts: &[Receipt]) -> Vec<PackRef> {
        let uploaded: HashSet<PackId> = receipts
            .iter()
            .filter(|receipt| receipt.replicas.contains(member.replica.name()))
            .map(|receipt| receipt.pack.id)
            .collect();
        packs.iter().filter(|pack| !member.has(pack) && !uploaded.contains(&pack.id)).copied().collect()
    }
}

#[cfg(test)]
mod tests;
