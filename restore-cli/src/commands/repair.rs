//! `repair`: puts back what replicas lost and this host or another replica has, and names the rest.
//!
//! The dataset's lock is not held while a question is open, so that it holds up no backup. What is
//! accepted after the answer is what was shown: if other things are missing by then, nothing is.

use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::prune::{Accept, Prune};
use lifeboat_engine::keep::repair::{self, RepairReport};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Class, Error, Result};

use crate::human;
use crate::session::Session;

/// Put back what replicas have lost, and name what is lost everywhere (exit 6); deletes nothing;
/// runs on a backup host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The dataset
    dataset: Name,
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

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if session.globals.replica.is_some() {
        return Err(Error::usage("repair always looks at every replica, because one may hold what another lacks")
            .hint("leave --replica out"));
    }
    let accepted = Accept { loss: args.accept_loss, branches: args.accept_branches };
    if session.out.is_json() && accepted != Accept::default() && !args.yes {
        return Err(Error::usage("repair cannot ask with --json").hint("pass --yes to confirm"));
    }
    let name = &args.dataset;
    let dataset = config.dataset(name).ok_or_else(|| {
        Error::usage(format!("the configuration has no dataset {name}")).hint("name a dataset of this configuration")
    })?;
    let keys = HostKeys::load(&config.keys)?;
    let replicas = config.open_replicas(&session.clock).await?;
    let state = StateDirectory::open(&config.state_directory)?;
    let lock = state.lock_dataset(name)?;
    let prune = Prune {
        config: &config,
        dataset,
        keys: &keys,
        replicas: &replicas,
        state: &state,
        clock: session.clock.clone(),
        cancel: session.cancel.clone(),
    };
    // Not dropped half-way: the copying stops by itself between two objects.
    let mut report = repair::repair(&prune).await?;
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
        let _lock = state.lock_dataset(name)?;
        report = repair::accept(&prune, accepted, report).await?;
    }
    session.out.result(&ReportView(&report))?;
    verdict(&report)
}

/// What remains to be done, as an error.
fn verdict(report: &RepairReport) -> Result<()> {
    let dataset = &report.dataset;
    if !report.is_whole() {
        let count = report.missing.len() + report.branches.len() + report.unrestorable.len();
        let hint = if !report.missing.is_empty() {
            format!(
                "find what is missing and put it back, then repair again; if it is lost for ever, run `lifeboat repair {dataset} --accept-loss`"
            )
        } else if !report.branches.is_empty() {
            format!("both can be restored: run `lifeboat repair {dataset} --accept-branches` to keep both")
        } else {
            format!(
                "look for the packs in old copies of a bucket; prune goes on, and retention lets these snapshots go: `lifeboat verify {dataset}` names all"
            )
        };
        let problems = human::count(count as u64, "problem");
        return Err(Error::integrity(format!("dataset {dataset} still has {problems}")).hint(hint));
    }
    let of_replicas = report.replicas.iter().filter_map(|state| state.error.as_ref());
    match report.doubts.iter().chain(of_replicas).next() {
        None => Ok(()),
        Some(why) => Err(Error::new(Class::Storage, format!("not all of dataset {dataset} could be looked at"))
            .because(why.clone())
            .hint("run `lifeboat check` to see why, then repair again")),
    }
}

/// The report, as people or programs read it.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct ReportView<'a>(&'a RepairReport);

impl fmt::Display for ReportView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write!(f, "Dataset {}", report.dataset)?;
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
        for missing in &report.missing {
            write!(f, "\n MISSING: {}", escape::line(missing))?;
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
