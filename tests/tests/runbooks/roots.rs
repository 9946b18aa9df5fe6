//! The runbook of the root: a vault adopts one, and the root changes.

use std::path::PathBuf;

use lifeboat_tests::operator::Operator;
use lifeboat_tests::runbook::Runbook;
use lifeboat_tests::vault::files_below;

use crate::{host, place, write};

/// What an owner answers to a request, installed from a host.
async fn sign_and_install(host: &Operator, request: &str, owners: &[&str]) {
    let mut line = request.trim().to_owned();
    for owner in owners {
        let signed = host.must(&format!("lifeboat owner sign --directory {owner} --yes '{line}'")).await;
        line = signed.stdout.trim().to_owned();
    }
    host.must(&format!("lifeboat root install '{line}'")).await;
}

/// The keyring objects in all replicas.
fn keyring(host: &Operator) -> Vec<PathBuf> {
    let folders = ["frankfurt", "ireland"].map(|replica| host.file(&format!("../{replica}/vault/keyring")));
    let objects = folders.iter().flat_map(|folder| files_below(folder));
    objects.filter(|path| path.extension().is_some_and(|end| end == "age")).collect()
}

/// How many of them an owner opens.
async fn opened(host: &Operator, owner: &str) -> usize {
    let mut opened = 0;
    for object in keyring(host) {
        let age = host.shell(&format!("age -d -i {owner}/identity '{}' > /dev/null", object.display())).await;
        opened += usize::from(age.status.success());
    }
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_adopts_a_root_which_changes_with_its_machines_and_owners() {
    let mut book = Runbook::open("Who is believed")
        .leaving_out("lifeboat owner init", "the owners are there from the start")
        .leaving_out("lifeboat audit export", "the runbook of the logs runs it");
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.backup().await;
    for owner in ["ann", "bob"] {
        db1.must(&format!("lifeboat owner init --directory {owner} --name {owner} > {owner}.line")).await;
    }
    book.take("lifeboat owner sign");
    book.take("lifeboat root install");
    let adopt = db1.follow(&mut book, "lifeboat root adopt --owner @ann.line", &[]).await;
    sign_and_install(&db1, &adopt.stdout, &["ann"]).await;
    db1.owners = vec![db1.must("cat ann.line").await.stdout.trim().to_owned()];
    db1.masters = Vec::new();
    db1.follow(&mut book, "lifeboat init", &[]).await;
    db1.must("lifeboat init --identity master.txt").await;
    write(&place, "two");
    db1.backup().await;
    assert_eq!(db1.restored("--identity ann/identity").await, "two");

    let shown = db1.follow(&mut book, "lifeboat root show", &[]).await;
    assert!(shown.stdout.contains("host db1 backs up shop"), "{shown}");
    let floors = "lifeboat root request set --least-retention 7 --least-delay 3";
    let request = db1.follow(&mut book, floors, &[]).await.stdout;
    sign_and_install(&db1, &request, &["ann"]).await;
    let checked = db1.must("lifeboat check").await;
    assert!(checked.stdout.contains("every snapshot is kept for at least 7 d"), "{checked}");
    let mut db2 = Operator::at(place.path(), "db2");
    (db2.owners, db2.replicas) = (db1.owners.clone(), db1.replicas.clone());
    db2.datasets = vec![db1.datasets[0].replace("\"shop\"", "\"wiki-en\"")];
    let master = db1.file("ann/identity").display().to_string();
    let (shown, real) = ("lifeboat init --identity MASTER", "lifeboat --json init --identity MASTER");
    let init = db2.follow(&mut book, shown, &[(shown, real), ("MASTER", &master)]).await;
    let request = init.json().unwrap()["request"].as_str().unwrap().to_owned();
    sign_and_install(&db1, &request, &["ann"]).await;
    db2.must("lifeboatd --once").await;
    let add = "lifeboat root request add-host --dataset shop --dataset 'wiki-*'";
    let request = db2.follow(&mut book, add, &[]).await.stdout;
    sign_and_install(&db1, &request, &["ann"]).await;
    let recipient = db1.make_identity("drill2.txt").await;
    let public = db1.must("minisign -G -W -p drill2.pub -s drill2.key > /dev/null && tail -n 1 drill2.pub").await;
    let add = "lifeboat root request add-drill-host drill2 --recipient age1… --signer RW… --dataset shop";
    let real = [("age1…", recipient.as_str()), ("RW…", public.stdout.trim())];
    let request = db1.follow(&mut book, add, &real).await.stdout;
    sign_and_install(&db1, &request, &["ann"]).await;
    db1.must("lifeboat init --identity ann/identity").await;
    assert_eq!(db1.restored("--identity drill2.txt").await, "two");

    let [host, drill] = ["remove-host db2", "remove-drill-host drill2"]
        .map(|what| format!("lifeboat root request {what} --until 2026-11-23T18:00:00Z"));
    let old = db2.must("lifeboat --json init").await.json().unwrap()["signer"].as_str().unwrap().to_owned();
    for remove in [host, drill] {
        let request = db1.follow(&mut book, &remove, &[]).await.stdout;
        sign_and_install(&db1, &request, &["ann"]).await;
    }
    write(&place, "three");
    let refused = db2.shell("lifeboatd --once").await;
    assert!(!refused.status.success() && refused.stderr.contains("does not let this host"), "{refused}");
    db1.backup().await;
    // Another machine takes its place. No store dates the keys.
    for lost in ["keys", "state"] {
        std::fs::remove_dir_all(db2.file(lost)).unwrap();
    }
    let refused = db2.shell(&format!("lifeboat init --identity {master}")).await;
    let told = refused.stderr.split_once("wiki-en/1.age in frankfurt (recipient ").expect(&refused.stderr).1;
    let recipient = told.split(';').next().unwrap().to_owned();
    let as_before = format!("--identity {master} --trusted-signer {old}");
    let listed = db2.must(&format!("lifeboat --json list {as_before}")).await.json().unwrap();
    let snapshot = listed["snapshots"].as_array().unwrap().iter().find(|one| one["dataset"] == "wiki-en").unwrap();
    let (id, owner) = (snapshot["snapshot"].as_str().unwrap(), db1.file("ann").display().to_string());
    let real = [
        ("shop", "wiki-en"),
        ("ID", id),
        ("NAME", "frankfurt"),
        ("OUT", "old"),
        ("MASTER", &master),
        ("RW…", &old),
        ("DIR", &owner),
    ];
    let show = "lifeboat show shop ID --identity MASTER --trusted-signer RW…";
    let shown = db2.follow(&mut book, show, &real).await;
    assert!(shown.stdout.contains("generation 1"), "{shown}");
    let restore = "lifeboat restore shop --snapshot ID --replica NAME --identity MASTER --trusted-signer RW… \
                   --to-directory OUT --owner-directory DIR";
    db2.follow(&mut book, restore, &real).await;
    let accept = "lifeboat init --identity MASTER --accept-keys age1…";
    let real = [("lifeboat init", "lifeboat --json init"), ("MASTER", &master), ("age1…", &recipient)];
    let init = db2.follow(&mut book, accept, &real).await;
    sign_and_install(&db1, init.json().unwrap()["request"].as_str().unwrap(), &["ann"]).await;
    // By its own time, all that the old one wrote is the thief's.
    let refused = db2.shell("lifeboatd --once").await;
    assert!(!refused.status.success() && refused.stderr.contains("act 1 has been written"), "{refused}");
    for replica in ["frankfurt", "ireland"] {
        std::fs::remove_dir_all(place.path().join(replica).join("vault/datasets/wiki-en/order")).unwrap();
    }
    db2.must("lifeboatd --once").await;

    for (shown, owners) in [
        ("lifeboat root request add-owner @bob.line", &["ann"][..]),
        ("lifeboat root request set --threshold 2", &["ann", "bob"]),
    ] {
        let request = db1.follow(&mut book, shown, &[]).await.stdout;
        sign_and_install(&db1, &request, owners).await;
    }
    for host in [&db1, &db2] {
        host.must(&format!("lifeboat init --identity {master}")).await;
    }
    let all = keyring(&db1).len();
    assert_eq!((opened(&db1, "ann").await, opened(&db1, "bob").await, all), (all, all, 8));
    for (shown, owners) in [
        ("lifeboat root request set --threshold 1", &["ann", "bob"][..]),
        ("lifeboat root request remove-owner bob", &["ann"]),
    ] {
        let request = db1.follow(&mut book, shown, &[]).await.stdout;
        sign_and_install(&db1, &request, owners).await;
    }
    assert_eq!(opened(&db1, "bob").await, all, "without anything more, it still opens them");
    let bobs = db1.must("age-keygen -y bob/identity").await.stdout.trim().to_owned();
    let remove = "lifeboat root request set --remove-master age1…";
    let request = db1.follow(&mut book, remove, &[("age1…", &bobs)]).await.stdout;
    sign_and_install(&db1, &request, &["ann"]).await;
    for host in [&db1, &db2] {
        host.must(&format!("lifeboat init --identity {master}")).await;
    }
    assert_eq!((opened(&db1, "ann").await, opened(&db1, "bob").await), (all, 0));

    for replica in ["frankfurt", "ireland"] {
        std::fs::remove_dir_all(place.path().join(replica).join("vault/root")).unwrap();
    }
    let refused = db1.shell("lifeboatd --once").await;
    assert!(refused.stderr.contains("and none of the replicas that answer shows it"), "{refused}");
    db1.follow(&mut book, "lifeboat root install \"$(lifeboat root show --line)\"", &[]).await;
    db1.backup().await;
    assert_eq!(db1.restored("--identity ann/identity").await, "three");
}
