//! What the logs of witnesses tell of snapshots. Each log is read once for all datasets that
//! somebody asks for, no further back than the oldest claim, and kept for whoever asks next.
//!
//! - **What is missing is no evidence**: a snapshot of which a missing record may tell is *unsure*.
//!   Who deletes stops there; who restores goes on and says so. So is what is beyond the bounds, if
//!   what is within does not decide.
//! - **Bounds**: [`MAX_READ_RECORDS`] of each log, and [`MAX_HELD_NAMES`] of what it names, of
//!   which a hash alone is held.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lifeboat_format::id::{Digest, Name, SnapshotId};
use lifeboat_format::log::{LogEvent, LogKind, LogName, SeenSnapshot};
use lifeboat_store::SharedReplica;
use tokio::sync::Mutex;

use crate::catalog::first_seen::{DatedClaim, FirstSeen};
use crate::log::{LogBackwards, LogReader, LoggedRecord};

/// No more records of one witness are read. One looks every hour, so these are of eleven years.
pub(super) const MAX_READ_RECORDS: usize = 100_000;
/// No more snapshots and datasets are held that one witness has named.
const MAX_HELD_NAMES: usize = 2_000_000;

/// What was read of logs of witnesses, by witness.
pub(crate) struct ToldLogs {
    logs: Mutex<BTreeMap<Name, ToldLog>>,
    /// No more records of each are read.
    most: usize,
    /// What somebody was told that is missing.
    doubts: std::sync::Mutex<BTreeSet<String>>,
}

impl Default for ToldLogs {
    fn default() -> Self {
        Self::of_newest(MAX_READ_RECORDS)
    }
}

impl ToldLogs {
    /// Nothing was read yet. No more than `most` records of each log will be.
    pub(super) fn of_newest(most: usize) -> Self {
        Self { logs: Mutex::default(), most, doubts: std::sync::Mutex::default() }
    }

    /// What these witnesses tell of `claims`, of which the earliest is not before `until`.
    pub(super) async fn ask<'c>(
        &self,
        reader: &LogReader<'_>,
        replicas: &[SharedReplica],
        (dataset, witnesses): (&Name, &[Name]),
        claims: &[&'c DatedClaim],
        until: DateTime<Utc>,
    ) -> Vec<ByWitness<'c>> {
        let mut logs = self.logs.lock().await;
        for witness in witnesses {
            let told = match logs.entry(witness.clone()) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(new) => {
                    let log = LogName { kind: LogKind::DrillHosts, name: witness.clone() };
                    new.insert(ToldLog::new(LogBackwards::of(reader, log, replicas, self.most).await))
                }
            };
            told.read(reader, until).await;
        }
        let there: Vec<(&Name, &ToldLog)> =
            witnesses.iter().filter_map(|witness| Some((witness, logs.get(witness)?))).collect();
        let told = |(witness, log): &(&Name, &ToldLog)| {
            // Of one whose every key is revoked, records do not count that others have seen.
            let counts = reader.trust.root().is_some_and(|root| {
                let mut own = root.drill_hosts.iter().filter(|host| host.name == **witness);
                own.any(|host| host.until.is_none())
            });
            let heads = there.iter().filter(|_| counts).filter_map(|(by, other)| {
                let (number, time) = other.heads.get(*witness)?;
                (*number > log.newest).then(|| MissingRecord {
                    before: *time,
                    why: format!("record {number} of log drill-hosts/{witness} is missing: {by} has seen it"),
                })
            });
            log.tell(dataset, claims, heads.collect())
        };
        there.iter().map(told).collect()
    }

    /// Whether nobody was told this before.
    pub(crate) fn is_new(&self, doubt: &str) -> bool {
        let mut doubts = self.doubts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        doubts.insert(doubt.to_owned())
    }
}

/// What one witness tells of some claims.
#[derive(Default)]
pub(super) struct ByWitness<'c> {
    /// When it first saw each.
    pub(super) seen: BTreeMap<&'c SnapshotId, FirstSeen>,
    /// When it last looked at all of the dataset. What it never named was not there then.
    pub(super) looked: Option<DateTime<Utc>>,
    /// Those of which a missing record may tell, and what is missing.
    pub(super) unsure: BTreeMap<&'c SnapshotId, String>,
}

/// One or more are missing that were written before this time.
#[derive(Debug, Clone)]
struct MissingRecord {
    before: DateTime<Utc>,
    why: String,
}

/// What a record tells, or a gap between records.
enum ToldLook {
    /// The datasets that were looked at as a whole, sorted, and the [places](place) of what was
    /// seen first.
    Seen {
        time: DateTime<Utc>,
        looked: Arc<[Name]>,
        named: Vec<Digest>,
    },
    Missing(MissingRecord),
}

/// A hash for each snapshot and what its manifest contains: short, as there may be many.
fn place(dataset: &Name, snapshot: &SnapshotId, hash: &Digest) -> Digest {
    Digest::of(format!("{dataset}/{snapshot}/{hash}").as_bytes())
}

