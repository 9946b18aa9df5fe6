//! A progress bar on a terminal; elsewhere nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use lifeboat_engine::base::escape;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::human;

/// The speed that is shown is that of this last time.
const WINDOW: Duration = Duration::from_secs(30);
/// Before, nobody can tell.
const TELLS_AFTER: Duration = Duration::from_secs(2);
/// However long nothing comes, the rest is taken to come this part as fast as all before. A cap, or
/// a store that asks to slow down, lets much pass at once, and then nothing for a while.
const SLOWEST_PART: f64 = 0.25;

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
        let template = "{msg} {bar:30} {bytes}/{total_bytes} {prefix}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(escape::line(what).into_owned());
        let followed = bar.clone();
        let follow = tokio::spawn(async move {
            let (began, mut pace) = (Instant::now(), Pace::default());
            loop {
                // A snapshot whose streams are read twice must not run past its end.
                let done = delivered.load(Ordering::Relaxed).min(total);
                pace.note(began.elapsed(), done);
                followed.set_position(done);
                followed.set_prefix(pace.told(total));
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

/// How fast bytes come.
#[derive(Default)]
struct Pace {
    /// What was done when, the oldest first, of the last [`WINDOW`] and one before.
    noted: VecDeque<(Duration, u64)>,
}

impl Pace {
    fn note(&mut self, elapsed: Duration, done: u64) {
        self.noted.push_back((elapsed, done));
        while self.noted.get(1).is_some_and(|(time, _)| elapsed.saturating_sub(*time) >= WINDOW) {
            self.noted.pop_front();
        }
    }

    /// Bytes a second; `None` while nobody can tell.
    fn rate(&self) -> Option<f64> {
        let ((from, before), (now, done)) = (self.noted.front()?, self.noted.back()?);
        if *now < TELLS_AFTER || *done == 0 {
            return None;
        }
        let all = *done as f64 / now.as_secs_f64();
        let lately = (done - before.min(done)) as f64 / (*now - *from).as_secs_f64().max(f64::MIN_POSITIVE);
        Some(lately.max(all * SLOWEST_PART))
    }

    fn left(&self, total: u64) -> Option<f64> {
        let (_, done) = self.noted.back()?;
        Some(total.saturating_sub(*done) as f64 / self.rate()?)
    }

    fn told(&self, total: u64) -> String {
        match (self.rate(), self.left(total)) {
            (Some(rate), Some(left)) => {
                format!("{}/s, {} left", human::bytes(rate as u64), human::seconds(left.round()))
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restore of 160 MiB that takes 16 s under a cap: a burst, then a piece every four seconds.
    #[test]
    fn bursts_under_a_cap_do_not_make_the_rest_look_endless() {
        let (total, mut pace) = (160 << 20, Pace::default());
        for tick in 0..80_u64 {
            let elapsed = Duration::from_millis(tick * 200);
            let pieces = 1 + tick / 20;
            pace.note(elapsed, (pieces * (40 << 20)).min(total));
            if let Some(left) = pace.left(total) {
                assert!(left <= 64.0, "{left} s are left after {elapsed:?}");
            }
        }
        assert_eq!(pace.left(total), Some(0.0));
    }

    #[test]
    fn the_pace_is_that_of_the_last_time_and_not_told_before_it_is_known() {
        let mut pace = Pace::default();
        pace.note(Duration::from_secs(1), 1 << 20);
        assert_eq!(pace.told(1 << 30), "", "nobody can tell yet");
        for second in 2..=60 {
            pace.note(Duration::from_secs(second), second << 20);
        }
        assert_eq!(pace.told(120 << 20), "1.0 MiB/s, 1 min left");
        for second in 61..=90 {
            pace.note(Duration::from_secs(second), (60 << 20) + ((second - 60) << 21));
        }
        assert_eq!(pace.told(240 << 20), "2.0 MiB/s, 1 min left");
        // Nothing more comes: it does not grow without end.
        for second in 91..=400 {
            pace.note(Duration::from_secs(second), 120 << 20);
        }
        assert!(pace.left(240 << 20).is_some_and(|left| left < 1700.0), "{:?}", pace.left(240 << 20));
    }
}
