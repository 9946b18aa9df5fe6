//! Records in this host's log which configuration it goes by, and what is paused. Nothing waits for
//! that.

use std::path::Path;
use std::sync::Arc;

use lifeboat_engine::base::{Class, Context, Error, Result};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::format::id::{Digest, Name};
use lifeboat_engine::format::log::LogEvent;
use lifeboat_engine::log::HostLog;
use lifeboat_engine::root;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::state::pause::Pause;

use crate::installation::Installation;
use crate::runner::Runner;

/// Records that an installation is gone by from now on.
pub(crate) fn configuration(installation: Arc<Installation>, path: &Path, state: &StateDirectory, clock: &SharedClock) {
    if installation.keys.owners.is_none() {
        return;
    }
    let read = hash(path);
    let (state, clock) = (state.clone(), clock.clone());
    tokio::spawn(async move {
        let (keys, replicas) = (&installation.keys, &installation.replicas);
        let recorded = async {
            let blake3 = read?;
            root::renew(keys, replicas, &state, clock.now()).await?;
            let log = HostLog { keys, replicas, state: &state };
            log.record(LogEvent::Configuration { blake3 }, Vec::new(), clock.now()).await
        };
        match recorded.await {
            Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
            Err(error) => {
                tracing::warn!("the configuration is not in this host's log: {}", error.chain_and_hint());
            }
        }
    });
}

/// Records that the schedule starts no backup of `dataset` for a while.
pub(crate) fn pause(runner: &Runner, installation: Arc<Installation>, dataset: &Name, pause: &Pause) {
    let (state, clock) = (runner.state.clone(), runner.clock.clone());
    let (event, why) = (LogEvent::Pause { dataset: dataset.clone(), until: pause.until }, pause.why.clone());
    tokio::spawn(async move {
        let log = HostLog { keys: &installation.keys, replicas: &installation.replicas, state: &state };
        match log.record_because(event, why, Vec::new(), clock.now()).await {
            Ok(warnings) => warnings.iter().for_each(|warning| tracing::warn!("{warning}")),
            Err(error) => tracing::warn!("the pause is not in this host's log: {}", error.chain_and_hint()),
        }
    });
}

fn hash(path: &Path) -> Result<Digest, Error> {
    let text = std::fs::read(path).context(Class::Configuration, || format!("cannot read {}", path.display()))?;
    Ok(Digest::of(&text))
}
