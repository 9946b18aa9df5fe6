//! The configuration: one TOML file, raw text in, validated types out.
//!
//! Two stages. `raw` mirrors the file and denies unknown keys; validation turns it into [`Config`],
//! whose every value is usable as it stands. Each refusal names file, line and remedy. Defaults stand
//! in one place (`defaults.rs`) and in the annotated example that operators install.
//!
//! A [`Config`] holds names of secrets ([`SecretRef`]), never secrets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::validate::Validator;
use crate::bytes::compress::Compression;
use crate::error::{Error, Result};
use crate::id::Name;
use crate::schedule::Schedule;
use crate::schedule::bandwidth::Bandwidth;

mod bandwidth;
mod dataset;
mod defaults;
mod findings;
mod raw;
mod secret;
mod units;
mod validate;

pub use secret::{Secret, SecretRef};

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
            memory: defaults::MEMORY,
            stall: defaults::STALL,
            run: defaults::RUN,
            shutdown: defaults::SHUTDOWN,
        }
    }
}

/// One `[[replica]]`.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// Names it in metrics, logs and `--replica`.
    pub name: Name,
    /// Where it is. Compared with `home_region`.
    pub region: String,
    /// How it is reached.
    pub kind: ReplicaKind,
    /// Deadline of one remote operation.
    pub timeout: Duration,
    /// How many bytes a second may pass to and from it, and when.
    pub bandwidth: Bandwidth,
}

impl ReplicaConfig {
    /// [`Self::timeout`] where no configuration says so.
    pub const DEFAULT_TIMEOUT: Duration = defaults::TIMEOUT;
}

/// How a replica is reached.
#[derive(Debug, Clone)]
pub enum ReplicaKind {
    /// An S3 bucket.
    S3(S3Config),
    /// A directory: another disk, an NFS mount, a copy of a bucket.
    Directory {
        /// Its path.
        path: PathBuf,
    },
}

/// An S3 bucket.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// None: AWS, by region.
    pub endpoint: Option<url::Url>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// PEM file with the certificate authorities to trust instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// Storage class of packs, as S3 spells it.
    pub storage_class: Option<String>,
    /// Where the credentials come from.
    pub credentials: S3Credentials,
}

/// Where S3 credentials come from.
#[derive(Debug, Clone)]
pub enum S3Credentials {
    /// The default AWS chain.
    Default,
    /// A profile of the AWS shared configuration.
    Profile(String),
    /// A file in the AWS shared-credentials format (`[default]` section) or a systemd credential of that content.
    File(SecretRef),
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
    pub source: SourceConfig,
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

/// What is captured.
#[derive(Debug, Clone)]
pub enum SourceConfig {
    /// A PostgreSQL server.
    Postgres(PostgresConfig),
    /// An SQLite file.
    Sqlite {
        /// The database file.
        path: PathBuf,
    },
    /// A file or block device, as it is.
    File {
        /// Where it lies.
        path: PathBuf,
    },
    /// The standard output of a program.
    Command(CommandConfig),
}

impl SourceConfig {
    /// The engine's word: `postgres`, `sqlite`, `file`, `command`.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Sqlite { .. } => "sqlite",
            Self::File { .. } => "file",
            Self::Command(_) => "command",
        }
    }
}

/// A PostgreSQL server.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// How to connect.
    pub connection: PostgresConnection,
    /// The password, where one is needed and `~/.pgpass` is not wanted.
    pub password: Option<SecretRef>,
    /// Which databases; empty: all that accept connections, templates aside.
    pub databases: Vec<String>,
    /// Directories with client tools to consider before the system's.
    pub client_directories: Vec<PathBuf>,
    /// Connections over which a capture dumps at once; `None`: as many as [`Limits::cpu`], 4 at most. One more holds the snapshot.
    pub jobs: Option<usize>,
    /// A table of at least this many bytes is captured in a stream of its own, if there may be several connections.
    pub large_table: u64,
}

/// How to connect to PostgreSQL. None of these holds a password.
#[derive(Debug, Clone)]
pub enum PostgresConnection {
    /// `postgresql://user@host:port/database?sslmode=…`.
    Url(url::Url),
    /// A name in `pg_service.conf`.
    Service(String),
    /// A unix socket directory, with port and user.
    Socket {
        /// Directory of the socket.
        directory: PathBuf,
        /// Port number, part of the socket's name.
        port: u16,
        /// Role to connect as.
        user: Option<String>,
    },
}

/// The standard output of a program is the stream.
#[derive(Debug, Clone)]
pub struct CommandConfig {
    /// Program and arguments; no shell.
    pub argv: Vec<String>,
    /// Added to a minimal environment (`PATH`, `HOME`, `LC_ALL=C.UTF-8`).
    pub environment: BTreeMap<String, String>,
    /// The exit status that means success.
    pub expected_status: i32,
    /// Names the stream.
    pub stream: String,
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

/// How far a drill went; each level includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofLevel {
    /// Every object present, signatures and hashes right, decrypts.
    Fetched = 1,
    /// A fresh throw-away server loaded it without an error.
    Loaded = 2,
    /// Engine checks and the operator's queries pass.
    Checked = 3,
    /// Dumped again it equals the snapshot.
    Proved = 4,
}

impl ProofLevel {
    /// The word used in configuration and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetched => "fetched",
            Self::Loaded => "loaded",
            Self::Checked => "checked",
            Self::Proved => "proved",
        }
    }
}

/// A query of the operator's, run in the restored database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillQuery {
    /// Which database; None: the only one, or SQLite.
    pub database: Option<String>,
    /// One statement.
    pub sql: String,
    /// What it must return: the first column of the first row as text. None: it must only succeed.
    pub expect: Option<String>,
}

/// What the programs know from their surroundings and the library must not look up itself.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `$CREDENTIALS_DIRECTORY`.
    pub credentials_directory: Option<PathBuf>,
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    /// [`Class::Configuration`](crate::Class::Configuration), with every finding (file, line,
    /// remedy), not only the first.
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
        let mut validator = Validator::new(path, text, surroundings);
        let config = match toml::from_str(text) {
            Ok(raw) => validator.config(raw),
            Err(error) => {
                validator.findings.add(error.span().unwrap_or_default(), findings::explain(error.message()), "");
                None
            }
        };
        match (validator.findings.into_error(), config) {
            (None, Some(config)) => Ok(config),
            (Some(error), _) => Err(error),
            (None, None) => Err(Error::configuration(format!("{} cannot be used", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests;
