//! Times of snapshots that an operator settles after a clock was wrong: what then counts, and what
//! nobody can do with it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use lifeboat_engine::clock::{Clock, ManualClock};
use lifeboat_engine::config::Limits;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::format::record::RecordType;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keep::prune::{ClockReport, PrunePlan};
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::restore::{Selector, VaultReader};
use lifeboat_engine::schedule::Schedule;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{FailingReplica, Failure, MemoryReplica, Replica, SharedReplica};
use lifeboat_engine::{Class, Result};
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, limits, name, noise};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const DAY: Duration = Duration::from_secs(86_400);
const YEARS: Duration = Duration::from_secs(3650 * 86_400);

fn data(seed: u64) -> MemorySource {
    MemorySource::of(noise(50_000, seed))
}

/// A vault in directories, whose dataset has no schedule, so that all goes by what snapshots tell.
async fn unscheduled(replicas: usize, daily: u32) -> TestVault {
    let mut vault = TestVault::new(replicas, 1).await;
    let dataset = &mut vault.config.datasets[0];
    (dataset.schedule, dataset.retention.daily) = (None, daily);
    vault
}

/// Backs up so often, a day after the last one each.
async fn days(vault: &TestVault, count: u64) -> Vec<(SnapshotId, DateTime<Utc>)> {
    let mut made = Vec::new();
    for _ in 0..count {
        vault.clock.advance(DAY);
        let report = vault.backup(&data(made.len() as u64)).await.unwrap();
        made.push((report.snapshot, report.started));
    }
    made
}

/// Backs up under a clock that is ahead, and sets it right.
async fn under_a_wrong_clock(vault: &TestVault, ahead: Duration) -> (SnapshotId, DateTime<Utc>) {
    vault.clock.advance(DAY);
    let right = vault.clock.now();
    vault.clock.advance(ahead);
    let report = vault.backup(&data(77)).await.unwrap();
    vault.clock.set(right);
    (report.snapshot, report.started)
}

async fn false_times(vault: &TestVault) -> Result<ClockReport> {
    vault.with_prune(async |prune| prune.false_times().await).await
}

async fn settled(vault: &TestVault) -> Result<ClockReport> {
    vault
        .with_prune(async |prune| {
            let report = prune.false_times().await?;
            prune.settle_times(&report).await
        })
        .await
}

async fn plan(vault: &TestVault) -> Result<PrunePlan> {
    vault.with_prune(async |prune| prune.plan().await).await
}

/// The snapshot that `lifeboat restore --at` finds.
async fn found(vault: &TestVault, selector: Selector) -> SnapshotId {
    let reader = vault.open(vault.owner()).await.unwrap();
    reader.select(&name(DATASET), &selector, vault.clock.now()).await.unwrap()
}

/// When a snapshot was taken, as readers see it.
async fn taken(vault: &TestVault, snapshot: &SnapshotId) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
    let reader = vault.open(vault.owner()).await.unwrap();
    let manifest = reader.manifest(&name(DATASET), snapshot).await.unwrap();
    let taken = reader.taken(&manifest).await.unwrap();
    (taken.time, taken.claimed)
}

