//! What follows from the facts: how each dataset stands, what needs attention, and one sentence.
//!
//! Absence is no good news: a region that did not answer has nothing that could be restored, and a
//! daemon that is silent backs nothing up.

use chrono::{DateTime, SecondsFormat, Utc};
use lifeboat_engine::drill::PastDrill;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::warden_log::WardenWord;
use serde::Serialize;

use super::daemon::DatasetStanding;
use super::facts::{DaemonAnswer, DatasetFacts, Facts};
use crate::human;

/// The timer drills weekly. One extra day is allowed, as in the alert LifeboatDrillTooOld.
const OLDEST_PROOF_SECONDS: f64 = 8.0 * 86_400.0;

/// Something that somebody must do something about.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Attention {
    pub urgency: Urgency,
    /// `None`: it is not about one dataset.
    pub dataset: Option<Name>,
    pub what: String,
    /// What to do about it.
    pub next: String,
}

/// How soon it must be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Urgency {
    /// Data would be lost if its database, or a region, were lost now.
    Critical,
    /// It will be critical if nobody looks at it.
    Warning,
}

/// How a dataset stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Standing {
    /// Each region has it, no older than it may be, and a drill has restored it lately.
    Proved,
    /// Each region has it, no older than it may be, but no drill has restored it lately.
    Unproved,
    /// A region lacks it, or it is older than it may be, or nobody knows.
    AtRisk,
    /// Nothing can be restored.
    Unprotected,
}

/// The age of what is restored if only the worst region is left. `None`: one has nothing.
pub(super) fn oldest_seconds(dataset: &DatasetFacts) -> Option<f64> {
    let ages = dataset.newest.values().map(|newest| newest.as_ref().map(|newest| newest.age_seconds));
    ages.collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::max)
}

/// The newest drill that proved the dataset as far as it must, or in part.
pub(super) fn proof(dataset: &DatasetFacts) -> Option<&PastDrill> {
    dataset.drills.newest_that_vouches_for(dataset.required)
}

/// The newest drill that restored all of the dataset as far as it must: only that tells how long it
/// takes.
pub(super) fn measured(dataset: &DatasetFacts) -> Option<&PastDrill> {
    dataset.drills.newest_that_reached(dataset.required)
}

pub(super) fn standing(facts: &Facts, dataset: &DatasetFacts) -> Standing {
    let Some(oldest) = oldest_seconds(dataset) else {
        let has_any = dataset.newest.values().any(Option::is_some);
        return if has_any { Standing::AtRisk } else { Standing::Unprotected };
    };
    let is_too_old = dataset.objectives.rpo.is_some_and(|rpo| oldest > rpo.as_secs_f64());
    let is_known = facts.unreachable.is_empty();
    // Without an objective, no age is too old: then every region must have the newest.
    let mut ids = dataset.newest.values().flatten().map(|newest| &newest.id);
    let first = ids.next();
    let is_behind = dataset.objectives.rpo.is_none() && ids.any(|id| Some(id) != first);
    let is_bad = standing_at_the_daemon(facts, &dataset.name)
        .is_some_and(|told| told.skipped > 0 || told.scrubs.values().any(|scrub| scrub.damaged_objects > 0));
    let is_silent = dataset.is_scheduled && matches!(facts.daemon, DaemonAnswer::Silent(_));
    match proof(dataset) {
        _ if is_too_old || is_behind || is_bad || !is_known || is_silent => Standing::AtRisk,
        Some(proof) if proof_age(facts, proof) <= OLDEST_PROOF_SECONDS => Standing::Proved,
        _ => Standing::Unproved,
    }
}

pub(super) fn proof_age(facts: &Facts, proof: &PastDrill) -> f64 {
    (facts.now - proof.report.finished).as_seconds_f64().max(0.0)
}

