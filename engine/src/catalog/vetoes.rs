//! Vetoes: whom the root lets forbid that a mark is carried out. See "Vetoes" in `FORMAT.md`.
//!
//! - **Signed is enough**: a veto holds its mark though the hash that it tells is of other content.
//!   Whoever wrote it has seen what somebody exchanged later.
//! - **What stands in its place** and is no veto holds nothing by itself, as anybody can put it
//!   there. But it may have taken the place of one. So a warden leaves the replica alone that shows
//!   it, unless it knows the veto; and all of them where nobody can tell what stands there.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::MarkRecord;
use lifeboat_format::veto::{MAX_VETO_BYTES, Veto, split_veto};
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use super::inventory::Inventory;
use super::records::FoundRecord;
use crate::keys::trust::Trust;

/// Who vetoes each mark.
pub type Vetoes = BTreeMap<SnapshotId, BTreeSet<Name>>;

/// What vetoed marks name.
pub(crate) type HeldMarks = BTreeMap<SnapshotId, HeldMark>;

/// What a vetoed mark names.
#[derive(Debug, Default, Clone)]
pub(crate) struct HeldMark {
    /// Who vetoed it.
    pub names: BTreeSet<Name>,
    pub snapshots: BTreeSet<SnapshotId>,
    pub packs: BTreeSet<PackId>,
}

/// What these marks name, as far as they are vetoed.
pub(crate) fn held(marks: &[FoundRecord<MarkRecord>], vetoed: &Vetoes) -> HeldMarks {
    let of_mark = |mark: &FoundRecord<MarkRecord>| {
        let names = vetoed.get(&mark.id)?.clone();
        let snapshots = mark.body.snapshots.iter().map(|marked| marked.snapshot.clone()).collect();
        Some((mark.id.clone(), HeldMark { names, snapshots, packs: mark.body.packs.iter().copied().collect() }))
    };
    marks.iter().filter_map(of_mark).collect()
}

/// What stands in the place of a veto, and is none as far as can be told.
pub(crate) struct NoVeto {
    pub mark: SnapshotId,
    pub name: Name,
    /// The replica that shows it.
    pub replica: Name,
    pub error: Error,
}

/// The vetoes of these marks that replicas show, and what stands in the places of others.
pub(crate) async fn vetoes(
    (vault, dataset, trust): (&str, &Name, &Trust),
    inventories: &[Inventory],
    marks: &BTreeSet<SnapshotId>,
) -> (Vetoes, Vec<NoVeto>) {
    let (mut found, mut others) = (Vetoes::new(), Vec::new());
    let names = trust.who_may_veto();
    for inventory in inventories {
        let is_asked = |(mark, name): &&(SnapshotId, Name)| marks.contains(mark) && names.contains(name);
        for (mark, name) in inventory.vetoes.iter().filter(is_asked) {
            match read((vault, dataset, trust), &inventory.replica, (mark, name)).await {
                Ok(_) => drop(found.entry(mark.clone()).or_default().insert(name.clone())),
                Err(error) => {
                    let replica = inventory.replica.name().clone();
                    let error = error.within(format!("something stands in the place of a veto of {name}"));
                    tracing::warn!(%dataset, %mark, %name, %replica, error = %error.chain(), "What stands in the place of a veto cannot be believed");
                    let (mark, name) = (mark.clone(), name.clone());
                    others.push(NoVeto { mark, name, replica, error });
                }
            }
        }
    }
    // What another replica returns is known.
    others.retain(|other| !found.get(&other.mark).is_some_and(|names| names.contains(&other.name)));
    (found, others)
}

/// Reads what is listed as a veto of this mark.
///
/// # Errors
/// [`Class::Integrity`](lifeboat_base::Class::Integrity) or
/// [`Class::Keys`](lifeboat_base::Class::Keys): it is none. Else the replica does not return it.
pub(crate) async fn read(
    (vault, dataset, trust): (&str, &Name, &Trust),
    replica: &SharedReplica,
    (mark, name): (&SnapshotId, &Name),
) -> Result<Veto> {
    let key = layout::veto(dataset, mark, name);
    let stored = replica.get(&key, MAX_VETO_BYTES as u64).await.map_err(|error| match error.kind {
        ReplicaErrorKind::TooLong { .. } => Error::integrity(error.to_string()),
        _ => error.into(),
    })?;
    believe(vault, dataset, trust, &stored, (mark, name))
}

/// The error of a warden that does not see all vetoes of its `marks`, as these replicas were not
/// looked at.
pub(crate) fn unseen<'n>(
    marks: &[FoundRecord<MarkRecord>],
    mut others: impl Iterator<Item = &'n Name>,
) -> Option<Error> {
    let replica = others.next().filter(|_| !marks.is_empty())?;
    Some(
        Error::storage(format!("replica {replica} cannot be looked at, and may hold a veto of what is marked")).hint(
            "`lifeboat check` tells what is wrong with it; take one that is gone for ever out of the configuration",
        ),
    )
}

/// A veto, if its principal may veto and signed it for this place.
///
/// # Errors
/// Why it does not count.
pub(crate) fn believe(
    vault: &str,
    dataset: &Name,
    trust: &Trust,
    stored: &[u8],
    (mark, name): (&SnapshotId, &Name),
) -> Result<Veto> {
    let key = layout::veto(dataset, mark, name);
    let (line, signature) = split_veto(stored).ok_or_else(|| Error::integrity(format!("{key} is damaged")))?;
    trust.judge_veto(vault, &key, (line, signature), name)?;
    Veto::of_line(line, vault, dataset, (mark, name), &key)
}
