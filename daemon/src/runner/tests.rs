#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::clock::{ManualClock, SystemClock};
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::format::layout;
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::store::{ObjectMeta, Page, Probe, Replica, ReplicaError, ReplicaErrorKind, SharedReplica};

use super::*;
use crate::sample;
use crate::turn::check_stores;

/// What happens to a run once its commit is about to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is cancelled, and the replica takes long.
    Cancelled,
    /// Whoever looks at the vault after it crashes.
    Crash,
    /// It crashes itself, after its act.
    CrashItself,
    /// Nothing is marked any more: the replicas take no acts but its own.
    NoMoreActs,
    /// The replica lets two hosts overwrite each other's objects, and a probe shows it.
    Careless,
}

#[derive(Debug)]
struct Troubled {
    inner: SharedReplica,
    then: Then,
    cancel: CancellationToken,
    decides: AtomicBool,
}

#[async_trait]
impl Replica for Troubled {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn region(&self) -> &str {
        self.inner.region()
    }

    async fn put_new(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        if key.contains("/order/") {
            let decided = self.decides.swap(true, Ordering::SeqCst);
            if decided && self.then == Then::NoMoreActs {
                let (replica, key) = (self.name().clone(), key.to_owned());
                let kind = ReplicaErrorKind::Denied("as planned".to_owned());
                return Err(ReplicaError { replica, operation: "put", key, kind });
            }
            if self.then == Then::Cancelled {
                self.cancel.cancel();
                tokio::time::sleep(4 * OBEY).await;
            }
        }
        let signs = key.contains("/snapshots/") && layout::is_signature(key);
        assert!(!(signs && self.then == Then::CrashItself), "as planned");
        self.inner.put_new(key, body).await
    }

