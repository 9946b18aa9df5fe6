//! The drill's units, as systemd runs them: a benign snapshot is proved, and one that attacks finds
//! nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::bait::{SHOW_LOOT, bait, found, program};
use lifeboat_tests::booted::Booted;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::{self, run};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{files_below, name};
use tempfile::TempDir;

/// The accounts, as sysusers would make them.
const DRILL_USER: u32 = 990;
const WORKER_USER: u32 = 991;
const DEADLINE: Duration = Duration::from_secs(120);

/// A drill host: its files, with a vault in which `server` was backed up.
async fn drill_host(server: &Postgres, drill: &str) -> TempDir {
    let files = TempDir::new().unwrap();
    let path = |below: &str| files.path().join(below);
    for folder in ["srv/vault", "etc/lifeboat/keys/credentials", "usr/local/bin", "var/lib/prometheus/node-exporter"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    let replica = |directory: PathBuf| ReplicaConfig {
        name: name("r1"),
        region: "away".to_owned(),
        kind: ReplicaKind::Directory { path: directory },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    };
    let source = format!(
        "kind = \"postgres\"\nurl = \"{}\"\nclient_directories = [\"{}\"]",
        server.url("postgres"),
        server.programs().display()
    );
    let host = BackupHost::set_up(&[section(&replica(path("srv/vault")))], &source).await;
    let backup = run(host.lifeboatd().arg("--once"), DEADLINE).await.unwrap();
    assert_eq!(backup.code(), Some(0), "{backup}");

    let keys = host.path().join("keys").join(DRILL_HOST_FOLDER);
    for key in ["drill-identity", "drill-signer"] {
        fs::copy(keys.join(key), path("etc/lifeboat/keys").join(key)).unwrap();
        fs::set_permissions(path("etc/lifeboat/keys").join(key), fs::Permissions::from_mode(0o600)).unwrap();
    }
    // A credential of the directory, which only root can read there.
    let signer = path("etc/lifeboat/keys/credentials/signer");
    fs::copy(keys.join("drill-signer"), &signer).unwrap();
    fs::set_permissions(&signer, fs::Permissions::from_mode(0o600)).unwrap();
    // Not the real modes: each layer of the sandbox must hold alone.
    fs::write(path("etc/lifeboat/keys/canary"), "CANARY").unwrap();
    let config = format!(
        "host = \"drill1\"\nvault_prefix = \"vault\"\nstate_directory = \"/var/lib/lifeboat-drill\"\n\
         [keys]\ntrusted_signers = [\"{}\"]\ndrill_signer = \"credential:signer\"\n{}\n[[dataset]]\nname = \"data\"\nhome_region = \"home\"\n\
         [dataset.source]\nkind = \"postgres\"\nsocket = \"/var/run/postgresql\"\n[dataset.drill]\n{drill}\n",
        host.signer,
        section(&replica("/srv/vault".into())),
    );
    fs::write(path("etc/lifeboat/lifeboat.toml"), config).unwrap();
    for program in ["lifeboat", "lifeboat-worker"] {
        fs::copy(programs::directory().join(program), path("usr/local/bin").join(program)).unwrap();
    }
    for file in ["passwd", "group"] {
        let rest = if file == "passwd" { "::/nonexistent:/usr/sbin/nologin" } else { "" };
        let known = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
        let without: Vec<&str> = known.lines().filter(|line| !line.starts_with("lifeboat")).collect();
        let accounts = [("lifeboat-drill", DRILL_USER), ("lifeboat-worker", WORKER_USER)].map(|(name, id)| {
            let id = if file == "passwd" { format!("{id}:{id}") } else { format!("{id}:") };
            format!("{name}:x:{id}{rest}\n")
        });
        fs::write(path("etc").join(file), format!("{}\n{}", without.join("\n"), accounts.concat())).unwrap();
    }
    for file in files_below(&path("srv")) {
        chown(file, Some(DRILL_USER), Some(DRILL_USER)).unwrap();
    }
    for folder in
        ["", "etc", "etc/lifeboat", "etc/lifeboat/keys", "srv", "srv/vault", "usr/local/bin", "var", "var/lib"]
    {
        fs::set_permissions(path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    chown(path("var/lib/prometheus/node-exporter"), Some(DRILL_USER), Some(DRILL_USER)).unwrap();
    files
}

/// The project's units, and a drop-in that puts the drill's output where a test finds it.
fn boot(files: &TempDir) -> Booted {
    let units = TempDir::new().unwrap();
    for unit in fs::read_dir(tools::workspace().join("systemd")).unwrap().flatten() {
        fs::copy(unit.path(), units.path().join(unit.file_name())).unwrap();
    }
    let drop_in = units.path().join("lifeboat-drill@.service.d");
    fs::create_dir(&drop_in).unwrap();
    fs::write(drop_in.join("output.conf"), "[Service]\nStandardOutput=file:/srv/out\nStandardError=file:/srv/err\n")
        .unwrap();
    Booted::start(units.path(), files.path())
}

/// Drills, and returns whether the unit succeeded, and the report that it left.
fn drill(booted: &Booted) -> (bool, serde_json::Value) {
    let started = booted.run(&["systemctl", "start", "lifeboat-drill@data.service"]);
    let said = format!(
        "{}\n{}\n{}\n{}",
        String::from_utf8_lossy(&started.stderr),
        booted.read("/srv/out"),
        booted.read("/srv/err"),
        booted.log()
    );
    let listed = booted.run(&["find", "/var/lib/lifeboat-drill/drills", "-name", "*.json"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let report = listed.lines().next().unwrap_or_else(|| panic!("no report: {said}"));
    let report = serde_json::from_str(&booted.read(report)).unwrap_or_else(|error| panic!("{error}: {said}"));
    (started.status.success(), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_prove_a_benign_snapshot_and_leave_nothing() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    server.run_sql("shop", "CREATE TABLE t AS SELECT n, n::text AS s FROM generate_series(1, 5000) n").await;
    let files = drill_host(&server, "level = \"proved\"").await;
    let booted = boot(&files);
    let (passed, report) = drill(&booted);
    assert!(passed && report["reached"] == "proved", "{report:#}");
    // systemd removes the worker's private directory a moment after the worker has ended.
    let began = Instant::now();
    let left = loop {
        let left = booted.run(&[
            "sh",
            "-c",
            "ls -A /var/tmp | grep -E 'lifeboat|systemd-private'; pgrep -a postgres; systemctl list-units --plain --no-legend 'lifeboat-worker@*'",
        ]);
        let left = String::from_utf8_lossy(&left.stdout).trim().to_owned();
        if left.is_empty() || began.elapsed() > Duration::from_secs(20) {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(left, "", "this is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_attacks_finds_nothing_in_the_unit_of_a_worker() {
    let server = Postgres::start().await;
    server.create_database("shop").await;
    // Nobody but a worker's network namespace is in the way.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "cat /etc/lifeboat/keys/canary /run/credentials/*/* 2>&1; ls -A /run /etc/lifeboat /var/lib/lifeboat-drill 2>&1; \
         echo env:$(grep -a . /proc/[0-9]*/environ 2>/dev/null | grep -c LIFEBOAT_WORKER_SOCKET); \
         bash -c 'echo hello > /dev/tcp/127.0.0.1/{port}' 2>/dev/null && echo net:open; \
         touch /srv/written /var/lib/written /usr/local/bin/written /dev/shm/written 2>&1; systemctl list-units 2>&1; \
         unshare -Ur true 2>/dev/null && echo namespaces:open; id -u; echo over"
    );
    server.run_sql("shop", &bait(&program(&script))).await;
    let files = drill_host(&server, SHOW_LOOT).await;
    let booted = boot(&files);
    let (passed, report) = drill(&booted);
    assert!(!passed, "{report:#}");
    let found = found(&report);
    assert!(found.ends_with("~ 991 ~ over"), "the attack was not carried out: {found}");
    for forbidden in ["CANARY", "AGE-SECRET-KEY", "drill-identity", "~ root", "net:open", "namespaces:open"] {
        assert!(!found.contains(forbidden), "{forbidden}: {found}");
    }
    assert!(found.contains("env:0"), "{found}");
    assert!(listener.accept().is_err(), "the network was reached");
    for written in ["/srv/written", "/var/lib/written", "/usr/local/bin/written", "/dev/shm/written"] {
        assert!(!booted.run(&["test", "-e", written]).status.success(), "{written}");
    }
}
