//! The parts in which a scrub walks through a replica, and what belongs into each.
//!
//! A part is a prefix of keys that is short enough to be listed again for each piece of work. The
//! packs of a dataset are 256 parts. The order never changes, as a scrub remembers how far it came.

use lifeboat_format::act::MAX_ACT_BYTES;
use lifeboat_format::id::{Name, PackId};
use lifeboat_format::index::MAX_INDEX_OBJECT_BYTES;
use lifeboat_format::info::MAX_VAULT_INFO_BYTES;
use lifeboat_format::keyring::MAX_KEYRING_OBJECT_BYTES;
use lifeboat_format::layout;
use lifeboat_format::manifest::MAX_MANIFEST_OBJECT_BYTES;
use lifeboat_format::needs::MAX_NEEDS_BYTES;
use lifeboat_format::pack::MAX_PACK_BYTES;
use lifeboat_format::record::MAX_RECORD_BYTES;
use lifeboat_format::veto::MAX_VETO_BYTES;

/// The parts that hold no packs come first.
pub(super) const SMALL_PARTS: usize = 9;
const PACK_PARTS: usize = 256;
/// A round of the scrub goes through so many parts. Each reader looks for roots by itself.
pub(super) const PARTS: usize = SMALL_PARTS + PACK_PARTS;
/// A round of locks goes on with the roots, and with what wardens go by.
const ROOT_PART: usize = PARTS;
const NEEDS_PART: usize = PARTS + 1;
const VETO_PART: usize = PARTS + 2;
pub(in crate::keep) const LOCK_PARTS: usize = VETO_PART + 1;

/// What the keys of a part begin with. `None`: it belongs to the vault, and this dataset is not the
/// one with which the vault is scrubbed.
pub(in crate::keep) fn prefix(dataset: &Name, part: usize, with_vault: bool) -> Option<String> {
    Some(match part {
        0 => layout::keyring(dataset),
        1 => layout::order(dataset),
        2 => layout::snapshots(dataset),
        3 => layout::indexes(dataset),
        4 => layout::prunes(dataset),
        5 => layout::marks(dataset),
        6 => layout::drills(dataset),
        7 if with_vault => layout::HOSTS.to_owned(),
        8 if with_vault => format!("{}hosts/", layout::KEYRING),
        ROOT_PART if with_vault => layout::ROOTS.to_owned(),
        NEEDS_PART => layout::all_needs(dataset),
        VETO_PART => layout::vetoes(dataset),
        7 | 8 | ROOT_PART => return None,
        pack => format!("{}{:02x}/", layout::packs(dataset), pack - SMALL_PARTS),
    })
}

/// As [`prefix`], for a round of locks, which goes through the vault with each dataset. Where there
/// is no warden, nobody writes what one goes by.
pub(in crate::keep) fn lock_prefix(dataset: &Name, part: usize, has_warden: bool) -> Option<String> {
    match part {
        NEEDS_PART | VETO_PART if !has_warden => None,
        part => prefix(dataset, part, true),
    }
}

/// How an object shows that it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keep) enum Proof {
    /// Its key is the hash of its content.
    Name(PackId),
    /// A trusted signer signed it: the signature is beside it.
    Signature,
    /// It is an act of this number, and holds a signature.
    Act(u64),
    /// It is another line with its signature behind it.
    Line,
    /// None but other copies. It is this host's own if it is of this generation.
    Keyring(u32),
    /// None but other copies, and its form.
    Copies,
}

