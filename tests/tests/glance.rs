//! What an operator sees at a glance, on a backup host and on a drill host, before and after things
//! go wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_tests::operator::{Operator, directory_replica, file_dataset};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Its name needs quotes in a shell.
const FILE: &str = "shop's.txt";

/// A host with two regions, which backs up a file; and its signer.
async fn host(place: &TempDir, more: &str) -> (Operator, String) {
    let mut host = Operator::at(place.path(), "db1");
    let file = place.path().join(FILE);
    std::fs::write(&file, "one\n").unwrap();
    host.masters = vec![host.make_identity("master.txt").await];
    host.replicas = ["frankfurt", "ireland"].map(|name| directory_replica(place.path(), name)).to_vec();
    host.datasets = vec![file_dataset("shop", &file, more)];
    let signer = host.init("").await;
    (host, signer)
}

/// The page, and the exit code.
async fn page(host: &Operator) -> (Value, Option<i32>) {
    let shown = host.shell("lifeboat --json status").await;
    (shown.json().unwrap_or_else(|error| panic!("{error}: {shown}")), shown.code())
}

async fn good_newest(host: &Operator) -> Value {
    page(host).await.0["datasets"][0]["newest"].clone()
}

/// The id of a snapshot that would be the newest.
fn forged_now() -> String {
    format!("{}-00000001", chrono::Utc::now().format("%Y%m%dT%H%M%S999Z"))
}

