//! A progress bar on a terminal; elsewhere nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_engine::base::escape;
use tokio_util::task::AbortOnDropHandle;

/// Shows how far a counter of bytes is, until it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
    _follow: AbortOnDropHandle<()>,
}

impl Progress {
    /// Follows `delivered` up to `total` bytes. Draws on standard error, and only if that is a
    /// terminal.
    pub(crate) fn follow(delivered: Arc<AtomicU64>, total: u64, what: &str) -> Self {
        let bar = ProgressBar::new(total);
        let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(escape::line(what).into_owned());
        let followed = bar.clone();
        let follow = tokio::spawn(async move {
            loop {
                // A snapshot whose streams are read twice must not run past its end.
                followed.set_position(delivered.load(Ordering::Relaxed).min(total));
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self { bar, _follow: AbortOnDropHandle::new(follow) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
