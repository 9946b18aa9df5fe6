//! Lets a blocking thread wait for the pacer.
//!
//! The thread asks for leave, and the call that it works for waits for the pacer in its place. So
//! the runtime keeps the time. A call that was dropped, or that has passed its deadline, gives no
//! more leave, so its thread ends before the next piece.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use lifeboat_base::buffers::{Buffer, spare};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, spawn_blocking};

use crate::pacer::Pacer;
use crate::waiting::Waiting;

/// Where the thread of one call asks for leave. Without a cap it need not ask.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaves(Option<mpsc::Sender<Ask>>);

#[derive(Debug)]
struct Ask {
    wanted: usize,
    leave: oneshot::Sender<usize>,
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    pacer: Option<&Arc<Pacer>>,
    work: impl FnOnce(Leaves) -> T + Send + 'static,
) -> Result<T, JoinError> {
    let Some(pacer) = pacer else { return spawn_blocking(|| work(Leaves::default())).await };
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    let task = spawn_blocking(|| work(Leaves(Some(asks))));
    let give = async {
        let waiting = Waiting::current();
        while let Some(Ask { wanted, leave }) = asked.recv().await {
            // The thread may be gone.
            let _ = leave.send(pacer.leave(wanted, &waiting).await);
        }
    };
    tokio::join!(task, give).0
}

impl Leaves {
    /// Writes all of `body`.
    pub(super) fn write(&self, file: &mut File, mut body: &[u8]) -> io::Result<()> {
        while !body.is_empty() {
            let (piece, rest) = body.split_at(self.leave(body.len())?);
            file.write_all(piece)?;
            body = rest;
        }
        Ok(())
    }

    /// Reads to the end of the file, which is expected after `announced` bytes. If the file is
    /// longer, one byte more is read.
    pub(super) fn read(&self, file: &mut File, announced: usize) -> io::Result<Buffer> {
        let mut body = spare(announced);
        body.clear();
        while body.len() < announced {
            let leave = self.leave(announced - body.len())?;
            if Read::by_ref(file).take(leave as u64).read_to_end(&mut body)? == 0 {
                break;
            }
        }
        file.take(1).read_to_end(&mut body)?;
        Ok(body)
    }

    fn leave(&self, wanted: usize) -> io::Result<usize> {
        let Some(asks) = &self.0 else { return Ok(wanted) };
        let abandoned = || io::Error::other("the call was given up");
        let (leave, given) = oneshot::channel();
        asks.blocking_send(Ask { wanted, leave }).map_err(|_| abandoned())?;
        given.blocking_recv().map_err(|_| abandoned())
    }
}
