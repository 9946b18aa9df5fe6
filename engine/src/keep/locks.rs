//! Extends the locks of what snapshots need that stay, in replicas with `lock`.
//!
//! - **A round** goes through all objects of a dataset once, at half of the period of the lock, and
//!   locks for the whole period again what is needed. What is written later is locked for as long
//!   from then on. So at any time half a period is left of each lock, less the time that a round
//!   takes and is late.
//! - **What is kept for longer is locked for longer**: until retention can let it go at the
//!   earliest (`prune/at_least.rs`), and no longer than `lock_at_most` says. If prune is stopped,
//!   nobody knows, and what is locked already stays locked. Such a round counts for the period
//!   alone. So there is another one once it is known, and until then long locks are late.
//! - **What is needed** is all but the packs, snapshots and what goes with them that prune lets go
//!   (`prune/going.rs`). If prune is stopped, all is needed: whoever stops prune must not end
//!   locks.
//! - **One that cannot be locked** for long is locked for the period, and one that cannot be locked
//!   at all is passed over. Then the round does not count, and begins anew.
//!   Nor does it count while the replica lacks `vault.json`, or the newest act or manifest that
//!   this host knows, or while a snapshot is lost everywhere: then somebody has deleted, and nobody
//!   knows what else was not there to be locked.
//! - **What belongs to no dataset** is locked with each dataset.
//! - **Progress** is kept in the state directory, part by part (`scrub/folders.rs`). If it is lost,
//!   a round begins anew.
//! - **Bounds**: one page of a listing, and sixteen objects at once.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_store::{Listing, Lock, LockMode, ReplicaError, SharedReplica};
use serde::{Deserialize, Serialize};

use super::gaps::Gap;
use super::prune::{Goes, Memory, Prune};
use super::scrub::folders::{LOCK_PARTS, lock_prefix};
use crate::config::{Config, ReplicaConfig, ReplicaKind};
use crate::state::{self, replace_or_forget, seen};

/// So many locks are extended at once.
const EXTENDED_AT_ONCE: usize = 16;
const LOCKS_FILE: &str = "locks";
/// The daemon writes it.
const STATUS_FILE: &str = "status.json";

/// How a replica stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockStanding {
    /// The period of the lock, in seconds.
    pub period: u64,
    /// Whether nobody can end the locks early.
    #[serde(default)]
    pub is_compliance: bool,
    /// What is kept for longer than the period is locked for no longer than this, in seconds; 0 or
    /// the period: for the period, too.
    #[serde(default)]
    pub at_most: u64,
    /// When the last whole round began.
    pub last: Option<DateTime<Utc>>,
    /// When the last whole round began that knew what is kept for longer than the period.
    #[serde(default)]
    last_long: Option<DateTime<Utc>>,
    /// Whether it was not known in a part of the round under way.
    #[serde(default)]
    is_in_doubt: bool,
    /// When the round under way began, and the next part of it.
    under_way: Option<(DateTime<Utc>, usize)>,
    /// How many objects could not be locked in the round under way.
    #[serde(default)]
    refused: u64,
    /// How many locks were extended so far.
    pub extended: u64,
}

impl LockStanding {
    /// Whether it is of locks like this one.
    fn is_of(&self, lock: Lock) -> bool {
        let own = (self.period, self.at_most.max(self.period), self.is_compliance);
        own == (lock.period.as_secs(), lock.at_most.as_secs(), lock.mode == LockMode::Compliance)
    }

    /// As it stands before the first lock. What was locked otherwise is locked anew.
    fn new(lock: Lock, extended: u64) -> Self {
        let (period, at_most) = (lock.period.as_secs(), lock.at_most.as_secs());
        Self { period, at_most, is_compliance: lock.mode == LockMode::Compliance, extended, ..Self::default() }
    }

    /// As somebody else tells it: its period in seconds, and when the last whole round began.
    pub(super) fn told(period: u64, last: Option<DateTime<Utc>>) -> Self {
        Self { period, last, ..Self::default() }
    }

    fn share(&self, numerator: u64, denominator: u64) -> TimeDelta {
        seconds((self.period / denominator).saturating_mul(numerator))
    }

    /// Until when an object is to be locked that is kept at least until `kept`.
    fn end(&self, now: DateTime<Utc>, kept: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let after = |period| now.checked_add_signed(period).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let least = after(self.share(1, 1));
        kept.map_or(least, |kept| kept.min(after(seconds(self.at_most))).max(least))
    }

    /// Since when all is locked as the configuration says, also what is kept for longer.
    #[must_use]
    pub fn since(&self) -> Option<DateTime<Utc>> {
        if self.at_most > self.period { self.last_long } else { self.last }
    }

