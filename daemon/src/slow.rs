//! A replica whose calls can be held, for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::format::id::Name;
use lifeboat_engine::store::{ObjectMeta, Page, Probe, Replica, ReplicaError, SharedReplica};
use tokio::sync::watch;

/// Which calls are held.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The operation, and a part of the key.
    held: watch::Sender<Vec<(&'static str, &'static str)>>,
    /// So many of them pass yet.
    passes: AtomicUsize,
}

impl Gate {
    /// Holds these calls, by operation and a part of the key, but for the first `passes`.
    pub(crate) fn hold(&self, calls: &[(&'static str, &'static str)], passes: usize) {
        self.passes.store(passes, Ordering::SeqCst);
        self.held.send_replace(calls.to_vec());
    }

    pub(crate) fn release(&self) {
        self.held.send_replace(Vec::new());
    }

    /// These replicas behind the gate.
    pub(crate) fn before(self: &Arc<Self>, replicas: &[SharedReplica]) -> Vec<SharedReplica> {
        let slow = |inner: &SharedReplica| -> SharedReplica {
            Arc::new(SlowReplica { inner: inner.clone(), gate: self.clone() })
        };
        replicas.iter().map(slow).collect()
    }

    async fn pass(&self, operation: &str, key: &str) {
        let is_held =
            |held: &Vec<(&str, &str)>| held.iter().any(|(what, part)| *what == operation && key.contains(part));
        let mut held = self.held.subscribe();
        let may_pass =
            || self.passes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_held(&held.borrow()) && may_pass() {
            return;
        }
        held.wait_for(|held| !is_held(held)).await.unwrap();
    }
}

#[derive(Debug)]
struct SlowReplica {
    inner: SharedReplica,
    gate: Arc<Gate>,
}

#[async_trait]
impl Replica for SlowReplica {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn region(&self) -> &str {
        self.inner.region()
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.gate.pass("put", key).await;
        self.inner.put_new(key, body).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.gate.pass("put", key).await;
        self.inner.put_replace(key, body).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.inner.get(key, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.inner.head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.inner.list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.gate.pass("delete", key).await;
        self.inner.delete(key).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner.probe(write).await
    }
}
