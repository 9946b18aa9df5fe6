//! Finds the newest snapshot for which a query still gives what it should, in few steps: each
//! restores one snapshot into a throw-away database, up to `loaded`, and asks the one query.
//!
//! It assumes that what once failed fails ever after. Where that is not so, the two neighbours that
//! it ends with are still true: the one holds, and the one after it, of those that could be opened,
//! does not. A query that ends in an error gives no answer: the search ends there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_databases::proof::{CheckResult, DrillQuery, ProofLevel};
use lifeboat_databases::streams::StoredStreams;
use lifeboat_databases::{ToolEnvironment, WorkContext, registry};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_worker::WorkerPlace;
use lifeboat_worker::protocol::DrillTools;
use tokio_util::sync::CancellationToken;

use super::{DRILL_STALL_LIMIT, needed_disk};
use crate::config::DrillConfig;
use crate::restore::{SnapshotStreams, VaultReader};

/// A search among the snapshots of a dataset, oldest first.
#[derive(Debug, Clone)]
pub struct Bisect {
    snapshots: Vec<SnapshotId>,
    /// How many of them, from the oldest on, are known to hold.
    good: usize,
    /// The oldest that is known to fail; `None` before one failed.
    bad: Option<usize>,
}

impl Bisect {
    /// Among these snapshots, oldest first.
    #[must_use]
    pub fn among(snapshots: Vec<SnapshotId>) -> Self {
        Self { snapshots, good: 0, bad: None }
    }

    /// The snapshot to ask next: the newest first, then one in the middle of what is not known.
    /// `None` once both neighbours are known.
    #[must_use]
    pub fn next(&self) -> Option<&SnapshotId> {
        self.snapshots.get(self.next_at()?)
    }

    fn next_at(&self) -> Option<usize> {
        match self.bad {
            None => self.snapshots.len().checked_sub(1).filter(|newest| *newest >= self.good),
            Some(bad) if bad > self.good => Some(self.good + (bad - self.good) / 2),
            Some(_) => None,
        }
    }

    /// Notes what [`Self::next`] gave.
    pub fn note(&mut self, holds: bool) {
        let Some(at) = self.next_at() else { return };
        if holds {
            self.good = at + 1;
        } else {
            self.bad = Some(at);
        }
    }

    /// Goes on without the snapshot that [`Self::next`] gave: it cannot be asked.
    pub fn leave_aside(&mut self) {
        let Some(at) = self.next_at() else { return };
        self.snapshots.remove(at);
        // It stood before the oldest one that fails.
        self.bad = self.bad.map(|bad| bad - 1);
    }

    /// At most so many more snapshots are asked.
    #[must_use]
    pub fn steps_left(&self) -> u32 {
        let unknown = self.bad.unwrap_or(self.snapshots.len()) - self.good;
        let more = usize::BITS - unknown.leading_zeros();
        match self.bad {
            Some(_) => more,
            // The newest one is asked besides.
            None if unknown == 0 => 0,
            None => 1 + usize::BITS - (unknown - 1).leading_zeros(),
        }
    }

    /// The newest snapshot that is known to hold.
    #[must_use]
    pub fn last_good(&self) -> Option<&SnapshotId> {
        self.good.checked_sub(1).and_then(|at| self.snapshots.get(at))
    }

    /// The oldest snapshot that is known to fail.
    #[must_use]
    pub fn first_bad(&self) -> Option<&SnapshotId> {
        self.bad.and_then(|at| self.snapshots.get(at))
    }
}

/// One query, and what it takes to ask it.
pub struct Asking<'a> {
    /// The vault.
    pub reader: &'a VaultReader,
    /// The dataset.
    pub dataset: &'a Name,
    /// The query.
    pub query: &'a DrillQuery,
    /// Where server programs are looked for first.
    pub directories: &'a [PathBuf],
    /// How many connections load at once.
    pub jobs: usize,
    /// What tools inherit of the program's environment.
    pub environment: &'a ToolEnvironment,
    /// Where the worker comes from.
    pub worker: &'a WorkerPlace,
    /// When it fires, the throw-away database is stopped, and an error comes.
    pub cancel: CancellationToken,
}

