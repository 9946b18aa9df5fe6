//! Selects the snapshot that is meant: by id, the newest, or the newest of a time.
//!
//! Whoever owns one bucket can put anything there, so what nobody signed is left aside. But a
//! replica that fails to return what it shows may hold the newest snapshot. An older one is never
//! selected in its place: that fails aloud.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;

use super::reader::{FoundSettled, Listed, Shown, VaultReader};
use crate::catalog::clocks::CROWDED;
use crate::catalog::first_seen::FalseClaim;
use crate::catalog::future::is_future;
use crate::catalog::taken::TakenTimes;
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::{Signed, combine};

/// Says which snapshot is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The newest snapshot.
    Latest,
    /// The snapshot with this id.
    Id(SnapshotId),
    /// The only snapshot whose id begins with this.
    Beginning(String),
    /// The newest snapshot that was taken at or before this time.
    At(DateTime<Utc>),
}

impl VaultReader {
    /// The snapshot that `selector` means at the time `now`.
    ///
    /// For [`Selector::At`], one is left aside that claims to be older than it was when a store or
    /// a witness first saw it. For [`Selector::Latest`] and [`Selector::At`], a snapshot is left
    /// aside with a warning if its time lies in the future ([`is_future`]), or if only some
    /// replicas show it and no replica returns it signed. One that every replica shows is selected
    /// even so, and then fails aloud. A replica that shows too many of the former is left aside.
    ///
    /// # Errors
    /// [`Class::Usage`](lifeboat_base::Class::Usage) if there is none. No replica can be listed. Or
    /// a snapshot that may be the one that is meant cannot be fetched, or is from the future by its
    /// id and its manifest cannot be read. Or a record cannot be fetched that may settle times.
    pub async fn select(&self, dataset: &Name, selector: &Selector, now: DateTime<Utc>) -> Result<SnapshotId> {
        let mut unbelieved = Unbelieved::new("a snapshot that no replica returns signed");
        let selected = self.select_believed(dataset, selector, now, &mut unbelieved).await;
        unbelieved.log("it is left aside");
        selected
    }

