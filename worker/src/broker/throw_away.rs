//! A throw-away database in a worker.
//!
//! **A listing that is broken off** is drained before its error is told, so that its rest answers
//! no later question. A worker that does not end it in time is asked nothing more.

use std::time::Duration;

use async_trait::async_trait;
use lifeboat_base::{Error, Result};
use lifeboat_databases::proof::{CheckResult, DrillQuery, ProofResult};
use lifeboat_databases::streams::StoredStreams;
use lifeboat_databases::{ListedItem, Listing, MAX_ITEM_BYTES, ServerAddress, ThrowAway, WorkContext};
use tokio::sync::mpsc;

use super::place::WorkerPlace;
use super::{Worker, out_of_turn};
use crate::protocol::{DrillTools, Reply, Request, Started, Work};

/// A version is published, so no more of it is believed, and only letters that versions have.
const MAX_VERSION_BYTES: usize = 40;
/// So long a worker may go on sending what nobody wants any more.
const MAX_DRAIN: Duration = Duration::from_secs(60);

/// Starts a throw-away database for the snapshot in a worker at `place`. `None` if its engine has
/// none.
///
/// # Errors
/// As `Database::throw_away`; or there is no worker, or the snapshot's engine is unknown to it.
pub async fn throw_away(
    place: &WorkerPlace,
    streams: &dyn StoredStreams,
    tools: DrillTools,
    cx: &WorkContext,
) -> Result<Option<Box<dyn ThrowAway>>> {
    let mut worker = Worker::start(place, Work::Drill(tools), streams, cx).await?;
    match worker.ask(None, None).await? {
        Reply::Started(mut started) => {
            started.server_version.retain(|letter| letter.is_ascii_alphanumeric() || " .+~()-".contains(letter));
            started.server_version.truncate(MAX_VERSION_BYTES);
            Ok(Some(Box::new(ThrowAwayByWorker { worker, started, is_out_of_step: false })))
        }
        Reply::NoThrowAway => {
            worker.end().await;
            Ok(None)
        }
        _ => Err(out_of_turn()),
    }
}

struct ThrowAwayByWorker {
    worker: Worker,
    started: Started,
    /// Whether its next reply may answer an earlier request.
    is_out_of_step: bool,
}

impl ThrowAwayByWorker {
    async fn request(&mut self, request: &Request, streams: Option<&dyn StoredStreams>) -> Result<Reply> {
        if self.is_out_of_step {
            return Err(Error::failed(
                "the worker did not end a listing that was broken off, so it is asked nothing more",
            ));
        }
        self.worker.ask(Some(request), streams).await
    }

    /// Passes on what the worker lists, from `reply` on.
    async fn pass_on(&mut self, mut reply: Reply, to: &mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
        loop {
            match reply {
                // Without an item, it could go on for ever.
                Reply::Items(items) if !items.is_empty() => {
                    let items = items.iter().map(|item| item.as_deref().map(bytes_of).transpose());
                    let items = items.collect::<Result<Vec<ListedItem>>>()?;
                    to.send(items).await.map_err(|_| Error::cancelled("the listing"))?;
                }
                Reply::Listed => {
                    self.is_out_of_step = false;
                    return Ok(());
                }
                _ => return Err(out_of_turn()),
            }
            reply = self.next_reply().await?;
        }
    }

    /// The next reply to a listing. Where it is an error of the worker, that was its last.
    async fn next_reply(&mut self) -> Result<Reply> {
        self.worker.ask(None, None).await.inspect_err(|_| self.is_out_of_step = false)
    }

    /// Reads the rest of a listing that nobody wants any more.
    async fn drain(&mut self) -> Result<()> {
        let mut reply = self.worker.ask(Some(&Request::Enough), None).await;
        while let Ok(Reply::Items(_)) = reply {
            reply = self.worker.ask(None, None).await;
        }
        match reply {
            Ok(Reply::Listed) | Err(_) => Ok(()),
            Ok(_) => Err(out_of_turn()),
        }
    }
}

#[async_trait]
impl ThrowAway for ThrowAwayByWorker {
    fn server_version(&self) -> &str {
        &self.started.server_version
    }

    fn address(&self) -> Option<ServerAddress> {
        self.started.address.clone()
    }

    async fn load(&mut self, streams: &dyn StoredStreams) -> Result<()> {
        let Reply::Loaded = self.request(&Request::Load, Some(streams)).await? else {
            return Err(out_of_turn());
        };
        match streams.names().iter().find(|name| !self.worker.has_delivered(name)) {
            Some(missing) => {
                Err(Error::integrity(format!("the worker did not read the stream `{missing}` to its end")))
            }
            None => Ok(()),
        }
    }

    async fn check(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        match self.request(&Request::Check { queries: queries.to_vec() }, None).await? {
            Reply::Checked(results) => Ok(results),
            _ => Err(out_of_turn()),
        }
    }

    async fn ask(&mut self, queries: &[DrillQuery]) -> Result<Vec<CheckResult>> {
        match self.request(&Request::Ask { queries: queries.to_vec() }, None).await? {
            Reply::Checked(results) => Ok(results),
            _ => Err(out_of_turn()),
        }
    }

    async fn prove(&mut self, streams: &dyn StoredStreams) -> Result<ProofResult> {
        match self.request(&Request::Prove, Some(streams)).await? {
            Reply::Proved(proof) => Ok(proof),
            _ => Err(out_of_turn()),
        }
    }

    async fn list(&mut self, listing: &Listing, to: mpsc::Sender<Vec<ListedItem>>) -> Result<()> {
        let reply = self.request(&Request::List(listing.clone()), None).await?;
        self.is_out_of_step = true;
        let passed_on = self.pass_on(reply, &to).await;
        // Whoever waits for items hears of the end before the rest is read.
        drop(to);
        if self.is_out_of_step {
            self.is_out_of_step = !matches!(tokio::time::timeout(MAX_DRAIN, self.drain()).await, Ok(Ok(())));
        }
        passed_on
    }

    async fn stop(mut self: Box<Self>) -> Result<()> {
        let stopped = match self.request(&Request::Stop, None).await {
            Ok(Reply::Stopped) => Ok(()),
            Ok(_) => Err(out_of_turn()),
            Err(error) => Err(error),
        };
        self.worker.end().await;
        stopped
    }
}

/// The bytes of an item.
fn bytes_of(item: &str) -> Result<Vec<u8>> {
    let bytes: Option<Vec<u8>> = item.chars().map(|letter| u8::try_from(letter).ok()).collect();
    bytes.filter(|bytes| bytes.len() <= MAX_ITEM_BYTES).ok_or_else(out_of_turn)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::serve::item_text;

    #[test]
    fn an_item_survives_whatever_its_bytes_are_and_none_is_believed_that_is_too_long() {
        let all: Vec<u8> = (0..=255).collect();
        let json = serde_json::to_string(&Reply::Items(vec![Some(item_text(&all)), None])).unwrap();
        let Reply::Items(items) = serde_json::from_str(&json).unwrap() else { panic!("{json}") };
        assert_eq!((bytes_of(items[0].as_deref().unwrap()).unwrap(), &items[1]), (all, &None));
        assert!(bytes_of("\u{100}").is_err() && bytes_of(&"x".repeat(MAX_ITEM_BYTES + 1)).is_err());
    }
}
