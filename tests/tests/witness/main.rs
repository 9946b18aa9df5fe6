//! Witnesses: what a thief of a backup host claims of the time, and what others know better. On the
//! built programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hidden;
mod looks;

use std::time::Duration;

use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_tests::host::section;
use lifeboat_tests::programs::Output;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::s3::{Bucket, Region};
use serde_json::Value;

/// Clocks may differ by twice this.
const LIMITS: &str = "[limits]\nclock_skew = \"10s\"\n";

/// A vault with a backup, its backup host `db1`, and the drill host `drill1`, whose identity lies
/// elsewhere. `replicas` makes others of `r1` and `r2`.
async fn vault_with(replicas: impl FnOnce(&[String]) -> Vec<String>) -> RootedVault {
    let mut vault = RootedVault::new().await;
    vault.replicas = replicas(&vault.replicas);
    vault.set_up("db1", &["shop"], &[]).await;
    vault.reconfigure("db1", "[limits]\n", LIMITS);
    backup(&vault, "the first").await;
    vault.configure("drill1", &vault.owners(), &[]);
    vault.reconfigure("drill1", "[limits]\n", LIMITS);
    std::fs::rename(vault.path("db1/keys").join(DRILL_HOST_FOLDER), vault.path("drill1/keys")).unwrap();
    std::fs::rename(vault.path("drill1/keys/drill-identity"), vault.path("drill-identity")).unwrap();
    vault
}

async fn backup(vault: &RootedVault, content: &str) {
    std::fs::write(vault.path("db1/shop"), content).unwrap();
    let once = vault.once("db1").await;
    assert!(once.status.success(), "{once}");
}

/// One look of the witness.
async fn look(vault: &RootedVault) -> Value {
    let looked = vault.lifeboat("drill1", &["--json", "witness"]).await;
    assert!(looked.status.success(), "{looked}");
    looked.json().unwrap()
}

/// In directories, nothing tells when a file was written.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_witness_saw_before_a_signer_was_revoked_still_counts() {
    let mut vault = vault_with(<[String]>::to_vec).await;
    let before = rows(&vault).await[0]["snapshot"].as_str().unwrap().to_owned();
    look(&vault).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let theft = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let all = vault.replicas.clone();
    backdate(&mut vault, all).await;
    let forged = rows(&vault).await[1]["snapshot"].as_str().unwrap().to_owned();
    let revoke = ["remove-host", "db1", "--until", theft.as_str()];
    let restored = async |vault: &RootedVault, id: &str| vault.restored("shop", "r1", &["--snapshot", id]).await;
    vault.change("db1", &revoke).await;
    assert_eq!(restored(&vault, &before).await.unwrap(), "the first");
    let refused = restored(&vault, &forged).await.expect_err("the thief is believed");
    assert!(refused.stderr.contains("revoked"), "{refused}");
    look(&vault).await;
    let refused = restored(&vault, &forged).await.expect_err("the thief is believed");
    assert!(refused.stderr.contains("revoked"), "{refused}");
    // Without the witness, neither counts.
    vault.change("db1", &["set", "--remove-witness", "drill"]).await;
    let refused = restored(&vault, &before).await.expect_err("nobody tells when it was stored");
    assert!(refused.stderr.contains("cannot tell when it was stored"), "{refused}");
}

async fn rows(vault: &RootedVault) -> Vec<Value> {
    let listed = vault.lifeboat("db1", &["--json", "list", "shop"]).await;
    assert!(listed.status.success(), "{listed}");
    listed.json().unwrap()["snapshots"].as_array().unwrap().clone()
}

/// Whoever has the files of the backup host leaves the root out, and sets his clock back: his
/// snapshot claims to be 20 days old. He writes into these replicas.
async fn backdate(vault: &mut RootedVault, replicas: Vec<String>) {
    let init = vault.lifeboat("db1", &["--json", "init"]).await;
    let own = init.json().unwrap()["signer"].as_str().unwrap().to_owned();
    let all = std::mem::replace(&mut vault.replicas, replicas);
    vault.configure("thief", &format!("master_recipients = []\ntrusted_signers = [\"{own}\"]"), &["shop"]);
    vault.replicas = all;
    std::fs::create_dir_all(vault.path("thief/keys")).unwrap();
    for file in ["host.key", "host-keys"] {
        std::fs::copy(vault.path("db1/keys").join(file), vault.path("thief/keys").join(file)).unwrap();
    }
    std::fs::write(vault.path("thief/shop"), "the thief's").unwrap();
    vault.clock = Some("-20d".to_owned());
    let forged = vault.once("thief").await;
    vault.clock = None;
    assert!(forged.status.success(), "{forged}");
}

