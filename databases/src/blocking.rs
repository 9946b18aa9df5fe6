//! Stored streams for threads that wait for their bytes.

use std::io::Read;

use bytes::{Buf, Bytes};
use lifeboat_base::{Class, Context, Error, Result};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::database::WorkContext;
use crate::streams::StreamReader;

/// The bytes of a stored stream. Its error is an [`Error`] of ours inside of an I/O error.
pub(crate) struct StreamBytes {
    stream: Box<dyn StreamReader>,
    runtime: Handle,
    piece: Bytes,
}

impl StreamBytes {
    /// It waits on the runtime that it is made on.
    pub(crate) fn of(stream: Box<dyn StreamReader>) -> Self {
        Self { stream, runtime: Handle::current(), piece: Bytes::new() }
    }
}

impl Read for StreamBytes {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.stream.next()).map_err(std::io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

/// Bytes that end with an error once the work was cancelled.
pub(crate) struct Stoppable<R> {
    from: R,
    stop: CancellationToken,
    /// What is cancelled then, for people.
    work: &'static str,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.stop.is_cancelled() {
            true => Err(std::io::Error::other(Error::cancelled(self.work))),
            false => self.from.read(into),
        }
    }
}

/// Reads `from` on a thread that may wait. It stops when `work` is cancelled, or this future is
/// dropped.
pub(crate) async fn read_apart<R: Read + Send + 'static, T: Send + 'static>(
    from: R,
    work: &'static str,
    cx: &WorkContext,
    read: impl FnOnce(Stoppable<R>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let stop = cx.cancel.child_token();
    let _stops_when_dropped = stop.clone().drop_guard();
    let from = Stoppable { from, stop, work };
    tokio::task::spawn_blocking(move || read(from)).await.context(Class::Failed, || "a worker thread failed")?
}
