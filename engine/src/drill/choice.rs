//! Which snapshot and which replica a drill takes, and when a drill is due.
//!
//! All of it is decided from the traces of past drills: their reports, in the vault and on this
//! host, and the attempts that this host recorded, which a killed drill leaves, too. A drill that
//! failed counts as one: else a snapshot or a replica that cannot be restored would keep the others
//! from ever being drilled.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_databases::proof::ProofLevel;
use lifeboat_databases::{Database, registry};
use lifeboat_format::id::{Name, SnapshotId};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::report::{DrillChoice, DrillReport};
use crate::config::{DrillConfig, ReplicaChoice, ReplicaConfig, SnapshotChoice};
use crate::schedule::Schedule;

/// What is known of one past drill, or of one that was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillTrace {
    /// When it began.
    pub began: DateTime<Utc>,
    /// Of an attempt: the schedule began it, and nobody cancelled it.
    #[serde(default)]
    pub scheduled: bool,
    /// Of an attempt: it has not ended. So says one that was killed, too.
    #[serde(default)]
    pub running: bool,
    /// Of an attempt: it has ended, and did not reach its level.
    #[serde(default)]
    pub failed: bool,
    /// The snapshot. `None` if it chose none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// Whether that was the newest one.
    #[serde(default)]
    pub newest: bool,
    /// The one replica that it read from. `None` if there were several, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Name>,
}

impl DrillTrace {
    /// That of a drill with this report.
    #[must_use]
    pub fn of(report: &DrillReport) -> Self {
        let asked = report.chosen.as_ref().and_then(|chosen| chosen.only.clone());
        let used = match report.replicas_used.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        Self {
            began: began(report),
            scheduled: false,
            running: false,
            failed: !report.passed,
            snapshot: report.snapshot.clone(),
            newest: report.rpo_seconds.is_some(),
            replica: asked.or(used),
        }
    }
}

/// Who signs a report may not move its beginning into the future.
fn began(report: &DrillReport) -> DateTime<Utc> {
    report.started.min(report.finished)
}

/// When a drill began that makes the one by schedule needless, whoever ran it: it passed, as far as
/// the plan asks for, and nobody named the snapshot. `level` is that of the plan; `None`: as far as
/// the kind of source allows.
#[must_use]
pub fn fulfilled(report: &DrillReport, level: Option<ProofLevel>) -> Option<DateTime<Utc>> {
    let kind = report.engine.as_deref().and_then(|engine| engine.split(' ').next());
    let highest = || kind.and_then(registry::find).map(Database::highest_level);
    // Of a kind that this version does not know, as much is asked as of any.
    let level = level.or_else(highest).unwrap_or(ProofLevel::Proved);
    let was_asked = report.chosen.as_ref().is_some_and(|chosen| chosen.snapshot == DrillChoice::ASKED);
    (report.vouches_for(level) && !was_asked).then(|| began(report))
}

/// The one of `candidates` whose last drill is longest ago: one that was never drilled before all
/// others, and the first of several. A drill that claims to have begun after `now` does not count:
/// a clock that was ahead once would put off what it drilled until then.
fn longest_ago<'c, T: PartialEq>(
    candidates: &'c [T],
    traces: &[DrillTrace],
    now: DateTime<Utc>,
    of: impl Fn(&DrillTrace) -> Option<&T>,
) -> Vec<&'c T> {
    let drills = || traces.iter().filter(|trace| trace.began <= now);
    let last = |candidate: &&T| drills().filter(|trace| of(trace) == Some(*candidate)).map(|trace| trace.began).max();
    let mut ordered: Vec<&T> = candidates.iter().collect();
    // Stable, and `None` comes first.
    ordered.sort_by_cached_key(last);
    ordered
}

