//! One configuration with its keys and replicas opened: what runs work with. A reload makes a new
//! one. Runs that have started finish with the old one.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_engine::base::{Error, Result};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::{Config, Dataset};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::store::SharedReplica;

pub(crate) struct Installation {
    pub config: Config,
    pub keys: HostKeys,
    pub replicas: Vec<SharedReplica>,
    /// Places that hold records alone.
    pub records: Vec<SharedReplica>,
    /// The longest time between two scheduled starts of each scheduled dataset. It is computed
    /// only once, because that takes a while.
    pub intervals: BTreeMap<Name, Duration>,
}

impl Installation {
    /// Opens keys and replicas, and logs the warnings of `config`. Replicas are not contacted.
    ///
    /// # Errors
    /// The keys are missing or do not open, or a replica's files cannot be read.
    pub(crate) async fn open(config: Config, clock: &SharedClock) -> Result<Self> {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let keys = HostKeys::load(&config.keys)?;
        let (replicas, records) = (config.open_replicas(clock).await?, config.open_records(clock).await?);
        let scheduled = config.datasets.iter().filter_map(|dataset| Some((&dataset.name, dataset.schedule.as_ref()?)));
        let intervals =
            scheduled.map(|(name, schedule)| (name.clone(), schedule.expected_interval(clock.now()))).collect();
        Ok(Self { config, keys, replicas, records, intervals })
    }

    /// The dataset of that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn dataset(&self, name: &Name) -> Result<&Dataset> {
        self.config.dataset(name).ok_or_else(|| {
            let names: Vec<&str> = self.config.datasets.iter().map(|dataset| dataset.name.as_str()).collect();
            let known = if names.is_empty() { "no dataset".to_owned() } else { names.join(", ") };
            Error::usage(format!("the configuration has no dataset {name}")).hint(format!("it has: {known}"))
        })
    }
}
