//! `/metrics`: what is remembered, as Prometheus reads it.
//!
//! Metrics are computed from the status at each scrape and held nowhere else, so they cannot drift
//! from it. Every series exists from the start, as zero. Times are unix timestamps, not ages; sizes
//! bytes; durations seconds.

mod drills;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::{Class, Context, Result};
use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::log::WaitingMarks;
use lifeboat_engine::is_future;
use lifeboat_engine::keep::locks::LockStandings;
use lifeboat_engine::keep::scrub;
use lifeboat_engine::keep::warden_log::{WardenTells, WardenWord};
use lifeboat_engine::state::pause::Pause;
use lifeboat_engine::store::DeletionLevel;

use self::page::{Page, Series};
use crate::drills::ToldDrills;
use crate::group_status::GroupStatus;
use crate::status::DatasetStatus;

/// When each witness looked last.
pub(crate) type LastLooks = BTreeMap<Name, Option<DateTime<Utc>>>;

/// What a scrape shows.
pub(crate) struct Snapshot<'a> {
    pub config: &'a Config,
    /// The longest time between two scheduled starts.
    pub intervals: &'a BTreeMap<Name, Duration>,
    pub statuses: &'a BTreeMap<Name, DatasetStatus>,
    /// What is remembered of each group.
    pub groups: &'a BTreeMap<Name, GroupStatus>,
    pub running: &'a BTreeSet<Name>,
    /// Since when each start waits that was due.
    pub waiting: &'a BTreeMap<Name, DateTime<Utc>>,
    /// What the schedule does not start for a while.
    pub paused: &'a BTreeMap<Name, Pause>,
    /// Replicas that answered when they were last asked.
    pub up: &'a BTreeMap<Name, bool>,
    /// How far deletion was apart from this host when that was last tried.
    pub guards: &'a BTreeMap<Name, DeletionLevel>,
    /// How the locks of each dataset stand.
    pub locks: &'a BTreeMap<Name, LockStandings>,
    /// When the witnesses of the root looked last.
    pub witnesses: &'a LastLooks,
    /// What the warden of the root tells, if it has one.
    pub warden: Option<&'a WardenTells>,
    /// What drills tell of the datasets that this host leads.
    pub drills: &'a BTreeMap<Name, ToldDrills>,
    pub now: DateTime<Utc>,
}

impl Snapshot<'_> {
    /// A time that tells an age: none that lies in the future does.
    fn past(&self, time: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        time.filter(|time| !is_future(*time, self.now, &self.config.limits))
    }

    /// What the warden tells of a dataset, if there is one.
    fn told(&self, dataset: &str) -> Option<&WardenWord> {
        let mut all = self.warden.iter().flat_map(|warden| &warden.datasets);
        all.find(|(name, _)| name.as_str() == dataset).map(|(_, word)| word)
    }
}

/// The page in the text format.
///
/// # Errors
/// None is expected: names and labels are fixed.
pub(crate) fn render(snapshot: &Snapshot<'_>) -> Result<String> {
    let page = Page::default();
    let filled = backups(&page, snapshot)
        .and_then(|()| grouped::groups(&page, snapshot))
        .and_then(|()| configured(&page, snapshot))
        .and_then(|()| replicas(&page, snapshot))
        .and_then(|()| drills::fill(&page, snapshot));
    filled.and_then(|()| page.text()).context(Class::Failed, || "cannot write the metrics")
}

