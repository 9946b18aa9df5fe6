#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::sample;

const BERLIN: &str = "schedule = \"30 2 * * *\"\ntime_zone = \"Europe/Berlin\"";
const HOURLY: &str = "schedule = \"@hourly\"";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn scheduler(datasets: &[(&str, &str)], considered: &str) -> Scheduler {
    Scheduler::new(&config(datasets, 1), |_| time(considered))
}

fn config(datasets: &[(&str, &str)], runs: usize) -> Config {
    let mut config = sample::config(datasets);
    config.limits.runs = runs;
    config
}

/// Lives from `from` to `to`; each run takes `duration`. Gives the starts.
fn live(scheduler: &mut Scheduler, from: &str, to: &str, duration: TimeDelta) -> Vec<(DateTime<Utc>, String, Cause)> {
    let (mut now, end) = (time(from), time(to));
    let mut starts = Vec::new();
    while now < end {
        if let Some((dataset, cause)) = scheduler.start(now) {
            starts.push((now, dataset.to_string(), cause));
            assert_eq!(scheduler.start(now), None, "two runs at once");
            now += duration;
            scheduler.finished(&dataset);
        } else {
            now = scheduler.wake_at(now).map_or(end, |wake| wake.max(now));
        }
    }
    starts
}

#[test]
fn a_daily_dataset_runs_once_a_day_through_a_year_with_both_clock_changes() {
    let mut scheduler = scheduler(&[("shop", BERLIN)], "2026-01-01T00:00:00Z");
    let starts = live(&mut scheduler, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", TimeDelta::minutes(20));
    assert_eq!(starts.len(), 365);
    assert!(starts.iter().all(|(_, _, cause)| *cause == Cause::Schedule));
    let gaps: Vec<i64> = starts.windows(2).map(|pair| (pair[1].0 - pair[0].0).num_minutes()).collect();
    // The spring run waits for the end of the gap, so it is half an hour late, and the one after it
    // makes up for that.
    assert!(gaps.iter().all(|gap| [1440, 1410, 1500].contains(gap)), "{gaps:?}");
}

#[test]
fn missed_starts_are_made_up_for_by_one_run() {
    let mut scheduler = scheduler(&[("shop", HOURLY)], "2026-03-01T00:00:00Z");
    let starts = live(&mut scheduler, "2026-03-09T10:20:00Z", "2026-03-09T12:10:00Z", TimeDelta::minutes(1));
    let told: Vec<(String, Cause)> =
        starts.into_iter().map(|(at, _, cause)| (at.format("%H:%M").to_string(), cause)).collect();
    assert_eq!(
        told,
        [
            ("10:20".to_owned(), Cause::CatchUp),
            ("11:00".to_owned(), Cause::Schedule),
            ("12:00".to_owned(), Cause::Schedule)
        ]
    );
}

#[test]
fn a_restart_between_two_starts_makes_up_for_nothing() {
    let mut scheduler = scheduler(&[("shop", HOURLY)], "2026-03-01T10:00:00Z");
    assert_eq!(scheduler.start(time("2026-03-01T10:59:59Z")), None);
    let started = scheduler.start(time("2026-03-01T11:00:00Z"));
    assert_eq!(started.map(|(_, cause)| cause), Some(Cause::Schedule));
}

#[test]
fn a_run_longer_than_the_interval_does_not_overlap_and_is_followed_by_one() {
    let mut scheduler = scheduler(&[("shop", HOURLY)], "2026-03-01T00:30:00Z");
    let starts = live(&mut scheduler, "2026-03-01T00:30:00Z", "2026-03-01T06:00:00Z", TimeDelta::minutes(150));
    let at: Vec<String> = starts.iter().map(|(at, _, _)| at.format("%H:%M").to_string()).collect();
    assert_eq!(at, ["01:00", "03:30"]);
}

#[test]
fn datasets_run_one_after_the_other_and_requests_go_first() {
    let mut scheduler = scheduler(&[("a", HOURLY), ("b", HOURLY), ("c", "")], "2026-03-01T00:30:00Z");
    let now = time("2026-03-01T01:00:00Z");
    let name = |text: &str| text.parse::<Name>().unwrap();
    for asked in ["b", "c", "c", "stranger"] {
        scheduler.request(&name(asked));
    }
    let mut order = Vec::new();
    while let Some((dataset, cause)) = scheduler.start(now) {
        assert!(scheduler.runs(&dataset));
        assert!(scheduler.wake_at(now).is_none());
        scheduler.finished(&dataset);
        order.push((dataset.to_string(), cause));
    }
    let order: Vec<(&str, Cause)> = order.iter().map(|(dataset, cause)| (dataset.as_str(), *cause)).collect();
    // The request of b serves its scheduled start as well.
    assert_eq!(order, [("b", Cause::Trigger), ("c", Cause::Trigger), ("a", Cause::Schedule)]);
    assert_eq!(scheduler.next_start(&name("c")), None);
}

#[test]
fn jitter_moves_every_start_by_the_same_and_loses_none() {
    // Longer than the interval: even then each hour has its start.
    let jittered = "schedule = \"@hourly\"\njitter = \"3h\"";
    let mut scheduler = scheduler(&[("shop", jittered)], "2026-03-01T00:00:00Z");
    let starts = live(&mut scheduler, "2026-03-01T00:00:00Z", "2026-05-01T00:00:00Z", TimeDelta::minutes(1));
    assert!((61 * 24 - 3..=61 * 24).contains(&starts.len()), "{}", starts.len());
    assert!(starts.windows(2).all(|pair| pair[1].0 - pair[0].0 == TimeDelta::hours(1)));
}

#[test]
fn a_clock_that_was_set_back_silences_nobody() {
    let mut scheduler = scheduler(&[("shop", HOURLY)], "2031-01-01T00:00:00Z");
    let now = time("2026-03-01T00:10:00Z");
    scheduler.set_back(now, |_| time("2031-01-01T00:00:00Z"));
    assert_eq!(scheduler.start(now), None);
    assert_eq!(scheduler.wake_at(now), Some(time("2026-03-01T01:00:00Z")));
}

#[test]
fn a_start_that_a_clock_jumped_past_takes_place_when_it_is_set_back() {
    let shop: Name = "shop".parse().unwrap();
    let (before, ahead, back) =
        (time("2026-03-01T00:05:00Z"), time("2026-03-01T02:30:00Z"), time("2026-03-01T01:01:00Z"));
    for (done_until, cause) in [(before, Some(Cause::Schedule)), (back, None)] {
        let mut scheduler = scheduler(&[("shop", HOURLY)], "2026-03-01T00:05:00Z");
        scheduler.set_back(ahead, |_| unreachable!("no clock was set back"));
        assert_eq!(scheduler.start(ahead), Some((shop.clone(), Cause::CatchUp)));
        // What runs is done with when it ends.
        scheduler.set_back(back, |_| unreachable!("it runs"));
        scheduler.finished(&shop);
        scheduler.set_back(back, |_| done_until);
        assert_eq!(scheduler.start(back), cause.map(|cause| (shop.clone(), cause)));
        scheduler.set_back(back, |_| unreachable!("it is set back no more"));
        scheduler.finished(&shop);
        assert_eq!(scheduler.start(back), None);
        assert_eq!(scheduler.next_start(&shop), Some(time("2026-03-01T02:00:00Z")));
    }
}

#[test]
fn a_reload_keeps_what_runs_and_drops_what_is_gone() {
    let mut scheduler = scheduler(&[("a", HOURLY), ("b", HOURLY)], "2026-03-01T00:30:00Z");
    let now = time("2026-03-01T01:00:00Z");
    assert!(scheduler.start(now).is_some());
    scheduler.request(&"b".parse().unwrap());
    scheduler.reload(&config(&[("a", "schedule = \"0 5 * * *\"")], 1), |_| now);
    let a = "a".parse().unwrap();
    assert!(scheduler.runs(&a));
    scheduler.finished(&a);
    assert_eq!(scheduler.start(now), None);
    assert_eq!(scheduler.wake_at(now), Some(time("2026-03-01T05:00:00Z")));
}

#[test]
fn a_request_takes_the_place_of_what_is_due_and_of_nothing_else() {
    let shop: Name = "shop".parse().unwrap();
    let hourly = || scheduler(&[("shop", HOURLY)], "2026-03-09T12:00:00Z");
    let requested = |scheduler: &mut Scheduler, at: &str| {
        scheduler.request(&shop);
        assert_eq!(scheduler.start(time(at)).unwrap().1, Cause::Trigger);
        scheduler.finished(&shop);
    };
    // A deputy that was refused still looks again, and a run that failed is still tried again.
    let mut looks = hourly();
    looks.again(&shop, time("2026-03-09T12:16:00Z"));
    requested(&mut looks, "2026-03-09T12:10:00Z");
    assert_eq!(looks.wake_at(time("2026-03-01T00:00:00Z")), Some(time("2026-03-09T12:16:00Z")));
    let mut retries = hourly();
    retries.retry(&shop, Some(time("2026-03-09T12:15:00Z")));
    requested(&mut retries, "2026-03-09T12:05:00Z");
    assert_eq!(retries.start(time("2026-03-09T12:15:00Z")).unwrap().1, Cause::Retry);
    // What is due when it comes is done by it.
    let mut due = hourly();
    requested(&mut due, "2026-03-09T13:00:30Z");
    assert_eq!(due.wake_at(time("2026-03-01T00:00:00Z")), Some(time("2026-03-09T14:00:00Z")));
}

#[test]
fn a_retry_that_a_start_came_after_is_over() {
    let shop: Name = "shop".parse().unwrap();
    let mut scheduler = scheduler(&[("shop", HOURLY)], "2026-03-09T11:30:00Z");
    scheduler.start(time("2026-03-09T12:00:00Z")).unwrap();
    scheduler.finished(&shop);
    // As an older run has left it.
    scheduler.retry(&shop, Some(time("2026-03-09T11:45:00Z")));
    assert_eq!(scheduler.wake_at(time("2026-03-01T00:00:00Z")), Some(time("2026-03-09T13:00:00Z")));
    scheduler.retry(&shop, Some(time("2026-03-09T12:15:00Z")));
    assert_eq!(scheduler.wake_at(time("2026-03-01T00:00:00Z")), Some(time("2026-03-09T12:15:00Z")));
    scheduler.retry(&shop, None);
    assert_eq!(scheduler.wake_at(time("2026-03-01T00:00:00Z")), Some(time("2026-03-09T13:00:00Z")));
}

/// Starts all that can start at `now`.
fn started(scheduler: &mut Scheduler, now: &str) -> Vec<String> {
    std::iter::from_fn(|| scheduler.start(time(now)).map(|(dataset, _)| dataset.to_string())).collect()
}

#[test]
fn as_many_run_at_once_as_there_are_places_and_none_twice() {
    let datasets = [("a", HOURLY), ("b", HOURLY), ("c", HOURLY)];
    let mut scheduler = Scheduler::new(&config(&datasets, 2), |_| time("2026-03-01T00:30:00Z"));
    assert_eq!(started(&mut scheduler, "2026-03-01T01:00:00Z"), ["a", "b"]);
    assert_eq!(scheduler.wake_at(time("2026-03-01T00:00:00Z")), None);
    let (a, c): (Name, Name) = ("a".parse().unwrap(), "c".parse().unwrap());
    scheduler.request(&a);
    let queue = scheduler.queue(time("2026-03-01T01:10:00Z"));
    let due = |text: &str| Some(time(text));
    assert_eq!(
        queue,
        [Queued { dataset: a.clone(), due: None }, Queued { dataset: c.clone(), due: due("2026-03-01T01:00:00Z") }]
    );
    scheduler.finished(&"b".parse().unwrap());
    // The request waits for the run of its dataset, and holds up no other.
    assert_eq!(started(&mut scheduler, "2026-03-01T01:10:00Z"), ["c"]);
    scheduler.finished(&c);
    assert_eq!(started(&mut scheduler, "2026-03-01T01:20:00Z"), Vec::<String>::new());
    scheduler.finished(&a);
    assert_eq!(started(&mut scheduler, "2026-03-01T01:20:00Z"), ["a"]);
}

#[test]
fn short_runs_go_before_long_ones_and_always_find_a_place() {
    let datasets = [("big", HOURLY), ("huge", HOURLY), ("small", HOURLY), ("tiny", HOURLY)];
    let mut scheduler = Scheduler::new(&config(&datasets, 2), |_| time("2026-03-01T00:30:00Z"));
    let name = |text: &str| text.parse::<Name>().unwrap();
    for (dataset, minutes) in [("big", 90), ("huge", 360), ("small", 5), ("tiny", 1)] {
        scheduler.lasts(&name(dataset), TimeDelta::minutes(minutes));
    }
    assert_eq!(started(&mut scheduler, "2026-03-01T01:00:00Z"), ["tiny", "small"]);
    scheduler.finished(&name("tiny"));
    scheduler.finished(&name("small"));
    // The other place is for those that are short.
    assert_eq!(started(&mut scheduler, "2026-03-01T01:05:00Z"), ["big"]);
    assert_eq!(scheduler.wake_at(time("2026-03-01T00:00:00Z")), Some(time("2026-03-01T02:00:00Z")));
    assert_eq!(started(&mut scheduler, "2026-03-01T02:00:00Z"), ["tiny"]);
    scheduler.finished(&name("tiny"));
    assert_eq!(started(&mut scheduler, "2026-03-01T02:01:00Z"), ["small"]);
    scheduler.finished(&name("small"));
    scheduler.finished(&name("big"));
    // Due since 01:00, so it goes before the other, which would have ended at 03:30.
    scheduler.lasts(&name("huge"), TimeDelta::minutes(60));
    assert_eq!(started(&mut scheduler, "2026-03-01T02:30:00Z"), ["huge"]);
}

#[test]
fn long_runs_take_every_place_where_no_other_dataset_is_short() {
    let datasets = [("big", HOURLY), ("huge", HOURLY), ("asked", "")];
    let mut scheduler = Scheduler::new(&config(&datasets, 2), |_| time("2026-03-01T00:30:00Z"));
    for dataset in ["big", "huge"] {
        scheduler.lasts(&dataset.parse().unwrap(), TimeDelta::hours(3));
    }
    assert_eq!(started(&mut scheduler, "2026-03-01T01:00:00Z"), ["big", "huge"]);
}

#[test]
fn a_start_that_waits_is_withdrawn_and_the_next_one_stays() {
    let mut scheduler = scheduler(&[("a", HOURLY), ("b", HOURLY)], "2026-03-01T00:30:00Z");
    let (now, b) = ("2026-03-01T01:00:00Z", "b".parse().unwrap());
    assert_eq!(started(&mut scheduler, now), ["a"]);
    assert!(scheduler.withdraw(&b, time(now), false));
    assert!(!scheduler.withdraw(&b, time(now), false), "nothing is left");
    assert_eq!(scheduler.next_start(&b), Some(time("2026-03-01T02:00:00Z")));
    // One that waits for another program looks again soon, unless it is withdrawn.
    scheduler.again(&b, time("2026-03-01T01:00:02Z"));
    assert!(scheduler.withdraw(&b, time(now), true));
    assert_eq!(scheduler.next_start(&b), Some(time("2026-03-01T02:00:00Z")));
    scheduler.request(&b);
    assert!(scheduler.withdraw(&b, time(now), false) && scheduler.queue(time(now)).is_empty());
}

#[test]
fn outside_its_windows_a_dataset_starts_only_for_an_operator() {
    let nightly = "schedule = \"@hourly\"\nwindows = [{ from = \"22:00\", to = \"06:00\" }]";
    let mut scheduler = scheduler(&[("shop", nightly)], "2026-03-01T04:30:00Z");
    let shop: Name = "shop".parse().unwrap();
    assert_eq!(started(&mut scheduler, "2026-03-01T05:00:00Z"), ["shop"]);
    scheduler.finished(&shop);
    assert_eq!(scheduler.next_start(&shop), Some(time("2026-03-01T22:00:00Z")));
    // It failed, and the window has closed meanwhile.
    scheduler.retry(&shop, Some(time("2026-03-01T06:10:00Z")));
    assert_eq!(started(&mut scheduler, "2026-03-01T06:10:00Z"), Vec::<String>::new());
    assert_eq!(scheduler.wake_at(time("2026-03-01T06:10:00Z")), None);
    scheduler.request(&shop);
    assert_eq!(started(&mut scheduler, "2026-03-01T06:20:00Z"), ["shop"]);
    scheduler.finished(&shop);
    assert_eq!(started(&mut scheduler, "2026-03-01T22:00:00Z"), ["shop"]);
}

#[test]
fn jitter_may_take_a_start_beyond_its_window_and_nothing_closed_waits_for_a_place() {
    let narrow = "schedule = \"15 2 * * *\"\njitter = \"23h\"\nwindows = [{ from = \"02:00\", to = \"02:30\" }]";
    let mut scheduler = scheduler(&[("shop", narrow)], "2026-03-01T00:00:00Z");
    let shop: Name = "shop".parse().unwrap();
    let due = scheduler.next_start(&shop).unwrap();
    assert!(due > time("2026-03-01T02:30:00Z"), "{due}");
    assert_eq!(scheduler.start(due).map(|(_, cause)| cause), Some(Cause::Schedule));
    scheduler.finished(&shop);
    let noon = time("2026-03-02T01:30:00Z");
    scheduler.retry(&shop, Some(noon));
    assert!(scheduler.queue(noon).is_empty());
}

#[test]
fn what_is_paused_starts_only_for_an_operator_and_what_was_due_starts_once_afterwards() {
    let mut scheduler = scheduler(&[("shop", HOURLY), ("wiki", HOURLY)], "2026-03-01T00:30:00Z");
    let shop: Name = "shop".parse().unwrap();
    scheduler.pause(&[shop.clone()].into());
    assert_eq!(started(&mut scheduler, "2026-03-01T01:00:00Z"), ["wiki"]);
    scheduler.finished(&"wiki".parse().unwrap());
    let now = time("2026-03-01T01:30:00Z");
    assert!(!scheduler.is_due(&shop, now) && scheduler.queue(now).is_empty());
    assert_eq!(scheduler.wake_at(now), Some(time("2026-03-01T02:00:00Z")), "of the other one");
    // A failed run is not tried again, either, and a reload ends no pause.
    scheduler.retry(&shop, Some(time("2026-03-01T01:20:00Z")));
    scheduler.reload(&config(&[("shop", HOURLY), ("wiki", "")], 1), |_| time("2026-03-01T00:30:00Z"));
    assert_eq!(scheduler.start(time("2026-03-01T03:30:00Z")), None);
    scheduler.pause(&BTreeSet::new());
    assert_eq!(scheduler.start(time("2026-03-01T03:30:00Z")), Some((shop.clone(), Cause::CatchUp)));
    scheduler.finished(&shop);
    assert_eq!(scheduler.next_start(&shop), Some(time("2026-03-01T04:00:00Z")));
    scheduler.pause(&[shop.clone()].into());
    scheduler.request(&shop);
    assert_eq!(scheduler.start(time("2026-03-01T03:40:00Z")), Some((shop, Cause::Trigger)));
}

#[test]
fn a_start_that_looked_for_a_lock_does_not_begin_outside_its_window_when_a_pause_ends() {
    let nightly = "schedule = \"@hourly\"\nwindows = [{ from = \"22:00\", to = \"04:00\" }]";
    let mut scheduler = scheduler(&[("shop", nightly)], "2026-03-01T02:30:00Z");
    let shop: Name = "shop".parse().unwrap();
    assert_eq!(started(&mut scheduler, "2026-03-01T03:50:00Z"), ["shop"]);
    scheduler.finished(&shop);
    scheduler.again(&shop, time("2026-03-01T03:50:05Z"));
    scheduler.pause(&[shop].into());
    assert_eq!(scheduler.start(time("2026-03-01T11:00:00Z")), None);
    scheduler.pause(&BTreeSet::new());
    assert_eq!(scheduler.start(time("2026-03-01T11:50:00Z")), None);
    assert_eq!(started(&mut scheduler, "2026-03-01T22:00:00Z"), ["shop"]);
}

/// A configuration with the group `web` of `a` and `b`, and these datasets beside it.
fn grouped(others: &[(&str, &str)], schedule: &str, runs: usize) -> Config {
    let datasets: Vec<_> = [("a", ""), ("b", "")].into_iter().chain(others.iter().copied()).collect();
    let text = sample::text(std::path::Path::new("/nonexistent"), sample::KEY, &datasets);
    let text = format!("{text}[[group]]\nname = \"web\"\nmembers = [\"a\", \"b\"]\n{schedule}\n");
    let surroundings = lifeboat_engine::config::Surroundings::default();
    let mut config = Config::parse(&text, std::path::Path::new("lifeboat.toml"), &surroundings).unwrap();
    config.limits.runs = runs;
    config
}

#[test]
fn the_members_of_a_group_start_together_whoever_is_asked_for() {
    let name = |name: &str| name.parse::<Name>().unwrap();
    let [a, b, web] = ["a", "b", "web"].map(name);
    let mut scheduler = Scheduler::new(&grouped(&[], HOURLY, 2), |_| time("2026-03-01T00:30:00Z"));
    assert_eq!(scheduler.start(time("2026-03-01T00:59:59Z")), None);
    assert_eq!(scheduler.start(time("2026-03-01T01:00:00Z")), Some((web.clone(), Cause::Schedule)));
    assert_eq!(scheduler.members(&web), [a.clone(), b.clone()]);
    assert!(scheduler.runs(&a) && scheduler.runs(&b));
    // One request for a member and one for the group are one.
    scheduler.request(&b);
    scheduler.request(&web);
    scheduler.finished(&a);
    assert_eq!(scheduler.start(time("2026-03-01T01:10:00Z")), None, "the other one still runs");
    scheduler.finished(&b);
    assert_eq!(scheduler.start(time("2026-03-01T01:10:00Z")), Some((web.clone(), Cause::Trigger)));
    [&a, &b].into_iter().for_each(|member| scheduler.finished(member));
    assert_eq!(scheduler.start(time("2026-03-01T01:20:00Z")), None);
    // What fails is tried again as a whole, and a pause of one is a pause of both.
    scheduler.retry(&b, Some(time("2026-03-01T01:30:00Z")));
    scheduler.pause(&std::collections::BTreeSet::from([a.clone()]));
    assert_eq!(scheduler.start(time("2026-03-01T01:31:00Z")), None);
    scheduler.pause(&std::collections::BTreeSet::new());
    assert_eq!(scheduler.start(time("2026-03-01T01:31:00Z")), Some((web, Cause::Retry)));
}

#[test]
fn a_group_waits_for_places_for_all_and_nothing_takes_them_meanwhile() {
    let others = [("c", "schedule = \"0 * * * *\""), ("d", "schedule = \"2 * * * *\"")];
    let mut scheduler =
        Scheduler::new(&grouped(&others, "schedule = \"1 * * * *\"", 2), |_| time("2026-03-01T00:30:00Z"));
    let names = |queue: Vec<Queued>| queue.iter().map(|queued| queued.dataset.to_string()).collect::<Vec<_>>();
    let started = |scheduler: &mut Scheduler, at: &str| scheduler.start(time(at)).map(|(name, _)| name.to_string());
    assert_eq!(started(&mut scheduler, "2026-03-01T01:00:00Z").as_deref(), Some("c"));
    for at in ["2026-03-01T01:01:00Z", "2026-03-01T01:02:00Z"] {
        assert_eq!(started(&mut scheduler, at), None, "one place is free, and the group needs two");
        assert_eq!(scheduler.wake_at(time(at)), None, "only the end of a run helps");
    }
    assert_eq!(names(scheduler.queue(time("2026-03-01T01:02:00Z"))), ["a", "b", "d"]);
    scheduler.finished(&"c".parse().unwrap());
    assert_eq!(started(&mut scheduler, "2026-03-01T01:03:00Z").as_deref(), Some("web"));
    assert_eq!(started(&mut scheduler, "2026-03-01T01:03:00Z"), None);
    // Its places are free one by one, once its members have backed up.
    scheduler.released(&"a".parse().unwrap());
    assert_eq!(started(&mut scheduler, "2026-03-01T01:04:00Z").as_deref(), Some("d"));
    // A long one needs every place, and still gets them.
    ["a", "b", "d"].into_iter().for_each(|name| scheduler.finished(&name.parse().unwrap()));
    scheduler.lasts(&"a".parse().unwrap(), TimeDelta::hours(1));
    assert_eq!(started(&mut scheduler, "2026-03-01T02:00:30Z").as_deref(), Some("c"));
    scheduler.finished(&"c".parse().unwrap());
    assert_eq!(started(&mut scheduler, "2026-03-01T02:01:00Z").as_deref(), Some("web"));
}
