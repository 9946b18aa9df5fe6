//! Captures: what they hold, what they warn of, and that a cut one never looks like success.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lifeboat_engine::config::{Secret, SecretRef};
use lifeboat_engine::databases::Source;
use lifeboat_engine::databases::mariadb::{MariaConfig, MariaSource};
use lifeboat_engine::databases::streams::{StoredStreams, StreamSink, StreamWriter};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::mariadb::MariaDb;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::work::context;
use rustix::process::{Pid, Signal, kill_process};

use super::{captured, scratch, text, try_captured};

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_holds_its_position_and_says_what_is_weak() {
    let server = MariaDb::start().await;
    server
        .run_sql(
            "",
            "CREATE DATABASE shop; CREATE DATABASE cache;
             CREATE TABLE shop.m (a INT) ENGINE=MyISAM; CREATE TABLE shop.i (a INT);
             CREATE TABLE shop.f (a FLOAT, b FLOAT, c DOUBLE); INSERT INTO shop.f VALUES (0.5, 16777217, 1/3);
             CREATE TABLE shop.gone (a INT); CREATE USER u@'%'; GRANT SELECT ON shop.gone TO u@'%'; DROP TABLE shop.gone;
             GRANT SELECT (a), INSERT (c), UPDATE (c, b) ON shop.f TO u@'%';
             ALTER TABLE shop.f DROP COLUMN c;",
        )
        .await;
    let config = MariaConfig { exclude: vec!["cache".to_owned()], ..server.source("root") };
    let streams = try_captured(config, &context(&scratch())).await.unwrap();
    assert_eq!(streams.names(), ["globals", "database/shop"]);
    let facts = &streams.facts;
    assert!(facts.server_version.as_deref().unwrap().starts_with("10."), "{facts:?}");
    assert!(facts.details["binlog:database/shop"].starts_with("bin.000"), "{facts:?}");
    assert!(facts.details["gtid:database/shop"].starts_with("0-1-"), "{facts:?}");
    for part in ["`shop`.`gone`", "m (MyISAM)", "1 column of type FLOAT", "`f`.`b`"] {
        let part = part.replace("`shop`.`gone`", "shop.gone");
        assert!(facts.warnings.iter().any(|warning| warning.contains(&part)), "{part}: {:?}", facts.warnings);
    }
    assert!(!facts.warnings.iter().any(|warning| warning.contains("`f`.`a`")), "{:?}", facts.warnings);
    // Of a grant, what is still there.
    assert!(facts.warnings.iter().any(|warning| warning.contains("shop.f.c is not")), "{:?}", facts.warnings);
    let globals = text(&streams, "globals");
    assert!(globals.contains("GRANT SELECT (`a`), UPDATE (`b`) ON `shop`.`f` TO"), "{globals}");
    // Twice the same: nothing in a dump tells when it was made.
    let again = captured_shop(&server).await;
    assert_eq!(text(&again, "database/shop"), text(&streams, "database/shop"));
}

