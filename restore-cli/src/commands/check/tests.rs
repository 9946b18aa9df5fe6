#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use lifeboat_engine::config::{Config, ReplicaKind, S3Config, S3Credentials, Surroundings};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::store::{Guards, Lifecycle, Lock, LockMode};

use super::replicas::LARGEST_SKEW_SECONDS;
use super::*;

fn replica() -> ReplicaConfig {
    ReplicaConfig {
        name: "north".parse().unwrap(),
        region: "eu-north".to_owned(),
        kind: ReplicaKind::S3(S3Config {
            bucket: "b".to_owned(),
            endpoint: None,
            path_style: false,
            ca_file: None,
            storage_class: None,
            lock: None,
            credentials: S3Credentials::Default,
        }),
        timeout: Duration::from_secs(1),
        bandwidth: Bandwidth::default(),
    }
}

fn vault() -> Option<VaultInfo> {
    Some(VaultInfo::new("0a".repeat(16), chrono::DateTime::UNIX_EPOCH))
}

fn probe() -> Probe {
    Probe {
        conditional_writes: Some(true),
        versioning: Some(true),
        object_lock: Some(false),
        can_write: Some(true),
        can_delete: Some(true),
        clock_skew_seconds: Some(LARGEST_SKEW_SECONDS),
        guards: Guards {
            removes_versions: Some(false),
            changes_versioning: Some(false),
            lifecycle: Some(ended_after(Some(30))),
            sets_locks: None,
            removes_locked: false,
            cannot_say: false,
            default_lock_days: None,
        },
    }
}

fn ended_after(days: Option<u32>) -> Lifecycle {
    Lifecycle { old_versions_days: days, ends_objects: false }
}

fn judged(probed: Probed, write: bool) -> Checked {
    let mut checked = Checked::default();
    checked.judge_replica(&replica(), probed, write, None);
    checked
}

#[test]
fn a_good_replica_has_no_weakness_and_an_unknown_is_none() {
    let good = judged(Ok((probe(), vault())), true);
    assert!(good.verdict().is_ok() && good.weak.is_empty(), "{good}");
    assert!(good.to_string().contains("Nothing is broken or weak."));
    let unknown = Probe { versioning: None, object_lock: None, clock_skew_seconds: None, ..probe() };
    assert!(judged(Ok((unknown, vault())), true).weak.is_empty());
}

fn guarded(change: impl FnOnce(&mut Guards)) -> Probe {
    let mut probe = probe();
    change(&mut probe.guards);
    probe
}

fn locked_by_default(removes: bool) -> Probe {
    let guards = |guards: &mut Guards| (guards.default_lock_days, guards.removes_versions) = (Some(90), Some(removes));
    Probe { object_lock: Some(true), ..guarded(guards) }
}

#[test]
fn the_level_is_named_with_what_a_thief_could_do() {
    let level = |probe: Probe| {
        let checked = judged(Ok((probe, vault())), true);
        let replica = &checked.replicas[0];
        (replica.level.clone().unwrap_or_default(), replica.thief.clone().unwrap_or_default())
    };
    for (probe, expected, words) in [
        (probe(), "versions", "takes back within 30 days"),
        (Probe { versioning: Some(false), ..probe() }, "none", "delete every backup in it for good"),
        (guarded(|guards| guards.removes_versions = Some(true)), "none", "for good"),
        (guarded(|guards| guards.changes_versioning = Some(true)), "none", "for good"),
        (guarded(|guards| guards.removes_versions = None), "", "not known"),
        (
            guarded(|guards| (guards.removes_versions, guards.cannot_say) = (None, true)),
            "untold",
            "the store cannot tell",
        ),
        (Probe { versioning: None, ..guarded(|guards| guards.cannot_say = true) }, "untold", "the store cannot tell"),
        (guarded(|guards| (guards.changes_versioning, guards.cannot_say) = (Some(true), true)), "none", "for good"),
        // A default retention is no lock of what is needed.
        (locked_by_default(false), "versions", "takes back within 30 days"),
        (locked_by_default(true), "none", "for good"),
    ] {
        let (level, thief) = level(probe);
        assert!(level == expected && thief.contains(words), "{level}: {thief}");
    }
}

#[test]
fn both_periods_of_locks_are_told() {
    let day = Duration::from_secs(86_400);
    let half = "half of 30 days after the theft at the earliest";
    let longer = format!("{half}, or 350 days after it where retention keeps it for as long");
    for (at_most, told) in [(30, half), (365, longer.as_str())] {
        let mut config = replica();
        let ReplicaKind::S3(s3) = &mut config.kind else { panic!("it is S3") };
        s3.lock = Some(Lock { mode: LockMode::Compliance, period: 30 * day, at_most: at_most * day });
        let probe = Probe { object_lock: Some(true), ..guarded(|guards| guards.sets_locks = Some(true)) };
        let mut checked = Checked::default();
        checked.judge_replica(&config, Ok((probe, vault())), true, Some(true));
        let replica = &checked.replicas[0];
        assert_eq!(replica.level.as_deref(), Some("lock"));
        assert!(replica.thief.as_ref().is_some_and(|thief| thief.ends_with(told)), "{:?}", replica.thief);
    }
}

