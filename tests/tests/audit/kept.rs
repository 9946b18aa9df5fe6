//! What is recorded, and when.

use std::process::Command;

use lifeboat_tests::recovery;

use super::{audit_of, drill, restore, restore_as_owner, shown, vault};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decrypted_before_it_is_recorded() {
    let vault = vault().await;
    let owner = vault.path("ann").display().to_string();
    let plain = ["--owner-directory", owner.as_str()];
    for replica in ["r1", "r2"] {
        let _ = std::fs::remove_dir_all(vault.path(replica).join("log"));
        std::fs::write(vault.path(replica).join("log"), "no folder").unwrap();
    }
    let refused = restore(&vault, "db1", &plain).await;
    assert!(refused.stderr.contains("nothing was decrypted"), "{refused}");
    let refused = drill(&vault).await;
    assert!(refused.stderr.contains("nothing was decrypted"), "{refused}");
    let went_on = restore(&vault, "db1", &[&plain[..], &["--unrecorded", "both stores are full"]].concat()).await;
    assert!(went_on.status.success() && went_on.stderr.contains("going on unrecorded"), "{went_on}");
    for replica in ["r1", "r2"] {
        std::fs::remove_file(vault.path(replica).join("log")).unwrap();
    }

    // With the next one, it is sent. One replica is enough.
    std::fs::write(vault.path("r2/log"), "no folder").unwrap();
    restore_as_owner(&vault).await;
    std::fs::remove_file(vault.path("r2/log")).unwrap();
    let drilled = drill(&vault).await;
    assert!(drilled.status.success(), "{drilled}");
    let host = restore(&vault, "db1", &["--reason", "the backup host did it"]).await;
    assert!(host.status.success(), "{host}");
    restore_as_owner(&vault).await;
    for replica in ["r1", "r2"] {
        let records = shown(&vault, replica).await;
        let of = |log: &str| records.iter().filter(|row| row["log"] == log).cloned().collect::<Vec<_>>();
        let owners = of("owners/ann");
        let told: Vec<_> = owners.iter().map(|row| (row["number"].as_u64().unwrap(), &row["why"])).collect();
        assert_eq!(told.len(), 4, "{records:?}");
        assert_eq!(told[1].1, "both stores are full");
        assert_eq!((told[3].1.as_str(), &owners[3]["event"]["what"]), (Some("to try it"), &"restore".into()));
        assert_eq!(
            (&owners[1]["event"]["unrecorded"], &owners[0]["event"]["unrecorded"]),
            (&true.into(), &false.into())
        );
        assert_eq!(
            (&owners[0]["event"]["dataset"], &owners[0]["event"]["snapshot"]),
            (&"shop".into(), &"latest".into())
        );
        assert!(owners[0]["event"]["user"].as_str().unwrap().contains("uid "), "{owners:?}");
        let drills: Vec<_> = records.iter().filter(|row| row["event"]["what"] == "drill").collect();
        assert_eq!(drills.len(), 2, "{records:?}");
        assert!(drills[0]["log"].as_str().unwrap().starts_with("drill-hosts/"), "{drills:?}");
        let host = of("hosts/db1");
        assert!(host.iter().any(|row| row["why"] == "the backup host did it"), "{host:?}");
    }
    let checked = vault.lifeboat("db1", &["audit", "verify"]).await;
    assert!(checked.status.success() && checked.stdout.contains("none is missing"), "{checked}");
    let filtered = audit_of(&vault, &vault.path("r1"), &["show", "--log", "owners/ann", "--dataset", "wiki"]).await;
    assert_eq!(filtered.json().unwrap()["records"].as_array().unwrap().len(), 0, "{filtered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_sign_decrypts_nothing() {
    let vault = vault().await;
    let (replica, identity) = (vault.path("r1").display().to_string(), vault.identity("ann"));
    let out = vault.path("out").display().to_string();
    let words = ["restore", "shop", "--directory", &replica, "--owner", &vault.owner, "--identity", &identity];
    let words = [&words[..], &["--to-directory", &out]].concat();
    let refused = vault.plain(&words).await;
    assert!(refused.stderr.contains("nobody is here who could record this"), "{refused}");
    vault.new_owner("bob").await;
    let bob = vault.path("bob").display().to_string();
    let refused = vault.plain(&[&words[..], &["--owner-directory", &bob]].concat()).await;
    assert!(refused.stderr.contains("does not name the owner"), "{refused}");
    assert!(!vault.path("out").exists());
    let went_on = vault.plain(&[&words[..], &["--unrecorded", "the owner's key is lost"]].concat()).await;
    assert!(went_on.status.success() && went_on.stderr.contains("recorded nowhere"), "{went_on}");
}

/// With the commands of FORMAT.md, and nothing of ours.
#[tokio::test(flavor = "multi_thread")]
async fn stock_minisign_checks_a_chain() {
    let vault = vault().await;
    for _ in 0..3 {
        restore_as_owner(&vault).await;
    }
    let folder = vault.path("r1/log/owners/ann");
    let signer = std::fs::read_to_string(vault.path("r1/root/1.json")).unwrap();
    let root: serde_json::Value = serde_json::from_str(&signer).unwrap();
    let script = recovery::block_after("checks a whole log so");
    let of = |vault: &str| {
        let mut command = Command::new("bash");
        let signer = root["owners"][0]["signer"].as_str().unwrap();
        command.args(["-c", &script, "-", signer, vault]).current_dir(&folder);
        command.output().unwrap()
    };
    let check = || of(root["vault"].as_str().unwrap());
    assert!(!of(&"0a".repeat(16)).status.success(), "it is of another vault");
    let checked = check();
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success(), "{told}{}", String::from_utf8_lossy(&checked.stderr));
    assert!(told.contains("3 records"), "{told}");
    // One is signed, and does not follow.
    std::fs::rename(folder.join("3.record"), vault.path("third")).unwrap();
    for (from, to) in [("2.record", "3.record"), ("1.record", "2.record")] {
        let kept = std::fs::read(folder.join(to)).ok();
        std::fs::copy(folder.join(from), folder.join(to)).unwrap();
        assert!(!check().status.success(), "{to} is {from}");
        kept.map_or_else(|| std::fs::remove_file(folder.join(to)), |kept| std::fs::write(folder.join(to), kept))
            .unwrap();
    }
    assert!(check().status.success(), "two are a chain, too");
}
