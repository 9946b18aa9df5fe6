//! `repair`: puts back what replicas lost and this host or another replica has, and names the rest.
//! `verify --repair` does so, too, after it has replaced what is damaged.
//!
//! The dataset's lock is not held while a question is open, so that it holds up no backup. What is
//! accepted after the answer is what was shown: if other things are missing by then, nothing is.

use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::prune::Accept;
use lifeboat_engine::keep::repair::{self, RepairReport};
use lifeboat_engine::keep::scrub::Mended;
use lifeboat_engine::{Class, Error, Result};

use super::opened::OpenedDataset;
use super::repair_clock;
use crate::human;
use crate::session::Session;

/// What to do about what no repair mends.
pub(super) const STILL_DAMAGED: &str = "what is left is whole in no replica that answers: look for old copies of it, and see \"LifeboatScrubDamage\" in OPERATIONS.md";

/// Put back what replicas have lost, and name what is lost everywhere (exit 6); deletes nothing;
/// runs on a backup host
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// The dataset
    #[arg(required = true)]
    dataset: Option<Name>,
    /// Give up what is missing, so that old snapshots are pruned again; asks first
    #[arg(long)]
    accept_loss: bool,
    /// Keep snapshots of two hosts that did not see each other, and prune again; asks first
    #[arg(long)]
    accept_branches: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// What is repaired beside what is lost.
#[derive(Debug, clap::Subcommand)]
enum What {
    Clock(repair_clock::Args),
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    if let Some(What::Clock(args)) = &args.what {
        return repair_clock::run(args, session).await;
    }
    let accepted = Accept { loss: args.accept_loss, branches: args.accept_branches };
    if session.out.is_json() && accepted != Accept::default() && !args.yes {
        return Err(Error::usage("repair cannot ask with --json").hint("pass --yes to confirm"));
    }
    let name = args.dataset.as_ref().ok_or_else(|| Error::usage("repair needs a dataset").hint("name one"))?;
    let opened = OpenedDataset::open(name, session).await?;
    let prune = opened.prune(session)?;
    let lock = opened.lock().await?;
    // Not dropped half-way: the copying stops by itself between two objects.
    let mut report = repair::repair(&prune, None).await?;
    let gives_up = accepted.loss && !report.missing.is_empty();
    if gives_up || (accepted.branches && !report.branches.is_empty()) {
        session.out.text(ReportView(&report))?;
        let question = if gives_up {
            format!("Give up for ever what is missing of dataset {name}? Later prunes delete what only that needs")
        } else {
            format!("Keep both branches of dataset {name}?")
        };
        drop(lock);
        session.confirm(args.yes, question).await?;
        let _lock = opened.lock().await?;
        report = repair::accept(&prune, accepted, report).await?;
    }
    session.out.result(&ReportView(&report))?;
    verdict(&report)
}

/// What remains to be done, as an error.
pub(super) fn verdict(report: &RepairReport) -> Result<()> {
    let dataset = &report.dataset;
    let of_replicas = report.replicas.iter().filter_map(|state| state.error.as_ref());
    let not_looked_at = report.doubts.iter().chain(of_replicas).next();
    // What was not looked at may hold what is missing.
    if !report.is_whole() && report.doubts.is_empty() {
        let count =
            report.missing.len() + report.branches.len() + report.unrestorable.len() + report.still_damaged().count();
        let hint = if !report.missing.is_empty() {
            format!(
                "find what is missing and put it back, then repair again; if it is lost for ever, run `lifeboat repair {dataset} --accept-loss`"
            )
        } else if !report.branches.is_empty() {
            format!("both can be restored: run `lifeboat repair {dataset} --accept-branches` to keep both")
        } else if report.unrestorable.is_empty() {
            STILL_DAMAGED.to_owned()
        } else {
            format!(
                "look for the packs in old copies of a bucket; prune goes on, and retention lets these snapshots go: `lifeboat verify {dataset}` names all"
            )
        };
        let problems = human::count(count as u64, "problem");
        return Err(Error::integrity(format!("dataset {dataset} still has {problems}")).hint(hint));
    }
    match not_looked_at {
        None => Ok(()),
        Some(why) => Err(Error::new(Class::Storage, format!("not all of dataset {dataset} could be looked at"))
            .because(why.clone())
            .hint("run `lifeboat check` to see why, then repair again")),
    }
}

/// The report, as people or programs read it.
#[derive(serde::Serialize)]
#[serde(transparent)]
pub(super) struct ReportView<'a>(pub(super) &'a RepairReport);

impl fmt::Display for ReportView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write!(f, "Dataset {}", report.dataset)?;
        for Mended { replica, object, problem, repaired_from, unrepaired } in &report.mended {
            let (object, problem) = (escape::line(object), escape::line(problem));
            match (repaired_from, unrepaired) {
                (Some(from), _) => write!(f, "\n repaired in replica {replica}, from {from}: {object}\n  {problem}")?,
                (None, why) => {
                    let why = why.as_deref().unwrap_or_default();
                    write!(
                        f,
                        "\n DAMAGED in replica {replica}: {object}\n  {problem}\n  not repaired: {}",
                        escape::line(why)
                    )?;
                }
            }
        }
        for key in &report.put_back {
            write!(f, "\n put back: {}", escape::line(key))?;
        }
        for state in report.replicas.iter().filter(|state| state.copied_objects > 0) {
            let (objects, bytes) = (human::count(state.copied_objects, "object"), human::bytes(state.copied_bytes));
            write!(f, "\n copied to replica {}: {objects}, {bytes}", state.replica)?;
        }
        for state in &report.replicas {
            if let Some(error) = &state.error {
                write!(f, "\n replica {} is behind: {}", state.replica, escape::line(error))?;
            }
        }
        let missing_is = if report.doubts.is_empty() { "MISSING" } else { "missing where it was looked for" };
        for missing in &report.missing {
            write!(f, "\n {missing_is}: {}", escape::line(missing))?;
        }
        for branches in &report.branches {
            write!(f, "\n BRANCHES: {}", escape::line(branches))?;
        }
        for lost in &report.unrestorable {
            write!(f, "\n CANNOT BE RESTORED: {}", escape::line(lost))?;
        }
        for doubt in &report.doubts {
            write!(f, "\n not looked at: {}", escape::line(doubt))?;
        }
        if report.is_whole() && report.doubts.is_empty() {
            write!(f, "\n nothing is missing")?;
        }
        Ok(())
    }
}
