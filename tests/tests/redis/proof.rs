//! Drills in a real worker: equal servers are proved, and each difference is found and named.

use std::time::Duration;

use lifeboat_engine::Class;
use lifeboat_engine::databases::ThrowAway;
use lifeboat_engine::databases::proof::DrillQuery;
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::throw_away;
use lifeboat_tests::programs;
use lifeboat_tests::redis::{Redis, RedisClient, fill_with_awkward_data};
use lifeboat_tests::work::{context, throw_away as here};

use super::{captured, content, scratch, text, with_content};

const SIMPLE: &str = "SET text one
    SET counter 7
    SET late x PXAT 4102444800123
    RPUSH list a b a
    SADD set a b c
    HSET hash f 1 g 2
    ZADD zset 1 a 2.5 b
    XADD stream 1-1 f v
    XADD stream 2-1 f w
    XGROUP CREATE stream group 0
    XREADGROUP GROUP group me COUNT 1 STREAMS stream >
    ACL SETUSER app on >secret ~app:* +get
    SELECT 3
    SET text three";

#[tokio::test(flavor = "multi_thread")]
async fn awkward_data_is_captured_loaded_in_a_worker_and_proved() {
    let server = Redis::start().await;
    fill_with_awkward_data(&server).await;
    let streams = captured(&server).await;
    assert_eq!(streams.names(), ["users", "settings", "dump"]);
    assert_eq!(streams.finished().len(), 3);
    assert!(content(&streams, "dump").starts_with(b"REDIS0010") && content(&streams, "dump").len() > 5_000_000);
    drop(server);
    let place = scratch();
    let cx = context(&place);
    let mut drill = throw_away(&programs::worker(), &streams, DrillTools::default(), &cx).await.unwrap().unwrap();
    drill.load(&streams).await.unwrap();
    let checks = drill.check(&[]).await.unwrap();
    assert!(checks.len() == 2 && checks.iter().all(|check| check.passed), "{checks:?}");
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.is_equal(), "{:#?}", proof.differences);
    // Six types in database 0, strings in 15; three users, functions, and the numbers of keys.
    assert_eq!((proof.tables, proof.definitions), (7, 5), "{proof:?}");
    assert!(proof.rows >= 65 && proof.notes.is_empty(), "{proof:?}");
    drill.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(place.path()).map_or(0, Iterator::count), 0, "something is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_is_proved() {
    let streams = captured(&Redis::start().await).await;
    let place = scratch();
    let mut drill = here(&streams.facts, &[], &context(&place)).await;
    drill.load(&streams).await.unwrap();
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.is_equal() && proof.rows == 0, "{proof:?}");
    drill.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_expire_meanwhile_fail_no_drill() {
    let server = Redis::start().await;
    server.run("SET stays x\nSET at:load x PX 900\nHSET later a 1 b 2\nPEXPIRE later 6000").await;
    let streams = captured(&server).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let place = scratch();
    let mut drill =
        throw_away(&programs::worker(), &streams, DrillTools::default(), &context(&place)).await.unwrap().unwrap();
    drill.load(&streams).await.unwrap();
    let checks = drill.check(&[query("DBSIZE", Some("3"))]).await.unwrap();
    assert!(checks.iter().all(|check| check.passed), "{checks:?}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.is_equal() && proof.rows == 3, "{proof:?}");
    assert!(proof.notes.len() == 1 && proof.notes[0].starts_with("2 keys had expired"), "{proof:?}");
    drill.stop().await.unwrap();
}

/// Each of these must be found. The second is what is named.
const SABOTAGE: [(&str, &str); 28] = [
    ("SET text two", "all strings in database 0: keys differ"),
    ("INCR counter", "all strings in database 0: keys differ"),
    ("DEL text", "all strings in database 0: 3 keys stored, 2 restored"),
    ("SET more x", "all strings in database 0: 3 keys stored, 4 restored"),
    ("RENAME text texts", "all strings in database 0: keys differ"),
    ("DEL text\nRPUSH text one", "all lists in database 0: 1 keys stored, 2 restored"),
    ("PEXPIREAT late 4102444800124", "expiry of keys in database 0: times differ"),
    ("PERSIST late", "expiry of keys in database 0"),
    ("EXPIREAT text 4102444800", "expiry of keys in database 0: 1 times stored, 2 restored"),
    ("LSET list 1 c", "all lists in database 0"),
    ("RPOPLPUSH list list", "all lists in database 0"),
    ("RPUSH list a", "all lists in database 0"),
    ("SREM set a", "all sets in database 0"),
    ("SREM set a\nSADD set d", "all sets in database 0"),
    ("HSET hash f 2", "all hashes in database 0"),
    ("HDEL hash g", "all hashes in database 0"),
    ("HSET hash f 2 g 1", "all hashes in database 0"),
    ("ZADD zset 1.0000000000000002 a", "all sorted sets in database 0"),
    ("ZADD zset 2.5 a 1 b", "all sorted sets in database 0"),
    ("XADD stream 3-1 f v", "all streams in database 0"),
    ("XDEL stream 1-1", "all streams in database 0"),
    ("XTRIM stream MINID 2", "all streams in database 0"),
    ("XACK stream group 1-1", "all streams in database 0"),
    ("XGROUP SETID stream group 1-0", "all streams in database 0"),
    ("XGROUP DELCONSUMER stream group me", "all streams in database 0"),
    ("MOVE text 4", "all strings in database 4 is only in the restored database"),
    ("ACL SETUSER app +set", "definition of user app"),
    ("ACL DELUSER app\nACL SETUSER intruder on nopass", "definition of user intruder"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_sabotage_is_found_and_named() {
    let server = Redis::start().await;
    server.run(SIMPLE).await;
    let streams = captured(&server).await;
    server.run("SELECT 4\nSET text four").await;
    let with_four = captured(&server).await;
    for (commands, named) in SABOTAGE {
        let place = scratch();
        let cx = context(&place);
        let mut drill = here(&streams.facts, &[], &cx).await;
        drill.load(&streams).await.unwrap();
        sabotage(drill.as_ref(), commands).await;
        let proof = drill.prove(&streams).await.unwrap();
        assert!(!proof.is_equal() && proof.differences.iter().any(|it| it.contains(named)), "{commands}: {proof:?}");
        drill.stop().await.unwrap();
    }
    // And what is stored instead of restored.
    let place = scratch();
    let mut drill = here(&streams.facts, &[], &context(&place)).await;
    drill.load(&streams).await.unwrap();
    assert!(!drill.prove(&with_four).await.unwrap().is_equal());
    assert!(drill.prove(&streams).await.unwrap().is_equal());
    drill.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_function_is_found() {
    let server = Redis::start().await;
    let function = b"#!lua name=lib\nredis.register_function('f', function() return 1 end)";
    server.client().await.command(&[b"FUNCTION", b"LOAD", function]).await.unwrap();
    let streams = captured(&server).await;
    let place = scratch();
    let mut drill = here(&streams.facts, &[], &context(&place)).await;
    drill.load(&streams).await.unwrap();
    sabotage(drill.as_ref(), "FUNCTION DELETE lib").await;
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.differences.iter().any(|it| it.contains("libraries of functions: 1 texts stored")), "{proof:?}");
    drill.stop().await.unwrap();
}

/// Runs commands in the throw-away server, which takes writes from now on.
pub(super) async fn sabotage(drill: &dyn ThrowAway, commands: &str) {
    let address = drill.address().unwrap();
    let mut client = RedisClient::connect(&address.socket_directory.join("redis.sock")).await;
    client.command(&[b"AUTH", address.user.as_bytes(), b""]).await.unwrap();
    client.run("CONFIG SET replica-read-only no").await;
    client.run(commands).await;
}

pub(super) fn query(command: &str, expect: Option<&str>) -> DrillQuery {
    DrillQuery { database: None, sql: command.to_owned(), expect: expect.map(str::to_owned), ..DrillQuery::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_only_read() {
    let server = Redis::start().await;
    server.run(SIMPLE).await;
    let streams = captured(&server).await;
    let place = scratch();
    let mut drill =
        throw_away(&programs::worker(), &streams, DrillTools::default(), &context(&place)).await.unwrap().unwrap();
    drill.load(&streams).await.unwrap();
    let in_three = DrillQuery { database: Some("3".to_owned()), ..query("GET text", Some("three")) };
    let nowhere = DrillQuery { database: Some("99".to_owned()), ..query("GET text", Some("one")) };
    let queries = [
        query("GET text", Some("one")),
        query("LRANGE list 1 1", Some("b")),
        query("XLEN stream", Some("3")),
        in_three,
        query("SET text two", None),
        query("CONFIG SET replica-read-only no", None),
        query("DEBUG SLEEP 1", None),
        nowhere,
    ];
    let checks = drill.check(&queries).await.unwrap();
    let passed: Vec<bool> = checks.iter().map(|check| check.passed).collect();
    assert_eq!(passed, [true, true, true, true, false, true, false, false, false, false], "{checks:?}");
    assert!(checks[6].detail.contains("may only read"), "{checks:?}");
    for typed in ["GETT text", "GET", "GET 'text"] {
        let error = drill.check(&[query(typed, None)]).await.unwrap_err();
        assert!(error.class() == Class::Configuration && error.message().contains(typed), "{error:?}");
    }
    assert!(drill.prove(&streams).await.unwrap().is_equal());
    drill.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_missing_is_named_and_nothing_is_left() {
    let mut streams = captured(&Redis::start().await).await;
    for (told, named) in [
        (Some("99.1.2"), "a Redis 99.1 server for the drill are not installed (there is 7."),
        (Some("Valkey 8.1.3"), "a Valkey 8.1 server for the drill are not installed"),
        (Some("7.0\nsave 1 1"), "does not name its version"),
        (None, "does not name its version"),
    ] {
        streams.facts.server_version = told.map(str::to_owned);
        let place = scratch();
        let error = match throw_away(&programs::worker(), &streams, DrillTools::default(), &context(&place)).await {
            Ok(_) => panic!("a server of {told:?} started"),
            Err(error) => error,
        };
        assert!(error.message().contains(named), "{error:?}");
        if told.is_some_and(|told| told.starts_with("99")) {
            assert!(error.hint_text().unwrap().starts_with("install redis-server"), "{error:?}");
        }
        assert_eq!(std::fs::read_dir(place.path()).map_or(0, Iterator::count), 0, "something is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_during_a_drill_proves_nothing() {
    let server = Redis::start().await;
    server.run(SIMPLE).await;
    let streams = captured(&server).await;
    let place = scratch();
    let mut drill = here(&streams.facts, &[], &context(&place)).await;
    drill.load(&streams).await.unwrap();
    let address = drill.address().unwrap();
    let mut client = RedisClient::connect(&address.socket_directory.join("redis.sock")).await;
    client.command(&[b"AUTH", address.user.as_bytes(), b""]).await.unwrap();
    let info = client.command(&[b"INFO", b"server"]).await.unwrap().concat();
    let info = String::from_utf8(info).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    let error = drill.prove(&streams).await.unwrap_err();
    assert!(error.class() == Class::Source && error.chain().contains("Could not connect"), "{error:?}");
    drill.stop().await.unwrap();
    assert_eq!(std::fs::read_dir(place.path()).map_or(0, Iterator::count), 0, "something is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_difference_is_found_too() {
    let server = Redis::start().await;
    server.run(SIMPLE).await;
    let streams = captured(&server).await;
    let users = text(&streams, "users");
    let other = with_content(&streams, "users", users.replace("+get", "+get +set").into_bytes());
    let place = scratch();
    let mut drill = here(&streams.facts, &[], &context(&place)).await;
    drill.load(&streams).await.unwrap();
    let proof = drill.prove(&other).await.unwrap();
    assert!(proof.differences.iter().any(|it| it.contains("user app")), "{proof:?}");
    drill.stop().await.unwrap();
}