    async fn put_replace(&self, key: &str, body: Bytes) -> Result<(), ReplicaError> {
        self.inner.put_replace(key, body).await
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ReplicaError> {
        let crashes = self.then == Then::Crash && key == layout::VAULT && self.decides.load(Ordering::SeqCst);
        assert!(!crashes, "as planned");
        self.inner.get(key, limit).await
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
        let probe = self.inner.probe(write).await?;
        let kept = probe.conditional_writes.filter(|_| self.then != Then::Careless);
        Ok(Probe { conditional_writes: kept.or(Some(false)), ..probe })
    }
}

/// A runner of dataset `shop` and its installation, below `place`.
async fn prepared(place: &Path, keep_last: u32) -> (Runner, Installation) {
    let clock = SystemClock::shared();
    for replica in ["frankfurt", "ireland"] {
        std::fs::create_dir(place.join(replica)).unwrap();
    }
    let retention = format!("retention = {{ keep_last = {keep_last} }}");
    let text = sample::text(place, sample::KEY, &[("shop", &retention)]);
    let config = Config::parse(&text, &place.join("lifeboat.toml"), &Surroundings::default()).unwrap();
    let replicas = config.open_replicas(&clock).await.unwrap();
    init(&config, &replicas, &InitOptions::default(), &clock).await.unwrap();
    let state = StateDirectory::open(&config.state_directory).unwrap();
    let ledger = Arc::new(Ledger::open(&state, [&config.datasets[0].name]));
    let installation = Installation::open(config, &clock).await.unwrap();
    let tools = lifeboat_engine::databases::registry::tool_environment(|name| std::env::var_os(name));
    let budget = RunBudget::new(&installation.config.limits);
    (Runner { state, ledger, clock, tools, budget, prunes: one_prune() }, installation)
}

/// Runs once, and returns what is remembered of it, too.
async fn run(then: Then) -> (Result<RunReport>, crate::status::DatasetStatus) {
    let place = tempfile::tempdir().unwrap();
    let (runner, mut installation) = prepared(place.path(), if then == Then::NoMoreActs { 1 } else { 9 }).await;
    let shop: Name = "shop".parse().unwrap();
    let cancel = CancellationToken::new();
    let stop = Stop::from(cancel.clone());
    let lock = async || (Start::Asked, runner.state.lock_dataset(&shop).await.unwrap());
    if then == Then::NoMoreActs {
        // Of two snapshots, one is to be marked.
        runner.run(&installation, &shop, lock().await, None, &Arc::default(), &stop).await.unwrap();
    }
    let slow = |inner: &SharedReplica| -> SharedReplica {
        Arc::new(Troubled { inner: inner.clone(), then, cancel: cancel.clone(), decides: AtomicBool::default() })
    };
    installation.replicas = installation.replicas.iter().map(slow).collect();
    let report = runner.run(&installation, &shop, lock().await, None, &Arc::default(), &stop).await;
    assert_eq!(cancel.is_cancelled(), then == Then::Cancelled);
    (report, runner.ledger.get(&shop))
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_looked_at_after_a_run_unless_it_saw_them_level() {
    let place = tempfile::tempdir().unwrap();
    let (runner, installation) = prepared(place.path(), 9).await;
    let (shop, stop): (Name, _) = ("shop".parse().unwrap(), Stop::from(CancellationToken::new()));
    let needs_catch_up = async || {
        let start = (Start::Asked, runner.state.lock_dataset(&shop).await.unwrap());
        let report = runner.run(&installation, &shop, start, None, &Arc::default(), &stop).await.unwrap();
        runner.needs_catch_up(&report.backup)
    };
    let caught_up = async || runner.catch_up(&installation, &shop, &stop.token).await.unwrap();
    assert!(!needs_catch_up().await, "the first run has seen all that there is");
    assert!(!needs_catch_up().await, "the replicas were level a moment ago");
    let packs = place.path().join("ireland").join(layout::dataset(&shop)).join("packs");
    std::fs::remove_dir_all(packs).unwrap();
    assert!(needs_catch_up().await, "a replica lacks packs");
    caught_up().await;
    assert!(!needs_catch_up().await);
    // What does not answer is not known to lack what it held.
    let (ireland, away) = (place.path().join("ireland"), place.path().join("away"));
    std::fs::rename(&ireland, &away).unwrap();
    caught_up().await;
    let standings = runner.ledger.get(&shop).replicas;
    assert!(standings.len() == 2 && standings.values().all(|standing| standing.behind == 0), "{standings:?}");
    std::fs::rename(&away, &ireland).unwrap();
    caught_up().await;
    let long_ago = runner.clock.now() - chrono::TimeDelta::days(2);
    while !runner.remember(&shop, |status| status.level_at = Some(long_ago)) {}
    assert!(needs_catch_up().await, "nobody has looked for two days");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_has_begun_is_finished_though_the_run_is_cancelled() {
    let (report, status) = run(Then::Cancelled).await;
    let report = report.unwrap();
    assert!(report.backup.replicas.iter().all(|replica| replica.complete), "{report:?}");
    assert_eq!((status.successes, status.failures), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_crashes_is_told_and_the_run_has_succeeded() {
    let (report, status) = run(Then::Crash).await;
    let report = report.unwrap();
    assert!(report.backup.warnings.iter().any(|warning| warning.contains("crashed")), "{report:?}");
    assert_eq!(report.stopped().unwrap().class(), Class::Failed);
    assert_eq!((status.successes, status.failures), (1, 0));
    assert!(status.deletion_stopped.unwrap().contains("the prune of shop crashed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_backup_that_crashes_after_its_act_nobody_knows_whether_it_was_committed() {
    let (report, status) = run(Then::CrashItself).await;
    let error = report.unwrap_err();
    assert_eq!(error.class(), Class::Unknown, "{error:?}");
    assert!(error.hint_text().unwrap().contains("lifeboat list shop"), "{error:?}");
    assert_eq!((status.successes, status.failures, status.unknown), (0, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_whose_marks_are_refused_in_every_replica_counts_as_stopped() {
    let (report, status) = run(Then::NoMoreActs).await;
    let report = report.unwrap();
    assert_eq!(report.stopped().unwrap().class(), Class::Storage);
    assert_eq!((status.successes, status.failures), (2, 0));
    let why = status.deletion_stopped.unwrap();
    assert!(why.contains("some deletions failed") && why.contains("replica frankfurt"), "{why}");
}

#[test]
fn a_backup_that_was_killed_counts_as_failed_once_and_is_tried_again() {
    let place = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(place.path()).unwrap();
    let config = sample::config(&[("shop", "schedule = \"@hourly\"\nretry = \"5m\"")]);
    let (shop, clock) = (&config.datasets[0], SystemClock::shared());
    let began = clock.now();
    let start = || Runner {
        state: state.clone(),
        ledger: Arc::new(Ledger::open(&state, [&shop.name])),
        clock: clock.clone(),
        tools: ToolEnvironment::default(),
        budget: RunBudget::new(&config.limits),
        prunes: one_prune(),
    };
    let first = start();
    while !first.remember(&shop.name, |status| status.under_way = Some(began)) {}
    for _ in 0..2 {
        let again = start();
        again.take_in_killed(shop);
        let status = again.ledger.get(&shop.name);
        assert_eq!((status.failures, status.under_way, status.succeeded), (1, None, false));
        assert!(status.retry_at.is_some_and(|at| at >= began + chrono::TimeDelta::minutes(5)), "{status:?}");
    }
    // One that runs elsewhere is left alone.
    while !first.remember(&shop.name, |status| status.under_way = Some(began)) {}
    let _running = state.try_lock_dataset(&shop.name).unwrap().unwrap();
    let again = start();
    again.take_in_killed(shop);
    assert_eq!(again.ledger.get(&shop.name).failures, 1);
}

#[test]
fn a_run_that_failed_under_a_clock_that_was_ahead_did_no_start() {
    let place = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(place.path()).unwrap();
    let config = sample::config(&[("shop", "schedule = \"@hourly\"")]);
    let (shop, now) = (&config.datasets[0].name, SystemClock::shared().now());
    let runner = Runner {
        state: state.clone(),
        ledger: Arc::new(Ledger::open(&state, [shop])),
        clock: ManualClock::at(now),
        tools: ToolEnvironment::default(),
        budget: RunBudget::new(&config.limits),
        prunes: one_prune(),
    };
    let (ahead, before) = (now + chrono::TimeDelta::days(2), now - chrono::TimeDelta::hours(3));
    let considered = |time, succeeded, last_success| {
        while !runner.remember(shop, |status| {
            (status.considered, status.succeeded, status.last_success) = (Some(time), succeeded, last_success);
        }) {}
        runner.considered(shop)
    };
    assert_eq!(considered(ahead, false, Some(before)), before);
    assert_eq!(considered(ahead, true, Some(ahead)), now, "it took place, whatever time it was");
    assert_eq!(considered(ahead, false, None), now, "there is nothing to make up for");
    assert_eq!(considered(before, false, None), before, "a retry is enough");
}

#[tokio::test]
async fn no_host_takes_over_where_a_store_ignores_conditional_writes() {
    let place = tempfile::tempdir().unwrap();
    let (_, mut installation) = prepared(place.path(), 1).await;
    let dataset = installation.config.datasets[0].name.clone();
    check_stores(&installation, &dataset).await.unwrap();
    let (inner, cancel) = (installation.replicas[0].clone(), CancellationToken::new());
    let careless = Troubled { inner, then: Then::Careless, cancel, decides: AtomicBool::new(false) };
    installation.replicas[0] = Arc::new(careless);
    let refused = check_stores(&installation, &dataset).await.unwrap_err();
    assert_eq!(refused.class(), Class::Configuration, "{refused:?}");
    assert!(refused.chain().contains("cannot have a deputy: replica frankfurt ignores"), "{refused:?}");
}
