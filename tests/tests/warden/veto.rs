//! Whoever the root lets veto holds what a mark names.

use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::vault::name;
use serde_json::{Value, json};

use super::thief::{hand, keys};
use super::{HOST_KEEPS, at, backup, counts, deletion_line, ids, look, vault, warden};

/// The first mark of the dataset.
async fn marked(vault: &RootedVault) -> Value {
    let shown = vault.lifeboat("db1", &["--json", "veto", "show", "shop"]).await;
    assert!(shown.status.success(), "{shown}");
    shown.json().unwrap()["marks"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vetoed_mark_is_never_carried_out_until_the_root_takes_the_right_back() {
    let mut vault = vault().await;
    let line = vault.new_owner("bob").await;
    vault.change("db1", &["add-approver", &line]).await;
    vault.reconfigure("warden1", "keep_last = 2", "keep_last = 1");
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
        look(&vault).await;
    }
    let all = ids(&vault, "r1");
    let mark = marked(&vault).await;
    let id = mark["mark"].as_str().unwrap();
    let request = ["veto", "request", "shop", id, "--reason", "we are sued"];
    let request = vault.lifeboat("db1", &request).await;
    assert!(request.status.success(), "{request}");
    // A stranger may sign it, and it counts for nothing.
    vault.new_owner("eve").await;
    let strange = vault.signed("eve", request.stdout.trim()).await;
    let refused = vault.lifeboat("db1", &["veto", "install", &strange]).await;
    assert!(!refused.status.success() && refused.stderr.contains("would count for nothing"), "{refused}");
    let folder = vault.path("bob").display().to_string();
    let sign = ["--quiet", "owner", "sign", "--yes", "--directory", &folder, request.stdout.trim()];
    let signed = vault.plain(&sign).await;
    assert!(signed.status.success() && signed.stderr.contains("we are sued"), "{signed}");
    let installed = vault.lifeboat("db1", &["veto", "install", signed.stdout.trim()]).await;
    assert!(installed.status.success(), "{installed}");
    assert!(marked(&vault).await["vetoed_by"].to_string().contains("bob"));
    for command in ["list", "status"] {
        // The warden has not looked since.
        let told = deletion_line(&vault, command).await;
        assert!(told.contains(&format!("1 mark VETOED, such as {id} by bob")), "{told}");
    }

    let plan = vault.lifeboat("db1", &["--json", "prune", "--dry-run"]).await.to_string();
    assert!(plan.contains(&format!("bob vetoed mark {id}")), "{plan}");
    for offset in ["+4m", "+6m"] {
        at(&mut vault, offset);
        let looked = look(&vault).await;
        assert_eq!(counts(&looked)[0], 0, "{looked}");
        assert!(looked["vetoed"].to_string().contains("bob"), "{looked}");
        // Whoever can write into every bucket undoes no veto that the warden has seen.
        for replica in ["r1", "r2"] {
            let file = vault.path(replica).join(format!("datasets/shop/vetoes/{id}.bob.veto"));
            std::fs::write(file, "rubbish").unwrap();
        }
        backup(&vault, offset).await;
    }
    assert!(all.iter().all(|id| ids(&vault, "r1").contains(id)), "{all:?}");

    // Without the right, the veto counts no more.
    vault.change("db1", &["remove-approver", "bob"]).await;
    at(&mut vault, "+8m");
    let looked = look(&vault).await;
    assert!(counts(&looked)[0] > 0, "{looked}");
    assert!(!ids(&vault, "r1").contains(&all[0]));
}

/// Bob, who may veto, and two snapshots, of which the first is marked. The warden has seen both.
async fn marked_with_bob() -> (RootedVault, Vec<String>, String) {
    let mut vault = vault().await;
    let line = vault.new_owner("bob").await;
    vault.change("db1", &["add-approver", &line]).await;
    vault.reconfigure("warden1", "keep_last = 2", "keep_last = 1");
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
        look(&vault).await;
    }
    let all = ids(&vault, "r1");
    let mark = marked(&vault).await["mark"].as_str().unwrap().to_owned();
    (vault, all, mark)
}

