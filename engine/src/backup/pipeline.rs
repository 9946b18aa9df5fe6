//! The pipeline of one run: write and hash streams → chunk and identify → deduplicate → compress →
//! pack and encrypt → upload.
//!
//! - **Threads**: each open stream has two. One cuts and identifies
//!   ([`sequence`](crate::backup::sequence)), the other deduplicates
//!   ([`dedup`](crate::backup::dedup)). `limits.cpu` threads compress, and one packs and encrypts
//!   ([`packer`](crate::backup::packer)). Tokio reads the source's pipe and uploads.
//! - **Order**: a stream's chunks reach the packer in the stream's order, so its extents are in
//!   order. Streams that are open one after the other fill packs one after the other. Streams that
//!   are open at once fill a pack each, as long as there are enough packs.
//! - **Bounds**: blocks of streams, frames and packs lie in buffers of three pools. Their shares of
//!   `limits.memory` are fixed in `shared.rs`. The faster stage waits for a buffer. New rows among
//!   old ones are collected outside the pools, up to one chunk and half a MiB for each stream.
//! - **Failure**: the first error cancels the run's token. All other stages stop at the next step.

use std::sync::Arc;

use lifeboat_base::{Class, Context, Result};
use lifeboat_databases::SharedMoment;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::intake::{Intake, Sink};
use super::messages::Captured;
use super::packer::Packer;
use super::shared::Shared;

/// How many messages of all streams may wait for the packer.
const CHUNKS_AHEAD: usize = 32;

/// Takes the streams of a run. [`Pipeline::finish`] returns the result.
pub(crate) struct Pipeline {
    intake: Arc<Intake>,
    packer: tokio::task::JoinHandle<Result<Captured>>,
    /// Stops the threads when it is dropped, even if the run's future is dropped.
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

    pub(crate) fn sink(&self, moment: SharedMoment) -> Sink {
        Sink { intake: self.intake.clone(), moment }
    }

    /// Waits until everything is packed and durable.
    ///
    /// # Errors
    /// The first failure of any stage; [`Class::Source`] if a stream was opened but not finished.
    pub(crate) async fn finish(self) -> Result<Captured> {
        drop(self.intake);
        let captured = self.packer.await.context(Class::Failed, || "the packer thread failed")?;
        self.stop.disarm();
        captured
    }
}
