//! A disk that is small: a tmpfs, which everybody can write to.
#![allow(clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::statvfs;

/// What stands in for the files of others.
const FILLER: &str = "filler";

/// A mounted tmpfs, which is unmounted when this is dropped. Mounting takes root, or `sudo` as for
/// `make setup`.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many bytes at `path`, which is made if it is missing.
    ///
    /// # Panics
    /// It cannot be mounted.
    #[must_use]
    pub fn mount(path: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(path).expect("a directory");
        let options = format!("size={bytes},mode=1777,uid={}", rustix::process::geteuid().as_raw());
        let done = as_root("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        let done = done.expect("mount runs");
        assert!(done.status.success(), "cannot mount a small tmpfs: {}", String::from_utf8_lossy(&done.stderr));
        Self(path.to_owned())
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fills it, but for so many bytes.
    ///
    /// # Panics
    /// It cannot be looked at.
    pub fn fill_but(&self, bytes: u64) {
        let disk = statvfs(&self.0).expect("a disk");
        let free = disk.f_bavail * disk.f_frsize;
        // To the last byte: what fits is written, the rest fails.
        let more = if bytes == 0 { 2 << 20 } else { 0 };
        let _ = std::fs::write(self.filler(), vec![0; usize::try_from(free - bytes + more).expect("a small disk")]);
    }

    /// Removes what filled it.
    ///
    /// # Panics
    /// Nothing filled it.
    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("the filler");
    }

    /// What else is on it.
    ///
    /// # Panics
    /// It cannot be listed.
    #[must_use]
    pub fn entries(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).expect("a disk");
        entries.flatten().map(|entry| entry.path()).filter(|path| *path != self.filler()).collect()
    }

    fn filler(&self) -> PathBuf {
        self.0.join(FILLER)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = as_root("umount").arg("-l").arg(&self.0).status();
    }
}

fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", program]);
    sudo
}
