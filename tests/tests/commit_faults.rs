//! A backup that meets a fault at any of its calls has one of three outcomes, and each is true:
//! committed, not committed, unknown.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_engine::backup::{Backup, BackupReport, Progress};
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
use lifeboat_engine::store::{FailingReplica, Failure, MemoryReplica, Replica, SharedReplica};
use lifeboat_engine::{Class, Error, Result};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise, read_all};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Less than a day, so that no step of time looks like a clock that jumped.
const GRACE: Duration = Duration::from_secs(2 * 3600);
/// No backup in here makes more calls to a replica.
const MOST_CALLS: u64 = 1000;
const HANG: Failure = Failure::Hang(Duration::from_millis(1));
/// Of what the backup that meets the fault is made.
const ATTEMPT: u64 = 500;
/// Of what the backup after it is made.
const NEXT: u64 = 900;

type Streams = BTreeMap<String, Vec<u8>>;

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Faults {
    /// One.
    One,
    /// It, and all after it: the replica is lost.
    AllFrom,
}

/// Whether the caller cannot know if the work was done.
fn leaves_no_answer(failure: Failure) -> bool {
    matches!(failure, Failure::AnswerLost | Failure::Hang(_) | Failure::Unavailable)
}

fn source(seed: u64) -> MemorySource {
    MemorySource {
        streams: vec![("shared".to_owned(), noise(40_000, 1)), ("own".to_owned(), noise(40_000, seed))],
        ..MemorySource::default()
    }
}

fn streams(seed: u64) -> Streams {
    source(seed).streams.into_iter().collect()
}

/// A vault with some snapshots, to be copied.
struct Prepared {
    vault: TestVault,
    keys: HostKeys,
    owner: ReaderKeys,
    objects: Vec<(String, Bytes)>,
    snapshots: BTreeMap<SnapshotId, Streams>,
    /// How many acts there are.
    acts: usize,
}

impl Prepared {
    async fn new(snapshots: u64) -> Self {
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
        let acts = objects.iter().filter(|(key, _)| layout::parse_act(&name(DATASET), key).is_some()).count();
        let (keys, owner) = (vault.keys().unwrap(), vault.owner());
        Self { vault, keys, owner, objects, snapshots: made, acts }
    }

    /// A copy of the vault in memory, in so many replicas, of which the first can be made to fail.
    async fn copy(&self, (replicas, min_replicas): (usize, usize)) -> VaultCopy<'_> {
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
        VaultCopy { prepared: self, config, clock, state, failing, replicas: all, sound }
    }
}

struct VaultCopy<'a> {
    prepared: &'a Prepared,
    config: Config,
    clock: Arc<ManualClock>,
    state: TempDir,
    failing: Arc<FailingReplica>,
    /// The first one is `failing`.
    replicas: Vec<SharedReplica>,
    /// The same, none of which fails.
    sound: Vec<SharedReplica>,
}

