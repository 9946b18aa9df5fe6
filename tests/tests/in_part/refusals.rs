//! What makes a drill whole although nothing changed.

use lifeboat_tests::vault::files_below;
use serde_json::{Value, json};

use crate::{Hosts, MONTHLY, sqlite};

#[tokio::test]
async fn a_drill_is_whole_if_a_person_a_plan_a_query_or_a_change_asks_for_it() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    hosts.backup().await;
    hosts.untouched(&base, &[]).await;
    // Of what was proved in part, the whole stays the base.
    hosts.untouched(&base, &[]).await;
    // What asks for less proves nothing in part, and is no base.
    let loaded = hosts.drill(&["--level", "loaded"]).await.json().unwrap();
    assert_eq!((&loaded["reached"], &loaded["in_part"]), (&json!("loaded"), &Value::Null), "{loaded:#}");
    hosts.untouched(&base, &[]).await;

    let base = hosts.whole("--whole", &["--whole"]).await;
    hosts.untouched(&base, &[]).await;
    hosts.plan(MONTHLY, "full_every = \"0s\"");
    let base = hosts.whole("the key of the dataset wins", &[]).await;
    hosts.plan("full_every = \"0s\"", MONTHLY);
    hosts.untouched(&base, &[]).await;
    hosts.plan("", "");
    let base = hosts.whole("without the key", &[]).await;
    hosts.plan("", MONTHLY);
    hosts.untouched(&base, &[]).await;
    hosts.plan(MONTHLY, "queries = [{ sql = \"SELECT count(*) FROM items\", expect = \"2000\" }]");
    let asked = hosts.whole("a query that names no database", &[]).await;
    let checks = asked["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["check"] == "SELECT count(*) FROM items"), "{asked:#}");
    hosts.plan(MONTHLY, "");
    hosts.untouched(&asked, &[]).await;

    hosts.sql("INSERT INTO items (name) VALUES ('a new one')");
    hosts.backup().await;
    let changed = hosts.whole("a row more", &[]).await;
    assert_eq!(changed["proof"]["rows"], 2001, "{changed:#}");
    hosts.untouched(&changed, &[]).await;
}

#[tokio::test]
async fn a_drill_is_whole_after_one_that_failed_until_one_proves_the_whole() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    hosts.plan(MONTHLY, "queries = [{ sql = \"SELECT count(*) FROM items\", expect = \"1\" }]");
    let failed = hosts.drill(&[]).await;
    assert_eq!(failed.code(), Some(6), "{failed}");
    let report = failed.json().unwrap();
    assert_eq!((&report["passed"], &report["in_part"]), (&json!(false), &Value::Null), "{report:#}");
    hosts.plan(MONTHLY, "");
    let healed = hosts.whole("one failed since", &[]).await;
    assert_ne!(healed["drill"], base["drill"]);
    hosts.untouched(&healed, &[]).await;
}

#[tokio::test]
async fn a_drill_is_whole_when_the_last_whole_one_is_too_long_ago_however_many_were_in_part_since() {
    let mut hosts = Hosts::at(Some("-240h"), sqlite).await;
    hosts.plan("full_every = \"12h\"", "");
    hosts.backup().await;
    hosts.set_clock("-230h");
    let base = hosts.whole("the first", &[]).await;
    for clock in ["-229h", "-224h", "-219h"] {
        hosts.set_clock(clock);
        hosts.backup().await;
        hosts.untouched(&base, &[]).await;
    }
    hosts.set_clock("-217h");
    let again = hosts.whole("the base is 13 hours old", &[]).await;
    hosts.set_clock("-206h");
    hosts.untouched(&again, &[]).await;
}

#[tokio::test]
async fn a_drill_is_whole_if_the_snapshot_of_the_base_is_gone_or_cannot_be_read() {
    let hosts = Hosts::of(sqlite).await;
    let (first, second, third) = (hosts.backup().await, hosts.backup().await, hosts.backup().await);
    let base = hosts.whole("the first", &["--snapshot", &first]).await;
    hosts.untouched(&base, &["--snapshot", &second]).await;
    let manifests = |snapshot: &str| {
        let folders = ["r1", "r2"].map(|replica| hosts.vault.path(replica).join("datasets/shop/snapshots"));
        let mut found = folders.map(|folder| files_below(&folder)).concat();
        found.retain(|file| file.display().to_string().contains(snapshot));
        assert_eq!(found.len(), 4, "{found:?}");
        found
    };
    for file in manifests(&first) {
        std::fs::remove_file(file).unwrap();
    }
    let whole = hosts.whole("the snapshot of the base is gone", &["--snapshot", &second]).await;
    let untouched = hosts.untouched(&whole, &[]).await;
    assert_eq!(untouched["snapshot"], third.as_str(), "{untouched:#}");

    for file in manifests(&second).into_iter().filter(|file| file.extension().is_some_and(|end| end == "age")) {
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "no manifest").unwrap();
    }
    hosts.whole("the manifest of the base is damaged", &[]).await;
}

#[tokio::test]
async fn a_rehearsal_of_the_loss_of_a_region_restores_the_whole() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    hosts.untouched(&base, &[]).await;
    let rehearsed = hosts.vault.lifeboat("drill1", &["--json", "drill", "--region-loss", "r1"]).await;
    assert!(rehearsed.status.success(), "{rehearsed}");
    let reports = files_below(&hosts.vault.path("r2/datasets/shop/drills"));
    let newest = reports.into_iter().rfind(|path| path.extension().is_some_and(|end| end == "json")).unwrap();
    let record: Value = serde_json::from_slice(&std::fs::read(newest).unwrap()).unwrap();
    let body = &record["body"];
    assert_ne!(body["drill"], base["drill"], "{record:#}");
    assert_eq!((&body["reached"], &body["in_part"]), (&json!("proved"), &Value::Null), "{record:#}");
}
