//! Trees that are cut into streams, and streams that are taken over because nothing in them
//! changed.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use super::super::compare::compare;
use super::super::decode::ArchiveReader;
use super::super::entry::{Entry, EntryKind};
use super::super::load::load;
use super::super::shard::name_of;
use super::super::unpack::unpack;
use super::super::unread::Unread;
use super::*;

/// A tree of about 4,000 entries: names that are not UTF-8, many in one folder, and names of files
/// far from the first.
fn long_tree() -> TempDir {
    let place = on_disk();
    let at = |name: &str| place.path().join(name);
    for folder in ["a", "flat", "m", "z/deep"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    for number in 0..1500 {
        fs::write(at(&format!("flat/{number:05}")), format!("file {number}\n")).unwrap();
    }
    for number in 0..2000u32 {
        let name = [b"m/\xff\xfe", number.to_string().as_bytes(), b"\n%~!"].concat();
        fs::write(place.path().join(OsStr::from_bytes(&name)), number.to_le_bytes()).unwrap();
    }
    for number in 0..500 {
        fs::write(at(&format!("z/deep/{number}")), "").unwrap();
    }
    fs::write(at("a/first"), "of several names").unwrap();
    fs::hard_link(at("a/first"), at("flat/00700")).unwrap_err();
    fs::hard_link(at("a/first"), at("flat/01500")).unwrap();
    fs::hard_link(at("a/first"), at("z/last")).unwrap();
    place
}

/// Captures after `before`.
async fn captured_after(config: FilesConfig, before: &Kept) -> Kept {
    captured_while(config, before, || {}).await
}

/// Captures after `before`, and does this while the first stream that is read is written.
async fn captured_while(config: FilesConfig, before: &Kept, act: impl Fn() + Send + Sync + 'static) -> Kept {
    // Times of files are coarse.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let once = std::sync::Once::new();
    let hook: Hook = Arc::new(move |_| once.call_once(&act));
    let kept = Kept { before: Some(Arc::new(before.clone())), hook, ..Kept::empty() };
    let facts = FilesSource(config).capture(&kept, &context(Path::new("/nonexistent"))).await.unwrap();
    Kept { facts, ..kept }
}

/// How many streams were read. All of it is what a capture makes that reads everything.
async fn read_anew(path: &Path, before: &Kept) -> (Kept, usize) {
    let kept = captured_after(FilesConfig::of(path), before).await;
    let all = captured(path).await;
    assert!(kept.bytes() == all.bytes(), "what was taken over is not what is there");
    assert_eq!(kept.names(), all.names());
    let read = kept.names().len() - kept.taken_over.lock().unwrap().len();
    (kept, read)
}

fn entries(bytes: &[u8]) -> Vec<Entry> {
    let mut reader = ArchiveReader::new(bytes);
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_tree_is_several_streams_and_one_archive() {
    let place = long_tree();
    let kept = captured(place.path()).await;
    let names = kept.names();
    assert!((3..20).contains(&names.len()), "{names:?}");
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, names, "the order of names is that of the archive");
    assert!(names.iter().any(|name| name.contains("m!~FF~FE")), "no cut is at a name that is not UTF-8: {names:?}");
    let entries = entries(&kept.bytes());
    assert_eq!(entries.len(), 4 + 2 + 1500 + 2000 + 500 + 3);
    let other_names = entries.iter().filter(|entry| matches!(entry.kind, EntryKind::SameAs { .. })).count();
    assert_eq!(other_names, 2);

    let out = on_disk();
    let restored = load(&kept, out.path(), &everything(), &context(out.path())).await.unwrap();
    assert_eq!(restored.failures, []);
    let bytes = kept.bytes();
    let compared = compare(&bytes[..], folder(out.path()), &everything()).unwrap();
    assert_eq!((compared.differences, compared.entries), (Vec::new(), entries.len() as u64));
    assert_eq!(out.path().join("z/last").metadata().unwrap().nlink(), 3);

    // A part alone, or in another order, is no tree.
    let parts: Vec<Vec<u8>> = kept.streams.lock().unwrap().iter().map(|(_, content)| content.clone()).collect();
    for wrong in [parts[..parts.len() - 1].concat(), parts[1..].concat(), [&parts[1..], &parts[..1]].concat().concat()]
    {
        let empty = on_disk();
        assert!(unpack(ArchiveReader::new(&wrong[..]), folder(empty.path()), &TreeWanted::default()).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_tree_is_one_stream() {
    let place = awkward();
    let kept = captured(place.path()).await;
    assert_eq!(kept.names(), [TREE_STREAM]);
    let (again, read) = read_anew(place.path(), &kept).await;
    assert_eq!((again.names(), read), (vec![TREE_STREAM.to_owned()], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_path_needs_few_streams() {
    let place = long_tree();
    let kept = captured(place.path()).await;
    let odd = PathBuf::from(OsStr::from_bytes(b"m/\xff\xfe77\n%~!"));
    for (paths, expected) in [
        (vec![PathBuf::from("flat/00042")], vec!["flat/00042"]),
        (vec![PathBuf::from("a")], vec!["a", "a/first"]),
        (vec![PathBuf::from("z/deep/499"), PathBuf::from("a/first")], vec!["a/first", "z/deep/499"]),
        (vec![odd.clone()], vec![]),
    ] {
        kept.opened.lock().unwrap().clear();
        let out = on_disk();
        let wanted = TreeWanted { paths: paths.clone(), ..TreeWanted::default() };
        load(&kept, out.path(), &wanted, &context(out.path())).await.unwrap();
        for path in expected {
            let (is, was) = (out.path().join(path), place.path().join(path));
            assert_eq!(is.metadata().unwrap().len(), was.metadata().unwrap().len(), "{path}");
        }
        assert!(paths.iter().all(|path| out.path().join(path).exists()), "{paths:?}");
        let times = |of: &Path| paths[0].parent().map(|folder| of.join(folder).metadata().unwrap().mtime_nsec());
        assert_eq!(times(out.path()), times(place.path()), "a folder on the way is not as it was");
        let opened = kept.opened.lock().unwrap().len();
        assert!(
            opened < kept.names().len().div_ceil(2) + 1,
            "{opened} of {} streams for {paths:?}",
            kept.names().len()
        );
    }
    for missing in ["flat/x", "m/none", "zz", "a/first/below"] {
        let out = on_disk();
        let wanted = TreeWanted { paths: vec![missing.into()], ..TreeWanted::default() };
        let refused = load(&kept, out.path(), &wanted, &context(out.path())).await.unwrap_err();
        assert!(format!("{refused:?}").contains("the snapshot holds no"), "{missing}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_read_and_nothing_else() {
    let place = long_tree();
    let at = |name: &str| place.path().join(name);
    let kept = captured(place.path()).await;
    let (mut kept, read) = read_anew(place.path(), &kept).await;
    assert_eq!(read, 0, "an unchanged tree was read");

    type Change<'a> = (&'a str, Box<dyn Fn() + 'a>, usize);
    let is_root = rustix::process::geteuid().is_root();
    let changes: [Change<'_>; 12] = [
        (
            "in place, with the same size and time",
            Box::new(|| {
                let modified = at("flat/00042").metadata().unwrap().modified().unwrap();
                let file = File::options().write(true).open(at("flat/00042")).unwrap();
                file.write_all_at(b"FILE", 0).unwrap();
                file.set_modified(modified).unwrap();
            }),
            1,
        ),
        ("mode", Box::new(|| chmod(&at("flat/00900"), 0o600)), 1),
        (
            "attribute",
            Box::new(|| rustix::fs::setxattr(at("z/deep/7"), "user.x", b"1", XattrFlags::empty()).unwrap()),
            1,
        ),
        (
            "owner",
            Box::new(|| {
                if is_root { chown(at("z/deep/8"), Some(1234), None).unwrap() } else { chmod(&at("z/deep/8"), 0o640) }
            }),
            1,
        ),
        // Also the folder, and what comes after a cut that is gone.
        ("a file more", Box::new(|| fs::write(at("flat/00500a"), "new").unwrap()), 3),
        ("a file less", Box::new(|| fs::remove_file(at("flat/00500a")).unwrap()), 3),
        ("a name", Box::new(|| fs::rename(at("flat/00600"), at("flat/00600x")).unwrap()), 3),
        (
            "another file in its place",
            Box::new(|| {
                let modified = at("flat/00601").metadata().unwrap().modified().unwrap();
                fs::write(at("flat/new"), "FILE 601\n").unwrap();
                File::open(at("flat/new")).unwrap().set_modified(modified).unwrap();
                fs::rename(at("flat/new"), at("flat/00601")).unwrap();
            }),
            3,
        ),
        (
            "a link",
            Box::new(|| {
                fs::remove_file(at("z/deep/9")).unwrap();
                symlink("8", at("z/deep/9")).unwrap();
            }),
            2,
        ),
        (
            "where a link leads",
            Box::new(|| {
                fs::remove_file(at("z/deep/9")).unwrap();
                symlink("7", at("z/deep/9")).unwrap();
            }),
            2,
        ),
        // Each name of it tells how many there are.
        ("the first of several names", Box::new(|| fs::remove_file(at("a/first")).unwrap()), 4),
        ("a folder, with all that is in it", Box::new(|| fs::remove_dir_all(at("z/deep")).unwrap()), 3),
    ];
    for (what, change, most) in &changes {
        change();
        let (after, read) = read_anew(place.path(), &kept).await;
        assert!((1..=*most).contains(&read), "{what}: {read} streams of {} were read", after.names().len());
        kept = after;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_times_are_not_trusted_everything_is_read() {
    let place = long_tree();
    let config = FilesConfig { trust_times: false, ..FilesConfig::of(place.path()) };
    let kept = captured(place.path()).await;
    let kept = captured_after(config, &kept).await;
    assert!(kept.taken_over.lock().unwrap().is_empty());
    // What was read then is not read once more where they are trusted again.
    assert_eq!(read_anew(place.path(), &kept).await.1, 0);
    // A file system where a change may leave no trace.
    let memory = TempDir::new_in("/dev/shm").unwrap();
    fs::write(memory.path().join("a"), "a").unwrap();
    assert!(captured(memory.path()).await.fingerprints.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_it_is_read_is_read_again_the_next_time() {
    let place = on_disk();
    let path = place.path().join("a");
    fs::write(&path, "a").unwrap();
    let again = path.clone();
    let hook = move |writes: usize| fs::write(&again, format!("a{writes}")).unwrap();
    let kept = try_captured(FilesConfig::of(place.path()), Arc::new(hook)).await.unwrap();
    assert!(kept.facts.warnings[0].contains("changed each time it was read"), "{:?}", kept.facts.warnings);
    assert!(kept.fingerprints.lock().unwrap().is_empty());
    // What changed after it was looked at is not what the fingerprint would tell.
    let hook = move |writes| {
        if writes == 1 {
            fs::write(&path, "later").unwrap();
        }
    };
    let kept = try_captured(FilesConfig::of(place.path()), Arc::new(hook)).await.unwrap();
    assert_eq!(kept.facts.warnings, Vec::<String>::new());
    assert_eq!(entries(&kept.bytes())[1].kind, EntryKind::File { length: 5 });
    assert!(kept.fingerprints.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stood_in_another_place_for_a_while_is_read_again() {
    let place = long_tree();
    fs::create_dir(place.path().join("other")).unwrap();
    for number in 0..1500 {
        fs::write(place.path().join(format!("other/{number:05}")), format!("else {number}\n")).unwrap();
    }
    let (mut config, root) = (FilesConfig::of(place.path()), place.path().to_owned());
    config.exclude = {
        let mut builder = ignore::gitignore::GitignoreBuilder::new("");
        builder.add_line(None, "/other").unwrap();
        builder.build().unwrap()
    };
    let swap = move || {
        let at = |name: &str| root.join(name);
        fs::rename(at("flat"), at("aside")).unwrap();
        fs::rename(at("other"), at("flat")).unwrap();
        fs::rename(at("aside"), at("other")).unwrap();
    };
    // All of the first stream was looked at, and nothing in this folder was reached.
    let swapping = (std::sync::Once::new(), swap.clone());
    let hook = move |_| swapping.0.call_once(&swapping.1);
    let kept = try_captured(config.clone(), Arc::new(hook)).await.unwrap();
    assert!(String::from_utf8_lossy(&kept.bytes()).contains("else 1"), "nothing was swapped");
    // Now everything but folders is where it was when it was looked at, with the times of then.
    swap();
    let after = captured_after(config.clone(), &kept).await;
    let all = try_captured(config, Arc::new(|_| {})).await.unwrap();
    assert!(after.bytes() == all.bytes(), "what was read elsewhere was taken over");
}

/// All of it can be restored, and this file is what it was when it had several names.
async fn is_whole(kept: &Kept, name: impl AsRef<Path>) {
    let out = on_disk();
    load(kept, out.path(), &everything(), &context(out.path())).await.unwrap();
    assert_eq!(fs::read(out.path().join(name)).unwrap(), b"of several names");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_of_a_file_that_was_away_for_a_while_is_read_again() {
    let place = long_tree();
    let (a, away) = (place.path().join("a"), place.path().join("away"));
    let (from, to) = (a.clone(), away.clone());
    let act = move || fs::rename(&from, &to).unwrap();
    let kept = captured_while(FilesConfig::of(place.path()), &Kept::empty(), act).await;
    is_whole(&kept, "z/last").await;
    fs::rename(&away, &a).unwrap();
    // It was stored as a file of its own, and is another name again.
    read_anew(place.path(), &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_of_a_file_that_is_not_captured_is_read() {
    let place = long_tree();
    let kept = captured(place.path()).await;
    let first_stream = place.path().join("flat/00001");
    chmod(&first_stream, 0o600);
    let (a, away) = (place.path().join("a"), place.path().join("away"));
    let (from, to) = (a.clone(), away.clone());
    let gone = captured_while(FilesConfig::of(place.path()), &kept, move || fs::rename(&from, &to).unwrap()).await;
    is_whole(&gone, "z/last").await;
    assert!(!gone.taken_over.lock().unwrap().is_empty(), "everything was read");
    fs::rename(&away, &a).unwrap();

    // The same, where it is there and cannot be captured.
    let kept = captured(place.path()).await;
    chmod(&first_stream, 0o640);
    let config = FilesConfig { allow_unreadable: true, ..FilesConfig::of(place.path()) };
    let (from, to) = (a.clone(), away.clone());
    let unreadable = captured_while(config, &kept, move || {
        fs::rename(&from, &to).unwrap();
        fs::create_dir_all(from.join("first")).unwrap();
    });
    let unreadable = unreadable.await;
    assert!(unreadable.facts.warnings.iter().any(|told| told.contains("a/first")), "{:?}", unreadable.facts.warnings);
    is_whole(&unreadable, "z/last").await;
    assert!(!unreadable.taken_over.lock().unwrap().is_empty(), "everything was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_a_stream_is_no_name_of_what_was_replaced_before_it() {
    let place = long_tree();
    let at = |name: &str| place.path().join(name);
    fs::remove_file(at("flat/01500")).unwrap();
    // The first of a stream is looked at before the stream before it is read.
    let kept = captured(place.path()).await;
    let second = kept.names()[1].clone();
    let path = entries(&kept.bytes()).into_iter().map(|entry| entry.path).find(|path| name_of(path) == second).unwrap();
    let path = PathBuf::from(OsStr::from_bytes(&path));
    fs::remove_file(place.path().join(&path)).unwrap();
    fs::hard_link(at("a/first"), place.path().join(&path)).unwrap();
    let kept = captured(place.path()).await;
    assert_eq!(kept.names()[1], second);
    chmod(&at("flat/00001"), 0o600);
    let root = place.path().to_owned();
    let replaced = captured_while(FilesConfig::of(place.path()), &kept, move || {
        fs::write(root.join("new"), "another file").unwrap();
        fs::rename(root.join("new"), root.join("a/first")).unwrap();
    });
    let replaced = replaced.await;
    let bytes = replaced.bytes();
    assert!(String::from_utf8_lossy(&bytes).contains("another file"), "nothing was replaced");
    is_whole(&replaced, &path).await;
}

#[test]
fn what_a_fingerprint_tells_depends_on_what_may_be_seen() {
    if !everything().special {
        return;
    }
    let place = on_disk();
    let context = || Unread::of(&FilesConfig::of(place.path()), &folder(place.path()), true).context;
    let (with, without) = std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let with = context();
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective.remove(rustix::thread::CapabilitySet::SYS_ADMIN);
            rustix::thread::set_capabilities(None, sets).unwrap();
            (with, context())
        });
        told.join().unwrap()
    });
    assert_ne!(with, without);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_replaced_after_it_was_looked_at_is_captured_as_it_is() {
    let place = on_disk();
    let at = |name: &str| place.path().join(name);
    for name in ["a", "gone", "kind", "link"] {
        fs::write(at(name), "old").unwrap();
    }
    fs::create_dir(at("moved")).unwrap();
    fs::write(at("moved/inside"), "x").unwrap();
    fs::hard_link(at("a"), at("other")).unwrap();
    fs::hard_link(at("a"), at("third")).unwrap();
    let root = place.path().to_owned();
    // All was looked at before the first write.
    let hook = move |writes| {
        let at = |name: &str| root.join(name);
        if writes == 1 {
            fs::write(at("new"), "another").unwrap();
            fs::rename(at("new"), at("a")).unwrap();
            fs::remove_file(at("gone")).unwrap();
            fs::remove_file(at("link")).unwrap();
            symlink("/etc/passwd", at("link")).unwrap();
            fs::rename(at("moved"), at("elsewhere")).unwrap();
            symlink("elsewhere", at("moved")).unwrap();
        }
    };
    let kept = try_captured(FilesConfig::of(place.path()), Arc::new(hook)).await.unwrap();
    let found: Vec<(String, EntryKind)> =
        entries(&kept.bytes()).into_iter().map(|entry| (String::from_utf8(entry.path).unwrap(), entry.kind)).collect();
    let file = |length| EntryKind::File { length };
    let expected = [
        ("", EntryKind::Folder),
        // Its other names are no longer names of it: each has the content that was there.
        ("a", file(7)),
        ("kind", file(3)),
        ("link", EntryKind::Link { target: b"/etc/passwd".to_vec() }),
        // Nobody follows the link that took the place of this folder.
        ("moved", EntryKind::Folder),
        ("other", file(3)),
        ("third", file(3)),
    ];
    assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));

    // A folder that took the place of a file was not looked into.
    let place = on_disk();
    let path = place.path().join("a");
    fs::write(&path, "old").unwrap();
    let hook = move |writes| {
        if writes == 1 {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        }
    };
    let refused = try_captured(FilesConfig::of(place.path()), Arc::new(hook)).await.err().unwrap();
    assert!(refused.message().contains("a folder, or another file system, took its place"), "{refused:?}");
}

#[test]
fn a_name_that_is_too_long_is_cut_and_stays_its_own() {
    let long = [b"srv/".as_slice(), &[b'n'; 250]].concat();
    let other = [long.as_slice(), b"/x"].concat();
    let (name, other) = (name_of(&long), name_of(&other));
    assert!(name.len() < 255 - "tree/".len() && name != other && name.starts_with("tree/+srv!nnn"), "{name}");
}
