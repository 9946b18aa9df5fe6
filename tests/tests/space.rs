//! Space: what packs hold that no snapshot needs is counted in bytes, and given back though nobody
//! here can read a pack. What is stored again for that is bounded, together with what is stored
//! again because it is scattered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_engine::format::id::PackId;
use lifeboat_engine::format::manifest::{Manifest, MapEntry};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};

const MIB: usize = 1 << 20;

/// Backs `data` up and restores it.
async fn backup(vault: &TestVault, data: &[u8]) -> Manifest {
    backup_all(vault, &MemorySource::of(data)).await
}

/// Backs all streams up and restores them.
async fn backup_all(vault: &TestVault, source: &MemorySource) -> Manifest {
    let report = vault.backup(source).await.unwrap();
    let restored = vault.restore(&report.snapshot).await.unwrap();
    assert!(source.streams.iter().all(|(name, data)| restored[name] == *data), "{} differs", report.snapshot);
    vault.open(vault.owner()).await.unwrap().manifest(&name(DATASET), &report.snapshot).await.unwrap()
}

/// The length of a map.
fn of_map(manifest: &Manifest, map: &MapEntry) -> u64 {
    manifest.map_extents(map).unwrap().iter().map(|(pack, _)| pack.content).sum()
}

fn packs(manifest: &Manifest) -> Vec<PackId> {
    manifest.packs.iter().map(|pack| pack.id).collect()
}

/// As prune would have it: these packs are sparse.
fn list_as_sparse(vault: &TestVault, packs: &BTreeSet<PackId>) {
    let path = vault.config.state_directory.join("datasets").join(DATASET).join("sparse");
    std::fs::write(path, serde_json::to_vec(packs).unwrap()).unwrap();
}

