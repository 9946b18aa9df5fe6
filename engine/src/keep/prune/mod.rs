//! Prune removes snapshots that no retention rule keeps, and packs that no snapshot needs. It makes
//! a plan, then executes it.
//!
//! - **Never removed**: the newest snapshot, the newest proved one, and the newest complete one of
//!   each replica.
//! - **Packs** go from a replica when no snapshot that stays refers to them, and the grace period
//!   has passed since prune first saw that. The grace period also protects packs of a run that has
//!   not committed yet, or that crashed.
//! - **Order**: a signed prune record, then signatures, manifests, packs, index segments. After a
//!   crash, the next prune removes the rest.
//! - **Doubt**: if a manifest, a prune record, a drill record that matters or a `vault.json` cannot
//!   be read, or requires what this program does not know, nothing is deleted.

mod execute;
mod unreferenced;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::catalog::documents::{Documents, combine};
use crate::catalog::inventory::{Inventory, all_snapshots};
use crate::catalog::records::{FoundRecord, RecordReader};
use crate::drill::DrillReport;
pub use crate::renewal::sparse::Space;

use crate::config::{Config, Dataset};
use crate::keys::HostKeys;
use crate::renewal::sparse::{self, Packs};
use crate::state::StateDirectory;
use crate::state::cache::ObjectCache;
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::proof::ProofLevel;
use lifeboat_format::id::{Digest, Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::Manifest;
use lifeboat_format::record::{self, PruneRecord};
use lifeboat_store::SharedReplica;

/// Everything that prune needs.
pub struct Prune<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The dataset to prune.
    pub dataset: &'a Dataset,
    /// This host's keys.
    pub keys: &'a HostKeys,
    /// Every configured replica. One that cannot be listed is left alone.
    pub replicas: &'a [SharedReplica],
    /// The directory that remembers since when packs are unreferenced. The caller holds the
    /// dataset's lock.
    pub state: &'a StateDirectory,
    /// Tells the time.
    pub clock: SharedClock,
    /// When it fires, prune stops before the next deletion.
    pub cancel: CancellationToken,
}

/// Whether one snapshot stays, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The reasons why it stays. If there are none, it goes.
    pub keep_because: Vec<String>,
}

/// A pack that one replica need not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadPack {
    /// The replica's name.
    pub replica: Name,
    /// The object's key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// When prune first saw that no snapshot refers to it.
    pub unreferenced_since: DateTime<Utc>,
}

/// What prune will do. Making a plan changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    /// The dataset.
    pub dataset: Name,
    /// All snapshots, oldest first.
    pub verdicts: Vec<Verdict>,
    /// Packs that go, because their grace period is over.
    pub packs: Vec<DeadPack>,
    /// Packs that will go when their grace period is over.
    pub waiting: Vec<DeadPack>,
    /// Index segments that go, because all their packs will be gone: replica and object key.
    pub segments: Vec<(Name, String)>,
    /// Replicas that are left alone this time, and why.
    pub skipped: Vec<(Name, String)>,
    /// The size of the packs that snapshots need, and how much of it is unused.
    pub space: Space,
    /// The sparse packs. Until they are gone, no backup refers to them: it stores again what it
    /// needs of them.
    pub sparse: BTreeSet<PackId>,
    /// How many bytes of these the next backup stores again, before compression.
    pub again_bytes: u64,
}

impl PrunePlan {
    /// The snapshots that go.
    pub fn removed(&self) -> impl Iterator<Item = &SnapshotId> {
        self.verdicts.iter().filter(|verdict| verdict.keep_because.is_empty()).map(|verdict| &verdict.snapshot)
    }

    /// Whether no snapshot and no pack goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.removed().next().is_none()
    }
}

/// What prune has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneOutcome {
    /// How many snapshots were removed from at least one replica.
    pub snapshots: u64,
    /// How many packs were removed, summed over all replicas.
    pub packs: u64,
    /// The size of these packs in bytes.
    pub bytes: u64,
    /// The size of the packs that snapshots need, and how much of it is unused.
    pub space: Space,
    /// What failed, an entry for each replica. The next prune tries it again.
    pub failures: Vec<String>,
}

