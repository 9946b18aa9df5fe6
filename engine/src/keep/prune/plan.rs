//! Makes a plan from what the replicas hold.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::Result;
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{MAX_MARKED_OBJECTS, MAX_MARKED_PACKS, RemovedSnapshot};

use super::due::MarkTimes;
use super::memory::Memory;
use super::view::View;
use super::{DeadPack, Prune, PrunePlan, Verdict, unreferenced};
use crate::catalog::documents::Documents;
use crate::catalog::future::is_future;
use crate::catalog::inventory::Inventory;
use crate::catalog::outlines::Outline;
use crate::catalog::unbelieved::Unbelieved;
use crate::keep::retention;
use crate::renewal::sparse::{self, Packs};

impl Prune<'_> {
    /// Reads all manifests and makes a plan.
    ///
    /// # Errors
    /// No replica can be listed, every one has something that cannot be read, something is missing
    /// and in no record, or the state directory fails.
    pub async fn plan(&self) -> Result<PrunePlan> {
        self.plan_of(&self.look(Memory::Written).await?).await
    }

    pub(in crate::keep) async fn plan_of(&self, view: &View) -> Result<PrunePlan> {
        let now = self.clock.now();
        let mut verdicts = self.reasons(view, now);
        let times = self.mark_times(view, self.let_go(view, &verdicts, now)?, now);
        let marks = Marks::of(view, &times);
        settle(view, &mut verdicts, |snapshot| {
            marks.snapshots.get(snapshot).copied().unwrap_or_else(|| times.due_if_marked_now())
        });
        let open = view.marks.iter().filter(|mark| !view.vetoed.contains_key(&mark.id));
        let (due, waits): (Vec<_>, Vec<_>) =
            open.map(|mark| (mark.id.clone(), times.due(mark))).partition(|(_, due)| *due <= now);
        let mut plan = PrunePlan {
            dataset: self.dataset.name.clone(),
            made: now,
            verdicts,
            packs: Vec::new(),
            waiting: Vec::new(),
            locked: BTreeMap::new(),
            segments: Vec::new(),
            due: due.into_iter().map(|(mark, _)| mark).collect(),
            waits: waits.into_iter().collect(),
            mark_snapshots: BTreeSet::new(),
            mark_packs: BTreeSet::new(),
            mark_objects: BTreeSet::new(),
            objects: BTreeSet::new(),
            skipped: view.skipped.clone(),
            space: sparse::Space::default(),
            again_bytes: 0,
            sparse: BTreeSet::new(),
        };
        // What is not marked yet does not go now, however short the grace period is.
        let unmarked =
            |verdict: &&mut Verdict| verdict.goes_at.is_some() && !marks.snapshots.contains_key(&verdict.snapshot);
        for verdict in plan.verdicts.iter_mut().filter(unmarked) {
            plan.mark_snapshots.insert(verdict.snapshot.clone());
            verdict.goes_at = verdict.goes_at.map(|time| time.max(now + TimeDelta::milliseconds(1)));
        }
        let stays: HashSet<&SnapshotId> =
            plan.verdicts.iter().filter(|verdict| verdict.goes_at.is_none()).map(|verdict| &verdict.snapshot).collect();
        let needed = Packs::of(&view.outlines, |outline| stays.contains(&outline.snapshot));
        plan.sparse = self.sparse(view, &needed);
        plan.space = needed.space();
        plan.again_bytes = needed.due(&plan.sparse);
        self.leave_locked_snapshots(view, &mut plan).await;
        self.plan_packs(view, &needed, &marks, &mut plan)?;
        self.leave_locked_packs(view, &mut plan).await;
        self.plan_objects(view, &mut plan);
        self.plan_segments(view, &mut plan).await;
        if self.keys.only_marks() {
            self.mark_segments(view, &mut plan);
        }
        Ok(plan)
    }

    /// The snapshots that count for the rules, and what is known of when they were taken.
    pub(super) fn past<'v>(&self, view: &'v View, now: DateTime<Utc>) -> (Vec<&'v Outline>, Vec<retention::Told>) {
        let limits = &self.config.limits;
        let counts = |outline: &&Outline| {
            view.shown.contains(&outline.snapshot)
                && !view.times.is_postdated(&outline.snapshot)
                && !is_future(view.times.time(outline), now, limits)
        };
        let past: Vec<&Outline> = view.by_snapshot.values().map(AsRef::as_ref).filter(counts).collect();
        let told = |outline: &&Outline| retention::Told {
            counts: view.times.time(outline),
            claimed: Some(outline.started).filter(|claimed| !is_future(*claimed, now, limits)),
        };
        let told = past.iter().map(told).collect();
        (past, told)
    }

    /// What keeps each snapshot, but for vetoes.
    fn reasons(&self, view: &View, now: DateTime<Utc>) -> Vec<Verdict> {
        let (past, told) = self.past(view, now);
        let mut reasons = retention::reasons_as_settled(&told, &self.dataset.retention, now);
        self.keep_above_floor(&told, &mut reasons);
        let counts: HashSet<&SnapshotId> = past.iter().map(|outline| &outline.snapshot).collect();
        let others = view.by_snapshot.values().map(AsRef::as_ref);
        let others = others.filter(|outline: &&Outline| !counts.contains(&outline.snapshot)).map(|outline| {
            let why = if !view.shown.contains(&outline.snapshot) {
                "only replicas that are left alone show it"
            } else if view.times.is_postdated(&outline.snapshot) {
                "it was there before the time that it claims"
            } else {
                "its time lies in the future"
            };
            (outline, vec![why.to_owned()])
        });
        let mut verdicts: Vec<Verdict> = past
            .iter()
            .copied()
            .zip(reasons)
            .chain(others)
            .map(|(outline, keep_because)| Verdict {
                snapshot: outline.snapshot.clone(),
                taken: view.times.time(outline),
                keep_because,
                goes_at: None,
            })
            .collect();
        self.protect(view, &past, &mut verdicts);
        verdicts
    }

    /// The sparse packs: those known before that still exist, and new ones.
    fn sparse(&self, view: &View, packs: &Packs<'_>) -> BTreeSet<PackId> {
        let mut sparse = sparse::read(self.state, &self.dataset.name);
        if view.skipped.is_empty() {
            // A pack stays marked until no replica has it. Else a run would refer to it again.
            let is_there = |pack: &PackId| view.inventories.iter().any(|inventory| inventory.packs.contains_key(pack));
            sparse.retain(is_there);
            let more = packs.sparse(&sparse);
            sparse.extend(more);
        }
        sparse
    }

    /// Sorts the packs that no snapshot of those that stay needs: which go, wait, or are marked.
    fn plan_packs(&self, view: &View, needed: &Packs<'_>, marks: &Marks, plan: &mut PrunePlan) -> Result<()> {
        let now = plan.made;
        let known = unreferenced::read(self.state, &self.dataset.name)?;
        let longest_run = delta(self.config.limits.longest_run());
        let removed: HashSet<&SnapshotId> = plan.removed().collect();
        let is_there = |outline: &Outline| view.by_snapshot.contains_key(&outline.snapshot);
        let remains = |outline: &Outline| is_there(outline) && !removed.contains(&outline.snapshot);
        let needed_until_then = Packs::of(&view.outlines, remains);
        let named = Packs::of(&view.outlines, is_there);
        let due: HashSet<&SnapshotId> = plan.due.iter().collect();
        let held: HashSet<&PackId> = view.held.values().flat_map(|held| &held.packs).collect();
        let (mut packs, mut waiting, mut mark_packs) = (Vec::new(), Vec::new(), BTreeSet::new());
        for inventory in &view.inventories {
            let replica = inventory.replica.name();
            let pinned = view.pinned.get(replica);
            let stays = |pack: &PackId| needed.contains(pack) || pinned.is_some_and(|packs| packs.contains(pack));
            for (pack, size) in inventory.packs.iter().filter(|(pack, _)| !stays(pack)) {
                let marked = marks.packs.get(pack);
                let seen = known.get(replica).and_then(|packs| packs.get(pack)).copied().unwrap_or(now);
                let dead = DeadPack {
                    replica: replica.clone(),
                    key: layout::pack(&self.dataset.name, pack),
                    size: *size,
                    unreferenced_since: marked.map_or(seen, |(time, _)| *time),
                };
                match marked {
                    // It stays for as long as the veto does, and its lock is extended.
                    _ if held.contains(pack) => {}
                    Some((_, mark)) if due.contains(mark) && !needed_until_then.contains(pack) => packs.push(dead),
                    Some((_, mark)) if !due.contains(mark) => waiting.push(dead),
                    // A due mark has named it, and something needed it then or needs it still.
                    _ => {
                        if named.contains(pack) || now - seen >= longest_run {
                            mark_packs.insert(*pack);
                        }
                        waiting.push(dead);
                    }
                }
            }
        }
        let order = |a: &DeadPack, b: &DeadPack| (&a.replica, &a.key).cmp(&(&b.replica, &b.key));
        packs.sort_by(order);
        waiting.sort_by(order);
        (plan.packs, plan.waiting) = (packs, waiting);
        plan.mark_packs = mark_packs.into_iter().take(MAX_MARKED_PACKS).collect();
        Ok(())
    }

    /// Sorts what killed runs have left: what goes now, and what is marked.
    fn plan_objects(&self, view: &View, plan: &mut PrunePlan) {
        let dataset = &self.dataset.name;
        let longest_run = delta(self.config.limits.longest_run());
        let marked = |due: bool| -> BTreeSet<&String> {
            let marks = view.marks.iter().filter(|mark| plan.due.contains(&mark.id) == due);
            marks.flat_map(|mark| &mark.body.objects).collect()
        };
        let (due, waiting) = (marked(true), marked(false));
        let is_old = |key: &str| {
            let of_record = |folder: String| layout::parse_json(&folder, key);
            let id = layout::parse_manifest(dataset, key)
                .or_else(|| layout::parse_index(dataset, key))
                .or_else(|| of_record(layout::marks(dataset)))
                .or_else(|| of_record(layout::prunes(dataset)));
            id.is_some_and(|id| plan.made - id.time() >= longest_run)
        };
        let (mut objects, mut mark_objects) = (view.removed_objects.clone(), BTreeSet::new());
        for key in &view.leftover_objects {
            if due.contains(key) {
                objects.insert(key.clone());
            } else if !waiting.contains(key) && is_old(key) && mark_objects.len() < MAX_MARKED_OBJECTS {
                mark_objects.insert(key.clone());
            }
        }
        (plan.objects, plan.mark_objects) = (objects, mark_objects);
    }

    async fn plan_segments(&self, view: &View, plan: &mut PrunePlan) {
        let going: HashSet<(&Name, &str)> = plan.packs.iter().map(|pack| (&pack.replica, pack.key.as_str())).collect();
        let removed: HashSet<&SnapshotId> = plan.removed().collect();
        let mut segments = Vec::new();
        if self.keys.is_warden {
            // The warden cannot read index segments. Nothing rests on them but deduplication, so
            // the host is believed, but for those of snapshots that stay.
            let stays = |segment: &SnapshotId| view.by_snapshot.contains_key(segment) && !removed.contains(segment);
            let due = view.marks.iter().filter(|mark| plan.due.contains(&mark.id));
            let marked: BTreeSet<&String> = due.flat_map(|mark| &mark.body.objects).collect();
            for inventory in &view.inventories {
                let named = inventory.indexes.iter().filter(|segment| !stays(segment));
                let named = named.map(|segment| layout::index(&self.dataset.name, segment));
                let named = named.filter(|key| marked.contains(key));
                segments.extend(named.map(|key| (inventory.replica.name().clone(), key)));
            }
            plan.segments = segments;
            return;
        }
        let looked_at = view.inventories.iter().filter(|inventory| !plan.leaves_alone(inventory.replica.name()));
        for inventory in looked_at {
            let replica = inventory.replica.name();
            let goes = |key: &str| going.contains(&(replica, key));
            let useless = self.useless_segments(view, inventory, |snapshot| removed.contains(snapshot), goes).await;
            segments.extend(useless.into_iter().map(|key| (replica.clone(), key)));
        }
        plan.segments = segments;
    }

    /// Marks index segments of which all packs are gone: the warden cannot read them.
    fn mark_segments(&self, view: &View, plan: &mut PrunePlan) {
        let marked: HashSet<&String> = view.marks.iter().flat_map(|mark| &mark.body.objects).collect();
        for (_, key) in plan.segments.iter().filter(|(_, key)| !marked.contains(key)) {
            if plan.mark_objects.len() < MAX_MARKED_OBJECTS {
                plan.mark_objects.insert(key.clone());
            }
        }
    }

    /// The index segments in a replica of which all packs are gone, once these snapshots and these
    /// packs are.
    pub(super) async fn useless_segments(
        &self,
        view: &View,
        inventory: &Inventory,
        is_removed: impl Fn(&SnapshotId) -> bool,
        goes: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let (reader, dataset) = (self.keys.reader(), &self.dataset.name);
        let documents = Documents {
            vault: &self.keys.vault,
            dataset,
            keys: &reader,
            cache: Some(&view.cache),
            memory: self.config.limits.memory,
        };
        let replica = inventory.replica.name();
        let (mut useless, mut unreadable) = (Vec::new(), Unbelieved::new("an index segment that cannot be read"));
        for snapshot in &inventory.indexes {
            if view.by_snapshot.contains_key(snapshot) && !is_removed(snapshot) {
                continue;
            }
            if unreadable.leaves_aside([replica]) {
                break;
            }
            let segment = match documents.index(std::slice::from_ref(&inventory.replica), snapshot).await {
                Ok(segment) => segment,
                Err(error) => {
                    unreadable.add([replica], snapshot, &error);
                    continue;
                }
            };
            let is_gone = |id: &PackId| !inventory.packs.contains_key(id) || goes(&layout::pack(dataset, id));
            if segment.packs().all(|pack| pack.is_ok_and(|pack| is_gone(&pack.id))) {
                useless.push(layout::index(dataset, snapshot));
            }
        }
        unreadable.log("it is not removed");
        useless
    }
}

