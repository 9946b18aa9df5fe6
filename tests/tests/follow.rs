//! Which snapshot a new one follows, where the newest is lost or damaged in all replicas that
//! answer: no number of the chain is taken twice, and no backup stops for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::catch_up::catch_up;
use lifeboat_engine::keep::repair::repair;
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::state::StateDirectory;
use lifeboat_tests::by_hand::{Contents, Hand, contents};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, limits, name, noise};
use tokio_util::sync::CancellationToken;

/// What is wrong with the newest snapshot where it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Manifest,
    Signature,
    Lost,
}

async fn backup(vault: &TestVault, seed: u64) -> (SnapshotId, Vec<String>) {
    let report = vault.backup(&MemorySource::of(noise(100_000, seed))).await.unwrap();
    (report.snapshot, report.warnings)
}

fn set_away(vault: &TestVault, replica: usize, is_away: bool) {
    let (there, away) = (vault.replica_path(replica), vault.place.path().join(format!("away-{replica}")));
    if is_away { std::fs::rename(there, away) } else { std::fs::rename(away, there) }.unwrap();
}

/// Forgets all that this host has copied, as a second host has copied nothing.
fn forget_copies(vault: &TestVault) {
    std::fs::remove_dir_all(vault.config.state_directory.join("datasets").join(DATASET).join("cache")).unwrap();
}

/// Writes the acts of these commits anew, as programs did that told no place in the chain.
fn as_older_program(vault: &TestVault, commits: &[(u64, &SnapshotId)]) {
    let hand = Hand::of(&vault.config, &vault.master);
    for (number, snapshot) in commits {
        let object = hand.read(&layout::manifest(&hand.dataset, snapshot));
        let (key, act) =
            (layout::act(&hand.dataset, *number), hand.commit_act(&hand.keys.signer, *number, snapshot, &object));
        hand.put(&key, &act);
        let records = vault.place.path().join("records").join("vault").join(&key);
        if records.exists() {
            std::fs::write(records, &act).unwrap();
        }
    }
}

/// The place of a snapshot in the chain, and the one before it, as the first replica has it.
fn link(vault: &TestVault, snapshot: &SnapshotId) -> (u64, Option<SnapshotId>) {
    let manifest = Hand::of(&vault.config, &vault.master).manifest(snapshot);
    (manifest.sequence, manifest.previous.map(|previous| previous.snapshot))
}

