//! How many large transfers one replica gets at once: as many as make it faster, and no more.
//!
//! - **What queues**: packs, and whatever else is as large. Everything else passes at once, so that
//!   a manifest, a signature or a listing never waits for packs. The queue is in order, and bounded
//!   by the flows' own memory.
//! - **The rule** is that of TCP Vegas (L. S. Brakmo, L. L. Peterson, "TCP Vegas: End to End
//!   Congestion Avoidance on a Global Internet", IEEE JSAC 13(8), 1995), with transfers in the
//!   place of segments and seconds a byte in the place of the round-trip time. With `limit`
//!   transfers under way, of which each takes `pace` where the replica has been seen to need
//!   `best`, `limit * (1 - best / pace)` of them do no more than wait inside the replica or on the
//!   way to it. Fewer than two: one more is tried. More than four: one less. Once a round, which is
//!   `limit` transfers long.
//! - **Failures**: the limit is halved when the replica is unavailable or does not answer in time;
//!   once for all that were under way together.
//! - **What is no measure**: other errors, transfers that were given up, and those that mostly
//!   waited for a cap on the bandwidth. Under a cap more transfers make nothing faster, and leave
//!   more unfinished if the run ends: the limit goes down to two, so that one fills the line while
//!   the other waits for its answer.
//! - **`best` is forgotten** after 256 to 512 transfers, since routes and stores change. It would
//!   be relearnt from a queue of our own making, each time a longer one; so the limit is halved at
//!   that moment, as BBR drains the queue to see the round trip.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_format::id::Name;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::replica::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};
use crate::waiting::Waiting;

const LEAST: usize = 1;
const MOST: usize = 16;
const START: usize = 4;
/// Under a cap.
const CAPPED: usize = 2;
/// Vegas' alpha and beta: transfers that only wait.
const TOO_FEW_WAIT: f64 = 2.0;
const TOO_MANY_WAIT: f64 = 4.0;
/// Transfers until the older half of what is known of `best` is forgotten.
const AGE: usize = 256;
/// From here a body is large.
const LARGE: usize = 1 << 20;
/// Up to here the time is that of the request, not of its bytes.
const SMALL: usize = 64 << 10;

/// How one transfer went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// Unavailable, or no answer in time.
    Failed,
}

/// What one transfer showed.
#[derive(Debug, Clone, Copy)]
struct Seen {
    outcome: Outcome,
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

/// The rule, as a value: told of transfers, it tells how many may be under way.
#[derive(Debug)]
struct Limit {
    limit: usize,
    /// How often it was halved.
    epoch: u32,
    /// Seconds that any request takes.
    base: f64,
    /// The smallest seconds a byte: of the current age, and of the one before.
    best: [f64; 2],
    age: usize,
    round: Round,
}

/// What the transfers since the last decision showed.
#[derive(Debug)]
struct Round {
    seen: usize,
    /// The smallest seconds a byte: what only jitter made slower than others is no queue.
    pace: f64,
    capped: usize,
    full: bool,
}

impl Round {
    const EMPTY: Self = Self { seen: 0, pace: f64::INFINITY, capped: 0, full: false };
}

impl Limit {
    fn new() -> Self {
        Self { limit: START, epoch: 0, base: f64::INFINITY, best: [f64::INFINITY; 2], age: 0, round: Round::EMPTY }
    }

    fn observe(&mut self, seen: &Seen) {
        let took = seen.took.as_secs_f64();
        match seen.outcome {
            Outcome::Failed if seen.epoch == self.epoch => self.halve(),
            Outcome::Failed => {}
            Outcome::Ok if seen.bytes <= SMALL => self.base = self.base.min(took),
            Outcome::Ok => {
                let base = if self.base.is_finite() { self.base } else { 0.0 };
                self.round.seen += 1;
                self.round.full |= seen.full;
                if seen.waited > seen.took {
                    self.round.capped += 1;
                } else {
                    // A clock that stood still must not make everything later look slow.
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
            if self.limit > CAPPED {
                self.limit -= 1;
            }
            return;
        }
        if self.age >= AGE {
            self.age = 0;
            self.best = [f64::INFINITY, self.best[0]];
            self.halve();
            return;
        }
        let best = self.best[0].min(self.best[1]);
        let waiting = self.limit as f64 * (1.0 - best / round.pace);
        if waiting > TOO_MANY_WAIT {
            self.limit = (self.limit - 1).max(LEAST);
        } else if waiting < TOO_FEW_WAIT && round.full {
            self.limit = (self.limit + 1).min(MOST);
        }
    }

    fn halve(&mut self) {
        self.limit = (self.limit / 2).max(LEAST);
        self.epoch += 1;
        self.round = Round::EMPTY;
    }
}

/// A [`Replica`] behind a gate. Its module begins with what it promises.
pub struct Gate {
    inner: SharedReplica,
    state: Mutex<State>,
    /// Tokio's locks are handed on in the order in which they were asked for: who holds it is next.
    next: tokio::sync::Mutex<()>,
    left: Notify,
}

struct State {
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
        let state = Mutex::new(State { limit: Limit::new(), under_way: 0 });
        Self { inner, state, next: tokio::sync::Mutex::new(()), left: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
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

    /// Runs one transfer of a body, `large` ones within the limit, and learns from it. `length`
    /// tells the bytes that it passed.
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
            Ok(passed) => Some((Outcome::Ok, length(passed))),
            Err(error) => match error.kind {
                ReplicaErrorKind::Unavailable(_) | ReplicaErrorKind::TimedOut(_) => Some((Outcome::Failed, 0)),
                ReplicaErrorKind::NotFound
                | ReplicaErrorKind::AlreadyExists
                | ReplicaErrorKind::Denied(_)
                | ReplicaErrorKind::Misconfigured(_)
                | ReplicaErrorKind::Corrupt(_)
                | ReplicaErrorKind::Other(_) => None,
            },
        };
        // What is neither large nor small says nothing of a queue: it did not stand in it.
        if let Some((outcome, bytes)) = seen.filter(|(_, bytes)| large || *bytes <= SMALL) {
            self.state().limit.observe(&Seen { outcome, bytes, took, waited, epoch, full });
        }
        drop(inside);
        result
    }
}

/// A transfer under way; also one whose future is dropped leaves here.
struct Inside<'a> {
    gate: &'a Gate,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.gate.state().under_way -= 1;
        self.gate.left.notify_one();
    }
}

/// The length of an object that is to be fetched is not known; what it is, its key tells.
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

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        let length = body.len();
        self.pass(length >= LARGE || is_pack(key), self.inner.put_new(key, body), |()| length).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        let length = body.len();
        self.pass(length >= LARGE || is_pack(key), self.inner.put_replace(key, body), |()| length).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, ReplicaError> {
        self.pass(is_pack(key), self.inner.get(key), Bytes::len).await
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

    async fn probe(&self, write: bool) -> Result<Probe, ReplicaError> {
        self.inner.probe(write).await
    }
}

#[cfg(test)]
mod tests;
