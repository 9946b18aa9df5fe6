//! Reads the extended attributes of an entry, no more than an archive can hold.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::acl;
use super::encode::MAX_RECORDS_BYTES;
use super::entry::{ACCESS_ACL, Attributes, DEFAULT_ACL, is_kept};

/// All attributes of one entry: with its other records, they fit into a member of an archive.
const MAX_ATTRIBUTES_BYTES: usize = MAX_RECORDS_BYTES - (64 << 10);
/// No attribute, and no list of their names, is longer on Linux.
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;

/// Those of what is open.
pub(super) fn attributes_of(opened: impl AsFd) -> io::Result<Attributes> {
    read_attributes(
        |list| rustix::fs::flistxattr(&opened, spare_capacity(list)),
        |name, value| rustix::fs::fgetxattr(&opened, name, spare_capacity(value)),
    )
}

/// Those of what must not be opened: it is named through the handle of its folder.
pub(super) fn attributes_of_unopened(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<Attributes> {
    let path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    let path = [path.as_slice(), name.as_bytes()].concat();
    read_attributes(
        |list| rustix::fs::llistxattr(path.as_slice(), spare_capacity(list)),
        |name, value| rustix::fs::lgetxattr(path.as_slice(), name, spare_capacity(value)),
    )
}

fn read_attributes(
    list: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut Vec<u8>) -> rustix::io::Result<usize>,
) -> io::Result<Attributes> {
    // Most entries have none, or their names are short.
    let mut names = Vec::with_capacity(1024);
    match list(&mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(Attributes::new()),
        Err(Errno::RANGE) => {
            names = Vec::with_capacity(MAX_ATTRIBUTE_BYTES);
            list(&mut names)?;
        }
        listed => drop(listed?),
    }
    let (mut attributes, mut bytes) = (Attributes::new(), 0);
    for name in names.split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        let mut value = Vec::with_capacity(MAX_ATTRIBUTE_BYTES);
        match get(name, &mut value) {
            // It was removed just now.
            Err(Errno::NODATA) => continue,
            got => drop(got?),
        }
        value.shrink_to_fit();
        // As a record: a list as text takes three times what it takes here, an odd name as well.
        let is_list = [ACCESS_ACL, DEFAULT_ACL].contains(&name);
        bytes += 32 + 3 * name.len() + if is_list { 3 * value.len() } else { value.len() };
        if bytes > MAX_ATTRIBUTES_BYTES {
            return Err(io::Error::other("its extended attributes are longer than 960 KiB"));
        }
        if is_list && acl::to_text(&value).is_none() {
            return Err(io::Error::other("its access control list is none"));
        }
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(names: &str, value: &[u8]) -> io::Result<usize> {
        let put = |into: &mut Vec<u8>, bytes: &[u8]| {
            into.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        read_attributes(|list| put(list, names.as_bytes()), |_, into| put(into, value)).map(|read| read.len())
    }

    #[test]
    fn attributes_that_no_archive_can_hold_are_refused() {
        let names = |count: usize| (0..count).map(|at| format!("user.{at:03}\0")).collect::<String>();
        let large = vec![b'x'; MAX_ATTRIBUTE_BYTES];
        assert_eq!(read(&names(14), &large).unwrap(), 14);
        let refused = read(&names(100), &large).unwrap_err();
        assert!(refused.to_string().contains("longer than 960 KiB"), "{refused}");
        assert!(read("system.posix_acl_access\0", b"no list").is_err());
    }
}