/// One row in `of`, others each time.
fn change(rows: &mut [String], version: usize, of: usize) {
    let mixed = |n: usize| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    for n in (0..rows.len()).filter(|n| mixed(*n) % of == version % of) {
        rows[n] =
            format!("{n}\t{:016x}\t{:016x}\t{version}\n", mixed(n + version * 7_777_777), mixed(n * 31 + version));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_say_what_of_each_pack_is_unused_to_the_byte() {
    let vault = TestVault::new(1, 1).await;
    let mut rows: Vec<String> = vec![String::new(); 250_000];
    change(&mut rows, 0, 1);
    let (mut mapped, mut unused) = (0, 0);
    for version in 0..14 {
        if version > 0 {
            change(&mut rows, version, 100);
        }
        let manifest = backup(&vault, rows.concat().as_bytes()).await;
        // Rows are all different: each byte of a pack is needed once, or not at all.
        let needed: Vec<u64> = manifest.packs_and_unused().map(|(pack, unused)| pack.content - unused).collect();
        let stream = &manifest.streams[0];
        let map = stream.map.as_ref().map_or(0, |map| of_map(&manifest, map));
        assert_eq!(needed.iter().sum::<u64>(), manifest.accounting.raw_bytes + map, "version {version}");
        if map == 0 {
            let mut named = vec![0; needed.len()];
            let extents = manifest.extents(stream, &manifest.contents()).unwrap();
            extents.iter().for_each(|extent| named[extent.pack as usize] += extent.length);
            assert_eq!(needed, named, "version {version}");
        }
        mapped += usize::from(map > 0);
        unused = manifest.accounting.unused.iter().filter(|unused| **unused > 0).count();
    }
    assert!(
        (4..12).contains(&mapped) && unused > 3,
        "{mapped} snapshots with maps, {unused} packs of which not all is needed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_packs_that_are_to_go_are_stored_again_and_all_others_stay_mapped() {
    let vault = TestVault::new(1, 1).await;
    let mut rows: Vec<String> = vec![String::new(); 250_000];
    change(&mut rows, 0, 1);
    let mut manifest = backup(&vault, rows.concat().as_bytes()).await;
    let first = manifest.accounting.stored_bytes;
    for version in 1..10 {
        change(&mut rows, version, 100);
        manifest = backup(&vault, rows.concat().as_bytes()).await;
    }
    assert!(manifest.streams[0].map.is_some());
    // Every other pack but the one that most of the data lies in.
    let largest = manifest.packs.iter().max_by_key(|pack| pack.content).unwrap().id;
    let hidden: BTreeSet<PackId> = packs(&manifest).into_iter().filter(|pack| *pack != largest).step_by(2).collect();
    assert!(hidden.len() > 3, "{:?}", manifest.packs);
    list_as_sparse(&vault, &hidden);
    for version in 10..13 {
        change(&mut rows, version, 100);
        let newer = backup(&vault, rows.concat().as_bytes()).await;
        assert!(packs(&newer).iter().all(|pack| !hidden.contains(pack)), "{:?}", newer.packs);
        assert!(newer.streams[0].map.is_some(), "version {version} has no map");
        let stored = newer.accounting.stored_bytes;
        assert!(stored < first / 2, "version {version} stored {stored} bytes, the first one {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_which_little_is_needed_is_given_back() {
    let mut vault = TestVault::new(2, 2).await;
    vault.config.datasets[0].retention.keep_last = 1;
    let old = noise(12 * MIB, 1);
    let first = backup(&vault, &old).await;
    let data = [noise(20 * MIB, 2), old[4 * MIB..6 * MIB].to_vec()].concat();
    let second = backup(&vault, &data).await;
    let [worn] = packs(&first)[..] else { panic!("more than one pack: {:?}", first.packs) };
    assert!(packs(&second).contains(&worn), "nothing was found in the old pack");

    // Both snapshots: all is needed. The newer one: a sixth of the old pack.
    vault.config.datasets[0].retention.keep_last = 2;
    let (plan, _) = vault.prune().await.unwrap();
    assert!(plan.sparse.is_empty() && plan.space.unused_bytes == 0, "{plan:?}");
    vault.config.datasets[0].retention.keep_last = 1;
    let (plan, outcome) = vault.prune().await.unwrap();
    let unused = outcome.space.unused_bytes as usize;
    assert!((9 * MIB..11 * MIB).contains(&unused) && outcome.space == plan.space, "{:?}", plan.space);
    assert_eq!(plan.sparse, [worn].into());

    let third = backup(&vault, &data).await;
    assert!(!packs(&third).contains(&worn), "the old pack is still needed");
    let again = third.accounting.stored_bytes as usize;
    assert!((MIB..4 * MIB).contains(&again), "stored again: {again}");
    let (plan, _) = vault.prune().await.unwrap();
    assert!(plan.waiting.iter().any(|pack| pack.key.contains(&worn.to_string())), "{plan:?}");
    // It is not found again while it waits.
    let fourth = backup(&vault, &data).await;
    assert_eq!((fourth.accounting.stored_bytes, packs(&fourth).contains(&worn)), (0, false));
    vault.clock.advance(Duration::from_secs(2 * 86_400));
    let (_, outcome) = vault.prune().await.unwrap();
    assert!(outcome.bytes > 2 * old.len() as u64, "it is still there: {outcome:?}");
    let (plan, _) = vault.prune().await.unwrap();
    assert!(plan.sparse.is_empty(), "{plan:?}");
    assert!(plan.space.unused_bytes < MIB as u64, "{:?}", plan.space);
    backup(&vault, &data).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_budget_bounds_what_is_stored_again_of_sparse_packs_and_of_all_streams() {
    let vault = TestVault::new(1, 1).await;
    let mut source = MemorySource::of(noise(10 * MIB, 1));
    let mut packs_of_data: BTreeSet<PackId> = packs(&backup_all(&vault, &source).await).into_iter().collect();
    // Two tables of about 9 MiB. A run may store 16 MiB again.
    let mut tables = [0, 6400].map(|version| (version, vec![String::new(); 220_000]));
    let mut new = Vec::new();
    for version in 0..12 {
        source.streams.truncate(1);
        for (first, rows) in &mut tables {
            change(rows, *first + version, if version == 0 { 1 } else { 64 });
            source.streams.push((format!("table {first}"), rows.concat().into_bytes()));
        }
        // Until the tables are scattered too much, and longer, 10 MiB are due.
        if (1..9).contains(&version) {
            list_as_sparse(&vault, &packs_of_data);
        }
        let manifest = backup_all(&vault, &source).await;
        let extents = manifest.extents(&manifest.streams[0], &manifest.contents()).unwrap();
        packs_of_data.extend(extents.iter().map(|extent| manifest.packs[extent.pack as usize].id));
        new.push((manifest.accounting.raw_bytes - manifest.accounting.deduplicated_bytes) as usize);
    }
    let lengths = tables.map(|(_, rows)| rows.concat().len());
    assert!(lengths.iter().all(|length| (8 * MIB..10 * MIB).contains(length)), "{lengths:?}");
    let (due, free) = new[1..].split_at(8);
    assert!(due.iter().all(|new| (10 * MIB..12 * MIB).contains(new)), "{new:?}");
    assert!(free[..2].iter().all(|new| (8 * MIB..11 * MIB).contains(new)), "{new:?}");
    assert!(free[2] < 2 * MIB, "{new:?}");
}
