//! Key generations: a snapshot may need packs of several of them.

use std::collections::BTreeSet;

use age::Recipient;
use age::secrecy::ExposeSecret;
use data_encoding::HEXLOWER;
use lifeboat_engine::clock::Clock;
use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::format::extents::{Extent, Extents};
use lifeboat_engine::format::id::{Digest, SnapshotId};
use lifeboat_engine::format::manifest::{Manifest, PackRef};
use lifeboat_engine::format::pack::PackWriter;
use lifeboat_engine::format::{frames, layout};
use lifeboat_engine::keep::catch_up::ReplicaState;
use lifeboat_engine::keep::verify::verify;
use lifeboat_engine::keys::parse_recipients;
use lifeboat_engine::stages::encrypt;
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::recovery;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};
use tokio_util::sync::CancellationToken;

use crate::{caught_up, findings};

const LEVEL: i32 = 3;
const SECOND: u32 = 2;

/// Adds a second generation of the dataset's keys, as FORMAT.md says it.
fn second_generation(vault: &TestVault, hand: &Hand) -> (age::x25519::Identity, ChunkIdKey) {
    let (identity, chunk_id_key) = (age::x25519::Identity::generate(), [7_u8; 32]);
    let text = format!(
        "# lifeboat dataset key\n# vault: {}\n# dataset: {DATASET}\n# generation: {SECOND}\n# chunk-id-key: {}\n{}\n",
        hand.keys.vault,
        HEXLOWER.encode(&chunk_id_key),
        identity.to_string().expose_secret(),
    );
    let masters = parse_recipients(&vault.config.keys.master_recipients).unwrap();
    let masters = masters.iter().map(|master| master.as_ref() as &dyn Recipient);
    hand.put(&layout::keyring_generation(&hand.dataset, SECOND), &encrypt(masters, text.as_bytes()).unwrap());
    (identity, ChunkIdKey::new(&chunk_id_key).unwrap())
}

/// Puts a pack of the second generation that holds these chunks.
fn put_pack(hand: &Hand, recipient: &dyn Recipient, key: &ChunkIdKey, chunks: &[&[u8]]) -> PackRef {
    let mut pack = PackWriter::new(Vec::new());
    for chunk in chunks {
        pack.push(key.id_of(chunk), chunk.len(), &frames::compress(LEVEL, chunk).unwrap()).unwrap();
    }
    let filled = pack.finish().unwrap();
    let object = encrypt(std::iter::once(recipient), &filled.out).unwrap();
    let id = Digest::of(&object);
    hand.put(&layout::pack(&hand.dataset, &id), &object);
    PackRef { id, size: object.len() as u64, content: filled.content, generation: SECOND }
}

/// Puts a snapshot after `first`: a new chunk, what the first one held, and another new chunk.
fn put_snapshot(vault: &TestVault, hand: &Hand, first: &SnapshotId, data: &[u8]) -> (SnapshotId, Vec<u8>) {
    let (identity, key) = second_generation(vault, hand);
    let (begin, end) = (noise(50_000, 11), b"the end, which compresses".repeat(4000));
    let pack = put_pack(hand, &identity.to_public(), &key, &[&begin, &end]);
    let all = [&begin[..], data, &end].concat();

    let Manifest { mut packs, mut streams, mut accounting, .. } = hand.manifest(first);
    let older = hand.manifest(first);
    let older = older.extents(&older.streams[0], &older.contents()).unwrap();
    let number = packs.len() as u32;
    let new = |offset: usize, length: usize| Extent { pack: number, offset: offset as u64, length: length as u64 };
    let extents = [new(0, begin.len())].into_iter().chain(older.iter()).chain([new(begin.len(), end.len())]);
    packs.push(pack);
    streams[0].extents = Extents::of(extents).unwrap().bytes().clone();
    (streams[0].length, streams[0].blake3) = (all.len() as u64, Digest::of(&all));
    accounting.unused.push(0);
    accounting.raw_bytes = all.len() as u64;
    let manifest = Manifest { packs, streams, accounting, ..hand.successor(first, 7) };

    // A host with the second generation encrypts its documents to that.
    let (operations, dataset) = (hand.keys.operations.to_public(), identity.to_public());
    let readers: [&dyn Recipient; 2] = [&operations, &dataset];
    let sealed = encrypt(readers.into_iter(), &manifest.to_plaintext().unwrap()).unwrap();
    hand.put_signed(&hand.keys.signer, &layout::manifest(&hand.dataset, &manifest.snapshot), &sealed);
    (manifest.snapshot, all)
}

