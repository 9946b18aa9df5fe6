//! What replicas do to the logs of witnesses, so that nobody learns what these saw.

use std::path::PathBuf;

use lifeboat_engine::format::layout;
use lifeboat_engine::format::log::{LogKind, LogName};
use lifeboat_tests::rooted::RootedVault;
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
    let looked = |output: &lifeboat_tests::programs::Output| -> Value {
        output.json().unwrap()["root"]["witnesses"]["drill"].clone()
    };
    let before = checked(&vault).await;
    assert!(looked(&before).is_string(), "{before}");
    for number in 1_000..32_000 {
        std::fs::write(record(&vault, "r1", number), "rubbish").unwrap();
    }
    let after = checked(&vault).await;
    assert_eq!(looked(&after), looked(&before), "{after}");
    let told = "replica r1 shows a name in a log that is no record of it";
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
