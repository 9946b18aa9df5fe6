//! One moment of a group: its members start together or not at all, wait for each other, and then
//! it is known whether they have a common moment.
//!
//! - **Locks**: a member whose dataset another program works on keeps the whole group waiting.
//!   Nobody has captured anything by then.
//! - **Failure** of one member does not stop the others. Their snapshots are backups, but there is
//!   no common moment, and the status of the group says why.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lifeboat_engine::backup::MemberMoment;
use lifeboat_engine::base::{Class, Error, Result};
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::config::GroupConfig;
use lifeboat_engine::databases::SharedMoment;
use lifeboat_engine::format::id::{Name, SnapshotId};
use lifeboat_engine::state::StateDirectory;
use serde::Serialize;
use tokio::sync::watch;

use crate::control::protocol::Answer;
use crate::group_status::{self, CommonMoment, GroupStatus};
use crate::run_report::RunReport;
use crate::start::Start;
use crate::words;

/// Whether a member has the lock of its dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HasLock {
    Tries,
    Yes,
    /// Another program has it.
    No,
    /// It has failed, and needs none.
    Failed,
}

/// The part of one member in the run of its group.
pub(crate) struct MemberRun {
    pub moment: MemberMoment,
    place: usize,
    locks: watch::Sender<Vec<HasLock>>,
}

impl MemberRun {
    /// Says that this member has its lock, and waits for the others. Gives whether it is the first
    /// of those that have one, and so the one that [notes the start](Self::note_start).
    ///
    /// # Errors
    /// The member whose dataset another program works on.
    pub(crate) async fn has_lock(&self) -> std::result::Result<bool, Name> {
        self.say(HasLock::Yes);
        let mut looks = self.locks.subscribe();
        // The sender is here, so there is always an answer.
        let Ok(locks) = looks.wait_for(|locks| !locks.contains(&HasLock::Tries)).await else { return Ok(false) };
        let first = locks.iter().position(|has| *has == HasLock::Yes);
        let taken = locks.iter().position(|has| *has == HasLock::No).and_then(|at| self.moment.members.get(at));
        taken.map_or(Ok(first == Some(self.place)), |member| Err(member.clone()))
    }

    /// Notes that the run of the group begins. Not before all locks are there: a run that waits for
    /// one tries it every few seconds.
    pub(crate) fn note_start(&self, state: &StateDirectory) {
        let MemberMoment { group, id, .. } = &self.moment;
        tracing::info!(%group, moment = %id, "the members of a group start");
        group_status::update(state, group, |status| (status.under_way, status.retry_at) = (Some(id.time()), None));
    }

    /// Says that another program has its lock.
    pub(crate) fn has_no_lock(&self) {
        self.say(HasLock::No);
    }

    fn say(&self, has: HasLock) {
        self.locks.send_modify(|locks| {
            if let Some(known) = locks.get_mut(self.place) {
                *known = has;
            }
        });
    }
}

impl Drop for MemberRun {
    fn drop(&mut self) {
        // However its run ended, nobody waits for it.
        self.locks.send_modify(|locks| {
            locks.iter_mut().skip(self.place).take(1).filter(|has| **has == HasLock::Tries).for_each(|has| {
                *has = HasLock::Failed;
            });
        });
        self.moment.moment.leave();
    }
}

/// The run of a group.
pub(crate) struct GroupRun {
    pub id: SnapshotId,
    began: DateTime<Utc>,
    start: Start,
    members: Vec<Name>,
    moment: Option<SharedMoment>,
    ended: BTreeMap<Name, std::result::Result<SnapshotId, Failed>>,
    /// Whether it did not begin, because another program works on a member.
    pub waits: bool,
}

/// Why a member failed.
struct Failed {
    class: Class,
    why: String,
    hint: String,
}

impl GroupRun {
    /// Begins the run of `group`: what is known of it, and the part of each member.
    pub(crate) fn begin(group: &GroupConfig, start: Start, clock: &SharedClock) -> (Self, Vec<MemberRun>) {
        let (began, members) = (clock.now(), group.members.clone());
        let id = SnapshotId::new(began, rand::random());
        let moments = SharedMoment::shared(members.len(), group.wait, clock);
        let (locks, _) = watch::channel(vec![HasLock::Tries; members.len()]);
        let first = moments.first().cloned();
        let of = |(place, moment)| MemberRun {
            moment: MemberMoment { group: group.name.clone(), members: members.clone(), id: id.clone(), moment },
            place,
            locks: locks.clone(),
        };
        let parts = moments.into_iter().enumerate().map(of).collect();
        (
            Self {
                id: id.clone(),
                began,
                start,
                members: members.clone(),
                moment: first,
                ended: BTreeMap::new(),
                waits: false,
            },
            parts,
        )
    }

