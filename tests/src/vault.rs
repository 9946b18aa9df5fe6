//! A vault in directories, with a master identity, for tests of the flows. Everything in it is real
//! but the region.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono_tz::Tz;
use lifeboat_engine::backup::compress::Compression;
use lifeboat_engine::backup::{Backup, BackupReport, Progress, RunBudget};
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::clock::{ManualClock, SharedClock, SystemClock};
use lifeboat_engine::config::{
    Config, Dataset, Dedup, DrillConfig, KeysConfig, Limits, Objectives, PlaceInRecovery, ProofLevel, ReplicaConfig,
    ReplicaKind, Retention, Secret, SecretRef,
};
use lifeboat_engine::databases::command::CommandConfig;
use lifeboat_engine::databases::command::{Command, CommandSource};
use lifeboat_engine::databases::streams::{StoredStreams, StreamSink};
use lifeboat_engine::databases::{Database, Source, WorkContext};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::keep::prune::{Prune, PruneOutcome, PrunePlan};
use lifeboat_engine::keys::{HostKeys, InitOptions, InitReport, ReaderKeys, SharedIdentity, init, parse_identities};
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::schedule::Schedule;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::SharedReplica;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::{Error, Result};
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::tools;

/// A name that is known to be valid.
///
/// # Panics
/// It is not.
#[must_use]
pub fn name(text: &str) -> Name {
    text.parse().unwrap_or_else(|error| panic!("{error:?}"))
}

/// Every file below `folder`, sorted; none if there is no such folder.
///
/// # Panics
/// An entry cannot be looked at.
#[must_use]
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// `length` bytes that do not compress, the same for the same seed.
#[must_use]
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; length];
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).fill(data.as_mut_slice());
    data
}

/// A source whose streams are given.
#[derive(Debug, Default, Clone)]
pub struct MemorySource {
    /// Name and content of each stream.
    pub streams: Vec<(String, Vec<u8>)>,
    /// Fail after this many bytes of the last stream.
    pub fail_after: Option<usize>,
    /// Drop the last stream without finishing it, and report success all the same.
    pub abandon: bool,
    /// Databases that it says that it lacks.
    pub skipped: Vec<String>,
    /// Whether a stream without a byte cannot be right.
    pub refuses_empty: bool,
}

impl MemorySource {
    /// One stream, `data`.
    #[must_use]
    pub fn of(content: impl Into<Vec<u8>>) -> Self {
        Self { streams: vec![("data".to_owned(), content.into())], ..Self::default() }
    }
}

#[async_trait]
impl Source for MemorySource {
    fn database(&self) -> &'static dyn Database {
        &Command
    }

    fn may_be_empty(&self) -> bool {
        !self.refuses_empty
    }

    async fn capture(&self, sink: &dyn StreamSink, _cx: &WorkContext) -> Result<SourceFacts> {
        for (at, (name, content)) in self.streams.iter().enumerate() {
            let last = at + 1 == self.streams.len();
            let mut writer = sink.open(name)?;
            let mut written = 0;
            for piece in content.chunks(200_000) {
                if last && self.fail_after.is_some_and(|limit| written >= limit) {
                    return Err(Error::source_failed("the source failed, as it was told to"));
                }
                writer.write(Bytes::copy_from_slice(piece)).await?;
                written += piece.len();
            }
            if !(last && self.abandon) {
                writer.finish(0).await?;
            }
        }
        Ok(SourceFacts { engine: "command".to_owned(), skipped: self.skipped.clone(), ..SourceFacts::default() })
    }
}

/// A vault with directories for replicas: `r1` in region `east`, `r2` in `west`, `r3` in `north`.
pub struct TestVault {
    /// Everything lies below it.
    pub place: TempDir,
    /// The backup host's configuration; change it at will.
    pub config: Config,
    /// The configured replicas.
    pub replicas: Vec<SharedReplica>,
    /// The places that hold records alone: none, until [`Self::with_records`] makes one.
    pub records: Vec<SharedReplica>,
    /// Stands still until it is told to move.
    pub clock: Arc<ManualClock>,
    /// The owner's identity file, made by the real `age-keygen`.
    pub master: PathBuf,
    /// What `init` said.
    pub init: InitReport,
}

/// The dataset of every [`TestVault`].
pub const DATASET: &str = "shop";

