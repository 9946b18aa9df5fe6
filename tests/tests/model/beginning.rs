//! What each case begins with: an empty vault, and empty directories for the states of hosts.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use lifeboat_engine::keys::{HostKeys, ReaderKeys};
use lifeboat_tests::vault::{TestVault, files_below};
use tempfile::TempDir;

use crate::region::Objects;

/// An empty vault, from which each case begins.
pub(crate) struct Beginning {
    pub(crate) vault: TestVault,
    pub(crate) keys: HostKeys,
    pub(crate) owner: ReaderKeys,
    pub(crate) objects: Objects,
}

impl Beginning {
    pub(crate) async fn new() -> Self {
        let vault = TestVault::new(2, 1).await;
        let root = vault.replica_path(1);
        let object = |file: &PathBuf| {
            let key = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            (key, Bytes::from(std::fs::read(file).unwrap()))
        };
        let objects: Objects = files_below(&root).iter().map(object).collect();
        let (keys, owner) = (vault.keys().unwrap(), vault.owner());
        Self { vault, keys, owner, objects }
    }
}

/// A directory in memory if there is one: states are written to disk after each step.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}
