//! Drill: restore into a throw-away database, check, prove, measure, report.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::bytes::sign::Signer;
use crate::clock::SharedClock;
use crate::config::{DrillConfig, Objectives, ProofLevel};
use crate::drill::{CheckResult, ProofResult};
use crate::error::Result;
use crate::flow::reader::{Selector, VaultReader};
use crate::id::{Name, SnapshotId};

/// Everything a drill needs.
pub struct Drill<'a> {
    /// The vault.
    pub reader: &'a VaultReader,
    /// Which dataset.
    pub dataset: &'a Name,
    /// Which snapshot.
    pub selector: Selector,
    /// Level, queries.
    pub settings: &'a DrillConfig,
    /// What was promised.
    pub objectives: Objectives,
    /// Private directory for the throw-away database.
    pub scratch: PathBuf,
    /// The time.
    pub clock: SharedClock,
    /// Fired: stop, clean up, report failure.
    pub cancel: CancellationToken,
}

/// One measured phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `select`, `start`, `fetch`, `load`, `check`, `prove`, `stop`.
    pub phase: String,
    /// How long it took.
    pub seconds: f64,
}

/// The evidence of one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Format version, 1.
    pub version: u32,
    /// Same shape as a snapshot id; names the report in the vault.
    pub drill: SnapshotId,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// What was restored; `None` if none could be selected.
    pub snapshot: Option<SnapshotId>,
    /// Engine and its version in the throw-away database.
    pub engine: Option<String>,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// Replicas that data was read from.
    pub replicas_used: Vec<Name>,
    /// Replicas that did not answer, and why.
    pub replicas_unreachable: BTreeMap<Name, String>,
    /// What it had to reach.
    pub required: ProofLevel,
    /// What it reached; `None`: not even fetched.
    pub reached: Option<ProofLevel>,
    /// Whether it reached `required` with no error.
    pub passed: bool,
    /// What went wrong, in plain words.
    pub error: Option<String>,
    /// In order.
    pub phases: Vec<Phase>,
    /// Bytes restored.
    pub restored_bytes: u64,
    /// From the start of the drill to a loaded database, seconds; `None` if it was not loaded.
    pub rto_seconds: Option<f64>,
    /// Age of the restored data when the drill began, seconds.
    pub rpo_seconds: Option<f64>,
    /// What was promised, seconds.
    pub rto_objective_seconds: Option<f64>,
    /// What was promised, seconds.
    pub rpo_objective_seconds: Option<f64>,
    /// Objectives that were missed: `rto`, `rpo`.
    pub objectives_missed: Vec<String>,
    /// Checks.
    pub checks: Vec<CheckResult>,
    /// Comparison.
    pub proof: Option<ProofResult>,
}

impl Drill<'_> {
    /// Runs it. A drill that fails is a report with `passed: false`, with the error's class for the exit code.
    pub async fn run(&self) -> (DrillReport, Option<crate::Error>) {
        todo!()
    }
}

/// Where a report went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Replicas that took it.
    pub replicas: Vec<Name>,
    /// Replicas that did not, and why.
    pub refused: BTreeMap<Name, String>,
}

/// Signs `report` and offers it to every replica of `reader`.
///
/// # Errors
/// It cannot be serialised or signed.
pub async fn publish(reader: &VaultReader, report: &DrillReport, signer: &Signer) -> Result<Published> {
    let _ = (reader.replicas().len(), signer.public());
    todo!("{report:?}")
}
