//! What a drill host does by its plan: `lifeboat drill --due`, and the choice of snapshot and
//! replica, on the built programs and real databases, in vaults with a root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod killed;
mod names;
mod unequal;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::small_disk::SmallDisk;
use lifeboat_tests::vault::files_below;
use serde_json::Value;
use tokio::process::Command;

const DATASETS: [&str; 2] = ["shop", "wiki"];

fn fill(vault: &RootedVault, value: usize) {
    for dataset in DATASETS {
        let database = rusqlite::Connection::open(vault.path("db1").join(dataset)).unwrap();
        database.execute_batch("CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, taken TEXT)").unwrap();
        database.execute("INSERT INTO items (taken) VALUES (?1)", [format!("backup {value}")]).unwrap();
    }
}

/// A backup host with two SQLite databases, of which there are three snapshots each, and a drill
/// host with this plan. The first snapshot is ten days old.
async fn planned(plan: &str) -> RootedVault {
    let mut vault = RootedVault::new().await;
    vault.clock = Some("-240h".to_owned());
    std::fs::create_dir(vault.path("db1")).unwrap();
    fill(&vault, 0);
    vault.set_up("db1", &DATASETS, &[]).await;
    vault.reconfigure("db1", "kind = \"file\"", "kind = \"sqlite\"");
    for (value, clock) in ["-240h", "-239h", "-238h"].into_iter().enumerate() {
        vault.clock = Some(clock.to_owned());
        fill(&vault, value);
        let once = vault.once("db1").await;
        assert!(once.status.success(), "{once}");
    }
    vault.configure("drill1", &vault.owners(), &[]);
    vault.reconfigure("drill1", "[limits]\n", &format!("{plan}\n[limits]\n"));
    std::fs::rename(vault.path("db1/keys").join(DRILL_HOST_FOLDER), vault.path("drill1/keys")).unwrap();
    vault
}

async fn drill_due(vault: &RootedVault, more: &[&str]) -> (Output, Value) {
    let output = vault.lifeboat("drill1", &[&["--json", "drill", "--due"], more].concat()).await;
    let told = output.json().unwrap_or_default();
    (output, told)
}

