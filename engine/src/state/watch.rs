//! What is remembered of a dataset's runs, and which of its snapshots are flagged because they
//! depart from that.
//!
//! - **Flagged** is a snapshot until an operator acknowledges it. Meanwhile, nothing of the dataset
//!   is deleted: the snapshots before it may be the last good ones.
//! - **Damage**: history begins anew if it is lost. A file that cannot be understood counts as a
//!   flag, so that damage never lets deletion go on.
//! - **Writers** hold the dataset's lock.

use std::path::PathBuf;

use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{StateDirectory, replace_file};
use crate::anomaly::{Departure, History, RunFigures, judge};
use crate::backup::BackupReport;

const HISTORY_FILE: &str = "history";
const FLAGGED_FILE: &str = "flagged";
/// So many flagged runs are learnt once they are acknowledged: the first ones.
const MAX_LEARNT_FLAGS: usize = 16;
/// So many departures of a snapshot are told one by one.
const MAX_TOLD_DEPARTURES: usize = 5;

/// A snapshot that departs from its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlaggedSnapshot {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How it departs.
    pub departures: Vec<Departure>,
    /// What is learnt once it is acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    figures: Option<RunFigures>,
}

impl FlaggedSnapshot {
    /// How it departs, one text each; the last one counts what is not told.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let mut told: Vec<String> = self.departures.iter().take(MAX_TOLD_DEPARTURES).map(ToString::to_string).collect();
        match self.departures.len().saturating_sub(MAX_TOLD_DEPARTURES) {
            0 => {}
            more => told.push(format!("{more} more like these")),
        }
        told
    }
}

/// Compares a committed snapshot with the runs before it, and remembers both. The caller holds the
/// dataset's lock.
///
/// # Errors
/// [`Class::Storage`] if a flag cannot be written, or what is remembered cannot be read;
/// [`Class::Integrity`] if it is damaged. The caller must not delete anything then.
pub fn compare(state: &StateDirectory, report: &BackupReport) -> Result<Option<FlaggedSnapshot>> {
    let dataset = &report.dataset;
    let mut history: History = read(state, dataset, HISTORY_FILE)?;
    let mut flagged = self::flagged(state, dataset)?;
    // Another host made the one before, or the history was lost.
    if let Some(before) = report.figures_before.as_ref().filter(|before| history.last().is_none_or(|at| at < before.at))
        && flagged.is_empty()
    {
        history.learn(before);
    }
    let departures = judge(&history, &report.figures);
    if departures.is_empty() {
        history.learn(&report.figures);
        // A run that is not learnt makes the next verdict a little worse, and is no reason to stop.
        if let Err(error) = write(state, dataset, HISTORY_FILE, &history) {
            tracing::warn!(%dataset, error = %error.chain(), "This run is not remembered as normal");
        }
        return Ok(None);
    }
    let figures = (flagged.len() < MAX_LEARNT_FLAGS).then(|| report.figures.clone());
    let flag = FlaggedSnapshot { snapshot: report.snapshot.clone(), departures, figures };
    flagged.push(flag.clone());
    write(state, dataset, FLAGGED_FILE, &flagged)?;
    write(state, dataset, HISTORY_FILE, &history)?;
    Ok(Some(flag))
}

/// The flagged snapshots of a dataset that nobody acknowledged, oldest first.
///
/// # Errors
/// [`Class::Storage`] if the disk fails; [`Class::Integrity`] if the file is damaged.
pub fn flagged(state: &StateDirectory, dataset: &Name) -> Result<Vec<FlaggedSnapshot>> {
    read(state, dataset, FLAGGED_FILE)
}

/// Whether snapshots of the dataset may be deleted.
///
/// # Errors
/// [`Class::Failed`] if one is flagged; others as [`flagged`].
pub fn permit(state: &StateDirectory, dataset: &Name) -> Result<()> {
    let flagged = flagged(state, dataset)?;
    let Some(first) = flagged.first() else { return Ok(()) };
    let more = match flagged.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} later"),
    };
    let what = format!("snapshot {} of {dataset} departs from its history{more}", first.snapshot);
    Err(Error::failed(what).because(first.told().join("; ")).hint(hint(dataset)))
}

/// Takes what is flagged as normal, and lets deletion go on. What is damaged begins anew. The
/// caller holds the dataset's lock.
///
/// # Errors
/// [`Class::Storage`] if the disk fails.
pub fn acknowledge(state: &StateDirectory, dataset: &Name) -> Result<()> {
    let is_damaged = |error: &Error| error.class() == Class::Integrity;
    let mut history: History = read(state, dataset, HISTORY_FILE)
        .or_else(|error| if is_damaged(&error) { Ok(History::default()) } else { Err(error) })?;
    let flagged =
        self::flagged(state, dataset).or_else(|error| if is_damaged(&error) { Ok(Vec::new()) } else { Err(error) })?;
    flagged.iter().filter_map(|flag| flag.figures.as_ref()).for_each(|figures| history.learn(figures));
    write(state, dataset, HISTORY_FILE, &history)?;
    let path = path(state, dataset, FLAGGED_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::storage(format!("cannot remove {}", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

fn hint(dataset: &Name) -> String {
    format!(
        "look at what changed in the database; if it is right, run `lifeboat acknowledge {dataset}`, else restore an older snapshot"
    )
}

fn path(state: &StateDirectory, dataset: &Name, file: &str) -> PathBuf {
    state.path().join("datasets").join(dataset.as_str()).join(file)
}

fn read<T: DeserializeOwned + Default>(state: &StateDirectory, dataset: &Name, file: &str) -> Result<T> {
    let path = path(state, dataset, file);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(Error::storage(format!("cannot read {}", path.display())).because(error)),
    };
    serde_json::from_slice(&text).map_err(|error| {
        Error::integrity(format!("{} is damaged, so it is not known whether a snapshot was flagged", path.display()))
            .because(error)
            .hint(hint(dataset))
    })
}

fn write<T: Serialize>(state: &StateDirectory, dataset: &Name, file: &str, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).context(Class::Failed, || "cannot write a history")?;
    replace_file(&state.dataset(dataset)?.join(file), &text)
}
