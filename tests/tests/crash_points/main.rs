//! The programs, killed at random requests to two real stores, in the middle of a backup, of a
//! prune that marks, of one that sweeps, of a catch-up and of a repair. Half of the vaults have a
//! third store that holds records alone.
//!
//! After each kill: verify finds nothing wrong, what was reported as committed comes back byte by
//! byte unless retention let it go and its grace period is over, and the next run exits with 0.
//! After the last kill and the grace periods, prune has left nothing that nobody needs.
//!
//! `LIFEBOAT_CRASHES` says how often programs are killed, and `LIFEBOAT_CRASH_SEED` at which
//! requests. A failure names the seed and the case, which begins anew with an empty vault. The
//! kills of a case can be repeated up to the order in which requests of one program arrive.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod case;
mod judge;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lifeboat_tests::s3::Region;
use lifeboat_tests::tally::Tally;
use tokio::task::JoinSet;

use self::case::{ACTIONS, Action, Case, Stores};
use self::judge::Found;

/// How often programs are killed if nothing else is asked for.
const DEFAULT_CRASHES: u64 = 60;
/// How often in one case, which is one vault. More would need more time than stores let a client be
/// ahead of them.
const CRASHES_PER_CASE: u64 = 15;
/// Cases run side by side.
const SIDE_BY_SIDE: usize = 3;

/// A number from the environment.
fn asked(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// What happened in all cases.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    found: Mutex<Found>,
    committed: AtomicU64,
    /// How often a program was killed, by what it did.
    crashes: Mutex<BTreeMap<String, u64>>,
}

impl Totals {
    pub(crate) fn add(&self, more: Found) {
        let mut found = self.found.lock().unwrap();
        found.lost.extend(more.lost);
        found.false_successes.extend(more.false_successes);
        found.orphans.extend(more.orphans);
    }

    pub(crate) fn add_committed(&self, more: u64) {
        self.committed.fetch_add(more, Ordering::SeqCst);
    }

    pub(crate) fn note_crash(&self, action: Action) {
        *self.crashes.lock().unwrap().entry(format!("{action:?}")).or_default() += 1;
    }
}

/// Takes case after case, until there are no more.
async fn work(stores: &Stores, seed: u64, crashes: u64, next: &AtomicU64, totals: &Totals) {
    loop {
        let number = next.fetch_add(1, Ordering::SeqCst);
        let before = number * CRASHES_PER_CASE;
        if before >= crashes {
            return;
        }
        let mut case = Case::begin(stores, seed, number, totals).await;
        case.run(CRASHES_PER_CASE.min(crashes - before)).await;
        case.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_killed_at_any_request_lose_nothing_and_leave_nothing() {
    let crashes = asked("LIFEBOAT_CRASHES").unwrap_or(DEFAULT_CRASHES);
    let seed = asked("LIFEBOAT_CRASH_SEED").unwrap_or(1);
    let mut tally = Tally::of("crash_points");
    let (north, south, records) =
        tokio::join!(Region::start("eu-north-1"), Region::start("eu-south-1"), Region::start("eu-west-1"));
    let stores = Arc::new(Stores { regions: [north, south], records });
    let (totals, next) = (Arc::new(Totals::default()), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..SIDE_BY_SIDE {
        let (stores, totals, next) = (stores.clone(), totals.clone(), next.clone());
        workers.spawn(async move { work(&stores, seed, crashes, &next, &totals).await });
    }
    // A panic of one of them is a panic here.
    workers.join_all().await;
    let (found, killed) = (totals.found.lock().unwrap(), totals.crashes.lock().unwrap());
    tally.crashes = killed.values().sum();
    tally.committed = totals.committed.load(Ordering::SeqCst);
    tally.lost = found.lost.len() as u64;
    tally.false_successes = found.false_successes.len() as u64;
    tally.orphans = found.orphans.len() as u64;
    assert!(found.lost.is_empty() && found.false_successes.is_empty() && found.orphans.is_empty(), "{found:#?}");
    assert_eq!(tally.crashes, crashes, "{killed:?}");
    assert!(tally.committed > 0, "nothing was committed");
    if crashes >= DEFAULT_CRASHES {
        assert_eq!(killed.len(), ACTIONS.len(), "not every kind of program was killed: {killed:?}");
    }
}
