//! Where a run stands in the order of its dataset. What the commit would refuse after the capture
//! is refused here, before it.
//!
//! Replicas whose part of the order cannot be read are as good as away: if there are enough others,
//! they do not stop the backup. But a host that believes no act at all, and finds one of a host
//! that it does not trust, begins no second chain beside it.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{MarkRecord, PruneRecord};
use lifeboat_store::SharedReplica;

use super::Backup;
use crate::catalog::ciphertext::put_once;
use crate::catalog::documents::Documents;
use crate::catalog::inventory::Inventory;
use crate::catalog::order::{Acts, FoundAct, OrderReader};
use crate::catalog::records::RecordReader;
use crate::catalog::verdict::is_verdict;
use crate::state::seen;

/// Where a run stands in the order of its dataset.
pub(super) struct Standing {
    /// The newest act when the run looked.
    pub(super) last: Option<FoundAct>,
    /// The newest number that this host has ever seen.
    pub(super) seen: u64,
}

impl Backup<'_> {
    /// Finds where this run stands in the order. Replicas that were away get the acts that they
    /// lack, and signatures that were not put or are gone are put there. Packs that marks name are
    /// not there for this run, so it cannot refer to them.
    pub(super) async fn stand(
        &self,
        order: &OrderReader<'_>,
        documents: &Documents<'_>,
        (members, records): (&mut Vec<Inventory>, &mut Vec<Inventory>),
        failed: &mut BTreeMap<Name, Error>,
        warnings: &mut Vec<String>,
    ) -> Result<Standing> {
        let dataset = &self.dataset.name;
        let last = self.newest_act(order, members, records, failed).await?;
        let number = last.as_ref().map_or(0, |last| last.act.number);
        let seen = seen::read(self.state, dataset).unwrap_or_else(|error| {
            warnings.push(format!(
                "this host cannot tell whether acts of {dataset} were lost, and prune deletes nothing: {}",
                error.chain_and_hint()
            ));
            0
        });
        if number < seen {
            refuse_old_listings(order, members, failed, seen).await?;
            let who = if failed.is_empty() { "every replica shows" } else { "the replicas that can be used show" };
            warnings.push(format!(
                "{who} acts of {dataset} up to number {number} only, and this host has seen {seen}: they were emptied or rolled back; run `lifeboat repair {dataset}`"
            ));
        }
        let reader = RecordReader { vault: order.vault, dataset, trust: order.trust };
        let acts = self.current_acts(order, &reader, (&mut *members, records.as_slice()), failed).await;
        let (mut level, all) = (Vec::new(), [members.as_slice(), records.as_slice()].concat());
        for mut member in members.drain(..) {
            let brought = async {
                order.level(&mut member, &all, number).await?;
                order.finish(documents, &mut member, &acts).await
            };
            match brought.await {
                Ok(finished) => {
                    for key in finished {
                        warnings.push(format!(
                            "replica {}: {key} had no signature, and has it again",
                            member.replica.name()
                        ));
                    }
                    level.push(member);
                }
                Err(error) => drop(failed.insert(member.replica.name().clone(), error)),
            }
        }
        *members = level;
        if let Some(last) = &last {
            level_records(order, records, last, failed).await;
        }
        self.refuse_a_taken_number(order, members, number.max(seen).saturating_add(1)).await?;
        let marked = marked_packs(&reader, members, failed, warnings).await;
        drop(all);
        members.iter_mut().for_each(|member| member.forget(&marked));
        Ok(Standing { last, seen })
    }

    /// The newest act that is believed.
    async fn newest_act(
        &self,
        order: &OrderReader<'_>,
        members: &mut Vec<Inventory>,
        records: &mut Vec<Inventory>,
        failed: &mut BTreeMap<Name, Error>,
    ) -> Result<Option<FoundAct>> {
        let mut stranger = None;
        loop {
            match order.newest(&[members.as_slice(), records.as_slice()].concat()).await {
                Ok(None) if stranger.is_some() => return stranger.map_or(Ok(None), Err),
                Ok(last) => return Ok(last),
                Err((number, error)) => {
                    set_aside(members, failed, &error, |member| member.acts.contains(&number));
                    set_aside(records, failed, &error, |place| place.acts.contains(&number));
                    if members.len() < self.config.min_replicas.max(1) {
                        return Err(error);
                    }
                    if error.class() == Class::Keys {
                        stranger.get_or_insert(error);
                    }
                }
            }
        }
    }

    /// The acts that no prune record calls gone; none if nothing is unfinished. Nothing is finished
    /// in a replica whose prune records are not all known: one may call it gone.
    async fn current_acts(
        &self,
        order: &OrderReader<'_>,
        reader: &RecordReader<'_>,
        (members, records): (&mut Vec<Inventory>, &[Inventory]),
        failed: &mut BTreeMap<Name, Error>,
    ) -> Acts {
        if members.iter().all(|member| member.unfinished.is_empty()) {
            return Acts::default();
        }
        let (prunes, unreadable) = reader.read_all::<PruneRecord>(members).await;
        for (record, error) in unreadable.iter().filter(|(_, error)| !is_verdict(error)) {
            set_aside(members, failed, error, |member| member.prunes.contains(record));
        }
        let all = [members.as_slice(), records].concat();
        order.all(&all).await.without_passed(prunes.iter().map(|record| &record.body))
    }

    /// Refuses before the capture what the commit would refuse after it: in so many replicas that
    /// too few are left, something that this host cannot believe has the next number.
    async fn refuse_a_taken_number(&self, order: &OrderReader<'_>, members: &[Inventory], number: u64) -> Result<()> {
        let (taken, free): (Vec<&Inventory>, Vec<&Inventory>) =
            members.iter().partition(|member| member.acts.contains(&number));
        let Some(first) = taken.first().filter(|_| free.len() < self.config.min_replicas.max(1)) else {
            return Ok(());
        };
        match order.fetch(&first.replica, number).await {
            // Another host has taken it meanwhile.
            Ok(_) => Ok(()),
            Err(error) => {
                let dataset = order.dataset;
                let hint = match error.hint_text() {
                    Some(hint) => hint.to_owned(),
                    None if error.class() == Class::Integrity => format!(
                        "run `lifeboat verify {dataset} --repair` when every replica answers: it replaces what is damaged"
                    ),
                    None => "find out who writes there".to_owned(),
                };
                let what = format!("no backup of {dataset} can be committed: act {number} has been written");
                Err(error.within(what).hint(hint))
            }
        }
    }
}

