#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::process::{Command, Stdio};

use lifeboat_engine::config::GroupConfig;
use lifeboat_engine::keep::locks::LockStanding;
use lifeboat_engine::keep::prune::Space;
use lifeboat_engine::store::DeletionLevel;

use super::*;
use crate::group_status::CommonMoment;
use crate::sample;
use crate::status::{ReplicaStatus, ScrubStanding};

fn page(statuses: &BTreeMap<Name, DatasetStatus>) -> String {
    let mut config = sample::config(&[
        ("shop", "schedule = \"@daily\"\nobjectives = { rpo = \"26h\", rto = \"1h\" }"),
        ("wiki", ""),
    ]);
    config.groups = vec![web()];
    let name = |text: &str| text.parse::<Name>().unwrap();
    let intervals = BTreeMap::from([(name("shop"), Duration::from_secs(86_400))]);
    let up = BTreeMap::from([(name("ireland"), true)]);
    let now = DateTime::from_timestamp(1_795_460_000, 0).unwrap();
    let since = now - chrono::TimeDelta::minutes(2);
    render(&Snapshot {
        config: &config,
        intervals: &intervals,
        statuses,
        groups: &BTreeMap::from([(name("web"), status_of_web(since))]),
        running: &BTreeSet::from([name("shop")]),
        waiting: &BTreeMap::from([(name("wiki"), since)]),
        paused: &BTreeMap::from([(name("wiki"), Pause { since, until: now, why: None })]),
        up: &up,
        guards: &BTreeMap::from([(name("ireland"), DeletionLevel::Versions)]),
        locks: &BTreeMap::from([(name("shop"), BTreeMap::from([(name("ireland"), LockStanding::default())]))]),
        witnesses: &BTreeMap::from([(name("drill1"), Some(since))]),
        warden: Some(&warden(since)),
        drills: &BTreeMap::from([(name("shop"), crate::drills::sample(since))]),
        now,
    })
    .unwrap()
}

/// A group of both, whose last run had no common moment.
fn web() -> GroupConfig {
    GroupConfig {
        name: "web".parse().unwrap(),
        members: ["shop", "wiki"].map(|name| name.parse().unwrap()).to_vec(),
        schedule: None,
        wait: Duration::from_secs(60),
        references: Vec::new(),
        drill_schedule: None,
    }
}

fn status_of_web(at: DateTime<Utc>) -> GroupStatus {
    let moment = "20261123T183244123Z-9f2c81aa".parse().unwrap();
    let times = [at, at + chrono::TimeDelta::milliseconds(250)];
    let newest = Some(CommonMoment::new(&moment, &times, BTreeMap::new()));
    GroupStatus { newest, moments: 3, failures: 1, ..GroupStatus::default() }
}

#[test]
fn a_group_tells_its_newest_moment_and_how_old_that_may_be() {
    let page = page(&BTreeMap::new());
    for line in [
        "lifeboat_group_moment_timestamp_seconds{group=\"web\"} 1795459880",
        "lifeboat_group_spread_seconds{group=\"web\"} 0.25",
        "lifeboat_group_max_age_seconds{group=\"web\"} 93600",
        "lifeboat_group_moments_total{group=\"web\"} 3",
        "lifeboat_group_failures_total{group=\"web\"} 1",
        "lifeboat_group_first_seen_timestamp_seconds{group=\"web\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in {page}");
    }
}

/// One that refuses a mark of `shop`, and has never looked at `wiki`.
fn warden(since: DateTime<Utc>) -> WardenTells {
    let name = |text: &str| text.parse::<Name>().unwrap();
    let [first, second] =
        ["20261123T183244123Z-9f2c81aa", "20261123T183244123Z-9f2c81ab"].map(|id| id.parse().unwrap());
    let word = WardenWord {
        looked: Some(since),
        failed: vec!["replica ireland is left alone".to_owned()],
        refused: BTreeMap::from([(first, "last 2 of 2".to_owned())]),
        vetoed: BTreeMap::from([(second, BTreeSet::from([name("bob")]))]),
        waiting: Some(WaitingMarks { dataset: name("shop"), marks: 2, until: since, since, delay: 604_800 }),
        ..WardenWord::default()
    };
    let datasets = BTreeMap::from([(name("shop"), word), (name("wiki"), WardenWord::default())]);
    WardenTells { name: name("warden1"), datasets, unbelieved: 0 }
}

