//! The configuration is one TOML file. It is read in two stages.
//!
//! `raw` mirrors the file and denies unknown keys. Validation turns that into [`Config`], whose
//! values can all be used as they are. Each refusal names file, line and remedy. Defaults are in
//! `defaults.rs` and in the annotated example that operators install.
//!
//! A [`Config`] holds the places of secrets ([`SecretRef`]), never secrets.

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
use lifeboat_databases::file::FileSource;
pub use lifeboat_databases::proof::{DrillQuery, ProofLevel};
use lifeboat_format::id::Name;
use lifeboat_format::root::Floors;
pub use lifeboat_store::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials};

use lifeboat_store::SharedReplica;

pub use self::drill::{DrillConfig, ReplicaChoice, SnapshotChoice};
pub use self::group::{GroupConfig, GroupReference};
pub use self::recovery::{MAX_RESTORES_AT_ONCE, PlaceInRecovery};
use crate::backup::compress::Compression;
use crate::schedule::Schedule;

mod bandwidth;
mod dataset;
mod defaults;
mod drill;
mod fields;
mod group;
mod raw;
mod recovery;
mod replica;
mod validate;

/// The validated configuration of one installation.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of this host in the vault.
    pub host: Name,
    /// The prefix of all object names in every replica: `""`, or names separated by `/`, such as
    /// `a/b`. It has no slash at either end.
    pub vault_prefix: String,
    /// The directory for journals, caches and metrics. Everything in it can be lost.
    pub state_directory: PathBuf,
    /// A snapshot is committed only if at least this many replicas hold it whole. From 1 to the
    /// number of replicas.
    pub min_replicas: usize,
    /// The address and port that serve `/metrics`, `/healthz` and `/readyz`.
    pub listen: SocketAddr,
    /// What it shows and asks for. `None`: it speaks no TLS.
    pub listen_tls: Option<ListenTls>,
    /// The path of the daemon's control socket.
    pub control_socket: PathBuf,
    /// Who may do what, and where the secrets are.
    pub keys: KeysConfig,
    /// The resources that a run or a restore may use.
    pub limits: Limits,
    /// Within this time, every object of every replica is read again. Zero: never.
    pub scrub_period: Duration,
    /// How datasets without a section are drilled.
    pub drill: DrillConfig,
    /// So many datasets are restored at once when a region is lost.
    pub recovery_at_once: usize,
    /// The replicas, at least one.
    pub replicas: Vec<ReplicaConfig>,
    /// Places that hold records alone: acts and leases, and never data (`role = "records"`). They
    /// count where commits are to meet, and never as replicas.
    pub records: Vec<ReplicaConfig>,
    /// The datasets that this host backs up. Empty on a host that only restores or drills.
    pub datasets: Vec<Dataset>,
    /// Datasets that are captured at one moment.
    pub groups: Vec<GroupConfig>,
    /// What an operator should know, although the configuration can be used.
    pub warnings: Vec<String>,
}

impl Config {
    /// Opens every replica.
    ///
    /// # Errors
    /// The error of [`lifeboat_store::open`] for the first replica that cannot be opened.
    pub async fn open_replicas(&self, clock: &SharedClock) -> Result<Vec<SharedReplica>> {
        lifeboat_store::open_all(&self.replicas, &self.vault_prefix, clock).await
    }

    /// Opens every place that holds records alone.
    ///
    /// # Errors
    /// As [`Self::open_replicas`].
    pub async fn open_records(&self, clock: &SharedClock) -> Result<Vec<SharedReplica>> {
        lifeboat_store::open_all(&self.records, &self.vault_prefix, clock).await
    }

    /// A commit counts only if its act is in at least this many places: replicas, and places that
    /// hold records alone. With one of these, it is more than half of all.
    #[must_use]
    pub fn min_places(&self) -> usize {
        if self.records.is_empty() { self.min_replicas } else { self.min_replicas.max(self.places() / 2 + 1) }
    }

