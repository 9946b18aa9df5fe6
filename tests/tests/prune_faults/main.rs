//! A prune that meets a fault at any of its calls tells of it, harms nothing that stays, and the
//! next one finishes its work.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::prune::{Prune, PruneOutcome, PrunePlan};
use lifeboat_engine::keep::verify::{Finding, verify};
use lifeboat_engine::keys::{HostKeys, ReaderKeys};
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{
    FailingReplica, Failure, MemoryReplica, ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind,
    SharedReplica,
};
use lifeboat_engine::{Class, Error};
use lifeboat_tests::faults::kinds;
use lifeboat_tests::tally::Tally;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise, read_all};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A replica that does not delete one of its objects.
#[derive(Debug)]
struct Stubborn {
    inner: SharedReplica,
    key: String,
}

#[async_trait]
impl Replica for Stubborn {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn region(&self) -> &str {
        self.inner.region()
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.inner.put_new(key, body).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.inner.put_replace(key, body).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.inner.get(key, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.inner.head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.inner.list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        if key == self.key {
            let kind = ReplicaErrorKind::Denied("it is held".to_owned());
            return Err(ReplicaError { replica: self.name().clone(), operation: "delete", key: key.to_owned(), kind });
        }
        self.inner.delete(key).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner.probe(write).await
    }
}

const HANG_TIME: Duration = Duration::from_millis(1);
/// What verify says where the only record of a removal is gone.
const FORGOTTEN: &str = "no prune record explains it";

/// A vault in which a prune has all of its kinds of work to do.
struct Prepared {
    vault: TestVault,
    keys: HostKeys,
    owner: ReaderKeys,
    objects: Vec<(String, Bytes)>,
    /// What stays, and its streams.
    stays: Vec<(SnapshotId, BTreeMap<String, Vec<u8>>)>,
}

impl Prepared {
    /// Two days with two snapshots each, of which the first of each day goes. That of the first day
    /// is gone already: only an older prune record tells why the second one misses its predecessor.
    /// Behind the one that goes, a killed run has left a manifest. If `marked`, what goes is marked
    /// already.
    async fn new(marked: bool) -> Self {
        let mut vault = TestVault::new(1, 1).await;
        vault.config.datasets[0].retention.daily = 9;
        vault.config.datasets[0].retention.grace = Duration::ZERO;
        let since_midnight = vault.clock.now().timestamp().rem_euclid(86_400).unsigned_abs();
        vault.clock.advance(Duration::from_secs(86_400 - since_midnight));
        // What all have in common lies in a pack of the snapshot that is gone.
        let source = |seed| MemorySource {
            streams: vec![("shared".to_owned(), noise(80_000, 9)), ("own".to_owned(), noise(80_000, seed))],
            ..MemorySource::default()
        };
        let mut snapshots = Vec::new();
        for day in 0..2 {
            for seed in [2 * day, 2 * day + 1] {
                let source = source(seed);
                let snapshot = vault.backup(&source).await.unwrap().snapshot;
                snapshots.push((snapshot, source.streams.into_iter().collect()));
                if seed == 2 {
                    leave_a_manifest(&vault, &MemorySource::of(noise(80_000, 99))).await;
                }
            }
            if day == 0 {
                vault.sweep().await.unwrap();
                vault.clock.advance(Duration::from_secs(86_400 - 1));
            }
        }
        // What a run left is marked once no run can still be at it.
        vault.clock.advance(vault.config.limits.longest_run());
        if marked {
            vault.prune().await.unwrap();
            vault.clock.advance(Duration::from_secs(1));
        }
        let objects = objects(&vault);
        let (keys, owner) = (vault.keys().unwrap(), vault.owner());
        let stays = vec![snapshots.remove(1), snapshots.remove(2)];
        Self { vault, keys, owner, objects, stays }
    }

    /// As [`Self::new`], where a prune has something to mark, and something that is marked already.
    async fn with_both() -> Self {
        let mut prepared = Self::new(true).await;
        let source = MemorySource::of(noise(80_000, 77));
        let newest = prepared.vault.backup(&source).await.unwrap().snapshot;
        prepared.objects = objects(&prepared.vault);
        prepared.stays[1] = (newest, source.streams.into_iter().collect());
        prepared
    }

    /// Reads one replica as the owner.
    async fn reader(&self, replica: &SharedReplica) -> VaultReader {
        let (one, token) = (std::slice::from_ref(replica), CancellationToken::new());
        VaultReader::open(one, self.owner.clone(), limits(), token).await.unwrap()
    }

