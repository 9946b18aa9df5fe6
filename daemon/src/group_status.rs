//! What is remembered of each group, in one small file each: the newest common moment, and why
//! there was none in the last run.
//!
//! It is read anew each time, as `lifeboatd --once` writes it, too. A file that is missing or
//! damaged counts as empty, as for [datasets](crate::status).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::state::StateDirectory;
use serde::{Deserialize, Serialize};

use crate::status::KILLED;

/// A group that fails again and again is tried this often, or less often if `retry` says so.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(6 * 3600);

/// What is remembered of one group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GroupStatus {
    /// Since when this host knows the group.
    pub first_seen: Option<DateTime<Utc>>,
    /// When the last run began.
    pub last_attempt: Option<DateTime<Utc>>,
    /// When the run began that has not ended.
    pub under_way: Option<DateTime<Utc>>,
    /// The newest common moment.
    pub newest: Option<CommonMoment>,
    /// Why the last run had none.
    pub error: Option<String>,
    /// How many runs had none since the last one that had.
    pub failed_in_a_row: u32,
    /// When the group is tried again, if its schedule does not start it before.
    pub retry_at: Option<DateTime<Utc>>,
    /// Runs with a common moment.
    pub moments: u64,
    /// Runs without one.
    pub failures: u64,
}

/// A moment of which every member has a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CommonMoment {
    pub moment: SnapshotId,
    /// When the first view of a member began.
    pub at: DateTime<Utc>,
    /// How much later the last one began.
    pub spread_seconds: f64,
    pub snapshots: BTreeMap<Name, SnapshotId>,
}

impl CommonMoment {
    /// `times` tell when the members' views began.
    pub(crate) fn new(moment: &SnapshotId, times: &[DateTime<Utc>], snapshots: BTreeMap<Name, SnapshotId>) -> Self {
        let at = times.iter().min().copied().unwrap_or_else(|| moment.time());
        let last = times.iter().max().copied().unwrap_or(at);
        Self { moment: moment.clone(), at, spread_seconds: (last - at).as_seconds_f64(), snapshots }
    }
}

/// What is remembered of `group`.
pub(crate) fn read(state: &StateDirectory, group: &Name) -> GroupStatus {
    let path = state.group(group);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return GroupStatus::default(),
        text => text.map_err(|error| error.to_string()),
    };
    let parsed = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    parsed.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the status of a group cannot be read; starting from zero");
        GroupStatus::default()
    })
}

/// Changes what is remembered of `group`.
pub(crate) fn update(state: &StateDirectory, group: &Name, change: impl FnOnce(&mut GroupStatus)) {
    // `lifeboatd --once` may change it, too. What cannot be locked cannot be written either.
    let _lock = state.lock_groups();
    let mut status = read(state, group);
    change(&mut status);
    let json = serde_json::to_vec_pretty(&status).map_err(|error| error.to_string());
    let written = json.and_then(|json| state.write_group(group, &json).map_err(|error| error.chain()));
    if let Err(error) = written {
        tracing::warn!(%group, %error, "cannot write the status of the group");
    }
}

/// Notes since when a group is known.
pub(crate) fn first_see(state: &StateDirectory, group: &Name, now: DateTime<Utc>) {
    if read(state, group).first_seen.is_none() {
        update(state, group, |status| status.first_seen = Some(now));
    }
}

/// Counts a run that never ended, as what ran it was killed. It is tried again after `retry`, or
/// later if others failed before it.
pub(crate) fn take_in_killed(state: &StateDirectory, group: &Name, retry: Option<Duration>, now: DateTime<Utc>) {
    if read(state, group).under_way.is_none() {
        return;
    }
    update(state, group, |status| {
        status.last_attempt = status.under_way.take();
        status.failed(KILLED.to_owned(), retry, now);
    });
}

