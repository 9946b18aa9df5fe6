//! Checks all logs: in one replica, in several, or in a copy of a bucket on disk.
//!
//! It finds a record that was removed, changed or put elsewhere, and a log that ends before
//! somebody's memory of it: that of another log, of a state directory, or of a note on paper.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use futures::future::join_all;
use lifeboat_base::Result;
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::log::{LogHead, LogName};
use lifeboat_store::SharedReplica;

use super::own::OwnRecords;
use super::reader::{LogReader, LoggedRecord};
use super::seen;
use crate::catalog::verdict::is_verdict;
use crate::state::StateDirectory;

/// So many records are asked for at once.
const AUDITED_AT_ONCE: usize = 16;
/// Of a record that is kept until a replica takes it.
const OWN: &str = "this machine has written it; if no replica ever took it, its next record sends it";
/// No more is told of one log.
const MAX_FINDINGS: usize = 100;

/// A record that must be there.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The record.
    pub head: LogHead,
    /// Who says so, for people to read.
    pub by: String,
}

/// One log as it was found.
#[derive(Debug, Clone)]
pub struct AuditedLog {
    /// Whose it is.
    pub log: LogName,
    /// Its newest record; `None`: there is none that is believed.
    pub head: Option<LogHead>,
    /// How many records are believed.
    pub records: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Audit {
    /// The logs of all whom the root names.
    pub logs: Vec<AuditedLog>,
    /// What is wrong, for people to read.
    pub findings: Vec<String>,
    /// What could not be looked at, so that nobody can tell whether it is as it was written.
    pub doubts: Vec<String>,
    /// What nobody can check.
    pub notes: Vec<String>,
}

/// Checks every log of the root, and tells `visit` each record that is believed, in order.
/// `expected` must be there, and what `home` remembers.
///
/// # Errors
/// What is remembered cannot be read, or `visit` fails. What is wrong with a log is a finding.
pub async fn audit(
    reader: &LogReader<'_>,
    replicas: &[SharedReplica],
    mut expected: Vec<Expected>,
    home: Option<&StateDirectory>,
    mut visit: impl FnMut(&LoggedRecord) -> Result<()>,
) -> Result<Audit> {
    let mut audit = Audit::default();
    let logs = reader.trust.logs();
    for Expected { head, by } in expected.extract_if(.., |expected| !logs.contains(&expected.head.log())) {
        let log = head.log();
        audit.findings.push(format!("nobody can check log {log}: the root names nobody who writes it: {by}"));
    }
    for (_, seen) in home.map(|home| seen::read(home, reader.trust)).transpose()?.unwrap_or_default() {
        expected.push(Expected { head: seen.head, by: "this machine has seen it".to_owned() });
    }
    let (mut chains, mut told) = (BTreeMap::new(), BTreeSet::new());
    for log in logs.iter().filter(|_| home.is_some()) {
        if let Some(head) = home.map(|home| OwnRecords::of(home, log).head()).transpose()?.flatten() {
            expected.push(Expected { head, by: OWN.to_owned() });
        }
    }
    for log in &logs {
        let chain =
            BelievedChain::read(reader, replicas, log, &mut audit, &mut visit, &mut told, &mut expected).await?;
        audit.logs.push(AuditedLog { log: log.clone(), head: chain.head(log), records: chain.hashes.len() as u64 });
        chains.insert(log.clone(), chain);
    }
    for Expected { head, by } in expected {
        let (log, number) = (head.log(), head.number);
        let Some(chain) = chains.get(&log) else {
            audit.notes.push(format!("nobody can check log {log}: the root names nobody who writes it"));
            continue;
        };
        let found = chain.hashes.get(&number);
        let newest = chain.hashes.last_key_value().map_or(0, |(number, _)| *number);
        if found == Some(&head.blake3) {
            continue;
        }
        let told = match found {
            Some(_) => format!("record {number} of log {log} is another one than it was: {by}"),
            None if number > newest => {
                format!("log {log} was cut: it ends with record {newest}, and there was {number}: {by}")
            }
            None => format!("record {number} of log {log} is missing: {by}"),
        };
        let is_certain = found.is_some() || !chain.is_doubted;
        if is_certain { &mut audit.findings } else { &mut audit.doubts }.push(told);
    }
    others(replicas, &logs, &mut audit).await;
    audit.findings.dedup();
    audit.doubts.dedup();
    audit.notes.sort_unstable();
    audit.notes.dedup();
    Ok(audit)
}

/// Tells of what lies below `log/` and is of no log of the root.
async fn others(replicas: &[SharedReplica], logs: &[LogName], audit: &mut Audit) {
    for replica in replicas {
        // What cannot be listed was told.
        let Ok(listed) = replica.list(layout::LOGS).await else { continue };
        let mut strange: BTreeMap<String, u64> = BTreeMap::new();
        for object in listed {
            match layout::parse_log_record(&object.key) {
                Some((log, _)) if logs.contains(&log) => {}
                Some((log, _)) => {
                    *strange.entry(format!("log {log}, which nobody writes whom the root names")).or_default() += 1;
                }
                None => *strange.entry("no log at all".to_owned()).or_default() += 1,
            }
        }
        let name = replica.name();
        audit
            .notes
            .extend(strange.into_iter().map(|(of, count)| format!("replica {name} has {count} objects of {of}")));
    }
}

/// The records of a log that are believed.
#[derive(Default)]
struct BelievedChain {
    hashes: BTreeMap<u64, Digest>,
    /// Whether some of it could not be looked at.
    is_doubted: bool,
}

/// What replicas have under one number.
struct FoundAtNumber {
    number: u64,
    /// Those that are believed, each with the replicas that have it.
    found: Vec<(LoggedRecord, BTreeSet<Name>)>,
    /// What else is there.
    wrong: Vec<String>,
    unanswered: BTreeMap<Name, String>,
}

impl BelievedChain {
    fn head(&self, log: &LogName) -> Option<LogHead> {
        let (number, hash) = self.hashes.last_key_value()?;
        Some(LogHead { kind: log.kind, name: log.name.clone(), number: *number, blake3: *hash })
    }

