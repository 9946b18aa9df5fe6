//! What a repair works on: a dataset of the configuration, with every replica.

use lifeboat_engine::config::Config;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::prune::Prune;
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::root;
use lifeboat_engine::state::{Lock, StateDirectory};
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::{Error, Result};

use crate::session::Session;

/// Refuses flags by which a repair would see one replica alone.
pub(super) fn refuse_single_replica(session: &Session) -> Result<()> {
    if session.globals.replica.is_some() {
        return Err(Error::usage("repair always looks at every replica, because one may hold what another lacks")
            .hint("leave --replica out"));
    }
    if session.globals.given.is_named() {
        session.configuration()?;
    }
    Ok(())
}

/// What a repair works on.
pub(super) struct OpenedDataset {
    config: Config,
    dataset: Name,
    keys: HostKeys,
    replicas: Vec<SharedReplica>,
    records: Vec<SharedReplica>,
    state: StateDirectory,
}

impl OpenedDataset {
    pub(super) async fn open(dataset: &Name, session: &Session) -> Result<Self> {
        refuse_single_replica(session)?;
        let config = session.configuration()?;
        if config.dataset(dataset).is_none() {
            return Err(Error::usage(format!("the configuration has no dataset {dataset}"))
                .hint("name a dataset of this configuration"));
        }
        let keys = HostKeys::load(&config.keys)?;
        let replicas = config.open_replicas(&session.clock).await?;
        let records = config.open_records(&session.clock).await?;
        let state = StateDirectory::open_for_writing(&config.state_directory)?;
        let kept = root::keep(&keys, &replicas, &state, session.clock.now());
        session.cancellable("the look for the root", kept).await?;
        Ok(Self { config, dataset: dataset.clone(), keys, replicas, records, state })
    }

    /// Locks the dataset. Nobody holds the lock while a question is open.
    pub(super) async fn lock(&self) -> Result<Lock> {
        self.state.lock_dataset(&self.dataset).await
    }

    pub(super) fn prune(&self, session: &Session) -> Result<Prune<'_>> {
        let name = &self.dataset;
        let found = self.config.dataset(name);
        Ok(Prune {
            config: &self.config,
            dataset: found.ok_or_else(|| Error::usage(format!("the configuration has no dataset {name}")))?,
            keys: &self.keys,
            replicas: &self.replicas,
            records: &self.records,
            state: &self.state,
            clock: session.clock.clone(),
            cancel: session.cancel.clone(),
        })
    }
}
