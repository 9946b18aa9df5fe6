//! A state directory that cannot be written costs deduplication, not the backup. The built programs
//! and a real S3 server. No file may grow beyond nothing, as on a disk without room.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::programs::{Output, run};
use lifeboat_tests::s3::Region;
use serde_json::Value;
use tokio::process::Command;

/// Runs `lifeboatd --once` with no room for any file.
async fn once_without_room(host: &BackupHost) -> (Output, Value) {
    let daemon = host.lifeboatd();
    let mut command = Command::new("sh");
    // A program that ignores the signal is told by an error, as on a full disk.
    command.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"]).arg(daemon.as_std().get_program());
    command.args(daemon.as_std().get_args()).args(["--json", "--log", "text", "--once"]);
    let output = run(&mut command, Duration::from_secs(120)).await.expect("lifeboatd runs");
    let report = serde_json::from_str(output.stdout.lines().next().unwrap_or_default()).unwrap_or_default();
    (output, report)
}

/// Every warning of a report, as one text.
fn warnings(report: &Value) -> String {
    report["warnings"].as_array().unwrap().iter().map(|warning| format!("{warning}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_without_room_costs_deduplication_and_not_the_backup() {
    let region = Region::start("north-1").await;
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let source = format!("kind = \"command\"\nargv = [\"cat\", \"{}\"]", data.display());
    let host = BackupHost::set_up(&[section(&region.replica_config("north"))], &source).await;
    let text = std::fs::read_to_string(host.config()).unwrap();
    std::fs::write(host.config(), text.replace("[dataset.source]", "retention = { keep_last = 1 }\n[dataset.source]"))
        .unwrap();
    let rows =
        |round: u32| -> String { (0..60_000).map(|row| format!("{row},{round},some words of row {row}\n")).collect() };

    // With nothing yet, then beside what an earlier run has left.
    std::fs::write(&data, rows(0)).unwrap();
    let (output, report) = once_without_room(&host).await;
    assert!(output.status.success() && report["snapshot"].is_string(), "{output}");
    let told = warnings(&report);
    for what in ["could not note which packs", "local copies of small objects cannot be kept", "only whole chunks"] {
        assert!(told.contains(what), "{what} is not in\n{told}");
    }
    std::fs::write(&data, rows(1)).unwrap();
    let (output, _) = host.once().await;
    assert!(output.status.success(), "{output}");

    std::fs::write(&data, rows(2)).unwrap();
    let (output, report) = once_without_room(&host).await;
    assert!(output.status.success() && report["snapshot"].is_string(), "{output}");
    assert!(report["deletion_stopped"].is_null(), "{report}");
    assert!(output.stderr.contains("this host cannot remember it"), "prune says nothing: {output}");
    assert_eq!(host.restored_from("north").await, rows(2).into_bytes());

    // What is out of date there misleads nobody later.
    std::fs::write(&data, rows(3)).unwrap();
    for _ in 0..2 {
        let (output, report) = host.once().await;
        assert!(output.status.success() && report["deletion_stopped"].is_null(), "{output}");
    }
    let swept = host.swept().await;
    assert!(swept.failures.is_empty() && swept.snapshots >= 2, "{swept:?}");
    let repair = host.lifeboat(&["repair", "data"]).await;
    assert!(repair.status.success(), "{repair}");

    // A flag that cannot be written stops deletion, and is told. It is found again by the next run.
    let rows = rows(4);
    std::fs::write(&data, &rows[..rows.len() / 10]).unwrap();
    let (output, report) = once_without_room(&host).await;
    assert_eq!(report["deletion_stopped"]["class"], "storage", "{output}");
    assert!(warnings(&report).contains("this cannot be written down"), "{output}");
    let (output, report) = host.once().await;
    assert!(report["anomalies"].as_array().is_some_and(|found| !found.is_empty()), "{output}");
    let flagged = host.lifeboat(&["acknowledge", "data"]).await;
    assert!(flagged.stdout.contains("2 flags not acknowledged"), "{flagged}");
}
