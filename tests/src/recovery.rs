//! Recovery without our software: the script in FORMAT.md, as it is printed there, run with stock
//! tools.
#![allow(clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output};

use crate::tools;

/// The script.
///
/// # Panics
/// FORMAT.md holds none, or one that is no longer short.
#[must_use]
pub fn script() -> String {
    let format = std::fs::read_to_string(tools::workspace().join("FORMAT.md")).expect("FORMAT.md");
    let (_, rest) = format.split_once("```bash\n").expect("FORMAT.md has a script");
    let (text, _) = rest.split_once("\n```\n").expect("the script ends");
    assert!(text.lines().count() <= 115, "the script has grown");
    format!("{text}\n")
}

/// The commands that FORMAT.md shows after these words.
///
/// # Panics
/// It shows none.
#[must_use]
pub fn block_after(words: &str) -> String {
    let format = std::fs::read_to_string(tools::workspace().join("FORMAT.md")).expect("FORMAT.md");
    let (_, rest) = format.split_once(words).expect("FORMAT.md has the words");
    let (_, block) = rest.split_once("\n```\n").expect("a block follows");
    let (block, _) = block.split_once("\n```\n").expect("the block ends");
    format!("{block}\n")
}

/// What the script needs, beside the usual tools of Unix.
pub const TOOLS: [&str; 5] = ["age", "zstd", "minisign", "b3sum", "python3"];

/// Restores a snapshot of `dataset` from a copy of a vault into the new directory `out`.
///
/// # Panics
/// A tool is missing.
pub fn recover(vault: &Path, identity: &Path, signer: &str, dataset: &str, snapshot: &str, out: &Path) -> Output {
    for tool in TOOLS {
        let _ = tools::find(tool);
    }
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("recover.sh");
    std::fs::write(&file, script()).expect("the script is written");
    let mut bash = Command::new("bash");
    bash.arg(file).arg(vault).arg(identity).args([signer, dataset, snapshot]).arg(out);
    bash.output().expect("bash runs")
}
