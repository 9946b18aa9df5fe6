//! A model of what can happen to a dataset, in random order: two hosts that back up, crash, prune
//! and repair, whose clocks jump and whose leases are lost; two regions that are away, emptied,
//! rolled back or robbed; a place that holds records alone, or none; and hours that pass. A plain
//! reference says which snapshots must exist, with which bytes.
//!
//! After each step: what was reported as committed is whole in some region, unless something was
//! taken away from the regions; what is shown was committed; nothing is deleted but by a prune, and
//! only what retention lets go, what a mark named, and whose grace period is over; a prune that
//! refuses deletes nothing; it refuses while a snapshot that its host has seen is lost; and under a
//! clock that the regions contradict nothing is committed or deleted.
//!
//! `LIFEBOAT_MODEL_STEPS` says how many steps are taken, and `LIFEBOAT_MODEL_SEED` which. A failure
//! is shrunk and shows the steps that led to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod beginning;
mod reference;
mod region;
mod upkeep;
mod world;

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lifeboat_engine::format::layout;
use lifeboat_tests::tally::Tally;
use lifeboat_tests::vault::{DATASET, name};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use self::beginning::Beginning;
use self::reference::Content;
use self::world::World;

/// How many steps are taken if nothing else is asked for.
const DEFAULT_STEPS: u64 = 2000;
/// A case has at least so many.
const LEAST_STEPS: usize = 20;
const MOST_STEPS: usize = 60;
/// After a failure, shorter sequences are looked for as long as this.
const MAX_SHRINK_MILLISECONDS: u32 = 90_000;
/// Cases run side by side.
const THREADS: u64 = 2;

/// Objects of one kind that one region loses, as by a rule of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Signatures,
    Manifests,
    Acts,
    Indexes,
    Marks,
    PruneRecords,
    Keyring,
    Lease,
    Packs(u8),
}

impl Lost {
    /// Whether it is the object of this key.
    pub(crate) fn is(self, key: &str) -> bool {
        let dataset = name(DATASET);
        let in_snapshots = key.starts_with(&layout::snapshots(&dataset));
        match self {
            Self::Signatures => in_snapshots && layout::is_signature(key),
            Self::Manifests => in_snapshots && !layout::is_signature(key),
            Self::Acts => key.starts_with(&layout::order(&dataset)),
            Self::Indexes => key.starts_with(&layout::indexes(&dataset)),
            Self::Marks => key.starts_with(&layout::marks(&dataset)),
            Self::PruneRecords => key.starts_with(&layout::prunes(&dataset)),
            Self::Keyring => key.starts_with(&layout::keyring(&dataset)),
            Self::Lease => key == layout::lease(&dataset),
            // A sixteenth of them.
            Self::Packs(digit) => layout::parse_pack(&dataset, key).is_some_and(|pack| pack.0[0] % 16 == digit % 16),
        }
    }
}

/// One step. Hosts and regions are 0 and 1.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Backup {
        host: usize,
        content: Content,
    },
    Crash {
        host: usize,
        content: Content,
        call: u64,
        does_work: bool,
    },
    Prune {
        host: usize,
    },
    Sleep {
        hours: u8,
    },
    Verify,
    CatchUp {
        host: usize,
    },
    /// If `accepts`, the operator gives up what is missing then.
    Repair {
        host: usize,
        accepts: bool,
    },
    /// A look who leads, as a deputy takes it.
    Look {
        host: usize,
    },
    /// The host's clock is wrong by so many hours from now on; 0: it is right again.
    SetClock {
        host: usize,
        hours: i32,
    },
    Restore {
        which: prop::sample::Index,
    },
    Leave {
        region: usize,
    },
    Return,
    /// The place that holds records alone is away from now on, or back.
    Records {
        are_away: bool,
    },
    Remember {
        region: usize,
    },
    RollBack {
        region: usize,
    },
    /// Region 2 is both.
    Empty {
        region: usize,
        all: bool,
    },
    /// Region 2 is both.
    Lose {
        region: usize,
        what: Lost,
    },
    Forget {
        host: usize,
    },
}

impl Step {
    /// Whether it takes something away from a region.
    pub(crate) fn is_harm(self) -> bool {
        matches!(self, Self::RollBack { .. } | Self::Empty { .. } | Self::Lose { .. })
    }

