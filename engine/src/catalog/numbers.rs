//! Takes a number in the order of a dataset, and gives it back: see [`order`](super::order).
//!
//! Sweeps delete acts that have passed. So the number of a host that slept for long may be free
//! again although newer acts are there. Such an act is **void**: whoever finds it finds the record,
//! too, which says that its number has passed. If newer acts are there and no record says so, their
//! writers have seen this one, and may build on it: then nobody takes it back.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::act::{Act, ActKind, MAX_ACT_BYTES};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::PruneRecord;
use lifeboat_format::requirements::Requirements;
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use super::order::{FoundAct, MAX_FALSE_NAMES, OrderReader};
use super::records::RecordReader;
use super::signed::SignedObject;
use super::verdict::is_verdict;
use crate::keys::sign::Signer;

/// A commit waits no longer for a listing.
const MAX_LOOK: Duration = Duration::from_secs(180);

/// Who acts.
#[derive(Clone, Copy)]
pub(crate) struct Actor<'a> {
    pub(crate) vault: &'a str,
    pub(crate) dataset: &'a Name,
    pub(crate) principal: &'a Name,
    pub(crate) signer: &'a Signer,
    /// Of who commits: the place of the snapshot in the chain.
    pub(crate) sequence: Option<u64>,
}

impl Actor<'_> {
    /// An act about `object`, which comes after `last`. Its number is above `seen`, too.
    pub(crate) fn act(
        &self,
        kind: ActKind,
        id: &SnapshotId,
        object: &SignedObject,
        last: Option<&FoundAct>,
        seen: u64,
        time: DateTime<Utc>,
    ) -> Result<FoundAct> {
        let signature = String::from_utf8_lossy(&object.signature).into_owned();
        let act = Act {
            act: kind,
            requires: Requirements::default(),
            vault: self.vault.to_owned(),
            dataset: self.dataset.clone(),
            principal: self.principal.clone(),
            number: last.map_or(0, |last| last.act.number).max(seen).saturating_add(1),
            previous: last.map(FoundAct::hash),
            time,
            id: id.clone(),
            blake3: Digest::of(&object.object),
            signature,
            sequence: self.sequence,
        };
        let mut stored = act.to_line()?;
        let comment = layout::trusted_comment(self.vault, &layout::act(self.dataset, act.number));
        let signature = self.signer.sign(&stored, &comment)?;
        stored.extend_from_slice(signature.as_bytes());
        Ok(FoundAct { act, stored: stored.into() })
    }
}

/// What became of an act in one replica.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It has the number there.
    Yes,
    /// Another object has the number there, or its time is over.
    Collided,
    /// It is not there.
    No(Error),
    /// It may be there, and count: no answer came, or others may have acted after it.
    Unknown(Error),
}

/// What stands above the number of an act in one replica.
#[derive(Debug, PartialEq, Eq)]
enum Above {
    Nothing,
    /// Newer acts, and a record that says that the number has passed.
    Passed,
    /// Newer acts, whose writers have seen this one.
    Newer,
}

