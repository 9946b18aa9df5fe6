//! Adds a record to the own log. A copy is kept here first; then every replica gets what it lacks
//! at the end of the log, and the new one.
//!
//! A record says what is about to be done, so one that no replica took stays: it is sent with the
//! next one, whatever its caller did meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::join_all;
use lifeboat_base::{Error, Result};
use lifeboat_format::id::{Digest, Name};
use lifeboat_format::layout;
use lifeboat_format::log::{
    LogEvent, LogHead, LogName, LogRecord, MAX_LOG_ACTS, MAX_LOG_RECORD_BYTES, SeenAct, cut_to_fit,
};
use lifeboat_format::requirements::Requirements;
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use super::own::OwnRecords;
use super::reader::{LogReader, LoggedRecord};
use super::seen;
use crate::catalog::verdict::is_verdict;
use crate::keys::sign::Signer;
use crate::keys::trust::Trust;
use crate::state::{Lock, StateDirectory};

/// How long another process may add its record.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A replica that takes longer gets the record with the next one.
const LONGEST_SEND: Duration = Duration::from_secs(180);

/// Adds to the log of one principal.
pub struct Logbook<'a> {
    /// Its log.
    pub log: &'a LogName,
    /// Its key.
    pub signer: &'a Signer,
    /// The vault.
    pub vault: &'a str,
    /// Says whether it may.
    pub trust: &'a Trust,
    /// Where the log is.
    pub replicas: &'a [SharedReplica],
    /// Where it remembers its own records and the heads of others.
    pub home: &'a StateDirectory,
}

/// What became of a record.
#[derive(Debug)]
pub struct Recorded {
    /// The record, as the head of its log.
    pub head: LogHead,
    /// The replicas that have it.
    pub replicas: Vec<Name>,
    /// The others, and why not.
    pub refused: BTreeMap<Name, Error>,
    /// Replicas that lacked records from the first to the second of these numbers, and have them
    /// again. Not those that are known not to have taken any of them.
    pub put_back: BTreeMap<Name, (u64, u64)>,
}

impl Recorded {
    /// Refuses a record that no replica took.
    ///
    /// # Errors
    /// Why they did not.
    pub fn in_a_replica(&self) -> Result<()> {
        if !self.replicas.is_empty() {
            return Ok(());
        }
        let LogHead { number, .. } = &self.head;
        let reasons: Vec<String> = self.refused.values().map(Error::chain).collect();
        Err(Error::storage(format!("no replica took record {number} of log {}", self.head.log()))
            .because(reasons.join("; ")))
    }

    /// What people should know of it.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let log = self.head.log();
        let put_back = self.put_back.iter().map(|(replica, (first, last))| {
            format!("replica {replica} lacked records {first} to {last} of log {log}, and has them again; if it had taken them before, find out who removed them")
        });
        let refused = self.refused.iter().map(|(replica, error)| {
            format!("replica {replica} lacks record {} of log {log} for now: {}", self.head.number, error.chain())
        });
        put_back.chain(refused).collect()
    }
}

