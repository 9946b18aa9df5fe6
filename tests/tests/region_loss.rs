//! The rehearsed loss of a region tells what its real loss shows, and what it cannot tell it says.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use lifeboat_tests::browser;
use lifeboat_tests::host::section;
use lifeboat_tests::operator::{Operator, file_dataset};
use lifeboat_tests::s3::Region;
use rusqlite::Connection;
use serde_json::{Value, json};

/// A dataset of an SQLite file with so many rows.
fn sqlite(place: &Path, name: &str, rows: u32, more: &str) -> String {
    let file = place.join(format!("{name}.db"));
    let database = Connection::open(&file).unwrap();
    database
        .execute_batch(&format!(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO item (name) SELECT 'item ' || i FROM n"
        ))
        .unwrap();
    format!(
        "[[dataset]]\nname = \"{name}\"\nhome_region = \"near\"\nsource = {{ kind = \"sqlite\", path = \"{}\" }}\n{more}\n",
        file.display()
    )
}

/// A host with three datasets in two regions, backed up once, and the drill host beside it.
async fn hosts(place: &Path, near: &Region, far: &Region) -> (Operator, Operator) {
    let (mut db1, mut drill) = (Operator::at(place, "db1"), Operator::at(place, "drill"));
    let log = place.join("log.txt");
    std::fs::write(&log, "one\n").unwrap();
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.replicas = [near, far].map(|region| section(&region.replica_config(region.name()))).to_vec();
    db1.datasets = vec![
        sqlite(place, "shop", 40_000, "objectives = { rpo = \"1d\", rto = \"10m\" }\n[dataset.recovery]\npriority = 1"),
        sqlite(place, "wiki", 10, "[dataset.recovery]\nafter = [\"shop\"]"),
        file_dataset("log", &log, ""),
    ];
    let signer = db1.init("").await;
    for dataset in ["shop", "wiki", "log"] {
        db1.must(&format!("lifeboatd --log text --once {dataset}")).await;
    }
    (drill.replicas, drill.masters, drill.trusted_signers) = (db1.replicas.clone(), db1.masters.clone(), vec![signer]);
    drill.datasets = db1.datasets.clone();
    drill.must("cp -r ../db1/keys/drill-host keys").await;
    (db1, drill)
}

