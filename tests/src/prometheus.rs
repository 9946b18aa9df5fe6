//! A real Prometheus with the alert rules as they are shipped. It looks several times a second, and
//! no alert waits but those that wait for days: what `for` in the rules does is the matter of their
//! unit tests.

#![allow(clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::programs::run;
use crate::{ports, tools};

const DEADLINE: Duration = Duration::from_secs(120);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Every rule is evaluated so often before its silence counts.
const EVALUATIONS: f64 = 3.0;
/// The job under which it scrapes itself.
const ITSELF: &str = "prometheus";

/// What answers a query: labels, and the value as it is written.
pub type Samples = Vec<(BTreeMap<String, String>, String)>;

/// A running Prometheus, gone on drop.
pub struct Prometheus {
    _place: TempDir,
    address: String,
    _server: Child,
}

impl Prometheus {
    /// Starts one that scrapes these addresses, each as a job of this name. What they say of `job`
    /// and `instance` counts, as it must for a Pushgateway.
    ///
    /// # Panics
    /// It cannot be started, as all of the harness does.
    pub async fn start(jobs: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let address = format!("127.0.0.1:{}", ports::free());
        let shipped = std::fs::read_to_string(tools::workspace().join("config/prometheus-rules.yml")).expect("rules");
        let waits = |line: &&str| line.trim().starts_with("for: ") && !line.trim().ends_with('d');
        let rules: String = shipped.split_inclusive('\n').filter(|line| !waits(line)).collect();
        std::fs::write(place.path().join("rules.yml"), rules).expect("rules");
        let scraped = jobs.iter().copied().chain([(ITSELF, address.as_str())]).map(|(job, target)| {
            format!("  - {{ job_name: {job}, honor_labels: true, static_configs: [{{ targets: ['{target}'] }}] }}\n")
        });
        let yaml = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}\n\
             rule_files: [rules.yml]\nscrape_configs:\n{}",
            scraped.collect::<String>()
        );
        std::fs::write(place.path().join("prometheus.yml"), yaml).expect("a configuration");
        let server = Command::new(tools::find("prometheus"))
            .arg(format!("--config.file={}", place.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", place.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus starts");
        let prometheus = Self { _place: place, address, _server: server };
        prometheus.until("every target is up", async || prometheus.are_up(jobs.len() + 1).await).await;
        prometheus
    }

    async fn are_up(&self, targets: usize) -> bool {
        self.answer("up == 1").await.is_ok_and(|up| up.len() == targets)
    }

    /// What answers an expression now, or what Prometheus says against it.
    async fn answer(&self, expression: &str) -> Result<Samples, String> {
        let mut promtool = Command::new(tools::find("promtool"));
        promtool.args(["query", "instant", "-o", "json", &format!("http://{}", self.address), expression]);
        let output = run(&mut promtool, DEADLINE).await.expect("promtool runs");
        if !output.status.success() {
            return Err(output.to_string());
        }
        let found: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let sample = |found: &Value| {
            let labels = serde_json::from_value(found["metric"].clone()).expect("labels");
            (labels, found["value"][1].as_str().expect("a value").to_owned())
        };
        Ok(found.as_array().expect("a vector").iter().map(sample).collect())
    }

    /// What answers an expression now.
    ///
    /// # Panics
    /// Prometheus refuses it.
    pub async fn query(&self, expression: &str) -> Samples {
        self.answer(expression).await.unwrap_or_else(|refused| panic!("{expression}: {refused}"))
    }

    /// The alerts that fire, each as `NAME of DATASET`, or with its replica, group or instance.
    pub async fn firing(&self) -> BTreeSet<String> {
        let alerts = self.query("ALERTS{alertstate=\"firing\"}").await;
        let told = |labels: &BTreeMap<String, String>| {
            let of = ["replica", "dataset", "group", "instance"].iter().find_map(|label| labels.get(*label));
            format!("{} of {}", labels["alertname"], of.map_or("nothing", String::as_str))
        };
        alerts.iter().map(|(labels, _)| told(labels)).collect()
    }

    /// Waits until these alerts fire, and sees that after a few evaluations of every rule it is
    /// these and no others.
    ///
    /// # Panics
    /// It is not so, or a rule cannot be evaluated.
    pub async fn until_firing(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|&alert| alert.to_owned()).collect();
        self.until(&format!("{expected:?} fire"), async || self.firing().await == expected).await;
        let before = self.evaluations().await;
        self.until("the rules are evaluated", async || self.evaluations().await >= before + EVALUATIONS).await;
        assert_eq!(self.firing().await, expected);
        let failures = self.query("sum(prometheus_rule_evaluation_failures_total)").await;
        assert!(failures.iter().all(|(_, value)| value == "0") && !failures.is_empty(), "{failures:?}");
    }

    /// How often the group of rules was evaluated that was so least often.
    async fn evaluations(&self) -> f64 {
        let found = self.query("min(prometheus_rule_group_iterations_total)").await;
        found.first().map_or(0.0, |(_, value)| value.parse().expect("a number"))
    }

    async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !is().await {
            if began.elapsed() > DEADLINE {
                panic!("not so that {what}: {:?}", self.answer("ALERTS or up").await);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

/// A running Pushgateway, gone on drop.
pub struct Pushgateway {
    /// Where it listens.
    pub address: String,
    _server: Child,
}

impl Pushgateway {
    /// Starts one. It takes a moment until it answers.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start() -> Self {
        let address = format!("127.0.0.1:{}", ports::free());
        let server = Command::new("prometheus-pushgateway")
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("a Pushgateway (scripts/setup installs it)");
        Self { address, _server: server }
    }

    /// The shell that the unit of the drills shows, for this folder and this address.
    ///
    /// # Panics
    /// The unit shows it no more.
    #[must_use]
    pub fn pushing(&self, folder: &Path) -> String {
        let unit = tools::workspace().join("systemd/lifeboat-drill.service");
        let unit = std::fs::read_to_string(unit).expect("the unit");
        let (_, after) = unit.split_once("#   ExecStopPost=-/bin/sh -c '").expect("the line");
        let line = after.split('\'').next().expect("the line").replace("\\\n#", " ");
        let shown = [
            ("/var/lib/prometheus/node-exporter", folder.to_str().expect("a folder")),
            ("push.example.com:9091", &self.address),
            ("%H", "drill1"),
        ];
        shown.iter().fold(line, |line, (shown, ours)| {
            assert!(line.contains(shown), "{line}");
            line.replace(shown, ours)
        })
    }
}
