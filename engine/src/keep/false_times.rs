//! Finds snapshots with false times, and proposes others.
//!
//! - **False**: what lies in the future, and what contradicts the order of the snapshots. Of times
//!   that contradict each other, as few as possible are called false; of as many, the later ones.
//! - **Proposed**: when a replica stored the snapshot, by its own clock; else a time between the
//!   snapshots before and after. Never one before the former, or after the latter.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use lifeboat_format::id::{Name, SnapshotId};
use serde::Serialize;

use crate::catalog::taken::{Between, CLOCKS_DIFFER, Neighbours, TakenTimes, TimeClaim};

/// A longer time between false times is not kept between the proposed ones.
const LONGEST_SPAN: TimeDelta = TimeDelta::days(366);

/// A snapshot whose time is false or doubtful.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FalseTime {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What its manifest says.
    pub claimed: DateTime<Utc>,
    /// Why that is doubted.
    pub doubt: String,
    /// The time that it would get; the same if it would only be confirmed.
    pub time: DateTime<Utc>,
    /// Why this one.
    pub because: String,
}

/// When the replica of this name stored snapshots, less what their captures took.
pub(crate) type StoredTimes = BTreeMap<SnapshotId, (Name, DateTime<Utc>)>;

/// The snapshots of a dataset whose times are false, in their order, each with a proposal.
pub(crate) fn false_times(
    claims: &[TimeClaim],
    taken: &TakenTimes,
    stored: &StoredTimes,
    now: DateTime<Utc>,
    tolerance: TimeDelta,
) -> Vec<FalseTime> {
    let tolerance = tolerance.max(CLOCKS_DIFFER);
    let (settled, plain): (Vec<&TimeClaim>, Vec<&TimeClaim>) =
        claims.iter().partition(|claim| taken.is_settled(&claim.snapshot));
    let (future, past): (Vec<&TimeClaim>, Vec<&TimeClaim>) =
        plain.into_iter().partition(|claim| claim.time.signed_duration_since(now) > tolerance);
    let agreeing = agreeing(Neighbours::of(claims, past.iter().copied()).times());
    let is_sure = |claim: &&TimeClaim| agreeing.contains(&claim.sequence);
    let sure = Neighbours::of(claims, past.iter().copied().filter(is_sure));
    // Those that share their number with others are not judged, unless they lie in the future.
    let numbered = Neighbours::of(claims, past.iter().copied());
    let mut wrong: Vec<(&TimeClaim, &str)> = future.into_iter().map(|claim| (claim, "it lies in the future")).collect();
    for claim in past.into_iter().filter(|claim| numbered.has(claim.sequence) && !is_sure(claim)) {
        let between = sure.around(claim.sequence, now);
        if !between.hold(claim.time) {
            let is_early = between.first.is_some_and(|first| claim.time < first);
            let why = if is_early {
                "it is earlier than that of a snapshot before it"
            } else {
                "it is later than that of a snapshot after it"
            };
            wrong.push((claim, why));
        }
    }
    let as_settled: Vec<TimeClaim> = settled
        .into_iter()
        .map(|claim| TimeClaim { time: taken.of(&claim.snapshot, claim.time).time, ..claim.clone() })
        .collect();
    let not_wrong: BTreeSet<u64> = sure.times().map(|(sequence, _)| sequence).collect();
    let known: Vec<&TimeClaim> = claims
        .iter()
        .filter(|claim| not_wrong.contains(&claim.sequence) && !taken.is_settled(&claim.snapshot))
        .chain(&as_settled)
        .collect();
    let neighbours = Neighbours::of(claims, known);
    wrong.sort_by_key(|(claim, _)| (claim.sequence, &claim.snapshot));
    let mut found = Vec::new();
    for run in wrong.chunk_by(|(a, _), (b, _)| neighbours.around(a.sequence, now) == neighbours.around(b.sequence, now))
    {
        let between = neighbours.around(run[0].0.sequence, now);
        let between = Between { first: between.first, last: between.last.min(now) };
        let run_claims: Vec<&TimeClaim> = run.iter().map(|(claim, _)| *claim).collect();
        for ((claim, doubt), (time, because)) in run.iter().zip(proposals(&run_claims, between, stored)) {
            let time = time.min(now);
            let (snapshot, claimed, doubt) = (claim.snapshot.clone(), claim.time, (*doubt).to_owned());
            found.push(FalseTime { snapshot, claimed, doubt, time, because });
        }
    }
    found
}

