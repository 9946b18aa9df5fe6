//! Drill: restore into a throw-away database, check, prove, measure, report.
//!
//! The report says what was reached, never more: a level counts only when all of it succeeded. The
//! throw-away database is stopped and removed whatever happened, also on cancellation.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Context, Error, Result};
use lifeboat_databases::ThrowAway;
use lifeboat_databases::proof::ProofLevel;
use lifeboat_databases::proof::{CheckResult, ProofResult};
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use lifeboat_databases::{ToolEnvironment, WorkContext, registry};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::catalog::documents::sign_plain;
use crate::config::{DrillConfig, Objectives};
use crate::keys::sign::Signer;
use crate::restore::SnapshotStreams;
use crate::restore::{Selector, VaultReader};

/// Everything a drill needs.
pub struct Drill<'a> {
    /// The vault.
    pub reader: &'a VaultReader,
    /// Which dataset.
    pub dataset: &'a Name,
    /// Which snapshot.
    pub selector: Selector,
    /// Level, queries.
    pub settings: &'a DrillConfig,
    /// What was promised.
    pub objectives: Objectives,
    /// Connections over which the throw-away database is loaded, checked and compared at once.
    pub jobs: usize,
    /// What client tools inherit of the program's environment.
    pub environment: &'a ToolEnvironment,
    /// Private directory for the throw-away database.
    pub scratch: PathBuf,
    /// The time.
    pub clock: SharedClock,
    /// Fired: stop, clean up, report failure.
    pub cancel: CancellationToken,
}

/// One measured phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `select`, `start`, `fetch`, `load`, `check`, `prove`, `stop`.
    pub phase: String,
    /// How long it took.
    pub seconds: f64,
}

/// The evidence of one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Format version, 1.
    pub version: u32,
    /// Same shape as a snapshot id; names the report in the vault.
    pub drill: SnapshotId,
    /// The vault.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// What was restored; `None` if none could be selected.
    pub snapshot: Option<SnapshotId>,
    /// Engine and its version in the throw-away database.
    pub engine: Option<String>,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// Replicas that data was read from.
    pub replicas_used: Vec<Name>,
    /// Replicas that did not answer, and why.
    pub replicas_unreachable: BTreeMap<Name, String>,
    /// What it had to reach.
    pub required: ProofLevel,
    /// What it reached; `None`: not even fetched.
    pub reached: Option<ProofLevel>,
    /// Whether it reached `required` with no error.
    pub passed: bool,
    /// What went wrong, in plain words.
    pub error: Option<String>,
    /// In order.
    pub phases: Vec<Phase>,
    /// Bytes restored.
    pub restored_bytes: u64,
    /// From the start of the drill until everything was loaded, or fetched where that is all;
    /// seconds. `None` if it failed before.
    pub rto_seconds: Option<f64>,
    /// Age of the restored data when the drill began, seconds.
    pub rpo_seconds: Option<f64>,
    /// What was promised, seconds.
    pub rto_objective_seconds: Option<f64>,
    /// What was promised, seconds.
    pub rpo_objective_seconds: Option<f64>,
    /// Checks.
    pub checks: Vec<CheckResult>,
    /// Comparison.
    pub proof: Option<ProofResult>,
}

/// A throw-away server that prints nothing for this long while it loads or checks is given up.
const DRILL_STALL_LIMIT: std::time::Duration = std::time::Duration::from_secs(3600);

