//! Marks what will go, and takes numbers for marks and sweeps.

use std::collections::BTreeMap;

use lifeboat_base::{Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::log::LogEvent;
use lifeboat_format::record::{MarkRecord, RemovedSnapshot};

use super::view::View;
use super::{Prune, PruneOutcome, PrunePlan};
use crate::catalog::ciphertext::put_once;
use crate::catalog::inventory::Inventory;
use crate::catalog::numbers::{Actor, Taken};
use crate::catalog::order::{FoundAct, OrderReader};
use crate::catalog::records::RecordWriter;
use crate::catalog::signed::SignedObject;
use crate::keys::HostKeys;

/// A record that takes its place in the order, and the replicas that it must not be written to any
/// more.
pub(super) struct Acting<'p> {
    prune: &'p Prune<'p>,
    pub(super) last: Option<FoundAct>,
    newest: u64,
    /// Why replicas are left alone from now on.
    pub(super) failed: BTreeMap<Name, Error>,
    /// As [`View::refused_records`].
    refused_records: &'p BTreeMap<Name, Error>,
}

impl<'p> Acting<'p> {
    pub(super) fn new(prune: &'p Prune<'p>, view: &'p View) -> Self {
        let last = view.acts.found.last_key_value().map(|(_, found)| FoundAct::clone(found));
        let refused_records = &view.refused_records;
        Self { prune, last, newest: view.newest, failed: BTreeMap::new(), refused_records }
    }

    pub(super) fn writes_to(&self, inventory: &Inventory) -> bool {
        !self.failed.contains_key(inventory.replica.name())
    }

    /// Writes a record, its act, and its signature to each replica. Whoever fails, or has seen
    /// another act, is left alone from then on. No number is taken for a record that is nowhere.
    pub(super) async fn act(
        &mut self,
        kind: ActKind,
        id: &SnapshotId,
        record: &SignedObject,
        inventories: &[Inventory],
    ) -> Result<()> {
        self.check_records()?;
        let HostKeys { vault, signer, .. } = self.prune.keys;
        let (dataset, principal) = (&self.prune.dataset.name, &self.prune.config.host);
        if !inventories.iter().any(|inventory| self.writes_to(inventory)) {
            return Ok(());
        }
        let actor = Actor { vault, dataset, principal, signer, sequence: None };
        let act = actor.act(kind, id, record, self.last.as_ref(), self.newest, self.prune.clock.now())?;
        self.record(kind, id, record).await?;
        let mut holders = Vec::new();
        for replica in inventories.iter().map(|inventory| &inventory.replica) {
            if self.failed.contains_key(replica.name()) {
                continue;
            }
            match put_once(replica.as_ref(), &record.key, record.object.clone()).await {
                Ok(()) => holders.push(replica),
                Err(error) => drop(self.failed.insert(replica.name().clone(), error)),
            }
        }
        if holders.is_empty() {
            return Ok(());
        }
        let order = OrderReader { vault, dataset, trust: &self.prune.keys.trust, cache: None, host_key: None };
        self.take_in_records(&order, &act).await?;
        for replica in holders {
            let written = match order.take(&act, replica).await {
                Taken::Yes => {
                    self.last = Some(act.clone());
                    put_once(replica.as_ref(), &layout::signature(&record.key), record.signature.clone()).await
                }
                Taken::Collided => Err(Error::failed(format!(
                    "replica {}: another host has acted in dataset {dataset} meanwhile: it took number {}",
                    replica.name(),
                    act.act.number
                ))
                .hint("prune again")),
                Taken::No(error) | Taken::Unknown(error) => Err(error),
            };
            if let Err(error) = written {
                self.failed.insert(replica.name().clone(), error);
            }
        }
        Ok(())
    }
}

