//! The alert rules and the dashboard, in a real Prometheus that scrapes a backup host and what a
//! drill host pushes: what is healthy is silent, what breaks fires, what is mended is silent again.
//! It takes every query of the dashboard, and answers those of which a metric is there.
//!
//! What this cannot show: alerts of locks, wardens and witnesses, which no host here has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_tests::operator::{Operator, directory_replica};
use lifeboat_tests::prometheus::{Prometheus, Pushgateway};
use lifeboat_tests::tools::workspace;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const MEMBERS: [&str; 2] = ["shop", "wiki"];
/// A drill of one of them, which tells of it in the file where the group's did.
const ONE: &str = "shop --textfile collected/lifeboat-drill-shop.prom";

/// Two hosts, and who watches them.
struct Company {
    place: TempDir,
    backup: Operator,
    drill: Operator,
    gateway: Pushgateway,
    prometheus: Prometheus,
}

impl Company {
    /// All datasets are backed up and proved.
    async fn open() -> Self {
        let place = tempfile::Builder::new().prefix("lifeboat-al-").tempdir_in("/tmp").unwrap();
        let (mut backup, mut drill) = (Operator::at(place.path(), "db1"), Operator::at(place.path(), "drill"));
        backup.masters = vec![backup.make_identity("master.txt").await];
        backup.min_replicas = 1;
        backup.replicas = ["frankfurt", "ireland"].map(|name| directory_replica(place.path(), name)).to_vec();
        backup.datasets = MEMBERS.map(|name| dataset(place.path(), name)).to_vec();
        backup.datasets.push(format!("[[group]]\nname = \"office\"\nmembers = {MEMBERS:?}\n"));
        let signer = backup.init("").await;
        (drill.replicas, drill.masters, drill.trusted_signers) =
            (backup.replicas.clone(), backup.masters.clone(), vec![signer]);
        drill.datasets.clone_from(&backup.datasets);
        drill.must("cp -r ../db1/keys/drill-host keys").await;
        backup.start().await;
        backup.must("lifeboat trigger office").await;
        drill.must("mkdir collected").await;
        let gateway = Pushgateway::start();
        let jobs = [("lifeboat", backup.listen()), ("lifeboat-drill", gateway.address.as_str())];
        let began = Instant::now();
        while !drill.shell(&format!("curl -sS --fail http://{}/-/ready", gateway.address)).await.status.success() {
            assert!(began.elapsed() < DEADLINE, "the Pushgateway does not answer");
        }
        let prometheus = Prometheus::start(&jobs).await;
        let company = Self { place, backup, drill, gateway, prometheus };
        company.drill("--group office --textfiles collected", 0).await;
        company
    }

    /// Drills, and pushes what that tells.
    async fn drill(&self, what: &str, code: i32) {
        let drilled = self.drill.shell(&format!("lifeboat drill {what}")).await;
        assert_eq!(drilled.code(), Some(code), "{drilled}");
        self.drill.must(&self.gateway.pushing(&self.drill.file("collected"))).await;
    }

    /// Moves a file or a folder away, or back.
    fn toggle(&self, name: &str) {
        let (here, away) = (self.place.path().join(name), self.place.path().join(format!("{name}.away")));
        let (from, to) = if here.exists() { (here, away) } else { (away, here) };
        std::fs::rename(from, to).unwrap();
    }
}

fn dataset(place: &Path, name: &str) -> String {
    let file = place.join(format!("{name}.db"));
    let database = Connection::open(&file).unwrap();
    database.execute_batch("CREATE TABLE item (id INTEGER); INSERT INTO item VALUES (1);").unwrap();
    let source = format!("source = {{ kind = \"sqlite\", path = \"{}\" }}", file.display());
    format!("[[dataset]]\nname = \"{name}\"\nhome_region = \"home\"\n{source}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_fires_and_what_is_mended_is_silent() {
    let mut company = Company::open().await;
    company.prometheus.until_firing(&[]).await;

    company.toggle("shop.db");
    let failed = company.backup.shell("lifeboat trigger shop").await;
    assert!(!failed.status.success(), "{failed}");
    company.prometheus.until_firing(&["LifeboatBackupFailed of shop"]).await;
    company.toggle("shop.db");
    company.backup.must("lifeboat trigger shop").await;
    company.prometheus.until_firing(&[]).await;

    company.toggle("ireland");
    std::fs::write(company.place.path().join("ireland"), "no folder").unwrap();
    // It looks at once when it starts.
    company.backup.start().await;
    company.prometheus.until_firing(&["LifeboatReplicaDown of ireland"]).await;
    std::fs::remove_file(company.place.path().join("ireland")).unwrap();
    company.toggle("ireland");
    company.backup.start().await;
    company.prometheus.until_firing(&[]).await;

    let wrong = "[dataset.drill]\nqueries = [{ sql = \"SELECT count(*) FROM item\", expect = \"2\" }]\n";
    let right = company.drill.datasets.clone();
    company.drill.datasets[0].push_str(wrong);
    company.drill(ONE, 6).await;
    company.prometheus.until_firing(&["LifeboatDrillFailed of shop", "LifeboatDrillBelowProved of shop"]).await;
    company.drill.datasets = right;
    company.drill(ONE, 0).await;
    company.prometheus.until_firing(&[]).await;

    company.backup.kill().await;
    company.prometheus.until_firing(&[&format!("LifeboatDaemonDown of {}", company.backup.listen())]).await;
    company.backup.start().await;
    company.prometheus.until_firing(&[]).await;
}

/// What a query of the dashboard needs, and the labels that its legend shows.
struct Shown {
    expression: String,
    legend: Vec<String>,
}

fn dashboard() -> Vec<Shown> {
    let path: PathBuf = workspace().join("config/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let shown = targets.map(|target| {
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        let labels = legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim().to_owned());
        // As with all datasets chosen.
        let expression = target["expr"].as_str().unwrap().replace("$dataset", ".+");
        Shown { expression, legend: labels.collect() }
    });
    shown.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_is_taken_and_answered_if_its_metrics_are_there() {
    let company = Company::open().await;
    company.prometheus.until_firing(&[]).await;
    let names = company.prometheus.query("count by (__name__) ({__name__=~\"lifeboat_.+\"})").await;
    let exported = |expression: &str| {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let mut metrics = words.filter(|word| word.starts_with("lifeboat_"));
        metrics.all(|metric| names.iter().any(|(labels, _)| labels["__name__"] == metric))
    };
    let (mut answered, mut silent) = (0, Vec::new());
    for Shown { expression, legend } in dashboard() {
        assert!(!expression.contains('$'), "{expression}: Grafana's variables but $dataset are not known here");
        let samples = company.prometheus.query(&expression).await;
        for (labels, _) in &samples {
            assert!(legend.iter().all(|label| labels.contains_key(label)), "{expression} {legend:?}: {labels:?}");
        }
        match samples.is_empty() {
            false => answered += 1,
            // Not set, or never.
            true if expression.contains("> 0") || !exported(&expression) => silent.push(expression),
            true => panic!("nothing answers {expression}"),
        }
    }
    assert!(answered >= 35, "{answered} queries are answered, and these are not: {silent:#?}");
}
