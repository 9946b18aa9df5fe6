//! Which replica a drill reads, and what is missing there.

use serde_json::{Value, json};

use crate::{Hosts, MONTHLY, sqlite};

#[tokio::test]
async fn of_each_replica_that_is_read_alone_the_first_drill_is_whole() {
    let hosts = Hosts::of(sqlite).await;
    hosts.plan(&format!("{MONTHLY}\nreplica = \"rotate\""), "");
    hosts.backup().await;
    let first = hosts.whole("the first", &[]).await;
    let second = hosts.whole("the first of the other replica", &[]).await;
    assert_eq!([&first["chosen"]["only"], &second["chosen"]["only"]], [&json!("r1"), &json!("r2")], "{second:#}");
    hosts.backup().await;
    let third = hosts.untouched(&first, &[]).await;
    assert_eq!(third["chosen"]["only"], "r1", "{third:#}");
    let fourth = hosts.untouched(&second, &[]).await;
    assert_eq!(fourth["chosen"]["only"], "r2", "{fourth:#}");
}

#[tokio::test]
async fn what_was_read_from_one_replica_is_no_base_for_another() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &["--replica", "r1"]).await;
    hosts.untouched(&base, &["--replica", "r1"]).await;
    let other = hosts.whole("the base read r1", &["--replica", "r2"]).await;
    hosts.untouched(&other, &["--replica", "r2"]).await;
}

#[tokio::test]
async fn a_pack_that_is_not_where_the_base_read_it_makes_the_drill_whole() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &["--replica", "r1"]).await;
    hosts.backup().await;
    let [near, far] = ["r1", "r2"].map(|replica| hosts.packs(replica));
    assert!(!near.is_empty() && near.len() == far.len(), "{near:?} {far:?}");
    for pack in &far {
        std::fs::remove_file(pack).unwrap();
    }
    hosts.untouched(&base, &[]).await;
    let contents: Vec<Vec<u8>> = near.iter().map(|pack| std::fs::read(pack).unwrap()).collect();
    let fails = async |why: &str| {
        let failed = hosts.drill(&["--no-publish"]).await;
        assert!(failed.code().is_some_and(|code| code != 0), "{why}: {failed}");
        let report = failed.json().unwrap();
        assert_eq!(
            [&report["passed"], &report["reached"], &report["in_part"]],
            [&json!(false), &Value::Null, &Value::Null],
            "{why}: {report:#}"
        );
    };
    for (pack, content) in near.iter().zip(&contents) {
        std::fs::remove_file(pack).unwrap();
        std::fs::write(pack, &content[..content.len() - 1]).unwrap();
    }
    fails("one byte is missing").await;
    for pack in &near {
        std::fs::remove_file(pack).unwrap();
    }
    fails("it is gone").await;
    for (pack, content) in far.iter().zip(&contents) {
        std::fs::write(pack, content).unwrap();
    }
    // Nobody has ever read what the other one has.
    hosts.whole("the other replica has it", &[]).await;
    for (pack, content) in near.iter().zip(&contents) {
        std::fs::write(pack, content).unwrap();
    }
}

#[tokio::test]
async fn a_pack_that_any_replica_lacks_which_the_base_read_makes_the_drill_whole() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    hosts.sql("INSERT INTO items (name) SELECT 'more ' || id FROM items");
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    assert_eq!(base["replicas_used"], json!(["r1", "r2"]), "each gave a pack: {base:#}");
    hosts.untouched(&base, &[]).await;
    // Which of the packs came from there, nobody knows.
    for pack in hosts.packs("r1") {
        std::fs::remove_file(pack).unwrap();
    }
    hosts.whole("a replica that was read is empty", &[]).await;
}

#[tokio::test]
async fn a_failure_that_only_the_drill_host_knows_makes_the_next_drill_whole() {
    let hosts = Hosts::of(sqlite).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    hosts.untouched(&base, &[]).await;
    hosts.plan(MONTHLY, "queries = [{ sql = \"SELECT count(*) FROM items\", expect = \"1\" }]");
    let failed = hosts.drill(&["--no-publish"]).await;
    assert_eq!(failed.code(), Some(6), "{failed}");
    hosts.plan(MONTHLY, "");
    let whole = hosts.whole("the last one failed", &[]).await;
    hosts.untouched(&whole, &[]).await;
    // It was killed.
    let attempts = hosts.vault.path("drill1/state/drills/shop/attempts");
    let told = std::fs::read_to_string(&attempts).unwrap();
    let mut remembered: Vec<Value> = serde_json::from_str(&told).unwrap();
    remembered.last_mut().unwrap()["running"] = json!(true);
    std::fs::write(&attempts, json!(remembered).to_string()).unwrap();
    let whole = hosts.whole("the last one was killed", &[]).await;
    hosts.untouched(&whole, &[]).await;
    std::fs::write(&attempts, "[{").unwrap();
    let whole = hosts.whole("nobody knows what became of the last ones", &[]).await;
    hosts.untouched(&whole, &[]).await;
    // The report was hidden.
    hosts.plan(MONTHLY, "queries = [{ sql = \"SELECT count(*) FROM items\", expect = \"1\" }]");
    let failed = hosts.drill(&[]).await;
    let drill = failed.json().unwrap()["drill"].as_str().unwrap().to_owned();
    hosts.plan(MONTHLY, "");
    for replica in ["r1", "r2"] {
        for end in ["json", "json.minisig"] {
            std::fs::remove_file(hosts.vault.path(&format!("{replica}/datasets/shop/drills/{drill}.{end}"))).unwrap();
        }
    }
    hosts.whole("somebody hid a failure", &[]).await;
}
