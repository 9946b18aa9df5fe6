//! One invocation: read the surroundings, parse, do what is asked, turn its error into an exit
//! code.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use lifeboat_engine::backup::RunBudget;
use lifeboat_engine::base::escape;
use lifeboat_engine::base::memory;
use lifeboat_engine::base::{Class, Context, Error, Result};
use lifeboat_engine::clock::{SharedClock, SystemClock};
use lifeboat_engine::config::{Config, MAX_RUNS, Surroundings};
use lifeboat_engine::control::{ask, ask_and_tell};
use lifeboat_engine::databases::{ToolEnvironment, registry};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::state::StateDirectory;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command};
use crate::control::protocol::Request;
use crate::daemon::{Daemon, Origin};
use crate::installation::Installation;
use crate::log;
use crate::man;
use crate::once::OneRun;
use crate::runner::{Runner, one_prune};
use crate::status::Ledger;
use crate::tls::Certificates;
use crate::warden;

/// The threads that one run may need: `limits.cpu` compress, and each of as many streams has two.
const THREADS_OF_A_RUN: usize = 64;
/// For files, name look-ups and the work beside runs.
const THREADS_BESIDE: usize = 64;

/// Runs the command line `arguments`, program name first.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help on standard output, errors on standard error; where neither can be written
            // nothing can be said.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Class::Usage.exit_code() } else { 0 });
        }
    };
    let json = cli.json;
    match memory::keep_private().and_then(|()| execute(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error, json);
            ExitCode::from(error.class().exit_code())
        }
    }
}

