//! Decides which snapshots stay. It looks at nothing but their times.
//!
//! The rules are those of restic and borg: `daily = 7` keeps the newest snapshot of each of the
//! last seven days that have one, in UTC. A snapshot stays if any rule keeps it.
//!
//! A clock may have been wrong. So a time may be false, and no false time may let another snapshot
//! go.

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};

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
    let as_claimed = |because: Vec<String>| {
        because.into_iter().map(|because| format!("{because}, as its manifest says")).collect::<Vec<String>>()
    };
    as_settled(told, |times| reasons(times, retention, now), first_that_keeps, as_claimed)
}

/// As [`reasons_as_settled`], where no manifest says anything else than what counts.
#[cfg(test)]
fn reasons_as_made(times: &[DateTime<Utc>], retention: &Retention, now: DateTime<Utc>) -> Vec<Vec<String>> {
    as_made(times, &|times| reasons(times, retention, now), &first_that_keeps)
}

fn first_that_keeps(found: &mut Vec<String>, because: Vec<String>) {
    if found.is_empty() {
        *found = because;
    }
}

/// Until when the rules keep each of these at least, whatever is backed up from now on, as long as
/// clocks are right. That is no later than `latest`; `None`: the next backup may let it go.
pub(crate) fn kept_at_least(
    told: &[Told],
    retention: &Retention,
    now: DateTime<Utc>,
    latest: DateTime<Utc>,
) -> Vec<Option<DateTime<Utc>>> {
    let add = |found: &mut Option<DateTime<Utc>>, until: Option<DateTime<Utc>>| *found = until.max(*found);
    as_settled(told, |times| until_at_least(times, retention, now, latest), add, |until| until)
}

/// What `judge` says of each of these: by the times that count, and by what all manifests say.
fn as_settled<T: Clone + Default>(
    told: &[Told],
    judge: impl Fn(&[DateTime<Utc>]) -> Vec<T>,
    add: impl Fn(&mut T, T),
    as_claimed: impl Fn(T) -> T,
) -> Vec<T> {
    let counts: Vec<DateTime<Utc>> = told.iter().map(|told| told.counts).collect();
    let mut found = as_made(&counts, &judge, &add);
    if told.iter().all(|told| told.claimed == Some(told.counts)) {
        return found;
    }
    let claims: Vec<(usize, DateTime<Utc>)> =
        told.iter().enumerate().filter_map(|(at, told)| Some((at, told.claimed?))).collect();
    let claimed: Vec<DateTime<Utc>> = claims.iter().map(|(_, claimed)| *claimed).collect();
    for ((at, _), judged) in claims.into_iter().zip(as_made(&claimed, &judge, &add)) {
        add(&mut found[at], as_claimed(judged));
    }
    found
}

/// What `judge` says of each of `times`, in the order in which the snapshots were made.
///
/// If two times contradict that order, either may be false. So it is also asked of those whose
/// times agree with all later ones, and of those whose times agree with all earlier ones.
fn as_made<T: Clone + Default>(
    times: &[DateTime<Utc>],
    judge: &impl Fn(&[DateTime<Utc>]) -> Vec<T>,
    add: &impl Fn(&mut T, T),
) -> Vec<T> {
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
    let mut found = vec![T::default(); times.len()];
    for mut made in [all.clone().collect(), with_later.collect(), with_earlier.collect::<Vec<usize>>()] {
        made.sort_by_key(|at| (times[*at], *at));
        let sorted: Vec<DateTime<Utc>> = made.iter().map(|at| times[*at]).collect();
        for (at, judged) in made.into_iter().zip(judge(&sorted)) {
            add(&mut found[at], judged);
        }
    }
    found
}

/// A rule that keeps the newest snapshot of each of the last so many periods that have one.
struct PeriodRule {
    name: &'static str,
    keep: u32,
    period: Period,
}

const EACH_SNAPSHOT: &str = "last";
/// No period is longer.
const LONGEST_PERIOD_HOURS: i64 = 366 * 24;

impl PeriodRule {
    fn all(retention: &Retention) -> [Self; 6] {
        let rule = |name, keep, period| Self { name, keep, period };
        [
            rule(EACH_SNAPSHOT, retention.keep_last, DateTime::timestamp_millis),
            rule("hourly", retention.hourly, |time| time.timestamp().div_euclid(3600)),
            rule("daily", retention.daily, |time| i64::from(time.num_days_from_ce())),
            rule("weekly", retention.weekly, |time| {
                i64::from(time.iso_week().year()) * 100 + i64::from(time.iso_week().week())
            }),
            rule("monthly", retention.monthly, |time| i64::from(time.year()) * 12 + i64::from(time.month())),
            rule("yearly", retention.yearly, |time| i64::from(time.year())),
        ]
    }

