//! A replica that fails the calls that a test names, so that a failure can be repeated exactly.
//!
//! Calls are counted from 1, in the order in which they begin, over all methods but
//! [`name`](Replica::name), [`region`](Replica::region), [`clock_offset`](Replica::clock_offset)
//! and [`lock`](Replica::lock). Each page of a listing is a call.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::Name;

use crate::guards::Lock;
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
    /// The first page of a listing tells, as the only one, what was there when so many changes
    /// fewer had been made: objects that were written since are missing, and objects that were
    /// deleted since are listed. Other calls work.
    ListingStale(u64),
    /// Nothing is done; the listing contradicts itself, as one that goes on and does not say how.
    /// Other calls work. Not worth a retry.
    ListingContradicts,
    /// Nothing is done; a write collides with another one (HTTP 409), other calls work. Worth a
    /// retry.
    Conflict,
    /// Nothing is done; `put_new` is told that the object exists (HTTP 412), though it may not.
    /// Other calls work. Not worth a retry.
    Exists,
}

impl Failure {
    /// One of each kind; calls that hang do so for `hang`.
    #[must_use]
    pub fn all(hang: Duration) -> Vec<Self> {
        vec![
            Self::Unavailable,
            Self::Denied,
            Self::NotFound,
            Self::AnswerLost,
            Self::Hang(hang),
            Self::Truncated,
            Self::Flipped,
            Self::ListingCut,
            Self::ListingStale(1),
            Self::ListingStale(2),
            Self::ListingStale(3),
            Self::ListingStale(u64::MAX),
            Self::ListingContradicts,
            Self::Conflict,
            Self::Exists,
        ]
    }
}

/// What is called, as far as failures tell calls apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    PutNew,
    PutReplace,
    List,
    Other(&'static str),
}

impl Call {
    fn operation(self) -> &'static str {
        match self {
            Self::PutNew | Self::PutReplace => "put",
            Self::List => "list",
            Self::Other(operation) => operation,
        }
    }
}

/// Passes calls on to another replica, except for those that [`fail`](Self::fail) names.
pub struct FailingReplica {
    inner: SharedReplica,
    calls: AtomicU64,
    cut_listings: AtomicU64,
    planned: Mutex<BTreeMap<u64, Failure>>,
    /// What was changed through it, oldest first: the key, and what was there before.
    changes: Mutex<Vec<(String, Option<ObjectMeta>)>>,
}