impl TestVault {
    /// Makes a vault with `replicas` directories, of which `min_replicas` must hold a snapshot.
    ///
    /// # Panics
    /// On any failure, as all of the harness does.
    pub async fn new(replicas: usize, min_replicas: usize) -> Self {
        let place = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        let master = place.path().join("master.txt");
        let made = std::process::Command::new(crate::tools::find("age-keygen")).arg("-o").arg(&master).output();
        let made = made.unwrap_or_else(|error| panic!("age-keygen: {error}"));
        assert!(made.status.success(), "age-keygen failed");
        let text = String::from_utf8_lossy(&made.stderr).into_owned();
        let recipient = text.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let regions = ["east", "west", "north", "south"];
        let config = Config {
            host: name("db1"),
            vault_prefix: "vault".to_owned(),
            state_directory: place.path().join("state"),
            min_replicas,
            listen: ([127, 0, 0, 1], 0).into(),
            listen_tls: None,
            control_socket: place.path().join("control.sock"),
            keys: keys_config(place.path().join("keys"), vec![recipient]),
            limits: limits(),
            scrub_period: Duration::from_secs(30 * 86_400),
            drill: DrillConfig::default(),
            recovery_at_once: 1,
            replicas: (1..=replicas)
                .map(|n| ReplicaConfig {
                    name: name(&format!("r{n}")),
                    region: regions[n - 1].to_owned(),
                    kind: ReplicaKind::Directory { path: place.path().join(format!("r{n}")) },
                    timeout: Duration::from_secs(20),
                    bandwidth: Bandwidth::default(),
                })
                .collect(),
            records: Vec::new(),
            datasets: vec![dataset(DATASET)],
            groups: Vec::new(),
            warnings: Vec::new(),
        };
        for n in 1..=replicas {
            std::fs::create_dir(place.path().join(format!("r{n}"))).unwrap_or_else(|error| panic!("{error}"));
        }
        let opened = config.open_replicas(&SystemClock::shared()).await.unwrap_or_else(|error| panic!("{error:?}"));
        let clock = ManualClock::at(SystemClock::shared().now());
        let shared: SharedClock = clock.clone();
        let init =
            init(&config, &opened, &InitOptions::default(), &shared).await.unwrap_or_else(|error| panic!("{error:?}"));
        Self { place, config, replicas: opened, records: Vec::new(), clock, master, init }
    }

    /// With a place `records` that holds records alone.
    ///
    /// # Panics
    /// On any failure, as all of the harness does.
    pub async fn with_records(mut self) -> Self {
        let path = self.place.path().join("records");
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{error}"));
        let kind = ReplicaKind::Directory { path };
        self.config.records = vec![ReplicaConfig { name: name("records"), kind, ..self.config.replicas[0].clone() }];
        let clock = SystemClock::shared();
        self.records = self.config.open_records(&clock).await.unwrap_or_else(|error| panic!("{error:?}"));
        let made = self.init.init_records(&self.replicas, &self.records).await;
        made.unwrap_or_else(|error| panic!("{error:?}"));
        self
    }

    /// Where replica `n` (from 1) keeps its objects.
    #[must_use]
    pub fn replica_path(&self, n: usize) -> PathBuf {
        self.place.path().join(format!("r{n}")).join("vault")
    }

    /// The backup host's keys.
    ///
    /// # Errors
    /// As [`HostKeys::load`].
    pub fn keys(&self) -> Result<HostKeys> {
        HostKeys::load(&self.config.keys)
    }

    /// The owner's identities.
    ///
    /// # Panics
    /// The identity file cannot be read.
    #[must_use]
    pub fn master_identities(&self) -> Vec<SharedIdentity> {
        let text = std::fs::read(&self.master).unwrap_or_else(|error| panic!("{error}"));
        parse_identities(&Secret::new(text), "master").unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Backs `source` up, one second later than the last time.
    ///
    /// # Errors
    /// As [`Backup::run`].
    pub async fn backup(&self, source: &dyn Source) -> Result<BackupReport> {
        self.backup_to(source, &self.replicas).await
    }

    /// Backs `source` up to other replicas than the configured ones, such as misbehaving ones.
    ///
    /// # Errors
    /// As [`Backup::run`].
    pub async fn backup_to(&self, source: &dyn Source, replicas: &[SharedReplica]) -> Result<BackupReport> {
        self.clock.advance(Duration::from_secs(1));
        let keys = self.keys()?;
        let state = StateDirectory::open(&self.config.state_directory)?;
        let _lock = state.lock_dataset(&name(DATASET)).await?;
        Backup {
            config: &self.config,
            dataset: &self.config.datasets[0],
            source,
            environment: &tools::environment(),
            keys: &keys,
            replicas,
            records: &self.records,
            state: &state,
            clock: self.clock.clone(),
            group: None,
            budget: RunBudget::new(&self.config.limits),
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
        }
        .run()
        .await
    }

    /// What the owner reads with: the master identity, the backup host's signer.
    #[must_use]
    pub fn owner(&self) -> ReaderKeys {
        let keys = self.keys().unwrap_or_else(|error| panic!("{error:?}"));
        ReaderKeys { identities: self.master_identities(), ..keys.reader() }
    }

    /// Opens the vault with `keys`.
    ///
    /// # Errors
    /// As [`VaultReader::open`].
    pub async fn open(&self, keys: ReaderKeys) -> Result<VaultReader> {
        VaultReader::open(&self.replicas, keys, limits(), CancellationToken::new()).await
    }

    /// Restores every stream of a snapshot as the owner.
    ///
    /// # Errors
    /// As the reader's.
    pub async fn restore(&self, snapshot: &SnapshotId) -> Result<BTreeMap<String, Vec<u8>>> {
        let reader = self.open(self.owner()).await?;
        read_all(&reader.streams(&name(DATASET), snapshot).await?).await
    }

    /// Marks what no rule keeps, waits for the grace period, and sweeps.
    ///
    /// # Errors
    /// As [`Prune::plan`] and [`Prune::execute`].
    pub async fn sweep(&self) -> Result<(PrunePlan, PruneOutcome)> {
        self.prune().await?;
        self.clock.advance(self.config.datasets[0].retention.grace + Duration::from_secs(1));
        self.prune().await
    }

    /// Plans a prune and carries it out.
    ///
    /// # Errors
    /// As [`Prune::plan`] and [`Prune::execute`].
    pub async fn prune(&self) -> Result<(PrunePlan, PruneOutcome)> {
        self.prune_in(&self.replicas).await
    }

    /// As [`Self::prune`], in other replicas than the configured ones, such as misbehaving ones.
    ///
    /// # Errors
    /// As [`Prune::plan`] and [`Prune::execute`].
    pub async fn prune_in(&self, replicas: &[SharedReplica]) -> Result<(PrunePlan, PruneOutcome)> {
        let planned = async |prune: &Prune<'_>| {
            let plan = prune.plan().await?;
            let outcome = prune.execute(&plan).await?;
            Ok((plan, outcome))
        };
        self.with_prune_in(replicas, planned).await
    }

