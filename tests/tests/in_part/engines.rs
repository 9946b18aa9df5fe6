//! Servers with several databases, of which only those are restored that changed, and trees.

use std::os::unix::fs::PermissionsExt;

use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::postgres::Postgres;
use serde_json::{Value, json};

use crate::{Hosts, MONTHLY, assert_valid, digest, names};

/// Asserts that a report tells of `crm` alone, with so many rows, and that `shop` was left out.
fn assert_only_crm(hosts: &Hosts, base: &Value, report: &Value, rows: u64) {
    let in_part = &report["in_part"];
    assert_eq!(names(&in_part["restored"]), ["crm"], "{report:#}");
    let left_out = names(&in_part["left_out"]);
    assert!(left_out.contains(&"shop") && !left_out.contains(&"crm"), "{report:#}");
    let bytes = [&report["restored_bytes"], &in_part["left_out_bytes"], &base["restored_bytes"]];
    let [restored, left, all] = bytes.map(|bytes| bytes.as_u64().unwrap());
    assert!(restored > 0 && restored < left && restored < all, "{report:#}");
    let proof = &report["proof"];
    assert_eq!([&proof["tables"], &proof["rows"]], [&json!(1), &json!(rows)], "{report:#}");
    assert!(base["proof"]["rows"].as_u64().unwrap() > 20_000, "{base:#}");
    let checks: Vec<&str> = report["checks"].as_array().unwrap().iter().filter_map(|of| of["check"].as_str()).collect();
    assert!(!checks.is_empty() && !checks.iter().any(|check| check.contains("shop")), "{report:#}");

    let published = hosts.published(report)["body"]["in_part"].clone();
    assert_eq!(published["restored"], json!([digest("crm")]), "{published:#}");
    let left_out = names(&published["left_out"]);
    assert!(left_out.contains(&digest("shop").as_str()), "{published:#}");
    assert!(left_out.iter().all(|name| name.starts_with("BLAKE3 of the text: ")), "{published:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_postgresql_server_only_the_database_that_changed_is_restored_and_proved() {
    let server = Postgres::start().await;
    for (database, table, rows) in [("shop", "items", 20_000), ("crm", "customers", 100)] {
        server.create_database(database).await;
        let fill =
            format!("CREATE TABLE {table} AS SELECT i AS id, md5(i::text) AS name FROM generate_series(1, {rows}) i");
        server.run_sql(database, &fill).await;
    }
    let source = format!(
        "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{}\"]",
        server.url("postgres"),
        server.programs().display()
    );
    let hosts = Hosts::of(|_| source).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;

    server.run_sql("crm", "INSERT INTO customers VALUES (101, 'Ada')").await;
    hosts.backup().await;
    let ask = |database: &str, table: &str, rows: u64| {
        let sql = format!("SELECT count(*) FROM {table}");
        let query = format!("{{ database = \"{database}\", sql = \"{sql}\", expect = \"{rows}\" }}");
        hosts.plan(MONTHLY, &format!("queries = [{query}]"));
        format!("{database}: {sql}")
    };
    let asked = ask("crm", "customers", 101);
    let part = hosts.in_part(&base, &[]).await;
    assert_only_crm(&hosts, &base, &part, 101);
    let has_asked = |report: &Value, asked: &str| {
        let checks = report["checks"].as_array().unwrap();
        assert!(checks.iter().any(|check| check["check"] == asked && check["passed"] == true), "{asked}: {report:#}");
    };
    has_asked(&part, &asked);
    assert_valid(&hosts, &hosts.published(&part)["body"]).await;
    let said = hosts.vault.lifeboat("drill1", &["drill", "shop"]).await;
    assert_eq!(said.stdout.lines().next(), Some("Drill of shop: PROVED IN PART"), "{said}");
    let day = &base["finished"].as_str().unwrap()[..10];
    assert!(said.stdout.lines().any(|line| line.contains("shop") && line.contains(day)), "{said}");

    let asked = ask("shop", "items", 20_000);
    has_asked(&hosts.whole("a query asks what would be left out", &[]).await, &asked);
    hosts.plan(MONTHLY, "");
    server.run_sql("postgres", "CREATE ROLE reader").await;
    hosts.backup().await;
    hosts.whole("a role is new", &[]).await;
    server.run_sql("shop", "UPDATE items SET name = md5(name)").await;
    hosts.backup().await;
    hosts.whole("more than half of the bytes are new", &[]).await;
    for (database, table) in [("shop", "items"), ("crm", "customers")] {
        server.run_sql(database, &format!("UPDATE {table} SET name = md5(name)")).await;
    }
    hosts.backup().await;
    let last = hosts.whole("every database has changed", &[]).await;
    hosts.backup().await;
    let untouched = hosts.untouched(&last, &[]).await;
    let left_out = names(&untouched["in_part"]["left_out"]);
    assert!(left_out.contains(&"shop") && left_out.contains(&"crm"), "{untouched:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_mariadb_server_only_the_database_that_changed_is_restored_and_its_damage_fails_the_drill() {
    let server = MariaDb::start().await;
    let fill = |database: &str, table: &str, rows: u32| {
        format!(
            "CREATE DATABASE {database}; USE {database};
             CREATE TABLE {table} (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(40));
             INSERT INTO {table} (name) SELECT MD5(seq) FROM seq_1_to_{rows};"
        )
    };
    server.run_sql("", &[fill("shop", "items", 20_000), fill("crm", "customers", 100)].concat()).await;
    let source = format!("kind = \"mariadb\"\nsocket = \"{}\"\nuser = \"root\"", server.socket().display());
    let hosts = Hosts::of(|_| source).await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    server.run_sql("crm", "INSERT INTO customers (name) VALUES ('Ada')").await;
    hosts.backup().await;
    let part = hosts.in_part(&base, &[]).await;
    assert_only_crm(&hosts, &base, &part, 101);

    // What is new cannot be read as it was written, though its size is right.
    server.run_sql("crm", "INSERT INTO customers (name) VALUES ('Grace')").await;
    let before = ["r1", "r2"].map(|replica| hosts.packs(replica)).concat();
    hosts.backup().await;
    let mut new = ["r1", "r2"].map(|replica| hosts.packs(replica)).concat();
    new.retain(|pack| !before.contains(pack));
    assert!(new.len() >= 2, "{new:?}");
    for pack in &new {
        let harmed: Vec<u8> = std::fs::read(pack).unwrap().iter().map(|byte| !byte).collect();
        std::fs::remove_file(pack).unwrap();
        std::fs::write(pack, harmed).unwrap();
    }
    let failed = hosts.drill(&[]).await;
    assert!(failed.code().is_some_and(|code| code != 0), "{failed}");
    let report = failed.json().unwrap();
    assert_eq!(
        [&report["passed"], &report["reached"], &report["in_part"]],
        [&json!(false), &Value::Null, &Value::Null],
        "{report:#}"
    );
    assert!(report["error"].is_string(), "{report:#}");
    let drills = hosts.vault.lifeboat("drill1", &["drills", "shop"]).await;
    assert!(drills.stdout.lines().nth(1).is_some_and(|line| line.contains("FAILED")), "{drills}");
}

#[tokio::test]
async fn a_tree_of_files_is_restored_again_if_the_mode_of_one_file_changed() {
    let hosts = Hosts::of(|vault| {
        let tree = vault.path("db1/tree");
        std::fs::create_dir_all(tree.join("deep")).unwrap();
        for number in 0..50 {
            std::fs::write(tree.join(format!("deep/{number}")), format!("file {number}\n").repeat(100)).unwrap();
        }
        format!("kind = \"files\"\npath = \"{}\"", tree.display())
    })
    .await;
    hosts.backup().await;
    let base = hosts.whole("the first", &[]).await;
    hosts.backup().await;
    hosts.untouched(&base, &[]).await;
    let file = hosts.vault.path("db1/tree/deep/7");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    hosts.backup().await;
    let changed = hosts.whole("a mode changed", &[]).await;
    hosts.untouched(&changed, &[]).await;
}
