//! Gives one stream to a worker, through a pipe.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_base::{Class, Context, Result};
use lifeboat_databases::streams::StoredStreams;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender as PipeSender;

/// The largest pipe that Linux gives to everybody.
const STREAM_PIPE_BYTES: usize = 1 << 20;

/// A pipe: the end that is written to, and the end for the worker.
pub(crate) fn pipe() -> Result<(PipeSender, OwnedFd)> {
    let failed = || "cannot make a pipe to the worker";
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).context(Class::Failed, failed)?;
    let _ = fcntl_setpipe_size(&write, STREAM_PIPE_BYTES);
    Ok((PipeSender::from_owned_fd(write).context(Class::Failed, failed)?, read))
}

/// What went through a pipe.
pub(crate) struct Fed {
    /// How many bytes.
    pub(crate) bytes: u64,
    /// Whether that is the whole stream, read to its checked end. Otherwise the worker closed its
    /// end of the pipe.
    pub(crate) complete: bool,
}

/// Writes a stream into `pipe`, and counts its bytes in `total`.
///
/// # Errors
/// The stream cannot be read to its checked end.
pub(crate) async fn feed(
    streams: &dyn StoredStreams,
    stream: &str,
    mut pipe: PipeSender,
    total: &AtomicU64,
) -> Result<Fed> {
    let mut reader = streams.open(stream).await?;
    let mut bytes = 0;
    while let Some(piece) = reader.next().await? {
        if pipe.write_all(&piece).await.is_err() {
            return Ok(Fed { bytes, complete: false });
        }
        bytes += piece.len() as u64;
        total.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(Fed { bytes, complete: true })
}
