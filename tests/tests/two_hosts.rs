//! Two hosts that back up one dataset, with the same keys and a state directory each. While one is
//! in the middle of a backup, the other marks, sweeps and commits.
//!
//! A backup either says that it was not committed, and then nobody sees its snapshot, or all of its
//! snapshot is there, also after the next sweep.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use lifeboat_engine::backup::{Backup, BackupReport, Progress, RunBudget};
use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::config::Config;
use lifeboat_engine::databases::command::Command;
use lifeboat_engine::databases::streams::StreamSink;
use lifeboat_engine::databases::{Database, Source, WorkContext};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keep::prune::Prune;
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{ObjectMeta, Page, Probe, Replica, ReplicaError, SharedReplica};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise, read_all};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Less than a day, so that no step of time looks like a clock that jumped.
const GRACE: Duration = Duration::from_secs(2 * 3600);
const DEADLINE: Duration = Duration::from_secs(60);
/// How many replicas there are, and how many must hold a snapshot.
const FLEETS: [(usize, usize); 3] = [(1, 1), (2, 1), (2, 2)];

/// When a source waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// After the run has looked at the replicas, before any data.
    BeforeData,
    /// After all data, before the commit.
    AfterData,
}

/// A source that waits to be let on.
#[derive(Debug)]
struct PausedSource {
    data: Vec<u8>,
    pause: Pause,
    waits: Notify,
    go_on: Notify,
}

impl PausedSource {
    async fn wait_if(&self, pause: Pause) {
        if self.pause == pause {
            self.waits.notify_one();
            self.go_on.notified().await;
        }
    }
}

#[async_trait]
impl Source for PausedSource {
    fn database(&self) -> &'static dyn Database {
        &Command
    }

    async fn capture(&self, sink: &dyn StreamSink, _: &WorkContext) -> Result<SourceFacts> {
        self.wait_if(Pause::BeforeData).await;
        let mut writer = sink.open("data")?;
        for piece in self.data.chunks(50_000) {
            writer.write(Bytes::copy_from_slice(piece)).await?;
        }
        writer.finish(0).await?;
        self.wait_if(Pause::AfterData).await;
        Ok(SourceFacts { engine: "command".to_owned(), ..SourceFacts::default() })
    }
}

/// A call of a replica that is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// The first answer of a mark: the replica waits to be let on.
    MarkWaits,
    /// The first answer of a mark: it is damaged on its way.
    MarkIsDamaged,
    /// The first deletion: the replica waits to be let on.
    DeletionWaits,
}

/// A replica of which one call is stopped.
#[derive(Debug)]
struct StoppedReplica {
    inner: SharedReplica,
    stopped: Stopped,
    was_met: AtomicBool,
    waits: Notify,
    go_on: Notify,
}

impl StoppedReplica {
    fn new(inner: &SharedReplica, stopped: Stopped) -> Arc<Self> {
        let (waits, go_on) = (Notify::new(), Notify::new());
        Arc::new(Self { inner: inner.clone(), stopped, was_met: AtomicBool::new(false), waits, go_on })
    }

    async fn wait_if(&self, stopped: Stopped) {
        if self.stopped == stopped && !self.was_met.swap(true, Ordering::SeqCst) {
            self.waits.notify_one();
            self.go_on.notified().await;
        }
    }

    async fn has_met(&self) {
        tokio::time::timeout(DEADLINE, self.waits.notified()).await.expect("the call was not made");
    }
}

#[async_trait]
impl Replica for StoppedReplica {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn region(&self) -> &str {
        self.inner.region()
    }

    fn clock_offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        self.inner.clock_offset(tolerance)
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.inner.put_new(key, body).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.inner.put_replace(key, body).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        if !key.contains("/marks/") {
            return self.inner.get(key, limit).await;
        }
        self.wait_if(Stopped::MarkWaits).await;
        let body = self.inner.get(key, limit).await?;
        // The readers of a mark ask for it and for its signature.
        let is_damaged = self.stopped == Stopped::MarkIsDamaged
            && !layout::is_signature(key)
            && !self.was_met.swap(true, Ordering::SeqCst);
        Ok(if is_damaged { body.slice(..body.len() - 1) } else { body })
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.inner.head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.inner.list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.wait_if(Stopped::DeletionWaits).await;
        self.inner.delete(key).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner.probe(write).await
    }
}

