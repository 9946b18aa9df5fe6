#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;

use super::*;

fn tree(mount: &Path) -> Tree {
    Tree { mount: mount.to_owned(), vault_prefix: String::new(), leaves: Leaves::default(), tidied: Arc::default() }
}

#[test]
fn files_of_runs_that_were_killed_a_week_ago_are_removed_and_no_others() {
    let place = tempfile::tempdir().unwrap();
    let tree = tree(place.path());
    tree.put("first/object", b"1", Existing::Keep).unwrap();
    let now = place.path().join("first/object").metadata().unwrap().modified().unwrap();
    let leave = |folder: &str, name: &str, days: u64| {
        let path = place.path().join(folder).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(&path).unwrap().set_modified(now - Duration::from_secs(days * 24 * 3600)).unwrap();
        path
    };
    let old = leave("second", ".lifeboat-0123456789abcdef.tmp", 8);
    let stay = [
        leave("second", ".lifeboat-1123456789abcdef.tmp", 6),
        leave("second", ".lifeboat-0123456789abcdef", 8),
        leave("second", "other.tmp", 8),
        // Nothing is written there.
        leave("third", ".lifeboat-0123456789abcdef.tmp", 8),
    ];
    tree.put("second/object", b"2", Existing::Keep).unwrap();
    assert!(!old.exists(), "it was left over for 8 days");
    // It was looked at already.
    let later = leave("second", ".lifeboat-2123456789abcdef.tmp", 8);
    tree.clone().put("second/another", b"3", Existing::Replace).unwrap();
    for path in stay.iter().chain([&later]) {
        assert!(path.exists(), "{}", path.display());
    }
    tree.clone().put("third/object", b"4", Existing::Keep).unwrap();
    assert!(!stay[3].exists());
    assert_eq!(tree.get("second/object", 9).unwrap(), "2");
}
