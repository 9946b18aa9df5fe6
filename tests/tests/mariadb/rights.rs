//! What an account may not see would be missing in a dump without a word: captures say so first.

use lifeboat_engine::databases::Source;
use lifeboat_engine::databases::mariadb::{MariaConfig, MariaSource};
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::work::context;

use super::{scratch, text, try_captured};

const SCHEMA: &str = "CREATE DATABASE shop; CREATE DATABASE hidden;
    CREATE TABLE shop.t (a INT); CREATE TRIGGER shop.tr BEFORE INSERT ON shop.t FOR EACH ROW SET NEW.a = 1;
    CREATE PROCEDURE shop.p() SELECT 1; CREATE USER b@localhost;";

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_fails_where_a_dump_would_leave_something_out() {
    let server = MariaDb::start().await;
    server.run_sql("", SCHEMA).await;
    let (place, shop) = (scratch(), vec!["shop".to_owned()]);
    let cx = context(&place);
    let all = server.source("b");
    let only = MariaConfig { databases: shop, ..all.clone() };
    for (grant, config, told) in [
        ("GRANT SELECT, SHOW VIEW ON shop.* TO b@localhost", &all, "may hide databases"),
        ("GRANT SELECT, SHOW VIEW ON shop.* TO b@localhost", &only, "lacks EVENT, TRIGGER"),
        ("GRANT EVENT, TRIGGER ON shop.* TO b@localhost", &only, "does not see its routines"),
    ] {
        server.run_sql("", grant).await;
        let error = try_captured(config.clone(), &cx).await.unwrap_err();
        assert!(error.message().contains(told) && error.hint_text().unwrap().contains("GRANT"), "{error:?}");
        let found = MariaSource(config.clone()).check(&cx).await;
        assert!(found.broken.iter().any(|error| error.message().contains(told)), "{found:?}");
    }
    server.run_sql("", "GRANT SELECT ON mysql.proc TO b@localhost").await;
    let streams = try_captured(only, &cx).await.unwrap();
    let dump = text(&streams, "database/shop");
    assert!(dump.contains("PROCEDURE `p`") && dump.contains("TRIGGER"), "{dump}");
    assert!(!text(&streams, "globals").contains("CREATE USER"));
    for part in ["without users and grants", "without its position"] {
        assert!(streams.facts.warnings.iter().any(|warning| warning.contains(part)), "{:?}", streams.facts.warnings);
    }
    assert_eq!(streams.names(), ["globals", "database/shop"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grants_that_the_documents_name_are_enough() {
    let server = MariaDb::start().await;
    server.run_sql("", SCHEMA).await;
    // The server runs with skip_name_resolve.
    server
        .run_sql("", "DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost'; FLUSH PRIVILEGES")
        .await;
    let grant = "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, SHOW DATABASES, BINLOG MONITOR ON *.* TO b@localhost";
    server.run_sql("", grant).await;
    let place = scratch();
    let cx = context(&place);
    let found = MariaSource(server.source("b")).check(&cx).await;
    assert!(found.broken.is_empty() && found.weak.is_empty(), "{found:?}");
    let streams = try_captured(server.source("b"), &cx).await.unwrap();
    assert_eq!(streams.facts.warnings, Vec::<String>::new());
    assert!(text(&streams, "globals").contains("CREATE USER `b`@`localhost`"));
}