async fn captured_shop(server: &MariaDb) -> MemoryStreams {
    let config = MariaConfig { databases: vec!["shop".to_owned()], ..server.source("root") };
    try_captured(config, &context(&scratch())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_a_dump_cannot_hold_is_told() {
    let versioned = "CREATE DATABASE shop; CREATE TABLE shop.old (a INT) WITH SYSTEM VERSIONING;";
    // A newer server that says it is older, as dumps of older ones hold no history.
    let old = MariaDb::start_with(&["--version=10.6.1-MariaDB"]).await;
    old.run_sql("", versioned).await;
    let place = scratch();
    let cx = context(&place);
    let streams = try_captured(old.source("root"), &cx).await.unwrap();
    let told = |warnings: &[String]| {
        warnings.iter().any(|it| it.contains("history of 1 table") && it.contains("10.11") && it.ends_with("old"))
    };
    assert!(told(&streams.facts.warnings), "{:?}", streams.facts.warnings);
    let found = MariaSource(old.source("root")).check(&cx).await;
    assert!(told(&found.weak), "{found:?}");

    let new = MariaDb::start().await;
    new.run_sql("", versioned).await;
    let streams = try_captured(new.source("root"), &cx).await.unwrap();
    assert!(!streams.facts.warnings.iter().any(|it| it.contains("history")), "{:?}", streams.facts.warnings);
    let by_transactions = "CREATE TABLE shop.precise (a INT, s BIGINT UNSIGNED GENERATED ALWAYS AS ROW START,
        e BIGINT UNSIGNED GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING";
    new.run_sql("", by_transactions).await;
    let error = try_captured(new.source("root"), &cx).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("exclude the database"), "{}", error.chain_and_hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hinders_a_capture_is_told_with_what_to_do() {
    let server = MariaDb::start().await;
    server.run_sql("", "CREATE DATABASE shop; CREATE USER locked@localhost IDENTIFIED BY 'right'").await;
    let place = scratch();
    let cx = context(&place);
    let secret = place.path().join("password");
    std::fs::write(&secret, "wrong\n").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut wrong = server.source("locked");
    wrong.password = Some(SecretRef::file(&secret));
    let gone = MariaConfig { databases: vec!["gone".to_owned()], ..server.source("root") };
    let nothing = MariaConfig { exclude: vec!["shop".to_owned()], ..server.source("root") };
    for (config, told, hint) in [
        (wrong, "1045", "check user and password"),
        (gone, "no database `gone`", "shop"),
        (nothing, "no database to capture", "exclude"),
    ] {
        let error = try_captured(config.clone(), &cx).await.unwrap_err();
        assert_eq!(error.class(), Class::Source, "{error:?}");
        let said = error.chain_and_hint();
        assert!(said.contains(told) && error.hint_text().unwrap().contains(hint), "{said}");
        assert!(!said.contains("wrong"), "{said}");
        // `lifeboat check` finds the same without a capture.
        let found = MariaSource(config).check(&cx).await;
        assert!(found.broken.iter().any(|error| error.chain().contains(told)), "{found:?}");
    }
    let config = server.source("root");
    drop(server);
    let away = try_captured(config, &cx).await.unwrap_err();
    assert!(away.hint_text().unwrap().contains("that the server runs"), "{}", away.chain_and_hint());
}

/// Kills the server when the first bytes of a dump come, or looks who can see a password then.
#[derive(Clone)]
struct Meddling {
    streams: MemoryStreams,
    kills: Option<i32>,
    looks_for: Option<String>,
    seen: Arc<AtomicBool>,
    acted: Arc<AtomicBool>,
}

impl StreamSink for Meddling {
    fn open(&self, name: &str) -> Result<Box<dyn StreamWriter>> {
        let inner = StreamSink::open(&self.streams, name)?;
        Ok(Box::new(MeddlingWriter { inner, with: self.clone(), dump: name.starts_with("database/") }))
    }
}

struct MeddlingWriter {
    inner: Box<dyn StreamWriter>,
    with: Meddling,
    dump: bool,
}

#[async_trait]
impl StreamWriter for MeddlingWriter {
    async fn space(&mut self) -> Result<&mut [u8]> {
        self.inner.space().await
    }

    async fn filled(&mut self, length: usize) -> Result<()> {
        if self.dump && !self.with.acted.swap(true, Ordering::SeqCst) {
            if let Some(pid) = self.with.kills.and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL).unwrap();
            }
            if let Some(secret) = &self.with.looks_for {
                self.with.seen.store(is_seen(secret), Ordering::SeqCst);
            }
        }
        self.inner.filled(length).await
    }

    async fn finish(self: Box<Self>, exit: i32) -> Result<()> {
        self.inner.finish(exit).await
    }
}

/// Whether a command line or an environment of a client holds `secret`.
fn is_seen(secret: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let dumps = processes.filter(|entry| {
        std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with("mariadb-dump"))
    });
    let files = dumps.flat_map(|entry| ["cmdline", "environ"].map(|file| entry.path().join(file)));
    let texts: Vec<Vec<u8>> = files.filter_map(|file| std::fs::read(file).ok()).collect();
    assert!(!texts.is_empty(), "no dump runs");
    texts.iter().any(|text| String::from_utf8_lossy(text).contains(secret))
}

