//! How many bytes a second may pass: a cap, and windows with other caps between two times of day.
//!
//! Windows follow the wall clock of a time zone. What the change to summer time skips of a window
//! is skipped; what the change back repeats of it counts twice. If several windows hold at once,
//! the one that is written first counts.

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Tz;
use lifeboat_base::hours::Hours;
use lifeboat_base::settings::units;

/// A slower rate is refused: a backup at that rate would hardly ever end.
const MIN_BYTES_A_SECOND: u64 = 64 << 10;

/// Bytes a second; `None` for no cap.
pub type Rate = Option<u64>;

/// Which rate is allowed at which time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bandwidth {
    rate: Rate,
    windows: Vec<Window>,
    time_zone: Tz,
}

impl Default for Bandwidth {
    /// No cap at any time.
    fn default() -> Self {
        Self::always(None)
    }
}

impl Bandwidth {
    /// The same cap at all times.
    #[must_use]
    pub fn always(rate: Rate) -> Self {
        Self::new(rate, Vec::new(), Tz::UTC)
    }

    /// `rate` outside all of `windows`, which are read on the wall clock of `time_zone`.
    #[must_use]
    pub fn new(rate: Rate, windows: Vec<Window>, time_zone: Tz) -> Self {
        Self { rate, windows, time_zone }
    }

    /// Whether there is a cap at any time.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        self.rate.is_some() || self.windows.iter().any(|window| window.rate.is_some())
    }

    /// The rate that is allowed at a time of the wall clock.
    #[must_use]
    fn rate_at(&self, local: NaiveDateTime) -> Rate {
        self.windows.iter().find(|window| window.hours.hold(local)).map_or(self.rate, |window| window.rate)
    }

    /// The rate that is allowed at `now`.
    #[must_use]
    pub fn rate(&self, now: DateTime<Utc>) -> Rate {
        if self.windows.is_empty() { self.rate } else { self.rate_at(now.with_timezone(&self.time_zone).naive_local()) }
    }
}

/// Another cap at some hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// When it holds.
    pub hours: Hours,
    /// The rate that is allowed.
    pub rate: Rate,
}

