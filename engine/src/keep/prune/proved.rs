//! Finds the newest snapshot that a drill proved: prune keeps it.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::proof::ProofLevel;
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{self, MAX_RECORD_BYTES, RecordBody, RecordType};
use lifeboat_store::SharedReplica;
use serde::{Deserialize, Serialize};

use super::Prune;
use super::doubts::Doubts;
use crate::catalog::future::is_future;
use crate::catalog::inventory::Inventory;
use crate::catalog::outlines::{Outline, OutlineMap};
use crate::catalog::records::RecordReader;
use crate::catalog::taken::TakenTimes;
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::{Signed, combine};

/// What prune needs of a drill record. The rest may be long, and anybody's.
#[derive(Serialize, Deserialize)]
struct ProvedSnapshot {
    snapshot: Option<SnapshotId>,
    reached: Option<ProofLevel>,
    /// Set if it proved in part.
    #[serde(default, skip_serializing)]
    in_part: Option<serde::de::IgnoredAny>,
}

impl RecordBody for ProvedSnapshot {
    const TYPE: RecordType = RecordType::Drill;

    fn of_format_1(json: &[u8]) -> serde_json::Result<(String, Name, Self)> {
        #[derive(Deserialize)]
        struct Old {
            vault: String,
            dataset: Name,
            snapshot: Option<SnapshotId>,
            reached: Option<ProofLevel>,
        }
        let Old { vault, dataset, snapshot, reached } = serde_json::from_slice(json)?;
        Ok((vault, dataset, Self { snapshot, reached, in_part: None }))
    }
}

/// The newest snapshots that drills proved.
#[derive(Default)]
pub(super) struct NewestProved {
    /// By a drill of the whole snapshot, or in part.
    pub(super) newest: Option<SnapshotId>,
    /// Of those that lack no database, where the newest lacks one.
    pub(super) complete: Option<SnapshotId>,
    /// By a drill of the whole snapshot, where the newest was proved in part: other proofs in part
    /// rest on it.
    pub(super) base: Option<SnapshotId>,
}

/// How a snapshot was proved. Of two proofs of one, the one that was not in part counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ProofKind {
    InPart,
    Whole,
}

impl ProvedSnapshot {
    fn kind(&self) -> Option<ProofKind> {
        match (self.reached, &self.in_part) {
            (_, Some(_)) => Some(ProofKind::InPart),
            (Some(ProofLevel::Proved), None) => Some(ProofKind::Whole),
            _ => None,
        }
    }
}