/// The snapshots of a dataset, the one to drill first. `kept` is oldest first, and `replica` the
/// one that is read, if it is one alone.
#[must_use]
pub fn snapshots_in_order(
    choice: SnapshotChoice,
    kept: &[SnapshotId],
    traces: &[DrillTrace],
    replica: Option<&Name>,
    now: DateTime<Utc>,
) -> Vec<SnapshotId> {
    match choice {
        SnapshotChoice::Newest => kept.iter().rev().cloned().collect(),
        SnapshotChoice::Oldest => kept.to_vec(),
        SnapshotChoice::Random => {
            let mut shuffled = kept.to_vec();
            shuffled.shuffle(&mut rand::rng());
            shuffled
        }
        SnapshotChoice::Rotate => rotated(kept, traces, replica, now),
    }
}

/// Every second drill takes the newest snapshot, if it was never drilled: it is what would be
/// restored today. The drills between take the others, so that none that is kept for long stays
/// untested, however often backups run. Of each replica the turns are its own: else, of two that
/// are read in turn, one would only ever be asked for old snapshots.
fn rotated(kept: &[SnapshotId], traces: &[DrillTrace], replica: Option<&Name>, now: DateTime<Utc>) -> Vec<SnapshotId> {
    let drills = || traces.iter().filter(|trace| trace.began <= now && trace.snapshot.is_some());
    let last = drills().filter(|trace| replica.is_none() || trace.replica.as_ref() == replica);
    let took_newest = last.max_by_key(|trace| trace.began).is_some_and(|trace| trace.newest);
    let mut ordered: Vec<SnapshotId> =
        longest_ago(kept, traces, now, |trace| trace.snapshot.as_ref()).into_iter().cloned().collect();
    let untested = kept.last().filter(|newest| !drills().any(|trace| trace.snapshot.as_ref() == Some(newest)));
    if let Some(newest) = untested {
        ordered.retain(|snapshot| snapshot != newest);
        ordered.insert(if took_newest { ordered.len() } else { 0 }, newest.clone());
    }
    ordered
}

/// The replica whose last drill is longest ago. `None` if there is none at all.
#[must_use]
fn next_replica(replicas: &[Name], traces: &[DrillTrace], now: DateTime<Utc>) -> Option<Name> {
    longest_ago(replicas, traces, now, |trace| trace.replica.as_ref()).first().map(|name| (*name).clone())
}

/// The replicas that a drill reads, where `settings` leave any of `replicas` out; `None` if they
/// leave none out. `home` is the home region of the dataset.
///
/// # Errors
/// [`Class::Configuration`](lifeboat_base::Class::Configuration): no replica is left, or the home
/// region would have to be known.
pub fn replicas_to_read(
    settings: &DrillConfig,
    home: Option<&str>,
    replicas: &[ReplicaConfig],
    traces: &[DrillTrace],
    now: DateTime<Utc>,
) -> Result<Option<Vec<Name>>> {
    let mut names: Vec<Name> = Vec::new();
    match home {
        None if settings.outside => {
            return Err(Error::configuration("outside = true, but the home region of the dataset is not known")
                .hint("add a [[dataset]] section with its name, its home_region and its kind of source"));
        }
        home => {
            let is_left = |replica: &&ReplicaConfig| !settings.outside || home != Some(replica.region.as_str());
            names.extend(replicas.iter().filter(is_left).map(|replica| replica.name.clone()));
        }
    }
    let chosen = match &settings.replica {
        ReplicaChoice::Any => names,
        ReplicaChoice::Rotate => next_replica(&names, traces, now).into_iter().collect(),
        ReplicaChoice::Named(name) => names.into_iter().filter(|found| found == name).collect(),
    };
    if chosen.is_empty() {
        let replica = settings.replica.as_str();
        return Err(Error::configuration(format!(
            "no replica is left to drill: replica = \"{replica}\", outside = {}",
            settings.outside
        ))
        .hint("change one of the two in [drill] or [dataset.drill]"));
    }
    Ok((chosen.len() < replicas.len()).then_some(chosen))
}