/// Verify reads all data, and finds nothing wrong.
async fn assert_whole(vault: &TestVault, at_least: usize) {
    let reader = vault.open(vault.owner()).await.unwrap();
    let report =
        verify(&reader, &name(DATASET), None, true, vault.clock.now(), &CancellationToken::new()).await.unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    assert!(report.decrypted_bytes >= at_least as u64, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_two_generations_is_restored_whole_and_verified() {
    let vault = TestVault::new(2, 2).await;
    let data = noise(400_000, 1);
    let first = vault.backup(&MemorySource::of(data.clone())).await.unwrap().snapshot;
    let hand = Hand::of(&vault.config, &vault.master);
    let (snapshot, all) = put_snapshot(&vault, &hand, &first, &data);
    let reader = vault.open(vault.owner()).await.unwrap();
    let manifest = reader.manifest(&name(DATASET), &snapshot).await.unwrap();
    assert_eq!(manifest.generations(), BTreeSet::from([1, SECOND]));
    assert!(vault.restore(&snapshot).await.unwrap()["data"] == all);
    assert!(vault.restore(&first).await.unwrap()["data"] == data);
    assert_whole(&vault, 2 * all.len()).await;

    let out = vault.place.path().join("out");
    let done = recovery::recover(&hand.replicas[0], &vault.master, &vault.init.signer, DATASET, "latest", &out);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(std::fs::read(out.join("data")).unwrap() == all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_one_generation_keeps_copies_and_follows_a_snapshot_of_two() {
    let mut vault = TestVault::new(2, 2).await;
    let data = noise(400_000, 1);
    let first = vault.backup(&MemorySource::of(data.clone())).await.unwrap().snapshot;
    let mut hand = Hand::of(&vault.config, &vault.master);
    let both = hand.replicas.clone();
    hand.replicas.truncate(1);
    let (snapshot, all) = put_snapshot(&vault, &hand, &first, &data);
    hand.replicas = both;

    // The other replica lacks the second generation's keys, too.
    let states = caught_up(&vault).await;
    assert_eq!((states[1].behind, states[1].last_complete.as_ref()), (0, Some(&snapshot)), "{states:?}");
    assert_whole(&vault, 2 * all.len()).await;
    std::fs::rename(vault.replica_path(1), vault.place.path().join("away")).unwrap();
    assert!(vault.restore(&snapshot).await.unwrap()["data"] == all);
    std::fs::rename(vault.place.path().join("away"), vault.replica_path(1)).unwrap();

    let report = vault.backup(&MemorySource::of(all.clone())).await.unwrap();
    assert!(vault.restore(&report.snapshot).await.unwrap()["data"] == all);
    let manifest = hand.manifest(&report.snapshot);
    assert_eq!((manifest.sequence, manifest.predecessor()), (3, Some(&snapshot)));

    // Without the keys of one generation, a replica alone restores the snapshot no more.
    let key = layout::keyring_generation(&name(DATASET), SECOND);
    std::fs::remove_file(hand.replicas[1].join(&key)).unwrap();
    let found = findings(&vault).await;
    assert_eq!(found.iter().map(|finding| finding.object.as_str()).collect::<Vec<_>>(), [key.as_str()], "{found:?}");
    caught_up(&vault).await;

    vault.config.datasets[0].retention.keep_last = 1;
    let (plan, outcome) = vault.sweep().await.unwrap();
    assert!(plan.removed().eq([&first, &snapshot]) && outcome.failures.is_empty(), "{plan:?} {outcome:?}");
    assert_whole(&vault, 2 * data.len()).await;
}

/// This host has no copy of the other generation's keys, and nobody signs them.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_generation_are_copied_only_if_more_than_one_replica_can_speak_for_them() {
    let vault = TestVault::new(4, 1).await;
    let data = noise(400_000, 1);
    let first = vault.backup(&MemorySource::of(data.clone())).await.unwrap().snapshot;
    let mut hand = Hand::of(&vault.config, &vault.master);
    let all = hand.replicas.clone();
    hand.replicas.truncate(3);
    let (snapshot, _) = put_snapshot(&vault, &hand, &first, &data);
    let key = layout::keyring_generation(&name(DATASET), SECOND);
    let (right, forged) = (hand.read(&key), hand.read(&layout::keyring_generation(&name(DATASET), 1)));
    std::fs::write(all[0].join(&key), forged).unwrap();

    // With r3 away, one says this and one says that.
    let away = vault.place.path().join("away");
    std::fs::rename(vault.replica_path(3), &away).unwrap();
    let of_r4 = |states: Vec<ReplicaState>| states.into_iter().find(|state| state.replica == name("r4")).unwrap();
    let state = of_r4(caught_up(&vault).await);
    assert!(state.error.as_ref().unwrap().contains("different"), "{state:?}");
    // With r2's gone, too, only the forged one is left.
    std::fs::remove_file(all[1].join(&key)).unwrap();
    let state = of_r4(caught_up(&vault).await);
    assert!(state.error.as_ref().unwrap().contains("r1 alone"), "{state:?}");
    assert!(!all[1].join(&key).exists() && !all[3].join(&key).exists(), "one replica was believed");

    std::fs::rename(&away, vault.replica_path(3)).unwrap();
    std::fs::write(all[1].join(&key), &right).unwrap();
    let state = of_r4(caught_up(&vault).await);
    assert_eq!((&state.error, state.last_complete.as_ref()), (&None, Some(&snapshot)), "{state:?}");
    assert!(std::fs::read(all[3].join(&key)).unwrap() == right);
}