    /// Does `work` with what a prune has.
    ///
    /// # Errors
    /// The host's files cannot be read; those of `work`.
    pub async fn with_prune<T>(&self, work: impl AsyncFnOnce(&Prune<'_>) -> Result<T>) -> Result<T> {
        self.with_prune_in(&self.replicas, work).await
    }

    /// As [`Self::with_prune`], in other replicas than the configured ones.
    ///
    /// # Errors
    /// As [`Self::with_prune`].
    pub async fn with_prune_in<T>(
        &self,
        replicas: &[SharedReplica],
        work: impl AsyncFnOnce(&Prune<'_>) -> Result<T>,
    ) -> Result<T> {
        let keys = self.keys()?;
        let state = StateDirectory::open(&self.config.state_directory)?;
        let prune = Prune {
            config: &self.config,
            dataset: &self.config.datasets[0],
            keys: &keys,
            replicas,
            records: &self.records,
            state: &state,
            clock: self.clock.clone(),
            cancel: CancellationToken::new(),
        };
        work(&prune).await
    }
}

/// Reads every stream to its end.
///
/// # Errors
/// As the streams'.
pub async fn read_all(streams: &dyn StoredStreams) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for stream in streams.names() {
        let mut reader = streams.open(&stream).await?;
        let mut content = Vec::new();
        while let Some(piece) = reader.next().await? {
            content.extend_from_slice(&piece);
        }
        all.insert(stream, content);
    }
    Ok(all)
}

fn keys_config(directory: PathBuf, master_recipients: Vec<String>) -> KeysConfig {
    KeysConfig {
        host_key: SecretRef::file(directory.join("host.key")),
        host_bundle: SecretRef::file(directory.join("host-keys")),
        drill_identity: SecretRef::file(directory.join("drill-identity")),
        drill_signer: SecretRef::file(directory.join("drill-signer")),
        warden_signer: SecretRef::file(directory.join("warden-signer")),
        directory,
        owners: Vec::new(),
        owner_threshold: 1,
        master_recipients,
        drill_recipients: Vec::new(),
        trusted_signers: Vec::new(),
        trusted_drill_signers: Vec::new(),
    }
}

/// Limits of a small machine.
#[must_use]
pub fn limits() -> Limits {
    Limits {
        cpu: 2,
        memory: 128 << 20,
        runs: 2,
        stall: Duration::from_secs(20),
        run: Duration::from_secs(600),
        shutdown: Duration::from_secs(5),
        clock_skew: Duration::from_secs(300),
    }
}

fn dataset(text: &str) -> Dataset {
    Dataset {
        name: name(text),
        home_region: "home".to_owned(),
        source: Arc::new(CommandSource(CommandConfig {
            argv: vec!["true".to_owned()],
            environment: BTreeMap::new(),
            expected_status: vec![0],
            allow_empty: false,
            stream: "data".to_owned(),
        })),
        replaces: None,
        // The longest pauses that no test doubts: see `clocks.rs`.
        schedule: Schedule::parse("@monthly", Tz::UTC, Duration::ZERO).ok(),
        retention: Retention { grace: Duration::from_secs(86_400), ..Retention::default() },
        objectives: Objectives::default(),
        chunk_size: 64 << 10,
        dedup: Dedup::Rows,
        compression: Compression::Auto,
        hosts: Vec::new(),
        takeover_after: Duration::from_secs(15 * 60),
        retry: Duration::from_secs(15 * 60),
        drill: DrillConfig { level: Some(ProofLevel::Fetched), ..DrillConfig::default() },
        recovery: PlaceInRecovery::default(),
    }
}
