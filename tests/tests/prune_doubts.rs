//! What prune leaves alone though a replica shows what cannot be believed, or a clock was wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::Class;
use lifeboat_engine::clock::{Clock, ManualClock};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::keep::prune::PrunePlan;
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::store::{FailingReplica, Failure};
use lifeboat_tests::by_hand::{Hand, changed, contents, drill_signer};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const FUTURE: &str = "99991231T235959999Z-ffffffff";
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A vault of two replicas, of which retention keeps the newest snapshot and the grace period is
/// over at once.
struct Fleet {
    vault: TestVault,
    /// Writes into the second replica alone.
    hand: Hand,
    snapshots: Vec<SnapshotId>,
}

impl Fleet {
    async fn new(snapshots: u64) -> Self {
        let mut vault = TestVault::new(2, 1).await;
        vault.config.datasets[0].retention.keep_last = 1;
        vault.config.datasets[0].retention.grace = Duration::ZERO;
        let mut made = Vec::new();
        for seed in 0..snapshots {
            made.push(vault.backup(&MemorySource::of(noise(200_000, seed))).await.unwrap().snapshot);
        }
        let mut hand = Hand::of(&vault.config, &vault.master);
        hand.replicas.remove(0);
        Self { vault, hand, snapshots: made }
    }

    /// Takes the manifest away from the first replica, as if it had failed before the commit.
    fn hide(&self, snapshot: &SnapshotId) {
        let key = layout::manifest(&name(DATASET), snapshot);
        for key in [layout::signature(&key), key] {
            std::fs::remove_file(self.vault.replica_path(1).join(key)).unwrap();
        }
    }

    /// Puts an object that nobody signed into the second replica, so that it is doubted.
    fn doubt(&self, key: &str) {
        self.hand.put(key, b"{}");
        self.hand.put(&layout::signature(key), b"no signature");
    }

    /// What the first replica has in a folder of the dataset.
    fn in_first(&self, folder: &str) -> Vec<PathBuf> {
        files_below(&self.vault.replica_path(1).join(folder))
    }

