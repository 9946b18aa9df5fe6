//! Writes good inputs for each fuzz target: `fuzz-corpus FOLDER` writes `FOLDER/TARGET/seed-NAME`.
//! Those of an earlier run are replaced; what fuzzing found stays.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_tests::corpus;
use lifeboat_tests::fuzz::TARGETS;
use lifeboat_tests::vectors::vectors;

const PREFIX: &str = "seed-";

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder] = &arguments[..] else {
        eprintln!("usage: fuzz-corpus FOLDER");
        return ExitCode::FAILURE;
    };
    match write(folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz-corpus: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (seeds, vectors) = (runtime.block_on(corpus::seeds()), vectors());
    for (target, drive) in TARGETS {
        let place = folder.join(target);
        std::fs::create_dir_all(&place)?;
        for entry in std::fs::read_dir(&place)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                std::fs::remove_file(entry.path())?;
            }
        }
        let mut count = 0;
        for seed in seeds.iter().filter(|seed| seed.target == target) {
            if !drive(&seed.data) {
                return Err(format!("{target} does not take {}", seed.name).into());
            }
            std::fs::write(place.join(format!("{PREFIX}{}", seed.name)), &seed.data)?;
            count += 1;
        }
        if count == 0 {
            return Err(format!("{target} has no seed").into());
        }
        for vector in vectors.iter().filter(|vector| vector.target == target) {
            std::fs::write(place.join(format!("{PREFIX}{}", vector.name)), &vector.data)?;
            count += 1;
        }
        println!("{target}: {count} seeds");
    }
    Ok(())
}
