//! What a thief, a broken disk or a mistake can do to a vault, and what Lifeboat says of it.
//!
//! The single replica case shows that damage is found; the two replica case shows that it does not
//! matter.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use lifeboat_engine::Class;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::keys::ReaderKeys;
use lifeboat_engine::keys::trust::Trust;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use tokio_util::sync::CancellationToken;

fn one(vault: &TestVault, replica: usize, folder: &str, ending: &str) -> PathBuf {
    let all = files_below(&vault.replica_path(replica).join(folder));
    all.into_iter().find(|file| file.to_string_lossy().ends_with(ending)).expect("there is such an object")
}

async fn vault_with_snapshot(replicas: usize) -> (TestVault, SnapshotId) {
    let vault = TestVault::new(replicas, replicas).await;
    let report = vault.backup(&MemorySource::of(noise(1_000_000, 1))).await.unwrap();
    (vault, report.snapshot)
}

async fn findings(vault: &TestVault, read_data: bool) -> Vec<String> {
    let reader = vault.open(vault.owner()).await.unwrap();
    let report =
        verify(&reader, &name(DATASET), None, read_data, vault.clock.now(), &CancellationToken::new()).await.unwrap();
    report.findings.into_iter().map(|finding| format!("{} {}", finding.object, finding.problem)).collect()
}

const KINDS: [(&str, &str); 5] = [
    ("datasets/shop/packs", ".zst.age"),
    ("datasets/shop/snapshots", ".json.zst.age"),
    ("datasets/shop/snapshots", ".minisig"),
    ("datasets/shop/index", ".zst.age"),
    ("keyring/datasets/shop", ".age"),
];

/// Each way to harm a file, by name.
type Harm = fn(&Path);

