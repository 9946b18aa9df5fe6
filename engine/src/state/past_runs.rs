//! How the runs of a dataset ended: a line of JSON for each, the newest last.
//!
//! - **Writers** hold the dataset's lock. A line is written once its run has ended, so one that was
//!   killed is told by whoever finds that.
//! - **Bounds**: beyond 1 MiB, the older half goes.
//! - **Damage**: a line that cannot be understood, such as one that was cut by a crash, is skipped.
//!   All of it can be lost: nothing but people reads it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use serde::{Deserialize, Serialize};

use super::{StateDirectory, replace_file};

/// The file is no longer, but for one line.
const MAX_BYTES: u64 = 1 << 20;
/// An error is cut after so many characters.
const MAX_TOLD_CHARACTERS: usize = 1000;

/// How one run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastRun {
    /// When it began.
    pub began: DateTime<Utc>,
    /// When it ended, prune included. `None`: it was killed.
    pub ended: Option<DateTime<Utc>>,
    /// Why it began: `schedule`, `retry`, `operator`, `takeover`.
    pub start: String,
    /// The snapshot. `None`: nothing was committed, or nobody knows.
    pub snapshot: Option<SnapshotId>,
    /// Why there is no snapshot.
    pub error: Option<String>,
    /// The word of the error's [`Class`].
    pub class: Option<String>,
    /// Bytes that were captured.
    #[serde(default)]
    pub raw_bytes: u64,
    /// Bytes that were added to each complete replica.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Replicas that the snapshot did not reach in time.
    #[serde(default)]
    pub behind: Vec<Name>,
    /// What an operator should know of a run that succeeded, and why old snapshots stayed.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl PastRun {
    /// A run of which nothing else is known yet.
    #[must_use]
    pub fn new(start: &str, began: DateTime<Utc>, ended: Option<DateTime<Utc>>) -> Self {
        Self {
            began,
            ended,
            start: start.to_owned(),
            snapshot: None,
            error: None,
            class: None,
            raw_bytes: 0,
            stored_bytes: 0,
            behind: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The run had this error.
    #[must_use]
    pub fn with_error(self, error: &Error) -> Self {
        let text: String = error.chain().chars().take(MAX_TOLD_CHARACTERS).collect();
        Self { error: Some(text), class: Some(error.class().as_str().to_owned()), ..self }
    }
}

/// Adds a run.
///
/// # Errors
/// [`Class::Storage`].
pub fn append(state: &StateDirectory, dataset: &Name, run: &PastRun) -> Result<()> {
    let path = path(state, dataset);
    let cannot = || format!("cannot write {}", path.display());
    let mut line = serde_json::to_vec(run).context(Class::Storage, cannot)?;
    line.push(b'\n');
    // After a line that was cut, one begins anew.
    let before = read_text(state, dataset)?;
    if !before.is_empty() && !before.ends_with('\n') {
        line.insert(0, b'\n');
    }
    let mut file =
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).context(Class::Storage, cannot)?;
    file.write_all(&line).context(Class::Storage, cannot)?;
    if file.metadata().context(Class::Storage, cannot)?.len() <= MAX_BYTES {
        return Ok(());
    }
    let text = read_text(state, dataset)?;
    let newer = text.as_bytes().split_at(text.len() / 2).1;
    let after_cut = newer.iter().position(|byte| *byte == b'\n').map_or(newer.len(), |at| at + 1);
    replace_file(&path, &newer[after_cut..])
}

/// The newest `most` runs, newest first.
///
/// # Errors
/// [`Class::Storage`].
pub fn newest(state: &StateDirectory, dataset: &Name, most: usize) -> Result<Vec<PastRun>> {
    let text = read_text(state, dataset)?;
    Ok(text.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).take(most).collect())
}

fn read_text(state: &StateDirectory, dataset: &Name) -> Result<String> {
    let path = path(state, dataset);
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(2 * MAX_BYTES).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => {
            read.context(Class::Storage, || format!("cannot read {}", path.display()))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

fn path(state: &StateDirectory, dataset: &Name) -> PathBuf {
    state.path().join("datasets").join(dataset.as_str()).join("runs")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn run(second: i64, error: &str) -> PastRun {
        let run = PastRun::new("schedule", DateTime::from_timestamp(second, 0).unwrap(), None);
        run.with_error(&Error::storage(error))
    }

    #[test]
    fn the_newest_runs_are_kept_and_damage_costs_one_line() {
        let (place, shop) = (tempfile::tempdir().unwrap(), "shop".parse().unwrap());
        let state = StateDirectory::open(place.path()).unwrap();
        assert_eq!(newest(&state, &shop, 9).unwrap(), []);
        let _lock = state.try_lock_dataset(&shop).unwrap().unwrap();
        append(&state, &shop, &run(1, "full\nof rows")).unwrap();
        let file = path(&state, &shop);
        let mut text = std::fs::read(&file).unwrap();
        text.extend(b"{\"began\": \xff");
        std::fs::write(&file, text).unwrap();
        append(&state, &shop, &run(2, "away")).unwrap();
        let told = newest(&state, &shop, 9).unwrap();
        assert_eq!(told, [run(2, "away"), run(1, "full\nof rows")]);
        assert_eq!(newest(&state, &shop, 1).unwrap(), [run(2, "away")]);

        let long = "ä".repeat(2000);
        for second in 3..1200 {
            append(&state, &shop, &run(second, &long)).unwrap();
        }
        let kept = newest(&state, &shop, usize::MAX).unwrap();
        assert!(kept[0] == run(1199, &long) && kept.len() > 100 && kept.len() < 1000, "{}", kept.len());
        assert_eq!(kept[0].error.as_ref().unwrap().chars().count(), MAX_TOLD_CHARACTERS);
        assert!(std::fs::metadata(&file).unwrap().len() <= MAX_BYTES + 4096);
    }
}
