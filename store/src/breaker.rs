//! Remembers that a replica hung or refused, so that nobody waits for it again and again.
//!
//! - **Down**: an operation that found no answer, with all its retries, takes the replica down. So
//!   it is as long as the program runs, or until it answers.
//! - **The probe**: before the next operation one probe reads `vault.json`, without retries and
//!   with a short deadline. If the replica answers, whatever it says, it is up again, and the
//!   operation takes its course. If not, the operation fails at once.
//! - **How often**: operations that come meanwhile wait for this probe. For ten times as long as it
//!   took, and a second at least, others fail without another one. So of the time of a run that
//!   meets a hanging replica, a tenth is spent on probes at most.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::Name;
use lifeboat_format::layout;
use tokio::time::Instant;

use crate::guards::Lock;
use crate::replica::{Down, ObjectMeta, Page, Probe, Removal, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};
use crate::waiting;

/// A probe takes no longer than this, nor than `timeout`.
const MAX_PROBE: Duration = Duration::from_secs(5);
/// A failed probe counts for so many times the time that it took, …
const COUNTS_FOR: u32 = 10;
/// … but no shorter than this.
const MIN_COUNTS: Duration = Duration::from_secs(1);

/// A replica that is left alone while it is down.
pub struct Breaker {
    /// With retries.
    inner: SharedReplica,
    /// The same replica without retries.
    bare: SharedReplica,
    /// How long a probe may take.
    patience: Duration,
    clock: SharedClock,
    state: Mutex<Option<Remembered>>,
    /// Held by whoever probes.
    probing: tokio::sync::Mutex<()>,
}

/// A replica that is down.
#[derive(Debug, Clone)]
struct Remembered {
    since: DateTime<Utc>,
    why: String,
    /// Until then, operations fail without a probe.
    until: Option<Instant>,
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("inner", &self.inner).field("down", &self.down()).finish_non_exhaustive()
    }
}

impl Breaker {
    /// `inner`, left alone while it is down. `bare` is the same replica without retries, and
    /// `timeout` its deadline.
    #[must_use]
    pub fn new(inner: SharedReplica, bare: SharedReplica, timeout: Duration, clock: SharedClock) -> Self {
        let (patience, probing) = (timeout.min(MAX_PROBE), tokio::sync::Mutex::new(()));
        Self { inner, bare, patience, clock, state: Mutex::default(), probing }
    }

    fn state(&self) -> MutexGuard<'_, Option<Remembered>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the replica has just not answered, and why.
    fn left_alone(&self) -> Option<String> {
        let state = self.state();
        let down = state.as_ref().filter(|down| down.until.is_some_and(|until| Instant::now() < until))?;
        Some(format!("it does not answer since {}: {}", down.since.format("%H:%M:%S UTC"), down.why))
    }

    /// Goes on if the replica is up, or answers a probe.
    async fn admit(&self, operation: &'static str, key: &str) -> Result<(), ReplicaError> {
        if self.state().is_none() {
            return Ok(());
        }
        let refused = |why: String| {
            let (replica, kind) = (self.name().clone(), ReplicaErrorKind::Unavailable(why));
            ReplicaError { replica, operation, key: key.to_owned(), kind }
        };
        let _probing = self.probing.lock().await;
        if let Some(why) = self.left_alone() {
            return Err(refused(why));
        }
        if self.state().is_none() {
            return Ok(());
        }
        let begun = Instant::now();
        let probed = waiting::within(self.patience, self.bare.head(layout::VAULT)).await;
        let why = match probed {
            None => ReplicaErrorKind::TimedOut(self.patience).to_string(),
            Some(Err(error)) if is_silence(&error.kind) => error.kind.to_string(),
            Some(_) => {
                tracing::info!(replica = %self.name(), "replica answers again");
                *self.state() = None;
                return Ok(());
            }
        };
        if let Some(down) = self.state().as_mut() {
            down.until = Some(Instant::now() + (begun.elapsed() * COUNTS_FOR).max(MIN_COUNTS));
            down.why = why;
        }
        Err(refused(self.left_alone().unwrap_or_default()))
    }

    async fn pass<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, ReplicaError>> + Send,
    ) -> Result<T, ReplicaError> {
        self.admit(operation, key).await?;
        let outcome = work.await;
        if let Err(error) = &outcome
            && is_silence(&error.kind)
        {
            let mut state = self.state();
            if state.is_none() {
                let why = error.kind.to_string();
                tracing::warn!(replica = %self.name(), %why, "replica is down: from now on it is only probed");
                *state = Some(Remembered { since: self.clock.now(), why, until: None });
            }
        }
        outcome
    }
}

/// Whether a replica that fails like this is down.
fn is_silence(kind: &ReplicaErrorKind) -> bool {
    match kind {
        ReplicaErrorKind::Unavailable(_) | ReplicaErrorKind::TimedOut(_) => true,
        ReplicaErrorKind::NotFound
        | ReplicaErrorKind::AlreadyExists
        | ReplicaErrorKind::Denied(_)
        | ReplicaErrorKind::Misconfigured(_)
        | ReplicaErrorKind::Corrupt(_)
        | ReplicaErrorKind::Throttled { .. }
        | ReplicaErrorKind::TooLong { .. }
        | ReplicaErrorKind::BadListing(_)
        | ReplicaErrorKind::Frozen(_)
        | ReplicaErrorKind::Other(_) => false,
    }
}

#[async_trait]
impl Replica for Breaker {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn region(&self) -> &str {
        self.inner.region()
    }

    fn clock_offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        self.inner.clock_offset(tolerance)
    }

    fn down(&self) -> Option<Down> {
        self.state().as_ref().map(|down| Down { since: down.since, why: down.why.clone() })
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.pass("put", key, self.inner.put_new(key, body)).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.pass("put", key, self.inner.put_replace(key, body)).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.pass("get", key, self.inner.get(key, limit)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.pass("look up", key, self.inner.head(key)).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.pass("list", prefix, self.inner.list_page(prefix, next)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.pass("delete", key, self.inner.delete(key)).await
    }

    async fn delete_all(&self, keys: &[String]) -> Result<Removal, ReplicaError> {
        let first = keys.first().map_or("", String::as_str);
        self.pass("delete", first, self.inner.delete_all(keys)).await
    }

    fn lock(&self) -> Option<Lock> {
        self.inner.lock()
    }

    async fn locked_until(&self, key: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        self.pass("look up", key, self.inner.locked_until(key)).await
    }

    async fn lock_until(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        self.pass("lock", key, self.inner.lock_until(key, until)).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.pass("probe", "", self.inner.probe(write)).await
    }
}

#[cfg(test)]
mod tests;
