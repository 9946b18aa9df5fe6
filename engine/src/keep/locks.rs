//! Extends the locks of what snapshots need that stay, in replicas with `lock`.
//!
//! - **A round** goes through all objects of a dataset once, at half of the period of the lock, and
//!   locks for the whole period again what is needed. What is written later is locked for as long
//!   from then on. So at any time half a period is left of each lock, less the time that a round
//!   takes and is late.
//! - **What is needed** is all but the packs, manifests and index segments that prune lets go. If
//!   prune is stopped, all is needed: whoever stops prune must not end locks.
//! - **Progress** is kept in the state directory, part by part (`scrub/folders.rs`). If it is lost,
//!   a round begins anew.
//! - **Bounds**: one page of a listing, and sixteen objects at once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_store::{Listing, Lock, ObjectMeta, SharedReplica};
use serde::{Deserialize, Serialize};

use super::prune::Prune;
use super::scrub::folders::{PARTS, prefix};
use crate::state::replace_or_forget;

/// So many locks are extended at once.
const EXTENDED_AT_ONCE: usize = 16;
const LOCKS_FILE: &str = "locks";

/// How a replica stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockStanding {
    /// The period of the lock, in seconds.
    pub period: u64,
    /// When the last whole round began.
    pub last: Option<DateTime<Utc>>,
    /// When the round under way began, and the next part of it.
    under_way: Option<(DateTime<Utc>, usize)>,
    /// How many locks were extended so far.
    pub extended: u64,
}

impl LockStanding {
    fn share(&self, numerator: u64, denominator: u64) -> TimeDelta {
        let seconds = (self.period / denominator).saturating_mul(numerator);
        TimeDelta::from_std(Duration::from_secs(seconds)).unwrap_or(TimeDelta::MAX)
    }

    /// Until when everything that is needed is locked, if nothing more is done.
    #[must_use]
    pub fn locked_until(&self) -> Option<DateTime<Utc>> {
        self.last?.checked_add_signed(self.share(1, 1))
    }

    /// Whether a round should have ended.
    #[must_use]
    pub fn is_late(&self, now: DateTime<Utc>) -> bool {
        self.last.is_none_or(|last| now - last > self.share(9, 16))
    }

    fn is_due(&self, now: DateTime<Utc>) -> bool {
        // A clock that was wrong must not put a round off.
        self.under_way.is_some() || self.last.is_none_or(|last| now - last >= self.share(1, 2) || last > now)
    }
}

/// How the replicas of a dataset stand.
pub type LockStandings = BTreeMap<Name, LockStanding>;

/// What is not needed.
#[derive(Default)]
struct Going {
    packs: HashSet<PackId>,
    snapshots: BTreeSet<SnapshotId>,
}

impl Going {
    fn needs(&self, dataset: &Name, key: &str) -> bool {
        let object = key.strip_suffix(&layout::signature("")).unwrap_or(key);
        if let Some(pack) = layout::parse_pack(dataset, object) {
            return !self.packs.contains(&pack);
        }
        let snapshot = layout::parse_manifest(dataset, object).or_else(|| layout::parse_index(dataset, object));
        snapshot.is_none_or(|snapshot| !self.snapshots.contains(&snapshot))
    }
}

/// How the replicas with `lock` stand, as far as this host remembers.
///
/// # Errors
/// The state directory fails.
pub fn standings(prune: &Prune<'_>) -> Result<LockStandings> {
    let path = prune.state.dataset(&prune.dataset.name)?.join(LOCKS_FILE);
    let text = std::fs::read(path).ok();
    let mut known: LockStandings = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let locked = prune.replicas.iter().filter_map(|replica| Some((replica.name().clone(), replica.lock()?)));
    Ok(locked
        .map(|(name, Lock { period, .. })| {
            let period = period.as_secs();
            let mut standing = known.remove(&name).unwrap_or_default();
            if standing.period != period {
                // What was locked for another time is locked anew.
                standing = LockStanding { period, extended: standing.extended, ..LockStanding::default() };
            }
            (name, standing)
        })
        .collect())
}

