//! When each witness looked last.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lifeboat_format::id::Name;
use lifeboat_format::log::{LogEvent, LogKind, LogName};
use lifeboat_store::SharedReplica;

use super::evidence::fetch;
use crate::keys::trust::Trust;
use crate::log::LogReader;

/// A witness drills, too: so many of its newest records are looked at.
const MAX_TRIED_RECORDS: usize = 64;

/// When each witness of the root looked last, as far as `replicas` show it.
pub async fn last_looks(
    vault: &str,
    trust: &Trust,
    replicas: &[SharedReplica],
) -> BTreeMap<Name, Option<DateTime<Utc>>> {
    let reader = LogReader { vault, trust };
    let mut all = BTreeMap::new();
    let Some(root) = trust.root() else { return all };
    // What one that is gone has seen still counts, but it looks no more.
    let is_there = |name: &&Name| root.drill_hosts.iter().any(|host| host.name == **name && host.until.is_none());
    for name in root.witnesses.iter().filter(is_there) {
        let log = LogName { kind: LogKind::DrillHosts, name: name.clone() };
        let mut holders: BTreeMap<u64, Vec<SharedReplica>> = BTreeMap::new();
        for replica in replicas {
            for number in reader.numbers(replica, &log).await.unwrap_or_default() {
                holders.entry(number).or_default().push(replica.clone());
            }
        }
        let mut last = None;
        for (number, holders) in holders.into_iter().rev().take(MAX_TRIED_RECORDS) {
            let found = fetch(&reader, &holders, &log, number).await;
            // One that saw no dataset whole tells of nothing that it was not there yet.
            let is_whole = |event: &LogEvent| matches!(event, LogEvent::Witness { looked, .. } if !looked.is_empty());
            if let Some(found) = found.filter(|found| is_whole(&found.record.event)) {
                last = Some(found.record.time);
                break;
            }
        }
        all.insert(name.clone(), last);
    }
    all
}
