//! Beside a place that holds records alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_engine::format::layout;
use lifeboat_engine::store::{FailingReplica, Failure, MemoryReplica, Replica, SharedReplica};
use lifeboat_tests::faults::kinds;
use lifeboat_tests::tally::Tally;
use lifeboat_tests::vault::{DATASET, name};

use super::{Copy, HANG_TIME, Prepared, lasting, tells};

/// What the place for records holds is in the replica, too.
async fn assert_no_more_acts(copy: &Copy<'_>, records: &SharedReplica, when: &str) {
    let listed = records.list("").await.unwrap().into_iter().map(|meta| meta.key);
    let acts = listed.filter(|key| key != layout::VAULT).collect::<BTreeSet<String>>();
    let in_replica: BTreeSet<String> = copy.keys().await.remove(0);
    assert!(acts.is_subset(&in_replica), "{when}: {acts:?} are left with the records");
}

/// The newest act that a place shows; 0 if there is none.
async fn newest_act(place: &SharedReplica) -> u64 {
    let listed = place.list("").await.unwrap();
    listed.iter().filter_map(|meta| layout::parse_act(&name(DATASET), &meta.key)).max().unwrap_or_default()
}

/// Without its number there, a mark or a sweep deletes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_to_the_place_for_records_is_told_and_made_good() {
    let (prepared, mut tally) = (Prepared::new(true).await, Tally::of("prune_faults"));
    let (undisturbed, _) = prepared.copy_beside_records().await;
    undisturbed.finish().await.unwrap();
    let finished = undisturbed.keys().await;
    let failures = [Failure::Unavailable, Failure::Denied, Failure::AnswerLost, Failure::Conflict, Failure::Exists];
    for failure in kinds(&failures, HANG_TIME) {
        let (mut told, mut stopped) = (0, 0);
        for call in 1.. {
            let (mut copy, records) = prepared.copy_beside_records().await;
            let before = copy.keys().await;
            copy.failing.fail(call, failure);
            let pruned = copy.prune().await;
            if copy.failing.calls() < call {
                assert!(call > 8, "{failure:?}: only {call} calls");
                break;
            }
            tally.faults += 1;
            let when = format!("{failure:?} at call {call} to the records");
            assert!(!copy.assert_whole(&when).await, "{when}: a record is lost");
            match &pruned {
                Ok((plan, outcome)) => told += u64::from(tells(plan, outcome)),
                Err(error) => {
                    let now = copy.keys().await.remove(0);
                    let mut gone = before[0].iter().filter(|key| !now.contains(*key));
                    assert!(gone.next().is_none(), "{when}: prune refused ({error:?}) and deleted {gone:?}");
                    stopped += 1;
                }
            }
            copy.records = vec![records.clone()];
            copy.finish().await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
            copy.assert_restores(&when).await;
            assert_eq!(lasting(&copy.keys().await), lasting(&finished), "{when}: the next prune left work");
            assert_no_more_acts(&copy, &records, &when).await;
        }
        let harms = matches!(failure, Failure::Unavailable | Failure::Denied);
        assert!(!harms || (stopped > 0 && told > 0), "{failure:?}: {stopped} prunes stopped, {told} told");
    }
}

/// The number of a mark or a sweep is this host's once it has it there, whatever becomes of it in
/// the replicas.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_fail_after_the_records_are_told_and_no_other_host_is_blamed() {
    let (prepared, mut tally) = (Prepared::with_both().await, Tally::of("prune_faults"));
    let (undisturbed, _) = prepared.copy_beside_records().await;
    let (plan, outcome) = undisturbed.prune().await.unwrap();
    assert!(outcome.marked_snapshots > 0 && outcome.snapshots > 0, "{plan:?} {outcome:?}");
    undisturbed.finish().await.unwrap();
    let finished = undisturbed.keys().await;
    for call in 1.. {
        let (mut copy, records) = prepared.copy_beside_records().await;
        let failing = Arc::new(FailingReplica::new(copy.sound[0].clone()));
        (call..call + 1000).for_each(|call| failing.fail(call, Failure::Unavailable));
        (copy.replicas, copy.records) = (vec![failing.clone() as SharedReplica], vec![records.clone()]);
        let before = newest_act(&records).await;
        let pruned = copy.prune().await;
        let now = newest_act(&records).await;
        assert!(now >= before, "from call {call} on: the newest act of the records fell from {before} to {now}");
        if failing.calls() < call {
            assert!(call > 20, "only {call} calls");
            break;
        }
        tally.faults += 1;
        let when = format!("the replica fails from call {call} on");
        let told = match &pruned {
            Ok((plan, outcome)) => {
                assert!(tells(plan, outcome), "{when}: nothing is told");
                outcome.failures.join("; ")
            }
            Err(error) => error.chain_and_hint(),
        };
        assert!(!told.contains("another host"), "{when}: {told}");
        copy.replicas = copy.sound.clone();
        copy.finish().await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(!copy.assert_whole(&when).await, "{when}: a record is lost");
        copy.assert_restores(&when).await;
        assert_eq!(lasting(&copy.keys().await), lasting(&finished), "{when}: the next prune left work");
        assert_no_more_acts(&copy, &records, &when).await;
    }
}

/// Its owner configured the wrong bucket: another vault may have a dataset of the same name there.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_with_a_place_for_records_that_holds_another_vault() {
    let prepared = Prepared::new(true).await;
    let (mut copy, own) = prepared.copy_beside_records().await;
    let other = MemoryReplica::new(name("records"), "east", prepared.vault.clock.clone());
    for object in own.list("").await.unwrap() {
        let mut body = own.get(&object.key, 1 << 20).await.unwrap();
        if object.key == layout::VAULT {
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert!(text.contains(&prepared.keys.vault), "{text}");
            body = text.replace(&prepared.keys.vault, &"0123".repeat(8)).into();
        }
        other.put_new(&object.key, body).await.unwrap();
    }
    let other: SharedReplica = Arc::new(other);
    let held = other.list("").await.unwrap().len();
    let before = copy.keys().await;
    copy.records = vec![other.clone()];
    let refused = copy.prune().await.expect_err("it is refused");
    assert!(refused.chain().contains("holds the records, and cannot be used"), "{refused:?}");
    let now = copy.keys().await;
    assert!(before.iter().zip(&now).all(|(before, now)| before.is_subset(now)), "{before:?} {now:?}");
    // Nor does a prune with nothing to do tidy there.
    copy.records = vec![own];
    copy.finish().await.unwrap();
    copy.records = vec![other.clone()];
    let (plan, outcome) = copy.prune().await.unwrap();
    assert!(plan.is_empty() && !outcome.failures.is_empty(), "{outcome:?}");
    assert_eq!(other.list("").await.unwrap().len(), held);
}
