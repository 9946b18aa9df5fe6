//! Drill metrics for node-exporter's textfile collector.
//!
//! One file may be shared by several datasets: a drill replaces the samples of its own and keeps
//! the others'. A drill that failed keeps the time of the last success and the last measurements.
//! Readers see the old file or the new one, whole. A file with metrics that are not ours is
//! refused, before the drill begins.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::Context;
use lifeboat_engine::config::{Objectives, ProofLevel};
use lifeboat_engine::drill::ReferenceResult;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Class, Error, Result};

const LAST_SUCCESS: &str = "lifeboat_drill_last_success_timestamp_seconds";
const LAST_ATTEMPT: &str = "lifeboat_drill_last_attempt_timestamp_seconds";
const LAST_STATUS: &str = "lifeboat_drill_last_status";
const LAST_LEVEL: &str = "lifeboat_drill_last_level";
const LAST_WHOLE: &str = "lifeboat_drill_last_whole_timestamp_seconds";
const HIGHEST_LEVEL: &str = "lifeboat_drill_highest_level";
const RESTORE_DURATION: &str = "lifeboat_drill_restore_duration_seconds";
const RECOVERY_POINT_AGE: &str = "lifeboat_drill_recovery_point_age_seconds";
const DUE_SINCE: &str = "lifeboat_drill_due_timestamp_seconds";
const INTERVAL: &str = "lifeboat_drill_interval_seconds";
const OBJECTIVE: &str = "lifeboat_objective_seconds";
const GROUP_SUCCESS: &str = "lifeboat_group_drill_last_success_timestamp_seconds";
const GROUP_ATTEMPT: &str = "lifeboat_group_drill_last_attempt_timestamp_seconds";
const GROUP_STATUS: &str = "lifeboat_group_drill_last_status";
const GROUP_DUE_SINCE: &str = "lifeboat_group_drill_due_timestamp_seconds";
const GROUP_INTERVAL: &str = "lifeboat_group_drill_interval_seconds";
const GROUP_FAILURES: &str = "lifeboat_group_drill_failed_parts";
const DANGLING: &str = "lifeboat_group_dangling_references";
const MAY_DANGLE: &str = "lifeboat_group_allowed_dangling_references";

/// All gauges, in the order they are written.
const FAMILIES: [(&str, &str); 19] = [
    (LAST_SUCCESS, "When the last drill that reached its level, or proved in part, ended; 0 if none ever did."),
    (LAST_ATTEMPT, "When the last drill ended, whether it passed or not."),
    (LAST_STATUS, "1 if the last drill reached its level, or proved in part, else 0."),
    (
        LAST_LEVEL,
        "The level that the last drill not in part reached: 0 nothing, 1 fetched, 2 loaded, 3 checked, 4 proved.",
    ),
    (LAST_WHOLE, "When the last drill that reached its level with the whole snapshot ended."),
    (HIGHEST_LEVEL, "The highest level that a drill of this kind of source can reach, as of the last known snapshot."),
    (RESTORE_DURATION, "How long the last drill that restored took, from its start until the database was loaded."),
    (RECOVERY_POINT_AGE, "The age of the data when the last drill of a newest snapshot began."),
    (DUE_SINCE, "Since when a drill by schedule is due and has not ended; 0 if none is."),
    (INTERVAL, "The longest time between two drills by schedule."),
    (OBJECTIVE, "The configured objectives: rpo is the age of restored data, rto the time a restore takes."),
    (GROUP_SUCCESS, "When the last drill of the group that passed ended; 0 if none ever did."),
    (GROUP_ATTEMPT, "When the last drill of the group ended, whether it passed or not."),
    (GROUP_STATUS, "1 if the last drill of the group passed, with every reference right, else 0."),
    (GROUP_DUE_SINCE, "Since when a drill of the group by schedule is due and has not ended; 0 if none is."),
    (GROUP_INTERVAL, "The longest time between two drills of the group by schedule."),
    (
        GROUP_FAILURES,
        "Members that the last drill of the group did not restore as it should, and references that it did not check, or that had too few values.",
    ),
    (DANGLING, "Values that name no path in the other member, if the last drill of the group could look."),
    (MAY_DANGLE, "How many of these there may be."),
];

/// What is told of a drill.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) ended: DateTime<Utc>,
    pub(crate) passed: bool,
    pub(crate) reached: Option<ProofLevel>,
    /// If it proved in part: when the drill ended that proved the rest.
    pub(crate) proved_since: Option<DateTime<Utc>>,
    /// `None`: not known this time.
    pub(crate) highest: Option<ProofLevel>,
    pub(crate) rto_seconds: Option<f64>,
    pub(crate) rpo_seconds: Option<f64>,
    /// `None`: not known this time.
    pub(crate) objectives: Option<Objectives>,
}