/// The first snapshot, which retention lets go.
fn old() -> Vec<u8> {
    noise(200_000, 1)
}

fn other(seed: u64) -> Vec<u8> {
    noise(200_000, 10 + seed)
}

/// Two hosts and their dataset, with two snapshots of the first host. Retention keeps the newest.
struct TwoHosts {
    vault: TestVault,
    /// The configuration of the second host; that of the first is the vault's.
    second: Config,
    /// What was reported as committed, and its data.
    committed: Mutex<BTreeMap<SnapshotId, Vec<u8>>>,
    /// The keys of the packs of the first snapshot.
    old_packs: Vec<String>,
}

impl TwoHosts {
    async fn new((replicas, min_replicas): (usize, usize)) -> Self {
        let mut vault = TestVault::new(replicas, min_replicas).await;
        vault.config.datasets[0].retention.keep_last = 1;
        vault.config.datasets[0].retention.grace = GRACE;
        let second = Config { state_directory: vault.place.path().join("second-state"), ..vault.config.clone() };
        let mut hosts = Self { vault, second, committed: Mutex::default(), old_packs: Vec::new() };
        let first = hosts.commit(old()).await;
        hosts.commit(other(0)).await;
        let hand = Hand::of(&hosts.vault.config, &hosts.vault.master);
        let packs = hand.manifest(&first).packs.into_iter();
        hosts.old_packs = packs.map(|pack| layout::pack(&name(DATASET), &pack.id)).collect();
        assert!(!hosts.old_packs.is_empty());
        hosts
    }

    /// Backs up on the host that has this configuration, a second later than the last time.
    async fn run(&self, config: &Config, source: &dyn Source) -> Result<BackupReport> {
        self.run_in(config, source, &self.vault.replicas).await
    }

    async fn run_in(&self, config: &Config, source: &dyn Source, replicas: &[SharedReplica]) -> Result<BackupReport> {
        self.vault.clock.advance(Duration::from_secs(1));
        let keys = self.vault.keys()?;
        let state = StateDirectory::open(&config.state_directory)?;
        Backup {
            config,
            dataset: &config.datasets[0],
            source,
            environment: &tools::environment(),
            keys: &keys,
            replicas,
            records: &[],
            state: &state,
            clock: self.vault.clock.clone(),
            group: None,
            budget: RunBudget::new(&config.limits),
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
        }
        .run()
        .await
    }

    /// Backs up, and remembers what was committed.
    async fn backup(&self, config: &Config, data: Vec<u8>) -> Result<BackupReport> {
        let outcome = self.run(config, &MemorySource::of(data.clone())).await;
        self.remember(&outcome, data);
        outcome
    }

    /// A backup of the first host that must succeed.
    async fn commit(&self, data: Vec<u8>) -> SnapshotId {
        self.backup(&self.vault.config, data).await.unwrap().snapshot
    }

    fn remember(&self, outcome: &Result<BackupReport>, data: Vec<u8>) {
        if let Ok(report) = outcome {
            self.committed.lock().unwrap().insert(report.snapshot.clone(), data);
        }
    }

    /// Backs up on the second host, and carries out `meanwhile` while its source waits.
    async fn backup_beside(
        &self,
        data: Vec<u8>,
        pause: Pause,
        meanwhile: impl Future<Output = ()>,
    ) -> Result<BackupReport> {
        let source = PausedSource { data: data.clone(), pause, waits: Notify::new(), go_on: Notify::new() };
        let steps = async {
            let waits = tokio::time::timeout(DEADLINE, source.waits.notified()).await;
            waits.expect("the second host's backup did not begin to capture");
            meanwhile.await;
            source.go_on.notify_one();
        };
        let (outcome, ()) = tokio::join!(self.run(&self.second, &source), steps);
        self.remember(&outcome, data);
        outcome
    }

    /// Plans a prune on the first host and carries it out. Returns what it tells.
    async fn prune(&self) -> Result<Vec<String>> {
        self.prune_on(&self.vault.config).await
    }

