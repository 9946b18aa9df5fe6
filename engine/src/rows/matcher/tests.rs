#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_format::chunk_id::ChunkIdKey;
use proptest::prelude::*;

use super::*;
use crate::rows::units::{Fineness, UnitCutter};

/// Bytes cut into chunks as content tells, and remembered.
struct Stream {
    chunks: Vec<Vec<u8>>,
    sketches: Vec<Sketch>,
    resembling: HashMap<Element, u32>,
    /// Units of sketches that were asked for.
    opened: u64,
}

fn cutter() -> UnitCutter {
    UnitCutter::new(&ChunkIdKey::new(&[3; 32]).unwrap())
}

fn units(chunk: &[u8]) -> Vec<Unit> {
    let mut units = Vec::new();
    cutter().cut(chunk, Fineness::SomeLines, &mut units);
    units
}

/// About 200 units a chunk.
fn chunks(data: &[u8]) -> Vec<Vec<u8>> {
    let (mut chunks, mut begin, mut at, mut count) = (Vec::new(), 0, 0, 0);
    for unit in units(data) {
        (at, count) = (at + usize::from(unit.length), count + 1);
        if count == 400 || (count >= 100 && unit.hash.get() % 100 == 0) {
            chunks.push(data[begin..at].to_vec());
            (begin, count) = (at, 0);
        }
    }
    chunks.push(data[begin..].to_vec());
    chunks
}

impl Stream {
    fn new(data: &[u8]) -> Self {
        let chunks = chunks(data);
        let sketches = chunks.iter().map(|chunk| Sketch::of(&units(chunk))).collect();
        let resembling = chunks.iter().zip(0..).filter_map(|(chunk, n)| Some((smallest(&units(chunk))?, n))).collect();
        Self { chunks, sketches, resembling, opened: 0 }
    }
}

impl OlderUnits for Stream {
    fn sketch(&mut self, chunk: u32) -> Option<Sketch> {
        let sketch = self.sketches.get(chunk as usize)?.clone();
        self.opened += sketch.len() as u64;
        Some(sketch)
    }

    fn resembling(&mut self, smallest: Element) -> Option<u32> {
        self.resembling.get(&smallest).copied()
    }
}

struct Found {
    new: usize,
    runs: usize,
    work: u64,
}

/// Compares `new` with `old`, checks every run, and says what was not found.
fn compare(old: &[u8], new: &[u8]) -> Found {
    let (mut older, mut matcher) = (Stream::new(old), Matcher::default());
    let mut found = Found { new: 0, runs: 0, work: 0 };
    for chunk in chunks(new) {
        if let Some(whole) = older.chunks.iter().position(|old| *old == chunk) {
            matcher.follow(whole as u32);
            continue;
        }
        let (mut at, runs) = (0, matcher.find(&units(&chunk), &mut older));
        for run in &runs {
            let (begin, end) = (run.at as usize, (run.at + run.length) as usize);
            assert!(begin >= at, "runs overlap");
            let there = &older.chunks[run.chunk as usize][run.offset as usize..][..run.length as usize];
            assert!(chunk[begin..end] == *there, "a run is not what it seems");
            found.new += begin - at;
            at = end;
        }
        found.new += chunk.len() - at;
        found.runs += runs.len();
    }
    found.work = matcher.work() + older.opened;
    found
}

fn row(n: usize, version: usize) -> String {
    let mixed = (n * 1_000_003 + version * 7_777_777).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    format!("{n}\tcustomer {}\t{mixed}\tstreet {}\t{}\n", mixed % 9973, mixed % 577, version)
}

fn table(rows: usize) -> Vec<String> {
    (0..rows).map(|n| row(n, 0)).collect()
}

fn share(found: &Found, new: &[u8]) -> f64 {
    found.new as f64 / new.len() as f64
}

#[test]
fn rows_that_were_changed_all_over_cost_little_more_than_themselves() {
    // Which rows look like others by chance, and lose their group, differs from one table to the
    // next.
    const TABLES: usize = 8;
    for (one_in, most) in [(1000, 0.012), (100, 0.06), (30, 0.2)] {
        let shares = (0..TABLES).map(|table| {
            let old: Vec<String> = (0..30_000).map(|n| row(n, 2 * table)).collect();
            let mut new = old.clone();
            (0..old.len()).filter(|n| n * 7919 % one_in == 3).for_each(|n| new[n] = row(n, 2 * table + 1));
            let new = new.concat().into_bytes();
            share(&compare(old.concat().as_bytes(), &new), &new)
        });
        let mean = shares.sum::<f64>() / TABLES as f64;
        assert!(mean < most, "one row in {one_in}: {mean:.4} are new");
    }
}

