//! What a tree consists of, as a walk finds it and as a stream describes it.
//!
//! Names and targets are bytes, as they need not be UTF-8. Entries have one order: a folder comes
//! before what is in it, and names of one folder are sorted by their bytes. So each path has one
//! place, and two trees are compared without holding either.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Folders lie no deeper in each other: a walk, and a restore, hold a handle for each.
pub(super) const MAX_TREE_DEPTH: usize = 256;
/// No name is longer, on any file system of Linux.
const MAX_ENTRY_NAME_BYTES: usize = 255;
/// No path is longer, so that whoever restores a tree can name all of it from the top: the kernel
/// takes 4095 bytes.
const MAX_TREE_PATH_BYTES: usize = 3500;
/// The attributes of a folder and of all that it lies in, together: a restore holds them until it
/// leaves the folder.
const MAX_HELD_ATTRIBUTES_BYTES: usize = 16 << 20;
/// No symbolic link names more.
const MAX_TARGET_BYTES: usize = 4095;

/// The bits of a mode that `chmod` takes.
pub(super) const MODE_BITS: u32 = 0o7777;
/// Those that let a program run as somebody else.
pub(super) const SETID_BITS: u32 = 0o6000;

/// The two access control lists that an entry can have, as the kernel names them.
pub(super) const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
pub(super) const CAPABILITIES: &[u8] = b"security.capability";
const USER_ATTRIBUTES: &[u8] = b"user.";
const TRUSTED_ATTRIBUTES: &[u8] = b"trusted.";

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    Folder,
    File {
        length: u64,
    },
    /// Another name of a file that came before.
    SameAs {
        path: Vec<u8>,
    },
    Link {
        target: Vec<u8>,
    },
    Pipe,
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// When an entry was changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Modified {
    /// Since 1970; before that, negative.
    pub(super) seconds: i64,
    /// Less than a second, and always added.
    pub(super) nanoseconds: u32,
}

/// Whose an entry is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileOwner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Empty where the machine knows no name.
    pub(super) user: String,
    pub(super) group: String,
}

/// Extended attributes by name, with access control lists as the kernel writes them.
pub(super) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Names below the root, joined by `/`. Empty: the root itself.
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    /// Some of [`MODE_BITS`].
    pub(super) mode: u32,
    pub(super) ownership: FileOwner,
    pub(super) modified: Modified,
    pub(super) attributes: Attributes,
}

/// What a folder's attributes and those of all that it lies in, which have so many bytes, take
/// together.
///
/// # Errors
/// Why that is too much.
pub(super) fn held_attributes(before: usize, attributes: &Attributes) -> Result<usize, &'static str> {
    let held = before + attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    match held <= MAX_HELD_ATTRIBUTES_BYTES {
        true => Ok(held),
        false => Err("its extended attributes, and those of the folders that it is in, are longer than 16 MiB"),
    }
}

/// Whether an attribute is captured. Others, such as labels of SELinux, follow from the system's
/// policy and not from the data.
pub(super) fn is_kept(attribute: &[u8]) -> bool {
    [ACCESS_ACL, DEFAULT_ACL, CAPABILITIES].contains(&attribute)
        || attribute.starts_with(USER_ATTRIBUTES)
        || attribute.starts_with(TRUSTED_ATTRIBUTES)
}

/// Whether an attribute lets a program do what its user may not, or is for the system alone.
pub(super) fn is_special(attribute: &[u8]) -> bool {
    attribute == CAPABILITIES || attribute.starts_with(TRUSTED_ATTRIBUTES)
}

/// The order of entries.
pub(super) fn order(a: &[u8], b: &[u8]) -> Ordering {
    // No name holds a NUL. So it can stand for the `/`, which comes before all names.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// The path of the folder that holds this entry; `None` for the root.
pub(super) fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => Some(&path[..at]),
        None if path.is_empty() => None,
        None => Some(&[]),
    }
}

/// The last name of a path.
pub(super) fn last_name(path: &[u8]) -> &OsStr {
    let from = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    OsStr::from_bytes(&path[from..])
}

/// Whether `path` is `folder`, or lies below it.
pub(super) fn is_within(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// A path as the file system takes it.
pub(super) fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// A path for people.
pub(super) fn shown(path: &[u8]) -> String {
    match path {
        [] => ".".to_owned(),
        path => String::from_utf8_lossy(path).escape_debug().to_string(),
    }
}

/// What is wrong with the path of an entry, if anything is.
pub(super) fn problem_of_path(path: &[u8]) -> Option<&'static str> {
    let names = || path.split(|byte| *byte == b'/');
    if path.is_empty() {
        return None;
    }
    if names().any(|name| matches!(name, b"" | b"." | b"..")) || path.contains(&0) {
        return Some("its path leads out of the tree");
    }
    if names().any(|name| name.len() > MAX_ENTRY_NAME_BYTES) {
        return Some("a name in its path is longer than 255 bytes");
    }
    if path.len() > MAX_TREE_PATH_BYTES {
        return Some("its path is longer than 3500 bytes");
    }
    (names().count() > MAX_TREE_DEPTH).then_some("it lies deeper than 256 folders")
}

/// What is wrong with the target of a symbolic link, if anything is. It may lead anywhere.
pub(super) fn problem_of_target(target: &[u8]) -> Option<&'static str> {
    (target.is_empty() || target.len() > MAX_TARGET_BYTES || target.contains(&0))
        .then_some("its target is no target of a symbolic link")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_before_its_entries_and_they_before_its_neighbours() {
        let sorted: [&[u8]; 7] = [b"", b"a", b"a/b", b"a/b/c", b"a/b-c", b"a.txt", b"b"];
        for (at, a) in sorted.iter().enumerate() {
            for (before, b) in sorted.iter().enumerate() {
                assert_eq!(order(a, b), at.cmp(&before), "{} {}", shown(a), shown(b));
            }
        }
    }

    #[test]
    fn only_paths_below_the_root_are_paths() {
        for bad in ["/etc/passwd", "..", "../x", "a/../x", "a//b", "a/", "./a", "a\0b", &"x".repeat(256)] {
            assert!(problem_of_path(bad.as_bytes()).is_some(), "{bad:?} passed");
        }
        for good in ["", "a", "a/b", "...", "a b", &"x".repeat(255), &vec!["d"; MAX_TREE_DEPTH].join("/")] {
            assert_eq!(problem_of_path(good.as_bytes()), None, "{good:?}");
        }
        assert!(problem_of_path(vec!["d"; MAX_TREE_DEPTH + 1].join("/").as_bytes()).is_some());
        let long = |bytes: usize| vec!["x".repeat(249); 14].join("/") + &"x".repeat(bytes - 14 * 250 + 1);
        assert_eq!((problem_of_path(long(3500).as_bytes()), long(3500).len()), (None, 3500));
        assert!(problem_of_path(long(3501).as_bytes()).is_some());
        assert!(is_within(b"a/b", b"a") && is_within(b"a", b"a") && is_within(b"x", b"") && !is_within(b"ab", b"a"));
        assert_eq!((parent(b""), parent(b"a"), parent(b"a/b")), (None, Some(&b""[..]), Some(&b"a"[..])));
    }
}
