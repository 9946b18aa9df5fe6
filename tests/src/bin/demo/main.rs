//! The demonstration, in chapters: each tells a story of a company that loses something, and ends
//! with what was proved. Everything is real: PostgreSQL, MariaDB, Redis, SQLite and a tree of
//! files, two S3 servers with TLS, and the two programs, run as an operator runs them, on three
//! "machines" that share no file: backup host, drill host, and the owner's safe.
//!
//! Its one argument is a chapter, by default the first of [`CHAPTERS`]. Exits 0 only if what the
//! chapter promises is proved. Cleans up on failure, SIGINT and SIGTERM too.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod company;
mod evidence;
mod hosts;
mod region_loss;
mod stage;
mod stock_tools;
mod table_back;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use lifeboat_tests::programs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The dataset of the shop, and the database it holds.
const DATASET: &str = "shop";
const NORTH: &str = "eu-north-1";
const SOUTH: &str = "eu-south-2";
/// What is told, and what of.
const CHAPTERS: [(&str, &str); 3] = [
    ("region-loss", "lose a region, restore a company from the other, prove it equal"),
    ("table-back", "a table was emptied: find out when, and put it back into the shop that runs"),
    ("stock-tools", "recover without Lifeboat, with age, zstd, minisign and a copy of a bucket"),
];
/// After a signal, for the running program to clean up.
const WIND_DOWN: Duration = Duration::from_secs(45);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_else(|| CHAPTERS[0].0.to_owned());
    let Some((chapter, promise)) = CHAPTERS.into_iter().find(|(name, _)| *name == wanted) else {
        eprintln!("There is no chapter {wanted:?}. Run `make demo CHAPTER=…` with one of these:");
        CHAPTERS.iter().for_each(|(name, promise)| eprintln!("  {name:<12} {promise}"));
        return ExitCode::from(2);
    };
    let stop = CancellationToken::new();
    let story = tell(chapter, promise, &stop);
    tokio::pin!(story);
    let outcome = tokio::select! {
        outcome = &mut story => outcome,
        interrupted = interruption() => {
            stop.cancel();
            eprintln!("\nStopping, and cleaning up.");
            // The story notices between steps, and a running program is told by SIGTERM; dropping
            // it ends the servers.
            let _ = tokio::time::timeout(WIND_DOWN, &mut story).await;
            interrupted.and(Err("interrupted".into()))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nNOT PROVED: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn interruption() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
        _ = terminate.recv() => Ok(()),
    }
}

/// Announces `what`, does it, says how long it took.
async fn step<T>(stop: &CancellationToken, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    if stop.is_cancelled() {
        return Err("interrupted".into());
    }
    print!("{what:<90}");
    std::io::stdout().flush()?;
    let begun = Instant::now();
    let outcome = work.await;
    println!("{:>6.1} s{}", begun.elapsed().as_secs_f64(), if outcome.is_ok() { "" } else { "  FAILED" });
    outcome
}

async fn tell(chapter: &str, promise: &str, stop: &CancellationToken) -> Result<()> {
    println!("Lifeboat: {promise}.");
    println!("All servers are real and thrown away.\n");
    programs::directory();
    match chapter {
        "table-back" => table_back::tell(stop).await,
        "stock-tools" => stock_tools::tell(stop).await,
        _ => region_loss::tell(stop).await,
    }
}
