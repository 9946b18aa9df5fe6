//! A replica in memory: for tests, and as the smallest example of the contract.
//!
//! It cannot show that a body survives a crash, and it takes no time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_format::id::Name;

use crate::guards::{Guards, Lock};
use crate::key;
use crate::replica::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind};

/// A page of a listing has no more objects: few, so that callers meet several pages in tests.
const MAX_PAGE_OBJECTS: usize = 100;

/// Keeps every object in memory, and forgets all of them when it is dropped.
pub struct MemoryReplica {
    name: Name,
    region: String,
    clock: SharedClock,
    clock_offset: Mutex<Option<TimeDelta>>,
    objects: Mutex<BTreeMap<String, (Bytes, DateTime<Utc>)>>,
    lock: Option<Lock>,
    /// Until when objects are locked.
    locks: Mutex<BTreeMap<String, DateTime<Utc>>>,
    /// The lock of this object is not extended.
    refused: Mutex<Option<String>>,
    /// No lock is taken that is longer.
    longest: Mutex<Option<Duration>>,
}

impl MemoryReplica {
    /// An empty replica; `clock` dates its objects.
    #[must_use]
    pub fn new(name: Name, region: impl Into<String>, clock: SharedClock) -> Self {
        Self {
            name,
            region: region.into(),
            clock,
            clock_offset: Mutex::default(),
            objects: Mutex::default(),
            lock: None,
            locks: Mutex::default(),
            refused: Mutex::default(),
            longest: Mutex::default(),
        }
    }

    /// The same replica, which locks what it is given. A locked object can be hidden all the same.
    #[must_use]
    pub fn with_lock(self, lock: Lock) -> Self {
        Self { lock: Some(lock), ..self }
    }

    /// From now on it refuses to extend the locks of objects whose key begins so, and of no others.
    pub fn refuse_locks_below(&self, prefix: Option<&str>) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = prefix.map(str::to_owned);
    }

    /// From now on it refuses locks that are longer from now, as a policy makes a store do.
    pub fn refuse_locks_longer_than(&self, longest: Option<Duration>) {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner) = longest;
    }

    fn lock_new(&self, key: &str) {
        let period = self.lock.and_then(|lock| TimeDelta::from_std(lock.period).ok());
        if let Some(period) = period {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.insert(key.to_owned(), self.clock.now() + period);
        }
    }

    /// What [`Replica::clock_offset`] tells from now on.
    pub fn set_clock_offset(&self, offset: Option<TimeDelta>) {
        *self.clock_offset.lock().unwrap_or_else(PoisonError::into_inner) = offset;
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, (Bytes, DateTime<Utc>)>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, operation: &'static str, key: &str, kind: ReplicaErrorKind) -> ReplicaError {
        ReplicaError { replica: self.name.clone(), operation, key: key.to_owned(), kind }
    }

    fn check(&self, operation: &'static str, key: &str) -> Result<(), ReplicaError> {
        key::check(key).map_err(|kind| self.error(operation, key, kind))
    }
}

impl std::fmt::Debug for MemoryReplica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryReplica").field("name", &self.name).field("objects", &self.objects().len()).finish()
    }
}

#[async_trait]
impl Replica for MemoryReplica {
    fn name(&self) -> &Name {
        &self.name
    }

    fn region(&self) -> &str {
        &self.region
    }

    fn clock_offset(&self, _: TimeDelta) -> Option<TimeDelta> {
        *self.clock_offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.check("put", key)?;
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(self.error("put", key, ReplicaErrorKind::AlreadyExists));
        }
        objects.insert(key.to_owned(), (body, self.clock.now()));
        self.lock_new(key);
        Ok(())
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.check("put", key)?;
        self.objects().insert(key.to_owned(), (body, self.clock.now()));
        self.lock_new(key);
        Ok(())
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.check("get", key)?;
        let found = self.objects().get(key).map(|(body, _)| body.clone());
        let found = found.ok_or_else(|| self.error("get", key, ReplicaErrorKind::NotFound))?;
        let size = found.len() as u64;
        if size > limit { Err(self.error("get", key, ReplicaErrorKind::TooLong { size, limit })) } else { Ok(found) }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.check("look up", key)?;
        Ok(self.objects().get(key).map(|(body, modified)| meta(key, body, *modified)))
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        let objects = self.objects();
        // The token is the last key that was given, so objects that come and go meanwhile shift no
        // page.
        let after = objects.iter().filter(|(key, _)| next.is_none_or(|next| key.as_str() > next));
        let mut found = after.filter(|(key, _)| key.starts_with(prefix));
        let page: Vec<ObjectMeta> =
            found.by_ref().take(MAX_PAGE_OBJECTS).map(|(key, (body, modified))| meta(key, body, *modified)).collect();
        let next = found.next().and_then(|_| page.last()).map(|last| last.key.clone());
        Ok(Page { objects: page, next })
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.check("delete", key)?;
        self.objects().remove(key);
        Ok(())
    }

    fn lock(&self) -> Option<Lock> {
        self.lock
    }

    async fn locked_until(&self, key: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        Ok(self.locks.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied())
    }

    async fn lock_until(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if refused.is_some_and(|prefix| key.starts_with(&prefix)) {
            return Err(self.error("lock", key, ReplicaErrorKind::Denied("this lock is refused".to_owned())));
        }
        let longest = *self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        if longest.is_some_and(|longest| until > self.clock.now() + longest) {
            return Err(self.error("lock", key, ReplicaErrorKind::Denied("this lock is too long".to_owned())));
        }
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = locks.entry(key.to_owned()).or_insert(until);
        *lock = until.max(*lock);
        Ok(())
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        Ok(Probe {
            conditional_writes: write.then_some(true),
            versioning: Some(false),
            object_lock: Some(false),
            can_write: write.then_some(true),
            can_delete: write.then_some(true),
            clock_skew_seconds: self.clock_offset(TimeDelta::MAX).map(|offset| offset.num_seconds()),
            guards: Guards::default(),
        })
    }
}

fn meta(key: &str, body: &Bytes, modified: DateTime<Utc>) -> ObjectMeta {
    ObjectMeta { key: key.to_owned(), size: body.len() as u64, modified }
}
