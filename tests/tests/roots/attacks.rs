//! What is tried against whoever goes by a root, and what it comes to.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use age::secrecy::ExposeSecret;
use chrono::{SecondsFormat, Utc};
use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::format::keyring::DatasetSecrets;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::line::{self, RootLine};
use lifeboat_engine::keys::parse_recipients;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::stages::encrypt;
use lifeboat_tests::host::section;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::s3::{Bucket, Region};
use lifeboat_tests::tools;
use lifeboat_tests::vault::name;
use serde_json::Value;
use tokio::process::Command;

/// All files below a folder, by their names in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Makes a folder hold these files and no others.
fn put_back(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

async fn report(vault: &RootedVault, words: &[&str]) -> Value {
    let output = vault.lifeboat("db1", &[&["--json"], words].concat()).await;
    assert!(output.status.success(), "{output}");
    output.json().unwrap()
}

/// The attacker knows the public halves of the masters. He puts keys of his own into one bucket, or
/// into all, and waits for a host that takes over.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_buckets_owner_invented_are_never_adopted() {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    assert!(vault.once("db1").await.status.success());
    let id = report(&vault, &["root", "show"]).await["vault"].as_str().unwrap().to_owned();
    let text = std::fs::read_to_string(vault.identity("ann")).unwrap();
    let master = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned();
    let forged = |generation: u32| {
        let identity = age::x25519::Identity::generate().to_string().expose_secret().to_owned();
        let secrets = DatasetSecrets {
            vault: id.clone(),
            dataset: name("shop"),
            generation,
            identity: identity.into(),
            chunk_id_key: ChunkIdKey::new(&[7; 32]).unwrap(),
        };
        let masters = parse_recipients(std::slice::from_ref(&master)).unwrap();
        encrypt(masters.iter().map(|master| master.as_ref() as &dyn age::Recipient), secrets.to_text().as_bytes())
            .unwrap()
    };
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
        let (key, body) = (layout::keyring_generation(&name("shop"), generation), forged(generation));
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
    let (key, body) = (layout::keyring_generation(&name("shop"), 1), forged(1));
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

/// A thief goes on after his signer was revoked, and dates nothing: he has what the machine had.
/// The machine that took its place believed him before, and remembers what he wrote.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_signer_counts_only_for_what_a_store_has_from_before() {
    let region = Region::start_with("s3", Bucket::Plain).await;
    let mut vault = RootedVault::new().await;
    vault.replicas[1] = section(&region.replica_config("s3"));
    vault.set_up("db1", &["shop"], &[]).await;
    assert!(vault.once("db1").await.status.success());
    let stolen = report(&vault, &["init"]).await["signer"].as_str().unwrap().to_owned();
    let [keys, state] = ["db1/keys", "db1/state"].map(|folder| files(&vault.path(folder)));
    std::fs::remove_dir_all(vault.path("db1/keys")).unwrap();
    vault.set_up("db1", &["shop"], &["--identity", &vault.identity("ann")]).await;
    std::fs::write(vault.path("db1/shop"), "shop of the new machine").unwrap();
    assert!(vault.once("db1").await.status.success());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let theft = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let thief = vault.path("thief");
    vault.configure("thief", &vault.owners(), &["shop"]);
    put_back(&thief.join("keys"), &keys);
    put_back(&thief.join("state"), &state);
    keep_private(&thief.join("keys"));
    std::fs::write(thief.join("shop"), "forged").unwrap();
    let committed = vault.once("thief").await;
    assert!(committed.status.success(), "{committed}");
    assert!(vault.once("db1").await.status.success());
    let snapshots = report(&vault, &["list"]).await;
    let snapshots = snapshots.as_array().or(snapshots["snapshots"].as_array()).unwrap().clone();
    let ids: Vec<&str> = snapshots.iter().map(|one| one["snapshot"].as_str().unwrap()).collect();
    let mut ids = ids.clone();
    ids.sort_unstable();
    assert_eq!(ids.len(), 4, "{snapshots:?}");
    let cached = || files(&vault.path("db1/state/datasets/shop/cache"));
    assert!(cached().keys().any(|key| key.contains(ids[2])), "{:?}", cached().keys());

    vault.change("db1", &["remove-host", "db1", "--signer", &stolen, "--until", &theft]).await;
    let went_on = vault.once("db1").await;
    assert!(went_on.status.success(), "{went_on}");
    assert!(!cached().keys().any(|key| key.contains(ids[2])), "he is believed from the cache");
    let identity = vault.identity("ann");
    let restored = async |replica: &str, id: &str| {
        let out = vault.path(&format!("out-{replica}-{id}")).display().to_string();
        let words = ["--replica", replica, "--identity", &identity, "restore", "shop", "--snapshot", id];
        vault.lifeboat("db1", &[&words[..], &["--to-directory", &out]].concat()).await
    };
    for replica in ["r1", "s3"] {
        let refused = restored(replica, ids[2]).await;
        assert!(!refused.status.success() && refused.stderr.contains("revoked"), "{refused}");
    }
    let old = restored("s3", ids[0]).await;
    assert!(old.status.success(), "{old}");
    // Nobody can tell when a file was written.
    let untold = restored("r1", ids[0]).await;
    assert!(untold.stderr.contains("cannot tell when it was stored"), "{untold}");
    // Whoever knows better says so.
    let told = vault.restored("shop", "r1", &["--snapshot", ids[0], "--trusted-signer", &stolen]).await;
    assert_eq!(told.unwrap(), "shop of db1");
    // One replica's date is not enough for this host to sign it anew for another.
    let manifest = vault.path("r1").join(layout::manifest(&name("shop"), &ids[0].parse().unwrap()));
    std::fs::remove_file(&manifest).unwrap();
    std::fs::remove_file(layout::signature(&manifest.display().to_string())).unwrap();
    let run = vault.once("db1").await;
    assert!(run.stderr.contains("s3 alone dates"), "{run}");
    assert!(!manifest.exists(), "{run}");
}

