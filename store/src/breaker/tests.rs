#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use lifeboat_base::clock::SystemClock;

use super::*;
use crate::failing::{FailingReplica, Failure};
use crate::memory::MemoryReplica;
use crate::retry::{Retry, RetryPolicy};

const TIMEOUT: Duration = Duration::from_secs(60);

fn broken() -> (Arc<FailingReplica>, Breaker) {
    let clock = SystemClock::shared();
    let memory = MemoryReplica::new("memory".parse().unwrap(), "nowhere", clock.clone());
    let failing = Arc::new(FailingReplica::new(Arc::new(memory)));
    let retry = Arc::new(Retry::new(failing.clone(), RetryPolicy::within(TIMEOUT)));
    let breaker = Breaker::new(retry, failing.clone(), TIMEOUT, clock);
    (failing, breaker)
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_costs_one_deadline_and_then_short_probes() {
    let (failing, breaker) = broken();
    (1..100).for_each(|call| failing.fail(call, Failure::Hang(TIMEOUT)));
    breaker.put_replace("a", Bytes::from_static(b"a")).await.unwrap_err();
    assert_eq!(failing.calls(), 1);
    let down = breaker.down().unwrap();
    assert!(down.why.contains("no answer within 60s"), "{down:?}");
    let begun = Instant::now();
    let others = tokio::join!(breaker.head("a"), breaker.get("a", 9), breaker.list("a"));
    let error = others.0.unwrap_err();
    assert!(error.to_string().contains("it does not answer since"), "{error}");
    assert!(others.1.is_err() && others.2.is_err());
    assert_eq!((failing.calls(), begun.elapsed()), (2, MAX_PROBE), "not one probe for all");
    breaker.delete("a").await.unwrap_err();
    assert_eq!((failing.calls(), begun.elapsed()), (2, MAX_PROBE), "a probe too many");
    tokio::time::sleep(MAX_PROBE * COUNTS_FOR).await;
    breaker.delete("a").await.unwrap_err();
    assert_eq!(failing.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_answers_again_takes_part_again() {
    let (failing, breaker) = broken();
    (1..=5).for_each(|call| failing.fail(call, Failure::Unavailable));
    breaker.put_replace("a", Bytes::from_static(b"a")).await.unwrap_err();
    assert_eq!(failing.calls(), 4);
    breaker.put_replace("a", Bytes::from_static(b"a")).await.unwrap_err();
    assert_eq!(failing.calls(), 5, "it was not probed");
    tokio::time::sleep(MIN_COUNTS).await;
    breaker.put_replace("a", Bytes::from_static(b"a")).await.unwrap();
    assert_eq!(breaker.down(), None);
    assert_eq!(breaker.get("a", 9).await.unwrap(), "a");
    assert_eq!(failing.calls(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_or_a_missing_object_takes_nothing_down() {
    let (failing, breaker) = broken();
    failing.fail(1, Failure::Denied);
    breaker.delete("a").await.unwrap_err();
    breaker.get("a", 9).await.unwrap_err();
    assert_eq!(breaker.down(), None);
}