impl VaultCopy<'_> {
    async fn backup(&self, replicas: &[SharedReplica], seed: u64) -> Result<BackupReport> {
        self.clock.advance(Duration::from_secs(1));
        let state = StateDirectory::open(self.state.path())?;
        Backup {
            config: &self.config,
            dataset: &self.config.datasets[0],
            source: &source(seed),
            environment: &tools::environment(),
            keys: &self.prepared.keys,
            replicas,
            state: &state,
            clock: self.clock.clone(),
            progress: Arc::new(Progress::default()),
            cancel: CancellationToken::new(),
        }
        .run()
        .await
    }

    /// Plans a prune and carries it out. Returns what it tells.
    async fn prune(&self, replicas: &[SharedReplica]) -> Result<Vec<String>> {
        let state = StateDirectory::open(self.state.path())?;
        let prune = Prune {
            config: &self.config,
            dataset: &self.config.datasets[0],
            keys: &self.prepared.keys,
            replicas,
            state: &state,
            clock: self.clock.clone(),
            cancel: CancellationToken::new(),
        };
        let plan = prune.plan().await?;
        Ok(prune.execute(&plan).await?.failures)
    }

    async fn catch_up(&self) {
        let state = StateDirectory::open(self.state.path()).unwrap();
        let (dataset, keys) = (&self.config.datasets[0], &self.prepared.keys);
        catch_up(dataset, keys, &self.sound, &state, &limits(), &CancellationToken::new()).await.unwrap();
    }

    /// Reads these replicas as the owner.
    async fn reader(&self, replicas: &[SharedReplica]) -> VaultReader {
        let (owner, token) = (self.prepared.owner.clone(), CancellationToken::new());
        VaultReader::open(replicas, owner, limits(), token).await.unwrap()
    }

    /// The snapshots that any of the replicas shows.
    async fn shown(&self) -> BTreeSet<SnapshotId> {
        let listed = self.reader(&self.sound).await.snapshots(&name(DATASET)).await.unwrap();
        listed.into_iter().map(|listed| listed.snapshot).collect()
    }

    async fn assert_restores(&self, replicas: &[SharedReplica], snapshot: &SnapshotId, content: &Streams, when: &str) {
        let reader = self.reader(replicas).await;
        let stored = reader.streams(&name(DATASET), snapshot).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        let restored = read_all(&stored).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(restored == *content, "{when}: {snapshot} differs");
    }

    /// Whether the dataset has an act more than before.
    async fn has_a_new_act(&self) -> bool {
        let mut acts = 0;
        for replica in &self.sound {
            acts = acts.max(replica.list(&layout::order(&name(DATASET))).await.unwrap().len());
        }
        acts > self.prepared.acts
    }

    /// A success is true in each replica that it names, alone.
    async fn assert_committed(&self, report: &BackupReport, when: &str) {
        let complete = report.replicas.iter().filter(|outcome| outcome.complete);
        let complete: Vec<&str> = complete.map(|outcome| outcome.replica.as_str()).collect();
        assert!(complete.len() >= self.config.min_replicas, "{when}: {report:?}");
        for replica in self.sound.iter().filter(|replica| complete.contains(&replica.name().as_str())) {
            let alone = std::slice::from_ref(replica);
            let listed = self.reader(alone).await.snapshots(&name(DATASET)).await.unwrap();
            let is_shown = listed.iter().any(|listed| listed.snapshot == report.snapshot);
            assert!(is_shown, "{when}: {} does not show it", replica.name());
            self.assert_restores(alone, &report.snapshot, &streams(ATTEMPT), when).await;
        }
        let others = self.shown().await.into_iter().filter(|snapshot| *snapshot != report.snapshot);
        assert!(others.eq(self.prepared.snapshots.keys().cloned()), "{when}: another snapshot is shown, or one is not");
    }

    /// What was not committed is shown by no replica, now or later.
    async fn assert_refused(&self, error: &Error, when: &str) {
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
    async fn assert_unknown_is_settled(&self, when: &str) {
        let next = self.backup(&self.sound, NEXT).await;
        let next = next.unwrap_or_else(|error| panic!("{when}: the next backup: {error:?}"));
        self.assert_restores(&self.sound, &next.snapshot, &streams(NEXT), when).await;
        self.catch_up().await;
        let reader = self.reader(&self.sound).await;
        let report = verify(&reader, &name(DATASET), None, false, &CancellationToken::new()).await.unwrap();
        assert!(report.findings.is_empty(), "{when}: {:?}", report.findings);
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
}

/// How often each outcome was seen.
#[derive(Debug, Default)]
struct Outcomes {
    committed: u64,
    not_committed: u64,
    /// Of these, errors that say so.
    said: u64,
    unknown: u64,
}

/// Fails each call of a backup, in each of these ways, and judges what the backup says.
async fn fail_every_call(fleet: (usize, usize), faults: Faults, failures: &[Failure]) -> Outcomes {
    let prepared = Prepared::new(2).await;
    let mut seen = Outcomes::default();
    for failure in failures {
        for call in 1..MOST_CALLS {
            let copy = prepared.copy(fleet).await;
            let last = if faults == Faults::One { call } else { call + MOST_CALLS };
            (call..=last).for_each(|call| copy.failing.fail(call, *failure));
            let outcome = copy.backup(&copy.replicas, ATTEMPT).await;
            let when = format!("{fleet:?}, {faults:?}, {failure:?} at call {call}");
            let is_met = copy.failing.calls() >= call;
            match outcome {
                Ok(report) => {
                    copy.assert_committed(&report, &when).await;
                    seen.committed += u64::from(is_met);
                }
                Err(error) if error.class() == Class::Unknown => {
                    // The act decides. Where it is there, only the signature is not.
                    let may_be = leaves_no_answer(*failure) || copy.has_a_new_act().await;
                    assert!(is_met && may_be, "{when}: {error:?}");
                    assert!(error.hint_text().is_some(), "{when}: {error:?}");
                    copy.assert_unknown_is_settled(&when).await;
                    seen.unknown += 1;
                }
                Err(error) => {
                    assert!(is_met, "{when}: {error:?}");
                    copy.assert_refused(&error, &when).await;
                    seen.not_committed += 1;
                    seen.said += u64::from(format!("{error:?}").contains("was not committed"));
                }
            }
            if !is_met {
                assert!(call > 8, "{when}: a backup made no more calls");
                break;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fault_at_any_call_to_the_only_replica_is_answered_truly() {
    let failures = [
        Failure::Unavailable,
        Failure::Denied,
        Failure::NotFound,
        Failure::AnswerLost,
        HANG,
        Failure::Truncated,
        Failure::Flipped,
    ];
    let seen = fail_every_call((1, 1), Faults::One, &failures).await;
    assert!(seen.committed > 0 && seen.not_committed > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_replica_that_is_lost_at_any_call_is_answered_truly() {
    let failures = [Failure::Unavailable, Failure::Denied, Failure::AnswerLost, HANG];
    let seen = fail_every_call((1, 1), Faults::AllFrom, &failures).await;
    assert!(seen.not_committed > 0 && seen.said > 0 && seen.unknown > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_one_of_two_replicas_that_are_both_needed_is_answered_truly() {
    let failures = [Failure::Unavailable, Failure::Denied, Failure::AnswerLost];
    let one = fail_every_call((2, 2), Faults::One, &failures).await;
    assert!(one.committed > 0 && one.not_committed > 0, "{one:?}");
    let all = fail_every_call((2, 2), Faults::AllFrom, &[Failure::Unavailable, Failure::AnswerLost, HANG]).await;
    assert!(all.not_committed > 0 && all.said > 0, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_one_of_two_replicas_of_which_one_is_enough_is_answered_truly() {
    let failures = [Failure::Unavailable, Failure::AnswerLost, HANG];
    let one = fail_every_call((2, 1), Faults::One, &failures).await;
    assert!(one.committed > 0, "{one:?}");
    let all = fail_every_call((2, 1), Faults::AllFrom, &failures).await;
    assert!(all.committed > 0, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_run_left_goes_after_the_grace_period() {
    let prepared = Prepared::new(2).await;
    let mut left = 0;
    for call in 1..MOST_CALLS {
        let copy = prepared.copy((1, 1)).await;
        (call..call + MOST_CALLS).for_each(|call| copy.failing.fail(call, Failure::Denied));
        let outcome = copy.backup(&copy.replicas, ATTEMPT).await;
        let when = format!("denied from call {call} on");
        let Err(error) = outcome else { break };
        if error.class() == Class::Unknown {
            continue;
        }
        left += u64::from(copy.sound[0].list("").await.unwrap().len() > prepared.objects.len());
        let next = copy.backup(&copy.sound, NEXT).await.unwrap();
        for _ in 0..3 {
            assert_eq!(copy.prune(&copy.sound).await.unwrap(), [""; 0], "{when}");
            copy.clock.advance(GRACE + GRACE);
        }
        let reader = copy.reader(&copy.sound).await;
        let mut needed = BTreeSet::new();
        for snapshot in copy.shown().await {
            let manifest = reader.manifest(&name(DATASET), &snapshot).await.unwrap();
            needed.extend(manifest.packs.iter().map(|pack| layout::pack(&name(DATASET), &pack.id)));
            needed.insert(layout::manifest(&name(DATASET), &snapshot));
        }
        for folder in [layout::packs(&name(DATASET)), layout::snapshots(&name(DATASET))] {
            let listed = copy.sound[0].list(&folder).await.unwrap().into_iter().map(|object| object.key);
            let orphans: Vec<String> =
                listed.filter(|key| !layout::is_signature(key) && !needed.contains(key)).collect();
            assert!(orphans.is_empty(), "{when}: {orphans:?} are left");
        }
        copy.assert_restores(&copy.sound, &next.snapshot, &streams(NEXT), &when).await;
    }
    assert!(left > 2, "only {left} runs left anything");
}

/// So many that the manifests are on the second page of a listing.
async fn two_pages() -> Prepared {
    let prepared = Prepared::new(24).await;
    let below = layout::dataset(&name(DATASET));
    assert!(prepared.objects.iter().filter(|(key, _)| key.starts_with(&below)).count() > 120);
    prepared
}

/// All snapshots that were there before are shown, and all their packs are there.
async fn assert_nothing_went(copy: &VaultCopy<'_>, when: &str) {
    let shown = copy.shown().await;
    assert!(copy.prepared.snapshots.keys().all(|snapshot| shown.contains(snapshot)), "{when}: one is not shown");
    let packs = layout::packs(&name(DATASET));
    for (key, _) in copy.prepared.objects.iter().filter(|(key, _)| key.starts_with(&packs)) {
        for replica in &copy.sound {
            assert!(replica.head(key).await.unwrap().is_some(), "{when}: {key} went from {}", replica.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_sees_half_of_a_listing_harms_nothing() {
    let prepared = two_pages().await;
    for fleet in [(1, 1), (2, 2)] {
        // vault.json, the keyring and the dataset are listed first.
        for call in 1..=8 {
            let copy = prepared.copy(fleet).await;
            copy.failing.fail(call, Failure::ListingCut);
            let when = format!("{fleet:?}, listing cut at call {call}");
            match copy.backup(&copy.replicas, ATTEMPT).await {
                Ok(report) => copy.assert_committed(&report, &when).await,
                Err(error) => assert_ne!(error.class(), Class::Unknown, "{when}: {error:?}"),
            }
            copy.backup(&copy.sound, NEXT).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
            for _ in 0..3 {
                let _ = copy.prune(&copy.sound).await;
                copy.clock.advance(GRACE + GRACE);
            }
            assert_nothing_went(&copy, &when).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_sees_half_of_a_listing_deletes_nothing_that_is_needed() {
    let prepared = two_pages().await;
    let mut told = 0;
    for fleet in [(1, 1), (2, 1)] {
        for call in 1..=8 {
            let copy = prepared.copy(fleet).await;
            let when = format!("{fleet:?}, listing cut at call {call}");
            for _ in 0..3 {
                let next = copy.failing.calls() + call;
                copy.failing.fail(next, Failure::ListingCut);
                match copy.prune(&copy.replicas).await {
                    Ok(failures) => told += u64::from(!failures.is_empty()),
                    Err(error) => {
                        assert_eq!(error.class(), Class::Integrity, "{when}: {error:?}");
                        told += 1;
                    }
                }
                copy.clock.advance(GRACE + GRACE);
            }
            assert_nothing_went(&copy, &when).await;
        }
    }
    assert!(told > 0, "no cut listing was noticed");
}
