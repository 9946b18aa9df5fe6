//! The step of a commit that decides: the snapshot takes its place in the order of its dataset.
//!
//! It has one of three outcomes. **Committed**: the act is durable in `min_replicas` replicas.
//! **Not committed**: it was in none when this host last looked. **Unknown**: it may be in some;
//! then whoever finds it there finishes the commit, and the error says so.
//!
//! An act that some replicas took and that is not to count is deleted there again. Nobody can
//! delete it and look in one step. So a host that reads it in the very moment before may still
//! finish the commit of a snapshot that this one calls not committed. The snapshot is whole then.
//!
//! If another host took the number first, what it did decides: a mark that names no pack of this
//! snapshot is stepped over, and so is a sweep of the warden. Anything else means that this run has
//! seen too little.

use std::collections::{BTreeMap, HashSet};

use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::MarkRecord;
use lifeboat_store::{SharedReplica, without_name};

use super::fleet::Fleet;
use super::stand::Standing;
use crate::catalog::ciphertext::put_once;
use crate::catalog::numbers::{Actor, Taken};
use crate::catalog::order::{FoundAct, OrderReader};
use crate::catalog::records::RecordReader;
use crate::catalog::signed::SignedObject;

/// So many marks of others are stepped over.
const MAX_TRIES: usize = 8;

/// How a snapshot takes its place.
pub(super) struct Decision<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) reader: OrderReader<'a>,
    pub(super) actor: Actor<'a>,
    pub(super) clock: &'a SharedClock,
    pub(super) snapshot: &'a SnapshotId,
    /// Every pack that the snapshot needs.
    pub(super) packs: &'a HashSet<PackId>,
    /// In how many replicas the act must be.
    pub(super) required: usize,
    /// In how many places, these replicas among them.
    pub(super) required_places: usize,
    /// Places that hold records alone.
    pub(super) records: &'a [SharedReplica],
}