impl Acting<'_> {
    /// Refuses if a place that holds records alone cannot be used.
    fn check_records(&self) -> Result<()> {
        let Some((place, refused)) = self.refused_records.first_key_value() else { return Ok(()) };
        let hint = refused.hint_text().unwrap_or("run `lifeboat check` to see what it needs").to_owned();
        let what = format!("nothing is marked or deleted: {place} holds the records, and cannot be used");
        Err(Error::new(refused.class(), refused.chain()).within(what).hint(hint))
    }

    /// Takes the number in each place that holds records alone, before any replica: so a commit of
    /// which these replicas show nothing is not missed. From then on it is this host's, whatever
    /// becomes of it in the replicas.
    async fn take_in_records(&mut self, order: &OrderReader<'_>, act: &FoundAct) -> Result<()> {
        let number = act.act.number;
        for place in self.prune.records {
            let error = match order.take(act, place).await {
                Taken::Yes => {
                    self.last = Some(act.clone());
                    continue;
                }
                Taken::Collided => Error::failed(format!(
                    "another host took number {number}, and the replicas that answer do not show what for"
                ))
                .hint("back up once when every replica answers, then prune again"),
                Taken::No(error) | Taken::Unknown(error) => {
                    let hint = "prune again when it answers: `lifeboat check` tells why it does not";
                    error.hint(hint)
                }
            };
            let hint = error.hint_text().unwrap_or_default().to_owned();
            let what =
                format!("nothing is marked or deleted: {} holds the records, and did not take this", place.name());
            return Err(error.within(what).hint(hint));
        }
        Ok(())
    }

    /// Records in this host's log what it is about to write, and so to delete.
    async fn record(&self, kind: ActKind, id: &SnapshotId, record: &SignedObject) -> Result<()> {
        let (dataset, id, blake3) = (self.prune.dataset.name.clone(), id.clone(), Digest::of(&record.object));
        let event = match kind {
            ActKind::Mark => LogEvent::Mark { dataset, id, blake3 },
            ActKind::Sweep => LogEvent::Sweep { dataset, id, blake3 },
            ActKind::Commit => return Ok(()),
        };
        let acts = self.last.iter().map(FoundAct::seen).collect();
        let recorded = self.prune.log().record(event, acts, self.prune.clock.now()).await;
        for warning in recorded.map_err(|error| error.within("nothing is deleted, because it could not be recorded"))? {
            tracing::warn!("{warning}");
        }
        Ok(())
    }
}

impl Prune<'_> {
    /// Marks what the plan marks, and `fresh` would still mark.
    pub(super) async fn mark(
        &self,
        acting: &mut Acting<'_>,
        plan: &PrunePlan,
        fresh: &PrunePlan,
        view: &View,
        outcome: &mut PruneOutcome,
    ) -> Result<()> {
        let hash = |snapshot: &SnapshotId| view.hash(snapshot);
        let snapshots = plan.mark_snapshots.intersection(&fresh.mark_snapshots);
        let body = MarkRecord {
            snapshots: snapshots
                .map(|snapshot| RemovedSnapshot { snapshot: snapshot.clone(), blake3: hash(snapshot) })
                .collect(),
            packs: plan.mark_packs.intersection(&fresh.mark_packs).copied().collect(),
            objects: plan.mark_objects.intersection(&fresh.mark_objects).cloned().collect(),
        };
        if body.snapshots.is_empty() && body.packs.is_empty() && body.objects.is_empty() {
            return Ok(());
        }
        let time = self.clock.now();
        let newest = view.marks.iter().map(|mark| &mark.id).max();
        let after = newest.map(|id| id.time() + chrono::TimeDelta::milliseconds(1));
        let id = SnapshotId::new(after.map_or(time, |after| after.max(time)), rand::random());
        let HostKeys { vault, signer, .. } = self.keys;
        let writer = RecordWriter { vault, dataset: &self.dataset.name, principal: &self.config.host, signer };
        let record = writer.sign(&id, time, view.marks.iter().rev().find(|mark| writer.wrote(mark)), &body)?;
        acting.act(ActKind::Mark, &id, &record, &view.inventories).await?;
        if view.inventories.iter().any(|inventory| acting.writes_to(inventory)) {
            outcome.marked_snapshots = body.snapshots.len() as u64;
            outcome.marked_packs = body.packs.len() as u64;
        }
        Ok(())
    }
}
