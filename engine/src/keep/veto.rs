//! What is marked in a dataset, and the vetoes of people: asked for here, signed offline
//! (`root/owner.rs`), and put into every replica.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::MarkRecord;
use lifeboat_format::veto::{MAX_VETO_BYTES, VetoLine};
use lifeboat_store::{ReplicaErrorKind, SharedReplica};
use serde::Serialize;

use crate::catalog::inventory::Inventory;
use crate::catalog::records::RecordReader;
pub use crate::catalog::vetoes::Vetoes;
use crate::catalog::vetoes::{believe, vetoes};
use crate::keys::trust::Trust;

/// A mark, for people.
#[derive(Debug, Clone, Serialize)]
pub struct ShownMark {
    /// The dataset.
    pub dataset: Name,
    /// Its id.
    pub mark: SnapshotId,
    /// Who wrote it.
    pub by: Option<Name>,
    /// When, as it says.
    pub time: DateTime<Utc>,
    /// The snapshots that it names.
    pub snapshots: Vec<SnapshotId>,
    /// How many packs it names.
    pub packs: usize,
    /// Who vetoes it.
    pub vetoed_by: BTreeSet<Name>,
    /// The hash of the mark as it is stored.
    pub blake3: Digest,
}

/// The marks of a dataset that a trusted host signed, oldest first.
///
/// # Errors
/// No replica can be listed.
pub async fn marks(vault: &str, dataset: &Name, trust: &Trust, replicas: &[SharedReplica]) -> Result<Vec<ShownMark>> {
    let (inventories, failed) = Inventory::take_all(replicas, vault, dataset).await;
    if let Some((_, error)) = failed.into_iter().next().filter(|_| inventories.is_empty()) {
        return Err(error);
    }
    let reader = RecordReader { vault, dataset, trust };
    let (found, _) = reader.read_all::<MarkRecord>(&inventories).await;
    let mut vetoed = vetoes((vault, dataset, trust), &inventories, &found).await;
    let shown = found.into_iter().map(|mark| ShownMark {
        dataset: dataset.clone(),
        by: mark.envelope.as_ref().map(|envelope| envelope.principal.clone()),
        time: mark.envelope.as_ref().map_or(mark.id.time(), |envelope| envelope.time),
        snapshots: mark.body.snapshots.into_iter().map(|marked| marked.snapshot).collect(),
        packs: mark.body.packs.len(),
        vetoed_by: vetoed.remove(&mark.id).unwrap_or_default(),
        blake3: mark.hash,
        mark: mark.id,
    });
    Ok(shown.collect())
}

/// Whoever may veto and is listed with a mark of a dataset in one of `replicas`. Replicas that do
/// not answer are left out.
pub async fn listed(dataset: &Name, trust: &Trust, replicas: &[SharedReplica]) -> Vetoes {
    let (mut found, names) = (Vetoes::new(), trust.who_may_veto());
    if names.is_empty() {
        return found;
    }
    let prefix = layout::vetoes(dataset);
    let lists = join_all(replicas.iter().map(|replica| replica.list(&prefix))).await;
    for object in lists.into_iter().flatten().flatten() {
        if let Some((mark, name)) = layout::parse_veto(dataset, &object.key).filter(|(_, name)| names.contains(name)) {
            found.entry(mark).or_default().insert(name);
        }
    }
    found
}

/// Puts a signed veto into every replica. Returns those that have it, and why others have not.
///
/// # Errors
/// Nobody would believe it.
pub async fn install(
    line: &VetoLine,
    vault: &str,
    trust: &Trust,
    replicas: &[SharedReplica],
) -> Result<(Vec<Name>, BTreeMap<Name, Error>)> {
    let VetoLine { dataset, mark, principal, stored, .. } = line;
    if line.vault != *vault {
        return Err(Error::usage(format!("this veto is for vault {}, and not for {vault}", line.vault))
            .hint("install it where the vault is that it names"));
    }
    believe(vault, dataset, trust, stored.as_bytes(), (mark, principal)).map_err(|error| {
        error
            .within(format!("the veto of {principal} would count for nothing"))
            .hint("`lifeboat root show` tells who may veto, and with which keys")
    })?;
    let key = layout::veto(dataset, mark, principal);
    let put = |replica: SharedReplica| {
        let (key, stored) = (key.clone(), stored.clone());
        async move {
            let name = replica.name().clone();
            let put = match replica.put_new(&key, stored.clone().into()).await {
                Err(error) if matches!(error.kind, ReplicaErrorKind::AlreadyExists) => {
                    match replica.get(&key, MAX_VETO_BYTES as u64).await {
                        Ok(there) if there == stored.as_bytes() => Ok(()),
                        // Whatever it is, it is no veto of this principal, or an older one.
                        _ => replica.put_replace(&key, stored.into()).await,
                    }
                }
                put => put,
            };
            (name, put)
        }
    };
    let (mut holders, mut failed) = (Vec::new(), BTreeMap::new());
    for (name, put) in join_all(replicas.iter().cloned().map(put)).await {
        match put {
            Ok(()) => holders.push(name),
            Err(error) => drop(failed.insert(name, error.into())),
        }
    }
    Ok((holders, failed))
}
