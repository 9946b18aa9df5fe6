//! What the daemon of this host says, as far as the page shows it. The protocol may have more.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::control;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::{Error, Result};
use serde::Deserialize;
use serde_json::json;

/// A daemon that has not answered for this long hangs.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DaemonStatus {
    pub running: Vec<RunningRun>,
    pub queue: Vec<QueuedRun>,
    pub left_alone: BTreeMap<Name, DownReplica>,
    pub datasets: BTreeMap<Name, DatasetStanding>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RunningRun {
    pub dataset: Name,
    pub elapsed_seconds: f64,
    pub read_bytes: u64,
    #[serde(default)]
    pub prunes_since: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct QueuedRun {
    pub dataset: Name,
}

#[derive(Debug, Deserialize)]
pub(super) struct DownReplica {
    pub since: DateTime<Utc>,
    pub why: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DatasetStanding {
    pub next: Option<DateTime<Utc>>,
    pub due_since: Option<DateTime<Utc>>,
    pub waits_for: Option<String>,
    pub paused: Option<PausedSchedule>,
    pub error: Option<String>,
    pub last_attempt: Option<DateTime<Utc>>,
    pub retry_at: Option<DateTime<Utc>>,
    pub skipped: u64,
    pub led_by: Option<Name>,
    pub takeover_needed: bool,
    pub deletion_stopped: Option<String>,
    pub unlogged: Option<String>,
    pub doubtful_times: BTreeMap<SnapshotId, DateTime<Utc>>,
    pub anomalies: Vec<Anomaly>,
    pub scrubs: BTreeMap<Name, Scrub>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PausedSchedule {
    pub until: DateTime<Utc>,
    pub why: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Anomaly {
    pub snapshot: Option<SnapshotId>,
    #[serde(default)]
    pub why: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Scrub {
    pub damaged_objects: u64,
}

/// Asks the daemon.
///
/// # Errors
/// It does not answer, or not in time, or in words that this program does not know.
pub(super) async fn ask(socket: &Path) -> Result<DaemonStatus> {
    let asked = tokio::time::timeout(LONGEST_WAIT, control::ask(socket, &json!({ "command": "status" }))).await;
    let (report, _) = asked.map_err(|_| {
        Error::failed(format!("lifeboatd has not answered within {} seconds", LONGEST_WAIT.as_secs()))
            .hint("read `journalctl -u lifeboatd`, and run `systemctl restart lifeboatd`")
    })??;
    serde_json::from_value(report).map_err(|error| {
        Error::failed("lifeboatd sent a status that this program does not understand")
            .because(error)
            .hint("install the same version of lifeboat and lifeboatd")
    })
}
