//! What is wrong, since when and until when. A restore may fail only if something explains it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One way to disturb. Stores are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server is killed, and started again later.
    StoreKilled(usize),
    /// Connections are accepted, and nothing is answered.
    StoreHung(usize),
    /// Every request is answered with `SlowDown`.
    StoreThrottled(usize),
    /// Each answer comes later.
    StoreSlow(usize),
    /// Nothing can be written.
    StoreFull(usize),
    /// The directory is not there, as if it were not mounted.
    DirectoryAway,
    /// The file of a dataset is not there.
    SourceAway(usize),
    /// SIGKILL.
    DaemonKilled,
    /// SIGTERM, and a start some seconds later.
    DaemonEnded,
    /// SIGSTOP, and SIGCONT later.
    DaemonStopped,
    /// SIGHUP, with a configuration that is valid or not.
    DaemonReloaded,
    /// No room in the state directory.
    StateFull,
    /// No descriptor is left.
    NoDescriptors,
    /// The daemon's clock is wrong by so many seconds.
    ClockWrong(i64),
}

impl Trouble {
    /// The replica that is disturbed.
    pub(crate) fn replica(self) -> Option<usize> {
        match self {
            Self::StoreKilled(store)
            | Self::StoreHung(store)
            | Self::StoreThrottled(store)
            | Self::StoreSlow(store)
            | Self::StoreFull(store) => Some(store),
            Self::DirectoryAway => Some(2),
            _ => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A trouble in its time, in seconds since 1970. What goes on ends never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) trouble: Trouble,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// All troubles so far.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    spans: Mutex<Vec<Span>>,
}

impl Troubles {
    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It begins now. Returns its number.
    pub(crate) fn begin(&self, trouble: Trouble) -> usize {
        crate::say(&format!("{trouble} begins"));
        let mut spans = self.spans();
        spans.push(Span { trouble, from: crate::now(), to: f64::INFINITY });
        spans.len() - 1
    }

    /// It is over now.
    pub(crate) fn end(&self, number: usize) {
        if let Some(span) = self.spans().get_mut(number) {
            span.to = crate::now();
        }
    }

    /// Those that were under way at any moment of this time, or ended at most `after` seconds
    /// before it.
    pub(crate) fn within(&self, from: f64, to: f64, after: f64) -> Vec<Span> {
        self.spans().iter().filter(|span| span.from <= to && span.to + after >= from).copied().collect()
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.spans().len()
    }

    /// By how much a time that the daemon told may be later than the true one, at most.
    pub(crate) fn most_ahead(&self, told: f64) -> f64 {
        let ahead = |span: &Span| match span.trouble {
            // The library looks once a second at what time it should tell.
            Trouble::ClockWrong(seconds) => {
                let seconds = seconds as f64;
                (span.from - 3.0 <= told - seconds && told - seconds <= span.to + 3.0).then_some(seconds)
            }
            _ => None,
        };
        self.spans().iter().filter_map(ahead).fold(0.0, f64::max)
    }
}
