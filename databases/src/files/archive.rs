//! The streams of a capture, for the thread that reads the tree.
//!
//! That thread waits for files, and the sink is elsewhere. So the thread asks, and whoever has the
//! sink answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_base::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::streams::{StreamFingerprint, StreamSink, StreamWriter};

/// What the sink is asked for.
pub(super) enum Ask {
    Open { name: String, answer: Answer<Box<dyn StreamWriter>> },
    TakeOver { name: String, fingerprint: StreamFingerprint, answer: Answer<Option<u64>> },
    Finish { name: String, stream: Box<dyn StreamWriter>, fingerprint: Option<StreamFingerprint>, answer: Answer<()> },
}

type Answer<T> = oneshot::Sender<Result<T>>;

impl Ask {
    /// Whoever does not wait for the answer any more has failed.
    pub(super) async fn answer(self, sink: &dyn StreamSink) {
        match self {
            Self::Open { name, answer } => _ = answer.send(sink.open(&name)),
            Self::TakeOver { name, fingerprint, answer } => _ = answer.send(sink.take_over(&name, &fingerprint).await),
            Self::Finish { name, stream, fingerprint, answer } => {
                let finished = stream.finish(0).await;
                if let Some(fingerprint) = fingerprint.filter(|_| finished.is_ok()) {
                    sink.fingerprint(&name, fingerprint);
                }
                let _ = answer.send(finished);
            }
        }
    }
}

/// The streams of one capture, one after the other.
pub(super) struct Archive {
    stream: Option<(String, Box<dyn StreamWriter>)>,
    asks: mpsc::Sender<Ask>,
    runtime: Handle,
    pub(super) progress: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Archive {
    /// It waits on the runtime that it is made on.
    pub(super) fn new(asks: mpsc::Sender<Ask>, stop: CancellationToken) -> Self {
        Self { stream: None, asks, runtime: Handle::current(), progress: Arc::default(), stop }
    }

    /// With this stream.
    #[cfg(test)]
    pub(super) fn of(stream: Box<dyn StreamWriter>, stop: CancellationToken) -> Self {
        Self { stream: Some((String::new(), stream)), ..Self::new(mpsc::channel(1).0, stop) }
    }

    fn ask<T>(&self, ask: impl FnOnce(Answer<T>) -> Ask) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let waiting = async {
            self.asks.send(ask(answer)).await.ok()?;
            answered.await.ok()
        };
        self.runtime.block_on(waiting).unwrap_or_else(|| Err(Error::cancelled("the capture")))
    }

    /// Begins a stream. The one before must have ended.
    pub(super) fn begin(&mut self, name: String) -> Result<()> {
        let stream = self.ask(|answer| Ask::Open { name: name.clone(), answer })?;
        self.stream = Some((name, stream));
        Ok(())
    }

    /// Ends the stream. All that `fingerprint` tells of it is in it.
    pub(super) fn end(&mut self, fingerprint: Option<StreamFingerprint>) -> Result<()> {
        let Some((name, stream)) = self.stream.take() else { return Ok(()) };
        self.ask(|answer| Ask::Finish { name, stream, fingerprint, answer })
    }

    /// See [`StreamSink::take_over`].
    pub(super) fn take_over(&self, name: &str, fingerprint: StreamFingerprint) -> Result<Option<u64>> {
        self.ask(|answer| Ask::TakeOver { name: name.to_owned(), fingerprint, answer })
    }

    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let part = self.fill(bytes.len() as u64, |space| {
                space.copy_from_slice(&bytes[..space.len()]);
                Ok(())
            })?;
            bytes = &bytes[part..];
        }
        Ok(())
    }

    /// Lets `fill` write the next bytes, at most so many, and tells how many there were.
    pub(super) fn fill(&mut self, most: u64, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<usize> {
        if self.stop.is_cancelled() {
            return Err(Error::cancelled("the capture"));
        }
        let Some((_, stream)) = &mut self.stream else { return Err(Error::failed("no stream was begun")) };
        let space = self.runtime.block_on(stream.space())?;
        let part = usize::try_from(most).unwrap_or(usize::MAX).min(space.len());
        fill(&mut space[..part])?;
        self.runtime.block_on(stream.filled(part))?;
        self.progress.fetch_add(part as u64, Ordering::Relaxed);
        Ok(part)
    }
}
