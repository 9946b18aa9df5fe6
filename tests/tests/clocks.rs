//! A host whose clock is wrong: what notices it, and that nothing is lost by it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use lifeboat_engine::Class;
use lifeboat_engine::clock::{Clock, ManualClock, SharedClock, SystemClock};
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::restore::Selector;
use lifeboat_engine::schedule::Schedule;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::store::{MemoryReplica, Replica, SharedReplica, open};
use lifeboat_tests::fake_clock;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::programs::{Output, run};
use lifeboat_tests::s3::Region;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use serde_json::Value;
use tokio::process::Command;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const DEADLINE: Duration = Duration::from_secs(120);

fn data(seed: u64) -> MemorySource {
    MemorySource::of(noise(100_000, seed))
}

/// A vault whose replicas are in memory and tell the time, at first the right one.
async fn telling(replicas: usize) -> (TestVault, Vec<Arc<MemoryReplica>>) {
    let mut vault = TestVault::new(replicas, 1).await;
    let mut telling = Vec::new();
    for n in 1..=replicas {
        let replica = MemoryReplica::new(name(&format!("r{n}")), "east", vault.clock.clone());
        let root = vault.replica_path(n);
        for file in files_below(&root) {
            let key = file.strip_prefix(&root).unwrap().to_str().unwrap();
            replica.put_new(key, Bytes::from(std::fs::read(&file).unwrap())).await.unwrap();
        }
        replica.set_clock_offset(Some(TimeDelta::zero()));
        telling.push(Arc::new(replica));
    }
    vault.replicas = telling.iter().map(|replica| replica.clone() as SharedReplica).collect();
    vault.config.datasets[0].retention.keep_last = 1;
    (vault, telling)
}

