//! What a drill host remembers of its drills, in its state directory.
//!
//! ```text
//! drills/<dataset>/<drill>.json   a report that could not be written to the vault
//! drills/<dataset>/attempts       when the newest drills began, and what they chose
//! groups/<group>/attempts         when the newest drills of a group began
//! ```
//!
//! An attempt is recorded before its drill begins, so one that is killed counts, and a drill that
//! fails early is not begun again each time somebody looks what is due. The directory is this
//! user's own, so what is in it is believed, within bounds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};

use super::choice::DrillTrace;
use super::report::DrillReport;
use crate::state::{DRILLS, GROUPS, create_private, replace_file};

const ATTEMPTS: &str = "attempts";
/// So many attempts are remembered. Older ones are in reports.
const MAX_ATTEMPTS: usize = 256;
/// So many of the newest reports on this host are read.
const MAX_KEPT_REPORTS: usize = 256;
const MAX_REMEMBERED_BYTES: u64 = 16 << 20;

/// The memory of one dataset.
#[derive(Debug, Clone)]
pub struct DrillMemory(PathBuf);

impl DrillMemory {
    /// That of `dataset` in this state directory. Nothing is made or read yet.
    #[must_use]
    pub fn of(state_directory: &Path, dataset: &Name) -> Self {
        Self(state_directory.join(DRILLS).join(dataset.as_str()))
    }

    /// That of a group: when its drills began. Its members' are their own.
    #[must_use]
    pub fn of_group(state_directory: &Path, group: &Name) -> Self {
        Self(state_directory.join(GROUPS).join(group.as_str()))
    }

    /// Where the report of a drill is kept.
    #[must_use]
    pub fn report_file(&self, drill: &SnapshotId) -> PathBuf {
        self.0.join(format!("{drill}.json"))
    }

    /// The newest reports that are kept here, newest first; and which of them cannot be read.
    #[must_use]
    pub fn kept(&self) -> (Vec<DrillReport>, Vec<String>) {
        let names = std::fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let id = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
        let mut ids: Vec<SnapshotId> = names.filter_map(id).collect();
        ids.sort_unstable();
        let (mut reports, mut unread) = (Vec::new(), Vec::new());
        for drill in ids.iter().rev().take(MAX_KEPT_REPORTS) {
            match read::<DrillReport>(&self.report_file(drill)) {
                Ok(report) => reports.extend(report),
                Err(error) => unread.push(error.chain()),
            }
        }
        (reports, unread)
    }

    /// The newest attempts, oldest first.
    ///
    /// # Errors
    /// [`Class::Storage`]: there is such a file, and it cannot be read.
    pub fn attempts(&self) -> Result<Vec<DrillTrace>> {
        Ok(read(&self.0.join(ATTEMPTS))?.unwrap_or_default())
    }

    /// Whether all that is remembered can be read.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.attempts().is_ok() && self.kept().1.is_empty()
    }

    /// Records a drill that begins. An attempt that began at the same time is replaced: it has
    /// chosen by now.
    ///
    /// # Errors
    /// [`Class::Storage`]. Then the drill must not begin by schedule: nothing would remember it.
    pub fn record(&self, attempt: &DrillTrace) -> Result<()> {
        create_private(&self.0)?;
        // One that cannot be read says nothing, and must not stop drills for good.
        let mut attempts = self.attempts().unwrap_or_default();
        attempts.retain(|known| known.began != attempt.began);
        attempts.push(attempt.clone());
        attempts.drain(..attempts.len().saturating_sub(MAX_ATTEMPTS));
        self.write(&attempts)
    }

    /// Records that the drill that began then has ended, and whether it failed. One that was
    /// cancelled has not, and is due again.
    ///
    /// # Errors
    /// [`Class::Storage`].
    pub fn end(&self, began: DateTime<Utc>, cancelled: bool, failed: bool) -> Result<()> {
        let mut attempts = self.attempts()?;
        for attempt in attempts.iter_mut().filter(|attempt| attempt.began == began) {
            attempt.running = false;
            attempt.failed |= failed && !cancelled;
            attempt.scheduled &= !cancelled;
        }
        self.write(&attempts)
    }

    /// When the last drill by schedule began, if it was killed. Only whoever holds the lock of
    /// drills by schedule may ask: it may be running otherwise.
    ///
    /// # Errors
    /// As [`Self::attempts`].
    pub fn killed(&self) -> Result<Option<DateTime<Utc>>> {
        let last = self.attempts()?.into_iter().rfind(|attempt| attempt.scheduled);
        Ok(last.filter(|last| last.running).map(|last| last.began))
    }

    fn write(&self, attempts: &[DrillTrace]) -> Result<()> {
        let json = serde_json::to_vec(attempts).map_err(|error| Error::failed("cannot write JSON").because(error))?;
        replace_file(&self.0.join(ATTEMPTS), &json)
    }
}

