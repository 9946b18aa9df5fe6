//! What the broker still has to say to a worker.
//!
//! A worker that does not listen must not hold the broker up: a task of its own speaks, and a
//! message that finds no room is an error.

use std::os::fd::{AsFd, OwnedFd};

use lifeboat_base::{Error, Result};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use crate::channel::{Sender, encode};

/// Two messages for each reader, and a few more.
const MAX_UNSAID: usize = 1024;

struct Unsaid {
    bytes: Zeroizing<Vec<u8>>,
    descriptor: Option<OwnedFd>,
}

/// Messages on their way to a worker, in order.
pub(crate) struct Queue {
    unsaid: mpsc::Sender<Unsaid>,
    _speaking: AbortOnDropHandle<()>,
}

impl Queue {
    pub(crate) fn new(mut sender: Sender) -> Self {
        let (unsaid, mut coming) = mpsc::channel::<Unsaid>(MAX_UNSAID);
        let speaking = tokio::spawn(async move {
            while let Some(Unsaid { bytes, descriptor }) = coming.recv().await {
                // A worker that is gone is met by whoever listens to it.
                if sender.write(&bytes, descriptor.as_ref().map(AsFd::as_fd)).await.is_err() {
                    return;
                }
            }
        });
        Self { unsaid, _speaking: AbortOnDropHandle::new(speaking) }
    }

    /// Says one message, and gives a descriptor with it.
    ///
    /// # Errors
    /// Too much is unsaid. A worker that is gone is no error here.
    pub(crate) fn say(&self, message: &impl Serialize, descriptor: Option<OwnedFd>) -> Result<()> {
        match self.unsaid.try_send(Unsaid { bytes: encode(message)?, descriptor }) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::failed("the worker does not listen")),
            _ => Ok(()),
        }
    }
}
