//! Finds the newest snapshot for which a query still gives what it should, in few steps: each
//! restores one snapshot into a throw-away database, up to `loaded`, and asks the one query.
//!
//! It assumes that what once failed fails ever after. Where that is not so, the two neighbours that
//! it ends with are still true: the one holds, and the one after it does not.

use std::path::PathBuf;

use lifeboat_base::{Error, Result};
use lifeboat_databases::proof::{CheckResult, DrillQuery};
use lifeboat_databases::streams::StoredStreams;
use lifeboat_databases::{ToolEnvironment, WorkContext};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_worker::WorkerPlace;
use tokio_util::sync::CancellationToken;

use super::DRILL_STALL_LIMIT;
use crate::restore::VaultReader;

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
        let at = match self.bad {
            None => self.snapshots.len().checked_sub(1).filter(|newest| *newest >= self.good)?,
            Some(bad) if bad > self.good => self.good + (bad - self.good) / 2,
            Some(_) => return None,
        };
        self.snapshots.get(at)
    }

    /// Notes what [`Self::next`] gave.
    pub fn note(&mut self, holds: bool) {
        let asked = self.next().cloned();
        let Some(at) = asked.and_then(|asked| self.snapshots.iter().position(|one| *one == asked)) else { return };
        if holds {
            self.good = at + 1;
        } else {
            self.bad = Some(at);
        }
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
    /// Restores a snapshot into a throw-away database below `scratch`, and asks. The database is
    /// stopped and removed whatever happens.
    ///
    /// # Errors
    /// The snapshot cannot be restored, its kind has no throw-away databases, or the query is no
    /// SQL.
    pub async fn ask(&self, snapshot: &SnapshotId, scratch: PathBuf) -> Result<CheckResult> {
        let streams = self.reader.streams(self.dataset, snapshot).await?;
        let taken = self.reader.taken(streams.manifest()).await?.time;
        let cx = WorkContext {
            environment: self.environment.clone(),
            scratch,
            stall: DRILL_STALL_LIMIT,
            jobs: self.jobs,
            cancel: self.cancel.clone(),
        };
        let server = lifeboat_worker::throw_away(self.worker, &streams, self.directories, &cx).await?;
        let mut server = server.ok_or_else(|| {
            Error::usage(format!("a snapshot of kind {} has no throw-away database to ask", streams.facts().engine))
                .hint("restore the snapshots one by one, and look")
        })?;
        let query = DrillQuery { taken_at: Some(taken), ..self.query.clone() };
        let asked = async {
            server.load(&streams).await?;
            let answers = server.ask(std::slice::from_ref(&query)).await?;
            answers.into_iter().next().ok_or_else(|| Error::failed("the query was not answered"))
        };
        let answer = asked.await;
        let stopped = server.stop().await;
        answer.and_then(|answer| stopped.map(|()| answer))
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
                assert!(steps <= expected && expected <= 8, "{count}, {good}: {steps} of {expected} steps");
                assert_eq!(bisect.last_good(), good.checked_sub(1).and_then(|at| snapshots.get(at)), "{count}, {good}");
                assert_eq!(bisect.first_bad(), snapshots.get(good), "{count}, {good}");
                assert_eq!(bisect.steps_left(), 0);
            }
        }
    }
}
