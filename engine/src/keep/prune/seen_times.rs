//! When others than its writer first saw a snapshot: stores, and the witnesses of the root.

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::Error;
use lifeboat_format::id::SnapshotId;

use super::Prune;
use super::doubts::Doubts;
use crate::catalog::first_seen::DatedClaim;
use crate::catalog::first_sights::FirstSights;
use crate::catalog::inventory::Inventory;
use crate::catalog::outlines::{Outline, OutlineMap};
use crate::catalog::taken::TakenTimes;
use crate::witness::{Evidence, ToldLogs, ended};

const HIDDEN_WITNESS: &str = "run `lifeboat audit verify`; see OPERATIONS.md, \"Somebody's log is shorter\"";

impl Prune<'_> {
    /// Adds to `times` what stores, witnesses and this warden say against them. Where a record of a
    /// witness is missing that may say more, nothing is deleted.
    pub(super) async fn seen_by_others(
        &self,
        inventories: &[Inventory],
        outlines: &OutlineMap,
        times: TakenTimes,
        first: Option<&FirstSights>,
        doubts: &mut Doubts,
    ) -> TakenTimes {
        let limits = &self.config.limits;
        let skew = TimeDelta::from_std(limits.clock_skew).unwrap_or(TimeDelta::MAX);
        let agrees =
            |inventory: &&Inventory| inventory.replica.clock_offset(skew).is_some_and(|offset| offset.abs() <= skew);
        let stores: Vec<&Inventory> = inventories.iter().filter(agrees).collect();
        let stored = |snapshot: &SnapshotId| -> Vec<DateTime<Utc>> {
            let stored: Vec<DateTime<Utc>> =
                stores.iter().filter_map(|store| store.written.get(snapshot).copied()).collect();
            // A warden was there itself: whoever overwrites an object dates nothing anew for it.
            let own = first.and_then(|first| first.seen(snapshot));
            own.filter(|own| stored.iter().all(|stored| own < stored)).map_or(stored, |own| vec![own])
        };
        let claim = |outline: &Outline| {
            let began = times.time(outline);
            DatedClaim {
                snapshot: outline.snapshot.clone(),
                hash: outline.hash,
                began,
                ended: ended(began, outline.started, outline.finished, limits),
                stored: stored(&outline.snapshot),
            }
        };
        let claims: Vec<DatedClaim> = outlines.values().map(|outline| claim(outline)).collect();
        let (told, replicas) = (&ToldLogs::default(), self.replicas);
        let evidence = Evidence { vault: &self.keys.vault, trust: &self.keys.trust, replicas, limits, told };
        let found = evidence.against(&self.dataset.name, &claims).await;
        if !found.doubts.is_empty() {
            let missing = found.doubts.into_iter().collect::<Vec<_>>().join("; ");
            let doubt =
                Error::integrity("what a witness saw may be hidden, so a snapshot may be younger than it claims")
                    .because(missing);
            doubts.everywhere.get_or_insert(doubt.hint(HIDDEN_WITNESS));
        }
        times.against(found.contradicted)
    }
}
