//! `bisect`: since when a query gives another answer.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_engine::config::DrillConfig;
use lifeboat_engine::databases::proof::{DrillQuery, Number};
use lifeboat_engine::drill::{Asking, Bisect};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::log::LogEvent;
use lifeboat_engine::restore::Selector;
use lifeboat_engine::worker::{DrillDirectory, WorkerPlace};
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use super::drill::{own_config, sweep};
use crate::access::Need;
use crate::as_unit::{self, UnitUser};
use crate::human;
use crate::recording::{self, Recording, Shorter};
use crate::session::Session;
use crate::table::Plain;

/// Find the newest snapshot for which a query gives what it should, restoring few of them into
/// temporary databases
///
/// It assumes that what once failed fails in all later snapshots. A query that ends in an error is
/// no answer, and ends the search. Exit code 0 means that the last good snapshot was found, 8 that
/// no snapshot is good.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("expectation").required(true).multiple(true).args(["expect", "at_least", "at_most"]))]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    /// One SQL statement that only reads, such as `SELECT count(*) FROM orders`
    #[arg(long, value_name = "SQL")]
    sql: String,
    /// What it must give, as text
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["at_least", "at_most"])]
    expect: Option<String>,
    /// It must give a number that is not less
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    at_least: Option<Number>,
    /// It must give a number that is not more
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    at_most: Option<Number>,
    /// The database to ask; needed if a snapshot has several
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Socket of the workers that do the work with the database [default: the program
    /// lifeboat-worker beside this one]
    #[arg(long, value_name = "PATH", env = "LIFEBOAT_WORKER_SOCKET")]
    worker_socket: Option<PathBuf>,
    #[command(flatten)]
    recording: Recording,
}

fn number(text: &str) -> Result<Number, String> {
    let whole = text.parse().map(Number::Whole).ok();
    let real = || text.parse().ok().filter(|number: &f64| number.is_finite()).map(Number::Real);
    whole.or_else(real).ok_or_else(|| "this is no number".to_owned())
}

/// One snapshot that was asked.
#[derive(Debug, Clone, Serialize)]
struct BisectStep {
    snapshot: SnapshotId,
    taken: DateTime<Utc>,
    holds: bool,
    /// What the query gave.
    detail: String,
    seconds: f64,
}

