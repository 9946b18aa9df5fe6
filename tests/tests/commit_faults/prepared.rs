//! A vault that is copied for each fault, and what must be true of a copy after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_engine::backup::{Backup, BackupReport, Progress, RunBudget};
use lifeboat_engine::clock::{Clock, ManualClock};
use lifeboat_engine::config::{Config, Retention};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keep::prune::Prune;
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::keys::{HostKeys, ReaderKeys};
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{FailingReplica, MemoryReplica, Replica, SharedReplica};
use lifeboat_engine::{Error, Result};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise, read_all};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Less than a day, so that no step of time looks like a clock that jumped.
pub(crate) const GRACE: Duration = Duration::from_secs(2 * 3600);
/// Of what the backup that meets the fault is made.
pub(crate) const ATTEMPT: u64 = 500;
/// Of what the backup after it is made.
pub(crate) const NEXT: u64 = 900;

/// Of what the newest snapshot is made, where there is one that only the copy has.
pub(crate) const NEWEST: u64 = 700;

pub(crate) type Streams = BTreeMap<String, Vec<u8>>;

pub(crate) fn source(seed: u64) -> MemorySource {
    MemorySource {
        streams: vec![("shared".to_owned(), noise(40_000, 1)), ("own".to_owned(), noise(40_000, seed))],
        ..MemorySource::default()
    }
}

pub(crate) fn streams(seed: u64) -> Streams {
    source(seed).streams.into_iter().collect()
}

/// A vault with some snapshots, to be copied.
pub(crate) struct Prepared {
    pub(crate) vault: TestVault,
    pub(crate) keys: HostKeys,
    pub(crate) owner: ReaderKeys,
    pub(crate) objects: Vec<(String, Bytes)>,
    pub(crate) snapshots: BTreeMap<SnapshotId, Streams>,
    /// How many acts there are.
    pub(crate) acts: u64,
}

impl Prepared {
    pub(crate) async fn new(snapshots: u64) -> Self {
        let mut vault = TestVault::new(1, 1).await;
        vault.config.datasets[0].retention = Retention { grace: GRACE, ..Retention::default() };
        let mut made = BTreeMap::new();
        for seed in 0..snapshots {
            made.insert(vault.backup(&source(seed + 10)).await.unwrap().snapshot, streams(seed + 10));
        }
        let root = vault.replica_path(1);
        let object = |file: &std::path::PathBuf| {
            let key = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            (key, Bytes::from(std::fs::read(file).unwrap()))
        };
        let objects: Vec<(String, Bytes)> = files_below(&root).iter().map(object).collect();
        let acts = objects.iter().filter(|(key, _)| layout::parse_act(&name(DATASET), key).is_some()).count() as u64;
        let (keys, owner) = (vault.keys().unwrap(), vault.owner());
        Self { vault, keys, owner, objects, snapshots: made, acts }
    }

    /// A copy of the vault in memory, in so many replicas, of which the first can be made to fail.
    pub(crate) async fn copy(&self, (replicas, min_replicas): (usize, usize)) -> VaultCopy<'_> {
        let clock = ManualClock::at(self.vault.clock.now());
        let mut all = Vec::new();
        for n in 1..=replicas {
            let replica = MemoryReplica::new(name(&format!("r{n}")), "east", clock.clone());
            for (key, body) in &self.objects {
                replica.put_new(key, body.clone()).await.unwrap();
            }
            all.push(Arc::new(replica) as SharedReplica);
        }
        let failing = Arc::new(FailingReplica::new(all[0].clone()));
        let (state, sound) = (TempDir::new().unwrap(), all.clone());
        all[0] = failing.clone();
        let config = Config { min_replicas, ..self.vault.config.clone() };
        VaultCopy { prepared: self, config, clock, state, failing, replicas: all, sound, records: None }
    }

    /// A copy of which one of two replicas is lost. So a commit needs the other one, and a place
    /// that holds records alone, which can be made to fail.
    pub(crate) async fn copy_beside_records(&self) -> VaultCopy<'_> {
        let mut copy = self.copy((1, 1)).await;
        let place = copy.config.replicas[0].clone();
        copy.config.replicas = vec![place.clone(), place.clone()];
        copy.config.records = vec![place];
        let records = MemoryReplica::new(name("records"), "east", copy.clock.clone());
        let vault = copy.sound[0].get(layout::VAULT, u64::MAX).await.unwrap();
        records.put_new(layout::VAULT, vault).await.unwrap();
        let sound: SharedReplica = Arc::new(records);
        let failing = Arc::new(FailingReplica::new(sound.clone()));
        copy.replicas = copy.sound.clone();
        copy.records = Some(Records { failing: [failing.clone()], sound: [sound] });
        copy.failing = failing;
        copy
    }
}

