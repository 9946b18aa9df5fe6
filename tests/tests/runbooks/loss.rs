//! Runbooks for what is lost: a database, a region, a host, objects, whole buckets.

use std::path::Path;

use lifeboat_tests::host::section;
use lifeboat_tests::operator::{Operator, directory_replica, file_dataset, only_file};
use lifeboat_tests::postgres::Postgres;
use lifeboat_tests::runbook::Runbook;
use lifeboat_tests::s3::{Bucket, Region};

use crate::{host, place, write};

/// What a copy of a replica is made with, or an older one put in place.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_restored_at_night() {
    let stock = "tests/mariadb/restore.rs loads files with the stock client in the same way, into a real server";
    let mut book = Runbook::open("Restore at 2 a.m.")
        .leaving_out("grep -v 'USER `root`' globals.sql | mariadb --binary-mode --sandbox --comments", stock)
        .leaving_out("mariadb --binary-mode --sandbox --comments shop < database/shop.sql", stock);
    let (place, database) = (place(), Postgres::start().await);
    database.create_database("shop").await;
    database
        .run_sql("shop", "CREATE TABLE orders AS SELECT n, md5(n::text) AS item FROM generate_series(1, 20000) n")
        .await;
    let mut db1 = host(&place, "").await;
    let source = |more: &str| {
        format!(
            "[[dataset]]\nname = \"shop\"\nhome_region = \"home\"\n[dataset.source]\nkind = \"postgres\"\nurl = \"{}\"\n\
             databases = [\"shop\"]\n{more}\n",
            database.url("postgres")
        )
    };
    db1.datasets = vec![source("jobs = 1")];
    let first = db1.backup().await["started"].as_str().unwrap().to_owned();
    let sum = "SELECT count(*), sum(hashtext(t::text)) FROM orders t";
    let before = database.query("shop", sum).await;
    database.run_sql("shop", "INSERT INTO orders VALUES (0, 'new')").await;
    db1.datasets = vec![source("jobs = 2\nlarge_table = \"64KiB\"")];
    db1.backup().await;
    let after = database.query("shop", sum).await;

    let new = Postgres::start().await;
    let list = db1.follow(&mut book, "lifeboat list shop", &[]).await;
    assert_eq!(list.stdout.matches("frankfurt").count(), 2, "{list}");
    let restore = "lifeboat restore shop --at 2026-11-23T18:00:00Z --identity master.txt --to-postgres \
                   'postgresql://postgres@new-db/postgres?sslmode=verify-full&sslrootcert=/etc/ssl/certs/ca-certificates.crt'";
    let url = format!("'{}'", new.url("postgres"));
    let shown_url = restore.split_once("--to-postgres ").unwrap().1;
    let real = [("2026-11-23T18:00:00Z", first.as_str()), (shown_url, url.as_str())];
    db1.follow(&mut book, restore, &real).await;
    assert_eq!(new.query("shop", sum).await, before);
    // An existing database is not replaced. Another name goes, also with an identity from a pipe.
    assert!(!db1.try_follow(&mut book, restore, &real).await.status.success());
    let beside = [
        ("--at 2026-11-23T18:00:00Z", "--database shop --rename shop_restored"),
        ("master.txt", "<(cat master.txt)"),
        real[1],
    ];
    db1.follow(&mut book, restore, &beside).await;
    assert_eq!(new.query("shop_restored", sum).await, after);
    db1.follow(&mut book, restore, &[real[0], ("--to-postgres", "--overwrite --yes --to-postgres"), real[1]]).await;
    assert_eq!(new.query("shop", sum).await, before);

    // PostgreSQL's own tools, with the files.
    let by_hand = Postgres::start().await;
    let socket = by_hand.url("postgres").split("host=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    for (folder, at) in [("one", format!("--at {first}")), ("two", String::new())] {
        db1.must(&format!("lifeboat restore shop {at} --identity master.txt --to-directory {folder}")).await;
    }
    let within = |folder: &str, program: &str| {
        format!("export PGHOST={socket} PGUSER=postgres; set -o pipefail; cd {folder}; {program}")
    };
    db1.follow(&mut book, "psql -f globals.sql postgres", &[("psql", &within("one", "psql"))]).await;
    let whole = "pg_restore --create -d postgres database/shop.dump";
    db1.follow(&mut book, whole, &[("pg_restore", &within("one", "pg_restore"))]).await;
    assert_eq!(by_hand.query("shop", sum).await, before);
    by_hand.run_sql("postgres", "DROP DATABASE shop").await;
    for (line, program) in [
        ("pg_restore --exit-on-error --create --section=pre-data -d postgres schema/shop.dump", "pg_restore"),
        (
            "find data/shop.dump table/shop -name '*.dump' -print0 | \
             xargs -0 -P 2 -n 1 pg_restore --exit-on-error -d shop",
            "find",
        ),
        ("pg_restore --exit-on-error --section=post-data -j 2 -d shop schema/shop.dump", "pg_restore"),
    ] {
        db1.follow(&mut book, line, &[(program, &within("two", program))]).await;
    }
    assert_eq!(by_hand.query("shop", sum).await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_region_is_replaced() {
    let mut lost = Runbook::open("Region lost");
    let mut add = Runbook::open("Add a replica")
        .leaving_out("systemctl daemon-reload", "it is of systemd")
        .leaving_out("lifeboat audit verify", "a vault without a root has no logs");
    let place = place();
    let (mut frankfurt, ireland) = tokio::join!(Region::start("eu-central-1"), Region::start("eu-west-1"));
    let mut db1 = Operator::at(place.path(), "db1");
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.replicas = vec![section(&frankfurt.replica_config("frankfurt")), section(&ireland.replica_config("ireland"))];
    db1.datasets = vec![file_dataset("shop", &place.path().join("data"), "")];
    db1.limits = "run = \"1m\"".to_owned();
    db1.init("").await;
    db1.start().await;
    write(&place, "one");
    db1.must("lifeboat trigger shop").await;

    frankfurt.kill();
    write(&place, "two");
    assert!(!db1.shell("lifeboat trigger shop").await.status.success());
    let all = ("…", "shop --identity master.txt --to-directory out");
    db1.follow(&mut lost, "lifeboat restore … --replica ireland", &[all]).await;
    assert_eq!(only_file(&db1.file("out")), "one");
    db1.min_replicas = 1;
    db1.follow(&mut lost, "systemctl reload lifeboatd", &[]).await;
    db1.must("lifeboat trigger shop").await;

    db1.replicas.remove(0);
    db1.replicas.push(directory_replica(place.path(), "stockholm"));
    db1.follow(&mut add, "lifeboat init", &[]).await;
    db1.follow(&mut add, "lifeboat check", &[]).await;
    db1.follow(&mut add, "systemctl restart lifeboatd", &[]).await;
    let behind = "lifeboat_replica_behind_snapshots{dataset=\"shop\",replica=\"stockholm\"}";
    db1.until_metric(behind, 0.0).await;
    let status = db1.follow(&mut lost, "lifeboatd status", &[]).await;
    assert!(status.stdout.contains("stockholm"), "{status}");
    db1.min_replicas = 2;
    db1.follow(&mut lost, "systemctl reload lifeboatd", &[]).await;
    write(&place, "three");
    db1.must("lifeboat trigger shop").await;
    db1.must("lifeboat verify shop --read-data --identity master.txt").await;
    assert_eq!(db1.restored("--identity master.txt --replica stockholm").await, "three");
    let list = db1.must("lifeboat --json list shop --replica stockholm").await.json().unwrap();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 3, "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_backup_host_is_replaced() {
    let mut book = Runbook::open("Backup host lost");
    let place = place();
    let mut old = host(&place, "").await;
    let drill = Operator::at(place.path(), "drill");
    drill.make_identity("drill-identity").await;
    old.drill_recipients = vec![drill.must("age-keygen -y drill-identity").await.stdout.trim().to_owned()];
    let signer = old.init("--identity master.txt").await;
    old.backup().await;
    let (masters, replicas, datasets) = (old.masters.clone(), old.replicas.clone(), old.datasets.clone());
    std::fs::rename(old.file("master.txt"), place.path().join("master.txt")).unwrap();
    std::fs::remove_dir_all(old.file("")).unwrap();
    drop(old);

    let mut new = Operator::at(place.path(), "db1");
    std::fs::copy(place.path().join("master.txt"), new.file("master.txt")).unwrap();
    std::fs::copy(drill.file("drill-identity"), new.file("drill-identity")).unwrap();
    (new.masters, new.replicas, new.datasets) = (masters, replicas, datasets);
    new.trusted_signers = vec![signer];
    let recipient = new.follow(&mut book, "age-keygen -y drill-identity", &[]).await.stdout;
    // Without what it needs to take over whole, it stops, and makes nothing.
    let partly = new.shell("lifeboat init --identity master.txt").await;
    assert!(partly.code() == Some(7) && partly.stderr.contains("drill_recipients"), "{partly}");
    assert!(!partly.stderr.contains("trusted_signers with") && !new.file("keys/drill-host").exists(), "{partly}");
    new.drill_recipients = vec![recipient.trim().to_owned()];

    // Somebody put other keys into a replica, or took them away.
    let keyring = place.path().join("ireland/vault/keyring");
    let aside = place.path().join("aside");
    copy(&keyring, &aside);
    std::fs::remove_dir_all(&keyring).unwrap();
    let stopped = new.try_follow(&mut book, "lifeboat init --identity master.txt", &[]).await;
    assert!(!stopped.status.success() && stopped.stderr.contains("ireland"), "{stopped}");
    for (replica, opens) in [("frankfurt", true), ("ireland", false)] {
        let out = format!(
            "NAME --identity master.txt --trusted-signer {} shop --to-directory {replica}",
            new.trusted_signers[0]
        );
        let real = [("NAME", out.as_str()), ("NAME", replica)];
        let output = new
            .try_follow(
                &mut book,
                "lifeboat restore --replica NAME",
                &[(real[0].0, &real[0].1.replace("NAME", replica))],
            )
            .await;
        assert_eq!(output.status.success(), opens, "{output}");
    }
    copy(&aside, &keyring);
    new.follow(&mut book, "lifeboat init --identity master.txt", &[]).await;
    new.follow(&mut book, "systemctl enable --now lifeboatd", &[]).await;
    write(&place, "two");
    new.must("lifeboat trigger shop").await;
    new.must("lifeboat verify shop --read-data --identity master.txt").await;
    // Old and new snapshots open, also for the old drill host.
    let list = new.must("lifeboat --json list shop").await.json().unwrap();
    let snapshots = list["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 2, "{list}");
    for (snapshot, data) in snapshots.iter().zip(["one", "two"]) {
        let id = snapshot["snapshot"].as_str().unwrap();
        for identity in ["master.txt", "drill-identity"] {
            assert_eq!(new.restored(&format!("--identity {identity} --snapshot {id}")).await, data);
        }
    }
}

/// The whole of an emptied or old bucket.
#[tokio::test(flavor = "multi_thread")]
async fn buckets_that_were_emptied_or_rolled_back_are_filled_again() {
    let mut book = Runbook::open("A bucket was emptied or rolled back");
    let place = place();
    let mut db1 = host(&place, "retention = { keep_last = 10 }").await;
    let [frankfurt, ireland, old] = ["frankfurt", "ireland", "old"].map(|name| place.path().join(name));
    db1.backup().await;
    copy(&ireland, &old);
    write(&place, "two");
    db1.backup().await;

    // One is empty.
    std::fs::remove_dir_all(ireland.join("vault")).unwrap();
    db1.start().await;
    db1.until_metric("lifeboat_replica_up{replica=\"ireland\"}", 0.0).await;
    assert!(!db1.shell("lifeboat trigger shop").await.status.success());
    let prune = db1.shell("lifeboat prune --yes").await;
    assert!(prune.stderr.contains("replica ireland has lost snapshot"), "{prune}");
    db1.follow(&mut book, "lifeboat init", &[]).await;
    db1.follow(&mut book, "lifeboat repair shop", &[]).await;
    db1.follow(&mut book, "lifeboat verify shop", &[]).await;
    assert_eq!(db1.restored("--identity master.txt --replica ireland").await, "two");
    db1.must("lifeboat trigger shop").await;
    db1.start().await;
    db1.until_metric("lifeboat_replica_up{replica=\"ireland\"}", 1.0).await;
    db1.stop().await;

    // One is old.
    copy(&old, &ireland);
    let prune = db1.shell("lifeboat prune --yes").await;
    assert!(prune.stderr.contains("replica ireland has lost snapshot"), "{prune}");
    db1.follow(&mut book, "lifeboat repair shop", &[]).await;
    db1.follow(&mut book, "lifeboat verify shop", &[]).await;
    db1.must("lifeboat prune --yes").await;

    // A bucket keeps versions, and is needed now.
    as_of(&mut book).await;

    // All are old, and then all are empty.
    for is_empty in [false, true] {
        for replica in [&frankfurt, &ireland] {
            copy(&old, replica);
            if is_empty {
                std::fs::remove_dir_all(replica.join("vault")).unwrap();
            }
        }
        db1.stop().await;
        db1.follow(&mut book, "lifeboat init", &[]).await;
        let repair = db1.try_follow(&mut book, "lifeboat repair shop", &[]).await;
        assert_eq!(repair.code(), Some(6), "{repair}");
        db1.must("lifeboat repair shop --accept-loss --yes").await;
        db1.start().await;
        write(&place, "three");
        db1.follow(&mut book, "lifeboat trigger shop", &[]).await;
        db1.follow(&mut book, "lifeboat verify shop", &[]).await;
        db1.must("lifeboat prune --yes").await;
        assert_eq!(db1.restored("--identity master.txt").await, "three");
    }
}

/// Reads a bucket that keeps versions as it was before everything in it was deleted.
async fn as_of(book: &mut Runbook) {
    let (place, region) = (place(), Region::start_with("eu-west-1", Bucket::Versioned).await);
    let mut db1 = Operator::at(place.path(), "db1");
    db1.masters = vec![db1.make_identity("master.txt").await];
    db1.replicas = vec![section(&region.replica_config("ireland"))];
    db1.min_replicas = 1;
    db1.datasets = vec![file_dataset("shop", &place.path().join("data"), "")];
    db1.limits = String::new();
    db1.init("").await;
    write(&place, "kept");
    db1.backup().await;
    // Stores date versions in whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let before = db1.must("date --utc +%FT%TZ").await.stdout.trim().to_owned();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let (client, bucket) = (region.client(), region.bucket());
    let listed = client.list_objects_v2().bucket(bucket).send().await.unwrap();
    for object in listed.contents() {
        client.delete_object().bucket(bucket).key(object.key().unwrap()).send().await.unwrap();
    }
    assert!(!db1.shell("lifeboat list").await.status.success());
    let real = [("2026-11-28T18:00:00Z", before.as_str()), ("/srv/restored", "restored")];
    let list = db1.follow(book, "lifeboat list --as-of 2026-11-28T18:00:00Z", &real).await;
    assert!(list.stdout.contains("shop"), "{list}");
    db1.follow(book, "lifeboat verify --as-of 2026-11-28T18:00:00Z shop", &real).await;
    let restore =
        "lifeboat restore shop --as-of 2026-11-28T18:00:00Z --identity master.txt --to-directory /srv/restored";
    db1.follow(book, restore, &real).await;
    assert_eq!(only_file(&db1.file("restored")), "kept");

    // All of it is brought back.
    db1.follow(book, "lifeboat undelete --dry-run --as-of 2026-11-28T18:00:00Z", &real).await;
    db1.follow(book, "lifeboat undelete --as-of 2026-11-28T18:00:00Z", &real).await;
    db1.follow(book, "lifeboat verify", &[]).await;
    assert_eq!(db1.restored("--identity master.txt").await, "kept");
}
