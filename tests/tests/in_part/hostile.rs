//! Reports that nobody signed who is trusted: none of them spares a drill anything.

use lifeboat_engine::format::layout;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_tests::vault::name;
use serde_json::{Value, json};

use crate::{Hosts, sqlite};

/// Ways in which a report of the past cannot be believed.
const FORGERIES: [&str; 4] = ["gone", "signed by nobody", "signed by a stranger", "changed after it was signed"];

/// Puts an object into both replicas, over what is there; `None` removes it.
fn put(hosts: &Hosts, key: &str, object: Option<&[u8]>) {
    for replica in ["r1", "r2"] {
        let file = hosts.vault.path(replica).join(key);
        let _ = std::fs::remove_file(&file);
        if let Some(object) = object {
            std::fs::write(&file, object).unwrap();
        }
    }
}

fn put_signed(hosts: &Hosts, signer: &Signer, key: &str, record: &Value) {
    let (object, vault) = (record.to_string().into_bytes(), record["vault"].as_str().unwrap());
    let signature = signer.sign(&object, &layout::trusted_comment(vault, key)).unwrap();
    put(hosts, key, Some(&object));
    put(hosts, &layout::signature(key), Some(signature.as_bytes()));
}

fn key_of(drill: &str) -> String {
    layout::drill(&name("shop"), &drill.parse().unwrap())
}

#[tokio::test]
async fn a_base_that_no_trusted_drill_host_signed_is_none() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    hosts.backup().await;
    let key = key_of(base["drill"].as_str().unwrap());
    let signature_key = layout::signature(&key);
    let read = |key: &str| std::fs::read(hosts.vault.path("r1").join(key)).unwrap();
    let (record, signature) = (read(&key), read(&signature_key));
    let stranger = Signer::generate().unwrap();
    for forgery in FORGERIES {
        match forgery {
            "gone" => {
                put(&hosts, &key, None);
                put(&hosts, &signature_key, None);
            }
            "signed by nobody" => {
                put(&hosts, &key, Some(&record));
                put(&hosts, &signature_key, Some(b"signed by nobody"));
            }
            "signed by a stranger" => {
                put_signed(&hosts, &stranger, &key, &serde_json::from_slice(&record).unwrap());
            }
            _ => {
                let text = String::from_utf8(record.clone()).unwrap();
                let changed = text.replacen("\"restored_bytes\":", "\"restored_bytes\": ", 1);
                assert_ne!(changed, text);
                put(&hosts, &key, Some(changed.as_bytes()));
                put(&hosts, &signature_key, Some(&signature));
            }
        }
        // Its report stays on the drill host alone, and is no base either.
        hosts.whole(forgery, &["--no-publish"]).await;
    }
    put(&hosts, &key, Some(&record));
    put(&hosts, &signature_key, Some(&signature));
    hosts.untouched(&base, &[]).await;
}

#[tokio::test]
async fn a_drill_that_proved_less_becomes_no_base_by_a_change_of_its_report() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let fetched = hosts.drill(&["--level", "fetched"]).await.json().unwrap();
    assert_eq!((&fetched["reached"], &fetched["passed"]), (&json!("fetched"), &json!(true)), "{fetched:#}");
    let key = key_of(fetched["drill"].as_str().unwrap());
    let text = std::fs::read_to_string(hosts.vault.path("r1").join(&key)).unwrap();
    let claims = text.replace("\"fetched\"", "\"proved\"");
    assert_ne!(claims, text);
    put(&hosts, &key, Some(claims.as_bytes()));
    hosts.whole("nobody signed that it proved", &[]).await;
}

#[tokio::test]
async fn a_stranger_who_tells_of_a_failure_or_of_a_newer_proof_changes_nothing() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    let stranger = Signer::generate().unwrap();
    let (time, _) = base["drill"].as_str().unwrap().rsplit_once('-').unwrap();
    for (number, passed) in [("fffffffe", false), ("ffffffff", true)] {
        let later = format!("{time}-{number}");
        let mut record = hosts.published(&base);
        assert_eq!(record["body"]["passed"], true, "{record:#}");
        record["body"]["drill"] = json!(later);
        record["body"]["passed"] = json!(passed);
        put_signed(&hosts, &stranger, &key_of(&later), &record);
        hosts.untouched(&base, &[]).await;
    }
    // One that says so of a snapshot that nobody drilled spares nothing.
    hosts.sql("INSERT INTO items (name) VALUES ('never drilled')");
    let never = hosts.backup().await;
    let later = format!("{time}-ffffffff");
    let mut record = hosts.published(&base);
    record["body"]["drill"] = json!(later);
    record["body"]["snapshot"] = json!(never);
    put_signed(&hosts, &stranger, &key_of(&later), &record);
    let whole = hosts.whole("a stranger says that it is proved", &[]).await;
    assert_eq!((&whole["snapshot"], &whole["proof"]["rows"]), (&json!(never), &json!(2001)), "{whole:#}");
}
