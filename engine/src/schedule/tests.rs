#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use lifeboat_base::hours::Days;

use super::*;

fn schedule(expression: &str, zone: &str) -> Schedule {
    let zone = zone.parse().unwrap_or(chrono_tz::UTC);
    match Schedule::parse(expression, zone, Duration::ZERO) {
        Ok(schedule) => schedule,
        Err(error) => panic!("{expression}: {error:?}"),
    }
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_default()
}

fn fires(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let schedule = schedule(expression, zone);
    std::iter::successors(schedule.next_after(time(from)), |last| schedule.next_after(*last))
        .take(count)
        .map(|fire| fire.format("%d %H:%M").to_string())
        .collect()
}

const BERLIN: &str = "Europe/Berlin";

// In 2026 Berlin leaves winter on 29 March, 02:00 to 03:00 (01:00 UTC), and summer on 25 October,
// 03:00 to 02:00 (01:00 UTC).

#[test]
fn a_daily_run_inside_the_spring_gap_fires_right_after_it() {
    let found = fires("30 2 * * *", BERLIN, "2026-03-27T12:00:00Z", 4);
    assert_eq!(found, ["28 01:30", "29 01:00", "30 00:30", "31 00:30"]);
}

#[test]
fn a_daily_run_inside_the_autumn_fold_fires_once() {
    let found = fires("30 2 * * *", BERLIN, "2026-10-23T12:00:00Z", 4);
    assert_eq!(found, ["24 00:30", "25 00:30", "26 01:30", "27 01:30"]);
}

#[test]
fn half_hours_keep_their_pace_through_both_changes() {
    let spring = fires("*/30 * * * *", BERLIN, "2026-03-29T00:15:00Z", 4);
    assert_eq!(spring, ["29 00:30", "29 01:00", "29 01:30", "29 02:00"]);
    let autumn = fires("*/30 * * * *", BERLIN, "2026-10-24T23:45:00Z", 6);
    assert_eq!(autumn, ["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00", "25 02:30"]);
}

#[test]
fn days_of_month_and_week_are_ored_when_both_are_restricted() {
    // 13 November 2026 is a Friday.
    let found = fires("0 0 13 * 5", "UTC", "2026-11-05T00:00:00Z", 4);
    assert_eq!(found, ["06 00:00", "13 00:00", "20 00:00", "27 00:00"]);
    let found = fires("0 0 15 * 5", "UTC", "2026-11-12T00:00:00Z", 3);
    assert_eq!(found, ["13 00:00", "15 00:00", "20 00:00"]);
    assert_eq!(fires("0 0 */2 * 1", "UTC", "2026-11-01T00:00:00Z", 2), ["09 00:00", "23 00:00"]);
}

#[test]
fn sunday_is_zero_and_seven_and_names_work() {
    for sunday in ["0", "7", "sun", "SUN"] {
        assert_eq!(fires(&format!("0 4 * * {sunday}"), "UTC", "2026-11-24T00:00:00Z", 1), ["29 04:00"], "{sunday}");
    }
    assert_eq!(fires("0 4 1 feb *", "UTC", "2026-11-24T00:00:00Z", 1), ["01 04:00"]);
    assert_eq!(fires("@weekly", "UTC", "2026-11-24T00:00:00Z", 1), ["29 00:00"]);
}

#[test]
fn refuses_what_is_not_five_good_fields() {
    for bad in [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "x * * * *",
        "0 0 30 2 *",
        "@never",
    ] {
        assert!(Schedule::parse(bad, chrono_tz::UTC, Duration::ZERO).is_err(), "{bad} passed");
    }
}

#[test]
fn the_expected_interval_is_the_longest_gap() {
    let from = time("2026-11-24T00:00:00Z");
    assert_eq!(schedule("0 3 * * *", "UTC").expected_interval(from), Duration::from_secs(86_400));
    let autumn = time("2026-10-01T00:00:00Z");
    assert_eq!(schedule("0 3 * * *", BERLIN).expected_interval(autumn), Duration::from_secs(25 * 3600));
    assert_eq!(
        schedule("* 9-17 * * 1-5", "UTC").expected_interval(from),
        Duration::from_secs((2 * 24 + 15) * 3600 + 60)
    );
    assert_eq!(schedule("0 0 29 2 *", "UTC").expected_interval(from), Duration::from_secs(1461 * 86_400));
    assert_eq!(schedule("0 3 * * 1-5", "UTC").expected_interval(from), Duration::from_secs(3 * 86_400));
}

