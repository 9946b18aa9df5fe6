//! The chain of snapshots: each names the one before by its hash, and what does not fit is found
//! and named.

use std::time::Duration;

use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::{Digest, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::manifest::{Manifest, Previous};
use lifeboat_engine::format::requirements::Requirements;
use lifeboat_engine::keep::verify::Finding;
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};

use crate::{TWO_DAYS, WORD, caught_up, findings, names};

const DAY_SECONDS: i64 = 86_400;

/// A vault of two replicas with three snapshots.
struct Chain {
    vault: TestVault,
    hand: Hand,
    snapshots: [SnapshotId; 3],
}

impl Chain {
    async fn new() -> Self {
        Self::with_pause(Duration::ZERO).await
    }

    /// The first snapshot is taken at midnight, and so long after it come the others.
    async fn with_pause(pause: Duration) -> Self {
        let vault = TestVault::new(2, 2).await;
        let since_midnight = vault.clock.now().timestamp().rem_euclid(DAY_SECONDS).unsigned_abs();
        vault.clock.advance(Duration::from_secs(DAY_SECONDS.unsigned_abs() - since_midnight));
        let mut snapshots = Vec::new();
        for seed in 0..3 {
            snapshots.push(vault.backup(&MemorySource::of(noise(200_000, seed))).await.unwrap().snapshot);
            if seed == 0 {
                vault.clock.advance(pause);
            }
        }
        let hand = Hand::of(&vault.config, &vault.master);
        Self { vault, hand, snapshots: snapshots.try_into().unwrap() }
    }

    async fn assert_clean(&self) {
        let found = findings(&self.vault).await;
        assert!(found.is_empty(), "{found:?}");
    }
}

/// Exactly these replicas have a finding that names all of `words`. Returns all findings.
async fn found(vault: &TestVault, replicas: &[&str], words: &[&str]) -> Vec<Finding> {
    let found = findings(vault).await;
    let naming = found.iter().filter(|finding| names(finding, words));
    let places: Vec<&str> = naming.map(|finding| finding.replica.as_str()).collect();
    assert_eq!(places, replicas, "{words:?}: {found:?}");
    found
}

