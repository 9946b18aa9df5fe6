//! The order of a dataset: the acts by which its hosts commit, mark and sweep.
//!
//! Each act takes the next number by a write that must be the first under its name. So whoever took
//! a number in a replica has seen every act before it there, and a host that slept or that others
//! did not see collides. No clock and no lease is trusted for that. `numbers.rs` takes them.
//!
//! - **Level**: a replica that was away lacks acts. They are copied to it before anything is
//!   written there, else two hosts could take numbers that do not meet.
//! - **Finish**: an act holds the signature of its object. Where the object has none, whoever finds
//!   the act puts it there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::act::{self, Act, ActKind, MAX_ACT_BYTES};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::log::SeenAct;
use lifeboat_format::record::PruneRecord;
use lifeboat_store::SharedReplica;

use super::ciphertext::put_once;
use super::documents::Documents;
use super::inventory::Inventory;
use super::kept_acts::KeptActs;
use super::signed::{check_claim, check_time};
use super::unbelieved::Unbelieved;
use super::verdict::{combine_looks, is_verdict};
use crate::keys::HostKeys;
use crate::keys::seal::HostKey;
use crate::keys::trust::{Trust, revoked};
use crate::state::cache::ObjectCache;

/// How many acts are fetched at once.
const ACTS_AT_ONCE: usize = 16;
/// So many names of acts that nobody signed may stand above the newest one.
pub(super) const MAX_FALSE_NAMES: usize = 64;

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

    /// It as a record of a log names it.
    pub(crate) fn seen(&self) -> SeenAct {
        SeenAct { dataset: self.act.dataset.clone(), number: self.act.number, blake3: self.hash() }
    }
}

/// Reads acts of one dataset.
#[derive(Clone, Copy)]
pub(crate) struct OrderReader<'a> {
    pub(crate) vault: &'a str,
    pub(crate) dataset: &'a Name,
    pub(crate) trust: &'a Trust,
    /// Holds only acts whose signature was checked.
    pub(crate) cache: Option<&'a ObjectCache>,
    /// Seals what is kept beside the cache.
    pub(crate) host_key: Option<&'a HostKey>,
}

impl<'a> OrderReader<'a> {
    pub(crate) fn of_host(keys: &'a HostKeys, dataset: &'a Name, cache: &'a ObjectCache) -> Self {
        Self { vault: &keys.vault, dataset, trust: &keys.trust, cache: Some(cache), host_key: Some(&keys.host_key) }
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
        Err(combine_looks(format!("no replica returns a valid {key}"), &errors))
    }

    /// The act of a number, as one replica has it.
    pub(crate) async fn fetch(&self, replica: &SharedReplica, number: u64) -> Result<FoundAct> {
        let key = layout::act(self.dataset, number);
        let stored = replica
            .get(&key, MAX_ACT_BYTES as u64)
            .await
            .map_err(|error| if error.is_not_found() { Error::integrity(error.to_string()) } else { error.into() })?;
        let (found, before) = self.judge(stored, number, &format!("replica {}: {key}", replica.name()))?;
        check_claim(Some(found.act.time), before)?;
        check_time(replica.as_ref(), &key, before).await?;
        Ok(found)
    }

