//! What drill hosts have published of the datasets that this host leads, so that one scrape shows
//! backups and their proofs.
//!
//! - **Belief**: as everywhere, a report counts if a drill host signed it that is trusted.
//! - **Cost**: an hour costs one listing of a dataset's drills in each replica, and the newest
//!   report. More are read only if that one is new.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::{Dataset, ProofLevel};
use lifeboat_engine::drill::{DrillHistory, PastDrill, Publications, published_drills};
use lifeboat_engine::format::id::{Name, SnapshotId};

use crate::installation::Installation;
use crate::runner::Runner;

/// So many of the newest reports are read.
const MOST_DRILLS: usize = 16;
/// … or of these, if none of those has reached its level with a whole snapshot: that none ever did
/// is alarming.
const MOST_SOUGHT: usize = 1024;

/// What the published drills of a dataset tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ToldDrills {
    newest: SnapshotId,
    /// When the newest drill ended.
    pub last_attempt: DateTime<Utc>,
    /// When the newest one ended that reached its level, or proved in part.
    pub last_success: Option<DateTime<Utc>>,
    /// When the newest one ended that reached its level with the whole snapshot.
    pub last_whole: Option<DateTime<Utc>>,
    /// Whether the newest one passed.
    pub passed: bool,
    /// What the newest one that was not in part reached.
    pub level: Option<ProofLevel>,
    pub rto_seconds: Option<f64>,
    pub rpo_seconds: Option<f64>,
    pub interval_seconds: Option<f64>,
}

impl ToldDrills {
    /// Whether a drill that was not in part is known.
    pub(crate) fn is_level_known(&self) -> bool {
        self.level.is_some() || self.last_whole.is_some() || !self.passed
    }

    /// `None`: there is no drill. What older reports told before this stays known.
    fn of(history: &DrillHistory, before: Option<&Self>) -> Option<Self> {
        let reports = || history.drills.iter().map(|drill| &drill.report);
        let newest = reports().next()?;
        let wholes = || reports().filter(|report| report.in_part.is_none());
        let first = |value: fn(&Self) -> Option<f64>, told: Option<f64>| told.or_else(|| before.and_then(value));
        Some(Self {
            newest: newest.drill.clone(),
            last_attempt: newest.finished,
            last_success: reports()
                .find(|report| report.passed)
                .map(|report| report.finished)
                .or_else(|| before.and_then(|before| before.last_success)),
            last_whole: wholes()
                .find(|report| report.passed)
                .map(|report| report.finished)
                .or_else(|| before.and_then(|before| before.last_whole)),
            passed: newest.passed,
            level: match wholes().next() {
                Some(newest) => newest.reached,
                None => before.and_then(|before| before.level),
            },
            rto_seconds: first(|before| before.rto_seconds, reports().find_map(|report| report.rto_seconds)),
            rpo_seconds: first(|before| before.rpo_seconds, reports().find_map(|report| report.rpo_seconds)),
            // Of the newest, as the schedule may have changed.
            interval_seconds: newest.interval_seconds,
        })
    }
}

/// What drills tell of each dataset that this host leads, as far as it can be asked.
pub(crate) async fn told(
    runner: &Runner,
    installation: &Installation,
    before: &BTreeMap<Name, ToldDrills>,
) -> BTreeMap<Name, ToldDrills> {
    let Installation { config, keys, replicas, .. } = installation;
    let place = Publications { vault: &keys.vault, trust: &keys.trust, replicas, limits: &config.limits };
    let mut told = BTreeMap::new();
    for Dataset { name, .. } in &config.datasets {
        if runner.ledger.is_led_elsewhere(name) {
            continue;
        }
        let known = before.get(name);
        let now = runner.clock.now();
        let newest = match published_drills(place, name, 1, now).await {
            Ok(newest) => newest,
            Err(error) => {
                tracing::warn!(dataset = %name, "it is not known what drills proved: {}", error.chain());
                told.extend(known.map(|known| (name.clone(), known.clone())));
                continue;
            }
        };
        for gap in &newest.gaps {
            tracing::warn!(dataset = %name, "of drills: {gap}");
        }
        let is_known = |known: &ToldDrills| newest.drills.first().is_some_and(|one| one.report.drill == known.newest);
        let found = match known {
            Some(known) if is_known(known) => Some(known.clone()),
            _ => {
                let read = async |most| published_drills(place, name, most, now).await.unwrap_or_default();
                let mut history = read(MOST_DRILLS).await;
                let is_success = |drill: &PastDrill| drill.report.passed && drill.report.in_part.is_none();
                if known.is_none() && !history.drills.is_empty() && !history.drills.iter().any(is_success) {
                    history = read(MOST_SOUGHT).await;
                }
                ToldDrills::of(if history.drills.is_empty() { &newest } else { &history }, known)
            }
        };
        told.extend(found.map(|found| (name.clone(), found)));
    }
    told
}

/// One that failed after it had loaded.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) fn sample(last_attempt: DateTime<Utc>) -> ToldDrills {
    ToldDrills {
        newest: "20261123T183244123Z-9f2c81aa".parse().unwrap(),
        last_attempt,
        last_success: None,
        last_whole: None,
        passed: false,
        level: Some(ProofLevel::Loaded),
        rto_seconds: Some(7.5),
        rpo_seconds: None,
        interval_seconds: None,
    }
}
