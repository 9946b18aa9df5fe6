//! Remembers which snapshots each replica has shown: `{"replica": {"snapshot": number}}`, with the
//! number of the act that committed it, or null. What it has shown, and does not show any more
//! though no record says why, it has lost.
//!
//! If this file is lost, so is this witness. Others are in the vault. Where it cannot be written,
//! the old one stays: at worst it calls a snapshot lost that a prune removed, and stops deletions.

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::Name;

use crate::keep::gaps::ShownSnapshots;
use crate::state::{StateDirectory, replace_file};

const SHOWN_FILE: &str = "shown";

pub(super) fn read(state: &StateDirectory, dataset: &Name) -> ShownSnapshots {
    let path = state.dataset(dataset).map(|folder| folder.join(SHOWN_FILE));
    let text = path.ok().and_then(|path| std::fs::read(path).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

pub(super) fn write(state: &StateDirectory, dataset: &Name, shown: &ShownSnapshots) -> Result<()> {
    let text = serde_json::to_vec(shown).context(Class::Failed, || "cannot serialise what replicas have shown")?;
    replace_file(&state.dataset(dataset)?.join(SHOWN_FILE), &text)
}
