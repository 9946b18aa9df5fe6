//! Scheduled starts that wait because another program works on their dataset, such as
//! `lifeboat prune` or `lifeboatd --once`.
//!
//! Such a start takes place when the lock is free, within `limits.run` and before the next start of
//! the schedule. If it never can, it counts as failed. While it waits, other datasets run.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::format::id::Name;

/// How often a lock is tried.
const LOOK: TimeDelta = TimeDelta::seconds(2);

/// Since when each dataset waits, and until when.
#[derive(Debug, Default)]
pub(crate) struct HeldStarts(BTreeMap<Name, HeldStart>);

#[derive(Debug)]
struct HeldStart {
    since: DateTime<Utc>,
    until: DateTime<Utc>,
}

/// What becomes of a start that found the lock taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It waits, and looks again then.
    Waits(DateTime<Utc>),
    /// It could not take place, and had waited since then. The next one looks at the second time,
    /// if that is due by now.
    Missed(DateTime<Utc>, Option<DateTime<Utc>>),
}

impl HeldStarts {
    /// The lock of `dataset` is taken. `next` is its next start by schedule.
    pub(crate) fn found_taken(
        &mut self,
        dataset: &Name,
        now: DateTime<Utc>,
        next: Option<DateTime<Utc>>,
        longest: TimeDelta,
    ) -> Verdict {
        let bound = now.checked_add_signed(longest).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let begun = HeldStart { since: now, until: next.map_or(bound, |next| next.min(bound)) };
        let Some(held) = self.0.get(dataset).filter(|held| held.since <= now) else {
            let look = (now + LOOK).min(begun.until);
            self.0.insert(dataset.clone(), begun);
            return Verdict::Waits(look);
        };
        if now < held.until {
            return Verdict::Waits((now + LOOK).min(held.until));
        }
        let (since, by_the_next) = (held.since, held.until < held.since + longest);
        self.0.remove(dataset);
        // The start that ended the wait waits in its turn.
        let look = by_the_next.then_some(now + LOOK);
        if look.is_some() {
            self.0.insert(dataset.clone(), begun);
        }
        Verdict::Missed(since, look)
    }

    /// Whether a start of `dataset` waits.
    pub(crate) fn waits(&self, dataset: &Name) -> bool {
        self.0.contains_key(dataset)
    }

    /// No start of `dataset` waits any more.
    pub(crate) fn done(&mut self, dataset: &Name) {
        self.0.remove(dataset);
    }

    /// Only these datasets exist.
    pub(crate) fn retain(&mut self, exists: impl Fn(&Name) -> bool) {
        self.0.retain(|dataset, _| exists(dataset));
    }

    /// Since when each dataset waits.
    pub(crate) fn since(&self) -> BTreeMap<Name, DateTime<Utc>> {
        self.0.iter().map(|(dataset, held)| (dataset.clone(), held.since)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(minute: i64, second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_459_980 + 60 * minute + second, 0).unwrap()
    }

    #[test]
    fn a_start_waits_until_the_next_one_which_waits_in_its_turn() {
        let (mut held, shop, day) = (HeldStarts::default(), "shop".parse().unwrap(), TimeDelta::days(1));
        assert_eq!(held.found_taken(&shop, at(0, 0), Some(at(60, 0)), day), Verdict::Waits(at(0, 2)));
        assert_eq!(held.found_taken(&shop, at(0, 2), Some(at(60, 0)), day), Verdict::Waits(at(0, 4)));
        assert_eq!(held.found_taken(&shop, at(59, 59), Some(at(60, 0)), day), Verdict::Waits(at(60, 0)));
        let missed = held.found_taken(&shop, at(60, 0), Some(at(120, 0)), day);
        assert_eq!(missed, Verdict::Missed(at(0, 0), Some(at(60, 2))));
        assert_eq!(held.since()[&shop], at(60, 0));
        held.done(&shop);
        assert!(!held.waits(&shop));
    }

    #[test]
    fn a_start_waits_no_longer_than_a_run_may_take() {
        let (mut held, shop, hour) = (HeldStarts::default(), "shop".parse().unwrap(), TimeDelta::hours(1));
        held.found_taken(&shop, at(0, 0), Some(at(1440, 0)), hour);
        let missed = held.found_taken(&shop, at(60, 1), Some(at(1440, 0)), hour);
        assert_eq!(missed, Verdict::Missed(at(0, 0), None));
        assert!(!held.waits(&shop));
    }
}
