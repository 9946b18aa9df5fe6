//! Where a drill's report goes: into every replica, as a signed record.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::{RecordBody, RecordType};
use lifeboat_store::{ObjectMeta, SharedReplica};
use serde::Serialize;

use super::report::DrillReport;
use crate::catalog::future::is_future;
use crate::catalog::records::{RecordReader, RecordWriter};
use crate::config::Limits;
use crate::keys::sign::Signer;
use crate::keys::trust::Trust;
use crate::restore::VaultReader;

/// How many of the newest records are tried for the last one of this host. Those of other drill
/// hosts stand between, and whatever a bucket's owner puts there.
const MAX_TRIED: usize = 256;

/// Which replicas took a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Replicas that took it.
    pub replicas: Vec<Name>,
    /// Replicas that did not, and why.
    pub refused: BTreeMap<Name, String>,
}

impl RecordBody for DrillReport {
    const TYPE: RecordType = RecordType::Drill;

    fn of_format_1(json: &[u8]) -> serde_json::Result<(String, Name, Self)> {
        let report: Self = serde_json::from_slice(json)?;
        Ok((report.vault.clone(), report.dataset.clone(), report))
    }
}

/// Records that have a signature and are not from the future.
fn signed_before(now: DateTime<Utc>, limits: &Limits, folder: &str, objects: &[ObjectMeta]) -> Vec<SnapshotId> {
    let keys: BTreeSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
    let signed = keys.iter().filter(|key| keys.contains(layout::signature(key).as_str()));
    signed
        .filter_map(|key| layout::parse_json(folder, key))
        .filter(|id: &SnapshotId| !is_future(id.time(), now, limits))
        .collect()
}

/// Signs `report` as a record of `principal`, and uploads it to every replica of `reader`. What is
/// published is [`DrillReport::for_publication`].
///
/// # Errors
/// The report cannot be serialised or signed. A replica that fails, or whose vault is of a format
/// that is only read, is in [`Published::refused`].
pub async fn publish(
    reader: &VaultReader,
    report: &DrillReport,
    principal: &Name,
    signer: &Signer,
) -> Result<Published> {
    let report = &report.for_publication();
    let (vault, dataset) = (reader.vault_id(), &report.dataset);
    let writer = RecordWriter { vault, dataset, principal, signer };
    let trust = Trust::listed(Vec::new(), vec![signer.public()]);
    let own = RecordReader { vault, dataset, trust: &trust };
    let (replicas, mut published) = (reader.writable(), Published { replicas: Vec::new(), refused: BTreeMap::new() });
    let folder = layout::drills(dataset);
    let listing = reader.replicas().iter().map(|replica| async { (replica.name(), replica.list(&folder).await) });
    let mut ids: BTreeSet<SnapshotId> = BTreeSet::new();
    for (replica, listed) in futures::future::join_all(listing).await {
        match listed {
            Ok(objects) => ids.extend(signed_before(report.started, reader.limits(), &folder, &objects)),
            Err(error) => {
                tracing::warn!(%replica, %error, "Drill records cannot be listed, so the number of the new one may repeat");
            }
        }
    }
    let all: Vec<&SharedReplica> = reader.replicas().iter().collect();
    let mut last = None;
    for id in ids.iter().rev().take(MAX_TRIED) {
        match own.read::<DrillReport>(&all, id).await {
            Ok(record) if writer.wrote(&record) => {
                last = Some(record);
                break;
            }
            Ok(_) => {}
            // Other drill hosts have other signers.
            Err(error) if error.class() == Class::Keys => {}
            Err(error) => {
                tracing::warn!(drill = %id, error = %error.chain(), "A drill record cannot be read, so the number of the new one may repeat");
            }
        }
    }
    if last.is_none() && ids.len() > MAX_TRIED {
        tracing::warn!(
            tried = MAX_TRIED,
            found = ids.len(),
            "None of the newest drill records is of this host, and older ones are not read, so the number of the new one may repeat"
        );
    }
    let signed = writer.sign(&report.drill, report.finished, last.as_ref(), report)?;
    for (replica, writable) in replicas {
        let put = async {
            writable.map_err(|_| {
                let problem = format!("replica {} holds a vault of format 1, which takes no reports", replica.name());
                Error::configuration(problem)
                    .hint("keep the local file; once the backup host has a new vault_prefix, set it here, too")
            })?;
            replica.put_new(&signed.key, signed.object.clone()).await?;
            replica.put_new(&layout::signature(&signed.key), signed.signature.clone()).await?;
            Ok::<_, Error>(())
        };
        match put.await {
            Ok(()) => published.replicas.push(replica.name().clone()),
            Err(error) => drop(published.refused.insert(replica.name().clone(), error.chain_and_hint())),
        }
    }
    Ok(published)
}
