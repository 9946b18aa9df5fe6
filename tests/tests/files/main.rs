//! Trees of files, the whole way, on the built programs: backup, drill, and restores that an
//! independent walker and stock `tar` judge.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod unread;
mod walker;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, UNIX_EPOCH};

use lifeboat_engine::config::{ReplicaConfig, ReplicaKind};
use lifeboat_engine::keys::DRILL_HOST_FOLDER;
use lifeboat_engine::store::bandwidth::Bandwidth;
use lifeboat_tests::host::{BackupHost, section};
use lifeboat_tests::programs;
use lifeboat_tests::vault::{name, noise};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use tempfile::TempDir;

use self::walker::{differences, walked};

/// A directory that a worker of another user can use. On a disk: of what lies in memory, everything
/// is read each time.
fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("lifeboat-fi-").tempdir_in("/var/tmp").unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A tree with awkward entries, and 8 MiB that do not compress.
fn tree() -> TempDir {
    let place = scratch();
    let at = |name: &str| place.path().join(name);
    fs::create_dir_all(at("etc/deep/er")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("etc/hostname"), "web1\n").unwrap();
    fs::write(at("etc/none"), "").unwrap();
    fs::write(at("large"), noise(8 << 20, 7)).unwrap();
    for number in 0..500 {
        fs::write(at(&format!("etc/deep/{number}")), format!("file {number}\n")).unwrap();
    }
    fs::write(place.path().join(OsStr::from_bytes(b"etc/odd \xff\nname")), "odd").unwrap();
    fs::write(at(&format!("etc/{}", "n".repeat(255))), "long").unwrap();
    fs::hard_link(at("etc/hostname"), at("etc/deep/er/same")).unwrap();
    symlink("deep/1", at("etc/link")).unwrap();
    symlink("/nowhere", at("etc/dangling")).unwrap();
    rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 32 << 20).unwrap();
    let attribute = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(at(path), name, value, XattrFlags::empty()).unwrap();
    };
    attribute("etc/hostname", "user.origin", b"lines\nand \0 bytes\xff");
    // user::rw-, user:1234:rwx, group::r--, mask::rwx, other::---
    let list = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x07\0\xd2\x04\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    attribute("etc/deep/2", "system.posix_acl_access", list);
    fs::set_permissions(at("etc/deep/3"), Permissions::from_mode(0o4755)).unwrap();
    attribute("etc/none", "user.of", b"what lets nobody in");
    if is_root() {
        // What a mode closes, only root can capture and remove.
        fs::set_permissions(at("etc/none"), Permissions::from_mode(0o000)).unwrap();
        chown(at("etc/deep/4"), Some(1234), Some(4321)).unwrap();
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, at("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), null).unwrap();
    }
    let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    File::open(at("etc/hostname")).unwrap().set_modified(time).unwrap();
    File::open(at("etc/deep")).unwrap().set_modified(time).unwrap();
    fs::set_permissions(at("etc/deep/er"), Permissions::from_mode(if is_root() { 0o555 } else { 0o755 })).unwrap();
    place
}

/// A host whose dataset is this tree, and its replica.
async fn host(tree: &Path, vault: &TempDir) -> BackupHost {
    let more = "[dataset.drill]\nlevel = \"proved\"\n\
        queries = [{ sql = \"etc/hostname\", expect = \"web1\" }, { sql = \"etc/dangling\" }, { sql = \"etc/none\" }]";
    host_with(tree, vault, more).await
}

/// With these keys more.
async fn host_with(tree: &Path, vault: &TempDir, more: &str) -> BackupHost {
    let replica = ReplicaConfig {
        name: name("r1"),
        region: "away".to_owned(),
        kind: ReplicaKind::Directory { path: vault.path().join("replica") },
        timeout: Duration::from_secs(20),
        bandwidth: Bandwidth::default(),
    };
    fs::create_dir(vault.path().join("replica")).unwrap();
    let source = format!("kind = \"files\"\npath = \"{}\"\nexclude = [\"*.tmp\"]\n{more}", tree.display());
    let host = BackupHost::set_up(&[section(&replica)], &source).await;
    let keys = host.path().join("keys");
    fs::copy(keys.join(DRILL_HOST_FOLDER).join("drill-signer"), keys.join("drill-signer")).unwrap();
    host
}