/// The other replica is back: all is copied and mended, and nothing has branched.
async fn assert_whole_again(vault: &TestVault, when: &str) {
    let state = StateDirectory::open(&vault.config.state_directory).unwrap();
    let keys = vault.keys().unwrap();
    let dataset = &vault.config.datasets[0];
    let caught = catch_up(dataset, &keys, &vault.replicas, &state, &limits(), &CancellationToken::new()).await.unwrap();
    assert!(caught.iter().all(|replica| replica.error.is_none()), "{when}: {caught:?}");
    let report = vault.with_prune(async |prune| repair(prune, Some(&[])).await).await.unwrap();
    assert!(report.is_whole() && report.branches.is_empty() && report.missing.is_empty(), "{when}: {report:?}");
    let reader = vault.open(vault.owner()).await.unwrap();
    let now = vault.clock.now();
    let found = verify(&reader, &name(DATASET), None, true, now, &CancellationToken::new()).await.unwrap();
    assert!(found.findings.is_empty() && found.notes.is_empty(), "{when}: {:?} {:?}", found.findings, found.notes);
    vault.prune().await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newest_snapshot_that_is_lost_or_damaged_where_it_is_seen_is_followed_and_its_number_is_not_taken() {
    for wrong in [Wrong::Manifest, Wrong::Signature, Wrong::Lost] {
        for (has_records, is_older) in [(false, false), (true, false), (false, true), (true, true)] {
            let when = format!("{wrong:?}, records: {has_records}, older program: {is_older}");
            let mut vault = TestVault::new(2, 1).await;
            if has_records {
                vault = vault.with_records().await;
            }
            let (first, _) = backup(&vault, 1).await;
            let (newest, _) = backup(&vault, 2).await;
            if is_older {
                as_older_program(&vault, &[(1, &first), (2, &newest)]);
            }
            let key = layout::manifest(&name(DATASET), &newest);
            match wrong {
                Wrong::Manifest => std::fs::write(vault.replica_path(1).join(&key), b"garbage").unwrap(),
                Wrong::Signature => {
                    std::fs::write(vault.replica_path(1).join(layout::signature(&key)), b"garbage").unwrap();
                }
                Wrong::Lost => Hand::of(&vault.config, &vault.master).remove(1, &key),
            }
            set_away(&vault, 2, true);
            forget_copies(&vault);
            let (next, warnings) = backup(&vault, 3).await;
            assert_eq!(link(&vault, &next), (3, Some(newest.clone())), "{when}");
            let told = if wrong == Wrong::Lost { "is in no replica that answers" } else { "verify shop --repair" };
            let is_told = |warning: &String| warning.contains(newest.as_str()) && warning.contains(told);
            assert!(warnings.iter().any(is_told), "{when}: {warnings:?}");
            // Nothing is told for ever: the next one follows what is there.
            let (last, warnings) = backup(&vault, 4).await;
            assert_eq!(link(&vault, &last), (4, Some(next)), "{when}");
            assert!(!warnings.iter().any(|warning| warning.contains("follows it")), "{when}: {warnings:?}");
            set_away(&vault, 2, false);
            assert_whole_again(&vault, &when).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_snapshot_of_an_older_program_is_followed_though_acts_before_it_are_gone() {
    let vault = TestVault::new(2, 1).await.with_records().await;
    let mut snapshots = Vec::new();
    for seed in 0..4 {
        snapshots.push(backup(&vault, seed).await.0);
    }
    let commits: Vec<(u64, &SnapshotId)> = (1..).zip(&snapshots).collect();
    as_older_program(&vault, &commits);
    // What is left of the last two are their acts, and of the one before these, no act.
    let hand = Hand::of(&vault.config, &vault.master);
    snapshots[2..].iter().for_each(|snapshot| hand.remove(1, &layout::manifest(&hand.dataset, snapshot)));
    let act = layout::act(&hand.dataset, 2);
    let place = vault.place.path().join("records").join("vault");
    let places = [vault.replica_path(1), vault.replica_path(2), place];
    places.iter().for_each(|place| std::fs::remove_file(place.join(&act)).unwrap());
    set_away(&vault, 2, true);
    forget_copies(&vault);
    let (next, _) = backup(&vault, 5).await;
    let (sequence, previous) = link(&vault, &next);
    assert!(sequence > 4 && previous.as_ref() == Some(&snapshots[3]), "{sequence} {previous:?}");
    set_away(&vault, 2, false);
    let reader = vault.open(vault.owner()).await.unwrap();
    let found =
        verify(&reader, &name(DATASET), None, true, vault.clock.now(), &CancellationToken::new()).await.unwrap();
    // The act that is gone is told, and nothing of a place that was taken twice.
    assert!(found.findings.iter().all(|finding| finding.object == act), "{:?}", found.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_branches_a_new_snapshot_follows_the_longer_one() {
    let vault = TestVault::new(2, 1).await;
    backup(&vault, 1).await;
    let branch = async |away: usize, seeds: &[u64]| {
        set_away(&vault, away, true);
        forget_copies(&vault);
        let mut newest = None;
        for seed in seeds {
            newest = Some(backup(&vault, *seed).await.0);
        }
        // The other host has seen nothing of this.
        std::fs::remove_file(vault.config.state_directory.join("datasets").join(DATASET).join("seen")).unwrap();
        set_away(&vault, away, false);
        newest.unwrap()
    };
    let longer = branch(2, &[2, 3, 4]).await;
    branch(1, &[5]).await;
    forget_copies(&vault);
    let (next, _) = backup(&vault, 6).await;
    assert_eq!(link(&vault, &next), (5, Some(longer)));
}

/// Where another copy of the newest act is, beside the damaged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Here,
    Replica,
    Records,
    Nowhere,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_newest_act_stops_backups_only_until_a_whole_one_answers() {
    for copy in [Copy::Here, Copy::Replica, Copy::Records, Copy::Nowhere] {
        let mut vault = TestVault::new(2, 1).await;
        if copy == Copy::Records {
            vault = vault.with_records().await;
        }
        backup(&vault, 1).await;
        let (newest, _) = backup(&vault, 2).await;
        let act = vault.replica_path(1).join(layout::act(&name(DATASET), 2));
        std::fs::write(&act, b"garbage\n").unwrap();
        if copy != Copy::Replica {
            set_away(&vault, 2, true);
        }
        if copy != Copy::Here {
            forget_copies(&vault);
        }
        if copy == Copy::Nowhere {
            // As a second host, which has seen nothing either.
            std::fs::remove_file(vault.config.state_directory.join("datasets").join(DATASET).join("seen")).unwrap();
            let source = MemorySource::of(noise(100_000, 3));
            let error = vault.backup(&source).await.unwrap_err();
            assert!(error.hint_text().unwrap().contains("`lifeboat verify shop --repair`"), "{error:?}");
            set_away(&vault, 2, false);
        }
        let (next, _) = backup(&vault, 3).await;
        assert_eq!(link(&vault, &next), (3, Some(newest)), "{copy:?}");
        if matches!(copy, Copy::Here | Copy::Records) {
            set_away(&vault, 2, false);
        }
        assert_whole_again(&vault, &format!("{copy:?}")).await;
        assert_ne!(std::fs::read(act).unwrap(), b"garbage\n", "{copy:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_this_host_knows_is_followed_though_all_replicas_were_rolled_back() {
    let vault = TestVault::new(2, 1).await;
    backup(&vault, 1).await;
    let places = [vault.replica_path(1), vault.replica_path(2)];
    let before = contents(&places);
    let (newest, _) = backup(&vault, 2).await;
    let lost: Contents = contents(&places).into_iter().filter(|(file, _)| !before.contains_key(file)).collect();
    lost.keys().for_each(|file| std::fs::remove_file(file).unwrap());
    let (next, warnings) = backup(&vault, 3).await;
    assert_eq!(link(&vault, &next), (3, Some(newest)), "{warnings:?}");
    // Somebody finds what was lost.
    lost.iter().for_each(|(file, object)| std::fs::write(file, object).unwrap());
    assert_whole_again(&vault, "rolled back").await;
}
