//! Judges all replicas of a dataset together: what is missing, and where two snapshots stand in one
//! place. Each replica may be whole by itself.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::StreamExt;
use lifeboat_base::Class;
use lifeboat_format::act::{Act, ActKind};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::manifest::{Manifest, Previous};

use super::{Finding, OBJECTS_AT_ONCE, VerifyReport};
use crate::catalog::inventory::Inventory;
use crate::catalog::order::{Acts, OrderReader};
use crate::catalog::outlines::OutlineMap;
use crate::catalog::removals::{PruneRecords, PrunedSnapshots};
use crate::keep::beginning::object_before_the_beginning;
use crate::keep::gaps::{Gap, ShownSnapshots, UnreadableHead, Witnesses, unfinished};
use crate::keys::ReaderKeys;
use crate::restore::VaultReader;

/// A commit signs its manifest right after its act. After this, its program was killed.
const UNSIGNED_FOR: TimeDelta = TimeDelta::hours(2);

/// All replicas of a dataset, judged together.
pub(super) struct Together<'a> {
    pub(super) reader: &'a VaultReader,
    pub(super) dataset: &'a Name,
    pub(super) keys: &'a ReaderKeys,
    pub(super) inventories: &'a [Inventory],
    pub(super) records: &'a PruneRecords,
    pub(super) outlines: &'a OutlineMap,
}

impl Together<'_> {
    /// What stops deletions, as findings in every replica. Returns it, too.
    pub(super) async fn gaps(&self, now: DateTime<Utc>, report: &mut VerifyReport) -> Vec<Gap> {
        let Self { reader, dataset, keys, inventories, records, outlines } = *self;
        let documents = reader.documents(dataset, keys);
        let order = OrderReader { vault: reader.vault_id(), dataset, trust: &keys.trust, cache: None, host_key: None };
        let acts = order.all(inventories).await;
        let current = acts.without_passed(records.found.iter().map(|record| &record.body));
        let (unfinished, headless) = unfinished(&documents, inventories, &current, (&records.snapshots, None)).await;
        report.findings.extend(headless.into_iter().map(|UnreadableHead { inventory, snapshot, error }| Finding {
            replica: inventory.replica.name().clone(),
            object: layout::manifest(dataset, snapshot),
            problem: format!("has no signature, so nothing is deleted in this replica, because: {}", error.chain()),
        }));
        let before = match records.found.is_empty() {
            true => object_before_the_beginning(&documents, inventories, &acts, outlines).await,
            false => None,
        };
        let known = Witnesses {
            inventories,
            acts: &acts,
            outlines,
            unfinished: &unfinished,
            pruned: &records.snapshots,
            records: records.found.iter().map(|record| &record.body).collect(),
            seen: 0,
            shown: &ShownSnapshots::new(),
            emptied: &[],
            before,
            first: None,
        };
        report.findings.extend(self.lacking(&current));
        if inventories.len() > 1 {
            report.findings.extend(self.damaged(&order, &current).await);
        }
        // Branches are told as forks.
        let mut gaps: Vec<Gap> = known.gaps().into_iter().filter(|gap| !gap.is_branch()).collect();
        if let Some(act) = unsigned_newest(&current, inventories) {
            let (snapshot, since) = (&act.id, act.time.to_rfc3339_opts(SecondsFormat::Secs, true));
            let way_on = "Its act holds the signature, and the next backup, prune or catch-up puts it there. Until then, no restore sees this snapshot";
            if now.signed_duration_since(act.time).abs() < UNSIGNED_FOR {
                report.notes.push(format!(
                    "snapshot {snapshot} has no signature yet: its backup is just ending, or was killed, or its signature was removed. {way_on}"
                ));
            } else {
                let shows = inventories.iter().filter(|inventory| inventory.unsigned.contains(snapshot));
                report.findings.extend(shows.map(|inventory| Finding {
                    replica: inventory.replica.name().clone(),
                    object: layout::manifest(dataset, snapshot),
                    problem: format!(
                        "has no signature, and was committed at {since}: its backup was killed, or its signature was removed. {way_on}"
                    ),
                }));
            }
            gaps.retain(|gap| !matches!(gap, Gap::Snapshot(missing, _) if missing == snapshot));
        }
        report.findings.extend(gaps.iter().flat_map(|gap| {
            let shows = |inventory: &&Inventory| match gap {
                Gap::Unread(first, last) => inventory.acts.range(first..=last).next().is_some(),
                _ => true,
            };
            let why = match gap {
                Gap::Unread(first, _) => acts.unreadable.get(first).map(|error| format!(": {}", error.chain())),
                _ => None,
            };
            let problem = format!("{gap}{}", why.unwrap_or_default());
            inventories.iter().filter(shows).map(move |inventory| Finding {
                replica: inventory.replica.name().clone(),
                object: gap.object(dataset),
                problem: problem.clone(),
            })
        }));
        gaps
    }
}

