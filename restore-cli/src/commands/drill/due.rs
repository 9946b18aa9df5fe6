//! `drill --due`: runs the drills that are due, one after the other.
//!
//! - **What is due**: a dataset whose schedule has fired since its last drill began, as the reports
//!   in the vault, those that are kept on this host, and the attempts that it recorded tell. A
//!   drill that failed was one: the next is due when the schedule fires again.
//! - **Which datasets**: those of the configuration with a `schedule`. Where `[drill]` has one,
//!   also those of the vault that this drill host is granted, and that have no section.
//! - **Once**: a lock keeps two of these programs from drilling the same. The system releases it
//!   however its holder ends.
//! - **Failure**: one drill that fails does not stop the next. The exit code is that of the worst.

use std::fmt;
use std::path::Path;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::Config;
use lifeboat_engine::drill::{DrillMemory, DrillTrace, due_since, history};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::log::LogKind;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::schedule::Schedule;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use super::Args;
use super::one::{OneDrill, remembered};
use super::view::Drilled;
use crate::access::{self, Need};
use crate::human;
use crate::session::Session;
use crate::table::Plain;
use crate::textfile::Textfile;

/// Classes of errors, the worst first: what was proved to be wrong comes before what could not be
/// tried, and both before what merely took too long.
const WORST_FIRST: [Class; 10] = [
    Class::Integrity,
    Class::Keys,
    Class::Source,
    Class::Storage,
    Class::Configuration,
    Class::Failed,
    Class::Usage,
    Class::Unknown,
    Class::Partial,
    Class::ObjectiveMissed,
];

#[derive(Serialize)]
struct DueDrills {
    /// In the order in which they ran.
    drills: Vec<DueDrill>,
    /// Scheduled, and not due yet.
    waiting: Vec<Waiting>,
}

#[derive(Serialize)]
struct DueDrill {
    dataset: Name,
    /// When the schedule fired.
    due: DateTime<Utc>,
    /// The report. `None`: the drill failed before there was one.
    drill: Option<Drilled>,
    /// Why it failed, or missed an objective.
    error: Option<String>,
    exit_code: u8,
}

#[derive(Serialize)]
struct Waiting {
    dataset: Name,
    /// When the schedule fires next.
    next: Option<DateTime<Utc>>,
}

/// A dataset with a schedule.
struct Scheduled {
    dataset: Name,
    schedule: Schedule,
}

pub(super) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let Some(_lock) = state.try_lock_drills()? else {
        return Err(
            Error::failed("another `lifeboat drill --due` or a rehearsal is running").hint("wait until it ends")
        );
    };
    let (due, waiting) = Box::pin(find(args, &config, session)).await?;
    let (mut told, mut worst) = (DueDrills { drills: Vec::new(), waiting }, None::<Error>);
    for (Scheduled { dataset, .. }, since) in &due {
        if session.cancel.is_cancelled() {
            worst = Some(Error::failed("drilling what is due was cancelled"));
            break;
        }
        session.out.note(format!("drilling {dataset}, due since {}", human::time(*since)));
        let textfile = args.textfiles.as_deref().map(|folder| Textfile::open(&file_of(folder, dataset))).transpose();
        let (drilled, error) = match textfile {
            Ok(textfile) => {
                let textfile = textfile.as_ref();
                Box::pin(OneDrill { args, session, dataset, textfile, is_scheduled: true, without: None }.run()).await
            }
            Err(error) => (None, Some(error)),
        };
        if let Some(drilled) = &drilled {
            session.out.text(format!("{drilled}\n"))?;
        }
        if let Some(error) = &error {
            session.out.warning(format!("the drill of {dataset}: {}", error.chain_and_hint()));
        }
        told.drills.push(DueDrill {
            dataset: dataset.clone(),
            due: *since,
            drill: drilled,
            exit_code: error.as_ref().map_or(0, |error| error.class().exit_code()),
            error: error.as_ref().map(Error::chain),
        });
        worst = worse(worst, error);
    }
    let shown = session.out.result(&told);
    match worst {
        None => shown,
        Some(worst) => Err(told.sum_up(&worst)),
    }
}

/// Where the metrics of a dataset are.
fn file_of(folder: &Path, dataset: &Name) -> std::path::PathBuf {
    folder.join(format!("lifeboat-drill-{dataset}.prom"))
}

/// The worse of two errors; of two of a class, the first.
pub(super) fn worse(one: Option<Error>, other: Option<Error>) -> Option<Error> {
    let rank = |error: &Error| WORST_FIRST.iter().position(|class| *class == error.class());
    match (one, other) {
        (Some(one), Some(other)) if rank(&other) < rank(&one) => Some(other),
        (one, other) => one.or(other),
    }
}

