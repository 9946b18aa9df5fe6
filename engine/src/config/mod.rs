//! The configuration: one TOML file, raw text in, validated types out.
//!
//! Two stages. `raw` mirrors the file and denies unknown keys; validation turns it into [`Config`],
//! whose every value is usable as it stands. Each refusal names file, line and remedy. Defaults
//! stand in one place (`defaults.rs`) and in the annotated example that operators install.
//!
//! A [`Config`] holds names of secrets ([`SecretRef`]), never secrets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_base::clock::SharedClock;
pub use lifeboat_base::secret::{Secret, SecretRef};
use lifeboat_base::settings::SettingsReader;
pub use lifeboat_base::settings::Surroundings;
use lifeboat_base::{Error, Result};
use lifeboat_databases::Source;
pub use lifeboat_databases::proof::{DrillQuery, ProofLevel};
use lifeboat_format::id::Name;
pub use lifeboat_store::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials};

use lifeboat_store::SharedReplica;

use crate::backup::compress::Compression;
use crate::schedule::Schedule;

mod bandwidth;
mod dataset;
mod defaults;
mod fields;
mod raw;
mod replica;
mod validate;

/// One installation, as validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names this backup host in the vault.
    pub host: Name,
    /// Where the vault begins in every replica: "" or `a/b`, no slash at either end.
    pub vault_prefix: String,
    /// Journals, caches, metrics; everything in it can be lost.
    pub state_directory: PathBuf,
    /// A snapshot is committed only if at least this many replicas hold it whole.
    pub min_replicas: usize,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: SocketAddr,
    /// The daemon's control socket.
    pub control_socket: PathBuf,
    /// Who may do what, and where the secrets are.
    pub keys: KeysConfig,
    /// What a run may use.
    pub limits: Limits,
    /// At least one.
    pub replicas: Vec<ReplicaConfig>,
    /// What is backed up. Empty on a host that only restores or drills.
    pub datasets: Vec<Dataset>,
}

impl Config {
    /// Opens every replica.
    ///
    /// # Errors
    /// As [`lifeboat_store::open`], for the first that cannot be opened.
    pub async fn open_replicas(&self, clock: &SharedClock) -> Result<Vec<SharedReplica>> {
        lifeboat_store::open_all(&self.replicas, &self.vault_prefix, clock).await
    }

    /// The dataset of that name.
    #[must_use]
    pub fn dataset(&self, name: &Name) -> Option<&Dataset> {
        self.datasets.iter().find(|dataset| dataset.name == *name)
    }
}

/// `[keys]`.
#[derive(Debug, Clone)]
pub struct KeysConfig {
    /// Where `credential:NAME` is looked for when systemd hands over no credentials.
    pub directory: PathBuf,
    /// Who can open everything: `age1…`, `ssh-ed25519 …`, `age1PLUGIN1…`. At least one for `init`.
    pub master_recipients: Vec<String>,
    /// Who can open the datasets they were granted.
    pub drill_recipients: Vec<String>,
    /// Minisign public keys (base64) whose snapshots readers accept.
    pub trusted_signers: Vec<String>,
    /// Minisign public keys (base64) whose drill reports readers accept.
    pub trusted_drill_signers: Vec<String>,
    /// Opens the sealed host bundle: `host.key`.
    pub host_key: SecretRef,
    /// The sealed bundle of this host's secrets: `host-keys`.
    pub host_bundle: SecretRef,
    /// The drill host's age identity: `drill-identity`.
    pub drill_identity: SecretRef,
    /// The drill host's report signing key: `drill-signer`.
    pub drill_signer: SecretRef,
}

/// `[limits]`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Threads that compress and encrypt.
    pub cpu: usize,
    /// Bytes that one run may hold in queues and packs in flight.
    pub memory: u64,
    /// A source that delivers nothing for this long is stopped and fails the snapshot.
    pub stall: Duration,
    /// A run that takes longer is stopped and fails.
    pub run: Duration,
    /// SIGTERM: how long a run may still take to finish before it is aborted.
    pub shutdown: Duration,
}

