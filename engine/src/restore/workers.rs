//! Threads for decryption and decompression, as many as the configuration allows. Each takes the
//! next piece of work from one queue as soon as it has done one: nobody needs to be woken to give
//! it a turn.

use lifeboat_base::{Class, Context, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// Threads, begun when there is work.
pub(crate) struct Workers {
    threads: Handle,
    /// The threads' own: there is no other work on it. There until this is dropped.
    runtime: Option<Runtime>,
}

/// Work that is awaited; given up, unless it has begun, when this is dropped.
pub(crate) type Work<T> = AbortOnDropHandle<Result<T>>;

impl Workers {
    /// At most so many.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn new(most: usize) -> Result<Self> {
        let runtime = Builder::new_current_thread().max_blocking_threads(most.max(1)).thread_name("worker").build();
        let runtime = runtime.context(Class::Failed, || "cannot begin threads for a restore")?;
        Ok(Self { threads: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Asks for work to be done, after all that was asked for before.
    pub(crate) fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Work<T> {
        AbortOnDropHandle::new(self.threads.spawn_blocking(work))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Work that has begun comes to its end, and nobody waits for it.
            runtime.shutdown_background();
        }
    }
}
