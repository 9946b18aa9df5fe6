//! When a dataset is due: five-field Unix cron in a time zone, with jitter.
//!
//! The `cron` crate finds the fires in naive local time; this module gives them their place in real
//! time, as Vixie cron does:
//! - a time inside a spring gap fires right after the gap;
//! - a time inside an autumn fold fires once, the first time; but a schedule whose hours are `*`
//!   fires both times, so that nothing that runs "every half hour" pauses for an hour;
//! - day of month and day of week are ORed when both are restricted.

mod fields;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use lifeboat_base::{Class, Context, Error, Result};

use self::fields::Fields;

/// Larger than any shift of a clock, smaller than a day.
const MAX_CLOCK_SHIFT: TimeDelta = TimeDelta::hours(3);
/// What [`Schedule::expected_interval`] looks at: a month, but at least a few fires.
const LOOKED_AT: TimeDelta = TimeDelta::days(35);
const MIN_FIRES: usize = 8;

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    expression: String,
    time_zone: Tz,
    jitter: Duration,
    /// Two when day of month and day of week are ORed.
    alternatives: Vec<cron::Schedule>,
    every_hour: bool,
}

impl Schedule {
    /// Parses five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Each run
    /// starts up to `jitter` later, see [`Self::jittered`].
    ///
    /// # Errors
    /// [`Class::Configuration`]: says which field is wrong and what would be right; or that it
    /// never fires.
    pub fn parse(expression: &str, time_zone: Tz, jitter: Duration) -> Result<Self> {
        let fields = Fields::parse(expression)?;
        let parse = |text: &String| {
            cron::Schedule::from_str(text).context(Class::Configuration, || format!("`{expression}` is not a schedule"))
        };
        let schedule = Self {
            expression: expression.trim().to_owned(),
            time_zone,
            jitter,
            alternatives: fields.quartz().iter().map(parse).collect::<Result<_>>()?,
            every_hour: fields.every_hour(),
        };
        if schedule.next_naive(DateTime::UNIX_EPOCH.naive_utc()).is_none() {
            return Err(Error::configuration(format!("`{expression}` never fires"))
                .hint("check day of month and month: 30 2 names no day"));
        }
        Ok(schedule)
    }

    /// As written.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The zone its fields are read in.
    #[must_use]
    pub fn time_zone(&self) -> Tz {
        self.time_zone
    }

    /// The first time strictly after `time` at which it fires, before jitter. None: never again.
    #[must_use]
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut candidate = time.with_timezone(&self.time_zone).naive_local() - MAX_CLOCK_SHIFT;
        let mut best: Option<(DateTime<Utc>, NaiveDateTime)> = None;
        loop {
            let next = self.next_naive(candidate);
            let Some(naive) = next.filter(|naive| best.is_none_or(|(_, found)| *naive <= found + MAX_CLOCK_SHIFT))
            else {
                return best.map(|(fire, _)| fire);
            };
            for fire in self.resolve(naive).into_iter().flatten().filter(|fire| *fire > time) {
                let found = best.map_or(naive, |(_, found)| found);
                best = Some(best.map_or((fire, found), |(earliest, _)| (earliest.min(fire), found)));
            }
            candidate = naive;
        }
    }

    /// The longest time between two consecutive fires of the month after `time`, or of the next few
    /// fires where these are further apart: what an alert on a late backup may expect.
    #[must_use]
    pub fn expected_interval(&self, time: DateTime<Utc>) -> Duration {
        let start = time.with_timezone(&self.time_zone).naive_local();
        let (mut fires, mut naive) = (Vec::new(), start);
        while let Some(next) = self.next_naive(naive) {
            if next > start + LOOKED_AT && fires.len() >= MIN_FIRES {
                break;
            }
            fires.extend(self.resolve(next).into_iter().flatten());
            naive = next;
        }
        fires.sort_unstable();
        let longest = fires.windows(2).map(|pair| pair[1] - pair[0]).max();
        longest.and_then(|gap| gap.to_std().ok()).unwrap_or_default()
    }

    /// When the run of a `fire` starts: later by a fixed part of the jitter that `seed` (host and
    /// dataset) decides, so that a fleet does not start at once, and one dataset always starts at
    /// the same offset.
    #[must_use]
    pub fn jittered(&self, fire: DateTime<Utc>, seed: &str) -> DateTime<Utc> {
        let hash = blake3::hash(seed.as_bytes());
        let draw = hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let millis = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        let offset = if millis == 0 { 0 } else { draw % millis };
        fire + TimeDelta::milliseconds(i64::try_from(offset).unwrap_or(i64::MAX))
    }

    fn next_naive(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let after = after.and_utc();
        self.alternatives.iter().filter_map(|schedule| schedule.after(&after).next()).min().map(|fire| fire.naive_utc())
    }

    /// The real times of a naive one.
    fn resolve(&self, naive: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
        match self.time_zone.from_local_datetime(&naive) {
            LocalResult::Single(fire) => [Some(fire.to_utc()), None],
            LocalResult::Ambiguous(first, second) => [Some(first.to_utc()), self.every_hour.then(|| second.to_utc())],
            LocalResult::None => {
                let minutes = (1..24 * 60).map(|minutes| naive + TimeDelta::minutes(minutes));
                let after_gap = minutes.filter_map(|later| self.time_zone.from_local_datetime(&later).earliest());
                [after_gap.map(|fire| fire.to_utc()).next(), None]
            }
        }
    }
}

#[cfg(test)]
mod tests;
