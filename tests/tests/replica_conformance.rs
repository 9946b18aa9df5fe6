//! One suite of guarantees, kept by every replica: the directory, the directory with gate and
//! retries, and S3 against real SeaweedFS regions over TLS; and each of them under a cap on the
//! bandwidth.
//!
//! What it cannot prove: that a body survives a power cut, and that stores other than SeaweedFS
//! keep their word; `lifeboat check` probes those where they are.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;
use lifeboat_engine::Class;
use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{ReplicaConfig, ReplicaKind, S3Config, S3Credentials, SecretRef};
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::store::conformance::{all_permitted, conforms};
use lifeboat_engine::store::{DirectoryReplica, Probe, ReplicaError, ReplicaErrorKind, S3Replica, open};
use lifeboat_tests::checksum::crc64nvme;
use lifeboat_tests::s3::{Bucket, Region, write_credential_file};
use lifeboat_tests::tls::Certificates;
use lifeboat_tests::vault::noise;
use tempfile::TempDir;

/// No body of these tests is longer.
const MAX_BODY_BYTES: u64 = 64 << 20;

fn directory_config(directory: &TempDir) -> ReplicaConfig {
    ReplicaConfig {
        name: "disk".parse().unwrap(),
        region: "attic".to_owned(),
        kind: ReplicaKind::Directory { path: directory.path().to_owned() },
        timeout: Duration::from_secs(30),
        bandwidth: Bandwidth::default(),
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
    let replica =
        DirectoryReplica::new(&directory_config(&directory), directory.path(), "a/vault", SystemClock::shared());
    conforms(Arc::new(replica), &all_permitted()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_with_retries_conforms_without_a_prefix() {
    let directory = TempDir::new().unwrap();
    conforms(open(&directory_config(&directory), "", &SystemClock::shared()).await.unwrap(), &all_permitted()).await;
}

/// Enough for the suite to end soon, and so little that every body is passed in pieces and waits
/// for most of them.
fn capped(mut config: ReplicaConfig) -> ReplicaConfig {
    config.bandwidth = Bandwidth::always(Some(24 << 20));
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn capped_directory_conforms() {
    let directory = TempDir::new().unwrap();
    conforms(
        open(&capped(directory_config(&directory)), "vault", &SystemClock::shared()).await.unwrap(),
        &all_permitted(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capped_s3_conforms() {
    let region = Region::start("eu-north-1").await;
    let told = Probe { clock_skew_seconds: Some(0), ..all_permitted() };
    conforms(open(&capped(region.replica_config("north")), "vault", &SystemClock::shared()).await.unwrap(), &told)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_hides_its_temporary_files_and_keeps_none() {
    let directory = TempDir::new().unwrap();
    let replica = open(&directory_config(&directory), "", &SystemClock::shared()).await.unwrap();
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
    let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
    let outcomes: [Result<(), ReplicaError>; 6] = [
        replica.put_new("a", Bytes::new()).await,
        replica.get("a", MAX_BODY_BYTES).await.map(drop),
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
    let bare = Arc::new(S3Replica::open(&config, bucket, "", SystemClock::shared()).await.unwrap());
    let retrying = open(&south.replica_config("south"), "teams/a/vault", &SystemClock::shared()).await.unwrap();
    let locked = Probe { versioning: Some(true), object_lock: Some(true), ..told.clone() };
    tokio::join!(conforms(bare, &told), conforms(retrying, &locked));

    only_the_prefix_is_touched(&north).await;
    versions_of_the_probe_are_removed(&south).await;
    packs_have_the_storage_class(&north).await;
    checksums_are_kept(&north).await;
    bodies_that_arrive_changed_are_refused(&north).await;
    wrong_credentials_are_denied(&north).await;
    unknown_buckets_are_misconfigured(&north).await;
    untrusted_authorities_are_named(&north, &south).await;
    lost_regions_are_unavailable(south).await;
}

async fn only_the_prefix_is_touched(region: &Region) {
    let config = region.replica_config("north");
    let (vault, other) = (
        open(&config, "vault", &SystemClock::shared()).await.unwrap(),
        open(&config, "vault2", &SystemClock::shared()).await.unwrap(),
    );
    vault.put_new("object", Bytes::from_static(b"mine")).await.unwrap();
    other.put_new("object", Bytes::from_static(b"theirs")).await.unwrap();
    assert_eq!(vault.list("").await.unwrap().len(), 1);
    vault.delete("object").await.unwrap();
    assert_eq!(other.get("object", MAX_BODY_BYTES).await.unwrap(), "theirs");
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
    let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
    for (key, expected) in [("datasets/d/packs/00/p", Some("STANDARD_IA")), ("datasets/d/index/i", None)] {
        replica.put_new(key, Bytes::from_static(b"x")).await.unwrap();
        let head = region.client().head_object().bucket(region.bucket()).key(format!("vault/{key}"));
        let class = head.send().await.unwrap().storage_class.map(|class| class.as_str().to_owned());
        assert_eq!(class.filter(|class| class != "STANDARD").as_deref(), expected, "{key}");
        replica.delete(key).await.unwrap();
    }
}

/// The checksum that goes with a body comes back with it: the store has it, not only has looked at
/// it.
async fn checksums_are_kept(region: &Region) {
    for (config, key) in [
        (region.replica_config("north"), "checksum/plain"),
        (capped(region.replica_config("north")), "checksum/capped"),
    ] {
        let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
        for body in [noise(3 << 20, 7), Vec::new()] {
            replica.put_replace(key, body.clone().into()).await.unwrap();
            let (client, full) = (region.client(), format!("vault/{key}"));
            let head = client.head_object().bucket(region.bucket()).key(&full).checksum_mode(ChecksumMode::Enabled);
            let kept = head.send().await.unwrap().checksum_crc64_nvme;
            assert_eq!(kept.as_deref(), Some(crc64nvme(&body).as_str()), "{key}, {} bytes", body.len());
            let got = client.get_object().bucket(region.bucket()).key(&full).checksum_mode(ChecksumMode::Enabled);
            assert_eq!(got.send().await.unwrap().checksum_crc64_nvme, kept, "{key}, {} bytes", body.len());
            assert!(replica.get(key, MAX_BODY_BYTES).await.unwrap() == body, "{key}");
        }
        replica.delete(key).await.unwrap();
    }
}

/// The stores under test check what the replica's choice of checksum relies on.
async fn bodies_that_arrive_changed_are_refused(region: &Region) {
    let sent = region.client().put_object().bucket(region.bucket()).key("changed");
    // CRC64NVME of other bytes.
    let sent = sent.body(ByteStream::from_static(b"changed on the way")).checksum_crc64_nvme("AAAAAAAAAAA=");
    let error = sent.send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 400, "{error:?}");
    assert!(
        open(&region.replica_config("north"), "", &SystemClock::shared())
            .await
            .unwrap()
            .get("changed", MAX_BODY_BYTES)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

async fn wrong_credentials_are_denied(region: &Region) {
    const WRONG: &str = "a-wrong-secret-that-no-error-may-show";
    let directory = TempDir::new().unwrap();
    for access_key in ["lifeboat-test", "nobody"] {
        let file = directory.path().join(access_key);
        write_credential_file(&file, access_key, WRONG);
        let mut config = region.replica_config("north");
        s3(&mut config).credentials = S3Credentials::File(SecretRef::file(&file));
        let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
        let outcomes: [Result<(), ReplicaError>; 6] = [
            replica.put_new("a", Bytes::from_static(b"x")).await,
            replica.get("a", MAX_BODY_BYTES).await.map(drop),
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
        assert!(replica.clock_offset(chrono::TimeDelta::MAX).is_some(), "refusals tell the time, too");
    }
}

async fn unknown_buckets_are_misconfigured(region: &Region) {
    let mut config = region.replica_config("north");
    s3(&mut config).bucket = "no-such-bucket-here".to_owned();
    let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
    let outcomes: [Result<(), ReplicaError>; 5] = [
        replica.put_new("a", Bytes::from_static(b"x")).await,
        replica.get("a", MAX_BODY_BYTES).await.map(drop),
        replica.head("a").await.map(drop),
        replica.list("").await.map(drop),
        replica.probe(false).await.map(drop),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind, ReplicaErrorKind::Misconfigured(_)), "{error}");
        assert!(error.to_string().contains("no such bucket: "), "{error}");
    }
}

async fn untrusted_authorities_are_named(region: &Region, other: &Region) {
    let mut config = region.replica_config("north");
    s3(&mut config).ca_file = Some(other.ca_file().to_owned());
    let error = open(&config, "vault", &SystemClock::shared()).await.unwrap().list("").await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Misconfigured(_)), "{error}");
    assert!(error.to_string().contains("certificate of the server is not trusted"), "{error}");
}

async fn lost_regions_are_unavailable(mut region: Region) {
    let replica = open(&region.replica_config("south"), "vault", &SystemClock::shared()).await.unwrap();
    replica.put_new("kept", Bytes::from_static(b"x")).await.unwrap();
    region.kill();
    let error = replica.get("kept", MAX_BODY_BYTES).await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Unavailable(_)), "{error}");
    region.restart().await;
    assert_eq!(replica.get("kept", MAX_BODY_BYTES).await.unwrap(), "x");
}

#[tokio::test]
async fn missing_credentials_are_denied_and_said_so() {
    let config = ReplicaConfig {
        name: "north".parse().unwrap(),
        region: "eu-north-1".to_owned(),
        kind: ReplicaKind::S3(S3Config {
            bucket: "backups".to_owned(),
            endpoint: Some("http://127.0.0.1:1".parse().unwrap()),
            path_style: true,
            ca_file: None,
            storage_class: None,
            lock: None,
            credentials: S3Credentials::Profile("no-such-profile-here".to_owned()),
        }),
        timeout: Duration::from_secs(5),
        bandwidth: Bandwidth::default(),
    };
    let error = open(&config, "", &SystemClock::shared()).await.unwrap().list("").await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::Denied(_)), "{error}");
    assert!(error.to_string().contains("no credentials were found"), "{error}");
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
            lock: None,
            credentials: S3Credentials::File(SecretRef::file(&credentials)),
        }),
        timeout: Duration::from_secs(5),
        bandwidth: Bandwidth::default(),
    };
    write_credential_file(&credentials, "someone", "something");
    let garbage = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    std::fs::write(directory.path().join("garbage.pem"), garbage).unwrap();
    std::fs::write(directory.path().join("empty.pem"), "").unwrap();
    open(&config(certificates.ca_file.file_name().unwrap().to_str().unwrap()), "", &SystemClock::shared())
        .await
        .unwrap();
    for ca_file in ["missing.pem", "garbage.pem", "empty.pem", "server.key"] {
        let error = open(&config(ca_file), "", &SystemClock::shared()).await.unwrap_err();
        assert_eq!(error.class(), Class::Configuration, "{ca_file}: {error:?}");
        assert!(error.chain().contains(ca_file), "{error:?}");
    }

    std::fs::write(&credentials, "[default]\naws_secret_access_key = do-not-show-this\n").unwrap();
    let error = open(&config("ca.pem"), "", &SystemClock::shared()).await.unwrap_err();
    assert_eq!(error.class(), Class::Keys);
    assert!(error.message().contains("no aws_access_key_id") && !format!("{error:?}").contains("do-not-show"));
    std::fs::remove_file(&credentials).unwrap();
    assert_eq!(open(&config("ca.pem"), "", &SystemClock::shared()).await.unwrap_err().class(), Class::Keys);
}