async fn keys(replica: &MemoryReplica) -> Vec<String> {
    replica.list("").await.unwrap().into_iter().map(|object| object.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_clock_that_every_replica_contradicts_nothing_is_read_committed_or_deleted() {
    let (vault, replicas) = telling(3).await;
    for seed in 1..=2 {
        vault.backup(&data(seed)).await.unwrap();
    }
    let before = keys(&replicas[0]).await;
    // The third one does not tell the time, as directories do not.
    replicas[2].set_clock_offset(None);
    for offset in [TimeDelta::minutes(6), TimeDelta::minutes(-6), TimeDelta::days(-3650)] {
        replicas.iter().take(2).for_each(|replica| replica.set_clock_offset(Some(offset)));
        let error = vault.backup(&MemorySource { fail_after: Some(0), ..data(3) }).await.unwrap_err();
        assert_eq!(error.class(), Class::Configuration, "{offset}: it read its source: {error:?}");
        assert!(error.message().contains("r1") && error.message().contains("r2"), "{error:?}");
        assert!(error.hint_text().unwrap().contains("timedatectl"), "{error:?}");
        let error = vault.prune().await.unwrap_err();
        assert!(error.chain().contains("nothing in dataset shop is deleted"), "{error:?}");
        assert_eq!(keys(&replicas[0]).await, before, "{offset}");
    }

    // One that lies stops nothing while another one agrees.
    replicas[0].set_clock_offset(Some(TimeDelta::seconds(-299)));
    let report = vault.backup(&data(3)).await.unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("clock of replica r2")), "{:?}", report.warnings);
    let (plan, _) = vault.prune().await.unwrap();
    assert_eq!(plan.mark_snapshots.len(), 2, "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_pause_is_no_doubt_where_a_replica_tells_the_time() {
    let (mut vault, _) = telling(1).await;
    vault.config.datasets[0].schedule = None;
    vault.backup(&data(1)).await.unwrap();
    vault.clock.advance(400 * DAY);
    let report = vault.backup(&data(2)).await.unwrap();
    assert!(report.warnings.is_empty() && report.doubtful_times.is_empty(), "{report:?}");
    assert_eq!(vault.prune().await.unwrap().0.mark_snapshots.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_replica_tells_the_time_nothing_is_deleted_by_a_time_that_jumped() {
    for schedule in [None, Some(Schedule::parse("@hourly", Tz::UTC, Duration::ZERO).unwrap())] {
        let mut vault = TestVault::new(2, 1).await;
        let dataset = &mut vault.config.datasets[0];
        (dataset.schedule, dataset.retention.keep_last) = (schedule, 1);
        for seed in 1..=3 {
            vault.clock.advance(HOUR);
            let report = vault.backup(&data(seed)).await.unwrap();
            assert!(report.doubtful_times.is_empty(), "{report:?}");
        }
        vault.clock.advance(23 * HOUR);
        assert_eq!(vault.prune().await.unwrap().0.mark_snapshots.len(), 2, "a day is no jump");
        let objects = || files_below(&vault.replica_path(1));
        let before = objects();

        // By this time, the grace period of what was just marked is over.
        vault.clock.advance(365 * DAY);
        let error = vault.prune().await.unwrap_err();
        assert!(error.chain().contains("old, and no replica tells the time"), "{error:?}");
        let jumped = vault.backup(&data(4)).await.unwrap();
        assert!(jumped.doubtful_times.contains_key(&jumped.snapshot), "{jumped:?}");
        assert!(jumped.warnings.iter().any(|warning| warning.contains("is this host's clock right?")), "{jumped:?}");
        let error = vault.prune().await.unwrap_err();
        assert!(error.chain().contains("later than the one before it"), "{error:?}");
        let after = objects();
        assert!(before.iter().all(|object| after.contains(object)), "something was deleted");

        // The clock goes on from there, so it is believed.
        vault.clock.advance(HOUR);
        let report = vault.backup(&data(5)).await.unwrap();
        assert!(report.doubtful_times.is_empty(), "{report:?}");
        let (_, outcome) = vault.prune().await.unwrap();
        assert!(outcome.snapshots == 2 && outcome.failures.is_empty(), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_clock_was_set_right_prune_goes_on_and_the_false_time_fills_no_place() {
    let mut vault = TestVault::new(1, 1).await;
    let dataset = &mut vault.config.datasets[0];
    (dataset.schedule, dataset.retention.keep_last) = (None, 2);
    for seed in 1..=2 {
        vault.backup(&data(seed)).await.unwrap();
    }
    let right = vault.clock.now();
    vault.clock.advance(3650 * DAY);
    let wrong = vault.backup(&data(3)).await.unwrap();
    vault.prune().await.unwrap_err();
    vault.clock.set(right);
    let (plan, _) = vault.prune().await.unwrap();
    assert!(plan.mark_snapshots.is_empty(), "the false time filled a place: {plan:?}");
    let third = vault.backup(&data(4)).await.unwrap();
    assert_eq!(third.doubtful_times.keys().collect::<Vec<_>>(), [&wrong.snapshot], "{third:?}");
    let fourth = vault.backup(&data(5)).await.unwrap();
    assert!(fourth.doubtful_times.is_empty() && fourth.warnings.is_empty(), "its predecessor is true: {fourth:?}");
    let (plan, outcome) = vault.prune().await.unwrap();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    let stays =
        |snapshot| plan.verdicts.iter().any(|verdict| verdict.snapshot == snapshot && verdict.goes_at.is_none());
    assert!(stays(wrong.snapshot) && stays(third.snapshot) && stays(fourth.snapshot), "{plan:?}");
    assert_eq!(plan.mark_snapshots.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_of_a_clock_that_was_behind_waits_its_whole_grace_period() {
    let mut vault = TestVault::new(1, 1).await;
    let dataset = &mut vault.config.datasets[0];
    (dataset.schedule, dataset.retention.keep_last, dataset.retention.grace) = (None, 1, 2 * DAY);
    let mut made = Vec::new();
    for seed in 1..=9 {
        made.push(vault.backup(&data(seed)).await.unwrap().snapshot);
        vault.clock.advance(DAY);
    }
    let right = vault.clock.now();
    vault.clock.set(right - TimeDelta::days(4));
    let (plan, _) = vault.prune().await.unwrap();
    assert!(plan.mark_snapshots.contains(&made[0]), "{plan:?}");
    vault.clock.set(right);
    let (plan, outcome) = vault.prune().await.unwrap();
    assert!(plan.removed().next().is_none() && outcome.snapshots == 0, "{plan:?} {outcome:?}");
    vault.clock.advance(DAY);
    let (plan, _) = vault.prune().await.unwrap();
    assert!(plan.removed().any(|snapshot| *snapshot == made[0]), "{plan:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_finds_true_times_also_when_a_false_one_is_past() {
    let vault = TestVault::new(1, 1).await;
    let first = vault.backup(&data(1)).await.unwrap();
    let right = vault.clock.now();
    vault.clock.advance(2 * HOUR);
    let wrong = vault.backup(&data(2)).await.unwrap();
    vault.clock.set(right);
    let second = vault.backup(&data(3)).await.unwrap();
    assert!(second.snapshot > wrong.snapshot && second.started < wrong.started);
    vault.clock.advance(3 * HOUR);
    let third = vault.backup(&data(4)).await.unwrap();
    let reader = vault.open(vault.owner()).await.unwrap();
    for (time, found) in [
        (first.started, &first),
        (second.started, &second),
        (wrong.started, &second),
        (third.started - TimeDelta::seconds(1), &second),
        (third.started, &third),
    ] {
        let selected = reader.select(&name(DATASET), &Selector::At(time), vault.clock.now()).await.unwrap();
        assert_eq!(selected, found.snapshot, "{time}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_store_tells_how_wrong_a_clock_is() {
    let region = Region::start("eu-north-1").await;
    let real = SystemClock::shared();
    for minutes in [0, 6, -6, 60 * 24 * 3650] {
        let clock = ManualClock::at(real.now() + TimeDelta::minutes(minutes));
        let shared: SharedClock = clock;
        let replica = open(&region.replica_config("north"), "vault", &shared).await.unwrap();
        assert_eq!(replica.clock_offset(TimeDelta::MAX), None);
        replica.list("").await.unwrap();
        let offset = replica.clock_offset(TimeDelta::MAX).unwrap() + TimeDelta::minutes(minutes);
        assert!(offset.num_seconds().abs() <= 10, "{minutes}: {offset}");
    }
}

/// `command` on a host whose clock is wrong by `offset`, as libfaketime writes it.
async fn under(offset: &str, mut command: Command) -> Output {
    run(command.envs(fake_clock::environment(offset)), DEADLINE).await.unwrap()
}

fn once(host: &BackupHost) -> Command {
    let mut command = host.lifeboatd();
    command.args(["--json", "--log", "text", "--once"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_wrong_clock_commits_nothing_to_a_real_store() {
    let region = Region::start("eu-north-1").await;
    let ran = tempfile::tempdir().unwrap();
    let words = format!("echo >> {}; date", ran.path().join("ran").display());
    let source = format!("kind = \"command\"\nargv = [\"sh\", \"-c\", \"{words}\"]");
    let host = BackupHost::set_up(&[section(&region.replica_config("north"))], &source).await;
    let (good, _) = host.once().await;
    assert!(good.status.success(), "{}", good.stderr);
    let runs = || std::fs::read_to_string(ran.path().join("ran")).unwrap().lines().count();
    assert_eq!(runs(), 1);
    // Stores accept requests whose time is wrong by up to a quarter of an hour, and refuse others.
    for offset in ["+7m", "-7m", "+10y", "-1d"] {
        let failed = under(offset, once(&host)).await;
        assert_eq!(failed.code(), Some(i32::from(Class::Configuration.exit_code())), "{offset}: {failed}");
        for part in ["this host's clock differs", "north", "timedatectl"] {
            assert!(failed.stderr.contains(part), "{offset}: {part} is not in {failed}");
        }
        assert_eq!(runs(), 1, "{offset}: the source was read");
    }
    let master = host.master().display().to_string();
    let list = host.lifeboat(&["--json", "--identity", &master, "list", "data"]).await.json().unwrap();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 1, "{list}");
    let (good, _) = host.once().await;
    assert!(good.status.success(), "{}", good.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_wrong_clock_and_directories_flags_its_snapshot_and_later_ones_tell_the_truth() {
    let (_place, disk) = disk();
    let host = BackupHost::set_up(&[disk], "kind = \"command\"\nargv = [\"date\"]").await;
    let report = |output: &Output| -> Value { serde_json::from_str(output.stdout.lines().next().unwrap()).unwrap() };
    let (first, _) = host.once().await;
    assert!(first.status.success(), "{}", first.stderr);
    let wrong = under("+10y", once(&host)).await;
    assert!(wrong.status.success() && wrong.stderr.contains("is this host's clock right?"), "{wrong}");
    let wrong = report(&wrong)["snapshot"].as_str().unwrap().to_owned();
    let status = || -> Value {
        serde_json::from_slice(&std::fs::read(host.path().join("state/datasets/data/status.json")).unwrap()).unwrap()
    };
    assert!(status()["doubtful_times"][&wrong].is_string(), "{}", status());
    for _ in 0..2 {
        let (right, told) = host.once().await;
        assert!(right.status.success(), "{}", right.stderr);
        let age = |time: &Value| (Utc::now() - time.as_str().unwrap().parse::<DateTime<Utc>>().unwrap()).num_seconds();
        assert!((0..120).contains(&age(&told["started"])), "{told}");
        let status = status();
        assert_eq!(status["last_success"], told["started"], "{status}");
        assert_eq!(status["replicas"]["disk"]["last_complete"], told["started"], "{status}");
        assert!(status["doubtful_times"][&wrong].is_string(), "{status}");
    }
    let master = host.master().display().to_string();
    let list = host.lifeboat(&["--json", "--identity", &master, "list", "data"]).await;
    assert!(list.stderr.contains("its time lies in the future"), "{list}");
    let shown = list.json().unwrap();
    let ages: Vec<&Value> = shown["snapshots"].as_array().unwrap().iter().map(|row| &row["age_seconds"]).collect();
    assert!(ages.len() == 4 && ages[1].is_null(), "{shown}");
    assert!([0, 2, 3].iter().all(|at| ages[*at].as_f64().unwrap() < 600.0), "{shown}");
    let show = host.lifeboat(&["--identity", &master, "show", "data", &wrong]).await;
    assert!(show.stdout.contains("this time lies in the FUTURE"), "{show}");

    // Nobody is asked, so nothing is settled.
    let asked = host.lifeboat(&["repair", "clock", "data"]).await;
    assert_eq!(asked.code(), Some(i32::from(Class::Usage.exit_code())), "{asked}");
    for part in [&wrong[..], "it lies in the future", "it gets ", "between the snapshots"] {
        assert!(asked.stdout.contains(part), "{part} is not in {asked}");
    }
    let repaired = host.lifeboat(&["--json", "repair", "clock", "data", "--yes"]).await;
    assert!(repaired.status.success(), "{repaired}");
    let repaired = repaired.json().unwrap();
    assert!(repaired["doubtful"].as_array().unwrap().is_empty(), "{repaired}");
    let (time, claimed) = (&repaired["settled"][0]["time"], &repaired["settled"][0]["claimed"]);
    assert_eq!(repaired["settled"][0]["snapshot"], wrong[..], "{repaired}");
    let again = host.lifeboat(&["repair", "clock", "data"]).await;
    assert!(again.status.success() && again.stdout.contains("no other time is false"), "{again}");

    let list = host.lifeboat(&["--json", "--identity", &master, "list", "data"]).await;
    assert!(!list.stderr.contains("future"), "{list}");
    let row = &list.json().unwrap()["snapshots"][1];
    assert_eq!((&row["time"], &row["claimed"], &row["problem"]), (time, claimed, &Value::Null), "{row}");
    assert!(row["age_seconds"].as_f64().unwrap() < 600.0, "{row}");
    let list = host.lifeboat(&["--identity", &master, "list", "data"]).await;
    assert!(list.stdout.contains("(settled; its manifest tells 20") && !list.stdout.contains("FUTURE"), "{list}");
    let show = host.lifeboat(&["--identity", &master, "show", "data", &wrong]).await;
    assert!(show.stdout.contains("(settled; its manifest tells 20") && !show.stdout.contains("FUTURE"), "{show}");
    let out = host.path().join("restored").display().to_string();
    let words =
        ["--json", "--identity", &master, "restore", "data", "--at", time.as_str().unwrap(), "--to-directory", &out];
    let restored = host.lifeboat(&words).await;
    assert!(restored.status.success(), "{restored}");
    assert_eq!(restored.json().unwrap()["snapshot"], wrong[..]);
    // The alert ends with the next look of the daemon, or the next backup.
    let (right, _) = host.once().await;
    assert!(right.status.success() && !right.stderr.contains("future"), "{}", right.stderr);
    assert_eq!(status()["doubtful_times"], serde_json::json!({}));
}

/// A directory and the section of a configuration that names it.
fn disk() -> (tempfile::TempDir, String) {
    let place = tempfile::tempdir().unwrap();
    let replica = ReplicaConfig {
        name: name("disk"),
        region: "attic".to_owned(),
        kind: ReplicaKind::Directory { path: place.path().to_owned() },
        timeout: Duration::from_secs(30),
        bandwidth: Bandwidth::default(),
    };
    let section = section(&replica);
    (place, section)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_store_tells_when_it_stored_a_snapshot_with_a_false_time() {
    let (_place, disk) = disk();
    let region = Region::start("eu-north-1").await;
    let source = "kind = \"command\"\nargv = [\"date\"]";
    let host = BackupHost::set_up(std::slice::from_ref(&disk), source).await;
    let (first, _) = host.once().await;
    assert!(first.status.success(), "{}", first.stderr);
    let wrong = under("+10y", once(&host)).await;
    assert!(wrong.status.success(), "{wrong}");
    // A store in another region is added later, and gets a copy. So it knows only when that was.
    host.configure(1, &[disk, section(&region.replica_config("north"))], source).await;
    let init = host.lifeboat(&["init"]).await;
    assert!(init.status.success(), "{init}");
    let before = Utc::now();
    let copied = host.lifeboat(&["--json", "repair", "data"]).await;
    assert!(copied.status.success(), "{copied}");
    let after = Utc::now();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = host.lifeboat(&["repair", "clock", "data"]).await;
    assert!(asked.stdout.contains("replica north stored it then"), "{asked}");
    let settled = host.lifeboat(&["--json", "repair", "clock", "data", "--yes"]).await.json().unwrap();
    let time: DateTime<Utc> = settled["settled"][0]["time"].as_str().unwrap().parse().unwrap();
    let slack = TimeDelta::seconds(2);
    assert!(before - slack < time && time < after + slack, "{before} {time} {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_under_a_clock_that_was_years_ahead_costs_no_day() {
    let (_place, disk) = disk();
    let host = BackupHost::set_up(&[disk], "kind = \"command\"\nargv = [\"date\"]").await;
    let config = std::fs::read_to_string(host.config()).unwrap();
    std::fs::write(host.config(), format!("{config}\n[dataset.retention]\ndaily = 14\n")).unwrap();
    let days = ["2026-11-01", "2026-11-02", "2029-01-01", "2026-11-03", "2026-11-04", "2026-11-05"];
    let at = |day: &str| format!("@{day} 03:00:00");
    for day in days {
        let ran = under(&at(day), once(&host)).await;
        // Prune may be stopped by the doubtful time; the backup is committed.
        assert!(ran.stdout.contains("\"snapshot\""), "{day}: {ran}");
    }
    let lifeboat = |words: &[&str]| {
        let mut command = Command::new(lifeboat_tests::programs::lifeboat());
        command.arg("--config").arg(host.config()).args(words);
        command
    };
    let settled = under(&at("2026-11-06"), lifeboat(&["--json", "repair", "clock", "data", "--yes"])).await;
    assert!(settled.status.success(), "{settled}");
    let master = host.master().display().to_string();
    let list = under(&at("2026-11-06"), lifeboat(&["--json", "--identity", &master, "list", "data"])).await;
    let list = list.json().unwrap();
    let taken: Vec<String> = list["snapshots"].as_array().unwrap().iter().map(|row| row["time"].to_string()).collect();
    let day = |time: &String| time[1..11].to_owned();
    assert_eq!(
        taken.iter().map(day).collect::<Vec<_>>(),
        ["2026-11-01", "2026-11-02", "2026-11-02", "2026-11-03", "2026-11-04", "2026-11-05"],
        "{list}"
    );
}
