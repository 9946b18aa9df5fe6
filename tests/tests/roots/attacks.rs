//! What is tried against whoever goes by a root, and what it comes to.

use std::collections::BTreeMap;

use lifeboat_engine::format::layout;
use lifeboat_engine::format::line::{self, RootLine};
use lifeboat_engine::keys::sign::Signer;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::tools;
use lifeboat_tests::vault::name;
use tokio::process::Command;

use crate::{files, forged, keep_private, put_back, report};

/// The attacker knows the public halves of the masters. He puts keys of his own into one bucket, or
/// into all, and waits for a host that takes over.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_buckets_owner_invented_are_never_adopted() {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    assert!(vault.once("db1").await.status.success());
    let id = report(&vault, &["root", "show"]).await["vault"].as_str().unwrap().to_owned();
    let opened = async |replica: &str| {
        let object = vault.path(replica).join(layout::keyring_generation(&name("shop"), 1));
        let mut age = Command::new(tools::find("age"));
        age.args(["-d", "-i", &vault.identity("ann")]).arg(object).output().await.unwrap().stdout
    };
    let honest = opened("r1").await;
    assert!(!honest.is_empty());
    let before = ["r1", "r2"].map(|replica| files(&vault.path(replica).join("keyring")));
    let thief = Signer::generate().unwrap();
    for (places, generation, signed) in [
        (&["r1"][..], 1, "by nobody"),
        (&["r1"], 1, "by the thief"),
        (&["r1"], 1, "as before"),
        (&["r1"], 2, "by nobody"),
        (&["r1"], 2, "by the thief"),
        (&["r1", "r2"], 2, "by nobody"),
        (&["r1", "r2"], 2, "by the thief"),
        (&["r1", "r2"], 1, "by the thief"),
        (&["r1", "r2"], 1, "as before"),
    ] {
        let case = format!("generation {generation} in {places:?}, signed {signed}");
        for (replica, files) in ["r1", "r2"].iter().zip(&before) {
            put_back(&vault.path(replica).join("keyring"), files);
        }
        let (key, body) = (layout::keyring_generation(&name("shop"), generation), forged(&vault, &id, generation));
        for place in places {
            std::fs::write(vault.path(place).join(&key), &body).unwrap();
            let signature = vault.path(place).join(layout::signature(&key));
            match signed {
                "by nobody" => drop(std::fs::remove_file(signature)),
                "by the thief" => {
                    let text = thief.sign(&body, &layout::trusted_comment(&id, &key)).unwrap();
                    std::fs::write(signature, text).unwrap();
                }
                _ => {}
            }
        }
        let _ = std::fs::remove_dir_all(vault.path("db1/keys"));
        let init = vault.lifeboat("db1", &["--json", "init", "--identity", &vault.identity("ann")]).await;
        let all_forged = places.len() == 2 && generation == 1;
        assert_eq!(init.status.success(), !all_forged, "{case}: {init}");
        assert!(init.stderr.contains("nobody signed it who may") || !all_forged, "{case}: {init}");
        for replica in ["r1", "r2"] {
            let is_forged = std::fs::read(vault.path(replica).join(&key)).is_ok_and(|found| found == body);
            assert!(!is_forged || places.contains(&replica), "{case}: the forgery was spread to {replica}");
            if !all_forged {
                assert_eq!(opened(replica).await, honest, "{case}: {replica} holds other keys");
            }
        }
    }
    // The root is hidden, too, and the machine has seen none.
    let roots = ["r1", "r2"].map(|replica| files(&vault.path(replica).join("root")));
    let (key, body) = (layout::keyring_generation(&name("shop"), 1), forged(&vault, &id, 1));
    for replica in ["r1", "r2"] {
        std::fs::remove_dir_all(vault.path(replica).join("root")).unwrap();
        std::fs::write(vault.path(replica).join(&key), &body).unwrap();
    }
    for folder in ["db1/keys", "db1/state"] {
        let _ = std::fs::remove_dir_all(vault.path(folder));
    }
    let refused = vault.lifeboat("db1", &["init", "--identity", &vault.identity("ann")]).await;
    assert!(!refused.status.success() && refused.stderr.contains("no replica shows a root"), "{refused}");
    assert!(!vault.path("r1").join("root").exists() && !vault.path("db1/keys/host-keys").exists(), "{refused}");
    for (replica, files) in ["r1", "r2"].iter().zip(&roots) {
        put_back(&vault.path(replica).join("root"), files);
    }
    // In the end a machine takes over, and all old data opens with what it wrote.
    for (replica, files) in ["r1", "r2"].iter().zip(&before) {
        put_back(&vault.path(replica).join("keyring"), files);
    }
    let _ = std::fs::remove_dir_all(vault.path("db1/keys"));
    vault.set_up("db1", &["shop"], &["--identity", &vault.identity("ann")]).await;
    assert!(vault.once("db1").await.status.success());
    for replica in ["r1", "r2"] {
        assert_eq!(vault.restored("shop", replica, &[]).await.unwrap(), "shop of db1");
    }
}

