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
//! - **Groups** come first, by their own schedules. Each member's drill counts as one by schedule
//!   where its plan takes the newest snapshot, so whether it is still due is looked for once more.
//! - **Once**: a lock keeps two of these programs from drilling the same. The system releases it
//!   however its holder ends.
//! - **Failure**: what fails, before the drills or in one, does not stop the next drill, and the
//!   metrics tell that it is due before anything can fail. The exit code is that of the worst.

mod find;
mod groups;

use std::fmt;

use chrono::{DateTime, Utc};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use self::find::{Problems, Scheduled, WhatIsDue, find, look_again};
use super::Args;
use super::group::GroupDrilled;
use super::one::OneDrill;
use super::view::Drilled;
use super::worst::worse;
use crate::human;
use crate::session::Session;
use crate::table::Plain;
use crate::textfile::{Textfile, file_of};

#[derive(Serialize)]
struct DueDrills {
    /// In the order in which they ran.
    drills: Vec<DueDrill>,
    /// Scheduled, and not due yet.
    waiting: Vec<Waiting>,
    /// Groups, which are drilled first: a member that they have proved is due no more.
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
    let (due_groups, problems) = groups::find(args, &config, session);
    let (mut found, mut worst) = (Box::pin(find(args, &config, session, problems)).await, None);
    let mut told = DueDrills { drills: Vec::new(), waiting: Vec::new(), groups: Vec::new() };
    for (group, since) in due_groups.iter().filter(|_| !session.cancel.is_cancelled()) {
        let (due, error) = groups::drill(args, &config, group, *since, session).await?;
        told.groups.push(due);
        worst = worse(worst, error);
    }
    if !told.groups.is_empty() && !session.cancel.is_cancelled() {
        // What their drills have proved is not drilled again.
        found = look_again(args, &config, session, found);
    }
    let WhatIsDue { due, waiting, problems: Problems(problem) } = found;
    told.waiting = waiting;
    let mut worst = worse(problem, worst);
    if session.cancel.is_cancelled() {
        worst = worse(worst, Some(Error::failed("drilling what is due was cancelled")));
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
