//! How many large transfers one replica gets at once: as many as make it faster, and no more.
//!
//! - **What queues**: packs, and other large bodies. Everything else passes at once, so that a
//!   manifest, a signature or a listing never waits for packs. The queue is in order. The memory of
//!   the callers bounds it.
//! - **The rule** is that of TCP Vegas (L. S. Brakmo, L. L. Peterson, "TCP Vegas: End to End
//!   Congestion Avoidance on a Global Internet", IEEE JSAC 13(8), 1995), with transfers in the
//!   place of segments and seconds per byte in the place of the round-trip time. Let `limit`
//!   transfers be under way, at `pace` seconds per byte, and `best` be the lowest that was seen.
//!   Then `limit * (1 - best / pace)` of them only wait, inside the replica or on the way to it. If
//!   fewer than two wait, the limit rises by one; if more than four wait, it falls by one. That is
//!   decided once a round, which is `limit` transfers long.
//! - **Failures**: when the replica is unavailable, asks to slow down, or does not answer in time,
//!   the limit is halved, once for all transfers that were under way together.
//! - **What does not count**: other errors, cancelled transfers, and transfers that mostly waited
//!   for a cap on the bandwidth. Under a cap, more transfers make nothing faster, and leave more
//!   unfinished if the run ends. So the limit falls to two: one transfer fills the line while the
//!   other waits for its answer.
//! - **`best` is forgotten** after 256 to 512 transfers, since routes and stores change. Learnt
//!   again behind a queue of our own, it would be worse each time. So the limit is halved at that
//!   moment, as BBR drains the queue to see the round trip.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use lifeboat_format::id::Name;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::guards::Lock;
use crate::replica::{ObjectMeta, Page, Probe, Removal, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};
use crate::versions::VersionsPage;
use crate::waiting::Waiting;

const MIN_TRANSFERS: usize = 1;
const MAX_TRANSFERS: usize = 16;
const START_TRANSFERS: usize = 4;
/// The limit does not fall below this because of a cap on the bandwidth.
const CAPPED_TRANSFERS: usize = 2;
/// Vegas' alpha and beta: the limit rises below the one and falls above the other, in transfers
/// that only wait.
const MIN_WAITING: f64 = 2.0;
const MAX_WAITING: f64 = 4.0;
/// After so many transfers the older half of what is known of `best` is forgotten.
const AGE_TRANSFERS: usize = 256;
/// A body of at least this size is large.
const LARGE_BODY_BYTES: usize = 1 << 20;
/// Up to this size the request takes the time, not its bytes.
const SMALL_BODY_BYTES: usize = 64 << 10;

/// How one transfer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransferOutcome {
    Ok,
    /// Unavailable, throttled, or no answer in time.
    Failed,
}

/// What one transfer showed.
#[derive(Debug, Clone, Copy)]
struct SeenTransfer {
    outcome: TransferOutcome,
    bytes: usize,
    /// From its beginning to its end, without its waits for the cap.
    took: Duration,
    /// Its waits for the cap.
    waited: Duration,
    /// [`Limit::epoch`] when it began.
    epoch: u32,
    /// Whether as many as allowed were under way.
    full: bool,
}

/// The rule, as a value: it observes transfers, and says how many may be under way.
#[derive(Debug)]
struct Limit {
    limit: usize,
    /// How often it was halved.
    epoch: u32,
    /// The seconds that the quickest small request took.
    base: f64,
    /// The fewest seconds per byte: in the current age, and in the one before.
    best: [f64; 2],
    age: usize,
    round: Round,
}

/// What the transfers since the last decision showed.
#[derive(Debug)]
struct Round {
    seen: usize,
    /// The fewest seconds per byte: transfers that only jitter made slower must not look like a
    /// queue.
    pace: f64,
    capped: usize,
    full: bool,
}

impl Round {
    const EMPTY: Self = Self { seen: 0, pace: f64::INFINITY, capped: 0, full: false };
}

impl Limit {
    fn new() -> Self {
        Self {
            limit: START_TRANSFERS,
            epoch: 0,
            base: f64::INFINITY,
            best: [f64::INFINITY; 2],
            age: 0,
            round: Round::EMPTY,
        }
    }

    fn observe(&mut self, seen: &SeenTransfer) {
        let took = seen.took.as_secs_f64();
        match seen.outcome {
            TransferOutcome::Failed if seen.epoch == self.epoch => self.halve(),
            TransferOutcome::Failed => {}
            TransferOutcome::Ok if seen.bytes <= SMALL_BODY_BYTES => self.base = self.base.min(took),
            TransferOutcome::Ok => {
                let base = if self.base.is_finite() { self.base } else { 0.0 };
                self.round.seen += 1;
                self.round.full |= seen.full;
                if seen.waited > seen.took {
                    self.round.capped += 1;
                } else {
                    // A clock that stood still must not make everything afterwards look slow.
                    let pace = ((took - base) / seen.bytes as f64).max(f64::MIN_POSITIVE);
                    self.round.pace = self.round.pace.min(pace);
                    self.best[0] = self.best[0].min(pace);
                }
                if self.round.seen >= self.limit {
                    self.decide();
                }
            }
        }
    }

    fn decide(&mut self) {
        let round = std::mem::replace(&mut self.round, Round::EMPTY);
        self.age += round.seen;
        if round.capped * 2 > round.seen {
            if self.limit > CAPPED_TRANSFERS {
                self.limit -= 1;
            }
            return;
        }
        if self.age >= AGE_TRANSFERS {
            self.age = 0;
            self.best = [f64::INFINITY, self.best[0]];
            self.halve();
            return;
        }
        let best = self.best[0].min(self.best[1]);
        let waiting = self.limit as f64 * (1.0 - best / round.pace);
        if waiting > MAX_WAITING {
            self.limit = (self.limit - 1).max(MIN_TRANSFERS);
        } else if waiting < MIN_WAITING && round.full {
            self.limit = (self.limit + 1).min(MAX_TRANSFERS);
        }
    }

