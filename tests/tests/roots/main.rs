//! Who is believed, where owners have signed a root: on the built programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks;
mod floors;
mod life;
mod revoked;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use lifeboat_engine::config::{Config, Surroundings};
use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::format::keyring::DatasetSecrets;
use lifeboat_engine::keys::{HostKeys, parse_recipients};
use lifeboat_engine::stages::encrypt;
use lifeboat_tests::rooted::RootedVault;
use lifeboat_tests::vault::{files_below, name};
use serde_json::Value;

/// All files below a folder, by their names in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let named = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        (name, std::fs::read(&path).unwrap())
    };
    files_below(folder).into_iter().map(named).collect()
}

/// Makes a folder hold these files and no others.
fn put_back(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

async fn report(vault: &RootedVault, words: &[&str]) -> Value {
    let output = vault.lifeboat("db1", &[&["--json"], words].concat()).await;
    assert!(output.status.success(), "{output}");
    output.json().unwrap()
}

/// As key files must be.
fn keep_private(folder: &Path) {
    for file in files(folder).keys() {
        std::fs::set_permissions(folder.join(file), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The keys of a host.
fn keys_of(vault: &RootedVault, host: &str) -> HostKeys {
    let config = Config::load(&vault.config(host), &Surroundings::default()).unwrap();
    HostKeys::load(&config.keys).unwrap()
}

/// Keys of a dataset that an attacker made, for the owner's master.
fn forged(vault: &RootedVault, id: &str, generation: u32) -> Vec<u8> {
    let identity = age::x25519::Identity::generate().to_string().expose_secret().to_owned();
    let secrets = DatasetSecrets {
        vault: id.to_owned(),
        dataset: name("shop"),
        generation,
        identity: identity.into(),
        chunk_id_key: ChunkIdKey::new(&[7; 32]).unwrap(),
    };
    let masters = parse_recipients(&[vault.master("ann")]).unwrap();
    encrypt(masters.iter().map(|master| master.as_ref() as &dyn age::Recipient), secrets.to_text().as_bytes()).unwrap()
}
