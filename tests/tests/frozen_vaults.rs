//! Vaults that older programs wrote stay readable: for each folder in `tests/vaults`, today's
//! programs list, verify and restore all of it, and so does the script in FORMAT.md.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_tests::programs::{self, Output, run};
use lifeboat_tests::vault::files_below;
use lifeboat_tests::{recovery, tools};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(120);

/// A copy of a frozen vault, so that nothing can change the vault itself.
struct Frozen {
    name: String,
    copy: TempDir,
    signer: String,
    snapshots: Vec<Snapshot>,
}

/// What a snapshot must give back.
struct Snapshot {
    dataset: String,
    id: String,
    files: Vec<File>,
}

struct File {
    stream: String,
    /// As `lifeboat restore` names it.
    name: String,
    blake3: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

impl Frozen {
    fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(tools::workspace().join("tests/vaults")).expect("tests/vaults");
        let folders = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let all: Vec<Self> = folders.map(|folder| Self::copied(&folder)).collect();
        assert!(!all.is_empty(), "tests/vaults holds no vault");
        all
    }

    fn copied(folder: &Path) -> Self {
        let copy = tempfile::tempdir().unwrap();
        let done = std::process::Command::new("cp").arg("-r").arg(folder).arg(copy.path().join("vault")).status();
        assert!(done.unwrap().success());
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let expected: Value = serde_json::from_str(&read("expected.json")).unwrap();
        let file = |file: &Value| File {
            stream: text(&file["stream"]),
            name: text(&file["file"]),
            blake3: text(&file["blake3"]),
        };
        let snapshot = |snapshot: &Value| Snapshot {
            dataset: text(&snapshot["dataset"]),
            id: text(&snapshot["snapshot"]),
            files: snapshot["files"].as_array().unwrap().iter().map(file).collect(),
        };
        let snapshots = expected["snapshots"].as_array().unwrap().iter().map(snapshot).collect();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let frozen = Self { name, copy, signer: read("signer.pub").trim().to_owned(), snapshots };
        for identity in ["master.txt", "drill-identity"] {
            // Git keeps no mode but 644, and an identity is its owner's alone.
            std::fs::set_permissions(frozen.path(identity), PermissionsExt::from_mode(0o600)).unwrap();
        }
        frozen
    }

    fn path(&self, file: &str) -> PathBuf {
        self.copy.path().join("vault").join(file)
    }

    /// Runs `lifeboat` as somebody who has a copy of the bucket and `identity`.
    async fn lifeboat(&self, identity: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(programs::lifeboat());
        command.arg("--json").arg("--directory").arg(self.path("replica"));
        command.args(["--trusted-signer", &self.signer, "--identity"]).arg(self.path(identity)).args(arguments);
        let output = run(&mut command, DEADLINE).await.unwrap();
        assert!(output.status.success(), "{}: {arguments:?}: {output}", self.name);
        output
    }

    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files_below(&self.path("replica"))
            .into_iter()
            .map(|file| (file.clone(), std::fs::read(file).unwrap()))
            .collect()
    }
}

fn assert_hash(file: &Path, expected: &str, whose: &str) {
    let content = std::fs::read(file).unwrap_or_else(|error| panic!("{whose}: {}: {error}", file.display()));
    assert_eq!(blake3::hash(&content).to_hex().as_str(), expected, "{whose}: {} differs", file.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_list_every_snapshot_and_verify_all_data() {
    for vault in Frozen::all() {
        let before = vault.contents();
        let listed = vault.lifeboat("master.txt", &["list"]).await.json().unwrap();
        let listed = listed["snapshots"].as_array().unwrap();
        assert!(listed.iter().all(|snapshot| snapshot["problem"].is_null()), "{}: {listed:?}", vault.name);
        let found: Vec<_> =
            listed.iter().map(|snapshot| (text(&snapshot["dataset"]), text(&snapshot["snapshot"]))).collect();
        let expected: Vec<_> = vault.snapshots.iter().map(|known| (known.dataset.clone(), known.id.clone())).collect();
        assert_eq!(found, expected, "{}", vault.name);
        vault.lifeboat("master.txt", &["verify", "--read-data"]).await;
        assert!(vault.contents() == before, "{}: looking at the vault changed it", vault.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_restore_every_snapshot_to_masters_and_drill_hosts() {
    for vault in Frozen::all() {
        for (identity, Snapshot { dataset, id, files }) in
            ["master.txt", "drill-identity"].into_iter().flat_map(|who| vault.snapshots.iter().map(move |s| (who, s)))
        {
            let out = vault.copy.path().join(format!("{identity}-{id}"));
            let target = out.display().to_string();
            vault.lifeboat(identity, &["restore", dataset, "--snapshot", id, "--to-directory", &target]).await;
            assert_eq!(files_below(&out).len(), files.len(), "{}: {id}", vault.name);
            files.iter().for_each(|file| assert_hash(&out.join(&file.name), &file.blake3, &vault.name));
        }
    }
}

#[test]
fn stock_tools_restore_every_snapshot() {
    for vault in Frozen::all() {
        let (copy, master) = (vault.path("replica"), vault.path("master.txt"));
        for Snapshot { dataset, id, files } in &vault.snapshots {
            let out = vault.copy.path().join(id);
            let done = recovery::recover(&copy, &master, &vault.signer, dataset, id, &out);
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{}: {id}: {said}", vault.name);
            assert_eq!(files_below(&out).len(), files.len(), "{}: {id}", vault.name);
            files.iter().for_each(|file| assert_hash(&out.join(&file.stream), &file.blake3, &vault.name));
        }
    }
}
