//! Retries: the one place that sends a request again.
//!
//! - Only what [`ReplicaError::is_retryable`] allows is repeated, a bounded number of times, with
//!   exponential pauses and jitter. No attempt begins once the operation has taken as long as its
//!   deadline, not counting its waits for the gate or the pacer.
//! - A replica that asks to slow down is asked again after the time that it names, or after growing
//!   pauses, for ten minutes at most. These answers cost no attempt. Whatever else is asked of the
//!   replica waits, too.
//! - An attempt that failed without an answer may have done its work. Every operation but
//!   [`Replica::put_new`] can simply be repeated. After a repeated `put_new`, an existing object is
//!   ours exactly if it holds our bytes. If that cannot be seen, or a later attempt is refused, the
//!   error is one without an answer: the first attempt may have stored the object.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::Name;
use tokio::time::Instant;

use crate::guards::Lock;
use crate::replica::{
    Down, MAX_DELETED_AT_ONCE, ObjectMeta, Page, Probe, Removal, Replica, ReplicaError, ReplicaErrorKind, SharedReplica,
};
use crate::versions::VersionsPage;
use crate::waiting::Waiting;

/// A replica that asks to slow down is asked again for so long.
const THROTTLED_LIMIT: Duration = Duration::from_secs(10 * 60);
/// The first pause after it asked for one, and did not say how long.
const SLOW_PAUSE: Duration = Duration::from_secs(1);
/// No such pause is longer, whatever it says.
const LONGEST_SLOW_PAUSE: Duration = Duration::from_secs(60);
/// After a pause, requests begin within this time, so that they do not all come at once.
const SPREAD: Duration = Duration::from_millis(500);

/// How often a request is sent, and how long the pauses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The number of attempts at most, the first included.
    pub attempts: u32,
    /// The pause after the first attempt. It doubles after each attempt, and is shortened at random
    /// to between half of it and all.
    pub pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// No attempt begins once this time has passed.
    pub budget: Duration,
}

impl RetryPolicy {
    /// Four attempts within `budget`.
    #[must_use]
    pub fn within(budget: Duration) -> Self {
        Self { attempts: 4, pause: Duration::from_millis(250), longest_pause: Duration::from_secs(5), budget }
    }

