//! Keeps the replicas of a dataset level: when they are caught up, and what is remembered of it.

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::backup::BackupReport;
use lifeboat_engine::base::{Error, Result};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::is_future;
use lifeboat_engine::keep::catch_up::{ReplicaState, catch_up};
use lifeboat_engine::root;
use tokio_util::sync::CancellationToken;

use crate::installation::Installation;
use crate::runner::Runner;

/// So long after a look that found all replicas level, runs alone tell whether they still are.
const BETWEEN_LOOKS: TimeDelta = TimeDelta::days(1);

impl Runner {
    /// Whether a replica may lack something after this run. What all of them lack, only a look of
    /// its own finds, so there is one a day. It also finds times that were settled meanwhile.
    pub(crate) fn needs_catch_up(&self, report: &BackupReport) -> bool {
        let status = self.ledger.get(&report.dataset);
        let is_behind = status.replicas.values().any(|replica| replica.behind > 0);
        let age = status.level_at.map(|level| self.clock.now() - level);
        let is_recent = age.is_some_and(|age| age >= TimeDelta::zero() && age < BETWEEN_LOOKS);
        !report.are_level || is_behind || !is_recent || !status.doubtful_times.is_empty()
    }

    /// Brings replicas up to date for `dataset`. Returns early when `cancel` fires; what was copied
    /// stays.
    ///
    /// # Errors
    /// The dataset is in use, no replica can be listed, or the work was cancelled.
    pub(crate) async fn catch_up(
        &self,
        installation: &Installation,
        dataset: &Name,
        cancel: &CancellationToken,
    ) -> Result<Vec<ReplicaState>> {
        let dataset = installation.dataset(dataset)?;
        let Installation { keys, replicas, config, .. } = installation;
        let work = async {
            // A slow replica must not keep the dataset from its backups.
            root::keep(keys, replicas, &self.state, self.clock.now()).await?;
            let lock = self.state.lock_dataset(&dataset.name).await?;
            Ok::<_, Error>((lock, catch_up(dataset, keys, replicas, &self.state, &config.limits, cancel).await?))
        };
        let (_lock, states) = tokio::select! {
            done = work => done?,
            () = cancel.cancelled() => return Err(Error::cancelled("the catch-up")),
        };
        for state in states.iter().filter(|state| state.copied_objects > 0) {
            let (objects, bytes) = (state.copied_objects, state.copied_bytes);
            tracing::info!(dataset = %dataset.name, replica = %state.replica, objects, bytes, "replica caught up");
        }
        let (now, limits) = (self.clock.now(), &installation.config.limits);
        let newest = |state: &ReplicaState| {
            state.complete_since.iter().rev().find(|time| !is_future(**time, now, limits)).copied()
        };
        let are_level = states.iter().all(|state| state.error.is_none() && state.behind == 0);
        self.ledger.update(&dataset.name, |status| {
            status.level_at = are_level.then_some(now);
            for state in &states {
                let replica = status.replicas.entry(state.replica.clone()).or_default();
                // A replica that did not answer holds, and lacks, what it did.
                if state.error.is_none() || state.last_complete.is_some() {
                    replica.behind = state.behind;
                    replica.last_complete = newest(state);
                }
            }
            let is_settled = |snapshot: &_| states.iter().any(|state| state.vouched_for.contains(snapshot));
            status.doubtful_times.retain(|snapshot, _| !is_settled(snapshot));
            if states.iter().all(|state| state.error.is_none()) {
                let is_there = |time: &DateTime<Utc>| states.iter().any(|state| state.complete_since.contains(time));
                status.doubtful_times.retain(|_, time| is_there(time));
            }
            // A false time would hide that backups fail from now on.
            if status.last_success.is_some_and(|time| is_future(time, now, limits)) {
                status.last_success = states.iter().filter_map(newest).max();
            }
        });
        Ok(states)
    }
}