    /// Those of `times`, oldest first, that it keeps: the newest is its first.
    fn kept(&self, times: &[DateTime<Utc>]) -> impl Iterator<Item = (usize, u32)> {
        let (mut kept, mut last) = (0, None);
        times.iter().enumerate().rev().filter_map(move |(at, time)| {
            let this = Some((self.period)(time));
            (kept < self.keep && (this != last || self.name == EACH_SNAPSHOT)).then(|| {
                kept += 1;
                last = this;
                (at, kept)
            })
        })
    }

    /// When the next period begins. Each begins with an hour.
    fn next(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let hour = time - TimeDelta::seconds(time.timestamp().rem_euclid(3600));
        let hour = hour.with_nanosecond(0)?;
        let after = |hours| hour.checked_add_signed(TimeDelta::hours(hours));
        let (mut same, mut other) = (0, LONGEST_PERIOD_HOURS);
        while other - same > 1 {
            let middle = (same + other) / 2;
            if (self.period)(&after(middle)?) == (self.period)(&time) { same = middle } else { other = middle }
        }
        after(other)
    }

    /// When it can first let go what it keeps of these, the newest of them first, if there is a
    /// backup in each period from now on: one for each more of them.
    fn lets_go(&self, times: &[DateTime<Utc>], now: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        let is_now = |time: &DateTime<Utc>| (self.period)(time) == (self.period)(&now);
        let first = if times.iter().any(is_now) { self.next(now) } else { Some(now) };
        std::iter::successors(first, |time| self.next(*time))
    }
}

fn within(retention: &Retention) -> Option<TimeDelta> {
    retention.within.and_then(|within| TimeDelta::from_std(within).ok())
}

/// The reasons why each of `times`, oldest first, stays.
fn reasons(times: &[DateTime<Utc>], retention: &Retention, now: DateTime<Utc>) -> Vec<Vec<String>> {
    let mut reasons = vec![Vec::new(); times.len()];
    if retention.keeps_everything() {
        reasons.iter_mut().for_each(|reason| reason.push("no retention rule".to_owned()));
        return reasons;
    }
    for rule in PeriodRule::all(retention) {
        for (at, kept) in rule.kept(times) {
            reasons[at].push(format!("{} {kept} of {}", rule.name, rule.keep));
        }
    }
    if let Some(within) = within(retention) {
        for (reason, _) in reasons.iter_mut().zip(times).filter(|(_, time)| now - **time <= within) {
            reason.push("younger than `within`".to_owned());
        }
    }
    reasons
}

