//! Fields that today's program does not know are ignored, at any depth: everything works as without
//! them.

use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::drill::publish;
use lifeboat_engine::format::id::{Digest, SnapshotId};
use lifeboat_engine::format::layout;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_tests::by_hand::{Hand, changed, contents, drill_signer, with_json};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use serde_json::{Value, json};

use crate::{TWO_DAYS, caught_up, drilled, findings};

/// An object in a drill's report whose fields are names of replicas.
const BY_REPLICA: &str = "replicas_unreachable";

/// Adds fields to every object in this JSON.
fn enrich(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            fields.iter_mut().filter(|(field, _)| *field != BY_REPLICA).for_each(|(_, value)| enrich(value));
            fields.insert("colour".to_owned(), json!("green"));
            fields.insert("x-scenes".to_owned(), json!({ "many": [1, { "more": null }] }));
        }
        Value::Array(items) => items.iter_mut().for_each(enrich),
        _ => {}
    }
}

/// Adds fields to a stored record, and signs it again.
fn enrich_record(hand: &Hand, signer: &Signer, key: &str) -> Vec<u8> {
    let mut record: Value = serde_json::from_slice(&hand.read(key)).unwrap();
    enrich(&mut record);
    let object = record.to_string().into_bytes();
    hand.put_signed(signer, key, &object);
    object
}

/// The only record in a folder of the dataset.
fn only_record(hand: &Hand, folder: &str) -> (SnapshotId, String) {
    let files = files_below(&hand.replicas[0].join(folder)).into_iter();
    let records: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "json")).collect();
    assert_eq!(records.len(), 1, "{records:?}");
    let id: SnapshotId = records[0].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    (id.clone(), format!("{folder}{id}.json"))
}

async fn assert_clean(vault: &TestVault) {
    let found = findings(vault).await;
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_manifest_they_are_ignored_by_every_verb() {
    let mut vault = TestVault::new(2, 2).await;
    let data = noise(300_000, 1);
    let first = vault.backup(&MemorySource::of(data.clone())).await.unwrap().snapshot;
    let hand = Hand::of(&vault.config, &vault.master);
    let newer = hand.successor(&first, 7);
    let plaintext = with_json(&newer.to_plaintext().unwrap(), enrich);
    let hash = hand.put_plaintext(&newer.snapshot, &plaintext);

    assert_eq!(hand.manifest(&newer.snapshot), newer, "what is known is read as before");
    assert!(vault.restore(&newer.snapshot).await.unwrap()["data"] == data);
    assert_clean(&vault).await;
    hand.remove(2, &layout::manifest(&name(DATASET), &newer.snapshot));
    let states = caught_up(&vault).await;
    assert_eq!((states[1].copied_objects, states[1].behind), (2, 0), "{states:?}");

    let report = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert_eq!(report.stored_bytes, 0, "what the newer program knew is not deduplicated");
    let manifest = hand.manifest(&report.snapshot);
    assert_eq!((manifest.sequence, manifest.predecessor()), (3, Some(&newer.snapshot)));
    assert_eq!(manifest.previous.and_then(|previous| previous.blake3), Some(hash));
    assert_clean(&vault).await;

    vault.config.datasets[0].retention.keep_last = 1;
    vault.clock.advance(TWO_DAYS);
    let (plan, outcome) = vault.sweep().await.unwrap();
    assert!(plan.removed().eq([&first, &newer.snapshot]), "{plan:?}");
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert_clean(&vault).await;
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_records_they_are_ignored_and_stay_part_of_the_chain() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    for seed in 0..2 {
        vault.backup(&MemorySource::of(noise(300_000, seed))).await.unwrap();
    }
    vault.sweep().await.unwrap();
    let signer = drill_signer(&vault.config);
    let reader = vault.open(vault.owner()).await.unwrap();
    publish(&reader, &drilled(&vault).await, &name("drill1"), &signer).await.unwrap();

    let hand = Hand::of(&vault.config, &vault.master);
    let (drills, prunes) = (layout::drills(&name(DATASET)), layout::prunes(&name(DATASET)));
    let (prune, prune_key) = only_record(&hand, &prunes);
    let (drill, drill_key) = only_record(&hand, &drills);
    let of_prune = enrich_record(&hand, &hand.keys.signer, &prune_key);
    let of_drill = enrich_record(&hand, &signer, &drill_key);
    assert_clean(&vault).await;
    hand.remove(2, &prune_key);
    hand.remove(2, &drill_key);
    let states = caught_up(&vault).await;
    assert_eq!(states[1].copied_objects, 4, "{states:?}");

    vault.backup(&MemorySource::of(noise(300_000, 2))).await.unwrap();
    assert_clean(&vault).await;
    let (_, outcome) = vault.sweep().await.unwrap();
    assert_eq!(outcome.snapshots, 1);
    let (_, key) = only_record(&hand, &prunes);
    let next: Value = serde_json::from_slice(&hand.read(&key)).unwrap();
    assert_eq!(next["sequence"], 2);
    assert_eq!(next["previous"], json!({ "record": prune, "blake3": Digest::of(&of_prune) }));

    let report = drilled(&vault).await;
    publish(&reader, &report, &name("drill1"), &signer).await.unwrap();
    let next: Value = serde_json::from_slice(&hand.read(&layout::drill(&name(DATASET), &report.drill))).unwrap();
    assert_eq!(next["sequence"], 2);
    assert_eq!(next["previous"], json!({ "record": drill, "blake3": Digest::of(&of_drill) }));
    assert_clean(&vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_vault_json_they_are_ignored_and_kept() {
    let mut vault = TestVault::new(2, 2).await;
    let hand = Hand::of(&vault.config, &vault.master);
    let mut told: Value = serde_json::from_slice(&hand.read(layout::VAULT)).unwrap();
    enrich(&mut told);
    hand.put(layout::VAULT, told.to_string().as_bytes());

    let data = noise(300_000, 1);
    let mut snapshots = Vec::new();
    for _ in 0..2 {
        let report = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
        assert!(report.replicas.iter().all(|replica| replica.complete), "{report:?}");
        snapshots.push(report.snapshot);
    }
    assert!(vault.restore(&snapshots[0]).await.unwrap()["data"] == data);
    let reader = vault.open(vault.owner()).await.unwrap();
    let published = publish(&reader, &drilled(&vault).await, &name("drill1"), &drill_signer(&vault.config)).await;
    assert_eq!(published.unwrap().replicas, [name("r1"), name("r2")]);
    caught_up(&vault).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let (_, outcome) = vault.sweep().await.unwrap();
    assert_eq!((outcome.snapshots, outcome.failures.len()), (1, 0));
    assert_clean(&vault).await;

    let before = contents(&hand.replicas);
    let clock: SharedClock = vault.clock.clone();
    init(&vault.config, &vault.replicas, &InitOptions::default(), &clock).await.unwrap();
    let changed = changed(&before, &contents(&hand.replicas));
    assert!(changed.is_empty(), "{changed:?}");
}
