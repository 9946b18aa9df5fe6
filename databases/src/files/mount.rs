//! Whether the file system that was configured is mounted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxAttributes, StatxFlags};

/// What tells a mount: whether it begins here, its device, and the number of the folder.
#[derive(Debug, Clone, Copy)]
struct MountPlace {
    is_mount_root: bool,
    device: (u32, u32),
    number: u64,
}

impl MountPlace {
    fn of(stat: &Statx) -> Self {
        let is_mount_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Self { is_mount_root, device: (stat.stx_dev_major, stat.stx_dev_minor), number: stat.stx_ino }
    }

    /// Whether a file system of its own begins here. systemd mounts folders onto themselves, for
    /// `ReadWritePaths=` and the like: these are of the same device as what holds them.
    fn begins_file_system(self, holder: Self) -> bool {
        let is_top = (self.device, self.number) == (holder.device, holder.number);
        self.is_mount_root && (is_top || self.device != holder.device)
    }
}

/// Why `mount` is not where the file system of `root` is mounted; `None` if it is.
pub(super) fn problem(mount: &OwnedFd, root: &OwnedFd, path: &Path) -> io::Result<Option<String>> {
    let holder = rustix::fs::openat(mount, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let (at, below) = (look(mount)?, look(root)?);
    if !MountPlace::of(&at).begins_file_system(MountPlace::of(&look(&holder)?)) {
        return Ok(Some("nothing is mounted there".to_owned()));
    }
    let is_other = at.stx_mnt_id != below.stx_mnt_id;
    Ok(is_other.then(|| format!("{} is in another one that is mounted below", path.display())))
}

fn look(folder: impl AsFd) -> io::Result<Statx> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    Ok(rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, wanted)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_mounted_onto_itself_is_no_file_system() {
        let place = |is_mount_root, minor, number| MountPlace { is_mount_root, device: (8, minor), number };
        let holder = place(false, 1, 77);
        assert!(place(true, 2, 2).begins_file_system(holder));
        assert!(!place(true, 1, 99).begins_file_system(holder));
        assert!(!place(false, 1, 99).begins_file_system(holder));
        assert!(place(true, 1, 2).begins_file_system(place(true, 1, 2)), "the top has no holder");
    }
}
