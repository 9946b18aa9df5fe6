//! The folders of what is reached from the root of a tree again, without following a link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lifeboat_base::beneath::open_beneath;
use rustix::fs::{Mode, OFlags};

use super::entry::as_path;

const HOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Folders below a root, one at a time.
pub(super) struct Holders {
    root: OwnedFd,
    /// The folder that was turned to last, and its path.
    holder: Option<(Vec<u8>, OwnedFd)>,
}

impl Holders {
    pub(super) fn below(root: OwnedFd) -> Self {
        Self { root, holder: None }
    }

    /// Opens another folder, unless it is the same.
    pub(super) fn turn_to(&mut self, path: &[u8]) -> io::Result<()> {
        if self.holder.as_ref().is_none_or(|(held, _)| held != path) {
            self.holder = None;
            let folder = open_beneath(&self.root, as_path(path), HOLDER, Mode::empty())?;
            self.holder = Some((path.to_vec(), folder));
        }
        Ok(())
    }

    /// The folder that was turned to last.
    pub(super) fn folder(&self) -> Option<BorrowedFd<'_>> {
        self.holder.as_ref().map(|(_, folder)| folder.as_fd())
    }
}