    /// As [`Self::prune`], on the host that has this configuration.
    async fn prune_on(&self, config: &Config) -> Result<Vec<String>> {
        self.prune_in(config, &self.vault.replicas).await
    }

    async fn prune_in(&self, config: &Config, replicas: &[SharedReplica]) -> Result<Vec<String>> {
        let (keys, state) = (self.vault.keys()?, StateDirectory::open(&config.state_directory)?);
        let prune = Prune {
            config,
            dataset: &config.datasets[0],
            keys: &keys,
            replicas,
            records: &[],
            state: &state,
            clock: self.vault.clock.clone(),
            cancel: CancellationToken::new(),
        };
        let plan = prune.plan().await?;
        Ok(prune.execute(&plan).await?.failures)
    }

    /// The first host marks its first snapshot and the packs that this one alone needs.
    async fn mark(&self) {
        assert_eq!(self.prune().await.unwrap(), [""; 0]);
        let marks = files_below(&self.vault.replica_path(1).join(layout::marks(&name(DATASET))));
        assert!(!marks.is_empty(), "nothing was marked");
        assert!(self.has_old_packs(), "a mark alone deleted packs");
    }

    /// Deletes what is marked, after the grace period.
    async fn sweep(&self) {
        self.vault.clock.advance(GRACE + GRACE);
        assert_eq!(self.prune().await.unwrap(), [""; 0]);
        assert!(!self.has_old_packs(), "the sweep left the packs that were marked");
    }

    fn has_old_packs(&self) -> bool {
        self.old_packs.iter().all(|key| self.vault.replica_path(1).join(key).exists())
    }

    async fn reader(&self, replicas: &[SharedReplica]) -> VaultReader {
        VaultReader::open(replicas, self.vault.owner(), limits(), CancellationToken::new()).await.unwrap()
    }

    /// What is shown was reported as committed, and comes back byte by byte. Returns it.
    async fn assert_shown_is_whole(&self, when: &str) -> BTreeSet<SnapshotId> {
        let reader = self.reader(&self.vault.replicas).await;
        let listed = reader.snapshots(&name(DATASET)).await.unwrap();
        let listed: BTreeSet<SnapshotId> = listed.into_iter().map(|listed| listed.snapshot).collect();
        let committed = self.committed.lock().unwrap().clone();
        for snapshot in &listed {
            let data =
                committed.get(snapshot).unwrap_or_else(|| panic!("{when}: {snapshot} is shown, and was not committed"));
            let streams = reader.streams(&name(DATASET), snapshot).await;
            let streams = streams.unwrap_or_else(|error| panic!("{when}: {snapshot}: {error:?}"));
            let restored = read_all(&streams).await.unwrap_or_else(|error| panic!("{when}: {snapshot}: {error:?}"));
            assert!(restored["data"] == *data, "{when}: {snapshot} differs");
        }
        listed
    }

    /// Every replica that a report calls complete restores the snapshot alone.
    async fn assert_complete(&self, report: &BackupReport, when: &str) {
        let data = self.committed.lock().unwrap()[&report.snapshot].clone();
        let complete = report.replicas.iter().filter(|outcome| outcome.complete);
        let complete: Vec<&str> = complete.map(|outcome| outcome.replica.as_str()).collect();
        assert!(complete.len() >= self.vault.config.min_replicas, "{when}: {report:?}");
        for replica in self.vault.replicas.iter().filter(|replica| complete.contains(&replica.name().as_str())) {
            let reader = self.reader(std::slice::from_ref(replica)).await;
            let streams = reader.streams(&name(DATASET), &report.snapshot).await;
            let streams = streams.unwrap_or_else(|error| panic!("{when}: {}: {error:?}", replica.name()));
            let restored = read_all(&streams).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
            assert!(restored["data"] == data, "{when}: {} differs in {}", report.snapshot, replica.name());
        }
    }

    /// The replicas, of which the first is another one.
    fn with_first(&self, first: &Arc<StoppedReplica>) -> Vec<SharedReplica> {
        let others = self.vault.replicas.iter().skip(1).cloned();
        std::iter::once(first.clone() as SharedReplica).chain(others).collect()
    }

