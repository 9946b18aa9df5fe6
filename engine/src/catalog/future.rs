//! Objects from the future. Whoever can write into a bucket can put one there, and a clock that was
//! wrong makes one. The newest of all things is then not what it looks like.

use chrono::{DateTime, TimeDelta, Utc};

/// Clocks may differ by this much.
pub const FUTURE_TOLERANCE: TimeDelta = TimeDelta::minutes(10);

/// Whether `time` is later than clocks that differ can explain.
#[must_use]
pub fn is_future(time: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    time - now > FUTURE_TOLERANCE
}