/// What the daemon says of a dataset, if it answers.
pub(super) fn standing_at_the_daemon<'f>(facts: &'f Facts, dataset: &Name) -> Option<&'f DatasetStanding> {
    match &facts.daemon {
        DaemonAnswer::Answered(status) => status.datasets.get(dataset),
        _ => None,
    }
}

/// Everything that needs attention, the most urgent first.
pub(super) fn attention(facts: &Facts) -> Vec<Attention> {
    let mut found = Found { all: Vec::new(), dataset: None };
    for (replica, why) in &facts.unreachable {
        let what = format!("replica {replica} does not answer: {}", human::without_name(replica, why));
        found.critical(what, "run `lifeboat check` to see what it needs");
    }
    match &facts.daemon {
        DaemonAnswer::Silent(error) if facts.datasets.iter().any(|dataset| dataset.is_scheduled) => {
            let next = error.hint_text().unwrap_or("run `systemctl status lifeboatd`").to_owned();
            found.critical(format!("no backup runs by schedule: {}", error.chain()), &next);
        }
        DaemonAnswer::Answered(status) => {
            for (replica, down) in &status.left_alone {
                if !facts.unreachable.contains_key(replica) {
                    let since = human::time(down.since);
                    let what = format!("lifeboatd leaves replica {replica} alone since {since}: {}", down.why);
                    found.critical(what, "run `lifeboat check` to see what it needs");
                }
            }
        }
        DaemonAnswer::Silent(_) | DaemonAnswer::NotHere => {}
    }
    for dataset in &facts.datasets {
        found.dataset = Some(dataset.name.clone());
        of_snapshots(facts, dataset, &mut found);
        of_drills(facts, dataset, &mut found);
        if let Some(standing) = standing_at_the_daemon(facts, &dataset.name) {
            of_daemon(&dataset.name, standing, &mut found);
        }
        if let Some(word) = facts.deletion.get(&dataset.name).and_then(|deletion| deletion.warden.as_ref()) {
            of_warden(&dataset.name, word, facts.now, &mut found);
        }
    }
    found.all.sort_by_key(|attention| attention.urgency);
    found.all
}

fn of_snapshots(facts: &Facts, dataset: &DatasetFacts, found: &mut Found) {
    let name = &dataset.name;
    for unbelieved in &dataset.unbelieved {
        found.warning(unbelieved.clone(), "run `lifeboat verify`: it names what is damaged, and who is not trusted");
    }
    if dataset.newest.values().all(Option::is_none) {
        let next = format!("run `lifeboat trigger {name}`; if that fails, it says why");
        found.critical("it was never backed up, or no replica that answers shows a snapshot".to_owned(), &next);
        return;
    }
    let newest = dataset.newest.values().flatten().max_by_key(|newest| &newest.id);
    for (region, shown) in &dataset.newest {
        let is_unknown = facts.regions[region].iter().any(|replica| facts.unreachable.contains_key(replica));
        match (shown, newest) {
            _ if is_unknown => {}
            (None, _) => found.critical(format!("region {region} has no snapshot of it"), FILL),
            (Some(shown), Some(newest)) if shown.id != newest.id => found.critical(
                format!(
                    "region {region} lacks the newest snapshot; what it has is {} old",
                    human::seconds(shown.age_seconds)
                ),
                FILL,
            ),
            _ => {}
        }
    }
    if let (Some(rpo), Some(newest)) = (dataset.objectives.rpo, newest)
        && newest.age_seconds > rpo.as_secs_f64()
    {
        let (age, rpo) = (human::seconds(newest.age_seconds), human::seconds(rpo.as_secs_f64()));
        let next = format!("run `lifeboat trigger {name}`, and see `lifeboatd status` for why no backup ran");
        found.critical(format!("the newest backup is {age} old, and the objective is {rpo}"), &next);
    }
    if let Some(snapshot) = dataset.future.last() {
        let what = format!("the time of snapshot {snapshot} lies in the future, so it counts as no recovery point");
        found.warning(what, CLOCK);
    }
}

