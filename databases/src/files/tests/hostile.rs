//! Archives that no capture wrote.

use std::collections::BTreeMap;

use lifeboat_base::Class;

use super::super::decode::ArchiveReader;
use super::super::encode::{ARCHIVE_END_BYTES, member, padding};
use super::super::entry::{Entry, EntryKind, FileOwner, Modified};
use super::super::sparse::DataMap;
use super::super::unpack::unpack;
use super::*;

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    let (modified, ownership) = (Modified::default(), FileOwner::default());
    Entry { path: path.to_vec(), kind, mode: 0o755, ownership, modified, attributes: BTreeMap::new() }
}

fn file(path: &[u8]) -> Entry {
    entry(path, EntryKind::File { length: 1 })
}

fn root() -> Entry {
    entry(b"", EntryKind::Folder)
}

fn link(path: &[u8], target: &[u8]) -> Entry {
    entry(path, EntryKind::Link { target: target.to_vec() })
}

fn owned(path: &[u8], user: &str) -> Entry {
    Entry { ownership: FileOwner { user: user.to_owned(), ..FileOwner::default() }, ..file(path) }
}

fn same(path: &[u8], as_path: &[u8]) -> Entry {
    entry(path, EntryKind::SameAs { path: as_path.to_vec() })
}

/// These members, files with an `x` each, and the end.
fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let length = if let EntryKind::File { length } = entry.kind { length } else { 0 };
        bytes.extend(member(entry, &DataMap::whole(length)).unwrap());
        bytes.extend(vec![b'x'; length as usize]);
        bytes.extend(vec![0; padding(length)]);
    }
    bytes.extend([0; ARCHIVE_END_BYTES]);
    bytes
}

