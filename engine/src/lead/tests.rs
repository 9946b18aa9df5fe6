#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;
use std::path::Path;

use super::*;
use crate::config::Surroundings;

const MASTER: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// A host of three, with so many replicas, of which so many must hold a snapshot.
fn config(host: &str, replicas: usize, min_replicas: usize) -> Config {
    let mut text =
        format!("host = \"{host}\"\nmin_replicas = {min_replicas}\n[keys]\nmaster_recipients = [\"{MASTER}\"]\n");
    for replica in 1..=replicas {
        write!(text, "[[replica]]\nname = \"r{replica}\"\nkind = \"directory\"\nregion = \"e{replica}\"\npath = \"/r{replica}\"\n").unwrap();
    }
    text.push_str("[[dataset]]\nname = \"shop\"\nhome_region = \"home\"\nschedule = \"@hourly\"\njitter = \"1m\"\nhosts = [\"db1\", \"db2\", \"db3\"]\n");
    text.push_str("source = { kind = \"command\", argv = [\"true\"] }\n");
    Config::parse(&text, Path::new("lifeboat.toml"), &Surroundings::default()).unwrap()
}

fn at(time: &str) -> DateTime<Utc> {
    format!("2026-11-28T{time}Z").parse().unwrap()
}

fn found(leader: &str, committed: Option<&str>, running: bool) -> Leadership {
    let leader: Name = leader.parse().unwrap();
    let newest = committed.map(|time| NewestCommit {
        host: leader.clone(),
        snapshot: SnapshotId::new(at(time), 0),
        time: at(time),
    });
    let lease = Lease {
        requires: lifeboat_format::requirements::Requirements::default(),
        vault: "v".to_owned(),
        dataset: "shop".parse().unwrap(),
        principal: leader.clone(),
        time: at("12:00:00"),
        until: at("12:05:00"),
    };
    Leadership { leader, newest, running: running.then_some(lease) }
}

fn turn(config: &Config, found: &Leadership, now: &str) -> StartTurn {
    found.turn(config, &config.datasets[0], at(now))
}

#[test]
fn the_leader_backs_up_and_a_deputy_waits_for_it_and_then_takes_over() {
    let silent = found("db1", Some("11:01:00"), false);
    assert_eq!(turn(&config("db1", 2, 2), &silent, "12:30:00"), StartTurn::Ours);
    let second = config("db2", 2, 2);
    assert_eq!(turn(&second, &silent, "12:15:59"), StartTurn::Theirs(Some(at("12:16:00"))));
    assert_eq!(turn(&second, &silent, "12:16:00"), StartTurn::TakeOver);
    // The third leaves it to the second, and then takes over.
    let third = config("db3", 2, 2);
    assert_eq!(turn(&third, &silent, "12:30:59"), StartTurn::Theirs(Some(at("12:31:00"))));
    assert_eq!(turn(&third, &silent, "12:31:00"), StartTurn::TakeOver);
    // Whoever has committed last leads, so the first is a deputy now.
    let taken = found("db2", Some("12:17:00"), false);
    assert_eq!(turn(&config("db1", 2, 2), &taken, "13:00:00"), StartTurn::Theirs(Some(at("13:16:00"))));
}

#[test]
fn a_commit_or_a_run_under_way_is_left_to_the_leader() {
    let second = config("db2", 2, 2);
    for committed in ["12:00:30", "11:55:00"] {
        assert_eq!(
            turn(&second, &found("db1", Some(committed), false), "12:59:00"),
            StartTurn::Theirs(None),
            "{committed}"
        );
    }
    assert_eq!(turn(&second, &found("db1", Some("11:54:59"), false), "12:59:00"), StartTurn::TakeOver);
    let runs = turn(&second, &found("db1", Some("11:01:00"), true), "12:20:00");
    assert_eq!(runs, StartTurn::Theirs(Some(at("12:35:00"))));
    // A time from the future says nothing.
    assert_eq!(turn(&second, &found("db1", Some("18:00:00"), false), "12:20:00"), StartTurn::TakeOver);
    assert_eq!(turn(&second, &found("db1", None, false), "12:20:00"), StartTurn::TakeOver);
}

#[test]
fn a_deputy_takes_over_however_often_the_schedule_starts() {
    let mut second = config("db2", 2, 2);
    for schedule in ["*/15 * * * *", "* * * * *"] {
        second.datasets[0].schedule =
            Some(crate::schedule::Schedule::parse(schedule, chrono_tz::UTC, Duration::ZERO).unwrap());
        let silent = found("db1", Some("11:54:00"), false);
        assert!(matches!(turn(&second, &silent, "12:10:00"), StartTurn::Theirs(Some(_))), "{schedule}");
        for late in ["12:15:00", "12:16:00", "12:31:00", "15:00:30"] {
            assert_eq!(turn(&second, &silent, late), StartTurn::TakeOver, "{schedule} at {late}");
        }
    }
}

#[test]
fn where_commits_need_not_meet_an_operator_decides() {
    let silent = found("db1", Some("11:01:00"), false);
    for (replicas, min_replicas, expected) in [
        (1, 1, StartTurn::TakeOver),
        (2, 1, StartTurn::AskOperator),
        (3, 2, StartTurn::TakeOver),
        (4, 2, StartTurn::AskOperator),
    ] {
        assert_eq!(
            turn(&config("db2", replicas, min_replicas), &silent, "12:20:00"),
            expected,
            "{min_replicas}/{replicas}"
        );
    }
}
