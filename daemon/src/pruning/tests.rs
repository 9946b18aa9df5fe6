#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use lifeboat_engine::backup::RunBudget;
use lifeboat_engine::clock::{ManualClock, SystemClock};
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::state::StateDirectory;

use super::*;
use crate::runner::one_prune;
use crate::sample;
use crate::slow::Gate;
use crate::start::Stop;
use crate::status::Ledger;

/// How many files there are below a folder.
fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

#[test]
fn a_prune_ends_before_the_next_backup_is_due_but_has_a_minute() {
    let of = |schedule: &str, now: &str| {
        let config = sample::config(&[("shop", schedule)]);
        prune_time(&config.datasets[0], Duration::from_secs(86_400), now.parse().unwrap()).as_secs()
    };
    assert_eq!(of("schedule = \"@hourly\"", "2026-03-01T12:10:00Z"), 50 * 60);
    assert_eq!(of("schedule = \"@hourly\"", "2026-03-01T12:59:50Z"), 60);
    assert_eq!(of("", "2026-03-01T12:10:00Z"), 86_400);
    assert_eq!(of("schedule = \"@monthly\"", "2026-03-02T00:00:00Z"), 86_400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_is_cut_by_its_deadline_goes_on_with_the_next_prune() {
    let place = tempfile::tempdir().unwrap();
    for replica in ["frankfurt", "ireland"] {
        std::fs::create_dir(place.path().join(replica)).unwrap();
    }
    let system = SystemClock::shared();
    let text = sample::text(place.path(), sample::KEY, &[("shop", "retention = { keep_last = 1 }")]);
    // Each backup has other data.
    let text = text.replace("\"printf\", \"shop\"", "\"head\", \"-c\", \"9999\", \"/dev/urandom\"");
    let config = Config::parse(&text, &place.path().join("lifeboat.toml"), &Surroundings::default()).unwrap();
    let replicas = config.open_replicas(&system).await.unwrap();
    init(&config, &replicas, &InitOptions::default(), &system).await.unwrap();
    let state = StateDirectory::open(&config.state_directory).unwrap();
    let shop = config.datasets[0].name.clone();
    let ledger = Arc::new(Ledger::open(&state, [&shop]));
    let mut installation = Installation::open(config, &system).await.unwrap();
    let (gate, clock) = (Arc::<Gate>::default(), ManualClock::at(system.now()));
    installation.replicas = gate.before(&installation.replicas);
    let tools = lifeboat_engine::databases::registry::tool_environment(|name| std::env::var_os(name));
    let (budget, prunes) = (RunBudget::new(&installation.config.limits), one_prune());
    let runner = Runner { state, ledger, clock: clock.clone(), tools, budget, prunes };
    let run = async |stop: Stop| {
        let lock = runner.state.lock_dataset(&shop).await.unwrap();
        clock.advance(Duration::from_secs(60));
        runner.run(&installation, &shop, (Start::Asked, lock), None, &Arc::default(), &stop).await.unwrap()
    };
    // The first three of these are marked.
    for _ in 0..4 {
        run(Stop::default()).await;
    }
    let files = |folder: &str| {
        let below = |replica: &str| place.path().join(replica).join("datasets/shop").join(folder);
        count(&below("frankfurt")) + count(&below("ireland"))
    };
    clock.advance(Duration::from_secs(3 * 86_400));
    // Two confirm the time.
    for _ in 0..2 {
        let stop = Stop::default();
        stop.prune.cancel();
        run(stop).await;
    }
    let (packs, dataset) = (files("packs"), installation.dataset(&shop).unwrap());
    assert_eq!(files("snapshots"), 6 * 2 * 2, "manifests and signatures in two replicas");

    // Some keys go, then the replicas take too long.
    gate.hold(&[("delete", "")], 4);
    let prune = async |patience| {
        let _lock = runner.state.lock_dataset(&shop).await.unwrap();
        runner.prune(&installation, dataset, (Start::Asked, patience), &CancellationToken::new()).await
    };
    let cut = prune(Duration::from_secs(2)).await;
    let Err(error) = cut else { panic!("it had no deadline") };
    assert!(error.chain().contains("it would have held up the next backup (2"), "{error:?}");
    // Whoever cancels it after that, for the next backup, does not hide it.
    let why = runner.ledger.get(&shop).deletion_stopped.unwrap();
    assert!(why.contains("it would have held up the next backup"), "{why}");
    let left = files("snapshots");
    assert!(left < 24 && left > 12, "{left} are left: it was not cut half-way");

    gate.release();
    let Pruned::Done(outcome) = prune(Duration::from_secs(60)).await.unwrap() else { panic!("it had no turn") };
    assert!(outcome.failures.is_empty() && outcome.stopped.is_empty(), "{outcome:?}");
    assert_eq!((files("snapshots"), files("packs")), (12, packs / 2), "three of six snapshots were due");
    let report = run(Stop::default()).await;
    assert!(report.deletion_stopped.is_none() && report.backup.replicas.iter().all(|replica| replica.complete));
}
