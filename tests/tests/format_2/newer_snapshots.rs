//! A newer program writes snapshots that require a word, beside today's program: the new ones are
//! named, kept and counted in the chain, though they are not understood.

use lifeboat_engine::Result;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::format::id::{Digest, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::manifest::Previous;
use lifeboat_engine::restore::Selector;
use lifeboat_tests::by_hand::{Hand, changed, harmed, with_json};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};
use serde_json::{Value, json};

use crate::{
    TWO_DAYS, WORD, assert_asks_for_a_newer_version, assert_found, assert_names_the_word, caught_up, findings,
};

/// What a newer program changes in a manifest.
type Change = fn(&mut Value);

/// It adds what an older one must not overlook.
fn modest(manifest: &mut Value) {
    manifest["requires"] = json!([WORD]);
    manifest["holograms"] = json!({ "depth": 3 });
}

/// It also changes every field that need not keep its meaning.
fn bold(manifest: &mut Value) {
    manifest["requires"] = json!([WORD, "telepathy-2"]);
    for field in ["host", "started", "finished", "source", "packs", "streams", "accounting"] {
        manifest[field] = json!({ "told": "elsewhere" });
    }
}

const CHANGES: [Change; 2] = [modest, bold];

/// Three snapshots of today's program in two replicas, and a newer one of a newer program.
struct Fleet {
    vault: TestVault,
    hand: Hand,
    older: Vec<(SnapshotId, Vec<u8>)>,
    newer: SnapshotId,
    /// Of the newer program's manifest.
    hash: Digest,
}

impl Fleet {
    async fn new(change: Change) -> Self {
        let vault = TestVault::new(2, 2).await;
        let mut older = Vec::new();
        for seed in 0..3 {
            let data = noise(300_000, seed);
            older.push((vault.backup(&MemorySource::of(data.clone())).await.unwrap().snapshot, data));
        }
        let hand = Hand::of(&vault.config, &vault.master);
        let newer = hand.successor(&older[2].0, 7);
        let hash = hand.put_plaintext(&newer.snapshot, &with_json(&newer.to_plaintext().unwrap(), change));
        Self { vault, hand, older, newer: newer.snapshot, hash }
    }

    /// The object that is not understood.
    fn key(&self) -> String {
        layout::manifest(&name(DATASET), &self.newer)
    }

    async fn assert_older_ones_restore(&self) {
        for (snapshot, data) in &self.older {
            assert!(self.vault.restore(snapshot).await.unwrap()["data"] == *data, "{snapshot} differs");
        }
    }

