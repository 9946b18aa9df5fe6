//! Whether a directory to restore into holds something already.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::Dir;

/// Whether there is an entry in it.
pub(crate) fn is_occupied(folder: &OwnedFd) -> io::Result<bool> {
    for entry in Dir::read_from(folder)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(true);
        }
    }
    Ok(false)
}