/// What is due, longest first, and what is not.
async fn find(
    args: &Args,
    config: &Config,
    session: &Session,
) -> Result<(Vec<(Scheduled, DateTime<Utc>)>, Vec<Waiting>)> {
    let now = session.clock.now();
    let sections = config.datasets.iter().filter_map(|dataset| {
        let schedule = dataset.drill.schedule.clone()?;
        Some(Scheduled { dataset: dataset.name.clone(), schedule })
    });
    let mut scheduled: Vec<Scheduled> = sections.collect();
    let memory = |dataset: &Name| {
        let (kept, mut traces) = remembered(Some(&DrillMemory::of(&config.state_directory, dataset)), session);
        traces.extend(kept.iter().map(DrillTrace::of));
        traces
    };
    let seems_due = |one: &Scheduled| due_since(&one.schedule, now, &memory(&one.dataset)).is_some();
    // Most often this host itself drilled last, and nobody need be asked.
    let reader = match &config.drill.schedule {
        None if !scheduled.iter().any(seems_due) => None,
        _ => Some(session.reader(&session.place()?, Need::Manifests).await?),
    };
    if let (Some(schedule), Some(reader)) = (&config.drill.schedule, &reader) {
        let known = session.cancellable("listing the vault", reader.datasets()).await?;
        let others = known.into_iter().filter(|dataset| config.dataset(dataset).is_none());
        let signer = access::drill_signer(config)?.map(|signer| signer.public());
        for dataset in others {
            if is_granted(reader, signer.as_ref(), &dataset) {
                scheduled.push(Scheduled { dataset, schedule: schedule.clone() });
            }
        }
    }
    let (mut due, mut waiting) = (Vec::new(), Vec::new());
    for one in scheduled {
        let mut traces = memory(&one.dataset);
        if due_since(&one.schedule, now, &traces).is_some()
            && let Some(reader) = &reader
        {
            traces.extend(last_in_vault(reader, &one.dataset, now, session).await?);
        }
        let since = due_since(&one.schedule, now, &traces);
        if let Some(folder) = &args.textfiles {
            let interval = one.schedule.expected_interval(now);
            Textfile::open(&file_of(folder, &one.dataset))?.note_due(&one.dataset, since, interval)?;
        }
        match since {
            Some(since) => due.push((one, since)),
            None => waiting.push(Waiting { next: one.schedule.next_after(now), dataset: one.dataset }),
        }
    }
    due.sort_by(|(one, since), (other, other_since)| (since, &one.dataset).cmp(&(other_since, &other.dataset)));
    Ok((due, waiting))
}

/// Whether the root grants a dataset to the drill host of this signer. Without a root, whoever
/// tries finds out.
pub(super) fn is_granted(
    reader: &VaultReader,
    signer: Option<&lifeboat_engine::keys::sign::SignerKey>,
    dataset: &Name,
) -> bool {
    let trust = &reader.keys().trust;
    let Some(root) = trust.root() else { return true };
    let log = signer.and_then(|signer| trust.log_of(LogKind::DrillHosts, signer));
    let own = log.and_then(|log| root.drill_hosts.iter().find(|host| host.name == log.name));
    own.is_some_and(|own| own.datasets.iter().any(|pattern| pattern.covers(dataset)))
}

/// The newest drill that the vault tells of.
async fn last_in_vault(
    reader: &VaultReader,
    dataset: &Name,
    now: DateTime<Utc>,
    session: &Session,
) -> Result<Vec<DrillTrace>> {
    let found = session.cancellable("reading past drills", history(reader, dataset, 1, now)).await?;
    // To drill once too often does no harm, and the drill itself tells more.
    found.gaps.iter().for_each(|gap| session.out.note(format!("{dataset}: {gap}")));
    Ok(found.drills.iter().map(|past| DrillTrace::of(&past.report)).collect())
}

impl DueDrills {
    fn sum_up(&self, worst: &Error) -> Error {
        let failed: Vec<&str> =
            self.drills.iter().filter(|due| due.error.is_some()).map(|due| due.dataset.as_str()).collect();
        if failed.is_empty() {
            return Error::new(worst.class(), worst.chain());
        }
        let what = format!(
            "{} of {} due drills failed or missed an objective: {}",
            failed.len(),
            self.drills.len(),
            failed.join(", ")
        );
        Error::new(worst.class(), what).because(worst.chain()).hint("what each of them found is told above")
    }
}

impl fmt::Display for DueDrills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.drills.is_empty() && self.waiting.is_empty() {
            return write!(f, "No dataset has a `schedule` in [drill] or [dataset.drill].");
        }
        let mut table = Plain::new(&["DATASET", "DUE", "RESULT"]);
        for due in &self.drills {
            let result = match (&due.drill, due.exit_code) {
                (_, 0) => "passed".to_owned(),
                (Some(drill), _) if drill.report.passed => "passed, OBJECTIVE MISSED".to_owned(),
                (_, code) => format!("FAILED, exit code {code}"),
            };
            table.row([due.dataset.to_string(), human::time(due.due), result]);
        }
        for waiting in &self.waiting {
            let next = waiting.next.map_or("never".to_owned(), human::time);
            table.row([waiting.dataset.to_string(), next, "not due yet".to_owned()]);
        }
        write!(f, "{table}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_worst_code_is_what_was_proved_to_be_wrong() {
        let of = |classes: &[Class]| {
            let errors = classes.iter().map(|class| Some(Error::new(*class, class.as_str())));
            errors.fold(None, worse).map(|error| error.class())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[Class::ObjectiveMissed, Class::Failed]), Some(Class::Failed));
        assert_eq!(of(&[Class::Integrity, Class::Keys, Class::ObjectiveMissed]), Some(Class::Integrity));
        assert_eq!(of(&[Class::Storage, Class::Source]), Some(Class::Source));
        assert_eq!(worse(Some(Error::failed("x")), None).unwrap().class(), Class::Failed);
    }
}
