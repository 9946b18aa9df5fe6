//! Until when retention keeps at least what it keeps now: locks may hold that for as long.
//!
//! - **A lower bound**: by the rules, whatever is backed up from now on (`keep/retention.rs`), and
//!   by the floor of the root. What has no date has none here: the newest, the newest proved one,
//!   and what a veto holds.
//! - **A pack** is kept for as long as any snapshot that needs it.
//! - **What opens snapshots**, which is `vault.json`, the keyring and the roots, is kept for as
//!   long as any snapshot: without it, the locks of the others would hold what nobody can read.
//! - **Bounds**: the packs alone of snapshots that are kept for longer than the shortest lock.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::{PackId, SnapshotId};

use super::view::View;
use super::{Prune, PrunePlan};
use crate::keep::retention;

/// Until when what is kept is kept at least, as far as that is beyond the shortest lock.
#[derive(Default)]
pub(in crate::keep) struct KeptAtLeast {
    pub(in crate::keep) snapshots: BTreeMap<SnapshotId, DateTime<Utc>>,
    pub(in crate::keep) packs: HashMap<PackId, DateTime<Utc>>,
    /// What opens snapshots.
    pub(in crate::keep) longest: Option<DateTime<Utc>>,
}

impl Prune<'_> {
    /// Nothing, if all locks are for one period.
    pub(super) fn kept_at_least(&self, view: &View, plan: &PrunePlan) -> KeptAtLeast {
        let locks = || self.replicas.iter().filter_map(|replica| replica.lock());
        let after = |period| TimeDelta::from_std(period).ok().and_then(|period| plan.made.checked_add_signed(period));
        let shortest = locks().map(|lock| lock.period).min().and_then(after);
        let latest = locks().filter(|lock| lock.at_most > lock.period).map(|lock| lock.at_most).max().and_then(after);
        let (Some(shortest), Some(latest)) = (shortest, latest) else { return KeptAtLeast::default() };
        let stays: BTreeMap<&SnapshotId, bool> =
            plan.verdicts.iter().map(|verdict| (&verdict.snapshot, verdict.goes_at.is_none())).collect();
        let (past, told) = self.past(view, plan.made);
        let until = retention::kept_at_least(&told, &self.dataset.retention, plan.made, latest);
        let mut kept = KeptAtLeast::default();
        for ((outline, told), until) in past.iter().zip(&told).zip(until) {
            let until = until.max(self.floor(told).map(|floor| floor.min(latest)));
            let until = until.filter(|until| *until > shortest && stays.get(&outline.snapshot) == Some(&true));
            kept.snapshots.extend(until.map(|until| (outline.snapshot.clone(), until)));
        }
        let mut walk = view.outlines.walk();
        while let Some(outline) = walk.step() {
            let Some(until) = kept.snapshots.get(&outline.snapshot) else { continue };
            for (number, _) in walk.packs() {
                let known = kept.packs.entry(view.outlines.packs().get(number).id).or_insert(*until);
                *known = *until.max(known);
            }
        }
        kept.longest = kept.snapshots.values().max().copied();
        kept
    }
}
