//! What is remembered of a dataset's runs, and which of its snapshots are flagged because they
//! depart from that.
//!
//! - **Flagged** is a snapshot until an operator acknowledges it. Meanwhile, nothing of the dataset
//!   is deleted: the snapshots before it may be the last good ones.
//! - **Before the verdict**: the figures of a run are written down before its snapshot is
//!   committed, and go when it was compared. Where a program dies between the two, they count until
//!   the next run compares them: if they depart, the snapshot is as good as flagged.
//! - **Damage**: history begins anew if it is lost. A file that cannot be understood counts as a
//!   flag, so that damage never lets deletion go on.
//! - **Writers** hold the dataset's lock.

use std::io::Read;
use std::path::PathBuf;

use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{StateDirectory, replace_file};
use crate::anomaly::{Departure, History, RunFigures, judge};

const HISTORY_FILE: &str = "history";
const FLAGGED_FILE: &str = "flagged";
const UNJUDGED_FILE: &str = "unjudged";
/// The figures of so many runs without a verdict are kept: of the first ones, and of the newest.
const MAX_UNJUDGED: usize = 8;
/// So many flagged runs are learnt once they are acknowledged: the first ones.
const MAX_LEARNT_FLAGS: usize = 16;
/// So many flags are kept.
const MAX_FLAGS: usize = 64;
/// A file of these is no longer.
const MAX_WATCH_BYTES: u64 = 64 << 20;
/// So many departures of a snapshot are told one by one.
const MAX_TOLD_DEPARTURES: usize = 5;

/// A snapshot that departs from its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlaggedSnapshot {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How it departs: so many ways as are told.
    pub departures: Vec<Departure>,
    /// How many more there are.
    #[serde(default)]
    untold: u64,
    /// What is learnt once it is acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    figures: Option<RunFigures>,
}

impl FlaggedSnapshot {
    fn new(snapshot: &SnapshotId, mut departures: Vec<Departure>, figures: Option<&RunFigures>) -> Self {
        let untold = departures.len().saturating_sub(MAX_TOLD_DEPARTURES) as u64;
        departures.truncate(MAX_TOLD_DEPARTURES);
        Self { snapshot: snapshot.clone(), departures, untold, figures: figures.cloned() }
    }

    /// How it departs, one text each; the last one counts what is not told.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let more = (self.untold > 0).then(|| format!("{} more like these", self.untold));
        self.departures.iter().map(ToString::to_string).chain(more).collect()
    }
}

/// Writes down the figures of a snapshot that is about to be committed. The caller holds the
/// dataset's lock, and calls [`compare`] after the commit.
///
/// # Errors
/// [`Class::Storage`] if the disk fails; [`Class::Integrity`] if what is there is damaged.
pub fn expect(state: &StateDirectory, dataset: &Name, snapshot: &SnapshotId, figures: &RunFigures) -> Result<()> {
    let mut all = unjudged(state, dataset)?;
    all.truncate(MAX_UNJUDGED - 1);
    all.push((snapshot.clone(), figures.clone()));
    write(state, dataset, UNJUDGED_FILE, &all)
}

/// Takes [`expect`] back: the snapshot is certain not to be committed.
///
/// # Errors
/// As [`expect`].
pub fn expect_no_more(state: &StateDirectory, dataset: &Name, snapshot: &SnapshotId) -> Result<()> {
    let mut all = unjudged(state, dataset)?;
    all.retain(|(expected, _)| expected != snapshot);
    if all.is_empty() { remove(state, dataset, UNJUDGED_FILE) } else { write(state, dataset, UNJUDGED_FILE, &all) }
}

/// The figures of snapshots that were about to be committed, and were not compared since, oldest
/// first.
///
/// # Errors
/// As [`flagged`].
pub fn unjudged(state: &StateDirectory, dataset: &Name) -> Result<Vec<(SnapshotId, RunFigures)>> {
    read(state, dataset, UNJUDGED_FILE)
}