fn backups(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let label = ["dataset"];
    let each = |value: fn(&DatasetStatus) -> f64| -> Series<'_, f64> {
        datasets(snapshot).map(|(name, status)| (vec![name], value(&status))).collect()
    };
    page.gauge(
        "lifeboat_backup_last_success_timestamp_seconds",
        "When the newest successful backup began to read: the time of the data that a restore gives. 0: never, or its time lies in the future.",
        &label,
        datasets(snapshot).map(|(name, status)| (vec![name], timestamp(snapshot.past(status.last_success)))).collect(),
    )?;
    page.gauge(
        "lifeboat_dataset_first_seen_timestamp_seconds",
        "When the daemon of this host first knew the dataset. 0: it is not known.",
        &label,
        each(|status| timestamp(status.first_seen)),
    )?;
    page.gauge(
        "lifeboat_backup_doubtful_times",
        "Snapshots whose times are probably false, because a clock was or is wrong.",
        &label,
        each(|status| status.doubtful_times.len() as f64),
    )?;
    page.gauge(
        "lifeboat_backup_last_attempt_timestamp_seconds",
        "When the last backup began, successful or not. 0: never.",
        &label,
        each(|status| timestamp(status.last_attempt)),
    )?;
    page.gauge(
        "lifeboat_backup_last_status",
        "1 if the last backup succeeded, 0 if it failed or there was none.",
        &label,
        each(|status| f64::from(u8::from(status.succeeded))),
    )?;
    page.gauge(
        "lifeboat_backup_skipped_databases",
        "Databases that the last successful backup could not read, so that its snapshot lacks them.",
        &label,
        each(|status| status.skipped as f64),
    )?;
    page.gauge(
        "lifeboat_backup_duration_seconds",
        "How long the last successful backup took.",
        &label,
        each(|status| status.duration_seconds),
    )?;
    page.gauge(
        "lifeboat_backup_raw_bytes",
        "Bytes that the last successful backup read from the database.",
        &label,
        each(|status| status.raw_bytes as f64),
    )?;
    let by_rows = |status: &DatasetStatus| status.row_bytes;
    let by_chunks = |status: &DatasetStatus| status.deduplicated_bytes.saturating_sub(status.row_bytes);
    page.gauge(
        "lifeboat_backup_deduplicated_bytes",
        "Bytes that the last successful backup read, but did not store again: found as whole chunks or row by row.",
        &["dataset", "by"],
        datasets(snapshot)
            .flat_map(|(name, status)| {
                [(vec![name, "chunks"], by_chunks(&status) as f64), (vec![name, "rows"], by_rows(&status) as f64)]
            })
            .collect(),
    )?;
    page.gauge(
        "lifeboat_backup_stored_bytes",
        "Bytes that the last successful backup added to each replica, after deduplication, compression and encryption.",
        &label,
        each(|status| status.stored_bytes as f64),
    )?;
    let running = |name: &str| f64::from(u8::from(snapshot.running.iter().any(|running| running.as_str() == name)));
    page.gauge(
        "lifeboat_backup_running",
        "1 while a backup runs.",
        &label,
        datasets(snapshot).map(|(name, _)| (vec![name], running(name))).collect(),
    )?;
    let waits = |name: &str| snapshot.waiting.iter().find(|(waiting, _)| waiting.as_str() == name);
    let seconds = |since: DateTime<Utc>| (snapshot.now - since).as_seconds_f64().max(0.0);
    page.gauge(
        "lifeboat_backup_waiting_seconds",
        "How long a backup that is due has been waiting for a place (limits.runs) or for another program. 0: none waits.",
        &label,
        datasets(snapshot).map(|(name, _)| (vec![name], waits(name).map_or(0.0, |(_, since)| seconds(*since)))).collect(),
    )?;
    let until = |name: &str| snapshot.paused.iter().find(|(paused, _)| paused.as_str() == name);
    page.gauge(
        "lifeboat_backup_paused_until_timestamp_seconds",
        "When backups start by schedule again, for an operator paused them. 0: they are not paused.",
        &label,
        datasets(snapshot)
            .map(|(name, _)| (vec![name], timestamp(until(name).map(|(_, pause)| pause.until))))
            .collect(),
    )?;
    page.counter(
        "lifeboat_backup_runs_total",
        "Backups that ended, by result; unknown: a replica did not say whether the snapshot was committed.",
        &["dataset", "result"],
        datasets(snapshot)
            .flat_map(|(name, status)| {
                let results =
                    [("success", status.successes), ("failure", status.failures), ("unknown", status.unknown)];
                results.map(|(result, count)| (vec![name, result], count))
            })
            .collect(),
    )?;
    page.counter(
        "lifeboat_backup_retries_total",
        "Backups that were started because the one before had failed.",
        &label,
        datasets(snapshot).map(|(name, status)| (vec![name], status.retries)).collect(),
    )?;
    page.counter(
        "lifeboat_prune_removed_snapshots_total",
        "Snapshots that retention removed.",
        &label,
        datasets(snapshot).map(|(name, status)| (vec![name], status.pruned_snapshots)).collect(),
    )?;
    page.gauge(
        "lifeboat_deletion_stopped",
        "1 if the last prune deleted nothing, or not all that it should: something is missing or doubtful, or prune failed.",
        &label,
        each(|status| f64::from(u8::from(status.deletion_stopped.is_some()))),
    )?;
    page.gauge(
        "lifeboat_vetoed_marks",
        "Marks that somebody vetoed: what they name stays.",
        &label,
        datasets(snapshot)
            .map(|(name, status)| {
                let told = snapshot.told(name).map(|word| word.vetoed_with(&status.vetoed).len());
                (vec![name], told.unwrap_or(status.vetoed.len()) as f64)
            })
            .collect(),
    )?;
    page.gauge(
        "lifeboat_log_failed",
        "1 if no replica took the record of the newest commit into this host's log.",
        &label,
        each(|status| f64::from(u8::from(status.unlogged.is_some()))),
    )?;
    page.gauge(
        "lifeboat_backup_anomalies",
        "Snapshots that depart from their history and wait for `lifeboat acknowledge`. This host deletes nothing of the dataset meanwhile.",
        &label,
        each(|status| status.anomalies.len() as f64),
    )?;
    page.gauge(
        "lifeboat_dataset_led",
        "1 if this host backs the dataset up, 0 if another one does and this host is its deputy.",
        &label,
        snapshot
            .config
            .datasets
            .iter()
            .map(|dataset| {
                let status = snapshot.statuses.get(&dataset.name).cloned().unwrap_or_default();
                (vec![dataset.name.as_str()], f64::from(u8::from(status.has_led(&snapshot.config.host, dataset))))
            })
            .collect(),
    )?;
    page.gauge(
        "lifeboat_takeover_needed",
        "1 if the host that backs the dataset up has not done so in time, and only an operator may let this one take over.",
        &label,
        each(|status| f64::from(u8::from(status.takeover_needed))),
    )?;
    page.gauge(
        "lifeboat_vault_stored_bytes",
        "Bytes of the packs that snapshots need, in each complete replica, at the daemon's last prune. 0: not pruned yet.",
        &label,
        each(|status| status.space.stored_bytes as f64),
    )?;
    page.gauge(
        "lifeboat_vault_unused_bytes",
        "The part of lifeboat_vault_stored_bytes that no snapshot needs; an estimate from how much of each pack is used.",
        &label,
        each(|status| status.space.unused_bytes as f64),
    )
}

