//! A backup that meets a fault at any of its calls has one of three outcomes, and each is true:
//! committed, not committed, unknown. What comes after it, whatever fault it meets, harms nothing:
//! a prune, a catch-up, a repair, a restore.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod listings;
mod looks;
mod prepared;
mod upkeep;

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_engine::Class;
use lifeboat_engine::format::layout;
use lifeboat_engine::store::Failure;
use lifeboat_tests::faults::kinds;
use lifeboat_tests::tally::Tally;
use lifeboat_tests::vault::{DATASET, name};

use self::prepared::{ATTEMPT, GRACE, NEXT, Prepared, streams};

/// No backup in here makes more calls to a replica.
const MOST_CALLS: u64 = 1000;
const HANG_TIME: Duration = Duration::from_millis(1);
const HANG: Failure = Failure::Hang(HANG_TIME);

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Faults {
    /// One.
    One,
    /// It, and all after it: the replica is lost.
    AllFrom,
}

/// What is backed up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    /// So many replicas, of which the first fails, and of which so many must hold a snapshot.
    Replicas(usize, usize),
    /// One of two replicas, and a place that holds records alone and fails.
    ReplicaAndRecords,
}

/// Whether the caller cannot know if the work was done.
fn leaves_no_answer(failure: Failure) -> bool {
    matches!(failure, Failure::AnswerLost | Failure::Hang(_) | Failure::Unavailable | Failure::Conflict)
}

/// How often each outcome was seen.
#[derive(Debug, Default)]
struct Outcomes {
    committed: u64,
    not_committed: u64,
    /// Of these, errors that say so.
    said: u64,
    unknown: u64,
}

