//! Whoever writes a dump decides what the server of a drill is given, and reaches nothing by it.

use std::time::Duration;

use lifeboat_engine::databases::WorkContext;
use lifeboat_engine::databases::proof::DrillQuery;
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::throw_away;
use lifeboat_tests::programs;
use lifeboat_tests::redis::{Redis, RedisClient};
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{context, throw_away as here};

use super::{captured, content, scratch, text, with_content};

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
        Ok(()) => match drill.check(&[]).await {
            Ok(checks) if checks.iter().all(|check| check.passed) => format!("{:?}", drill.prove(streams).await),
            checks => format!("{checks:?}"),
        },
    };
    let _ = drill.stop().await;
    assert_eq!(std::fs::read_dir(place.path()).map_or(0, Iterator::count), 0, "something is left");
    said
}

async fn simple() -> MemoryStreams {
    let server = Redis::start().await;
    server.run("SET text one\nRPUSH list a b c\nACL SETUSER app on >secret ~app:* +get").await;
    captured(&server).await
}

/// The dump without its checksum, which a server can leave out.
fn unchecked(streams: &MemoryStreams, change: impl Fn(&mut Vec<u8>)) -> MemoryStreams {
    let mut dump = content(streams, "dump");
    dump.truncate(dump.len() - 9);
    change(&mut dump);
    dump.extend([0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    with_content(streams, "dump", dump)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_dump_is_refused_and_nothing_is_left() {
    let streams = simple().await;
    let whole = content(&streams, "dump");
    assert!(drilled(&streams).await.contains("differences: []"));
    let said = drilled(&unchecked(&streams, |_| {})).await;
    assert!(said.contains("differences: []") && said.contains("has no checksum"), "{said}");
    // What old servers wrote in error, and every server leaves out when it loads.
    let said = drilled(&unchecked(&streams, |dump| dump.extend(b"\x02\x05empty\x00"))).await;
    assert!(said.contains("differences: []") && said.contains("1 keys have no element"), "{said}");
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    for (dump, said) in [
        (whole[..whole.len() - 3].to_vec(), "in the middle"),
        (flipped, "checksum is wrong"),
        ([&whole[..], b"more"].concat(), "behind its end"),
        (b"REDIS9999".to_vec(), "version 9999"),
        (Vec::new(), "in the middle"),
    ] {
        let found = drilled(&with_content(&streams, "dump", dump)).await;
        assert!(found.contains(said), "{said}: {found}");
    }
    let add = |more: &'static [u8]| move |dump: &mut Vec<u8>| dump.extend(more);
    // A module's value; a list that says that it is very long; a listpack that ends elsewhere; the
    // same key again, which the reader takes and the server does not.
    for (more, said) in [
        (&b"\x07\x01k\x81\x44\x97\x8e\x3f\x4e\x26\xcb\x03"[..], "no drill loads modules"),
        (b"\x01\x01k\x81\x7f\xff\xff\xff\xff\xff\xff\xff", "damaged"),
        (b"\x10\x01k\x08\xff\0\0\0\x01\0\x01\x01\xff", "damaged"),
        (b"\x00\x04text\x01x", "redis-check-rdb refuses\u{0}throw-away Redis server ended\u{0}stored"),
    ] {
        let found = drilled(&unchecked(&streams, add(more))).await;
        assert!(said.split('\0').any(|said| found.contains(said)), "{said}: {found}");
        assert!(!found.contains("differences: []"), "{found}");
    }
}

/// Loading a library runs it, in a server that answers nobody meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_without_an_end_does_not_hold_a_drill_up() {
    let streams = simple().await;
    let talks = format!("while true do redis.log(redis.LOG_WARNING, '{}') end", "x".repeat(900));
    for (body, told) in [("while true do end", "gave no answer for"), (&talks, "wrote a log of more than 64 MiB")] {
        let library = format!("#!lua name=endless\n{body}");
        let endless = unchecked(&streams, |dump| {
            dump.push(0xf5);
            dump.push(0x40 | u8::try_from(library.len() >> 8).unwrap());
            dump.push(u8::try_from(library.len() & 0xff).unwrap());
            dump.extend(library.as_bytes());
        });
        let place = scratch();
        let cx = WorkContext { stall: Duration::from_secs(8), ..context(&place) };
        let mut drill = here(&endless.facts, &[], &cx).await;
        let loaded = tokio::time::timeout(Duration::from_secs(60), drill.load(&endless)).await;
        let said = loaded.expect("it ends").expect_err("it is refused").chain_and_hint();
        assert!(said.contains(told) && said.contains("libraries of functions"), "{body}: {said}");
        drill.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_stream_of_users_gives_no_setting_and_nobody_our_rights() {
    let streams = simple().await;
    let users = text(&streams, "users");
    for forged in [
        format!("{users}loadmodule /tmp/x.so\n"),
        format!("{users}user x on\r\n"),
        format!("{users}user app on nopass ~* +@all\n"),
        format!("user  on nopass\n{users}"),
    ] {
        let said = drilled(&with_content(&streams, "users", forged.into_bytes())).await;
        assert!(said.contains("not understood"), "{said}");
    }
    let odd = format!("{users}user x on nonsense\n");
    let said = drilled(&with_content(&streams, "users", odd.into_bytes())).await;
    assert!(said.contains("throw-away Redis server ended") && said.contains("users.acl:5: Syntax error"), "{said}");
}

/// Functions are code of whoever wrote the dump. Redis runs them in Lua without files; and a drill
/// keeps its server from modules and from settings that name files.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_a_drill_loads_no_module_and_writes_no_file_elsewhere() {
    let streams = simple().await;
    let place = scratch();
    let mut drill = here(&streams.facts, &[], &context(&place)).await;
    drill.load(&streams).await.unwrap();
    let address = drill.address().unwrap();
    let mut client = RedisClient::connect(&address.socket_directory.join("redis.sock")).await;
    client.command(&[b"AUTH", address.user.as_bytes(), b""]).await.unwrap();
    for command in ["MODULE LOAD /tmp/x.so", "CONFIG SET dir /tmp", "CONFIG SET dbfilename x", "DEBUG SLEEP 0"] {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let refused = client.command(&words).await.unwrap_err();
        assert!(refused.contains("not allowed") || refused.contains("protected config"), "{command}: {refused}");
    }
    let query =
        DrillQuery { database: None, sql: "EVAL 'return 1' 0".to_owned(), expect: None, ..DrillQuery::default() };
    let checks = drill.check(&[query]).await.unwrap();
    assert!(checks.last().is_some_and(|check| !check.passed), "{checks:?}");
    drill.stop().await.unwrap();
}
