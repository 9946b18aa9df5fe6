//! The evidence of a drill, whole and as it is published.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::proof::{CheckResult, ProofLevel, ProofResult};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use serde::{Deserialize, Serialize};

use super::references::GroupPart;

/// One measured phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `select`, `compare` (with what was proved before), `start`, `fetch`, `load`, `check`,
    /// `prove`, `across`, `stop`.
    pub phase: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// How the plan of a drill chose what to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillChoice {
    /// `newest`, `oldest`, `random` or `rotate`; `asked` if a person named a snapshot or a time.
    pub snapshot: String,
    /// `any`, `rotate`, or the name of a replica; `asked` if a person named it.
    pub replica: String,
    /// Whether replicas in the home region of the dataset were left out.
    pub outside: bool,
    /// The replica that alone was to be read, also if nothing could be read from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Name>,
}

impl DrillChoice {
    /// In the place of a choice: a person named it.
    pub const ASKED: &str = "asked";
}

/// What a drill did not restore, because it is what an earlier drill proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPart {
    /// That drill. It restored the whole of its snapshot.
    pub drill: SnapshotId,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// When it ended.
    pub proved: DateTime<Utc>,
    /// What was not restored, as it is the same as in that snapshot: databases, or streams. A
    /// published report has digests of the names.
    pub left_out: Vec<String>,
    /// How long its streams are.
    pub left_out_bytes: u64,
    /// What was restored, checked and proved, as it may have changed since. A published report has
    /// digests of the names.
    pub restored: Vec<String>,
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
    /// The BLAKE3 of its manifest's object, as it is stored: what the report is about, whatever is
    /// signed later under the same id. `None` in reports of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// How snapshot and replica were chosen. `None` in reports of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<DrillChoice>,
    /// Databases that the snapshot lacks although it should have them: it is partial. A published
    /// report has digests of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// What the capture of the snapshot warned of: what was proved may lack data, or have zeros for
    /// it. A published report has digests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
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
    /// The level that the drill had to reach. If nobody set one, and no manifest was opened, it is
    /// `proved`.
    pub required: ProofLevel,
    /// The highest level that a source of the snapshot's kind can reach. `None` if no manifest was
    /// opened, or this version does not know the kind. The snapshot tells the kind, so this is not
    /// published.
    #[serde(skip)]
    pub highest: Option<ProofLevel>,
    /// The level that the drill reached with the whole snapshot. `None` if not even `fetched`, or
    /// if it proved [in part](Self::in_part).
    pub reached: Option<ProofLevel>,
    /// What a drill that proved in part did not restore. It measures no time to restore. `None`:
    /// the drill was about the whole snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_part: Option<InPart>,
    /// Why a proof in part failed, before this drill went on with the whole snapshot. A published
    /// report has a digest. `None`: none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_in_part: Option<String>,
    /// Whether the drill reached `required` without an error, or proved in part. A missed objective
    /// does not count against this.
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
    /// Age of the snapshot's data when the drill began, in seconds. `None` if it was not the newest
    /// snapshot, if its manifest was not opened, or if that tells a time in the future.
    pub rpo_seconds: Option<f64>,
    /// The objective for `rto_seconds`, in seconds. `None` if there is none.
    pub rto_objective_seconds: Option<f64>,
    /// The objective for `rpo_seconds`, in seconds. `None` if there is none.
    pub rpo_objective_seconds: Option<f64>,
    /// The longest time between two drills by schedule, in seconds. `None`: none is scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<f64>,
    /// What the checks found. Empty if none ran.
    pub checks: Vec<CheckResult>,
    /// What the comparison with the snapshot found. `None` if it did not run.
    pub proof: Option<ProofResult>,
    /// The group whose drill this was a part of, and what that found from here to other members.
    /// `None`: the dataset was drilled by itself. It has no part in `passed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupPart>,
}

