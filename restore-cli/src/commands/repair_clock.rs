//! `repair clock`: settles when snapshots were taken whose manifests tell false times, because a
//! clock was wrong.
//!
//! The dataset's lock is taken after the answer. The record settles what was shown, if it is still
//! so.

use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::prune::ClockReport;
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use super::opened::OpenedDataset;
use crate::human;
use crate::session::Session;

/// Settle the times of snapshots that were taken under a wrong clock; asks first, deletes nothing;
/// runs on a backup host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The dataset
    dataset: Name,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(args: &Args, session: &Session) -> Result<()> {
    let opened = OpenedDataset::open(&args.dataset, session).await?;
    let prune = opened.prune(session)?;
    let mut report = prune.false_times().await?;
    if !report.doubtful.is_empty() {
        if session.out.is_json() && !args.yes {
            return Err(Error::usage("repair cannot ask with --json").hint("pass --yes to confirm"));
        }
        session.out.text(ClockView(&report))?;
        let (now, name) = (human::time(report.now), &args.dataset);
        let times = human::count(report.doubtful.len() as u64, "time");
        let question =
            format!("This host's clock says that it is {now}. Is that right, and settle {times} of dataset {name}?");
        session.confirm(args.yes, question).await?;
        let _lock = opened.lock().await?;
        report = prune.settle_times(&report).await?;
    }
    session.out.result(&ClockView(&report))?;
    match report.doubts.first() {
        None => Ok(()),
        Some(why) => {
            Err(Error::new(Class::Storage, format!("not all of dataset {} could be looked at", report.dataset))
                .because(why.clone())
                .hint("run `lifeboat check` to see why, then repair again"))
        }
    }
}

/// The report, as people or programs read it.
#[derive(Serialize)]
#[serde(transparent)]
struct ClockView<'a>(&'a ClockReport);

impl fmt::Display for ClockView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        write!(f, "Dataset {}", report.dataset)?;
        for wrong in &report.doubtful {
            let (claimed, time) = (human::time(wrong.claimed), human::time(wrong.time));
            write!(f, "\n {} tells {claimed}: {}", wrong.snapshot, wrong.doubt)?;
            let verb = if wrong.time == wrong.claimed { "it keeps" } else { "it gets" };
            write!(f, "\n   {verb} {time}: {}", escape::line(&wrong.because))?;
        }
        for settled in &report.settled {
            let (claimed, time) = (human::time(settled.claimed), human::time(settled.time));
            write!(f, "\n {} was taken {time}, as settled; its manifest tells {claimed}", settled.snapshot)?;
        }
        for doubt in &report.doubts {
            write!(f, "\n not looked at: {}", escape::line(doubt))?;
        }
        if report.doubtful.is_empty() && report.doubts.is_empty() {
            write!(f, "\n no other time is false")?;
        }
        Ok(())
    }
}
