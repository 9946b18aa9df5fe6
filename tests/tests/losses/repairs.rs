//! What `lifeboat repair` puts back, names, and writes down as lost.

use std::path::{Path, PathBuf};

use lifeboat_engine::Class;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::prune::{Accept, Prune};
use lifeboat_engine::keep::repair::{RepairReport, accept, repair};
use lifeboat_tests::by_hand::harmed;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};

use crate::prepared::{Prepared, source};
use crate::{CASES, Harm, Then};

pub(crate) const LOSS: Accept = Accept { loss: true, branches: false };
const BRANCHES: Accept = Accept { loss: false, branches: true };

/// Repairs, and accepts what the operator would.
pub(crate) async fn repaired(vault: &TestVault, accepted: Option<Accept>) -> lifeboat_engine::Result<RepairReport> {
    let work = async |prune: &Prune<'_>| {
        let report = repair(prune, None).await?;
        match accepted {
            Some(accepted) => accept(prune, accepted, report).await,
            None => Ok(report),
        }
    };
    vault.with_prune(work).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_alone_brings_back_what_is_known_or_names_what_stops_prune() {
    let mut prepared = Prepared::new().await;
    for (harm, (of_one, _), (of_both, _)) in CASES {
        for (who, then) in [(&[1][..], of_one), (&[1, 2], of_both)] {
            let when = format!("{harm:?} lost in {who:?}");
            prepared.reset();
            let before = prepared.contents();
            prepared.harm(harm, who);
            let report = repaired(&prepared.vault, None).await;
            let pruned = prepared.vault.prune().await;
            let Ok(report) = report else {
                assert!(pruned.is_err(), "{when}: repair fails, and prune does not");
                continue;
            };
            if then == Then::Back && report.is_whole() && report.doubts.is_empty() {
                let missing: Vec<PathBuf> = harmed(&before, &prepared.contents());
                let missing: Vec<String> = missing.iter().map(|file| prepared.key(file)).collect();
                let missing: Vec<&String> = missing.iter().filter(|key| !prepared.is_in_a_mark(key)).collect();
                assert!(missing.is_empty(), "{when}: {missing:?}; {report:?}");
            }
            let refused = pruned.as_ref().is_err_and(|error| error.class() == Class::Integrity);
            assert_eq!(refused, !report.missing.is_empty(), "{when}: {report:?}, and prune {pruned:?}");
        }
    }
}

