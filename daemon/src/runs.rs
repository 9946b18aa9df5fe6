//! The runs under way, one for each dataset at most. One that has its report prunes: it takes no
//! place, and ends at once when its dataset is to be backed up again.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lifeboat_engine::backup::Progress;
use lifeboat_engine::base::{Class, Error, Result};
use lifeboat_engine::format::id::Name;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::control::protocol::Answer;
use crate::live::RunningBackup;
use crate::start::Stop;
use crate::turn::Ended;
use crate::words;

/// One run.
pub(crate) struct Run {
    pub since: DateTime<Utc>,
    pub progress: Arc<Progress>,
    pub stop: Stop,
    /// Since when it prunes. `None`: it backs up.
    pub prunes_since: Option<DateTime<Utc>>,
    pub task: JoinHandle<Result<Ended>>,
    /// Who waits for its report.
    pub waiting: Vec<oneshot::Sender<Answer>>,
    /// Who asked to cancel it.
    pub cancelling: Vec<oneshot::Sender<Answer>>,
}

/// What comes of a run.
pub(crate) enum RunEvent {
    /// The backup has its report. All that may follow is the prune.
    BackedUp(Name),
    /// It has ended, and is to be removed.
    Ended(Name, Box<Result<Ended>>),
}

/// The runs under way.
#[derive(Default)]
pub(crate) struct Runs(BTreeMap<Name, Run>);

impl Run {
    fn commits(&self) -> bool {
        self.progress.committing.load(Ordering::SeqCst)
    }
}

impl Runs {
    pub(crate) fn add(&mut self, dataset: Name, run: Run) {
        self.0.insert(dataset, run);
    }

    pub(crate) fn remove(&mut self, dataset: &Name) -> Option<Run> {
        self.0.remove(dataset)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What comes next of one of them. Never, if there is none.
    pub(crate) async fn event(&mut self) -> RunEvent {
        let backing_up = self.0.iter().filter(|(_, run)| run.prunes_since.is_none());
        let backed_up = backing_up.map(|(dataset, run)| {
            let (dataset, backed_up) = (dataset.clone(), run.stop.backed_up.clone());
            async move {
                backed_up.cancelled().await;
                dataset
            }
        });
        let mut backed_up: FuturesUnordered<_> = backed_up.collect();
        std::future::poll_fn(|cx| {
            for (dataset, run) in &mut self.0 {
                if let Poll::Ready(ended) = Pin::new(&mut run.task).poll(cx) {
                    let aborted = |error| {
                        // It may have been committing.
                        Err(Error::new(Class::Unknown, format!("the backup of {dataset} was aborted"))
                            .because(error)
                            .hint("read the log of lifeboatd, then run it again"))
                    };
                    return Poll::Ready(RunEvent::Ended(dataset.clone(), Box::new(ended.unwrap_or_else(aborted))));
                }
            }
            match backed_up.poll_next_unpin(cx) {
                Poll::Ready(Some(dataset)) => Poll::Ready(RunEvent::BackedUp(dataset)),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// The run of `dataset` prunes from now on.
    pub(crate) fn prunes(&mut self, dataset: &Name, now: DateTime<Utc>) {
        if let Some(run) = self.0.get_mut(dataset) {
            run.prunes_since = Some(now);
        }
    }

    /// Ends the prunes that are in the way: those of datasets that `is_wanted` tells, to whom it is
    /// told since when each of them prunes.
    pub(crate) fn make_way(&self, is_wanted: impl Fn(&Name, DateTime<Utc>) -> bool) {
        for (dataset, run) in &self.0 {
            if run.prunes_since.is_some_and(|since| is_wanted(dataset, since)) && !run.stop.prune.is_cancelled() {
                tracing::info!(%dataset, "the prune ends, because the next backup starts");
                run.stop.prune.cancel();
            }
        }
    }

    /// Cancels the run of `dataset`, or its prune, for an operator, who gets the answer when it has
    /// ended. Gives him back if nothing runs.
    pub(crate) fn cancel(
        &mut self,
        dataset: &Name,
        answer: oneshot::Sender<Answer>,
    ) -> Option<oneshot::Sender<Answer>> {
        let Some(run) = self.0.get_mut(dataset) else { return Some(answer) };
        if run.prunes_since.is_some() {
            run.stop.prune.cancel();
            run.cancelling.push(answer);
        } else if run.commits() {
            let error = Error::failed(format!("the commit of the backup of {dataset} has begun, and is finished"));
            let _ = answer.send(error.hint(format!("run `lifeboat list {dataset}` to see the snapshot")).into());
        } else {
            run.stop.for_operator();
            run.cancelling.push(answer);
        }
        None
    }

    /// Cancels all, because the daemon ends.
    pub(crate) fn cancel_all(&self) {
        self.0.values().for_each(|run| run.stop.token.cancel());
    }

    pub(crate) fn abort_all(&self) {
        self.0.values().for_each(|run| run.task.abort());
    }

    /// Whether one of them commits.
    pub(crate) fn commit(&self) -> bool {
        self.0.values().any(Run::commits)
    }

    /// As the endpoints show them.
    pub(crate) fn shown(&self) -> Vec<RunningBackup> {
        let shown = |(dataset, run): (&Name, &Run)| RunningBackup {
            dataset: dataset.clone(),
            since: run.since,
            progress: run.progress.clone(),
            prunes_since: run.prunes_since,
        };
        self.0.iter().map(shown).collect()
    }

    /// In a line for systemd.
    pub(crate) fn line(&self) -> String {
        let each = self.0.iter().map(|(dataset, Run { progress, prunes_since, .. })| {
            let bytes = |count: &std::sync::atomic::AtomicU64| words::bytes(count.load(Ordering::Relaxed));
            match prunes_since {
                Some(_) => format!("{dataset}: prunes"),
                None => format!("{dataset}: {} read, {} stored", bytes(&progress.read), bytes(&progress.stored)),
            }
        });
        format!("Backing up {}", each.collect::<Vec<_>>().join("; "))
    }
}