impl Drill<'_> {
    /// Runs it. A drill that fails is a report with `passed: false`, with the error whose class is
    /// the exit code.
    pub async fn run(&self) -> (DrillReport, Option<Error>) {
        let mut report = self.empty_report();
        let began = self.clock.elapsed();
        let result = tokio::select! {
            result = self.go(&mut report, began) => result,
            () = self.cancel.cancelled() => Err(Error::failed("the drill was cancelled")),
        };
        report.finished = self.clock.now();
        let error = result.and_then(|()| self.judge(&report)).err();
        report.error = error.as_ref().map(Error::chain);
        report.passed = error.as_ref().is_none_or(|error| error.class() == Class::ObjectiveMissed);
        (report, error)
    }

    async fn go(&self, report: &mut DrillReport, began: std::time::Duration) -> Result<()> {
        let phase = Stopwatch::start(self, "select");
        let snapshot = self.reader.select(self.dataset, &self.selector).await?;
        report.snapshot = Some(snapshot.clone());
        let streams = self.reader.streams(self.dataset, &snapshot).await?;
        let age = report.started - streams.manifest().started;
        report.rpo_seconds = Some(age.as_seconds_f64().max(0.0));
        phase.stop(report);

        let cx = WorkContext {
            environment: self.environment.clone(),
            scratch: self.scratch.clone(),
            stall: DRILL_STALL_LIMIT,
            jobs: self.jobs,
            cancel: self.cancel.clone(),
        };
        let facts = streams.facts();
        report.engine =
            Some(format!("{} {}", facts.engine, facts.server_version.as_deref().unwrap_or_default()).trim().to_owned());
        let mut server = None;
        if self.settings.level > ProofLevel::Fetched {
            let phase = Stopwatch::start(self, "start");
            let engine = registry::find(&facts.engine).ok_or_else(|| {
                Error::integrity(format!("the snapshot is of an unknown engine `{}`", facts.engine))
                    .hint("use the version of Lifeboat that wrote it, or a newer one")
            })?;
            server = engine.throw_away(facts, &self.settings.server_directories, &cx).await?;
            phase.stop(report);
        }
        let result = match &mut server {
            Some(server) => self.use_server(server.as_mut(), &streams, report, began).await,
            None => self.fetch_only(&streams, report, began).await,
        };
        report.restored_bytes = streams.manifest().totals.raw_bytes.min(streams.delivered());
        report.replicas_used = streams.read_from();
        if let Some(server) = server {
            report.engine = Some(format!("{} {}", facts.engine, server.server_version()));
            let phase = Stopwatch::start(self, "stop");
            let stopped = server.stop().await;
            phase.stop(report);
            return result.and(stopped);
        }
        result
    }

    async fn fetch_only(
        &self,
        streams: &SnapshotStreams,
        report: &mut DrillReport,
        began: std::time::Duration,
    ) -> Result<()> {
        let phase = Stopwatch::start(self, "fetch");
        for name in streams.names() {
            let mut stream: Box<dyn StreamReader> = streams.open(&name).await?;
            while stream.next().await?.is_some() {}
        }
        phase.stop(report);
        report.reached = Some(ProofLevel::Fetched);
        report.rto_seconds = Some(self.clock.elapsed().saturating_sub(began).as_secs_f64());
        Ok(())
    }

    async fn use_server(
        &self,
        server: &mut dyn ThrowAway,
        streams: &SnapshotStreams,
        report: &mut DrillReport,
        began: std::time::Duration,
    ) -> Result<()> {
        let phase = Stopwatch::start(self, "load");
        server.load(streams).await?;
        phase.stop(report);
        // Loading read every stream to its checked end.
        report.reached = Some(ProofLevel::Loaded);
        report.rto_seconds = Some(self.clock.elapsed().saturating_sub(began).as_secs_f64());

        if self.settings.level >= ProofLevel::Checked {
            let phase = Stopwatch::start(self, "check");
            report.checks = server.check(&self.settings.queries).await?;
            phase.stop(report);
            if let Some(failed) = report.checks.iter().find(|check| !check.passed) {
                return Err(Error::integrity(format!("check `{}` failed: {}", failed.check, failed.detail)));
            }
            report.reached = Some(ProofLevel::Checked);
        }
        if self.settings.level >= ProofLevel::Proved {
            let phase = Stopwatch::start(self, "prove");
            let proof = server.prove(streams).await?;
            phase.stop(report);
            let equal = proof.is_equal();
            let difference = proof.differences.first().cloned().unwrap_or_else(|| "nothing was compared".to_owned());
            report.proof = Some(proof);
            if !equal {
                return Err(Error::integrity(format!(
                    "the restored database is not equal to the snapshot: {difference}"
                )));
            }
            report.reached = Some(ProofLevel::Proved);
        }
        Ok(())
    }

    /// Whether what was reached is what was required, in the time that was promised.
    fn judge(&self, report: &DrillReport) -> Result<()> {
        if report.reached < Some(self.settings.level) {
            return Err(Error::failed(format!(
                "the drill reached `{}`, `{}` is required",
                report.reached.map_or("nothing", ProofLevel::as_str),
                self.settings.level.as_str()
            ))
            .hint("a source of this kind has no throw-away database: set [dataset.drill] level = \"fetched\""));
        }
        if report.objectives_missed().is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Class::ObjectiveMissed,
            format!("the drill succeeded, but missed its objectives: {}", report.objectives_missed().join(", ")),
        )
        .hint("restore faster or back up more often, or change [dataset.objectives]"))
    }

    fn empty_report(&self) -> DrillReport {
        let started = self.clock.now();
        DrillReport {
            version: 1,
            drill: SnapshotId::new(started, rand::random()),
            vault: self.reader.vault_id().to_owned(),
            dataset: self.dataset.clone(),
            snapshot: None,
            engine: None,
            started,
            finished: started,
            replicas_used: Vec::new(),
            replicas_unreachable: self.reader.unreachable().clone(),
            required: self.settings.level,
            reached: None,
            passed: false,
            error: None,
            phases: Vec::new(),
            restored_bytes: 0,
            rto_seconds: None,
            rpo_seconds: None,
            rto_objective_seconds: self.objectives.rto.map(|objective| objective.as_secs_f64()),
            rpo_objective_seconds: self.objectives.rpo.map(|objective| objective.as_secs_f64()),
            checks: Vec::new(),
            proof: None,
        }
    }
}

