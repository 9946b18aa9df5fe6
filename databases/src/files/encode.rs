//! Writes entries as members of a pax archive, which stock `tar` opens.
//!
//! An entry has one form and no other: the same entry gives the same bytes, so unchanged files are
//! found again in the vault, and a reader can refuse all that deviates. So there are no times of
//! access, no numbers of devices that hold the tree, and records only for what the header of a
//! member cannot say. Extended attributes are records of star (`SCHILY.…`), holes those of GNU tar.

use lifeboat_base::{Error, Result};
use tar::{EntryType, Header};

use super::entry::{ACCESS_ACL, DEFAULT_ACL, Entry, EntryKind, Modified, last_name, shown};
use super::sparse::DataMap;
use super::{BLOCK_BYTES, acl};

/// To be raised when the same entry gives other bytes, or another part of it is captured. Else what
/// did not change is taken over as it was written before.
pub(super) const ENCODING_VERSION: u32 = 1;

/// No records of one entry are longer: attributes, most of all.
pub(super) const MAX_RECORDS_BYTES: usize = 1 << 20;
/// The end of an archive.
pub(super) const ARCHIVE_END_BYTES: usize = 2 * BLOCK_BYTES;

/// A file with holes has this folder before its name, for readers that do not know holes. Its own
/// name is in a record.
const SPARSE_FOLDER: &[u8] = b"GNUSparseFile.0/";
const RECORDS_NAME: &[u8] = b"././@PaxHeader";
const MAX_HEADER_NAME_BYTES: usize = 100;
const MAX_HEADER_OWNER_BYTES: usize = 31;
const MAX_HEADER_ID: u32 = 0o7_777_777;
const MAX_HEADER_NUMBER: u64 = 0o77_777_777_777;

pub(super) const ACCESS_ACL_RECORD: &[u8] = b"SCHILY.acl.access";
pub(super) const DEFAULT_ACL_RECORD: &[u8] = b"SCHILY.acl.default";
pub(super) const ATTRIBUTE_RECORD: &[u8] = b"SCHILY.xattr.";

/// How many bytes follow content of this length, up to the next member.
pub(super) fn padding(length: u64) -> usize {
    (length.next_multiple_of(BLOCK_BYTES as u64) - length) as usize
}

