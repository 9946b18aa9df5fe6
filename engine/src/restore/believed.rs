//! The snapshots of a dataset whose signatures are believed, in the order in which they were taken.
//!
//! Anybody who can write into a bucket can put objects there that look like snapshots, and a host
//! under a wrong clock gives false times. So each manifest is opened, and the time that counts is
//! the one that settled times, stores and witnesses leave. What cannot be opened is left aside,
//! with one warning for each replica that shows such.

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};

use super::reader::VaultReader;
use crate::catalog::future::is_future;
use crate::catalog::taken::SnapshotTime;
use crate::catalog::unbelieved::Unbelieved;

/// The snapshots that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BelievedSnapshots {
    /// Each with when it was taken, oldest first.
    pub snapshots: Vec<(SnapshotId, SnapshotTime)>,
    /// What was left aside, for people.
    pub warnings: Vec<String>,
}

impl VaultReader {
    /// The snapshots that a trusted signer signed, that can be opened, and whose time does not lie
    /// behind `now`.
    ///
    /// # Errors
    /// There is none, or no replica can be listed.
    pub async fn believed(&self, dataset: &Name, now: DateTime<Utc>) -> Result<BelievedSnapshots> {
        let (listed, settled) = futures::join!(self.snapshots(dataset), self.settled_times(dataset));
        let opened = self.summaries(dataset, listed?, None).await;
        let shown = || opened.iter().filter_map(|(listed, summary)| Some((listed, summary.as_ref().ok()?)));
        let times = settled?.among(shown().map(|(_, summary)| summary.claim.clone()));
        let times = self.seen_by_others(dataset, shown(), times).await;
        let mut unbelieved = Unbelieved::new("a snapshot that cannot be opened and believed");
        let (mut snapshots, mut future, mut failure) = (Vec::new(), 0, None::<Error>);
        for (listed, summary) in opened {
            match summary {
                Ok(summary) => {
                    let taken = times.of(&listed.snapshot, summary.claim.time);
                    if is_future(taken.time, now, self.limits()) {
                        future += 1;
                    } else {
                        snapshots.push((listed.snapshot, taken));
                    }
                }
                Err(error) => {
                    unbelieved.add(&listed.replicas, &listed.snapshot, &error);
                    // A key that is lacking explains more than what was damaged.
                    if failure.as_ref().is_none_or(|known| known.class() != Class::Keys) {
                        failure = Some(error);
                    }
                }
            }
        }
        if snapshots.is_empty() {
            return Err(failure.unwrap_or_else(|| {
                Error::usage(format!("dataset {dataset} has no snapshot"))
                    .hint(format!("run `lifeboat list {dataset}` to see its snapshots"))
            }));
        }
        snapshots.sort_by(|(one, taken), (other, other_taken)| (taken.time, one).cmp(&(other_taken.time, other)));
        let mut warnings = unbelieved.warnings("it is left aside");
        if future > 0 {
            warnings.push(format!("{future} of the snapshots are left aside: their times lie in the future"));
        }
        Ok(BelievedSnapshots { snapshots, warnings })
    }
}
