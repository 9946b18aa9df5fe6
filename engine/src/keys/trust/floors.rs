//! What no configuration and no record goes below: the floors of the root. Without a root, or
//! without floors in it, there are none.

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::root::Floors;

use super::Trust;

impl Trust {
    /// The floors of the root.
    #[must_use]
    pub fn floors(&self) -> Floors {
        self.root().map(|root| root.floors.clone()).unwrap_or_default()
    }

    /// Until when the root keeps a snapshot that was taken at this time. `None`: it may go, as of
    /// when this trust was last looked up.
    pub(crate) fn keeps_until(&self, taken: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let rules = self.rules();
        let least = length(rules.root.as_ref()?.floors.retention?);
        Some(after(taken, least)).filter(|until| *until > rules.as_of)
    }

    /// How long nothing is deleted after it was marked.
    pub(crate) fn least_delay(&self) -> TimeDelta {
        self.root().and_then(|root| root.floors.delay).map_or(TimeDelta::zero(), length)
    }

    /// When this trust was last looked up.
    pub(crate) fn as_of(&self) -> DateTime<Utc> {
        self.rules().as_of
    }
}

fn length(seconds: u64) -> TimeDelta {
    i64::try_from(seconds).ok().and_then(TimeDelta::try_seconds).unwrap_or(TimeDelta::MAX)
}

/// A floor may be longer than there are times.
fn after(time: DateTime<Utc>, length: TimeDelta) -> DateTime<Utc> {
    time.checked_add_signed(length).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
