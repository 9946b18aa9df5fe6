//! What a report comes to, in sentences.
//!
//! Nothing here claims more than the report does: what did not run, or was not reached, is said to
//! be so.

use chrono::TimeDelta;
use lifeboat_engine::config::ProofLevel;
use lifeboat_engine::databases::Database;
use lifeboat_engine::drill::{DrillReport, PastDrill};
use lifeboat_engine::format::id::{Name, SnapshotId};

use crate::human;

/// A forecast looks no further.
const FORECAST_DAYS: f64 = 3650.0;

/// How a drill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrillStanding {
    Passed,
    ObjectiveMissed,
    Failed,
}

/// A report, among those before and after it.
pub(super) struct Summary<'a> {
    pub(super) report: &'a DrillReport,
    /// Newest first.
    pub(super) past: &'a [PastDrill],
}

impl Summary<'_> {
    pub(super) fn standing(&self) -> DrillStanding {
        match (self.report.passed, self.report.objectives_missed().is_empty()) {
            (true, true) => DrillStanding::Passed,
            (true, false) => DrillStanding::ObjectiveMissed,
            (false, _) => DrillStanding::Failed,
        }
    }

    /// How it ended, before all else, in words; and the levels beside them.
    pub(super) fn headline(&self) -> String {
        let report = self.report;
        let word = match self.standing() {
            DrillStanding::Failed => return format!("Failed{} ({})", failed(report), self.levels()),
            DrillStanding::Passed => "Passed",
            DrillStanding::ObjectiveMissed => "Objective missed",
        };
        let how = match (&report.in_part, report.reached) {
            (Some(_), _) if report.restored_bytes == 0 => "nothing had changed since it was proved".to_owned(),
            (Some(_), _) => "what had changed was proved equal to the snapshot".to_owned(),
            (None, Some(level)) => shown(report, level),
            (None, None) => "nothing was required".to_owned(),
        };
        format!("{word}: {how} ({})", self.levels())
    }

    /// The level that was reached, beside the one that must be.
    fn levels(&self) -> String {
        let report = self.report;
        let required = report.required.as_str();
        match report.reached {
            _ if report.in_part.is_some() => report.told_level().to_owned(),
            Some(reached) if reached == report.required => format!("level {required}, as required"),
            Some(reached) => format!("level {}; {required} is required", reached.as_str()),
            None => format!("no level; {required} is required"),
        }
    }

    /// What the drill says of the dataset, in a sentence or three.
    pub(super) fn verdict(&self) -> String {
        let report = self.report;
        let day = report.finished.format("%-d %B %Y");
        let from = match report.replicas_used.as_slice() {
            [] => String::new(),
            [one] => format!(" from replica {one}"),
            several => format!(" from replicas {}", names(several)),
        };
        let dataset = &report.dataset;
        let mut verdict = match (report.reached.filter(|_| report.passed), &report.in_part) {
            (_, Some(in_part)) => {
                let since = in_part.proved.format("%-d %B %Y");
                let rest = human::bytes(in_part.left_out_bytes);
                let changed = match report.restored_bytes {
                    0 => "nothing had changed".to_owned(),
                    bytes => format!("{} that had changed were restored{from} and proved equal", human::bytes(bytes)),
                };
                format!(
                    "On {day}, dataset {dataset} was proved in part: {changed}, and {rest} were not restored, as a drill \
                     proved the same on {since}."
                )
            }
            (Some(reached), None) => format!("On {day}, dataset {dataset} was {}.", achieved(reached, &from)),
            (None, None) => {
                let as_far = report
                    .reached
                    .map_or("It reached no level".to_owned(), |reached| format!("It was {}", achieved(reached, &from)));
                let required = report.required.as_str();
                format!("On {day}, the drill of dataset {dataset} FAILED. {as_far}; level {required} is required.")
            }
        };
        match report.objectives_missed().as_slice() {
            [] if report.passed && all_met(report) => verdict.push_str(" All objectives were met."),
            [] => {}
            missed => verdict.push_str(&format!(" The objective was MISSED: {}.", missed.join(" and ").to_uppercase())),
        }
        if !report.skipped.is_empty() {
            let databases = human::count(report.skipped.len() as u64, "database");
            verdict.push_str(&format!(" The snapshot is PARTIAL: it lacks {databases}."));
        }
        verdict
    }

    /// What the drill did not look at, and who knows more.
    pub(super) fn not_compared(&self) -> Vec<String> {
        let report = self.report;
        let mut told = Vec::new();
        if let Some(in_part) = &report.in_part {
            let bytes = human::bytes(in_part.left_out_bytes);
            told.push(format!("{bytes} that drill {} had proved: they were not restored", in_part.drill));
            told.push("how long a restore takes: a drill in part does not measure it".to_owned());
        }
        let below =
            |level: ProofLevel| report.in_part.is_none() && report.reached.is_none_or(|reached| reached < level);
        if below(ProofLevel::Loaded) {
            told.push("whether a server takes the data: nothing was loaded as a whole".to_owned());
        }
        if below(ProofLevel::Checked) {
            told.push(format!("whether what was restored is sound: {}", checked(report)));
        }
        // Where they differ, they were compared.
        if below(ProofLevel::Proved) && report.proof.as_ref().is_none_or(|proof| proof.differences.is_empty()) {
            told.push(format!("whether what was restored equals the snapshot: {}", why_not_compared(report)));
        }
        let mut texts = |count: usize, what: &str, after: &str| {
            if count > 0 {
                let count = human::count(count as u64, what);
                told.push(format!("{count}{after}: the drill host has the text"));
            }
        };
        texts(report.skipped.len(), "database", " that the snapshot lacks");
        texts(report.warnings.len(), "warning", " of the capture");
        texts(report.proof.as_ref().map_or(0, |proof| proof.notes.len()), "note", " of the comparison");
        told.extend(report.replicas_unreachable.keys().map(|name| format!("replica {name}, which did not answer")));
        told
    }

    /// What the drills that passed let expect of the next ones.
    pub(super) fn forecast(&self) -> Vec<String> {
        // Until all is fetched, and until all is loaded, are two times: they are not mixed.
        let is_loaded = |drill: &DrillReport| drill.reached >= Some(ProofLevel::Loaded);
        let mut good: Vec<&DrillReport> = self.past.iter().map(|drill| &drill.report).collect();
        good.retain(|drill| drill.passed && drill.rto_seconds.is_some_and(|seconds| seconds > 0.0));
        // A plan may drill old snapshots later than new ones: what grows is the data.
        let taken = |drill: &DrillReport| drill.snapshot.as_ref().map(SnapshotId::time);
        good.retain(|drill| taken(drill).is_some());
        good.sort_by_key(|drill| std::cmp::Reverse(taken(drill)));
        if let Some(newest) = good.first().copied() {
            good.retain(|drill| is_loaded(drill) == is_loaded(newest));
        }
        let rate = |drill: &DrillReport| drill.rto_seconds.map(|seconds| drill.restored_bytes as f64 / seconds);
        let Some(slowest) = good.iter().filter_map(|drill| rate(drill)).reduce(f64::min).filter(|rate| *rate > 0.0)
        else {
            return Vec::new();
        };
        let (Some(newest), Some(oldest)) = (good.first(), good.last()) else { return Vec::new() };
        let mut told = vec![format!(
            "at the slowest rate of {}, {} a second, {} are restored in {}",
            human::count(good.len() as u64, "drill"),
            human::bytes(slowest as u64),
            human::bytes(newest.restored_bytes),
            human::seconds(newest.restored_bytes as f64 / slowest)
        )];
        let (Some(last), Some(first)) = (taken(newest), taken(oldest)) else { return told };
        let days = (last - first).as_seconds_f64() / TimeDelta::days(1).as_seconds_f64();
        let growth = newest.restored_bytes as f64 - oldest.restored_bytes as f64;
        if days < 1.0 || growth <= 0.0 {
            return told;
        }
        let a_day = growth / days;
        told.push(format!("it grew by {} a day in {days:.0} days", human::bytes(a_day as u64)));
        if let Some(objective) = newest.rto_objective_seconds {
            let until = (objective * slowest - newest.restored_bytes as f64) / a_day;
            told.push(match until {
                ..0.0 => "at that rate, the objective for the time to restore is missed now".to_owned(),
                0.0..FORECAST_DAYS => {
                    let when = last + TimeDelta::days(until as i64);
                    format!(
                        "if it goes on so, the time to restore misses its objective about {}",
                        when.format("%-d %B %Y")
                    )
                }
                _ => "if it goes on so, the time to restore meets its objective for ten years".to_owned(),
            });
        }
        told
    }
}

