//! A drill restores a snapshot into a throw-away database, checks it, proves it, and reports.
//!
//! - **Apart from the keys**: the throw-away database runs in a worker, see `lifeboat-worker`. This
//!   process decrypts, and starts no program that reads what was decrypted.
//! - **Evidence**: a level counts only if all of it succeeded, so a report never claims too much.
//!   What tools and databases say stays on this host: a [published](publish) report has the class
//!   and a digest of each such text.
//! - **The end**: the throw-away database is stopped and removed whatever happens, even if the
//!   drill is cancelled.

mod bisect;
mod buckets;
mod choice;
mod evidence;
mod forecast;
mod group;
mod history;
mod in_part;
mod past;
mod publish;
mod recovery;
mod references;
mod report;
mod wrong;

use std::collections::BTreeSet;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Class, Error, Result};
use lifeboat_databases::proof::{DrillQuery, ProofLevel};
use lifeboat_databases::streams::{StoredStreams, StreamReader};
use lifeboat_databases::{ThrowAway, ToolEnvironment, WorkContext, registry};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_worker::WorkerPlace;
use lifeboat_worker::protocol::DrillTools;
use tokio_util::sync::CancellationToken;

pub use self::bisect::{Asking, Bisect};
pub use self::choice::{DrillTrace, due_since, fulfilled, replicas_to_read, snapshots_in_order};
pub use self::evidence::{DrillEvidence, evidence};
pub use self::forecast::needed_disk;
pub use self::group::{AcrossMembers, CommonMembers, FoundMoments, MemberSnapshot, is_one_moment};
pub use self::history::{DrillHistory, PastDrill, Publications, history, published_drills};
pub use self::in_part::base_of;
pub use self::past::{DrillMemory, drilled_datasets};
pub use self::publish::{Published, publish};
pub use self::recovery::{RecoveryOrder, RecoveryStep, critical_path};
pub use self::references::{GroupPart, ReferenceResult};
pub use self::report::{DrillChoice, DrillReport, InPart, Phase};
use self::report::{KnownChecks, MAX_TOLD};
use crate::catalog::future::is_future;
use crate::config::{DrillConfig, Objectives};
use crate::restore::{Selector, SnapshotStreams, VaultReader};

/// Everything a drill needs.
#[derive(Clone)]
pub struct Drill<'a> {
    /// The vault that the snapshot is read from.
    pub reader: &'a VaultReader,
    /// The dataset to drill.
    pub dataset: &'a Name,
    /// Which of its snapshots to restore.
    pub selector: Selector,
    /// The level to reach (`None`: the highest that the snapshot's kind allows), the queries, and
    /// where server binaries are.
    pub settings: &'a DrillConfig,
    /// Reports of past drills of the dataset, newest first, from which it is told how long this one
    /// will take.
    pub past: &'a [DrillReport],
    /// The drill that proved what this one need not restore ([`base_of`]). `None`: it restores all.
    pub base: Option<&'a DrillReport>,
    /// The objectives to compare the measured times with.
    pub objectives: Objectives,
    /// `selector` names the moment of a loss that is rehearsed. The age of the data counts for the
    /// newest snapshot, and for the newest of that moment: of any other one it says nothing about
    /// how much a loss would cost.
    pub rehearses_loss: bool,
    /// What the drill of a group looks for here; `None`: the dataset is drilled by itself.
    pub across: Option<&'a AcrossMembers>,
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

/// A tool of the drill that is silent for this long is stopped, and the drill fails. Loads and
/// checks may be silent for long.
const DRILL_STALL_LIMIT: std::time::Duration = std::time::Duration::from_secs(3600);

