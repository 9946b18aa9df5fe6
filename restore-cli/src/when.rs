//! A time as people write it: as RFC 3339 writes it, as `list` prints it, or seen from now.
//!
//! Whatever names no zone is in UTC, as everything that is printed. A time seen from now is worked
//! out when the command runs, by its clock.

use std::str::FromStr;

use chrono::{DateTime, Days, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use lifeboat_engine::base::settings::units;

/// A time, perhaps seen from now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    /// This time.
    Exact(DateTime<Utc>),
    /// A time as it is printed: somewhere within this second.
    Second(DateTime<Utc>),
    /// So long ago.
    Ago(TimeDelta),
    /// At this time of the day that was so many days ago.
    Day(u64, NaiveTime),
}

impl When {
    /// The time that is meant, seen from `now`.
    pub(crate) fn seen_from(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Exact(time) | Self::Second(time) => *time,
            Self::Ago(delta) => now.checked_sub_signed(*delta).unwrap_or(DateTime::<Utc>::MIN_UTC),
            Self::Day(ago, time) => {
                let day = now.date_naive().checked_sub_days(Days::new(*ago)).unwrap_or(now.date_naive());
                day.and_time(*time).and_utc()
            }
        }
    }

    /// As [`Self::seen_from`]; but of a second, its end: what is printed with this second was
    /// before that.
    pub(crate) fn end_seen_from(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let time = self.seen_from(now);
        match self {
            Self::Second(_) => time + TimeDelta::milliseconds(999),
            Self::Exact(_) | Self::Ago(_) | Self::Day(..) => time,
        }
    }
}

fn time_of_day(text: &str) -> Option<NaiveTime> {
    NaiveTime::parse_from_str(text, "%H:%M:%S").or_else(|_| NaiveTime::parse_from_str(text, "%H:%M")).ok()
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::Exact(time.to_utc()));
        }
        if let Some(long) = text.strip_suffix(" ago") {
            let long = units::duration(long.trim())?;
            return TimeDelta::from_std(long).map(Self::Ago).map_err(|error| error.to_string());
        }
        for (word, days) in [("today ", 0), ("yesterday ", 1)] {
            if let Some(time) = text.strip_prefix(word).and_then(|rest| time_of_day(rest.trim())) {
                return Ok(Self::Day(days, time));
            }
        }
        let plain = text.strip_suffix(" UTC").unwrap_or(text);
        if let Ok(time) = NaiveDateTime::parse_from_str(plain, "%Y-%m-%d %H:%M:%S") {
            return Ok(Self::Second(time.and_utc()));
        }
        if let Ok(time) = NaiveDateTime::parse_from_str(plain, "%Y-%m-%d %H:%M") {
            return Ok(Self::Exact(time.and_utc()));
        }
        Err(format!(
            "`{text}` is no time; a time looks like 2026-11-23T20:00:00+02:00, \"2026-11-23 18:00:00 UTC\", \"yesterday 18:00\" (UTC) or \"2h ago\""
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::human;

    #[test]
    fn people_write_times_in_many_ways() {
        let now: DateTime<Utc> = "2026-11-24T01:30:00.250Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-23T20:00:00+02:00", "2026-11-23T18:00:00Z"),
            ("2026-11-23 18:00:00 UTC", "2026-11-23T18:00:00Z"),
            ("2026-11-23 18:00", "2026-11-23T18:00:00Z"),
            ("yesterday 18:00", "2026-11-23T18:00:00Z"),
            ("today 01:15:30", "2026-11-24T01:15:30Z"),
            ("2h ago", "2026-11-23T23:30:00.250Z"),
            ("10 d ago", "2026-11-14T01:30:00.250Z"),
        ] {
            let time = text.parse::<When>().unwrap().seen_from(now);
            assert_eq!(time, expected.parse::<DateTime<Utc>>().unwrap(), "{text}");
        }
        for vague in ["", "yesterday", "18:00", "2026-11-23", "ago", "2 ago", "-2h ago", "tomorrow 18:00", "noon"] {
            assert!(vague.parse::<When>().is_err(), "{vague}");
        }
    }

    #[test]
    fn a_printed_time_is_at_or_after_what_it_was_printed_for() {
        let taken: DateTime<Utc> = "2026-11-23T18:32:44.999Z".parse().unwrap();
        let printed: When = human::time(taken).parse().unwrap();
        assert_eq!(printed.end_seen_from(taken), taken);
        assert!(printed.seen_from(taken) < taken);
    }
}
