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
use crate::catalog::vetoes::{believe, read, vetoes};
use crate::keys::trust::Trust;

/// No more vetoes of a replica are read for a page.
const MAX_SHOWN_VETOES: usize = 256;

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
    let all = found.iter().map(|mark| mark.id.clone()).collect();
    let (mut vetoed, _) = vetoes((vault, dataset, trust), &inventories, &all).await;
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

/// The vetoes of a dataset that replicas show. Replicas that do not answer are left out.
pub async fn shown(vault: &str, dataset: &Name, trust: &Trust, replicas: &[SharedReplica]) -> Vetoes {
    let (mut found, names) = (Vetoes::new(), trust.who_may_veto());
    if names.is_empty() {
        return found;
    }
    let prefix = layout::vetoes(dataset);
    let prefix = &prefix;
    let lists = join_all(replicas.iter().map(|replica| async move { (replica, replica.list(prefix).await) })).await;
    for (replica, list) in lists {
        let listed = list.into_iter().flatten().filter_map(|object| layout::parse_veto(dataset, &object.key));
        for (mark, name) in listed.filter(|(_, name)| names.contains(name)).take(MAX_SHOWN_VETOES) {
            if read((vault, dataset, trust), replica, (&mark, &name)).await.is_ok() {
                found.entry(mark).or_default().insert(name);
            }
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
