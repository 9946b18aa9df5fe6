//! What is remembered of groups, as Prometheus reads it.

use std::time::Duration;

use lifeboat_engine::config::GroupConfig;

use super::{Page, Snapshot, timestamp};
use crate::group_status::GroupStatus;

/// A group whose members have no objective is late if its schedule is: as for a backup, half an
/// interval and 15 minutes are allowed.
const LATE_INTERVALS: f64 = 1.5;
const LATE_SECONDS: f64 = 900.0;

pub(super) fn groups(page: &Page, snapshot: &Snapshot<'_>) -> prometheus::Result<()> {
    let all = || {
        snapshot.config.groups.iter().map(|group| {
            let status = snapshot.groups.get(&group.name).cloned().unwrap_or_default();
            (group, vec![group.name.as_str()], status)
        })
    };
    let at = |status: &GroupStatus| snapshot.past(status.newest.as_ref().map(|newest| newest.at));
    let spread = |status: &GroupStatus| status.newest.as_ref().map_or(0.0, |newest| newest.spread_seconds);
    let label = ["group"];
    page.gauge(
        "lifeboat_group_moment_timestamp_seconds",
        "The newest moment of which every member of the group has a snapshot. 0: none, or it lies in the future.",
        &label,
        all().map(|(_, name, status)| (name, timestamp(at(&status)))).collect(),
    )?;
    page.gauge(
        "lifeboat_group_spread_seconds",
        "How far apart the members' views of that moment began.",
        &label,
        all().map(|(_, name, status)| (name, spread(&status))).collect(),
    )?;
    page.gauge(
        "lifeboat_group_first_seen_timestamp_seconds",
        "When the daemon of this host first knew the group.",
        &label,
        all().map(|(_, name, status)| (name, timestamp(status.first_seen))).collect(),
    )?;
    page.gauge(
        "lifeboat_group_max_age_seconds",
        "How old the newest common moment may be: the smallest rpo of the members, else what the schedule allows. 0: any age.",
        &label,
        all().map(|(group, name, _)| (name, max_age(group, snapshot))).collect(),
    )?;
    page.counter(
        "lifeboat_group_moments_total",
        "Runs of the group after which every member had a snapshot of one moment.",
        &label,
        all().map(|(_, name, status)| (name, status.moments)).collect(),
    )?;
    page.counter(
        "lifeboat_group_failures_total",
        "Runs of the group without a common moment.",
        &label,
        all().map(|(_, name, status)| (name, status.failures)).collect(),
    )
}

fn max_age(group: &GroupConfig, snapshot: &Snapshot<'_>) -> f64 {
    let members = group.members.iter().filter_map(|member| snapshot.config.dataset(member));
    let smallest = members.filter_map(|member| member.objectives.rpo).min();
    let interval = group.members.iter().find_map(|member| snapshot.intervals.get(member));
    let by_schedule = || interval.map(|interval| LATE_INTERVALS * interval.as_secs_f64() + LATE_SECONDS);
    smallest.as_ref().map(Duration::as_secs_f64).or_else(by_schedule).unwrap_or_default()
}