impl Prune<'_> {
    /// Reads all manifests and makes a plan.
    ///
    /// # Errors
    /// No replica can be listed, a manifest cannot be read, or the state directory fails.
    pub async fn plan(&self) -> Result<PrunePlan> {
        let view = self.look().await?;
        let now = self.clock.now();
        let times: Vec<DateTime<Utc>> = view.manifests.keys().map(SnapshotId::time).collect();
        let reasons = super::retention::reasons(&times, &self.dataset.retention, now);
        let mut verdicts: Vec<Verdict> = view
            .manifests
            .keys()
            .zip(reasons)
            .map(|(snapshot, keep_because)| Verdict { snapshot: snapshot.clone(), keep_because })
            .collect();
        self.protect(&view, &mut verdicts).await?;
        // A snapshot that a prune record names goes, even if a replica still shows it.
        let leftovers =
            view.leftovers.iter().map(|snapshot| Verdict { snapshot: snapshot.clone(), keep_because: Vec::new() });
        verdicts.extend(leftovers);
        verdicts.sort_by(|a, b| a.snapshot.cmp(&b.snapshot));

        let stays: HashSet<&SnapshotId> = verdicts
            .iter()
            .filter(|verdict| !verdict.keep_because.is_empty())
            .map(|verdict| &verdict.snapshot)
            .collect();
        let packs = Packs::of(view.manifests.values().filter(|manifest| stays.contains(&manifest.snapshot)));
        let sparse = self.sparse(&view, &packs);
        let mut plan = PrunePlan {
            dataset: self.dataset.name.clone(),
            verdicts,
            packs: Vec::new(),
            waiting: Vec::new(),
            segments: Vec::new(),
            skipped: view.skipped.clone(),
            space: packs.space(),
            again_bytes: packs.due(&sparse),
            sparse,
        };
        self.plan_packs(&view, &packs, now, &mut plan)?;
        self.plan_segments(&view, &mut plan).await;
        Ok(plan)
    }

    async fn look(&self) -> Result<View> {
        let dataset = &self.dataset.name;
        let (inventories, mut failed) = Inventory::take_all_to_write(self.replicas, &self.keys.vault, dataset).await;
        // What stands in a vault.json is about the whole vault.
        if let Some((_, error)) = failed.extract_if(.., |_, error| error.class() == Class::Integrity).next() {
            return Err(refused(error, format!("nothing in dataset {dataset} is deleted"), "run `lifeboat check`"));
        }
        if inventories.is_empty() {
            return Err(combine(
                format!("no replica can be used for dataset {dataset}"),
                &failed.into_values().collect::<Vec<_>>(),
            ));
        }
        let cache = ObjectCache::open(self.state, dataset)?;
        let reader = self.keys.reader();
        let documents = Documents { vault: &self.keys.vault, dataset, keys: &reader, cache: Some(&cache) };
        let records = prune_records(&documents, &inventories).await;
        if let Some((key, error)) = records.unreadable.into_iter().next() {
            return Err(refused(
                error,
                format!("nothing in dataset {dataset} is deleted, because {key} cannot be read"),
                "run `lifeboat verify` to see why",
            ));
        }
        let (pruned, records) = (records.snapshots, records.found);
        let (leftovers, snapshots): (Vec<_>, Vec<_>) =
            all_snapshots(&inventories).into_iter().partition(|snapshot| pruned.contains_key(snapshot));
        let (mut manifests, mut hashes) = (BTreeMap::new(), BTreeMap::new());
        let read = documents.manifests(&inventories, snapshots).map(|(snapshot, manifest)| Ok((snapshot, manifest?)));
        let read: Result<Vec<_>> = read.try_collect().await;
        let read = read.map_err(|error| {
            refused(
                error,
                format!("nothing in dataset {dataset} is deleted"),
                "run `lifeboat verify` to see why; remove the manifest by hand only if no replica has a good one",
            )
        })?;
        for (snapshot, (manifest, hash)) in read {
            hashes.insert(snapshot.clone(), hash);
            manifests.insert(snapshot, manifest);
        }
        let skipped = failed.into_iter().map(|(name, error)| (name, error.chain())).collect();
        Ok(View { inventories, manifests, hashes, records, pruned, leftovers, skipped, cache })
    }

    /// Adds the reasons that hold whatever the retention rules are.
    async fn protect(&self, view: &View, verdicts: &mut [Verdict]) -> Result<()> {
        let mut keep = |snapshot: Option<&SnapshotId>, because: String| {
            if let Some(verdict) = verdicts.iter_mut().find(|verdict| Some(&verdict.snapshot) == snapshot) {
                verdict.keep_because.push(because);
            }
        };
        keep(view.manifests.keys().next_back(), "the newest".to_owned());
        for inventory in &view.inventories {
            let complete = view.manifests.values().rev().find(|manifest| inventory.is_complete(manifest));
            let because = format!("the newest complete one in {}", inventory.replica.name());
            keep(complete.map(|manifest| &manifest.snapshot), because);
        }
        keep(self.newest_proved(view).await?.as_ref(), "the newest proved one".to_owned());
        Ok(())
    }

    /// The newest snapshot that a drill proved. If no drill signer is trusted, any report counts. A
    /// forged one can then protect another snapshot instead, but removes none that the rules keep.
    ///
    /// # Errors
    /// A report that may name a newer one is damaged, or requires what this program does not know.
    async fn newest_proved(&self, view: &View) -> Result<Option<SnapshotId>> {
        let mut newest: Option<SnapshotId> = None;
        let drills: BTreeSet<&SnapshotId> = view.inventories.iter().flat_map(|inventory| &inventory.drills).collect();
        for drill in drills.into_iter().rev() {
            // A drill is younger than the snapshot that it proves. So no older report can name a
            // newer snapshot.
            if newest.as_ref().is_some_and(|snapshot| snapshot.time() >= drill.time()) {
                break;
            }
            let report = match self.drill_report(view, drill).await {
                Ok(report) => report,
                Err(error) if error.class() == Class::Keys => {
                    tracing::warn!(error = %error.chain(), "Ignoring drill report: its signer is not trusted");
                    continue;
                }
                Err(error) => {
                    let (dataset, class) = (&self.dataset.name, error.class());
                    return Err(refused(
                        error,
                        format!(
                            "nothing in dataset {dataset} is deleted: a drill may have proved a snapshot that would go"
                        ),
                        match class {
                            Class::Storage => "prune again when the replica answers",
                            _ => "back up the dataset and drill that snapshot, then prune again",
                        },
                    ));
                }
            };
            let proved = Some(report).filter(|report| report.reached == Some(ProofLevel::Proved));
            let proved = proved.and_then(|report| report.snapshot);
            newest = newest.max(proved.filter(|snapshot| view.manifests.contains_key(snapshot)));
        }
        Ok(newest)
    }

    async fn drill_report(&self, view: &View, drill: &SnapshotId) -> Result<DrillReport> {
        let (vault, dataset, trusted) = (&self.keys.vault, &self.dataset.name, &self.keys.trusted_drill_signers);
        let holders = view.inventories.iter().filter(|inventory| inventory.drills.contains(drill));
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
            match replica.get(&key).await.map_err(Error::from) {
                Ok(json) => match record::read(&json, vault, dataset, &format!("replica {}: {key}", replica.name())) {
                    Ok((_, report)) => return Ok(report),
                    Err(error) => errors.push(error),
                },
                Err(error) => errors.push(error),
            }
        }
        Err(combine(format!("no replica returns a valid {key}"), &errors))
    }

    /// The sparse packs: those known before that still exist, and new ones.
    fn sparse(&self, view: &View, packs: &Packs<'_>) -> BTreeSet<PackId> {
        let mut sparse = sparse::read(self.state, &self.dataset.name);
        if view.skipped.is_empty() {
            // A pack stays marked until no replica has it. Else a run would refer to it again.
            let is_there = |pack: &PackId| view.inventories.iter().any(|inventory| inventory.packs.contains_key(pack));
            sparse.retain(is_there);
            let more = packs.sparse(&sparse);
            sparse.extend(more);
        }
        sparse
    }

    fn plan_packs(&self, view: &View, needed: &Packs<'_>, now: DateTime<Utc>, plan: &mut PrunePlan) -> Result<()> {
        let known = unreferenced::read(self.state, &self.dataset.name)?;
        let grace = TimeDelta::from_std(self.dataset.retention.grace).unwrap_or(TimeDelta::MAX);
        for inventory in &view.inventories {
            let replica = inventory.replica.name();
            for (pack, size) in inventory.packs.iter().filter(|(pack, _)| !needed.contains(pack)) {
                let since = known.get(replica).and_then(|packs| packs.get(pack)).copied().unwrap_or(now);
                let dead = DeadPack {
                    replica: replica.clone(),
                    key: layout::pack(&self.dataset.name, pack),
                    size: *size,
                    unreferenced_since: since,
                };
                if now - since >= grace { &mut plan.packs } else { &mut plan.waiting }.push(dead);
            }
        }
        let order = |a: &DeadPack, b: &DeadPack| (&a.replica, &a.key).cmp(&(&b.replica, &b.key));
        plan.packs.sort_by(order);
        plan.waiting.sort_by(order);
        Ok(())
    }

    async fn plan_segments(&self, view: &View, plan: &mut PrunePlan) {
        let reader = self.keys.reader();
        let dataset = &self.dataset.name;
        let documents = Documents { vault: &self.keys.vault, dataset, keys: &reader, cache: Some(&view.cache) };
        let going: HashSet<(&Name, &str)> = plan.packs.iter().map(|pack| (&pack.replica, pack.key.as_str())).collect();
        let removed: HashSet<&SnapshotId> = plan.removed().collect();
        let mut segments = Vec::new();
        for inventory in &view.inventories {
            let replica = inventory.replica.name();
            for snapshot in &inventory.indexes {
                if view.manifests.contains_key(snapshot) && !removed.contains(snapshot) {
                    continue;
                }
                let Ok(segment) = documents.index(std::slice::from_ref(&inventory.replica), snapshot).await else {
                    continue;
                };
                let gone = segment.packs().all(|pack| {
                    pack.is_ok_and(|pack| {
                        !inventory.packs.contains_key(&pack.id)
                            || going.contains(&(replica, layout::pack(dataset, &pack.id).as_str()))
                    })
                });
                if gone {
                    segments.push((replica.clone(), layout::index(dataset, snapshot)));
                }
            }
        }
        plan.segments = segments;
    }
}

