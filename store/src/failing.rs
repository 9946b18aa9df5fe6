//! A replica that fails the calls that a test names, so that a failure can be repeated exactly.
//!
//! Calls are counted from 1, in the order in which they begin, over all methods but
//! [`name`](Replica::name), [`region`](Replica::region) and
//! [`clock_offset`](Replica::clock_offset). Each page of a listing is a call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use lifeboat_format::id::Name;

use crate::replica::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing is done; the replica is unavailable. Worth a retry.
    Unavailable,
    /// Nothing is done; access is denied. Not worth a retry.
    Denied,
    /// Nothing is done; the object is reported as missing.
    NotFound,
    /// The work is done, but the answer is lost. Worth a retry.
    AnswerLost,
    /// Nothing is done, and the call times out after this, unless it is dropped before.
    Hang(Duration),
    /// `get` returns the body without its last byte; other calls work.
    Truncated,
    /// `get` returns the body with one bit flipped; other calls work.
    Flipped,
    /// A page of a listing claims to be the last one; other calls work.
    ListingCut,
}

/// Passes calls on to another replica, except for those that [`fail`](Self::fail) names.
pub struct FailingReplica {
    inner: SharedReplica,
    calls: AtomicU64,
    planned: Mutex<BTreeMap<u64, Failure>>,
}

impl FailingReplica {
    /// A replica that passes every call on to `inner` until it is told to fail one.
    #[must_use]
    pub fn new(inner: SharedReplica) -> Self {
        Self { inner, calls: AtomicU64::new(0), planned: Mutex::default() }
    }

    /// Makes the call of this number, counted from 1, fail with `failure`.
    pub fn fail(&self, call: u64, failure: Failure) {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).insert(call, failure);
    }

    /// How many calls have begun.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn next(&self) -> Option<Failure> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).remove(&call)
    }

    async fn pass<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, ReplicaError>> + Send,
        spoil: impl FnOnce(T, Failure) -> T + Send,
    ) -> Result<T, ReplicaError> {
        let failed = |kind| ReplicaError { replica: self.name().clone(), operation, key: key.to_owned(), kind };
        let told = || "a planned failure".to_owned();
        match self.next() {
            None => work.await,
            Some(Failure::Unavailable) => Err(failed(ReplicaErrorKind::Unavailable(told()))),
            Some(Failure::Denied) => Err(failed(ReplicaErrorKind::Denied(told()))),
            Some(Failure::NotFound) => Err(failed(ReplicaErrorKind::NotFound)),
            Some(Failure::AnswerLost) => {
                work.await?;
                Err(failed(ReplicaErrorKind::Unavailable("a planned failure: the answer is lost".to_owned())))
            }
            Some(Failure::Hang(limit)) => {
                tokio::time::sleep(limit).await;
                Err(failed(ReplicaErrorKind::TimedOut(limit)))
            }
            Some(spoiled @ (Failure::Truncated | Failure::Flipped | Failure::ListingCut)) => {
                work.await.map(|answer| spoil(answer, spoiled))
            }
        }
    }
}

impl fmt::Debug for FailingReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingReplica")
            .field("inner", &self.inner)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

fn as_it_is<T>(answer: T, _: Failure) -> T {
    answer
}

#[async_trait]
impl Replica for FailingReplica {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn region(&self) -> &str {
        self.inner.region()
    }

    fn clock_offset(&self, tolerance: TimeDelta) -> Option<TimeDelta> {
        self.inner.clock_offset(tolerance)
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.pass("put", key, self.inner.put_new(key, body), as_it_is).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.pass("put", key, self.inner.put_replace(key, body), as_it_is).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.pass("get", key, self.inner.get(key, limit), |body, failure| match failure {
            Failure::Truncated => body.slice(..body.len().saturating_sub(1)),
            Failure::Flipped => {
                let mut bytes = body.to_vec();
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 1;
                }
                bytes.into()
            }
            _ => body,
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.pass("look up", key, self.inner.head(key), as_it_is).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.pass("list", prefix, self.inner.list_page(prefix, next), |page, failure| match failure {
            Failure::ListingCut => Page { next: None, ..page },
            _ => page,
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.pass("delete", key, self.inner.delete(key), as_it_is).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.pass("probe", "", self.inner.probe(write), as_it_is).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use lifeboat_base::clock::SystemClock;

    use super::*;
    use crate::memory::MemoryReplica;

    fn failing() -> FailingReplica {
        let name = "memory".parse().unwrap();
        FailingReplica::new(Arc::new(MemoryReplica::new(name, "nowhere", SystemClock::shared())))
    }

    #[tokio::test]
    async fn only_the_call_that_was_named_fails() {
        let replica = failing();
        replica.fail(2, Failure::Unavailable);
        replica.put_new("a", Bytes::from_static(b"a")).await.unwrap();
        let error = replica.put_new("b", Bytes::from_static(b"b")).await.unwrap_err();
        assert!(error.is_retryable());
        assert_eq!(replica.head("b").await.unwrap(), None, "a refused call did its work");
        replica.put_new("b", Bytes::from_static(b"b")).await.unwrap();
        assert_eq!(replica.calls(), 4);
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_work_done() {
        let replica = failing();
        replica.fail(1, Failure::AnswerLost);
        replica.put_new("a", Bytes::from_static(b"a")).await.unwrap_err();
        assert_eq!(replica.get("a", 9).await.unwrap(), "a");
    }

    #[tokio::test]
    async fn bodies_and_listings_come_back_spoiled() {
        let replica = failing();
        for n in 0..150 {
            replica.put_new(&format!("{n}"), Bytes::from_static(b"body")).await.unwrap();
        }
        replica.fail(151, Failure::Truncated);
        replica.fail(152, Failure::Flipped);
        replica.fail(153, Failure::ListingCut);
        assert_eq!(replica.get("1", 9).await.unwrap(), "bod");
        let flipped = replica.get("1", 9).await.unwrap();
        assert!(flipped.len() == 4 && flipped != "body");
        assert!(replica.list("").await.unwrap().len() < 150);
        assert_eq!(replica.list("").await.unwrap().len(), 150);
    }
}
