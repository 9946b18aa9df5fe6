//! Hostile replicas: objects of gigabytes, listings without an end, pages that lie. No command and
//! no daemon takes more memory for them than `limits.memory` and 64 MiB, and the other replica
//! serves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lifeboat_engine::clock::SystemClock;
use lifeboat_engine::config::{Config, ReplicaConfig, ReplicaKind, SecretRef, Surroundings};
use lifeboat_engine::format::frames;
use lifeboat_engine::format::layout;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_engine::store::{ReplicaErrorKind, S3Config, S3Credentials, open};
use lifeboat_tests::by_hand::Hand;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::liar::{Liar, Lie};
use lifeboat_tests::programs;
use lifeboat_tests::s3::write_credential_file;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(300);
/// The default of `limits.memory`, and what a program may take beside it.
const MAX_RESIDENT_BYTES: u64 = (192 + 64) << 20;

fn directory(name: &str, path: &Path) -> ReplicaConfig {
    ReplicaConfig {
        name: name.parse().unwrap(),
        region: name.to_owned(),
        kind: ReplicaKind::Directory { path: path.to_owned() },
        timeout: Duration::from_secs(30),
        bandwidth: Bandwidth::default(),
    }
}

fn lying_config(liar: &Liar, credentials: &Path) -> ReplicaConfig {
    write_credential_file(credentials, "test", "testtest");
    ReplicaConfig {
        name: "liar".parse().unwrap(),
        region: "eu-north-1".to_owned(),
        kind: ReplicaKind::S3(S3Config {
            bucket: "bucket".to_owned(),
            endpoint: Some(liar.endpoint().parse().unwrap()),
            path_style: true,
            ca_file: None,
            storage_class: None,
            lock: None,
            credentials: S3Credentials::File(SecretRef::file(credentials)),
        }),
        timeout: Duration::from_secs(30),
        bandwidth: Bandwidth::default(),
    }
}

