//! What backup hosts record, and what they do not do while a log is shorter than it was.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lifeboat_engine::format::id::Digest;
use lifeboat_tests::programs;
use tokio::process::Command;

use super::{Logs, drill, restore_as_owner, shown, vault};

/// Retention keeps the newest snapshot alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_records_commits_and_what_it_deletes_before_and_deletes_nothing_beside_a_cut_log() {
    let vault = vault().await;
    let config = std::fs::read_to_string(vault.config("db1")).unwrap();
    let config = config.replace("home_region = \"home\"\n", "home_region = \"home\"\nretention = { keep_last = 1 }\n");
    std::fs::write(vault.config("db1"), config).unwrap();
    restore_as_owner(&vault).await;
    assert!(drill(&vault).await.status.success());
    let events = async || -> Vec<String> {
        let records = shown(&vault, "r1").await;
        let of_host = records.iter().filter(|row| row["log"] == "hosts/db1");
        of_host.map(|row| row["event"]["what"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(events().await, ["commit"], "of the backup that made the vault");
    std::fs::write(vault.path("db1/shop"), "a second day").unwrap();
    let second = vault.once("db1").await;
    assert!(second.status.success(), "{second}");
    // The first snapshot is marked after its act: the newest proved one stays.
    assert_eq!(events().await, ["commit", "commit", "mark"], "{second}");
    let records = shown(&vault, "r2").await;
    let mark = records.iter().find(|row| row["event"]["what"] == "mark").unwrap();
    let object = vault.path(&format!("r2/datasets/shop/marks/{}.json", mark["event"]["id"].as_str().unwrap()));
    let hash = Digest::of(&std::fs::read(object).unwrap());
    assert_eq!(mark["event"]["blake3"], hash.to_string());

    // Somebody cuts a log that this host has seen.
    let logs = Logs::of(&vault);
    for replica in ["r1", "r2"] {
        std::fs::remove_file(vault.path(replica).join("log/owners/ann/1.record")).unwrap();
    }
    std::fs::write(vault.path("db1/shop"), "a third day").unwrap();
    let stopped = vault.once("db1").await;
    assert_eq!(stopped.status.code(), Some(6), "{stopped}");
    assert!(stopped.stderr.contains("log owners/ann is shorter than it was"), "{stopped}");
    assert!(stopped.stdout.contains("snapshot"), "the backup goes on: {stopped}");
    assert_eq!(events().await.last().unwrap(), "commit");
    let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(!pruned.status.success() && pruned.stderr.contains("is shorter"), "{pruned}");
    let kept = vault.path("db1/state/log/hosts/db1/4.record");
    assert!(kept.exists(), "{}", kept.display());
    logs.put_back(&vault);

    // Its own log cannot be written: backups go on, and nothing is deleted.
    for replica in ["r1", "r2"] {
        let log = vault.path(replica).join("log/hosts/db1");
        std::fs::rename(&log, vault.path(&format!("{replica}-kept"))).unwrap();
        std::fs::write(&log, "no folder").unwrap();
    }
    std::fs::write(vault.path("db1/shop"), "a fourth day").unwrap();
    let unlogged = vault.once("db1").await;
    assert!(unlogged.stdout.contains("snapshot"), "{unlogged}");
    assert!(unlogged.stderr.contains("this commit is not in this host's log"), "{unlogged}");
    assert!(!unlogged.status.success() && unlogged.stderr.contains("it could not be recorded"), "{unlogged}");
    for replica in ["r1", "r2"] {
        let log = vault.path(replica).join("log/hosts/db1");
        std::fs::remove_file(&log).unwrap();
        std::fs::rename(vault.path(&format!("{replica}-kept")), &log).unwrap();
    }
    let healed = vault.once("db1").await;
    assert!(healed.status.success(), "{healed}");
    let checked = vault.lifeboat("db1", &["audit", "verify"]).await;
    assert!(checked.status.success(), "{checked}");
    let told = events().await;
    assert_eq!(told.iter().filter(|what| *what == "commit").count(), 5, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_replica_had_taken_is_missed_and_another_is_not() {
    let vault = vault().await;
    let log = vault.path("r2").join("log/hosts/db1");
    let run = async |content: &str| {
        std::fs::write(vault.path("db1/shop"), content).unwrap();
        vault.once("db1").await
    };
    assert!(run("a second day").await.status.success());
    // One replica refuses for a while, and the host says so then.
    std::fs::rename(&log, vault.path("r2-kept")).unwrap();
    std::fs::write(&log, "no folder").unwrap();
    let refused = run("a third day").await;
    assert!(refused.stderr.contains("replica r2 lacks record"), "{refused}");
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(vault.path("r2-kept"), &log).unwrap();
    let healed = run("a fourth day").await;
    assert!(healed.status.success() && !healed.stderr.contains("lacked records"), "{healed}");
    let newest = || {
        let files = std::fs::read_dir(&log).unwrap().map(|file| file.unwrap().path());
        files.filter_map(|file| file.file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap()
    };
    let record = |number: u64| log.join(format!("{number}.record"));
    // What it has by now is missed, also what it took late.
    let taken = newest();
    std::fs::remove_file(record(taken)).unwrap();
    let warned = run("a fifth day").await;
    let told = format!("replica r2 lacked records {taken} to {taken} of log hosts/db1");
    assert!(warned.stderr.contains(&told) && warned.stderr.contains("find out who removed them"), "{warned}");
    // Without what this host remembers, everything is missed.
    let taken = newest();
    std::fs::remove_file(record(taken)).unwrap();
    std::fs::remove_file(vault.path(&format!("db1/state/log/hosts/db1/{taken}.taken"))).unwrap();
    let warned = run("a sixth day").await;
    assert!(warned.stderr.contains(&format!("lacked records {taken} to {taken}")), "{warned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_records_roots_keys_and_the_configuration() {
    let vault = vault().await;
    vault.change("db1", &["set", "--least-retention", "7"]).await;
    let again = vault.lifeboat("db1", &["init"]).await;
    assert!(again.status.success(), "{again}");
    let mut daemon = Command::new(programs::lifeboatd());
    daemon.arg("--config").arg(vault.config("db1")).args(["--log", "text"]).stderr(Stdio::null()).kill_on_drop(true);
    let mut daemon = daemon.spawn().unwrap();
    let mut of_host = Vec::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        of_host = shown(&vault, "r1").await.into_iter().filter(|row| row["log"] == "hosts/db1").collect();
        if of_host.len() == 4 {
            break;
        }
    }
    programs::terminate(&mut daemon).await.unwrap();
    let told: Vec<&str> = of_host.iter().map(|row| row["event"]["what"].as_str().unwrap()).collect();
    assert_eq!(told, ["commit", "root", "keyring", "configuration"]);
    let hash = |file: PathBuf| Digest::of(&std::fs::read(file).unwrap()).to_string();
    assert_eq!(of_host[1]["event"]["blake3"], hash(vault.path("r1/root/2.json")));
    assert_eq!(of_host[3]["event"]["blake3"], hash(vault.config("db1")));
}