/// What was read of the log of one witness.
struct ToldLog {
    records: LogBackwards,
    /// What it tells, the newest first.
    told: Vec<ToldLook>,
    /// The number of its newest record, and the time of the oldest one that was read.
    newest: u64,
    oldest: Option<DateTime<Utc>>,
    /// The newest records of others that it names, and when it did.
    heads: BTreeMap<Name, (u64, DateTime<Utc>)>,
    /// The datasets of the look that was read last: most are at the same ones.
    looked: Arc<[Name]>,
    held: usize,
    is_read: bool,
    is_warned: bool,
}

impl ToldLog {
    fn new(records: LogBackwards) -> Self {
        let (told, heads, looked) = (Vec::new(), BTreeMap::new(), Arc::default());
        Self { records, told, newest: 0, oldest: None, heads, looked, held: 0, is_read: false, is_warned: false }
    }

    /// Reads on, until a record is older than `until`: nothing that is older can matter.
    async fn read(&mut self, reader: &LogReader<'_>, until: DateTime<Utc>) {
        while !self.is_read && self.oldest.is_none_or(|oldest| oldest >= until) {
            let found = self.records.next(reader).await;
            let before = self.oldest.unwrap_or(DateTime::<Utc>::MAX_UTC);
            self.told
                .extend(self.records.missing().into_iter().map(|why| ToldLook::Missing(MissingRecord { before, why })));
            match found {
                Some(found) => self.hear(&found),
                None => self.is_read = true,
            }
            if self.held > MAX_HELD_NAMES {
                (self.records.were_too_many, self.is_read) = (true, true);
            }
            if self.is_read && self.records.were_too_many {
                tracing::warn!(log = %self.records.log(), "Only the newest records of this witness are read");
            }
        }
        if !self.is_warned {
            let warnings = self.records.warnings();
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            self.is_warned = !warnings.is_empty();
        }
    }

    fn hear(&mut self, found: &LoggedRecord) {
        let record = &found.record;
        self.newest = self.newest.max(record.number);
        self.oldest = Some(record.time);
        for head in record.heads.iter().filter(|head| head.kind == LogKind::DrillHosts) {
            let known = self.heads.entry(head.name.clone()).or_insert((head.number, record.time));
            *known = (*known).max((head.number, record.time));
        }
        let LogEvent::Witness { looked, snapshots } = &record.event else { return };
        if *looked != *self.looked {
            self.held += looked.len();
            self.looked = looked.as_slice().into();
        }
        self.held += snapshots.len();
        let named = |seen: &SeenSnapshot| place(&seen.dataset, &seen.snapshot, &seen.blake3);
        let (looked, named) = (self.looked.clone(), snapshots.iter().map(named).collect());
        self.told.push(ToldLook::Seen { time: record.time, looked, named });
    }

    /// What it tells of `claims` in a dataset, where `gaps` are known beside its own.
    fn tell<'c>(&self, dataset: &Name, claims: &[&'c DatedClaim], mut gaps: Vec<MissingRecord>) -> ByWitness<'c> {
        let by_place: BTreeMap<Digest, &'c SnapshotId> =
            claims.iter().map(|claim| (place(dataset, &claim.snapshot, &claim.hash), &claim.snapshot)).collect();
        let mut told = ByWitness::default();
        // The looks at which it has not been found yet, the oldest of those that were read last.
        let mut undecided: BTreeSet<&'c SnapshotId> = BTreeSet::new();
        for each in &self.told {
            match each {
                ToldLook::Seen { time, looked, named } => {
                    let here = named.iter().filter_map(|place| by_place.get(place).copied());
                    let here: BTreeSet<&'c SnapshotId> = here.collect();
                    if looked.binary_search(dataset).is_ok() {
                        told.looked = told.looked.or(Some(*time));
                        for snapshot in undecided.extract_if(.., |snapshot| !here.contains(snapshot)) {
                            told.seen.entry(snapshot).and_modify(|first| first.not_yet = Some(*time));
                        }
                    }
                    for snapshot in here {
                        told.seen.insert(snapshot, FirstSeen { not_yet: None, seen: *time });
                        told.unsure.remove(snapshot);
                        undecided.insert(snapshot);
                    }
                }
                ToldLook::Missing(gap) => {
                    told.unsure.extend(undecided.iter().map(|snapshot| (*snapshot, gap.why.clone())));
                    gaps.push(gap.clone());
                }
            }
        }
        // It may have named older ones before, in what is not read, if it did not look before.
        let is_cut = self.is_read && self.records.were_too_many;
        let is_beyond = |claim: &&&DatedClaim| is_cut && self.oldest.is_none_or(|oldest| claim.ended < oldest);
        let is_open = |claim: &&&DatedClaim| told.seen.get(&claim.snapshot).is_none_or(|first| first.not_yet.is_none());
        let open: Vec<&'c SnapshotId> =
            claims.iter().filter(is_beyond).filter(is_open).map(|claim| &claim.snapshot).collect();
        for snapshot in open {
            let log = self.records.log();
            let why = format!("log {log} has more records than are read, and older ones may tell of a snapshot");
            told.unsure.entry(snapshot).or_insert(why);
        }
        for claim in claims.iter().filter(|claim| !told.seen.contains_key(&claim.snapshot)) {
            // Whoever claims to be younger than what is missing was not in it.
            if let Some(gap) = gaps.iter().find(|gap| claim.ended < gap.before) {
                told.unsure.insert(&claim.snapshot, gap.why.clone());
            }
        }
        told
    }
}
