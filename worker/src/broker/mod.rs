//! The side that holds the keys: it starts a worker, gives it streams, and bounds what it believes.
//!
//! - **Order**: one request at a time. While it waits for the reply, it feeds the streams that the
//!   worker opens.
//! - **Bounds**: a worker that does not listen, or is silent for [`MAX_SILENCE`], is an error.
//! - **Cancellation**: when the token fires, the worker is told, and has [`CANCEL_GRACE`] to clean
//!   up and to answer. When the broker is dropped, the worker sees the end of its socket.

mod feed;
pub(crate) mod place;
mod queue;
pub(crate) mod server;
pub(crate) mod throw_away;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lifeboat_base::{Error, Result};
use lifeboat_databases::WorkContext;
use lifeboat_databases::streams::StoredStreams;
use tokio_util::sync::CancellationToken;

use self::place::{Connection, Guard, WorkerPlace};
use crate::protocol::{Confinement, Job, Reply, Request, Variables, WireError, Work};

/// What a worker has to clean up once it was told to stop.
const CANCEL_GRACE: Duration = Duration::from_secs(60);
/// A load may build an index, or a check read a table, for long without a word.
const MAX_SILENCE: Duration = Duration::from_secs(3 * 86_400);
/// No worker reads more streams at once.
const MAX_READERS: usize = 256;

/// A worker with a job.
pub(crate) struct Worker {
    connection: Connection,
    cancel: CancellationToken,
    /// The streams that this broker read to their checked ends.
    delivered: BTreeSet<String>,
    /// Why a stream could not be read to its end: the first such error.
    broken: Option<Error>,
}

impl Worker {
    /// Starts a worker at `place` on `work` with a snapshot.
    pub(crate) async fn start(
        place: &WorkerPlace,
        work: Work,
        streams: &dyn StoredStreams,
        cx: &WorkContext,
    ) -> Result<Self> {
        let (connection, scratch) = place.connect(&cx.scratch).await?;
        let (names, left_out) = (streams.names(), streams.left_out());
        let job = Job {
            work,
            facts: streams.facts().clone(),
            streams: names.into_iter().map(|name| (name.clone(), streams.length(&name))).collect(),
            left_out,
            stall: cx.stall,
            jobs: cx.jobs,
            environment: Variables::of(&cx.environment),
            scratch,
        };
        let (delivered, broken) = (BTreeSet::new(), None);
        let mut worker = Self { connection, cancel: cx.cancel.clone(), delivered, broken };
        worker.connection.queue.say(&job, None)?;
        let Reply::Confined(confinement) = worker.ask(None, None).await? else { return Err(out_of_turn()) };
        worker.connection.heard = true;
        tell(&place.guard(), confinement);
        Ok(worker)
    }

    /// Sends `request`, if there is one, and feeds the streams that the worker opens until it
    /// replies.
    ///
    /// # Errors
    /// What failed in the worker; if a stream could not be read, why. The worker ended, said what
    /// nobody understands, or was cancelled and did not answer in time.
    pub(crate) async fn ask(
        &mut self,
        request: Option<&Request>,
        streams: Option<&dyn StoredStreams>,
    ) -> Result<Reply> {
        if let Some(request) = request {
            self.connection.queue.say(request, None)?;
        }
        // Before those who count in it.
        let fed = AtomicU64::new(0);
        let mut feeding = FuturesUnordered::new();
        let (mut deadline, mut fed_before) = (None, 0);
        let cancel = self.cancel.clone();
        loop {
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                reply = self.connection.receiver.next::<Reply>() => match reply {
                    Ok(Some(Reply::Open { reader, stream })) => {
                        let Some(streams) = streams.filter(|_| feeding.len() < MAX_READERS) else {
                            return Err(Error::failed("the worker opens a stream out of turn"));
                        };
                        let (pipe, end) = feed::pipe()?;
                        self.connection.queue.say(&Request::Opened { reader }, Some(end))?;
                        let fed = &fed;
                        feeding.push(async move { (reader, feed::feed(streams, &stream, pipe, fed).await, stream) });
                    }
                    Ok(Some(Reply::Failed(error))) => return Err(self.broken.take().unwrap_or_else(|| error.into())),
                    Ok(Some(reply)) => return Ok(reply),
                    Ok(None) => return Err(self.gone(None).await),
                    Err(error) => return Err(self.gone(Some(error)).await),
                },
                Some((reader, fed, stream)) = feeding.next(), if !feeding.is_empty() => {
                    let result = match fed {
                        Ok(feed::Fed { bytes, complete }) => {
                            if complete {
                                self.delivered.insert(stream);
                            }
                            Ok(bytes)
                        }
                        Err(error) => {
                            let told = WireError::from(&error);
                            self.broken.get_or_insert(error);
                            Err(told)
                        }
                    };
                    self.connection.queue.say(&Request::Ended { reader, result }, None)?;
                }
                () = cancel.cancelled(), if deadline.is_none() => {
                    deadline = Some(tokio::time::Instant::now() + CANCEL_GRACE);
                    self.connection.queue.say(&Request::Cancel, None)?;
                }
                () = tokio::time::sleep(MAX_SILENCE) => {
                    let now = fed.load(Ordering::Relaxed);
                    if now == fed_before {
                        return Err(Error::failed(format!("the worker neither read nor said anything for {MAX_SILENCE:?}")));
                    }
                    fed_before = now;
                }
                () = late => return Err(Error::cancelled("the work with the database")),
            }
        }
    }

    /// Whether this broker has read `stream` to its checked end.
    pub(crate) fn has_delivered(&self, stream: &str) -> bool {
        self.delivered.contains(stream)
    }

    /// Why it ended without an answer.
    async fn gone(&mut self, error: Option<Error>) -> Error {
        let gone = self.connection.gone(error).await;
        self.broken.take().unwrap_or(gone)
    }

    /// Waits for the worker's end.
    pub(crate) async fn end(self) {
        self.connection.end().await;
    }
}

/// Says in the log what stands between the worker and the keys.
fn tell(guard: &Guard, confinement: Confinement) {
    match missing(confinement) {
        None => tracing::info!(%guard, "the work with the database runs apart from the keys"),
        Some(missing) => {
            tracing::warn!(%guard, "{missing} be used here, which would keep the work with the database from the keys");
        }
    }
}

/// What of the sandbox the worker lacks.
fn missing(Confinement { files, calls }: Confinement) -> Option<&'static str> {
    match (files, calls) {
        (true, true) => None,
        (true, false) => Some("seccomp cannot"),
        (false, true) => Some("Landlock cannot"),
        (false, false) => Some("neither Landlock nor seccomp can"),
    }
}

/// The error for a reply that answers another question.
pub(crate) fn out_of_turn() -> Error {
    Error::failed("the worker gave an answer that was not asked for")
        .hint("install lifeboat and lifeboat-worker of the same version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named() {
        let told = |files, calls| missing(Confinement { files, calls }).unwrap_or_default();
        for (files, calls, landlock, seccomp) in [
            (true, true, false, false),
            (true, false, false, true),
            (false, true, true, false),
            (false, false, true, true),
        ] {
            let told = told(files, calls);
            assert_eq!((told.contains("Landlock"), told.contains("seccomp")), (landlock, seccomp), "{told}");
        }
    }
}
