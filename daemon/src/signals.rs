//! The signals that the daemon obeys.

use lifeboat_engine::base::{Class, Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal tells the daemon.
pub(crate) enum Told {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that the daemon obeys.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they no longer end the program.
    ///
    /// # Errors
    /// [`Class::Failed`]: the system refuses.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context(Class::Failed, || "cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// Waits until one asks to stop.
    pub(crate) async fn stop(&mut self) {
        tokio::select! { _ = self.terminate.recv() => {}, _ = self.interrupt.recv() => {} }
    }
}
