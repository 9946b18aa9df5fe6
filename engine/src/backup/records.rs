//! Places that hold records alone: of a backup, its act. They decide with the replicas whether it
//! counts, so that any two commits meet in a place. They hold no data, so they are no replicas.

use std::collections::BTreeMap;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;

use super::Backup;
use crate::catalog::inventory::Inventory;
use crate::catalog::verdict::combine;

impl Backup<'_> {
    /// What the places that hold records alone show. Those that cannot be used are told.
    pub(super) async fn look_at_records(
        &self,
        failed: &mut BTreeMap<Name, Error>,
        warnings: &mut Vec<String>,
    ) -> Vec<Inventory> {
        let (shown, unused) = Inventory::take_all_to_write(self.records, &self.keys.vault, &self.dataset.name).await;
        for (name, error) in unused {
            warnings.push(format!("{name}, which holds records, cannot be used: {}", error.chain_and_hint()));
            failed.insert(name, error);
        }
        shown
    }

    /// Refuses before the capture what the commit would refuse after it: too few places for its
    /// act.
    pub(super) fn check_places(&self, replicas: usize, records: usize, failed: &BTreeMap<Name, Error>) -> Result<()> {
        let required = self.config.min_places();
        if self.records.is_empty() || replicas + records >= required {
            return Ok(());
        }
        let errors: Vec<Error> = failed.values().map(|error| Error::new(error.class(), error.chain())).collect();
        Err(combine(
            format!(
                "a commit must be known in {required} of the {} places, and {} can be used",
                self.replicas.len() + self.records.len(),
                replicas + records
            ),
            &errors,
        )
        .hint("run `lifeboat check` to find the cause, then back up again"))
    }
}
