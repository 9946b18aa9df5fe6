//! A replica of one's own, here one that counts what passes to another replica, proved by the suite
//! of guarantees that every replica passes: `cargo run -p lifeboat-engine --example own_replica`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::TimeDelta;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::format::id::Name;
use lifeboat_store::conformance::conforms;
use lifeboat_store::{MemoryReplica, ObjectMeta, Page, Probe, Replica, ReplicaError, SharedReplica};

#[derive(Debug)]
struct Counting {
    inner: SharedReplica,
    requests: AtomicU64,
}

impl Counting {
    fn inner(&self) -> &dyn Replica {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.as_ref()
    }
}

#[async_trait]
impl Replica for Counting {
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
        self.inner().put_new(key, body).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.inner().put_replace(key, body).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.inner().get(key, limit).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.inner().head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.inner().list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.inner().delete(key).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner().probe(write).await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let memory = MemoryReplica::new("memory".parse()?, "nowhere", SystemClock::shared());
    let expected = memory.probe(true).await?;
    let counting = Arc::new(Counting { inner: Arc::new(memory), requests: AtomicU64::new(0) });
    conforms(counting.clone(), &expected).await;
    println!("it conforms, by {} requests", counting.requests.load(Ordering::Relaxed));
    Ok(())
}