    /// Whether it happens where nothing goes wrong.
    fn is_calm(self) -> bool {
        !self.is_harm() && !matches!(self, Self::Leave { .. } | Self::Records { are_away: true })
    }
}

/// One sequence of steps.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) min_replicas: usize,
    pub(crate) rows: bool,
    /// The regions tell the time, as stores do and directories do not.
    pub(crate) tells_time: bool,
    /// There is a place that holds records alone.
    pub(crate) has_records: bool,
    /// Nothing is taken away, and no region is away: then nothing may be refused.
    is_calm: bool,
    steps: Vec<Step>,
}

fn step() -> impl Strategy<Value = Step> {
    let one = || 0_usize..2;
    let content = || (0..Content::COUNT).prop_map(Content);
    let lost = prop_oneof![
        3 => Just(Lost::Signatures),
        2 => Just(Lost::Manifests),
        2 => Just(Lost::Acts),
        1 => Just(Lost::Indexes),
        1 => Just(Lost::Marks),
        1 => Just(Lost::PruneRecords),
        1 => Just(Lost::Keyring),
        1 => Just(Lost::Lease),
        3 => any::<u8>().prop_map(Lost::Packs),
    ];
    prop_oneof![
        30 => (one(), content()).prop_map(|(host, content)| Step::Backup { host, content }),
        8 => (one(), content(), 1_u64..50, any::<bool>())
            .prop_map(|(host, content, call, does_work)| Step::Crash { host, content, call, does_work }),
        20 => one().prop_map(|host| Step::Prune { host }),
        14 => (1_u8..12).prop_map(|hours| Step::Sleep { hours }),
        4 => Just(Step::Verify),
        8 => one().prop_map(|host| Step::CatchUp { host }),
        6 => (one(), any::<bool>()).prop_map(|(host, accepts)| Step::Repair { host, accepts }),
        3 => one().prop_map(|host| Step::Look { host }),
        2 => (one(), hours_wrong()).prop_map(|(host, hours)| Step::SetClock { host, hours }),
        3 => one().prop_map(|host| Step::SetClock { host, hours: 0 }),
        6 => any::<prop::sample::Index>().prop_map(|which| Step::Restore { which }),
        2 => one().prop_map(|region| Step::Leave { region }),
        3 => Just(Step::Return),
        1 => Just(Step::Records { are_away: true }),
        2 => Just(Step::Records { are_away: false }),
        3 => one().prop_map(|region| Step::Remember { region }),
        2 => one().prop_map(|region| Step::RollBack { region }),
        2 => (0_usize..3, any::<bool>()).prop_map(|(region, all)| Step::Empty { region, all }),
        4 => (0_usize..3, lost).prop_map(|(region, what)| Step::Lose { region, what }),
        1 => one().prop_map(|host| Step::Forget { host }),
    ]
}

/// By how much a clock is wrong: hours, a day of a wrong zone, or years.
fn hours_wrong() -> impl Strategy<Value = i32> {
    prop_oneof![Just(1), Just(-1), Just(-24), Just(11), Just(24 * 3650), Just(-24 * 300)]
}

fn case() -> impl Strategy<Value = Case> {
    let steps = prop::collection::vec(step(), LEAST_STEPS..=MOST_STEPS);
    let choices = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (1_usize..=2, choices, steps).prop_map(|(min_replicas, (rows, tells_time, has_records, is_calm), steps)| Case {
        min_replicas,
        rows,
        tells_time,
        has_records,
        is_calm,
        steps,
    })
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::SeqCst);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What happened in all cases.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) steps: Count,
    pub(crate) commits: Count,
    pub(crate) refused: Count,
    pub(crate) unknown: Count,
    pub(crate) crashes: Count,
    /// Prunes that had nothing to tell.
    pub(crate) prunes: Count,
    /// Prunes that refused, or left a replica alone.
    pub(crate) told: Count,
    pub(crate) marks: Count,
    /// Objects that prune deleted.
    pub(crate) deleted: Count,
    pub(crate) restores: Count,
    pub(crate) repairs: Count,
    /// Repairs in which an operator gave up what was missing, or settled branches.
    pub(crate) given_up: Count,
    /// Looks who leads.
    pub(crate) looks: Count,
    /// Runs that were refused because of the host's clock.
    pub(crate) wrong_clocks: Count,
}

