//! Padding: the sizes of objects tell little of what changed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lifeboat_engine::format::layout;
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::vault::{MemorySource, TestVault, files_below, noise};

const STEP_BYTES: usize = 64 << 10;
const MAX_STEPPED_BYTES: usize = 2 << 20;
const ROWS: usize = 30_000;
const PAIRS: usize = 10;

/// The length that a plaintext of at least `length` bytes has, as FORMAT.md says it.
fn padded(length: usize) -> usize {
    if length <= MAX_STEPPED_BYTES {
        return length.div_ceil(STEP_BYTES) * STEP_BYTES;
    }
    let floor_of_log = |number: usize| (usize::BITS - 1 - number.leading_zeros()) as usize;
    let e = floor_of_log(length);
    let s = floor_of_log(e) + 1;
    let multiple = 1 << (e - s);
    length.div_ceil(multiple) * multiple
}

fn row(n: usize, version: usize) -> String {
    let mixed = (n * 1_000_003 + version * 7_777_777).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!("{n}\tcustomer {}\t{mixed:016x}\tstreet {}\t{:016x}\t{version}\n", mixed % 9973, mixed % 577, mixed >> 7)
}

/// The packs, segments and manifests in the first replica.
fn padded_objects(hand: &Hand) -> BTreeSet<PathBuf> {
    let dataset = &hand.dataset;
    let folders = [layout::packs(dataset), layout::indexes(dataset), layout::snapshots(dataset)];
    let files = folders.iter().flat_map(|folder| files_below(&hand.replicas[0].join(folder)));
    files.filter(|file| file.extension().is_none_or(|end| end != "minisig")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_plaintext_has_a_padded_length() {
    let vault = TestVault::new(1, 1).await;
    let rows = |version: usize| -> Vec<u8> {
        (0..ROWS).flat_map(|n| row(n, if n % 90 == 0 { version } else { 0 }).into_bytes()).collect()
    };
    // Packs that are nearly empty, of some MiB, and full.
    for (version, size) in [(0, 1), (1, 3_000_000), (2, 40_000_000), (3, 40_700_001), (4, 0)] {
        let source = MemorySource {
            streams: vec![
                ("rows".to_owned(), rows(version)),
                ("noise".to_owned(), noise(size, 1)),
                ("one more".to_owned(), noise(100_000 * version, 2 + version as u64)),
            ],
            ..MemorySource::default()
        };
        vault.backup(&source).await.unwrap();
    }
    let hand = Hand::of(&vault.config, &vault.master);
    let (mut small, mut large) = (0, 0);
    for file in padded_objects(&hand) {
        let length = hand.open(&std::fs::read(&file).unwrap()).len();
        assert_eq!(length, padded(length), "{}", file.display());
        assert!(length > MAX_STEPPED_BYTES || length.is_multiple_of(64 << 10), "{}: {length}", file.display());
        *if length > MAX_STEPPED_BYTES { &mut large } else { &mut small } += 1;
    }
    assert!(small > 7 && large > 2, "{small} small and {large} large objects");
}

/// The length of an age file behind its header. The header has a stanza of random length, which
/// tells nothing.
fn payload(object: &[u8]) -> usize {
    let mac = object.windows(5).position(|bytes| bytes == b"\n--- ").expect("an age header") + 1;
    let line = object[mac..].iter().position(|byte| *byte == b'\n').expect("the end of the header");
    object.len() - mac - line - 1
}

/// How long the objects are that a backup of these rows adds: by kind, and without their ids.
async fn added(vault: &TestVault, hand: &Hand, rows: &[String]) -> Vec<(String, usize)> {
    let before = padded_objects(hand);
    vault.backup(&MemorySource::of(rows.concat())).await.unwrap();
    let kind = |file: &PathBuf| {
        let key = file.strip_prefix(&hand.replicas[0]).unwrap().to_str().unwrap();
        key.split('/').nth(2).unwrap().to_owned()
    };
    let new = padded_objects(hand).into_iter().filter(|file| !before.contains(file));
    let mut sizes: Vec<_> = new.map(|file| (kind(&file), payload(&std::fs::read(&file).unwrap()))).collect();
    sizes.sort();
    sizes
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_row_and_a_hundred_look_alike() {
    let vault = TestVault::new(1, 1).await;
    let hand = Hand::of(&vault.config, &vault.master);
    let mut rows: Vec<String> = (0..ROWS).map(|n| row(n, 0)).collect();
    added(&vault, &hand, &rows).await;
    let (mut alike, mut all) = (0, Vec::new());
    for pair in 1..=PAIRS {
        let one = pair * 2_797 % ROWS;
        rows[one] = row(one, pair);
        let of_one = added(&vault, &hand, &rows).await;
        (0..100).map(|n| (n * 299 + pair * 31) % ROWS).for_each(|n| rows[n] = row(n, 100 + pair));
        let of_hundred = added(&vault, &hand, &rows).await;
        assert!(of_one.iter().any(|(kind, _)| kind == "packs"), "{of_one:?}");
        alike += usize::from(of_one == of_hundred);
        all.push((of_one, of_hundred));
    }
    assert!(alike * 2 > PAIRS, "{alike} of {PAIRS} pairs are alike: {all:?}");
}
