//! What a prune looks at before it plans: what the replicas hold, and which of them to doubt.
//!
//! What a trusted signer has signed and this program does not understand stops every deletion: a
//! newer program wrote it. What may be signed, for all that can be told, stops every deletion, too:
//! its replica fails, or it is longer than may be held here. What no replica returns signed may be
//! anybody's. It stops deletions only in the replicas that show it.
//!
//! A record that a stranger signed, such as a retired host, decides nothing and is ignored. It
//! could only excuse what is missing, and name what is to go.
//!
//! Where something is doubted, signed manifests are still believed: what they refer to stays in
//! every replica.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::proof::ProofLevel;
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::Manifest;
use lifeboat_format::record::{self, MAX_RECORD_BYTES, MarkRecord, PruneRecord, RecordBody, RecordType};
use lifeboat_store::SharedReplica;
use serde::{Deserialize, Serialize};

use super::{Prune, shown};
use crate::catalog::documents::{Documents, Signed, combine};
use crate::catalog::future::is_future;
use crate::catalog::inventory::{Inventory, NotListed, all_snapshots};
use crate::catalog::order::{Acts, FoundAct, OrderReader};
use crate::catalog::records::{FoundRecord, RecordReader};
use crate::catalog::removals::{PrunedSnapshots, prune_records};
use crate::keep::gaps::{Known, refusal};
use crate::state::cache::ObjectCache;
use crate::state::seen;

/// What to do about a manifest that no replica returns whole.
const UNREADABLE_MANIFEST: &str =
    "run `lifeboat verify` to see why; remove the manifest by hand only if no replica has a good one";
/// What to do if a replica lists an object and does not return it.
const NO_ANSWER: &str = "prune again when the replica answers";

/// What the replicas hold, and what could not be looked at.
pub(super) struct View {
    /// The replicas from which something may go.
    pub(super) inventories: Vec<Inventory>,
    /// Every snapshot that any replica shows and that no prune record names.
    pub(super) manifests: BTreeMap<SnapshotId, Manifest>,
    /// Every snapshot that `inventories` show. Rules of retention count no others.
    pub(super) shown: BTreeSet<SnapshotId>,
    /// The hashes of these manifests as they are stored.
    pub(super) hashes: BTreeMap<SnapshotId, Digest>,
    pub(super) records: Vec<FoundRecord<PruneRecord>>,
    /// Every snapshot that one of the records names.
    pub(super) pruned: PrunedSnapshots,
    /// Those of them that a replica still shows.
    pub(super) leftovers: Vec<SnapshotId>,
    pub(super) acts: Acts,
    /// The marks that no sweep has carried out, oldest first.
    pub(super) marks: Vec<FoundRecord<MarkRecord>>,
    /// The newest number that replicas show, or that this host has seen.
    pub(super) newest: u64,
    /// The newest of `shown` that a drill proved, without what lies in the future.
    pub(super) proved: Option<SnapshotId>,
    /// The replicas that are left alone, and why.
    pub(super) skipped: Vec<(Name, String)>,
    /// Those of them in which something cannot be read.
    pub(super) doubted: Vec<(Name, String)>,
    pub(super) cache: ObjectCache,
}

/// What prune needs of a drill record. The rest may be long, and anybody's.
#[derive(Serialize, Deserialize)]
struct ProvedSnapshot {
    snapshot: Option<SnapshotId>,
    reached: Option<ProofLevel>,
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
        Ok((vault, dataset, Self { snapshot, reached }))
    }
}

/// Why replicas are left alone although they can be listed.
#[derive(Default)]
struct Doubts {
    /// The first reason for each.
    replicas: BTreeMap<Name, Error>,
    /// The first of what a trusted signer has signed, or may have, and this program cannot read: it
    /// counts for every replica, whoever shows it.
    everywhere: Option<Error>,
}

