//! Pipes to and from tools, without a wake-up for every few kilobytes.
//!
//! Tools read and write 4 KiB at a time. Whoever is woken for each of them spends more on waking,
//! on both sides, than on the bytes. So we rest for a moment where a pipe has just been filled, or
//! has given little: the tool goes on meanwhile, for a pipe holds more than ordinary tools pass in
//! that time. One that passes more waits for us at times, a millisecond or two.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

/// The largest pipe that Linux gives to everybody.
pub(crate) const PIPE: usize = 1 << 20;
/// A read of less has found the pipe nearly empty.
const LITTLE: usize = 64 << 10;
const REST: Duration = Duration::from_millis(1);

/// A tool's standard input.
pub(crate) struct Filler {
    pipe: ChildStdin,
    /// Bytes that went in since the pipe was full.
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
                    if std::mem::take(&mut self.taken) < PIPE / 2 {
                        tokio::time::sleep(REST).await;
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
    /// The last read found little.
    little: bool,
}

impl Drain {
    pub(crate) fn new(pipe: ChildStdout) -> Self {
        Self { pipe, little: false }
    }

    /// Reads into `space`; 0 at the end. Nothing is lost where this is dropped.
    pub(crate) async fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.rest().await;
        let (most, read) = (space.len(), self.pipe.read(space).await?);
        self.little = read < LITTLE.min(most);
        Ok(read)
    }

    /// As [`Self::read`], behind what is in `buffer`.
    pub(crate) async fn read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.rest().await;
        let read = self.pipe.read_buf(buffer).await?;
        self.little = read < LITTLE;
        Ok(read)
    }

    async fn rest(&self) {
        if self.little {
            tokio::time::sleep(REST).await;
        }
    }
}