fn meddling(kills: Option<u32>, looks_for: Option<&str>) -> Meddling {
    Meddling {
        streams: MemoryStreams::default(),
        kills: kills.and_then(|pid| i32::try_from(pid).ok()),
        looks_for: looks_for.map(str::to_owned),
        seen: Arc::default(),
        acted: Arc::default(),
    }
}

/// More than all pipes and buffers hold.
const LARGE: &str = "CREATE DATABASE shop; CREATE TABLE shop.large (id INT PRIMARY KEY, t VARCHAR(1000));
    USE shop; INSERT INTO shop.large SELECT seq, REPEAT(MD5(seq), 30) FROM seq_1_to_40000;";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_during_a_dump_makes_the_capture_fail() {
    let server = MariaDb::start().await;
    server.run_sql("", LARGE).await;
    let place = scratch();
    let sink = meddling(server.pid(), None);
    let error = MariaSource(server.source("root")).capture(&sink, &context(&place)).await.unwrap_err();
    assert!(sink.acted.load(Ordering::SeqCst));
    assert_eq!(sink.streams.finished(), ["globals"], "a cut dump was finished");
    assert!(error.class() == Class::Source && error.message().contains("cannot dump database shop"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("went away"), "{}", error.chain_and_hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_in_no_command_line_and_no_environment() {
    let password = "s3cr\"et \\ #;'x";
    let server = MariaDb::start().await;
    server.run_sql("", LARGE).await;
    server
        .run_sql("", "CREATE USER b@localhost IDENTIFIED BY 's3cr\"et \\\\ #;''x'; GRANT ALL ON *.* TO b@localhost")
        .await;
    let place = scratch();
    let file = place.path().join("password");
    std::fs::write(&file, password).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(SecretRef::file(&file).read().unwrap().expose(), Secret::new(password.into()).expose());
    let mut config = server.source("b");
    config.password = Some(SecretRef::file(&file));
    let sink = meddling(None, Some("s3cr"));
    MariaSource(config).capture(&sink, &context(&place)).await.unwrap();
    assert!(sink.acted.load(Ordering::SeqCst) && !sink.seen.load(Ordering::SeqCst), "the password was seen");
}

/// The tool would write nothing for as long as it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_which_the_dump_would_never_end_is_named_at_once() {
    let server = MariaDb::start().await;
    let event = "CREATE DATABASE shop; CREATE EVENT shop.clean ON SCHEDULE EVERY 1 DAY DO SELECT ';;'";
    server.run_sql("", event).await;
    let place = scratch();
    let cx = context(&place);
    let failed = try_captured(server.source("root"), &cx).await.unwrap_err();
    let told = "database shop: 1 event with `;;` in the text, at which mariadb-dump never ends: clean";
    assert!(failed.chain().contains(told) && failed.hint_text().unwrap().contains("ALTER EVENT"), "{failed:?}");
    let found = MariaSource(server.source("root")).check(&cx).await;
    assert!(found.broken.iter().any(|error| error.chain().contains(told)), "{found:?}");
    server.run_sql("shop", "ALTER EVENT clean DO SELECT '; ;'").await;
    captured(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_row_changes_one_line() {
    let server = MariaDb::start().await;
    server.run_sql("", LARGE).await;
    let before = captured(&server).await;
    server.run_sql("shop", "UPDATE large SET t = REVERSE(t) WHERE id % 100 = 7").await;
    let after = captured(&server).await;
    let (before, after) = (text(&before, "database/shop"), text(&after, "database/shop"));
    let changed = before.lines().zip(after.lines()).filter(|(before, after)| before != after).count();
    // The rows, and the lines of the position.
    assert!((400..=402).contains(&changed), "{changed} lines changed");
    assert_eq!(before.lines().count(), after.lines().count());
}