/// What was compared with the snapshot.
pub(super) fn compared(report: &DrillReport) -> Option<(&'static str, String)> {
    let proof = report.proof.as_ref()?;
    Some(("compared", human::compared(report.engine.as_deref(), proof)))
}

/// What a drill of this kind restores.
fn restored(report: &DrillReport) -> &'static str {
    match human::engine_of(report.engine.as_deref()) {
        Some(engine) if engine.is_tree() => "restored tree of files",
        Some(engine) if engine.takes_commands() => "restored data",
        _ => "restored database",
    }
}

/// What a level shows.
fn shown(report: &DrillReport, level: ProofLevel) -> String {
    let restored = restored(report);
    match level {
        ProofLevel::Fetched => "the snapshot was fetched and decrypted, whole".to_owned(),
        ProofLevel::Loaded => "the snapshot was restored, whole".to_owned(),
        ProofLevel::Checked => format!("the {restored} was found sound"),
        ProofLevel::Proved => format!("the {restored} was proved equal to the snapshot"),
    }
}

/// How a drill failed, as it goes on after "Failed".
fn failed(report: &DrillReport) -> String {
    if report.proof.as_ref().is_some_and(|proof| !proof.differences.is_empty()) {
        return format!(": the {} differs from the snapshot", restored(report));
    }
    if report.checks.iter().any(|check| !check.passed) {
        return format!(": {}", checked(report));
    }
    match report.reached {
        Some(level) => format!(" after {}", shown(report, level)),
        None => " before anything was proved".to_owned(),
    }
}

