//! Decides when a dataset is due: five-field Unix cron in a time zone, with jitter.
//!
//! The `cron` crate finds the fires in local time without a time zone. This module converts them to
//! real time, as Vixie cron does:
//! - If clocks skip a time in spring, it fires right after the gap.
//! - If a time occurs twice in autumn, it fires the first time only. But a schedule that allows
//!   every hour fires both times, so that a run "every half hour" does not pause for an hour.
//! - If both day of month and day of week are restricted, a day that matches either is enough.
//!
//! A schedule may have windows, which follow the same wall clock. A fire outside them is put off
//! until the next one opens, and all that are put off until then are one.

mod fields;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use lifeboat_base::hours::Hours;
use lifeboat_base::{Class, Context, Error, Result};

use self::fields::Fields;

/// More than clocks are ever shifted at once, but less than a day.
const MAX_CLOCK_SHIFT: TimeDelta = TimeDelta::hours(3);
/// Windows come again each week.
const MINUTES_OF_WINDOWS: i64 = 7 * 24 * 60;
/// [`Schedule::expected_interval`] looks at a month, but at no fewer than [`MIN_FIRES`] fires.
const LOOKED_AT: TimeDelta = TimeDelta::days(35);
const MIN_FIRES: usize = 8;

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    expression: String,
    time_zone: Tz,
    jitter: Duration,
    /// None: it fires at any time.
    windows: Vec<Hours>,
    /// There are two if a match of either day field is enough.
    alternatives: Vec<cron::Schedule>,
    every_hour: bool,
}

impl Schedule {
    /// Parses five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Each run
    /// starts later by less than `jitter`: see [`Self::jittered`].
    ///
    /// # Errors
    /// [`Class::Configuration`] if a field is wrong, or if the schedule never fires. The hint says
    /// what is possible.
    pub fn parse(expression: &str, time_zone: Tz, jitter: Duration) -> Result<Self> {
        let fields = Fields::parse(expression)?;
        let parse = |text: &String| {
            cron::Schedule::from_str(text).context(Class::Configuration, || format!("`{expression}` is not a schedule"))
        };
        let schedule = Self {
            expression: expression.trim().to_owned(),
            time_zone,
            jitter,
            windows: Vec::new(),
            alternatives: fields.quartz().iter().map(parse).collect::<Result<_>>()?,
            every_hour: fields.every_hour(),
        };
        if schedule.next_naive(DateTime::UNIX_EPOCH.naive_utc()).is_none() {
            return Err(Error::configuration(format!("`{expression}` never fires"))
                .hint("correct day of month and month: for example, 30 February does not exist"));
        }
        Ok(schedule)
    }

    /// The same schedule, which fires only while one of `windows` is open. Without any, it fires at
    /// any time.
    #[must_use]
    pub fn within(self, windows: Vec<Hours>) -> Self {
        Self { windows, ..self }
    }

    /// Whether a run may start at `time`.
    #[must_use]
    pub fn is_open(&self, time: DateTime<Utc>) -> bool {
        self.windows.is_empty() || self.holds(time.with_timezone(&self.time_zone).naive_local())
    }

    /// The expression as it was written.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The time zone of the expression.
    #[must_use]
    pub fn time_zone(&self) -> Tz {
        self.time_zone
    }

    /// The first fire strictly after `time`, without jitter. `None` if it never fires again.
    #[must_use]
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = time.with_timezone(&self.time_zone).naive_local();
        let mut candidate = self.last_open(local) - MAX_CLOCK_SHIFT;
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

    /// The last fire at or before `time`, without jitter. `None` if there is none in the year
    /// before.
    #[must_use]
    pub fn last_before(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut window = TimeDelta::hours(1);
        while window <= TimeDelta::days(366) {
            let mut last = None;
            let mut from = time.checked_sub_signed(window)?;
            while let Some(fire) = self.next_after(from).filter(|fire| *fire <= time) {
                (last, from) = (Some(fire), fire);
            }
            if last.is_some() {
                return last;
            }
            window = window * 2;
        }
        None
    }

    /// Each run starts later than its fire by less than this.
    #[must_use]
    pub fn jitter(&self) -> Duration {
        self.jitter
    }

    /// The longest time between two consecutive fires, so that an alert on a late backup knows what
    /// to expect. It looks at the 35 days after `time`, and at no fewer than eight fires.
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

    /// When the run of a `fire` starts: later by a part of the jitter. `seed` (host and dataset)
    /// decides this part. So hosts do not all start at once, and the offset of a dataset is always
    /// the same.
    #[must_use]
    pub fn jittered(&self, fire: DateTime<Utc>, seed: &str) -> DateTime<Utc> {
        let hash = blake3::hash(seed.as_bytes());
        let draw = hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let millis = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        let offset = if millis == 0 { 0 } else { draw % millis };
        fire + TimeDelta::milliseconds(i64::try_from(offset).unwrap_or(i64::MAX))
    }

    fn next_naive(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        let utc = after.and_utc();
        let fires = self.alternatives.iter().filter_map(|schedule| schedule.after(&utc).next());
        let fire = fires.min()?.naive_utc();
        if self.windows.is_empty() || self.holds(fire) {
            return Some(fire);
        }
        self.windows.iter().filter_map(|window| window.next_beginning(fire)).min()
    }

    /// The last minute at or before this time in which a window was open: what has fired since is
    /// put off. This time itself if there are no windows.
    fn last_open(&self, local: NaiveDateTime) -> NaiveDateTime {
        if self.windows.is_empty() {
            return local;
        }
        let mut minutes = (0..MINUTES_OF_WINDOWS).map(|minutes| local - TimeDelta::minutes(minutes));
        minutes.find(|minute| self.holds(*minute)).unwrap_or(local - TimeDelta::minutes(MINUTES_OF_WINDOWS))
    }

    fn holds(&self, local: NaiveDateTime) -> bool {
        self.windows.iter().any(|window| window.hold(local))
    }

    /// The real times of a local time: none, one, or two.
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