/// Goes on with each round that is due. The caller need not hold the dataset's lock. It may be
/// dropped at any time.
///
/// # Errors
/// The first replica that fails, after all others were tried.
pub async fn extend(prune: &Prune<'_>) -> Result<LockStandings> {
    let mut standings = standings(prune)?;
    let now = prune.clock.now();
    if !standings.values().any(|standing| standing.is_due(now)) {
        return Ok(standings);
    }
    let going = going(prune).await;
    let mut failed = None;
    for replica in prune.replicas {
        if !standings.get(replica.name()).is_some_and(|standing| standing.is_due(now)) {
            continue;
        }
        let round = round(prune, replica, &going, &mut standings).await;
        failed = failed.or(round.err());
    }
    failed.map_or(Ok(standings), Err)
}

async fn going(prune: &Prune<'_>) -> Going {
    match prune.plan().await {
        Ok(plan) => {
            let going = plan.verdicts.iter().filter(|verdict| verdict.goes_at.is_some());
            let packs = plan.packs.iter().chain(&plan.waiting);
            Going {
                packs: packs.filter_map(|pack| layout::parse_pack(&plan.dataset, &pack.key)).collect(),
                snapshots: going.map(|verdict| verdict.snapshot.clone()).collect(),
            }
        }
        Err(error) => {
            tracing::warn!(dataset = %prune.dataset.name, "Extending every lock, as it is not known what is needed: {}", error.chain());
            Going::default()
        }
    }
}

async fn round(prune: &Prune<'_>, replica: &SharedReplica, going: &Going, standings: &mut LockStandings) -> Result<()> {
    let (dataset, name) = (&prune.dataset.name, replica.name());
    let is_first = prune.config.datasets.first().is_some_and(|first| first.name == *dataset);
    let Some(mut standing) = standings.get(name).cloned() else { return Ok(()) };
    let (began, from) = standing.under_way.unwrap_or((prune.clock.now(), 0));
    for part in from..=PARTS {
        if part == PARTS {
            if is_first {
                lock(prune, replica, &standing, layout::VAULT).await?;
            }
        } else if let Some(prefix) = prefix(dataset, part, is_first) {
            let mut listing = Listing::new(&prefix);
            while let Some(objects) = replica.next_page(&mut listing).await? {
                let wanted = |object: &ObjectMeta| going.needs(dataset, &object.key);
                let wanted = objects.into_iter().filter(wanted).map(|object| object.key);
                let extended = futures::stream::iter(wanted)
                    .map(|key| async { lock(prune, replica, &standing, &{ key }).await })
                    .buffer_unordered(EXTENDED_AT_ONCE)
                    .try_fold(0, async |count, ()| Ok(count + 1))
                    .await?;
                standing.extended += extended;
            }
        }
        standing.under_way = Some((began, part + 1));
        if part == PARTS {
            (standing.last, standing.under_way) = (Some(began), None);
        }
        standings.insert(name.clone(), standing.clone());
        write(prune, standings)?;
    }
    tracing::info!(%dataset, replica = %name, "The locks of what is needed were extended");
    Ok(())
}

/// Locks an object for the whole period. One that is gone meanwhile needs no lock.
async fn lock(prune: &Prune<'_>, replica: &SharedReplica, standing: &LockStanding, key: &str) -> Result<()> {
    let until = prune.clock.now() + standing.share(1, 1);
    match replica.lock_until(key, until).await {
        Err(error) if error.is_not_found() => Ok(()),
        locked => Ok(locked?),
    }
}

fn write(prune: &Prune<'_>, standings: &LockStandings) -> Result<()> {
    let text = serde_json::to_vec(standings).context(Class::Failed, || "cannot serialise how locks stand")?;
    replace_or_forget(&prune.state.dataset(&prune.dataset.name)?.join(LOCKS_FILE), &text)
}
