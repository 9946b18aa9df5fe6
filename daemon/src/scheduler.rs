//! Who is due when. A pure state machine: it is told the time and reads no clock.
//!
//! A dataset that missed fires while the daemon was down runs once, at once. A dataset that was never backed up waits for its
//! first fire.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::Config;
use lifeboat_engine::id::Name;
use lifeboat_engine::schedule::Schedule;

struct Entry {
    schedule: Schedule,
    seed: String,
    next: Option<DateTime<Utc>>,
}

/// The next start of every scheduled dataset.
pub(crate) struct Scheduler {
    entries: BTreeMap<Name, Entry>,
}

impl Scheduler {
    /// Plans from `now` on; `last_attempts` are remembered from before a restart.
    pub(crate) fn new(config: &Config, last_attempts: &BTreeMap<Name, DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        let scheduled = config.datasets.iter().filter_map(|dataset| {
            let schedule = dataset.schedule.clone()?;
            let seed = format!("{}/{}", config.host, dataset.name);
            let since = last_attempts.get(&dataset.name).copied().unwrap_or(now).min(now);
            let next = start_after(&schedule, &seed, since);
            Some((dataset.name.clone(), Entry { schedule, seed, next }))
        });
        Self { entries: scheduled.collect() }
    }

    /// Datasets whose time has come. Each is named once, however many fires were missed.
    pub(crate) fn due(&mut self, now: DateTime<Utc>) -> Vec<Name> {
        let mut due = Vec::new();
        for (name, entry) in &mut self.entries {
            if entry.next.is_some_and(|next| next <= now) {
                due.push(name.clone());
                entry.next = start_after(&entry.schedule, &entry.seed, now);
            }
        }
        due
    }

    /// When a dataset starts next.
    pub(crate) fn next(&self, dataset: &Name) -> Option<DateTime<Utc>> {
        self.entries.get(dataset)?.next
    }
}

/// The first start after `since`: a start is a fire and its jitter.
fn start_after(schedule: &Schedule, seed: &str, since: DateTime<Utc>) -> Option<DateTime<Utc>> {
    // The fire before `since` may start after it, by its jitter.
    let jitter = schedule.jittered(DateTime::UNIX_EPOCH, seed) - DateTime::UNIX_EPOCH;
    let fire = schedule.next_after(since - jitter)?;
    Some(schedule.jittered(fire, seed))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use lifeboat_engine::config::Surroundings;

    fn config(schedule: &str, zone: &str, jitter: &str) -> Config {
        let text = format!(
            "host = \"db1\"\n[[replica]]\nname = \"r\"\nkind = \"directory\"\nregion = \"far\"\npath = \"/r\"\n\
             [[dataset]]\nname = \"shop\"\nhome_region = \"near\"\nschedule = \"{schedule}\"\ntime_zone = \"{zone}\"\n\
             jitter = \"{jitter}\"\n[dataset.source]\nkind = \"sqlite\"\npath = \"/db\"\n"
        );
        Config::parse(&text, "test.toml".as_ref(), &Surroundings::default()).unwrap()
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Starts within `days`, looked at once a minute.
    fn starts(scheduler: &mut Scheduler, from: DateTime<Utc>, days: i64) -> Vec<DateTime<Utc>> {
        let minutes = (0..days * 24 * 60).map(|minute| from + TimeDelta::minutes(minute));
        minutes.filter(|now| !scheduler.due(*now).is_empty()).collect()
    }

    #[test]
    fn a_daily_run_happens_once_a_day_through_a_year_of_clock_changes() {
        let config = config("30 2 * * *", "Europe/Berlin", "0s");
        let from = time("2026-01-01T00:00:00Z");
        let starts = starts(&mut Scheduler::new(&config, &BTreeMap::new(), from), from, 365);
        assert_eq!(starts.len(), 365);
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= TimeDelta::hours(25)));
    }

    #[test]
    fn missed_fires_are_caught_up_once() {
        let config = config("0 * * * *", "UTC", "0s");
        let shop: Name = "shop".parse().unwrap();
        let last = BTreeMap::from([(shop.clone(), time("2026-11-20T10:00:05Z"))]);
        let now = time("2026-11-24T09:30:00Z");
        let mut scheduler = Scheduler::new(&config, &last, now);
        assert_eq!(scheduler.due(now), [shop.clone()]);
        assert_eq!(scheduler.due(now), []);
        assert_eq!(scheduler.next(&shop), Some(time("2026-11-24T10:00:00Z")));
    }

    #[test]
    fn nothing_missed_is_nothing_caught_up_and_a_new_dataset_waits() {
        let config = config("0 3 * * *", "UTC", "0s");
        let shop: Name = "shop".parse().unwrap();
        let now = time("2026-11-24T09:30:00Z");
        let last = BTreeMap::from([(shop, time("2026-11-24T03:00:00Z"))]);
        assert_eq!(Scheduler::new(&config, &last, now).due(now), []);
        assert_eq!(Scheduler::new(&config, &BTreeMap::new(), now).due(now), []);
    }

    #[test]
    fn jitter_delays_every_start_alike_and_loses_none() {
        let config = config("0 * * * *", "UTC", "50m");
        let from = time("2026-11-24T00:00:00Z");
        let starts = starts(&mut Scheduler::new(&config, &BTreeMap::new(), from), from, 3);
        assert!(starts.len() >= 71, "{}", starts.len());
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::hours(1)));
    }

    #[test]
    fn a_restart_between_fire_and_jittered_start_keeps_the_start() {
        let config = config("0 3 * * *", "UTC", "50m");
        let shop: Name = "shop".parse().unwrap();
        let before = Scheduler::new(&config, &BTreeMap::new(), time("2026-11-24T02:59:00Z")).next(&shop);
        let after = Scheduler::new(&config, &BTreeMap::new(), time("2026-11-24T03:00:01Z")).next(&shop);
        assert_eq!(before, after);
    }
}
