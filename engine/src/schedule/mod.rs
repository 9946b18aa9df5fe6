//! When a dataset is due: five-field Unix cron in a time zone, with jitter.
//!
//! Fires are computed in local naive time and then resolved: a time inside a spring gap fires right
//! after the gap, a time inside an autumn fold fires once. Day of month and day of week are ORed
//! when both are restricted, as Unix does.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::error::Result;

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// As written: five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`.
    pub expression: String,
    /// The zone its fields are read in.
    pub time_zone: Tz,
    /// Each run starts up to this much later, by a fixed offset drawn from host and dataset name.
    pub jitter: Duration,
}

impl Schedule {
    /// Parses `expression`.
    ///
    /// # Errors
    /// Says which field is wrong and what would be right.
    pub fn parse(expression: &str, time_zone: Tz, jitter: Duration) -> Result<Self> {
        let _ = cron::Schedule::from_str(expression);
        todo!("{time_zone} {jitter:?}")
    }

    /// The first time strictly after `time` at which it fires, before jitter. None: never again.
    #[must_use]
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        todo!("{time}")
    }

    /// The longest gap between two consecutive fires in the year after `time`: what an alert on
    /// a late backup may expect.
    #[must_use]
    pub fn expected_interval(&self, time: DateTime<Utc>) -> Duration {
        todo!("{time}")
    }
}
