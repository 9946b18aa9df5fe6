//! One moment for several sources: the members of a group are captured as of one time, as near as
//! their engines allow.
//!
//! Each member prepares, and then waits at [`SharedMoment::turn`] until all are prepared. Then they
//! fix their views one after the other, in the order of the group: a member begins to read only
//! after those before it have a view that no longer changes, and it says so by
//! [`SharedMoment::fixed`].
//!
//! - **Failure**: a member that fails, or is not prepared in time, spoils the moment. The others go
//!   on at once: what they capture is a backup, but of no common moment.
//! - **Bounds**: a prepared member waits for the others for as long as it is told. Those that are
//!   not prepared by then are captured by themselves. One that holds locks meanwhile waits no
//!   longer for those before it, either ([`SharedMoment::turn_with_locks`]).
//! - **An engine that knows nothing of moments** has its turn before its first byte, and its view
//!   is fixed when all of it is captured.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_base::clock::SharedClock;
use lifeboat_base::{Error, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How far one member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MomentStage {
    /// It is not prepared yet.
    Prepares,
    /// It is prepared, and waits for its turn.
    Waits,
    /// It fixes its view, or reads without one, from this time on.
    Takes(DateTime<Utc>),
    /// What it reads does not change any more.
    Fixed(DateTime<Utc>),
    /// It is not part of the moment.
    Left,
}

/// The part of one member in a moment. By default, the source is captured by itself, and nothing
/// here waits.
#[derive(Debug, Clone, Default)]
pub struct SharedMoment(Option<Arc<MomentPart>>);

/// What a sink gives that belongs to no group.
pub(crate) static ALONE: SharedMoment = SharedMoment(None);

struct MomentPart {
    /// The place in the order of the group.
    place: usize,
    patience: Duration,
    clock: SharedClock,
    stages: watch::Sender<Vec<MomentStage>>,
}

impl fmt::Debug for MomentPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MomentPart").field("place", &self.place).field("stages", &*self.stages.borrow()).finish()
    }
}

impl SharedMoment {
    /// The parts of so many members, in their order. One that is prepared waits for the others for
    /// `patience`.
    #[must_use]
    pub fn shared(members: usize, patience: Duration, clock: &SharedClock) -> Vec<Self> {
        let (stages, _) = watch::channel(vec![MomentStage::Prepares; members]);
        let part = |place| MomentPart { place, patience, clock: clock.clone(), stages: stages.clone() };
        (0..members).map(|place| Self(Some(Arc::new(part(place))))).collect()
    }

    /// Whether others wait for this one.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.is_some()
    }

    /// Says that this member is prepared, and waits until it may fix its view: now. It returns at
    /// once if there can be no common moment.
    ///
    /// # Errors
    /// It was cancelled meanwhile.
    pub async fn turn(&self, cancel: &CancellationToken) -> Result<()> {
        self.wait_for_turn(cancel, false).await
    }

    /// As [`Self::turn`], for whoever holds what others may want: once all are prepared, it waits
    /// no longer than it is told for those before it, and then is not part of the moment.
    ///
    /// # Errors
    /// As [`Self::turn`].
    pub async fn turn_with_locks(&self, cancel: &CancellationToken) -> Result<()> {
        self.wait_for_turn(cancel, true).await
    }

    async fn wait_for_turn(&self, cancel: &CancellationToken, has_locks: bool) -> Result<()> {
        let Some(part) = &self.0 else { return Ok(()) };
        part.become_if(|stage| stage == MomentStage::Prepares, MomentStage::Waits);
        let mut looks = part.stages.subscribe();
        let all_prepared = |stages: &Vec<MomentStage>| is_spoilt(stages) || !stages.contains(&MomentStage::Prepares);
        let waited = tokio::select! {
            waited = tokio::time::timeout(part.patience, looks.wait_for(all_prepared)) => waited.is_ok(),
            () = cancel.cancelled() => return Err(Error::cancelled("the capture")),
        };
        if !waited {
            part.stages.send_modify(|stages| {
                stages
                    .iter_mut()
                    .filter(|stage| **stage == MomentStage::Prepares)
                    .for_each(|stage| *stage = MomentStage::Left);
            });
        }
        let is_turn = |stages: &Vec<MomentStage>| {
            is_spoilt(stages) || stages.iter().take(part.place).all(|stage| matches!(stage, MomentStage::Fixed(_)))
        };
        tokio::select! {
            // The sender is here, so there is always an answer.
            _ = looks.wait_for(is_turn) => {}
            () = tokio::time::sleep(part.patience), if has_locks => part.leave(),
            () = cancel.cancelled() => return Err(Error::cancelled("the capture")),
        }
        part.become_if(|stage| stage == MomentStage::Waits, MomentStage::Takes(part.clock.now()));
        Ok(())
    }

    /// Says that what this member reads does not change any more. One that never had its turn is
    /// not part of the moment.
    pub fn fixed(&self) {
        let Some(part) = &self.0 else { return };
        part.change(|stage| match stage {
            MomentStage::Takes(at) | MomentStage::Fixed(at) => MomentStage::Fixed(at),
            MomentStage::Prepares | MomentStage::Waits | MomentStage::Left => MomentStage::Left,
        });
    }

    /// Says that this member has failed, if its view is not fixed.
    pub fn leave(&self) {
        if let Some(part) = &self.0 {
            part.leave();
        }
    }

    /// When this member's view begins. `None`: it has none, or there is no common moment, as far as
    /// is known by now.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        let stages = self.0.as_ref()?.stages.borrow();
        match stages.get(self.0.as_ref()?.place) {
            Some(MomentStage::Takes(at) | MomentStage::Fixed(at)) if !is_spoilt(&stages) => Some(*at),
            _ => None,
        }
    }

    /// When the views of all members begin, in their order. `None`: not all of them are fixed.
    #[must_use]
    pub fn times(&self) -> Option<Vec<DateTime<Utc>>> {
        let stages = self.0.as_ref()?.stages.borrow();
        let at = |stage: &MomentStage| if let MomentStage::Fixed(at) = stage { Some(*at) } else { None };
        stages.iter().map(at).collect()
    }
}

