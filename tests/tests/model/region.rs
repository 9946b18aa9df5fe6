//! A region of the model: a replica in memory that can be away, emptied and rolled back. And the
//! line from a host to it, on which the host can crash at any call.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::store::{
    MemoryReplica, ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind, SharedReplica,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// All objects of a region, by key.
pub(crate) type Objects = BTreeMap<String, Bytes>;

/// A replica whose content the model can see and change, also while no host reaches it.
#[derive(Debug)]
pub(crate) struct Region {
    name: Name,
    replica: Mutex<Arc<MemoryReplica>>,
    is_away: AtomicBool,
    /// What it is rolled back to.
    copy: Mutex<Option<Objects>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Region {
    /// A region with these objects.
    pub(crate) async fn with(name: Name, objects: &Objects, clock: &SharedClock) -> Arc<Self> {
        let replica = Mutex::new(Arc::new(MemoryReplica::new(name.clone(), "east", clock.clone())));
        let region = Self { name, replica, is_away: AtomicBool::new(false), copy: Mutex::new(None) };
        region.fill(objects, clock).await;
        Arc::new(region)
    }

    fn replica(&self) -> Arc<MemoryReplica> {
        held(&self.replica).clone()
    }

    /// Everything that is in it.
    pub(crate) async fn objects(&self) -> Objects {
        let (replica, mut objects) = (self.replica(), Objects::new());
        for object in replica.list("").await.unwrap() {
            let body = replica.get(&object.key, u64::MAX).await.unwrap();
            objects.insert(object.key, body);
        }
        objects
    }

    /// Makes it hold exactly these objects.
    pub(crate) async fn fill(&self, objects: &Objects, clock: &SharedClock) {
        let replica = MemoryReplica::new(self.name.clone(), "east", clock.clone());
        for (key, body) in objects {
            replica.put_new(key, body.clone()).await.unwrap();
        }
        *held(&self.replica) = Arc::new(replica);
    }

    /// Whether no host reaches it.
    pub(crate) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::SeqCst)
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// What was remembered by [`Self::remember`].
    pub(crate) fn copy(&self) -> Option<Objects> {
        held(&self.copy).clone()
    }

    pub(crate) async fn remember(&self) {
        let objects = self.objects().await;
        *held(&self.copy) = Some(objects);
    }
}

/// When a host crashes: at which of its calls to all replicas together.
#[derive(Debug)]
pub(crate) struct Crash {
    at_call: u64,
    /// Whether the call at which it crashes still does its work.
    does_work: bool,
    calls: AtomicU64,
    begun: Notify,
    over: CancellationToken,
}

impl Crash {
    pub(crate) fn at(at_call: u64, does_work: bool) -> Arc<Self> {
        let (calls, begun, over) = (AtomicU64::new(0), Notify::new(), CancellationToken::new());
        Arc::new(Self { at_call, does_work, calls, begun, over })
    }

    pub(crate) fn never() -> Arc<Self> {
        Self::at(u64::MAX, false)
    }

    /// Waits until the host has crashed: from then on no call returns.
    pub(crate) async fn begun(&self) {
        self.begun.notified().await;
    }

    /// The host's program is gone. Whatever of it still waits in this process fails.
    pub(crate) fn over(&self) {
        self.over.cancel();
    }
}

/// A replica as a host reaches it.
#[derive(Debug)]
pub(crate) struct Line {
    region: Arc<Region>,
    crash: Arc<Crash>,
    /// The region's clock minus the host's, if it tells the time.
    offset: Option<TimeDelta>,
}

impl Line {
    pub(crate) fn to(region: &Arc<Region>, crash: &Arc<Crash>, offset: Option<TimeDelta>) -> SharedReplica {
        Arc::new(Self { region: region.clone(), crash: crash.clone(), offset })
    }

    async fn pass<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, ReplicaError>> + Send,
    ) -> Result<T, ReplicaError> {
        let unavailable = |why: &str| ReplicaError {
            replica: self.region.name.clone(),
            operation,
            key: key.to_owned(),
            kind: ReplicaErrorKind::Unavailable(why.to_owned()),
        };
        let call = self.crash.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if call >= self.crash.at_call {
            if call == self.crash.at_call && self.crash.does_work && !self.region.is_away() {
                let _ = work.await;
            }
            self.crash.begun.notify_one();
            self.crash.over.cancelled().await;
            return Err(unavailable("the host has crashed"));
        }
        if self.region.is_away() {
            return Err(unavailable("the region is away"));
        }
        work.await
    }
}

#[async_trait]
impl Replica for Line {
    fn name(&self) -> &Name {
        &self.region.name
    }

    fn region(&self) -> &str {
        "east"
    }

    fn clock_offset(&self, _: TimeDelta) -> Option<TimeDelta> {
        self.offset.filter(|_| !self.region.is_away())
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        let replica = self.region.replica();
        self.pass("put", key, replica.put_new(key, body)).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        let replica = self.region.replica();
        self.pass("put", key, replica.put_replace(key, body)).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        let replica = self.region.replica();
        self.pass("get", key, replica.get(key, limit)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        let replica = self.region.replica();
        self.pass("look up", key, replica.head(key)).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        let replica = self.region.replica();
        self.pass("list", prefix, replica.list_page(prefix, next)).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        let replica = self.region.replica();
        self.pass("delete", key, replica.delete(key)).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        let replica = self.region.replica();
        self.pass("probe", "", replica.probe(write)).await
    }
}
