//! One replica shows thousands of objects that nobody trusted signed: they cost a bounded number of
//! requests and a bounded number of warnings, and hide nothing in the other replica.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keys::sign::Signer;
use lifeboat_engine::restore::Selector;
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{FailingReplica, SharedReplica};
use lifeboat_tests::by_hand::{Hand, changed, contents};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, limits, name, noise};
use tokio_util::sync::CancellationToken;

/// So many objects are forged: more than twice as many as a replica may show.
const FORGED: u32 = 2400;
/// `MAX_UNBELIEVED`, and those that are read at the same time.
const LOOKED_AT: u64 = 1024 + 17;
/// Requests that have nothing to do with what was forged.
const OTHER_REQUESTS: u64 = 300;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Manifests,
    Prunes,
    Drills,
    Indexes,
    Acts,
    /// Empty objects, and very many.
    ActNames,
}

/// So many names of acts hold nothing.
const NAMES: u32 = 100_000;

/// Two replicas with two snapshots, of which retention keeps the newest, and forged objects in the
/// first. Requests to both are counted.
async fn flooded(kind: Kind) -> (TestVault, [Arc<FailingReplica>; 2], Vec<SnapshotId>) {
    let mut vault = TestVault::new(2, 1).await;
    vault.config.datasets[0].retention.keep_last = 1;
    vault.config.datasets[0].retention.grace = Duration::ZERO;
    vault.config.keys.trusted_drill_signers = vec![Signer::generate().unwrap().public().to_string()];
    let mut snapshots = Vec::new();
    for seed in 0..2 {
        snapshots.push(vault.backup(&MemorySource::of(noise(50_000, seed))).await.unwrap().snapshot);
    }
    vault.clock.advance(Duration::from_secs(1));
    let (dataset, stranger, root) = (name(DATASET), Signer::generate().unwrap(), vault.replica_path(1));
    let hand = Hand::of(&vault.config, &vault.master);
    let forged = if kind == Kind::ActNames { NAMES } else { FORGED };
    for n in 0..forged {
        let id = SnapshotId::new(vault.clock.now(), n);
        let key = match kind {
            Kind::Manifests => layout::manifest(&dataset, &id),
            Kind::Prunes => layout::prune(&dataset, &id),
            Kind::Drills => layout::drill(&dataset, &id),
            Kind::Indexes => layout::index(&dataset, &id),
            Kind::Acts | Kind::ActNames => layout::act(&dataset, 100 + u64::from(n)),
        };
        if let Kind::Acts | Kind::ActNames = kind {
            let act =
                if kind == Kind::Acts { hand.commit_act(&stranger, 100 + u64::from(n), &id, b"") } else { Vec::new() };
            std::fs::write(root.join(&key), act).unwrap();
            continue;
        }
        let signature = stranger.sign(b"forged", &layout::trusted_comment(&vault.init.vault, &key)).unwrap();
        std::fs::create_dir_all(root.join(&key).parent().unwrap()).unwrap();
        std::fs::write(root.join(&key), b"forged").unwrap();
        std::fs::write(root.join(layout::signature(&key)), signature).unwrap();
    }
    let counted = [0, 1].map(|n: usize| Arc::new(FailingReplica::new(vault.replicas[n].clone())));
    vault.replicas = counted.iter().map(|replica| replica.clone() as SharedReplica).collect();
    (vault, counted, snapshots)
}

/// Checks how many requests there were since the last time, if each object that is looked at costs
/// so many.
fn check_requests(counted: &[Arc<FailingReplica>; 2], before: &mut [u64; 2], each: u64, what: &str) {
    for (replica, before) in counted.iter().zip(before) {
        let requests = replica.calls() - *before;
        *before += requests;
        assert!(requests <= each * LOOKED_AT + OTHER_REQUESTS, "{what}: {requests} requests to one replica");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_signed_costs_few_requests_and_hides_nothing() {
    for kind in [Kind::Manifests, Kind::Prunes, Kind::Drills, Kind::Indexes, Kind::Acts, Kind::ActNames] {
        let (vault, counted, snapshots) = flooded(kind).await;
        let mut before = [0, 0];
        let [select, backup, copy, prune] = match kind {
            Kind::Manifests => [2, 4, 6, 12],
            // They may say when a snapshot was taken.
            Kind::Prunes => [4, 0, 4, 12],
            // Prune looks twice, and each time once more after it has come to doubt a replica.
            Kind::Drills => [0, 0, 2, 8],
            Kind::Indexes => [0, 2, 2, 4],
            Kind::Acts | Kind::ActNames => [0, 0, 1, 2],
        };
        let reader = vault.open(vault.owner()).await.unwrap();
        let latest = reader.select(&name(DATASET), &Selector::Latest, vault.clock.now()).await.unwrap();
        assert_eq!(latest, snapshots[1], "{kind:?}");
        check_requests(&counted, &mut before, select, &format!("{kind:?}, select"));

        let made = vault.backup(&MemorySource::of(noise(50_000, 9))).await.unwrap();
        assert!(made.replicas[1].complete, "{kind:?}: {made:?}");
        let told = made.warnings.iter().filter(|warning| warning.contains("the replica is left aside"));
        assert_eq!(told.count(), usize::from(backup > 0), "{kind:?}: {:?}", made.warnings);
        assert!(made.warnings.len() < 5, "{kind:?}: {} warnings", made.warnings.len());
        check_requests(&counted, &mut before, backup, &format!("{kind:?}, backup"));

        let state = StateDirectory::open(&vault.config.state_directory).unwrap();
        let (keys, cancel) = (vault.keys().unwrap(), CancellationToken::new());
        let dataset = &vault.config.datasets[0];
        let states = catch_up(dataset, &keys, &vault.replicas, &state, &limits(), &cancel).await.unwrap();
        for state in &states {
            assert_eq!((state.behind, &state.error), (0, &None), "{kind:?}: {state:?}");
            assert_eq!(state.last_complete.as_ref(), Some(&made.snapshot), "{kind:?}");
        }
        check_requests(&counted, &mut before, copy, &format!("{kind:?}, catch-up"));

        let in_first = contents([&vault.replica_path(1)]);
        let (plan, outcome) = vault.prune().await.unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        assert!(plan.mark_snapshots.iter().eq(&snapshots) && outcome.snapshots == 0, "{kind:?}: {plan:?}");
        check_requests(&counted, &mut before, prune, &format!("{kind:?}, mark"));
        vault.clock.advance(Duration::from_secs(1));
        let (plan, outcome) = vault.prune().await.unwrap_or_else(|error| panic!("{kind:?}: {error:?}"));
        assert_eq!(plan.removed().cloned().collect::<Vec<_>>(), snapshots, "{kind:?}");
        // Who hides things may hide what must stay. But prune records of strangers never matter.
        if [Kind::Prunes, Kind::Indexes].contains(&kind) {
            assert!(outcome.failures.is_empty(), "{kind:?}: {outcome:?}");
        } else {
            assert!(outcome.failures.iter().any(|why| why.contains("r1")), "{kind:?}: {outcome:?}");
            let changed = changed(&in_first, &contents([&vault.replica_path(1)]));
            let is_act =
                |file: &PathBuf| file.extension().is_some_and(|end| end == "act") && !in_first.contains_key(file);
            assert!(changed.iter().all(is_act), "{kind:?}: {changed:?} were deleted or written");
        }
        check_requests(&counted, &mut before, prune, &format!("{kind:?}, sweep"));
        assert!(vault.restore(&made.snapshot).await.unwrap()["data"] == noise(50_000, 9), "{kind:?}");
    }
}
