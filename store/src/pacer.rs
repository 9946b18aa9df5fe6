//! The cap on a replica's bandwidth: one token bucket for all its requests, in both directions.
//!
//! - **Smooth**: who has bytes to pass asks leave for a small piece at a time, a hundredth of a
//!   second's worth within 16 to 256 KiB. What was not used adds up to a quarter of a second's
//!   worth, at least 64 KiB, and no more.
//! - **Fair**: leave is given in the order in which it was asked for, and nobody asks for a second
//!   piece before the first was given. An object of one piece waits for one piece of each transfer
//!   under way, never for a pack.
//! - **The schedule** is looked up for each piece and, while one waits, every quarter of a second:
//!   a cap that begins, ends or changes in the middle of an object counts within that time.
//! - **Cancellation**: whoever stops waiting takes nothing.
//!
//! Counted are bodies, not headers, TLS and TCP: a few per cent more pass the wire. Each program
//! has a bucket of its own, and so have the replicas of a configuration that was reloaded while a
//! run still keeps the old ones.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_base::clock::SharedClock;
use tokio::sync::Mutex;

use crate::bandwidth::Bandwidth;
use crate::waiting::Waiting;

const SMALLEST_PIECE: usize = 16 << 10;
const LARGEST_PIECE: usize = 256 << 10;
const PIECES_A_SECOND: u64 = 100;
const SMALLEST_BURST: f64 = 65_536.0;
const BURSTS_A_SECOND: f64 = 4.0;
/// Of a timer, and more than what rounding leaves of a byte.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// How soon a change of the schedule is noticed.
const LOOK: Duration = Duration::from_millis(250);

/// Gives leave to pass bytes. Its module begins with what it promises.
pub(super) struct Pacer {
    bandwidth: Bandwidth,
    clock: SharedClock,
    /// Tokio's locks are handed on in the order in which they were asked for: who holds it is next.
    bucket: Mutex<Bucket>,
}

impl fmt::Debug for Pacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacer").field("bandwidth", &self.bandwidth).finish_non_exhaustive()
    }
}

impl Pacer {
    /// `None`: there is never a cap.
    pub(super) fn new(bandwidth: &Bandwidth, clock: SharedClock) -> Option<Arc<Self>> {
        bandwidth.is_capped().then(|| Arc::new(Self::with_clock(bandwidth, clock)))
    }

    fn with_clock(bandwidth: &Bandwidth, clock: SharedClock) -> Self {
        Self { bandwidth: bandwidth.clone(), clock, bucket: Mutex::default() }
    }

    /// Waits until some of `wanted` bytes may pass; how many, at least one of them. The wait is one
    /// of `waiting`.
    pub(super) async fn leave(&self, wanted: usize, waiting: &Waiting) -> usize {
        let _turn = waiting.begin();
        let mut bucket = self.bucket.lock().await;
        loop {
            let now = self.clock.elapsed();
            let Some(rate) = self.bandwidth.rate(self.clock.now()) else {
                bucket.passed_uncapped(now);
                return wanted.min(LARGEST_PIECE);
            };
            let piece = wanted.min(piece(rate));
            match bucket.take(piece, rate, now) {
                None => return piece,
                Some(wait) => tokio::time::sleep(wait.clamp(SHORTEST_WAIT, LOOK)).await,
            }
        }
    }
}

fn piece(rate: u64) -> usize {
    usize::try_from(rate / PIECES_A_SECOND).unwrap_or(usize::MAX).clamp(SMALLEST_PIECE, LARGEST_PIECE)
}

/// Bytes that may pass at once; time is an argument.
#[derive(Debug, Default)]
struct Bucket {
    /// `None`: full, whatever the rate; nothing passed yet.
    level: Option<f64>,
    at: Duration,
}

impl Bucket {
    /// Takes `bytes`, which fit into any burst, or says how long to wait before the next try.
    fn take(&mut self, bytes: usize, rate: u64, now: Duration) -> Option<Duration> {
        let (bytes, rate) = (bytes as f64, rate as f64);
        let burst = (rate / BURSTS_A_SECOND).max(SMALLEST_BURST);
        let gained = now.saturating_sub(self.at).as_secs_f64() * rate;
        let level = self.level.map_or(burst, |level| (level + gained).min(burst));
        self.at = now;
        let taken = level >= bytes;
        self.level = Some(if taken { level - bytes } else { level });
        (!taken).then(|| Duration::from_secs_f64((bytes - level) / rate))
    }

    /// A cap that begins then finds the bucket empty: what it would hold has passed.
    fn passed_uncapped(&mut self, now: Duration) {
        (self.level, self.at) = (Some(0.0), now);
    }
}

#[cfg(test)]
mod tests;
