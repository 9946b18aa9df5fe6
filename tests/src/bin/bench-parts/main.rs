//! What `scripts/bench` needs and Python is too slow for: test data, the speed of each stage alone,
//! and vaults of a size that nobody waits for. Results go to standard output as one JSON object.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod data;
mod index;
mod seed;
mod stages;

use std::path::Path;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: bench-parts data MIB [EDITS] | stages FILE LEVEL SCRATCH | index CHUNKS | seed-snapshots CONFIG COUNT | seed-large CONFIG COUNT PACKS | seed-index CONFIG CHUNKS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["data", mib] => data(mib, ""),
        ["data", mib, edits] => data(mib, edits),
        ["stages", file, level, scratch] => stages::measure(Path::new(file), level, Path::new(scratch)),
        ["index", chunks] => index::measure(chunks),
        ["seed-snapshots", config, count] => seed::snapshots(Path::new(config), count),
        ["seed-large", config, count, packs] => seed::large(Path::new(config), count, packs),
        ["seed-index", config, chunks] => seed::index(Path::new(config), chunks),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-parts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn data(mib: &str, edits: &str) -> Result<()> {
    data::write(&mut std::io::stdout().lock(), mib.parse()?, edits)
}
