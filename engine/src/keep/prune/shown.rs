//! Remembers which snapshots each replica has shown: `{"replica": ["snapshot"]}`. What it has
//! shown, and does not show any more though no record says why, it has lost.
//!
//! If this file is lost, so is this witness. Others are in the vault.

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::Name;

use crate::keep::gaps::Shown;
use crate::state::{StateDirectory, replace_file};

const FILE: &str = "shown";

pub(super) fn read(state: &StateDirectory, dataset: &Name) -> Shown {
    let path = state.dataset(dataset).map(|folder| folder.join(FILE));
    let text = path.ok().and_then(|path| std::fs::read(path).ok());
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

pub(super) fn write(state: &StateDirectory, dataset: &Name, shown: &Shown) -> Result<()> {
    let text = serde_json::to_vec(shown).context(Class::Failed, || "cannot serialise what replicas have shown")?;
    replace_file(&state.dataset(dataset)?.join(FILE), &text)
}
