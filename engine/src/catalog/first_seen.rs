//! When somebody else than its writer first saw a snapshot, and whether that contradicts the time
//! that its writer claims.
//!
//! A store dates what it takes by its own clock. A witness looks again and again, so it knows at
//! which look a snapshot was there first, and at which one before it was not there yet. Whoever
//! holds the keys of a backup host can set neither.

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
    /// When the first store took it, of those whose clocks agree with ours.
    pub(crate) stored: Option<DateTime<Utc>>,
}

impl FirstSeen {
    /// As a store tells, which knows it exactly.
    pub(crate) fn stored(time: DateTime<Utc>) -> Self {
        Self { not_yet: Some(time), seen: time }
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
        DatedClaim { snapshot, hash, began: at(began), ended: at(ended), stored: None }
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

    #[test]
    fn of_two_the_one_counts_that_saw_it_earlier() {
        let witness = FirstSeen { not_yet: Some(at(40)), seen: at(100) };
        assert_eq!(witness.earlier(FirstSeen::stored(at(9000))), witness, "the bucket was moved since");
        assert_eq!(witness.earlier(FirstSeen::stored(at(45))), FirstSeen::stored(at(45)));
    }
}
