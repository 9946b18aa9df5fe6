//! `takeover`: shows which host backs a dataset up, asks, and lets the daemon of this host do it
//! from now on.

use lifeboat_engine::format::id::Name;
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::lead::{Lead, Leadership};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::{Error, Result};

use super::trigger;
use crate::session::Session;

/// Back up a dataset that another host leads, and lead it from then on; asks first; the running
/// daemon of this host does it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    let config = session.configuration()?;
    let name = &args.dataset;
    let dataset = config.dataset(name).ok_or_else(|| {
        Error::usage(format!("the configuration has no dataset {name}")).hint("name a dataset of this configuration")
    })?;
    if dataset.hosts.len() < 2 {
        return Err(Error::usage(format!("only this host backs up dataset {name}"))
            .hint("name every host in `hosts` of the dataset, as OPERATIONS.md says"));
    }
    if session.out.is_json() && !args.yes {
        return Err(Error::usage("takeover cannot ask with --json").hint("pass --yes to confirm"));
    }
    let keys = HostKeys::load(&config.keys)?;
    let (replicas, records) = (config.open_replicas(&session.clock).await?, config.open_records(&session.clock).await?);
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let clock = session.clock.clone();
    let lead =
        Lead { config: &config, dataset, keys: &keys, replicas: &replicas, records: &records, state: &state, clock };
    let found = session.cancellable("the look at the replicas", lead.look()).await?;
    if found.leader == config.host {
        return Err(Error::usage(format!("this host leads dataset {name} already"))
            .hint(format!("run `lifeboat trigger {name}` to back up now")));
    }
    session.confirm(args.yes, question(name, &found)).await?;
    trigger::ask_and_show(&config.control_socket, "takeover", name, session).await
}

fn question(dataset: &Name, found: &Leadership) -> String {
    let leader = &found.leader;
    let newest = match &found.newest {
        Some(newest) => format!("its newest snapshot is {}", newest.snapshot),
        None => "there is no snapshot yet".to_owned(),
    };
    let running = match &found.running {
        Some(lease) => format!(", and host {} is BACKING UP NOW", lease.principal),
        None => String::new(),
    };
    format!("Host {leader} leads dataset {dataset}; {newest}{running}. Back up here, and lead from now on?")
}
