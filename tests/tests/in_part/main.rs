//! Proofs in part: a drill restores only what changed since a drill proved the whole, on the built
//! programs and real databases, in vaults with a root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod engines;
mod hostile;
mod plans;
mod refusals;
mod replicas;
mod tables;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_tests::programs::{Output, run};
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::tools::workspace;
use lifeboat_tests::vault::files_below;
use serde_json::{Value, json};
use tokio::process::Command;

/// The plan of most tests.
const MONTHLY: &str = "full_every = \"30d\"";
const DEADLINE: Duration = Duration::from_secs(60);

/// A backup host `db1`, the drill host `drill1` beside it, and their vault in two directories.
struct Hosts {
    vault: RootedVault,
    /// The configuration of the drill host, without a plan.
    plain: String,
    /// The source of the dataset `shop`.
    source: String,
}

impl Hosts {
    /// With a dataset `shop` of this source, and drills that are whole once a month.
    async fn of(source: impl FnOnce(&RootedVault) -> String) -> Self {
        Self::at(None, source).await
    }

    /// As [`Self::of`], with this clock.
    async fn at(clock: Option<&str>, source: impl FnOnce(&RootedVault) -> String) -> Self {
        let mut vault = RootedVault::new().await;
        vault.clock = clock.map(str::to_owned);
        vault.set_up("db1", &["shop"], &[]).await;
        let source = source(&vault);
        let file = format!("kind = \"file\"\npath = \"{}\"", vault.path("db1/shop").display());
        vault.reconfigure("db1", &file, &source);
        vault.configure("drill1", &vault.owners(), &[]);
        std::fs::rename(vault.path("db1/keys").join(DRILL_HOST_FOLDER), vault.path("drill1/keys")).unwrap();
        let plain = std::fs::read_to_string(vault.config("drill1")).unwrap();
        let hosts = Self { vault, plain, source };
        hosts.plan(MONTHLY, "");
        hosts
    }

    /// Gives the drill host these keys of `[drill]`, and these of `[dataset.drill]`.
    fn plan(&self, of_all: &str, of_shop: &str) {
        let mut text = self.plain.replace("[limits]\n", &format!("[drill]\n{of_all}\n[limits]\n"));
        if !of_shop.is_empty() {
            let dataset = "[[dataset]]\nname = \"shop\"\nhome_region = \"home\"";
            let source = &self.source;
            text.push_str(&format!("\n{dataset}\n[dataset.source]\n{source}\n[dataset.drill]\n{of_shop}\n"));
        }
        std::fs::write(self.vault.config("drill1"), text).unwrap();
    }

    fn set_clock(&mut self, clock: &str) {
        self.vault.clock = Some(clock.to_owned());
    }

    /// Backs up; the id of the snapshot.
    async fn backup(&self) -> String {
        let once = self.vault.once("db1").await;
        assert!(once.status.success(), "{once}");
        let listed = self.vault.lifeboat("drill1", &["--json", "list", "shop"]).await.json().unwrap();
        let newest = listed["snapshots"].as_array().unwrap().last().unwrap();
        newest["snapshot"].as_str().unwrap().to_owned()
    }

    async fn drill(&self, words: &[&str]) -> Output {
        self.vault.lifeboat("drill1", &[&["--json", "drill", "shop"], words].concat()).await
    }

    /// A drill that must prove the whole snapshot; its report.
    async fn whole(&self, why: &str, words: &[&str]) -> Value {
        let output = self.drill(words).await;
        assert!(output.status.success(), "{why}: {output}");
        let report = output.json().unwrap();
        assert_eq!(
            (&report["in_part"], &report["passed"], &report["reached"]),
            (&Value::Null, &json!(true), &json!("proved")),
            "{why}: {report:#}"
        );
        assert!(report["rto_seconds"].is_number() && report["proof"].is_object(), "{why}: {report:#}");
        report
    }

    /// A drill that must prove no more than what changed since the drill with the report `base`;
    /// its report.
    async fn in_part(&self, base: &Value, words: &[&str]) -> Value {
        let output = self.drill(words).await;
        assert_eq!(output.code(), Some(0), "{output}");
        let report = output.json().unwrap();
        assert!(report["in_part"].is_object(), "{output}");
        assert_in_part(&report, base);
        report
    }

