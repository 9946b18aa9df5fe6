//! What must be true of the result of an operator's query.
//!
//! A result that cannot be read as what is asked for, a number or a time, is not as expected: it
//! never passes.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::DrillQuery;

/// A fresh time may be so much later than when the snapshot was taken: clocks differ, and a time
/// without a zone may be that of any place.
const MOST_AHEAD: TimeDelta = TimeDelta::days(1);

/// A number in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number")]
pub enum Number {
    /// Compared exactly with results that are whole numbers, too.
    Whole(i64),
    /// Compared as floating point.
    Real(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number}"),
        }
    }
}

impl Number {
    /// How a result compares with this. `None`: it is no number.
    fn compared_to(self, found: &str) -> Option<std::cmp::Ordering> {
        let found = found.trim();
        if let (Self::Whole(number), Ok(found)) = (self, found.parse::<i128>()) {
            return Some(found.cmp(&i128::from(number)));
        }
        let number = match self {
            Self::Whole(number) => number as f64,
            Self::Real(number) => number,
        };
        let found: f64 = found.parse().ok().filter(|found: &f64| found.is_finite())?;
        found.partial_cmp(&number)
    }
}

impl DrillQuery {
    /// Whether its result matters, and not merely that it succeeds.
    pub(crate) fn wants_result(&self) -> bool {
        self.expect.is_some() || self.at_least.is_some() || self.at_most.is_some() || self.fresher_than.is_some()
    }

    /// Whether what it found, `None` if that is nothing, is as expected; and what is told of it.
    pub(crate) fn judge(&self, found: Option<&str>) -> (bool, String) {
        let told = found.unwrap_or("nothing");
        let (mut wanted, mut passed) = (Vec::new(), true);
        if let Some(expected) = &self.expect {
            passed &= found == Some(expected);
            wanted.push(expected.clone());
        }
        let found = found.unwrap_or_default();
        if let Some(least) = self.at_least {
            passed &= least.compared_to(found).is_some_and(std::cmp::Ordering::is_ge);
            wanted.push(format!("at least {least}"));
        }
        if let Some(most) = self.at_most {
            passed &= most.compared_to(found).is_some_and(std::cmp::Ordering::is_le);
            wanted.push(format!("at most {most}"));
        }
        if let Some(age) = self.fresher_than {
            let (is_fresh, limit) = self.freshness(age, found);
            passed &= is_fresh;
            wanted.push(limit);
        }
        (passed, format!("expected {}, found {told}", wanted.join(" and ")))
    }

    fn freshness(&self, age: Duration, found: &str) -> (bool, String) {
        let Some(taken) = self.taken_at else {
            return (false, "a snapshot of which it is known when it was taken".to_owned());
        };
        let Some(limit) = TimeDelta::from_std(age).ok().and_then(|age| taken.checked_sub_signed(age)) else {
            return (false, "a time that can be told".to_owned());
        };
        // What lies beyond is no time at which a row was written: milliseconds that are read as
        // seconds, or the end of all time that stands for "never ends".
        let Some(latest) = taken.checked_add_signed(MOST_AHEAD) else {
            return (false, "a time that can be told".to_owned());
        };
        let shown = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
        let is_fresh = time_of(found).is_some_and(|found| found >= limit && found <= latest);
        (is_fresh, format!("a time from {} to {}", shown(limit), shown(latest)))
    }
}

/// The time that a database wrote. One without a zone is UTC, a date is its midnight, and a number
/// counts seconds since 1970.
fn time_of(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let zoned = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"];
    if let Some(time) = zoned.iter().find_map(|format| DateTime::parse_from_str(text, format).ok()) {
        return Some(time.to_utc());
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let plain = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    if let Some(time) = plain.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok()) {
        return Some(time.and_utc());
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_time(NaiveTime::MIN).and_utc());
    }
    let seconds: f64 = text.parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
    DateTime::from_timestamp_millis((seconds * 1000.0) as i64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn query() -> DrillQuery {
        DrillQuery { sql: "SELECT 1".to_owned(), ..DrillQuery::default() }
    }

    #[test]
    fn a_result_is_compared_exactly_or_as_a_number() {
        let exactly = DrillQuery { expect: Some("10".to_owned()), ..query() };
        let between = DrillQuery { at_least: Some(Number::Whole(10)), at_most: Some(Number::Real(20.5)), ..query() };
        for (query, found, passes) in [
            (&exactly, Some("10"), true),
            (&exactly, Some("10.0"), false),
            (&exactly, None, false),
            (&between, Some("10"), true),
            (&between, Some("9"), false),
            (&between, Some("9.999"), false),
            (&between, Some(" 20.5 "), true),
            (&between, Some("20.51"), false),
            (&between, Some("21"), false),
            // Nothing, and what is no number, never passes.
            (&between, Some(""), false),
            (&between, None, false),
            (&between, Some("NaN"), false),
            (&between, Some("inf"), false),
            (&between, Some("eleven"), false),
        ] {
            let (passed, told) = query.judge(found);
            assert_eq!(passed, passes, "{found:?}: {told}");
        }
        assert_eq!(between.judge(Some("9")).1, "expected at least 10 and at most 20.5, found 9");
        assert_eq!(exactly.judge(None).1, "expected 10, found nothing");
        assert!(DrillQuery { expect: Some(String::new()), ..query() }.judge(Some("")).0);
        assert!(!DrillQuery { expect: Some(String::new()), ..query() }.judge(None).0, "what is missing is not empty");
        // One above 2^53, where floating point would call them equal.
        let large = DrillQuery { at_least: Some(Number::Whole(9_007_199_254_740_993)), ..query() };
        assert!(large.judge(Some("9007199254740993")).0 && !large.judge(Some("9007199254740992")).0);
    }

    #[test]
    fn freshness_counts_from_when_the_snapshot_was_taken() {
        let taken = "2026-11-23T20:00:00Z".parse().unwrap();
        let fresh = DrillQuery { fresher_than: Some(Duration::from_secs(7200)), taken_at: Some(taken), ..query() };
        for (found, passes) in [
            ("2026-11-23T18:00:00Z", true),
            ("2026-11-23T17:59:59Z", false),
            ("2026-11-23 18:00:00", true),
            ("2026-11-23 17:59:59.999999", false),
            // As PostgreSQL writes them.
            ("2026-11-23 18:30:00.123456+00", true),
            ("2026-11-23 19:30:00+01", true),
            ("2026-11-23 18:30:00+01", false),
            ("2026-11-23 23:29:59.5+05:30", false),
            ("2026-11-23 13:00:00-05", true),
            ("2026-11-24", true),
            ("2026-11-23", false),
            // 18:00:00 UTC.
            ("1795456800", true),
            ("1795456799", false),
            ("2026-11-24 20:00:00", true),
            // More than a day later, no row was written: these are no such times.
            ("2026-11-24 20:00:01", false),
            ("1795456800000", false),
            ("1795456800000000", false),
            ("9999-12-31", false),
            ("9999-12-31 23:59:59", false),
            ("", false),
            ("yesterday", false),
        ] {
            let (passed, told) = fresh.judge(Some(found));
            assert_eq!(passed, passes, "{found}: {told}");
        }
        assert_eq!(
            fresh.judge(Some("x")).1,
            "expected a time from 2026-11-23 18:00:00 UTC to 2026-11-24 20:00:00 UTC, found x"
        );
        assert!(!DrillQuery { taken_at: None, ..fresh }.judge(Some("2026-11-24")).0, "nobody knows what is fresh");
    }
}
