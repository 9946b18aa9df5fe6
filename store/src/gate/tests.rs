//! The rule against replicas that are formulas, and the gate against one that takes its time, which
//! stands still.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const PACK: usize = 16 << 20;
/// What a request takes beside its bytes.
const BASE: f64 = 0.05;

fn told(limit: &Limit, seconds: f64) -> SeenTransfer {
    SeenTransfer {
        outcome: TransferOutcome::Ok,
        bytes: PACK,
        took: Duration::from_secs_f64(seconds),
        waited: Duration::ZERO,
        epoch: limit.epoch,
        full: true,
    }
}

/// So many packs, each of which takes what `seconds` says for the limit of the moment.
fn run(limit: &mut Limit, packs: usize, seconds: impl Fn(usize) -> f64) {
    limit.observe(&SeenTransfer { bytes: 100, ..told(limit, BASE) });
    for _ in 0..packs {
        limit.observe(&told(limit, BASE + seconds(limit.limit)));
        assert!((MIN_TRANSFERS..=MAX_TRANSFERS).contains(&limit.limit), "{}", limit.limit);
    }
}

fn fail(limit: &mut Limit) {
    let epoch = limit.epoch;
    limit.observe(&SeenTransfer { outcome: TransferOutcome::Failed, epoch, ..told(limit, 60.0) });
}

/// A long line: each transfer is as fast, however many there are.
fn flat(_: usize) -> f64 {
    2.0
}

/// A line that `enough` transfers fill: more of them only wait for each other.
fn full_from(enough: usize) -> impl Fn(usize) -> f64 {
    move |under_way| 2.0 * (under_way as f64 / enough as f64).max(1.0)
}

#[test]
fn rises_to_its_bound_while_latency_stays_flat() {
    let mut limit = Limit::new();
    assert_eq!(limit.limit, 4);
    run(&mut limit, 3, flat);
    assert_eq!(limit.limit, 4, "before a round is over");
    run(&mut limit, 1, flat);
    assert_eq!(limit.limit, 5, "by one a round");
    run(&mut limit, 150, flat);
    assert_eq!(limit.limit, MAX_TRANSFERS);
}

#[test]
fn settles_a_little_above_what_fills_the_line() {
    for enough in [1, 2, 4, 6, 8, 10] {
        let mut limit = Limit::new();
        run(&mut limit, 200, full_from(enough));
        let first = limit.limit;
        run(&mut limit, 50, full_from(enough));
        assert!((enough..=enough.max(START_TRANSFERS) * 2).contains(&first), "{first} for {enough}");
        assert!(limit.limit.abs_diff(first) <= 1, "{} after {first} for {enough}", limit.limit);
    }
}

#[test]
fn falls_when_latency_grows_with_concurrency() {
    let mut limit = Limit::new();
    run(&mut limit, 120, flat);
    assert_eq!(limit.limit, MAX_TRANSFERS);
    // The line becomes narrow.
    run(&mut limit, 120, full_from(2));
    assert!((3..=8).contains(&limit.limit), "{}", limit.limit);
}

#[test]
fn failure_halves_once_for_all_that_were_under_way() {
    let mut limit = Limit::new();
    run(&mut limit, 150, flat);
    let began = limit.epoch;
    for _ in 0..MAX_TRANSFERS {
        limit.observe(&SeenTransfer { outcome: TransferOutcome::Failed, epoch: began, ..told(&limit, 60.0) });
    }
    assert_eq!(limit.limit, MAX_TRANSFERS / 2);
    for expected in [4, 2, 1, 1] {
        fail(&mut limit);
        assert_eq!(limit.limit, expected);
    }
}

#[test]
fn recovers_after_failures_and_after_slowness() {
    let mut limit = Limit::new();
    run(&mut limit, 100, flat);
    for _ in 0..6 {
        fail(&mut limit);
    }
    assert_eq!(limit.limit, 1);
    run(&mut limit, 140, flat);
    assert_eq!(limit.limit, MAX_TRANSFERS);

    let mut limit = Limit::new();
    run(&mut limit, 120, flat);
    run(&mut limit, 120, full_from(2));
    assert!(limit.limit <= 8, "{}", limit.limit);
    run(&mut limit, 170, flat);
    assert!(limit.limit >= 14, "{}", limit.limit);
}

#[test]
fn a_line_that_is_slower_for_good_is_learnt_and_does_not_pin_the_limit() {
    let mut limit = Limit::new();
    run(&mut limit, 100, flat);
    run(&mut limit, 150, |_| 10.0);
    assert!(limit.limit <= 6, "{}", limit.limit);
    run(&mut limit, 600, |_| 10.0);
    assert!(limit.limit >= 10, "{}", limit.limit);
}

#[test]
fn a_queue_of_our_own_is_never_taken_for_the_line() {
    let mut limit = Limit::new();
    let mut highest = 0;
    for _ in 0..5000 {
        run(&mut limit, 1, full_from(4));
        highest = highest.max(limit.limit);
    }
    assert!(highest <= 10, "{highest}");
}