impl Asking<'_> {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn open(&self, snapshot: &SnapshotId) -> Result<SnapshotStreams> {
        self.reader.streams(self.dataset, snapshot).await
    }

    /// Fails if it is not clear which database is meant, or if that is not there.
    fn check_database(&self, streams: &SnapshotStreams) -> Result<()> {
        let Some(engine) = registry::find(&streams.facts().engine) else { return Ok(()) };
        let names: BTreeSet<String> = streams.names().iter().filter_map(|name| engine.database_of(name)).collect();
        let told = || names.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
        match &self.query.database {
            None if names.len() > 1 && engine.database_meant(&names).is_none() => {
                Err(Error::usage("the snapshot has several databases, and the query is for one of them")
                    .hint(format!("name it with --database: {}", told())))
            }
            Some(wanted) if !names.is_empty() && !names.contains(wanted) => {
                let wanted = wanted.escape_debug();
                Err(Error::usage(format!("the snapshot has no database `{wanted}`, which is no answer"))
                    .hint(format!("it has: {}", told())))
            }
            _ => Ok(()),
        }
    }

    /// Restores a snapshot, which was taken at the time `taken`, into a throw-away database below
    /// `scratch`, and asks. The database is stopped and removed whatever happens.
    ///
    /// # Errors
    /// The snapshot cannot be restored, its kind has no throw-away databases, it is not clear which
    /// database is meant, or the query ends in an error.
    pub async fn ask(&self, streams: &SnapshotStreams, taken: DateTime<Utc>, scratch: PathBuf) -> Result<CheckResult> {
        self.check_database(streams)?;
        let cx = WorkContext {
            environment: self.environment.clone(),
            scratch,
            stall: DRILL_STALL_LIMIT,
            jobs: self.jobs,
            cancel: self.cancel.clone(),
        };
        // Commands of the operator answer no query.
        let (engine, bytes) = (registry::find(&streams.facts().engine), streams.manifest().length());
        let needed_disk = needed_disk(&DrillConfig::default(), engine, bytes, ProofLevel::Loaded)?;
        let tools = DrillTools { directories: self.directories.to_vec(), needed_disk, ..DrillTools::default() };
        let server = lifeboat_worker::throw_away(self.worker, streams, tools, &cx).await;
        let server = server.map_err(|error| match self.cancel.is_cancelled() {
            true => Error::cancelled("the search"),
            false => error,
        })?;
        let mut server = server.ok_or_else(|| {
            Error::usage(format!("a snapshot of kind {} has no throw-away database to ask", streams.facts().engine))
                .hint("restore the snapshots one by one, and look")
        })?;
        let query = DrillQuery { taken_at: Some(taken), ..self.query.clone() };
        let asked = async {
            server.load(streams).await?;
            let answers = server.ask(std::slice::from_ref(&query)).await?;
            answers.into_iter().next().ok_or_else(|| Error::failed("the query was not answered"))
        };
        let answer = asked.await;
        let stopped = server.stop().await;
        let answer = answer.and_then(|answer| stopped.map(|()| answer));
        match answer {
            // Whatever failed then speaks of a drill.
            Err(_) if self.cancel.is_cancelled() => Err(Error::cancelled("the search")),
            Ok(CheckResult { detail, .. }) if !query.is_answered_by(&detail) => {
                let what = format!("the query `{}` gives no number, which is no answer: {detail}", query.sql);
                Err(Error::usage(what).hint("ask for a number, or say with --expect which text it must give"))
            }
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn both_neighbours_are_found_in_few_steps() {
        for count in 0..70_u32 {
            let snapshots: Vec<SnapshotId> = (0..count)
                .map(|n| SnapshotId::new(DateTime::from_timestamp(i64::from(n), 0).unwrap_or_default(), n))
                .collect();
            for good in 0..=count as usize {
                let mut bisect = Bisect::among(snapshots.clone());
                let (expected, mut steps) = (bisect.steps_left(), 0);
                while let Some(asked) = bisect.next() {
                    let at = snapshots.iter().position(|one| one == asked).unwrap_or_default();
                    bisect.note(at < good);
                    steps += 1;
                }
                // The same where each third one cannot be asked.
                let (mut partly, mut asked_ones) = (Bisect::among(snapshots.clone()), 0);
                while let Some(asked) = partly.next() {
                    let at = snapshots.iter().position(|one| one == asked).unwrap_or_default();
                    if at % 3 == 1 {
                        partly.leave_aside();
                    } else {
                        partly.note(at < good);
                    }
                    asked_ones += 1;
                }
                let can = |at: &usize| at % 3 != 1;
                let found = (partly.last_good(), partly.first_bad());
                let nearest = |at: Option<usize>| at.and_then(|at| snapshots.get(at));
                let (below, above) = ((0..good).rev().find(can), (good..snapshots.len()).find(can));
                assert_eq!(found, (nearest(below), nearest(above)), "{count}, {good}");
                assert!(asked_ones <= count, "{count}, {good}: {asked_ones} steps");
                assert!(steps <= expected && expected <= 8, "{count}, {good}: {steps} of {expected} steps");
                assert_eq!(bisect.last_good(), good.checked_sub(1).and_then(|at| snapshots.get(at)), "{count}, {good}");
                assert_eq!(bisect.first_bad(), snapshots.get(good), "{count}, {good}");
                assert_eq!(bisect.steps_left(), 0);
            }
        }
    }
}