impl Doubts {
    /// Doubts each of `holders`, or every replica if what they hold is, or may be, `signed`. The
    /// hint of `error` itself is better than `hint`.
    fn add(&mut self, holders: &[&Inventory], signed: Signed, error: &Error, hint: &str) {
        let hint = if error.class() == Class::Storage { NO_ANSWER } else { hint };
        let doubt = || Error::new(error.class(), error.chain()).hint(error.hint_text().unwrap_or(hint));
        if signed >= Signed::Unknown {
            self.everywhere.get_or_insert_with(doubt);
        }
        for holder in holders {
            self.replicas.entry(holder.replica.name().clone()).or_insert_with(doubt);
        }
    }
}

impl Prune<'_> {
    pub(super) async fn look(&self) -> Result<View> {
        let dataset = &self.dataset.name;
        let (mut inventories, not_listed) =
            Inventory::take_each_to_write(self.replicas, &self.keys.vault, dataset).await;
        let (mut failed, mut doubts) = (BTreeMap::new(), Doubts::default());
        for (name, NotListed { error, answered }) in not_listed {
            // What a replica answers and cannot be used is told even if the others can be pruned.
            if answered { &mut doubts.replicas } else { &mut failed }.insert(name, error);
        }
        if inventories.is_empty() && doubts.replicas.is_empty() {
            return Err(combine(
                format!("no replica can be used for dataset {dataset}"),
                &failed.into_values().collect::<Vec<_>>(),
            ));
        }
        let cache = ObjectCache::open(self.state, dataset)?;
        let order = OrderReader::of_host(self.keys, dataset, &cache);
        let acts = order.all(&inventories).await;
        inventories = self.bring_level(&order, &acts, inventories, &mut failed).await;
        let reader = self.keys.reader();
        let memory = self.config.limits.memory;
        let documents = Documents { vault: &self.keys.vault, dataset, keys: &reader, cache: Some(&cache), memory };
        let records = prune_records(&documents, &inventories).await;
        for (id, error) in records.unreadable {
            let own = error.hint_text().unwrap_or("run `lifeboat verify` to see why").to_owned();
            let error = error.within(format!("{} cannot be read", layout::prune(dataset, &id))).hint(own);
            let holders: Vec<&Inventory> =
                inventories.iter().filter(|inventory| inventory.prunes.contains(&id)).collect();
            let record_reader = RecordReader { vault: &self.keys.vault, dataset, trusted: &reader.trusted_signers };
            let of: Vec<&SharedReplica> = holders.iter().map(|holder| &holder.replica).collect();
            let signed = record_reader.signed(RecordType::Prune, &of, &id).await;
            if signed == Signed::ByStrangers {
                // It decides nothing: what it names counts as if it had not been removed.
                tracing::warn!(error = %error.chain(), "Ignoring prune record: its signer is not trusted");
                continue;
            }
            doubts.add(&holders, signed, &error, "");
        }
        let (pruned, records) = (records.snapshots, records.found);
        let (mut manifests, mut hashes, mut unreadable) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        {
            let snapshots = all_snapshots(&inventories).into_iter().filter(|snapshot| !pruned.contains_key(snapshot));
            let mut read = std::pin::pin!(documents.manifests(&inventories, snapshots));
            while let Some((snapshot, manifest)) = read.next().await {
                match manifest {
                    Ok((manifest, hash)) => {
                        hashes.insert(snapshot.clone(), hash);
                        manifests.insert(snapshot, manifest);
                    }
                    Err(error) => unreadable.push((snapshot, error)),
                }
            }
        }
        for (snapshot, error) in unreadable {
            let holders: Vec<&Inventory> =
                inventories.iter().filter(|inventory| inventory.snapshots.contains(&snapshot)).collect();
            let of = holders.iter().map(|holder| &holder.replica);
            let signed = documents.signed(of, &snapshot).await;
            doubts.add(&holders, signed, &error, UNREADABLE_MANIFEST);
        }
        let proved = self.newest_proved(&inventories, &manifests, &mut doubts).await;
        let seen = seen::read(self.state, dataset);
        let known = Known {
            inventories: &inventories,
            acts: &acts,
            manifests: &manifests,
            pruned: &pruned,
            records: records.iter().map(|record| &record.body).collect(),
            seen,
            shown: &shown::read(self.state, dataset),
        };
        let gaps = known.gaps();
        if !gaps.is_empty() {
            doubts.everywhere.get_or_insert_with(|| refusal(dataset, &gaps));
        }
        if let Err(error) = self.check_time(&manifests) {
            doubts.everywhere.get_or_insert(error);
        }
        let marks = self.marks(&inventories, &acts, &records).await;
        inventories.retain(|inventory| !doubts.replicas.contains_key(inventory.replica.name()));
        if inventories.is_empty() || doubts.everywhere.is_some() {
            let reasons: Vec<Error> = match doubts.everywhere {
                Some(reason) => vec![reason],
                None => doubts.replicas.into_values().chain(failed.into_values()).collect(),
            };
            let reasons = if let [only] = &reasons[..] {
                Error::new(only.class(), only.chain()).hint(only.hint_text().unwrap_or("run `lifeboat check`"))
            } else {
                combine("every replica is left alone".to_owned(), &reasons)
            };
            let hint = reasons.hint_text().unwrap_or("run `lifeboat check`").to_owned();
            return Err(reasons.within(format!("nothing in dataset {dataset} is deleted")).hint(hint));
        }
        let shown = all_snapshots(&inventories);
        let leftovers = shown.iter().filter(|snapshot| pruned.contains_key(snapshot)).cloned().collect();
        let doubted = doubts.replicas.into_iter().map(|(name, error)| {
            (name, format!("nothing in dataset {dataset} is deleted there, because: {}", error.chain_and_hint()))
        });
        let doubted: Vec<(Name, String)> = doubted.collect();
        let mut skipped: Vec<_> = failed.into_iter().map(|(name, error)| (name, error.chain())).collect();
        skipped.extend(doubted.iter().cloned());
        let newest = acts.newest().max(seen);
        Ok(View {
            inventories,
            manifests,
            shown,
            hashes,
            records,
            pruned,
            leftovers,
            acts,
            marks,
            newest,
            proved,
            skipped,
            doubted,
            cache,
        })
    }

    /// Gives each replica the acts that it lacks, and the signatures that acts hold. One that fails
    /// is left alone.
    async fn bring_level(
        &self,
        order: &OrderReader<'_>,
        acts: &Acts,
        inventories: Vec<Inventory>,
        failed: &mut BTreeMap<Name, Error>,
    ) -> Vec<Inventory> {
        let (mut level, all) = (Vec::new(), inventories.clone());
        for mut inventory in inventories {
            let brought = async {
                order.level(&mut inventory, &all, acts.newest()).await?;
                order.finish(&mut inventory, acts).await
            };
            match brought.await {
                Ok(finished) => {
                    for key in finished {
                        tracing::warn!(replica = %inventory.replica.name(), %key, "An object had no signature, and has it again");
                    }
                    level.push(inventory);
                }
                Err(error) => drop(failed.insert(inventory.replica.name().clone(), error)),
            }
        }
        level
    }

    /// The marks that took their place in the order and that no sweep has carried out.
    async fn marks(
        &self,
        inventories: &[Inventory],
        acts: &Acts,
        records: &[FoundRecord<PruneRecord>],
    ) -> Vec<FoundRecord<MarkRecord>> {
        let (vault, dataset) = (&self.keys.vault, &self.dataset.name);
        let reader = RecordReader { vault, dataset, trusted: &self.keys.trusted_signers };
        let (mut marks, unreadable) = reader.read_all::<MarkRecord>(inventories).await;
        for (mark, error) in unreadable {
            tracing::warn!(%mark, error = %error.chain(), "A mark cannot be read: nothing that it names is deleted");
        }
        let has_passed = |number| records.iter().any(|record| record.body.has_passed(number));
        marks.retain(|mark| {
            acts.found.iter().any(|(number, FoundAct { act, .. })| {
                act.act == ActKind::Mark && act.id == mark.id && act.blake3 == mark.hash && !has_passed(*number)
            })
        });
        marks
    }

    /// The newest snapshot that a drill proved, of those that a replica without doubt shows and
    /// that do not lie in the future. If no drill signer is trusted, any report counts. A forged
    /// one can then protect another snapshot instead, but removes none that the rules keep.
    ///
    /// A replica is doubted if it shows a report that may name a newer one, and that is damaged in
    /// every replica or requires what this program does not know.
    async fn newest_proved(
        &self,
        inventories: &[Inventory],
        manifests: &BTreeMap<SnapshotId, Manifest>,
        doubts: &mut Doubts,
    ) -> Option<SnapshotId> {
        let now = self.clock.now();
        loop {
            let sound = inventories.iter().filter(|inventory| !doubts.replicas.contains_key(inventory.replica.name()));
            let shown: BTreeSet<&SnapshotId> = sound.flat_map(|inventory| &inventory.snapshots).collect();
            let counts = |(snapshot, manifest): &(_, &Manifest)| {
                shown.contains(*snapshot) && !is_future(manifest.started, now, &self.config.limits)
            };
            let candidates = manifests.iter().filter(counts).collect();
            let doubted = doubts.replicas.len();
            let newest = self.newest_proved_of(&candidates, inventories, doubts).await;
            // A replica that is doubted since then may have been the only one to show it.
            if doubts.replicas.len() == doubted {
                return newest.map(|manifest| manifest.snapshot.clone());
            }
        }
    }

    /// As [`Self::newest_proved`], of these.
    async fn newest_proved_of<'m>(
        &self,
        candidates: &BTreeMap<&SnapshotId, &'m Manifest>,
        inventories: &[Inventory],
        doubts: &mut Doubts,
    ) -> Option<&'m Manifest> {
        let mut newest: Option<&Manifest> = None;
        let drills: BTreeSet<&SnapshotId> = inventories.iter().flat_map(|inventory| &inventory.drills).collect();
        for drill in drills.into_iter().rev() {
            // A drill is younger than the snapshot that it proves. So no older report can name a
            // newer snapshot.
            if newest.is_some_and(|manifest| manifest.started >= drill.time()) {
                break;
            }
            let report = match self.drill_report(inventories, drill).await {
                Ok(report) => report,
                Err(error) if error.class() == Class::Keys => {
                    tracing::warn!(error = %error.chain(), "Ignoring drill report: its signer is not trusted");
                    continue;
                }
                Err(error) => {
                    let holders: Vec<&Inventory> =
                        inventories.iter().filter(|inventory| inventory.drills.contains(drill)).collect();
                    let (vault, dataset) = (&self.keys.vault, &self.dataset.name);
                    let reader = RecordReader { vault, dataset, trusted: &self.keys.trusted_drill_signers };
                    let of: Vec<&SharedReplica> = holders.iter().map(|holder| &holder.replica).collect();
                    let signed = reader.signed(RecordType::Drill, &of, drill).await;
                    let hint = "back up the dataset and drill that snapshot, then prune again";
                    doubts.add(&holders, signed, &error, hint);
                    continue;
                }
            };
            let proved = Some(report).filter(|report| report.reached == Some(ProofLevel::Proved));
            let proved = proved.and_then(|report| candidates.get(&report.snapshot?).copied());
            newest = newest.into_iter().chain(proved).max_by_key(|manifest| &manifest.snapshot);
        }
        newest
    }

    async fn drill_report(&self, inventories: &[Inventory], drill: &SnapshotId) -> Result<ProvedSnapshot> {
        let (vault, dataset, trusted) = (&self.keys.vault, &self.dataset.name, &self.keys.trusted_drill_signers);
        let holders = inventories.iter().filter(|inventory| inventory.drills.contains(drill));
        let holders: Vec<&SharedReplica> = holders.map(|inventory| &inventory.replica).collect();
        if !trusted.is_empty() {
            let (reader, mut refused) = (RecordReader { vault, dataset, trusted }, None);
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
