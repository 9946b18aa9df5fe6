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
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn outcome(ended: i64, passed: bool) -> Outcome {
        Outcome {
            ended: DateTime::from_timestamp(ended, 0).unwrap(),
            passed,
            reached: passed.then_some(ProofLevel::Proved),
            proved_since: None,
            highest: passed.then_some(ProofLevel::Proved),
            rto_seconds: passed.then_some(41.25),
            rpo_seconds: passed.then_some(600.0),
            objectives: passed.then_some(Objectives { rpo: Some(Duration::from_secs(3600)), rto: None }),
        }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn passes_the_linter_of_prometheus() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("drill.prom");
        Textfile::open(&path).unwrap().record(&name("shop"), &outcome(1_795_000_000, true)).unwrap();
        Textfile::open(&path).unwrap().record(&name("other.db"), &outcome(1_795_000_100, false)).unwrap();
        let linter = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(File::open(&path).unwrap())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .expect("promtool, of the package prometheus, must be installed");
        let said = String::from_utf8_lossy(&[linter.stdout, linter.stderr].concat()).into_owned();
        assert!(linter.status.success() && said.is_empty(), "{said}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o444, 0o444, "node-exporter must read it");
        let left = std::fs::read_dir(place.path()).unwrap().count();
        assert_eq!(left, 1, "nothing but the file is left");
    }

    #[test]
    fn a_failed_drill_keeps_the_last_success_and_shows_the_failure() {
        let mut samples = Samples::new();
        update(&mut samples, &name("shop"), &outcome(1000, true));
        update(&mut samples, &name("shop"), &outcome(2000, false));
        let text = render(&samples);
        for line in [
            "lifeboat_drill_last_success_timestamp_seconds{dataset=\"shop\"} 1000.000",
            "lifeboat_drill_last_attempt_timestamp_seconds{dataset=\"shop\"} 2000.000",
            "lifeboat_drill_last_status{dataset=\"shop\"} 0",
            "lifeboat_drill_last_level{dataset=\"shop\"} 0",
            "lifeboat_drill_highest_level{dataset=\"shop\"} 4",
            "lifeboat_drill_restore_duration_seconds{dataset=\"shop\"} 41.250",
            "lifeboat_objective_seconds{dataset=\"shop\",objective=\"rpo\"} 3600.000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_drill_in_part_tells_of_the_last_whole_one_only_what_nobody_told_later() {
        let told = |samples: &Samples, family: &str| {
            samples[&(family_index(family).unwrap(), "dataset=\"shop\"".to_owned())].clone()
        };
        let in_part = |ended, since| Outcome {
            reached: None,
            rto_seconds: None,
            proved_since: DateTime::from_timestamp(since, 0),
            ..outcome(ended, true)
        };
        let mut samples = Samples::new();
        update(&mut samples, &name("shop"), &outcome(1000, true));
        update(&mut samples, &name("shop"), &in_part(2000, 500));
        assert_eq!((told(&samples, LAST_WHOLE), told(&samples, LAST_LEVEL)), ("1000.000".to_owned(), "4".to_owned()));
        assert_eq!(
            (told(&samples, LAST_SUCCESS), told(&samples, LAST_STATUS)),
            ("2000.000".to_owned(), "1".to_owned())
        );
        let fetched = Outcome { reached: Some(ProofLevel::Fetched), ..outcome(3000, true) };
        update(&mut samples, &name("shop"), &fetched);
        update(&mut samples, &name("shop"), &in_part(4000, 1000));
        assert_eq!((told(&samples, LAST_WHOLE), told(&samples, LAST_LEVEL)), ("3000.000".to_owned(), "1".to_owned()));
        // Another host proved the whole.
        update(&mut samples, &name("shop"), &outcome(5000, false));
        update(&mut samples, &name("shop"), &in_part(7000, 6000));
        assert_eq!((told(&samples, LAST_WHOLE), told(&samples, LAST_LEVEL)), ("6000.000".to_owned(), "4".to_owned()));
    }

    #[test]
    fn a_first_failure_reports_that_no_drill_ever_succeeded() {
        let mut samples = Samples::new();
        update(&mut samples, &name("shop"), &outcome(2000, false));
        let text = render(&samples);
        assert!(text.contains("lifeboat_drill_last_success_timestamp_seconds{dataset=\"shop\"} 0\n"), "{text}");
        assert!(!text.contains("restore_duration"), "nothing was measured: {text}");
    }

    #[test]
    fn other_datasets_keep_their_values_and_dropped_objectives_go() {
        let mut samples = Samples::new();
        update(&mut samples, &name("shop"), &outcome(1000, true));
        let before = render(&samples);
        let mut samples = parse(&before).unwrap();
        let without = Outcome { objectives: Some(Objectives::default()), ..outcome(2000, true) };
        update(&mut samples, &name("other"), &outcome(2000, true));
        update(&mut samples, &name("other"), &without);
        let text = render(&samples);
        for line in before.lines() {
            assert!(text.lines().any(|found| found == line), "{line} was lost");
        }
        assert!(!text.contains("lifeboat_objective_seconds{dataset=\"other\""), "{text}");
    }

    #[test]
    fn what_is_due_is_told_until_a_drill_has_ended() {
        let place = tempfile::tempdir().unwrap();
        let file = Textfile::open(&place.path().join("drill.prom")).unwrap();
        let told = |family: &str| {
            let text = std::fs::read_to_string(&file.0).unwrap();
            let line = text.lines().find(|line| line.starts_with(family)).map(str::to_owned);
            line.and_then(|line| Some(line.rsplit_once(' ')?.1.to_owned()))
        };
        let since = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        file.note_due(&name("shop"), Some(since), Duration::from_secs(604_800)).unwrap();
        assert_eq!(told(DUE_SINCE).unwrap(), "1795000000.000");
        assert_eq!(told(INTERVAL).unwrap(), "604800.000");
        assert_eq!(told(LAST_SUCCESS), None, "no drill has ended yet, so none has failed");
        file.note_group_due(&name("shop"), Some(since), Duration::from_secs(60)).unwrap();
        file.record(&name("shop"), &outcome(1_795_000_900, false)).unwrap();
        assert_eq!(told(GROUP_DUE_SINCE).unwrap(), "1795000000.000", "a member is not the group");
        let ended = GroupOutcome { ended: since, passed: false, failed_members: 0, references: None };
        file.record_group(&name("shop"), &ended).unwrap();
        assert_eq!((told(GROUP_DUE_SINCE).unwrap(), told(GROUP_INTERVAL).unwrap()), ("0.000".into(), "60.000".into()));
        assert_eq!((told(DUE_SINCE).unwrap(), told(LAST_SUCCESS).unwrap()), ("0.000".to_owned(), "0".to_owned()));
    }

    #[test]
    fn a_group_tells_what_dangles_apart_from_what_it_could_not_restore() {
        let reference = |of: &str, dangling: u64, error: Option<&str>| ReferenceResult {
            name: name(of),
            to: name("files"),
            checked: 10,
            without_value: 0,
            dangling,
            at_most: 1,
            at_least: 0,
            first: Vec::new(),
            error: error.map(str::to_owned),
        };
        let ended = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let mut samples = Samples::new();
        let mut tell = |failed_members, references: Option<&[ReferenceResult]>| {
            let passed = failed_members == 0 && references.is_some_and(|all| all.iter().all(ReferenceResult::passed));
            update_group(&mut samples, &name("shop"), &GroupOutcome { ended, passed, failed_members, references });
            render(&samples)
        };
        let failed = |count: usize| format!("lifeboat_group_drill_failed_parts{{group=\"shop\"}} {count}\n");
        let good = tell(0, Some(&[reference("a", 0, None), reference("gone", 1, None)]));
        assert!(good.contains(&failed(0)), "{good}");
        let dangles = tell(0, Some(&[reference("a", 3, None)]));
        assert!(dangles.contains(&failed(0)), "{dangles}");
        let too_few = ReferenceResult { checked: 0, at_least: 1, ..reference("a", 0, None) };
        let empty = tell(0, Some(&[too_few]));
        assert!(empty.contains(&failed(1)), "{empty}");
        let told = tell(1, Some(&[reference("a", 3, None), reference("b", 0, Some("it was not loaded"))]));
        assert!(told.contains(&failed(2)), "{told}");
        for line in [
            "lifeboat_group_drill_last_success_timestamp_seconds{group=\"shop\"} 1795000000.000",
            "lifeboat_group_drill_last_status{group=\"shop\"} 0",
            "lifeboat_group_dangling_references{group=\"shop\",reference=\"a\"} 3",
            "lifeboat_group_allowed_dangling_references{group=\"shop\",reference=\"b\"} 1",
        ] {
            assert!(told.lines().any(|found| found == line), "{line} is not in\n{told}");
        }
        assert!(!told.contains("gone") && !told.contains("dangling_references{group=\"shop\",reference=\"b\"} 0"));
        // A member that cannot be restored is not hidden behind what dangled before.
        let hidden = tell(1, Some(&[reference("a", 0, Some("shop-db was not loaded"))]));
        assert!(!hidden.contains("dangling_references{group=\"shop\",reference=\"a\"} 3"), "{hidden}");
        assert!(hidden.contains(&failed(2)), "{hidden}");
        let none = tell(0, None);
        assert!(none.contains(&failed(1)) && !none.contains("reference="), "{none}");
        assert!(parse(&told).is_some());
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("raid.prom");
        std::fs::write(&path, "node_md_disks{device=\"md0\"} 2\n").unwrap();
        assert!(Textfile::open(&path).is_err());
        assert!(Textfile::open(&place.path().join("missing/drill.prom")).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "node_md_disks{device=\"md0\"} 2\n");
    }
}
