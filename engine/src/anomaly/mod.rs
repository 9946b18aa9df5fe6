//! Does a snapshot depart from its history? Figures of runs in, verdicts out; no clock, no I/O.
//!
//! - **What is compared**: the size, the new data and its compressibility, for each stream and for
//!   the whole. So a single encrypted table shows, though it is a small part of the dataset.
//! - **What is normal**: the median of the last days, and what other days of the window did. A
//!   weekly batch or a month end is news once at most. Extremes are compared as ratios, so steady
//!   growth is never news.
//! - **Young histories**: while a history is shorter than two weeks, only gross harms count: a
//!   stream that is missing, that shrank to a fifth, or whose new data no longer compresses.
//! - **What is flagged** is not learnt: the next run is compared with what was normal before, until
//!   an operator accepts it.

mod departure;
mod history;
mod judge;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::departure::{Departure, Kind};
pub use self::history::History;
pub use self::judge::judge;

/// What one run captured, as far as it is compared with other runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFigures {
    /// When the capture began.
    pub at: DateTime<Utc>,
    /// Whether `fresh` and `stored` of the streams were counted.
    pub measured: bool,
    /// Whether unchanged data could be found. It could not in a first run, or after a change of
    /// keys.
    pub comparable: bool,
    /// Whether the run could not read all databases, so that streams are missing for a reason that
    /// is told already.
    pub partial: bool,
    /// The streams by name.
    pub streams: BTreeMap<String, StreamFigures>,
}

/// What one run captured of one stream, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamFigures {
    /// Its length.
    pub bytes: u64,
    /// The part of it that no earlier snapshot has.
    pub fresh: u64,
    /// What the fresh part takes when it is compressed. A chunk that occurs twice counts once.
    pub stored: u64,
}

impl RunFigures {
    /// The sum of all streams.
    #[must_use]
    pub fn whole(&self) -> StreamFigures {
        self.streams.values().fold(StreamFigures::default(), |sum, stream| sum.with(stream))
    }
}

impl StreamFigures {
    /// Of both together.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            fresh: self.fresh.saturating_add(other.fresh),
            stored: self.stored.saturating_add(other.stored),
        }
    }

    /// The part of the stream that is fresh.
    pub(crate) fn share(&self) -> f64 {
        self.fresh as f64 / self.bytes.max(1) as f64
    }

    /// What the fresh data takes of its size, if there is enough of it to tell.
    pub(crate) fn ratio(&self) -> Option<f64> {
        const FEW_BYTES: u64 = 4 << 10;
        const MANY_BYTES: u64 = 256 << 10;
        let tells = self.fresh >= MANY_BYTES || self.fresh >= FEW_BYTES && self.fresh >= self.bytes / 4;
        tells.then(|| self.stored as f64 / self.fresh as f64)
    }
}

#[cfg(test)]
mod tests;