/// Of a plan: the snapshots that go now or later.
fn going(plan: &PrunePlan) -> Vec<&SnapshotId> {
    plan.verdicts.iter().filter(|verdict| verdict.goes_at.is_some()).map(|verdict| &verdict.snapshot).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_time_counts_wherever_the_time_of_a_snapshot_counts() {
    let vault = unscheduled(2, 3).await;
    let before = days(&vault, 2).await;
    let (wrong, claimed) = under_a_wrong_clock(&vault, YEARS).await;
    let after = days(&vault, 3).await;
    let objects = || files_below(&vault.replica_path(1));
    let there = objects();
    let of_the_wrong =
        |plan: &PrunePlan| plan.verdicts.iter().find(|verdict| verdict.snapshot == wrong).cloned().unwrap();
    let unsettled = of_the_wrong(&plan(&vault).await.unwrap());
    assert_eq!((unsettled.taken, unsettled.goes_at), (claimed, None));

    let report = false_times(&vault).await.unwrap();
    let [doubtful] = &report.doubtful[..] else { panic!("{report:?}") };
    assert_eq!((&doubtful.snapshot, doubtful.claimed), (&wrong, claimed));
    assert!(doubtful.doubt.contains("in the future") && doubtful.because.contains("between"), "{doubtful:?}");
    let time = doubtful.time;
    assert!(before[1].1 < time && time < after[0].1, "{doubtful:?}");
    assert!(report.settled.is_empty() && files_below(&vault.replica_path(1)) == there);

    let report = settled(&vault).await.unwrap();
    assert!(report.doubtful.is_empty() && report.settled.len() == 1, "{report:?}");
    assert!(there.iter().all(|object| objects().contains(object)), "something was deleted");
    assert_eq!(taken(&vault, &wrong).await, (time, Some(claimed)));
    assert_eq!(taken(&vault, &before[1].0).await, (before[1].1, None));
    // Readers find it at its time.
    for (at, expected) in [
        (time - TimeDelta::seconds(1), &before[1].0),
        (time, &wrong),
        (after[0].1 - TimeDelta::seconds(1), &wrong),
        (after[0].1, &after[0].0),
    ] {
        assert_eq!(found(&vault, Selector::At(at)).await, *expected, "{at}");
    }
    assert_eq!(found(&vault, Selector::Latest).await, after[2].0);
    // It has its place in retention, and goes by its rules; nothing else goes for it.
    let plan = plan(&vault).await.unwrap();
    assert_eq!(of_the_wrong(&plan).taken, time);
    assert_eq!(going(&plan), [&before[0].0, &before[1].0, &wrong]);
    // The replicas are as old as they are, and a backup has nothing to warn of.
    let (keys, state) = (vault.keys().unwrap(), StateDirectory::open(&vault.config.state_directory).unwrap());
    let (dataset, limits, never) = (&vault.config.datasets[0], Limits::default(), CancellationToken::new());
    let states = catch_up(dataset, &keys, &vault.replicas, &state, &limits, &never).await.unwrap();
    for replica in states {
        assert_eq!(replica.complete_since.last(), Some(&after[2].1), "{replica:?}");
        assert!(replica.complete_since.contains(&time) && replica.vouched_for.contains(&wrong), "{replica:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_snapshot_is_settled_before_there_is_another_one() {
    let vault = unscheduled(1, 2).await;
    let before = days(&vault, 2).await;
    let (wrong, _) = under_a_wrong_clock(&vault, YEARS).await;
    assert_eq!(found(&vault, Selector::Latest).await, before[1].0);
    settled(&vault).await.unwrap();
    assert_eq!(found(&vault, Selector::Latest).await, wrong);
    let (time, _) = taken(&vault, &wrong).await;
    assert!(before[1].1 <= time && time <= vault.clock.now(), "{time}");
    let next = vault.backup(&data(9)).await.unwrap();
    assert!(next.doubtful_times.is_empty() && next.warnings.is_empty(), "{next:?}");
    assert_eq!(taken(&vault, &wrong).await.0, time, "a later snapshot changes nothing");
    // Its false time comes, and it does not come back.
    vault.clock.advance(YEARS + 2 * DAY);
    assert_eq!(taken(&vault, &wrong).await.0, time);
    assert_eq!(found(&vault, Selector::At(vault.clock.now())).await, next.snapshot);
}

#[tokio::test(flavor = "multi_thread")]
async fn false_times_of_the_past_are_settled_and_sweeps_repeat_them_while_the_snapshot_stays() {
    let mut vault = unscheduled(2, 30).await;
    days(&vault, 4).await;
    let mut wrong = Vec::new();
    let ahead = 7 * DAY / 2;
    for _ in 0..3 {
        wrong.push(under_a_wrong_clock(&vault, ahead).await);
    }
    days(&vault, 4).await;
    let report = settled(&vault).await.unwrap();
    assert_eq!(report.settled.len(), 3, "{report:?}");
    let times: Vec<DateTime<Utc>> = report.settled.iter().map(|settled| settled.time).collect();
    // One was taken each day, and one time is settled for each day.
    for (at, time) in times.iter().enumerate() {
        let true_time = wrong[at].1 - TimeDelta::from_std(ahead).unwrap();
        assert!((*time - true_time).abs() < TimeDelta::hours(1), "{time}, not {true_time}");
    }
    let retention = &mut vault.config.datasets[0].retention;
    (retention.daily, retention.keep_last) = (0, 6);
    let (_, outcome) = vault.sweep().await.unwrap();
    assert_eq!((outcome.snapshots, outcome.failures.len()), (2, 0), "{outcome:?}");
    assert_eq!(found(&vault, Selector::At(times[2])).await, wrong[2].0);
    let report = false_times(&vault).await.unwrap();
    assert!(report.settled.len() == 3 && report.doubtful.is_empty(), "{report:?}");
    vault.config.datasets[0].retention.keep_last = 1;
    days(&vault, 2).await;
    vault.sweep().await.unwrap();
    let report = false_times(&vault).await.unwrap();
    assert!(report.settled.is_empty(), "{report:?}");
    let reader = vault.open(vault.owner()).await.unwrap();
    assert_eq!(reader.snapshots(&name(DATASET)).await.unwrap().len(), 1);
    assert!(reader.settled_times(&name(DATASET)).await.unwrap().is_empty(), "what is gone is still settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_is_confirmed_and_prune_goes_on() {
    let vault = unscheduled(1, 1).await;
    days(&vault, 3).await;
    vault.clock.advance(YEARS);
    let jumped = vault.backup(&data(5)).await.unwrap();
    let error = plan(&vault).await.unwrap_err();
    assert!(error.chain().contains("later than the one before it"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("lifeboat repair clock shop"), "{error:?}");
    let report = false_times(&vault).await.unwrap();
    let [doubtful] = &report.doubtful[..] else { panic!("{report:?}") };
    assert_eq!((&doubtful.snapshot, doubtful.time), (&jumped.snapshot, jumped.started));
    assert!(doubtful.doubt.contains("later than the one before"), "{doubtful:?}");
    let report = settled(&vault).await.unwrap();
    assert!(report.doubtful.is_empty() && report.settled.is_empty(), "{report:?}");
    assert_eq!(going(&plan(&vault).await.unwrap()).len(), 3);
}

/// A record of settled times that cannot be fetched may make another snapshot the newest one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_selected_while_a_record_of_settled_times_cannot_be_fetched() {
    let vault = unscheduled(2, 2).await;
    days(&vault, 2).await;
    let (wrong, _) = under_a_wrong_clock(&vault, YEARS).await;
    settled(&vault).await.unwrap();
    // A reader opens `vault.json`, then lists snapshots and prune records.
    const LISTING: u64 = 3;
    let selected = async |failing: [std::ops::Range<u64>; 2], selector: &Selector| {
        let each = vault.replicas.iter().zip(failing).map(|(replica, calls)| {
            let broken = FailingReplica::new(replica.clone());
            calls.for_each(|call| broken.fail(call, Failure::Unavailable));
            Arc::new(broken) as SharedReplica
        });
        let replicas: Vec<SharedReplica> = each.collect();
        let reader = VaultReader::open(&replicas, vault.owner(), limits(), CancellationToken::new()).await.unwrap();
        reader.select(&name(DATASET), selector, vault.clock.now()).await
    };
    let records = LISTING + 1..LISTING + 100;
    for selector in [Selector::Latest, Selector::At(vault.clock.now())] {
        let error = selected([records.clone(), records.clone()], &selector).await.unwrap_err();
        assert_eq!(error.class(), Class::Storage, "{error:?}");
        assert!(error.message().contains("may tell when snapshots were taken"), "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--snapshot")), "{error:?}");
        assert_eq!(selected([records.clone(), 0..0], &selector).await.unwrap(), wrong);
    }
    // What one of them returns is no record, and the other cannot be listed.
    let file = files_below(&vault.replica_path(1).join(layout::prunes(&name(DATASET)))).remove(0);
    std::fs::write(&file, b"garbage").unwrap();
    for selector in [Selector::Latest, Selector::At(vault.clock.now())] {
        assert_eq!(selected([0..0, LISTING..LISTING + 1], &selector).await.unwrap(), wrong);
        let error = selected([0..0, LISTING..LISTING + 100], &selector).await.unwrap_err();
        assert_eq!(error.class(), Class::Storage, "{error:?}");
    }
    // By its name, a snapshot is selected even so.
    assert_eq!(selected([0..0, records], &Selector::Id(wrong.clone())).await.unwrap(), wrong);
}

/// A vault whose replica is in memory and tells the time only when it is told to. Its own clock is
/// always right.
async fn with_a_witness() -> (TestVault, Arc<MemoryReplica>, Arc<ManualClock>) {
    let mut vault = unscheduled(1, 3).await;
    let clock = ManualClock::at(vault.clock.now());
    let replica = Arc::new(MemoryReplica::new(name("r1"), "east", clock.clone()));
    let root = vault.replica_path(1);
    for file in files_below(&root) {
        let key = file.strip_prefix(&root).unwrap().to_str().unwrap();
        replica.put_new(key, Bytes::from(std::fs::read(&file).unwrap())).await.unwrap();
    }
    vault.replicas = vec![replica.clone() as SharedReplica];
    (vault, replica, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_tells_of_when_it_stored_a_snapshot_is_the_first_witness() {
    let (vault, replica, store_clock) = with_a_witness().await;
    days(&vault, 2).await;
    let stored = vault.clock.now() + TimeDelta::hours(3);
    store_clock.set(stored);
    let (wrong, _) = under_a_wrong_clock(&vault, YEARS).await;
    days(&vault, 2).await;
    // Of a replica that does not tell the time, nothing is believed.
    for offset in [None, Some(TimeDelta::zero())] {
        replica.set_clock_offset(offset);
        let report = false_times(&vault).await.unwrap();
        let [doubtful] = &report.doubtful[..] else { panic!("{report:?}") };
        assert_eq!(&doubtful.snapshot, &wrong);
        assert_eq!(doubtful.time == stored, offset.is_some(), "{doubtful:?}");
        assert_eq!(doubtful.because.contains("replica r1 stored it then"), offset.is_some(), "{doubtful:?}");
    }
    replica.set_clock_offset(Some(TimeDelta::hours(1)));
    let error = false_times(&vault).await.unwrap_err();
    assert!(error.class() == Class::Configuration && error.message().contains("clock differs"), "{error:?}");
    replica.set_clock_offset(Some(TimeDelta::zero()));
    settled(&vault).await.unwrap();
    assert_eq!(taken(&vault, &wrong).await.0, stored);
}

/// Two snapshots with the same number say nothing, whether all manifests are read or few.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_few_manifests_judges_a_settled_time_as_one_of_all() {
    for after_the_wrong in [true, false] {
        let vault = unscheduled(1, 2).await;
        let before = days(&vault, 3).await;
        let (wrong, claimed) = under_a_wrong_clock(&vault, YEARS).await;
        let after = days(&vault, 2).await;
        // Beside its nearest neighbour, another host has made one.
        let (twin, beside) = if after_the_wrong { (&after[0], &wrong) } else { (&before[2], &before[1].0) };
        let hand = Hand::of(&vault.config, &vault.master);
        let mut branch = hand.successor(beside, 1);
        branch.snapshot = SnapshotId::new(twin.0.time(), 7);
        (branch.started, branch.finished) = (twin.1, twin.1);
        assert_eq!(branch.sequence, hand.manifest(&twin.0).sequence);
        hand.put_manifest(&branch);
        // It would contradict this time.
        let hour = TimeDelta::hours(1);
        let time = if after_the_wrong { twin.1 + hour } else { twin.1 - hour };
        settle_by_hand(&vault, &hand.keys.signer, &[(&wrong, time)], vault.clock.now());
        let reader = vault.open(vault.owner()).await.unwrap();
        let mut claims = Vec::new();
        for listed in reader.snapshots(&name(DATASET)).await.unwrap() {
            claims.push((&reader.manifest(&name(DATASET), &listed.snapshot).await.unwrap()).into());
        }
        let of_all = reader.settled_times(&name(DATASET)).await.unwrap().among(claims).of(&wrong, claimed);
        assert_eq!((of_all.time, of_all.claimed), (time, Some(claimed)), "{after_the_wrong}");
        assert_eq!(taken(&vault, &wrong).await, (time, Some(claimed)), "{after_the_wrong}");
    }
}

/// Writes a prune record that settles these times, as whoever has `signer`.
fn settle_by_hand(vault: &TestVault, signer: &Signer, times: &[(&SnapshotId, DateTime<Utc>)], settled: DateTime<Utc>) {
    let hand = Hand::of(&vault.config, &vault.master);
    let id = SnapshotId::new(vault.clock.now() + TimeDelta::seconds(30), 7);
    let mut times: Vec<(&SnapshotId, DateTime<Utc>)> = times.to_vec();
    times.sort();
    let entry = |(snapshot, time): (&SnapshotId, DateTime<Utc>)| -> Value {
        let of = |time: DateTime<Utc>| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        json!({ "snapshot": snapshot, "time": of(time), "settled": of(settled.max(time)) })
    };
    let times: Vec<Value> = times.into_iter().map(entry).collect();
    let body = json!({ "removed": [], "times": times });
    let record = hand.record(RecordType::Prune, &name("db1"), &id, &body);
    hand.put_signed(signer, &layout::prune(&name(DATASET), &id), record.to_string().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_settles_counts_for_nothing() {
    let vault = unscheduled(2, 2).await;
    let before = days(&vault, 2).await;
    let (wrong, claimed) = under_a_wrong_clock(&vault, YEARS).await;
    days(&vault, 2).await;
    let stranger = TestVault::new(1, 1).await.keys().unwrap().signer;
    let time = before[1].1 + TimeDelta::hours(1);
    settle_by_hand(&vault, &stranger, &[(&wrong, time)], vault.clock.now());
    assert_eq!(taken(&vault, &wrong).await, (claimed, None));
    assert_eq!(found(&vault, Selector::At(time)).await, before[1].0);
    let report = false_times(&vault).await.unwrap();
    assert!(report.settled.is_empty() && report.doubtful.len() == 1, "{report:?}");
    // The operator's word counts even so.
    settled(&vault).await.unwrap();
    assert!(taken(&vault, &wrong).await.1.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thief_of_the_host_who_settles_times_lets_nothing_go_that_manifests_keep() {
    let mut vault = unscheduled(2, 30).await;
    let made = days(&vault, 8).await;
    let dataset = &mut vault.config.datasets[0];
    (dataset.retention.daily, dataset.schedule) = (5, Schedule::parse("@daily", Tz::UTC, Duration::ZERO).ok());
    let without = plan(&vault).await.unwrap();
    let signer = vault.keys().unwrap().signer;
    let snapshots: Vec<&SnapshotId> = made.iter().map(|(snapshot, _)| snapshot).collect();
    let (first, last) = (made[0].1, made[7].1);
    let mut plans = 0;
    // All in one hour, long ago, or in the middle; all of them, or all but some; with a false time
    // of when it was settled.
    for hour in [first - TimeDelta::days(9000), first + TimeDelta::minutes(1), last, first + TimeDelta::days(3)] {
        for skipped in [&[][..], &[0], &[7], &[0, 7], &[3]] {
            for settled in [vault.clock.now(), hour] {
                let moved = snapshots.iter().enumerate().filter(|(at, _)| !skipped.contains(at));
                let moved: Vec<(&SnapshotId, DateTime<Utc>)> = moved.map(|(_, snapshot)| (*snapshot, hour)).collect();
                settle_by_hand(&vault, &signer, &moved, settled);
                // A time that is long ago stops prune: that may be a wrong clock.
                let Ok(with) = plan(&vault).await else { continue };
                plans += 1;
                let gone = going(&with);
                assert!(gone.iter().all(|snapshot| going(&without).contains(snapshot)), "{hour} {skipped:?}: {with:?}");
            }
        }
    }
    assert!(plans > 20, "{plans}");
    // He adds a snapshot with a time long ago, so that all others contradict it.
    let hand = Hand::of(&vault.config, &vault.master);
    let mut forged = hand.successor(snapshots[7], 1);
    forged.started = first - TimeDelta::hours(1);
    forged.finished = forged.started;
    hand.put_manifest(&forged);
    let all: Vec<(&SnapshotId, DateTime<Utc>)> = snapshots.iter().map(|snapshot| (*snapshot, forged.started)).collect();
    settle_by_hand(&vault, &signer, &all, vault.clock.now());
    let with = plan(&vault).await.unwrap();
    assert!(!going(&without).is_empty());
    assert!(going(&with).iter().all(|snapshot| going(&without).contains(snapshot)), "{with:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_settled_while_a_replica_is_away_or_the_snapshots_have_changed() {
    let vault = unscheduled(2, 2).await;
    days(&vault, 2).await;
    under_a_wrong_clock(&vault, YEARS).await;
    let report = false_times(&vault).await.unwrap();
    days(&vault, 1).await;
    let another = under_a_wrong_clock(&vault, YEARS).await;
    let error = vault.with_prune(async |prune| prune.settle_times(&report).await).await.unwrap_err();
    assert!(error.chain().contains("changed meanwhile"), "{error:?}");
    let away = vault.replica_path(2).with_file_name("away");
    std::fs::rename(vault.replica_path(2), &away).unwrap();
    let report = false_times(&vault).await.unwrap();
    assert!(!report.doubts.is_empty() && report.doubtful.len() == 2, "{report:?}");
    let error = settled(&vault).await.unwrap_err();
    assert!(error.chain().contains("no time of dataset shop is settled"), "{error:?}");
    assert!(taken(&vault, &another.0).await.1.is_none());
    std::fs::rename(&away, vault.replica_path(2)).unwrap();
    assert_eq!(settled(&vault).await.unwrap().settled.len(), 2);
}