/// What came of the checks, where not all of them passed.
fn checked(report: &DrillReport) -> String {
    let failed = || report.checks.iter().filter(|check| !check.passed);
    let names: Vec<&str> = failed().map(|check| check.check.as_str()).filter(|name| is_own(report, name)).collect();
    if !names.is_empty() {
        return format!("{} did not pass", names.join(", "));
    }
    let wrong = failed().count() as u64;
    if wrong > 0 {
        let they = if wrong == 1 { "it" } else { "they" };
        let queries = format!("{wrong} of your queries did not give what {they} should");
        return match report.checks.iter().any(|check| is_own(report, &check.check)) {
            true => format!("the engine's checks passed, but {queries}"),
            false => queries,
        };
    }
    match (report.reached, report.checks.is_empty()) {
        (Some(_), true) if report.required >= ProofLevel::Checked && report.reached >= Some(ProofLevel::Loaded) => {
            "the checks did not come to an end".to_owned()
        }
        (_, true) => "no check ran".to_owned(),
        (_, false) => "the drill ended before that was clear".to_owned(),
    }
}

/// Whether a check is one of the engine, and no query of the operator.
fn is_own(report: &DrillReport, check: &str) -> bool {
    let names: &[&str] = human::engine_of(report.engine.as_deref()).map_or(&[], Database::checks);
    names.iter().filter_map(|name| check.strip_prefix(name)).any(|after| after.is_empty() || after.starts_with(' '))
}

/// Why nothing says whether what was restored equals the snapshot.
fn why_not_compared(report: &DrillReport) -> String {
    match &report.proof {
        Some(_) => "there was nothing to compare".to_owned(),
        None if report.required < ProofLevel::Proved => {
            format!("not compared, because no more than level {} was required", report.required.as_str())
        }
        None if report.reached >= Some(ProofLevel::Checked) => {
            "not compared, because the drill ended before that was done".to_owned()
        }
        None => "not compared, because the drill ended before".to_owned(),
    }
}

/// What a level means, as it goes on after "was".
fn achieved(level: ProofLevel, from: &str) -> String {
    match level {
        ProofLevel::Fetched => format!("fetched{from} and decrypted, whole"),
        ProofLevel::Loaded => format!("restored{from} into a throw-away database"),
        ProofLevel::Checked => format!("restored{from} into a throw-away database, and found sound there"),
        ProofLevel::Proved => format!("restored{from}, and proved equal to what was captured"),
    }
}

