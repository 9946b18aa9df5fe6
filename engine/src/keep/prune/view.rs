//! What a prune looks at before it plans: what the replicas hold, and which of them to doubt.
//!
//! What a trusted signer has signed and this program does not understand stops every deletion: a
//! newer program wrote it. What may be signed, for all that can be told, stops every deletion, too:
//! its replica fails, or it is longer than may be held here. What no replica returns signed may be
//! anybody's. It stops deletions only in the replicas that show it.
//!
//! A record that a stranger signed, such as a retired host, decides nothing and is ignored. It
//! could only excuse what is missing, and name what is to go.
//!
//! Where something is doubted, signed manifests are still believed: what they refer to stays in
//! every replica.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lifeboat_base::{Class, Error, Result};
use lifeboat_format::act::ActKind;
use lifeboat_format::id::{Digest, Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{MarkRecord, PruneRecord, RecordType};
use lifeboat_store::SharedReplica;

use super::doubts::{Doubts, NO_ANSWER};
use super::memory::{Memory, SeenMarks};
use super::proved::NewestProved;
use super::{Prune, shown};
use crate::catalog::documents::Documents;
use crate::catalog::first_sights::FirstSights;
use crate::catalog::inventory::{Inventory, NotListed, all_snapshots};
use crate::catalog::order::{Acts, OrderReader};
use crate::catalog::outlines::{KeptOutlines, OutlineMap, Outlines, ReadOutlines};
use crate::catalog::records::{FoundRecord, RecordReader};
use crate::catalog::removals::{PrunedSnapshots, prune_records_since};
use crate::catalog::taken::{SettledTimes, TakenTimes, TimeClaim};
use crate::catalog::unbelieved::Unbelieved;
use crate::catalog::verdict::{Signed, combine, is_verdict};
use crate::catalog::vetoes::{HeldMarks, Vetoes};
use crate::keep::beginning::object_before_the_beginning;
use crate::keep::gaps::{Gap, UnreadableHead, Witnesses, refusal, unfinished};
use crate::root;
use crate::state::cache::ObjectCache;
use crate::state::seen;

/// What to do about a manifest that no replica returns whole.
const UNREADABLE_MANIFEST: &str =
    "run `lifeboat verify` to see why; remove the manifest by hand only if no replica has a good one";
/// What to do about one that a trusted host signed, and this one cannot decrypt.
const UNOPENED_MANIFEST: &str = "another host wrote it for itself: name both in `hosts` of the dataset, and run \
    `lifeboat init --identity MASTER` on this one";
/// What to do about a mark that no replica returns whole.
const UNREADABLE_MARK: &str = "prune again: another host may just have carried the mark out; if it stays, remove the mark by hand, and nothing that it names is deleted by it";

/// What the replicas hold, and what could not be looked at.
pub(in crate::keep) struct View {
    /// The replicas from which something may go.
    pub(in crate::keep) inventories: Vec<Inventory>,
    /// Every snapshot that any replica shows and that no prune record names.
    pub(in crate::keep) by_snapshot: OutlineMap,
    /// These, with the packs that they name; and others that are gone.
    pub(in crate::keep) outlines: Outlines,
    /// Every snapshot that `inventories` show. Rules of retention count no others.
    pub(super) shown: BTreeSet<SnapshotId>,
    /// When these snapshots were taken.
    pub(in crate::keep) times: TakenTimes,
    pub(super) records: Vec<FoundRecord<PruneRecord>>,
    /// The times that the records settle, whether they count or not.
    pub(in crate::keep) settled: SettledTimes,
    /// Every snapshot that one of the records removes.
    pub(super) pruned: PrunedSnapshots,
    /// Those of them that a replica still shows.
    pub(super) leftovers: Vec<SnapshotId>,
    /// What killed runs have left: objects without a signature that no act names.
    pub(super) leftover_objects: BTreeSet<String>,
    /// What sweeps have begun to delete: objects whose signature is gone.
    pub(super) removed_objects: BTreeSet<String>,
    /// Packs that manifests without a signature name which may have been committed, in each replica
    /// that shows such a manifest.
    pub(super) pinned: BTreeMap<Name, HashSet<PackId>>,
    pub(super) acts: Acts,
    /// The places for records alone that cannot be used, and why: one may hold another vault. They
    /// take no act, so nothing is marked or deleted, and nothing is deleted there.
    pub(super) refused_records: BTreeMap<Name, Error>,
    /// The marks that some replica shows, oldest first.
    pub(super) marks: Vec<FoundRecord<MarkRecord>>,
    /// Those of them that no sweep has carried out in any replica. The others are left in replicas
    /// that were away.
    pub(super) current_marks: BTreeSet<SnapshotId>,
    /// The newest number that replicas show, or that this host has seen.
    pub(super) newest: u64,
    /// The newest of `shown` that drills proved, without what lies in the future.
    pub(super) proved: NewestProved,
    /// Who vetoes which of the marks.
    pub(super) vetoed: Vetoes,
    /// What these marks name, and others that this warden has seen.
    pub(super) held: HeldMarks,
    /// What this warden saw first; `None` on other machines.
    pub(super) first: Option<FirstSights>,
    pub(super) memory: Memory,
    /// The replicas that are left alone, and why.
    pub(in crate::keep) skipped: Vec<(Name, String)>,
    /// Those of them in which something cannot be read.
    pub(super) doubted: Vec<(Name, String)>,
    pub(super) cache: ObjectCache,
}

impl View {
    /// The hash of a snapshot's manifest as it is stored.
    pub(super) fn hash(&self, snapshot: &SnapshotId) -> Option<Digest> {
        self.by_snapshot.get(snapshot).map(|outline| outline.hash)
    }
}

impl View {
    /// Who vetoes which mark.
    pub(in crate::keep) fn vetoed(&self) -> &Vetoes {
        &self.vetoed
    }

    /// The marks, and what they name.
    pub(in crate::keep) fn mark_bodies(&self) -> impl Iterator<Item = (&SnapshotId, &MarkRecord)> {
        self.marks.iter().map(|mark| (&mark.id, &mark.body))
    }
}

/// What a look found, whether something may be deleted after it or not.
pub(in crate::keep) struct Survey {
    pub(in crate::keep) view: View,
    /// What is missing and in no record.
    pub(in crate::keep) gaps: Vec<Gap>,
    /// Why nothing may be deleted in any replica, beside the gaps.
    pub(in crate::keep) doubt: Option<Error>,
    /// If no replica is without doubt: why.
    unusable: Vec<Error>,
}

impl Prune<'_> {
    /// Looks at everything before a deletion.
    ///
    /// # Errors
    /// Nothing may be deleted.
    pub(in crate::keep) async fn look(&self, memory: Memory) -> Result<View> {
        let dataset = &self.dataset.name;
        let Survey { view, gaps, doubt, unusable } = self.survey(memory).await?;
        let doubt = doubt
            .or_else(|| {
                let doubted = |name: &Name| view.doubted.iter().any(|(known, _)| known == name);
                let away: Vec<&Name> =
                    view.skipped.iter().map(|(name, _)| name).filter(|name| !doubted(name)).collect();
                (!gaps.is_empty()).then(|| refusal(dataset, &gaps, &away))
            })
            .or_else(|| self.check_time(&view.by_snapshot, &view.times).err());
        let reasons = doubt.map_or(unusable, |doubt| vec![doubt]);
        if reasons.is_empty() {
            return Ok(view);
        }
        let reasons = if let [only] = &reasons[..] {
            Error::new(only.class(), only.chain()).hint(only.hint_text().unwrap_or("run `lifeboat check`"))
        } else {
            combine("every replica is left alone".to_owned(), &reasons)
        };
        let hint = reasons.hint_text().unwrap_or("run `lifeboat check`").to_owned();
        Err(reasons.within(format!("nothing in dataset {dataset} is deleted")).hint(hint))
    }

    /// Looks at everything. Puts back signatures and acts that replicas lack, and changes nothing
    /// else.
    ///
    /// # Errors
    /// No replica can be used, or the state directory fails.
    pub(in crate::keep) async fn survey(&self, memory: Memory) -> Result<Survey> {
        let dataset = &self.dataset.name;
        let renewed = root::renew(self.keys, self.replicas, self.state, self.clock.now()).await?;
        let (mut inventories, not_listed) =
            Inventory::take_each_to_write(self.replicas, &self.keys.vault, dataset).await;
        let (mut failed, mut doubts) = (BTreeMap::new(), Doubts::default());
        if let Some((root, found)) = renewed
            && found.holders.is_empty()
        {
            // A newer root may revoke whoever signed what asks for a deletion.
            let errors: Vec<Error> = found.unanswered.into_values().collect();
            let doubt = combine(format!("no replica shows root {}, or a newer one", root.root.version), &errors);
            doubts.everywhere = Some(doubt.hint(NO_ANSWER));
        }
        let mut emptied = Vec::new();
        for (name, NotListed { error, answered, is_empty }) in not_listed {
            if is_empty {
                emptied.push(name.clone());
            }
            // What a replica answers and cannot be used is told even if the others can be pruned.
            if answered { &mut doubts.replicas } else { &mut failed }.insert(name, error);
        }
        if inventories.is_empty() && doubts.replicas.is_empty() {
            return Err(combine(
                format!("no replica can be used for dataset {dataset}"),
                &failed.into_values().collect::<Vec<_>>(),
            ));
        }
        // What this host has seen may be the only witness of a loss.
        let shown_before = doubts.unless_read(shown::read(self.state, dataset));
        let seen = doubts.unless_read(seen::read(self.state, dataset));
        let cache = ObjectCache::open(self.state, dataset, &self.keys.trust.mark());
        let order = OrderReader::of_host(self.keys, dataset, &cache);
        let (of_records, refused_records) = Inventory::take_all_to_write(self.records, &self.keys.vault, dataset).await;
        let acts = order.all(&[inventories.as_slice(), of_records.as_slice()].concat()).await;
        if let Some((number, error)) = acts.unreadable.iter().find(|(_, error)| !is_verdict(error)) {
            let doubt = Error::new(error.class(), error.chain()).within(format!("act {number} cannot be read"));
            let hint = doubt.hint_text().filter(|_| error.class() != Class::Storage).unwrap_or(NO_ANSWER).to_owned();
            doubts.everywhere.get_or_insert(doubt.hint(hint));
        }
        for holder in inventories.iter().filter(|inventory| acts.left_aside.contains(inventory.replica.name())) {
            let error = Error::integrity("too many acts that cannot be believed hide the others");
            let hint = format!("remove what is below {} and is not yours", layout::order(dataset));
            doubts.add(&[holder], Signed::ByNobody, &error, &hint);
        }
        if acts.newest() < seen {
            for inventory in &inventories {
                if let Some(doubt) = order.old_listing(inventory, seen).await.unwrap_or_else(Some) {
                    let hint = doubt.hint_text().unwrap_or(NO_ANSWER).to_owned();
                    doubts.everywhere.get_or_insert(doubt.hint(hint));
                }
            }
        }
        let reader = self.keys.reader();
        let bytes = self.config.limits.memory;
        let documents =
            Documents { vault: &self.keys.vault, dataset, keys: &reader, cache: Some(&cache), memory: bytes };
        let mut first = None;
        if self.keys.is_warden {
            let (sights, lost) = self.first_sights().await;
            doubts.everywhere = doubts.everywhere.or(lost);
            first = Some(sights);
        }
        let all_answer = inventories.len() == self.replicas.len();
        let sights = first.as_mut().map(|first| (first, all_answer));
        let records = prune_records_since(&documents, &inventories, sights).await;
        let record_reader = RecordReader { vault: &self.keys.vault, dataset, trust: &reader.trust };
        let (marks, unreadable) = record_reader.read_all::<MarkRecord>(&inventories).await;
        for (id, error) in unreadable {
            let error = error.within(format!("{} cannot be read", layout::mark(dataset, &id)));
            let holders: Vec<&Inventory> =
                inventories.iter().filter(|inventory| inventory.marks.contains(&id)).collect();
            let of: Vec<&SharedReplica> = holders.iter().map(|holder| &holder.replica).collect();
            let signed = record_reader.signed(RecordType::Mark, &of, &id).await;
            // What is not understood is carried out by nobody here.
            let is_not_understood = signed == Signed::Trusted && error.class() != Class::Storage;
            if signed != Signed::ByStrangers && !is_not_understood {
                doubts.add(&holders, signed, &error, UNREADABLE_MARK);
            }
        }
        // One that cannot be fetched may call things gone that could be finished.
        let all_records_known = records.unreadable.values().all(is_verdict);
        let settled = records.settled_times();
        let mut strangers = Unbelieved::new("a prune record whose signer is not trusted");
        for (id, error) in records.unreadable {
            let own = error.hint_text().unwrap_or("run `lifeboat verify` to see why").to_owned();
            let error = error.within(format!("{} cannot be read", layout::prune(dataset, &id))).hint(own);
            let holders: Vec<&Inventory> =
                inventories.iter().filter(|inventory| inventory.prunes.contains(&id)).collect();
            let record_reader = RecordReader { vault: &self.keys.vault, dataset, trust: &reader.trust };
            let of: Vec<&SharedReplica> = holders.iter().map(|holder| &holder.replica).collect();
            let signed = record_reader.signed(RecordType::Prune, &of, &id).await;
            if signed == Signed::ByStrangers {
                // It decides nothing: what it names counts as if it had not been removed.
                strangers.add(holders.iter().map(|holder| holder.replica.name()), &id, &error);
                continue;
            }
            doubts.add(&holders, signed, &error, "");
        }
        strangers.log("it is ignored");
        let (pruned, records) = (records.snapshots, records.found);
        let current = acts.without_passed(records.iter().map(|record| &record.body));
        let to_finish = if all_records_known { &current } else { &Acts::default() };
        let level = (&of_records[..], acts.newest(), to_finish);
        self.bring_level(&order, &documents, level, &mut inventories, &mut doubts).await;
        let snapshots = all_snapshots(&inventories).into_iter().rev().filter(|snapshot| !pruned.contains_key(snapshot));
        let ReadOutlines { outlines, by_snapshot, unreadable } = if let Some(sights) = &mut first {
            documents.outlines_of_needs(&inventories, snapshots, sights, self.clock.now()).await
        } else {
            let kept = KeptOutlines::open(&cache, &self.keys.host_key, &self.keys.vault, dataset);
            documents.outlines(&inventories, snapshots, Some(&kept)).await
        };
        let found = SeenMarks { inventories: &inventories, marks: &marks, by_snapshot: &by_snapshot, pruned: &pruned };
        let (vetoed, held) = self.vetoes(&found, (first.as_mut(), memory), &mut doubts).await;
        for (snapshot, error) in unreadable {
            let holders: Vec<&Inventory> =
                inventories.iter().filter(|inventory| inventory.snapshots.contains(&snapshot)).collect();
            let of = holders.iter().map(|holder| &holder.replica);
            let signed = documents.signed(of, &snapshot).await;
            let is_unopened = signed == Signed::Trusted && error.class() == Class::Keys;
            let hint = if is_unopened { UNOPENED_MANIFEST } else { UNREADABLE_MANIFEST };
            doubts.add(&holders, signed, &error, hint);
        }
        let times = settled.among(by_snapshot.values().map(|outline| TimeClaim::from(outline.as_ref())));
        let times = self.seen_by_others(&inventories, &by_snapshot, times, first.as_ref(), &mut doubts).await;
        let proved = self.newest_proved(&inventories, &by_snapshot, &times, &mut doubts).await;
        let (unfinished, headless) = unfinished(&documents, &inventories, &current, (&pruned, first.as_ref())).await;
        for UnreadableHead { inventory, snapshot, error } in headless {
            let error = error.within(format!("{} has no signature", layout::manifest(dataset, snapshot)));
            doubts.add(&[inventory], Signed::ByNobody, &error, UNREADABLE_MANIFEST);
        }
        let before = match records.is_empty() {
            true => object_before_the_beginning(&documents, &inventories, &acts, &by_snapshot).await,
            false => None,
        };
        let known = Witnesses {
            inventories: &inventories,
            acts: &acts,
            outlines: &by_snapshot,
            unfinished: &unfinished,
            pruned: &pruned,
            records: records.iter().map(|record| &record.body).collect(),
            seen,
            shown: &shown_before,
            emptied: &emptied,
            before,
            first: first.as_ref(),
        };
        // Where nothing was listed, nothing is known.
        let gaps = if inventories.is_empty() { Vec::new() } else { known.gaps() };
        let is_current = |mark: &&FoundRecord<MarkRecord>| {
            let mut acts = current.found.values().map(|found| &found.act);
            acts.any(|act| act.act == ActKind::Mark && act.id == mark.id && act.blake3 == mark.hash)
        };
        let current_marks: BTreeSet<SnapshotId> = marks.iter().filter(is_current).map(|mark| mark.id.clone()).collect();
        // What was a leftover when it was marked stays one, though acts have gone that showed it,
        // and though a sweep has carried the mark out in another replica, and was then cut short.
        let marked: HashSet<&String> = marks.iter().flat_map(|mark| &mark.body.objects).collect();
        let is_leftover = |snapshot: &SnapshotId| {
            marked.contains(&layout::manifest(dataset, snapshot))
                || unfinished.get(snapshot).is_some_and(|head| known.is_leftover(snapshot, head))
        };
        let unsettled: BTreeSet<&SnapshotId> = unfinished.keys().filter(|snapshot| !is_leftover(snapshot)).collect();
        let pinned = pinned(&documents, &inventories, (&unsettled, first.as_ref()), &mut doubts).await;
        // Records count for nothing without an act.
        let is_removed = |key: &str| {
            let snapshot = layout::parse_manifest(dataset, key);
            snapshot.is_some_and(|snapshot| pruned.contains_key(&snapshot)) || acts.names(key)
        };
        let lone = if all_answer { lone_signatures(dataset, &inventories) } else { BTreeSet::new() };
        let without_act: BTreeSet<String> = inventories
            .iter()
            .flat_map(|inventory| &inventory.unfinished)
            .chain(&lone)
            .filter(|key| !current.names(key))
            .cloned()
            .collect();
        let (removed_objects, others): (BTreeSet<String>, BTreeSet<String>) =
            without_act.into_iter().partition(|key| is_removed(key));
        let leftover_objects = others
            .into_iter()
            .filter(|key| layout::parse_manifest(dataset, key).is_none_or(|id| is_leftover(&id)) || lone.contains(key))
            // That of a snapshot has lost its signature, and may get it back.
            .filter(|key| layout::parse_index(dataset, key).is_none_or(|id| !by_snapshot.contains_key(&id)))
            .collect();
        inventories.retain(|inventory| !doubts.replicas.contains_key(inventory.replica.name()));
        let mut unusable = Vec::new();
        if inventories.is_empty() {
            let again = |error: &Error| {
                let again = Error::new(error.class(), error.chain());
                error.hint_text().map(str::to_owned).into_iter().fold(again, Error::hint)
            };
            unusable = doubts.replicas.values().chain(failed.values()).map(again).collect();
        }
        let shown = all_snapshots(&inventories);
        let leftovers = shown.iter().filter(|snapshot| pruned.contains_key(snapshot)).cloned().collect();
        let doubted = doubts.replicas.into_iter().map(|(name, error)| {
            (name, format!("nothing in dataset {dataset} is deleted there, because: {}", error.chain_and_hint()))
        });
        let doubted: Vec<(Name, String)> = doubted.collect();
        let mut skipped: Vec<_> = failed.into_iter().map(|(name, error)| (name, error.chain())).collect();
        skipped.extend(doubted.iter().cloned());
        let newest = acts.newest().max(seen);
        let view = View {
            refused_records,
            inventories,
            by_snapshot,
            outlines,
            shown,
            times,
            records,
            settled,
            pruned,
            leftovers,
            leftover_objects,
            removed_objects,
            pinned,
            acts,
            marks,
            current_marks,
            newest,
            proved,
            vetoed,
            held,
            first,
            memory,
            skipped,
            doubted,
            cache,
        };
        Ok(Survey { view, gaps, doubt: doubts.everywhere, unusable })
    }

    /// Gives each replica the acts that it lacks of the others and of `records`, and the signatures
    /// that `to_finish` hold. One that fails is doubted: what it lists still counts for what is
    /// missing.
    async fn bring_level(
        &self,
        order: &OrderReader<'_>,
        documents: &Documents<'_>,
        (records, newest, to_finish): (&[Inventory], u64, &Acts),
        inventories: &mut [Inventory],
        doubts: &mut Doubts,
    ) {
        let all = [&*inventories, records].concat();
        for inventory in inventories {
            let brought = async {
                order.level(inventory, &all, newest).await?;
                order.finish(documents, inventory, to_finish).await
            };
            match brought.await {
                Ok(finished) => {
                    for key in finished {
                        tracing::warn!(replica = %inventory.replica.name(), %key, "An object had no signature, and has it again");
                    }
                }
                Err(error) => doubts.add(&[inventory], Signed::ByNobody, &error, "run `lifeboat check`"),
            }
        }
    }
}