/// What was drilled, as `dataset replica number-of-the-snapshot`.
fn drilled(told: &Value, snapshots: &[String]) -> Vec<String> {
    let drills = told["drills"].as_array().unwrap_or_else(|| panic!("{told}"));
    let each = |due: &Value| {
        let drill = &due["drill"];
        let number = snapshots.iter().position(|id| drill["snapshot"] == id.as_str());
        let used: Vec<&str> =
            drill["replicas_used"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("{} {} {:?}", due["dataset"].as_str().unwrap(), used.join("+"), number)
    };
    drills.iter().map(each).collect()
}

async fn snapshots(vault: &RootedVault, dataset: &str) -> Vec<String> {
    let listed = vault.lifeboat("drill1", &["--json", "list", dataset]).await.json().unwrap();
    listed["snapshots"].as_array().unwrap().iter().map(|row| row["snapshot"].as_str().unwrap().to_owned()).collect()
}

fn metrics(file: &Path, family: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(family)).unwrap_or_else(|| panic!("no {family} in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn what_is_due_is_drilled_once_and_in_turn() {
    let plan = "[drill]\nschedule = \"@daily\"\nsnapshot = \"rotate\"\nreplica = \"rotate\"";
    let mut vault = planned(plan).await;
    let all = [snapshots(&vault, "shop").await, snapshots(&vault, "wiki").await];
    assert_eq!(all.each_ref().map(Vec::len), [3, 3]);
    let numbers: Vec<String> = all.concat();
    let mut seen = BTreeSet::new();
    for (day, expected) in [
        // The newest, then the others.
        ["shop r1 Some(2)", "wiki r1 Some(5)"],
        ["shop r2 Some(0)", "wiki r2 Some(3)"],
        ["shop r1 Some(1)", "wiki r1 Some(4)"],
        // A round has ended, and the other replica is tried with the newest snapshot.
        ["shop r2 Some(2)", "wiki r2 Some(5)"],
    ]
    .into_iter()
    .enumerate()
    {
        vault.clock = Some(format!("-{}h", 230 - 24 * day));
        let (output, told) = drill_due(&vault, &[]).await;
        assert!(output.status.success(), "{output}");
        assert_eq!(drilled(&told, &numbers), expected, "day {day}: {told}");
        for due in told["drills"].as_array().unwrap() {
            let chosen = &due["drill"]["chosen"];
            let (snapshot, replica) = (&chosen["snapshot"], &chosen["replica"]);
            assert!(*snapshot == "rotate" && *replica == "rotate", "{due}");
            assert_eq!(
                (due["drill"]["reached"].as_str(), due["exit_code"].as_u64()),
                (Some("proved"), Some(0)),
                "{due}"
            );
            let is_newest = all.iter().any(|ids| due["drill"]["snapshot"] == ids[2].as_str());
            assert_eq!(due["drill"]["rpo_seconds"].is_number(), is_newest, "an old one tells no age: {due}");
            seen.insert(chosen["only"].as_str().unwrap().to_owned());
        }
        let (output, told) = drill_due(&vault, &[]).await;
        assert!(output.status.success(), "{output}");
        assert_eq!(drilled(&told, &numbers), [""; 0], "nothing is due twice: {told}");
        assert_eq!(told["waiting"].as_array().unwrap().len(), 2, "{told}");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["r1", "r2"]);
    // By hand, the plan chooses what flags do not.
    let by_hand = vault.lifeboat("drill1", &["--json", "drill", "shop", "--replica", "r1"]).await.json().unwrap();
    assert_eq!(by_hand["snapshot"], all[0][0].as_str(), "{by_hand}");
    assert_eq!((&by_hand["chosen"]["replica"], &by_hand["chosen"]["only"]), (&"asked".into(), &"r1".into()));
    let by_hand = vault.lifeboat("drill1", &["drill", "shop", "--snapshot", "latest"]).await;
    assert!(by_hand.stdout.contains(" asked snapshot, replica r2 (rotate)"), "{by_hand}");
}

#[tokio::test]
async fn a_failure_is_told_stops_no_other_drill_and_is_not_repeated_before_its_time() {
    let mut vault = planned("[drill]\nschedule = \"@daily\"\nreplica = \"r1\"").await;
    let packs = files_below(&vault.path("r1/datasets/shop"));
    let packs: Vec<_> = packs.into_iter().filter(|path| path.to_string_lossy().contains("/packs/")).collect();
    assert!(!packs.is_empty(), "{:?}", files_below(&vault.path("r1")));
    for pack in packs {
        std::fs::remove_file(pack).unwrap();
    }
    let metrics_in = vault.path("metrics");
    std::fs::create_dir(&metrics_in).unwrap();
    let textfiles = ["--textfiles", metrics_in.to_str().unwrap()];
    vault.clock = Some("-230h".to_owned());
    let (output, told) = drill_due(&vault, &textfiles).await;
    assert_eq!(output.code(), Some(6), "{output}");
    let codes: Vec<_> = told["drills"].as_array().unwrap().iter().map(|due| due["exit_code"].as_u64()).collect();
    assert_eq!(codes, [Some(6), Some(0)], "{told}");
    assert!(output.stderr.contains("the drill of shop: ") && output.stderr.contains("1 of 2 due drills"), "{output}");
    let [shop, wiki] = DATASETS.map(|dataset| metrics_in.join(format!("lifeboat-drill-{dataset}.prom")));
    let told_of = |file: &Path, family: &str| metrics(file, &format!("lifeboat_drill_{family}"));
    assert_eq!((told_of(&shop, "last_status"), told_of(&wiki, "last_status")), (0.0, 1.0));
    assert_eq!((told_of(&shop, "due_timestamp"), told_of(&shop, "interval_seconds")), (0.0, 86_400.0));
    let (output, told) = drill_due(&vault, &textfiles).await;
    assert!(output.status.success() && told["drills"].as_array().unwrap().is_empty(), "{output}");

    // Without its attempts, this host knows what passed by the vault, or by what it kept. What
    // failed it tries again.
    let attempts = DATASETS.map(|dataset| vault.path(&format!("drill1/state/drills/{dataset}/attempts")));
    attempts.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let again = |output: &Output, told: &Value| {
        let names: Vec<_> = told["drills"].as_array().unwrap().iter().map(|due| due["dataset"].as_str()).collect();
        assert_eq!((output.code(), names), (Some(6), vec![Some("shop")]), "{output}");
    };
    let (output, told) = drill_due(&vault, &[]).await;
    again(&output, &told);
    vault.clock = Some("-206h".to_owned());
    let (output, _) = drill_due(&vault, &["--no-publish"]).await;
    assert_eq!(output.code(), Some(6), "{output}");
    attempts.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let (output, told) = drill_due(&vault, &["--no-publish"]).await;
    again(&output, &told);
    for file in files_below(&vault.path("drill1/state/drills")) {
        std::fs::remove_file(file).unwrap();
    }
    let (_, told) = drill_due(&vault, &[]).await;
    assert_eq!(told["drills"].as_array().unwrap().len(), 2, "nothing tells: {told}");
}

#[tokio::test]
async fn what_a_person_tries_by_hand_takes_no_drill_from_the_schedule() {
    let mut vault = planned("[drill]\nschedule = \"@daily\"").await;
    vault.clock = Some("-230h".to_owned());
    let oldest = snapshots(&vault, "shop").await.remove(0);
    for by_hand in [&["drill", "shop", "--level", "fetched"][..], &["drill", "shop", "--snapshot", &oldest]] {
        let tried = vault.lifeboat("drill1", by_hand).await;
        assert!(tried.status.success(), "{tried}");
    }
    let tried = vault.lifeboat("drill1", &["drill", "wiki"]).await;
    assert!(tried.status.success(), "{tried}");
    let (output, told) = drill_due(&vault, &[]).await;
    assert!(output.status.success(), "{output}");
    let names: Vec<_> = told["drills"].as_array().unwrap().iter().map(|due| due["dataset"].as_str()).collect();
    assert_eq!(names, [Some("shop")], "the whole drill of wiki is as good: {told}");
}

#[tokio::test]
async fn what_fails_before_the_drills_is_told_and_hides_no_section() {
    let mut vault = planned("[drill]\nschedule = \"@daily\"").await;
    let config = vault.config("drill1");
    let plain = std::fs::read_to_string(&config).unwrap();
    let section =
        "\n[[dataset]]\nname = \"wiki\"\nhome_region = \"r1\"\n[dataset.source]\nkind = \"sqlite\"\npath = \"/x\"\n";
    std::fs::write(&config, format!("{plain}{section}")).unwrap();
    vault.clock = Some("-230h".to_owned());
    let metrics_in = vault.path("metrics");
    std::fs::create_dir(&metrics_in).unwrap();
    let textfiles = ["--textfiles", metrics_in.to_str().unwrap()];
    // A bucket's owner names datasets: they make no work, and the section goes first.
    for (replica, name) in [("r1", "aaa"), ("r2", "zzz")] {
        let keyring = vault.path(&format!("{replica}/keyring/datasets/shop"));
        let copied = vault.path(&format!("{replica}/keyring/datasets/{name}"));
        std::fs::create_dir(&copied).unwrap();
        for file in files_below(&keyring) {
            std::fs::copy(&file, copied.join(file.file_name().unwrap())).unwrap();
        }
    }
    let (output, told) = drill_due(&vault, &textfiles).await;
    assert!(output.status.success(), "{output}");
    let names: Vec<_> = told["drills"].as_array().unwrap().iter().map(|due| due["dataset"].as_str()).collect();
    assert_eq!(names, [Some("wiki"), Some("shop")], "{told}");

    // No replica answers: each dataset that this host knows is tried, and its metrics say so.
    for replica in ["r1", "r2"] {
        std::fs::rename(vault.path(replica), vault.path(&format!("{replica}.gone"))).unwrap();
    }
    vault.clock = Some("-206h".to_owned());
    let (output, told) = drill_due(&vault, &textfiles).await;
    assert!(output.code().is_some_and(|code| code != 0), "{output}");
    let names: Vec<_> = told["drills"].as_array().unwrap().iter().map(|due| due["dataset"].as_str()).collect();
    assert_eq!(names, [Some("wiki"), Some("shop")], "{told}");
    for dataset in DATASETS {
        let file = metrics_in.join(format!("lifeboat-drill-{dataset}.prom"));
        assert!((metrics(&file, "lifeboat_drill_last_status") - 0.0).abs() < 0.1, "{dataset}");
    }
}

#[tokio::test]
async fn a_host_that_the_root_does_not_name_is_told_so() {
    let mut vault = planned("[drill]\nschedule = \"@daily\"").await;
    vault.clock = Some("-230h".to_owned());
    // The signer of another host.
    let keys = files_below(&vault.path("drill1/keys"));
    let signer = keys.iter().find(|path| path.file_name().is_some_and(|name| name == "drill-signer")).unwrap();
    std::fs::write(signer, lifeboat_engine::keys::sign::Signer::generate().unwrap().to_text().unwrap()).unwrap();
    for words in [&["drill", "--due"][..], &["drill", "--region-loss", "r1"]] {
        let output = vault.lifeboat("drill1", words).await;
        assert_eq!(output.code(), Some(7), "{output}");
        assert!(output.stderr.contains("the root names no drill host with this signer"), "{output}");
    }
}

#[tokio::test]
async fn only_what_has_a_schedule_is_ever_due_and_a_section_has_the_last_word() {
    let mut vault = planned("").await;
    vault.clock = Some("-230h".to_owned());
    let (output, _) = drill_due(&vault, &[]).await;
    assert_eq!(output.code(), Some(3), "{output}");
    assert!(output.stderr.contains("no drill is ever due") && output.stderr.contains("add [drill]"), "{output}");
    let config = vault.config("drill1");
    let plain = std::fs::read_to_string(&config).unwrap();
    let section = |drill: &str| {
        format!(
            "\n[[dataset]]\nname = \"wiki\"\nhome_region = \"r1\"\n[dataset.source]\nkind = \"sqlite\"\npath = \"/x\"\n[dataset.drill]\n{drill}\n"
        )
    };
    // The section of one dataset, and no plan for the others.
    std::fs::write(&config, format!("{plain}{}", section("schedule = \"@daily\"\noutside = true"))).unwrap();
    let (output, told) = drill_due(&vault, &[]).await;
    assert!(output.status.success(), "{output}");
    assert_eq!(drilled(&told, &[]), ["wiki r2 None"], "never the home region: {told}");
    assert_eq!(told["drills"][0]["drill"]["chosen"]["outside"], true);
    // A plan for all, which one dataset has no part in.
    let planned = plain.replace("[limits]\n", "[drill]\nschedule = \"@daily\"\n[limits]\n");
    std::fs::write(&config, format!("{planned}{}", section("schedule = \"never\""))).unwrap();
    vault.clock = Some("-206h".to_owned());
    let (output, told) = drill_due(&vault, &[]).await;
    assert!(output.status.success(), "{output}");
    let names: Vec<_> = told["drills"].as_array().unwrap().iter().map(|due| due["dataset"].as_str()).collect();
    assert_eq!(names, [Some("shop")], "{told}");
    // Without the home region, nobody knows what is outside.
    std::fs::write(&config, plain.replace("[limits]\n", "[drill]\nschedule = \"@daily\"\noutside = true\n[limits]\n"))
        .unwrap();
    vault.clock = Some("-182h".to_owned());
    let (output, _) = drill_due(&vault, &[]).await;
    assert_eq!(output.code(), Some(3), "{output}");
    assert!(output.stderr.contains("the home region of the dataset is not known"), "{output}");
}

/// A drill of `shop` with these keys, three hours after the newest snapshot; its report.
async fn drill_with(vault: &RootedVault, plain: &str, keys: &str) -> (Output, Value) {
    let section = format!(
        "\n[[dataset]]\nname = \"shop\"\nhome_region = \"r1\"\n[dataset.source]\nkind = \"sqlite\"\npath = \"/x\"\n[dataset.drill]\n{keys}\n"
    );
    std::fs::write(vault.config("drill1"), format!("{plain}{section}")).unwrap();
    let output = vault.lifeboat("drill1", &["--json", "drill", "shop"]).await;
    let report = output.json().unwrap_or_default();
    (output, report)
}

#[tokio::test]
async fn numbers_and_freshness_are_asked_of_what_was_restored() {
    let mut vault = planned("").await;
    vault.clock = Some("-235h".to_owned());
    let plain = std::fs::read_to_string(vault.config("drill1")).unwrap();
    let taken = snapshots(&vault, "shop").await.pop().unwrap();
    // Its time: `20261123T183244123Z-…`.
    let taken = chrono::NaiveDateTime::parse_from_str(&taken[..15], "%Y%m%dT%H%M%S").unwrap();
    let ago = |minutes: i64| {
        let time = taken - chrono::TimeDelta::minutes(minutes);
        format!("SELECT '{}'", time.format("%Y-%m-%d %H:%M:%S"))
    };
    let count = "SELECT count(*) FROM items";
    for (query, wanted, passes, said) in [
        (count, "at_least = 4, at_most = 4", true, "expected at least 4 and at most 4, found 4"),
        (count, "at_least = 5", false, "expected at least 5, found 4"),
        (count, "at_most = 3.5", false, "expected at most 3.5, found 4"),
        ("SELECT max(taken) FROM items", "at_least = 1", false, "found backup 2"),
        // Five hours ago by now, and two when it was taken.
        (&ago(119), "fresher_than = \"2h\"", true, "expected a time from "),
        (&ago(121), "fresher_than = \"2h\"", false, "expected a time from "),
        ("SELECT NULL", "fresher_than = \"2h\"", false, "found NULL"),
        ("SELECT id FROM items WHERE 0", "fresher_than = \"2h\"", false, "found no row"),
        ("SELECT ''", "at_least = 0", false, "found an empty text"),
    ] {
        let keys = format!("queries = [{{ sql = \"{query}\", {wanted} }}]");
        let (output, report) = drill_with(&vault, &plain, &keys).await;
        assert_eq!(output.code(), Some(if passes { 0 } else { 6 }), "{keys}: {output}");
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["check"] == query).unwrap_or_else(|| panic!("{report}"));
        assert_eq!(check["passed"], passes, "{keys}: {check}");
        assert!(check["detail"].as_str().unwrap().contains(said), "{keys}: {check}");
    }
}

#[tokio::test]
async fn a_drill_beyond_its_limits_is_refused_before_it_starts_or_stopped() {
    let mut vault = planned("").await;
    vault.clock = Some("-235h".to_owned());
    let plain = std::fs::read_to_string(vault.config("drill1")).unwrap();
    let (output, report) = drill_with(&vault, &plain, "max_disk = \"1KiB\"").await;
    assert_eq!(output.code(), Some(3), "{output}");
    assert!(output.stderr.contains("max_disk allows 1024"), "{output}");
    let phases = |report: &Value| -> Vec<String> {
        let phases = report["phases"].as_array().unwrap_or_else(|| panic!("{report}"));
        phases.iter().map(|phase| phase["phase"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((phases(&report), &report["passed"]), (vec!["select".to_owned()], &Value::Bool(false)), "{report}");
    // No drill has passed, so nothing is forecast: a query that does not end is stopped in time.
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let keys = format!("max_time = \"3s\"\nqueries = [{{ sql = \"{endless}\" }}]");
    let began = std::time::Instant::now();
    let (output, report) = drill_with(&vault, &plain, &keys).await;
    assert_eq!(output.code(), Some(1), "{output}");
    assert!(output.stderr.contains("was stopped: max_time allows 3s"), "{output}");
    assert!(began.elapsed() < std::time::Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!((&report["reached"], &report["passed"]), (&"loaded".into(), &Value::Bool(false)), "{report}");
    // One that passed tells how long the next takes.
    let (output, _) = drill_with(&vault, &plain, "max_time = \"5m\"\nmax_disk = \"1GiB\"").await;
    assert!(output.status.success(), "{output}");
    let slow =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000000) SELECT count(*) FROM n";
    let (output, _) = drill_with(&vault, &plain, &format!("queries = [{{ sql = \"{slow}\" }}]")).await;
    assert!(output.status.success(), "{output}");
    let (output, report) = drill_with(&vault, &plain, "max_time = \"1s\"").await;
    assert_eq!(output.code(), Some(3), "{output}");
    assert!(output.stderr.contains("by past drills, this one would take"), "{output}");
    assert_eq!(phases(&report), ["select"], "{report}");
}

#[tokio::test]
async fn a_drill_that_needs_more_than_is_free_is_refused_before_anything_is_made() {
    let vault = planned("").await;
    let words = ["--json", "drill", "shop"];
    let config = vault.config("drill1");
    let in_directory = async |directory: &Path, words: &[&str]| {
        let mut lifeboat = Command::new(programs::lifeboat());
        lifeboat.arg("--config").arg(&config).args(words).env("TMPDIR", directory);
        run(&mut lifeboat, std::time::Duration::from_secs(120)).await.unwrap()
    };
    let disk = SmallDisk::mount(&vault.path("disk"), 1 << 20);
    std::fs::set_permissions(vault.path(""), std::fs::Permissions::from_mode(0o711)).unwrap();
    let output = in_directory(disk.path(), &words).await;
    assert!(output.status.success(), "{output}");
    // Room for the database, and not for the three files of a proof.
    disk.fill_but(12 << 10);
    let output = in_directory(disk.path(), &words).await;
    assert_eq!(output.code(), Some(3), "{output}");
    let told = format!("the disk at {} has 0 MiB free, and the drill is forecast to need 1 MiB", disk.path().display());
    assert!(output.stderr.contains(&told) && output.stderr.contains("set TMPDIR to"), "{output}");
    let report = output.json().unwrap();
    assert_eq!((report["phases"].as_array().unwrap().len(), &report["restored_bytes"]), (1, &0.into()), "{report}");
    assert_eq!(disk.entries(), Vec::<std::path::PathBuf>::new());
    // The check says so before, of each dataset, and a drill that only fetches needs no room.
    let output = in_directory(disk.path(), &["check"]).await;
    assert_eq!(output.code(), Some(3), "{output}");
    assert!(output.stdout.contains("dataset shop cannot be drilled") && output.stdout.contains(&told), "{output}");
    let output = in_directory(&disk.path().join("missing"), &["check"]).await;
    assert_eq!(output.code(), Some(5), "{output}");
    let told = "no drill works: cannot make a temporary directory in ";
    assert!(output.stdout.contains(told) && output.stdout.contains("set TMPDIR to"), "{output}");
    let output = in_directory(disk.path(), &["drill", "shop", "--level", "fetched"]).await;
    assert!(output.status.success(), "{output}");
}
