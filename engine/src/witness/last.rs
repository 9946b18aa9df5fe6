//! When each witness looked last, and the newest records of a log.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::StreamExt;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::Name;
use lifeboat_format::log::{LogEvent, LogKind, LogName, LogRecord};
use lifeboat_store::SharedReplica;

use crate::keys::trust::Trust;
use crate::log::{LogBackwards, LogReader, fetch_record};

/// So many records are fetched at once.
const SEARCHED_RECORDS_AT_ONCE: usize = 8;
/// A witness drills, too, and a warden sweeps: so many of the newest records are looked at.
const MAX_TRIED_RECORDS: usize = 64;

/// When each witness of the root looked last, as far as `replicas` show it.
pub async fn last_looks(
    vault: &str,
    trust: &Trust,
    replicas: &[SharedReplica],
) -> BTreeMap<Name, Option<DateTime<Utc>>> {
    let mut all = BTreeMap::new();
    let Some(root) = trust.root() else { return all };
    // What one that is gone has seen still counts, but it looks no more.
    let is_there = |name: &&Name| root.drill_hosts.iter().any(|host| host.name == **name && host.until.is_none());
    for name in root.witnesses.iter().filter(is_there) {
        let log = LogName { kind: LogKind::DrillHosts, name: name.clone() };
        // One that saw no dataset whole tells of nothing that it was not there yet.
        let is_whole = |event: &LogEvent| matches!(event, LogEvent::Witness { looked, .. } if !looked.is_empty());
        all.insert(name.clone(), last(&LogReader { vault, trust }, &log, replicas, is_whole).await);
    }
    all
}

/// Whether the log of a warden tells that it has looked at a dataset.
///
/// # Errors
/// A replica cannot be asked, or a record cannot be read that may tell it.
pub(crate) async fn has_warden_looked(
    reader: &LogReader<'_>,
    log: &LogName,
    replicas: &[SharedReplica],
    dataset: &Name,
) -> Result<bool> {
    let mut newest = 0;
    for replica in replicas {
        newest = newest.max(reader.numbers(replica, log).await?.last().copied().unwrap_or(0));
    }
    let record = |number: u64| async move { (number, fetch_record(reader, replicas, log, number).await) };
    let mut records =
        std::pin::pin!(futures::stream::iter((1..=newest).rev()).map(record).buffered(SEARCHED_RECORDS_AT_ONCE));
    while let Some((number, found)) = records.next().await {
        let found =
            found.ok_or_else(|| Error::integrity(format!("no replica returns record {number} of log {log}")))?;
        if matches!(&found.record.event, LogEvent::Warden(look) if look.looked.contains(dataset)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The newest records of a log, the newest first, as far as they can be read. There is a bound to
/// how many are looked at.
pub(crate) struct NewestRecords<'a> {
    reader: &'a LogReader<'a>,
    records: LogBackwards,
}

impl<'a> NewestRecords<'a> {
    pub(crate) async fn of(reader: &'a LogReader<'a>, log: &LogName, replicas: &[SharedReplica]) -> Self {
        Self { reader, records: LogBackwards::of(reader, log.clone(), replicas, MAX_TRIED_RECORDS).await }
    }

    pub(crate) async fn next(&mut self) -> Option<LogRecord> {
        self.records.next(self.reader).await.map(|found| found.record)
    }

    /// How many names were no records that anybody could believe.
    pub(crate) fn unbelieved(&self) -> usize {
        self.records.false_names
    }

    /// What is wrong with what replicas show.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.records.warnings()
    }
}

/// The time of the newest record of a log for which `fits`.
async fn last(
    reader: &LogReader<'_>,
    log: &LogName,
    replicas: &[SharedReplica],
    fits: impl Fn(&LogEvent) -> bool,
) -> Option<DateTime<Utc>> {
    let mut records = NewestRecords::of(reader, log, replicas).await;
    let mut last = None;
    while let Some(record) = records.next().await {
        if fits(&record.event) {
            last = Some(record.time);
            break;
        }
    }
    records.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    last
}
