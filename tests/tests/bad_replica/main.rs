//! One bad replica: whatever its owner puts there is named and left aside, and stops nothing in the
//! others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod keys;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use lifeboat_engine::clock::{Clock, ManualClock, SharedClock, SystemClock};
use lifeboat_engine::config::{DrillConfig, Objectives, ProofLevel, ReplicaKind};
use lifeboat_engine::drill::{Drill, publish};
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::restore::Selector;
use lifeboat_engine::state::StateDirectory;
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise, read_all};
use lifeboat_tests::{programs, tools};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::keys::forged_keys;

/// What the owner of a bucket does to it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Attack {
    GarbageVault,
    OtherVault,
    VaultOfTheFuture,
    VaultOfThePast,
    GarbageGeneration,
    OtherGeneration,
    GarbageKeys,
    OtherKeys,
    ManifestOfTheFuture,
    ManifestOfAStranger,
    PruneRecordOfTheFuture,
    DrillRecordOfTheFuture,
    IndexOfAStranger,
    GarbageAct,
    GarbageActFarAbove,
    RenamedAct,
    ActOfAnotherDataset,
    ActOfAnotherVault,
    ActOfAStranger,
    GarbageMark,
    MarkOfAnotherDataset,
    MarkOfAStranger,
}

const ATTACKS: [Attack; 22] = [
    Attack::GarbageVault,
    Attack::OtherVault,
    Attack::VaultOfTheFuture,
    Attack::VaultOfThePast,
    Attack::GarbageGeneration,
    Attack::OtherGeneration,
    Attack::GarbageKeys,
    Attack::OtherKeys,
    Attack::ManifestOfTheFuture,
    Attack::ManifestOfAStranger,
    Attack::PruneRecordOfTheFuture,
    Attack::DrillRecordOfTheFuture,
    Attack::IndexOfAStranger,
    Attack::GarbageAct,
    Attack::GarbageActFarAbove,
    Attack::RenamedAct,
    Attack::ActOfAnotherDataset,
    Attack::ActOfAnotherVault,
    Attack::ActOfAStranger,
    Attack::GarbageMark,
    Attack::MarkOfAnotherDataset,
    Attack::MarkOfAStranger,
];

const FUTURE: &str = "99991231T235959999Z-ffffffff";

/// A vault of three replicas with three snapshots, of which retention keeps the newest.
async fn vault() -> (TestVault, Vec<SnapshotId>) {
    let mut vault = TestVault::new(3, 1).await;
    vault.config.datasets[0].retention.keep_last = 1;
    vault.config.datasets[0].retention.grace = Duration::ZERO;
    let mut snapshots = Vec::new();
    for seed in 0..3 {
        snapshots.push(vault.backup(&MemorySource::of(noise(200_000, seed))).await.unwrap().snapshot);
    }
    (vault, snapshots)
}

