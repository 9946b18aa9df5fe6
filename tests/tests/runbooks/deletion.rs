//! Runbooks for what is deleted, or is not: prune, what stops it, false times, harmed databases.

use std::path::{Path, PathBuf};

use lifeboat_tests::operator::{file_dataset, only_file};
use lifeboat_tests::programs::Output;
use lifeboat_tests::runbook::Runbook;
use lifeboat_tests::vault::files_below;
use tempfile::TempDir;

use crate::{host, place, write};

/// As little as possible: what is marked goes after a minute.
const KEEP_ONE: &str = "retention = { keep_last = 1, grace = \"1s\" }";
const KEEP_TEN: &str = "retention = { keep_last = 10, grace = \"1s\" }";
const STOPPED: &str = "lifeboat_deletion_stopped{dataset=\"shop\"}";

/// The objects in both replicas whose keys contain `part`.
fn objects(place: &TempDir, part: &str) -> Vec<PathBuf> {
    let files = ["frankfurt", "ireland"].iter().flat_map(|replica| files_below(&place.path().join(replica)));
    files.filter(|file| file.to_string_lossy().contains(part)).collect()
}

/// Deletes them; what they were.
fn delete(files: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    assert!(!files.is_empty());
    let kept = files.iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect();
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    kept
}

fn put_back(kept: &[(PathBuf, Vec<u8>)]) {
    kept.iter().for_each(|(file, content)| std::fs::write(file, content).unwrap());
}

/// How many snapshots a plan treats so.
fn planned(plan: &Output, verb: &str) -> usize {
    plan.stdout.lines().filter(|line| line.split_whitespace().next() == Some(verb)).count()
}

