//! Many replicas: one that fails falls behind and is caught up; prune deletes only what nothing
//! needs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::Class;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::{ReplicaState, catch_up};
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::stages::encrypt;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{FailingReplica, Failure, ObjectMeta, Page, Probe, Replica, ReplicaError, SharedReplica};
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise};
use tokio_util::sync::CancellationToken;

async fn caught_up(vault: &TestVault) -> Vec<ReplicaState> {
    let state = StateDirectory::open(&vault.config.state_directory).unwrap();
    let keys = vault.keys().unwrap();
    catch_up(&vault.config.datasets[0], &keys, &vault.replicas, &state, &limits(), &CancellationToken::new())
        .await
        .unwrap()
}

async fn problems(vault: &TestVault) -> Vec<String> {
    let reader = vault.open(vault.owner()).await.unwrap();
    let report =
        verify(&reader, &name(DATASET), None, true, vault.clock.now(), &CancellationToken::new()).await.unwrap();
    report.findings.into_iter().map(|finding| finding.problem).chain(report.notes).collect()
}

async fn listed(vault: &TestVault) -> Vec<SnapshotId> {
    let reader = vault.open(vault.owner()).await.unwrap();
    reader.snapshots(&name(DATASET)).await.unwrap().into_iter().map(|listed| listed.snapshot).collect()
}

fn away(vault: &TestVault, replica: usize) {
    std::fs::rename(vault.replica_path(replica), vault.place.path().join("away")).unwrap();
}

