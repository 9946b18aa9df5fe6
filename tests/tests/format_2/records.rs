//! Records of prunes and drills: what they say, that they form chains, and what happens if one
//! cannot be believed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::clock::Clock;
use lifeboat_engine::config::ProofLevel;
use lifeboat_engine::drill::{DrillReport, publish};
use lifeboat_engine::format::id::{Digest, Name, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_tests::by_hand::{Hand, changed, drill_signer};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use serde_json::{Value, json};

use crate::{assert_found, drilled, findings};

/// A record as it lies in every replica of a vault.
struct Stored {
    id: SnapshotId,
    key: String,
    object: Vec<u8>,
    json: Value,
}

/// The records in a folder of the dataset, oldest first. All replicas have the same.
fn stored(hand: &Hand, folder: &str) -> Vec<Stored> {
    let files = files_below(&hand.replicas[0].join(folder)).into_iter();
    let records = files.filter(|file| file.extension().is_some_and(|end| end == "json"));
    let read = |file: PathBuf| {
        let id: SnapshotId = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let key = format!("{folder}{id}.json");
        let object = hand.read(&key);
        for replica in &hand.replicas {
            assert!(std::fs::read(replica.join(&key)).unwrap() == object, "{key} differs between replicas");
        }
        let json = serde_json::from_slice(&object).unwrap();
        Stored { id, key, object, json }
    };
    records.map(read).collect()
}

fn prunes(hand: &Hand) -> Vec<Stored> {
    stored(hand, &layout::prunes(&name(DATASET)))
}

/// What stock minisign says that a signature is for; it must be good.
fn minisign(signer: &str, file: &Path) -> String {
    let mut command = Command::new(tools::find("minisign"));
    let output = command.args(["-V", "-Q", "-P", signer, "-m"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The envelope is that of record number `sequence` of `principal`, and `signer` has signed it.
fn assert_record(hand: &Hand, record: &Stored, of: &str, principal: &str, sequence: u64, signer: &str) {
    let told = &record.json;
    for (field, expected) in [
        ("type", json!(of)),
        ("requires", json!([])),
        ("vault", json!(hand.keys.vault)),
        ("dataset", json!(DATASET)),
        ("principal", json!(principal)),
        ("sequence", json!(sequence)),
    ] {
        assert_eq!(told[field], expected, "{field} of {told}");
    }
    let time = told["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.parse::<DateTime<Utc>>().is_ok(), "{time}");
    assert!(told["body"].is_object(), "{told}");
    for replica in &hand.replicas {
        let comment = minisign(signer, &replica.join(&record.key));
        assert_eq!(comment, format!("lifeboat {} {}", hand.keys.vault, record.key));
    }
}

/// `previous` names this record.
fn assert_follows(record: &Stored, previous: Option<&Stored>) {
    let expected = previous
        .map(|previous| json!({ "record": previous.id, "blake3": blake3::hash(&previous.object).to_hex().as_str() }));
    assert_eq!(record.json["previous"], expected.unwrap_or(Value::Null), "{}", record.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_records_say_what_went_by_its_hash_and_follow_each_other() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let hand = Hand::of(&vault.config, &vault.master);
    let mut removed: Vec<(SnapshotId, Digest)> = Vec::new();
    let mut previous: Option<Stored> = None;
    vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap();
    for round in 1..=3 {
        let newest =
            vault.open(vault.owner()).await.unwrap().snapshots(&name(DATASET)).await.unwrap().remove(0).snapshot;
        removed.push((newest.clone(), hand.hash(&newest)));
        vault.backup(&MemorySource::of(noise(200_000, round))).await.unwrap();
        let (_, outcome) = vault.prune().await.unwrap();
        assert_eq!((outcome.marked_snapshots, outcome.failures.len()), (1, 0), "{outcome:?}");
        let of = |(snapshot, hash): &(SnapshotId, Digest)| json!({ "snapshot": snapshot, "blake3": hash });
        let marks = stored(&hand, &layout::marks(&name(DATASET)));
        assert_eq!(marks.len(), 1, "a mark is removed when it is carried out");
        assert_record(&hand, &marks[0], "mark", "db1", 1, &vault.init.signer);
        assert_follows(&marks[0], None);
        let packs = hand.manifest(&newest).packs.into_iter().map(|pack| json!(pack.id));
        let marked = json!({ "snapshots": [of(removed.last().unwrap())], "packs": packs.collect::<Vec<_>>() });
        assert_eq!(marks[0].json["body"], marked);

        let (_, outcome) = vault.sweep().await.unwrap();
        assert_eq!((outcome.snapshots, outcome.failures.len()), (1, 0), "{outcome:?}");
        assert!(stored(&hand, &layout::marks(&name(DATASET))).is_empty());
        let mut records = prunes(&hand);
        assert_eq!(records.len(), 1, "the newer record replaces the older one");
        let record = records.remove(0);
        assert_record(&hand, &record, "prune", "db1", round, &vault.init.signer);
        assert_follows(&record, previous.as_ref());
        let told = record.json["body"]["removed"].as_array().unwrap();
        assert!(told.contains(&of(removed.last().unwrap())), "{told:?}");
        // It may repeat what older ones said, and nothing else.
        let known: Vec<Value> = removed.iter().map(of).collect();
        assert!(told.iter().all(|entry| known.contains(entry)), "{told:?}");
        assert!(told.is_sorted_by_key(|entry| entry["snapshot"].as_str().unwrap().to_owned()), "{told:?}");
        previous = Some(record);
    }
    assert!(findings(&vault).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_principal_has_a_chain_of_prune_records_of_its_own() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap();
    vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap();
    vault.sweep().await.unwrap();
    let hand = Hand::of(&vault.config, &vault.master);
    let own = prunes(&hand).remove(0);
    // A standby host with a trusted signer has pruned, too, and as often as it liked.
    let id = SnapshotId::new(vault.clock.now() + Duration::from_secs(1), 7);
    let mut record = hand.record(RecordType::Prune, &name("db2"), &id, &own.json["body"]);
    record["sequence"] = json!(41);
    record["previous"] = json!({ "record": own.id, "blake3": Digest::of(b"another one") });
    let key = layout::prune(&name(DATASET), &id);
    hand.put_signed(&hand.keys.signer, &key, record.to_string().as_bytes());

    vault.clock.advance(Duration::from_secs(2));
    vault.backup(&MemorySource::of(noise(200_000, 2))).await.unwrap();
    vault.sweep().await.unwrap();
    let newest = prunes(&hand).pop().unwrap();
    assert_record(&hand, &newest, "prune", "db1", 2, &vault.init.signer);
    assert_follows(&newest, Some(&own));
}

async fn published(vault: &TestVault, report: &DrillReport, principal: &Name, signer: &Signer) {
    let reader = vault.open(vault.owner()).await.unwrap();
    let published = publish(&reader, report, principal, signer).await.unwrap();
    assert!(published.refused.is_empty(), "{published:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn drill_records_hold_the_report_and_follow_each_other() {
    let vault = TestVault::new(2, 2).await;
    vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap();
    let hand = Hand::of(&vault.config, &vault.master);
    let signer = drill_signer(&vault.config);
    let mut reports = Vec::new();
    for _ in 0..3 {
        let report = drilled(&vault).await;
        published(&vault, &report, &name("drill1"), &signer).await;
        reports.push(report);
    }
    let records = stored(&hand, &layout::drills(&name(DATASET)));
    assert_eq!(records.len(), 3);
    let mut previous = None;
    for ((record, report), sequence) in records.iter().zip(&reports).zip(1..) {
        assert_eq!(record.id, report.drill);
        assert_record(&hand, record, "drill", "drill1", sequence, signer.public().as_str());
        assert_follows(record, previous);
        assert_eq!(record.json["body"], serde_json::to_value(report).unwrap());
        previous = Some(record);
    }
    // Another drill host begins anew.
    let (other, report) = (Signer::generate().unwrap(), drilled(&vault).await);
    published(&vault, &report, &name("drill2"), &other).await;
    let record = stored(&hand, &layout::drills(&name(DATASET))).pop().unwrap();
    assert_record(&hand, &record, "drill", "drill2", 1, other.public().as_str());
    assert_follows(&record, None);
}

/// Ways in which the record of a prune cannot be believed.
const FORGERIES: [&str; 3] = ["signed by nobody", "signed by a stranger", "signed by the host, but no record"];

/// Puts such a record, which says that `snapshot` was removed.
fn forge(hand: &Hand, forgery: &str, id: &SnapshotId, snapshot: &SnapshotId) -> String {
    let key = layout::prune(&hand.dataset, id);
    let body = json!({ "removed": [{ "snapshot": snapshot, "blake3": hand.hash(snapshot) }] });
    let record = hand.record(RecordType::Prune, &hand.host, id, &body).to_string();
    match forgery {
        "signed by nobody" => {
            hand.put(&key, record.as_bytes());
            hand.put(&layout::signature(&key), b"signed by nobody");
        }
        "signed by a stranger" => hand.put_signed(&Signer::generate().unwrap(), &key, record.as_bytes()),
        _ => hand.put_signed(&hand.keys.signer, &key, &record.as_bytes()[..record.len() / 2]),
    }
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_record_that_cannot_be_believed_is_found_and_stops_prune_unless_a_stranger_signed_it() {
    for forgery in FORGERIES {
        let mut vault = TestVault::new(2, 2).await;
        vault.config.datasets[0].retention.keep_last = 1;
        let oldest = vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap().snapshot;
        let newest = vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().snapshot;
        let hand = Hand::of(&vault.config, &vault.master);
        let key = forge(&hand, forgery, &SnapshotId::new(vault.clock.now(), 7), &newest);

        let before = hand.contents();
        let pruned = vault.sweep().await;
        let changed = changed(&before, &hand.contents());
        if forgery == "signed by a stranger" {
            // It decides nothing: prune goes on as if it were not there.
            let (plan, outcome) = pruned.unwrap_or_else(|error| panic!("{forgery}: {error:?}"));
            assert!(plan.removed().eq([&oldest]), "{forgery}: {plan:?}");
            assert!(outcome.failures.is_empty(), "{forgery}: {outcome:?}");
            assert!(!changed.iter().any(|path| path.ends_with(&key)), "{forgery}: {changed:?}");
        } else {
            let error = pruned.expect_err(forgery);
            assert!(error.chain().contains(&key), "{forgery}: {error:?}");
            assert!(changed.is_empty(), "{forgery}: {changed:?}");
        }
        assert_found(&findings(&vault).await, &["r1", "r2"], &key, "");
        // It does not even hide the snapshot that it names.
        assert!(vault.restore(&newest).await.unwrap()["data"] == noise(200_000, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_another_replica_has_the_good_record_prune_goes_on() {
    for forgery in FORGERIES {
        let mut vault = TestVault::new(2, 2).await;
        vault.config.datasets[0].retention.keep_last = 1;
        vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap();
        let second = vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().snapshot;
        vault.sweep().await.unwrap();
        let third = vault.backup(&MemorySource::of(noise(200_000, 2))).await.unwrap().snapshot;
        let mut hand = Hand::of(&vault.config, &vault.master);
        let good = prunes(&hand).remove(0);
        let both = hand.replicas.clone();
        hand.replicas.truncate(1);
        let key = forge(&hand, forgery, &good.id, &third);
        assert_found(&findings(&vault).await, &["r1"], &key, "");

        let (plan, outcome) = vault.sweep().await.unwrap_or_else(|error| panic!("{forgery}: {error:?}"));
        assert!(plan.removed().eq([&second]), "{forgery}: {plan:?}");
        assert!(outcome.failures.is_empty(), "{forgery}: {outcome:?}");
        hand.replicas = both;
        let next = prunes(&hand);
        assert_eq!(next.len(), 1, "{forgery}");
        assert_follows(&next[0], Some(&good));
        let found = findings(&vault).await;
        assert!(found.is_empty(), "{forgery}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_record_that_may_hide_the_newest_proof_stops_prune_and_a_strangers_does_not() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let hand = Hand::of(&vault.config, &vault.master);
    let signer = drill_signer(&vault.config);
    let early = SnapshotId::new(vault.clock.now(), 7);
    vault.clock.advance(Duration::from_secs(1));
    vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap();
    let proved = vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().snapshot;
    let proof = DrillReport { reached: Some(ProofLevel::Proved), ..drilled(&vault).await };
    published(&vault, &proof, &name("drill1"), &signer).await;
    vault.backup(&MemorySource::of(noise(200_000, 2))).await.unwrap();
    vault.clock.advance(Duration::from_secs(1));
    let put = |signer: &Signer, id: &SnapshotId| {
        let key = layout::drill(&name(DATASET), id);
        hand.put_signed(signer, &key, b"{ \"type\": \"drill\", \"requires\": [");
        key
    };

    let key = put(&signer, &SnapshotId::new(vault.clock.now(), 7));
    let before = hand.contents();
    let error = vault.prune().await.expect_err("prune went on");
    assert!(error.chain().contains(&key) && error.chain().contains("drill"), "{error:?}");
    assert!(error.hint_text().is_some(), "{error:?}");
    let changed = changed(&before, &hand.contents());
    assert!(changed.is_empty(), "{changed:?}");
    assert_found(&findings(&vault).await, &["r1", "r2"], &key, "");
    [1, 2].iter().for_each(|replica| hand.remove(*replica, &key));

    // Neither one of a stranger, nor one that is older than what was proved, says what was proved.
    put(&Signer::generate().unwrap(), &SnapshotId::new(vault.clock.now(), 8));
    put(&signer, &early);
    let (plan, outcome) = vault.sweep().await.unwrap();
    assert_eq!((outcome.snapshots, outcome.failures.len()), (1, 0), "{plan:?}");
    assert!(plan.removed().all(|removed| *removed < proved), "{plan:?}");
}
