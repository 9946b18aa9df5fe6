//! `report`: what one drill proved and how drills went before, for people to read and for auditors
//! to check.
//!
//! - **Belief**: a report is shown if a trusted drill host signed it, and never else.
//! - **Evidence**: the page of `--html` holds the signed record and its signature, byte for byte,
//!   and tells how stock minisign checks them.
//! - **Rows**: a published report has digests instead of what databases said, so a page has, too.

mod charts;
mod page;
mod summary;

use std::fmt;
use std::path::PathBuf;

use lifeboat_engine::drill::{DrillHistory, DrillReport, evidence, history};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::state::{place_for, replace_file};
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use self::summary::Summary;
use crate::access::Need;
use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// Show what a drill proved and how drills went before, for people to read and auditors to check
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    /// The drill's id as `lifeboat --json drills` shows it, or the beginning of it
    #[arg(long, value_name = "DRILL")]
    drill: Option<String>,
    /// The newest drill, as without --drill
    #[arg(long, conflicts_with = "drill")]
    latest: bool,
    /// Also write one page of HTML that needs nothing else, with the signed report inside
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How many past drills to look at
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    last: u16,
}

#[derive(Serialize)]
struct Told {
    /// How it ended, for people.
    #[serde(skip)]
    headline: String,
    /// What it comes to.
    verdict: String,
    report: DrillReport,
    /// The drill host that signed it.
    host: Option<Name>,
    /// The public key that its signature was checked with.
    signer: String,
    /// Where it is in the vault.
    key: String,
    /// What this drill did not look at.
    not_compared: Vec<String>,
    /// What the drills before let expect.
    forecast: Vec<String>,
    /// How many drills were looked at, this one included.
    drills: usize,
    /// Why some drills may be missing.
    gaps: Vec<String>,
    /// The page that was written.
    html: Option<PathBuf>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let html = args.html.as_deref().map(place_for).transpose()?;
    let place = session.place()?;
    let reader = session.reader_for(&args.dataset, &place, Need::Manifests).await?;
    let now = session.clock.now();
    let reading = history(&reader, &args.dataset, args.last.into(), now);
    let past = session.cancellable("reading drill reports", reading).await?;
    past.gaps.iter().for_each(|gap| session.out.warning(gap));
    let drill = chosen(args, &past)?;
    let evidence = session.cancellable("reading the report", evidence(&reader, &args.dataset, &drill)).await?;
    let summary = Summary { report: &evidence.report, past: &past.drills };
    if let Some(file) = &html {
        replace_file(file, page::page(&summary, &evidence, &past.gaps, now).as_bytes())?;
    }
    let told = Told {
        headline: summary.headline(),
        verdict: summary.verdict(),
        not_compared: summary.not_compared(),
        forecast: summary.forecast(),
        drills: past.drills.len(),
        signer: evidence.signer.as_str().to_owned(),
        key: evidence.key.clone(),
        host: evidence.host.clone(),
        report: evidence.report.clone(),
        gaps: past.gaps.clone(),
        html,
    };
    session.out.result(&told)
}

/// The drill that was asked for.
fn chosen(args: &Args, past: &DrillHistory) -> Result<SnapshotId> {
    let dataset = &args.dataset;
    let ids = || past.drills.iter().map(|drill| &drill.report.drill);
    let Some(beginning) = args.drill.as_ref().filter(|_| !args.latest) else {
        return ids().next().cloned().ok_or_else(|| {
            Error::failed(format!("no drill of dataset {dataset} has a report that can be believed"))
                .hint(format!("run `lifeboat drill {dataset}` on a drill host, or start its timer"))
        });
    };
    let found: Vec<&SnapshotId> = ids().filter(|id| id.to_string().starts_with(beginning.as_str())).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::usage(format!("none of the last {} drills of {dataset} begins with {beginning}", args.last))
            .hint(format!("`lifeboat --json drills {dataset}` shows their ids; --last looks further back"))),
        several => Err(Error::usage(format!("{} drills of {dataset} begin with {beginning}", several.len()))
            .hint("pass more of the id")),
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        writeln!(f, "{}\n\n{}\n", self.headline, self.verdict)?;
        let failed = if report.passed { "" } else { ": not met, as the drill failed" };
        let objective = |actual: Option<f64>, objective: Option<f64>| {
            let shown = actual.map_or("not measured".to_owned(), human::seconds);
            let told = |objective| format!("{shown}, objective {}{failed}", human::seconds(objective));
            objective.map_or(shown.clone(), told)
        };
        let mut facts = vec![
            ("snapshot", report.snapshot.as_ref().map_or("none".to_owned(), ToString::to_string)),
            ("drilled", human::time(report.finished)),
            ("time to restore (RTO)", objective(report.rto_seconds, report.rto_objective_seconds)),
            ("age of data (RPO)", objective(report.rpo_seconds, report.rpo_objective_seconds)),
        ];
        facts.extend(summary::compared(report));
        facts.extend(self.not_compared.iter().map(|what| ("not compared", what.clone())));
        facts.extend(self.forecast.iter().map(|what| ("forecast", what.clone())));
        facts.push(("report", self.key.clone()));
        facts.push((
            "signed by",
            match &self.host {
                Some(host) => format!("{host}, {}", self.signer),
                None => self.signer.clone(),
            },
        ));
        facts.extend(self.html.iter().map(|file| ("page", file.display().to_string())));
        write!(f, "{}", Plain::facts(facts))
    }
}
