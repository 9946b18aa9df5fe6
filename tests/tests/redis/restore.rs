//! Restores into a server that runs.

use lifeboat_engine::config::Secret;
use lifeboat_engine::databases::{RestoreOutcome, Target, Wanted, WorkContext, load, registry};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::redis::{Redis, fill_with_awkward_data};
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::{context, throw_away};

use super::{captured, content, scratch, with_content};

/// The user of OPERATIONS.md that restores.
pub(super) const RESTORER: &str = "ACL SETUSER restorer on >secret ~* &* +ping +echo +info +time +eval +select +dbsize \
    +flushdb +restore +function|restore +acl|users +acl|setuser";
const TWO_DATABASES: &str = "SET kept 1\nSET late x PXAT 4102444800123\nSELECT 3\nSET other 3";

pub(super) async fn restored(
    streams: &MemoryStreams,
    to: &Redis,
    who: Option<(&str, &str)>,
    wanted: Wanted,
    cx: &WorkContext,
) -> Result<RestoreOutcome> {
    let user = who.map(|(user, _)| format!("?user={user}")).unwrap_or_default();
    let password = who.map(|(_, password)| Secret::new(password.as_bytes().to_vec()));
    let address = format!("socket:{}{user}", to.socket().display());
    let server = registry::find("redis").unwrap().server(&address, password, &[]).unwrap();
    load(streams, &Target::Server { server, wanted }, cx).await
}

