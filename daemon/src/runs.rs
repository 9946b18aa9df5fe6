//! The runs under way, one for each dataset at most.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use chrono::{DateTime, Utc};
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
    pub task: JoinHandle<Result<Ended>>,
    /// Who waits for its report.
    pub waiting: Vec<oneshot::Sender<Answer>>,
    /// Who asked to cancel it.
    pub cancelling: Vec<oneshot::Sender<Answer>>,
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

    /// The end of one of them, which is to be removed then. Never, if there is none.
    pub(crate) async fn end(&mut self) -> (Name, Result<Ended>) {
        std::future::poll_fn(|cx| {
            for (dataset, run) in &mut self.0 {
                if let Poll::Ready(ended) = Pin::new(&mut run.task).poll(cx) {
                    let aborted = |error| {
                        // It may have been committing.
                        Err(Error::new(Class::Unknown, format!("the backup of {dataset} was aborted"))
                            .because(error)
                            .hint("read the log of lifeboatd, then run it again"))
                    };
                    return Poll::Ready((dataset.clone(), ended.unwrap_or_else(aborted)));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Cancels the run of `dataset` for an operator, who gets the answer when it has ended. Gives
    /// him back if nothing runs.
    pub(crate) fn cancel(
        &mut self,
        dataset: &Name,
        answer: oneshot::Sender<Answer>,
    ) -> Option<oneshot::Sender<Answer>> {
        let Some(run) = self.0.get_mut(dataset) else { return Some(answer) };
        if run.commits() {
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
        };
        self.0.iter().map(shown).collect()
    }

    /// In a line for systemd.
    pub(crate) fn line(&self) -> String {
        let each = self.0.iter().map(|(dataset, Run { progress, .. })| {
            let bytes = |count: &std::sync::atomic::AtomicU64| words::bytes(count.load(Ordering::Relaxed));
            format!("{dataset}: {} read, {} stored", bytes(&progress.read), bytes(&progress.stored))
        });
        format!("Backing up {}", each.collect::<Vec<_>>().join("; "))
    }
}