/// Carries an attack out in the first replica.
fn attack(vault: &TestVault, how: Attack) {
    let root = vault.replica_path(1);
    let put = |key: &str, content: &[u8]| {
        std::fs::create_dir_all(root.join(key).parent().unwrap()).unwrap();
        std::fs::write(root.join(key), content).unwrap();
    };
    let dataset = name(DATASET);
    let signed_by_a_stranger = |key: &str, content: &[u8]| {
        let signer = Signer::generate().unwrap();
        put(key, content);
        let comment = layout::trusted_comment(&vault.init.vault, key);
        put(&layout::signature(key), signer.sign(content, &comment).unwrap().as_bytes());
    };
    let unsigned = |key: &str| {
        put(key, b"{}");
        put(&layout::signature(key), b"no signature");
    };
    let future: SnapshotId = FUTURE.parse().unwrap();
    let now = SnapshotId::new(vault.clock.now(), 7);
    let hand = || Hand::of(&vault.config, &vault.master);
    // There are three, so it is the next.
    let next_act = layout::act(&dataset, 4);
    match how {
        Attack::GarbageVault => put(layout::VAULT, &[0xff; 1000]),
        Attack::OtherVault => {
            let json = std::fs::read_to_string(root.join(layout::VAULT)).unwrap();
            put(layout::VAULT, json.replace(&vault.init.vault, &"0a".repeat(16)).as_bytes());
        }
        Attack::VaultOfTheFuture => {
            put(layout::VAULT, br#"{"format": 2, "requires": ["holograms"], "vault": "x", "created": "x"}"#);
        }
        Attack::VaultOfThePast => {
            let json = std::fs::read_to_string(root.join(layout::VAULT)).unwrap();
            let older = json.replace("\"format\": 2", "\"format\": 1");
            assert_ne!(older, json);
            put(layout::VAULT, older.as_bytes());
        }
        Attack::OtherGeneration => put(&layout::keyring_generation(&dataset, 2), &forged_keys(vault, DATASET, 2)),
        Attack::GarbageGeneration => put(&layout::keyring_generation(&dataset, 2), b"garbage"),
        Attack::GarbageKeys => put(&layout::keyring_generation(&dataset, 1), b"garbage"),
        Attack::OtherKeys => put(&layout::keyring_generation(&dataset, 1), &forged_keys(vault, DATASET, 1)),
        Attack::ManifestOfTheFuture => unsigned(&layout::manifest(&dataset, &future)),
        Attack::ManifestOfAStranger => signed_by_a_stranger(&layout::manifest(&dataset, &now), b"forged"),
        Attack::PruneRecordOfTheFuture => unsigned(&layout::prune(&dataset, &future)),
        Attack::DrillRecordOfTheFuture => unsigned(&layout::drill(&dataset, &future)),
        Attack::IndexOfAStranger => signed_by_a_stranger(&layout::index(&dataset, &now), b"forged"),
        Attack::GarbageAct => put(&next_act, b"garbage"),
        Attack::GarbageActFarAbove => put(&layout::act(&dataset, 1 << 40), b"garbage"),
        Attack::RenamedAct => put(&next_act, &std::fs::read(root.join(layout::act(&dataset, 3))).unwrap()),
        Attack::ActOfAnotherDataset => {
            let mut other = hand();
            other.dataset = name("other");
            put(&next_act, &other.commit_act(&other.keys.signer, 4, &now, b"forged"));
        }
        Attack::ActOfAnotherVault => {
            let mut other = hand();
            other.keys.vault = "0b".repeat(16);
            put(&next_act, &other.commit_act(&Signer::generate().unwrap(), 4, &now, b"forged"));
        }
        Attack::ActOfAStranger => {
            put(&next_act, &hand().commit_act(&Signer::generate().unwrap(), 4, &now, b"forged"));
        }
        Attack::GarbageMark => unsigned(&layout::mark(&dataset, &future)),
        Attack::MarkOfAnotherDataset => {
            let (hand, key) = (hand(), layout::mark(&dataset, &now));
            let comment = layout::trusted_comment(&vault.init.vault, &layout::mark(&name("other"), &now));
            put(&key, &mark(&hand, &now));
            put(&layout::signature(&key), hand.keys.signer.sign(&mark(&hand, &now), &comment).unwrap().as_bytes());
        }
        Attack::MarkOfAStranger => signed_by_a_stranger(&layout::mark(&dataset, &now), &mark(&hand(), &now)),
    }
}

/// A mark that names every pack of the dataset.
fn mark(hand: &Hand, id: &SnapshotId) -> Vec<u8> {
    let packs = files_below(&hand.replicas[0].join(layout::packs(&name(DATASET))));
    let packs = packs.iter().map(|file| file.file_name().unwrap().to_str().unwrap().split('.').next().unwrap());
    let packs: BTreeSet<&str> = packs.collect();
    assert!(packs.len() >= 3);
    let body = json!({ "snapshots": [], "packs": packs });
    hand.record(RecordType::Mark, &hand.host, id, &body).to_string().into_bytes()
}

/// What a folder holds, without the temporary names of files.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |file: &std::path::PathBuf| {
        (file.strip_prefix(folder).unwrap().display().to_string(), std::fs::read(file).unwrap())
    };
    files_below(folder).iter().map(read).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_snapshot_is_restored_and_drilled_whatever_one_replica_holds() {
    for how in ATTACKS {
        let (vault, snapshots) = vault().await;
        attack(&vault, how);
        let reader = vault.open(vault.owner()).await.unwrap_or_else(|error| panic!("{how:?}: {error:?}"));
        let latest = reader.select(&name(DATASET), &Selector::Latest, vault.clock.now()).await;
        assert_eq!(latest.as_ref().ok(), Some(&snapshots[2]), "{how:?}: {latest:?}");
        let streams = reader.streams(&name(DATASET), &snapshots[2]).await.unwrap();
        let restored = read_all(&streams).await.unwrap_or_else(|error| panic!("{how:?}: {error:?}"));
        assert!(restored["data"] == noise(200_000, 2), "{how:?}");

        let scratch = tempfile::tempdir().unwrap();
        let drill = Drill {
            reader: &reader,
            dataset: &name(DATASET),
            selector: Selector::Latest,
            settings: &DrillConfig { level: Some(ProofLevel::Fetched), ..DrillConfig::default() },
            past: &[],
            base: None,
            objectives: Objectives::default(),
            rehearses_loss: false,
            across: None,
            jobs: 1,
            environment: &tools::environment(),
            worker: &programs::worker(),
            scratch: scratch.path().to_owned(),
            clock: vault.clock.clone(),
            cancel: CancellationToken::new(),
        };
        let (report, error) = drill.run().await;
        assert!(report.passed, "{how:?}: {error:?}");
        let published = publish(&reader, &report, &name("driller"), &Signer::generate().unwrap()).await.unwrap();
        let good: Vec<&str> = published.replicas.iter().map(Name::as_str).collect();
        assert!(good.contains(&"r2") && good.contains(&"r3"), "{how:?}: {published:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_and_catch_up_go_on_in_the_other_replicas() {
    for how in ATTACKS {
        let (vault, _) = vault().await;
        let clean = content(&vault.replica_path(1));
        attack(&vault, how);
        let before = content(&vault.replica_path(1));
        let made = vault.backup(&MemorySource::of(noise(200_000, 9))).await;
        let made = made.unwrap_or_else(|error| panic!("{how:?}: {error:?}"));
        let complete: Vec<bool> = made.replicas.iter().map(|replica| replica.complete).collect();
        assert!(complete[1] && complete[2], "{how:?}: {:?}", made.replicas);
        assert!(made.started <= vault.clock.now(), "{how:?}");
        let state = StateDirectory::open(&vault.config.state_directory).unwrap();
        let keys = vault.keys().unwrap();
        let cancel = CancellationToken::new();
        let dataset = &vault.config.datasets[0];
        let states = catch_up(dataset, &keys, &vault.replicas, &state, &limits(), &cancel).await.unwrap();
        for state in states.iter().filter(|state| state.replica != name("r1")) {
            assert_eq!((state.behind, &state.error), (0, &None), "{how:?}: {state:?}");
            assert_eq!(state.last_complete.as_ref(), Some(&made.snapshot), "{how:?}");
        }
        for replica in [2, 3] {
            let other = content(&vault.replica_path(replica));
            let forged = before.iter().filter(|object| !clean.contains(object));
            for (key, body) in forged {
                assert!(!other.iter().any(|(known, found)| known == key && found == body), "{how:?}: {key} was spread");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_deletes_nothing_in_a_doubtful_replica_and_goes_on_in_the_others() {
    for how in ATTACKS {
        let (vault, snapshots) = vault().await;
        attack(&vault, how);
        let before = content(&vault.replica_path(1));
        let (plan, outcome) = vault.sweep().await.unwrap_or_else(|error| panic!("{how:?}: {error:?}"));
        assert_eq!(plan.removed().cloned().collect::<Vec<_>>(), snapshots[..2], "{how:?}");
        for replica in [2, 3] {
            let left = content(&vault.replica_path(replica).join("datasets/shop/snapshots"));
            let left: Vec<&String> = left.iter().map(|(key, _)| key).collect();
            assert!(
                left.len() == 2 && left.iter().all(|key| key.starts_with(snapshots[2].as_str())),
                "{how:?}: {left:?}"
            );
        }
        let harmless = [
            Attack::GarbageGeneration,
            Attack::OtherGeneration,
            Attack::GarbageKeys,
            Attack::OtherKeys,
            Attack::IndexOfAStranger,
            Attack::GarbageAct,
            Attack::GarbageActFarAbove,
            Attack::RenamedAct,
            Attack::ActOfAnotherDataset,
            Attack::ActOfAnotherVault,
            Attack::ActOfAStranger,
            Attack::MarkOfAStranger,
        ];
        // Without trusted drill signers, any drill record counts, and must be readable.
        if harmless.contains(&how) {
            assert!(outcome.failures.is_empty(), "{how:?}: {outcome:?}");
        } else {
            assert_eq!(plan.skipped.len(), 1, "{how:?}: {plan:?}");
            assert!(outcome.failures.iter().any(|why| why.contains("r1")), "{how:?}: {outcome:?}");
            // It gets the acts of others, and nothing else.
            let after = content(&vault.replica_path(1));
            let is_act = |key: &str| key.starts_with("datasets/shop/order/") && key.ends_with(".act");
            let mut added = after.iter().filter(|object| !before.contains(object));
            assert!(added.all(|(key, _)| is_act(key)), "{how:?}: something was written");
            assert!(before.iter().all(|object| after.contains(object)), "{how:?}: something was deleted");
        }
        // The next record is not from the future, so it stays the newest.
        let records = content(&vault.replica_path(2).join("datasets/shop/prunes"));
        assert!(!records.is_empty() && records.iter().all(|(key, _)| !key.starts_with("9999")), "{how:?}");
        assert!(vault.restore(&snapshots[2]).await.unwrap()["data"] == noise(200_000, 2), "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_carries_no_garbage_to_another_replica() {
    for how in ATTACKS {
        let (mut vault, snapshots) = vault().await;
        let good = content(&vault.replica_path(2));
        attack(&vault, how);
        // What no vault has, and what looks as if it had.
        for stray in ["hosts/host.key", "hosts/deeper/db1.json", "keyring/host-keys", "keyring/datasets/shop/x.age"] {
            let place = vault.replica_path(1).join(stray);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, b"secret").unwrap();
        }
        let mut fourth = vault.config.replicas[0].clone();
        fourth.name = name("r4");
        fourth.kind = ReplicaKind::Directory { path: vault.place.path().join("r4") };
        std::fs::create_dir(vault.place.path().join("r4")).unwrap();
        vault.config.replicas.push(fourth);
        let replicas = vault.config.open_replicas(&SystemClock::shared()).await.unwrap();
        let clock: SharedClock = vault.clock.clone();
        let report = init(&vault.config, &replicas, &InitOptions::default(), &clock).await;
        let report = report.unwrap_or_else(|error| panic!("{how:?}: {error:?}"));
        assert_eq!(report.vault, vault.init.vault, "{how:?}");
        let told = format!("{:?} {:?}", report.unreached, report.notes);
        let concerns_init = [
            Attack::GarbageVault,
            Attack::OtherVault,
            Attack::VaultOfTheFuture,
            Attack::VaultOfThePast,
            Attack::GarbageGeneration,
            Attack::OtherGeneration,
            Attack::GarbageKeys,
            Attack::OtherKeys,
        ];
        assert_eq!(told.contains("r1"), concerns_init.contains(&how), "{how:?}: {told}");
        assert_eq!(content(&vault.replica_path(2)), good, "{how:?}");
        let keys = |objects: Vec<(String, Vec<u8>)>| -> Vec<(String, Vec<u8>)> {
            objects.into_iter().filter(|(key, _)| !key.starts_with("datasets/")).collect()
        };
        assert_eq!(keys(content(&vault.replica_path(4))), keys(good.clone()), "{how:?}");

        // A host that takes over takes over the right keys, or none.
        std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
        std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
        let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
        let taken = init(&vault.config, &vault.replicas, &options, &clock).await;
        match how {
            Attack::OtherKeys | Attack::OtherGeneration => {
                let error = taken.unwrap_err();
                assert!(error.message().contains("different keys in r1 and in r2"), "{error:?}");
            }
            Attack::OtherVault => assert!(taken.unwrap_err().message().contains("r1 holds vault"), "{how:?}"),
            _ => {
                taken.unwrap_or_else(|error| panic!("{how:?}: {error:?}"));
                let old = vault.init.signer.clone();
                vault.config.keys.trusted_signers = vec![old];
                let next = vault.backup(&MemorySource::of(noise(200_000, 2))).await.unwrap();
                assert_eq!(next.stored_bytes, 0, "{how:?}: another key names the chunks");
                assert!(vault.restore(&snapshots[2]).await.unwrap()["data"] == noise(200_000, 2), "{how:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_one_run_under_a_wrong_clock_later_snapshots_are_the_latest_and_tell_their_time() {
    let mut vault = TestVault::new(1, 1).await;
    vault.config.datasets[0].retention.daily = 7;
    let first = vault.backup(&MemorySource::of(noise(100_000, 1))).await.unwrap();
    let right = vault.clock.now();
    let year = Duration::from_secs(365 * 86_400);
    vault.clock.advance(year);
    let wrong = vault.backup(&MemorySource::of(noise(100_000, 2))).await.unwrap();
    vault.clock = ManualClock::at(right);
    let reader = vault.open(vault.owner()).await.unwrap();
    let latest = async |now| reader.select(&name(DATASET), &Selector::Latest, now).await.unwrap();
    assert_eq!(latest(vault.clock.now()).await, first.snapshot, "what lies in the future is not the latest");

    let third = vault.backup(&MemorySource::of(noise(100_000, 3))).await.unwrap();
    assert!(third.snapshot > wrong.snapshot, "ids ascend");
    assert!(third.started < right + chrono::TimeDelta::seconds(60), "{}", third.started);
    assert!(third.warnings.iter().any(|warning| warning.contains("future")), "{:?}", third.warnings);
    assert_eq!(latest(vault.clock.now()).await, third.snapshot);
    let before = Selector::At(right);
    assert_eq!(reader.select(&name(DATASET), &before, vault.clock.now()).await.unwrap(), first.snapshot);

    // Each day counts once, by its true time, and what lies in the future counts for nothing.
    vault.clock.advance(Duration::from_secs(86_400));
    vault.backup(&MemorySource::of(noise(100_000, 4))).await.unwrap();
    let (plan, _) = vault.prune().await.unwrap();
    let stays = |snapshot: &SnapshotId| {
        plan.verdicts.iter().any(|verdict| verdict.snapshot == *snapshot && !verdict.keep_because.is_empty())
    };
    assert!(stays(&third.snapshot) && stays(&wrong.snapshot), "{:?}", plan.verdicts);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_reads_no_key_through_a_link_that_somebody_put_into_a_replica() {
    let (vault, _) = vault().await;
    let hosts = vault.replica_path(1).join("hosts");
    std::fs::remove_dir_all(&hosts).unwrap();
    std::os::unix::fs::symlink(&vault.config.keys.directory, &hosts).unwrap();
    let before = content(&vault.replica_path(2));
    let clock: SharedClock = vault.clock.clone();
    let report = init(&vault.config, &vault.replicas, &InitOptions::default(), &clock).await.unwrap();
    assert!(report.unreached.iter().any(|why| why.contains("r1") && why.contains("never followed")), "{report:?}");
    assert_eq!(content(&vault.replica_path(2)), before, "a key was uploaded");
    let names: Vec<_> = files_below(&vault.config.keys.directory).into_iter().collect();
    assert!(names.iter().all(|file| !file.ends_with("db1.json")), "something was written through the link: {names:?}");
}