    /// As [`Self::in_part`], where nothing changed.
    async fn untouched(&self, base: &Value, words: &[&str]) -> Value {
        let report = self.in_part(base, words).await;
        assert_eq!(
            [&report["in_part"]["restored"], &report["restored_bytes"], &report["proof"], &report["checks"]],
            [&json!([]), &json!(0), &Value::Null, &json!([])],
            "{report:#}"
        );
        report
    }

    /// The record of a drill in the second replica.
    fn published(&self, report: &Value) -> Value {
        let drill = report["drill"].as_str().unwrap();
        let record = std::fs::read(self.vault.path(&format!("r2/datasets/shop/drills/{drill}.json"))).unwrap();
        serde_json::from_slice(&record).unwrap()
    }

    fn packs(&self, replica: &str) -> Vec<PathBuf> {
        files_below(&self.vault.path(replica).join("datasets/shop/packs"))
    }

    /// Changes the database of [`sqlite`].
    fn sql(&self, sql: &str) {
        execute(&self.vault.path("db1/shop.db"), sql);
    }
}

fn execute(database: &Path, sql: &str) {
    rusqlite::Connection::open(database).unwrap().execute_batch(sql).unwrap();
}

/// A source: a database file with two thousand rows.
fn sqlite(vault: &RootedVault) -> String {
    let database = vault.path("db1/shop.db");
    let fill = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
        INSERT INTO items (name) SELECT 'item ' || i FROM n";
    execute(&database, fill);
    format!("kind = \"sqlite\"\npath = \"{}\"", database.display())
}

fn assert_in_part(report: &Value, base: &Value) {
    let in_part = &report["in_part"];
    assert!(in_part.is_object(), "{report:#}");
    assert_eq!(
        [&report["passed"], &report["reached"], &report["required"], &report["rto_seconds"]],
        [&json!(true), &Value::Null, &json!("proved"), &Value::Null],
        "{report:#}"
    );
    assert_eq!(
        [&in_part["drill"], &in_part["snapshot"], &in_part["proved"]],
        [&base["drill"], &base["snapshot"], &base["finished"]],
        "{report:#}"
    );
    assert!(in_part["left_out_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report:#}");
    assert!(!names(&in_part["left_out"]).is_empty(), "{report:#}");
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap_or_else(|| panic!("{list}")).iter().map(|name| name.as_str().unwrap()).collect()
}

/// In the place of a name in a published report.
fn digest(name: &str) -> String {
    format!("BLAKE3 of the text: {}", blake3::hash(name.as_bytes()).to_hex())
}

/// The line of a table that shows this snapshot.
fn line_of<'t>(table: &'t str, snapshot: &str) -> &'t str {
    table.lines().find(|line| line.contains(snapshot)).unwrap_or_else(|| panic!("no {snapshot} in\n{table}"))
}

/// The value of a metric of the only dataset, as it is written.
fn metric(file: &Path, family: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let begins = format!("lifeboat_drill_{family}{{");
    let line = text.lines().find(|line| line.starts_with(&begins)).unwrap_or_else(|| panic!("no {family} in\n{text}"));
    line.rsplit_once(' ').unwrap().1.to_owned()
}

/// Holds a report against the schema that is shipped.
async fn assert_valid(hosts: &Hosts, report: &Value) {
    let file = hosts.vault.path("judged.json");
    std::fs::write(&file, report.to_string()).unwrap();
    let judge = "import json, sys, jsonschema; \
                 jsonschema.Draft202012Validator(json.load(open(sys.argv[1]))).validate(json.load(open(sys.argv[2])))";
    let mut python = Command::new("python3");
    python.args(["-c", judge]).arg(workspace().join("config/drill-report.schema.json")).arg(&file);
    let judged = run(&mut python, DEADLINE).await.unwrap();
    assert!(judged.status.success(), "{report:#}\n{judged}");
}

