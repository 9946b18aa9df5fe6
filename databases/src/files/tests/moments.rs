//! What happens to a tree while it is captured.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use lifeboat_base::Class;

use super::super::archive::Archive;
use super::super::capture::Capture;
use super::super::decode::ArchiveReader;
use super::super::entry::{Entry, EntryKind};
use super::super::owners::OwnerNames;
use super::super::walk::{Found, Walk, WalkRules, WalkStep};
use super::*;

fn entries(kept: &Kept) -> Vec<Entry> {
    let bytes = kept.bytes();
    let mut reader = ArchiveReader::new(&bytes[..]);
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_reading_takes_all_of_a_file_anew() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a");
    fs::write(&path, "old").unwrap();
    chmod(&path, 0o644);
    // The first write is the root, the second the member.
    let hook = move |writes| {
        if writes == 2 {
            fs::write(&path, "new, and longer").unwrap();
            chmod(&path, 0o600);
            rustix::fs::setxattr(&path, "user.new", b"1", XattrFlags::empty()).unwrap();
        }
    };
    let kept = try_captured(FilesConfig::of(place.path()), Arc::new(hook)).await.unwrap();
    let entries = entries(&kept);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.mode, entry.attributes.len())).skip(1).collect();
    assert_eq!(seen, [(0o644, 0), (0o600, 1)]);
    assert_eq!(entries[2].kind, EntryKind::File { length: 15 });
}

fn next(walk: &mut Walk<'_, FilesConfig>) -> Entry {
    match walk.next().unwrap() {
        Some(WalkStep::Entry(found)) => found.entry,
        _ => panic!("no entry"),
    }
}

#[test]
fn a_number_that_is_used_again_is_another_file() {
    let place = TempDir::new().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("z")).unwrap();
    fs::write(at("a"), "secret").unwrap();
    fs::hard_link(at("a"), at("b")).unwrap();
    let number = at("a").metadata().unwrap().ino();
    let config = FilesConfig::of(place.path());
    let mut walk = Walk::new(folder(place.path()), &config, OwnerNames::default()).unwrap();
    assert_eq!((next(&mut walk).path, next(&mut walk).path), (Vec::new(), b"a".to_vec()));
    fs::remove_file(at("a")).unwrap();
    fs::remove_file(at("b")).unwrap();
    let makes_it = |name: &String| {
        fs::write(at(name), "other").unwrap();
        at(name).metadata().unwrap().ino() == number
    };
    let Some(same) = (0..100).map(|tried| format!("z/{tried}")).find(makes_it) else {
        // This file system does not use numbers again.
        return;
    };
    fs::hard_link(at(&same), at("z/same")).unwrap();
    let names: BTreeSet<_> = std::iter::from_fn(|| match walk.next().unwrap()? {
        WalkStep::Entry(found) => Some(found.entry),
        _ => panic!("no entry"),
    })
    .filter_map(|entry| match entry.kind {
        EntryKind::SameAs { path } => Some((entry.path, path)),
        _ => None,
    })
    .collect();
    assert_eq!(names, BTreeSet::from([(b"z/same".to_vec(), same.into_bytes())]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_leads_a_capture_elsewhere_by_a_link() {
    let place = TempDir::new().unwrap();
    fs::create_dir(place.path().join("tree")).unwrap();
    fs::write(place.path().join("tree/a"), "a").unwrap();
    let link = place.path().join("link");
    symlink("tree", &link).unwrap();
    assert_eq!(entries(&captured(&link).await).len(), 2);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(&link, Some(1234), None).unwrap();
        let refused = try_captured(FilesConfig::of(&link), Arc::new(|_| {})).await.err().unwrap();
        assert!(format!("{refused:?}").contains("belongs to another user (uid 1234)"), "{refused:?}");
    }
    let missing = place.path().join("none");
    assert!(try_captured(FilesConfig::of(&missing), Arc::new(|_| {})).await.is_err());
    assert!(!missing.exists(), "a capture made the folder that it was to read");
}

/// Rules that remove what they are asked about.
struct Removing<'a>(&'a Path);

