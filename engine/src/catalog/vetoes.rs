//! Vetoes: whom the root lets forbid that a mark is carried out. See "Vetoes" in `FORMAT.md`.
//!
//! Whatever is listed under the name of somebody who may veto holds the mark: a veto that is valid,
//! and as well what cannot be fetched, is too long, or is signed by somebody else. It may have been
//! overwritten. Only where nothing is listed is no veto.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, PackId, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::MarkRecord;
use lifeboat_format::veto::{MAX_VETO_BYTES, Veto, split_veto};
use lifeboat_store::SharedReplica;
use serde::{Deserialize, Serialize};

use super::inventory::Inventory;
use super::records::FoundRecord;
use crate::keys::trust::Trust;

/// Who vetoes each mark.
pub type Vetoes = BTreeMap<SnapshotId, BTreeSet<Name>>;

/// What vetoed marks name.
pub(crate) type HeldMarks = BTreeMap<SnapshotId, HeldMark>;

/// What a vetoed mark names.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
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

/// The vetoes of these marks that replicas show.
pub(crate) async fn vetoes(
    (vault, dataset, trust): (&str, &Name, &Trust),
    inventories: &[Inventory],
    marks: &[FoundRecord<MarkRecord>],
) -> Vetoes {
    let mut found = Vetoes::new();
    let names = trust.who_may_veto();
    for mark in marks {
        for name in &names {
            let listed = (mark.id.clone(), name.clone());
            let holders: Vec<&SharedReplica> = inventories
                .iter()
                .filter(|inventory| inventory.vetoes.contains(&listed))
                .map(|inventory| &inventory.replica)
                .collect();
            for replica in holders {
                found.entry(mark.id.clone()).or_default().insert(name.clone());
                if let Err(error) = read((vault, dataset, trust), replica, (mark, name)).await {
                    tracing::warn!(%dataset, mark = %mark.id, %name, replica = %replica.name(), error = %error.chain(), "A veto is not valid or cannot be fetched, and may have been overwritten, so it counts");
                }
            }
        }
    }
    found
}

/// Reads a veto of this mark.
///
/// # Errors
/// The replica does not return it, or it is not valid.
async fn read(
    (vault, dataset, trust): (&str, &Name, &Trust),
    replica: &SharedReplica,
    (mark, name): (&FoundRecord<MarkRecord>, &Name),
) -> Result<()> {
    let key = layout::veto(dataset, &mark.id, name);
    let stored = replica.get(&key, MAX_VETO_BYTES as u64).await?;
    let veto = believe(vault, dataset, trust, &stored, (&mark.id, name))?;
    if veto.blake3 == mark.hash {
        return Ok(());
    }
    Err(Error::integrity(format!("{key} is of other content of that mark")))
}

/// The error of a warden that does not see all vetoes of its `marks`, as these replicas are away.
pub(crate) fn unseen<'n>(marks: &[FoundRecord<MarkRecord>], mut away: impl Iterator<Item = &'n Name>) -> Option<Error> {
    let replica = away.next().filter(|_| !marks.is_empty())?;
    Some(
        Error::storage(format!("replica {replica} cannot be looked at, and may hold a veto of what is marked"))
            .hint("wait until it answers; take one that is gone for ever out of the configuration"),
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
