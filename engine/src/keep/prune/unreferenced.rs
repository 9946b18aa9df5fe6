//! Remembers between runs since when packs are unreferenced: `{"replica": {"pack": time}}`.
//!
//! If this file is lost, grace periods begin again.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Name, PackId};

use crate::state::{StateDirectory, replace_or_forget};

/// Since when each pack is unreferenced, by replica and pack.
pub(crate) type Unreferenced = BTreeMap<Name, BTreeMap<PackId, DateTime<Utc>>>;

pub(crate) fn read(state: &StateDirectory, dataset: &Name) -> Result<Unreferenced> {
    let path = state.dataset(dataset)?.join("unreferenced");
    Ok(std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
}

pub(crate) fn write(state: &StateDirectory, dataset: &Name, unreferenced: &Unreferenced) -> Result<()> {
    let text = serde_json::to_vec(unreferenced)
        .context(Class::Failed, || "cannot serialise the list of unreferenced packs")?;
    replace_or_forget(&state.dataset(dataset)?.join("unreferenced"), &text)
}
