//! Valkey 8.1 and 9.1: capture, proof, restore, and what neither product takes of the other.

use std::path::PathBuf;
use std::time::Duration;

use lifeboat_engine::Class;
use lifeboat_engine::databases::redis::{RedisConfig, RedisSource};
use lifeboat_engine::databases::streams::StoredStreams;
use lifeboat_engine::databases::{Source, ThrowAway, Wanted, registry};
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::throw_away;
use lifeboat_tests::programs::worker;
use lifeboat_tests::redis::{Redis, ValkeySeries, fill_with_awkward_data};
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{context, throw_away as here};

use super::programs::host_with;
use super::proof::{query, sabotage};
use super::restore::{RESTORER, keys, restored};
use super::{captured, content, scratch, text, try_captured, with_content};

const BOTH: [ValkeySeries; 2] = [ValkeySeries::Eight, ValkeySeries::Nine];

/// The user of OPERATIONS.md, with what Valkey 9 needs.
const BACKUP_USER: &str = "ACL SETUSER backup on nopass +ping +info +time +sync +replconf|rdb-only +config|get +acl|list \
    +acl|whoami +acl|dryrun";

/// A hash of which two fields expire.
const FIELDS: &str = "HSET fields stays v soon w late x
    HPEXPIREAT fields 4102444800123 FIELDS 1 soon
    HPEXPIREAT fields 4102444900123 FIELDS 1 late";

/// All of a server, as the user of OPERATIONS.md.
async fn captured_as_told(server: &Redis) -> MemoryStreams {
    server.run(BACKUP_USER).await;
    try_captured(server.source(Some("backup")), &context(&scratch())).await.unwrap()
}

/// Everything that can go wrong; and, where there are such, fields that expire.
async fn filled(series: ValkeySeries) -> Redis {
    let server = Redis::start_valkey(series).await;
    fill_with_awkward_data(&server).await;
    if series == ValkeySeries::Nine {
        server.run(FIELDS).await;
        let mut client = server.client().await;
        for (number, key) in ["hash", "wide hash"].into_iter().enumerate() {
            let time = (4_102_444_800_000_u64 + number as u64).to_string();
            let words = [b"HPEXPIREAT", key.as_bytes(), time.as_bytes(), b"FIELDS", b"3", b"12", b"0", b"128"];
            client.command(&words).await.unwrap();
        }
    }
    server
}

/// The form in which a server of this series writes.
fn own_form(series: ValkeySeries) -> &'static [u8] {
    match series {
        ValkeySeries::Eight => b"REDIS0011",
        ValkeySeries::Nine => b"VALKEY080",
    }
}

fn tools_of(series: ValkeySeries) -> DrillTools {
    DrillTools { directories: vec![series.programs()], ..DrillTools::default() }
}

