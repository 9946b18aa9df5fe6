//! What happens after objects were lost, in one replica or in all of them: by a rule of a bucket, a
//! mistaken clean-up, an empty disk in place of the right one, or a copy of yesterday.
//!
//! Whatever is lost, prune deletes nothing that a snapshot needs. What was lost comes back, or it
//! is told by name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod prepared;
mod repairs;
mod scrubs;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_engine::clock::Clock;
use lifeboat_engine::config::Retention;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::verify::{Finding, verify};
use lifeboat_tests::by_hand::{Hand, changed, harmed};
use lifeboat_tests::vault::{DATASET, TestVault, name};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::prepared::{Prepared, source};
use self::repairs::{LOSS, repaired};

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    Signatures,
    Manifests,
    SignaturesAndManifests,
    Acts,
    ActsAndSignatures,
    Indexes,
    Keyring,
    Marks,
    PruneRecords,
    /// All that tells of snapshots: manifests, acts, records, marks.
    History,
    /// The same, and the index segments: only packs are left.
    HistoryAndIndexes,
    /// All of the dataset but its keyring.
    Dataset,
    /// All of the vault, as if an empty bucket were put in its place.
    Bucket,
    /// What was written since the last snapshot but one: the replica is a copy made before.
    RolledBack,
}

impl Harm {
    /// Whether it takes away the object of this key.
    pub(crate) fn takes(self, key: &str) -> bool {
        let dataset = name(DATASET);
        let in_snapshots = key.starts_with(&layout::snapshots(&dataset));
        let is_signature = layout::is_signature(key);
        let is_act = key.starts_with(&layout::order(&dataset));
        let records = [layout::marks(&dataset), layout::prunes(&dataset)];
        let is_history = in_snapshots || is_act || records.iter().any(|folder| key.starts_with(folder));
        match self {
            Self::Signatures => in_snapshots && is_signature,
            Self::Manifests => in_snapshots && !is_signature,
            Self::SignaturesAndManifests => in_snapshots,
            Self::Acts => is_act,
            Self::ActsAndSignatures => is_act || (in_snapshots && is_signature),
            Self::Indexes => key.starts_with(&layout::indexes(&dataset)),
            Self::Keyring => key.starts_with(&layout::keyring(&dataset)),
            Self::Marks => key.starts_with(&layout::marks(&dataset)),
            Self::PruneRecords => key.starts_with(&layout::prunes(&dataset)),
            Self::History => is_history,
            Self::HistoryAndIndexes => is_history || key.starts_with(&layout::indexes(&dataset)),
            Self::Dataset => key.starts_with(&layout::dataset(&dataset)),
            Self::Bucket => true,
            Self::RolledBack => false,
        }
    }
}

/// What must be after a backup, a catch-up and a prune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Every object is what it was. What a mark names need not come back.
    Back,
    /// Every object is what it was, or what is not is told.
    BackOrTold,
    /// It cannot come back, so it is told.
    Told,
    /// It need neither come back nor be told, but nothing goes for it.
    Harmless,
}

