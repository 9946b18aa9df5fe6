//! Remembers which snapshots each replica has shown: `{"replica": {"snapshot": number}}`, with the
//! number of the act that committed it, or null. Older programs wrote `{"replica": ["snapshot"]}`.
//! What a replica has shown, and does not show any more though no record says why, it has lost.
//!
//! If this file is lost, so is this witness. Others are in the vault. Where it cannot be written,
//! the old one stays: at worst it calls a snapshot lost that a prune removed, and stops deletions.

use std::collections::BTreeMap;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Name, SnapshotId};
use serde::Deserialize;

use crate::keep::gaps::ShownSnapshots;
use crate::state::{StateDirectory, replace_file};

const SHOWN_FILE: &str = "shown";

/// What replicas have shown; nothing if this host has seen nothing.
///
/// # Errors
/// [`Class::Storage`]: what it has seen cannot be read.
pub(super) fn read(state: &StateDirectory, dataset: &Name) -> Result<ShownSnapshots> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Remembered {
        Numbered(BTreeMap<SnapshotId, Option<u64>>),
        Listed(Vec<SnapshotId>),
    }
    let parse = |text: &[u8]| serde_json::from_slice::<BTreeMap<Name, Remembered>>(text).ok();
    let remembered = state.witness(dataset, SHOWN_FILE, parse)?.unwrap_or_default();
    let numbered = |of| match of {
        Remembered::Numbered(numbered) => numbered,
        Remembered::Listed(listed) => listed.into_iter().map(|snapshot| (snapshot, None)).collect(),
    };
    Ok(remembered.into_iter().map(|(replica, of)| (replica, numbered(of))).collect())
}

pub(super) fn write(state: &StateDirectory, dataset: &Name, shown: &ShownSnapshots) -> Result<()> {
    let text = serde_json::to_vec(shown).context(Class::Failed, || "cannot serialise what replicas have shown")?;
    replace_file(&state.dataset(dataset)?.join(SHOWN_FILE), &text)
}