impl Drill<'_> {
    /// Runs the drill. A drill that fails gives a report, too. One that is not done in time is
    /// stopped and cleaned up, and has failed.
    ///
    /// The class of the error decides the exit code. If only an objective was missed, there is an
    /// error although the report says `passed`.
    pub async fn run(&self) -> (DrillReport, Option<Error>) {
        let Some(limit) = self.settings.max_time else { return self.run_to_the_end().await };
        let limited = Self { cancel: self.cancel.child_token(), ..self.clone() };
        let mut running = std::pin::pin!(limited.run_to_the_end());
        tokio::select! {
            done = &mut running => return done,
            () = tokio::time::sleep(limit) => limited.cancel.cancel(),
        }
        let (mut report, error) = running.await;
        // It may have ended at that very moment, or somebody has cancelled it, or it had found what
        // matters more.
        if !error.as_ref().is_some_and(may_be_late) || report.passed || self.cancel.is_cancelled() {
            return (report, error);
        }
        let what = format!("the drill of dataset {} was stopped: max_time allows {limit:?}", self.dataset);
        let late = Error::failed(what).hint("raise max_time in [drill] or [dataset.drill], or use a faster drill host");
        (report.error, report.error_class) = (Some(late.chain()), Some(late.class()));
        (report, Some(late))
    }

    async fn run_to_the_end(&self) -> (DrillReport, Option<Error>) {
        let mut report = self.empty_report();
        let began = self.clock.elapsed();
        // Not dropped when it is cancelled: a throw-away database must be stopped first.
        let result = match self.go(&mut report, began).await {
            Err(error) if self.cancel.is_cancelled() => Err(unless_proved_wrong(error, self.cancelled())),
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
        report.manifest = Some(streams.manifest_hash());
        let taken = self.unless_cancelled(self.reader.taken(streams.manifest())).await?.time;
        if is_future(taken, report.started, self.reader.limits()) {
            tracing::warn!(%snapshot, %taken, "The age of the data is not known: the time of the snapshot lies in the future");
        } else if self.is_newest(&snapshot, now).await? {
            report.rpo_seconds = Some((report.started - taken).as_seconds_f64().max(0.0));
        }
        phase.stop(report);

        let cx = WorkContext {
            environment: self.environment.clone(),
            scratch: self.scratch.clone(),
            stall: DRILL_STALL_LIMIT,
            jobs: self.jobs,
            cancel: self.cancel.clone(),
        };
        let facts = streams.facts();
        report.highest = registry::find(&facts.engine).map(|engine| self.settings.highest_level(engine));
        // Of a kind that this version does not know, as much is asked as of any.
        report.required = self.settings.level.or(report.highest).unwrap_or(ProofLevel::Proved);
        report.skipped = facts.skipped.clone();
        report.warnings = facts.warnings.iter().take(MAX_TOLD).cloned().collect();
        report.engine =
            Some(format!("{} {}", facts.engine, facts.server_version.as_deref().unwrap_or_default()).trim().to_owned());
        if report.required >= ProofLevel::Checked {
            wrong::queries_fit(&self.settings.queries, &databases_of(&streams), &report.skipped)?;
        }
        let selected = self.clock.elapsed();
        if self.prove_in_part(&streams, taken, report, &cx).await? {
            return Ok(());
        }
        // To restore takes no longer because something else was tried first.
        let spent = self.clock.elapsed().saturating_sub(selected);
        let began = began + spent;
        let given = Given { streams: &streams, bytes: streams.manifest().length(), taken, spent };
        let (restored, stopped) = self.restore(&streams, &given, report, began, &cx).await;
        restored.and(stopped)
    }

    /// Starts a throw-away database, and goes as far as is required with what `given` gives of
    /// `streams`. The second result tells whether nothing of it is left.
    async fn restore(
        &self,
        streams: &SnapshotStreams,
        given: &Given<'_>,
        report: &mut DrillReport,
        began: std::time::Duration,
        cx: &WorkContext,
    ) -> (Result<()>, Result<()>) {
        let mut server = match self.start(given, report, cx).await {
            Ok(server) => server,
            Err(error) => return (Err(error), Ok(())),
        };
        let before = streams.delivered();
        let result = match &mut server {
            Some(server) => self.use_server(server.as_mut(), given, report, began).await,
            None => self.unless_cancelled(self.fetch_only(given.streams, report, began)).await,
        };
        // What fails once it is cancelled fails because of that, and proves nothing.
        let result = result.map_err(|error| if self.cancel.is_cancelled() { self.cancelled() } else { error });
        report.restored_bytes = given.bytes.min(streams.delivered() - before);
        report.replicas_used = streams.read_from();
        if let Some(server) = server {
            let kind = &streams.facts().engine;
            report.engine = Some(format!("{kind} {}", server.server_version()).trim().to_owned());
            let phase = Stopwatch::start(self, "stop");
            let stopped = server.stop().await;
            phase.stop(report);
            return (result, stopped);
        }
        (result, Ok(()))
    }

    /// A throw-away database, if the level needs one, and no limit is against it.
    async fn start(
        &self,
        given: &Given<'_>,
        report: &mut DrillReport,
        cx: &WorkContext,
    ) -> Result<Option<Box<dyn ThrowAway>>> {
        let engine = registry::find(&given.streams.facts().engine);
        let needed_disk = needed_disk(self.settings, engine, given.bytes, report.required)?;
        forecast::check_time(self.settings, (given.bytes, given.spent), report.required, self.past)?;
        // Where the kind allows no more, nothing need be started to find that out.
        if report.required == ProofLevel::Fetched || report.highest == Some(ProofLevel::Fetched) {
            return Ok(None);
        }
        let phase = Stopwatch::start(self, "start");
        let DrillConfig { server_directories, commands, .. } = self.settings;
        let tools = DrillTools { directories: server_directories.clone(), commands: commands.clone(), needed_disk };
        let server = lifeboat_worker::throw_away(self.worker, given.streams, tools, cx).await?;
        phase.stop(report);
        Ok(server)
    }

    /// Whether a loss at this moment would bring back this snapshot.
    async fn is_newest(&self, snapshot: &SnapshotId, now: DateTime<Utc>) -> Result<bool> {
        match self.selector {
            Selector::Latest => Ok(true),
            Selector::At(_) if self.rehearses_loss => Ok(true),
            // Which one is the newest may not be known. Then the age is not told, and the drill of
            // the one that was chosen goes on.
            _ => {
                self.unless_cancelled(async {
                    let newest = self.reader.select(self.dataset, &Selector::Latest, now).await;
                    Ok(newest.is_ok_and(|newest| newest == *snapshot))
                })
                .await
            }
        }
    }

    async fn fetch_only(
        &self,
        streams: &dyn StoredStreams,
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
        &Given { streams, taken, .. }: &Given<'_>,
        report: &mut DrillReport,
        began: std::time::Duration,
    ) -> Result<()> {
        let phase = Stopwatch::start(self, "load");
        server.load(streams).await?;
        phase.stop(report);
        // A load reads every stream to its end, where the stream's hash is checked.
        report.reached = Some(ProofLevel::Loaded);
        report.rto_seconds = Some(self.clock.elapsed().saturating_sub(began).as_secs_f64());

        if report.required >= ProofLevel::Checked {
            let phase = Stopwatch::start(self, "check");
            let checks = server.check(&self.queries_of(taken)).await?;
            phase.stop(report);
            self.known_checks(streams).confirm(&checks)?;
            report.checks = checks;
            if let Some(failed) = report.checks.iter().find(|check| !check.passed) {
                let queries = self.settings.queries.iter().map(|query| query.sql.as_str());
                return Err(wrong::failed_check(failed, queries, self.dataset));
            }
            report.reached = Some(ProofLevel::Checked);
        }
        if report.required >= ProofLevel::Proved {
            let phase = Stopwatch::start(self, "prove");
            let mut proof = server.prove(streams).await?;
            phase.stop(report);
            // Both are published, so neither is taken from where rows may speak.
            proof.source_version = streams.facts().server_version.clone();
            proof.server_version = proof.server_version.map(|_| server.server_version().to_owned());
            proof.differences.truncate(MAX_TOLD);
            proof.notes.truncate(MAX_TOLD);
            let difference = wrong::difference(&proof, self.dataset);
            report.proof = Some(proof);
            difference.map_or(Ok(()), Err)?;
            report.reached = Some(ProofLevel::Proved);
        }
        if let (Some(across), Some(part)) = (self.across, &mut report.group) {
            let phase = Stopwatch::start(self, "across");
            across.look(server, part).await;
            phase.stop(report);
        }
        Ok(())
    }

    /// The operator's queries of a snapshot that was taken then.
    fn queries_of(&self, taken: DateTime<Utc>) -> Vec<DrillQuery> {
        let of_then = |query: &DrillQuery| DrillQuery { taken_at: Some(taken), ..query.clone() };
        self.settings.queries.iter().map(of_then).collect()
    }

    fn known_checks(&self, streams: &dyn StoredStreams) -> KnownChecks {
        let engine = registry::find(&streams.facts().engine);
        KnownChecks {
            of_engine: engine.map_or(&[], |engine| engine.checks()),
            databases: databases_of(streams),
            queries: self.settings.queries.iter().map(|query| query.sql.clone()).collect(),
        }
    }

    /// Fails if the required level was not reached, or if an objective was missed.
    fn judge(&self, report: &DrillReport) -> Result<()> {
        if report.in_part.is_none() && report.reached < Some(report.required) {
            return Err(Error::failed(format!(
                "the drill {}, but `{}` is required",
                report.reached.map_or("fetched nothing".to_owned(), |level| format!("reached `{}`", level.as_str())),
                report.required.as_str()
            ))
            .hint("leave out --level and [dataset.drill] level, and name the dataset's own kind of source: this one has no throw-away database; it can be `fetched`, and `checked` where [dataset.drill] verify names a command"));
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
            manifest: None,
            chosen: None,
            skipped: Vec::new(),
            warnings: Vec::new(),
            engine: None,
            started,
            finished: started,
            replicas_used: Vec::new(),
            replicas_unreachable: self.reader.unreachable().clone(),
            required: self.settings.level.unwrap_or(ProofLevel::Proved),
            highest: None,
            reached: None,
            in_part: None,
            failed_in_part: None,
            passed: false,
            error: None,
            error_class: None,
            phases: Vec::new(),
            restored_bytes: 0,
            rto_seconds: None,
            rpo_seconds: None,
            rto_objective_seconds: self.objectives.rto.map(|objective| objective.as_secs_f64()),
            rpo_objective_seconds: self.objectives.rpo.map(|objective| objective.as_secs_f64()),
            interval_seconds: self
                .settings
                .schedule
                .as_ref()
                .map(|schedule| schedule.expected_interval(started).as_secs_f64()),
            checks: Vec::new(),
            proof: None,
            group: self.across.map(|across| across.part.clone()),
        }
    }
}

