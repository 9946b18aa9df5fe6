//! What replicas do to the logs of witnesses, so that nobody learns what these saw.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_engine::config::ReplicaKind;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::log::{LogKind, LogName};
use lifeboat_engine::keys::sign::Signer;
use lifeboat_tests::crash_proxy::{CrashProxy, Watch};
use lifeboat_tests::host::section;
use lifeboat_tests::programs::Output;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::s3::{Bucket, Region};
use lifeboat_tests::vault::name;
use serde_json::Value;

use super::{backdate, backup, look, restored_at, rows, vault_with};

/// The file of a record of the witness.
fn record(vault: &RootedVault, replica: &str, number: u64) -> PathBuf {
    let log = LogName { kind: LogKind::DrillHosts, name: name("drill") };
    vault.path(replica).join(layout::log_record(&log, number))
}

/// A vault of which a witness has seen that a thief backdated a snapshot, and then another one.
async fn seen_through() -> RootedVault {
    let mut vault = vault_with(<[String]>::to_vec).await;
    look(&vault).await;
    let all = vault.replicas.clone();
    backdate(&mut vault, all).await;
    look(&vault).await;
    backup(&vault, "the second").await;
    look(&vault).await;
    vault
}

/// One bucket's owner writes many names into the log. Where all do, the witness is hidden, and that
/// is told.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_records_in_one_replica_hide_nothing() {
    let vault = seen_through().await;
    let checked = async |vault: &RootedVault| vault.lifeboat("db1", &["--json", "check"]).await;
    let looked = |output: &Output| -> Value { output.json().unwrap()["root"]["witnesses"]["drill"].clone() };
    let before = checked(&vault).await;
    assert!(looked(&before).is_string(), "{before}");
    for number in 1_000..32_000 {
        std::fs::write(record(&vault, "r1", number), "rubbish").unwrap();
    }
    let after = checked(&vault).await;
    assert_eq!(looked(&after), looked(&before), "{after}");
    let told = "replica r1 shows a name in a log for which it returns no record";
    assert!(after.stderr.contains(told) && !after.stderr.contains("replica r2 shows"), "{after}");
    let listed = vault.lifeboat("db1", &["--json", "list", "shop"]).await;
    assert!(listed.stderr.contains(told), "{listed}");
    assert_eq!(rows(&vault).await[1]["false_claim"], "backdated", "{listed}");
}

/// It reads where only the flooded replica is.
#[tokio::test(flavor = "multi_thread")]
async fn fewer_names_than_the_bound_hide_nothing_from_whoever_reads_one_replica() {
    let vault = seen_through().await;
    for number in 1_000..1_500 {
        std::fs::write(record(&vault, "r1", number), "rubbish").unwrap();
    }
    let refused = restored_at(&vault, "r1", 10).await.expect_err("the thief's was restored");
    assert!(refused.stderr.contains("1 of them are backdated"), "{refused}");
}

