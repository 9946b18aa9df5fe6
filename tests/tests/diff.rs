//! What changed between two snapshots, by manifests alone and by rows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use lifeboat_engine::diff::{RowChange, SnapshotDiff, StreamState, count_rows};
use lifeboat_engine::keys::HostKeys;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};
use tempfile::TempDir;

fn lines(numbers: impl Iterator<Item = usize>) -> Vec<u8> {
    numbers.flat_map(|n| format!("{n}\t{}\n", blake3::hash(&n.to_le_bytes())).into_bytes()).collect()
}

fn source(streams: &[(&str, Vec<u8>)]) -> MemorySource {
    let streams = streams.iter().map(|(name, content)| ((*name).to_owned(), content.clone())).collect();
    MemorySource { streams, ..MemorySource::default() }
}

fn state(diff: &SnapshotDiff, stream: &str) -> (StreamState, u64) {
    let stream = diff.streams.iter().find(|one| one.stream == stream).unwrap();
    (stream.state, stream.fresh_bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_removed_and_stored_anew_is_told() {
    let vault = TestVault::new(2, 2).await;
    let still = noise(3 << 20, 1);
    let before = [("gone", lines(0..50)), ("orders", lines(0..20_000)), ("still", still.clone())];
    let old = vault.backup(&source(&before)).await.unwrap().snapshot;
    vault.clock.advance(Duration::from_secs(60));
    // 40 rows are gone, 30 are new; of two that are equal, one more.
    let changed = lines((0..9_000).chain(9_040..20_000).chain(30_000..30_030).chain(std::iter::once(5)));
    let more = lines(50_000..50_010);
    let after = [("more", more.clone()), ("orders", changed), ("still", [&still[..], b"end\n"].concat())];
    let new = vault.backup(&source(&after)).await.unwrap().snapshot;

    // What a backup host can open is enough for bytes.
    let host = HostKeys::load(&vault.config.keys).unwrap().reader();
    let reader = vault.open(host).await.unwrap();
    let diff = reader.diff(&name(DATASET), &old, &new).await.unwrap();
    assert_eq!((&diff.old, &diff.new), (&old, &new));
    assert_eq!(state(&diff, "gone"), (StreamState::Removed, 0));
    assert_eq!(state(&diff, "more"), (StreamState::Added, more.len() as u64));
    let (orders, fresh) = state(&diff, "orders");
    assert_eq!(orders, StreamState::Changed);
    assert!((30 * 60..800_000).contains(&fresh), "{fresh} bytes of orders are new");
    let (_, fresh) = state(&diff, "still");
    assert!((4..1 << 20).contains(&fresh), "{fresh} bytes of what only grew by 4 are new");
    assert!(diff.tables.is_none() && diff.new_packs > 0 && diff.new_pack_bytes > 0);
    let scratch = TempDir::new().unwrap();
    let refused = count_rows(&reader, &mut diff.clone(), scratch.path()).await.unwrap_err();
    assert_eq!(refused.class(), lifeboat_engine::Class::Keys, "{refused:?}");

    let reader = vault.open(vault.owner()).await.unwrap();
    let mut counted = reader.diff(&name(DATASET), &old, &new).await.unwrap();
    assert_eq!(counted, diff);
    count_rows(&reader, &mut counted, scratch.path()).await.unwrap();
    let change = |table: &str, added, removed| RowChange { table: table.to_owned(), added, removed };
    let expected = [change("gone", 0, 50), change("more", 10, 0), change("orders", 31, 40)];
    let tables = counted.tables.unwrap();
    assert_eq!(tables[..3], expected);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "hashes of rows are left on the disk");

    let mut back = reader.diff(&name(DATASET), &new, &old).await.unwrap();
    count_rows(&reader, &mut back, scratch.path()).await.unwrap();
    assert_eq!(back.tables.unwrap()[2], change("orders", 40, 31));
    let same = reader.diff(&name(DATASET), &new, &new).await.unwrap();
    assert!(same.streams.iter().all(|one| (one.state, one.fresh_bytes) == (StreamState::Unchanged, 0)));
}
