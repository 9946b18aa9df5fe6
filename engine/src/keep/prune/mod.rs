//! Prune removes snapshots that no retention rule keeps, and packs that no snapshot needs. It makes
//! a plan, then executes it.
//!
//! - **Never removed**: the newest snapshot, the newest proved one, and the newest complete one of
//!   each replica; where one of these lacks a database, also the newest before it that lacks none.
//! - **Packs** go from a replica when no snapshot that stays refers to them, and the grace period
//!   has passed since prune first saw that. The grace period also protects packs of a run that has
//!   not committed yet, or that crashed.
//! - **Order**: a signed prune record, then signatures, manifests, packs, index segments. After a
//!   crash, the next prune removes the rest.
//! - **Doubt**: what a trusted signer has signed and this program does not understand stops every
//!   deletion. So does what may be signed: a manifest or a record that is listed and cannot be
//!   fetched. What no replica returns signed, and a `vault.json` that is not the vault's, stop
//!   deletions only in the replicas that hold them, and that is told as a failure.
//! - **A bad replica**: the owner of a bucket can always stop deletions in that bucket. In others,
//!   he can stop them only by listing what he does not return, or what is too long to be held here.
//!   While his replica is not doubted, the signed snapshots that it shows count for retention: one
//!   that it alone has, and withholds later, may have let another go elsewhere. But the newest
//!   complete one of each replica stays. While it is doubted, snapshots that it alone shows do not
//!   count for retention, but what signed ones refer to stays in every replica.
//! - **The future**: a snapshot whose capture lies in the future stays. It counts for no retention
//!   rule, and is never the newest one: under a wrong clock, it would let others go.

mod execute;
mod unreferenced;
mod view;

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use lifeboat_base::Result;
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::Manifest;
use lifeboat_store::SharedReplica;

use self::view::View;
pub(crate) use self::view::{PrunedSnapshots, prune_records};
use crate::catalog::documents::Documents;
use crate::catalog::future::is_future;
use crate::catalog::unbelieved::Unbelieved;
use crate::config::{Config, Dataset};
use crate::keys::HostKeys;
pub use crate::renewal::sparse::Space;
use crate::renewal::sparse::{self, Packs};
use crate::state::StateDirectory;

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
    /// # Errors No replica can be listed, every one has something that cannot be read, or the state
    /// directory fails.
    pub async fn plan(&self) -> Result<PrunePlan> {
        let view = self.look().await?;
        let now = self.clock.now();
        let (shown, elsewhere): (Vec<&Manifest>, Vec<&Manifest>) =
            view.manifests.values().partition(|manifest| view.shown.contains(&manifest.snapshot));
        let (future, past): (Vec<&Manifest>, Vec<&Manifest>) =
            shown.into_iter().partition(|manifest| is_future(manifest.started, now));
        let times: Vec<DateTime<Utc>> = past.iter().map(|manifest| manifest.started).collect();
        let reasons = super::retention::reasons_as_made(&times, &self.dataset.retention, now);
        let because = |why: &'static str| move |manifest| (manifest, vec![why.to_owned()]);
        let of_future = future.into_iter().map(because("its time lies in the future"));
        let of_others = elsewhere.into_iter().map(because("only replicas that are left alone show it"));
        let mut verdicts: Vec<Verdict> = past
            .iter()
            .copied()
            .zip(reasons)
            .chain(of_future)
            .chain(of_others)
            .map(|(manifest, keep_because)| Verdict { snapshot: manifest.snapshot.clone(), keep_because })
            .collect();
        protect(&view, &past, &mut verdicts);
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
        let documents = Documents {
            vault: &self.keys.vault,
            dataset,
            keys: &reader,
            cache: Some(&view.cache),
            memory: self.config.limits.memory,
        };
        let going: HashSet<(&Name, &str)> = plan.packs.iter().map(|pack| (&pack.replica, pack.key.as_str())).collect();
        let removed: HashSet<&SnapshotId> = plan.removed().collect();
        let mut segments = Vec::new();
        for inventory in &view.inventories {
            let replica = inventory.replica.name();
            let mut unreadable = Unbelieved::new("an index segment that cannot be read");
            for snapshot in &inventory.indexes {
                if view.manifests.contains_key(snapshot) && !removed.contains(snapshot) {
                    continue;
                }
                if unreadable.leaves_aside([replica]) {
                    break;
                }
                let segment = match documents.index(std::slice::from_ref(&inventory.replica), snapshot).await {
                    Ok(segment) => segment,
                    Err(error) => {
                        unreadable.add([replica], snapshot, &error);
                        continue;
                    }
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
            unreadable.log("it is not removed");
        }
        plan.segments = segments;
    }
}

/// Adds the reasons that hold whatever the retention rules are. `past` is what replicas show from
/// which something may go, oldest first, without what lies in the future. One that lacks a database
/// is no reason for another to go.
fn protect(view: &View, past: &[&Manifest], verdicts: &mut [Verdict]) {
    let mut keep = |snapshot: Option<&SnapshotId>, because: String| {
        if let Some(verdict) = verdicts.iter_mut().find(|verdict| Some(&verdict.snapshot) == snapshot) {
            verdict.keep_because.push(because);
        }
    };
    let mut keep_newest = |fits: &dyn Fn(&Manifest) -> bool, because: &str| {
        let mut fitting = past.iter().rev().filter(|manifest| fits(manifest));
        let Some(newest) = fitting.next() else { return };
        keep(Some(&newest.snapshot), because.to_owned());
        if !newest.source.skipped.is_empty() {
            let whole = fitting.find(|manifest| manifest.source.skipped.is_empty());
            keep(whole.map(|manifest| &manifest.snapshot), format!("{because} that lacks no database"));
        }
    };
    keep_newest(&|_| true, "the newest");
    for inventory in &view.inventories {
        let because = format!("the newest complete one in {}", inventory.replica.name());
        keep_newest(&|manifest| inventory.is_complete(manifest), &because);
    }
    keep(view.proved.as_ref(), "the newest proved one".to_owned());
    keep(view.proved_whole.as_ref(), "the newest proved one that lacks no database".to_owned());
}
