//! Whatever cannot be read is counted: verify names it by its key and ends with exit code 6.

use std::path::PathBuf;

use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::format::layout;
use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_tests::by_hand::{Hand, drill_signer};
use lifeboat_tests::host::BackupHost;
use lifeboat_tests::vault::{files_below, noise};
use serde_json::Value;
use tempfile::TempDir;

use crate::{directory, script};

/// A backup host that also drills. Its only replica has an index segment, a prune record and a
/// drill record, and is all right.
async fn host(place: &TempDir) -> (BackupHost, Hand, Signer) {
    let data = place.path().join("data");
    let replicas = [directory("near", &place.path().join("near"))];
    let source = format!("{}[dataset.retention]\nkeep_last = 1\n", script(&format!("cat {}", data.display())));
    let host = BackupHost::set_up(&replicas, &source).await;
    let config = Config::load(&host.config(), &Surroundings::default()).unwrap();
    let signer = drill_signer(&config);
    for file in ["drill-identity", "drill-signer"] {
        let keys = &config.keys.directory;
        std::fs::rename(keys.join(DRILL_HOST_FOLDER).join(file), keys.join(file)).unwrap();
    }
    for seed in 0..2 {
        std::fs::write(&data, noise(300_000, seed)).unwrap();
        let (output, report) = host.once().await;
        assert!(output.status.success(), "{output}");
        assert_eq!(report["pruned"]["marked_snapshots"], seed, "{report}");
    }
    let outcome = host.swept().await;
    assert_eq!((outcome.snapshots, outcome.failures.len()), (1, 0), "{outcome:?}");
    let drill = host.lifeboat(&["--json", "drill", "data", "--level", "fetched"]).await;
    assert!(drill.status.success(), "{drill}");
    assert_eq!(drill.json().unwrap()["published"]["replicas"], serde_json::json!(["near"]), "{drill}");
    let hand = Hand::of(&config, &host.master());
    (host, hand, signer)
}

/// The newest object of a folder, without its signature.
fn newest(hand: &Hand, folder: &str) -> String {
    let replica = &hand.replicas[0];
    let is_object = |file: &PathBuf| file.extension().is_none_or(|end| end != "minisig");
    let file = files_below(&replica.join(folder)).into_iter().rfind(is_object);
    let file = file.unwrap_or_else(|| panic!("{folder} is empty"));
    file.strip_prefix(replica).unwrap().to_str().unwrap().to_owned()
}

/// The findings as JSON, and whether the program says so at its end.
async fn verified(host: &BackupHost) -> (Option<i32>, Vec<Value>) {
    let master = host.master().display().to_string();
    let output = host.lifeboat(&["--json", "--identity", &master, "verify", "data"]).await;
    let report = output.json().unwrap();
    let findings = report["datasets"]["data"]["findings"].as_array().unwrap().clone();
    if output.code() != Some(0) {
        let last: Value = serde_json::from_str(output.stderr.lines().last().unwrap()).unwrap();
        assert_eq!(last["error"]["class"], "integrity", "{output}");
        assert_eq!(last["error"]["exit_code"], 6, "{output}");
    }
    (output.code(), findings)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_segment_or_record_is_a_finding_with_exit_code_6() {
    let place = TempDir::new().unwrap();
    let (host, hand, drill_signer) = host(&place).await;
    assert_eq!(verified(&host).await, (Some(0), Vec::new()));
    let dataset = &hand.dataset;
    let kinds = [
        (layout::indexes(dataset), &hand.keys.signer, hand.seal(b"no segment")),
        (layout::prunes(dataset), &hand.keys.signer, b"{ \"no\": \"record\" }".to_vec()),
        (layout::drills(dataset), &drill_signer, b"no record".to_vec()),
    ];
    let stranger = Signer::generate().unwrap();
    for (folder, signer, nonsense) in &kinds {
        let key = newest(&hand, folder);
        let signature_key = layout::signature(&key);
        let (object, signature) = (hand.read(&key), hand.read(&signature_key));
        for harm in ["flipped", "empty", "without a good signature", "of a stranger", "signed nonsense"] {
            match harm {
                "flipped" => {
                    let mut flipped = object.clone();
                    flipped[object.len() / 2] ^= 1;
                    hand.put(&key, &flipped);
                }
                "empty" => hand.put(&key, b""),
                "without a good signature" => hand.put(&signature_key, b"signed by nobody"),
                "of a stranger" => hand.put_signed(&stranger, &key, &object),
                _ => hand.put_signed(signer, &key, nonsense),
            }
            let (code, found) = verified(&host).await;
            assert_eq!(code, Some(6), "{key}, {harm}");
            let (of_key, others): (Vec<_>, Vec<_>) =
                found.iter().partition(|finding| finding["object"] == key.as_str());
            assert_eq!(of_key.len(), 1, "{key}, {harm}: {found:?}");
            assert_eq!(of_key[0]["replica"], "near", "{harm}");
            assert!(of_key[0]["problem"].as_str().is_some_and(|problem| !problem.is_empty()), "{harm}: {found:?}");
            // Without the record, nothing tells that what it names was removed on purpose.
            assert!(others.is_empty() || *folder == layout::prunes(dataset), "{key}, {harm}: {found:?}");
            hand.put(&key, &object);
            hand.put(&signature_key, &signature);
        }
    }
    assert_eq!(verified(&host).await, (Some(0), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_the_keys_of_all_that_is_unreadable() {
    let place = TempDir::new().unwrap();
    let (host, hand, _) = host(&place).await;
    let dataset = &hand.dataset;
    let folders =
        [layout::indexes(dataset), layout::prunes(dataset), layout::drills(dataset), layout::snapshots(dataset)];
    let keys = folders.map(|folder| newest(&hand, &folder));
    keys.iter().for_each(|key| hand.put(key, b"harmed"));
    let master = host.master().display().to_string();
    let output = host.lifeboat(&["--identity", &master, "verify", "data"]).await;
    assert_eq!(output.code(), Some(6), "{output}");
    for key in &keys {
        assert!(output.stdout.contains(&format!("PROBLEM in replica near: {key}\n")), "{key}: {output}");
    }
    // Without the prune record, two gaps have no reason.
    assert!(output.stderr.contains("6 problems found"), "{output}");
}
