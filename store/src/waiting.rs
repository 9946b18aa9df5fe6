//! Deadlines that count the time that the replica takes, and not the time that we wait on purpose.
//!
//! Under a cap on the bandwidth a transfer takes `length / rate`, times the number of transfers
//! that share the cap. Before it begins, it may stand in the queue of the gate. That says nothing
//! about the replica, and an operator who chooses a `timeout` for hanging servers cannot foresee
//! it. So an operation's clock **stands still while the operation waits for its turn on our side**,
//! and runs while the replica has to do something. A server that stops reading or answering keeps
//! the body from asking for its next turn, so it is noticed as soon as without a cap.
//!
//! An operation still ends: each turn comes after the pieces of those who asked before, at a rate
//! that is never zero. The waits are measured and not estimated, since neither the length of an
//! answer nor the number of transfers that share the cap is known beforehand.
//!
//! The waits of an operation are counted in the task that it runs in. A nested deadline passes its
//! waits on to the one around it.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// While its clock stands still, a deadline that is nearly reached is checked no more often than
/// this.
const MIN_RECHECK: Duration = Duration::from_millis(10);

tokio::task_local! {
    static CURRENT: Waiting;
}

/// How long one operation has waited for its turn.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Waits>>);

#[derive(Default)]
struct Waits {
    over: Duration,
    /// How many waits are under way. Simultaneous waits count once.
    open: u32,
    since: Option<Instant>,
    outer: Option<Waiting>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiting({:?})", self.total())
    }
}

impl Waiting {
    /// The waits of the operation that runs in this task; outside of any operation, one that nobody
    /// reads.
    pub(super) fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs `work`, and counts its waits here and in the operation around it.
    pub(super) async fn count<T>(&self, work: impl Future<Output = T>) -> T {
        self.lock().outer = CURRENT.try_with(Clone::clone).ok();
        CURRENT.scope(self.clone(), work).await
    }

    /// Begins a wait, which lasts until the result is dropped.
    pub(super) fn begin(&self) -> Turn {
        let outer = {
            let mut waits = self.lock();
            waits.open += 1;
            waits.since.get_or_insert_with(Instant::now);
            waits.outer.clone()
        };
        Turn { waiting: self.clone(), _outer: outer.map(|outer| Box::new(outer.begin())) }
    }

    /// All waits so far.
    pub(super) fn total(&self) -> Duration {
        let waits = self.lock();
        waits.over + waits.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait under way.
pub(super) struct Turn {
    waiting: Waiting,
    _outer: Option<Box<Turn>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waits = self.waiting.lock();
        waits.open -= 1;
        if waits.open == 0 {
            let wait = waits.since.take().map(|since| since.elapsed()).unwrap_or_default();
            waits.over += wait;
        }
    }
}

/// The result of `work`; `None` if it takes longer than `limit`, not counting its waits.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let waiting = Waiting::default();
    let (start, mut left) = (Instant::now(), limit);
    let mut work = pin!(waiting.count(work));
    loop {
        if let Ok(outcome) = timeout(left, &mut work).await {
            return Some(outcome);
        }
        let used = start.elapsed().saturating_sub(waiting.total());
        if used >= limit {
            return None;
        }
        left = (limit - used).max(MIN_RECHECK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    const LIMIT: Duration = Duration::from_secs(60);
    const MINUTE: Duration = Duration::from_secs(60);

    async fn wait(time: Duration) {
        let _turn = Waiting::current().begin();
        sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_counts_work_and_not_waits() {
        let just_in_time = async {
            wait(10 * MINUTE).await;
            sleep(LIMIT / 2).await;
            wait(10 * MINUTE).await;
            sleep(LIMIT / 2 - Duration::from_millis(1)).await;
        };
        assert!(within(LIMIT, just_in_time).await.is_some());
        let too_late = async {
            sleep(LIMIT / 2).await;
            wait(10 * MINUTE).await;
            sleep(LIMIT / 2 + Duration::from_millis(1)).await;
        };
        let start = Instant::now();
        assert!(within(LIMIT, too_late).await.is_none());
        assert!(start.elapsed() < LIMIT + 10 * MINUTE + Duration::from_millis(100), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_after_a_wait_is_noticed_at_the_deadline() {
        let start = Instant::now();
        let hang = async {
            wait(MINUTE).await;
            std::future::pending::<()>().await;
        };
        assert!(within(LIMIT, hang).await.is_none());
        assert!(start.elapsed() < MINUTE + LIMIT + Duration::from_millis(100), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_count_once_and_for_every_operation_around_them() {
        let outer = Waiting::default();
        let inner = outer.count(async {
            let inner = Waiting::default();
            inner.count(async { tokio::join!(wait(MINUTE), wait(2 * MINUTE)) }).await;
            inner.total()
        });
        assert_eq!(inner.await, 2 * MINUTE);
        assert_eq!(outer.total(), 2 * MINUTE);
        assert_eq!(Waiting::current().total(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_wait_ends() {
        let waiting = Waiting::default();
        let abandoned = waiting.count(async { timeout(MINUTE, wait(10 * MINUTE)).await.is_err() });
        assert!(abandoned.await);
        sleep(MINUTE).await;
        assert_eq!(waiting.total(), MINUTE);
    }
}
