//! A log that was cut or changed, in one replica or in all.

use std::path::{Path, PathBuf};

use lifeboat_tests::rooted::RootedVault;

use super::{Logs, audit_of, drill, head, restore, restore_as_owner, vault};

const REPLICAS: [&str; 2] = ["r1", "r2"];

/// What somebody does to the three records of the owner's log in a replica, and what is told then.
const TAMPERINGS: [(&str, &str); 7] = [
    ("cut", "was cut"),
    ("removed", "missing"),
    ("garbage", "damaged"),
    ("one bit", "cannot be trusted"),
    ("an older one in its place", "cannot be trusted"),
    ("two exchanged", "cannot be trusted"),
    ("another principal's", "cannot be trusted"),
];

fn tamper(vault: &RootedVault, how: &str, replica: &str) {
    let file = |number: u64| vault.path(replica).join(format!("log/owners/ann/{number}.record"));
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    match how {
        "cut" => std::fs::remove_file(file(3)).unwrap(),
        "removed" => std::fs::remove_file(file(2)).unwrap(),
        "garbage" => std::fs::write(file(2), "garbage\n").unwrap(),
        "one bit" => {
            let mut record = read(file(2));
            record[20] ^= 1;
            std::fs::write(file(2), record).unwrap();
        }
        "an older one in its place" => std::fs::write(file(3), read(file(2))).unwrap(),
        "two exchanged" => {
            let (two, three) = (read(file(2)), read(file(3)));
            std::fs::write(file(2), three).unwrap();
            std::fs::write(file(3), two).unwrap();
        }
        "another principal's" => {
            let drills = lifeboat_tests::vault::files_below(&vault.path(replica).join("log/drill-hosts"));
            std::fs::write(file(2), read(drills[0].clone())).unwrap();
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_removed_changed_or_elsewhere_is_found() {
    let vault = vault().await;
    for _ in 0..3 {
        restore_as_owner(&vault).await;
    }
    assert!(drill(&vault).await.status.success());
    let logs = Logs::of(&vault);
    let clean = vault.lifeboat("db1", &["audit", "verify"]).await;
    assert!(clean.status.success(), "{clean}");
    // An export tells the same, without replicas.
    let exported = vault.lifeboat("db1", &["audit", "export"]).await;
    assert!(exported.status.success(), "{exported}");
    let file = vault.path("export");
    std::fs::write(&file, &exported.stdout).unwrap();
    let of_export = async || {
        let file = file.display().to_string();
        vault.plain(&["audit", "verify", "--export", &file, "--owner", &vault.owner]).await
    };
    assert!(of_export().await.status.success(), "{}", of_export().await);
    let second = |line: &&str| !line.contains("log/owners/ann/2.record");
    let cut: Vec<&str> = exported.stdout.lines().filter(second).collect();
    std::fs::write(&file, cut.join("\n")).unwrap();
    let found = of_export().await;
    assert!(found.code() == Some(6) && found.stdout.contains("record 2 is missing everywhere"), "{found}");
    for (how, told) in TAMPERINGS {
        for places in [&REPLICAS[..1], &REPLICAS] {
            places.iter().for_each(|replica| tamper(&vault, how, replica));
            // A copy of the bucket, and somebody who has seen nothing: another log tells of it.
            let copy = audit_of(&vault, &vault.path("r1"), &["verify"]).await;
            assert_eq!(copy.status.code(), Some(6), "{how}: {copy}");
            assert!(copy.stdout.contains(told) && copy.stdout.contains("owners/ann"), "{how}: {copy}");
            let all = vault.lifeboat("db1", &["audit", "verify"]).await;
            assert_eq!(all.status.code(), Some(6), "{how} in {places:?}: {all}");
            if places.len() == 1 {
                assert!(all.stdout.contains("replica r1"), "{how}: {all}");
                assert!(audit_of(&vault, &vault.path("r2"), &["verify"]).await.status.success(), "{how}");
            }
            logs.put_back(&vault);
        }
    }
}

/// Cut by its newest record, which no other record names.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_by_one_record_is_noticed_by_a_host_a_drill_host_and_a_paper_note() {
    let vault = vault().await;
    restore_as_owner(&vault).await;
    assert!(drill(&vault).await.status.success());
    let seen_by_host = restore(&vault, "db1", &[]).await;
    assert!(seen_by_host.status.success(), "{seen_by_host}");
    restore_as_owner(&vault).await;
    // The host and the drill host see it, and what they wrote of it is cut, too.
    for machine in ["db1", "drill1"] {
        let seen = vault.lifeboat(machine, &["audit", "verify", "--accept-older", "--yes"]).await;
        assert!(seen.status.success(), "{seen}");
    }
    let (note, logs) = (head(&vault, "owners/ann").await, Logs::of(&vault));
    assert!(note.starts_with("owners/ann=2:"), "{note}");
    let cut = |replica: &str| std::fs::remove_file(vault.path(replica).join("log/owners/ann/2.record")).unwrap();

    // In one replica: everybody goes on, and it is named.
    cut("r1");
    let drilled = drill(&vault).await;
    assert!(drilled.status.success(), "{drilled}");
    assert!(drilled.stderr.contains("replica r1 lacks record 2 of log owners/ann"), "{drilled}");
    let found = vault.lifeboat("db1", &["audit", "verify"]).await;
    assert!(found.stdout.contains("record 2 is missing in replica r1"), "{found}");
    let by_note = audit_of(&vault, &vault.path("r1"), &["verify", "--head", &note]).await;
    assert!(by_note.stdout.contains("was cut") && by_note.stdout.contains("--head"), "{by_note}");

    // In all.
    logs.put_back(&vault);
    cut("r1");
    cut("r2");
    let by_note = audit_of(&vault, &vault.path("r1"), &["verify", "--head", &note]).await;
    assert_eq!(by_note.status.code(), Some(6), "{by_note}");
    let nobody_knows = audit_of(&vault, &vault.path("r1"), &["verify"]).await;
    assert!(nobody_knows.status.success(), "{nobody_knows}");
    let told = "no replica that answers shows record 2";
    let drilled = drill(&vault).await;
    assert!(!drilled.status.success() && drilled.stderr.contains(told), "{drilled}");
    let asked = restore(&vault, "db1", &[]).await;
    assert_eq!(asked.status.code(), Some(6), "{asked}");
    assert!(asked.stderr.contains(told) && asked.stderr.contains("--accept-older"), "{asked}");
    let went_on = restore(&vault, "db1", &["--accept-older"]).await;
    assert!(went_on.status.success() && went_on.stderr.contains(told), "{went_on}");
    for machine in ["db1", "drill1"] {
        let found = vault.lifeboat(machine, &["audit", "verify"]).await;
        assert!(found.stdout.contains("this machine has seen it"), "{found}");
    }

    // The owner's own program puts it back, and says so.
    let owner = vault.path("ann").display().to_string();
    let healed = restore(&vault, "db1", &["--owner-directory", &owner, "--accept-older"]).await;
    assert!(healed.status.success() && healed.stderr.contains("lacked records 2 to 2"), "{healed}");
    assert!(drill(&vault).await.status.success());
    let accepted = vault.lifeboat("db1", &["audit", "verify", "--head", &note]).await;
    assert!(accepted.status.success(), "{accepted}");
    assert!(Path::new(&owner).join("log/owners/ann/3.record").exists());
}