/// The numbers of as many as possible whose times do not descend. Of several such sets, one with
/// early times.
fn agreeing(times: impl Iterator<Item = (u64, DateTime<Utc>)>) -> BTreeSet<u64> {
    let times: Vec<(u64, DateTime<Utc>)> = times.collect();
    // For each length, the place where a set of this length ends earliest.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(times.len());
    for (at, (_, time)) in times.iter().enumerate() {
        let length = ends.partition_point(|end| times[*end].1 <= *time);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut numbers = BTreeSet::new();
    let mut at = ends.last().copied();
    while let Some(this) = at {
        numbers.insert(times[this].0);
        at = before[this];
    }
    numbers
}

/// Times for snapshots that follow each other, and why these.
fn proposals(run: &[&TimeClaim], between: Between, stored: &StoredTimes) -> Vec<(DateTime<Utc>, String)> {
    let mut times: Vec<Option<(DateTime<Utc>, String)>> = vec![None; run.len()];
    let mut first = between.first;
    for (claim, proposed) in run.iter().zip(&mut times) {
        let Some((replica, time)) = stored.get(&claim.snapshot) else { continue };
        let bounded = first.map_or(*time, |first| first.max(*time)).min(between.last);
        let limit = match bounded.cmp(time) {
            std::cmp::Ordering::Less => ", but the snapshot after it is older",
            std::cmp::Ordering::Greater => ", but the snapshot before it is younger",
            std::cmp::Ordering::Equal => "",
        };
        *proposed = Some((bounded, format!("replica {replica} stored it then{limit}")));
        first = Some(bounded);
    }
    let (mut at, mut first) = (0, between.first);
    while at < run.len() {
        if let Some((time, _)) = &times[at] {
            (at, first) = (at + 1, Some(*time));
            continue;
        }
        let end = (at..run.len()).find(|next| times[*next].is_some()).unwrap_or(run.len());
        let last = times.get(end).and_then(|next| next.as_ref()).map_or(between.last, |(time, _)| *time);
        for (place, time) in spread(&run[at..end], Between { first, last }).into_iter().enumerate() {
            let why = match first {
                Some(_) => "no replica tells when it stored it: between the snapshots before and after it",
                None => "no replica tells when it stored it: no later than the snapshot after it",
            };
            times[at + place] = Some((time, why.to_owned()));
        }
        at = end;
    }
    times.into_iter().flatten().collect()
}

/// Times in these bounds. They are as far apart as what is claimed, if that fits, and as far from
/// one bound as from the other.
fn spread(run: &[&TimeClaim], Between { first, last }: Between) -> Vec<DateTime<Utc>> {
    let begin = run.first().map_or(last, |claim| claim.time);
    let ascends = run.is_sorted_by(|a, b| a.time <= b.time);
    let span = run.last().map_or(TimeDelta::zero(), |claim| claim.time.signed_duration_since(begin));
    let span = Some(span).filter(|span| ascends && *span <= LONGEST_SPAN);
    let Some(first) = first else {
        let since = |claim: &&TimeClaim| claim.time.signed_duration_since(begin);
        return run.iter().map(|claim| span.map_or(last, |span| last - (span - since(claim)))).collect();
    };
    let room = last.signed_duration_since(first).max(TimeDelta::zero());
    let parts = i32::try_from(run.len()).unwrap_or(i32::MAX).saturating_add(1);
    let place = |(at, claim): (usize, &&TimeClaim)| {
        let after = match span.filter(|span| *span <= room) {
            Some(span) => (room - span) / 2 + claim.time.signed_duration_since(begin),
            None => (room / parts).checked_mul(i32::try_from(at + 1).unwrap_or(i32::MAX)).unwrap_or(room),
        };
        (first + after).trunc_subsecs(0).max(first)
    };
    run.iter().enumerate().map(place).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_format::record::SettledTime;

    use super::*;
    use crate::catalog::taken::SettledTimes;

    const BEGIN: i64 = 1_795_000_000;
    const NOW: i64 = 100;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(BEGIN + hours * 3600, 0).unwrap()
    }

    fn claims(hours: &[i64]) -> Vec<TimeClaim> {
        let claim = |(number, hours): (usize, &i64)| TimeClaim {
            snapshot: SnapshotId::new(at(0), u32::try_from(number).unwrap()),
            sequence: number as u64 + 1,
            time: at(*hours),
        };
        hours.iter().enumerate().map(claim).collect()
    }

    /// Which are false, with the hours that they get. What is proposed counts then.
    fn found(hours: &[i64], stored: &[(usize, i64)]) -> Vec<(usize, i64)> {
        let claims = claims(hours);
        let witness =
            |(which, hours): &(usize, i64)| (claims[*which].snapshot.clone(), ("north".parse().unwrap(), at(*hours)));
        let stored: StoredTimes = stored.iter().map(witness).collect();
        let taken = TakenTimes::default();
        let wrong = false_times(&claims, &taken, &stored, at(NOW), TimeDelta::minutes(10));
        let entry =
            |wrong: &FalseTime| SettledTime { snapshot: wrong.snapshot.clone(), time: wrong.time, settled: at(NOW) };
        let times = SettledTimes::default().with(wrong.iter().map(entry)).among(claims.clone());
        assert!(wrong.iter().all(|wrong| times.is_settled(&wrong.snapshot)), "{hours:?}: {wrong:?}");
        let again = false_times(&claims, &times, &stored, at(NOW), TimeDelta::minutes(10));
        assert_eq!(again, [], "{hours:?}");
        let place = |wrong: &FalseTime| claims.iter().position(|claim| claim.snapshot == wrong.snapshot).unwrap();
        wrong.iter().map(|wrong| (place(wrong), (wrong.time.timestamp() - BEGIN) / 3600)).collect()
    }

    #[test]
    fn what_contradicts_the_order_is_false_and_as_few_as_possible() {
        assert_eq!(found(&[10, 20, 30], &[]), []);
        assert_eq!(found(&[10, 9000, 30, 40], &[]), [(1, 20)]);
        // A clock that was ahead by less than has passed since, and one that was behind.
        assert_eq!(found(&[10, 60, 30, 40], &[]), [(1, 20)]);
        assert_eq!(found(&[10, 60, 30], &[]), [(1, 20)]);
        assert_eq!(found(&[10, 20, 3, 40], &[]), [(2, 30)]);
        assert_eq!(found(&[10, 20, 3], &[]), [(2, 60)]);
        // The newest one, and the first one.
        assert_eq!(found(&[10, 9000], &[]), [(1, 55)]);
        assert_eq!(found(&[9000, 30], &[]), [(0, 30)]);
        assert_eq!(found(&[9000, 9010, 30], &[]), [(0, 20), (1, 30)]);
        assert_eq!(found(&[9000], &[]), [(0, 100)]);
    }

    #[test]
    fn several_in_a_row_keep_their_distances_where_they_fit() {
        assert_eq!(found(&[10, 9010, 9020, 9030, 50], &[]), [(1, 20), (2, 30), (3, 40)]);
        assert_eq!(found(&[10, 5000, 9000, 40], &[]), [(1, 20), (2, 30)]);
        assert_eq!(found(&[10, 9000, 5000, 40], &[]), [(1, 20), (2, 30)]);
    }

    #[test]
    fn what_a_replica_tells_is_believed_between_the_neighbours() {
        assert_eq!(found(&[10, 9000, 40], &[(1, 12)]), [(1, 12)]);
        assert_eq!(found(&[10, 9000, 40], &[(1, 9)]), [(1, 10)]);
        assert_eq!(found(&[10, 9000, 40], &[(1, 41)]), [(1, 40)]);
        assert_eq!(found(&[10, 9000], &[(1, 5000)]), [(1, 100)]);
        assert_eq!(found(&[10, 9000, 9001, 9002, 40], &[(2, 30)]), [(1, 20), (2, 30), (3, 35)]);
        assert_eq!(found(&[9000, 9001, 40], &[(0, 30)]), [(0, 30), (1, 35)]);
        assert_eq!(found(&[10, 9000, 9001, 40], &[(1, 30), (2, 20)]), [(1, 30), (2, 30)]);
        assert_eq!(found(&[10, 30, 40], &[(1, 12)]), [], "nothing contradicts it");
    }

    #[test]
    fn clocks_of_two_hosts_may_differ() {
        let mut claims = claims(&[10, 20, 20, 30]);
        claims[1].time += TimeDelta::minutes(9);
        let none = |claims: &[TimeClaim]| {
            let (taken, stored) = (TakenTimes::default(), StoredTimes::new());
            false_times(claims, &taken, &stored, at(NOW), TimeDelta::zero()).is_empty()
        };
        assert!(none(&claims));
        claims[1].time += TimeDelta::minutes(2);
        assert!(!none(&claims));
    }

    #[test]
    fn branches_are_false_only_in_the_future() {
        let mut claims = claims(&[10, 30, 15, 20]);
        claims[2].sequence = 2;
        let found = |claims: &[TimeClaim]| {
            let (taken, stored) = (TakenTimes::default(), StoredTimes::new());
            false_times(claims, &taken, &stored, at(NOW), TimeDelta::zero())
        };
        assert_eq!(found(&claims), []);
        claims[2].time = at(9000);
        let wrong = found(&claims);
        assert!(wrong.len() == 1 && wrong[0].snapshot == claims[2].snapshot && wrong[0].time == at(15), "{wrong:?}");
    }
}
