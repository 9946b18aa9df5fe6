//! Who runs when: scheduled runs that find the lock of their dataset taken, runs that failed, and
//! replicas to catch up while nothing runs. The built lifeboatd, against replicas in directories.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_engine::base::Class;
use lifeboat_engine::control;
use lifeboat_engine::state::pause::{self, Pause};
use lifeboat_engine::state::{Lock, StateDirectory};
use serde_json::{Value, json};
use support::{Host, ends, said, signal, until};

const HOURLY: &str = "schedule = \"@hourly\"";
const PAUSED: &str = "lifeboat_backup_paused_until_timestamp_seconds{dataset=\"shop\"}";

/// Whatever was scheduled for `dataset` has passed while the daemon was down, so it is due.
fn make_due(host: &Host, dataset: &str) {
    let state = host.place.path().join("state/datasets").join(dataset);
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("status.json"), "{\"considered\":\"2026-01-01T00:00:00Z\"}").unwrap();
}

/// The lock of a dataset, as another program holds it.
fn lock(host: &Host, dataset: &str) -> Lock {
    let state = StateDirectory::open(&host.place.path().join("state")).unwrap();
    state.try_lock_dataset(&dataset.parse().unwrap()).unwrap().unwrap()
}

fn replace(host: &Host, before: &str, after: &str) {
    let text = std::fs::read_to_string(host.config()).unwrap();
    assert!(text.contains(before), "{text}");
    std::fs::write(host.config(), text.replace(before, after)).unwrap();
}

