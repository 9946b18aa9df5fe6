//! The short form of fuzzing: every target with its seeds, and with thousands of inputs that are
//! nearly seeds. What `make fuzz` finds by coverage is looked for here by chance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use lifeboat_tests::corpus::{Seed, seeds};
use lifeboat_tests::fuzz::{Drive, TARGETS};
use lifeboat_tests::vectors::vectors;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Each seed is cut short at so many places, …
const CUTS: usize = 64;
/// … and changed so many times.
const CHANGES: usize = 2000;
/// A target is left after this time: on a slow machine fewer changes are tried.
const TARGET_TIME: Duration = Duration::from_millis(1500);
/// Changed bytes at once, at most.
const MAX_FLIPS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn targets_take_their_seeds_and_come_to_no_harm_by_what_is_nearly_one() {
    let seeds = seeds().await;
    let workers = TARGETS.map(|(target, drive)| {
        let seeds: Vec<Seed> = seeds.iter().filter(|seed| seed.target == target).map(copy).collect();
        tokio::task::spawn_blocking(move || exercise(target, drive, &seeds))
    });
    for worker in workers {
        if let Err(error) = worker.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

#[test]
fn targets_come_to_no_harm_by_the_test_vectors() {
    let vectors = vectors();
    for (target, drive) in TARGETS {
        for vector in vectors.iter().filter(|vector| vector.target == target) {
            run(target, drive, &vector.name, &vector.data);
        }
    }
}

fn copy(seed: &Seed) -> Seed {
    Seed { target: seed.target, name: seed.name.clone(), data: seed.data.clone() }
}

fn exercise(target: &str, drive: Drive, seeds: &[Seed]) {
    assert!(!seeds.is_empty(), "{target} has no seed");
    for seed in seeds {
        assert!(run(target, drive, &seed.name, &seed.data), "{target} does not take {}", seed.name);
    }
    let (began, mut tried) = (Instant::now(), 0);
    let mut changes = ChaCha8Rng::seed_from_u64(1);
    for number in 0..CUTS + CHANGES {
        for seed in seeds {
            let data = match number {
                cut if cut < CUTS => seed.data[..seed.data.len() * cut / CUTS].to_vec(),
                _ => changed(&seed.data, &mut changes),
            };
            run(target, drive, &seed.name, &data);
            tried += 1;
            if began.elapsed() > TARGET_TIME && tried > CUTS {
                return;
            }
        }
    }
}

/// A panic tells which input it was.
fn run(target: &str, drive: Drive, seed: &str, data: &[u8]) -> bool {
    match catch_unwind(AssertUnwindSafe(|| drive(data))) {
        Ok(taken) => taken,
        Err(_) => panic!("{target} fails on what was made of {seed}: {}", BASE64.encode(data)),
    }
}

/// Some bytes are others, a range stands twice, or two ranges have changed places.
fn changed(seed: &[u8], random: &mut impl Rng) -> Vec<u8> {
    let mut data = seed.to_vec();
    let length = data.len().max(1);
    let (at, size) = (random.random_range(0..length), random.random_range(1..=64_usize));
    let end = (at + size).min(data.len());
    match random.random_range(0..4) {
        0 => {
            let range = data[at.min(end)..end].to_vec();
            let to = random.random_range(0..length);
            data.splice(to..to, range);
        }
        1 => {
            let to = random.random_range(0..length);
            (0..size).filter(|n| at + n < length && to + n < length).for_each(|n| data.swap(at + n, to + n));
        }
        _ => {
            for _ in 0..random.random_range(1..=MAX_FLIPS) {
                if let Some(byte) = data.get_mut(random.random_range(0..length)) {
                    *byte ^= 1 << random.random_range(0..8_u32);
                }
            }
        }
    }
    data
}