/// The reason why nothing is deleted. The hint of `error` itself is better than `hint`.
fn refused(error: Error, what: String, hint: &str) -> Error {
    let own = error.hint_text().map(str::to_owned);
    error.within(what).hint(own.as_deref().unwrap_or(hint))
}

/// What the replicas hold, and what could not be looked at.
struct View {
    inventories: Vec<Inventory>,
    manifests: BTreeMap<SnapshotId, Manifest>,
    /// The hashes of these manifests as they are stored.
    hashes: BTreeMap<SnapshotId, Digest>,
    records: Vec<FoundRecord<PruneRecord>>,
    /// Every snapshot that one of the records names.
    pruned: PrunedSnapshots,
    /// Those of them that a replica still shows.
    leftovers: Vec<SnapshotId>,
    skipped: Vec<(Name, String)>,
    cache: ObjectCache,
}

/// Snapshots that were removed on purpose, each with the hash of its manifest, if it is known.
pub(crate) type PrunedSnapshots = BTreeMap<SnapshotId, Option<Digest>>;

/// What signed prune records say.
pub(crate) struct PruneRecords {
    /// Every snapshot that one of them names.
    pub(crate) snapshots: PrunedSnapshots,
    /// The records that could be read and believed, oldest first.
    pub(crate) found: Vec<FoundRecord<PruneRecord>>,
    /// Why others could not, by object key.
    pub(crate) unreadable: BTreeMap<String, Error>,
}

/// Reads every prune record that some replica shows.
pub(crate) async fn prune_records(documents: &Documents<'_>, inventories: &[Inventory]) -> PruneRecords {
    let Documents { vault, dataset, keys, .. } = documents;
    let reader = RecordReader { vault, dataset, trusted: &keys.trusted_signers };
    let (found, unreadable) = reader.read_all::<PruneRecord>(inventories).await;
    let mut snapshots = PrunedSnapshots::new();
    for removed in found.iter().flat_map(|record| &record.body.removed) {
        let hash = snapshots.entry(removed.snapshot.clone()).or_default();
        *hash = hash.or(removed.blake3);
    }
    PruneRecords { snapshots, found, unreadable }
}
