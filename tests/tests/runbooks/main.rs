//! The runbooks of OPERATIONS.md, followed: each puts its situation in place, runs the commands
//! that the document shows, in its order, and looks whether the situation is cured.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod audit;
mod deletion;
mod hosts;
mod keys;

mod loss;
mod roots;
mod tables;
mod upgrade;

use lifeboat_tests::operator::{Operator, directory_replica, file_dataset};
use lifeboat_tests::runbook;
use tempfile::TempDir;

/// All tests that follow a runbook.
const FOLLOWED: [&str; 8] = [
    include_str!("audit.rs"),
    include_str!("deletion.rs"),
    include_str!("hosts.rs"),
    include_str!("keys.rs"),
    include_str!("loss.rs"),
    include_str!("roots.rs"),
    include_str!("tables.rs"),
    include_str!("upgrade.rs"),
];

/// A directory for hosts, replicas and the file that is backed up.
fn place() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-runbook-").tempdir_in("/tmp").unwrap()
}

/// What the next backup finds.
fn write(place: &TempDir, data: &str) {
    std::fs::write(place.path().join("data"), data).unwrap();
}

/// A host with a vault in the directories `frankfurt` and `ireland`, which backs a file up as
/// `shop`, with these more lines of its dataset.
async fn host(place: &TempDir, more: &str) -> Operator {
    let mut host = Operator::at(place.path(), "db1");
    host.masters = vec![host.make_identity("master.txt").await];
    host.replicas = ["frankfurt", "ireland"].map(|name| directory_replica(place.path(), name)).to_vec();
    write(place, "one");
    host.datasets = vec![file_dataset("shop", &place.path().join("data"), more)];
    host.init("").await;
    host
}

#[test]
fn every_runbook_that_shows_a_command_is_followed() {
    for heading in runbook::headings() {
        let opened = format!("Runbook::open(\"{heading}\")");
        assert!(FOLLOWED.iter().any(|text| text.contains(&opened)), "no test follows `{heading}`");
    }
}
