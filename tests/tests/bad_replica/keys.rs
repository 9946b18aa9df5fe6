//! Keys in one bad replica: nobody signs them, and whoever knows a master's public key can make
//! some that the master opens. `init` neither adopts nor spreads them.

use std::sync::Arc;

use lifeboat_engine::Class;
use lifeboat_engine::clock::SharedClock;
use lifeboat_engine::format::chunk_id::ChunkIdKey;
use lifeboat_engine::format::keyring::DatasetSecrets;
use lifeboat_engine::format::layout;
use lifeboat_engine::keys::{InitOptions, ReaderKeys, init, parse_recipients};
use lifeboat_engine::stages::encrypt;
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, name, noise, read_all};

use crate::content;

/// Keys of the attacker's own, wrapped to the masters: their public keys are no secret.
pub(crate) fn forged_keys(vault: &TestVault, dataset: &str, generation: u32) -> Vec<u8> {
    let secrets = DatasetSecrets {
        vault: vault.init.vault.clone(),
        dataset: name(dataset),
        generation,
        identity: zeroize_identity(),
        chunk_id_key: ChunkIdKey::new(&[7; 32]).unwrap(),
    };
    to_masters(vault, secrets.to_text().as_bytes())
}

fn to_masters(vault: &TestVault, plaintext: &[u8]) -> Vec<u8> {
    let masters = parse_recipients(&vault.config.keys.master_recipients).unwrap();
    encrypt(masters.iter().map(|master| master.as_ref() as &dyn age::Recipient), plaintext).unwrap()
}

fn zeroize_identity() -> zeroize::Zeroizing<String> {
    use age::secrecy::ExposeSecret;
    zeroize::Zeroizing::new(age::x25519::Identity::generate().to_string().expose_secret().to_owned())
}

/// A host that takes over has no keys of its own, and the master opens what anybody wrapped to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_over_adopts_no_keys_that_one_replica_alone_has() {
    let mut vault = TestVault::new(2, 1).await;
    let snapshot = vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().snapshot;
    vault.config.keys.trusted_signers = vec![vault.init.signer.clone()];
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    let generation = layout::keyring_generation(&name(DATASET), 2);
    let of_host = layout::host_identity(&vault.config.host);
    for (key, forged) in
        [(&generation, forged_keys(&vault, DATASET, 2)), (&of_host, to_masters(&vault, zeroize_identity().as_bytes()))]
    {
        std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
        let place = vault.replica_path(1).join(key);
        let ours = std::fs::read(&place).ok();
        std::fs::write(&place, &forged).unwrap();
        let before = (content(&vault.replica_path(1)), content(&vault.replica_path(2)));
        let refused = init(&vault.config, &vault.replicas, &options, &clock).await;
        let refused = refused.err().unwrap_or_else(|| panic!("a forged {key} was adopted"));
        assert!(refused.message().contains("different keys in r1 and in r2"), "{refused:?}");
        assert!(refused.message().contains(key), "{refused:?}");
        assert!((content(&vault.replica_path(1)), content(&vault.replica_path(2))) == before, "something was written");
        match ours {
            Some(ours) => std::fs::write(&place, ours).unwrap(),
            None => std::fs::remove_file(&place).unwrap(),
        }
        let taken_over = init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
        assert_eq!(vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().stored_bytes, 0);
        // The next host comes after this one.
        vault.config.keys.trusted_signers.push(taken_over.signer);
        assert!(vault.restore(&snapshot).await.unwrap()["data"] == noise(200_000, 1));
    }
}

