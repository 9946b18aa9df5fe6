//! Drills in a real worker: equal servers are proved, and each difference is found and named.

use lifeboat_engine::Class;
use lifeboat_engine::databases::ThrowAway;
use lifeboat_engine::databases::proof::DrillQuery;
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::throw_away;
use lifeboat_tests::mariadb::{MariaDb, ask};
use lifeboat_tests::programs;
use lifeboat_tests::work::{context, throw_away as here};

use super::{AWKWARD, captured, scratch, text, with_text};

const SIMPLE: &str = "CREATE DATABASE shop CHARACTER SET utf8mb4;
    CREATE DATABASE other;
    CREATE TABLE shop.plain (id INT PRIMARY KEY AUTO_INCREMENT, t VARCHAR(20));
    USE shop;
    INSERT INTO shop.plain (t) SELECT CONCAT('row ', seq) FROM seq_1_to_3000;
    CREATE TABLE shop.twins (n INT);
    INSERT INTO shop.twins VALUES (1), (1), (2);
    CREATE TABLE other.t AS SELECT 1 AS n;
    CREATE VIEW other.seen AS SELECT n FROM shop.twins;
    CREATE PROCEDURE shop.p() SELECT 1;
    CREATE EVENT shop.e ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.twins VALUES (666);
    CREATE TRIGGER shop.tr BEFORE INSERT ON shop.twins FOR EACH ROW SET NEW.n = NEW.n;
    CREATE SEQUENCE shop.s;
    CREATE ROLE reader;
    CREATE USER app@'%' IDENTIFIED BY 'x';
    GRANT SELECT ON shop.* TO reader;
    GRANT reader TO app@'%';
    GRANT INSERT (t) ON shop.plain TO app@'%';
    GRANT SELECT ON mysql.proc TO app@'%';
    SET DEFAULT ROLE reader FOR app@'%';";

#[tokio::test(flavor = "multi_thread")]
async fn awkward_data_is_captured_loaded_in_a_worker_and_proved() {
    let server = MariaDb::start().await;
    server.load_time_zones().await;
    server.run_sql("", AWKWARD).await;
    let streams = captured(&server).await;
    assert_eq!(streams.finished().len(), 5, "{:?}", streams.names());
    let globals = text(&streams, "globals");
    assert!(globals.contains("GRANT EXECUTE ON PROCEDURE `shop`.`myproc` TO `reader`"), "{globals}");
    let warnings = &streams.facts.warnings;
    assert!(!warnings.iter().any(|warning| warning.contains("not exist any more")), "{warnings:?}");
    drop(server);
    let place = scratch();
    let cx = context(&place);
    let mut drill = throw_away(&programs::worker(), &streams, DrillTools::default(), &cx).await.unwrap().unwrap();
    drill.load(&streams).await.unwrap();
    let checks = drill.check(&[]).await.unwrap();
    assert!(checks.len() == 4 && checks.iter().all(|check| check.passed), "{checks:?}");
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.is_equal(), "{:#?}", proof.differences);
    assert!(proof.tables >= 24 && proof.rows >= 50 && proof.definitions >= 100, "{proof:?}");
    drill.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(place.path()).map_or(0, Iterator::count), 0, "something is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_a_plugin_are_proved_or_the_plugin_is_named() {
    let server = MariaDb::start().await;
    server.run_sql("", "CREATE DATABASE shop").await;
    let streams = captured(&server).await;
    let user = "CREATE USER `e`@`%` IDENTIFIED VIA ed25519 USING 'ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY';\n-- Complete\n";
    let streams = with_text(&streams, "globals", text(&streams, "globals").replace("-- Complete\n", user));
    let place = scratch();
    let mut drill = here(&streams.facts, &[], &context(&place)).await;
    match drill.load(&streams).await {
        Ok(()) => {
            let proof = drill.prove(&streams).await.unwrap();
            assert!(proof.is_equal(), "{:#?}", proof.differences);
        }
        Err(error) => {
            // Then the package with the plugin is not installed here.
            let plugins = server.query("", "SELECT @@plugin_dir").await;
            let is_installed = std::path::Path::new(plugins.trim()).join("auth_ed25519.so").exists();
            assert!(!is_installed, "{error:?}");
            assert!(error.message().contains("cannot make `e`@`%`"), "{error:?}");
            assert!(error.hint_text().unwrap().contains("INSTALL SONAME 'auth_"), "{error:?}");
        }
    }
    drill.stop().await.unwrap();
}

