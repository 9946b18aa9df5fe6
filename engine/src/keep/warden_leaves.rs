//! Before a root takes the warden out: what somebody has left behind for the time after.
//!
//! While there is a warden, prune records of hosts remove nothing that is shown. Without one, those
//! count again whose ids tell a time since the new root. So one that is there already, and tells a
//! time to come, was written for then.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Name, SnapshotId};
use lifeboat_format::layout;
use lifeboat_format::record::PruneRecord;
use lifeboat_store::SharedReplica;

use crate::catalog::inventory::Inventory;
use crate::catalog::records::RecordReader;
use crate::keys::trust::Trust;

/// Refuses to take the warden out while a prune record of a host tells a time after `now`.
///
/// # Errors
/// Which one; or not every replica can be looked at.
pub async fn check_nothing_waits_for_it(
    vault: &str,
    trust: &Trust,
    replicas: &[SharedReplica],
    now: DateTime<Utc>,
) -> Result<()> {
    let mut datasets = BTreeSet::new();
    for replica in replicas {
        let listed = replica.list(layout::KEYRING).await?;
        let names = listed.iter().filter_map(|object| layout::parse_keyring(&object.key).map(|(dataset, _)| dataset));
        datasets.extend(names);
    }
    for dataset in &datasets {
        let (inventories, failed) = Inventory::take_all(replicas, vault, dataset).await;
        if let Some((_, error)) = failed.into_iter().next() {
            return Err(error);
        }
        let (found, _) = RecordReader { vault, dataset, trust }.read_all::<PruneRecord>(&inventories).await;
        let waits = found.iter().find(|record| !record.by_warden && record.id.time() > now);
        if let Some(record) = waits {
            let host = record.envelope.as_ref().map(|envelope| &envelope.principal);
            return Err(waiting(dataset, &record.id, host));
        }
    }
    Ok(())
}

fn waiting(dataset: &Name, id: &SnapshotId, host: Option<&Name>) -> Error {
    let (key, host) = (layout::prune(dataset, id), host.map_or("its host", Name::as_str));
    Error::integrity(format!(
        "{key} tells a time to come: without a warden, hosts would delete what it names, and {host} signed it"
    ))
    .hint(format!(
        "find out who has the keys of {host}; let an owner sign `lifeboat root request remove-host {host}` first, or remove {key} and its signature as the owner of the buckets"
    ))
}
