//! Files with several names: which one came first, as a walk meets them.
//!
//! Numbers of files are used again, so a file is told by when it was made, too. Memory is bounded
//! by [`MAX_LINKS_BYTES`]; beyond that, a file is taken for several, and that is told.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Stat, Statx, StatxFlags};
use rustix::io::Errno;

/// The paths of files whose other names were not met yet, and of those that were lost.
const MAX_LINKS_BYTES: usize = 64 << 20;

/// A file with several names, of which some were not met yet.
struct FirstName {
    path: Vec<u8>,
    identity: Identity,
    /// How many names were not met yet.
    left: usize,
}

/// What tells a file from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    number: u64,
    since: Since,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Since {
    /// When it was made.
    Made(i64, u32),
    /// Where the file system does not keep that: all that a change changes.
    Unchanged(FileStamp),
}

impl Identity {
    /// Of what is open, as `stat` tells it.
    pub(super) fn of(opened: impl AsFd, stat: &Stat) -> rustix::io::Result<Self> {
        let told = rustix::fs::statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME);
        Ok(Self::told(told, stat)?.0)
    }

    /// Of what is in a folder, and was just looked at; `None` if something else is there by now.
    pub(super) fn at(folder: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> rustix::io::Result<Option<Self>> {
        let wanted = StatxFlags::BTIME | StatxFlags::INO | StatxFlags::CTIME;
        let (identity, told) = Self::told(rustix::fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, wanted), stat)?;
        let is_same = |told: &Statx| {
            let changed = (told.stx_ctime.tv_sec, u64::from(told.stx_ctime.tv_nsec));
            told.stx_ino == stat.st_ino && changed == (stat.st_ctime, stat.st_ctime_nsec)
        };
        Ok(told.as_ref().is_none_or(is_same).then_some(identity))
    }

    fn told(told: rustix::io::Result<Statx>, stat: &Stat) -> rustix::io::Result<(Self, Option<Statx>)> {
        let told = match told {
            Err(Errno::NOSYS | Errno::PERM) => None,
            told => Some(told?),
        };
        let has_made = |told: &&Statx| StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::BTIME);
        let since = match told.as_ref().filter(has_made) {
            Some(told) => Since::Made(told.stx_btime.tv_sec, told.stx_btime.tv_nsec),
            None => Since::Unchanged(stamp(stat)),
        };
        Ok((Self { device: stat.st_dev, number: stat.st_ino, since }, told))
    }
}

/// The files with several names that a walk has met.
#[derive(Default)]
pub(super) struct Links {
    firsts: HashMap<(u64, u64), FirstName>,
    /// First names that were looked at and then not captured as the file that they were.
    lost: HashSet<Vec<u8>>,
    bytes: usize,
    /// Whether some that were lost are not in `lost`.
    lost_more: bool,
    /// Whether a file was taken for several, as too many have several names.
    pub(super) forgot: bool,
}

impl Links {
    /// The name under which this file came before.
    pub(super) fn first_name(&mut self, path: &[u8], stat: &Stat, identity: Identity) -> Option<Vec<u8>> {
        let key = (identity.device, identity.number);
        if let Some(first) = self.firsts.get_mut(&key).filter(|first| first.identity == identity) {
            let path = first.path.clone();
            first.left -= 1;
            if first.left == 0 {
                self.bytes -= path.len();
                self.firsts.remove(&key);
            }
            return Some(path);
        }
        if let Some(gone) = self.firsts.remove(&key) {
            self.bytes -= gone.path.len();
        }
        if !self.has_room(path) {
            self.forgot = true;
            return None;
        }
        self.bytes += path.len();
        let left = usize::try_from(stat.st_nlink).unwrap_or(usize::MAX) - 1;
        self.firsts.insert(key, FirstName { path: path.to_vec(), identity, left });
        None
    }

    /// Says that the file is not under its first name after all.
    pub(super) fn lose(&mut self, path: &[u8]) {
        if !self.has_room(path) {
            (self.lost_more, self.forgot) = (true, true);
        } else if self.lost.insert(path.to_vec()) {
            self.bytes += path.len();
        }
    }

    /// Whether another name may refer to this one.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        !self.lost_more && !self.lost.contains(path)
    }

    fn has_room(&self, path: &[u8]) -> bool {
        let held = (self.firsts.len() + self.lost.len()) * size_of::<((u64, u64), FirstName)>();
        self.bytes + path.len() + held <= MAX_LINKS_BYTES
    }
}

/// Size, and times of change to content and to properties.
type FileStamp = (i64, i64, u64, i64, u64);

/// What differs if a file was changed.
pub(super) fn stamp(stat: &Stat) -> FileStamp {
    (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
}

/// Whether both are of one file, which did not change in between.
pub(super) fn is_same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino, a.st_mode, stamp(a)) == (b.st_dev, b.st_ino, b.st_mode, stamp(b))
}