/// What a restore says of it. Nothing is ever written beside the folder.
fn restored(bytes: &[u8]) -> Result<Vec<String>> {
    let place = TempDir::new().unwrap();
    fs::create_dir(place.path().join("in")).unwrap();
    let unpacked = unpack(ArchiveReader::new(bytes), folder(&place.path().join("in")), &everything());
    let beside: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
    assert_eq!(beside.len(), 1, "{beside:?}");
    unpacked?;
    let mut names: Vec<String> = fs::read_dir(place.path().join("in"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

#[test]
fn what_leads_out_of_the_tree_is_refused() {
    let folder = |path: &[u8]| entry(path, EntryKind::Folder);
    assert_eq!(restored(&archive(&[root(), file(b"a"), same(b"b", b"a")])).unwrap(), ["a", "b"]);
    let attacks: Vec<(&str, Vec<Entry>)> = vec![
        ("an absolute path", vec![root(), file(b"/tmp/lifeboat-attack")]),
        ("a path upwards", vec![root(), file(b"../attack")]),
        ("a path upwards, later", vec![root(), folder(b"a"), file(b"a/../../attack")]),
        ("through a link", vec![root(), link(b"a", b".."), file(b"a/attack")]),
        ("a link in the place of a folder", vec![root(), folder(b"a"), link(b"a", b".."), file(b"a/attack")]),
        ("a folder in the place of a link", vec![root(), link(b"a", b".."), folder(b"a"), file(b"a/attack")]),
        ("a hard link to what is outside", vec![root(), same(b"a", b"../attack")]),
        ("a hard link to an absolute path", vec![root(), same(b"a", b"/etc/passwd")]),
        ("a hard link to what comes later", vec![root(), same(b"a", b"b"), file(b"b")]),
        ("a hard link through a link", vec![root(), link(b"a", b"/etc"), same(b"b", b"a/passwd")]),
        ("a hard link to a link", vec![root(), link(b"a", b"/etc/passwd"), same(b"b", b"a")]),
        ("a hard link to a folder", vec![root(), folder(b"a"), same(b"b", b"a")]),
        ("a file in the place of another name", vec![root(), file(b"a"), same(b"b", b"a"), file(b"b")]),
        ("a path twice", vec![root(), folder(b"a"), folder(b"a")]),
        ("another order", vec![root(), file(b"b"), file(b"a")]),
        ("no folder before", vec![root(), file(b"a/b")]),
        ("below a file", vec![root(), file(b"a"), file(b"a/b")]),
        ("no root", vec![file(b"a")]),
        ("the root twice", vec![root(), root()]),
        ("a root that is a link", vec![link(b"", b"/tmp")]),
        ("a long name", vec![root(), file(&[b'n'; 256])]),
        ("a NUL in a name", vec![root(), file(&[&[b'n'; 150][..], b"\0x"].concat())]),
        ("a NUL in an owner's name", vec![root(), owned(b"a", "a name that stands in a record\0root")]),
        ("a NUL in a target", vec![root(), link(b"a", &[&[b'n'; 150][..], b"\0x"].concat())]),
    ];
    for (attack, entries) in attacks {
        let Err(refused) = restored(&archive(&entries)) else { panic!("{attack} passed") };
        assert!(refused.class() == Class::Integrity || attack.starts_with("a hard link"), "{attack}: {refused:?}");
    }
    // A file that changed while it was read comes again.
    assert_eq!(restored(&archive(&[root(), file(b"a"), file(b"a")])).unwrap(), ["a"]);
    // What a restore holds of the folders that it is in.
    let large = |depth: usize, bytes: usize| {
        let mut folder = folder(vec!["d"; depth].join("/").as_bytes());
        folder.attributes.insert(b"user.x".to_vec(), vec![b'x'; bytes - 6]);
        folder
    };
    let reader = |folders: Vec<Entry>| {
        let bytes = archive(&folders);
        let mut reader = ArchiveReader::new(&bytes[..]);
        std::iter::from_fn(|| reader.next().transpose()).collect::<Result<Vec<_>>>()
    };
    let full: Vec<Entry> = (0..32).map(|depth| large(depth, 512 << 10)).collect();
    assert!(reader(full.clone()).is_ok());
    let beside = [full.clone(), vec![entry(b"e", EntryKind::Folder)]].concat();
    assert!(reader(beside).is_ok());
    let refused = reader([full, vec![large(32, 7)]].concat()).unwrap_err();
    assert!(refused.class() == Class::Integrity && refused.message().contains("16 MiB"), "{refused:?}");
    let mut deep: Vec<Entry> = (0..=256).map(|depth| folder(vec!["d"; depth].join("/").as_bytes())).collect();
    assert!(restored(&archive(&deep)).is_ok());
    deep.push(folder(vec!["d"; 257].join("/").as_bytes()));
    assert!(restored(&archive(&deep)).is_err());
}

#[test]
fn an_archive_that_is_cut_or_changed_anywhere_is_refused() {
    let mut attributes = file(b"with attributes");
    attributes.attributes.insert(b"user.a".to_vec(), b"1".to_vec());
    attributes.modified = Modified { seconds: -5, nanoseconds: 7 };
    let bytes = archive(&[root(), file(b"a"), attributes, link(&[b'z'; 120], b"a")]);
    assert!(restored(&bytes).is_ok());
    let read = |bytes: &[u8]| {
        let mut reader = ArchiveReader::new(bytes);
        while reader.next()?.is_some() {
            while reader.piece()?.is_some() {}
        }
        Ok::<_, lifeboat_base::Error>(())
    };
    for length in 0..bytes.len() {
        assert!(read(&bytes[..length]).is_err(), "cut to {length}");
    }
    assert!(read(&[&bytes[..], b"\0"].concat()).is_err(), "longer");
    // Content could be anything, and records could say something else: hashes of the vault tell.
    let begins = |at: usize, bytes_there: &[u8]| bytes[at..].starts_with(bytes_there);
    let is_free = |at: usize| {
        let block = at / 512 * 512;
        begins(block, b"x\0") && at == block || block > 0 && begins(block - 512, b"././@PaxHeader")
    };
    for at in 0..bytes.len() {
        for flip in [1, 0x20, 0x80] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            assert!(is_free(at) || read(&changed).is_err(), "bit {flip:x} of byte {at}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_before_they_are_read() {
    let mut huge = file(b"a");
    huge.kind = EntryKind::File { length: u64::MAX };
    let mut bytes = archive(&[root()]);
    bytes.truncate(512);
    bytes.extend(member(&huge, &DataMap::whole(u64::MAX)).unwrap());
    assert!(restored(&bytes).is_err());
    let mut records = tar::Header::new_ustar();
    records.set_entry_type(tar::EntryType::XHeader);
    records.set_size(1 << 40);
    records.set_cksum();
    let mut bytes = archive(&[root()]);
    bytes.truncate(512);
    bytes.extend(records.as_bytes());
    let refused = restored(&bytes).unwrap_err();
    assert!(refused.message().contains("records of a member are too long"), "{refused:?}");
}
