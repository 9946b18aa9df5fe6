//! Pipes to and from tools, without a wake-up for every few kilobytes.
//!
//! Tools read and write 4 KiB at a time. Waking up for each of these costs more, on both sides,
//! than the bytes do. So we pause for a moment after a pipe was full, or gave little. The tool goes
//! on meanwhile, as the pipe holds more than ordinary tools pass in that time. A faster tool waits
//! for us now and then, for a millisecond or two.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

/// The largest pipe that Linux gives to everybody.
pub(crate) const PIPE_BYTES: usize = 1 << 20;
/// A read of less means that the pipe was nearly empty.
const MIN_FULL_READ_BYTES: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(1);

/// A tool's standard input.
pub(crate) struct Filler {
    pipe: ChildStdin,
    /// How many bytes went in since the pipe was full.
    taken: usize,
}

impl Filler {
    pub(crate) fn new(pipe: ChildStdin) -> Self {
        Self { pipe, taken: 0 }
    }

    /// Writes all of `data`.
    pub(crate) async fn write_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let written = match self.pipe.write(data).now_or_never() {
                Some(written) => written?,
                None => {
                    if std::mem::take(&mut self.taken) < PIPE_BYTES / 2 {
                        tokio::time::sleep(PAUSE).await;
                    }
                    self.pipe.write(data).await?
                }
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.taken += written;
            data = &data[written..];
        }
        Ok(())
    }
}

/// A tool's standard output.
pub(crate) struct Drain {
    pipe: ChildStdout,
    /// Whether the last read found little.
    little: bool,
}

impl Drain {
    pub(crate) fn new(pipe: ChildStdout) -> Self {
        Self { pipe, little: false }
    }

    /// Reads into `space`; returns 0 at the end. Dropping the future loses no bytes.
    pub(crate) async fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.rest().await;
        let (most, read) = (space.len(), self.pipe.read(space).await?);
        self.little = read < MIN_FULL_READ_BYTES.min(most);
        Ok(read)
    }

    /// As [`Self::read`], but appends to `buffer`.
    pub(crate) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.rest().await;
        let read = self.pipe.read_buf(buffer).await?;
        self.little = read < MIN_FULL_READ_BYTES;
        Ok(read)
    }

    async fn rest(&self) {
        if self.little {
            tokio::time::sleep(PAUSE).await;
        }
    }
}
