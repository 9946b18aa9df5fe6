//! The configuration file: whatever is wrong is told with its line, and no secret that stands in
//! the wrong place is repeated; what is taken can be worked with.

use std::collections::BTreeSet;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::Class;
use lifeboat_engine::config::{Config, Dataset, Surroundings};

/// Stands for a secret in the seeds.
pub const PASSWORD: &str = "hunter2";

/// Keys whose value may be a secret that does not belong there.
const SECRET_KEYS: [&str; 7] =
    ["password", "credentials", "host_key", "host_bundle", "drill_identity", "drill_signer", "url"];

/// Takes `data` for the text of the file.
pub fn drive(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match Config::parse(text, Path::new("f.toml"), &Surroundings::default()) {
        Ok(config) => {
            usable(&config);
            true
        }
        Err(error) => {
            assert_eq!(error.class(), Class::Configuration);
            let lines = text.matches('\n').count() + 1;
            let told = error.message();
            let first = told.strip_prefix("f.toml:").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
            assert!(first.is_some_and(|line| (1..=lines).contains(&line)), "no line, or one that is not there: {told}");
            if holds_secret(text) {
                assert!(!format!("{error:?}{}", error.chain()).contains(PASSWORD), "repeats a secret: {told}");
            }
            false
        }
    }
}

/// Whether the password stands in one place, a text that is the value of a key for secrets.
fn holds_secret(text: &str) -> bool {
    let Some((before, after)) = text.split_once(PASSWORD) else { return false };
    // Whoever writes several lines in quotes can put anything anywhere.
    if after.contains(PASSWORD) || text.contains("\"\"\"") || text.contains("'''") {
        return false;
    }
    let line = before.rsplit('\n').next().unwrap_or_default();
    let Some((key, value)) = line.split_once('=') else { return false };
    let quotes = value.trim_start().matches('"').count();
    SECRET_KEYS.contains(&key.trim()) && value.trim_start().starts_with('"') && quotes == 1 && !value.contains('\\')
}

/// What the programs rely on.
fn usable(config: &Config) {
    assert!((1..=config.replicas.len()).contains(&config.min_replicas), "{} replicas", config.min_replicas);
    assert!(config.limits.cpu > 0 && config.limits.memory >= 128 << 20);
    let names: BTreeSet<_> = config.replicas.iter().map(|replica| &replica.name).collect();
    assert_eq!(names.len(), config.replicas.len(), "replicas of one name");
    let names: BTreeSet<_> = config.datasets.iter().map(|dataset| &dataset.name).collect();
    assert_eq!(names.len(), config.datasets.len(), "datasets of one name");
    for path in [&config.state_directory, &config.control_socket, &config.keys.directory] {
        assert!(path.is_absolute(), "{}", path.display());
    }
    for dataset in &config.datasets {
        assert!(config.dataset(&dataset.name).is_some());
        assert!(dataset.chunk_size.is_power_of_two() && (64 << 10..=4 << 20).contains(&dataset.chunk_size));
        assert!(config.replicas.iter().any(|replica| replica.region != dataset.home_region), "one region");
        assert!(dataset.drill.level <= Some(dataset.drill.highest_level(dataset.source.database())));
        due(dataset);
    }
}

/// When it is due, and after that, is later.
fn due(dataset: &Dataset) {
    let now = DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000);
    let Some(schedule) = &dataset.schedule else { return };
    let mut time = now;
    for _ in 0..3 {
        let Some(next) = schedule.next_after(time) else { break };
        assert!(next > time, "{next} is not after {time}");
        assert!(schedule.jittered(next, "db1 shop") >= next);
        time = next;
    }
    assert!(schedule.expected_interval(now) < std::time::Duration::MAX);
    for duration in [dataset.retention.within, Some(dataset.retention.grace), dataset.objectives.rpo] {
        let age = duration.and_then(|duration| TimeDelta::from_std(duration).ok()).unwrap_or_default();
        assert!(now.checked_sub_signed(age).is_some(), "longer than there are times");
    }
}
