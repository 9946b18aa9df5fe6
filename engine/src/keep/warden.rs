//! One look of a warden at a dataset: it carries out the marks that it agrees with, and tells which
//! it does not.
//!
//! - **It decides itself**: its own configuration says which snapshots are kept, at times that
//!   stores, witnesses and this warden tell. A mark only asks. What it names and the rules keep, or
//!   a kept snapshot needs, stays.
//! - **It waits** for the grace period of its configuration, or the least delay of the root, since
//!   it saw the mark itself, and since its own rules let go what that names.
//! - **It opens nothing**: see `catalog/needs.rs` for how it knows what a snapshot needs.
//! - **In doubt** nothing is deleted, as in every [prune](super::prune): that one does the work.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::log::{LogEvent, LogKind, WardenLook};
use serde::Serialize;

use super::locks::LockStandings;
use super::prune::{Memory, Prune, PruneOutcome, PrunePlan, View};
use crate::catalog::first_sights::FirstSights;
use crate::keys::HostKeys;
use crate::log::HostLog;

/// What a look at one dataset came to.
#[derive(Debug, Serialize)]
pub struct WardenReport {
    /// The dataset.
    pub dataset: Name,
    /// The marks that are carried out, as far as this warden agrees.
    pub carried_out: Vec<SnapshotId>,
    /// Those of them of which something stays, and why; and those that wait and name what the rules
    /// keep now: somebody may hope that they will not.
    pub refused: BTreeMap<SnapshotId, String>,
    /// The marks that somebody vetoed, and who.
    pub vetoed: BTreeMap<SnapshotId, BTreeSet<Name>>,
    /// The marks that wait, and until when at least.
    pub waiting: BTreeMap<SnapshotId, DateTime<Utc>>,
    /// Since when this warden sees the oldest of those, though its content may have changed.
    pub waiting_since: Option<DateTime<Utc>>,
    /// How long it lets each mark wait at least, in seconds.
    pub delay: u64,
    /// What was done.
    pub outcome: PruneOutcome,
}

/// Checks that the root names the machine of these keys as its warden, by this name.
///
/// # Errors
/// It names another one, or none.
pub fn check_office(keys: &HostKeys, host: &Name) -> Result<()> {
    let named = keys.trust.log_of(LogKind::Wardens, &keys.signer.public());
    let own = keys.signer.public();
    match named {
        Some(log) if log.name == *host => Ok(()),
        Some(log) => Err(Error::configuration(format!("the root calls this warden {}, and its configuration {host}", log.name))
            .hint(format!("set `host = \"{}\"`", log.name))),
        None => Err(Error::keys("the root does not name this machine as its warden").hint(format!(
            "run `lifeboat root request set-warden {host} --signer {own}` on a backup host, let an owner sign what it prints, and install that"
        ))),
    }
}

/// Forgets what this warden saw first of a dataset: its next look believes what it then sees, and
/// waits anew. That is recorded before. Returns warnings. The caller holds the dataset's lock.
///
/// # Errors
/// No replica took the record, or the disk fails.
pub async fn begin_anew(log: &HostLog<'_>, dataset: &Name, now: DateTime<Utc>) -> Result<Vec<String>> {
    let why = format!("what was seen first of dataset {dataset} begins anew");
    let event = LogEvent::Warden(WardenLook::default());
    let warnings = log.record_because(event, Some(why), Vec::new(), now).await?;
    FirstSights::default().write(log.state, dataset)?;
    Ok(warnings)
}

/// Looks at what is marked, and sweeps what this warden agrees with. The caller holds the dataset's
/// lock.
///
/// # Errors
/// As [`Prune::execute`]: something is missing or in doubt, and nothing is deleted.
pub async fn tend(prune: &Prune<'_>) -> Result<WardenReport> {
    let view = prune.look(Memory::Written).await?;
    let plan = prune.plan_of(&view).await?;
    let mut report = WardenReport {
        dataset: prune.dataset.name.clone(),
        carried_out: plan.due.clone(),
        refused: refused(prune, &view, &plan),
        waiting: plan.waits.clone(),
        waiting_since: prune.waiting_since(&view, &plan),
        delay: prune.least_wait().num_seconds().unsigned_abs(),
        vetoed: view.vetoed().clone(),
        outcome: PruneOutcome::default(),
    };
    drop(view);
    report.outcome = prune.execute(&plan).await?;
    Ok(report)
}

/// What a warden did in all datasets, in one run of its program.
#[derive(Debug, Default, Serialize)]
pub struct WardenLooks {
    /// What became of each dataset that was looked at to the end.
    pub datasets: Vec<WardenReport>,
    /// Datasets in which not all could be done, and why.
    pub failed: Vec<(Name, String)>,
    /// How the locks stand.
    pub locks: Vec<(Name, LockStandings)>,
}

/// Records looks in the warden's log. Returns warnings.
///
/// # Errors
/// No replica took the record.
pub async fn record(log: &HostLog<'_>, looks: &WardenLooks, now: DateTime<Utc>) -> Result<Vec<String>> {
    log.record(LogEvent::Warden(looks.told()), Vec::new(), now).await
}

/// What stays of due marks, and which snapshots of those that wait; and why.
fn refused(prune: &Prune<'_>, view: &View, plan: &PrunePlan) -> BTreeMap<SnapshotId, String> {
    let verdicts = plan.verdicts.iter().filter(|verdict| verdict.goes_at.is_none());
    let stays: HashMap<&SnapshotId, &Vec<String>> =
        verdicts.map(|verdict| (&verdict.snapshot, &verdict.keep_because)).collect();
    let dataset = &prune.dataset.name;
    // Those that wait are locked, or needed until something else goes. Nobody asked too much.
    let dead = plan.packs.iter().chain(&plan.waiting);
    let goes: HashSet<PackId> = dead.filter_map(|pack| layout::parse_pack(dataset, &pack.key)).collect();
    let mut refused = BTreeMap::new();
    for (mark, body) in view.mark_bodies().filter(|(mark, _)| !view.vetoed().contains_key(*mark)) {
        let is_due = plan.due.contains(mark);
        let kept: Vec<&SnapshotId> =
            body.snapshots.iter().map(|marked| &marked.snapshot).filter(|marked| stays.contains_key(marked)).collect();
        let is_there = |pack: &&PackId| view.inventories.iter().any(|inventory| inventory.packs.contains_key(pack));
        let packs = body.packs.iter().filter(is_there).filter(|pack| !goes.contains(pack)).count();
        let mut why = Vec::new();
        if let Some(first) = kept.first() {
            let because = stays.get(*first).map(|because| because.join(", ")).unwrap_or_default();
            let waits = if is_due { "" } else { "it waits, and now " };
            why.push(format!("{waits}{} of its snapshots stay, such as {first}: {because}", kept.len()));
        }
        if packs > 0 && is_due {
            why.push(format!("{packs} of its packs are needed"));
        }
        if !why.is_empty() {
            let mut why = why.join("; ");
            why.truncate(why.floor_char_boundary(lifeboat_format::log::MAX_LOG_TEXT_BYTES));
            refused.insert(mark.clone(), why);
        }
    }
    refused
}