/// What is told of the drill of a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupOutcome<'a> {
    pub(crate) ended: DateTime<Utc>,
    pub(crate) passed: bool,
    /// Members that were not restored as they should.
    pub(crate) failed_members: usize,
    /// `None`: it did not come so far.
    pub(crate) references: Option<&'a [ReferenceResult]>,
}

/// A file for the textfile collector.
#[derive(Debug, Clone)]
pub(crate) struct Textfile(PathBuf);

/// Where the metrics of a dataset are in `folder`.
pub(crate) fn file_of(folder: &Path, dataset: &Name) -> PathBuf {
    folder.join(format!("lifeboat-drill-{dataset}.prom"))
}

/// Where the metrics of a group are in `folder`.
pub(crate) fn file_of_group(folder: &Path, group: &Name) -> PathBuf {
    folder.join(format!("lifeboat-group-{group}.prom"))
}

/// Family, then labels as written, to the value as written.
type Samples = BTreeMap<(usize, String), String>;

impl Textfile {
    /// Looks whether `path` can be used, so that a drill does not fail after hours.
    ///
    /// # Errors
    /// Its directory is missing, or it holds what is not ours.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = Self(path.to_owned());
        let folder = file.folder();
        if !folder.is_dir() {
            return Err(Error::usage(format!("there is no directory {}", folder.display()))
                .hint("create the directory that node-exporter collects from, or pass another --textfile"));
        }
        file.read().map(|_| file)
    }

    /// Replaces the samples of `dataset`.
    ///
    /// # Errors
    /// The file cannot be read or written; the old one is untouched.
    pub(crate) fn record(&self, dataset: &Name, outcome: &Outcome) -> Result<()> {
        self.change(|samples| update(samples, dataset, outcome))
    }

    /// Says since when a drill of `dataset` is due by its schedule, if one is, and how often its
    /// schedule drills.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub(crate) fn note_due(&self, dataset: &Name, since: Option<DateTime<Utc>>, interval: Duration) -> Result<()> {
        self.note(&format!("dataset=\"{dataset}\""), (DUE_SINCE, since), (INTERVAL, interval))
    }

    /// The same of a group.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub(crate) fn note_group_due(&self, group: &Name, since: Option<DateTime<Utc>>, interval: Duration) -> Result<()> {
        self.note(&format!("group=\"{group}\""), (GROUP_DUE_SINCE, since), (GROUP_INTERVAL, interval))
    }

    fn note(
        &self,
        labels: &str,
        (due, since): (&str, Option<DateTime<Utc>>),
        (every, interval): (&str, Duration),
    ) -> Result<()> {
        let since = since.map_or(0.0, |since| since.timestamp_millis() as f64 / 1000.0);
        self.change(|samples| {
            for (family, value) in [(due, since), (every, interval.as_secs_f64())] {
                samples.insert((family_index(family).unwrap_or_default(), labels.to_owned()), seconds(value));
            }
        })
    }

    /// Replaces the samples of a group.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub(crate) fn record_group(&self, group: &Name, outcome: &GroupOutcome<'_>) -> Result<()> {
        self.change(|samples| update_group(samples, group, outcome))
    }

    fn change(&self, change: impl FnOnce(&mut Samples)) -> Result<()> {
        let failed = || format!("cannot write the metrics {}", self.0.display());
        // Held until the end: another drill that shares the file must see what this one wrote.
        let folder = File::open(self.folder()).context(Class::Storage, failed)?;
        folder.lock().context(Class::Storage, failed)?;
        let mut samples = self.read()?;
        change(&mut samples);
        let mut file = tempfile::Builder::new()
            .prefix(".lifeboat-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(self.folder())
            .context(Class::Storage, failed)?;
        file.write_all(render(&samples).as_bytes()).context(Class::Storage, failed)?;
        file.as_file().sync_all().context(Class::Storage, failed)?;
        file.persist(&self.0).map_err(|error| error.error).context(Class::Storage, failed)?;
        Ok(())
    }

    fn folder(&self) -> &Path {
        self.0.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    fn read(&self) -> Result<Samples> {
        let text = match std::fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Samples::new()),
            Err(error) => {
                return Err(Error::storage(format!("cannot read the metrics {}", self.0.display())).because(error));
            }
        };
        parse(&text).ok_or_else(|| {
            Error::usage(format!("{} holds something other than drill metrics", self.0.display()))
                .hint("pass a file of its own to --textfile, or remove this one")
        })
    }
}

