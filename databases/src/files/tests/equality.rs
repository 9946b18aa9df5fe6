//! What comes back equals what was captured, and every planted difference is found.

use std::fs;
use std::os::unix::fs::symlink;

use super::super::compare::{ComparedTrees, compare};
use super::super::decode::ArchiveReader;
use super::super::throw_away::FilesThrowAway;
use super::super::unpack::{Unpacked, unpack};
use super::*;
use crate::database::ThrowAway;
use crate::proof::DrillQuery;

fn restored(kept: &Kept, wanted: &TreeWanted) -> (TempDir, Unpacked) {
    let place = TempDir::new().unwrap();
    let unpacked = unpack(ArchiveReader::new(&kept.bytes()[..]), folder(place.path()), wanted).unwrap();
    (place, unpacked)
}

fn compared(kept: &Kept, place: &Path, wanted: &TreeWanted) -> ComparedTrees {
    compare(&kept.bytes()[..], folder(place), wanted).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_awkward_tree_comes_back_equal_and_gives_the_same_archive() {
    let tree = awkward();
    let kept = captured(tree.path()).await;
    assert_eq!(kept.facts.warnings, Vec::<String>::new());
    assert!(kept.bytes().len() < 4 << 20, "holes were stored: {}", kept.bytes().len());
    let (place, unpacked) = restored(&kept, &everything());
    let compared = compared(&kept, place.path(), &everything());
    assert_eq!(compared.differences, Vec::<String>::new());
    assert_eq!((compared.entries, unpacked.entries), (unpacked.entries, 23 + u64::from(everything().special)));
    if everything().owners {
        assert!(captured(place.path()).await.bytes() == kept.bytes(), "the archive of the restored tree differs");
        assert_eq!((unpacked.special, unpacked.lists, unpacked.devices), (0, 0, 0));
    }
    assert!(captured(tree.path()).await.bytes() == kept.bytes(), "reading changed what is captured");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_asks_for_nothing_gives_no_rights() {
    use std::os::unix::fs::MetadataExt;
    let kept = captured(awkward().path()).await;
    let (place, unpacked) = restored(&kept, &TreeWanted::default());
    let compared = compared(&kept, place.path(), &TreeWanted::default());
    assert_eq!(compared.differences, Vec::<String>::new());
    assert_eq!(unpacked.lists, 2);
    let mode = |name: &str| place.path().join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("docs/program"), mode("docs/block"), mode("empty")), (0o755, 0o640, 0o1777));
    if everything().special {
        assert_eq!((unpacked.special, unpacked.devices), (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planted_difference_is_found() {
    let tree = awkward();
    let kept = captured(tree.path()).await;
    let plant = |what: &str, change: &dyn Fn(&Path), expected: &[&str]| {
        let (place, _) = restored(&kept, &TreeWanted::default());
        change(place.path());
        let found = compared(&kept, place.path(), &TreeWanted::default()).differences;
        let times = |difference: &&String| !difference.ends_with("time of modification differs");
        let found: Vec<&String> = found.iter().filter(times).collect();
        assert_eq!(found, expected, "{what}");
    };
    let keep_time = |path: &Path, change: &dyn Fn(&Path)| {
        let time = path.metadata().unwrap().modified().unwrap();
        change(path);
        File::open(path).unwrap().set_modified(time).unwrap();
    };
    plant("nothing", &|_| {}, &[]);
    let flip = |path: &Path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"!", 2_000_003).unwrap();
    };
    plant("a byte", &|at| keep_time(&at.join("docs/deep/er/big"), &flip), &["docs/deep/er/big: content differs"]);
    let in_a_hole = |path: &Path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"!", 1 << 30).unwrap();
    };
    plant("a byte in a hole", &|at| keep_time(&at.join("sparse"), &in_a_hole), &["sparse: content differs"]);
    plant("a mode", &|at| chmod(&at.join("docs.d/x"), 0o640), &["docs.d/x: mode 644 stored, 640 restored"]);
    plant(
        "a missing file",
        &|at| fs::remove_file(at.join("docs.d/x")).unwrap(),
        &["docs.d/x: missing in the restored tree"],
    );
    plant("an extra file", &|at| fs::write(at.join("docs.d/y"), "").unwrap(), &["docs.d/y: only in the restored tree"]);
    plant("an extra file at the end", &|at| fs::write(at.join("~"), "").unwrap(), &["~: only in the restored tree"]);
    let relink = |at: &Path| {
        fs::remove_file(at.join("docs/deep/up")).unwrap();
        symlink(".", at.join("docs/deep/up")).unwrap();
    };
    plant("a target", &relink, &["docs/deep/up: leads to .. stored, to . restored"]);
    let retype = |at: &Path| {
        fs::remove_file(at.join("pipe")).unwrap();
        fs::write(at.join("pipe"), "").unwrap();
    };
    plant("a type", &retype, &["pipe: a pipe stored, a file restored"]);
    let split = |at: &Path| {
        fs::remove_file(at.join("zlast")).unwrap();
        fs::write(at.join("zlast"), "hello\n").unwrap();
    };
    plant("a name of its own", &split, &["zlast: another name of a file stored, a file restored"]);
    let attribute = |at: &Path| {
        rustix::fs::setxattr(at.join("docs"), "user.empty", b"x", XattrFlags::empty()).unwrap();
    };
    plant("an attribute", &attribute, &["docs: attribute user.empty differs"]);
    let extra = |at: &Path| {
        rustix::fs::setxattr(at.join("empty"), "user.more", b"", XattrFlags::empty()).unwrap();
    };
    plant("an attribute more", &extra, &["empty: attribute user.more differs"]);
    let shorter = |at: &Path| File::options().write(true).open(at.join("hole")).unwrap().set_len(1 << 19).unwrap();
    plant("a length", &shorter, &["hole: 1048576 bytes stored, 524288 restored"]);
    let (place, _) = restored(&kept, &TreeWanted::default());
    set_time(&place.path().join("docs/block"), Duration::new(1, 6));
    let found = compared(&kept, place.path(), &TreeWanted::default()).differences;
    assert_eq!(found, ["docs/block: time of modification differs"]);
    for at in 0..60 {
        fs::write(place.path().join(format!("empty/{at}")), "").unwrap();
    }
    let found = compared(&kept, place.path(), &TreeWanted::default()).differences;
    assert_eq!((found.len(), found[50].as_str()), (51, "… and 12 more"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_proves_the_tree_and_removes_it() {
    let scratch = TempDir::new().unwrap();
    let kept = captured(awkward().path()).await;
    let query = |sql: &str, expect: Option<&str>| {
        let expect = expect.map(str::to_owned);
        DrillQuery { database: None, sql: sql.to_owned(), expect, ..DrillQuery::default() }
    };
    let mut drill = Box::new(FilesThrowAway::new(&context(scratch.path())).unwrap());
    drill.load(&kept).await.unwrap();
    let queries = [
        query("docs/a.txt", Some("hello")),
        query("docs/dangling", None),
        query("docs/", None),
        query("/", None),
        query("docs/none", None),
        query("docs/link", Some("hello")),
        query("docs/deep/up/a.txt", Some("hello")),
    ];
    let checks = drill.check(&queries).await.unwrap();
    let passed: Vec<bool> = checks.iter().map(|check| check.passed).collect();
    assert_eq!(passed, [true, true, true, true, true, false, false, false], "{checks:?}");
    assert!(drill.check(&[query("../x", None)]).await.is_err());
    let proof = drill.prove(&kept).await.unwrap();
    assert!(proof.is_equal() && proof.rows > 20 && !proof.notes.is_empty(), "{proof:?}");
    fs::write(scratch.path().join("tree/docs.d/x"), "another").unwrap();
    assert!(!drill.prove(&kept).await.unwrap().is_equal());
    drill.stop().await.unwrap();
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_paths_come_back_and_missing_ones_are_told() {
    let kept = captured(awkward().path()).await;
    let wanted = |paths: &[&str]| TreeWanted { paths: paths.iter().map(Into::into).collect(), ..TreeWanted::default() };
    let place = TempDir::new().unwrap();
    let into = |name: &str| place.path().join(name);
    let context = context(place.path());
    let load = |name: &str, paths: &[&str]| {
        let (path, wanted) = (into(name), wanted(paths));
        let (kept, context) = (kept.clone(), context.clone());
        async move { super::super::load::load(&kept, &path, &wanted, &context).await }
    };
    let lacking = load("a", &["docs/deep/", "./pipe", "zlast"]).await.unwrap();
    let [failure] = &lacking.failures[..] else { panic!("{lacking:?}") };
    assert_eq!(failure.object, "2 other names of files");
    assert!(failure.reason.ends_with(": docs/deep/same (as docs/a.txt), zlast (as docs/a.txt)"), "{failure:?}");
    let whole = load("b", &["docs/a.txt", "docs/deep", "./pipe"]).await.unwrap();
    assert_eq!(whole.failures, []);
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!((names(&into("a")), names(&into("a/docs/deep"))), (names(&into("b")), vec!["er".into(), "up".into()]));
    assert_eq!(names(&into("b")), ["docs", "pipe"]);
    assert_eq!(names(&into("b/docs")), ["a.txt", "deep"]);
    assert_eq!(names(&into("b/docs/deep")), ["er", "same", "up"]);
    let refused = load("c", &["docs/a.txt", "none"]).await.unwrap_err();
    assert!(refused.message().contains("the snapshot holds no none"), "{refused:?}");
    assert!(refused.chain().ends_with("holds what else was asked for"), "{refused:?}");
    assert_eq!((names(&into("c")), names(&into("c/docs"))), (vec!["docs".into()], vec!["a.txt".into()]));
    // What is of no worth goes, as far as this restore made it.
    let refused = load("d/e", &["docs/deep/none"]).await.unwrap_err();
    assert_eq!(refused.chain(), "the snapshot holds no docs/deep/none");
    assert!(!into("d").exists(), "what was made is left");
    fs::create_dir(into("d")).unwrap();
    load("d", &["docs/deep/none"]).await.unwrap_err();
    assert!(names(&into("d")).is_empty(), "the folder was there before, and only that must be left");
    let absolute = load("d", &["/docs/a.txt"]).await.unwrap_err();
    assert!(absolute.message().ends_with("it is absolute"), "{absolute:?}");
    assert!(absolute.hint_text().unwrap().contains("without the first /"), "{absolute:?}");
    let nothing = TempDir::new().unwrap();
    let refused = super::super::load::load(&Kept::of(Vec::new()), nothing.path(), &wanted(&[]), &context).await;
    assert!(refused.is_err_and(|error| !format!("{error:?}").contains("a part")), "nothing was made");
    for bad in ["/etc", "../x"] {
        assert!(load("d", &[bad]).await.is_err(), "{bad}");
    }
    let occupied = load("b", &["pipe"]).await.unwrap_err();
    assert!(occupied.message().ends_with("is not empty"), "{occupied:?}");
}