fn execute(cli: Cli) -> Result<()> {
    if let Some(Command::Man { directory }) = &cli.command {
        return man::write(directory);
    }
    let surroundings =
        Surroundings { credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into) };
    let config = Config::load(&cli.config, &surroundings)?;
    if cli.mode.check_config {
        config.listen_tls.as_ref().map(Certificates::read).transpose()?;
        let (replicas, datasets) = (config.replicas.len(), config.datasets.len());
        let json =
            json!({ "ok": true, "replicas": replicas, "datasets": datasets, "warnings": config.warnings.as_slice() });
        return say(&if cli.json { json.to_string() } else { summary(&config) });
    }
    // Each run has threads that wait for work: if they took all, nothing else would go on.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_RUNS * THREADS_OF_A_RUN.max(4 * config.limits.cpu) + THREADS_BESIDE)
        .build()
        .context(Class::Failed, || "cannot start")?;
    let clock = SystemClock::shared();
    let result = runtime.block_on(async {
        match (cli.command, cli.mode.once) {
            (Some(_), Some(_)) => {
                Err(Error::usage("--once and a command exclude each other").hint("leave one of them out"))
            }
            (Some(Command::Warden { make_signer: true, .. }), None) => {
                let signer = warden::make_signer(&config)?;
                say(&if cli.json { json!({ "signer": signer }).to_string() } else { signer })
            }
            (Some(Command::Warden { begin_anew, .. }), None) => {
                log::start(cli.log, cli.log_level, under_journald())?;
                let looked = warden::look(&config, begin_anew.as_ref(), &clock, &cancelled_by_signals()?).await?;
                say(&if cli.json { to_json(&looked)? } else { warden::line(&looked) })?;
                warden::check(&looked)
            }
            (Some(command), None) => {
                let request = match command {
                    Command::Trigger { dataset } => Request::Trigger { dataset },
                    Command::Takeover { dataset } => Request::Takeover { dataset },
                    Command::Cancel { dataset } => Request::Cancel { dataset },
                    Command::Status | Command::Man { .. } | Command::Warden { .. } => Request::Status {},
                };
                let socket = &config.control_socket;
                let (report, summary) = match &request {
                    Request::Trigger { dataset } | Request::Takeover { dataset } => {
                        ask_and_tell(socket, &request, dataset, note).await?
                    }
                    _ => ask(socket, &request).await?,
                };
                say(&if cli.json { report.to_string() } else { summary })
            }
            (None, Some(datasets)) => {
                log::start(cli.log, cli.log_level, under_journald())?;
                once(config, datasets, cli.json, clock).await
            }
            (None, None) => {
                log::start(cli.log, cli.log_level, under_journald())?;
                Daemon::start(config, Origin { path: cli.config, surroundings, tools: tool_environment() }, clock)
                    .await?
                    .run()
                    .await
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// What client tools inherit of the environment.
fn tool_environment() -> ToolEnvironment {
    registry::tool_environment(|name| std::env::var_os(name))
}

/// Runs `datasets`, or all, one after the other, and the members of a group at once. The daemon may
/// be running.
async fn once(config: Config, datasets: Vec<Name>, json: bool, clock: SharedClock) -> Result<()> {
    let state = StateDirectory::open_for_writing(&config.state_directory)?;
    let installation = Installation::open(config, &clock).await?;
    let all = || installation.config.datasets.iter().map(|dataset| dataset.name.clone()).collect();
    let datasets: Vec<Name> = if datasets.is_empty() { all() } else { datasets };
    let all = OneRun::all(&datasets, &installation)?;
    if datasets.is_empty() {
        return Err(Error::configuration("the configuration has no dataset to back up")
            .hint("add a [[dataset]] to the configuration"));
    }
    let cancel = cancelled_by_signals()?;
    let known = all.iter().flat_map(OneRun::datasets);
    let (ledger, budget) = (Arc::new(Ledger::open(&state, known)), RunBudget::new(&installation.config.limits));
    let runner = Runner { ledger, state, clock, tools: tool_environment(), budget, prunes: one_prune() };
    let mut worst: Option<Error> = None;
    for one in &all {
        let (runs, no_moment) = one.run(&runner, &installation, &cancel).await;
        for (dataset, run) in runs {
            let partial = run.as_ref().ok().and_then(|report| report.backup.partial());
            match run {
                Ok(report) => {
                    say(&if json { to_json(&report)? } else { report.line() })?;
                    if runner.needs_catch_up(&report.backup)
                        && let Err(error) = runner.catch_up(&installation, &dataset, &cancel).await
                    {
                        tracing::warn!(%dataset, "replicas were not caught up: {}", error.chain_and_hint());
                    }
                    for error in partial.into_iter().chain(report.stopped()) {
                        worst = Some(worse(worst.take(), error, json));
                    }
                }
                Err(error) => {
                    if json {
                        say(&to_json(&failure(&dataset, &error))?)?;
                    }
                    worst = Some(worse(worst.take(), error, json));
                }
            }
        }
        if let Some(error) = no_moment {
            worst = Some(worse(worst.take(), error, json));
        }
        if cancel.is_cancelled() {
            break;
        }
    }
    worst.map_or(Ok(()), Err)
}

/// The worse of two failures, which is told at the end. The other one is told now.
fn worse(known: Option<Error>, error: Error, json: bool) -> Error {
    // A partial snapshot is better than none.
    let badness = |error: &Error| (error.class() != Class::Partial, error.class().exit_code());
    let (better, worse) = match known {
        Some(known) if badness(&known) >= badness(&error) => (Some(error), known),
        known => (known, error),
    };
    if let Some(error) = better {
        complain(&error, json);
    }
    worse
}

/// A failed run, as `--json` shows it.
fn failure(dataset: &Name, error: &Error) -> serde_json::Value {
    json!({
        "dataset": dataset,
        "error": error.chain(),
        "class": error.class().as_str(),
        "hint": error.hint_text(),
    })
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).context(Class::Failed, || "cannot write the report")
}

fn summary(config: &Config) -> String {
    let replicas = config.replicas.iter().map(|replica| format!("{} ({})", replica.name, replica.region));
    let datasets = config.datasets.iter().map(|dataset| match &dataset.schedule {
        Some(schedule) => format!("{} ({}, {})", dataset.name, schedule.expression(), schedule.time_zone()),
        None => format!("{} (not scheduled)", dataset.name),
    });
    let warnings = config.warnings.iter().map(|warning| format!("\n  warning: {warning}"));
    format!(
        "ok: host {}\n  replicas: {}; a snapshot needs {}\n  datasets: {}{}",
        config.host,
        replicas.collect::<Vec<_>>().join(", "),
        config.min_replicas,
        datasets.collect::<Vec<_>>().join(", "),
        warnings.collect::<String>(),
    )
}

fn cancelled_by_signals() -> Result<CancellationToken> {
    let listen = |kind| signal(kind).context(Class::Failed, || "cannot listen for signals");
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let cancel = CancellationToken::new();
    let fire = cancel.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        fire.cancel();
    });
    Ok(cancel)
}

fn under_journald() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

/// Whatever a terminal would obey is escaped, here and in [`complain`].
fn say(text: &str) -> Result<()> {
    let text = if text.starts_with('{') { escape::json(text) } else { escape::lines(text) };
    writeln!(std::io::stdout().lock(), "{text}").context(Class::Failed, || "cannot write to standard output")
}

/// What a person who waits is told beside the result.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "note: {}", escape::line(text));
}

/// What failed, every cause, what to do next.
fn complain(error: &Error, as_json: bool) {
    let first = std::error::Error::source(error);
    let causes: Vec<String> = std::iter::successors(first, |cause| cause.source()).map(ToString::to_string).collect();
    let text = if as_json {
        let document = json!({ "error": {
            "class": error.class().as_str(),
            "message": error.message(),
            "causes": causes,
            "hint": error.hint_text(),
            "exit_code": error.class().exit_code(),
        } });
        escape::json(&document.to_string()).into_owned()
    } else {
        // Other lines of a text are indented, so that none of them reads as a line of ours.
        let shown = |text: &str| escape::lines(text).replace('\n', "\n       ");
        let why = causes.iter().map(|cause| format!("\n  why: {}", shown(cause)));
        let next = error.hint_text().map(|hint| format!("\n  next: {}", shown(hint)));
        format!("error: {}{}", shown(error.message()), why.chain(next).collect::<String>())
    };
    // Where standard error is gone, the exit code still tells.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