/// Since when a drill is due at `now`, where those that count began then; `None` if none is. A
/// dataset that was never drilled is due since the last time at which the schedule fired.
#[must_use]
pub fn due_since(schedule: &Schedule, now: DateTime<Utc>, begun: &[DateTime<Utc>]) -> Option<DateTime<Utc>> {
    let fired = schedule.last_before(now)?;
    // A clock that was ahead once must not stop all drills until then.
    let last = begun.iter().filter(|began| **began <= now).max();
    last.is_none_or(|last| *last < fired).then_some(fired)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    use lifeboat_store::bandwidth::Bandwidth;

    use crate::config::ReplicaKind;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn snapshots() -> Vec<SnapshotId> {
        let days = ["20261120", "20261121", "20261122", "20261123"];
        days.map(|day| format!("{day}T020000000Z-00000000").parse().unwrap()).to_vec()
    }

    fn trace(began: &str, snapshot: Option<&SnapshotId>, replica: Option<&str>) -> DrillTrace {
        DrillTrace {
            began: time(began),
            scheduled: false,
            running: false,
            failed: false,
            snapshot: snapshot.cloned(),
            newest: false,
            replica: replica.map(|name| name.parse().unwrap()),
        }
    }

    fn now() -> DateTime<Utc> {
        time("2026-12-31T00:00:00Z")
    }

    /// What rotation takes first, for a drill of this replica.
    fn rotation(kept: &[SnapshotId], traces: &[DrillTrace], replica: Option<&str>) -> SnapshotId {
        let replica = replica.map(|name| name.parse::<Name>().unwrap());
        let order = snapshots_in_order(SnapshotChoice::Rotate, kept, traces, replica.as_ref(), now());
        assert_eq!(order.iter().collect::<BTreeSet<_>>(), kept.iter().collect(), "one that is damaged hides none");
        order.first().cloned().unwrap()
    }

    #[test]
    fn rotation_takes_the_newest_then_each_other_oldest_first_then_what_was_drilled_longest_ago() {
        let kept = snapshots();
        let mut traces = Vec::new();
        for (drilled, expected) in [3, 0, 1, 2, 3, 0].into_iter().enumerate() {
            assert_eq!(rotation(&kept, &traces, None), kept[expected], "drill {drilled}");
            let drill = trace(&format!("2026-11-24T0{drilled}:00:00Z"), Some(&kept[expected]), None);
            traces.push(DrillTrace { newest: expected == 3, ..drill });
        }
        // One that is drilled between, by hand, is put off.
        traces.push(trace("2026-11-24T08:00:00Z", Some(&kept[1]), None));
        assert_eq!(rotation(&kept, &traces, None), kept[2]);
        // What is no longer kept, and what chose nothing, plays no part.
        traces.push(trace("2026-11-24T09:00:00Z", None, None));
        assert_eq!(rotation(&kept[2..], &traces, None), kept[2]);
    }

    #[test]
    fn where_backups_outrun_drills_rotation_still_takes_the_newest_and_leaves_none_untested() {
        let backup = |day: usize| format!("202611{day:02}T020000000Z-00000000").parse::<SnapshotId>().unwrap();
        // One backup and one drill a day, of two replicas in turn. The first ten days are kept.
        for replicas in [vec![None], vec![Some("north"), Some("south")]] {
            let (mut traces, mut newest_of) = (Vec::new(), BTreeSet::new());
            for day in 1..=30 {
                let kept: Vec<SnapshotId> =
                    (1..=day.min(10)).chain([day]).map(backup).collect::<BTreeSet<_>>().into_iter().collect();
                let replica = replicas[day % replicas.len()];
                let taken = rotation(&kept, &traces, replica);
                if taken == backup(day) {
                    newest_of.insert((replica, day));
                }
                let drill = trace(&format!("2026-11-{day:02}T03:00:00Z"), Some(&taken), replica);
                traces.push(DrillTrace { newest: taken == backup(day), ..drill });
            }
            for replica in &replicas {
                let days: Vec<usize> = newest_of.iter().filter(|(of, _)| of == replica).map(|(_, day)| *day).collect();
                assert!(days.windows(2).all(|pair| pair[1] - pair[0] <= 2 * replicas.len()), "{replica:?}: {days:?}");
                assert!(days.len() >= 7 && days.len() <= 16, "{replica:?}: {days:?}");
            }
            let drilled: BTreeSet<_> = traces.iter().filter_map(|trace| trace.snapshot.clone()).collect();
            assert!((1..=10).all(|day| drilled.contains(&backup(day))), "{drilled:?}");
        }
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_freeze_the_rotation() {
        let kept = snapshots();
        let ahead =
            |snapshot: usize, replica: &str| trace("2031-01-01T00:00:00Z", Some(&kept[snapshot]), Some(replica));
        let mut traces = vec![ahead(0, "north"), ahead(3, "south")];
        let replicas = ["north", "south"].map(|name| name.parse::<Name>().unwrap());
        for (hour, (expected, replica)) in
            [(3, "north"), (0, "south"), (1, "north"), (2, "south")].into_iter().enumerate()
        {
            assert_eq!(next_replica(&replicas, &traces, now()).unwrap().as_str(), replica, "drill {hour}");
            assert_eq!(rotation(&kept, &traces, None), kept[expected], "drill {hour}");
            let drill = trace(&format!("2026-11-24T0{hour}:00:00Z"), Some(&kept[expected]), Some(replica));
            traces.push(DrillTrace { newest: expected == 3, ..drill });
        }
    }

    #[test]
    fn the_other_choices_take_what_their_names_say() {
        let kept = snapshots();
        let first = |choice| snapshots_in_order(choice, &kept, &[], None, now()).first().cloned().unwrap();
        assert_eq!(first(SnapshotChoice::Newest), kept[3]);
        assert_eq!(first(SnapshotChoice::Oldest), kept[0]);
        let drawn: BTreeSet<SnapshotId> = (0..400).map(|_| first(SnapshotChoice::Random)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), kept, "each is drawn");
        assert!(snapshots_in_order(SnapshotChoice::Random, &[], &[], None, now()).is_empty());
    }

    #[test]
    fn no_replica_stays_untested() {
        let replicas = ["north", "south", "west"].map(|name| name.parse::<Name>().unwrap());
        let next = |traces: &[DrillTrace]| next_replica(&replicas, traces, now()).unwrap().to_string();
        let mut traces = vec![trace("2026-11-20T00:00:00Z", None, Some("north"))];
        assert_eq!(next(&traces), "south", "never drilled goes first");
        // One that does not answer is drilled in vain, and does not keep the others from it.
        traces.push(trace("2026-11-21T00:00:00Z", None, Some("south")));
        traces.push(trace("2026-11-22T00:00:00Z", None, Some("west")));
        traces.push(trace("2026-11-23T00:00:00Z", None, None));
        assert_eq!(next(&traces), "north");
        traces.push(trace("2026-11-24T00:00:00Z", None, Some("north")));
        assert_eq!(next(&traces), "south");
        assert_eq!(next_replica(&[], &traces, now()), None);
    }

    #[test]
    fn outside_never_reads_the_home_region() {
        let replica = |name: &str| ReplicaConfig {
            name: name.parse().unwrap(),
            region: name.to_owned(),
            kind: ReplicaKind::Directory { path: "/x".into() },
            timeout: Duration::from_secs(1),
            bandwidth: Bandwidth::default(),
        };
        let replicas = ["home", "north", "south"].map(replica);
        let read = |choice: ReplicaChoice, outside: bool, home: Option<&str>, traces: &[DrillTrace]| {
            let settings = DrillConfig { replica: choice, outside, ..DrillConfig::default() };
            let read = replicas_to_read(&settings, home, &replicas, traces, now());
            read.map(|names| names.map(|names| names.iter().map(Name::to_string).collect::<Vec<_>>().join(" ")))
        };
        let (home, named) = (Some("home"), |name: &str| ReplicaChoice::Named(name.parse().unwrap()));
        assert_eq!(read(ReplicaChoice::Any, false, home, &[]).unwrap(), None);
        assert_eq!(read(ReplicaChoice::Any, true, home, &[]).unwrap().unwrap(), "north south");
        assert_eq!(read(ReplicaChoice::Rotate, false, home, &[]).unwrap().unwrap(), "home");
        let north = [trace("2026-11-20T00:00:00Z", None, Some("north"))];
        assert_eq!(read(ReplicaChoice::Rotate, true, home, &north).unwrap().unwrap(), "south");
        assert_eq!(read(named("north"), true, home, &[]).unwrap().unwrap(), "north");
        assert!(read(named("home"), true, home, &[]).is_err());
        assert!(read(ReplicaChoice::Any, true, None, &[]).unwrap_err().hint_text().unwrap().contains("home_region"));
    }

    #[test]
    fn a_drill_is_due_once_for_each_time_the_schedule_fires() {
        let weekly = Schedule::parse("0 4 * * sun", chrono_tz::UTC, Duration::ZERO).unwrap();
        // 22 November 2026 is a Sunday.
        let (before, after) = (time("2026-11-22T03:59:59Z"), time("2026-11-22T04:00:00Z"));
        let drilled = |began: &str| [time(began)];
        assert_eq!(due_since(&weekly, after, &[]), Some(after), "it was never drilled");
        assert_eq!(due_since(&weekly, after, &drilled("2026-11-15T04:10:00Z")), Some(after));
        assert_eq!(due_since(&weekly, before, &drilled("2026-11-15T04:10:00Z")), None);
        assert_eq!(due_since(&weekly, time("2026-11-28T00:00:00Z"), &drilled("2026-11-22T04:00:00Z")), None);
        // The host was off for two weeks: one drill makes up for both.
        let late = time("2026-11-24T09:00:00Z");
        assert_eq!(due_since(&weekly, late, &drilled("2026-11-08T04:10:00Z")), Some(after));
        assert_eq!(due_since(&weekly, late, &drilled("2031-01-01T00:00:00Z")), Some(after), "a clock was ahead");
    }

    #[test]
    fn only_what_passed_as_far_as_the_plan_asks_for_makes_a_drill_needless() {
        let report = |passed: bool, reached: &str, engine: &str, chosen: &str| -> DrillReport {
            serde_json::from_value(serde_json::json!({
                "drill": "20261122T040000000Z-00000000", "vault": "v", "dataset": "shop", "snapshot": null,
                "chosen": { "snapshot": chosen, "replica": "any", "outside": false },
                "engine": engine, "started": "2026-11-22T04:00:00Z", "finished": "2026-11-22T04:10:00Z",
                "replicas_used": [], "replicas_unreachable": {}, "required": "fetched", "reached": reached,
                "passed": passed, "error": null, "phases": [], "restored_bytes": 1, "rto_seconds": 1.0,
                "rpo_seconds": null, "rto_objective_seconds": null, "rpo_objective_seconds": null,
                "checks": [], "proof": null,
            }))
            .unwrap()
        };
        let began = Some(time("2026-11-22T04:00:00Z"));
        for (report, level, expected) in [
            (report(true, "proved", "postgres 16", "newest"), None, began),
            (report(true, "proved", "postgres 16", "rotate"), Some(ProofLevel::Proved), began),
            (report(true, "checked", "postgres 16", "newest"), Some(ProofLevel::Loaded), began),
            (report(true, "fetched", "file", "newest"), None, began),
            // It failed, whoever ran it.
            (report(false, "proved", "postgres 16", "newest"), None, None),
            // By hand, with --level.
            (report(true, "fetched", "postgres 16", "newest"), None, None),
            (report(true, "fetched", "postgres 16", "newest"), Some(ProofLevel::Loaded), None),
            (report(true, "fetched", "unheard-of 1", "newest"), None, None),
            // By hand, with --snapshot.
            (report(true, "proved", "postgres 16", "asked"), None, None),
        ] {
            assert_eq!(fulfilled(&report, level), expected, "{report:?} {level:?}");
        }
    }
}
