//! Threads for decryption and decompression, as many as `limits.cpu`. They share one queue. A
//! thread that has done its work takes the next piece at once, and no task must be woken for that.

use lifeboat_base::{Class, Context, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// The threads. They are started when there is work.
pub(crate) struct Workers {
    threads: Handle,
    /// A runtime that has no other work than these threads. `None` only while this is dropped.
    runtime: Option<Runtime>,
}

/// Work that can be awaited. If this is dropped and the work has not begun, it is not done.
pub(crate) type Work<T> = AbortOnDropHandle<Result<T>>;

impl Workers {
    /// At most `most` threads, but at least one.
    ///
    /// # Errors
    /// [`Class::Failed`] if the operating system refuses the runtime.
    pub(crate) fn new(most: usize) -> Result<Self> {
        let runtime = Builder::new_current_thread().max_blocking_threads(most.max(1)).thread_name("worker").build();
        let runtime = runtime.context(Class::Failed, || "cannot start the threads of a restore")?;
        Ok(Self { threads: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Adds work to the end of the queue.
    pub(crate) fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Work<T> {
        AbortOnDropHandle::new(self.threads.spawn_blocking(work))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // This does not wait for work that has begun.
            runtime.shutdown_background();
        }
    }
}