/// As [`kept_at_least`], of `times`, oldest first.
///
/// The newest snapshot of a period that has not ended gives way to the next one. That of another
/// period goes when so many more periods have a snapshot as the rule keeps beside it.
fn until_at_least(
    times: &[DateTime<Utc>],
    retention: &Retention,
    now: DateTime<Utc>,
    latest: DateTime<Utc>,
) -> Vec<Option<DateTime<Utc>>> {
    if retention.keeps_everything() {
        return vec![Some(latest); times.len()];
    }
    let mut until: Vec<Option<DateTime<Utc>>> = vec![None; times.len()];
    for rule in PeriodRule::all(retention).iter().filter(|rule| rule.name != EACH_SNAPSHOT) {
        let has_ended = |time: DateTime<Utc>| time < now && (rule.period)(&time) != (rule.period)(&now);
        let mut goes = rule.lets_go(times, now).take_while(|time| *time < latest).fuse();
        // Those that are kept for the shortest time come first.
        let kept: Vec<(usize, u32)> = rule.kept(times).collect();
        let (mut passed, mut next) = (0, goes.next());
        for (at, rank) in kept.into_iter().rev().filter(|(at, _)| has_ended(times[*at])) {
            while passed < rule.keep - rank && next.is_some() {
                (passed, next) = (passed + 1, goes.next());
            }
            until[at] = until[at].max(Some(next.unwrap_or(latest)));
        }
    }
    if let Some(within) = within(retention) {
        for (until, time) in until.iter_mut().zip(times).filter(|(_, time)| now - **time <= within) {
            let end = time.checked_add_signed(within).unwrap_or(latest);
            *until = (*until).max(Some(end.min(latest)));
        }
    }
    until
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

    /// What is kept at least, of snapshots whose manifests tell what counts.
    fn at_least(times: &[&str], retention: &Retention, now: &str) -> Vec<Option<DateTime<Utc>>> {
        let told: Vec<Told> = times.iter().map(|text| Told { counts: time(text), claimed: Some(time(text)) }).collect();
        kept_at_least(&told, retention, time(now), time("2040-01-01T00:00:00Z"))
    }

    #[test]
    fn what_is_the_newest_of_a_period_that_has_ended_is_kept_for_as_many_periods_as_the_rule_has() {
        let ends = |until: [Option<&str>; 3]| until.map(|until| until.map(time)).to_vec();
        let (years, now) =
            (["2024-12-31T10:00:00Z", "2025-12-31T10:00:00Z", "2026-11-29T10:00:00Z"], "2026-11-30T12:00:00Z");
        let yearly = |keep| Retention { yearly: keep, ..Retention::default() };
        let [begins_2027, begins_2028] = ["2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"].map(Some);
        assert_eq!(at_least(&years, &yearly(3), now), ends([begins_2027, begins_2028, None]));
        assert_eq!(at_least(&years, &yearly(2), now), ends([None, begins_2027, None]));
        // A year that has no snapshot yet may have one from now on, and costs no more than another.
        let before = ["2023-12-31T10:00:00Z", years[0], years[1]];
        assert_eq!(at_least(&before, &yearly(3), now), ends([Some(now), begins_2027, begins_2028]));
        // Months, weeks, days and hours.
        let months = ["2026-09-30T10:00:00Z", "2026-10-31T10:00:00Z", "2026-11-29T10:00:00Z"];
        let monthly = Retention { monthly: 3, ..Retention::default() };
        let ended = ends([Some("2026-12-01T00:00:00Z"), begins_2027, None]);
        assert_eq!(at_least(&months, &monthly, now), ended);
        let weekly = Retention { weekly: 1, ..Retention::default() };
        let before = ends([None, None, Some(now)]);
        assert_eq!(at_least(&months, &weekly, now), before, "that week has ended on the 30th");
        let fine = Retention { daily: 2, hourly: 4, ..Retention::default() };
        let days = ["2026-11-28T10:00:00Z", "2026-11-29T10:00:00Z", "2026-11-30T09:59:00Z"];
        let ended = ends([Some("2026-11-30T13:00:00Z"), Some("2026-12-01T00:00:00Z"), Some("2026-11-30T15:00:00Z")]);
        assert_eq!(at_least(&days, &fine, now), ended);
        // By number, the next backup may let all go. By age, it is known.
        assert_eq!(at_least(&days, &Retention { keep_last: 9, ..Retention::default() }, now), ends([None; 3]));
        let within = Retention { within: Some(Duration::from_secs(36 * 3600)), ..Retention::default() };
        let ended = ends([None, Some("2026-11-30T22:00:00Z"), Some("2026-12-01T21:59:00Z")]);
        assert_eq!(at_least(&days, &within, now), ended);
        let latest = ends([Some("2040-01-01T00:00:00Z"); 3]);
        assert_eq!(at_least(&days, &Retention::default(), now), latest);
        assert_eq!(at_least(&years, &yearly(u32::MAX), now), [latest[0], latest[1], None]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(if cfg!(debug_assertions) { 400 } else { 20_000 }))]

        /// Clocks may have been wrong until now, in any way. From now on they are right.
        #[test]
        fn nothing_goes_before_the_time_until_which_it_is_kept_at_least(
            history in proptest::collection::vec((0_i64..24 * 900, 0_i64..24 * 900, 0_u8..8), 0..40),
            is_in_order in proptest::bool::ANY,
            (last, hourly, daily) in (0_u32..3, 0_u32..30, 0_u32..10),
            (weekly, monthly, yearly) in (0_u32..6, 0_u32..6, 0_u32..4),
            within in proptest::option::of(0_u64..400 * 24 * 3600),
            gaps in proptest::collection::vec((0_i64..3600 * 24 * 40, 0_u8..4), 1..60),
            hour in 0_i64..24 * 400,
        ) {
            let now = time("2026-11-30T12:34:56Z") + TimeDelta::hours(hour);
            let ago = |hours: i64| now - TimeDelta::hours(hours);
            let told = |(counts, claimed, kind): (i64, i64, u8)| Told {
                counts: ago(counts),
                claimed: match kind {
                    0 => None,
                    1 => Some(ago(claimed)),
                    _ => Some(ago(counts)),
                },
            };
            let mut told: Vec<Told> = history.into_iter().map(told).collect();
            if is_in_order {
                told.sort_by_key(|told| told.counts);
            }
            let retention = Retention { keep_last: last, hourly, daily, weekly, monthly, yearly, ..Retention::default() };
            let retention = Retention { within: within.map(Duration::from_secs), ..retention };
            let until = kept_at_least(&told, &retention, now, now + TimeDelta::days(4000));
            let mut at = now;
            for (seconds, fine) in gaps {
                // Many of them within an hour, and few that are far apart.
                at += TimeDelta::seconds(if fine > 0 { seconds / 2000 } else { seconds });
                for has_backup in [false, true] {
                    if has_backup {
                        told.push(Told { counts: at, claimed: Some(at) });
                    }
                    let reasons = reasons_as_settled(&told, &retention, at);
                    for (number, until) in until.iter().enumerate() {
                        let is_kept = !reasons[number].is_empty();
                        proptest::prop_assert!(is_kept || until.is_none_or(|until| until <= at), "{number}: {until:?} at {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_rule_keeps_everything() {
        let times = [time("2020-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z")];
        assert_eq!(kept(&times, &Retention::default(), time("2026-11-02T00:00:00Z")), [0, 1]);
    }
}
