//! `make bench` keeps working: its data is what it is said to be, its parts print what its scripts
//! read. Nothing is measured.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const MIB: &str = "8";
/// Prints the cases of all scripts: what their lists of texts name, and what they tell a result of.
const CASES: &str = r#"
import importlib, pathlib, re, sys

sys.path.insert(0, "scripts/bench")
for script in pathlib.Path("scripts/bench").glob("[!_]*.py"):
    known = vars(importlib.import_module(script.stem)).items()
    lists = [value for name, value in known if name.isupper() and isinstance(value, list)]
    named = [case for cases in lists for case in cases if isinstance(case, str)]
    for case in named + re.findall(r'case\("([^"]+)"', script.read_text()):
        print(case)
"#;

fn output(command: &mut Command) -> Vec<u8> {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn parts(words: &[&str]) -> Vec<u8> {
    output(Command::new(env!("CARGO_BIN_EXE_bench-parts")).args(words))
}

/// Asserts that every one of `fields` is a number above zero.
fn assert_numbers(said: &Value, fields: &[&str]) {
    for field in fields {
        assert!(said[field].as_f64().is_some_and(|number| number > 0.0), "{field} in {said}");
    }
}

/// The number that a row begins with.
fn row(line: &[u8]) -> u64 {
    let digits = line.split(|byte| *byte == b'\t').next().unwrap();
    str::from_utf8(digits).unwrap().parse().unwrap()
}

#[test]
fn the_same_arguments_give_the_same_bytes_and_an_append_only_appends() {
    let data = parts(&["data", MIB]);
    assert_eq!(data.len(), 8 << 20);
    assert!(data == parts(&["data", MIB, ""]), "the same arguments give other bytes");
    let longer = parts(&["data", MIB, "append=1"]);
    assert_eq!(longer.len(), 9 << 20);
    assert!(longer.starts_with(&data), "an append changes what was there");
}

#[test]
fn a_deleted_block_leaves_all_other_rows() {
    let data = parts(&["data", MIB]);
    let without = parts(&["data", MIB, "delete=30000:500"]);
    assert_eq!(without.len(), data.len(), "later rows take the place");
    let left: Vec<&[u8]> =
        data.split_inclusive(|byte| *byte == b'\n').filter(|line| !(30_000..30_500).contains(&row(line))).collect();
    let left = left.concat();
    assert!(left.len() < data.len(), "the block was never there");
    assert!(without.starts_with(&left), "more than the block is gone");
}

#[test]
fn scattered_edits_strike_as_many_rows_as_they_say() {
    let data = parts(&["data", MIB]);
    let rows: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    for (edit, least, most) in
        [("scatter=1:10", 0.008, 0.012), ("scatter=1:100", 0.09, 0.11), ("move=1:50", 0.09, 0.105)]
    {
        let edited = parts(&["data", MIB, edit]);
        assert_eq!(edited.len(), data.len());
        let edited: Vec<&[u8]> = edited.split_inclusive(|byte| *byte == b'\n').collect();
        let at_its_place = |place: &usize| edited.get(*place).is_some_and(|line| *line == rows[*place]);
        let share = if edit.starts_with("move") {
            let numbers = |lines: &[&[u8]]| lines.iter().map(|line| row(line)).collect::<Vec<_>>();
            numbers(&edited[..40_000]).windows(2).filter(|pair| pair[1] != pair[0] + 1).count() as f64 / 40_000.0
        } else {
            (0..rows.len() - 1).filter(|place| !at_its_place(place)).count() as f64 / rows.len() as f64
        };
        assert!((least..most).contains(&share), "{edit}: {share:.4} of the rows");
    }
}

#[test]
fn stages_carry_every_byte_and_say_what_the_scripts_read() {
    let place = TempDir::new().unwrap();
    let (file, data) = (place.path().join("data"), parts(&["data", MIB]));
    std::fs::write(&file, &data).unwrap();
    let said = parts(&["stages", file.to_str().unwrap(), "auto", place.path().to_str().unwrap()]);
    // One pack, and not a full one: it counts, too.
    assert!(std::fs::read(place.path().join("restored")).unwrap() == data, "something else came back");
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_numbers(&said, &["first", "unchanged", "restore", "stored_bytes"]);
    let names = ["read", "hash", "chunk", "identify", "compress", "encrypt", "name", "write"];
    assert_numbers(&said["stages"], &names);
    assert_numbers(&said["stages"], &["fetch", "check", "decrypt", "decompress", "hash_again", "deliver"]);
    let sum: f64 = names.iter().map(|name| said["stages"][name].as_f64().unwrap()).sum();
    assert!((sum - said["first"].as_f64().unwrap()).abs() < 1e-6, "{said}");
}

#[test]
fn index_says_what_the_scripts_read() {
    let said: Value = serde_json::from_slice(&parts(&["index", "20000"])).unwrap();
    assert_numbers(&said, &["build_seconds", "table_mib", "lookup_ns", "hash_of_a_chunk_ns"]);
}

#[test]
fn the_scripts_compile_and_know_their_cases() {
    let (root, cache) = (Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), TempDir::new().unwrap());
    let python = || {
        let mut command = Command::new("python3");
        command.current_dir(root).env("PYTHONPYCACHEPREFIX", cache.path());
        command
    };
    let files: Vec<_> =
        std::fs::read_dir(root.join("scripts/bench")).unwrap().map(|file| file.unwrap().path()).collect();
    let files = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "py"));
    output(python().args(["-m", "py_compile"]).args(files));
    let help = String::from_utf8(output(python().env("COLUMNS", "1000").args(["scripts/bench", "--help"]))).unwrap();
    let offered: BTreeSet<&str> = help.split_whitespace().collect();
    let cases = String::from_utf8(output(python().args(["-c", CASES]))).unwrap();
    // Lists and results were both found.
    for case in ["first", "scatter-1pct", "redis", "one-table", "mariadb-scatter"] {
        assert!(cases.lines().any(|line| line == case), "{case} is missing:\n{cases}");
    }
    for case in cases.lines() {
        assert!(offered.contains(case), "{case} is missing:\n{help}");
    }
}