/// Gives the newest act to places that hold records alone, and lack it. With it, they show every
/// writer that slept that others have acted; so they need no older ones.
async fn level_records(
    order: &OrderReader<'_>,
    records: &mut Vec<Inventory>,
    last: &FoundAct,
    failed: &mut BTreeMap<Name, Error>,
) {
    let number = last.act.number;
    for place in records.iter_mut().filter(|place| !place.acts.contains(&number)) {
        match put_once(place.replica.as_ref(), &layout::act(order.dataset, number), last.stored.clone()).await {
            Ok(()) => {
                place.acts.insert(number);
            }
            Err(error) => drop(failed.insert(place.replica.name().clone(), error)),
        }
    }
    records.retain(|place| !failed.contains_key(place.replica.name()));
}

/// Refuses to go on if no replica lists the newest act that this host has seen, and one has it:
/// what follows would be a branch. Replicas that do not tell are set aside.
async fn refuse_old_listings(
    order: &OrderReader<'_>,
    members: &mut Vec<Inventory>,
    failed: &mut BTreeMap<Name, Error>,
    seen: u64,
) -> Result<()> {
    let mut silent: BTreeMap<Name, Error> = BTreeMap::new();
    for member in members.iter() {
        match order.old_listing(member, seen).await {
            Ok(None) => {}
            Ok(Some(error)) => return Err(error),
            Err(error) => drop(silent.insert(member.replica.name().clone(), error)),
        }
    }
    for (name, error) in &silent {
        set_aside(members, failed, error, |member| member.replica.name() == name);
    }
    Ok(())
}

/// The packs that marks name. Replicas whose marks are not all known are set aside: such a mark may
/// name packs that are deleted right now. What lies there and is no mark is passed over.
async fn marked_packs(
    reader: &RecordReader<'_>,
    members: &mut Vec<Inventory>,
    failed: &mut BTreeMap<Name, Error>,
    warnings: &mut Vec<String>,
) -> BTreeSet<PackId> {
    let (marks, unreadable) = reader.read_all::<MarkRecord>(members).await;
    let marked: BTreeSet<PackId> = marks.into_iter().flat_map(|mark| mark.body.packs).collect();
    for (mark, error) in unreadable {
        if !is_verdict(&error) {
            set_aside(members, failed, &error, |member| member.marks.contains(&mark));
            continue;
        }
        let mut doubted: BTreeMap<Name, Error> = BTreeMap::new();
        for holder in holders(members, &mark) {
            if let Err(error) = check_still_there(reader.dataset, holder, &mark).await {
                doubted.insert(holder.name().clone(), error);
            }
        }
        if doubted.is_empty() {
            warnings.push(format!("mark {mark} cannot be believed, and is passed over: {}", error.chain()));
        }
        for (name, error) in &doubted {
            set_aside(members, failed, error, |member| member.replica.name() == name);
        }
    }
    marked
}

/// The replicas that list a mark.
fn holders<'m>(members: &'m [Inventory], mark: &SnapshotId) -> impl Iterator<Item = &'m SharedReplica> {
    members.iter().filter(move |member| member.marks.contains(mark)).map(|member| &member.replica)
}

/// Checks that a mark which this replica has listed is still there, and its signature too. A sweep
/// deletes what a mark names, and then the mark.
///
/// # Errors
/// One of them is gone, or nobody knows.
async fn check_still_there(dataset: &Name, replica: &SharedReplica, mark: &SnapshotId) -> Result<()> {
    let key = layout::mark(dataset, mark);
    for key in [layout::signature(&key), key] {
        if replica.head(&key).await?.is_none() {
            let what = format!("replica {} does not show {key} any more", replica.name());
            return Err(Error::storage(what)
                .because("another host deletes what it names right now")
                .hint("back up again when the other host has pruned"));
        }
    }
    Ok(())
}

/// Takes the replicas that hold something out of the run, because of an error about it.
fn set_aside(
    members: &mut Vec<Inventory>,
    failed: &mut BTreeMap<Name, Error>,
    error: &Error,
    holds: impl Fn(&Inventory) -> bool,
) {
    for holder in members.extract_if(.., |member| holds(member)) {
        let away = Error::storage(error.chain());
        let away = error.hint_text().map(str::to_owned).into_iter().fold(away, Error::hint);
        failed.insert(holder.replica.name().clone(), away);
    }
}