impl GroupStatus {
    /// Counts a run without a common moment. The first is tried again after `retry`, and each that
    /// follows without one between after twice the time: all members are captured anew, however few
    /// of them fail.
    pub(crate) fn failed(&mut self, error: String, retry: Option<Duration>, now: DateTime<Utc>) {
        let pause = retry.map(|retry| {
            let doubled = 2_u32.checked_pow(self.failed_in_a_row).and_then(|times| retry.checked_mul(times));
            doubled.unwrap_or(MAX_RETRY_PAUSE).min(MAX_RETRY_PAUSE.max(retry))
        });
        self.retry_at = pause.and_then(|pause| TimeDelta::from_std(pause).ok()).map(|pause| now + pause);
        self.error = Some(error);
        (self.failures, self.failed_in_a_row) = (self.failures + 1, self.failed_in_a_row.saturating_add(1));
    }

    /// Counts a run with a common moment.
    pub(crate) fn succeeded(&mut self, newest: CommonMoment) {
        (self.newest, self.error, self.retry_at) = (Some(newest), None, None);
        (self.moments, self.failed_in_a_row) = (self.moments + 1, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_killed_counts_and_the_newest_moment_stays() {
        let place = tempfile::tempdir().unwrap();
        let (state, shop) = (StateDirectory::open(place.path()).unwrap(), "shop".parse().unwrap());
        assert_eq!(read(&state, &shop), GroupStatus::default());
        let at = |second: i64| DateTime::from_timestamp(1_795_459_980 + second, 0).unwrap();
        let moment = "20261123T183244123Z-9f2c81aa".parse().unwrap();
        let newest = CommonMoment::new(&moment, &[at(3), at(1), at(2)], BTreeMap::new());
        assert_eq!((newest.at, newest.spread_seconds), (at(1), 2.0));
        update(&state, &shop, |status| {
            (status.newest, status.under_way) = (Some(newest.clone()), Some(at(9)));
        });
        first_see(&state, &shop, at(20));
        assert!(read(&state, &shop).under_way.is_some(), "another program may run it");
        take_in_killed(&state, &shop, Some(Duration::from_secs(60)), at(20));
        take_in_killed(&state, &shop, Some(Duration::from_secs(60)), at(30));
        first_see(&state, &shop, at(30));
        let status = read(&state, &shop);
        assert_eq!(status.first_seen, Some(at(20)));
        assert_eq!((status.failures, status.newest, status.last_attempt), (1, Some(newest), Some(at(9))));
        assert!(status.error.unwrap().contains("was killed"));
        assert_eq!((status.failed_in_a_row, status.retry_at), (1, Some(at(80))));
        std::fs::write(state.group(&shop), "{").unwrap();
        assert_eq!(read(&state, &shop), GroupStatus::default());
    }

    #[test]
    fn the_pause_between_retries_doubles_up_to_a_bound_and_begins_anew_after_a_moment() {
        let now = DateTime::from_timestamp(1_795_459_980, 0).unwrap();
        let pauses = |status: &mut GroupStatus, retry: u64| {
            let pause = |_| {
                status.failed(String::new(), Some(Duration::from_secs(retry)), now);
                (status.retry_at.unwrap() - now).num_minutes()
            };
            (0..8).map(pause).collect::<Vec<_>>()
        };
        let mut status = GroupStatus::default();
        assert_eq!(pauses(&mut status, 900), [15, 30, 60, 120, 240, 360, 360, 360]);
        status.failed_in_a_row = u32::MAX;
        assert_eq!(pauses(&mut status, 900)[7], 360);
        status.failed(String::new(), None, now);
        assert_eq!(status.retry_at, None);
        let moment = "20261123T183244123Z-9f2c81aa".parse().unwrap();
        status.succeeded(CommonMoment::new(&moment, &[now], BTreeMap::new()));
        assert_eq!((status.retry_at, status.moments, status.error.as_ref()), (None, 1, None));
        // Whoever wants more time between them has it.
        assert_eq!(pauses(&mut status, 7 * 3600)[..2], [420, 420]);
    }

    #[test]
    fn two_programs_that_count_at_once_lose_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (state, shop): (_, Name) = (StateDirectory::open(place.path()).unwrap(), "shop".parse().unwrap());
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| (0..25).for_each(|_| update(&state, &shop, |status| status.moments += 1)));
            }
        });
        assert_eq!(read(&state, &shop).moments, 100);
    }
}