#[test]
fn rows_that_are_deleted_inserted_or_moved_are_found_behind_them() {
    let old = table(30_000);
    let text = old.concat();
    let edited = |edit: &dyn Fn(&mut Vec<String>)| {
        let mut new = old.clone();
        edit(&mut new);
        new.concat().into_bytes()
    };
    let deleted = edited(&|rows| drop(rows.drain(4000..9000)));
    let scattered = edited(&|rows| {
        let mut n = 0;
        rows.retain(|_| {
            n += 1;
            n % 97 != 0
        });
    });
    let inserted = edited(&|rows| drop(rows.splice(7000..7000, (0..3000).map(|n| row(n, 5)))));
    let moved = edited(&|rows| {
        let block: Vec<String> = rows.drain(2000..10_000).collect();
        rows.extend(block);
    });
    for (name, new, most) in [
        ("deleted", &deleted, 0.02),
        ("deleted all over", &scattered, 0.06),
        ("inserted", &inserted, 0.11),
        ("moved", &moved, 0.02),
    ] {
        let found = compare(text.as_bytes(), new);
        assert!(share(&found, new) < most, "{name}: {:.4} are new", share(&found, new));
    }
}

#[test]
fn work_grows_with_the_data_and_no_faster() {
    let noise = |length: usize| {
        let mut data = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut data);
        data
    };
    let sorted = |n: usize| (0..n).map(|n| format!("{n:012}\n")).collect::<String>().into_bytes();
    let reversed = |n: usize| (0..n).rev().map(|n| format!("{n:012}\n")).collect::<String>().into_bytes();
    type Make<'a> = &'a dyn Fn(usize) -> (Vec<u8>, Vec<u8>);
    let cases: [(&str, Make); 6] = [
        ("all lines equal", &|n| (b"the same\n".repeat(n), b"the same\n".repeat(n + 7))),
        ("all lines equal, then others", &|n| {
            (b"the same\n".repeat(n), [b"the same\n".repeat(n / 2), b"another\n".repeat(n)].concat())
        }),
        ("no newline", &|n| (vec![b'x'; 20 * n], vec![b'x'; 20 * n + 1])),
        ("noise", &|n| (noise(20 * n), noise(20 * n + 1).split_off(1))),
        ("sorted and reversed", &|n| (sorted(n), reversed(n))),
        ("two lines in turn", &|n| (b"one\ntwo\n".repeat(n), b"two\none\none\n".repeat(n))),
    ];
    for (name, make) in cases {
        for n in [10_000, 100_000] {
            let (old, new) = make(n);
            let (work, units) = (compare(&old, &new).work, units(&old).len() + units(&new).len());
            assert!(work < 60 * units as u64, "{name}, {n}: {work} steps for {units} units");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_edited_runs_are_what_they_seem(
        rows in 0_usize..6000,
        kinds in 1_usize..6000,
        binary: bool,
        edits in prop::collection::vec((0.0..1.0, 0_usize..4, 0_usize..400), 0..40),
    ) {
        let mut old: Vec<String> = (0..rows).map(|n| row(n % kinds, 0)).collect();
        let text = |rows: &[String]| -> Vec<u8> {
            let bytes = rows.concat().into_bytes();
            if binary { bytes.into_iter().map(|byte| byte.wrapping_mul(5) ^ 0x5a).collect() } else { bytes }
        };
        let before = text(&old);
        for (at, kind, count) in edits {
            let at = (old.len() as f64 * at) as usize;
            let end = (at + count).min(old.len());
            match kind {
                0 => drop(old.drain(at..end)),
                1 => drop(old.splice(at..at, (0..count).map(|n| row(n, 1)))),
                2 => (at..end).for_each(|n| old[n] = row(n, 2)),
                _ => {
                    let moved: Vec<String> = old.drain(at..end).collect();
                    old.splice(0..0, moved);
                }
            }
        }
        let after = text(&old);
        let found = compare(&before, &after);
        prop_assert!(found.new <= after.len());
        prop_assert!(found.runs <= after.len());
    }
}