#[tokio::test]
async fn what_did_not_change_is_not_restored_again_and_is_called_proved_in_part_everywhere() {
    let mut hosts = Hosts::at(Some("-240h"), sqlite).await;
    let first = hosts.backup().await;
    let file = hosts.vault.path("shop.prom");
    let textfile = ["--textfile", file.to_str().unwrap()];
    hosts.set_clock("-239h");
    let base = hosts.whole("the first", &textfile).await;
    let whole_metrics = |family: &str| metric(&file, family);
    let kept = ["last_level", "last_whole_timestamp_seconds", "restore_duration_seconds"];
    let before = kept.map(whole_metrics);
    let succeeded = metric(&file, "last_success_timestamp_seconds");
    assert_eq!((before[0].as_str(), &before[1]), ("4", &succeeded));

    hosts.set_clock("-230h");
    let second = hosts.backup().await;
    assert_ne!(first, second);
    let report = hosts.untouched(&base, &textfile).await;
    assert_eq!(report["snapshot"], second.as_str(), "{report:#}");
    assert_eq!(base["snapshot"], first.as_str(), "{base:#}");
    let in_part = &report["in_part"];
    let left_out = names(&in_part["left_out"]);
    assert_eq!(left_out.len(), 1, "a file is one part: {report:#}");
    assert_eq!(in_part["left_out_bytes"], base["restored_bytes"], "{report:#}");
    let phases = report["phases"].as_array().unwrap();
    for phase in ["start", "load", "check", "prove"] {
        assert!(!phases.iter().any(|found| found["phase"] == phase), "{phase}: {report:#}");
    }
    assert_eq!(kept.map(whole_metrics), before);
    let (success, attempt) =
        (metric(&file, "last_success_timestamp_seconds"), metric(&file, "last_attempt_timestamp_seconds"));
    assert!(success != succeeded && success == attempt, "{succeeded}: {success}, {attempt}");
    assert_eq!(metric(&file, "last_status"), "1");

    let record = hosts.published(&report);
    let body = &record["body"];
    assert_in_part(body, &base);
    assert_eq!(body["in_part"]["left_out"], json!([digest(left_out[0])]), "{record:#}");
    assert_eq!(body["in_part"]["restored"], json!([]), "{record:#}");
    assert_valid(&hosts, body).await;
    assert_valid(&hosts, &report).await;
    assert_valid(&hosts, &hosts.published(&base)["body"]).await;

    hosts.set_clock("-220h");
    let third = hosts.backup().await;
    let said = hosts.vault.lifeboat("drill1", &["drill", "shop"]).await;
    assert!(said.status.success(), "{said}");
    assert_eq!(said.stdout.lines().next(), Some("Drill of shop: PROVED IN PART"), "{said}");
    let day = &base["finished"].as_str().unwrap()[..10];
    assert!(said.stdout.lines().any(|line| line.contains(left_out[0]) && line.contains(day)), "{said}");

    let drills = hosts.vault.lifeboat("drill1", &["drills", "shop"]).await.stdout;
    let listed = hosts.vault.lifeboat("drill1", &["list", "shop"]).await.stdout;
    for table in [&drills, &listed] {
        let of_first = line_of(table, &first);
        assert!(of_first.contains("proved") && !of_first.contains("in part"), "{table}");
        for snapshot in [&second, &third] {
            assert!(line_of(table, snapshot).contains("proved in part"), "{table}");
        }
    }
    let status = hosts.vault.lifeboat("drill1", &["status"]).await;
    assert!(status.stdout.contains("protected, proved in part"), "{status}");

    let page = hosts.vault.path("report.html");
    let words = ["--json", "report", "shop", "--html", page.to_str().unwrap()];
    let told = hosts.vault.lifeboat("drill1", &words).await;
    assert!(told.status.success(), "{told}");
    let told = told.json().unwrap();
    let verdict = told["verdict"].as_str().unwrap();
    assert!(verdict.to_lowercase().contains("proved in part") && !verdict.contains("FAILED"), "{told:#}");
    assert_valid(&hosts, &told["report"]).await;
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(verdict) && !page.contains("banner bad"), "{verdict} is not in the page");
    let (_, before) = page.split_once("Drills before").unwrap();
    assert!(before.contains("proved in part"), "{before}");
}