impl DrillReport {
    /// Objectives that were missed: `rpo`, `rto`.
    #[must_use]
    pub fn objectives_missed(&self) -> Vec<&'static str> {
        let missed = |actual: Option<f64>, objective: Option<f64>| {
            actual.zip(objective).is_some_and(|(actual, objective)| actual > objective)
        };
        let mut names = Vec::new();
        if missed(self.rpo_seconds, self.rpo_objective_seconds) {
            names.push("rpo");
        }
        if missed(self.rto_seconds, self.rto_objective_seconds) {
            names.push("rto");
        }
        names
    }
}

/// Measures one phase; a phase that fails is not in the report, the error says where it was.
struct Stopwatch<'a> {
    drill: &'a Drill<'a>,
    phase: &'static str,
    began: std::time::Duration,
}

impl<'a> Stopwatch<'a> {
    fn start(drill: &'a Drill<'a>, phase: &'static str) -> Self {
        tracing::info!(phase, dataset = %drill.dataset, "drill");
        Self { drill, phase, began: drill.clock.elapsed() }
    }

    fn stop(self, report: &mut DrillReport) {
        let seconds = self.drill.clock.elapsed().saturating_sub(self.began).as_secs_f64();
        report.phases.push(Phase { phase: self.phase.to_owned(), seconds });
    }
}

/// Where a report went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Replicas that took it.
    pub replicas: Vec<Name>,
    /// Replicas that did not, and why.
    pub refused: BTreeMap<Name, String>,
}

/// Signs `report` and offers it to every replica of `reader`.
///
/// # Errors
/// It cannot be serialised or signed.
pub async fn publish(reader: &VaultReader, report: &DrillReport, signer: &Signer) -> Result<Published> {
    let json = serde_json::to_vec_pretty(report).context(Class::Failed, || "cannot write the drill report")?;
    let signed = sign_plain(layout::drill(&report.dataset, &report.drill), json, reader.vault_id(), signer)?;
    let mut published = Published { replicas: Vec::new(), refused: BTreeMap::new() };
    for replica in reader.replicas() {
        let put = async {
            replica.put_new(&signed.key, signed.object.clone()).await?;
            replica.put_new(&layout::signature(&signed.key), signed.signature.clone()).await
        };
        match put.await {
            Ok(()) => published.replicas.push(replica.name().clone()),
            Err(error) => drop(published.refused.insert(replica.name().clone(), error.to_string())),
        }
    }
    Ok(published)
}
