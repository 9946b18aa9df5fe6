//! Drills of a group: what its members refer to across each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::shop::{MEMBERS, REFERENCE, Shop, write};

/// Rounds of backup and drill while the application writes.
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn no_row_names_a_file_that_is_missing_while_an_application_writes_in_the_right_order() {
    let mut shop = Shop::open(REFERENCE).await;
    shop.host.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    // Files go later than any backup of them takes.
    let uploads = shop.uploads();
    let writing = write(&shop.postgres, &uploads, Duration::from_secs(5), &stop);
    let drilling = async {
        let (mut checked, mut spread) = (0, 0.0_f64);
        for round in 0..ROUNDS {
            let backed_up = shop.host.must("lifeboat --json trigger shop").await.json().unwrap();
            spread = spread.max(backed_up["spread_seconds"].as_f64().unwrap());
            let drilled = shop.drill.must("lifeboat --json drill --group shop").await.json().unwrap();
            assert_eq!(drilled["moment"], backed_up["moment"], "round {round}: {drilled:#}");
            let found = &drilled["references"][0];
            assert_eq!(
                (&drilled["passed"], &found["dangling"]),
                (&json!(true), &json!(0)),
                "round {round}: {drilled:#}"
            );
            checked += found["checked"].as_u64().unwrap();
        }
        stop.store(true, Ordering::SeqCst);
        (checked, spread)
    };
    let (written, (checked, spread)) = tokio::join!(writing, drilling);
    let told = format!("{ROUNDS} rounds, {written} rows, {checked} references, views within {spread} s");
    assert!(written > 1000 && checked > 1000 && spread < 5.0, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dangles_is_found_counted_and_told_and_the_members_stay_proved() {
    let mut shop = Shop::open(&format!("{REFERENCE}at_most = 1\n[group.drill]\nschedule = \"@daily\"\n")).await;
    let none = shop.drill.shell("lifeboat drill --group shop").await;
    assert!(!none.status.success() && none.stderr.contains("no moment is known"), "{none}");
    // A row before its file, and whatever else a column can hold.
    let rows =
        "INSERT INTO attachments (path) VALUES (NULL), ('lost'), ('../../etc/passwd'), ('/first'), ('first'), (''),
        (E'odd\\nname'), (repeat('x', 100000)), ('files'), ('2024')";
    std::fs::create_dir(shop.uploads().join("files/2024")).unwrap();
    shop.postgres.run_sql("shop", rows).await;
    shop.host.must("lifeboatd --log text --once shop").await;
    let drilled = shop.drill.shell("lifeboat --json drill --group shop --textfile group.prom").await;
    assert_eq!(drilled.code(), Some(6), "{drilled}");
    let told = drilled.json().unwrap();
    let found = &told["references"][0];
    let counts = ["checked", "without_value", "dangling", "at_most"].map(|count| found[count].as_u64().unwrap());
    assert_eq!(counts, [10, 1, 7, 1], "{told:#}");
    let first: Vec<&str> = found["first"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(first[..4], ["lost", "../../etc/passwd", "(empty)", "odd\\nname"], "{told:#}");
    assert!(first[4].chars().count() == 201 && first[5] == "files" && first[6] == "2024", "{told:#}");
    assert!(drilled.stderr.contains("7 of 10 values dangle, and 1 may: lost"), "{drilled}");
    for member in told["members"].as_array().unwrap() {
        assert_eq!((&member["passed"], &member["reached"]), (&json!(true), &json!("proved")), "{told:#}");
    }
    let metrics = std::fs::read_to_string(shop.drill.file("group.prom")).unwrap();
    assert!(!metrics.contains("dataset="), "the members' are in files of their own: {metrics}");
    for line in [
        "lifeboat_group_dangling_references{group=\"shop\",reference=\"attachments\"} 7",
        "lifeboat_group_drill_last_status{group=\"shop\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    // The members' own reports are signed, and protect their snapshots; nobody reads rows there.
    let report = shop.host.must(&format!("lifeboat --json report {}", MEMBERS[0])).await.json().unwrap();
    assert_eq!(
        (&report["report"]["passed"], &report["report"]["reached"]),
        (&json!(true), &json!("proved")),
        "{report:#}"
    );
    let group = &report["report"]["group"];
    assert_eq!((&group["moment"], &group["references"][0]["dangling"]), (&told["moment"], &json!(7)), "{report:#}");
    assert!(group["references"][0]["first"][0].as_str().unwrap().starts_with("BLAKE3 of the text: "), "{report:#}");

    // One may.
    shop.postgres
        .run_sql("shop", "DELETE FROM attachments WHERE path <> 'lost' AND path <> '/first' OR path IS NULL")
        .await;
    shop.host.must("lifeboatd --log text --once shop").await;
    // The members have schedules of their own. The drill with the group fulfils one that is for the
    // newest snapshot.
    shop.drill.datasets[0].push_str("drill = { schedule = \"@daily\" }\n");
    shop.drill.datasets[1].push_str("drill = { schedule = \"@daily\", snapshot = \"rotate\" }\n");
    let due = shop.drill.must("lifeboat --json drill --due --textfiles .").await.json().unwrap();
    assert_eq!(
        (&due["groups"][0]["exit_code"], &due["groups"][0]["drill"]["passed"]),
        (&json!(0), &json!(true)),
        "{due:#}"
    );
    let (drills, waiting) = (due["drills"].as_array().unwrap(), due["waiting"].as_array().unwrap());
    assert_eq!((drills.len(), waiting.len()), (1, 1), "{due:#}");
    assert_eq!((&drills[0]["dataset"], &waiting[0]["dataset"]), (&json!(MEMBERS[1]), &json!(MEMBERS[0])), "{due:#}");
    let rotated = &drills[0]["drill"];
    assert_eq!(rotated["chosen"]["snapshot"], "rotate", "{due:#}");
    let with_the_group = &due["groups"][0]["drill"]["members"][0];
    assert_eq!(with_the_group["dataset"], MEMBERS[1], "{due:#}");
    assert_ne!(rotated["snapshot"], with_the_group["snapshot"], "{due:#}");
    let metrics = std::fs::read_to_string(shop.drill.file("lifeboat-group-shop.prom")).unwrap();
    for line in [
        "lifeboat_group_drill_last_status{group=\"shop\"} 1",
        "lifeboat_group_drill_failed_parts{group=\"shop\"} 0",
        "lifeboat_group_drill_due_timestamp_seconds{group=\"shop\"} 0.000",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    for member in MEMBERS {
        let metrics = std::fs::read_to_string(shop.drill.file(&format!("lifeboat-drill-{member}.prom"))).unwrap();
        let line = format!("lifeboat_drill_last_status{{dataset=\"{member}\"}} 1");
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    // One that was killed is told by whoever looks next, and has failed.
    let attempts = shop.drill.file("state/groups/shop/attempts");
    let killed = std::fs::read_to_string(&attempts).unwrap().replace("\"running\":false", "\"running\":true");
    std::fs::write(&attempts, killed).unwrap();
    let told = shop.drill.must("lifeboat --json drill --due --textfiles .").await;
    assert!(told.stderr.contains("the drill of group shop that began") && told.stderr.contains("was killed"), "{told}");
    let metrics = std::fs::read_to_string(shop.drill.file("lifeboat-group-shop.prom")).unwrap();
    assert!(metrics.contains("lifeboat_group_drill_failed_parts{group=\"shop\"} 1"), "{metrics}");
    let due = shop.drill.must("lifeboat --json drill --due").await.json().unwrap();
    assert!(due["groups"].is_null(), "it is due once a day: {due:#}");
    // A person reads the same, and what he mended is told.
    let text = shop.drill.must("lifeboat drill --group shop --textfiles .").await;
    let metrics = std::fs::read_to_string(shop.drill.file("lifeboat-group-shop.prom")).unwrap();
    assert!(metrics.contains("lifeboat_group_drill_failed_parts{group=\"shop\"} 0"), "{metrics}");
    let both = shop.drill.shell("lifeboat drill shop-db --textfiles .").await;
    assert_eq!(both.code(), Some(2), "{both}");
    assert!(text.stdout.contains("Drill of group shop: passed"), "{text}");
    assert!(text.stdout.contains("1 of 3 values dangle, and 1 may: lost"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_cannot_be_checked_has_failed() {
    let mut shop = Shop::open(REFERENCE).await;
    shop.host.must("lifeboatd --log text --once shop").await;
    let told = async |drill: &lifeboat_tests::operator::Operator, sql: &str, code: i32| {
        let drilled = drill.shell("lifeboat --json drill --group shop").await;
        assert_eq!(drilled.code(), Some(code), "{sql}: {drilled}");
        drilled.json().unwrap()["references"][0]["error"].as_str().unwrap().to_owned()
    };
    let group = shop.drill.datasets.pop().unwrap();
    for (sql, said, code) in [
        ("SELECT path FROM attachment", "relation \\\"attachment\\\" does not exist", 1),
        ("SELECT id, path FROM attachments", "more than one column", 3),
        ("SELEC path FROM attachments", "is no SQL", 3),
        ("DELETE FROM attachments RETURNING path", "read-only transaction", 1),
    ] {
        shop.drill.datasets.push(group.replace("SELECT path FROM attachments", sql));
        let error = told(&shop.drill, sql, code).await;
        assert!(error.replace('"', "\\\"").contains(said), "{sql}: {error}");
        shop.drill.datasets.pop();
    }
    // Another database of the server would give an answer, too.
    shop.drill.datasets.push(group.replace("database = \"shop\"\n", ""));
    let error = told(&shop.drill, "no database", 3).await;
    assert!(error.contains("nothing says which one to ask"), "{error}");
    shop.drill.datasets.pop();
    shop.drill.datasets.push(group.replace("database = \"shop\"\n", "database = \"shpo\"\n"));
    let error = told(&shop.drill, "another database", 3).await;
    assert!(error.contains("the snapshot has no database `shpo`"), "{error}");
    shop.drill.datasets.pop();
    // No value, no proof.
    shop.drill.datasets.push(group.replace("FROM attachments", "FROM attachments WHERE false"));
    let drilled = shop.drill.shell("lifeboat drill --group shop").await;
    assert_eq!(drilled.code(), Some(6), "{drilled}");
    assert!(drilled.stderr.contains("0 of 0 values dangle, and 1 must be there"), "{drilled}");
    shop.drill.datasets.pop();
    // What was only fetched is no tree.
    shop.drill.datasets.push(group);
    shop.drill.datasets[1].push_str("drill = { level = \"fetched\" }\n");
    let error = told(&shop.drill, "fetched", 1).await;
    assert!(error.contains("the paths of shop-uploads are not known"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_says_that_members_would_be_restored_as_of_different_moments() {
    let shop = Shop::open(REFERENCE).await;
    shop.host.must("lifeboatd --log text --once shop").await;
    let together = shop.drill.must("lifeboat --json drill --region-loss near").await.json().unwrap();
    assert!(together["apart"].is_null(), "{together:#}");
    // The other member has a newer snapshot by itself.
    std::fs::rename(shop.uploads(), shop.place.path().join("away")).unwrap();
    assert_eq!(shop.host.shell("lifeboatd --log text --once shop").await.code(), Some(4));
    let apart = shop.drill.must("lifeboat drill --region-loss near").await;
    assert!(apart.stdout.contains("DIFFERENT moments") && apart.stdout.contains("the members of: shop."), "{apart}");
}
