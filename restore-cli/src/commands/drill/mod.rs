//! `drill`: restores into a throw-away database, proves it equal, and leaves evidence.
//!
//! Whatever happens, even if no replica answers or a signal comes, the metrics record the attempt,
//! and the exit code is 0 only if the required level was reached. Nothing but the report is left
//! behind.

mod due;
mod grants;
mod group;
mod loss;
mod loss_page;
mod lost_region;
mod named;
mod one;
mod region_loss;
mod view;
mod worst;

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use lifeboat_engine::config::{Config, ProofLevel};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::worker::{self, Swept, WorkerPlace};
use lifeboat_engine::{Error, Result};

pub(super) use self::group::{group_of, no_moment};
use self::one::OneDrill;
use crate::as_unit::{self, UnitUser};
use crate::flags::Selection;
use crate::recording::Recording;
use crate::session::Session;
use crate::textfile::Textfile;

const LEVELS: [ProofLevel; 4] = [ProofLevel::Fetched, ProofLevel::Loaded, ProofLevel::Checked, ProofLevel::Proved];

/// Restore into a temporary database, check it, prove that it is equal, measure, and report
///
/// Exit code 0 means that the required level was reached within the objectives, 8 that it was
/// reached, but not within the objectives. With --due, it is that of the drill that went worst.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    #[arg(required_unless_present_any = ["due", "region_loss", "group"])]
    dataset: Option<Name>,
    /// Drill what the `schedule` of `[drill]` and `[dataset.drill]` makes due, one after the other;
    /// a failure does not stop the next
    #[arg(long, conflicts_with_all = ["dataset", "snapshot", "at", "level", "report", "textfile"])]
    due: bool,
    /// Rehearse the loss of a region: restore everything as if its replicas were gone, in the order
    /// of `[recovery]` and `[dataset.recovery]`, and tell what that would have meant
    #[arg(long, value_name = "REGION", conflicts_with_all = ["dataset", "due", "snapshot", "at", "level", "textfile"])]
    region_loss: Option<String>,
    /// Drill all members of a group as they were at its newest common moment, and look whether what
    /// one refers to is in the other, as `[[group.reference]]` says
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["dataset", "due", "region_loss", "snapshot", "at", "level", "report"])]
    group: Option<Name>,
    /// With --region-loss: only these datasets, and those that they come after
    #[arg(long, value_name = "DATASET", value_delimiter = ',', requires = "region_loss")]
    datasets: Vec<Name>,
    /// With --region-loss: also write one page of HTML that needs nothing else
    #[arg(long, value_name = "FILE", requires = "region_loss")]
    html: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// The level to reach [default: that of the configuration, or the highest that the kind of
    /// source allows]
    #[arg(long, value_parser = PossibleValuesParser::new(LEVELS.map(ProofLevel::as_str)).map(|word| level(&word)))]
    level: Option<ProofLevel>,
    /// Restore the whole snapshot, also what has not changed since a drill proved it (`full_every`)
    #[arg(long)]
    whole: bool,
    /// Also write the report to this file, and its signature beside it if this host has a drill
    /// signer
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write metrics for node-exporter's textfile collector, with --group those of the group alone
    #[arg(long, value_name = "FILE.prom")]
    textfile: Option<PathBuf>,
    /// With --due or --group: write the metrics of each dataset to lifeboat-drill-DATASET.prom
    /// here, and of each group to lifeboat-group-GROUP.prom
    #[arg(long, value_name = "DIR", conflicts_with_all = ["dataset", "region_loss", "textfile"])]
    textfiles: Option<PathBuf>,
    /// Socket of the workers that do the work with the database [default: the program
    /// lifeboat-worker beside this one]
    #[arg(long, value_name = "PATH", env = "LIFEBOAT_WORKER_SOCKET")]
    worker_socket: Option<PathBuf>,
    /// Do not write the report into the vault
    #[arg(long)]
    no_publish: bool,
    #[command(flatten)]
    recording: Recording,
}

fn level(word: &str) -> ProofLevel {
    LEVELS.into_iter().find(|level| level.as_str() == word).unwrap_or(ProofLevel::Proved)
}

impl Args {
    fn worker<'a>(&self, session: &'a Session) -> std::borrow::Cow<'a, WorkerPlace> {
        match &self.worker_socket {
            Some(socket) => std::borrow::Cow::Owned(WorkerPlace::Socket(socket.clone())),
            None => std::borrow::Cow::Borrowed(&session.worker),
        }
    }
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    // Clap waives `requires` where the other flag conflicts with one that was passed.
    if args.html.is_some() && args.region_loss.is_none() {
        let dataset = args.dataset.as_ref().map_or("DATASET", Name::as_str);
        return Err(Error::usage("--html goes with --region-loss")
            .hint(format!("leave it out, and run `lifeboat report {dataset} --html FILE` after the drill")));
    }
    if !args.recording.is_by_owner()
        && let Some(place) = own_config(session)
        && let Some(user) = UnitUser::of_drill(&place)
    {
        return as_unit::run_again(&place, &user, session).await;
    }
    sweep(session);
    if let Some(region) = &args.region_loss {
        return region_loss::run(args, region, session).await;
    }
    if let Some(group) = &args.group {
        return group::run(args, group, session).await;
    }
    let Some(dataset) = &args.dataset else {
        return due::run(args, session).await;
    };
    named::refuse_unknown(dataset, session).await?;
    let textfile = args.textfile.as_deref().map(Textfile::open).transpose()?;
    let drill = OneDrill {
        args,
        session,
        dataset,
        textfile: textfile.as_ref(),
        is_scheduled: false,
        without: None,
        of_group: None,
    };
    let (drilled, error) = drill.run().await;
    let shown = drilled.map_or(Ok(()), |drilled| session.out.result(&drilled));
    error.map_or(Ok(()), Err).and(shown)
}

/// Removes what drills left that were killed.
pub(super) fn sweep(session: &Session) {
    let Swept { directories, processes, problems } = worker::sweep(&session.temporary);
    if !directories.is_empty() {
        let directories: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        session.out.note(format!(
            "a drill was killed; what it left is removed: {}, processes: {processes}",
            directories.join(", ")
        ));
    }
    problems.iter().for_each(|problem| session.out.warning(problem));
}

/// The configuration of this machine, unless somebody drills with keys of his own.
pub(super) fn own_config(session: &Session) -> Option<Config> {
    let is_own = session.globals.identities.is_empty() && !session.globals.given.is_named();
    is_own.then(|| session.configuration().ok()).flatten()
}