    fn pause_after(&self, attempt: u32) -> Duration {
        let doubled = self.pause.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        doubled.min(self.longest_pause).mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Any replica, with retries.
#[derive(Debug)]
pub struct Retry {
    inner: SharedReplica,
    policy: RetryPolicy,
    /// Nothing is asked before this time, because the replica asked for a pause.
    not_before: Mutex<Option<Instant>>,
}

impl Retry {
    /// `inner` with retries.
    #[must_use]
    pub fn new(inner: SharedReplica, policy: RetryPolicy) -> Self {
        Self { inner, policy, not_before: Mutex::default() }
    }

    fn not_before(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.not_before)
    }

    fn slow_down(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut not_before = self.not_before();
        *not_before = Some(not_before.map_or(until, |before| before.max(until)));
    }

    /// Waits while the replica wants a pause, and tells how long that was.
    async fn wait_for_turn(&self) -> Duration {
        let begun = Instant::now();
        let _turn = Waiting::current().begin();
        loop {
            let Some(until) = self.not_before().filter(|until| *until > Instant::now()) else { break };
            tokio::time::sleep_until(until + SPREAD.mul_f64(rand::random_range(0.0..=1.0))).await;
        }
        begun.elapsed()
    }

    async fn repeat<T, F>(&self, call: impl FnMut() -> F) -> Result<T, ReplicaError>
    where
        F: Future<Output = Result<T, ReplicaError>>,
    {
        self.repeat_and_tell(call, |_| {}).await
    }

    /// As [`Self::repeat`]. `failed` gets the error of each attempt after which another one began.
    async fn repeat_and_tell<T, F>(
        &self,
        mut call: impl FnMut() -> F,
        mut failed: impl FnMut(ReplicaError),
    ) -> Result<T, ReplicaError>
    where
        F: Future<Output = Result<T, ReplicaError>>,
    {
        let (start, waiting) = (Instant::now(), Waiting::default());
        let (mut attempt, mut slowed, mut pauses) = (1, Duration::ZERO, 0);
        loop {
            slowed += self.wait_for_turn().await;
            let error = match waiting.count(call()).await {
                Err(ReplicaError { kind: ReplicaErrorKind::Throttled { why, after }, .. })
                    if slowed < THROTTLED_LIMIT =>
                {
                    let doubled = SLOW_PAUSE.saturating_mul(1 << pauses.min(16));
                    let asked = after.filter(|pause| !pause.is_zero());
                    let pause = asked.unwrap_or(doubled).min(LONGEST_SLOW_PAUSE);
                    tracing::warn!(replica = %self.inner.name(), seconds = pause.as_secs_f64(), "this replica asks to slow down: {why}");
                    self.slow_down(pause);
                    pauses += 1;
                    continue;
                }
                // Throttled for too long.
                Err(error) if matches!(error.kind, ReplicaErrorKind::Throttled { .. }) => return Err(error),
                Err(error) if error.is_retryable() && attempt < self.policy.attempts => error,
                outcome => return outcome,
            };
            let pause = self.policy.pause_after(attempt);
            let used = start.elapsed().saturating_sub(waiting.total() + slowed);
            if used + pause >= self.policy.budget {
                return Err(error);
            }
            tracing::warn!(attempt, %error, "a request failed and is sent again");
            tokio::time::sleep(pause).await;
            failed(error);
            attempt += 1;
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error of an object of which nobody knows whether it was stored: an attempt had no answer,
/// and what came `later` says nothing about that.
fn may_be_stored(unanswered: &ReplicaError, later: ReplicaError) -> ReplicaError {
    if later.is_retryable() {
        return later;
    }
    let told = format!("an attempt had no answer ({}), and the next one failed: {}", unanswered.kind, later.kind);
    ReplicaError { kind: ReplicaErrorKind::Unavailable(told), ..later }
}

#[async_trait]
impl Replica for Retry {
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
        self.inner.down()
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        let mut unanswered = None;
        let put = || self.inner.put_new(key, body.clone());
        let Err(last) = self.repeat_and_tell(put, |error| unanswered = Some(error)).await else {
            return Ok(());
        };
        let Some(unanswered) = unanswered else { return Err(last) };
        if !matches!(last.kind, ReplicaErrorKind::AlreadyExists) {
            return Err(may_be_stored(&unanswered, last));
        }
        match self.get(key, body.len() as u64).await {
            Ok(found) if found == body => Ok(()),
            Ok(_) | Err(ReplicaError { kind: ReplicaErrorKind::TooLong { .. }, .. }) => Err(last),
            Err(error) => Err(may_be_stored(&unanswered, error)),
        }
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.repeat(|| self.inner.put_replace(key, body.clone())).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.repeat(|| self.inner.get(key, limit)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.repeat(|| self.inner.head(key)).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.repeat(|| self.inner.list_page(prefix, next)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.repeat(|| self.inner.delete(key)).await
    }

    async fn delete_all(&self, keys: &[String]) -> Result<Removal, ReplicaError> {
        let mut removal = Removal::default();
        for batch in keys.chunks(MAX_DELETED_AT_ONCE) {
            // What is left to do, and why some of it was not done.
            let left = Mutex::new((batch.to_vec(), Vec::new()));
            let (refused, hidden) = (Mutex::new(Vec::new()), AtomicU64::new(0));
            let attempt = || async {
                let keys = {
                    let mut left = lock(&left);
                    left.1.clear();
                    left.0.clone()
                };
                let removed = self.inner.delete_all(&keys).await?;
                hidden.fetch_add(removed.hidden, Ordering::Relaxed);
                let (again, failed): (Vec<_>, Vec<_>) =
                    removed.failed.into_iter().partition(ReplicaError::is_retryable);
                lock(&refused).extend(failed);
                let why = again.first().cloned();
                *lock(&left) = (again.iter().map(|error| error.key.clone()).collect(), again);
                why.map_or(Ok(()), Err)
            };
            let outcome = self.repeat(attempt).await;
            let unanswered = std::mem::take(&mut lock(&left).1);
            if unanswered.is_empty() {
                outcome?;
            }
            removal.failed.extend(std::mem::take(&mut *lock(&refused)));
            removal.failed.extend(unanswered);
            removal.hidden += hidden.into_inner();
        }
        Ok(removal)
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.repeat(|| self.inner.probe(write)).await
    }

    fn lock(&self) -> Option<Lock> {
        self.inner.lock()
    }

    async fn locked_until(&self, key: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        self.repeat(|| self.inner.locked_until(key)).await
    }

    async fn lock_until(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        self.repeat(|| self.inner.lock_until(key, until)).await
    }

    async fn versions_page(&self, prefix: &str, next: Option<&str>) -> Result<VersionsPage, ReplicaError> {
        self.repeat(|| self.inner.versions_page(prefix, next)).await
    }

    async fn get_version(&self, key: &str, version: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.repeat(|| self.inner.get_version(key, version, limit)).await
    }

    async fn uncover(&self, key: &str, marker: &str) -> Result<(), ReplicaError> {
        self.repeat(|| self.inner.uncover(key, marker)).await
    }

    async fn copy_version(&self, key: &str, version: &str) -> Result<(), ReplicaError> {
        self.repeat(|| self.inner.copy_version(key, version)).await
    }
}

#[cfg(test)]
mod tests;