/// Compares a committed snapshot with the runs before it, and remembers all. `before` are snapshots
/// before it that may not have been compared, oldest first; where only the manifest tells of one,
/// with sizes alone. The caller holds the dataset's lock.
///
/// # Errors
/// [`Class::Storage`] if a flag cannot be written, or what is remembered cannot be read;
/// [`Class::Integrity`] if it is damaged. The caller must not delete anything then.
pub fn compare(
    state: &StateDirectory,
    dataset: &Name,
    snapshot: &SnapshotId,
    figures: &RunFigures,
    before: &[(SnapshotId, RunFigures)],
) -> Result<Option<FlaggedSnapshot>> {
    // What it says of earlier runs is in `before`, unless it is damaged.
    unjudged(state, dataset)?;
    let mut history: History = read(state, dataset, HISTORY_FILE)?;
    let mut flagged: Vec<FlaggedSnapshot> = read(state, dataset, FLAGGED_FILE)?;
    let before_this = flagged.clone();
    history.is_before(figures.at);
    // Another host made the one before, its verdict could not be written, or the history was lost.
    for (older, before) in before {
        let is_judged = history.last().is_some_and(|at| at >= before.at);
        if is_judged || flagged.iter().any(|flag| flag.snapshot == *older) {
            continue;
        }
        let departures = judge(&history, before);
        if departures.is_empty() {
            history.learn(before);
        } else {
            flag(&mut flagged, FlaggedSnapshot::new(older, departures, Some(before)));
        }
    }
    let departures = judge(&history, figures);
    let found = if departures.is_empty() {
        history.learn(figures);
        None
    } else {
        let learnt = Some(figures).filter(|_| flagged.len() < MAX_LEARNT_FLAGS);
        let found = FlaggedSnapshot::new(snapshot, departures, learnt);
        flag(&mut flagged, found.clone());
        Some(found)
    };
    if flagged != before_this {
        write(state, dataset, FLAGGED_FILE, &flagged).map_err(|error| match &found {
            // Whoever hears of this run hears of it.
            Some(found) => error.within(format!(
                "snapshot {snapshot} of {dataset} departs from its history ({}), and this cannot be written down",
                found.told().join("; ")
            )),
            None => error,
        })?;
    }
    // A run that is not learnt makes the next verdict a little worse, and is no reason to stop.
    if let Err(error) = write(state, dataset, HISTORY_FILE, &history) {
        tracing::warn!(%dataset, error = %error.chain(), "This run is not remembered as normal");
    }
    if let Err(error) = remove(state, dataset, UNJUDGED_FILE) {
        tracing::warn!(%dataset, error = %error.chain(), "The next run compares this one again");
    }
    Ok(found)
}

/// Adds a flag. Once there are many, only the first ones and the newest are kept.
fn flag(flagged: &mut Vec<FlaggedSnapshot>, new: FlaggedSnapshot) {
    flagged.truncate(MAX_FLAGS - 1);
    flagged.push(new);
}

/// The flagged snapshots of a dataset that nobody acknowledged, oldest first; at the end those that
/// depart, and of which the run died before it could flag them.
///
/// # Errors
/// [`Class::Storage`] if the disk fails; [`Class::Integrity`] if the file is damaged.
pub fn flagged(state: &StateDirectory, dataset: &Name) -> Result<Vec<FlaggedSnapshot>> {
    let mut flagged: Vec<FlaggedSnapshot> = read(state, dataset, FLAGGED_FILE)?;
    let unjudged = unjudged(state, dataset)?;
    if unjudged.is_empty() {
        return Ok(flagged);
    }
    let history: History = read(state, dataset, HISTORY_FILE)?;
    for (snapshot, figures) in &unjudged {
        let departures = judge(&history, figures);
        if !departures.is_empty() && flagged.iter().all(|flag| flag.snapshot != *snapshot) {
            flagged.push(FlaggedSnapshot::new(snapshot, departures, Some(figures)));
        }
    }
    Ok(flagged)
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
    remove(state, dataset, UNJUDGED_FILE)?;
    remove(state, dataset, FLAGGED_FILE)
}

