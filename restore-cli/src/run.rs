//! One invocation: read the surroundings, parse, obey signals, run the command, turn its error into
//! an exit code.
//!
//! SIGINT and SIGTERM cancel: the command stops what it started (throw-away servers too) and
//! returns. A second signal ends the process at once. Blocking reads of the terminal do not hold up
//! the end.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use lifeboat_engine::base::escape::{Events, LogWriter};
use lifeboat_engine::base::memory;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::Surroundings;
use lifeboat_engine::databases::registry;
use lifeboat_engine::worker::WorkerPlace;
use lifeboat_engine::{Class, Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{self, Cli, Command};
use crate::commands;
use crate::exit;
use crate::flags::Globals;
use crate::output::Output;
use crate::session::Session;

/// Runs the command line `arguments`, program name first.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let cli = match cli::parse(arguments.clone()) {
        Ok(cli) => cli,
        Err(error) => return explain(&error, Output::new(json, false)),
    };
    let out = Output::new(cli.globals.json, cli.globals.quiet);
    start_log(&cli.globals);
    match memory::keep_private().and_then(|()| execute(cli, arguments, out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out.error(&error);
            ExitCode::from(error.class().exit_code())
        }
    }
}

/// Help, version, or what is wrong with the command line.
fn explain(error: &clap::Error, out: Output) -> ExitCode {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return match out.bytes(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => ExitCode::from(error.class().exit_code()),
            };
        }
        _ if out.is_json() => {
            let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            out.error(&Error::usage(what).hint("run `lifeboat --help` to see the commands and their flags"));
        }
        _ => out.plain_error(&text),
    }
    ExitCode::from(Class::Usage.exit_code())
}

fn execute(cli: Cli, arguments: Vec<OsString>, out: Output) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("cannot start").because(error))?;
    let me = std::env::current_exe().map_err(|error| {
        Error::failed("cannot tell where this program is, and so where its worker is").because(error)
    })?;
    let session = Session {
        globals: cli.globals,
        out,
        clock: SystemClock::shared(),
        cancel: CancellationToken::new(),
        surroundings: Surroundings { credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into) },
        tools: registry::tool_environment(|name| std::env::var_os(name)),
        worker: WorkerPlace::beside(&me),
        variable: |name| std::env::var_os(name),
        program: me,
        arguments,
        temporary: std::env::temp_dir(),
    };
    let result = runtime.block_on(async {
        obey_signals(&session)?;
        dispatch(cli.command, &session).await
    });
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

async fn dispatch(command: Command, session: &Session) -> Result<()> {
    match command {
        Command::Status(args) => commands::status::run(&args, session).await,
        Command::List(args) => commands::list::run(&args, session).await,
        Command::Show(args) => commands::show::run(&args, session).await,
        Command::Restore(args) => commands::restore::run(&args, session).await,
        Command::Verify(args) => commands::verify::run(&args, session).await,
        Command::Drill(args) => commands::drill::run(&args, session).await,
        Command::Diff(args) => commands::diff::run(&args, session).await,
        Command::Bisect(args) => commands::bisect::run(&args, session).await,
        Command::Drills(args) => commands::drills::run(&args, session).await,
        Command::Report(args) => commands::report::run(&args, session).await,
        Command::Prune(args) => commands::prune::run(&args, session).await,
        Command::RemoveDataset(args) => commands::remove_dataset::run(&args, session).await,
        Command::Repair(args) => commands::repair::run(&args, session).await,
        Command::Undelete(args) => commands::undelete::run(&args, session).await,
        Command::Init(args) => commands::init::run(&args, session).await,
        Command::Setup(args) => commands::setup::run(&args, session).await,
        Command::Owner(args) => commands::owner::run(&args, session).await,
        Command::Root(args) => commands::root::run(&args, session).await,
        Command::Audit(args) => commands::audit::run(&args, session).await,
        Command::Veto(args) => commands::veto::run(&args, session).await,
        Command::Witness(args) => commands::witness::run(&args, session).await,
        Command::Check(args) => commands::check::run(&args, session).await,
        Command::Kit(args) => commands::kit::run(&args, session).await,
        Command::Runs(args) => commands::runs::run(&args, session).await,
        Command::Trigger(args) => commands::trigger::run(&args, session).await,
        Command::Cancel(args) => commands::cancel::run(&args, session).await,
        Command::Pause(args) => commands::pause::run(&args, session).await,
        Command::Resume(args) => commands::pause::resume(&args, session).await,
        Command::Acknowledge(args) => commands::acknowledge::run(&args, session).await,
        Command::Takeover(args) => commands::takeover::run(&args, session).await,
        Command::Completions(args) => commands::completions::run(&args, session, cli::command()),
        Command::Man(args) => commands::man::run(&args, session, cli::command()),
    }
}

fn obey_signals(session: &Session) -> Result<()> {
    let listen = |kind| signal(kind).map_err(|error| Error::failed("cannot listen for signals").because(error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    // A terminal that is gone ends the program as SIGTERM does, unless `nohup` says otherwise.
    let mut hangup = if hangup_is_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
    let (cancel, out) = (session.cancel.clone(), session.out);
    tokio::spawn(async move {
        let gone = async {
            match &mut hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = gone => {} }
        out.note("stopping; a second signal ends the program at once and may leave temporary files behind");
        cancel.cancel();
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        std::process::exit(exit::INTERRUPTED.into());
    });
    Ok(())
}

/// Whether whoever started the program had it ignore SIGHUP.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Of the mask, the lowest bit is SIGHUP's.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

fn start_log(globals: &Globals) {
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    // Other crates' details are not the operator's concern, and may hold more than they should.
    let ours = format!("{},lifeboat={level}", level.min(LevelFilter::WARN));
    let events = if globals.json { Events::Json } else { Events::Text };
    let builder = tracing_subscriber::fmt()
        .with_writer(move || LogWriter::new(std::io::stderr(), events))
        .with_ansi(false)
        .with_env_filter(tracing_subscriber::EnvFilter::new(ours));
    if globals.json {
        builder.json().init();
    } else {
        builder.with_target(false).without_time().compact().init();
    }
}