    async fn read(
        reader: &LogReader<'_>,
        replicas: &[SharedReplica],
        log: &LogName,
        audit: &mut Audit,
        visit: &mut impl FnMut(&LoggedRecord) -> Result<()>,
        told: &mut BTreeSet<LogHead>,
        expected: &mut Vec<Expected>,
    ) -> Result<Self> {
        let lists = replicas.iter().map(|replica| async move { (replica, reader.numbers(replica, log).await) });
        let mut holders: BTreeMap<u64, Vec<&SharedReplica>> = BTreeMap::new();
        let (mut listed, mut doubts) = (BTreeSet::new(), Vec::new());
        for (replica, numbers) in join_all(lists).await {
            match numbers {
                Ok(numbers) => {
                    listed.insert(replica.name().clone());
                    numbers.into_iter().for_each(|number| holders.entry(number).or_default().push(replica));
                }
                Err(error) => {
                    let (name, why) = (replica.name(), error.chain());
                    doubts.push(format!("log {log} is not looked at in replica {name}: {why}"));
                }
            }
        }
        let (mut chain, mut findings) = (Self::default(), Vec::new());
        let mut lacking: BTreeMap<Name, Vec<u64>> = BTreeMap::new();
        let mut before = 0;
        let looks = holders.into_iter().map(|(number, holders)| look(reader, log, number, holders));
        let mut looks = std::pin::pin!(futures::stream::iter(looks).buffered(AUDITED_AT_ONCE));
        while let Some(FoundAtNumber { number, mut found, wrong, unanswered }) = looks.next().await {
            findings.extend(wrong);
            doubts.extend(unanswered.values().cloned());
            if found.len() > 1 {
                findings.push(format!("the replicas have different records {number} of log {log}"));
            }
            let last = chain.hashes.get(&(number - 1)).copied();
            // Of two, the one that follows is shown.
            let follows = found.iter().position(|(found, _)| found.record.previous == last).unwrap_or_default();
            if found.is_empty() {
                continue;
            }
            let (record, has) = found.swap_remove(follows);
            if number > before + 1 {
                let told = format!("log {log}: {} missing everywhere", range(before + 1, number - 1));
                if doubts.is_empty() { &mut findings } else { &mut doubts }.push(told);
            } else if record.record.previous != last {
                findings.push(format!("record {number} of log {log} does not follow record {before} as it is now"));
            }
            for replica in listed.difference(&has).filter(|replica| !unanswered.contains_key(*replica)) {
                lacking.entry(replica.clone()).or_default().push(number);
            }
            for head in &record.record.heads {
                if told.insert(head.clone()) {
                    let by = format!("record {number} of log {log} tells so");
                    expected.push(Expected { head: head.clone(), by });
                }
            }
            visit(&record)?;
            chain.hashes.insert(number, record.hash());
            before = number;
        }
        for (replica, numbers) in lacking {
            let ranges = ranges(&numbers).into_iter().map(|(first, last)| range(first, last)).collect::<Vec<_>>();
            findings.push(format!("log {log}: {} missing in replica {replica}", ranges.join(", ")));
        }
        let more = findings.len().saturating_sub(MAX_FINDINGS);
        findings.truncate(MAX_FINDINGS);
        if more > 0 {
            findings.push(format!("log {log}: {more} more findings"));
        }
        audit.findings.extend(findings);
        chain.is_doubted = !doubts.is_empty();
        doubts.truncate(MAX_FINDINGS);
        audit.doubts.extend(doubts);
        Ok(chain)
    }
}

async fn look(reader: &LogReader<'_>, log: &LogName, number: u64, holders: Vec<&SharedReplica>) -> FoundAtNumber {
    let mut looked = FoundAtNumber { number, found: Vec::new(), wrong: Vec::new(), unanswered: BTreeMap::new() };
    for replica in holders {
        match reader.fetch(replica, log, number).await {
            Ok(Some(record)) => match looked.found.iter_mut().find(|(known, _)| *known == record) {
                Some((_, has)) => drop(has.insert(replica.name().clone())),
                None => looked.found.push((record, BTreeSet::from([replica.name().clone()]))),
            },
            Ok(None) => looked
                .wrong
                .push(format!("replica {} lists record {number} of log {log}, and does not have it", replica.name())),
            Err(error) if is_verdict(&error) || error.class() == lifeboat_base::Class::Failed => {
                looked.wrong.push(error.chain());
            }
            Err(error) => drop(looked.unanswered.insert(replica.name().clone(), error.chain())),
        }
    }
    looked
}

fn ranges(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    ranges
}

fn range(first: u64, last: u64) -> String {
    if first == last { format!("record {first} is") } else { format!("records {first} to {last} are") }
}