    /// Whether any two commits meet in a place, so that two hosts never commit beside each other.
    #[must_use]
    pub fn commits_meet(&self) -> bool {
        2 * self.min_places() > self.places()
    }

    fn places(&self) -> usize {
        self.replicas.len() + self.records.len()
    }

    /// The dataset of that name.
    #[must_use]
    pub fn dataset(&self, name: &Name) -> Option<&Dataset> {
        self.datasets.iter().find(|dataset| dataset.name == *name)
    }

    /// The group of that name.
    #[must_use]
    pub fn group(&self, name: &Name) -> Option<&GroupConfig> {
        self.groups.iter().find(|group| group.name == *name)
    }

    /// Whether there is a dataset or a group of that name.
    #[must_use]
    pub fn has(&self, name: &Name) -> bool {
        self.dataset(name).is_some() || self.group(name).is_some()
    }

    /// The group that this dataset is a member of.
    #[must_use]
    pub fn group_of(&self, dataset: &Name) -> Option<&GroupConfig> {
        self.groups.iter().find(|group| group.members.contains(dataset))
    }

    /// How the dataset of that name is drilled.
    #[must_use]
    pub fn drill_of(&self, name: &Name) -> &DrillConfig {
        self.dataset(name).map_or(&self.drill, |dataset| &dataset.drill)
    }
}

/// TLS of the metrics endpoint (`listen_tls`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// A PEM file: the certificate of the daemon, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: SecretRef,
    /// A PEM file: who does not show a certificate of one of these authorities is refused. `None`:
    /// nobody is.
    pub client_ca: Option<PathBuf>,
}

/// `[keys]`.
#[derive(Debug, Clone)]
pub struct KeysConfig {
    /// The directory of `credential:NAME`, if systemd hands over no credentials.
    pub directory: PathBuf,
    /// The owners: minisign public keys (base64), or whole lines of owners. If there are any, the
    /// root says what the four lists below would.
    pub owners: Vec<String>,
    /// So many owners must have signed the root, at least 1.
    pub owner_threshold: usize,
    /// Who can open the whole keyring: `age1…`, `ssh-ed25519 …`, `age1PLUGIN1…`. `init` needs at
    /// least one.
    pub master_recipients: Vec<String>,
    /// Who can open the keyring objects of datasets, once `init` has encrypted these to them.
    pub drill_recipients: Vec<String>,
    /// Minisign public keys (base64) whose snapshots readers accept.
    pub trusted_signers: Vec<String>,
    /// Minisign public keys (base64) whose drill reports readers accept.
    pub trusted_drill_signers: Vec<String>,
    /// The host key (`host.key`), which opens the host bundle.
    pub host_key: SecretRef,
    /// The host bundle (`host-keys`): this host's secrets, sealed.
    pub host_bundle: SecretRef,
    /// The drill host's age identity (`drill-identity`).
    pub drill_identity: SecretRef,
    /// The key (`drill-signer`) with which the drill host signs its reports.
    pub drill_signer: SecretRef,
    /// The key (`warden-signer`) with which a warden signs what it deletes.
    pub warden_signer: SecretRef,
}

impl KeysConfig {
    /// Whether the keys on this host let it back up, or tell nothing, as before `init`. A drill
    /// host has a drill identity, a warden its signer, and neither a key of a backup host.
    #[must_use]
    pub fn may_back_up(&self) -> bool {
        let host_keys = self.host_key.path().exists() || self.host_bundle.path().exists();
        // The witness of a drill host is given the signer alone.
        let others = [&self.drill_identity, &self.drill_signer, &self.warden_signer];
        host_keys || !others.iter().any(|key| key.path().exists())
    }
}

/// No more datasets are backed up at once.
pub const MAX_RUNS: usize = 16;

