//! `drill`: restores into a throw-away database, proves it equal, and leaves evidence.
//!
//! Whatever happens, even if no replica answers or a signal comes, the metrics record the attempt,
//! and the exit code is 0 only if the required level was reached. Nothing but the report is left
//! behind.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use lifeboat_engine::base::Context;
use lifeboat_engine::config::{Config, DrillConfig, Objectives, ProofLevel};
use lifeboat_engine::drill::{self as flow, Drill, DrillReport};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::format::log::LogEvent;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::restore::VaultReader;
use lifeboat_engine::state::replace_file;
use lifeboat_engine::worker::WorkerPlace;
use lifeboat_engine::{Class, Error, Result};

use super::drill_view::Drilled;
use crate::access::{self, Need};
use crate::as_unit::{self, UnitUser};
use crate::flags::Selection;
use crate::recording::{self, Recording, Shorter};
use crate::session::{Place, Session};
use crate::textfile::{Outcome, Textfile};

const LEVELS: [ProofLevel; 4] = [ProofLevel::Fetched, ProofLevel::Loaded, ProofLevel::Checked, ProofLevel::Proved];

/// Restore into a temporary database, check it, prove that it is equal, measure, and report
///
/// Exit code 0 means that the required level was reached within the objectives, 8 that it was
/// reached, but not within the objectives.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the dataset
    dataset: Name,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// The level to reach [default: that of the configuration, or the highest that the kind of
    /// source allows]
    #[arg(long, value_parser = PossibleValuesParser::new(LEVELS.map(ProofLevel::as_str)).map(|word| level(&word)))]
    level: Option<ProofLevel>,
    /// Also write the report to this file, and its signature beside it if this host has a drill
    /// signer
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write metrics for node-exporter's textfile collector
    #[arg(long, value_name = "FILE.prom")]
    textfile: Option<PathBuf>,
    /// Socket of the workers that do the work with the database [default: the program
    /// lifeboat-worker beside this one]
    #[arg(long, value_name = "PATH", env = "LIFEBOAT_WORKER_SOCKET")]
    worker_socket: Option<PathBuf>,
    /// Do not write the report into the vault
    #[arg(long)]
    no_publish: bool,
    #[command(flatten)]
    recording: Recording,
}

fn level(word: &str) -> ProofLevel {
    LEVELS.into_iter().find(|level| level.as_str() == word).unwrap_or(ProofLevel::Proved)
}

pub(crate) async fn run(args: &Args, session: &Session) -> Result<()> {
    if !args.recording.is_by_owner()
        && let Some(place) = own_config(session)
        && let Some(user) = UnitUser::of_drill(&place)
    {
        return as_unit::run_again(&place, &user, session).await;
    }
    let textfile = args.textfile.as_deref().map(Textfile::open).transpose()?;
    let (objectives, result) = match Plan::make(args, session) {
        Ok(plan) => (Some(plan.objectives), plan.run(args, session).await),
        Err(error) => (None, Err(error)),
    };
    let report = result.as_ref().ok().map(|(drilled, _)| &drilled.report);
    let outcome = Outcome {
        ended: report.map_or_else(|| session.clock.now(), |report| report.finished),
        passed: report.is_some_and(|report| report.passed),
        reached: report.and_then(|report| report.reached),
        highest: report.and_then(|report| report.highest),
        rto_seconds: report.and_then(|report| report.rto_seconds),
        rpo_seconds: report.and_then(|report| report.rpo_seconds),
        objectives,
    };
    let recorded = textfile.map_or(Ok(()), |textfile| textfile.record(&args.dataset, &outcome));
    let (drilled, error) = result?;
    let shown = session.out.result(&drilled);
    // What the drill found comes before what became of telling it.
    error.map_or(Ok(()), Err).and(recorded).and(shown)
}

/// The configuration of this machine, unless somebody drills with keys of his own.
fn own_config(session: &Session) -> Option<Config> {
    let is_own = session.globals.identities.is_empty() && !session.globals.given.is_named();
    is_own.then(|| session.configuration().ok()).flatten()
}

/// What is known before the vault is opened.
struct Plan {
    place: Place,
    settings: DrillConfig,
    objectives: Objectives,
    signer: Option<Signer>,
}

impl Plan {
    fn make(args: &Args, session: &Session) -> Result<Self> {
        let place = session.place()?;
        let dataset = place.config.as_ref().and_then(|config| config.dataset(&args.dataset));
        let mut settings = dataset.map_or_else(without_settings, |dataset| dataset.drill.clone());
        settings.level = args.level.or(settings.level);
        let objectives = dataset.map(|dataset| dataset.objectives).unwrap_or_default();
        let signer = place.config.as_ref().map(access::drill_signer).transpose()?.flatten();
        Ok(Self { place, settings, objectives, signer })
    }