#[test]
fn every_series_exists_from_the_start() {
    let page = page(&BTreeMap::new());
    for dataset in ["shop", "wiki"] {
        for metric in [
            "last_success_timestamp_seconds",
            "last_attempt_timestamp_seconds",
            "last_status",
            "anomalies",
            "doubtful_times",
            "duration_seconds",
            "skipped_databases",
            "raw_bytes",
            "stored_bytes",
        ] {
            assert!(
                page.contains(&format!("lifeboat_backup_{metric}{{dataset=\"{dataset}\"}} 0\n")),
                "{metric}\n{page}"
            );
        }
        let unknown = format!("lifeboat_dataset_first_seen_timestamp_seconds{{dataset=\"{dataset}\"}} 0\n");
        assert!(page.contains(&unknown), "{page}");
        for by in ["chunks", "rows"] {
            let line = format!("lifeboat_backup_deduplicated_bytes{{by=\"{by}\",dataset=\"{dataset}\"}} 0\n");
            assert!(page.contains(&line), "{line}\n{page}");
        }
        for result in ["success", "failure", "unknown"] {
            let line = format!("lifeboat_backup_runs_total{{dataset=\"{dataset}\",result=\"{result}\"}} 0\n");
            assert!(page.contains(&line), "{line}\n{page}");
        }
        assert!(page.contains(&format!("lifeboat_deletion_stopped{{dataset=\"{dataset}\"}} 0\n")));
        assert!(page.contains(&format!("lifeboat_prune_removed_snapshots_total{{dataset=\"{dataset}\"}} 0\n")));
        for metric in ["stored", "unused"] {
            assert!(page.contains(&format!("lifeboat_vault_{metric}_bytes{{dataset=\"{dataset}\"}} 0\n")));
        }
        for replica in ["frankfurt", "ireland"] {
            for metric in [
                "replica_last_complete_timestamp_seconds",
                "replica_behind_snapshots",
                "scrub_objects_total",
                "scrub_repaired_objects_total",
                "scrub_damaged_objects",
                "scrub_oldest_check_timestamp_seconds",
                "scrub_late_seconds",
            ] {
                let line = format!("lifeboat_{metric}{{dataset=\"{dataset}\",replica=\"{replica}\"}} 0\n");
                assert!(page.contains(&line), "{line}\n{page}");
            }
        }
    }
    for line in [
        "lifeboat_backup_running{dataset=\"shop\"} 1\n",
        "lifeboat_backup_running{dataset=\"wiki\"} 0\n",
        "lifeboat_backup_waiting_seconds{dataset=\"shop\"} 0\n",
        "lifeboat_backup_waiting_seconds{dataset=\"wiki\"} 120\n",
        "lifeboat_backup_paused_until_timestamp_seconds{dataset=\"shop\"} 0\n",
        "lifeboat_backup_paused_until_timestamp_seconds{dataset=\"wiki\"} 1795460000\n",
        "lifeboat_schedule_expected_interval_seconds{dataset=\"shop\"} 86400\n",
        "lifeboat_schedule_expected_interval_seconds{dataset=\"wiki\"} 0\n",
        "lifeboat_objective_seconds{dataset=\"shop\",objective=\"rpo\"} 93600\n",
        "lifeboat_objective_seconds{dataset=\"wiki\",objective=\"rto\"} 0\n",
        "lifeboat_drill_last_success_timestamp_seconds{dataset=\"shop\",source=\"vault\"} 0\n",
        "lifeboat_drill_last_attempt_timestamp_seconds{dataset=\"shop\",source=\"vault\"} 1795459880\n",
        "lifeboat_drill_last_status{dataset=\"shop\",source=\"vault\"} 0\n",
        "lifeboat_drill_last_level{dataset=\"shop\",source=\"vault\"} 2\n",
        "lifeboat_drill_restore_duration_seconds{dataset=\"shop\",source=\"vault\"} 7.5\n",
        "lifeboat_replica_up{replica=\"frankfurt\"} 0\n",
        "lifeboat_replica_up{replica=\"ireland\"} 1\n",
        "lifeboat_replica_deletion_level{replica=\"ireland\"} 1\n",
        "lifeboat_locked_until_timestamp_seconds{dataset=\"shop\",replica=\"ireland\"} 0\n",
        "lifeboat_lock_late{dataset=\"shop\",replica=\"ireland\"} 1\n",
        "lifeboat_last_look_timestamp_seconds{dataset=\"shop\",name=\"warden1\",role=\"warden\"} 1795459880\n",
        "lifeboat_last_look_timestamp_seconds{dataset=\"wiki\",name=\"warden1\",role=\"warden\"} 0\n",
        "lifeboat_last_look_timestamp_seconds{dataset=\"\",name=\"drill1\",role=\"witness\"} 1795459880\n",
        "lifeboat_refused_marks{dataset=\"shop\"} 1\n",
        "lifeboat_refused_marks{dataset=\"wiki\"} 0\n",
        "lifeboat_warden_failed{dataset=\"shop\"} 1\n",
        "lifeboat_warden_failed{dataset=\"wiki\"} 0\n",
        "lifeboat_oldest_waiting_mark_timestamp_seconds{dataset=\"shop\"} 1795459880\n",
        "lifeboat_oldest_waiting_mark_timestamp_seconds{dataset=\"wiki\"} 0\n",
        "lifeboat_mark_delay_seconds{dataset=\"shop\"} 604800\n",
        "lifeboat_mark_delay_seconds{dataset=\"wiki\"} 0\n",
        "lifeboat_vetoed_marks{dataset=\"shop\"} 1\n",
        "lifeboat_vetoed_marks{dataset=\"wiki\"} 0\n",
        concat!("lifeboat_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[test]
fn a_deputy_that_has_not_looked_yet_does_not_lead() {
    let config = sample::config(&[("shop", "hosts = [\"db0\", \"db1\"]")]);
    let (shop, second) = (&config.datasets[0], &config.host);
    let mut status = DatasetStatus::default();
    assert!(status.has_led(&"db0".parse().unwrap(), shop), "the first of the list begins");
    assert!(!status.has_led(second, shop));
    status.successes = 1;
    assert!(status.has_led(second, shop), "it has taken over");
    status.led_by = Some("db0".parse().unwrap());
    assert!(!status.has_led(second, shop));
}

#[test]
fn what_is_remembered_is_shown() {
    let at = DateTime::from_timestamp(1_795_459_999, 500_000_000);
    let replicas = BTreeMap::from([("ireland".parse().unwrap(), ReplicaStatus { last_complete: at, behind: 2 })]);
    let scrub = ScrubStanding {
        checked_objects: 40,
        repaired_objects: 3,
        damaged_objects: 2,
        oldest_check: at,
        ..ScrubStanding::default()
    };
    let status = DatasetStatus {
        scrubs: BTreeMap::from([("ireland".parse().unwrap(), scrub)]),
        last_success: at,
        succeeded: true,
        deduplicated_bytes: 1000,
        row_bytes: 300,
        skipped: 2,
        successes: 7,
        space: Space { stored_bytes: 900, unused_bytes: 80 },
        replicas,
        ..DatasetStatus::default()
    };
    let page = page(&BTreeMap::from([("shop".parse().unwrap(), status)]));
    for line in [
        "lifeboat_backup_last_success_timestamp_seconds{dataset=\"shop\"} 1795459999.5\n",
        "lifeboat_backup_last_status{dataset=\"shop\"} 1\n",
        "lifeboat_backup_skipped_databases{dataset=\"shop\"} 2\n",
        "lifeboat_backup_deduplicated_bytes{by=\"chunks\",dataset=\"shop\"} 700\n",
        "lifeboat_backup_deduplicated_bytes{by=\"rows\",dataset=\"shop\"} 300\n",
        "lifeboat_backup_runs_total{dataset=\"shop\",result=\"success\"} 7\n",
        "lifeboat_vault_stored_bytes{dataset=\"shop\"} 900\n",
        "lifeboat_vault_unused_bytes{dataset=\"shop\"} 80\n",
        "lifeboat_replica_last_complete_timestamp_seconds{dataset=\"shop\",replica=\"ireland\"} 1795459999.5\n",
        "lifeboat_replica_behind_snapshots{dataset=\"shop\",replica=\"ireland\"} 2\n",
        "lifeboat_scrub_objects_total{dataset=\"shop\",replica=\"ireland\"} 40\n",
        "lifeboat_scrub_repaired_objects_total{dataset=\"shop\",replica=\"ireland\"} 3\n",
        "lifeboat_scrub_damaged_objects{dataset=\"shop\",replica=\"ireland\"} 2\n",
        "lifeboat_scrub_oldest_check_timestamp_seconds{dataset=\"shop\",replica=\"ireland\"} 1795459999.5\n",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[test]
fn a_time_that_lies_in_the_future_tells_no_age() {
    let shown = |seconds: i64| {
        let at = DateTime::from_timestamp(1_795_460_000 + seconds, 0);
        let replicas = BTreeMap::from([("ireland".parse().unwrap(), ReplicaStatus { last_complete: at, behind: 0 })]);
        let doubtful_times = BTreeMap::from([("20361123T183244123Z-9f2c81aa".parse().unwrap(), at.unwrap())]);
        let status = DatasetStatus { last_success: at, replicas, doubtful_times, ..DatasetStatus::default() };
        page(&BTreeMap::from([("shop".parse().unwrap(), status)]))
    };
    let page = shown(601);
    for line in [
        "lifeboat_backup_last_success_timestamp_seconds{dataset=\"shop\"} 0\n",
        "lifeboat_replica_last_complete_timestamp_seconds{dataset=\"shop\",replica=\"ireland\"} 0\n",
        "lifeboat_backup_doubtful_times{dataset=\"shop\"} 1\n",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    let page = shown(600);
    assert!(
        page.contains("last_success_timestamp_seconds{dataset=\"shop\"} 1795460600\n"),
        "clocks may differ\n{page}"
    );
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(page(&BTreeMap::new()).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
