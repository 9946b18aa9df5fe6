//! What the loss of a region would have meant, reckoned from the drills of its rehearsal.
//!
//! Each dataset is drilled as far as always, and what it takes until it is loaded is measured. A
//! recovery does without checks and proofs, so its times follow from the measured ones by the same
//! order. Nothing else is guessed.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::Error;
use lifeboat_engine::config::{Config, MAX_RESTORES_AT_ONCE, Objectives, ProofLevel};
use lifeboat_engine::drill::{RecoveryOrder, RecoveryStep, critical_path};
use lifeboat_engine::format::id::{Name, SnapshotId};
use serde::Serialize;

use super::lost_region::LostRegion;
use super::view::Drilled;
use crate::human;
use crate::table::Plain;

/// Another place saves something if all is restored in less than this share of the time.
const WORTH_IT: f64 = 0.95;

/// What the loss of a region would have meant.
#[derive(Debug, Serialize)]
pub(super) struct RegionLoss {
    pub(super) region: String,
    pub(super) replicas_lost: Vec<Name>,
    pub(super) replicas_left: Vec<Name>,
    /// The moment of the loss.
    pub(super) started: DateTime<Utc>,
    pub(super) finished: DateTime<Utc>,
    /// What it comes to, in sentences.
    pub(super) verdict: String,
    /// How many datasets are restored at once.
    pub(super) at_once: usize,
    /// In the order in which they are restored.
    pub(super) datasets: Vec<RecoveredDataset>,
    /// Datasets that were left out: nobody asked for them, or this host may not drill them.
    pub(super) not_rehearsed: Vec<Name>,
    /// Groups whose members would not be restored as of one moment, as far as is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) apart: Vec<Name>,
    /// Why there may be more datasets than are known here.
    pub(super) gaps: Vec<String>,
    /// Age of the oldest data at the loss. `None` if not all could be restored.
    pub(super) rpo_seconds: Option<f64>,
    /// From the loss until all is restored. `None` if not all could be.
    pub(super) rto_seconds: Option<f64>,
    /// The datasets that the whole waits for, first to last. Empty if not all could be restored.
    pub(super) critical_path: Vec<Name>,
    /// What would shorten it.
    pub(super) shorter: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct RecoveredDataset {
    pub(super) dataset: Name,
    /// Whether its drill passed.
    pub(super) restored: bool,
    pub(super) reached: Option<ProofLevel>,
    pub(super) snapshot: Option<SnapshotId>,
    /// How many databases its snapshot lacks, and of how much its capture warned.
    pub(super) skipped: usize,
    pub(super) warnings: usize,
    /// The signed report of its drill in the vault. `None`: it is in no replica.
    pub(super) drill: Option<SnapshotId>,
    /// Age of its data at the loss.
    pub(super) rpo_seconds: Option<f64>,
    pub(super) rpo_objective_seconds: Option<f64>,
    /// How long its restore takes by itself.
    pub(super) restore_seconds: Option<f64>,
    /// When its restore begins, from the loss on.
    pub(super) begins_after_seconds: Option<f64>,
    /// When it is restored, from the loss on.
    pub(super) rto_seconds: Option<f64>,
    pub(super) rto_objective_seconds: Option<f64>,
    /// `rpo`, `rto`, both or none.
    pub(super) objectives_missed: Vec<&'static str>,
    /// What its drill found; may quote the database.
    pub(super) error: Option<String>,
    /// The kind of that error.
    pub(super) error_class: Option<&'static str>,
}

/// What became of one dataset.
pub(super) struct Tried {
    pub(super) drilled: Option<Drilled>,
    pub(super) error: Option<Error>,
}

impl Tried {
    pub(super) fn is_restored(&self) -> bool {
        self.drilled.as_ref().is_some_and(|drilled| drilled.report.passed)
    }
}

/// What it comes to.
pub(super) fn told(
    lost: &LostRegion,
    (config, order): (&Config, &RecoveryOrder),
    (not_rehearsed, gaps, apart): (Vec<Name>, Vec<String>, Vec<Name>),
    tried: &BTreeMap<Name, Tried>,
    finished: DateTime<Utc>,
) -> RegionLoss {
    let report = |dataset: &Name| tried.get(dataset)?.drilled.as_ref().map(|drilled| &drilled.report);
    let took = order.datasets().filter_map(|dataset| Some((dataset.clone(), report(dataset)?.rto_seconds?)));
    let seconds: BTreeMap<Name, f64> = took.collect();
    let steps = order.steps(&seconds);
    // Where one fails, nobody knows when those after it would begin.
    let all = order.datasets().all(|dataset| tried.get(dataset).is_some_and(Tried::is_restored));
    let datasets: Vec<RecoveredDataset> =
        steps.iter().map(|step| recovered(step, all, config, tried.get(&step.dataset), lost.at)).collect();
    let worst = |of: fn(&RecoveredDataset) -> Option<f64>| {
        let all = all.then(|| datasets.iter().map(of).collect::<Option<Vec<f64>>>()).flatten();
        all.map(|all| all.into_iter().fold(0.0, f64::max))
    };
    let path = if all { critical_path(&steps) } else { Vec::new() };
    let mut told = RegionLoss {
        region: lost.region.clone(),
        replicas_lost: lost.lost.clone(),
        replicas_left: lost.left.clone(),
        started: lost.at,
        finished,
        verdict: String::new(),
        at_once: order.at_once(),
        rpo_seconds: worst(|dataset| dataset.rpo_seconds),
        rto_seconds: worst(|dataset| dataset.rto_seconds),
        critical_path: path.into_iter().map(|step| step.dataset.clone()).collect(),
        shorter: Vec::new(),
        not_rehearsed,
        apart,
        gaps,
        datasets,
    };
    told.shorter = shorter(&told, order, &seconds);
    told.verdict = told.in_words();
    told
}

fn recovered(
    step: &RecoveryStep,
    all: bool,
    config: &Config,
    tried: Option<&Tried>,
    lost_at: DateTime<Utc>,
) -> RecoveredDataset {
    let published = |drilled: &&Drilled| drilled.published.as_ref().is_some_and(|of| !of.replicas.is_empty());
    let drilled = tried.and_then(|tried| tried.drilled.as_ref());
    let error = tried.and_then(|tried| tried.error.as_ref());
    let report = tried.and_then(|tried| tried.drilled.as_ref()).map(|drilled| &drilled.report);
    let Objectives { rpo, rto } = config.dataset(&step.dataset).map(|dataset| dataset.objectives).unwrap_or_default();
    let restored = tried.is_some_and(Tried::is_restored);
    // The drill began later than the loss, when the data was older.
    let age = report.and_then(|report| {
        let waited = (report.started - lost_at).as_seconds_f64().max(0.0);
        report.rpo_seconds.map(|age| (age - waited).max(0.0))
    });
    let mut told = RecoveredDataset {
        dataset: step.dataset.clone(),
        restored,
        reached: report.and_then(|report| report.reached),
        snapshot: report.and_then(|report| report.snapshot.clone()),
        skipped: report.map_or(0, |report| report.skipped.len()),
        warnings: report.map_or(0, |report| report.warnings.len()),
        drill: drilled.filter(published).map(|drilled| drilled.report.drill.clone()),
        rpo_seconds: age,
        rpo_objective_seconds: rpo.map(|rpo| rpo.as_secs_f64()),
        restore_seconds: report.and_then(|report| report.rto_seconds),
        begins_after_seconds: all.then_some(step.began),
        rto_seconds: all.then_some(step.ended),
        rto_objective_seconds: rto.map(|rto| rto.as_secs_f64()),
        objectives_missed: Vec::new(),
        error: error.map(Error::chain),
        error_class: error.map(|error| error.class().as_str()),
    };
    let misses = |actual: Option<f64>, objective: Option<f64>| {
        objective.is_some_and(|objective| actual.is_none_or(|actual| actual > objective))
    };
    if misses(told.rpo_seconds, told.rpo_objective_seconds) {
        told.objectives_missed.push("rpo");
    }
    if all && misses(told.rto_seconds, told.rto_objective_seconds) {
        told.objectives_missed.push("rto");
    }
    told
}

/// What would shorten the recovery, with what it would come to.
fn shorter(told: &RegionLoss, order: &RecoveryOrder, seconds: &BTreeMap<Name, f64>) -> Vec<String> {
    let Some(total) = told.rto_seconds.filter(|total| *total > 0.0) else { return Vec::new() };
    let mut advice = Vec::new();
    let more = order.at_once() + 1;
    let with_more = order.total_with(more, seconds);
    if more <= MAX_RESTORES_AT_ONCE && with_more < WORTH_IT * total {
        advice.push(format!(
            "[recovery] at_once = {more}: all would be restored after {} instead of {}, if the line and the machine carry it",
            human::seconds(with_more),
            human::seconds(total)
        ));
    }
    let on_path = told.datasets.iter().filter(|dataset| told.critical_path.contains(&dataset.dataset));
    let longest =
        on_path.max_by(|a, b| a.restore_seconds.unwrap_or_default().total_cmp(&b.restore_seconds.unwrap_or_default()));
    if let Some((longest, took)) = longest.and_then(|longest| Some((longest, longest.restore_seconds?))) {
        advice.push(format!(
            "{} takes {} of the {} that everything waits for",
            longest.dataset,
            human::seconds(took),
            human::seconds(total)
        ));
    }
    for dataset in told.datasets.iter().filter(|dataset| dataset.objectives_missed.contains(&"rto")) {
        if let (Some(begins), Some(alone), Some(objective)) =
            (dataset.begins_after_seconds, dataset.restore_seconds, dataset.rto_objective_seconds)
            && alone <= objective
            && begins > 0.0
            && order.before(&dataset.dataset).next().is_none()
        {
            advice.push(format!(
                "a lower [dataset.recovery] priority for {}: it waits {}, and alone meets its objective",
                dataset.dataset,
                human::seconds(begins)
            ));
        }
    }
    advice
}

impl RegionLoss {
    fn in_words(&self) -> String {
        let region = &self.region;
        let count = human::count(self.datasets.len() as u64, "dataset");
        let failed = self.names(|dataset| !dataset.restored);
        let mut words = match failed.as_slice() {
            [] => {
                let seconds = |seconds: Option<f64>| seconds.map_or("an unknown time".to_owned(), human::seconds);
                let left: Vec<&str> = self.replicas_left.iter().map(Name::as_str).collect();
                let all = if self.is_whole() { "all of " } else { "" };
                format!(
                    "If region {region} were lost now, {all}{count} could be restored from {}: the last after {}, with data at most {} old. {} of {} were proved equal.",
                    left.join(", "),
                    seconds(self.rto_seconds),
                    seconds(self.rpo_seconds),
                    self.names(|dataset| dataset.reached == Some(ProofLevel::Proved)).len(),
                    self.datasets.len(),
                )
            }
            failed => format!(
                "If region {region} were lost now, {} of {count} could NOT be restored: {}.",
                failed.len(),
                failed.join(", ")
            ),
        };
        let mut also = |what: &str, names: &[&str]| {
            if !names.is_empty() {
                words.push_str(&format!(" {what}: {}.", names.join(", ")));
            }
        };
        also("Only fetched, as the kind allows no more", &self.names(|of| of.reached == Some(ProofLevel::Fetched)));
        also("PARTIAL, as the snapshot lacks databases", &self.names(|dataset| dataset.skipped > 0));
        also("The capture warned of", &self.names(|dataset| dataset.skipped == 0 && dataset.warnings > 0));
        also("Objectives would be MISSED by", &self.names(|dataset| !dataset.objectives_missed.is_empty()));
        also(
            "Restored as of DIFFERENT moments, so that what one refers to may not be in the other, would be the members of",
            &self.apart.iter().map(Name::as_str).collect::<Vec<_>>(),
        );
        also("NOT rehearsed", &self.not_rehearsed.iter().map(Name::as_str).collect::<Vec<_>>());
        also("There may be more datasets", &self.gaps.iter().map(String::as_str).collect::<Vec<_>>());
        if failed.is_empty() && self.datasets.iter().any(RecoveredDataset::has_objective) && !self.is_missed() {
            words.push_str(" All objectives would be met.");
        }
        words
    }

