//! What still counts of a signer that was revoked, and what waits where nobody can tell whether one
//! was.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use lifeboat_engine::format::layout;
use lifeboat_engine::keys::HostKeys;
use lifeboat_tests::host::section;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::s3::{Bucket, Region};
use lifeboat_tests::vault::name;

use crate::{files, forged, keep_private, keys_of, put_back, report};

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
    let snapshots = snapshots["snapshots"].as_array().unwrap();
    let mut ids: Vec<&str> = snapshots.iter().map(|one| one["snapshot"].as_str().unwrap()).collect();
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
        let stolen = keys_of(&vault, "db1");
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
            takes_over_the_keys_that_are_named(&vault, &stolen).await;
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

/// The operator has restored an old snapshot, and names the keys that opened it. The thief has put
/// others beside them, which his signer signed.
async fn takes_over_the_keys_that_are_named(vault: &RootedVault, stolen: &HostKeys) {
    let before = Utc::now().to_rfc3339();
    for generation in 1..=2 {
        let key = layout::keyring_generation(&name("shop"), generation);
        let body = forged(vault, &stolen.vault, generation);
        let signature = stolen.signer.sign(&body, &layout::trusted_comment(&stolen.vault, &key)).unwrap();
        std::fs::write(vault.path("r2").join(&key), &body).unwrap();
        std::fs::write(vault.path("r2").join(layout::signature(&key)), signature).unwrap();
    }
    let identity = vault.identity("ann");
    let refused = vault.lifeboat("db1", &["init", "--identity", &identity]).await;
    let recipient = |key: &str| {
        let told =
            refused.stderr.split_once(&format!("{key} (recipient ")).unwrap_or_else(|| panic!("{key}: {refused}"));
        told.1.split(';').next().unwrap().to_owned()
    };
    let key = |generation| layout::keyring_generation(&name("shop"), generation);
    let honest = recipient(&format!("{} in s1", key(1)));
    let others = [recipient(&format!("{} in r2", key(1))), recipient(&format!("{} in r2", key(2)))];
    assert!(!others.contains(&honest), "{refused}");
    let init = ["--json", "init", "--identity", &identity, "--accept-keys", &honest];
    let init = vault.lifeboat("db1", &init).await;
    assert!(init.status.success(), "{init}");
    vault.sign_and_install("db1", init.json().unwrap()["request"].as_str().unwrap()).await;
    std::fs::write(vault.path("db1/shop"), "shop of the new machine").unwrap();
    let once = vault.once("db1").await;
    assert!(once.status.success(), "{once}");
    assert_eq!(keys_of(vault, "db1").datasets[&name("shop")].generation, 1);
    assert_eq!(vault.restored("shop", "r2", &[]).await.unwrap(), "shop of the new machine");
    let signer = stolen.signer.public().to_string();
    let old = vault.restored("shop", "r2", &["--at", &before, "--trusted-signer", &signer]).await;
    assert_eq!(old.unwrap(), "shop of db1");
}

/// Where nobody answers for what is below `root/`, it cannot be told whether a newer root revokes
/// somebody.
#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_backups_go_on_and_deletion_and_new_machines_wait() {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    assert!(vault.once("db1").await.status.success());
    // A directory replica follows no link, so it fails there.
    let answers = |replica: &str, does: bool| {
        let (root, aside) = (vault.path(replica).join("root"), vault.path(&format!("{replica}-root")));
        if does {
            std::fs::remove_file(&root).unwrap();
            std::fs::rename(&aside, &root).unwrap();
        } else {
            std::fs::rename(&root, &aside).unwrap();
            std::os::unix::fs::symlink(&aside, &root).unwrap();
        }
    };
    let init = async || vault.lifeboat("db1", &["init", "--identity", &vault.identity("ann")]).await;
    answers("r2", false);
    let pinned = init().await;
    let told = "nobody can tell whether replica r2 shows a newer root";
    assert!(pinned.status.success() && pinned.to_string().contains(told), "{pinned}");
    let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(pruned.status.success(), "{pruned}");
    let [keys, state] = ["db1/keys", "db1/state"].map(|folder| vault.path(folder));
    for folder in [&keys, &state] {
        std::fs::rename(folder, folder.with_extension("aside")).unwrap();
    }
    let refused = init().await;
    assert!(!refused.status.success() && refused.stderr.contains("which root is the newest"), "{refused}");
    assert!(!keys.exists(), "{refused}");
    for folder in [&keys, &state] {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::rename(folder.with_extension("aside"), folder).unwrap();
    }

    answers("r1", false);
    let went_on = vault.once("db1").await;
    assert!(
        went_on.status.success() && went_on.stderr.contains("whether this replica shows a newer root"),
        "{went_on}"
    );
    let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(
        !pruned.status.success() && pruned.to_string().contains("no replica shows root 1, or a newer one"),
        "{pruned}"
    );
    answers("r1", true);
    let pruned = vault.lifeboat("db1", &["prune", "--yes"]).await;
    assert!(pruned.status.success(), "{pruned}");
}

/// A root that revokes somebody counts for what is read as of a time before it. The root of that
/// time counts only where none is left.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_as_of_a_time_is_believed_as_the_root_of_now_says() {
    let region = Region::start_with("far", Bucket::Versioned).await;
    let mut vault = RootedVault::new().await;
    vault.replicas = vec![section(&region.replica_config("far"))];
    vault.set_up("db1", &["shop"], &[]).await;
    assert!(vault.once("db1").await.status.success());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let early = Utc::now().to_rfc3339();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let until = (Utc::now() - Duration::from_secs(300)).to_rfc3339_opts(SecondsFormat::Secs, true);
    vault.change("db1", &["remove-host", "db1", "--until", &until]).await;
    vault.configure("reader", &vault.owners(), &[]);
    let identity = vault.identity("ann");
    let restored = async |out: &str| {
        let out = vault.path(out).display().to_string();
        let owner = vault.path("ann").display().to_string();
        let words = ["--identity", &identity, "restore", "shop", "--as-of", &early, "--to-directory", &out];
        vault.lifeboat("reader", &[&words[..], &["--owner-directory", &owner]].concat()).await
    };
    let refused = restored("out").await;
    assert!(!refused.status.success() && refused.stderr.contains("revoked"), "{refused}");
    let _ = std::fs::remove_dir_all(vault.path("reader/state"));
    let client = region.client();
    let listed = client.list_objects_v2().bucket(region.bucket()).send().await.unwrap();
    for key in listed.contents().iter().filter_map(|object| object.key()).filter(|key| key.contains("root/")) {
        client.delete_object().bucket(region.bucket()).key(key).send().await.unwrap();
    }
    let went_on = restored("again").await;
    assert!(went_on.status.success(), "{went_on}");
    assert!(went_on.stderr.contains("going on with root 1 of that time"), "{went_on}");
    assert!(!went_on.stderr.contains("none of the replicas"), "{went_on}");
}
