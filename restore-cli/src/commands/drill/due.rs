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
use lifeboat_engine::config::{Config, GroupConfig};
use lifeboat_engine::drill::{DrillMemory, due_since};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use self::find::{Problems, Scheduled, WhatIsDue, find};
use super::Args;
use super::group::{self, GroupDrilled};
use super::one::OneDrill;
use super::view::Drilled;
use super::worst::worse;
use crate::human;
use crate::session::Session;
use crate::table::Plain;
use crate::textfile::Textfile;

#[derive(Serialize)]
struct DueDrills {
    /// In the order in which they ran.
    drills: Vec<DueDrill>,
    /// Scheduled, and not due yet.
    waiting: Vec<Waiting>,
    /// Groups, which are drilled first: the drills of their members may make others needless.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<DueGroup>,
}

#[derive(Serialize)]
struct DueGroup {
    group: Name,
    /// When the schedule fired.
    due: DateTime<Utc>,
    /// What was found. `None`: the drill failed before there was anything.
    drill: Option<GroupDrilled>,
    error: Option<String>,
    exit_code: u8,
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
    let no_dataset =
        config.drill.schedule.is_none() && config.datasets.iter().all(|dataset| dataset.drill.schedule.is_none());
    if no_dataset && config.groups.iter().all(|group| group.drill_schedule.is_none()) {
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
    let mut told = DueDrills { drills: Vec::new(), waiting, groups: Vec::new() };
    for (group, since) in due_groups(&config, session) {
        if session.cancel.is_cancelled() {
            break;
        }
        session.out.note(format!("drilling group {}, due since {}", group.name, human::time(since)));
        let file = args.textfiles.as_deref().map(|folder| Textfile::open(&file_of_group(folder, &group.name)));
        let (textfile, unwritable) = file.transpose().map_or_else(|error| (None, Some(error)), |file| (file, None));
        let drilled = Box::pin(group::drill(args, &config, group, textfile.as_ref(), true, session)).await;
        let (drilled, error) = (drilled.0, worse(drilled.1, unwritable));
        if let Some(drilled) = &drilled {
            session.out.text(format!("{drilled}\n"))?;
        }
        if let Some(error) = &error {
            session.out.warning(format!("the drill of group {}: {}", group.name, error.chain_and_hint()));
        }
        told.groups.push(DueGroup {
            group: group.name.clone(),
            due: since,
            exit_code: error.as_ref().map_or(0, |error| error.class().exit_code()),
            error: error.as_ref().map(Error::chain),
            drill: drilled,
        });
        worst = worse(worst, error);
    }
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
                Box::pin(
                    OneDrill { args, session, dataset, textfile, is_scheduled: true, without: None, of_group: None }
                        .run(),
                )
                .await
            }
            // What cannot be told is drilled all the same.
            Err(_) => {
                Box::pin(
                    OneDrill {
                        args,
                        session,
                        dataset,
                        textfile: None,
                        is_scheduled: true,
                        without: None,
                        of_group: None,
                    }
                    .run(),
                )
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

/// The groups that are due, and since when, by what this host remembers.
fn due_groups<'c>(config: &'c Config, session: &Session) -> Vec<(&'c GroupConfig, DateTime<Utc>)> {
    let scheduled = config.groups.iter().filter_map(|group| Some((group, group.drill_schedule.as_ref()?)));
    let due = scheduled.filter_map(|(group, schedule)| {
        let memory = DrillMemory::of_group(&config.state_directory, &group.name);
        let attempts = memory.attempts().unwrap_or_else(|error| {
            session.out.warning(format!("what this host drilled of {} is not known: {}", group.name, error.chain()));
            Vec::new()
        });
        let begun: Vec<_> = attempts.iter().filter(|attempt| attempt.scheduled).map(|attempt| attempt.began).collect();
        Some((group, due_since(schedule, session.clock.now(), &begun)?))
    });
    due.collect()
}

/// Where the metrics of a group are.
fn file_of_group(folder: &Path, group: &Name) -> std::path::PathBuf {
    folder.join(format!("lifeboat-group-{group}.prom"))
}

/// Where the metrics of a dataset are.
fn file_of(folder: &Path, dataset: &Name) -> std::path::PathBuf {
    folder.join(format!("lifeboat-drill-{dataset}.prom"))
}

impl DueDrills {
    fn sum_up(&self, worst: &Error) -> Error {
        let of_groups = self.groups.iter().filter(|due| due.error.is_some()).map(|due| due.group.as_str());
        let of_datasets = self.drills.iter().filter(|due| due.error.is_some()).map(|due| due.dataset.as_str());
        let failed: Vec<&str> = of_groups.chain(of_datasets).collect();
        if failed.is_empty() {
            return Error::new(worst.class(), worst.chain());
        }
        let what = format!(
            "{} of {} due drills failed or missed an objective: {}",
            failed.len(),
            self.drills.len() + self.groups.len(),
            failed.join(", ")
        );
        Error::new(worst.class(), what).because(worst.chain()).hint("what each of them found is told above")
    }
}

impl fmt::Display for DueDrills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.drills.is_empty() && self.waiting.is_empty() && self.groups.is_empty() {
            return write!(f, "No dataset that this host may drill has a `schedule`.");
        }
        let mut table = Plain::new(&["DATASET", "DUE", "RESULT"]);
        for due in &self.groups {
            let result =
                if due.exit_code == 0 { "passed".to_owned() } else { format!("FAILED, exit code {}", due.exit_code) };
            table.row([format!("group {}", due.group), human::time(due.due), result]);
        }
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
