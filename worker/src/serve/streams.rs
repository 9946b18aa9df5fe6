//! The snapshot's streams, as the broker gives them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_base::facts::SourceFacts;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver as PipeReceiver;
use tokio::sync::mpsc;

use super::inbox::{News, Outbox, Readers};
use crate::protocol::Reply;

/// What one read takes at most.
const PIECE_BYTES: usize = 256 << 10;

/// The streams of the job.
pub(super) struct StreamsOfBroker {
    facts: SourceFacts,
    streams: Vec<(String, Option<u64>)>,
    left_out: Vec<String>,
    outbox: Arc<Outbox>,
    readers: Readers,
    next: AtomicU32,
}

impl StreamsOfBroker {
    pub(super) fn new(
        facts: SourceFacts,
        (streams, left_out): (Vec<(String, Option<u64>)>, Vec<String>),
        outbox: Arc<Outbox>,
        readers: Readers,
    ) -> Self {
        Self { facts, streams, left_out, outbox, readers, next: AtomicU32::new(0) }
    }
}

#[async_trait]
impl StoredStreams for StreamsOfBroker {
    fn names(&self) -> Vec<String> {
        self.streams.iter().map(|(name, _)| name.clone()).collect()
    }

    fn length(&self, name: &str) -> Option<u64> {
        self.streams.iter().find(|(stream, _)| stream == name).and_then(|(_, length)| *length)
    }

    fn facts(&self) -> &SourceFacts {
        &self.facts
    }

    fn left_out(&self) -> Vec<String> {
        self.left_out.clone()
    }

    async fn open(&self, name: &str) -> Result<Box<dyn StreamReader>> {
        let reader = self.next.fetch_add(1, Ordering::Relaxed);
        let mut news = self.readers.add(reader);
        self.outbox.send(&Reply::Open { reader, stream: name.to_owned() }).await?;
        match news.recv().await {
            Some(News::Opened(pipe)) => {
                let pipe = PipeReceiver::from_owned_fd(pipe).context(Class::Failed, || "the broker gave no pipe")?;
                Ok(Box::new(ReaderOfBroker { pipe: Some(pipe), news, received: 0, buffer: BytesMut::new() }))
            }
            Some(News::Ended(Err(error))) => Err(error.into()),
            _ => Err(Error::cancelled("reading the snapshot")),
        }
    }
}

struct ReaderOfBroker {
    /// `None` after its end.
    pipe: Option<PipeReceiver>,
    news: mpsc::Receiver<News>,
    received: u64,
    buffer: BytesMut,
}

#[async_trait]
impl StreamReader for ReaderOfBroker {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(pipe) = &mut self.pipe {
            if self.buffer.capacity() < PIECE_BYTES {
                self.buffer.reserve(4 * PIECE_BYTES);
            }
            let read =
                pipe.read_buf(&mut self.buffer).await.context(Class::Failed, || "cannot read from the broker")?;
            if read > 0 {
                self.received += read as u64;
                return Ok(Some(self.buffer.split().freeze()));
            }
            self.pipe = None;
        }
        // The end of the pipe is not yet the end of the stream: only the broker knows whether all
        // of it was there.
        match self.news.recv().await {
            Some(News::Ended(Ok(bytes))) if bytes == self.received => Ok(None),
            Some(News::Ended(Ok(bytes))) => {
                Err(Error::failed(format!("{} of {bytes} bytes came from the broker", self.received)))
            }
            Some(News::Ended(Err(error))) => Err(error.into()),
            _ => Err(Error::cancelled("reading the snapshot")),
        }
    }
}
