//! Faults under the built programs: each gives its documented exit code and a clear error, and
//! nothing committed is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::proxy::{Mode, Proxy};
use lifeboat_tests::s3::Region;
use lifeboat_tests::small_disk::SmallDisk;
use lifeboat_tests::vault::{name, noise};
use serde_json::Value;
use tokio::process::Child;

/// How long a region answers everything with SlowDown, …
const THROTTLED: Duration = Duration::from_secs(16);
/// … and what it says in `Retry-After`.
const THROTTLED_PAUSE: Duration = Duration::from_secs(3);

fn directory(replica: &str, path: &Path) -> String {
    std::fs::create_dir_all(path).unwrap();
    section(&ReplicaConfig {
        name: name(replica),
        region: format!("region-{replica}"),
        kind: ReplicaKind::Directory { path: path.to_owned() },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    })
}

fn source(script: &str) -> String {
    format!("kind = \"command\"\nargv = [\"/bin/sh\", \"-c\", \"{script}\"]")
}

fn replica<'r>(report: &'r Value, wanted: &str) -> &'r Value {
    report["replicas"].as_array().unwrap().iter().find(|replica| replica["replica"] == wanted).unwrap()
}

/// Everything that was ever committed is whole.
async fn assert_whole(host: &BackupHost, snapshots: usize) {
    let master = host.master().display().to_string();
    let output = host.lifeboat(&["--json", "--identity", &master, "verify", "data", "--read-data"]).await;
    assert!(output.status.success(), "{} {}", output.stdout, output.stderr);
    let list = host.lifeboat(&["--json", "list", "data"]).await.json().unwrap();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), snapshots, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_region_falls_behind_or_fails_the_run_as_min_replicas_says() {
    let (near, far) = (Region::start("near").await, Region::start("far").await);
    let proxy = Proxy::start(far.plain_address()).await;
    let mut through = far.replica_config("far");
    through.timeout = Duration::from_secs(2);
    if let ReplicaKind::S3(s3) = &mut through.kind {
        s3.endpoint = Some(format!("http://{}", proxy.address()).parse().unwrap());
        s3.ca_file = None;
    }
    let replicas = [section(&near.replica_config("near")), section(&through)];
    let data = tempfile::NamedTempFile::new().unwrap();
    let source = source(&format!("cat {}", data.path().display()));
    std::fs::write(data.path(), noise(600_000, 0)).unwrap();
    let host = BackupHost::set_up(&replicas, &source).await;
    let (first, report) = host.once().await;
    assert!(first.status.success() && replica(&report, "far")["complete"] == true, "{}", first.stderr);

    let modes = [
        Mode::Status(403),
        Mode::Status(404),
        Mode::Status(500),
        Mode::Reset,
        Mode::Refuse,
        Mode::Hang,
        Mode::CutAfter(0),
    ];
    for (round, mode) in modes.into_iter().enumerate() {
        std::fs::write(data.path(), noise(600_000, round as u64 + 1)).unwrap();
        proxy.set(mode);
        host.configure(2, &replicas, &source).await;
        let (failed, _) = host.once().await;
        assert_eq!(failed.status.code(), Some(5), "{mode:?}: {}", failed.stderr);
        assert!(failed.stderr.contains("far") && failed.stderr.contains("min_replicas"), "{mode:?}: {}", failed.stderr);
        host.configure(1, &replicas, &source).await;
        let (passed, report) = host.once().await;
        assert!(passed.status.success(), "{mode:?}: {}", passed.stderr);
        assert!(replica(&report, "near")["complete"] == true, "{mode:?}: {report}");
        assert!(
            replica(&report, "far")["complete"] == false && replica(&report, "far")["error"].is_string(),
            "{mode:?}: {report}"
        );
    }
    proxy.set(Mode::Pass);
    host.configure(2, &replicas, &source).await;
    let (caught_up, report) = host.once().await;
    assert!(caught_up.status.success() && replica(&report, "far")["complete"] == true, "{} {report}", caught_up.stderr);
    assert_whole(&host, modes.len() + 2).await;
    drop(near);
    assert!(host.restored_from("far").await == noise(600_000, modes.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_asks_to_slow_down_gets_its_pauses_and_the_snapshot() {
    let (near, far) = (Region::start("near").await, Region::start("far").await);
    let proxy = Proxy::start(far.plain_address()).await;
    let mut through = far.replica_config("far");
    through.timeout = Duration::from_secs(2);
    if let ReplicaKind::S3(s3) = &mut through.kind {
        s3.endpoint = Some(format!("http://{}", proxy.address()).parse().unwrap());
        s3.ca_file = None;
    }
    let replicas = [section(&near.replica_config("near")), section(&through)];
    let data = tempfile::NamedTempFile::new().unwrap();
    let host = BackupHost::set_up(&replicas, &source(&format!("cat {}", data.path().display()))).await;
    host.configure(2, &replicas, &source(&format!("cat {}", data.path().display()))).await;
    std::fs::write(data.path(), noise(600_000, 1)).unwrap();

    // Longer than the deadline of a request and than all attempts at one together.
    proxy.set(Mode::Throttle(THROTTLED_PAUSE.as_secs()));
    let began = Instant::now();
    let (run, asked) = tokio::join!(host.once(), async {
        tokio::time::sleep(THROTTLED).await;
        let asked = proxy.connections();
        proxy.set(Mode::Pass);
        asked
    });
    let (output, report) = run;
    assert!(output.status.success(), "{output}");
    assert!(began.elapsed() >= THROTTLED && replica(&report, "far")["complete"] == true, "{report}");
    assert!(output.stderr.contains("asks to slow down"), "{output}");
    // A run asks for a few things at once, and for each of them again after the pause.
    let rounds = THROTTLED.as_secs().div_ceil(THROTTLED_PAUSE.as_secs()) as usize;
    assert!(asked >= 2 && asked <= 8 * rounds, "{asked} requests in {THROTTLED:?}");
    assert_whole(&host, 1).await;
    assert!(host.restored_from("far").await == noise(600_000, 1));
}

/// Starts a backup whose source waits, after its data, until `hold` is gone.
fn start_held(host: &BackupHost) -> Child {
    let mut command = host.lifeboatd();
    command.args(["--json", "--log", "text", "--once"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

async fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn held_source(place: &Path, data: &[u8]) -> (String, PathBuf) {
    let (file, hold) = (place.join("data"), place.join("hold"));
    std::fs::write(&file, data).unwrap();
    let script = format!("cat {}; while [ -e {} ]; do sleep 0.05; done", file.display(), hold.display());
    (source(&script), hold)
}

/// How many objects the region holds whose keys begin so.
async fn count(region: &Region, prefix: &str) -> usize {
    let listed = region.client().list_objects_v2().bucket(region.bucket()).prefix(prefix).send().await.unwrap();
    listed.contents().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_dies_after_its_first_pack_falls_behind() {
    let (near, mut far) = (Region::start("near").await, Region::start("far").await);
    let replicas = [section(&near.replica_config("near")), section(&far.replica_config("far"))];
    let place = tempfile::tempdir().unwrap();
    // More than one pack, so that the first one is on its way before the source ends.
    let data = noise(40_000_000, 1);
    let (source, hold) = held_source(place.path(), &data);
    let host = BackupHost::set_up(&replicas, &source).await;
    std::fs::write(&hold, "").unwrap();
    let run = start_held(&host);
    let began = Instant::now();
    while count(&far, "vault/datasets/data/packs/").await == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "no pack reached the region");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The source holds the run open: the rest, and the commit, are still to come.
    assert_eq!(count(&far, "vault/datasets/data/snapshots/").await, 0);
    far.kill();
    std::fs::remove_file(&hold).unwrap();
    let output = run.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(replica(&report, "near")["complete"] == true && replica(&report, "far")["complete"] == false, "{report}");
    assert!(host.restored_from("near").await == data);
    far.restart().await;
    assert!(count(&far, "vault/datasets/data/packs/").await > 0, "the pack was not durable");
    assert_eq!(count(&far, "vault/datasets/data/snapshots/").await, 0, "a snapshot was committed there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_commits_nothing_and_its_packs_are_reused() {
    let place = tempfile::tempdir().unwrap();
    let replicas = [directory("near", &place.path().join("near"))];
    let data = noise(40_000_000, 2);
    let (source, hold) = held_source(place.path(), &data);
    let host = BackupHost::set_up(&replicas, &source).await;
    std::fs::write(&hold, "").unwrap();
    let mut run = start_held(&host);
    let journal = host.path().join("state/datasets/data/journal");
    wait_for("a durable pack", || journal.metadata().is_ok_and(|journal| journal.len() > 0)).await;
    run.start_kill().unwrap();
    assert_eq!(run.wait().await.unwrap().signal(), Some(9));
    std::fs::remove_file(&hold).unwrap();
    assert!(!place.path().join("near/vault/datasets/data/snapshots").exists());
    let (output, report) = host.once().await;
    assert!(output.status.success(), "{}", output.stderr);
    let stored = report["stored_bytes"].as_u64().unwrap();
    assert!(stored < 26_000_000, "{stored} bytes were stored again");
    assert!(host.restored_from("near").await == data);
    assert_whole(&host, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_exit_4_and_leaves_what_was_there() {
    let place = tempfile::tempdir().unwrap();
    let replicas = [directory("near", &place.path().join("near"))];
    let host = BackupHost::set_up(&replicas, &source("echo good")).await;
    assert!(host.once().await.0.status.success());
    for (failing, said) in [
        (source("head -c 9000000 /dev/urandom; echo 'disk on fire' >&2; exit 7"), "disk on fire"),
        (source("head -c 9000000 /dev/urandom; kill -9 $$"), "signal 9"),
        ("kind = \"command\"\nargv = [\"/nonexistent/pg_dump\"]".to_owned(), "cannot run pg_dump"),
        ("kind = \"sqlite\"\npath = \"/nonexistent/app.db\"".to_owned(), "no SQLite database"),
        ("kind = \"postgres\"\nsocket = \"/nonexistent\"".to_owned(), "PostgreSQL"),
    ] {
        host.configure(1, &replicas, &failing).await;
        let (output, _) = host.once().await;
        assert_eq!(output.status.code(), Some(4), "{failing}: {}", output.stderr);
        assert!(output.stderr.contains(said), "{failing}: {}", output.stderr);
    }
    assert_whole(&host, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_state_directory_fails_only_what_needs_room_there_and_heals() {
    let place = tempfile::tempdir().unwrap();
    let replicas = [directory("near", &place.path().join("near"))];
    let database = place.path().join("app.db");
    let data = rusqlite::Connection::open(&database).unwrap();
    data.execute_batch("CREATE TABLE t AS SELECT randomblob(500000) AS b").unwrap();
    let sqlite = format!("kind = \"sqlite\"\npath = \"{}\"", database.display());
    let host = BackupHost::set_up(&replicas, &source("echo good")).await;
    assert!(host.once().await.0.status.success());
    let server = Postgres::start_with_password("hush-4711").await;
    server.run_sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n").await;
    let secret = place.path().join("password");
    std::fs::write(&secret, "hush-4711").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let postgres = format!(
        "kind = \"postgres\"\nurl = \"{}\"\ndatabases = [\"postgres\"]\npassword = \"{}\"",
        server.url("postgres"),
        secret.display()
    );
    std::fs::remove_dir_all(host.path().join("state")).unwrap();
    let disk = SmallDisk::mount(&host.path().join("state"), 1 << 20);
    std::fs::set_permissions(disk.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    disk.fill_but(0);
    // The copy of a SQLite database needs room there, and nothing else does.
    for (what, exit) in [(source("seq 300000"), 0), (sqlite.clone(), 5)] {
        host.configure(1, &replicas, &what).await;
        let (output, _) = host.once().await;
        assert_eq!(output.status.code(), Some(exit), "{what}: {} {}", output.stdout, output.stderr);
        assert!(output.stderr.contains("No space left") || output.stderr.contains("full"), "{what}: {}", output.stderr);
    }
    // Nor does a password. Other streams than before are a flag, which cannot be written down.
    host.configure(1, &replicas, &postgres).await;
    let (output, report) = host.once().await;
    assert!(report["snapshot"].is_string(), "{output}");
    assert!(output.stderr.contains("No space left"), "{output}");
    disk.empty();
    host.configure(1, &replicas, &sqlite).await;
    let text = std::fs::read_to_string(host.config()).unwrap();
    std::fs::write(host.config(), text.replace("replaces = \"command\"", "replaces = \"postgres\"")).unwrap();
    let (output, _) = host.once().await;
    assert!(output.status.success(), "{}", output.stderr);
    assert_whole(&host, 4).await;
}
