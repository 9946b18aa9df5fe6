//! The built lifeboatd, against real replicas in directories: runs, requests, signals, restarts.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Daemon, Host, PATIENCE, ends, said, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn once_reports_each_dataset_and_ends_with_the_worst_failure() {
    let host = Host::new(&[("shop", ""), ("wiki", "")]).await;
    let output = host.run(&["--once", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let lines: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| &line["dataset"]).collect::<Vec<_>>(), [&json!("shop"), &json!("wiki")]);
    assert_eq!((lines[0]["raw_bytes"].as_u64(), host.snapshots("ireland", "shop")), (Some(4), 1));

    std::fs::remove_dir_all(host.place.path().join("ireland")).unwrap();
    let output = host.run(&["--once", "shop"]);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(said(&output).contains("\nerror: ") || said(&output).starts_with("error: "), "{}", said(&output));
    assert_eq!(host.run(&["--once", "stranger"]).status.code(), Some(2));
    assert_eq!(host.run(&["--once", "shop", "--check-config"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_after_a_loss_commits_and_says_that_nothing_is_deleted() {
    let host = Host::new(&[("shop", "retention = { keep_last = 9 }")]).await;
    for _ in 0..2 {
        assert!(host.run(&["--once"]).status.success());
    }
    let snapshots = |replica: &str| host.place.path().join(replica).join("datasets/shop/snapshots");
    let mut oldest: Vec<_> =
        std::fs::read_dir(snapshots("ireland")).unwrap().map(|file| file.unwrap().file_name()).collect();
    oldest.sort();
    for replica in ["frankfurt", "ireland"] {
        // The manifest and its signature.
        for file in &oldest[..2] {
            std::fs::remove_file(snapshots(replica).join(file)).unwrap();
        }
    }
    // This host could put it back.
    std::fs::remove_dir_all(host.place.path().join("state/datasets/shop/cache")).unwrap();
    let output = host.run(&["--once", "--json"]);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lost = oldest[0].to_str().unwrap().split('.').next().unwrap();
    assert!(report["deletion_stopped"]["why"].as_str().unwrap().contains(lost), "{report}");
    assert!(
        said(&output).contains("was committed") && said(&output).contains("lifeboat repair shop"),
        "{}",
        said(&output)
    );
    assert_eq!(host.snapshots("ireland", "shop"), 2, "the run was committed");

    let _daemon = host.start();
    assert_eq!(host.metric("lifeboat_deletion_stopped{dataset=\"shop\"}"), 1.0);
    assert_eq!(host.metric("lifeboat_backup_last_status{dataset=\"shop\"}"), 1.0);
    let status = host.run(&["status"]);
    assert!(said(&status).contains("dataset shop: deletion is STOPPED, at least in part: "), "{}", said(&status));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configurations_and_missing_keys_have_their_exit_codes() {
    let host = Host::new(&[("shop", "")]).await;
    let output = host.run(&["--check-config"]);
    assert!(output.status.success() && said(&output).starts_with("ok: host db1"), "{}", said(&output));
    std::fs::remove_dir_all(host.place.path().join("keys")).unwrap();
    let output = host.run(&["--once"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(said(&output).contains("next: run `lifeboat init`"), "{}", said(&output));
    host.configure(&[("shop", "schedule = \"often\"\nchunk_size = \"3MiB\"")]);
    let output = host.run(&["--check-config"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("five fields") && said(&output).contains("power of two"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_raises_is_told_at_each_load() {
    const RAISED: &str = "grace is shorter than limits.run";
    let host = Host::new(&[("shop", ""), ("wiki", "")]).await;
    let warned = |dataset: &str| format!("dataset {dataset}: {RAISED}");
    let check = |arguments: &[&str]| said(&host.run(&[&["--check-config"], arguments].concat()));
    assert!(!check(&[]).contains(RAISED));
    assert_eq!(serde_json::from_str::<Value>(&check(&["--json"])).unwrap()["warnings"], json!([]));

    let short = "retention = { keep_last = 9, grace = \"1h\" }";
    host.configure(&[("shop", short), ("wiki", "")]);
    let output = host.run(&["--check-config"]);
    let told = format!("\n  warning: {}", warned("shop"));
    assert!(output.status.success() && said(&output).contains(&told), "{}", said(&output));
    let warnings = &serde_json::from_str::<Value>(&check(&["--json"])).unwrap()["warnings"];
    assert!(warnings[0].as_str().unwrap().starts_with(&warned("shop")) && warnings[1].is_null(), "{warnings}");
    assert!(said(&host.run(&["--once", "shop"])).contains(&warned("shop")));
    let daemon = host.start();
    assert!(host.log().contains(&warned("shop")) && !host.log().contains(&warned("wiki")), "{}", host.log());
    host.configure(&[("shop", short), ("wiki", short)]);
    signal(&daemon, "-HUP");
    until("the reload", || host.log().contains("configuration reloaded"));
    assert!(host.log().contains(&warned("wiki")), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_backs_up_and_everything_is_remembered_through_a_restart() {
    let host = Host::new(&[("shop", "schedule = \"@yearly\"")]).await;
    let daemon = host.start();
    assert_eq!(host.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
    assert_eq!(host.metric("lifeboat_backup_last_success_timestamp_seconds{dataset=\"shop\"}"), 0.0);

    let output = host.run(&["trigger", "shop"]);
    assert!(output.status.success() && said(&output).contains("shop: snapshot "), "{}", said(&output));
    assert_eq!(host.snapshots("frankfurt", "shop"), 1);
    assert_eq!(host.run(&["trigger", "stranger"]).status.code(), Some(2));
    let status: Value = serde_json::from_slice(&host.run(&["status", "--json"]).stdout).unwrap();
    assert_eq!(status["datasets"]["shop"]["successes"], 1, "{status}");
    assert_eq!(host.run(&[]).status.code(), Some(1), "a second daemon");

    // A run beside the daemon is seen by it.
    assert!(host.run(&["--once"]).status.success());
    let successes = "lifeboat_backup_runs_total{dataset=\"shop\",result=\"success\"}";
    assert_eq!(host.metric(successes), 2.0);

    signal(&daemon, "-TERM");
    assert_eq!(ends(daemon), Some(0));
    assert!(!host.place.path().join("control.sock").exists());
    let _daemon = host.start();
    assert_eq!(host.metric(successes), 2.0);
    assert!(host.metric("lifeboat_backup_last_success_timestamp_seconds{dataset=\"shop\"}") > 1.7e9);
    assert_eq!(host.metric("lifeboat_replica_up{replica=\"ireland\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_good_configurations_and_refuses_bad_ones() {
    let host = Host::new(&[("shop", ""), ("wiki", "")]).await;
    host.configure(&[("shop", "")]);
    let daemon = host.start();
    assert_eq!(host.run(&["trigger", "wiki"]).status.code(), Some(2));
    host.configure(&[("shop", ""), ("wiki", "")]);
    signal(&daemon, "-HUP");
    until("the reload", || host.log().contains("configuration reloaded"));
    assert!(host.run(&["trigger", "wiki"]).status.success());
    std::fs::write(host.config(), "host = 1").unwrap();
    signal(&daemon, "-HUP");
    until("the refusal", || host.log().contains("not reloaded"));
    host.configure(&[("shop", ""), ("wiki", "")]);
    assert!(host.run(&["trigger", "wiki"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_beyond_its_limit_is_stopped_and_remembered_as_failed() {
    let host = Host::new(&[("shop", "")]).await;
    host.slow_down("shutdown = \"5s\"\nrun = \"1s\"");
    let output = host.run(&["--once", "shop"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("limits.run"), "{}", said(&output));
    let _daemon = host.start();
    assert_eq!(host.metric("lifeboat_backup_runs_total{dataset=\"shop\",result=\"failure\"}"), 1.0);
    let status = host.run(&["status"]);
    assert!(said(&status).contains("the last run FAILED: the backup of shop took longer"), "{}", said(&status));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_cancels_a_run_that_takes_too_long_and_answers_who_waits() {
    let host = Host::new(&[("shop", "")]).await;
    host.slow_down("shutdown = \"1s\"");
    let daemon = host.start();
    let waiting = host.command(&["trigger", "shop"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the run has begun", || host.metric("lifeboat_backup_running{dataset=\"shop\"}") == 1.0);
    let output = host.run(&["--once", "shop"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("another run"), "{}", said(&output));
    signal(&daemon, "-TERM");
    until("it is stopping", || host.get("/readyz").is_none_or(|(status, _)| status == 503));
    assert_eq!(ends(daemon), Some(0));
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("cancelled"), "{}", said(&output));
    assert_eq!(host.snapshots("frankfurt", "shop"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_the_start_the_reload_the_life_and_the_end() {
    let host = Host::new(&[("shop", "schedule = \"@yearly\"")]).await;
    let path = host.place.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = host.command(&["--log", "json"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000").stderr(Stdio::null());
    let daemon = Daemon(command.spawn().unwrap());
    let hear = |word: &str| {
        let mut heard = Vec::new();
        loop {
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {word}: {error}; heard {heard:?}"));
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            if heard.last().unwrap().contains(word) {
                return;
            }
        }
    };
    for word in ["READY=1", "WATCHDOG=1", "STATUS=Idle; next is shop", "WATCHDOG=1"] {
        hear(word);
    }
    signal(&daemon, "-HUP");
    hear("RELOADING=1");
    hear("READY=1");
    signal(&daemon, "-INT");
    hear("STOPPING=1");
    assert_eq!(ends(daemon), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_start_is_made_up_for_and_a_replica_that_was_away_is_caught_up() {
    let host = Host::new(&[("shop", "schedule = \"@daily\"")]).await;
    let state = host.place.path().join("state/datasets/shop");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("status.json"), "{\"considered\":\"2026-01-01T00:00:00Z\"}").unwrap();
    let daemon = host.start();
    until("the missed run", || host.snapshots("ireland", "shop") == 1);
    signal(&daemon, "-TERM");
    ends(daemon);

    // Lost in one region: whatever made the vault there is still there, the dataset is not.
    std::fs::remove_dir_all(host.place.path().join("ireland/datasets")).unwrap();
    let _daemon = host.start();
    until("the catch-up", || host.snapshots("ireland", "shop") == 1);
    assert_eq!(host.snapshots("frankfurt", "shop"), 1, "no second run");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_hangs_up_does_not_stop_the_run() {
    let host = Host::new(&[("shop", "")]).await;
    let _daemon = host.start();
    let mut stream = UnixStream::connect(host.place.path().join("control.sock")).unwrap();
    stream.write_all(b"{\"command\":\"trigger\",\"dataset\":\"shop\"}\n").unwrap();
    drop(stream);
    until("the run", || host.snapshots("frankfurt", "shop") == 1);
    assert!(Path::new(&host.place.path().join("control.sock")).exists());
}
