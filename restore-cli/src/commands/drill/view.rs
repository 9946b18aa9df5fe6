//! How a drill reads: verdict first, then what was restored, how long each phase took, and what was
//! compared.

use std::fmt;
use std::path::PathBuf;

use lifeboat_engine::base::escape;
use lifeboat_engine::config::ProofLevel;
use lifeboat_engine::drill::{DrillChoice, DrillReport, Published};
use lifeboat_engine::format::id::Name;
use serde::Serialize;

use crate::human;
use crate::table::Plain;

/// A report, and where it went. In JSON the report's fields stand at the top.
#[derive(Serialize)]
pub(crate) struct Drilled {
    #[serde(flatten)]
    pub(crate) report: DrillReport,
    /// `None`: it was not offered to the vault.
    pub(crate) published: Option<Published>,
    /// The local file.
    pub(crate) file: Option<PathBuf>,
}

impl fmt::Display for Drilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        writeln!(f, "Drill of {}: {}\n", report.dataset, verdict(report))?;
        write!(f, "{}", Plain::facts(self.facts()))?;
        if !report.phases.is_empty() {
            let mut phases = Plain::new(&["PHASE", ">TIME"]);
            for phase in &report.phases {
                phases.row([phase.phase.clone(), human::seconds(phase.seconds)]);
            }
            write!(f, "\n\n{phases}")?;
        }
        if !report.checks.is_empty() {
            let mut checks = Plain::new(&["CHECK", "", "DETAIL"]);
            for check in &report.checks {
                let state = if check.passed { "passed" } else { "FAILED" };
                checks.row([check.check.clone(), state.to_owned(), check.detail.clone()]);
            }
            write!(f, "\n\n{checks}")?;
        }
        for difference in report.proof.iter().flat_map(|proof| &proof.differences) {
            write!(f, "\n DIFFERS: {}", escape::line(difference))?;
        }
        for note in report.proof.iter().flat_map(|proof| &proof.notes).map(|note| escape::line(note)) {
            write!(f, "\n Note: {note}")?;
        }
        if let Some(why) = &report.failed_in_part {
            write!(f, "\n Note: what had changed was not proved without the rest: {}", escape::line(why))?;
        }
        for warning in &report.warnings {
            write!(f, "\n Note: the snapshot warns: {}", escape::line(warning))?;
        }
        match report.warnings.len() as u64 {
            0 => Ok(()),
            count => {
                let warnings = human::count(count, "warning");
                write!(f, "\n\nThe snapshot has {warnings}: what was restored may lack what the notes above name")
            }
        }
    }
}

fn verdict(report: &DrillReport) -> String {
    let word = |level: ProofLevel| level.as_str().to_uppercase();
    let required = word(report.required);
    let mut verdict = match (report.reached.filter(|_| report.passed), report.objectives_missed().as_slice()) {
        _ if report.in_part.is_some() => report.told_level().to_uppercase(),
        (Some(reached), []) => word(reached),
        (Some(reached), missed) => format!("{}, OBJECTIVE MISSED ({})", word(reached), missed.join(", ")),
        (None, _) => match report.reached {
            Some(reached) => format!("FAILED: it reached {}, and {required} is required", word(reached)),
            None => format!("FAILED before everything was fetched, and {required} is required"),
        },
    };
    if !report.skipped.is_empty() {
        verdict.push_str(&format!(", PARTIAL: the snapshot lacks {}", human::databases(&report.skipped)));
    }
    verdict
}

fn measured(passed: bool, actual: Option<f64>, objective: Option<f64>) -> String {
    match (actual, objective) {
        (None, _) => "not measured".to_owned(),
        (Some(actual), None) => format!("{}, no objective", human::seconds(actual)),
        (Some(actual), Some(objective)) => {
            let word = match (actual > objective, passed) {
                (true, _) => "MISSED",
                (false, true) => "met",
                (false, false) => "not met: the drill failed",
            };
            format!("{}, objective {} {word}", human::seconds(actual), human::seconds(objective))
        }
    }
}

