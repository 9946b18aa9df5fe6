//! Our software is not needed to recover: the script in FORMAT.md, as it is printed there, restores
//! with stock tools.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lifeboat_engine::format::id::SnapshotId;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};
use lifeboat_tests::{recovery, tools};

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
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("restored 4 of 4 streams"), "{name}: {said}");
        assert!(std::fs::read(out.join("database/sh op")).unwrap() == *expected, "{name} differs");
        assert_eq!(std::fs::read(out.join("globals")).unwrap(), b"CREATE ROLE app;\n");
        assert!(std::fs::read(out.join("table")).unwrap() == table(at), "{name} differs in its rows");
        assert!(std::fs::read(out.join("database/empty")).unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_refuses_strangers_swaps_and_other_formats() {
    let vault = TestVault::new(1, 1).await;
    let first = vault.backup(&MemorySource::of(noise(1_000_000, 1))).await.unwrap().snapshot;
    let second = vault.backup(&MemorySource::of(noise(1_000_000, 2))).await.unwrap().snapshot;
    let stranger = TestVault::new(1, 1).await;
    let copy = copied(&vault);
    let refused = |signer: &str, snapshot: &SnapshotId, out: &str| {
        let out = vault.place.path().join(out);
        let done = recover(&vault, &copy, signer, snapshot.as_str(), &out);
        assert!(!done.status.success() && !out.exists(), "{} passed", out.display());
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    refused(&stranger.init.signer, &first, "signed by a stranger");
    let facts = copy.join("vault.json");
    let honest = std::fs::read_to_string(&facts).unwrap();
    let rewrite = |key: &str, value: serde_json::Value| {
        let mut changed: serde_json::Value = serde_json::from_str(&honest).unwrap();
        changed[key] = value;
        std::fs::write(&facts, changed.to_string()).unwrap();
    };
    rewrite("requires", serde_json::json!(["tides"]));
    let said = refused(&vault.init.signer, &first, "requires what is unknown");
    assert!(said.contains("vault.json requires ['tides'], which this script does not know"), "{said}");
    rewrite("format", serde_json::json!(3));
    assert!(refused(&vault.init.signer, &first, "of format 3").contains("format 3"));
    rewrite("vault", serde_json::json!("0123456789abcdef0123456789abcdef"));
    assert!(refused(&vault.init.signer, &first, "of another vault").contains("signature"));
    std::fs::write(&facts, &honest).unwrap();
    let snapshots = copy.join("datasets/shop/snapshots");
    for ending in [".json.zst.age", ".json.zst.age.minisig"] {
        std::fs::rename(snapshots.join(format!("{second}{ending}")), snapshots.join(format!("{first}{ending}")))
            .unwrap();
    }
    assert!(refused(&vault.init.signer, &first, "swapped").contains("the manifest's signature is for"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_restores_what_is_good_and_names_the_rest() {
    let vault = TestVault::new(1, 1).await;
    let packs = || -> BTreeSet<PathBuf> {
        let files = files_below(&vault.replica_path(1)).into_iter();
        files.filter(|file| file.to_string_lossy().contains("/packs/")).collect()
    };
    let old = ("old".to_owned(), noise(1_000_000, 1));
    let source = |streams| MemorySource { streams, ..MemorySource::default() };
    vault.backup(&source(vec![old.clone()])).await.unwrap();
    let before = packs();
    let streams = vec![("new".to_owned(), noise(1_000_000, 2)), old.clone(), ("folder/empty".to_owned(), Vec::new())];
    vault.backup(&source(streams)).await.unwrap();
    let new: Vec<PathBuf> = packs().difference(&before).cloned().collect();
    let flip = |file: &Path| {
        let mut content = std::fs::read(file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(file, content).unwrap();
    };
    let damage = |reason: &str, change: &dyn Fn(&Path)| {
        let copy = copied(&vault);
        new.iter().for_each(|pack| change(&copy.join(pack.strip_prefix(vault.replica_path(1)).unwrap())));
        let out = vault.place.path().join(reason);
        let done = recover(&vault, &copy, &vault.init.signer, "latest", &out);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{reason}: {said}");
        assert!(said.contains("skipped 'new': pack ") && said.contains(reason), "{reason}: {said}");
        assert!(said.contains("restored 2 of 3 streams"), "{reason}: {said}");
        assert_eq!(files_below(&out), [out.join("folder/empty"), out.join("old")], "{reason}");
        assert!(std::fs::read(out.join("old")).unwrap() == old.1, "{reason}: the good stream differs");
        std::fs::remove_dir_all(copy).unwrap();
    };
    damage("is damaged", &flip);
    damage("is missing", &|pack| std::fs::remove_file(pack).unwrap());
}

#[test]
fn the_script_restores_nothing_without_b3sum() {
    let place = tempfile::tempdir().unwrap();
    let (path, out) = (place.path().join("bin"), place.path().join("out"));
    std::fs::create_dir(&path).unwrap();
    for tool in recovery::TOOLS.into_iter().filter(|tool| *tool != "b3sum") {
        std::os::unix::fs::symlink(tools::find(tool), path.join(tool)).unwrap();
    }
    let mut bash = Command::new(tools::find("bash"));
    bash.args(["-c", &recovery::script(), "recover.sh", "vault", "identity", "signer", DATASET, "latest"]).arg(&out);
    let done = bash.env("PATH", &path).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && !out.exists(), "{said}");
    assert!(said.contains("b3sum: not found") && said.lines().count() == 1, "{said}");
}
