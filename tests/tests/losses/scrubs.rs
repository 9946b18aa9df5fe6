//! What a scrub finds in replicas whose objects were damaged, and what it writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::config::Retention;
use lifeboat_engine::format::layout;
use lifeboat_engine::keep::scrub::{ReplicaScrub, Scrub, ScrubProgress, next_due};
use lifeboat_engine::state::StateDirectory;
use lifeboat_engine::store::{FailingReplica, Failure, SharedReplica};
use lifeboat_tests::by_hand::{Contents, Hand, changed, contents, drill_signer};
use lifeboat_tests::vault::{DATASET, MemorySource, TestVault, files_below, name, noise};

use crate::prepared::source;

const DAY: Duration = Duration::from_secs(86_400);

/// Replicas with objects of every kind.
async fn vault(replicas: usize) -> TestVault {
    let mut vault = TestVault::new(replicas, 1).await;
    vault.config.datasets[0].retention =
        Retention { keep_last: 2, grace: Duration::from_secs(7200), ..Retention::default() };
    for seed in 0..3 {
        vault.backup(&source(seed)).await.unwrap();
    }
    vault.sweep().await.unwrap();
    vault.backup(&source(3)).await.unwrap();
    vault.prune().await.unwrap();
    let id = vault.backup(&source(4)).await.unwrap().snapshot;
    let hand = Hand::of(&vault.config, &vault.master);
    hand.put_signed(&drill_signer(&vault.config), &layout::drill(&name(DATASET), &id), b"{}");
    vault
}

fn places(vault: &TestVault) -> Vec<PathBuf> {
    (1..=vault.replicas.len()).map(|replica| vault.replica_path(replica)).collect()
}

fn flip(file: &Path, at: usize) {
    let mut body = std::fs::read(file).unwrap();
    body[at] ^= 1;
    std::fs::write(file, body).unwrap();
}

/// Scrubs whatever is due. Each slice begins as after a restart.
async fn scrub(vault: &TestVault, replicas: &[SharedReplica]) -> ScrubProgress {
    let (keys, state) = (vault.keys().unwrap(), StateDirectory::open(&vault.config.state_directory).unwrap());
    let dataset = &vault.config.datasets[0];
    let scrub =
        Scrub { config: &vault.config, dataset, keys: &keys, replicas, state: &state, clock: vault.clock.clone() };
    loop {
        let mut progress = ScrubProgress::read(&state, &dataset.name);
        let now = lifeboat_engine::clock::Clock::now(vault.clock.as_ref());
        let names = replicas.iter().map(|replica| replica.name());
        let Some((_, next)) = next_due(&progress, names, vault.config.scrub_period, now) else { return progress };
        let replica = replicas.iter().find(|replica| replica.name() == next).unwrap();
        let done = scrub.slice(replica, progress.entry(replica.name())).await;
        progress.write(&state, &dataset.name).unwrap();
        done.unwrap();
    }
}

/// A whole round.
async fn round(vault: &TestVault) -> ScrubProgress {
    scrub(vault, &vault.replicas).await;
    vault.clock.advance(28 * DAY);
    scrub(vault, &vault.replicas).await
}

fn of(progress: &ScrubProgress, replica: usize) -> &ReplicaScrub {
    progress.of(&name(&format!("r{replica}"))).unwrap()
}

