//! `drill --due`: runs the drills that are due, one after the other.
//!
//! - **What is due**: a dataset whose schedule has fired since the last drill that counts began.
//!   One that this host began by schedule counts, whatever became of it, unless it was cancelled:
//!   what fails, or kills its host, is not tried again before the schedule fires. Of all others,
//!   only one that passed counts, as far as the plan asks for.
//! - **Which datasets**: those of the configuration with a `schedule`. Where `[drill]` has one,
//!   also those of the vault that this drill host is granted, and that have no section. Of these, a
//!   name without any snapshot that somebody signed is left aside: whoever writes into a bucket
//!   makes no work.
//! - **Once**: a lock keeps two of these programs from drilling the same. The system releases it
//!   however its holder ends.
//! - **Failure**: what fails, before the drills or in one, does not stop the next drill, and the
//!   metrics tell that it is due before anything can fail. The exit code is that of the worst.

mod find;

use std::fmt;
use std::path::Path;

use chrono::{DateTime, Utc};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use self::find::{Problems, Scheduled, WhatIsDue, find};
use super::Args;
use super::one::OneDrill;
use super::view::Drilled;
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

pub(super) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if config.drill.schedule.is_none() && config.datasets.iter().all(|dataset| dataset.drill.schedule.is_none()) {
        return Err(Error::configuration("nothing has a `schedule`, so no drill is ever due")
            .hint("add [drill] with a `schedule`, such as \"0 4 * * sun\""));
    }
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let Some(_lock) = state.try_lock_drills()? else {
        return Err(
            Error::failed("another `lifeboat drill --due` or a rehearsal is running").hint("wait until it ends")
        );
    };
    let WhatIsDue { due, waiting, problems: Problems(mut worst) } = Box::pin(find(args, &config, session)).await;
    let mut told = DueDrills { drills: Vec::new(), waiting };
    for (Scheduled { dataset, schedule, .. }, since) in &due {
        if session.cancel.is_cancelled() {
            worst = worse(worst, Some(Error::failed("drilling what is due was cancelled")));
            break;
        }
        session.out.note(format!("drilling {dataset}, due since {}", human::time(*since)));
        let textfile = args.textfiles.as_deref().map(|folder| Textfile::open(&file_of(folder, dataset))).transpose();
        let (drilled, error) = match &textfile {
            Ok(textfile) => {
                let textfile = textfile.as_ref();
                Box::pin(OneDrill { args, session, dataset, textfile, is_scheduled: true, without: None }.run()).await
            }
            // What cannot be told is drilled all the same.
            Err(_) => {
                Box::pin(OneDrill { args, session, dataset, textfile: None, is_scheduled: true, without: None }.run())
                    .await
            }
        };
        let textfile = textfile.and_then(|textfile| match textfile {
            Some(textfile) if session.cancel.is_cancelled() => {
                textfile.note_due(dataset, Some(*since), schedule.expected_interval(session.clock.now()))
            }
            _ => Ok(()),
        });
        let error = worse(error, textfile.err());
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
            return write!(f, "No dataset that this host may drill has a `schedule`.");
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
