//! What is locked in a replica does not go from it before its lock has ended.

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use lifeboat_base::Result;
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use lifeboat_store::SharedReplica;

use super::view::View;
use super::{Prune, PrunePlan};

/// So many objects are looked up at once.
const LOOKED_UP_AT_ONCE: usize = 16;

impl Prune<'_> {
    /// Snapshots of which a replica still locks the manifest go when the lock has ended.
    pub(super) async fn leave_locked_snapshots(&self, view: &View, plan: &mut PrunePlan) -> Result<()> {
        let dataset = &self.dataset.name;
        for inventory in view.inventories.iter().filter(|inventory| inventory.replica.lock().is_some()) {
            let going = plan.verdicts.iter().enumerate().filter(|(_, verdict)| {
                verdict.goes_at.is_some_and(|time| time <= plan.made) && inventory.snapshots.contains(&verdict.snapshot)
            });
            let keys: Vec<(usize, String)> =
                going.map(|(at, verdict)| (at, layout::manifest(dataset, &verdict.snapshot))).collect();
            for (at, until) in locked(&inventory.replica, keys, plan.made).await? {
                plan.verdicts[at].goes_at = plan.verdicts[at].goes_at.max(Some(until));
                note(plan, inventory.replica.name(), until);
            }
        }
        Ok(())
    }

    /// Packs that are locked wait.
    pub(super) async fn leave_locked_packs(&self, view: &View, plan: &mut PrunePlan) -> Result<()> {
        for inventory in view.inventories.iter().filter(|inventory| inventory.replica.lock().is_some()) {
            let name = inventory.replica.name();
            let own = plan.packs.iter().enumerate().filter(|(_, pack)| pack.replica == *name);
            let keys: Vec<(usize, String)> = own.map(|(at, pack)| (at, pack.key.clone())).collect();
            let mut locked = locked(&inventory.replica, keys, plan.made).await?;
            // From the last one on, so that the others keep their places.
            locked.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
            for (at, until) in locked {
                plan.waiting.push(plan.packs.remove(at));
                note(plan, name, until);
            }
        }
        plan.waiting.sort_by(|a, b| (&a.replica, &a.key).cmp(&(&b.replica, &b.key)));
        Ok(())
    }
}

fn note(plan: &mut PrunePlan, replica: &Name, until: DateTime<Utc>) {
    let last = plan.locked.entry(replica.clone()).or_insert(until);
    *last = until.max(*last);
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