impl OrderReader<'_> {
    /// Takes the number of `act` in one replica.
    pub(crate) async fn take(&self, act: &FoundAct, replica: &SharedReplica) -> Taken {
        let number = act.act.number;
        let key = layout::act(self.dataset, number);
        if let Err(error) = replica.put_new(&key, act.stored.clone()).await {
            return match error.kind {
                ReplicaErrorKind::AlreadyExists => Taken::Collided,
                ReplicaErrorKind::Unavailable(_)
                | ReplicaErrorKind::TimedOut(_)
                | ReplicaErrorKind::Throttled { .. }
                | ReplicaErrorKind::Corrupt(_)
                | ReplicaErrorKind::Other(_) => Taken::Unknown(error.into()),
                // The replica has answered that it did nothing.
                _ => Taken::No(error.into()),
            };
        }
        match self.above(replica, number).await {
            Ok(Above::Nothing) => Taken::Yes,
            Ok(Above::Passed) => {
                // It is void, whether it stays there or not.
                if let Err(error) = replica.delete(&key).await {
                    tracing::warn!(%error, "An act whose number has passed stays until the next sweep");
                }
                Taken::Collided
            }
            Ok(Above::Newer) => Taken::Unknown(self.seen_by_others(number)),
            // Others may have acted after it, so it stays.
            Err(error) => Taken::Unknown(error),
        }
    }

    /// Removes an act that is not to count. If it stays, its object may be signed by whoever finds
    /// it. Of one that another host reads at this moment, the second look tells only if that host
    /// was quick.
    ///
    /// # Errors
    /// It may be there, or another host may have finished it.
    pub(crate) async fn withdraw(&self, act: &FoundAct, replica: &SharedReplica) -> Result<()> {
        let (number, signature) = (act.act.number, layout::signature(&act.act.object()));
        let key = layout::act(self.dataset, number);
        for is_deleted in [false, true] {
            let above = self.above(replica, number).await?;
            let is_void = above == Above::Passed;
            if !is_void && (above == Above::Newer || replica.head(&signature).await?.is_some()) {
                return Err(self.seen_by_others(number));
            }
            if !is_deleted {
                replica.delete(&key).await?;
            }
        }
        Ok(())
    }

    fn seen_by_others(&self, number: u64) -> Error {
        Error::failed(format!("another host has seen act {number} of {}, and may have finished it", self.dataset))
    }

    /// What stands above `number` in a replica. Names that nobody signed are nothing.
    ///
    /// # Errors
    /// It fails, or does not return what it shows; a newer act is of a signer who is not trusted,
    /// or is not understood; or there are so many false names that an act may hide among them.
    async fn above(&self, replica: &SharedReplica, number: u64) -> Result<Above> {
        for (false_names, newer) in numbers(replica, self.dataset, number + 1).await?.into_iter().enumerate() {
            if false_names >= MAX_FALSE_NAMES {
                return Err(self.too_many_false_names().within(format!("replica {}", replica.name())));
            }
            let found = async {
                // One that is gone since it was listed was swept: then a newer one is there.
                let stored = replica.get(&layout::act(self.dataset, newer), MAX_ACT_BYTES as u64).await?;
                self.believe(stored, newer, &format!("replica {}: act {newer}", replica.name()))
            };
            match found.await {
                Ok(_) if self.has_passed(replica, number).await? => return Ok(Above::Passed),
                Ok(_) => return Ok(Above::Newer),
                Err(error) if error.class() == Class::Integrity => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Above::Nothing)
    }

    /// Whether the newest prune record that is believed calls this number gone. It repeats what
    /// older ones say of numbers.
    async fn has_passed(&self, replica: &SharedReplica, number: u64) -> Result<bool> {
        let folder = layout::prunes(self.dataset);
        let keys = keys_below(replica, &folder).await?;
        let ids: BTreeSet<SnapshotId> = keys.iter().filter_map(|key| layout::parse_json(&folder, key)).collect();
        let reader = RecordReader { vault: self.vault, dataset: self.dataset, trust: self.trust };
        for id in ids.iter().rev().take(MAX_FALSE_NAMES) {
            match reader.read::<PruneRecord>(&[replica], id).await {
                Ok(record) => return Ok(record.body.has_passed(number)),
                Err(error) if is_verdict(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The acts from number `from` on that a replica shows. Names of newer ones that nobody signed
    /// are passed over.
    ///
    /// # Errors
    /// It fails, or one cannot be believed.
    pub(crate) async fn acts_from(&self, replica: &SharedReplica, from: u64) -> Result<Vec<FoundAct>> {
        let (mut found, mut false_names) = (Vec::new(), 0);
        for number in numbers(replica, self.dataset, from).await? {
            match self.fetch(replica, number).await {
                Ok(act) => found.push(act),
                Err(error) if error.class() == Class::Integrity && number > from => {
                    false_names += 1;
                    if false_names > MAX_FALSE_NAMES {
                        return Err(self.too_many_false_names().within(format!("replica {}", replica.name())));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// The numbers of acts from `from` on that a replica shows now.
pub(crate) async fn numbers(replica: &SharedReplica, dataset: &Name, from: u64) -> Result<BTreeSet<u64>> {
    let keys = keys_below(replica, &layout::order(dataset)).await?;
    let shown = keys.iter().filter_map(|key| layout::parse_act(dataset, key));
    Ok(shown.filter(|number| *number >= from).collect())
}

async fn keys_below(replica: &SharedReplica, folder: &str) -> Result<Vec<String>> {
    let Ok(listed) = tokio::time::timeout(MAX_LOOK, replica.list(folder)).await else {
        let (name, seconds) = (replica.name(), MAX_LOOK.as_secs());
        return Err(Error::storage(format!("replica {name}: no listing of {folder} came within {seconds} s")));
    };
    Ok(listed?.into_iter().map(|object| object.key).collect())
}

#[cfg(test)]
mod tests;
