//! The evidence of a drill, whole and as it is published.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lifeboat_base::Class;
use lifeboat_databases::proof::{CheckResult, ProofLevel, ProofResult};
use lifeboat_format::id::{Name, SnapshotId};
use serde::{Deserialize, Serialize};

/// One measured phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `select`, `start`, `fetch`, `load`, `check`, `prove`, `stop`.
    pub phase: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The evidence of one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// The report's id in the vault. It has the shape of a snapshot id.
    pub drill: SnapshotId,
    /// The vault's id.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// The restored snapshot. `None` if none could be selected.
    pub snapshot: Option<SnapshotId>,
    /// The engine and the version of its throw-away server. Without such a server, the version of
    /// the captured one.
    pub engine: Option<String>,
    /// When the drill began.
    pub started: DateTime<Utc>,
    /// When the drill ended.
    pub finished: DateTime<Utc>,
    /// Replicas that packs were read from.
    pub replicas_used: Vec<Name>,
    /// Replicas that did not answer, and why.
    pub replicas_unreachable: BTreeMap<Name, String>,
    /// The level that the drill had to reach.
    pub required: ProofLevel,
    /// The level that the drill reached. `None` if not even `fetched`.
    pub reached: Option<ProofLevel>,
    /// Whether the drill reached `required` without an error. A missed objective does not count
    /// against this.
    pub passed: bool,
    /// The error with its causes. A missed objective is one, too. A published report has its class
    /// and a digest.
    pub error: Option<String>,
    /// The class of the error. It is published as a part of `error`.
    #[serde(skip)]
    pub error_class: Option<Class>,
    /// The phases that succeeded, in order.
    pub phases: Vec<Phase>,
    /// Bytes of streams that were restored.
    pub restored_bytes: u64,
    /// Seconds from the start of the drill until everything was loaded. If the level is `fetched`,
    /// until everything was fetched. `None` if it failed before.
    pub rto_seconds: Option<f64>,
    /// Age of the snapshot's data when the drill began, in seconds. `None` if its manifest was not
    /// opened.
    pub rpo_seconds: Option<f64>,
    /// The objective for `rto_seconds`, in seconds. `None` if there is none.
    pub rto_objective_seconds: Option<f64>,
    /// The objective for `rpo_seconds`, in seconds. `None` if there is none.
    pub rpo_objective_seconds: Option<f64>,
    /// What the checks found. Empty if none ran.
    pub checks: Vec<CheckResult>,
    /// What the comparison with the snapshot found. `None` if it did not run.
    pub proof: Option<ProofResult>,
}

impl DrillReport {
    /// The objectives that were missed: `rpo`, `rto`, both or none.
    #[must_use]
    pub fn objectives_missed(&self) -> Vec<&'static str> {
        let missed = |actual: Option<f64>, objective: Option<f64>| {
            actual.zip(objective).is_some_and(|(actual, objective)| actual > objective)
        };
        let mut names = Vec::new();
        if missed(self.rpo_seconds, self.rpo_objective_seconds) {
            names.push("rpo");
        }
        if missed(self.rto_seconds, self.rto_objective_seconds) {
            names.push("rto");
        }
        names
    }

    /// The report without what tools and databases said, which may hold rows: everybody who can
    /// read a bucket can read a report. Instead of each such text there is its digest, which the
    /// full report on the drill host can be held against.
    #[must_use]
    pub fn for_publication(&self) -> Self {
        let mut published = self.clone();
        let class = self.error_class.unwrap_or(Class::Failed).as_str();
        published.error = self.error.as_ref().map(|error| format!("{class}, {}", digest(error)));
        for check in &mut published.checks {
            check.detail = digest(&check.detail);
        }
        if let Some(proof) = &mut published.proof {
            for text in proof.differences.iter_mut().chain(&mut proof.notes) {
                *text = digest(text);
            }
        }
        published
    }
}

/// A text's digest, in words.
fn digest(text: &str) -> String {
    format!("BLAKE3 of the text: {}", blake3::hash(text.as_bytes()).to_hex())
}

/// What names of checks are made of: the operator's queries, names of databases, and a word of the
/// engine. A name is published, so one that is made of anything else is not believed.
pub(super) struct NamesOfChecks {
    pub(super) databases: BTreeSet<String>,
    pub(super) queries: BTreeSet<String>,
}

impl NamesOfChecks {
    pub(super) fn is_known(&self, name: &str) -> bool {
        let word = |word: &str| word.len() <= 24 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let of_database =
            name.split_once(' ').is_some_and(|(first, database)| word(first) && self.databases.contains(database));
        let of_query = self.queries.iter().filter_map(|query| name.strip_suffix(query.as_str())).any(|before| {
            before.is_empty() || before.strip_suffix(": ").is_some_and(|database| self.databases.contains(database))
        });
        word(name) || of_database || of_query
    }
}