/// What prune says, and whether it would go on.
async fn pruned(vault: &RootedVault) -> Output {
    vault.lifeboat("db1", &["prune", "--dry-run"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_missing_in_the_middle_stops_deletion_and_is_named() {
    let vault = seen_through().await;
    // The host remembers a later one, which is still there.
    backup(&vault, "the third").await;
    std::fs::remove_file(record(&vault, "r1", 2)).unwrap();
    // The other replica has it.
    assert_eq!(rows(&vault).await[1]["false_claim"], "backdated");
    let goes = pruned(&vault).await;
    assert!(goes.status.success(), "{goes}");
    std::fs::rename(record(&vault, "r2", 2), vault.path("taken")).unwrap();
    let told = "records 2 to 2 of log drill-hosts/drill are missing";
    let refused = pruned(&vault).await;
    assert!(!refused.status.success() && refused.stderr.contains(told), "{refused}");
    let listed = vault.lifeboat("db1", &["list", "shop"]).await;
    assert!(listed.status.success() && listed.stderr.contains(told), "{listed}");
    // A restore goes on: it may be all that there is.
    let time = (chrono::Utc::now() - chrono::TimeDelta::days(10)).to_rfc3339();
    let (identity, owner, out) = (vault.identity("ann"), vault.path("ann"), vault.path("out"));
    let words = ["--identity", &identity, "restore", "shop", "--at", &time, "--owner-directory"];
    let more = [&owner.display().to_string(), "--to-directory", &out.display().to_string()];
    let restored = vault.lifeboat("db1", &[&words[..], &more].concat()).await;
    assert!(restored.status.success() && restored.stderr.contains(told), "{restored}");
    std::fs::rename(vault.path("taken"), record(&vault, "r2", 2)).unwrap();
    let again = pruned(&vault).await;
    assert!(again.status.success(), "{again}");
    assert_eq!(rows(&vault).await[1]["false_claim"], "backdated");
}

/// The newest records are gone everywhere. Another drill host, which does not see the dataset, has
/// seen that they were there.
#[tokio::test(flavor = "multi_thread")]
async fn a_newest_record_that_only_another_witness_has_seen_is_missed() {
    let mut vault = vault_with(<[String]>::to_vec).await;
    look(&vault).await;
    let other = Signer::generate().unwrap();
    vault.configure("drill2", &vault.owners(), &[]);
    std::fs::create_dir_all(vault.path("drill2/keys")).unwrap();
    let signer = vault.path("drill2/keys/drill-signer");
    std::fs::write(&signer, other.to_text().unwrap().as_bytes()).unwrap();
    std::fs::set_permissions(&signer, std::fs::Permissions::from_mode(0o600)).unwrap();
    vault.new_owner("eve").await;
    let add = ["add-drill-host", "drill2", "--recipient", &vault.master("eve"), "--signer"];
    vault.change("db1", &[&add[..], &[other.public().as_str(), "--dataset", "wiki"]].concat()).await;
    let all = vault.replicas.clone();
    backdate(&mut vault, all).await;
    // The backup host has seen no later record than the first.
    backup(&vault, "the second").await;
    backup(&vault, "the third").await;
    look(&vault).await;
    let seen = vault.lifeboat("drill2", &["witness"]).await;
    assert!(seen.status.success(), "{seen}");
    let goes = pruned(&vault).await;
    assert!(goes.status.success(), "{goes}");
    for replica in ["r1", "r2"] {
        std::fs::remove_file(record(&vault, replica, 2)).unwrap();
    }
    let told = "record 2 of log drill-hosts/drill is missing: drill2 has seen it";
    let refused = pruned(&vault).await;
    assert!(!refused.status.success() && refused.stderr.contains(told), "{refused}");
    let listed = vault.lifeboat("db1", &["list", "shop"]).await;
    assert!(listed.status.success() && listed.stderr.contains(told), "{listed}");
}

/// Of each snapshot that a thief backdated, `--at` asks anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_witness_is_read_once_however_many_snapshots_are_backdated() {
    const LOOKS: usize = 12;
    const CANDIDATES: usize = 5;
    let region = Region::start_with("s3", Bucket::Plain).await;
    let watch = Arc::new(Watch::default());
    let proxy = CrashProxy::start(region.plain_address(), watch.clone()).await;
    let mut replica = region.replica_config("s3");
    let ReplicaKind::S3(s3) = &mut replica.kind else { panic!("it is S3") };
    s3.endpoint = Some(format!("http://{}", proxy.address()).parse().unwrap());
    let mut vault = vault_with(|own| vec![own[0].clone(), section(&replica)]).await;
    for _ in 0..LOOKS {
        look(&vault).await;
    }
    let time = (chrono::Utc::now() - chrono::TimeDelta::days(10)).to_rfc3339();
    let (identity, out) = (vault.identity("ann"), vault.path("out").display().to_string());
    let words = ["--replica", "s3", "--identity", &identity, "restore", "shop", "--at", &time];
    let words = [&words[..], &["--to-directory", &out]].concat();
    let (mut requests, mut forged) = (Vec::new(), 0);
    for candidates in [1, CANDIDATES] {
        while forged < candidates {
            // A store would contradict his clock. The next backup of the host copies what he wrote.
            let directory = vault.replicas[0].clone();
            backdate(&mut vault, vec![directory]).await;
            forged += 1;
        }
        backup(&vault, "the second").await;
        look(&vault).await;
        watch.disarm();
        let refused = vault.lifeboat("db1", &words).await;
        assert!(refused.stderr.contains(&format!("{candidates} of them are backdated")), "{refused}");
        requests.push(watch.requests());
    }
    let more = requests[1] - requests[0];
    // Each candidate costs its manifest, its signature and what opens them, and not the log.
    let told = format!("{requests:?} requests with 1 and {CANDIDATES} candidates, where there are {LOOKS} looks");
    assert!(more < ((CANDIDATES - 1) * LOOKS) as u64, "{told}");
}
