//! Runbooks for hosts and replicas that are there and do not do what they should.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::config::ReplicaKind;
use lifeboat_tests::crash_proxy::{CrashProxy, Moment, Watch};
use lifeboat_tests::host::section;
use lifeboat_tests::operator::{Operator, directory_replica, file_dataset};
use lifeboat_tests::runbook::Runbook;
use lifeboat_tests::s3::Region;
use lifeboat_tests::vault::files_below;
use tempfile::TempDir;

use crate::{host, place, write};

/// A second host of the same vault, with the master's identity and no keys yet.
fn second(place: &TempDir, first: &Operator, name: &str) -> Operator {
    let mut second = Operator::at(place.path(), name);
    std::fs::copy(first.file("master.txt"), second.file("master.txt")).unwrap();
    second.masters = first.masters.clone();
    second.replicas = first.replicas.clone();
    second.datasets = first.datasets.clone();
    second.min_replicas = first.min_replicas;
    second.drill_recipients = first.masters.clone();
    second
}

/// How many snapshots of `shop` a host lists.
async fn listed(host: &Operator) -> usize {
    let list = host.must("lifeboat --json list shop").await.json().unwrap();
    list["snapshots"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deputy_is_set_up_and_takes_over() {
    let mut book = Runbook::open("A deputy host");
    let place = place();
    let mut db1 = host(&place, "hosts = [\"db1\", \"db2\"]").await;
    db1.drill_recipients = db1.masters.clone();
    db1.start().await;
    db1.must("lifeboat trigger shop").await;
    let mut db2 = second(&place, &db1, "db2");
    db2.follow(&mut book, "lifeboat init --identity master.txt", &[]).await;
    let real = [("lifeboat init", "lifeboat --json init")];
    for host in [&mut db1, &mut db2] {
        let init = host.follow(&mut book, "lifeboat init", &real).await.json().unwrap();
        let signer = init["signer"].as_str().unwrap();
        host.drill_recipients = host.masters.clone();
        std::fs::write(place.path().join(&host.host).join("signer"), signer).unwrap();
    }
    let signer = |name: &str| vec![std::fs::read_to_string(place.path().join(name).join("signer")).unwrap()];
    (db1.trusted_signers, db2.trusted_signers) = (signer("db2"), signer("db1"));
    db1.follow(&mut book, "lifeboat check", &[]).await;
    db1.follow(&mut book, "systemctl reload lifeboatd", &[]).await;
    db2.follow(&mut book, "lifeboat check", &[]).await;
    db2.follow(&mut book, "systemctl enable --now lifeboatd", &[]).await;
    let leads = "lifeboat_dataset_led{dataset=\"shop\"}";
    db1.until_metric(leads, 1.0).await;
    write(&place, "two");
    assert_eq!(db2.shell("lifeboat trigger shop").await.code(), Some(3));
    db2.until_metric(leads, 0.0).await;
    let status = db2.follow(&mut book, "lifeboatd status", &[]).await;
    assert!(status.stdout.contains("db1"), "{status}");
    db2.follow(&mut book, "lifeboat takeover shop", &[]).await;
    db2.until_metric(leads, 1.0).await;
    write(&place, "three");
    db2.must("lifeboat trigger shop").await;
    assert_eq!(db1.shell("lifeboat trigger shop").await.code(), Some(3));
    for host in [&db1, &db2] {
        host.must("lifeboat verify shop").await;
        assert_eq!(host.restored("--identity master.txt").await, "three");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_moves_to_another_machine_and_stores_nothing_anew() {
    let mut book = Runbook::open("Move a backup host");
    let place = place();
    let mut old = host(&place, "").await;
    old.start().await;
    old.must("lifeboat trigger shop").await;
    old.follow(&mut book, "systemctl disable --now lifeboatd", &[]).await;
    let mut new = Operator::at(place.path(), "new");
    (new.host, new.masters) = (old.host.clone(), old.masters.clone());
    (new.replicas, new.datasets) = (old.replicas.clone(), old.datasets.clone());
    let real = [("-C / etc/lifeboat var/lib/lifeboat", "keys state"), ("ssh root@NEW ", ""), ("-C /", "-C ../new")];
    let copy = "tar -cpf - -C / etc/lifeboat var/lib/lifeboat | ssh root@NEW tar -xpf - -C /";
    old.follow(&mut book, copy, &real).await;
    std::fs::remove_dir_all(old.file("keys")).unwrap();
    for command in ["lifeboatd --check-config", "lifeboat check", "systemctl enable --now lifeboatd"] {
        new.follow(&mut book, command, &[]).await;
    }
    let real = [("lifeboat trigger", "lifeboat --json trigger")];
    let report = new.follow(&mut book, "lifeboat trigger shop", &real).await.json().unwrap();
    assert_eq!(report["stored_bytes"], 0, "{report:#}");
    new.must("lifeboat verify").await;
    assert_eq!(listed(&new).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_did_not_see_each_other_are_brought_together() {
    let mut book = Runbook::open("Two hosts on one dataset");
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.min_replicas = 1;
    let signer = db1.init("").await;
    db1.backup().await;
    let mut db2 = second(&place, &db1, "db2");
    db2.trusted_signers = vec![signer];
    db1.trusted_signers = vec![db2.init("--identity master.txt").await];

    let away = |name: &str, to: &str| std::fs::rename(place.path().join(name), place.path().join(to)).unwrap();
    for (host, data, hidden) in [(&db1, "of db1", "ireland"), (&db2, "of db2", "frankfurt")] {
        away(hidden, "away");
        write(&place, data);
        host.backup().await;
        away("away", hidden);
    }
    db2.start().await;
    db2.follow(&mut book, "systemctl stop lifeboatd", &[]).await;
    db2.start().await;
    db2.datasets = vec![db2.datasets[0].replace("\"shop\"", "\"other\"")];
    db2.follow(&mut book, "systemctl reload lifeboatd", &[]).await;
    assert_eq!(db2.shell("lifeboat trigger shop").await.code(), Some(2));
    db1.start().await;
    write(&place, "after");
    db1.follow(&mut book, "lifeboat trigger shop", &[]).await;
    // It was set up without `hosts`, so it wrote for itself.
    let prune = db1.shell("lifeboat prune shop --yes").await;
    assert!(prune.code() == Some(7) && prune.stderr.contains("lifeboat init --identity"), "{prune}");
    db1.datasets = vec![db1.datasets[0].replace("chunk_size", "hosts = [\"db1\", \"db2\"]\nchunk_size")];
    db1.follow(&mut book, "lifeboat init --identity master.txt", &[]).await;
    db1.follow(&mut book, "systemctl reload lifeboatd", &[]).await;
    let verify = db1.try_follow(&mut book, "lifeboat verify shop", &[]).await;
    assert!(verify.code() == Some(6) && verify.stdout.contains("fork"), "{verify}");
    let prune = db1.shell("lifeboat prune shop --yes").await;
    assert_eq!(prune.code(), Some(6), "{prune}");
    db1.follow(&mut book, "lifeboat list shop", &[]).await;
    db1.follow(&mut book, "lifeboat repair shop --accept-branches", &[]).await;
    db1.must("lifeboat prune shop --yes").await;
    db1.must("lifeboat trigger shop").await;
    db1.follow(&mut book, "lifeboat verify shop", &[]).await;
    let list = db1.must("lifeboat --json list shop").await.json().unwrap();
    let mut found = Vec::new();
    for snapshot in list["snapshots"].as_array().unwrap() {
        let id = snapshot["snapshot"].as_str().unwrap();
        found.push(db1.restored(&format!("--identity master.txt --snapshot {id}")).await);
    }
    assert!(["one", "of db1", "of db2", "after"].iter().all(|data| found.iter().any(|text| text == data)), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_of_a_host_that_goes_is_retired() {
    let mut book = Runbook::open("Retire a signer");
    let place = place();
    let mut db1 = host(&place, "hosts = [\"db1\", \"db2\"]\nretention = { keep_last = 1, grace = \"1s\" }").await;
    let old = db1.init("").await;
    db1.backup().await;
    write(&place, "two");
    db1.backup().await;
    let mut db2 = second(&place, &db1, "db2");
    db2.trusted_signers = vec![old.clone()];
    let new = db2.init("--identity master.txt").await;
    db1.trusted_signers = vec![new.clone()];
    // Another host takes over.
    db1.stop().await;
    db2.start().await;
    db2.must("lifeboat takeover shop --yes").await;
    write(&place, "three");
    db2.must("lifeboat trigger shop").await;
    db2.stop().await;

    let mut reader = second(&place, &db1, "reader");
    reader.trusted_signers = vec![new];
    reader.datasets = vec![db1.datasets[0].replace("[\"db1\", \"db2\"]", "[]")];
    let latest = [("lifeboat show", "lifeboat show shop latest")];
    let show = db2.follow(&mut book, "lifeboat show", &latest).await;
    assert!(show.stdout.contains("db2"), "{show}");
    let with_identity = [("lifeboat verify", "lifeboat verify --identity master.txt")];
    let early = reader.try_follow(&mut book, "lifeboat verify", &with_identity).await;
    assert_eq!(early.code(), Some(6), "{early}");
    for clock in ["+2m", "+4m"] {
        db2.clock = Some(clock);
        db2.must("lifeboat prune shop --yes").await;
    }
    db2.clock = None;
    assert_eq!(listed(&db2).await, 1);
    reader.follow(&mut book, "lifeboat verify", &with_identity).await;
    db2.trusted_signers = Vec::new();
    db2.start().await;
    write(&place, "four");
    db2.must("lifeboat trigger shop").await;
    db2.must("lifeboat prune shop --yes").await;
    assert_eq!(reader.restored("--identity master.txt").await, "four");
    reader.follow(&mut book, "lifeboat verify", &with_identity).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_behind_and_damaged_catches_up() {
    let mut book =
        Runbook::open("Replica behind").leaving_out("journalctl -u lifeboatd", "the daemon of a test logs into a file");
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.min_replicas = 1;
    db1.start().await;
    db1.must("lifeboat trigger shop").await;
    let (ireland, away) = (place.path().join("ireland"), place.path().join("away"));
    std::fs::rename(&ireland, &away).unwrap();
    write(&place, "two");
    db1.must("lifeboat trigger shop").await;
    let behind = "lifeboat_replica_behind_snapshots{dataset=\"shop\",replica=\"ireland\"}";
    db1.until("ireland is behind", || db1.metric(behind).is_some_and(|number| number > 0.5)).await;
    let check = db1.try_follow(&mut book, "lifeboat check", &[]).await;
    assert!(check.code() == Some(5) && check.stdout.contains("ireland"), "{check}");
    let status = db1.follow(&mut book, "lifeboatd status", &[]).await;
    assert!(status.stdout.contains("ireland"), "{status}");
    db1.stop().await;
    std::fs::rename(&away, &ireland).unwrap();
    // It comes back with a pack cut short and a manifest that was changed.
    let files = files_below(&ireland);
    let one = |folder: &str| files.iter().find(|file| is_in(file, folder)).unwrap();
    std::fs::write(one("packs"), "cut").unwrap();
    let manifest = one("snapshots");
    std::fs::write(manifest, "changed").unwrap();
    db1.follow(&mut book, "lifeboat check", &[]).await;
    let verify = db1.try_follow(&mut book, "lifeboat verify --replica NAME", &[("NAME", "ireland")]).await;
    assert!(verify.code() == Some(6) && verify.stdout.contains("snapshots/"), "{verify}");
    db1.follow(&mut book, "lifeboat verify --repair", &[]).await;
    db1.start().await;
    db1.until_metric(behind, 0.0).await;
    db1.follow(&mut book, "lifeboat verify --replica NAME", &[("NAME", "ireland --read-data --identity master.txt")])
        .await;
    assert_eq!(db1.restored("--identity master.txt --replica ireland").await, "two");
}

fn is_in(file: &Path, folder: &str) -> bool {
    file.components().any(|part| part.as_os_str() == folder) && file.extension().is_none_or(|end| end != "minisig")
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_objects_are_replaced_and_missing_ones_put_back() {
    let mut book = Runbook::open("Damaged objects");
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.backup().await;
    let files = files_below(&place.path().join("ireland"));
    let one = |folder: &str| files.iter().find(|file| is_in(file, folder)).unwrap();
    let (pack, manifest) = (one("packs"), one("snapshots"));
    let whole = std::fs::read(pack).unwrap();
    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 1;
    std::fs::write(pack, &rotten).unwrap();
    let verify = db1.try_follow(&mut book, "lifeboat verify", &[]).await;
    assert!(verify.code() == Some(6) && verify.stdout.contains("packs/"), "{verify}");
    // A part may miss it; all of it does not.
    let subset = [("5%", "100%")];
    let verify = db1.try_follow(&mut book, "lifeboat verify --read-data-subset 5%", &subset).await;
    assert_eq!(verify.code(), Some(6), "{verify}");
    db1.follow(&mut book, "lifeboat verify --repair", &[]).await;
    assert!(std::fs::read(pack).unwrap() == whole);
    std::fs::remove_file(manifest).unwrap();
    db1.follow(&mut book, "lifeboat repair DATASET", &[("DATASET", "shop")]).await;
    assert!(manifest.exists());
    db1.follow(&mut book, "lifeboat verify --read-data --identity FILE", &[("FILE", "master.txt")]).await;
    // A keyring object that is whole nowhere.
    for replica in ["frankfurt", "ireland"] {
        std::fs::write(place.path().join(replica).join("vault/keyring/datasets/shop/1.age"), "rotten").unwrap();
    }
    assert_eq!(db1.shell("lifeboat verify").await.code(), Some(6));
    db1.must("rm ../*/vault/keyring/datasets/shop/1.age").await;
    db1.follow(&mut book, "lifeboat init", &[]).await;
    db1.must("lifeboat verify").await;
    assert_eq!(db1.restored("--identity master.txt --replica ireland").await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_must_not_go_on_is_cancelled() {
    let mut book = Runbook::open("A backup waits, or takes too long");
    let place = place();
    let mut db1 = host(&place, "").await;
    let script = "touch begun; if test -e slow; then sleep 60; fi; echo quick";
    db1.datasets = vec![format!(
        "[[dataset]]\nname = \"shop\"\nhome_region = \"home\"\n[dataset.source]\nkind = \"command\"\n\
         argv = [\"bash\", \"-c\", \"cd {}; {script}\"]\n",
        place.path().display()
    )];
    std::fs::write(place.path().join("slow"), "").unwrap();
    db1.start().await;
    db1.must("lifeboat trigger shop >first 2>&1 </dev/null &").await;
    db1.until("it runs", || place.path().join("begun").exists()).await;
    db1.until_metric("lifeboat_backup_running{dataset=\"shop\"}", 1.0).await;
    let status = db1.follow(&mut book, "lifeboatd status", &[]).await;
    assert!(status.stdout.contains("shop"), "{status}");
    db1.follow(&mut book, "lifeboat cancel shop", &[]).await;
    db1.until_metric("lifeboat_backup_running{dataset=\"shop\"}", 0.0).await;
    std::fs::remove_file(place.path().join("slow")).unwrap();
    db1.follow(&mut book, "lifeboat trigger shop", &[]).await;
    assert_eq!(listed(&db1).await, 1);
    assert_eq!(db1.restored("--identity master.txt").await, "quick\n");
    let pause = "lifeboat pause shop --for 4h --reason \"upgrade of the server\"";
    let paused = db1.follow(&mut book, pause, &[]).await;
    assert!(paused.stdout.contains("No backup of shop starts by schedule until 2"), "{paused}");
    let status = db1.try_follow(&mut book, "lifeboat status", &[]).await;
    assert!(status.code() == Some(8) && status.stdout.contains("PAUSED until 2"), "{status}");
    assert!(status.stdout.contains(": upgrade of the server"), "{status}");
    let resumed = db1.follow(&mut book, "lifeboat resume shop", &[]).await;
    assert!(resumed.stdout.contains("The pause of shop has ended"), "{resumed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_unknown_outcome_is_finished_by_the_next_run() {
    let mut book = Runbook::open("The outcome of a commit is unknown");
    let (place, region, watch) = (place(), Region::start("eu-west-1").await, Arc::new(Watch::default()));
    let proxy = CrashProxy::start(region.plain_address(), watch.clone()).await;
    let mut db1 = Operator::at(place.path(), "db1");
    db1.masters = vec![db1.make_identity("master.txt").await];
    let mut ireland = region.replica_config("ireland");
    if let ReplicaKind::S3(s3) = &mut ireland.kind {
        s3.endpoint = format!("http://{}", proxy.address()).parse().ok();
        s3.ca_file = None;
    }
    ireland.timeout = Duration::from_secs(2);
    db1.replicas = vec![directory_replica(place.path(), "frankfurt"), section(&ireland)];
    db1.datasets = vec![file_dataset("shop", &place.path().join("data"), "")];
    db1.limits = String::new();
    write(&place, "one");
    db1.init("").await;
    db1.backup().await;
    watch.disarm();
    write(&place, "two");
    db1.backup().await;

    // From one of the last requests on, the region answers nothing.
    write(&place, "three");
    let mut at = watch.requests();
    let unknown = loop {
        watch.arm(at, Moment::AfterAnswer);
        let ended = db1.shell("lifeboatd --log text --once shop").await;
        watch.disarm();
        if ended.code() == Some(10) {
            break ended;
        }
        assert!(ended.status.success() && at > 1, "before request {at}: {ended}");
        at -= 1;
    };
    db1.follow(&mut book, "lifeboat check", &[]).await;
    db1.start().await;
    write(&place, "four");
    db1.follow(&mut book, "lifeboat trigger shop", &[]).await;
    db1.must("lifeboat verify shop --read-data --identity master.txt").await;
    let list = db1.follow(&mut book, "lifeboat list shop", &[("list", "--json list")]).await.json().unwrap();
    let (_, told) = unknown.stderr.split_once("whether snapshot ").unwrap();
    let id = told.split(' ').next().unwrap();
    let shows = list["snapshots"].as_array().unwrap().iter().any(|snapshot| snapshot["snapshot"] == id);
    assert!(shows, "{id} is not in {list}");
    assert_eq!(db1.restored(&format!("--identity master.txt --snapshot {id}")).await, "three");
    assert_eq!(db1.restored("--identity master.txt").await, "four");
}
