//! The cap on a replica's bandwidth: one token bucket for all its requests, in both directions.
//!
//! - **Smooth**: a transfer asks leave for a small piece at a time: what passes in a hundredth of a
//!   second, but at least 16 and at most 256 KiB. Unused leave adds up to what passes in a quarter
//!   of a second, or 64 KiB if that is more, and not beyond.
//! - **Fair**: leave is given in the order of the requests, and nobody asks for a second piece
//!   before the first was given. So an object of one piece waits for one piece of each transfer
//!   under way, never for a pack.
//! - **The schedule** is looked up for each piece and, while a piece waits, every quarter of a
//!   second. So a cap that begins, ends or changes in the middle of an object takes effect within
//!   that time.
//! - **Cancellation**: whoever stops waiting takes nothing.
//!
//! Only bodies count, not headers, TLS and TCP, so a few per cent more pass the wire. Each program
//! has a bucket of its own. After the configuration was reloaded, a run that still uses the old
//! replicas keeps their buckets.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_base::clock::SharedClock;
use tokio::sync::Mutex;

use crate::bandwidth::Bandwidth;
use crate::waiting::Waiting;

const MIN_PIECE_BYTES: usize = 16 << 10;
const MAX_PIECE_BYTES: usize = 256 << 10;
const PIECES_A_SECOND: u64 = 100;
const MIN_BURST_BYTES: f64 = 65_536.0;
const BURSTS_A_SECOND: f64 = 4.0;
/// The resolution of a timer, and longer than rounding errors.
const MIN_WAIT: Duration = Duration::from_millis(1);
/// A change of the schedule is noticed within this time.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// Gives leave to pass bytes.
pub(super) struct Pacer {
    bandwidth: Bandwidth,
    clock: SharedClock,
    /// Whoever holds this lock is next. Tokio hands locks on in the order of the requests.
    bucket: Mutex<Bucket>,
}

impl fmt::Debug for Pacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacer").field("bandwidth", &self.bandwidth).finish_non_exhaustive()
    }
}

impl Pacer {
    /// `None` if there is never a cap.
    pub(super) fn new(bandwidth: &Bandwidth, clock: SharedClock) -> Option<Arc<Self>> {
        bandwidth.is_capped().then(|| Arc::new(Self::with_clock(bandwidth, clock)))
    }

    fn with_clock(bandwidth: &Bandwidth, clock: SharedClock) -> Self {
        Self { bandwidth: bandwidth.clone(), clock, bucket: Mutex::default() }
    }

    /// Waits until some of `wanted` bytes may pass. Returns how many, which is at least one.
    /// `waiting` counts the wait.
    pub(super) async fn leave(&self, wanted: usize, waiting: &Waiting) -> usize {
        let _turn = waiting.begin();
        let mut bucket = self.bucket.lock().await;
        loop {
            let now = self.clock.elapsed();
            let Some(rate) = self.bandwidth.rate(self.clock.now()) else {
                bucket.passed_uncapped(now);
                return wanted.min(MAX_PIECE_BYTES);
            };
            let piece = wanted.min(piece(rate));
            match bucket.take(piece, rate, now) {
                None => return piece,
                Some(wait) => tokio::time::sleep(wait.clamp(MIN_WAIT, MAX_WAIT)).await,
            }
        }
    }
}

fn piece(rate: u64) -> usize {
    usize::try_from(rate / PIECES_A_SECOND).unwrap_or(usize::MAX).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES)
}

/// Bytes that may pass at once; time is an argument.
#[derive(Debug, Default)]
struct Bucket {
    /// `None` before anything passed: the bucket is full, whatever the rate.
    level: Option<f64>,
    at: Duration,
}

impl Bucket {
    /// Takes `bytes`, which fit into any burst, or returns how long to wait before the next try.
    fn take(&mut self, bytes: usize, rate: u64, now: Duration) -> Option<Duration> {
        let (bytes, rate) = (bytes as f64, rate as f64);
        let burst = (rate / BURSTS_A_SECOND).max(MIN_BURST_BYTES);
        let gained = now.saturating_sub(self.at).as_secs_f64() * rate;
        let level = self.level.map_or(burst, |level| (level + gained).min(burst));
        self.at = now;
        let taken = level >= bytes;
        self.level = Some(if taken { level - bytes } else { level });
        (!taken).then(|| Duration::from_secs_f64((bytes - level) / rate))
    }

    /// Empties the bucket: when a cap begins, what the bucket would hold has passed already.
    fn passed_uncapped(&mut self, now: Duration) {
        (self.level, self.at) = (Some(0.0), now);
    }
}

#[cfg(test)]
mod tests;