/// What nothing keeps goes when it is due, and what a sweep has named goes, even if a replica still
/// shows it.
fn settle(view: &View, verdicts: &mut Vec<Verdict>, goes_at: impl Fn(&SnapshotId) -> DateTime<Utc>) {
    hold(view, verdicts);
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.keep_because.is_empty()) {
        verdict.goes_at = Some(goes_at(&verdict.snapshot));
    }
    let leftovers = view.leftovers.iter().map(|snapshot| Verdict {
        snapshot: snapshot.clone(),
        taken: snapshot.time(),
        keep_because: Vec::new(),
        goes_at: Some(goes_at(snapshot)),
    });
    verdicts.extend(leftovers);
    verdicts.sort_by(|a, b| a.snapshot.cmp(&b.snapshot));
}

/// What a vetoed mark names stays.
fn hold(view: &View, verdicts: &mut [Verdict]) {
    for (mark, held) in &view.held {
        let names: Vec<&str> = held.names.iter().map(Name::as_str).collect();
        for verdict in verdicts.iter_mut().filter(|verdict| held.snapshots.contains(&verdict.snapshot)) {
            verdict.keep_because.push(format!("{} vetoed mark {mark}", names.join(", ")));
        }
    }
}

fn delta(duration: std::time::Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// What marks name that no sweep has carried out.
struct Marks {
    /// Snapshots, each with the time at which the first mark is due that names it.
    snapshots: BTreeMap<SnapshotId, DateTime<Utc>>,
    /// Packs, each with time and id of the first mark that names it.
    packs: HashMap<PackId, (DateTime<Utc>, SnapshotId)>,
}

impl Marks {
    fn of(view: &View, times: &MarkTimes<'_>) -> Self {
        let (mut snapshots, mut packs) = (BTreeMap::new(), HashMap::new());
        for mark in &view.marks {
            let (time, due) = (times.marked_at(mark), times.due(mark));
            // A mark that a sweep has carried out elsewhere counts for what that sweep has named.
            let counts = |marked: &&RemovedSnapshot| {
                view.current_marks.contains(&mark.id) || view.leftovers.contains(&marked.snapshot)
            };
            for marked in mark.body.snapshots.iter().filter(counts) {
                snapshots.entry(marked.snapshot.clone()).or_insert(due);
            }
            for pack in &mark.body.packs {
                packs.entry(*pack).or_insert_with(|| (time, mark.id.clone()));
            }
        }
        Self { snapshots, packs }
    }
}

impl Prune<'_> {
    /// Adds the reasons that hold whatever the retention rules are. `past` is what replicas show
    /// from which something may go, oldest first, without what lies in the future. One that lacks a
    /// database is no reason for another to go.
    fn protect(&self, view: &View, past: &[&Outline], verdicts: &mut [Verdict]) {
        if self.dataset.retention.removes_dataset {
            return;
        }
        let mut keep = |snapshot: Option<&SnapshotId>, because: String| {
            if let Some(verdict) = verdicts.iter_mut().find(|verdict| Some(&verdict.snapshot) == snapshot) {
                verdict.keep_because.push(because);
            }
        };
        let mut keep_newest = |fits: &dyn Fn(&Outline) -> bool, because: &str| {
            let mut fitting = past.iter().rev().filter(|outline| fits(outline));
            let Some(newest) = fitting.next() else { return };
            keep(Some(&newest.snapshot), because.to_owned());
            if newest.is_partial {
                let whole = fitting.find(|outline| !outline.is_partial);
                keep(whole.map(|outline| &outline.snapshot), format!("{because} that lacks no database"));
            }
        };
        keep_newest(&|_| true, "the newest");
        for inventory in &view.inventories {
            let because = format!("the newest complete one in {}", inventory.replica.name());
            let complete = view.outlines.complete(&self.dataset.name, inventory);
            keep_newest(&|outline| complete[outline.place()], &because);
        }
        keep(view.proved.newest.as_ref(), "the newest proved one".to_owned());
        keep(view.proved.complete.as_ref(), "the newest proved one that lacks no database".to_owned());
        keep(view.proved.base.as_ref(), "the newest that was not proved in part".to_owned());
    }
}