/// Whether there are objectives, and what they are about was measured, by a drill of the whole.
/// None was missed.
fn all_met(report: &DrillReport) -> bool {
    let pairs =
        [(report.rto_seconds, report.rto_objective_seconds), (report.rpo_seconds, report.rpo_objective_seconds)];
    report.in_part.is_none()
        && pairs.iter().any(|(_, objective)| objective.is_some())
        && pairs.iter().all(|(actual, objective)| objective.is_none() || actual.is_some())
}

pub(super) fn names(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_engine::databases::proof::{CheckResult, ProofResult};
    use lifeboat_engine::drill::InPart;

    fn drill(day: u32, level: Option<ProofLevel>, bytes: u64, seconds: f64) -> PastDrill {
        let time = |hour: u32| format!("2026-11-{day:02}T{hour:02}:00:00Z").parse().unwrap();
        let report = DrillReport {
            drill: format!("202611{day:02}T200000000Z-9f2c81ac").parse().unwrap(),
            vault: "v".to_owned(),
            dataset: "shop".parse().unwrap(),
            snapshot: Some(format!("202611{day:02}T190000000Z-9f2c81ac").parse().unwrap()),
            skipped: Vec::new(),
            warnings: Vec::new(),
            chosen: None,
            engine: None,
            started: time(20),
            finished: time(21),
            replicas_used: vec!["far".parse().unwrap()],
            replicas_unreachable: std::collections::BTreeMap::new(),
            required: ProofLevel::Proved,
            highest: None,
            reached: level,
            in_part: None,
            failed_in_part: None,
            manifest: None,
            passed: level == Some(ProofLevel::Proved),
            error: None,
            error_class: None,
            phases: Vec::new(),
            restored_bytes: bytes,
            rto_seconds: level.map(|_| seconds),
            rpo_seconds: Some(60.0),
            rto_objective_seconds: Some(200.0),
            rpo_objective_seconds: None,
            interval_seconds: None,
            checks: Vec::new(),
            proof: None,
            group: None,
        };
        PastDrill { host: None, report }
    }

    #[test]
    fn no_verdict_claims_more_than_the_report() {
        let verdict = |level| {
            let past = [drill(23, level, 1 << 20, 10.0)];
            Summary { report: &past[0].report, past: &past }.verdict()
        };
        let proved = "On 23 November 2026, dataset shop was restored from replica far, and proved equal to what was \
                      captured. All objectives were met.";
        assert_eq!(verdict(Some(ProofLevel::Proved)), proved);
        let past = [drill(23, Some(ProofLevel::Proved), 1 << 20, 10.0)];
        let headline = Summary { report: &past[0].report, past: &past }.headline();
        assert_eq!(
            headline,
            "Passed: the restored database was proved equal to the snapshot (level proved, as required)"
        );
        let checked = verdict(Some(ProofLevel::Checked));
        assert!(
            checked.contains("FAILED. It was restored from replica far into a throw-away database, and found sound")
        );
        assert!(!checked.contains("equal") && !checked.contains("met"), "{checked}");
        let nothing = verdict(None);
        assert!(nothing.contains("FAILED. It reached no level; level proved is required."), "{nothing}");
        let mut in_part = [drill(23, None, 1 << 20, 10.0)];
        in_part[0].report.passed = true;
        in_part[0].report.rpo_objective_seconds = Some(200.0);
        in_part[0].report.in_part = Some(InPart {
            drill: in_part[0].report.drill.clone(),
            snapshot: in_part[0].report.drill.clone(),
            proved: in_part[0].report.started,
            left_out: vec!["shop".to_owned()],
            left_out_bytes: 1 << 20,
            restored: Vec::new(),
        });
        let in_part = Summary { report: &in_part[0].report, past: &in_part }.verdict();
        assert!(in_part.contains("proved in part") && !in_part.contains("met"), "{in_part}");
        let past = [drill(23, Some(ProofLevel::Proved), 1 << 20, 300.0)];
        let late = Summary { report: &past[0].report, past: &past };
        assert_eq!(late.standing(), DrillStanding::ObjectiveMissed);
        assert!(late.verdict().ends_with("The objective was MISSED: RTO."), "{}", late.verdict());
    }

    #[test]
    fn what_did_not_run_is_named() {
        let past = [drill(23, Some(ProofLevel::Loaded), 1 << 20, 10.0)];
        let mut report = past[0].report.clone();
        report.skipped = vec!["BLAKE3".to_owned(); 2];
        let told = Summary { report: &report, past: &past }.not_compared();
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[0], "whether what was restored is sound: the checks did not come to an end");
        assert_eq!(told[2], "2 databases that the snapshot lacks: the drill host has the text");
    }

    /// The headline of a drill that failed, and what it did not compare.
    fn told_of_failure(change: impl Fn(&mut DrillReport)) -> (String, Vec<String>) {
        let mut past = [drill(23, Some(ProofLevel::Loaded), 1 << 20, 10.0)];
        past[0].report.engine = Some("postgres 15.14".to_owned());
        change(&mut past[0].report);
        let summary = Summary { report: &past[0].report, past: &past };
        (summary.headline(), summary.not_compared())
    }

    #[test]
    fn a_failed_drill_says_what_ran_and_what_did_not() {
        let check = |name: &str, passed| CheckResult { check: name.to_owned(), passed, detail: String::new() };
        let queries = |of_engine: bool| {
            told_of_failure(|report| {
                report.checks = vec![check("pg_amcheck shop", of_engine), check("shop: SELECT 1", false)];
            })
        };
        let (headline, told) = queries(true);
        let wrong = "the engine's checks passed, but 1 of your queries did not give what it should";
        assert_eq!(headline, format!("Failed: {wrong} (level loaded; proved is required)"));
        assert_eq!(told[0], format!("whether what was restored is sound: {wrong}"));
        assert!(told[1].ends_with("not compared, because the drill ended before"), "{told:?}");
        let (headline, told) = queries(false);
        assert_eq!(headline, "Failed: pg_amcheck shop did not pass (level loaded; proved is required)");
        assert!(told[0].ends_with(": pg_amcheck shop did not pass"), "{told:?}");

        let (headline, told) = told_of_failure(|report| (report.reached, report.snapshot) = (None, None));
        assert_eq!(headline, "Failed before anything was proved (no level; proved is required)");
        assert!(told.iter().any(|what| what.ends_with(": no check ran")), "{told:?}");

        let (headline, told) = told_of_failure(|report| {
            report.reached = Some(ProofLevel::Checked);
            report.checks = vec![check("pg_amcheck shop", true)];
            let differences = vec!["table public.items: rows differ".to_owned()];
            report.proof = Some(ProofResult { tables: 1, differences, ..ProofResult::default() });
        });
        assert_eq!(
            headline,
            "Failed: the restored database differs from the snapshot (level checked; proved is required)"
        );
        assert!(told.is_empty(), "what was compared is told as not compared: {told:?}");

        // A level below is all that was asked for.
        let (headline, told) = told_of_failure(|report| {
            (report.required, report.reached, report.passed) = (ProofLevel::Fetched, Some(ProofLevel::Fetched), true);
        });
        assert_eq!(headline, "Passed: the snapshot was fetched and decrypted, whole (level fetched, as required)");
        assert!(told[1].ends_with(": no check ran") && told[2].contains("no more than level fetched"), "{told:?}");
    }

    #[test]
    fn a_forecast_goes_by_the_slowest_drill_and_by_what_was_loaded() {
        let mib = 1 << 20;
        let mut past = vec![drill(23, Some(ProofLevel::Proved), 200 * mib, 50.0)];
        let told = |past: &[PastDrill]| Summary { report: &past[0].report, past }.forecast();
        assert_eq!(told(&past), ["at the slowest rate of 1 drill, 4.0 MiB a second, 200.0 MiB are restored in 50.0 s"]);
        past.push(drill(18, None, mib, 1.0));
        past.push(drill(13, Some(ProofLevel::Proved), 100 * mib, 50.0));
        let told = told(&past);
        assert_eq!(told[0], "at the slowest rate of 2 drills, 2.0 MiB a second, 200.0 MiB are restored in 1 min 40 s");
        assert_eq!(told[1], "it grew by 10.0 MiB a day in 10 days");
        // 400 MiB take the 200 s of the objective, twenty days on.
        assert_eq!(told[2], "if it goes on so, the time to restore misses its objective about 13 December 2026");
    }
}
