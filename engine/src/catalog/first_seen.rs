//! When somebody else than its writer first saw a snapshot, and whether that contradicts the time
//! that its writer claims.
//!
//! A store dates what it takes by its own clock. A witness looks again and again, so it knows at
//! which look a snapshot was there first, and at which one before it was not there yet. Whoever
//! holds the keys of a backup host can set neither, and whoever owns one of two buckets makes
//! nothing older that a witness had not seen.

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::{Digest, SnapshotId};
use serde::Serialize;

/// When somebody first saw a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FirstSeen {
    /// It was not there then; `None` if nobody had looked.
    pub(crate) not_yet: Option<DateTime<Utc>>,
    /// It was there then.
    pub(crate) seen: DateTime<Utc>,
}

/// What is wrong with the time that a writer claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FalseClaim {
    /// It was not there so early.
    Backdated,
    /// It was there before.
    Postdated,
}

/// A claim that is contradicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradicted {
    /// How.
    pub claim: FalseClaim,
    /// When the snapshot was first seen.
    pub seen: DateTime<Utc>,
}

/// What a writer claims of a snapshot, and when stores took it.
#[derive(Debug, Clone)]
pub(crate) struct DatedClaim {
    pub(crate) snapshot: SnapshotId,
    /// The hash of its manifest.
    pub(crate) hash: Digest,
    /// When its capture began.
    pub(crate) began: DateTime<Utc>,
    /// When its capture ended.
    pub(crate) ended: DateTime<Utc>,
    /// When each store took it, of those whose clocks agree with ours.
    pub(crate) stored: Vec<DateTime<Utc>>,
}

impl FirstSeen {
    /// As a store tells, which knows it exactly.
    pub(crate) fn stored(time: DateTime<Utc>) -> Self {
        Self { not_yet: Some(time), seen: time }
    }

    /// What counts of the dates of stores, and of when a witness first saw it.
    ///
    /// The earliest date counts: objects that were copied or brought back have later ones. But one
    /// store alone may lie. So where no other one tells the same, its date does not count if it was
    /// earlier than `not_yet`, when it was not there yet: as all witnesses say that have seen it,
    /// or if none has, as one says that has looked.
    pub(crate) fn of(
        stores: &[DateTime<Utc>],
        seen: Option<Self>,
        not_yet: Option<DateTime<Utc>>,
        tolerance: TimeDelta,
    ) -> Option<Self> {
        let mut dates = stores.to_vec();
        dates.sort_unstable();
        let is_after = |time: DateTime<Utc>, other: DateTime<Utc>| time.signed_duration_since(other) > tolerance;
        let is_alone = |pair: &[DateTime<Utc>]| is_after(pair[1], pair[0]);
        let is_false = |pair: &[DateTime<Utc>]| is_alone(pair) && not_yet.is_some_and(|time| is_after(time, pair[0]));
        let lies = dates.windows(2).take_while(|pair| is_false(pair)).count();
        let counts = dates.get(lies).copied().map(Self::stored);
        counts.into_iter().chain(seen).reduce(Self::earlier)
    }

    /// The two earliest of the dates of stores.
    pub(crate) fn earliest(stores: &[DateTime<Utc>]) -> [Option<DateTime<Utc>>; 2] {
        let mut dates = stores.to_vec();
        dates.sort_unstable();
        [dates.first().copied(), dates.get(1).copied()]
    }

    /// Whoever has seen it earlier knows more.
    pub(crate) fn earlier(self, other: Self) -> Self {
        if other.seen < self.seen { other } else { self }
    }

