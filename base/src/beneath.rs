//! Opens what lies below a folder, and follows no symbolic link on the way.
//!
//! Whoever may write into a folder may put links there, and swap folders for links while they are
//! looked at. The kernel resolves such a path by openat2. Where it cannot, or where a sandbox
//! refuses that call, as systemd's `RestrictSUIDSGID=` does, the path is walked name by name, which
//! follows as few links.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

const ON_THE_WAY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens `path`, which lies below `folder`, or is it if `path` is empty.
///
/// # Errors
/// `ELOOP` for a link on the way or at the end, `EXDEV` for a path that leads out of the folder,
/// and what opening a file fails with.
pub fn open_beneath(folder: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let (folder, flags) = (folder.as_fd(), flags | OFlags::CLOEXEC);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let whole = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(folder, whole, flags, mode, resolve) {
            // The kernel says so when something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => return walk(folder, path, flags, mode),
            opened => return Ok(opened?),
        }
    }
}

fn walk(folder: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(Errno::XDEV.into()),
        }
    }
    let Some((last, before)) = names.split_last() else {
        return Ok(rustix::fs::openat(folder, ".", flags, mode)?);
    };
    let mut at: Option<OwnedFd> = None;
    for name in before {
        let here = at.as_ref().map_or(folder, AsFd::as_fd);
        at = Some(open_name(here, name, ON_THE_WAY, Mode::empty())?);
    }
    open_name(at.as_ref().map_or(folder, AsFd::as_fd), last, flags, mode)
}

/// Opens an entry of `folder`.
fn open_name(folder: BorrowedFd<'_>, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let is_link = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    match rustix::fs::openat(folder, name, flags | OFlags::NOFOLLOW, mode) {
        // With O_DIRECTORY, a link is said to be no directory.
        Err(Errno::NOTDIR) if rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_link) => {
            Err(Errno::LOOP.into())
        }
        // With O_PATH, a link itself is opened.
        Ok(opened) if flags.contains(OFlags::PATH) && rustix::fs::fstat(&opened).is_ok_and(is_link) => {
            Err(Errno::LOOP.into())
        }
        opened => Ok(opened?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const READ: OFlags = OFlags::RDONLY;

    fn error(opened: io::Result<OwnedFd>) -> Option<Errno> {
        opened.err().as_ref().and_then(Errno::from_io_error)
    }

    #[test]
    fn the_kernel_and_the_walk_open_the_same_and_refuse_the_same() -> io::Result<()> {
        let place = tempfile::tempdir()?;
        let root = place.path().join("root");
        fs::create_dir_all(root.join("a/b"))?;
        fs::write(root.join("a/b/file"), "x")?;
        fs::write(place.path().join("outside"), "x")?;
        symlink("b", root.join("a/link"))?;
        symlink("../outside", root.join("out"))?;
        let folder = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        for path in ["", "a", "a/b", "a/b/file"] {
            for opened in both(&folder, path) {
                opened?;
            }
        }
        let missing = [("a/none", Errno::NOENT), ("none/file", Errno::NOENT), ("../outside", Errno::XDEV)];
        let links = [("out", Errno::LOOP), ("a/link", Errno::LOOP), ("a/link/file", Errno::LOOP)];
        let file = [("a/b/file/below", Errno::NOTDIR)];
        for (path, expected) in missing.into_iter().chain(links).chain(file) {
            for flags in [READ, READ | OFlags::DIRECTORY, OFlags::PATH] {
                for opened in with(&folder, path, flags) {
                    assert_eq!(error(opened), Some(expected), "{path} {flags:?}");
                }
            }
        }
        Ok(())
    }

    fn both(folder: &OwnedFd, path: &str) -> [io::Result<OwnedFd>; 2] {
        with(folder, path, READ)
    }

    fn with(folder: &OwnedFd, path: &str, flags: OFlags) -> [io::Result<OwnedFd>; 2] {
        let (path, mode) = (Path::new(path), Mode::empty());
        [open_beneath(folder, path, flags, mode), walk(folder.as_fd(), path, flags | OFlags::CLOEXEC, mode)]
    }
}
