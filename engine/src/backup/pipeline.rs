//! The pipeline of one run: stream writers, which hash → chunk and identify → look for rows →
//! compress → pack and encrypt → upload.
//!
//! - **Threads**: two for each stream that is open (chunk and identify:
//!   [`sequence`](crate::backup::sequence); look for rows: [`dedup`](crate::backup::dedup)),
//!   `limits.cpu` that compress, one that packs and encrypts ([`packer`](crate::backup::packer));
//!   the source's pipe and the uploads are tokio's.
//! - **Order**: a stream's chunks reach the packer in the stream's order, so its extents are in
//!   order. Streams that are open one after the other fill packs one after the other; those open at
//!   once have a pack each, while there are enough.
//! - **Bounds**: blocks of streams, frames and packs lie in buffers of three pools. Their shares of
//!   `limits.memory` are fixed in `shared.rs`; whoever is faster waits for a buffer. New rows among
//!   old ones are collected beside them, up to a chunk and half a MiB a stream.
//! - **Failure**: the first error cancels the run's token; everybody else stops at the next step.

use std::sync::Arc;

use lifeboat_base::{Class, Context, Result};
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::intake::{Intake, Sink};
use super::messages::Captured;
use super::packer::Packer;
use super::shared::Shared;

/// Chunks of all streams that wait to be packed.
const CHUNKS_AHEAD: usize = 32;

/// Takes the streams of a run. [`Pipeline::finish`] gives what came of them.
pub(crate) struct Pipeline {
    intake: Arc<Intake>,
    packer: tokio::task::JoinHandle<Result<Captured>>,
    /// Stops the threads, also when the run's future is dropped.
    stop: DropGuard,
}

impl Pipeline {
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let (items, received) = mpsc::channel(CHUNKS_AHEAD);
        let stop = shared.cancel.clone().drop_guard();
        let packer = Packer::new(shared.clone());
        let packer = tokio::task::spawn_blocking(move || packer.run(received));
        Self { intake: Arc::new(Intake::start(shared, items)), packer, stop }
    }

    pub(crate) fn sink(&self) -> Sink {
        Sink(self.intake.clone())
    }

    /// Waits until everything is packed and durable.
    ///
    /// # Errors
    /// The first failure of any stage; or a stream that was opened and not finished.
    pub(crate) async fn finish(self) -> Result<Captured> {
        drop(self.intake);
        let captured = self.packer.await.context(Class::Failed, || "the packer stopped")?;
        self.stop.disarm();
        captured
    }
}
