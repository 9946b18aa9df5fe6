//! The status in words: a line for each thing that is so.

use lifeboat_engine::base::escape;
use lifeboat_engine::keep::warden_log::deletion_line;
use lifeboat_engine::state::pause::Pause;
use lifeboat_engine::store::without_name;

use crate::live::{LeftAlone, StatusReport};
use crate::scheduler::Queued;
use crate::words;

impl StatusReport {
    /// A line for each dataset and replica.
    pub(crate) fn summary(&self) -> String {
        let mut lines = Vec::new();
        if self.stopping {
            lines.push("lifeboatd is stopping".to_owned());
        } else if self.running.is_empty() {
            lines.push("idle".to_owned());
        }
        for run in &self.running {
            if let Some(since) = run.prunes_since {
                lines.push(format!("dataset {}: is backed up, and prunes since {}", run.dataset, words::time(since)));
                continue;
            }
            let (took, commits) = (words::duration(run.elapsed_seconds), if run.committing { ", commits" } else { "" });
            let [read, known, stored] = [run.read_bytes, run.deduplicated_bytes, run.stored_bytes].map(words::bytes);
            lines.push(format!(
                "backing up {} for {took}: {read} read, {known} of it known, {stored} stored{commits}",
                run.dataset
            ));
        }
        for Queued { dataset, due } in &self.queue {
            let since = due.map_or("an operator asked".to_owned(), |due| format!("due {}", words::time(due)));
            lines.push(format!("dataset {dataset}: a backup waits for a place ({since})"));
        }
        for (name, dataset) in &self.datasets {
            let status = &dataset.status;
            let newest =
                status.last_success.map_or("never backed up".to_owned(), |t| format!("newest {}", words::time(t)));
            let next = match (dataset.due_since, dataset.next) {
                (Some(due), _) => format!("due since {}", words::time(due)),
                (None, Some(next)) => format!("next {}", words::time(next)),
                (None, None) => "not scheduled".to_owned(),
            };
            let failed = match &status.error {
                Some(error) => format!("; the last run FAILED: {}", escape::line(error)),
                None => String::new(),
            };
            let partial = match status.skipped {
                0 => String::new(),
                lacking => format!("; PARTIAL: lacks {}", words::count(lacking, "database")),
            };
            let future = if dataset.newest_in_future { " (its time lies in the FUTURE)" } else { "" };
            lines.push(format!("dataset {name}: {newest}{future}{partial}, {next}{failed}"));
            if let Some(Pause { until, why, .. }) = &dataset.paused {
                let why = why.as_deref().map_or(String::new(), |why| format!(": {}", escape::line(why)));
                lines.push(format!("dataset {name}: is PAUSED until {}{why}", words::time(*until)));
            }
            if let Some((since, holder)) = dataset.waits_since.zip(dataset.waits_for.as_ref()) {
                let since = words::time(since);
                lines.push(format!("dataset {name}: a backup WAITS since {since} until {holder} ends"));
            } else if let Some(time) = status.retry_at {
                lines.push(format!("dataset {name}: tried again at {}", words::time(time)));
            }
            if let Some(leader) = &status.led_by {
                let needed = if status.takeover_needed {
                    format!(", and has NOT BACKED UP in time: run `lifeboat takeover {name}` if it is gone")
                } else {
                    String::new()
                };
                lines.push(format!("dataset {name}: host {leader} backs it up{needed}"));
            }
            if let Some(why) = &status.deletion_stopped {
                lines.push(format!("dataset {name}: deletion is STOPPED, at least in part: {}", escape::line(why)));
            }
            if let Some(told) = deletion_line(dataset.warden.as_ref(), &status.vetoed, self.now) {
                lines.push(format!("dataset {name}: deletion: {told}"));
            }
            for anomaly in &status.anomalies {
                let snapshot = anomaly.snapshot.as_ref().map_or("?", |snapshot| snapshot.as_str());
                lines.push(format!(
                    "dataset {name}: snapshot {snapshot} DEPARTS from its history: {}; if it is right, run `lifeboat acknowledge {name}`",
                    escape::line(&anomaly.why.join("; "))
                ));
            }
            for (snapshot, time) in &status.doubtful_times {
                lines.push(format!(
                    "dataset {name}: the time of snapshot {snapshot}, {}, is probably FALSE; see \"A clock was wrong\" in OPERATIONS.md",
                    words::time(*time)
                ));
            }
            for (replica, scrub) in status.scrubs.iter().filter(|(_, scrub)| scrub.damaged_objects > 0) {
                let (key, damage) =
                    scrub.damaged.first_key_value().map_or(("?", None), |(key, damage)| (key, Some(damage)));
                let why = damage.map(|damage| format!(": {}; not repaired: {}", damage.problem, damage.unrepaired));
                lines.push(format!(
                    "dataset {name}: replica {replica} has {} that are DAMAGED, such as {}{}",
                    words::count(scrub.damaged_objects, "object"),
                    escape::line(key),
                    escape::line(&why.unwrap_or_default())
                ));
            }
            for (replica, standing) in status.replicas.iter().filter(|(_, standing)| standing.behind > 0) {
                lines.push(format!(
                    "dataset {name}: replica {replica} lacks {}",
                    words::count(standing.behind, "snapshot")
                ));
            }
        }
        for (name, group) in &self.groups {
            let newest = group.newest.as_ref().map_or("never had a common moment".to_owned(), |newest| {
                let (at, spread) = (words::time(newest.at), words::duration(newest.spread_seconds));
                format!("newest common moment {at}, views within {spread}")
            });
            let failed = group
                .error
                .as_ref()
                .map_or(String::new(), |error| format!("; the last run had NO COMMON MOMENT: {}", escape::line(error)));
            lines.push(format!("group {name}: {newest}{failed}"));
        }
        for (name, up) in &self.replicas {
            let stands = match self.left_alone.get(name) {
                Some(LeftAlone { since, why }) => {
                    format!(
                        "DOWN since {}; runs only probe it: {}",
                        words::time(*since),
                        escape::line(without_name(name, why))
                    )
                }
                None if *up => "up".to_owned(),
                None => "DOWN; run `lifeboat check` to see why".to_owned(),
            };
            lines.push(format!("replica {name}: {stands}"));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;

    use super::*;
    use crate::group_status::GroupStatus;
    use crate::live::DatasetReport;
    use crate::status::DatasetStatus;

    #[test]
    fn a_partial_snapshot_and_a_failed_run_stand_in_the_summary() {
        let newest = DateTime::from_timestamp(1_795_459_999, 0);
        let error = Some("no\nroom".to_owned());
        let deletion_stopped = Some("act 5 is missing".to_owned());
        let status =
            DatasetStatus { last_success: newest, skipped: 2, error, deletion_stopped, ..DatasetStatus::default() };
        let report = StatusReport {
            now: newest.unwrap(),
            version: "1",
            running: Vec::new(),
            queue: Vec::new(),
            stopping: false,
            replicas: BTreeMap::from([("south".parse().unwrap(), false)]),
            left_alone: BTreeMap::from([(
                "south".parse().unwrap(),
                LeftAlone { since: newest.unwrap(), why: "no answer within 5s".to_owned() },
            )]),
            datasets: BTreeMap::from([(
                "shop".parse().unwrap(),
                DatasetReport {
                    next: None,
                    due_since: None,
                    waits_since: newest,
                    waits_for: Some("another run".to_owned()),
                    paused: None,
                    newest_in_future: false,
                    warden: None,
                    status,
                },
            )]),
            groups: BTreeMap::from([(
                "web".parse().unwrap(),
                GroupStatus { error: Some("shop failed".to_owned()), ..GroupStatus::default() },
            )]),
        };
        let text = report.summary();
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with("dataset shop: newest "), "{line}");
        assert!(line.contains("; PARTIAL: lacks 2 databases, not scheduled; the last run FAILED: no"), "{line}");
        assert!(text.contains("\ndataset shop: deletion is STOPPED, at least in part: act 5 is missing"), "{text}");
        assert!(text.contains(" until another run ends"), "{text}");
        let group = "\ngroup web: never had a common moment; the last run had NO COMMON MOMENT: shop failed\n";
        assert!(text.contains(group), "{text}");
        assert!(text.contains("; runs only probe it: no answer within 5s"), "{text}");

        let mut report = report;
        for (due_since, next, told) in [(newest, None, "due since 2026-"), (None, newest, "next 2026-")] {
            let dataset = report.datasets.values_mut().next().unwrap();
            (dataset.due_since, dataset.next) = (due_since, next);
            assert!(report.summary().contains(told), "{}", report.summary());
        }
    }
}