/// What is expected, and why.
type Expected = (Then, &'static str);

/// What is lost; what must be then if one of two replicas lost it, and why; and if both did.
const CASES: [(Harm, Expected, Expected); 14] = [
    (
        Harm::Signatures,
        (Then::Back, "the acts hold the signatures"),
        (Then::Back, "the acts hold the signatures, in both replicas"),
    ),
    (
        Harm::Manifests,
        (Then::Back, "the other replica has them"),
        (Then::BackOrTold, "this host's cache may have them"),
    ),
    (
        Harm::SignaturesAndManifests,
        (Then::Back, "the other replica has them"),
        (Then::BackOrTold, "this host's cache may have the manifests, and the acts have the signatures"),
    ),
    (Harm::Acts, (Then::Back, "the other replica has them"), (Then::BackOrTold, "this host has seen them")),
    (
        Harm::ActsAndSignatures,
        (Then::Back, "the other replica has them"),
        (Then::BackOrTold, "this host has seen the acts, and the manifests and packs are there"),
    ),
    (
        Harm::Indexes,
        (Then::Back, "the other replica has them"),
        (Then::BackOrTold, "this host's cache may have them; without them, data is only stored again"),
    ),
    (
        Harm::Keyring,
        (Then::Back, "the other replica has it"),
        (Then::BackOrTold, "this host has its wrapped form; without it nothing can be restored"),
    ),
    (
        Harm::Marks,
        (Then::Harmless, "what the other replica names may go there"),
        (Then::Harmless, "without a mark nothing goes, and the next prune marks it again"),
    ),
    (
        Harm::PruneRecords,
        (Then::Back, "the other replica has the newest"),
        (Then::BackOrTold, "without them, a snapshot that was pruned looks lost"),
    ),
    (
        Harm::History,
        (Then::Back, "the other replica has it"),
        (Then::BackOrTold, "this host has seen the acts and the snapshots"),
    ),
    (
        Harm::HistoryAndIndexes,
        (Then::Back, "the other replica has it"),
        (Then::BackOrTold, "this host has seen the acts and the snapshots"),
    ),
    (
        Harm::Dataset,
        (Then::Back, "the other replica has everything"),
        (Then::Told, "nothing else holds the packs, and this host has seen the snapshots"),
    ),
    (
        Harm::Bucket,
        (Then::BackOrTold, "only `init` makes a vault of an empty bucket"),
        (Then::Told, "there is no vault any more"),
    ),
    (
        Harm::RolledBack,
        (Then::Back, "the other replica has the newest snapshot"),
        (Then::Told, "nothing else holds the packs of the newest snapshot, and this host has seen it"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_lost_comes_back_and_nothing_that_is_needed_goes() {
    let mut prepared = Prepared::new().await;
    for (harm, (then, why), _) in CASES {
        prepared.endure(harm, &[1], then, false, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_replica_lost_comes_back_or_is_told_and_nothing_that_is_needed_goes() {
    let mut prepared = Prepared::new().await;
    for (harm, _, (then, why)) in CASES {
        prepared.endure(harm, &[1, 2], then, false, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_needed_goes_though_this_host_lost_its_memory_too() {
    let mut prepared = Prepared::new().await;
    let both = "the state directory is lost, too";
    // Vaults from before there were acts have none: without a memory, lost ones are not missed.
    for harm in
        [Harm::Signatures, Harm::Manifests, Harm::SignaturesAndManifests, Harm::ActsAndSignatures, Harm::PruneRecords]
    {
        prepared.endure(harm, &[1, 2], Then::BackOrTold, true, both).await;
    }
    // The next backup begins anew. Index segments from before it are left.
    prepared.endure(Harm::History, &[1, 2], Then::Told, true, both).await;
    for harm in [Harm::Signatures, Harm::Manifests, Harm::History, Harm::Dataset, Harm::RolledBack] {
        prepared.endure(harm, &[1], Then::Back, true, both).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_tells_of_any_more_stays_until_an_operator_gives_it_up() {
    let mut prepared = Prepared::new().await;
    let (harm, left) = (Harm::History, "/index/");
    prepared.reset();
    prepared.harm(harm, &[1, 2]);
    std::fs::remove_dir_all(&prepared.vault.config.state_directory).unwrap();
    let before = prepared.contents();
    for _ in 0..3 {
        let refused = prepared.vault.prune().await.unwrap_err();
        let (told, hint) = (refused.chain(), refused.hint_text().unwrap_or_default().to_owned());
        assert!(told.contains(left) && told.contains("no manifest, act or prune record"), "{harm:?}: {told}");
        assert!(hint.contains("undelete") && hint.contains("--accept-loss"), "{harm:?}: {hint}");
        prepared.vault.clock.advance(Duration::from_secs(5 * 24 * 3600));
    }
    assert!(changed(&before, &prepared.contents()).is_empty(), "{harm:?}");
    assert!(!prepared.verify().await.is_empty(), "{harm:?}: verify finds nothing");
    let given_up = repaired(&prepared.vault, Some(LOSS)).await.unwrap();
    assert!(given_up.missing.is_empty() && given_up.is_whole(), "{harm:?}: {given_up:?}");
    // They are of use to nobody, so they go as those of a killed run do.
    prepared.vault.prune().await.unwrap();
    prepared.vault.backup(&source(9)).await.unwrap();
    prepared.vault.prune().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_all_signatures_were_lost_the_next_backup_continues_the_chain_and_warns() {
    let mut prepared = Prepared::new().await;
    prepared.reset();
    let last = prepared.stay.last().unwrap().0.clone();
    let before = prepared.hand.manifest(&last).sequence;
    prepared.harm(Harm::Signatures, &[1, 2]);
    let report = prepared.vault.backup(&source(9)).await.unwrap();
    let manifest = prepared.hand.manifest(&report.snapshot);
    assert_eq!((manifest.predecessor(), manifest.sequence), (Some(&last), before + 1));
    assert!(!report.warnings.is_empty(), "the next backup does not say that signatures were lost");
    // A pack and an index segment with what is new, both padded.
    assert!(report.stored_bytes < 230_000, "what is there was stored again: {} bytes", report.stored_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_a_prune_or_a_catch_up_alone_puts_lost_signatures_back() {
    let mut prepared = Prepared::new().await;
    let whom: [&[usize]; 3] = [&[1], &[2], &[1, 2]];
    for how in ["backup", "prune", "catch-up"] {
        for who in whom {
            prepared.reset();
            let before = prepared.contents();
            prepared.harm(Harm::Signatures, who);
            match how {
                "backup" => drop(prepared.vault.backup(&source(9)).await.unwrap()),
                "prune" => drop(prepared.vault.prune().await.unwrap()),
                _ => prepared.catch_up().await,
            }
            let missing: Vec<PathBuf> = harmed(&before, &prepared.contents());
            let missing: Vec<&PathBuf> =
                missing.iter().filter(|file| !prepared.is_in_a_mark(&prepared.key(file))).collect();
            assert!(missing.is_empty(), "{how} after a loss in {who:?}: {missing:?} are missing");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_problem_wherever_a_prune_without_memory_refuses() {
    let mut prepared = Prepared::new().await;
    let mut refused = 0;
    for (harm, ..) in CASES {
        for who in [&[1][..], &[1, 2]] {
            prepared.reset();
            prepared.harm(harm, who);
            std::fs::remove_dir_all(&prepared.vault.config.state_directory).unwrap();
            let told = prepared.verify().await;
            let problems: BTreeSet<&String> = told.iter().collect();
            assert_eq!(problems.len(), told.len(), "{harm:?} lost in {who:?}: a problem is told twice: {told:#?}");
            if let Err(error) = prepared.vault.prune().await {
                refused += 1;
                assert!(!told.is_empty(), "{harm:?} lost in {who:?}: verify finds no problem, and prune {error:?}");
            }
        }
    }
    assert!(refused >= 4, "prune refused {refused} times only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_a_signature_yet_is_a_note_and_an_older_one_is_a_finding() {
    let mut prepared = Prepared::new().await;
    prepared.reset();
    // The mark took a number after it.
    let newest = prepared.vault.backup(&source(9)).await.unwrap().snapshot;
    let older = prepared.stay[0].0.clone();
    // So many hours after that backup.
    for (snapshot, hours, is_note) in [(&newest, 0, true), (&older, 0, false), (&newest, 1, true), (&newest, 2, false)]
    {
        prepared.vault.clock.advance(Duration::from_secs(hours * 3600));
        let manifest = layout::manifest(&name(DATASET), snapshot);
        let signature = layout::signature(&manifest);
        let files = [1, 2].map(|replica| prepared.vault.replica_path(replica).join(&signature));
        let before = files.each_ref().map(|file| std::fs::read(file).unwrap());
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        let report = prepared.report().await;
        let noted = report.notes.iter().any(|note| note.contains(snapshot.as_str()) && note.contains("no signature"));
        let about = |finding: &&Finding| finding.problem.contains(snapshot.as_str()) || finding.object == manifest;
        let found: Vec<&Finding> = report.findings.iter().filter(about).collect();
        assert_eq!((noted, found.len()), (is_note, if is_note { 0 } else { 2 }), "{report:?}");
        let was_removed = |finding: &&Finding| finding.problem.contains("or its signature was removed");
        assert!(*snapshot != newest || found.iter().all(was_removed), "{found:?}");
        files.iter().zip(before).for_each(|(file, signature)| std::fs::write(file, signature).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_replica_is_empty_that_has_shown_snapshots_nothing_goes_in_any() {
    let mut prepared = Prepared::new().await;
    prepared.reset();
    prepared.harm(Harm::Bucket, &[2]);
    prepared.vault.clock.advance(Duration::from_secs(5 * 3600));
    prepared.vault.config.datasets[0].retention.keep_last = 1;
    let before = prepared.contents();
    let refused = prepared.vault.prune().await.unwrap_err();
    assert!(refused.chain().contains("replica r2 has lost snapshot"), "{refused:?}");
    assert!(harmed(&before, &prepared.contents()).is_empty());

    // Where it never showed any, the others are pruned.
    std::fs::remove_dir_all(&prepared.vault.config.state_directory).unwrap();
    prepared.vault.prune().await.unwrap();
}

/// What this host has seen may be the only witness of a loss.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_the_memory_of_this_host_cannot_be_read() {
    let mut prepared = Prepared::new().await;
    let folder = prepared.vault.config.state_directory.join("datasets").join(DATASET);
    for file in ["seen", "shown"].map(|file| folder.join(file)) {
        for is_folder in [false, true] {
            let when = format!("{}, is_folder = {is_folder}", file.display());
            prepared.reset();
            std::fs::remove_file(&file).unwrap();
            if is_folder { std::fs::create_dir(&file) } else { std::fs::write(&file, "") }.unwrap();
            prepared.vault.clock.advance(Duration::from_secs(5 * 3600));
            prepared.vault.config.datasets[0].retention.keep_last = 1;
            let before = prepared.contents();
            let refused = prepared.vault.prune().await.unwrap_err();
            let hint = refused.hint_text().unwrap_or_default();
            assert!(refused.chain().contains(file.to_str().unwrap()), "{when}: {refused:?}");
            assert!(hint.contains("remove it if `lifeboat verify` finds nothing"), "{when}: {refused:?}");
            assert!(changed(&before, &prepared.contents()).is_empty(), "{when}");
            let report = prepared.vault.backup(&source(9)).await.unwrap();
            let warned = report.warnings.iter().filter(|warning| warning.contains(file.to_str().unwrap())).count();
            assert_eq!(warned, usize::from(file.ends_with("seen")), "{when}: {:?}", report.warnings);
            // It is not replaced by a younger memory.
            assert!(prepared.vault.prune().await.is_err(), "{when}");
            if is_folder { std::fs::remove_dir(&file) } else { std::fs::remove_file(&file) }.unwrap();
            prepared.vault.prune().await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_program_has_seen_is_still_a_witness() {
    let mut prepared = Prepared::new().await;
    let file = prepared.vault.config.state_directory.join("datasets").join(DATASET).join("shown");
    prepared.reset();
    let lost = "20200101T000000000Z-00000001";
    let stay: Vec<&str> = prepared.stay.iter().map(|(snapshot, _)| snapshot.as_str()).collect();
    std::fs::write(&file, json!({ "r1": stay, "r2": stay }).to_string()).unwrap();
    prepared.vault.prune().await.unwrap();
    std::fs::write(&file, json!({ "r1": stay, "r2": [lost] }).to_string()).unwrap();
    let refused = prepared.vault.prune().await.unwrap_err();
    assert!(refused.chain().contains(&format!("replica r2 has lost snapshot {lost}")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_a_killed_run_is_no_witness_of_a_loss() {
    let mut vault = TestVault::new(1, 1).await;
    vault.config.limits.run = Duration::from_secs(30 * 24 * 3600);
    let grace = vault.config.limits.longest_run();
    vault.config.datasets[0].retention = Retention { keep_last: 1, grace, ..Retention::default() };
    let mut before = Vec::new();
    for seed in 0..2 {
        before.push(vault.backup(&source(seed)).await.unwrap().snapshot);
    }
    let manifest = layout::manifest(&name(DATASET), &before[1]);
    // What a run leaves that is killed before its act: a manifest that follows the first snapshot.
    let place = vault.replica_path(1);
    std::fs::remove_file(place.join(layout::signature(&manifest))).unwrap();
    std::fs::remove_file(place.join(layout::act(&name(DATASET), 2))).unwrap();
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    for seed in 2..6 {
        vault.backup(&source(seed)).await.unwrap();
        let (_, outcome) = vault.prune().await.unwrap_or_else(|error| panic!("prune {seed}: {error:?}"));
        assert!(outcome.failures.is_empty(), "{outcome:?}");
        vault.clock.advance(grace / 2 + Duration::from_secs(1));
    }
    assert!(!place.join(layout::manifest(&name(DATASET), &before[0])).exists(), "the predecessor was not pruned");
    vault.prune().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_manifest_that_contradicts_others_about_a_pack_is_found() {
    let vault = TestVault::new(1, 1).await;
    let good = vault.backup(&source(0)).await.unwrap().snapshot;
    let hand = Hand::of(&vault.config, &vault.master);
    let mut wrong = [1, 2].map(|number| hand.successor(&good, number));
    wrong[0].packs[0].size += 1;
    wrong[1].packs[0].content += 1;
    for manifest in &wrong {
        hand.put_manifest(manifest);
    }
    let pack = layout::pack(&name(DATASET), &hand.manifest(&good).packs[0].id);
    let reader = vault.open(vault.owner()).await.unwrap();
    for read_data in [false, true] {
        let (now, token) = (vault.clock.now(), CancellationToken::new());
        let dataset = name(DATASET);
        let report = verify(&reader, &dataset, Some(&good), read_data, now, &token).await.unwrap();
        assert!(report.findings.is_empty(), "{report:?}");
        let report = verify(&reader, &dataset, None, read_data, now, &token).await.unwrap();
        let told: Vec<&str> =
            report.findings.iter().filter(|found| found.object == pack).map(|found| found.problem.as_str()).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        for snapshot in wrong.iter().map(|manifest| &manifest.snapshot).chain([&good]) {
            assert!(told.iter().any(|told| told.contains(&format!("needed by {snapshot}"))), "{snapshot}: {told:?}");
        }
        assert_eq!(report.coverage.of_packs, hand.manifest(&good).packs.len() as u64);
    }
}