fn configured(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let seconds = |duration: Option<Duration>| duration.unwrap_or_default().as_secs_f64();
    let datasets = &snapshot.config.datasets;
    page.gauge(
        "lifeboat_schedule_expected_interval_seconds",
        "The longest time between two scheduled backups. 0: not scheduled.",
        &["dataset"],
        datasets
            .iter()
            .map(|dataset| {
                let interval = snapshot.intervals.get(&dataset.name).copied();
                (vec![dataset.name.as_str()], seconds(interval))
            })
            .collect(),
    )?;
    page.gauge(
        "lifeboat_objective_seconds",
        "The configured objectives: rpo is the age of restored data, rto the time a restore takes. 0: none.",
        &["dataset", "objective"],
        datasets
            .iter()
            .flat_map(|dataset| {
                let (name, goals) = (dataset.name.as_str(), dataset.objectives);
                [(vec![name, "rpo"], seconds(goals.rpo)), (vec![name, "rto"], seconds(goals.rto))]
            })
            .collect(),
    )?;
    page.gauge(
        "lifeboat_build_info",
        "Always 1. The label has the version.",
        &["version"],
        vec![(vec![env!("CARGO_PKG_VERSION")], 1.0)],
    )
}

fn replicas(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let names = || snapshot.config.replicas.iter().map(|replica| &replica.name);
    let is_up = |name: &Name| f64::from(u8::from(snapshot.up.get(name).copied().unwrap_or_default()));
    page.gauge(
        "lifeboat_replica_up",
        "1 if the replica answered the last check, which runs every minute, and no backup has found it silent since.",
        &["replica"],
        names().map(|name| (vec![name.as_str()], is_up(name))).collect(),
    )?;
    let (mut complete, mut behind) = (Vec::new(), Vec::new());
    for (dataset, status) in datasets(snapshot) {
        for name in names() {
            let standing = status.replicas.get(name).cloned().unwrap_or_default();
            complete.push((vec![dataset, name.as_str()], timestamp(snapshot.past(standing.last_complete))));
            behind.push((vec![dataset, name.as_str()], standing.behind as f64));
        }
    }
    let labels = ["dataset", "replica"];
    page.gauge(
        "lifeboat_replica_last_complete_timestamp_seconds",
        "When the newest backup that this replica holds completely began to read. 0: it holds none, or its time lies in the future.",
        &labels,
        complete,
    )?;
    page.gauge(
        "lifeboat_replica_behind_snapshots",
        "Snapshots that were missing or incomplete in the replica when it was last compared with the others.",
        &labels,
        behind,
    )?;
    guards(page, snapshot)?;
    scrubs(page, snapshot)
}

