//! When a snapshot was taken. Its manifest says so; where a clock was wrong, the operator may have
//! settled another time. Whoever needs the time of a snapshot asks here.
//!
//! A settled time counts only if the snapshots beside it say that the manifest is wrong: its time
//! is not between those of the nearest snapshots before and after it by `sequence`, and the settled
//! one is. Snapshots whose own times were settled say nothing, nor do those that share their number
//! with others. So whoever settles times cannot move a snapshot past what the manifests of others
//! agree on.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::SnapshotId;
use lifeboat_format::manifest::Manifest;
use lifeboat_format::record::{PruneRecord, SettledTime};
use lifeboat_store::SharedReplica;

use super::documents::Documents;
use super::first_seen::{Contradicted, FalseClaim};
use super::outlines::Outline;

/// The clocks of hosts may differ by so much, so a smaller difference contradicts nothing.
pub(crate) const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(10);
/// So many manifests are tried, to find a neighbour that says something.
const MAX_NEIGHBOURS_TRIED: usize = 8;

/// When a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTime {
    /// The time that counts. Of one that is backdated, when it was first seen.
    pub time: DateTime<Utc>,
    /// What the manifest says instead, if another time counts.
    pub claimed: Option<DateTime<Utc>>,
    /// What stores or witnesses say against it.
    pub contradicted: Option<Contradicted>,
}

impl SnapshotTime {
    /// As its manifest tells.
    #[must_use]
    pub fn told(time: DateTime<Utc>) -> Self {
        Self { time, claimed: None, contradicted: None }
    }

    /// With what stores or witnesses say against it.
    #[must_use]
    pub fn against(self, contradicted: Contradicted) -> Self {
        let found = Self { contradicted: Some(contradicted), ..self };
        match contradicted.claim {
            FalseClaim::Backdated => {
                Self { time: contradicted.seen, claimed: Some(self.claimed.unwrap_or(self.time)), ..found }
            }
            FalseClaim::Postdated => found,
        }
    }

    /// Whether it claims to be older than it was when it was first seen.
    #[must_use]
    pub fn is_backdated(&self) -> bool {
        self.contradicted.is_some_and(|found| found.claim == FalseClaim::Backdated)
    }

    /// Whether it was there before the time that it claims.
    #[must_use]
    pub fn is_postdated(&self) -> bool {
        self.contradicted.is_some_and(|found| found.claim == FalseClaim::Postdated)
    }
}

/// What a manifest says of its place and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeClaim {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its number among the snapshots.
    pub sequence: u64,
    /// When its capture began, as it says.
    pub time: DateTime<Utc>,
}

impl From<&Manifest> for TimeClaim {
    fn from(manifest: &Manifest) -> Self {
        let Manifest { snapshot, sequence, started, .. } = manifest;
        Self { snapshot: snapshot.clone(), sequence: *sequence, time: *started }
    }
}

impl From<&Outline> for TimeClaim {
    fn from(outline: &Outline) -> Self {
        let Outline { snapshot, sequence, started, .. } = outline;
        Self { snapshot: snapshot.clone(), sequence: *sequence, time: *started }
    }
}

/// The times that believed prune records settle, whether they count or not.
#[derive(Debug, Clone, Default)]
pub struct SettledTimes(BTreeMap<SnapshotId, SettledTime>);

