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

/// Told where there is no result.
const TOLD_NOTHING: &str = "nothing";
/// Told where there is no row.
const TOLD_NO_ROW: &str = "no row";
/// Told where a column has no value.
const TOLD_NULL: &str = "NULL";
/// Told of a text that nobody would see.
const TOLD_EMPTY: &str = "an empty text";

/// The first column of the first row that a query of SQL gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstValue<'v> {
    NoRow,
    Null,
    Text(&'v str),
}

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
        self.judge_as(found, found.map_or(TOLD_NOTHING, visible))
    }

    /// As [`Self::judge`]. No row, and no value, are as an empty text for what is expected, but are
    /// told as what they are.
    pub(crate) fn judge_value(&self, found: FirstValue<'_>) -> (bool, String) {
        match found {
            FirstValue::NoRow => self.judge_as(Some(""), TOLD_NO_ROW),
            FirstValue::Null => self.judge_as(Some(""), TOLD_NULL),
            FirstValue::Text(text) => self.judge(Some(text)),
        }
    }

    fn judge_as(&self, found: Option<&str>, told: &str) -> (bool, String) {
        let (mut wanted, mut passed) = (Vec::new(), true);
        if let Some(expected) = &self.expect {
            passed &= found == Some(expected);
            wanted.push(visible(expected).to_owned());
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

    /// Whether what was told of its result shows a number, where one must be given. Nothing is an
    /// answer, too: what held the number is gone.
    #[must_use]
    pub fn is_answered_by(&self, told: &str) -> bool {
        let wants_number = self.at_least.is_some() || self.at_most.is_some();
        let found = told.rsplit_once(", found ").map_or(told, |(_, found)| found);
        // Redis says where it found it.
        let found = found.split_once(" in database ").map_or(found, |(found, _)| found).trim();
        let is_number = || found.parse().is_ok_and(|found: f64| found.is_finite());
        // The client of MariaDB writes the last one itself.
        !wants_number || [TOLD_NOTHING, TOLD_NO_ROW, TOLD_EMPTY, TOLD_NULL].contains(&found) || is_number()
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

/// A text, so that it is seen that there is one.
fn visible(text: &str) -> &str {
    if text.is_empty() { TOLD_EMPTY } else { text }
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
        for (found, is_answer) in [(Some("9"), true), (None, true), (Some(""), true), (Some("bob"), false)] {
            assert_eq!(between.is_answered_by(&between.judge(found).1), is_answer, "{found:?}");
            assert!(exactly.is_answered_by(&exactly.judge(found).1), "{found:?}");
        }
        assert!(!between.is_answered_by(&between.judge(Some("a, found b")).1));
        let of_redis = |found| format!("{} in database 0", between.judge(Some(found)).1);
        assert!(between.is_answered_by(&of_redis("9")) && !between.is_answered_by(&of_redis("bob")));
        // An empty text stands for both, and each is told as what it is.
        let empty = DrillQuery { expect: Some(String::new()), ..query() };
        for (found, told) in
            [(FirstValue::NoRow, "no row"), (FirstValue::Null, "NULL"), (FirstValue::Text(""), "an empty text")]
        {
            assert_eq!(empty.judge_value(found), (true, format!("expected an empty text, found {told}")));
            let (passed, said) = between.judge_value(found);
            assert!(!passed && said.ends_with(&format!("found {told}")), "{said}");
            assert!(between.is_answered_by(&said), "{said}");
        }
        assert_eq!(between.judge_value(FirstValue::Text("10")), between.judge(Some("10")));
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
            fresh.judge_value(FirstValue::Text("x")).1,
            "expected a time from 2026-11-23 18:00:00 UTC to 2026-11-24 20:00:00 UTC, found x"
        );
        let (passed, said) = fresh.judge_value(FirstValue::Null);
        assert!(!passed && said.ends_with("UTC, found NULL"), "{said}");
        assert!(!DrillQuery { taken_at: None, ..fresh }.judge(Some("2026-11-24")).0, "nobody knows what is fresh");
    }
}