impl WalkRules for Removing<'_> {
    fn leaves_out(&self, path: &[u8], _: bool) -> bool {
        let _ = fs::remove_file(self.0.join(OsStr::from_bytes(path)));
        false
    }

    fn one_file_system(&self) -> bool {
        true
    }

    fn opens_by_force(&self) -> bool {
        false
    }
}

#[test]
fn patterns_are_asked_before_anything_is_looked_at() {
    let place = TempDir::new().unwrap();
    let _socket = UnixListener::bind(place.path().join("socket")).unwrap();
    let rules = Removing(place.path());
    let mut walk = Walk::new(folder(place.path()), &rules, OwnerNames::default()).unwrap();
    assert!(matches!(walk.next().unwrap(), Some(WalkStep::Entry(_))));
    assert!(walk.next().unwrap().is_none(), "the socket was looked at first");
}

/// Rules that leave out all but this.
struct Alone(&'static [u8]);

impl WalkRules for Alone {
    fn leaves_out(&self, path: &[u8], _: bool) -> bool {
        path != self.0
    }

    fn one_file_system(&self) -> bool {
        true
    }

    fn opens_by_force(&self) -> bool {
        false
    }
}

#[test]
fn of_another_file_system_the_folder_alone_is_captured() {
    let rules = Alone(b"proc");
    let mut walk = Walk::new(folder(Path::new("/")), &rules, OwnerNames::default()).unwrap();
    assert!(matches!(walk.next().unwrap(), Some(WalkStep::Entry(_))));
    let Some(WalkStep::Entry(found)) = walk.next().unwrap() else { panic!("no folder") };
    assert_eq!((found.entry.path, found.entry.kind), (b"proc".to_vec(), EntryKind::Folder));
    let Some(WalkStep::OtherFileSystem { path }) = walk.next().unwrap() else { panic!("nothing is mounted") };
    assert_eq!(path, b"proc");
    assert!(walk.next().unwrap().is_none());
}

/// A mount, until the test ends.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn at(place: &'a Path, words: &[&str]) -> Self {
        let mount = Command::new("mount").args(words).arg(place).status().unwrap();
        assert!(mount.success(), "mount {words:?}");
        Self(place)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_mounted_from_another_device_is_left_out() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (place, memory, disk) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = |name: &str| place.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    for name in ["far", "near"] {
        fs::write(at(name), "").unwrap();
    }
    let _memory = Mounted::at(memory.path(), &["-t", "tmpfs", "tmpfs"]);
    let (far, near) = (memory.path().join("far"), disk.path().join("near"));
    for path in [&far, &near] {
        fs::write(path, "content").unwrap();
    }
    let (far_place, near_place, folder_place) = (at("far"), at("near"), at("folder"));
    let _far = Mounted::at(&far_place, &["--bind", far.to_str().unwrap()]);
    let _near = Mounted::at(&near_place, &["--bind", near.to_str().unwrap()]);
    let _folder = Mounted::at(&folder_place, &["-t", "tmpfs", "tmpfs"]);
    fs::write(at("folder/hidden"), "").unwrap();
    let kept = captured(place.path()).await;
    let found: Vec<_> = entries(&kept).into_iter().map(|entry| String::from_utf8(entry.path).unwrap()).collect();
    assert_eq!(found, ["", "folder", "near"]);
    assert!(kept.facts.warnings[0].starts_with("lacks what is mounted below it, at far, folder: "), "{:?}", kept.facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_lease_is_waited_for() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("leased");
    fs::write(&path, "content").unwrap();
    // It gives the lease up half a second after it was asked to.
    let holder = "import fcntl, signal, sys, time\n\
        signal.signal(signal.SIGIO, lambda *_: (time.sleep(0.5), sys.exit(0)))\n\
        file = open(sys.argv[1], 'r+')\n\
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
        print('held', flush=True)\n\
        time.sleep(30)\n\
        sys.exit('nobody asked')\n";
    let mut python = Command::new("python3");
    let mut python = python.arg("-c").arg(holder).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(python.stdout.as_mut().unwrap(), &mut held).unwrap();
    assert_eq!(&held, b"held\n");
    let kept = captured(place.path()).await;
    assert_eq!(entries(&kept)[1].kind, EntryKind::File { length: 7 });
    assert!(python.wait().unwrap().success(), "the lease was not asked for");
}

/// What a capture makes of the file `a`, whose content is read from this one.
async fn captured_from(config: FilesConfig, file: File) -> (Kept, Capture) {
    let kept = Kept::empty();
    let out = Archive::of(StreamSink::open(&kept, TREE_STREAM).unwrap(), CancellationToken::new());
    let capture = tokio::task::spawn_blocking(move || {
        let root = folder(&config.path);
        let mut walk = Walk::new(root, &config, OwnerNames::default()).unwrap();
        walk.next().unwrap();
        let Some(WalkStep::Entry(mut found)) = walk.next().unwrap() else { panic!("no entry") };
        found.stat = rustix::fs::fstat(&file).unwrap();
        found.entry.kind = EntryKind::File { length: found.stat.st_size as u64 };
        let mut capture = Capture::new(config.clone(), out);
        capture.entry(Found { file: Some(file), ..*found }, &walk).unwrap();
        capture
    });
    let capture = capture.await.unwrap();
    (kept, capture)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fails_while_it_is_read_is_told() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a");
    fs::write(&path, "0123456789").unwrap();
    let config = FilesConfig::of(place.path());
    let allowing = FilesConfig { allow_unreadable: true, ..config.clone() };
    // Nothing can be read of a file that is open to be written alone.
    let file = || File::options().write(true).open(&path).unwrap();
    let (kept, capture) = captured_from(config, file()).await;
    let refused = capture.judge(2).unwrap_err();
    assert!(refused.message().contains("holds what cannot be read: a ("), "{refused:?}");
    assert!(capture.troubles.warnings()[0].starts_with("holds 1 entry with zeros"));
    assert_eq!(kept.bytes().last_chunk::<512>(), Some(&[0; 512]));

    // Zeros alone are no snapshot.
    let (_, capture) = captured_from(allowing, file()).await;
    let refused = capture.judge(5).unwrap_err();
    assert!(refused.class() == Class::Source && refused.message().contains("but folders: a ("), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_ends_before_its_size_is_damaged() {
    let place = TempDir::new().unwrap();
    fs::write(place.path().join("a"), "").unwrap();
    // The kernel says of it that it has 4096 bytes, and gives fewer.
    let file = File::open("/sys/devices/system/cpu/online").unwrap();
    let given = fs::read("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4096);
    let (kept, capture) = captured_from(FilesConfig::of(place.path()), file).await;
    let bytes = kept.bytes();
    assert!(bytes[bytes.len() - 4096..].starts_with(&given), "what could be read is lost");
    let refused = capture.judge(2).unwrap_err();
    assert!(refused.message().contains("a (it ends before the size"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_becomes_shorter_is_read_again() {
    let place = TempDir::new().unwrap();
    let path = place.path().join("a");
    fs::write(&path, "0123456789").unwrap();
    // The first write is the root, the second the member.
    let hook = move |writes| {
        if writes == 2 {
            fs::write(&path, "0123").unwrap();
        }
    };
    let kept = try_captured(FilesConfig::of(place.path()), Arc::new(hook)).await.unwrap();
    assert_eq!(kept.facts.warnings, Vec::<String>::new());
    let lengths: Vec<_> = entries(&kept).into_iter().skip(1).map(|entry| entry.kind).collect();
    assert_eq!(lengths, [10, 4].map(|length| EntryKind::File { length }));
}
