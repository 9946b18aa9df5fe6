//! What of each dataset waits for its deletion, and what does not go: for `status` and `list`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_engine::format::id::Name;
use lifeboat_engine::keep::veto::{self, Vetoes};
use lifeboat_engine::keep::warden_log::{WardenWord, deletion_line, warden_tells};
use lifeboat_engine::restore::VaultReader;
use serde::Serialize;

/// What replicas show of one dataset.
#[derive(Debug, Default, Serialize)]
pub(crate) struct DatasetDeletion {
    /// What the log of the warden tells, if the root names one.
    pub(crate) warden: Option<WardenWord>,
    /// Who vetoes which mark.
    pub(crate) vetoed: Vetoes,
}

impl DatasetDeletion {
    /// In one line; `None` if there is nothing to tell.
    pub(crate) fn line(&self, now: DateTime<Utc>) -> Option<String> {
        deletion_line(self.warden.as_ref(), &self.vetoed, now)
    }
}

/// Looks at the log of the warden and at vetoes. Without a warden, nobody is asked.
pub(crate) async fn look(reader: &VaultReader, datasets: &[Name]) -> BTreeMap<Name, DatasetDeletion> {
    let (trust, replicas) = (&reader.keys().trust, reader.replicas());
    let mut all = BTreeMap::new();
    let Some(mut warden) = warden_tells(reader.vault_id(), trust, replicas, datasets).await else { return all };
    for dataset in datasets {
        let vetoed = veto::shown(reader.vault_id(), dataset, trust, replicas).await;
        let word = warden.datasets.remove(dataset);
        all.insert(dataset.clone(), DatasetDeletion { warden: word, vetoed });
    }
    all
}