    fn assert_refused<T>(&self, result: Result<T>) {
        let error = result.err().expect("the snapshot that is not understood was read");
        assert_asks_for_a_newer_version(&error);
        assert!(error.chain().contains(self.newer.as_str()), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_listed_and_refused_by_name_and_older_ones_come_back() {
    for change in CHANGES {
        let fleet = Fleet::new(change).await;
        let reader = fleet.vault.open(fleet.vault.owner()).await.unwrap();
        let listed: Vec<SnapshotId> =
            reader.snapshots(&name(DATASET)).await.unwrap().into_iter().map(|listed| listed.snapshot).collect();
        let older = fleet.older.iter().map(|(snapshot, _)| snapshot);
        assert_eq!(listed, older.chain([&fleet.newer]).cloned().collect::<Vec<_>>());
        // What the newest is does not depend on who looks.
        assert_eq!(
            reader.select(&name(DATASET), &Selector::Latest, SystemClock::shared().now()).await.unwrap(),
            fleet.newer
        );

        fleet.assert_refused(reader.manifest(&name(DATASET), &fleet.newer).await);
        fleet.assert_refused(reader.streams(&name(DATASET), &fleet.newer).await);
        fleet.assert_refused(fleet.vault.restore(&fleet.newer).await);
        fleet.assert_older_ones_restore().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_it_in_each_replica_and_blames_nothing_else() {
    for change in CHANGES {
        let fleet = Fleet::new(change).await;
        assert_found(&findings(&fleet.vault).await, &["r1", "r2"], &fleet.key(), WORD);
        // Its successor misses nothing.
        fleet.vault.backup(&MemorySource::of(noise(300_000, 4))).await.unwrap();
        assert_found(&findings(&fleet.vault).await, &["r1", "r2"], &fleet.key(), WORD);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_on_behind_it_with_a_warning_and_without_a_fork() {
    for change in CHANGES {
        let fleet = Fleet::new(change).await;
        let before = fleet.hand.contents();
        let data = noise(300_000, 5);
        let report = fleet.vault.backup(&MemorySource::of(data.clone())).await.unwrap();
        assert!(report.warnings.iter().any(|warning| warning.contains(WORD)), "{:?}", report.warnings);
        assert!(report.replicas.iter().all(|replica| replica.complete), "{:?}", report.replicas);
        assert!(report.snapshot > fleet.newer);
        assert!(fleet.vault.restore(&report.snapshot).await.unwrap()["data"] == data);

        let manifest = fleet.hand.manifest(&report.snapshot);
        assert_eq!(manifest.sequence, 5);
        let previous = Previous { snapshot: fleet.newer.clone(), blake3: Some(fleet.hash) };
        assert_eq!(manifest.previous, Some(previous));
        let harmed = harmed(&before, &fleet.hand.contents());
        assert!(harmed.is_empty(), "{harmed:?}");

        // The next one follows on as if nothing had been.
        let next = fleet.vault.backup(&MemorySource::of(data)).await.unwrap();
        let manifest = fleet.hand.manifest(&next.snapshot);
        assert_eq!((manifest.sequence, manifest.predecessor()), (6, Some(&report.snapshot)));
        assert_eq!(manifest.previous.and_then(|previous| previous.blake3), Some(fleet.hand.hash(&report.snapshot)));
    }
}

/// Nothing at all goes, and the reason is told.
async fn assert_prunes_nothing(fleet: &Fleet) {
    let before = fleet.hand.contents();
    let error = fleet.vault.prune().await.expect_err("prune went on");
    assert_names_the_word(&error);
    assert!(error.chain().contains(fleet.newer.as_str()), "{error:?}");
    let changed = changed(&before, &fleet.hand.contents());
    assert!(changed.is_empty(), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_deletes_nothing_though_old_snapshots_are_due() {
    for change in CHANGES {
        let mut fleet = Fleet::new(change).await;
        fleet.vault.config.datasets[0].retention.keep_last = 1;
        fleet.vault.clock.advance(TWO_DAYS);
        assert_prunes_nothing(&fleet).await;
        // Nor does a backup behind it change that: the older ones are its predecessors.
        fleet.vault.backup(&MemorySource::of(noise(300_000, 6))).await.unwrap();
        fleet.vault.clock.advance(TWO_DAYS);
        assert_prunes_nothing(&fleet).await;
        fleet.assert_older_ones_restore().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_keeps_packs_that_were_due_until_a_newer_program_used_them_again() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let first = vault.backup(&MemorySource::of(noise(300_000, 1))).await.unwrap().snapshot;
    let hand = Hand::of(&vault.config, &vault.master);
    let packs = hand.manifest(&first).packs;
    let data = noise(300_000, 2);
    let second = vault.backup(&MemorySource::of(data.clone())).await.unwrap().snapshot;
    let streams = hand.manifest(&first).streams;
    let (plan, outcome) = vault.prune().await.unwrap();
    assert_eq!((outcome.marked_snapshots, outcome.marked_packs, plan.waiting.len()), (1, 1, 2), "{plan:?}");

    let mut newer = hand.successor(&second, 7);
    (newer.packs, newer.streams) = (packs, streams);
    let hash = hand.put_plaintext(&newer.snapshot, &with_json(&newer.to_plaintext().unwrap(), modest));
    vault.clock.advance(TWO_DAYS);
    let fleet = Fleet { vault, hand, older: vec![(second, data)], newer: newer.snapshot, hash };
    assert_prunes_nothing(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_was_planned_before_it_came_marks_and_deletes_nothing_either() {
    for marked in [false, true] {
        planned_before_it_came(marked).await;
    }
}

/// `marked`: a sweep was planned, and not a mark.
async fn planned_before_it_came(marked: bool) {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    for seed in 0..2 {
        vault.backup(&MemorySource::of(noise(300_000, seed))).await.unwrap();
    }
    if marked {
        vault.prune().await.unwrap();
        vault.clock.advance(TWO_DAYS);
    }
    let hand = Hand::of(&vault.config, &vault.master);
    let plan = vault.with_prune(async |prune| prune.plan().await).await.unwrap();
    assert_eq!((plan.mark_snapshots.len(), plan.removed().count()), if marked { (0, 1) } else { (1, 0) });
    let newest = plan.verdicts.last().unwrap().snapshot.clone();
    let newer = hand.successor(&newest, 7);
    hand.put_plaintext(&newer.snapshot, &with_json(&newer.to_plaintext().unwrap(), modest));

    let before = hand.contents();
    let error = vault.with_prune(async |prune| prune.execute(&plan).await).await.expect_err("prune went on");
    assert_names_the_word(&error);
    let changed = changed(&before, &hand.contents());
    assert!(changed.is_empty(), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn catch_up_neither_deletes_nor_damages_it() {
    for change in CHANGES {
        let fleet = Fleet::new(change).await;
        let older = layout::manifest(&name(DATASET), &fleet.older[1].0);
        fleet.hand.remove(2, &fleet.key());
        fleet.hand.remove(2, &older);
        let before = fleet.hand.contents();
        caught_up(&fleet.vault).await;
        let after = fleet.hand.contents();
        let harmed = harmed(&before, &after);
        assert!(harmed.is_empty(), "{harmed:?}");
        // What was copied is the same as where it came from.
        for key in [&fleet.key(), &older] {
            let [one, two] = [0, 1].map(|at| after.get(&fleet.hand.replicas[at].join(key)));
            assert!(two.is_none() || one == two, "{key} differs");
        }
        assert!(after.contains_key(&fleet.hand.replicas[1].join(&older)), "the older snapshot was not copied");
        fleet.assert_older_ones_restore().await;
    }
}
