//! Places that hold records alone: of a backup, its act. They decide with the replicas whether it
//! counts, so that any two commits meet in a place. They hold no data, so they are no replicas.
//!
//! A run may find the act of a commit of which no replica that answers holds anything: the region
//! that holds it is lost, or the manifests are. It follows that snapshot all the same: what it says
//! of the one before it stands in the act. If that snapshot comes back, there is no branch.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Error, Result};
use lifeboat_format::act::{Act, ActKind};
use lifeboat_format::id::Name;
use lifeboat_format::manifest::Previous;
use lifeboat_store::SharedReplica;

use super::Backup;
use super::place::Place;
use crate::catalog::inventory::Inventory;
use crate::catalog::order::OrderReader;
use crate::catalog::verdict::{combine, is_verdict};

/// So many of the newest acts are read to find a commit. Marks and sweeps stand between.
const MAX_UNSEEN_ACTS: usize = 256;

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

    /// Makes the new snapshot follow the newest commit, if no replica that answers shows it.
    ///
    /// # Errors
    /// What the places hold cannot be read, or does not tell enough.
    pub(super) async fn follow_unseen(
        &self,
        order: &OrderReader<'_>,
        members: &[Inventory],
        records: &[Inventory],
        place: &mut Place,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let Some(act) = self.unseen_commit(order, members, records, place).await? else { return Ok(()) };
        let (snapshot, host, dataset) = (&act.id, &act.principal, &self.dataset.name);
        let Some(sequence) = act.sequence else {
            // An older program wrote it. Beside records, nothing must branch.
            if self.records.is_empty() {
                return Ok(());
            }
            return Err(Error::storage(format!(
                "snapshot {snapshot} of {dataset}, which host {host} committed, is in no replica that answers"
            ))
            .hint("back up again when a replica that holds it answers"));
        };
        warnings.push(format!(
            "snapshot {snapshot}, which host {host} committed, is in no replica that answers; this one follows it"
        ));
        let previous = Previous { snapshot: snapshot.clone(), blake3: Some(act.blake3) };
        *place = Place { previous: Some(previous), sequence: sequence.saturating_add(1), manifest: None };
        Ok(())
    }

    /// The newest commit, if it comes after `place` and no replica shows its snapshot.
    async fn unseen_commit(
        &self,
        order: &OrderReader<'_>,
        members: &[Inventory],
        records: &[Inventory],
        place: &Place,
    ) -> Result<Option<Act>> {
        let shown = || members.iter().chain(records);
        let numbers: BTreeSet<u64> = shown().flat_map(|shown| shown.acts.iter().copied()).collect();
        for number in numbers.into_iter().rev().take(MAX_UNSEEN_ACTS) {
            let holders = shown().filter(|shown| shown.acts.contains(&number)).map(|shown| &shown.replica);
            let holders: Vec<&SharedReplica> = holders.collect();
            let act = match order.act(&holders, number).await {
                Ok(found) => found.act,
                Err(error) if is_verdict(&error) => continue,
                Err(error) => return Err(error),
            };
            if act.act != ActKind::Commit {
                continue;
            }
            let is_shown = members.iter().any(|member| member.snapshots.contains(&act.id));
            let is_before = place.previous.as_ref().is_some_and(|previous| previous.snapshot >= act.id);
            return Ok(Some(act).filter(|_| !is_shown && !is_before));
        }
        Ok(None)
    }
}
