//! One suite of guarantees, kept by every replica: the directory, the directory with retries, and S3 against real
//! SeaweedFS regions over TLS.
//!
//! What it cannot prove: that a body survives a power cut, and that stores other than SeaweedFS keep their word;
//! `lifeboat check` probes those where they are.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use lifeboat_engine::Class;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials, SecretRef};
use lifeboat_engine::replica::{
    DirectoryReplica, Probe, Replica, ReplicaError, ReplicaErrorKind, S3Replica, SharedReplica, open,
};
use lifeboat_tests::s3::{Bucket, Region, write_credential_file};
use lifeboat_tests::tls::Certificates;
use tempfile::TempDir;

/// Every guarantee, on an empty replica, which it leaves empty.
async fn conforms(replica: SharedReplica, expected: &Probe) {
    put_new_creates_and_leaves_existing_objects_alone(&*replica).await;
    of_concurrent_put_new_one_wins(&replica).await;
    put_replace_is_atomic(&replica).await;
    missing_objects_are_missing(&*replica).await;
    bodies_from_nothing_to_17_mib_come_back(&*replica).await;
    odd_but_legal_keys_work(&*replica).await;
    illegal_keys_are_refused(&*replica).await;
    listings_are_complete_sorted_and_by_any_prefix(&*replica).await;
    delete_is_idempotent(&*replica).await;
    probe_is_truthful_and_leaves_nothing(&*replica, expected).await;
}

async fn put_new_creates_and_leaves_existing_objects_alone(replica: &dyn Replica) {
    let key = "new/object";
    replica.put_new(key, Bytes::from_static(b"first")).await.unwrap();
    let refused = replica.put_new(key, Bytes::from_static(b"second")).await.unwrap_err();
    assert!(matches!(refused.kind, ReplicaErrorKind::AlreadyExists), "{refused}");
    assert_eq!(replica.get(key).await.unwrap(), "first");
    replica.delete(key).await.unwrap();
    replica.put_new(key, Bytes::from_static(b"third")).await.unwrap();
    assert_eq!(replica.get(key).await.unwrap(), "third");
    replica.delete(key).await.unwrap();
}