fn back(vault: &TestVault, replica: usize) {
    std::fs::rename(vault.place.path().join("away"), vault.replica_path(replica)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_falls_behind_and_is_caught_up_with_ciphertext() {
    let vault = TestVault::new(2, 1).await;
    vault.backup(&MemorySource::of(noise(500_000, 1))).await.unwrap();
    away(&vault, 2);
    let report = vault.backup(&MemorySource::of(noise(900_000, 2))).await.unwrap();
    let complete: Vec<bool> = report.replicas.iter().map(|replica| replica.complete).collect();
    assert_eq!(complete, [true, false]);
    assert!(report.replicas[1].error.is_some());
    back(&vault, 2);
    let states = caught_up(&vault).await;
    assert_eq!((states[1].behind, states[1].last_complete.as_ref()), (0, Some(&report.snapshot)));
    assert!(states[1].copied_bytes > 900_000 && states[0].copied_objects == 0);
    assert_eq!(problems(&vault).await, Vec::<String>::new());
    away(&vault, 1);
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == noise(900_000, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_replica_gets_the_newest_first_and_a_lost_pack_costs_its_snapshots_alone() {
    let vault = TestVault::new(3, 2).await;
    away(&vault, 3);
    let mut made = Vec::new();
    for seed in 0..5 {
        made.push(vault.backup(&MemorySource::of(noise(60_000, seed))).await.unwrap().snapshot);
    }
    back(&vault, 3);
    let lost = Hand::of(&vault.config, &vault.master).manifest(&made[2]).packs[0].id;
    for replica in [1, 2] {
        std::fs::remove_file(vault.replica_path(replica).join(layout::pack(&name(DATASET), &lost))).unwrap();
    }
    let watched = Arc::new(FailingReplica::new(vault.replicas[2].clone()));
    let replicas = [vault.replicas[0].clone(), vault.replicas[1].clone(), watched.clone() as SharedReplica];
    let (state, token) = (StateDirectory::open(&vault.config.state_directory).unwrap(), CancellationToken::new());
    let keys = vault.keys().unwrap();
    let states = catch_up(&vault.config.datasets[0], &keys, &replicas, &state, &limits(), &token).await.unwrap();
    let filled = states.iter().find(|state| state.replica == name("r3")).unwrap();
    assert_eq!((filled.behind, filled.last_complete.as_ref()), (1, made.last()), "{filled:?}");
    assert!(filled.error.as_ref().is_some_and(|error| error.contains(&lost.to_string())), "{filled:?}");

    let copied = watched.changed();
    let manifests = copied.iter().filter_map(|key| layout::parse_manifest(&name(DATASET), key));
    let newest_first = [4, 3, 1, 0].map(|at: usize| made[at].clone());
    assert_eq!(manifests.collect::<Vec<_>>(), newest_first, "{copied:?}");
    let place = |key: String| copied.iter().position(|copied| *copied == key).unwrap();
    let hand = Hand::of(&vault.config, &vault.master);
    for snapshot in &newest_first {
        let packs = hand.manifest(snapshot).packs.into_iter().map(|pack| layout::pack(&name(DATASET), &pack.id));
        let shown = place(layout::manifest(&name(DATASET), snapshot));
        assert!(packs.into_iter().all(|pack| place(pack) < shown), "{snapshot} is shown before its packs are there");
    }
    for (n, gone) in [(1, "gone-1"), (2, "gone-2")] {
        std::fs::rename(vault.replica_path(n), vault.place.path().join(gone)).unwrap();
    }
    for (seed, snapshot) in made.iter().enumerate().filter(|(seed, _)| *seed != 2) {
        assert!(vault.restore(snapshot).await.unwrap()["data"] == noise(60_000, seed as u64), "{snapshot} differs");
    }
}

/// A replica that answers no request for a manifest before so many wait for it.
#[derive(Debug)]
struct Patient {
    inner: SharedReplica,
    waits_for: usize,
    under_way: tokio::sync::watch::Sender<(usize, usize)>,
}

impl Patient {
    /// The most that were under way at once since the last time that this was asked.
    fn most(&self) -> usize {
        self.under_way.send_replace((0, 0)).1
    }
}

#[async_trait]
impl Replica for Patient {
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
        if layout::parse_manifest(&name(DATASET), key).is_some() {
            self.under_way.send_modify(|(now, most)| (*now, *most) = (*now + 1, (*most).max(*now + 1)));
            let mut seen = self.under_way.subscribe();
            // If they come one after the other, it takes a second each until the test fails.
            let enough = seen.wait_for(|(_, most)| *most >= self.waits_for);
            drop(tokio::time::timeout(Duration::from_secs(1), enough).await);
            self.under_way.send_modify(|(now, _)| *now = now.saturating_sub(1));
        }
        self.inner.get(key, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.inner.head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.inner.list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.inner.delete(key).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner.probe(write).await
    }
}

/// A far replica would make each wait for the one before.
#[tokio::test(flavor = "multi_thread")]
async fn verify_list_and_plan_ask_for_sixteen_manifests_at_once() {
    const AT_ONCE: usize = 16;
    let vault = TestVault::new(1, 1).await;
    for seed in 0..AT_ONCE as u64 + 4 {
        vault.backup(&MemorySource::of(noise(1000, seed))).await.unwrap();
    }
    let patient = Arc::new(Patient {
        inner: vault.replicas[0].clone(),
        waits_for: AT_ONCE,
        under_way: tokio::sync::watch::Sender::new((0, 0)),
    });
    let far = [patient.clone() as SharedReplica];
    let reader = VaultReader::open(&far, vault.owner(), limits(), CancellationToken::new()).await.unwrap();
    patient.most();
    let (now, token) = (vault.clock.now(), CancellationToken::new());
    verify(&reader, &name(DATASET), None, false, now, &token).await.unwrap();
    assert_eq!(patient.most(), AT_ONCE, "verify");
    let listed = reader.snapshots(&name(DATASET)).await.unwrap();
    patient.most();
    assert_eq!(reader.summaries(&name(DATASET), listed, None).await.len(), AT_ONCE + 4);
    assert_eq!(patient.most(), AT_ONCE, "list");
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    vault.with_prune_in(&far, async |prune| prune.plan().await).await.unwrap();
    assert_eq!(patient.most(), AT_ONCE, "plan");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_and_cut_packs_are_healed_from_the_other_replica() {
    let vault = TestVault::new(2, 2).await;
    vault.backup(&MemorySource::of(noise(40_000_000, 3))).await.unwrap();
    let packs = vault.replica_path(1).join("datasets/shop/packs");
    let mut files: Vec<_> = std::fs::read_dir(packs).unwrap().flatten().map(|entry| entry.path()).collect();
    files.sort();
    let file = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(file(&files[0])).unwrap();
    let cut = std::fs::read(file(&files[1])).unwrap();
    std::fs::write(file(&files[1]), &cut[..cut.len() / 2]).unwrap();
    let states = caught_up(&vault).await;
    assert_eq!((states[0].copied_objects, states[0].behind), (2, 0));
    assert_eq!(problems(&vault).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_removes_what_retention_lets_go_and_its_packs_after_the_grace_period() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 2;
    let mut snapshots = Vec::new();
    for seed in 0..4 {
        snapshots.push(vault.backup(&MemorySource::of(noise(400_000, seed))).await.unwrap().snapshot);
    }
    let (plan, outcome) = vault.prune().await.unwrap();
    assert_eq!(plan.mark_snapshots.iter().cloned().collect::<Vec<_>>(), snapshots[..2]);
    assert_eq!((outcome.marked_snapshots, outcome.marked_packs, outcome.snapshots, outcome.packs), (2, 2, 0, 0));
    assert_eq!(listed(&vault).await, snapshots);

    vault.clock.advance(Duration::from_secs(86_400 - 1));
    let (_, outcome) = vault.prune().await.unwrap();
    assert_eq!((outcome.snapshots, outcome.packs), (0, 0), "something went before its grace period was over");
    vault.clock.advance(Duration::from_secs(1));
    let (plan, outcome) = vault.prune().await.unwrap();
    assert_eq!(plan.removed().cloned().collect::<Vec<_>>(), snapshots[..2]);
    assert_eq!((outcome.snapshots, outcome.packs, plan.segments.len()), (2, 4, 4));
    assert!(outcome.failures.is_empty());
    assert_eq!(listed(&vault).await, snapshots[2..]);
    assert_eq!(problems(&vault).await, Vec::<String>::new());
    for (seed, snapshot) in [(2, &snapshots[2]), (3, &snapshots[3])] {
        assert!(vault.restore(snapshot).await.unwrap()["data"] == noise(400_000, seed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backup_refers_to_a_marked_pack() {
    let mut vault = TestVault::new(1, 1).await;
    vault.config.datasets[0].retention.keep_last = 1;
    vault.backup(&MemorySource::of(noise(400_000, 1))).await.unwrap();
    vault.backup(&MemorySource::of(noise(400_000, 2))).await.unwrap();
    assert_eq!(vault.prune().await.unwrap().1.marked_packs, 1);
    let third = vault.backup(&MemorySource::of(noise(400_000, 1))).await.unwrap();
    assert!(third.stored_bytes > 400_000, "the marked pack is used");
    vault.clock.advance(Duration::from_secs(2 * 86_400));
    assert_eq!(vault.prune().await.unwrap().1.packs, 1);
    assert!(vault.restore(&third.snapshot).await.unwrap()["data"] == noise(400_000, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_marked_is_spared_if_a_rule_keeps_it_again() {
    let mut vault = TestVault::new(1, 1).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let first = vault.backup(&MemorySource::of(noise(400_000, 1))).await.unwrap().snapshot;
    let second = vault.backup(&MemorySource::of(noise(400_000, 2))).await.unwrap().snapshot;
    assert_eq!(vault.prune().await.unwrap().1.marked_snapshots, 1);
    vault.config.datasets[0].retention.keep_last = 2;
    vault.clock.advance(Duration::from_secs(2 * 86_400));
    let (plan, outcome) = vault.prune().await.unwrap();
    assert_eq!((plan.removed().count(), outcome.snapshots, outcome.packs), (0, 0, 0));
    assert_eq!(listed(&vault).await, [first.clone(), second]);
    assert!(vault.restore(&first).await.unwrap()["data"] == noise(400_000, 1));
    assert_eq!(problems(&vault).await, [""; 0]);
    let again = vault.backup(&MemorySource::of(noise(400_000, 1))).await.unwrap();
    assert_eq!(again.stored_bytes, 0, "the pack is still taken for marked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_complete_snapshot_of_a_replica_that_is_behind_is_never_removed() {
    let mut vault = TestVault::new(2, 1).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let first = vault.backup(&MemorySource::of(noise(400_000, 1))).await.unwrap().snapshot;
    away(&vault, 2);
    let second = vault.backup(&MemorySource::of(noise(400_000, 2))).await.unwrap().snapshot;
    back(&vault, 2);
    let (plan, _) = vault.prune().await.unwrap();
    assert!(plan.removed().next().is_none(), "{:?}", plan.verdicts);
    assert_eq!(listed(&vault).await, [first, second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_snapshot_is_not_brought_back_by_a_replica_that_was_away() {
    let mut vault = TestVault::new(3, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let first = vault.backup(&MemorySource::of(noise(400_000, 1))).await.unwrap().snapshot;
    let second = vault.backup(&MemorySource::of(noise(400_000, 2))).await.unwrap().snapshot;
    away(&vault, 3);
    let (plan, outcome) = vault.sweep().await.unwrap();
    assert_eq!((outcome.snapshots, plan.skipped.len()), (1, 1), "{outcome:?}");
    back(&vault, 3);
    let states = caught_up(&vault).await;
    assert_eq!(states.iter().map(|state| state.behind).collect::<BTreeSet<_>>(), BTreeSet::from([0]));
    assert!(!vault.replica_path(1).join(format!("datasets/shop/snapshots/{first}.json.zst.age")).exists());
    vault.sweep().await.unwrap();
    assert_eq!(listed(&vault).await, [second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_a_manifest_cannot_be_read() {
    let mut vault = TestVault::new(1, 1).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let first = vault.backup(&MemorySource::of(noise(400_000, 1))).await.unwrap().snapshot;
    vault.backup(&MemorySource::of(noise(400_000, 2))).await.unwrap();
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let manifest = vault.replica_path(1).join(format!("datasets/shop/snapshots/{first}.json.zst.age"));
    std::fs::write(manifest, b"damaged").unwrap();
    let error = vault.prune().await.expect_err("prune went on");
    assert!(error.message().contains("nothing in dataset shop is deleted"), "{error:?}");
}

/// Removes the copies of manifests in the state directory.
fn forget_manifests(vault: &TestVault) {
    let cache = vault.config.state_directory.join("datasets").join(DATASET).join("cache");
    for file in files_below(&cache).iter().filter(|file| file.to_string_lossy().contains("snapshots")) {
        std::fs::remove_file(file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_fetch_the_newest_snapshot_fails_and_makes_no_fork() {
    let vault = TestVault::new(1, 1).await;
    let source = |seed| MemorySource::of(noise(100_000, seed));
    vault.backup(&source(1)).await.unwrap();
    // Without the copy in the state directory, the manifest must come from the replica.
    forget_manifests(&vault);
    let failing = Arc::new(FailingReplica::new(vault.replicas[0].clone()));
    let replica: SharedReplica = failing.clone();
    // vault.json, the keyring and one page are listed; then come the manifest and its signature.
    [4, 5].into_iter().for_each(|call| failing.fail(call, Failure::Unavailable));
    let refused = vault.backup_to(&source(2), &[replica]).await.unwrap_err();
    assert!(refused.message().contains("which the new one follows"), "{refused:?}");
    assert_eq!((refused.class(), listed(&vault).await.len()), (Class::Storage, 1));
    vault.backup(&source(2)).await.unwrap();
    assert_eq!(problems(&vault).await, [""; 0]);
}

/// Nobody signs the keyring, so a host gives what it knows, and not what a replica says.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_the_keys_that_this_host_uses_whatever_the_others_hold() {
    let vault = TestVault::new(3, 1).await;
    let snapshot = vault.backup(&MemorySource::of(noise(500_000, 1))).await.unwrap().snapshot;
    let key = layout::keyring_generation(&name(DATASET), 1);
    let ours = std::fs::read(vault.replica_path(3).join(&key)).unwrap();
    let stranger = age::x25519::Identity::generate().to_public();
    let forged = encrypt(std::iter::once(&stranger as &dyn age::Recipient), b"forged").unwrap();
    std::fs::write(vault.replica_path(1).join(&key), forged).unwrap();
    // At first r1 and r2 disagree. Then r1 alone holds any.
    for lacking in [&[3][..], &[2, 3]] {
        for replica in lacking {
            std::fs::remove_file(vault.replica_path(*replica).join(&key)).unwrap();
        }
        let states = caught_up(&vault).await;
        for replica in lacking {
            let of_it = &states[replica - 1];
            assert_eq!((&of_it.error, of_it.last_complete.as_ref()), (&None, Some(&snapshot)), "{states:?}");
            assert!(std::fs::read(vault.replica_path(*replica).join(&key)).unwrap() == ours, "r{replica}: other keys");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_snapshot_is_not_unreadable_because_its_only_holder_fails() {
    // The other replica lacks it, or has garbage in its place; and it suffices, or does not.
    for (garbage, min_replicas) in [(false, 2), (true, 2), (false, 1), (true, 1)] {
        let vault = TestVault::new(2, min_replicas).await;
        let source = |seed| MemorySource::of(noise(100_000, seed));
        vault.backup(&source(1)).await.unwrap();
        let newest = vault.backup(&source(2)).await.unwrap().snapshot;
        let key = layout::manifest(&name(DATASET), &newest);
        if garbage {
            std::fs::write(vault.replica_path(2).join(&key), b"garbage").unwrap();
        } else {
            Hand::of(&vault.config, &vault.master).remove(2, &key);
        }
        forget_manifests(&vault);
        let failing = Arc::new(FailingReplica::new(vault.replicas[0].clone()));
        let replica: SharedReplica = failing.clone();
        [4, 5].into_iter().for_each(|call| failing.fail(call, Failure::Unavailable));
        let made = vault.backup_to(&source(3), &[replica, vault.replicas[1].clone()]).await;
        if !garbage && min_replicas == 1 {
            // As if the replica that fails were away.
            let report = made.unwrap();
            let complete: Vec<bool> = report.replicas.iter().map(|replica| replica.complete).collect();
            assert_eq!(complete, [false, true], "{report:?}");
            assert!(report.replicas[0].error.as_ref().is_some_and(|why| why.contains(newest.as_str())), "{report:?}");
        } else {
            let error = made.unwrap_err();
            assert_eq!(error.class(), Class::Storage, "{error:?}");
            assert!(error.message().contains("which the new one follows"), "{error:?}");
            assert_eq!(listed(&vault).await.len(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_acts_that_nobody_signed_stop_no_commit_unless_an_act_may_hide_among_them() {
    let vault = TestVault::new(2, 1).await;
    vault.backup(&MemorySource::of(noise(100_000, 1))).await.unwrap();
    let put = |number: u64| {
        let key = layout::act(&name(DATASET), number);
        std::fs::write(vault.replica_path(1).join(key), b"garbage\n").unwrap();
    };
    put(1_000_000);
    let report = vault.backup(&MemorySource::of(noise(100_000, 2))).await.unwrap();
    assert!(report.replicas.iter().all(|replica| replica.complete), "{report:?}");
    (2_000_000..2_000_064).for_each(put);
    let report = vault.backup(&MemorySource::of(noise(100_000, 3))).await.unwrap();
    let complete: Vec<bool> = report.replicas.iter().map(|replica| replica.complete).collect();
    assert_eq!(complete, [false, true], "{report:?}");
    let why = report.replicas[0].error.as_ref().unwrap();
    assert!(why.contains("nobody signed"), "{why}");
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == noise(100_000, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_that_is_away_may_hold_is_not_called_lost() {
    let vault = TestVault::new(2, 1).await;
    vault.backup(&MemorySource::of(noise(100_000, 1))).await.unwrap();
    away(&vault, 2);
    vault.backup(&MemorySource::of(noise(100_000, 2))).await.unwrap();
    back(&vault, 2);
    let failing = Arc::new(FailingReplica::new(vault.replicas[0].clone()));
    failing.fail(1, Failure::Unavailable);
    let replica: SharedReplica = failing;
    let error = vault.prune_in(&[replica, vault.replicas[1].clone()]).await.expect_err("prune went on");
    assert_eq!(error.class(), Class::Storage, "{error:?}");
    assert!(error.chain().contains("while r1 cannot be used"), "{error:?}");
    assert!(!error.hint_text().unwrap().contains("repair"), "{error:?}");
}

/// Damages this host's copies of objects. What it has noted of them stays.
fn damage_copies(vault: &TestVault) -> std::path::PathBuf {
    let cache = vault.config.state_directory.join("datasets").join(DATASET).join("cache");
    let is_note = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().starts_with('.');
    for copy in files_below(&cache).into_iter().filter(|path| !is_note(path)) {
        std::fs::write(copy, "damaged").unwrap();
    }
    // One folder, for those whom this host believes.
    let folders: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_and_a_run_cost_as_many_requests_however_many_snapshots_are_kept() {
    let vault = TestVault::new(1, 1).await;
    let (mut runs, mut looks) = (Vec::new(), Vec::new());
    for round in 1..=8 {
        let counting = Arc::new(FailingReplica::new(vault.replicas[0].clone()));
        let replica: SharedReplica = counting.clone();
        vault.backup_to(&MemorySource::of(noise(5000, round)), std::slice::from_ref(&replica)).await.unwrap();
        runs.push(counting.calls());
        let plan = vault.with_prune(async |prune| prune.plan().await).await.unwrap();
        damage_copies(&vault);
        let counting = Arc::new(FailingReplica::new(vault.replicas[0].clone()));
        let replica: SharedReplica = counting.clone();
        let replicas = std::slice::from_ref(&replica);
        let again = vault.with_prune_in(replicas, async |prune| prune.plan().await).await.unwrap();
        assert_eq!(again.verdicts, plan.verdicts);
        assert_eq!(again.verdicts.len() as u64, round);
        looks.push(counting.calls());
    }
    assert!(looks.iter().all(|calls| *calls == looks[0]), "{looks:?}");
    assert!(runs[1..].iter().all(|calls| *calls == runs[1]), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_has_noted_of_manifests_and_acts_may_be_lost_or_damaged() {
    let vault = TestVault::new(2, 1).await;
    for version in 0..4 {
        vault.backup(&MemorySource::of(noise(200_000, version))).await.unwrap();
    }
    let plan = vault.with_prune(async |prune| prune.plan().await).await.unwrap();
    let cache = damage_copies(&vault);
    let notes: Vec<_> = [".outlines-1", ".acts-1", ".segments-1"].map(|name| cache.join(name)).into();
    for note in &notes {
        let whole = std::fs::read(note).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[1..], b"", &[&whole[..], b"more"].concat()] {
            std::fs::write(note, damaged).unwrap();
            let again = vault.with_prune(async |prune| prune.plan().await).await.unwrap();
            assert_eq!((&again.verdicts, &again.space), (&plan.verdicts, &plan.space), "{}", note.display());
        }
        std::fs::remove_file(note).ok();
    }
    let again = vault.backup(&MemorySource::of(noise(200_000, 3))).await.unwrap();
    assert_eq!(again.new_packs, 0, "what is stored was forgotten");
    assert!(caught_up(&vault).await.iter().all(|state| state.behind == 0 && state.error.is_none()));
    assert!(problems(&vault).await.is_empty());
}
