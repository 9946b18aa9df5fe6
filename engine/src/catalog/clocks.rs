//! Whether this host's clock can be believed, so that no run under a wrong one commits a snapshot
//! or deletes one.
//!
//! - **The replicas** are the first witnesses: stores tell the time in their answers. A clock that
//!   differs from all of them is wrong. One replica that agrees is enough: if others lie, they stop
//!   nothing.
//! - **The snapshots before** are the second ones, where no replica tells the time, as directories
//!   do not. A time that is much later than the snapshot before is doubtful: nothing is deleted by
//!   it until another backup confirms it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_store::SharedReplica;

use crate::schedule::Schedule;

/// A pause of so many intervals between two snapshots is doubtful, ...
const MOST_INTERVALS: i32 = 10;
/// ... but none that is shorter.
const LEAST_DOUBTFUL: TimeDelta = TimeDelta::days(1);
/// Ids that are no further apart may follow a false time.
pub(crate) const CROWDED: TimeDelta = TimeDelta::seconds(1);
/// Of so many snapshots the intervals are looked at.
const MOST_SNAPSHOTS: usize = 16;

/// What replicas told about the time.
#[derive(Debug, Default)]
pub(crate) struct ClockWitnesses {
    /// They agree with this host.
    agree: usize,
    /// They do not: their clocks minus ours.
    differ: Vec<(Name, TimeDelta)>,
}

impl ClockWitnesses {
    /// What the last answers of `replicas` told. Clocks may differ by `skew`; a replica whose
    /// answer does not tell whether they differ by more is silent.
    pub(crate) fn of(replicas: &[SharedReplica], skew: Duration) -> Self {
        let skew = TimeDelta::from_std(skew).unwrap_or(TimeDelta::MAX);
        let mut witnesses = Self::default();
        for replica in replicas {
            match replica.clock_offset(skew) {
                Some(offset) if offset.abs() > skew => {
                    witnesses.differ.push((replica.name().clone(), offset));
                }
                Some(_) => witnesses.agree += 1,
                None => {}
            }
        }
        witnesses
    }

    /// Whether no replica tells the time.
    pub(crate) fn are_silent(&self) -> bool {
        self.agree == 0 && self.differ.is_empty()
    }

    /// A warning for each replica whose clock is wrong.
    ///
    /// # Errors
    /// [`Class::Configuration`](lifeboat_base::Class::Configuration): this host's clock is wrong.
    pub(crate) fn check(&self) -> Result<Vec<String>> {
        let tell = |(name, offset): &(Name, TimeDelta)| {
            let direction = if *offset < TimeDelta::zero() { "behind" } else { "ahead of" };
            (name.clone(), format!("{} {direction}", words(*offset)))
        };
        let told: Vec<(Name, String)> = self.differ.iter().map(tell).collect();
        if self.agree == 0 && !told.is_empty() {
            let told: Vec<String> =
                told.into_iter().map(|(name, how)| format!("the clock of {name} is {how} it")).collect();
            return Err(Error::configuration(format!(
                "this host's clock differs from that of every replica that tells the time: {}",
                told.join(", ")
            ))
            .hint(
                "`timedatectl` shows this host's clock: set it, and try again; if the replicas are wrong, see \"A clock was wrong\" in OPERATIONS.md",
            ));
        }
        let warning = |(name, how)| {
            format!("the clock of replica {name} is {how} this host's, and other replicas agree with this host")
        };
        Ok(told.into_iter().map(warning).collect())
    }
}

/// The longest pause after the last of the times `before`, in the order in which the snapshots were
/// made, that is not doubtful. Without a schedule, it goes by the usual pause between them.
pub(crate) fn longest_pause(
    schedule: Option<&Schedule>,
    before: impl DoubleEndedIterator<Item = DateTime<Utc>>,
) -> TimeDelta {
    let times: Vec<DateTime<Utc>> = before.rev().take(MOST_SNAPSHOTS).collect();
    let interval = match (schedule, times.first()) {
        (Some(schedule), Some(last)) => TimeDelta::from_std(schedule.expected_interval(*last)).unwrap_or_default(),
        _ => {
            // Ids that follow a false time are crowded.
            let pauses = times.windows(2).map(|pair| pair[0] - pair[1]).filter(|pause| *pause >= CROWDED);
            let mut pauses: Vec<TimeDelta> = pauses.collect();
            pauses.sort_unstable();
            pauses.get(pauses.len() / 2).copied().unwrap_or_default()
        }
    };
    interval.checked_mul(MOST_INTERVALS).unwrap_or(TimeDelta::MAX).max(LEAST_DOUBTFUL)
}