fn told(page: &Value) -> Vec<&str> {
    page["attention"].as_array().unwrap().iter().map(|of| of["what"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_is_protected_and_proved_and_what_needs_attention() {
    let place = tempfile::tempdir().unwrap();
    let (mut db1, signer) = host(&place, "schedule = \"@daily\"\nobjectives = { rpo = \"1d\" }").await;
    let file = place.path().join(FILE);

    let (before, code) = page(&db1).await;
    assert_eq!((code, &before["datasets"][0]["standing"]), (Some(8), &json!("unprotected")), "{before:#}");
    assert!(told(&before).iter().any(|told| told.starts_with("no backup runs by schedule")), "{before:#}");
    assert!(told(&before).iter().any(|told| told.contains("never backed up")), "{before:#}");

    db1.start().await;
    db1.must("lifeboat trigger shop").await;
    let (unproved, code) = page(&db1).await;
    assert_eq!((code, &unproved["datasets"][0]["standing"]), (Some(8), &json!("unproved")), "{unproved:#}");
    assert_eq!(told(&unproved), ["no drill has ever restored it, so nobody knows that it can be"]);
    assert_eq!(unproved["daemon"], "answers");

    let mut drill = Operator::at(place.path(), "drill");
    (drill.replicas, drill.datasets) = (db1.replicas.clone(), db1.datasets.clone());
    (drill.masters, drill.trusted_signers) = (db1.masters.clone(), vec![signer]);
    drill.must("cp -r ../db1/keys/drill-host keys").await;
    drill.must("lifeboat drill shop").await;

    let (good, code) = page(&db1).await;
    assert_eq!((code, &good["datasets"][0]["standing"]), (Some(0), &json!("proved")), "{good:#}");
    assert!(good["datasets"][0]["next"].is_string(), "{good:#}");
    let text = db1.must("lifeboat status").await.stdout;
    assert!(text.starts_with("Any one region alone can restore everything. Oldest recovery point: "), "{text}");
    // Nothing proves a file: a drill only fetches it.
    assert!(text.contains("protected, fetched") && text.contains("2 of 2"), "{text}");
    let drills = db1.must("lifeboat --json drills shop").await.json().unwrap();
    assert_eq!(drills["drills"][0]["host"], "drill", "{drills:#}");
    assert_eq!(drills["drills"][0]["snapshot"], good["datasets"][0]["newest"], "{drills:#}");
    let text = db1.must("lifeboat drills").await.stdout;
    assert!(text.contains(good["datasets"][0]["newest"].as_str().unwrap()), "{text}");

    let runs = db1.must("lifeboat --json runs").await.json().unwrap();
    let run = &runs["runs"][0];
    assert!(run["start"] == "operator" && run["snapshot"] == good["datasets"][0]["newest"], "{runs:#}");
    std::fs::rename(&file, place.path().join("moved")).unwrap();
    assert_eq!(db1.shell("lifeboat trigger shop").await.code(), Some(4));
    std::fs::rename(place.path().join("moved"), &file).unwrap();
    let text = db1.must("lifeboat runs shop --last 1").await.stdout;
    assert!(text.contains("FAILED: ") && text.lines().count() == 2, "{text}");
    db1.must("lifeboat trigger shop").await;

    // A drill host has no daemon. It trusts no drill signer yet, and says so.
    let (blind, code) = page(&drill).await;
    assert_eq!((code, &blind["daemon"]), (Some(8), &json!("not on this host")), "{blind:#}");
    assert!(told(&blind)[0].contains("no drill signer is trusted"), "{blind:#}");

    // Names that nobody signed are no recovery point.
    let newest = good_newest(&db1).await;
    let snapshots = place.path().join("ireland/vault/datasets/shop/snapshots");
    for ending in ["json.zst.age", "json.zst.age.minisig"] {
        let forged = snapshots.join(format!("{}.{ending}", forged_now()));
        std::fs::write(forged, "forged").unwrap();
    }
    let (forged, _) = page(&db1).await;
    assert_eq!(forged["datasets"][0]["newest"], newest, "{forged:#}");
    assert!(told(&forged).iter().any(|told| told.contains("does not count")), "{forged:#}");

    // A forged report proves nothing; a region that is gone is a risk, and what is left is told.
    let drills = place.path().join("ireland/vault/datasets/shop/drills");
    for entry in std::fs::read_dir(&drills).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "{}").unwrap();
        }
    }
    std::fs::rename(place.path().join("frankfurt"), place.path().join("burnt")).unwrap();
    let (burnt, code) = page(&db1).await;
    assert_eq!((code, &burnt["datasets"][0]["standing"]), (Some(8), &json!("at_risk")), "{burnt:#}");
    assert!(told(&burnt)[0].starts_with("replica frankfurt does not answer"), "{burnt:#}");
    assert!(told(&burnt).iter().any(|told| told.contains("cannot be read")), "{burnt:#}");
    assert_eq!(burnt["datasets"][0]["proof"], Value::Null);
    let text = db1.shell("lifeboat status").await.stdout;
    assert!(text.starts_with("NOT SAFE: shop is at risk."), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_one_replica_needs_no_configuration() {
    let place = tempfile::tempdir().unwrap();
    let (db1, signer) = host(&place, "").await;
    db1.backup().await;
    let flags = format!("--directory ../ireland --vault-prefix vault --trusted-signer {signer}");
    let shown = db1.shell(&format!("lifeboat --json {flags} status")).await;
    let page = shown.json().unwrap();
    assert_eq!(page["datasets"][0]["region_age_seconds"].as_object().unwrap().len(), 1, "{page:#}");
    assert!(page["sentence"].as_str().unwrap().starts_with("This region alone can restore everything."), "{page:#}");
    let missing = db1.shell(&format!("lifeboat {flags} status wiki")).await;
    assert_eq!(missing.code(), Some(2), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_printed_kit_and_the_identity_restores() {
    let place = tempfile::tempdir().unwrap();
    let (db1, _) = host(&place, "").await;
    db1.backup().await;
    let kit = db1.must("lifeboat kit").await.stdout;
    let secret = std::fs::read_to_string(db1.file("master.txt")).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    assert!(!kit.contains(secret), "{kit}");

    // Another machine, with the sheet and the identity, and one region.
    std::fs::rename(place.path().join("frankfurt"), place.path().join("burnt")).unwrap();
    let owner = Operator::at(place.path(), "owner");
    owner.must("cp ../db1/master.txt .").await;
    let line = |starts: &str, has: &str| {
        let found = kit.lines().map(str::trim).find(|line| line.starts_with(starts) && line.contains(has));
        found.unwrap_or_else(|| panic!("{starts} {has}: {kit}")).to_owned()
    };
    let flags = line("FLAGS=(", "ireland");
    let list = line("lifeboat", "list");
    let listed = owner.must(&format!("{flags}; {list}")).await.stdout;
    assert!(listed.contains("shop"), "{listed}");
    let restore = line("lifeboat", "restore shop");
    owner.must(&format!("{flags}; {restore}")).await;
    let restored = lifeboat_tests::operator::only_file(&owner.file("restored-shop"));
    assert_eq!(restored, "one\n");

    let (_, script) = kit.split_once("--- recover.sh ---\n").unwrap();
    let (script, _) = script.split_once("--- end of recover.sh ---").unwrap();
    std::fs::write(owner.file("recover.sh"), script).unwrap();
    owner.must(&format!("{}\n{}", line("cp -r ", "ireland"), line("bash recover.sh", "shop"))).await;
    assert_eq!(lifeboat_tests::operator::only_file(&owner.file("recovered-shop")), "one\n");
}