#[test]
fn grows_only_where_it_is_used() {
    let mut limit = Limit::new();
    for _ in 0..100 {
        limit.observe(&SeenTransfer { full: false, ..told(&limit, 2.0) });
    }
    assert_eq!(limit.limit, START_TRANSFERS);
}

#[test]
fn under_a_cap_two_are_enough_and_nothing_is_learnt() {
    let mut limit = Limit::new();
    run(&mut limit, 150, flat);
    for _ in 0..200 {
        limit.observe(&SeenTransfer { waited: Duration::from_secs(600), ..told(&limit, 1.0) });
    }
    assert_eq!(limit.limit, CAPPED_TRANSFERS);
    run(&mut limit, 140, flat);
    assert_eq!(limit.limit, MAX_TRANSFERS, "the cap was lifted");
    for _ in 0..5 {
        fail(&mut limit);
    }
    for _ in 0..20 {
        limit.observe(&SeenTransfer { waited: Duration::from_secs(600), ..told(&limit, 1.0) });
    }
    assert_eq!(limit.limit, MIN_TRANSFERS, "a cap is no reason to grow");
}

#[test]
fn size_and_jitter_do_not_look_like_a_queue() {
    let mut limit = Limit::new();
    limit.observe(&SeenTransfer { bytes: 100, ..told(&limit, BASE) });
    for number in 0..150 {
        let bytes = [PACK, 2 << 20, 8 << 20][number % 3];
        let jitter = [1.0, 1.3, 1.1, 1.6, 1.2][number % 5];
        let seconds = BASE + 2.0 * jitter * bytes as f64 / PACK as f64;
        limit.observe(&SeenTransfer { bytes, ..told(&limit, seconds) });
    }
    assert_eq!(limit.limit, MAX_TRANSFERS);
}

/// Takes a second, whatever it is asked.
#[derive(Debug, Default)]
struct Slow {
    under_way: AtomicUsize,
    most: AtomicUsize,
    fails: bool,
}

impl Slow {
    async fn work(&self) -> Result<(), ReplicaError> {
        let now = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        let kind = ReplicaErrorKind::Unavailable("503".to_owned());
        let error = ReplicaError { replica: "slow".parse().unwrap(), operation: "put", key: "k".to_owned(), kind };
        if self.fails { Err(error) } else { Ok(()) }
    }
}

#[async_trait]
impl Replica for Slow {
    fn name(&self) -> &Name {
        unreachable!("no test asks")
    }

    fn region(&self) -> &'static str {
        "nowhere"
    }

    async fn put_new(&self, _: &str, _: Bytes) -> Result<(), ReplicaError> {
        self.work().await
    }

    async fn put_replace(&self, _: &str, _: Bytes) -> Result<(), ReplicaError> {
        self.work().await
    }

    async fn get(&self, _: &str, _: u64) -> Result<Bytes, ReplicaError> {
        self.work().await.map(|()| Bytes::from(vec![0; PACK]))
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

fn gated(fails: bool) -> (Arc<Slow>, Gate) {
    let slow = Arc::new(Slow { fails, ..Slow::default() });
    (slow.clone(), Gate::new(slow))
}

const KEY: &str = "datasets/d/packs/00/p";

#[tokio::test(start_paused = true)]
async fn packs_queue_and_small_objects_pass_at_once() {
    let (slow, gate) = gated(false);
    let start = Instant::now();
    let packs = futures::future::join_all((0..8).map(|_| gate.get(KEY, PACK as u64)));
    let small = async {
        gate.put_new("datasets/d/snapshots/s", Bytes::from_static(b"manifest")).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    };
    let (packs, ()) = tokio::join!(packs, small);
    assert!(packs.iter().all(Result::is_ok));
    assert_eq!(slow.most.load(Ordering::Relaxed), START_TRANSFERS + 1);
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert!(gate.state().limit.limit > START_TRANSFERS);
    assert_eq!(gate.state().under_way, 0);
}

#[tokio::test(start_paused = true)]
async fn given_up_transfers_leave_their_place() {
    let (_, gate) = gated(false);
    let given_up = futures::future::join_all((0..8).map(|_| gate.get(KEY, PACK as u64)));
    tokio::time::timeout(Duration::from_millis(500), given_up).await.unwrap_err();
    assert_eq!(gate.state().under_way, 0);
    assert_eq!(gate.state().limit.limit, START_TRANSFERS);
    let start = Instant::now();
    gate.get(KEY, PACK as u64).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_counts_and_the_queue_is_a_wait() {
    let (_, gate) = gated(true);
    let waiting = Waiting::default();
    let body = Bytes::from(vec![0; LARGE_BODY_BYTES]);
    let all = futures::future::join_all((0..6).map(|_| gate.put_new("index", body.clone())));
    let all = waiting.count(all).await;
    assert!(all.iter().all(Result::is_err));
    // Four at once fail together, then two, which began after that.
    assert_eq!(gate.state().limit.limit, 1);
    // The fifth and the sixth waited for the first second.
    assert_eq!(waiting.total(), Duration::from_secs(1));
}