impl Decision<'_> {
    /// Takes the next number in each of `targets`, and in the places for records. Returns the act,
    /// and the replicas that have it.
    ///
    /// # Errors
    /// Not committed ([`Class::Failed`] or [`Class::Storage`]), or unknown ([`Class::Unknown`]).
    pub(super) async fn take(
        &self,
        manifest: &SignedObject,
        mut targets: Vec<SharedReplica>,
        standing: &Standing,
    ) -> Result<(FoundAct, Vec<SharedReplica>)> {
        let (mut last, mut doubtful) = (standing.last.clone(), BTreeMap::new());
        targets.extend(self.records.iter().cloned());
        let is_replica = |place: &&SharedReplica| !self.records.iter().any(|record| record.name() == place.name());
        for _ in 0..MAX_TRIES {
            let now = self.clock.now();
            let act = self.actor.act(ActKind::Commit, self.snapshot, manifest, last.as_ref(), standing.seen, now)?;
            let (mut taken, mut collided) = (Vec::new(), Vec::new());
            let tries =
                targets.iter().map(|replica| async { (replica.clone(), self.reader.take(&act, replica).await) });
            for (replica, result) in futures::future::join_all(tries).await {
                match result {
                    Taken::Yes => taken.push(replica),
                    Taken::Collided => collided.push(replica),
                    Taken::No(error) => self.fleet.fell_behind(replica.name(), &error),
                    Taken::Unknown(error) => {
                        self.fleet.fell_behind(replica.name(), &error);
                        doubtful.insert(replica.name().clone(), error.chain());
                    }
                }
            }
            let (others, strangers) = match self.others(&collided, act.act.number).await {
                Ok(found) => found,
                Err(error) => {
                    doubtful.extend(self.withdraw(&act, &taken).await);
                    return Err(self.outcome(&doubtful, error));
                }
            };
            if others.is_empty() {
                let replicas: Vec<SharedReplica> = taken.iter().filter(is_replica).cloned().collect();
                if replicas.len() >= self.required && taken.len() >= self.required_places {
                    return Ok((act, replicas));
                }
                doubtful.extend(self.withdraw(&act, &taken).await);
                let what = "its place in the order";
                let few = if replicas.len() < self.required {
                    self.fleet.too_few(what, replicas.len())
                } else {
                    self.fleet.too_few_places(what, self.required_places, taken.len())
                };
                let hint = strangers.as_ref().and_then(Error::hint_text).map(ToOwned::to_owned);
                let few = if let Some(hint) = hint { few.hint(hint) } else { few };
                return Err(self.outcome(&doubtful, few));
            }
            doubtful.extend(self.withdraw(&act, &taken).await);
            if let Err(error) = self.step_over(manifest, &others, &targets).await {
                return Err(self.outcome(&doubtful, error));
            }
            last = others.into_values().next_back();
            targets.retain(|target| !self.fleet.is_behind(target.name()));
        }
        Err(self.outcome(&doubtful, Error::failed("other hosts act in this dataset all the time")))
    }

    /// The acts of others, from number `from` on, and the first error about one that a signer who
    /// is not trusted has written. A replica that has none there and took no act either falls
    /// behind.
    ///
    /// # Errors
    /// Some of them are gone already.
    async fn others(&self, collided: &[SharedReplica], from: u64) -> Result<(BTreeMap<u64, FoundAct>, Option<Error>)> {
        let (mut others, mut strangers) = (BTreeMap::new(), None);
        for replica in collided {
            let read = self.reader.acts_from(replica, from);
            match read.await {
                Ok(found) => others.extend(found.into_iter().map(|found| (found.act.number, found))),
                Err(error) => {
                    self.fleet.fell_behind(replica.name(), &error);
                    strangers = strangers.or(Some(error).filter(|error| error.class() == Class::Keys));
                }
            }
        }
        let newest = others.last_key_value().map(|(number, _)| *number);
        if newest.is_some_and(|newest| others.len() as u64 != newest - from + 1) {
            return Err(Error::failed(format!("other hosts have deleted packs of {} meanwhile", self.actor.dataset)));
        }
        Ok((others, strangers))
    }

    /// Whether what others did leaves this snapshot whole. Their acts are copied to every target.
    async fn step_over(
        &self,
        manifest: &SignedObject,
        others: &BTreeMap<u64, FoundAct>,
        targets: &[SharedReplica],
    ) -> Result<()> {
        let dataset = self.actor.dataset;
        let again = "back up again; uploaded packs are reused";
        for (number, found) in others {
            let (host, id) = (&found.act.principal, &found.act.id);
            match found.act.act {
                ActKind::Commit => {
                    return Err(Error::failed(format!("host {host} committed snapshot {id} of {dataset} meanwhile"))
                        .hint(again));
                }
                // It deletes packs that marks name. This run refers to none that it saw at its
                // beginning, and looks here at all that came later.
                ActKind::Sweep if self.reader.is_of_warden(found) => {}
                ActKind::Sweep => {
                    return Err(
                        Error::failed(format!("host {host} deletes packs of {dataset}: sweep {id}")).hint(again)
                    );
                }
                ActKind::Mark => {
                    let reader = RecordReader { vault: self.reader.vault, dataset, trust: self.reader.trust };
                    let holders: Vec<&SharedReplica> = targets.iter().collect();
                    // Its signature may not be there yet; the act holds it.
                    let mark = reader.read_ordered::<MarkRecord>(&holders, found).await.map_err(|error| {
                        error.within(format!("mark {id} of host {host} cannot be read")).hint(again)
                    })?;
                    if mark.objects.contains(&manifest.key) {
                        return Err(
                            Error::failed(format!("host {host} takes this run for dead: mark {id}")).hint(again)
                        );
                    }
                    if let Some(pack) = mark.packs.iter().find(|pack| self.packs.contains(*pack)) {
                        return Err(Error::failed(format!(
                            "host {host} has marked pack {pack} for deletion: mark {id}"
                        ))
                        .hint(again));
                    }
                }
            }
            let key = layout::act(dataset, *number);
            for replica in targets {
                if let Err(error) = put_once(replica.as_ref(), &key, found.stored.clone()).await {
                    self.fleet.fell_behind(replica.name(), &error);
                }
            }
        }
        Ok(())
    }

    /// Removes an act that is not to count. Returns where that is not certain: another host that
    /// sees it finishes the commit, and goes on after it.
    async fn withdraw(&self, act: &FoundAct, taken: &[SharedReplica]) -> BTreeMap<Name, String> {
        let removals = taken.iter().map(|replica| async {
            let removed = self.reader.withdraw(act, replica).await;
            removed.err().map(|error| (replica.name().clone(), error.chain()))
        });
        futures::future::join_all(removals).await.into_iter().flatten().collect()
    }

    fn outcome(&self, doubtful: &BTreeMap<Name, String>, error: Error) -> Error {
        let (snapshot, dataset) = (self.snapshot, self.actor.dataset);
        if doubtful.is_empty() {
            return not_committed(snapshot, dataset, error);
        }
        let reasons: Vec<String> =
            doubtful.iter().map(|(replica, why)| format!("{replica}: {}", without_name(replica, why))).collect();
        unknown(snapshot, dataset, &format!("{} ({})", error.chain(), reasons.join("; ")))
    }
}

/// The error of a commit that did not happen.
pub(super) fn not_committed(snapshot: &SnapshotId, dataset: &Name, error: Error) -> Error {
    let hint = error.hint_text().unwrap_or("back up again; uploaded packs are reused").to_owned();
    error.within(format!("snapshot {snapshot} of {dataset} was not committed")).hint(hint)
}

/// The error of a commit of which nobody knows whether it happened.
pub(super) fn unknown(snapshot: &SnapshotId, dataset: &Name, why: &str) -> Error {
    Error::new(Class::Unknown, format!("it is not known whether snapshot {snapshot} of {dataset} was committed"))
        .because(why)
        .hint(format!(
            "run `lifeboat list {dataset}` when the replicas answer: the next run finishes the commit where it was decided"
        ))
}