#[derive(Serialize)]
struct Bisected {
    dataset: Name,
    sql: String,
    snapshots: usize,
    steps: Vec<BisectStep>,
    last_good: Option<SnapshotId>,
    first_bad: Option<SnapshotId>,
    /// The command that restores the last good snapshot, but for its target.
    restore: Option<String>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    if !args.recording.is_by_owner()
        && let Some(config) = own_config(session)
        && let Some(user) = UnitUser::of_drill(&config)
    {
        return as_unit::run_again(&config, &user, session).await;
    }
    sweep(session);
    let place = session.place()?;
    let settings = match &place.config {
        Some(config) => config.drill_of(&args.dataset).clone(),
        None => DrillConfig::default(),
    };
    let worker = match &args.worker_socket {
        Some(socket) => WorkerPlace::Socket(socket.clone()),
        None => session.worker.clone(),
    };
    session.tell_what_guards_the_keys(&worker, "as root, or by lifeboat-worker.socket, another user does it");
    let reader = session.reader_for(&args.dataset, &place, Need::Packs).await?;
    let look = async {
        session.datasets(&reader, Some(&args.dataset)).await?;
        reader.believed(&args.dataset, session.clock.now()).await
    };
    let believed = session.cancellable("listing the snapshots", look).await?;
    believed.warnings.iter().for_each(|warning| session.out.warning(warning));
    let times: BTreeMap<SnapshotId, DateTime<Utc>> =
        believed.snapshots.iter().map(|(snapshot, taken)| (snapshot.clone(), taken.time)).collect();
    let snapshots: Vec<SnapshotId> = believed.snapshots.into_iter().map(|(snapshot, _)| snapshot).collect();
    let query = DrillQuery {
        database: args.database.clone(),
        sql: args.sql.clone(),
        expect: args.expect.clone(),
        at_least: args.at_least,
        at_most: args.at_most,
        ..DrillQuery::default()
    };
    let asking = Asking {
        reader: &reader,
        dataset: &args.dataset,
        query: &query,
        directories: &settings.server_directories,
        jobs: place.limits.cpu,
        environment: &session.tools,
        worker: &worker,
        cancel: session.cancel.clone(),
    };
    let (count, mut bisect, mut steps) = (snapshots.len(), Bisect::among(snapshots), Vec::new());
    while let Some(snapshot) = bisect.next().cloned() {
        let selector = Selector::Id(snapshot.clone());
        let event = |unrecorded| LogEvent::Drill {
            dataset: args.dataset.clone(),
            snapshot: recording::wanted(&selector),
            user: recording::user(),
            unrecorded,
        };
        args.recording.record(session, &place, &reader, Shorter::Refuse, event).await?;
        session.out.note(format!(
            "asking {snapshot}; at most {} to ask",
            human::count(bisect.steps_left().into(), "snapshot")
        ));
        let (began, scratch) = (session.clock.elapsed(), DrillDirectory::make(&session.temporary)?);
        let cannot = |error: Error| error.within(format!("cannot ask snapshot {snapshot}"));
        let streams = match asking.open(&snapshot).await {
            // The replicas have answered, and none has it whole.
            Err(error) if error.class() == Class::Integrity => {
                session.out.warning(format!("{snapshot} is left aside, as it cannot be opened: {}", error.chain()));
                bisect.leave_aside();
                continue;
            }
            opened => opened.map_err(cannot)?,
        };
        let taken = times.get(&snapshot).copied().unwrap_or_else(|| snapshot.time());
        let answer = asking.ask(&streams, taken, scratch.work().to_owned()).await.map_err(cannot)?;
        let seconds = session.clock.elapsed().saturating_sub(began).as_secs_f64();
        let holds = answer.passed;
        session.out.note(format!("{snapshot} {}: {}", word(holds), answer.detail));
        bisect.note(holds);
        steps.push(BisectStep { snapshot, taken, holds, detail: answer.detail, seconds });
    }
    if steps.is_empty() {
        return Err(Error::integrity(format!("no snapshot of dataset {} can be opened", args.dataset))
            .hint(format!("run `lifeboat verify {}` to see what is damaged", args.dataset)));
    }
    let (last_good, first_bad) = (bisect.last_good().cloned(), bisect.first_bad().cloned());
    let restore = last_good.as_ref().map(|good| {
        let database = args.database.as_ref().map(|name| format!(" --database {}", crate::shell::quoted(name)));
        format!("lifeboat restore {} --snapshot {good}{}", args.dataset, database.unwrap_or_default())
    });
    let (dataset, sql) = (args.dataset.clone(), args.sql.clone());
    let is_found = last_good.is_some();
    session.out.result(&Bisected { dataset, sql, snapshots: count, steps, last_good, first_bad, restore })?;
    if is_found {
        return Ok(());
    }
    Err(Error::new(Class::ObjectiveMissed, "the query gives what it should for no snapshot")
        .hint("look at what it gave for the oldest one: the fault may be older than all snapshots, or in the query"))
}

fn word(holds: bool) -> &'static str {
    if holds { "is good" } else { "is bad" }
}

impl fmt::Display for Bisected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Plain::new(&["SNAPSHOT", "TAKEN", "", "ANSWER"]);
        for step in &self.steps {
            let answer = step.detail.lines().next().unwrap_or_default().to_owned();
            steps.row([step.snapshot.to_string(), human::time(step.taken), word(step.holds).to_owned(), answer]);
        }
        write!(f, "{steps}\n\n")?;
        let told = |snapshot: &Option<SnapshotId>, none: &str| {
            let taken = |id: &SnapshotId| {
                self.steps.iter().find(|step| step.snapshot == *id).map(|step| human::time(step.taken))
            };
            snapshot.as_ref().map_or_else(|| none.to_owned(), |id| format!("{id} ({})", taken(id).unwrap_or_default()))
        };
        let mut facts = vec![
            ("asked", format!("{} of {}", self.steps.len(), human::count(self.snapshots as u64, "snapshot"))),
            ("last good", told(&self.last_good, "none")),
            ("first bad", told(&self.first_bad, "none: the newest snapshot is good")),
        ];
        facts.extend(self.restore.iter().map(|restore| ("to restore", format!("{restore} --to-…"))));
        if self.first_bad.is_some() {
            facts.push(("assumed", "what once failed fails in all later snapshots".to_owned()));
        }
        write!(f, "{}", Plain::facts(facts))
    }
}