/// The holder of a second signer once had the keys of the dataset. The root trusts him with another
/// one. He leaves the root out of his configuration, and has credentials for every bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_of_one_dataset_signs_nothing_for_another() {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    assert!(vault.once("db1").await.status.success());
    let own = report(&vault, &["init"]).await["signer"].as_str().unwrap().to_owned();
    vault.configure("db2", &vault.owners(), &["shop", "wiki"]);
    let init = vault.lifeboat("db2", &["init", "--identity", &vault.identity("ann")]).await;
    assert!(init.status.success(), "{init}");
    vault.change("db2", &["add-host", "--dataset", "wiki"]).await;
    let refused = vault.once("db2").await;
    assert!(refused.stderr.contains("does not let this host back up dataset shop"), "{refused}");
    vault.configure("db2", &format!("master_recipients = []\ntrusted_signers = [\"{own}\"]"), &["shop"]);
    std::fs::write(vault.path("db2/shop"), "nothing").unwrap();
    let forged = vault.once("db2").await;
    assert!(forged.status.success(), "{forged}");
    for replica in ["r1", "r2"] {
        assert_eq!(files(&vault.path(replica).join("datasets/shop/snapshots")).len(), 4, "both are there, signed");
        let newest = vault.restored("shop", replica, &[]).await.expect_err("an unbelieved newest is not passed over");
        assert!(newest.stderr.contains("host db2 may not sign it"), "{newest}");
    }
    let verified = vault.lifeboat("db1", &["verify"]).await;
    assert!(!verified.status.success() && verified.stdout.contains("host db2 may not sign it"), "{verified}");
    // He does stop the next backup, by name, as whoever can write into every bucket can.
    let stopped = vault.once("db1").await;
    assert!(!stopped.status.success(), "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_vault_in_the_place_of_this_one_is_refused() {
    let (production, staging) = (RootedVault::new().await, RootedVault::new().await);
    for vault in [&production, &staging] {
        vault.set_up("db1", &["shop"], &[]).await;
        assert!(vault.once("db1").await.status.success());
    }
    for replica in ["r1", "r2"] {
        put_back(&production.path(replica), &files(&staging.path(replica)));
    }
    let refused = production.restored("shop", "r1", &[]).await.expect_err("staging was restored");
    assert!(refused.stderr.contains("no replica shows a root that the owners signed"), "{refused}");
    for words in [&["list"][..], &["prune", "--yes"]] {
        let refused = production.lifeboat("db1", words).await;
        assert!(!refused.status.success(), "{refused}");
    }
    let refused = production.once("db1").await;
    assert!(!refused.status.success() && refused.stderr.contains("has seen root 1"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_never_goes_back() {
    let mut vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    let first = ["r1", "r2"].map(|replica| files(&vault.path(replica).join("root")));
    vault.change("db1", &["set", "--least-retention", "7"]).await;
    assert!(vault.once("db1").await.status.success());
    let second = files(&vault.path("r1/root"));
    let line = report(&vault, &["root", "show", "--line"]).await["line"].as_str().unwrap().to_owned();

    // In one replica: it is told by name, and gets the root again.
    for junk in [None, Some("{}")] {
        put_back(&vault.path("r1/root"), &first[0]);
        if let Some(junk) = junk {
            std::fs::write(vault.path("r1/root/2.json"), junk).unwrap();
            std::fs::write(vault.path("r1/root/3.json"), junk).unwrap();
        }
        let went_on = vault.once("db1").await;
        assert!(went_on.status.success() && went_on.stderr.contains("does not show root 2"), "{went_on}");
        assert_eq!(junk.is_some(), went_on.stderr.contains("root 3 is left aside"), "{went_on}");
        let healed = files(&vault.path("r1/root"));
        assert!(second.iter().all(|(name, content)| healed.get(name) == Some(content)), "{:?}", healed.keys());
    }

    // In all: nothing is committed or deleted, and a restore goes on.
    for rolled_back in [Some(&first), None] {
        for (number, replica) in ["r1", "r2"].into_iter().enumerate() {
            put_back(&vault.path(replica).join("root"), rolled_back.map_or(&BTreeMap::new(), |first| &first[number]));
        }
        let told = "has seen root 2, and none of the replicas";
        for stopped in [vault.once("db1").await, vault.lifeboat("db1", &["prune", "--yes"]).await] {
            assert!(!stopped.status.success() && stopped.stderr.contains(told), "{stopped}");
        }
        let listed = vault.lifeboat("db1", &["list"]).await;
        assert!(listed.status.success() && listed.stderr.contains(told), "{listed}");
    }
    let healed = vault.lifeboat("db1", &["root", "install", &line]).await;
    assert!(healed.status.success(), "{healed}");
    // Whoever knows none of them finds the whole chain again.
    assert_eq!(files(&vault.path("r2/root")).len(), 4, "two roots, two signatures");
    vault.configure("newcomer", &vault.owners(), &[]);
    let listed = vault.lifeboat("newcomer", &["--identity", &vault.identity("ann"), "list"]).await;
    assert!(listed.status.success(), "{listed}");
    assert!(vault.once("db1").await.status.success());

    // Somebody else has the owner's key: two roots of one version, both signed.
    put_back(&vault.path("thief"), &files(&vault.path("ann")));
    keep_private(&vault.path("thief"));
    std::fs::remove_file(vault.path("thief/last-root.json")).unwrap();
    let request =
        async |days| vault.lifeboat("db1", &["root", "request", "set", "--least-retention", days]).await.stdout;
    let [ours, theirs] = [request("9").await, request("0").await];
    let [ours, theirs] = [vault.signed("ann", ours.trim()).await, vault.signed("thief", theirs.trim()).await];
    assert!(vault.lifeboat("db1", &["root", "install", &ours]).await.status.success());
    let refused = vault.lifeboat("db1", &["root", "install", &theirs]).await;
    assert!(refused.stderr.contains("the newest is already root 3"), "{refused}");
    let RootLine(carried) = line::read(&theirs).unwrap();
    std::fs::write(vault.path("r2/root/3.json"), &carried.root).unwrap();
    std::fs::write(vault.path("r2/root/3.json.ann.minisig"), &carried.signatures["ann"]).unwrap();
    vault.configure("reader", &vault.owners(), &[]);
    let torn = vault.lifeboat("reader", &["--identity", &vault.identity("ann"), "list"]).await;
    assert!(torn.stderr.contains("different valid roots of version 3"), "{torn}");
    // Who has seen ours stops, too, and overwrites nothing: somebody has an owner's key.
    let stopped = vault.once("db1").await;
    assert!(!stopped.status.success() && stopped.stderr.contains("different valid roots of version 3"), "{stopped}");
    assert!(stopped.stderr.contains("replica r2"), "{stopped}");
    assert_eq!(std::fs::read_to_string(vault.path("r2/root/3.json")).unwrap(), carried.root);
    // A host saw the wrong one alone.
    let both = std::mem::take(&mut vault.replicas);
    vault.replicas = vec![both[1].clone()];
    vault.configure("misled", &vault.owners(), &["shop"]);
    put_back(&vault.path("misled/keys"), &files(&vault.path("db1/keys")));
    keep_private(&vault.path("misled/keys"));
    let misled = vault.once("misled").await;
    assert!(misled.status.success(), "{misled}");
    vault.replicas = both;
    vault.configure("misled", &vault.owners(), &["shop"]);
    std::fs::remove_dir_all(vault.path("r2/root")).unwrap();
    let healed = vault.once("db1").await;
    assert!(healed.status.success() && healed.stderr.contains("does not show root 3"), "{healed}");
    assert_eq!(files(&vault.path("r1/root")), files(&vault.path("r2/root")));
    let stopped = vault.once("misled").await;
    assert!(!stopped.status.success() && stopped.stderr.contains("different valid roots of version 3"), "{stopped}");
    assert!(stopped.stderr.contains("remove root.json and roots/ from the state directory"), "{stopped}");
    std::fs::remove_file(vault.path("misled/state/root.json")).unwrap();
    std::fs::remove_dir_all(vault.path("misled/state/roots")).unwrap();
    let healed = vault.once("misled").await;
    assert!(healed.status.success(), "{healed}");
}
