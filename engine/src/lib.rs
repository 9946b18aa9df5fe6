//! What Lifeboat does: backup, restore, keep (prune, catch up, verify) and drill.
//!
//! Both programs are thin shells around this crate. Below it stand [`mod@format`] (what lies in a
//! bucket), [`store`] (replicas) and [`databases`] (engines). `ARCHITECTURE.md` shows how they fit.
//! Each verb has one home:
//!
//! | verb | home |
//! | --- | --- |
//! | backup | [`backup`] |
//! | restore | [`restore`], and [`Vault`] as the short way |
//! | verify, prune, catch up | [`keep`] |
//! | drill | [`drill`] |
//!
//! The library touches no terminal, no environment and no clock: they are handed in, the clock as a
//! [`clock::SharedClock`], the environment as
//! [`ToolEnvironment`](lifeboat_databases::ToolEnvironment) and [`config::Surroundings`].
//!
//! # Quick start
//!
//! A vault in one directory, a backup of one file, and a restore by whoever holds the master
//! identity:
//!
//! ```
//! use std::sync::Arc;
//!
//! use lifeboat_engine::backup::{Backup, RunBudget, Progress};
//! use lifeboat_engine::clock::SystemClock;
//! use lifeboat_engine::config::{Config, Surroundings};
//! use lifeboat_engine::databases::Target;
//! use lifeboat_engine::keys::{HostKeys, InitOptions, ReaderKeys, init};
//! use lifeboat_engine::restore::Selector;
//! use lifeboat_engine::state::StateDirectory;
//! use lifeboat_engine::{Result, Vault};
//!
//! # fn main() -> Result<()> {
//! #     tokio::runtime::Runtime::new().unwrap().block_on(quick_start())
//! # }
//! # async fn quick_start() -> Result<()> {
//! # let place = tempfile::tempdir().unwrap();
//! # let here = place.path().display().to_string();
//! # std::fs::create_dir(place.path().join("replica")).unwrap();
//! # std::fs::write(place.path().join("notes.txt"), "remember the milk").unwrap();
//! // The owner's master identity: on paper, in a safe. The host gets its public half only.
//! let master = age::x25519::Identity::generate();
//! let text = format!(
//!     r#"
//!     host = "db1"
//!     state_directory = "{here}/state"
//!     [keys]
//!     directory = "{here}/keys"
//!     master_recipients = ["{}"]
//!     [[replica]]
//!     name = "attic"
//!     kind = "directory"
//!     region = "attic"
//!     path = "{here}/replica"
//!     [[dataset]]
//!     name = "notes"
//!     home_region = "cellar"
//!     [dataset.source]
//!     kind = "file"
//!     path = "{here}/notes.txt"
//!     "#,
//!     master.to_public()
//! );
//! let config = Config::parse(&text, "lifeboat.toml".as_ref(), &Surroundings::default())?;
//! let clock = SystemClock::shared();
//! let replicas = config.open_replicas(&clock).await?;
//! init(&config, &replicas, &InitOptions::default(), &clock).await?;
//!
//! // The backup host: it can write snapshots, and not read what is in them.
//! let keys = HostKeys::load(&config.keys)?;
//! let dataset = &config.datasets[0];
//! Backup {
//!     config: &config,
//!     dataset,
//!     source: dataset.source.as_ref(),
//!     environment: &Default::default(),
//!     keys: &keys,
//!     replicas: &replicas,
//!     records: &[],
//!     state: &StateDirectory::open(&config.state_directory)?,
//!     clock,
//!     group: None,
//!     budget: RunBudget::new(&config.limits),
//!     progress: Arc::new(Progress::default()),
//!     cancel: Default::default(),
//! }
//! .run()
//! .await?;
//!
//! // Anybody with the master identity and the signer's public key, on any machine.
//! let owner = ReaderKeys { identities: vec![Arc::new(master)], ..keys.reader() };
//! let vault = Vault::open(&replicas, owner).await?;
//! assert_eq!(vault.snapshots(&dataset.name).await?.len(), 1);
//! let path = place.path().join("restored");
//! let target = Target::Directory { path: path.clone(), overwrite: false, sync: false };
//! vault.restore(&dataset.name, &Selector::Latest, &target, place.path()).await?;
//! assert_eq!(std::fs::read_to_string(path.join("notes.txt")).unwrap(), "remember the milk");
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` shows how to list a vault, restore one stream, and put a vault into a replica of
//! one's own.

pub mod anomaly;
pub mod backup;
mod catalog;
pub mod config;
pub mod control;
pub mod diff;
pub mod drill;
pub mod keep;
pub mod keys;
pub mod lead;
pub mod log;
mod renewal;
pub mod restore;
pub mod root;
mod rows;
pub mod schedule;
pub mod state;
mod vault;
pub mod witness;

/// For `benches/` and `make bench` alone: no promise is made of what is in it.
#[doc(hidden)]
pub mod stages {
    pub use crate::backup::chunk::{Block, Chunker, Peek};
    pub use crate::keys::crypt::{decrypt, decrypting, encrypt, encrypting};
    pub use crate::rows::sketch::sketch;
    pub use crate::rows::units::{Fineness, Unit, UnitCutter};
    pub use crate::state::chunk_table::{ChunkTable, TableBuilder};
}

pub use lifeboat_base as base;
pub use lifeboat_base::{Class, Error, Result, clock};
pub use lifeboat_databases as databases;
pub use lifeboat_format as format;
pub use lifeboat_store as store;
pub use lifeboat_worker as worker;

pub use self::catalog::first_seen::{Contradicted, FalseClaim};
pub use self::catalog::future::is_future;
pub use self::catalog::taken::{SettledTimes, SnapshotTime, TakenTimes, TimeClaim};
pub use self::vault::Vault;