/// A place that holds records alone, as it fails and as it does not.
pub(crate) struct Records {
    failing: [SharedReplica; 1],
    sound: [SharedReplica; 1],
}

pub(crate) struct VaultCopy<'a> {
    pub(crate) prepared: &'a Prepared,
    pub(crate) config: Config,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) state: TempDir,
    pub(crate) failing: Arc<FailingReplica>,
    /// The first one is `failing`.
    pub(crate) replicas: Vec<SharedReplica>,
    /// The same, none of which fails.
    pub(crate) sound: Vec<SharedReplica>,
    pub(crate) records: Option<Records>,
}

impl VaultCopy<'_> {
    /// The place for records that goes with these replicas.
    fn records_of(&self, replicas: &[SharedReplica]) -> &[SharedReplica] {
        match &self.records {
            None => &[],
            Some(records) if std::ptr::eq(replicas, self.sound.as_slice()) => &records.sound,
            Some(records) => &records.failing,
        }
    }

    pub(crate) async fn backup(&self, replicas: &[SharedReplica], seed: u64) -> Result<BackupReport> {
        self.clock.advance(Duration::from_secs(1));
        let state = StateDirectory::open(self.state.path())?;
        Backup {
            config: &self.config,
            dataset: &self.config.datasets[0],
            source: &source(seed),
            environment: &tools::environment(),
            keys: &self.prepared.keys,
            replicas,
            records: self.records_of(replicas),
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

    /// Plans a prune and carries it out. Returns what it tells.
    pub(crate) async fn prune(&self, replicas: &[SharedReplica]) -> Result<Vec<String>> {
        let state = StateDirectory::open(self.state.path())?;
        let prune = Prune {
            config: &self.config,
            dataset: &self.config.datasets[0],
            keys: &self.prepared.keys,
            replicas,
            records: self.records_of(replicas),
            state: &state,
            clock: self.clock.clone(),
            cancel: CancellationToken::new(),
        };
        let plan = prune.plan().await?;
        Ok(prune.execute(&plan).await?.failures)
    }

    pub(crate) async fn catch_up(&self) {
        let state = StateDirectory::open(self.state.path()).unwrap();
        let (dataset, keys) = (&self.config.datasets[0], &self.prepared.keys);
        catch_up(dataset, keys, &self.sound, &state, &limits(), &CancellationToken::new()).await.unwrap();
    }

    /// Reads these replicas as the owner.
    pub(crate) async fn reader(&self, replicas: &[SharedReplica]) -> VaultReader {
        let (owner, token) = (self.prepared.owner.clone(), CancellationToken::new());
        VaultReader::open(replicas, owner, limits(), token).await.unwrap()
    }

    /// The snapshots that any of the replicas shows.
    pub(crate) async fn shown(&self) -> BTreeSet<SnapshotId> {
        let listed = self.reader(&self.sound).await.snapshots(&name(DATASET)).await.unwrap();
        listed.into_iter().map(|listed| listed.snapshot).collect()
    }

    pub(crate) async fn assert_restores(
        &self,
        replicas: &[SharedReplica],
        snapshot: &SnapshotId,
        content: &Streams,
        when: &str,
    ) {
        let reader = self.reader(replicas).await;
        let stored = reader.streams(&name(DATASET), snapshot).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        let restored = read_all(&stored).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(restored == *content, "{when}: {snapshot} differs");
    }

    /// Whether the dataset has an act more than before.
    pub(crate) async fn has_a_new_act(&self) -> bool {
        let records = self.records.iter().flat_map(|records| &records.sound);
        for place in self.sound.iter().chain(records) {
            let listed = place.list(&layout::order(&name(DATASET))).await.unwrap();
            let mut numbers = listed.iter().filter_map(|object| layout::parse_act(&name(DATASET), &object.key));
            if numbers.any(|number| number > self.prepared.acts) {
                return true;
            }
        }
        false
    }

    /// A success is true in each replica that it names, alone.
    pub(crate) async fn assert_committed(&self, report: &BackupReport, when: &str) {
        self.assert_complete(report, &streams(ATTEMPT), when).await;
        let others = self.shown().await.into_iter().filter(|snapshot| *snapshot != report.snapshot);
        assert!(others.eq(self.prepared.snapshots.keys().cloned()), "{when}: another snapshot is shown, or one is not");
    }

    /// What was not committed is shown by no replica, now or later.
    pub(crate) async fn assert_refused(&self, error: &Error, when: &str) {
        let mut known: BTreeSet<SnapshotId> = self.prepared.snapshots.keys().cloned().collect();
        assert_eq!(self.shown().await, known, "{when}: {error:?}");
        self.catch_up().await;
        assert_eq!(self.shown().await, known, "{when}, after a catch-up: {error:?}");
        let next = self.backup(&self.sound, NEXT).await;
        let next = next.unwrap_or_else(|error| panic!("{when}: the next backup: {error:?}"));
        known.insert(next.snapshot);
        assert_eq!(self.shown().await, known, "{when}, after the next backup: {error:?}");
        // It may refuse, but it shows nothing.
        let _ = self.prune(&self.sound).await;
        assert_eq!(self.shown().await, known, "{when}, after a prune: {error:?}");
    }

    /// What is unknown is known after the next backup, and nothing is broken.
    pub(crate) async fn assert_unknown_is_settled(&self, when: &str) {
        let next = self.backup(&self.sound, NEXT).await;
        let next = next.unwrap_or_else(|error| panic!("{when}: the next backup: {error:?}"));
        self.assert_restores(&self.sound, &next.snapshot, &streams(NEXT), when).await;
        self.catch_up().await;
        self.assert_whole(when).await;
        let shown = self.shown().await;
        let is_known =
            |snapshot: &&SnapshotId| self.prepared.snapshots.contains_key(*snapshot) || **snapshot == next.snapshot;
        assert!(self.prepared.snapshots.keys().all(|snapshot| shown.contains(snapshot)), "{when}: one is not shown");
        let appeared: Vec<&SnapshotId> = shown.iter().filter(|snapshot| !is_known(snapshot)).collect();
        assert!(appeared.len() <= 1, "{when}: {appeared:?}");
        for snapshot in appeared {
            self.assert_restores(&self.sound, snapshot, &streams(ATTEMPT), when).await;
        }
    }

    /// Its host loses its state directory.
    pub(crate) fn forget(&mut self) {
        self.state = TempDir::new().unwrap();
    }

    /// Each replica that a report calls complete restores the snapshot alone.
    pub(crate) async fn assert_complete(&self, report: &BackupReport, content: &Streams, when: &str) {
        let complete = report.replicas.iter().filter(|outcome| outcome.complete);
        let complete: Vec<&str> = complete.map(|outcome| outcome.replica.as_str()).collect();
        assert!(complete.len() >= self.config.min_replicas, "{when}: {report:?}");
        for replica in self.sound.iter().filter(|replica| complete.contains(&replica.name().as_str())) {
            let alone = std::slice::from_ref(replica);
            let listed = self.reader(alone).await.snapshots(&name(DATASET)).await.unwrap();
            let is_shown = listed.iter().any(|listed| listed.snapshot == report.snapshot);
            assert!(is_shown, "{when}: {} does not show it", replica.name());
            self.assert_restores(alone, &report.snapshot, content, when).await;
        }
    }

    /// The newest snapshot comes back from each replica.
    pub(crate) async fn assert_newest(&self, snapshot: &SnapshotId, when: &str) {
        for replica in &self.sound {
            self.assert_restores(std::slice::from_ref(replica), snapshot, &streams(NEWEST), when).await;
        }
    }

    /// Verify finds nothing wrong.
    pub(crate) async fn assert_whole(&self, when: &str) {
        let reader = self.reader(&self.sound).await;
        let report =
            verify(&reader, &name(DATASET), None, false, self.clock.now(), &CancellationToken::new()).await.unwrap();
        assert!(report.findings.is_empty(), "{when}: {:?}", report.findings);
    }
}