impl SettledTimes {
    /// What these records say, the oldest first: later ones count.
    pub(crate) fn of<'r>(records: impl Iterator<Item = &'r PruneRecord>) -> Self {
        let times = records.flat_map(|record| &record.times);
        Self(times.map(|settled| (settled.snapshot.clone(), settled.clone())).collect())
    }

    /// These, and `more`.
    pub(crate) fn with(&self, more: impl IntoIterator<Item = SettledTime>) -> Self {
        let mut all = self.0.clone();
        all.extend(more.into_iter().map(|settled| (settled.snapshot.clone(), settled)));
        Self(all)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SettledTime> {
        self.0.values()
    }

    /// Whether none is settled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn names(&self, snapshot: &SnapshotId) -> bool {
        self.0.contains_key(snapshot)
    }

    /// Those of them that count among these snapshots of one dataset.
    #[must_use]
    pub fn among(&self, claims: impl IntoIterator<Item = TimeClaim>) -> TakenTimes {
        let mut taken = TakenTimes::default();
        if self.0.is_empty() {
            return taken;
        }
        let claims: Vec<TimeClaim> = claims.into_iter().collect();
        let (sure, doubted): (Vec<&TimeClaim>, Vec<&TimeClaim>) = claims
            .iter()
            .partition(|claim| self.0.get(&claim.snapshot).is_none_or(|settled| settled.time == claim.time));
        let neighbours = Neighbours::of(&claims, sure.iter().copied());
        taken.confirmed.extend(sure.into_iter().map(|claim| &claim.snapshot).filter(|id| self.names(id)).cloned());
        for claim in doubted {
            let Some(settled) = self.0.get(&claim.snapshot) else { continue };
            let between = neighbours.around(claim.sequence, settled.settled);
            if !between.hold(claim.time) && between.hold(settled.time) {
                let counts = SnapshotTime { claimed: Some(claim.time), ..SnapshotTime::told(settled.time) };
                taken.settled.insert(claim.snapshot.clone(), counts);
            }
        }
        taken
    }
}

/// When the snapshots of a dataset were taken.
#[derive(Debug, Clone, Default)]
pub struct TakenTimes {
    /// Those whose manifests say something else.
    settled: BTreeMap<SnapshotId, SnapshotTime>,
    /// Those whose own times the operator has confirmed.
    confirmed: BTreeSet<SnapshotId>,
    /// Those whose times stores or witnesses contradict, settled or not.
    contradicted: BTreeMap<SnapshotId, Contradicted>,
}

impl TakenTimes {
    /// When this snapshot was taken.
    #[must_use]
    pub fn of(&self, snapshot: &SnapshotId, claimed: DateTime<Utc>) -> SnapshotTime {
        let taken = self.settled.get(snapshot).copied().unwrap_or_else(|| SnapshotTime::told(claimed));
        self.contradicted.get(snapshot).map_or(taken, |found| taken.against(*found))
    }

    /// These, with what stores or witnesses say against them.
    pub(crate) fn against(self, contradicted: BTreeMap<SnapshotId, Contradicted>) -> Self {
        Self { contradicted, ..self }
    }

    /// Whether it was there before the time that it claims.
    pub(crate) fn is_postdated(&self, snapshot: &SnapshotId) -> bool {
        self.contradicted.get(snapshot).is_some_and(|found| found.claim == FalseClaim::Postdated)
    }

    /// The time that counts.
    pub(crate) fn time(&self, outline: &Outline) -> DateTime<Utc> {
        self.of(&outline.snapshot, outline.started).time
    }

    /// Whether an operator vouches for the time of this snapshot.
    pub(crate) fn is_vouched_for(&self, snapshot: &SnapshotId) -> bool {
        self.settled.contains_key(snapshot) || self.confirmed.contains(snapshot)
    }

    /// The time that was settled, if it counts.
    pub(crate) fn settled_time(&self, snapshot: &SnapshotId) -> Option<DateTime<Utc>> {
        self.settled.get(snapshot).map(|settled| settled.time)
    }

    /// Whether another time than the manifest's counts.
    pub(crate) fn is_settled(&self, snapshot: &SnapshotId) -> bool {
        self.settled.contains_key(snapshot)
    }
}

/// The times of snapshots by their numbers, of those that have a number of their own.
pub(crate) struct Neighbours(BTreeMap<u64, DateTime<Utc>>);

impl Neighbours {
    /// `sure` are those of `all` that say something.
    pub(crate) fn of<'c>(all: &[TimeClaim], sure: impl IntoIterator<Item = &'c TimeClaim>) -> Self {
        let mut holders: BTreeMap<u64, usize> = BTreeMap::new();
        for claim in all {
            *holders.entry(claim.sequence).or_default() += 1;
        }
        // Format 1 has no numbers.
        let is_alone = |claim: &&TimeClaim| claim.sequence > 0 && holders.get(&claim.sequence) == Some(&1);
        Self(sure.into_iter().filter(is_alone).map(|claim| (claim.sequence, claim.time)).collect())
    }

    /// Whether the snapshot with this number is among them.
    pub(crate) fn has(&self, sequence: u64) -> bool {
        self.0.contains_key(&sequence)
    }

    /// The numbers and times, in order.
    pub(crate) fn times(&self) -> impl Iterator<Item = (u64, DateTime<Utc>)> {
        self.0.iter().map(|(sequence, time)| (*sequence, *time))
    }

    /// The times of the nearest before and after this number; `newest` is no earlier than the last.
    pub(crate) fn around(&self, sequence: u64, newest: DateTime<Utc>) -> Between {
        Between {
            first: self.0.range(..sequence).next_back().map(|(_, time)| *time),
            last: self.0.range(sequence.saturating_add(1)..).next().map_or(newest, |(_, time)| *time),
        }
    }
}