/// What is noted of manifests and acts does not hide that there is no copy of them.
#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_lost_are_made_again_before_the_replicas_lose_the_objects() {
    let mut prepared = Prepared::new().await;
    for harm in [Harm::SignaturesAndManifests, Harm::Acts] {
        prepared.reset();
        let cache = prepared.vault.config.state_directory.join(format!("datasets/{DATASET}/cache"));
        let is_note = |file: &Path| file.file_name().unwrap().to_str().unwrap().starts_with('.');
        for copy in files_below(&cache).into_iter().filter(|file| !is_note(file)) {
            std::fs::remove_file(copy).unwrap();
        }
        prepared.catch_up().await;
        let before = prepared.contents();
        prepared.harm(harm, &[1, 2]);
        let report = repaired(&prepared.vault, None).await.unwrap();
        assert!(report.is_whole() && !report.put_back.is_empty(), "{harm:?}: {report:?}");
        let lost = harmed(&before, &prepared.contents());
        let lost: Vec<String> = lost.iter().map(|file| prepared.key(file)).collect();
        let lost: Vec<&String> = lost.iter().filter(|key| !prepared.is_in_a_mark(key)).collect();
        assert!(lost.is_empty(), "{harm:?}: {lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_counts_though_this_host_cannot_remember_it() {
    let mut prepared = Prepared::new().await;
    prepared.reset();
    let lost = layout::manifest(&name(DATASET), &prepared.stay[0].0);
    [1, 2].into_iter().for_each(|replica| prepared.hand.remove(replica, &lost));
    // Where nobody can write.
    let folder = prepared.vault.config.state_directory.join("datasets").join(DATASET);
    std::fs::remove_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/proc", &folder).unwrap();
    let report = repaired(&prepared.vault, None).await.unwrap();
    assert!(report.missing.len() == 1 && report.missing[0].contains(prepared.stay[0].0.as_str()), "{report:?}");
    let report = repaired(&prepared.vault, Some(LOSS)).await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    std::fs::remove_file(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_loss_is_accepted_prune_goes_on_and_nothing_was_deleted() {
    let mut prepared = Prepared::new().await;
    for harm in [Harm::Dataset, Harm::RolledBack, Harm::ActsAndSignatures, Harm::SignaturesAndManifests] {
        prepared.reset();
        prepared.harm(harm, &[1, 2]);
        // Else the cache would bring some of it back.
        let cache = prepared.vault.config.state_directory.join(format!("datasets/{DATASET}/cache"));
        std::fs::remove_dir_all(&cache).unwrap_or_else(|error| panic!("{}: {error}", cache.display()));
        let report = repaired(&prepared.vault, None).await.unwrap();
        assert!(!report.missing.is_empty(), "{harm:?}: {report:?}");
        assert!(prepared.vault.prune().await.is_err(), "{harm:?}");

        let before = prepared.contents();
        let report = repaired(&prepared.vault, Some(LOSS)).await.unwrap();
        assert!(report.missing.is_empty(), "{harm:?}: {report:?}");
        let gone = harmed(&before, &prepared.contents());
        assert!(gone.is_empty(), "{harm:?}: accepting the loss deleted {gone:?}");
        let (_, outcome) = prepared.vault.prune().await.unwrap_or_else(|error| panic!("{harm:?}: {error:?}"));
        assert!(outcome.failures.is_empty(), "{harm:?}: {outcome:?}");
        prepared.vault.backup(&source(9)).await.unwrap();
        prepared.vault.prune().await.unwrap_or_else(|error| panic!("{harm:?}, after a backup: {error:?}"));
        let told = prepared.verify().await;
        let is_of_order = |problem: &&String| problem.contains("missing: no replica") || problem.contains("act ");
        let told: Vec<&String> = told.iter().filter(is_of_order).collect();
        assert!(told.is_empty(), "{harm:?}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_not_accepted_while_a_replica_is_away() {
    let prepared = Prepared::new().await;
    prepared.harm(Harm::Manifests, &[1]);
    let (place, away) = (prepared.vault.replica_path(2), prepared.vault.place.path().join("away"));
    std::fs::rename(&place, &away).unwrap();
    let cache = prepared.vault.config.state_directory.join(format!("datasets/{DATASET}/cache"));
    std::fs::remove_dir_all(cache).unwrap();
    let refused = repaired(&prepared.vault, Some(LOSS)).await.unwrap_err();
    assert!(refused.chain().contains("may hold what is missing"), "{refused:?}");
    std::fs::rename(&away, &place).unwrap();
    let report = repaired(&prepared.vault, None).await.unwrap();
    assert!(report.is_whole() && report.doubts.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_branches_stop_prune_until_they_are_accepted_and_both_stay() {
    let vault = TestVault::new(2, 1).await;
    vault.backup(&MemorySource::of(noise(200_000, 0))).await.unwrap();
    let mut branches = Vec::new();
    for (seed, replica) in [(1, &vault.replicas[..1]), (2, &vault.replicas[1..])] {
        // Each run sees one replica, and has a memory of its own.
        let state = vault.config.state_directory.join(format!("datasets/{DATASET}/seen"));
        let _ = std::fs::remove_file(state);
        branches.push(vault.backup_to(&MemorySource::of(noise(200_000, seed)), replica).await.unwrap().snapshot);
    }
    let report = repaired(&vault, None).await.unwrap();
    assert!(!report.is_whole() && report.branches.len() == 1, "{report:?}");
    assert!(branches.iter().all(|snapshot| report.branches[0].contains(snapshot.as_str())), "{report:?}");
    let refused = vault.prune().await.unwrap_err();
    assert!(refused.class() == Class::Integrity && refused.hint_text().unwrap().contains("repair"), "{refused:?}");

    let report = repaired(&vault, Some(LOSS)).await.unwrap();
    assert!(!report.branches.is_empty(), "branches are no loss: {report:?}");
    let report = repaired(&vault, Some(BRANCHES)).await.unwrap();
    assert!(report.is_whole() && report.doubts.is_empty(), "{report:?}");
    vault.prune().await.unwrap();
    for branch in &branches {
        let manifest = layout::manifest(&name(DATASET), branch);
        assert!([1, 2].iter().all(|replica| vault.replica_path(*replica).join(&manifest).exists()), "{branch}");
        vault.restore(branch).await.unwrap();
    }
    vault.backup(&MemorySource::of(noise(200_000, 3))).await.unwrap();
    vault.prune().await.unwrap();
}

/// Of acts that one replica lost, nothing is missing while the other answers. But that one may go.
#[tokio::test(flavor = "multi_thread")]
async fn acts_that_one_replica_lost_are_told_and_put_back() {
    let mut prepared = Prepared::new().await;
    let order = prepared.vault.replica_path(2).join(layout::order(&name(DATASET)));
    let acts = files_below(&order);
    for lost in [&acts[..1], &acts[1..2], &acts[acts.len() - 1..], &acts[..]] {
        prepared.reset();
        assert_eq!(prepared.verify().await, [""; 0]);
        let before = prepared.contents();
        lost.iter().for_each(|act| std::fs::remove_file(act).unwrap());
        let told = prepared.verify().await;
        let is_told =
            |told: &String| told.contains("replica r2") && told.contains("`lifeboat repair shop` puts it back");
        // The newest act is a mark, which a replica that was away lacks, too.
        let is_newest = lost.len() == 1 && lost[0] == acts[acts.len() - 1];
        assert_eq!(told.len(), usize::from(!is_newest), "{lost:?}: {told:?}");
        assert!(told.iter().all(is_told), "{lost:?}: {told:?}");
        let report = repaired(&prepared.vault, None).await.unwrap();
        assert!(report.is_whole() && report.doubts.is_empty(), "{lost:?}: {report:?}");
        assert!(harmed(&before, &prepared.contents()).is_empty(), "{lost:?}");
        assert_eq!(prepared.verify().await, [""; 0], "{lost:?}");
    }
}
