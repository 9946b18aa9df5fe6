//! The demonstration: a company's databases are backed up to two regions, one region is lost, the
//! other restores all of them, and drills prove the restored ones equal. Everything is real:
//! PostgreSQL, MariaDB, Redis, SQLite and a tree of files, two S3 servers with TLS, and the two
//! programs, run as an operator runs them, on three "machines" that share no file: backup host,
//! drill host, and the owner's safe.
//!
//! Exits 0 only if all is proved with one region dead; writes `target/demo/report.json` and
//! `target/demo/region-loss.html`. Cleans up on failure, SIGINT and SIGTERM too.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod company;
mod evidence;
mod hosts;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use company::Company;
use evidence::Evidence;
use hosts::{BackupHost, DrillHost, Owner};
use lifeboat_tests::programs;
use lifeboat_tests::s3::Region;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The dataset of the shop, and the database it holds.
const DATASET: &str = "shop";
const NORTH: &str = "eu-north-1";
const SOUTH: &str = "eu-south-2";
/// After a signal, for the running program to clean up.
const WIND_DOWN: Duration = Duration::from_secs(45);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    let stop = CancellationToken::new();
    let story = tell(&stop);
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

async fn tell(stop: &CancellationToken) -> Result<()> {
    let begun = Instant::now();
    println!("Lifeboat: lose a region, restore a company from the other, prove it equal.");
    println!("All servers are real and thrown away.\n");
    programs::directory();

    println!("The machines");
    let mut north =
        step(stop, "  region eu-north-1: an S3 server with TLS", async { Ok(Region::start(NORTH).await) }).await?;
    let south = step(stop, "  region eu-south-2: another", async { Ok(Region::start(SOUTH).await) }).await?;
    let company = step(stop, "  PostgreSQL, MariaDB and Redis servers in eu-north-1", Company::start()).await?;
    step(stop, "  a shop of some 200 MB, a forum, sessions, a wiki (SQLite), and uploads (files)", company.fill())
        .await?;

    println!("The keys");
    let owner =
        step(stop, "  lifeboat owner init: the owner's keys; they go into the safe", Owner::prepare(stop)).await?;
    let backup_host = BackupHost::prepare(&owner, &company, [&north, &south])?;
    let made = step(stop, "  lifeboat init: vault, keyring, host keys", backup_host.init(stop)).await?;
    step(stop, "  lifeboat owner sign, root install: who is trusted, signed by the owner", async {
        let request = made["request"].as_str().ok_or("init did not print a request")?;
        backup_host.install(&owner.sign(request, stop).await?, stop).await
    })
    .await?;
    let drill_host = DrillHost::prepare(&owner, &backup_host, &company, [&north, &south])?;
    step(stop, "  lifeboat check: both regions answer and keep what they promise", backup_host.check(stop)).await?;

    println!("The backups");
    step(stop, "  lifeboatd --once: the first backup, to both regions at once", backup_host.back_up(stop)).await?;
    let first = evidence::stored_bytes(&south, DATASET).await?;
    step(stop, "  a business day goes by in the shop", async {
        company.go_by().await;
        Ok(())
    })
    .await?;
    step(stop, "  lifeboatd --once: the second backup, what is known is not stored again", backup_host.back_up(stop))
        .await?;
    let second = evidence::stored_bytes(&south, DATASET).await? - first;

    let status = step(stop, "  lifeboat status: all at a glance", backup_host.status(stop)).await?;
    println!("    {}", evidence::lines(&status, 94).join("\n    "));

    println!("The disaster");
    step(stop, "  region eu-north-1 is killed, and all of the company's servers with it", async {
        north.kill();
        drop(company);
        Ok(())
    })
    .await?;

    println!("The proof");
    let drill = step(
        stop,
        "  lifeboat drill on a host with the drill identity alone: restore, check, dump, compare",
        drill_host.drill(stop),
    )
    .await?;

    let page = evidence::directory()?.join("region-loss.html");
    let loss = step(
        stop,
        "  lifeboat drill --region-loss eu-north-1: everything, from the region that is left",
        drill_host.rehearse(NORTH, &page, stop),
    )
    .await?;

    let evidence = Evidence { drill, loss, dead: NORTH, alive: SOUTH, first, second, total: begun.elapsed() };
    let file = evidence.write()?;
    println!(
        "\n{evidence}\nThe whole story took {:.0} s; the reports are {} and {}",
        begun.elapsed().as_secs_f64(),
        evidence::from_here(&file).display(),
        evidence::from_here(&page).display()
    );
    evidence.verdict()
}
