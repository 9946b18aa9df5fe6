//! The page about one drill.

use chrono::{DateTime, Utc};
use data_encoding::BASE64;
use lifeboat_engine::databases::Database;
use lifeboat_engine::drill::{DrillEvidence, DrillReport};
use maud::{Markup, html};

use super::charts::{Measure, over_time, timeline};
use super::summary::{DrillStanding, Summary, compared, names};
use crate::html::{self, News};
use crate::human;

const MEASURES: [Measure; 2] = [
    Measure {
        name: "Time to restore (RTO)",
        of: |report| report.rto_seconds,
        objective: |report| report.rto_objective_seconds,
    },
    Measure {
        name: "Age of the data (RPO)",
        of: |report| report.rpo_seconds,
        objective: |report| report.rpo_objective_seconds,
    },
];

/// The page of a drill.
pub(super) fn page(summary: &Summary<'_>, evidence: &DrillEvidence, gaps: &[String], now: DateTime<Utc>) -> String {
    let report = summary.report;
    let title = format!("Restore drill of {}, {}", report.dataset, report.finished.format("%-d %B %Y"));
    let not_compared = summary.not_compared();
    let main = html! {
        (banner(summary))
        section { h2 { "What was restored" } (facts(report)) }
        section { h2 { "Objectives" } (objectives(report)) }
        @if !report.phases.is_empty() {
            section { h2 { "How long it took" } (timeline(&report.phases)) }
        }
        section { h2 { "What was compared" } (checks(report)) }
        @if !not_compared.is_empty() {
            section {
                h2 { "What was not" }
                ul { @for what in &not_compared { li { (what) } } }
            }
        }
        section { h2 { "Drills before" } (history(summary, gaps)) }
        section { h2 { "How to check this report" } (verification(evidence)) }
    };
    html::page(&title, &main, now)
}

fn banner(summary: &Summary<'_>) -> Markup {
    let news = match summary.standing() {
        DrillStanding::Passed => News::Good,
        DrillStanding::ObjectiveMissed => News::Late,
        DrillStanding::Failed => News::Bad,
    };
    html::banner(news, &summary.headline(), &summary.verdict())
}

fn facts(report: &DrillReport) -> Markup {
    let snapshot = report.snapshot.as_ref().map_or("none".to_owned(), ToString::to_string);
    let rows = [
        ("Snapshot", snapshot),
        ("Database", report.engine.clone().unwrap_or_else(|| "not known".to_owned())),
        ("Read from", names(&report.replicas_used)),
        ("Restored", human::bytes(report.restored_bytes)),
        ("Began", human::time(report.started)),
        ("Ended", human::time(report.finished)),
        ("Error", report.error.clone().unwrap_or_default()),
    ];
    html! {
        table {
            tbody {
                @for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
                    tr { th scope="row" { (name) } td { (value) } }
                }
            }
        }
    }
}

fn objectives(report: &DrillReport) -> Markup {
    let seconds = |seconds: Option<f64>, none: &str| seconds.map_or(none.to_owned(), human::seconds);
    let verdict = |actual: Option<f64>, objective: Option<f64>| match (actual, objective) {
        (_, None) => ("none", "no objective"),
        (Some(actual), Some(objective)) if actual > objective => ("bad", "MISSED"),
        // A time that led to nothing meets nothing.
        (Some(_), Some(_)) if !report.passed => ("bad", "not met: the drill failed"),
        (Some(_), Some(_)) => ("good", "met"),
        (None, Some(_)) => ("bad", "not shown"),
    };
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "What" }
                    th scope="col" .number { "Measured" }
                    th scope="col" .number { "Objective" }
                    th scope="col" { "Result" }
                }
            }
            tbody {
                @for measure in &MEASURES {
                    @let (actual, objective) = ((measure.of)(report), (measure.objective)(report));
                    @let (class, word) = verdict(actual, objective);
                    tr {
                        th scope="row" { (measure.name) }
                        td .number { (seconds(actual, "not measured")) }
                        td .number { (seconds(objective, "none")) }
                        td class=(class) { (word) }
                    }
                }
            }
        }
    }
}