    /// Whether `dataset` is a member that has not ended.
    pub(crate) fn has(&self, dataset: &Name) -> bool {
        self.members.contains(dataset) && !self.ended.contains_key(dataset)
    }

    /// Whether it is to be tried again, as there is no common moment. `wanted`: a member that
    /// failed would be tried again. If none failed, and only the moment was missed, one more try is
    /// enough.
    pub(crate) fn is_retried(&self, wanted: bool) -> bool {
        match self.ended.values().any(std::result::Result::is_err) {
            true => wanted,
            false => self.start == Start::Scheduled,
        }
    }

    /// Notes what came of it, once all members have ended, in the log and in the status. If there
    /// is no common moment, it is tried again after `retry`, or later.
    ///
    /// # Errors
    /// There is no common moment.
    pub(crate) fn tell(
        &self,
        state: &StateDirectory,
        group: &Name,
        retry: Option<Duration>,
        now: DateTime<Utc>,
    ) -> Result<GroupReport> {
        let result = self.result(group);
        match &result {
            Ok(report) => tracing::info!("{}", report.line()),
            // It is tried again, and has not begun.
            Err(_) if self.waits => {}
            Err(error) => tracing::error!(
                class = error.class().as_str(),
                hint = error.hint_text().unwrap_or_default(),
                "{}",
                error.chain_and_hint()
            ),
        }
        if !self.waits {
            group_status::update(state, group, |status| self.note(status, &result, retry, now));
        }
        result
    }

    /// A member has ended. Tells whether all have.
    pub(crate) fn ended(&mut self, member: &Name, result: std::result::Result<&RunReport, &Error>) -> bool {
        let result = result.map(|report| report.backup.snapshot.clone()).map_err(|error| Failed {
            class: error.class(),
            why: error.chain(),
            hint: error.hint_text().unwrap_or("read the log of lifeboatd").to_owned(),
        });
        self.ended.insert(member.clone(), result);
        self.ended.len() == self.members.len()
    }

    /// What came of it, once all members have ended.
    ///
    /// # Errors
    /// There is no common moment.
    fn result(&self, group: &Name) -> Result<GroupReport> {
        let failed: Vec<(&Name, &Failed)> =
            self.ended.iter().filter_map(|(member, result)| Some((member, result.as_ref().err()?))).collect();
        let no_moment = format!("group {group} has no common moment");
        // As for runs of several datasets: an unknown outcome is the worst, and never called a
        // failure.
        if let Some((worst, failure)) = failed.iter().max_by_key(|(_, failed)| failed.class.exit_code()) {
            let names = |is: fn(&Failed) -> bool| {
                let names = failed.iter().filter(|(_, failed)| is(failed)).map(|(member, _)| member.as_str());
                names.collect::<Vec<_>>().join(", ")
            };
            let (certain, unknown) =
                (names(|failed| failed.class != Class::Unknown), names(|failed| failed.class == Class::Unknown));
            let certain = (!certain.is_empty()).then(|| format!("{certain} failed"));
            let unknown = (!unknown.is_empty()).then(|| format!("whether {unknown} has a snapshot is not known"));
            let told: Vec<String> = certain.into_iter().chain(unknown).collect();
            return Err(Error::new(failure.class, format!("{no_moment}: {}", told.join("; ")))
                .because(format!("{worst}: {}", failure.why))
                .hint(failure.hint.clone()));
        }
        let times = self.moment.as_ref().and_then(SharedMoment::times).ok_or_else(|| {
            Error::failed(format!("{no_moment}: a member was not ready in time, so each was captured by itself"))
                .hint("read the log to see which one was slow, or raise `wait` of the [[group]]")
        })?;
        let snapshots =
            self.ended.iter().filter_map(|(member, result)| Some((member.clone(), result.as_ref().ok()?.clone())));
        Ok(GroupReport { group: group.clone(), moment: CommonMoment::new(&self.id, &times, snapshots.collect()) })
    }

    /// Notes in the status of the group what came of it.
    fn note(
        &self,
        status: &mut GroupStatus,
        result: &Result<GroupReport>,
        retry: Option<Duration>,
        now: DateTime<Utc>,
    ) {
        (status.under_way, status.last_attempt) = (None, Some(self.began));
        match result {
            Ok(report) => status.succeeded(report.moment.clone()),
            Err(error) => status.failed(error.chain(), retry, now),
        }
    }
}

/// What the run of a group came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct GroupReport {
    group: Name,
    #[serde(flatten)]
    moment: CommonMoment,
}

