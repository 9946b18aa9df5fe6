//! From the command line to an exit code: reads arguments and environment, prints results and errors.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one module that prints")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::error::{Class, Context};
use lifeboat_engine::flow::backup::BackupReport;
use lifeboat_engine::id::Name;
use lifeboat_engine::{Error, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command};
use crate::control::{self, Request};
use crate::installation::Installation;
use crate::{daemon, logging, once};

pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show(&error, cli.json);
            ExitCode::from(error.class().exit_code())
        }
    }
}

fn start(cli: &Cli) -> Result<()> {
    let by_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let surroundings =
        Surroundings { credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) };
    if cli.check_config {
        return check(cli, &surroundings);
    }
    logging::start(cli.log, &cli.log_level, by_systemd)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context(Class::Failed, || "cannot start the runtime")?;
    let result = runtime.block_on(async {
        match (&cli.command, &cli.once) {
            (Some(command), _) => ask(cli, command, &surroundings).await,
            (None, Some(datasets)) => run_once(cli, datasets, &surroundings).await,
            (None, None) => daemon::run(cli.config.clone(), surroundings, SystemClock::shared()).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}

fn check(cli: &Cli, surroundings: &Surroundings) -> Result<()> {
    let config = Config::load(&cli.config, surroundings)?;
    let (replicas, datasets) = (config.replicas.len(), config.datasets.len());
    if cli.json {
        println!("{}", json!({ "ok": true, "replicas": replicas, "datasets": datasets }));
    } else {
        println!("{}: ok, {replicas} replicas, {datasets} datasets", cli.config.display());
    }
    Ok(())
}

async fn ask(cli: &Cli, command: &Command, surroundings: &Surroundings) -> Result<()> {
    let config = Config::load(&cli.config, surroundings)?;
    let request = match command {
        Command::Trigger { dataset } => Request::Trigger { dataset: dataset.clone() },
        Command::Status => Request::Status,
    };
    let answer = control::ask(&config.control_socket, &request).await?;
    let text = if cli.json { answer.to_string() } else { format!("{answer:#}") };
    println!("{text}");
    Ok(())
}

async fn run_once(cli: &Cli, datasets: &[Name], surroundings: &Surroundings) -> Result<()> {
    let installation = Installation::open(&cli.config, surroundings, SystemClock::shared()).await?;
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    let mut terminate = signal(SignalKind::terminate()).context(Class::Failed, || "cannot listen for signals")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        token.cancel();
    });
    let several = datasets.len() != 1;
    once::once(&installation, datasets, &cancel, |dataset, result| match result {
        Ok(report) if cli.json => println!("{}", json!(report)),
        Ok(report) => println!("{}", sentence(report)),
        // The worst one is shown at the end; with several, each is.
        Err(error) if several => eprintln!("{dataset}: {}", error.chain()),
        Err(_) => {}
    })
    .await
}

fn sentence(report: &BackupReport) -> String {
    const MIB: f64 = (1 << 20) as f64;
    let complete = report.replicas.iter().filter(|replica| replica.complete).count();
    let behind: Vec<String> = report
        .replicas
        .iter()
        .filter_map(|replica| Some(format!("; {} is behind: {}", replica.replica, replica.error.as_ref()?)))
        .collect();
    format!(
        "{}: snapshot {}: {:.1} MiB, {:.1} MiB known before, {:.1} MiB stored in each of {complete} replicas, {:.1} s{}",
        report.dataset,
        report.snapshot,
        report.raw_bytes as f64 / MIB,
        report.deduplicated_bytes as f64 / MIB,
        report.stored_bytes as f64 / MIB,
        report.duration_seconds,
        behind.concat()
    )
}

fn show(error: &Error, as_json: bool) {
    let (what, why) = (error.message(), error.chain());
    let why = why.strip_prefix(what).unwrap_or_default().trim_start_matches(": ");
    if as_json {
        let code = error.class().exit_code();
        let class = error.class().as_str();
        eprintln!(
            "{}",
            json!({ "error": { "class": class, "message": what, "why": why, "hint": error.hint_text(), "exit_code": code } })
        );
        return;
    }
    eprintln!("error: {what}");
    if !why.is_empty() {
        eprintln!("  why: {why}");
    }
    if let Some(hint) = error.hint_text() {
        eprintln!("  next: {hint}");
    }
}