/// Runs a program to its end. Returns its exit code, what it said, and the most memory that was
/// ever resident.
async fn measured(mut command: Command) -> (Option<i32>, String, u64) {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let status_file = format!("/proc/{}/status", child.id().unwrap());
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let said = tokio::spawn(async move {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let _ = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
        format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err))
    });
    let mut most = 0;
    let watched = async {
        loop {
            // The kernel keeps the mark, so only what is new within the last moment can be missed.
            let marks = std::fs::read_to_string(&status_file).unwrap_or_default();
            let mark = marks.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let mark = mark.and_then(|mark| mark.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            most = most.max(mark.unwrap_or_default() << 10);
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let status = tokio::time::timeout(DEADLINE, watched).await.expect("the program ends");
    assert!(most > 1 << 20, "nothing was measured");
    (status.code(), said.await.unwrap(), most)
}

fn lifeboat(host: &BackupHost, words: &[&str]) -> Command {
    let mut command = Command::new(programs::lifeboat());
    command.arg("--config").arg(host.config()).arg("--identity").arg(host.master()).args(words);
    command
}

/// Runs what reads a vault, and asserts that it succeeds within the limit and names the bad
/// replica.
async fn assert_commands_go_on(host: &BackupHost, what: &str, data: &[u8]) {
    let out = host.path().join("out");
    let target = out.display().to_string();
    let commands: [(&[&str], Option<i32>); 5] = [
        (&["list"], Some(0)),
        (&["show", "data", "latest"], Some(0)),
        (&["restore", "data", "--to-directory", &target], Some(0)),
        (&["drill", "data", "--no-publish", "--level", "fetched"], None),
        (&["verify", "data"], None),
    ];
    for (words, expected) in commands {
        let (code, said, most) = measured(lifeboat(host, words)).await;
        assert!(most <= MAX_RESIDENT_BYTES, "{what}: {words:?} took {} MiB: {said}", most >> 20);
        if expected.is_some() {
            assert_eq!(code, expected, "{what}: {words:?}: {said}");
        }
    }
    assert!(std::fs::read(out.join("stdout")).unwrap() == data, "{what}");
    std::fs::remove_dir_all(out).unwrap();
    let mut once = host.lifeboatd();
    once.args(["--json", "--log", "text", "--once"]);
    let (code, said, most) = measured(once).await;
    assert!(most <= MAX_RESIDENT_BYTES, "{what}: the daemon took {} MiB: {said}", most >> 20);
    assert_eq!(code, Some(0), "{what}: {said}");
}

/// A host whose first replica will be bad, with one snapshot of `data`.
async fn host(data: &[u8]) -> (BackupHost, [ReplicaConfig; 2], TempDir) {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    std::fs::write(folder.join("data"), data).unwrap();
    let replicas = ["bad", "good"].map(|name| {
        std::fs::create_dir(folder.join(name)).unwrap();
        directory(name, &folder.join(name))
    });
    let source =
        format!("kind = \"command\"\nargv = [\"cat\", \"{}\"]\nstream = \"stdout\"", folder.join("data").display());
    let host = BackupHost::set_up(&replicas.each_ref().map(section), &source).await;
    let (output, _) = host.once().await;
    assert!(output.status.success(), "{output}");
    (host, replicas, place)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_gigabytes_in_a_directory_take_no_memory() {
    let data = lifeboat_tests::vault::noise(300_000, 1);
    let (host, replicas, _place) = host(&data).await;
    let ReplicaKind::Directory { path } = &replicas[0].kind else { unreachable!("a directory") };
    let root = path.join("vault");
    let grow = |file: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        // Sparse: it takes no space.
        file.set_len(3 << 30).unwrap();
    };
    let files = lifeboat_tests::vault::files_below(&root);
    for file in files.iter().filter(|file| !file.ends_with(layout::VAULT)) {
        grow(file);
    }
    // Many large manifests at once must not add up, and their signatures are not looked at first.
    let manifests = root.join("datasets/data/snapshots");
    for number in 0..12 {
        let manifest = manifests.join(format!("20200101T0000{number:02}000Z-00000000.json.zst.age"));
        std::fs::write(&manifest, b"").unwrap();
        std::fs::File::options().write(true).open(&manifest).unwrap().set_len(90 << 20).unwrap();
        std::fs::write(format!("{}.minisig", manifest.display()), b"none").unwrap();
    }
    // The copies in the state directory would hide what the replica sends.
    std::fs::remove_dir_all(host.path().join("state")).unwrap();
    assert_commands_go_on(&host, "huge files", &data).await;
    grow(&root.join(layout::VAULT));
    assert_commands_go_on(&host, "a huge vault.json", &data).await;
}

/// The plaintext of a manifest with this JSON, of which nothing is right but its shape.
fn bomb(begin: &str, item: &str, bytes: usize, end: &str) -> Vec<u8> {
    let json = format!("{begin}{}{end}\n", item.repeat((bytes - begin.len() - end.len() - 1) / item.len()));
    let frame = frames::compress(3, json.as_bytes()).unwrap();
    let length = frame.len() as u64;
    [&frames::SKIPPABLE_MAGIC[..], &16_u32.to_le_bytes(), b"LBMANI02", &length.to_le_bytes(), &frame].concat()
}

/// A thief of the backup host can sign what he wants.
#[tokio::test(flavor = "multi_thread")]
async fn signed_manifests_of_a_few_kilobytes_that_hold_much_take_little_memory() {
    let data = lifeboat_tests::vault::noise(300_000, 1);
    let (host, _, _place) = host(&data).await;
    let config = Config::load(&host.config(), &Surroundings::default()).unwrap();
    let hand = Hand::of(&config, &host.master());
    let small = 40 << 20;
    let bombs = [
        bomb("{\"requires\":[\"\"", ",\"\"", small, "]}"),
        bomb("{\"requires\":[],\"packs\":[1", ",1", small, "]}"),
        bomb("{\"requires\":[],\"accounting\":{\"unused\":[1", ",1", small, "]}}"),
        bomb("{\"requires\":[],\"source\":{\"engine\":\"x\",\"warnings\":[\"\"", ",\"\"", small, "]}}"),
        bomb("{\"requires\":[],\"new\":", "[", small, ""),
        bomb("{\"requires\":[],\"new\":[", " ", 128 << 20, "]}"),
    ];
    for round in 0..2 {
        for (at, bomb) in bombs.iter().enumerate() {
            assert!(bomb.len() < 64 << 10, "bomb {at} has {} bytes", bomb.len());
            let snapshot = format!("20200101T0000{at}{round}000Z-00000000").parse().unwrap();
            hand.put_plaintext(&snapshot, bomb);
        }
    }
    let out = host.path().join("out").display().to_string();
    let commands: [&[&str]; 3] = [&["list"], &["verify", "data"], &["restore", "data", "--to-directory", &out]];
    for words in commands {
        let (_, said, most) = measured(lifeboat(&host, words)).await;
        assert!(most <= MAX_RESIDENT_BYTES, "{words:?} took {} MiB: {said}", most >> 20);
    }
    assert!(std::fs::read(Path::new(&out).join("stdout")).unwrap() == data);
    std::fs::remove_dir_all(host.path().join("state")).unwrap();
    let mut once = host.lifeboatd();
    once.args(["--json", "--log", "text", "--once"]);
    let (code, said, most) = measured(once).await;
    assert!(most <= MAX_RESIDENT_BYTES, "the daemon took {} MiB: {said}", most >> 20);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_lies_takes_no_memory() {
    let data = lifeboat_tests::vault::noise(300_000, 1);
    let (host, replicas, _place) = host(&data).await;
    let ReplicaKind::Directory { path } = &replicas[0].kind else { unreachable!("a directory") };
    let info = std::fs::read(path.join("vault").join(layout::VAULT)).unwrap();
    let source = std::fs::read_to_string(host.config()).unwrap();
    let source = source.split("[dataset.source]\n").nth(1).unwrap().to_owned();
    for lie in [Lie::HugeObjects, Lie::EndlessListing, Lie::HugePage, Lie::ManyTags] {
        let liar = Liar::start(lie, vec![(layout::VAULT.to_owned(), info.clone())]).await;
        let lying = lying_config(&liar, &host.path().join("credentials"));
        host.configure(1, &[section(&lying), section(&replicas[1])], &source).await;
        assert_commands_go_on(&host, &format!("{lie:?}"), &data).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_says_how_an_endpoint_lies_and_takes_little_of_it() {
    let folder = tempfile::tempdir().unwrap();
    for lie in [
        Lie::HugeObjects,
        Lie::UnderstatedObjects,
        Lie::EndlessListing,
        Lie::CircularListing,
        Lie::ListingWithoutToken,
        Lie::ListingWithToken,
        Lie::HugePage,
        Lie::ManyTags,
    ] {
        let liar = Liar::start(lie, Vec::new()).await;
        let mut config = lying_config(&liar, &folder.path().join("credentials"));
        config.timeout = Duration::from_secs(5);
        let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
        let (got, listed) = (replica.get("object", 1000).await, replica.list("folder/").await);
        match lie {
            Lie::HugeObjects => {
                let error = got.unwrap_err();
                assert!(
                    matches!(error.kind, ReplicaErrorKind::TooLong { size, limit: 1000 } if size == 5 << 30),
                    "{error}"
                );
                assert!(error.to_string().contains("replica liar") && error.to_string().contains("object"), "{error}");
            }
            Lie::UnderstatedObjects => assert_eq!(got.unwrap().len(), 100),
            Lie::ListingWithToken => {
                let error = listed.unwrap_err();
                assert!(matches!(error.kind, ReplicaErrorKind::BadListing(_)), "{error}");
            }
            Lie::HugePage | Lie::ManyTags => {
                let error = listed.unwrap_err();
                assert!(error.to_string().contains("replica liar: cannot list folder/"), "{lie:?}: {error}");
            }
            Lie::EndlessListing | Lie::CircularListing | Lie::ListingWithoutToken => {
                let error = listed.unwrap_err();
                assert!(matches!(error.kind, ReplicaErrorKind::BadListing(_)), "{lie:?}: {error}");
                assert!(error.to_string().contains("replica liar: cannot list folder/"), "{lie:?}: {error}");
            }
            Lie::RemovesNothing | Lie::RefusesOne | Lie::RemovesOneByOne => unreachable!("not among these"),
        }
        assert!(liar.served_bytes() < 160 << 20, "{lie:?}: {} MiB were taken", liar.served_bytes() >> 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_an_endpoint_says_is_gone_counts_as_removed() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["one".to_owned(), "two".to_owned()];
    for (lie, not_gone, told) in [
        (Lie::RemovesNothing, 2, "the store does not say whether it is gone"),
        (Lie::RefusesOne, 1, "cannot delete two"),
        (Lie::RemovesOneByOne, 0, ""),
    ] {
        let liar = Liar::start(lie, Vec::new()).await;
        let mut config = lying_config(&liar, &folder.path().join("credentials"));
        config.timeout = Duration::from_secs(2);
        let replica = open(&config, "vault", &SystemClock::shared()).await.unwrap();
        let failed = replica.delete_all(&keys).await.unwrap().failed;
        assert_eq!(failed.len(), not_gone, "{lie:?}: {failed:?}");
        assert!(failed.iter().all(|error| error.to_string().contains(told)), "{lie:?}: {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_whose_folders_have_names_of_many_bytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let replica = open(&directory("near", folder.path()), "vault", &SystemClock::shared()).await.unwrap();
    let above = folder.path().join("vault/datasets");
    let long = "x".repeat(190);
    let make = |numbers: std::ops::Range<usize>| {
        numbers.for_each(|number| std::fs::create_dir_all(above.join(format!("{long}-{number:05}"))).unwrap());
    };
    // Each name takes 206 bytes with the folder and the line break.
    make(0..20_000);
    assert_eq!(replica.list("datasets/").await.unwrap(), []);
    make(20_000..21_000);
    let error = replica.list("datasets/").await.unwrap_err();
    assert!(matches!(error.kind, ReplicaErrorKind::BadListing(_)), "{error}");
    assert!(error.to_string().contains("4 MiB"), "{error}");
}
