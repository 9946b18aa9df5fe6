//! Metrics in the Prometheus text format: made anew for each scrape from the status, so that they survive a restart, and
//! exist from the start for everything that is configured.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lifeboat_engine::config::Config;
use lifeboat_engine::error::{Class, Context};
use lifeboat_engine::id::Name;
use lifeboat_engine::{Error, Result};
use prometheus::{Encoder, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use crate::status::{DatasetStatus, ReplicaStatus, Status};

/// What is true only now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    /// Datasets that are backed up at this moment.
    pub(crate) running: BTreeSet<Name>,
    /// Replicas that answered when last asked.
    pub(crate) up: BTreeMap<Name, bool>,
}

/// Everything, as text.
///
/// # Errors
/// None that is known.
pub(crate) fn render(config: &Config, status: &Status, live: &Live, now: DateTime<Utc>) -> Result<String> {
    let page = Page { registry: Registry::new() };
    let filled = page.fill(config, status, live, now);
    filled.context(Class::Failed, || "metrics cannot be made")?;
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&page.registry.gather(), &mut text)
        .context(Class::Failed, || "metrics cannot be written")?;
    String::from_utf8(text).map_err(|error| Error::failed("metrics are not text").because(error))
}

struct Page {
    registry: Registry,
}

impl Page {
    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    /// A gauge with one value a dataset.
    fn each(
        &self,
        name: &str,
        help: &str,
        datasets: &[(&Name, &DatasetStatus)],
        value: impl Fn(&Name, &DatasetStatus) -> f64,
    ) -> prometheus::Result<()> {
        let gauge = self.gauge(name, help, &["dataset"])?;
        for (dataset, status) in datasets {
            gauge.with_label_values(&[dataset.as_str()]).set(value(dataset, status));
        }
        Ok(())
    }