impl Together<'_> {
    /// A finding for each replica that lacks acts which others hold, and which it has had: it holds
    /// newer ones, or the snapshots that they commit. One that was away lacks only the newest.
    fn lacking(&self, current: &Acts) -> Vec<Finding> {
        let dataset = self.dataset;
        let lacks = |inventory: &Inventory| {
            let had = |number: u64, act: &Act| {
                inventory.acts.last().is_some_and(|newest| number < *newest)
                    || (act.act == ActKind::Commit && inventory.snapshots.contains(&act.id))
            };
            let lost = current
                .found
                .iter()
                .filter(|(number, found)| !inventory.acts.contains(number) && had(**number, &found.act));
            let lost: Vec<u64> = lost.map(|(number, _)| *number).collect();
            let (first, more) = (*lost.first()?, lost.len() - 1);
            let others = if more > 0 { format!(", and so are {more} others") } else { String::new() };
            Some(Finding {
                replica: inventory.replica.name().clone(),
                object: layout::act(dataset, first),
                problem: format!(
                    "is missing{others}, and another replica holds it: `lifeboat repair {dataset}` puts it back"
                ),
            })
        };
        self.inventories.iter().filter_map(lacks).collect()
    }

    /// A finding for each act that a replica holds damaged, or does not return, and another holds
    /// whole.
    async fn damaged(&self, order: &OrderReader<'_>, current: &Acts) -> Vec<Finding> {
        let dataset = self.dataset;
        let held = self.inventories.iter().flat_map(|inventory| {
            let numbers = current.found.keys().filter(move |number| inventory.acts.contains(number));
            numbers.map(move |number| (&inventory.replica, *number))
        });
        let looks = held.map(|(replica, number)| async move {
            let error = order.fetch(replica, number).await.err().filter(|error| error.class() != Class::Keys)?;
            let key = layout::act(dataset, number);
            let is_damaged = error.class() == Class::Integrity;
            if is_damaged && replica.head(&key).await.is_ok_and(|found| found.is_none()) {
                // It was swept since it was listed.
                return None;
            }
            let way_on = format!(". Another replica holds it: `lifeboat verify {dataset} --repair` replaces it");
            let way_on = if is_damaged { way_on.as_str() } else { "" };
            Some(Finding {
                replica: replica.name().clone(),
                object: key,
                problem: format!("{}{way_on}", error.chain()),
            })
        });
        let mut found = futures::stream::iter(looks).buffered(OBJECTS_AT_ONCE);
        let mut findings = Vec::new();
        while let Some(finding) = found.next().await {
            findings.extend(finding);
        }
        findings
    }
}

/// The newest act, if it commits a snapshot whose manifest is there and nowhere signed: a commit
/// signs after its act. Nothing but the newest act can be so for long, as whoever acts next signs
/// before.
fn unsigned_newest<'a>(current: &'a Acts, inventories: &[Inventory]) -> Option<&'a Act> {
    let act = &current.found.last_key_value()?.1.act;
    let is_there = inventories.iter().any(|inventory| inventory.unsigned.contains(&act.id));
    let is_signed = inventories.iter().any(|inventory| inventory.snapshots.contains(&act.id));
    (act.act == ActKind::Commit && is_there && !is_signed).then_some(act)
}

/// A finding for each snapshot whose predecessor is in no replica and in no record, and for each
/// replica that holds it, but for those that `gaps` name.
pub(super) fn missing(
    dataset: &Name,
    links: &AllLinks,
    everywhere: &BTreeSet<&SnapshotId>,
    pruned: &PrunedSnapshots,
    gaps: &[Gap],
) -> Vec<Finding> {
    let told = |snapshot: &SnapshotId| gaps.iter().any(|gap| matches!(gap, Gap::Snapshot(told, _) if told == snapshot));
    let mut found = Vec::new();
    for (snapshot, (holders, link)) in links {
        let Some(Previous { snapshot: before, .. }) = &link.previous else { continue };
        if everywhere.contains(before) || pruned.contains_key(before) || told(before) {
            continue;
        }
        found.extend(holders.iter().map(|replica| Finding {
            replica: replica.clone(),
            object: layout::manifest(dataset, before),
            problem: format!(
                "is missing: it is the predecessor of {snapshot}, and no prune record that can be read names it"
            ),
        }));
    }
    found
}

/// Where all snapshots stand, and which replicas hold them.
pub(super) type AllLinks = BTreeMap<SnapshotId, (Vec<Name>, Link)>;

/// Where snapshots stand in their dataset.
pub(super) type Links = BTreeMap<SnapshotId, Link>;

/// Where a snapshot stands in its dataset.
pub(super) struct Link {
    /// 0 in format 1.
    pub(super) sequence: u64,
    pub(super) previous: Option<Previous>,
    /// The hash of its manifest as it is stored.
    pub(super) hash: Digest,
}

impl Link {
    pub(super) fn of(manifest: &Manifest, hash: Digest) -> Self {
        Self { sequence: manifest.sequence, previous: manifest.previous.clone(), hash }
    }
}

/// A finding for each snapshot that claims the place of another, in the same replica or elsewhere,
/// and for each replica that holds it.
pub(super) fn forks(dataset: &Name, links: &AllLinks) -> Vec<Finding> {
    let (mut places, mut successors, mut found) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (snapshot, (holders, link)) in links {
        let same_place = if link.sequence > 0 { places.insert(link.sequence, snapshot) } else { None };
        let before = link.previous.as_ref().map(|previous| &previous.snapshot);
        let same_predecessor = before.and_then(|before| successors.insert(before, snapshot));
        let problem = match (same_place, same_predecessor) {
            (Some(other), _) => format!("{other} has the same place in the sequence, {}", link.sequence),
            (None, Some(other)) => format!("{other} has the same predecessor"),
            (None, None) => continue,
        };
        found.extend(holders.iter().map(|replica| Finding {
            replica: replica.clone(),
            object: layout::manifest(dataset, snapshot),
            problem: format!(
                "is a fork: {problem}; two hosts back up this dataset, or a backup did not see all replicas; both can be restored"
            ),
        }));
    }
    found
}
