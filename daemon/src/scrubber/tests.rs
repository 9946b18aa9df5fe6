#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::path::PathBuf;

use lifeboat_engine::backup::RunBudget;
use lifeboat_engine::clock::{ManualClock, SystemClock};
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{FailingReplica, Failure, SharedReplica};

use super::*;
use crate::runner::one_prune;
use crate::sample;
use crate::start::Start;
use crate::status::Ledger;

const DAY: Duration = Duration::from_secs(86_400);
const HANGS: Duration = Duration::from_secs(3600);

/// A daemon's scrub of a dataset with one snapshot, whose first replica can be made to hang.
struct Place {
    _folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    runner: Runner,
    live: Arc<Live>,
    failing: Arc<FailingReplica>,
    shop: Name,
    pack: PathBuf,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for replica in ["frankfurt", "ireland"] {
            std::fs::create_dir(folder.path().join(replica)).unwrap();
        }
        let text = sample::text(folder.path(), sample::KEY, &[("shop", "")]);
        let config = Config::parse(&text, &folder.path().join("lifeboat.toml"), &Surroundings::default()).unwrap();
        let system = SystemClock::shared();
        let replicas = config.open_replicas(&system).await.unwrap();
        init(&config, &replicas, &InitOptions::default(), &system).await.unwrap();
        let state = StateDirectory::open(&config.state_directory).unwrap();
        let shop: Name = "shop".parse().unwrap();
        let ledger = Arc::new(Ledger::open(&state, [&shop]));
        let mut installation = Installation::open(config, &system).await.unwrap();
        let clock = ManualClock::at(system.now());
        let environment = lifeboat_engine::databases::registry::tool_environment(|name| std::env::var_os(name));
        let budget = RunBudget::new(&installation.config.limits);
        let runner = Runner {
            state: state.clone(),
            ledger: ledger.clone(),
            clock: clock.clone(),
            tools: environment,
            budget,
            prunes: one_prune(),
        };
        let lock = (Start::Asked, state.lock_dataset(&shop).await.unwrap());
        runner.run(&installation, &shop, lock, None, &Arc::default(), &CancellationToken::new().into()).await.unwrap();
        let failing = Arc::new(FailingReplica::new(installation.replicas[0].clone()));
        let shared: SharedReplica = failing.clone();
        installation.replicas[0] = shared;
        let live = Arc::new(Live::new(Arc::new(installation), state, ledger, clock.clone()));
        let packs = folder.path().join("frankfurt/datasets/shop/packs");
        let part = std::fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
        let pack = std::fs::read_dir(part).unwrap().next().unwrap().unwrap().path();
        Self { _folder: folder, clock, runner, live, failing, shop, pack }
    }

    fn scrubber(&self) -> Scrubber {
        Scrubber::new(self.runner.clone(), self.live.clone())
    }

    fn checked(&self, replica: &str) -> u64 {
        let scrubs = self.runner.ledger.get(&self.shop).scrubs;
        scrubs.get(&replica.parse().unwrap()).map_or(0, |scrub| scrub.checked_objects)
    }
}

/// Scrubs all that is due.
async fn rest(scrubber: &mut Scrubber) {
    loop {
        scrubber.turn(true).await;
        if scrubber.job.is_none() {
            return;
        }
        scrubber.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_gives_way_at_once_and_goes_on_where_it_was_after_a_restart() {
    let place = Place::new().await;
    let mut scrubber = place.scrubber();
    scrubber.turn(false).await;
    assert!(scrubber.job.is_none(), "it scrubs while a run goes on");
    rest(&mut scrubber).await;
    place.clock.advance(28 * DAY);
    // So far it comes, and then the replica hangs.
    for call in 60..4000 {
        place.failing.fail(place.failing.calls() + call, Failure::Hang(HANGS));
    }
    scrubber.turn(true).await;
    let before = place.checked("frankfurt");
    while place.failing.calls() < 60 {
        scrubber.turn(true).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(Duration::from_secs(5), scrubber.make_way()).await.unwrap();
    assert!(scrubber.job.is_none());
    let done = place.checked("frankfurt");
    assert!(done > before, "what was checked before it gave way is forgotten");
    drop(place.runner.state.lock_dataset(&place.shop).await.unwrap());

    // A daemon that starts again reads how far it came.
    let state = place.runner.state.clone();
    let ledger = Ledger::open(&state, [&place.shop]);
    let scrub = ledger.get(&place.shop).scrubs[&"frankfurt".parse::<Name>().unwrap()].clone();
    assert_eq!((scrub.checked_objects, scrub.oldest_check), (done, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_fails_is_left_alone_for_a_while_and_the_other_is_scrubbed() {
    let place = Place::new().await;
    let mut scrubber = place.scrubber();
    for call in 1..100 {
        place.failing.fail(call, Failure::Unavailable);
    }
    rest(&mut scrubber).await;
    let calls = place.failing.calls();
    assert!(calls < 5 && place.checked("frankfurt") == 0 && place.checked("ireland") > 0, "{calls}");
    rest(&mut scrubber).await;
    assert_eq!(place.failing.calls(), calls, "it was asked again at once");
    place.clock.advance(PAUSE);
    rest(&mut scrubber).await;
    assert!(place.failing.calls() > calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_repaired_and_a_dataset_of_another_host_is_left_to_it() {
    let place = Place::new().await;
    let whole = std::fs::read(&place.pack).unwrap();
    std::fs::write(&place.pack, b"rubbish").unwrap();
    let mut scrubber = place.scrubber();
    place.runner.ledger.update(&place.shop, |status| status.led_by = Some("db2".parse().unwrap()));
    rest(&mut scrubber).await;
    assert_eq!(place.failing.calls(), 0);
    place.runner.ledger.update(&place.shop, |status| status.led_by = None);
    rest(&mut scrubber).await;
    place.clock.advance(28 * DAY);
    rest(&mut scrubber).await;
    assert_eq!(std::fs::read(&place.pack).unwrap(), whole);
    let scrub = place.runner.ledger.get(&place.shop).scrubs[&"frankfurt".parse::<Name>().unwrap()].clone();
    assert_eq!((scrub.repaired_objects, scrub.damaged_objects), (1, 0));
    assert!(scrub.oldest_check.is_some());
}