impl DrillReport {
    /// What it reached, in words.
    #[must_use]
    pub fn told_level(&self) -> &'static str {
        match self.in_part {
            Some(_) => "proved in part",
            None => self.reached.map_or("nothing", ProofLevel::as_str),
        }
    }

    /// Whether it shows that the snapshot can be restored to `level`: by itself, or in part, with
    /// what a drill before it proved.
    #[must_use]
    pub fn vouches_for(&self, level: ProofLevel) -> bool {
        self.passed && (self.in_part.is_some() || self.reached >= Some(level))
    }

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
        published.skipped.iter_mut().chain(&mut published.warnings).for_each(|text| *text = digest(text));
        if let Some(in_part) = &mut published.in_part {
            in_part.left_out.iter_mut().chain(&mut in_part.restored).for_each(|name| *name = digest(name));
        }
        published.failed_in_part.iter_mut().for_each(|text| *text = digest(text));
        published.error = self.error.as_ref().map(|error| format!("{class}, {}", digest(error)));
        for check in &mut published.checks {
            check.detail = digest(&check.detail);
        }
        if let Some(proof) = &mut published.proof {
            for text in proof.differences.iter_mut().chain(&mut proof.notes) {
                *text = digest(text);
            }
        }
        for found in published.group.iter_mut().flat_map(|group| &mut group.references) {
            found.first.iter_mut().chain(&mut found.error).for_each(|text| *text = digest(text));
        }
        published
    }
}

/// A text's digest, in words.
fn digest(text: &str) -> String {
    format!("BLAKE3 of the text: {}", blake3::hash(text.as_bytes()).to_hex())
}

/// The checks that a drill runs: those of the engine, and the operator's queries. Names of checks
/// are published, so no other name is believed, and no more checks than there are.
pub(super) struct KnownChecks {
    pub(super) of_engine: &'static [&'static str],
    pub(super) databases: BTreeSet<String>,
    pub(super) queries: Vec<String>,
}

impl KnownChecks {
    /// Fails if `checks` are not some of these.
    pub(super) fn confirm(&self, checks: &[CheckResult]) -> Result<()> {
        let most = self.of_engine.len() * (self.databases.len() + 1) + self.queries.len();
        if checks.len() > most || checks.iter().any(|check| !self.is_known(&check.check)) {
            return Err(Error::integrity("the worker told of checks that nobody asked for"));
        }
        Ok(())
    }

    fn is_known(&self, name: &str) -> bool {
        let of_engine = self.of_engine.iter().filter_map(|check| name.strip_prefix(check)).any(|after| {
            after.is_empty() || after.strip_prefix(' ').is_some_and(|database| self.databases.contains(database))
        });
        let of_query = self.queries.iter().filter_map(|query| name.strip_suffix(query.as_str())).any(|before| {
            before.is_empty() || before.strip_suffix(": ").is_some_and(|database| self.databases.contains(database))
        });
        of_engine || of_query
    }
}

/// Texts of a proof, of which the engines give as many at most.
pub(super) const MAX_TOLD: usize = 51;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_a_check_is_believed_that_says_more_than_was_asked() {
        let known = KnownChecks {
            of_engine: &["pg_amcheck"],
            databases: BTreeSet::from(["shop".to_owned(), "a b".to_owned()]),
            queries: vec!["SELECT 1".to_owned()],
        };
        let check = |name: &str| CheckResult { check: name.to_owned(), passed: true, detail: String::new() };
        for good in ["pg_amcheck", "pg_amcheck shop", "pg_amcheck a b", "shop: SELECT 1", "SELECT 1"] {
            assert!(known.confirm(&[check(good)]).is_ok(), "{good}");
        }
        for bad in ["", "card_4111", "pg_amcheck 4111", "pg_amcheckx", "4111: SELECT 1", "xSELECT 1"] {
            assert!(known.confirm(&[check(bad)]).is_err(), "{bad}");
        }
        let four = ["pg_amcheck", "pg_amcheck shop", "pg_amcheck a b", "shop: SELECT 1"].map(check).to_vec();
        assert!(known.confirm(&four).is_ok());
        assert!(known.confirm(&[four, vec![check("SELECT 1")]].concat()).is_err());
    }
}
