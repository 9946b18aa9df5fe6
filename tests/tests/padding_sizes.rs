//! What a bucket's owner sees of a run, the names, number and sizes of its objects, does not tell
//! him whether one row was changed or a hundred.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use lifeboat_tests::vault::{MemorySource, TestVault, files_below};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const RUNS: usize = 100;
const ROWS: usize = 25_000;
/// `age` puts a stanza of random length, at most some hundred bytes, into each header. A threshold
/// that is chosen in hindsight would fit this noise, and padding comes in steps of 64 KiB.
const NOISE_BYTES: u64 = 1024;

/// A row of orders as a dump shows it, of 100 to 200 bytes.
fn row(n: usize, random: &mut ChaCha8Rng) -> String {
    let words = ["express", "standard", "pickup", "returned", "gift", "fragile", "insured", "priority"];
    let mut word = || words[random.random_range(0..words.len())];
    let note = format!("{} {} {}", word(), word(), word());
    format!(
        "{n}\t2026-11-{:02} {:02}:{:02}:{:02}.{:06}+00\tcustomer-{:06}\t{}\t{:016x}\t{}.{:02}\tEUR\t{note}\n",
        random.random_range(1..29),
        random.random_range(0..24),
        random.random_range(0..60),
        random.random_range(0..60),
        random.random_range(0..1_000_000),
        random.random_range(0..50_000),
        ["open", "paid", "sent"][random.random_range(0..3)],
        random.random::<u64>(),
        random.random_range(1..5000),
        random.random_range(0..100),
    )
}

/// Names and sizes of what a replica holds.
fn objects(vault: &TestVault) -> BTreeMap<PathBuf, u64> {
    let root = vault.replica_path(1);
    let size = |file: &PathBuf| file.metadata().unwrap().len() / NOISE_BYTES * NOISE_BYTES;
    files_below(&root).into_iter().map(|file| (file.clone(), size(&file))).collect()
}

/// What a run shows, as numbers to tell runs apart by.
fn features(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> Vec<(&'static str, u64)> {
    let new: Vec<(&str, u64)> = after
        .iter()
        .filter(|(key, size)| before.get(*key) != Some(size))
        .map(|(key, size)| (key.to_str().unwrap(), *size))
        .collect();
    let of =
        |kind: &str| -> Vec<u64> { new.iter().filter(|(key, _)| key.contains(kind)).map(|(_, size)| *size).collect() };
    let (packs, manifests, segments) = (of("/packs/"), of("/snapshots/"), of("/index/"));
    vec![
        ("objects", new.len() as u64),
        ("bytes", new.iter().map(|(_, size)| size).sum()),
        ("packs", packs.len() as u64),
        ("bytes of packs", packs.iter().sum()),
        ("largest pack", packs.iter().copied().max().unwrap_or_default()),
        ("smallest pack", packs.iter().copied().min().unwrap_or_default()),
        ("bytes of the manifest", manifests.iter().sum()),
        ("bytes of the index segment", segments.iter().sum()),
    ]
}

/// How many of the runs the best threshold tells right, even one that is chosen in hindsight.
fn best_threshold(values: &[(u64, bool)]) -> usize {
    let right = |threshold: u64| values.iter().filter(|(value, many)| (*value >= threshold) == *many).count();
    let thresholds = values.iter().map(|(value, _)| *value).chain([0, u64::MAX]);
    thresholds.map(right).map(|right| right.max(values.len() - right)).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_row_looks_like_a_hundred() {
    let vault = TestVault::new(1, 1).await;
    let mut random = ChaCha8Rng::seed_from_u64(20);
    let mut rows: Vec<String> = (0..ROWS).map(|n| row(n, &mut random)).collect();
    vault.backup(&MemorySource::of(rows.concat())).await.unwrap();
    // Half of the runs change a hundred rows, in an order that tells nothing.
    let mut many: Vec<bool> = (0..RUNS).map(|n| n % 2 == 0).collect();
    (1..RUNS).rev().for_each(|n| many.swap(n, random.random_range(0..=n)));
    let mut seen: BTreeMap<&str, Vec<(u64, bool)>> = BTreeMap::new();
    let mut before = objects(&vault);
    for many in many {
        for _ in 0..if many { 100 } else { 1 } {
            let n = random.random_range(0..ROWS);
            rows[n] = row(n, &mut random);
        }
        vault.backup(&MemorySource::of(rows.concat())).await.unwrap();
        let after = objects(&vault);
        for (name, value) in features(&before, &after) {
            seen.entry(name).or_default().push((value, many));
        }
        before = after;
    }
    for (name, values) in seen {
        let right = best_threshold(&values);
        assert!(right <= 60, "the {name} tell {right} of {RUNS} runs apart: {values:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_judge_of_this_test_tells_a_changed_row_from_a_new_table() {
    let vault = TestVault::new(1, 1).await;
    let mut random = ChaCha8Rng::seed_from_u64(21);
    let mut values = Vec::new();
    for many in [false, true, false, true, true, false] {
        let before = objects(&vault);
        let rows: Vec<String> = (0..if many { ROWS } else { 1 }).map(|n| row(n, &mut random)).collect();
        vault.backup(&MemorySource::of(rows.concat())).await.unwrap();
        let bytes = features(&before, &objects(&vault)).into_iter().find(|(name, _)| *name == "bytes").unwrap();
        values.push((bytes.1, many));
    }
    assert_eq!(best_threshold(&values), values.len());
}
