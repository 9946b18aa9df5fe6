//! Reads single records of logs.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use lifeboat_base::{Class, Error, Result};
use lifeboat_format::id::Digest;
use lifeboat_format::layout;
use lifeboat_format::log::{LogHead, LogName, LogRecord, MAX_LOG_RECORD_BYTES, split_record};
use lifeboat_store::{ReplicaErrorKind, SharedReplica};

use crate::catalog::signed::{check_claim, check_time};
use crate::catalog::unbelieved::MAX_UNBELIEVED;
use crate::catalog::verdict::is_verdict;
use crate::keys::sign::SignerKey;
use crate::keys::trust::{Signature, Trust};

/// So many names are asked for at once, where the newest one is no record.
const TRIED_AT_ONCE: usize = 16;

/// Reads logs of a vault.
#[derive(Clone, Copy)]
pub struct LogReader<'a> {
    /// The vault.
    pub vault: &'a str,
    /// Says who may write which log.
    pub trust: &'a Trust,
}

/// A record that was read and believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRecord {
    /// What it says.
    pub record: LogRecord,
    /// It as it is stored.
    pub stored: Bytes,
    /// Whose key signed it.
    pub signer: SignerKey,
}

impl LoggedRecord {
    /// The hash of the stored record.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest::of(&self.stored)
    }

    /// It as the newest record of its log.
    #[must_use]
    pub fn head(&self) -> LogHead {
        let LogRecord { kind, principal, number, .. } = &self.record;
        LogHead { kind: *kind, name: principal.clone(), number: *number, blake3: self.hash() }
    }
}

impl LogReader<'_> {
    /// A record as one replica has it; `None` if it has none.
    ///
    /// # Errors
    /// What is there cannot be believed, which is a verdict ([`Class::Integrity`] or
    /// [`Class::Keys`]). Or it is not understood here ([`Class::Failed`]), or the replica fails.
    pub(crate) async fn fetch(
        &self,
        replica: &SharedReplica,
        log: &LogName,
        number: u64,
    ) -> Result<Option<LoggedRecord>> {
        let key = layout::log_record(log, number);
        let stored = match replica.get(&key, MAX_LOG_RECORD_BYTES as u64).await {
            Ok(stored) => stored,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) if matches!(error.kind, ReplicaErrorKind::TooLong { .. }) => {
                return Err(Error::integrity(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        self.believe(replica, stored, log, number).await.map(Some)
    }

    /// What a replica has stored as record `number`, if somebody signed it who may, and may still
    /// have when it was stored.
    async fn believe(
        &self,
        replica: &SharedReplica,
        stored: Bytes,
        log: &LogName,
        number: u64,
    ) -> Result<LoggedRecord> {
        let key = layout::log_record(log, number);
        let (found, before) = self.judge(stored, log, number, &format!("replica {}: {key}", replica.name()))?;
        // A directory does not tell when. A log grants nothing, so what it tells itself must do.
        if before.is_some() && replica.clock_offset(TimeDelta::MAX).is_some() {
            check_time(replica.as_ref(), &key, before).await?;
        }
        Ok(found)
    }

    /// A record that somebody signed who may, and may still have at the time that it tells; with
    /// the time before which it must have been stored.
    ///
    /// # Errors
    /// As [`Self::fetch`]; no replica is asked.
    pub(crate) fn judge(
        &self,
        stored: Bytes,
        log: &LogName,
        number: u64,
        what: &str,
    ) -> Result<(LoggedRecord, Option<DateTime<Utc>>)> {
        let damaged = || Error::integrity(format!("{what} is damaged"));
        let (line, signature) = split_record(&stored).ok_or_else(damaged)?;
        let signed = self.trust.judge_record(self.vault, log, number, (line, signature));
        let Signature { signer, before } = signed.map_err(|error| error.within(format!("{what} cannot be trusted")))?;
        let record = LogRecord::of_line(line, self.vault, log, number, what).map_err(|error| {
            Error::failed(format!("{what} was signed by a trusted signer, and is not understood"))
                .because(error.chain())
                .hint("use a newer version of Lifeboat here, too")
        })?;
        check_claim(Some(record.time), before)?;
        Ok((LoggedRecord { record, stored, signer }, before))
    }

    /// The numbers of the records that a replica lists in a log, in order.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(crate) async fn numbers(&self, replica: &SharedReplica, log: &LogName) -> Result<Vec<u64>> {
        let listed = replica.list(&layout::log(log)).await?;
        let parse = |key: &str| layout::parse_log_record(key).filter(|(of, _)| of == log);
        let mut numbers: Vec<u64> =
            listed.iter().filter_map(|object| parse(&object.key)).map(|found| found.1).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The newest record of a log that a replica shows and that is believed. Nothing is known of
    /// those before it.
    ///
    /// # Errors
    /// The replica fails, or shows too many that cannot be believed.
    pub(super) async fn newest(&self, replica: &SharedReplica, log: &LogName) -> Result<Option<LoggedRecord>> {
        let numbers = self.numbers(replica, log).await?;
        let tried = numbers.iter().rev().take(MAX_UNBELIEVED);
        let tried: Vec<u64> = tried.copied().collect();
        // As a rule the first one is it. Only where it is none, many are asked for at once.
        let (first, others) = tried.split_at(tried.len().min(1));
        let fetch = |number: &u64| self.fetch(replica, log, *number);
        let each = futures::stream::iter(first.iter().map(fetch)).buffered(1);
        let others = futures::stream::iter(others.iter().map(fetch)).buffered(TRIED_AT_ONCE);
        let mut found = std::pin::pin!(each.chain(others));
        let mut last = None;
        while let Some(found) = found.next().await {
            match found {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) if is_verdict(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        match last {
            Some(error) if numbers.len() > MAX_UNBELIEVED => Err(Error::new(
                Class::Integrity,
                format!(
                    "the newest {MAX_UNBELIEVED} records of log {log} in replica {} cannot be believed",
                    replica.name()
                ),
            )
            .because(error.chain())),
            _ => Ok(None),
        }
    }
}
