//! Sends chunks on to compression and to the packer, in the order of each stream.

use std::sync::{Arc, Mutex, PoisonError, mpsc as jobs};

use lifeboat_base::Result;
use tokio::sync::mpsc;

use super::messages::{Item, Job, stopped};
use super::shared::Shared;

/// The way out of the stages that cut and deduplicate.
pub(crate) struct Outbox {
    pub(crate) shared: Arc<Shared>,
    items: mpsc::Sender<Item>,
    jobs: jobs::Sender<Job>,
    /// Held while an item is decided and sent.
    order: Mutex<()>,
}

impl Outbox {
    pub(crate) fn new(shared: Arc<Shared>, items: mpsc::Sender<Item>, jobs: jobs::Sender<Job>) -> Self {
        Self { shared, items, jobs, order: Mutex::default() }
    }

    /// Sends the result of `item` to the packer, once there is room. While `item` runs, nobody else
    /// sends.
    pub(crate) fn send(&self, item: impl FnOnce() -> Item) -> Result<()> {
        let place = tokio::runtime::Handle::current().block_on(self.items.reserve()).map_err(|_| stopped())?;
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        place.send(item());
        Ok(())
    }

    /// Has a chunk compressed. The pool of frames bounds the number of jobs.
    pub(crate) fn compress(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| stopped())
    }
}
