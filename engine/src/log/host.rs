//! The log of a backup host, or of a warden: what it records of its daily work, and why it
//! deletes nothing.
//!
//! What deletes is recorded before; a commit after it, because a backup must not fail for the log.

use chrono::{DateTime, Utc};
use lifeboat_base::{Error, Result};
use lifeboat_format::log::{LogEvent, LogKind, LogName, SeenAct};
use lifeboat_store::SharedReplica;

use super::append::Logbook;
use super::reader::LogReader;
use super::seen::{LooksBack, look};
use crate::keys::HostKeys;
use crate::state::StateDirectory;

/// The log of a backup host.
pub struct HostLog<'a> {
    /// Its keys.
    pub keys: &'a HostKeys,
    /// Every configured replica.
    pub replicas: &'a [SharedReplica],
    /// Where it remembers logs.
    pub state: &'a StateDirectory,
}

impl HostLog<'_> {
    /// Its name; `None` without a root.
    fn log(&self) -> Result<Option<LogName>> {
        let trust = &self.keys.trust;
        if trust.root().is_none() {
            return Ok(None);
        }
        let kind = if self.keys.is_warden { LogKind::Wardens } else { LogKind::Hosts };
        let log = trust.log_of(kind, &self.keys.signer.public());
        if self.keys.is_warden && log.is_none() {
            return Err(Error::keys("the root does not name this machine as its warden, so it has no log").hint(
                "run `lifeboat root request set-warden` on a backup host, let an owner sign it, and install that",
            ));
        }
        log.map(Some).ok_or_else(|| {
            Error::keys("the root does not name this host, so it has no log")
                .hint("run `lifeboat root request add-host` here, let an owner sign it, and install that")
        })
    }

    /// Records something. Returns warnings. Without a root there is nothing to do.
    ///
    /// # Errors
    /// No replica took the record.
    pub async fn record(&self, event: LogEvent, acts: Vec<SeenAct>, now: DateTime<Utc>) -> Result<Vec<String>> {
        self.record_because(event, None, acts, now).await
    }

    /// As [`Self::record`]; `why`, as somebody said.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub async fn record_because(
        &self,
        event: LogEvent,
        why: Option<String>,
        acts: Vec<SeenAct>,
        now: DateTime<Utc>,
    ) -> Result<Vec<String>> {
        let Some(log) = self.log()? else { return Ok(Vec::new()) };
        let book = Logbook {
            log: &log,
            signer: &self.keys.signer,
            vault: &self.keys.vault,
            trust: &self.keys.trust,
            replicas: self.replicas,
            home: self.state,
        };
        let recorded = book.append(event, why.as_deref(), acts, now).await?;
        recorded.in_a_replica().map_err(|error| {
            error
                .hint("allow this host to write below log/ in its replicas; the record is kept, and sent with the next")
        })?;
        Ok(recorded.warnings())
    }

    /// What became of others' logs since this host looked last.
    ///
    /// # Errors
    /// What it remembers cannot be read or written.
    pub async fn look(&self) -> Result<LooksBack> {
        let Some(log) = self.log()? else { return Ok(LooksBack::default()) };
        let reader = LogReader { vault: &self.keys.vault, trust: &self.keys.trust };
        look(&reader, self.replicas, self.state, Some(&log)).await
    }

    /// Refuses to delete while somebody's log is shorter than it was, or nobody can tell.
    ///
    /// # Errors
    /// Which log, and how much of it is missing.
    pub async fn permit_deletion(&self) -> Result<()> {
        let back = self.look().await?;
        back.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let found: Vec<String> = back.findings.into_iter().chain(back.doubts).collect();
        if found.is_empty() {
            return Ok(());
        }
        Err(Error::integrity("nothing is deleted, because somebody's log is not what it was")
            .because(found.join("; "))
            .hint("run `lifeboat audit verify`, and find out who cut it; see OPERATIONS.md, \"Somebody's log is shorter\""))
    }
}