fn remove(state: &StateDirectory, dataset: &Name, file: &str) -> Result<()> {
    let path = path(state, dataset, file);
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
    let mut text = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_WATCH_BYTES).read_to_end(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(Error::storage(format!("cannot read {}", path.display())).because(error)),
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;
    use crate::anomaly::StreamFigures;

    fn id(day: i64) -> SnapshotId {
        SnapshotId::new(at(day), 0)
    }

    fn at(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_000_000, 0).unwrap() + TimeDelta::days(day)
    }

    fn figures(day: i64, streams: &[(&str, u64)]) -> RunFigures {
        let of =
            |(name, bytes): &(&str, u64)| ((*name).to_owned(), StreamFigures { bytes: *bytes, ..Default::default() });
        RunFigures { at: at(day), streams: streams.iter().map(of).collect(), ..RunFigures::default() }
    }

    /// Compares the run of a day with those before it.
    fn compared(state: &StateDirectory, day: i64, before: Option<RunFigures>, now: &[(&str, u64)]) -> Result<bool> {
        let before: Vec<_> = before.into_iter().map(|before| (SnapshotId::new(before.at, 0), before)).collect();
        compare(state, &"shop".parse()?, &id(day), &figures(day, now), &before).map(|found| found.is_some())
    }

    const WHOLE: [(&str, u64); 2] = [("orders", 9_000_000), ("customers", 5_000_000)];
    const CUT: [(&str, u64); 2] = [("orders", 9_000_000), ("customers", 50_000)];

    #[test]
    fn a_harm_whose_verdict_was_lost_is_found_by_the_next_run() -> Result<()> {
        let (place, shop) = (tempfile::tempdir().unwrap(), "shop".parse()?);
        let state = StateDirectory::open(place.path())?;
        for day in 0..3 {
            assert!(!compared(&state, day, None, &WHOLE)?, "day {day}");
        }
        // The run of day 3 was killed after its commit, or another host made it.
        let harmed = figures(3, &CUT);
        assert!(compared(&state, 4, Some(harmed), &CUT)?);
        let flagged: Vec<SnapshotId> = flagged(&state, &shop)?.into_iter().map(|flag| flag.snapshot).collect();
        assert_eq!(flagged, [id(3), id(4)]);
        assert!(permit(&state, &shop).is_err());
        acknowledge(&state, &shop)?;
        assert!(permit(&state, &shop).is_ok() && !compared(&state, 5, Some(figures(4, &CUT)), &CUT)?);
        Ok(())
    }

    #[test]
    fn figures_written_before_a_commit_stop_deletion_until_they_are_compared() -> Result<()> {
        let (place, shop) = (tempfile::tempdir().unwrap(), "shop".parse()?);
        let state = StateDirectory::open(place.path())?;
        for day in 0..3 {
            expect(&state, &shop, &id(day), &figures(day, &WHOLE))?;
            assert!(permit(&state, &shop).is_ok(), "day {day}");
            assert!(!compared(&state, day, None, &WHOLE)?, "day {day}");
            assert_eq!(unjudged(&state, &shop)?, [], "day {day}");
        }
        // The program dies after this commit.
        expect(&state, &shop, &id(3), &figures(3, &CUT))?;
        assert!(permit(&state, &shop).is_err());
        let flagged =
            || Ok::<_, Error>(flagged(&state, &shop)?.into_iter().map(|flag| flag.snapshot).collect::<Vec<_>>());
        assert_eq!(flagged()?, [id(3)]);
        // The next run finds it, though its own data is as before.
        let unjudged = unjudged(&state, &shop)?;
        expect(&state, &shop, &id(4), &figures(4, &WHOLE))?;
        assert_eq!(compare(&state, &shop, &id(4), &figures(4, &WHOLE), &unjudged)?, None);
        assert_eq!(flagged()?, [id(3)]);
        acknowledge(&state, &shop)?;
        assert!(permit(&state, &shop).is_ok());
        // One that was not committed after all is as if it had never been.
        expect(&state, &shop, &id(5), &figures(5, &CUT[..1]))?;
        assert!(permit(&state, &shop).is_err());
        expect_no_more(&state, &shop, &id(5))?;
        assert!(permit(&state, &shop).is_ok());
        // What was never compared can be acknowledged.
        expect(&state, &shop, &id(6), &figures(6, &CUT[..1]))?;
        acknowledge(&state, &shop)?;
        assert!(permit(&state, &shop).is_ok());
        assert!(!compared(&state, 7, None, &CUT[..1])?, "what was acknowledged is flagged again");
        Ok(())
    }

    #[test]
    fn every_run_that_died_before_its_verdict_gets_it_and_damage_stops_deletion() -> Result<()> {
        let (place, shop) = (tempfile::tempdir().unwrap(), "shop".parse()?);
        let state = StateDirectory::open(place.path())?;
        for day in 0..3 {
            assert!(!compared(&state, day, None, &WHOLE)?, "day {day}");
        }
        assert!(compared(&state, 3, None, &CUT)?);
        // Two more die while one is flagged, and what remained of an older one is harmless.
        for day in [2, 4, 5] {
            expect(&state, &shop, &id(day), &figures(day, &CUT))?;
        }
        let before = unjudged(&state, &shop)?;
        assert_eq!(compare(&state, &shop, &id(6), &figures(6, &WHOLE), &before)?, None);
        let found: Vec<SnapshotId> = flagged(&state, &shop)?.into_iter().map(|flag| flag.snapshot).collect();
        assert_eq!(found, [id(3), id(4), id(5)]);
        acknowledge(&state, &shop)?;

        std::fs::write(path(&state, &shop, UNJUDGED_FILE), b"{").unwrap();
        let error = compare(&state, &shop, &id(7), &figures(7, &WHOLE), &[]).unwrap_err();
        assert_eq!(error.class(), Class::Integrity, "{error:?}");
        assert!(permit(&state, &shop).is_err(), "the next run has removed what is damaged");
        acknowledge(&state, &shop)?;
        assert!(permit(&state, &shop).is_ok());
        Ok(())
    }

    #[test]
    fn a_run_under_a_clock_of_the_future_freezes_nothing() -> Result<()> {
        let (place, shop) = (tempfile::tempdir().unwrap(), "shop".parse()?);
        let state = StateDirectory::open(place.path())?;
        for day in [0, 1, 3650, 2] {
            assert!(!compared(&state, day, None, &WHOLE)?, "day {day}");
        }
        // A table is dropped on purpose.
        assert!(compared(&state, 3, None, &WHOLE[..1])?);
        acknowledge(&state, &shop)?;
        assert!(!compared(&state, 4, None, &WHOLE[..1])?, "what was acknowledged is flagged again");
        Ok(())
    }

    #[test]
    fn flags_are_bounded() -> Result<()> {
        let (place, shop) = (tempfile::tempdir().unwrap(), "shop".parse()?);
        let state = StateDirectory::open(place.path())?;
        let many: Vec<(String, u64)> = (0..500).map(|n| (format!("s{n}"), 100_000)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        compared(&state, 0, None, &many)?;
        for day in 1..100 {
            assert!(compared(&state, day, None, &WHOLE)?, "day {day}");
        }
        let flagged = flagged(&state, &shop)?;
        assert_eq!((flagged.len(), &flagged[MAX_FLAGS - 1].snapshot), (MAX_FLAGS, &id(99)));
        assert_eq!(flagged[0].told().len(), MAX_TOLD_DEPARTURES + 1);
        Ok(())
    }
}