/// `[limits]`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Threads that compress in a backup, and that decrypt and decompress in a restore. At least 1.
    pub cpu: usize,
    /// Bytes of memory that all runs together, or a restore, may hold in queues and packs. A
    /// configuration gives at least 128 MiB, and 64 MiB for each run. Large chunks and many
    /// processors take more.
    pub memory: u64,
    /// How many datasets the daemon backs up at once, 1 to 16.
    pub runs: usize,
    /// A source that delivers nothing for this long is stopped, and the run fails.
    pub stall: Duration,
    /// A run that takes longer is stopped and fails.
    pub run: Duration,
    /// How long a run may go on after SIGTERM before it is cancelled.
    pub shutdown: Duration,
    /// Clocks of hosts and replicas may differ by this much.
    pub clock_skew: Duration,
}

impl Limits {
    /// Whoever began a run longer ago than this has cancelled it, if clocks agree and no machine
    /// slept. A commit that has begun may take longer. No safety rests on it.
    #[must_use]
    pub fn longest_run(&self) -> Duration {
        self.run.saturating_add(self.clock_skew.saturating_mul(2))
    }
}

impl Default for Limits {
    /// The limits of a configuration that sets none.
    fn default() -> Self {
        Self {
            cpu: std::thread::available_parallelism().map_or(1, usize::from),
            memory: defaults::MEMORY_BYTES,
            runs: defaults::RUNS,
            stall: defaults::STALL_LIMIT,
            run: defaults::RUN_LIMIT,
            shutdown: defaults::SHUTDOWN_LIMIT,
            clock_skew: defaults::CLOCK_SKEW,
        }
    }
}

/// What deduplication looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedup {
    /// Whole chunks, and rows of the previous snapshot.
    Rows,
    /// Whole chunks only.
    Chunks,
}

/// One `[[dataset]]`.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name of the dataset in the vault.
    pub name: Name,
    /// The region of the database. Where this host backs up, at least one replica is in another
    /// region.
    pub home_region: String,
    /// The database to capture.
    pub source: Arc<dyn Source>,
    /// The kind of source that the dataset had before, if another takes its place on purpose.
    pub replaces: Option<&'static str>,
    /// When backups run. `None`: only with `lifeboatd --once` or `lifeboat trigger`.
    pub schedule: Option<Schedule>,
    /// A scheduled run that failed is tried again after this long, if nothing starts before. Zero:
    /// never.
    pub retry: Duration,
    /// Which snapshots are kept.
    pub retention: Retention,
    /// The objectives for the age of restored data and the time of a restore.
    pub objectives: Objectives,
    /// Average chunk size in bytes, a power of two, 64 KiB to 4 MiB.
    pub chunk_size: u32,
    /// What deduplication looks for.
    pub dedup: Dedup,
    /// The zstd level, 1 to 19, or automatic.
    pub compression: Compression,
    /// The hosts that back this dataset up, in the order in which they take over; this one is among
    /// them. Empty: only this host does. See [`crate::lead`].
    pub hosts: Vec<Name>,
    /// A host takes over if the one before it has committed nothing this long after a start.
    pub takeover_after: Duration,
    /// What a drill must reach, and how.
    pub drill: DrillConfig,
    /// When it is restored, if a region is lost.
    pub recovery: PlaceInRecovery,
}

impl Dataset {
    /// A dataset that this configuration no longer names, so that all of it can go. What the floors
    /// of a root keep stays for as long, and nothing goes before the delay that they set.
    #[must_use]
    pub fn to_remove(name: Name, limits: &Limits, floors: &Floors) -> Self {
        let grace = limits.longest_run().saturating_add(defaults::GRACE_AFTER_RUN);
        let within = floors.retention.map(Duration::from_secs);
        Self {
            name,
            home_region: String::new(),
            // Nobody captures it.
            source: Arc::new(FileSource { path: PathBuf::new(), allow_empty: false }),
            replaces: None,
            schedule: None,
            retry: Duration::ZERO,
            retention: Retention {
                within,
                grace: grace.max(Duration::from_secs(floors.delay.unwrap_or_default())),
                removes_dataset: true,
                ..Retention::default()
            },
            objectives: Objectives::default(),
            chunk_size: defaults::CHUNK_SIZE,
            dedup: defaults::DEDUP,
            compression: defaults::COMPRESSION,
            hosts: Vec::new(),
            takeover_after: defaults::TAKEOVER_AFTER,
            drill: DrillConfig::default(),
            recovery: PlaceInRecovery::default(),
        }
    }

