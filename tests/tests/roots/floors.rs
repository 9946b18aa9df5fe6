//! What no configuration, no mark and no prune record goes below.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_engine::clock::{Clock, ManualClock};
use lifeboat_engine::config::{Config, Retention, Surroundings};
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::line::OwnerLine;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::format::root::{Floors, Pattern};
use lifeboat_engine::keep::prune::{Prune, PruneOutcome, PrunePlan};
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::keys::trust::Trust;
use lifeboat_engine::root::{GrantedMachine, first_root};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{MemoryReplica, Replica, SharedReplica};
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{files, report};

const DAY: Duration = Duration::from_secs(86_400);

/// A host that keeps one snapshot, under a root with floors of days: retention and delay.
async fn vault(floors: [&str; 2]) -> RootedVault {
    let vault = RootedVault::new().await;
    let [retention, delay] = floors;
    vault.set_up("db1", &["shop"], &["--least-retention", retention, "--least-delay", delay]).await;
    vault.reconfigure("db1", "[limits]\n", "[limits]\nrun = \"1m\"\nclock_skew = \"1s\"\n");
    let retention = "home_region = \"home\"\nretention = { keep_last = 1, grace = \"1m\" }\n";
    vault.reconfigure("db1", "home_region = \"home\"\n", retention);
    vault
}

async fn backup(vault: &RootedVault, content: &str) {
    std::fs::write(vault.path("db1/shop"), content).unwrap();
    let once = vault.once("db1").await;
    assert!(once.stdout.contains("snapshot"), "{once}");
}

/// The ids of the snapshots in a replica.
fn ids(vault: &RootedVault, replica: &str) -> Vec<String> {
    let files = files(&vault.path(replica).join("datasets/shop/snapshots"));
    files.into_keys().filter_map(|file| file.strip_suffix(".json.zst.age").map(str::to_owned)).collect()
}

/// What a prune says of a snapshot.
async fn verdict(vault: &RootedVault, snapshot: &str) -> Value {
    let plan = report(vault, &["prune", "--dry-run"]).await[0]["plan"].clone();
    let verdicts = plan["verdicts"].as_array().unwrap_or_else(|| panic!("{plan}"));
    verdicts.iter().find(|verdict| verdict["snapshot"] == snapshot).unwrap_or(&Value::Null).clone()
}

/// Days pass for the programs. After a pause that is longer than any before, a second backup
/// confirms the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_keeps_marks_and_deletes_as_the_root_says_whatever_it_is_configured() {
    let mut vault = vault(["3", "2"]).await;
    backup(&vault, "the first").await;
    backup(&vault, "the second").await;
    let first = ids(&vault, "r1")[0].clone();
    let young = verdict(&vault, &first).await;
    assert!(young["keep_because"].to_string().contains("the root keeps it until"), "{young}");
    let checked = report(&vault, &["check"]).await;
    assert_eq!(checked["root"]["least_retention_seconds"], 3 * 86_400);
    assert_eq!(checked["root"]["least_delay_seconds"], 2 * 86_400);
    assert!(!checked["weak"].to_string().contains("least retention"), "{checked}");

    let marks = |vault: &RootedVault| files(&vault.path("r1").join("datasets/shop/marks")).len();
    vault.clock = Some("+62h".to_owned());
    for content in ["the third", "the fourth"] {
        backup(&vault, content).await;
    }
    assert_eq!(marks(&vault), 0, "they are 62 hours old");
    vault.clock = Some("+82h".to_owned());
    backup(&vault, "the fifth").await;
    assert!(marks(&vault) > 0, "they are 82 hours old");
    let old = verdict(&vault, &first).await;
    assert_eq!(old["keep_because"], json!([]), "{old}");
    // Its configuration would wait for 62 seconds.
    for later in ["+102h", "+122h"] {
        vault.clock = Some(later.to_owned());
        backup(&vault, later).await;
        assert!(ids(&vault, "r1").contains(&first), "{later}");
    }
    vault.clock = Some("+132h".to_owned());
    backup(&vault, "the last").await;
    assert!(!ids(&vault, "r1").contains(&first) && !ids(&vault, "r2").contains(&first));
    let weak = report(&vault, &["root", "show"]).await;
    assert!(weak["says"].to_string().contains("every snapshot is kept for 3 days"), "{weak}");
}