    fn fill(&self, config: &Config, status: &Status, live: &Live, now: DateTime<Utc>) -> prometheus::Result<()> {
        let unknown = DatasetStatus::default();
        let names = config.datasets.iter().map(|dataset| &dataset.name);
        let datasets: Vec<(&Name, &DatasetStatus)> =
            names.map(|name| (name, status.get(name).unwrap_or(&unknown))).collect();
        let build = self.gauge("lifeboat_build_info", "Always 1; the version is a label.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        self.backups(&datasets, live)?;
        self.replicas(config, &datasets, live)?;

        let interval = self.gauge(
            "lifeboat_schedule_expected_interval_seconds",
            "Longest time between two scheduled backups; 0 without a schedule.",
            &["dataset"],
        )?;
        let objectives = self.gauge(
            "lifeboat_objective_seconds",
            "What was promised; 0 where nothing was.",
            &["dataset", "objective"],
        )?;
        for dataset in &config.datasets {
            let name = dataset.name.as_str();
            let expected = dataset.schedule.as_ref().map(|schedule| schedule.expected_interval(now));
            interval.with_label_values(&[name]).set(expected.unwrap_or_default().as_secs_f64());
            for (objective, promised) in [("rpo", dataset.objectives.rpo), ("rto", dataset.objectives.rto)] {
                objectives.with_label_values(&[name, objective]).set(promised.unwrap_or_default().as_secs_f64());
            }
        }
        Ok(())
    }

    fn backups(&self, datasets: &[(&Name, &DatasetStatus)], live: &Live) -> prometheus::Result<()> {
        self.each(
            "lifeboat_backup_last_success_timestamp_seconds",
            "When the newest committed snapshot was begun; 0: never.",
            datasets,
            |_, status| seconds(status.last_success),
        )?;
        self.each(
            "lifeboat_backup_last_attempt_timestamp_seconds",
            "When a backup was last begun; 0: never.",
            datasets,
            |_, status| seconds(status.last_attempt),
        )?;
        self.each(
            "lifeboat_backup_last_status",
            "1 if the last finished backup succeeded, else 0.",
            datasets,
            |_, status| f64::from(u8::from(status.last_succeeded)),
        )?;
        self.each("lifeboat_backup_duration_seconds", "How long the last backup took.", datasets, |_, status| {
            status.duration_seconds
        })?;
        self.each("lifeboat_backup_raw_bytes", "Size of the newest snapshot.", datasets, |_, status| {
            status.raw_bytes as f64
        })?;
        self.each(
            "lifeboat_backup_stored_bytes",
            "Bytes that the newest snapshot added to each complete replica.",
            datasets,
            |_, status| status.stored_bytes as f64,
        )?;
        self.each("lifeboat_backup_running", "1 while a backup is under way.", datasets, |dataset, _| {
            f64::from(u8::from(live.running.contains(dataset)))
        })?;
        let runs = self.counter("lifeboat_backup_runs_total", "Finished backups.", &["dataset", "result"])?;
        let pruned =
            self.counter("lifeboat_prune_removed_snapshots_total", "Snapshots that retention let go.", &["dataset"])?;
        for (dataset, status) in datasets {
            runs.with_label_values(&[dataset.as_str(), "success"]).inc_by(status.successes);
            runs.with_label_values(&[dataset.as_str(), "failure"]).inc_by(status.failures);
            pruned.with_label_values(&[dataset.as_str()]).inc_by(status.pruned_snapshots);
        }
        Ok(())
    }

    fn replicas(&self, config: &Config, datasets: &[(&Name, &DatasetStatus)], live: &Live) -> prometheus::Result<()> {
        let up = self.gauge("lifeboat_replica_up", "1 if the replica answered when last asked.", &["replica"])?;
        let complete = self.gauge(
            "lifeboat_replica_last_complete_timestamp_seconds",
            "Time of the newest snapshot that the replica holds whole; 0: none.",
            &["dataset", "replica"],
        )?;
        let behind = self.gauge(
            "lifeboat_replica_behind_snapshots",
            "Snapshots that the replica lacks or holds in part.",
            &["dataset", "replica"],
        )?;
        let unknown = ReplicaStatus::default();
        for replica in config.replicas.iter().map(|replica| &replica.name) {
            let answers = live.up.get(replica).copied().unwrap_or_default();
            up.with_label_values(&[replica.as_str()]).set(f64::from(u8::from(answers)));
            for (dataset, status) in datasets {
                let state = status.replicas.get(replica).unwrap_or(&unknown);
                let labels = [dataset.as_str(), replica.as_str()];
                complete.with_label_values(&labels).set(seconds(state.last_complete));
                behind.with_label_values(&labels).set(state.behind as f64);
            }
        }
        Ok(())
    }
}

fn seconds(time: Option<DateTime<Utc>>) -> f64 {
    time.map_or(0.0, |time| time.timestamp_millis() as f64 / 1000.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_engine::config::Surroundings;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn page() -> String {
        let text = "host = \"db1\"\n[[replica]]\nname = \"r\"\nkind = \"directory\"\nregion = \"far\"\npath = \"/r\"\n\
             [[dataset]]\nname = \"shop\"\nhome_region = \"near\"\nschedule = \"@daily\"\nobjectives = { rpo = \"1h\" }\n\
             [dataset.source]\nkind = \"sqlite\"\npath = \"/db\"\n";
        let config = Config::parse(text, "test.toml".as_ref(), &Surroundings::default()).unwrap();
        render(&config, &Status::new(), &Live::default(), DateTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn everything_configured_exists_from_the_start() {
        let page = page();
        for line in [
            "lifeboat_backup_last_success_timestamp_seconds{dataset=\"shop\"} 0",
            "lifeboat_backup_last_status{dataset=\"shop\"} 0",
            "lifeboat_backup_runs_total{dataset=\"shop\",result=\"failure\"} 0",
            "lifeboat_backup_runs_total{dataset=\"shop\",result=\"success\"} 0",
            "lifeboat_replica_up{replica=\"r\"} 0",
            "lifeboat_replica_last_complete_timestamp_seconds{dataset=\"shop\",replica=\"r\"} 0",
            "lifeboat_schedule_expected_interval_seconds{dataset=\"shop\"} 86400",
            "lifeboat_objective_seconds{dataset=\"shop\",objective=\"rpo\"} 3600",
            "lifeboat_objective_seconds{dataset=\"shop\",objective=\"rto\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn promtool_finds_nothing_to_say() {
        let mut check = Command::new("promtool");
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = check.spawn().unwrap();
        child.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