/// Those that are not forged speak against it, also by having nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_over_adopts_no_keys_that_another_replica_lacks_or_holds_closed() {
    let mut vault = TestVault::new(2, 1).await;
    vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap();
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    vault.config.keys.trusted_signers = vec![vault.init.signer.clone()];
    let mut second = vault.config.datasets[0].clone();
    second.name = name("next");
    vault.config.datasets.push(second);
    let root = |replica: usize| vault.replica_path(replica);
    let key = layout::keyring_generation(&name(DATASET), 1);
    let ours = std::fs::read(root(1).join(&key)).unwrap();
    let stranger = age::x25519::Identity::generate().to_public();
    let closed = encrypt(std::iter::once(&stranger as &dyn age::Recipient), b"keys").unwrap();
    let next = layout::keyring_generation(&name("next"), 1);

    std::fs::create_dir_all(root(1).join(&next).parent().unwrap()).unwrap();
    for (forged, dataset, of_second, why) in [
        (&key, DATASET, Some(closed), "r2 holds others, which no given identity opens"),
        (&next, "next", None, "r2 holds the vault, and none of these keys"),
    ] {
        std::fs::write(root(1).join(forged), forged_keys(&vault, dataset, 1)).unwrap();
        if let Some(closed) = of_second {
            std::fs::write(root(2).join(forged), closed).unwrap();
        }
        std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
        let before = (content(&root(1)), content(&root(2)));
        let refused = init(&vault.config, &vault.replicas, &options, &clock).await;
        let refused = refused.err().unwrap_or_else(|| panic!("a forged {forged} was adopted"));
        assert!(refused.message().contains(why), "{refused:?}");
        assert!((content(&root(1)), content(&root(2))) == before, "something was written");
        std::fs::remove_file(root(1).join(forged)).unwrap();
        for replica in [1, 2] {
            std::fs::write(root(replica).join(&key), &ours).unwrap();
        }
    }
    // A replica that is new and empty does not speak against it.
    std::fs::remove_dir_all(root(2)).unwrap();
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    assert_eq!(vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().stored_bytes, 0);
}

/// What is damaged is not missing: new keys in its place would open none of the backups.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_over_makes_no_keys_where_all_are_damaged() {
    let mut vault = TestVault::new(2, 1).await;
    let snapshot = vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().snapshot;
    vault.config.keys.trusted_signers = vec![vault.init.signer.clone()];
    std::fs::remove_dir_all(&vault.config.state_directory).unwrap();
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    let (first, second) = (vault.replica_path(1), vault.replica_path(2));
    for key in [layout::keyring_generation(&name(DATASET), 1), layout::host_identity(&vault.config.host)] {
        let ours = std::fs::read(first.join(&key)).unwrap();
        for damaged in [&b""[..], &ours[..10], b"no age file"] {
            // The second replica is as damaged, has lost the object, or has lost everything.
            for state in ["damaged", "without it", "empty"] {
                std::fs::write(first.join(&key), damaged).unwrap();
                std::fs::write(second.join(&key), damaged).unwrap();
                let aside = second.with_extension("aside");
                match state {
                    "without it" => std::fs::remove_file(second.join(&key)).unwrap(),
                    "empty" => {
                        std::fs::rename(&second, &aside).unwrap();
                        std::fs::create_dir(&second).unwrap();
                    }
                    _ => {}
                }
                std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
                let before = (content(&first), content(&second));
                let refused = init(&vault.config, &vault.replicas, &options, &clock).await;
                let refused = refused.err().unwrap_or_else(|| panic!("{state}: keys were made beside a damaged {key}"));
                assert_eq!(refused.class(), Class::Integrity, "{refused:?}");
                let places = if state == "damaged" { 2 } else { 1 };
                for replica in ["r1", "r2"].into_iter().take(places) {
                    assert!(refused.message().contains(&format!("{key} in {replica}")), "{state}: {refused:?}");
                }
                assert!((content(&first), content(&second)) == before, "{state}: something was written");
                assert!(!vault.config.keys.host_bundle.path().exists(), "{state}");
                if state == "empty" {
                    std::fs::remove_dir_all(&second).unwrap();
                    std::fs::rename(&aside, &second).unwrap();
                }
            }
        }
        for replica in [&first, &second] {
            std::fs::write(replica.join(&key), &ours).unwrap();
        }
    }
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    assert_eq!(vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().stored_bytes, 0);
    assert!(vault.restore(&snapshot).await.unwrap()["data"] == noise(200_000, 1));
}

/// To have the others left aside, a replica can say that its vault has the newer format.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_a_format_that_is_only_read_still_tell_whose_keys_are_right() {
    let vault = TestVault::new(2, 1).await;
    let place = vault.replica_path(2).join(layout::VAULT);
    let json = std::fs::read_to_string(&place).unwrap();
    std::fs::write(&place, json.replace("\"format\": 2", "\"format\": 1")).unwrap();
    let key = layout::keyring_generation(&name(DATASET), 1);
    std::fs::write(vault.replica_path(1).join(key), forged_keys(&vault, DATASET, 1)).unwrap();
    std::fs::remove_dir_all(&vault.config.keys.directory).unwrap();
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    let refused = init(&vault.config, &vault.replicas, &options, &clock).await.unwrap_err();
    assert!(refused.message().contains("different keys in r1 and in r2"), "{refused:?}");
}

