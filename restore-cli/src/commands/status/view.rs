//! How the page reads: one sentence, what needs attention, then a row for each dataset.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::escape;
use lifeboat_engine::config::ProofLevel;
use lifeboat_engine::drill::PastDrill;
use lifeboat_engine::format::id::{Name, SnapshotId};
use serde::Serialize;

use super::daemon::DaemonStatus;
use super::facts::{DaemonAnswer, DatasetFacts, Facts};
use super::judge::{self, Attention, Standing, Urgency};
use crate::human;
use crate::table::Plain;

/// The page.
#[derive(Serialize)]
pub(super) struct StatusPage {
    sentence: String,
    /// The most urgent first.
    attention: Vec<Attention>,
    datasets: Vec<DatasetRow>,
    /// By region, its replicas; each with why it does not answer, if it does not.
    regions: BTreeMap<String, BTreeMap<Name, Option<String>>>,
    /// `answers`, `silent`, `not on this host`.
    daemon: &'static str,
}

#[derive(Serialize)]
struct DatasetRow {
    dataset: Name,
    standing: Standing,
    /// The newest snapshot of any region.
    newest: Option<SnapshotId>,
    age_seconds: Option<f64>,
    /// If only this region is left, the age of what it restores. `None`: it has nothing.
    region_age_seconds: BTreeMap<String, Option<f64>>,
    rpo_objective_seconds: Option<f64>,
    rto_objective_seconds: Option<f64>,
    /// The newest drill that restored it as far as it must.
    proof: Option<ProofRow>,
    /// What the daemon does with it, or does next.
    activity: Option<String>,
    next: Option<DateTime<Utc>>,
    /// What waits for its deletion, and what does not go, in one line.
    deletion: Option<String>,
}

#[derive(Serialize)]
struct ProofRow {
    drill: SnapshotId,
    snapshot: Option<SnapshotId>,
    /// With the whole snapshot.
    reached: Option<ProofLevel>,
    in_part: bool,
    age_seconds: f64,
    /// Of the newest that restored the whole snapshot.
    rto_seconds: Option<f64>,
    rpo_seconds: Option<f64>,
}

impl StatusPage {
    pub(super) fn of(facts: &Facts) -> Self {
        let why = |replica: &Name| (replica.clone(), facts.unreachable.get(replica).cloned());
        let regions = facts.regions.iter();
        Self {
            sentence: judge::sentence(facts),
            attention: judge::attention(facts),
            datasets: facts.datasets.iter().map(|dataset| DatasetRow::of(facts, dataset)).collect(),
            regions: regions.map(|(region, replicas)| (region.clone(), replicas.iter().map(why).collect())).collect(),
            daemon: match facts.daemon {
                DaemonAnswer::Answered(_) => "answers",
                DaemonAnswer::Silent(_) => "silent",
                DaemonAnswer::NotHere => "not on this host",
            },
        }
    }

    pub(super) fn attention_count(&self) -> usize {
        self.attention.len()
    }
}

impl DatasetRow {
    fn of(facts: &Facts, dataset: &DatasetFacts) -> Self {
        let newest = dataset.newest.values().flatten().max_by_key(|newest| &newest.id);
        let age = |newest: &Option<super::facts::RegionSnapshot>| newest.as_ref().map(|newest| newest.age_seconds);
        let of_daemon = judge::standing_at_the_daemon(facts, &dataset.name);
        let activity = match &facts.daemon {
            DaemonAnswer::Answered(status) => activity(status, &dataset.name),
            _ => None,
        };
        Self {
            dataset: dataset.name.clone(),
            standing: judge::standing(facts, dataset),
            newest: newest.map(|newest| newest.id.clone()),
            age_seconds: newest.map(|newest| newest.age_seconds),
            region_age_seconds: dataset.newest.iter().map(|(region, newest)| (region.clone(), age(newest))).collect(),
            rpo_objective_seconds: dataset.objectives.rpo.map(|rpo| rpo.as_secs_f64()),
            rto_objective_seconds: dataset.objectives.rto.map(|rto| rto.as_secs_f64()),
            proof: judge::proof(dataset).map(|proof| ProofRow::of(facts, proof, judge::measured(dataset))),
            activity,
            next: of_daemon.and_then(|standing| standing.next),
            deletion: facts.deletion.get(&dataset.name).and_then(|deletion| deletion.line(facts.now)),
        }
    }
}

