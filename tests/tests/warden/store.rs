//! The warden and a host whose credentials delete nothing, against a real store that keeps versions
//! and locks objects. Its clock is real, so this test waits.

use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use lifeboat_tests::host::section;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::s3::{Bucket, Region};
use serde_json::Value;

use super::{HOST_KEEPS, WARDEN_KEEPS, backup, counts, install_warden, look};

/// No run takes longer, and no grace period is shorter.
const LIMITS: &str = "[limits]\nrun = \"8s\"\nclock_skew = \"2s\"\n";
/// Grace periods there, and what a mark needs to be due.
const GRACE: Duration = Duration::from_secs(13);

/// The same rules, with the shortest grace period.
fn soon(rules: &str) -> String {
    rules.replace("grace = \"1m\"", "grace = \"12s\"")
}

async fn keys(region: &Region, part: &str) -> Vec<String> {
    let listed = region.client().list_objects_v2().bucket(region.bucket()).send().await.unwrap();
    let keys = listed.contents().iter().filter_map(|object| object.key().map(str::to_owned));
    keys.filter(|key| key.contains(part)).collect()
}

fn manifests(keys: &[String]) -> usize {
    manifests_of(keys).len()
}

/// The manifests among these keys, the oldest first.
fn manifests_of(keys: &[String]) -> Vec<String> {
    let mut manifests: Vec<String> = keys.iter().filter(|key| key.ends_with(".json.zst.age")).cloned().collect();
    manifests.sort();
    manifests
}

/// Until when the store locks an object, in seconds.
async fn locked_until(region: &Region, key: &str) -> i64 {
    let asked = region.client().get_object_retention().bucket(region.bucket()).key(key).send().await.unwrap();
    asked.retention().unwrap().retain_until_date().unwrap().secs()
}

/// What `check` says of the only replica, and all that it prints.
async fn checked(vault: &RootedVault, host: &str) -> (Value, String) {
    let output = vault.lifeboat(host, &["--json", "check"]).await;
    let report = output.json().unwrap();
    (report, output.to_string())
}

