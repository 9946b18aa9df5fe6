//! The order of a dataset: the acts by which its hosts commit, mark and sweep.
//!
//! Each act takes the next number by a write that must be the first under its name. So whoever took
//! a number in a replica has seen every act before it there, and a host that slept or that others
//! did not see collides. No clock and no lease is trusted for that.
//!
//! - **Level**: a replica that was away lacks acts. They are copied to it before anything is
//!   written there, else two hosts could take numbers that do not meet.
//! - **Finish**: an act holds the signature of its object. Where the object has none, whoever finds
//!   the act puts it there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use lifeboat_base::{Error, Result};
use lifeboat_format::act::{self, Act, ActKind, MAX_ACT_BYTES};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::record::PruneRecord;
use lifeboat_format::requirements::Requirements;
use lifeboat_store::{ReplicaError, ReplicaErrorKind, SharedReplica};

use super::ciphertext::put_once;
use super::documents::{SignedObject, combine, is_verdict};
use super::inventory::Inventory;
use crate::keys::HostKeys;
use crate::keys::sign::{Signer, SignerKey, verify};
use crate::state::cache::ObjectCache;

/// How many acts are fetched at once.
const ACTS_AT_ONCE: usize = 16;
/// A commit waits no longer for a listing of acts.
const MAX_LOOK: Duration = Duration::from_secs(180);
/// A longer object is not looked at for a signature that it lacks: nobody has signed it yet.
const MAX_FINISHED_BYTES: u64 = 64 << 20;
/// So many names of acts that nobody signed may stand above the newest one.
const MAX_FALSE_NAMES: usize = 64;

/// An act that was read and believed.
#[derive(Debug, Clone)]
pub(crate) struct FoundAct {
    pub(crate) act: Act,
    /// As it is stored.
    pub(crate) stored: Bytes,
}

impl FoundAct {
    pub(crate) fn hash(&self) -> Digest {
        Digest::of(&self.stored)
    }
}

/// Reads acts of one dataset.
#[derive(Clone, Copy)]
pub(crate) struct OrderReader<'a> {
    pub(crate) vault: &'a str,
    pub(crate) dataset: &'a Name,
    pub(crate) trusted: &'a [SignerKey],
    /// Holds only acts whose signature was checked.
    pub(crate) cache: Option<&'a ObjectCache>,
}

impl<'a> OrderReader<'a> {
    pub(crate) fn of_host(keys: &'a HostKeys, dataset: &'a Name, cache: &'a ObjectCache) -> Self {
        Self { vault: &keys.vault, dataset, trusted: &keys.trusted_signers, cache: Some(cache) }
    }

    /// The act of a number, from the cache or else from the first of `replicas` that returns it.
    ///
    /// # Errors
    /// None does.
    pub(crate) async fn act(&self, replicas: &[&SharedReplica], number: u64) -> Result<FoundAct> {
        let key = layout::act(self.dataset, number);
        if let Some(stored) = self.cache.and_then(|cache| cache.get(&key))
            && let Ok(act) = self.believe(stored.into(), number, &key)
        {
            return Ok(act);
        }
        let mut errors = Vec::new();
        for replica in replicas {
            match self.fetch(replica, number).await {
                Ok(found) => {
                    if let Some(cache) = self.cache {
                        cache.put(&key, &found.stored);
                    }
                    return Ok(found);
                }
                Err(error) => errors.push(error),
            }
        }
        Err(combine(format!("no replica returns a valid {key}"), &errors))
    }

    /// The act of a number, as one replica has it.
    pub(crate) async fn fetch(&self, replica: &SharedReplica, number: u64) -> Result<FoundAct> {
        let key = layout::act(self.dataset, number);
        let stored = replica
            .get(&key, MAX_ACT_BYTES as u64)
            .await
            .map_err(|error| if error.is_not_found() { Error::integrity(error.to_string()) } else { error.into() })?;
        self.believe(stored, number, &format!("replica {}: {key}", replica.name()))
    }

    fn believe(&self, stored: Bytes, number: u64, what: &str) -> Result<FoundAct> {
        let comment = layout::trusted_comment(self.vault, &layout::act(self.dataset, number));
        let damaged = || Error::integrity(format!("{what} is damaged"));
        let (line, signature) = act::split(&stored).ok_or_else(damaged)?;
        verify(self.trusted, line, signature, &comment)
            .map_err(|error| error.within(format!("{what} cannot be trusted")))?;
        let act = Act::of_line(line, self.vault, self.dataset, number, what)?;
        Ok(FoundAct { act, stored })
    }

