//! `runs`: how the backups of this host ended, from its state directory.

use std::fmt;

use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::state::past_runs::{self, PastRun};
use lifeboat_engine::{Error, Result};
use serde::Serialize;

use crate::human;
use crate::session::Session;
use crate::table::Plain;

/// List the backups that this host ran, newest first: when, how long, what they stored, and why
/// they failed
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this dataset
    dataset: Option<Name>,
    /// How many of each dataset
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    last: u16,
}

#[derive(Serialize)]
struct Runs {
    runs: Vec<DatasetRun>,
}

#[derive(Serialize)]
struct DatasetRun {
    dataset: Name,
    #[serde(flatten)]
    run: PastRun,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    if !config.state_directory.exists() {
        return session.out.result(&Runs { runs: Vec::new() });
    }
    let state = StateDirectory::open(&config.state_directory)?;
    let mut runs = Vec::new();
    let configured = config.datasets.iter().map(|dataset| &dataset.name);
    // What is configured no more may have a history, too.
    let names: Vec<&Name> = args.dataset.as_ref().map_or_else(|| configured.collect(), |only| vec![only]);
    for dataset in names {
        let newest = past_runs::newest(&state, dataset, args.last.into())?;
        if newest.is_empty() && args.dataset.is_some() && config.dataset(dataset).is_none() {
            return Err(Error::usage(format!("this host has never backed up a dataset {dataset}"))
                .hint("`lifeboat runs` lists those of its configuration"));
        }
        runs.extend(newest.into_iter().map(|run| DatasetRun { dataset: dataset.clone(), run }));
    }
    session.out.result(&Runs { runs })
}

impl DatasetRun {
    fn outcome(&self) -> String {
        let run = &self.run;
        match (&run.snapshot, &run.error) {
            (Some(snapshot), _) if run.behind.is_empty() => snapshot.to_string(),
            (Some(snapshot), _) => {
                let behind: Vec<&str> = run.behind.iter().map(Name::as_str).collect();
                format!("{snapshot}, BEHIND: {}", behind.join(", "))
            }
            (None, Some(error)) => {
                let word = if run.class.as_deref() == Some("unknown") { "UNKNOWN" } else { "FAILED" };
                format!("{word}: {error}")
            }
            (None, None) => "-".to_owned(),
        }
    }
}

impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs.is_empty() {
            return write!(f, "No runs.");
        }
        let mut table = Plain::new(&["DATASET", "BEGAN", ">TOOK", "START", ">SIZE", ">STORED", "OUTCOME"]);
        for of in &self.runs {
            let run = &of.run;
            let bytes = |bytes| if run.snapshot.is_some() { human::bytes(bytes) } else { "-".to_owned() };
            table.row([
                of.dataset.to_string(),
                human::time(run.began),
                run.ended.map_or("killed".to_owned(), |ended| human::seconds((ended - run.began).as_seconds_f64())),
                run.start.clone(),
                bytes(run.raw_bytes),
                bytes(run.stored_bytes),
                of.outcome(),
            ]);
        }
        write!(f, "{table}")?;
        for of in &self.runs {
            for warning in &of.run.warnings {
                let warning = lifeboat_engine::base::escape::line(warning);
                write!(f, "\n warning of {} {}: {warning}", of.dataset, human::time(of.run.began))?;
            }
        }
        Ok(())
    }
}
