//! What a look records, and when it records nothing, or not all.

use lifeboat_tests::host::section;
use lifeboat_tests::s3::{Bucket, Region};
use serde_json::{Value, json};

use crate::{backup, look, vault_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_look_names_what_is_new_by_its_hash_and_all_heads() {
    let vault = vault_with(<[String]>::to_vec).await;
    let check = async || vault.lifeboat("db1", &["--json", "check"]).await.json().unwrap();
    assert!(check().await["weak"].to_string().contains("witness drill has never looked"));
    let first = look(&vault).await;
    let checked = check().await;
    assert!(checked["root"]["witnesses"]["drill"].is_string(), "{checked}");
    assert!(!checked["weak"].to_string().contains("witness"), "{checked}");
    assert_eq!((first["snapshots"].as_array().unwrap().len(), &first["record"]["number"]), (1, &json!(1)));
    let nothing = look(&vault).await;
    assert_eq!((&nothing["snapshots"], &nothing["looked"]), (&json!([]), &json!(["shop"])));
    backup(&vault, "the second").await;
    // If it is lost what was recorded, all is recorded once more.
    std::fs::remove_file(vault.path("drill1/state/witnessed.json")).unwrap();
    let again = look(&vault).await;
    assert_eq!(again["snapshots"].as_array().unwrap().len(), 2, "{again}");
    let folder = vault.path("r1").display().to_string();
    let shown = vault.plain(&["--json", "audit", "show", "--directory", &folder, "--owner", &vault.owner]).await;
    let records = shown.json().unwrap()["records"].as_array().unwrap().clone();
    let of_witness: Vec<&Value> = records.iter().filter(|row| row["event"]["what"] == "witness").collect();
    assert_eq!(of_witness.len(), 3, "{shown}");
    for seen in of_witness[2]["event"]["snapshots"].as_array().unwrap() {
        let manifest = format!("r1/datasets/shop/snapshots/{}.json.zst.age", seen["snapshot"].as_str().unwrap());
        let hash = lifeboat_engine::format::id::Digest::of(&std::fs::read(vault.path(&manifest)).unwrap());
        assert_eq!(seen["blake3"], hash.to_string());
    }
    let record = std::fs::read_to_string(vault.path("r1/log/drill-hosts/drill/3.record")).unwrap();
    let record: Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&record["heads"][0]["name"], &record["heads"][0]["kind"]),
        (&json!("db1"), &json!("hosts")),
        "{record}"
    );
    assert_eq!((&record["acts"][0]["dataset"], &record["acts"][0]["number"]), (&json!("shop"), &json!(2)), "{record}");
}

/// A dataset counts as looked at only where nothing can have been overlooked.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_seen_whole_is_not_said_to_be_empty() {
    let vault = vault_with(<[String]>::to_vec).await;
    std::fs::rename(vault.path("r2"), vault.path("away")).unwrap();
    let half = vault.lifeboat("drill1", &["--json", "witness"]).await;
    assert_eq!(half.json().unwrap()["looked"], json!([]), "{half}");
    assert_eq!(half.json().unwrap()["snapshots"].as_array().unwrap().len(), 1, "{half}");
    std::fs::rename(vault.path("away"), vault.path("r2")).unwrap();
    // What nobody signed stops nothing.
    let junk = vault.path("r2/datasets/shop/snapshots/20260101T000000000Z-00000001.json.zst.age");
    std::fs::write(junk, "junk").unwrap();
    assert_eq!(look(&vault).await["looked"], json!(["shop"]));

    // A log is shorter than it was: what is there is recorded, and it is told.
    look(&vault).await;
    for replica in ["r1", "r2"] {
        std::fs::remove_file(vault.path(replica).join("log/hosts/db1/1.record")).unwrap();
    }
    let cut = vault.lifeboat("drill1", &["--json", "witness"]).await;
    assert_eq!((cut.code(), cut.json().unwrap()["looked"].clone()), (Some(6), json!(["shop"])), "{cut}");
    assert!(cut.stderr.contains("log hosts/db1 is shorter than it was"), "{cut}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_witness_or_has_a_wrong_clock_records_nothing() {
    let region = Region::start_with("s3", Bucket::Plain).await;
    let mut vault = vault_with(|_| vec![section(&region.replica_config("s3"))]).await;
    look(&vault).await;
    vault.clock = Some("+5m".to_owned());
    let wrong = vault.lifeboat("drill1", &["witness"]).await;
    assert!(!wrong.status.success() && wrong.stderr.contains("a wrong clock witnesses nothing"), "{wrong}");
    vault.clock = None;
    vault.change("db1", &["set", "--remove-witness", "drill"]).await;
    let refused = vault.lifeboat("drill1", &["witness"]).await;
    assert!(refused.stderr.contains("does not name drill host drill as a witness"), "{refused}");
    assert!(refused.stderr.contains("--add-witness drill"), "{refused}");
    vault.change("db1", &["set", "--add-witness", "drill"]).await;
    assert_eq!(look(&vault).await["record"]["number"], 2);
    // A backup host has no drill signer.
    let host = vault.lifeboat("db1", &["witness"]).await;
    assert!(host.stderr.contains("there is no drill signer"), "{host}");
}