    /// The drill's own failure is the error beside the report; an `Err` means that there is no
    /// report.
    async fn run(&self, args: &Args, session: &Session) -> Result<(Drilled, Option<Error>)> {
        let worker = match &args.worker_socket {
            Some(socket) => &WorkerPlace::Socket(socket.clone()),
            None => &session.worker,
        };
        session.tell_what_guards_the_keys(worker, "as root, or by lifeboat-worker.socket, another user does it");
        let reader = session.reader_for(&args.dataset, &self.place, Need::Packs).await?;
        // What is recorded is what is drilled.
        let selector = args.selection.selector(session.clock.now());
        let event = |unrecorded| LogEvent::Drill {
            dataset: args.dataset.clone(),
            snapshot: recording::wanted(&selector),
            user: recording::user(),
            unrecorded,
        };
        args.recording.record(session, &self.place, &reader, Shorter::Refuse, event).await?;
        let scratch = session.scratch()?;
        let drill = Drill {
            environment: &session.tools,
            worker,
            reader: &reader,
            dataset: &args.dataset,
            selector,
            settings: &self.settings,
            objectives: self.objectives,
            jobs: self.place.limits.cpu,
            scratch: scratch.path().to_owned(),
            clock: session.clock.clone(),
            cancel: session.cancel.clone(),
        };
        let (report, error) = drill.run().await;
        let mut drilled = Drilled { report, published: None, file: None };
        match self.keep(args, session, &reader, &mut drilled).await {
            Ok(()) => Ok((drilled, error)),
            // The drill's own failure matters more.
            Err(lost) => {
                session.out.warning(format!("the report could not be kept: {}", lost.chain()));
                Ok((drilled, error.or(Some(lost))))
            }
        }
    }

    /// In the vault if it can be signed and written there, in a file if that was asked for or
    /// nothing else is left.
    async fn keep(&self, args: &Args, session: &Session, reader: &VaultReader, drilled: &mut Drilled) -> Result<()> {
        let cancelled = session.cancel.is_cancelled();
        // A signer comes from the configuration, which also tells who this host is.
        let principal = self.place.config.as_ref().map(|config| &config.host);
        let signed = self.signer.as_ref().zip(principal).filter(|_| !args.no_publish && !cancelled);
        if let Some((signer, principal)) = signed {
            let publish = flow::publish(reader, &drilled.report, principal, signer);
            let published = session.cancellable("publishing", publish).await?;
            drilled.published = Some(published);
        }
        let in_vault = drilled.published.as_ref().is_some_and(|published| !published.replicas.is_empty());
        if let Some(file) = &args.report {
            let file =
                std::path::absolute(file).context(Class::Storage, || "cannot make the path of --report absolute")?;
            write_report(&file, &drilled.report, self.signer.as_ref())?;
            drilled.file = Some(file);
        } else if let Some(config) = self.place.config.as_ref().filter(|_| !in_vault) {
            let file = local_file(config, &drilled.report);
            match write_report(&file, &drilled.report, self.signer.as_ref()) {
                Ok(()) => drilled.file = Some(file),
                // Nobody asked for this file, so its loss does not make the drill fail.
                Err(error) => session.out.warning(format!("the report could not be kept: {}", error.chain())),
            }
        }
        Ok(())
    }
}

/// Where a dataset has no settings here, as on a drill host: as far as its kind of source goes, and
/// the operator has no queries.
fn without_settings() -> DrillConfig {
    DrillConfig { level: None, queries: Vec::new(), server_directories: Vec::new() }
}

fn local_file(config: &Config, report: &DrillReport) -> PathBuf {
    config.state_directory.join("drills").join(report.dataset.as_str()).join(format!("{}.json", report.drill))
}

/// The report for people, its signature beside it. It is no object of a vault: the trusted comment
/// names none.
fn write_report(file: &Path, report: &DrillReport, signer: Option<&Signer>) -> Result<()> {
    let json = serde_json::to_vec_pretty(report).map_err(|error| Error::failed("cannot write JSON").because(error))?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).context(Class::Storage, || format!("cannot create {}", folder.display()))?;
    }
    if let Some(signer) = signer {
        let comment = format!("lifeboat {} drill report {}/{}", report.vault, report.dataset, report.drill);
        let mut signature = file.as_os_str().to_owned();
        signature.push(".minisig");
        replace_file(Path::new(&signature), signer.sign(&json, &comment)?.as_bytes())?;
    }
    replace_file(file, &json)
}
