//! `acknowledge`: shows how flagged snapshots depart from their history, asks, and takes them as
//! normal, so that old snapshots are deleted again.
//!
//! The dataset's lock is taken after the answer, so that no backup waits for it. If another
//! snapshot was flagged meanwhile, nothing is accepted.

use std::fmt;

use lifeboat_engine::base::escape;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::state::{StateDirectory, watch};
use lifeboat_engine::{Class, Error, Result};
use serde::Serialize;

use crate::human;
use crate::session::Session;

/// Take snapshots that depart from their history as normal, so that old ones are deleted again;
/// shows how they depart, then asks; runs on the backup host
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The dataset
    dataset: Name,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// What was flagged.
#[derive(Serialize)]
struct Acknowledged<'a> {
    dataset: &'a Name,
    acknowledged: Vec<FlagShown>,
}

#[derive(PartialEq, Serialize)]
struct FlagShown {
    /// `None`: nobody knows which, for what was remembered is damaged.
    snapshot: Option<SnapshotId>,
    why: Vec<String>,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let name = &args.dataset;
    if config.dataset(name).is_none() {
        return Err(Error::usage(format!("the configuration has no dataset {name}"))
            .hint("name a dataset of this configuration"));
    }
    if session.out.is_json() && !args.yes {
        return Err(Error::usage("acknowledge cannot ask with --json").hint("pass --yes to confirm"));
    }
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let found = Acknowledged { dataset: name, acknowledged: look(&state, name)? };
    session.out.text(&found)?;
    if !found.acknowledged.is_empty() {
        session
            .confirm(args.yes, format!("Is this right? Then old snapshots of dataset {name} are deleted again"))
            .await?;
        let _lock = state.lock_dataset(name).await?;
        if look(&state, name)? != found.acknowledged {
            return Err(Error::failed(format!("another snapshot of dataset {name} was flagged meanwhile"))
                .hint(format!("run `lifeboat acknowledge {name}` again to see it")));
        }
        watch::acknowledge(&state, name)?;
    }
    if session.out.is_json() {
        session.out.result(&found)?;
    }
    Ok(())
}

fn look(state: &StateDirectory, dataset: &Name) -> Result<Vec<FlagShown>> {
    match watch::flagged(state, dataset) {
        Ok(flagged) => Ok(flagged
            .iter()
            .map(|flag| FlagShown { snapshot: Some(flag.snapshot.clone()), why: flag.told() })
            .collect()),
        Err(error) if error.class() == Class::Integrity => {
            Ok(vec![FlagShown { snapshot: None, why: vec![error.chain()] }])
        }
        Err(error) => Err(error),
    }
}

impl fmt::Display for Acknowledged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Dataset {}: {} not acknowledged",
            self.dataset,
            human::count(self.acknowledged.len() as u64, "flag")
        )?;
        for FlagShown { snapshot, why } in &self.acknowledged {
            write!(f, "\n {}", snapshot.as_ref().map_or("unknown snapshot", SnapshotId::as_str))?;
            for why in why {
                write!(f, "\n   {}", escape::line(why))?;
            }
        }
        Ok(())
    }
}
