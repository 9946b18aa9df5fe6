//! Whoever writes a dump decides what the client and the server of a drill are told, and reaches
//! nothing by it.

use std::path::Path;

use lifeboat_engine::Class;
use lifeboat_engine::databases::proof::DrillQuery;
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::databases::{ThrowAway, Wanted};
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::throw_away;
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::programs;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{context, throw_away as here};

use super::restore::restored;
use super::{captured, scratch, text, with_text};

/// Drills in a real worker, as far as that goes; returns what was said.
async fn drilled(streams: &MemoryStreams) -> String {
    let place = scratch();
    let cx = context(&place);
    let mut drill = match throw_away(&programs::worker(), streams, DrillTools::default(), &cx).await {
        Ok(drill) => drill.unwrap(),
        Err(error) => return error.chain_and_hint(),
    };
    let said = match drill.load(streams).await {
        Err(error) => error.chain_and_hint(),
        Ok(()) => match loot(drill.as_mut()).await {
            Some(read) => format!("CANARY was read: {read}"),
            None => format!("{:?}", drill.prove(streams).await),
        },
    };
    let _ = drill.stop().await;
    said
}

/// Whether a row holds what was in the file of the attacks.
async fn loot(drill: &mut dyn ThrowAway) -> Option<String> {
    let query = DrillQuery {
        database: Some("shop".to_owned()),
        sql: "SELECT count(*) FROM t WHERE b LIKE '%CAN_RY%'".to_owned(),
        expect: Some("0".to_owned()),
        ..DrillQuery::default()
    };
    let checks = drill.check(&[query]).await.ok()?;
    checks.into_iter().rfind(|check| !check.passed).map(|check| check.detail)
}