/// Each of these must be found. The second is what is named.
const SABOTAGE: [(&str, &str); 22] = [
    ("UPDATE shop.plain SET t = 'row 8' WHERE id = 7", "table `plain` in shop: rows differ"),
    ("DELETE FROM shop.plain WHERE id = 7", "table `plain` in shop: 3000 rows stored, 2999 restored"),
    ("INSERT INTO shop.twins VALUES (1)", "table `twins` in shop: 3 rows stored, 4 restored"),
    ("UPDATE shop.twins SET n = 2 WHERE n = 1 LIMIT 1", "table `twins` in shop: rows differ"),
    ("UPDATE shop.twins SET n = NULL WHERE n = 2", "table `twins` in shop: rows differ"),
    ("ALTER TABLE shop.plain ADD KEY (t)", "table `plain` in shop"),
    ("ALTER TABLE shop.plain AUTO_INCREMENT = 9000", "table `plain` in shop"),
    ("CREATE TABLE shop.extra (n INT)", "table `extra` in shop"),
    ("DROP TABLE other.t", "table `t` in other"),
    ("DROP VIEW other.seen", "view `seen` in other"),
    ("CREATE OR REPLACE VIEW other.seen AS SELECT n + 1 AS n FROM shop.twins", "view `seen` in other"),
    ("DROP PROCEDURE shop.p; CREATE PROCEDURE shop.p() SELECT 2", "procedure `p` in shop"),
    ("ALTER EVENT shop.e DISABLE", "event `e` in shop"),
    ("DROP TRIGGER shop.tr", "triggers of table `twins` in shop"),
    ("DO SETVAL(shop.s, 500)", "sequence `s` in shop"),
    ("ALTER DATABASE shop CHARACTER SET latin1", "database shop"),
    ("REVOKE INSERT (t) ON shop.plain FROM app@'%'", "grants to `app`@`%`"),
    ("REVOKE SELECT ON mysql.proc FROM app@'%'", "grants to `app`@`%`"),
    ("GRANT DELETE ON shop.* TO reader", "grants to `reader`"),
    ("REVOKE reader FROM app@'%'", "`app`@`%`"),
    ("ALTER USER app@'%' IDENTIFIED BY 'y'", "account `app`@`%`"),
    ("CREATE USER intruder", "account `intruder`@`%`"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_sabotage_is_found_and_named() {
    let server = MariaDb::start().await;
    server.run_sql("", SIMPLE).await;
    let streams = captured(&server).await;
    for (sql, named) in SABOTAGE {
        let place = scratch();
        let cx = context(&place);
        let mut drill = here(&streams.facts, &[], &cx).await;
        drill.load(&streams).await.unwrap();
        sabotage(drill.as_ref(), sql).await;
        let proof = drill.prove(&streams).await.unwrap();
        assert!(!proof.is_equal() && proof.differences.iter().any(|it| it.contains(named)), "{sql}: {proof:?}");
        drill.stop().await.unwrap();
    }
}

/// Runs SQL in the throw-away server.
async fn sabotage(drill: &dyn ThrowAway, sql: &str) {
    let address = drill.address().unwrap();
    let socket = address.socket_directory.join("mysqld.sock");
    ask(&socket, &address.user, "", sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_only_read_and_no_event_runs() {
    let server = MariaDb::start().await;
    server.run_sql("", SIMPLE).await;
    let streams = captured(&server).await;
    let place = scratch();
    let cx = context(&place);
    let mut drill = throw_away(&programs::worker(), &streams, DrillTools::default(), &cx).await.unwrap().unwrap();
    drill.load(&streams).await.unwrap();
    let query = |sql: &str, expect: Option<&str>| DrillQuery {
        database: Some("shop".to_owned()),
        sql: sql.to_owned(),
        expect: expect.map(str::to_owned),
        ..DrillQuery::default()
    };
    // An event of each second would have added rows by now.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let queries = [
        query("SELECT count(*) FROM plain", Some("3000")),
        query("SELECT count(*) FROM plain", Some("3001")),
        query("DELETE FROM plain", None),
        query("SELECT count(*) FROM twins", Some("3")),
        query("SELECT 1 FROM missing", None),
        // Whatever the zone of this host is, which the server takes for its own.
        query("SELECT @@session.time_zone", Some("+00:00")),
        query("SELECT FROM_UNIXTIME(1795456800)", Some("2026-11-23 18:00:00")),
    ];
    let checks = drill.check(&queries).await.unwrap();
    let passed: Vec<bool> = checks.iter().map(|check| check.passed).collect();
    assert_eq!(passed, [true, true, true, false, false, true, false, true, true], "{checks:?}");
    let typed = drill.check(&[query("SELEC 1", None)]).await.unwrap_err();
    assert!(typed.class() == Class::Configuration && typed.message().contains("SELEC"), "{typed:?}");
    drill.stop().await.unwrap();
}