impl FailingReplica {
    /// A replica that passes every call on to `inner` until it is told to fail one.
    #[must_use]
    pub fn new(inner: SharedReplica) -> Self {
        let (planned, changes) = (Mutex::default(), Mutex::default());
        Self { inner, calls: AtomicU64::new(0), cut_listings: AtomicU64::new(0), planned, changes }
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

    /// How many listings [`Failure::ListingCut`] has really cut.
    #[must_use]
    pub fn cut_listings(&self) -> u64 {
        self.cut_listings.load(Ordering::SeqCst)
    }

    /// The keys of what was changed through it, oldest first.
    #[must_use]
    pub fn changed(&self) -> Vec<String> {
        self.changes().iter().map(|(key, _)| key.clone()).collect()
    }

    fn changes(&self) -> MutexGuard<'_, Vec<(String, Option<ObjectMeta>)>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is there, and remembers what was there before.
    async fn change(
        &self,
        key: &str,
        work: impl Future<Output = Result<(), ReplicaError>> + Send,
    ) -> Result<(), ReplicaError> {
        let before = self.inner.head(key).await?;
        work.await?;
        self.changes().push((key.to_owned(), before));
        Ok(())
    }

    /// What a listing told so many changes ago.
    fn before(&self, changes: u64, prefix: &str, objects: Vec<ObjectMeta>) -> Vec<ObjectMeta> {
        let mut objects: BTreeMap<String, ObjectMeta> =
            objects.into_iter().map(|object| (object.key.clone(), object)).collect();
        let undone = usize::try_from(changes).unwrap_or(usize::MAX);
        for (key, before) in self.changes().iter().rev().take(undone).filter(|(key, _)| key.starts_with(prefix)) {
            match before {
                Some(object) => objects.insert(key.clone(), object.clone()),
                None => objects.remove(key),
            };
        }
        objects.into_values().collect()
    }

    fn next(&self) -> Option<Failure> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).remove(&call)
    }

    async fn pass<T>(
        &self,
        call: Call,
        key: &str,
        work: impl Future<Output = Result<T, ReplicaError>> + Send,
        spoil: impl FnOnce(T, Failure) -> T + Send,
    ) -> Result<T, ReplicaError> {
        self.pass_or(self.next(), call, key, work, spoil).await
    }

    async fn pass_or<T>(
        &self,
        failure: Option<Failure>,
        call: Call,
        key: &str,
        work: impl Future<Output = Result<T, ReplicaError>> + Send,
        spoil: impl FnOnce(T, Failure) -> T + Send,
    ) -> Result<T, ReplicaError> {
        let failed = |kind| ReplicaError {
            replica: self.name().clone(),
            operation: call.operation(),
            key: key.to_owned(),
            kind,
        };
        let told = || "a planned failure".to_owned();
        match failure {
            None => work.await,
            Some(Failure::Conflict) if matches!(call, Call::PutNew | Call::PutReplace) => {
                Err(failed(ReplicaErrorKind::Unavailable("a planned failure: HTTP 409".to_owned())))
            }
            Some(Failure::Exists) if call == Call::PutNew => Err(failed(ReplicaErrorKind::AlreadyExists)),
            Some(Failure::ListingContradicts) if call == Call::List => {
                Err(failed(ReplicaErrorKind::BadListing("a planned failure".to_owned())))
            }
            Some(Failure::Conflict | Failure::Exists | Failure::ListingContradicts) => work.await,
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
            Some(
                spoiled @ (Failure::Truncated | Failure::Flipped | Failure::ListingCut | Failure::ListingStale(_)),
            ) => work.await.map(|answer| spoil(answer, spoiled)),
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
        self.pass(Call::PutNew, key, self.change(key, self.inner.put_new(key, body)), as_it_is).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.pass(Call::PutReplace, key, self.change(key, self.inner.put_replace(key, body)), as_it_is).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.pass(Call::Other("get"), key, self.inner.get(key, limit), |body, failure| match failure {
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
        self.pass(Call::Other("look up"), key, self.inner.head(key), as_it_is).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        let failure = self.next();
        let work = async {
            match (failure, next) {
                // All at once: what was deleted may belong on any page.
                (Some(Failure::ListingStale(_)), None) => {
                    Ok(Page { objects: self.inner.list(prefix).await?, next: None })
                }
                _ => self.inner.list_page(prefix, next).await,
            }
        };
        let spoil = |page: Page, failure| match failure {
            Failure::ListingCut => {
                self.cut_listings.fetch_add(u64::from(page.next.is_some()), Ordering::SeqCst);
                Page { next: None, ..page }
            }
            Failure::ListingStale(changes) if next.is_none() => {
                Page { objects: self.before(changes, prefix, page.objects), ..page }
            }
            _ => page,
        };
        self.pass_or(failure, Call::List, prefix, work, spoil).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.pass(Call::Other("delete"), key, self.change(key, self.inner.delete(key)), as_it_is).await
    }

    fn lock(&self) -> Option<Lock> {
        self.inner.lock()
    }

    async fn locked_until(&self, key: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        self.pass(Call::Other("look up the lock of"), key, self.inner.locked_until(key), as_it_is).await
    }

    async fn lock_until(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        self.pass(Call::Other("lock"), key, self.inner.lock_until(key, until), as_it_is).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.pass(Call::Other("probe"), "", self.inner.probe(write), as_it_is).await
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

    #[tokio::test]
    async fn a_stale_listing_tells_what_was_there_some_changes_ago() {
        let replica = failing();
        let keys = async |prefix: &str| {
            let listed = replica.list(prefix).await.unwrap();
            listed.into_iter().map(|object| object.key).collect::<Vec<_>>()
        };
        for key in ["a/1", "a/2", "b/1"] {
            replica.put_new(key, Bytes::from_static(b"body")).await.unwrap();
        }
        replica.delete("a/1").await.unwrap();
        let told = [
            (0, vec!["a/2", "b/1"]),
            (1, vec!["a/1", "a/2", "b/1"]),
            (2, vec!["a/1", "a/2"]),
            (3, vec!["a/1"]),
            (u64::MAX, vec![]),
        ];
        for (changes, expected) in told {
            replica.fail(replica.calls() + 1, Failure::ListingStale(changes));
            assert_eq!(keys("").await, expected, "{changes} changes ago");
        }
        replica.fail(replica.calls() + 1, Failure::ListingStale(2));
        assert_eq!(keys("b/").await, [""; 0]);
        assert_eq!(keys("").await, ["a/2", "b/1"]);
    }

    #[tokio::test]
    async fn what_fails_writes_alone_or_listings_alone_leaves_other_calls_alone() {
        let replica = failing();
        let body = || Bytes::from_static(b"body");
        for failure in [Failure::Conflict, Failure::Exists] {
            replica.fail(replica.calls() + 1, failure);
            let error = replica.put_new("a", body()).await.unwrap_err();
            assert_eq!(error.is_retryable(), failure == Failure::Conflict, "{error}");
            assert_eq!(replica.head("a").await.unwrap(), None, "{failure:?} did its work");
        }
        replica.fail(replica.calls() + 1, Failure::Exists);
        replica.put_replace("a", body()).await.unwrap();
        replica.fail(replica.calls() + 1, Failure::Conflict);
        assert_eq!(replica.get("a", 9).await.unwrap(), "body");
        replica.fail(replica.calls() + 1, Failure::ListingContradicts);
        assert_eq!(replica.get("a", 9).await.unwrap(), "body");
        replica.fail(replica.calls() + 1, Failure::ListingContradicts);
        let error = replica.list("").await.unwrap_err();
        assert!(matches!(error.kind, ReplicaErrorKind::BadListing(_)), "{error}");
    }
}
