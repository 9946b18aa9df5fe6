//! The order of a dataset: what is finished, whose acts stop a backup, and what older vaults, which
//! have no acts, may not lose.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use lifeboat_engine::Class;
use lifeboat_engine::clock::{Clock, SharedClock};
use lifeboat_engine::config::Retention;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keep::repair::repair;
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};
use lifeboat_tests::by_hand::{Hand, changed, contents, harmed};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, limits, name, noise};
use tokio_util::sync::CancellationToken;

/// Less than a day, so that no step of time looks like a clock that jumped.
const GRACE: Duration = Duration::from_secs(2 * 3600);

fn places(vault: &TestVault) -> Vec<PathBuf> {
    (1..=vault.replicas.len()).map(|replica| vault.replica_path(replica)).collect()
}

/// A source that nobody may read: it fails before its first byte.
fn unread() -> MemorySource {
    MemorySource { fail_after: Some(0), ..MemorySource::of(noise(1000, 7)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_manifest_whose_signature_is_missing_gets_it_as_far_as_memory_goes() {
    let mut vault = TestVault::new(2, 2).await;
    vault.backup(&MemorySource::of(noise(1000, 1))).await.unwrap();
    let hand = Hand::of(&vault.config, &vault.master);
    let id = SnapshotId::new(vault.clock.now(), 7);
    let object = vec![0; 65 << 20];
    let key = layout::manifest(&name(DATASET), &id);
    hand.put(&key, &object);
    let act = hand.commit_act(&hand.keys.signer, 2, &id, &object);
    hand.put(&layout::act(&name(DATASET), 2), &act);

    // It may not be passed over: an older snapshot in its place would be a fork.
    let before = contents(&places(&vault));
    vault.config.limits.memory = 64 << 20;
    let refused = vault.backup(&unread()).await.unwrap_err();
    assert!(refused.hint_text().unwrap().contains("limits.memory"), "{refused:?}");
    assert!(changed(&before, &contents(&places(&vault))).is_empty());

    vault.config.limits.memory = 256 << 20;
    let made = vault.backup(&MemorySource::of(noise(1000, 2))).await.unwrap();
    let is_signed = places(&vault).iter().all(|place| place.join(layout::signature(&key)).exists());
    assert!(is_signed, "{:?}", made.warnings);
}

/// The host that made the backups is lost, and the new one trusts nobody but itself.
async fn lose_the_host(vault: &TestVault) {
    std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    let clock: SharedClock = vault.clock.clone();
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_trust_its_predecessor_reads_and_writes_nothing() {
    // In the second case, a new replica without any snapshot would be enough for a backup.
    for second_is_new in [false, true] {
        let mut vault = TestVault::new(2, 1).await;
        vault.config.datasets[0].retention = Retention { keep_last: 1, grace: Duration::ZERO, ..Retention::default() };
        for seed in 0..3 {
            vault.backup(&MemorySource::of(noise(1000, seed))).await.unwrap();
        }
        vault.sweep().await.unwrap();
        let old = vault.init.signer.clone();
        let first = layout::act(&name(DATASET), 1);
        assert!(places(&vault).iter().all(|place| !place.join(&first).exists()), "act 1 was not swept");
        if second_is_new {
            std::fs::remove_dir_all(vault.replica_path(2).join(layout::dataset(&name(DATASET)))).unwrap();
        }
        lose_the_host(&vault).await;
        let before = contents(&places(&vault));
        let refused = vault.backup(&unread()).await.unwrap_err();
        assert_eq!(refused.class(), Class::Keys, "{refused:?}");
        assert!(refused.chain().contains("no backup of shop can be committed"), "{refused:?}");
        assert!(refused.hint_text().unwrap().contains("trusted_signers"), "{refused:?}");
        assert!(changed(&before, &contents(&places(&vault))).is_empty());

        vault.config.keys.trusted_signers = vec![old];
        let next = vault.backup(&MemorySource::of(noise(1000, 2))).await.unwrap();
        let hand = Hand::of(&vault.config, &vault.master);
        assert_eq!(hand.manifest(&next.snapshot).sequence, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_name_above_the_newest_act_blocks_nothing() {
    for how in ["garbage", "renamed", "of another dataset", "of another vault"] {
        let mut vault = TestVault::new(1, 1).await;
        vault.config.datasets[0].retention = Retention { keep_last: 1, grace: Duration::ZERO, ..Retention::default() };
        for seed in 0..2 {
            vault.backup(&MemorySource::of(noise(1000, seed))).await.unwrap();
        }
        let mut hand = Hand::of(&vault.config, &vault.master);
        let false_name = layout::act(&name(DATASET), 100);
        let ours = hand.read(&layout::act(&name(DATASET), 2));
        let id = SnapshotId::new(vault.clock.now(), 7);
        let object = match how {
            "garbage" => b"garbage".to_vec(),
            "renamed" => ours,
            "of another dataset" => {
                hand.dataset = name("other");
                hand.commit_act(&hand.keys.signer, 100, &id, b"")
            }
            _ => {
                hand.keys.vault = "0b".repeat(16);
                hand.commit_act(&Signer::generate().unwrap(), 100, &id, b"")
            }
        };
        hand.put(&false_name, &object);
        let made =
            vault.backup(&MemorySource::of(noise(1000, 2))).await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
        assert!(made.replicas[0].complete, "{how}: {made:?}");
        let state = StateDirectory::open(&vault.config.state_directory).unwrap();
        let (dataset, keys) = (&vault.config.datasets[0], vault.keys().unwrap());
        let states = catch_up(dataset, &keys, &vault.replicas, &state, &limits(), &CancellationToken::new()).await;
        assert!(states.unwrap().iter().all(|state| state.error.is_none()), "{how}");
        vault.clock.advance(Duration::from_secs(1));
        let (plan, outcome) = vault.sweep().await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
        assert_eq!((plan.removed().count(), outcome.failures.len()), (2, 0), "{how}: {outcome:?}");
        vault.backup(&MemorySource::of(noise(1000, 3))).await.unwrap_or_else(|error| panic!("{how}: {error:?}"));
        assert!(vault.restore(&made.snapshot).await.unwrap()["data"] == noise(1000, 2), "{how}");
    }
}

/// Vaults from before there were acts have none. Nothing in them tells the signature that a
/// snapshot has lost from one that was never made.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_before_there_were_acts_stays_though_its_signature_was_lost() {
    for snapshots in [1_u64, 3] {
        let mut vault = TestVault::new(2, 1).await;
        vault.config.datasets[0].retention = Retention { keep_last: 1, grace: GRACE, ..Retention::default() };
        let mut made = Vec::new();
        for seed in 0..snapshots {
            made.push(vault.backup(&MemorySource::of(noise(200_000, seed))).await.unwrap().snapshot);
        }
        let hand = Hand::of(&vault.config, &vault.master);
        let lost = made.last().unwrap();
        let manifest = layout::manifest(&name(DATASET), lost);
        let packs = hand.manifest(lost).packs.into_iter().map(|pack| layout::pack(&name(DATASET), &pack.id));
        let needed: BTreeSet<String> = packs.chain([manifest.clone()]).collect();
        let signature = hand.read(&layout::signature(&manifest));
        for place in places(&vault) {
            std::fs::remove_file(place.join(layout::signature(&manifest))).unwrap();
            std::fs::remove_dir_all(place.join(layout::order(&name(DATASET)))).unwrap();
        }
        std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
        let mut before = contents(&places(&vault));
        before.retain(|file, _| needed.iter().any(|key| file.ends_with(key)));
        assert_eq!(before.len(), 2 * needed.len());

        for round in 0..5 {
            // At first, no run goes past it.
            if round > 1 {
                vault.backup(&MemorySource::of(noise(200_000, 10 + round))).await.unwrap();
            }
            let (_, outcome) = vault.prune().await.unwrap_or_else(|error| panic!("{snapshots}, {round}: {error:?}"));
            assert!(outcome.failures.is_empty(), "{outcome:?}");
            assert!(harmed(&before, &contents(&places(&vault))).is_empty(), "{snapshots} snapshots, round {round}");
            vault.clock.advance(GRACE + GRACE);
        }
        hand.put(&layout::signature(&manifest), &signature);
        assert!(vault.restore(lost).await.unwrap()["data"] == noise(200_000, snapshots - 1));
    }
}

/// A replica of which no object can be fetched whose key contains a text.
#[derive(Debug)]
struct Silent(SharedReplica, String);

impl Silent {
    fn all(vault: &TestVault, about: &str) -> Vec<SharedReplica> {
        let silent = |replica: &SharedReplica| Arc::new(Self(replica.clone(), about.to_owned())) as SharedReplica;
        vault.replicas.iter().map(silent).collect()
    }
}

#[async_trait]
impl Replica for Silent {
    fn name(&self) -> &Name {
        self.0.name()
    }

    fn region(&self) -> &str {
        self.0.region()
    }

    fn clock_offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        self.0.clock_offset(tolerance)
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.0.put_new(key, body).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.0.put_replace(key, body).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        if key.contains(&self.1) {
            let (replica, key) = (self.name().clone(), key.to_owned());
            let kind = ReplicaErrorKind::TimedOut(Duration::from_secs(1));
            return Err(ReplicaError { replica, operation: "get", key, kind });
        }
        self.0.get(key, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.0.head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.0.list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.0.delete(key).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.0.probe(write).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_put_back_while_the_record_that_may_call_it_gone_cannot_be_fetched() {
    let mut vault = TestVault::new(2, 1).await;
    vault.config.datasets[0].retention = Retention { keep_last: 1, grace: Duration::ZERO, ..Retention::default() };
    // The packs of the first snapshot stay, as the second needs them.
    for _ in 0..2 {
        vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap();
    }
    let state = vault.config.state_directory.clone();
    let of_another_host = contents([&state]);
    vault.sweep().await.unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    for (file, body) in of_another_host {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, body).unwrap();
    }
    let silent = Silent::all(&vault, "/prunes/");
    let before = contents(&places(&vault));
    let (dataset, keys) = (&vault.config.datasets[0], vault.keys().unwrap());
    let state = StateDirectory::open(&state).unwrap();
    for replicas in [&silent, &vault.replicas] {
        catch_up(dataset, &keys, replicas, &state, &limits(), &CancellationToken::new()).await.unwrap();
        let came_back = changed(&before, &contents(&places(&vault)));
        assert!(came_back.is_empty(), "{came_back:?}");
    }
}

/// What verify finds in these replicas.
async fn findings(vault: &TestVault, replicas: &[SharedReplica]) -> Vec<String> {
    let reader = VaultReader::open(replicas, vault.owner(), limits(), CancellationToken::new()).await.unwrap();
    let report =
        verify(&reader, &name(DATASET), None, false, vault.clock.now(), &CancellationToken::new()).await.unwrap();
    report.findings.into_iter().map(|finding| finding.problem).collect()
}

/// Three snapshots in two replicas.
async fn three() -> TestVault {
    let vault = TestVault::new(2, 1).await;
    for seed in 0..3 {
        vault.backup(&MemorySource::of(noise(1000, seed))).await.unwrap();
    }
    vault
}

/// The host has no copies of objects any more.
fn forget_copies(vault: &TestVault) {
    std::fs::remove_dir_all(vault.config.state_directory.join(format!("datasets/{DATASET}/cache"))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_that_cannot_be_fetched_are_not_called_missing() {
    let vault = three().await;
    let all = (layout::order(&name(DATASET)), "acts 1 to 3 are");
    for (acts, told) in
        [(layout::act(&name(DATASET), 2), "act 2 is"), (layout::act(&name(DATASET), 3), "act 3 is"), all]
    {
        forget_copies(&vault);
        let silent = Silent::all(&vault, &acts);
        let found = findings(&vault, &silent).await;
        let told = format!("{told} there and cannot be read");
        assert_eq!(found.len(), 2, "{acts}: {found:#?}");
        assert!(found.iter().all(|problem| problem.starts_with(&told)), "{acts}: {found:#?}");
        let report = vault.with_prune_in(&silent, async |prune| repair(prune, None).await).await.unwrap();
        assert!(report.missing.is_empty(), "{acts}: {report:?}");
        assert!(report.doubts.iter().any(|doubt| doubt.contains(&told)), "{acts}: {report:?}");
        let refused = vault.prune_in(&silent).await.unwrap_err();
        assert_eq!(refused.class(), Class::Storage, "{acts}: {refused:?}");
    }
    assert!(findings(&vault, &vault.replicas).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_false_ones_hide_is_not_called_missing() {
    let vault = three().await;
    forget_copies(&vault);
    let mut hand = Hand::of(&vault.config, &vault.master);
    std::fs::remove_file(vault.replica_path(1).join(layout::act(&name(DATASET), 2))).unwrap();
    hand.replicas.remove(0);
    (100..1200).for_each(|number| hand.put(&layout::act(&name(DATASET), number), b"garbage"));
    let found = findings(&vault, &vault.replicas).await;
    assert_eq!(found, ["act 2 is there and cannot be read"]);
    let refused = vault.prune().await.unwrap_err();
    assert!(refused.chain().contains("act 2 is there and cannot be read"), "{refused:?}");
    assert!(refused.hint_text().is_some_and(|hint| hint.contains(&layout::order(&name(DATASET)))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_many_manifests_without_a_signature_is_still_a_witness() {
    let vault = TestVault::new(1, 1).await;
    let made = vault.backup(&MemorySource::of(noise(1000, 1))).await.unwrap().snapshot;
    let hand = Hand::of(&vault.config, &vault.master);
    let template = hand.successor(&made, 1);
    let put = |number: u32, before: Option<&SnapshotId>| {
        let mut manifest = template.clone();
        manifest.snapshot = SnapshotId::new(made.time() + TimeDelta::milliseconds(10 + i64::from(number)), number);
        if let Some(before) = before {
            manifest.previous.as_mut().unwrap().snapshot = before.clone();
        }
        hand.put(&layout::manifest(&name(DATASET), &manifest.snapshot), &hand.seal(&manifest.to_plaintext().unwrap()));
    };
    (1..=1024).for_each(|number| put(number, None));
    let missing = SnapshotId::new(made.time() + TimeDelta::milliseconds(5), 99);
    put(2000, Some(&missing));
    let refused = vault.prune().await.unwrap_err();
    assert!(refused.chain().contains(&format!("snapshot {missing} is missing")), "{refused:?}");
}