/// How a replica gets what it lacks.
const FILL: &str = "lifeboatd fills it by itself while it runs; if this stays, read `journalctl -u lifeboatd`";
const CLOCK: &str = "follow \"A clock was wrong\" in OPERATIONS.md";

fn of_drills(facts: &Facts, dataset: &DatasetFacts, found: &mut Found) {
    for gap in &dataset.drills.gaps {
        found.warning(gap.clone(), "run `lifeboat verify`: it names what is damaged, and who is not trusted");
    }
    let drill_now = format!("on the drill host, run `systemctl start lifeboat-drill@{}`", dataset.name);
    let required = dataset.required.as_str();
    if dataset.newest.values().all(Option::is_none) {
        return;
    }
    match proof(dataset) {
        None if dataset.drills.drills.is_empty() => {
            found.warning("no drill has ever restored it, so nobody knows that it can be".to_owned(), &drill_now);
        }
        None => found.critical(format!("no drill of late has restored it ({required})"), &drill_now),
        Some(proof) => {
            let age = proof_age(facts, proof);
            if age > OLDEST_PROOF_SECONDS {
                found.warning(format!("the last drill that restored it was {} ago", human::seconds(age)), &drill_now);
            }
            for missed in measured(dataset).map(|drill| drill.report.objectives_missed()).unwrap_or_default() {
                let what = format!("the last drill missed its objective ({})", missed.to_uppercase());
                let next = format!("run `lifeboat drills {}` to see how long it took", dataset.name);
                found.warning(what, &next);
            }
        }
    }
    if let Some(last) = dataset.drills.drills.first().filter(|last| !last.report.vouches_for(dataset.required)) {
        let reached = last.report.told_level();
        let host = last.host.as_ref().map_or("the drill host".to_owned(), |host| format!("drill host {host}"));
        let what = format!("the last drill FAILED {}: it reached {reached}", human::time(last.report.finished));
        let next = format!("on {host}, read `journalctl -u lifeboat-drill -u lifeboat-drill@{}`", dataset.name);
        found.critical(what, &next);
    }
}

fn of_daemon(name: &Name, standing: &DatasetStanding, found: &mut Found) {
    if let Some(error) = &standing.error {
        let retry =
            standing.retry_at.map_or(String::new(), |time| format!("; it is tried again at {}", human::time(time)));
        found.critical(
            format!("the last backup FAILED: {error}{retry}"),
            "mend what it names; `journalctl -u lifeboatd` has the hint",
        );
    }
    if let Some(paused) = &standing.paused {
        let why = paused.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let what = format!("no backup of it starts by schedule until {}{why}", human::time(paused.until));
        found.warning(what, &format!("run `lifeboat resume {name}` if the reason is gone"));
    }
    if standing.takeover_needed {
        let leader = standing.led_by.as_ref().map_or("its leader", Name::as_str);
        let next = format!("if that host is gone, run `lifeboat takeover {name}`");
        found.critical(format!("host {leader} has not backed it up in time"), &next);
    }
    if standing.skipped > 0 {
        let lacks = human::count(standing.skipped, "database");
        found.critical(
            format!("the newest snapshot is PARTIAL: it lacks {lacks}"),
            "read the warnings of the last run: `journalctl -u lifeboatd`",
        );
    }
    for (replica, scrub) in standing.scrubs.iter().filter(|(_, scrub)| scrub.damaged_objects > 0) {
        let damaged = human::count(scrub.damaged_objects, "damaged object");
        let next = format!("run `lifeboat verify {name} --repair`");
        found.critical(format!("replica {replica} has {damaged}"), &next);
    }
    for anomaly in &standing.anomalies {
        let snapshot = anomaly.snapshot.as_ref().map_or("a snapshot".to_owned(), |id| format!("snapshot {id}"));
        let next = format!("look whether the data is right; then run `lifeboat acknowledge {name}`");
        found.warning(format!("{snapshot} departs from its history: {}", anomaly.why.join("; ")), &next);
    }
    if let Some(why) = &standing.deletion_stopped {
        let next = format!("run `lifeboat prune {name}` to see what it waits for");
        found.warning(format!("old snapshots are not deleted: {why}"), &next);
    }
    for snapshot in standing.doubtful_times.keys() {
        found.warning(format!("the time of snapshot {snapshot} is probably false"), CLOCK);
    }
    if let Some(why) = &standing.unlogged {
        found.warning(format!("the log does not tell of the newest backup: {why}"), "run `lifeboat audit verify`");
    }
}