    /// The newest act that is believed, of all that replicas show. Names of newer ones that nobody
    /// signed are passed over.
    ///
    /// # Errors
    /// A replica that shows this number fails, or they show too many such names.
    pub(crate) async fn newest(&self, inventories: &[Inventory]) -> Result<Option<FoundAct>, (u64, Error)> {
        let numbers: BTreeSet<u64> = inventories.iter().flat_map(|inventory| inventory.acts.iter().copied()).collect();
        let mut false_names = 0;
        for number in numbers.into_iter().rev() {
            match self.act(&holders(inventories, number), number).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) if is_verdict(&error) && false_names < MAX_FALSE_NAMES => {
                    tracing::warn!(error = %error.chain(), "Passing over an act that cannot be believed");
                    false_names += 1;
                }
                Err(error) if is_verdict(&error) => return Err((number, self.too_many_false_names())),
                Err(error) => {
                    let error = error.within(format!("the order of dataset {} cannot be read", self.dataset));
                    return Err((number, error.hint("back up again when a replica that holds it answers")));
                }
            }
        }
        Ok(None)
    }

    /// Every act that a replica shows, and why others cannot be believed.
    pub(crate) async fn all(&self, inventories: &[Inventory]) -> Acts {
        let numbers: BTreeSet<u64> = inventories.iter().flat_map(|inventory| inventory.acts.iter().copied()).collect();
        let read = |number| async move { (number, self.act(&holders(inventories, number), number).await) };
        let mut read = std::pin::pin!(futures::stream::iter(numbers).map(read).buffered(ACTS_AT_ONCE));
        let mut acts = Acts::default();
        while let Some((number, found)) = read.next().await {
            match found {
                Ok(found) => drop(acts.found.insert(number, found)),
                Err(error) => drop(acts.unreadable.insert(number, error)),
            }
        }
        acts
    }

    /// Copies to `inventory` the acts that came after its newest one, of those that `others` show.
    ///
    /// # Errors
    /// It has another object under one of these names, or fails.
    pub(crate) async fn level(&self, inventory: &mut Inventory, others: &[Inventory], newest: u64) -> Result<()> {
        let believed = |number: &&u64| **number <= newest;
        let own = inventory.acts.iter().rev().find(|number| **number <= newest).copied().unwrap_or_default();
        let shown = others.iter().flat_map(|other| &other.acts).filter(believed);
        let missing: BTreeSet<u64> = shown.copied().filter(|number| *number > own).collect();
        for number in missing {
            match self.act(&holders(others, number), number).await {
                Ok(found) => {
                    let key = layout::act(self.dataset, number);
                    put_once(inventory.replica.as_ref(), &key, found.stored).await?;
                    inventory.acts.insert(number);
                }
                Err(error) if is_verdict(&error) => {
                    tracing::warn!(error = %error.chain(), "Not copying an act that cannot be believed");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl OrderReader<'_> {
    /// Puts the signatures that `inventory` lacks and that acts hold, if its objects are the ones
    /// that the acts are about. Returns the keys of these objects.
    pub(crate) async fn finish(&self, inventory: &mut Inventory, acts: &Acts) -> Result<Vec<String>> {
        let mut finished = Vec::new();
        for FoundAct { act, .. } in acts.found.values() {
            let key = act.object();
            if !inventory.unfinished.contains(&key) {
                continue;
            }
            let object = match inventory.replica.get(&key, MAX_FINISHED_BYTES).await {
                Err(error @ ReplicaError { kind: ReplicaErrorKind::TooLong { .. }, .. }) => {
                    tracing::warn!(%error, "Not signing an object");
                    continue;
                }
                fetched => fetched?,
            };
            let (comment, signature) = (layout::trusted_comment(self.vault, &key), Bytes::from(act.signature.clone()));
            if let Err(error) = verify(self.trusted, &object, &signature, &comment) {
                tracing::warn!(replica = %inventory.replica.name(), %key, error = %error.chain(), "Not signing an object: it is not the one that was ordered");
                continue;
            }
            put_once(inventory.replica.as_ref(), &layout::signature(&key), signature).await?;
            inventory.signed(self.dataset, &key);
            finished.push(key);
        }
        Ok(finished)
    }
}

/// Acts as they were found.
#[derive(Default)]
pub(crate) struct Acts {
    pub(crate) found: BTreeMap<u64, FoundAct>,
    pub(crate) unreadable: BTreeMap<u64, Error>,
}

impl Acts {
    /// Those that no record of a prune calls gone.
    pub(crate) fn without_passed<'r>(&self, records: impl Iterator<Item = &'r PruneRecord>) -> Self {
        let records: Vec<&PruneRecord> = records.collect();
        let stays = |number: &u64| !records.iter().any(|record| record.has_passed(*number));
        let found = self.found.iter().filter(|(number, _)| stays(number));
        Self { found: found.map(|(number, found)| (*number, found.clone())).collect(), unreadable: BTreeMap::new() }
    }

    /// Whether an act is about this object.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.found.values().any(|found| found.act.object() == key)
    }

    /// The number of the newest one.
    pub(crate) fn newest(&self) -> u64 {
        self.found.last_key_value().map_or(0, |(number, _)| *number)
    }
}

fn holders(inventories: &[Inventory], number: u64) -> Vec<&SharedReplica> {
    let holds = inventories.iter().filter(|inventory| inventory.acts.contains(&number));
    holds.map(|inventory| &inventory.replica).collect()
}

/// Who acts.
#[derive(Clone, Copy)]
pub(crate) struct Actor<'a> {
    pub(crate) vault: &'a str,
    pub(crate) dataset: &'a Name,
    pub(crate) principal: &'a Name,
    pub(crate) signer: &'a Signer,
}

