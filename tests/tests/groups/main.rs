//! Groups: a database and the folder of the files that its rows name are captured at one moment, on
//! the built programs and a real PostgreSQL server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod drills;
mod listings;
mod retries;
mod sessions;
mod shop;

use std::time::Duration;

use serde_json::json;

use self::shop::{MEMBERS, Shop};

#[tokio::test(flavor = "multi_thread")]
async fn all_members_have_a_snapshot_of_one_moment_whoever_asks() {
    let mut shop = Shop::open("").await;
    shop.host.start().await;
    let report = shop.host.must("lifeboat --json trigger shop").await.json().unwrap();
    assert_eq!(report["group"], "shop", "{report:#}");
    let told = [shop.told(MEMBERS[0]).await, shop.told(MEMBERS[1]).await];
    for told in &told {
        assert_eq!((&told["name"], &told["members"]), (&json!("shop"), &json!(MEMBERS)), "{told}");
        assert_eq!(told["moment"], report["moment"], "{told}");
    }
    let [db, uploads] = told.map(|told| told["at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap());
    assert!(db < uploads, "files are walked after the database has its snapshot: {db} {uploads}");
    let spread = (uploads - db).as_seconds_f64();
    assert!((report["spread_seconds"].as_f64().unwrap() - spread).abs() < 0.002 && spread < 5.0, "{report:#} {spread}");

    // Whoever asks for a member gets the group.
    shop.host.must("lifeboat trigger shop-uploads").await;
    shop.host.until_metric("lifeboat_group_moments_total{group=\"shop\"}", 2.0).await;
    let moment = shop.told(MEMBERS[0]).await["moment"].clone();
    assert_ne!(moment, report["moment"]);
    assert_eq!(shop.told(MEMBERS[1]).await["moment"], moment);
    shop.host.must("lifeboatd --log text --once shop-db").await;
    assert_eq!(shop.told(MEMBERS[1]).await["moment"], shop.told(MEMBERS[0]).await["moment"]);
    assert_eq!((shop.snapshots(MEMBERS[0]).await, shop.snapshots(MEMBERS[1]).await), (3, 3));
    let listed = shop.host.must("lifeboat --json list --group shop --identity master.txt").await.json().unwrap();
    let moments = listed["moments"].as_array().unwrap();
    assert_eq!((moments.len(), &moments[2]["moment"]), (3, &report["moment"]), "{listed:#}");
    assert_eq!(moments[2]["snapshots"], report["snapshots"], "{listed:#}");
    shop.host.until_metric("lifeboat_group_moments_total{group=\"shop\"}", 3.0).await;
    let status = shop.host.must("lifeboatd status").await;
    assert!(status.stdout.contains("group shop: newest common moment 20"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fails_leaves_the_others_their_backups_and_no_common_moment() {
    let mut shop = Shop::open("").await;
    shop.host.start().await;
    let away = shop.place.path().join("away");
    std::fs::rename(shop.uploads(), &away).unwrap();
    let failed = shop.host.shell("lifeboat trigger shop").await;
    assert_eq!(failed.code(), Some(4), "{failed}");
    assert!(failed.stderr.contains("group shop has no common moment: shop-uploads failed"), "{failed}");
    let told = shop.told(MEMBERS[0]).await;
    assert!(told.is_null(), "the backup of the database is one, and tells of no moment: {told}");
    assert_eq!(shop.snapshots(MEMBERS[0]).await, 1);
    shop.host.until_metric("lifeboat_group_failures_total{group=\"shop\"}", 1.0).await;
    shop.host.until_metric("lifeboat_group_moment_timestamp_seconds{group=\"shop\"}", 0.0).await;
    let status = shop.host.must("lifeboatd status").await;
    assert!(status.stdout.contains("never had a common moment; the last run had NO COMMON MOMENT"), "{status}");

    std::fs::rename(&away, shop.uploads()).unwrap();
    shop.host.must("lifeboat trigger shop").await;
    assert!(shop.told(MEMBERS[0]).await.is_object());

    // A lock that another program has keeps all of them from starting.
    let lock = shop.host.file("state/datasets/shop-uploads/lock");
    let held = format!("flock -x {} -c 'lifeboat trigger shop'", lock.display());
    let waits = shop.host.run_once(&held).await;
    assert!(!waits.status.success() && waits.stderr.contains("shop-uploads"), "{waits}");
    assert_eq!(shop.snapshots(MEMBERS[0]).await, 2, "nothing was captured without the other");
    let starts = shop.host.log().matches("the members of a group start").count();
    assert_eq!(starts, 2, "one that waits for a lock has not begun: {}", shop.host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_between_members_says_so_and_the_next_moment_is_whole() {
    let mut shop = Shop::open("").await;
    // The last member takes its time.
    let slow = "[[dataset]]\nname = \"slow\"\nhome_region = \"near\"\n\
        source = { kind = \"command\", argv = [\"sh\", \"-c\", \"sleep 4; echo done\"] }\n";
    shop.host.datasets.insert(0, slow.to_owned());
    let group = shop.host.datasets.last_mut().unwrap();
    *group = group.replace("\"shop-uploads\"]", "\"shop-uploads\", \"slow\"]");
    shop.host.limits.push_str("\nruns = 3");
    shop.host.init("").await;
    shop.host.start().await;
    let asked = tokio::spawn({
        let asks = format!("lifeboat --config {} trigger shop", shop.host.file("lifeboat.toml").display());
        let program = lifeboat_tests::programs::directory().join("lifeboat");
        async move { tokio::process::Command::new(program).args(asks.split(' ').skip(1)).output().await }
    });
    let (db, uploads) =
        (shop.place.path().join("near/vault/datasets/shop-db/snapshots"), "near/vault/datasets/shop-uploads/snapshots");
    let uploads = shop.place.path().join(uploads);
    let signed = |folder: &std::path::Path| {
        std::fs::read_dir(folder)
            .is_ok_and(|all| all.flatten().any(|of| of.path().to_string_lossy().ends_with("minisig")))
    };
    shop.host.until("two members have committed", || signed(&db) && signed(&uploads)).await;
    shop.host.kill().await;
    let log = shop.host.log();
    assert!(!asked.await.unwrap().unwrap().status.success());
    shop.host.start().await;
    let status = shop.host.must("lifeboatd status").await;
    assert!(
        status.stdout.contains("group shop: never had a common moment; the last run had NO COMMON MOMENT"),
        "{status}"
    );
    assert!(status.stdout.contains("was killed"), "{status}");
    let killed = shop.told(MEMBERS[0]).await;
    assert!(killed.is_object(), "its own view was fixed: {killed}\n{log}");
    let report = shop.host.must("lifeboat --json trigger shop").await.json().unwrap();
    assert_eq!(report["snapshots"].as_object().unwrap().len(), 3, "{report:#}");
    assert_ne!(report["moment"], killed["moment"]);
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_found_behind_many_snapshots_that_belong_to_none() {
    let mut shop = Shop::open("").await;
    // The other member is small, too: many backups follow.
    let (small, place) = (shop.place.path().join("small"), shop.place.path().to_owned());
    std::fs::create_dir(&small).unwrap();
    std::fs::write(small.join("row"), "1").unwrap();
    shop.host.datasets[0] = format!(
        "[[dataset]]\nname = \"shop-db\"\nhome_region = \"near\"\nsource = {{ kind = \"files\", path = \"{}\" }}\n",
        small.display()
    );
    shop.host.init("").await;
    shop.host.start().await;
    let whole = shop.host.must("lifeboat --json trigger shop").await.json().unwrap();
    std::fs::rename(shop.uploads(), place.join("away")).unwrap();
    for _ in 0..66 {
        assert_eq!(shop.host.shell("lifeboat trigger shop").await.code(), Some(4));
    }
    assert_eq!(shop.snapshots(MEMBERS[0]).await, 67);
    let listed = shop.host.must("lifeboat --json list --group shop --identity master.txt").await.json().unwrap();
    assert_eq!(listed["moments"].as_array().unwrap().len(), 1, "{listed:#}");
    assert_eq!(listed["moments"][0]["moment"], whole["moment"], "{listed:#}");
}