/// Somebody puts other things in the place of a veto, in one replica.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_place_of_a_veto_holds_its_replica_and_one_that_is_away_holds_all() {
    let (mut vault, all, mark) = marked_with_bob().await;
    let away = vault.path("away");
    at(&mut vault, "+6m");
    std::fs::rename(vault.path("r2"), &away).unwrap();
    let blind = warden(&vault, &[]).await;
    assert!(!blind.status.success() && blind.to_string().contains("may hold a veto"), "{blind}");
    assert_eq!(ids(&vault, "r1"), all);
    std::fs::rename(&away, vault.path("r2")).unwrap();
    // One that answers, and cannot be used, may hold a veto as well.
    let described = vault.path("r2/vault.json");
    let good = std::fs::read(&described).unwrap();
    std::fs::write(&described, "rubbish").unwrap();
    let blind = warden(&vault, &[]).await;
    assert!(!blind.status.success() && blind.to_string().contains("may hold a veto"), "{blind}");
    assert_eq!(ids(&vault, "r1"), all);
    std::fs::write(&described, good).unwrap();

    let folder = vault.path("r2/datasets/shop/vetoes");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{mark}.bob.veto"));
    for rubbish in [String::new(), "rubbish".to_owned(), "x".repeat(1 << 20)] {
        std::fs::write(&file, &rubbish).unwrap();
        let doubted = warden(&vault, &[]).await;
        assert!(!doubted.status.success(), "{doubted}");
        assert!(doubted.to_string().contains("something stands in the place of a veto of bob"), "{doubted}");
        assert_eq!(ids(&vault, "r2"), all, "{doubted}");
        // The other replica shows no veto.
        assert_eq!(ids(&vault, "r1"), all[1..], "{doubted}");
    }
    assert!(marked(&vault).await["vetoed_by"].as_array().is_none_or(Vec::is_empty));
    std::fs::remove_file(&file).unwrap();
    look(&vault).await;
    assert_eq!(ids(&vault, "r2"), all[1..]);
}

/// A thief of the host exchanges the mark after somebody has read it, and before the warden sees
/// the veto.
#[tokio::test(flavor = "multi_thread")]
async fn a_veto_holds_what_its_mark_has_named_though_somebody_exchanged_it_before() {
    let (mut vault, all, mark) = marked_with_bob().await;
    let request = vault.lifeboat("db1", &["veto", "request", "shop", &mark]).await;
    let signed = vault.sign("bob", request.stdout.trim()).await;
    let (hand, signer) = (hand(&vault), keys(&vault).signer);
    let id: SnapshotId = mark.parse().unwrap();
    let body = json!({ "snapshots": [], "packs": [] });
    let empty = hand.record(RecordType::Mark, &hand.host, &id, &body).to_string().into_bytes();
    hand.put_signed(&signer, &layout::mark(&name("shop"), &id), &empty);
    let installed = vault.lifeboat("db1", &["veto", "install", signed.stdout.trim()]).await;
    assert!(installed.status.success(), "{installed}");
    at(&mut vault, "+3m");
    let doubted = warden(&vault, &[]).await;
    assert!(doubted.to_string().contains("is not what it was when this warden first saw it"), "{doubted}");
    // Another mark names the same.
    for offset in ["+6m", "+8m", "+12m"] {
        at(&mut vault, offset);
        backup(&vault, offset).await;
        let looked = look(&vault).await;
        assert!(looked["vetoed"].to_string().contains("bob"), "{looked}");
    }
    for replica in ["r1", "r2"] {
        assert!(ids(&vault, replica).contains(&all[0]), "{replica}");
    }
    assert_eq!(vault.restored("shop", "r1", &["--snapshot", &all[0]]).await.unwrap(), "the first");
}

/// Where hosts delete, what nobody signed stops no deletion.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_warden_what_stands_in_the_place_of_a_veto_changes_nothing() {
    let mut vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    vault.reconfigure("db1", "[limits]\n", "[limits]\nrun = \"1m\"\nclock_skew = \"1s\"\n");
    vault.reconfigure("db1", "home_region = \"home\"\n", HOST_KEEPS);
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
    }
    let all = ids(&vault, "r1");
    let shown = marked(&vault).await;
    let mark = shown["mark"].as_str().unwrap();
    for replica in ["r1", "r2"] {
        let folder = vault.path(replica).join("datasets/shop/vetoes");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{mark}.ann.veto")), "x").unwrap();
    }
    at(&mut vault, "+6m");
    let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(pruned.status.success(), "{pruned}");
    for replica in ["r1", "r2"] {
        assert_eq!(ids(&vault, replica), all[1..], "{replica}: {pruned}");
    }
}
