//! Objects from the future. Whoever can write into a bucket can put one there, and a clock that was
//! wrong makes one. The newest of all things is then not what it looks like.

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::Limits;

/// Whether `time` is later than clocks that differ can explain. Each host may differ from the right
/// time by `limits.clock_skew`, so two may differ by twice that.
#[must_use]
pub fn is_future(time: DateTime<Utc>, now: DateTime<Utc>, limits: &Limits) -> bool {
    let tolerance = TimeDelta::from_std(limits.clock_skew.saturating_mul(2)).unwrap_or(TimeDelta::MAX);
    time.signed_duration_since(now) > tolerance
}
