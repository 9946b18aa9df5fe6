//! Captures: what they hold, what they warn of, and that a cut one never looks like success.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lifeboat_engine::config::SecretRef;
use lifeboat_engine::databases::Source;
use lifeboat_engine::databases::redis::{RedisAddress, RedisConfig, RedisSource};
use lifeboat_engine::databases::streams::{StoredStreams, StreamSink, StreamWriter};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::ports;
use lifeboat_tests::redis::Redis;
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::tls::Certificates;
use lifeboat_tests::work::context;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use url::Url;

use super::{captured, content, scratch, text, try_captured};

/// A file with a password that only its owner reads.
fn password_file(place: &TempDir, password: &str) -> SecretRef {
    let file = place.path().join("password");
    std::fs::write(&file, password).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    SecretRef::file(&file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_holds_users_and_settings_without_secrets() {
    let server = Redis::start_with(&["--requirepass", "hunter2", "--masterauth", "hunter3"]).await;
    let mut client = server.client().await;
    client.run("AUTH hunter2\nACL SETUSER app on >hunter4 ~app:* +get\nSET a 1").await;
    let place = scratch();
    let config = RedisConfig { password: Some(password_file(&place, "hunter2\n")), ..server.source(None) };
    let streams = try_captured(config, &context(&place)).await.unwrap();
    assert_eq!(streams.names(), ["users", "settings", "dump"]);
    let users = text(&streams, "users");
    assert!(users.starts_with("user app on ") && users.contains("\nuser default on #"), "{users}");
    let settings = text(&streams, "settings");
    assert!(settings.contains("\nrequirepass (left out)\n") && settings.contains("\nmasterauth (left out)\n"));
    assert!(settings.contains("\nrepl-diskless-sync yes\n") && settings.contains("\nmasteruser \n"), "{settings}");
    for name in streams.names() {
        assert!(!text(&streams, &name).contains("hunter"), "{name}");
    }
    let facts = &streams.facts;
    assert!(facts.server_version.as_deref().unwrap().starts_with("7."), "{facts:?}");
    assert!(facts.tools.contains_key("redis-cli") && facts.warnings.is_empty(), "{facts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_the_same_with_and_without_a_file_of_the_server() {
    let server = Redis::start_with(&["--repl-diskless-sync", "no", "--rdbchecksum", "no"]).await;
    server.run("SET a 1\nRPUSH l 1 2 3").await;
    let through_file = captured(&server).await;
    let warned = |streams: &MemoryStreams, word: &str| streams.facts.warnings.iter().any(|it| it.contains(word));
    assert!(warned(&through_file, "repl-diskless-sync yes") && warned(&through_file, "rdbchecksum"));
    server.run("CONFIG SET repl-diskless-sync yes").await;
    let direct = captured(&server).await;
    assert!(!warned(&direct, "repl-diskless-sync"), "{:?}", direct.facts.warnings);
    for streams in [&through_file, &direct] {
        assert!(content(streams, "dump").ends_with(b"\xff\0\0\0\0\0\0\0\0"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_are_named() {
    let server = Redis::start().await;
    server.run("ACL SETUSER few on nopass ~* +ping +info +sync +replconf\nACL SETUSER none on nopass ~* +info +acl|whoami +acl|dryrun").await;
    let place = scratch();
    let cx = context(&place);
    let few = try_captured(server.source(Some("few")), &cx).await.unwrap();
    assert_eq!(few.names(), ["dump"]);
    let warnings = &few.facts.warnings;
    for word in ["without its users", "+acl|list", "without its settings", "+config|get"] {
        assert!(warnings.iter().any(|it| it.contains(word)), "{warnings:?}");
    }
    let found = RedisSource(server.source(Some("few"))).check(&cx).await;
    assert!(found.broken.is_empty() && found.weak.len() == 2, "{found:?}");
    let none = try_captured(server.source(Some("none")), &cx).await.unwrap_err();
    assert!(none.message().contains("NOPERM") || none.chain().contains("NOPERM"), "{none:?}");
    assert!(none.hint_text().unwrap().contains("OPERATIONS.md"), "{none:?}");
    let found = RedisSource(server.source(Some("none"))).check(&cx).await;
    assert!(found.broken[0].message().contains("may not run SYNC"), "{found:?}");
    assert!(found.broken[0].hint_text().unwrap().starts_with("ACL SETUSER none +ping"), "{found:?}");
    // With what the hint says, nothing is missing.
    let all = found.broken[0].hint_text().unwrap();
    server.run(&format!("{all}\nACL SETUSER none -acl|dryrun")).await;
    let whole = try_captured(server.source(Some("none")), &cx).await.unwrap();
    assert!(whole.names().len() == 3 && whole.facts.warnings.is_empty(), "{:?}", whole.facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_does_not_capture_as_somebody_else() {
    let server = Redis::start().await;
    server.run("ACL SETUSER b on >right ~* +@all").await;
    let place = scratch();
    let cx = context(&place);
    for (user, password) in [(Some("b"), Some("wrong")), (Some("b"), None), (Some("x"), None), (None, Some("x"))] {
        let config = RedisConfig { password: password.map(|it| password_file(&place, it)), ..server.source(user) };
        let error = try_captured(config, &cx).await.unwrap_err();
        assert!(error.class() == Class::Source && error.chain().contains("AUTH failed"), "{user:?}: {error:?}");
        assert_eq!(error.hint_text(), Some("check user and password"));
    }
    let config = RedisConfig { password: Some(password_file(&place, "right")), ..server.source(Some("b")) };
    assert_eq!(try_captured(config, &cx).await.unwrap().names().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lost_its_master_is_told() {
    let server = Redis::start_with(&["--replicaof", "127.0.0.1", "0"]).await;
    let cx = context(&scratch());
    let found = RedisSource(server.source(None)).check(&cx).await;
    assert!(found.broken[0].hint_text().unwrap().contains("reconnect it"), "{found:?}");
    let error = try_captured(server.source(None), &cx).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("back up the master"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_captured_by_tls_and_another_one_is_not() {
    let place = scratch();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (ours, other) = (place.path().join("ours"), place.path().join("other"));
    let (ours, other) = [ours, other]
        .map(|folder| {
            std::fs::create_dir(&folder).unwrap();
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
            let made = Certificates::create(&folder);
            for file in [&made.ca_file, &made.cert_file, &made.key_file] {
                std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
            }
            made
        })
        .into();
    let port = ports::free().to_string();
    let shown = |file: &std::path::Path| file.display().to_string();
    let (ca, cert, key) = (shown(&ours.ca_file), shown(&ours.cert_file), shown(&ours.key_file));
    let server = Redis::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "no",
        "--bind",
        "127.0.0.1",
    ])
    .await;
    server.run("SET a 1").await;
    let config = |ca: &str| RedisConfig {
        address: RedisAddress::Url(Url::parse(&format!("rediss://127.0.0.1:{port}/?sslrootcert={ca}")).unwrap()),
        ..server.source(None)
    };
    let streams = try_captured(config(&ca), &context(&place)).await.unwrap();
    assert_eq!(streams.finished().len(), 3);
    let error = try_captured(config(&shown(&other.ca_file)), &context(&place)).await.unwrap_err();
    assert!(error.chain().contains("certificate verify failed"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("sslrootcert"), "{error:?}");
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
        Ok(Box::new(MeddlingWriter { inner, with: self.clone(), dump: name == "dump" }))
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
    let clients = processes.filter(|entry| {
        std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with("redis-cli"))
    });
    let files = clients.flat_map(|entry| ["cmdline", "environ"].map(|file| entry.path().join(file)));
    let texts: Vec<Vec<u8>> = files.filter_map(|file| std::fs::read(file).ok()).collect();
    assert!(!texts.is_empty(), "no client runs");
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

/// A server with more than all pipes and buffers hold.
async fn large(options: &[&str]) -> Redis {
    let server = Redis::start_with(options).await;
    let mut client = server.client().await;
    for number in 0..60_u8 {
        let mut noise = vec![0; 1_000_000];
        blake3::Hasher::new_keyed(&[number; 32]).finalize_xof().fill(&mut noise);
        client.command(&[b"SET", number.to_string().as_bytes(), &noise]).await.unwrap();
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_during_a_dump_makes_the_capture_fail() {
    // The dump comes from a child, which would go on without its server: a file has no child.
    let server = large(&["--repl-diskless-sync", "no"]).await;
    let place = scratch();
    let sink = meddling(server.pid(), None);
    let error = RedisSource(server.source(None)).capture(&sink, &context(&place)).await.unwrap_err();
    assert!(sink.acted.load(Ordering::SeqCst));
    assert_eq!(sink.streams.finished(), ["settings", "users"], "a cut dump was finished");
    assert!(error.class() == Class::Source && error.message().contains("cannot dump the Redis server"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("closed the connection"), "{}", error.chain_and_hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_in_no_command_line_and_no_environment() {
    let password = "s3cr\"et \\ #;'x";
    let server = large(&[]).await;
    let mut client = server.client().await;
    let given = format!(">{password}");
    client.command(&[b"ACL", b"SETUSER", b"b", b"on", given.as_bytes(), b"~*", b"+@all"]).await.unwrap();
    let place = scratch();
    let config = RedisConfig { password: Some(password_file(&place, password)), ..server.source(Some("b")) };
    let sink = meddling(None, Some("s3cr"));
    RedisSource(config).capture(&sink, &context(&place)).await.unwrap();
    assert!(sink.acted.load(Ordering::SeqCst) && !sink.seen.load(Ordering::SeqCst), "the password was seen");
}