    /// Backs up on the second host, in which one call of the first replica is stopped.
    async fn second_backup_in(&self, first: &Arc<StoppedReplica>) -> Result<BackupReport> {
        let data = old();
        let outcome = self.run_in(&self.second, &MemorySource::of(data.clone()), &self.with_first(first)).await;
        self.remember(&outcome, data);
        outcome
    }

    /// The problems that verify finds.
    async fn problems(&self) -> Vec<String> {
        let reader = self.reader(&self.vault.replicas).await;
        let report = verify(&reader, &name(DATASET), None, true, self.vault.clock.now(), &CancellationToken::new())
            .await
            .unwrap();
        report.findings.into_iter().map(|finding| format!("{}: {}", finding.object, finding.problem)).collect()
    }

    /// What must hold after a backup of the second host that was disturbed, then and later.
    async fn settle(&self, outcome: &Result<BackupReport>, when: &str) {
        match outcome {
            Ok(report) => {
                self.assert_complete(report, when).await;
                assert!(self.assert_shown_is_whole(when).await.contains(&report.snapshot), "{when}: it is not shown");
            }
            Err(error) => assert_refused(error, when),
        }
        self.assert_shown_is_whole(when).await;
        let is_told = self.assert_no_place_is_taken_twice(when).await;
        // Whoever was refused tries again, and then all of it is there.
        match self.backup(&self.second, old()).await {
            Ok(report) => self.assert_complete(&report, when).await,
            Err(error) => assert!(is_told, "{when}: the next backup of the second host: {error:?}"),
        }
        let state = StateDirectory::open(&self.vault.config.state_directory).unwrap();
        let (dataset, keys) = (&self.vault.config.datasets[0], self.vault.keys().unwrap());
        catch_up(dataset, &keys, &self.vault.replicas, &state, &limits(), &CancellationToken::new()).await.unwrap();
        for _ in 0..2 {
            self.vault.clock.advance(GRACE + GRACE);
            match self.prune().await {
                Ok(failures) => assert!(failures.is_empty() || is_told, "{when}: {failures:?}"),
                Err(error) => assert!(is_told && error.class() == Class::Integrity, "{when}: {error:?}"),
            }
            self.assert_shown_is_whole(when).await;
        }
        let newest = self.committed.lock().unwrap().keys().next_back().cloned().unwrap();
        let listed = self.assert_shown_is_whole(when).await;
        assert!(listed.contains(&newest), "{when}: the newest snapshot {newest} is gone");
        let problems = self.problems().await;
        assert!(problems.is_empty() || is_told, "{when}: {problems:?}");
    }

    /// Of two snapshots in one place, verify tells. Returns whether there are such.
    async fn assert_no_place_is_taken_twice(&self, when: &str) -> bool {
        let reader = self.reader(&self.vault.replicas).await;
        let mut places = BTreeMap::new();
        let mut taken_twice = false;
        for listed in reader.snapshots(&name(DATASET)).await.unwrap() {
            let manifest = reader.manifest(&name(DATASET), &listed.snapshot).await.unwrap();
            taken_twice |= places.insert(manifest.sequence, listed.snapshot).is_some();
        }
        let problems = self.problems().await;
        let is_told = problems.iter().any(|problem| problem.contains("fork") || problem.contains("branch"));
        assert_eq!(taken_twice, is_told, "{when}: {problems:?}");
        is_told
    }
}

