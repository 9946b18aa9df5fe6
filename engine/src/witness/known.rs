//! What a witness has recorded already. If this is lost, it records all that is there once more:
//! whoever reads the log goes by the earliest record.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Class, Context, Result};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::log::SeenAct;
use serde::{Deserialize, Serialize};

use crate::state::{StateDirectory, replace_or_forget};

const KNOWN_FILE: &str = "witnessed.json";
/// No such file is longer.
const MAX_KNOWN_FILE_BYTES: u64 = 64 << 20;

/// What was recorded, by dataset.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct RecordedLooks(BTreeMap<Name, RecordedDataset>);

/// What was recorded of one dataset.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct RecordedDataset {
    /// The newest act.
    pub(super) act: Option<SeenAct>,
    /// The snapshots, each with the hash of its manifest.
    pub(super) snapshots: BTreeMap<SnapshotId, Digest>,
}

impl RecordedLooks {
    pub(super) fn read(home: &StateDirectory) -> Self {
        let path = home.path().join(KNOWN_FILE);
        if path.metadata().is_ok_and(|found| found.len() > MAX_KNOWN_FILE_BYTES) {
            return Self::default();
        }
        let text = std::fs::read(&path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn write(&self, home: &StateDirectory) -> Result<()> {
        let text = serde_json::to_vec(self).context(Class::Failed, || "cannot write what was witnessed as JSON")?;
        replace_or_forget(&home.path().join(KNOWN_FILE), &text)
    }

    pub(super) fn dataset(&mut self, dataset: &Name) -> &mut RecordedDataset {
        self.0.entry(dataset.clone()).or_default()
    }

    /// Forgets datasets that are gone.
    pub(super) fn retain(&mut self, datasets: &BTreeSet<Name>) {
        self.0.retain(|dataset, _| datasets.contains(dataset));
    }
}
