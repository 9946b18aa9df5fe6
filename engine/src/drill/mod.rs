//! A drill restores a snapshot into a throw-away database, checks it, proves it, and reports.
//!
//! - **Apart from the keys**: the throw-away database runs in a worker, see `lifeboat-worker`. This
//!   process decrypts, and starts no program that reads what was decrypted.
//! - **Evidence**: a level counts only if all of it succeeded, so a report never claims too much.
//!   What tools and databases say stays on this host: a [published](publish) report has the class
//!   and a digest of each such text.
//! - **The end**: the throw-away database is stopped and removed whatever happens, even if the
//!   drill is cancelled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::ThrowAway;
use lifeboat_databases::proof::ProofLevel;
use lifeboat_databases::proof::{CheckResult, ProofResult};
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use lifeboat_databases::{ToolEnvironment, WorkContext};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{RecordBody, RecordType};
use lifeboat_store::SharedReplica;
use lifeboat_worker::WorkerPlace;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::catalog::records::{RecordReader, RecordWriter};
use crate::config::{DrillConfig, Objectives};
use crate::keys::sign::Signer;
use crate::restore::SnapshotStreams;
use crate::restore::{Selector, VaultReader};

/// Everything a drill needs.
pub struct Drill<'a> {
    /// The vault that the snapshot is read from.
    pub reader: &'a VaultReader,
    /// The dataset to drill.
    pub dataset: &'a Name,
    /// Which of its snapshots to restore.
    pub selector: Selector,
    /// The level to reach, the queries, and where server binaries are.
    pub settings: &'a DrillConfig,
    /// The objectives to compare the measured times with.
    pub objectives: Objectives,
    /// How many connections load, check and compare the throw-away database at once.
    pub jobs: usize,
    /// What tools inherit of the program's environment.
    pub environment: &'a ToolEnvironment,
    /// Where the worker comes from.
    pub worker: &'a WorkerPlace,
    /// A private directory for the throw-away database. It becomes the worker's user's, unless the
    /// worker brings its own.
    pub scratch: PathBuf,
    /// Tells and measures time.
    pub clock: SharedClock,
    /// When it fires, the drill cleans up and reports a failure.
    pub cancel: CancellationToken,
}

/// One measured phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `select`, `start`, `fetch`, `load`, `check`, `prove`, `stop`.
    pub phase: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// The evidence of one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// The report's id in the vault. It has the shape of a snapshot id.
    pub drill: SnapshotId,
    /// The vault's id.
    pub vault: String,
    /// The dataset.
    pub dataset: Name,
    /// The restored snapshot. `None` if none could be selected.
    pub snapshot: Option<SnapshotId>,
    /// The engine and the version of its throw-away server. Without such a server, the version of
    /// the captured one.
    pub engine: Option<String>,
    /// When the drill began.
    pub started: DateTime<Utc>,
    /// When the drill ended.
    pub finished: DateTime<Utc>,
    /// Replicas that packs were read from.
    pub replicas_used: Vec<Name>,
    /// Replicas that did not answer, and why.
    pub replicas_unreachable: BTreeMap<Name, String>,
    /// The level that the drill had to reach.
    pub required: ProofLevel,
    /// The level that the drill reached. `None` if not even `fetched`.
    pub reached: Option<ProofLevel>,
    /// Whether the drill reached `required` without an error. A missed objective does not count
    /// against this.
    pub passed: bool,
    /// The error with its causes. A missed objective is one, too. A published report has its class
    /// and a digest.
    pub error: Option<String>,
    /// The class of the error. It is published as a part of `error`.
    #[serde(skip)]
    pub error_class: Option<Class>,
    /// The phases that succeeded, in order.
    pub phases: Vec<Phase>,
    /// Bytes of streams that were restored.
    pub restored_bytes: u64,
    /// Seconds from the start of the drill until everything was loaded. If the level is `fetched`,
    /// until everything was fetched. `None` if it failed before.
    pub rto_seconds: Option<f64>,
    /// Age of the snapshot's data when the drill began, in seconds. `None` if its manifest was not
    /// opened.
    pub rpo_seconds: Option<f64>,
    /// The objective for `rto_seconds`, in seconds. `None` if there is none.
    pub rto_objective_seconds: Option<f64>,
    /// The objective for `rpo_seconds`, in seconds. `None` if there is none.
    pub rpo_objective_seconds: Option<f64>,
    /// What the checks found. Empty if none ran.
    pub checks: Vec<CheckResult>,
    /// What the comparison with the snapshot found. `None` if it did not run.
    pub proof: Option<ProofResult>,
}

