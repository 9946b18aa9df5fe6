//! Decides which snapshots stay. It looks at nothing but their times.
//!
//! The rules are those of restic and borg: `daily = 7` keeps the newest snapshot of each of the
//! last seven days that have one, in UTC. A snapshot stays if any rule keeps it.
//!
//! A clock may have been wrong. So a time may be false, and no false time may let another snapshot
//! go.

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use crate::config::Retention;

/// Gives the number of the period that a time falls into.
type Period = fn(&DateTime<Utc>) -> i64;

/// What is known of when a snapshot was taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// The time that counts.
    pub(crate) counts: DateTime<Utc>,
    /// What the manifest says; `None` if that lies in the future.
    pub(crate) claimed: Option<DateTime<Utc>>,
}

/// The reasons why each of these, in the order in which the snapshots were made, stays. One without
/// a reason goes.
///
/// Whoever can settle times must not let go what the manifests keep. So a snapshot also stays if
/// the rules keep it by what all manifests say.
pub(crate) fn reasons_as_settled(told: &[Told], retention: &Retention, now: DateTime<Utc>) -> Vec<Vec<String>> {
    let counts: Vec<DateTime<Utc>> = told.iter().map(|told| told.counts).collect();
    let mut found = reasons_as_made(&counts, retention, now);
    if told.iter().all(|told| told.claimed == Some(told.counts)) {
        return found;
    }
    let claims: Vec<(usize, DateTime<Utc>)> =
        told.iter().enumerate().filter_map(|(at, told)| Some((at, told.claimed?))).collect();
    let claimed: Vec<DateTime<Utc>> = claims.iter().map(|(_, claimed)| *claimed).collect();
    for ((at, _), because) in claims.into_iter().zip(reasons_as_made(&claimed, retention, now)) {
        if found[at].is_empty() {
            found[at] = because.into_iter().map(|because| format!("{because}, as its manifest says")).collect();
        }
    }
    found
}

/// The reasons why each of `times`, in the order in which the snapshots were made, stays. One
/// without a reason goes.
///
/// If two times contradict that order, either may be false. So a snapshot also stays if the rules
/// keep it among those whose times agree with all later ones, or with all earlier ones.
pub(crate) fn reasons_as_made(times: &[DateTime<Utc>], retention: &Retention, now: DateTime<Utc>) -> Vec<Vec<String>> {
    let (mut first, mut last) = (DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC);
    let all = 0..times.len();
    let with_later = all.clone().rev().filter(|at| {
        first = first.min(times[*at]);
        first == times[*at]
    });
    let with_earlier = all.clone().filter(|at| {
        last = last.max(times[*at]);
        last == times[*at]
    });
    let mut found = vec![Vec::new(); times.len()];
    for mut made in [all.clone().collect(), with_later.collect(), with_earlier.collect::<Vec<usize>>()] {
        made.sort_by_key(|at| (times[*at], *at));
        let sorted: Vec<DateTime<Utc>> = made.iter().map(|at| times[*at]).collect();
        for (at, because) in made.into_iter().zip(reasons(&sorted, retention, now)) {
            if found[at].is_empty() {
                found[at] = because;
            }
        }
    }
    found
}

