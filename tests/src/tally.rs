//! What a test has done to a vault, and what that cost: `make torture` sums it.

#![allow(clippy::expect_used)]

use std::fs::File;
use std::io::Write;

use serde::Serialize;

/// Names the file to which each tally is added as a line of JSON. Unset: none is kept.
const TALLY_FILE: &str = "LIFEBOAT_TALLY";

/// The sums of one test. It is written when it is dropped, also if the test failed.
#[derive(Debug, Serialize)]
pub struct Tally {
    /// What was tried, as `scripts/torture` names it.
    pub part: &'static str,
    /// Steps of the model.
    pub steps: u64,
    /// Calls to replicas that failed as they were told to.
    pub faults: u64,
    /// Programs and runs that were killed.
    pub crashes: u64,
    /// Snapshots that were reported as committed.
    pub committed: u64,
    /// Of these, snapshots that were lost.
    pub lost: u64,
    /// Snapshots that were reported as committed, and were not, or not where the report said.
    pub false_successes: u64,
    /// Objects that nothing needs and that nothing removed.
    pub orphans: u64,
    /// Whether the test failed, whatever the sums are.
    failed: bool,
}

impl Tally {
    /// All zeros.
    #[must_use]
    pub fn of(part: &'static str) -> Self {
        // Not by `Default`: what is left of it would be dropped, and written.
        Self {
            part,
            steps: 0,
            faults: 0,
            crashes: 0,
            committed: 0,
            lost: 0,
            false_successes: 0,
            orphans: 0,
            failed: false,
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.failed = std::thread::panicking();
        let Some(path) = std::env::var_os(TALLY_FILE) else { return };
        let line = serde_json::to_string(self).expect("numbers") + "\n";
        let file = File::options().create(true).append(true).open(path);
        // One write, so that lines of several tests do not mix.
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("LIFEBOAT_TALLY names a file");
    }
}