/// A time as long as `length`, in words.
pub(crate) fn words(length: TimeDelta) -> String {
    let length = length.abs();
    let (days, hours, minutes) = (length.num_days(), length.num_hours(), length.num_minutes());
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{} s", length.num_seconds()),
        (0, 0, _) => format!("{minutes} min"),
        (0..=2, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} days"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use lifeboat_base::clock::SystemClock;
    use lifeboat_store::MemoryReplica;

    use super::*;

    fn witnesses(offsets: &[Option<i64>]) -> ClockWitnesses {
        let replica = |(at, offset): (usize, &Option<i64>)| -> SharedReplica {
            let replica = MemoryReplica::new(format!("r{at}").parse().unwrap(), "x", SystemClock::shared());
            replica.set_clock_offset(offset.map(TimeDelta::seconds));
            Arc::new(replica)
        };
        let replicas: Vec<SharedReplica> = offsets.iter().enumerate().map(replica).collect();
        ClockWitnesses::of(&replicas, Duration::from_secs(300))
    }

    #[test]
    fn a_clock_that_every_replica_contradicts_is_wrong_and_one_that_agrees_is_enough() {
        for right in [&[][..], &[None], &[Some(300), Some(-300)], &[None, Some(0)]] {
            assert_eq!(witnesses(right).check().unwrap(), [""; 0], "{right:?}");
        }
        for wrong in [&[Some(301)][..], &[Some(-301)], &[None, Some(9999)], &[Some(-301), Some(4000)]] {
            assert!(witnesses(wrong).check().is_err(), "{wrong:?}");
        }
        let lie = witnesses(&[Some(86_400 * 365), Some(-2), None]).check().unwrap();
        assert!(lie.len() == 1 && lie[0].contains("r0 is 365 days ahead"), "{lie:?}");
        let error = witnesses(&[Some(-7380), None, Some(-600)]).check().unwrap_err();
        for part in ["r0 is 2 h 3 min behind", "r2 is 10 min behind"] {
            assert!(error.message().contains(part), "{error:?}");
        }
        assert!(error.hint_text().unwrap().contains("timedatectl"));
        assert!(witnesses(&[None]).are_silent() && !witnesses(&[Some(301)]).are_silent());
    }

    #[test]
    fn ten_intervals_are_the_longest_pause_and_never_less_than_a_day() {
        let start = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let hours = |hours: &[i64]| -> Vec<DateTime<Utc>> {
            hours.iter().map(|hours| start + TimeDelta::hours(*hours)).collect()
        };
        let weekly = Schedule::parse("@weekly", chrono_tz::UTC, Duration::ZERO).unwrap();
        for (schedule, before, days) in [
            (None, &[][..], 1),
            (None, &[0], 1),
            (None, &[0, 1, 2, 3], 1),
            (None, &[0, 24, 48, 72], 10),
            (None, &[0, 24, 24 * 400, 24 * 401, 24 * 402], 10),
            (Some(&weekly), &[], 1),
            (Some(&weekly), &[0], 70),
            (Some(&weekly), &[0, 1, 2], 70),
        ] {
            assert_eq!(longest_pause(schedule, hours(before).into_iter()), TimeDelta::days(days), "{before:?}");
        }
        // After a false time, ids follow it closely. They tell no pause.
        let after = (0..12).map(|n| start + TimeDelta::days(3650) + TimeDelta::milliseconds(n));
        let before = hours(&[0, 24, 48, 72]).into_iter().chain(after.collect::<Vec<_>>());
        assert_eq!(longest_pause(None, before.collect::<Vec<_>>().into_iter()), TimeDelta::days(10));
    }
}
