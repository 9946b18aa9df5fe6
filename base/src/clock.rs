//! The only place that reads the time.
//!
//! Whoever needs the time takes a [`Clock`], so that retention, schedules, grace periods and
//! objectives are tested without sleeping.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The wall clock, UTC.
    fn now(&self) -> DateTime<Utc>;

    /// The time since an arbitrary start, to measure durations with. It never goes back.
    fn elapsed(&self) -> Duration;

    /// As [`elapsed`](Self::elapsed), and the time that the machine slept counts, too.
    fn elapsed_with_sleep(&self) -> Duration;
}

/// A clock that several owners share.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
    booted_for: Duration,
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
impl SystemClock {
    /// The machine's clock; [`Clock::elapsed`] counts from here.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self { start: std::time::Instant::now(), booted_for: since_boot() })
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn elapsed_with_sleep(&self) -> Duration {
        since_boot().saturating_sub(self.booted_for)
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
fn since_boot() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    // It is never negative.
    clock_gettime(ClockId::Boottime).try_into().unwrap_or_default()
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<Readings>,
}

#[derive(Debug, Clone, Copy)]
struct Readings {
    now: DateTime<Utc>,
    awake: Duration,
    asleep: Duration,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(Readings { now, awake: Duration::ZERO, asleep: Duration::ZERO }) })
    }

    /// Moves all readings forward.
    pub fn advance(&self, by: Duration) {
        self.change(|readings| {
            readings.now += by;
            readings.awake += by;
        });
    }

    /// Moves forward what goes on while a machine sleeps.
    pub fn sleep(&self, by: Duration) {
        self.change(|readings| {
            readings.now += by;
            readings.asleep += by;
        });
    }

    /// Sets the wall clock alone, as an operator or a time server does.
    pub fn set(&self, now: DateTime<Utc>) {
        self.change(|readings| readings.now = now);
    }

    fn change(&self, change: impl FnOnce(&mut Readings)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn readings(&self) -> Readings {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.readings().now
    }

    fn elapsed(&self) -> Duration {
        self.readings().awake
    }

    fn elapsed_with_sleep(&self) -> Duration {
        let Readings { awake, asleep, .. } = self.readings();
        awake + asleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_durations_go_on_while_the_machine_is_awake() {
        let clock = SystemClock::shared();
        let before = (clock.elapsed(), clock.elapsed_with_sleep());
        std::thread::sleep(Duration::from_millis(30));
        let after = (clock.elapsed() - before.0, clock.elapsed_with_sleep() - before.1);
        for passed in [after.0, after.1] {
            assert!((30..10_000).contains(&passed.as_millis()), "{after:?}");
        }
    }
}