/// How many keys a database has.
pub(super) async fn keys(server: &Redis, database: u64) -> String {
    let mut client = server.client().await;
    client.run(&format!("SELECT {database}")).await;
    client.text("DBSIZE").await
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_data_is_restored_into_a_server_that_runs() {
    let (from, to) = (Redis::start().await, Redis::start().await);
    fill_with_awkward_data(&from).await;
    let (streams, place) = (captured(&from).await, scratch());
    let cx = context(&place);
    let outcome = restored(&streams, &to, None, Wanted::default(), &cx).await.unwrap();
    assert_eq!(outcome.written, ["database 0", "database 15"]);
    assert!(outcome.warnings[0].contains("these users were made: app, off"), "{:?}", outcome.warnings);
    // What a dump of the restored server holds is what the snapshot holds.
    let again = captured(&to).await;
    let mut drill = throw_away(&again.facts, &[], &cx).await;
    drill.load(&again).await.unwrap();
    let proof = drill.prove(&streams).await.unwrap();
    assert!(proof.is_equal() && proof.rows >= 65, "{:#?}", proof.differences);
    drill.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_kept_unless_told_otherwise() {
    let (from, to) = (Redis::start().await, Redis::start().await);
    from.run(TWO_DATABASES).await;
    to.run("SELECT 3\nSET mine 1\nSELECT 5\nSET untouched 1").await;
    let (streams, place) = (captured(&from).await, scratch());
    let cx = context(&place);
    // Database 0 is loaded first, and emptied again.
    let refused = restored(&streams, &to, None, Wanted::default(), &cx).await.unwrap_err();
    assert_eq!(refused.class(), Class::Usage, "{refused:?}");
    assert!(refused.chain_and_hint().contains("database 3 of the server holds 1 keys"), "{}", refused.chain_and_hint());
    assert_eq!((keys(&to, 0).await, keys(&to, 3).await), ("0".to_owned(), "1".to_owned()));

    let lacking = Wanted { databases: vec!["9".to_owned()], globals: true, ..Wanted::default() };
    let refused = restored(&streams, &to, None, lacking, &cx).await.unwrap_err();
    assert!(refused.message().contains("holds no key in database 9"), "{refused:?}");
    let one = Wanted { databases: vec!["3".to_owned()], rename: Some("7".to_owned()), ..Wanted::default() };
    let outcome = restored(&streams, &to, None, one, &cx).await.unwrap();
    assert_eq!((outcome.written, keys(&to, 7).await), (vec!["database 7".to_owned()], "1".to_owned()));

    let all = Wanted { overwrite: true, ..Wanted::default() };
    restored(&streams, &to, None, all, &cx).await.unwrap();
    let mut client = to.client().await;
    assert_eq!(client.text("PEXPIRETIME late").await, "4102444800123");
    client.run("SELECT 3").await;
    assert_eq!((client.text("GET other").await, client.text("EXISTS mine").await), ("3".to_owned(), "0".to_owned()));
    client.run("SELECT 5").await;
    assert_eq!(client.text("GET untouched").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_leaves_no_part_that_looks_whole() {
    let (from, few) = (Redis::start().await, Redis::start_with(&["--databases", "2"]).await);
    from.run(TWO_DATABASES).await;
    let (streams, place) = (captured(&from).await, scratch());
    let cx = context(&place);
    // What is of a database that the server does not have must not come into another one.
    let refused = restored(&streams, &few, None, Wanted::default(), &cx).await.unwrap_err();
    assert!(refused.chain_and_hint().contains("raise `databases`"), "{}", refused.chain_and_hint());
    assert_eq!(keys(&few, 0).await, "0");

    let full = Redis::start_with(&["--maxmemory", "3mb"]).await;
    let large = Redis::start().await;
    let mut client = large.client().await;
    for number in 0..40_u8 {
        let noise = blake3::Hasher::new().update(&[number]).finalize_xof();
        let mut value = vec![0; 200_000];
        { noise }.fill(&mut value);
        client.command(&[b"SET", &[number], &value]).await.unwrap();
    }
    let streams = captured(&large).await;
    let refused = restored(&streams, &full, None, Wanted::default(), &cx).await.unwrap_err();
    assert!(refused.chain_and_hint().contains("raise maxmemory"), "{}", refused.chain_and_hint());
    assert_eq!(keys(&full, 0).await, "0");

    let evicting = Redis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let refused = restored(&streams, &evicting, None, Wanted::default(), &cx).await.unwrap_err();
    assert!(refused.chain_and_hint().contains("evicted"), "{}", refused.chain_and_hint());
    assert_eq!(keys(&evicting, 0).await, "0");

    let to = Redis::start().await;
    let mut damaged = content(&streams, "dump");
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    let damaged = with_content(&streams, "dump", damaged);
    let refused = restored(&damaged, &to, None, Wanted::default(), &cx).await.unwrap_err();
    assert_eq!(refused.class(), Class::Integrity, "{refused:?}");
    assert_eq!(keys(&to, 0).await, "0");

    let replica = Redis::start_with(&["--replicaof", "127.0.0.1 1"]).await;
    let refused = restored(&streams, &replica, None, Wanted::default(), &cx).await.unwrap_err();
    assert!(refused.message().contains("is a replica"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_documented_rights_restores() {
    let (from, to) = (Redis::start().await, Redis::start().await);
    from.run(TWO_DATABASES).await;
    from.run("ACL SETUSER app on >x ~app:* +get").await;
    to.run(RESTORER).await;
    let (streams, place) = (captured(&from).await, scratch());
    let cx = context(&place);
    let wrong = restored(&streams, &to, Some(("restorer", "wrong")), Wanted::default(), &cx).await.unwrap_err();
    assert!(wrong.chain_and_hint().contains("check user and password"), "{}", wrong.chain_and_hint());
    let wanted = Wanted { globals: true, ..Wanted::default() };
    let outcome = restored(&streams, &to, Some(("restorer", "secret")), wanted.clone(), &cx).await.unwrap();
    assert!(
        outcome.warnings.iter().any(|warning| warning.contains("these users were made: app;")),
        "{:?}",
        outcome.warnings
    );
    let users = to.client().await.command(&[b"ACL", b"USERS"]).await.unwrap();
    assert_eq!(users, [&b"app"[..], b"default", b"restorer"]);
    // Without --globals, a server that has users keeps to them, and that is told.
    let again = Wanted { overwrite: true, ..Wanted::default() };
    let outcome = restored(&streams, &to, Some(("restorer", "secret")), again, &cx).await.unwrap();
    assert!(outcome.warnings[0].contains("pass --globals"), "{:?}", outcome.warnings);
    // A client that may not choose a database goes on in database 0: nothing may happen there.
    to.run("ACL SETUSER restorer -select").await;
    let three = Wanted { databases: vec!["3".to_owned()], overwrite: true, ..Wanted::default() };
    to.run("SET mine 1").await;
    let refused = restored(&streams, &to, Some(("restorer", "secret")), three, &cx).await.unwrap_err();
    assert!(refused.chain_and_hint().contains("see the rights"), "{}", refused.chain_and_hint());
    assert_eq!(to.client().await.text("GET mine").await, "1");
    to.run("ACL SETUSER restorer +select -restore").await;
    let wanted = Wanted { overwrite: true, ..wanted };
    let refused = restored(&streams, &to, Some(("restorer", "secret")), wanted, &cx).await.unwrap_err();
    assert!(refused.chain_and_hint().contains("see the rights"), "{}", refused.chain_and_hint());
    assert_eq!(keys(&to, 0).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_cancelled_leaves_no_key() {
    let (from, to) = (Redis::start().await, Redis::start().await);
    let mut client = from.client().await;
    for number in 0..400_u32 {
        client.command(&[b"SET", &number.to_le_bytes(), &vec![b'x'; 100_000]]).await.unwrap();
    }
    let (streams, place) = (captured(&from).await, scratch());
    let cx = context(&place);
    let (restored, ()) = tokio::join!(restored(&streams, &to, None, Wanted::default(), &cx), async {
        while keys(&to, 0).await == "0" {}
        cx.cancel.cancel();
    });
    assert!(restored.is_err(), "the restore was over before it could be cancelled");
    assert_eq!(keys(&to, 0).await, "0", "a part of the snapshot is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_meanwhile_is_not_removed() {
    let (from, to) = (Redis::start().await, Redis::start().await);
    let mut client = from.client().await;
    for number in 0..400_u32 {
        client.command(&[b"SET", format!("key {number}").as_bytes(), &vec![b'x'; 100_000]]).await.unwrap();
    }
    let (streams, place) = (captured(&from).await, scratch());
    let cx = context(&place);
    let mut other = to.client().await;
    let (restored, ()) = tokio::join!(restored(&streams, &to, None, Wanted::default(), &cx), async {
        while other.text("DBSIZE").await == "0" {}
        for number in 0..400_u32 {
            let _ = other.command(&[b"SET", format!("key {number}").as_bytes(), b"mine", b"NX"]).await;
        }
    });
    let told = restored.unwrap_err().chain_and_hint();
    assert!(told.contains("somebody else writes into") && told.contains("empty it by hand"), "{told}");
    assert_ne!(keys(&to, 0).await, "0");
}
