//! Our software is not needed to recover: the script in FORMAT.md, as it is printed there, restores
//! with stock tools.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lifeboat_engine::format::id::SnapshotId;
use lifeboat_tests::recovery;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise};

fn recover(vault: &TestVault, copy: &Path, signer: &str, snapshot: &str, out: &Path) -> Output {
    recovery::recover(copy, &vault.master, signer, DATASET, snapshot, out)
}

fn copied(vault: &TestVault) -> PathBuf {
    let copy = vault.place.path().join("copy");
    let done = Command::new("cp").arg("-r").arg(vault.replica_path(1)).arg(&copy).status().unwrap();
    assert!(done.success());
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn any_snapshot_comes_back_with_stock_tools_also_a_deduplicated_one() {
    let vault = TestVault::new(1, 1).await;
    let mut data = noise(40_000_000, 1);
    // Rows of which another one in 64 is changed each time: put together from several packs, in the
    // end by a map.
    let table = |version: usize| -> Vec<u8> {
        let row = |n: usize| {
            let changed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40 & 63;
            let version = if changed <= version { changed } else { 0 };
            format!("{n}\t{:016x}\t{:016x}\t{version}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n * 7919 + version)
        };
        (0..500_000).flat_map(|n| row(n).into_bytes()).collect()
    };
    let source = |data: &[u8], version: usize| MemorySource {
        streams: vec![
            ("table".to_owned(), table(version)),
            ("globals".to_owned(), b"CREATE ROLE app;\n".to_vec()),
            ("database/sh op".to_owned(), data.to_vec()),
            ("database/empty".to_owned(), Vec::new()),
        ],
        ..MemorySource::default()
    };
    let mut snapshots: Vec<(SnapshotId, Vec<u8>)> = Vec::new();
    for (version, edit) in [0, 20_000_000, 30_000_000, 10_000_000].into_iter().enumerate() {
        data.splice(edit..edit, *b"a business day");
        let report = vault.backup(&source(&data, version)).await.unwrap();
        snapshots.push((report.snapshot, data.clone()));
    }
    let reader = vault.open(vault.owner()).await.unwrap();
    for ((snapshot, _), maps) in snapshots.iter().zip([0, 0, 0, 1]) {
        let manifest = reader.manifest(&name(DATASET), snapshot).await.unwrap();
        assert_eq!(manifest.streams.iter().filter(|stream| stream.map.is_some()).count(), maps, "{snapshot}");
    }
    let copy = copied(&vault);
    // Nothing but the copy, the master identity and the signer's public key.
    std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    for (at, (snapshot, expected)) in snapshots.iter().enumerate() {
        let name = if at + 1 == snapshots.len() { "latest" } else { snapshot.as_str() };
        let out = vault.place.path().join(format!("out{at}"));
        let done = recover(&vault, &copy, &vault.init.signer, name, &out);
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(!String::from_utf8_lossy(&done.stderr).contains("not checked"));
        assert!(std::fs::read(out.join("database/sh op")).unwrap() == *expected, "{name} differs");
        assert_eq!(std::fs::read(out.join("globals")).unwrap(), b"CREATE ROLE app;\n");
        assert!(std::fs::read(out.join("table")).unwrap() == table(at), "{name} differs in its rows");
        assert!(std::fs::read(out.join("database/empty")).unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_refuses_strangers_swaps_and_damage() {
    let vault = TestVault::new(1, 1).await;
    let first = vault.backup(&MemorySource::of(noise(1_000_000, 1))).await.unwrap().snapshot;
    let second = vault.backup(&MemorySource::of(noise(1_000_000, 2))).await.unwrap().snapshot;
    let stranger = TestVault::new(1, 1).await;
    let copy = copied(&vault);
    let refused = |signer: &str, snapshot: &SnapshotId, out: &str| {
        let done = recover(&vault, &copy, signer, snapshot.as_str(), &vault.place.path().join(out));
        assert!(!done.status.success(), "{out} passed");
    };
    refused(&stranger.init.signer, &first, "signed by a stranger");
    let snapshots = copy.join("datasets/shop/snapshots");
    for ending in [".json.zst.age", ".json.zst.age.minisig"] {
        std::fs::rename(snapshots.join(format!("{second}{ending}")), snapshots.join(format!("{first}{ending}")))
            .unwrap();
    }
    refused(&vault.init.signer, &first, "swapped");
    std::fs::remove_dir_all(&copy).unwrap();
    let copy = copied(&vault);
    let found = Command::new("find").arg(copy.join("datasets/shop/packs")).args(["-name", "*.age"]).output().unwrap();
    for pack in String::from_utf8(found.stdout).unwrap().lines() {
        let mut content = std::fs::read(pack).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(pack, content).unwrap();
    }
    refused(&vault.init.signer, &second, "damaged");
}
