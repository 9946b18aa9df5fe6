//! The replicas of one run: all get everything at once; one that fails falls behind and is left
//! alone for the rest of the run; fewer than `min_replicas` left ends it.
//!
//! Whatever is queued for a replica or under way to it when it falls behind is given up at that
//! moment: a replica that hangs delays a run by its first failure only.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Name, PackId};
use lifeboat_format::layout;
use lifeboat_format::manifest::PackRef;
use lifeboat_store::SharedReplica;
use tokio_util::sync::CancellationToken;

use crate::catalog::documents::combine;
use crate::catalog::inventory::Inventory;

/// Proof that a pack is durable in these replicas. Only [`Fleet::upload`] makes one.
pub(crate) struct Receipt {
    pub pack: PackRef,
    replicas: HashSet<Name>,
}

pub(crate) struct Fleet {
    dataset: Name,
    members: Vec<Inventory>,
    behind: Mutex<BTreeMap<Name, String>>,
    /// Fired when a member falls behind.
    left: BTreeMap<Name, CancellationToken>,
    required: usize,
}

impl Fleet {
    /// # Errors
    /// [`Class::Storage`]: fewer than `required` replicas answered.
    pub(crate) fn new(
        dataset: &Name,
        members: Vec<Inventory>,
        failed: BTreeMap<Name, Error>,
        required: usize,
    ) -> Result<Self> {
        let behind = failed.iter().map(|(name, error)| (name.clone(), error.chain())).collect();
        if members.len() < required {
            let what =
                format!("only {} of the {required} replicas that min_replicas demands can be used", members.len());
            return Err(combine(what, &failed.into_values().collect::<Vec<_>>()));
        }
        let left = members.iter().map(|member| (member.replica.name().clone(), CancellationToken::new())).collect();
        Ok(Self { dataset: dataset.clone(), members, behind: Mutex::new(behind), left, required })
    }

    pub(crate) fn members(&self) -> &[Inventory] {
        &self.members
    }

    /// Why replicas fell behind.
    pub(crate) fn behind(&self) -> BTreeMap<Name, String> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_behind(&self, replica: &Name) -> bool {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).contains_key(replica)
    }

    /// Members that did not fail so far.
    pub(crate) fn healthy(&self) -> Vec<&Inventory> {
        self.members.iter().filter(|member| !self.is_behind(member.replica.name())).collect()
    }

    /// Notes that a replica failed, and gives up every put to it.
    pub(crate) fn fell_behind(&self, replica: &Name, error: &Error) {
        tracing::warn!(%replica, error = %error.chain(), "this replica falls behind; the run goes on without it");
        self.behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(replica.clone())
            .or_insert_with(|| error.chain());
        if let Some(left) = self.left.get(replica) {
            left.cancel();
        }
    }

    /// Ends when a replica falls behind.
    async fn left_behind(&self, replica: &Name) {
        match self.left.get(replica) {
            Some(left) => left.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The error of a run that reaches too few replicas.
    pub(crate) fn too_few(&self, what: &str, reached: usize) -> Error {
        let reasons: Vec<String> = self.behind().into_iter().map(|(name, why)| format!("{name}: {why}")).collect();
        Error::new(Class::Storage, format!("{what} reached {reached} replicas, min_replicas demands {}", self.required))
            .because(reasons.join("; "))
            .hint("nothing was committed; run `lifeboat check`, then back up again: packs already uploaded are reused")
    }

    /// Puts one object into each of `replicas` at once; those that fail fall behind, and those that
    /// are behind get nothing more. Returns those that hold it.
    async fn put_all(&self, replicas: &[SharedReplica], key: &str, body: &Bytes) -> HashSet<Name> {
        let puts = replicas.iter().map(|replica| async {
            let put = tokio::select! {
                biased;
                () = self.left_behind(replica.name()) => return None,
                put = replica.put_new(key, body.clone()) => put,
            };
            match put {
                Ok(()) => Some(replica.name().clone()),
                Err(error) => {
                    self.fell_behind(replica.name(), &error.into());
                    None
                }
            }
        });
        futures::future::join_all(puts).await.into_iter().flatten().collect()
    }

    /// Makes a pack durable in every healthy replica.
    ///
    /// # Errors
    /// Fewer than the required replicas took it.
    pub(crate) async fn upload(&self, pack: PackRef, ciphertext: &Bytes) -> Result<Receipt> {
        let replicas: Vec<SharedReplica> = self.healthy().into_iter().map(|member| member.replica.clone()).collect();
        let key = layout::pack(&self.dataset, &pack.0);
        let replicas = self.put_all(&replicas, &key, ciphertext).await;
        if replicas.len() < self.required {
            return Err(self.too_few("a pack", replicas.len()));
        }
        Ok(Receipt { pack, replicas })
    }

    /// Puts an object into each of `replicas`; returns those that took it.
    ///
    /// # Errors
    /// Fewer than the required replicas took it.
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

    /// Healthy members that hold every one of `packs`: by listing, or by receipt of this run.
    pub(crate) fn complete(&self, packs: &[PackRef], receipts: &[Receipt]) -> Vec<&Inventory> {
        self.healthy().into_iter().filter(|member| self.missing(member, packs, receipts).is_empty()).collect()
    }

    /// The packs that a member lacks.
    pub(crate) fn missing(&self, member: &Inventory, packs: &[PackRef], receipts: &[Receipt]) -> Vec<PackRef> {
        let uploaded: HashSet<PackId> = receipts
            .iter()
            .filter(|receipt| receipt.replicas.contains(member.replica.name()))
            .map(|receipt| receipt.pack.0)
            .collect();
        packs.iter().filter(|pack| !member.has(pack) && !uploaded.contains(&pack.0)).copied().collect()
    }
}

#[cfg(test)]
mod tests;
