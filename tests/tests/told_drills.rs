//! Drills of other hosts reach Prometheus without their node-exporter: through the daemon of the
//! backup host, which reads their reports, and through a Pushgateway.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use lifeboat_tests::operator::{Operator, directory_replica};
use lifeboat_tests::prometheus::Pushgateway;
use lifeboat_tests::vault::files_below;
use rusqlite::Connection;

/// A host that backs SQLite files up, and the drill host beside it, whom it trusts.
async fn hosts(place: &Path) -> (Operator, Operator) {
    let (mut db1, mut drill) = (Operator::at(place, "db1"), Operator::at(place, "drill"));
    let dataset = |name: &str| {
        let file = place.join(format!("{name}.db"));
        let database = Connection::open(&file).unwrap();
        database.execute_batch("CREATE TABLE item (id INTEGER); INSERT INTO item VALUES (1);").unwrap();
        let source = format!("source = {{ kind = \"sqlite\", path = \"{}\" }}", file.display());
        format!("[[dataset]]\nname = \"{name}\"\nhome_region = \"home\"\n{source}\n")
    };
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.replicas = ["frankfurt", "ireland"].map(|name| directory_replica(place, name)).to_vec();
    db1.datasets = ["shop", "wiki"].map(dataset).to_vec();
    let signer = db1.init("").await;
    (drill.replicas, drill.masters, drill.trusted_signers) = (db1.replicas.clone(), db1.masters.clone(), vec![signer]);
    let schedule = "[dataset.drill]\nschedule = \"0 4 * * sun\"\n";
    drill.datasets = db1.datasets.iter().map(|dataset| format!("{dataset}{schedule}")).collect();
    drill.must("cp -r ../db1/keys/drill-host keys").await;
    for name in ["shop", "wiki"] {
        db1.must(&format!("lifeboatd --json --log text --once {name}")).await;
    }
    (db1, drill)
}

fn series(name: &str, dataset: &str) -> String {
    format!("lifeboat_drill_{name}{{dataset=\"{dataset}\",source=\"vault\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_what_drill_hosts_have_published_and_believes_no_other() {
    let place = tempfile::tempdir().unwrap();
    let (mut db1, drill) = hosts(place.path()).await;
    // Nothing was drilled, and no series says that something was.
    db1.start().await;
    db1.until_metric("lifeboat_replica_up{replica=\"ireland\"}", 1.0).await;
    assert_eq!(db1.metric(&series("last_status", "shop")), None);
    db1.stop().await;

    drill.must("lifeboat drill shop").await;
    db1.start().await;
    db1.until_metric(&series("last_level", "shop"), 4.0).await;
    assert_eq!(db1.metric(&series("last_status", "shop")), Some(1.0));
    assert_eq!(db1.metric(&series("highest_level", "shop")), Some(4.0));
    assert_eq!(db1.metric(&series("interval_seconds", "shop")), Some(7.0 * 86_400.0));
    assert!(db1.metric(&series("restore_duration_seconds", "shop")).unwrap() > 0.0);
    assert!(db1.metric(&series("recovery_point_age_seconds", "shop")).unwrap() > 0.0);
    let ended = db1.metric(&series("last_success_timestamp_seconds", "shop")).unwrap();
    assert_eq!(db1.metric(&series("last_attempt_timestamp_seconds", "shop")), Some(ended));
    assert_eq!(db1.metric(&series("last_status", "wiki")), None);
    db1.stop().await;

    // One that failed is told as that, and the last that did not stays known.
    drill.must("lifeboat drill wiki").await;
    let config = std::fs::read_to_string(drill.file("lifeboat.toml")).unwrap();
    let broken = config.replacen(
        "schedule = \"0 4 * * sun\"\n",
        "queries = [{ sql = \"SELECT count(*) FROM item\", expect = \"2\" }]\n",
        1,
    );
    std::fs::write(drill.file("broken.toml"), broken).unwrap();
    let failed = drill.shell("lifeboat --config broken.toml drill shop").await;
    assert_eq!(failed.code(), Some(6), "{failed}");
    db1.start().await;
    db1.until_metric(&series("last_level", "shop"), 2.0).await;
    assert_eq!(db1.metric(&series("last_status", "shop")), Some(0.0));
    assert_eq!(db1.metric(&series("last_success_timestamp_seconds", "shop")), Some(ended));
    assert_eq!(db1.metric(&series("interval_seconds", "shop")), None);
    db1.until_metric(&series("last_level", "wiki"), 4.0).await;
    db1.stop().await;

    // A report that nobody signed as it is tells nothing, and that is said.
    for replica in ["frankfurt", "ireland"] {
        let folder = place.path().join(replica).join("vault/datasets/shop/drills");
        let newest = files_below(&folder).into_iter().rfind(|path| path.extension().is_some_and(|end| end == "json"));
        let newest = newest.expect("a report");
        let text = std::fs::read_to_string(&newest).unwrap().replace("\"loaded\"", "\"proved\"");
        std::fs::remove_file(&newest).unwrap();
        std::fs::write(&newest, text).unwrap();
    }
    db1.start().await;
    db1.until_metric(&series("last_level", "shop"), 4.0).await;
    assert_eq!(db1.metric(&series("last_attempt_timestamp_seconds", "shop")), Some(ended));
    assert!(db1.log().contains("cannot be read"), "{}", db1.log());
    db1.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushgateway_takes_what_the_unit_pushes() {
    let place = tempfile::tempdir().unwrap();
    let (_db1, drill) = hosts(place.path()).await;
    let folder = place.path().join("collected");
    std::fs::create_dir(&folder).unwrap();
    let gateway = Pushgateway::start();
    let address = &gateway.address;
    for dataset in ["shop", "wiki"] {
        let file = folder.join(format!("lifeboat-drill-{dataset}.prom"));
        drill.must(&format!("lifeboat drill {dataset} --textfile {}", file.display())).await;
    }
    let line = gateway.pushing(&folder);
    let began = Instant::now();
    loop {
        let pushed = drill.shell(&format!("curl -sS --fail http://{address}/-/ready && {line}")).await;
        if pushed.status.success() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{pushed}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A host without groups has pushed all the same. This one has one now.
    let group = "lifeboat_group_drill_failed_parts{group=\"forum\"} 1\n";
    std::fs::write(folder.join("lifeboat-group-forum.prom"), group).unwrap();
    drill.must(&line).await;
    let page = drill.must(&format!("curl -sS --fail http://{address}/metrics")).await.stdout;
    let pushed = page.lines().find(|line| line.starts_with("lifeboat_group_drill_failed_parts{"));
    assert!(pushed.is_some_and(|line| line.contains("group=\"forum\"") && line.ends_with(" 1")), "{page}");
    for dataset in ["shop", "wiki"] {
        let told = page.lines().find(|line| {
            line.starts_with("lifeboat_drill_last_level{") && line.contains(&format!("dataset=\"{dataset}\""))
        });
        let told = told.unwrap_or_else(|| panic!("{dataset}: {page}"));
        assert!(told.ends_with(" 4") && told.contains("instance=\"drill1\",job=\"lifeboat-drill\""), "{told}");
    }
}