impl Prune<'_> {
    /// The newest snapshot that a drill proved, of those that a replica without doubt shows and
    /// that do not lie in the future. If no drill signer is trusted, any report counts. A forged
    /// one can then protect another snapshot instead, but removes none that the rules keep.
    ///
    /// A replica is doubted if it shows a report that may name a newer one, and that is damaged in
    /// every replica or requires what this program does not know; and if it shows so many that
    /// cannot be believed that others are not looked at.
    pub(super) async fn newest_proved(
        &self,
        inventories: &[Inventory],
        outlines: &OutlineMap,
        times: &TakenTimes,
        doubts: &mut Doubts,
    ) -> NewestProved {
        let now = self.clock.now();
        loop {
            let mut unbelieved = Unbelieved::new("a drill report that cannot be believed");
            let sound = inventories.iter().filter(|inventory| !doubts.replicas.contains_key(inventory.replica.name()));
            let shown: BTreeSet<&SnapshotId> = sound.flat_map(|inventory| &inventory.snapshots).collect();
            let counts = |(snapshot, outline): &(&SnapshotId, &Outline)| {
                shown.contains(*snapshot) && !is_future(times.time(outline), now, &self.config.limits)
            };
            let all = outlines.iter().map(|(snapshot, outline)| (snapshot, outline.as_ref()));
            let mut candidates: BTreeMap<&SnapshotId, &Outline> = all.filter(counts).collect();
            let doubted = doubts.replicas.len();
            let at_least = ProofKind::InPart;
            let newest =
                self.newest_proved_of(&candidates, at_least, times, inventories, doubts, &mut unbelieved).await;
            let (mut complete, mut base) = (None, None);
            if newest.is_some_and(|(_, kind)| kind == ProofKind::InPart) {
                let whole = ProofKind::Whole;
                base = self.newest_proved_of(&candidates, whole, times, inventories, doubts, &mut unbelieved).await;
            }
            if newest.is_some_and(|(newest, _)| newest.is_partial) {
                candidates.retain(|_, outline| !outline.is_partial);
                complete =
                    self.newest_proved_of(&candidates, at_least, times, inventories, doubts, &mut unbelieved).await;
            }
            // A replica that is doubted since then may have been the only one to show it.
            if doubts.replicas.len() == doubted {
                unbelieved.log("it is ignored");
                let [newest, complete, base] = [newest, complete, base]
                    .map(|found: Option<(&Outline, ProofKind)>| found.map(|(outline, _)| outline.snapshot.clone()));
                return NewestProved { newest, complete, base };
            }
        }
    }

    /// As [`Self::newest_proved`], of these, and of proofs that are no less than `at_least`.
    async fn newest_proved_of<'m>(
        &self,
        candidates: &BTreeMap<&SnapshotId, &'m Outline>,
        at_least: ProofKind,
        times: &TakenTimes,
        inventories: &[Inventory],
        doubts: &mut Doubts,
        unbelieved: &mut Unbelieved,
    ) -> Option<(&'m Outline, ProofKind)> {
        let mut newest: Option<(&Outline, ProofKind)> = None;
        let drills: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.drills).collect();
        for drill in drills.into_iter().rev() {
            // A drill is younger than the snapshot that it proves. So no older report can name a
            // newer snapshot. A settled time must not end the search early.
            if newest.is_some_and(|(outline, _)| times.time(outline).min(outline.started) >= drill.time()) {
                break;
            }
            let holders: Vec<&Inventory> =
                inventories.iter().filter(|inventory| inventory.drills.contains(drill)).collect();
            let names = || holders.iter().map(|holder| holder.replica.name());
            if unbelieved.leaves_aside(names()) {
                let error = Error::integrity("too many drill reports that cannot be believed hide the others");
                let hint = "remove what is below drills/ and is not yours, or trust its signer";
                doubts.add(&holders, Signed::ByNobody, &error, hint);
                continue;
            }
            let report = match self.drill_report(&holders, drill).await {
                Ok(report) => report,
                Err(error) => {
                    unbelieved.add(names(), drill, &error);
                    // A stranger's report says nothing. What else cannot be read may name a newer
                    // snapshot.
                    if error.class() != Class::Keys {
                        let (vault, dataset) = (&self.keys.vault, &self.dataset.name);
                        let reader = RecordReader { vault, dataset, trust: &self.keys.trust };
                        let of: Vec<&SharedReplica> = holders.iter().map(|holder| &holder.replica).collect();
                        let signed = reader.signed(RecordType::Drill, &of, drill).await;
                        let hint = "back up the dataset and drill that snapshot, then prune again";
                        doubts.add(&holders, signed, &error, hint);
                    }
                    continue;
                }
            };
            let kind = report.kind().filter(|kind| *kind >= at_least);
            let proved = kind.and_then(|kind| Some((*candidates.get(&report.snapshot?)?, kind)));
            newest = newest.into_iter().chain(proved).max_by_key(|(outline, kind)| (&outline.snapshot, *kind));
        }
        newest
    }

    async fn drill_report(&self, holders: &[&Inventory], drill: &SnapshotId) -> Result<ProvedSnapshot> {
        let (vault, dataset, trust) = (&self.keys.vault, &self.dataset.name, &self.keys.trust);
        let holders = holders.iter().map(|holder| &holder.replica);
        if trust.knows_drill_hosts() || trust.root().is_some() {
            let (reader, mut refused) = (RecordReader { vault, dataset, trust }, None);
            for holder in holders {
                match reader.read(&[holder], drill).await {
                    Ok(record) => return Ok(record.body),
                    // It is a stranger's only if every replica says so.
                    Err(error) if error.class() == Class::Keys => refused = refused.or(Some(error)),
                    Err(error) => refused = Some(error),
                }
            }
            return Err(refused.unwrap_or_else(|| Error::integrity(format!("no replica holds drill record {drill}"))));
        }
        let (key, mut errors) = (layout::drill(dataset, drill), Vec::new());
        for replica in holders {
            match replica.get(&key, MAX_RECORD_BYTES as u64).await.map_err(Error::from) {
                Ok(json) => match record::read(&json, vault, dataset, &format!("replica {}: {key}", replica.name())) {
                    Ok((_, report)) => return Ok(report),
                    Err(error) => errors.push(error),
                },
                Err(error) => errors.push(error),
            }
        }
        Err(combine(format!("no replica returns a valid {key}"), &errors))
    }
}