/// Notes a failure: from then on, cases are shrunk, and none may be left out.
struct NotesFailure<'a>(&'a AtomicBool);

impl Drop for NotesFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// A number from the environment.
fn asked<T: FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

async fn try_case(beginning: &Beginning, case: &Case, totals: &Totals) {
    let mut world = World::new(beginning, case, totals).await;
    for step in case.steps.iter().filter(|step| !case.is_calm || step.is_calm()) {
        world.take(*step).await;
    }
    world.restore_all().await;
}

/// Tries cases until all together have taken so many steps.
fn try_cases(seed: u64, steps: u64, totals: &Totals) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let beginning = runtime.block_on(Beginning::new());
    let cases = u32::try_from(steps / LEAST_STEPS as u64 + 1).unwrap();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 1000,
        max_shrink_time: MAX_SHRINK_MILLISECONDS,
        ..ProptestConfig::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let has_failed = AtomicBool::new(false);
    let outcome = runner.run(&case(), |case| {
        if totals.steps.get() >= steps && !has_failed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let _notes = NotesFailure(&has_failed);
        runtime.block_on(try_case(&beginning, &case, totals));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("with LIFEBOAT_MODEL_SEED={seed}: {failure}");
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "one line for whoever runs it by hand")]
fn whatever_happens_nothing_committed_is_lost_and_nothing_lost_is_called_safe() {
    let steps = asked("LIFEBOAT_MODEL_STEPS").unwrap_or(DEFAULT_STEPS);
    let seed: u64 = asked("LIFEBOAT_MODEL_SEED").unwrap_or(1);
    let (totals, mut tally) = (Totals::default(), Tally::of("model"));
    std::thread::scope(|scope| {
        let totals = &totals;
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || try_cases(seed + thread, steps, totals))).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let counted = [
        ("steps", &totals.steps),
        ("snapshots committed", &totals.commits),
        ("refused", &totals.refused),
        ("unknown", &totals.unknown),
        ("crashes", &totals.crashes),
        ("prunes", &totals.prunes),
        ("prunes that told", &totals.told),
        ("marks", &totals.marks),
        ("objects deleted", &totals.deleted),
        ("restores", &totals.restores),
        ("repairs", &totals.repairs),
        ("losses given up", &totals.given_up),
        ("looks who leads", &totals.looks),
        ("wrong clocks", &totals.wrong_clocks),
    ];
    let told: Vec<String> = counted.iter().map(|(what, count)| format!("{} {what}", count.get())).collect();
    println!("model: {}, lost 0, false successes 0", told.join(", "));
    (tally.steps, tally.crashes, tally.committed) = (totals.steps.get(), totals.crashes.get(), totals.commits.get());
    assert!(totals.steps.get() >= steps);
    // These are rare.
    let may_be_none = |what: &str| matches!(what, "refused" | "unknown" | "losses given up");
    for (what, count) in counted.iter().filter(|(what, _)| !may_be_none(what)) {
        assert!(count.get() > 0, "no {what} in {} steps", totals.steps.get());
    }
}

/// What this model once judged wrong: the repair copies the record of a sweep into a replica that
/// was away, and what the sweep removed is still shown there until the next prune.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_a_sweep_may_come_before_it_is_carried_out_everywhere() {
    let backup = |content| Step::Backup { host: 0, content: Content(content) };
    let prune = Step::Prune { host: 0 };
    let steps = vec![
        backup(0),
        backup(1),
        backup(2),
        prune,
        Step::Sleep { hours: 5 },
        Step::Leave { region: 0 },
        prune,
        Step::Return,
        Step::Repair { host: 0, accepts: false },
        prune,
        Step::Verify,
    ];
    let case = Case { min_replicas: 2, rows: false, tells_time: false, has_records: false, is_calm: false, steps };
    let totals = Totals::default();
    try_case(&Beginning::new().await, &case, &totals).await;
    assert!(totals.deleted.get() > 0, "nothing was swept");
}
