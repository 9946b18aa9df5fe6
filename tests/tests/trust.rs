//! Who can do what: the promises about keys, tried.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use lifeboat_engine::Class;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::Secret;
use lifeboat_engine::format::id::SnapshotId;
use lifeboat_engine::keys::{DRILL_HOST_FOLDER, InitOptions, ReaderKeys, init, parse_identities, parse_recipients};
use lifeboat_engine::stages::decrypt;
use lifeboat_engine::store::{FailingReplica, Failure};
use lifeboat_tests::tools;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise, read_all};

/// Every age identity that can be had from these bytes.
fn identities_in(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("AGE-SECRET-KEY-1"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_on_a_backup_host_decrypts_a_pack() {
    let vault = TestVault::new(2, 2).await;
    vault.backup(&MemorySource::of(noise(1_000_000, 1))).await.unwrap();
    // As `init` says, the drill host's files leave this host.
    let keys = &vault.config.keys;
    std::fs::rename(keys.directory.join(DRILL_HOST_FOLDER), vault.place.path().join("drill-host")).unwrap();

    let mut identities = Vec::new();
    let held: Vec<_> =
        files_below(&keys.directory).into_iter().chain(files_below(&vault.config.state_directory)).collect();
    assert!(held.len() > 4, "{held:?}");
    for file in &held {
        identities.extend(identities_in(&std::fs::read(file).unwrap()));
    }
    // A thief has host.key and so opens host-keys too.
    let host_key = lifeboat_engine::keys::seal::HostKey::parse(&keys.host_key.read().unwrap()).unwrap();
    let sealed = std::fs::read(keys.host_bundle.path()).unwrap();
    let opened = host_key.open("lifeboat host keys", &sealed).unwrap();
    identities.extend(identities_in(&opened));
    assert_eq!(identities.len(), 1, "the operations identity, and no other, is on the host");
    let bundle: serde_json::Value = serde_json::from_slice(&opened).unwrap();
    let raw_keys = [bundle["datasets"][DATASET]["chunk_id_key"].as_str().unwrap().to_owned()];

    let packs = files_below(&vault.replica_path(1).join("datasets/shop/packs"));
    assert!(!packs.is_empty());
    for identity in identities.iter().chain(&raw_keys) {
        let place = vault.place.path().join("stolen.txt");
        std::fs::write(&place, format!("{identity}\n")).unwrap();
        for pack in &packs {
            let tried = Command::new(tools::find("age")).arg("-d").arg("-i").arg(&place).arg(pack).output().unwrap();
            assert!(!tried.status.success(), "a key on the backup host opens a pack");
        }
        for keyring in files_below(&vault.replica_path(1).join("keyring")) {
            let tried =
                Command::new(tools::find("age")).arg("-d").arg("-i").arg(&place).arg(&keyring).output().unwrap();
            assert!(!tried.status.success(), "a key on the backup host opens the keyring");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drill_identity_restores_and_the_operations_identity_does_not() {
    let vault = TestVault::new(1, 1).await;
    let snapshot = vault.backup(&MemorySource::of(noise(1_000_000, 1))).await.unwrap().snapshot;
    let drill = std::fs::read(vault.config.keys.directory.join(DRILL_HOST_FOLDER).join("drill-identity")).unwrap();
    let owner = vault.owner();
    let drill_keys = ReaderKeys { identities: parse_identities(&Secret::new(drill), "drill").unwrap(), ..owner };
    let reader = vault.open(drill_keys).await.unwrap();
    let streams = reader.streams(&name(DATASET), &snapshot).await.unwrap();
    assert!(read_all(&streams).await.unwrap()["data"] == noise(1_000_000, 1));

    let host = vault.open(vault.keys().unwrap().reader()).await.unwrap();
    assert_eq!(host.manifest(&name(DATASET), &snapshot).await.unwrap().snapshot, snapshot);
    assert_eq!(host.streams(&name(DATASET), &snapshot).await.err().unwrap().class(), Class::Keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_run_again_changes_nothing_and_serves_a_new_replica() {
    let mut vault = TestVault::new(1, 1).await;
    let snapshot = vault.backup(&MemorySource::of("x")).await.unwrap().snapshot;
    let before: Vec<_> =
        files_below(&vault.config.keys.directory).into_iter().map(|file| std::fs::read(file).unwrap()).collect();
    let mut second = vault.config.replicas[0].clone();
    second.name = name("r2");
    let place = vault.place.path().join("r2");
    std::fs::create_dir(&place).unwrap();
    second.kind = lifeboat_engine::config::ReplicaKind::Directory { path: place };
    vault.config.replicas.push(second);
    let replicas = vault.config.open_replicas(&SystemClock::shared()).await.unwrap();
    let clock: SharedClock = vault.clock.clone();
    let report = init(&vault.config, &replicas, &InitOptions::default(), &clock).await.unwrap();
    assert!(report.files.iter().all(|file| !file.created), "{report:?}");
    assert_eq!(report.vault, vault.init.vault);
    assert!(report.objects.iter().all(|object| object.advice == "in r2"), "{:?}", report.objects);
    let after: Vec<_> = files_below(&vault.config.keys.directory)
        .into_iter()
        .filter(|file| file.file_name().unwrap() != "host-keys")
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    assert!(after.iter().all(|content| before.contains(content)), "a key file changed");
    assert_eq!(vault.restore(&snapshot).await.unwrap()["data"], b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_host_takes_over_with_the_master_identity_and_not_without() {
    let mut vault = TestVault::new(1, 1).await;
    let data = noise(2_000_000, 1);
    let first = vault.backup(&MemorySource::of(data.clone())).await.unwrap().snapshot;
    let old_signer = vault.keys().unwrap().signer.public();
    std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let clock: SharedClock = vault.clock.clone();
    let refused = init(&vault.config, &vault.replicas, &InitOptions::default(), &clock).await.unwrap_err();
    assert_eq!(refused.class(), Class::Keys, "{refused:?}");
    assert!(refused.hint_text().unwrap().contains("--identity"), "{refused:?}");

    std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    let taken_over = init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    let told = |note: &String| note.contains("a drill host of before cannot open what is backed up from now on");
    assert!(taken_over.notes.iter().any(told), "{:?}", taken_over.notes);
    assert!(!vault.init.notes.iter().any(told), "{:?}", vault.init.notes);
    // The new host trusts its predecessor's snapshots because the operator says so, and
    // deduplicates against them.
    vault.config.keys.trusted_signers = vec![old_signer.to_string()];
    let second = vault.backup(&MemorySource::of(data.clone())).await.unwrap();
    assert_eq!(second.stored_bytes, 0);
    for snapshot in [&first, &second.snapshot] {
        assert!(vault.restore(snapshot).await.unwrap()["data"] == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_away_when_recipients_changed_gets_the_new_keyring_later() {
    let mut vault = TestVault::new(2, 1).await;
    let snapshot = vault.backup(&MemorySource::of("x")).await.unwrap().snapshot;
    let folder = vault.config.keys.directory.join(DRILL_HOST_FOLDER);
    let old = parse_identities(&Secret::new(std::fs::read(folder.join("drill-identity")).unwrap()), "old").unwrap();
    let newcomer = age::x25519::Identity::generate();
    vault.config.keys.drill_recipients = vec![newcomer.to_public().to_string()];
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    let silent = Arc::new(FailingReplica::new(vault.replicas[1].clone()));
    silent.fail(1, Failure::Unavailable);
    let half = init(&vault.config, &[vault.replicas[0].clone(), silent], &options, &clock).await.unwrap();
    assert_eq!(half.unreached.len(), 1, "{half:?}");
    // No identity is needed, for what is to be there was made then.
    init(&vault.config, &vault.replicas, &InitOptions::default(), &clock).await.unwrap();
    vault.replicas.remove(0);
    let newcomers = ReaderKeys { identities: vec![Arc::new(newcomer)], ..vault.owner() };
    assert!(opens(&vault, newcomers, &snapshot).await);
    let removed = ReaderKeys { identities: old, ..vault.owner() };
    assert!(!opens(&vault, removed, &snapshot).await, "the second replica still grants a removed identity");
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_that_changed_are_applied_only_with_an_identity() {
    let mut vault = TestVault::new(1, 1).await;
    let snapshot = vault.backup(&MemorySource::of("x")).await.unwrap().snapshot;
    let folder = vault.config.keys.directory.join(DRILL_HOST_FOLDER);
    let old = parse_identities(&Secret::new(std::fs::read(folder.join("drill-identity")).unwrap()), "old").unwrap();
    let newcomer = age::x25519::Identity::generate();
    vault.config.keys.drill_recipients = vec![newcomer.to_public().to_string()];
    let clock: SharedClock = vault.clock.clone();
    let report = init(&vault.config, &vault.replicas, &InitOptions::default(), &clock).await.unwrap();
    assert_eq!(report.notes.len(), 1, "{report:?}");
    let newcomers = ReaderKeys { identities: vec![Arc::new(newcomer)], ..vault.owner() };
    assert!(!opens(&vault, newcomers.clone(), &snapshot).await);
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    assert!(opens(&vault, newcomers, &snapshot).await);
    let revoked = ReaderKeys { identities: old, ..vault.owner() };
    assert!(
        !opens(&vault, revoked, &snapshot).await,
        "a drill identity that is no longer named still opens the keyring"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_master_opens_everything_also_for_a_takeover() {
    let mut vault = TestVault::new(1, 1).await;
    let snapshot = vault.backup(&MemorySource::of("x")).await.unwrap().snapshot;
    let new_master = age::x25519::Identity::generate();
    vault.config.keys.master_recipients = vec![new_master.to_public().to_string()];
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    let masters = ReaderKeys { identities: vec![Arc::new(new_master.clone())], ..vault.owner() };
    assert!(opens(&vault, masters, &snapshot).await);
    assert!(!opens(&vault, vault.owner(), &snapshot).await, "the old master still opens the keyring");

    // The backup host is lost; the new master alone makes its successor, with another drill host.
    std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let options = InitOptions { identities: vec![Arc::new(new_master)], ..InitOptions::default() };
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    let made = std::fs::read(vault.config.keys.directory.join(DRILL_HOST_FOLDER).join("drill-identity")).unwrap();
    // It cannot take a place in an order that it does not believe.
    let error = vault.backup(&MemorySource::of("y")).await.unwrap_err();
    assert!(error.chain().contains("no backup of shop can be committed"), "{error:?}");
    assert!(error.hint_text().unwrap().contains("trusted_signers"), "{error:?}");
    vault.config.keys.trusted_signers = vec![vault.init.signer.clone()];
    let second = vault.backup(&MemorySource::of("y")).await.unwrap().snapshot;
    let drill = ReaderKeys { identities: parse_identities(&Secret::new(made), "drill").unwrap(), ..vault.owner() };
    assert!(opens(&vault, drill, &second).await, "the drill identity that the takeover made opens nothing");
}

/// Makes a key pair with the real `ssh-keygen`.
fn ssh_keygen(vault: &TestVault, kind: &str, passphrase: &str) -> (PathBuf, String) {
    let key = vault.place.path().join(format!("id_{kind}{passphrase}"));
    let mut keygen = Command::new(tools::find("ssh-keygen"));
    let made = keygen.args(["-q", "-t", kind, "-N", passphrase, "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let public = std::fs::read_to_string(format!("{}.pub", key.display())).unwrap();
    (key, public.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssh_key_can_be_the_master() {
    let mut vault = TestVault::new(1, 1).await;
    let (key, public) = ssh_keygen(&vault, "ed25519", "");
    vault.config.keys.master_recipients.push(public.clone());
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    let snapshot = vault.backup(&MemorySource::of("x")).await.unwrap().snapshot;
    let identities = parse_identities(&Secret::new(std::fs::read(&key).unwrap()), "id_ed25519").unwrap();
    assert!(opens(&vault, ReaderKeys { identities: identities.clone(), ..vault.owner() }, &snapshot).await);

    // Stock age opens what Lifeboat wrapped for the key, and Lifeboat what stock age did.
    let age = |arguments: &[&OsStr]| {
        let output = Command::new(tools::find("age")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let keyring = vault.replica_path(1).join("keyring/datasets/shop/1.age");
    let opened = age(&["-d".as_ref(), "-i".as_ref(), key.as_ref(), keyring.as_ref()]);
    assert_eq!(identities_in(&opened).len(), 1);
    let sealed = age(&["-r".as_ref(), public.as_ref(), vault.master.as_ref()]);
    let opened = decrypt(identities.iter().map(|key| &**key as &dyn age::Identity), &sealed, 1 << 20).unwrap();
    assert_eq!(opened.as_slice(), std::fs::read(&vault.master).unwrap());
    let (other, _) = ssh_keygen(&vault, "ed25519", "other-passphrase");
    let refused = parse_identities(&Secret::new(std::fs::read(other).unwrap()), "other").err().unwrap();
    assert!(refused.message().contains("passphrase"), "{refused:?}");
}

/// Its implementation leaks the key by timing, and nobody fixes it (RUSTSEC-2023-0071).
#[tokio::test(flavor = "multi_thread")]
async fn ssh_rsa_keys_are_refused_with_a_way_out() {
    let vault = TestVault::new(1, 1).await;
    let (key, public) = ssh_keygen(&vault, "rsa", "");
    let recipient = parse_recipients(&[public]).err().unwrap();
    let identity = parse_identities(&Secret::new(std::fs::read(&key).unwrap()), "id_rsa").err().unwrap();
    for (refused, class) in [(recipient, Class::Configuration), (identity, Class::Keys)] {
        assert_eq!(refused.class(), class);
        assert!(refused.message().contains("RUSTSEC-2023-0071"), "{refused:?}");
        assert!(refused.hint_text().unwrap().contains("lifeboat init --identity"), "{refused:?}");
    }
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    assert!(!lock.contains("name = \"rsa\""), "the crate rsa is linked in");
}

/// Whether these keys restore the snapshot of `x` or `y`.
async fn opens(vault: &TestVault, keys: ReaderKeys, snapshot: &SnapshotId) -> bool {
    let reader = vault.open(keys).await.unwrap();
    let Ok(streams) = reader.streams(&name(DATASET), snapshot).await else { return false };
    read_all(&streams).await.unwrap()["data"].len() == 1
}