async fn simple() -> MemoryStreams {
    let server = MariaDb::start().await;
    server
        .run_sql(
            "",
            "CREATE DATABASE shop; CREATE TABLE shop.t (a INT, b LONGTEXT); INSERT INTO shop.t VALUES (1, 'x')",
        )
        .await;
    captured(&server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_client_in_a_dump_do_nothing() {
    let streams = simple().await;
    let loot = tempfile::Builder::new().prefix("lifeboat-loot-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(loot.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let secret = loot.path().join("canary");
    std::fs::write(&secret, "CANARY").unwrap();
    let written = |name: &str| loot.path().join(name).display().to_string();
    let dump = text(&streams, "database/shop");
    for attack in [
        format!("\\! touch {}\n", written("a")),
        format!("system touch {}\n;\n", written("b")),
        format!("SELECT 1\\! touch {}\n;\n", written("c")),
        format!("DELIMITER ;;\nSELECT 1;;\n\\! touch {}\nDELIMITER ;\n", written("d")),
        format!("tee {}\nSELECT 1;\nnotee\n", written("e")),
        format!("source {}\n", secret.display()),
        format!("\\. {}\n", secret.display()),
        format!("pager cat > {}\nSELECT 1;\n", written("f")),
        format!("/*M!999999\\- disable the sandbox mode */\n\\! touch {}\n", written("g")),
        format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE t (b);\n", secret.display()),
        format!("LOAD DATA INFILE '{}' INTO TABLE t (b);\n", secret.display()),
        format!("SELECT 'x' INTO OUTFILE '{}';\n", written("h")),
        format!("INSERT INTO t VALUES (2, LOAD_FILE('{}'));\n", secret.display()),
        format!("SET GLOBAL general_log_file='{}', GLOBAL general_log=1;\n", written("i")),
        "INSTALL SONAME 'auth_socket';\nSELECT sys_exec('id');\n".to_owned(),
    ] {
        for forged in
            [format!("{attack}{dump}"), dump.replace("-- Dump completed", &format!("{attack}-- Dump completed"))]
        {
            let said = drilled(&with_text(&streams, "database/shop", forged)).await;
            assert!(!said.contains("CANARY"), "{attack}: {said}");
            // A proof of what else was loaded would be a lie, but for what a dump may say.
            let files: Vec<_> = std::fs::read_dir(loot.path()).unwrap().flatten().map(|entry| entry.path()).collect();
            assert_eq!(files, std::slice::from_ref(&secret), "{attack}: {said}");
        }
    }
    let control = drilled(&streams).await;
    assert!(control.contains("differences: []"), "{control}");
}

/// Without the worker, which keeps files away, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_a_drill_reads_no_file_elsewhere() {
    let streams = simple().await;
    let place = tempfile::Builder::new().prefix("lifeboat-loot-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let secret = place.path().join("canary");
    std::fs::write(&secret, "CANARY").unwrap();
    let dump = text(&streams, "database/shop");
    for (attack, is_read) in [
        (format!("LOAD DATA INFILE '{}' INTO TABLE t (b);\n", secret.display()), false),
        (format!("INSERT INTO t VALUES (2, LOAD_FILE('{}'));\n", secret.display()), false),
        // What the check would find.
        ("INSERT INTO t VALUES (2, 'CANARY');\n".to_owned(), true),
    ] {
        let forged = dump.replace("-- Dump completed", &format!("{attack}-- Dump completed"));
        let streams = with_text(&streams, "database/shop", forged);
        let scratch = scratch();
        let cx = context(&scratch);
        let mut drill = here(&streams.facts, &[], &cx).await;
        let read = match drill.load(&streams).await {
            Err(error) => {
                assert!(error.chain().contains("secure-file-priv"), "{error:?}");
                None
            }
            Ok(()) => loot(drill.as_mut()).await,
        };
        assert_eq!(read.is_some(), is_read, "{attack}: {read:?}");
        drill.stop().await.unwrap();
    }
}

/// What looks like the end of a body, and like parts of a dump after it.
const FORGED: &str = "x;;\nDELIMITER ;\n--\n-- Table structure for table `x`\n--\nCREATE USER evil1@localhost;\n--\n\
    -- Dumping routines for database `x`\n--\nCREATE USER evil2@localhost;\n--\n\
    -- Final view structure for view `x`\n--\nCREATE USER evil3@localhost;\n";
/// The bodies of all that has one.
const BODIES: &str =
    "SELECT ACTION_STATEMENT FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'shop' ORDER BY 1;
    SELECT ROUTINE_DEFINITION FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = 'shop' ORDER BY 1;
    SELECT EVENT_DEFINITION FROM information_schema.EVENTS WHERE EVENT_SCHEMA = 'shop' ORDER BY 1;
    SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'evil%'";

/// Whoever may make a trigger or a routine writes a part of the dump.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_looks_like_a_dump_is_a_body() {
    let (from, to) = (MariaDb::start().await, MariaDb::start().await);
    let tables: String = (1..=6).map(|number| format!("CREATE TABLE shop.t{number} (a INT);")).collect();
    from.run_sql("", &format!("CREATE DATABASE shop; {tables}")).await;
    let trigger =
        |table: u8, body: &str| format!("CREATE TRIGGER t{table} BEFORE INSERT ON t{table} FOR EACH ROW {body}//\n");
    let statements = [
        trigger(1, &format!("BEGIN /* {FORGED} */ SET @a = 1; END")),
        trigger(2, &format!("/* {FORGED} */ SET @a = 2")),
        trigger(3, &format!("SET @a = '{FORGED}'")),
        trigger(4, &format!("SET @a = \"it's {FORGED}\"")),
        // A blank to the client and the server.
        trigger(6, &format!("BEGIN\n--\u{b} '\nSET @a = ' {FORGED}'; END")),
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'//\n".to_owned(),
        trigger(5, &format!("SET @a = '\\', @b = ' {FORGED}'")),
        format!("CREATE PROCEDURE p() SELECT '\\', ' {FORGED}'//\n"),
        format!("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT '\\', ' {}'//\n", FORGED.replace(";;", "")),
        "SET sql_mode = ''//\n".to_owned(),
        format!("CREATE PROCEDURE q() BEGIN /* {FORGED} */ SELECT '\\'{FORGED}'; END//\n"),
        format!("CREATE EVENT f ON SCHEDULE EVERY 1 DAY DO SELECT /* it's {} */ 1//\n", FORGED.replace(";;", "")),
        "CREATE PROCEDURE r(`x;;\nDELIMITER ;\n--\n-- Final view structure for view x\n` INT) SELECT 1//\n".to_owned(),
    ];
    from.run_sql("shop", &format!("DELIMITER //\n{}DELIMITER ;", statements.concat())).await;
    let wanted = from.query("", BODIES).await;
    assert!(wanted.ends_with("\n0\n") && wanted.matches("evil1").count() == 10, "{wanted}");
    let streams = captured(&from).await;
    let place = scratch();
    let cx = context(&place);
    restored(&streams, &to.address("root"), None, Wanted::default(), &cx).await.unwrap();
    assert_eq!(to.query("", BODIES).await, wanted);
    let mut drill = here(&streams.facts, &[], &cx).await;
    drill.load(&streams).await.unwrap();
    assert_eq!(drill.prove(&streams).await.unwrap().differences, Vec::<String>::new());
    drill.stop().await.unwrap();
}

/// What is a text or a comment to the server and a statement to the client runs in no load.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_client_reads_otherwise_than_the_server_is_refused() {
    let (from, to) = (MariaDb::start().await, MariaDb::start().await);
    let evil = ";; CREATE USER evil@localhost ;; -- ";
    let place = scratch();
    let cx = context(&place);
    for (body, told) in [
        (format!("SET @a = 1 --\u{1} '\n-- '{evil}\n"), "control character"),
        (format!("SET @a = 1 /* /*! */ -- */ {evil}\n"), "in a comment"),
        (format!("BEGIN /* /*/ SET @a = ' */ {evil}'; END"), "in a comment"),
    ] {
        let made = format!(
            "DELIMITER //\nDROP DATABASE IF EXISTS shop//\nCREATE DATABASE shop//\nUSE shop//\n\
            CREATE PROCEDURE p() {body}\n//\nDELIMITER ;"
        );
        from.run_sql("", &made).await;
        let streams = captured(&from).await;
        let refused = restored(&streams, &to.address("root"), None, Wanted::default(), &cx).await.unwrap_err();
        assert!(refused.class() == Class::Integrity && refused.chain().contains(told), "{body}: {refused:?}");
        assert!(refused.hint_text().unwrap().contains("--to-directory"), "{refused:?}");
        assert_eq!(to.query("", "SELECT COUNT(*) FROM mysql.user WHERE User = 'evil'").await, "0\n", "{body}");
        let mut drill = here(&streams.facts, &[], &cx).await;
        assert!(drill.load(&streams).await.unwrap_err().chain().contains(told), "{body}");
        drill.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_stream_of_users_is_refused_before_a_statement_runs() {
    let streams = simple().await;
    let globals = text(&streams, "globals");
    for forged in [
        globals.replace("-- Complete", "DROP DATABASE `mysql`;\n-- Complete"),
        globals.replace("-- Complete", "\\! touch /tmp/lifeboat-forged\n-- Complete"),
        globals.replace("-- Complete\n", ""),
    ] {
        let said = drilled(&with_text(&streams, "globals", forged)).await;
        assert!(said.contains("not understood") || said.contains("not whole"), "{said}");
    }
    assert!(!Path::new("/tmp/lifeboat-forged").exists());
    // Options of the server are no place for a snapshot's words.
    let mut odd = streams.clone();
    odd.facts.details.insert("character_set".to_owned(), "latin1\ninit-file=/etc/passwd".to_owned());
    let said = drilled(&odd).await;
    assert!(said.contains("odd character_set"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_lost_its_end_is_not_proved() {
    let streams = simple().await;
    let dump = text(&streams, "database/shop");
    assert_eq!(streams.names().len(), 2);
    for cut in [dump.len() - 20, dump.len() / 2, dump.find("INSERT").unwrap() + 3] {
        let said = drilled(&with_text(&streams, "database/shop", dump[..cut].to_owned())).await;
        assert!(!said.contains("differences: []"), "{cut}: {said}");
    }
}