/// Either `vault.json` may be the one that was changed.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_formats_init_blames_neither_replica_and_says_how_to_tell() {
    let vault = TestVault::new(2, 1).await;
    let clock: SharedClock = vault.clock.clone();
    let init = async || init(&vault.config, &vault.replicas, &InitOptions::default(), &clock).await.unwrap();
    for (older, newer) in [(1, 2), (2, 1)] {
        let place = vault.replica_path(older).join(layout::VAULT);
        let json = std::fs::read_to_string(&place).unwrap();
        std::fs::write(&place, json.replace("\"format\": 2", "\"format\": 1")).unwrap();
        let before = content(&vault.replica_path(older));
        let told = init().await.unreached;
        assert!(content(&vault.replica_path(older)) == before, "something was written to r{older}");
        assert_eq!(told.len(), 1, "{told:?}");
        for part in ["one of the two", "`lifeboat show DATASET --json`", &format!("r{older}"), &format!("r{newer}")] {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
        assert!(!told[0].contains("changed its vault.json"), "{told:?}");
        std::fs::write(&place, json).unwrap();
        assert_eq!(init().await.unreached, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_change_and_the_keys_stay_whatever_a_replica_holds() {
    let mut vault = TestVault::new(2, 1).await;
    let snapshot = vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap().snapshot;
    let key = layout::keyring_generation(&name(DATASET), 1);
    std::fs::write(vault.replica_path(1).join(&key), forged_keys(&vault, DATASET, 1)).unwrap();
    std::fs::remove_file(vault.replica_path(2).join(&key)).unwrap();
    let newcomer = age::x25519::Identity::generate();
    vault.config.keys.drill_recipients = vec![newcomer.to_public().to_string()];
    let clock: SharedClock = vault.clock.clone();
    let options = InitOptions { identities: vault.master_identities(), ..InitOptions::default() };
    init(&vault.config, &vault.replicas, &options, &clock).await.unwrap();
    let next = vault.backup(&MemorySource::of(noise(200_000, 1))).await.unwrap();
    assert_eq!(next.stored_bytes, 0, "another key names the chunks");
    let newcomers = ReaderKeys { identities: vec![Arc::new(newcomer)], ..vault.owner() };
    for snapshot in [&snapshot, &next.snapshot] {
        let reader = vault.open(newcomers.clone()).await.unwrap();
        let restored = read_all(&reader.streams(&name(DATASET), snapshot).await.unwrap()).await.unwrap();
        assert!(restored["data"] == noise(200_000, 1));
    }
}

/// A replica may hold as many hosts as `init` looks at. Copied to where there are others, they
/// would be too many everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn init_spreads_nothing_that_one_replica_alone_holds() {
    let vault = TestVault::new(2, 1).await;
    let host = |host: &str| format!(r#"{{"host": "{host}", "operations_recipient": "", "signer": ""}}"#);
    let put = |replica: usize, key: &str, content: &[u8]| {
        let place = vault.replica_path(replica).join(key);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, content).unwrap();
    };
    let of_the_vault = vault.init.objects.iter().filter(|object| object.what != layout::VAULT).count();
    let phantoms = ["phantom", DATASET].map(|dataset| layout::keyring_generation(&name(dataset), 7));
    for key in &phantoms {
        put(1, key, &to_masters(&vault, b"x"));
    }
    for number in of_the_vault + phantoms.len()..4096 {
        put(1, &format!("hosts/x{number}.json"), host(&format!("x{number}")).as_bytes());
    }
    put(2, "hosts/other.json", host("other").as_bytes());
    let before = content(&vault.replica_path(2));
    let clock: SharedClock = vault.clock.clone();
    for _ in 0..2 {
        let report = init(&vault.config, &vault.replicas, &InitOptions::default(), &clock).await.unwrap();
        assert!(report.unreached.is_empty(), "{report:?}");
        assert!(content(&vault.replica_path(2)) == before, "something was spread");
        assert!(report.notes.iter().any(|note| note.contains("only r1 holds")), "{report:?}");
        assert!(report.notes.len() < 8, "{report:?}");
    }
}