/// The objects in which this byte can be flipped so that it shows.
fn flippable(place: &Path, at: usize) -> Vec<PathBuf> {
    let shows = |file: &PathBuf| {
        let key = file.strip_prefix(place).unwrap().to_str().unwrap();
        // Nobody signs the first line of a signature, and the id of the vault could be that of
        // another one.
        !key.ends_with("/lease") && (at == 0 || key != layout::VAULT) && (at > 0 || !layout::is_signature(key))
    };
    files_below(place).into_iter().filter(shows).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_any_object_is_found_and_repaired() {
    let vault = vault(3).await;
    let (places, before) = (places(&vault), contents(&places(&vault)));
    let progress = round(&vault).await;
    assert!((1..=3).all(|replica| of(&progress, replica).damaged_objects() == 0), "{progress:?}");
    assert!(changed(&before, &contents(&places)).is_empty());

    let mut rounds = vec![of(&progress, 3).objects];
    for (of_length, replica) in [(0, 1), (2, 2), (3, 3)] {
        let files = flippable(&places[replica - 1], of_length);
        for folder in ["packs", "snapshots", "index", "order", "marks", "prunes", "drills", "keyring/datasets", "hosts"]
        {
            assert!(files.iter().any(|file| file.to_str().unwrap().contains(folder)), "no object is in {folder}");
        }
        for file in &files {
            let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
            flip(file, length.checked_div(of_length).unwrap_or_default());
        }
        let progress = round(&vault).await;
        let left: Vec<PathBuf> = changed(&before, &contents(&places));
        assert!(left.is_empty(), "byte 1/{of_length}: {left:?}; {progress:?}");
        assert_eq!(of(&progress, replica).damaged_objects(), 0, "{progress:?}");
        assert!(of(&progress, replica).repaired > 10, "{progress:?}");
        rounds.push(of(&progress, 3).objects);
    }
    let signed = |file: &&PathBuf| !layout::is_signature(file.to_str().unwrap());
    let objects = files_below(&places[2]).iter().filter(signed).count();
    // The keyring comes first, and a round begins when the one before has ended; `vault.json` is
    // looked at beside the rounds.
    let wanted: Vec<u64> = (1..=4).map(|round| 1 + round * (objects as u64 - 1)).collect();
    assert_eq!(rounds, wanted, "each round looks at every object once");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_the_whole_one_repairs_the_other() {
    let vault = vault(2).await;
    let (places, before) = (places(&vault), contents(&places(&vault)));
    for file in flippable(&places[0], 2) {
        let key = file.strip_prefix(&places[0]).unwrap().to_str().unwrap().to_owned();
        // One copy stands against one.
        if !key.starts_with(layout::HOSTS) && layout::parse_host_identity(&key).is_none() {
            flip(&file, usize::try_from(file.metadata().unwrap().len()).unwrap() / 2);
        }
    }
    let progress = round(&vault).await;
    assert_eq!(changed(&before, &contents(&places)), Vec::<PathBuf>::new(), "{progress:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_everywhere_is_named_and_nothing_is_deleted_until_one_is_whole() {
    let vault = vault(2).await;
    let places = places(&vault);
    round(&vault).await;
    let before = contents(&places);
    let key = |kind: &str| {
        let files = files_below(&places[0].join(format!("datasets/{DATASET}/{kind}")));
        files[0].strip_prefix(&places[0]).unwrap().to_str().unwrap().to_owned()
    };
    let keys = [key("packs"), key("snapshots"), key("order")];
    for place in &places {
        keys.iter().for_each(|key| flip(&place.join(key), 100));
    }
    let harmed: Contents = contents(&places);
    let progress = round(&vault).await;
    for replica in [1, 2] {
        let damaged: Vec<&String> = of(&progress, replica).damaged.keys().collect();
        assert_eq!(damaged.len(), keys.len(), "{damaged:?}");
        assert!(keys.iter().all(|key| damaged.contains(&key)), "{damaged:?}");
    }
    assert!(changed(&harmed, &contents(&places)).is_empty(), "something was written or deleted");

    // Somebody puts whole copies back in one replica.
    for key in &keys {
        std::fs::write(places[1].join(key), &before[&places[1].join(key)]).unwrap();
    }
    vault.clock.advance(Duration::from_secs(601));
    let progress = scrub(&vault, &vault.replicas).await;
    assert!([1, 2].iter().all(|replica| of(&progress, *replica).damaged_objects() == 0), "{progress:?}");
    assert!(changed(&before, &contents(&places)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_transit_and_objects_of_strangers_are_no_damage() {
    let vault = vault(2).await;
    let places = places(&vault);
    let hand = Hand::of(&vault.config, &vault.master);
    let stranger = lifeboat_engine::keys::sign::Signer::generate().unwrap();
    let id = lifeboat_engine::format::id::SnapshotId::new(lifeboat_engine::clock::Clock::now(vault.clock.as_ref()), 1);
    hand.put_signed(&stranger, &layout::manifest(&name(DATASET), &id), b"x");
    hand.put("datasets/shop/notes.txt", b"x");
    let before = contents(&places);
    let failing = Arc::new(FailingReplica::new(vault.replicas[0].clone()));
    let replicas: Vec<SharedReplica> = vec![failing.clone(), vault.replicas[1].clone()];
    vault.clock.advance(DAY);
    scrub(&vault, &replicas).await;
    vault.clock.advance(29 * DAY);
    // Some answers are wrong, and the second look at an object is right: it follows soon.
    for call in (1..900).step_by(61) {
        failing.fail(failing.calls() + call, Failure::Flipped);
    }
    let progress = scrub(&vault, &replicas).await;
    assert_eq!((of(&progress, 1).repaired, of(&progress, 1).damaged_objects()), (0, 0), "{progress:?}");
    assert!(changed(&before, &contents(&places)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_far_too_long_is_replaced_and_not_read_whole() {
    let vault = vault(2).await;
    let places = places(&vault);
    let before = contents(&places);
    for (kind, size) in [("packs", 3 << 30), ("snapshots", 3 << 30), ("order", 1 << 30), ("prunes", 1 << 30)] {
        let file = files_below(&places[0].join(format!("datasets/{DATASET}/{kind}"))).remove(0);
        std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(size).unwrap();
    }
    let progress = round(&vault).await;
    assert_eq!(of(&progress, 1).repaired, 4, "{progress:?}");
    assert!(changed(&before, &contents(&places)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_object_that_another_host_may_have_changed_is_not_overwritten() {
    let mut vault = vault(2).await;
    vault.config.datasets[0].hosts = vec![name("db1"), name("db2")];
    let places = places(&vault);
    let file = places[0].join(layout::keyring_generation(&name(DATASET), 1));
    let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
    flip(&file, length - 1);
    let harmed = contents(&places);
    let progress = round(&vault).await;
    let damage = &of(&progress, 1).damaged[&layout::keyring_generation(&name(DATASET), 1)];
    assert!(damage.unrepaired.contains("lifeboat init"), "{damage:?}");
    assert!(changed(&harmed, &contents(&places)).is_empty());
    // What is no keyring object at all is nobody's.
    std::fs::write(&file, b"rubbish").unwrap();
    vault.clock.advance(Duration::from_secs(601));
    let progress = scrub(&vault, &vault.replicas).await;
    assert_eq!(of(&progress, 1).damaged_objects(), 0, "{progress:?}");
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(places[1].join("keyring/datasets/shop/1.age")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_while_another_run_holds_the_lock() {
    let vault = vault(2).await;
    let places = places(&vault);
    let file = files_below(&places[0].join(format!("datasets/{DATASET}/packs"))).remove(0);
    let before = contents(&places);
    flip(&file, 9);
    let state = StateDirectory::open(&vault.config.state_directory).unwrap();
    let lock = state.lock_dataset(&name(DATASET)).await.unwrap();
    let progress = round(&vault).await;
    assert_eq!(of(&progress, 1).damaged_objects(), 1, "{progress:?}");
    assert_ne!(std::fs::read(&file).unwrap(), before[&file]);
    drop(lock);
    vault.clock.advance(Duration::from_secs(601));
    let progress = scrub(&vault, &vault.replicas).await;
    assert_eq!((of(&progress, 1).damaged_objects(), of(&progress, 1).repaired), (0, 1), "{progress:?}");
    assert!(changed(&before, &contents(&places)).is_empty());
    // Backups go on.
    vault.backup(&MemorySource::of(noise(10_000, 5))).await.unwrap();
}

/// A master was lost, say, and `init` has written the keys anew in one replica, and failed at the
/// others.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_object_that_was_written_later_is_not_put_back() {
    let vault = vault(3).await;
    let places = places(&vault);
    round(&vault).await;
    let key = layout::keyring_generation(&name(DATASET), 1);
    let file = places[0].join(&key);
    // In the body, so that it is still an age file.
    flip(&file, usize::try_from(file.metadata().unwrap().len()).unwrap() - 1);
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    let before = contents(&places);
    let progress = round(&vault).await;
    assert!(changed(&before, &contents(&places)).is_empty(), "it was overwritten");
    assert!(of(&progress, 1).damaged.contains_key(&key), "{progress:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vault_json_of_a_newer_program_is_never_overwritten() {
    let vault = vault(2).await;
    let places = places(&vault);
    round(&vault).await;
    let file = places[0].join(layout::VAULT);
    let newer = std::fs::read_to_string(&file).unwrap().replace("\"format\": 2", "\"format\": 3");
    assert!(newer.contains("\"format\": 3"), "{newer}");
    std::fs::write(&file, newer).unwrap();
    let before = contents(&places);
    let (keys, state) = (vault.keys().unwrap(), StateDirectory::open(&vault.config.state_directory).unwrap());
    let scrub = Scrub {
        config: &vault.config,
        dataset: &vault.config.datasets[0],
        keys: &keys,
        replicas: &vault.replicas,
        state: &state,
        clock: vault.clock.clone(),
    };
    let error = scrub.slice(&vault.replicas[0], &mut ReplicaScrub::default()).await.unwrap_err();
    assert!(error.chain().contains("format 3"), "{error:?}");
    assert!(changed(&before, &contents(&places)).is_empty(), "something was written");
}

/// A host whose signer is not trusted here has committed in one replica, and this one in the other.
#[tokio::test(flavor = "multi_thread")]
async fn another_act_of_the_same_number_is_not_overwritten() {
    let vault = vault(2).await;
    let places = places(&vault);
    round(&vault).await;
    let stranger = lifeboat_engine::keys::sign::Signer::generate().unwrap();
    let act = files_below(&places[0].join(format!("datasets/{DATASET}/order")))
        .into_iter()
        .find(|file| file.extension().is_some_and(|end| end == "act"))
        .unwrap();
    let stored = std::fs::read_to_string(&act).unwrap();
    let (line, _) = stored.split_once('\n').unwrap();
    let line = format!("{}\n", line.replacen("\"time\":\"20", "\"time\":\"19", 1));
    let key = act.strip_prefix(&places[0]).unwrap().to_str().unwrap().to_owned();
    let comment = layout::trusted_comment(&vault.keys().unwrap().vault, &key);
    let signature = stranger.sign(line.as_bytes(), &comment).unwrap();
    std::fs::write(&act, format!("{line}{signature}")).unwrap();
    let before = contents(&places);
    let progress = round(&vault).await;
    assert!(changed(&before, &contents(&places)).is_empty(), "it was overwritten");
    assert!(of(&progress, 1).damaged.contains_key(&key), "{progress:?}");
}