/// The thief of a backup host signs that all was removed, in one bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_prune_record_removes_nothing_that_the_root_keeps() {
    let mut vault = vault(["30", "1"]).await;
    for content in ["the first", "the second"] {
        backup(&vault, content).await;
    }
    let before = ids(&vault, "r1");
    let config = Config::load(&vault.config("db1"), &Surroundings::default()).unwrap();
    let hand = Hand::of(&config, vault.identity("ann").as_ref());
    let removed: Vec<Value> = before.iter().map(|id| json!({ "snapshot": id, "blake3": null })).collect();
    let id = SnapshotId::new(Utc::now(), 7);
    let body = json!({ "removed": removed, "passed": [[1, 2]] });
    let record = hand.record(RecordType::Prune, &hand.host, &id, &body).to_string().into_bytes();
    let key = layout::prune(&hand.dataset, &id);
    let signature = hand.keys.signer.sign(&record, &layout::trusted_comment(&hand.keys.vault, &key)).unwrap();
    let place = vault.path("r1").join(&key);
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(&place, &record).unwrap();
    std::fs::write(vault.path("r1").join(layout::signature(&key)), signature).unwrap();

    for snapshot in &before {
        let verdict = verdict(&vault, snapshot).await;
        assert!(verdict["keep_because"].to_string().contains("the root keeps it until"), "{verdict}");
    }
    for later in [None, Some("+10h"), Some("+20h"), Some("+30h"), Some("+40h")] {
        vault.clock = later.map(str::to_owned);
        std::fs::write(vault.path("db1/shop"), format!("{later:?}")).unwrap();
        let once = vault.once("db1").await;
        assert!(once.status.success() && once.stderr.contains("that the root still keeps"), "{once}");
    }
    for replica in ["r1", "r2"] {
        let there = ids(&vault, replica);
        assert!(before.iter().all(|id| there.contains(id)), "{replica}: {there:?}");
        for (id, content) in before.iter().zip(["the first", "the second"]) {
            assert_eq!(vault.restored("shop", replica, &["--snapshot", id]).await.unwrap(), content);
        }
    }
    // It is the floor that keeps them.
    vault.change("db1", &["set", "--least-retention", "0"]).await;
    for later in ["+50h", "+60h", "+80h", "+100h"] {
        vault.clock = Some(later.to_owned());
        std::fs::write(vault.path("db1/shop"), later).unwrap();
        assert!(vault.once("db1").await.status.success());
    }
    assert!(!ids(&vault, "r2").contains(&before[0]), "{:?}", ids(&vault, "r2"));
}

/// The thief of a backup host writes what time he likes into his mark. The store knows better.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_claims_to_be_old_waits_from_when_the_store_took_it() {
    let mut vault = TestVault::new(1, 1).await;
    vault.config.datasets[0].retention = Retention { keep_last: 1, grace: Duration::ZERO, ..Retention::default() };
    let right = vault.clock.now();
    let long_ago = right - TimeDelta::days(20);
    let store_clock = ManualClock::at(long_ago);
    let replica = MemoryReplica::new(name("r1"), "east", store_clock.clone());
    replica.set_clock_offset(Some(TimeDelta::zero()));
    for object in vault.replicas[0].list("").await.unwrap() {
        let body: Bytes = vault.replicas[0].get(&object.key, 1 << 20).await.unwrap();
        replica.put_new(&object.key, body).await.unwrap();
    }
    let replica: SharedReplica = Arc::new(replica);
    vault.replicas = vec![replica.clone()];
    vault.clock.set(long_ago);
    for seed in 1..=3 {
        vault.backup(&MemorySource::of(noise(50_000, seed))).await.unwrap();
    }
    let (marked, _) = prune(&vault, None).await;
    assert_eq!(marked.mark_snapshots.len(), 2, "{marked:?}");
    // It says that it is 20 days old, and the store takes it now.
    store_clock.set(right);
    let folder = layout::marks(&name(DATASET));
    for object in replica.list(&folder).await.unwrap() {
        let body = replica.get(&object.key, 1 << 20).await.unwrap();
        replica.put_replace(&object.key, body).await.unwrap();
    }
    for (days, delay, goes) in [(0, Some(2 * DAY), 0), (1, Some(2 * DAY), 0), (2, Some(2 * DAY), 2)] {
        let now = right + TimeDelta::days(days);
        vault.clock.set(now);
        store_clock.set(now);
        let (plan, outcome) = prune(&vault, delay).await;
        assert_eq!((plan.removed().count(), outcome.snapshots), (goes, goes as u64), "{days}: {plan:?}");
    }
}

/// A prune under a root with this delay.
async fn prune(vault: &TestVault, delay: Option<Duration>) -> (PrunePlan, PruneOutcome) {
    let (mut keys, now) = (vault.keys().unwrap(), vault.clock.now());
    let owner = OwnerLine {
        name: name("ann"),
        recipient: "age1ann".to_owned(),
        signer: Signer::generate().unwrap().public().to_string(),
    };
    let host = GrantedMachine {
        name: vault.config.host.clone(),
        signer: keys.signer.public().to_string(),
        operations: "age1db1".to_owned(),
        datasets: vec![Pattern::of(&name(DATASET))],
    };
    let floors = Floors { retention: None, delay: delay.map(|delay| delay.as_secs()) };
    let from: DateTime<Utc> = now - TimeDelta::days(400);
    let root = first_root(&keys.vault, (&[owner], 1), Vec::new(), (vec![host], Vec::new()), floors, (from, now));
    keys.trust = Trust::of_root(Arc::new(root.unwrap()), Vec::new(), now).unwrap();
    let state = StateDirectory::open(&vault.config.state_directory).unwrap();
    let prune = Prune {
        config: &vault.config,
        dataset: &vault.config.datasets[0],
        keys: &keys,
        replicas: &vault.replicas,
        records: &[],
        state: &state,
        clock: vault.clock.clone(),
        cancel: CancellationToken::new(),
    };
    let plan = prune.plan().await.unwrap();
    let outcome = prune.execute(&plan).await.unwrap();
    (plan, outcome)
}