impl Default for Limits {
    /// What a run may use where no configuration says so.
    fn default() -> Self {
        Self {
            cpu: std::thread::available_parallelism().map_or(1, usize::from),
            memory: defaults::MEMORY_BYTES,
            stall: defaults::STALL_LIMIT,
            run: defaults::RUN_LIMIT,
            shutdown: defaults::SHUTDOWN_LIMIT,
        }
    }
}

/// How finely repeats are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedup {
    /// Rows of the snapshot before, and whole chunks.
    Rows,
    /// Whole chunks alone.
    Chunks,
}

/// One `[[dataset]]`.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Names it everywhere.
    pub name: Name,
    /// Where the database lives; at least one replica is elsewhere.
    pub home_region: String,
    /// What is captured.
    pub source: Arc<dyn Source>,
    /// When. None: only by `--once` and `trigger`.
    pub schedule: Option<Schedule>,
    /// What is kept.
    pub retention: Retention,
    /// What was promised.
    pub objectives: Objectives,
    /// Average chunk size in bytes, a power of two, 64 KiB to 4 MiB.
    pub chunk_size: u32,
    /// How finely repeats are found.
    pub dedup: Dedup,
    /// zstd level, 1 to 19.
    pub compression: Compression,
    /// Operations recipients (`age1…`) of other hosts that may take over this dataset.
    pub standby_recipients: Vec<String>,
    /// How it is drilled.
    pub drill: DrillConfig,
}

/// What is kept. A snapshot stays if any rule keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The newest n.
    pub keep_last: u32,
    /// The newest of each of the last n hours that have one.
    pub hourly: u32,
    /// … days.
    pub daily: u32,
    /// … ISO weeks.
    pub weekly: u32,
    /// … months.
    pub monthly: u32,
    /// … years.
    pub yearly: u32,
    /// All younger than this.
    pub within: Option<Duration>,
    /// How long a pack stays after no snapshot refers to it.
    pub grace: Duration,
}

impl Retention {
    /// Without any rule nothing is ever removed.
    #[must_use]
    pub fn keeps_everything(&self) -> bool {
        self.within.is_none()
            && [self.keep_last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly].iter().all(|n| *n == 0)
    }
}

/// What was promised. Seconds matter, so durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Objectives {
    /// Age of the data a restore gives.
    pub rpo: Option<Duration>,
    /// Time a restore takes.
    pub rto: Option<Duration>,
}

/// `[dataset.drill]`.
#[derive(Debug, Clone)]
pub struct DrillConfig {
    /// The level a drill must reach to succeed.
    pub level: ProofLevel,
    /// Queries that must return what is expected.
    pub queries: Vec<DrillQuery>,
    /// Where server binaries of throw-away servers are looked for before the system's.
    pub server_directories: Vec<PathBuf>,
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// [`Class::Configuration`](lifeboat_base::Class::Configuration), with every finding (file,
    /// line, remedy), not only the first.
    pub fn load(path: &Path, surroundings: &Surroundings) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::configuration(format!("cannot read the configuration {}", path.display()))
                .because(error)
                .hint("name it with --config, or copy lifeboat.toml from the examples and fill it in")
        })?;
        Self::parse(&text, path, surroundings)
    }

    /// Validates the text of a file; `path` names it in findings.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, path: &Path, surroundings: &Surroundings) -> Result<Self> {
        let mut reader = SettingsReader::new(path, text, surroundings, PathBuf::from(defaults::KEY_DIRECTORY));
        let config =
            raw::parse(text, &mut reader).and_then(|(raw, sources)| validate::config(&mut reader, raw, sources));
        match (reader.findings.into_error(), config) {
            (None, Some(config)) => Ok(config),
            (Some(error), _) => Err(error),
            (None, None) => Err(Error::configuration(format!("{} cannot be used", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests;