/// A tool of the drill that is silent for this long is stopped, and the drill fails. Loads and
/// checks may be silent for long.
const DRILL_STALL_LIMIT: std::time::Duration = std::time::Duration::from_secs(3600);

impl Drill<'_> {
    /// Runs the drill. A drill that fails gives a report, too.
    ///
    /// The class of the error decides the exit code. If only an objective was missed, there is an
    /// error although the report says `passed`.
    pub async fn run(&self) -> (DrillReport, Option<Error>) {
        let mut report = self.empty_report();
        let began = self.clock.elapsed();
        // Not dropped when it is cancelled: a throw-away database must be stopped first.
        let result = match self.go(&mut report, began).await {
            Err(_) if self.cancel.is_cancelled() => Err(self.cancelled()),
            result => result,
        };
        report.finished = self.clock.now();
        let error = result.and_then(|()| self.judge(&report)).err();
        report.error = error.as_ref().map(Error::chain);
        report.error_class = error.as_ref().map(Error::class);
        report.passed = error.as_ref().is_none_or(|error| error.class() == Class::ObjectiveMissed);
        (report, error)
    }

    fn cancelled(&self) -> Error {
        Error::failed(format!("the drill of dataset {} was cancelled", self.dataset))
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.cancel.cancelled() => Err(self.cancelled()),
        }
    }

    async fn go(&self, report: &mut DrillReport, began: std::time::Duration) -> Result<()> {
        let phase = Stopwatch::start(self, "select");
        let now = self.clock.now();
        let selected = self.reader.select(self.dataset, &self.selector, now);
        let snapshot = self.unless_cancelled(selected).await?;
        report.snapshot = Some(snapshot.clone());
        let streams = self.unless_cancelled(self.reader.streams(self.dataset, &snapshot)).await?;
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
            let directories = &self.settings.server_directories;
            server = lifeboat_worker::throw_away(self.worker, &streams, directories, &cx).await?;
            phase.stop(report);
        }
        let result = match &mut server {
            Some(server) => self.use_server(server.as_mut(), &streams, report, began).await,
            None => self.unless_cancelled(self.fetch_only(&streams, report, began)).await,
        };
        report.restored_bytes = streams.manifest().length().min(streams.delivered());
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
        // A load reads every stream to its end, where the stream's hash is checked.
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
                return Err(Error::integrity(format!("the restored database differs from the snapshot: {difference}")));
            }
            report.reached = Some(ProofLevel::Proved);
        }
        Ok(())
    }

    /// Fails if the required level was not reached, or if an objective was missed.
    fn judge(&self, report: &DrillReport) -> Result<()> {
        if report.reached < Some(self.settings.level) {
            return Err(Error::failed(format!(
                "the drill reached `{}`, but `{}` is required",
                report.reached.map_or("nothing", ProofLevel::as_str),
                self.settings.level.as_str()
            ))
            .hint("set [dataset.drill] level = \"fetched\", as a source of this kind has no throw-away database"));
        }
        if report.objectives_missed().is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Class::ObjectiveMissed,
            format!("the drill succeeded, but missed its objectives: {}", report.objectives_missed().join(", ")),
        )
        .hint("for rpo, back up more often; for rto, restore faster; or change [dataset.objectives]"))
    }

    fn empty_report(&self) -> DrillReport {
        let started = self.clock.now();
        DrillReport {
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
            error_class: None,
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
    /// The objectives that were missed: `rpo`, `rto`, both or none.
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

/// Measures one phase. A phase that fails is not in the report.
struct Stopwatch<'a> {
    drill: &'a Drill<'a>,
    phase: &'static str,
    began: std::time::Duration,
}

impl<'a> Stopwatch<'a> {
    fn start(drill: &'a Drill<'a>, phase: &'static str) -> Self {
        tracing::info!(phase, dataset = %drill.dataset, "a phase of the drill begins");
        Self { drill, phase, began: drill.clock.elapsed() }
    }

    fn stop(self, report: &mut DrillReport) {
        let seconds = self.drill.clock.elapsed().saturating_sub(self.began).as_secs_f64();
        report.phases.push(Phase { phase: self.phase.to_owned(), seconds });
    }
}

/// Which replicas took a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Replicas that took it.
    pub replicas: Vec<Name>,
    /// Replicas that did not, and why.
    pub refused: BTreeMap<Name, String>,
}