fn number_of(list: &str, part: &str) -> usize {
    list.lines().filter(|line| line.contains(part)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_called_back_and_what_stays_marked_is_deleted() {
    let mut book = Runbook::open("Prune")
        .leaving_out("lifeboat trigger", "the name of a command")
        .leaving_out("lifeboat repair", "the name of a command");
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.backup().await;
    write(&place, "two");
    db1.backup().await;
    let unlimited = db1.datasets[0].clone();
    let keep = |rule: &str| vec![unlimited.replace("source =", &format!("{rule}\nsource ="))];
    db1.datasets = keep(KEEP_ONE);
    db1.start().await;
    let plan = db1.follow(&mut book, "lifeboat prune --dry-run", &[]).await;
    assert_eq!((planned(&plan, "mark"), planned(&plan, "remove")), (1, 0), "{plan}");
    db1.follow(&mut book, "lifeboat prune", &[]).await;
    db1.datasets = keep(KEEP_TEN);
    db1.follow(&mut book, "systemctl reload lifeboatd", &[]).await;
    let plan = db1.follow(&mut book, "lifeboat prune --dry-run", &[]).await;
    assert_eq!(planned(&plan, "keep"), 2, "{plan}");
    let status = db1.follow(&mut book, "lifeboatd status", &[]).await;
    assert!(status.stdout.contains("shop"), "{status}");
    db1.stop().await;
    db1.clock = Some("+2m");
    db1.follow(&mut book, "lifeboat prune", &[]).await;
    let list = db1.must("lifeboat list shop").await;
    assert_eq!(number_of(&list.stdout, "frankfurt"), 2, "{list}");
    assert_eq!(db1.restored("--identity master.txt").await, "two");

    db1.datasets = keep(KEEP_ONE);
    db1.follow(&mut book, "lifeboat prune", &[]).await;
    db1.clock = Some("+4m");
    let plan = db1.follow(&mut book, "lifeboat prune --dry-run", &[]).await;
    assert_eq!(planned(&plan, "remove"), 1, "{plan}");
    db1.follow(&mut book, "lifeboat prune", &[]).await;
    let list = db1.must("lifeboat list shop").await;
    assert_eq!(number_of(&list.stdout, "frankfurt"), 1, "{list}");
    db1.must("lifeboat verify shop").await;
    assert_eq!(db1.restored("--identity master.txt").await, "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_that_no_configuration_names_is_marked_and_then_deleted() {
    let mut book = Runbook::open("Remove a dataset")
        .leaving_out("systemctl disable --now lifeboat-drill@NAME.timer", "there is no drill host here");
    let place = place();
    let mut db1 = host(&place, "").await;
    db1.datasets.push(file_dataset("wiki", &place.path().join("data"), ""));
    db1.must("lifeboat init").await;
    db1.backup().await;
    write(&place, "two");
    db1.backup().await;
    db1.must("lifeboatd --once wiki").await;
    db1.start().await;
    let refused = db1.shell("lifeboat remove-dataset shop --yes shop").await;
    assert!(refused.code() == Some(2) && refused.stderr.contains("still in the configuration"), "{refused}");
    let shop = db1.datasets.remove(0);
    db1.follow(&mut book, "systemctl reload lifeboatd", &[]).await;

    // Without consent, and with the wrong one, nothing changes.
    let name = ("NAME", "shop");
    let snapshots = || number_of(&files_shown(&place), "/shop/snapshots/");
    let before = snapshots();
    let shown = db1.follow(&mut book, "lifeboat remove-dataset NAME", &[name]).await;
    assert!(shown.stdout.contains("2 snapshots") && shown.stderr.contains("nothing was marked"), "{shown}");
    let other = db1.shell("lifeboat remove-dataset shop --yes wiki").await;
    assert_eq!(other.code(), Some(2), "{other}");
    assert!(objects(&place, "/shop/marks/").is_empty());

    // A replica that is away stops it.
    let remove = "lifeboat remove-dataset NAME --yes NAME";
    let (ireland, away) = (place.path().join("ireland"), place.path().join("away"));
    std::fs::rename(&ireland, &away).unwrap();
    let stopped = db1.shell("lifeboat remove-dataset shop --yes shop").await;
    assert!(stopped.code() == Some(5) && stopped.stderr.contains("ireland"), "{stopped}");
    std::fs::rename(&away, &ireland).unwrap();
    assert!(objects(&place, "/shop/marks/").is_empty());

    // It marks; what is marked can still be restored.
    let marked = db1.must("lifeboat remove-dataset shop --yes shop").await;
    assert!(marked.stdout.contains("Marked 2 snapshots; deleted 0 snapshots"), "{marked}");
    assert_eq!(snapshots(), before);
    assert_eq!(db1.restored("--identity master.txt").await, "two");
    let early = db1.must("lifeboat remove-dataset shop --yes shop").await;
    assert!(early.stdout.contains("waits") && snapshots() == before, "{early}");

    // After the grace period it deletes, and leaves the other dataset alone.
    db1.stop().await;
    let wiki = objects(&place, "/wiki/");
    db1.clock = Some("+49h");
    let removed = db1.follow(&mut book, remove, &[name]).await;
    assert!(removed.stdout.contains("deleted 2 snapshots"), "{removed}");
    assert_eq!((snapshots(), objects(&place, "/shop/packs/").len()), (0, 0), "{removed}");
    assert_eq!(objects(&place, "/wiki/"), wiki);
    let nothing = db1.must("lifeboat remove-dataset shop --yes shop").await;
    assert!(nothing.stdout.contains("Nothing of it is left to remove"), "{nothing}");

    // The same name can begin anew.
    db1.datasets.push(shop);
    write(&place, "three");
    db1.must("lifeboatd --once shop").await;
    assert_eq!(db1.restored("--identity master.txt").await, "three");
}

/// All objects of both replicas, one a line.
fn files_shown(place: &TempDir) -> String {
    let all: Vec<String> = objects(place, "").iter().map(|file| file.display().to_string()).collect();
    all.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_put_back_or_given_up() {
    let mut book = Runbook::open("Prune is stopped: something is missing");
    let place = place();
    let mut db1 = host(&place, KEEP_TEN).await;
    db1.min_replicas = 1;
    let first = db1.backup().await["snapshot"].as_str().unwrap().to_owned();
    write(&place, "two");
    db1.backup().await;

    // A lifecycle rule took signatures everywhere, and a snapshot in one replica. No daemon runs
    // that would put them back.
    delete(&objects(&place, ".minisig").into_iter().filter(|file| in_folder(file, "snapshots")).collect::<Vec<_>>());
    delete(&objects(&place, &format!("ireland/vault/datasets/shop/snapshots/{first}")));
    let prune = db1.try_follow(&mut book, "lifeboat prune", &[]).await;
    assert!(prune.code() == Some(6) && prune.stderr.contains("something of dataset shop is missing"), "{prune}");
    db1.follow(&mut book, "lifeboat repair shop", &[]).await;
    db1.follow(&mut book, "lifeboat prune", &[]).await;
    db1.start().await;

    // A snapshot is gone everywhere, and nobody has a copy.
    let lost = objects(&place, &format!("/{first}"));
    let state = db1.file("state");
    let lose = || {
        let copies = files_below(&state).into_iter();
        copies
            .filter(|file| file.to_string_lossy().contains(&first))
            .for_each(|file| std::fs::remove_file(file).unwrap());
        delete(&lost)
    };
    let kept = lose();
    let (ireland, away) = (place.path().join("ireland"), place.path().join("away"));
    std::fs::rename(&ireland, &away).unwrap();
    let prune = db1.try_follow(&mut book, "lifeboat prune", &[]).await;
    assert!(prune.code() == Some(5) && prune.stderr.contains("while ireland cannot be used"), "{prune}");
    std::fs::rename(&away, &ireland).unwrap();
    let run = db1.shell("lifeboat trigger shop").await;
    assert_eq!(run.code(), Some(6), "{run}");
    db1.until_metric(STOPPED, 1.0).await;
    let repair = db1.try_follow(&mut book, "lifeboat repair shop", &[]).await;
    assert!(repair.code() == Some(6) && repair.stdout.contains("MISSING"), "{repair}");
    // An old copy of the bucket has it.
    put_back(&kept[..kept.len() / 2]);
    db1.follow(&mut book, "lifeboat repair shop", &[]).await;
    assert_eq!(db1.restored(&format!("--identity master.txt --snapshot {first}")).await, "one");
    // Or nobody does.
    lose();
    assert_eq!(db1.try_follow(&mut book, "lifeboat repair shop", &[]).await.code(), Some(6));
    db1.follow(&mut book, "lifeboat repair shop --accept-loss", &[]).await;
    db1.follow(&mut book, "lifeboat verify shop", &[]).await;
    db1.follow(&mut book, "lifeboat prune", &[]).await;

    // The keys are gone, and then the packs.
    delete(&objects(&place, "/keyring/datasets/"));
    db1.follow(&mut book, "lifeboat repair shop", &[]).await;
    assert_eq!(objects(&place, "/keyring/datasets/").len(), 4, "each with its signature");
    let kept = delete(&objects(&place, "/packs/"));
    let repair = db1.try_follow(&mut book, "lifeboat repair shop", &[]).await;
    assert!(repair.code() == Some(6) && repair.stdout.contains("CANNOT BE RESTORED"), "{repair}");
    put_back(&kept[..kept.len() / 2]);
    db1.follow(&mut book, "lifeboat repair shop", &[]).await;
    delete(&objects(&place, "/packs/"));
    db1.follow(&mut book, "lifeboat trigger shop", &[]).await;
    assert_eq!(db1.restored("--identity master.txt").await, "two");
    db1.until_metric(STOPPED, 0.0).await;
}

fn in_folder(file: &Path, folder: &str) -> bool {
    file.parent().is_some_and(|parent| parent.ends_with(folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_time_is_settled() {
    let mut book =
        Runbook::open("A clock was wrong").leaving_out("timedatectl", "the clock of the machine is not the test's");
    let place = place();
    let mut db1 = host(&place, KEEP_TEN).await;
    // A dataset with the name of a subcommand.
    db1.datasets.push(db1.datasets[0].replace("\"shop\"", "\"clock\""));
    db1.init("").await;
    db1.must("lifeboatd --once clock").await;
    db1.backup().await;
    db1.clock = Some("+10y");
    write(&place, "two");
    let wrong = db1.backup().await["snapshot"].as_str().unwrap().to_owned();
    db1.clock = None;
    write(&place, "three");
    db1.backup().await;
    let real = [("DATASET", "shop")];
    let list = db1.follow(&mut book, "lifeboat list DATASET", &real).await;
    assert_eq!(number_of(&list.stdout, "FUTURE"), 1, "{list}");
    assert_eq!(db1.restored("--identity master.txt").await, "three");
    assert_eq!(db1.restored(&format!("--identity master.txt --snapshot {wrong}")).await, "two");
    db1.start().await;
    let doubtful = "lifeboat_backup_doubtful_times{dataset=\"shop\"}";
    db1.until_metric(doubtful, 1.0).await;
    let asked = db1.shell("lifeboat repair clock shop").await;
    assert!(asked.code() == Some(2) && asked.stdout.contains(&wrong), "{asked}");
    db1.follow(&mut book, "lifeboat repair clock DATASET", &real).await;
    let list = db1.follow(&mut book, "lifeboat list DATASET", &real).await;
    assert!(list.stdout.contains("(settled; its manifest tells 20") && !list.stdout.contains("FUTURE"), "{list}");
    db1.must("lifeboat trigger shop").await;
    db1.until_metric(doubtful, 0.0).await;
    db1.must("lifeboat prune shop --yes").await;
    db1.follow(&mut book, "lifeboat repair -- clock", &[("repair", "repair --yes")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_departs_is_looked_at_and_acknowledged() {
    let mut book = Runbook::open("A snapshot departs from its history");
    let place = place();
    let mut db1 = host(&place, KEEP_ONE).await;
    let whole = "one of many rows\n".repeat(20_000);
    write(&place, &whole);
    db1.start().await;
    db1.must("lifeboat trigger shop").await;
    write(&place, "one of many rows\n");
    let trigger = db1.shell("lifeboat trigger shop").await;
    assert_eq!(trigger.code(), Some(1), "{trigger}");
    let anomalies = "lifeboat_backup_anomalies{dataset=\"shop\"}";
    db1.until_metric(anomalies, 1.0).await;
    let status = db1.follow(&mut book, "lifeboatd status", &[]).await;
    assert!(status.stdout.contains("shrank"), "{status}");
    let list = db1.follow(&mut book, "lifeboat list shop", &[("list", "--json list")]).await.json().unwrap();
    let before = list["snapshots"][0]["snapshot"].as_str().unwrap();
    let words = format!("shop --snapshot {before} --identity master.txt --to-directory before");
    db1.follow(&mut book, "lifeboat restore shop", &[("shop", &words)]).await;
    assert!(only_file(&db1.file("before")) == whole);
    db1.follow(&mut book, "lifeboat acknowledge shop", &[]).await;
    db1.must("lifeboat trigger shop").await;
    db1.until_metric(anomalies, 0.0).await;
    db1.until_metric(STOPPED, 0.0).await;
}
