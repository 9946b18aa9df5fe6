//! Hours of a day on some days of the week, as windows in the configuration have them.
//!
//! They hold from their first minute up to, but not including, their end. Those whose end is at or
//! before their beginning end on the next day, and belong to the day on which they began.

use chrono::{Datelike, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Weekday};

const MINUTES_A_DAY: u32 = 24 * 60;
const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Hours of a day on some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// On which days they begin.
    pub days: Days,
    /// Their first minute of the day, below 24 × 60.
    pub from: u32,
    /// The minute after their last, at most 24 × 60. If it is at or before `from`, it is on the
    /// next day.
    pub to: u32,
}

impl Hours {
    /// Whether they hold at this time of the wall clock.
    #[must_use]
    pub fn hold(&self, local: NaiveDateTime) -> bool {
        let minute = local.hour() * 60 + local.minute();
        let (today, yesterday) = (local.weekday(), local.weekday().pred());
        if self.from < self.to {
            self.days.contains(today) && (self.from..self.to).contains(&minute)
        } else {
            self.days.contains(today) && minute >= self.from || self.days.contains(yesterday) && minute < self.to
        }
    }

    /// When they begin next, at or after this time of the wall clock.
    #[must_use]
    pub fn next_beginning(&self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let midnight = local.date().and_time(NaiveTime::MIN);
        let begins = |day: i64| midnight + TimeDelta::days(day) + TimeDelta::minutes(i64::from(self.from));
        (0..=7).map(begins).find(|begin| *begin >= local && self.days.contains(begin.weekday()))
    }
}

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days([bool; 7]);

impl Days {
    /// Every day.
    pub const ALL: Self = Self([true; 7]);

    /// Parses `mon-fri`, `sat,sun`, `fri-mon`, `wed`: days, ranges of days, and lists of these.
    /// `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let day = |text: &str| DAY_NAMES.iter().position(|name| name.eq_ignore_ascii_case(text.trim()));
        let mut days = [false; 7];
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            for ahead in 0..=(last + 7 - first) % 7 {
                days[(first + ahead) % 7] = true;
            }
        }
        Some(Self(days))
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains(self, day: Weekday) -> bool {
        self.0[day.num_days_from_monday() as usize]
    }
}

/// Parses `08:00` to minutes of the day; `24:00` is its end. `None` for anything else.
#[must_use]
pub fn parse_time_of_day(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= MINUTES_A_DAY).then_some(of_day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str) -> NaiveDateTime {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn days_and_times_are_read_and_nothing_vague() {
        assert_eq!(Days::parse("mon-sun"), Some(Days::ALL));
        assert_eq!(Days::parse("SAT, sun"), Days::parse("sat-sun"));
        assert_eq!(Days::parse("fri-mon"), Days::parse("fri,sat,sun,mon"));
        for bad in ["", "monday", "mon-", "mon-fri-sun", "mon;tue", "1-5", "*"] {
            assert_eq!(Days::parse(bad), None, "{bad}");
        }
        assert_eq!((parse_time_of_day("00:00"), parse_time_of_day("24:00")), (Some(0), Some(MINUTES_A_DAY)));
        for bad in ["", "8:00", "08", "08:60", "24:01", "25:00", "08:00:00", "-8:00", "8 am"] {
            assert_eq!(parse_time_of_day(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_next_beginning_is_on_a_day_of_theirs() {
        // The 23rd is a Monday.
        let hours = Hours { days: Days::parse("mon-fri").unwrap_or(Days::ALL), from: 22 * 60, to: 6 * 60 };
        for (time, begins) in [
            ("2026-11-23T12:00:00", "2026-11-23T22:00:00"),
            ("2026-11-23T22:00:00", "2026-11-23T22:00:00"),
            ("2026-11-23T22:00:01", "2026-11-24T22:00:00"),
            ("2026-11-28T01:00:00", "2026-11-30T22:00:00"),
        ] {
            assert_eq!(hours.next_beginning(local(time)), Some(local(begins)), "{time}");
        }
    }
}