#[test]
fn jitter_is_fixed_for_a_seed_and_bounded() -> Result<()> {
    let schedule = Schedule::parse("@daily", chrono_tz::UTC, Duration::from_secs(600))?;
    let fire = time("2026-11-24T00:00:00Z");
    let starts: Vec<_> = (0..50).map(|n| schedule.jittered(fire, &format!("db{n}/shop"))).collect();
    assert!(starts.iter().all(|start| (fire..fire + TimeDelta::minutes(10)).contains(start)));
    assert_eq!(starts[0], schedule.jittered(fire, "db0/shop"));
    assert!(starts.iter().any(|start| *start != starts[0]));
    Ok(())
}

proptest! {
    #[test]
    fn fires_are_strictly_later_and_daily_ones_at_most_25_hours_apart(hour in 0u32..24, minute in 0u32..60, day in 0i64..800) {
        let schedule = schedule(&format!("{minute} {hour} * * *"), BERLIN);
        let from = time("2026-01-01T00:00:00Z") + TimeDelta::days(day);
        let first = schedule.next_after(from).unwrap_or_default();
        let second = schedule.next_after(first).unwrap_or_default();
        prop_assert!(first > from && second > first);
        prop_assert!(second - first <= TimeDelta::hours(25) && second - first >= TimeDelta::minutes(22 * 60 + 59));
    }
}

#[test]
fn fires_outside_the_windows_are_put_off_until_one_opens() {
    let nights = Hours { days: Days::ALL, from: 22 * 60, to: 6 * 60 };
    let schedule = Schedule::parse("30 * * * *", Tz::Europe__Berlin, Duration::ZERO).unwrap().within(vec![nights]);
    let next = |time: &str| schedule.next_after(time.parse().unwrap()).unwrap().to_rfc3339();
    // Berlin is an hour ahead of UTC. What fires by day is one fire in the evening.
    assert_eq!(next("2026-11-23T04:00:00Z"), "2026-11-23T04:30:00+00:00");
    assert_eq!(next("2026-11-23T04:30:00Z"), "2026-11-23T21:00:00+00:00");
    assert_eq!(next("2026-11-23T12:00:00Z"), "2026-11-23T21:00:00+00:00");
    assert_eq!(next("2026-11-23T21:00:00Z"), "2026-11-23T21:30:00+00:00");
    assert_eq!(
        schedule.expected_interval("2026-11-23T00:00:00Z".parse().unwrap()),
        Duration::from_secs(16 * 3600 + 1800)
    );
    assert!(schedule.is_open("2026-11-23T21:00:00Z".parse().unwrap()));
    assert!(!schedule.is_open("2026-11-23T20:59:59Z".parse().unwrap()));
    let last = schedule.last_before("2026-11-23T12:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(last.to_rfc3339(), "2026-11-23T04:30:00+00:00");
}

#[test]
fn a_fire_that_is_put_off_is_not_lost_whenever_one_looks() {
    let nights = Hours { days: Days::parse("mon-fri").unwrap(), from: 22 * 60, to: 6 * 60 };
    let schedule = Schedule::parse("0 12 * * *", Tz::UTC, Duration::ZERO).unwrap().within(vec![nights]);
    let next = |time: &str| schedule.next_after(time.parse().unwrap()).unwrap().to_rfc3339();
    // The 23rd is a Monday.
    for time in ["2026-11-23T11:00:00Z", "2026-11-23T15:00:00Z", "2026-11-23T21:59:59Z"] {
        assert_eq!(next(time), "2026-11-23T22:00:00+00:00", "{time}");
    }
    assert_eq!(next("2026-11-23T22:00:00Z"), "2026-11-24T22:00:00+00:00");
    // Friday's window ends on Saturday.
    assert_eq!(next("2026-11-29T20:00:00Z"), "2026-11-30T22:00:00+00:00");
}
