//! Whoever the root lets veto holds what a mark names.

use lifeboat_tests::rooted::RootedVault;
use serde_json::Value;

use super::{at, backup, counts, deletion_line, ids, look, vault, warden};

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
    let signed = vault.sign("bob", request.stdout.trim()).await;
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

/// A thief of the host overwrites the veto before the warden has seen it.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_place_of_a_veto_holds_and_so_does_a_replica_that_is_away() {
    let mut vault = vault().await;
    let line = vault.new_owner("bob").await;
    vault.change("db1", &["add-approver", &line]).await;
    vault.reconfigure("warden1", "keep_last = 2", "keep_last = 1");
    for (offset, content) in [("+0s", "the first"), ("+2m", "the second")] {
        at(&mut vault, offset);
        backup(&vault, content).await;
    }
    look(&vault).await;
    let all = ids(&vault, "r1");
    let mark = marked(&vault).await;
    let id = mark["mark"].as_str().unwrap();
    let away = vault.path("away");
    at(&mut vault, "+6m");
    std::fs::rename(vault.path("r2"), &away).unwrap();
    let blind = warden(&vault, &[]).await;
    assert!(!blind.status.success() && blind.to_string().contains("may hold a veto"), "{blind}");
    assert_eq!(ids(&vault, "r1"), all);
    std::fs::rename(&away, vault.path("r2")).unwrap();

    let folder = vault.path("r2/datasets/shop/vetoes");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{id}.bob.veto"));
    for rubbish in [String::new(), "rubbish".to_owned(), "x".repeat(1 << 20)] {
        std::fs::write(&file, &rubbish).unwrap();
        let looked = look(&vault).await;
        assert_eq!(counts(&looked)[0], 0, "{looked}");
        assert!(looked["vetoed"].to_string().contains("bob"), "{looked}");
    }
    assert_eq!(ids(&vault, "r1"), all);
}
