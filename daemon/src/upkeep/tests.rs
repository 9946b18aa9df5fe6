#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use lifeboat_engine::backup::RunBudget;
use lifeboat_engine::clock::{ManualClock, SystemClock};
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::keys::{InitOptions, init};
use lifeboat_engine::state::StateDirectory;

use super::*;
use crate::installation::Installation;
use crate::runner::one_prune;
use crate::sample;
use crate::slow::Gate;
use crate::start::Start;
use crate::status::Ledger;

const MINUTE: Duration = Duration::from_secs(60);

/// The work beside the runs of two datasets, of which the replica in Ireland lost everything.
struct Place {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    upkeep: Upkeep,
    gate: Arc<Gate>,
}

impl Place {
    async fn new() -> Self {
        let (folder, system) = (tempfile::tempdir().unwrap(), SystemClock::shared());
        for replica in ["frankfurt", "ireland"] {
            std::fs::create_dir(folder.path().join(replica)).unwrap();
        }
        let text = sample::text(folder.path(), sample::KEY, &[("blog", ""), ("shop", "")]);
        let config = Config::parse(&text, &folder.path().join("lifeboat.toml"), &Surroundings::default()).unwrap();
        let replicas = config.open_replicas(&system).await.unwrap();
        init(&config, &replicas, &InitOptions::default(), &system).await.unwrap();
        let state = StateDirectory::open(&config.state_directory).unwrap();
        let names: Vec<Name> = config.datasets.iter().map(|dataset| dataset.name.clone()).collect();
        let ledger = Arc::new(Ledger::open(&state, &names));
        let mut installation = Installation::open(config, &system).await.unwrap();
        let clock = ManualClock::at(system.now());
        let tools = lifeboat_engine::databases::registry::tool_environment(|name| std::env::var_os(name));
        let budget = RunBudget::new(&installation.config.limits);
        let (state_of_live, prunes) = (state.clone(), one_prune());
        let runner = Runner { state, ledger: ledger.clone(), clock: clock.clone(), tools, budget, prunes };
        for name in &names {
            let lock = (Start::Asked, runner.state.lock_dataset(name).await.unwrap());
            runner
                .run(&installation, name, lock, None, &Arc::default(), &CancellationToken::new().into())
                .await
                .unwrap();
        }
        std::fs::remove_dir_all(folder.path().join("ireland/datasets")).unwrap();
        let gate = Arc::<Gate>::default();
        installation.replicas = gate.before(&installation.replicas);
        let live = Arc::new(Live::new(Arc::new(installation), state_of_live, ledger, clock.clone()));
        Self { folder, clock, upkeep: Upkeep::new(runner, live), gate }
    }

    /// What is being caught up after this turn.
    async fn turn(&mut self) -> Option<String> {
        self.upkeep.turn(|_| false).await;
        self.upkeep.job.as_ref().map(|job| job.dataset.to_string())
    }

    /// Whether Ireland has a snapshot of `dataset` again.
    fn is_level(&self, dataset: &str) -> bool {
        self.folder.path().join("ireland/datasets").join(dataset).join("snapshots").exists()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_catch_up_leaves_others_and_the_scrub_their_turn() {
    let mut place = Place::new().await;
    place.gate.hold(&[("put", "/blog/")], 1);
    assert_eq!(place.turn().await.as_deref(), Some("blog"));
    place.clock.advance(SLICE - MINUTE);
    assert_eq!(place.turn().await.as_deref(), Some("blog"), "its slice is not over");
    place.clock.advance(MINUTE);
    assert_eq!(place.turn().await, None, "its slice is over, and the scrub was never due before");
    assert!(place.upkeep.scrubber.is_busy());
    place.upkeep.job_ended().await;
    assert_eq!(place.turn().await.as_deref(), Some("shop"), "it waits behind the others");
    place.upkeep.job_ended().await;
    assert!(place.is_level("shop") && !place.is_level("blog"));
    assert_eq!(place.turn().await.as_deref(), Some("blog"));

    // Where nothing else is to be done, it goes on.
    while place.upkeep.scrubber.is_due() {
        place.upkeep.make_way(&"blog".parse().unwrap()).await;
        place.upkeep.scrubber.turn(true).await;
        place.upkeep.scrubber.ended().await;
        place.upkeep.scrubber.turn(false).await;
    }
    place.upkeep.want(&"blog".parse().unwrap());
    assert_eq!(place.turn().await.as_deref(), Some("blog"));
    place.clock.advance(2 * SLICE);
    assert_eq!(place.turn().await.as_deref(), Some("blog"), "nobody waits for it");
    place.gate.release();
    place.upkeep.job_ended().await;
    assert_eq!(place.turn().await, None);
    assert!(place.is_level("blog"));
    place.upkeep.stop().await;
}