fn names(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// How snapshot and replica were chosen, where a plan did it.
fn choice(chosen: &DrillChoice) -> String {
    let mut told = format!("{} snapshot", chosen.snapshot);
    match (chosen.replica.as_str(), &chosen.only) {
        ("any", _) => {}
        (how, Some(only)) if how != only.as_str() => told.push_str(&format!(", replica {only} ({how})")),
        (how, _) => told.push_str(&format!(", replica {how}")),
    }
    if chosen.outside {
        told.push_str(", outside the home region");
    }
    told
}

impl Drilled {
    fn facts(&self) -> Vec<(&'static str, String)> {
        let report = &self.report;
        let mut facts = vec![
            ("snapshot", report.snapshot.as_ref().map_or("none".to_owned(), ToString::to_string)),
            ("chosen", report.chosen.as_ref().map(choice).unwrap_or_default()),
            ("database", report.engine.clone().unwrap_or_default()),
            ("read from", names(&report.replicas_used)),
        ];
        facts.extend(
            report
                .replicas_unreachable
                .iter()
                .map(|(name, why)| ("NOT REACHED", format!("{name}: {}", human::without_name(name, why)))),
        );
        if let Some(in_part) = &report.in_part {
            let since = format!(
                "{} ({}), as drill {} proved them {}",
                in_part.left_out.join(", "),
                human::bytes(in_part.left_out_bytes),
                in_part.drill,
                human::time(in_part.proved)
            );
            facts.push(("not restored", escape::line(&since).to_string()));
            facts.push(("changed since", escape::line(&in_part.restored.join(", ")).to_string()));
        }
        facts.extend([
            ("restored", human::bytes(report.restored_bytes)),
            ("time to restore (RTO)", measured(report.passed, report.rto_seconds, report.rto_objective_seconds)),
            ("age of data (RPO)", measured(report.passed, report.rpo_seconds, report.rpo_objective_seconds)),
        ]);
        if let Some(proof) = &report.proof {
            facts.push(("compared", human::compared(report.engine.as_deref(), proof)));
        }
        facts.push(("error", report.error.clone().unwrap_or_default()));
        if let Some(published) = &self.published {
            facts.push(("report in", names(&published.replicas)));
            facts.extend(
                published
                    .refused
                    .iter()
                    .map(|(name, why)| ("report refused by", format!("{name}: {}", human::without_name(name, why)))),
            );
        }
        facts.push(("report file", self.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default()));
        facts.retain(|(_, value)| !value.is_empty());
        facts
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use lifeboat_engine::databases::proof::{CheckResult, ProofResult};
    use lifeboat_engine::drill::Phase;

    fn drilled() -> Drilled {
        let report = DrillReport {
            drill: "20261123T200000000Z-9f2c81ac".parse().unwrap(),
            vault: "v".to_owned(),
            dataset: "shop".parse().unwrap(),
            chosen: None,
            snapshot: Some("20261123T183244123Z-9f2c81aa".parse().unwrap()),
            skipped: Vec::new(),
            warnings: Vec::new(),
            engine: Some("postgres 15.14".to_owned()),
            started: "2026-11-23T20:00:00Z".parse().unwrap(),
            finished: "2026-11-23T20:01:00Z".parse().unwrap(),
            replicas_used: vec!["south".parse().unwrap()],
            replicas_unreachable: BTreeMap::from([("north".parse().unwrap(), "timed out".to_owned())]),
            required: ProofLevel::Proved,
            highest: None,
            reached: Some(ProofLevel::Proved),
            in_part: None,
            failed_in_part: None,
            manifest: None,
            passed: true,
            error: None,
            error_class: None,
            phases: vec![Phase { phase: "load".to_owned(), seconds: 41.2 }],
            restored_bytes: 211_077_529,
            rto_seconds: Some(41.2),
            rpo_seconds: Some(720.0),
            rto_objective_seconds: Some(600.0),
            rpo_objective_seconds: None,
            interval_seconds: None,
            checks: vec![CheckResult { check: "pg_amcheck".to_owned(), passed: true, detail: "no finding".to_owned() }],
            group: None,
            proof: Some(ProofResult {
                definitions: 214,
                tables: 31,
                rows: 1_204_332,
                large_objects: 1,
                ..ProofResult::default()
            }),
        };
        Drilled { report, published: None, file: None }
    }

    #[test]
    fn a_proved_drill_reads_as_one() {
        let text = drilled().to_string();
        for part in [
            "Drill of shop: PROVED\n",
            "NOT REACHED            north: timed out",
            "41.2 s, objective 10 min met",
            "12 min, no objective",
            "214 definitions, 31 tables, 1,204,332 rows, 1 large object: equal",
            "pg_amcheck  passed  no finding",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_failure_and_a_missed_objective_cannot_be_overlooked() {
        let mut late = drilled();
        late.report.rto_seconds = Some(600.1);
        assert!(late.to_string().starts_with("Drill of shop: PROVED, OBJECTIVE MISSED (rto)"), "{late}");
        let mut partial = drilled();
        partial.report.skipped = vec!["crm".to_owned(), "old\none".to_owned()];
        let first = "Drill of shop: PROVED, PARTIAL: the snapshot lacks databases crm, old\\none\n";
        assert!(partial.to_string().starts_with(first), "{partial}");
        let mut warned = drilled();
        warned.report.warnings = vec!["lacks 1 entry: a".to_owned(), "holds b\nwith zeros".to_owned()];
        let text = warned.to_string();
        let notes =
            "\n Note: the snapshot warns: lacks 1 entry: a\n Note: the snapshot warns: holds b\\nwith zeros\n\n";
        assert!(text.contains(notes), "{text}");
        assert!(text.lines().last().unwrap().starts_with("The snapshot has 2 warnings: "), "{text}");
        let mut failed = drilled();
        (failed.report.passed, failed.report.reached) = (false, Some(ProofLevel::Checked));
        failed.report.proof.as_mut().unwrap().differences.push("table items: 1 row is missing".to_owned());
        let text = failed.to_string();
        assert!(text.starts_with("Drill of shop: FAILED: it reached CHECKED, and PROVED is required"), "{text}");
        assert!(text.contains("41.2 s, objective 10 min not met: the drill failed"), "{text}");
        failed.report.reached = None;
        failed.report.phases.clear();
        let nothing = failed.to_string();
        assert!(!nothing.contains("PHASE"), "{nothing}");
        assert!(nothing.starts_with("Drill of shop: FAILED before everything was fetched"), "{nothing}");
        assert!(text.contains("NOT EQUAL") && text.contains("DIFFERS: table items: 1 row is missing"), "{text}");
    }

    #[test]
    fn json_is_the_report_with_two_fields_more() {
        let json = serde_json::to_value(drilled()).unwrap();
        assert_eq!(json["reached"], "proved");
        assert_eq!(json["passed"], true);
        assert!(json.get("published").is_some() && json.get("file").is_some());
    }
}
