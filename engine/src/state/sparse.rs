//! Packs of which snapshots need so little that the next ones are not to need them: prune decides,
//! the next backup does not refer to them.
//!
//! If this is lost, those that are not gone yet may be built upon again, until prune decides again:
//! it costs room, and nothing else.

use std::collections::BTreeSet;

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Name, PackId};

use super::{StateDirectory, replace_file};

/// None if nothing is remembered.
pub(crate) fn read(state: &StateDirectory, dataset: &Name) -> BTreeSet<PackId> {
    let text = state.dataset(dataset).ok().and_then(|folder| std::fs::read(folder.join("sparse")).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

pub(crate) fn write(state: &StateDirectory, dataset: &Name, packs: &BTreeSet<PackId>) -> Result<()> {
    let text = serde_json::to_vec(packs).context(Class::Failed, || "cannot write JSON")?;
    replace_file(&state.dataset(dataset)?.join("sparse"), &text)
}
