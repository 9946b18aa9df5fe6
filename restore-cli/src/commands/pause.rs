//! `pause` and `resume`: ask the daemon to start no backup by schedule for a while, and to start
//! them again.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::base::settings::units;
use lifeboat_engine::config::Config;
use lifeboat_engine::control;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::human;
use crate::session::Session;

/// Ask the daemon to start no backup of a dataset by schedule for a while. The pause ends by
/// itself; what was due meanwhile then starts once. What runs goes on, and `trigger` still works
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// For how long, such as 90m or 4h; at most 7d
    #[arg(long = "for", value_name = "TIME", value_parser = units::duration)]
    lasts: Duration,
    /// Why, for whoever looks at the status, and for the log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Ask the daemon to start backups of a dataset by schedule again, before the pause ends by itself
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Names of datasets
    #[arg(required_unless_present = "all", value_name = "DATASET")]
    datasets: Vec<Name>,
    /// Every dataset of this host
    #[arg(long, conflicts_with = "datasets")]
    all: bool,
}

impl Which {
    fn of<'c>(&'c self, config: &'c Config) -> Result<Vec<&'c Name>> {
        if self.all {
            return Ok(config.datasets.iter().map(|dataset| &dataset.name).collect());
        }
        match self.datasets.iter().find(|name| config.dataset(name).is_none()) {
            Some(name) => Err(Error::usage(format!("the configuration has no dataset {name}"))
                .hint("name a dataset of this configuration")),
            None => Ok(self.datasets.iter().collect()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Paused {
    dataset: Name,
    until: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct Resumed {
    dataset: Name,
    /// `None`: it was not paused.
    paused_until: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct Pauses {
    paused: Vec<Paused>,
}

#[derive(Serialize)]
struct Resumes {
    resumed: Vec<Resumed>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let request = |dataset: &Name| json!({ "command": "pause", "dataset": dataset, "seconds": args.lasts.as_secs(), "why": args.reason });
    let (paused, failed) = ask_for_each(session, &config, &args.which, request).await?;
    show(session, &Pauses { paused }, failed)
}

pub(crate) async fn resume(args: &ResumeArgs, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let request = |dataset: &Name| json!({ "command": "resume", "dataset": dataset });
    let (resumed, failed) = ask_for_each(session, &config, &args.which, request).await?;
    show(session, &Resumes { resumed }, failed)
}

/// Asks for one dataset after the other, up to the first that fails. What the others answered, and
/// that error.
async fn ask_for_each<T: for<'a> Deserialize<'a>>(
    session: &Session,
    config: &Config,
    which: &Which,
    request: impl Fn(&Name) -> Value,
) -> Result<(Vec<T>, Option<Error>)> {
    let mut answers = Vec::new();
    for dataset in which.of(config)? {
        match ask(session, config, request(dataset)).await {
            Ok(answer) => answers.push(answer),
            Err(error) => return Ok((answers, Some(error))),
        }
    }
    Ok((answers, None))
}

/// Shows what was done, and gives the error of what was not.
fn show(session: &Session, done: &(impl Serialize + fmt::Display), failed: Option<Error>) -> Result<()> {
    let shown = done.to_string();
    if failed.is_none() || !shown.is_empty() {
        session.out.result(done)?;
    }
    failed.map_or(Ok(()), Err)
}

/// What the daemon answers.
async fn ask<T: for<'a> Deserialize<'a>>(session: &Session, config: &Config, request: Value) -> Result<T> {
    let answer = control::ask(&config.control_socket, &request);
    let (report, _) = session.cancellable("waiting for lifeboatd", answer).await?;
    serde_json::from_value(report).map_err(|error| {
        Error::failed("lifeboatd sent an answer that this program does not understand")
            .because(error)
            .hint("install the same version of lifeboat and lifeboatd, and restart lifeboatd")
    })
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |paused: &Paused| {
            format!("No backup of {} starts by schedule until {}.", paused.dataset, human::time(paused.until))
        };
        f.write_str(&self.paused.iter().map(told).collect::<Vec<_>>().join("\n"))
    }
}

impl fmt::Display for Resumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |resumed: &Resumed| match resumed.paused_until {
            Some(_) => format!("The pause of {} has ended. What is due starts now.", resumed.dataset),
            None => format!("{} was not paused.", resumed.dataset),
        };
        f.write_str(&self.resumed.iter().map(told).collect::<Vec<_>>().join("\n"))
    }
}