    /// The first snapshot of what `order` makes of the kept ones, which it gets oldest first. As
    /// for [`Selector::Latest`], those of the future are left aside, and those that only some
    /// replicas show and none returns signed.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub async fn select_first(
        &self,
        dataset: &Name,
        now: DateTime<Utc>,
        order: impl FnOnce(&[SnapshotId]) -> Vec<SnapshotId>,
    ) -> Result<SnapshotId> {
        let shown = self.shown(dataset).await?;
        let is_future = |listed: &&Listed| is_future(listed.snapshot.time(), now, self.limits());
        let kept: BTreeMap<&SnapshotId, &Listed> = shown
            .snapshots
            .iter()
            .filter(|listed| !is_future(listed))
            .map(|listed| (&listed.snapshot, listed))
            .collect();
        let ids: Vec<SnapshotId> = kept.keys().map(|id| (*id).clone()).collect();
        let mut unbelieved = Unbelieved::new("a snapshot that no replica returns signed");
        let mut found = None;
        for id in order(&ids) {
            let Some(listed) = kept.get(&id).filter(|listed| !unbelieved.leaves_aside(&listed.replicas)) else {
                continue;
            };
            match self.unsigned(dataset, listed, &shown).await? {
                Some(error) => unbelieved.add(&listed.replicas, &id, &error),
                None => {
                    found = Some(id);
                    break;
                }
            }
        }
        unbelieved.log("it is left aside");
        found.ok_or_else(|| {
            Error::usage(format!("dataset {dataset} has no snapshot"))
                .hint(format!("run `lifeboat list {dataset}` to see its snapshots"))
        })
    }

    async fn select_believed(
        &self,
        dataset: &Name,
        selector: &Selector,
        now: DateTime<Utc>,
        unbelieved: &mut Unbelieved,
    ) -> Result<SnapshotId> {
        // All at once, because a replica may be far away. The keys are needed to read what is
        // selected.
        let settled = async {
            match selector {
                Selector::Id(_) | Selector::Beginning(_) => None,
                Selector::Latest | Selector::At(_) => Some(self.find_settled(dataset).await),
            }
        };
        let (shown, settled, _) = futures::join!(self.shown(dataset), settled, self.document_keys(dataset));
        let shown = shown?;
        let none = |what: String| {
            Error::usage(format!("dataset {dataset} has no {what}"))
                .hint(format!("run `lifeboat list {dataset}` to see its snapshots"))
        };
        let (until, what) = match selector {
            Selector::Id(id) => {
                let found = shown.snapshots.into_iter().map(|listed| listed.snapshot).find(|snapshot| snapshot == id);
                return found.ok_or_else(|| none(format!("snapshot {id}")));
            }
            Selector::Beginning(beginning) => {
                let ids = shown.snapshots.into_iter().map(|listed| listed.snapshot);
                let fit: Vec<SnapshotId> = ids.filter(|id| id.as_str().starts_with(beginning)).collect();
                return match fit.as_slice() {
                    [only] => Ok(only.clone()),
                    [] => Err(none(format!("snapshot whose id begins with {beginning}"))),
                    [first, .., last] => Err(Error::usage(format!(
                        "{} snapshots of dataset {dataset} begin with {beginning}, from {first} to {last}",
                        fit.len()
                    ))
                    .hint("give more of the id")),
                };
            }
            Selector::Latest => (DateTime::<Utc>::MAX_UTC, "snapshot".to_owned()),
            Selector::At(time) => (*time, format!("snapshot from {} or before", time.format("%Y-%m-%d %H:%M:%S UTC"))),
        };
        let named: Vec<DateTime<Utc>> = shown.snapshots.iter().map(|listed| listed.snapshot.time()).collect();
        let is_crowded = |at: usize| {
            let is_close = |pair: &[DateTime<Utc>]| pair[1].signed_duration_since(pair[0]) < CROWDED;
            named[at.saturating_sub(1)..named.len().min(at + 2)].windows(2).any(is_close)
        };
        let Some(settled) = settled else { return Err(none(what)) };
        let FoundSettled { times: settled, unread } = settled?;
        if let Some((record, error)) = unread {
            return Err(unsettled(dataset, &record, error));
        }
        let (mut taken, mut backdated) = (None, 0);
        for (at, listed) in shown.snapshots.iter().enumerate().rev() {
            let snapshot = &listed.snapshot;
            // After a backup under a wrong clock, the ids of later ones follow its false time
            // closely. Their manifests tell the true time. Later snapshots come first here, so one
            // with a false time is found by no time at which a later one was there.
            let from_future = is_future(snapshot.time(), now, self.limits());
            let is_settled = settled.names(snapshot);
            let is_doubtful = from_future || is_settled || is_crowded(at);
            if !is_doubtful && snapshot.time() > until {
                continue;
            }
            if unbelieved.leaves_aside(&listed.replicas) {
                continue;
            }
            if let Some(error) = self.unsigned(dataset, listed, &shown).await? {
                unbelieved.add(&listed.replicas, snapshot, &error);
                continue;
            }
            if is_doubtful {
                let started = match self.manifest(dataset, snapshot).await {
                    Ok(manifest) => manifest.started,
                    Err(error) if from_future => return Err(undecided(dataset, snapshot, error)),
                    // Reading it tells why.
                    Err(_) => snapshot.time(),
                };
                if is_settled && taken.is_none() {
                    taken = Some(self.taken_times(dataset, &shown.snapshots, &settled).await);
                }
                let started = taken.as_ref().map_or(started, |taken| taken.of(snapshot, started).time);
                if is_future(started, now, self.limits()) {
                    tracing::warn!(%snapshot, "Leaving aside a snapshot: its time lies in the future");
                    continue;
                }
                if started > until {
                    continue;
                }
            }
            if matches!(selector, Selector::At(_)) && self.is_backdated(dataset, listed, taken.as_ref()).await {
                backdated += 1;
                continue;
            }
            return Ok(snapshot.clone());
        }
        match backdated {
            0 => Err(none(what)),
            count => Err(none(what).because(format!("{count} of them are backdated")).hint(format!(
                "`lifeboat list {dataset}` shows them, and when each was first seen; whoever knows better names one with --snapshot"
            ))),
        }
    }

    /// Whether a snapshot claims to be older than it was when a store or a witness first saw it.
    /// One that cannot be read is not: whoever reads it is told why.
    async fn is_backdated(&self, dataset: &Name, listed: &Listed, taken: Option<&TakenTimes>) -> bool {
        let settled = taken.and_then(|taken| taken.settled_time(&listed.snapshot));
        match self.contradicted(dataset, listed, settled).await {
            Ok(Some(found)) if found.claim == FalseClaim::Backdated => {
                let (snapshot, seen) = (&listed.snapshot, found.seen);
                tracing::warn!(%snapshot, %seen, "Leaving aside a snapshot: it claims to be older than it was when it was first seen");
                true
            }
            _ => false,
        }
    }

    /// Why a snapshot is nobody's; `None` if every replica shows it, or one returns it signed.
    ///
    /// # Errors
    /// It cannot be decided, because a replica that may hold it fails.
    async fn unsigned(&self, dataset: &Name, listed: &Listed, shown: &Shown) -> Result<Option<Error>> {
        if listed.replicas.len() >= self.replicas().len() {
            return Ok(None);
        }
        let (snapshot, documents) = (&listed.snapshot, self.documents(dataset, self.keys()));
        // Others were listed and do not show it. If one of them has it even so, it counts.
        let (may_hold, others): (Vec<_>, Vec<_>) = self.replicas().iter().partition(|replica| {
            let name = replica.name();
            listed.replicas.contains(name) || shown.unlisted.contains(name)
        });
        let Err(refused) = documents.find_signed(may_hold.into_iter(), snapshot).await else { return Ok(None) };
        if documents.find_signed(others.into_iter(), snapshot).await.is_ok() {
            return Ok(None);
        }
        let what = format!("no replica returns {} signed", layout::manifest(dataset, snapshot));
        let (unknown, unsigned): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|(signed, _)| *signed >= Signed::Unknown);
        let combined = |errors: Vec<(Signed, Error)>| {
            let errors: Vec<Error> = errors.into_iter().map(|(_, error)| error).collect();
            combine(what, &errors)
        };
        if unknown.is_empty() {
            return Ok(Some(combined(unsigned)));
        }
        Err(undecided(dataset, snapshot, combined(unknown)))
    }
}

/// An older snapshot must not take the place of this one in silence.
fn undecided(dataset: &Name, snapshot: &SnapshotId, error: Error) -> Error {
    let what = format!("snapshot {snapshot} of dataset {dataset} may be the one that is meant, and cannot be read");
    with_a_way_on(dataset, error.within(what))
}

/// Nor must it do so because a settled time is not known.
fn unsettled(dataset: &Name, record: &SnapshotId, error: Error) -> Error {
    let key = layout::prune(dataset, record);
    with_a_way_on(dataset, error.within(format!("{key} may tell when snapshots were taken, and cannot be read")))
}

/// Names a snapshot as the way on.
fn with_a_way_on(dataset: &Name, error: Error) -> Error {
    let hint = error.hint_text().map_or_else(
        || {
            format!(
                "try again, read one other replica with --replica, or run `lifeboat list {dataset}` and name a snapshot with --snapshot"
            )
        },
        |hint| format!("{hint}; or name a snapshot with --snapshot"),
    );
    error.hint(hint)
}
