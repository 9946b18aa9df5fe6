//! For how long an operator wants no backup of a dataset to start by schedule: one JSON document.
//!
//! - **It ends by itself**: at its end, or when the clock no longer lies between its begin and its
//!   end, so that no clock that was set makes a pause longer.
//! - **Damage**: what cannot be understood is no pause. Backups go on then.
//! - **Writers**: the daemon alone.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::Name;
use serde::{Deserialize, Serialize};

use super::{StateDirectory, replace_file};

/// No pause is longer: 7 days.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 86_400);
/// A clock may have been corrected by so much since a pause began.
const CORRECTED: TimeDelta = TimeDelta::minutes(5);
/// A reason is no longer than so many bytes.
const MAX_WHY_BYTES: usize = 500;
/// A longer document is none.
const MAX_PAUSE_BYTES: u64 = 4096;

/// No backup starts by schedule from `since` until `until`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it began.
    pub since: DateTime<Utc>,
    /// When it ends.
    pub until: DateTime<Utc>,
    /// Why, as the operator said.
    pub why: Option<String>,
}

impl Pause {
    /// A pause that begins now.
    ///
    /// # Errors
    /// [`Class::Usage`]: it would last for no time, or for longer than [`LONGEST_PAUSE`].
    pub fn new(now: DateTime<Utc>, lasts: Duration, why: Option<String>) -> Result<Self> {
        if lasts.is_zero() || lasts > LONGEST_PAUSE {
            return Err(Error::usage("a pause lasts for more than nothing and for no more than 7 days")
                .hint("pause for a time such as 4h, and again if that was too short"));
        }
        if why.as_ref().is_some_and(|why| why.len() > MAX_WHY_BYTES) {
            return Err(Error::usage(format!("the reason is longer than {MAX_WHY_BYTES} bytes")).hint("shorten it"));
        }
        let lasts = TimeDelta::from_std(lasts).context(Class::Usage, || "the pause is too long")?;
        Ok(Self { since: now, until: now + lasts, why })
    }

    /// Whether no backup starts by schedule now.
    #[must_use]
    pub fn holds(&self, now: DateTime<Utc>) -> bool {
        self.since - CORRECTED <= now && now < self.until
    }
}

/// The pause of a dataset, ended or not.
///
/// # Errors
/// [`Class::Storage`]: the disk fails, or what is there is no pause.
pub fn read(state: &StateDirectory, dataset: &Name) -> Result<Option<Pause>> {
    let path = path(state, dataset);
    let cannot = || format!("cannot read {}", path.display());
    let long = match std::fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.context(Class::Storage, cannot)?.len(),
    };
    if long > MAX_PAUSE_BYTES {
        return Err(Error::storage(cannot()).because("it is too long to be a pause"));
    }
    let text = std::fs::read(&path).context(Class::Storage, cannot)?;
    let pause: Pause = serde_json::from_slice(&text).context(Class::Storage, cannot)?;
    let lasts = (pause.until - pause.since).to_std().unwrap_or(Duration::MAX);
    Ok(Some(pause).filter(|_| lasts <= LONGEST_PAUSE))
}

/// Replaces the pause of a dataset; `None` removes it.
///
/// # Errors
/// [`Class::Storage`].
pub fn write(state: &StateDirectory, dataset: &Name, pause: Option<&Pause>) -> Result<()> {
    let path = path(state, dataset);
    let Some(pause) = pause else {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::storage(format!("cannot remove {}", path.display())).because(error))
            }
            _ => Ok(()),
        };
    };
    let text = serde_json::to_vec(pause).context(Class::Storage, || "cannot write a pause")?;
    state.dataset(dataset)?;
    replace_file(&path, &text)
}

fn path(state: &StateDirectory, dataset: &Name) -> PathBuf {
    state.dataset_path(dataset).join("pause.json")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_by_itself_whatever_the_clock_does() {
        let now: DateTime<Utc> = "2026-11-24T01:30:00Z".parse().unwrap();
        let hour = Duration::from_secs(3600);
        let pause = Pause::new(now, hour, None).unwrap();
        for (seconds, holds) in [(0, true), (-200, true), (3599, true), (3600, false), (-301, false)] {
            assert_eq!(pause.holds(now + TimeDelta::seconds(seconds)), holds, "{seconds}");
        }
        for bad in [Duration::ZERO, LONGEST_PAUSE + Duration::from_secs(1), Duration::MAX] {
            assert_eq!(Pause::new(now, bad, None).unwrap_err().class(), Class::Usage, "{bad:?}");
        }
    }

    #[test]
    fn a_pause_is_remembered_and_a_damaged_one_is_none() {
        let (place, shop) = (tempfile::tempdir().unwrap(), "shop".parse().unwrap());
        let state = StateDirectory::open(place.path()).unwrap();
        assert_eq!(read(&state, &shop).unwrap(), None);
        write(&state, &shop, None).unwrap();
        let now: DateTime<Utc> = "2026-11-24T01:30:00Z".parse().unwrap();
        let pause = Pause::new(now, LONGEST_PAUSE, Some("a\nmove".to_owned())).unwrap();
        write(&state, &shop, Some(&pause)).unwrap();
        assert_eq!(read(&state, &shop).unwrap(), Some(pause.clone()));
        let long = Pause { until: pause.until + TimeDelta::seconds(1), ..pause };
        write(&state, &shop, Some(&long)).unwrap();
        assert_eq!(read(&state, &shop).unwrap(), None);
        for bad in ["", "{}", "null", "[1]", &"x".repeat(5000)] {
            std::fs::write(path(&state, &shop), bad).unwrap();
            assert_eq!(read(&state, &shop).unwrap_err().class(), Class::Storage, "{bad}");
        }
        write(&state, &shop, None).unwrap();
        assert_eq!(read(&state, &shop).unwrap(), None);
    }
}