    /// Until when everything that is needed is locked, if nothing more is done; what is kept for
    /// longer may be for longer.
    #[must_use]
    pub fn locked_until(&self) -> Option<DateTime<Utc>> {
        self.last?.checked_add_signed(self.share(1, 1))
    }

    /// Whether a round should have ended.
    #[must_use]
    pub fn is_late(&self, now: DateTime<Utc>) -> bool {
        self.since().is_none_or(|since| now - since > self.share(9, 16))
    }

    /// Whether a round is due, where it `is_known` what is kept for longer, or not.
    fn is_due(&self, now: DateTime<Utc>, is_known: bool) -> bool {
        let last = if is_known { self.since() } else { self.last };
        // A clock that was wrong must not put a round off.
        self.under_way.is_some() || last.is_none_or(|last| now - last >= self.share(1, 2) || last > now)
    }
}

fn seconds(seconds: u64) -> TimeDelta {
    TimeDelta::from_std(Duration::from_secs(seconds)).unwrap_or(TimeDelta::MAX)
}

/// How the replicas of a dataset stand.
pub type LockStandings = BTreeMap<Name, LockStanding>;

/// What is not needed.
#[derive(Default)]
struct Going {
    goes: Goes,
    /// What is missing everywhere and in no record, if something is.
    lost: Option<String>,
    /// Whether prune knows what goes, and what is kept for how long.
    is_known: bool,
}

/// An object that is needed.
struct LockedObject {
    key: String,
    /// Until when it is kept at least, if that is known.
    kept: Option<DateTime<Utc>>,
}

impl Going {
    /// `None`: it is not needed.
    fn needs(&self, replica: &Name, dataset: &Name, key: &str) -> Option<LockedObject> {
        let Goes { packs, snapshots, kept, .. } = &self.goes;
        let object = key.strip_suffix(&layout::signature("")).unwrap_or(key);
        let snapshot = || {
            layout::parse_manifest(dataset, object)
                .or_else(|| layout::parse_index(dataset, object))
                .or_else(|| layout::parse_needs(dataset, object))
        };
        let opens = |object: &str| {
            object == layout::VAULT || object.starts_with(layout::KEYRING) || object.starts_with(layout::ROOTS)
        };
        let (goes, kept) = if let Some(pack) = layout::parse_pack(dataset, object) {
            (packs.get(replica).is_some_and(|packs| packs.contains(&pack)), kept.packs.get(&pack).copied())
        } else if let Some(snapshot) = snapshot() {
            (snapshots.contains(&snapshot), kept.snapshots.get(&snapshot).copied())
        } else {
            (false, kept.longest.filter(|_| opens(object)))
        };
        (!goes).then(|| LockedObject { key: key.to_owned(), kept })
    }
}

/// How the replicas with `lock` stand, as far as this host remembers.
///
/// # Errors
/// The state directory fails.
pub fn standings(prune: &Prune<'_>) -> Result<LockStandings> {
    if prune.keys.only_marks() {
        // The warden extends them.
        return Ok(LockStandings::new());
    }
    let mut known = read(&prune.state.dataset(&prune.dataset.name)?).unwrap_or_default();
    let locked = prune.replicas.iter().filter_map(|replica| Some((replica.name().clone(), replica.lock()?)));
    Ok(locked
        .map(|(name, lock)| {
            let standing = known.remove(&name).unwrap_or_default();
            let standing = if standing.is_of(lock) { standing } else { LockStanding::new(lock, standing.extended) };
            (name, standing)
        })
        .collect())
}

/// Whether all that is needed is locked now as the configuration says, by replica, as far as this
/// host remembers of the datasets that it leads. Replicas without `lock` are left out, and all are
/// if it leads none. It needs no keys.
#[must_use]
pub fn are_set(config: &Config, now: DateTime<Utc>) -> BTreeMap<Name, bool> {
    let folders = config.datasets.iter().map(|dataset| state::folder_of(&config.state_directory, &dataset.name));
    let standings: Vec<LockStandings> =
        folders.filter(|folder| !is_led_elsewhere(folder)).map(|folder| read(&folder).unwrap_or_default()).collect();
    let is_set = |name: &Name, lock: Lock| {
        standings.iter().all(|all| {
            let standing = all.get(name).filter(|standing| standing.is_of(lock));
            let whole = standing.and_then(|standing| standing.since().and(standing.locked_until()));
            whole.is_some_and(|until| until > now)
        })
    };
    let locked = config.replicas.iter().filter(|_| !standings.is_empty()).filter_map(|replica| {
        let lock = lock_of(replica)?;
        Some((replica.name.clone(), is_set(&replica.name, lock)))
    });
    locked.collect()
}