fn ended(host: &Host, result: &str) -> f64 {
    host.metric(&format!("lifeboat_backup_runs_total{{dataset=\"shop\",result=\"{result}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_run_that_finds_the_lock_taken_waits_and_holds_up_no_other() {
    let host = Host::new(&[("shop", HOURLY), ("wiki", HOURLY)]).await;
    make_due(&host, "shop");
    make_due(&host, "wiki");
    let held = lock(&host, "shop");
    let _daemon = host.start();
    until("the other dataset is backed up", || host.snapshots("ireland", "wiki") == 1);
    let holder = format!("until another run (process {}) ends", std::process::id());
    until("the wait is told", || said(&host.run(&["status"])).contains(&holder));
    let asked = host.run(&["trigger", "shop"]);
    assert!(asked.status.code() == Some(1) && said(&asked).contains("holds its lock"), "{}", said(&asked));
    assert_eq!((host.snapshots("ireland", "shop"), ended(&host, "failure")), (0, 0.0));
    drop(held);
    until("the run that waited", || host.snapshots("ireland", "shop") == 1 && ended(&host, "success") == 1.0);
    assert!(!said(&host.run(&["status"])).contains("WAITS"), "it waits for ever");
    assert_eq!(ended(&host, "failure"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_run_that_never_gets_the_lock_counts_as_failed() {
    let host = Host::new(&[("shop", HOURLY)]).await;
    replace(&host, "shutdown = \"5s\"", "shutdown = \"5s\"\nrun = \"3s\"");
    make_due(&host, "shop");
    let held = lock(&host, "shop");
    let _daemon = host.start();
    until("the failure", || ended(&host, "failure") == 1.0);
    let status = said(&host.run(&["status"]));
    assert!(status.contains("the last run FAILED: it could not start, and had waited since "), "{status}");
    assert!(host.log().contains("backup failed: it could not start"), "{}", host.log());
    drop(held);
    assert!(host.run(&["trigger", "shop"]).status.success());
    assert_eq!((ended(&host, "failure"), ended(&host, "success")), (1.0, 1.0), "the failure is forgotten");
    assert_eq!(host.metric("lifeboat_backup_last_status{dataset=\"shop\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_is_tried_again_until_it_succeeds() {
    let host = Host::new(&[("shop", "schedule = \"@hourly\"\nretry = \"2s\"")]).await;
    let data = host.place.path().join("data");
    replace(&host, "\"printf\", \"shop\"", &format!("\"cat\", \"{}\"", data.display()));
    make_due(&host, "shop");
    let _daemon = host.start_until("/healthz");
    let retries = || host.metric("lifeboat_backup_retries_total{dataset=\"shop\"}");
    until("the second attempt", || retries() >= 1.0);
    until("the next attempt is told", || said(&host.run(&["status"])).contains("dataset shop: tried again at "));
    std::fs::write(data, "now it is there").unwrap();
    until("an attempt that succeeds", || ended(&host, "success") == 1.0);
    assert_eq!(host.metric("lifeboat_backup_last_status{dataset=\"shop\"}"), 1.0);
    let tried = retries();
    assert_eq!(ended(&host, "failure"), tried, "the first run and all retries but the last failed");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((retries(), ended(&host, "success")), (tried, 1.0), "it is tried again although it succeeded");
}

/// Every file below a folder, and what is in it.
fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![(path.clone(), std::fs::read(path).unwrap_or_default())]
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_replicas_are_away_each_try_fails_and_nothing_is_kept_for_later() {
    let host = Host::new(&[("shop", "schedule = \"@hourly\"\nretry = \"2s\"")]).await;
    let secret = "what stands in the database and nowhere else";
    replace(&host, "\"printf\", \"shop\"", &format!("\"printf\", \"{secret}\""));
    let replicas = ["frankfurt", "ireland"].map(|replica| host.place.path().join(replica));
    let away = |replica: &Path| replica.with_extension("away");
    replicas.iter().for_each(|replica| std::fs::rename(replica, away(replica)).unwrap());
    make_due(&host, "shop");
    let _daemon = host.start_until("/healthz");
    let retries = || host.metric("lifeboat_backup_retries_total{dataset=\"shop\"}");
    until("the third attempt", || retries() >= 2.0 && ended(&host, "failure") >= 3.0);
    assert_eq!(ended(&host, "success"), 0.0);
    assert_eq!(host.metric("lifeboat_backup_last_status{dataset=\"shop\"}"), 0.0);
    assert!(host.log().contains("backup failed"), "{}", host.log());
    let kept = files_below(&host.place.path().join("state"));
    let in_clear = kept.iter().filter(|(_, body)| body.windows(secret.len()).any(|part| part == secret.as_bytes()));
    assert_eq!(in_clear.map(|(file, _)| file).collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "it lies there in clear");
    let scratch: Vec<&PathBuf> = kept
        .iter()
        .map(|(file, _)| file)
        .filter(|file| file.components().any(|part| part.as_os_str() == "scratch"))
        .collect();
    assert!(scratch.is_empty(), "{scratch:?} are left");
    replicas.iter().for_each(|replica| std::fs::rename(away(replica), replica).unwrap());
    until("an attempt that succeeds", || ended(&host, "success") == 1.0);
    assert_eq!([host.snapshots("frankfurt", "shop"), host.snapshots("ireland", "shop")], [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_before_it_has_the_lock_is_tried_again() {
    let host = Host::new(&[("shop", "schedule = \"@hourly\"\nretry = \"2s\"")]).await;
    make_due(&host, "shop");
    // A link to itself, which nobody can open.
    let lock = host.place.path().join("state/datasets/shop/lock");
    std::os::unix::fs::symlink("lock", &lock).unwrap();
    let _daemon = host.start();
    until("the failure", || ended(&host, "failure") >= 1.0);
    until("the next attempt is told", || said(&host.run(&["status"])).contains("dataset shop: tried again at "));
    std::fs::remove_file(&lock).unwrap();
    until("an attempt that succeeds", || ended(&host, "success") == 1.0);
    assert_eq!(host.metric("lifeboat_backup_retries_total{dataset=\"shop\"}"), 1.0);
    assert!(!said(&host.run(&["status"])).contains("tried again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_failed_is_not_tried_again_if_that_is_switched_off() {
    let host = Host::new(&[("shop", "schedule = \"@hourly\"\nretry = \"0s\"")]).await;
    replace(&host, "\"printf\", \"shop\"", "\"cat\", \"/nonexistent\"");
    make_due(&host, "shop");
    let _daemon = host.start();
    until("the failure", || ended(&host, "failure") == 1.0);
    assert!(!said(&host.run(&["status"])).contains("tried again"));
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(ended(&host, "failure"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_the_next_dataset_is_caught_up_as_soon_as_one_is() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let datasets: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    let host = Host::new(&datasets).await;
    assert!(host.run(&["--once"]).status.success());
    std::fs::remove_dir_all(host.place.path().join("ireland/datasets")).unwrap();
    let _daemon = host.start();
    let begun = Instant::now();
    until("all are caught up", || names.iter().all(|name| host.snapshots("ireland", name) == 1));
    assert!(begun.elapsed() < Duration::from_secs(15), "eight datasets took {:?}", begun.elapsed());
}

/// Gives every dataset a source that ends when a file of its name is there.
fn hold(host: &Host, datasets: &[&str]) {
    for dataset in datasets {
        let file = host.place.path().join(format!("{dataset}.go"));
        let script = format!("while ! test -e {}; do sleep 0.1; done; echo {dataset}", file.display());
        let before = format!("\"printf\", \"{dataset}\"");
        replace(host, &before, &format!("\"sh\", \"-c\", \"{script}\""));
    }
}

fn release(host: &Host, dataset: &str) {
    std::fs::write(host.place.path().join(format!("{dataset}.go")), "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_datasets_are_backed_up_at_once_and_the_third_waits_for_a_place() {
    let names = ["blog", "shop", "wiki"];
    let host = Host::new(&names.map(|name| (name, HOURLY))).await;
    hold(&host, &names);
    names.iter().for_each(|name| make_due(&host, name));
    let _daemon = host.start();
    let status = || said(&host.run(&["status"]));
    until("two run", || status().matches("backing up ").count() == 2);
    let told = status();
    assert!(
        told.contains("backing up blog for ") && told.contains("dataset wiki: a backup waits for a place"),
        "{told}"
    );
    assert!(host.metric("lifeboat_backup_waiting_seconds{dataset=\"wiki\"}") > 0.0);
    let report: serde_json::Value = serde_json::from_str(&said(&host.run(&["--json", "status"]))).unwrap();
    assert_eq!(
        (report["running"][1]["dataset"].as_str(), &report["queue"][0]["dataset"]),
        (Some("shop"), &"wiki".into())
    );
    release(&host, "shop");
    until("the third has a place", || status().contains("backing up wiki for "));
    assert_eq!((host.snapshots("ireland", "shop"), host.snapshots("ireland", "blog")), (1, 0));
    release(&host, "blog");
    release(&host, "wiki");
    until("all are done", || names.iter().all(|name| host.snapshots("ireland", name) == 1));
    assert_eq!(host.metric("lifeboat_backup_waiting_seconds{dataset=\"wiki\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cancels_a_backup_that_waits_for_another_program() {
    let host = Host::new(&[("shop", HOURLY)]).await;
    make_due(&host, "shop");
    let held = lock(&host, "shop");
    let _daemon = host.start();
    until("it waits", || said(&host.run(&["status"])).contains("a backup WAITS since"));
    // For a moment, each look at the lock is a run.
    let cancelled = host.run(&["cancel", "shop"]);
    assert!(cancelled.status.success() && said(&cancelled).contains("does not start"), "{}", said(&cancelled));
    drop(held);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = said(&host.run(&["status"]));
    assert!(!status.contains("WAITS") && host.snapshots("ireland", "shop") == 0, "{status}");
    assert!(host.run(&["trigger", "shop"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_cancels_a_backup_that_runs_or_waits() {
    let host = Host::new(&[("shop", HOURLY), ("wiki", HOURLY)]).await;
    hold(&host, &["shop", "wiki"]);
    replace(&host, "shutdown = \"5s\"", "shutdown = \"5s\"\nruns = 1");
    make_due(&host, "shop");
    let daemon = host.start();
    let status = || said(&host.run(&["status"]));
    until("it runs", || status().contains("backing up shop for "));
    let waiting = host.command(&["trigger", "wiki"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("the other one waits", || status().contains("dataset wiki: a backup waits for a place (an operator asked)"));
    // Who waits is told for what after three seconds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let cancel = |dataset: &str| host.run(&["cancel", dataset]);
    let cancelled = cancel("wiki");
    assert!(
        cancelled.status.success() && said(&cancelled).contains("does not start this time"),
        "{}",
        said(&cancelled)
    );
    let asked = waiting.wait_with_output().unwrap();
    assert!(asked.status.code() == Some(1) && said(&asked).contains("an operator cancelled it"), "{}", said(&asked));
    for told in [
        "note: dataset wiki: a backup waits for a place (an operator asked)",
        "note: backing up shop for ",
        "note: the answer comes when the backup has ended; Ctrl-C ends only the waiting",
    ] {
        assert!(said(&asked).contains(told), "{told} is not in {}", said(&asked));
    }
    let cancelled = cancel("shop");
    assert!(cancelled.status.success() && said(&cancelled).contains("was cancelled"), "{}", said(&cancelled));
    assert!(status().contains("the last run FAILED: the backup of shop was cancelled by an operator"), "{}", status());
    for dataset in ["shop", "wiki"] {
        let nothing = cancel(dataset);
        assert!(nothing.status.code() == Some(2) && said(&nothing).contains("runs or waits"), "{}", said(&nothing));
        assert_eq!(host.snapshots("ireland", dataset), 0);
    }
    // Neither a retry nor a restart makes up for it.
    signal(&daemon, "-TERM");
    assert_eq!(ends(daemon), Some(0));
    let _daemon = host.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(status().contains("idle"), "{}", status());
    release(&host, "shop");
    assert!(host.run(&["trigger", "shop"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_time_repairs_what_one_replica_has_whole_and_names_what_none_has() {
    let host = Host::new(&[("shop", "")]).await;
    assert!(host.run(&["--once"]).status.success());
    replace(&host, "[limits]", "[scrub]\nperiod = \"1s\"\n[limits]");
    let first = |folder: std::path::PathBuf| std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let pack = |replica: &str| first(first(host.place.path().join(replica).join("datasets/shop/packs")));
    let (frankfurt, ireland) = (pack("frankfurt"), pack("ireland"));
    let whole = std::fs::read(&frankfurt).unwrap();
    // Of the right size, so that no listing shows it.
    let rotten: Vec<u8> = whole.iter().map(|byte| byte ^ 1).collect();
    let damage = |file: &std::path::Path| std::fs::write(file, &rotten).unwrap();
    damage(&frankfurt);
    let of = |metric: &str, replica: &str| format!("lifeboat_scrub_{metric}{{dataset=\"shop\",replica=\"{replica}\"}}");
    let daemon = host.start();
    until("the repair", || host.metric(&of("repaired_objects_total", "frankfurt")) == 1.0);
    assert_eq!(std::fs::read(&frankfurt).unwrap(), whole);
    until("a round", || host.metric(&of("oldest_check_timestamp_seconds", "ireland")) > 1.7e9);
    assert_eq!(host.metric(&of("damaged_objects", "frankfurt")), 0.0);

    [&frankfurt, &ireland].into_iter().for_each(|file| damage(file));
    until("the damage is told", || host.metric(&of("damaged_objects", "ireland")) == 1.0);
    let status = said(&host.run(&["status"]));
    assert!(status.contains("replica ireland has 1 object that are DAMAGED, such as datasets/shop/packs/"), "{status}");
    assert!(status.contains("not repaired: no other replica returns it whole"), "{status}");
    assert!(host.run(&["trigger", "shop"]).status.success(), "a backup goes on");
    // A daemon that starts again remembers it.
    drop(daemon);
    let _daemon = host.start();
    assert!(host.metric(&of("damaged_objects", "ireland")) == 1.0);
    assert!(host.metric(&of("repaired_objects_total", "frankfurt")) == 1.0);
    assert!(ireland.exists() && frankfurt.exists(), "something was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_through_a_restart_and_ends_by_itself() {
    let host = Host::new(&[("shop", HOURLY)]).await;
    make_due(&host, "shop");
    let (state, shop) = (StateDirectory::open(&host.place.path().join("state")).unwrap(), "shop".parse().unwrap());
    let pause = Pause::new(chrono::Utc::now(), Duration::from_secs(12), Some("a\nmove".to_owned())).unwrap();
    pause::write(&state, &shop, Some(&pause)).unwrap();
    let daemon = host.start();
    let status = || said(&host.run(&["status"]));
    until("it is told", || status().contains("dataset shop: is PAUSED until ") && status().contains(": a\\nmove"));
    let told: serde_json::Value = serde_json::from_str(&said(&host.run(&["--json", "status"]))).unwrap();
    let shown = &told["datasets"]["shop"];
    assert_eq!(
        (shown["next"].clone(), &shown["due_since"]),
        (shown["paused"]["until"].clone(), &Value::Null),
        "{shown}"
    );
    assert!(host.metric(PAUSED) > 1e9 && ended(&host, "success") == 0.0);
    assert!(host.run(&["trigger", "shop"]).status.success(), "an operator may");
    drop(daemon);
    make_due(&host, "shop");
    let _daemon = host.start();
    assert_eq!(host.snapshots("ireland", "shop"), 1);
    until("what was due starts when the pause has ended", || host.snapshots("ireland", "shop") == 2);
    assert!(chrono::Utc::now() >= pause.until && host.metric(PAUSED) == 0.0);

    let socket = host.place.path().join("control.sock");
    let ask = async |request: Value| control::ask(&socket, &request).await;
    let hour = json!({ "command": "pause", "dataset": "shop", "seconds": 3600 });
    assert!(ask(hour).await.unwrap().1.contains("no backup of shop starts by schedule until 20"));
    until("it is paused", || host.metric(PAUSED) > 1e9);
    let resume = json!({ "command": "resume", "dataset": "shop" });
    assert_eq!(ask(resume.clone()).await.unwrap().1, "dataset shop: the pause has ended");
    assert!(ask(resume).await.unwrap().0["paused_until"].is_null());
    until("it is not paused", || host.metric(PAUSED) == 0.0);
    let long = json!({ "command": "pause", "dataset": "shop", "seconds": 7 * 86_400 + 1 });
    assert_eq!(ask(long).await.unwrap_err().class(), Class::Usage);
}