/// Parses a size a second, such as `20MiB/s`, or `unlimited`, which is `None`.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "unlimited" {
        return Ok(None);
    }
    let bytes = text.strip_suffix("/s").and_then(|text| units::size(text.trim_end()).ok());
    match bytes {
        Some(bytes @ MIN_BYTES_A_SECOND..) => Ok(Some(bytes)),
        Some(_) => Err(format!("`{text}` is so slow that a backup would hardly ever end: use at least \"64KiB/s\"")),
        None => Err(format!(
            "`{text}` is not a rate: write a number and B, KiB, MiB or GiB a second, such as \"20MiB/s\", or \"unlimited\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_base::hours::{Days, parse_time_of_day};

    use super::*;

    #[test]
    fn reads_rates_as_operators_write_them_and_nothing_vague() {
        assert_eq!(
            (parse_rate("20MiB/s"), parse_rate("64 KiB/s"), parse_rate("unlimited")),
            (Ok(Some(20 << 20)), Ok(Some(64 << 10)), Ok(None))
        );
        for bad in ["", "20MiB", "20Mbit/s", "20MB/s", "0B/s", "65535B/s", "/s", "20MiB/m", "none"] {
            assert!(parse_rate(bad).is_err(), "{bad} passed");
        }
    }

    const FAST: Rate = Some(20 << 20);
    const SLOW: Rate = Some(5 << 20);

    fn window(days: &str, from: &str, to: &str, rate: Rate) -> Window {
        let minute = |text| parse_time_of_day(text).unwrap_or_else(|| panic!("{text}"));
        let days = Days::parse(days).unwrap_or_else(|| panic!("{days}"));
        Window { hours: Hours { days, from: minute(from), to: minute(to) }, rate }
    }

    fn local(text: &str) -> NaiveDateTime {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    /// In November 2026 the 23rd is a Monday.
    fn check(windows: Vec<Window>, expected: &[(&str, Rate)]) {
        let bandwidth = Bandwidth::new(FAST, windows, Tz::UTC);
        for (time, rate) in expected {
            assert_eq!(bandwidth.rate_at(local(&format!("2026-11-{time}"))), *rate, "{time}");
        }
    }

    #[test]
    fn office_hours_begin_and_end_on_the_minute() {
        check(
            vec![window("mon-fri", "08:00", "18:00", SLOW)],
            &[
                ("23T07:59:59", FAST),
                ("23T08:00:00", SLOW),
                ("23T17:59:59.999", SLOW),
                ("23T18:00:00", FAST),
                ("27T12:00:00", SLOW),
                ("28T12:00:00", FAST),
                ("22T12:00:00", FAST),
            ],
        );
    }

    #[test]
    fn a_window_across_midnight_belongs_to_the_day_it_began_on() {
        check(
            vec![window("fri", "22:00", "06:00", None)],
            &[
                ("27T05:59:59", FAST),
                ("27T21:59:59", FAST),
                ("27T22:00:00", None),
                ("28T00:00:00", None),
                ("28T05:59:59", None),
                ("28T06:00:00", FAST),
                ("28T22:00:00", FAST),
            ],
        );
        // From Sunday into Monday.
        check(
            vec![window("sun", "23:00", "01:00", SLOW)],
            &[("22T23:00:00", SLOW), ("23T00:59:59", SLOW), ("23T01:00:00", FAST), ("23T23:00:00", FAST)],
        );
    }

    #[test]
    fn a_window_may_last_to_midnight_or_begin_there() {
        check(
            vec![window("sat-sun", "00:00", "24:00", None)],
            &[("27T23:59:59", FAST), ("28T00:00:00", None), ("29T23:59:59", None), ("30T00:00:00", FAST)],
        );
        check(
            vec![window("mon", "20:00", "00:00", SLOW)],
            &[("23T19:59:59", FAST), ("23T23:59:59", SLOW), ("24T00:00:00", FAST)],
        );
    }

    #[test]
    fn of_overlapping_windows_the_first_written_counts() {
        let lunch = window("mon-fri", "12:00", "13:00", None);
        let office = window("mon-fri", "08:00", "18:00", SLOW);
        check(vec![lunch.clone(), office.clone()], &[("23T12:30:00", None), ("23T13:00:00", SLOW)]);
        check(vec![office, lunch], &[("23T12:30:00", SLOW)]);
    }

    #[test]
    fn windows_follow_the_wall_clock_through_both_changes() {
        // In 2026 Berlin leaves winter on 29 March at 01:00 UTC, and summer on 25 October at 01:00
        // UTC; both are Sundays.
        let night = window("sun", "02:30", "03:30", SLOW);
        let bandwidth = Bandwidth::new(FAST, vec![night], Tz::Europe__Berlin);
        for (time, rate) in [
            // 02:30 to 03:00 does not happen: the window begins at 03:00 local.
            ("2026-03-29T00:59:59Z", FAST),
            ("2026-03-29T01:00:00Z", SLOW),
            ("2026-03-29T01:29:59Z", SLOW),
            ("2026-03-29T01:30:00Z", FAST),
            // 02:30 to 03:00 happens twice.
            ("2026-10-25T00:29:59Z", FAST),
            ("2026-10-25T00:30:00Z", SLOW),
            ("2026-10-25T00:59:59Z", SLOW),
            ("2026-10-25T01:00:00Z", FAST),
            ("2026-10-25T01:30:00Z", SLOW),
            ("2026-10-25T02:29:59Z", SLOW),
            ("2026-10-25T02:30:00Z", FAST),
        ] {
            assert_eq!(bandwidth.rate(time.parse().unwrap_or_default()), rate, "{time}");
        }
    }

    #[test]
    fn a_cap_at_any_time_is_a_cap() {
        assert!(!Bandwidth::default().is_capped());
        assert!(Bandwidth::always(SLOW).is_capped());
        assert!(Bandwidth::new(None, vec![window("mon", "08:00", "09:00", SLOW)], Tz::UTC).is_capped());
        assert!(!Bandwidth::new(None, vec![window("mon", "08:00", "09:00", None)], Tz::UTC).is_capped());
    }
}
