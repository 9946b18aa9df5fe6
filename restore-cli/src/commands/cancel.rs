//! `cancel`: asks the daemon to cancel the backup of a dataset that runs or waits.

use std::fmt;

use lifeboat_engine::format::id::Name;
use lifeboat_engine::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use super::trigger;
use crate::session::Session;

/// Ask the daemon to cancel the backup of a dataset that runs or waits. Nothing is committed then;
/// one whose commit has begun is finished
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
}

/// The daemon's report, passed on as it came.
#[derive(Serialize)]
#[serde(transparent)]
struct Cancelled(Value);

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let name = &args.dataset;
    if config.dataset(name).is_none() {
        return Err(Error::usage(format!("the configuration has no dataset {name}"))
            .hint("name a dataset of this configuration"));
    }
    let answer = trigger::ask(&config.control_socket, "cancel", name);
    session.out.result(&Cancelled(session.cancellable("waiting for lifeboatd", answer).await?))
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dataset = self.0["dataset"].as_str().unwrap_or_default();
        if let Some(snapshot) = self.0["pruned_after"].as_str() {
            return write!(
                f,
                "The prune of {dataset} was cancelled. Its backup has ended before, as snapshot {snapshot}."
            );
        }
        match self.0["ran"].as_bool() {
            Some(true) => write!(f, "The backup of {dataset} was cancelled, and nothing was committed."),
            _ => write!(f, "The backup of {dataset} does not start this time."),
        }
    }
}