impl Logbook<'_> {
    /// Adds a record. It is kept in the state directory when this returns, and in the replicas that
    /// [`Recorded::replicas`] names.
    ///
    /// # Errors
    /// The root does not let this principal write its log. The disk fails. Or replicas show another
    /// record in the place of one that this principal wrote.
    pub async fn append(
        &self,
        event: LogEvent,
        why: Option<&str>,
        mut acts: Vec<SeenAct>,
        now: DateTime<Utc>,
    ) -> Result<Recorded> {
        if self.trust.log_of(self.log.kind, &self.signer.public()).as_ref() != Some(self.log) {
            return Err(Error::keys(format!("the root does not let this key write log {}", self.log))
                .hint("`lifeboat root show` tells whose keys the root has"));
        }
        let _lock = self.lock().await?;
        let own = OwnRecords::of(self.home, self.log);
        let last = self.last(&own).await?;
        let (before, previous) = last.as_ref().map_or((0, None), |(number, hash)| (*number, Some(*hash)));
        acts.sort_by(|one, other| one.dataset.cmp(&other.dataset));
        acts.dedup_by(|one, other| one.dataset == other.dataset);
        acts.truncate(MAX_LOG_ACTS);
        let record = LogRecord {
            requires: Requirements::default(),
            vault: self.vault.to_owned(),
            kind: self.log.kind,
            principal: self.log.name.clone(),
            number: before + 1,
            previous,
            time: now,
            event,
            why: why.map(cut_to_fit),
            heads: seen::heads(self.home, self.log, self.trust)?,
            acts,
        };
        let key = layout::log_record(self.log, record.number);
        let mut stored = record.to_line()?;
        let signature = self.signer.sign(&stored, &layout::trusted_comment(self.vault, &key))?;
        stored.extend_from_slice(signature.as_bytes());
        let stored = Bytes::from(stored);
        own.keep(record.number, &stored)?;
        let head =
            LogHead { kind: record.kind, name: record.principal, number: record.number, blake3: Digest::of(&stored) };
        let mut recorded = Recorded { head, replicas: Vec::new(), refused: BTreeMap::new(), put_back: BTreeMap::new() };
        let sends = self.replicas.iter().map(|replica| async {
            let sent = tokio::time::timeout(LONGEST_SEND, self.send(&own, replica, before + 1)).await;
            (replica.name().clone(), sent.unwrap_or_else(|_| Err(too_slow(replica))))
        });
        for (replica, sent) in join_all(sends).await {
            match sent {
                Ok(first) => {
                    if first <= before && own.took_none(&replica, first, before) {
                        tracing::info!(%replica, first, last = before, "Sent records that this replica had not taken");
                    } else if first <= before {
                        recorded.put_back.insert(replica.clone(), (first, before));
                    }
                    recorded.replicas.push(replica);
                }
                Err(error) => drop(recorded.refused.insert(replica, error)),
            }
        }
        if let Err(error) = own.took(before + 1, &recorded.replicas.iter().cloned().collect()) {
            tracing::debug!(error = %error.chain(), "Nobody will know which replicas have this record");
        }
        Ok(recorded)
    }

    async fn lock(&self) -> Result<Lock> {
        let end = tokio::time::Instant::now() + LONGEST_WAIT;
        loop {
            if let Some(lock) = self.home.try_lock_log()? {
                return Ok(lock);
            }
            if tokio::time::Instant::now() >= end {
                let held = self.home.path().join("log/lock");
                return Err(Error::failed(format!(
                    "another process adds to log {} and holds {}",
                    self.log,
                    held.display()
                ))
                .hint("wait until it ends, and try again"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The newest record of the own log: the one that is remembered, or what follows it in a
    /// replica. That is so where the state directory was lost, or is older than the log.
    async fn last(&self, own: &OwnRecords<'_>) -> Result<Option<(u64, Digest)>> {
        let reader = LogReader { vault: self.vault, trust: self.trust };
        let mut last = own.head()?.map(|head| (head.number, head.blake3));
        let (known, mut answered) = (last, false);
        let mut unanswered = None;
        let looks = self.replicas.iter().map(|replica| async move {
            let look = self.later(&reader, replica, known);
            let looked = tokio::time::timeout(LONGEST_SEND, look).await;
            (replica, looked.unwrap_or_else(|_| Err(too_slow(replica))))
        });
        for (replica, looked) in join_all(looks).await {
            match looked {
                Ok(found) => {
                    answered = true;
                    for next in found {
                        if last.is_none_or(|(number, _)| next.record.number > number) {
                            own.keep(next.record.number, &next.stored)?;
                            last = Some((next.record.number, next.hash()));
                        }
                    }
                }
                // What goes on beside it would be a second log.
                Err(error) if is_verdict(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(replica = %replica.name(), error = %error.chain(), "Nobody can tell whether this replica has a newer record of the own log");
                    unanswered = Some(error);
                }
            }
        }
        match unanswered {
            Some(error) if last.is_none() && !answered => {
                Err(error.within(format!("nobody can tell where log {} ends", self.log)))
            }
            _ => Ok(last),
        }
    }

    /// What a replica has of the own log after the known record, or its newest record if none is
    /// known.
    async fn later(
        &self,
        reader: &LogReader<'_>,
        replica: &SharedReplica,
        known: Option<(u64, Digest)>,
    ) -> Result<Vec<LoggedRecord>> {
        let Some((mut number, mut hash)) = known else {
            return match reader.newest(replica, self.log).await {
                // So much junk lies there that nobody knows what is below it.
                Err(error) if is_verdict(&error) => Err(Error::storage(error.chain())),
                newest => Ok(newest?.into_iter().collect()),
            };
        };
        let mut found = Vec::new();
        loop {
            let next = match reader.fetch(replica, self.log, number + 1).await {
                Ok(Some(next)) => next,
                Ok(None) => break,
                // What nobody believes ends no log, and is overwritten.
                Err(error) if is_verdict(&error) => break,
                Err(error) => return Err(error),
            };
            if next.record.previous != Some(hash) {
                return Err(self.forked(replica, number + 1));
            }
            (number, hash) = (number + 1, next.hash());
            found.push(next);
        }
        Ok(found)
    }

    /// Gives a replica the records up to `newest` that it lacks. Returns the first of them.
    async fn send(&self, own: &OwnRecords<'_>, replica: &SharedReplica, newest: u64) -> Result<u64> {
        let there: BTreeSet<u64> =
            LogReader { vault: self.vault, trust: self.trust }.numbers(replica, self.log).await?.into_iter().collect();
        let mut first = newest;
        while first > 1 {
            if !there.contains(&(first - 1)) && own.read(first - 1)?.is_some() {
                first -= 1;
                continue;
            }
            let Some(kept) = own.read(first - 1)? else { break };
            let key = layout::log_record(self.log, first - 1);
            match replica.get(&key, MAX_LOG_RECORD_BYTES as u64).await {
                Ok(there) if there == kept => break,
                Ok(_) => self.check_junk(replica, first - 1).await?,
                Err(error) if error.is_not_found() || matches!(error.kind, ReplicaErrorKind::TooLong { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            first -= 1;
        }
        for number in first..=newest {
            let kept = own.read(number)?;
            let kept = kept.ok_or_else(|| Error::storage(format!("record {number} of log {} is gone", self.log)))?;
            self.put(replica, number, kept).await?;
        }
        Ok(first)
    }

    async fn put(&self, replica: &SharedReplica, number: u64, stored: Bytes) -> Result<()> {
        let key = layout::log_record(self.log, number);
        let Err(error) = replica.put_new(&key, stored.clone()).await else { return Ok(()) };
        if !matches!(error.kind, ReplicaErrorKind::AlreadyExists) {
            return Err(error.into());
        }
        match replica.get(&key, MAX_LOG_RECORD_BYTES as u64).await {
            Ok(there) if there == stored => return Ok(()),
            Ok(_) => self.check_junk(replica, number).await?,
            Err(error) if matches!(error.kind, ReplicaErrorKind::TooLong { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(replica = %replica.name(), %key, "Overwriting what is no record of this log");
        Ok(replica.put_replace(&key, stored).await?)
    }

    /// Refuses to overwrite a record that can be believed.
    async fn check_junk(&self, replica: &SharedReplica, number: u64) -> Result<()> {
        let reader = LogReader { vault: self.vault, trust: self.trust };
        match reader.fetch(replica, self.log, number).await {
            Err(error) if is_verdict(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.forked(replica, number)),
        }
    }

    fn forked(&self, replica: &SharedReplica, number: u64) -> Error {
        let (log, replica) = (self.log, replica.name());
        Error::integrity(format!("replica {replica} has another record {number} of log {log} than this machine wrote"))
            .because("two machines have the key of this log, or an old state directory was put back")
            .hint("run `lifeboat audit verify`, and find out who wrote it; then give this machine a new signer")
    }
}

fn too_slow(replica: &SharedReplica) -> Error {
    Error::storage(format!("replica {} took too long", replica.name()))
}