    /// A copy of the vault in memory, in so many replicas, of which the first can be made to fail.
    async fn copy(&self, replicas: usize) -> Copy<'_> {
        let mut all = Vec::new();
        for n in 1..=replicas {
            let replica = MemoryReplica::new(name(&format!("r{n}")), "east", self.vault.clock.clone());
            for (key, body) in &self.objects {
                replica.put_new(key, body.clone()).await.unwrap();
            }
            all.push(Arc::new(replica) as SharedReplica);
        }
        let failing = Arc::new(FailingReplica::new(all[0].clone()));
        let (state, sound) = (TempDir::new().unwrap(), all.clone());
        all[0] = failing.clone();
        Copy { prepared: self, state, failing, replicas: all, sound, records: Vec::new() }
    }

    /// A copy beside a place that holds records alone, which can be made to fail; and that place as
    /// it does not.
    async fn copy_beside_records(&self) -> (Copy<'_>, SharedReplica) {
        let mut copy = self.copy(1).await;
        let records = MemoryReplica::new(name("records"), "east", self.vault.clock.clone());
        let is_record = |key: &str| key == layout::VAULT || layout::parse_act(&name(DATASET), key).is_some();
        for (key, body) in self.objects.iter().filter(|(key, _)| is_record(key)) {
            records.put_new(key, body.clone()).await.unwrap();
        }
        let records: SharedReplica = Arc::new(records);
        let failing = Arc::new(FailingReplica::new(records.clone()));
        copy.replicas = copy.sound.clone();
        copy.records = vec![failing.clone()];
        copy.failing = failing;
        (copy, records)
    }
}

/// Every object of the only replica.
fn objects(vault: &TestVault) -> Vec<(String, Bytes)> {
    let root = vault.replica_path(1);
    let object = |file: &std::path::PathBuf| {
        let key = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (key, Bytes::from(std::fs::read(file).unwrap()))
    };
    files_below(&root).iter().map(object).collect()
}

/// A backup that stores one pack makes so many calls before it writes its act.
const CALLS_BEFORE_THE_ACT: u64 = 7;

/// Cuts a backup short between its manifest and its act.
async fn leave_a_manifest(vault: &TestVault, source: &MemorySource) {
    let failing = FailingReplica::new(vault.replicas[0].clone());
    (1..100).for_each(|call| failing.fail(CALLS_BEFORE_THE_ACT + call, Failure::Denied));
    let error = vault.backup_to(source, &[Arc::new(failing)]).await.unwrap_err();
    assert_eq!(error.class(), Class::Storage, "{error:?}");
    let left = files_below(&vault.replica_path(1).join(layout::snapshots(&name(DATASET))));
    let is_signature = |file: &&std::path::PathBuf| file.extension().is_some_and(|ending| ending == "minisig");
    assert_eq!(left.len(), 2 * left.iter().filter(is_signature).count() + 1, "{left:?}");
}

struct Copy<'a> {
    prepared: &'a Prepared,
    state: TempDir,
    failing: Arc<FailingReplica>,
    /// The first one is `failing`.
    replicas: Vec<SharedReplica>,
    /// The same, none of which fails.
    sound: Vec<SharedReplica>,
    /// Places that hold records alone.
    records: Vec<SharedReplica>,
}