/// Two snapshots are a fork, and every replica tells both.
async fn assert_fork(vault: &TestVault, one: &SnapshotId, other: &SnapshotId) {
    found(vault, &["r1", "r2"], &["fork", one.as_str(), other.as_str()]).await;
    let reader = vault.open(vault.owner()).await.unwrap();
    let listed = reader.snapshots(&name(DATASET)).await.unwrap();
    for snapshot in [one, other] {
        assert!(listed.iter().any(|listed| listed.snapshot == *snapshot), "{snapshot} is not listed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_snapshot_names_the_hash_of_the_stored_manifest_before_it() {
    let chain = Chain::new().await;
    let mut previous: Option<Previous> = None;
    for (snapshot, sequence) in chain.snapshots.iter().zip(1..) {
        let manifest = chain.hand.manifest(snapshot);
        assert_eq!((manifest.sequence, manifest.previous), (sequence, previous));
        let key = layout::manifest(&name(DATASET), snapshot);
        let [one, two] = [0, 1].map(|at| std::fs::read(chain.hand.replicas[at].join(&key)).unwrap());
        assert!(one == two, "the replicas have two manifests of {snapshot}");
        let hash = Digest(*blake3::hash(&one).as_bytes());
        previous = Some(Previous { snapshot: snapshot.clone(), blake3: Some(hash) });
    }
    chain.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_replaced_under_its_name_is_found_by_its_successor() {
    let mut chain = Chain::new().await;
    let [_, middle, last] = chain.snapshots.clone();
    let mut forged = chain.hand.manifest(&middle);
    forged.host = name("db2");
    // Only one replica has another manifest.
    let both = chain.hand.replicas.clone();
    chain.hand.replicas = vec![both[1].clone()];
    chain.hand.put_manifest(&forged);
    let told = found(&chain.vault, &["r2"], &[middle.as_str(), last.as_str()]).await;
    assert_eq!(told.len(), 1, "{told:?}");
    // Both have it.
    chain.hand.replicas = both;
    chain.hand.put_manifest(&forged);
    let told = found(&chain.vault, &["r1", "r2"], &[middle.as_str(), last.as_str()]).await;
    assert_eq!(told.len(), 2, "{told:?}");
}

/// Puts a snapshot beside the last one, whose predecessor is the middle one.
async fn beside(change: impl FnOnce(&Chain, &mut Manifest)) -> (Chain, SnapshotId) {
    let chain = Chain::new().await;
    let mut twin = chain.hand.successor(&chain.snapshots[1], 7);
    change(&chain, &mut twin);
    chain.hand.put_manifest(&twin);
    (chain, twin.snapshot)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_snapshots_in_one_place_are_a_fork_that_names_both() {
    let (chain, twin) = beside(|_, _| {}).await;
    assert_fork(&chain.vault, &chain.snapshots[2], &twin).await;

    let two_firsts = |_: &Chain, twin: &mut Manifest| (twin.sequence, twin.previous) = (1, None);
    let (chain, twin) = beside(two_firsts).await;
    assert_fork(&chain.vault, &chain.snapshots[0], &twin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_snapshots_with_one_predecessor_alone_or_one_sequence_alone_are_a_fork_too() {
    let (chain, twin) = beside(|_, twin| twin.sequence = 4).await;
    assert_fork(&chain.vault, &chain.snapshots[2], &twin).await;

    let after_the_first = |chain: &Chain, twin: &mut Manifest| {
        let first = &chain.snapshots[0];
        twin.previous = Some(Previous { snapshot: first.clone(), blake3: Some(chain.hand.hash(first)) });
    };
    let (chain, twin) = beside(after_the_first).await;
    // It has the sequence of the last one, and the predecessor of the middle one.
    assert_fork(&chain.vault, &chain.snapshots[2], &twin).await;
    assert_fork(&chain.vault, &chain.snapshots[1], &twin).await;
}

/// Runs of two hosts that each reached one replica alone, after a snapshot in both. One host that
/// remembers its first run would follow that.
async fn divided() -> (TestVault, [SnapshotId; 2]) {
    let vault = TestVault::new(2, 1).await;
    vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap();
    let [one, two] = [&vault.replicas[..1], &vault.replicas[1..]];
    let one = vault.backup_to(&MemorySource::of(noise(200_000, 1)), one).await.unwrap().snapshot;
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let two = vault.backup_to(&MemorySource::of(noise(200_000, 2)), two).await.unwrap().snapshot;
    (vault, [one, two])
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_reached_different_replicas_are_a_fork_once_these_were_caught_up() {
    let (vault, [one, two]) = divided().await;
    caught_up(&vault).await;
    assert_fork(&vault, &one, &two).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_reached_different_replicas_are_a_fork_also_before_that() {
    let (vault, [one, two]) = divided().await;
    let told = findings(&vault).await;
    assert!(told.iter().any(|finding| names(finding, &["fork", one.as_str(), two.as_str()])), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_is_checked_through_a_snapshot_that_is_not_understood() {
    let requires = |twin: &mut Manifest| twin.requires = Requirements(vec![WORD.to_owned()]);
    // A program that does not know the word is to see that two programs did not see each other.
    let (chain, twin) = beside(|_, twin| requires(twin)).await;
    assert_fork(&chain.vault, &chain.snapshots[2], &twin).await;

    // Its successor tells that it was replaced, though nobody here understands either.
    let chain = Chain::new().await;
    let mut newer = chain.hand.successor(&chain.snapshots[2], 7);
    requires(&mut newer);
    chain.hand.put_manifest(&newer);
    let successor = chain.vault.backup(&MemorySource::of(noise(200_000, 4))).await.unwrap().snapshot;
    newer.host = name("db2");
    chain.hand.put_manifest(&newer);
    found(&chain.vault, &["r1", "r2"], &[newer.snapshot.as_str(), successor.as_str()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_missing_without_a_record_is_found() {
    let chain = Chain::new().await;
    let [_, middle, last] = &chain.snapshots;
    let key = layout::manifest(&name(DATASET), middle);
    chain.hand.remove(1, &key);
    // As long as one replica has it, it is not lost.
    found(&chain.vault, &[], &[middle.as_str(), last.as_str()]).await;
    chain.hand.remove(2, &key);
    let told = found(&chain.vault, &["r1", "r2"], &[middle.as_str(), last.as_str(), "missing"]).await;
    assert_eq!(told.len(), 2, "{told:?}");
    // Its signature alone is gone: that is the same.
    let chain = Chain::new().await;
    let key = layout::manifest(&name(DATASET), &chain.snapshots[1]);
    for replica in &chain.hand.replicas {
        std::fs::remove_file(replica.join(layout::signature(&key))).unwrap();
    }
    found(&chain.vault, &["r1", "r2"], &[chain.snapshots[1].as_str(), "missing"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_pruned_is_not_missing() {
    // The first one is the only one of its day.
    let mut chain = Chain::with_pause(TWO_DAYS).await;
    chain.vault.config.datasets[0].retention.daily = 9;
    let (plan, outcome) = chain.vault.sweep().await.unwrap();
    assert!(plan.removed().eq([&chain.snapshots[1]]), "{plan:?}");
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    chain.assert_clean().await;
    let manifest = chain.hand.manifest(&chain.snapshots[2]);
    assert_eq!((manifest.sequence, manifest.predecessor()), (3, Some(&chain.snapshots[1])));
}