/// Links, pipes and folders in a directory replica that somebody else may write into.
#[tokio::test(flavor = "multi_thread")]
async fn links_in_a_directory_are_never_followed_and_pipes_never_waited_for() {
    let place = TempDir::new().unwrap();
    let (root, keys) = (place.path().join("replica"), place.path().join("keys"));
    for folder in [&root, &keys] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(keys.join("host.key"), "secret").unwrap();
    let mut config = directory_config(&place);
    config.kind = ReplicaKind::Directory { path: root.clone() };
    config.timeout = Duration::from_secs(5);
    let replica = open(&config, "", &SystemClock::shared()).await.unwrap();
    std::os::unix::fs::symlink(&keys, root.join("hosts")).unwrap();
    std::os::unix::fs::symlink(keys.join("host.key"), root.join("link")).unwrap();
    std::fs::create_dir(root.join("folder")).unwrap();
    std::os::unix::fs::symlink(root.join("folder"), root.join("inside")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
    assert!(made.success());

    for key in ["hosts/host.key", "link", "inside/object"] {
        for outcome in [replica.get(key, MAX_BODY_BYTES).await.map(drop), replica.head(key).await.map(drop)] {
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains("links in a replica are never followed"), "{key}: {error}");
        }
    }
    for key in ["hosts/new", "inside/new"] {
        for outcome in [
            replica.put_new(key, Bytes::from_static(b"x")).await,
            replica.put_replace(key, Bytes::from_static(b"x")).await,
            replica.delete("hosts/host.key").await,
        ] {
            assert!(outcome.unwrap_err().to_string().contains("never followed"), "{key}");
        }
        assert!(replica.list(key).await.is_err(), "{key}");
    }
    assert!(replica.get("pipe", MAX_BODY_BYTES).await.unwrap_err().is_not_found());
    assert_eq!(replica.head("pipe").await.unwrap(), None);
    assert_eq!(replica.list("").await.unwrap(), [], "links, pipes and empty folders are no objects");
    // A link under an object's own name is replaced, not followed.
    replica.put_replace("link", Bytes::from_static(b"ours")).await.unwrap();
    assert_eq!(std::fs::read(keys.join("host.key")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(&keys).unwrap().count(), 1, "something was written through a link");
    assert_eq!(replica.get("link", MAX_BODY_BYTES).await.unwrap(), "ours");
}