/// A server in this process that has loaded the streams.
async fn loaded(streams: &MemoryStreams, series: ValkeySeries, place: &tempfile::TempDir) -> Box<dyn ThrowAway> {
    let mut drill = here(&streams.facts, &[series.programs()], &context(place)).await;
    drill.load(streams).await.unwrap();
    drill
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_data_of_valkey_is_captured_loaded_in_a_worker_and_proved() {
    for series in BOTH {
        let server = filled(series).await;
        let streams = captured_as_told(&server).await;
        assert_eq!(streams.names(), ["users", "settings", "dump"]);
        assert!(content(&streams, "dump").starts_with(own_form(series)), "{series:?}");
        let version = streams.facts.server_version.clone().unwrap();
        assert!(version.starts_with("Valkey ") && streams.facts.warnings.is_empty(), "{:?}", streams.facts);
        assert!(text(&streams, "settings").contains("\nrdb-version-check strict\n"));
        drop(server);
        let place = scratch();
        let drill = throw_away(&worker(), &streams, tools_of(series), &context(&place)).await;
        let mut drill = drill.unwrap().unwrap();
        drill.load(&streams).await.unwrap();
        let queries = [query("HGET hash a", Some("string 1")), query("SET text two", None)];
        let checks = drill.check(&queries).await.unwrap();
        let passed: Vec<bool> = checks.iter().map(|check| check.passed).collect();
        assert_eq!(passed, [true, true, true, false], "{checks:?}");
        assert!(checks[3].detail.contains("may only read"), "{checks:?}");
        let error = drill.check(&[query("GETT text", None)]).await.unwrap_err();
        assert_eq!(error.class(), Class::Configuration, "{error:?}");
        let proof = drill.prove(&streams).await.unwrap();
        assert!(proof.is_equal() && proof.notes.is_empty(), "{series:?}: {proof:#?}");
        // Six types in database 0, strings in 15; four users, functions, and the numbers of keys.
        assert_eq!((proof.tables, proof.definitions), (7, 6), "{proof:?}");
        assert_eq!(proof.server_version, Some(version), "{proof:?}");
        drill.stop().await.unwrap();
        assert_eq!(std::fs::read_dir(place.path()).map_or(0, Iterator::count), 0, "something is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_valkey_proves_what_an_older_one_wrote() {
    let streams = captured_as_told(&filled(ValkeySeries::Eight).await).await;
    let place = scratch();
    let mut drill = loaded(&streams, ValkeySeries::Nine, &place).await;
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.is_equal() && proof.rows >= 65, "{:#?}", proof.differences);
    assert!(proof.notes.len() == 1 && proof.notes[0].starts_with("users were loaded but not compared"), "{proof:?}");
    drill.stop().await.unwrap();
    // An older one is not started.
    let streams = captured(&Redis::start_valkey(ValkeySeries::Nine).await).await;
    let cx = context(&place);
    let engine = registry::find("redis").unwrap();
    let error = match engine.throw_away(&streams.facts, &[ValkeySeries::Eight.programs()], &cx).await {
        Ok(_) => panic!("an older server was started"),
        Err(error) => error,
    };
    assert!(error.message().contains("a Valkey 9.1 server for the drill are not installed (there is 8."), "{error:?}");
    assert!(error.hint_text().unwrap().starts_with("install valkey-server of Valkey 9.1 or newer"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sabotage_of_valkey_is_found_and_named() {
    const OF_BOTH: [(&str, &str); 4] = [
        ("SET text two", "all strings in database 0: keys differ"),
        ("PEXPIREAT late 4102444800124", "expiry of keys in database 0: times differ"),
        ("FUNCTION DELETE lib", "libraries of functions: 1 texts stored"),
        ("ACL SETUSER app +set", "definition of user app"),
    ];
    const OF_FIELDS: [(&str, &str); 5] = [
        ("HPEXPIREAT fields 4102444800124 FIELDS 1 soon", "all hashes in database 0: keys differ"),
        ("HPERSIST fields FIELDS 1 late", "all hashes in database 0: keys differ"),
        ("HPEXPIREAT fields 4102444800123 FIELDS 1 stays", "all hashes in database 0: keys differ"),
        ("HDEL fields soon", "all hashes in database 0: keys differ"),
        (
            "HPEXPIREAT fields 4102444900123 FIELDS 1 soon\nHPEXPIREAT fields 4102444800123 FIELDS 1 late",
            "all hashes in database 0: keys differ",
        ),
    ];
    for series in BOTH {
        let server = Redis::start_valkey(series).await;
        server.run("SET text one\nSET late x PXAT 4102444800123\nACL SETUSER app on >secret ~app:* +get").await;
        let function = b"#!lua name=lib\nserver.register_function('f', function() return 1 end)";
        server.client().await.command(&[b"FUNCTION", b"LOAD", function]).await.unwrap();
        let mut attempts = OF_BOTH.to_vec();
        if series == ValkeySeries::Nine {
            server.run(FIELDS).await;
            attempts.extend(OF_FIELDS);
        }
        let streams = captured_as_told(&server).await;
        for (commands, named) in attempts {
            let place = scratch();
            let mut drill = loaded(&streams, series, &place).await;
            assert!(drill.prove(&streams).await.unwrap().is_equal());
            sabotage(drill.as_ref(), commands).await;
            let proof = drill.prove(&streams).await.unwrap();
            assert!(proof.differences.iter().any(|it| it.contains(named)), "{series:?}: {commands}: {proof:?}");
            drill.stop().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valkey_is_backed_up_checked_drilled_and_restored_by_the_programs() {
    for series in BOTH {
        let (server, vault) = (filled(series).await, scratch());
        server.run(BACKUP_USER).await;
        let directories = format!("server_directories = [\"{}\"]\n", series.programs().display());
        let host = host_with(&server, &vault, "user = \"backup\"\n", &directories).await;
        let (backup, report) = host.once().await;
        assert_eq!(backup.code(), Some(0), "{backup}");
        assert!(report["snapshot"].is_string(), "{backup}");
        let master = host.master().display().to_string();
        let drill = host.lifeboat(&["-i", &master, "--json", "drill", "data"]).await;
        assert_eq!(drill.code(), Some(0), "{drill}");
        let report = drill.json().unwrap();
        assert_eq!(report["reached"], "proved", "{report:#}");
        let lives = Redis::start_valkey(series).await;
        let address = format!("socket:{}", lives.socket().display());
        let into = host.lifeboat(&["-i", &master, "restore", "data", "--to-redis", &address]).await;
        assert_eq!(into.code(), Some(0), "{into}");
        if series == ValkeySeries::Nine {
            let mut client = lives.client().await;
            assert_eq!(client.text("HPEXPIRETIME fields FIELDS 1 soon").await, "4102444800123");
            assert_eq!(client.text("HPEXPIRETIME fields FIELDS 1 stays").await, "-1");
        }
        let redis = Redis::start().await;
        let address = format!("socket:{}", redis.socket().display());
        let refused = host.lifeboat(&["-i", &master, "restore", "data", "--to-redis", &address]).await;
        assert_eq!(refused.code(), Some(2), "{refused}");
        assert!(refused.stderr.contains("does not take it: nothing was changed"), "{refused}");
        assert_eq!(keys(&redis, 0).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_expire_meanwhile_fail_no_drill() {
    let server = Redis::start_valkey(ValkeySeries::Nine).await;
    server.run("HSET hash stays a at:load b at:proof c\nHSET whole a 1\nHSET kept a 1").await;
    server.run("HPEXPIRE hash 6000 FIELDS 1 at:proof\nHPEXPIRE hash 900 FIELDS 1 at:load").await;
    server.run("HPEXPIRE whole 900 FIELDS 1 a").await;
    let streams = captured_as_told(&server).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let place = scratch();
    let mut drill = loaded(&streams, ValkeySeries::Nine, &place).await;
    let checks = drill.check(&[]).await.unwrap();
    assert!(checks.iter().all(|check| check.passed), "{checks:?}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.is_equal() && proof.rows == 3, "{proof:?}");
    drill.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_fields_that_expire_fails_with_the_command_that_helps() {
    let server = Redis::start_valkey(ValkeySeries::Nine).await;
    server.run("SET a 1\nACL SETUSER other on nopass +@all").await;
    // Without such fields, the server sends the form of Redis to whoever asks like an old client.
    assert!(content(&captured(&server).await, "dump").starts_with(b"REDIS0011"));
    server.run(FIELDS).await;
    let cx = context(&scratch());
    for (user, hint) in [
        (None, "back up as a user of its own, with +replconf|rdb-only"),
        (Some("other"), "ACL SETUSER other -replconf +replconf|rdb-only"),
    ] {
        let error = try_captured(server.source(user), &cx).await.unwrap_err();
        assert!(error.class() == Class::Source && error.message().contains("1 hashes"), "{error:?}");
        assert!(error.hint_text().unwrap().starts_with(hint), "{error:?}");
        let found = RedisSource(server.source(user)).check(&cx).await;
        assert_eq!(found.broken[0].hint_text(), error.hint_text(), "{found:?}");
    }
    server.run("ACL SETUSER other -replconf +replconf|rdb-only").await;
    let found = RedisSource(server.source(Some("other"))).check(&cx).await;
    assert!(found.broken.is_empty() && found.weak.is_empty(), "{found:?}");
    let streams = try_captured(server.source(Some("other")), &cx).await.unwrap();
    assert!(content(&streams, "dump").starts_with(b"VALKEY080"));
    // What a user without rights is told suffices.
    server.run("ACL SETUSER none on nopass +info +acl|whoami +acl|dryrun").await;
    let found = RedisSource(server.source(Some("none"))).check(&cx).await;
    let hint = found.broken[0].hint_text().unwrap();
    server.run(hint).await;
    let whole = try_captured(server.source(Some("none")), &cx).await.unwrap();
    assert!(whole.names().len() == 3 && whole.facts.warnings.is_empty(), "{:?}", whole.facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_data_is_restored_into_the_valkeys_that_know_its_form() {
    let of_redis = Redis::start().await;
    fill_with_awkward_data(&of_redis).await;
    let of_redis = captured(&of_redis).await;
    let (eight, nine) = tokio::join!(filled(ValkeySeries::Eight), filled(ValkeySeries::Nine));
    let (eight, nine) = tokio::join!(captured_as_told(&eight), captured_as_told(&nine));
    let cx = context(&scratch());
    for (streams, into) in [
        (&of_redis, ValkeySeries::Eight),
        (&of_redis, ValkeySeries::Nine),
        (&eight, ValkeySeries::Eight),
        (&eight, ValkeySeries::Nine),
        (&nine, ValkeySeries::Nine),
    ] {
        let to = Redis::start_valkey(into).await;
        to.run(RESTORER).await;
        let wanted = Wanted { globals: true, ..Wanted::default() };
        let outcome = restored(streams, &to, Some(("restorer", "secret")), wanted, &cx).await.unwrap();
        assert_eq!(outcome.written, ["database 0", "database 15"]);
        assert!(outcome.warnings[0].contains("these users were made: app"), "{:?}", outcome.warnings);
        // What a dump of the restored server holds is what the snapshot holds.
        let again = captured_as_told(&to).await;
        let place = scratch();
        let mut drill = loaded(&again, into, &place).await;
        let proof = drill.prove(streams).await.unwrap();
        let keys_differ = proof.differences.iter().any(|it| !it.contains("user"));
        assert!(!keys_differ && proof.rows >= 65, "{into:?}: {:#?}", proof.differences);
        drill.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_the_form_is_refused_untouched() {
    let nine = Redis::start_valkey(ValkeySeries::Nine).await;
    nine.run(FIELDS).await;
    let own = captured_as_told(&nine).await;
    let eight = Redis::start_valkey(ValkeySeries::Eight).await;
    eight.run("SET a 1").await;
    let of_eight = captured(&eight).await;
    // What Redis 7.4 and newer write; no such server is at hand.
    let newer = content(&of_eight, "dump").split_off(9);
    let newer = with_content(&of_eight, "dump", [b"REDIS0012", &newer[..]].concat());
    let mut of_newer_redis = newer;
    of_newer_redis.facts.server_version = Some("7.4.0".to_owned());
    let cx = context(&scratch());
    let all = Wanted { overwrite: true, globals: true, ..Wanted::default() };
    let redis = async || Redis::start().await;
    for (streams, to, why, hint) in [
        (&own, redis().await, "has version 80, and Redis 7.0", "restore it into Valkey 9.0 or newer"),
        (&own, Redis::start_valkey(ValkeySeries::Eight).await, "an older one may not take it", "a newer one"),
        (&of_eight, redis().await, "has version 11, and Redis 7.0", "restore it into Redis 7.2 or newer, or"),
        (
            &of_newer_redis,
            Redis::start_valkey(ValkeySeries::Nine).await,
            "has version 12, and Valkey 9.1",
            "restore it into Redis 7.4 or newer",
        ),
    ] {
        to.run("SET mine 1\nACL SETUSER mine on").await;
        let refused = restored(streams, &to, None, all.clone(), &cx).await.unwrap_err();
        let told = refused.chain_and_hint();
        assert!(refused.class() == Class::Usage && told.contains(why) && told.contains(hint), "{told}");
        assert_eq!(keys(&to, 0).await, "1", "{told}");
        let users = to.client().await.command(&[b"ACL", b"USERS"]).await.unwrap();
        assert_eq!(users, [&b"default"[..], b"mine"], "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_valkey_captures_and_restores_too() {
    let clients: Vec<PathBuf> = vec![ValkeySeries::Eight.programs()];
    assert!(clients[0].join("valkey-cli").is_file(), "valkey-cli is not installed: run `make setup`");
    for series in BOTH {
        let server = filled(series).await;
        server.run(BACKUP_USER).await;
        let config = |user: Option<&str>| RedisConfig { client_directories: clients.clone(), ..server.source(user) };
        let place = scratch();
        let cx = context(&place);
        let streams = try_captured(config(Some("backup")), &cx).await.unwrap();
        assert!(streams.facts.tools["redis-cli"].starts_with("8.1."), "{:?}", streams.facts);
        let error = try_captured(config(Some("nobody")), &cx).await.unwrap_err();
        assert_eq!(error.hint_text(), Some("check user and password"), "{error:?}");
        let to = Redis::start_valkey(series).await;
        let address = format!("socket:{}", to.socket().display());
        let target = registry::find("redis").unwrap().server(&address, None, &clients).unwrap();
        target.load(&streams, &Wanted::default(), &cx).await.unwrap();
        let again = try_captured(RedisConfig { client_directories: clients.clone(), ..to.source(Some("backup")) }, &cx);
        let again = again.await.unwrap();
        let mut drill = here(&again.facts, &clients_and(series, &clients), &cx).await;
        drill.load(&again).await.unwrap();
        let proof = drill.prove(&streams).await.unwrap();
        assert!(proof.is_equal(), "{:#?}", proof.differences);
        drill.stop().await.unwrap();
        let other = Wanted { databases: vec!["15".to_owned()], rename: Some("99".to_owned()), ..Wanted::default() };
        let refused = target.load(&streams, &other, &cx).await.unwrap_err();
        assert!(refused.chain_and_hint().contains("raise `databases`"), "{}", refused.chain_and_hint());
    }
}

/// The programs of this series, and these clients.
fn clients_and(series: ValkeySeries, clients: &[PathBuf]) -> Vec<PathBuf> {
    clients.iter().cloned().chain([series.programs()]).collect()
}