    /// The other hosts that back this dataset up.
    pub fn other_hosts<'a>(&'a self, host: &'a Name) -> impl Iterator<Item = &'a Name> {
        self.hosts.iter().filter(move |other| *other != host)
    }
}

/// Which snapshots are kept. A snapshot stays if any rule keeps it. Without rules, all stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Keeps the newest n snapshots.
    pub keep_last: u32,
    /// Keeps the newest snapshot of each of the last n hours that have one.
    pub hourly: u32,
    /// As `hourly`, for days in UTC.
    pub daily: u32,
    /// As `hourly`, for ISO weeks in UTC.
    pub weekly: u32,
    /// As `hourly`, for months in UTC.
    pub monthly: u32,
    /// As `hourly`, for years in UTC.
    pub yearly: u32,
    /// Keeps all snapshots that are not older than this.
    pub within: Option<Duration>,
    /// How long a pack stays in a replica after prune first found that no snapshot refers to it.
    pub grace: Duration,
    /// The whole dataset goes: no rule keeps all, and the newest snapshot is not kept for its own
    /// sake. No configuration says so: see [`Dataset::to_remove`].
    pub removes_dataset: bool,
}

impl Retention {
    /// Whether there is no rule. Then prune removes no snapshot.
    #[must_use]
    pub fn keeps_everything(&self) -> bool {
        self.within.is_none()
            && !self.removes_dataset
            && [self.keep_last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly].iter().all(|n| *n == 0)
    }

    /// How much is kept of backups that are `interval` apart, if a backup may let the one before it
    /// go at once: such as `one a day`.
    #[must_use]
    pub fn coarser_than(&self, interval: Duration) -> Option<&'static str> {
        const HOUR: u64 = 3600;
        if self.keeps_everything() || self.keep_last > 1 || self.within.is_some_and(|within| within > interval) {
            return None;
        }
        let rules = [
            (self.hourly, HOUR, "one an hour"),
            (self.daily, 24 * HOUR, "one a day"),
            (self.weekly, 7 * 24 * HOUR, "one a week"),
            (self.monthly, 28 * 24 * HOUR, "one a month"),
            (self.yearly, 365 * 24 * HOUR, "one a year"),
        ];
        match rules.into_iter().find(|(count, ..)| *count > 0) {
            Some((_, period, kept)) => (interval < Duration::from_secs(period)).then_some(kept),
            None => Some("the newest"),
        }
    }
}

/// The objectives of a dataset. A drill that misses one says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Objectives {
    /// How old restored data may be.
    pub rpo: Option<Duration>,
    /// How long a restore may take.
    pub rto: Option<Duration>,
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// [`Class::Configuration`](lifeboat_base::Class::Configuration). The message lists every
    /// finding, each with file, line and remedy.
    pub fn load(path: &Path, surroundings: &Surroundings) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::configuration(format!("cannot read the configuration {}", path.display()))
                .because(error)
                .hint("pass its path with --config, or copy the example lifeboat.toml and fill it in")
        })?;
        Self::parse(&text, path, surroundings)
    }

    /// Validates the text of a file. `path` names the file in findings.
    ///
    /// # Errors
    /// The errors of [`Self::load`], except that no file is read.
    pub fn parse(text: &str, path: &Path, surroundings: &Surroundings) -> Result<Self> {
        let mut reader = SettingsReader::new(path, text, surroundings, PathBuf::from(defaults::KEY_DIRECTORY));
        let config =
            raw::parse(text, &mut reader).and_then(|(raw, sources)| validate::config(&mut reader, raw, sources));
        match (reader.findings.into_error(), config) {
            (None, Some(config)) => Ok(config),
            (Some(error), _) => Err(error),
            (None, None) => Err(Error::configuration(format!("the configuration {} cannot be used", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests;
