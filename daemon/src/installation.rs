//! Everything that one configuration stands for, opened: keys, replicas, state directory.

use std::path::Path;

use lifeboat_engine::Result;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::keys::HostKeys;
use lifeboat_engine::replica::{self, SharedReplica};
use lifeboat_engine::state::StateDirectory;

/// An installation. A reload makes a new one; runs that are under way keep theirs.
pub(crate) struct Installation {
    pub(crate) config: Config,
    pub(crate) keys: HostKeys,
    pub(crate) replicas: Vec<SharedReplica>,
    pub(crate) state: StateDirectory,
    pub(crate) clock: SharedClock,
}

impl Installation {
    /// Opens what the file at `path` says.
    ///
    /// # Errors
    /// The configuration, the keys or the state directory cannot be used.
    pub(crate) async fn open(path: &Path, surroundings: &Surroundings, clock: SharedClock) -> Result<Self> {
        let config = Config::load(path, surroundings)?;
        let keys = HostKeys::load(&config.keys)?;
        let state = StateDirectory::open(&config.state_directory)?;
        let replicas = replica::open_all(&config).await?;
        for dataset in &config.datasets {
            keys.dataset(&dataset.name)?;
        }
        Ok(Self { config, keys, replicas, state, clock })
    }
}
