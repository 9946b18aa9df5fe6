//! A restore gives no right that nobody asked for, and takes none from where it restores to.

use std::os::unix::fs::MetadataExt;

use super::super::compare::compare;
use super::super::decode::ArchiveReader;
use super::super::unpack::unpack;
use super::*;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_as_its_owner_only_if_it_goes_back_to_him() {
    let kept = captured(awkward().path()).await;
    let special = TreeWanted { special: true, ..everything() };
    let without_owners = TreeWanted { owners: false, ..special.clone() };
    if !everything().special {
        return;
    }
    for (wanted, expected, lost) in [(&without_owners, 0o755, 1), (&special, 0o6755, 0)] {
        let place = TempDir::new().unwrap();
        let unpacked = unpack(ArchiveReader::new(&kept.bytes()[..]), folder(place.path()), wanted).unwrap();
        assert_eq!((mode(&place.path().join("docs/program")), unpacked.special), (expected, lost));
        let compared = compare(&kept.bytes()[..], folder(place.path()), wanted).unwrap();
        assert_eq!((compared.differences, compared.special), (Vec::<String>::new(), lost));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_a_closed_folder_loses_its_other_names_alone() {
    let (tree, place) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = |name: &str| tree.path().join(name);
    fs::create_dir(at("closed")).unwrap();
    fs::write(at("closed/a"), "a").unwrap();
    fs::hard_link(at("closed/a"), at("other")).unwrap();
    fs::write(at("z"), "z").unwrap();
    if !everything().owners {
        return;
    }
    chmod(&at("closed"), 0o600);
    let kept = captured(tree.path()).await;
    std::os::unix::fs::chown(place.path(), Some(1234), Some(1234)).unwrap();
    let root = folder(place.path());
    let unpacked = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(1234);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        unpack(ArchiveReader::new(&kept.bytes()[..]), root, &TreeWanted::default()).unwrap()
    });
    let unpacked = unpacked.join().unwrap();
    assert_eq!((unpacked.entries, unpacked.closed_names.count), (4, 1));
    let told = unpacked.closed_names.tell(|_, names| names).unwrap();
    assert_eq!(told, "other (as closed/a)");
    assert!(place.path().join("z").exists() && !place.path().join("other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_the_directory_do_not_pass_to_what_is_restored() {
    let kept = captured(awkward().path()).await;
    let place = TempDir::new().unwrap();
    let open_to_all = list("user::rwx,user:1234:rwx,group::rwx,mask::rwx,other::rwx");
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        rustix::fs::setxattr(place.path(), name, &open_to_all, XattrFlags::empty()).unwrap();
    }
    let cut = &kept.bytes()[..kept.bytes().len() - 512];
    assert!(unpack(ArchiveReader::new(cut), folder(place.path()), &TreeWanted::default()).is_err());
    assert_eq!(mode(place.path()), 0o700, "others may enter a tree that is not complete");
    fs::remove_dir_all(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    rustix::fs::setxattr(place.path(), "system.posix_acl_default", &open_to_all, XattrFlags::empty()).unwrap();
    unpack(ArchiveReader::new(&kept.bytes()[..]), folder(place.path()), &TreeWanted::default()).unwrap();
    let compared = compare(&kept.bytes()[..], folder(place.path()), &TreeWanted::default()).unwrap();
    assert_eq!(compared.differences, Vec::<String>::new());
}