impl GroupReport {
    /// What it did, in one line.
    pub(crate) fn line(&self) -> String {
        let snapshots = self.moment.snapshots.iter().map(|(member, snapshot)| format!("{member} {snapshot}"));
        format!(
            "{}: common moment {}, views within {}: {}",
            self.group,
            self.moment.moment,
            words::duration(self.moment.spread_seconds),
            snapshots.collect::<Vec<_>>().join(", ")
        )
    }
}

impl From<GroupReport> for Answer {
    fn from(report: GroupReport) -> Self {
        Self::good(&report, report.line())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lifeboat_engine::clock::SystemClock;

    use super::*;

    fn begun() -> (GroupRun, Vec<MemberRun>) {
        let group = GroupConfig {
            name: "shop".parse().unwrap(),
            members: ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec(),
            schedule: None,
            wait: Duration::from_secs(60),
            references: Vec::new(),
            drill_schedule: None,
        };
        GroupRun::begin(&group, Start::Scheduled, &SystemClock::shared())
    }

    #[tokio::test]
    async fn a_lock_that_is_taken_keeps_all_from_starting_and_a_failure_does_not() {
        let (_, parts) = begun();
        let [a, b, c] = <[MemberRun; 3]>::try_from(parts).ok().unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(50), a.has_lock()).await;
        assert!(waits.is_err(), "not all have told");
        c.has_no_lock();
        assert_eq!(b.has_lock().await, Err("c".parse().unwrap()));
        assert_eq!(a.has_lock().await, Err("c".parse().unwrap()));

        let (_, parts) = begun();
        let [a, b, c] = <[MemberRun; 3]>::try_from(parts).ok().unwrap();
        drop(c);
        let (first, second) = tokio::join!(a.has_lock(), b.has_lock());
        assert_eq!((first, second), (Ok(true), Ok(false)), "one of them notes the start");
    }

    #[tokio::test]
    async fn the_worst_of_what_members_came_to_is_told_and_an_unknown_outcome_is_no_failure() {
        let shop = "shop".parse().unwrap();
        let told = |classes: [Class; 3]| {
            let (mut run, _parts) = begun();
            for (member, class) in ["a", "b", "c"].into_iter().zip(classes) {
                run.ended(&member.parse().unwrap(), Err(&Error::new(class, class.as_str()).hint(member)));
            }
            let error = run.result(&shop).unwrap_err();
            (error.class(), error.hint_text().map(str::to_owned), error.message().to_owned())
        };
        let (class, hint, message) = told([Class::Failed, Class::Unknown, Class::Source]);
        assert_eq!((class, hint.as_deref()), (Class::Unknown, Some("b")));
        assert!(message.ends_with(": a, c failed; whether b has a snapshot is not known"), "{message}");
        let (class, hint, message) = told([Class::Failed, Class::Storage, Class::Source]);
        assert_eq!((class, hint.as_deref()), (Class::Storage, Some("b")));
        assert!(message.ends_with(": a, b, c failed"), "{message}");
        let (_, _, message) = told([Class::Unknown; 3]);
        assert!(message.ends_with(": whether a, b, c has a snapshot is not known"), "{message}");
    }

    #[tokio::test]
    async fn there_is_no_common_moment_if_a_member_failed_or_was_late() {
        let (mut run, parts) = begun();
        let error = Error::source_failed("the server is gone").hint("start it");
        let names = ["a", "b", "c"].map(|name| name.parse::<Name>().unwrap());
        assert!(!run.ended(&names[0], Err(&error)) && !run.ended(&names[1], Err(&error)));
        assert!(run.ended(&names[2], Err(&error)));
        let shop = "shop".parse().unwrap();
        let failed = run.result(&shop);
        let told = failed.as_ref().unwrap_err();
        assert_eq!((told.class(), told.hint_text()), (Class::Source, Some("start it")));
        assert!(told.chain().contains("group shop has no common moment: a, b, c failed"), "{told:?}");
        let mut status = GroupStatus::default();
        let now = DateTime::UNIX_EPOCH;
        run.note(&mut status, &failed, Some(Duration::from_secs(60)), now);
        assert_eq!(status.retry_at, DateTime::from_timestamp(60, 0));
        assert!(run.is_retried(true) && !run.is_retried(false));
        assert!((status.failures, status.newest.is_none()) == (1, true) && status.error.is_some());
        drop(parts);
        let snapshot: SnapshotId = "20261123T183244123Z-9f2c81aa".parse().unwrap();
        run.ended = names.iter().map(|name| (name.clone(), Ok(snapshot.clone()))).collect();
        assert!(run.result(&shop).unwrap_err().message().contains("was not ready in time"));
        // Whoever is late is late again: once more is enough.
        assert!(run.is_retried(false));
        run.start = Start::Retry;
        assert!(!run.is_retried(true));
    }
}
