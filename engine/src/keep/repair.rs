//! Repair puts back what replicas have lost and this host or another replica still has. Then it
//! looks again, and names what is missing. Only if the operator accepts that, it is written down as
//! lost.
//!
//! It compares listings. For whoever has verified the replicas (`verify --repair`), it also
//! replaces what is damaged ([`Scrub`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::manifest::PackRef;
use lifeboat_store::without_name;
use serde::Serialize;

use super::catch_up::{ReplicaState, catch_up};
use super::gaps::Gap;
use super::prune::{Accept, Memory, Prune, View};
use super::put_back::put_back;
use super::scrub::{Mended, Scrub};
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::outlines::{ABSENT, Outline};
use crate::catalog::removals::prune_records;
use crate::state::cache::ObjectCache;

/// What a repair did, and what it could not mend.
#[derive(Debug, Serialize)]
pub struct RepairReport {
    /// The dataset.
    pub dataset: Name,
    /// Objects that were damaged.
    pub mended: Vec<Mended>,
    /// Keys of objects that this host put back.
    pub put_back: Vec<String>,
    /// What was copied from one replica to another.
    pub replicas: Vec<ReplicaState>,
    /// What is missing and in no record. It stops every deletion.
    pub missing: Vec<String>,
    /// Snapshots in one place of the chain. They stop every deletion, too.
    pub branches: Vec<String>,
    /// Snapshots that no replica can restore, and why.
    pub unrestorable: Vec<String>,
    /// What could not be looked at, and why.
    pub doubts: Vec<String>,
    #[serde(skip)]
    gaps: Vec<Gap>,
}

impl RepairReport {
    /// Objects that are damaged, and that nothing whole could replace.
    pub fn still_damaged(&self) -> impl Iterator<Item = &Mended> {
        self.mended.iter().filter(|mended| mended.unrepaired.is_some())
    }

    /// Whether nothing is missing or damaged that could be looked at.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let is_settled = self.gaps.iter().all(Gap::is_unread) && self.unrestorable.is_empty();
        is_settled && self.still_damaged().next().is_none()
    }
}

/// Puts back what is known, and looks what is missing then. The caller holds the dataset's lock.
/// `prune` says what to look at, and with which keys; nothing is deleted.
///
/// With `suspects`, what is damaged is replaced first: of these objects, each with its replica, and
/// of all objects that are no packs.
///
/// # Errors
/// No replica can be used, or the state directory fails.
pub async fn repair(prune: &Prune<'_>, suspects: Option<&[(Name, String)]>) -> Result<RepairReport> {
    let Prune { config, dataset, keys, replicas, state, cancel, clock, .. } = prune;
    let scrub = Scrub { config, dataset, keys, replicas, state, clock: clock.clone() };
    let (mended, failed) = match suspects {
        None => (Vec::new(), BTreeMap::new()),
        Some(suspects) => tokio::select! {
            scrubbed = scrub.repair(suspects) => scrubbed,
            () = cancel.cancelled() => return Err(cancelled()),
        },
    };
    let (mut inventories, _) = Inventory::take_all_to_write(replicas, &keys.vault, &dataset.name).await;
    let cache = ObjectCache::open(state, &dataset.name, &keys.trust.mark());
    let (reader, memory) = (keys.reader(), config.limits.memory);
    let documents =
        Documents { vault: &keys.vault, dataset: &dataset.name, keys: &reader, cache: Some(&cache), memory };
    let records = prune_records(&documents, &inventories).await;
    let returned = put_back(&documents, keys, &cache, &mut inventories, &records).await;
    // What replicas list is asked again, and is not held twice.
    drop((inventories, records));
    let states = catch_up(dataset, keys, replicas, state, &config.limits, cancel).await?;
    if cancel.is_cancelled() {
        return Err(cancelled());
    }
    let mut report = look(prune).await?;
    (report.put_back, report.replicas, report.mended) = (returned.into_iter().collect(), states, mended);
    let failed: Vec<String> = failed.into_values().map(|error| error.chain_and_hint()).collect();
    report.doubts.extend(failed);
    Ok(report)
}

/// Writes down what the operator accepts of what `report` names, and looks again. Deletes nothing.
///
/// # Errors
/// A replica does not answer, something is doubted, or other things are missing by now.
pub async fn accept(prune: &Prune<'_>, accepted: Accept, report: RepairReport) -> Result<RepairReport> {
    prune.accept(accepted, &report.gaps).await?;
    let now = look(prune).await?;
    Ok(RepairReport { mended: report.mended, put_back: report.put_back, replicas: report.replicas, ..now })
}

fn cancelled() -> Error {
    Error::cancelled("the repair").hint("what was put back stays; repair again")
}

async fn look(prune: &Prune<'_>) -> Result<RepairReport> {
    let survey = prune.survey(Memory::Written).await?;
    let (view, gaps) = (survey.view, survey.gaps);
    let told = |of: fn(&Gap) -> bool| gaps.iter().filter(move |gap| of(gap)).map(Gap::to_string);
    let doubts = survey.doubt.iter().map(Error::chain_and_hint).chain(told(Gap::is_unread));
    let skipped =
        view.skipped.iter().map(|(replica, why)| format!("replica {replica}: {}", without_name(replica, why)));
    // Who does not answer may hold what others lack.
    let seen_by_all = view.skipped.is_empty();
    let unrestorable = if seen_by_all { unrestorable(&prune.dataset.name, &view) } else { Vec::new() };
    Ok(RepairReport {
        dataset: prune.dataset.name.clone(),
        mended: Vec::new(),
        put_back: Vec::new(),
        replicas: Vec::new(),
        missing: told(|gap| !gap.is_branch() && !gap.is_unread()).collect(),
        branches: told(Gap::is_branch).collect(),
        unrestorable,
        doubts: doubts.chain(skipped).collect(),
        gaps,
    })
}

/// The snapshots that no replica can restore, as far as listings tell, and why.
fn unrestorable(dataset: &Name, view: &View) -> Vec<String> {
    let View { by_snapshot, outlines, inventories, .. } = view;
    let has_keys = |generation: &u32| inventories.iter().any(|inventory| inventory.has_keys(dataset, *generation));
    let has_pack = |pack: &PackRef| inventories.iter().any(|inventory| inventory.has(pack));
    let lacking = outlines.lacking(has_pack);
    let lost: BTreeSet<u32> =
        (0..).zip(outlines.packs().iter()).filter(|(_, pack)| !has_pack(pack)).map(|(number, _)| number).collect();
    let (mut walk, mut first) = (outlines.walk(), BTreeMap::new());
    while let Some(outline) = walk.step().filter(|_| !lost.is_empty()) {
        let pack = lost.iter().find(|number| walk.unused(**number) != ABSENT);
        first.extend(pack.map(|number| (outline.place(), outlines.packs().get(*number).id)));
    }
    let why = |(snapshot, outline): (&SnapshotId, &Arc<Outline>)| {
        if let Some(generation) = outline.generations.iter().find(|generation| !has_keys(generation)) {
            return Some(format!("snapshot {snapshot}: no replica holds the keyring of generation {generation}"));
        }
        let pack = first.get(&outline.place())?;
        let more = match lacking[outline.place()] - 1 {
            0 => String::new(),
            more => format!(", nor {more} others"),
        };
        Some(format!("snapshot {snapshot}: no replica holds pack {pack} whole{more}"))
    };
    by_snapshot.iter().filter_map(why).collect()
}