/// The datasets that a host with this state directory has drilled.
#[must_use]
pub fn drilled_datasets(state_directory: &Path) -> BTreeSet<Name> {
    let entries = std::fs::read_dir(state_directory.join(DRILLS)).into_iter().flatten().flatten();
    let has_attempts = entries.filter(|entry| entry.path().join(ATTEMPTS).is_file());
    has_attempts.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `None`: there is no such file.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    use std::io::Read;
    let failed = || format!("cannot read {}", path.display());
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.context(Class::Storage, failed)?,
    };
    let mut json = Vec::new();
    file.take(MAX_REMEMBERED_BYTES).read_to_end(&mut json).context(Class::Storage, failed)?;
    serde_json::from_slice(&json).map(Some).context(Class::Storage, failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn attempt(minute: i64) -> DrillTrace {
        let began = chrono::DateTime::from_timestamp(1_795_000_000 + 60 * minute, 0).unwrap();
        DrillTrace {
            began,
            scheduled: true,
            running: true,
            failed: false,
            snapshot: None,
            newest: false,
            replica: None,
        }
    }

    #[test]
    fn attempts_are_remembered_within_a_bound_and_learn_what_they_chose() {
        let place = tempfile::tempdir().unwrap();
        let memory = DrillMemory::of(place.path(), &"shop".parse().unwrap());
        assert_eq!(memory.attempts().unwrap(), []);
        for minute in 0..300 {
            memory.record(&attempt(minute)).unwrap();
        }
        let chosen = DrillTrace { replica: Some("south".parse().unwrap()), ..attempt(299) };
        memory.record(&chosen).unwrap();
        let attempts = memory.attempts().unwrap();
        assert_eq!((attempts.len(), attempts.first()), (MAX_ATTEMPTS, Some(&attempt(44))));
        assert_eq!(attempts.last(), Some(&chosen));
    }

    #[test]
    fn a_drill_that_was_killed_is_known_and_one_that_was_cancelled_does_not_count() {
        let place = tempfile::tempdir().unwrap();
        let memory = DrillMemory::of(place.path(), &"shop".parse().unwrap());
        assert_eq!((memory.killed().unwrap(), drilled_datasets(place.path())), (None, BTreeSet::new()));
        memory.record(&attempt(0)).unwrap();
        // By hand, at the same time.
        memory.record(&DrillTrace { scheduled: false, ..attempt(1) }).unwrap();
        assert_eq!(memory.killed().unwrap(), Some(attempt(0).began));
        memory.end(attempt(0).began, false, false).unwrap();
        assert_eq!(memory.killed().unwrap(), None);
        memory.record(&attempt(2)).unwrap();
        memory.end(attempt(2).began, true, true).unwrap();
        let counts: Vec<bool> = memory.attempts().unwrap().iter().map(|attempt| attempt.scheduled).collect();
        assert_eq!((memory.killed().unwrap(), counts), (None, vec![true, false, false]));
        assert_eq!(drilled_datasets(place.path()), BTreeSet::from(["shop".parse().unwrap()]));
    }

    #[test]
    fn a_memory_that_is_damaged_is_told_and_does_not_stop_the_next_attempt() {
        let place = tempfile::tempdir().unwrap();
        let memory = DrillMemory::of(place.path(), &"shop".parse().unwrap());
        memory.record(&attempt(0)).unwrap();
        std::fs::write(place.path().join("drills/shop/attempts"), "[{").unwrap();
        let drill: SnapshotId = "20261123T200000000Z-9f2c81ac".parse().unwrap();
        std::fs::write(memory.report_file(&drill), "{}").unwrap();
        assert!(memory.attempts().unwrap_err().message().contains("attempts"));
        let (reports, unread) = memory.kept();
        assert!(reports.is_empty() && unread[0].contains("20261123T200000000Z-9f2c81ac.json"), "{unread:?}");
        memory.record(&attempt(1)).unwrap();
        assert_eq!(memory.attempts().unwrap(), [attempt(1)]);
    }
}