/// In which way the snapshot was compared with what was restored.
fn how_compared(report: &DrillReport) -> &'static str {
    match human::engine_of(report.engine.as_deref()).is_some_and(Database::is_tree) {
        true => "Entry by entry",
        false => "Definitions as text, rows as multisets",
    }
}

fn checks(report: &DrillReport) -> Markup {
    html! {
        @match compared(report) {
            Some((_, what)) => p { (how_compared(report)) ": " (what) "." },
            None => p { "Nothing was compared with the snapshot." },
        }
        @for difference in report.proof.iter().flat_map(|proof| &proof.differences) {
            p .bad { "Differs: " (difference) }
        }
        @if report.checks.is_empty() {
            p { "No check came to a result." }
        } @else {
            table {
                thead { tr { th scope="col" { "Check" } th scope="col" { "Result" } } }
                tbody {
                    @for check in &report.checks {
                        tr {
                            th scope="row" { code { (check.check) } }
                            td class=(if check.passed { "good" } else { "bad" }) { (if check.passed { "passed" } else { "FAILED" }) }
                        }
                    }
                }
            }
        }
    }
}

fn history(summary: &Summary<'_>, gaps: &[String]) -> Markup {
    let reports: Vec<&DrillReport> = summary.past.iter().map(|drill| &drill.report).collect();
    let seconds = |seconds: Option<f64>| seconds.map_or("-".to_owned(), human::seconds);
    html! {
        @for measure in &MEASURES {
            @if let Some(chart) = over_time(measure, &reports) { (chart) }
        }
        @for line in summary.forecast() { p { "Forecast: " (line) "." } }
        @for gap in gaps { p .bad { "Some drills may be missing: " (gap) } }
        table {
            thead {
                tr {
                    th scope="col" { "Drilled" }
                    th scope="col" { "Result" }
                    th scope="col" { "Snapshot" }
                    th scope="col" .number { "RTO" }
                    th scope="col" .number { "RPO" }
                    th scope="col" .number { "Restored" }
                    th scope="col" { "From" }
                    th scope="col" { "By" }
                }
            }
            tbody {
                @for drill in summary.past {
                    @let report = &drill.report;
                    tr {
                        td { (human::time(report.finished)) }
                        td class=(if report.passed { "good" } else { "bad" }) {
                            (if report.passed { "" } else { "FAILED, reached " }) (report.told_level())
                        }
                        td { (report.snapshot.as_ref().map_or("-".to_owned(), ToString::to_string)) }
                        td .number { (seconds(report.rto_seconds)) }
                        td .number { (seconds(report.rpo_seconds)) }
                        td .number { (human::bytes(report.restored_bytes)) }
                        td { (names(&report.replicas_used)) }
                        td { (drill.host.as_ref().map_or("-".to_owned(), ToString::to_string)) }
                    }
                }
            }
        }
    }
}

fn verification(evidence: &DrillEvidence) -> Markup {
    let name = evidence.key.rsplit('/').next().unwrap_or("report.json");
    let signature = format!("{name}.minisig");
    let data = |bytes: &[u8]| format!("data:application/octet-stream;base64,{}", BASE64.encode(bytes));
    let who = evidence.host.as_ref().map_or("a drill host".to_owned(), |host| format!("drill host {host}"));
    let signer = evidence.signer.as_str();
    html! {
        p { "This page is a view. The report that counts was signed by " (who) ", and is in this file, too:" }
        ol {
            li {
                "Save "
                a download=(name) href=(data(&evidence.record)) { (name) }
                " and "
                a download=(signature) href=(data(&evidence.signature)) { (signature) }
                ". The vault has the same two objects at " code { (evidence.key) } "; they were read from replica "
                (evidence.replica) "."
            }
            li {
                "Run minisign where you saved them:"
                pre tabindex="0" { code { "minisign -Vm " (name) " -P " (signer) } }
            }
            li {
                "It must print " code { "Signature and comment signature verified" } ", and this comment, which names the vault and the report:"
                pre tabindex="0" { code { "Trusted comment: " (evidence.comment) } }
            }
            li {
                "Compare the key after -P with the one that you know " (who) " by: "
                code { "lifeboat root show" } " prints the keys that the owners signed."
            }
        }
        p { "Texts of databases, which may hold rows, are not published: the report has their BLAKE3 digests, and the drill host the texts." }
    }
}