/// What comes before the content of an entry. `data` says where the data of a file is.
///
/// # Errors
/// Its records are too long, or an access control list is none.
pub(super) fn member(entry: &Entry, data: &DataMap) -> Result<Vec<u8>> {
    let refused = |why: &str| {
        let what = format!("{} cannot be archived: {why}", shown(&entry.path));
        Err(Error::source_failed(what).hint("remove them if nobody needs them, or add the file to exclude"))
    };
    let path = name_in_archive(entry);
    let (mut records, mut map) = (Records::default(), Vec::new());
    let mut header = Header::new_ustar();
    let (mut name, mut target, mut size): (Vec<u8>, &[u8], u64) = (path.clone(), &[], 0);
    let mut device = None;
    header.set_entry_type(match &entry.kind {
        EntryKind::Folder => EntryType::Directory,
        EntryKind::File { length } => {
            size = *length;
            if !data.is_whole(*length) {
                map = data.to_blocks(*length);
                size = map.len() as u64 + data.bytes();
                name = [SPARSE_FOLDER, last_name(&path).as_encoded_bytes()].concat();
            }
            EntryType::Regular
        }
        EntryKind::SameAs { path } => {
            target = path;
            EntryType::Link
        }
        EntryKind::Link { target: leads_to } => {
            target = leads_to;
            EntryType::Symlink
        }
        EntryKind::Pipe => EntryType::Fifo,
        EntryKind::CharacterDevice { major, minor } => {
            device = Some((*major, *minor));
            EntryType::Char
        }
        EntryKind::BlockDevice { major, minor } => {
            device = Some((*major, *minor));
            EntryType::Block
        }
    });
    if map.is_empty() && name.len() > MAX_HEADER_NAME_BYTES {
        records.add(b"path", &name);
    }
    if target.len() > MAX_HEADER_NAME_BYTES {
        records.add(b"linkpath", target);
    }
    if size > MAX_HEADER_NUMBER {
        records.add(b"size", size.to_string().as_bytes());
    }
    let owner = &entry.ownership;
    for (key, id) in [(&b"uid"[..], owner.uid), (b"gid", owner.gid)] {
        if id > MAX_HEADER_ID {
            records.add(key, id.to_string().as_bytes());
        }
    }
    for (key, name) in [(&b"uname"[..], &owner.user), (b"gname", &owner.group)] {
        if name.len() > MAX_HEADER_OWNER_BYTES {
            records.add(key, name.as_bytes());
        }
    }
    let seconds = u64::try_from(entry.modified.seconds).ok().filter(|seconds| *seconds <= MAX_HEADER_NUMBER);
    if seconds.is_none() || entry.modified.nanoseconds != 0 {
        records.add(b"mtime", time_text(entry.modified).as_bytes());
    }
    if let EntryKind::File { length } = &entry.kind
        && !map.is_empty()
    {
        records.add(b"GNU.sparse.major", b"1");
        records.add(b"GNU.sparse.minor", b"0");
        records.add(b"GNU.sparse.name", &path);
        records.add(b"GNU.sparse.realsize", length.to_string().as_bytes());
    }
    for (key, attribute) in [(ACCESS_ACL_RECORD, ACCESS_ACL), (DEFAULT_ACL_RECORD, DEFAULT_ACL)] {
        if let Some(list) = entry.attributes.get(attribute) {
            let Some(text) = acl::to_text(list) else { return refused("its access control list is none") };
            records.add(key, text.as_bytes());
        }
    }
    for (name, value) in &entry.attributes {
        if ![ACCESS_ACL, DEFAULT_ACL].contains(&name.as_slice()) {
            records.add(&[ATTRIBUTE_RECORD, &escaped(name)].concat(), value);
        }
    }

    put_name(&mut header, &name);
    header.set_mode(entry.mode);
    header.set_uid(owner.uid.into());
    header.set_gid(owner.gid.into());
    header.set_mtime(seconds.unwrap_or_default());
    header.set_size(size);
    if let Some(fields) = header.as_ustar_mut() {
        put(&mut fields.linkname, target, MAX_HEADER_NAME_BYTES);
        put(&mut fields.uname, owner.user.as_bytes(), MAX_HEADER_OWNER_BYTES);
        put(&mut fields.gname, owner.group.as_bytes(), MAX_HEADER_OWNER_BYTES);
        if let Some((major, minor)) = device {
            fields.set_device_major(major);
            fields.set_device_minor(minor);
        }
    }
    header.set_cksum();
    if records.0.len() > MAX_RECORDS_BYTES {
        return refused("its extended attributes are longer than 1 MiB");
    }
    let mut bytes = records.into_blocks();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(map);
    Ok(bytes)
}

/// The path as archives write it: folders end with `/`.
fn name_in_archive(entry: &Entry) -> Vec<u8> {
    match (&entry.kind, entry.path.as_slice()) {
        (EntryKind::Folder, []) => b"./".to_vec(),
        (EntryKind::Folder, path) => [path, b"/"].concat(),
        (_, path) => path.to_vec(),
    }
}

/// An attribute's name in a record, whose own name ends at the first `=`.
fn escaped(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => escaped.extend(b"%25"),
            b'=' => escaped.extend(b"%3D"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

/// The name that [`escaped`] made this of.
pub(super) fn unescaped(name: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(name.len()), name);
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match rest {
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            [b'%', b'3', b'D', after @ ..] => (b'=', after),
            _ => (*byte, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain
}

/// A time in seconds, with nine decimals unless it is a whole number.
pub(super) fn time_text(Modified { seconds, nanoseconds }: Modified) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (0.., part) => format!("{seconds}.{part:09}"),
        (_, part) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - part),
    }
}

/// Records of one member, in the order in which they are added.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length += 1;
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// As a member of their own, in whole blocks; nothing if there are none.
    fn into_blocks(self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        put_name(&mut header, RECORDS_NAME);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.0.len() as u64);
        header.set_cksum();
        let mut blocks = header.as_bytes().to_vec();
        blocks.extend(self.0);
        blocks.resize(blocks.len().next_multiple_of(BLOCK_BYTES), 0);
        blocks
    }
}

fn put_name(header: &mut Header, name: &[u8]) {
    if let Some(fields) = header.as_ustar_mut() {
        put(&mut fields.name, name, MAX_HEADER_NAME_BYTES);
    }
}

/// Puts as much of `value` into a field as may stand there.
fn put(field: &mut [u8], value: &[u8], most: usize) {
    let value = &value[..value.len().min(most)];
    field[..value.len()].copy_from_slice(value);
}