impl DrillReport {
    /// The report without what tools and databases said, which may hold rows: everybody who can
    /// read a bucket can read a report. Instead of each such text there is its digest, which the
    /// full report on the drill host can be held against.
    #[must_use]
    pub fn for_publication(&self) -> Self {
        let mut published = self.clone();
        let class = self.error_class.unwrap_or(Class::Failed).as_str();
        published.error = self.error.as_ref().map(|error| format!("{class}, {}", digest(error)));
        for check in published.checks.iter_mut().filter(|check| !check.passed) {
            check.detail = digest(&check.detail);
        }
        if let Some(proof) = &mut published.proof {
            for difference in &mut proof.differences {
                *difference = digest(difference);
            }
        }
        published
    }
}

/// A text's digest, in words.
fn digest(text: &str) -> String {
    format!("BLAKE3 of the text: {}", blake3::hash(text.as_bytes()).to_hex())
}

impl RecordBody for DrillReport {
    const TYPE: RecordType = RecordType::Drill;

    fn of_format_1(json: &[u8]) -> serde_json::Result<(String, Name, Self)> {
        let report: Self = serde_json::from_slice(json)?;
        Ok((report.vault.clone(), report.dataset.clone(), report))
    }
}

/// Signs `report` as a record of `principal`, and uploads it to every replica of `reader`. What is
/// published is [`DrillReport::for_publication`].
///
/// # Errors
/// The report cannot be serialised or signed. A replica that fails, or whose vault is of a format
/// that is only read, is in [`Published::refused`].
pub async fn publish(
    reader: &VaultReader,
    report: &DrillReport,
    principal: &Name,
    signer: &Signer,
) -> Result<Published> {
    let report = &report.for_publication();
    let (vault, dataset) = (reader.vault_id(), &report.dataset);
    let writer = RecordWriter { vault, dataset, principal, signer };
    let trusted = [signer.public()];
    let own = RecordReader { vault, dataset, trusted: &trusted };
    let (replicas, mut published) = (reader.writable(), Published { replicas: Vec::new(), refused: BTreeMap::new() });
    let folder = layout::drills(dataset);
    let listed = futures::future::join_all(reader.replicas().iter().map(|replica| replica.list(&folder)));
    let keys = listed.await.into_iter().flatten().flatten().map(|object| object.key);
    let ids: BTreeSet<SnapshotId> = keys.filter_map(|key| layout::parse_json(&folder, &key)).collect();
    let all: Vec<&SharedReplica> = reader.replicas().iter().collect();
    let mut last = None;
    for id in ids.iter().rev() {
        match own.read::<DrillReport>(&all, id).await {
            Ok(record) if writer.wrote(&record) => {
                last = Some(record);
                break;
            }
            Ok(_) => {}
            // Other drill hosts have other signers.
            Err(error) if error.class() == Class::Keys => {}
            Err(error) => {
                tracing::warn!(drill = %id, error = %error.chain(), "A drill record cannot be read, so the number of the new one may repeat");
            }
        }
    }
    let signed = writer.sign(&report.drill, report.finished, last.as_ref(), report)?;
    for (replica, writable) in replicas {
        let put = async {
            writable.map_err(|_| {
                let problem = format!("replica {} holds a vault of format 1, which takes no reports", replica.name());
                Error::configuration(problem)
                    .hint("keep the local file; once the backup host has a new vault_prefix, set it here, too")
            })?;
            replica.put_new(&signed.key, signed.object.clone()).await?;
            replica.put_new(&layout::signature(&signed.key), signed.signature.clone()).await?;
            Ok::<_, Error>(())
        };
        match put.await {
            Ok(()) => published.replicas.push(replica.name().clone()),
            Err(error) => drop(published.refused.insert(replica.name().clone(), error.chain_and_hint())),
        }
    }
    Ok(published)
}
