//! Logs: what is recorded before an identity opens anything, and that no log can be cut or changed
//! unnoticed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hosts;
mod kept;
mod tampering;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_tests::programs::Output;
use lifeboat_tests::rooted::RootedVault;
use serde_json::Value;

/// A vault with a backup, its backup host `db1`, its owner `ann` and the drill host `drill1`.
async fn vault() -> RootedVault {
    let vault = RootedVault::new().await;
    vault.set_up("db1", &["shop"], &[]).await;
    assert!(vault.once("db1").await.status.success());
    vault.configure("drill1", &vault.owners(), &[]);
    std::fs::rename(vault.path("db1/keys").join(DRILL_HOST_FOLDER), vault.path("drill1/keys")).unwrap();
    vault
}

/// A restore with the owner's identity from this machine. `more` are flags.
async fn restore(vault: &RootedVault, host: &str, more: &[&str]) -> Output {
    let out = tempfile::tempdir_in(vault.path("")).unwrap();
    let (target, identity) = (out.path().join("out").display().to_string(), vault.identity("ann"));
    let words = ["--identity", &identity, "restore", "shop", "--to-directory", &target];
    let output = vault.lifeboat(host, &[&words[..], more].concat()).await;
    assert_eq!(output.status.success(), Path::new(&target).join("shop").exists(), "{output}");
    output
}

async fn restore_as_owner(vault: &RootedVault) {
    let owner = vault.path("ann").display().to_string();
    let restored = restore(vault, "db1", &["--owner-directory", &owner, "--reason", "to try it"]).await;
    assert!(restored.status.success(), "{restored}");
}

async fn drill(vault: &RootedVault) -> Output {
    vault.lifeboat("drill1", &["drill", "shop", "--level", "fetched"]).await
}

/// `audit` of one replica, or of a copy of it, by somebody who has seen nothing.
async fn audit_of(vault: &RootedVault, folder: &Path, words: &[&str]) -> Output {
    let folder = folder.display().to_string();
    let words = [&["--json", "audit"], words, &["--directory", &folder, "--owner", &vault.owner]].concat();
    vault.plain(&words).await
}

/// What `audit show` tells, of a replica.
async fn shown(vault: &RootedVault, replica: &str) -> Vec<Value> {
    let shown = audit_of(vault, &vault.path(replica), &["show"]).await;
    assert!(shown.status.success(), "{shown}");
    shown.json().unwrap()["records"].as_array().unwrap().clone()
}

/// The head of a log, as `audit verify` prints it.
async fn head(vault: &RootedVault, log: &str) -> String {
    let checked = audit_of(vault, &vault.path("r1"), &["verify"]).await;
    let logs = checked.json().unwrap()["logs"].as_array().unwrap().clone();
    let of = logs.iter().find(|row| row["log"] == log);
    of.unwrap_or_else(|| panic!("{checked}"))["head"].as_str().unwrap().to_owned()
}

/// The logs of both replicas, to be put back.
struct Logs(BTreeMap<PathBuf, Vec<u8>>);

impl Logs {
    fn of(vault: &RootedVault) -> Self {
        let files = ["r1/log", "r2/log"].map(|folder| lifeboat_tests::vault::files_below(&vault.path(folder)));
        Self(files.concat().into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect())
    }

    fn put_back(&self, vault: &RootedVault) {
        for folder in ["r1/log", "r2/log"] {
            std::fs::remove_dir_all(vault.path(folder)).unwrap();
        }
        for (file, content) in &self.0 {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        }
    }
}