/// The newest look in the warden's log.
async fn last_look(vault: &RootedVault) -> Value {
    let shown = vault.lifeboat("db1", &["--json", "audit", "show", "--log", "wardens/warden1"]).await;
    let shown = shown.json().unwrap();
    let looks = shown["records"].as_array().unwrap().iter().filter(|record| record["event"]["what"] == "warden");
    looks.max_by_key(|record| record["number"].as_u64()).unwrap()["event"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_may_delete_nothing_backs_up_and_marks_and_the_warden_frees_the_space() {
    let region = Region::start_with("far", Bucket::Locked).await;
    let mut vault = RootedVault::new().await;
    let all = section(&region.replica_config("far"));
    let replica = format!("{all}lock = \"1d\"\n");
    vault.replicas = vec![replica.clone()];
    vault.set_up("db1", &["shop"], &[]).await;
    vault.reconfigure("db1", "[limits]\n", LIMITS);
    vault.reconfigure("db1", "home_region = \"home\"\n", &soon(HOST_KEEPS));
    install_warden(&vault).await;
    vault.reconfigure("warden1", "[limits]\n", LIMITS);
    vault.reconfigure("warden1", WARDEN_KEEPS, &soon(HOST_KEEPS));
    // From now on the host may write, and delete nothing.
    let own = region.writer_credential_file().display().to_string();
    vault.reconfigure("db1", &region.credential_file().display().to_string(), &own);

    backup(&vault, "the first").await;
    let (report, told) = checked(&vault, "db1").await;
    assert_eq!(report["replicas"][0]["level"], "warden", "{told}");
    assert!(report["replicas"][0]["thief"].as_str().unwrap().contains("he deletes nothing himself"), "{told}");
    assert!(told.contains("warden warden1 has never looked"), "{told}");
    backup(&vault, "the second").await;
    let snapshots = manifests_of(&keys(&region, "/snapshots/").await);
    let before = locked_until(&region, &snapshots[0]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let first = look(&vault).await;
    assert_eq!(counts(&first), [0, 0, 1], "{first}");
    // What is marked is needed while it waits: somebody may veto that.
    assert!(locked_until(&region, &snapshots[0]).await > before, "{first}");
    assert!(!checked(&vault, "db1").await.1.contains("warden warden1 has"));
    // The warden has extended the locks of what is needed.
    let looked = super::warden(&vault, &["--json"]).await.json().unwrap();
    assert!(looked["locks"][0][1]["far"]["extended"].as_u64().unwrap() > 5, "{looked}");
    // The host, which extends none, knows how they stand from the warden's log.
    let told = last_look(&vault).await;
    let lock = &told["locks"][0];
    assert_eq!((&lock["dataset"], &lock["replica"], &lock["period"]), (&"shop".into(), &"far".into(), &86_400.into()));
    assert!(lock["since"].is_string(), "{told}");
    // Whatever stops the look, locks are extended before, and how they stand is told.
    let memory = vault.path("warden1/state/datasets/shop/first-sights");
    let known = std::fs::read(&memory).unwrap();
    std::fs::write(&memory, "rubbish").unwrap();
    let stopped = super::warden(&vault, &["--json"]).await;
    assert!(!stopped.status.success(), "{stopped}");
    let told = stopped.json().unwrap();
    assert!(told["locks"][0][1]["far"]["extended"].as_u64().unwrap() > 5, "{stopped}");
    let told = last_look(&vault).await;
    assert!(told["looked"].as_array().unwrap().is_empty() && told["locks"][0]["since"].is_string(), "{told}");
    assert!(told["failed"].to_string().contains("--begin-anew shop"), "{told}");
    std::fs::write(&memory, known).unwrap();

    tokio::time::sleep(GRACE).await;
    // What is locked goes when its lock has ended, and not before.
    let locked = look(&vault).await;
    assert_eq!(manifests(&keys(&region, "/snapshots/").await), 2, "{locked}");
    // With the host's credentials, no version goes.
    let versions = region.client().list_object_versions().bucket(region.bucket()).send().await.unwrap();
    let packs = versions.versions().iter().filter(|version| version.key().unwrap().contains("/packs/"));
    for version in packs {
        let delete = region.writer_client().delete_object().bucket(region.bucket()).key(version.key().unwrap());
        let refused = delete.version_id(version.version_id().unwrap()).send().await;
        assert_eq!(refused.unwrap_err().code(), Some("AccessDenied"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_bucket_that_keeps_versions_the_warden_deletes_what_the_host_marked() {
    let region = Region::start_with("far", Bucket::Versioned).await;
    let mut vault = RootedVault::new().await;
    vault.replicas = vec![section(&region.replica_config("far"))];
    vault.set_up("db1", &["shop"], &[]).await;
    vault.reconfigure("db1", "[limits]\n", LIMITS);
    vault.reconfigure("db1", "home_region = \"home\"\n", &soon(HOST_KEEPS));
    install_warden(&vault).await;
    vault.reconfigure("warden1", "[limits]\n", LIMITS);
    vault.reconfigure("warden1", WARDEN_KEEPS, &soon(HOST_KEEPS));
    let own = region.writer_credential_file().display().to_string();
    vault.reconfigure("db1", &region.credential_file().display().to_string(), &own);
    for content in ["the first", "the second"] {
        backup(&vault, content).await;
        look(&vault).await;
    }
    let packs = keys(&region, "/packs/").await.len();
    tokio::time::sleep(GRACE).await;
    let swept = look(&vault).await;
    assert_eq!(counts(&swept)[0], 1, "{swept}");
    assert_eq!(swept["outcome"]["snapshots"], 1, "{swept}");
    assert_eq!(manifests(&keys(&region, "/snapshots/").await), 1);
    assert_eq!(keys(&region, "/needs/").await.len(), 1);
    assert!(keys(&region, "/packs/").await.len() < packs, "{swept}");
    // The host goes on, and so does the order.
    backup(&vault, "the third").await;
    let identity = vault.identity("ann");
    let verify = vault.lifeboat("db1", &["--identity", &identity, "verify", "--read-data"]).await;
    assert!(verify.status.success(), "{verify}");
}

/// A host whose rules keep less says nothing in it.
#[tokio::test(flavor = "multi_thread")]
async fn the_warden_locks_for_as_long_as_its_own_rules_keep() {
    let region = Region::start_with("far", Bucket::Locked).await;
    let mut vault = RootedVault::new().await;
    let all = section(&region.replica_config("far"));
    vault.replicas = vec![format!("{all}lock = \"1d\"\nlock_at_most = \"30d\"\n")];
    vault.set_up("db1", &["shop"], &[]).await;
    vault.reconfigure("db1", "[limits]\n", LIMITS);
    vault.reconfigure("db1", "home_region = \"home\"\n", &soon(HOST_KEEPS));
    install_warden(&vault).await;
    vault.reconfigure("warden1", "[limits]\n", LIMITS);
    vault.reconfigure("warden1", WARDEN_KEEPS, &soon(WARDEN_KEEPS).replace("keep_last = 2", "within = \"20d\""));
    backup(&vault, "the first").await;
    let now = chrono::Utc::now().timestamp();
    look(&vault).await;
    let told = last_look(&vault).await;
    assert_eq!(told["locks"][0]["at_most"], 30 * 86_400, "{told}");
    vault.reconfigure("db1", "\"30d\"", "\"31d\"");
    let shorter = format!("the warden locks for {} s, and `lock_at_most` here says {} s", 30 * 86_400, 31 * 86_400);
    assert!(checked(&vault, "db1").await.1.contains(&shorter));
    for (part, days) in [("/snapshots/", 20), ("/packs/", 20), ("/needs/", 20), ("keyring/", 20), ("/order/", 1)] {
        let found = keys(&region, part).await;
        assert!(!found.is_empty(), "{part}");
        for key in found {
            assert_eq!((locked_until(&region, &key).await - now + 300) / 86_400, days, "{key}");
        }
    }
}
