//! A replica that accepts connections and never answers: it costs a daemon one deadline, then one
//! probe for each run, and takes part again once it answers. The built programs, a real S3 server,
//! and a real TCP proxy before it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use lifeboat_engine::config::ReplicaKind;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::programs::run;
use lifeboat_tests::proxy::{Mode, Proxy};
use lifeboat_tests::s3::Region;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs `lifeboatd` with these arguments, as an operator does beside the daemon.
async fn asked(host: &BackupHost, arguments: &[&str]) -> (bool, String) {
    let output = run(host.lifeboatd().args(arguments), PATIENCE).await.expect("lifeboatd runs");
    (output.status.success(), format!("{}{}", output.stdout, output.stderr))
}

/// One backup by the daemon: how long it took, and whether `south` has it.
async fn backed_up(host: &BackupHost) -> (Duration, bool) {
    let begun = Instant::now();
    let (succeeded, said) = asked(host, &["--json", "trigger", "data"]).await;
    assert!(succeeded, "{said}");
    let report: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let south = report["replicas"].as_array().unwrap().iter().find(|replica| replica["replica"] == "south").unwrap();
    (begun.elapsed(), south["complete"] == true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_costs_a_deadline_and_then_only_a_probe() {
    let (north, south) = (Region::start("north-1").await, Region::start("south-1").await);
    let proxy = Proxy::start(south.plain_address()).await;
    let mut behind = south.replica_config("south");
    behind.timeout = TIMEOUT;
    if let ReplicaKind::S3(s3) = &mut behind.kind {
        s3.endpoint = Some(format!("http://{}", proxy.address()).parse().unwrap());
        s3.ca_file = None;
    }
    let replicas = [section(&north.replica_config("north")), section(&behind)];
    let host = BackupHost::set_up(&replicas, "kind = \"command\"\nargv = [\"date\", \"+%N\"]").await;
    let mut daemon = host.lifeboatd().kill_on_drop(true).spawn().unwrap();
    let begun = Instant::now();
    while !asked(&host, &["status"]).await.0 {
        assert!(begun.elapsed() < PATIENCE && daemon.try_wait().unwrap().is_none(), "the daemon does not start");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (usual, complete) = backed_up(&host).await;
    assert!(complete, "the proxy passes");

    proxy.set(Mode::Hang);
    let (first, complete) = backed_up(&host).await;
    assert!(!complete && first >= TIMEOUT, "{first:?}");
    let (_, status) = asked(&host, &["status"]).await;
    assert!(status.contains("replica south: DOWN since ") && status.contains("runs only probe it"), "{status}");

    tokio::time::sleep(10 * TIMEOUT).await;
    proxy.set(Mode::Hang);
    let (second, complete) = backed_up(&host).await;
    let seen = format!("usually {usual:?}, first {first:?}, second {second:?}, {} connections", proxy.connections());

    assert!(!complete && second < usual + 2 * TIMEOUT, "{seen}");
    assert!(proxy.connections() <= 2, "more than one probe, and that of the minute: {seen}");

    proxy.set(Mode::Pass);
    let begun = Instant::now();
    while !backed_up(&host).await.1 {
        assert!(begun.elapsed() < PATIENCE, "it takes no part again");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let (_, status) = asked(&host, &["status"]).await;
    assert!(!status.contains("runs only probe it"), "{status}");
}