/// What became of an act in one replica.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It has the number there.
    Yes,
    /// Another object has the number there.
    Collided,
    /// It is not there.
    No(Error),
    /// Nobody knows: no answer came.
    Unknown(Error),
}

impl Actor<'_> {
    /// An act about `object`, which comes after `last`. Its number is above `seen`, too.
    pub(crate) fn act(
        &self,
        kind: ActKind,
        id: &lifeboat_format::id::SnapshotId,
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
        };
        let mut stored = act.to_line()?;
        let comment = layout::trusted_comment(self.vault, &layout::act(self.dataset, act.number));
        let signature = self.signer.sign(&stored, &comment)?;
        stored.extend_from_slice(signature.as_bytes());
        Ok(FoundAct { act, stored: stored.into() })
    }
}

impl OrderReader<'_> {
    /// Takes the number of `act` in one replica.
    ///
    /// Sweeps delete acts that have passed, so the number of a host that slept for long may be free
    /// again. A newer act is there then.
    pub(crate) async fn take(&self, act: &FoundAct, replica: &SharedReplica) -> Taken {
        let key = layout::act(self.dataset, act.act.number);
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
        match self.has_newer(replica, act.act.number).await {
            Ok(false) => Taken::Yes,
            looked => match replica.delete(&key).await {
                Ok(()) => looked.err().map_or(Taken::Collided, Taken::No),
                Err(error) => Taken::Unknown(error.into()),
            },
        }
    }

    /// Whether a replica shows an act above `number`. Names that nobody signed are none.
    ///
    /// # Errors
    /// It fails, or shows so many such names that an act may hide among them.
    pub(crate) async fn has_newer(&self, replica: &SharedReplica, number: u64) -> Result<bool> {
        for (false_names, newer) in numbers(replica, self.dataset, number + 1).await?.into_iter().enumerate() {
            if false_names >= MAX_FALSE_NAMES {
                return Err(self.too_many_false_names().within(format!("replica {}", replica.name())));
            }
            match self.fetch(replica, newer).await {
                Err(error) if is_verdict(&error) => {}
                found => return found.map(|_| true),
            }
        }
        Ok(false)
    }

    fn too_many_false_names(&self) -> Error {
        let folder = layout::order(self.dataset);
        Error::integrity(format!("more than {MAX_FALSE_NAMES} names below {folder} are of acts that nobody signed"))
            .hint(format!("remove what is below {folder} and is not yours"))
    }

    /// Gives `inventory` every act of `current` that it lacks.
    ///
    /// # Errors
    /// It has another object under one of these names, or fails.
    pub(crate) async fn fill(&self, inventory: &mut Inventory, current: &Acts) -> Result<Vec<String>> {
        let mut filled = Vec::new();
        for (number, found) in current.found.iter().filter(|(number, _)| !inventory.acts.contains(number)) {
            let key = layout::act(self.dataset, *number);
            put_once(inventory.replica.as_ref(), &key, found.stored.clone()).await?;
            filled.push(key);
        }
        inventory.acts.extend(current.found.keys());
        Ok(filled)
    }
}

/// The numbers of acts from `from` on that a replica shows now.
pub(crate) async fn numbers(replica: &SharedReplica, dataset: &Name, from: u64) -> Result<BTreeSet<u64>> {
    let Ok(listed) = tokio::time::timeout(MAX_LOOK, replica.list(&layout::order(dataset))).await else {
        let (name, seconds) = (replica.name(), MAX_LOOK.as_secs());
        return Err(Error::storage(format!("replica {name}: no listing of acts came within {seconds} s")));
    };
    let listed = listed?;
    let shown = listed.iter().filter_map(|object| layout::parse_act(dataset, &object.key));
    Ok(shown.filter(|number| *number >= from).collect())
}