fn of_warden(name: &Name, word: &WardenWord, now: DateTime<Utc>, found: &mut Found) {
    const LOG: &str = "on the warden, read `journalctl -u lifeboat-warden`";
    if word.is_late(now) {
        let what = format!("the warden has {}, so nothing is deleted, and locks may run out", word.last_look());
        found.critical(what, LOG);
    }
    if let Some(because) = word.failed.first() {
        found.warning(format!("the warden's last look did not do all: {because}"), LOG);
    }
    if let Some(since) = word.waits_long(now) {
        let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
        found.warning(format!("the warden has let a mark wait since {since}, much longer than it must"), LOG);
    }
    if let Some((mark, because)) = word.refused.first_key_value() {
        let count = human::count(word.refused.len() as u64, "mark");
        let next = format!(
            "run `lifeboat veto show {name}`: if nobody changed the retention of a backup host, somebody may have its keys"
        );
        found.warning(format!("the warden refuses {count} of backup hosts, such as {mark}: {because}"), &next);
    }
}

struct Found {
    all: Vec<Attention>,
    dataset: Option<Name>,
}

impl Found {
    fn critical(&mut self, what: String, next: &str) {
        self.add(Urgency::Critical, what, next);
    }

    fn warning(&mut self, what: String, next: &str) {
        self.add(Urgency::Warning, what, next);
    }

    fn add(&mut self, urgency: Urgency, what: String, next: &str) {
        self.all.push(Attention { urgency, dataset: self.dataset.clone(), what, next: next.to_owned() });
    }
}

/// Everything in one sentence, or two.
pub(super) fn sentence(facts: &Facts) -> String {
    let total = facts.datasets.len();
    if total == 0 {
        return "Nothing is backed up here.".to_owned();
    }
    let standings: Vec<Standing> = facts.datasets.iter().map(|dataset| standing(facts, dataset)).collect();
    let at_risk = standings.iter().filter(|of| matches!(of, Standing::AtRisk | Standing::Unprotected)).count();
    if at_risk > 0 {
        return match total {
            1 => format!("NOT SAFE: {} is at risk.", facts.datasets[0].name),
            _ => format!("NOT SAFE: {at_risk} of {total} datasets are at risk."),
        };
    }
    let oldest = facts.datasets.iter().filter_map(|dataset| Some((oldest_seconds(dataset)?, dataset)));
    let oldest = oldest.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(age, dataset)| {
        let objective = dataset.objectives.rpo.map(|rpo| format!(", objective {}", human::seconds(rpo.as_secs_f64())));
        let of = if total > 1 { format!(" ({})", dataset.name) } else { String::new() };
        format!(" Oldest recovery point: {}{}{of}.", human::seconds(age), objective.unwrap_or_default())
    });
    let whole = if facts.regions.len() > 1 {
        "Any one region alone can restore everything."
    } else {
        "This region alone can restore everything."
    };
    let unproved = standings.iter().filter(|of| **of == Standing::Unproved).count();
    let proved = match unproved {
        0 => String::new(),
        _ if total == 1 => " But no drill of late has proved it.".to_owned(),
        _ => format!(" But {unproved} of {total} datasets were not proved by a drill of late."),
    };
    format!("{whole}{}{proved}", oldest.unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