/// The reasons why each of `times`, oldest first, stays.
fn reasons(times: &[DateTime<Utc>], retention: &Retention, now: DateTime<Utc>) -> Vec<Vec<String>> {
    let mut reasons = vec![Vec::new(); times.len()];
    if retention.keeps_everything() {
        reasons.iter_mut().for_each(|reason| reason.push("no retention rule".to_owned()));
        return reasons;
    }
    let rules: [(&str, u32, Period); 6] = [
        ("last", retention.keep_last, DateTime::timestamp_millis),
        ("hourly", retention.hourly, |time| time.timestamp().div_euclid(3600)),
        ("daily", retention.daily, |time| i64::from(time.num_days_from_ce())),
        ("weekly", retention.weekly, |time| {
            i64::from(time.iso_week().year()) * 100 + i64::from(time.iso_week().week())
        }),
        ("monthly", retention.monthly, |time| i64::from(time.year()) * 12 + i64::from(time.month())),
        ("yearly", retention.yearly, |time| i64::from(time.year())),
    ];
    for (name, keep, period) in rules {
        let (mut kept, mut last) = (0, None);
        for (at, time) in times.iter().enumerate().rev() {
            let this = Some(period(time));
            if kept < keep && (this != last || name == "last") {
                kept += 1;
                last = this;
                reasons[at].push(format!("{name} {kept} of {keep}"));
            }
        }
    }
    if let Some(within) = retention.within.and_then(|within| TimeDelta::from_std(within).ok()) {
        for (reason, _) in reasons.iter_mut().zip(times).filter(|(_, time)| now - **time <= within) {
            reason.push("younger than `within`".to_owned());
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap_or_default()
    }

    fn kept(times: &[DateTime<Utc>], retention: &Retention, now: DateTime<Utc>) -> Vec<usize> {
        let reasons = reasons(times, retention, now);
        (0..times.len()).filter(|at| !reasons[*at].is_empty()).collect()
    }

    #[test]
    fn keeps_the_newest_of_each_period_that_has_one() {
        let times = [
            time("2026-10-31T23:00:00Z"),
            time("2026-11-01T01:00:00Z"),
            time("2026-11-01T23:59:59Z"),
            // nothing on the 2nd: days without a snapshot do not count
            time("2026-11-03T00:00:00Z"),
        ];
        let now = time("2026-11-03T12:00:00Z");
        assert_eq!(kept(&times, &Retention { daily: 2, ..Retention::default() }, now), [2, 3]);
        assert_eq!(kept(&times, &Retention { monthly: 2, ..Retention::default() }, now), [0, 3]);
        assert_eq!(kept(&times, &Retention { keep_last: 3, ..Retention::default() }, now), [1, 2, 3]);
        assert_eq!(kept(&times, &Retention { yearly: 9, ..Retention::default() }, now), [3]);
    }

    #[test]
    fn a_false_time_lets_no_other_snapshot_go() {
        let daily = Retention { daily: 3, ..Retention::default() };
        let now = time("2026-11-04T12:00:00Z");
        let kept = |times: [&str; 5]| {
            let reasons = reasons_as_made(&times.map(|text| time(&format!("2026-11-{text}:00:00Z"))), &daily, now);
            (0..times.len()).filter(|at| !reasons[*at].is_empty()).collect::<Vec<usize>>()
        };
        assert_eq!(kept(["01T08", "02T08", "03T07", "03T08", "04T08"]), [1, 3, 4]);
        // The clock was ahead: it claims a day that has a later snapshot, or an earlier one.
        assert_eq!(kept(["02T08", "03T07", "03T06", "03T08", "04T08"]), [0, 3, 4]);
        assert_eq!(kept(["02T08", "03T09", "03T06", "03T08", "04T08"]), [0, 1, 3, 4]);
        // It claims a day that has no other.
        assert_eq!(kept(["01T08", "03T08", "02T09", "02T10", "04T08"]), [0, 1, 3, 4]);
        // It was behind.
        assert_eq!(kept(["02T08", "03T08", "02T09", "04T07", "04T08"]), [0, 1, 2, 4]);
        assert_eq!(kept(["01T08", "02T08", "03T08", "01T09", "04T08"]), [1, 2, 3, 4]);
    }

    #[test]
    fn a_settled_time_lets_only_what_lies_in_the_future_go() {
        let daily = Retention { daily: 2, ..Retention::default() };
        let now = time("2026-11-05T12:00:00Z");
        let kept = |told: &[(&str, Option<&str>)]| {
            let day = |text: &str| time(&format!("2026-11-{text}:00:00Z"));
            let told: Vec<Told> =
                told.iter().map(|(counts, claimed)| Told { counts: day(counts), claimed: claimed.map(day) }).collect();
            let reasons = reasons_as_settled(&told, &daily, now);
            (0..told.len()).filter(|at| !reasons[*at].is_empty()).collect::<Vec<usize>>()
        };
        let plain = |text| (text, Some(text));
        // The second one claimed a time in the future. It has its true place, and goes.
        assert_eq!(kept(&[plain("01T08"), ("02T08", None), plain("03T08"), plain("04T08")]), [2, 3]);
        // It fills a place, but lets no other go that the manifests keep.
        assert_eq!(kept(&[plain("03T08"), ("03T09", None), plain("04T08")]), [0, 1, 2]);
        // Whoever settles false times of snapshots of the past lets none of them go.
        assert_eq!(kept(&[("01T08", Some("03T08")), ("01T09", Some("04T08")), plain("01T10")]), [0, 1, 2]);
        assert_eq!(kept(&[("04T08", Some("01T08")), ("04T09", Some("02T08")), plain("03T08"), plain("04T10")]), [2, 3]);
    }

    #[test]
    fn iso_weeks_cross_the_new_year() {
        // 2026-12-31 and 2027-01-01 are in the same ISO week; 2027-01-04 begins the next.
        let times = [time("2026-12-31T10:00:00Z"), time("2027-01-01T10:00:00Z"), time("2027-01-04T10:00:00Z")];
        let now = time("2027-01-05T00:00:00Z");
        assert_eq!(kept(&times, &Retention { weekly: 2, ..Retention::default() }, now), [1, 2]);
    }

    #[test]
    fn within_keeps_up_to_and_including_the_limit() {
        let times = [time("2026-11-01T00:00:00Z"), time("2026-11-01T00:00:01Z"), time("2026-11-02T00:00:00Z")];
        let day = Retention { within: Some(Duration::from_secs(86_400)), ..Retention::default() };
        assert_eq!(kept(&times, &day, time("2026-11-02T00:00:00Z")), [0, 1, 2]);
        assert_eq!(kept(&times, &day, time("2026-11-02T00:00:01Z")), [1, 2]);
    }

    #[test]
    fn no_rule_keeps_everything() {
        let times = [time("2020-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z")];
        assert_eq!(kept(&times, &Retention::default(), time("2026-11-02T00:00:00Z")), [0, 1]);
    }
}