/// A restore of what there was at a time, by the owner.
async fn restored_at(vault: &RootedVault, replica: &str, days_ago: i64) -> Result<String, Output> {
    let time = (chrono::Utc::now() - chrono::TimeDelta::days(days_ago)).to_rfc3339();
    vault.restored("shop", replica, &["--at", &time]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thief_backdates_counts_from_when_a_witness_saw_it() {
    let mut vault = vault_with(<[String]>::to_vec).await;
    let first = look(&vault).await;
    assert_eq!((&first["looked"], first["snapshots"].as_array().unwrap().len()), (&serde_json::json!(["shop"]), 1));
    assert_eq!(first["replicas"], serde_json::json!(["r1", "r2"]));
    let all = vault.replicas.clone();
    backdate(&mut vault, all).await;
    // Nobody has looked, and directories tell nothing.
    let unseen = restored_at(&vault, "r1", 10).await;
    assert_eq!(unseen.unwrap(), "the thief's", "it is not the attack that it should be");

    let second = look(&vault).await;
    let forged = second["snapshots"][0]["snapshot"].as_str().unwrap().to_owned();
    for replica in ["r1", "r2"] {
        let refused = restored_at(&vault, replica, 10).await.expect_err("the thief's was restored");
        assert!(refused.stderr.contains("1 of them are backdated"), "{refused}");
        assert_eq!(restored_at(&vault, replica, 0).await.unwrap(), "the first");
    }
    let rows = rows(&vault).await;
    assert!(rows[0]["false_claim"].is_null() && rows[0]["problem"].is_null(), "{rows:?}");
    assert_eq!(rows[1]["false_claim"], "backdated", "{rows:?}");
    assert!(rows[1]["problem"].as_str().unwrap().contains("--at never takes it"), "{rows:?}");
    assert!(rows[1]["age_seconds"].as_f64().unwrap() < 600.0, "{rows:?}");
    let shown = vault.lifeboat("db1", &["show", "shop", &forged]).await;
    assert!(shown.stdout.contains("BACKDATED"), "{shown}");
    // By its id, whoever knows better restores it.
    assert_eq!(vault.restored("shop", "r1", &["--snapshot", &forged]).await.unwrap(), "the thief's");
    // So do the recovery point of a drill, and retention.
    std::fs::rename(vault.path("drill-identity"), vault.path("drill1/keys/drill-identity")).unwrap();
    let words = ["--json", "drill", "shop", "--level", "fetched", "--snapshot", &forged];
    let drilled = vault.lifeboat("drill1", &words).await;
    assert!(drilled.json().unwrap()["rpo_seconds"].as_f64().unwrap() < 600.0, "{drilled}");
    let plan = vault.lifeboat("db1", &["--json", "prune", "--dry-run"]).await.json().unwrap();
    let verdicts = plan[0]["plan"]["verdicts"].as_array().unwrap();
    let of_forged = verdicts.iter().find(|verdict| verdict["snapshot"] == *forged).unwrap();
    assert_eq!(of_forged["taken"], rows[1]["first_seen"], "{plan}");
    // The owner's own records are where the owner read.
    let checked = vault.lifeboat("db1", &["audit", "verify"]).await;
    assert!(!checked.stdout.contains("FOUND: log drill-hosts"), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn until_a_witness_has_looked_the_date_of_a_store_counts() {
    let region = Region::start_with("s3", Bucket::Plain).await;
    let mut vault = vault_with(|own| vec![own[0].clone(), section(&region.replica_config("s3"))]).await;
    // Whoever looked before knows what was not there yet.
    look(&vault).await;
    let directory = vault.replicas[0].clone();
    backdate(&mut vault, vec![directory]).await;
    backup(&vault, "the second").await;
    let found = rows(&vault).await;
    let told: Vec<&Value> = found.iter().map(|row| &row["false_claim"]).collect();
    assert_eq!(told, [&Value::Null, &"backdated".into(), &Value::Null], "{found:?}");
    let time = (chrono::Utc::now() - chrono::TimeDelta::days(10)).to_rfc3339();
    let (identity, out) = (vault.identity("ann"), vault.path("out").display().to_string());
    let words = ["--replica", "s3", "--identity", &identity, "restore", "shop", "--at", &time];
    let refused = vault.lifeboat("db1", &[&words[..], &["--to-directory", &out]].concat()).await;
    assert!(refused.stderr.contains("1 of them are backdated"), "{refused}");

    // The bucket is filled again, so all that it has is dated anew. A witness has seen it before.
    look(&vault).await;
    tokio::time::sleep(Duration::from_secs(21)).await;
    let client = region.client();
    let listed = client.list_objects_v2().bucket(region.bucket()).send().await.unwrap();
    for key in listed.contents().iter().filter_map(|object| object.key()).filter(|key| key.contains("/snapshots/")) {
        client.delete_object().bucket(region.bucket()).key(key).send().await.unwrap();
    }
    let refilled = vault.lifeboat("db1", &["repair", "shop", "--yes"]).await;
    assert!(refilled.status.success(), "{refilled}");
    let found = rows(&vault).await;
    let told: Vec<&Value> = found.iter().map(|row| &row["false_claim"]).collect();
    assert_eq!(told, [&Value::Null, &"backdated".into(), &Value::Null], "{found:?}");
    vault.change("db1", &["set", "--remove-witness", "drill"]).await;
    let found = rows(&vault).await;
    let told: Vec<&Value> = found.iter().map(|row| &row["false_claim"]).collect();
    assert_eq!(told, [&Value::from("backdated"); 3], "without the witness, nobody knows: {found:?}");
}