    fn forget_cache(&self) {
        std::fs::remove_dir_all(self.vault.config.state_directory.join("datasets").join(DATASET)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_of_a_signed_snapshot_stay_everywhere_though_only_a_doubted_replica_shows_it() {
    let fleet = Fleet::new(2).await;
    fleet.hide(&fleet.snapshots[1]);
    let index = layout::index(&name(DATASET), &fleet.snapshots[1]);
    for key in [layout::signature(&index), index] {
        std::fs::remove_file(fleet.vault.replica_path(1).join(key)).unwrap();
    }
    fleet.doubt(&layout::manifest(&name(DATASET), &FUTURE.parse().unwrap()));
    let whole = [layout::packs(&name(DATASET)), layout::indexes(&name(DATASET))];
    let before = whole.each_ref().map(|folder| fleet.in_first(folder));
    assert!(before.iter().all(|files| files.len() >= 2), "{before:?}");
    for _ in 0..2 {
        let (plan, outcome) = fleet.vault.sweep().await.unwrap();
        assert!(outcome.failures.iter().any(|why| why.contains("r2")), "{outcome:?}");
        assert_eq!(whole.each_ref().map(|folder| fleet.in_first(folder)), before, "{plan:?}");
        assert!(plan.is_empty() && plan.waiting.is_empty(), "{plan:?}");
    }
    assert!(fleet.in_first(&layout::marks(&name(DATASET))).is_empty(), "something was marked");
    // That replica may lose it, too.
    let copy = layout::manifest(&name(DATASET), &fleet.snapshots[1]).replace('/', "!");
    let copies = files_below(&fleet.vault.config.state_directory);
    assert!(copies.iter().any(|file| file.ends_with(&copy)), "{copies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_a_replica_that_shows_a_manifest_does_not_return_it() {
    let mut fleet = Fleet::new(3).await;
    fleet.hide(&fleet.snapshots[2]);
    fleet.forget_cache();
    let failing = Arc::new(FailingReplica::new(fleet.vault.replicas[1].clone()));
    fleet.vault.replicas[1] = failing.clone();
    // vault.json, the keyring and one page are listed; then come the manifests.
    (4..40).for_each(|call| failing.fail(call, Failure::Unavailable));
    let places = [1, 2].map(|replica| fleet.vault.replica_path(replica));
    let before = contents(&places);
    let error = fleet.vault.prune().await.expect_err("prune went on");
    assert_eq!(error.class(), Class::Storage, "{error:?}");
    assert!(error.chain().contains(fleet.snapshots[2].as_str()), "{error:?}");
    assert!(error.hint_text().is_some(), "{error:?}");
    assert!(changed(&before, &contents(&places)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_a_manifest_is_longer_than_may_be_held_here() {
    let mut fleet = Fleet::new(3).await;
    fleet.vault.config.limits.memory = 1 << 20;
    let long = layout::manifest(&name(DATASET), &SnapshotId::new(fleet.vault.clock.now(), 7));
    fleet.hand.put_signed(&fleet.hand.keys.signer, &long, &vec![0; 33 << 20]);
    let places = [1, 2].map(|replica| fleet.vault.replica_path(replica));
    let before = contents(&places);
    let error = fleet.vault.prune().await.expect_err("prune went on");
    assert!(error.chain().contains(&long), "{error:?}");
    assert!(error.hint_text().unwrap().contains("limits.memory"), "{error:?}");
    assert!(changed(&before, &contents(&places)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_proved_snapshot_is_one_that_a_replica_without_doubt_shows() {
    let future: SnapshotId = FUTURE.parse().unwrap();
    let dataset = name(DATASET);
    // The first is found before drill records are read, the second among them.
    for doubtful in [layout::manifest(&dataset, &future), layout::drill(&dataset, &future)] {
        let fleet = Fleet::new(4).await;
        let mut both = Hand::of(&fleet.vault.config, &fleet.vault.master);
        let signer = drill_signer(&fleet.vault.config);
        for (number, snapshot) in [(7, &fleet.snapshots[1]), (8, &fleet.snapshots[2])] {
            fleet.vault.clock.advance(Duration::from_secs(1));
            let id = SnapshotId::new(fleet.vault.clock.now(), number);
            let body = json!({ "snapshot": snapshot, "reached": "proved" });
            let record = both.record(RecordType::Drill, &name("drill1"), &id, &body).to_string();
            both.put_signed(&signer, &layout::drill(&dataset, &id), record.as_bytes());
        }
        both.replicas.truncate(1);
        fleet.hide(&fleet.snapshots[2]);
        fleet.doubt(&doubtful);
        let (plan, outcome) = fleet.vault.sweep().await.unwrap();
        assert!(outcome.failures.iter().any(|why| why.contains("r2")), "{outcome:?}");
        assert!(plan.removed().eq([&fleet.snapshots[0]]), "{doubtful}: {plan:?}");
        let proved = layout::manifest(&dataset, &fleet.snapshots[1]);
        assert!(both.replicas[0].join(proved).exists(), "{doubtful}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_answers_with_no_vault_to_write_into_is_told_as_a_failure() {
    for how in ["of another vault", "of format 1", "missing"] {
        let fleet = Fleet::new(3).await;
        let file = fleet.vault.replica_path(2).join(layout::VAULT);
        let mut info: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        match how {
            "of another vault" => info["vault"] = json!("0a".repeat(16)),
            "of format 1" => {
                info["format"] = json!(1);
                info.as_object_mut().unwrap().remove("requires");
            }
            _ => std::fs::remove_file(&file).unwrap(),
        }
        if file.exists() {
            std::fs::write(&file, info.to_string()).unwrap();
        }
        let before = contents([&fleet.vault.replica_path(2)]);
        let (plan, outcome) = fleet.vault.sweep().await.unwrap();
        assert!(outcome.failures.iter().any(|why| why.contains("r2")), "{how}: {outcome:?}");
        assert!(plan.removed().eq(&fleet.snapshots[..2]), "{how}: {plan:?}");
        assert!(changed(&before, &contents([&fleet.vault.replica_path(2)])).is_empty(), "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_record_of_a_signer_that_is_not_trusted_decides_nothing() {
    let mut fleet = Fleet::new(4).await;
    fleet.vault.config.datasets[0].retention.keep_last = 3;
    let hand = Hand::of(&fleet.vault.config, &fleet.vault.master);
    let id = SnapshotId::new(fleet.vault.clock.now(), 7);
    let removed: Vec<Value> =
        fleet.snapshots[1..3].iter().map(|snapshot| json!({ "snapshot": snapshot, "blake3": null })).collect();
    let record = hand.record(RecordType::Prune, &hand.host, &id, &json!({ "removed": removed })).to_string();
    let key = layout::prune(&name(DATASET), &id);
    hand.put_signed(&Signer::generate().unwrap(), &key, record.as_bytes());
    let (plan, outcome) = fleet.vault.sweep().await.unwrap();
    assert!(plan.skipped.is_empty() && outcome.failures.is_empty(), "{plan:?} {outcome:?}");
    assert!(plan.removed().eq([&fleet.snapshots[0]]), "{plan:?}");
    assert_eq!(hand.read(&key), record.as_bytes());
    // Nor does it excuse a loss.
    let lost = layout::manifest(&name(DATASET), &fleet.snapshots[2]);
    [1, 2].into_iter().for_each(|replica| hand.remove(replica, &lost));
    let reader = fleet.vault.open(fleet.vault.owner()).await.unwrap();
    let report =
        verify(&reader, &name(DATASET), None, false, fleet.vault.clock.now(), &CancellationToken::new()).await.unwrap();
    let told = |key: &str, why: &str| {
        report.findings.iter().any(|finding| finding.object == key && finding.problem.contains(why))
    };
    assert!(told(&lost, "is missing") && told(&key, "is not trusted"), "{:?}", report.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_whose_object_is_nowhere_goes_after_the_grace_period() {
    let fleet = Fleet::new(2).await;
    let (dataset, first) = (name(DATASET), fleet.snapshots[0].clone());
    let stranger = SnapshotId::new(first.time(), 7);
    let lone = [layout::manifest(&dataset, &stranger), layout::index(&dataset, &stranger)];
    for key in &lone {
        fleet.hand.put(&layout::signature(key), b"a signature");
    }
    // Its other replica has the object, so that one is copied and its signature stays.
    let kept = layout::manifest(&dataset, &fleet.snapshots[1]);
    std::fs::remove_file(fleet.vault.replica_path(1).join(&kept)).unwrap();
    fleet.vault.clock.advance(3 * DAY);
    let there = |key: &String| fleet.hand.replicas[0].join(layout::signature(key)).exists();
    let (plan, _) = fleet.vault.prune().await.unwrap();
    assert_eq!(plan.mark_objects.iter().collect::<Vec<_>>(), lone.iter().rev().collect::<Vec<_>>(), "{plan:?}");
    assert!(lone.iter().all(there), "nothing goes unmarked");
    fleet.vault.clock.advance(DAY);
    fleet.vault.prune().await.unwrap();
    assert!(!lone.iter().any(there));
    assert!(fleet.vault.replica_path(1).join(layout::signature(&kept)).exists());
}

/// Whether a plan keeps a snapshot.
fn stays(plan: &PrunePlan, snapshot: &SnapshotId) -> bool {
    plan.verdicts.iter().any(|verdict| verdict.snapshot == *snapshot && !verdict.keep_because.is_empty())
}

/// A vault whose clock shows eight in the morning, as it will do again after a run under a wrong
/// clock.
async fn in_the_morning() -> TestVault {
    let mut vault = TestVault::new(1, 1).await;
    vault.clock = morning();
    vault
}

fn morning() -> Arc<ManualClock> {
    ManualClock::at("2027-03-01T08:00:00Z".parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_snapshot_stays_beside_one_of_the_future() {
    let mut vault = in_the_morning().await;
    vault.config.datasets[0].retention.within = Some(DAY);
    let mut made = Vec::new();
    for seed in 0..2 {
        made.push(vault.backup(&MemorySource::of(noise(100_000, seed))).await.unwrap().snapshot);
    }
    vault.clock.advance(365 * DAY);
    let wrong = vault.backup(&MemorySource::of(noise(100_000, 2))).await.unwrap().snapshot;
    let hand = Hand::of(&vault.config, &vault.master);
    let drill = SnapshotId::new(vault.clock.now(), 7);
    let record =
        hand.record(RecordType::Drill, &name("drill1"), &drill, &json!({ "snapshot": wrong, "reached": "proved" }));
    let key = layout::drill(&name(DATASET), &drill);
    hand.put_signed(&drill_signer(&vault.config), &key, record.to_string().as_bytes());
    vault.clock = morning();
    vault.clock.advance(3 * DAY);
    let proof = SnapshotId::new(vault.clock.now(), 8);
    let record =
        hand.record(RecordType::Drill, &name("drill1"), &proof, &json!({ "snapshot": made[0], "reached": "proved" }));
    let key = layout::drill(&name(DATASET), &proof);
    hand.put_signed(&drill_signer(&vault.config), &key, record.to_string().as_bytes());
    let (plan, outcome) = vault.prune().await.unwrap();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    let why: Vec<&[String]> = plan.verdicts.iter().map(|verdict| verdict.keep_because.as_slice()).collect();
    assert_eq!(why[0], ["the newest proved one"], "{plan:?}");
    assert_eq!(why[1], ["the newest", "the newest complete one in r1"], "{plan:?}");
    assert_eq!(why[2], ["its time lies in the future"], "{plan:?}");
    assert!(stays(&plan, &wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_under_a_wrong_clock_lets_no_day_go_early() {
    // It claims to be a little older than the snapshot of its day, or a little younger.
    for wrong in [3 * DAY - 2 * HOUR, 3 * DAY + 2 * HOUR] {
        let mut vault = in_the_morning().await;
        vault.config.datasets[0].retention.daily = 8;
        let mut days = vec![vault.backup(&MemorySource::of(noise(100_000, 0))).await.unwrap().snapshot];
        vault.clock.advance(wrong);
        vault.backup(&MemorySource::of(noise(100_000, 100))).await.unwrap();
        vault.clock = morning();
        for day in 1..=7 {
            vault.clock.advance(DAY);
            days.push(vault.backup(&MemorySource::of(noise(100_000, day))).await.unwrap().snapshot);
            let (plan, _) = vault.prune().await.unwrap();
            let gone: Vec<usize> = (0..days.len()).filter(|day| !stays(&plan, &days[*day])).collect();
            assert!(gone.is_empty(), "{wrong:?}: on day {day}, {gone:?} went: {:?}", plan.verdicts);
        }
        // Nor does it keep all days for ever.
        for day in 8..=10 {
            vault.clock.advance(DAY);
            vault.backup(&MemorySource::of(noise(100_000, day))).await.unwrap();
        }
        let (plan, _) = vault.sweep().await.unwrap();
        assert!(plan.removed().any(|snapshot| *snapshot == days[0]), "{wrong:?}: {:?}", plan.verdicts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lacks_a_database_lets_no_whole_one_go() {
    let fleet = Fleet::new(3).await;
    let (vault, whole) = (&fleet.vault, &fleet.snapshots);
    let mut partial = Vec::new();
    for seed in 7..9 {
        let lacking = MemorySource { skipped: vec!["crm".to_owned()], ..MemorySource::of(noise(200_000, seed)) };
        partial.push(vault.backup(&lacking).await.unwrap().snapshot);
    }
    let mut hand = Hand::of(&vault.config, &vault.master);
    hand.replicas.truncate(1);
    let signer = drill_signer(&vault.config);
    for (number, snapshot) in [(7, &whole[1]), (8, &partial[0])] {
        vault.clock.advance(Duration::from_secs(1));
        let id = SnapshotId::new(vault.clock.now(), number);
        let body = json!({ "snapshot": snapshot, "reached": "proved" });
        let record = hand.record(RecordType::Drill, &name("drill1"), &id, &body).to_string();
        hand.put_signed(&signer, &layout::drill(&name(DATASET), &id), record.as_bytes());
    }
    let (plan, outcome) = vault.sweep().await.unwrap();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert!(plan.removed().eq([&whole[0]]), "{plan:?}");
    let because = |snapshot: &SnapshotId| {
        plan.verdicts.iter().find(|verdict| verdict.snapshot == *snapshot).unwrap().keep_because.join(", ")
    };
    assert!(because(&whole[2]).contains("the newest that lacks no database"), "{plan:?}");
    assert!(because(&whole[2]).contains("the newest complete one in r1 that lacks no database"), "{plan:?}");
    assert!(because(&whole[1]).contains("the newest proved one that lacks no database"), "{plan:?}");
}