impl DatasetRow {
    /// In words. What no drill has to prove is not called proved.
    fn stands(&self) -> String {
        match self.proof.as_ref().and_then(|proof| proof.reached) {
            None if self.standing == Standing::Proved => "protected, proved in part".to_owned(),
            Some(reached) if self.standing == Standing::Proved && reached < ProofLevel::Proved => {
                format!("protected, {}", reached.as_str())
            }
            _ => self.standing.words().to_owned(),
        }
    }
}

impl ProofRow {
    fn of(facts: &Facts, proof: &PastDrill, measured: Option<&PastDrill>) -> Self {
        let (report, measured) = (&proof.report, measured.map(|drill| &drill.report));
        Self {
            drill: report.drill.clone(),
            snapshot: report.snapshot.clone(),
            reached: report.reached,
            in_part: report.in_part.is_some(),
            age_seconds: judge::proof_age(facts, proof),
            rto_seconds: measured.and_then(|report| report.rto_seconds),
            rpo_seconds: report.rpo_seconds,
        }
    }
}

/// What the daemon does with a dataset now, or why it does not.
fn activity(status: &DaemonStatus, dataset: &Name) -> Option<String> {
    if let Some(run) = status.running.iter().find(|run| run.dataset == *dataset) {
        if run.prunes_since.is_some() {
            return Some("prunes".to_owned());
        }
        let (took, read) = (human::seconds(run.elapsed_seconds), human::bytes(run.read_bytes));
        return Some(format!("backing up for {took}, {read} read"));
    }
    if status.queue.iter().any(|queued| queued.dataset == *dataset) {
        return Some("waits for a place".to_owned());
    }
    let standing = status.datasets.get(dataset)?;
    let waits = standing.waits_for.as_ref().map(|holder| format!("waits for {holder}"));
    let paused = standing.paused.as_ref().map(|paused| format!("PAUSED until {}", human::time(paused.until)));
    let led = || standing.led_by.as_ref().map(|host| format!("{host} backs it up"));
    let due = || standing.due_since.map(|since| format!("due since {}", human::time(since)));
    paused.or(waits).or_else(led).or_else(due)
}

impl Standing {
    fn words(self) -> &'static str {
        match self {
            Self::Proved => "protected, proved",
            Self::Unproved => "protected, NOT PROVED",
            Self::AtRisk => "AT RISK",
            Self::Unprotected => "NOT PROTECTED",
        }
    }
}

/// `41 min of 1 h`: what was measured, and its objective.
fn against(actual: Option<f64>, objective: Option<f64>) -> String {
    let actual = actual.map_or("-".to_owned(), human::seconds);
    objective.map_or(actual.clone(), |objective| format!("{actual} of {}", human::seconds(objective)))
}

impl fmt::Display for StatusPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sentence)?;
        for Attention { urgency, dataset, what, next } in &self.attention {
            let label = if *urgency == Urgency::Critical { "CRITICAL" } else { "warning " };
            let of = dataset.as_ref().map_or(String::new(), |dataset| format!("{dataset}: "));
            write!(f, "\n\n {label}  {of}{}\n           next: {next}", escape::line(what))?;
        }
        if self.datasets.is_empty() {
            return Ok(());
        }
        let mut table = Plain::new(&["DATASET", "STANDING", ">RPO", "RESTORED BY DRILL", ">RTO", "REGIONS", "NOW"]);
        for row in &self.datasets {
            let oldest = row.region_age_seconds.values().copied().collect::<Option<Vec<f64>>>();
            let oldest = oldest.and_then(|ages| ages.into_iter().reduce(f64::max));
            let proof = row.proof.as_ref();
            let holders =
                row.region_age_seconds.values().filter(|age| age.is_some() && **age == row.age_seconds).count();
            let next = row.next.map(|next| format!("next {}", human::time(next)));
            table.row([
                row.dataset.to_string(),
                row.stands(),
                against(oldest.or(row.age_seconds), row.rpo_objective_seconds),
                proof.map_or("NEVER".to_owned(), |proof| {
                    let reached = if proof.in_part { "in part" } else { proof.reached.map_or("", ProofLevel::as_str) };
                    format!("{reached} {} ago", human::seconds(proof.age_seconds))
                }),
                against(proof.and_then(|proof| proof.rto_seconds), row.rto_objective_seconds),
                format!("{holders} of {}", row.region_age_seconds.len()),
                row.activity.clone().or(next).unwrap_or_default(),
            ]);
        }
        write!(f, "\n\n{table}")?;
        for row in &self.datasets {
            if let Some(told) = &row.deletion {
                write!(f, "\n\n{}: {told}", row.dataset)?;
            }
        }
        Ok(())
    }
}