    fn halve(&mut self) {
        self.limit = (self.limit / 2).max(MIN_TRANSFERS);
        self.epoch += 1;
        self.round = Round::EMPTY;
    }
}

/// A [`Replica`] that gets as many large transfers at once as make it faster, and no more.
pub struct Gate {
    inner: SharedReplica,
    state: Mutex<GateState>,
    /// The turn: whoever holds this lock is next. Tokio hands locks on in the order of the
    /// requests.
    next: tokio::sync::Mutex<()>,
    left: Notify,
}

struct GateState {
    limit: Limit,
    under_way: usize,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Gate {
    /// `inner` behind a gate.
    #[must_use]
    pub fn new(inner: SharedReplica) -> Self {
        let state = Mutex::new(GateState { limit: Limit::new(), under_way: 0 });
        Self { inner, state, next: tokio::sync::Mutex::new(()), left: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self) -> Inside<'_> {
        let _turn = Waiting::current().begin();
        let _next = self.next.lock().await;
        loop {
            {
                let mut state = self.state();
                if state.under_way < state.limit.limit {
                    state.under_way += 1;
                    return Inside { gate: self };
                }
            }
            self.left.notified().await;
        }
    }

    /// Runs one transfer of a body, within the limit if it is `large`, and learns from it. `length`
    /// gives the number of bytes that passed.
    async fn pass<T>(
        &self,
        large: bool,
        work: impl Future<Output = Result<T, ReplicaError>>,
        length: impl FnOnce(&T) -> usize,
    ) -> Result<T, ReplicaError> {
        let inside = if large { Some(self.enter().await) } else { None };
        let (epoch, full) = {
            let state = self.state();
            (state.limit.epoch, state.under_way >= state.limit.limit)
        };
        let (start, waiting) = (Instant::now(), Waiting::default());
        let result = waiting.count(work).await;
        let waited = waiting.total();
        let took = start.elapsed().saturating_sub(waited);
        let seen = match &result {
            Ok(passed) => Some((TransferOutcome::Ok, length(passed))),
            Err(error) => match error.kind {
                ReplicaErrorKind::Unavailable(_)
                | ReplicaErrorKind::Throttled { .. }
                | ReplicaErrorKind::TimedOut(_) => Some((TransferOutcome::Failed, 0)),
                ReplicaErrorKind::NotFound
                | ReplicaErrorKind::AlreadyExists
                | ReplicaErrorKind::Denied(_)
                | ReplicaErrorKind::Misconfigured(_)
                | ReplicaErrorKind::Corrupt(_)
                | ReplicaErrorKind::TooLong { .. }
                | ReplicaErrorKind::BadListing(_)
                | ReplicaErrorKind::Frozen(_)
                | ReplicaErrorKind::Other(_) => None,
            },
        };
        // A body between small and large did not queue, so it says nothing about the queue.
        if let Some((outcome, bytes)) = seen.filter(|(_, bytes)| large || *bytes <= SMALL_BODY_BYTES) {
            self.state().limit.observe(&SeenTransfer { outcome, bytes, took, waited, epoch, full });
        }
        drop(inside);
        result
    }
}

/// A transfer under way. It also leaves when its future is dropped.
struct Inside<'a> {
    gate: &'a Gate,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.gate.state().under_way -= 1;
        self.gate.left.notify_one();
    }
}

/// Before an object is fetched only its key is known, and packs are what is large.
fn is_pack(key: &str) -> bool {
    key.contains("/packs/")
}

#[async_trait]
impl Replica for Gate {
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
        let length = body.len();
        self.pass(length >= LARGE_BODY_BYTES || is_pack(key), self.inner.put_new(key, body), |()| length).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        let length = body.len();
        self.pass(length >= LARGE_BODY_BYTES || is_pack(key), self.inner.put_replace(key, body), |()| length).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.pass(is_pack(key), self.inner.get(key, limit), Bytes::len).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, ReplicaError> {
        self.inner.head(key).await
    }

    async fn list_page(&self, prefix: &str, next: Option<&str>) -> Result<Page, ReplicaError> {
        self.inner.list_page(prefix, next).await
    }

    async fn delete(&self, key: &str) -> Result<(), ReplicaError> {
        self.inner.delete(key).await
    }

    async fn delete_all(&self, keys: &[String]) -> Result<Removal, ReplicaError> {
        self.inner.delete_all(keys).await
    }

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner.probe(write).await
    }

    fn lock(&self) -> Option<Lock> {
        self.inner.lock()
    }

    async fn locked_until(&self, key: &str) -> Result<Option<DateTime<Utc>>, ReplicaError> {
        self.inner.locked_until(key).await
    }

    async fn lock_until(&self, key: &str, until: DateTime<Utc>) -> Result<(), ReplicaError> {
        self.inner.lock_until(key, until).await
    }

    async fn versions_page(&self, prefix: &str, next: Option<&str>) -> Result<VersionsPage, ReplicaError> {
        self.inner.versions_page(prefix, next).await
    }

    async fn get_version(&self, key: &str, version: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        self.pass(is_pack(key), self.inner.get_version(key, version, limit), Bytes::len).await
    }

    async fn uncover(&self, key: &str, marker: &str) -> Result<(), ReplicaError> {
        self.inner.uncover(key, marker).await
    }

    async fn copy_version(&self, key: &str, version: &str) -> Result<(), ReplicaError> {
        self.inner.copy_version(key, version).await
    }
}

#[cfg(test)]
mod tests;