/// Where a time must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Between {
    /// `None`: nothing is before.
    pub(crate) first: Option<DateTime<Utc>>,
    pub(crate) last: DateTime<Utc>,
}

impl Between {
    /// Whether a time is here, as far as clocks agree.
    pub(crate) fn hold(&self, time: DateTime<Utc>) -> bool {
        self.first.is_none_or(|first| first.signed_duration_since(time) <= CLOCKS_DIFFER)
            && time.signed_duration_since(self.last) <= CLOCKS_DIFFER
    }
}

impl Documents<'_> {
    /// When the snapshots were taken of which records settle times. Only their manifests and those
    /// beside them are read; `shown` are all snapshots, oldest first.
    pub(crate) async fn taken_times(
        &self,
        replicas: &[SharedReplica],
        shown: &[SnapshotId],
        settled: &SettledTimes,
    ) -> TakenTimes {
        let mut claims: BTreeMap<&SnapshotId, Option<TimeClaim>> = BTreeMap::new();
        for (at, snapshot) in shown.iter().enumerate().filter(|(_, snapshot)| settled.names(snapshot)) {
            let before = shown[..at].iter().rev().filter(|other| !settled.names(other));
            let after = shown[at + 1..].iter().filter(|other| !settled.names(other));
            let own = self.claim(replicas, snapshot, &mut claims).await;
            self.neighbour(replicas, own, before, &mut claims).await;
            self.neighbour(replicas, own, after, &mut claims).await;
        }
        settled.among(claims.into_values().flatten())
    }

    /// Reads the nearest of `snapshots` that can be read, until one of them says something: the
    /// snapshot `own` has another number, and so has the next one. Those that share a number stand
    /// beside each other, so what is not read is no witness against it.
    async fn neighbour<'s>(
        &self,
        replicas: &[SharedReplica],
        own: Option<u64>,
        snapshots: impl Iterator<Item = &'s SnapshotId>,
        claims: &mut BTreeMap<&'s SnapshotId, Option<TimeClaim>>,
    ) {
        let mut numbers = Vec::from_iter(own);
        for snapshot in snapshots.take(MAX_NEIGHBOURS_TRIED) {
            numbers.extend(self.claim(replicas, snapshot, claims).await);
            let is_alone = |number: &&u64| numbers.iter().filter(|other| other == number).count() == 1;
            let (_last, others) = numbers.split_last().unwrap_or((&0, &[]));
            // Format 1 has no numbers.
            if others.iter().filter(|number| **number > 0 && own != Some(**number)).any(|number| is_alone(&number)) {
                return;
            }
        }
    }

    /// Reads a manifest, and returns its number.
    async fn claim<'s>(
        &self,
        replicas: &[SharedReplica],
        snapshot: &'s SnapshotId,
        claims: &mut BTreeMap<&'s SnapshotId, Option<TimeClaim>>,
    ) -> Option<u64> {
        if !claims.contains_key(snapshot) {
            let read = self.look(replicas, snapshot, |manifest, _| Ok(TimeClaim::from(&manifest))).await;
            claims.insert(snapshot, read.ok());
        }
        claims.get(snapshot)?.as_ref().map(|claim| claim.sequence)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const BEGIN: i64 = 1_795_000_000;

    /// Hours since the beginning.
    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(BEGIN + hours * 3600, 0).unwrap()
    }

    fn id(number: usize) -> SnapshotId {
        SnapshotId::new(at(0), u32::try_from(number).unwrap())
    }

    /// The times that count, of snapshots with these numbers and hours. Settled: which one, the
    /// hour, and when.
    fn taken(claims: &[(u64, i64)], settled: &[(usize, i64, i64)]) -> Vec<i64> {
        let entry = |&(which, time, when): &(usize, i64, i64)| SettledTime {
            snapshot: id(which),
            time: at(time),
            settled: at(when),
        };
        let claim = |(which, &(sequence, hours)): (usize, &(u64, i64))| TimeClaim {
            snapshot: id(which),
            sequence,
            time: at(hours),
        };
        let claims: Vec<TimeClaim> = claims.iter().enumerate().map(claim).collect();
        let times = SettledTimes::default().with(settled.iter().map(entry)).among(claims.clone());
        let hours = |claim: &TimeClaim| (times.of(&claim.snapshot, claim.time).time.timestamp() - BEGIN) / 3600;
        claims.iter().map(hours).collect()
    }

    #[test]
    fn a_settled_time_counts_between_its_neighbours() {
        let claims = [(1, 10), (2, 9000), (3, 9001), (4, 40)];
        assert_eq!(taken(&claims, &[]), [10, 9000, 9001, 40]);
        assert_eq!(taken(&claims, &[(1, 20, 50), (2, 30, 50)]), [10, 20, 30, 40]);
        // Its own neighbour is false, too, and not settled.
        assert_eq!(taken(&claims, &[(1, 20, 50)]), [10, 9000, 9001, 40]);
        // Outside, on both sides.
        assert_eq!(taken(&claims, &[(1, 9, 50), (2, 41, 50)]), [10, 9000, 9001, 40]);
        // A clock that was behind.
        assert_eq!(taken(&[(1, 10), (2, 3), (3, 40)], &[(1, 12, 50)]), [10, 12, 40]);
    }

    #[test]
    fn after_the_newest_snapshot_nothing_is_later_than_when_it_was_settled() {
        assert_eq!(taken(&[(1, 10), (2, 9000)], &[(1, 12, 13)]), [10, 12]);
        assert_eq!(taken(&[(1, 10), (2, 9000)], &[(1, 12, 9000)]), [10, 9000], "nothing contradicts it");
        assert_eq!(taken(&[(1, 10), (2, 9000), (3, 14)], &[(1, 12, 9000)]), [10, 12, 14]);
        assert_eq!(taken(&[(1, 9000)], &[(0, 12, 13)]), [12]);
    }

    #[test]
    fn a_time_that_agrees_with_its_neighbours_cannot_be_moved() {
        let claims = [(1, 10), (2, 20), (3, 30), (4, 40)];
        assert_eq!(taken(&claims, &[(1, 11, 50)]), [10, 20, 30, 40]);
        assert_eq!(taken(&claims, &[(1, 11, 50), (2, 12, 50)]), [10, 20, 30, 40]);
        assert_eq!(taken(&claims, &[(0, 1, 50), (1, 1, 50), (2, 1, 50), (3, 1, 50)]), [10, 20, 30, 40]);
        // A thief adds one of his own with a time long ago, and settles those before it.
        let claims = [(1, 10), (2, 20), (3, 30), (4, 1)];
        assert_eq!(taken(&claims, &[(1, 11, 50), (2, 12, 50)]), [10, 20, 30, 1]);
    }

    #[test]
    fn branches_say_nothing_of_each_other() {
        let claims = [(1, 10), (2, 30), (2, 15), (3, 9000), (4, 50)];
        assert_eq!(taken(&claims, &[(3, 12, 60)]), [10, 30, 15, 12, 50]);
        assert_eq!(taken(&claims, &[(1, 12, 60)]), [10, 30, 15, 9000, 50]);
    }

    #[test]
    fn a_confirmed_time_stays_and_is_a_neighbour() {
        let entry = |which, hours| SettledTime { snapshot: id(which), time: at(hours), settled: at(50) };
        let claim = |which, sequence, hours| TimeClaim { snapshot: id(which), sequence, time: at(hours) };
        let claims = [claim(1, 1, 10), claim(2, 2, 9000), claim(3, 3, 40)];
        let times = SettledTimes::default().with([entry(3, 40), entry(2, 20)]).among(claims.clone());
        assert!(times.is_vouched_for(&id(3)) && !times.is_settled(&id(3)) && !times.is_vouched_for(&id(1)));
        let settled = SnapshotTime { claimed: Some(at(9000)), ..SnapshotTime::told(at(20)) };
        assert_eq!(times.of(&id(2), at(9000)), settled);
    }
}