/// Restores with these flags; the directory.
async fn restored(host: &BackupHost, place: &TempDir, into: &str, flags: &[&str]) -> PathBuf {
    let out = place.path().join(into);
    let (master, target) = (host.master().display().to_string(), out.display().to_string());
    let words = [&["-i", &master, "restore", "data", "--to-directory", &target], flags].concat();
    let restore = host.lifeboat(&words).await;
    assert_eq!(restore.code(), Some(0), "{restore}");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_backed_up_once_and_proved() {
    let (tree, place) = (tree(), scratch());
    fs::write(tree.path().join("left out.tmp"), "not this").unwrap();
    let host = host(tree.path(), &place).await;
    let checked = host.lifeboat(&["check"]).await;
    assert_eq!(checked.code(), Some(0), "{checked}");
    let (backup, first) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");
    assert!(first["stored_bytes"].as_u64().unwrap() > 8 << 20, "{first:#}");

    let (_, unchanged) = host.once().await;
    let stored = unchanged["stored_bytes"].as_u64().unwrap();
    assert!(stored < 1 << 10, "an unchanged tree stored {stored} bytes: {unchanged:#}");
    let large = File::options().write(true).open(tree.path().join("large")).unwrap();
    large.write_all_at(b"!", 4 << 20).unwrap();
    let (_, changed) = host.once().await;
    let new = changed["raw_bytes"].as_u64().unwrap() - changed["deduplicated_bytes"].as_u64().unwrap();
    assert!((1..8 << 10).contains(&new), "a changed byte made {new} bytes new: {changed:#}");
    assert!(changed["stored_bytes"].as_u64().unwrap() < 512 << 10, "{changed:#}");

    let master = host.master().display().to_string();
    let drill = host.lifeboat(&["-i", &master, "--json", "drill", "data"]).await;
    assert_eq!(drill.code(), Some(0), "{drill}");
    let report = drill.json().unwrap();
    assert_eq!(report["reached"], "proved", "{report:#}");
    // All but what the pattern leaves out.
    let expected = walked(tree.path()).len() as u64 - 1;
    assert_eq!(report["proof"]["rows"].as_u64().unwrap(), expected, "{report:#}");
    let checks: Vec<&str> = report["checks"].as_array().unwrap().iter().filter_map(|it| it["check"].as_str()).collect();
    assert_eq!(checks, ["entry_count", "etc/hostname", "etc/dangling", "etc/none"], "{report:#}");
    assert_eq!(report.get("warnings"), None, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_snapshot_lacks_is_told_by_whoever_restores_or_proves_it() {
    let (tree, place) = (scratch(), scratch());
    // No archive holds a path of more than 3500 bytes.
    fs::create_dir_all(tree.path().join(vec!["l".repeat(250); 14].join("/"))).unwrap();
    fs::write(tree.path().join("kept"), "kept").unwrap();
    let host = host_with(tree.path(), &place, "allow_unreadable = true").await;
    let (backup, run) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");
    let told = format!("the snapshot warns: {}", run["warnings"][0].as_str().unwrap());
    assert!(told.starts_with("the snapshot warns: lacks 1 entry, which cannot be read"), "{told}");

    let master = host.master().display().to_string();
    let drill = host.lifeboat(&["-i", &master, "drill", "data"]).await;
    assert!(drill.code() == Some(0) && drill.stdout.starts_with("Drill of data: PROVED\n"), "{drill}");
    assert!(drill.stdout.contains(&format!("\n Note: {told}\n")), "{drill}");
    let last = drill.stdout.trim_end().lines().last().unwrap();
    assert!(last.starts_with("The snapshot has 1 warning: "), "{drill}");
    let out = place.path().join("out").display().to_string();
    let restore = host.lifeboat(&["-i", &master, "--json", "restore", "data", "--to-directory", &out]).await;
    assert_eq!(restore.code(), Some(0), "{restore}");
    let warnings = restore.json().unwrap()["warnings"].clone();
    assert!(warnings.as_array().unwrap().contains(&told.clone().into()), "{warnings:#}");
    let stream = host.lifeboat(&["-i", &master, "restore", "data", "--stdout", "tree"]).await;
    assert!(
        stream.code() == Some(0) && stream.stderr.contains("warning: the snapshot warns: lacks"),
        "{}",
        stream.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_back_as_it_was_by_lifeboat_and_by_tar() {
    let (tree, place) = (tree(), scratch());
    let (tree, host) = (tree.path(), host(tree.path(), &place).await);
    let (backup, _) = host.once().await;
    assert_eq!(backup.code(), Some(0), "{backup}");
    let flags: &[&str] = if is_root() { &["--with-owners", "--with-special"] } else { &[] };
    let out = restored(&host, &place, "out", flags).await;
    if is_root() {
        assert_eq!(differences(tree, &out), Vec::<String>::new());
    }
    // Stock tools make the same of the stream.
    let (by_tar, archive) = (place.path().join("by-tar"), place.path().join("tree.tar"));
    let master = host.master().display().to_string();
    let mut stream = std::process::Command::new(programs::lifeboat());
    stream.arg("--config").arg(host.config()).args(["-i", &master, "restore", "data", "--stdout", "tree"]);
    assert!(stream.stdout(File::create(&archive).unwrap()).status().unwrap().success());
    fs::create_dir(&by_tar).unwrap();
    let extract = std::process::Command::new("tar")
        .args(["--extract", "--preserve-permissions", "--acls", "--xattrs", "--xattrs-include=*"])
        .arg("--file")
        .arg(&archive)
        .current_dir(&by_tar)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(extract.status.success() && extract.stderr.is_empty(), "{extract:?}");
    if is_root() {
        assert_eq!(differences(tree, &by_tar), Vec::<String>::new());
    }
    // Without a flag, nothing special comes back; and one path alone can.
    let plain = restored(&host, &place, "plain", &[]).await;
    let mode = |path: &str| plain.join(path).metadata().unwrap().permissions().mode() & 0o7777;
    let none = if is_root() { 0 } else { mode("etc/hostname") };
    assert_eq!((mode("etc/deep/3"), mode("etc/deep/2"), mode("etc/none")), (0o755, 0o640, none));
    assert!(!plain.join("null").exists());
    let one = restored(&host, &place, "one", &["--path", "etc/deep/1", "--path", "pipe"]).await;
    let paths: Vec<PathBuf> = walked(&one).into_keys().collect();
    let expected = ["", "etc", "etc/deep", "etc/deep/1", "pipe"].map(PathBuf::from);
    assert_eq!(paths, expected);
    let target = one.display().to_string();
    for (flags, told) in [
        (&[][..], "is not empty"),
        (&["--overwrite", "--yes"], "without --overwrite"),
        (&["--with-special"], "--with-owners"),
    ] {
        let words = [&["-i", &master, "restore", "data", "--to-directory", &target], flags].concat();
        let refused = host.lifeboat(&words).await;
        assert!(refused.code() == Some(2) && refused.stderr.contains(told), "{refused}");
    }
}