fn guards(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let level = |level: &DeletionLevel| match level {
        DeletionLevel::Untold => -1.0,
        DeletionLevel::None => 0.0,
        DeletionLevel::Versions => 1.0,
        DeletionLevel::Lock => 2.0,
        DeletionLevel::Warden => 3.0,
    };
    page.gauge(
        "lifeboat_replica_deletion_level",
        "How far deletion is apart from this host, as tried once a day: -1 the store cannot tell, 0 its credentials delete for good, 1 old versions stay, 2 what is needed is locked, 3 a warden alone deletes.",
        &["replica"],
        snapshot.guards.iter().map(|(name, found)| (vec![name.as_str()], level(found))).collect(),
    )?;
    looks(page, snapshot)?;
    let (mut until, mut late) = (Vec::new(), Vec::new());
    for (dataset, standings) in snapshot.locks {
        for (replica, standing) in standings {
            let labels = || vec![dataset.as_str(), replica.as_str()];
            until.push((labels(), timestamp(standing.locked_until())));
            late.push((labels(), f64::from(u8::from(standing.is_late(snapshot.now)))));
        }
    }
    let labels = ["dataset", "replica"];
    page.gauge(
        "lifeboat_locked_until_timestamp_seconds",
        "Until when everything that snapshots need is locked, if no lock is extended any more. 0: not all was locked yet.",
        &labels,
        until,
    )?;
    page.gauge(
        "lifeboat_lock_late",
        "1 if the locks of what snapshots need should have been extended by now.",
        &labels,
        late,
    )
}

