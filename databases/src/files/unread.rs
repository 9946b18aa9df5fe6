//! When a file that looks as it did need not be read.
//!
//! Every change of a file sets its time of change (ctime) to the kernel's clock, which nobody can
//! set otherwise. There are exceptions, so a capture trusts no times
//!
//! - on file systems that are not known to keep that promise: those of networks, whose times
//!   another machine sets and a cache may hide, and `tmpfs`, where a change by a mapping sets no
//!   time while its page is dirty;
//! - of what is not in the file system of the root;
//! - of pages that were mapped and dirty when it began: they are written out first, so that a later
//!   change of them sets the time;
//! - near the moment at which the capture before began: whoever takes a fingerprint knows when that
//!   was ([`StreamFingerprint::settled`](crate::streams::StreamFingerprint)).
//!
//! None is trusted for longer than `read_all_every`: what was read wrongly once, or changed behind
//! the file system, is found by then. It trusts none at all if the configuration says so. What it
//! reads then has fingerprints all the same, for the next capture that trusts them.

use std::os::fd::OwnedFd;

use super::encode::ENCODING_VERSION;
use super::settings::FilesConfig;
use super::shard::Shard;
use crate::streams::StreamFingerprint;

/// Numbers of file systems (`statfs`) that set the time of change with every change.
const TRUSTED_FILE_SYSTEMS: [u64; 5] = [
    // ext2, ext3, ext4
    0xEF53,
    // XFS
    0x5846_5342,
    // Btrfs
    0x9123_683E,
    // F2FS
    0xF2F5_2010,
    // ZFS
    0x2FC1_2FC1,
];
/// Changes if the form of fingerprints does.
const FINGERPRINT_FORM: &[u8] = b"lifeboat files 1";

/// What tells streams that need not be read.
pub(super) struct Unread {
    /// The file system whose times are trusted.
    device: Option<u64>,
    /// Whether a stream may be taken over by them.
    pub(super) takes_over: bool,
    /// What all fingerprints depend on.
    pub(super) context: Vec<u8>,
    /// In seconds.
    read_every: u64,
}

impl Unread {
    /// Writes out what is dirty, where times are trusted and fingerprints `are_kept`. Must be
    /// called before anything is looked at, by the thread that looks.
    pub(super) fn of(config: &FilesConfig, root: &OwnedFd, are_kept: bool) -> Self {
        let is_trusted = |found: rustix::fs::StatFs| TRUSTED_FILE_SYSTEMS.contains(&(found.f_type as u64));
        let trusted = are_kept && rustix::fs::fstatfs(root).is_ok_and(is_trusted);
        let mut context = FINGERPRINT_FORM.to_vec();
        let users = [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()];
        [ENCODING_VERSION].into_iter().chain(users).for_each(|number| context.extend(number.to_le_bytes()));
        // Some attributes are shown only to who has a capability.
        let capabilities = rustix::thread::capabilities(None).map(|sets| sets.effective.bits());
        context.extend(capabilities.unwrap_or_default().to_le_bytes());
        context.extend_from_slice(config.path.as_os_str().as_encoded_bytes());
        context.push(0);
        let device = rustix::fs::fstat(root).ok().map(|stat| stat.st_dev);
        let device = device.filter(|_| trusted && capabilities.is_ok() && rustix::fs::syncfs(root).is_ok());
        Self { device, takes_over: config.trust_times, context, read_every: config.read_all_every.as_secs() }
    }

    /// What tells whether these entries are as they were; `None` if nothing does.
    pub(super) fn fingerprint(&self, shard: &Shard, is_last: bool) -> Option<StreamFingerprint> {
        shard.fingerprint((&self.context, self.read_every), self.device?, is_last)
    }
}
