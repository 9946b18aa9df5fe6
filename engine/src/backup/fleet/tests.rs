//! A fleet of fake replicas behind the real gate and the real retries, on a paused clock.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_format::Format;
use lifeboat_format::id::Digest;
use lifeboat_store::{Gate, ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind, Retry, RetryPolicy};
use tokio::time::{Instant, sleep};

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);
/// How many puts the gate lets pass at first.
const FIRST_PUTS_AT_ONCE: usize = 4;

/// A replica that takes a second for a put, or hangs until its deadline.
#[derive(Debug)]
struct Fake {
    name: Name,
    hangs: bool,
    begun: AtomicUsize,
    under_way: AtomicUsize,
}

/// Counts a put that is under way, until it ends or is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Replica for Fake {
    fn name(&self) -> &Name {
        &self.name
    }

    fn region(&self) -> &'static str {
        "nowhere"
    }

    async fn put_new(&self, key: &str, _: Bytes) -> Result<(), ReplicaError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let _under_way = UnderWay(&self.under_way);
        if !self.hangs {
            sleep(Duration::from_secs(1)).await;
            return Ok(());
        }
        sleep(DEADLINE).await;
        let kind = ReplicaErrorKind::TimedOut(DEADLINE);
        Err(ReplicaError { replica: self.name.clone(), operation: "put", key: key.to_owned(), kind })
    }

    async fn put_replace(&self, _: &str, _: Bytes) -> Result<(), ReplicaError> {
        unreachable!("a fleet replaces nothing")
    }

    async fn get(&self, _: &str, _: u64) -> Result<Bytes, ReplicaError> {
        unreachable!("no test asks")
    }

    async fn head(&self, _: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        unreachable!("no test asks")
    }

    async fn list_page(&self, _: &str, _: Option<&str>) -> Result<Page, ReplicaError> {
        unreachable!("no test asks")
    }

    async fn delete(&self, _: &str) -> Result<(), ReplicaError> {
        unreachable!("no test asks")
    }

    async fn probe(&self, _: bool) -> Result<Probe, ReplicaError> {
        unreachable!("no test asks")
    }
}

fn fake(name: &str, hangs: bool) -> (Arc<Fake>, Inventory) {
    let fake = Arc::new(Fake {
        name: name.parse().unwrap(),
        hangs,
        begun: AtomicUsize::default(),
        under_way: AtomicUsize::default(),
    });
    let gated = Arc::new(Gate::new(fake.clone()));
    let replica: SharedReplica = Arc::new(Retry::new(gated, RetryPolicy::within(DEADLINE)));
    let inventory = Inventory {
        replica,
        format: Format::Two,
        packs: Default::default(),
        snapshots: Default::default(),
        written: Default::default(),
        unsigned: Default::default(),
        indexes: Default::default(),
        index_bytes: 0,
        drills: Default::default(),
        prunes: Default::default(),
        marks: Default::default(),
        marked: Default::default(),
        acts: Default::default(),
        needs: Default::default(),
        vetoes: Default::default(),
        unfinished: Default::default(),
        lone_signatures: Default::default(),
        strangers: Vec::new(),
        keyring: Default::default(),
    };
    (fake, inventory)
}

fn fleet(members: impl Into<Vec<Inventory>>, required: usize) -> Fleet {
    Fleet::new(&"data".parse().unwrap(), members.into(), BTreeMap::new(), required).unwrap()
}

fn pack(number: u8) -> PackRef {
    PackRef { id: Digest([number; 32]), size: 100, content: 100, generation: 1 }
}

fn names(replicas: &HashSet<Name>) -> Vec<&str> {
    replicas.iter().map(Name::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_delays_queued_packs_by_its_first_failure_only() {
    let ((near, one), (far, other)) = (fake("near", false), fake("far", true));
    let fleet = fleet([one, other], 1);
    let (start, body) = (Instant::now(), Bytes::from(vec![0; 100]));
    let packs = (0..12).map(|number| fleet.upload(pack(number), &body));
    let late = async {
        // Under way to `near` only when `far` fails.
        sleep(DEADLINE - Duration::from_millis(500)).await;
        fleet.upload(pack(100), &body).await
    };
    let (receipts, late) = tokio::join!(futures::future::join_all(packs), late);
    assert!(start.elapsed() < DEADLINE + Duration::from_secs(1), "{:?}", start.elapsed());
    for receipt in receipts.into_iter().chain([late]) {
        assert_eq!(names(&receipt.unwrap().replicas), ["near"]);
    }
    assert_eq!(near.begun.load(Ordering::Relaxed), 13);
    assert_eq!(far.begun.load(Ordering::Relaxed), FIRST_PUTS_AT_ONCE, "queued puts never begin");
    assert!(fleet.behind()[&far.name].contains("no answer within"), "{:?}", fleet.behind());
    // A replica that is behind gets nothing more, even if it is named as a target.
    let targets: Vec<SharedReplica> = fleet.members().iter().map(|member| member.replica.clone()).collect();
    let took = fleet.put_to(&targets, "datasets/data/snapshots/s", &body, "the manifest").await.unwrap();
    assert_eq!(took.iter().map(|replica| replica.name().as_str()).collect::<Vec<_>>(), ["near"]);
    assert_eq!(far.begun.load(Ordering::Relaxed), FIRST_PUTS_AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn puts_under_way_to_a_replica_that_falls_behind_are_given_up_at_once() {
    let ((_, one), (far, other)) = (fake("near", false), fake("far", true));
    let fleet = fleet([one, other], 1);
    let (start, body) = (Instant::now(), Bytes::from(vec![0; 100]));
    let uploads = futures::future::join_all((0..3).map(|number| fleet.upload(pack(number), &body)));
    let fails = async {
        sleep(Duration::from_secs(10)).await;
        assert_eq!(far.under_way.load(Ordering::Relaxed), 3);
        fleet.fell_behind(&far.name, &Error::failed("something else failed"));
    };
    let (receipts, ()) = tokio::join!(uploads, fails);
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert!(receipts.iter().all(|receipt| names(&receipt.as_ref().unwrap().replicas) == ["near"]));
    assert_eq!(far.under_way.load(Ordering::Relaxed), 0);
    assert!(fleet.behind()[&far.name].contains("something else failed"));
}

#[tokio::test(start_paused = true)]
async fn too_few_replicas_end_every_queued_pack_with_the_reason() {
    let ((_, one), (_, other)) = (fake("near", false), fake("far", true));
    let fleet = fleet([one, other], 2);
    let (start, body) = (Instant::now(), Bytes::from(vec![0; 100]));
    let uploads = futures::future::join_all((0..12).map(|number| fleet.upload(pack(number), &body)));
    for upload in uploads.await {
        let error = upload.err().unwrap().chain();
        assert!(error.contains("far") && error.contains("no answer within"), "{error}");
    }
    assert!(start.elapsed() < DEADLINE + Duration::from_secs(1), "{:?}", start.elapsed());
}
