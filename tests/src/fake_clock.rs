//! Programs under a clock that is wrong, by libfaketime.
//!
//! Its library alone, without the program `faketime`: that one leaves a semaphore behind when it is
//! killed, and refuses to start under a process number that has one. The library does not care.

use std::path::{Path, PathBuf};

/// The library to load into a program.
///
/// # Panics
/// If it is not installed.
#[must_use]
pub fn library() -> PathBuf {
    let architectures = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = architectures.map(|path| path.join("faketime/libfaketimeMT.so.1")).filter(|path| path.is_file());
    found.next().unwrap_or_else(|| panic!("libfaketime is not installed: run `make setup`"))
}

/// The environment of a program whose clock is wrong by `offset`, such as `+2m`. Its monotonic
/// clock stays right.
///
/// # Panics
/// If libfaketime is not installed.
#[must_use]
pub fn environment(offset: &str) -> [(&'static str, String); 3] {
    [
        ("LD_PRELOAD", library().display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// Removes what the library of a killed process left in shared memory.
pub fn clean_up_after(process: i32) {
    for file in ["faketime_shm_", "sem.faketime_sem_"] {
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(format!("{file}{process}")));
    }
}