    fn names(&self, which: impl Fn(&RecoveredDataset) -> bool) -> Vec<&str> {
        self.datasets.iter().filter(|dataset| which(dataset)).map(|dataset| dataset.dataset.as_str()).collect()
    }

    /// Whether every dataset was rehearsed.
    pub(super) fn is_whole(&self) -> bool {
        self.not_rehearsed.is_empty() && self.gaps.is_empty()
    }

    /// Whether an objective would be missed.
    pub(super) fn is_missed(&self) -> bool {
        self.datasets.iter().any(|dataset| !dataset.objectives_missed.is_empty())
    }

    /// Whether every drill passed.
    pub(super) fn is_restored(&self) -> bool {
        self.datasets.iter().all(|dataset| dataset.restored)
    }
}

impl RecoveredDataset {
    fn has_objective(&self) -> bool {
        self.rpo_objective_seconds.or(self.rto_objective_seconds).is_some()
    }

    /// Whether its snapshot has all that it should have, and no warning.
    pub(super) fn is_whole(&self) -> bool {
        self.skipped == 0 && self.warnings == 0
    }

    /// What became of it, in few words.
    pub(super) fn result(&self) -> String {
        let partial = match (self.skipped as u64, self.warnings as u64) {
            (0, 0) => String::new(),
            (0, warnings) => format!(", with {} of the capture", human::count(warnings, "warning")),
            (skipped, _) => format!(", PARTIAL: lacks {}", human::count(skipped, "database")),
        };
        self.outcome() + &partial
    }