    /// Whether this contradicts a claim. Clocks may differ by `tolerance`.
    pub(crate) fn contradicts(&self, claim: &DatedClaim, tolerance: TimeDelta) -> Option<Contradicted> {
        let is_after = |time: DateTime<Utc>, other: DateTime<Utc>| time.signed_duration_since(other) > tolerance;
        let claim = if self.not_yet.is_some_and(|not_yet| is_after(not_yet, claim.ended)) {
            FalseClaim::Backdated
        } else if is_after(claim.began, self.seen) {
            FalseClaim::Postdated
        } else {
            return None;
        };
        Some(Contradicted { claim, seen: self.seen })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000 + 60 * minutes, 0).unwrap()
    }

    /// Of a capture between these minutes.
    fn claim(began: i64, ended: i64) -> DatedClaim {
        let (snapshot, hash) = (SnapshotId::new(at(began), 1), Digest::of(b"x"));
        DatedClaim { snapshot, hash, began: at(began), ended: at(ended), stored: Vec::new() }
    }

    fn judged(seen: FirstSeen, claim: &DatedClaim) -> Option<FalseClaim> {
        seen.contradicts(claim, TimeDelta::minutes(10)).map(|found| found.claim)
    }

    #[test]
    fn a_store_contradicts_what_is_further_away_than_clocks_differ() {
        let seen = FirstSeen::stored(at(100));
        for (began, ended, expected) in [
            (0, 90, None),
            (0, 89, Some(FalseClaim::Backdated)),
            (110, 110, None),
            (111, 111, Some(FalseClaim::Postdated)),
            (-9000, 95, None),
        ] {
            assert_eq!(judged(seen, &claim(began, ended)), expected, "{began} {ended}");
        }
    }

    #[test]
    fn a_witness_contradicts_only_what_it_would_have_seen_before() {
        let seen = |not_yet: Option<i64>| FirstSeen { not_yet: not_yet.map(at), seen: at(100) };
        assert_eq!(judged(seen(None), &claim(-90_000, -90_000)), None, "it had never looked");
        assert_eq!(judged(seen(Some(40)), &claim(30, 30)), None);
        assert_eq!(judged(seen(Some(40)), &claim(29, 29)), Some(FalseClaim::Backdated));
        assert_eq!(judged(seen(None), &claim(111, 111)), Some(FalseClaim::Postdated));
    }

    /// Of stores, a witness that saw it, and one that had not.
    fn counts(stores: &[i64], seen: Option<(i64, i64)>, not_yet: Option<i64>) -> i64 {
        let stores: Vec<DateTime<Utc>> = stores.iter().copied().map(at).collect();
        let seen = seen.map(|(not_yet, seen)| FirstSeen { not_yet: Some(at(not_yet)), seen: at(seen) });
        let not_yet = seen.and_then(|seen| seen.not_yet).or(not_yet.map(at));
        let first = FirstSeen::of(&stores, seen, not_yet, TimeDelta::minutes(10)).unwrap();
        first.seen.signed_duration_since(at(0)).num_minutes()
    }

    #[test]
    fn one_store_alone_makes_nothing_older_that_a_witness_had_not_seen() {
        assert_eq!(counts(&[0, 900], None, None), 0, "no witness has looked");
        assert_eq!(counts(&[0, 900], None, Some(10)), 0, "it looked at the same time");
        assert_eq!(counts(&[0, 900], None, Some(11)), 900);
        assert_eq!(counts(&[900, 0], Some((40, 100)), None), 100);
        assert_eq!(counts(&[0, 90], Some((40, 100)), None), 90);
        // It was copied later, and a witness saw it before that.
        assert_eq!(counts(&[50, 9000], Some((40, 100)), None), 50);
        // Two stores tell the same, or there is but one.
        assert_eq!(counts(&[0, 10, 900], Some((40, 100)), None), 0);
        assert_eq!(counts(&[0, 11, 900], Some((40, 100)), None), 100, "they tell different things");
        assert_eq!(counts(&[0], Some((40, 100)), None), 0);
    }

    #[test]
    fn of_two_the_one_counts_that_saw_it_earlier() {
        let witness = FirstSeen { not_yet: Some(at(40)), seen: at(100) };
        assert_eq!(witness.earlier(FirstSeen::stored(at(9000))), witness, "the bucket was moved since");
        assert_eq!(witness.earlier(FirstSeen::stored(at(45))), FirstSeen::stored(at(45)));
    }
}
