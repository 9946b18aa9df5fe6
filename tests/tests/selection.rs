//! Which snapshot `latest` and a time mean when a replica fails or lies: never an older one in
//! silence.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::restore::{Selector, VaultReader};
use lifeboat_engine::store::{FailingReplica, Failure, SharedReplica};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::by_hand::{Hand, with_json};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, limits, name, noise};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// A reader's calls to a replica: `vault.json`; at once the lists of snapshots, prune records and
/// keys; a key; then a manifest with its signature.
const LISTING: u64 = 2;
const FIRST_MANIFEST: [u64; 2] = [6, 7];

/// Three snapshots in two replicas.
async fn vault() -> (TestVault, Hand, Vec<SnapshotId>) {
    let vault = TestVault::new(2, 2).await;
    let mut snapshots = Vec::new();
    for seed in 0..3 {
        snapshots.push(vault.backup(&MemorySource::of(noise(50_000, seed))).await.unwrap().snapshot);
    }
    let hand = Hand::of(&vault.config, &vault.master);
    (vault, hand, snapshots)
}

fn key(snapshot: &SnapshotId) -> String {
    layout::manifest(&name(DATASET), snapshot)
}

/// The id of a snapshot that is newer than all others.
fn newer(vault: &TestVault) -> SnapshotId {
    vault.clock.advance(Duration::from_secs(1));
    SnapshotId::new(vault.clock.now(), 7)
}

/// The id of a snapshot that was made under a wrong clock.
fn future(vault: &TestVault) -> SnapshotId {
    SnapshotId::new(vault.clock.now() + TimeDelta::days(400), 7)
}

/// Puts an unsigned manifest into a replica, counted from 1.
fn forge(vault: &TestVault, replica: usize, snapshot: &SnapshotId) {
    let file = vault.replica_path(replica).join(key(snapshot));
    std::fs::write(&file, b"garbage").unwrap();
    std::fs::write(file.with_file_name(layout::signature(file.file_name().unwrap().to_str().unwrap())), b"x").unwrap();
}

/// Selects with these calls of a replica, counted from 1, failing.
async fn selected(vault: &TestVault, failing: Option<(usize, &[u64])>, selector: &Selector) -> Result<SnapshotId> {
    let mut replicas = vault.replicas.clone();
    if let Some((replica, calls)) = failing {
        let broken = FailingReplica::new(replicas[replica - 1].clone());
        calls.iter().for_each(|call| broken.fail(*call, Failure::Unavailable));
        let broken: SharedReplica = Arc::new(broken);
        replicas[replica - 1] = broken;
    }
    let reader = VaultReader::open(&replicas, vault.owner(), limits(), CancellationToken::new()).await?;
    reader.select(&name(DATASET), selector, vault.clock.now()).await
}

fn selectors(vault: &TestVault) -> [Selector; 2] {
    [Selector::Latest, Selector::At(vault.clock.now())]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_does_not_take_the_place_of_one_that_cannot_be_fetched() {
    let (vault, hand, snapshots) = vault().await;
    hand.remove(2, &key(&snapshots[2]));
    for selector in selectors(&vault) {
        let error = selected(&vault, Some((1, &FIRST_MANIFEST)), &selector).await.unwrap_err();
        assert_eq!(error.class(), Class::Storage, "{error:?}");
        assert!(error.message().contains(snapshots[2].as_str()), "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--snapshot")), "{error:?}");
        assert_eq!(selected(&vault, None, &selector).await.unwrap(), snapshots[2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_could_not_be_listed_is_asked_all_the_same() {
    let (vault, _, snapshots) = vault().await;
    forge(&vault, 2, &snapshots[2]);
    for selector in selectors(&vault) {
        assert_eq!(selected(&vault, Some((1, &[LISTING])), &selector).await.unwrap(), snapshots[2]);
        // If it then fails, it may hold what only the other shows.
        let error =
            selected(&vault, Some((1, &[LISTING, FIRST_MANIFEST[0], FIRST_MANIFEST[1]])), &selector).await.unwrap_err();
        assert_eq!(error.class(), Class::Storage, "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_ids_in_one_replica_stop_nothing_even_if_one_that_lacks_them_fails() {
    let (vault, _, snapshots) = vault().await;
    forge(&vault, 1, &newer(&vault));
    forge(&vault, 1, &future(&vault));
    for selector in selectors(&vault) {
        assert_eq!(selected(&vault, None, &selector).await.unwrap(), snapshots[2]);
        assert_eq!(selected(&vault, Some((2, &[3, 4, 5, 6])), &selector).await.unwrap(), snapshots[2]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_does_not_take_the_place_of_one_that_is_too_long_to_be_held() {
    let (vault, ..) = vault().await;
    let long = newer(&vault);
    forge(&vault, 1, &long);
    let file = std::fs::File::options().write(true).open(vault.replica_path(1).join(key(&long))).unwrap();
    file.set_len(200 << 20).unwrap();
    for selector in selectors(&vault) {
        let error = selected(&vault, None, &selector).await.unwrap_err();
        assert!(error.message().contains(long.as_str()), "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("limits.memory")), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_the_future_that_was_signed_and_is_not_understood_is_told() {
    let (vault, hand, snapshots) = vault().await;
    let (future, mut manifest) = (future(&vault), hand.successor(&snapshots[2], 7));
    manifest.snapshot = future.clone();
    let newer = with_json(&manifest.to_plaintext().unwrap(), |json| json["requires"] = json!(["holograms"]));
    hand.put_plaintext(&future, &newer);
    // In both replicas, then in one.
    for replicas in [2, 1] {
        if replicas == 1 {
            hand.remove(2, &key(&future));
        }
        for selector in selectors(&vault) {
            let error = selected(&vault, None, &selector).await.unwrap_err();
            assert!(error.chain().contains("holograms"), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_from_the_future_that_every_replica_shows_is_not_overlooked() {
    let (vault, hand, snapshots) = vault().await;
    let (future, mut manifest) = (future(&vault), hand.successor(&snapshots[2], 7));
    manifest.snapshot = future.clone();
    manifest.started = vault.clock.now();
    hand.put_manifest(&manifest);
    assert_eq!(selected(&vault, None, &Selector::Latest).await.unwrap(), future);
    std::fs::remove_file(vault.replica_path(2).join(key(&future))).unwrap();
    std::fs::write(vault.replica_path(2).join(key(&future)), b"damaged").unwrap();
    for selector in selectors(&vault) {
        // The keyring comes before the manifest.
        let error = selected(&vault, Some((1, &[3, 4, 5, 6])), &selector).await.unwrap_err();
        assert!(error.message().contains(future.as_str()), "{error:?}");
    }
    std::fs::remove_file(vault.replica_path(1).join(key(&future))).unwrap();
    std::fs::write(vault.replica_path(1).join(key(&future)), b"damaged").unwrap();
    for selector in selectors(&vault) {
        let error = selected(&vault, None, &selector).await.unwrap_err();
        assert_eq!(error.class(), Class::Integrity, "{error:?}");
    }
}