/// Fails each call of a backup, in each of these ways (see `faults::kinds`), and judges what the
/// backup says.
async fn fail_every_call(places: Places, faults: Faults, failures: &[Failure]) -> Outcomes {
    let prepared = Prepared::new(2).await;
    let (mut seen, mut tally) = (Outcomes::default(), Tally::of("commit_faults"));
    for failure in &kinds(failures, HANG_TIME) {
        for call in 1..MOST_CALLS {
            let copy = match places {
                Places::Replicas(replicas, required) => prepared.copy((replicas, required)).await,
                Places::ReplicaAndRecords => prepared.copy_beside_records().await,
            };
            let last = if faults == Faults::One { call } else { call + MOST_CALLS };
            (call..=last).for_each(|call| copy.failing.fail(call, *failure));
            let outcome = copy.backup(&copy.replicas, ATTEMPT).await;
            let when = format!("{places:?}, {faults:?}, {failure:?} at call {call}");
            let is_met = copy.failing.calls() >= call;
            match outcome {
                Ok(report) => {
                    copy.assert_committed(&report, &when).await;
                    seen.committed += u64::from(is_met);
                    tally.committed += 1;
                }
                Err(error) if error.class() == Class::Unknown => {
                    // The act decides. Where it is there, only the signature is not.
                    let may_be = leaves_no_answer(*failure) || copy.has_a_new_act().await;
                    assert!(is_met && may_be, "{when}: {error:?}");
                    assert!(error.hint_text().is_some(), "{when}: {error:?}");
                    copy.assert_unknown_is_settled(&when).await;
                    seen.unknown += 1;
                }
                Err(error) => {
                    assert!(is_met, "{when}: {error:?}");
                    copy.assert_refused(&error, &when).await;
                    seen.not_committed += 1;
                    seen.said += u64::from(format!("{error:?}").contains("was not committed"));
                }
            }
            tally.faults += u64::from(is_met);
            if !is_met {
                let least = if places == Places::ReplicaAndRecords { 4 } else { 8 };
                assert!(call > least, "{when}: a backup made no more calls");
                break;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fault_at_any_call_to_the_only_replica_is_answered_truly() {
    let failures = [
        Failure::Unavailable,
        Failure::Denied,
        Failure::NotFound,
        Failure::AnswerLost,
        HANG,
        Failure::Truncated,
        Failure::Flipped,
        Failure::Conflict,
        Failure::Exists,
        Failure::ListingContradicts,
        Failure::ListingStale(u64::MAX),
    ];
    let seen = fail_every_call(Places::Replicas(1, 1), Faults::One, &failures).await;
    assert!(seen.committed > 0 && seen.not_committed > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_replica_that_is_lost_at_any_call_is_answered_truly() {
    let failures = [Failure::Unavailable, Failure::Denied, Failure::AnswerLost, HANG];
    let seen = fail_every_call(Places::Replicas(1, 1), Faults::AllFrom, &failures).await;
    assert!(seen.not_committed > 0 && seen.said > 0 && seen.unknown > 0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_one_of_two_replicas_that_are_both_needed_is_answered_truly() {
    let failures = [
        Failure::Unavailable,
        Failure::Denied,
        Failure::AnswerLost,
        Failure::Conflict,
        Failure::Exists,
        Failure::ListingContradicts,
    ];
    let one = fail_every_call(Places::Replicas(2, 2), Faults::One, &failures).await;
    assert!(one.committed > 0 && one.not_committed > 0, "{one:?}");
    let all =
        fail_every_call(Places::Replicas(2, 2), Faults::AllFrom, &[Failure::Unavailable, Failure::AnswerLost, HANG])
            .await;
    assert!(all.not_committed > 0 && all.said > 0, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_one_of_two_replicas_of_which_one_is_enough_is_answered_truly() {
    let failures = [Failure::Unavailable, Failure::AnswerLost, HANG];
    let one = fail_every_call(Places::Replicas(2, 1), Faults::One, &failures).await;
    assert!(one.committed > 0, "{one:?}");
    let all = fail_every_call(Places::Replicas(2, 1), Faults::AllFrom, &failures).await;
    assert!(all.committed > 0, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_the_place_for_records_that_a_commit_needs_is_answered_truly() {
    let failures = [
        Failure::Unavailable,
        Failure::Denied,
        Failure::NotFound,
        Failure::AnswerLost,
        HANG,
        Failure::Truncated,
        Failure::Flipped,
        Failure::Conflict,
        Failure::Exists,
        Failure::ListingContradicts,
        Failure::ListingStale(u64::MAX),
    ];
    let one = fail_every_call(Places::ReplicaAndRecords, Faults::One, &failures).await;
    assert!(one.committed > 0 && one.not_committed > 0, "{one:?}");
    let failures = [Failure::Unavailable, Failure::AnswerLost, HANG];
    let all = fail_every_call(Places::ReplicaAndRecords, Faults::AllFrom, &failures).await;
    assert!(all.not_committed > 0 && all.unknown > 0, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_run_left_goes_after_the_grace_period() {
    let prepared = Prepared::new(2).await;
    let mut left = 0;
    for call in 1..MOST_CALLS {
        let copy = prepared.copy((1, 1)).await;
        (call..call + MOST_CALLS).for_each(|call| copy.failing.fail(call, Failure::Denied));
        let outcome = copy.backup(&copy.replicas, ATTEMPT).await;
        let when = format!("denied from call {call} on");
        let Err(error) = outcome else { break };
        if error.class() == Class::Unknown {
            continue;
        }
        left += u64::from(copy.sound[0].list("").await.unwrap().len() > prepared.objects.len());
        let next = copy.backup(&copy.sound, NEXT).await.unwrap();
        for _ in 0..3 {
            assert_eq!(copy.prune(&copy.sound).await.unwrap(), [""; 0], "{when}");
            copy.clock.advance(GRACE + GRACE);
        }
        let reader = copy.reader(&copy.sound).await;
        let mut needed = BTreeSet::new();
        for snapshot in copy.shown().await {
            let manifest = reader.manifest(&name(DATASET), &snapshot).await.unwrap();
            needed.extend(manifest.packs.iter().map(|pack| layout::pack(&name(DATASET), &pack.id)));
            needed.insert(layout::manifest(&name(DATASET), &snapshot));
        }
        for folder in [layout::packs(&name(DATASET)), layout::snapshots(&name(DATASET))] {
            let listed = copy.sound[0].list(&folder).await.unwrap().into_iter().map(|object| object.key);
            let orphans: Vec<String> =
                listed.filter(|key| !layout::is_signature(key) && !needed.contains(key)).collect();
            assert!(orphans.is_empty(), "{when}: {orphans:?} are left");
        }
        copy.assert_restores(&copy.sound, &next.snapshot, &streams(NEXT), &when).await;
    }
    assert!(left > 2, "only {left} runs left anything");
}