impl Copy<'_> {
    async fn prune(&self) -> Result<(PrunePlan, PruneOutcome), Error> {
        let config = &self.prepared.vault.config;
        let state = StateDirectory::open(self.state.path())?;
        let prune = Prune {
            config,
            dataset: &config.datasets[0],
            keys: &self.prepared.keys,
            replicas: &self.replicas,
            records: &self.records,
            state: &state,
            clock: self.prepared.vault.clock.clone(),
            cancel: CancellationToken::new(),
        };
        let plan = prune.plan().await?;
        let outcome = prune.execute(&plan).await?;
        Ok((plan, outcome))
    }

    /// Prunes until nothing is left to do.
    async fn finish(&self) -> Result<(), Error> {
        for _ in 0..4 {
            self.prepared.vault.clock.advance(Duration::from_millis(10));
            let (plan, outcome) = self.prune().await?;
            assert!(plan.skipped.is_empty() && outcome.failures.is_empty(), "{outcome:?}");
            if plan.is_empty() {
                return Ok(());
            }
        }
        panic!("there is no end to it");
    }

    /// Verify finds nothing wrong in any replica; whether it misses only what a prune record said.
    async fn assert_whole(&self, when: &str) -> bool {
        let mut forgotten = false;
        for replica in &self.sound {
            let reader = self.prepared.reader(replica).await;
            let report = verify(
                &reader,
                &name(DATASET),
                None,
                false,
                self.prepared.vault.clock.now(),
                &CancellationToken::new(),
            )
            .await
            .unwrap();
            let (records, harm): (Vec<Finding>, Vec<Finding>) =
                report.findings.into_iter().partition(|finding| finding.problem.ends_with(FORGOTTEN));
            assert!(harm.is_empty(), "{when}: {harm:?}");
            forgotten |= !records.is_empty();
        }
        forgotten
    }

    /// What stays comes back from every replica.
    async fn assert_restores(&self, when: &str) {
        for replica in &self.sound {
            let reader = self.prepared.reader(replica).await;
            for (snapshot, content) in &self.prepared.stays {
                let streams = reader.streams(&name(DATASET), snapshot).await.unwrap();
                assert!(read_all(&streams).await.unwrap() == *content, "{when}: {snapshot} differs");
            }
        }
    }

    /// The keys of each replica, without index segments and marks that have lost their signatures:
    /// they count for nothing. A prune that was cut short between the two leaves both until they
    /// are old enough to be marked.
    async fn keys(&self) -> Vec<BTreeSet<String>> {
        let mut all = Vec::new();
        for replica in &self.sound {
            let listed: BTreeSet<String> = replica.list("").await.unwrap().into_iter().map(|meta| meta.key).collect();
            let counts = |key: &&String| {
                let object = key.strip_suffix(".minisig").unwrap_or(key);
                let goes_later = ["/index/", "/marks/"].iter().any(|folder| key.contains(folder));
                !goes_later || (listed.contains(object) && listed.contains(&layout::signature(object)))
            };
            all.push(listed.iter().filter(counts).cloned().collect());
        }
        all
    }

    /// What `plan` says that goes from a replica, and is still there.
    async fn left_of(&self, plan: &PrunePlan) -> Vec<String> {
        let mut left = Vec::new();
        for replica in &self.sound {
            let here = |name: &Name| name == replica.name();
            let snapshots = plan.removed().map(|snapshot| layout::manifest(&plan.dataset, snapshot));
            let segments = plan.segments.iter().filter(|(name, _)| here(name)).map(|(_, key)| key.clone());
            let signed = snapshots.chain(segments).flat_map(|key| [layout::signature(&key), key]);
            let packs = plan.packs.iter().filter(|pack| here(&pack.replica)).map(|pack| pack.key.clone());
            let going: BTreeSet<String> = signed.chain(packs).collect();
            let listed = replica.list("").await.unwrap().into_iter();
            left.extend(listed.map(|meta| meta.key).filter(|key| going.contains(key)));
        }
        left
    }
}

/// Without prune records, whose names are random, and acts, of which there may be more.
fn lasting(keys: &[BTreeSet<String>]) -> Vec<BTreeSet<&String>> {
    let lasts = |key: &&String| !key.contains("/prunes/") && !key.contains("/order/");
    keys.iter().map(|keys| keys.iter().filter(lasts).collect()).collect()
}

/// Whether an operator learns that not all was done.
fn tells(plan: &PrunePlan, outcome: &PruneOutcome) -> bool {
    !plan.skipped.is_empty() || !outcome.failures.is_empty()
}

