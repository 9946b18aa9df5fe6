//! The promises as a stranger would try them: one region and one identity are enough; a drill that
//! is interrupted leaves nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::programs::{self, run, signal};
use lifeboat_tests::s3::{Bucket, Region, moment};
use lifeboat_tests::sample;
use lifeboat_tests::vault::noise;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(120);

async fn shop() -> Postgres {
    let database = Postgres::start().await;
    database.create_database("shop").await;
    database.run_sql("shop", sample::schema_sql()).await;
    database.run_sql("shop", &sample::fill_sql(0.02)).await;
    database
}

fn source(database: &Postgres) -> String {
    format!("kind = \"postgres\"\nurl = \"{}\"\ndatabases = [\"shop\"]", database.url("postgres"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_region_and_the_master_identity_restore_without_configuration_or_keys() {
    let (mut near, far) = (Region::start("near").await, Region::start_with("far", Bucket::Locked).await);
    let database = shop().await;
    let locked = format!("{}lock = \"1d\"\n", section(&far.replica_config("far")));
    let replicas = [section(&near.replica_config("near")), locked];
    let host = BackupHost::set_up(&replicas, &source(&database)).await;
    host.configure(2, &replicas, &source(&database)).await;
    let check = host.lifeboat(&["check"]).await;
    assert!(check.status.success(), "{} {}", check.stdout, check.stderr);
    let (first, before) = host.once().await;
    assert!(first.status.success(), "{}", first.stderr);
    database.run_sql("shop", sample::change_sql()).await;
    let (second, after) = host.once().await;
    assert!(second.status.success(), "{}", second.stderr);
    assert_eq!(after["replicas"][1]["complete"], true, "{after}");

    near.kill();
    let owner = tempfile::tempdir().unwrap();
    let master = owner.path().join("master.txt");
    std::fs::copy(host.master(), &master).unwrap();
    let signer = host.signer.clone();
    drop(host);
    let lifeboat = |words: Vec<String>| {
        let mut command = Command::new(programs::lifeboat());
        command.args(["--s3-bucket", far.bucket(), "--s3-region", far.name(), "--s3-path-style"]);
        command.arg("--s3-endpoint").arg(far.endpoint().as_str()).arg("--s3-ca-file").arg(far.ca_file());
        command.arg("--s3-credentials").arg(far.credential_file()).args(["--vault-prefix", "vault"]);
        command.args(["--trusted-signer", &signer, "--identity"]).arg(&master).args(words);
        async move { run(&mut command, DEADLINE).await.unwrap() }
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let list = lifeboat(words("--json list data")).await;
    assert!(list.status.success(), "{}", list.stderr);
    assert_eq!(list.json().unwrap()["snapshots"].as_array().unwrap().len(), 2);
    let verify = lifeboat(words("verify data --read-data")).await;
    assert!(verify.status.success(), "{} {}", verify.stdout, verify.stderr);

    let new = Postgres::start().await;
    let restore = lifeboat(words(&format!("restore data --to-postgres {}", new.url("postgres")))).await;
    assert!(restore.status.success(), "{}", restore.stderr);
    for table in ["shop.customers", "shop.orders", "shop.products"] {
        let sum = format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} t");
        assert_eq!(new.query("shop", &sum).await, database.query("shop", &sum).await, "{table} differs");
    }
    // The state before the business day, by time, into files.
    let out = owner.path().join("out");
    let at = before["started"].as_str().unwrap();
    let restore = lifeboat(words(&format!("restore data --at {at} --to-directory {}", out.display()))).await;
    assert!(restore.status.success(), "{}", restore.stderr);
    let archive = std::fs::read(out.join("database/shop.dump")).unwrap();
    assert!(archive.starts_with(b"PGDMP") && out.join("globals.sql").is_file());
    let stdout = lifeboat(words("restore data --stdout globals")).await;
    assert!(stdout.status.success() && stdout.stdout.contains("CREATE ROLE"), "{}", stdout.stderr);
}

fn alive(mark: &Path) -> bool {
    let mark = mark.to_string_lossy().into_owned();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains(&mark) && line.contains("postgres")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_drill_leaves_no_server_and_no_files() {
    let far = Region::start("far").await;
    let database = shop().await;
    let host = BackupHost::set_up(&[section(&far.replica_config("far"))], &source(&database)).await;
    assert!(host.once().await.0.status.success());
    let scratch = tempfile::Builder::new().prefix("lifeboat-drill-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    for stop in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut drill = Command::new(programs::lifeboat());
        drill.arg("--config").arg(host.config()).arg("--identity").arg(host.master()).args(["drill", "data"]);
        drill.env("TMPDIR", scratch.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = drill.spawn().unwrap();
        let began = Instant::now();
        while !alive(scratch.path()) {
            assert!(began.elapsed() < DEADLINE, "no throw-away server was started");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        signal(&child, stop);
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!alive(scratch.path()), "the throw-away server is alive after {stop:?}");
        let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?} are left after {stop:?}");
    }
}

/// Hides or overwrites every object of a region, as whoever stole credentials that write can do.
async fn ravage(region: &Region) {
    let client = region.client();
    let mut objects = client.list_objects_v2().bucket(region.bucket()).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = objects.next().await {
        keys.extend(page.unwrap().contents().iter().filter_map(|object| object.key().map(str::to_owned)));
    }
    assert!(keys.len() > 10 && keys.iter().any(|key| key.contains("/packs/")), "{keys:?}");
    let garbage = |key: &str| client.put_object().bucket(region.bucket()).key(key).body(vec![7; 99].into()).send();
    for (number, key) in keys.iter().enumerate() {
        if number % 2 == 0 {
            client.delete_object().bucket(region.bucket()).key(key).send().await.unwrap();
        } else {
            garbage(key).await.unwrap();
        }
    }
    // More versions than a page of a listing has.
    let key = keys.iter().find(|key| key.contains("/packs/")).unwrap();
    for _ in 0..70 {
        for put in futures::future::join_all((0..16).map(|_| garbage(key))).await {
            put.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thief_hid_or_overwrote_is_listed_and_restored_as_of_the_time_before() {
    let far = Region::start_with("far", Bucket::Versioned).await;
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("data");
    let source = format!("kind = \"file\"\npath = \"{}\"", file.display());
    std::fs::write(&file, noise(3 << 20, 1)).unwrap();
    let host = BackupHost::set_up(&[section(&far.replica_config("far"))], &source).await;
    assert!(host.once().await.0.status.success());
    let between = moment().await;
    std::fs::write(&file, noise(3 << 20, 2)).unwrap();
    assert!(host.once().await.0.status.success());
    let before = moment().await;
    ravage(&far).await;

    let master = host.master().display().to_string();
    let lifeboat = async |words: &str| {
        let words = format!("--identity {master} {words}");
        host.lifeboat(&words.split(' ').collect::<Vec<_>>()).await
    };
    let list = lifeboat("list").await;
    assert!(!list.status.success(), "{} {}", list.stdout, list.stderr);
    for (as_of, snapshots, seed) in [(&between, 1, 1), (&before, 2, 2)] {
        let list = lifeboat(&format!("--json list --as-of {as_of}")).await;
        assert!(list.status.success(), "{}", list.stderr);
        assert_eq!(list.json().unwrap()["snapshots"].as_array().unwrap().len(), snapshots, "{}", list.stdout);
        let show = lifeboat(&format!("show data latest --as-of {as_of}")).await;
        assert!(show.status.success(), "{}", show.stderr);
        let verify = lifeboat(&format!("verify --read-data --as-of {as_of}")).await;
        assert!(verify.status.success(), "{} {}", verify.stdout, verify.stderr);
        let out = data.path().join(format!("out-{seed}"));
        let restore = lifeboat(&format!("restore data --as-of {as_of} --to-directory {}", out.display())).await;
        assert!(restore.status.success(), "{}", restore.stderr);
        assert!(std::fs::read(out.join("data")).unwrap() == noise(3 << 20, seed), "{as_of}: other bytes");
    }
    let early = lifeboat("list --as-of 2020-01-01T00:00:00Z").await;
    assert!(!early.status.success(), "{}", early.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_old_versions_are_kept_nothing_is_shown_as_of_a_time() {
    let far = Region::start("far").await;
    let host =
        BackupHost::set_up(&[section(&far.replica_config("far"))], "kind = \"command\"\nargv = [\"date\"]").await;
    assert!(host.once().await.0.status.success());
    let list = host.lifeboat(&["list", "--as-of", "2036-01-01T00:00:00Z"]).await;
    assert!(!list.status.success() && list.stderr.contains("keeps no old versions"), "{} {}", list.stdout, list.stderr);
    let directory = ["list", "--as-of", "2036-01-01T00:00:00Z", "--directory", "/tmp"];
    let list = run(Command::new(programs::lifeboat()).args(directory), DEADLINE).await.unwrap();
    assert!(list.status.code() == Some(2) && list.stderr.contains("keeps no old versions"), "{}", list.stderr);
}