    /// Why the listing of a replica is not believed: it lacks the act `seen`, which this host has
    /// seen, and the replica has it. `None` if it does not.
    ///
    /// # Errors
    /// The replica fails.
    pub(crate) async fn old_listing(&self, inventory: &Inventory, seen: u64) -> Result<Option<Error>> {
        if inventory.acts.contains(&seen) {
            return Ok(None);
        }
        let (replica, dataset) = (&inventory.replica, self.dataset);
        match self.fetch(replica, seen).await {
            Ok(_) => {
                let what =
                    format!("replica {} holds act {seen} of dataset {dataset}, and does not list it", replica.name());
                Ok(Some(
                    Error::storage(what)
                        .because("it lists what was there some time ago")
                        .hint("try again later: nothing is written after an old listing"),
                ))
            }
            Err(error) if is_verdict(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The act of a number, if a trusted signer signed it for this place.
    ///
    /// # Errors
    /// [`Class::Integrity`]: it is no such act, whoever put it there. [`Class::Keys`]: it is one,
    /// of a signer who is not trusted. [`Class::Failed`]: a trusted signer signed it, and it is not
    /// understood here.
    pub(crate) fn believe(&self, stored: Bytes, number: u64, what: &str) -> Result<FoundAct> {
        match self.judge(stored, number, what)? {
            (found, None) => Ok(found),
            (_, Some(until)) => Err(revoked(until, "nothing tells when it was stored")),
        }
    }

    /// As [`Self::believe`], with the time before which it must have been stored.
    fn judge(&self, stored: Bytes, number: u64, what: &str) -> Result<(FoundAct, Option<DateTime<Utc>>)> {
        let key = layout::act(self.dataset, number);
        let damaged = || Error::integrity(format!("{what} is damaged"));
        let (line, signature) = act::split(&stored).ok_or_else(damaged)?;
        let read = Act::of_line(line, self.vault, self.dataset, number, what);
        let (signer, before) = match self.trust.judge(self.vault, &key, line, signature) {
            Ok(signature) => (signature.signer, signature.before),
            Err(error) => {
                // Nobody can check a stranger's signature. But what is no act of this place is
                // none.
                if error.class() == Class::Keys {
                    read?;
                }
                return Err(error.within(format!("{what} cannot be trusted")));
            }
        };
        let act = read.map_err(|error| {
            Error::failed(format!("{what} was signed by a trusted signer, and is not understood"))
                .because(error.chain())
                .hint("use a newer version of Lifeboat here, too")
        })?;
        if act.act != ActKind::Sweep && self.trust.only_sweeps(&signer) {
            return Err(Error::keys(format!("{what} cannot be trusted")).because("a warden may sign sweeps alone"));
        }
        Ok((FoundAct { act, stored }, before))
    }

    /// Whether the warden of the root signed an act.
    pub(crate) fn is_of_warden(&self, found: &FoundAct) -> bool {
        let key = layout::act(self.dataset, found.act.number);
        act::split(&found.stored).is_some_and(|(line, signature)| {
            let signed = self.trust.judge(self.vault, &key, line, signature);
            signed.is_ok_and(|signature| self.trust.is_warden(&signature.signer))
        })
    }

    /// The newest act that is believed, of all that replicas show. Names of newer ones that nobody
    /// signed are passed over.
    ///
    /// # Errors
    /// A replica that shows this number fails; a newer one is of a signer who is not trusted, or is
    /// not understood; or there are too many such names.
    pub(crate) async fn newest(&self, inventories: &[Inventory]) -> Result<Option<FoundAct>, (u64, Error)> {
        let mut false_names = 0;
        let is_false = |error: &Error| match error.class() {
            Class::Integrity => true,
            // A root names everybody who may write, so there is nobody to wait for.
            Class::Keys => self.trust.root().is_some(),
            _ => false,
        };
        for number in all_numbers(inventories).into_iter().rev() {
            let error = match self.act(&holders(inventories, number), number).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) => error,
            };
            match error.class() {
                _ if is_false(&error) && false_names < MAX_FALSE_NAMES => {
                    tracing::warn!(error = %error.chain(), "Passing over an act that cannot be believed");
                    false_names += 1;
                }
                _ if is_false(&error) => return Err((number, self.too_many_false_names())),
                Class::Keys => {
                    let what = format!(
                        "no backup of {} can be committed: a host that this one does not trust has written act {number}",
                        self.dataset
                    );
                    return Err((number, error.within(what)));
                }
                class => {
                    let error = error.within(format!("the order of dataset {} cannot be read", self.dataset));
                    let error = if class == Class::Storage {
                        error.hint("back up again when a replica that holds it answers")
                    } else {
                        error
                    };
                    return Err((number, error));
                }
            }
        }
        Ok(None)
    }

    /// Every act that a replica shows, and why others cannot be believed. Replicas that show too
    /// many of these are left aside ([`MAX_UNBELIEVED`](super::unbelieved::MAX_UNBELIEVED)).
    pub(crate) async fn all(&self, inventories: &[Inventory]) -> Acts {
        let kept = self.cache.zip(self.host_key);
        let kept = kept.map(|(cache, key)| KeptActs::read(cache, key, self.vault, self.dataset));
        let (mut acts, mut unknown) = (Acts::default(), Vec::new());
        let copied = self.cache.filter(|_| kept.is_some()).map(ObjectCache::keys).unwrap_or_default();
        // The newest are the last that may be left aside.
        for number in all_numbers(inventories).into_iter().rev() {
            let known = kept.as_ref().and_then(|kept| self.believed(number, kept.known.get(&number)?.clone()));
            let Some(found) = known else {
                unknown.push(number);
                continue;
            };
            // What replicas lose is put back from the copies.
            let key = layout::act(self.dataset, number);
            if let Some(cache) = self.cache.filter(|_| !copied.contains(&key)) {
                cache.put(&key, &found.stored);
            }
            acts.insert(number, found);
        }
        let is_new = !unknown.is_empty();
        let unbelieved = Mutex::new(Unbelieved::new("an act that cannot be believed"));
        let lock = || unbelieved.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |number| async move {
            let of = holders(inventories, number);
            let names = || of.iter().map(|holder| holder.name());
            if lock().leaves_aside(names()) {
                return (number, None);
            }
            let found = self.act(&of, number).await;
            if let Some(error) = found.as_ref().err().filter(|error| is_verdict(error)) {
                lock().add(names(), layout::act(self.dataset, number), error);
            }
            (number, Some(found))
        };
        let mut read = std::pin::pin!(futures::stream::iter(unknown).map(read).buffered(ACTS_AT_ONCE));
        while let Some((number, found)) = read.next().await {
            match found {
                Some(Ok(found)) => acts.insert(number, found),
                Some(Err(error)) => drop(acts.unreadable.insert(number, error)),
                None => drop(acts.not_looked_at.insert(number)),
            }
        }
        lock().log("it counts for nothing");
        acts.left_aside = lock().left_aside().cloned().collect();
        if let Some(kept) = kept.filter(|_| is_new) {
            kept.keep(&acts.found.iter().map(|(number, found)| (*number, found.stored.clone())).collect());
        }
        acts
    }

    /// An act whose signature was checked before.
    fn believed(&self, number: u64, stored: Bytes) -> Option<FoundAct> {
        let (line, _) = act::split(&stored)?;
        let act = Act::of_line(line, self.vault, self.dataset, number, "an act that was kept").ok()?;
        Some(FoundAct { act, stored })
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
    ///
    /// # Errors
    /// It fails, or an object is longer than may be held here.
    pub(crate) async fn finish(
        &self,
        documents: &Documents<'_>,
        inventory: &mut Inventory,
        acts: &Acts,
    ) -> Result<Vec<String>> {
        let mut finished = Vec::new();
        for act in acts.found.values().map(|found| &found.act) {
            let key = act.object();
            if !inventory.unfinished.contains(&key) {
                continue;
            }
            let Some((object, _turn)) = documents.ordered(&inventory.replica, act).await? else {
                tracing::warn!(replica = %inventory.replica.name(), %key, "Not signing an object: it is longer than any can be");
                continue;
            };
            let signature = Bytes::from(act.signature.clone());
            if let Err(error) = self.trust.verify(self.vault, &key, &object, &signature) {
                tracing::warn!(replica = %inventory.replica.name(), %key, error = %error.chain(), "Not signing an object: it is not the one that was ordered");
                continue;
            }
            put_once(inventory.replica.as_ref(), &layout::signature(&key), signature).await?;
            inventory.signed(self.dataset, &key);
            finished.push(key);
        }
        Ok(finished)
    }

    pub(super) fn too_many_false_names(&self) -> Error {
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

/// Acts as they were found.
#[derive(Default)]
pub(crate) struct Acts {
    /// Those that are believed.
    pub(crate) found: BTreeMap<u64, Arc<FoundAct>>,
    pub(crate) unreadable: BTreeMap<u64, Error>,
    /// The replicas that show too many of which nobody can believe any.
    pub(crate) left_aside: BTreeSet<Name>,
    /// What they alone show beside these. It is neither found nor unreadable.
    pub(crate) not_looked_at: BTreeSet<u64>,
    /// What `found` are about.
    objects: BTreeSet<(ActKind, SnapshotId)>,
}

impl Acts {
    /// Adds an act that is believed.
    pub(crate) fn insert(&mut self, number: u64, found: impl Into<Arc<FoundAct>>) {
        let found = found.into();
        self.objects.insert((found.act.act, found.act.id.clone()));
        self.found.insert(number, found);
    }

    /// Those that no record of a prune calls gone.
    pub(crate) fn without_passed<'r>(&self, records: impl Iterator<Item = &'r PruneRecord>) -> Self {
        let records: Vec<&PruneRecord> = records.collect();
        let mut current = Self::default();
        if records.is_empty() {
            // Nothing is looked at one by one: there may be hundreds of thousands.
            (current.found, current.objects) = (self.found.clone(), self.objects.clone());
            return current;
        }
        for (number, found) in &self.found {
            if !records.iter().any(|record| record.has_passed(*number)) {
                current.insert(*number, found.clone());
            }
        }
        current
    }

    /// Whether an act is about this object.
    pub(crate) fn names(&self, key: &str) -> bool {
        let of_record = |folder: String| layout::parse_json(&folder, key);
        let dataset = self.found.values().next().map(|found| &found.act.dataset);
        let object = dataset.and_then(|dataset| {
            layout::parse_manifest(dataset, key)
                .map(|id| (ActKind::Commit, id))
                .or_else(|| Some((ActKind::Mark, of_record(layout::marks(dataset))?)))
                .or_else(|| Some((ActKind::Sweep, of_record(layout::prunes(dataset))?)))
        });
        object.is_some_and(|object| self.objects.contains(&object))
    }

    /// The number of the newest one.
    pub(crate) fn newest(&self) -> u64 {
        self.found.last_key_value().map_or(0, |(number, _)| *number)
    }
}

fn all_numbers(inventories: &[Inventory]) -> BTreeSet<u64> {
    inventories.iter().flat_map(|inventory| inventory.acts.iter().copied()).collect()
}

fn holders(inventories: &[Inventory], number: u64) -> Vec<&SharedReplica> {
    let holds = inventories.iter().filter(|inventory| inventory.acts.contains(&number));
    holds.map(|inventory| &inventory.replica).collect()
}