/// Fails each call of a prune once, in each of these ways (see `faults::kinds`).
async fn fail_every_call(replicas: usize, marked: bool, failures: &[Failure]) {
    let mut tally = Tally::of("prune_faults");
    let prepared = Prepared::new(marked).await;
    let undisturbed = prepared.copy(replicas).await;
    let (plan, outcome) = undisturbed.prune().await.unwrap();
    let done = (plan.removed().count(), outcome.snapshots, outcome.packs, plan.segments.len());
    let calls = undisturbed.failing.calls();
    if marked {
        assert_eq!((done, plan.objects.len()), ((1, 1, replicas as u64, replicas), 1), "{plan:?}");
    } else {
        assert_eq!((outcome.marked_snapshots, outcome.marked_packs, done), (1, 1, (0, 0, 0, 0)), "{plan:?}");
    }
    undisturbed.finish().await.unwrap();
    assert!(!undisturbed.assert_whole("undisturbed").await);
    let finished = undisturbed.keys().await;
    for failure in &kinds(failures, HANG_TIME) {
        let (mut told, mut forgotten) = (0, Vec::new());
        for call in 1.. {
            let copy = prepared.copy(replicas).await;
            copy.failing.fail(call, *failure);
            let pruned = copy.prune().await;
            if copy.failing.calls() < call {
                assert!(call > calls, "{failure:?}: only {call} calls");
                break;
            }
            tally.faults += 1;
            let when = format!("{failure:?} at call {call}");
            if copy.assert_whole(&when).await {
                forgotten.push(call);
            }
            match &pruned {
                Ok((plan, outcome)) if !tells(plan, outcome) => {
                    assert_eq!(copy.left_of(plan).await, Vec::<String>::new(), "{when}: this is not told");
                }
                _ => told += 1,
            }
            copy.finish().await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
            copy.assert_whole(&when).await;
            copy.assert_restores(&when).await;
            assert_eq!(lasting(&copy.keys().await), lasting(&finished), "{when}: the next prune left work");
        }
        let least = match failure {
            // What is spoiled may be read elsewhere, or not matter.
            Failure::Truncated | Failure::Flipped | Failure::ListingCut | Failure::ListingStale(_) => 0,
            // These fail writes alone, or listings alone, of which there are few.
            Failure::Conflict | Failure::Exists | Failure::ListingContradicts => 2,
            _ => 7 + 6 * u64::from(marked),
        };
        assert!(told >= least, "{failure:?}: only {told} faults were told");
        assert!(forgotten.is_empty(), "{failure:?}: {forgotten:?} lost a record");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_to_the_only_replica_is_told_and_made_good() {
    fail_every_call(1, false, &[Failure::Unavailable, Failure::AnswerLost]).await;
    let failures = [
        Failure::Unavailable,
        Failure::Denied,
        Failure::AnswerLost,
        Failure::Hang(HANG_TIME),
        Failure::Conflict,
        Failure::Exists,
        Failure::ListingContradicts,
    ];
    fail_every_call(1, true, &failures).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_to_one_of_two_replicas_is_told_and_made_good() {
    fail_every_call(2, false, &[Failure::AnswerLost]).await;
    fail_every_call(2, true, &[Failure::Unavailable, Failure::AnswerLost]).await;
}

/// An object that cannot be deleted keeps what depends on it, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn one_object_that_cannot_be_deleted_does_not_end_the_rest_of_a_sweep() {
    let prepared = Prepared::new(true).await;
    let undisturbed = prepared.copy(1).await;
    let before = undisturbed.keys().await.remove(0);
    undisturbed.finish().await.unwrap();
    let finished = undisturbed.keys().await;
    let going: BTreeSet<&String> = before.difference(&finished[0]).collect();
    let folders = ["/snapshots/", "/packs/", "/index/", "/marks/", "/prunes/", "/order/"];
    assert!(folders.iter().all(|folder| going.iter().any(|key| key.contains(folder))), "{going:?}");
    let is_in = |key: &str, folders: &[&str]| folders.iter().any(|folder| key.contains(folder));
    for key in &going {
        let mut copy = prepared.copy(1).await;
        copy.replicas[0] = Arc::new(Stubborn { inner: copy.sound[0].clone(), key: (*key).clone() });
        let (_, outcome) = copy.prune().await.unwrap();
        assert!(outcome.failures.len() == 1 && outcome.failures[0].contains(key.as_str()), "{key}: {outcome:?}");
        let when = format!("{key} cannot be deleted");
        assert!(!copy.assert_whole(&when).await, "{when}: a record is lost");
        let (listed, is_signature) = (copy.sound[0].list("").await.unwrap(), layout::is_signature(key));
        let left: Vec<String> = listed.into_iter().map(|meta| meta.key).filter(|key| going.contains(key)).collect();
        assert!(left.contains(key), "{when}: it is gone");
        let object = layout::signed_object(key).unwrap_or(key);
        // While a snapshot is shown, its packs and their index stay.
        let depends = |left: &str| match is_in(key, &["/snapshots/"]) && is_signature {
            true => is_in(left, &["/packs/", "/index/"]),
            false => is_in(key, &["/packs/"]) && is_in(left, &["/index/"]),
        };
        // The mark, the older record and their acts name it.
        let more: Vec<&String> = left
            .iter()
            .filter(|left| layout::signed_object(left).unwrap_or(left) != object && !depends(left))
            .filter(|left| !is_in(left, &["/marks/", "/prunes/", "/order/"]))
            .collect();
        assert!(more.is_empty(), "{when}, and neither was {more:?}");
        let is_named = is_in(key, &["/snapshots/", "/packs/"]);
        assert!(!is_named || left.iter().any(|left| is_in(left, &["/marks/"])), "{when}, and its mark is gone");
        // It is tried again, and tells so again.
        let (_, again) = copy.prune().await.unwrap();
        assert!(!is_named || !again.failures.is_empty(), "{when}: the next prune is silent");
        copy.replicas = copy.sound.clone();
        copy.finish().await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        copy.assert_restores(&when).await;
        assert_eq!(lasting(&copy.keys().await), lasting(&finished), "{when}: the next prune left work");
    }
}