fn harms() -> Vec<(&'static str, Harm)> {
    vec![
        ("missing", |path| std::fs::remove_file(path).unwrap()),
        ("empty", |path| std::fs::write(path, b"").unwrap()),
        ("truncated", |path| {
            let content = std::fs::read(path).unwrap();
            std::fs::write(path, &content[..content.len() / 2]).unwrap();
        }),
        ("cut by two bytes", |path| {
            let content = std::fs::read(path).unwrap();
            std::fs::write(path, &content[..content.len() - 2]).unwrap();
        }),
        ("bit-flipped", |path| {
            let mut content = std::fs::read(path).unwrap();
            let middle = content.len() * 2 / 3;
            content[middle] ^= 1;
            std::fs::write(path, content).unwrap();
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_every_harm_to_every_kind_of_object() {
    let (vault, _) = vault_with_snapshot(1).await;
    assert_eq!(findings(&vault, true).await, Vec::<String>::new());
    for (folder, ending) in KINDS {
        let path = one(&vault, 1, folder, ending);
        let whole = std::fs::read(&path).unwrap();
        for (harm, apply) in harms() {
            apply(&path);
            let found = if ending == ".age" && folder.starts_with("keyring") {
                // Without the keyring the owner cannot look into packs: that is an error, not a
                // finding.
                let reader = vault.open(vault.owner()).await.unwrap();
                verify(&reader, &name(DATASET), None, true, vault.clock.now(), &CancellationToken::new()).await.is_err()
                    || !findings(&vault, false).await.is_empty()
            } else if folder.ends_with("index") && harm == "missing" {
                // Only deduplication needs it; the packs it names are all accounted for by
                // manifests.
                true
            } else {
                let found = findings(&vault, true).await;
                // A manifest without its signature is no snapshot: verify sees a vault without it,
                // and says what is left over.
                !found.is_empty() || (harm == "missing" && folder.ends_with("snapshots"))
            };
            assert!(found, "{harm} {ending} in {folder} was not found");
            std::fs::write(&path, &whole).unwrap();
        }
    }
    assert_eq!(findings(&vault, true).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_harm_to_one_replica_prevents_a_restore_from_the_other() {
    let (vault, snapshot) = vault_with_snapshot(2).await;
    for (folder, ending) in KINDS {
        let path = one(&vault, 1, folder, ending);
        let whole = std::fs::read(&path).unwrap();
        for (harm, apply) in harms() {
            apply(&path);
            let restored = vault.restore(&snapshot).await;
            let restored = restored.unwrap_or_else(|error| panic!("{harm} {ending} in {folder}: {error:?}"));
            assert!(restored["data"] == noise(1_000_000, 1), "{harm} {ending} in {folder}");
            std::fs::write(&path, &whole).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_harmed_pack_in_the_only_replica_never_restores_as_success() {
    let (vault, snapshot) = vault_with_snapshot(1).await;
    let path = one(&vault, 1, "datasets/shop/packs", ".age");
    let whole = std::fs::read(&path).unwrap();
    for (harm, apply) in harms() {
        apply(&path);
        let error = vault.restore(&snapshot).await.unwrap_err();
        assert_eq!(error.class(), Class::Integrity, "{harm}: {error:?}");
        std::fs::write(&path, &whole).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_pack_of_one_dataset_offered_for_another() {
    let (vault, snapshot) = vault_with_snapshot(1).await;
    let (other, _) = {
        let other = TestVault::new(1, 1).await;
        let report = other.backup(&MemorySource::of(noise(1_000_000, 2))).await.unwrap();
        (other, report.snapshot)
    };
    let theirs = one(&other, 1, "datasets/shop/packs", ".age");
    let ours = one(&vault, 1, "datasets/shop/packs", ".age");
    std::fs::copy(theirs, ours).unwrap();
    assert_eq!(vault.restore(&snapshot).await.unwrap_err().class(), Class::Integrity);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_swapped_manifests_even_with_their_signatures() {
    let (vault, first) = vault_with_snapshot(1).await;
    let second = vault.backup(&MemorySource::of(noise(1_000_000, 3))).await.unwrap().snapshot;
    let folder = vault.replica_path(1).join("datasets/shop/snapshots");
    for ending in [".json.zst.age", ".json.zst.age.minisig"] {
        let (a, b) = (folder.join(format!("{first}{ending}")), folder.join(format!("{second}{ending}")));
        let kept = std::fs::read(&a).unwrap();
        std::fs::rename(&b, &a).unwrap();
        std::fs::write(&b, kept).unwrap();
    }
    for snapshot in [&first, &second] {
        let error = vault.restore(snapshot).await.unwrap_err();
        assert_eq!(error.class(), Class::Integrity, "{error:?}");
        assert!(error.chain().contains("the signature belongs to"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_manifest_signed_by_a_stranger() {
    let (vault, snapshot) = vault_with_snapshot(1).await;
    // The same vault, read by somebody who trusts another host only.
    let stranger = TestVault::new(1, 1).await;
    let keys = ReaderKeys { trust: stranger.owner().trust, ..vault.owner() };
    let reader = vault.open(keys).await.unwrap();
    let error = reader.manifest(&name(DATASET), &snapshot).await.unwrap_err();
    assert_eq!(error.class(), Class::Keys, "{error:?}");
    assert!(error.hint_text().unwrap().contains("trusted_signers"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trusted_signer_nothing_is_believed() {
    let (vault, _) = vault_with_snapshot(1).await;
    let keys = ReaderKeys { trust: Trust::listed(Vec::new(), Vec::new()), ..vault.owner() };
    let error = vault.open(keys).await.err().unwrap();
    assert_eq!(error.class(), Class::Keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_identity_is_a_keys_error_that_says_what_to_pass() {
    let (vault, snapshot) = vault_with_snapshot(1).await;
    let stranger = TestVault::new(1, 1).await;
    let keys = ReaderKeys { identities: stranger.master_identities(), ..vault.owner() };
    let reader = vault.open(keys).await.unwrap();
    let error = reader.streams(&name(DATASET), &snapshot).await.err().unwrap();
    assert_eq!(error.class(), Class::Keys, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_survives_a_forged_index_segment_and_builds_on_what_is_signed() {
    let (vault, _) = vault_with_snapshot(1).await;
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let index = one(&vault, 1, "datasets/shop/index", ".age");
    let mut content = std::fs::read(&index).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&index, content).unwrap();
    let report = vault.backup(&MemorySource::of(noise(1_000_000, 1))).await.unwrap();
    assert!(report.stored_bytes > 1_000_000, "a forged index segment was used");
    assert!(report.warnings.iter().any(|warning| warning.contains("deduplicated")), "{:?}", report.warnings);
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == noise(1_000_000, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_predecessor_is_a_finding_unless_it_was_pruned() {
    let (mut vault, first) = vault_with_snapshot(1).await;
    vault.backup(&MemorySource::of(noise(1_000_000, 1))).await.unwrap();
    let folder = vault.replica_path(1).join("datasets/shop/snapshots");
    let away = vault.place.path().join("away");
    std::fs::create_dir(&away).unwrap();
    let names = [format!("{first}.json.zst.age"), format!("{first}.json.zst.age.minisig")];
    names.iter().for_each(|name| std::fs::rename(folder.join(name), away.join(name)).unwrap());
    let found = findings(&vault, false).await;
    assert!(found.iter().any(|finding| finding.contains("is missing") && finding.contains("follows it")), "{found:?}");
    names.iter().for_each(|name| std::fs::rename(away.join(name), folder.join(name)).unwrap());

    vault.config.datasets[0].retention.keep_last = 1;
    vault.sweep().await.unwrap();
    assert!(!folder.join(&names[0]).exists());
    assert_eq!(findings(&vault, true).await, Vec::<String>::new());
}