async fn of_concurrent_put_new_one_wins(replica: &SharedReplica) {
    for round in 0..5 {
        let key = format!("race/{round}");
        let racers = (0..8).map(|racer: u8| {
            let (replica, key) = (replica.clone(), key.clone());
            tokio::spawn(async move { replica.put_new(&key, Bytes::from(vec![racer; 100_000])).await.map(|()| racer) })
        });
        let mut winners = Vec::new();
        for outcome in futures::future::join_all(racers).await {
            match outcome.unwrap() {
                Ok(racer) => winners.push(racer),
                // A store may also say "conflict, come back later"; never both "created".
                Err(error) => assert!(
                    matches!(error.kind, ReplicaErrorKind::AlreadyExists | ReplicaErrorKind::Unavailable(_)),
                    "{error}"
                ),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?} won");
        assert_eq!(replica.get(&key).await.unwrap(), vec![winners[0]; 100_000]);
        replica.delete(&key).await.unwrap();
    }
}

async fn put_replace_is_atomic(replica: &SharedReplica) {
    const LENGTH: usize = 1024 * 1024;
    let key = "replaced";
    replica.put_replace(key, Bytes::from(vec![0; LENGTH])).await.unwrap();
    let writer = tokio::spawn({
        let replica = replica.clone();
        async move {
            for version in 1..=12 {
                replica.put_replace(key, Bytes::from(vec![version; LENGTH + usize::from(version)])).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let seen = replica.get(key).await.unwrap();
        let version = seen[0];
        assert_eq!(seen.len(), LENGTH + usize::from(version), "a mixture of versions");
        assert!(seen.iter().all(|byte| *byte == version), "a mixture of versions");
    }
    writer.await.unwrap();
    assert_eq!(replica.get(key).await.unwrap()[0], 12);
    replica.delete(key).await.unwrap();
}

async fn missing_objects_are_missing(replica: &dyn Replica) {
    replica.put_new("folder/object", Bytes::from_static(b"x")).await.unwrap();
    for missing in ["nothing", "folder", "folder/object/below", "folder/objec"] {
        let error = replica.get(missing).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert_eq!(error.key, missing);
        assert_eq!(replica.head(missing).await.unwrap(), None);
    }
    replica.delete("folder/object").await.unwrap();
}

async fn bodies_from_nothing_to_17_mib_come_back(replica: &dyn Replica) {
    let before = chrono::Utc::now();
    let mut bytes = vec![0; 17 * 1024 * 1024];
    rand::Rng::fill_bytes(&mut <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(17), &mut bytes);
    for (key, body) in [("size/nothing", Bytes::new()), ("size/large", Bytes::from(bytes))] {
        replica.put_new(key, body.clone()).await.unwrap();
        assert_eq!(replica.get(key).await.unwrap(), body);
        let meta = replica.head(key).await.unwrap().unwrap();
        assert_eq!((meta.key.as_str(), meta.size), (key, body.len() as u64));
        assert!((meta.modified - before).num_seconds().abs() < 60, "modified {}", meta.modified);
        replica.delete(key).await.unwrap();
    }
}

async fn odd_but_legal_keys_work(replica: &dyn Replica) {
    let longest = format!("odd/{}/{}", "x".repeat(200), "y".repeat(200));
    let odd = ["odd/-", "odd/_", "odd/a..b", "odd/trailing.", "odd/UPPER", "odd/upper", "odd/-._-/0", longest.as_str()];
    for key in odd {
        replica.put_new(key, Bytes::copy_from_slice(key.as_bytes())).await.unwrap();
    }
    let listed: BTreeSet<String> = replica.list("odd/").await.unwrap().into_iter().map(|meta| meta.key).collect();
    assert_eq!(listed, odd.into_iter().map(str::to_owned).collect());
    for key in odd {
        assert_eq!(replica.get(key).await.unwrap(), key);
        replica.delete(key).await.unwrap();
    }
}

async fn illegal_keys_are_refused(replica: &dyn Replica) {
    for key in ["", "/", "/etc/passwd", "../escape", "a/../../escape", "a//b", "a/", ".hidden", "sp ace", "ä", "nul\0"]
    {
        let outcomes: [Result<(), ReplicaError>; 5] = [
            replica.put_new(key, Bytes::new()).await,
            replica.put_replace(key, Bytes::new()).await,
            replica.get(key).await.map(drop),
            replica.head(key).await.map(drop),
            replica.delete(key).await,
        ];
        for outcome in outcomes {
            let error = outcome.expect_err(key);
            assert!(matches!(error.kind, ReplicaErrorKind::Other(_)), "{error}");
        }
    }
}

async fn listings_are_complete_sorted_and_by_any_prefix(replica: &dyn Replica) {
    const MANY: usize = 1037;
    assert_eq!(replica.list("").await.unwrap(), []);
    let key = |number: usize| format!("many/{:02x}/{number:05}", number % 7);
    stream::iter(0..MANY)
        .for_each_concurrent(16, |number| async move {
            replica.put_new(&key(number), Bytes::from(vec![0; number % 3])).await.unwrap();
        })
        .await;
    replica.put_new("manyfold", Bytes::new()).await.unwrap();

    let all = replica.list("").await.unwrap();
    assert_eq!(all.len(), MANY + 1);
    assert!(all.is_sorted_by(|a, b| a.key < b.key));
    for number in [0, 1, MANY - 1] {
        let meta = all.iter().find(|meta| meta.key == key(number)).unwrap();
        assert_eq!(meta.size, (number % 3) as u64);
    }
    for (prefix, expected) in [
        ("many", MANY + 1),
        ("many/", MANY),
        ("many/0", MANY),
        ("many/03/", 148),
        ("many/03/0000", 1),
        ("many/03/00003", 1),
        ("many/03/00003/", 0),
        ("any", 0),
        ("../", 0),
    ] {
        let listed = replica.list(prefix).await.unwrap();
        assert_eq!(listed.len(), expected, "prefix {prefix}");
        assert!(listed.iter().all(|meta| meta.key.starts_with(prefix)), "prefix {prefix}");
    }

    stream::iter(all).for_each_concurrent(16, |meta| async move { replica.delete(&meta.key).await.unwrap() }).await;
    assert_eq!(replica.list("").await.unwrap(), []);
}

async fn delete_is_idempotent(replica: &dyn Replica) {
    replica.put_new("gone", Bytes::from_static(b"x")).await.unwrap();
    replica.delete("gone").await.unwrap();
    replica.delete("gone").await.unwrap();
    replica.delete("never/was").await.unwrap();
    assert_eq!(replica.head("gone").await.unwrap(), None);
}

async fn probe_is_truthful_and_leaves_nothing(replica: &dyn Replica, expected: &Probe) {
    let probe = replica.probe(true).await.unwrap();
    assert!(probe.clock_skew_seconds.is_none_or(|skew| skew.abs() <= 2), "{probe:?}");
    assert_eq!(probe.clock_skew_seconds.is_some(), expected.clock_skew_seconds.is_some());
    assert_eq!(Probe { clock_skew_seconds: expected.clock_skew_seconds, ..probe }, *expected);

    let probe = replica.probe(false).await.unwrap();
    assert_eq!((probe.can_write, probe.can_delete, probe.conditional_writes), (None, None, None));
    assert_eq!((probe.versioning, probe.object_lock), (expected.versioning, expected.object_lock));
    assert_eq!(replica.list("").await.unwrap(), []);
}

fn all_permitted() -> Probe {
    Probe {
        conditional_writes: Some(true),
        versioning: Some(false),
        object_lock: Some(false),
        can_write: Some(true),
        can_delete: Some(true),
        clock_skew_seconds: None,
    }
}

fn directory_config(directory: &TempDir) -> ReplicaConfig {
    ReplicaConfig {
        name: "disk".parse().unwrap(),
        region: "attic".to_owned(),
        kind: ReplicaKind::Directory { path: directory.path().to_owned() },
        timeout: Duration::from_secs(30),
    }
}

fn s3(config: &mut ReplicaConfig) -> &mut S3Config {
    match &mut config.kind {
        ReplicaKind::S3(s3) => s3,
        ReplicaKind::Directory { .. } => unreachable!("regions are S3"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_conforms() {
    let directory = TempDir::new().unwrap();
    let replica = DirectoryReplica::new(&directory_config(&directory), directory.path(), "a/vault");
    conforms(Arc::new(replica), &all_permitted()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_with_retries_conforms_without_a_prefix() {
    let directory = TempDir::new().unwrap();
    conforms(open(&directory_config(&directory), "").await.unwrap(), &all_permitted()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_hides_its_temporary_files_and_keeps_none() {
    let directory = TempDir::new().unwrap();
    let replica = open(&directory_config(&directory), "").await.unwrap();
    replica.put_new("object", Bytes::from_static(b"x")).await.unwrap();
    replica.put_new("object", Bytes::from_static(b"y")).await.unwrap_err();
    replica.put_replace("object", Bytes::from_static(b"z")).await.unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    std::fs::write(directory.path().join(".lifeboat-left-by-a-crash.tmp"), "half").unwrap();
    let keys: Vec<String> = replica.list("").await.unwrap().into_iter().map(|meta| meta.key).collect();
    assert_eq!(keys, ["object"]);
}

#[tokio::test]
async fn unmounted_directory_is_no_empty_replica() {
    let directory = TempDir::new().unwrap();
    let mut config = directory_config(&directory);
    config.kind = ReplicaKind::Directory { path: directory.path().join("not-mounted") };
    let replica = open(&config, "vault").await.unwrap();
    let outcomes: [Result<(), ReplicaError>; 6] = [
        replica.put_new("a", Bytes::new()).await,
        replica.get("a").await.map(drop),
        replica.head("a").await.map(drop),
        replica.list("").await.map(drop),
        replica.delete("a").await,
        replica.probe(true).await.map(drop),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind, ReplicaErrorKind::Misconfigured(_)), "{error}");
    }
    assert!(!directory.path().join("not-mounted").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_s3_regions_conform_each_on_its_own() {
    let (north, south) = tokio::join!(Region::start("eu-north-1"), Region::start_with("ap-south-1", Bucket::Locked));
    let told = Probe { clock_skew_seconds: Some(0), ..all_permitted() };

    let config = north.replica_config("north");
    let ReplicaKind::S3(bucket) = &config.kind else { unreachable!("regions are S3") };
    conforms(Arc::new(S3Replica::open(&config, bucket, "").await.unwrap()), &told).await;

    let locked = Probe { versioning: Some(true), object_lock: Some(true), ..told };
    conforms(open(&south.replica_config("south"), "teams/a/vault").await.unwrap(), &locked).await;

    only_the_prefix_is_touched(&north).await;
    versions_of_the_probe_are_removed(&south).await;
    packs_have_the_storage_class(&north).await;
    wrong_credentials_are_denied(&north).await;
    unknown_buckets_are_misconfigured(&north).await;
    untrusted_authorities_are_named(&north, &south).await;
    lost_regions_are_unavailable(south).await;
}

async fn only_the_prefix_is_touched(region: &Region) {
    let config = region.replica_config("north");
    let (vault, other) = (open(&config, "vault").await.unwrap(), open(&config, "vault2").await.unwrap());
    vault.put_new("object", Bytes::from_static(b"mine")).await.unwrap();
    other.put_new("object", Bytes::from_static(b"theirs")).await.unwrap();
    assert_eq!(vault.list("").await.unwrap().len(), 1);
    vault.delete("object").await.unwrap();
    assert_eq!(other.get("object").await.unwrap(), "theirs");
    other.delete("object").await.unwrap();
}

async fn versions_of_the_probe_are_removed(region: &Region) {
    let versions = region.client().list_object_versions().bucket(region.bucket()).prefix("teams/a/vault/probe/");
    let versions = versions.send().await.unwrap();
    assert!(versions.versions().is_empty() && versions.delete_markers().is_empty(), "{versions:?}");
}

async fn packs_have_the_storage_class(region: &Region) {
    let mut config = region.replica_config("north");
    s3(&mut config).storage_class = Some("STANDARD_IA".to_owned());
    let replica = open(&config, "vault").await.unwrap();
    for (key, expected) in [("datasets/d/packs/00/p", Some("STANDARD_IA")), ("datasets/d/index/i", None)] {
        replica.put_new(key, Bytes::from_static(b"x")).await.unwrap();
        let head = region.client().head_object().bucket(region.bucket()).key(format!("vault/{key}"));
        let class = head.send().await.unwrap().storage_class.map(|class| class.as_str().to_owned());
        assert_eq!(class.filter(|class| class != "STANDARD").as_deref(), expected, "{key}");
        replica.delete(key).await.unwrap();
    }
}

async fn wrong_credentials_are_denied(region: &Region) {
    const WRONG: &str = "a-wrong-secret-that-no-error-may-show";
    let directory = TempDir::new().unwrap();
    for access_key in ["lifeboat-test", "nobody"] {
        let file = directory.path().join(access_key);
        write_credential_file(&file, access_key, WRONG);
        let mut config = region.replica_config("north");
        s3(&mut config).credentials = S3Credentials::File(SecretRef::file(&file));
        let replica = open(&config, "vault").await.unwrap();
        let outcomes: [Result<(), ReplicaError>; 6] = [
            replica.put_new("a", Bytes::from_static(b"x")).await,
            replica.get("a").await.map(drop),
            replica.head("a").await.map(drop),
            replica.list("").await.map(drop),
            replica.delete("a").await,
            replica.probe(true).await.map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(matches!(error.kind, ReplicaErrorKind::Denied(_)), "{error}");
            let shown = format!("{error} {error:?} {replica:?}");
            assert!(!shown.contains(WRONG), "{shown}");
        }
    }
}

async fn unknown_buckets_are_misconfigured(region: &Region) {
    let mut config = region.replica_config("north");
    s3(&mut config).bucket = "no-such-bucket-here".to_owned();
    let replica = open(&config, "vault").await.unwrap();
    let outcomes: [Result<(), ReplicaError>; 5] = [
        replica.put_new("a", Bytes::from_static(b"x")).await,
        replica.get("a").await.map(drop),
        replica.head("a").await.map(drop),
        replica.list("").await.map(drop),
        replica.probe(false).await.map(drop),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind, ReplicaErrorKind::Misconfigured(_)), "{error}");
        assert!(error.to_string().contains("no such bucket"), "{error}");
    }
}

async fn untrusted_authorities_are_named(region: &Region, other: &Region) {
    let mut config = region.replica_config("north");
    s3(&mut config).ca_file = Some(other.ca_file().to_owned());
    let error = open(&config, "vault").await.unwrap().list("").await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Misconfigured(_)), "{error}");
    assert!(error.to_string().contains("certificate of the server is not trusted"), "{error}");
}

async fn lost_regions_are_unavailable(mut region: Region) {
    let replica = open(&region.replica_config("south"), "vault").await.unwrap();
    replica.put_new("kept", Bytes::from_static(b"x")).await.unwrap();
    region.kill();
    let error = replica.get("kept").await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Unavailable(_)), "{error}");
    region.restart().await;
    assert_eq!(replica.get("kept").await.unwrap(), "x");
}

#[tokio::test]
async fn unusable_ca_and_credential_files_are_refused_at_once() {
    let directory = TempDir::new().unwrap();
    let certificates = Certificates::create(directory.path());
    let credentials = directory.path().join("credentials");
    let config = |ca_file: &str| ReplicaConfig {
        name: "north".parse().unwrap(),
        region: "eu-north-1".to_owned(),
        kind: ReplicaKind::S3(S3Config {
            bucket: "backups".to_owned(),
            endpoint: Some("https://127.0.0.1:1".parse().unwrap()),
            path_style: true,
            ca_file: Some(directory.path().join(ca_file)),
            storage_class: None,
            credentials: S3Credentials::File(SecretRef::file(&credentials)),
        }),
        timeout: Duration::from_secs(5),
    };
    write_credential_file(&credentials, "someone", "something");
    let garbage = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    std::fs::write(directory.path().join("garbage.pem"), garbage).unwrap();
    std::fs::write(directory.path().join("empty.pem"), "").unwrap();
    open(&config(certificates.ca_file.file_name().unwrap().to_str().unwrap()), "").await.unwrap();
    for ca_file in ["missing.pem", "garbage.pem", "empty.pem", "server.key"] {
        let error = open(&config(ca_file), "").await.unwrap_err();
        assert_eq!(error.class(), Class::Configuration, "{ca_file}: {error:?}");
        assert!(error.chain().contains(ca_file), "{error:?}");
    }

    std::fs::write(&credentials, "[default]\naws_secret_access_key = do-not-show-this\n").unwrap();
    let error = open(&config("ca.pem"), "").await.unwrap_err();
    assert_eq!(error.class(), Class::Keys);
    assert!(error.message().contains("no aws_access_key_id") && !format!("{error:?}").contains("do-not-show"));
    std::fs::remove_file(&credentials).unwrap();
    assert_eq!(open(&config("ca.pem"), "").await.unwrap_err().class(), Class::Keys);
}
