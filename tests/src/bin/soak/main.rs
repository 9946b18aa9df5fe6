//! `soak MINUTES [SEED]`: twelve datasets, each backed up every minute by the real daemon, while
//! its stores and the daemon itself are killed, hung, throttled, slowed, filled, stopped, starved
//! and told wrong times. Meanwhile their newest snapshots are restored.
//!
//! It fails if a restore gives wrong or old bytes, if a start shows nowhere, if a restore fails
//! without a hint or a cause, if the daemon takes more memory than it may, if not everything is
//! complete and verified once the troubles are over, if something is left behind, or if nothing was
//! tried.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod disturb;
mod finish;
mod peaks;
mod process;
mod restores;
mod sources;
mod troubles;
mod watch;
mod world;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use chrono::Utc;
use lifeboat_tests::programs;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::{getpid, set_child_subreaper};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::finish::Verdict;
use crate::restores::Restores;
use crate::sources::{DATASETS, Sources};
use crate::troubles::Troubles;
use crate::watch::Watch;
use crate::world::World;

/// `limits.clock_skew` of the host, in seconds.
pub(crate) const CLOCK_SKEW: u64 = 60;
/// `limits.memory` of the host, the least that there is.
pub(crate) const MEMORY_MIB: u64 = 128;

const USAGE: &str = "usage: soak MINUTES [SEED]";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    Utc::now().timestamp_micros() as f64 / 1e6
}

/// Prints what happens, after the seconds since the start.
pub(crate) fn say(what: &str) {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    println!("{:>7.1} s  {what}", BEGUN.get_or_init(Instant::now).elapsed().as_secs_f64());
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).map(|word| word.parse::<u64>());
    let (minutes, seed) = match (words.len(), number(0), number(1)) {
        (1, Some(Ok(minutes)), None) => (minutes, rand::random_range(1..1_000_000)),
        (2, Some(Ok(minutes)), Some(Ok(seed))) => (minutes, seed),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    let verdict = tokio::select! {
        verdict = soak(minutes, seed) => verdict,
        interrupted = interruption() => interrupted.and(Err("interrupted".into())),
    };
    match verdict {
        Ok(verdict) => {
            println!("{verdict}");
            if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("soak: FAILED with SEED={seed}: {error}");
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

async fn soak(minutes: u64, seed: u64) -> Result<Verdict> {
    say(&format!("soak of {minutes} minutes, SEED={seed}"));
    // Whatever outlives the daemon becomes a child of this process, and is seen at the end.
    set_child_subreaper(Some(getpid()))?;
    programs::directory();
    let mut world = World::start().await?;
    let (troubles, watch) = (Troubles::default(), Watch::default());
    let calm = CancellationToken::new();
    let chance = |stream: u64| {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        chance.set_stream(stream);
        chance
    };
    let (place, process, peaks) = (world.place.clone(), world.process.clone(), world.peaks.clone());
    let restores = Restores::new(&place, &world.sources, &troubles, &watch);
    let [north, south] = &mut world.regions;
    let story = async {
        say("the daemon starts");
        world.daemon.start().await?;
        let timer = async {
            tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
            say("the troubles end");
            calm.cancel();
            Result::Ok(())
        };
        let stores = async {
            tokio::join!(
                disturb::store(0, (north, &world.proxies[0]), chance(0), &troubles, &calm),
                disturb::store(1, (south, &world.proxies[1]), chance(1), &troubles, &calm),
            );
            Ok(())
        };
        tokio::try_join!(
            timer,
            stores,
            disturb::sources(&world.sources, chance(6), &troubles, &calm),
            disturb::directory(&place, chance(5), &troubles, &calm),
            disturb::daemon(&mut world.daemon, &place, chance(2), &troubles, &calm),
            restores.run(chance(3), &calm),
            change(&world.sources, chance(4), &calm),
        )?;
        finish::watch_a_start(&watch).await;
        finish::settle(&world.sources, &watch, &troubles, &mut world.daemon).await?;
        world.daemon.end().await?;
        finish::look(&restores, world.daemon.lives()).await
    };
    let verdict = tokio::select! {
        verdict = story => verdict,
        never = watch.run(place.address, &troubles, (&process, &peaks)) => match never {},
    };
    verdict.map(|verdict| verdict.with_seed(seed).with_peaks(&peaks))
}

/// Changes random sources until `calm`.
async fn change(sources: &Sources, mut chance: ChaCha8Rng, calm: &CancellationToken) -> Result<()> {
    while !calm.is_cancelled() {
        sources.change(chance.random_range(0..DATASETS.len())).await?;
        tokio::time::sleep(Duration::from_millis(chance.random_range(300..2500))).await;
    }
    Ok(())
}