/// The keys of objects of which some replicas list the signature, and none the object. No writer
/// leaves any: it writes the object first, and deletes it last.
fn lone_signatures(dataset: &Name, inventories: &[Inventory]) -> BTreeSet<String> {
    let is_held = |key: &String| inventories.iter().any(|inventory| inventory.lists(dataset, key));
    inventories.iter().flat_map(|inventory| &inventory.lone_signatures).filter(|key| !is_held(key)).cloned().collect()
}

/// The packs that each replica holds and that manifests of `unsettled` snapshots name there. A
/// replica in which such a manifest cannot be read is doubted.
async fn pinned(
    documents: &Documents<'_>,
    inventories: &[Inventory],
    (unsettled, first): (&BTreeSet<&SnapshotId>, Option<&FirstSights>),
    doubts: &mut Doubts,
) -> BTreeMap<Name, HashSet<PackId>> {
    let mut pinned: BTreeMap<Name, HashSet<PackId>> = BTreeMap::new();
    for inventory in inventories {
        for snapshot in unsettled.iter().filter(|snapshot| inventory.unsigned.contains(**snapshot)) {
            let replica = inventory.replica.name();
            let key = layout::manifest(documents.dataset, snapshot);
            match documents.uncommitted_packs(&inventory.replica, snapshot, first).await {
                Ok(packs) => {
                    tracing::warn!(%replica, %key, "A manifest has no signature, and may have been committed: it stays, and its packs do");
                    let held = packs.into_iter().filter(|pack| inventory.packs.contains_key(pack));
                    pinned.entry(replica.clone()).or_default().extend(held);
                }
                Err(error) => {
                    let error = error.within(format!("{key} has no signature"));
                    doubts.add(&[inventory], Signed::ByNobody, &error, UNREADABLE_MANIFEST);
                }
            }
        }
    }
    pinned
}
