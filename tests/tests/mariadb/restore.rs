//! Restores: into a server that lives, and into files that a stock client loads.

use lifeboat_engine::config::Secret;
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::databases::{RestoreOutcome, Target, Wanted, WorkContext, load, registry};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{context, only, throw_away};

use super::{AWKWARD, captured, scratch, text, with_text};

pub(super) async fn restored(
    streams: &MemoryStreams,
    address: &str,
    password: Option<&str>,
    wanted: Wanted,
    cx: &WorkContext,
) -> Result<RestoreOutcome> {
    let password = password.map(|password| Secret::new(password.as_bytes().to_vec()));
    let server = registry::find("mariadb").unwrap().server(address, password, &[]).unwrap();
    load(streams, &Target::Server { server, wanted }, cx).await
}

/// Whether the database `shop` is there.
const SHOP: &str = "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'shop'";

#[tokio::test(flavor = "multi_thread")]
async fn awkward_data_is_restored_into_a_server_whole() {
    let (from, to) = (MariaDb::start().await, MariaDb::start().await);
    for server in [&from, &to] {
        server.load_time_zones().await;
    }
    from.run_sql("", AWKWARD).await;
    // What a restore does at its own time cannot make it.
    from.run_sql("shop", "DROP EVENT IF EXISTS ev3").await;
    let streams = captured(&from).await;
    let place = scratch();
    let cx = context(&place);
    let outcome = restored(&streams, &to.address("root"), None, Wanted::default(), &cx).await.unwrap();
    assert_eq!(outcome.written.len(), 4, "{outcome:?}");
    assert!(outcome.warnings.iter().any(|warning| warning.contains("users and roles were there")), "{outcome:?}");
    let again = captured(&to).await;
    assert_eq!(again.names(), streams.names());
    // Positions and ports of two servers differ.
    let comparable = |streams: &MemoryStreams, name: &str| -> Vec<String> {
        let own = |line: &&str| !line.starts_with("-- ") && !line.contains("`root`@`localhost`");
        text(streams, name).lines().filter(own).map(str::to_owned).collect()
    };
    for name in streams.names() {
        assert_eq!(comparable(&again, &name), comparable(&streams, &name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_kept_unless_told_otherwise() {
    let (from, to) = (MariaDb::start().await, MariaDb::start_on_tcp().await);
    from.run_sql(
        "",
        "CREATE DATABASE shop COMMENT 'it''s'; CREATE TABLE shop.t (a INT); INSERT INTO shop.t VALUES (1), (2);
         CREATE USER app@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.t TO app@'%'; CREATE DATABASE other;
         CREATE TABLE other.t (a INT); GRANT SELECT ON other.t TO app@'%'; GRANT SELECT ON mysql.proc TO app@'%';",
    )
    .await;
    let admin = "CREATE USER admin@'127.0.0.1' IDENTIFIED BY 'pass''w'; GRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION";
    to.run_sql("", admin).await;
    to.run_sql("", "CREATE DATABASE shop; CREATE TABLE shop.mine (a INT)").await;
    let streams = captured(&from).await;
    let place = scratch();
    let cx = context(&place);
    let go = async |wanted: Wanted| restored(&streams, &to.address("admin"), Some("pass'w"), wanted, &cx).await;

    let refused = go(only("shop")).await.unwrap_err();
    assert!(refused.class() == Class::Usage && refused.message().contains("not empty"), "{refused:?}");
    assert_eq!(to.query("", "SELECT count(*) FROM shop.mine").await, "0\n");
    let missing = go(only("gone")).await.unwrap_err();
    assert!(missing.hint_text().unwrap().contains("other, shop"), "{missing:?}");

    let beside = Wanted { rename: Some("shop`2".to_owned()), ..only("shop") };
    let outcome = go(beside).await.unwrap();
    assert_eq!(outcome.written, ["shop`2"]);
    assert_eq!(to.query("", "SELECT count(*) FROM `shop``2`.t").await, "2\n");
    assert!(outcome.warnings.iter().any(|warning| warning.contains("--globals")), "{outcome:?}");
    assert_eq!(to.query("", "SELECT count(*) FROM mysql.user WHERE User = 'app'").await, "0\n");

    let replace = Wanted { overwrite: true, globals: true, ..only("shop") };
    let outcome = go(replace).await.unwrap();
    assert!(outcome.warnings.iter().any(|it| it.contains("were not made, 1 in all")), "{outcome:?}");
    assert_eq!(to.query("", "SELECT count(*) FROM shop.t").await, "2\n");
    assert!(to.try_query("", "SELECT count(*) FROM shop.mine").await.is_err(), "it was not replaced");
    let grants = to.query("", "SHOW GRANTS FOR app@'%'").await;
    assert!(grants.contains("GRANT SELECT ON `shop`.`t` TO `app`@`%`"), "{grants}");
    assert!(grants.contains("GRANT SELECT ON `mysql`.`proc` TO `app`@`%`"), "{grants}");

    // Who restores no users need not see them.
    to.run_sql("", "CREATE USER mine@'127.0.0.1'; GRANT ALL ON shop.* TO mine@'127.0.0.1'").await;
    let replace = Wanted { overwrite: true, ..only("shop") };
    restored(&streams, &to.address("mine"), None, replace, &cx).await.unwrap();

    let wrong = restored(&streams, &to.address("admin"), Some("wrong"), only("shop"), &cx).await.unwrap_err();
    assert!(wrong.hint_text().unwrap().contains("check user and password"), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_not_made_on_another_database_that_was_given_the_name() {
    let (from, to) = (MariaDb::start().await, MariaDb::start().await);
    from.run_sql(
        "",
        "CREATE DATABASE shop; CREATE TABLE shop.t (a INT); CREATE DATABASE crm; CREATE TABLE crm.t (a INT);
         CREATE USER app@'%' IDENTIFIED BY 'x'; GRANT SELECT ON crm.t TO app@'%'; GRANT INSERT ON crm.* TO app@'%'",
    )
    .await;
    let (streams, place) = (captured(&from).await, scratch());
    let renamed = Wanted { rename: Some("crm".to_owned()), globals: true, ..only("shop") };
    restored(&streams, &to.address("root"), None, renamed, &context(&place)).await.unwrap();
    let grants = to.query("", "SHOW GRANTS FOR app@'%'").await;
    assert!(grants.contains("GRANT USAGE") && !grants.contains("crm"), "{grants}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_would_change_tables_is_refused_before_it_is_touched() {
    let from = MariaDb::start().await;
    from.run_sql("", "CREATE DATABASE shop; CREATE TABLE shop.Orders (a INT); CREATE TABLE shop.orders (b INT)").await;
    let streams = captured(&from).await;
    assert_eq!(streams.facts.details["engines:database/shop"], "InnoDB");
    let (place, overwrite) = (scratch(), Wanted { overwrite: true, ..only("shop") });
    let cx = context(&place);
    // An engine that no server of these tests has.
    let mut strange = streams.clone();
    strange.facts.details.insert("engines:database/shop".to_owned(), "InnoDB,ROCKSDB".to_owned());
    for (streams, options, told, hint) in [
        (&streams, &["--lower-case-table-names=1"][..], "`Orders` and `orders`", "lower_case_table_names = 0"),
        (&strange, &[], "lacks the storage engine ROCKSDB of tables in shop", "INSTALL SONAME"),
    ] {
        let to = MariaDb::start_with(options).await;
        to.run_sql("", "CREATE DATABASE shop; CREATE TABLE shop.mine (a INT)").await;
        let refused = restored(streams, &to.address("root"), None, overwrite.clone(), &cx).await.unwrap_err();
        assert!(refused.class() == Class::Usage && refused.message().contains(told), "{refused:?}");
        assert!(refused.hint_text().unwrap().contains(hint), "{refused:?}");
        assert_eq!(to.query("", "SELECT count(*) FROM shop.mine").await, "0\n");
    }
    let mut drill = throw_away(&strange.facts, &[], &cx).await;
    let refused = drill.load(&strange).await.unwrap_err();
    assert!(refused.message().contains("lacks the storage engine ROCKSDB"), "{refused:?}");
    drill.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_damaged_makes_the_restore_fail() {
    let (from, to) = (MariaDb::start().await, MariaDb::start().await);
    from.run_sql("", "CREATE DATABASE shop; CREATE TABLE shop.t (a INT); INSERT INTO shop.t VALUES (1)").await;
    let mut streams = captured(&from).await;
    streams.facts.details.insert("damaged".to_owned(), "database/shop".to_owned());
    let place = scratch();
    let error = restored(&streams, &to.address("root"), None, Wanted::default(), &context(&place)).await.unwrap_err();
    assert_eq!(error.class(), Class::Integrity, "{error:?}");
    assert!(error.chain().contains("cannot restore database shop"), "{}", error.chain());
    assert_eq!(to.query("", SHOP).await.trim(), "0", "a part of the database is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cancelled_leaves_no_database() {
    let (from, to) = (MariaDb::start().await, MariaDb::start().await);
    from.run_sql(
        "",
        "CREATE DATABASE shop; CREATE TABLE shop.t (a INT, b TEXT);
         USE shop; INSERT INTO t SELECT seq, REPEAT(MD5(seq), 30) FROM seq_1_to_100000",
    )
    .await;
    let streams = captured(&from).await;
    let place = scratch();
    let cx = context(&place);
    let address = to.address("root");
    let (restored, ()) = tokio::join!(restored(&streams, &address, None, Wanted::default(), &cx), async {
        while to.query("", SHOP).await.trim() == "0" {}
        cx.cancel.cancel();
    });
    assert!(restored.is_err(), "the restore was over before it could be cancelled");
    assert_eq!(to.query("", SHOP).await.trim(), "0", "a part of the database is still there");
}

/// Tables that name each other and a sequence, with a trigger, an event and a view.
const SIDE_BY_SIDE: &str = "CREATE DATABASE shop; USE shop; CREATE SEQUENCE numbers; SET foreign_key_checks = 0;
    CREATE TABLE a (id INT PRIMARY KEY, next INT REFERENCES b (id), n INT DEFAULT NEXTVAL(numbers), t TEXT);
    CREATE TABLE b (id INT PRIMARY KEY, next INT REFERENCES c (id), n INT DEFAULT NEXTVAL(numbers), t TEXT);
    CREATE TABLE c (id INT PRIMARY KEY, next INT REFERENCES a (id), n INT DEFAULT NEXTVAL(numbers), t TEXT);
    CREATE TABLE z (id INT); INSERT INTO z VALUES (1);
    INSERT INTO a (id, next, t) SELECT seq, seq, REPEAT(MD5(seq), 30) FROM seq_1_to_4000;
    INSERT INTO b (id, next, t) SELECT seq, seq, REPEAT(MD5(seq), 31) FROM seq_1_to_4000;
    INSERT INTO c (id, next, t) SELECT seq, seq, REPEAT(MD5(seq), 32) FROM seq_1_to_4000;
    CREATE TRIGGER more AFTER INSERT ON a FOR EACH ROW INSERT INTO z VALUES (NEW.id);
    CREATE EVENT clean ON SCHEDULE EVERY 1 HOUR DO DELETE FROM z;
    CREATE PROCEDURE p() SELECT 1; CREATE VIEW v AS SELECT COUNT(*) AS all_of_z FROM z;";
/// What they hold, in all.
const ALL_OF_SHOP: &str = "CHECKSUM TABLE a, b, c, z; SELECT * FROM v; SELECT NEXTVAL(numbers) > 12000;
    SELECT CONSTRAINT_NAME, TABLE_NAME, REFERENCED_TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS
    WHERE CONSTRAINT_SCHEMA = 'shop' ORDER BY 1, 2;
    SELECT TABLE_NAME, COLUMN_NAME, COLUMN_DEFAULT FROM information_schema.COLUMNS
    WHERE TABLE_SCHEMA = 'shop' AND TABLE_NAME <> 'numbers' ORDER BY 1, 2;
    SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'shop';
    SELECT EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'shop'; CALL p()";

/// How a dump makes an event.
const MAKES_EVENT: &str = "/*!50106 CREATE*/";

/// A server that writes down every statement.
async fn listening() -> MariaDb {
    MariaDb::start_with(&["--general-log=1", "--log-output=TABLE"]).await
}

/// How many connections sent statements that begin so.
async fn connections(server: &MariaDb, statements: &str) -> u32 {
    let count = format!(
        "SELECT COUNT(DISTINCT thread_id) FROM mysql.general_log WHERE CONVERT(argument USING utf8mb4) LIKE '{statements}%'"
    );
    server.query("", &count).await.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_loaded_over_several_connections_and_the_rest_waits_for_them() {
    let from = MariaDb::start().await;
    from.run_sql("", SIDE_BY_SIDE).await;
    let (streams, wanted, place) = (captured(&from).await, from.query("shop", ALL_OF_SHOP).await, scratch());
    for (jobs, inserting) in [(1, 1..=1), (3, 2..=3), (64, 2..=4)] {
        let to = listening().await;
        let cx = WorkContext { jobs, ..context(&place) };
        restored(&streams, &to.address("root"), None, Wanted::default(), &cx).await.unwrap();
        assert_eq!(to.query("shop", ALL_OF_SHOP).await, wanted, "{jobs} jobs");
        let inserted = connections(&to, "INSERT INTO").await;
        assert!(inserting.contains(&inserted), "{jobs} jobs: {inserted} connections inserted rows");
        // A session may be silent for long while its client reads past tables of others.
        assert!(connections(&to, "SET SESSION wait_timeout").await >= inserted, "{jobs} jobs");
        let by_all = connections(&to, "CREATE SEQUENCE%' OR CONVERT(argument USING utf8mb4) LIKE 'INSERT INTO").await;
        assert_eq!(by_all == 1, jobs == 1, "{jobs} jobs: {by_all} connections");
        let when = async |which: &str, like: &str| {
            let text = "CONVERT(argument USING utf8mb4)";
            let sql = format!("SELECT {which}(event_time) FROM mysql.general_log WHERE {text} LIKE '{like}%'");
            let at = to.query("", &sql).await;
            assert!(at.starts_with("20"), "{like}: {at}");
            at
        };
        let (first_table, last_row) = (when("MIN", "CREATE TABLE").await, when("MAX", "INSERT INTO").await);
        assert!(when("MAX", "CREATE SEQUENCE").await < first_table, "{jobs} jobs");
        for late in [MAKES_EVENT, "CREATE DEFINER=%PROCEDURE"] {
            assert!(when("MIN", late).await > last_row, "{jobs} jobs: {late}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_one_connection_cannot_load_ends_them_all() {
    let from = MariaDb::start().await;
    from.run_sql("", SIDE_BY_SIDE).await;
    let (streams, place) = (captured(&from).await, scratch());
    let whole = text(&streams, "database/shop");
    for table in ["a", "b", "z"] {
        let broken = whole.replacen(&format!("INSERT INTO `{table}` VALUES"), "INSERT INTO `nowhere` VALUES", 1);
        assert_ne!(broken, whole);
        let to = listening().await;
        let streams = with_text(&streams, "database/shop", broken);
        let failed = restored(&streams, &to.address("root"), None, Wanted::default(), &context(&place)).await;
        let chain = failed.unwrap_err().chain();
        assert!(chain.contains("nowhere") && chain.contains("cannot load database shop"), "{chain}");
        assert_eq!(to.query("", SHOP).await.trim(), "0", "a part of the database is still there");
        assert_eq!(connections(&to, MAKES_EVENT).await, 0, "an event was made beside half a table");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_begins_in_another_way_is_loaded_in_its_order() {
    let from = MariaDb::start().await;
    from.run_sql("", SIDE_BY_SIDE).await;
    let (streams, wanted) = (captured(&from).await, from.query("shop", ALL_OF_SHOP).await);
    let (before, rest) = (text(&streams, "database/shop"), "--\n-- Sequence structure for `numbers`");
    let (before, rest) = before.split_at(before.find(rest).unwrap());
    let odd = format!("{before}SET SESSION max_statement_time = 3600;\n\n{rest}");
    let (to, place) = (listening().await, scratch());
    let streams = with_text(&streams, "database/shop", odd);
    restored(&streams, &to.address("root"), None, Wanted::default(), &context(&place)).await.unwrap();
    assert_eq!(to.query("shop", ALL_OF_SHOP).await, wanted);
    assert_eq!(connections(&to, "INSERT INTO").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_loads_the_files_of_a_restore() {
    let (from, to) = (MariaDb::start().await, MariaDb::start().await);
    from.run_sql(
        "",
        "CREATE DATABASE shop; CREATE TABLE shop.t (a INT); INSERT INTO shop.t VALUES (1), (2);
         CREATE USER app@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO app@'%'; DELETE FROM mysql.global_priv WHERE User = 'root' AND Host <> 'localhost'; FLUSH PRIVILEGES;",
    )
    .await;
    let streams = captured(&from).await;
    let place = scratch();
    let files = place.path().join("files");
    let target = Target::Directory { path: files.clone(), overwrite: false, sync: false };
    load(&streams, &target, &context(&place)).await.unwrap();
    let read = |name: &str| std::fs::read_to_string(files.join(name)).unwrap();
    // As FORMAT.md says: the accounts that a new server has are there already.
    let globals: String =
        read("globals.sql").lines().filter(|line| !line.contains("USER `root`")).collect::<Vec<_>>().join("\n");
    to.run_sql("", &globals).await;
    to.run_sql("shop", &read("database/shop.sql")).await;
    assert_eq!(to.query("", "SELECT sum(a) FROM shop.t").await, "3\n");
    assert!(to.query("", "SHOW GRANTS FOR app@'%'").await.contains("`shop`.*"));
}