fn update(samples: &mut Samples, dataset: &Name, outcome: &Outcome) {
    let labels = |more: &str| format!("dataset=\"{dataset}\"{more}");
    let mut set = |family: &str, labels: String, value: String| {
        samples.insert((family_index(family).unwrap_or_default(), labels), value);
    };
    let at = |time: DateTime<Utc>| seconds(time.timestamp_millis() as f64 / 1000.0);
    let ended = at(outcome.ended);
    set(LAST_ATTEMPT, labels(""), ended.clone());
    set(LAST_STATUS, labels(""), u8::from(outcome.passed).to_string());
    if outcome.passed {
        set(LAST_SUCCESS, labels(""), ended.clone());
    }
    match outcome.proved_since {
        // Another host may have told it, which this file does not know.
        Some(since) => {
            let known = samples.get(&(family_index(LAST_WHOLE).unwrap_or_default(), labels("")));
            let known = known.and_then(|known| known.parse::<f64>().ok());
            if known.is_none_or(|known| known < since.timestamp_millis() as f64 / 1000.0) {
                for (family, value) in [(LAST_WHOLE, at(since)), (LAST_LEVEL, (ProofLevel::Proved as u8).to_string())] {
                    samples.insert((family_index(family).unwrap_or_default(), labels("")), value);
                }
            }
        }
        None => {
            let level = outcome.reached.map_or(0, |level| level as u8).to_string();
            samples.insert((family_index(LAST_LEVEL).unwrap_or_default(), labels("")), level);
            if outcome.passed {
                samples.insert((family_index(LAST_WHOLE).unwrap_or_default(), labels("")), ended);
            }
        }
    }
    let mut set = |family: &str, labels: String, value: String| {
        samples.insert((family_index(family).unwrap_or_default(), labels), value);
    };
    if let Some(highest) = outcome.highest {
        set(HIGHEST_LEVEL, labels(""), (highest as u8).to_string());
    }
    for (family, measured) in [(RESTORE_DURATION, outcome.rto_seconds), (RECOVERY_POINT_AGE, outcome.rpo_seconds)] {
        if let Some(measured) = measured {
            set(family, labels(""), seconds(measured));
        }
    }
    if let Some(due) = samples.get_mut(&(family_index(DUE_SINCE).unwrap_or_default(), format!("dataset=\"{dataset}\"")))
    {
        *due = seconds(0.0);
    }
    let known = outcome.objectives.map(|objectives| [("rpo", objectives.rpo), ("rto", objectives.rto)]);
    for (objective, promised) in known.into_iter().flatten() {
        let labels = labels(&format!(",objective=\"{objective}\""));
        let key = (family_index(OBJECTIVE).unwrap_or_default(), labels);
        match promised {
            Some(promised) => drop(samples.insert(key, seconds(promised.as_secs_f64()))),
            None => drop(samples.remove(&key)),
        }
    }
    samples.entry((0, labels(""))).or_insert_with(|| "0".to_owned());
}

fn update_group(samples: &mut Samples, group: &Name, outcome: &GroupOutcome<'_>) {
    let index = |family: &str| family_index(family).unwrap_or_default();
    let (whole, ended) = (format!("group=\"{group}\""), seconds(outcome.ended.timestamp_millis() as f64 / 1000.0));
    samples.insert((index(GROUP_ATTEMPT), whole.clone()), ended.clone());
    samples.insert((index(GROUP_STATUS), whole.clone()), u8::from(outcome.passed).to_string());
    if outcome.passed {
        samples.insert((index(GROUP_SUCCESS), whole.clone()), ended);
    }
    samples.entry((index(GROUP_SUCCESS), whole.clone())).or_insert_with(|| "0".to_owned());
    samples.entry((index(GROUP_DUE_SINCE), whole.clone())).and_modify(|due| *due = seconds(0.0));
    let references = outcome.references.unwrap_or_default();
    // Too few values prove nothing either, and none of them dangles.
    let unchecked = references.iter().filter(|found| found.error.is_some() || found.checked < found.at_least).count();
    // One that found nothing to drill has failed as a whole.
    let failures = (outcome.failed_members + unchecked).max(usize::from(outcome.references.is_none()));
    samples.insert((index(GROUP_FAILURES), whole.clone()), failures.to_string());
    // What an earlier drill found would hide what this one could not see.
    let own = format!("{whole},reference=");
    samples.retain(|(_, found), _| !found.starts_with(&own));
    for found in references {
        let labels = format!("{own}\"{}\"", found.name);
        samples.insert((index(MAY_DANGLE), labels.clone()), found.at_most.to_string());
        if found.error.is_none() {
            samples.insert((index(DANGLING), labels), found.dangling.to_string());
        }
    }
}

fn family_index(name: &str) -> Option<usize> {
    FAMILIES.iter().position(|(family, _)| *family == name)
}

fn seconds(value: f64) -> String {
    format!("{value:.3}")
}

fn parse(text: &str) -> Option<Samples> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, rest) = line.split_once('{')?;
            let (labels, value) = rest.rsplit_once("} ")?;
            value.parse::<f64>().ok()?;
            Some(((family_index(name)?, labels.to_owned()), value.to_owned()))
        })
        .collect()
}

fn render(samples: &Samples) -> String {
    let mut text = String::new();
    let mut last = None;
    for ((family, labels), value) in samples {
        let (name, help) = FAMILIES[*family];
        if last != Some(family) {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            last = Some(family);
        }
        let _ = writeln!(text, "{name}{{{labels}}} {value}");
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
mod tests;