/// The error of a backup that did not commit.
fn assert_refused(error: &lifeboat_engine::Error, when: &str) {
    assert_ne!(error.class(), Class::Unknown, "{when}: every replica answered: {error:?}");
    assert!(format!("{error:?}").contains("was not committed"), "{when}: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_packs_are_marked_meanwhile_is_refused_or_whole() {
    for fleet in FLEETS {
        for pause in [Pause::BeforeData, Pause::AfterData] {
            let hosts = TwoHosts::new(fleet).await;
            let outcome = hosts.backup_beside(old(), pause, hosts.mark()).await;
            hosts.settle(&outcome, &format!("{fleet:?}, {pause:?}, a mark")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_packs_are_swept_meanwhile_is_refused_or_whole() {
    for fleet in FLEETS {
        for pause in [Pause::BeforeData, Pause::AfterData] {
            let hosts = TwoHosts::new(fleet).await;
            let meanwhile = async {
                hosts.mark().await;
                hosts.sweep().await;
            };
            let outcome = hosts.backup_beside(old(), pause, meanwhile).await;
            hosts.settle(&outcome, &format!("{fleet:?}, {pause:?}, a mark and a sweep")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_that_commit_one_is_refused_or_both_are_whole() {
    for fleet in FLEETS {
        for pause in [Pause::BeforeData, Pause::AfterData] {
            let hosts = TwoHosts::new(fleet).await;
            let meanwhile = async {
                hosts.commit(other(1)).await;
            };
            let outcome = hosts.backup_beside(old(), pause, meanwhile).await;
            hosts.settle(&outcome, &format!("{fleet:?}, {pause:?}, a commit")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_paused_while_everything_happens_is_refused_or_whole() {
    for fleet in FLEETS {
        for pause in [Pause::BeforeData, Pause::AfterData] {
            let hosts = TwoHosts::new(fleet).await;
            let meanwhile = async {
                hosts.mark().await;
                hosts.commit(other(1)).await;
                hosts.sweep().await;
                hosts.commit(other(2)).await;
                assert_eq!(hosts.prune().await.unwrap(), [""; 0]);
            };
            let outcome = hosts.backup_beside(old(), pause, meanwhile).await;
            hosts.settle(&outcome, &format!("{fleet:?}, {pause:?}, everything")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_begins_after_a_mark_refers_to_nothing_in_it() {
    for fleet in FLEETS {
        let hosts = TwoHosts::new(fleet).await;
        hosts.mark().await;
        let report = hosts.backup(&hosts.second, old()).await.unwrap();
        assert!(report.stored_bytes > 200_000, "it refers to packs that are marked: {report:?}");
        let hand = Hand::of(&hosts.vault.config, &hosts.vault.master);
        let packs = hand.manifest(&report.snapshot).packs.into_iter();
        let refers = packs.map(|pack| layout::pack(&name(DATASET), &pack.id));
        assert_eq!(refers.filter(|key| hosts.old_packs.contains(key)).count(), 0);
        hosts.sweep().await;
        hosts.settle(&Ok(report), &format!("{fleet:?}, after a mark")).await;
    }
}

/// The second host lists the vault while a sweep has taken its place in the order and deleted
/// nothing. When it reads the mark, all is gone that the sweep deletes.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_deleted_between_its_listing_and_its_reading_is_not_passed_over() {
    for fleet in FLEETS {
        let hosts = TwoHosts::new(fleet).await;
        hosts.mark().await;
        hosts.vault.clock.advance(GRACE + GRACE);
        let sweeps = StoppedReplica::new(&hosts.vault.replicas[0], Stopped::DeletionWaits);
        let reads = StoppedReplica::new(&hosts.vault.replicas[0], Stopped::MarkWaits);
        let first = async {
            let replicas = hosts.with_first(&sweeps);
            let swept = hosts.prune_in(&hosts.vault.config, &replicas).await;
            reads.go_on.notify_one();
            swept
        };
        let second = async {
            sweeps.has_met().await;
            hosts.second_backup_in(&reads).await
        };
        let lets_on = async {
            reads.has_met().await;
            sweeps.go_on.notify_one();
        };
        let (swept, outcome, ()) = tokio::join!(first, second, lets_on);
        assert_eq!(swept.unwrap(), [""; 0], "{fleet:?}");
        assert!(!hosts.has_old_packs(), "{fleet:?}: nothing was swept");
        let error = outcome.expect_err("a replica was used in which a sweep goes on");
        assert!(error.chain().contains("any more"), "{fleet:?}: {error:?}");
        hosts.assert_shown_is_whole("after the refusal").await;
        let report = hosts.backup(&hosts.second, old()).await.unwrap();
        hosts.settle(&Ok(report), &format!("{fleet:?}, a mark that was gone")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_of_which_one_answer_is_damaged_counts() {
    for fleet in [(1, 1), (2, 2)] {
        let hosts = TwoHosts::new(fleet).await;
        hosts.mark().await;
        let damaged = StoppedReplica::new(&hosts.vault.replicas[0], Stopped::MarkIsDamaged);
        let report = hosts.second_backup_in(&damaged).await.unwrap();
        assert!(damaged.was_met.load(Ordering::SeqCst), "{fleet:?}: no answer was damaged");
        let hand = Hand::of(&hosts.vault.config, &hosts.vault.master);
        let packs = hand.manifest(&report.snapshot).packs.into_iter();
        let refers = packs.map(|pack| layout::pack(&name(DATASET), &pack.id));
        assert_eq!(refers.filter(|key| hosts.old_packs.contains(key)).count(), 0, "{fleet:?}");
        let passed_over = report.warnings.iter().any(|warning| warning.contains("passed over"));
        assert!(!passed_over, "{fleet:?}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_packs_no_manifest_names_yet_is_refused_or_whole() {
    // Enough that whole packs are uploaded while the source waits.
    let data = noise(40_000_000, 60);
    let hosts = TwoHosts::new((2, 1)).await;
    let packs = || files_below(&hosts.vault.replica_path(1).join(layout::packs(&name(DATASET)))).len();
    let before = packs();
    let meanwhile = async {
        let uploaded = async {
            while packs() == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, uploaded).await.expect("no pack was uploaded");
        for _ in 0..2 {
            // To refuse is right, too: for all that the first host knows, a manifest was lost.
            let _ = hosts.prune().await;
            hosts.vault.clock.advance(GRACE + GRACE);
        }
        let _ = hosts.prune().await;
    };
    let outcome = hosts.backup_beside(data, Pause::AfterData, meanwhile).await;
    hosts.settle(&outcome, "packs on their way").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_run_at_once_never_take_one_place_unseen() {
    for fleet in FLEETS {
        let hosts = TwoHosts::new(fleet).await;
        for round in 0..4 {
            let when = format!("{fleet:?}, round {round}");
            let first = hosts.backup(&hosts.vault.config, other(20 + round));
            let second = hosts.backup(&hosts.second, other(40 + round));
            let (first, second) = tokio::join!(first, second);
            for outcome in [first, second] {
                match outcome {
                    Ok(report) => hosts.assert_complete(&report, &when).await,
                    Err(error) => assert_refused(&error, &when),
                }
            }
            hosts.assert_shown_is_whole(&when).await;
            hosts.assert_no_place_is_taken_twice(&when).await;
        }
    }
}

/// Later records do not repeat every snapshot that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_misses_nothing_after_two_sweeps_of_the_other_one() {
    for fleet in FLEETS {
        let hosts = TwoHosts::new(fleet).await;
        hosts.mark().await;
        assert_eq!(hosts.prune_on(&hosts.second).await.unwrap(), [""; 0], "{fleet:?}");
        hosts.sweep().await;
        let record = || files_below(&hosts.vault.replica_path(1).join(layout::prunes(&name(DATASET))));
        let first = record();
        for seed in [70, 71] {
            hosts.commit(other(seed)).await;
        }
        for _ in 0..2 {
            assert_eq!(hosts.prune().await.unwrap(), [""; 0], "{fleet:?}");
            hosts.vault.clock.advance(GRACE + GRACE);
        }
        assert!(!first.is_empty() && first.iter().all(|file| !record().contains(file)), "{fleet:?}: no second sweep");
        let pruned = hosts.prune_on(&hosts.second).await.unwrap_or_else(|error| panic!("{fleet:?}: {error:?}"));
        assert_eq!(pruned, [""; 0], "{fleet:?}");
        // What is lost is missed all the same.
        let newest = hosts.committed.lock().unwrap().keys().next_back().cloned().unwrap();
        let key = layout::manifest(&name(DATASET), &newest);
        for key in [layout::signature(&key), key] {
            std::fs::remove_file(hosts.vault.replica_path(1).join(key)).unwrap();
        }
        let missed = hosts.prune_on(&hosts.second).await.unwrap_err();
        assert!(missed.chain().contains(newest.as_str()), "{fleet:?}: {missed:?}");
    }
}