/// The only host is revoked before another one takes over.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_revoked_host_are_taken_over_only_if_two_stores_date_them() {
    let start = |name| Region::start_with(name, Bucket::Plain);
    let (one, two, other) = tokio::join!(start("s1"), start("s2"), start("other"));
    for are_dated in [false, true] {
        let mut vault = RootedVault::new().await;
        if are_dated {
            vault.replicas = vec![section(&one.replica_config("s1")), section(&two.replica_config("s2"))];
        } else {
            vault.replicas[0] = section(&other.replica_config("s1"));
        }
        vault.set_up("db1", &["shop"], &[]).await;
        assert!(vault.once("db1").await.status.success());
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let theft = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        vault.change("db1", &["remove-host", "db1", "--until", &theft]).await;
        for folder in ["db1/keys", "db1/state"] {
            std::fs::remove_dir_all(vault.path(folder)).unwrap();
        }
        let init = vault.lifeboat("db1", &["--json", "init", "--identity", &vault.identity("ann")]).await;
        assert_eq!(init.status.success(), are_dated, "{init}");
        if !are_dated {
            assert!(init.stderr.contains("the host that signed it was revoked"), "{init}");
            assert!(!init.stderr.contains("damaged"), "{init}");
            continue;
        }
        vault.sign_and_install("db1", init.json().unwrap()["request"].as_str().unwrap()).await;
        assert!(vault.once("db1").await.status.success());
        let (identity, out) = (vault.identity("ann"), vault.path("out").display().to_string());
        let words = ["--replica", "s1", "--identity", &identity, "restore", "shop", "--to-directory", &out];
        let restored = vault.lifeboat("db1", &words).await;
        assert!(restored.status.success(), "{restored}");
    }
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
    let vault = RootedVault::new().await;
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
    std::fs::remove_dir_all(vault.path("r2/root")).unwrap();
    let healed = vault.once("db1").await;
    assert!(healed.status.success() && healed.stderr.contains("does not show root 3"), "{healed}");
    assert_eq!(files(&vault.path("r1/root")), files(&vault.path("r2/root")));
}

/// As key files must be.
fn keep_private(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for file in files(folder).keys() {
        std::fs::set_permissions(folder.join(file), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}