fn lock_of(replica: &ReplicaConfig) -> Option<Lock> {
    match &replica.kind {
        ReplicaKind::S3(s3) => s3.lock,
        ReplicaKind::Directory { .. } => None,
    }
}

fn read(folder: &Path) -> Option<LockStandings> {
    serde_json::from_slice(&std::fs::read(folder.join(LOCKS_FILE)).ok()?).ok()
}

/// Whether the daemon has found that another host backs this dataset up.
fn is_led_elsewhere(folder: &Path) -> bool {
    #[derive(Deserialize)]
    struct Led {
        led_by: Option<Name>,
    }
    let status = std::fs::read(folder.join(STATUS_FILE)).ok();
    let status: Option<Led> = status.and_then(|text| serde_json::from_slice(&text).ok());
    status.is_some_and(|status| status.led_by.is_some())
}

/// Has all rounds begin anew, as objects were not there to be locked, and are again.
///
/// # Errors
/// The state directory fails.
pub fn begin_anew(config: &Config) -> Result<()> {
    for dataset in &config.datasets {
        let file = state::folder_of(&config.state_directory, &dataset.name).join(LOCKS_FILE);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::failed(format!("{}: cannot remove it", file.display()))
                    .because(error)
                    .hint("remove it, so that everything that came back is locked soon"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Goes on with each round that is due. Where `most_refused` objects of a replica could not be
/// locked, the next call goes on behind their part. The caller need not hold the dataset's lock. It
/// may be dropped at any time.
///
/// # Errors
/// The first replica that fails, after all others were tried.
pub async fn extend(prune: &Prune<'_>, most_refused: u64) -> Result<LockStandings> {
    let mut standings = standings(prune)?;
    let now = prune.clock.now();
    if !standings.values().any(|standing| standing.is_due(now, true)) {
        return Ok(standings);
    }
    let going = going(prune).await;
    let mut failed = None;
    for replica in prune.replicas {
        if !standings.get(replica.name()).is_some_and(|standing| standing.is_due(now, going.is_known)) {
            continue;
        }
        let round = round(prune, replica, &going, (&mut standings, most_refused)).await;
        failed = failed.or(round.err());
    }
    failed.map_or(Ok(standings), Err)
}

async fn going(prune: &Prune<'_>) -> Going {
    match prune.goes().await {
        Ok(goes) => Going { goes, lost: None, is_known: true },
        Err(error) => {
            tracing::warn!(dataset = %prune.dataset.name, "Extending every lock, as it is not known what is needed: {}", error.chain());
            let is_lost =
                prune.survey(Memory::Left).await.map_or(true, |survey| !survey.gaps.iter().all(Gap::is_unread));
            Going { lost: is_lost.then(|| error.chain()), ..Going::default() }
        }
    }
}

async fn round(
    prune: &Prune<'_>,
    replica: &SharedReplica,
    going: &Going,
    (standings, most_refused): (&mut LockStandings, u64),
) -> Result<()> {
    let (dataset, name) = (&prune.dataset.name, replica.name());
    let Some(mut standing) = standings.get(name).cloned() else { return Ok(()) };
    let (began, from) = standing.under_way.unwrap_or((prune.clock.now(), 0));
    let (before, mut first) = (standing.refused, None);
    let has_warden = prune.keys.trust.warden().is_some();
    standing.is_in_doubt |= !going.is_known;
    miss(prune, replica, going, &mut standing, &mut first).await?;
    for part in from..=LOCK_PARTS {
        if part == LOCK_PARTS {
            let vault = going.needs(name, dataset, layout::VAULT).into_iter().collect();
            lock_all(prune, replica, &mut standing, vault, &mut first).await?;
            miss(prune, replica, going, &mut standing, &mut first).await?;
        } else if let Some(prefix) = lock_prefix(dataset, part, has_warden) {
            let mut listing = Listing::new(&prefix);
            while let Some(objects) = replica.next_page(&mut listing).await? {
                let wanted = objects.iter().filter_map(|object| going.needs(name, dataset, &object.key)).collect();
                lock_all(prune, replica, &mut standing, wanted, &mut first).await?;
            }
        }
        standing.under_way = Some((began, part + 1));
        let refused = standing.refused - before;
        if part == LOCK_PARTS {
            standing.under_way = None;
            let is_in_doubt = std::mem::take(&mut standing.is_in_doubt);
            if std::mem::take(&mut standing.refused) == 0 {
                standing.last = Some(began);
                standing.last_long = standing.last.filter(|_| !is_in_doubt).or(standing.last_long);
            } else {
                let again = || Error::storage(format!("replica {name}: some objects could not be locked"));
                first.get_or_insert_with(again);
            }
        }
        standings.insert(name.clone(), standing.clone());
        write(prune, standings)?;
        if refused >= most_refused {
            break;
        }
    }
    if let Some(error) = first {
        return Err(error);
    }
    tracing::info!(%dataset, replica = %name, "The locks of what is needed were extended");
    Ok(())
}

/// Counts what should be there, and is not, as what could not be locked.
async fn miss(
    prune: &Prune<'_>,
    replica: &SharedReplica,
    going: &Going,
    standing: &mut LockStanding,
    first: &mut Option<Error>,
) -> Result<()> {
    let dataset = &prune.dataset.name;
    let act = Some(seen::read(prune.state, dataset)?).filter(|number| *number > 0);
    let act = act.map(|number| layout::act(dataset, number));
    let manifest = going.goes.newest.as_ref().map(|newest| layout::manifest(dataset, newest));
    let mut missing = going.lost.clone();
    for key in [Some(layout::VAULT.to_owned()), act, manifest].into_iter().flatten() {
        if replica.head(&key).await?.is_none() {
            missing.get_or_insert_with(|| format!("it lacks {key}"));
        }
    }
    if let Some(missing) = missing {
        standing.refused += 1;
        first.get_or_insert_with(|| {
            Error::storage(format!("the locks in replica {} do not count: {missing}", replica.name()))
                .hint(format!("run `lifeboat prune {dataset} --dry-run` to see what is missing or cannot be read; what somebody deleted comes back with `lifeboat undelete`"))
        });
    }
    Ok(())
}

/// Locks objects. One that the replica refuses to lock is counted, and the others are locked.
///
/// # Errors
/// The replica fails.
async fn lock_all(
    prune: &Prune<'_>,
    replica: &SharedReplica,
    standing: &mut LockStanding,
    needed: Vec<LockedObject>,
    first: &mut Option<Error>,
) -> Result<()> {
    let at = standing.clone();
    let locked = futures::stream::iter(needed).map(|needed| async { lock(prune, replica, &at, &{ needed }).await });
    let mut locked = std::pin::pin!(locked.buffer_unordered(EXTENDED_AT_ONCE));
    while let Some(locked) = locked.next().await {
        match locked {
            Ok(()) => standing.extended += 1,
            Err(NotLocked { error, .. }) if error.is_retryable() => return Err(error.into()),
            Err(NotLocked { error, longer }) => {
                standing.refused += 1;
                first.get_or_insert_with(|| match longer {
                    Some(wanted) => told_too_long(error, wanted, at.at_most),
                    None => error.into(),
                });
            }
        }
    }
    Ok(())
}

/// Why an object is not locked as it should be.
struct NotLocked {
    error: ReplicaError,
    /// The replica refused the longer lock, and took that for the period.
    longer: Option<TimeDelta>,
}

/// Locks an object for the whole period, or for as long as it is kept at least. If a replica
/// refuses the longer lock, it is locked for the period. One that is gone meanwhile needs no lock.
async fn lock(
    prune: &Prune<'_>,
    replica: &SharedReplica,
    standing: &LockStanding,
    needed: &LockedObject,
) -> Result<(), NotLocked> {
    let now = prune.clock.now();
    let (least, until) = (standing.end(now, None), standing.end(now, needed.kept));
    let refused = match replica.lock_until(&needed.key, until).await {
        Ok(()) => return Ok(()),
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => error,
    };
    if until == least || refused.is_retryable() {
        return Err(NotLocked { error: refused, longer: None });
    }
    match replica.lock_until(&needed.key, least).await {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(NotLocked { error, longer: None }),
        Ok(()) => Err(NotLocked { error: refused, longer: Some(until - now) }),
    }
}

/// What to do where a replica takes locks for the period, and none that is longer.
fn told_too_long(error: ReplicaError, wanted: TimeDelta, at_most: u64) -> Error {
    let days = seconds(at_most).num_days() + 1;
    let told = format!("it was to be locked for {} days, and is for `lock` alone", wanted.num_days());
    Error::from(error).within(told).hint(format!(
        "let the policy of the bucket's credentials allow `lock_at_most`: write {days} days or more for `s3:object-lock-remaining-retention-days`"
    ))
}

fn write(prune: &Prune<'_>, standings: &LockStandings) -> Result<()> {
    let text = serde_json::to_vec(standings).context(Class::Failed, || "cannot serialise how locks stand")?;
    replace_or_forget(&prune.state.dataset(&prune.dataset.name)?.join(LOCKS_FILE), &text)
}
