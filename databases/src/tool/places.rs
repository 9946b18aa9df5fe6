//! Where tools are looked for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::database::WorkContext;

/// The directories of `first`, then the `PATH`'s, each once.
pub(crate) fn directories(first: impl IntoIterator<Item = PathBuf>, cx: &WorkContext) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = first.into_iter().collect();
    directories.extend(std::env::split_paths(cx.environment.path()));
    // `/bin` may be a link to `/usr/bin`.
    let mut seen = BTreeSet::new();
    directories.retain(|directory| std::fs::canonicalize(directory).is_ok_and(|real| seen.insert(real)));
    directories
}