/// What of each dataset must be the same however the region is lost.
fn found(told: &Value) -> Vec<Value> {
    let mut found: Vec<Value> = told["datasets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| json!([of["dataset"], of["restored"], of["reached"], of["snapshot"]]))
        .collect();
    found.sort_by_key(Value::to_string);
    found
}

/// The report reckons with, and the log shows, that `shop` and `log` are restored at the same time,
/// and `wiki` after `shop`.
fn assert_two_at_once_and_one_after(told: &Value, log: &str) {
    assert_eq!(told["at_once"], 2, "{told:#}");
    let time = |name: &str, key: &str| {
        let of = told["datasets"].as_array().unwrap().iter().find(|of| of["dataset"] == name).unwrap();
        of[key].as_f64().unwrap_or_else(|| panic!("{key} of {name}: {told:#}"))
    };
    let [(shop, shop_ends), (log_begins, log_ends), (wiki, wiki_ends)] =
        ["shop", "log", "wiki"].map(|name| (time(name, "begins_after_seconds"), time(name, "rto_seconds")));
    assert!(shop < log_ends && log_begins < shop_ends, "not at the same time: {told:#}");
    assert!(shop_ends <= wiki && wiki < wiki_ends, "not after shop: {told:#}");

    // The order in which phases really began. The last phase of shop and wiki is to stop what was
    // restored.
    let begun = |name: &str| {
        let named = format!("\"{name}\"");
        let is_one = |line: &str| line.contains("a phase of the drill begins") && line.contains(&named);
        let lines: Vec<usize> = log.lines().enumerate().filter(|(_, line)| is_one(line)).map(|(at, _)| at).collect();
        let [first, .., last] = lines.as_slice() else { panic!("{name}: {log}") };
        (*first, *last)
    };
    let (shop, log_phases, wiki) = (begun("shop"), begun("log"), begun("wiki"));
    assert!(shop.0 < log_phases.1 && log_phases.0 < shop.1, "not at the same time: {log}");
    assert!(shop.1 < wiki.0, "not after shop: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsed_loss_tells_what_the_real_one_shows() {
    let place = tempfile::tempdir().unwrap();
    let (mut near, far) = tokio::join!(Region::start("near"), Region::start("far"));
    let (db1, mut drill) = hosts(place.path(), &near, &far).await;
    let rehearse = "lifeboat --json drill --region-loss near --html loss.html --report loss.json";
    let rehearsed = drill.must(rehearse).await.json().unwrap();
    let verdict = rehearsed["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("If region near were lost now, all of 3 datasets could be restored from far:"),
        "{verdict}"
    );
    let end = "2 of 3 were proved equal. Only fetched, as the kind allows no more: log. All objectives would be met.";
    assert!(verdict.ends_with(end), "{verdict}");
    // Priorities decide, and nothing is restored before what it comes after.
    let order: Vec<&str> =
        rehearsed["datasets"].as_array().unwrap().iter().map(|of| of["dataset"].as_str().unwrap()).collect();
    assert_eq!(order, ["shop", "log", "wiki"], "{rehearsed:#}");
    assert_eq!(rehearsed["critical_path"], json!(order), "{rehearsed:#}");
    let last = rehearsed["datasets"][2]["rto_seconds"].as_f64().unwrap();
    assert!((rehearsed["rto_seconds"].as_f64().unwrap() - last).abs() < 1e-9, "{rehearsed:#}");
    // Which takes longest is of milliseconds here, so nobody knows.
    let shorter = rehearsed["shorter"].to_string();
    assert!(shorter.contains("that everything waits for"), "{shorter}");
    // Each has a signed report, which names the region, in the other one.
    let report = db1.must("lifeboat --json report shop").await.json().unwrap();
    assert_eq!(report["report"]["drill"], rehearsed["datasets"][0]["drill"]);
    assert_eq!(report["report"]["chosen"]["replica"], "without region near", "{report:#}");
    assert_eq!(report["report"]["replicas_used"], json!(["far"]), "{report:#}");

    let page = std::fs::read_to_string(drill.file("loss.html")).unwrap();
    let barriers = browser::barriers(&page).await;
    assert!(page.contains(verdict) && barriers.is_empty(), "{barriers:#?}");
    if let Some(file) = std::env::var_os("LIFEBOAT_PICTURE") {
        browser::picture(&page, Path::new(&file)).await;
    }
    let signer = drill.must("cat keys/*.pub ../db1/keys/drill-signer.pub 2>/dev/null || true").await.stdout;
    let kept: Value = serde_json::from_slice(&std::fs::read(drill.file("loss.json")).unwrap()).unwrap();
    assert_eq!(kept["verdict"], rehearsed["verdict"], "{signer}");
    assert!(std::fs::read_to_string(drill.file("loss.json.minisig")).unwrap().contains("loss of region near"));

    // The real thing, two at once.
    near.kill();
    drill.limits.push_str("\n[recovery]\nat_once = 2\n");
    let restored = drill.must(&rehearse.replacen("lifeboat", "lifeboat -v", 1)).await;
    let real = restored.json().unwrap();
    assert_eq!(found(&real), found(&rehearsed));
    assert_two_at_once_and_one_after(&real, &restored.stderr);
    // What only the lost region could tell is not claimed.
    let verdict = real["verdict"].as_str().unwrap();
    assert!(
        verdict.contains("lost now, 3 datasets could") && verdict.contains("There may be more datasets"),
        "{verdict}"
    );

    // Only some, with what they come after.
    let some = drill.must("lifeboat --json drill --region-loss near --datasets wiki").await.json().unwrap();
    assert_eq!((some["at_once"].as_u64(), found(&some).len()), (Some(2), 2), "{some:#}");
    assert_eq!(some["not_rehearsed"], json!(["log"]), "{some:#}");
    assert!(some["verdict"].as_str().unwrap().contains("NOT rehearsed: log."), "{some:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_lost_is_said() {
    let place = tempfile::tempdir().unwrap();
    let (near, far) = tokio::join!(Region::start("near"), Region::start("far"));
    let (_db1, mut drill) = hosts(place.path(), &near, &far).await;

    let unknown = drill.shell("lifeboat drill --region-loss moon").await;
    assert!(unknown.code() == Some(2) && unknown.stderr.contains("in: far, near"), "{unknown}");
    // What shares an address with the region is no other region.
    let both = drill.replicas.clone();
    let bucket = format!("bucket = \"{}\"", far.bucket());
    let shared = section(&near.replica_config("shared")).replace("region = \"near\"", "region = \"other\"");
    drill.replicas.push(shared.replace(&bucket, "bucket = \"another-bucket\""));
    let refused = drill.shell("lifeboat drill --region-loss near").await;
    assert!(
        refused.code() == Some(3) && refused.stderr.contains("shared is reached by an address of near"),
        "{refused}"
    );
    (drill.replicas, drill.min_replicas) = (both[..1].to_vec(), 1);
    let alone = drill.shell("lifeboat drill --region-loss near").await;
    assert!(
        !alone.status.success() && alone.stderr.contains("every replica that this host knows is in near"),
        "{alone}"
    );
    drill.replicas = both;

    // A file that could not be written is told before anything is restored.
    let early = drill.shell("lifeboat drill --region-loss near --html missing/loss.html").await;
    assert!(early.code() == Some(2) && !early.stderr.contains("restoring"), "{early}");
    assert!(early.stderr.contains("next: make the directory, or name another file"), "{early}");
    let nosuch = drill.shell("lifeboat drill --region-loss near --datasets nosuch").await;
    assert!(nosuch.code() == Some(2) && nosuch.stderr.contains("they have: log, shop, wiki"), "{nosuch}");

    // An objective that the loss would miss.
    let objectives = drill.datasets[0].clone();
    drill.datasets[0] = objectives.replace("rpo = \"1d\"", "rpo = \"1s\"");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let missed = drill.shell("lifeboat drill --region-loss near").await;
    assert_eq!(missed.code(), Some(8), "{missed}");
    assert!(missed.stdout.contains("Objectives would be MISSED by: shop"), "{missed}");
    drill.datasets[0] = objectives;

    // A dataset that the other region never got, and one that waits for it.
    for folder in ["datasets/shop/snapshots/", "keyring/datasets/shop/"] {
        let client = far.client();
        let listed = client.list_objects_v2().bucket(far.bucket()).prefix(format!("vault/{folder}")).send();
        for object in listed.await.unwrap().contents() {
            client.delete_object().bucket(far.bucket()).key(object.key().unwrap()).send().await.unwrap();
        }
    }
    let lost = drill.shell("lifeboat --json drill --region-loss near --html loss.html").await;
    assert!(!lost.status.success(), "{lost}");
    let told = lost.json().unwrap();
    let verdict = told["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("If region near were lost now, 2 of 3 datasets could NOT be restored: shop, wiki."));
    assert_eq!((&told["rto_seconds"], &told["rpo_seconds"]), (&Value::Null, &Value::Null));
    let of = |name: &str| told["datasets"].as_array().unwrap().iter().find(|of| of["dataset"] == name).unwrap().clone();
    assert!(of("wiki")["error"].as_str().unwrap().contains("it comes after shop"), "{told:#}");
    assert_eq!(of("log")["restored"], true, "{told:#}");
    let page = std::fs::read_to_string(drill.file("loss.html")).unwrap();
    assert!(page.contains("banner bad") && browser::barriers(&page).await.is_empty());

    // The drill host need not name a dataset: the region that has it tells of it before it is lost.
    drill.datasets.retain(|dataset| dataset.contains("name = \"log\""));
    let unnamed = drill.shell("lifeboat --json drill --region-loss near").await.json().unwrap();
    let verdict = unnamed["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("If region near were lost now, 1 of 3 datasets could NOT be restored: shop."),
        "{verdict}"
    );
}
