//! Locks: what is extended, when, and what is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Datelike, Utc};
use lifeboat_engine::clock::{Clock, SystemClock};
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind, Retention};
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::locks::{self, LockStanding};
use lifeboat_engine::keep::prune::PrunePlan;
use lifeboat_engine::store::{
    FailingReplica, Failure, Lock, LockMode, MemoryReplica, Replica, S3Config, S3Credentials, SharedReplica,
};
use lifeboat_tests::s3::{Bucket, Region};
use lifeboat_tests::vault::{MemorySource, TestVault, name, noise};

const DAY: Duration = Duration::from_secs(86_400);

fn hour(mode: LockMode) -> Lock {
    let period = Duration::from_secs(3600);
    Lock { mode, period, at_most: period }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_extended_at_half_of_their_time_in_a_real_bucket() {
    let region = Region::start_with("far", Bucket::Locked).await;
    let mut vault = TestVault::new(1, 1).await;
    let mut config = region.replica_config("r1");
    let ReplicaKind::S3(s3) = &mut config.kind else { unreachable!() };
    s3.lock = Some(hour(LockMode::Compliance));
    let clock = SystemClock::shared();
    let replica = lifeboat_engine::store::open(&config, "vault", &clock).await.unwrap();
    for object in vault.replicas[0].list("").await.unwrap() {
        let body = vault.replicas[0].get(&object.key, 1 << 20).await.unwrap();
        replica.put_new(&object.key, body).await.unwrap();
    }
    vault.replicas = vec![replica.clone()];
    vault.config.replicas = vec![config.clone()];
    vault.backup(&MemorySource::of(noise(1 << 20, 1))).await.unwrap();
    let pack = replica.list("datasets/shop/packs/").await.unwrap()[0].key.clone();
    let first = replica.locked_until(&pack).await.unwrap().unwrap();
    let are_set = |vault: &TestVault| locks::are_set(&vault.config, vault.clock.now()).get(&name("r1")).copied();
    assert_eq!(are_set(&vault), Some(false), "nothing was locked yet");
    let locked = extend(&vault, 1000).await.unwrap();
    assert_eq!(are_set(&vault), Some(true));
    assert!(locked.extended > 5 && !locked.is_late(vault.clock.now()), "{locked:?}");
    let second = replica.locked_until(&pack).await.unwrap().unwrap();
    assert!(second + chrono::TimeDelta::seconds(60) > first, "{first} {second}");
    assert_eq!(extend(&vault, 1000).await.unwrap().extended, locked.extended, "it is not due");
    // A host that only stands by does not know.
    let status = vault.config.state_directory.join("datasets/shop/status.json");
    std::fs::write(&status, r#"{"led_by":"db2"}"#).unwrap();
    assert_eq!(are_set(&vault), None);
    std::fs::remove_file(status).unwrap();
    vault.clock.advance(Duration::from_secs(1801));
    assert!(extend(&vault, 1000).await.unwrap().extended > locked.extended);
    let third = replica.locked_until(&pack).await.unwrap().unwrap();
    assert!(third > second + chrono::TimeDelta::minutes(29), "{second} {third}");
    // A store refuses a weaker mode: the object keeps its own.
    let ReplicaKind::S3(s3) = &mut config.kind else { unreachable!() };
    s3.lock = Some(hour(LockMode::Governance));
    let weaker = lifeboat_engine::store::open(&config, "vault", &clock).await.unwrap();
    let later = third + chrono::TimeDelta::minutes(5);
    weaker.lock_until(&pack, later).await.unwrap();
    assert!(weaker.locked_until(&pack).await.unwrap().unwrap() > third);
    vault.replicas = vec![weaker];
    let before = vault.clock.now();
    assert_eq!(standing(&vault).await.last, None, "another mode begins anew");
    vault.clock.advance(Duration::from_secs(3601));
    assert_eq!(are_set(&vault), Some(false), "the locks have ended");
    vault.clock.set(before);
    assert_eq!(are_set(&vault), Some(true));
    vault.config.replicas = vec![config];
    assert_eq!(are_set(&vault), Some(false), "another mode");
}

/// Each snapshot is kept for forty days. So the store holds it for as long, and all that opens it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_long_is_locked_for_long_in_a_real_bucket() {
    let region = Region::start_with("far", Bucket::Locked).await;
    let mut vault = TestVault::new(1, 1).await;
    let mut config = region.replica_config("r1");
    let clock = SystemClock::shared();
    let open = async |config: &mut ReplicaConfig, at_most: Duration| {
        let ReplicaKind::S3(s3) = &mut config.kind else { unreachable!() };
        s3.lock = Some(Lock { at_most, ..hour(LockMode::Compliance) });
        lifeboat_engine::store::open(config, "vault", &clock).await.unwrap()
    };
    let replica = open(&mut config, 100 * DAY).await;
    for object in vault.replicas[0].list("").await.unwrap() {
        let body = vault.replicas[0].get(&object.key, 1 << 20).await.unwrap();
        replica.put_new(&object.key, body).await.unwrap();
    }
    vault.replicas = vec![replica.clone()];
    vault.config.replicas = vec![config.clone()];
    vault.config.datasets[0].retention = Retention { within: Some(40 * DAY), ..Retention::default() };
    vault.backup(&MemorySource::of(noise(1 << 20, 1))).await.unwrap();
    let began = vault.clock.now();
    extend(&vault, 1000).await.unwrap();
    let days_left = async |replica: &SharedReplica| {
        let mut left = BTreeMap::new();
        for object in replica.list("").await.unwrap() {
            let until = replica.locked_until(&object.key).await.unwrap().unwrap();
            left.insert(object.key, (until - began + chrono::TimeDelta::minutes(5)).num_days());
        }
        left
    };
    let left = days_left(&replica).await;
    let is_long = |key: &str| {
        ["/packs/", "/snapshots/", "/index/", "keyring/", "vault.json"].iter().any(|part| key.contains(part))
    };
    for (key, days) in &left {
        assert_eq!(*days, if is_long(key) { 40 } else { 0 }, "{key}");
    }
    let (long, all) = (left.keys().filter(|key| is_long(key)).count(), left.len());
    assert!(long >= 8 && long < all, "{left:?}");
    // Not even the bucket's owner ends it, not with another configuration either.
    let pack = left.keys().find(|key| key.contains("/packs/")).unwrap();
    let (client, full) = (region.client(), format!("vault/{pack}"));
    let versions = client.list_object_versions().bucket(region.bucket()).prefix(&full).send().await.unwrap();
    let version = versions.versions()[0].version_id().unwrap();
    let removed = client.delete_object().bucket(region.bucket()).key(&full).version_id(version).send().await;
    assert!(removed.is_err(), "{removed:?}");
    let replica = open(&mut config, Duration::from_secs(3600)).await;
    vault.replicas = vec![replica.clone()];
    assert_eq!(standing(&vault).await.last, None, "another bound begins anew");
    extend(&vault, 1000).await.unwrap();
    assert_eq!(days_left(&replica).await, left);
}

/// A vault of one replica, in which everything is locked.
async fn locking(period: Duration, at_most: Duration) -> (TestVault, Arc<MemoryReplica>) {
    let mut vault = TestVault::new(1, 1).await;
    let lock = Lock { mode: LockMode::Compliance, period, at_most: at_most.max(period) };
    let memory = MemoryReplica::new(name("r1"), "east", vault.clock.clone()).with_lock(lock);
    for object in vault.replicas[0].list("").await.unwrap() {
        let body = vault.replicas[0].get(&object.key, 1 << 20).await.unwrap();
        memory.put_new(&object.key, body).await.unwrap();
    }
    let replica = Arc::new(memory);
    vault.replicas = vec![replica.clone()];
    (vault, replica)
}

async fn extend(vault: &TestVault, most_refused: u64) -> lifeboat_engine::Result<LockStanding> {
    let standings = vault.with_prune(async |prune| locks::extend(prune, most_refused).await).await?;
    Ok(standings[&name("r1")].clone())
}

async fn standing(vault: &TestVault) -> LockStanding {
    vault.with_prune(async |prune| locks::standings(prune)).await.unwrap()[&name("r1")].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_many_that_cannot_be_locked_the_next_turn_goes_on_behind_them() {
    let period = DAY;
    let (vault, replica) = locking(period, period).await;
    vault.backup(&MemorySource::of(noise(1 << 20, 1))).await.unwrap();
    vault.clock.advance(period / 2);
    replica.refuse_locks_below(Some("datasets/shop/"));
    let is_locked = async |key: &str| replica.locked_until(key).await.unwrap() == Some(vault.clock.now() + period);
    let mut turns = 0;
    while !is_locked(layout::VAULT).await {
        let failed = extend(&vault, 1).await.unwrap_err();
        assert!(failed.chain().contains("could not be locked") || failed.chain().contains("refused"), "{failed}");
        turns += 1;
        assert!(turns < 100, "no turn goes on");
    }
    assert!(turns > 3 && standing(&vault).await.last.is_none(), "{turns}");
    replica.refuse_locks_below(None);
    assert!(extend(&vault, 1).await.unwrap().last.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_over_an_emptied_bucket_does_not_count() {
    let period = DAY;
    let (vault, replica) = locking(period, period).await;
    vault.backup(&MemorySource::of(noise(1 << 20, 1))).await.unwrap();
    assert!(extend(&vault, 1000).await.unwrap().last.is_some());
    for lost in [layout::VAULT, "datasets/shop/snapshots/", "datasets/shop/order/"] {
        vault.clock.advance(period / 2);
        let last = standing(&vault).await.last;
        let mut hidden = Vec::new();
        for object in replica.list(lost).await.unwrap() {
            hidden.push((object.key.clone(), replica.get(&object.key, 1 << 20).await.unwrap()));
            replica.delete(&object.key).await.unwrap();
        }
        let failed = extend(&vault, 1000).await.unwrap_err();
        assert!(failed.chain().contains("do not count"), "{lost}: {failed}");
        assert_eq!(standing(&vault).await.last, last, "{lost}");
        for (key, body) in hidden {
            replica.put_new(&key, body).await.unwrap();
        }
        assert!(extend(&vault, 1000).await.unwrap().last > last, "{lost}");
    }
    // What undelete brought back is locked at once.
    locks::begin_anew(&vault.config).unwrap();
    assert_eq!(standing(&vault).await.last, None);
    assert!(extend(&vault, 1000).await.unwrap().last.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_that_cannot_be_locked_stops_no_round_and_the_round_does_not_count() {
    let period = DAY;
    let (vault, replica) = locking(period, period).await;
    vault.backup(&MemorySource::of(noise(1 << 20, 1))).await.unwrap();
    let keyring = replica.list("keyring/").await.unwrap().pop().unwrap().key;
    vault.clock.advance(period / 2);
    replica.refuse_locks_below(Some(&keyring));
    let failed = extend(&vault, 1000).await.unwrap_err();
    assert!(failed.chain().contains(&keyring), "{failed}");
    let end = vault.clock.now() + chrono::TimeDelta::days(1);
    for object in replica.list("").await.unwrap().iter().filter(|object| object.key != keyring) {
        assert_eq!(replica.locked_until(&object.key).await.unwrap(), Some(end), "{}", object.key);
    }
    let late = standing(&vault).await;
    assert_eq!((late.last, late.is_late(vault.clock.now())), (None, true));
    replica.refuse_locks_below(None);
    assert!(extend(&vault, 1000).await.unwrap().last.is_some());
}

/// Of four snapshots around a new year, the rules keep that of the old one for a year, and the
/// others for two days.
#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_extends_locks_what_retention_keeps_for_a_year_stays_locked() {
    let (mut vault, replica) = locking(32 * DAY, 400 * DAY).await;
    vault.config.datasets[0].retention = Retention { daily: 2, yearly: 2, ..Retention::default() };
    let year = vault.clock.now().year() + 1;
    let day = |year: i32, day: &str| format!("{year}-{day}T00:00:00Z").parse::<DateTime<Utc>>().unwrap();
    vault.clock.set(day(year, "12-30"));
    for seed in 0..4 {
        vault.backup(&MemorySource::of([noise(1 << 20, 9), noise(1 << 18, seed)].concat())).await.unwrap();
        vault.clock.advance(DAY);
    }
    extend(&vault, 1000).await.unwrap();
    let (short, long) = (vault.clock.now() + 32 * DAY, day(year + 2, "01-01"));
    assert!(long > short + 300 * DAY && long < short + 350 * DAY, "{short} {long}");
    let (shop, reader) = (name("shop"), vault.open(vault.owner()).await.unwrap());
    let listed = reader.snapshots(&shop).await.unwrap();
    let until = async |key: String| replica.locked_until(&key).await.unwrap().unwrap();
    // Those that go are not extended: each was locked at its upload.
    let ends = [None, Some(long), Some(short), Some(short)];
    let mut all = BTreeSet::new();
    for (listed, end) in listed.iter().zip(ends) {
        let manifest = reader.manifest(&shop, &listed.snapshot).await.unwrap();
        let mut packs: Vec<String> = manifest.packs.iter().map(|pack| layout::pack(&shop, &pack.id)).collect();
        packs.retain(|pack| all.insert(pack.clone()));
        for key in
            [layout::manifest(&shop, &listed.snapshot), layout::signature(&layout::manifest(&shop, &listed.snapshot))]
        {
            let found = until(key.clone()).await;
            assert!(end.map_or(found < short, |end| found == end), "{key}: {found}");
        }
        assert!(!packs.is_empty());
        for pack in packs {
            // What the first one wrote is needed by the second one, too.
            assert_eq!(until(pack).await, end.unwrap_or(long));
        }
    }
    let keyring = replica.list("keyring/").await.unwrap();
    assert!(!keyring.is_empty());
    for key in keyring.into_iter().map(|object| object.key).chain([layout::VAULT.to_owned()]) {
        assert_eq!(until(key.clone()).await, long, "{key}");
    }
    assert_eq!(until(layout::act(&shop, 1)).await, short);
    // A thief stops the daemon for forty days.
    vault.clock.advance(40 * DAY);
    let now = vault.clock.now();
    let mut ended = Vec::new();
    for listed in &listed {
        ended.push(until(layout::manifest(&shop, &listed.snapshot)).await <= now);
    }
    assert_eq!(ended, [true, false, true, true]);
    // He deletes what he can. The rest is enough for whoever has the master identity.
    let (mut deleted, mut left) = (0, 0);
    for object in replica.list("").await.unwrap() {
        if until(object.key.clone()).await <= now {
            replica.delete(&object.key).await.unwrap();
            deleted += 1;
        } else {
            left += 1;
        }
    }
    assert!(deleted > 10 && left > 5, "{deleted} deleted, {left} left");
    assert!(replica.list(&layout::order(&shop)).await.unwrap().is_empty());
    let restored = vault.restore(&listed[1].snapshot).await.unwrap();
    let expected = [noise(1 << 20, 9), noise(1 << 18, 1)].concat();
    assert!(restored.len() == 1 && restored.values().all(|content| *content == expected), "it was not restored");
}

/// The store contradicts the host's clock, so prune is stopped, and nobody knows what is kept for
/// how long.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_in_doubt_locks_for_the_period_and_does_not_count_for_longer_locks() {
    let (mut vault, replica) = locking(30 * DAY, 365 * DAY).await;
    vault.config.datasets[0].retention = Retention { within: Some(200 * DAY), ..Retention::default() };
    vault.config.replicas[0].kind = ReplicaKind::S3(S3Config {
        bucket: "b".to_owned(),
        endpoint: None,
        path_style: true,
        ca_file: None,
        storage_class: None,
        lock: replica.lock(),
        credentials: S3Credentials::Default,
    });
    vault.backup(&MemorySource::of(noise(1 << 18, 1))).await.unwrap();
    let pack = replica.list("datasets/shop/packs/").await.unwrap()[0].key.clone();
    vault.clock.advance(DAY);
    let (now, until) = (vault.clock.now(), async || replica.locked_until(&pack).await.unwrap().unwrap());
    let are_set = |vault: &TestVault| locks::are_set(&vault.config, vault.clock.now()).get(&name("r1")).copied();
    replica.set_clock_offset(Some(chrono::TimeDelta::days(20)));
    let doubted = extend(&vault, 1000).await.unwrap();
    // All is locked for the period, and nothing is for longer.
    assert_eq!(until().await, now + 30 * DAY);
    assert_eq!((doubted.last, doubted.since()), (Some(now), None), "{doubted:?}");
    assert!(doubted.is_late(now) && are_set(&vault) == Some(false));
    assert_eq!(extend(&vault, 1000).await.unwrap().extended, doubted.extended, "in doubt, it is not due");
    replica.set_clock_offset(Some(chrono::TimeDelta::zero()));
    let known = extend(&vault, 1000).await.unwrap();
    assert!(known.extended > doubted.extended && !known.is_late(now), "{known:?}");
    assert_eq!((known.since(), are_set(&vault)), (Some(now), Some(true)));
    assert!(until().await > now + 190 * DAY, "{}", until().await);
    // Where doubt lasts, the longer locks are late, though all is locked for the period.
    replica.set_clock_offset(Some(chrono::TimeDelta::days(20)));
    vault.clock.advance(17 * DAY);
    let later = extend(&vault, 1000).await.unwrap();
    assert_eq!((later.last, later.since()), (Some(vault.clock.now()), Some(now)));
    assert!(later.is_late(vault.clock.now()));
}

/// The policy of the credentials still says what it said before `lock_at_most` was set.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_policy_forbids_longer_locks_all_is_locked_for_the_period_and_the_bound_is_named() {
    let (mut vault, replica) = locking(30 * DAY, 365 * DAY).await;
    vault.config.datasets[0].retention = Retention { within: Some(200 * DAY), ..Retention::default() };
    vault.backup(&MemorySource::of(noise(1 << 18, 1))).await.unwrap();
    vault.clock.advance(DAY);
    replica.refuse_locks_longer_than(Some(31 * DAY));
    let failed = extend(&vault, 1000).await.unwrap_err();
    assert!(failed.chain().contains("days, and is for `lock` alone"), "{}", failed.chain());
    let hint = failed.hint_text().unwrap();
    assert!(hint.contains("write 366 days or more for `s3:object-lock-remaining-retention-days`"), "{hint}");
    let end = vault.clock.now() + 30 * DAY;
    for object in replica.list("").await.unwrap() {
        assert_eq!(replica.locked_until(&object.key).await.unwrap(), Some(end), "{}", object.key);
    }
    assert_eq!(standing(&vault).await.last, None, "it does not count");
    replica.refuse_locks_longer_than(None);
    assert!(extend(&vault, 1000).await.unwrap().since().is_some());
}

/// Whatever a kept snapshot needs is locked at any time, and what is not needed ends. Nothing waits
/// for a longer lock than that of its upload: what is locked for longer, the rules keep.
#[tokio::test(flavor = "multi_thread")]
async fn over_three_months_nothing_that_is_needed_outlives_its_lock() {
    nothing_outlives_its_lock(32 * DAY).await;
    nothing_outlives_its_lock(400 * DAY).await;
}

async fn nothing_outlives_its_lock(at_most: Duration) {
    let (mut vault, replica) = locking(32 * DAY, at_most).await;
    vault.config.datasets[0].retention = Retention { daily: 2, monthly: 2, ..vault.config.datasets[0].retention };
    let (shop, mut waited, mut swept) = (name("shop"), 0, 0);
    for round in 0..24 {
        vault.backup(&MemorySource::of([noise(40_000, 0), noise(20_000, round)].concat())).await.unwrap();
        let (plan, outcome) = vault.prune().await.unwrap();
        waited += plan.locked.len();
        let longest = plan.made + 32 * DAY;
        assert!(plan.locked.values().all(|until| *until <= longest), "{round}: {:?}", plan.locked);
        swept += outcome.packs;
        extend(&vault, 1000).await.unwrap();
        // The next look comes no sooner.
        vault.clock.advance(4 * DAY);
        let (now, reader) = (vault.clock.now(), vault.open(vault.owner()).await.unwrap());
        for kept in plan.verdicts.iter().filter(|verdict| verdict.goes_at.is_none()) {
            let manifest = reader.manifest(&shop, &kept.snapshot).await.unwrap();
            let packs = manifest.packs.iter().map(|pack| layout::pack(&shop, &pack.id));
            for key in packs.chain([layout::manifest(&shop, &kept.snapshot)]) {
                let until = replica.locked_until(&key).await.unwrap();
                assert!(until.is_some_and(|until| until > now), "{round}: {key} is locked until {until:?}");
            }
        }
    }
    assert!(waited > 0 && swept > 0, "waited {waited}, swept {swept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_tell_its_locks_is_left_alone_and_the_others_are_pruned() {
    let mut vault = TestVault::new(2, 1).await;
    vault.config.datasets[0].retention = Retention { keep_last: 1, grace: Duration::ZERO, ..Retention::default() };
    let period = Duration::from_secs(60);
    let lock = Lock { mode: LockMode::Compliance, period, at_most: period };
    let memory = MemoryReplica::new(name("r2"), "west", vault.clock.clone()).with_lock(lock);
    for object in vault.replicas[1].list("").await.unwrap() {
        let body = vault.replicas[1].get(&object.key, 1 << 20).await.unwrap();
        memory.put_new(&object.key, body).await.unwrap();
    }
    let failing = std::sync::Arc::new(FailingReplica::new(std::sync::Arc::new(memory)));
    vault.replicas[1] = failing.clone();
    for seed in 0..2 {
        vault.backup(&MemorySource::of(noise(200_000, seed))).await.unwrap();
    }
    vault.prune().await.unwrap();
    vault.clock.advance(Duration::from_secs(61));
    let plan = async || vault.with_prune(async |prune| prune.plan().await).await;
    let begin = failing.calls();
    let whole = plan().await.unwrap();
    let calls = failing.calls() - begin;
    let of = |plan: &PrunePlan, replica| plan.packs.iter().filter(|pack| pack.replica == name(replica)).count();
    assert!(of(&whole, "r1") > 0 && of(&whole, "r2") > 0 && whole.skipped.is_empty(), "{whole:?}");
    let mut left_alone = None;
    for call in 1..=calls {
        failing.fail(failing.calls() + call, Failure::Denied);
        let Ok(plan) = plan().await else { continue };
        if plan.skipped.iter().any(|(replica, why)| *replica == name("r2") && why.contains("look up the lock of")) {
            assert_eq!((of(&plan, "r1"), of(&plan, "r2")), (of(&whole, "r1"), 0), "{plan:?}");
            left_alone.get_or_insert(plan);
        }
    }
    let left_alone = left_alone.expect("no look-up failed");
    let outcome = vault.with_prune(async |prune| prune.execute(&left_alone).await).await.unwrap();
    assert!(outcome.failures.len() == 1 && outcome.failures[0].contains("r2 is left alone"), "{outcome:?}");
    assert_eq!(outcome.packs, of(&whole, "r1") as u64);
    let (_, outcome) = vault.prune().await.unwrap();
    assert_eq!(outcome.packs, of(&whole, "r2") as u64, "{outcome:?}");
    assert!(outcome.failures.is_empty(), "{outcome:?}");
}
