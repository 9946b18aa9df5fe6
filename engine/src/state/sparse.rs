//! The list of sparse packs: packs of which snapshots need so little that new snapshots must not
//! refer to them. Prune writes the list, and the next backup obeys it.
//!
//! If the list is lost, backups may refer to these packs again until the next prune. That costs
//! storage and nothing else.

use std::collections::BTreeSet;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Name, PackId};

use super::{StateDirectory, replace_file};

/// Reads the list. It is empty if the file is missing or damaged.
pub(crate) fn read(state: &StateDirectory, dataset: &Name) -> BTreeSet<PackId> {
    let text = state.dataset(dataset).ok().and_then(|folder| std::fs::read(folder.join("sparse")).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Replaces the list.
pub(crate) fn write(state: &StateDirectory, dataset: &Name, packs: &BTreeSet<PackId>) -> Result<()> {
    let text = serde_json::to_vec(packs).context(Class::Failed, || "cannot write the list of sparse packs as JSON")?;
    replace_file(&state.dataset(dataset)?.join("sparse"), &text)
}