    fn outcome(&self) -> String {
        let reached = self.reached.map_or("nothing", ProofLevel::as_str);
        match (self.restored, self.objectives_missed.as_slice()) {
            (false, _) => format!("NOT RESTORED, reached {reached}"),
            (true, []) => reached.to_owned(),
            (true, missed) => format!("{reached}, MISSED {}", missed.join(", ")),
        }
    }
}

impl fmt::Display for RegionLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.verdict)?;
        let mut table = Plain::new(&["DATASET", "RESULT", ">BEGINS", ">RESTORED", ">RTO", ">DATA'S AGE", ">RPO"]);
        let seconds = |seconds: Option<f64>| seconds.map_or("-".to_owned(), human::seconds);
        for dataset in &self.datasets {
            table.row([
                dataset.dataset.to_string(),
                dataset.result(),
                seconds(dataset.begins_after_seconds),
                seconds(dataset.rto_seconds),
                seconds(dataset.rto_objective_seconds),
                seconds(dataset.rpo_seconds),
                seconds(dataset.rpo_objective_seconds),
            ]);
        }
        write!(f, "{table}")?;
        if self.rto_seconds.is_some() {
            let path: Vec<&str> = self.critical_path.iter().map(Name::as_str).collect();
            write!(f, "\n\nEverything waits for: {}", path.join(", then "))?;
        }
        for what in &self.shorter {
            write!(f, "\nShorter: {what}")?;
        }
        Ok(())
    }
}
