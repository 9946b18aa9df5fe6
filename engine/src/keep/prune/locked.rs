//! What is locked in a replica does not go from it before its lock has ended. A replica that does
//! not tell its locks is left alone.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use lifeboat_base::Result;
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_store::SharedReplica;

use super::view::View;
use super::{DeadPack, Prune, PrunePlan};

/// So many objects are looked up at once.
const LOOKED_UP_AT_ONCE: usize = 16;

impl Prune<'_> {
    /// Snapshots of which a replica still locks the manifest go when the lock has ended.
    pub(super) async fn leave_locked_snapshots(&self, view: &View, plan: &mut PrunePlan) {
        let dataset = &self.dataset.name;
        for inventory in view.inventories.iter().filter(|inventory| inventory.replica.lock().is_some()) {
            let going = plan.verdicts.iter().enumerate().filter(|(_, verdict)| {
                verdict.goes_at.is_some_and(|time| time <= plan.made) && inventory.snapshots.contains(&verdict.snapshot)
            });
            let keys: Vec<(usize, String)> =
                going.map(|(at, verdict)| (at, layout::manifest(dataset, &verdict.snapshot))).collect();
            for (at, until) in looked_up(plan, &inventory.replica, keys).await.unwrap_or_default() {
                plan.verdicts[at].goes_at = plan.verdicts[at].goes_at.max(Some(until));
                note(plan, inventory.replica.name(), until);
            }
        }
    }

    /// Packs that are locked wait, and those of replicas that are left alone.
    pub(super) async fn leave_locked_packs(&self, view: &View, plan: &mut PrunePlan) {
        for inventory in view.inventories.iter().filter(|inventory| inventory.replica.lock().is_some()) {
            let name = inventory.replica.name();
            let own = plan.packs.iter().enumerate().filter(|(_, pack)| pack.replica == *name);
            let keys: Vec<(usize, String)> = own.map(|(at, pack)| (at, pack.key.clone())).collect();
            let locked = match plan.leaves_alone(name) {
                true => None,
                false => looked_up(plan, &inventory.replica, keys).await,
            };
            let mut place = 0..;
            let waits = |pack: &mut DeadPack| {
                let at = place.next().unwrap_or_default();
                locked.as_ref().map_or(pack.replica == *name, |locked| locked.contains_key(&at))
            };
            plan.waiting.extend(plan.packs.extract_if(.., waits));
            locked.iter().flat_map(HashMap::values).for_each(|until| note(plan, name, *until));
        }
        plan.waiting.sort_by(|a, b| (&a.replica, &a.key).cmp(&(&b.replica, &b.key)));
    }
}

impl PrunePlan {
    /// Whether nothing goes from this replica by this plan.
    pub(super) fn leaves_alone(&self, replica: &Name) -> bool {
        self.skipped.iter().any(|(skipped, _)| skipped == replica)
    }
}

fn note(plan: &mut PrunePlan, replica: &Name, until: DateTime<Utc>) {
    let last = plan.locked.entry(replica.clone()).or_insert(until);
    *last = until.max(*last);
}

/// Those of `keys` that are locked, and until when. `None`: the replica does not tell, and `plan`
/// leaves it alone now.
async fn looked_up(
    plan: &mut PrunePlan,
    replica: &SharedReplica,
    keys: Vec<(usize, String)>,
) -> Option<HashMap<usize, DateTime<Utc>>> {
    match locked(replica, keys, plan.made).await {
        Ok(locked) => Some(locked.into_iter().collect()),
        Err(error) => {
            plan.skipped.push((replica.name().clone(), error.within("its locks cannot be looked up").chain()));
            None
        }
    }
}

/// Those of `keys` that are locked, and until when.
async fn locked(
    replica: &SharedReplica,
    keys: Vec<(usize, String)>,
    now: DateTime<Utc>,
) -> Result<Vec<(usize, DateTime<Utc>)>> {
    let looked = futures::stream::iter(keys)
        .map(|(at, key)| async move { replica.locked_until(&{ key }).await.map(|until| (at, until)) })
        .buffer_unordered(LOOKED_UP_AT_ONCE);
    let looked: Vec<(usize, Option<DateTime<Utc>>)> = looked.try_collect().await?;
    Ok(looked.into_iter().filter_map(|(at, until)| Some((at, until.filter(|until| *until > now)?))).collect())
}
