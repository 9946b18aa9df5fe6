//! What goes, and need not be locked any more; and until when what stays is kept at least.
//!
//! - **Where hosts delete**, that is all that nothing keeps, also while it waits for its time.
//! - **Under a warden**, what waits is needed: somebody may veto it until it is due. What is due
//!   and locked goes when its lock ends.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lifeboat_base::Result;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;

use super::at_least::KeptAtLeast;
use super::memory::Memory;
use super::view::View;
use super::{DeadPack, Prune, PrunePlan, Verdict};
use crate::renewal::sparse::Packs;

/// What goes.
#[derive(Default)]
pub(in crate::keep) struct Goes {
    /// By replica.
    pub(in crate::keep) packs: BTreeMap<Name, HashSet<PackId>>,
    pub(in crate::keep) snapshots: BTreeSet<SnapshotId>,
    /// The newest snapshot that stays.
    pub(in crate::keep) newest: Option<SnapshotId>,
    pub(in crate::keep) kept: KeptAtLeast,
}

impl Prune<'_> {
    /// Finds out what goes. Nothing is remembered of it: what a warden doubts, its next look tells.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub(in crate::keep) async fn goes(&self) -> Result<Goes> {
        let view = self.look(Memory::Left).await?;
        let plan = self.plan_of(&view).await?;
        let newest = plan.verdicts.iter().rev().find(|verdict| verdict.goes_at.is_none());
        let newest = newest.map(|verdict| verdict.snapshot.clone());
        let mut goes = Goes { newest, kept: self.kept_at_least(&view, &plan), ..Goes::default() };
        let due = self.keys.is_warden.then(|| DueNames::of(&view, &plan));
        let going = plan.verdicts.iter().filter(|verdict| verdict.goes_at.is_some());
        let going = going.map(|Verdict { snapshot, .. }| snapshot);
        goes.snapshots = going
            .filter(|snapshot| due.as_ref().is_none_or(|due| due.snapshots.contains(*snapshot)))
            .cloned()
            .collect();
        let needed = Packs::of(&view.outlines, |outline| {
            view.by_snapshot.contains_key(&outline.snapshot) && !goes.snapshots.contains(&outline.snapshot)
        });
        for DeadPack { replica, key, .. } in plan.packs.iter().chain(&plan.waiting) {
            let pack = layout::parse_pack(&plan.dataset, key);
            let pack =
                pack.filter(|pack| due.as_ref().is_none_or(|due| due.packs.contains(pack) && !needed.contains(pack)));
            goes.packs.entry(replica.clone()).or_default().extend(pack);
        }
        Ok(goes)
    }
}

/// What due marks name, and what sweeps have named.
struct DueNames<'v> {
    snapshots: HashSet<&'v SnapshotId>,
    packs: HashSet<&'v PackId>,
}

impl<'v> DueNames<'v> {
    fn of(view: &'v View, plan: &PrunePlan) -> Self {
        let due = || view.mark_bodies().filter(|(mark, _)| plan.due.contains(mark)).map(|(_, body)| body);
        let marked = due().flat_map(|body| &body.snapshots).map(|marked| &marked.snapshot);
        let packs = due().flat_map(|body| &body.packs).collect();
        Self { snapshots: marked.chain(view.pruned.keys()).collect(), packs }
    }
}
