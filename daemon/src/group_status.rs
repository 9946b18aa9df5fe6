//! What is remembered of each group, in one small file each: the newest common moment, and why
//! there was none in the last run.
//!
//! It is read anew each time, as `lifeboatd --once` writes it, too. A file that is missing or
//! damaged counts as empty, as for [datasets](crate::status).

use std::collections::BTreeMap;
use std::io::ErrorKind;

use chrono::{DateTime, Utc};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::state::StateDirectory;
use serde::{Deserialize, Serialize};

use crate::status::KILLED;

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
    let mut status = read(state, group);
    change(&mut status);
    let json = serde_json::to_vec_pretty(&status).map_err(|error| error.to_string());
    let written = json.and_then(|json| state.write_group(group, &json).map_err(|error| error.chain()));
    if let Err(error) = written {
        tracing::warn!(%group, %error, "cannot write the status of the group");
    }
}

/// Notes since when a group is known, and counts a run that never ended, as what ran it was killed.
pub(crate) fn take_in(state: &StateDirectory, group: &Name, now: DateTime<Utc>) {
    let known = read(state, group);
    if known.first_seen.is_some() && known.under_way.is_none() {
        return;
    }
    update(state, group, |status| {
        status.first_seen = status.first_seen.or(Some(now));
        if let Some(began) = status.under_way.take() {
            status.last_attempt = Some(began);
            (status.failures, status.error) = (status.failures + 1, Some(KILLED.to_owned()));
        }
    });
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
        take_in(&state, &shop, at(20));
        take_in(&state, &shop, at(30));
        let status = read(&state, &shop);
        assert_eq!(status.first_seen, Some(at(20)));
        assert_eq!((status.failures, status.newest, status.last_attempt), (1, Some(newest), Some(at(9))));
        assert!(status.error.unwrap().contains("was killed"));
        std::fs::write(state.group(&shop), "{").unwrap();
        assert_eq!(read(&state, &shop), GroupStatus::default());
    }
}