/// How the object with this key shows that it is whole, and how long it can be, in bytes. `None`:
/// it is of no known kind, or belongs to another object.
pub(in crate::keep) fn proof(dataset: &Name, key: &str) -> Option<(Proof, u64)> {
    let record = |folder: String| layout::parse_json(&folder, key).is_some();
    if let Some(pack) = layout::parse_pack(dataset, key) {
        Some((Proof::Name(pack), MAX_PACK_BYTES))
    } else if let Some(number) = layout::parse_act(dataset, key) {
        Some((Proof::Act(number), MAX_ACT_BYTES as u64))
    } else if layout::parse_needs(dataset, key).is_some() {
        Some((Proof::Line, MAX_NEEDS_BYTES as u64))
    } else if layout::parse_veto(dataset, key).is_some() {
        Some((Proof::Line, MAX_VETO_BYTES as u64))
    } else if layout::parse_manifest(dataset, key).is_some() {
        Some((Proof::Signature, MAX_MANIFEST_OBJECT_BYTES))
    } else if layout::parse_index(dataset, key).is_some() {
        Some((Proof::Signature, MAX_INDEX_OBJECT_BYTES))
    } else if [layout::prunes, layout::marks, layout::drills].into_iter().any(|folder| record(folder(dataset))) {
        Some((Proof::Signature, MAX_RECORD_BYTES as u64))
    } else if let Some(generation) = layout::parse_keyring_generation(dataset, key) {
        Some((Proof::Keyring(generation), MAX_KEYRING_OBJECT_BYTES as u64))
    } else if layout::parse_host_identity(key).is_some() {
        Some((Proof::Copies, MAX_KEYRING_OBJECT_BYTES as u64))
    } else if layout::parse_host(key).is_some() || key == layout::VAULT {
        Some((Proof::Copies, MAX_VAULT_INFO_BYTES as u64))
    } else {
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use lifeboat_format::id::SnapshotId;

    #[test]
    fn every_object_of_a_dataset_lies_in_one_part() {
        let shop: Name = "shop".parse().unwrap();
        let id: SnapshotId = "20261123T183244123Z-9f2c81aa".parse().unwrap();
        let keys = [
            layout::pack(&shop, &PackId::of(b"x")),
            layout::act(&shop, 7),
            layout::manifest(&shop, &id),
            layout::index(&shop, &id),
            layout::prune(&shop, &id),
            layout::mark(&shop, &id),
            layout::drill(&shop, &id),
            layout::keyring_generation(&shop, 1),
            layout::host(&shop),
            layout::host_identity(&shop),
        ];
        for key in keys {
            let holds = |part: &usize| prefix(&shop, *part, true).is_some_and(|prefix| key.starts_with(&prefix));
            assert_eq!((0..PARTS).filter(holds).count(), 1, "{key}");
            assert!(proof(&shop, &key).is_some(), "{key}");
            assert!(proof(&shop, &layout::signature(&key)).is_none(), "{key}");
        }
        let root = layout::root(3);
        let is_in = |part: &usize| prefix(&shop, *part, true).is_some_and(|prefix| root.starts_with(&prefix));
        assert_eq!((0..LOCK_PARTS).filter(is_in).collect::<Vec<_>>(), [PARTS]);
        for (key, at) in [(layout::needs(&shop, &id), 1), (layout::veto(&shop, &id, &shop), 2)] {
            let is_in = |part: &usize| prefix(&shop, *part, true).is_some_and(|prefix| key.starts_with(&prefix));
            assert_eq!((0..LOCK_PARTS).filter(is_in).collect::<Vec<_>>(), [PARTS + at]);
            assert_eq!(lock_prefix(&shop, PARTS + at, true), prefix(&shop, PARTS + at, true));
            assert_eq!(proof(&shop, &key).map(|(proof, _)| proof), Some(Proof::Line), "{key}");
        }
        // Without a warden, locks ask for what they always did.
        let without = (0..LOCK_PARTS).filter(|part| lock_prefix(&shop, *part, false).is_some());
        assert_eq!(without.collect::<Vec<_>>(), (0..=ROOT_PART).collect::<Vec<_>>());
        for key in [layout::lease(&shop), "datasets/shop/packs/aa/x".to_owned(), "probe/x".to_owned()] {
            assert_eq!(proof(&shop, &key), None, "{key}");
        }
    }
}