/// The databases of a snapshot. None where its kind has only one, or is not known.
fn databases_of(streams: &dyn StoredStreams) -> BTreeSet<String> {
    let Some(engine) = registry::find(&streams.facts().engine) else { return BTreeSet::new() };
    streams.names().iter().filter_map(|stream| engine.database_of(stream)).collect()
}

/// What is restored.
struct Given<'a> {
    streams: &'a dyn StoredStreams,
    /// How long all of them are.
    bytes: u64,
    /// When the snapshot was taken.
    taken: DateTime<Utc>,
    /// How much of `max_time` is gone.
    spent: std::time::Duration,
}

/// The error of a drill that is cancelled by now. What was proved wrong before that stays so.
fn unless_proved_wrong(error: Error, cancelled: Error) -> Error {
    match error.class() {
        Class::Integrity => error,
        _ => cancelled,
    }
}

/// Whether a drill that was stopped failed because of that.
fn may_be_late(error: &Error) -> bool {
    error.class() == Class::Failed
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_proved_wrong_is_told_although_the_drill_is_stopped_after_that() {
        let told = |error: Error| unless_proved_wrong(error, Error::failed("the drill was cancelled"));
        let wrong = told(Error::integrity("it differs"));
        assert_eq!((wrong.message(), may_be_late(&wrong)), ("it differs", false));
        for error in [Error::storage("no answer"), Error::failed("a tool was killed"), Error::source_failed("it ended")]
        {
            let late = told(error);
            assert_eq!((late.message(), may_be_late(&late)), ("the drill was cancelled", true));
        }
    }
}
