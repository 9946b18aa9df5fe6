//! What a restore makes of an entry: what it was asked for, and no right that nobody asked for.

use super::acl;
use super::entry::{ACCESS_ACL, DEFAULT_ACL, Entry, EntryKind, MODE_BITS, SETID_BITS, is_special};
use crate::wanted::TreeWanted;

/// An entry as it is made, and what it lacks.
pub(super) struct Reduced {
    pub(super) entry: Entry,
    /// Bits of its mode, or attributes, that let a program do more than its user may.
    pub(super) lost_special: bool,
    /// An access control list. It names users and groups, as owners do.
    pub(super) lost_list: bool,
}

/// What a restore of `wanted` makes of this entry.
pub(super) fn reduced(stored: &Entry, wanted: &TreeWanted) -> Reduced {
    let mut entry = stored.clone();
    let (mut lost_special, mut lost_list) = (false, false);
    // A symbolic link has no mode of its own.
    if matches!(entry.kind, EntryKind::Link { .. }) {
        entry.mode = 0;
    }
    if !wanted.owners {
        let is_list = |name: &[u8]| [ACCESS_ACL, DEFAULT_ACL].contains(&name);
        if let Some(list) = entry.attributes.get(ACCESS_ACL) {
            entry.mode = acl::mode_without(list, entry.mode);
        }
        let before = entry.attributes.len();
        entry.attributes.retain(|name, _| !is_list(name));
        lost_list = entry.attributes.len() < before;
    }
    if !wanted.special {
        let before = entry.attributes.len();
        entry.attributes.retain(|name, _| !is_special(name));
        lost_special = before != entry.attributes.len();
    }
    // Such bits let a program run as its owner: as root, if root restores and keeps the file.
    if !(wanted.special && wanted.owners) {
        lost_special |= entry.mode & SETID_BITS != 0;
        entry.mode &= MODE_BITS & !SETID_BITS;
    }
    Reduced { entry, lost_special, lost_list }
}
