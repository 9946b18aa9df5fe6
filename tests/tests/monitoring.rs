//! What operators hang on their walls: the alert rules fire when they should and stay silent when
//! they should, and rules and dashboard ask only for metrics that exist.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unit tests of the alerts: those that take minutes or hours, and those that take days.
const RULE_TESTS: [&str; 2] = ["prometheus-rules.test.yml", "prometheus-rules-days.test.yml"];

/// What the dashboard leaves to whoever looks for it.
const NOT_SHOWN: [&str; 5] = [
    "lifeboat_backup_running",
    "lifeboat_prune_removed_snapshots_total",
    "lifeboat_replica_behind_snapshots",
    "lifeboat_vault_stored_bytes",
    "lifeboat_vault_unused_bytes",
];

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("config")
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(config())
        .output()
        .expect("promtool runs (scripts/setup installs it)");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
}

/// Every `lifeboat_…` word of `text`.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("lifeboat_")).collect()
}

/// What `lifeboatd` and `lifeboat drill` export, as the table of OPERATIONS.md has it. `make check`
/// compares that with the sources.
fn metrics() -> BTreeSet<String> {
    let operations = std::fs::read_to_string(config().join("../OPERATIONS.md")).unwrap();
    let rows = operations.lines().filter(|line| line.starts_with("| `lifeboat_"));
    let listed: BTreeSet<String> =
        rows.flat_map(|row| metrics_in(row.split('|').nth(1).unwrap())).map(str::to_owned).collect();
    assert!(listed.len() > 50, "{listed:?}");
    listed
}

fn read(name: &str) -> String {
    std::fs::read_to_string(config().join(name)).unwrap()
}

#[test]
fn alert_rules_are_valid() {
    promtool(&["check", "rules", "prometheus-rules.yml"]);
}

#[test]
fn alerts_fire_beyond_their_limits_and_are_silent_within() {
    promtool(&["test", "rules", RULE_TESTS[0], RULE_TESTS[1]]);
}

#[test]
fn every_alert_is_unit_tested_to_fire_and_to_be_silent() {
    let rules = read("prometheus-rules.yml");
    let tests = RULE_TESTS.map(read).concat();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        let runbook = format!("runbook: OPERATIONS.md#{}", alert.to_lowercase());
        assert!(rules.contains(&runbook), "{alert} has no `{runbook}`");
        assert!(tests.contains(&runbook), "no unit test expects {alert} to fire");
        let silent = format!("alertname: {alert}\n        exp_alerts: []\n");
        assert!(tests.contains(&silent), "no unit test expects {alert} to be silent");
    }
}

#[test]
fn rules_ask_only_for_metrics_that_exist() {
    let metrics = metrics();
    for metric in metrics_in(&read("prometheus-rules.yml")) {
        assert!(metrics.contains(metric), "nothing exports {metric}");
    }
}

#[test]
fn dashboard_shows_every_metric_but_a_few_and_no_other() {
    let text = read("grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut shown: BTreeSet<String> = NOT_SHOWN.map(str::to_owned).into();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("{} asks for nothing", panel["title"]));
        assert!(!targets.is_empty(), "{} asks for nothing", panel["title"]);
        for target in targets {
            let expression = target["expr"].as_str().expect("a PromQL expression");
            shown.extend(metrics_in(expression).into_iter().map(str::to_owned));
        }
    }
    assert_eq!(shown, metrics());
}

/// An age since the year 1970 is no age.
#[test]
fn the_dashboard_says_never_and_not_57_years() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let mut ages = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let asks = |target: &serde_json::Value| target["expr"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().into_iter().flatten().map(asks);
        for expression in targets.filter(|expression| expression.contains("time() - ")) {
            ages += 1;
            // Either nothing that never was is shown, or it is shown as a word.
            let left_out = expression.contains("> 0)");
            let mappings = panel["fieldConfig"]["defaults"]["mappings"].as_array();
            let never = mappings.into_iter().flatten().any(|mapping| {
                let options = &mapping["options"];
                mapping["type"] == "range"
                    && options["from"].as_f64().is_some_and(|from| from <= 1e9)
                    && options["to"].is_null()
                    && options["result"]["text"] == "never"
            });
            assert!(left_out || never, "{} shows what never was as years: {expression}", panel["title"]);
        }
    }
    assert!(ages >= 6, "only {ages} ages were looked at");
}

#[test]
fn dashboard_panels_have_ids_of_their_own_and_do_not_overlap() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "the id of {} is taken", panel["title"]);
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{} is too wide", panel["title"]);
        for column in x..x + w {
            for line in y..y + h {
                assert!(cells.insert((column, line)), "{} covers another panel", panel["title"]);
            }
        }
    }
}