fn looks(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let of_warden = || snapshot.warden.iter().flat_map(|warden| &warden.datasets);
    let witnesses = snapshot.witnesses.iter();
    let witnesses = witnesses.map(|(name, last)| (vec!["witness", name.as_str(), ""], timestamp(*last)));
    let name = snapshot.warden.map_or("", |warden| warden.name.as_str());
    let warden = of_warden().map(|(dataset, word)| (vec!["warden", name, dataset.as_str()], timestamp(word.looked)));
    page.gauge(
        "lifeboat_last_look_timestamp_seconds",
        "When each witness that the root names looked last, and its warden at each dataset, as their logs tell. 0: never, as far as the replicas show.",
        &["role", "name", "dataset"],
        witnesses.chain(warden).collect(),
    )?;
    page.gauge(
        "lifeboat_refused_marks",
        "Marks of backup hosts that name what the warden keeps, as its last look tells.",
        &["dataset"],
        of_warden().map(|(dataset, word)| (vec![dataset.as_str()], word.refused.len() as f64)).collect(),
    )?;
    page.gauge(
        "lifeboat_warden_failed",
        "How many things the warden's last look at a dataset could not do.",
        &["dataset"],
        of_warden().map(|(dataset, word)| (vec![dataset.as_str()], word.failed.len() as f64)).collect(),
    )?;
    let waiting = |of: fn(&WaitingMarks) -> f64| {
        of_warden()
            .map(move |(dataset, word)| (vec![dataset.as_str()], word.waiting.as_ref().map_or(0.0, of)))
            .collect()
    };
    page.gauge(
        "lifeboat_oldest_waiting_mark_timestamp_seconds",
        "When the warden first saw the mark that waits the longest, though its content may have changed since. 0: none waits.",
        &["dataset"],
        waiting(|waiting| timestamp(Some(waiting.since))),
    )?;
    page.gauge(
        "lifeboat_mark_delay_seconds",
        "How long the warden lets each mark wait at least. 0: none waits.",
        &["dataset"],
        waiting(|waiting| waiting.delay as f64),
    )
}

fn scrubs(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let (mut checked, mut repaired, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    let (mut oldest, mut late) = (Vec::new(), Vec::new());
    let period = snapshot.config.scrub_period;
    for (dataset, status) in datasets(snapshot) {
        for replica in snapshot.config.replicas.iter().map(|replica| &replica.name) {
            let (at, scrub) =
                (|| vec![dataset, replica.as_str()], status.scrubs.get(replica).cloned().unwrap_or_default());
            checked.push((at(), scrub.checked_objects));
            repaired.push((at(), scrub.repaired_objects));
            damaged.push((at(), scrub.damaged_objects as f64));
            oldest.push((at(), timestamp(scrub.oldest_check)));
            let by = scrub::late_by(scrub.oldest_check.or(scrub.since), period, snapshot.now);
            late.push((at(), by.as_secs_f64()));
        }
    }
    let labels = ["dataset", "replica"];
    page.counter("lifeboat_scrub_objects_total", "Objects that the scrub has read and checked.", &labels, checked)?;
    page.counter(
        "lifeboat_scrub_repaired_objects_total",
        "Objects that the scrub found damaged and replaced with a whole copy.",
        &labels,
        repaired,
    )?;
    page.gauge(
        "lifeboat_scrub_damaged_objects",
        "Objects that are damaged and that no whole copy could replace so far.",
        &labels,
        damaged,
    )?;
    page.gauge(
        "lifeboat_scrub_oldest_check_timestamp_seconds",
        "Every object that was there at this time has been checked since. 0: not every one was checked yet.",
        &labels,
        oldest,
    )?;
    page.gauge(
        "lifeboat_scrub_late_seconds",
        "By how much the scrub is late. It is not while every object that was there two periods ago has been checked since.",
        &labels,
        late,
    )
}

fn datasets<'a>(snapshot: &'a Snapshot<'_>) -> impl Iterator<Item = (&'a str, DatasetStatus)> {
    snapshot.config.datasets.iter().map(|dataset| {
        let status = snapshot.statuses.get(&dataset.name).cloned().unwrap_or_default();
        (dataset.name.as_str(), status)
    })
}

fn timestamp(time: Option<DateTime<Utc>>) -> f64 {
    time.map_or(0.0, |time| time.timestamp_millis() as f64 / 1000.0)
}

mod grouped;
mod page;
#[cfg(test)]
mod tests;