impl MomentPart {
    fn become_if(&self, may: impl Fn(MomentStage) -> bool, to: MomentStage) {
        self.change(|stage| if may(stage) { to } else { stage });
    }

    fn change(&self, change: impl FnOnce(MomentStage) -> MomentStage) {
        self.stages.send_modify(|stages| {
            if let Some(stage) = stages.get_mut(self.place) {
                *stage = change(*stage);
            }
        });
    }

    fn leave(&self) {
        self.become_if(|stage| !matches!(stage, MomentStage::Fixed(_)), MomentStage::Left);
    }
}

impl Drop for MomentPart {
    fn drop(&mut self) {
        // A run that was aborted says nothing else.
        self.leave();
    }
}

fn is_spoilt(stages: &[MomentStage]) -> bool {
    stages.contains(&MomentStage::Left)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_base::clock::{ManualClock, SystemClock};

    use super::*;

    fn three(patience: u64) -> [SharedMoment; 3] {
        let parts = SharedMoment::shared(3, Duration::from_millis(patience), &SystemClock::shared());
        parts.try_into().unwrap()
    }

    async fn soon(moment: &SharedMoment) -> bool {
        let never = CancellationToken::new();
        tokio::time::timeout(Duration::from_millis(50), moment.turn(&never)).await.is_ok()
    }

    #[tokio::test]
    async fn all_are_prepared_before_the_first_has_its_turn_and_each_waits_for_those_before() {
        let [first, second, third] = three(60_000);
        assert!(!soon(&third).await && !soon(&first).await, "the second is not prepared");
        assert!(!soon(&second).await, "the first has its turn");
        assert!(soon(&first).await);
        assert!(!soon(&second).await, "the view of the first is not fixed");
        first.fixed();
        assert!(soon(&second).await && !soon(&third).await);
        second.fixed();
        assert!(soon(&third).await);
        assert_eq!(third.times(), None, "the last one still reads");
        third.fixed();
        let times = third.times().unwrap();
        assert!(times.is_sorted() && first.time() == Some(times[0]), "{times:?}");
    }

    #[tokio::test]
    async fn one_that_fails_spoils_the_moment_and_holds_nobody_up() {
        let [first, second, third] = three(60_000);
        assert!(!soon(&third).await);
        first.leave();
        assert!(soon(&third).await && soon(&second).await);
        second.fixed();
        assert_eq!((second.time(), third.time(), second.times()), (None, None, None));
        // One that is dropped, as its run was aborted, has failed, too.
        let [first, second, third] = three(60_000);
        assert!(!soon(&third).await);
        drop((first, second));
        assert!(soon(&third).await && third.time().is_none());
    }

    #[tokio::test]
    async fn one_that_is_late_is_captured_by_itself() {
        let [first, second, third] = three(1);
        let never = CancellationToken::new();
        second.turn(&never).await.unwrap();
        third.turn(&never).await.unwrap();
        first.turn(&never).await.unwrap();
        [&first, &second, &third].into_iter().for_each(SharedMoment::fixed);
        assert_eq!((first.time(), second.time(), third.times()), (None, None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_locks_does_not_wait_for_a_slow_one_and_others_do() {
        let [first, second, third] = three(100);
        let never = CancellationToken::new();
        let (began, later) = (tokio::time::Instant::now(), Duration::from_secs(2));
        let slow = async {
            first.turn(&never).await.unwrap();
            tokio::time::sleep(later).await;
            first.fixed();
        };
        let (second, third) = (&second, &third);
        let ((), locks, ()) = tokio::join!(
            slow,
            async {
                second.turn_with_locks(&never).await.unwrap();
                began.elapsed()
            },
            async { third.turn(&never).await.unwrap() },
        );
        assert!(locks >= Duration::from_millis(100) && locks < later, "{locks:?}");
        assert_eq!((second.time(), third.time()), (None, None));
        // One without locks waits for as long as it takes.
        let [first, second, third] = three(50);
        let slow = async {
            first.turn(&never).await.unwrap();
            tokio::time::sleep(later).await;
            first.fixed();
        };
        let waits = async {
            second.turn(&never).await.unwrap();
            second.fixed();
        };
        tokio::join!(slow, waits, async { third.turn(&never).await.unwrap() });
        third.fixed();
        assert!(third.times().is_some());
    }

    #[tokio::test]
    async fn waiting_ends_when_it_is_cancelled_and_the_time_is_that_of_the_turn() {
        let clock = ManualClock::at(DateTime::UNIX_EPOCH);
        let shared: SharedClock = clock.clone();
        let parts = SharedMoment::shared(2, Duration::from_secs(60), &shared);
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert!(parts[0].turn(&cancel).await.is_err());
        clock.advance(Duration::from_secs(5));
        assert!(parts[1].turn(&cancel).await.is_err());
        assert!(soon(&parts[0]).await);
        clock.advance(Duration::from_secs(5));
        parts[0].fixed();
        assert_eq!(parts[0].time(), DateTime::from_timestamp(5, 0));
        assert!(SharedMoment::default().turn(&cancel).await.is_ok() && SharedMoment::default().time().is_none());
    }
}