#[test]
fn a_lock_without_effect_and_a_rule_that_deletes_are_broken() {
    let unlocked = Probe { object_lock: Some(true), ..probe() };
    let deleting = guarded(|guards| guards.lifecycle = Some(Lifecycle { ends_objects: true, ..ended_after(Some(30)) }));
    let idle = Probe { object_lock: Some(true), ..guarded(|guards| guards.removes_locked = true) };
    for (broken, words) in [
        (unlocked.clone(), "nothing in it is locked"),
        (deleting, "deletes objects in use"),
        (idle, "its locks have no effect"),
    ] {
        let checked = judged(Ok((broken, vault())), true);
        let error = checked.verdict().unwrap_err();
        assert!(error.class() == Class::Configuration && error.message().contains(words), "{error}");
    }
    // A drill host does not know the configuration of the backup host.
    assert!(judged(Ok((unlocked, vault())), false).verdict().is_ok());
}

#[test]
fn each_weakness_is_said_in_plain_words_and_breaks_nothing() {
    for (weak, words) in [
        (Probe { conditional_writes: Some(false), ..probe() }, "ignores conditional writes"),
        (Probe { versioning: Some(false), object_lock: Some(false), ..probe() }, "keeps no old versions"),
        (guarded(|guards| guards.removes_versions = None), "no Object Lock"),
        (guarded(|guards| guards.removes_versions = Some(true)), "remove old versions"),
        (guarded(|guards| guards.changes_versioning = Some(true)), "stop keeping versions"),
        (guarded(|guards| guards.lifecycle = Some(ended_after(Some(3)))), "ends old versions after 3 days"),
        (guarded(|guards| guards.lifecycle = Some(ended_after(None))), "takes space for ever"),
        (locked_by_default(false), "locks objects for 90 days, and nothing extends that"),
        (Probe { can_delete: Some(false), ..probe() }, "prune cannot free space"),
        (Probe { clock_skew_seconds: Some(-31), ..probe() }, "is 31 s behind this host's"),
    ] {
        let checked = judged(Ok((weak, vault())), true);
        assert!(checked.verdict().is_ok());
        assert_eq!(checked.weak.len(), 1);
        assert!(checked.weak[0].contains(words), "{}", checked.weak[0]);
    }
}

#[test]
fn a_dead_or_read_only_replica_decides_the_exit_code() {
    let dead = judged(Err(Error::storage("replica north: cannot list: timed out").hint("look at the network")), true);
    assert_eq!(dead.verdict().unwrap_err().class(), Class::Storage);
    assert!(dead.to_string().contains("look at the network"));
    let misconfigured = judged(Err(Error::configuration("no such bucket")), true);
    assert_eq!(misconfigured.verdict().unwrap_err().class(), Class::Configuration);
    let read_only = Probe { can_write: Some(false), ..probe() };
    assert_eq!(judged(Ok((read_only.clone(), vault())), true).verdict().unwrap_err().class(), Class::Storage);
    // A drill host need not write.
    assert!(judged(Ok((read_only, vault())), false).verdict().is_ok());
}

#[test]
fn a_dataset_cannot_have_a_deputy_where_a_store_ignores_conditional_writes() {
    let place = Path::new("/nonexistent/lifeboat.toml");
    let text = include_str!("../../../../config/lifeboat.toml");
    for (hosts, kept, broken) in [(2, false, true), (2, true, false), (1, false, false)] {
        let mut config = Config::parse(text, place, &Surroundings::default()).unwrap();
        config.datasets.truncate(1);
        config.datasets[0].hosts = ["one", "two"].map(|host| host.parse().unwrap()).into_iter().take(hosts).collect();
        let probe = Probe { conditional_writes: Some(kept), ..probe() };
        let mut checked = judged(Ok((probe, vault())), true);
        checked.judge_deputies(&config, &config.datasets[0]);
        let verdict = checked.verdict();
        assert_eq!(verdict.is_err(), broken, "{hosts} hosts, kept: {kept}: {checked}");
        let told = verdict.err().filter(|error| {
            error.class() == Class::Configuration && error.message().contains("cannot have a deputy: north ignores")
        });
        assert_eq!(told.is_some(), broken, "{checked}");
    }
}
